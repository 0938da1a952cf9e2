//! Which torrents there are: by swarm id for peers, by InfoID for users.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};

use tokio::sync::OnceCell;

use super::content::OpenTorrent;
use super::tally::Tally;
use crate::discovery::Progress;
use crate::transports::mse::ServedSwarms;
use crate::types::{InfoId, PeerAddr, SwarmId, TorrentKey, WirePeerId};
use crate::wire::Handshake;

/// The torrent behind each swarm id that is served.
#[derive(Default)]
pub(super) struct Swarms {
    by_id: RwLock<HashMap<SwarmId, Served>>,
    /// The same ids, for encrypted connections.
    served: ServedSwarms,
}

struct Served {
    torrent: TorrentKey,
    tally: Arc<Tally>,
    terms: Terms,
}

/// How to answer handshakes in a swarm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Terms {
    /// Peers may ask for hashes.
    pub(super) speaks_hashes: bool,
    /// The swarm of the v2 infohash, where this is the v1 one of a hybrid torrent: whoever offers to change to v2 is
    /// answered with it (BEP 52).
    pub(super) upgrade: Option<SwarmId>,
}

impl Swarms {
    /// Serves a torrent under an id.
    pub(super) fn insert(&self, swarm: SwarmId, torrent: TorrentKey, tally: Arc<Tally>, terms: Terms) {
        let mut by_id = self.by_id.write().unwrap_or_else(PoisonError::into_inner);
        by_id.insert(swarm, Served { torrent, tally, terms });
        self.served.insert(swarm);
    }

    /// More is known of the torrent than when it was inserted.
    pub(super) fn renew(&self, swarm: SwarmId, torrent: TorrentKey, terms: Terms) {
        let mut by_id = self.by_id.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(served) = by_id.get_mut(&swarm).filter(|served| served.torrent == torrent) {
            served.terms = terms;
        }
    }

    /// Takes the id out and says true, unless another torrent has taken it over.
    pub(super) fn remove(&self, swarm: SwarmId, torrent: TorrentKey) -> bool {
        let mut by_id = self.by_id.write().unwrap_or_else(PoisonError::into_inner);
        let ours = by_id.get(&swarm).is_some_and(|served| served.torrent == torrent);
        if ours {
            by_id.remove(&swarm);
            self.served.remove(&swarm);
        }
        ours
    }

    pub(super) fn find(&self, swarm: SwarmId) -> Option<TorrentKey> {
        self.by_id.read().unwrap_or_else(PoisonError::into_inner).get(&swarm).map(|served| served.torrent)
    }

    /// The torrent of the swarm that a peer at `addr` has named, and how to answer.
    pub(super) fn welcome(
        &self,
        addr: &PeerAddr,
        theirs: &Handshake,
        peer_id: WirePeerId,
    ) -> Option<(TorrentKey, Handshake)> {
        let by_id = self.by_id.read().unwrap_or_else(PoisonError::into_inner);
        let Served { torrent, terms, .. } = by_id.get(&theirs.swarm)?;
        // To another knot the bit is no offer to change the swarm.
        let offers = theirs.supports_hashes() && !matches!(addr, PeerAddr::Libp2p(_));
        let swarm = terms.upgrade.filter(|_| offers).unwrap_or(theirs.swarm);
        let handshake = Handshake::new(swarm, peer_id);
        Some((*torrent, if terms.speaks_hashes { handshake } else { handshake.without_hashes() }))
    }

    /// How far the torrent of a swarm is; of one that is not served, nothing.
    pub(super) fn progress(&self, swarm: SwarmId) -> Progress {
        let by_id = self.by_id.read().unwrap_or_else(PoisonError::into_inner);
        by_id.get(&swarm).map(|served| served.tally.progress()).unwrap_or_default()
    }

    /// The ids, for whoever lets encrypted connections in.
    pub(super) fn served(&self) -> &ServedSwarms {
        &self.served
    }
}

/// A torrent that somebody uses, from the moment it is asked for.
pub(super) struct Entry {
    pub(super) key: TorrentKey,
    /// Filled when metainfo and storage are there. Whoever comes second waits for the first.
    pub(super) torrent: OnceCell<Arc<OpenTorrent>>,
}

