//! Numbers of inodes.

use std::sync::atomic::{AtomicU64, Ordering};

/// Number of an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ino(pub u64);

/// Where the numbers of `versions/<seq>` begin: such a directory has its number by its seq, so that a listing need not
/// remember any. A seq is below 2^63.
const VERSIONS_FROM: u64 = 1 << 63;

impl Ino {
    /// The root directory, by the convention of FUSE.
    pub const ROOT: Self = Self(1);
    /// `.knot`.
    pub(super) const HIDDEN: Self = Self(2);
    /// `.knot/status`.
    pub(super) const STATUS: Self = Self(3);
    /// `.knot/versions`.
    pub(super) const VERSIONS: Self = Self(4);
    /// The first that is given out by [`Numbers`].
    const FIRST: u64 = 16;

    /// `.knot/versions/<seq>`, if a version can have that number.
    pub(super) fn of_version(seq: u64) -> Option<Self> {
        (seq < VERSIONS_FROM).then_some(Self(VERSIONS_FROM | seq))
    }

    /// The version whose directory this is.
    pub(super) fn version(self) -> Option<u64> {
        self.0.checked_sub(VERSIONS_FROM)
    }

    /// Whether it means the same for as long as the mount, whoever knows it.
    pub(super) fn is_fixed(self) -> bool {
        self.0 < Self::FIRST
    }
}

/// Gives out numbers, none of them twice.
pub(super) struct Numbers(AtomicU64);

impl Default for Numbers {
    fn default() -> Self {
        Self(AtomicU64::new(Ino::FIRST))
    }
}

impl Numbers {
    pub(super) fn next(&self) -> Ino {
        Ino(self.0.fetch_add(1, Ordering::Relaxed))
    }
}
