//! Content that is served where the user keeps it: never copied, never written.
//!
//! A piece is served while every file under it looks as it did when the piece was hashed; it is looked at after each
//! read, so that a change while bytes are read is noticed too. After a change the pieces of the file are hashed again
//! before any of it is served. Programs that write through a memory map and are not done may go unnoticed until the
//! kernel writes the page back.

use std::io;
use std::num::NonZeroUsize;
use std::ops::{ControlFlow, Range};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, OnceLock, RwLock};

use super::leaves::Leaves;
use super::shared::{Shared, lock, read, write};
use super::{StorageError, StoreEvent};
use crate::index::SeedRecord;
use crate::metainfo::{Metainfo, Part, PieceCheck};
use crate::node::tree::TreeSource;
use crate::types::{Bitfield, BlockSpan, FileIndex, FileSlice, FileStamp, PieceIndex, TorrentKey};

/// Bytes read at once to be hashed.
const READ_LEN: u32 = 256 << 10;
/// How often a read starts again because files changed meanwhile.
const READ_ATTEMPTS: u32 = 4;

/// What is known of a piece.
mod state {
    /// Nothing.
    pub(super) const UNKNOWN: u8 = 0;
    /// It matched its hash.
    pub(super) const GOOD: u8 = 1;
    /// It did not, or could not be read.
    pub(super) const BAD: u8 = 2;
}

/// See the module.
pub(super) struct InPlace {
    shared: Arc<Shared>,
    torrent: Arc<OnceLock<TorrentKey>>,
    metainfo: Arc<Metainfo>,
    path: PathBuf,
    files: TreeSource,
    /// A number for the leaves of its pieces in memory.
    id: u32,
    pieces: Box<[AtomicU8]>,
    /// How many of them are good.
    good: AtomicU32,
    /// Counts how often a file was found changed: what was read or hashed meanwhile is not relied on.
    changes: AtomicU64,
    /// The files as they were when their pieces were hashed; `None` of files that are not there.
    stamps: RwLock<Vec<Option<FileStamp>>>,
    /// Held while a file that changed is looked at again.
    changing: Mutex<()>,
}

/// Why a piece is not served.
enum Failure {
    /// The file is not what it was.
    Changed(FileIndex),
    /// The part of the file cannot be read.
    Unreadable(FileSlice, io::Error),
}

impl InPlace {
    /// Serves `files`, of which nothing is known yet.
    pub(super) fn new(
        shared: Arc<Shared>,
        torrent: Arc<OnceLock<TorrentKey>>,
        metainfo: Arc<Metainfo>,
        path: PathBuf,
        files: TreeSource,
    ) -> Self {
        let count = metainfo.layout().file_count();
        let stamps = (0..count).map(|file| files.guard(FileIndex(file)).ok()).collect();
        let pieces = (0..metainfo.piece_count()).map(|_| AtomicU8::new(state::UNKNOWN)).collect();
        let id = shared.new_id();
        let (good, changes) = (AtomicU32::new(0), AtomicU64::new(0));
        let (stamps, changing) = (RwLock::new(stamps), Mutex::default());
        Self { shared, torrent, metainfo, path, files, id, pieces, good, changes, stamps, changing }
    }

    /// Takes every piece as good whose files still look as they were listed before they were hashed just now.
    pub(super) fn trust_scan(&self) {
        self.trust(|_| true, |file| self.files.scanned(file));
    }

    /// Takes every piece as good whose files are there: they were verified before they were put there.
    pub(super) fn trust_now(&self) {
        self.trust(|_| true, |file| self.files.guard(file).ok());
    }

    /// Takes the pieces as good that were when the index was told, as far as their files look the same.
    pub(super) fn trust_record(&self, record: &SeedRecord) {
        let good = record.pieces.as_ref().map(|bytes| Bitfield::from_bytes(bytes, self.metainfo.piece_count()));
        let is_good = |piece: PieceIndex| match &good {
            None => true,
            Some(good) => good.as_ref().is_ok_and(|good| good.contains(piece.0)),
        };
        let stamp = |file: FileIndex| {
            let at = record.stamps.binary_search_by_key(&file.0, |(index, _)| *index).ok()?;
            record.stamps.get(at).map(|(_, stamp)| *stamp)
        };
        self.trust(is_good, stamp);
    }

