//! What the driver keeps of one torrent: its swarms, and what its sources are told.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::peer::Greeting;
use super::registry::{Swarms, Terms};
use super::tally::Tally;
use crate::discovery::{JoinOptions, Source};
use crate::engine::Prefetch;
use crate::metainfo::{Form, Metainfo};
use crate::types::{InfoId, PeerAddr, SwarmId, TorrentKey, WirePeerId};
use crate::wire::Handshake;

/// Addresses of which it is remembered in which swarm they were found.
const MAX_FOUND: usize = 4096;

/// A torrent that the driver has.
pub(super) struct TorrentSlot {
    pub(super) key: TorrentKey,
    pub(super) id: InfoId,
    pub(super) tally: Arc<Tally>,
    /// The swarms that it is served and looked for in.
    pub(super) joined: Vec<SwarmId>,
    /// Its trackers, in tiers.
    pub(super) trackers: Vec<Vec<String>>,
    /// Names of the sources that it may use; `None` for all.
    pub(super) sources: Option<Vec<String>>,
    pub(super) fetched: Option<oneshot::Sender<super::driver::Fetched>>,
    pub(super) metainfo: Option<Arc<Metainfo>>,
    /// What somebody wanted to be fetched before it is read.
    pub(super) prefetch: Option<Prefetch>,
    /// Whether it has been said that everything is here.
    pub(super) is_complete: bool,
    found_in: HashMap<PeerAddr, SwarmId>,
    /// The swarm of the v2 infohash, if the torrent turned out to be hybrid before its metainfo is complete.
    v2_swarm: Option<SwarmId>,
}

/// What slots share: who is told of swarms.
pub(super) struct Meeting {
    pub(super) sources: Vec<Arc<dyn Source>>,
    pub(super) swarms: Arc<Swarms>,
    /// The port at which BitTorrent clients reach this node.
    pub(super) port: Option<u16>,
}

impl TorrentSlot {
    pub(super) fn new(key: TorrentKey, id: InfoId, sources: Option<Vec<String>>) -> Self {
        Self {
            key,
            id,
            tally: Arc::default(),
            joined: Vec::new(),
            trackers: Vec::new(),
            sources,
            fetched: None,
            metainfo: None,
            prefetch: None,
            is_complete: false,
            found_in: HashMap::new(),
            v2_swarm: None,
        }
    }

    /// Serves, announces and looks for peers under these swarms and no other from now on.
    pub(super) fn join(&mut self, meeting: &Meeting, swarms: &[SwarmId]) {
        for swarm in std::mem::take(&mut self.joined) {
            if swarms.contains(&swarm) {
                self.joined.push(swarm);
            } else {
                self.leave(meeting, swarm);
            }
        }
        for swarm in swarms {
            let terms = self.terms(*swarm);
            if self.joined.contains(swarm) {
                meeting.swarms.renew(*swarm, self.key, terms);
            } else {
                meeting.swarms.insert(*swarm, self.key, self.tally.clone(), terms);
                self.joined.push(*swarm);
            }
        }
        self.announce(meeting);
    }

    /// The torrent, of which only the v1 infohash was known, is in the swarm of a v2 one as well.
    pub(super) fn is_hybrid(&mut self, meeting: &Meeting, v2_swarm: SwarmId) {
        self.v2_swarm = Some(v2_swarm);
        let mut swarms = self.joined.clone();
        if !swarms.contains(&v2_swarm) {
            swarms.push(v2_swarm);
        }
        self.join(meeting, &swarms);
    }

    /// Adds trackers that are new, behind the others.
    pub(super) fn add_trackers(&mut self, meeting: &Meeting, tiers: &[Vec<String>]) {
        let known = |slot: &Self, url: &String| slot.trackers.iter().flatten().any(|other| other == url);
        let mut is_new = false;
        for tier in tiers {
            let tier: Vec<String> = tier.iter().filter(|url| !known(self, url)).cloned().collect();
            if !tier.is_empty() {
                self.trackers.push(tier);
                is_new = true;
            }
        }
        if is_new {
            self.announce(meeting);
        }
    }

    /// Tells the sources what is known now.
    fn announce(&self, meeting: &Meeting) {
        let options = JoinOptions { trackers: self.trackers.clone(), private: self.is_private(), port: meeting.port };
        for source in self.allowed(meeting) {
            self.joined.iter().for_each(|swarm| source.join(*swarm, &options));
        }
    }

    /// Tells those who count downloads that everything is here, once.
    pub(super) fn completed(&mut self, meeting: &Meeting) {
        if !self.is_complete && self.tally.storage.get().is_some_and(|storage| storage.is_complete()) {
            self.is_complete = true;
            self.allowed(meeting).for_each(|source| self.joined.iter().for_each(|swarm| source.completed(*swarm)));
        }
    }

