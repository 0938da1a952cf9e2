//! What changes below a mount: versions, and the dataset that they are versions of.

use std::sync::Arc;

use super::content::Content;
use crate::metainfo::Metainfo;
use crate::types::{InfoHash, InfoSig};

/// What one version of a mount shows.
#[derive(Clone)]
pub struct Version {
    /// The names.
    pub metainfo: Arc<Metainfo>,
    /// The bytes.
    pub content: Arc<dyn Content>,
    /// What the publisher says of it, where it is a version of a dataset.
    pub release: Option<Release>,
}

/// What the publisher says of a version of a dataset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    /// Names the dataset: the InfoSig of its first version.
    pub origin: InfoSig,
    /// Which version.
    pub seq: u64,
    /// When it was signed, in Unix seconds.
    pub signed_at: Option<i64>,
}

/// What a version is, as far as that is known without its metainfo.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionInfo {
    /// Its InfoHash.
    pub info_hash: InfoHash,
    /// The publisher's signature of that.
    pub info_sig: InfoSig,
    /// When it was signed, in Unix seconds.
    pub signed_at: Option<i64>,
}

/// The versions of the dataset that a mount follows. None of its methods waits.
pub trait Dataset: Send + Sync + 'static {
    /// Every version known, ascending.
    fn seqs(&self) -> Vec<u64>;

    /// The newest version that can be shown; `None` while there is none.
    fn newest(&self) -> Option<u64>;

    /// What a version is, as far as known without its metainfo.
    fn describe(&self, seq: u64) -> Option<VersionInfo>;

    /// A version to look into. `None` while its metainfo is not here; asking has it fetched.
    fn version(&self, seq: u64) -> Option<Version>;

    /// When it was last found out what the newest is, in Unix seconds.
    fn checked_at(&self) -> Option<i64>;
}
