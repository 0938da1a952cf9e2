//! The mainline DHT (BEP 5), through the crate `mainline`.
//!
//! The node starts when the first public swarm is joined or a record is asked for, since it costs packets and wakeups, and stays. Each swarm
//! is looked up again and again, more often while peers are wanted, and this node is announced after each look-up.
//! The nodes that answered are kept in a file, so that the next start does not depend on the well-known ones.

mod nodes;
mod records;

use std::collections::{BTreeMap, HashSet};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::future::{BoxFuture, join_all};
use futures::{FutureExt as _, StreamExt as _};
use mainline::async_dht::AsyncDht;
use mainline::{DEFAULT_BOOTSTRAP_NODES, DEFAULT_REQUEST_TIMEOUT, Id};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::scope::Scope;
use super::wanted::Wanted;
use super::{Found, JoinOptions, ProgressFn, RecordCheck, RecordNetwork, Source};
use crate::types::{PeerAddr, SwarmId};
use records::{DhtRecords, Node};

const NAME: &str = "dht";
/// Time for one look-up, and for one announce. The crate's own answers may never come.
const QUERY_TIMEOUT: Duration = Duration::from_secs(60);
/// Time to look up the name of a bootstrap node.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(10);
/// How soon to try again what did not start.
const RESTART_AFTER: Duration = Duration::from_secs(30);
/// The wait after the first look-up while peers are wanted; doubles up to the longest.
const SHORTEST_WAIT: Duration = Duration::from_secs(10);
const LONGEST_WAIT: Duration = Duration::from_secs(5 * 60);
/// The wait while none are wanted: nodes forget a peer that has not announced itself for half an hour.
const RENEW_EVERY: Duration = Duration::from_secs(15 * 60);
/// How often it is looked whether peers are wanted.
const LOOK_AGAIN: Duration = Duration::from_secs(20);
const SAVE_EVERY: Duration = Duration::from_secs(5 * 60);
const STOP_TIMEOUT: Duration = Duration::from_secs(3);
/// Look-ups under way.
const MAX_LOOKUPS: usize = 16;
/// Peers that are taken from one look-up.
const MAX_PEERS: usize = 1000;

/// How to take part in the DHT.
#[derive(Clone, Debug)]
pub struct DhtConfig {
    /// The address to use; the unspecified one stands for all.
    pub bind: Ipv4Addr,
    /// The UDP port; another one is taken if it is in use.
    pub port: Option<u16>,
    /// Nodes to start from, as host:port; none for a network of one's own.
    pub bootstrap: Vec<String>,
    /// Where to keep the nodes that answered.
    pub nodes_file: Option<PathBuf>,
    /// Whether to serve others from the start. Otherwise the node serves once others can reach it.
    pub serve: bool,
    /// How long one node has to answer.
    pub request_timeout: Duration,
}

impl Default for DhtConfig {
    fn default() -> Self {
        Self {
            bind: Ipv4Addr::UNSPECIFIED,
            port: None,
            bootstrap: DEFAULT_BOOTSTRAP_NODES.map(str::to_owned).into(),
            nodes_file: None,
            serve: false,
            request_timeout: DEFAULT_REQUEST_TIMEOUT,
        }
    }
}

/// The source that asks the DHT.
pub struct Dht {
    wanted: Arc<Wanted>,
    node: Arc<Node>,
    stop: CancellationToken,
    task: Mutex<Option<AbortOnDropHandle<()>>>,
}

