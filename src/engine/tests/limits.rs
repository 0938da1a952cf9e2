//! Rates that the user allows, and the memory for reading ahead.

use std::collections::BTreeMap;
use std::time::Duration;

use super::lab::{CONN, Lab, S, sent, span};
use crate::engine::sim::{App, Pattern, Sim, TORRENT, leech, seed, wire_id};
use crate::engine::{Input, Output, Prefetch, Verdict};
use crate::metainfo::testing;
use crate::types::{Bitfield, ConnId, FileIndex, HashAlgorithm, PeerAddr, PeerIdentity, TorrentKey};
use crate::wire::{Handshake, Message};

const MB: f64 = 1e6;
const MIB: usize = 1 << 20;

fn swarm(specs: Vec<crate::engine::sim::Spec>) -> Sim {
    let count = specs.len();
    let mut sim = Sim::new(1, HashAlgorithm::Sha256Merkle, 1 << 18, &[24 * MIB], specs);
    for node in 1..count {
        sim.introduce(node, [0]);
    }
    sim
}

#[test]
fn downloads_keep_to_their_limit_and_use_it() {
    let limited = leech(20, 1.0 * MB).tune(|config| config.download_limit = Some(500_000));
    let mut sim = swarm(vec![seed(20, 50.0 * MB), limited]);
    sim.prefetch_all(1);
    sim.run_for(20 * S);
    let got = sim.stats(1).downloaded_bytes as f64 / 20.0;
    assert!((440_000.0..530_000.0).contains(&got), "{got} bytes a second");
    // A read goes before what nobody has asked for.
    let app = sim.read(1, App { offset: 20 << 20, len: 50_000, chunk: 50_000, ..App::file(0, 0) });
    assert!(sim.run_until(2 * S, |sim| sim.finished(1)));
    assert!(sim.nodes[1].apps[app].waits[0] < S / 2, "{:?}", sim.nodes[1].apps[app].waits);
    sim.check_end();
}

#[test]
fn a_read_at_the_limit_gets_all_of_it() {
    let limited = leech(20, 1.0 * MB).tune(|config| config.download_limit = Some(1_000_000));
    let mut sim = swarm(vec![seed(20, 50.0 * MB), limited]);
    sim.run_for(S);
    sim.read(1, App::file(0, 10 << 20));
    let start = sim.net.now;
    assert!(sim.run_until(30 * S, |sim| sim.finished(1)));
    let took = (sim.net.now - start).as_secs_f64();
    assert!((9.5..12.0).contains(&took), "{took} s");
    assert_eq!(sim.stats(1).wasted.total(), 0);
}

#[test]
fn uploads_keep_to_their_limit_and_everybody_gets_a_share() {
    let limited = seed(10, 50.0 * MB).tune(|config| config.upload_limit = Some(400_000));
    let takes = leech(10, 1.0 * MB).tune(|config| config.no_upload = true);
    let mut sim = swarm(vec![limited, takes.clone(), takes.clone(), takes.clone(), takes]);
    for node in 1..5 {
        sim.prefetch_all(node);
    }
    sim.run_for(30 * S);
    let rate = sim.stats(0).uploaded_bytes as f64 / 30.0;
    assert!((360_000.0..420_000.0).contains(&rate), "{rate} bytes a second");
    for node in 1..5 {
        let share = sim.stats(node).downloaded_bytes as f64 / 30.0;
        assert!((80_000.0..120_000.0).contains(&share), "{node}: {share} bytes a second");
        assert_eq!(sim.stats(node).uploaded_bytes, 0);
    }
    sim.check_end();
}

#[test]
fn who_gives_nothing_says_so() {
    let (metainfo, _) = testing::torrent(HashAlgorithm::Sha1, 65536, &[testing::content(1, 8 << 16)]);
    let mut lab = Lab::with(metainfo, |config| config.no_upload = true);
    lab.open(true);
    let out = lab.connect(CONN, 1, true, false);
    assert!(!sent(&out).iter().any(|message| matches!(message, Message::AllowedFast(_))));
    assert!(lab.say(Message::Interested).is_empty());
    assert_eq!(sent(&lab.say(Message::Request(span(0, 0)))), [&Message::Reject(span(0, 0))]);
    assert!(!sent(&lab.wait(60 * S)).contains(&&Message::Unchoke));
}

