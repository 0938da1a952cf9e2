//! Readers: what is waited for, what will be read next, and in which order to fetch it.

mod extent;
mod lane;

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::time::{Duration, Instant};

use super::flow::Purpose;
use super::meter::RateMeter;
use super::pieces::PieceManager;
use super::scheduling::{IDLE_AFTER, MIN_CONSUMPTION, WINDOW_STEP};
use super::window::Run;
use crate::types::{FileIndex, ReadId, ReaderId};
pub(super) use extent::Extent;
pub(super) use lane::{Agenda, Lane, Urgency};
use lane::{Kind, Turn};

/// A read that waits.
#[derive(Clone, Debug)]
struct Read {
    reader: ReaderId,
    extent: Extent,
    offset: u64,
    /// Blocks that were not verified at some time, and how many still are not.
    blocks: Vec<u32>,
    left: u32,
    /// Registered, or the last time something of it arrived.
    progress: Instant,
}

#[derive(Clone, Debug)]
struct Reader {
    file: FileIndex,
    timeout: Duration,
    run: Run,
    /// Blocks ahead of the position.
    window: Extent,
    window_end: u64,
    /// Both ends of the file, if it is played.
    ends: Vec<Extent>,
    consumed: RateMeter,
    active: Instant,
    /// Virtual time of fair queueing: blocks assigned so far, never behind readers that were active meanwhile.
    turn: u64,
}

/// What a read did to the window of its handle.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Moved {
    /// A run with a window was left: what was fetched ahead of it is not wanted any more.
    pub(super) left: bool,
    /// There may be more to fetch.
    pub(super) moved: bool,
}

/// All readers of a torrent.
#[derive(Debug, Default)]
pub(super) struct Readers {
    readers: BTreeMap<ReaderId, Reader>,
    reads: BTreeMap<ReadId, Read>,
    /// Which reads wait for a block; looked up, never walked.
    waiting: HashMap<u32, Vec<ReadId>>,
    lanes: Vec<Lane>,
    /// The order of the lanes, as long as they are the same; a lane of it may have become empty.
    agenda: Option<Agenda>,
    /// Blocks went missing: cursors may be too far.
    stale: bool,
    /// Virtual time of fair queueing.
    turn: u64,
    open_windows: usize,
}

impl Readers {
    pub(super) fn open(&mut self, now: Instant, reader: ReaderId, file: FileIndex, timeout: Duration) {
        let turn = self.turn;
        self.readers.entry(reader).or_insert_with(|| Reader {
            file,
            timeout,
            run: Run::default(),
            window: Extent::default(),
            window_end: 0,
            ends: Vec::new(),
            consumed: RateMeter::default(),
            active: now,
            turn,
        });
    }

    /// Forgets a reader; the reads that fail by that.
    pub(super) fn close(&mut self, reader: ReaderId) -> Vec<ReadId> {
        let closed = self.readers.remove(&reader);
        self.open_windows -= usize::from(closed.is_some_and(|closed| !closed.window.is_empty()));
        let failed: Vec<_> = self.reads.iter().filter(|(_, read)| read.reader == reader).map(|(id, _)| *id).collect();
        for read in &failed {
            self.drop_read(*read);
        }
        self.lanes_mut().retain(|lane| lane.reader != reader);
        failed
    }

    /// Registers a read. True if nothing of it is missing: it is answered already.
    pub(super) fn read(
        &mut self,
        now: Instant,
        id: ReadId,
        reader: ReaderId,
        bytes: Range<u64>,
        pieces: &PieceManager,
    ) -> bool {
        let turn = self.next_turn(reader);
        let is_first = self.reads.values().all(|read| read.reader != reader);
        let Some(state) = self.readers.get_mut(&reader) else { return false };
        // Who waits for nothing else goes first: seldom is more asked for by it.
        state.turn = if is_first { turn.saturating_sub(1) } else { state.turn.max(turn) };
        let extent = Extent::new(pieces, state.file, bytes.clone());
        let missing = extent.missing(pieces);
        if missing.is_empty() {
            return true;
        }
        for number in &missing {
            self.waiting.entry(*number).or_default().push(id);
        }
        let left = missing.len() as u32;
        self.lanes_mut().push(Lane {
            reader,
            kind: Kind::Read(id),
            cursor: (extent.pieces.start, 0),
            extent: extent.clone(),
            offset: bytes.start,
        });
        self.reads.insert(id, Read { reader, extent, offset: bytes.start, blocks: missing, left, progress: now });
        false
    }

