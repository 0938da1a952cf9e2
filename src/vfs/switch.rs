//! From one version to the next, under the eyes of programs.
//!
//! The kernel remembers what a name in the root leads to, so a switch has three steps:
//!
//! 1. From [`Vfs::switch`] on, names in the root that are about to change are answered as before, but nobody may
//!    remember them. Names that do not change may be remembered all along.
//! 2. Whoever serves the mount has the kernel forget each of [`Switch::names`]. That waits for answers that are under
//!    way to the kernel in a look-up or a listing of the root (it takes the lock that they hold), which is why no
//!    request may wait for a switch, and why this must not be done by a thread that answers requests.
//! 3. [`Switch::finish`] shows the new version.
//!
//! *The invariant*: when the last step begins, the kernel remembers no changed name, so that each walk through one
//! asks here, and is told of the one version or the other by the moment of its answer. An answer of the first step
//! that arrives after the last is used by walks that began before, and asked for again by any other. So whoever has
//! seen anything of the new version sees nothing of the old one on a later walk from the root.
//!
//! One kind of answer takes no lock: that to a look-up with which the kernel asks whether what it remembers still
//! holds. If such an answer was given before the first step ("yes, and for an hour") and arrives late, what it is
//! about has been unhashed by the second step, and is never found again; unless it is a *directory* and somebody has
//! looked it up since, because the kernel has but one entry for a directory and puts it back in its place. So during
//! the switch the directories that are about to change have other numbers than before ([`super::table::Drain::apart`]):
//! after the first step no answer names their old ones.
//!
//! Below the root no name ever changes: a directory in which anything has is another one.

use std::sync::{Arc, MutexGuard, PoisonError};

use super::dataset::Version;
use super::fs::Vfs;
use super::ino::Ino;
use super::table::{Drain, Garbage};
use super::tree::TreeError;
use super::view::View;

/// A switch to another version under way. Dropping it leaves everything as it was.
#[must_use]
pub struct Switch<'a> {
    vfs: &'a Vfs,
    version: Version,
    next: Arc<View>,
    names: Vec<Box<str>>,
    gone: Vec<(Ino, u32)>,
    is_done: bool,
    /// One at a time.
    _turn: MutexGuard<'a, ()>,
}

impl Vfs {
    /// Begins to show another version. `None` if it is the one that is shown already, of which only the release is
    /// taken over. Waits for another switch to end.
    ///
    /// # Errors
    /// When two entries have one path, which a [`crate::metainfo::Metainfo`] rules out.
    pub fn switch(&self, version: Version) -> Result<Option<Switch<'_>>, TreeError> {
        let turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let current = Arc::clone(&self.table().current);
        if current.shows(&version) {
            self.table_mut().release = version.release;
            return Ok(None);
        }
        let next = Arc::new(View::after(&current, version.clone(), &self.numbers)?);
        let apart = match &current.version {
            Some(version) => Arc::new(View::apart(&current, version.clone(), Ino::ROOT, &self.numbers)?),
            None => Arc::clone(&current),
        };
        // Of an empty mount nothing was ever to be remembered.
        let names = if current.version.is_some() { current.changed_in(&next) } else { Vec::new() };
        let gone = current.gone_in(&next);
        self.table_mut().drain = Some(Drain { next: Arc::clone(&next), apart });
        Ok(Some(Switch { vfs: self, version, next, names, gone, is_done: false, _turn: turn }))
    }
}

impl Switch<'_> {
    /// Names in the root that the kernel has to forget, with the attributes of the root.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(|name| &**name)
    }

    /// Shows the version, now that the kernel has forgotten.
    pub fn finish(mut self) {
        let mut garbage = Garbage::default();
        let mut table = self.vfs.table_mut();
        table.flip(Arc::clone(&self.next), &self.gone, &mut garbage);
        table.release = self.version.release.take();
        drop(table);
        self.is_done = true;
    }
}

impl Drop for Switch<'_> {
    fn drop(&mut self) {
        if !self.is_done {
            let mut garbage = Garbage::default();
            self.vfs.table_mut().cancel(&mut garbage);
        }
    }
}
