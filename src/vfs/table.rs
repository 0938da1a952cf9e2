//! Which inode numbers mean what at this moment.
//!
//! What the mount shows is in the table by its view. What only older versions have, or versions that are looked into
//! below `.knot/versions`, is in it for as long as the kernel knows it: a node is counted with every answer that names
//! it, and goes when the kernel has forgotten it as often.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::attr::FIXED;
use super::dataset::Release;
use super::ino::Ino;
use super::tree::ROOT;
use super::view::View;

/// Versions below `.knot/versions` whose trees are kept for as long as the kernel knows their directories.
const MAX_KEPT_TREES: usize = 4;

/// What an inode is.
#[derive(Clone)]
pub(super) enum Place {
    /// A node of a version.
    Node(Arc<View>, u32),
    /// `.knot`.
    Hidden,
    /// `.knot/status`.
    Status,
    /// `.knot/versions`.
    Versions,
    /// `.knot/versions/<seq>`.
    Version(u64),
    /// `.knot/current`, as it was when it led to this version.
    Current(u64),
}

/// An inode of which the kernel has been told.
struct Known {
    /// How often.
    lookups: u64,
    /// Whether it was opened since, so that the kernel may have pages of it.
    was_opened: bool,
    /// What it is, where the view that is shown does not tell.
    place: Option<Place>,
}

/// A switch to another version under way.
pub(super) struct Drain {
    /// What comes.
    pub(super) next: Arc<View>,
    /// What is shown until then, with directories of other numbers: see [`super::switch`].
    pub(super) apart: Arc<View>,
    /// What comes, at a place of its own below `.knot`: see [`super::switch::Switch::kept`].
    pub(super) coming: Option<(Box<str>, Arc<View>)>,
}

/// All of it.
pub(super) struct Table {
    pub(super) current: Arc<View>,
    pub(super) release: Option<Release>,
    pub(super) drain: Option<Drain>,
    known: HashMap<Ino, Known>,
    /// Versions that are looked into, if their trees are still there.
    trees: HashMap<u64, Weak<View>>,
    /// Trees that were looked into last.
    kept: VecDeque<(u64, Arc<View>)>,
    /// Places below `.knot` where versions have come, and the kernel may still know them.
    pub(super) leftovers: Vec<Box<str>>,
    /// The number of `.knot/current`, and the version that it leads to.
    link: Option<(u64, Ino)>,
}

