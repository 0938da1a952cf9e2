//! Taking over what has not changed: a new version begins with the blocks of the old ones.
//!
//! Files with the same root share their place in the cache. Of other files, pieces with a hash that an old version
//! has are copied; of what is left, the blocks whose leaf hash is that of the block at the same place of the same
//! file. Whatever is taken over is verified like everything else. It is a saving, not a duty: what takes too long is
//! left to be fetched.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep};

use crate::metainfo::Metainfo;
use crate::node::driver::Command;
use crate::node::handle::{NodeHandle, Torrent, blocking};
use crate::node::storage::TorrentStorage;
use crate::types::{BlockSpan, Digest, FileIndex, PieceIndex, PieceOutcome, TorrentKey, Verdict};

/// How long whole pieces may be copied before a version is shown.
const COPY_TIME: Duration = Duration::from_secs(10);
/// How long peers have to tell leaf hashes before a version is shown.
const LEAVES_TIME: Duration = Duration::from_secs(5);
/// How long it may take until a peer is there who tells.
const PEER_TIME: Duration = Duration::from_secs(2);
/// Between two looks at what peers have told.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// Between two times that they are asked.
const ASK_INTERVAL: Duration = Duration::from_millis(500);
/// Pieces of which leaf hashes are asked for at the same time.
const ASKED_AT_ONCE: usize = 128;
/// Blocks that the engine is told of at once.
const TOLD_AT_ONCE: usize = 4096;

impl NodeHandle {
    /// Gives `torrent` what it has in common with the versions in `from`, as far as that is here.
    pub(super) async fn take_over<'a>(&self, torrent: &Torrent, from: impl Iterator<Item = &'a Torrent>) {
        let old: Vec<_> = from.map(|torrent| torrent.source.torrent.storage.clone()).collect();
        let heir = Arc::new(Heir { new: torrent.source.torrent.storage.clone(), old });
        let copying = heir.clone();
        let until = std::time::Instant::now() + COPY_TIME;
        let Ok((blocks, changed)) = blocking(move || copying.copy_pieces(until)).await else { return };
        self.tell_found(torrent.key, blocks).await;
        if !changed.is_empty() && torrent.metainfo.algorithm().verifies_blocks() {
            self.take_over_blocks(torrent, &heir, changed).await;
        }
    }

    /// Asks peers for the leaf hashes of changed pieces, and copies the blocks that have not changed.
    async fn take_over_blocks(&self, torrent: &Torrent, heir: &Arc<Heir>, mut changed: Vec<(PieceIndex, Twin)>) {
        let began = Instant::now();
        let mut asked = None;
        while !changed.is_empty() && began.elapsed() < LEAVES_TIME {
            let wanted: Vec<_> = changed.iter().take(ASKED_AT_ONCE).map(|(piece, _)| *piece).collect();
            let is_known = |piece: PieceIndex| heir.new.known_leaves(piece).is_some();
            if wanted.iter().any(|piece| !is_known(*piece)) {
                let peers = self.stats(torrent.key).await.map_or(0, |stats| stats.peers.len());
                if peers == 0 && began.elapsed() > PEER_TIME {
                    return;
                }
                if peers > 0 && asked.is_none_or(|at: Instant| at.elapsed() >= ASK_INTERVAL) {
                    asked = Some(Instant::now());
                    let pieces = wanted.iter().copied().filter(|piece| !is_known(*piece)).collect();
                    let _ = self.send(Command::FetchLeaves { torrent: torrent.key, pieces }).await;
                }
            }
            let (ready, rest): (Vec<_>, Vec<_>) = changed.into_iter().partition(|(piece, _)| is_known(*piece));
            changed = rest;
            if ready.is_empty() {
                sleep(LOOK_INTERVAL).await;
                continue;
            }
            asked = None;
            let copying = heir.clone();
            let Ok(blocks) = blocking(move || copying.copy_blocks(&ready)).await else { return };
            self.tell_found(torrent.key, blocks).await;
        }
    }

    async fn tell_found(&self, torrent: TorrentKey, blocks: Vec<BlockSpan>) {
        for blocks in blocks.chunks(TOLD_AT_ONCE) {
            let _ = self.send(Command::Found { torrent, blocks: blocks.to_vec() }).await;
        }
    }
}

/// A new version, and the old ones that it may have something from.
struct Heir {
    new: Arc<TorrentStorage>,
    old: Vec<Arc<TorrentStorage>>,
}

/// The piece of an old version at the same place of the same file.
#[derive(Clone, Copy, Debug)]
struct Twin {
    /// Which of the old versions.
    old: usize,
    piece: PieceIndex,
}

impl Heir {
    /// Copies the pieces that an old version has. The blocks that are verified by that, and the pieces that have
    /// changed in part, perhaps.
    fn copy_pieces(&self, until: std::time::Instant) -> (Vec<BlockSpan>, Vec<(PieceIndex, Twin)>) {
        let metainfo = self.new.metainfo();
        let (mut found, mut changed) = (Vec::new(), Vec::new());
        let missing = self.missing_pieces();
        let known = self.known_pieces(&missing);
        for piece in missing {
            if std::time::Instant::now() >= until {
                break;
            }
            let donor =
                metainfo.piece_hash(piece).and_then(|hash| known.get(&(hash, metainfo.layout().piece_len(piece))));
            let copied = donor.is_some_and(|donor| self.copy_piece(piece, *donor));
            if copied {
                found.extend(blocks_of(metainfo, piece));
            } else if let Some(twin) = self.twin(piece).filter(|twin| self.has_some(*twin)) {
                changed.push((piece, twin));
            }
        }
        (found, changed)
    }

