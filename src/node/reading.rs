//! A torrent for programs: its files as `AsyncRead + AsyncSeek`, its pieces in order, and how far it is.
//!
//! ```no_run
//! use std::sync::Arc;
//! use knot::node::{Node, NodeConfig, api::AddRequest, api::TorrentName, mount::NoMounts};
//! use tokio::io::{AsyncReadExt, AsyncSeekExt};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let config = NodeConfig { store: "store".into(), cache_bytes: 10 << 30, ..NodeConfig::default() };
//! let node = Node::start(config, Arc::new(NoMounts)).await?;
//! let request = AddRequest::new(TorrentName::Magnet("magnet:?xt=urn:btih:…".into()));
//! let torrent = node.handle().open(request, tokio::sync::mpsc::channel(1).0).await?;
//!
//! let mut film = torrent.open("film.mkv")?;
//! film.seek(std::io::SeekFrom::Start(1 << 30)).await?;
//! let mut head = [0; 4096];
//! film.read_exact(&mut head).await?; // fetched just now, and verified
//!
//! let mut pieces = torrent.pieces();
//! while let Some(piece) = pieces.next_piece().await {
//!     let (index, bytes) = piece?;
//!     println!("piece {} has {} bytes", index.0, bytes.len());
//! }
//! # Ok(())
//! # }
//! ```

use std::io::{self, SeekFrom};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncSeek, ReadBuf};
use tokio::sync::oneshot;

use super::api::{ApiError, ErrorKind};
use super::get::read;
use super::handle::{NodeHandle, Torrent};
use crate::metainfo::{Metainfo, Part};
use crate::types::{BlockSpan, FileIndex, PieceIndex, ReaderId};
use crate::vfs::{Content, ContentError};

/// Bytes that one read of a file asks for at most: as much as the kernel does for a mount.
const READ_LEN: u64 = 512 << 10;
/// Bytes that the first read after a seek asks for, unless its buffer is larger: whoever jumps about wants little.
const FIRST_LEN: u64 = 16 << 10;
/// Between two looks how far a torrent is.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(250);

impl Torrent {
    /// The file at `path`, to be read while it arrives.
    ///
    /// # Errors
    /// When the torrent has no such file.
    pub fn open(&self, path: &str) -> Result<TorrentFile, ApiError> {
        let entries = self.metainfo.entries().iter().zip(0..);
        let found = entries.filter(|(entry, _)| entry.is_file()).find(|(entry, _)| entry.path.as_str() == path);
        let Some((entry, index)) = found else {
            return Err(ApiError {
                kind: ErrorKind::Usage,
                message: format!("expected the path of a file of {:?}, got {path:?}", self.info.name),
            });
        };
        let (file, content) = (FileIndex(index), self.content.clone());
        let reader = content.open(file);
        let length = entry.length();
        Ok(TorrentFile { content, reader, file, length, position: 0, ask: FIRST_LEN, state: State::Idle })
    }

    /// Every piece, in order, each when all of it is verified.
    pub fn pieces(&self) -> Pieces {
        Pieces { torrent: self.clone(), next: 0, reader: None }
    }
}

/// A file of a torrent. What is read is fetched first, and what a reader is about to read soon: files read in sequence
/// have a window of their own. Reads end with an error after the read timeout of the torrent.
pub struct TorrentFile {
    content: Arc<dyn Content>,
    reader: ReaderId,
    file: FileIndex,
    length: u64,
    position: u64,
    /// What the next read asks for at least: more and more while nobody seeks.
    ask: u64,
    state: State,
}

enum State {
    Idle,
    /// Waits for the bytes from the position on.
    Reading(oneshot::Receiver<Result<Bytes, ContentError>>),
    /// Has them.
    Here(Bytes),
}

impl TorrentFile {
    /// Its bytes.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Which file of the torrent it is.
    pub fn index(&self) -> FileIndex {
        self.file
    }

    /// Asks for what follows the position, for a buffer of `wanted` bytes.
    fn request(&mut self, wanted: usize) -> oneshot::Receiver<Result<Bytes, ContentError>> {
        let (reply, answer) = oneshot::channel();
        let len = self.ask.max(wanted as u64).min(READ_LEN).min(self.length - self.position) as u32;
        self.ask = (2 * self.ask).min(READ_LEN);
        match self.content.read_cached(self.reader, self.file, self.position, len) {
            Some(bytes) => drop(reply.send(Ok(bytes))),
            None => {
                let reply = Box::new(move |result| drop(reply.send(result)));
                self.content.read(self.reader, self.file, self.position, len, reply);
            }
        }
        answer
    }
}

