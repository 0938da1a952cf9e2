//! Accepting: who comes in, and how far.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::link::{Carrier, Link};
use super::slots::Slots;
use super::utp::Endpoint;
use crate::transports::PeerStream;
use crate::transports::mse::{self, Encryption, ServedSwarms};
use crate::types::{PeerAddr, PeerIdentity};

/// How long a connection may take until it is known to speak BitTorrent and is handed on.
pub(super) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections that may be at that stage; those beyond are closed.
const MAX_HANDSHAKES: usize = 128;
/// How long to wait after the system refused to accept: it is out of descriptors or memory, and would be again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// What every listener lets connections through.
pub(super) struct Gate {
    encryption: Encryption,
    swarms: ServedSwarms,
    slots: Slots,
    handshakes: Arc<Semaphore>,
    accepted: mpsc::Sender<PeerStream>,
    stop: CancellationToken,
}

impl Gate {
    pub(super) fn new(
        encryption: Encryption,
        swarms: ServedSwarms,
        slots: Slots,
        accepted: mpsc::Sender<PeerStream>,
        stop: CancellationToken,
    ) -> Self {
        Self { encryption, swarms, slots, handshakes: Arc::new(Semaphore::new(MAX_HANDSHAKES)), accepted, stop }
    }

    /// Accepts from `listener` until stopped.
    pub(super) async fn accept_tcp(self: Arc<Self>, listener: TcpListener) {
        let stop = self.stop.clone();
        let accept = async {
            loop {
                match listener.accept().await {
                    Ok((stream, from)) => {
                        // Only latency is lost where this fails.
                        let _ = stream.set_nodelay(true);
                        self.clone().admit(Carrier::Tcp(stream), from);
                    }
                    Err(error) if is_of_connection(&error) => tracing::debug!(%error, "a connection ended early"),
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept BitTorrent connections for now");
                        sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = accept => {}
        }
    }

    /// Accepts from `endpoint` until stopped.
    pub(super) async fn accept_utp(self: Arc<Self>, endpoint: Endpoint) {
        let stop = self.stop.clone();
        let accept = async {
            while let Ok((stream, from)) = endpoint.accept().await {
                self.clone().admit(Carrier::Utp(stream), from);
            }
        };
        tokio::select! {
            // The socket ends with the same token.
            biased;
            () = stop.cancelled() => {}
            () = accept => tracing::warn!("the uTP socket failed: no more connections over uTP"),
        }
    }

    /// Gives a new connection a task, or closes it.
    fn admit(self: Arc<Self>, carrier: Carrier, from: SocketAddr) {
        let from = SocketAddr::new(from.ip().to_canonical(), from.port());
        let slot = match self.slots.take(from.ip()) {
            Ok(slot) => slot,
            Err(reason) => {
                tracing::debug!(%from, reason, "connection refused");
                return;
            }
        };
        let Ok(turn) = self.handshakes.clone().try_acquire_owned() else {
            tracing::debug!(%from, "connection refused: too many handshakes at once");
            return;
        };
        let stop = self.stop.clone();
        let welcome = async move {
            let _turn = turn;
            if let Err(reason) = self.welcome(Link::accepted(carrier, slot), from).await {
                tracing::debug!(%from, %reason, "connection closed");
            }
        };
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = welcome => {}
            }
        });
    }

    /// Finds out that a connection speaks BitTorrent, and hands it on.
    pub(super) async fn welcome<S>(&self, io: S, from: SocketAddr) -> Result<(), String>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let handed_on = async {
            let io = mse::accept(io, &self.encryption, &self.swarms).await.map_err(|error| error.to_string())?;
            let stream =
                PeerStream { io: Box::new(io), addr: PeerAddr::Socket(from), identity: PeerIdentity::Ip(from.ip()) };
            self.accepted.send(stream).await.map_err(|_| "this node takes no more connections".to_owned())
        };
        timeout(HANDSHAKE_TIMEOUT, handed_on)
            .await
            .unwrap_or_else(|_| Err(format!("no BitTorrent handshake within {HANDSHAKE_TIMEOUT:?}")))
    }
}

/// Whether accepting failed because of the one connection, not because of this process or system.
fn is_of_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted, NetworkDown, NetworkUnreachable, TimedOut};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionReset | Interrupted | NetworkDown | NetworkUnreachable | TimedOut
    )
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    const PLAIN: &[u8; 20] = b"\x13BitTorrent protocol";

    fn gate(queue: usize) -> (Gate, mpsc::Receiver<PeerStream>) {
        let (accepted, incoming) = mpsc::channel(queue);
        let slots = Slots::new(9, 9);
        let gate = Gate::new(Encryption::default(), ServedSwarms::new(), slots, accepted, CancellationToken::new());
        (gate, incoming)
    }

    fn from() -> SocketAddr {
        "127.0.0.9:1".parse().unwrap()
    }

    /// Sends `bytes` at one a second, for ever.
    fn drip(mut io: DuplexStream, bytes: impl Iterator<Item = u8> + Send + 'static) {
        tokio::spawn(async move {
            for byte in bytes {
                if io.write_all(&[byte]).await.is_err() {
                    return;
                }
                sleep(Duration::from_secs(1)).await;
            }
        });
    }

    #[tokio::test(start_paused = true)]
    async fn who_drips_or_says_nothing_is_closed_at_the_deadline() {
        let (gate, mut incoming) = gate(1);
        let (_silent, far) = duplex(4096);
        assert!(gate.welcome(far, from()).await.unwrap_err().contains("no BitTorrent handshake within"));
        let (near, far) = duplex(4096);
        drip(near, PLAIN.iter().copied().cycle());
        assert!(gate.welcome(far, from()).await.unwrap_err().contains("no BitTorrent handshake within"));
        let (near, far) = duplex(4096);
        drip(near, std::iter::repeat(0xAB));
        assert!(gate.welcome(far, from()).await.unwrap_err().contains("no BitTorrent handshake within"));
        assert!(incoming.try_recv().is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_nobody_takes_is_closed() {
        let (gate, mut incoming) = gate(1);
        for full in [false, true] {
            let (mut near, far) = duplex(4096);
            near.write_all(PLAIN).await.unwrap();
            assert_eq!(gate.welcome(far, from()).await.is_err(), full);
            if full {
                assert_eq!(near.read(&mut [0]).await.unwrap(), 0, "the stream was not closed");
            }
        }
        let taken = incoming.recv().await.unwrap();
        assert_eq!((taken.addr, taken.identity), (PeerAddr::Socket(from()), PeerIdentity::Ip(from().ip())));
    }
}
