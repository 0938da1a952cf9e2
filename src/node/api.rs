//! What the node can be asked, and what it answers: plain values, the same over the control socket and inside the
//! process.

mod dataset;
mod event;

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use dataset::{
    DatasetInfo, DatasetRequest, DatasetStatus, MirrorRequest, MirrorStatus, PublishRequest, Published, Snapshot,
    VersionInfo,
};
pub use event::{MountEvent, MountEventKind};

/// How a user names a torrent to the node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TorrentName {
    /// An InfoID as hex digits; the metainfo comes from peers.
    InfoId(String),
    /// A metainfo file's bytes, as hex digits: knot's own or an ordinary torrent's.
    Metainfo(String),
    /// A magnet link.
    Magnet(String),
    /// An http or https URL of a metainfo file.
    Url(String),
}

/// A torrent to add.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddRequest {
    /// Which.
    pub torrent: TorrentName,
    /// Peers to dial at once (multiaddr or host:port, where the host may be a name).
    #[serde(default)]
    pub peers: Vec<String>,
    /// Sources to ask, of those that the node has; `None` for all of them.
    #[serde(default)]
    pub discovery: Option<Vec<String>>,
    /// How long to wait for the metainfo.
    #[serde(default = "default_metainfo_timeout")]
    pub metainfo_timeout: Duration,
    /// How long a read waits without progress.
    #[serde(default = "default_read_timeout")]
    pub read_timeout: Duration,
    /// Fetch everything, not just what is read.
    #[serde(default)]
    pub prefetch_all: bool,
    /// The version, where a dataset is named; `None` for the newest.
    #[serde(default)]
    pub at: Option<u64>,
}

impl AddRequest {
    /// A torrent of which nothing but the name is known, with the usual waits.
    pub fn new(torrent: TorrentName) -> Self {
        Self {
            torrent,
            peers: Vec::new(),
            discovery: None,
            metainfo_timeout: default_metainfo_timeout(),
            read_timeout: default_read_timeout(),
            prefetch_all: false,
            at: None,
        }
    }
}

/// How long to wait for a metainfo when nobody says otherwise.
pub fn default_metainfo_timeout() -> Duration {
    Duration::from_secs(60)
}

/// How long a read waits without progress when nobody says otherwise.
pub fn default_read_timeout() -> Duration {
    Duration::from_secs(60)
}

/// A torrent to mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountRequest {
    /// The torrent.
    #[serde(flatten)]
    pub add: AddRequest,
    /// An existing, empty directory; absolute.
    pub mountpoint: PathBuf,
    /// Whether users other than the mounter may look.
    #[serde(default)]
    pub allow_other: bool,
    /// Owner of every file; the mounter.
    pub uid: u32,
    /// Group of every file; the mounter's.
    pub gid: u32,
    /// Whether to mount at once, empty, where the metainfo has to be waited for.
    #[serde(default)]
    pub lazy: bool,
    /// What to fetch before it is read. Where several mounts show one torrent, whoever wants most.
    #[serde(default)]
    pub prefetch: crate::engine::Prefetch,
    /// How often to look for a newer version of a dataset; `None` for the usual.
    #[serde(default)]
    pub poll: Option<Duration>,
    /// What a shell is to run when the mount shows a newer version.
    #[serde(default)]
    pub on_update: Option<String>,
    /// Versions of a dataset of which content is kept beside the one that is shown.
    #[serde(default)]
    pub keep_versions: u32,
}

/// Content to serve in place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeedRequest {
    /// The file or directory; absolute.
    pub path: PathBuf,
    /// What it is the content of; a metainfo is made with the default options where absent.
    #[serde(default)]
    pub torrent: Option<TorrentName>,
    /// Sources to announce to, of those that the node has; `None` for all of them.
    #[serde(default)]
    pub discovery: Option<Vec<String>>,
    /// Peers to dial at once.
    #[serde(default)]
    pub peers: Vec<String>,
}

/// A torrent that the node has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TorrentInfo {
    /// The InfoID.
    pub info_id: String,
    /// The name in its metainfo.
    pub name: String,
    /// Bytes of all files.
    pub total_length: u64,
}

/// Everything that `knot status` shows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Process id of the node.
    pub pid: u32,
    /// Version of the node.
    pub version: String,
    /// Its libp2p peer id.
    pub peer_id: String,
    /// Addresses that it listens on, each with the peer id.
    pub listen: Vec<String>,
    /// Seconds since it started.
    pub uptime_s: u64,
    /// The cache.
    pub cache: CacheStatus,
    /// Ways to find peers.
    pub sources: Vec<SourceStatus>,
    /// Torrents.
    pub torrents: Vec<TorrentStatus>,
    /// Datasets that change.
    #[serde(default)]
    pub datasets: Vec<DatasetStatus>,
    /// Mounts.
    pub mounts: Vec<MountStatus>,
    /// What went wrong lately, newest last: banned peers, changed sources, full disks.
    pub warnings: Vec<String>,
}

/// The cache of the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheStatus {
    /// Verified bytes on disk.
    pub used_bytes: u64,
    /// The cap.
    pub cap_bytes: u64,
}

/// A way to find peers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceStatus {
    /// Its name in `--discovery`.
    pub name: String,
    /// What it is doing.
    pub state: String,
}

