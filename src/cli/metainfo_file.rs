//! Metainfo files and other small files that commands read and write whole.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::error::CliError;
use crate::metainfo::{MAX_TORRENT_LEN, Metainfo};

/// Reads and checks a metainfo file: knot's own, or an ordinary torrent's.
pub(super) fn read(path: &Path) -> Result<Metainfo, CliError> {
    let bytes = read_bounded(path, MAX_TORRENT_LEN as u64)?;
    parse(path, &bytes)
}

/// Checks what was read from `path`.
pub(super) fn parse(path: &Path, bytes: &[u8]) -> Result<Metainfo, CliError> {
    Metainfo::parse(bytes).map_err(|source| CliError::Metainfo { path: path.to_owned(), source })
}

/// Reads a file; of one that is longer than `limit`, one byte more than that.
pub(super) fn read_bounded(path: &Path, limit: u64) -> Result<Vec<u8>, CliError> {
    let read = || -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read().map_err(|source| CliError::file("read", path, source))
}
