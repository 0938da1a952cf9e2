//! Making a version: listing and hashing a folder.

use std::ops::ControlFlow;
use std::path::PathBuf;

use super::{Newest, Stamps};
use crate::cli::create::{Format, now, report_skipped};
use crate::cli::error::CliError;
use crate::cli::output::Bar;
use crate::metainfo::{
    self, CreateOptions, DatasetVersion, EntryKind, Form, Hints, Metainfo, SecretKey, TorrentOptions,
};
use crate::node::tree::{self, Scan};
use crate::types::{FileIndex, HashAlgorithm};

/// The last version that may be an ordinary torrent: its `info` cannot say of which dataset it is.
const LAST_TORRENT: u64 = 2;

/// How a version is made.
pub(in crate::cli) struct Recipe {
    path: PathBuf,
    name: Option<String>,
    format: Format,
    algorithm: HashAlgorithm,
    piece_length: Option<u32>,
    version: Option<DatasetVersion>,
}

/// A version, signed.
pub(in crate::cli) struct Hashed {
    pub(in crate::cli) metainfo: Metainfo,
    /// Its files as they were; empty of a version of before.
    pub(in crate::cli) stamps: Stamps,
}

impl Recipe {
    /// Of a first version.
    pub(super) fn first(
        path: PathBuf,
        name: Option<String>,
        format: Format,
        hash: Option<HashAlgorithm>,
        piece_length: Option<u32>,
    ) -> Result<Self, CliError> {
        if format == Format::Torrent && hash.is_some_and(|hash| hash != HashAlgorithm::Sha1) {
            return Err(CliError::Usage(
                "expected no --hash but sha1 with --format torrent: v1 torrents have no other".into(),
            ));
        }
        let algorithm = hash.unwrap_or(HashAlgorithm::Sha256Merkle);
        Ok(Self { path, name, format, algorithm, piece_length, version: None })
    }

    /// Of the version that follows `newest`, hashed in the same way.
    pub(in crate::cli) fn next(newest: &Newest, path: PathBuf, format: Format) -> Result<Self, CliError> {
        let (seq, before) = (newest.seq + 1, &newest.metainfo);
        if format == Format::Torrent && seq > LAST_TORRENT {
            return Err(CliError::Usage(format!(
                "expected --format torrent for versions 1 and {LAST_TORRENT} only, got version {seq}: such a torrent \
                 cannot say of which dataset it is; leave out --format"
            )));
        }
        if format == Format::Torrent && before.form() == Form::Native && before.algorithm() != HashAlgorithm::Sha1 {
            return Err(CliError::Usage(format!(
                "expected --format torrent only after a torrent, since a dataset keeps its algorithm, got version {} \
                 with {}: leave out --format",
                newest.seq,
                before.algorithm()
            )));
        }
        Ok(Self {
            path,
            name: Some(before.name().to_owned()),
            format,
            algorithm: before.algorithm(),
            piece_length: Some(before.piece_length()),
            version: Some(DatasetVersion { origin: newest.origin, seq }),
        })
    }

    /// Lists and hashes the folder and signs the result.
    pub(in crate::cli) async fn hash(self, key: &SecretKey) -> Result<Hashed, CliError> {
        // Signals are heard meanwhile. The key stays here.
        let hashed = tokio::task::spawn_blocking(move || self.hash_now()).await;
        let (metainfo, stamps) = hashed.map_err(|error| CliError::Failure(format!("hashing stopped: {error}")))??;
        let metainfo = metainfo.sign(key).map_err(metainfo::CreateError::from)?;
        Ok(Hashed { metainfo, stamps })
    }

    fn hash_now(self) -> Result<(Metainfo, Stamps), CliError> {
        let scan = tree::scan(&self.path, self.name.as_deref())?;
        report_skipped(&scan);
        let stamps = stamps(&scan, self.format);
        let total = scan.entries.iter().map(|entry| entry.length()).sum();
        let bar = Bar::new();
        let on_progress = |done| {
            bar.bytes("hashing", done, total);
            ControlFlow::Continue(())
        };
        let Scan { name, entries, source, .. } = scan;
        let created_at = now();
        let metainfo = match self.format {
            Format::Torrent => {
                let created_by = Some(concat!("knot ", env!("CARGO_PKG_VERSION")).to_owned());
                let hints = Hints { created_by, ..Hints::default() };
                let piece_length = self.piece_length;
                let options =
                    TorrentOptions { name, form: Form::V1, piece_length, created_at, is_private: false, hints };
                metainfo::create_torrent(&options, &entries, &source, &on_progress)?
            }
            Format::Knot => {
                let Self { algorithm, piece_length, version, .. } = self;
                let options = CreateOptions { name, algorithm, piece_length, created_at, peers: Vec::new(), version };
                metainfo::create(&options, entries, &source, &on_progress)?
            }
        };
        Ok((metainfo, stamps))
    }
}

/// The files as they were listed, by their index in the torrent.
pub(in crate::cli) fn stamps(scan: &Scan, format: Format) -> Stamps {
    // A v1 torrent has no directories.
    let is_listed = |kind: &EntryKind| format == Format::Knot || *kind != EntryKind::Directory;
    let listed = scan.entries.iter().zip((0..).map(FileIndex)).filter(|(entry, _)| is_listed(&entry.kind));
    let numbered = listed.zip(0..);
    numbered.filter_map(|((_, file), index)| Some((index, scan.source.scanned(file)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_are_those_of_the_torrents_own_numbers() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("a-empty")).unwrap();
        std::os::unix::fs::symlink("c", dir.path().join("b")).unwrap();
        std::fs::write(dir.path().join("c"), "content").unwrap();
        let scan = tree::scan(dir.path(), Some("t")).unwrap();
        let numbers = |format| stamps(&scan, format).iter().map(|(index, _)| *index).collect::<Vec<_>>();
        assert_eq!((numbers(Format::Knot), numbers(Format::Torrent)), (vec![2], vec![1]));
        let recipe = Recipe::first(dir.path().to_owned(), None, Format::Torrent, None, None).unwrap();
        let (torrent, stamps) = recipe.hash_now().unwrap();
        assert!(torrent.entries()[stamps[0].0 as usize].is_file());
        assert_eq!(stamps[0].1.size, 7);
    }
}
