//! How many peers have each piece, and the missing pieces by that number: rarest first in O(1).

use super::rng::Rng;
use crate::types::Bitfield;

/// Counts of peers by piece. Peers that have everything are counted once for all pieces.
#[derive(Clone, Debug)]
pub(super) struct Availability {
    /// Peers with some pieces, by piece.
    counts: Vec<u16>,
    /// Peers with all pieces.
    seeds: u32,
    /// Built when something is to be fetched rarest first.
    order: Option<Buckets>,
}

/// Pieces that nobody has started to fetch, by count.
#[derive(Clone, Debug)]
struct Buckets {
    by_count: Vec<Vec<u32>>,
    /// Where each piece is in its bucket; `ABSENT` if it is in none.
    place: Vec<u32>,
}

const ABSENT: u32 = u32::MAX;
/// Pieces looked at in one pick before giving up for now.
const MAX_LOOKS: usize = 512;

impl Availability {
    pub(super) fn new(pieces: u32) -> Self {
        Self { counts: vec![0; pieces as usize], seeds: 0, order: None }
    }

    pub(super) fn add_seed(&mut self) {
        self.seeds += 1;
    }

    pub(super) fn remove_seed(&mut self) {
        self.seeds = self.seeds.saturating_sub(1);
    }

    pub(super) fn add(&mut self, piece: u32) {
        self.shift(piece, true);
    }

    pub(super) fn remove(&mut self, piece: u32) {
        self.shift(piece, false);
    }

    fn shift(&mut self, piece: u32, up: bool) {
        let Some(count) = self.counts.get_mut(piece as usize) else { return };
        let next = if up { count.saturating_add(1) } else { count.saturating_sub(1) };
        let from = std::mem::replace(count, next);
        if let Some(order) = self.order.as_mut().filter(|order| order.place[piece as usize] != ABSENT) {
            order.take(piece, from);
            order.put(piece, next);
        }
    }

    /// Starts to keep the order, of the pieces not in `have`.
    pub(super) fn start_order(&mut self, have: &Bitfield) {
        let mut order = Buckets { by_count: Vec::new(), place: vec![ABSENT; self.counts.len()] };
        for piece in (0..have.len()).filter(|piece| !have.contains(*piece)) {
            order.put(piece, self.counts[piece as usize]);
        }
        self.order = Some(order);
    }

    pub(super) fn stop_order(&mut self) {
        self.order = None;
    }

    /// A piece is being fetched or complete: it need not be picked.
    pub(super) fn started(&mut self, piece: u32) {
        let Some(order) = self.order.as_mut() else { return };
        if order.place.get(piece as usize).is_some_and(|place| *place != ABSENT) {
            order.take(piece, self.counts[piece as usize]);
        }
    }

    /// Whether a piece is yet to be picked.
    pub(super) fn is_to_come(&self, piece: u32) -> bool {
        let place = self.order.as_ref().and_then(|order| order.place.get(piece as usize));
        place.is_some_and(|place| *place != ABSENT)
    }

    /// A piece is to be picked again.
    pub(super) fn missing(&mut self, piece: u32) {
        let Some(order) = self.order.as_mut() else { return };
        if order.place.get(piece as usize).is_some_and(|place| *place == ABSENT) {
            order.put(piece, self.counts[piece as usize]);
        }
    }

    /// One of the rarest pieces that `wanted` accepts, by chance among equals. Bounded: may miss one at times.
    pub(super) fn rarest(&self, rng: &mut Rng, wanted: impl Fn(u32) -> bool) -> Option<u32> {
        let mut looks = 0;
        for bucket in self.order.as_ref()?.by_count.iter().filter(|bucket| !bucket.is_empty()) {
            let start = rng.below(bucket.len() as u64) as usize;
            for step in 0..bucket.len() {
                let piece = bucket[(start + step) % bucket.len()];
                if wanted(piece) {
                    return Some(piece);
                }
                looks += 1;
                if looks >= MAX_LOOKS {
                    return None;
                }
            }
        }
        None
    }

    /// Any piece to be picked that `peer` has and `wanted` accepts: the slow way, for peers with few pieces.
    pub(super) fn any_of(&self, peer: &Bitfield, wanted: impl Fn(u32) -> bool) -> Option<u32> {
        let order = self.order.as_ref()?;
        peer.iter().find(|piece| order.place[*piece as usize] != ABSENT && wanted(*piece))
    }
}

impl Buckets {
    fn put(&mut self, piece: u32, count: u16) {
        let count = usize::from(count);
        if self.by_count.len() <= count {
            self.by_count.resize_with(count + 1, Vec::new);
        }
        self.place[piece as usize] = self.by_count[count].len() as u32;
        self.by_count[count].push(piece);
    }

    fn take(&mut self, piece: u32, count: u16) {
        let bucket = &mut self.by_count[usize::from(count)];
        let at = self.place[piece as usize] as usize;
        bucket.swap_remove(at);
        if let Some(moved) = bucket.get(at) {
            self.place[*moved as usize] = at as u32;
        }
        self.place[piece as usize] = ABSENT;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::rng::Rng;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Op {
        Add(u32),
        Remove(u32),
        Started(u32),
        Missing(u32),
    }

    fn any_op() -> impl Strategy<Value = Op> {
        (0u32..20, 0..4).prop_map(|(piece, kind)| match kind {
            0 => Op::Add(piece),
            1 => Op::Remove(piece),
            2 => Op::Started(piece),
            _ => Op::Missing(piece),
        })
    }

    proptest! {
        #[test]
        fn picks_a_rarest_startable_piece(ops in prop::collection::vec(any_op(), 0..200), seed: u64) {
            let mut availability = Availability::new(20);
            availability.start_order(&Bitfield::new(20));
            let mut model: Vec<(u16, bool)> = vec![(0, true); 20];
            for op in ops {
                match op {
                    Op::Add(p) => { availability.add(p); model[p as usize].0 += 1; }
                    Op::Remove(p) => {
                        availability.remove(p);
                        model[p as usize].0 = model[p as usize].0.saturating_sub(1);
                    }
                    Op::Started(p) => { availability.started(p); model[p as usize].1 = false; }
                    Op::Missing(p) => { availability.missing(p); model[p as usize].1 = true; }
                }
            }
            let rarest = model.iter().filter(|(_, startable)| *startable).map(|(count, _)| *count).min();
            let picked = availability.rarest(&mut Rng::new(seed), |_| true);
            prop_assert_eq!(picked.is_some(), rarest.is_some());
            if let Some(picked) = picked {
                prop_assert_eq!(Some(model[picked as usize].0), rarest);
                prop_assert!(model[picked as usize].1);
            }
        }
    }
}
