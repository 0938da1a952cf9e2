//! Connections: made, heard, closed.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use tokio::sync::mpsc;
use tracing::debug;

use super::{Conn, Driver, Event};
use crate::discovery::{Found, trackers};
use crate::engine::{DisconnectReason, Input};
use crate::node::peer::{self, Established, Incoming, Outgoing};
use crate::node::tally::Tally;
use crate::types::{BlockSpan, ConnId, PeerAddr};
use crate::wire::Decoder;

impl Driver {
    pub(super) fn found(&mut self, now: Instant, found: Found) {
        let Found { swarm, addr, source } = found;
        let own = match &addr {
            PeerAddr::Libp2p(addr) => addr.ends_with(&self.parts.own_name),
            PeerAddr::Socket(addr) => self.parts.own_addrs.contains(addr),
            PeerAddr::Web(_) | PeerAddr::Memory(_) => false,
        };
        let Some(torrent) = self.parts.meeting.swarms.find(swarm).filter(|_| !own) else { return };
        let Some(slot) = self.torrents.get_mut(&torrent) else { return };
        // A source that has not yet heard that the swarm is private may still name peers of it.
        if slot.is_private() && source != trackers::NAME {
            return;
        }
        debug!(%addr, source, "peer found");
        slot.found(&addr, swarm);
        self.tell(now, Input::PeerFound { torrent, addr });
    }

    pub(super) fn connected(&mut self, now: Instant, peer: Established) {
        let Some(slot) = self.torrents.get(&peer.torrent) else { return };
        let conn = ConnId(self.next_conn);
        self.next_conn += 1;
        let mut decoder = Decoder::new();
        if let Some(metainfo) = &slot.metainfo {
            decoder.set_max_bitfield(metainfo.layout().piece_count());
        }
        let (read_half, write_half) = tokio::io::split(peer.io);
        let (queue, queued) = mpsc::channel(peer::WRITER_QUEUE);
        let events = self.parts.events.clone();
        slot.tally.peers.fetch_add(1, Relaxed);
        tokio::spawn(peer::write_queue(conn, write_half, queued, slot.tally.storage.clone(), events.clone()));
        let reader = tokio::spawn(peer::read_frames(conn, read_half, decoder, self.receive_budget.clone(), events))
            .abort_handle();
        self.conns.insert(conn, Conn { torrent: peer.torrent, queue, reader });
        let Established { torrent, addr, identity, handshake, outgoing, .. } = peer;
        self.tell(now, Input::Connected { conn, torrent, addr, identity, handshake, outgoing });
    }

    pub(super) fn frames(&mut self, now: Instant, conn: ConnId, frames: Vec<Incoming>) {
        for frame in frames {
            // What a closed connection still had in its buffers is of no use.
            if !self.conns.contains_key(&conn) {
                return;
            }
            match frame {
                Incoming::Message(message) => self.tell(now, Input::Message { conn, message }),
                Incoming::Block(block) => {
                    self.count(conn, |tally| tally.downloaded.fetch_add(block.data.len() as u64, Relaxed));
                    self.parts.engine.handle(now, Input::Block { conn, span: block.span });
                    self.carry_out(Some(block));
                }
            }
        }
    }

    pub(super) fn written(&mut self, now: Instant, conn: ConnId, blocks: Vec<(BlockSpan, bool)>) {
        if !self.conns.contains_key(&conn) {
            return;
        }
        for (span, sent) in blocks {
            if sent {
                self.count(conn, |tally| tally.uploaded.fetch_add(span.len.into(), Relaxed));
            }
            self.tell(now, if sent { Input::BlockSent { conn, span } } else { Input::BlockUnreadable { conn, span } });
        }
    }

    pub(super) fn gone(&mut self, now: Instant, conn: ConnId) {
        self.count(conn, |tally| tally.peers.fetch_sub(1, Relaxed));
        if let Some(gone) = self.conns.remove(&conn) {
            gone.reader.abort();
            self.tell(now, Input::Disconnected { conn });
        }
    }

    /// Counts something of a connection's torrent.
    fn count<T>(&self, conn: ConnId, add: impl FnOnce(&Tally) -> T) {
        if let Some(slot) = self.conns.get(&conn).and_then(|conn| self.torrents.get(&conn.torrent)) {
            add(&slot.tally);
        }
    }

    pub(super) fn queue(&mut self, conn: ConnId, outgoing: Outgoing) {
        let Some(peer) = self.conns.get(&conn) else { return };
        if peer.queue.try_send(outgoing).is_err() {
            self.disconnect(conn, &DisconnectReason::Protocol("does not read what is sent to it".to_owned()));
        }
    }

    /// Stops both tasks of a connection: the reader at once, the writer after what is queued; the writer's end
    /// brings [`Event::Gone`].
    pub(super) fn disconnect(&mut self, conn: ConnId, reason: &DisconnectReason) {
        let Some(peer) = self.conns.get(&conn) else { return };
        debug!(conn = conn.0, torrent = peer.torrent.0, %reason, "disconnecting");
        peer.reader.abort();
        let events = self.parts.events.clone();
        tokio::spawn(async move { events.send(Event::Gone { conn }).await });
    }
}
