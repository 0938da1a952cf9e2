//! What streaming comes to in a swarm, in virtual time.

use std::time::Duration;

use super::swarms::{Form, LEN, Swarm};
use super::{App, Content, Pattern, Sim};
use crate::types::BLOCK_LEN;

const S: Duration = Duration::from_secs(1);

/// The measures of one swarm. Times in milliseconds of virtual time.
#[derive(Clone, Debug, Default)]
pub(in crate::engine) struct Measures {
    /// From the first read of strangers to its first block.
    pub(in crate::engine) cold_ms: f64,
    /// The same of another reader, when the peers have delivered something.
    pub(in crate::engine) start_ms: f64,
    /// How a player fared at each of [`LOADS`].
    pub(in crate::engine) played: [Played; LOADS.len()],
    /// Of first reads after seeks: alone, beside three readers, beside fifteen.
    pub(in crate::engine) seeks: [Quantiles; OTHERS.len()],
    /// Bytes fetched per byte read by random reads of a block.
    pub(in crate::engine) fetched_per_read: f64,
    /// Share of what was fetched that was thrown away, in all of these runs.
    pub(in crate::engine) waste: f64,
    /// Fairness of sixteen readers (Jain).
    pub(in crate::engine) jain: f64,
    /// Real time of the engine for each block that it fetched.
    pub(in crate::engine) block_us: f64,
}

/// How a player fared.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::engine) struct Played {
    /// Until it had buffered a second and began.
    pub(in crate::engine) begins_ms: f64,
    /// Share of the time that it stood still after that.
    pub(in crate::engine) stalled: f64,
}

/// Median and 99th percentile, in milliseconds.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::engine) struct Quantiles {
    pub(in crate::engine) p50: f64,
    pub(in crate::engine) p99: f64,
}

/// Bit rates of what is played, of the capacity of the swarm.
pub(in crate::engine) const LOADS: [f64; 4] = [0.5, 0.8, 0.9, 0.95];
/// Readers beside the one that seeks.
pub(in crate::engine) const OTHERS: [usize; 3] = [0, 3, 15];
const SEEKS: u32 = 60;
/// How long a player plays.
const PLAY_S: f64 = 20.0;

/// Sums over all runs in a swarm.
#[derive(Default)]
pub(super) struct Totals {
    fetched: u64,
    wasted: u64,
    spent: Duration,
}