/// Two torrents with a peer each that answers at once.
#[test]
fn torrents_take_turns_under_the_limit() {
    let make = |at| testing::torrent(HashAlgorithm::Sha1, 1 << 20, &[testing::content(at, 32 << 20)]).0;
    let mut lab = Lab::with(make(1), |config| config.download_limit = Some(1_000_000));
    let keys = [TORRENT, TorrentKey(2)];
    let mut out = Vec::new();
    for (key, metainfo) in keys.into_iter().zip([make(1), make(2)]) {
        let (swarm, verified) = (metainfo.info_id().swarm_id(), Bitfield::new(metainfo.layout().block_numbers()));
        lab.put(Input::Open { torrent: key, metainfo: metainfo.into(), verified });
        lab.put(Input::SetPrefetch { torrent: key, prefetch: Prefetch::All });
        let conn = ConnId(u64::from(key.0));
        lab.put(Input::Connected {
            conn,
            torrent: key,
            addr: PeerAddr::Memory(1),
            identity: PeerIdentity::Memory(1),
            handshake: Handshake::new(swarm, wire_id(1)),
            outgoing: true,
        });
        lab.hear(conn, Message::HaveAll);
        out.extend(lab.hear(conn, Message::Unchoke));
    }
    let mut got: BTreeMap<TorrentKey, u64> = BTreeMap::new();
    for _ in 0..1000 {
        for output in std::mem::take(&mut out) {
            let Output::Send { conn, message: Message::Request(span) } = output else { continue };
            let torrent = TorrentKey(conn.0 as u32);
            *got.entry(torrent).or_default() += u64::from(span.len);
            out.extend(lab.put(Input::Block { conn, span }));
            out.extend(lab.put(Input::Stored { torrent, span, conn, verdict: Verdict::Unverified }));
        }
        out.extend(lab.wait(Duration::from_millis(10)));
    }
    let (one, two) = (got[&keys[0]] as f64, got[&keys[1]] as f64);
    assert!((0.95..1.08).contains(&((one + two) / 10e6)), "{got:?}");
    assert!((0.8..1.25).contains(&(one / two)), "{got:?}");
}

#[test]
fn windows_stay_within_their_budget() {
    const BUDGET: u64 = 3 << 20;
    let files = [8 * MIB; 6];
    let specs = vec![seed(5, 40.0 * MB), leech(5, 1.0 * MB)];
    let mut sim = Sim::new(1, HashAlgorithm::Blake3, 1 << 17, &files, specs);
    sim.nodes[1].engine.set_window_budget(BUDGET);
    sim.introduce(1, [0]);
    sim.run_for(S);
    let mut most = 0;
    let mut within = |sim: &Sim| {
        let bytes = sim.stats(1).window_bytes;
        most = most.max(bytes);
        assert!(bytes <= BUDGET, "{bytes}");
        sim.finished(1)
    };
    for file in 0..6 {
        // Slower than the swarm, so that the windows are used.
        sim.read(1, App { file: FileIndex(file), rate: 2.0 * MB, pattern: Pattern::Shuffled, ..App::file(0, 8 << 20) });
        sim.run_until(S / 2, &mut within);
    }
    assert!(sim.run_until(20 * S, &mut within));
    assert!(most > BUDGET * 3 / 4, "{most}");
    assert_eq!(sim.stats(1).wasted.total(), 0);
    sim.check_end();
}

#[test]
fn a_smaller_budget_takes_back_what_was_not_fetched_yet() {
    let mut sim = swarm(vec![seed(20, 2.0 * MB), leech(5, 1.0 * MB)]);
    sim.run_for(S);
    sim.read(1, App::file(0, 24 << 20));
    sim.run_for(3 * S);
    assert!(sim.stats(1).window_bytes > 1 << 20);
    sim.nodes[1].engine.set_window_budget(512 << 10);
    sim.run_for(S / 5);
    assert!(sim.stats(1).window_bytes <= 512 << 10, "{}", sim.stats(1).window_bytes);
    assert!(sim.run_until(30 * S, |sim| sim.finished(1)));
    sim.check_end();
}
