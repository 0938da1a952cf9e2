//! Dialling peers, each in a task of its own.

use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc};
use tracing::debug;

use super::driver::{Event, Parts};
use super::peer::{self, Established, Greeting};
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
        let (torrent, greetings) = (slot.key, slot.greetings_for(&addr, self.peer_id));
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
                for greeting in greetings {
                    match meet(&*transport, torrent, &addr, &greeting).await {
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

/// Dials and shakes hands. A peer that is offered v2 may do neither: libtorrent does not change over an encrypted stream,
/// and says that it would, so it is dialled anew in the v2 swarm; and where it does not know yet that a torrent is
/// hybrid, it closes the stream, so it is dialled anew without an offer.
async fn meet(
    transport: &dyn Transport,
    torrent: TorrentKey,
    addr: &PeerAddr,
    greeting: &Greeting,
) -> Result<Established, String> {
    let met = shake_hands(transport, torrent, addr, greeting).await;
    let Some(v2) = greeting.upgrade else { return met.map_err(Unmet::reason) };
    let handshake = &greeting.handshake;
    let without_offer = Greeting { handshake: handshake.without_hashes(), upgrade: None };
    match met {
        Ok(met) if met.handshake.swarm == v2 || !met.handshake.supports_hashes() => return Ok(met),
        Ok(met) => {
            drop(met);
            let in_v2 = Greeting { handshake: Handshake::new(v2, handshake.peer_id), upgrade: None };
            if let Ok(met) = shake_hands(transport, torrent, addr, &in_v2).await {
                return Ok(met);
            }
        }
        Err(Unmet::NotReached(reason)) => return Err(reason),
        Err(Unmet::Refused(_)) => {}
    }
    shake_hands(transport, torrent, addr, &without_offer).await.map_err(Unmet::reason)
}

/// Why no hands were shaken.
enum Unmet {
    /// There was no stream.
    NotReached(String),
    /// There was, and the peer closed it, or answered something else.
    Refused(String),
}

impl Unmet {
    fn reason(self) -> String {
        match self {
            Self::NotReached(reason) | Self::Refused(reason) => reason,
        }
    }
}

async fn shake_hands(
    transport: &dyn Transport,
    torrent: TorrentKey,
    addr: &PeerAddr,
    greeting: &Greeting,
) -> Result<Established, Unmet> {
    let stream = transport.dial(addr.clone(), greeting.handshake.swarm).await;
    let stream = stream.map_err(|error| Unmet::NotReached(error.to_string()))?;
    peer::greet(stream, torrent, greeting).await.map_err(|error| Unmet::Refused(error.to_string()))
}
