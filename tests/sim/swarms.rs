//! The swarms in which streaming is measured: one reader, and seeds of many kinds.

use std::time::Duration;

use super::{Conduct, Content, Event, Sim, Spec, leech, seed};
use crate::metainfo::testing;
use crate::types::HashAlgorithm;

/// What is odd about a swarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine) enum Kind {
    /// All seeds are alike, but for a few per cent.
    Uniform,
    /// One has half of the capacity.
    OneFast,
    /// It takes 200 ms there and back.
    Far,
    /// One of five falls silent after some seconds, and stays.
    Stalling,
    /// One of ten sends wrong bytes.
    Corrupt,
    /// Seeds go and come back all the time.
    Churn,
}

impl Kind {
    pub(in crate::engine) const ALL: [Self; 6] =
        [Self::Uniform, Self::OneFast, Self::Far, Self::Stalling, Self::Corrupt, Self::Churn];
}

/// How the pieces of the torrent are verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::engine) enum Form {
    /// By piece, as in v1.
    Pieces,
    /// By block.
    Merkle,
}

/// Bytes of the one file.
pub(in crate::engine) const LEN: u64 = 192 << 20;

pub(super) fn content(form: Form, piece_length: u32) -> Content {
    let algorithm = if form == Form::Pieces { HashAlgorithm::Sha1 } else { HashAlgorithm::Sha256Merkle };
    let (metainfo, source) = testing::torrent(algorithm, piece_length, &[testing::content(1, LEN as usize)]);
    Content { metainfo: metainfo.into(), source: source.into() }
}

/// A swarm to measure in.
#[derive(Clone, Copy, Debug)]
pub(in crate::engine) struct Swarm {
    pub(in crate::engine) kind: Kind,
    pub(in crate::engine) seeds: usize,
}

/// Milliseconds from the reader to the middle of the network.
const OWN_LATENCY_MS: u64 = 5;

impl Swarm {
    /// Bytes a second that all seeds send together.
    pub(in crate::engine) fn total(&self) -> f64 {
        if self.seeds <= 10 { 4e6 } else { (self.seeds as f64 * 40e3).max(8e6) }
    }

    /// Bytes a second of those that can be counted on.
    pub(in crate::engine) fn capacity(&self) -> f64 {
        let counted = (0..self.seeds).filter(|at| self.conduct(*at).stalls_after.is_none() && self.is_honest(*at));
        let present = if self.kind == Kind::Churn { 0.8 } else { 1.0 };
        counted.map(|at| self.up(at)).sum::<f64>() * present
    }

    fn is_honest(&self, at: usize) -> bool {
        self.conduct(at).is_honest()
    }

    fn up(&self, at: usize) -> f64 {
        let seeds = self.seeds as f64;
        let mean = match (self.kind, at) {
            (Kind::OneFast, 0) => self.total() / 2.0,
            (Kind::OneFast, _) => self.total() / 2.0 / (seeds - 1.0),
            _ => self.total() / seeds,
        };
        // No two links are equal. Seeds of one rate would send in step, and all be free at the same moment only.
        mean * (0.95 + 0.1 * (at as f64 * 0.618_034).fract())
    }

    /// The rate of the fastest seed.
    pub(in crate::engine) fn fastest(&self) -> f64 {
        (0..self.seeds).map(|at| self.up(at)).fold(0.0, f64::max)
    }

    pub(in crate::engine) fn round_trip(&self) -> Duration {
        Duration::from_millis(2 * (OWN_LATENCY_MS + self.latency_ms()))
    }

    fn latency_ms(&self) -> u64 {
        if self.kind == Kind::Far { 95 } else { 15 }
    }

    fn conduct(&self, at: usize) -> Conduct {
        let honest = Conduct::default();
        match self.kind {
            // Some before the reader begins, others while it reads.
            Kind::Stalling if at % 5 == 4 => {
                Conduct { stalls_after: Some(Duration::from_millis(3000 + 700 * at as u64)), ..honest }
            }
            Kind::Corrupt if at % 10 == 9 => Conduct { corrupt: 300, ..honest },
            _ => honest,
        }
    }

    /// The swarm after a while in which its seeds were found, and nothing was read. The reader is the last node.
    pub(in crate::engine) fn start(&self, rng: u64, content: &Content) -> Sim {
        let with_all = |config: &mut crate::engine::Config| config.max_peers = 2000;
        let mut specs: Vec<Spec> =
            (0..self.seeds).map(|at| seed(self.latency_ms(), self.up(at)).conduct(self.conduct(at))).collect();
        specs.push(leech(OWN_LATENCY_MS, 1e6).tune(with_all));
        let mut sim = Sim::with(rng, content.clone(), false, specs);
        sim.introduce(self.seeds, 0..self.seeds);
        if self.kind == Kind::Churn {
            self.churn(&mut sim);
        }
        sim.run_for(Duration::from_secs(2) + Duration::from_millis(20 * self.seeds as u64));
        // What it took to meet the swarm is no part of what a block costs.
        sim.nodes[self.seeds].spent = Duration::ZERO;
        sim
    }

    /// One seed after the other is away for two seconds, a fifth of them at any time.
    fn churn(&self, sim: &mut Sim) {
        let step_ms = (10_000 / self.seeds as u64).max(1);
        for (turn, at_ms) in (1000..90_000u64).step_by(step_ms as usize).enumerate() {
            let node = turn % self.seeds;
            sim.at(at_ms, node, Event::Die);
            sim.at(at_ms + 2000, node, Event::Revive);
        }
    }
}
