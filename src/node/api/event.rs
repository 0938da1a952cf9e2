//! What the node tells of its mounts as it happens.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What has become of a mount; the version is the one that it shows from now on, where it shows one of a dataset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountEvent {
    /// What has happened.
    pub event: MountEventKind,
    /// Where.
    pub mountpoint: PathBuf,
    /// The dataset: its original InfoSig.
    pub origin: Option<String>,
    /// Which version.
    pub seq: Option<u64>,
    /// The InfoHash of what is shown; nothing while the mount waits for its metainfo.
    pub info_hash: Option<String>,
    /// Its InfoSig.
    pub info_sig: Option<String>,
    /// When the publisher says that it was signed, in Unix seconds.
    pub signed_at: Option<i64>,
    /// When it happened, in Unix seconds.
    pub at: i64,
}

/// What can become of a mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MountEventKind {
    /// It has come.
    Mount,
    /// It shows something else: another version, or what it has waited for.
    Switch,
    /// It is held on its version.
    Freeze,
    /// It is held no longer.
    Thaw,
    /// It has gone.
    Unmount,
}
