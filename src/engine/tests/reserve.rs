//! Web seeds: called when peers do not deliver, and no longer than that.

use super::lab::{CONN, Lab, S, requests};
use crate::engine::sim::{TORRENT, wire_id};
use crate::engine::{DisconnectReason, Input, Output, Prefetch, Verdict};
use crate::types::{BLOCK_LEN, BlockSpan, ConnId, HashAlgorithm, PeerAddr, PeerIdentity};
use crate::wire::{Handshake, Message};

const WEB: ConnId = ConnId(50);
const URL: &str = "http://w/";

fn lab() -> Lab {
    let mut lab = Lab::new(HashAlgorithm::Sha256, false);
    let out = lab.put(Input::PeerFound { torrent: TORRENT, addr: PeerAddr::Web(URL.into()) });
    assert!(!is_called(&out));
    lab
}

fn is_called(out: &[Output]) -> bool {
    out.iter().any(|out| matches!(out, Output::Connect { addr: PeerAddr::Web(url), .. } if url == URL))
}

fn is_dismissed(out: &[Output]) -> bool {
    out.iter().any(|out| matches!(out, Output::Disconnect { conn: WEB, reason: DisconnectReason::NoUse }))
}

/// What is requested of one peer.
fn asked(out: &[Output], of: ConnId) -> Vec<BlockSpan> {
    let of_it = |out: &&Output| matches!(out, Output::Send { conn, .. } if *conn == of);
    let one = |out: &Output| match out {
        Output::Send { message: Message::Request(span), .. } => Some(*span),
        _ => None,
    };
    out.iter().filter(of_it).filter_map(one).collect()
}

/// The web seed comes, and has everything.
fn arrives(lab: &mut Lab) -> Vec<Output> {
    let handshake = Handshake::new(lab.metainfo.info_hash().swarm_id(), wire_id(1)).without_hashes();
    let (addr, identity) = (PeerAddr::Web(URL.into()), PeerIdentity::Web(URL.into()));
    lab.put(Input::Connected { conn: WEB, torrent: TORRENT, addr, identity, handshake, outgoing: true });
    lab.hear(WEB, Message::HaveAll);
    lab.hear(WEB, Message::Unchoke)
}

/// An ordinary peer comes that has everything.
fn seed_comes(lab: &mut Lab) -> Vec<Output> {
    lab.connect(CONN, 2, true, true);
    lab.say(Message::HaveAll);
    lab.say(Message::Unchoke)
}

fn deliver(lab: &mut Lab, from: ConnId, spans: &[BlockSpan]) -> Vec<Output> {
    let mut out = Vec::new();
    for span in spans {
        out.extend(lab.put(Input::Block { conn: from, span: *span }));
        out.extend(lab.put(Input::Stored { torrent: TORRENT, span: *span, conn: from, verdict: Verdict::Verified }));
    }
    out
}

/// Lets a peer answer everything that it is asked, a second apart; what else came of it.
fn serve(lab: &mut Lab, from: ConnId, mut out: Vec<Output>, rounds: usize) -> Vec<Output> {
    let mut all = Vec::new();
    for _ in 0..rounds {
        let spans = asked(&out, from);
        all.append(&mut out);
        out = deliver(lab, from, &spans);
        out.extend(lab.wait(S / 10));
    }
    all.append(&mut out);
    all
}

#[test]
fn nobody_is_called_before_something_is_wanted_and_then_at_once_where_there_are_no_peers() {
    let mut lab = lab();
    assert!(!is_called(&lab.wait(10 * S)));
    lab.read(0, BLOCK_LEN);
    assert!(is_called(&lab.wait(S)));
    let out = arrives(&mut lab);
    assert!(!asked(&out, WEB).is_empty());
}

#[test]
fn a_torrent_that_was_just_opened_waits_for_peers_a_little() {
    let mut lab = lab();
    lab.read(0, BLOCK_LEN);
    assert!(!is_called(&lab.wait(S)));
    assert!(is_called(&lab.wait(2 * S)));
}

#[test]
fn what_is_to_be_fetched_without_being_read_calls_as_well() {
    let mut lab = lab();
    lab.put(Input::SetPrefetch { torrent: TORRENT, prefetch: Prefetch::All });
    assert!(is_called(&lab.wait(4 * S)));
    assert!(!asked(&arrives(&mut lab), WEB).is_empty());
}

#[test]
fn peers_that_deliver_are_enough() {
    let mut lab = lab();
    seed_comes(&mut lab);
    let first = lab.put(Input::SetPrefetch { torrent: TORRENT, prefetch: Prefetch::All });
    let out = serve(&mut lab, CONN, first, 60);
    assert!(lab.stats().is_complete && !is_called(&out));
}

#[test]
fn a_peer_that_stops_is_replaced_and_when_it_goes_on_the_web_seed_goes() {
    let mut lab = lab();
    seed_comes(&mut lab);
    let first = lab.read(0, 2 * BLOCK_LEN);
    assert!(!asked(&first, CONN).is_empty());
    let out = lab.wait(10 * S);
    assert!(is_called(&out), "the peer does not answer");
    let taken = arrives(&mut lab);
    let taken = [asked(&taken, WEB), asked(&lab.wait(S), WEB)].concat();
    assert!(!taken.is_empty(), "what the peer was asked for goes to the web seed");
    let out = deliver(&mut lab, WEB, &taken);
    assert!(asked(&out, CONN).is_empty());
    // The peer comes back to life: at first it is slow as far as anybody knows, and gets help.
    deliver(&mut lab, CONN, &requests(&first));
    lab.wait(20 * S);
    let mut helped = Vec::new();
    for piece in 1..8 {
        let mut out = lab.read(piece * 4 * u64::from(BLOCK_LEN), 4 * BLOCK_LEN);
        helped.clear();
        for _ in 0..20 {
            let (from_peer, from_web) = (asked(&out, CONN), asked(&out, WEB));
            helped.extend(from_web.clone());
            out = deliver(&mut lab, CONN, &from_peer);
            out.extend(deliver(&mut lab, WEB, &from_web));
            out.extend(lab.wait(S / 20));
        }
    }
    assert!(helped.is_empty(), "the last piece needs no help: {helped:?}");
    assert!(lab.stats().is_complete);
    assert!(is_dismissed(&lab.wait(40 * S)));
}

#[test]
fn one_that_sent_wrong_bytes_is_not_called_again() {
    let mut lab = lab();
    lab.wait(3 * S);
    lab.read(0, BLOCK_LEN);
    lab.wait(S);
    arrives(&mut lab);
    let spans = asked(&lab.wait(S), WEB);
    let spans = if spans.is_empty() { vec![super::lab::span(0, 0)] } else { spans };
    lab.put(Input::Block { conn: WEB, span: spans[0] });
    let verdict = Verdict::Corrupt;
    let out = lab.put(Input::Stored { torrent: TORRENT, span: spans[0], conn: WEB, verdict });
    assert!(out.iter().any(|out| matches!(out, Output::Ban { identity: PeerIdentity::Web(_), .. })));
    lab.put(Input::Disconnected { conn: WEB });
    assert!(!is_called(&lab.wait(30 * S)));
}
