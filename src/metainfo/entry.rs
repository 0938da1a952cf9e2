//! Files, directories and symlinks of a torrent.

use std::collections::{HashMap, HashSet};

use super::path::{MAX_COMPONENTS, MAX_PATH_LEN, TreePath, shorten};
use super::{MAX_FILES, MetainfoError};
use crate::types::FileRoot;

/// One entry of a torrent's tree; its [`crate::types::FileIndex`] is its place in [`super::Metainfo::entries`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where it lies. No two entries have the same path, but that a directory may be listed more than once.
    pub path: TreePath,
    /// What it is.
    pub kind: EntryKind,
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File {
        /// Bytes.
        length: u64,
        /// Root of its hash tree, where the algorithm has trees and the file has bytes. Verified against the piece
        /// hashes. Two files are the same content if root *and* length are equal: a BEP 52 root alone does not
        /// tell a file of two leaf hashes from the file that they hash.
        root: Option<FileRoot>,
        /// Whether it may be executed.
        executable: bool,
    },
    /// A directory. Directories above files are not listed; one that is, is usually empty.
    Directory,
    /// A symbolic link that stays inside the torrent whatever else is in it.
    Symlink {
        /// Where it leads, relative to the directory that it lies in.
        target: String,
    },
}

impl Entry {
    /// Bytes of a file; 0 for anything else.
    pub fn length(&self) -> u64 {
        match self.kind {
            EntryKind::File { length, .. } => length,
            EntryKind::Directory | EntryKind::Symlink { .. } => 0,
        }
    }

    /// Whether it is a regular file.
    pub fn is_file(&self) -> bool {
        matches!(self.kind, EntryKind::File { .. })
    }
}

/// Gives every file and symlink a path of its own: directories keep their names, and of several entries at one path
/// the first does. The others get `~2`, `~3`, … behind their names, the first number that is free.
///
/// # Errors
/// When there are more directories than a torrent may have files: few bytes of paths can spell very many.
pub(super) fn rename_conflicts(entries: &mut [Entry]) -> Result<(), MetainfoError> {
    for (at, path) in new_paths(entries)? {
        entries[at].path = path;
    }
    Ok(())
}

fn new_paths(entries: &[Entry]) -> Result<Vec<(usize, TreePath)>, MetainfoError> {
    let mut taken: HashSet<&str> = HashSet::new();
    for entry in entries {
        taken.extend(entry.path.ancestors());
        if entry.kind == EntryKind::Directory {
            taken.insert(entry.path.as_str());
        }
        if taken.len() > MAX_FILES {
            return Err(MetainfoError::TooManyFiles);
        }
    }
    let mut losers = Vec::new();
    for (at, entry) in entries.iter().enumerate() {
        if entry.kind != EntryKind::Directory && !taken.insert(entry.path.as_str()) {
            losers.push((at, &entry.path));
        }
    }
    let mut given = HashSet::new();
    // Where many share a path, each starts from the number after the last one's.
    let mut next: HashMap<&TreePath, u32> = HashMap::new();
    let renamed = losers.into_iter().map(|(at, path)| {
        let number = next.entry(path).or_insert(2);
        loop {
            let renamed = path.numbered(*number);
            *number += 1;
            if !taken.contains(renamed.as_str()) && given.insert(renamed.clone()) {
                return (at, renamed);
            }
        }
    });
    Ok(renamed.collect())
}

/// Checks that no symlink leads out of the tree.
///
/// A `..` is followed only where the way up is certain: from the directory that the link lies in, and from names
/// that are not links themselves. Directories are never links, since [`rename_conflicts`] lets them keep their
/// names, so links that lead to links stay inside as well.
pub(super) fn check_symlinks(entries: &[Entry]) -> Result<(), MetainfoError> {
    let is_link = |entry: &&Entry| matches!(entry.kind, EntryKind::Symlink { .. });
    let links: HashSet<&str> = entries.iter().filter(is_link).map(|entry| entry.path.as_str()).collect();
    for entry in entries {
        if let EntryKind::Symlink { target } = &entry.kind
            && !stays_inside(&entry.path, target, &links)
        {
            return Err(MetainfoError::Symlink { path: shorten(entry.path.as_str()), target: shorten(target) });
        }
    }
    Ok(())
}

fn stays_inside(path: &TreePath, target: &str, links: &HashSet<&str>) -> bool {
    let too_long = target.len() > MAX_PATH_LEN || target.split('/').count() > MAX_COMPONENTS;
    if too_long || target.is_empty() || target.starts_with('/') || target.contains('\0') {
        return false;
    }
    let mut at: Vec<&str> = path.components().collect();
    at.pop();
    let mut behind_link = false;
    for name in target.split('/') {
        match name {
            "" | "." => {}
            ".." if behind_link || at.pop().is_none() => return false,
            ".." => {}
            _ => {
                at.push(name);
                behind_link |= links.contains(at.join("/").as_str());
            }
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str) -> Entry {
        Entry { path: TreePath::new(path).unwrap(), kind: EntryKind::File { length: 1, root: None, executable: false } }
    }

    fn link(path: &str, target: &str) -> Entry {
        Entry { path: TreePath::new(path).unwrap(), kind: EntryKind::Symlink { target: target.into() } }
    }

    fn renamed(mut entries: Vec<Entry>) -> Vec<String> {
        rename_conflicts(&mut entries).unwrap();
        entries.iter().map(|entry| entry.path.to_string()).collect()
    }

    #[test]
    fn conflicts_are_renamed_in_order() {
        assert_eq!(renamed(vec![file("a"), file("a"), file("a"), file("a~2")]), ["a", "a~3", "a~4", "a~2"]);
        assert_eq!(renamed(vec![file("a"), file("a/b"), link("a", "a/b")]), ["a~2", "a/b", "a~3"]);
        let dir = Entry { path: TreePath::new("d").unwrap(), kind: EntryKind::Directory };
        assert_eq!(renamed(vec![file("d"), dir.clone(), dir]), ["d~2", "d", "d"]);
    }

    #[test]
    fn few_bytes_cannot_make_very_many_directories() {
        let deep = |n: usize| file(&format!("{n}/{}", vec!["d"; 98].join("/")));
        assert_eq!(rename_conflicts(&mut (0..10_300).map(deep).collect::<Vec<_>>()), Err(MetainfoError::TooManyFiles));
    }

    #[test]
    fn many_files_of_one_name_are_renamed_quickly() {
        let names = renamed(vec![file("same"); 20_000]);
        assert_eq!(names.iter().collect::<HashSet<_>>().len(), 20_000);
    }

    #[test]
    fn symlinks_inside_are_kept() {
        let all = [
            link("here", "."),
            link("d/up", ".."),
            link("d/e/l", "../../d/./x//y/"),
            link("dangling", "no/such/../file"),
            link("l", "here/a"),
            link("..a", "..b/..c"),
        ];
        assert_eq!(check_symlinks(&all), Ok(()));
    }

    #[test]
    fn symlinks_out_are_refused() {
        for (path, target) in [
            ("l", "/etc/passwd"),
            ("l", ".."),
            ("l", "a/../.."),
            ("d/l", "../../x"),
            ("l", ""),
            ("l", "a\0b"),
            ("l", "here/.."),
            ("l", "d/here/../.."),
        ] {
            let all = [link("here", "d/e"), link("d/here", "."), link(path, target)];
            assert!(check_symlinks(&all).is_err(), "{path} -> {target:?}");
        }
        assert!(check_symlinks(&[link("l", &"a".repeat(5000))]).is_err());
    }
}
