//! What one peer asks of us: a bounded queue, in front of storage and the socket.
//!
//! With the fast extension (BEP 6) every request gets exactly one answer, its block or a reject. Without, requests
//! that will not be answered are dropped in silence.

use std::collections::{BTreeSet, VecDeque};

use crate::types::BlockSpan;

/// Requests of one peer.
#[derive(Clone, Debug, Default)]
pub(super) struct Upload {
    /// Not started; can be cancelled.
    queue: VecDeque<BlockSpan>,
    /// On their way from storage to the socket: will be sent.
    sending: Vec<BlockSpan>,
    /// It is in the queue of those that wait for their turn under the limit.
    pub(super) waits_for_turn: bool,
    /// Pieces that the peer may request while choked, and how many more blocks of them.
    pub(super) allowed: BTreeSet<u32>,
    pub(super) allowance: u32,
}

impl Upload {
    /// Takes a request; false if the queue is full. What is on its way does not count: the peer may have it already,
    /// and have asked for the next.
    pub(super) fn push(&mut self, span: BlockSpan, limit: usize) -> bool {
        let room = self.queue.len() < limit;
        if room {
            self.queue.push_back(span);
        }
        room
    }

    /// Takes a cancelled request out; false if it was none, or is on its way already.
    pub(super) fn cancel(&mut self, span: BlockSpan) -> bool {
        let at = self.queue.iter().position(|queued| *queued == span);
        at.and_then(|at| self.queue.remove(at)).is_some()
    }

    /// The next block to read from storage, while fewer than `pipeline` are on their way.
    pub(super) fn start(&mut self, pipeline: usize) -> Option<BlockSpan> {
        if self.sending.len() >= pipeline {
            return None;
        }
        let span = self.queue.pop_front()?;
        self.sending.push(span);
        Some(span)
    }

    /// A block left, or could not be read; false if it was not on its way.
    pub(super) fn finish(&mut self, span: BlockSpan) -> bool {
        let at = self.sending.iter().position(|sending| *sending == span);
        at.map(|at| self.sending.remove(at)).is_some()
    }

    /// The peer is choked: takes out what is queued and not allowed while choked.
    pub(super) fn choke(&mut self, fast: bool) -> Vec<BlockSpan> {
        let allowed = &self.allowed;
        let (kept, dropped) = self.queue.drain(..).partition(|span| fast && allowed.contains(&span.piece.0));
        self.queue = kept;
        Vec::from(dropped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::PieceIndex;

    fn span(piece: u32) -> BlockSpan {
        BlockSpan { piece: PieceIndex(piece), begin: 0, len: 1 }
    }

    #[test]
    fn queue_is_bounded_and_what_is_on_its_way_is_not_cancelled() {
        let mut upload = Upload::default();
        assert!((0..4).all(|piece| upload.push(span(piece), 4)) && !upload.push(span(4), 4));
        assert_eq!((upload.start(1), upload.start(1)), (Some(span(0)), None));
        assert!(upload.push(span(5), 4) && !upload.push(span(6), 4), "the peer may have the first already");
        assert!(!upload.cancel(span(0)) && upload.cancel(span(2)) && !upload.cancel(span(2)));
        assert!(upload.finish(span(0)) && !upload.finish(span(0)));
        upload.allowed.insert(3);
        assert_eq!(upload.choke(true), [span(1), span(5)]);
        assert_eq!(upload.start(9), Some(span(3)));
    }
}
