//! Ordinary torrents: pieces of any length, padding (BEP 47).

use std::time::Duration;

use proptest::prelude::*;

use super::lab::{CONN, Lab, requests, sent};
use crate::engine::sim::{App, Event, Pattern, Sim, Spec, TORRENT, leech, seed};
use crate::engine::{Input, Output};
use crate::metainfo::testing;
use crate::types::{BLOCK_LEN, BlockSpan, FileIndex, PieceIndex};
use crate::wire::Message;

const MB: f64 = 1e6;
const S: Duration = Duration::from_secs(1);

fn part(piece: u32, begin: u32, len: u32) -> BlockSpan {
    BlockSpan { piece: PieceIndex(piece), begin, len }
}

/// Pieces of 40,000 bytes: 0 is a file of 1 byte, blocks 1 and 2 of it padding; 1 and 2 are of the other file.
fn padded() -> Lab {
    let (metainfo, _) = testing::v1_torrent(40_000, true, &[vec![7], testing::content(1, 50_000)]);
    assert_eq!(metainfo.layout().padding_blocks().count(), 2);
    Lab::with(metainfo, |_| {})
}

#[test]
fn padding_is_served_and_never_asked_for() {
    let mut lab = padded();
    lab.open(true);
    lab.connect_from(CONN, 1, "10.0.0.1:50000", false);
    lab.say(Message::Interested);
    for wanted in [part(0, 16384, 16384), part(0, 32768, 7232), part(0, 0, 16384), part(2, 0, 10_000)] {
        let out = lab.say(Message::Request(wanted));
        assert!(matches!(out[..], [Output::SendBlock { span, .. }] if span == wanted), "{out:?}");
        lab.put(Input::BlockSent { conn: CONN, span: wanted });
    }
    let mut lab = padded();
    lab.open(false);
    assert_eq!(lab.stats().verified_bytes, 16384 + 7232);
    lab.connect_from(CONN, 1, "10.0.0.1:50000", true);
    lab.say(Message::HaveAll);
    lab.say(Message::Unchoke);
    assert_eq!(requests(&lab.read(0, 1)), [part(0, 0, 16384)], "the only block that is not all padding");
}

#[test]
fn what_is_lost_of_a_piece_is_not_its_padding() {
    let mut lab = padded();
    lab.open(true);
    lab.connect_from(CONN, 1, "10.0.0.1:50000", true);
    lab.say(Message::HaveAll);
    lab.put(Input::Lost { torrent: TORRENT, piece: PieceIndex(0) });
    assert_eq!(lab.stats().verified_bytes, lab.metainfo.layout().pieces_length() - 16384);
    lab.say(Message::Unchoke);
    assert_eq!(requests(&lab.read(0, 1)), [part(0, 0, 16384)]);
}

#[test]
fn last_blocks_are_as_short_as_their_pieces() {
    let mut lab = padded();
    lab.open(false);
    lab.connect_from(CONN, 1, "10.0.0.1:50000", true);
    lab.say(Message::HaveAll);
    lab.say(Message::Unchoke);
    lab.put(Input::OpenReader {
        reader: crate::types::ReaderId(2),
        torrent: TORRENT,
        file: FileIndex(1),
        timeout: 60 * S,
    });
    let read = crate::types::ReadId(9);
    let out = lab.put(Input::Read { read, reader: crate::types::ReaderId(2), offset: 0, len: 50_000 });
    let expected = [part(1, 0, 16384), part(1, 16384, 16384), part(1, 32768, 7232), part(2, 0, 10_000)];
    assert_eq!(requests(&out), expected);
    assert!(requests(&out).iter().all(|span| span.len <= BLOCK_LEN));
    assert!(!sent(&out).iter().any(|message| matches!(message, Message::HashRequest(_))), "nobody has such hashes");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, max_shrink_iters: 20, ..ProptestConfig::default() })]

    /// The checker of the simulation sees to it that nothing is asked for that is here, padding included.
    #[test]
    fn swarms_of_any_ordinary_torrent_complete(
        rng: u64,
        piece in 5_000usize..100_000,
        padded: bool,
        files in prop::collection::vec(prop_oneof![Just(0usize), 1usize..100, 0usize..300_000], 1..6),
        evictions in prop::collection::vec(1u64..5_000, 0..4),
    ) {
        prop_assume!(files.iter().sum::<usize>() > 0);
        let by_id = Spec { by_id: true, ..leech(20, 2.0 * MB) };
        let mut sim = Sim::ordinary(rng, piece, padded, &files, vec![seed(10, 2.0 * MB), leech(10, 2.0 * MB), by_id]);
        for node in 1..3 {
            sim.introduce(node, 0..3);
            sim.prefetch_all(node);
        }
        for at in evictions {
            sim.at(at, 1, Event::Evict);
        }
        let (largest, len) = files.iter().enumerate().max_by_key(|(_, len)| **len).unwrap();
        prop_assert!(sim.run_until(20 * S, |sim| sim.nodes[2].fetched_metainfo));
        sim.run_for(S);
        sim.read(2, App { pattern: Pattern::Shuffled, chunk: 20_000, ..App::file(largest as u32, *len as u64) });
        let done = |sim: &Sim| sim.finished(2) && (1..3).all(|node| sim.stats(node).is_complete);
        prop_assert!(sim.run_until(60 * S, done), "{:?}", sim.stats(2));
        let all = sim.net.metainfo.layout().pieces_length();
        prop_assert_eq!(sim.stats(2).verified_bytes, all);
        sim.check_end();
    }
}
