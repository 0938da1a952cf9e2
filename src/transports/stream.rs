//! What every transport offers.

use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::types::{PeerAddr, PeerIdentity, SwarmId};

/// A reliable byte stream to a peer.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for S {}

/// A byte stream, with who is at its other end.
pub struct PeerStream {
    /// Bytes to and from the peer; nothing has been sent yet.
    pub io: Box<dyn ByteStream>,
    /// Where the peer was dialled, or came from.
    pub addr: PeerAddr,
    /// What the transport proved about it.
    pub identity: PeerIdentity,
}

/// A way to reach peers. Every dial has a bound in time.
pub trait Transport: Send + Sync {
    /// Whether `addr` is of this transport's kind.
    fn can_dial(&self, addr: &PeerAddr) -> bool;

    /// Opens a stream to `addr`, for the handshake of `swarm`: encryption to BitTorrent peers is keyed with it, the
    /// other transports need not know it.
    ///
    /// # Errors
    /// When nobody answers there in time, or the peer is not who the address says.
    fn dial(&self, addr: PeerAddr, swarm: SwarmId) -> BoxFuture<'static, Result<PeerStream, DialError>>;
}

/// Why a dial failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot reach {addr}: {reason}")]
pub struct DialError {
    /// Where.
    pub addr: PeerAddr,
    /// Why.
    pub reason: String,
}