    /// The pieces that are not here in full.
    fn missing_pieces(&self) -> Vec<PieceIndex> {
        let metainfo = self.new.metainfo();
        let verified = self.new.verified();
        let is_missing = |piece: &PieceIndex| {
            blocks_of(metainfo, *piece)
                .any(|span| !verified.contains(metainfo.layout().block_number(span.piece, span.block())))
        };
        (0..metainfo.piece_count()).map(PieceIndex).filter(is_missing).collect()
    }

    /// Where the hashes of `wanted` pieces are found in old versions, with their lengths.
    fn known_pieces(&self, wanted: &[PieceIndex]) -> HashMap<(Digest, u32), Twin> {
        let new = self.new.metainfo();
        let is_wanted: std::collections::HashSet<_> =
            wanted.iter().filter_map(|piece| new.piece_hash(*piece)).collect();
        let mut known = HashMap::new();
        for (old, storage) in self.old.iter().enumerate() {
            let metainfo = storage.metainfo();
            if metainfo.algorithm() != new.algorithm() {
                continue;
            }
            for piece in (0..metainfo.piece_count()).map(PieceIndex) {
                let Some(hash) = metainfo.piece_hash(piece).filter(|hash| is_wanted.contains(hash)) else { continue };
                known.entry((hash, metainfo.layout().piece_len(piece))).or_insert(Twin { old, piece });
            }
        }
        known
    }

    /// Copies a piece and verifies it as a whole.
    fn copy_piece(&self, piece: PieceIndex, donor: Twin) -> bool {
        let mut blocks = Vec::new();
        for span in blocks_of(self.new.metainfo(), piece) {
            let Some(data) = self.block(donor, span) else { return false };
            blocks.push((span, data));
        }
        let verdicts = self.new.write_blocks(&blocks);
        if verdicts.iter().all(|verdict| *verdict == Verdict::Verified) {
            return true;
        }
        let unverified = blocks.iter().zip(verdicts).filter(|(_, verdict)| *verdict == Verdict::Unverified);
        let unverified: Vec<_> = unverified.map(|((span, _), _)| *span).collect();
        match self.new.check_piece(piece, &unverified, false) {
            PieceOutcome::Verified | PieceOutcome::VerifiedAfter { .. } => true,
            PieceOutcome::Blocks { corrupt } => corrupt.is_empty(),
            PieceOutcome::Corrupt { .. } | PieceOutcome::Inconsistent | PieceOutcome::Failed => false,
        }
    }

    /// Copies the blocks that have not changed of pieces whose leaf hashes are known.
    fn copy_blocks(&self, pieces: &[(PieceIndex, Twin)]) -> Vec<BlockSpan> {
        let metainfo = self.new.metainfo();
        let mut found = Vec::new();
        for (piece, twin) in pieces {
            let Some(leaves) = self.new.known_leaves(*piece) else { continue };
            let mut same = Vec::new();
            for (span, leaf) in blocks_of(metainfo, *piece).zip(leaves.iter()) {
                let data = self.block(*twin, span);
                same.extend(data.filter(|data| metainfo.leaf_hash(span, data) == Some(*leaf)).map(|data| (span, data)));
            }
            let verdicts = self.new.write_blocks(&same);
            let kept = same.iter().zip(verdicts).filter(|(_, verdict)| *verdict == Verdict::Verified);
            found.extend(kept.map(|((span, _), _)| *span));
        }
        found
    }

    /// The bytes that an old version has verified at the place of a block in its own piece.
    fn block(&self, donor: Twin, span: BlockSpan) -> Option<Bytes> {
        let storage = self.old.get(donor.old)?;
        let place = BlockSpan { piece: donor.piece, ..span };
        // A longer or shorter block there is another one.
        storage.metainfo().layout().is_block(place).then(|| storage.read_block(place).ok().flatten()).flatten()
    }

    /// Whether anything is here of a piece of an old version.
    fn has_some(&self, twin: Twin) -> bool {
        let Some(storage) = self.old.get(twin.old) else { return false };
        blocks_of(storage.metainfo(), twin.piece).any(|span| matches!(storage.read_block(span), Ok(Some(_))))
    }

    /// The piece at the same place of the file of the same path in an old version, the newest that has one.
    fn twin(&self, piece: PieceIndex) -> Option<Twin> {
        let metainfo = self.new.metainfo();
        // A piece of one block has changed if its hash has.
        if !metainfo.algorithm().verifies_blocks() || metainfo.layout().blocks_in(piece) < 2 {
            return None;
        }
        let (file, offset) = metainfo.layout().file_of_piece(piece)?;
        let path = &metainfo.entry(file)?.path;
        self.old.iter().enumerate().find_map(|(old, storage)| {
            let other = storage.metainfo();
            if other.algorithm() != metainfo.algorithm() || other.piece_length() != metainfo.piece_length() {
                return None;
            }
            // Entries are in the order of their paths, as knot makes them; of others there is no twin.
            let at = other.entries().binary_search_by(|entry| entry.path.cmp(path)).ok()?;
            let file = FileIndex(u32::try_from(at).ok()?);
            let pieces = other.layout().pieces_of(file);
            let own = u32::try_from(offset / u64::from(metainfo.piece_length())).ok()?;
            let piece = pieces.start.checked_add(own).filter(|piece| *piece < pieces.end)?;
            Some(Twin { old, piece: PieceIndex(piece) })
        })
    }
}

/// The blocks of a piece that have bytes of files.
fn blocks_of(metainfo: &Metainfo, piece: PieceIndex) -> impl Iterator<Item = BlockSpan> + '_ {
    let layout = metainfo.layout();
    (0..layout.blocks_in(piece)).map(move |block| layout.block_span(piece, crate::types::BlockIndex(block)))
}

#[cfg(test)]
mod tests;
