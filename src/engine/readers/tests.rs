use super::*;
use crate::metainfo::Layout;
use crate::types::{BLOCK_LEN, Bitfield, ConnId};

const MIB: u64 = 1 << 20;

/// Two readers of a file of which nothing is there, and the blocks that they are served one after the other.
struct Desk {
    readers: Readers,
    pieces: PieceManager,
    now: Instant,
    next_read: u64,
}

impl Desk {
    fn new() -> Self {
        let layout = Layout::new(4 * BLOCK_LEN, true, &[64 * MIB]).unwrap();
        let none = Bitfield::new(layout.block_numbers());
        let (mut readers, now) = (Readers::default(), Instant::now());
        (1..=2).for_each(|id| readers.open(now, ReaderId(id), FileIndex(0), Duration::from_secs(60)));
        Self { readers, pieces: PieceManager::new(layout, none, true), now, next_read: 0 }
    }

    fn read(&mut self, reader: u64, offset: u64, len: u64) {
        self.next_read += 1;
        let (read, reader) = (ReadId(self.next_read), ReaderId(reader));
        assert!(!self.readers.read(self.now, read, reader, offset..offset + len, &self.pieces));
    }

    /// For whom the next `count` blocks are asked for.
    fn serve(&mut self, count: usize) -> Vec<u64> {
        let mut agenda = self.readers.take_agenda(self.now, &self.pieces);
        let mut served = Vec::new();
        for _ in 0..count {
            let at = agenda.blocked().next().unwrap();
            let lane = &self.readers.current_lanes()[at];
            served.push(lane.reader.0);
            let (piece, block) = lane.next(lane.start(), &self.pieces, |_| true).unwrap();
            self.pieces.activate(piece, false);
            self.pieces.requested(self.pieces.number(piece, block), ConnId(1), self.now);
            self.readers.served(at, &mut agenda, &self.pieces);
        }
        self.readers.put_agenda(agenda);
        served
    }
}

#[test]
fn readers_take_turns() {
    let mut desk = Desk::new();
    desk.read(1, 0, MIB);
    assert_eq!(desk.serve(4), [1; 4]);
    desk.read(2, 32 * MIB, MIB);
    let served = desk.serve(20);
    let second = served.iter().filter(|reader| **reader == 2).count();
    assert!((10..=12).contains(&second), "{served:?}");
}

/// A seek is served before those who wait for much, and again when it comes back: what was served before it came counts
/// for nothing.
#[test]
fn who_waits_for_nothing_else_goes_first() {
    let mut desk = Desk::new();
    (0..4).for_each(|chunk| desk.read(1, chunk * MIB, MIB));
    desk.serve(30);
    for seek in 0..5 {
        desk.read(2, (20 + seek) * MIB, u64::from(BLOCK_LEN));
        assert_eq!(desk.serve(3), [2, 1, 1], "seek {seek}");
        let number = desk.pieces.number((20 + seek as u32) * 16, 0);
        assert_eq!(desk.readers.verified(desk.now, number).len(), 1);
    }
}

/// But not the second of several reads: a reader is not served more for asking for more at once.
#[test]
fn many_reads_are_no_more_turns() {
    let mut desk = Desk::new();
    (0..8).for_each(|chunk| desk.read(1, chunk * MIB, MIB));
    desk.read(2, 32 * MIB, MIB);
    let served = desk.serve(40);
    let second = served.iter().filter(|reader| **reader == 2).count();
    assert!((19..=21).contains(&second), "{served:?}");
}
