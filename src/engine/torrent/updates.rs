//! Where those meet who follow a dataset: the swarm of its original InfoSig, in which no content is exchanged. Peers
//! there may be at any version; they tell each other of the newest one (`knot_update`).

use bytes::Bytes;

use super::Torrent;
use super::messages::Violation;
use crate::engine::fetch_metainfo::{Carrier, MetainfoFetch};
use crate::engine::manager::Context;
use crate::engine::{Meeting, Output};
use crate::types::{ConnId, PeerAddr};
use crate::wire::{Message, UpdateMessage};

impl Torrent {
    /// What is to be exchanged here from now on.
    pub(in crate::engine) fn meet(&mut self, ctx: &mut Context<'_>, meeting: Meeting) {
        let Meeting { id, search, envelope } = meeting;
        self.meets = true;
        match (search, self.search.is_some()) {
            (true, false) if self.content.is_none() => self.search = Some(MetainfoFetch::new(id)),
            (false, true) => self.search = None,
            _ => {}
        }
        if self.lent != envelope {
            self.lent = envelope;
            let conns: Vec<_> = self.peers.keys().copied().collect();
            conns.into_iter().for_each(|conn| self.say_extensions(ctx, conn));
        }
        self.dial(ctx);
    }

    /// The newest record is this one: everybody hears of it who does not know.
    pub(in crate::engine) fn tell_record(&mut self, ctx: &mut Context<'_>, record: Bytes) {
        self.newest_record = Some(record);
        let conns: Vec<_> = self.peers.keys().copied().collect();
        conns.into_iter().for_each(|conn| self.tell_newest(ctx, conn));
    }

    /// Sends a record that a peer asked for; nothing if there is none.
    pub(in crate::engine) fn send_record(&mut self, ctx: &mut Context<'_>, conn: ConnId, record: Option<Bytes>) {
        self.say(ctx, conn, &UpdateMessage::Record(record));
    }

    /// Asks every peer for the record of a version.
    pub(in crate::engine) fn ask_record(&mut self, ctx: &mut Context<'_>, seq: u64) {
        let conns: Vec<_> = self.peers.keys().copied().collect();
        conns.into_iter().for_each(|conn| self.say(ctx, conn, &UpdateMessage::Ask { seq }));
    }

    /// A peer has said what it can: if it follows versions, it hears of the newest.
    pub(super) fn met(&mut self, ctx: &mut Context<'_>, conn: ConnId) {
        let Some(peer) = self.peers.get_mut(&conn).filter(|peer| self.meets && peer.update_id != 0) else { return };
        let addr = match (&peer.addr, peer.dialable()) {
            (PeerAddr::Socket(_), dialable) => dialable.map(PeerAddr::Socket),
            (addr, _) => Some(addr.clone()),
        };
        let is_new = !std::mem::replace(&mut peer.met, true);
        if let (Some(addr), true) = (addr, is_new) {
            ctx.out.push_back(Output::PeerMet { torrent: self.key, addr });
        }
        if is_new {
            self.tell_newest(ctx, conn);
        }
    }

    fn tell_newest(&mut self, ctx: &mut Context<'_>, conn: ConnId) {
        let newest = self.newest_record.clone();
        let Some(peer) = self.peers.get_mut(&conn).filter(|peer| peer.met) else { return };
        let knows = newest.is_some() && peer.knows_record == newest;
        if !knows {
            peer.knows_record.clone_from(&newest);
            self.say(ctx, conn, &UpdateMessage::Record(newest));
        }
    }

    fn say(&mut self, ctx: &mut Context<'_>, conn: ConnId, message: &UpdateMessage) {
        if let Some(peer) = self.peers.get_mut(&conn).filter(|peer| self.meets && peer.update_id != 0) {
            let (id, payload) = (peer.update_id, message.encode());
            peer.send(ctx.now, ctx.out, Message::Extended { id, payload });
        }
    }

    /// A peer says something about versions. Of one that says too much, only the last record is heard, later: nobody
    /// says again which version is the newest.
    pub(super) fn update_message(
        &mut self,
        ctx: &mut Context<'_>,
        conn: ConnId,
        payload: &Bytes,
    ) -> Result<(), Violation> {
        let message = UpdateMessage::decode(payload).map_err(|error| error.to_string())?;
        let Some(peer) = self.peers.get_mut(&conn).filter(|_| self.meets) else { return Ok(()) };
        if !peer.may_tell_updates(ctx.now) {
            if let UpdateMessage::Record(Some(record)) = message {
                peer.late_record = Some(record);
            }
            return Ok(());
        }
        let torrent = self.key;
        ctx.out.push_back(match message {
            UpdateMessage::Ask { seq } => Output::RecordAsked { torrent, conn, seq },
            UpdateMessage::Record(record) => {
                peer.knows_record = record.clone().or(peer.knows_record.take());
                Output::RecordHeard { torrent, record }
            }
        });
        Ok(())
    }

    /// Hears what peers have said last of those who said too much.
    pub(super) fn hear_late(&mut self, ctx: &mut Context<'_>) {
        for peer in self.peers.values_mut() {
            if peer.late_record.is_some() && peer.may_tell_updates(ctx.now) {
                let record = peer.late_record.take();
                peer.knows_record.clone_from(&record);
                ctx.out.push_back(Output::RecordHeard { torrent: self.key, record });
            }
        }
    }

    /// What peers may have of the metainfo.
    pub(super) fn shared(&self, carrier: Carrier) -> Option<&Bytes> {
        match (&self.content, carrier) {
            (Some(content), _) => content.shared(carrier),
            (None, Carrier::Envelope) => self.lent.as_ref(),
            (None, Carrier::Info) => None,
        }
    }
}
