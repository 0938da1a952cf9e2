//! The client: what commands ask of a store's node. Every call is a connection of its own.

use std::io;
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HOST, HeaderMap, TE};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_util::task::AbortOnDropHandle;

use super::protocol::{
    self, CONTENT_ERROR, CacheRequest, ContentRequest, FILE_LENGTH, FreezeRequest, Hello, MAX_ANSWER, MAX_DATASET,
    PROTOCOL, UnmountRequest,
};
use super::socket;
use crate::node::api::{
    ApiError, DatasetInfo, DatasetRequest, GetRequest, MirrorRequest, MountEvent, MountRequest, NodeStatus, Progress,
    PublishRequest, Published, SeedRequest, TorrentInfo,
};

/// Speaks to the node of one store.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// A client of the node that answers at `socket`; nothing is connected yet.
    pub fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// Keeps the node from leaving, until the answer is dropped.
    ///
    /// # Errors
    /// When no node answers, or one that speaks otherwise.
    pub async fn hold(&self) -> Result<Held, ControlError> {
        let answer = self.ask(Method::GET, protocol::HOLD, &()).await?;
        let mut lines = Lines::new(answer);
        let hello: Hello = lines.next().await?.ok_or(ControlError::Leaving)?;
        if hello.protocol != PROTOCOL {
            return Err(ControlError::Version { pid: hello.pid, version: hello.version });
        }
        Ok(Held(lines))
    }

    /// Everything that `knot status` shows.
    ///
    /// # Errors
    /// When no node answers.
    pub async fn status(&self) -> Result<NodeStatus, ControlError> {
        self.ask(Method::GET, protocol::STATUS, &()).await?.json().await
    }

    /// Mounts a torrent.
    ///
    /// # Errors
    /// When the node cannot, or is gone.
    pub async fn mount(
        &self,
        request: &MountRequest,
        progress: impl FnMut(Progress),
    ) -> Result<TorrentInfo, ControlError> {
        let answer = self.ask(Method::POST, protocol::MOUNT, request).await?;
        Ok(Lines::new(answer).until_done(progress).await?.1)
    }

    /// Ends a mount.
    ///
    /// # Errors
    /// When the node has no such mount, cannot end it, or is gone.
    pub async fn unmount(&self, mountpoint: &Path) -> Result<(), ControlError> {
        let request = UnmountRequest { mountpoint: mountpoint.to_owned() };
        self.ask(Method::POST, protocol::UNMOUNT, &request).await?.json().await
    }

    /// Holds a mount on the version that it shows, or lets it follow its dataset again.
    ///
    /// # Errors
    /// When the node has no such mount, it follows nothing, or the node is gone.
    pub async fn freeze(&self, mountpoint: &Path, frozen: bool) -> Result<(), ControlError> {
        let request = FreezeRequest { mountpoint: mountpoint.to_owned(), frozen };
        self.ask(Method::POST, protocol::FREEZE, &request).await?.json().await
    }

    /// What happens to mounts from now on.
    ///
    /// # Errors
    /// When no node answers.
    pub async fn events(&self) -> Result<Events, ControlError> {
        Ok(Events(Lines::new(self.ask(Method::GET, protocol::EVENTS, &()).await?)))
    }

    /// Serves files in place, until the held answer is dropped; also tells the addresses that peers dial.
    ///
    /// # Errors
    /// When the node cannot, or is gone.
    pub async fn seed(
        &self,
        request: &SeedRequest,
        progress: impl FnMut(Progress),
    ) -> Result<(TorrentInfo, Vec<String>, Held), ControlError> {
        let mut lines = Lines::new(self.ask(Method::POST, protocol::SEED, request).await?);
        let (addresses, torrent) = lines.until_done(progress).await?;
        Ok((torrent, addresses.lines().map(str::to_owned).collect(), Held(lines)))
    }

    /// Keeps and serves a dataset, until the held answer is dropped; tells the addresses that peers dial.
    ///
    /// # Errors
    /// When nobody knows the dataset, or the node is gone.
    pub async fn mirror(
        &self,
        request: &MirrorRequest,
        progress: impl FnMut(Progress),
    ) -> Result<(Vec<String>, Held), ControlError> {
        let mut lines = Lines::new(self.ask(Method::POST, protocol::MIRROR, request).await?);
        let (addresses, _) = lines.until_done(progress).await?;
        Ok((addresses.lines().map(str::to_owned).collect(), Held(lines)))
    }

    /// Fetches a torrent into a directory; tells the path of what was written.
    ///
    /// # Errors
    /// When the node cannot, or is gone.
    pub async fn get(
        &self,
        request: &GetRequest,
        progress: impl FnMut(Progress),
    ) -> Result<(String, TorrentInfo), ControlError> {
        let answer = self.ask(Method::POST, protocol::GET, request).await?;
        Lines::new(answer).until_done(progress).await
    }

    /// What is known of a dataset, here and elsewhere.
    ///
    /// # Errors
    /// When nobody knows it, or the node is gone.
    pub async fn dataset(&self, request: &DatasetRequest) -> Result<DatasetInfo, ControlError> {
        self.ask(Method::POST, protocol::DATASET, request).await?.json_within(MAX_DATASET).await
    }

    /// Publishes a version of a dataset.
    ///
    /// # Errors
    /// When the node refuses it, or is gone.
    pub async fn publish(&self, request: &PublishRequest) -> Result<Published, ControlError> {
        self.ask(Method::POST, protocol::PUBLISH, request).await?.json().await
    }

    /// The bytes of one file of a torrent, or of a part of it.
    ///
    /// # Errors
    /// When the torrent or the file is not found, or the node is gone.
    pub async fn content(&self, request: &ContentRequest) -> Result<FileContent, ControlError> {
        let answer = self.ask(Method::POST, protocol::CONTENT, request).await?;
        let length = answer.headers.get(FILE_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        let length = length.ok_or_else(|| ControlError::answer("the length of the file", "none"))?;
        let rest = length.saturating_sub(request.offset);
        Ok(FileContent { missing: request.length.unwrap_or(u64::MAX).min(rest), answer })
    }

    /// Caps the cache.
    ///
    /// # Errors
    /// When the node is gone.
    pub async fn set_cache_size(&self, cap_bytes: u64) -> Result<(), ControlError> {
        self.ask(Method::POST, protocol::CACHE, &CacheRequest { cap_bytes }).await?.json().await
    }

    /// Stops the node and everything in it.
    ///
    /// # Errors
    /// When no node answers.
    pub async fn stop(&self) -> Result<(), ControlError> {
        self.ask(Method::POST, protocol::STOP, &()).await?.json().await
    }

    async fn ask(&self, method: Method, path: &str, body: &impl Serialize) -> Result<Answer, ControlError> {
        let stream =
            socket::connect(&self.socket).await.map_err(|source| ControlError::connect(&self.socket, source))?;
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|_| ControlError::Leaving)?;
        let connection = AbortOnDropHandle::new(tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "the node's connection ended");
            }
        }));
        let body = serde_json::to_vec(body).map_err(|error| ControlError::answer("a request", error))?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, "knot")
            .header(TE, "trailers")
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| ControlError::answer("a request", error))?;
        // A node that is about to end takes the connection and closes it again.
        let response = sender.send_request(request).await.map_err(|_| ControlError::Leaving)?;
        Answer::new(response, connection).await
    }
}

