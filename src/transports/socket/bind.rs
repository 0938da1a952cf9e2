//! Binding TCP and UDP to one port, on several addresses.

use std::io;
use std::net::SocketAddr;

use librqbit_dualstack_sockets::UdpSocket;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

use super::utp;
use super::{ListenError, PortInUse, SocketConfig, UtpPolicy};

/// Connections that the system holds until they are accepted.
const BACKLOG: i32 = 128;
/// How often a port that the system chose for TCP may turn out to be taken elsewhere.
const CHOSEN_TRIES: u16 = 32;

/// One address that is listened on.
pub(super) struct Bound {
    /// With the port that was chosen.
    pub(super) addr: SocketAddr,
    pub(super) tcp: TcpListener,
    pub(super) udp: Option<UdpSocket>,
}

/// Binds the addresses of `config`, at the first ports that are free on all of them.
pub(super) fn bind(config: &SocketConfig) -> Result<Vec<Bound>, ListenError> {
    let chosen = if config.listen.iter().any(|addr| addr.port() == 0) { CHOSEN_TRIES } else { 0 };
    let tries = match config.port_in_use {
        PortInUse::Fail => chosen,
        PortInUse::TryNext(tries) => tries.max(chosen),
    };
    let mut step = 0;
    loop {
        match bind_at(config, step) {
            Err(ListenError::InUse { addr, protocol }) if step < tries => {
                tracing::debug!(%addr, protocol, "port in use, trying the next");
                step += 1;
            }
            result => return result,
        }
    }
}

/// Binds all addresses, those with a port moved on by `step`.
fn bind_at(config: &SocketConfig, step: u16) -> Result<Vec<Bound>, ListenError> {
    let step = if config.port_in_use == PortInUse::Fail { 0 } else { step };
    let mut bound: Vec<Bound> = Vec::new();
    let mut chosen = 0;
    let mut failure = None;
    for addr in &config.listen {
        let mut addr = *addr;
        let any_port = addr.port() == 0;
        addr.set_port(if any_port { chosen } else { addr.port().saturating_add(step) });
        match bind_one(addr, config) {
            Ok(one) => {
                if any_port {
                    chosen = one.addr.port();
                }
                bound.push(one);
            }
            // Also where one address is enough: a port that is ours on some of them only cannot be announced.
            Err(error @ ListenError::InUse { .. }) => return Err(error),
            Err(error) if config.need_all => return Err(error),
            Err(error) => {
                tracing::debug!(%error, "not listening there");
                failure = Some(error);
            }
        }
    }
    match failure {
        Some(error) if bound.is_empty() => Err(error),
        _ => Ok(bound),
    }
}

fn bind_one(addr: SocketAddr, config: &SocketConfig) -> Result<Bound, ListenError> {
    let tcp = bind_tcp(addr).map_err(|source| failed(addr, "TCP", source))?;
    let addr = tcp.local_addr().map_err(|source| failed(addr, "TCP", source))?;
    let udp = match config.utp {
        UtpPolicy::Off => None,
        UtpPolicy::AfterTcp | UtpPolicy::Race => Some(utp::bind(addr).map_err(|source| failed(addr, "UDP", source))?),
    };
    Ok(Bound { addr, tcp, udp })
}

fn bind_tcp(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    if addr.is_ipv6() {
        // IPv4 has listeners of its own.
        socket.set_only_v6(true)?;
    }
    // Connections of an earlier run that linger do not keep the port.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

pub(super) fn failed(addr: SocketAddr, protocol: &'static str, source: io::Error) -> ListenError {
    match source.kind() {
        io::ErrorKind::AddrInUse => ListenError::InUse { addr, protocol },
        _ => ListenError::Failed { addr, protocol, source },
    }
}
