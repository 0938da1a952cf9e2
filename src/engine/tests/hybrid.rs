//! Hybrid torrents: who is asked for hashes, and whose fault it is when the two forms disagree (BEP 52).

use core::net::SocketAddr;

use super::lab::{CONN, Lab, S, requests, sent, span};
use super::metadata::{answer_all, fetched, offer};
use crate::engine::sim::{TORRENT, wire_id};
use crate::engine::{DisconnectReason, Input, Output, PieceOutcome, ReadError, Verdict};
use crate::metainfo::{Metainfo, testing};
use crate::types::{BLOCK_LEN, BlockSpan, ConnId, PeerAddr, PeerIdentity, PieceIndex, SwarmId};
use crate::wire::{Handshake, HashRequest, Message};

const OTHER: ConnId = ConnId(77);

fn hybrid() -> Metainfo {
    testing::hybrid_torrent(4 * BLOCK_LEN, &[testing::content(1, 8 << 16), testing::content(2, 100_000)]).0
}

fn v2_swarm(lab: &Lab) -> SwarmId {
    lab.metainfo.v2_swarm().unwrap()
}

/// A client connects, in a swarm.
fn client(lab: &mut Lab, conn: ConnId, swarm: SwarmId, offers: bool) -> Vec<Output> {
    let handshake = Handshake::new(swarm, wire_id(conn.0 as usize));
    let handshake = if offers { handshake } else { handshake.without_hashes() };
    let addr = SocketAddr::from(([10, 0, 0, conn.0 as u8], 6881));
    let (addr, identity) = (PeerAddr::Socket(addr), PeerIdentity::Ip(addr.ip()));
    lab.put(Input::Connected { conn, torrent: TORRENT, addr, identity, handshake, outgoing: true })
}

/// A lab with an open torrent and a seed in a swarm, from which one block is being read.
fn reading(swarm: impl Fn(&Lab) -> SwarmId) -> (Lab, Vec<Output>) {
    let mut lab = Lab::with(hybrid(), |_| {});
    lab.open(false);
    let swarm = swarm(&lab);
    client(&mut lab, CONN, swarm, true);
    lab.say(Message::HaveAll);
    let mut out = lab.say(Message::Unchoke);
    out.extend(lab.read(0, BLOCK_LEN));
    (lab, out)
}

fn v1_swarm(lab: &Lab) -> SwarmId {
    lab.metainfo.info_hash().swarm_id()
}

fn asked_for_hashes(out: &[Output]) -> usize {
    sent(out).into_iter().filter(|message| matches!(message, Message::HashRequest(_))).count()
}

fn failed(out: &[Output]) -> usize {
    let is_failed = |out: &&Output| matches!(out, Output::ReadFailed { reason: ReadError::Inconsistent, .. });
    out.iter().filter(is_failed).count()
}

fn is_anybody_gone(out: &[Output]) -> bool {
    out.iter().any(|out| matches!(out, Output::Ban { .. } | Output::Disconnect { .. }))
}

fn stored(lab: &mut Lab, span: BlockSpan, verdict: Verdict) -> Vec<Output> {
    lab.put(Input::Block { conn: CONN, span });
    lab.put(Input::Stored { torrent: TORRENT, span, conn: CONN, verdict })
}

#[test]
fn a_block_is_asked_for_alone_where_v2_is_spoken() {
    let (_, out) = reading(v2_swarm);
    assert_eq!((asked_for_hashes(&out), requests(&out)), (1, vec![span(0, 0)]));
    // Nobody tells leaves in the swarm of v1: the whole piece is fetched.
    let (_, out) = reading(v1_swarm);
    assert_eq!((asked_for_hashes(&out), requests(&out).len()), (0, 4));
}

#[test]
fn hashes_are_told_where_v2_is_spoken() {
    for (swarm, tells) in [(v2_swarm as fn(&Lab) -> SwarmId, true), (v1_swarm, false)] {
        let mut lab = Lab::with(hybrid(), |_| {});
        lab.open(true);
        let swarm = swarm(&lab);
        client(&mut lab, CONN, swarm, true);
        let request = HashRequest { root: [1; 32], base_layer: 0, index: 0, length: 4, proof_layers: 0 };
        let out = lab.say(Message::HashRequest(request));
        let is_told = out.iter().any(|out| matches!(out, Output::SendHashes { .. }));
        let is_refused = sent(&out).contains(&&Message::HashReject(request));
        assert_eq!((is_told, is_refused), (tells, !tells));
    }
}

