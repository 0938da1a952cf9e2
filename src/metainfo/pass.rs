//! One pass over all content, on all cores.

use std::io;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use super::{Layout, Metainfo, Part, PieceHasher};
use crate::types::{Bitfield, BlockSpan, Digest, FileIndex, FileSlice, HashAlgorithm, PieceIndex};

/// Bytes that a worker reads at once: a multiple of the block length, so that blocks are hashed where they lie.
const READ_LEN: u32 = 256 << 10;

/// The content of a torrent's files, wherever it is.
pub trait Source: Sync {
    /// Fills `buf` with the bytes of `file` from `offset` on.
    ///
    /// # Errors
    /// When not all of them can be read; [`io::ErrorKind::UnexpectedEof`] when the file is too short.
    fn read_at(&self, file: FileIndex, offset: u64, buf: &mut [u8]) -> io::Result<()>;

    /// Checks that `file` is still what it was when its length was taken. Called when all of it has been read.
    ///
    /// # Errors
    /// When it has changed, or nobody can tell.
    fn check_unchanged(&self, file: FileIndex) -> io::Result<()>;
}

/// Called now and then, from any worker, with the bytes that have been hashed so far; `Break` stops the pass.
pub type OnProgress<'a> = dyn Fn(u64) -> ControlFlow<()> + Sync + 'a;

/// The pass was stopped by its progress callback.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("stopped before everything was hashed")]
pub struct Cancelled;

/// Hashes all of `source` against the piece hashes: the pieces that are there and right. Unreadable is not there.
///
/// # Errors
/// When `on_progress` breaks it off.
pub fn verify_source(
    metainfo: &Metainfo,
    source: &dyn Source,
    on_progress: &OnProgress<'_>,
) -> Result<Bitfield, Cancelled> {
    let pass = Pass { algorithm: metainfo.algorithm(), layout: metainfo.layout(), source, on_progress };
    let good = pass.run(|piece, hashed| match hashed {
        Ok(digest) => Ok(Some(digest) == metainfo.piece_hash(piece)),
        Err(Stop::Unreadable { .. }) => Ok(false),
        Err(Stop::Cancelled) => Err(Cancelled),
    })?;
    let mut pieces = Bitfield::new(metainfo.piece_count());
    good.into_iter().filter(|(_, good)| *good).for_each(|(piece, _)| {
        pieces.insert(piece.0);
    });
    Ok(pieces)
}

/// What a pass goes over.
pub(super) struct Pass<'a> {
    pub(super) algorithm: HashAlgorithm,
    pub(super) layout: &'a Layout,
    pub(super) source: &'a dyn Source,
    pub(super) on_progress: &'a OnProgress<'a>,
}

/// Why a piece was not hashed.
pub(super) enum Stop {
    Cancelled,
    Unreadable { slice: FileSlice, error: io::Error },
}

/// What the workers share.
struct Shared {
    next_piece: AtomicU32,
    hashed: AtomicU64,
    stopped: AtomicBool,
}

impl Pass<'_> {
    /// Hashes every piece and hands it to `each`, from any worker; gives what `each` made of them, in order of
    /// pieces, or the first error of `each`. Pieces are begun in order, so that disks are read forwards. Memory: one
    /// read buffer a worker, and the results.
    pub(super) fn run<R: Send, E: Send>(
        &self,
        each: impl Fn(PieceIndex, Result<Digest, Stop>) -> Result<R, E> + Sync,
    ) -> Result<Vec<(PieceIndex, R)>, E> {
        let pieces = self.layout.piece_count();
        let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let shared =
            Shared { next_piece: AtomicU32::new(0), hashed: AtomicU64::new(0), stopped: AtomicBool::new(false) };
        let results = std::thread::scope(|scope| {
            let others: Vec<_> = (1..cores.min(pieces as usize))
                .filter_map(|_| std::thread::Builder::new().spawn_scoped(scope, || self.work(&shared, &each)).ok())
                .collect();
            let mut results = vec![self.work(&shared, &each)];
            results.extend(others.into_iter().map(|worker| match worker.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }));
            results
        });
        let mut done = Vec::with_capacity(pieces as usize);
        for result in results {
            done.append(&mut result?);
        }
        done.sort_unstable_by_key(|(piece, _)| *piece);
        Ok(done)
    }

    fn work<R, E>(
        &self,
        shared: &Shared,
        each: &impl Fn(PieceIndex, Result<Digest, Stop>) -> Result<R, E>,
    ) -> Result<Vec<(PieceIndex, R)>, E> {
        let mut buf = vec![0; READ_LEN as usize];
        let mut results = Vec::new();
        while !shared.stopped.load(Ordering::Relaxed) {
            let piece = PieceIndex(shared.next_piece.fetch_add(1, Ordering::Relaxed));
            let Some(hasher) = PieceHasher::new(self.algorithm, self.layout, piece) else { break };
            match each(piece, self.hash_piece(shared, piece, hasher, &mut buf)) {
                Ok(result) => results.push((piece, result)),
                Err(error) => {
                    shared.stopped.store(true, Ordering::Relaxed);
                    return Err(error);
                }
            }
        }
        Ok(results)
    }

    fn hash_piece(
        &self,
        shared: &Shared,
        piece: PieceIndex,
        mut hasher: PieceHasher,
        buf: &mut [u8],
    ) -> Result<Digest, Stop> {
        let piece_len = self.layout.piece_len(piece);
        for begin in (0..piece_len).step_by(READ_LEN as usize) {
            let span = BlockSpan { piece, begin, len: READ_LEN.min(piece_len - begin) };
            let mut filled = 0;
            for part in self.layout.parts(span) {
                filled += match part {
                    Part::File(slice) => {
                        let into = &mut buf[filled..filled + slice.len as usize];
                        let read = self.source.read_at(slice.file, slice.offset, into);
                        read.map_err(|error| Stop::Unreadable { slice, error })?;
                        into.len()
                    }
                    Part::Padding(len) => {
                        buf[filled..filled + len as usize].fill(0);
                        len as usize
                    }
                };
            }
            hasher.update(&buf[..filled]);
            let hashed = shared.hashed.fetch_add(filled as u64, Ordering::Relaxed) + filled as u64;
            if (self.on_progress)(hashed).is_break() {
                return Err(Stop::Cancelled);
            }
        }
        Ok(hasher.finish())
    }
}
