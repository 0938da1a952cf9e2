//! The SQLite index of a store: metainfo, verified blocks, when pieces were used, seeds and mounts.
//!
//! Pure bookkeeping: it neither looks at cache files nor decides anything. Its tables are documented in
//! `schema/*.sql`. One connection, one process (the node holds the store's lock), WAL. A commit survives a killed
//! process; with [`Durability::Disk`] it survives a power cut too.

mod batch;
mod datasets;
mod error;
mod records;

use std::path::Path;

use rusqlite::{Connection, OptionalExtension, params};
use rusqlite_migration::{M, Migrations};

pub use batch::{Batch, Durability};
pub use datasets::{PublicationRow, UpdateRow};
pub use error::IndexError;
pub use records::{MountRecord, ObjectRecord, PieceRecord, SeedRecord, TorrentRecord, Written};

use crate::types::{FileStamp, InfoHash, InfoId};

/// Bytes that the write-ahead log keeps on disk after a checkpoint.
const WAL_KEPT_BYTES: i64 = 4 << 20;

/// An open index.
pub struct Index {
    conn: Connection,
    boot: u32,
}

impl Index {
    /// Opens the index in the file `path`, creates it or brings it up to date. `boot_id` names the current boot of
    /// the machine: data written in another one and never synced is not trusted.
    ///
    /// # Errors
    /// [`IndexError::Damaged`] when the file is no index or is torn; the caller may set it aside and start anew.
    pub fn open(path: &Path, boot_id: &str) -> Result<Self, IndexError> {
        let mut conn = Connection::open(path)?;
        conn.pragma_update(None, "journal_mode", "WAL")?;
        conn.pragma_update(None, "synchronous", "NORMAL")?;
        conn.pragma_update(None, "journal_size_limit", WAL_KEPT_BYTES)?;
        let steps = [
            include_str!("../../schema/0001_store.sql"),
            include_str!("../../schema/0002_seed_boot.sql"),
            include_str!("../../schema/0003_datasets.sql"),
        ];
        Migrations::new(steps.map(M::up).into()).to_latest(&mut conn)?;
        let boot = current_boot(&mut conn, boot_id)?;
        Ok(Self { conn, boot })
    }

    /// The number of the current boot: at least 1, another one after each boot.
    pub fn boot(&self) -> u32 {
        self.boot
    }

    /// Keeps a verified metainfo; replaces the one of the same InfoHash, so that a signature may be added.
    ///
    /// # Errors
    /// When the index cannot be written.
    pub fn put_torrent(&mut self, torrent: &TorrentRecord, now_ms: u64) -> Result<(), IndexError> {
        self.conn
            .prepare_cached(
                "INSERT INTO torrents (info_hash, info_id, metainfo, added_ms) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (info_hash) DO UPDATE SET info_id = excluded.info_id, metainfo = excluded.metainfo
             WHERE info_id != excluded.info_id OR metainfo != excluded.metainfo",
            )?
            .execute(params![
                torrent.info_hash.as_bytes(),
                torrent.info_id.as_bytes(),
                torrent.metainfo,
                now_ms as i64
            ])?;
        Ok(())
    }

