//! Rows of the index as values.

use rusqlite::Row;
use rusqlite::types::Type;

use crate::types::{FileStamp, InfoHash, InfoId, InfoSig};

/// A verified metainfo.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TorrentRecord {
    /// Its InfoHash.
    pub info_hash: InfoHash,
    /// Its InfoID: the InfoSig if it is signed.
    pub info_id: InfoId,
    /// The envelope as it was received.
    pub metainfo: Vec<u8>,
}

/// Something that has verified blocks of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectRecord {
    /// Its number.
    pub id: u32,
    /// Its place under the cache directory.
    pub key: String,
    /// Bytes of all its files.
    pub length: u64,
    /// Bytes of a full piece.
    pub piece_length: u32,
    /// Of objects of several files: whose metainfo lays them out.
    pub info_hash: Option<InfoHash>,
}

/// How far the bytes of a piece can be trusted to be on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// They were synced before the row was written.
    Synced,
    /// They were written in this boot: they are at least in the page cache.
    ThisBoot,
    /// They must be verified again before they are used.
    Suspect,
}

/// Verified blocks of a piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PieceRecord {
    /// The object.
    pub object: u32,
    /// The piece, counted from the start of the object.
    pub piece: u32,
    /// When it was last read or written, in microseconds of Unix time.
    pub used_us: u64,
    /// Bytes that it takes on the disk.
    pub bytes: u64,
    /// How far it can be trusted.
    pub written: Written,
    /// Bitmap of the verified blocks, the first block the highest bit of the first byte; `None`: all of them.
    pub blocks: Option<Vec<u8>>,
    /// Leaf hashes of all blocks, laid end to end. Not filled in by reads; a write of `None` keeps what is there
    /// unless `blocks` is `None` too.
    pub leaves: Option<Vec<u8>>,
}

/// What is served in place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeedRecord {
    /// The absolute path, as bytes.
    pub path: Vec<u8>,
    /// The torrent.
    pub info_hash: InfoHash,
    /// Bitmap of the pieces that matched; `None`: all of them.
    pub pieces: Option<Vec<u8>>,
    /// The files when they were hashed: (index in the torrent, stamp), ascending.
    pub stamps: Vec<(u32, FileStamp)>,
    /// Whether the files are on the disk for sure. If not, the record is of no use after another boot.
    pub synced: bool,
}

/// Something mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountRecord {
    /// The absolute path, as bytes.
    pub mountpoint: Vec<u8>,
    /// The InfoID, as bytes.
    pub info_id: Vec<u8>,
}

impl TorrentRecord {
    pub(super) fn from_row(row: &Row<'_>) -> rusqlite::Result<Self> {
        let id: Vec<u8> = row.get(1)?;
        let info_id = match <[u8; 64]>::try_from(&id[..]) {
            Ok(sig) => InfoId::Sig(InfoSig(sig)),
            Err(_) => InfoId::Hash(InfoHash::from_slice(&id).ok_or_else(|| wrong_width(1, id.len()))?),
        };
        Ok(Self { info_hash: info_hash(row, 0)?, info_id, metainfo: row.get(2)? })
    }
}

impl ObjectRecord {
    pub(super) fn from_row(row: &Row<'_>) -> rusqlite::Result<Self> {
        let has_info_hash = row.get_ref(4)? != rusqlite::types::ValueRef::Null;
        Ok(Self {
            id: row.get(0)?,
            key: row.get(1)?,
            length: row.get::<_, i64>(2)? as u64,
            piece_length: row.get(3)?,
            info_hash: has_info_hash.then(|| info_hash(row, 4)).transpose()?,
        })
    }
}

impl PieceRecord {
    pub(super) fn from_row(row: &Row<'_>, boot: u32) -> rusqlite::Result<Self> {
        let written = match row.get::<_, i64>(4)? {
            0 => Written::Synced,
            then if then == i64::from(boot) => Written::ThisBoot,
            _ => Written::Suspect,
        };
        Ok(Self {
            object: row.get(0)?,
            piece: row.get(1)?,
            used_us: row.get::<_, i64>(2)? as u64,
            bytes: row.get::<_, i64>(3)? as u64,
            written,
            blocks: row.get(5)?,
            leaves: None,
        })
    }
}

/// The InfoHash in a column.
pub(super) fn info_hash(row: &Row<'_>, column: usize) -> rusqlite::Result<InfoHash> {
    let bytes: Vec<u8> = row.get(column)?;
    InfoHash::from_slice(&bytes).ok_or_else(|| wrong_width(column, bytes.len()))
}

/// The stamp in the first four columns.
pub(super) fn stamp(row: &Row<'_>) -> rusqlite::Result<FileStamp> {
    Ok(FileStamp {
        size: row.get::<_, i64>(0)? as u64,
        mtime_ns: row.get(1)?,
        ctime_ns: row.get(2)?,
        inode: row.get::<_, i64>(3)? as u64,
    })
}

fn wrong_width(column: usize, got: usize) -> rusqlite::Error {
    let error = format!("expected an id of 20, 32 or 64 bytes, got {got}");
    rusqlite::Error::FromSqlConversionFailure(column, Type::Blob, error.into())
}