impl AsyncRead for TorrentFile {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while buf.remaining() > 0 {
            match &mut this.state {
                State::Idle if this.position >= this.length => return Poll::Ready(Ok(())),
                State::Idle => this.state = State::Reading(this.request(buf.remaining())),
                State::Reading(answer) => {
                    let answer = ready!(Pin::new(answer).poll(cx));
                    this.state = State::Idle;
                    let bytes = answer.unwrap_or(Err(ContentError::Closed)).map_err(io_error)?;
                    this.state = State::Here(bytes);
                }
                State::Here(bytes) if bytes.is_empty() => this.state = State::Idle,
                State::Here(bytes) => {
                    let len = bytes.len().min(buf.remaining());
                    buf.put_slice(&bytes[..len]);
                    bytes.advance(len);
                    this.position += len as u64;
                    return Poll::Ready(Ok(()));
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncSeek for TorrentFile {
    fn start_seek(self: Pin<&mut Self>, to: SeekFrom) -> io::Result<()> {
        let this = self.get_mut();
        let position = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::End(offset) => this.length.checked_add_signed(offset),
            SeekFrom::Current(offset) => this.position.checked_add_signed(offset),
        };
        let position = position.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        let ahead = position.checked_sub(this.position).and_then(|ahead| usize::try_from(ahead).ok());
        match (&mut this.state, ahead) {
            (State::Here(bytes), Some(ahead)) if ahead <= bytes.len() => bytes.advance(ahead),
            (_, Some(0)) => {}
            _ => (this.state, this.ask) = (State::Idle, FIRST_LEN),
        }
        this.position = position;
        Ok(())
    }

    fn poll_complete(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<u64>> {
        Poll::Ready(Ok(self.position))
    }
}

impl Drop for TorrentFile {
    fn drop(&mut self) {
        self.content.close(self.reader);
    }
}

fn io_error(error: ContentError) -> io::Error {
    let kind = match &error {
        ContentError::Unavailable(_) => io::ErrorKind::TimedOut,
        ContentError::Storage(_) | ContentError::Closed => io::ErrorKind::Other,
    };
    io::Error::new(kind, error)
}

/// The pieces of a torrent, in order.
pub struct Pieces {
    torrent: Torrent,
    next: u32,
    /// The file that is being read, with its window.
    reader: Option<(FileIndex, ReaderId)>,
}

impl Pieces {
    /// The next piece, all of its bytes, once they are verified; `None` behind the last one. Bytes of padding are zeros.
    ///
    /// # Errors
    /// When no peer delivers in time, or storage fails; the same piece comes again with the next call.
    pub async fn next_piece(&mut self) -> Option<Result<(PieceIndex, Bytes), ApiError>> {
        let piece = PieceIndex(self.next);
        if piece.0 >= self.torrent.metainfo.piece_count() {
            return None;
        }
        let bytes = self.piece(piece).await;
        self.next += u32::from(bytes.is_ok());
        Some(bytes.map(|bytes| (piece, bytes)))
    }

    async fn piece(&mut self, piece: PieceIndex) -> Result<Bytes, ApiError> {
        let metainfo: Arc<Metainfo> = self.torrent.metainfo.clone();
        let len = metainfo.layout().piece_len(piece);
        let mut bytes = BytesMut::with_capacity(len as usize);
        for part in metainfo.layout().parts(BlockSpan { piece, begin: 0, len }) {
            match part {
                Part::Padding(len) => bytes.resize(bytes.len() + len as usize, 0),
                Part::File(slice) => {
                    let reader = self.reader_of(slice.file);
                    let end = slice.offset + u64::from(slice.len);
                    let mut offset = slice.offset;
                    while offset < end {
                        let len = READ_LEN.min(end - offset) as u32;
                        let part = read(&self.torrent.content, reader, slice.file, offset, len).await?;
                        offset += part.len() as u64;
                        bytes.extend_from_slice(&part);
                    }
                }
            }
        }
        Ok(bytes.freeze())
    }

    fn reader_of(&mut self, file: FileIndex) -> ReaderId {
        match self.reader {
            Some((open, reader)) if open == file => reader,
            _ => {
                self.close();
                let reader = self.torrent.content.open(file);
                self.reader = Some((file, reader));
                reader
            }
        }
    }

    fn close(&mut self) {
        if let Some((_, reader)) = self.reader.take() {
            self.torrent.content.close(reader);
        }
    }
}

impl Drop for Pieces {
    fn drop(&mut self) {
        self.close();
    }
}

/// How far a torrent is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TorrentProgress {
    /// Verified bytes on this machine.
    pub verified_bytes: u64,
    /// Bytes of all files.
    pub total_bytes: u64,
    /// Connected peers.
    pub peers: usize,
    /// Payload bytes a second from peers, over the last seconds.
    pub download_rate: u64,
    /// Payload bytes a second to peers, over the last seconds.
    pub upload_rate: u64,
}

impl NodeHandle {
    /// How far a torrent is.
    pub async fn progress(&self, torrent: &Torrent) -> TorrentProgress {
        let stats = self.stats(torrent.key).await.unwrap_or_default();
        TorrentProgress {
            verified_bytes: torrent.source.torrent.storage.verified_bytes(),
            total_bytes: torrent.metainfo.total_length(),
            peers: stats.peers.len(),
            download_rate: stats.download_rate,
            upload_rate: stats.upload_rate,
        }
    }

    /// Waits until a torrent is further than `last`, or has other peers, and tells how far it is. Comes back at once
    /// when everything is here.
    pub async fn next_progress(&self, torrent: &Torrent, last: &TorrentProgress) -> TorrentProgress {
        loop {
            let now = self.progress(torrent).await;
            let is_news = now.verified_bytes != last.verified_bytes || now.peers != last.peers;
            if is_news || now.verified_bytes >= now.total_bytes {
                return now;
            }
            tokio::time::sleep(PROGRESS_INTERVAL).await;
        }
    }
}
