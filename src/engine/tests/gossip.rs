//! Who is where: peers from peers (BEP 11), addresses from handshakes, and whom to keep (BEP 40).

use super::lab::{CONN, Lab, S, handshakes, sent};
use crate::engine::sim::{Sim, Spec, TORRENT, leech, seed};
use crate::engine::{DisconnectReason, Input, Output};
use crate::metainfo::{Metainfo, TorrentOptions, create_torrent, testing};
use crate::types::{ConnId, InfoId, PeerAddr};
use crate::wire::{ExtensionHandshake, Message, PexMessage, PexPeer, UT_PEX, UT_PEX_ID};

const MB: f64 = 1e6;

fn torrent(is_private: bool) -> Metainfo {
    let options = TorrentOptions {
        name: "0000".into(),
        form: crate::metainfo::Form::V1,
        piece_length: Some(16384),
        created_at: None,
        is_private,
        hints: Default::default(),
    };
    let source = testing::MemSource(vec![testing::content(1, 100_000)]);
    let go_on = &|_| std::ops::ControlFlow::Continue(());
    create_torrent(&options, &[testing::file("0000", 100_000)], &source, go_on).unwrap()
}

fn lab(is_private: bool) -> Lab {
    let mut lab = Lab::with(torrent(is_private), |config| config.listen_port = Some(6881));
    lab.open(false);
    lab
}

/// A peer says that it takes `ut_pex` under 9, and connections at `port`.
fn greets(lab: &mut Lab, conn: ConnId, port: Option<u16>) -> Vec<Output> {
    let extensions = [(UT_PEX.to_owned(), 9)].into();
    let theirs = ExtensionHandshake { extensions, port, ..Default::default() };
    lab.hear(conn, Message::Extended { id: 0, payload: theirs.encode() })
}

fn named(out: &[Output], to: ConnId) -> Vec<PexMessage> {
    let message = |out: &Output| match out {
        Output::Send { conn, message: Message::Extended { id: 9, payload } } if *conn == to => {
            Some(PexMessage::decode(payload).unwrap())
        }
        _ => None,
    };
    out.iter().filter_map(message).collect()
}

fn dialled(out: &[Output]) -> Vec<String> {
    let addr = |out: &Output| if let Output::Connect { addr, .. } = out { Some(addr.to_string()) } else { None };
    out.iter().filter_map(addr).collect()
}

fn pex(added: &[&str]) -> Message {
    let peer = |addr: &&str| PexPeer { addr: addr.parse().unwrap(), is_seed: false, is_reachable: true };
    let message = PexMessage { added: added.iter().map(peer).collect(), dropped: Vec::new() };
    Message::Extended { id: UT_PEX_ID, payload: message.encode() }
}

#[test]
fn peers_hear_of_who_can_be_dialled_and_of_who_left() {
    let mut lab = lab(false);
    lab.connect_from(CONN, 1, "10.0.0.1:6881", true);
    greets(&mut lab, CONN, None);
    lab.connect_from(ConnId(2), 2, "10.0.0.2:50000", false);
    greets(&mut lab, ConnId(2), Some(7000));
    lab.hear(ConnId(2), Message::HaveAll);
    lab.connect_from(ConnId(3), 3, "10.0.0.3:50000", false);
    greets(&mut lab, ConnId(3), None);
    let out = lab.wait(5 * S);
    let second = PexPeer { addr: ([10, 0, 0, 2], 7000).into(), is_seed: true, is_reachable: false };
    let first = PexPeer { addr: ([10, 0, 0, 1], 6881).into(), is_seed: false, is_reachable: true };
    let added = |peers: &[PexPeer]| PexMessage { added: peers.to_vec(), dropped: Vec::new() };
    assert_eq!(named(&out, CONN), [added(&[second])], "not of itself, nor of who cannot be dialled");
    assert_eq!(named(&out, ConnId(2)), [added(&[first])]);
    assert_eq!(named(&out, ConnId(3))[0].added.len(), 2);
    lab.put(Input::Disconnected { conn: ConnId(2) });
    assert!(named(&lab.wait(50 * S), CONN).is_empty(), "once a minute");
    let gone = PexMessage { added: Vec::new(), dropped: vec![second.addr] };
    assert_eq!(named(&lab.wait(15 * S), CONN), [gone]);
}

