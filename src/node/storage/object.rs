//! What has verified blocks of its own: in memory, changed without locks.
//!
//! An object is a file that torrents share by its root, or the files of one torrent whose pieces span files. Its
//! pieces are counted from its own start. The bitmap here is the truth while the process lives; the index follows.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, OnceLock};

use super::lock;
use crate::cache::FileId;
use crate::index::{ObjectRecord, PieceRecord, Written};
use crate::metainfo::{Layout, LayoutError, Metainfo};
use crate::types::{
    BLOCK_LEN, BlockIndex, BlockSpan, FileIndex, FileRoot, FileStamp, HashAlgorithm, InfoHash, PieceIndex, TorrentKey,
};

/// Unit in which filesystems give room.
pub(super) const DISK_BLOCK: u64 = 4096;

/// Where the bytes of an object lie.
pub(super) enum Shape {
    /// In one file.
    File(Layout),
    /// In the files of a torrent.
    Torrent(Arc<Metainfo>),
}

impl Shape {
    /// The shape of a single file of `length` bytes.
    pub(super) fn file(length: u64, piece_length: u32) -> Result<Self, LayoutError> {
        Layout::new(piece_length, true, &[length]).map(Self::File)
    }

    pub(super) fn layout(&self) -> &Layout {
        match self {
            Self::File(layout) => layout,
            Self::Torrent(metainfo) => metainfo.layout(),
        }
    }
}

/// The place of a file that is known by its root. Files of equal root *and* length are equal; pieces of another
/// length have other hashes and so are verified apart.
pub(super) fn root_key(algorithm: HashAlgorithm, piece_length: u32, root: &FileRoot, length: u64) -> String {
    let root = root.to_string();
    format!("{algorithm}/{piece_length}/{}/{root}-{length}", &root[..2])
}

/// The place of the files of a torrent whose pieces span files.
pub(super) fn torrent_key(info_hash: &InfoHash) -> String {
    let hash = info_hash.to_string();
    format!("torrents/{}/{hash}", &hash[..2])
}

/// Flags of a piece.
pub(super) mod flag {
    /// Changed since it was last written to the index; in the queue of the flusher.
    pub(crate) const DIRTY: u32 = 1;
    /// In the queue of the LRU.
    pub(crate) const LISTED: u32 = 2;
    /// Must be verified again before it is used.
    pub(crate) const SUSPECT: u32 = 4;
    /// Given up: its hole is punched as soon as the index knows, unless a write comes first.
    pub(crate) const EVICTING: u32 = 8;
    /// Written since the data was last synced.
    pub(crate) const UNSYNCED: u32 = 16;
}

/// State of a cache file in this process.
mod file_state {
    /// Its stamp was compared with the index.
    pub(super) const CHECKED: u8 = 1;
    /// Changed by this process since the index got its stamp.
    pub(super) const CHANGED: u8 = 2;
}

/// One piece.
#[derive(Default)]
pub(super) struct Slot {
    /// When it was last used, in microseconds of Unix time.
    pub(super) used_us: AtomicU64,
    /// Bytes that it takes on the disk.
    pub(super) bytes: AtomicU32,
    flags: AtomicU32,
}

impl Slot {
    pub(super) fn has(&self, flag: u32) -> bool {
        self.flags.load(SeqCst) & flag != 0
    }

    /// True if it was not set.
    pub(super) fn set(&self, flag: u32) -> bool {
        self.flags.fetch_or(flag, SeqCst) & flag == 0
    }

    /// True if it was set.
    pub(super) fn clear(&self, flag: u32) -> bool {
        self.flags.fetch_and(!flag, SeqCst) & flag != 0
    }
}

/// Who wants to know when a piece is lost.
#[derive(Clone)]
pub(super) struct Owner {
    /// The torrent; empty until it has a name. Each torrent has its own cell.
    pub(super) torrent: Arc<OnceLock<TorrentKey>>,
    /// Its piece where the object starts.
    pub(super) first_piece: u32,
}

/// See the module.
pub(super) struct Object {
    pub(super) id: u32,
    pub(super) key: String,
    shape: Shape,
    verified: Bits,
    /// Blocks that have room on the disk, verified or not.
    written: Bits,
    slots: Box<[Slot]>,
    files: Box<[AtomicU8]>,
    /// Counts how often its files were given away: what was opened before is of another generation.
    generation: AtomicU32,
    /// Counts how often blocks were taken away: who reads compares it before and after.
    epoch: AtomicU64,
    /// Verified bytes of each file.
    verified_bytes: Box<[AtomicU64]>,
    /// Whether a piece was used since times were last written to the index.
    pub(super) used: AtomicBool,
    /// Whether the index has its row.
    pub(super) indexed: AtomicBool,
    pub(super) owners: Mutex<Vec<Owner>>,
    /// What the index knows of files that were not checked yet. Held while one is checked.
    pub(super) stamps: Mutex<Vec<(u32, FileStamp)>>,
}

