//! The server and the client, against a node of a few lines.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, broadcast};

use super::server::{Kept, NodeApi, OpenFile};
use super::{Client, ContentRequest, ControlError, Server};
use crate::node::ProgressSink;
use crate::node::api::{
    AddRequest, ApiError, CacheStatus, DatasetInfo, DatasetRequest, ErrorKind, GetRequest, MetainfoWait, MirrorRequest,
    MountEvent, MountEventKind, MountRequest, NodeStatus, Progress, PublishRequest, Published, SeedRequest, Snapshot,
    TorrentInfo, TorrentName, VersionInfo,
};
use crate::node::lifecycle::Gate;
use crate::types::{FileIndex, FileStamp, ReaderId};
use crate::vfs::{Content, ContentError, ReadReply};

/// Reads of this file fail from here on.
const HOLE: u64 = 3_000_000;

struct FakeNode {
    /// How many jobs run, or are kept.
    alive: Arc<Alive>,
    content: Arc<FakeContent>,
    cap: AtomicUsize,
    events: broadcast::Sender<MountEvent>,
}

impl Default for FakeNode {
    fn default() -> Self {
        let events = broadcast::Sender::new(4);
        Self { alive: Arc::default(), content: Arc::default(), cap: AtomicUsize::default(), events }
    }
}

#[derive(Default)]
struct Alive {
    count: AtomicUsize,
    changed: Notify,
}

impl Alive {
    async fn becomes(&self, expected: usize) {
        loop {
            let changed = self.changed.notified();
            if self.count.load(Ordering::SeqCst) == expected {
                return;
            }
            changed.await;
        }
    }
}

struct Living(Arc<Alive>);

impl Living {
    fn new(alive: &Arc<Alive>) -> Self {
        alive.count.fetch_add(1, Ordering::SeqCst);
        alive.changed.notify_waiters();
        Self(alive.clone())
    }
}

impl Drop for Living {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Ordering::SeqCst);
        self.0.changed.notify_waiters();
    }
}

#[derive(Default)]
struct FakeContent {
    open: AtomicUsize,
}

fn bytes_at(offset: u64, len: u32) -> Bytes {
    (offset..offset + u64::from(len)).map(|at| (at % 251) as u8).collect()
}

impl Content for FakeContent {
    fn open(&self, _: FileIndex) -> ReaderId {
        ReaderId(self.open.fetch_add(1, Ordering::SeqCst) as u64)
    }
    fn close(&self, _: ReaderId) {
        self.open.fetch_sub(1, Ordering::SeqCst);
    }
    fn read_cached(&self, _: ReaderId, _: FileIndex, offset: u64, len: u32) -> Option<Bytes> {
        ((offset / 1_000_000).is_multiple_of(2) && offset < HOLE).then(|| bytes_at(offset, len))
    }
    fn read(&self, _: ReaderId, _: FileIndex, offset: u64, len: u32, reply: ReadReply) {
        if offset < HOLE {
            tokio::spawn(async move { reply(Ok(bytes_at(offset, len))) });
        } else {
            reply(Err(ContentError::Unavailable("no peer has it – ask for \"more\"\n".into())));
        }
    }
    fn cached_bytes(&self, _: FileIndex) -> u64 {
        0
    }
}

fn info() -> TorrentInfo {
    TorrentInfo { info_id: "ab".repeat(32), name: "tree".into(), total_length: 7 }
}

fn event(event: MountEventKind, mountpoint: PathBuf) -> MountEvent {
    let (origin, seq, at) = (Some("ab".repeat(64)), Some(3), 5);
    MountEvent { event, mountpoint, origin, seq, info_hash: None, info_sig: None, signed_at: Some(-4), at }
}

fn refusal() -> ApiError {
    ApiError { kind: ErrorKind::Verification, message: "expected this, got that".into() }
}

