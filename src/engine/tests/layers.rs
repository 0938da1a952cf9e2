//! The piece hashes of BitTorrent v2 torrents of which only `info` is known (BEP 52).

use std::time::Duration;

use super::lab::{CONN, Lab, sent};
use super::metadata::{answer_all, fetched, offer};
use crate::engine::sim::TORRENT;
use crate::engine::{DisconnectReason, Input, Output};
use crate::metainfo::{Form, HashRange, Hints, Metainfo, TorrentOptions, create_torrent, testing};
use crate::types::ConnId;
use crate::wire::{HashRequest, Message};

const OTHER: ConnId = ConnId(77);

/// Two files of several pieces each, and one of one.
fn v2() -> Metainfo {
    let data: Vec<_> = [3, 5, 1].iter().map(|pieces| testing::content(*pieces, *pieces as usize * 16384)).collect();
    let entries: Vec<_> = ["a", "b", "c"].iter().zip(&data).map(|(n, d)| testing::file(n, d.len() as u64)).collect();
    let options = TorrentOptions {
        name: "t".into(),
        form: Form::V2,
        piece_length: Some(16384),
        created_at: None,
        is_private: false,
        hints: Hints::default(),
    };
    create_torrent(&options, &entries, &testing::MemSource(data), &|_| std::ops::ControlFlow::Continue(())).unwrap()
}

/// A lab that has been told the `info` by the first of its peers, and what it asks then.
fn bare(peers: &[ConnId]) -> (Lab, Vec<Output>) {
    let metainfo = v2();
    let (id, info) = (metainfo.info_id(), metainfo.info_bytes().clone());
    let mut lab = Lab::with(metainfo, |_| {});
    lab.put(Input::AddById { torrent: TORRENT, id });
    for (at, conn) in peers.iter().enumerate() {
        lab.connect_from(*conn, at + 1, &format!("10.0.0.{}:6881", at + 1), true);
    }
    let out = offer(&mut lab, peers[0], Some(info.len() as u64), None);
    let out = answer_all(&mut lab, out, peers[0], &info);
    assert!(fetched(&out).is_none(), "nothing to open yet");
    (lab, out)
}

fn questions(out: &[Output]) -> Vec<(ConnId, HashRequest)> {
    let question = |out: &Output| match out {
        Output::Send { conn, message: Message::HashRequest(request) } => Some((*conn, *request)),
        _ => None,
    };
    out.iter().filter_map(question).collect()
}

fn right(request: &HashRequest) -> Vec<u8> {
    let HashRequest { root, base_layer, index, length, proof_layers } = *request;
    v2().answer_range(&HashRange { root, base_layer, index, length, proof_layers }, |_| None).unwrap()
}

fn tell(lab: &mut Lab, conn: ConnId, request: HashRequest, hashes: Vec<u8>) -> Vec<Output> {
    lab.hear(conn, Message::Hashes { request, hashes: hashes.into() })
}

#[test]
fn what_info_lacks_is_asked_for_and_the_torrent_opened() {
    let (mut lab, out) = bare(&[CONN]);
    let asked = questions(&out);
    assert_eq!(asked.len(), 2, "the file of one piece has its hash in info");
    let (_, first) = asked[0];
    assert!(fetched(&tell(&mut lab, CONN, first, right(&first))).is_none());
    // Said again, or of a root that nobody knows: passed over.
    let unknown = HashRequest { root: [9; 32], ..first };
    for odd in [first, unknown] {
        assert!(tell(&mut lab, CONN, odd, right(&first)).is_empty());
    }
    let whole = fetched(&tell(&mut lab, CONN, asked[1].1, right(&asked[1].1))).unwrap();
    assert!(whole.has_layers() && whole.public_bytes() == v2().public_bytes());
}

#[test]
fn who_tells_wrong_hashes_is_banned_and_others_are_asked() {
    for wrong in 0..4 {
        let (mut lab, out) = bare(&[CONN, OTHER]);
        let (conn, request) = questions(&out)[0];
        let mut hashes = right(&request);
        match wrong {
            0 => hashes[5] ^= 1,
            1 => hashes.truncate(hashes.len() - 32),
            2 => hashes.extend([0; 32]),
            _ => hashes.clear(),
        }
        let mut out = tell(&mut lab, conn, request, hashes);
        let is_banned = |out: &Output| matches!(out, Output::Disconnect { conn: gone, reason: DisconnectReason::Banned } if *gone == conn);
        assert!(out.iter().any(is_banned), "{out:?}");
        out.extend(lab.wait(Duration::from_secs(1)));
        let again = questions(&out);
        assert!(again.iter().any(|(other, asked)| *other != conn && *asked == request), "{again:?}");
    }
}

#[test]
fn who_does_not_tell_is_not_to_blame() {
    for is_silent in [false, true] {
        let (mut lab, out) = bare(&[CONN, OTHER]);
        let (conn, request) = questions(&out)[0];
        let mut out = if is_silent { Vec::new() } else { lab.hear(conn, Message::HashReject(request)) };
        out.extend(lab.wait(Duration::from_secs(if is_silent { 6 } else { 1 })));
        assert!(!out.iter().any(|out| matches!(out, Output::Disconnect { .. })), "{out:?}");
        let again = questions(&out);
        assert!(again.iter().any(|(other, asked)| *other != conn && *asked == request), "{again:?}");
        assert!(!sent(&out).is_empty());
    }
}
