//! The metainfo of ordinary torrents, to and from ordinary clients (BEP 9).

use std::time::Duration;

use super::lab::{CONN, Lab, S, handshakes, is_closed, sent};
use crate::engine::sim::TORRENT;
use crate::engine::{DisconnectReason, Input, Output};
use crate::metainfo::{Metainfo, MetainfoError, SecretKey, testing};
use crate::types::{ConnId, InfoHash, InfoId};
use crate::wire::{
    ExtensionHandshake, KNOT_METAINFO, METADATA_PIECE_LEN, Message, MetadataMessage, UT_METADATA, UT_METADATA_ID,
};

/// A v1 torrent whose `info` takes several pieces of metadata.
fn v1() -> Metainfo {
    testing::v1_torrent(16, false, &[testing::content(1, 40_000)]).0
}

fn searching(metainfo: Metainfo, id: InfoId) -> Lab {
    let mut lab = Lab::with(metainfo, |_| {});
    lab.put(Input::AddById { torrent: TORRENT, id });
    lab
}

/// A peer that receives these extensions under 7 and 8 says how large what it has is.
pub(super) fn offer(lab: &mut Lab, conn: ConnId, info: Option<u64>, envelope: Option<u64>) -> Vec<Output> {
    let both = [(UT_METADATA, 7, info), (KNOT_METAINFO, 8, envelope)];
    let extensions = both.iter().filter(|(.., size)| size.is_some()).map(|(name, id, _)| ((*name).to_owned(), *id));
    let theirs = ExtensionHandshake {
        extensions: extensions.collect(),
        metadata_size: info,
        metainfo_size: envelope,
        ..Default::default()
    };
    lab.hear(conn, Message::Extended { id: 0, payload: theirs.encode() })
}

/// What was asked for: of whom, under which of its numbers, which piece.
fn asked(out: &[Output]) -> Vec<(ConnId, u8, u32)> {
    let ask = |out: &Output| match out {
        Output::Send { conn, message: Message::Extended { id, payload } } if *id != 0 => {
            match MetadataMessage::decode(payload) {
                Ok(Some(MetadataMessage::Request { piece })) => Some((*conn, *id, piece)),
                _ => None,
            }
        }
        _ => None,
    };
    out.iter().filter_map(ask).collect()
}

fn answer(lab: &mut Lab, conn: ConnId, id: u8, piece: u32, bytes: &[u8]) -> Vec<Output> {
    let data = bytes.chunks(METADATA_PIECE_LEN as usize).nth(piece as usize).unwrap().to_vec().into();
    let message = MetadataMessage::Data { piece, total_size: bytes.len() as u64, data };
    lab.hear(conn, Message::Extended { id, payload: message.encode() })
}

/// Answers all that a peer was asked, until nothing more comes.
pub(super) fn answer_all(lab: &mut Lab, out: Vec<Output>, of: ConnId, bytes: &[u8]) -> Vec<Output> {
    let mut todo = asked(&out);
    let mut last = out;
    while let Some((conn, id, piece)) = todo.pop() {
        if conn == of {
            let ours = if id == 7 { UT_METADATA_ID } else { 1 };
            last = answer(lab, conn, ours, piece, bytes);
            todo.extend(asked(&last));
        }
    }
    last
}

pub(super) fn fetched(out: &[Output]) -> Option<std::sync::Arc<Metainfo>> {
    let metainfo = |out: &Output| {
        if let Output::MetainfoFetched { metainfo, .. } = out { Some(metainfo.clone()) } else { None }
    };
    out.iter().find_map(metainfo)
}

fn piece_of(out: &[Output]) -> Option<MetadataMessage> {
    let Message::Extended { payload, .. } = *sent(out).first()? else { return None };
    MetadataMessage::decode(payload).unwrap()
}