impl Dht {
    /// A source that reports over `found`. What goes wrong is in [`Source::state`] and tried again. Must be called
    /// within a tokio runtime.
    pub fn new(config: DhtConfig, progress: ProgressFn, found: mpsc::Sender<Found>) -> Self {
        let wanted = Arc::new(Wanted::default());
        wanted.set_state("waits for a public swarm".to_owned());
        let stop = CancellationToken::new();
        // Only a node that is bound to this host hears of peers from this host alone.
        let scope = if config.bind.is_loopback() { Scope::Host } else { Scope::Public };
        let node = Arc::new(Node::new(wanted.clone(), stop.clone()));
        let worker = Worker {
            scope,
            config,
            wanted: wanted.clone(),
            node: node.clone(),
            progress,
            found,
            stop: stop.clone(),
            swarms: BTreeMap::new(),
            known: 0,
        };
        let task = Mutex::new(Some(AbortOnDropHandle::new(tokio::spawn(worker.run()))));
        Self { wanted, node, stop, task }
    }

    /// The same DHT as a keeper of update records, of which it takes those that `check` finds good.
    pub fn records(&self, check: RecordCheck) -> Arc<dyn RecordNetwork> {
        Arc::new(DhtRecords::new(self.node.clone(), check))
    }
}

impl Source for Dht {
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

    fn shutdown(&self) -> BoxFuture<'static, ()> {
        self.wanted.clear();
        self.stop.cancel();
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        async move {
            if let Some(task) = task {
                // The nodes are saved; if that hangs, the next start takes the old ones.
                let _ = timeout(STOP_TIMEOUT, task).await;
            }
        }
        .boxed()
    }
}

struct Worker {
    config: DhtConfig,
    /// How far away those are who name peers.
    scope: Scope,
    wanted: Arc<Wanted>,
    /// Where the running node is told.
    node: Arc<Node>,
    progress: ProgressFn,
    found: mpsc::Sender<Found>,
    stop: CancellationToken,
    swarms: BTreeMap<SwarmId, Schedule>,
    /// Nodes in the routing table.
    known: usize,
}

/// The look-ups of one swarm.
#[derive(Default)]
struct Schedule {
    running: Option<AbortHandle>,
    /// When the last one ended.
    ended: Option<Instant>,
    /// How many have ended.
    count: u32,
    /// How the last one went.
    outcome: Outcome,
}

impl Drop for Schedule {
    fn drop(&mut self) {
        if let Some(running) = &self.running {
            running.abort();
        }
    }
}

/// What a look-up brought.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Outcome {
    peers: usize,
    /// Whether other nodes have taken note of this one.
    announced: bool,
    /// What went wrong.
    error: Option<String>,
}

impl Schedule {
    /// When the next look-up is due; `None` while one is under way.
    fn due(&self, now: Instant, wants_peers: bool) -> Option<Instant> {
        if self.running.is_some() {
            return None;
        }
        let eager = SHORTEST_WAIT.saturating_mul(2u32.saturating_pow(self.count.saturating_sub(1))).min(LONGEST_WAIT);
        Some(self.ended.map_or(now, |ended| ended + if wants_peers { eager } else { RENEW_EVERY }))
    }
}

impl Worker {
    async fn run(mut self) {
        let stop = self.stop.clone();
        while !stop.is_cancelled() {
            let Some(dht) = stop.run_until_cancelled(self.start()).await else { return };
            self.node.set(Some(dht.clone()));
            let died = stop.run_until_cancelled(self.serve(&dht)).await.is_some();
            self.node.set(None);
            self.swarms.clear();
            if died {
                self.wanted.set_state("off: broke down; tries again in 30 s".to_owned());
                stop.run_until_cancelled(sleep(RESTART_AFTER)).await;
            } else {
                self.save(&dht).await;
            }
        }
    }

    /// Waits for the first swarm or record, and until the node can start.
    async fn start(&mut self) -> AsyncDht {
        while self.wanted.swarms().is_empty() && !self.node.is_asked() {
            self.wanted.changed().await;
        }
        loop {
            self.wanted.set_state("starting".to_owned());
            match self.build().await {
                Ok(dht) => return dht,
                Err(error) => self.wanted.set_state(format!("off: {error}; tries again every 30 s")),
            }
            sleep(RESTART_AFTER).await;
        }
    }

