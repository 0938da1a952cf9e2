//! What is out of proportion: handles by the thousand, torrents of a million pieces, clocks that jump.

use std::time::Duration;

use super::lab::{CONN, Lab, S, requests, span};
use crate::engine::sim::TORRENT;
use crate::engine::{Input, Output, PieceOutcome, Verdict};
use crate::metainfo::Metainfo;
use crate::metainfo::testing::Value;
use crate::types::{BLOCK_LEN, ConnId, FileIndex, HashAlgorithm, ReadId, ReaderId};
use crate::wire::Message;

fn connected(mut lab: Lab) -> Lab {
    lab.connect(CONN, 1, true, true);
    lab.say(Message::HaveAll);
    lab.say(Message::Unchoke);
    lab
}

/// Delivers what is asked for until nothing more is; the reads that ended by that.
fn deliver(lab: &mut Lab, out: Vec<Output>) -> Vec<ReadId> {
    let (mut todo, mut ended) = (out, Vec::new());
    while !todo.is_empty() {
        let mut next = Vec::new();
        for span in requests(&todo) {
            next.extend(lab.put(Input::Block { conn: CONN, span }));
        }
        for out in todo {
            match out {
                Output::ReadReady { read } => ended.push(read),
                Output::Store { torrent, conn, span } => {
                    let stored = Input::Stored { torrent, span, conn, verdict: Verdict::Unverified };
                    next.extend(lab.put(stored));
                }
                Output::CheckPiece { torrent, piece, .. } => {
                    let checked = Input::PieceChecked { torrent, piece, outcome: PieceOutcome::Verified };
                    next.extend(lab.put(checked));
                }
                _ => {}
            }
        }
        todo = next;
    }
    ended
}

#[test]
fn ten_thousand_handles_are_read_and_closed() {
    let mut lab = connected(Lab::new(HashAlgorithm::Sha1, false));
    let mut out = Vec::new();
    let file = FileIndex(0);
    for at in 0..10_000u64 {
        let reader = ReaderId(at);
        lab.put(Input::OpenReader { reader, torrent: TORRENT, file, timeout: 60 * S });
        let offset = at * 7919 % (8 << 16);
        out.extend(lab.put(Input::Read { read: ReadId(at), reader, offset, len: 100 }));
    }
    assert!(requests(&out).len() <= 32, "nothing is asked twice, however many wait for it");
    let mut ended = deliver(&mut lab, out);
    ended.sort_unstable();
    assert_eq!(ended, (0..10_000).map(ReadId).collect::<Vec<_>>());
    for at in 0..10_000 {
        lab.put(Input::CloseReader { reader: ReaderId(at) });
    }
    assert_eq!((lab.stats().waiting_reads, lab.stats().window_bytes), (0, 0));
}

#[test]
fn a_torrent_of_a_million_pieces_is_read_at_its_end() {
    // 1.25 TiB in pieces of 1 MiB: 25 MB of hashes, which is nearly as large as metainfo may be.
    let pieces = 1_250_000u64;
    let info = Value::dict([
        ("length", ((pieces << 20) as i64).into()),
        ("name", "huge".into()),
        ("piece length", (1 << 20).into()),
        ("pieces", Value::Bytes(vec![7; pieces as usize * 20])),
    ]);
    let metainfo = Metainfo::parse(&Value::dict([("info", info)]).encode()).unwrap();
    let mut lab = Lab::with(metainfo, |_| {});
    lab.open(false);
    let mut lab = connected(lab);
    let out = lab.read((pieces << 20) - 100, 100);
    let ended = deliver(&mut lab, out);
    assert_eq!(ended.len(), 1);
    let stats = lab.stats();
    assert_eq!((stats.verified_bytes, stats.downloaded_bytes), (1 << 20, 1 << 20), "a piece, and no more");
}

#[test]
fn nobody_is_blamed_for_a_clock_that_jumps() {
    let mut lab = connected(Lab::new(HashAlgorithm::Sha1, false));
    let asked = requests(&lab.read(0, BLOCK_LEN));
    assert!(!asked.is_empty());
    lab.now += Duration::from_secs(3600);
    lab.engine.handle_timeout(lab.now);
    let out: Vec<_> = std::iter::from_fn(|| lab.engine.poll_output()).collect();
    let bad = |out: &Output| matches!(out, Output::ReadFailed { .. } | Output::Disconnect { .. } | Output::Ban { .. });
    assert!(!out.iter().any(bad), "{out:?}");
    let mut blocks: Vec<Output> = Vec::new();
    for span in asked {
        blocks.extend(lab.put(Input::Block { conn: CONN, span }));
    }
    assert_eq!(deliver(&mut lab, blocks).len(), 1);
    // Back again: less than nothing has passed.
    lab.now -= Duration::from_secs(1800);
    lab.engine.handle_timeout(lab.now);
    let out = lab.read(4 * u64::from(BLOCK_LEN), BLOCK_LEN);
    assert_eq!(deliver(&mut lab, out).len(), 1);
}

#[test]
fn who_answers_twice_is_left_and_another_one_asked() {
    let mut lab = connected(Lab::new(HashAlgorithm::Sha1, false));
    lab.read(0, BLOCK_LEN);
    assert!(matches!(lab.put(Input::Block { conn: CONN, span: span(0, 0) })[..], [Output::Store { .. }, ..]));
    let out = lab.put(Input::Block { conn: CONN, span: span(0, 0) });
    assert!(matches!(out[0], Output::Discard { .. }) && super::lab::is_closed(&out), "{out:?}");
    let other = ConnId(2);
    lab.put(Input::Disconnected { conn: CONN });
    lab.connect(other, 2, true, true);
    lab.hear(other, Message::HaveAll);
    let asked = requests(&lab.hear(other, Message::Unchoke));
    assert!(asked.contains(&span(0, 1)) && !asked.contains(&span(0, 0)), "{asked:?}");
}
