//! Datasets that change: their update records, and what is published from this store.

use rusqlite::{OptionalExtension, Row, params};

use super::records::info_hash;
use super::{Index, IndexError};
use crate::types::{InfoHash, InfoSig};

/// A verified update record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpdateRow {
    /// The version.
    pub seq: u64,
    /// What it is.
    pub info_hash: InfoHash,
    /// The record as networks carry it.
    pub record: Vec<u8>,
    /// Whether it is the one of its version that is followed: it came first.
    pub followed: bool,
}

/// What is published from this store under the name of a dataset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicationRow {
    /// The file or directory, absolute, as bytes.
    pub path: Vec<u8>,
    /// How published bytes are kept when the path changes.
    pub snapshot: String,
}

impl Index {
    /// Keeps a verified record. Durable when this returns, also after a power cut: what was seen once is never gone
    /// back on. A second record of a version is kept, but not followed. False if it was known.
    ///
    /// # Errors
    /// When the index cannot be written.
    pub fn put_update(
        &mut self,
        origin: &InfoSig,
        seq: u64,
        hash: &InfoHash,
        record: &[u8],
        now_ms: u64,
    ) -> Result<bool, IndexError> {
        self.durably(|conn| {
            conn.prepare_cached(
                "INSERT OR IGNORE INTO updates (origin, seq, info_hash, record, received_ms, followed)
                 SELECT ?1, ?2, ?3, ?4, ?5,
                        NOT EXISTS (SELECT 1 FROM updates WHERE origin = ?1 AND seq = ?2 AND followed)",
            )?
            .execute(params![origin.0, seq as i64, hash.as_bytes(), record, now_ms as i64])
            .map(|rows| rows > 0)
        })
    }

