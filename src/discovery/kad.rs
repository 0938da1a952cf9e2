//! The private Kademlia network `/knot/kad/1`: nodes that serve a swarm leave provider records under its id.
//!
//! Records live three hours and are renewed every hour. Look-ups repeat, ever more rarely, and sooner again when
//! the network grows while nobody has been found. In a network so small that every node is close to every key,
//! records are also renewed when a node joins, so that it matters little in which order the first nodes start.
//!
//! The network's values are update records, under SHA-256 of the dataset's original InfoSig ([`KadRecords`]). They live
//! two days; who follows a dataset puts its newest record in again.

mod records;
mod store;
mod values;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use libp2p::core::Endpoint;
use libp2p::kad::store::RecordStore;
use libp2p::kad::{
    self, Event, GetClosestPeersError, GetClosestPeersOk, GetProvidersOk, InboundRequest, K_VALUE, Mode,
    ProviderRecord, QueryId, QueryResult, RecordKey, StoreInserts,
};
use libp2p::swarm::{ConnectionId, NetworkBehaviour};
use libp2p::{Multiaddr, PeerId, StreamProtocol};
use tokio::sync::mpsc;

use super::records::{PushedRecord, RecordCheck};
use super::wanted::Wanted;
use super::{Found, JoinOptions, Source, address};
use crate::types::SwarmId;
use records::RecordDriver;
use store::{MAX_ANNOUNCED, ProviderStore};
use values::{VALUE_TTL, Values};

pub use records::KadRecords;

/// The protocol of the private network.
pub const KAD_PROTOCOL: StreamProtocol = StreamProtocol::new("/knot/kad/1");

/// The libp2p behaviour that talks to the network.
pub type Behaviour = kad::Behaviour<ProviderStore>;

const NAME: &str = "kad";
const RECORD_TTL: Duration = Duration::from_secs(3 * 60 * 60);
const RENEW_EVERY: Duration = Duration::from_secs(60 * 60);
const QUERY_TIMEOUT: Duration = Duration::from_secs(30);
/// Wait after the first look-up of a swarm; doubles up to the longest.
const SHORTEST_WAIT: Duration = Duration::from_secs(10);
const LONGEST_WAIT: Duration = Duration::from_secs(10 * 60);
/// Wait between look-ups of a swarm that nobody was found for while the network grows.
const EAGER_WAIT: Duration = Duration::from_secs(1);
/// How long joining nodes are collected before records are renewed for them.
const JOIN_DELAY: Duration = Duration::from_secs(1);
/// Addresses of a provider that are passed on.
const MAX_ADDRESSES: usize = 8;
/// Look-ups of providers' addresses under way.
const MAX_ADDRESS_LOOKUPS: usize = 64;

/// The behaviour for the node `local`. It serves others at once: nothing here finds out whether this node can be
/// reached, and in a private network most can. It keeps the records that `check` finds good.
pub fn behaviour(local: PeerId, check: RecordCheck) -> Behaviour {
    let mut config = kad::Config::new(KAD_PROTOCOL);
    config
        .set_query_timeout(QUERY_TIMEOUT)
        .set_provider_record_ttl(Some(RECORD_TTL))
        .set_provider_publication_interval(Some(RENEW_EVERY))
        .set_record_ttl(Some(VALUE_TTL))
        .set_replication_interval(None)
        .set_publication_interval(None)
        .set_record_filtering(StoreInserts::FilterBoth);
    let mut behaviour =
        kad::Behaviour::with_config(local, ProviderStore::new(local, Values::new(local, check)), config);
    behaviour.set_mode(Some(Mode::Server));
    behaviour
}

/// Makes the source and the record network, and the driver that works for both beside the behaviour of the node
/// `local`. Peers are reported over `found`, newer records of followed datasets over `pushed`.
pub fn source(
    local: PeerId,
    found: mpsc::Sender<Found>,
    check: RecordCheck,
    pushed: mpsc::Sender<PushedRecord>,
) -> (KadSource, KadRecords, KadDriver) {
    let (network, records) = records::network(check, pushed);
    let wanted = Arc::new(Wanted::default());
    let driver = KadDriver {
        local,
        wanted: wanted.clone(),
        found,
        swarms: BTreeMap::new(),
        lookups: HashMap::new(),
        address_lookups: HashMap::new(),
        renew_at: None,
        records,
    };
    (KadSource { wanted }, network, driver)
}

