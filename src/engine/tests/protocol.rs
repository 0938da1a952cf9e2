//! One engine and scripted peers: what is said, and what is answered.

use std::collections::BTreeSet;

use super::lab::{CONN, Lab, S, is_closed, requests, sent, span};
use crate::engine::sim::TORRENT;
use crate::engine::{Config, DisconnectReason, Input, Output, PieceOutcome, ReadError, TorrentManager, Verdict};
use crate::metainfo::testing;
use crate::types::{
    BLOCK_LEN, BlockDigest, BlockSpan, ConnId, HashAlgorithm, PeerIdentity, PieceIndex, ReadId, ReaderId,
};
use crate::wire::{ExtensionHandshake, HashRequest, KNOT_METAINFO, Message, MetadataMessage};

#[test]
fn a_seed_introduces_itself_and_serves_who_is_interested() {
    let mut lab = Lab::new(HashAlgorithm::Sha1, true);
    let out = lab.connect(CONN, 1, true, false);
    assert_eq!(sent(&out)[0], &Message::HaveAll);
    let Message::Extended { id: 0, payload } = sent(&out)[1] else { panic!("{out:?}") };
    let ours = ExtensionHandshake::decode(payload).unwrap();
    assert_eq!(ours.metainfo_size, Some(lab.metainfo.public_bytes().len() as u64));
    assert!(ours.upload_only == Some(true) && ours.extensions.contains_key(KNOT_METAINFO));
    assert_eq!(sent(&lab.say(Message::Interested)), [&Message::Unchoke]);
    let out = lab.say(Message::Request(span(2, 1)));
    assert!(matches!(out[..], [Output::SendBlock { conn: CONN, span: sent }] if sent == span(2, 1)));
    lab.put(Input::BlockSent { conn: CONN, span: span(2, 1) });
    assert_eq!(lab.engine.stats(lab.now, TORRENT).unwrap().uploaded_bytes, u64::from(BLOCK_LEN));
}

#[test]
fn every_request_gets_exactly_one_answer() {
    let mut lab = Lab::new(HashAlgorithm::Sha1, true);
    lab.connect(CONN, 1, true, false);
    lab.say(Message::HaveNone);
    let reject = |span| Message::Reject(span);
    let allowed: Vec<u32> = (0..8).filter(|piece| !is_rejected(&mut lab, span(*piece, 0))).collect();
    assert!(!allowed.is_empty() && allowed.len() < 8, "some pieces may be asked for while choked: {allowed:?}");
    for piece in allowed {
        lab.put(Input::BlockSent { conn: CONN, span: span(piece, 0) });
    }
    lab.say(Message::Interested);
    let mut accepted = 0;
    for at in 0..32u32 {
        let wanted = span(at % 8, at / 8 % 4);
        let out = lab.say(Message::Request(wanted));
        match &out[..] {
            [] | [Output::SendBlock { .. }] => accepted += 1,
            [Output::Send { message, .. }] => assert_eq!(*message, reject(wanted)),
            _ => panic!("{out:?}"),
        }
    }
    assert_eq!(accepted, 20 + 1, "the queue is bounded, and so is what is on its way");
    assert!(lab.say(Message::Cancel(span(0, 0))).is_empty(), "on its way already: the block is the answer");
    assert_eq!(sent(&lab.say(Message::Cancel(span(5, 1)))), [&reject(span(5, 1))]);
    let out = lab.put(Input::BlockUnreadable { conn: CONN, span: span(0, 0) });
    assert_eq!(sent(&out), [&reject(span(0, 0))]);
    assert!(matches!(out[1], Output::SendBlock { .. }), "the next one goes on its way");
    let beyond = BlockSpan { piece: PieceIndex(8), ..span(0, 0) };
    assert_eq!(sent(&lab.say(Message::Request(beyond))), [&reject(beyond)]);
    assert!(is_closed(&lab.say(Message::Request(BlockSpan { len: 1 << 20, ..span(0, 0) }))));
}

fn is_rejected(lab: &mut Lab, span: BlockSpan) -> bool {
    sent(&lab.say(Message::Request(span))) == [&Message::Reject(span)]
}

#[test]
fn nothing_is_said_of_the_fast_extension_to_peers_without_it() {
    let mut lab = Lab::new(HashAlgorithm::Sha1, true);
    let out = lab.connect(CONN, 1, false, false);
    assert!(matches!(sent(&out)[..], [Message::Bitfield(_)]), "{out:?}");
    assert!(lab.say(Message::Request(span(0, 0))).is_empty(), "choked: silence");
    assert!(is_closed(&lab.say(Message::HaveAll)));
}