    fn trust(&self, is_good: impl Fn(PieceIndex) -> bool, then: impl Fn(FileIndex) -> Option<FileStamp>) {
        let stamps = read(&self.stamps);
        for piece in (0..self.metainfo.piece_count()).map(PieceIndex) {
            let is_same = |file: FileIndex| {
                let now = stamps.get(file.0 as usize).copied().flatten();
                now.is_some() && now == then(file)
            };
            if is_good(piece) && self.slices_of(piece).all(|slice| is_same(slice.file)) {
                self.set(piece, state::GOOD);
            }
        }
    }

    /// Hashes every piece of which nothing is known, on all cores. `on_progress` gets the bytes hashed so far and in
    /// all, and may break it off.
    pub(super) fn check(&self, on_progress: &super::OnCheck<'_>) -> Result<(), StorageError> {
        let unknown: Vec<_> = (0..self.metainfo.piece_count())
            .map(PieceIndex)
            .filter(|piece| self.get(*piece) == state::UNKNOWN)
            .collect();
        let total: u64 = unknown.iter().map(|piece| u64::from(self.metainfo.layout().piece_len(*piece))).sum();
        let (next, hashed, stopped) = (AtomicU32::new(0), AtomicU64::new(0), AtomicBool::new(false));
        let work = || {
            while !stopped.load(SeqCst)
                && let Some(piece) = unknown.get(next.fetch_add(1, SeqCst) as usize)
            {
                self.verify(*piece);
                let len = u64::from(self.metainfo.layout().piece_len(*piece));
                if on_progress(hashed.fetch_add(len, SeqCst) + len, total).is_break() {
                    stopped.store(true, SeqCst);
                }
            }
        };
        let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        std::thread::scope(|scope| {
            for _ in 1..cores.min(unknown.len()) {
                // With fewer threads it only takes longer.
                let _ = std::thread::Builder::new().spawn_scoped(scope, work);
            }
            work();
        });
        if stopped.load(SeqCst) {
            return Err(StorageError::Cancelled);
        }
        self.save(true)
    }

    /// Tells the index what is good, so that the next start need not hash it; `synced` if the files are on the disk for
    /// sure.
    pub(super) fn save(&self, synced: bool) -> Result<(), StorageError> {
        use std::os::unix::ffi::OsStrExt as _;
        let good = self.good_pieces();
        let stamps = read(&self.stamps).iter().zip(0..).filter_map(|(stamp, file)| Some((file, (*stamp)?))).collect();
        let record = SeedRecord {
            path: self.path.as_os_str().as_bytes().to_vec(),
            info_hash: self.metainfo.info_hash(),
            pieces: (!good.is_full()).then(|| good.as_bytes().to_vec()),
            stamps,
            synced,
        };
        Ok(lock(&self.shared.index).put_seed(&record)?)
    }

    fn good_pieces(&self) -> Bitfield {
        let mut good = Bitfield::new(self.metainfo.piece_count());
        for piece in (0..self.metainfo.piece_count()).filter(|piece| self.get(PieceIndex(*piece)) == state::GOOD) {
            good.insert(piece);
        }
        good
    }

    pub(super) fn add_verified(&self, bits: &mut Bitfield) {
        let layout = self.metainfo.layout();
        for piece in self.good_pieces().iter().map(PieceIndex) {
            for block in super::object::blocks_of_piece(layout, piece) {
                bits.insert(layout.block_number(piece, block.block()));
            }
        }
    }

    pub(super) fn is_good(&self, piece: PieceIndex) -> bool {
        self.get(piece) == state::GOOD
    }

    /// Whether every piece is good.
    pub(super) fn is_complete(&self) -> bool {
        self.good.load(SeqCst) == self.metainfo.piece_count()
    }

    /// Bytes of good pieces.
    pub(super) fn good_bytes(&self) -> u64 {
        let (good, layout) = (self.good_pieces(), self.metainfo.layout());
        let pieces = good.iter().map(PieceIndex);
        if !layout.has_padding() {
            return pieces.map(|piece| u64::from(layout.piece_len(piece))).sum();
        }
        pieces.flat_map(|piece| self.slices_of(piece)).map(|slice| u64::from(slice.len)).sum()
    }

    /// Bytes of `file` if all of its pieces are good.
    pub(super) fn good_bytes_of(&self, file: FileIndex) -> u64 {
        let layout = self.metainfo.layout();
        let all = layout.pieces_of(file).all(|piece| self.is_good(PieceIndex(piece)));
        if all { layout.file_length(file) } else { 0 }
    }