#[test]
fn a_contradiction_is_nobodys_fault_and_ends_reads() {
    // The last block of a piece tells, or the check of the piece.
    for by_check in [false, true] {
        let (mut lab, _) = reading(v1_swarm);
        let mut out = Vec::new();
        for block in 0..4 {
            let verdict = if by_check || block < 3 { Verdict::Unverified } else { Verdict::Inconsistent };
            out.extend(stored(&mut lab, span(0, block), verdict));
        }
        if by_check {
            let outcome = PieceOutcome::Inconsistent;
            out.extend(lab.put(Input::PieceChecked { torrent: TORRENT, piece: PieceIndex(0), outcome }));
        }
        assert_eq!((failed(&out), is_anybody_gone(&out)), (1, false), "{out:?}");
        // Nothing more is fetched, and who reads is told at once.
        let out = lab.read(5 << 16, BLOCK_LEN);
        assert_eq!((failed(&out), requests(&out).len()), (1, 0), "{out:?}");
        let out = lab.wait(30 * S);
        assert!(!is_anybody_gone(&out) && requests(&out).is_empty(), "{out:?}");
    }
}

/// A lab that has heard the `info` of the torrent, known by its v1 infohash, from a client in `swarm`.
fn told(swarm: impl Fn(&Lab) -> SwarmId, offers: bool) -> (Lab, Vec<Output>) {
    let metainfo = hybrid();
    let (id, info) = (metainfo.info_id(), metainfo.info_bytes().clone());
    let mut lab = Lab::with(metainfo, |_| {});
    lab.put(Input::AddById { torrent: TORRENT, id });
    let swarm = swarm(&lab);
    client(&mut lab, CONN, swarm, offers);
    let out = offer(&mut lab, CONN, Some(info.len() as u64), None);
    let out = answer_all(&mut lab, out, CONN, &info);
    (lab, out)
}

fn is_news(out: &[Output]) -> bool {
    out.iter().any(|out| matches!(out, Output::HybridFound { .. }))
}

#[test]
fn layers_are_asked_for_where_v2_is_spoken() {
    let (mut lab, out) = told(v2_swarm, true);
    assert!(is_news(&out) && asked_for_hashes(&out) == 2 && fetched(&out).is_none());
    let mut whole = None;
    for message in sent(&out) {
        let Message::HashRequest(request) = message else { continue };
        let HashRequest { root, base_layer, index, length, proof_layers } = *request;
        let range = crate::metainfo::HashRange { root, base_layer, index, length, proof_layers };
        let hashes = lab.metainfo.answer_range(&range, |_| None).unwrap();
        whole = fetched(&lab.hear(CONN, Message::Hashes { request: *request, hashes: hashes.into() }));
    }
    assert!(whole.unwrap().verifies_blocks());
}

#[test]
fn peers_of_v1_that_know_v2_are_dialled_anew() {
    let (mut lab, out) = told(v1_swarm, true);
    let again = |out: &Output| matches!(out, Output::Disconnect { conn: CONN, reason: DisconnectReason::Upgrade });
    assert!(is_news(&out) && out.iter().any(again) && asked_for_hashes(&out) == 0, "{out:?}");
    let swarm = v2_swarm(&lab);
    client(&mut lab, OTHER, swarm, true);
    assert_eq!(asked_for_hashes(&lab.wait(S)), 2);
    // Likewise where all of the metainfo came at once.
    let metainfo = hybrid();
    let id = metainfo.info_id();
    let mut lab = Lab::with(metainfo, |_| {});
    lab.put(Input::AddById { torrent: TORRENT, id });
    let addr = PeerAddr::Socket(([10, 0, 0, CONN.0 as u8], 6881).into());
    lab.put(Input::PeerFound { torrent: TORRENT, addr: addr.clone() });
    let swarm = v1_swarm(&lab);
    client(&mut lab, CONN, swarm, true);
    let out = lab.open(false);
    assert!(out.iter().any(again), "{out:?}");
    assert!(out.iter().any(|out| matches!(out, Output::Connect { addr: to, .. } if *to == addr)), "{out:?}");
}

#[test]
fn without_peers_of_v2_it_is_opened_as_v1_soon() {
    let (mut lab, out) = told(v1_swarm, false);
    assert!(is_news(&out) && !is_anybody_gone(&out) && fetched(&out).is_none());
    let metainfo = fetched(&lab.wait(3 * S)).unwrap();
    assert!(metainfo.lacks_layers() && metainfo.has_layers());
}
