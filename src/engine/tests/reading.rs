//! Readers: latency, windows, seeks, time-outs.

use std::time::Duration;

use crate::engine::sim::{App, Conduct, Event, Pattern, Sim, leech, seed};
use crate::types::{FileIndex, HashAlgorithm};

const MB: f64 = 1e6;
const MIB: usize = 1 << 20;
const S: Duration = Duration::from_secs(1);

fn pair(algorithm: HashAlgorithm, piece: u32, len: usize, latency_ms: u64, up: f64) -> Sim {
    let mut sim = Sim::new(1, algorithm, piece, &[len], vec![seed(latency_ms, up), leech(latency_ms, up)]);
    sim.introduce(1, [0]);
    sim
}

#[test]
fn a_file_is_read_at_the_rate_of_the_link() {
    for algorithm in HashAlgorithm::ALL {
        for (latency, up) in [(0, 900.0 * MB), (10, 20.0 * MB), (50, 10.0 * MB)] {
            let len = 48 * MIB;
            let mut sim = pair(algorithm, 1 << 18, len, latency, up);
            sim.run_for(S);
            let start = sim.net.now;
            sim.read(1, App { pattern: Pattern::Shuffled, ..App::file(0, len as u64) });
            assert!(sim.run_until(60 * S, |sim| sim.finished(1)), "{algorithm} {latency} {up}");
            let took = (sim.net.now - start).as_secs_f64();
            let ideal = len as f64 / up + 4.0 * latency as f64 / 1000.0;
            // The window has to open first, a few round trips.
            assert!(
                took < ideal * 1.35 + 0.05 + 0.04 * latency as f64,
                "{algorithm} {latency} ms: {took} of {ideal} s"
            );
            let stats = sim.stats(1);
            assert_eq!(stats.wasted.total(), 0);
            sim.check_end();
        }
    }
}

#[test]
fn the_first_byte_of_connected_peers_takes_a_round_trip() {
    for algorithm in [HashAlgorithm::Sha256Merkle, HashAlgorithm::Blake3] {
        let mut sim = pair(algorithm, 1 << 22, 64 * MIB, 5, 50.0 * MB);
        sim.run_for(2 * S);
        let app = sim.read(1, App { len: 4096, chunk: 4096, ..App::file(0, 4096) });
        assert!(sim.run_until(S, |sim| sim.finished(1)));
        let wait = sim.nodes[1].apps[app].waits[0];
        assert!(wait < Duration::from_millis(25), "{wait:?}");
        assert_eq!(sim.stats(1).downloaded_bytes, 16384, "no more than the block is fetched");
    }
}

#[test]
fn small_scattered_reads_fetch_only_their_blocks() {
    let mut sim = pair(HashAlgorithm::Sha256Merkle, 1 << 20, 64 * MIB, 5, 50.0 * MB);
    sim.run_for(S);
    for at in 0..20u64 {
        let offset = (at * 7919 * 16384) % (60 << 20);
        let app = App { offset, len: 16384, chunk: 16384, ..App::file(0, 0) };
        sim.read(1, app);
    }
    assert!(sim.run_until(10 * S, |sim| sim.finished(1)));
    sim.run_for(S);
    assert_eq!(sim.stats(1).downloaded_bytes, 20 * 16384);
}

#[test]
fn a_stream_slower_than_the_swarm_never_waits_once_it_runs() {
    let mut sim = pair(HashAlgorithm::Blake3, 1 << 20, 24 * MIB, 50, 4.0 * MB);
    sim.run_for(S);
    let app = sim.read(1, App { rate: 2.0 * MB, ..App::file(0, 24 << 20) });
    assert!(sim.run_until(60 * S, |sim| sim.finished(1)));
    let waits = &sim.nodes[1].apps[app].waits;
    let late = waits.iter().skip(12).filter(|wait| **wait > Duration::from_millis(5)).count();
    assert!(late <= 2, "{late} of {} reads waited", waits.len());
}

