//! Peers on the local network, by local service discovery (BEP 14).
//!
//! Each swarm is announced to a multicast group when it is joined and every five minutes from then on, and sooner
//! when another peer of it is heard, so that whichever of the two wants to connect can. A swarm is never announced
//! more than once a minute.

mod message;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use lru::LruCache;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::time::sleep_until;
use tokio_util::task::AbortOnDropHandle;

use super::wanted::Wanted;
use super::{Found, JoinOptions, Source};
use crate::types::{PeerAddr, SwarmId};
pub use message::{MAX_SWARMS, Search};

const NAME: &str = "lsd";
/// The port of the multicast groups.
pub const LSD_PORT: u16 = 6771;
const GROUP_V4: Ipv4Addr = Ipv4Addr::new(239, 192, 152, 143);
const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff15, 0, 0, 0, 0, 0, 0xefc0, 0x988f);

const ANNOUNCE_EVERY: Duration = Duration::from_secs(5 * 60);
const ANNOUNCE_AT_MOST_EVERY: Duration = Duration::from_secs(60);
/// How long after a peer was heard its swarm is announced.
const ANSWER_DELAY: Duration = Duration::from_millis(500);
/// Datagrams that are read of one sender a second.
const MAX_DATAGRAMS: u32 = 20;
/// Senders whose datagrams are counted, and swarms whose last announce is remembered after they were left.
const MAX_REMEMBERED: NonZeroUsize = NonZeroUsize::new(1024).unwrap();
/// Datagrams read and not yet worked on.
const QUEUE: usize = 64;
const MAX_DATAGRAM: usize = 1500;

/// Where local peers are looked for.
#[derive(Clone, Debug)]
pub struct LsdConfig {
    /// IPv4 interfaces by their address; the unspecified one stands for the system's choice.
    pub v4: Vec<Ipv4Addr>,
    /// IPv6 interfaces by their index; 0 stands for the system's choice.
    pub v6: Vec<u32>,
    /// The port of the groups.
    pub port: u16,
}

impl Default for LsdConfig {
    fn default() -> Self {
        Self { v4: vec![Ipv4Addr::UNSPECIFIED], v6: vec![0], port: LSD_PORT }
    }
}

/// The source that asks the local network.
pub struct Lsd {
    wanted: Arc<Wanted>,
    _task: AbortOnDropHandle<()>,
}

impl Lsd {
    /// A source that reports over `found`. Interfaces without multicast are no error: [`Source::state`] names
    /// them. Must be called within a tokio runtime.
    pub fn new(config: &LsdConfig, found: mpsc::Sender<Found>) -> Self {
        let wanted = Arc::new(Wanted::default());
        let mut errors = Vec::new();
        let mut groups = Vec::new();
        for interface in interfaces(config) {
            match open(interface, config.port) {
                Ok(group) => groups.push(Arc::new(group)),
                Err(error) => errors.push(format!("no multicast on {interface:?}: {error}")),
            }
        }
        let worker = Worker {
            wanted: wanted.clone(),
            found,
            groups,
            errors,
            cookie: format!("{:016x}", rand::random::<u64>()),
            due: BTreeMap::new(),
            last: LruCache::new(MAX_REMEMBERED),
            heard: LruCache::new(MAX_REMEMBERED),
        };
        worker.report_state();
        Self { wanted, _task: AbortOnDropHandle::new(tokio::spawn(worker.run())) }
    }
}

impl Source for Lsd {
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
        std::future::ready(()).boxed()
    }
}

#[derive(Clone, Copy, Debug)]
enum Interface {
    V4(Ipv4Addr),
    V6(u32),
}

fn interfaces(config: &LsdConfig) -> impl Iterator<Item = Interface> {
    let v4 = config.v4.iter().copied().map(Interface::V4);
    v4.chain(config.v6.iter().copied().map(Interface::V6))
}

/// A multicast group on one interface.
struct Group {
    socket: UdpSocket,
    addr: SocketAddr,
}

fn open(interface: Interface, port: u16) -> std::io::Result<Group> {
    let (domain, ip) = match interface {
        Interface::V4(_) => (Domain::IPV4, IpAddr::V4(GROUP_V4)),
        Interface::V6(_) => (Domain::IPV6, IpAddr::V6(GROUP_V6)),
    };
    let addr = SocketAddr::new(ip, port);
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    // Every client on this host listens at the same port.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    match interface {
        Interface::V4(interface) => {
            socket.set_multicast_ttl_v4(1)?;
            socket.set_multicast_loop_v4(true)?;
            if !interface.is_unspecified() {
                socket.set_multicast_if_v4(&interface)?;
            }
            socket.join_multicast_v4(&GROUP_V4, &interface)?;
        }
        Interface::V6(index) => {
            socket.set_only_v6(true)?;
            socket.set_multicast_hops_v6(1)?;
            socket.set_multicast_loop_v6(true)?;
            if index != 0 {
                socket.set_multicast_if_v6(index)?;
            }
            socket.join_multicast_v6(&GROUP_V6, index)?;
        }
    }
    // Bound to the group, so that what others send to this host directly is not taken for multicast.
    socket.bind(&addr.into())?;
    Ok(Group { socket: UdpSocket::from_std(socket.into())?, addr })
}

