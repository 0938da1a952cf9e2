//! Streams inside one process, for tests of what lies above a transport.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use futures::future::BoxFuture;
use tokio::sync::mpsc;

use super::{DialError, PeerStream, Transport};
use crate::types::{PeerAddr, PeerIdentity, SwarmId};

/// Streams that may wait to be accepted at one port.
const ACCEPT_QUEUE: usize = 64;
/// Bytes that one direction of a stream holds before its writer waits.
const STREAM_BUFFER: usize = 256 * 1024;

/// A network of numbered ports.
#[derive(Clone, Default)]
pub struct MemoryNetwork {
    ports: Arc<Mutex<HashMap<u64, mpsc::Sender<PeerStream>>>>,
}

impl MemoryNetwork {
    /// A network with nobody on it.
    pub fn new() -> Self {
        Self::default()
    }

    /// Joins the network at `port`, in place of whoever had it: a transport to dial with, and the streams that others
    /// dial. Dropping the receiver leaves the network.
    pub fn join(&self, port: u64) -> (MemoryTransport, mpsc::Receiver<PeerStream>) {
        let (accept, incoming) = mpsc::channel(ACCEPT_QUEUE);
        self.ports.lock().unwrap_or_else(PoisonError::into_inner).insert(port, accept);
        (MemoryTransport { network: self.clone(), port }, incoming)
    }

    fn connect(&self, from: u64, addr: PeerAddr) -> Result<PeerStream, DialError> {
        let error = |addr: &PeerAddr, reason: &str| DialError { addr: addr.clone(), reason: reason.to_owned() };
        let PeerAddr::Memory(to) = addr else {
            return Err(error(&addr, "expected an address of the in-memory network"));
        };
        let accept = self.ports.lock().unwrap_or_else(PoisonError::into_inner).get(&to).cloned();
        let Some(accept) = accept else { return Err(error(&addr, "nobody listens there")) };
        let (near, far) = tokio::io::duplex(STREAM_BUFFER);
        let caller =
            PeerStream { io: Box::new(far), addr: PeerAddr::Memory(from), identity: PeerIdentity::Memory(from) };
        match accept.try_send(caller) {
            Ok(()) => Ok(PeerStream { io: Box::new(near), identity: PeerIdentity::Memory(to), addr }),
            Err(mpsc::error::TrySendError::Full(_)) => Err(error(&addr, "its accept queue is full")),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(error(&addr, "nobody listens there")),
        }
    }
}

/// One port of a [`MemoryNetwork`].
#[derive(Clone)]
pub struct MemoryTransport {
    network: MemoryNetwork,
    port: u64,
}

impl Transport for MemoryTransport {
    fn can_dial(&self, addr: &PeerAddr) -> bool {
        matches!(addr, PeerAddr::Memory(_))
    }

    fn dial(&self, addr: PeerAddr, _swarm: SwarmId) -> BoxFuture<'static, Result<PeerStream, DialError>> {
        let result = self.network.connect(self.port, addr);
        Box::pin(async move { result })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    const SWARM: SwarmId = SwarmId([5; 20]);

    #[tokio::test]
    async fn both_ends_talk_and_know_each_other() {
        let network = MemoryNetwork::new();
        let (alice, _) = network.join(1);
        let (_bob, mut incoming) = network.join(2);
        let mut near = alice.dial(PeerAddr::Memory(2), SWARM).await.unwrap();
        let mut far = incoming.recv().await.unwrap();
        assert_eq!((&near.identity, &far.identity), (&PeerIdentity::Memory(2), &PeerIdentity::Memory(1)));
        near.io.write_all(b"ping").await.unwrap();
        let mut got = [0; 4];
        far.io.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"ping");
        drop(far);
        assert_eq!(near.io.read(&mut got).await.unwrap(), 0, "a dropped end reads as closed");
    }

    #[tokio::test]
    async fn nobody_there_and_a_full_queue_are_errors() {
        let network = MemoryNetwork::new();
        let (alice, gone) = network.join(1);
        drop(gone);
        assert!(alice.dial(PeerAddr::Memory(9), SWARM).await.is_err());
        assert!(alice.dial(PeerAddr::Memory(1), SWARM).await.is_err());
        let (_bob, _incoming) = network.join(2);
        for _ in 0..ACCEPT_QUEUE {
            assert!(alice.dial(PeerAddr::Memory(2), SWARM).await.is_ok());
        }
        assert!(alice.dial(PeerAddr::Memory(2), SWARM).await.err().unwrap().reason.contains("full"));
    }
}
