//! What is fetched though nobody waits for it.

use std::collections::BTreeSet;

use super::lab::{CONN, Lab, S, requests};
use crate::engine::sim::TORRENT;
use crate::engine::{Input, Output, Prefetch, Verdict};
use crate::metainfo::testing;
use crate::types::{BLOCK_LEN, FileIndex, HashAlgorithm, ReadId, ReaderId};
use crate::wire::Message;

/// Blocks of a piece, pieces of a file.
const BLOCKS: u32 = 4;
const PIECES: u32 = 16;

/// A torrent of three files, and a peer that has all of it.
fn lab(prefetch: Prefetch) -> (Lab, Vec<Output>) {
    let file = testing::content(1, (PIECES * BLOCKS * BLOCK_LEN) as usize);
    let (metainfo, _) =
        testing::torrent(HashAlgorithm::Sha256Merkle, BLOCKS * BLOCK_LEN, &[file.clone(), file.clone(), file]);
    let mut lab = Lab::with(metainfo, |_| {});
    lab.open(false);
    let mut out = lab.put(Input::SetPrefetch { torrent: TORRENT, prefetch });
    lab.connect(CONN, 1, true, true);
    for message in [Message::HaveAll, Message::Unchoke] {
        out.extend(lab.say(message));
    }
    (lab, out)
}

/// Reads blocks of the second file in sequence, the peer delivers all that is asked for; the blocks that were asked for.
fn read(lab: &mut Lab, out: Vec<Output>, blocks: u32) -> BTreeSet<(u32, u32)> {
    let (reader, file) = (ReaderId(1), FileIndex(1));
    let mut asked = BTreeSet::new();
    deliver(lab, out, &mut asked);
    let mut out = lab.put(Input::OpenReader { reader, torrent: TORRENT, file, timeout: 60 * S });
    for block in 0..blocks {
        let offset = u64::from(block * BLOCK_LEN);
        out.extend(lab.put(Input::Read { read: ReadId(offset), reader, offset, len: BLOCK_LEN }));
        deliver(lab, std::mem::take(&mut out), &mut asked);
    }
    let late = lab.wait(S);
    deliver(lab, late, &mut asked);
    asked
}

fn deliver(lab: &mut Lab, out: Vec<Output>, asked: &mut BTreeSet<(u32, u32)>) {
    let mut todo = requests(&out);
    while let Some(span) = todo.pop() {
        asked.insert((span.piece.0, span.block().0));
        let mut out = lab.put(Input::Block { conn: CONN, span });
        let stored = Input::Stored { torrent: TORRENT, span, conn: CONN, verdict: Verdict::Verified };
        out.extend(lab.put(stored));
        todo.extend(requests(&out));
    }
}

/// How many blocks of each file.
fn by_file(asked: &BTreeSet<(u32, u32)>) -> [usize; 3] {
    [0, 1, 2].map(|file| asked.iter().filter(|(piece, _)| piece / PIECES == file).count())
}

#[test]
fn nothing_means_nothing_but_what_is_read() {
    let (mut lab, out) = lab(Prefetch::None);
    assert_eq!(by_file(&read(&mut lab, out, 30)), [0, 30, 0]);
}

#[test]
fn a_window_follows_who_reads_in_sequence_inside_the_file() {
    let (mut lab, out) = lab(Prefetch::Window);
    let [before, within, behind] = by_file(&read(&mut lab, out, 30));
    assert!(before == 0 && behind == 0 && within > 40, "{before} {within} {behind}");
    // Who reads little has none.
    let (mut lab, out) = self::lab(Prefetch::Window);
    assert_eq!(by_file(&read(&mut lab, out, 3)), [0, 3, 0]);
}

#[test]
fn files_that_were_opened_come_in_full_and_no_others() {
    let all = (PIECES * BLOCKS) as usize;
    let (mut lab, out) = lab(Prefetch::File);
    assert!(requests(&out).is_empty(), "nothing was opened yet");
    assert_eq!(by_file(&read(&mut lab, out, 1)), [0, all, 0]);
}

#[test]
fn everything_comes_though_nothing_is_opened() {
    let all = (PIECES * BLOCKS) as usize;
    let (mut lab, out) = lab(Prefetch::All);
    let mut asked = BTreeSet::new();
    deliver(&mut lab, out, &mut asked);
    assert_eq!(by_file(&asked), [all; 3]);
}

#[test]
fn whoever_turns_it_on_late_gets_what_was_opened_before() {
    let all = (PIECES * BLOCKS) as usize;
    let (mut lab, out) = lab(Prefetch::None);
    let mut asked = read(&mut lab, out, 1);
    let out = lab.put(Input::SetPrefetch { torrent: TORRENT, prefetch: Prefetch::File });
    deliver(&mut lab, out, &mut asked);
    assert_eq!(by_file(&asked), [0, all, 0]);
}