struct Worker {
    wanted: Arc<Wanted>,
    found: mpsc::Sender<Found>,
    groups: Vec<Arc<Group>>,
    errors: Vec<String>,
    cookie: String,
    /// When each swarm is announced next.
    due: BTreeMap<SwarmId, Instant>,
    /// When it was announced last.
    last: LruCache<SwarmId, Instant>,
    /// Peers heard, for the state.
    heard: LruCache<(SwarmId, SocketAddr), ()>,
}

impl Worker {
    async fn run(mut self) {
        let (searches, mut heard) = mpsc::channel(QUEUE);
        let _readers: Vec<_> = self
            .groups
            .iter()
            .map(|group| {
                AbortOnDropHandle::new(tokio::spawn(read(group.clone(), self.cookie.clone(), searches.clone())))
            })
            .collect();
        loop {
            self.follow(Instant::now());
            let next = self.due.values().min().copied();
            let wanted = self.wanted.clone();
            tokio::select! {
                () = wanted.changed() => {}
                // A sender is kept here, so the channel does not end.
                Some((from, search)) = heard.recv() => self.heard(from, search, Instant::now()),
                () = sleep_until(next.unwrap_or_else(Instant::now).into()), if next.is_some() => {
                    self.announce(Instant::now()).await;
                }
            }
            self.report_state();
        }
    }

    /// Takes up joined swarms and drops left ones.
    fn follow(&mut self, now: Instant) {
        // Without a port there is nothing to announce.
        let mut ports = self.wanted.ports();
        ports.retain(|_, port| port.is_some());
        self.due.retain(|swarm, _| ports.contains_key(swarm));
        for swarm in ports.into_keys() {
            let last = self.last.peek(&swarm).copied();
            self.due.entry(swarm).or_insert_with(|| last.map_or(now, |last| now.max(last + ANNOUNCE_AT_MOST_EVERY)));
        }
    }

    /// Announces the swarms that are due, many in a datagram.
    async fn announce(&mut self, now: Instant) {
        let ports = self.wanted.ports();
        let mut by_port: BTreeMap<u16, Vec<SwarmId>> = BTreeMap::new();
        for (swarm, due) in self.due.iter_mut().filter(|(_, due)| **due <= now) {
            *due = now + ANNOUNCE_EVERY + ANNOUNCE_EVERY.mul_f64(0.1 * rand::random::<f64>());
            self.last.put(*swarm, now);
            if let Some(port) = ports.get(swarm).copied().flatten() {
                by_port.entry(port).or_default().push(*swarm);
            }
        }
        for (port, swarms) in by_port {
            for swarms in swarms.chunks(MAX_SWARMS) {
                let search = Search { port, swarms: swarms.to_vec(), cookie: Some(self.cookie.clone()) };
                self.send(&search).await;
            }
        }
    }

    async fn send(&self, search: &Search) {
        for group in &self.groups {
            if let Err(error) = group.socket.send_to(search.write(group.addr).as_bytes(), group.addr).await {
                tracing::debug!(%error, group = %group.addr, "could not announce to the local network");
            }
        }
    }

    fn heard(&mut self, mut from: SocketAddr, search: Search, now: Instant) {
        from.set_port(search.port);
        let wanted = self.wanted.swarms();
        for swarm in search.swarms.into_iter().filter(|swarm| wanted.contains(swarm)) {
            self.heard.put((swarm, from), ());
            // A full channel drops this find; the peer will announce itself again.
            let _ = self.found.try_send(Found { swarm, addr: PeerAddr::Socket(from), source: NAME });
            if let Some(due) = self.due.get_mut(&swarm) {
                let polite = self.last.peek(&swarm).map_or(now, |last| *last + ANNOUNCE_AT_MOST_EVERY);
                *due = (*due).min(polite.max(now + ANSWER_DELAY));
            }
        }
    }

    fn report_state(&self) {
        let mut parts = vec![match self.groups.len() {
            0 => "off".to_owned(),
            _ => format!("{} swarms announced, {} local peers heard", self.due.len(), self.heard.len()),
        }];
        parts.extend(self.errors.iter().cloned());
        self.wanted.set_state(parts.join("; "));
    }
}

/// Reads what others say, so much of each at a time.
async fn read(group: Arc<Group>, cookie: String, searches: mpsc::Sender<(SocketAddr, Search)>) {
    let mut senders: LruCache<IpAddr, (Instant, u32)> = LruCache::new(MAX_REMEMBERED);
    let mut buffer = [0; MAX_DATAGRAM];
    loop {
        let (len, from) = match group.socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                tracing::debug!(%error, "could not read from the local network");
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        let now = Instant::now();
        let (since, count) = senders.get_or_insert_mut(from.ip(), || (now, 0));
        if now.duration_since(*since) >= Duration::from_secs(1) {
            (*since, *count) = (now, 0);
        }
        *count += 1;
        if *count > MAX_DATAGRAMS {
            continue;
        }
        let search = Search::read(&buffer[..len]).filter(|search| search.cookie.as_ref() != Some(&cookie));
        if let Some(search) = search {
            // What does not fit is dropped, and will be said again.
            let _ = searches.try_send((from, search));
        }
    }
}

#[cfg(test)]
mod tests;
