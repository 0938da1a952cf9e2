//! What a mount shows: a torrent, or an empty directory until there is one.

use std::sync::OnceLock;

use crate::vfs::{EmptyRoot, Vfs};

/// What a mount shows.
pub(super) enum View {
    /// A torrent.
    Torrent(Box<Vfs>),
    /// An empty directory, whose place a torrent takes once.
    Late(EmptyRoot, OnceLock<Box<Vfs>>),
}

impl View {
    /// What there is at this moment: the torrent, or else the directory that waits for it.
    pub(super) fn shown(&self) -> Result<&Vfs, &EmptyRoot> {
        match self {
            Self::Torrent(vfs) => Ok(vfs),
            Self::Late(empty, place) => place.get().map(|vfs| &**vfs).ok_or(empty),
        }
    }

    /// Shows a torrent from now on. False if there is one already.
    pub(super) fn fill(&self, vfs: Vfs) -> bool {
        match self {
            Self::Torrent(_) => false,
            Self::Late(_, place) => place.set(Box::new(vfs)).is_ok(),
        }
    }
}
