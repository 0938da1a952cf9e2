//! Swarms: everybody gets everything, whoever lies is found, and nothing depends on chance but the seed.

use std::time::Duration;

use proptest::prelude::*;

use crate::engine::sim::{App, Conduct, Event, Pattern, Sim, Spec, leech, seed};
use crate::types::{HashAlgorithm, PeerIdentity};

const MB: f64 = 1e6;
const MIB: usize = 1 << 20;
const S: Duration = Duration::from_secs(1);

fn all_complete(sim: &Sim, nodes: std::ops::Range<usize>) -> bool {
    nodes.into_iter().all(|node| sim.stats(node).is_complete)
}

#[test]
fn leechers_trade_and_all_complete() {
    for algorithm in HashAlgorithm::ALL {
        let mut specs = vec![seed(10, 4.0 * MB)];
        specs.extend((0..6).map(|_| leech(10, 4.0 * MB)));
        let mut sim = Sim::new(2, algorithm, 1 << 18, &[16 * MIB, 1, 0, 70_000], specs);
        for node in 1..7 {
            sim.introduce(node, 0..7);
            sim.prefetch_all(node);
        }
        assert!(sim.run_until(60 * S, |sim| all_complete(sim, 1..7)), "{algorithm}");
        // One upload of the seed is 4 s; six without trading would be 25 s.
        assert!(sim.elapsed() < 15 * S, "{algorithm}: {:?}", sim.elapsed());
        sim.check_end();
    }
}

#[test]
fn the_metainfo_comes_from_peers_and_liars_are_banned() {
    let liar = Conduct { lies_about_metainfo: true, ..Conduct::default() };
    let by_id = Spec { by_id: true, ..leech(20, 1.0 * MB) };
    let specs = vec![seed(5, 5.0 * MB).conduct(liar), seed(20, 5.0 * MB), by_id];
    let mut sim = Sim::new(4, HashAlgorithm::Sha256Merkle, 1 << 16, &[64 * MIB], specs);
    sim.introduce(2, [0, 1]);
    assert!(sim.run_until(10 * S, |sim| sim.nodes[2].fetched_metainfo));
    sim.run_for(S);
    assert_eq!(sim.nodes[2].banned.len(), 1);
    sim.read(2, App::file(0, 1 << 20));
    assert!(sim.run_until(10 * S, |sim| sim.finished(2)));
    sim.check_end();
}

#[test]
fn corrupt_peers_are_banned_and_honest_ones_are_not() {
    for algorithm in HashAlgorithm::ALL {
        let liar = Conduct { corrupt: 300, ..Conduct::default() };
        let hashes = Conduct { lies_about_hashes: true, ..Conduct::default() };
        let specs = vec![
            seed(5, 4.0 * MB),
            seed(5, 8.0 * MB).conduct(liar),
            seed(5, 8.0 * MB).conduct(liar),
            seed(5, 4.0 * MB).conduct(hashes),
            leech(5, 1.0 * MB),
        ];
        let mut sim = Sim::new(6, algorithm, 1 << 18, &[24 * MIB], specs);
        sim.introduce(4, 0..4);
        sim.run_for(S);
        sim.read(4, App::file(0, 24 << 20));
        assert!(sim.run_until(120 * S, |sim| sim.finished(4)), "{algorithm}");
        let banned = sim.nodes[4].banned.len();
        assert!(banned >= 2, "{algorithm}: {banned} banned");
        sim.check_end();
    }
}

