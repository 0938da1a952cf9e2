//! What the node can be asked of datasets that change.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What is known of a dataset, and what others know of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatasetRequest {
    /// Its name: the original InfoSig, as hex digits.
    pub origin: String,
    /// Peers to dial at once.
    #[serde(default)]
    pub peers: Vec<String>,
    /// Sources to ask, of those that the node has; `None` for all of them.
    #[serde(default)]
    pub discovery: Option<Vec<String>>,
    /// How long to ask peers and networks for a newer version; zero tells what is known here.
    #[serde(default)]
    pub look: Duration,
    /// The versions whose metainfo is wanted, fetched if need be; `None` of them is the newest.
    #[serde(default)]
    pub metainfos: Vec<Option<u64>>,
}

/// A dataset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatasetInfo {
    /// Its name: the original InfoSig.
    pub origin: String,
    /// The InfoHash of its first version, where a record or that version's metainfo says it.
    #[serde(default)]
    pub original_hash: Option<String>,
    /// Every version known, ascending. The last one is the newest. Of a first version without a record, the metainfo is
    /// here.
    pub versions: Vec<VersionInfo>,
    /// Versions of which there are two records: the key has signed both, or has been copied.
    pub conflicts: Vec<VersionInfo>,
    /// The metainfos that were asked for, as hex digits, in their order; `None` of those that nobody had in time.
    pub metainfos: Vec<Option<String>>,
    /// What is published of it from this store.
    pub path: Option<PathBuf>,
    /// When it was last found out what the newest version is, in Unix seconds.
    pub checked_at: Option<i64>,
    /// Who answered: peers and networks.
    pub answers: usize,
}

/// A dataset that somebody uses, as `knot status` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatasetStatus {
    /// Its name: the original InfoSig.
    pub origin: String,
    /// The newest version that is known.
    pub newest: Option<VersionInfo>,
    /// How many versions are known.
    pub versions: usize,
    /// When it was last found out what the newest version is, in Unix seconds.
    pub checked_at: Option<i64>,
    /// Followers that were met.
    pub followers: usize,
    /// Why the newest version is not shown; `None` where it is.
    pub problem: Option<String>,
    /// Versions of which there are two records.
    pub conflicts: Vec<VersionInfo>,
    /// What is kept of it, where it is mirrored.
    #[serde(default)]
    pub mirror: Option<MirrorStatus>,
}

/// A dataset to keep and to serve, without its key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MirrorRequest {
    /// Its name: the original InfoSig, as hex digits.
    pub origin: String,
    /// How many versions' content is kept, the newest ones. Of all others, the metainfo.
    pub keep: u32,
    /// Peers to dial at once.
    #[serde(default)]
    pub peers: Vec<String>,
    /// Sources to ask, of those that the node has; `None` for all of them.
    #[serde(default)]
    pub discovery: Option<Vec<String>>,
    /// How often to look for a newer version; `None` for the usual.
    #[serde(default)]
    pub poll: Option<Duration>,
    /// How long to wait until anybody knows it.
    pub timeout: Duration,
}

/// How far a mirror is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MirrorStatus {
    /// How many versions' content is to be kept.
    pub keep: u32,
    /// Versions that are served, with their metainfo at least.
    pub served: usize,
    /// Versions whose content is kept and all here, newest first.
    pub complete: Vec<u64>,
    /// Versions whose content is being fetched, newest first.
    pub fetching: Vec<u64>,
    /// Known versions whose metainfo nobody had so far, newest first.
    pub missing: Vec<u64>,
    /// Why not all is kept that should be.
    pub problem: Option<String>,
}

/// A version of a dataset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionInfo {
    /// Which.
    pub seq: u64,
    /// Its InfoHash.
    pub info_hash: String,
    /// Its InfoSig.
    pub info_sig: String,
    /// When the publisher says that it was signed, in Unix seconds; a first version may have no record.
    pub signed_at: Option<i64>,
}

/// A version to publish. The command has hashed and signed it: the node never sees a secret key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishRequest {
    /// The file or directory; absolute.
    pub path: PathBuf,
    /// Its signed metainfo, as hex digits.
    pub metainfo: String,
    /// The update record as networks carry it, as hex digits.
    pub record: String,
    /// The newest version that the publisher knew of; nothing is published if there is another by now.
    pub replaces: Option<u64>,
    /// The files as they were when they were hashed: (index in the torrent, size, mtime, ctime, inode). Empty where the
    /// version is one of before, whose files need not be here.
    pub stamps: Vec<(u32, crate::types::FileStamp)>,
    /// How published bytes are kept when the path changes.
    pub snapshot: Snapshot,
    /// Peers to dial at once.
    #[serde(default)]
    pub peers: Vec<String>,
    /// Sources to announce to, of those that the node has; `None` for all of them.
    #[serde(default)]
    pub discovery: Option<Vec<String>>,
}

/// How published bytes are kept when what they were published from changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Snapshot {
    /// By reflinks, where the filesystem has them.
    #[default]
    Auto,
    /// By reflinks, else by copies.
    Copy,
    /// Not at all.
    None,
}

/// What became of a version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// Peers that were told at once.
    pub peers: usize,
    /// Networks that took the record, with the number of nodes where they tell.
    pub networks: Vec<(String, usize)>,
    /// What the user should know: networks that failed, bytes that are not kept.
    pub notes: Vec<String>,
}
