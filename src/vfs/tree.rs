//! The tree of inodes that one torrent shows.
//!
//! Numbers are dense and given once, in the order of building: number 1 is the root, number `n` lies at `n - 1`.
//! Directories hold their children sorted by name, so that a look-up is a binary search and a position in a
//! listing stays good for as long as the tree lives. A tree never changes: *an inode never changes its bytes*,
//! and a later version of a dataset is another tree, with numbers of its own for what differs.

use std::collections::HashMap;

use crate::metainfo::{Entry, EntryKind};
use crate::types::{FileIndex, FileRoot};

/// Number of an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ino(pub u64);

impl Ino {
    /// The root directory, by the convention of FUSE.
    pub const ROOT: Self = Self(1);
}

/// The hidden directory in the root: found by its name, never listed.
pub(super) const HIDDEN_DIR: &str = ".knot";
/// The file in it that tells how far the torrent is.
pub(super) const STATUS_FILE: &str = "status";

/// Entries that make no tree.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// Two entries want one name, and are not both directories.
    #[error("expected every path of the torrent once, got a second entry at {path:?}")]
    Conflict {
        /// The path of the second.
        path: String,
    },
    /// More entries than a number can name.
    #[error("expected at most {max} entries in a torrent", max = u32::MAX - 3)]
    TooMany,
}

/// An inode.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) name: Box<str>,
    parent: u32,
    pub(super) kind: NodeKind,
}

/// What an inode is.
#[derive(Debug)]
pub(super) enum NodeKind {
    /// Children sorted by the bytes of their names; how many of them are directories.
    Directory { children: Box<[u32]>, subdirectories: u32 },
    /// Bytes of the torrent.
    File { file: FileIndex, length: u64, executable: bool, root: Option<Box<FileRoot>> },
    /// A symbolic link.
    Symlink { target: Box<str> },
    /// The report in the hidden directory.
    Status,
}

/// All inodes of one torrent.
#[derive(Debug)]
pub(super) struct Tree {
    nodes: Vec<Node>,
    hidden: u32,
}

impl Tree {
    /// The tree of `entries`. Directories on the way to an entry are made where no entry names them.
    pub(super) fn build(entries: &[Entry]) -> Result<Self, TreeError> {
        let mut builder = Builder::new();
        for (index, entry) in entries.iter().enumerate() {
            let index = u32::try_from(index).map_err(|_| TreeError::TooMany)?;
            builder.add(FileIndex(index), entry)?;
        }
        Ok(builder.finish())
    }

    /// The inode with this number.
    pub(super) fn node(&self, ino: Ino) -> Option<&Node> {
        self.nodes.get(usize::try_from(ino.0.checked_sub(1)?).ok()?)
    }

    /// How many inodes the torrent has; the hidden ones are not counted.
    pub(super) fn len(&self) -> u64 {
        u64::from(self.hidden)
    }

    /// The files of the torrent.
    pub(super) fn files(&self) -> impl Iterator<Item = FileIndex> + '_ {
        self.nodes.iter().filter_map(|node| match node.kind {
            NodeKind::File { file, .. } => Some(file),
            _ => None,
        })
    }

    /// The directory that holds `node`; the root holds itself.
    pub(super) fn parent(&self, node: &Node) -> Ino {
        number(node.parent)
    }

    /// The child of that name, with `..` as the name of the parent. `None` also where `parent` is no directory.
    pub(super) fn child(&self, parent: Ino, name: &[u8]) -> Option<Ino> {
        let node = self.node(parent)?;
        let NodeKind::Directory { children, .. } = &node.kind else { return None };
        if name == b".." {
            return Some(self.parent(node));
        }
        let at = children.binary_search_by(|&child| self.nodes[child as usize].name.as_bytes().cmp(name));
        match at {
            Ok(at) => Some(number(children[at])),
            // What the torrent itself calls `.knot` comes first: everything that it holds must be readable.
            Err(_) if parent == Ino::ROOT && name == HIDDEN_DIR.as_bytes() => Some(number(self.hidden)),
            Err(_) => None,
        }
    }

    /// The child at a position of a directory's listing.
    pub(super) fn child_at(&self, children: &[u32], position: usize) -> Option<(Ino, &Node)> {
        let child = *children.get(position)?;
        Some((number(child), self.nodes.get(child as usize)?))
    }
}

