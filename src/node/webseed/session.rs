//! The task at the far end of a web seed's stream: reads what the engine requests, fetches, answers.

use std::collections::{HashSet, VecDeque};
use std::io;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, ReadHalf, WriteHalf};
use tokio::sync::Notify;
use tracing::debug;
use url::Url;

use super::health::Health;
use super::job::{Cutter, Job, Step};
use crate::discovery::http::{HttpClient, RangeClient, RangeError, Reach};
use crate::metainfo::{Layout, Metainfo};
use crate::node::warnings::Warnings;
use crate::types::{BlockSpan, FileIndex};
use crate::wire::{self, Decoder, EXTENSION_HANDSHAKE_ID, ExtensionHandshake, Frame, Message};

/// Requests that may wait; more are rejected.
const MAX_QUEUE: usize = 1024;
/// Requests that the engine is told to keep to: what two fetches take.
const QUEUE: u32 = 512;
/// Fetches in a row that come to nothing before the server is left alone.
const MAX_FAILED: u32 = 8;
/// Zeros that are made at once.
const ZEROS: &[u8; 16 * 1024] = &[0; 16 * 1024];

/// A web seed of a torrent.
pub(super) struct Seed {
    pub(super) metainfo: Arc<Metainfo>,
    /// The URL that the torrent names.
    pub(super) base: String,
    pub(super) reach: Reach,
    pub(super) http: HttpClient,
    pub(super) health: Arc<Health>,
    pub(super) warnings: Arc<Warnings>,
}

/// Answers what is requested over `stream`, until it ends or the server fails.
pub(super) async fn serve(seed: Seed, stream: DuplexStream) {
    let (reader, writer) = tokio::io::split(stream);
    let (orders, metainfo, base) = (Orders::default(), seed.metainfo.clone(), seed.base.clone());
    let client = RangeClient::new(seed.http.clone());
    let mut worker = Worker { seed, client, writer, orders: &orders, out: BytesMut::new() };
    let outcome = tokio::select! {
        outcome = listen(reader, metainfo.layout(), &orders) => outcome,
        outcome = worker.run() => outcome,
    };
    debug!(base, ?outcome, "a web seed's connection ends");
}

/// What is to be done, as the engine wants it.
#[derive(Default)]
struct Orders {
    state: Mutex<OrderState>,
    changed: Notify,
}

#[derive(Default)]
struct OrderState {
    /// Requests that wait.
    queue: VecDeque<BlockSpan>,
    /// Requests that are being answered.
    current: HashSet<BlockSpan>,
    /// Requests that will not be answered.
    rejected: Vec<BlockSpan>,
}

impl Orders {
    fn requested(&self, span: BlockSpan, layout: &Layout) {
        let mut state = self.lock();
        match layout.is_block(span) && state.queue.len() < MAX_QUEUE {
            true => state.queue.push_back(span),
            false => state.rejected.push(span),
        }
        self.changed.notify_one();
    }

    fn cancelled(&self, span: BlockSpan) {
        let mut state = self.lock();
        let waiting = state.queue.iter().position(|queued| *queued == span);
        if waiting.and_then(|at| state.queue.remove(at)).is_some() || state.current.remove(&span) {
            state.rejected.push(span);
        }
        self.changed.notify_one();
    }

    /// What to do next.
    fn next(&self, layout: &Layout) -> Option<Job> {
        let mut state = self.lock();
        let job = Job::take(&mut state.queue, layout)?;
        state.current = job.spans.iter().copied().collect();
        Some(job)
    }

    /// Whether an answer is still wanted; it is given now.
    fn answered(&self, span: BlockSpan) -> bool {
        self.lock().current.remove(&span)
    }

    /// Gives up what is being answered.
    fn give_up(&self) {
        let mut state = self.lock();
        let current = std::mem::take(&mut state.current);
        state.rejected.extend(current);
    }

    /// Whether nobody waits for what is being done.
    fn is_abandoned(&self) -> bool {
        self.lock().current.is_empty()
    }

    fn take_rejected(&self) -> Vec<BlockSpan> {
        std::mem::take(&mut self.lock().rejected)
    }

