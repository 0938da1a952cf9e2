//! Answers that last: JSON lines of progress, and the bytes of a file.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, HeaderMap, HeaderValue, TRAILER};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, Stream, StreamExt};
use http_body_util::StreamBody;
use hyper::body::Frame;
use serde::Serialize;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Interval;

use super::protocol::{CONTENT_ERROR, FILE_LENGTH};
use super::server::{Kept, OpenFile};
use crate::node::api::{ApiError, ErrorKind, Progress, TorrentInfo};
use crate::node::lifecycle::{Gate, Pass};
use crate::types::ReaderId;
use crate::vfs::{Content, ContentError};

/// How often a line goes out when there is nothing to say: what tells each side that the other is still there.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// Bytes that one read of a file's content asks for.
const CHUNK: u32 = 256 << 10;
/// Reads of one answer that may wait at a time; the memory of an answer is this many chunks.
const READS_AHEAD: usize = 4;
/// Progress lines that may wait for a slow reader; further ones are dropped by the sender.
const PROGRESS_AHEAD: usize = 64;

/// What a long request came to.
pub(super) struct Outcome {
    /// What was made: a path, or addresses, one a line.
    pub(super) result: String,
    pub(super) torrent: TorrentInfo,
    /// What lives until the command leaves; `None` ends the answer.
    pub(super) keep: Option<Kept>,
}

type Job = BoxFuture<'static, Result<Outcome, ApiError>>;

/// Answers with the progress of a job, then with its end. The job is dropped with the answer.
pub(super) fn progress(gate: &Gate, pass: Pass, job: impl FnOnce(mpsc::Sender<Progress>) -> Job) -> Response {
    let (sink, progress) = mpsc::channel(PROGRESS_AHEAD);
    lines(Lines::new(gate, pass, Some(job(sink)), progress, None))
}

/// Answers with one line, then stays until either side leaves.
pub(super) fn hold(gate: &Gate, pass: Pass, first: &impl Serialize) -> Response {
    let (_, nothing) = mpsc::channel(1);
    let mut state = Lines::new(gate, pass, None, nothing, Some(line(first)));
    state.keep = Some(Box::new(()));
    lines(state)
}

/// Answers with a line for each thing that happens, until either side leaves. Who reads slowly misses the oldest.
pub(super) fn events<T>(gate: &Gate, pass: Pass, happens: broadcast::Receiver<T>) -> Response
where
    T: Clone + Serialize + Send + 'static,
{
    let state = (happens, gate.clone(), tokio::time::interval(HEARTBEAT), pass);
    let lines = stream::unfold(state, |mut state| async move {
        let (happens, gate, heartbeat, _) = &mut state;
        let line = tokio::select! {
            biased;
            () = gate.closed() => return None,
            event = happens.recv() => match event {
                Ok(event) => line(&event),
                // The next one is there already.
                Err(RecvError::Lagged(_)) => Bytes::from_static(b"\n"),
                Err(RecvError::Closed) => return None,
            },
            _ = heartbeat.tick() => Bytes::from_static(b"\n"),
        };
        Some((Ok::<_, Infallible>(line), state))
    });
    ndjson(Body::from_stream(lines))
}

struct Lines {
    /// Goes out before anything else.
    ready: VecDeque<Bytes>,
    job: Option<Job>,
    progress: mpsc::Receiver<Progress>,
    heartbeat: Interval,
    gate: Gate,
    keep: Option<Kept>,
    _pass: Pass,
}

impl Lines {
    fn new(
        gate: &Gate,
        pass: Pass,
        job: Option<Job>,
        progress: mpsc::Receiver<Progress>,
        first: Option<Bytes>,
    ) -> Self {
        let heartbeat = tokio::time::interval(HEARTBEAT);
        Self {
            ready: first.into_iter().collect(),
            job,
            progress,
            heartbeat,
            gate: gate.clone(),
            keep: None,
            _pass: pass,
        }
    }

    /// The next line; `None` after the last one.
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(line) = self.ready.pop_front() {
            return Some(line);
        }
        if self.job.is_none() && self.keep.is_none() {
            return None;
        }
        let job = async {
            match &mut self.job {
                Some(job) => job.await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.gate.closed() => {
                (self.job, self.keep) = (None, None);
                Some(line(&Progress::Failed(stopping())))
            }
            Some(progress) = self.progress.recv() => Some(line(&progress)),
            outcome = job => {
                self.job = None;
                // What the job still said goes before its end.
                while let Ok(progress) = self.progress.try_recv() {
                    self.ready.push_back(line(&progress));
                }
                let end = self.end(outcome);
                self.ready.push_back(line(&end));
                self.ready.pop_front()
            }
            _ = self.heartbeat.tick() => Some(Bytes::from_static(b"\n")),
        }
    }