impl NodeApi for FakeNode {
    async fn status(&self) -> NodeStatus {
        NodeStatus {
            pid: 1,
            version: "0".into(),
            peer_id: "me".into(),
            listen: vec![],
            uptime_s: 2,
            cache: CacheStatus { used_bytes: 3, cap_bytes: self.cap.load(Ordering::SeqCst) as u64 },
            sources: vec![],
            torrents: vec![],
            datasets: vec![],
            mounts: vec![],
            warnings: vec![],
        }
    }
    /// Never ends.
    async fn mount(&self, _: MountRequest, progress: ProgressSink) -> Result<TorrentInfo, ApiError> {
        let _living = Living::new(&self.alive);
        progress.send(Progress::Metainfo(MetainfoWait { peers: 3, ..MetainfoWait::default() })).await.unwrap();
        std::future::pending().await
    }
    async fn unmount(&self, _: PathBuf) -> Result<(), ApiError> {
        Err(refusal())
    }
    async fn freeze(&self, mountpoint: PathBuf, frozen: bool) -> Result<(), ApiError> {
        let kind = if frozen { MountEventKind::Freeze } else { MountEventKind::Thaw };
        self.events.send(event(kind, mountpoint)).map(drop).map_err(|_| refusal())
    }
    fn events(&self) -> broadcast::Receiver<MountEvent> {
        self.events.subscribe()
    }
    async fn seed(&self, _: SeedRequest, progress: ProgressSink) -> Result<(TorrentInfo, Vec<String>, Kept), ApiError> {
        progress.send(Progress::Checking { done: 1, total: 2 }).await.unwrap();
        Ok((info(), vec!["/a".into(), "/b".into()], Box::new(Living::new(&self.alive))))
    }
    async fn mirror(
        &self,
        request: MirrorRequest,
        _: ProgressSink,
    ) -> Result<(TorrentInfo, Vec<String>, Kept), ApiError> {
        Ok((info(), vec![request.origin, request.keep.to_string()], Box::new(Living::new(&self.alive))))
    }
    async fn get(&self, request: GetRequest, progress: ProgressSink) -> Result<(TorrentInfo, PathBuf), ApiError> {
        progress.send(Progress::Fetching { done: 1, total: 2, peers: 0 }).await.unwrap();
        if request.add.peers.is_empty() { Err(refusal()) } else { Ok((info(), request.dest.join("tree"))) }
    }
    async fn dataset(&self, request: DatasetRequest) -> Result<DatasetInfo, ApiError> {
        let version = |seq: &Option<u64>| Some(seq.map_or("aa".repeat(20 << 20), |seq| seq.to_string()));
        Ok(DatasetInfo { metainfos: request.metainfos.iter().map(version).collect(), ..dataset_info(request.origin) })
    }
    async fn publish(&self, request: PublishRequest) -> Result<Published, ApiError> {
        if request.snapshot == Snapshot::None {
            return Err(refusal());
        }
        let networks = vec![(request.metainfo, request.stamps.len()), (request.record, 5)];
        Ok(Published { peers: 3, networks, notes: vec!["a note".into()] })
    }
    async fn open_file(&self, _: AddRequest, path: Option<String>) -> Result<OpenFile, ApiError> {
        let length = path.ok_or_else(refusal)?.parse().unwrap();
        let keep = Box::new(Living::new(&self.alive));
        Ok(OpenFile { content: self.content.clone(), index: FileIndex(0), length, keep })
    }
    fn set_cache_size(&self, cap_bytes: u64) {
        self.cap.store(cap_bytes as usize, Ordering::SeqCst);
    }
}

struct Running {
    _dir: tempfile::TempDir,
    node: Arc<FakeNode>,
    gate: Gate,
    client: Client,
    server: tokio::task::JoinHandle<()>,
}

fn start() -> Running {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("control.sock");
    let (node, gate) = (Arc::new(FakeNode::default()), Gate::default());
    let server = Server::bind(&socket, node.clone(), gate.clone()).unwrap();
    let server = tokio::spawn(server.run());
    Running { _dir: dir, node, gate, client: Client::new(socket), server }
}

