//! What the driver keeps of one torrent: its swarms, and what its sources are told.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::registry::Swarms;
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
            if !self.joined.contains(swarm) {
                meeting.swarms.insert(*swarm, self.key, self.tally.clone(), self.speaks_hashes());
                self.joined.push(*swarm);
            }
        }
        self.announce(meeting);
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

    /// Whether peers may ask for hashes. Not those of a v1 torrent, nor of a hybrid one, which is used as v1: clients
    /// take the offer as one to change to v2, and close the stream of who cannot. (A torrent of which only a hash of 32
    /// bytes is known may be hybrid; by that hash clients talk v2 anyway.)
    fn speaks_hashes(&self) -> bool {
        match (&self.metainfo, &self.id) {
            (Some(metainfo), _) => matches!(metainfo.form(), Form::Native | Form::V2),
            (None, InfoId::Hash(hash)) => hash.as_bytes().len() == 32,
            (None, InfoId::Sig(_)) => true,
        }
    }

    /// The handshakes to try with a peer, likely ones first.
    pub(super) fn handshakes_for(&self, addr: &PeerAddr, peer_id: WirePeerId) -> Vec<Handshake> {
        let handshake = |swarm| match self.speaks_hashes() {
            true => Handshake::new(swarm, peer_id),
            false => Handshake::new(swarm, peer_id).without_hashes(),
        };
        self.swarms_for(addr).into_iter().map(handshake).collect()
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
