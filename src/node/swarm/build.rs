//! Puts the swarm together.

use std::sync::Arc;
use std::time::Duration;

use libp2p::connection_limits::{self, ConnectionLimits};
use libp2p::identity::Keypair;
use libp2p::swarm::NetworkBehaviour;
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::{Swarm, SwarmBuilder, identify, mdns as libp2p_mdns, noise, ping, tcp};
use tokio::sync::mpsc;

use super::{SwarmConfig, SwarmError, record_check};
use crate::discovery::{Found, PushedRecord, RecordNetwork, Source, gossip, kad, mdns};
use crate::transports::PeerStream;
use crate::transports::libp2p::{self as wire, Libp2pTransport};

/// What nodes call themselves to each other.
const PROTOCOL_VERSION: &str = "/knot/1";
/// How long one attempt to connect may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection without streams is kept: enough for the next torrent, or the next look-up.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// How often a connection is probed, and how long an answer may take.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(15);
/// Connections: of one peer, still shaking hands, opened by others, in all.
const MAX_PER_PEER: u32 = 4;
const MAX_PENDING: u32 = 128;
const MAX_INCOMING: u32 = 768;
const MAX_CONNECTIONS: u32 = 1024;

/// Everything that the swarm speaks.
#[derive(NetworkBehaviour)]
pub(super) struct Behaviour {
    limits: connection_limits::Behaviour,
    pub(super) wire: wire::Behaviour,
    pub(super) identify: identify::Behaviour,
    pub(super) ping: ping::Behaviour,
    pub(super) kad: Toggle<kad::Behaviour>,
    pub(super) mdns: Toggle<libp2p_mdns::tokio::Behaviour>,
    pub(super) gossip: Toggle<gossip::Behaviour>,
}

/// The swarm and its ends.
pub(super) struct Built {
    pub(super) swarm: Swarm<Behaviour>,
    pub(super) transport: Libp2pTransport,
    pub(super) incoming: mpsc::Receiver<PeerStream>,
    pub(super) sources: Vec<Arc<dyn Source>>,
    pub(super) records: Vec<Arc<dyn RecordNetwork>>,
    pub(super) drivers: Drivers,
}

/// What works beside the behaviours that are on.
#[derive(Default)]
pub(super) struct Drivers {
    pub(super) kad: Option<kad::KadDriver>,
    pub(super) mdns: Option<mdns::MdnsDriver>,
    pub(super) gossip: Option<gossip::GossipDriver>,
}

/// Builds the swarm. Peers are reported over `found`, update records over `pushed`.
pub(super) fn build(
    config: &SwarmConfig,
    found: mpsc::Sender<Found>,
    pushed: mpsc::Sender<PushedRecord>,
) -> Result<Built, SwarmError> {
    let setup = |error: &dyn std::fmt::Display| SwarmError::Setup(error.to_string());
    let local = config.key.public().to_peer_id();
    let (wire, transport, incoming) = wire::behaviour(local);
    let mut sources: Vec<Arc<dyn Source>> = Vec::new();
    let mut records: Vec<Arc<dyn RecordNetwork>> = Vec::new();
    let mut drivers = Drivers::default();
    if config.kad {
        let (source, network, driver) = kad::source(local, found.clone(), record_check(), pushed.clone());
        sources.push(Arc::new(source));
        records.push(Arc::new(network));
        drivers.kad = Some(driver);
    }
    let mut gossip_behaviour = None;
    if config.gossip {
        let (network, driver) = gossip::network(record_check(), pushed);
        gossip_behaviour = Some(gossip::behaviour().map_err(|error| setup(&error))?);
        records.push(Arc::new(network));
        drivers.gossip = Some(driver);
    }
    let mut mdns_behaviour = None;
    if config.mdns {
        let (source, driver) = mdns::source(local, found);
        match libp2p_mdns::tokio::Behaviour::new(libp2p_mdns::Config::default(), local) {
            Ok(behaviour) => {
                mdns_behaviour = Some(behaviour);
                drivers.mdns = Some(driver);
            }
            // A machine without multicast is no reason to do without the rest.
            Err(error) => source.fail(&error.to_string()),
        }
        sources.push(Arc::new(source));
    }
    let behaviour = Behaviour {
        limits: connection_limits::Behaviour::new(limits()),
        wire,
        identify: identify::Behaviour::new(identify_config(&config.key)),
        ping: ping::Behaviour::new(ping::Config::new().with_interval(PING_INTERVAL).with_timeout(PING_TIMEOUT)),
        kad: config.kad.then(|| kad::behaviour(local, record_check())).into(),
        mdns: mdns_behaviour.into(),
        gossip: gossip_behaviour.into(),
    };
    let swarm = SwarmBuilder::with_existing_identity(config.key.clone())
        .with_tokio()
        .with_tcp(tcp::Config::default().nodelay(true), noise::Config::new, wire::Multiplexing::default)
        .map_err(|error| setup(&error))?
        .with_quic()
        .with_behaviour(|_| behaviour)
        .map_err(|error| setup(&error))?
        .with_swarm_config(|config| config.with_idle_connection_timeout(IDLE_TIMEOUT))
        .with_connection_timeout(CONNECT_TIMEOUT)
        .build();
    Ok(Built { swarm, transport, incoming, sources, records, drivers })
}

fn identify_config(key: &Keypair) -> identify::Config {
    identify::Config::new(PROTOCOL_VERSION.to_owned(), key.public())
        .with_agent_version(concat!("knot/", env!("CARGO_PKG_VERSION")).to_owned())
        .with_push_listen_addr_updates(true)
}

fn limits() -> ConnectionLimits {
    ConnectionLimits::default()
        .with_max_pending_incoming(Some(MAX_PENDING))
        .with_max_established_incoming(Some(MAX_INCOMING))
        .with_max_established(Some(MAX_CONNECTIONS))
        .with_max_established_per_peer(Some(MAX_PER_PEER))
}
