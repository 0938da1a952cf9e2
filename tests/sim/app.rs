//! Applications: what they read, in which order, how fast, and how long they wait.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use crate::engine::rng::Rng;
use crate::types::{FileIndex, ReadId, ReaderId};

/// In which order an application reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine) enum Pattern {
    Sequential,
    /// As the kernel's read-ahead arrives: batches of reads that come in any order.
    Shuffled,
    /// Chunks from the last to the first.
    Backwards,
    /// Every so many bytes a chunk.
    Strided(u64),
    /// So many chunks anywhere.
    Random(u32),
    /// So often goes anywhere, reads a block there, and then so many bytes on.
    Seeking {
        seeks: u32,
        run: u64,
    },
}

/// What an application reads.
#[derive(Clone, Copy, Debug)]
pub(in crate::engine) struct App {
    pub(in crate::engine) file: FileIndex,
    pub(in crate::engine) offset: u64,
    pub(in crate::engine) len: u64,
    pub(in crate::engine) chunk: u32,
    /// Reads in flight: the kernel's read-ahead. Of a player, what it buffers.
    pub(in crate::engine) ahead: usize,
    pub(in crate::engine) pattern: Pattern,
    /// Bytes a second that are played; 0 for all it can get.
    pub(in crate::engine) rate: f64,
    pub(in crate::engine) timeout: Duration,
}

impl App {
    pub(in crate::engine) fn file(file: u32, len: u64) -> Self {
        Self {
            file: FileIndex(file),
            offset: 0,
            len,
            chunk: 128 << 10,
            ahead: 4,
            pattern: Pattern::Sequential,
            rate: 0.0,
            timeout: Duration::from_secs(60),
        }
    }

    fn reads(&self, rng: &mut Rng) -> VecDeque<Wanted> {
        let chunk = u64::from(self.chunk);
        let end = self.offset + self.len;
        let at = |offset: u64| Wanted { offset, len: chunk.min(end - offset) as u32, is_seek: false };
        let chunks = || (self.offset..end).step_by(self.chunk as usize).map(at);
        match self.pattern {
            Pattern::Sequential => chunks().collect(),
            Pattern::Backwards => chunks().collect::<Vec<_>>().into_iter().rev().collect(),
            Pattern::Strided(step) => (self.offset..end).step_by(step as usize).map(at).collect(),
            Pattern::Random(count) => (0..count).map(|_| at(self.anywhere(rng))).collect(),
            Pattern::Shuffled => {
                let mut all: Vec<_> = chunks().collect();
                for batch in all.chunks_mut(self.ahead) {
                    for last in (1..batch.len()).rev() {
                        batch.swap(last, rng.below(last as u64 + 1) as usize);
                    }
                }
                all.into()
            }
            Pattern::Seeking { seeks, run } => (0..seeks)
                .flat_map(|_| {
                    let first = Wanted { offset: self.anywhere(rng), len: 16 << 10, is_seek: true };
                    let from = first.offset + u64::from(first.len);
                    let rest = (from..(from + run).min(end)).step_by(self.chunk as usize).map(at);
                    [first].into_iter().chain(rest).collect::<Vec<_>>()
                })
                .collect(),
        }
    }

    /// A place with a chunk behind it, at a block's border.
    fn anywhere(&self, rng: &mut Rng) -> u64 {
        let places = self.len.saturating_sub(u64::from(self.chunk)) / (16 << 10);
        self.offset + rng.below(places + 1) * (16 << 10)
    }
}

/// A read to be done.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub(super) offset: u64,
    pub(super) len: u32,
    /// The first one somewhere else.
    is_seek: bool,
}

/// What an application does next.
pub(super) enum Next {
    Read(Wanted),
    /// Its buffer is full.
    Wait(Instant),
    Nothing,
}