fn add() -> AddRequest {
    AddRequest {
        torrent: TorrentName::InfoId("ab".repeat(32)),
        peers: vec!["127.0.0.1:1".into()],
        discovery: Some(vec![]),
        metainfo_timeout: Duration::from_secs(1),
        read_timeout: Duration::from_millis(1500),
        prefetch_all: false,
        at: None,
    }
}

fn mount_request() -> MountRequest {
    MountRequest {
        add: add(),
        mountpoint: "/mnt".into(),
        allow_other: false,
        uid: 0,
        gid: 0,
        lazy: false,
        prefetch: Default::default(),
        poll: None,
        on_update: None,
        keep_versions: 0,
    }
}

fn seed_request() -> SeedRequest {
    SeedRequest { path: "/x".into(), torrent: None, discovery: None, peers: vec![] }
}

fn file(length: u64, offset: u64, part: Option<u64>) -> ContentRequest {
    ContentRequest { add: add(), path: Some(length.to_string()), offset, length: part }
}

fn dataset_info(origin: String) -> DatasetInfo {
    let version = VersionInfo { seq: 2, info_hash: "aa".into(), info_sig: "bb".into(), signed_at: Some(-5) };
    DatasetInfo {
        origin,
        original_hash: None,
        versions: vec![version],
        conflicts: vec![],
        metainfos: vec![],
        path: Some("/x".into()),
        checked_at: None,
        answers: 4,
    }
}

fn publish_request(snapshot: Snapshot) -> PublishRequest {
    let stamp = FileStamp { size: 1, mtime_ns: -2, ctime_ns: 3, inode: u64::MAX };
    PublishRequest {
        path: "/x".into(),
        metainfo: "aa".into(),
        record: "bb".into(),
        replaces: Some(1),
        stamps: vec![(3, stamp)],
        snapshot,
        peers: vec![],
        discovery: None,
    }
}

async fn read_all(client: &Client, request: &ContentRequest) -> Result<Vec<u8>, ControlError> {
    let mut content = client.content(request).await?;
    let mut all = Vec::new();
    while let Some(bytes) = content.next().await? {
        all.extend_from_slice(&bytes);
    }
    Ok(all)
}

#[tokio::test]
async fn values_arrive_as_they_left() {
    let running = start();
    running.client.set_cache_size(77).await.unwrap();
    assert_eq!(running.client.status().await.unwrap(), running.node.status().await);
    assert_eq!(running.client.status().await.unwrap().cache.cap_bytes, 77);
}

#[tokio::test]
async fn a_dataset_is_asked_for_and_published() {
    let running = start();
    let request = DatasetRequest {
        origin: "cc".into(),
        peers: vec![],
        discovery: None,
        look: Duration::from_secs(1),
        metainfos: vec![Some(1), None, None],
    };
    let answer = running.client.dataset(&request).await.unwrap();
    let lengths: Vec<_> = answer.metainfos.iter().map(|found| found.as_ref().unwrap().len()).collect();
    assert_eq!(lengths, [1, 40 << 20, 40 << 20], "two large metainfos are not too much");
    assert_eq!(DatasetInfo { metainfos: vec![], ..answer }, dataset_info("cc".into()));
    let published = running.client.publish(&publish_request(Snapshot::Copy)).await.unwrap();
    assert_eq!(published.networks, [("aa".into(), 1), ("bb".into(), 5)]);
    let refused = running.client.publish(&publish_request(Snapshot::None)).await;
    assert!(matches!(refused, Err(ControlError::Api(error)) if error == refusal()));
}

#[tokio::test]
async fn events_come_as_they_happen_until_the_node_ends() {
    let running = start();
    running.client.freeze("/mnt".as_ref(), true).await.unwrap_err();
    let mut events = running.client.events().await.unwrap();
    for (frozen, kind) in [(true, MountEventKind::Freeze), (false, MountEventKind::Thaw)] {
        running.client.freeze("/mnt".as_ref(), frozen).await.unwrap();
        assert_eq!(events.next().await.unwrap(), Some(event(kind, "/mnt".into())));
    }
    running.client.stop().await.unwrap();
    assert_eq!(events.next().await.unwrap(), None);
}

