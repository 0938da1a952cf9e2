//! The measures as a table: `scripts/sim`.
#![allow(clippy::print_stdout, reason = "the table is what it is for")]

use std::env;

use super::measure::{LOADS, Measures, OTHERS, Totals, measure, play, seek, start_up};
use super::swarms::{Form, Kind, Swarm, content};

/// The load, of [`LOADS`], at which it is told when the player begins.
const BEGINS_AT: usize = 2;

/// Whether a row is wanted: by a part of its name, and all if there is no wish.
fn is_wanted(name: &str) -> bool {
    env::var("KNOT_SIM").map_or(true, |parts| parts.split(',').any(|part| format!("{name}.").contains(part)))
}

fn print_head() {
    let loads: Vec<String> = LOADS.iter().map(|load| format!("{:.0}%", load * 100.0)).collect();
    println!(
        "{:34} {:>7} {:>7} {:>6} {:^27} {:>6} {:^41}",
        "", "cold", "start", "bound", "stalled, playing at", "begins", "seeks p50/p99 ms beside other readers"
    );
    print!("{:34} {:>7} {:>7} {:>6}", "swarm; stalled when playing at:", "cold", "start", "bound");
    loads.iter().for_each(|load| print!(" {load:>6}"));
    print!(" {:>6}", format!("at {:.0}%", LOADS[BEGINS_AT] * 100.0));
    OTHERS.iter().for_each(|others| print!(" {:>13}", format!("seek +{others}")));
    println!(" {:>6} {:>6} {:>6} {:>6} {:>9}", "bound", "b/read", "waste", "Jain", "us/block");
}

fn print_row(name: &str, swarm: Swarm, measures: &Measures) {
    let block_ms = 16384.0 / swarm.fastest() * 1000.0;
    let round_trip_ms = swarm.round_trip().as_secs_f64() * 1000.0;
    print!("{name:34} {:>7.0} {:>7.0} {:>6.0}", measures.cold_ms, measures.start_ms, 2.0 * round_trip_ms + block_ms);
    measures.played.iter().for_each(|played| print!(" {:>5.1}%", played.stalled * 100.0));
    print!(" {:>6.0}", measures.played[BEGINS_AT].begins_ms);
    for seeks in &measures.seeks {
        print!(" {:>13}", format!("{:.0}/{:.0}", seeks.p50, seeks.p99));
    }
    let seek_bound = 2.0 * round_trip_ms + 1.5 * block_ms;
    let Measures { fetched_per_read, waste, jain, block_us, .. } = measures;
    println!(" {seek_bound:>6.0} {fetched_per_read:>6.2} {:>5.1}% {jain:>6.3} {block_us:>9.1}", waste * 100.0);
}

/// In every swarm what streams stays fluid, seeks take little more than a round trip, and little is fetched in vain.
fn check(kind: Kind) {
    let swarm = Swarm { kind, seeds: 10 };
    let measures = measure(swarm, &content(Form::Merkle, 4 << 20), Form::Merkle);
    let block_ms = 16384.0 / swarm.fastest() * 1000.0;
    let round_trip_ms = swarm.round_trip().as_secs_f64() * 1000.0;
    assert!(measures.start_ms <= 2.0 * round_trip_ms + block_ms, "{measures:?}");
    // The one read that finds out that a seed is gone, or mute, takes longer.
    let finds_out = matches!(kind, Kind::Churn | Kind::Stalling);
    for seeks in measures.seeks {
        let sought = if finds_out { seeks.p50 } else { seeks.p99 };
        assert!(sought <= 2.0 * round_trip_ms + 1.5 * block_ms && seeks.p99 < 1000.0, "{measures:?}");
    }
    assert!(kind == Kind::Churn || measures.played[..3].iter().all(|played| played.stalled == 0.0), "{measures:?}");
    assert!(measures.fetched_per_read <= 1.1 && measures.waste <= 0.05 && measures.jain >= 0.95, "{measures:?}");
}

#[test]
fn a_uniform_swarm_streams() {
    check(Kind::Uniform);
}

