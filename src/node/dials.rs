//! Dialling peers, each in a task of its own.

use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc};
use tracing::debug;

use super::driver::Event;
use super::peer::{self, Established};
use crate::transports::Transport;
use crate::types::{PeerAddr, TorrentKey};
use crate::wire::Handshake;

/// Dials at once.
const DIALS_AT_ONCE: usize = 64;

/// Dials peers and shakes hands with them.
pub(super) struct Dialler {
    pub(super) transports: Vec<Arc<dyn Transport>>,
    pub(super) events: mpsc::Sender<Event>,
    turns: Arc<Semaphore>,
}

impl Dialler {
    pub(super) fn new(transports: Vec<Arc<dyn Transport>>, events: mpsc::Sender<Event>) -> Self {
        Self { transports, events, turns: Arc::new(Semaphore::new(DIALS_AT_ONCE)) }
    }

    /// Dials `addr` with the first of `handshakes` that the peer returns; how that ends comes as an event.
    pub(super) fn dial(&self, torrent: TorrentKey, addr: PeerAddr, handshakes: Vec<Handshake>) {
        let transport = self.transports.iter().find(|transport| transport.can_dial(&addr)).cloned();
        let (events, turns) = (self.events.clone(), self.turns.clone());
        tokio::spawn(async move {
            let attempt = async {
                let _turn = turns.acquire().await.map_err(|error| error.to_string())?;
                let transport = transport.ok_or("no transport for this kind of address")?;
                let mut refused = "no swarm to look for the peer in".to_owned();
                for handshake in handshakes {
                    match meet(&*transport, torrent, &addr, handshake).await {
                        Ok(established) => return Ok(established),
                        Err(error) => refused = error,
                    }
                }
                Err(refused)
            };
            let event = attempt.await.map_or_else(
                |error: String| {
                    debug!(%addr, error, "dial failed");
                    Event::DialFailed { torrent, addr: addr.clone() }
                },
                Event::Established,
            );
            let _ = events.send(event).await;
        });
    }
}

async fn meet(
    transport: &dyn Transport,
    torrent: TorrentKey,
    addr: &PeerAddr,
    handshake: Handshake,
) -> Result<Established, String> {
    let stream = transport.dial(addr.clone(), handshake.swarm).await.map_err(|error| error.to_string())?;
    peer::greet(stream, torrent, &handshake).await.map_err(|error| error.to_string())
}