    async fn build(&self) -> Result<AsyncDht, String> {
        let mut bootstrap = match &self.config.nodes_file {
            Some(path) => nodes::load(path).await,
            None => Vec::new(),
        };
        let resolved = join_all(self.config.bootstrap.iter().map(|node| resolve(node))).await;
        bootstrap.extend(resolved.into_iter().flatten());
        if bootstrap.is_empty() && !self.config.bootstrap.is_empty() {
            return Err("found the address of no bootstrap node, and no node is known from earlier".to_owned());
        }
        let DhtConfig { bind, port, serve, request_timeout, .. } = self.config;
        let build = move |port: Option<u16>| {
            let mut builder = mainline::Dht::builder();
            builder.bootstrap(&bootstrap).bind_address(bind).request_timeout(request_timeout);
            port.map(|port| builder.port(port));
            if serve {
                builder.server_mode();
            }
            builder.build()
        };
        // Another port is as good: peers are told the port of TCP.
        let build = move || build(port).or_else(|_| build(Some(0)));
        let built = tokio::task::spawn_blocking(build).await.map_err(|error| error.to_string())?;
        built.map(mainline::Dht::as_async).map_err(|error| error.to_string())
    }

    /// Looks up what is due. Ends only if the crate's thread has died.
    async fn serve(&mut self, dht: &AsyncDht) {
        let mut lookups: JoinSet<(SwarmId, Outcome)> = JoinSet::new();
        let mut save_at = Instant::now() + SAVE_EVERY;
        loop {
            let next = self.drive(dht, &mut lookups, Instant::now());
            let wait = next.saturating_duration_since(Instant::now()).min(LOOK_AGAIN);
            let wanted = self.wanted.clone();
            tokio::select! {
                () = wanted.changed() => {}
                Some(ended) = lookups.join_next() => {
                    self.ended(ended, Instant::now());
                    match nodes_of(dht).await {
                        Some(nodes) => self.known = nodes.len(),
                        None => return,
                    }
                }
                () = sleep(wait) => {}
            }
            if save_at <= Instant::now() {
                save_at = Instant::now() + SAVE_EVERY;
                self.save(dht).await;
            }
        }
    }

    /// Takes up joined swarms, drops left ones, starts look-ups. Returns when the next one is due.
    fn drive(&mut self, dht: &AsyncDht, lookups: &mut JoinSet<(SwarmId, Outcome)>, now: Instant) -> Instant {
        let ports = self.wanted.ports();
        self.swarms.retain(|swarm, _| ports.contains_key(swarm));
        let mut next = now + LOOK_AGAIN;
        for (swarm, port) in ports {
            let schedule = self.swarms.entry(swarm).or_default();
            let Some(due) = schedule.due(now, (self.progress)(swarm).wants_peers) else { continue };
            if due <= now && lookups.len() < MAX_LOOKUPS {
                let lookup = Lookup { dht: dht.clone(), swarm, port, scope: self.scope, found: self.found.clone() };
                schedule.running = Some(lookups.spawn(async move { (swarm, lookup.run().await) }));
            } else if due > now {
                next = next.min(due);
            }
        }
        self.report_state();
        next
    }

    /// A look-up has ended, was aborted since its swarm was left, or has panicked within the crate.
    fn ended(&mut self, ended: Result<(SwarmId, Outcome), tokio::task::JoinError>, now: Instant) {
        let gone = |schedule: &Schedule| schedule.running.as_ref().is_some_and(AbortHandle::is_finished);
        let (swarm, outcome) = match ended {
            Ok(ended) => ended,
            Err(error) => {
                let broken = self.swarms.iter().find(|(_, schedule)| gone(schedule)).map(|(swarm, _)| *swarm);
                let Some(swarm) = broken.filter(|_| error.is_panic()) else { return };
                (swarm, Outcome { error: Some("a look-up broke off".to_owned()), ..Outcome::default() })
            }
        };
        if let Some(schedule) = self.swarms.get_mut(&swarm).filter(|schedule| gone(schedule)) {
            schedule.running = None;
            schedule.ended = Some(now);
            schedule.count = schedule.count.saturating_add(1);
            schedule.outcome = outcome;
        }
    }