#[test]
fn one_fast_seed_among_slow_ones_streams() {
    check(Kind::OneFast);
}

#[test]
fn a_far_swarm_streams() {
    check(Kind::Far);
}

#[test]
fn a_swarm_that_stalls_streams() {
    check(Kind::Stalling);
}

#[test]
fn a_swarm_with_liars_streams() {
    check(Kind::Corrupt);
}

#[test]
fn a_swarm_that_comes_and_goes_can_be_read() {
    check(Kind::Churn);
}

#[test]
fn a_hundred_slow_seeds_add_to_a_fast_one() {
    let swarm = Swarm { kind: Kind::OneFast, seeds: 100 };
    let played = play(swarm, &content(Form::Merkle, 4 << 20), 0.9, &mut Totals::default());
    assert!(played.stalled == 0.0, "{played:?}");
}

/// What the table found: a block that was lost early was asked for again behind up to nine others of 0.2 s each.
#[test]
fn a_hundred_slow_seeds_of_which_some_are_lost_stream_from_the_start() {
    for kind in [Kind::Stalling, Kind::Corrupt] {
        let played = play(Swarm { kind, seeds: 100 }, &content(Form::Merkle, 4 << 20), 0.9, &mut Totals::default());
        assert!(played.stalled == 0.0, "{kind:?}: {played:?}");
    }
}

/// What the table found: pieces that can only be verified as a whole, and had failed, were left to one slow seed each.
#[test]
fn pieces_that_liars_spoiled_come_from_all_seeds_again() {
    let swarm = Swarm { kind: Kind::Corrupt, seeds: 100 };
    for piece_length in [256 << 10, 4 << 20] {
        let played = play(swarm, &content(Form::Pieces, piece_length), 0.9, &mut Totals::default());
        assert!(played.stalled == 0.0 && played.begins_ms < 5000.0, "{piece_length}: {played:?}");
    }
}

/// What the table found: a seek met queues of several blocks at every seed; and where one seed is fast, other readers
/// had used up the second copies that a seek needs.
#[test]
fn a_seek_among_a_hundred_slow_seeds_waits_for_one_block() {
    for kind in [Kind::Uniform, Kind::OneFast] {
        let swarm = Swarm { kind, seeds: 100 };
        let seeks = seek(swarm, &content(Form::Merkle, 4 << 20), 3, &mut Totals::default());
        let block_ms = 16384.0 / swarm.fastest() * 1000.0;
        let bound_ms = 2.0 * swarm.round_trip().as_secs_f64() * 1000.0 + 1.5 * block_ms;
        assert!(seeks.p99 <= bound_ms, "{kind:?}: {seeks:?}");
    }
}

/// What the table found: of strangers that promised the same, always that one was asked that had been there for longest
/// and left next. Reads failed after a minute.
#[test]
fn a_swarm_whose_oldest_peers_leave_first_is_read() {
    let swarm = Swarm { kind: Kind::Churn, seeds: 100 };
    let (cold_ms, start_ms) = start_up(swarm, &content(Form::Merkle, 4 << 20), &mut Totals::default());
    assert!(cold_ms < 2000.0 && start_ms < 2000.0, "{cold_ms} {start_ms}");
}

#[test]
#[ignore = "takes minutes; scripts/sim runs it"]
fn table() {
    print_head();
    for (form, piece_length) in [
        (Form::Merkle, 4 << 20),
        (Form::Pieces, 4 << 20),
        (Form::Merkle, 256 << 10),
        (Form::Pieces, 256 << 10),
        (Form::Merkle, 16 << 20),
        (Form::Pieces, 16 << 20),
    ] {
        let mut made = None;
        for (kind, seeds) in Kind::ALL.into_iter().flat_map(|kind| [10, 100, 500, 1000].map(|seeds| (kind, seeds))) {
            let swarm = Swarm { kind, seeds };
            let name = format!("{form:?}-{}KiB-{kind:?}-{seeds}", piece_length >> 10);
            if is_wanted(&name) {
                let content = made.get_or_insert_with(|| content(form, piece_length));
                print_row(&name, swarm, &measure(swarm, content, form));
            }
        }
    }
}