    /// The turn of whoever is next of the other readers that wait for blocks which nobody was asked for.
    fn next_turn(&self, reader: ReaderId) -> u64 {
        let waiting = self.lanes.iter().filter(|lane| lane.is_blocked() && !lane.is_done() && lane.reader != reader);
        let turns = waiting.filter_map(|lane| self.readers.get(&lane.reader)).map(|reader| reader.turn);
        turns.min().unwrap_or(self.turn)
    }

    /// A handle read somewhere, from storage or not: moves its window.
    pub(super) fn touch(
        &mut self,
        now: Instant,
        id: ReaderId,
        bytes: Range<u64>,
        limit: u64,
        pieces: &PieceManager,
    ) -> Moved {
        let Some(reader) = self.readers.get_mut(&id) else { return Moved::default() };
        reader.active = now;
        reader.consumed.add(now, bytes.end - bytes.start);
        let sought = reader.run.touch(bytes, reader.window_end);
        let left = sought && !reader.window.is_empty();
        if sought {
            // Where the window ended says nothing of where the next one should.
            reader.window_end = 0;
        }
        let from = reader.run.position();
        let size = reader.run.window(limit).max(pieces.whole_piece_length().min(reader.run.window(u64::MAX) * 4));
        if size == 0 && reader.window.is_empty() {
            return Moved { left, moved: false };
        }
        // While the run goes on the window's end only moves forward, in steps that are worth a look.
        let step = (size / 16).min(WINDOW_STEP);
        if !sought && size > 0 && from + size < reader.window_end + step && from + step < reader.window_end {
            return Moved::default();
        }
        let to = if sought { from + size } else { reader.window_end.max(from + size) };
        reader.window_end = if size == 0 { 0 } else { to };
        let window = if size == 0 { Extent::default() } else { Extent::new(pieces, reader.file, from..to) };
        self.set_window(id, window, from);
        Moved { left, moved: true }
    }

    /// The file of a reader.
    pub(super) fn file_of(&self, reader: ReaderId) -> Option<FileIndex> {
        self.readers.get(&reader).map(|reader| reader.file)
    }

    /// Parts of its file are wanted as long as a reader is open, before anything else that nobody is blocked on.
    pub(super) fn want_ends(&mut self, id: ReaderId, ends: [Range<u64>; 2], pieces: &PieceManager) {
        let Some(reader) = self.readers.get_mut(&id) else { return };
        reader.ends = ends.map(|end| Extent::new(pieces, reader.file, end)).into();
        self.lanes.extend(reader.ends.iter().map(|end| end_lane(id, end)));
        self.agenda = None;
    }

    /// Cuts windows that have more than `share` bytes. Whether there were any.
    pub(super) fn limit_windows(&mut self, share: u64, pieces: &PieceManager) -> bool {
        let too_large =
            |reader: &Reader| reader.window_end > reader.run.position() + share && !reader.window.is_empty();
        let cut: Vec<_> = self.readers.iter().filter(|(_, reader)| too_large(reader)).map(|(id, _)| *id).collect();
        for id in &cut {
            if let Some(reader) = self.readers.get_mut(id) {
                let from = reader.run.position();
                reader.window_end = from + share;
                let window = Extent::new(pieces, reader.file, from..from + share);
                self.set_window(*id, window, from);
            }
        }
        !cut.is_empty()
    }

    pub(super) fn open_windows(&self) -> usize {
        self.open_windows
    }

    /// Bytes ahead of all positions that are wanted, here or not.
    pub(super) fn window_bytes(&self, pieces: &PieceManager) -> u64 {
        let open = self.readers.values().filter(|reader| !reader.window.is_empty());
        let ahead = |reader: &Reader| {
            let end = reader.window_end.min(pieces.layout().file_length(reader.file));
            end.saturating_sub(reader.run.position())
        };
        open.map(ahead).sum()
    }

