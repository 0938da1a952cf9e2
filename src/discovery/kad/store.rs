//! The records that this node keeps for the Kademlia network.
//!
//! libp2p's own store counts this node's records together with those of strangers, so strangers could keep it from
//! announcing; it forgets expired records only when somebody asks for their key; and a full list of providers turns
//! away even this node itself. Here this node's own records have room of their own, and expired ones make way.
//! Values are update records ([`Values`]).

use std::borrow::Cow;
use std::collections::{HashMap, hash_map};
use std::iter::{self, Map};
use std::time::{Duration, Instant};

use libp2p::PeerId;
use libp2p::kad::store::{Error, RecordStore, Result};
use libp2p::kad::{ProviderRecord, Record, RecordKey};

use super::values::Values;

/// Swarms that this node may announce.
pub(super) const MAX_ANNOUNCED: usize = 16 * 1024;
/// Keys that other nodes may leave records under here, and providers of each.
const MAX_KEYS: usize = 4096;
const MAX_PROVIDERS: usize = 40;
/// Addresses that are kept of a provider, and bytes of each.
const MAX_ADDRESSES: usize = 8;
const MAX_ADDRESS_LEN: usize = 128;
/// How often a full store looks for expired records.
const SWEEP_EVERY: Duration = Duration::from_secs(60);

/// Provider records, each list in the order in which its records came, and values.
pub struct ProviderStore {
    local: PeerId,
    own: HashMap<RecordKey, ProviderRecord>,
    others: HashMap<RecordKey, Vec<ProviderRecord>>,
    swept: Option<Instant>,
    pub(super) values: Values,
}

impl ProviderStore {
    /// An empty store of the node `local`.
    pub(super) fn new(local: PeerId, values: Values) -> Self {
        Self { local, own: HashMap::new(), others: HashMap::new(), swept: None, values }
    }

    fn add_own(&mut self, record: ProviderRecord) -> Result<()> {
        if self.own.len() >= MAX_ANNOUNCED && !self.own.contains_key(&record.key) {
            return Err(Error::MaxProvidedKeys);
        }
        self.own.insert(record.key.clone(), record);
        Ok(())
    }

    fn add_other(&mut self, mut record: ProviderRecord, now: Instant) -> Result<()> {
        record.addresses.retain(|addr| addr.len() <= MAX_ADDRESS_LEN);
        record.addresses.truncate(MAX_ADDRESSES);
        if self.others.len() >= MAX_KEYS && !self.others.contains_key(&record.key) {
            self.sweep(now);
            if self.others.len() >= MAX_KEYS {
                return Err(Error::MaxProvidedKeys);
            }
        }
        let providers = self.others.entry(record.key.clone()).or_default();
        providers.retain(|other| other.provider != record.provider);
        if providers.len() >= MAX_PROVIDERS {
            providers.retain(|other| !other.is_expired(now));
        }
        if providers.len() >= MAX_PROVIDERS {
            // Those who came first stay: whoever invents many nodes cannot push the real ones out.
            return Err(Error::MaxRecords);
        }
        providers.push(record);
        Ok(())
    }

    fn sweep(&mut self, now: Instant) {
        if self.swept.is_some_and(|at| now < at + SWEEP_EVERY) {
            return;
        }
        self.swept = Some(now);
        self.others.retain(|_, providers| {
            providers.retain(|record| !record.is_expired(now));
            !providers.is_empty()
        });
    }
}

