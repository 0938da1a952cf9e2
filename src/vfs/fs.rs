//! The filesystem: what names lead to, and what is told of it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use super::attr::{
    Attr, COMPLETE, FIXED, FileKind, Found, FsError, GROWING, Handle, NAME_MAX, Owner, STATFS_BLOCK, StatFs,
};
use super::dataset::{Dataset, Version};
use super::hidden::{CURRENT_LINK, HIDDEN_DIR, STATUS_FILE, VERSIONS_DIR};
use super::ino::{Ino, Numbers};
use super::open::Open;
use super::table::{Garbage, Place, Table};
use super::tree::{NodeKind, ROOT, TreeError};
use super::view::View;
use crate::types::BLOCK_LEN;

/// Says what is being waited for, whenever somebody asks.
pub type Says = Box<dyn Fn() -> String + Send + Sync>;

/// A torrent as a filesystem, or the versions of a dataset one after the other, or an empty directory that waits for
/// the first.
///
/// What a directory says depends on when it is asked only at the root, and below `.knot`: every other directory is
/// that of one version for ever.
pub struct Vfs {
    /// No method of the content or the dataset is called while it is locked.
    table: RwLock<Table>,
    pub(super) turn: Mutex<()>,
    pub(super) numbers: Numbers,
    pub(super) owner: Owner,
    pub(super) dataset: Option<Arc<dyn Dataset>>,
    pub(super) pending: Option<Pending>,
    pub(super) open: RwLock<HashMap<Handle, Open>>,
}

/// What is known of a torrent before there is anything to show.
pub(super) struct Pending {
    pub(super) info_id: String,
    pub(super) waits_for: Says,
}

impl Vfs {
    /// The filesystem of a version, and of those of `dataset`, everything in it owned by `owner`.
    ///
    /// # Errors
    /// When two entries have one path, which a [`crate::metainfo::Metainfo`] rules out.
    pub fn new(version: Version, dataset: Option<Arc<dyn Dataset>>, owner: Owner) -> Result<Self, TreeError> {
        let numbers = Numbers::default();
        let release = version.release.clone();
        let view = View::after(&View::empty(), version, &numbers)?;
        Ok(Self::with(Table::new(view, release), numbers, None, dataset, owner))
    }

    /// An empty directory that stands for the torrent with this InfoID, until [`Vfs::switch`]. Nothing about it may be
    /// remembered.
    pub fn pending(owner: Owner, info_id: String, waits_for: Says, dataset: Option<Arc<dyn Dataset>>) -> Self {
        let pending = Pending { info_id, waits_for };
        Self::with(Table::new(View::empty(), None), Numbers::default(), Some(pending), dataset, owner)
    }

    fn with(
        table: Table,
        numbers: Numbers,
        pending: Option<Pending>,
        dataset: Option<Arc<dyn Dataset>>,
        owner: Owner,
    ) -> Self {
        let (turn, open) = (Mutex::default(), RwLock::default());
        Self { table: RwLock::new(table), turn, numbers, owner, dataset, pending, open }
    }

    /// What a name leads to. An inode that is found is counted as known until it is forgotten as often.
    ///
    /// # Errors
    /// When `parent` is no directory, is not known, or cannot be looked into yet.
    pub fn lookup(&self, parent: Ino, name: &[u8]) -> Result<Found, FsError> {
        let place = self.place(parent)?;
        // Who exports the mount over NFS asks so for an inode that it has only the number of.
        if name == b"." {
            return self.found(Some((parent, place)), FIXED);
        }
        match place {
            Place::Node(_, ROOT) if parent == Ino::ROOT => self.lookup_in_root(name),
            Place::Node(view, at) => self.lookup_in(&view, at, name),
            Place::Version(seq) => self.lookup_in(&self.tree_of(seq)?, ROOT, name),
            Place::Hidden => self.lookup_hidden(name),
            Place::Versions => self.lookup_version(name),
            Place::Status | Place::Current(_) => Err(FsError::NotADirectory),
        }
    }

    fn lookup_in(&self, view: &Arc<View>, at: u32, name: &[u8]) -> Result<Found, FsError> {
        let node = view.tree.node(at).ok_or(FsError::NotFound)?;
        if !node.kind.is_directory() {
            return Err(FsError::NotADirectory);
        }
        let found = match name {
            b".." if at == ROOT => {
                let above = if view.ino(ROOT) == Ino::ROOT { Ino::ROOT } else { Ino::VERSIONS };
                Some((above, self.place(above)?))
            }
            b".." => Some((view.ino(node.parent), Place::Node(Arc::clone(view), node.parent))),
            _ => view.tree.child(at, name).map(|at| (view.ino(at), Place::Node(Arc::clone(view), at))),
        };
        self.found(found, FIXED)
    }

    fn lookup_in_root(&self, name: &[u8]) -> Result<Found, FsError> {
        if name == b".." {
            return self.found(Some((Ino::ROOT, self.place(Ino::ROOT)?)), FIXED);
        }
        let (found, valid_for) = self.table().in_root(name);
        // What the torrent itself calls `.knot` comes first: everything that it holds must be readable.
        match found {
            None if name == HIDDEN_DIR.as_bytes() && self.has_hidden() => {
                self.found(Some((Ino::HIDDEN, Place::Hidden)), Duration::ZERO)
            }
            found => self.found(found, valid_for),
        }
    }

    /// Whether there is anything to tell in the hidden directory.
    fn has_hidden(&self) -> bool {
        self.dataset.is_some() || self.table().current.version.is_some()
    }