#[tokio::test]
async fn who_listens_slowly_gets_the_latest_events() {
    let running = start();
    let (sent, mut events) = (running.node.events.clone(), running.client.events().await.unwrap());
    // Nothing else runs in between: the node writes none of them before they are all there.
    (0..100).for_each(|at| drop(sent.send(MountEvent { at, ..event(MountEventKind::Switch, "/mnt".into()) })));
    let mut got = Vec::new();
    while got.last() != Some(&99) {
        got.push(events.next().await.unwrap().unwrap().at);
    }
    assert_eq!(got, [96, 97, 98, 99]);
}

#[tokio::test]
async fn an_error_of_the_node_arrives_whole() {
    let running = start();
    let error = running.client.unmount("/mnt".as_ref()).await.unwrap_err();
    assert!(matches!(error, ControlError::Api(got) if got == refusal()));
    let request = GetRequest { add: AddRequest { peers: vec![], ..add() }, dest: "/d".into(), select: vec![] };
    let error = running.client.get(&request, |_| {}).await.unwrap_err();
    assert!(matches!(error, ControlError::Api(got) if got == refusal()));
}

#[tokio::test]
async fn progress_comes_before_the_end() {
    let running = start();
    let mut seen = Vec::new();
    let request = GetRequest { add: add(), dest: "/d".into(), select: vec![] };
    let (path, torrent) = running.client.get(&request, |progress| seen.push(progress)).await.unwrap();
    assert_eq!((path.as_str(), torrent), ("/d/tree", info()));
    assert_eq!(seen, [Progress::Fetching { done: 1, total: 2, peers: 0 }]);
}

