//! What is open: each handle stays on its version.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;

use super::attr::{FsError, Handle, Opened};
use super::content::{Content, ContentError, ReadReply};
use super::dirs::Listing;
use super::fs::Vfs;
use super::ino::Ino;
use super::table::Place;
use super::tree::NodeKind;
use crate::types::{FileIndex, ReaderId};

/// Names of handles, unique in the process.
static NEXT: AtomicU64 = AtomicU64::new(1);

/// What a handle is open on.
pub(super) enum Open {
    File(OpenFile),
    /// The status file as it was when it was opened: one that reads it in two parts reads one report.
    Report(Bytes),
    Directory(Listing),
}

/// An open file of a torrent. The content gives a reader of its own to everyone who opens.
#[derive(Clone)]
pub(super) struct OpenFile {
    content: Arc<dyn Content>,
    reader: ReaderId,
    file: FileIndex,
    length: u64,
}

impl Vfs {
    /// Opens a file for reading.
    ///
    /// # Errors
    /// When it is not a file.
    pub fn open(&self, ino: Ino) -> Result<Opened, FsError> {
        match self.place(ino)? {
            Place::Status => Ok(Opened { handle: self.insert(Open::Report(self.report())), live: true }),
            Place::Current(_) => Err(FsError::Invalid),
            Place::Hidden | Place::Versions | Place::Version(_) => Err(FsError::IsADirectory),
            Place::Node(view, at) => match view.tree.node(at).map(|node| &node.kind) {
                Some(NodeKind::File { file, length, .. }) => {
                    let content = Arc::clone(&view.version.as_ref().ok_or(FsError::NotFound)?.content);
                    self.table_mut().note_open(ino);
                    let reader = content.open(*file);
                    let open = OpenFile { content, reader, file: *file, length: *length };
                    Ok(Opened { handle: self.insert(Open::File(open)), live: false })
                }
                Some(NodeKind::Directory { .. }) => Err(FsError::IsADirectory),
                Some(NodeKind::Symlink { .. }) => Err(FsError::Invalid),
                None => Err(FsError::NotFound),
            },
        }
    }

    pub(super) fn insert(&self, open: Open) -> Handle {
        let handle = Handle(NEXT.fetch_add(1, Ordering::Relaxed));
        self.open_handles_mut().insert(handle, open);
        handle
    }

    /// Closes a file or a directory; the waiting reads of a file fail. Closing what is not open does nothing.
    pub fn close(&self, handle: Handle) {
        let closed = self.open_handles_mut().remove(&handle);
        if let Some(Open::File(file)) = closed {
            file.content.close(file.reader);
        }
    }

    /// Closes everything that is open.
    pub fn close_all(&self) {
        let open = std::mem::take(&mut *self.open_handles_mut());
        for open in open.into_values() {
            if let Open::File(file) = open {
                file.content.close(file.reader);
            }
        }
    }

    /// The bytes of a read, cut at the end of the file, if all of them are on this machine; else `None`, and
    /// [`Vfs::read`] gets them.
    ///
    /// # Errors
    /// When no file is open by this handle.
    pub fn read_cached(&self, handle: Handle, offset: u64, len: u32) -> Result<Option<Bytes>, FsError> {
        let file = match self.open_handles().get(&handle) {
            Some(Open::File(file)) => file.clone(),
            Some(Open::Report(report)) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX).min(report.len());
                let end = start.saturating_add(len as usize).min(report.len());
                return Ok(Some(report.slice(start..end)));
            }
            Some(Open::Directory(_)) => return Err(FsError::IsADirectory),
            None => return Err(FsError::Invalid),
        };
        let len = cut(file.length, offset, len);
        if len == 0 {
            return Ok(Some(Bytes::new()));
        }
        // A wrong length is met again, and reported, by `read`.
        Ok(file.content.read_cached(file.reader, file.file, offset, len).filter(|bytes| bytes.len() == len as usize))
    }

    /// Asks for the bytes of a read, cut at the end of the file. `reply` is called once, perhaps before this
    /// returns.
    pub fn read(&self, handle: Handle, offset: u64, len: u32, reply: ReadReply) {
        let file = match self.open_handles().get(&handle) {
            Some(Open::File(file)) => Some(file.clone()),
            _ => None,
        };
        let Some(file) = file else { return reply(Err(ContentError::Closed)) };
        let len = cut(file.length, offset, len);
        let checked = move |result: Result<Bytes, ContentError>| {
            reply(result.and_then(|bytes| match bytes.len() == len as usize {
                true => Ok(bytes),
                false => Err(short_answer(len, bytes.len())),
            }));
        };
        file.content.read(file.reader, file.file, offset, len, Box::new(checked));
    }

    pub(super) fn open_handles(&self) -> RwLockReadGuard<'_, HashMap<Handle, Open>> {
        self.open.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn open_handles_mut(&self) -> RwLockWriteGuard<'_, HashMap<Handle, Open>> {
        self.open.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes that are left of a read in a file of `length` bytes.
fn cut(length: u64, offset: u64, len: u32) -> u32 {
    u32::try_from(length.saturating_sub(offset)).unwrap_or(u32::MAX).min(len)
}

fn short_answer(expected: u32, got: usize) -> ContentError {
    ContentError::Storage(format!("expected {expected} bytes for a read, got {got}"))
}
