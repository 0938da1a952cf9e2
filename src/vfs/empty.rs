//! What a torrent shows while its metainfo is not there: an empty directory that says what it waits for.

use std::time::Duration;

use super::fs::{Attr, DirEntry, FileKind, FsError, NAME_MAX, Owner, STATFS_BLOCK, StatFs};
use super::tree::Ino;
use crate::types::BLOCK_LEN;

/// Says what is being waited for, whenever somebody asks.
pub type Says = Box<dyn Fn() -> String + Send + Sync>;

/// The root directory of a torrent of which only the id is known. It has the number of the root that takes its place,
/// and nothing about it may be remembered.
pub struct EmptyRoot {
    owner: Owner,
    info_id: String,
    waits_for: Says,
}

impl EmptyRoot {
    /// The root of the torrent with this InfoID.
    pub fn new(owner: Owner, info_id: String, waits_for: Says) -> Self {
        Self { owner, info_id, waits_for }
    }

    /// Attributes of the root.
    ///
    /// # Errors
    /// When another inode is meant.
    pub fn attr(&self, ino: Ino) -> Result<Attr, FsError> {
        is_root(ino)?;
        Ok(Attr {
            ino,
            kind: FileKind::Directory,
            size: 0,
            blocks: 0,
            mtime_s: 0,
            mode: 0o555,
            links: 2,
            owner: self.owner,
            block_size: BLOCK_LEN,
            valid_for: Duration::ZERO,
        })
    }

    /// The lines of the root's listing from a position on: `.` and `..`.
    ///
    /// # Errors
    /// When another inode is meant.
    pub fn read_dir(&self, ino: Ino, from: u64) -> Result<impl Iterator<Item = DirEntry<'static>>, FsError> {
        is_root(ino)?;
        let lines = [(0, "."), (1, "..")].into_iter().skip_while(move |(at, _)| *at < from);
        Ok(lines.map(|(at, name)| DirEntry { ino: Ino::ROOT, name, kind: FileKind::Directory, next: at + 1 }))
    }

    /// The value of an extended attribute; `user.knot.waits_for` says what is missing.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn xattr(&self, ino: Ino, name: &[u8]) -> Result<Vec<u8>, FsError> {
        is_root(ino)?;
        match name {
            b"user.knot.info_id" => Ok(self.info_id.clone().into_bytes()),
            b"user.knot.waits_for" => Ok((self.waits_for)().into_bytes()),
            _ => Err(FsError::NoAttribute),
        }
    }

    /// Names of the extended attributes.
    ///
    /// # Errors
    /// When another inode is meant.
    pub fn xattr_names(&self, ino: Ino) -> Result<&'static [&'static str], FsError> {
        is_root(ino).map(|()| &["user.knot.info_id", "user.knot.waits_for"][..])
    }

    /// The whole: nothing.
    pub fn statfs(&self) -> StatFs {
        StatFs { block_size: STATFS_BLOCK, blocks: 0, files: 1, name_max: NAME_MAX }
    }
}

fn is_root(ino: Ino) -> Result<(), FsError> {
    if ino == Ino::ROOT { Ok(()) } else { Err(FsError::NotFound) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_an_empty_directory_that_nobody_may_remember() {
        let root = EmptyRoot::new(Owner { uid: 5, gid: 6 }, "ab".into(), Box::new(|| "peers".into()));
        let attr = root.attr(Ino::ROOT).unwrap();
        assert_eq!((attr.kind, attr.valid_for, attr.links), (FileKind::Directory, Duration::ZERO, 2));
        let names = |from| root.read_dir(Ino::ROOT, from).unwrap().map(|line| line.name).collect::<Vec<_>>();
        assert_eq!([names(0), names(1), names(2)], [vec![".", ".."], vec![".."], vec![]]);
        assert_eq!(root.xattr(Ino::ROOT, b"user.knot.waits_for").unwrap(), b"peers");
        assert_eq!(root.xattr(Ino::ROOT, b"user.knot.info_id").unwrap(), b"ab");
        assert_eq!(root.xattr(Ino::ROOT, b"user.other"), Err(FsError::NoAttribute));
        assert_eq!(root.attr(Ino(2)), Err(FsError::NotFound));
        assert!(root.read_dir(Ino(2), 0).is_err() && root.xattr_names(Ino(2)).is_err());
    }
}
