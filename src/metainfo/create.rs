//! Making a metainfo from content.

use std::io;

use super::entry::check_symlinks;
use super::pass::{Pass, Stop};
use super::tree::{TreeKind, file_root};
use super::{
    Entry, EntryKind, Layout, LayoutError, MAX_FILES, MAX_METAINFO_LEN, MAX_PIECE_LENGTH, MIN_PIECE_LENGTH, Metainfo,
    MetainfoError, OnProgress, Source, TreePath, encode, native,
};
use crate::types::{Digest, FileIndex, FileRoot, HashAlgorithm, InfoSig, PeerAddr};

/// Pieces that a default piece length aims below.
const FEW_PIECES: u64 = 2048;
/// The range in which a default piece length is chosen for few pieces.
const DEFAULT_LENGTHS: std::ops::RangeInclusive<u32> = (64 << 10)..=(4 << 20);
/// Pieces above which a default piece length grows beyond that range, to keep the metainfo small.
const MANY_PIECES: u64 = 65_536;

/// What to make.
#[derive(Clone, Debug)]
pub struct CreateOptions {
    /// The torrent's name: one name, fit for a file.
    pub name: String,
    /// How to hash.
    pub algorithm: HashAlgorithm,
    /// Bytes of a piece; `None` for [`default_piece_length`].
    pub piece_length: Option<u32>,
    /// When it is made, in seconds since 1970. Stays outside what is hashed.
    pub created_at: Option<i64>,
    /// Peers to suggest. Stay outside what is hashed.
    pub peers: Vec<PeerAddr>,
    /// Which version of which dataset it is; `None` of a first version, which has no name yet.
    pub version: Option<DatasetVersion>,
}

/// A version of a dataset, as its `info` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DatasetVersion {
    /// The dataset: the InfoSig of its first version.
    pub origin: InfoSig,
    /// Which version, from 1.
    pub seq: u64,
}

/// Why there is no metainfo of some content.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// The progress callback broke it off.
    #[error(transparent)]
    Cancelled(#[from] super::Cancelled),
    /// Entries in another order than that of their paths' bytes.
    #[error("expected entries in the order of their paths, got {second:?} behind {first:?}")]
    Unsorted {
        /// The earlier entry.
        first: String,
        /// The later entry.
        second: String,
    },
    /// Nothing that a v1 torrent could be about.
    #[error("expected at least one byte for a BitTorrent torrent, got none: ordinary clients refuse it")]
    Nothing,
    /// A symlink that may leave the tree.
    #[error("{0}: remove the link, or put what it leads to in its place")]
    Symlink(MetainfoError),
    /// A part of a file could not be read.
    #[error("expected {len} bytes at {offset} in {path:?}, got an error: {error}")]
    Read {
        /// The file's path in the torrent.
        path: String,
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u32,
        /// What the source said.
        error: io::Error,
    },
    /// A file is not what it was when the pass began.
    #[error("expected {path:?} to stay as it is while it is hashed, got a change ({error}): try again when it rests")]
    Changed {
        /// The file's path in the torrent.
        path: String,
        /// What the source said.
        error: io::Error,
    },
    /// The metainfo would be too large.
    #[error(
        "expected a metainfo of at most {MAX_METAINFO_LEN} bytes, got {got}: choose a larger piece length, \
         sha1 or sha256 for very many small files, or split the content"
    )]
    TooLarge {
        /// Bytes that it would have.
        got: usize,
    },
    /// Lengths or a piece length that cannot be laid out.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The result would not be accepted by anyone.
    #[error(transparent)]
    Invalid(#[from] MetainfoError),
}

/// The piece length for content of `total` bytes: a power of two, from 64 KiB to 4 MiB for up to 2048 pieces, larger
/// ones (up to 64 MiB) where that would be more than 65,536.
pub fn default_piece_length(total: u64) -> u32 {
    let few = total.div_ceil(FEW_PIECES).clamp((*DEFAULT_LENGTHS.start()).into(), (*DEFAULT_LENGTHS.end()).into());
    let not_many = total.div_ceil(MANY_PIECES).min(MAX_PIECE_LENGTH.into());
    few.max(not_many).next_power_of_two() as u32
}

