//! Content in memory, with a swarm that does what a test tells it.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use knot::types::{FileIndex, ReaderId};
use knot::vfs::{Content, ContentError, ReadReply};

use super::tree::Item;

/// What happens to a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Everything is here.
    Cached,
    /// Nothing is here; the swarm answers from another thread, late reads first.
    Swarm,
    /// Nothing is here, and nobody ever answers.
    Silent,
    /// Nothing is here, and every read fails at once.
    Failing,
}

/// One read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    pub file: FileIndex,
    pub offset: u64,
    pub len: u32,
}

type Answer = (Bytes, ReadReply);

pub struct FakeContent {
    files: Vec<Bytes>,
    modes: Mutex<Vec<Mode>>,
    asked: Mutex<Vec<Asked>>,
    unanswered: Mutex<Vec<ReadReply>>,
    open: Mutex<HashSet<ReaderId>>,
    next_reader: AtomicU64,
    swarm: Mutex<Sender<Answer>>,
}

impl FakeContent {
    pub fn new(items: &[Item], mode: Mode) -> Arc<Self> {
        Arc::new(Self {
            files: items.iter().map(Item::bytes).collect(),
            modes: Mutex::new(vec![mode; items.len()]),
            asked: Mutex::default(),
            unanswered: Mutex::default(),
            open: Mutex::default(),
            // Not small, so that nothing relies on it.
            next_reader: AtomicU64::new(1 << 40),
            swarm: Mutex::new(start_swarm()),
        })
    }

    /// What happens to reads from now on.
    pub fn set_mode(&self, mode: Mode) {
        self.modes.lock().unwrap().fill(mode);
    }

    /// What happens to reads of one file from now on.
    pub fn set_file_mode(&self, file: usize, mode: Mode) {
        self.modes.lock().unwrap()[file] = mode;
    }

    /// Every read since the start or the last call.
    pub fn take_asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }

    /// Waits until at least `count` reads wait for an answer that never comes.
    pub fn wait_for_unanswered(&self, count: usize) {
        wait_until("reads wait", || self.unanswered.lock().unwrap().len() >= count);
    }

    /// Readers that are open.
    pub fn open_readers(&self) -> usize {
        self.open.lock().unwrap().len()
    }

    fn mode(&self, file: FileIndex) -> Mode {
        self.modes.lock().unwrap()[file.0 as usize]
    }

    fn part(&self, file: FileIndex, offset: u64, len: u32) -> Bytes {
        let bytes = &self.files[file.0 as usize];
        let start = bytes.len().min(offset as usize);
        bytes.slice(start..bytes.len().min(start + len as usize))
    }

    fn note(&self, reader: ReaderId, file: FileIndex, offset: u64, len: u32) {
        assert!(self.open.lock().unwrap().contains(&reader), "a read with a handle that is not open");
        self.asked.lock().unwrap().push(Asked { file, offset, len });
    }
}

impl Content for FakeContent {
    fn open(&self, _: FileIndex) -> ReaderId {
        let reader = ReaderId(self.next_reader.fetch_add(1, Ordering::Relaxed));
        self.open.lock().unwrap().insert(reader);
        reader
    }

    fn close(&self, reader: ReaderId) {
        assert!(self.open.lock().unwrap().remove(&reader), "a handle was closed twice");
    }

    fn read_cached(&self, reader: ReaderId, file: FileIndex, offset: u64, len: u32) -> Option<Bytes> {
        (self.mode(file) == Mode::Cached).then(|| {
            self.note(reader, file, offset, len);
            self.part(file, offset, len)
        })
    }

    fn read(&self, reader: ReaderId, file: FileIndex, offset: u64, len: u32, reply: ReadReply) {
        self.note(reader, file, offset, len);
        match self.mode(file) {
            Mode::Cached => reply(Ok(self.part(file, offset, len))),
            Mode::Swarm => self.swarm.lock().unwrap().send((self.part(file, offset, len), reply)).unwrap(),
            Mode::Silent => self.unanswered.lock().unwrap().push(reply),
            Mode::Failing => reply(Err(ContentError::Unavailable("nobody has it".into()))),
        }
    }

    fn cached_bytes(&self, file: FileIndex) -> u64 {
        match self.mode(file) {
            Mode::Cached => self.files[file.0 as usize].len() as u64,
            _ => 0,
        }
    }
}

/// Waits until `done`; fails after a time that only a hang reaches.
pub fn wait_until(what: &str, done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(30), "waited in vain until {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

fn start_swarm() -> Sender<Answer> {
    let (sender, receiver) = channel::<Answer>();
    thread::spawn(move || {
        while let Ok(first) = receiver.recv() {
            thread::sleep(Duration::from_micros(200));
            let mut batch = vec![first];
            batch.extend(receiver.try_iter());
            for (bytes, reply) in batch.into_iter().rev() {
                reply(Ok(bytes));
            }
        }
    });
    sender
}