    fn lookup_hidden(&self, name: &[u8]) -> Result<Found, FsError> {
        let found = match name {
            b".." => Some((Ino::ROOT, self.place(Ino::ROOT)?)),
            _ if name == STATUS_FILE.as_bytes() => Some((Ino::STATUS, Place::Status)),
            _ if name == VERSIONS_DIR.as_bytes() => self.dataset.as_ref().map(|_| (Ino::VERSIONS, Place::Versions)),
            _ if name == CURRENT_LINK.as_bytes() => self.current_link(),
            _ => self.table().coming(name),
        };
        self.found(found, Duration::ZERO)
    }

    fn lookup_version(&self, name: &[u8]) -> Result<Found, FsError> {
        if name == b".." {
            return self.found(Some((Ino::HIDDEN, Place::Hidden)), Duration::ZERO);
        }
        let found = self.version_called(name).and_then(|seq| Some((Ino::of_version(seq)?, Place::Version(seq))));
        self.found(found, Duration::ZERO)
    }

    fn found(&self, found: Option<(Ino, Place)>, name_valid_for: Duration) -> Result<Found, FsError> {
        let Some((ino, place)) = found else { return Ok(Found { attr: None, name_valid_for }) };
        let attr = self.attr_at(ino, &place)?;
        self.table_mut().remember(ino, &place);
        Ok(Found { attr: Some(attr), name_valid_for })
    }

    /// Takes back that inodes are known: for each, as many look-ups and lines of [`Vfs::read_dir_plus`] as are given.
    pub fn forget(&self, inodes: impl IntoIterator<Item = (Ino, u64)>) {
        let mut garbage = Garbage::default();
        let mut table = self.table_mut();
        for (ino, lookups) in inodes {
            table.forget(ino, lookups, &mut garbage);
        }
        drop(table);
    }

    /// Attributes of an inode.
    ///
    /// # Errors
    /// When there is no such inode.
    pub fn attr(&self, ino: Ino) -> Result<Attr, FsError> {
        self.attr_at(ino, &self.place(ino)?)
    }

    pub(super) fn attr_at(&self, ino: Ino, place: &Place) -> Result<Attr, FsError> {
        let mut attr = Attr {
            ino,
            kind: FileKind::Directory,
            size: 0,
            blocks: 0,
            mtime_s: 0,
            mode: 0o555,
            // Of a directory: one does not know how many are in it.
            links: 1,
            owner: self.owner,
            block_size: BLOCK_LEN,
            valid_for: Duration::ZERO,
        };
        match place {
            Place::Node(view, at) => self.fill_node(&mut attr, view, *at)?,
            Place::Hidden => attr.mtime_s = self.shown_mtime_s(),
            Place::Versions => attr.mtime_s = self.shown_mtime_s(),
            Place::Version(seq) => attr.mtime_s = self.signed_at_s(*seq),
            Place::Status => {
                attr.kind = FileKind::File;
                attr.mode = 0o444;
                attr.mtime_s = self.shown_mtime_s();
            }
            Place::Current(seq) => {
                attr.kind = FileKind::Symlink;
                attr.mode = 0o777;
                attr.size = Self::link_target(*seq).len() as u64;
                attr.mtime_s = self.signed_at_s(*seq);
            }
        }
        Ok(attr)
    }

    fn fill_node(&self, attr: &mut Attr, view: &View, at: u32) -> Result<(), FsError> {
        let node = view.tree.node(at).ok_or(FsError::NotFound)?;
        attr.mtime_s = view.mtime_s(at);
        attr.valid_for = FIXED;
        match &node.kind {
            NodeKind::Directory { subdirectories, .. } => {
                attr.links = subdirectories.saturating_add(2);
                if attr.ino == Ino::ROOT {
                    attr.valid_for = self.table().root_valid_for();
                }
            }
            NodeKind::Symlink { target } => {
                attr.kind = FileKind::Symlink;
                attr.size = target.len() as u64;
                attr.mode = 0o777;
            }
            NodeKind::File { file, length, executable, .. } => {
                let content = &view.version.as_ref().ok_or(FsError::NotFound)?.content;
                let cached = content.cached_bytes(*file).min(*length);
                attr.kind = FileKind::File;
                attr.size = *length;
                attr.blocks = cached.div_ceil(512).max(u64::from(*length > 0));
                attr.mode = if *executable { 0o555 } else { 0o444 };
                attr.valid_for = if cached == *length { COMPLETE } else { GROWING };
            }
        }
        Ok(())
    }

    fn shown_mtime_s(&self) -> u64 {
        self.table().current.mtime_s(ROOT)
    }

    /// Where a symbolic link leads.
    ///
    /// # Errors
    /// When it is none.
    pub fn read_link(&self, ino: Ino) -> Result<String, FsError> {
        match self.place(ino)? {
            Place::Current(seq) => Ok(Self::link_target(seq)),
            Place::Node(view, at) => match view.tree.node(at).map(|node| &node.kind) {
                Some(NodeKind::Symlink { target }) => Ok(target.to_string()),
                _ => Err(FsError::Invalid),
            },
            _ => Err(FsError::Invalid),
        }
    }

    /// The whole of what is shown.
    pub fn statfs(&self) -> StatFs {
        let current = self.current();
        let bytes = current.version.as_ref().map_or(0, |version| version.metainfo.total_length());
        StatFs {
            block_size: STATFS_BLOCK,
            blocks: bytes.div_ceil(u64::from(STATFS_BLOCK)),
            files: current.tree.nodes().len() as u64,
            name_max: NAME_MAX,
        }
    }

    /// What an inode is.
    pub(super) fn place(&self, ino: Ino) -> Result<Place, FsError> {
        self.table().place(ino).ok_or(FsError::NotFound)
    }

    /// What is shown.
    pub(super) fn current(&self) -> Arc<View> {
        Arc::clone(&self.table().current)
    }

    pub(super) fn table(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn table_mut(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Vfs {
    fn drop(&mut self) {
        self.close_all();
    }
}