#[test]
fn hash_requests_go_to_storage_if_they_make_sense() {
    let mut lab = Lab::new(HashAlgorithm::Sha256Merkle, true);
    lab.connect(CONN, 1, true, false);
    let good = HashRequest { root: [1; 32], base_layer: 0, index: 4, length: 4, proof_layers: 0 };
    assert!(matches!(lab.say(Message::HashRequest(good))[..], [Output::SendHashes { .. }]));
    for bad in
        [HashRequest { length: 3, ..good }, HashRequest { index: 2, ..good }, HashRequest { length: 1 << 20, ..good }]
    {
        assert_eq!(sent(&lab.say(Message::HashRequest(bad))), [&Message::HashReject(bad)]);
    }
}

#[test]
fn leaf_hashes_are_asked_for_before_the_first_block() {
    let mut lab = Lab::new(HashAlgorithm::Blake3, false);
    lab.connect(CONN, 1, true, true);
    assert_eq!(sent(&lab.say(Message::HaveAll)), [&Message::Interested], "before anything is read");
    lab.say(Message::Unchoke);
    let out = lab.read(0, 2 * BLOCK_LEN);
    assert!(matches!(sent(&out)[..], [Message::HashRequest(_), Message::Request(_), Message::Request(_)]), "{out:?}");
    assert_eq!(requests(&out), [span(0, 0), span(0, 1)], "no more than what is read");
}

#[test]
fn a_reject_sends_the_block_elsewhere() {
    let mut lab = Lab::new(HashAlgorithm::Sha1, false);
    for (conn, node) in [(CONN, 1), (ConnId(8), 2)] {
        lab.connect(conn, node, true, true);
        lab.put(Input::Message { conn, message: Message::HaveAll });
    }
    lab.say(Message::Unchoke);
    let asked = requests(&lab.read(0, 100));
    assert_eq!(asked.len(), 4, "only the whole piece can be verified");
    lab.put(Input::Message { conn: ConnId(8), message: Message::Unchoke });
    let out = lab.say(Message::Reject(asked[0]));
    let moved = |out: &Output| matches!(out, Output::Send { conn: ConnId(8), message: Message::Request(span) } if *span == asked[0]);
    assert!(out.iter().any(moved), "{out:?}");
    assert!(!out.iter().any(|out| matches!(out, Output::Send { conn: CONN, message: Message::Request(_) })));
}

#[test]
fn unsolicited_and_impossible_things_end_the_connection() {
    let mut lab = Lab::new(HashAlgorithm::Sha1, false);
    lab.connect(CONN, 1, true, true);
    let out = lab.put(Input::Block { conn: CONN, span: span(0, 0) });
    assert!(matches!(out[0], Output::Discard { .. }) && is_closed(&out), "{out:?}");
    let out = lab.put(Input::Block { conn: CONN, span: span(0, 1) });
    assert!(matches!(out[..], [Output::Discard { .. }]), "a block is always answered: {out:?}");
    let impossible = [
        Message::Have(PieceIndex(8)),
        Message::Bitfield(vec![0xff, 0xff].into()),
        Message::AllowedFast(PieceIndex(8)),
        Message::Extended { id: 0, payload: b"le"[..].into() },
    ];
    for (message, at) in impossible.into_iter().zip(20..) {
        let conn = ConnId(at);
        lab.connect(conn, at as usize, true, false);
        let out = lab.put(Input::Message { conn, message: message.clone() });
        assert!(is_closed(&out), "{message:?} {out:?}");
    }
    lab.connect(ConnId(30), 30, true, false);
    lab.put(Input::Message { conn: ConnId(30), message: Message::HaveNone });
    assert!(is_closed(&lab.put(Input::Message { conn: ConnId(30), message: Message::HaveAll })), "late inventory");
}

#[test]
fn a_bitfield_may_stand_for_many_have_messages() {
    let mut lab = Lab::new(HashAlgorithm::Sha1, false);
    lab.connect(CONN, 1, true, false);
    lab.say(Message::HaveNone);
    lab.say(Message::Have(PieceIndex(1)));
    for _ in 0..2 {
        assert!(!is_closed(&lab.put(Input::Message { conn: CONN, message: Message::Bitfield(vec![0x60].into()) })));
    }
    assert!(is_closed(&lab.put(Input::Message { conn: CONN, message: Message::Bitfield(vec![0, 0].into()) })));
}

