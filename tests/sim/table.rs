//! The measures as a table: `scripts/sim`.
#![allow(clippy::print_stdout, reason = "the table is what it is for")]

use std::env;

use super::measure::{LOADS, Measures, OTHERS, measure};
use super::swarms::{Form, Kind, Swarm, content};

/// Whether a row is wanted: by a part of its name, and all if there is no wish.
fn is_wanted(name: &str) -> bool {
    env::var("KNOT_SIM").map_or(true, |parts| parts.split(',').any(|part| format!("{name}.").contains(part)))
}

fn print_head() {
    let loads: Vec<String> = LOADS.iter().map(|load| format!("{:.0}%", load * 100.0)).collect();
    println!(
        "{:34} {:>7} {:>7} {:>6} {:^27} {:^41}",
        "", "cold", "start", "bound", "stalled, playing at", "seeks p50/p99 ms beside other readers"
    );
    print!("{:34} {:>7} {:>7} {:>6}", "swarm; stalled when playing at:", "cold", "start", "bound");
    loads.iter().for_each(|load| print!(" {load:>6}"));
    OTHERS.iter().for_each(|others| print!(" {:>13}", format!("seek +{others}")));
    println!(" {:>6} {:>6} {:>6} {:>6} {:>9}", "bound", "b/read", "waste", "Jain", "us/block");
}

fn print_row(name: &str, swarm: Swarm, measures: &Measures) {
    let block_ms = 16384.0 / swarm.fastest() * 1000.0;
    let round_trip_ms = swarm.round_trip().as_secs_f64() * 1000.0;
    print!("{name:34} {:>7.0} {:>7.0} {:>6.0}", measures.cold_ms, measures.start_ms, 2.0 * round_trip_ms + block_ms);
    measures.rebuffer.iter().for_each(|ratio| print!(" {:>5.1}%", ratio * 100.0));
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
    let [alone, ..] = measures.seeks;
    let finds_out = matches!(kind, Kind::Churn | Kind::Stalling);
    let sought = if finds_out { alone.p50 } else { alone.p99 };
    assert!(sought <= 2.0 * round_trip_ms + 1.5 * block_ms && alone.p99 < 1000.0, "{measures:?}");
    assert!(kind == Kind::Churn || measures.rebuffer[..3] == [0.0; 3], "{measures:?}");
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

#[test]
#[ignore = "debug"]
fn trace() {
    use std::time::Duration;
    use super::{App};
    let kind = match env::var("K").as_deref() { Ok("one") => Kind::OneFast, _ => Kind::Uniform };
    let seeds = env::var("N").map_or(100, |n| n.parse().expect("n"));
    let load: f64 = env::var("LOAD").map_or(0.9, |n| n.parse().expect("n"));
    let swarm = Swarm { kind, seeds };
    let content = content(Form::Merkle, 4 << 20);
    let mut sim = swarm.start(2, &content);
    let rate = swarm.capacity() * load;
    let len = ((rate * 20.0) as u64).min(super::swarms::LEN);
    let ahead = ((rate / f64::from(App::file(0, 0).chunk)) as usize).max(8);
    let app = sim.read(seeds, App { rate, ahead, ..App::file(0, len) });
    let mut before = sim.stats(seeds);
    let mut stalled = 0.0;
    for step in 0..60 {
        sim.run_for(Duration::from_millis(500));
        let now = sim.stats(seeds);
        let reading = &sim.nodes[seeds].apps[app];
        let st = reading.stalled.as_secs_f64();
        let d: Vec<u64> = now.peers.iter().map(|p| p.downloaded_bytes).collect();
        let b: Vec<u64> = before.peers.iter().map(|p| p.downloaded_bytes).collect();
        let d0 = d[0] - b.first().copied().unwrap_or(0);
        println!("{:5.1}s read {:6.1}M down {:5.2}MB/s peer0 {:5.2}MB/s stall +{:.3} waiting {} window {:.1}M hedged {:.2}M waste {:.2}M", f64::from(step + 1) / 2.0, reading.read_bytes as f64 / 1e6,
            (now.downloaded_bytes - before.downloaded_bytes) as f64 / 5e5, d0 as f64 / 5e5, st - stalled, now.waiting_reads, now.window_bytes as f64 / 1e6, now.hedged_bytes as f64 / 1e6, now.wasted.total() as f64 / 1e6);
        println!("        {}", sim.nodes[seeds].engine.debug_flows(sim.net.now));
        stalled = st;
        before = now;
        if sim.finished(seeds) { break; }
    }
}
