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
//! Below the root no name ever changes: a directory in which anything has is another one. Its successor shares the
//! files that have not changed, but the kernel has not met them there yet; and as it forgets the directory it drops
//! every file that it knows by no other name, with its pages. So between the first step and the second whoever serves
//! the mount walks to [`Switch::kept`], where they have another name.

use std::sync::{Arc, MutexGuard, PoisonError};

use super::dataset::Version;
use super::fs::Vfs;
use super::hidden::HIDDEN_DIR;
use super::ino::Ino;
use super::table::{Drain, Garbage};
use super::tree::TreeError;
use super::view::View;

/// The most files whose pages are kept: a walk to each takes some 10 µs, and the kernel has pages of few.
const MAX_KEPT: usize = 20_000;

/// A switch to another version under way. Dropping it leaves everything as it was.
#[must_use]
pub struct Switch<'a> {
    vfs: &'a Vfs,
    version: Version,
    next: Arc<View>,
    names: Vec<Box<str>>,
    gone: Vec<(Ino, u32)>,
    kept: Vec<String>,
    leftovers: Vec<Box<str>>,
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
        let (opened, has_leftovers) = {
            let table = self.table();
            (table.opened(), !table.leftovers.is_empty())
        };
        // What the kernel knows by a leftover only is to outlive that.
        let mut kept = current.moved_to(&next, &opened, has_leftovers);
        kept.truncate(MAX_KEPT);
        let coming = self.numbers.next();
        let coming = match kept.is_empty() {
            true => None,
            false => {
                let name: Box<str> = format!("coming-{}", coming.0).into();
                Some((name, Arc::new(View::apart(&next, version.clone(), coming, &self.numbers)?)))
            }
        };
        let place = coming.as_ref().map(|(name, _)| format!("{HIDDEN_DIR}/{name}/"));
        let kept = place.iter().flat_map(|place| kept.iter().map(move |path| format!("{place}{path}"))).collect();
        let mut table = self.table_mut();
        let leftovers = std::mem::take(&mut table.leftovers);
        table.leftovers.extend(coming.iter().map(|(name, _)| name.clone()));
        table.drain = Some(Drain { next: Arc::clone(&next), apart, coming });
        drop(table);
        Ok(Some(Switch { vfs: self, version, next, names, gone, kept, leftovers, is_done: false, _turn: turn }))
    }
}

impl Switch<'_> {
    /// Names in the root that the kernel has to forget, with the attributes of the root.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(|name| &**name)
    }

    /// Paths from the root, by which those files can be met now that the kernel would lose with the directories that
    /// it has to forget. Whether they are is of no account to what is shown.
    pub fn kept(&self) -> &[String] {
        &self.kept
    }

    /// Names that files were kept by during earlier switches, and their directory. The kernel may forget them, when it
    /// has met those that are kept now.
    pub fn leftovers(&self) -> impl Iterator<Item = (Ino, &str)> {
        self.leftovers.iter().map(|name| (Ino::HIDDEN, &**name))
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
            let mut table = self.vfs.table_mut();
            table.leftovers.append(&mut self.leftovers);
            table.cancel(&mut garbage);
        }
    }
}
