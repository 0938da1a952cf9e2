//! One peer connection: handshake, one reader task, one writer task.
//!
//! The reader turns bytes into batches of frames for the driver; a block takes its share of the receive budget
//! with it until storage has it, so a fast peer waits when the disk is slow. The writer turns the driver's
//! [`Outgoing`]s into bytes and reads blocks from storage just before they leave.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use futures::FutureExt;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;
use tracing::debug;

use super::driver::Event;
use super::storage::TorrentStorage;
use crate::transports::{ByteStream, PeerStream};
use crate::types::{BLOCK_LEN, BlockSpan, ConnId, PeerAddr, PeerIdentity, SwarmId, TorrentKey};
use crate::wire::{self, Decoder, Frame, HANDSHAKE_LEN, Handshake, HashRequest, Message};

/// How long a handshake may take, each way.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a write may make no progress before the connection is given up.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);
/// Bytes that are gathered from the socket before the driver hears of them.
const READ_BATCH_BYTES: usize = 256 * 1024;
/// Bytes that are gathered for the socket before they are written.
const WRITE_BATCH_BYTES: usize = 256 * 1024;
/// Messages that are taken from the queue at once; their blocks are read together.
const WRITE_BATCH_MESSAGES: usize = WRITE_BATCH_BYTES / BLOCK_LEN as usize;
/// Messages that may wait for a writer. What the engine sends unasked is small and bounded by the torrent's
/// pieces; a peer that lets this many pile up is not reading.
pub(super) const WRITER_QUEUE: usize = 16 * 1024;

/// A connection whose handshake is done.
pub(super) struct Established {
    pub(super) torrent: TorrentKey,
    pub(super) addr: PeerAddr,
    pub(super) identity: PeerIdentity,
    pub(super) handshake: Handshake,
    pub(super) outgoing: bool,
    pub(super) io: Box<dyn ByteStream>,
}

/// Something for a writer task to send.
#[derive(Debug)]
pub(super) enum Outgoing {
    Message(Message),
    Block(BlockSpan),
    Hashes(HashRequest),
}

/// A frame on its way to the driver.
pub(super) enum Incoming {
    Message(Message),
    Block(ReceivedBlock),
}

/// A block's payload, with its share of the receive budget.
pub(super) struct ReceivedBlock {
    pub(super) span: BlockSpan,
    pub(super) data: Bytes,
    pub(super) permit: OwnedSemaphorePermit,
}

/// A handshake to dial with.
#[derive(Clone, Debug)]
pub(super) struct Greeting {
    pub(super) handshake: Handshake,
    /// The swarm of the v2 infohash of a hybrid torrent, if a peer of the v1 swarm may answer with it (BEP 52).
    pub(super) upgrade: Option<SwarmId>,
}

/// Shakes hands on a stream that this side opened.
pub(super) async fn greet(mut stream: PeerStream, torrent: TorrentKey, own: &Greeting) -> io::Result<Established> {
    let Greeting { handshake: own, upgrade } = own;
    let swarm = own.swarm;
    let handshake = exchange(async {
        stream.io.write_all(&own.encode()).await?;
        stream.io.flush().await?;
        read_handshake(&mut stream.io).await
    })
    .await?;
    if handshake.swarm != swarm && *upgrade != Some(handshake.swarm) {
        return Err(invalid(format!("expected a handshake for swarm {swarm}, got one for {}", handshake.swarm)));
    }
    Ok(established(stream, torrent, handshake, true))
}

/// Shakes hands on a stream that a peer opened; `find` says which torrent a handshake is for, and what to answer. The
/// connection is then in the swarm of the answer.
pub(super) async fn welcome(
    mut stream: PeerStream,
    find: impl Fn(&Handshake) -> Option<(TorrentKey, Handshake)>,
) -> io::Result<Established> {
    let (torrent, handshake) = exchange(async {
        let handshake = read_handshake(&mut stream.io).await?;
        let (torrent, own) =
            find(&handshake).ok_or_else(|| invalid(format!("swarm {} is not served here", handshake.swarm)))?;
        stream.io.write_all(&own.encode()).await?;
        stream.io.flush().await?;
        Ok((torrent, Handshake { swarm: own.swarm, ..handshake }))
    })
    .await?;
    Ok(established(stream, torrent, handshake, false))
}

fn established(stream: PeerStream, torrent: TorrentKey, handshake: Handshake, outgoing: bool) -> Established {
    let PeerStream { io, addr, identity } = stream;
    Established { torrent, addr, identity, handshake, outgoing, io }
}