/// Asks for look-ups.
pub struct KadSource {
    wanted: Arc<Wanted>,
}

impl Source for KadSource {
    fn name(&self) -> &'static str {
        NAME
    }

    fn join(&self, swarm: SwarmId, options: &JoinOptions) {
        self.wanted.join(swarm, options);
    }

    fn leave(&self, swarm: SwarmId) {
        self.wanted.leave(swarm);
    }

    fn state(&self) -> String {
        self.wanted.state()
    }
}

/// Does them.
pub struct KadDriver {
    local: PeerId,
    wanted: Arc<Wanted>,
    found: mpsc::Sender<Found>,
    swarms: BTreeMap<SwarmId, Schedule>,
    lookups: HashMap<QueryId, SwarmId>,
    /// Providers that came without addresses.
    address_lookups: HashMap<QueryId, (SwarmId, PeerId)>,
    /// When to renew the records for nodes that have joined.
    renew_at: Option<Instant>,
    records: RecordDriver,
}

/// The look-ups of one swarm.
struct Schedule {
    next: Instant,
    /// How long to wait after that.
    wait: Duration,
    running: bool,
    /// Peers that look-ups have found so far.
    peers: HashSet<PeerId>,
}

impl KadDriver {
    /// Waits until [`KadDriver::drive`] has something to do that no time and no event tells. Safe to cancel.
    pub async fn changed(&self) {
        tokio::select! {
            () = self.wanted.changed() => {}
            () = self.records.changed() => {}
        }
    }

    /// When [`KadDriver::drive`] has something to do next.
    pub fn next_wakeup(&self) -> Option<Instant> {
        let lookups = self.swarms.values().filter(|schedule| !schedule.running).map(|schedule| schedule.next);
        lookups.chain(self.renew_at).min()
    }

    /// Takes up joined swarms, drops left ones, starts what is due.
    pub fn drive(&mut self, kad: &mut Behaviour, now: Instant) {
        self.records.drive(kad);
        let wanted = self.wanted.swarms();
        for swarm in self.swarms.keys().filter(|swarm| !wanted.contains(swarm)) {
            kad.stop_providing(&key(swarm));
        }
        self.swarms.retain(|swarm, _| wanted.contains(swarm));
        for swarm in wanted {
            self.swarms.entry(swarm).or_insert_with(|| {
                announce(kad, &swarm);
                Schedule { next: now, wait: SHORTEST_WAIT, running: false, peers: HashSet::new() }
            });
        }
        if self.renew_at.is_some_and(|at| at <= now) {
            self.renew_at = None;
            self.swarms.keys().for_each(|swarm| announce(kad, swarm));
        }
        for (swarm, schedule) in &mut self.swarms {
            if !schedule.running && schedule.next <= now {
                schedule.running = true;
                self.lookups.insert(kad.get_providers(key(swarm)), *swarm);
            }
        }
        self.report_state(kad);
    }

    /// Takes an event of the behaviour. Returns addresses of peers that it brought, which dials may need.
    pub fn handle(&mut self, kad: &mut Behaviour, event: Event, now: Instant) -> Vec<(PeerId, Multiaddr)> {
        match event {
            Event::InboundRequest { request: InboundRequest::AddProvider { record: Some(record) } } => {
                store(kad, record);
            }
            Event::InboundRequest { request: InboundRequest::PutRecord { record: Some(record), .. } } => {
                self.records.brought(kad, record);
            }
            Event::RoutingUpdated { is_new_peer: true, .. } => self.network_grew(kad, now),
            Event::OutboundQueryProgressed { id, result, step, .. } => {
                let learned = match result {
                    QueryResult::GetProviders(Ok(GetProvidersOk::FoundProviders { providers, .. })) => {
                        self.providers(kad, id, providers)
                    }
                    QueryResult::GetClosestPeers(result) => {
                        let (Ok(GetClosestPeersOk { peers, .. }) | Err(GetClosestPeersError::Timeout { peers, .. })) =
                            result;
                        self.addresses_found(id, peers)
                    }
                    result => {
                        self.records.progressed(kad, id, result, step.last);
                        Vec::new()
                    }
                };
                if step.last {
                    self.finished(id, now);
                }
                self.report_state(kad);
                return learned;
            }
            _ => {}
        }
        Vec::new()
    }

