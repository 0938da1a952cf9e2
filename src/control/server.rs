//! The server: requests to calls of the node.

use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::Router;
use axum::extract::{DefaultBodyLimit, FromRequest, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use futures::FutureExt;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::broadcast;
use tokio::task::JoinSet;

use super::protocol::{
    self, CacheRequest, ContentRequest, FreezeRequest, Hello, MAX_REQUEST, PROTOCOL, UnmountRequest,
};
use super::socket::{self, OwnerListener};
use super::stream::{self, Outcome};
use crate::node::ProgressSink;
use crate::node::api::{
    AddRequest, ApiError, DatasetInfo, DatasetRequest, ErrorKind, GetRequest, MirrorRequest, MountEvent, MountRequest,
    NodeStatus, PublishRequest, Published, SeedRequest, TorrentInfo,
};
use crate::node::lifecycle::{Gate, Pass};
use crate::types::FileIndex;
use crate::vfs::Content;

/// How long a command may take to send the head of its request.
const HEAD_WITHIN: Duration = Duration::from_secs(10);
/// How long answers may take to end when the node stops.
const STOP_WITHIN: Duration = Duration::from_secs(2);

/// What is dropped when the command that asked for it leaves.
pub type Kept = Box<dyn Send + Sync>;

/// One file of a torrent, ready to be read.
pub struct OpenFile {
    /// Its torrent's bytes.
    pub content: Arc<dyn Content>,
    /// Which file.
    pub index: FileIndex,
    /// Its bytes.
    pub length: u64,
    /// What keeps the torrent in the node while it is read.
    pub keep: Kept,
}

/// What the server asks of the node. Every future may be dropped: that cancels what it was for.
pub trait NodeApi: Send + Sync + 'static {
    /// Everything that `knot status` shows.
    fn status(&self) -> impl Future<Output = NodeStatus> + Send;
    /// Mounts a torrent; ready when the future is.
    fn mount(
        &self,
        request: MountRequest,
        progress: ProgressSink,
    ) -> impl Future<Output = Result<TorrentInfo, ApiError>> + Send;
    /// Ends a mount.
    fn unmount(&self, mountpoint: PathBuf) -> impl Future<Output = Result<(), ApiError>> + Send;
    /// Holds a mount on the version that it shows, or lets it follow its dataset again.
    fn freeze(&self, mountpoint: PathBuf, frozen: bool) -> impl Future<Output = Result<(), ApiError>> + Send;
    /// What happens to mounts from now on.
    fn events(&self) -> broadcast::Receiver<MountEvent>;
    /// Serves files in place while the kept value lives; the addresses are what peers dial.
    fn seed(
        &self,
        request: SeedRequest,
        progress: ProgressSink,
    ) -> impl Future<Output = Result<(TorrentInfo, Vec<String>, Kept), ApiError>> + Send;
    /// Keeps and serves a dataset while the kept value lives; the addresses are what peers dial.
    fn mirror(
        &self,
        request: MirrorRequest,
        progress: ProgressSink,
    ) -> impl Future<Output = Result<(TorrentInfo, Vec<String>, Kept), ApiError>> + Send;
    /// Fetches a torrent into a directory; tells the path of what was written there.
    fn get(
        &self,
        request: GetRequest,
        progress: ProgressSink,
    ) -> impl Future<Output = Result<(TorrentInfo, PathBuf), ApiError>> + Send;
    /// What is known of a dataset, here and elsewhere.
    fn dataset(&self, request: DatasetRequest) -> impl Future<Output = Result<DatasetInfo, ApiError>> + Send;
    /// Publishes a version of a dataset.
    fn publish(&self, request: PublishRequest) -> impl Future<Output = Result<Published, ApiError>> + Send;
    /// Finds a file in a torrent, whose metainfo is fetched where it is not known.
    fn open_file(
        &self,
        request: AddRequest,
        path: Option<String>,
    ) -> impl Future<Output = Result<OpenFile, ApiError>> + Send;
    /// Caps the cache.
    fn set_cache_size(&self, cap_bytes: u64);
}

/// Answers commands at the socket of a store.
pub struct Server {
    listener: OwnerListener,
    socket: PathBuf,
    service: TowerToHyperService<Router>,
    gate: Gate,
}

impl Server {
    /// Listens at `socket`; the caller holds the lock of its store. Commands wait until [`Server::run`].
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn bind<A: NodeApi>(socket: &Path, api: Arc<A>, gate: Gate) -> io::Result<Self> {
        let listener = socket::listen(socket)?;
        let service = TowerToHyperService::new(router(api, gate.clone()));
        Ok(Self { listener, socket: socket.to_owned(), service, gate })
    }