    fn set_window(&mut self, id: ReaderId, window: Extent, offset: u64) {
        let Some(reader) = self.readers.get_mut(&id) else { return };
        self.open_windows += usize::from(!window.is_empty());
        self.open_windows -= usize::from(!reader.window.is_empty());
        reader.window = window.clone();
        self.set_window_lane(id, window, offset);
    }

    fn set_window_lane(&mut self, reader: ReaderId, window: Extent, offset: u64) {
        let at = self.lanes.iter().position(|lane| lane.reader == reader && lane.kind == Kind::Window);
        let previous = at.map(|at| self.lanes_mut().swap_remove(at));
        if window.is_empty() {
            return;
        }
        let cursor = match previous {
            Some(lane) if lane.extent.pieces.start <= window.pieces.start => lane.cursor.max((window.pieces.start, 0)),
            _ => (window.pieces.start, 0),
        };
        self.lanes_mut().push(Lane { reader, kind: Kind::Window, extent: window, cursor, offset });
    }

    /// The lanes, to be changed: their order has to be made anew.
    fn lanes_mut(&mut self) -> &mut Vec<Lane> {
        self.agenda = None;
        &mut self.lanes
    }

    fn drop_lane(&mut self, read: ReadId) {
        if let Some(at) = self.lanes.iter().position(|lane| lane.kind == Kind::Read(read)) {
            self.lanes_mut().swap_remove(at);
        }
    }

    /// Nobody waits for a read any more. True if it was there.
    pub(super) fn drop_read(&mut self, id: ReadId) -> bool {
        let Some(read) = self.reads.remove(&id) else { return false };
        self.drop_lane(id);
        for number in read.blocks {
            if let Entry::Occupied(mut waiting) = self.waiting.entry(number) {
                waiting.get_mut().retain(|waiting| *waiting != id);
                if waiting.get().is_empty() {
                    waiting.remove();
                }
            }
        }
        true
    }

    /// A block is verified. The reads that are complete by that.
    pub(super) fn verified(&mut self, now: Instant, number: u32) -> Vec<ReadId> {
        let Some(waiting) = self.waiting.remove(&number) else { return Vec::new() };
        let mut ready = Vec::new();
        for id in waiting {
            let Some(read) = self.reads.get_mut(&id) else { continue };
            read.progress = now;
            read.left -= 1;
            if read.left > 0 {
                continue;
            }
            self.reads.remove(&id);
            self.drop_lane(id);
            ready.push(id);
        }
        ready
    }

    /// A block of a piece arrived that can be verified only later: progress all the same.
    pub(super) fn arrived(&mut self, now: Instant, piece: u32) {
        for read in self.reads.values_mut().filter(|read| read.extent.pieces.contains(&piece)) {
            read.progress = now;
        }
    }

    /// A verified block was lost: reads that had counted on it wait for it.
    pub(super) fn lost(&mut self, piece: u32, block: u32, pieces: &PieceManager) {
        let number = pieces.number(piece, block);
        for (id, read) in &mut self.reads {
            let own = read.extent.pieces.contains(&piece) && read.extent.own_in(piece, pieces).contains(&block);
            let waiting = self.waiting.entry(number).or_default();
            if own && !waiting.contains(id) {
                waiting.push(*id);
                read.blocks.push(number);
                read.left += 1;
            }
        }
        self.waiting.retain(|_, reads| !reads.is_empty());
        self.stale = true;
    }

    /// A block is missing again that had been asked for or received.
    pub(super) fn missing_again(&mut self) {
        self.stale = true;
    }

    /// All reads begin to wait anew.
    pub(super) fn forgive(&mut self, now: Instant) {
        self.reads.values_mut().for_each(|read| read.progress = now);
    }

    /// Reads that had no progress for as long as their readers allow, with that time.
    pub(super) fn expired(&self, now: Instant) -> Vec<(ReadId, Duration)> {
        let overdue = |(id, read): (&ReadId, &Read)| {
            let timeout = self.readers.get(&read.reader)?.timeout;
            (now.saturating_duration_since(read.progress) >= timeout).then_some((*id, timeout))
        };
        self.reads.iter().filter_map(overdue).collect()
    }