async fn exchange<T>(steps: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(HANDSHAKE_TIMEOUT, steps).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

async fn read_handshake(io: &mut (impl AsyncRead + Unpin)) -> io::Result<Handshake> {
    let mut bytes = [0; HANDSHAKE_LEN];
    io.read_exact(&mut bytes).await?;
    Handshake::decode(&bytes)
        .map_err(|error| invalid(error.to_string()))?
        .ok_or_else(|| invalid(format!("expected a handshake of {HANDSHAKE_LEN} bytes, got less")))
}

fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

/// Reads frames until the stream ends or breaks the protocol, then says that the connection is over.
pub(super) async fn read_frames(
    conn: ConnId,
    mut io: ReadHalf<Box<dyn ByteStream>>,
    mut decoder: Decoder,
    budget: Arc<Semaphore>,
    events: mpsc::Sender<Event>,
) {
    let outcome = pump_frames(conn, &mut io, &mut decoder, &budget, &events).await;
    debug!(conn = conn.0, ?outcome, "connection ended");
    // The driver may be gone, and with it everyone who would care.
    let _ = events.send(Event::Gone { conn }).await;
}

async fn pump_frames(
    conn: ConnId,
    io: &mut ReadHalf<Box<dyn ByteStream>>,
    decoder: &mut Decoder,
    budget: &Arc<Semaphore>,
    events: &mpsc::Sender<Event>,
) -> io::Result<()> {
    loop {
        let mut frames = Vec::new();
        while let Some(frame) = decoder.next_frame().map_err(|error| invalid(error.to_string()))? {
            frames.push(admit(frame, budget).await?);
        }
        if !frames.is_empty() && events.send(Event::Frames { conn, frames }).await.is_err() {
            return Ok(());
        }
        if !fill(io, decoder).await? {
            return Ok(());
        }
    }
}

/// Waits until the budget has room for a block.
async fn admit(frame: Frame, budget: &Arc<Semaphore>) -> io::Result<Incoming> {
    let (span, data) = match frame {
        Frame::Message(message) => return Ok(Incoming::Message(message)),
        Frame::Piece { span, data } => (span, data),
    };
    let shares = (data.len() as u32).div_ceil(BLOCK_LEN).max(1);
    let permit = budget.clone().acquire_many_owned(shares).await.map_err(|_| io::ErrorKind::BrokenPipe)?;
    Ok(Incoming::Block(ReceivedBlock { span, data, permit }))
}

/// Gives the decoder what the stream has, waiting for the first byte only. False at the end of the stream.
async fn fill(io: &mut ReadHalf<Box<dyn ByteStream>>, decoder: &mut Decoder) -> io::Result<bool> {
    if io.read_buf(decoder.buffer()).await? == 0 {
        return Ok(false);
    }
    while decoder.buffered() < READ_BATCH_BYTES {
        match io.read_buf(decoder.buffer()).now_or_never() {
            None | Some(Ok(0)) => break,
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(error),
        }
    }
    Ok(true)
}

/// Where a writer finds the blocks that it sends: nothing while only the id of a torrent is known.
pub(super) type StorageSlot = Arc<std::sync::OnceLock<Arc<TorrentStorage>>>;

/// Writes what the driver queues until the queue or the stream ends.
pub(super) async fn write_queue(
    conn: ConnId,
    io: WriteHalf<Box<dyn ByteStream>>,
    mut queue: mpsc::Receiver<Outgoing>,
    storage: StorageSlot,
    events: mpsc::Sender<Event>,
) {
    let mut writer = Writer { conn, io, storage, events, buffer: BytesMut::new(), sent: Vec::new() };
    let outcome = writer.run(&mut queue).await;
    debug!(conn = conn.0, ?outcome, "writer ended");
    let _ = timeout(HANDSHAKE_TIMEOUT, writer.io.shutdown()).await;
    let _ = writer.events.send(Event::Gone { conn }).await;
}

struct Writer {
    conn: ConnId,
    io: WriteHalf<Box<dyn ByteStream>>,
    storage: StorageSlot,
    events: mpsc::Sender<Event>,
    buffer: BytesMut,
    sent: Vec<(BlockSpan, bool)>,
}

impl Writer {
    async fn run(&mut self, queue: &mut mpsc::Receiver<Outgoing>) -> io::Result<()> {
        let mut batch = Vec::with_capacity(WRITE_BATCH_MESSAGES);
        while queue.recv_many(&mut batch, WRITE_BATCH_MESSAGES).await > 0 {
            self.append(&mut batch).await;
            self.write_out().await?;
        }
        Ok(())
    }

    /// Puts what is in `batch` into the buffer, in its order.
    async fn append(&mut self, batch: &mut Vec<Outgoing>) {
        let spans = batch.iter().filter_map(|outgoing| match outgoing {
            Outgoing::Block(span) => Some(*span),
            Outgoing::Message(_) | Outgoing::Hashes(_) => None,
        });
        let mut blocks = load(self.storage.get().cloned(), spans.collect()).await.into_iter();
        for outgoing in batch.drain(..) {
            match outgoing {
                Outgoing::Message(message) => wire::encode(&message, &mut self.buffer),
                Outgoing::Block(span) => {
                    let block = blocks.next().flatten();
                    if let Some(data) = &block {
                        self.buffer.extend_from_slice(&wire::encode_piece_header(span));
                        self.buffer.extend_from_slice(data);
                        // What is asked for of the gap behind a file.
                        self.buffer.put_bytes(0, (span.len as usize).saturating_sub(data.len()));
                    }
                    self.sent.push((span, block.is_some()));
                }
                Outgoing::Hashes(request) => {
                    let answer = prove(self.storage.get().cloned(), request).await;
                    wire::encode(&answer, &mut self.buffer);
                }
            }
        }
    }

    async fn write_out(&mut self) -> io::Result<()> {
        let write = async {
            while !self.buffer.is_empty() {
                self.io.write_buf(&mut self.buffer).await?;
            }
            self.io.flush().await
        };
        timeout(WRITE_TIMEOUT, write).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        self.buffer.reserve(WRITE_BATCH_BYTES);
        if !self.sent.is_empty() {
            let blocks = std::mem::take(&mut self.sent);
            let _ = self.events.send(Event::Written { conn: self.conn, blocks }).await;
        }
        Ok(())
    }
}

/// The blocks that are verified and can be read, in the order of `spans`: from the page cache at once, else on a
/// blocking thread, all that are left in one go.
async fn load(storage: Option<Arc<TorrentStorage>>, spans: Vec<BlockSpan>) -> Vec<Option<Bytes>> {
    let Some(storage) = storage else { return vec![None; spans.len()] };
    let layout = storage.metainfo().layout();
    let spans: Vec<_> = spans.into_iter().map(|span| layout.without_gap(span)).collect();
    let mut blocks = Vec::with_capacity(spans.len());
    for run in spans.chunk_by(follows) {
        match load_run_nowait(&storage, run) {
            Some(loaded) => blocks.extend(loaded),
            None => break,
        }
    }
    let rest = spans[blocks.len()..].to_vec();
    if !rest.is_empty() {
        let read = move || rest.chunk_by(follows).flat_map(|run| load_run(&storage, run)).collect::<Vec<_>>();
        blocks.extend(tokio::task::spawn_blocking(read).await.unwrap_or_default());
    }
    blocks.resize(spans.len(), None);
    blocks
}

/// Whether the second block lies right behind the first in the same piece.
fn follows(first: &BlockSpan, second: &BlockSpan) -> bool {
    first.piece == second.piece && first.end() == u64::from(second.begin)
}

/// Blocks that follow each other as one span.
fn whole(run: &[BlockSpan]) -> Option<BlockSpan> {
    Some(BlockSpan { len: run.iter().map(|span| span.len).sum(), ..*run.first()? })
}

/// Cuts what was read of a run into its blocks.
fn cut(run: &[BlockSpan], mut bytes: Bytes) -> Vec<Option<Bytes>> {
    run.iter().map(|span| Some(bytes.split_to(span.len as usize))).collect()
}

/// Blocks that follow each other, if all of them are in memory.
fn load_run_nowait(storage: &TorrentStorage, run: &[BlockSpan]) -> Option<Vec<Option<Bytes>>> {
    let bytes = storage.read_block_nowait(whole(run)?).ok().flatten()?;
    Some(cut(run, bytes))
}

/// Blocks that follow each other, read at once where all can be read.
fn load_run(storage: &TorrentStorage, run: &[BlockSpan]) -> Vec<Option<Bytes>> {
    if let Some(whole) = whole(run)
        && run.len() > 1
        && let Some(bytes) = readable(whole, storage.read_block(whole))
    {
        return cut(run, bytes);
    }
    run.iter().map(|span| readable(*span, storage.read_block(*span))).collect()
}

fn readable(span: BlockSpan, read: io::Result<Option<Bytes>>) -> Option<Bytes> {
    read.unwrap_or_else(|error| {
        debug!(?span, %error, "block not readable");
        None
    })
}

async fn prove(storage: Option<Arc<TorrentStorage>>, request: HashRequest) -> Message {
    let hashes = tokio::task::spawn_blocking(move || super::proofs::answer(&*storage?, &request)).await;
    match hashes {
        Ok(Some(hashes)) => Message::Hashes { request, hashes },
        Ok(None) | Err(_) => Message::HashReject(request),
    }
}