#[test]
fn a_magnet_link_becomes_a_torrent_with_the_info_of_an_ordinary_client() {
    let metainfo = v1();
    let (id, info) = (metainfo.info_id(), metainfo.info_bytes().clone());
    assert!(info.len() > 3 * METADATA_PIECE_LEN as usize);
    let mut lab = searching(metainfo, id);
    let greeting = lab.connect_from(CONN, 1, "10.0.0.1:6881", true);
    let ours = handshakes(&greeting).remove(0);
    assert!(ours.extensions.contains_key(UT_METADATA) && ours.metadata_size.is_none(), "it may come to have it");
    assert_eq!(ours.your_ip, Some([10, 0, 0, 1].into()));
    let mut out = offer(&mut lab, CONN, Some(info.len() as u64), None);
    let all = info.len().div_ceil(METADATA_PIECE_LEN as usize) as u32;
    assert_eq!(lab.stats().metainfo_pieces, Some((0, all)));
    let (_, number, piece) = asked(&out)[0];
    out.retain(|other| asked(std::slice::from_ref(other)) != [(CONN, number, piece)]);
    answer(&mut lab, CONN, UT_METADATA_ID, piece, &info);
    assert_eq!(lab.stats().metainfo_pieces, Some((1, all)));
    let out = answer_all(&mut lab, out, CONN, &info);
    let found = fetched(&out).unwrap();
    assert_eq!((found.info_id(), found.info_bytes()), (id, &info));
    // Once it is open, the peer hears that it can be had here too.
    let out = lab.open(false);
    assert_eq!(handshakes(&out)[0].metadata_size, Some(info.len() as u64));
}

#[test]
fn envelopes_are_preferred_and_keep_their_signature() {
    let signed = v1().sign(&SecretKey::from_seed(&[1; 32])).unwrap();
    let envelope = signed.public_bytes();
    for id in [InfoId::Hash(signed.info_hash()), signed.info_id()] {
        let mut lab = searching(signed.clone(), id);
        lab.connect_from(CONN, 1, "10.0.0.1:6881", true);
        let out = offer(&mut lab, CONN, Some(signed.info_bytes().len() as u64), Some(envelope.len() as u64));
        assert!(asked(&out).iter().all(|(_, id, _)| *id == 8), "{out:?}");
        // An ordinary client is not needed while this goes on.
        lab.connect_from(ConnId(8), 2, "10.0.0.2:6881", true);
        assert!(asked(&offer(&mut lab, ConnId(8), Some(signed.info_bytes().len() as u64), None)).is_empty());
        let out = answer_all(&mut lab, out, CONN, &envelope);
        assert_eq!(fetched(&out).unwrap().info_sig(), signed.info_sig());
    }
}

#[test]
fn an_info_cannot_prove_a_signature_and_is_not_asked_for() {
    let signed = v1().sign(&SecretKey::from_seed(&[1; 32])).unwrap();
    let mut lab = searching(signed.clone(), signed.info_id());
    lab.connect_from(CONN, 1, "10.0.0.1:6881", true);
    assert!(asked(&offer(&mut lab, CONN, Some(signed.info_bytes().len() as u64), None)).is_empty());
}

#[test]
fn twenty_bytes_may_turn_out_to_name_a_native_torrent() {
    let (native, _) = testing::torrent(crate::types::HashAlgorithm::Sha1, 16384, &[testing::content(1, 99)]);
    let (id, envelope) = (native.info_id(), native.public_bytes());
    assert_eq!(id.as_bytes().len(), 20);
    let mut lab = searching(native, id);
    lab.connect_from(CONN, 1, "10.0.0.1:6881", true);
    let out = offer(&mut lab, CONN, None, Some(envelope.len() as u64));
    let out = answer_all(&mut lab, out, CONN, &envelope);
    assert_eq!(fetched(&out).unwrap().info_id(), id);
}