    /// Parts of files and padding, if all `pieces`, which they are parts of, match their hashes.
    pub(super) fn read(&self, pieces: Range<u32>, parts: &[Part]) -> Option<Vec<u8>> {
        for _ in 0..READ_ATTEMPTS {
            let changes = self.changes.load(SeqCst);
            if !pieces.clone().all(|piece| self.is_servable(PieceIndex(piece))) {
                return None;
            }
            let mut buf = Vec::new();
            match self.read_parts(parts.iter().copied(), &mut buf) {
                // Not if a stamp was taken anew meanwhile: the bytes may be those of a file that nobody has hashed.
                Ok(()) if self.changes.load(SeqCst) == changes => return Some(buf),
                Ok(()) => {}
                Err(failure) => self.note(&failure),
            }
        }
        None
    }

    /// [`Self::read`] of one part of a file, inside one piece, if that needs neither disk nor hashing; `None` if it may,
    /// or if the bytes are not to be served.
    pub(super) fn read_nowait(&self, piece: PieceIndex, part: FileSlice) -> Option<Vec<u8>> {
        let changes = self.changes.load(SeqCst);
        if !self.is_good(piece) {
            return None;
        }
        let (bytes, stamp) = self.files.read_guarded_nowait(part.file, part.offset, part.len)?;
        let is_same = read(&self.stamps).get(part.file.0 as usize).copied().flatten() == Some(stamp);
        (is_same && self.changes.load(SeqCst) == changes).then_some(bytes)
    }

    /// The leaves of a piece that matches its hash.
    pub(super) fn leaves(&self, piece: PieceIndex) -> Option<Leaves> {
        if !self.is_servable(piece) {
            return None;
        }
        // Leaves follow from the piece hash: they are right whatever becomes of the file.
        if let Some(leaves) = lock(&self.shared.leaves).get(self.id, piece.0) {
            return Some(leaves);
        }
        self.verify(piece).then(|| lock(&self.shared.leaves).get(self.id, piece.0))?
    }

    fn is_servable(&self, piece: PieceIndex) -> bool {
        match self.get(piece) {
            state::GOOD => true,
            state::UNKNOWN => self.verify(piece),
            _ => {
                // A user may have put the right content back.
                let changed = self.slices_of(piece).find(|slice| {
                    let now = self.files.guard(slice.file).ok();
                    now.is_some() && now != read(&self.stamps)[slice.file.0 as usize]
                });
                let Some(slice) = changed else { return false };
                self.look_again(slice.file);
                self.verify(piece)
            }
        }
    }

    /// Hashes a piece; whether it matched.
    fn verify(&self, piece: PieceIndex) -> bool {
        for _ in 0..READ_ATTEMPTS {
            let changes = self.changes.load(SeqCst);
            match self.hash(piece) {
                Ok(Some(leaves)) => {
                    if !leaves.is_empty() {
                        lock(&self.shared.leaves).put(self.id, piece.0, leaves.into());
                    }
                    let _none_changes = lock(&self.changing);
                    if self.changes.load(SeqCst) == changes {
                        self.set(piece, state::GOOD);
                        return true;
                    }
                }
                Ok(None) => {
                    self.refuse(piece);
                    return false;
                }
                Err(failure) => self.note(&failure),
            }
            if self.get(piece) == state::BAD {
                return false;
            }
        }
        self.refuse(piece);
        false
    }

    /// The leaves of a piece, empty where there are none, if it matches its hash.
    fn hash(&self, piece: PieceIndex) -> Result<Option<Vec<[u8; 32]>>, Failure> {
        let Some(mut hasher) = self.metainfo.piece_hasher(piece) else { return Ok(None) };
        let (layout, mut buf) = (self.metainfo.layout(), Vec::new());
        for begin in (0..layout.piece_len(piece)).step_by(READ_LEN as usize) {
            let span = BlockSpan { piece, begin, len: READ_LEN.min(layout.piece_len(piece) - begin) };
            buf.clear();
            self.read_parts(layout.parts(span), &mut buf)?;
            hasher.update(&buf);
        }
        Ok(match self.metainfo.judge(piece, hasher) {
            PieceCheck::Right(leaves) => Some(leaves),
            PieceCheck::Wrong => None,
            PieceCheck::Inconsistent => {
                self.shared.warn_of_contradiction(&self.metainfo);
                None
            }
        })
    }