    /// The metainfo kept under an InfoID or, of a signed torrent, under its InfoHash.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn torrent(&self, id: &InfoId) -> Result<Option<TorrentRecord>, IndexError> {
        let sql = match id {
            InfoId::Hash(_) => "SELECT info_hash, info_id, metainfo FROM torrents WHERE info_hash = ?1",
            InfoId::Sig(_) => "SELECT info_hash, info_id, metainfo FROM torrents WHERE info_id = ?1 LIMIT 1",
        };
        let mut statement = self.conn.prepare_cached(sql)?;
        Ok(statement.query_row([id.as_bytes()], TorrentRecord::from_row).optional()?)
    }

    /// Whether a metainfo is kept under an InfoHash.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn has_torrent(&self, info_hash: &InfoHash) -> Result<bool, IndexError> {
        let mut statement = self.conn.prepare_cached("SELECT EXISTS (SELECT 1 FROM torrents WHERE info_hash = ?1)")?;
        Ok(statement.query_row([info_hash.as_bytes()], |row| row.get(0))?)
    }

    /// Every object, in no order.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn objects(&self) -> Result<Vec<ObjectRecord>, IndexError> {
        let mut statement = self.conn.prepare("SELECT id, key, length, piece_length, info_hash FROM objects")?;
        let rows = statement.query_map([], ObjectRecord::from_row)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// The object with this key.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn object(&self, key: &str) -> Result<Option<ObjectRecord>, IndexError> {
        let mut statement =
            self.conn.prepare_cached("SELECT id, key, length, piece_length, info_hash FROM objects WHERE key = ?1")?;
        Ok(statement.query_row([key], ObjectRecord::from_row).optional()?)
    }

    /// The object with this number.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn object_by_id(&self, id: u32) -> Result<Option<ObjectRecord>, IndexError> {
        let mut statement =
            self.conn.prepare_cached("SELECT id, key, length, piece_length, info_hash FROM objects WHERE id = ?1")?;
        Ok(statement.query_row([id], ObjectRecord::from_row).optional()?)
    }

    /// Takes objects without pieces out and gives their keys, and the highest object number that is left; 0 if there
    /// are none.
    ///
    /// # Errors
    /// When the index cannot be read or written.
    pub fn prune_objects(&mut self) -> Result<(Vec<String>, u32), IndexError> {
        let tx = self.conn.transaction()?;
        let gone = tx
            .prepare(
                "DELETE FROM objects WHERE NOT EXISTS (SELECT 1 FROM pieces WHERE pieces.object = objects.id)
                 RETURNING key",
            )?
            .query_map([], |row| row.get(0))?
            .collect::<Result<_, _>>()?;
        tx.execute("DELETE FROM files WHERE NOT EXISTS (SELECT 1 FROM objects WHERE objects.id = files.object)", [])?;
        let last = tx.query_row("SELECT coalesce(max(id), 0) FROM objects", [], |row| row.get(0))?;
        tx.commit()?;
        Ok((gone, last))
    }

    /// The pieces of an object that have rows.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn pieces(&self, object: u32) -> Result<Vec<PieceRecord>, IndexError> {
        let mut statement = self.conn.prepare_cached(
            "SELECT object, piece, used_us, bytes, boot, blocks FROM pieces WHERE object = ?1 ORDER BY piece",
        )?;
        let boot = self.boot;
        let rows = statement.query_map([object], |row| PieceRecord::from_row(row, boot))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// The leaf hashes kept for a piece, laid end to end.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn leaves(&self, object: u32, piece: u32) -> Result<Option<Vec<u8>>, IndexError> {
        let mut statement = self.conn.prepare_cached("SELECT leaves FROM pieces WHERE object = ?1 AND piece = ?2")?;
        Ok(statement.query_row([object, piece], |row| row.get(0)).optional()?.flatten())
    }

    /// Calls `visit` with every piece of every object: when it was used (µs), the object, the piece, its bytes.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn for_each_piece(&self, mut visit: impl FnMut(u64, u32, u32, u64)) -> Result<(), IndexError> {
        let mut statement = self.conn.prepare("SELECT used_us, object, piece, bytes FROM pieces")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            visit(row.get::<_, i64>(0)? as u64, row.get(1)?, row.get(2)?, row.get::<_, i64>(3)? as u64);
        }
        Ok(())
    }

    /// What the cache files of an object looked like: (file, stamp).
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn stamps(&self, object: u32) -> Result<Vec<(u32, FileStamp)>, IndexError> {
        let mut statement =
            self.conn.prepare_cached("SELECT size, mtime_ns, ctime_ns, inode, file FROM files WHERE object = ?1")?;
        let rows = statement.query_map([object], |row| Ok((row.get(4)?, records::stamp(row)?)))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Writes a batch as one transaction.
    ///
    /// # Errors
    /// When the index cannot be written; then nothing of the batch is.
    pub fn commit(&mut self, batch: &Batch, durability: Durability) -> Result<(), IndexError> {
        if batch.is_empty() {
            return Ok(());
        }
        if durability == Durability::Disk {
            self.conn.pragma_update(None, "synchronous", "FULL")?;
        }
        let result = batch.write(&mut self.conn, self.boot);
        if durability == Durability::Disk {
            self.conn.pragma_update(None, "synchronous", "NORMAL")?;
        }
        Ok(result?)
    }

    /// Keeps what is served from a path, in place of what was kept for it.
    ///
    /// # Errors
    /// When the index cannot be written.
    pub fn put_seed(&mut self, seed: &SeedRecord) -> Result<(), IndexError> {
        let tx = self.conn.transaction()?;
        tx.execute("DELETE FROM seed_files WHERE path = ?1", [&seed.path])?;
        tx.prepare_cached("INSERT OR REPLACE INTO seeds (path, info_hash, pieces, boot) VALUES (?1, ?2, ?3, ?4)")?
            .execute(params![
                seed.path,
                seed.info_hash.as_bytes(),
                seed.pieces,
                if seed.synced { 0 } else { self.boot }
            ])?;
        {
            let mut statement = tx.prepare_cached(
                "INSERT INTO seed_files (path, file, size, mtime_ns, ctime_ns, inode) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            )?;
            for (file, stamp) in &seed.stamps {
                let (size, inode) = (stamp.size as i64, stamp.inode as i64);
                statement.execute(params![seed.path, file, size, stamp.mtime_ns, stamp.ctime_ns, inode])?;
            }
        }
        Ok(tx.commit()?)
    }

    /// What was last served from a path; nothing if it may have been lost in a power cut since.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn seed(&self, path: &[u8]) -> Result<Option<SeedRecord>, IndexError> {
        let mut statement = self
            .conn
            .prepare_cached("SELECT info_hash, pieces, boot FROM seeds WHERE path = ?1 AND boot IN (0, ?2)")?;
        let found: Option<(InfoHash, Option<Vec<u8>>, u32)> = statement
            .query_row(params![path, self.boot], |row| Ok((records::info_hash(row, 0)?, row.get(1)?, row.get(2)?)))
            .optional()?;
        let Some((info_hash, pieces, boot)) = found else { return Ok(None) };
        let mut statement = self.conn.prepare_cached(
            "SELECT size, mtime_ns, ctime_ns, inode, file FROM seed_files WHERE path = ?1 ORDER BY file",
        )?;
        let stamps = statement
            .query_map([path], |row| Ok((row.get(4)?, records::stamp(row)?)))?
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Some(SeedRecord { path: path.to_vec(), info_hash, pieces, stamps, synced: boot == 0 }))
    }

    /// The paths that a torrent was served from.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn seed_paths(&self, info_hash: &InfoHash) -> Result<Vec<Vec<u8>>, IndexError> {
        let mut statement = self.conn.prepare_cached("SELECT path FROM seeds WHERE info_hash = ?1 ORDER BY path")?;
        Ok(statement.query_map([info_hash.as_bytes()], |row| row.get(0))?.collect::<Result<Vec<_>, _>>()?)
    }

    /// Keeps that something is mounted.
    ///
    /// # Errors
    /// When the index cannot be written.
    pub fn put_mount(&mut self, mount: &MountRecord, now_ms: u64) -> Result<(), IndexError> {
        self.conn.execute(
            "INSERT OR REPLACE INTO mounts (mountpoint, info_id, since_ms) VALUES (?1, ?2, ?3)",
            params![mount.mountpoint, mount.info_id, now_ms as i64],
        )?;
        Ok(())
    }

    /// Keeps that nothing is mounted there any more.
    ///
    /// # Errors
    /// When the index cannot be written.
    pub fn remove_mount(&mut self, mountpoint: &[u8]) -> Result<(), IndexError> {
        self.conn.execute("DELETE FROM mounts WHERE mountpoint = ?1", [mountpoint])?;
        Ok(())
    }

    /// What is mounted, or was when the last node was killed.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn mounts(&self) -> Result<Vec<MountRecord>, IndexError> {
        let mut statement = self.conn.prepare("SELECT mountpoint, info_id FROM mounts ORDER BY since_ms")?;
        let rows = statement.query_map([], |row| Ok(MountRecord { mountpoint: row.get(0)?, info_id: row.get(1)? }))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
}

/// The number of the boot named `boot_id`, counted up when it is not the last one seen.
fn current_boot(conn: &mut Connection, boot_id: &str) -> Result<u32, IndexError> {
    let tx = conn.transaction()?;
    let value = |key: &str| tx.query_row("SELECT value FROM meta WHERE key = ?1", [key], |row| row.get(0)).optional();
    let last_id: Option<rusqlite::types::Value> = value("boot_id")?;
    let last: u32 = match value("boot")? {
        Some(rusqlite::types::Value::Integer(boot)) => u32::try_from(boot).unwrap_or(0),
        _ => 0,
    };
    if last > 0 && last_id == Some(boot_id.to_owned().into()) {
        return Ok(last);
    }
    let boot = last + 1;
    tx.execute(
        "INSERT OR REPLACE INTO meta (key, value) VALUES ('boot_id', ?1), ('boot', ?2)",
        params![boot_id, boot],
    )?;
    tx.commit()?;
    Ok(boot)
}

#[cfg(test)]
mod tests;