impl Totals {
    fn add(&mut self, sim: &Sim, reader: usize) {
        sim.check_end();
        let stats = sim.stats(reader);
        self.fetched += stats.downloaded_bytes;
        self.wasted += stats.wasted.total();
        self.spent += sim.nodes[reader].spent;
    }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

pub(in crate::engine) fn quantiles(times: &[Duration]) -> Quantiles {
    let mut sorted = times.to_vec();
    sorted.sort();
    let at = |share: f64| sorted.get(((sorted.len() as f64 * share) as usize).min(sorted.len().saturating_sub(1)));
    let quantile = |share| at(share).map_or(f64::NAN, |time| ms(*time));
    Quantiles { p50: quantile(0.5), p99: quantile(0.99) }
}

/// Everything that is measured in a swarm.
pub(in crate::engine) fn measure(swarm: Swarm, content: &Content, form: Form) -> Measures {
    let mut totals = Totals::default();
    let (cold_ms, start_ms) = start_up(swarm, content, &mut totals);
    let mut measures = Measures { cold_ms, start_ms, ..Measures::default() };
    for (load, played) in LOADS.into_iter().zip(&mut measures.played) {
        *played = play(swarm, content, load, &mut totals);
    }
    for (others, seeks) in OTHERS.into_iter().zip(&mut measures.seeks) {
        *seeks = seek(swarm, content, others, &mut totals);
    }
    measures.jain = share(swarm, content, &mut totals);
    measures.waste = totals.wasted as f64 / totals.fetched as f64;
    measures.block_us = totals.spent.as_secs_f64() * 1e6 / (totals.fetched as f64 / f64::from(BLOCK_LEN));
    measures.fetched_per_read = if form == Form::Merkle { scattered(swarm, content) } else { f64::NAN };
    measures
}

/// Runs a swarm until its reader has read all it wanted; panics if it does not get it.
fn finish(sim: &mut Sim, reader: usize, limit: Duration) {
    assert!(sim.run_until(limit, |sim| sim.finished(reader)), "not done in {limit:?}: {:?}", sim.stats(reader));
    let failed = sim.nodes[reader].apps.iter().map(|app| app.failed).sum::<usize>();
    assert_eq!(failed, 0, "reads failed");
}

/// Bytes to read until what the peers can is known: a block of each.
fn warm_up(swarm: Swarm) -> u64 {
    (2 << 20).max(u64::from(BLOCK_LEN) * swarm.seeds as u64)
}

/// First reads of a block: of strangers, and of peers that have delivered something.
pub(super) fn start_up(swarm: Swarm, content: &Content, totals: &mut Totals) -> (f64, f64) {
    let mut sim = swarm.start(1, content);
    let reader = swarm.seeds;
    let block = App { len: u64::from(BLOCK_LEN), chunk: BLOCK_LEN, ..App::file(0, 0) };
    let cold = sim.read(reader, block);
    finish(&mut sim, reader, 60 * S);
    sim.read(reader, App { offset: 8 << 20, ..App::file(0, warm_up(swarm)) });
    finish(&mut sim, reader, 60 * S);
    sim.run_for(S);
    let warm = sim.read(reader, App { offset: LEN / 2, ..block });
    finish(&mut sim, reader, 60 * S);
    totals.add(&sim, reader);
    let wait = |app: usize| ms(sim.nodes[reader].apps[app].waits[0]);
    (wait(cold), wait(warm))
}

/// How a player of `load` times the capacity fares.
pub(super) fn play(swarm: Swarm, content: &Content, load: f64, totals: &mut Totals) -> Played {
    let mut sim = swarm.start(2, content);
    let rate = swarm.capacity() * load;
    let len = ((rate * PLAY_S) as u64).min(LEN);
    // It buffers a second.
    let ahead = ((rate / f64::from(App::file(0, 0).chunk)) as usize).max(8);
    let app = sim.read(swarm.seeds, App { rate, ahead, ..App::file(0, len) });
    finish(&mut sim, swarm.seeds, 300 * S);
    totals.add(&sim, swarm.seeds);
    let app = &sim.nodes[swarm.seeds].apps[app];
    Played { begins_ms: ms(app.buffered), stalled: app.stalled.as_secs_f64() / PLAY_S }
}

/// First reads after seeks, beside others that read as fast as they can, in all kinds of order.
pub(super) fn seek(swarm: Swarm, content: &Content, others: usize, totals: &mut Totals) -> Quantiles {
    // More than a hundred, or the last hundredth would be the worst one.
    let runs = [3, 6].map(|rng| seek_once(swarm, content, others, rng, totals));
    quantiles(&runs.concat())
}

fn seek_once(swarm: Swarm, content: &Content, others: usize, rng: u64, totals: &mut Totals) -> Vec<Duration> {
    let mut sim = swarm.start(rng, content);
    let reader = swarm.seeds;
    // What the peers can is known.
    sim.read(reader, App::file(0, warm_up(swarm)));
    finish(&mut sim, reader, 60 * S);
    let pattern = Pattern::Seeking { seeks: SEEKS, run: 256 << 10 };
    let app = sim.read(reader, App { pattern, ..App::file(0, LEN) });
    let patterns = [Pattern::Sequential, Pattern::Backwards, Pattern::Shuffled, Pattern::Strided(1 << 20)];
    for (other, pattern) in (0..others as u64).zip(patterns.into_iter().cycle()) {
        let share = LEN / others as u64;
        sim.read(reader, App { offset: other * share, pattern, ..App::file(0, share) });
    }
    assert!(sim.run_until(300 * S, |sim| sim.nodes[reader].apps[app].is_finished()), "{:?}", sim.stats(reader));
    totals.add(&sim, reader);
    sim.nodes[reader].apps[app].seeks.clone()
}

/// Bytes fetched per byte that random reads of a block read.
fn scattered(swarm: Swarm, content: &Content) -> f64 {
    let mut sim = swarm.start(4, content);
    let app = App { chunk: BLOCK_LEN, ahead: 1, pattern: Pattern::Random(200), ..App::file(0, LEN) };
    let app = sim.read(swarm.seeds, app);
    finish(&mut sim, swarm.seeds, 300 * S);
    sim.run_for(2 * S);
    sim.stats(swarm.seeds).downloaded_bytes as f64 / sim.nodes[swarm.seeds].apps[app].read_bytes as f64
}

/// How evenly sixteen readers are served.
fn share(swarm: Swarm, content: &Content, totals: &mut Totals) -> f64 {
    let mut sim = swarm.start(5, content);
    let share = LEN / 16;
    for at in 0..16 {
        sim.read(swarm.seeds, App { offset: at * share, ..App::file(0, share) });
    }
    sim.run_for(10 * S);
    totals.add(&sim, swarm.seeds);
    let read: Vec<f64> = sim.nodes[swarm.seeds].apps.iter().map(|app| app.read_bytes as f64).collect();
    read.iter().sum::<f64>().powi(2) / (read.len() as f64 * read.iter().map(|bytes| bytes * bytes).sum::<f64>())
}