    /// Answers until the gate is closed, then ends what is still being answered.
    pub async fn run(mut self) {
        let mut connections = JoinSet::new();
        loop {
            let (stream, slot) = tokio::select! {
                () = self.gate.closed() => break,
                accepted = self.listener.accept() => accepted,
                Some(_) = connections.join_next() => continue,
            };
            let mut http = hyper::server::conn::http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(HEAD_WITHIN);
            let connection = http.serve_connection(TokioIo::new(stream), self.service.clone());
            let gate = self.gate.clone();
            connections.spawn(async move {
                let mut connection = std::pin::pin!(connection);
                let ended = tokio::select! {
                    ended = connection.as_mut() => ended,
                    () = gate.closed() => {
                        connection.as_mut().graceful_shutdown();
                        connection.await
                    }
                };
                if let Err(error) = ended {
                    tracing::debug!(%error, "a command left");
                }
                drop(slot);
            });
        }
        if let Err(error) = std::fs::remove_file(&self.socket) {
            tracing::debug!(%error, "the socket is gone already");
        }
        drop(self.listener);
        let drained = async { while connections.join_next().await.is_some() {} };
        if tokio::time::timeout(STOP_WITHIN, drained).await.is_err() {
            tracing::debug!("commands that do not listen are cut off");
        }
    }
}

struct Shared<A> {
    api: Arc<A>,
    gate: Gate,
}

impl<A> Clone for Shared<A> {
    fn clone(&self) -> Self {
        Self { api: self.api.clone(), gate: self.gate.clone() }
    }
}

impl<A> Shared<A> {
    fn enter(&self) -> Result<Pass, Refused> {
        self.gate.enter().ok_or(Refused::Leaving)
    }
}

fn router<A: NodeApi>(api: Arc<A>, gate: Gate) -> Router {
    Router::new()
        .route(protocol::HOLD, get(hold::<A>))
        .route(protocol::STATUS, get(status::<A>))
        .route(protocol::MOUNT, post(mount::<A>))
        .route(protocol::UNMOUNT, post(unmount::<A>))
        .route(protocol::FREEZE, post(freeze::<A>))
        .route(protocol::EVENTS, get(events::<A>))
        .route(protocol::SEED, post(seed::<A>))
        .route(protocol::MIRROR, post(mirror::<A>))
        .route(protocol::GET, post(get_files::<A>))
        .route(protocol::DATASET, post(dataset::<A>))
        .route(protocol::PUBLISH, post(publish::<A>))
        .route(protocol::CONTENT, post(content::<A>))
        .route(protocol::CACHE, post(set_cache::<A>))
        .route(protocol::STOP, post(stop::<A>))
        .layer(DefaultBodyLimit::max(MAX_REQUEST))
        .with_state(Shared { api, gate })
}

/// Why a request has no answer of its own.
enum Refused {
    Leaving,
    Api(ApiError),
}

impl From<ApiError> for Refused {
    fn from(error: ApiError) -> Self {
        Self::Api(error)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        match self {
            Self::Leaving => StatusCode::SERVICE_UNAVAILABLE.into_response(),
            Self::Api(error) => {
                let status = StatusCode::from_u16(protocol::status_code(error.kind));
                (status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), Json(error)).into_response()
            }
        }
    }
}

