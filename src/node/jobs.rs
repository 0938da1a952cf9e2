//! Storage work, on blocking threads, in batches: a batch costs one hand-over, a block does not.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::driver::{Event, StoredBlock};
use super::storage::TorrentStorage;
use crate::types::{BlockSpan, ConnId, FileIndex, PieceIndex, ReadId, ReaderId, TorrentKey};
use crate::vfs::{ContentError, ReadReply};

/// Blocks that one blocking thread takes at once.
const BLOCKS_PER_BATCH: usize = 16;
/// How often a read is sent back to the engine because its bytes were evicted before it was answered.
const MAX_RETRIES: u8 = 8;

/// A block to verify and write.
pub(super) struct StoreJob {
    pub(super) torrent: TorrentKey,
    pub(super) conn: ConnId,
    pub(super) span: BlockSpan,
    pub(super) storage: Arc<TorrentStorage>,
    pub(super) data: Bytes,
    pub(super) permit: OwnedSemaphorePermit,
}

/// A read that waits for its blocks.
pub(super) struct PendingRead {
    pub(super) torrent: TorrentKey,
    pub(super) storage: Arc<TorrentStorage>,
    pub(super) reader: ReaderId,
    pub(super) file: FileIndex,
    pub(super) offset: u64,
    pub(super) len: u32,
    pub(super) retries: u8,
    reply: Option<ReadReply>,
}

impl PendingRead {
    pub(super) fn new(
        torrent: TorrentKey,
        storage: Arc<TorrentStorage>,
        reader: ReaderId,
        (file, offset, len): (FileIndex, u64, u32),
        reply: ReadReply,
    ) -> Self {
        Self { torrent, storage, reader, file, offset, len, retries: 0, reply: Some(reply) }
    }

    pub(super) fn fail(mut self, error: ContentError) {
        self.finish(Err(error));
    }

    fn finish(&mut self, result: Result<Bytes, ContentError>) {
        if let Some(reply) = self.reply.take() {
            reply(result);
        }
    }
}

/// A read that is forgotten still ends.
impl Drop for PendingRead {
    fn drop(&mut self) {
        self.finish(Err(ContentError::Closed));
    }
}

/// Gathers jobs while the driver handles a batch of events, hands them out at its end.
pub(super) struct Jobs {
    events: mpsc::Sender<Event>,
    stores: Vec<StoreJob>,
    answers: Vec<(ReadId, PendingRead)>,
}

impl Jobs {
    pub(super) fn new(events: mpsc::Sender<Event>) -> Self {
        Self { events, stores: Vec::new(), answers: Vec::new() }
    }

    pub(super) fn store(&mut self, job: StoreJob) {
        self.stores.push(job);
        if self.stores.len() >= BLOCKS_PER_BATCH {
            self.dispatch_stores();
        }
    }

    pub(super) fn answer(&mut self, read: ReadId, pending: PendingRead) {
        self.answers.push((read, pending));
    }

    pub(super) fn check(
        &self,
        torrent: TorrentKey,
        storage: Arc<TorrentStorage>,
        piece: PieceIndex,
        blocks: Vec<BlockSpan>,
        failed_before: bool,
    ) {
        let events = self.events.clone();
        tokio::task::spawn_blocking(move || {
            let outcome = storage.check_piece(piece, &blocks, failed_before);
            let _ = events.blocking_send(Event::Checked { torrent, piece, outcome });
        });
    }

    /// Hands out what has been gathered.
    pub(super) fn dispatch(&mut self) {
        if !self.stores.is_empty() {
            self.dispatch_stores();
        }
        for (read, pending) in self.answers.drain(..) {
            let events = self.events.clone();
            tokio::task::spawn_blocking(move || answer(read, pending, &events));
        }
    }

    fn dispatch_stores(&mut self) {
        let mut jobs = std::mem::take(&mut self.stores);
        let events = self.events.clone();
        tokio::task::spawn_blocking(move || {
            jobs.sort_by_key(|job| job.torrent);
            let stored = jobs.chunk_by(|job, next| job.torrent == next.torrent).flat_map(store).collect();
            // More may be received before the engine has heard of these.
            jobs.into_iter().for_each(|job| drop((job.data, job.permit)));
            let _ = events.blocking_send(Event::Stored(stored));
        });
    }
}

/// Stores blocks of one torrent.
fn store(jobs: &[StoreJob]) -> Vec<StoredBlock> {
    let Some(first) = jobs.first() else { return Vec::new() };
    let blocks: Vec<_> = jobs.iter().map(|job| (job.span, job.data.clone())).collect();
    let verdicts = first.storage.write_blocks(&blocks);
    let stored = jobs.iter().zip(verdicts);
    stored.map(|(job, verdict)| StoredBlock { torrent: job.torrent, conn: job.conn, span: job.span, verdict }).collect()
}

fn answer(read: ReadId, mut pending: PendingRead, events: &mpsc::Sender<Event>) {
    match pending.storage.read_verified(pending.file, pending.offset, pending.len) {
        Ok(Some(bytes)) => pending.finish(Ok(bytes)),
        Ok(None) if pending.retries < MAX_RETRIES => {
            pending.retries += 1;
            // The engine must know what is gone, or it would say at once that all is there.
            for piece in missing_pieces(&pending) {
                let _ = events.blocking_send(Event::Lost { torrent: pending.torrent, piece });
            }
            let _ = events.blocking_send(Event::ReadAgain { read, pending });
        }
        Ok(None) => pending.fail(ContentError::Storage(
            "the cache is too small for what is being read at once: give a larger --cache-size".to_owned(),
        )),
        Err(error) => pending.fail(ContentError::Storage(error.to_string())),
    }
}

/// Pieces of which a block that the read needs is not verified any more.
fn missing_pieces(pending: &PendingRead) -> BTreeSet<PieceIndex> {
    let layout = pending.storage.metainfo().layout();
    let range = pending.offset..pending.offset + u64::from(pending.len);
    let blocks = layout.blocks_of_range(pending.file, range);
    blocks.filter(|span| !matches!(pending.storage.read_block(*span), Ok(Some(_)))).map(|span| span.piece).collect()
}