/// A node that says an answer of lines in chunks of so many bytes.
async fn answers_in_chunks(listener: tokio::net::UnixListener, body: Vec<u8>, len: usize) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut request = Vec::new();
    while !request.ends_with(b"}") {
        request.push(stream.read_u8().await.unwrap());
    }
    let mut answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    for chunk in body.chunks(len) {
        answer.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
        answer.extend(chunk);
        answer.extend(b"\r\n");
    }
    answer.extend(b"0\r\n\r\n");
    for part in answer.chunks(len) {
        stream.write_all(part).await.unwrap();
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn lines_may_be_split_anywhere() {
    let (first, end) = (
        Progress::Fetching { done: 1, total: 2, peers: 0 },
        Progress::Done { result: "/d/ü\n".into(), torrent: info() },
    );
    let line = |progress: &Progress| [&serde_json::to_vec(progress).unwrap()[..], b"\n"].concat();
    let body = [b"\n\n", &line(&first)[..], b"\n", &line(&first), &line(&end)].concat();
    for len in 1..body.len() + 1 {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("control.sock");
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        let node = tokio::spawn(answers_in_chunks(listener, body.clone(), len));
        let (mut seen, client) = (Vec::new(), Client::new(socket));
        let request = GetRequest { add: add(), dest: "/d".into(), select: vec![] };
        let got = client.get(&request, |progress| seen.push(progress)).await.unwrap();
        assert_eq!(got, ("/d/ü\n".to_owned(), info()));
        assert_eq!(seen, [first.clone(), first.clone()]);
        node.abort();
    }
}

#[tokio::test]
async fn a_seed_is_kept_until_its_command_leaves() {
    let running = start();
    let (torrent, addresses, held) = running.client.seed(&seed_request(), |_| {}).await.unwrap();
    assert_eq!((torrent, addresses), (info(), vec!["/a".to_owned(), "/b".to_owned()]));
    running.node.alive.becomes(1).await;
    drop(held);
    running.node.alive.becomes(0).await;
}

#[tokio::test]
async fn a_mirror_is_kept_until_its_command_leaves() {
    let running = start();
    let request = MirrorRequest {
        origin: "cc".into(),
        keep: 4,
        peers: vec![],
        discovery: None,
        poll: None,
        timeout: Duration::from_secs(1),
    };
    let (addresses, held) = running.client.mirror(&request, |_| {}).await.unwrap();
    assert_eq!(addresses, ["cc", "4"]);
    running.node.alive.becomes(1).await;
    drop(held);
    running.node.alive.becomes(0).await;
}

#[tokio::test]
async fn a_command_that_leaves_cancels_its_request() {
    let running = start();
    let client = running.client.clone();
    let mounting = tokio::spawn(async move { client.mount(&mount_request(), |_| {}).await });
    running.node.alive.becomes(1).await;
    mounting.abort();
    running.node.alive.becomes(0).await;
}

#[tokio::test]
async fn content_is_what_was_asked_for() {
    let running = start();
    for (length, offset, part, expected) in [
        (0, 0, None, 0..0),
        (1, 0, None, 0..1),
        (2_500_001, 0, None, 0..2_500_001),
        (2_500_001, 1_999_999, Some(300_000), 1_999_999..2_299_999),
        (10, 4, Some(100), 4..10),
        (10, 10, None, 10..10),
    ] {
        let got = read_all(&running.client, &file(length, offset, part)).await.unwrap();
        assert!(got == bytes_at(expected.start, (expected.end - expected.start) as u32), "{length} {offset} {part:?}");
    }
    running.node.alive.becomes(0).await;
    assert_eq!(running.node.content.open.load(Ordering::SeqCst), 0, "every handle is closed");
}

#[tokio::test]
async fn content_that_ends_early_says_why() {
    let running = start();
    let error = read_all(&running.client, &file(HOLE + 5_000_000, HOLE - 1_000_000, None)).await.unwrap_err();
    let ControlError::Api(error) = error else { panic!("expected the node's error, got {error:?}") };
    assert_eq!(error.kind, ErrorKind::NotFound);
    assert_eq!(error.message, "no peer has it – ask for \"more\"\n");
}

#[tokio::test]
async fn content_beyond_the_file_or_without_a_file_is_refused() {
    let running = start();
    let error = read_all(&running.client, &file(10, 11, None)).await.unwrap_err();
    assert!(matches!(&error, ControlError::Api(error) if error.kind == ErrorKind::Usage), "{error:?}");
    let request = ContentRequest { path: None, ..file(10, 0, None) };
    assert!(matches!(read_all(&running.client, &request).await, Err(ControlError::Api(error)) if error == refusal()));
}

#[tokio::test]
async fn when_the_node_stops_everybody_is_told() {
    let running = start();
    let client = running.client.clone();
    let mounting = tokio::spawn(async move { client.mount(&mount_request(), |_| {}).await });
    running.node.alive.becomes(1).await;
    let mut held = running.client.hold().await.unwrap();
    running.client.stop().await.unwrap();
    running.server.await.unwrap();
    assert!(matches!(held.lost().await, ControlError::Api(error) if error.message.contains("stopped")));
    assert!(matches!(mounting.await.unwrap(), Err(ControlError::Api(_))));
    running.node.alive.becomes(0).await;
    assert!(matches!(running.client.hold().await, Err(ControlError::NoNode { .. })));
}

#[tokio::test]
async fn a_node_that_leaves_takes_no_more_requests() {
    let running = start();
    let held = running.client.hold().await.unwrap();
    running.gate.close();
    drop(held);
    let error = running.client.status().await.unwrap_err();
    assert!(matches!(error, ControlError::Leaving | ControlError::NoNode { .. }), "{error:?}");
    running.server.await.unwrap();
}

#[tokio::test]
async fn nonsense_is_answered_with_what_was_expected() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let running = start();
    let mut raw = super::socket::connect(&running._dir.path().join("control.sock")).await.unwrap();
    let body = "{\"mountpoint\": 3}";
    let head = "POST /v1/mount HTTP/1.1\r\nhost: knot\r\ncontent-type: application/json\r\nconnection: close\r\n";
    raw.write_all(format!("{head}content-length: {}\r\n\r\n{body}", body.len()).as_bytes()).await.unwrap();
    let mut answer = String::new();
    raw.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("expected a request"), "{answer}");
}