/// A request's JSON; what is wrong with it is answered like every other error.
struct Asked<T>(T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Asked<T> {
    type Rejection = Refused;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refused> {
        let Json(value) = Json::<T>::from_request(request, state).await.map_err(|error| {
            let message = format!("expected a request that this node understands: {}", error.body_text());
            ApiError { kind: ErrorKind::Usage, message }
        })?;
        Ok(Self(value))
    }
}

type Answer<T> = Result<T, Refused>;

async fn hold<A: NodeApi>(State(shared): State<Shared<A>>) -> Answer<Response> {
    let pass = shared.enter()?;
    let hello = Hello { protocol: PROTOCOL, version: env!("CARGO_PKG_VERSION").to_owned(), pid: std::process::id() };
    Ok(stream::hold(&shared.gate, pass, &hello))
}

async fn status<A: NodeApi>(State(shared): State<Shared<A>>) -> Answer<Json<NodeStatus>> {
    let _pass = shared.enter()?;
    Ok(Json(shared.api.status().await))
}

async fn mount<A: NodeApi>(State(shared): State<Shared<A>>, Asked(request): Asked<MountRequest>) -> Answer<Response> {
    let pass = shared.enter()?;
    let api = shared.api.clone();
    let result = request.mountpoint.display().to_string();
    Ok(stream::progress(&shared.gate, pass, |sink| {
        async move { Ok(Outcome { torrent: api.mount(request, sink).await?, result, keep: None }) }.boxed()
    }))
}

async fn unmount<A: NodeApi>(
    State(shared): State<Shared<A>>,
    Asked(request): Asked<UnmountRequest>,
) -> Answer<Json<()>> {
    let _pass = shared.enter()?;
    shared.api.unmount(request.mountpoint).await?;
    Ok(Json(()))
}

async fn freeze<A: NodeApi>(State(shared): State<Shared<A>>, Asked(request): Asked<FreezeRequest>) -> Answer<Json<()>> {
    let _pass = shared.enter()?;
    shared.api.freeze(request.mountpoint, request.frozen).await?;
    Ok(Json(()))
}

async fn events<A: NodeApi>(State(shared): State<Shared<A>>) -> Answer<Response> {
    let pass = shared.enter()?;
    Ok(stream::events(&shared.gate, pass, shared.api.events()))
}

async fn seed<A: NodeApi>(State(shared): State<Shared<A>>, Asked(request): Asked<SeedRequest>) -> Answer<Response> {
    let pass = shared.enter()?;
    let api = shared.api.clone();
    Ok(stream::progress(&shared.gate, pass, |sink| {
        async move {
            let (torrent, addresses, keep) = api.seed(request, sink).await?;
            Ok(Outcome { torrent, result: addresses.join("\n"), keep: Some(keep) })
        }
        .boxed()
    }))
}

async fn mirror<A: NodeApi>(State(shared): State<Shared<A>>, Asked(request): Asked<MirrorRequest>) -> Answer<Response> {
    let pass = shared.enter()?;
    let api = shared.api.clone();
    Ok(stream::progress(&shared.gate, pass, |sink| {
        async move {
            let (torrent, addresses, keep) = api.mirror(request, sink).await?;
            Ok(Outcome { torrent, result: addresses.join("\n"), keep: Some(keep) })
        }
        .boxed()
    }))
}

async fn get_files<A: NodeApi>(State(shared): State<Shared<A>>, Asked(request): Asked<GetRequest>) -> Answer<Response> {
    let pass = shared.enter()?;
    let api = shared.api.clone();
    Ok(stream::progress(&shared.gate, pass, |sink| {
        async move {
            let (torrent, path) = api.get(request, sink).await?;
            Ok(Outcome { torrent, result: path.display().to_string(), keep: None })
        }
        .boxed()
    }))
}

async fn dataset<A: NodeApi>(
    State(shared): State<Shared<A>>,
    Asked(request): Asked<DatasetRequest>,
) -> Answer<Json<DatasetInfo>> {
    let _pass = shared.enter()?;
    Ok(Json(shared.api.dataset(request).await?))
}

async fn publish<A: NodeApi>(
    State(shared): State<Shared<A>>,
    Asked(request): Asked<PublishRequest>,
) -> Answer<Json<Published>> {
    let _pass = shared.enter()?;
    Ok(Json(shared.api.publish(request).await?))
}

async fn content<A: NodeApi>(
    State(shared): State<Shared<A>>,
    Asked(request): Asked<ContentRequest>,
) -> Answer<Response> {
    let pass = shared.enter()?;
    let ContentRequest { add, path, offset, length } = request;
    let file = shared.api.open_file(add, path).await?;
    if offset > file.length {
        let message = format!("expected an offset of at most {}, the file's length, got {offset}", file.length);
        return Err(ApiError { kind: ErrorKind::Usage, message }.into());
    }
    let length = length.unwrap_or(u64::MAX).min(file.length - offset);
    Ok(stream::content(&shared.gate, pass, file, offset, length))
}

async fn set_cache<A: NodeApi>(
    State(shared): State<Shared<A>>,
    Asked(request): Asked<CacheRequest>,
) -> Answer<Json<()>> {
    let _pass = shared.enter()?;
    shared.api.set_cache_size(request.cap_bytes);
    Ok(Json(()))
}

async fn stop<A: NodeApi>(State(shared): State<Shared<A>>) -> Json<impl Serialize> {
    shared.gate.close();
    Json(())
}