#[test]
fn after_a_seek_nothing_unwanted_is_asked_for() {
    let mut sim = pair(HashAlgorithm::Sha256Merkle, 1 << 18, 64 * MIB, 20, 5.0 * MB);
    sim.run_for(S);
    sim.read(1, App::file(0, 60 << 20));
    sim.run_for(3 * S);
    let seek = sim.net.now;
    let target = 50u64 << 20;
    let Sim { net, nodes } = &mut sim;
    assert_eq!(net.check.cancels, 0);
    nodes[1].seek(net, 0, target, 131_072);
    // What the path and a tenth of a second hold.
    assert!(net.check.cancels > 30, "{} cancels", net.check.cancels);
    assert!(sim.run_until(S, |sim| sim.finished(1)), "a seek is answered soon");
    let wait = *sim.nodes[1].apps[0].waits.last().unwrap();
    assert!(wait < Duration::from_millis(300), "{wait:?}");
    sim.run_for(2 * S);
    let pieces = (target >> 18) as u32..((target + 131_072) >> 18) as u32 + 1;
    let unwanted: Vec<_> =
        sim.net.check.requests[&1].iter().filter(|(at, span)| *at > seek && !pieces.contains(&span.piece.0)).collect();
    assert!(unwanted.is_empty(), "{unwanted:?}");
    assert_eq!(sim.net.check.unanswered(), 0, "every request ends");
}

#[test]
fn reads_without_peers_fail_in_time_and_succeed_when_one_is_back() {
    let mut sim = pair(HashAlgorithm::Sha256, 1 << 18, 8 * MIB, 5, 10.0 * MB);
    sim.at(0, 0, Event::Die);
    sim.run_for(S);
    let timeout = 10 * S;
    sim.read(1, App { timeout, ahead: 1, len: 131_072, ..App::file(0, 0) });
    let start = sim.net.now;
    assert!(sim.run_until(30 * S, |sim| sim.finished(1)));
    assert_eq!(sim.nodes[1].apps[0].failed, 1);
    assert_eq!(sim.net.now - start, timeout);
    sim.at(60_000, 0, Event::Revive);
    sim.run_until(60 * S - sim.elapsed(), |_| false);
    sim.read(1, App { timeout, len: 131_072, ..App::file(0, 0) });
    assert!(sim.run_until(10 * S, |sim| sim.finished(1)));
    assert_eq!(sim.nodes[1].apps[1].failed, 0);
}

#[test]
fn another_seeder_takes_over_from_one_that_dies_or_falls_silent() {
    for (die, silent) in [(true, false), (false, true)] {
        let conduct = Conduct { stalls_after: silent.then_some(3 * S), ..Conduct::default() };
        let specs = vec![seed(5, 10.0 * MB).conduct(conduct), seed(5, 10.0 * MB), leech(5, 10.0 * MB)];
        let mut sim = Sim::new(3, HashAlgorithm::Blake3, 1 << 20, &[64 * MIB], specs);
        sim.introduce(2, [0, 1]);
        if die {
            sim.at(3000, 0, Event::Die);
        }
        sim.run_for(S);
        let app = sim.read(2, App::file(0, 64 << 20));
        assert!(sim.run_until(20 * S, |sim| sim.finished(2)), "die: {die}");
        let reading = &sim.nodes[2].apps[app];
        assert_eq!(reading.failed, 0);
        let worst = reading.waits.iter().max().unwrap();
        assert!(*worst < 4 * S, "die: {die}, {worst:?}");
        sim.check_end();
    }
}

#[test]
fn a_slow_peer_does_not_hold_up_a_read() {
    // One fast among many slow ones.
    let mut specs = vec![seed(5, 20.0 * MB)];
    specs.extend((0..9).map(|_| seed(40, 0.05 * MB)));
    specs.push(leech(5, 10.0 * MB));
    let mut sim = Sim::new(5, HashAlgorithm::Sha256Merkle, 1 << 22, &[96 * MIB], specs);
    sim.introduce(10, 0..10);
    sim.run_for(2 * S);
    let start = sim.net.now;
    let app = sim.read(10, App::file(0, 96 << 20));
    assert!(sim.run_until(30 * S, |sim| sim.finished(10)));
    let took = (sim.net.now - start).as_secs_f64();
    assert!(took < 7.5, "{took} s");
    let worst = sim.nodes[10].apps[app].waits.iter().max().unwrap();
    assert!(*worst < S * 3 / 2, "{worst:?}");
    sim.check_end();
}