#[test]
fn named_peers_are_dialled_unless_they_are_in_places_that_are_not_ours_to_dial() {
    let mut lab = lab(false);
    lab.connect_from(CONN, 1, "9.9.9.9:6881", true);
    let out = lab.say(pex(&["1.2.3.4:5", "127.0.0.1:22", "10.0.0.1:80", "[2001:db8::1]:6881"]));
    assert_eq!(dialled(&out), ["1.2.3.4:5", "[2001:db8::1]:6881"]);
    let floods: Vec<_> = (0..20u8).flat_map(|at| dialled(&lab.say(pex(&[&format!("1.2.9.{at}:5")])))).collect();
    assert_eq!(floods.len(), 2, "messages that come too often are not looked at");
}

#[test]
fn private_torrents_name_nobody_and_believe_nobody() {
    let mut lab = lab(true);
    let out = lab.connect_from(CONN, 1, "10.0.0.1:6881", true);
    assert!(!handshakes(&out)[0].extensions.contains_key(UT_PEX));
    greets(&mut lab, CONN, None);
    lab.connect_from(ConnId(2), 2, "10.0.0.2:6881", true);
    assert!(dialled(&lab.say(pex(&["10.0.0.9:5"]))).is_empty());
    assert!(named(&lab.wait(5 * S), CONN).is_empty());
}

#[test]
fn what_peers_named_before_a_torrent_turned_out_private_is_forgotten() {
    let metainfo = torrent(true);
    let id: InfoId = metainfo.info_id();
    let mut lab = Lab::with(metainfo, |_| {});
    lab.put(Input::AddById { torrent: TORRENT, id });
    lab.connect_from(CONN, 1, "10.0.0.1:6881", true);
    greets(&mut lab, CONN, None);
    assert_eq!(dialled(&lab.say(pex(&["10.0.0.9:5", "10.0.0.8:5"]))).len(), 2);
    lab.connect_from(ConnId(9), 9, "10.0.0.9:5", true);
    let out = lab.open(false);
    let closed = |out: &Output| matches!(out, Output::Disconnect { conn: ConnId(9), reason: DisconnectReason::NoUse });
    assert!(out.iter().any(closed), "{out:?}");
    assert_eq!(handshakes(&out)[0].extensions.get(UT_PEX), Some(&0), "taken back");
    assert_eq!(lab.stats().known_addresses, 0);
}

#[test]
fn who_came_by_itself_can_be_dialled_later() {
    let mut lab = lab(false);
    let out = lab.connect_from(CONN, 1, "10.0.0.1:50000", false);
    let ours = handshakes(&out).remove(0);
    assert_eq!((ours.port, ours.your_ip), (Some(6881), Some([10, 0, 0, 1].into())));
    assert!(dialled(&greets(&mut lab, CONN, Some(7000))).is_empty(), "it is here");
    let addr = PeerAddr::Socket(([10, 0, 0, 1], 7000).into());
    assert!(dialled(&lab.put(Input::PeerFound { torrent: TORRENT, addr })).is_empty());
    let mut out = lab.put(Input::Disconnected { conn: CONN });
    out.extend(lab.wait(5 * S));
    assert_eq!(dialled(&out), ["10.0.0.1:7000"]);
}

#[test]
fn several_peers_may_share_an_address() {
    let mut lab = lab(false);
    for port in [1, 2] {
        let addr = PeerAddr::Socket(([10, 0, 0, 1], port).into());
        assert_eq!(dialled(&lab.put(Input::PeerFound { torrent: TORRENT, addr })).len(), 1);
    }
    lab.connect_from(CONN, 1, "10.0.0.1:1", true);
    let addr = PeerAddr::Socket(([10, 0, 0, 1], 3).into());
    assert_eq!(dialled(&lab.put(Input::PeerFound { torrent: TORRENT, addr })), ["10.0.0.1:3"]);
}