/// The torrents in use, by every InfoID that names them. An entry lives as long as somebody holds it.
#[derive(Default)]
pub(super) struct Registry {
    entries: Mutex<HashMap<InfoId, Weak<Entry>>>,
    next_key: AtomicU32,
}

impl Registry {
    /// The entry of `id`; a new one if nobody uses it.
    pub(super) fn entry(&self, id: InfoId) -> Arc<Entry> {
        let mut entries = self.lock();
        if let Some(entry) = entries.get(&id).and_then(Weak::upgrade) {
            return entry;
        }
        entries.retain(|_, entry| entry.strong_count() > 0);
        let key = self.new_key();
        let entry = Arc::new(Entry { key, torrent: OnceCell::new() });
        entries.insert(id, Arc::downgrade(&entry));
        entry
    }

    /// A name for something that is no torrent of its own, such as the followers of a dataset.
    pub(super) fn new_key(&self) -> TorrentKey {
        TorrentKey(self.next_key.fetch_add(1, Ordering::Relaxed))
    }

    /// Lets `id` name `entry` too; the entry that already has the name, if there is another.
    pub(super) fn alias(&self, id: InfoId, entry: &Arc<Entry>) -> Option<Arc<Entry>> {
        let mut entries = self.lock();
        match entries.get(&id).and_then(Weak::upgrade) {
            Some(other) => (!Arc::ptr_eq(&other, entry)).then_some(other),
            None => {
                entries.insert(id, Arc::downgrade(entry));
                None
            }
        }
    }

    /// Every torrent in use, once.
    pub(super) fn list(&self) -> Vec<(InfoId, Arc<Entry>)> {
        let mut list: Vec<_> = self.lock().iter().filter_map(|(id, entry)| Some((*id, entry.upgrade()?))).collect();
        // The InfoSig stands for a signed torrent.
        list.sort_by_key(|(id, entry)| (entry.key, matches!(id, InfoId::Hash(_))));
        list.dedup_by_key(|(_, entry)| entry.key);
        list
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<InfoId, Weak<Entry>>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_offers_v2_in_the_v1_swarm_of_a_hybrid_torrent_is_answered_with_v2() {
        let swarms = Swarms::default();
        let [v1, v2, other] = [1, 2, 3].map(|byte| SwarmId([byte; 20]));
        let (torrent, peer) = (TorrentKey(5), WirePeerId([9; 20]));
        let hybrid = Terms { speaks_hashes: true, upgrade: Some(v2) };
        swarms.insert(v1, torrent, Arc::default(), Terms::default());
        let answer = |offers, swarm| {
            let theirs = Handshake::new(swarm, WirePeerId([8; 20]));
            let theirs = if offers { theirs } else { theirs.without_hashes() };
            swarms
                .welcome(&PeerAddr::Socket(([10, 0, 0, 1], 1).into()), &theirs, peer)
                .map(|(_, ours)| (ours.swarm, ours.supports_hashes()))
        };
        assert_eq!(answer(true, v1), Some((v1, false)), "nothing is known of v2");
        swarms.renew(v1, TorrentKey(6), hybrid);
        assert_eq!(answer(true, v1), Some((v1, false)), "the torrent of another");
        swarms.renew(v1, torrent, hybrid);
        swarms.insert(v2, torrent, Arc::default(), Terms { speaks_hashes: true, upgrade: None });
        assert_eq!(answer(true, v1), Some((v2, true)));
        assert_eq!(answer(false, v1), Some((v1, true)));
        assert_eq!(answer(false, v2), Some((v2, true)));
        assert_eq!(answer(true, other), None);
    }

    #[test]
    fn an_entry_has_one_key_under_all_its_names_and_goes_with_its_users() {
        let registry = Registry::default();
        let [hash, sig] = [40, 128].map(|digits| "a".repeat(digits).parse::<InfoId>().unwrap());
        let entry = registry.entry(sig);
        assert!(registry.alias(hash, &entry).is_none());
        assert_eq!(registry.entry(hash).key, entry.key);
        assert_eq!(registry.list().iter().map(|(id, _)| *id).collect::<Vec<_>>(), [sig]);
        let key = entry.key;
        drop(entry);
        assert!(registry.list().is_empty());
        assert_ne!(registry.entry(hash).key, key);
    }
}
