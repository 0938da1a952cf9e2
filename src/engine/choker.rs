//! Who may request: tit for tat while there is something to get, turns for everybody otherwise.

use std::time::{Duration, Instant};

use super::rng::Rng;
use crate::types::ConnId;

/// Between two decisions.
pub(super) const ROUND: Duration = Duration::from_secs(10);
/// Rounds that an optimistic unchoke lasts.
const OPTIMISTIC_ROUNDS: u32 = 3;
/// How long a seed serves a peer before others that wait get their turn.
const TURN: Duration = Duration::from_secs(30);

/// A peer that wants to request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Applicant {
    pub(super) conn: ConnId,
    pub(super) unchoked: bool,
    /// When it was last unchoked or choked.
    pub(super) since: Option<Instant>,
    /// Bytes a second that it gives us.
    pub(super) rate: f64,
}

/// Decides every [`ROUND`].
#[derive(Clone, Debug, Default)]
pub(super) struct Choker {
    optimistic: Option<ConnId>,
    rounds: u32,
}

impl Choker {
    /// The peers that may request until the next round: `slots` and an optimistic one. `seeding`: there is nothing
    /// to get, so rates say nothing.
    pub(super) fn decide(
        &mut self,
        now: Instant,
        rng: &mut Rng,
        applicants: &[Applicant],
        slots: usize,
        seeding: bool,
    ) -> Vec<ConnId> {
        if applicants.len() <= slots + 1 {
            return applicants.iter().map(|applicant| applicant.conn).collect();
        }
        let mut order = applicants.to_vec();
        // Whoever is being served and has not had its turn stays; then whoever has waited longest.
        let turn = |applicant: &Applicant| {
            let serving =
                applicant.unchoked && applicant.since.is_some_and(|since| now.saturating_duration_since(since) < TURN);
            (!serving, applicant.since)
        };
        if seeding {
            order.sort_by_key(turn);
        } else {
            order.sort_by(|a, b| b.rate.total_cmp(&a.rate).then_with(|| turn(a).cmp(&turn(b))));
        }
        let (chosen, rest) = order.split_at(slots);
        let mut unchoked: Vec<_> = chosen.iter().map(|applicant| applicant.conn).collect();
        self.rounds += 1;
        let stays = self.optimistic.filter(|conn| rest.iter().any(|applicant| applicant.conn == *conn));
        if stays.is_none() || self.rounds >= OPTIMISTIC_ROUNDS {
            self.rounds = 0;
            self.optimistic = rest.get(rng.below(rest.len() as u64) as usize).map(|applicant| applicant.conn);
        }
        unchoked.extend(self.optimistic);
        unchoked
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn applicants(now: Instant, count: u64, unchoked: &[ConnId], since: &[Option<Instant>]) -> Vec<Applicant> {
        let one = |at: u64| Applicant {
            conn: ConnId(at),
            unchoked: unchoked.contains(&ConnId(at)),
            since: since.get(at as usize).copied().flatten(),
            rate: at as f64,
        };
        let _ = now;
        (0..count).map(one).collect()
    }

    #[test]
    fn leechers_pay_back_and_try_others() {
        let (now, mut choker, mut rng) = (Instant::now(), Choker::default(), Rng::new(1));
        let mut tried = BTreeSet::new();
        for _ in 0..200 {
            let chosen = choker.decide(now, &mut rng, &applicants(now, 10, &[], &[]), 3, false);
            assert_eq!(chosen.len(), 4);
            assert!([9, 8, 7].iter().all(|best| chosen.contains(&ConnId(*best))));
            tried.extend(chosen);
        }
        assert_eq!(tried.len(), 10, "everybody gets a chance");
    }

    #[test]
    fn seeds_serve_everybody_in_turn() {
        let (mut now, mut choker, mut rng) = (Instant::now(), Choker::default(), Rng::new(1));
        let mut unchoked = Vec::new();
        let mut since = vec![None; 20];
        let mut served = vec![0; 20];
        for _ in 0..200 {
            let next = choker.decide(now, &mut rng, &applicants(now, 20, &unchoked, &since), 4, true);
            for conn in 0..20 {
                let (was, is) = (unchoked.contains(&ConnId(conn)), next.contains(&ConnId(conn)));
                if was != is {
                    since[conn as usize] = Some(now);
                }
                served[conn as usize] += u32::from(is);
            }
            unchoked = next;
            now += ROUND;
        }
        let (least, most) = (served.iter().min().unwrap(), served.iter().max().unwrap());
        assert!(*least >= 30 && *most <= 75, "{served:?}");
    }
}
