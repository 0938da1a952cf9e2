//! The running node as the server asks it.

use std::path::PathBuf;

use tokio::sync::broadcast;

use super::server::{Kept, NodeApi, OpenFile};
use crate::node::api::{
    AddRequest, ApiError, DatasetInfo, DatasetRequest, ErrorKind, GetRequest, MirrorRequest, MountEvent, MountRequest,
    NodeStatus, PublishRequest, Published, SeedRequest, TorrentInfo,
};
use crate::node::{NodeHandle, ProgressSink, Torrent};
use crate::types::FileIndex;

/// Paths that an error lists as examples.
const EXAMPLES: usize = 5;

impl NodeApi for NodeHandle {
    async fn status(&self) -> NodeStatus {
        self.status().await
    }

    async fn mount(&self, request: MountRequest, progress: ProgressSink) -> Result<TorrentInfo, ApiError> {
        self.mount(request, progress).await
    }

    async fn unmount(&self, mountpoint: PathBuf) -> Result<(), ApiError> {
        self.unmount(mountpoint).await
    }

    async fn freeze(&self, mountpoint: PathBuf, frozen: bool) -> Result<(), ApiError> {
        self.freeze(mountpoint, frozen).await
    }

    fn events(&self) -> broadcast::Receiver<MountEvent> {
        self.events()
    }

    async fn seed(
        &self,
        request: SeedRequest,
        progress: ProgressSink,
    ) -> Result<(TorrentInfo, Vec<String>, Kept), ApiError> {
        let (info, kept) = self.seed_named(request, progress).await?;
        Ok((info, self.listen_addrs(), kept))
    }

    async fn mirror(
        &self,
        request: MirrorRequest,
        progress: ProgressSink,
    ) -> Result<(TorrentInfo, Vec<String>, Kept), ApiError> {
        let (info, kept) = self.mirror(request, progress).await?;
        Ok((info, self.listen_addrs(), kept))
    }

    async fn get(&self, request: GetRequest, progress: ProgressSink) -> Result<(TorrentInfo, PathBuf), ApiError> {
        self.get(request, progress).await
    }

    async fn dataset(&self, request: DatasetRequest) -> Result<DatasetInfo, ApiError> {
        self.dataset(request).await
    }

    async fn publish(&self, request: PublishRequest) -> Result<Published, ApiError> {
        self.publish(request).await
    }

    async fn open_file(&self, request: AddRequest, path: Option<String>) -> Result<OpenFile, ApiError> {
        // Nobody is told how far it is: what the command gets is the file.
        let (progress, _) = tokio::sync::mpsc::channel(1);
        let torrent = self.open(request, progress).await?;
        let index = find(&torrent, path.as_deref())?;
        let length = torrent.metainfo.layout().file_length(index);
        Ok(OpenFile { content: torrent.content.clone(), index, length, keep: Box::new(torrent) })
    }

    fn set_cache_size(&self, cap_bytes: u64) {
        self.set_cache_size(cap_bytes);
    }
}

/// The file at `path`; without one, the only file.
fn find(torrent: &Torrent, path: Option<&str>) -> Result<FileIndex, ApiError> {
    let files = || torrent.metainfo.entries().iter().zip(0..).filter(|(entry, _)| entry.is_file());
    let found = match path {
        Some(path) => files().find(|(entry, _)| entry.path.as_str() == path),
        None => files().next().filter(|_| files().nth(1).is_none()),
    };
    if let Some((_, index)) = found {
        return Ok(FileIndex(index));
    }
    let examples: Vec<_> = files().take(EXAMPLES).map(|(entry, _)| format!("{:?}", entry.path.as_str())).collect();
    let more = if files().nth(EXAMPLES).is_some() { ", …" } else { "" };
    let got = path.map_or_else(|| "none".to_owned(), |path| format!("{path:?}"));
    let message = match examples.len() {
        0 => format!("expected the path of a file in {:?}, which has no files, got {got}", torrent.info.name),
        _ => format!(
            "expected the path of a file in {:?}, such as {}{more}, got {got}; `knot inspect` lists them",
            torrent.info.name,
            examples.join(", ")
        ),
    };
    let kind = if path.is_some() { ErrorKind::Failure } else { ErrorKind::Usage };
    Err(ApiError { kind, message })
}