#[test]
fn a_liar_that_shares_every_piece_with_an_honest_peer_is_found() {
    for (algorithm, rejects_hashes) in
        [(HashAlgorithm::Sha1, false), (HashAlgorithm::Sha256, false), (HashAlgorithm::Sha256Merkle, true)]
    {
        // Of one piece too: where only a second failure would tell, there is none.
        for (len, rng) in [(1, 0), (1, 1), (1, 2), (1, 3), (16, 4), (16, 5)] {
            // The liar is slower: whoever gets a piece to itself after it failed, it is the honest one.
            let honest = Conduct { rejects_hashes, ..Conduct::default() };
            let liar = Conduct { corrupt: 1000, rejects_hashes, ..Conduct::default() };
            let specs = vec![seed(5, 8.0 * MB).conduct(honest), seed(20, 1.0 * MB).conduct(liar), leech(5, 1.0 * MB)];
            let mut sim = Sim::new(rng, algorithm, 1 << 19, &[len << 19], specs);
            sim.introduce(2, [0, 1]);
            sim.run_for(S);
            sim.read(2, App::file(0, (len as u64) << 19));
            assert!(sim.run_until(30 * S, |sim| sim.finished(2)), "{algorithm} {rng}");
            let banned: Vec<_> = sim.nodes[2].banned.iter().cloned().collect();
            assert_eq!(banned, [PeerIdentity::Memory(1)], "{algorithm} {rng}");
            assert!(sim.stats(2).wasted.corrupt <= 2 << 19, "{algorithm} {rng}: {:?}", sim.stats(2).wasted);
            sim.check_end();
        }
    }
}

/// Two of them send the same wrong bytes: what is alike is not right.
#[test]
fn liars_that_conspire_are_found() {
    for rng in 0..4 {
        let liar = Conduct { corrupt: 700, conspires: true, ..Conduct::default() };
        let mut specs: Vec<_> = (0..12).map(|at| seed(5 + at, 1.0 * MB)).collect();
        specs.extend((0..4).map(|at| seed(5 + at, 1.0 * MB).conduct(liar)));
        specs.push(leech(5, 1.0 * MB));
        let mut sim = Sim::new(rng, HashAlgorithm::Sha1, 1 << 18, &[16 * MIB], specs);
        sim.introduce(16, 0..16);
        sim.run_for(S);
        sim.read(16, App::file(0, 16 << 20));
        assert!(sim.run_until(60 * S, |sim| sim.finished(16)), "{rng}: {:?}", sim.stats(16));
        assert_eq!(sim.nodes[16].banned.len(), 4, "{rng}");
        sim.check_end();
    }
}

