//! The tree of names of one torrent.
//!
//! Directories hold their children sorted by name, so that a look-up is a binary search and a position in a
//! listing stays good for as long as the tree lives. A tree never changes; a later version of a dataset is another
//! tree. Which inode numbers its nodes have, a [`super::view::View`] says.

use std::collections::HashMap;

use crate::metainfo::{Entry, EntryKind};
use crate::types::{FileIndex, FileRoot};

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
    #[error("expected at most {max} entries in a torrent", max = u32::MAX - 1)]
    TooMany,
}

/// Position of the root of every tree.
pub(super) const ROOT: u32 = 0;

/// A name and what it stands for.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) name: Box<str>,
    /// The directory that holds it; the root holds itself.
    pub(super) parent: u32,
    pub(super) kind: NodeKind,
}

/// What a node is.
#[derive(Debug)]
pub(super) enum NodeKind {
    /// Children sorted by the bytes of their names; how many of them are directories.
    Directory { children: Box<[u32]>, subdirectories: u32 },
    /// Bytes of the torrent.
    File { file: FileIndex, length: u64, executable: bool, root: Option<Box<FileRoot>> },
    /// A symbolic link.
    Symlink { target: Box<str> },
}

impl NodeKind {
    pub(super) fn is_directory(&self) -> bool {
        matches!(self, Self::Directory { .. })
    }

    /// What lies below it, if it is a directory.
    pub(super) fn children(&self) -> &[u32] {
        match self {
            Self::Directory { children, .. } => children,
            Self::File { .. } | Self::Symlink { .. } => &[],
        }
    }
}

/// All names of one torrent. A node comes behind the directory that holds it.
#[derive(Debug)]
pub(super) struct Tree {
    nodes: Vec<Node>,
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

    /// A tree with nothing in it.
    pub(super) fn empty() -> Self {
        Builder::new().finish()
    }

    /// The node at a position.
    pub(super) fn node(&self, at: u32) -> Option<&Node> {
        self.nodes.get(at as usize)
    }

    /// All nodes, by position.
    pub(super) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The names from the root to a node, joined by `/`.
    pub(super) fn path(&self, at: u32) -> String {
        let mut names = Vec::new();
        let mut node = self.node(at);
        while let Some(Node { name, parent, .. }) = node.filter(|node| !node.name.is_empty()) {
            names.push(&**name);
            node = self.node(*parent);
        }
        names.reverse();
        names.join("/")
    }

    /// The files of the torrent.
    pub(super) fn files(&self) -> impl Iterator<Item = FileIndex> + '_ {
        self.nodes.iter().filter_map(|node| match node.kind {
            NodeKind::File { file, .. } => Some(file),
            _ => None,
        })
    }

    /// The child of that name. `None` also where `parent` is no directory.
    pub(super) fn child(&self, parent: u32, name: &[u8]) -> Option<u32> {
        let children = self.node(parent)?.kind.children();
        let by_name = |&child: &u32| self.nodes[child as usize].name.as_bytes().cmp(name);
        children.binary_search_by(by_name).ok().map(|at| children[at])
    }
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
            Some(&at) if self.nodes[at as usize].kind.is_directory() => Ok(at),
            Some(_) => Err(TreeError::Conflict { path: path.to_owned() }),
            None => self.insert(parent, name, empty_directory()),
        }
    }

    fn insert(&mut self, parent: u32, name: &'a str, kind: NodeKind) -> Result<u32, TreeError> {
        let at = u32::try_from(self.nodes.len()).ok().filter(|&at| at < u32::MAX).ok_or(TreeError::TooMany)?;
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
            let is_directory = |&&child: &&u32| self.nodes[child as usize].kind.is_directory();
            let count = list.iter().filter(is_directory).count() as u32;
            if let NodeKind::Directory { children, subdirectories } = &mut self.nodes[at].kind {
                *children = list.into_boxed_slice();
                *subdirectories = count;
            }
        }
        Tree { nodes: self.nodes }
    }
}

fn empty_directory() -> NodeKind {
    NodeKind::Directory { children: Box::default(), subdirectories: 0 }
}