    async fn save(&self, dht: &AsyncDht) {
        let Some(path) = &self.config.nodes_file else { return };
        // Nothing known is no reason to forget what was known.
        let Some(nodes) = nodes_of(dht).await.filter(|nodes| !nodes.is_empty()) else { return };
        if let Err(error) = nodes::save(path, &nodes).await {
            tracing::warn!(path = %path.display(), %error, "could not keep the known DHT nodes");
        }
    }

    fn report_state(&self) {
        let outcomes = || self.swarms.values().map(|schedule| &schedule.outcome);
        let peers: usize = outcomes().map(|outcome| outcome.peers).sum();
        let announced = outcomes().filter(|outcome| outcome.announced).count();
        let looking = self.swarms.values().filter(|schedule| schedule.running.is_some()).count();
        let (known, swarms) = (self.known, self.swarms.len());
        let mut state = format!(
            "{known} nodes known, {announced} of {swarms} swarms announced, {looking} being looked up, {peers} peers found"
        );
        if let Some(error) = outcomes().find_map(|outcome| outcome.error.as_ref()) {
            state.push_str(&format!("; {error}"));
        }
        self.wanted.set_state(state);
    }
}

/// The nodes in the routing table; `None` if the crate's thread is dead, which its functions answer with a panic,
/// or stuck.
async fn nodes_of(dht: &AsyncDht) -> Option<Vec<String>> {
    let nodes = AssertUnwindSafe(dht.to_bootstrap()).catch_unwind();
    timeout(STOP_TIMEOUT, nodes).await.ok()?.ok()
}

/// The IPv4 addresses of `node`; the crate speaks no IPv6.
async fn resolve(node: &str) -> Vec<SocketAddrV4> {
    let found = timeout(RESOLVE_TIMEOUT, tokio::net::lookup_host(node)).await;
    let Ok(Ok(addrs)) = found else {
        tracing::debug!(node, "found no address of a bootstrap node");
        return Vec::new();
    };
    addrs.filter_map(|addr| if let SocketAddr::V4(addr) = addr { Some(addr) } else { None }).collect()
}

/// One look-up, and the announce after it.
struct Lookup {
    dht: AsyncDht,
    swarm: SwarmId,
    port: Option<u16>,
    scope: Scope,
    found: mpsc::Sender<Found>,
}

impl Lookup {
    async fn run(self) -> Outcome {
        let mut seen = HashSet::new();
        // What was found until the time is up counts.
        let complete = timeout(QUERY_TIMEOUT, self.get_peers(&mut seen)).await.is_ok();
        let mut outcome = Outcome { peers: seen.len(), announced: false, error: None };
        if !complete {
            outcome.error = Some(format!("a look-up took longer than {} s", QUERY_TIMEOUT.as_secs()));
        }
        if let Some(port) = self.port {
            match timeout(QUERY_TIMEOUT, self.dht.announce_peer(self.id(), Some(port))).await {
                Ok(Ok(_)) => outcome.announced = true,
                Ok(Err(error)) => outcome.error = Some(format!("not announced: {error}")),
                Err(_) => outcome.error = Some("not announced: no answer".to_owned()),
            }
        }
        outcome
    }

    fn id(&self) -> Id {
        Id::from(self.swarm.0)
    }

    async fn get_peers(&self, seen: &mut HashSet<SocketAddrV4>) {
        let mut answers = self.dht.get_peers(self.id());
        while let Some(peers) = answers.next().await {
            for peer in peers {
                if seen.len() >= MAX_PEERS {
                    return;
                }
                if !self.scope.may_name(peer.into()) || !seen.insert(peer) {
                    continue;
                }
                let found = Found { swarm: self.swarm, addr: PeerAddr::Socket(peer.into()), source: NAME };
                if self.found.send(found).await.is_err() {
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
