//! A tree with its inode numbers: one version as it is shown at one place.
//!
//! *An inode never changes its bytes*, and keeps its number for as long as it is the same: a file that has the same
//! path, content and executable bit, a symbolic link with the same path and target. A directory below the root has its
//! number only for as long as nothing changes below the *root's* entry that it lies in. That is stricter than it has
//! to be for consistency (whoever is in a directory goes on seeing the version that it belongs to), for the kernel's
//! sake: it knows one path to a directory, and to move one that is in use from a parent that has been replaced to its
//! successor can fail with ESTALE when two programs look it up at once. Files can have any number of paths.

use std::sync::Arc;

use super::dataset::Version;
use super::ino::{Ino, Numbers};
use super::tree::{NodeKind, ROOT, Tree, TreeError};

/// One version, as it is shown at one place. Never changes.
pub(super) struct View {
    pub(super) tree: Arc<Tree>,
    /// What is shown; `None` while there is nothing.
    pub(super) version: Option<Version>,
    /// By position in the tree.
    labels: Box<[Label]>,
    /// Sorted by number; only of a view that inodes are found in by their numbers.
    by_ino: Box<[(Ino, u32)]>,
}

/// What an inode keeps from version to version.
#[derive(Clone, Copy, Debug)]
struct Label {
    ino: Ino,
    mtime_s: u64,
}

impl View {
    /// An empty directory, for as long as there is nothing to show.
    pub(super) fn empty() -> Self {
        let labels = Box::from([Label { ino: Ino::ROOT, mtime_s: 0 }]);
        Self { tree: Arc::new(Tree::empty()), version: None, labels, by_ino: Box::from([(Ino::ROOT, ROOT)]) }
    }

    /// A version in the place of `before`: what has not changed keeps its number.
    pub(super) fn after(before: &Self, version: Version, numbers: &Numbers) -> Result<Self, TreeError> {
        let tree = before.tree_of(&version)?;
        let twins = Twins::new(before, &tree, &version);
        let mut kept = vec![false; tree.nodes().len()];
        for (at, node) in tree.nodes().iter().enumerate().skip(1) {
            kept[at] = match node.kind {
                NodeKind::Directory { .. } if node.parent != ROOT => kept[node.parent as usize],
                _ => twins.same[at],
            };
        }
        let labels = label(&tree, &version, Ino::ROOT, numbers, |at| kept[at].then(|| twins.label(before, at))?);
        let mut by_ino: Box<[_]> = labels.iter().zip(0..).map(|(label, at)| (label.ino, at)).collect();
        by_ino.sort_unstable();
        Ok(Self { tree, version: Some(version), labels, by_ino })
    }

    /// A version at a place of its own, below `root`: files that `live` has as well share their numbers with it, as
    /// hard links would.
    pub(super) fn apart(live: &Self, version: Version, root: Ino, numbers: &Numbers) -> Result<Self, TreeError> {
        let tree = live.tree_of(&version)?;
        let twins = Twins::new(live, &tree, &version);
        let is_shared = |at: usize| twins.same[at] && !tree.nodes()[at].kind.is_directory();
        let labels = label(&tree, &version, root, numbers, |at| is_shared(at).then(|| twins.label(live, at))?);
        Ok(Self { tree, version: Some(version), labels, by_ino: Box::default() })
    }

    /// The tree of a version: this one, if it is the same.
    fn tree_of(&self, version: &Version) -> Result<Arc<Tree>, TreeError> {
        match self.shows(version) {
            true => Ok(Arc::clone(&self.tree)),
            false => Tree::build(version.metainfo.entries()).map(Arc::new),
        }
    }

    /// Whether this is what it shows.
    pub(super) fn shows(&self, version: &Version) -> bool {
        self.version.as_ref().is_some_and(|own| own.metainfo.info_hash() == version.metainfo.info_hash())
    }

    /// The number of the node at a position.
    pub(super) fn ino(&self, at: u32) -> Ino {
        self.labels.get(at as usize).map_or(Ino::ROOT, |label| label.ino)
    }

    pub(super) fn mtime_s(&self, at: u32) -> u64 {
        self.labels.get(at as usize).map_or(0, |label| label.mtime_s)
    }

    /// The position of the node with this number.
    pub(super) fn find(&self, ino: Ino) -> Option<u32> {
        let at = self.by_ino.binary_search_by_key(&ino, |(ino, _)| *ino).ok()?;
        Some(self.by_ino[at].1)
    }

    /// The inodes of this view that `next` does not have.
    pub(super) fn gone_in(&self, next: &Self) -> Vec<(Ino, u32)> {
        self.by_ino.iter().filter(|(ino, _)| next.find(*ino).is_none()).copied().collect()
    }