impl RecordStore for ProviderStore {
    type RecordsIter<'a> = iter::Empty<Cow<'a, Record>>;
    type ProvidedIter<'a> =
        Map<hash_map::Values<'a, RecordKey, ProviderRecord>, fn(&'a ProviderRecord) -> Cow<'a, ProviderRecord>>;

    fn get(&self, key: &RecordKey) -> Option<Cow<'_, Record>> {
        self.values.get(key).map(Cow::Borrowed)
    }

    /// Keeps a record that this node puts in.
    fn put(&mut self, record: Record) -> Result<()> {
        self.values.put(record, true, Instant::now()).map(drop).map_err(|_| Error::MaxRecords)
    }

    fn remove(&mut self, key: &RecordKey) {
        self.values.remove(key);
    }

    /// None: asked for by whoever would put them in again, which those do who follow a dataset, not those who keep.
    fn records(&self) -> Self::RecordsIter<'_> {
        iter::empty()
    }

    fn add_provider(&mut self, record: ProviderRecord) -> Result<()> {
        if record.provider == self.local { self.add_own(record) } else { self.add_other(record, Instant::now()) }
    }

    /// This node first, then those that announced themselves last: an answer holds only the first twenty.
    fn providers(&self, key: &RecordKey) -> Vec<ProviderRecord> {
        let others = self.others.get(key).into_iter().flat_map(|providers| providers.iter().rev());
        self.own.get(key).into_iter().chain(others).cloned().collect()
    }

    fn provided(&self) -> Self::ProvidedIter<'_> {
        self.own.values().map(Cow::Borrowed)
    }

    fn remove_provider(&mut self, key: &RecordKey, provider: &PeerId) {
        if *provider == self.local {
            self.own.remove(key);
        } else if let hash_map::Entry::Occupied(mut entry) = self.others.entry(key.clone()) {
            entry.get_mut().retain(|record| record.provider != *provider);
            if entry.get().is_empty() {
                entry.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(local: PeerId) -> ProviderStore {
        ProviderStore::new(local, Values::new(local, std::sync::Arc::new(|_| None)))
    }

    fn record(key: u64, provider: PeerId, expires: Option<Instant>) -> ProviderRecord {
        let addresses = vec!["/ip4/192.0.2.1/tcp/1".parse().unwrap(); 20];
        ProviderRecord { expires, ..ProviderRecord::new(RecordKey::new(&key.to_be_bytes()), provider, addresses) }
    }

    #[test]
    fn strangers_do_not_keep_this_node_from_announcing() {
        let local = PeerId::random();
        let mut store = store(local);
        for key in 0..MAX_KEYS as u64 {
            store.add_provider(record(key, PeerId::random(), None)).unwrap();
        }
        assert!(store.add_provider(record(u64::MAX, PeerId::random(), None)).is_err());
        for _ in 1..MAX_PROVIDERS {
            store.add_provider(record(0, PeerId::random(), None)).unwrap();
        }
        assert!(store.add_provider(record(0, PeerId::random(), None)).is_err());

        store.add_provider(record(0, local, None)).unwrap();
        store.add_provider(record(u64::MAX, local, None)).unwrap();
        assert_eq!(store.provided().count(), 2);
        let providers = store.providers(&RecordKey::new(&0u64.to_be_bytes()));
        assert_eq!((providers.len(), providers[0].provider), (MAX_PROVIDERS + 1, local));
        assert!(providers[1..].iter().all(|record| record.addresses.len() == MAX_ADDRESSES));
        store.remove_provider(&RecordKey::new(&0u64.to_be_bytes()), &local);
        assert_eq!(store.provided().count(), 1);
    }

    #[test]
    fn expired_records_make_way() {
        let now = Instant::now();
        let mut store = store(PeerId::random());
        for key in 0..MAX_KEYS as u64 {
            store.add_other(record(key, PeerId::random(), Some(now + SWEEP_EVERY)), now).unwrap();
        }
        assert!(store.add_other(record(u64::MAX, PeerId::random(), None), now).is_err());
        let later = now + SWEEP_EVERY;
        store.add_other(record(u64::MAX, PeerId::random(), None), later).unwrap();
        assert_eq!(store.others.len(), 1);
    }

    #[test]
    fn a_provider_that_comes_again_is_kept_once_and_named_first() {
        let mut store = store(PeerId::random());
        let (alice, bob) = (PeerId::random(), PeerId::random());
        for provider in [alice, bob, alice] {
            store.add_provider(record(0, provider, None)).unwrap();
        }
        let key = RecordKey::new(&0u64.to_be_bytes());
        let names =
            |store: &ProviderStore| store.providers(&key).iter().map(|record| record.provider).collect::<Vec<_>>();
        assert_eq!(names(&store), [alice, bob]);
        store.remove_provider(&key, &alice);
        store.remove_provider(&key, &bob);
        assert!(store.others.is_empty());
    }
}
