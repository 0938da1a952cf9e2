//! Which blocks of a piece are missing, as bits: the next one is found a word at a time.

/// A set of blocks of one piece.
#[derive(Clone, Debug, Default)]
pub(super) struct Gaps {
    words: Box<[u64]>,
    count: u32,
}

impl Gaps {
    /// How many there are.
    pub(super) fn count(&self) -> u32 {
        self.count
    }

    /// Whether a block is missing from now on.
    pub(super) fn set(&mut self, block: usize, missing: bool) {
        let Some(word) = self.words.get_mut(block / 64) else { return };
        let bit = 1 << (block % 64);
        self.count = self.count - u32::from(*word & bit != 0) + u32::from(missing);
        *word = if missing { *word | bit } else { *word & !bit };
    }

    /// The first one in `from..to`.
    pub(super) fn next(&self, from: u32, to: u32) -> Option<u32> {
        if self.count == 0 || from >= to {
            return None;
        }
        let first = from as usize / 64;
        let found = self.words.iter().enumerate().skip(first).find_map(|(at, word)| {
            let word = if at == first { word & (u64::MAX << (from % 64)) } else { *word };
            (word != 0).then(|| at as u32 * 64 + word.trailing_zeros())
        });
        found.filter(|block| *block < to)
    }

    /// How many there are in `from..to`, `most` at most, and where the last one that counts is.
    pub(super) fn pass_over(&self, from: u32, to: u32, most: u32) -> (u32, Option<u32>) {
        let (mut passed, mut last) = (0, None);
        let mut at = from;
        while let Some(block) = self.next(at, to).filter(|_| passed < most) {
            // All that is left of its word at once, if that is not too much.
            let (index, shift) = (block / 64, block % 64);
            let mut word = self.words[index as usize] >> shift;
            if to / 64 == index {
                word &= (1 << (to % 64 - shift)) - 1;
            }
            if word.count_ones() <= most - passed {
                passed += word.count_ones();
                last = Some(block + 63 - word.leading_zeros());
                at = (index + 1) * 64;
            } else {
                passed += 1;
                last = Some(block);
                at = block + 1;
            }
        }
        (passed, last)
    }
}

impl FromIterator<bool> for Gaps {
    fn from_iter<I: IntoIterator<Item = bool>>(missing: I) -> Self {
        let (mut words, mut count) = (Vec::new(), 0);
        for (at, missing) in missing.into_iter().enumerate() {
            if at % 64 == 0 {
                words.push(0);
            }
            if let Some(word) = words.last_mut().filter(|_| missing) {
                *word |= 1 << (at % 64);
                count += 1;
            }
        }
        Self { words: words.into(), count }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn bits_are_as_good_as_a_list(
            mut list in prop::collection::vec(any::<bool>(), 1..300),
            changes in prop::collection::vec((0usize..300, any::<bool>()), 0..100),
            from in 0u32..310,
            to in 0u32..310,
            most in 0usize..100,
        ) {
            let mut gaps: Gaps = list.iter().copied().collect();
            for (at, missing) in changes {
                let at = at % list.len();
                list[at] = missing;
                gaps.set(at, missing);
            }
            prop_assert_eq!(gaps.count() as usize, list.iter().filter(|missing| **missing).count());
            let first = (from..to).find(|at| list.get(*at as usize) == Some(&true));
            prop_assert_eq!(gaps.next(from, to), first);
            let within: Vec<u32> = (from..to).filter(|at| list.get(*at as usize) == Some(&true)).collect();
            let passed = within.len().min(most);
            prop_assert_eq!(gaps.pass_over(from, to, most as u32), (passed as u32, within[..passed].last().copied()));
        }
    }
}