    /// Leaves every swarm.
    pub(super) fn leave_all(&mut self, meeting: &Meeting) {
        std::mem::take(&mut self.joined).into_iter().for_each(|swarm| self.leave(meeting, swarm));
    }

    fn leave(&self, meeting: &Meeting, swarm: SwarmId) {
        if meeting.swarms.remove(swarm, self.key) {
            self.allowed(meeting).for_each(|source| source.leave(swarm));
        }
    }

    /// The sources that the torrent may use.
    fn allowed<'a>(&'a self, meeting: &'a Meeting) -> impl Iterator<Item = &'a Arc<dyn Source>> {
        let names = self.sources.as_deref();
        let is_allowed = move |name: &str| names.is_none_or(|names| names.iter().any(|allowed| allowed == name));
        meeting.sources.iter().filter(move |source| is_allowed(source.name()))
    }

    /// Whether its peers may be had from trackers only (BEP 27).
    pub(super) fn is_private(&self) -> bool {
        self.metainfo.as_ref().is_some_and(|metainfo| metainfo.is_private())
    }

    /// Remembers in which swarm a peer was found.
    pub(super) fn found(&mut self, addr: &PeerAddr, swarm: SwarmId) {
        if self.found_in.len() >= MAX_FOUND {
            self.found_in.clear();
        }
        self.found_in.insert(addr.clone(), swarm);
    }

    /// How to shake hands in `swarm`. Peers of a v1 torrent may not ask for hashes, nor those of a hybrid one that has
    /// none: clients take the bit as an offer to change to v2, and close the stream where they cannot. So nothing is
    /// offered either while it is not known what a torrent is. (One of which only a hash of 32 bytes is known may be
    /// hybrid; by that hash clients talk v2 anyway.)
    fn terms(&self, swarm: SwarmId) -> Terms {
        let v1_of = |metainfo: &Metainfo| metainfo.info_hash().swarm_id() == swarm;
        match (&self.metainfo, &self.id) {
            (Some(metainfo), _) => match metainfo.form() {
                Form::Native | Form::V2 => Terms { speaks_hashes: true, upgrade: None },
                Form::Hybrid if metainfo.verifies_blocks() => {
                    Terms { speaks_hashes: true, upgrade: metainfo.v2_swarm().filter(|_| v1_of(metainfo)) }
                }
                Form::V1 | Form::Hybrid => Terms::default(),
            },
            (None, InfoId::Hash(hash)) if hash.as_bytes().len() == 32 => Terms { speaks_hashes: true, upgrade: None },
            (None, InfoId::Hash(hash)) if hash.swarm_id() == swarm => {
                Terms { speaks_hashes: self.v2_swarm.is_some(), upgrade: self.v2_swarm }
            }
            (None, InfoId::Hash(_)) => Terms { speaks_hashes: self.v2_swarm == Some(swarm), upgrade: None },
            (None, InfoId::Sig(_)) => Terms { speaks_hashes: true, upgrade: None },
        }
    }

    /// The handshakes to try with a peer, likely ones first. Another knot takes the bit for what it says, in any swarm.
    pub(super) fn greetings_for(&self, addr: &PeerAddr, peer_id: WirePeerId) -> Vec<Greeting> {
        let is_knot = matches!(addr, PeerAddr::Libp2p(_));
        let greeting = |swarm| {
            let Terms { speaks_hashes, upgrade } = self.terms(swarm);
            let offers = speaks_hashes || is_knot && self.metainfo.is_none();
            let handshake = Handshake::new(swarm, peer_id);
            let handshake = if offers { handshake } else { handshake.without_hashes() };
            Greeting { handshake, upgrade: upgrade.filter(|_| !is_knot) }
        };
        self.swarms_for(addr).into_iter().map(greeting).collect()
    }

    /// The swarms to try with a peer, likely ones first: that in which it was found; else the ordinary one for an
    /// address of a BitTorrent client, and knot's own for a libp2p one. A peer that knows a torrent by its metainfo is
    /// in all of its swarms, so one try is enough where the metainfo is known.
    fn swarms_for(&self, addr: &PeerAddr) -> Vec<SwarmId> {
        if let Some(swarm) = self.found_in.get(addr).filter(|swarm| self.joined.contains(swarm)) {
            return vec![*swarm];
        }
        let mut swarms = self.joined.clone();
        let ordinary = match (&self.metainfo, &self.id) {
            (Some(metainfo), _) => (metainfo.form() != Form::Native).then(|| metainfo.info_hash().swarm_id()),
            (None, InfoId::Hash(hash)) => Some(hash.swarm_id()),
            (None, InfoId::Sig(_)) => None,
        };
        let is_client = matches!(addr, PeerAddr::Socket(_));
        swarms.sort_by_key(|swarm| (Some(*swarm) == ordinary) != is_client);
        if self.metainfo.is_some() {
            swarms.truncate(1);
        }
        swarms
    }
}