#[test]
fn readers_share_the_link_fairly() {
    let len = 16 * MIB;
    let mut sim =
        Sim::new(7, HashAlgorithm::Blake3, 1 << 20, &[len; 4], vec![seed(10, 10.0 * MB), leech(10, 1.0 * MB)]);
    sim.introduce(1, [0]);
    sim.run_for(S);
    for file in 0..4 {
        sim.read(1, App { file: FileIndex(file), ..App::file(0, len as u64) });
    }
    sim.run_for(3 * S);
    let done: Vec<f64> = sim.nodes[1].apps.iter().map(|app| app.waits.len() as f64).collect();
    let jain = done.iter().sum::<f64>().powi(2) / (4.0 * done.iter().map(|x| x * x).sum::<f64>());
    assert!(jain > 0.9, "{done:?}");
    assert!(sim.run_until(20 * S, |sim| sim.finished(1)));
    sim.check_end();
}

/// What a slow seed was asked for ahead of a reader goes to the fast one as soon as another reader waits for it.
#[test]
fn what_a_slow_seed_has_ahead_of_one_reader_does_not_hold_up_another() {
    let slow = (0..8).map(|_| seed(15, 0.05 * MB));
    let specs: Vec<_> = slow.chain([seed(15, 2.0 * MB), leech(5, 1.0 * MB)]).collect();
    let mut sim = Sim::new(3, HashAlgorithm::Sha256Merkle, 1 << 22, &[64 * MIB], specs);
    sim.introduce(9, 0..9);
    sim.run_for(S);
    // It plays, so that there is room for others; its window is seconds long.
    sim.read(9, App { rate: 1.6 * MB, ..App::file(0, 32 << 20) });
    sim.run_for(4 * S);
    let mut waits = Vec::new();
    for at in 0..48 {
        let offset = ((sim.nodes[9].apps[0].read_bytes >> 14) + 8 + at * 8) << 14;
        let app = sim.read(9, App { offset, len: 1 << 14, chunk: 1 << 14, ..App::file(0, 0) });
        assert!(sim.run_until(5 * S, |sim| sim.nodes[9].apps[app].is_finished()));
        waits.push(sim.nodes[9].apps[app].waits[0]);
    }
    waits.sort();
    let waited = waits.iter().filter(|wait| !wait.is_zero()).count();
    assert!(waited >= 8 && waits[47] < Duration::from_millis(300), "{waits:?}");
}

#[test]
fn a_mute_peer_costs_no_read_more_than_a_moment() {
    for first_is_mute in [true, false] {
        let mute = Conduct { stalls_after: Some(Duration::ZERO), ..Conduct::default() };
        let mut specs = vec![seed(5, 10.0 * MB), seed(5, 10.0 * MB), leech(5, 10.0 * MB)];
        let at = usize::from(!first_is_mute);
        specs[at] = specs[at].clone().conduct(mute);
        let mut sim = Sim::new(3, HashAlgorithm::Sha256Merkle, 1 << 22, &[64 * MIB], specs);
        sim.introduce(2, [0, 1]);
        sim.run_for(S);
        let pattern = Pattern::Seeking { seeks: 40, run: 1 << 18 };
        let app = sim.read(2, App { pattern, ..App::file(0, 64 << 20) });
        assert!(sim.run_until(60 * S, |sim| sim.finished(2)));
        let mut waits = sim.nodes[2].apps[app].seeks.clone();
        waits.sort();
        assert!(waits[39] < S * 3 / 2, "{waits:?}");
        assert!(waits[36] < S / 5, "it is known before long: {waits:?}");
        sim.check_end();
    }
}

#[test]
fn a_look_at_the_end_leaves_the_way_open() {
    // As players do it for the duration: the window that follows the look is as good as the one before.
    let mut sim = pair(HashAlgorithm::Blake3, 1 << 20, 64 * MIB, 20, 5.0 * MB);
    sim.run_for(S);
    sim.read(1, App::file(0, 4 << 20));
    assert!(sim.run_until(10 * S, |sim| sim.finished(1)));
    for (offset, len) in [((64 << 20) - 65_536, 65_536), (5 << 20, 131_072), ((5 << 20) + 131_072, 262_144)] {
        let Sim { net, nodes } = &mut sim;
        nodes[1].seek(net, 0, offset, len);
        assert!(sim.run_until(5 * S, |sim| sim.finished(1)));
    }
    assert!(sim.stats(1).window_bytes > 0, "{:?}", sim.stats(1));
}