/// The head of an answer that is no error, and the body still to be read.
struct Answer {
    headers: HeaderMap,
    body: Incoming,
    _connection: AbortOnDropHandle<()>,
}

impl Answer {
    async fn new(response: Response<Incoming>, connection: AbortOnDropHandle<()>) -> Result<Self, ControlError> {
        let (head, body) = response.into_parts();
        let answer = Self { headers: head.headers, body, _connection: connection };
        match head.status {
            StatusCode::OK => Ok(answer),
            StatusCode::SERVICE_UNAVAILABLE => Err(ControlError::Leaving),
            status if answer.headers.get(CONTENT_TYPE).is_some_and(|kind| kind == "application/json") => {
                tracing::debug!(%status, "the node refused");
                Err(ControlError::Api(answer.json().await?))
            }
            status => Err(ControlError::answer("a request that the node knows", status)),
        }
    }

    async fn json<T: DeserializeOwned>(self) -> Result<T, ControlError> {
        self.json_within(MAX_ANSWER).await
    }

    async fn json_within<T: DeserializeOwned>(self, max_bytes: usize) -> Result<T, ControlError> {
        let body = Limited::new(self.body, max_bytes).collect().await;
        let body = body.map_err(|error| ControlError::answer("a whole answer", error))?.to_bytes();
        serde_json::from_slice(&body).map_err(|error| ControlError::answer("an answer that this knot knows", error))
    }
}

/// The lines of an answer.
struct Lines {
    answer: Answer,
    buffer: BytesMut,
}

impl Lines {
    fn new(answer: Answer) -> Self {
        Self { answer, buffer: BytesMut::new() }
    }

