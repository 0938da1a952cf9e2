//! Getting the user's own files ready to be served where they lie.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::api::{ApiError, ErrorKind, Progress};
use super::handle::{ProgressSink, blocking, failure};
use super::storage::{Source, StorageError, Store, TorrentStorage};
use super::tree::{self, Scan, TreeSource};
use crate::metainfo::{CreateError, CreateOptions, Metainfo, create};
use crate::types::HashAlgorithm;

/// Content that has been looked through.
pub(super) struct Prepared {
    pub(super) metainfo: Arc<Metainfo>,
    pub(super) storage: Arc<TorrentStorage>,
}

/// Verifies what lies at `path` against `given`, or makes a metainfo of it.
pub(super) async fn prepare(
    store: &Arc<Store>,
    path: PathBuf,
    given: Option<Arc<Metainfo>>,
    progress: ProgressSink,
) -> Result<Prepared, ApiError> {
    let store = store.clone();
    blocking(move || match given {
        Some(metainfo) => check(&store, path, metainfo, &progress),
        None => {
            let scan = tree::scan(&path, None).map_err(|error| failure(error.to_string()))?;
            match store.seeded(&path, &scan).map_err(storage_error)? {
                Some(metainfo) => check(&store, path, metainfo, &progress),
                None => make(&store, path, scan, &progress),
            }
        }
    })
    .await?
}

fn check(store: &Store, path: PathBuf, metainfo: Arc<Metainfo>, progress: &ProgressSink) -> Result<Prepared, ApiError> {
    let files = TreeSource::for_metainfo(&path, &metainfo).map_err(|error| failure(error.to_string()))?;
    let source = Source::InPlace { path: path.clone(), files, is_fresh: false };
    let storage = store.torrent(metainfo.clone(), source).map_err(storage_error)?;
    storage.check(&|done, total| report(progress, done, total)).map_err(storage_error)?;
    if storage.verified_bytes() == 0 && metainfo.total_length() > 0 {
        return Err(mismatch(&path, &metainfo));
    }
    Ok(Prepared { metainfo, storage })
}

fn make(store: &Store, path: PathBuf, scan: Scan, progress: &ProgressSink) -> Result<Prepared, ApiError> {
    let options = CreateOptions {
        name: scan.name,
        algorithm: HashAlgorithm::Sha256Merkle,
        piece_length: None,
        created_at: None,
        peers: Vec::new(),
        version: None,
    };
    let total = scan.entries.iter().map(crate::metainfo::Entry::length).sum();
    let metainfo =
        create(&options, scan.entries, &scan.source, &|done| report(progress, done, total)).map_err(create_error)?;
    let metainfo = Arc::new(metainfo);
    let source = Source::InPlace { path, files: scan.source, is_fresh: true };
    let storage = store.torrent(metainfo.clone(), source).map_err(storage_error)?;
    Ok(Prepared { metainfo, storage })
}

/// Stops the hashing when nobody listens any more.
fn report(progress: &ProgressSink, done: u64, total: u64) -> ControlFlow<()> {
    if progress.is_closed() {
        return ControlFlow::Break(());
    }
    let _ = progress.try_send(Progress::Checking { done, total });
    ControlFlow::Continue(())
}

fn mismatch(path: &Path, metainfo: &Metainfo) -> ApiError {
    ApiError {
        kind: ErrorKind::Verification,
        message: format!(
            "expected the content of {} ({:?}) at {}, but no piece of it matches: give the path that the metainfo was \
             made of, or make a new one with knot create",
            metainfo.info_id(),
            metainfo.name(),
            path.display()
        ),
    }
}

fn storage_error(error: StorageError) -> ApiError {
    failure(error.to_string())
}

fn create_error(error: CreateError) -> ApiError {
    failure(error.to_string())
}