impl Object {
    /// An object of which nothing is here.
    pub(super) fn new(id: u32, key: String, shape: Shape) -> Self {
        let layout = shape.layout();
        let slots = (0..layout.piece_count()).map(|_| Slot::default()).collect();
        let files = (0..layout.file_count()).map(|_| AtomicU8::new(0)).collect();
        let object = Self {
            id,
            key,
            verified: Bits::new(layout.block_numbers()),
            written: Bits::new(layout.block_numbers()),
            slots,
            files,
            generation: AtomicU32::new(0),
            epoch: AtomicU64::new(0),
            verified_bytes: (0..layout.file_count()).map(|_| AtomicU64::new(0)).collect(),
            used: AtomicBool::new(false),
            indexed: AtomicBool::new(false),
            owners: Mutex::default(),
            stamps: Mutex::default(),
            shape,
        };
        // Padding is always here, and takes no room.
        for block in object.layout().padding_blocks() {
            object.verified.set(object.number(block));
            object.written.set(object.number(block));
        }
        object
    }

    /// An object as the index knows it. Its pieces are in the queue of the LRU already.
    pub(super) fn load(
        row: ObjectRecord,
        shape: Shape,
        pieces: Vec<PieceRecord>,
        stamps: Vec<(u32, FileStamp)>,
    ) -> Self {
        let object = Self::new(row.id, row.key, shape);
        object.indexed.store(true, SeqCst);
        *lock(&object.stamps) = stamps;
        for piece in pieces {
            let Some(slot) = object.slots.get(piece.piece as usize) else { continue };
            slot.used_us.store(piece.used_us, SeqCst);
            slot.bytes.store(u32::try_from(piece.bytes).unwrap_or(u32::MAX), SeqCst);
            slot.set(flag::LISTED | if piece.written == Written::Suspect { flag::SUSPECT } else { 0 });
            for block in blocks_of_piece(object.layout(), PieceIndex(piece.piece)) {
                let at = block.block().0 as usize;
                let is_set = |bits: &Vec<u8>| bits.get(at / 8).is_some_and(|byte| byte & (0x80 >> (at % 8)) != 0);
                if piece.blocks.as_ref().is_none_or(is_set) {
                    object.set_written(block);
                    object.set_verified(block);
                }
            }
        }
        object
    }

    pub(super) fn record(&self) -> ObjectRecord {
        let layout = self.layout();
        ObjectRecord {
            id: self.id,
            key: self.key.clone(),
            length: layout.total_length(),
            piece_length: layout.piece_length(),
            info_hash: match &self.shape {
                Shape::File(_) => None,
                Shape::Torrent(metainfo) => Some(metainfo.info_hash()),
            },
        }
    }

    pub(super) fn layout(&self) -> &Layout {
        self.shape.layout()
    }

    /// The torrent whose files it is, unless torrents may share it.
    pub(super) fn torrent(&self) -> Option<&Arc<Metainfo>> {
        match &self.shape {
            Shape::File(_) => None,
            Shape::Torrent(metainfo) => Some(metainfo),
        }
    }

    pub(super) fn file_id(&self, file: FileIndex) -> FileId {
        FileId { object: self.id, file: file.0, generation: self.generation.load(SeqCst) }
    }

    /// Where `file` lies under the cache directory.
    pub(super) fn place(&self, file: FileIndex) -> PathBuf {
        match self.shape {
            Shape::File(_) => self.key.as_str().into(),
            Shape::Torrent(_) => format!("{}/{}/{}", self.key, file.0 >> 12, file.0).into(),
        }
    }

    /// Notes that its files belong to somebody else now: files at their places are new ones.
    pub(super) fn start_generation(&self) {
        self.generation.fetch_add(1, SeqCst);
    }

    pub(super) fn slot(&self, piece: PieceIndex) -> &Slot {
        &self.slots[piece.0 as usize]
    }

    /// All pieces, in order.
    pub(super) fn slots(&self) -> &[Slot] {
        &self.slots
    }

    pub(super) fn epoch(&self) -> u64 {
        self.epoch.load(SeqCst)
    }

    pub(super) fn verified_bytes(&self) -> u64 {
        self.verified_bytes.iter().map(|bytes| bytes.load(SeqCst)).sum()
    }

    pub(super) fn verified_bytes_of(&self, file: FileIndex) -> u64 {
        self.verified_bytes.get(file.0 as usize).map_or(0, |bytes| bytes.load(SeqCst))
    }

    pub(super) fn is_verified(&self, block: BlockSpan) -> bool {
        self.verified.get(self.number(block))
    }

    pub(super) fn is_written(&self, block: BlockSpan) -> bool {
        self.written.get(self.number(block))
    }

    pub(super) fn set_verified(&self, block: BlockSpan) {
        if self.verified.set(self.number(block)) {
            for slice in self.layout().slices(block) {
                self.verified_bytes[slice.file.0 as usize].fetch_add(u64::from(slice.len), SeqCst);
            }
        }
    }

    /// Bytes that a block takes on the disk.
    pub(super) fn room(&self, block: BlockSpan) -> u64 {
        let slices = self.layout().slices(block).map(|slice| u64::from(slice.len));
        let bytes = if self.layout().has_padding() { slices.sum() } else { u64::from(block.len) };
        bytes.next_multiple_of(DISK_BLOCK)
    }

