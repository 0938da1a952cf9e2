//! Making a BitTorrent v2 torrent, or one that is v1 and v2 at once (BEP 52).

use std::collections::BTreeMap;
use std::io;

use super::create::{hash, lay_out, set_roots};
use super::create_torrent::{from_top, plan, put_file, put_names};
use super::encode::{put_bytes, put_int};
use super::layout::Run;
use super::{CreateError, Entry, EntryKind, Form, Layout, OnProgress, Source, TorrentOptions, piece_layers};
use crate::types::{Digest, FileIndex, HashAlgorithm};

/// What is to stand in a torrent file: `info` and `piece layers`, bencoded.
pub(super) struct Made {
    pub(super) info: Vec<u8>,
    pub(super) layers: Vec<u8>,
}

/// A directory of the tree, or a file, which is below an empty name of its own.
#[derive(Default)]
struct Tree<'e> {
    entry: Option<usize>,
    below: BTreeMap<&'e str, Tree<'e>>,
}

/// The entries in the order of the tree, which is not that of their paths where one name begins with another, and the
/// source with that order.
struct Ordered<'a> {
    entries: Vec<Entry>,
    order: Vec<u32>,
    source: &'a dyn Source,
}

impl<'a> Ordered<'a> {
    fn new(entries: &[Entry], source: &'a dyn Source) -> Self {
        let mut order = Vec::new();
        Tree::of(entries).collect(&mut order);
        let sorted = order.iter().map(|at| entries[*at as usize].clone()).collect();
        Self { entries: sorted, order, source }
    }

    fn file(&self, file: FileIndex) -> io::Result<FileIndex> {
        self.order.get(file.0 as usize).copied().map(FileIndex).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Source for Ordered<'_> {
    fn read_at(&self, file: FileIndex, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.source.read_at(self.file(file)?, offset, buf)
    }

    fn check_unchanged(&self, file: FileIndex) -> io::Result<()> {
        self.source.check_unchanged(self.file(file)?)
    }
}

impl<'e> Tree<'e> {
    /// The tree of all entries but directories, which it cannot hold when they are empty.
    fn of(entries: &'e [Entry]) -> Self {
        let mut top = Self::default();
        for (at, entry) in entries.iter().enumerate().filter(|(_, entry)| entry.kind != EntryKind::Directory) {
            entry.path.components().fold(&mut top, |tree, name| tree.below.entry(name).or_default()).entry = Some(at);
        }
        top
    }

    fn collect(&self, order: &mut Vec<u32>) {
        order.extend(self.entry.map(|at| at as u32));
        self.below.values().for_each(|tree| tree.collect(order));
    }