    /// Every record of a dataset, by version.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn updates(&self, origin: &InfoSig) -> Result<Vec<UpdateRow>, IndexError> {
        let mut statement = self.conn.prepare_cached(
            "SELECT seq, info_hash, record, followed FROM updates WHERE origin = ?1 ORDER BY seq, followed DESC",
        )?;
        let row = |row: &Row<'_>| {
            Ok(UpdateRow {
                seq: row.get::<_, i64>(0)? as u64,
                info_hash: info_hash(row, 1)?,
                record: row.get(2)?,
                followed: row.get(3)?,
            })
        };
        Ok(statement.query_map([origin.0], row)?.collect::<Result<_, _>>()?)
    }

    /// Keeps when it was last found out what the newest version is.
    ///
    /// # Errors
    /// When the index cannot be written.
    pub fn put_checked(&mut self, origin: &InfoSig, at_ms: u64) -> Result<(), IndexError> {
        self.conn
            .prepare_cached(
                "INSERT INTO datasets (origin, checked_ms) VALUES (?1, ?2)
                 ON CONFLICT (origin) DO UPDATE SET checked_ms = excluded.checked_ms",
            )?
            .execute(params![origin.0, at_ms as i64])?;
        Ok(())
    }

    /// When it was last found out what the newest version is, in milliseconds of Unix time.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn checked(&self, origin: &InfoSig) -> Result<Option<u64>, IndexError> {
        let mut statement = self.conn.prepare_cached("SELECT checked_ms FROM datasets WHERE origin = ?1")?;
        let found: Option<Option<i64>> = statement.query_row([origin.0], |row| row.get(0)).optional()?;
        Ok(found.flatten().map(|ms| ms as u64))
    }

    /// Keeps what is published from this store under the name of a dataset, in place of what was.
    ///
    /// # Errors
    /// When the index cannot be written.
    pub fn put_publication(&mut self, origin: &InfoSig, publication: &PublicationRow) -> Result<(), IndexError> {
        self.durably(|conn| {
            conn.prepare_cached(
                "INSERT INTO datasets (origin, path, snapshot) VALUES (?1, ?2, ?3)
                 ON CONFLICT (origin) DO UPDATE SET path = excluded.path, snapshot = excluded.snapshot",
            )?
            .execute(params![origin.0, publication.path, publication.snapshot])
            .map(drop)
        })
    }

    /// What is published from this store under the name of a dataset.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn publication(&self, origin: &InfoSig) -> Result<Option<PublicationRow>, IndexError> {
        let mut statement =
            self.conn.prepare_cached("SELECT path, snapshot FROM datasets WHERE origin = ?1 AND path IS NOT NULL")?;
        let row = |row: &Row<'_>| Ok(PublicationRow { path: row.get(0)?, snapshot: row.get(1)? });
        Ok(statement.query_row([origin.0], row).optional()?)
    }

    /// The datasets that are published from this store.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn published(&self) -> Result<Vec<(InfoSig, PublicationRow)>, IndexError> {
        let mut statement =
            self.conn.prepare_cached("SELECT path, snapshot, origin FROM datasets WHERE path IS NOT NULL")?;
        let row =
            |row: &Row<'_>| Ok((InfoSig(row.get(2)?), PublicationRow { path: row.get(0)?, snapshot: row.get(1)? }));
        Ok(statement.query_map([], row)?.collect::<Result<_, _>>()?)
    }

    /// Runs `write` so that what it writes is on the disk when this returns.
    fn durably<T>(
        &mut self,
        write: impl FnOnce(&rusqlite::Connection) -> rusqlite::Result<T>,
    ) -> Result<T, IndexError> {
        self.conn.pragma_update(None, "synchronous", "FULL")?;
        let result = write(&self.conn);
        self.conn.pragma_update(None, "synchronous", "NORMAL")?;
        Ok(result?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Digest;

    fn hash(byte: u8) -> InfoHash {
        InfoHash(Digest::from([byte; 32]))
    }

    #[test]
    fn the_first_record_of_a_version_is_followed_and_others_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index.db");
        let mut index = Index::open(&path, "a").unwrap();
        let [one, other] = [InfoSig([1; 64]), InfoSig([2; 64])];
        assert!(index.put_update(&one, 2, &hash(2), b"two", 5).unwrap());
        assert!(index.put_update(&one, 1, &hash(1), b"one", 6).unwrap());
        assert!(index.put_update(&one, 2, &hash(3), b"forked", 7).unwrap());
        assert!(!index.put_update(&one, 2, &hash(2), b"again", 8).unwrap());
        drop(index);
        let index = Index::open(&path, "b").unwrap();
        let rows = index.updates(&one).unwrap();
        let told: Vec<_> = rows.iter().map(|row| (row.seq, &row.record[..], row.followed)).collect();
        assert_eq!(told, [(1, &b"one"[..], true), (2, b"two", true), (2, b"forked", false)]);
        assert_eq!(rows[2].info_hash, hash(3));
        assert!(index.updates(&other).unwrap().is_empty());
    }

    #[test]
    fn what_is_published_and_what_was_checked_are_kept_apart() {
        let dir = tempfile::tempdir().unwrap();
        let mut index = Index::open(&dir.path().join("index.db"), "a").unwrap();
        let origin = InfoSig([1; 64]);
        assert_eq!((index.checked(&origin).unwrap(), index.publication(&origin).unwrap()), (None, None));
        index.put_checked(&origin, 7).unwrap();
        assert_eq!((index.checked(&origin).unwrap(), index.publication(&origin).unwrap()), (Some(7), None));
        let publication = PublicationRow { path: b"/data/\xff".to_vec(), snapshot: "auto".into() };
        index.put_publication(&origin, &publication).unwrap();
        index.put_checked(&origin, 9).unwrap();
        assert_eq!(index.publication(&origin).unwrap(), Some(publication.clone()));
        assert_eq!(index.published().unwrap(), [(origin, publication)]);
        assert_eq!(index.checked(&origin).unwrap(), Some(9));
    }
}