    fn end(&mut self, outcome: Result<Outcome, ApiError>) -> Progress {
        match outcome {
            Ok(Outcome { result, torrent, keep }) => {
                self.keep = keep;
                Progress::Done { result, torrent }
            }
            Err(error) => Progress::Failed(error),
        }
    }
}

fn lines(state: Lines) -> Response {
    let lines = stream::unfold(state, |mut state| async move {
        let line = state.next().await?;
        Some((Ok::<_, Infallible>(line), state))
    });
    ndjson(Body::from_stream(lines))
}

fn ndjson(body: Body) -> Response {
    ([(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"))], body).into_response()
}

fn line(value: &impl Serialize) -> Bytes {
    let mut line = match serde_json::to_vec(value) {
        Ok(line) => line,
        Err(error) => {
            tracing::error!(%error, "cannot write a line of progress");
            Vec::new()
        }
    };
    line.push(b'\n');
    line.into()
}

fn stopping() -> ApiError {
    ApiError { kind: ErrorKind::Failure, message: "the node was stopped: start the command again".to_owned() }
}

/// Answers with `length` bytes of a file from `offset`. What goes wrong on the way is said in a trailer: the head
/// has been sent by then.
pub(super) fn content(gate: &Gate, pass: Pass, file: OpenFile, offset: u64, length: u64) -> Response {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(FILE_LENGTH, HeaderValue::from(file.length));
    headers.insert(TRAILER, HeaderValue::from_static(CONTENT_ERROR));
    let state = FileBody { reads: Some(reads(file, offset, length)), gate: gate.clone(), _pass: pass };
    let frames = stream::unfold(state, |mut state| async move {
        let frame = state.next().await?;
        Some((Ok::<_, Infallible>(frame), state))
    });
    (headers, Body::new(StreamBody::new(frames))).into_response()
}

struct FileBody {
    reads: Option<BoxStream<'static, Result<Bytes, ContentError>>>,
    gate: Gate,
    _pass: Pass,
}

impl FileBody {
    async fn next(&mut self) -> Option<Frame<Bytes>> {
        let reads = self.reads.as_mut()?;
        let error = tokio::select! {
            biased;
            () = self.gate.closed() => stopping(),
            read = reads.next() => match read? {
                Ok(bytes) => return Some(Frame::data(bytes)),
                Err(error) => api_error(&error),
            }
        };
        self.reads = None;
        let mut trailers = HeaderMap::new();
        let said = serde_json::to_string(&error).unwrap_or_default();
        // Header values hold no control characters, and JSON escapes them; other bytes may be anything.
        trailers.insert(CONTENT_ERROR, HeaderValue::from_bytes(said.as_bytes()).ok()?);
        Some(Frame::trailers(trailers))
    }
}

fn api_error(error: &ContentError) -> ApiError {
    let kind = match error {
        ContentError::Unavailable(_) => ErrorKind::NotFound,
        ContentError::Storage(_) | ContentError::Closed => ErrorKind::Failure,
    };
    ApiError { kind, message: error.to_string() }
}

/// An open handle, closed when dropped; keeps its torrent.
struct Reader {
    file: OpenFile,
    id: ReaderId,
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.file.content.close(self.id);
    }
}

fn reads(file: OpenFile, offset: u64, length: u64) -> BoxStream<'static, Result<Bytes, ContentError>> {
    let end = offset.saturating_add(length).min(file.length);
    let id = file.content.open(file.index);
    let reader = Arc::new(Reader { file, id });
    let starts = (offset..end).step_by(CHUNK as usize);
    let reads = stream::iter(starts)
        .map(move |at| {
            let len = (end - at).min(u64::from(CHUNK)) as u32;
            read(reader.clone(), at, len)
        })
        .buffered(READS_AHEAD);
    stop_at_error(reads).boxed()
}

async fn read(reader: Arc<Reader>, offset: u64, len: u32) -> Result<Bytes, ContentError> {
    let content: &Arc<dyn Content> = &reader.file.content;
    let bytes = match content.read_cached(reader.id, reader.file.index, offset, len) {
        Some(bytes) => bytes,
        None => {
            let (reply, answer) = oneshot::channel();
            let reply = Box::new(move |result| drop(reply.send(result)));
            content.read(reader.id, reader.file.index, offset, len, reply);
            answer.await.unwrap_or(Err(ContentError::Closed))?
        }
    };
    if bytes.len() != len as usize {
        let got = bytes.len();
        return Err(ContentError::Storage(format!("expected {len} bytes at offset {offset}, got {got}")));
    }
    Ok(bytes)
}

fn stop_at_error<S>(reads: S) -> impl Stream<Item = S::Item>
where
    S: Stream<Item = Result<Bytes, ContentError>>,
{
    let failed = |failed: &mut bool, item: Result<Bytes, ContentError>| {
        let item = (!*failed).then(|| {
            *failed = item.is_err();
            item
        });
        futures::future::ready(item)
    };
    reads.scan(false, failed)
}