#[test]
fn liars_about_the_size_and_the_content_do_not_hold_up_the_search() {
    let metainfo = v1();
    let (id, info) = (metainfo.info_id(), metainfo.info_bytes().clone());
    let size = info.len() as u64;
    let mut lab = searching(metainfo, id);
    // Four say the same wrong size and drip a piece now and then; one says nothing of use; one sends wrong bytes.
    for at in 0..4u64 {
        lab.connect_from(ConnId(at), at as usize, &format!("10.0.1.{at}:1"), true);
        offer(&mut lab, ConnId(at), Some(20 << 20), None);
    }
    lab.connect_from(ConnId(10), 10, "10.0.2.1:1", true);
    assert!(!is_closed(&offer(&mut lab, ConnId(10), Some(0), None)), "it has none yet");
    lab.connect_from(ConnId(11), 11, "10.0.2.2:1", true);
    offer(&mut lab, ConnId(11), Some(size), None);
    lab.connect_from(CONN, 12, "10.0.2.3:1", true);
    offer(&mut lab, CONN, Some(size), None);
    let drip = vec![7; 20 << 20];
    let mut out = Vec::new();
    for piece in 0..20 {
        for at in 0..4u64 {
            answer(&mut lab, ConnId(at), UT_METADATA_ID, piece, &drip);
        }
        out = lab.wait(3 * S);
        if !asked(&out).is_empty() {
            break;
        }
    }
    assert!(asked(&out).iter().any(|(conn, ..)| *conn == CONN), "{out:?}");
    let mut wrong = info.to_vec();
    wrong[info.len() / 2] ^= 1;
    let pieces = wrong.chunks(METADATA_PIECE_LEN as usize).count() as u32;
    let mut bans = Vec::new();
    for piece in 0..pieces {
        bans = answer(&mut lab, ConnId(11), UT_METADATA_ID, piece, &wrong);
    }
    assert!(matches!(bans[..], [Output::Ban { .. }, Output::Disconnect { conn: ConnId(11), .. }, ..]), "{bans:?}");
    let out = answer_all(&mut lab, out, CONN, &info);
    assert_eq!(fetched(&out).unwrap().info_id(), id);
}

#[test]
fn a_peer_that_refuses_one_piece_is_asked_again_after_a_while() {
    let metainfo = v1();
    let (id, info) = (metainfo.info_id(), metainfo.info_bytes().clone());
    let mut lab = searching(metainfo, id);
    lab.connect_from(CONN, 1, "10.0.0.1:6881", true);
    offer(&mut lab, CONN, Some(info.len() as u64), None);
    answer(&mut lab, CONN, UT_METADATA_ID, 0, &info);
    let reject = MetadataMessage::Reject { piece: 1 }.encode();
    assert!(lab.hear(CONN, Message::Extended { id: UT_METADATA_ID, payload: reject }).is_empty());
    answer(&mut lab, CONN, UT_METADATA_ID, 2, &info);
    answer(&mut lab, CONN, UT_METADATA_ID, 3, &info);
    let out = lab.wait(Duration::from_millis(1300));
    assert_eq!(asked(&out), [(CONN, 7, 1)]);
    let out = answer(&mut lab, CONN, UT_METADATA_ID, 1, &info);
    assert_eq!(fetched(&out).unwrap().info_id(), id);
}

#[test]
fn the_right_info_that_cannot_be_used_is_nobodys_fault() {
    let info = b"d4:name1:t12:piece lengthi0e6:pieces0:e";
    let hash =
        InfoHash::from_slice(&sha1::Digest::finalize(<sha1::Sha1 as sha1::Digest>::new_with_prefix(info))).unwrap();
    assert!(matches!(
        Metainfo::from_info_bytes(info),
        Err(MetainfoError::PieceLength { .. } | MetainfoError::Missing(_) | MetainfoError::Field { .. })
    ));
    let mut lab = searching(v1(), InfoId::Hash(hash));
    lab.connect_from(CONN, 1, "10.0.0.1:6881", true);
    offer(&mut lab, CONN, Some(info.len() as u64), None);
    let out = answer(&mut lab, CONN, UT_METADATA_ID, 0, info);
    assert!(matches!(&out[..], [Output::MetainfoRefused { torrent: TORRENT, .. }]), "{out:?}");
}

