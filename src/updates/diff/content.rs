//! What hashes tell of content: which files of two versions are the same, and which bytes are in both.

use std::collections::HashSet;

use crate::metainfo::{EntryKind, Metainfo, Part};
use crate::types::{BlockSpan, Digest, FileIndex, FileRoot, PieceIndex};

/// What the hashes tell of two files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Relation {
    Same,
    Other,
    /// It cannot be known.
    Unclear,
}

/// Equal keys are of equal files, executable or not alike.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Key {
    Root { root: FileRoot, length: u64, executable: bool },
    Pieces { pieces: Vec<Piece>, start: u32, length: u64, executable: bool },
}

/// A piece's hash and length: of one algorithm and one piece length, equal ones are of equal bytes.
type Piece = (Digest, u32);

/// The content of two versions, as far as the hashes of the one can be compared with those of the other.
pub(super) struct Contents<'a> {
    pub(super) old: &'a Metainfo,
    pub(super) new: &'a Metainfo,
    /// Whether files have roots, of the same kind.
    by_root: bool,
    /// Whether piece hashes are of the same kind.
    by_piece: bool,
    /// Where files start in the first piece that they touch; empty where each has its own pieces.
    old_starts: Vec<u32>,
    new_starts: Vec<u32>,
}

impl<'a> Contents<'a> {
    pub(super) fn new(old: &'a Metainfo, new: &'a Metainfo) -> Self {
        let is_aligned = |of: &Metainfo| of.layout().is_aligned();
        let is_alike = old.algorithm() == new.algorithm() && is_aligned(old) == is_aligned(new);
        let starts = |of| if is_aligned(of) { Vec::new() } else { starts_in_pieces(of) };
        Self {
            old,
            new,
            by_root: is_alike && is_aligned(old),
            by_piece: is_alike && old.piece_length() == new.piece_length(),
            old_starts: starts(old),
            new_starts: starts(new),
        }
    }

    /// What the hashes tell of a file of the old version and one of the new.
    pub(super) fn compare(&self, old: FileIndex, new: FileIndex) -> Relation {
        let (was, is) = (length(self.old, old), length(self.new, new));
        if was != is {
            return Relation::Other;
        }
        if was == 0 {
            return Relation::Same;
        }
        if self.by_root {
            return match (self.old.file_root(old), self.new.file_root(new)) {
                (Some(was), Some(is)) if was == is => Relation::Same,
                (Some(_), Some(_)) => Relation::Other,
                _ => Relation::Unclear,
            };
        }
        let start = start(&self.old_starts, old);
        if !self.by_piece || start != self::start(&self.new_starts, new) {
            return Relation::Unclear;
        }
        self.compare_pieces(old, new, u64::from(start), was)
    }

    /// Compares files of `length` bytes that start at the same place of a piece. Other bytes at an edge may be those
    /// of the next file; other bytes in between are not.
    fn compare_pieces(&self, old: FileIndex, new: FileIndex, start: u64, length: u64) -> Relation {
        let unit = u64::from(self.old.piece_length());
        let pieces = self.old.layout().pieces_of(old).zip(self.new.layout().pieces_of(new));
        let mut relation = Relation::Same;
        for ((was, is), from) in pieces.zip((0..).map(|nth: u64| nth * unit)) {
            let (was, is) = (piece(self.old, PieceIndex(was)), piece(self.new, PieceIndex(is)));
            let is_inside = |piece: &Piece| start <= from && from + u64::from(piece.1) <= start + length;
            match (was, is) {
                (Some(was), Some(is)) if was == is => {}
                (Some(was), Some(is)) if is_inside(&was) && is_inside(&is) => return Relation::Other,
                _ => relation = Relation::Unclear,
            }
        }
        relation
    }

    /// By what a file of the old version can be found in the new one, if it has content.
    pub(super) fn key_of_old(&self, file: FileIndex) -> Option<Key> {
        self.key(self.old, &self.old_starts, file)
    }

    /// By what a file of the new version can be found in the old one, if it has content.
    pub(super) fn key_of_new(&self, file: FileIndex) -> Option<Key> {
        self.key(self.new, &self.new_starts, file)
    }

    fn key(&self, of: &Metainfo, starts: &[u32], file: FileIndex) -> Option<Key> {
        let EntryKind::File { length: length @ 1.., executable, .. } = of.entry(file)?.kind else { return None };
        if self.by_root {
            return Some(Key::Root { root: of.file_root(file)?, length, executable });
        }
        let pieces = of.layout().pieces_of(file).filter(|_| self.by_piece);
        let pieces = pieces.map(|at| piece(of, PieceIndex(at))).collect::<Option<Vec<_>>>()?;
        (!pieces.is_empty()).then(|| Key::Pieces { pieces, start: start(starts, file), length, executable })
    }

    /// The most bytes that somebody needs to fetch who has all of the old version: of files that were there at any
    /// path none, of others those of pieces that were in no file.
    pub(super) fn transfer(&self) -> u64 {
        let known = self.known_pieces();
        let missing = |at: u32| {
            let is_known = piece(self.new, PieceIndex(at)).is_some_and(|piece| known.contains(&piece));
            if is_known { 0 } else { file_bytes(self.new, PieceIndex(at)) }
        };
        if !self.new.layout().is_aligned() {
            return (0..self.new.piece_count()).map(missing).sum();
        }
        let files = |of: &'a Metainfo| (0..of.entries().len() as u32).map(FileIndex);
        let by_root = |of: &Metainfo, file| Some((of.file_root(file).filter(|_| self.by_root)?, length(of, file)));
        let roots: HashSet<_> = files(self.old).filter_map(|file| by_root(self.old, file)).collect();
        let is_new = |file: &FileIndex| by_root(self.new, *file).is_none_or(|root| !roots.contains(&root));
        files(self.new).filter(is_new).flat_map(|file| self.new.layout().pieces_of(file)).map(missing).sum()
    }

    fn known_pieces(&self) -> HashSet<Piece> {
        let all = (0..self.old.piece_count()).filter(|_| self.by_piece);
        all.filter_map(|at| piece(self.old, PieceIndex(at))).collect()
    }
}

fn length(of: &Metainfo, file: FileIndex) -> u64 {
    of.layout().file_length(file)
}

fn piece(of: &Metainfo, piece: PieceIndex) -> Option<Piece> {
    Some((of.piece_hash(piece)?, of.layout().piece_len(piece)))
}

fn start(starts: &[u32], file: FileIndex) -> u32 {
    starts.get(file.0 as usize).copied().unwrap_or(0)
}

/// Bytes of files in a piece, which may also have padding.
fn file_bytes(of: &Metainfo, piece: PieceIndex) -> u64 {
    of.layout().slices(whole(of, piece)).map(|slice| u64::from(slice.len)).sum()
}

fn whole(of: &Metainfo, piece: PieceIndex) -> BlockSpan {
    BlockSpan { piece, begin: 0, len: of.layout().piece_len(piece) }
}

/// Where each file starts in the first piece that it touches. In one pass: a piece may hold very many files.
fn starts_in_pieces(of: &Metainfo) -> Vec<u32> {
    let mut starts = vec![0; of.entries().len()];
    for piece in (0..of.piece_count()).map(PieceIndex) {
        let mut at = 0;
        for part in of.layout().parts(whole(of, piece)) {
            at += match part {
                Part::Padding(len) => len,
                Part::File(slice) => {
                    if let Some(start) = starts.get_mut(slice.file.0 as usize).filter(|_| slice.offset == 0) {
                        *start = at;
                    }
                    slice.len
                }
            };
        }
    }
    starts
}