    /// Providers that one node named. The addresses that it gave are known to the behaviour while the query lasts.
    fn providers(&mut self, kad: &mut Behaviour, id: QueryId, peers: HashSet<PeerId>) -> Vec<(PeerId, Multiaddr)> {
        let Some(swarm) = self.lookups.get(&id).copied() else { return Vec::new() };
        let mut learned = Vec::new();
        let local = self.local;
        for peer in peers.into_iter().filter(|peer| *peer != local) {
            let unused = ConnectionId::new_unchecked(0);
            let addrs =
                kad.handle_pending_outbound_connection(unused, Some(peer), &[], Endpoint::Dialer).unwrap_or_default();
            if !addrs.is_empty() {
                learned.extend(self.report(swarm, peer, addrs));
            } else if self.address_lookups.len() < MAX_ADDRESS_LOOKUPS {
                self.address_lookups.insert(kad.get_closest_peers(peer), (swarm, peer));
            }
        }
        learned
    }

    fn addresses_found(&mut self, id: QueryId, peers: Vec<kad::PeerInfo>) -> Vec<(PeerId, Multiaddr)> {
        let Some((swarm, peer)) = self.address_lookups.get(&id).copied() else { return Vec::new() };
        let addrs = peers.into_iter().find(|info| info.peer_id == peer).map(|info| info.addrs);
        addrs.map(|addrs| self.report(swarm, peer, addrs)).unwrap_or_default()
    }

    fn report(&mut self, swarm: SwarmId, peer: PeerId, mut addrs: Vec<Multiaddr>) -> Vec<(PeerId, Multiaddr)> {
        addrs.truncate(MAX_ADDRESSES);
        if let Some(schedule) = self.swarms.get_mut(&swarm)
            && let Some(addr) = address::best(peer, &addrs)
        {
            schedule.peers.insert(peer);
            // A full channel drops this find; the next look-up brings it again.
            let _ = self.found.try_send(Found { swarm, addr, source: NAME });
        }
        addrs.into_iter().map(|addr| (peer, addr)).collect()
    }

    fn finished(&mut self, id: QueryId, now: Instant) {
        self.address_lookups.remove(&id);
        if let Some(swarm) = self.lookups.remove(&id)
            && let Some(schedule) = self.swarms.get_mut(&swarm)
        {
            schedule.running = false;
            schedule.next = now + schedule.wait;
            schedule.wait = (schedule.wait * 2).min(LONGEST_WAIT);
        }
    }

    fn network_grew(&mut self, kad: &mut Behaviour, now: Instant) {
        if nodes(kad) <= K_VALUE.get() {
            self.renew_at = self.renew_at.or(Some(now + JOIN_DELAY));
        }
        for schedule in self.swarms.values_mut().filter(|schedule| schedule.peers.is_empty()) {
            schedule.next = schedule.next.min(now + EAGER_WAIT);
            schedule.wait = SHORTEST_WAIT;
        }
    }

    fn report_state(&self, kad: &mut Behaviour) {
        let peers: HashSet<_> = self.swarms.values().flat_map(|schedule| &schedule.peers).collect();
        let (nodes, swarms) = (nodes(kad), self.swarms.len());
        self.wanted.set_state(format!("{nodes} nodes known, {swarms} swarms announced, {} peers found", peers.len()));
    }
}

fn key(swarm: &SwarmId) -> RecordKey {
    RecordKey::new(&swarm.0)
}

fn nodes(kad: &mut Behaviour) -> usize {
    kad.kbuckets().map(|bucket| bucket.num_entries()).sum()
}

fn announce(kad: &mut Behaviour, swarm: &SwarmId) {
    if kad.start_providing(key(swarm)).is_err() {
        tracing::warn!(%swarm, "not announced: this node announces {MAX_ANNOUNCED} swarms already");
    }
}

/// Keeps a record that another node brought for itself; the behaviour has checked that it is for itself.
fn store(kad: &mut Behaviour, record: ProviderRecord) {
    if let Err(error) = kad.store_mut().add_provider(record) {
        tracing::debug!(%error, "refused a provider record");
    }
}