#[test]
fn ordinary_clients_get_the_info_and_nobody_gets_passkeys() {
    let hints = crate::metainfo::Hints {
        trackers: vec![vec!["http://tracker.example/announce?passkey=secret".to_owned()]],
        ..Default::default()
    };
    let metainfo = v1().with_hints(&hints).unwrap();
    let (info, envelope) = (metainfo.info_bytes().clone(), metainfo.public_bytes());
    let mut lab = Lab::with(metainfo, |_| {});
    lab.open(true);
    let out = lab.connect_from(CONN, 1, "10.0.0.1:50000", false);
    let ours = handshakes(&out).remove(0);
    let sizes = (Some(info.len() as u64), Some(envelope.len() as u64));
    assert_eq!((ours.metadata_size, ours.metainfo_size), sizes);
    let request = |piece| MetadataMessage::Request { piece }.encode();
    assert!(
        lab.say(Message::Extended { id: UT_METADATA_ID, payload: request(0) }).is_empty(),
        "no number to answer to"
    );
    offer(&mut lab, CONN, Some(0), Some(0));
    for (ours, bytes) in [(UT_METADATA_ID, &info), (1, &envelope)] {
        let mut got = Vec::new();
        for piece in 0..(bytes.len() as u32).div_ceil(METADATA_PIECE_LEN) {
            let Some(MetadataMessage::Data { data, total_size, .. }) =
                piece_of(&lab.say(Message::Extended { id: ours, payload: request(piece) }))
            else {
                panic!("expected piece {piece}")
            };
            assert_eq!(total_size, bytes.len() as u64);
            got.extend_from_slice(&data);
        }
        assert_eq!(got[..], bytes[..]);
        assert!(!got.windows(6).any(|part| part == b"secret"));
        let beyond = lab.say(Message::Extended { id: ours, payload: request(1000) });
        assert_eq!(piece_of(&beyond), Some(MetadataMessage::Reject { piece: 1000 }));
    }
    let mut served = 0;
    for _ in 0..100 {
        let out = lab.say(Message::Extended { id: UT_METADATA_ID, payload: request(0) });
        served += u32::from(matches!(piece_of(&out), Some(MetadataMessage::Data { .. })));
    }
    assert!(served < 20, "{served}: enough is enough");
}

#[test]
fn the_metainfo_of_private_torrents_is_not_given_away() {
    let options = crate::metainfo::TorrentOptions {
        name: "0000".into(),
        form: crate::metainfo::Form::V1,
        piece_length: Some(16384),
        created_at: None,
        is_private: true,
        hints: Default::default(),
    };
    let source = testing::MemSource(vec![testing::content(1, 99)]);
    let entries = [testing::file("0000", 99)];
    let go_on = &|_| std::ops::ControlFlow::Continue(());
    let metainfo = crate::metainfo::create_torrent(&options, &entries, &source, go_on).unwrap();
    assert!(metainfo.is_private());
    let mut lab = Lab::with(metainfo, |_| {});
    lab.open(true);
    let ours = handshakes(&lab.connect_from(CONN, 1, "10.0.0.1:50000", false)).remove(0);
    assert!(!ours.extensions.contains_key(UT_METADATA) && !ours.extensions.contains_key(KNOT_METAINFO));
    assert_eq!((ours.metadata_size, ours.metainfo_size), (None, None));
    offer(&mut lab, CONN, Some(0), Some(0));
    let payload = MetadataMessage::Request { piece: 0 }.encode();
    let out = lab.say(Message::Extended { id: UT_METADATA_ID, payload });
    assert_eq!(piece_of(&out), Some(MetadataMessage::Reject { piece: 0 }));
    assert!(!out.iter().any(|out| matches!(out, Output::Disconnect { reason: DisconnectReason::Protocol(_), .. })));
}