/// Hashes `source` in one pass on all cores and makes the unsigned metainfo of `entries`, whose indices are the
/// `source`'s. Roots in `entries` do not matter. The same entries and content give the same InfoHash.
///
/// # Errors
/// When the entries are not sorted by path, break a limit, or cannot be read as they were listed.
pub fn create(
    options: &CreateOptions,
    mut entries: Vec<Entry>,
    source: &dyn Source,
    on_progress: &OnProgress<'_>,
) -> Result<Metainfo, CreateError> {
    check_sorted(&entries)?;
    let layout = lay_out(options, &entries)?;
    let pieces = hash(options.algorithm, &layout, &entries, source, on_progress)?;
    set_roots(options.algorithm, &layout, &pieces, &mut entries);
    let info = encode::info(options, layout.piece_length(), &entries, &pieces);
    let info_hash = native::hash_info(options.algorithm, &info);
    let bytes = encode::dictionary(&encode::envelope(options, info, &info_hash));
    match Metainfo::from_bytes(bytes.into()) {
        Err(MetainfoError::TooLarge { got }) => Err(CreateError::TooLarge { got }),
        made => Ok(made?),
    }
}

pub(super) fn check_sorted(entries: &[Entry]) -> Result<(), CreateError> {
    match entries.array_windows().find(|[first, second]| first.path >= second.path) {
        None => Ok(()),
        Some([first, second]) => {
            Err(CreateError::Unsorted { first: first.path.to_string(), second: second.path.to_string() })
        }
    }
}

/// The hashes of all pieces, of content that has not changed meanwhile.
pub(super) fn hash(
    algorithm: HashAlgorithm,
    layout: &Layout,
    entries: &[Entry],
    source: &dyn Source,
    on_progress: &OnProgress<'_>,
) -> Result<Vec<Digest>, CreateError> {
    let pass = Pass { algorithm, layout, source, on_progress };
    let hashed = pass.run(|_, hashed| {
        hashed.map_err(|stop| match stop {
            Stop::Cancelled => super::Cancelled.into(),
            Stop::Unreadable { slice, error } => {
                let path = path_of(entries, slice.file);
                CreateError::Read { path, offset: slice.offset, len: slice.len, error }
            }
        })
    })?;
    for (entry, index) in entries.iter().zip(0..).filter(|(entry, _)| entry.is_file()) {
        let unchanged = source.check_unchanged(FileIndex(index));
        unchanged.map_err(|error| CreateError::Changed { path: entry.path.to_string(), error })?;
    }
    Ok(hashed.into_iter().map(|(_, digest)| digest).collect())
}

/// The layout of `entries`, within the limits: what can be refused is refused before anything is hashed.
pub(super) fn lay_out(options: &CreateOptions, entries: &[Entry]) -> Result<Layout, CreateError> {
    TreePath::new(&options.name).map_err(MetainfoError::from)?;
    check_symlinks(entries).map_err(CreateError::Symlink)?;
    if entries.len() > MAX_FILES {
        return Err(MetainfoError::TooManyFiles.into());
    }
    let lengths: Vec<u64> = entries.iter().map(Entry::length).collect();
    let total = lengths.iter().fold(0, |total: u64, length| total.saturating_add(*length));
    let piece_length = options.piece_length.unwrap_or_else(|| default_piece_length(total));
    let power_of_two = options.algorithm.verifies_blocks();
    let fits = (MIN_PIECE_LENGTH..=MAX_PIECE_LENGTH).contains(&piece_length);
    if !fits || power_of_two && !piece_length.is_power_of_two() {
        return Err(MetainfoError::PieceLength { power_of_two, got: piece_length.to_string() }.into());
    }
    let layout = Layout::new(piece_length, power_of_two, &lengths)?;
    let hashes = layout.piece_count() as usize * options.algorithm.digest_len();
    if hashes > MAX_METAINFO_LEN {
        return Err(CreateError::TooLarge { got: hashes });
    }
    Ok(layout)
}

pub(super) fn set_roots(algorithm: HashAlgorithm, layout: &Layout, pieces: &[Digest], entries: &mut [Entry]) {
    let kind = TreeKind::of(algorithm);
    for (entry, index) in entries.iter_mut().zip(0..) {
        let EntryKind::File { root, .. } = &mut entry.kind else { continue };
        let range = layout.pieces_of(FileIndex(index));
        let pieces = &pieces[range.start as usize..range.end as usize];
        let mut nodes: Vec<_> = pieces.iter().filter_map(|piece| piece.as_array32().copied()).collect();
        *root = kind
            .filter(|_| !nodes.is_empty())
            .map(|kind| FileRoot(file_root(kind, layout.blocks_per_piece(), &mut nodes)));
    }
}

fn path_of(entries: &[Entry], file: FileIndex) -> String {
    entries.get(file.0 as usize).map(|entry| entry.path.to_string()).unwrap_or_default()
}
