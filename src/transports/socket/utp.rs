//! uTP (BEP 29), by librqbit-utp.

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use librqbit_dualstack_sockets::{BindOpts, UdpSocket};
use librqbit_utp::{SocketOpts, UtpSocketUdp, UtpStream};
use socket2::SockRef;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// How long one attempt to connect waits for an answer. The library sends a single packet for it.
const SYN_TIMEOUT: Duration = Duration::from_secs(2);
/// Attempts: the packet or its answer may be lost.
const SYN_TRIES: u32 = 3;
/// How long a peer may be silent. The library counts idle time too, so it must exceed the two minutes after which
/// BitTorrent peers send a keep-alive.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(150);
/// What the system may hold for the socket, where it allows so much.
const RECEIVE_BUFFER: usize = 4 * 1024 * 1024;
/// Streams that this side may dial beside those that it accepts.
const MAX_DIALLED: usize = 256;

/// A UDP socket at `addr`.
pub(super) fn bind(addr: SocketAddr) -> io::Result<UdpSocket> {
    let opts = BindOpts { request_dualstack: false, reuseport: false, device: None };
    let udp = UdpSocket::bind_udp(addr, opts).map_err(|error| match error {
        librqbit_dualstack_sockets::Error::Bind(error) => error,
        other => io::Error::other(other),
    })?;
    if let Err(error) = SockRef::from(udp.socket()).set_recv_buffer_size(RECEIVE_BUFFER) {
        tracing::debug!(%error, "cannot enlarge the UDP receive buffer");
    }
    Ok(udp)
}

/// A UDP socket that carries uTP streams.
#[derive(Clone)]
pub(super) struct Endpoint {
    socket: Arc<UtpSocketUdp>,
}

impl Endpoint {
    /// Runs uTP on `udp`, for at most `accepted` streams of peers; `stop` ends it and all of its streams.
    pub(super) fn start(udp: UdpSocket, accepted: usize, stop: CancellationToken) -> io::Result<Self> {
        let opts = SocketOpts {
            // Requests are small and must leave at once.
            disable_nagle: true,
            remote_inactivity_timeout: Some(SILENCE_TIMEOUT),
            max_live_vsocks: NonZeroUsize::new(accepted + MAX_DIALLED),
            cancellation_token: stop,
            ..SocketOpts::default()
        };
        let socket = UtpSocketUdp::new_with_opts(udp, Default::default(), opts).map_err(io::Error::other)?;
        Ok(Self { socket })
    }

    /// Where it is bound.
    pub(super) fn addr(&self) -> SocketAddr {
        self.socket.bind_addr()
    }

    /// The next stream that a peer opens.
    pub(super) async fn accept(&self) -> io::Result<(UtpStream, SocketAddr)> {
        let stream = self.socket.accept().await.map_err(io::Error::other)?;
        let from = stream.remote_addr();
        Ok((stream, from))
    }

    /// Opens a stream to `addr`.
    pub(super) async fn connect(&self, addr: SocketAddr) -> Result<UtpStream, String> {
        for _ in 0..SYN_TRIES {
            match timeout(SYN_TIMEOUT, self.socket.connect(addr)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => return Err(error.to_string()),
                Err(_) => {}
            }
        }
        Err(format!("no answer within {:?}", SYN_TIMEOUT * SYN_TRIES))
    }
}
