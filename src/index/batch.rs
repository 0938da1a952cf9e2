//! What is written to the index at once.

use rusqlite::{Connection, params};

use super::records::{ObjectRecord, PieceRecord, Written};
use crate::types::FileStamp;

/// What a commit survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// The end of the process, however sudden. Costs no sync.
    Process,
    /// A power cut.
    Disk,
}

/// Changes of the index that belong together. Written in the order of the fields.
#[derive(Debug, Default)]
pub struct Batch {
    /// Objects to keep; known ones are left as they are.
    pub objects: Vec<ObjectRecord>,
    /// Pieces that have nothing verified any more: (object, piece).
    pub forgotten: Vec<(u32, u32)>,
    /// Pieces as they are now.
    pub pieces: Vec<PieceRecord>,
    /// Pieces whose data is synced now: (object, piece).
    pub synced: Vec<(u32, u32)>,
    /// When pieces were used: (object, piece, microseconds of Unix time).
    pub used: Vec<(u32, u32, u64)>,
    /// What cache files look like now: (object, file, stamp).
    pub stamps: Vec<(u32, u32, FileStamp)>,
}

impl Batch {
    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        let Self { objects, forgotten, pieces, synced, used, stamps } = self;
        objects.is_empty()
            && forgotten.is_empty()
            && pieces.is_empty()
            && synced.is_empty()
            && used.is_empty()
            && stamps.is_empty()
    }

    pub(super) fn write(&self, conn: &mut Connection, boot: u32) -> rusqlite::Result<()> {
        let tx = conn.transaction()?;
        {
            let mut insert = tx.prepare_cached(
                "INSERT OR IGNORE INTO objects (id, key, length, piece_length, info_hash) VALUES (?1, ?2, ?3, ?4, ?5)",
            )?;
            for object in &self.objects {
                let info_hash = object.info_hash.as_ref().map(|hash| hash.as_bytes());
                insert.execute(params![object.id, object.key, object.length as i64, object.piece_length, info_hash])?;
            }
            let mut delete = tx.prepare_cached("DELETE FROM pieces WHERE object = ?1 AND piece = ?2")?;
            for (object, piece) in &self.forgotten {
                delete.execute([object, piece])?;
            }
            let mut synced = tx.prepare_cached("UPDATE pieces SET boot = 0 WHERE object = ?1 AND piece = ?2")?;
            write_pieces(&tx, &self.pieces, boot)?;
            for (object, piece) in &self.synced {
                synced.execute([object, piece])?;
            }
            let mut used = tx.prepare_cached("UPDATE pieces SET used_us = ?3 WHERE object = ?1 AND piece = ?2")?;
            for (object, piece, used_us) in &self.used {
                used.execute(params![object, piece, *used_us as i64])?;
            }
            let mut stamps = tx.prepare_cached(
                "INSERT OR REPLACE INTO files (object, file, size, mtime_ns, ctime_ns, inode)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            )?;
            for (object, file, stamp) in &self.stamps {
                let (size, inode) = (stamp.size as i64, stamp.inode as i64);
                stamps.execute(params![object, file, size, stamp.mtime_ns, stamp.ctime_ns, inode])?;
            }
        }
        tx.commit()
    }
}

/// Leaf hashes are kept while a piece is incomplete, since only they can verify what is there of it again; of a
/// complete one they follow from the data and the piece's hash.
fn write_pieces(conn: &Connection, pieces: &[PieceRecord], boot: u32) -> rusqlite::Result<()> {
    let mut upsert = conn.prepare_cached(
        "INSERT INTO pieces (object, piece, used_us, bytes, boot, blocks, leaves) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
         ON CONFLICT (object, piece) DO UPDATE SET
            used_us = excluded.used_us, bytes = excluded.bytes, boot = excluded.boot, blocks = excluded.blocks,
            leaves = CASE WHEN excluded.blocks IS NULL THEN NULL ELSE coalesce(excluded.leaves, leaves) END",
    )?;
    for piece in pieces {
        let boot = match piece.written {
            Written::Synced => 0,
            Written::ThisBoot => i64::from(boot),
            Written::Suspect => -1,
        };
        let (used_us, bytes) = (piece.used_us as i64, piece.bytes as i64);
        upsert.execute(params![piece.object, piece.piece, used_us, bytes, boot, piece.blocks, piece.leaves])?;
    }
    Ok(())
}