#[test]
fn corrupt_blocks_ban_and_banned_peers_stay_out() {
    let mut lab = Lab::new(HashAlgorithm::Sha256Merkle, false);
    lab.connect(CONN, 1, true, true);
    lab.say(Message::HaveAll);
    lab.say(Message::Unchoke);
    let asked = requests(&lab.read(0, 100))[0];
    assert!(matches!(lab.put(Input::Block { conn: CONN, span: asked })[0], Output::Store { .. }));
    let stored = |conn, verdict| Input::Stored { torrent: TORRENT, span: asked, conn, verdict };
    assert!(lab.put(stored(ConnId(99), Verdict::Corrupt)).is_empty(), "not what this peer sent");
    let out = lab.put(stored(CONN, Verdict::Corrupt));
    assert!(matches!(out[0], Output::Ban { .. }), "{out:?}");
    assert!(matches!(out[1], Output::Disconnect { conn: CONN, reason: DisconnectReason::Banned }));
    let out = lab.connect(ConnId(9), 1, true, false);
    assert!(matches!(out[..], [Output::Disconnect { reason: DisconnectReason::Banned, .. }]));
}

/// Delivers what is asked for of the first piece, until storage is to check it. Who delivered.
fn deliver_first_piece(lab: &mut Lab, mut out: Vec<Output>) -> BTreeSet<ConnId> {
    let mut deliverers = BTreeSet::new();
    for _ in 0..100 {
        if out.iter().any(|out| matches!(out, Output::CheckPiece { .. })) {
            return deliverers;
        }
        let mut next = Vec::new();
        for out in out {
            let Output::Send { conn, message: Message::Request(span) } = out else { continue };
            if span.piece == PieceIndex(0) {
                deliverers.insert(conn);
                next.extend(lab.put(Input::Block { conn, span }));
                let verdict = Verdict::Unverified;
                next.extend(lab.put(Input::Stored { torrent: TORRENT, span, conn, verdict }));
            }
        }
        out = if next.is_empty() { lab.wait(S / 10) } else { next };
    }
    panic!("expected all of the piece to be asked for, got requests to {deliverers:?} only");
}

/// A piece that two peers delivered failed. One of them delivers all of it again, and leaves while it is checked.
#[test]
fn a_check_is_about_who_sent_what_is_checked() {
    let mut lab = Lab::new(HashAlgorithm::Sha1, false);
    for at in [1, 2] {
        lab.connect(ConnId(at), at as usize, true, true);
        lab.hear(ConnId(at), Message::HaveAll);
        lab.hear(ConnId(at), Message::Unchoke);
    }
    let wrong = |lab: &mut Lab| {
        let outcome = PieceOutcome::Corrupt { digests: vec![BlockDigest([0; 16]); 4] };
        lab.put(Input::PieceChecked { torrent: TORRENT, piece: PieceIndex(0), outcome })
    };
    let out = lab.read(0, 4 * BLOCK_LEN);
    assert_eq!(deliver_first_piece(&mut lab, out).len(), 2);
    let out = wrong(&mut lab);
    let sole = deliver_first_piece(&mut lab, out);
    let left = *sole.first().unwrap();
    assert_eq!(sole.len(), 1);
    let mut out = lab.put(Input::Disconnected { conn: left });
    out.extend(lab.wait(S));
    assert!(requests(&out).iter().all(|span| span.piece != PieceIndex(0)), "nothing of it before the outcome");
    let out = wrong(&mut lab);
    let banned = out.iter().find_map(|out| if let Output::Ban { identity, .. } = out { Some(identity) } else { None });
    assert_eq!(banned, Some(&PeerIdentity::Memory(left.0)));
    assert_eq!(requests(&out).iter().filter(|span| span.piece == PieceIndex(0)).count(), 4, "of the other one");
}

#[test]
fn both_ends_keep_the_same_of_two_crossing_connections() {
    // Our id is that of node 100.
    for (other, kept_outgoing) in [(50, true), (150, false)] {
        for outgoing_first in [true, false] {
            let mut lab = Lab::new(HashAlgorithm::Sha1, false);
            lab.connect(ConnId(1), other, true, outgoing_first);
            let out = lab.connect(ConnId(2), other, true, !outgoing_first);
            let closed = out.iter().find_map(|out| match out {
                Output::Disconnect { conn, reason: DisconnectReason::Duplicate } => Some(*conn),
                _ => None,
            });
            let kept_first = outgoing_first == kept_outgoing;
            assert_eq!(closed, Some(ConnId(if kept_first { 2 } else { 1 })), "{other} {outgoing_first}");
        }
    }
    let mut lab = Lab::new(HashAlgorithm::Sha1, false);
    assert!(is_closed(&lab.connect(CONN, 100, true, true)), "ourselves");
}

#[test]
fn silent_peers_are_left_and_quiet_ones_hear_from_us() {
    let mut lab = Lab::new(HashAlgorithm::Sha1, true);
    lab.connect(CONN, 1, true, false);
    let out = lab.wait(110 * S);
    assert_eq!(sent(&out), [&Message::KeepAlive]);
    let out = lab.wait(140 * S);
    assert!(out.iter().any(|out| matches!(out, Output::Disconnect { reason: DisconnectReason::Silent(_), .. })));
}