    /// Goes as deep as paths have names, which is bounded.
    fn put(&self, out: &mut Vec<u8>, entries: &[Entry]) {
        out.push(b'd');
        if let Some(entry) = self.entry.and_then(|at| entries.get(at)) {
            put_bytes(out, b"");
            put_leaf(out, entry);
        }
        for (name, tree) in &self.below {
            put_bytes(out, name.as_bytes());
            tree.put(out, entries);
        }
        out.push(b'e');
    }
}

fn put_leaf(out: &mut Vec<u8>, entry: &Entry) {
    out.push(b'd');
    put_file(out, entry);
    match &entry.kind {
        EntryKind::File { root: Some(root), .. } => {
            put_bytes(out, b"pieces root");
            put_bytes(out, &root.0);
        }
        EntryKind::Symlink { target } => put_names(out, "symlink path", from_top(&entry.path, target)),
        EntryKind::File { .. } | EntryKind::Directory => {}
    }
    out.push(b'e');
}

/// Hashes `source` and makes the torrent: in one pass, or in two if it is v1 too.
pub(super) fn make(
    options: &TorrentOptions,
    entries: &[Entry],
    source: &dyn Source,
    on_progress: &OnProgress<'_>,
) -> Result<Made, CreateError> {
    let mut ordered = Ordered::new(entries, source);
    let layout = lay_out(&plan(options, HashAlgorithm::Sha256Merkle), &ordered.entries)?;
    let (total, is_hybrid) = (layout.total_length(), options.form == Form::Hybrid);
    let first = |done: u64| on_progress(if is_hybrid { done / 2 } else { done });
    let pieces = hash(HashAlgorithm::Sha256Merkle, &layout, &ordered.entries, &ordered, &first)?;
    set_roots(HashAlgorithm::Sha256Merkle, &layout, &pieces, &mut ordered.entries);
    let runs = if is_hybrid { runs(&ordered.entries, layout.piece_length()) } else { Vec::new() };
    let v1 = match is_hybrid {
        true => {
            let layout = Layout::with_padding(layout.piece_length(), &runs)?;
            // Padding counts as bytes that were hashed.
            let second = |done: u64| on_progress((total + done.min(total)) / 2);
            hash(HashAlgorithm::Sha1, &layout, &ordered.entries, &ordered, &second)?
        }
        false => Vec::new(),
    };
    let layers = layers(&layout, &ordered.entries, &pieces);
    Ok(Made { info: info(options, layout.piece_length(), &ordered.entries, &runs, &v1), layers })
}

/// The v1 form of aligned files: padding behind each that does not end with a piece, but for the last.
fn runs(entries: &[Entry], piece_length: u32) -> Vec<Run> {
    let mut runs = Vec::with_capacity(2 * entries.len());
    let last = entries.iter().rposition(|entry| entry.length() > 0).unwrap_or(0);
    for (at, entry) in entries.iter().enumerate() {
        runs.push(Run::File(entry.length()));
        let behind = entry.length() % u64::from(piece_length);
        if behind > 0 && at < last {
            runs.push(Run::Padding(u64::from(piece_length) - behind));
        }
    }
    runs
}

fn layers(layout: &Layout, entries: &[Entry], pieces: &[Digest]) -> Vec<u8> {
    let mut layers: BTreeMap<[u8; 32], Vec<u8>> = BTreeMap::new();
    for (entry, at) in entries.iter().zip(0..) {
        let range = layout.pieces_of(FileIndex(at));
        let pieces = pieces.get(range.start as usize..range.end as usize).unwrap_or_default();
        if let (EntryKind::File { root: Some(root), .. }, [_, _, ..]) = (&entry.kind, pieces) {
            layers.insert(root.0, pieces.iter().flat_map(Digest::as_bytes).copied().collect());
        }
    }
    piece_layers::value(layers.iter().map(|(root, layer)| (root, &layer[..])))
}

fn info(options: &TorrentOptions, piece_length: u32, entries: &[Entry], runs: &[Run], v1: &[Digest]) -> Vec<u8> {
    let mut out = vec![b'd'];
    let single = match entries {
        [only] if only.is_file() && only.path.as_str() == options.name => Some(only),
        _ => None,
    };
    let is_hybrid = options.form == Form::Hybrid;
    if let Some(EntryKind::File { executable: true, .. }) = single.filter(|_| is_hybrid).map(|only| &only.kind) {
        put_bytes(&mut out, b"attr");
        put_bytes(&mut out, b"x");
    }
    put_bytes(&mut out, b"file tree");
    Tree::of(entries).put(&mut out, entries);
    match single {
        Some(only) if is_hybrid => {
            put_bytes(&mut out, b"length");
            put_int(&mut out, only.length().into());
        }
        None if is_hybrid => put_files(&mut out, entries, runs),
        _ => {}
    }
    put_bytes(&mut out, b"meta version");
    put_int(&mut out, 2);
    put_bytes(&mut out, b"name");
    put_bytes(&mut out, options.name.as_bytes());
    put_bytes(&mut out, b"piece length");
    put_int(&mut out, piece_length.into());
    if is_hybrid {
        put_bytes(&mut out, b"pieces");
        put_bytes(&mut out, &v1.iter().flat_map(Digest::as_bytes).copied().collect::<Vec<_>>());
    }
    if options.is_private {
        put_bytes(&mut out, b"private");
        put_int(&mut out, 1);
    }
    out.push(b'e');
    out
}

/// The v1 list of files, padding included (BEP 47).
fn put_files(out: &mut Vec<u8>, entries: &[Entry], runs: &[Run]) {
    put_bytes(out, b"files");
    out.push(b'l');
    let mut entries = entries.iter();
    for run in runs {
        out.push(b'd');
        match run {
            Run::Padding(length) => {
                put_bytes(out, b"attr");
                put_bytes(out, b"p");
                put_bytes(out, b"length");
                put_int(out, (*length).into());
                put_names(out, "path", [".pad", &length.to_string()]);
            }
            Run::File(_) => {
                if let Some(entry) = entries.next() {
                    super::create_torrent::put_entry(out, entry);
                }
            }
        }
        out.push(b'e');
    }
    out.push(b'e');
}