fn number(at: u32) -> Ino {
    Ino(u64::from(at) + 1)
}

/// A tree while it grows; nodes are found by (parent, name).
struct Builder<'a> {
    nodes: Vec<Node>,
    by_name: HashMap<(u32, &'a str), u32>,
}

impl<'a> Builder<'a> {
    fn new() -> Self {
        Self { nodes: vec![Node { name: "".into(), parent: 0, kind: empty_directory() }], by_name: HashMap::new() }
    }

    fn add(&mut self, index: FileIndex, entry: &'a Entry) -> Result<(), TreeError> {
        let path = entry.path.as_str();
        let name = entry.path.file_name();
        let mut parent = 0;
        if let Some(directories) = entry.path.parent() {
            for component in directories.split('/') {
                parent = self.directory(parent, component, path)?;
            }
        }
        let kind = match &entry.kind {
            EntryKind::Directory => return self.directory(parent, name, path).map(drop),
            EntryKind::File { length, executable, root } => {
                NodeKind::File { file: index, length: *length, executable: *executable, root: root.map(Box::new) }
            }
            EntryKind::Symlink { target } => NodeKind::Symlink { target: target.as_str().into() },
        };
        if self.by_name.contains_key(&(parent, name)) {
            return Err(TreeError::Conflict { path: path.to_owned() });
        }
        self.insert(parent, name, kind).map(drop)
    }

    /// The directory of that name, made if it is not there.
    fn directory(&mut self, parent: u32, name: &'a str, path: &str) -> Result<u32, TreeError> {
        match self.by_name.get(&(parent, name)) {
            Some(&at) if matches!(self.nodes[at as usize].kind, NodeKind::Directory { .. }) => Ok(at),
            Some(_) => Err(TreeError::Conflict { path: path.to_owned() }),
            None => self.insert(parent, name, empty_directory()),
        }
    }

    fn insert(&mut self, parent: u32, name: &'a str, kind: NodeKind) -> Result<u32, TreeError> {
        // Two numbers are kept for the hidden directory and its file.
        let at = u32::try_from(self.nodes.len()).ok().filter(|&at| at < u32::MAX - 2).ok_or(TreeError::TooMany)?;
        self.nodes.push(Node { name: name.into(), parent, kind });
        self.by_name.insert((parent, name), at);
        Ok(at)
    }

    fn finish(mut self) -> Tree {
        drop(std::mem::take(&mut self.by_name));
        let mut children: Vec<Vec<u32>> = Vec::new();
        children.resize_with(self.nodes.len(), Vec::new);
        for (at, node) in self.nodes.iter().enumerate().skip(1) {
            children[node.parent as usize].push(at as u32);
        }
        for (at, mut list) in children.into_iter().enumerate() {
            list.sort_unstable_by(|&a, &b| self.nodes[a as usize].name.cmp(&self.nodes[b as usize].name));
            let is_directory = |&&child: &&u32| matches!(self.nodes[child as usize].kind, NodeKind::Directory { .. });
            let count = list.iter().filter(is_directory).count() as u32;
            if let NodeKind::Directory { children, subdirectories } = &mut self.nodes[at].kind {
                *children = list.into_boxed_slice();
                *subdirectories = count;
            }
        }
        let hidden = self.nodes.len() as u32;
        let children = Box::from([hidden + 1]);
        let kind = NodeKind::Directory { children, subdirectories: 0 };
        self.nodes.push(Node { name: HIDDEN_DIR.into(), parent: 0, kind });
        self.nodes.push(Node { name: STATUS_FILE.into(), parent: hidden, kind: NodeKind::Status });
        Tree { nodes: self.nodes, hidden }
    }
}

fn empty_directory() -> NodeKind {
    NodeKind::Directory { children: Box::default(), subdirectories: 0 }
}
