//! What must hold at every step, seen from outside the engines.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

use super::Storage;
use crate::engine::{Input, Output};
use crate::types::{BlockSpan, ConnId};
use crate::wire::Message;

/// How long the answer to a cancelled request is waited for.
const TOMBSTONE_LIFE: Duration = Duration::from_secs(30);

/// Watches every input and output of every node.
#[derive(Default)]
pub(in crate::engine) struct Checker {
    /// What each end knows of the other, and asked of it.
    ends: BTreeMap<ConnId, Watched>,
    /// Requests of each node in flight.
    asked: BTreeMap<(usize, BlockSpan), BTreeSet<ConnId>>,
    /// Requests sent, by node.
    pub(in crate::engine) requests: BTreeMap<usize, Vec<(Instant, BlockSpan)>>,
    /// Cancelled long ago, never answered.
    given_up: BTreeSet<(ConnId, BlockSpan)>,
    /// Cancels sent, by all nodes.
    pub(in crate::engine) cancels: u64,
    /// Of everything that happened, where a test compares runs.
    trace: Option<DefaultHasher>,
}

#[derive(Default)]
struct Watched {
    node: usize,
    /// Every request is answered (BEP 6).
    fast: bool,
    choked: bool,
    allowed: BTreeSet<u32>,
    asked: BTreeSet<BlockSpan>,
    /// Cancelled, answer not seen yet.
    cancelled: BTreeMap<BlockSpan, Instant>,
}

/// What engines tell each other that they queue.
const REQUEST_QUEUE: usize = 2000;

impl Checker {
    /// From now on everything is noted.
    pub(in crate::engine) fn start_trace(&mut self) {
        self.trace = Some(DefaultHasher::new());
    }

    /// A fingerprint of everything that happened since the trace was started.
    pub(in crate::engine) fn trace(&self) -> Option<u64> {
        self.trace.as_ref().map(DefaultHasher::finish)
    }

    fn note(&mut self, start: Instant, now: Instant, node: usize, what: &dyn std::fmt::Debug) {
        if let Some(trace) = &mut self.trace {
            (now - start, node, format!("{what:?}")).hash(trace);
        }
    }

    pub(in crate::engine) fn input(&mut self, start: Instant, now: Instant, node: usize, input: &Input) {
        if !matches!(input, Input::Open { .. }) {
            self.note(start, now, node, input);
        }
        match input {
            Input::Connected { conn, handshake, .. } => {
                let fast = handshake.supports_fast();
                self.ends.insert(*conn, Watched { node, fast, choked: true, ..Watched::default() });
            }
            Input::Disconnected { conn } => self.closed(*conn),
            Input::Message { conn, message } => self.heard(now, *conn, message),
            _ => {}
        }
    }

    fn heard(&mut self, now: Instant, conn: ConnId, message: &Message) {
        let Some(end) = self.ends.get_mut(&conn) else { return };
        match message {
            Message::Choke => {
                end.choked = true;
                if !end.fast {
                    // Everything is dropped, but for what is on its way.
                    let dropped = std::mem::take(&mut end.asked);
                    for span in &dropped {
                        if let Some(conns) = self.asked.get_mut(&(end.node, *span)) {
                            conns.remove(&conn);
                        }
                    }
                    end.cancelled.extend(dropped.into_iter().map(|span| (span, now)));
                }
            }
            Message::Unchoke => end.choked = false,
            Message::AllowedFast(piece) => drop(end.allowed.insert(piece.0)),
            Message::Reject(span) => self.answered(conn, *span),
            _ => {}
        }
    }

    pub(in crate::engine) fn block_arrives(&mut self, conn: ConnId, span: BlockSpan) {
        self.answered(conn, span);
    }

    /// Exactly one answer for each request, with the fast extension.
    fn answered(&mut self, conn: ConnId, span: BlockSpan) {
        let Some(end) = self.ends.get_mut(&conn) else { return };
        let was_asked = end.asked.remove(&span);
        // Without the fast extension a block may come late, and twice when it was asked for again.
        let was_cancelled =
            if end.fast { end.cancelled.remove(&span).is_some() } else { end.cancelled.contains_key(&span) };
        let late = end.fast && self.given_up.contains(&(conn, span));
        assert!(was_asked || was_cancelled || late, "an answer without a request: {conn:?} {span:?}");
        if let Some(conns) = self.asked.get_mut(&(end.node, span)) {
            conns.remove(&conn);
        }
    }

    pub(in crate::engine) fn closed(&mut self, conn: ConnId) {
        if let Some(end) = self.ends.remove(&conn) {
            for span in end.asked.iter().chain(end.cancelled.keys()) {
                if let Some(conns) = self.asked.get_mut(&(end.node, *span)) {
                    conns.remove(&conn);
                }
            }
        }
    }

    pub(in crate::engine) fn output(
        &mut self,
        start: Instant,
        now: Instant,
        node: usize,
        output: &Output,
        storage: &Storage,
    ) {
        if !matches!(output, Output::MetainfoFetched { .. }) {
            self.note(start, now, node, output);
        }
        let Output::Send { conn, message } = output else { return };
        match message {
            Message::Request(span) => self.requested(now, node, *conn, *span, storage),
            Message::Cancel(span) => {
                self.cancels += 1;
                let end = self.ends.get_mut(conn).expect("a connection");
                assert!(end.asked.remove(span), "a cancel without a request: {span:?}");
                end.cancelled.insert(*span, now);
                if let Some(conns) = self.asked.get_mut(&(node, *span)) {
                    conns.remove(conn);
                }
            }
            _ => {}
        }
    }

    fn requested(&mut self, now: Instant, node: usize, conn: ConnId, span: BlockSpan, storage: &Storage) {
        let end = self.ends.get_mut(&conn).expect("a connection");
        assert_eq!(end.node, node);
        assert!(!end.choked || end.allowed.contains(&span.piece.0), "asked while choked: {span:?}");
        assert!(!storage.is_verified(span), "asked for what is here: {span:?}");
        // A peer that never answers is not waited for for ever.
        let over = end.cancelled.extract_if(.., |_, at| end.fast && now - *at >= TOMBSTONE_LIFE);
        self.given_up.extend(over.map(|(span, _)| (conn, span)));
        assert!(
            !end.fast || !end.cancelled.contains_key(&span),
            "asked again before the answer to the cancel: {span:?}"
        );
        assert!(end.asked.insert(span), "asked twice of one peer: {span:?}");
        let cancelled = if end.fast { end.cancelled.len() } else { 0 };
        assert!(
            end.asked.len() + cancelled <= if end.fast { REQUEST_QUEUE } else { 250 },
            "more requests than the peer queues"
        );
        let conns = self.asked.entry((node, span)).or_default();
        conns.insert(conn);
        assert!(conns.len() <= 2, "more than two copies: {span:?}");
        self.requests.entry(node).or_default().push((now, span));
    }

    /// Requests that wait for an answer, of all nodes.
    pub(in crate::engine) fn unanswered(&self) -> usize {
        let cancelled = |end: &Watched| if end.fast { end.cancelled.len() } else { 0 };
        self.ends.values().map(|end| end.asked.len() + cancelled(end)).sum()
    }
}
