//! What is fetched though nobody waits for it.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use super::lab::{CONN, Lab, S, requests};
use crate::engine::scheduling::{HEAD_LEN, TAIL_LEN};
use crate::engine::sim::TORRENT;
use crate::engine::{Input, Output, Prefetch, Verdict};
use crate::metainfo::{create, testing};
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

/// Files of this length with these names, and the blocks of each that are asked for when a program reads the first
/// block of one after the other.
fn blocks_of_begun(names: &[&str], len: u32) -> Vec<usize> {
    let piece_length = 16 * BLOCK_LEN;
    let data: Vec<_> = (1..).zip(names).map(|(seed, _)| testing::content(seed, len as usize)).collect();
    let entries: Vec<_> = names.iter().map(|name| testing::file(name, len.into())).collect();
    let options = testing::options(HashAlgorithm::Sha256Merkle, piece_length);
    let made = create(&options, entries, &testing::MemSource(data), &|_| ControlFlow::Continue(()));
    let mut lab = Lab::with(made.unwrap(), |_| {});
    lab.open(false);
    let (mut out, mut asked) = (lab.connect(CONN, 1, true, true), BTreeSet::new());
    for message in [Message::HaveAll, Message::Unchoke] {
        out.extend(lab.say(message));
    }
    for at in 0..names.len() as u32 {
        let (reader, read, file) = (ReaderId(at.into()), ReadId(at.into()), FileIndex(at));
        out.extend(lab.put(Input::OpenReader { reader, torrent: TORRENT, file, timeout: 60 * S }));
        out.extend(lab.put(Input::Read { read, reader, offset: 0, len: 4096 }));
        deliver(&mut lab, std::mem::take(&mut out), &mut asked);
    }
    let late = lab.wait(S);
    deliver(&mut lab, late, &mut asked);
    let pieces = len / piece_length;
    (0..names.len() as u32).map(|at| asked.iter().filter(|(piece, _)| piece / pieces == at).count()).collect()
}

#[test]
fn both_ends_of_a_film_come_when_its_head_is_read() {
    let ends = ((HEAD_LEN + TAIL_LEN) / u64::from(BLOCK_LEN)) as usize;
    assert_eq!(blocks_of_begun(&["film.csv", "film.mkv", "song.MP3"], 4 << 20), [1, ends, ends]);
    assert_eq!(blocks_of_begun(&["short.mkv"], 1 << 20), [1], "of a short one nothing but what is read");
}

#[test]
fn a_thumbnailer_gets_what_it_reads_and_no_more() {
    let asked = blocks_of_begun(&["1.mkv", "2.mkv", "3.mkv", "4.mkv", "5.mkv", "6.mkv", "7.mkv"], 4 << 20);
    assert_eq!(asked[3..], [1, 1, 1, 1], "{asked:?}");
}
