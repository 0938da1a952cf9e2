//! One torrent: its scope. The parts of its work are in the files beside this one.

mod duties;
mod exchange;
mod extensions;
mod fetch;
mod gossip;
mod hedge;
mod holdings;
mod isolation;
mod leaves;
mod make_way;
mod membership;
mod messages;
mod order;
mod pick;
mod ranking;
mod reading;
mod reserve;
mod serve;
mod updates;
mod verify;

use core::net::IpAddr;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::availability::Availability;
use super::choker::Choker;
use super::dial::Candidates;
use super::event::Prefetch;
use super::fetch_metainfo::MetainfoFetch;
use super::flow::Purpose;
use super::manager::Context;
use super::media::ScanGuard;
use super::meter::RateMeter;
use super::peer::Peer;
use super::pieces::PieceManager;
use super::readers::Readers;
use super::{DisconnectReason, Output, ReadError, TorrentStats, Wasted};
use crate::metainfo::Metainfo;
use crate::types::{Bitfield, ConnId, FileIndex, InfoId, PeerIdentity, TorrentKey};
use leaves::LeafJob;
use ranking::Ranking;
use reserve::Reserve;

/// What is known once there is a metainfo.
#[derive(Debug)]
struct Content {
    metainfo: Arc<Metainfo>,
    /// The metainfo as strangers may have it.
    envelope: Bytes,
    pieces: PieceManager,
    availability: Availability,
    /// Questions for leaf hashes under way, by piece.
    leaf_jobs: BTreeMap<u32, LeafJob>,
    /// Pieces that failed as a whole, and that not everybody may deliver.
    isolated: BTreeSet<u32>,
}

/// Whose queues may have room, or which new work there is.
#[derive(Debug, Default)]
struct Dirty {
    peers: BTreeSet<ConnId>,
    /// Those whose queues have room just because time went by.
    opened: Vec<ConnId>,
    all: bool,
}

/// One torrent.
#[derive(Debug)]
pub(super) struct Torrent {
    key: TorrentKey,
    content: Option<Content>,
    /// The search for the metainfo, while it goes on.
    search: Option<MetainfoFetch>,
    /// Whether it stands for a dataset: its peers tell each other of versions.
    meets: bool,
    /// The newest update record of the dataset.
    newest_record: Option<Bytes>,
    /// The metainfo of the dataset's first version, for peers that ask.
    lent: Option<Bytes>,
    prefetch: Prefetch,
    /// Files that were opened.
    opened: BTreeSet<u32>,
    /// Films and music whose heads were read.
    begun: BTreeSet<u32>,
    scans: ScanGuard,
    peers: BTreeMap<ConnId, Peer>,
    candidates: Candidates,
    /// When web seeds are asked.
    reserve: Reserve,
    /// Our own address as most peers see it, of IPv4 and IPv6.
    seen_at: [Option<IpAddr>; 2],
    readers: Readers,
    choker: Choker,
    dirty: Dirty,
    /// Peers have been told that we have everything.
    told_complete: bool,
    ranking: Ranking,
    /// What is asked for is for whom.
    purpose: Purpose,
    /// How often each peer contributed to a piece that failed without a culprit.
    suspicion: BTreeMap<Arc<PeerIdentity>, u32>,
    /// Storage failed: no new requests before this.
    hold: Option<Instant>,
    /// It waits for its turn to request, under the limit of all torrents; or has it.
    pace: fetch::Pace,
    next_duty: Instant,
    next_round: Instant,
    next_housekeeping: Instant,
    next_gossip: Instant,
    down: RateMeter,
    up: RateMeter,
    downloaded: u64,
    uploaded: u64,
    /// Payload bytes that were stored and not thrown away later.
    useful: u64,
    hedged: u64,
    wasted: Wasted,
    hash_failures: u64,
    /// It contradicts itself: nothing more is fetched.
    is_refused: bool,
}

impl Torrent {
    /// A torrent of which nothing is known but, perhaps, the id to search its metainfo with.
    pub(super) fn new(now: Instant, key: TorrentKey, search: Option<InfoId>) -> Self {
        Self {
            key,
            content: None,
            search: search.map(MetainfoFetch::new),
            meets: false,
            newest_record: None,
            lent: None,
            prefetch: Prefetch::default(),
            opened: BTreeSet::new(),
            begun: BTreeSet::new(),
            scans: ScanGuard::default(),
            peers: BTreeMap::new(),
            candidates: Candidates::default(),
            reserve: Reserve::new(now),
            seen_at: [None; 2],
            readers: Readers::default(),
            choker: Choker::default(),
            dirty: Dirty::default(),
            told_complete: false,
            ranking: Ranking::new(now),
            purpose: Purpose::Bulk,
            suspicion: BTreeMap::new(),
            hold: None,
            pace: fetch::Pace::default(),
            next_duty: now,
            next_round: now,
            next_housekeeping: now,
            next_gossip: now,
            down: RateMeter::default(),
            up: RateMeter::default(),
            downloaded: 0,
            uploaded: 0,
            useful: 0,
            hedged: 0,
            wasted: Wasted::default(),
            hash_failures: 0,
            is_refused: false,
        }
    }