#[test]
fn without_leaf_hashes_pieces_are_checked_whole() {
    let mute = Conduct { rejects_hashes: true, ..Conduct::default() };
    let specs = vec![seed(5, 10.0 * MB).conduct(mute), seed(5, 10.0 * MB).conduct(mute), leech(5, 1.0 * MB)];
    let mut sim = Sim::new(8, HashAlgorithm::Sha256Merkle, 1 << 18, &[8 * MIB], specs);
    sim.introduce(2, [0, 1]);
    sim.run_for(S);
    sim.read(2, App::file(0, 8 << 20));
    assert!(sim.run_until(20 * S, |sim| sim.finished(2)));
    assert!(sim.nodes[2].banned.is_empty(), "lack of capability is no malice");
    sim.check_end();
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let run = |rng| {
        let mut specs =
            vec![seed(10, 4.0 * MB), seed(30, 1.0 * MB).conduct(Conduct { corrupt: 50, ..Conduct::default() })];
        specs.extend((0..3).map(|_| leech(10, 2.0 * MB)));
        let mut sim = Sim::new(rng, HashAlgorithm::Sha1, 1 << 17, &[4 * MIB], specs);
        sim.net.check.start_trace();
        for node in 2..5 {
            sim.introduce(node, 0..5);
            sim.prefetch_all(node);
        }
        sim.read(2, App { pattern: Pattern::Shuffled, ..App::file(0, 1 << 20) });
        sim.run_for(20 * S);
        sim.net.check.trace()
    };
    assert!(run(1).is_some());
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

#[test]
fn a_crowd_takes_turns_and_all_complete() {
    let plain = Conduct { plain: true, ..Conduct::default() };
    let mut specs = vec![seed(10, 20.0 * MB)];
    specs.extend((0..28).map(|at| leech(10, 1.0 * MB).conduct(if at % 4 == 0 { plain } else { Conduct::default() })));
    let mut sim = Sim::new(11, HashAlgorithm::Sha256Merkle, 1 << 17, &[3 * MIB], specs);
    for node in 1..29 {
        sim.introduce(node, 0..29);
        sim.prefetch_all(node);
    }
    assert!(sim.run_until(90 * S, |sim| all_complete(sim, 1..29)), "{:?}", sim.elapsed());
    sim.check_end();
}

#[test]
fn two_hundred_slow_peers_are_as_good_as_a_fast_one() {
    let mut specs: Vec<_> = (0..199).map(|at| seed(5 + at % 50, 0.1 * MB)).collect();
    specs.push(leech(5, 1.0 * MB));
    let mut sim = Sim::new(9, HashAlgorithm::Blake3, 1 << 20, &[16 * MIB], specs);
    sim.introduce(199, 0..199);
    sim.run_for(3 * S);
    sim.read(199, App::file(0, 16 << 20));
    assert!(sim.run_until(30 * S, |sim| sim.finished(199)));
    sim.check_end();
}

/// A node of any kind; most are honest.
fn any_spec() -> impl Strategy<Value = Spec> {
    let conduct = prop_oneof![
        5 => Just(Conduct::default()),
        2 => (1u64..1000, any::<bool>())
            .prop_map(|(corrupt, conspires)| Conduct { corrupt, conspires, ..Conduct::default() }),
        1 => (0u32..10).prop_map(|s| Conduct { stalls_after: Some(S * s), ..Conduct::default() }),
        2 => Just(Conduct { plain: true, ..Conduct::default() }),
        1 => (0u64..200).prop_map(|storage_fails| Conduct { storage_fails, ..Conduct::default() }),
        1 => Just(Conduct { lies_about_hashes: true, ..Conduct::default() }),
        1 => Just(Conduct { rejects_hashes: true, ..Conduct::default() }),
        1 => Just(Conduct { answers_cancelled: true, ..Conduct::default() }),
    ];
    (0u64..100, 0.1f64..20.0, conduct, any::<bool>()).prop_map(|(latency_ms, mb, conduct, seeds)| Spec {
        latency_ms,
        up: mb * MB,
        seeds,
        conduct,
        by_id: false,
        tune: |_| {},
    })
}

prop_compose! {
    fn any_algorithm()(at in 0usize..4) -> HashAlgorithm { HashAlgorithm::ALL[at] }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 20, ..ProptestConfig::default() })]

    /// Whatever the others are and do, and whoever comes and goes: as long as one honest seed can be reached, every
    /// read ends with its bytes. The checker watches all other promises meanwhile.
    #[test]
    fn reads_end_with_one_honest_seed(
        rng: u64,
        algorithm in any_algorithm(),
        others in prop::collection::vec(any_spec(), 0..12),
        piece in 14u32..19,
        churn in prop::collection::vec((1u64..20_000, 0usize..12, any::<bool>()), 0..6),
        seeks in prop::collection::vec((1u64..8_000, 0u64..4_000_000), 0..4),
        evictions in prop::collection::vec((1u64..20_000, 1usize..13), 0..12),
        mine in prop_oneof![4 => Just(0u64), 1 => 1u64..100],
    ) {
        let me = others.len() + 1;
        let mut specs = vec![seed(20, 2.0 * MB)];
        specs.extend(others);
        specs.push(leech(10, 1.0 * MB).conduct(Conduct { storage_fails: mine, ..Conduct::default() }));
        let mut sim = Sim::new(rng, algorithm, 1 << piece, &[3 * MIB + 17, 0, MIB], specs);
        sim.introduce(me, 0..me);
        for node in 1..me {
            sim.introduce(node, 0..me);
        }
        for (at, node, alive) in churn {
            let node = 1 + node % me.max(1);
            if node < me {
                sim.at(at, node, if alive { Event::Revive } else { Event::Die });
            }
        }
        for (at, node) in evictions {
            sim.at(at, node.min(me), Event::Evict);
        }
        sim.read(me, App { pattern: Pattern::Shuffled, ..App::file(0, 3 << 20) });
        sim.read(me, App { chunk: 16384, ahead: 1, file: crate::types::FileIndex(2), ..App::file(2, 1 << 20) });
        for (after, offset) in seeks {
            sim.run_for(Duration::from_millis(after));
            let Sim { net, nodes } = &mut sim;
            nodes[me].seek(net, 0, offset.min(3 << 20) / 1000 * 1000, 50_000);
        }
        prop_assert!(sim.run_until(400 * S, |sim| sim.finished(me)), "{:?}", sim.stats(me));
        let failed: usize = sim.nodes[me].apps.iter().map(|app| app.failed).sum();
        prop_assert_eq!(failed, 0);
        sim.check_end();
    }
}