/// Views that are no longer needed. To be dropped where no lock is held: with the last goes the content of a version.
#[must_use]
#[derive(Default)]
pub(super) struct Garbage(#[allow(dead_code, reason = "only dropped")] Vec<Place>);

impl Table {
    pub(super) fn new(current: View, release: Option<Release>) -> Self {
        Self {
            current: Arc::new(current),
            release,
            drain: None,
            known: HashMap::new(),
            trees: HashMap::new(),
            kept: VecDeque::new(),
            leftovers: Vec::new(),
            link: None,
        }
    }

    /// What an inode is.
    pub(super) fn place(&self, ino: Ino) -> Option<Place> {
        match ino {
            Ino::HIDDEN => return Some(Place::Hidden),
            Ino::STATUS => return Some(Place::Status),
            Ino::VERSIONS => return Some(Place::Versions),
            _ => {}
        }
        if let Some(Known { place: Some(place), .. }) = self.known.get(&ino) {
            return Some(place.clone());
        }
        self.current.find(ino).map(|at| Place::Node(Arc::clone(&self.current), at))
    }

    /// What a name in the root leads to, and for how long that may be remembered.
    pub(super) fn in_root(&self, name: &[u8]) -> (Option<(Ino, Place)>, Duration) {
        let find = |view: &View| view.tree.child(ROOT, name).map(|at| (view.ino(at), at));
        let found = find(&self.current);
        let current = |(ino, at)| (ino, Place::Node(Arc::clone(&self.current), at));
        match &self.drain {
            _ if self.current.version.is_none() => (None, Duration::ZERO),
            None => (found.map(current), FIXED),
            Some(drain) if find(&drain.next).map(|next| next.0) == found.map(|found| found.0) => {
                (found.map(current), FIXED)
            }
            Some(drain) => {
                let is_directory = |at| self.current.tree.node(at).is_some_and(|node| node.kind.is_directory());
                let draining = |(ino, at)| match is_directory(at) {
                    true => (drain.apart.ino(at), Place::Node(Arc::clone(&drain.apart), at)),
                    false => current((ino, at)),
                };
                (found.map(draining), Duration::ZERO)
            }
        }
    }

    /// Whether what a listing of the root of `view` says may be remembered.
    pub(super) fn is_steady(&self, view: &Arc<View>) -> bool {
        self.drain.is_none() && Arc::ptr_eq(view, &self.current)
    }

    /// How long the attributes of the root hold.
    pub(super) fn root_valid_for(&self) -> Duration {
        let is_steady = self.drain.is_none() && self.current.version.is_some();
        if is_steady { FIXED } else { Duration::ZERO }
    }

    /// Counts that the kernel is told of an inode. Whatever is shown by the time that the answer is there, the inode
    /// is found from now on.
    pub(super) fn remember(&mut self, ino: Ino, place: &Place) {
        if ino.is_fixed() {
            return;
        }
        let is_shown = self.current.find(ino).is_some();
        let known = self.known.entry(ino).or_insert(Known { lookups: 0, was_opened: false, place: None });
        known.lookups += 1;
        if known.place.is_none() && !is_shown {
            known.place = Some(place.clone());
        }
    }

    /// Notes that an inode is opened.
    pub(super) fn note_open(&mut self, ino: Ino) {
        if let Some(known) = self.known.get_mut(&ino) {
            known.was_opened = true;
        }
    }

    /// The inodes that were opened since the kernel has known them.
    pub(super) fn opened(&self) -> Vec<Ino> {
        self.known.iter().filter(|(_, known)| known.was_opened).map(|(ino, _)| *ino).collect()
    }

    /// What a name below `.knot` leads to that is there during a switch only.
    pub(super) fn coming(&self, name: &[u8]) -> Option<(Ino, Place)> {
        let (own, view) = self.drain.as_ref()?.coming.as_ref()?;
        (own.as_bytes() == name).then(|| (view.ino(ROOT), Place::Node(Arc::clone(view), ROOT)))
    }

    /// Takes back what [`Table::remember`] has counted.
    pub(super) fn forget(&mut self, ino: Ino, lookups: u64, garbage: &mut Garbage) {
        let Some(known) = self.known.get_mut(&ino) else { return };
        known.lookups = known.lookups.saturating_sub(lookups);
        if known.lookups > 0 {
            return;
        }
        let place = self.known.remove(&ino).and_then(|known| known.place);
        if let Some(seq) = ino.version() {
            self.drop_trees(garbage, |kept| kept == seq);
        }
        garbage.0.extend(place);
    }

    /// Shows another version.
    pub(super) fn flip(&mut self, next: Arc<View>, gone: &[(Ino, u32)], garbage: &mut Garbage) {
        for (ino, at) in gone {
            if let Some(known) = self.known.get_mut(ino) {
                // A number that is shown has no place of its own.
                known.place = Some(Place::Node(Arc::clone(&self.current), *at));
            }
        }
        self.drop_trees(garbage, |_| true);
        let before = std::mem::replace(&mut self.current, next);
        garbage.0.push(Place::Node(before, ROOT));
        garbage.0.extend(self.end_drain());
    }

    /// Ends a switch that is not to be.
    pub(super) fn cancel(&mut self, garbage: &mut Garbage) {
        garbage.0.extend(self.end_drain());
    }

    fn end_drain(&mut self) -> Vec<Place> {
        let Some(Drain { next, apart, coming }) = self.drain.take() else { return Vec::new() };
        let views = [next, apart].into_iter().chain(coming.map(|(_, view)| view));
        views.map(|view| Place::Node(view, ROOT)).collect()
    }

    /// The tree of a version below `.knot/versions`, if it is there.
    pub(super) fn tree(&self, seq: u64) -> Option<Arc<View>> {
        self.trees.get(&seq)?.upgrade()
    }

    /// Keeps the tree of a version; if another came first, that one is the tree.
    pub(super) fn keep_tree(&mut self, seq: u64, view: Arc<View>, garbage: &mut Garbage) -> Arc<View> {
        if let Some(first) = self.tree(seq) {
            garbage.0.push(Place::Node(view, ROOT));
            return first;
        }
        self.trees.retain(|_, tree| tree.strong_count() > 0);
        self.trees.insert(seq, Arc::downgrade(&view));
        // Without this, a look-up of a file that the mount shows as well would leave nothing behind that holds the
        // tree, and each would build it anew.
        if Ino::of_version(seq).is_some_and(|ino| self.known.contains_key(&ino)) {
            self.kept.push_back((seq, Arc::clone(&view)));
            if self.kept.len() > MAX_KEPT_TREES {
                garbage.0.extend(self.kept.pop_front().map(|(_, view)| Place::Node(view, ROOT)));
            }
        }
        view
    }

    fn drop_trees(&mut self, garbage: &mut Garbage, is_dropped: impl Fn(u64) -> bool) {
        let kept = std::mem::take(&mut self.kept);
        let (dropped, kept): (VecDeque<_>, VecDeque<_>) = kept.into_iter().partition(|(seq, _)| is_dropped(*seq));
        self.kept = kept;
        garbage.0.extend(dropped.into_iter().map(|(_, view)| Place::Node(view, ROOT)));
    }

    /// The number of `.knot/current` while it leads to this version: *an inode never changes its bytes*.
    pub(super) fn link(&mut self, seq: u64, fresh: impl FnOnce() -> Ino) -> Ino {
        match self.link {
            Some((led_to, ino)) if led_to == seq => ino,
            _ => self.link.insert((seq, fresh())).1,
        }
    }

    /// How many inodes are here only because the kernel knows them.
    #[cfg(test)]
    pub(super) fn left_over(&self) -> usize {
        self.known.values().filter(|known| known.place.is_some()).count()
    }

    /// How many inodes the kernel knows.
    #[cfg(test)]
    pub(super) fn known(&self) -> usize {
        self.known.len()
    }
}