    /// Paths below the root of those of `opened` that `next` has as well; if not `all`, only in directories that are
    /// new in it.
    pub(super) fn moved_to(&self, next: &Self, opened: &[Ino], all: bool) -> Vec<String> {
        let is_moved = |at: u32| {
            let parent = next.tree.node(at).map_or(ROOT, |node| node.parent);
            parent != ROOT && (all || self.find(next.ino(parent)).is_none())
        };
        let in_both = opened.iter().filter(|ino| self.find(**ino).is_some()).filter_map(|ino| next.find(*ino));
        in_both.filter(|at| is_moved(*at)).map(|at| next.tree.path(at)).collect()
    }

    /// Names in the root that lead elsewhere in `next`, or are in one of both only.
    pub(super) fn changed_in(&self, next: &Self) -> Vec<Box<str>> {
        let mut names: Vec<Box<str>> = Vec::new();
        names.extend(
            self.root_entries().filter(|(name, ino)| next.root_entry(name) != Some(*ino)).map(|(n, _)| n.into()),
        );
        names.extend(next.root_entries().filter(|(name, _)| self.root_entry(name).is_none()).map(|(n, _)| n.into()));
        names
    }

    fn root_entries(&self) -> impl Iterator<Item = (&str, Ino)> {
        let children = self.tree.node(ROOT).map(|root| root.kind.children()).unwrap_or_default();
        children.iter().filter_map(|&at| Some((&*self.tree.node(at)?.name, self.ino(at))))
    }

    fn root_entry(&self, name: &str) -> Option<Ino> {
        self.tree.child(ROOT, name.as_bytes()).map(|at| self.ino(at))
    }
}

/// Numbers for every node: what `known` says, else a new one.
fn label(
    tree: &Tree,
    version: &Version,
    root: Ino,
    numbers: &Numbers,
    known: impl Fn(usize) -> Option<Label>,
) -> Box<[Label]> {
    let mtime_s = version.metainfo.created_at().and_then(|at| u64::try_from(at).ok()).unwrap_or(0);
    let fresh = || Label { ino: numbers.next(), mtime_s };
    let below = (1..tree.nodes().len()).map(|at| known(at).unwrap_or_else(fresh));
    std::iter::once(Label { ino: root, mtime_s }).chain(below).collect()
}

/// Which nodes of a tree are as they were in a view.
struct Twins {
    /// The node at the same path before, by position.
    before: Vec<Option<u32>>,
    /// Whether it is the same: a directory if everything below it is.
    same: Vec<bool>,
}

impl Twins {
    fn new(view: &View, tree: &Tree, version: &Version) -> Self {
        let (old, nodes) = (&view.tree, tree.nodes());
        let is_same_torrent = view.shows(version);
        let mut before = vec![None; nodes.len()];
        let mut same = vec![false; nodes.len()];
        before[ROOT as usize] = Some(ROOT);
        for (at, node) in nodes.iter().enumerate() {
            let Some(twin) = before[at].and_then(|twin| old.node(twin)) else { continue };
            same[at] = is_same(&twin.kind, &node.kind, is_same_torrent);
            let mut mine = node.kind.children().iter().copied().peekable();
            for &theirs in twin.kind.children() {
                let name = old.node(theirs).map(|child| &child.name);
                while mine.next_if(|&child| tree.node(child).map(|child| &child.name) < name).is_some() {}
                if let Some(child) = mine.next_if(|&child| tree.node(child).map(|child| &child.name) == name) {
                    before[child as usize] = Some(theirs);
                }
            }
        }
        // Children come behind their parents, so from the end every directory is met after all that it holds.
        for at in (1..nodes.len()).rev() {
            if !same[at] {
                same[nodes[at].parent as usize] = false;
            }
        }
        Self { before, same }
    }

    fn label(&self, view: &View, at: usize) -> Option<Label> {
        view.labels.get(self.before[at]? as usize).copied()
    }
}

/// Whether two nodes of one path are the same by themselves; a directory that has as many entries.
pub(super) fn is_same(old: &NodeKind, new: &NodeKind, is_same_torrent: bool) -> bool {
    match (old, new) {
        (NodeKind::Directory { children: old, .. }, NodeKind::Directory { children: new, .. }) => {
            old.len() == new.len()
        }
        (NodeKind::Symlink { target: old }, NodeKind::Symlink { target: new }) => old == new,
        (
            NodeKind::File { file: old_file, length: old_length, executable: old_executable, root: old_root },
            NodeKind::File { file, length, executable, root },
        ) => {
            // A root alone does not tell a file of two leaf hashes from the file that they hash, so that the length
            // counts as well; and no file has other bytes than an empty one.
            let has_same_bytes = *length == 0
                || (root.is_some() && old_root == root)
                || (is_same_torrent && root.is_none() && old_file == file);
            old_length == length && old_executable == executable && has_same_bytes
        }
        _ => false,
    }
}