#[test]
fn of_too_many_peers_those_of_the_highest_priority_stay() {
    let change = |config: &mut crate::engine::Config| (config.listen_port, config.max_peers) = (Some(1), 10);
    let mut lab = Lab::with(torrent(false), change);
    lab.open(false);
    let mut open = std::collections::BTreeSet::new();
    let ip = |at: u64| format!("{}.{}.3.4", 20 + at % 7, at);
    for at in 0..40 {
        let conn = ConnId(at);
        let out = lab.connect_from(conn, at as usize, &format!("{}:50000", ip(at)), false);
        open.insert(conn);
        let closed = |out: &Output| if let Output::Disconnect { conn, .. } = out { Some(*conn) } else { None };
        let closed: Vec<_> = out.iter().filter_map(closed).collect();
        open.retain(|conn| !closed.contains(conn));
        assert!(open.len() <= 10);
        if open.contains(&conn) {
            let your_ip = Some([123, 213, 32, 10].into());
            let theirs = ExtensionHandshake { your_ip, port: Some(2), ..Default::default() };
            lab.hear(conn, Message::Extended { id: 0, payload: theirs.encode() });
        }
    }
    let ours = "123.213.32.10:1".parse().unwrap();
    let rank = |at: u64| crate::engine::address::priority(ours, format!("{}:2", ip(at)).parse().unwrap());
    let mut best: Vec<_> = (0..40).collect();
    best.sort_by_key(|at| std::cmp::Reverse(rank(*at)));
    assert_eq!(open, best[..10].iter().map(|at| ConnId(*at)).collect());
}

#[test]
fn a_new_seed_says_so() {
    let mut lab = lab(false);
    lab.connect_from(CONN, 1, "10.0.0.1:6881", true);
    greets(&mut lab, CONN, None);
    lab.say(Message::HaveAll);
    lab.say(Message::Unchoke);
    let asked = super::lab::requests(&lab.read(0, 100_000));
    for span in asked {
        lab.put(Input::Block { conn: CONN, span });
        let verdict = crate::engine::Verdict::Unverified;
        lab.put(Input::Stored { torrent: TORRENT, span, conn: CONN, verdict });
        let outcome = crate::engine::PieceOutcome::Verified;
        lab.put(Input::PieceChecked { torrent: TORRENT, piece: span.piece, outcome });
    }
    assert!(lab.stats().is_complete);
    let told = handshakes(&lab.wait(15 * S));
    assert_eq!(told.iter().map(|ours| ours.upload_only).collect::<Vec<_>>(), [Some(true)]);
    lab.put(Input::Lost { torrent: TORRENT, piece: crate::types::PieceIndex(1) });
    assert_eq!(handshakes(&lab.wait(15 * S))[0].upload_only, Some(false));
    assert!(!sent(&lab.wait(15 * S)).iter().any(|message| matches!(message, Message::Extended { .. })));
}

#[test]
fn everybody_finds_everybody_through_one() {
    let by_id = Spec { by_id: true, ..leech(20, 2.0 * MB) };
    let mut specs = vec![seed(10, 2.0 * MB)];
    specs.extend((0..8).map(|at| if at % 2 == 0 { by_id.clone() } else { leech(10, 2.0 * MB) }));
    let mut sim = Sim::ordinary(1, 50_000, true, &[400_000, 70_000], specs);
    for node in 1..9 {
        sim.introduce(node, [0]);
        sim.prefetch_all(node);
    }
    let met = |sim: &Sim| (1..9).all(|node| sim.stats(node).peers.len() >= 7);
    assert!(sim.run_until(70 * S, met), "{:?}", (0..9).map(|node| sim.stats(node).peers.len()).collect::<Vec<_>>());
    assert!(sim.run_until(30 * S, |sim| (1..9).all(|node| sim.stats(node).is_complete)));
    sim.check_end();
}
