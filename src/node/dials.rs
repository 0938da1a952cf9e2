//! Dialling peers, each in a task of its own.

use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc};
use tracing::debug;

use super::driver::{Event, Parts};
use super::peer::{self, Established};
use super::slot::TorrentSlot;
use super::webseed::WebSeeds;
use crate::transports::Transport;
use crate::types::{PeerAddr, TorrentKey, WirePeerId};
use crate::wire::Handshake;

/// Dials at once.
const DIALS_AT_ONCE: usize = 64;

/// Dials peers and shakes hands with them.
pub(super) struct Dialler {
    transports: Vec<Arc<dyn Transport>>,
    peer_id: WirePeerId,
    events: mpsc::Sender<Event>,
    web_seeds: Arc<WebSeeds>,
    turns: Arc<Semaphore>,
}

impl Dialler {
    pub(super) fn new(parts: &Parts) -> Self {
        Self {
            transports: parts.transports.clone(),
            peer_id: parts.peer_id,
            events: parts.events.clone(),
            web_seeds: parts.web_seeds.clone(),
            turns: Arc::new(Semaphore::new(DIALS_AT_ONCE)),
        }
    }

    /// Dials `addr` with the first of the torrent's handshakes that the peer returns; how that ends comes as an event.
    pub(super) fn dial(&self, slot: &TorrentSlot, addr: PeerAddr) {
        let (torrent, handshakes) = (slot.key, slot.handshakes_for(&addr, self.peer_id));
        if let PeerAddr::Web(url) = &addr {
            let metainfo = slot.metainfo.clone().ok_or_else(|| "the metainfo is not known".to_owned());
            let connected = metainfo.and_then(|metainfo| {
                let swarm = metainfo.info_hash().swarm_id();
                self.web_seeds.connect(torrent, swarm, metainfo, url)
            });
            self.report(torrent, addr, connected);
            return;
        }
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
            let _ = events.send(outcome(torrent, &addr, attempt.await)).await;
        });
    }

    /// Tells how a dial ended that took no time. Never in the driver's own turn: its queue may be full.
    fn report(&self, torrent: TorrentKey, addr: PeerAddr, dialled: Result<Established, String>) {
        let events = self.events.clone();
        tokio::spawn(async move { events.send(outcome(torrent, &addr, dialled)).await });
    }
}

fn outcome(torrent: TorrentKey, addr: &PeerAddr, dialled: Result<Established, String>) -> Event {
    dialled.map_or_else(
        |error| {
            debug!(%addr, error, "dial failed");
            Event::DialFailed { torrent, addr: addr.clone() }
        },
        Event::Established,
    )
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
