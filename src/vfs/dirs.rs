//! Listings.

use std::sync::Arc;

use super::attr::{Attr, DirEntry, FileKind, FsError, Handle, OpenedDir};
use super::fs::Vfs;
use super::hidden::{CURRENT_LINK, STATUS_FILE, VERSIONS_DIR};
use super::ino::Ino;
use super::open::Open;
use super::table::{Garbage, Place};
use super::tree::{NodeKind, ROOT};
use super::view::View;

/// An open directory.
#[derive(Clone)]
pub(super) enum Listing {
    /// The root while there is nothing to show. What comes is listed from the next start on.
    Pending,
    /// A directory of a version, under the number that it was opened by.
    Node { ino: Ino, view: Arc<View>, at: u32 },
    /// What was in a hidden directory when it was opened.
    Hidden { ino: Ino, parent: Ino, lines: Arc<[Line]> },
}

/// A line of a hidden directory.
pub(super) struct Line {
    name: String,
    ino: Ino,
    place: Place,
}

/// A line, and what its inode is.
struct Told<'a> {
    entry: DirEntry<'a>,
    /// `None` of `.` and `..`, which tell the kernel of nothing.
    place: Option<Place>,
}

impl Vfs {
    /// Opens a directory. Its listing stays as it is now.
    ///
    /// # Errors
    /// When it is none, or cannot be looked into yet.
    pub fn open_dir(&self, ino: Ino) -> Result<OpenedDir, FsError> {
        let place = self.place(ino)?;
        // The root has one number in all versions, and the kernel would keep one listing of it for all who have it
        // open.
        let is_fixed = matches!(&place, Place::Node(..)) && ino != Ino::ROOT;
        let hidden = |parent, lines: Vec<Line>| Listing::Hidden { ino, parent, lines: lines.into() };
        let listing = match place {
            Place::Node(view, _) if view.version.is_none() => Listing::Pending,
            Place::Node(view, at) => match view.tree.node(at) {
                Some(node) if node.kind.is_directory() => Listing::Node { ino, view, at },
                _ => return Err(FsError::NotADirectory),
            },
            Place::Version(seq) => Listing::Node { ino, view: self.tree_of(seq)?, at: ROOT },
            Place::Hidden => hidden(Ino::ROOT, self.hidden_lines()),
            Place::Versions => hidden(Ino::HIDDEN, self.version_lines()),
            Place::Status | Place::Current(_) => return Err(FsError::NotADirectory),
        };
        Ok(OpenedDir { handle: self.insert(Open::Directory(listing)), is_fixed })
    }

    fn hidden_lines(&self) -> Vec<Line> {
        let line = |name: &str, (ino, place)| Line { name: name.to_owned(), ino, place };
        let mut lines: Vec<Line> = self.current_link().map(|found| line(CURRENT_LINK, found)).into_iter().collect();
        lines.push(line(STATUS_FILE, (Ino::STATUS, Place::Status)));
        lines.extend(self.dataset.as_ref().map(|_| line(VERSIONS_DIR, (Ino::VERSIONS, Place::Versions))));
        lines
    }

    fn version_lines(&self) -> Vec<Line> {
        let line =
            |seq: u64| Some(Line { name: seq.to_string(), ino: Ino::of_version(seq)?, place: Place::Version(seq) });
        self.versions().into_iter().filter_map(line).collect()
    }