    /// Waits for `what`; `None` when nobody waits for it any more.
    async fn unless_abandoned<T>(&self, what: impl Future<Output = T>) -> Option<T> {
        let mut what = pin!(what);
        loop {
            tokio::select! {
                done = &mut what => return Some(done),
                () = self.changed.notified() => {
                    if self.is_abandoned() {
                        return None;
                    }
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, OrderState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes down what the engine wants, until its side of the stream is closed.
async fn listen(mut reader: ReadHalf<DuplexStream>, layout: &Layout, orders: &Orders) -> io::Result<()> {
    let mut decoder = Decoder::new();
    while reader.read_buf(decoder.buffer()).await? > 0 {
        while let Some(frame) = decoder.next_frame().map_err(io::Error::other)? {
            match frame {
                Frame::Message(Message::Request(span)) => orders.requested(span, layout),
                Frame::Message(Message::Cancel(span)) => orders.cancelled(span),
                // What we have, and whether we want anything, is nothing to a server.
                Frame::Message(_) | Frame::Piece { .. } => {}
            }
        }
    }
    Ok(())
}

/// Why a fetch came to nothing.
enum Failure {
    /// The engine's side is gone.
    Stream(io::Error),
    /// The server does not have the file as it should, or did not have it a while ago.
    File(FileIndex, Option<RangeError>),
    /// The server does not answer as it should.
    Server(RangeError),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Stream(error)
    }
}

struct Worker<'a> {
    seed: Seed,
    client: RangeClient,
    writer: WriteHalf<DuplexStream>,
    orders: &'a Orders,
    out: BytesMut,
}

impl Worker<'_> {
    async fn run(&mut self) -> io::Result<()> {
        self.greet().await?;
        let (metainfo, mut failed) = (self.seed.metainfo.clone(), 0);
        loop {
            self.reject().await?;
            let Some(job) = self.orders.next(metainfo.layout()) else {
                self.orders.changed.notified().await;
                continue;
            };
            match self.fetch(job).await {
                Ok(()) => {
                    self.seed.health.delivered();
                    failed = 0;
                }
                Err(Failure::Stream(error)) => return Err(error),
                Err(Failure::File(file, error)) => {
                    self.warn_of_file(file, error);
                    failed += 1;
                }
                Err(Failure::Server(error)) => {
                    self.seed.health.failed(Instant::now(), error.retry_after());
                    self.warn(format!("web seed {}: {error}; it is left alone for a while", self.seed.base));
                    return Ok(());
                }
            }
            self.orders.give_up();
            if failed >= MAX_FAILED {
                self.reject().await?;
                self.seed.health.failed(Instant::now(), None);
                return Ok(());
            }
        }
    }

    /// Says that everything is here for the asking.
    async fn greet(&mut self) -> io::Result<()> {
        let about = ExtensionHandshake {
            client: Some("web seed".to_owned()),
            request_queue: Some(QUEUE),
            upload_only: Some(true),
            ..ExtensionHandshake::default()
        };
        wire::encode(&Message::HaveAll, &mut self.out);
        wire::encode(&Message::Extended { id: EXTENSION_HANDSHAKE_ID, payload: about.encode() }, &mut self.out);
        wire::encode(&Message::Unchoke, &mut self.out);
        self.writer.write_all_buf(&mut self.out).await
    }

    async fn reject(&mut self) -> io::Result<()> {
        for span in self.orders.take_rejected() {
            wire::encode(&Message::Reject(span), &mut self.out);
        }
        self.writer.write_all_buf(&mut self.out).await
    }

    async fn fetch(&mut self, job: Job) -> Result<(), Failure> {
        let mut cutter = Cutter::new(job.spans);
        let now = Instant::now();
        for step in &job.steps {
            if let Step::Fetch { file, .. } = step
                && self.seed.health.is_lacking(now, *file)
            {
                return Err(Failure::File(*file, None));
            }
        }
        for step in job.steps {
            if self.orders.is_abandoned() {
                return Ok(());
            }
            match step {
                Step::Zeros(len) => {
                    let mut left = len as usize;
                    while left > 0 {
                        let zeros = Bytes::from_static(&ZEROS[..left.min(ZEROS.len())]);
                        left -= zeros.len();
                        self.answer(&mut cutter, zeros).await?;
                    }
                }
                Step::Fetch { file, range } => self.fetch_part(&mut cutter, file, range).await?,
            }
        }
        Ok(())
    }

    async fn fetch_part(
        &mut self,
        cutter: &mut Cutter,
        file: FileIndex,
        range: std::ops::Range<u64>,
    ) -> Result<(), Failure> {
        let fail = |error: RangeError| match error.is_about_file() {
            true => Failure::File(file, Some(error)),
            false => Failure::Server(error),
        };
        let url = self.seed.metainfo.web_seed_url(&self.seed.base, file).and_then(|url| Url::parse(&url).ok());
        let Some(url) = url else { return Err(Failure::File(file, None)) };
        let length = self.seed.metainfo.layout().file_length(file);
        debug!(%url, ?range, "asking a web seed");
        let get = self.client.get(&url, self.seed.reach, range, length);
        let Some(got) = self.orders.unless_abandoned(get).await else { return Ok(()) };
        got.map_err(fail)?;
        while let Some(read) = self.orders.unless_abandoned(self.client.read()).await {
            let Some(bytes) = read.map_err(fail)? else { return Ok(()) };
            self.answer(cutter, bytes).await?;
        }
        Ok(())
    }

    /// Sends the blocks that are complete with `bytes` and still wanted.
    async fn answer(&mut self, cutter: &mut Cutter, bytes: Bytes) -> io::Result<()> {
        for (span, data) in cutter.push(bytes) {
            if self.orders.answered(span) {
                self.out.extend_from_slice(&wire::encode_piece_header(span));
                self.out.extend_from_slice(&data);
            }
        }
        self.reject().await
    }

    fn warn_of_file(&self, file: FileIndex, error: Option<RangeError>) {
        let Some(error) = error else { return };
        self.seed.health.lacks(Instant::now(), file);
        let url = self.seed.metainfo.web_seed_url(&self.seed.base, file).unwrap_or_default();
        self.warn(format!("web seed {url}: {error}"));
    }

    fn warn(&self, warning: String) {
        if self.seed.health.is_news(&warning) {
            self.seed.warnings.add(warning);
        }
    }
}