    /// For how long at most a read has been waiting without progress.
    pub(super) fn longest_wait(&self, now: Instant) -> Option<Duration> {
        self.reads.values().map(|read| now.saturating_duration_since(read.progress)).max()
    }

    /// When the next read may time out.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        let expiry = |read: &Read| Some(read.progress + self.readers.get(&read.reader)?.timeout);
        self.reads.values().filter_map(expiry).min()
    }

    /// Whether a read, or a window, wants a block.
    pub(super) fn want(&self, piece: u32, block: u32, pieces: &PieceManager) -> bool {
        let extents = self.reads.values().map(|read| &read.extent);
        let ahead = self.readers.values().flat_map(|reader| reader.ends.iter().chain([&reader.window]));
        extents.chain(ahead).any(|extent| extent.wanted_in(piece, pieces).contains(&block))
    }

    /// In which order the lanes are to be served, to be given back with [`Readers::put_agenda`].
    pub(super) fn take_agenda(&mut self, now: Instant, pieces: &PieceManager) -> Agenda {
        if std::mem::take(&mut self.stale) {
            self.agenda = None;
            self.rebuild();
        }
        self.agenda.take().unwrap_or_else(|| {
            self.lanes.iter_mut().for_each(|lane| lane.advance(pieces));
            self.lanes.retain(|lane| !lane.is_done());
            self.new_agenda(now, pieces)
        })
    }

    /// Keeps the order until lanes change.
    pub(super) fn put_agenda(&mut self, agenda: Agenda) {
        self.agenda = Some(agenda);
    }

    fn new_agenda(&self, now: Instant, pieces: &PieceManager) -> Agenda {
        let turn = |lane: &Lane| self.readers.get(&lane.reader).map_or(0, |reader| reader.turn);
        let (blocked, ahead): (Vec<_>, Vec<_>) = (0..self.lanes.len()).partition(|at| self.lanes[*at].is_blocked());
        let missing = blocked.iter().map(|at| self.lanes[*at].missing(pieces)).sum();
        let blocked = blocked.into_iter().map(|at| {
            let lane = &self.lanes[at];
            Turn { turn: turn(lane), offset: lane.offset, at, reader: lane.reader }
        });
        let ahead = ahead.into_iter().map(|at| (at, self.consumption(now, self.lanes[at].reader)));
        Agenda::new(blocked.collect(), missing, ahead.collect())
    }

    fn rebuild(&mut self) {
        self.lanes.clear();
        for (id, read) in &self.reads {
            let (extent, offset) = (read.extent.clone(), read.offset);
            let cursor = (extent.pieces.start, 0);
            self.lanes.push(Lane { reader: read.reader, kind: Kind::Read(*id), extent, cursor, offset });
        }
        for (id, reader) in self.readers.iter().filter(|(_, reader)| !reader.window.is_empty()) {
            let extent = reader.window.clone();
            let cursor = (extent.pieces.start, 0);
            self.lanes.push(Lane { reader: *id, kind: Kind::Window, extent, cursor, offset: reader.run.position() });
        }
        for (id, reader) in &self.readers {
            self.lanes.extend(reader.ends.iter().map(|end| end_lane(*id, end)));
        }
    }

    /// The lanes as they were last brought up to date.
    pub(super) fn current_lanes(&self) -> &[Lane] {
        &self.lanes
    }

    /// Bytes a second that a reader is taken to read.
    fn consumption(&self, now: Instant, reader: ReaderId) -> f64 {
        self.readers.get(&reader).map_or(0.0, |reader| reader.consumed.per_second(now)).max(MIN_CONSUMPTION)
    }

    /// A block of a lane was asked for: the others' turn.
    pub(super) fn served(&mut self, at: usize, agenda: &mut Agenda, pieces: &PieceManager) {
        let Some(lane) = self.lanes.get_mut(at) else { return };
        lane.advance(pieces);
        if lane.is_done() {
            agenda.drop_lane(at);
        }
        let blocked = lane.is_blocked();
        if let Some(reader) = self.readers.get_mut(&lane.reader).filter(|_| blocked) {
            self.turn = reader.turn;
            reader.turn += 1;
            agenda.served(lane.reader, reader.turn);
        }
    }

    /// Blocks on their way that readers are blocked on which wait for no other read, `limit` of each at most.
    pub(super) fn sole_on_their_way(&self, pieces: &PieceManager, limit: usize) -> Vec<u32> {
        let mut reads: BTreeMap<ReaderId, (usize, &Read)> = BTreeMap::new();
        self.reads.values().for_each(|read| reads.entry(read.reader).or_insert((0, read)).0 += 1);
        let sole = reads.into_values().filter(|(count, _)| *count == 1);
        sole.flat_map(|(_, read)| read.extent.on_their_way(pieces).take(limit)).collect()
    }

    /// What streaming readers get to in the next seconds.
    pub(super) fn needed_within(&self, now: Instant, seconds: f64, pieces: &PieceManager) -> Vec<Extent> {
        let streaming = self.readers.values().filter(|reader| !reader.window.is_empty());
        let soon = streaming.map(|reader| {
            let from = reader.run.position();
            let to = reader.window_end.min(from + (reader.consumed.per_second(now) * seconds) as u64);
            Extent::new(pieces, reader.file, from..to)
        });
        soon.collect()
    }

    /// Blocks of a read that are on their way, `limit` at most.
    pub(super) fn asked_of(&self, read: ReadId, pieces: &PieceManager, limit: usize) -> Vec<u32> {
        self.reads.get(&read).map_or_else(Vec::new, |read| read.extent.on_their_way(pieces).take(limit).collect())
    }

    /// Blocks of a read that nobody was asked for, `limit` at most.
    pub(super) fn unasked_of(&self, read: ReadId, pieces: &PieceManager, limit: usize) -> Vec<(u32, u32)> {
        let Some(read) = self.reads.get(&read) else { return Vec::new() };
        let missing_in = |piece| {
            let wanted = read.extent.wanted_in(piece, pieces);
            let first = pieces.next_missing(piece, wanted.start, wanted.end);
            std::iter::successors(first, move |block| pieces.next_missing(piece, block + 1, wanted.end))
                .map(move |block| (piece, block))
        };
        read.extent.pieces.clone().flat_map(missing_in).take(limit).collect()
    }

    /// Whether a read waits for something of a piece.
    pub(super) fn wait_for_any_of(&self, piece: u32) -> bool {
        self.reads.values().any(|read| read.extent.pieces.contains(&piece))
    }

    /// Whether a read waits for a block that is not verified.
    pub(super) fn wait_for(&self, piece: u32, block: u32, pieces: &PieceManager) -> bool {
        self.waiting.contains_key(&pieces.number(piece, block))
            || pieces.needs_whole(piece) && self.wait_for_any_of(piece)
    }

    pub(super) fn waiting_reads(&self) -> usize {
        self.reads.len()
    }

    pub(super) fn read_ids(&self) -> Vec<ReadId> {
        self.reads.keys().copied().collect()
    }

    pub(super) fn has_reader(&self, reader: ReaderId) -> bool {
        self.readers.contains_key(&reader)
    }

    /// What is asked for is for whom.
    pub(super) fn purpose(&self, now: Instant) -> Purpose {
        let mut waiting = self.reads.values().map(|read| read.reader);
        match waiting.next() {
            Some(first) if waiting.any(|other| other != first) => Purpose::Contended,
            Some(_) => Purpose::Stream,
            None if self.has_read_lately(now) => Purpose::Stream,
            None => Purpose::Bulk,
        }
    }

    fn has_read_lately(&self, now: Instant) -> bool {
        self.readers.values().any(|reader| now.saturating_duration_since(reader.active) < IDLE_AFTER)
    }
}

fn end_lane(reader: ReaderId, end: &Extent) -> Lane {
    Lane { reader, kind: Kind::End, extent: end.clone(), cursor: (end.pieces.start, 0), offset: 0 }
}

#[cfg(test)]
mod tests;