    /// The metainfo is known.
    pub(super) fn open(&mut self, ctx: &mut Context<'_>, metainfo: Arc<Metainfo>, verified: Bitfield) {
        if self.content.is_some() {
            return;
        }
        self.search = None;
        let v1_swarm = metainfo.hashes_twice().then(|| metainfo.info_hash().swarm_id());
        let layout = metainfo.layout().clone();
        let pieces = PieceManager::new(layout, verified, metainfo.verifies_blocks());
        let availability = Availability::new(metainfo.piece_count());
        let envelope = metainfo.public_bytes();
        self.content = Some(Content {
            metainfo,
            envelope,
            pieces,
            availability,
            leaf_jobs: BTreeMap::new(),
            isolated: BTreeSet::new(),
        });
        self.told_complete = self.is_complete();
        self.set_prefetch(ctx, self.prefetch);
        if !self.may_gossip(ctx) {
            // It turned out to be private: what peers said of others while that was not known does not count.
            for conn in self.candidates.forget_gossip() {
                self.leave(ctx, conn, Some(DisconnectReason::NoUse));
            }
        }
        if let Some(v1) = v1_swarm {
            self.dial_anew_for_v2(ctx, v1);
        }
        let conns: Vec<_> = self.peers.keys().copied().collect();
        for conn in conns {
            self.introduce(ctx, conn);
            self.say_extensions(ctx, conn);
        }
        self.dial(ctx);
    }

    pub(super) fn is_open(&self) -> bool {
        self.content.is_some()
    }

    pub(super) fn has_conn(&self, conn: ConnId) -> bool {
        self.peers.contains_key(&conn)
    }

    /// What to fetch beyond what is read.
    pub(super) fn set_prefetch(&mut self, ctx: &mut Context<'_>, prefetch: Prefetch) {
        let prefetch = if self.is_refused { Prefetch::None } else { prefetch };
        self.prefetch = prefetch;
        if let Some(content) = &mut self.content {
            match prefetch {
                Prefetch::None | Prefetch::Window => content.availability.stop_order(),
                Prefetch::All => content.availability.start_order(content.pieces.have()),
                Prefetch::File => {
                    let mut left_out = Bitfield::full(content.metainfo.piece_count());
                    for piece in
                        self.opened.iter().flat_map(|file| content.metainfo.layout().pieces_of(FileIndex(*file)))
                    {
                        if !content.pieces.has(piece) {
                            left_out.remove(piece);
                        }
                    }
                    content.availability.start_order(&left_out);
                }
            }
        }
        if !prefetch.is_bulk() {
            self.cancel_unwanted(ctx);
        }
        self.dirty.all = true;
    }

    /// The torrent is removed: everything ends.
    pub(super) fn close(&mut self, ctx: &mut Context<'_>) {
        for read in self.readers.read_ids() {
            ctx.out.push_back(Output::ReadFailed { read, reason: ReadError::Closed });
        }
        for conn in std::mem::take(&mut self.peers).into_keys() {
            ctx.disconnect(conn, DisconnectReason::Removed);
        }
        self.content = None;
        self.readers = Readers::default();
    }

    /// Whether everything is here.
    fn is_complete(&self) -> bool {
        self.content.as_ref().is_some_and(|content| content.pieces.is_complete())
    }

    pub(super) fn stats(&self, now: Instant) -> TorrentStats {
        let pieces = self.content.as_ref().map_or(0, |content| content.metainfo.piece_count());
        TorrentStats {
            has_metainfo: self.content.is_some(),
            is_complete: self.is_complete(),
            verified_bytes: self.content.as_ref().map_or(0, |content| content.pieces.verified_bytes()),
            downloaded_bytes: self.downloaded,
            uploaded_bytes: self.uploaded,
            download_rate: self.down.per_second(now) as u64,
            upload_rate: self.up.per_second(now) as u64,
            wasted: self.wasted,
            hedged_bytes: self.hedged,
            hash_failures: self.hash_failures,
            waiting_reads: self.readers.waiting_reads(),
            window_bytes: self.content.as_ref().map_or(0, |content| self.readers.window_bytes(&content.pieces)),
            metainfo_pieces: self.search.as_ref().and_then(MetainfoFetch::progress),
            known_addresses: self.candidates.len(),
            peers: self.peers.values().map(|peer| peer.stats(now, pieces)).collect(),
        }
    }
}
