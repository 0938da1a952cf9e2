//! Trees of files for tests: with every awkward name and size, in memory and on disk, and their metainfo.

use std::fs;
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use bytes::Bytes;
use knot::metainfo::{CreateOptions, Entry, EntryKind, Metainfo, Source, TreePath, create};
use knot::types::{FileIndex, HashAlgorithm};

/// When every test torrent was made: 2001-09-09.
pub const CREATED_AT: i64 = 1_000_000_000;

/// One entry of a test tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    pub path: String,
    pub kind: ItemKind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ItemKind {
    File { bytes: Bytes, executable: bool },
    Directory,
    Symlink { target: String },
}

impl Item {
    pub fn file(path: impl Into<String>, bytes: impl Into<Bytes>) -> Self {
        Self { path: path.into(), kind: ItemKind::File { bytes: bytes.into(), executable: false } }
    }

    pub fn executable(path: impl Into<String>, bytes: impl Into<Bytes>) -> Self {
        Self { path: path.into(), kind: ItemKind::File { bytes: bytes.into(), executable: true } }
    }

    pub fn directory(path: impl Into<String>) -> Self {
        Self { path: path.into(), kind: ItemKind::Directory }
    }

    pub fn symlink(path: impl Into<String>, target: impl Into<String>) -> Self {
        Self { path: path.into(), kind: ItemKind::Symlink { target: target.into() } }
    }

    pub fn bytes(&self) -> Bytes {
        match &self.kind {
            ItemKind::File { bytes, .. } => bytes.clone(),
            _ => Bytes::new(),
        }
    }
}

/// `len` bytes that no two seeds share, and that no shift of themselves repeats.
pub fn noise(seed: u64, len: usize) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let words = std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.flatten().take(len).collect::<Vec<u8>>().into()
}

/// Names that break programs, directories deep and empty, links, and files of every size around the borders of
/// blocks and of pieces of `piece_length` bytes. Sorted by path, as a metainfo lists them.
pub fn awkward_tree(piece_length: u32) -> Vec<Item> {
    let mut items = Vec::new();
    let block = 16 * 1024;
    let piece = piece_length as usize;
    let borders = [0, 1, block, 2 * block, piece, 2 * piece, 3 * piece];
    let around = |border: usize| [border.saturating_sub(1), border, border + 1];
    let mut sizes: Vec<usize> = borders.into_iter().flat_map(around).collect();
    sizes.extend([511, 512, 513, 4095, 4096, 4097, 5 * piece + block + 7]);
    sizes.sort_unstable();
    sizes.dedup();
    items.extend(sizes.into_iter().map(|size| Item::file(format!("sizes/{size}"), noise(size as u64, size))));

    let long = "x".repeat(255);
    let wide = "語".repeat(85);
    let names = [
        " ",
        "  leading",
        "trailing ",
        "-rf",
        "--help",
        "new\nline",
        "tab\t",
        "back\\slash",
        "quote\"'`",
        "*?[a]{b}",
        "$HOME",
        "#",
        "~",
        "%00",
        "a:b|c<d>e",
        "\u{1}\u{7f}",
        "ü",
        "u\u{308}",
        "語",
        "🦀",
        "…",
        "..a",
        "...",
        ".hidden",
        "CASE",
        "case",
        &long,
        &wide,
    ];
    items.extend(
        names.iter().enumerate().map(|(at, name)| Item::file(format!("names/{name}"), noise(at as u64, 100 + at))),
    );

    items.push(Item::file(vec!["d"; 60].join("/"), noise(60, 60)));
    items.push(Item::file(format!("{long}/{wide}/{long}"), noise(61, 20_000)));
    items.push(Item::directory("empty"));
    items.push(Item::directory("nested/empty/one"));
    items.push(Item::executable("run", &b"#!/bin/sh\necho ran\n"[..]));
    items.push(Item::symlink("links/up", "../sizes/512"));
    items.push(Item::symlink("links/directory", "../names"));
    items.push(Item::symlink("links/dangling", "no/such/file"));
    items.extend((0..300).map(|at| Item::file(format!("many/{at:03}"), noise(at, at as usize))));
    items.sort_by(|a, b| a.path.cmp(&b.path));
    items
}

/// Writes a tree below `dir`.
pub fn write_tree(dir: &Path, items: &[Item]) {
    for item in items {
        let path = dir.join(&item.path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        match &item.kind {
            ItemKind::Directory => fs::create_dir_all(path).unwrap(),
            ItemKind::Symlink { target } => symlink(target, path).unwrap(),
            ItemKind::File { bytes, executable } => {
                fs::write(&path, bytes).unwrap();
                let mode = if *executable { 0o755 } else { 0o644 };
                fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
            }
        }
    }
}

/// The metainfo of a tree whose items are sorted by path: item `n` is file index `n`.
pub fn metainfo_of(items: &[Item], algorithm: HashAlgorithm, piece_length: u32) -> Metainfo {
    let entries = items.iter().map(|item| {
        let kind = match &item.kind {
            ItemKind::Directory => EntryKind::Directory,
            ItemKind::Symlink { target } => EntryKind::Symlink { target: target.clone() },
            ItemKind::File { bytes, executable } => {
                EntryKind::File { length: bytes.len() as u64, root: None, executable: *executable }
            }
        };
        Entry { path: TreePath::new(&item.path).unwrap(), kind }
    });
    let options = CreateOptions {
        name: "test tree".into(),
        algorithm,
        piece_length: Some(piece_length),
        created_at: Some(CREATED_AT),
        peers: Vec::new(),
        version: None,
    };
    create(&options, entries.collect(), &InMemory(items), &|_| ControlFlow::Continue(())).unwrap()
}

struct InMemory<'a>(&'a [Item]);

impl Source for InMemory<'_> {
    fn read_at(&self, file: FileIndex, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let bytes = self.0[file.0 as usize].bytes();
        let part = bytes.get(offset as usize..).and_then(|rest| rest.get(..buf.len()));
        buf.copy_from_slice(part.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn check_unchanged(&self, _: FileIndex) -> io::Result<()> {
        Ok(())
    }
}