    /// The blocks of a piece but those of nothing but padding, which are here for ever.
    pub(super) fn real_blocks(&self, piece: PieceIndex) -> impl Iterator<Item = BlockSpan> + '_ {
        let layout = self.layout();
        blocks_of_piece(layout, piece).filter(|block| !(layout.has_padding() && layout.is_padding(*block)))
    }

    /// The bytes that the block now takes on the disk and did not before.
    pub(super) fn set_written(&self, block: BlockSpan) -> u64 {
        if self.written.set(self.number(block)) { self.room(block) } else { 0 }
    }

    /// Takes back that blocks of a piece are verified, and gives those that were.
    pub(super) fn clear_verified(&self, piece: PieceIndex) -> Vec<BlockSpan> {
        let blocks = self.real_blocks(piece);
        let cleared: Vec<_> = blocks.filter(|block| self.verified.clear(self.number(*block))).collect();
        for slice in cleared.iter().flat_map(|block| self.layout().slices(*block)) {
            self.verified_bytes[slice.file.0 as usize].fetch_sub(u64::from(slice.len), SeqCst);
        }
        self.epoch.fetch_add(1, SeqCst);
        cleared
    }

    /// Takes back that a block is on the disk, of a piece that is suspect or a block that is not verified. Its room
    /// stays counted with its piece.
    pub(super) fn clear_block(&self, block: BlockSpan) {
        if self.verified.clear(self.number(block)) {
            for slice in self.layout().slices(block) {
                self.verified_bytes[slice.file.0 as usize].fetch_sub(u64::from(slice.len), SeqCst);
            }
            self.epoch.fetch_add(1, SeqCst);
        }
        self.written.clear(self.number(block));
    }

    /// Takes back that blocks of a piece have room on the disk.
    pub(super) fn clear_written(&self, piece: PieceIndex) {
        for block in self.real_blocks(piece) {
            self.written.clear(self.number(block));
        }
    }

    /// The verified blocks of a piece: `None` if all of them are, else the bitmap of the index.
    pub(super) fn verified_blocks(&self, piece: PieceIndex) -> Option<Vec<u8>> {
        let mut bitmap = vec![0; self.layout().blocks_in(piece).div_ceil(8) as usize];
        let mut all = true;
        for block in blocks_of_piece(self.layout(), piece) {
            let at = block.block().0 as usize;
            match self.is_verified(block) {
                true => bitmap[at / 8] |= 0x80 >> (at % 8),
                false => all = false,
            }
        }
        (!all).then_some(bitmap)
    }

    /// Whether `file` was compared with the index in this process.
    pub(super) fn is_checked(&self, file: FileIndex) -> bool {
        self.files[file.0 as usize].load(SeqCst) & file_state::CHECKED != 0
    }

    pub(super) fn set_checked(&self, file: FileIndex) {
        self.files[file.0 as usize].fetch_or(file_state::CHECKED, SeqCst);
    }

    /// Notes that this process changed `file`; true if the index's stamp was up to date.
    pub(super) fn set_changed(&self, file: FileIndex) -> bool {
        self.files[file.0 as usize].fetch_or(file_state::CHANGED, SeqCst) & file_state::CHANGED == 0
    }

    pub(super) fn clear_changed(&self, file: FileIndex) {
        self.files[file.0 as usize].fetch_and(!file_state::CHANGED, SeqCst);
    }

    fn number(&self, block: BlockSpan) -> u32 {
        self.layout().block_number(block.piece, block.block())
    }
}

/// The blocks of `piece`, in order.
pub(super) fn blocks_of_piece(layout: &Layout, piece: PieceIndex) -> impl Iterator<Item = BlockSpan> + Clone + '_ {
    (0..layout.blocks_in(piece)).map(move |block| layout.block_span(piece, BlockIndex(block)))
}

/// The blocks that `span` touches, in order.
pub(super) fn blocks_of_span(layout: &Layout, span: BlockSpan) -> impl Iterator<Item = BlockSpan> + Clone + '_ {
    let end = span.end().div_ceil(u64::from(BLOCK_LEN)) as u32;
    (span.begin / BLOCK_LEN..end).map(move |block| layout.block_span(span.piece, BlockIndex(block)))
}

/// A bitmap that threads change at once.
struct Bits(Box<[AtomicU64]>);

impl Bits {
    fn new(len: u32) -> Self {
        Self((0..len.div_ceil(64)).map(|_| AtomicU64::new(0)).collect())
    }

    fn get(&self, at: u32) -> bool {
        self.0[at as usize / 64].load(SeqCst) & Self::mask(at) != 0
    }

    /// True if it was not set.
    fn set(&self, at: u32) -> bool {
        self.0[at as usize / 64].fetch_or(Self::mask(at), SeqCst) & Self::mask(at) == 0
    }

    /// True if it was set.
    fn clear(&self, at: u32) -> bool {
        self.0[at as usize / 64].fetch_and(!Self::mask(at), SeqCst) & Self::mask(at) != 0
    }

    fn mask(at: u32) -> u64 {
        1 << (at % 64)
    }
}