#[test]
fn lost_pieces_are_told_and_fetched_again() {
    let mut lab = Lab::new(HashAlgorithm::Sha1, true);
    lab.connect(CONN, 1, true, false);
    let theirs = ExtensionHandshake { extensions: [("lt_donthave".to_owned(), 9)].into(), ..Default::default() };
    lab.say(Message::Extended { id: 0, payload: theirs.encode() });
    lab.say(Message::HaveAll);
    let out = lab.put(Input::Lost { torrent: TORRENT, piece: PieceIndex(3) });
    let told = Message::Extended { id: 9, payload: vec![0, 0, 0, 3].into() };
    assert_eq!(sent(&out), [&told, &Message::Interested]);
    assert!(is_rejected(&mut lab, span(3, 0)));
    lab.say(Message::Unchoke);
    assert_eq!(requests(&lab.read(3 << 16, 10)).len(), 4);
}

#[test]
fn metainfo_of_absurd_size_is_not_asked_for() {
    let (metainfo, _) = testing::torrent(HashAlgorithm::Sha1, BLOCK_LEN, &[testing::content(1, 100)]);
    for (size, closed) in [(33 << 20, true), (u64::MAX >> 1, true), (1000, false)] {
        let mut lab = Lab::new(HashAlgorithm::Sha1, false);
        lab.engine = TorrentManager::new(Config::default(), 1);
        lab.put(Input::AddById { torrent: TORRENT, id: metainfo.info_id() });
        lab.connect(CONN, 1, true, true);
        let extensions = [(KNOT_METAINFO.to_owned(), 5)].into();
        let theirs = ExtensionHandshake { extensions, metainfo_size: Some(size), ..Default::default() };
        let out = lab.say(Message::Extended { id: 0, payload: theirs.encode() });
        assert_eq!(is_closed(&out), closed, "{size}");
        if !closed {
            let ask = Message::Extended { id: 5, payload: MetadataMessage::Request { piece: 0 }.encode() };
            assert_eq!(sent(&out), [&ask]);
            // Another size than announced: others would be asked.
            let data = MetadataMessage::Data { piece: 0, total_size: 999, data: vec![0; 999].into() };
            assert!(lab.say(Message::Extended { id: 1, payload: data.encode() }).is_empty());
        }
    }
}

#[test]
fn reads_of_what_is_not_open_fail_at_once() {
    let mut lab = Lab::new(HashAlgorithm::Sha1, false);
    let read = Input::Read { read: ReadId(1), reader: ReaderId(5), offset: 0, len: 1 };
    assert!(matches!(lab.put(read)[..], [Output::ReadFailed { reason: ReadError::Closed, .. }]));
    lab.read(0, 10);
    let out = lab.put(Input::CloseReader { reader: ReaderId(1) });
    assert!(matches!(out[..], [Output::ReadFailed { reason: ReadError::Closed, .. }]));
    lab.connect(CONN, 1, true, true);
    lab.read(0, 10);
    let out = lab.put(Input::Remove { torrent: TORRENT });
    assert!(matches!(out[..], [Output::ReadFailed { .. }, Output::Disconnect { conn: CONN, .. }]), "{out:?}");
    assert!(lab.put(Input::Disconnected { conn: CONN }).is_empty());
    assert_eq!(lab.engine.poll_timeout(), None);
}

/// Files with the same root share their place in storage: what one of them has verified is verified for the other.
#[test]
fn a_piece_is_checked_also_when_its_last_block_turns_out_to_be_verified() {
    let mut lab = Lab::new(HashAlgorithm::Sha256Merkle, false);
    // A peer that tells no hashes.
    lab.connect(CONN, 1, false, true);
    let mut out = lab.say(Message::Bitfield(vec![0xff].into()));
    out.extend(lab.say(Message::Unchoke));
    out.extend(lab.read(0, 4 * BLOCK_LEN));
    let mut asked: Vec<_> = requests(&out).into_iter().filter(|span| span.piece.0 == 0).collect();
    asked.sort_unstable_by_key(|span| span.begin);
    assert_eq!(asked.len(), 4);
    for span in &asked {
        lab.put(Input::Block { conn: CONN, span: *span });
    }
    let mut checked = None;
    for (at, span) in asked.iter().enumerate() {
        assert_eq!(checked, None, "not before all of it is here");
        let verdict = if at == 3 { Verdict::Verified } else { Verdict::Unverified };
        let out = lab.put(Input::Stored { torrent: TORRENT, span: *span, conn: CONN, verdict });
        let check = |out: &Output| if let Output::CheckPiece { blocks, .. } = out { Some(blocks.len()) } else { None };
        checked = out.iter().find_map(check);
    }
    assert_eq!(checked, Some(3));
}