    fn read_parts(&self, parts: impl Iterator<Item = Part>, buf: &mut Vec<u8>) -> Result<(), Failure> {
        for part in parts {
            let slice = match part {
                Part::File(slice) => slice,
                Part::Padding(len) => {
                    buf.resize(buf.len() + len as usize, 0);
                    continue;
                }
            };
            let read_now = self.files.read_guarded(slice.file, slice.offset, slice.len, buf);
            let expected = read(&self.stamps).get(slice.file.0 as usize).copied().flatten();
            match read_now {
                Ok(stamp) if Some(stamp) == expected => {}
                Ok(_) => return Err(Failure::Changed(slice.file)),
                Err(error) => return Err(Failure::Unreadable(slice, error)),
            }
        }
        Ok(())
    }

    fn note(&self, failure: &Failure) {
        let file = match failure {
            Failure::Changed(file) => *file,
            Failure::Unreadable(slice, error) => {
                let path = self.files.path(slice.file).unwrap_or(&self.path);
                let now = self.files.guard(slice.file).ok();
                let is_same = now.is_some() && now == read(&self.stamps)[slice.file.0 as usize];
                let message = || {
                    format!(
                        "cannot read all of {path:?}, which is being seeded ({error}): what cannot be read is not \
                         served; put it back, or seed what is there now"
                    )
                };
                self.shared.warn_once(&format!("seed {}", path.display()), message);
                if is_same {
                    // Nothing has changed but that it cannot be read: to look again would end nowhere.
                    let pieces = self.metainfo.layout().pieces_of_range(slice.file, slice.range());
                    pieces.for_each(|piece| self.refuse_quietly(PieceIndex(piece)));
                    return;
                }
                slice.file
            }
        };
        self.look_again(file);
    }

    /// Takes a file as it is now: its pieces have to be hashed before they are served.
    fn look_again(&self, file: FileIndex) {
        let _one_at_a_time = lock(&self.changing);
        let now = self.files.guard(file).ok();
        self.files.reopen(file);
        if now == read(&self.stamps)[file.0 as usize] && now.is_some() {
            return;
        }
        let pieces = self.metainfo.layout().pieces_of(file).map(PieceIndex);
        let unknown = if now.is_some() { state::UNKNOWN } else { state::BAD };
        self.changes.fetch_add(1, SeqCst);
        // First the pieces, then the stamp: whoever reads with the new stamp finds no piece good that was hashed
        // under the old one.
        for piece in pieces {
            if self.set(piece, unknown) == state::GOOD && now.is_none() {
                self.tell_lost(piece);
            }
        }
        write(&self.stamps)[file.0 as usize] = now;
        if now.is_some() {
            let path = self.files.path(file).unwrap_or(&self.path);
            self.shared.warn_once(&format!("seed {}", path.display()), || {
                format!(
                    "{path:?} changed while it is being seeded: each part of it is verified again before it is \
                     served, and what does not match is refused"
                )
            });
        }
    }

    fn refuse(&self, piece: PieceIndex) {
        let first = self.slices_of(piece).next().and_then(|slice| self.files.path(slice.file));
        let path = first.unwrap_or(&self.path);
        self.shared.warn_once(&format!("refused {}", path.display()), || {
            let id = self.metainfo.info_id();
            format!(
                "expected {path:?} to be what {id} describes, got other content: it is not served; put the old \
                 content back, or make a new metainfo with knot create"
            )
        });
        self.refuse_quietly(piece);
    }

    fn refuse_quietly(&self, piece: PieceIndex) {
        if self.set(piece, state::BAD) != state::BAD {
            self.tell_lost(piece);
        }
    }

    fn tell_lost(&self, piece: PieceIndex) {
        if let Some(&torrent) = self.torrent.get() {
            self.shared.tell(StoreEvent::Lost { torrent, piece });
        }
    }

    fn slices_of(&self, piece: PieceIndex) -> impl Iterator<Item = FileSlice> + '_ {
        let layout = self.metainfo.layout();
        layout.slices(BlockSpan { piece, begin: 0, len: layout.piece_len(piece) })
    }

    fn get(&self, piece: PieceIndex) -> u8 {
        self.pieces.get(piece.0 as usize).map_or(state::BAD, |piece| piece.load(SeqCst))
    }

    /// What was known before.
    fn set(&self, piece: PieceIndex, state: u8) -> u8 {
        let before = self.pieces[piece.0 as usize].swap(state, SeqCst);
        match (before == state::GOOD, state == state::GOOD) {
            (false, true) => self.good.fetch_add(1, SeqCst),
            (true, false) => self.good.fetch_sub(1, SeqCst),
            _ => 0,
        };
        before
    }
}

/// What [`InPlace::check`] calls with the bytes hashed so far and in all.
pub(crate) type OnCheck<'a> = dyn Fn(u64, u64) -> ControlFlow<()> + Sync + 'a;