    /// The next line that is not empty; `None` at the end.
    async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, ControlError> {
        loop {
            while let Some(at) = self.buffer.iter().position(|&byte| byte == b'\n') {
                let line = self.buffer.split_to(at + 1);
                if at > 0 {
                    let value = serde_json::from_slice(&line[..at]);
                    return value
                        .map(Some)
                        .map_err(|error| ControlError::answer("progress that this knot knows", error));
                }
            }
            if self.buffer.len() > MAX_ANSWER {
                return Err(ControlError::answer("a line of progress", format!("{} bytes", self.buffer.len())));
            }
            match self.answer.body.frame().await {
                None => return Ok(None),
                Some(Err(source)) => return Err(ControlError::Lost(Some(source))),
                Some(Ok(frame)) => self.buffer.extend_from_slice(frame.data_ref().map_or(&[], |data| data)),
            }
        }
    }

    async fn until_done(&mut self, mut progress: impl FnMut(Progress)) -> Result<(String, TorrentInfo), ControlError> {
        loop {
            match self.next().await?.ok_or(ControlError::Lost(None))? {
                Progress::Done { result, torrent } => return Ok((result, torrent)),
                Progress::Failed(error) => return Err(ControlError::Api(error)),
                other => progress(other),
            }
        }
    }
}

/// Something that the node keeps for this process until this is dropped.
pub struct Held(Lines);

impl Held {
    /// Completes when the node ends, or keeps it no longer: with why.
    pub async fn lost(&mut self) -> ControlError {
        loop {
            match self.0.next::<Progress>().await {
                Ok(Some(Progress::Failed(error))) => return ControlError::Api(error),
                Ok(Some(_)) => {}
                Ok(None) => return ControlError::Lost(None),
                Err(error) => return error,
            }
        }
    }
}

/// What happens to mounts, as it happens.
pub struct Events(Lines);

impl Events {
    /// The next event; `None` when the node ends.
    ///
    /// # Errors
    /// When the node is gone without having ended.
    pub async fn next(&mut self) -> Result<Option<MountEvent>, ControlError> {
        self.0.next().await
    }
}

/// The bytes of a file, as they come.
pub struct FileContent {
    answer: Answer,
    missing: u64,
}

impl FileContent {
    /// Bytes still to come.
    pub fn missing(&self) -> u64 {
        self.missing
    }

    /// The next bytes; `None` when all have come.
    ///
    /// # Errors
    /// When the node cannot read further, or is gone.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ControlError> {
        loop {
            let frame = match self.answer.body.frame().await {
                None if self.missing == 0 => return Ok(None),
                None => return Err(ControlError::Lost(None)),
                Some(frame) => frame.map_err(|source| ControlError::Lost(Some(source)))?,
            };
            match frame.into_data() {
                Ok(bytes) => {
                    self.missing = self.missing.saturating_sub(bytes.len() as u64);
                    return Ok(Some(bytes));
                }
                Err(frame) => {
                    if let Some(error) = frame.trailers_ref().and_then(|trailers| trailers.get(CONTENT_ERROR)) {
                        return Err(serde_json::from_slice::<ApiError>(error.as_bytes())
                            .map_or_else(|error| ControlError::answer("an error", error), ControlError::Api));
                    }
                }
            }
        }
    }
}

/// Why the node gave no answer, or this one.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Nobody listens.
    #[error("no node answers at {socket:?}")]
    NoNode {
        /// Where.
        socket: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// It cannot be asked.
    #[error("cannot ask the node at {socket:?}")]
    Connect {
        /// Where.
        socket: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It is about to end: another try finds a new one.
    #[error("the node of this store is just ending: try again")]
    Leaving,
    /// It ended, or was killed, with the answer half given.
    #[error("the node ended before it was done: look into node.log in the store, and start the command again")]
    Lost(#[source] Option<hyper::Error>),
    /// It is another version.
    #[error(
        "expected a node of knot {own}, got {version} (process {pid}): end it with `knot daemon --stop`",
        own = env!("CARGO_PKG_VERSION")
    )]
    Version {
        /// Its process.
        pid: u32,
        /// Its version.
        version: String,
    },
    /// It refused.
    #[error(transparent)]
    Api(ApiError),
    /// It said something else.
    #[error("expected {expected} from the node, got: {got}")]
    Answer {
        /// What.
        expected: &'static str,
        /// What came.
        got: String,
    },
}

impl ControlError {
    fn connect(socket: &Path, source: io::Error) -> Self {
        let socket = socket.to_owned();
        match source.kind() {
            // No socket, or one that a killed node has left behind.
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Self::NoNode { socket, source },
            // The node closed its socket while this connection waited to be accepted.
            io::ErrorKind::ConnectionReset => Self::Leaving,
            _ => Self::Connect { socket, source },
        }
    }

    fn answer(expected: &'static str, got: impl ToString) -> Self {
        Self::Answer { expected, got: got.to_string() }
    }
}
