//! Reads that wait for the swarm.
//!
//! A read that cannot be answered at once leaves its reply here and frees the thread. It is answered when the bytes
//! come, when the content gives up, or when the mount is taken away, whichever is first.
//!
//! What the kernel does with a failed read-ahead decides the rest. It leaves the pages in its cache, not up to date,
//! and asks for them once more with a request that nothing, not even a signal, can interrupt. So a range that has
//! failed fails at once for a moment, which answers that second request, and the pages are thrown out meanwhile;
//! the next read then starts afresh, and can be killed.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use fuser::{Errno, INodeNo, Notifier, ReplyData};

use super::convert::errno;
use crate::vfs::{ContentError, FsError, Ino};

/// How long a range that has failed fails at once.
const FAILS_FOR: Duration = Duration::from_secs(1);
/// After this the pages stay: a new read may hold them by then, and to throw them out would wait for it.
const DROP_WITHIN: Duration = Duration::from_millis(500);
/// Failures remembered.
const MAX_FAILURES: usize = 256;

/// Replies by ticket.
pub(super) struct Waiting {
    state: Mutex<State>,
}

/// Names a waiting read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Ticket(u64);

struct State {
    replies: HashMap<Ticket, (Span, ReplyData)>,
    next: u64,
    failures: VecDeque<Failure>,
    /// `None` when the mount is taken away.
    stale_pages: Option<SyncSender<Failure>>,
}

/// A part of an inode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) ino: Ino,
    pub(super) range: Range<u64>,
}

/// A read that came to nothing.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    span: Span,
    at: Instant,
}

impl Waiting {
    /// Nothing waits yet; failures go to the receiver, for [`drop_stale_pages`].
    pub(super) fn new() -> (Self, Receiver<Failure>) {
        let (stale_pages, failures) = sync_channel(MAX_FAILURES);
        let state =
            State { replies: HashMap::new(), next: 0, failures: VecDeque::new(), stale_pages: Some(stale_pages) };
        (Self { state: Mutex::new(state) }, failures)
    }

    /// Keeps a reply. `None` if it was answered with an error at once, since the same read has just failed or the
    /// mount is being taken away.
    pub(super) fn admit(&self, span: Span, reply: ReplyData) -> Option<Ticket> {
        let mut state = self.state();
        if state.stale_pages.is_none() || state.has_failed(&span, Instant::now()) {
            drop(state);
            reply.error(Errno::EIO);
            return None;
        }
        let ticket = Ticket(state.next);
        state.next += 1;
        state.replies.insert(ticket, (span, reply));
        Some(ticket)
    }

    /// Answers a read. Nothing happens if it has been answered.
    pub(super) fn finish(&self, ticket: Ticket, result: Result<Bytes, ContentError>) {
        let mut state = self.state();
        let Some((span, reply)) = state.replies.remove(&ticket) else { return };
        let error = match result {
            Ok(bytes) => {
                drop(state);
                return reply.data(&bytes);
            }
            Err(error) => error,
        };
        let failure = Failure { span, at: Instant::now() };
        state.remember(failure.clone());
        let stale_pages = state.stale_pages.clone();
        drop(state);
        tracing::debug!(span = ?failure.span, %error, "a read failed");
        reply.error(errno(&FsError::Content(error)));
        if let Some(stale_pages) = stale_pages {
            // A full queue only means that the pages stay.
            let _ = stale_pages.try_send(failure);
        }
    }

    /// Fails every read that waits, and all that come.
    pub(super) fn close(&self) {
        let mut state = self.state();
        state.stale_pages = None;
        let replies = std::mem::take(&mut state.replies);
        drop(state);
        for (_, reply) in replies.into_values() {
            reply.error(Errno::EIO);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn has_failed(&mut self, span: &Span, now: Instant) -> bool {
        while self.failures.front().is_some_and(|failure| now.duration_since(failure.at) >= FAILS_FOR) {
            self.failures.pop_front();
        }
        self.failures.iter().any(|failure| failure.span.overlaps(span))
    }

    fn remember(&mut self, failure: Failure) {
        if self.failures.len() == MAX_FAILURES {
            self.failures.pop_front();
        }
        self.failures.push_back(failure);
    }
}

impl Span {
    fn overlaps(&self, other: &Self) -> bool {
        self.ino == other.ino && self.range.start < other.range.end && other.range.start < self.range.end
    }
}

/// Throws out the pages of failed reads until the mount is taken away. Not to be run on a thread that answers
/// requests: the kernel waits here for reads of the same pages.
pub(super) fn drop_stale_pages(failures: &Receiver<Failure>, notifier: &Notifier) {
    while let Ok(Failure { span, at }) = failures.recv() {
        if at.elapsed() > DROP_WITHIN {
            continue;
        }
        let len = span.range.end - span.range.start;
        let (Ok(offset), Ok(len)) = (i64::try_from(span.range.start), i64::try_from(len)) else { continue };
        if let Err(error) = notifier.inval_inode(INodeNo(span.ino.0), offset, len) {
            tracing::debug!(?span, %error, "pages of a failed read stay in the kernel's cache");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(ino: u64, range: Range<u64>) -> Span {
        Span { ino: Ino(ino), range }
    }

    #[test]
    fn a_failure_is_remembered_for_its_own_range_and_a_moment() {
        let (waiting, _failures) = Waiting::new();
        let mut state = waiting.state();
        let now = Instant::now();
        state.remember(Failure { span: span(5, 100..200), at: now });
        assert!(state.has_failed(&span(5, 199..300), now));
        assert!(state.has_failed(&span(5, 0..101), now));
        assert!(!state.has_failed(&span(5, 200..300), now));
        assert!(!state.has_failed(&span(6, 100..200), now));
        assert!(!state.has_failed(&span(5, 100..200), now + FAILS_FOR));
        assert!(state.failures.is_empty());
    }

    #[test]
    fn failures_are_bounded() {
        let (waiting, _failures) = Waiting::new();
        let mut state = waiting.state();
        let now = Instant::now();
        for at in 0..10_000 {
            state.remember(Failure { span: span(5, at..at + 1), at: now });
        }
        assert_eq!(state.failures.len(), MAX_FAILURES);
        assert!(state.has_failed(&span(5, 9_999..10_000), now));
    }
}