/// An application at work.
#[derive(Debug)]
pub(in crate::engine) struct Reading {
    pub(super) app: App,
    pub(super) reader: ReaderId,
    started: Option<Instant>,
    todo: VecDeque<Wanted>,
    pub(super) pending: BTreeMap<ReadId, (Wanted, Instant)>,
    /// Time that each read took.
    pub(in crate::engine) waits: Vec<Duration>,
    /// Time that the first read after each seek took.
    pub(in crate::engine) seeks: Vec<Duration>,
    pub(in crate::engine) read_bytes: u64,
    pub(in crate::engine) failed: usize,
    /// When the first byte would have been played, had the player never stopped.
    clock: Option<Instant>,
    /// When it is to go on.
    wakes: Option<Instant>,
    /// Time that a player took until it began, and that it stood still after that.
    pub(in crate::engine) buffered: Duration,
    pub(in crate::engine) stalled: Duration,
}

impl Reading {
    pub(in crate::engine) fn new(app: App) -> Self {
        Self {
            app,
            reader: ReaderId(0),
            started: None,
            todo: VecDeque::new(),
            pending: BTreeMap::new(),
            waits: Vec::new(),
            seeks: Vec::new(),
            read_bytes: 0,
            failed: 0,
            clock: None,
            wakes: None,
            buffered: Duration::ZERO,
            stalled: Duration::ZERO,
        }
    }

    pub(super) fn start(&mut self, now: Instant, reader: ReaderId, rng: &mut Rng) {
        self.reader = reader;
        self.started = Some(now);
        self.todo = self.app.reads(rng);
    }

    pub(in crate::engine) fn is_finished(&self) -> bool {
        self.todo.is_empty() && self.pending.is_empty()
    }

    /// Goes somewhere else: what was to be read is not any more.
    pub(super) fn seek(&mut self, offset: u64, len: u32) {
        self.todo = [Wanted { offset, len, is_seek: true }].into();
    }

    pub(super) fn next(&mut self, now: Instant) -> Next {
        // Somewhere else the first read is waited for before it goes on.
        let seeks = self.pending.values().any(|(wanted, _)| wanted.is_seek);
        let Some(next) = self.todo.front().filter(|_| !seeks && self.pending.len() < self.app.ahead) else {
            return Next::Nothing;
        };
        if next.is_seek && !self.pending.is_empty() {
            return Next::Nothing;
        }
        let buffered = Duration::from_secs_f64(self.app.ahead as f64 * self.chunk_s());
        if let Some(from) = self.played_at(next.offset).map(|at| at - buffered).filter(|from| *from > now) {
            let is_set = self.wakes.replace(from) == Some(from);
            return if is_set { Next::Nothing } else { Next::Wait(from) };
        }
        self.todo.pop_front().map_or(Next::Nothing, Next::Read)
    }

    /// Seconds that a chunk plays.
    fn chunk_s(&self) -> f64 {
        if self.app.rate > 0.0 { f64::from(self.app.chunk) / self.app.rate } else { 0.0 }
    }

    /// When a player that plays gets to `offset`.
    fn played_at(&self, offset: u64) -> Option<Instant> {
        Some(self.clock? + Duration::from_secs_f64((offset - self.app.offset) as f64 / self.app.rate))
    }

    /// A read ended with its bytes.
    pub(super) fn done(&mut self, now: Instant, wanted: Wanted, took: Duration) {
        self.waits.push(took);
        self.read_bytes += u64::from(wanted.len);
        if wanted.is_seek {
            self.seeks.push(took);
        }
        if self.app.rate == 0.0 {
            return;
        }
        if let Some(late) = self.played_at(wanted.offset).map(|at| now.saturating_duration_since(at)) {
            self.stalled += late;
            self.clock = self.clock.map(|clock| clock + late);
        } else if self.has_buffered() {
            self.clock = Some(now);
            self.buffered = self.started.map_or(Duration::ZERO, |started| now - started);
        }
    }

    /// Whether all is there that a player waits for before it begins: it does not begin with a gap.
    fn has_buffered(&self) -> bool {
        let first = self.app.offset..self.app.offset + self.app.ahead as u64 * u64::from(self.app.chunk);
        self.waits.len() >= self.app.ahead && !self.pending.values().any(|(read, _)| first.contains(&read.offset))
    }
}