    /// Gives `sink` the lines of an open directory from a position on (0, or the `next` of a line) until it returns
    /// true, which means that the line was too much.
    ///
    /// # Errors
    /// When no directory is open by this handle.
    pub fn read_dir(
        &self,
        handle: Handle,
        from: u64,
        mut sink: impl FnMut(DirEntry<'_>) -> bool,
    ) -> Result<(), FsError> {
        each_line(&self.listing(handle, from)?, from, |told| sink(told.entry));
        Ok(())
    }

    /// As [`Vfs::read_dir`], with the attributes of each line. The inodes of all lines that were not too much, but of
    /// `.` and `..`, are counted as known, as by a look-up. A line without attributes must not be taken for a look-up:
    /// what the name leads to now may be something else.
    ///
    /// # Errors
    /// As [`Vfs::read_dir`].
    pub fn read_dir_plus(
        &self,
        handle: Handle,
        from: u64,
        mut sink: impl FnMut(DirEntry<'_>, Option<Attr>) -> bool,
    ) -> Result<(), FsError> {
        let listing = self.listing(handle, from)?;
        let may_link = match &listing {
            Listing::Node { ino: Ino::ROOT, view, .. } => self.table().is_steady(view),
            Listing::Node { .. } => true,
            Listing::Pending | Listing::Hidden { .. } => false,
        };
        let mut garbage = Garbage::default();
        each_line(&listing, from, |Told { entry, place }| {
            let Some(place) = place else { return sink(entry, None) };
            let attr = may_link.then(|| self.attr_at(entry.ino, &place).ok()).flatten();
            self.table_mut().remember(entry.ino, &place);
            let is_full = sink(entry, attr);
            if is_full {
                self.table_mut().forget(entry.ino, 1, &mut garbage);
            }
            is_full
        });
        Ok(())
    }

    fn listing(&self, handle: Handle, from: u64) -> Result<Listing, FsError> {
        let listing = match self.open_handles().get(&handle) {
            Some(Open::Directory(listing)) => listing.clone(),
            _ => return Err(FsError::Invalid),
        };
        let current = self.current();
        match listing {
            Listing::Pending if from == 0 && current.version.is_some() => {
                let listing = Listing::Node { ino: Ino::ROOT, view: current, at: ROOT };
                self.open_handles_mut().insert(handle, Open::Directory(listing.clone()));
                Ok(listing)
            }
            listing => Ok(listing),
        }
    }
}

/// Lines are numbered, `.` and `..` first.
fn each_line(listing: &Listing, from: u64, mut sink: impl FnMut(Told<'_>) -> bool) {
    let (ino, above, len) = match listing {
        Listing::Pending => (Ino::ROOT, Ino::ROOT, 0),
        Listing::Node { ino, view, at } => (*ino, above(view, *at), children(view, *at).len()),
        Listing::Hidden { ino, parent, lines } => (*ino, *parent, lines.len()),
    };
    for at in from..len as u64 + 2 {
        let next = at + 1;
        let directory =
            |ino, name| Some(Told { entry: DirEntry { ino, name, kind: FileKind::Directory, next }, place: None });
        let told = match at {
            0 => directory(ino, "."),
            1 => directory(above, ".."),
            _ => line(listing, at as usize - 2, next),
        };
        if told.is_some_and(&mut sink) {
            return;
        }
    }
}

fn line(listing: &Listing, position: usize, next: u64) -> Option<Told<'_>> {
    match listing {
        Listing::Pending => None,
        Listing::Node { view, at, .. } => {
            let at = *children(view, *at).get(position)?;
            let node = view.tree.node(at)?;
            let kind = match node.kind {
                NodeKind::Directory { .. } => FileKind::Directory,
                NodeKind::File { .. } => FileKind::File,
                NodeKind::Symlink { .. } => FileKind::Symlink,
            };
            let entry = DirEntry { ino: view.ino(at), name: &node.name, kind, next };
            Some(Told { entry, place: Some(Place::Node(Arc::clone(view), at)) })
        }
        Listing::Hidden { lines, .. } => {
            let Line { name, ino, place } = lines.get(position)?;
            let kind = match place {
                Place::Status => FileKind::File,
                Place::Current(_) => FileKind::Symlink,
                _ => FileKind::Directory,
            };
            Some(Told { entry: DirEntry { ino: *ino, name, kind, next }, place: Some(place.clone()) })
        }
    }
}

fn children(view: &View, at: u32) -> &[u32] {
    view.tree.node(at).map(|node| node.kind.children()).unwrap_or_default()
}

/// The directory above; of a version's own directory, the one that holds all versions.
fn above(view: &View, at: u32) -> Ino {
    match view.ino(ROOT) {
        root if at == ROOT && root != Ino::ROOT => Ino::VERSIONS,
        _ => view.tree.node(at).map_or(Ino::ROOT, |node| view.ino(node.parent)),
    }
}