/// One torrent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TorrentStatus {
    /// The InfoID.
    pub info_id: String,
    /// The name; empty while the metainfo is not known.
    pub name: String,
    /// `metainfo` (waiting for it), `leech`, `complete` or `seed` (in place).
    pub state: String,
    /// Bytes of all files.
    pub total_bytes: u64,
    /// Of these, verified on this machine.
    pub verified_bytes: u64,
    /// Payload bytes from peers, useful or not.
    pub downloaded_bytes: u64,
    /// Of these, thrown away (duplicate, corrupt, unasked).
    pub wasted_bytes: u64,
    /// Payload bytes to peers.
    pub uploaded_bytes: u64,
    /// Payload bytes a second from peers, over the last seconds.
    pub download_rate: u64,
    /// Payload bytes a second to peers, over the last seconds.
    pub upload_rate: u64,
    /// Payload bytes given for each one taken, or, where none was taken, for each byte of the content. `None` without.
    pub ratio: Option<f64>,
    /// Connected peers.
    pub peers: Vec<PeerStatus>,
}

/// One connected peer of a torrent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// Where.
    pub addr: String,
    /// Its client, where it says.
    pub client: String,
    /// Payload bytes a second from it.
    pub download_rate: u64,
    /// Payload bytes a second to it.
    pub upload_rate: u64,
    /// Share of the pieces that it has, 0 to 1.
    pub progress: f64,
    /// Whether it lets us request.
    pub unchokes_us: bool,
    /// Whether we let it request.
    pub unchoked: bool,
}

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountStatus {
    /// Where.
    pub mountpoint: PathBuf,
    /// What.
    pub info_id: String,
    /// Why the directory is still empty; `None` where it is not.
    #[serde(default)]
    pub waits_for: Option<String>,
    /// The version of the dataset that is shown.
    #[serde(default)]
    pub version: Option<VersionInfo>,
    /// Whether it is held on that version.
    #[serde(default)]
    pub frozen: bool,
}

/// A complete download into a directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GetRequest {
    /// The torrent.
    #[serde(flatten)]
    pub add: AddRequest,
    /// The directory that gets the torrent's file, or a directory with its name; absolute.
    pub dest: PathBuf,
    /// Paths in the torrent, of files or directories, that are wanted; none stands for all.
    #[serde(default)]
    pub select: Vec<String>,
}

/// How far a long request is; a stream of these ends with `Done` or `Failed`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum Progress {
    /// Waiting for the metainfo.
    Metainfo(MetainfoWait),
    /// Hashing what is there already.
    Checking {
        /// Bytes hashed.
        done: u64,
        /// Bytes in all.
        total: u64,
    },
    /// Fetching and writing.
    Fetching {
        /// Bytes written to the destination.
        done: u64,
        /// Bytes in all.
        total: u64,
        /// Connected peers.
        peers: usize,
    },
    /// It is done.
    Done {
        /// What was made: a path, or addresses, one a line.
        result: String,
        /// The torrent.
        torrent: TorrentInfo,
    },
    /// It is not.
    Failed(ApiError),
}

/// What the wait for a metainfo has come to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetainfoWait {
    /// Connected peers.
    pub peers: usize,
    /// Addresses of peers that are known.
    pub found: usize,
    /// Names of the sources that were asked.
    pub sources: Vec<String>,
    /// Pieces of the metainfo that are here, of how many; `None` while no peer sends it.
    #[serde(default)]
    pub pieces: Option<(u32, u32)>,
}

impl std::fmt::Display for MetainfoWait {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let asked = if self.sources.is_empty() { "nobody".to_owned() } else { self.sources.join(", ") };
        let Self { peers, found, .. } = self;
        match (self.pieces, peers, found) {
            (Some((here, all)), ..) => write!(f, "fetching the metainfo, {here} of {all} pieces, from {peers} peers"),
            (None, 0, 0) => write!(f, "waiting for peers, asking {asked}"),
            (None, 0, _) => write!(f, "waiting for one of {found} peers to answer, asking {asked}"),
            _ => write!(f, "waiting for the metainfo from {peers} of {found} peers, asking {asked}"),
        }
    }
}

/// Why the node refused, with the exit code that a command should leave with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// What kind.
    pub kind: ErrorKind,
    /// What was expected, what was got, what to do.
    pub message: String,
}

/// Kinds of errors, as far as a command cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// The request makes no sense: exit code 2.
    Usage,
    /// Nobody had it in time: exit code 3.
    NotFound,
    /// A hash or signature did not match: exit code 4.
    Verification,
    /// Anything else: exit code 1.
    Failure,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_says_how_far_it_has_come() {
        let mut wait = MetainfoWait { sources: vec!["dht".into(), "lsd".into()], ..MetainfoWait::default() };
        assert_eq!(wait.to_string(), "waiting for peers, asking dht, lsd");
        wait.found = 7;
        assert_eq!(wait.to_string(), "waiting for one of 7 peers to answer, asking dht, lsd");
        wait.peers = 2;
        assert_eq!(wait.to_string(), "waiting for the metainfo from 2 of 7 peers, asking dht, lsd");
        wait.pieces = Some((3, 9));
        assert_eq!(wait.to_string(), "fetching the metainfo, 3 of 9 pieces, from 2 peers");
        assert_eq!(MetainfoWait::default().to_string(), "waiting for peers, asking nobody");
    }
}
