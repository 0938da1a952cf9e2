//! A set of indices, with the wire's layout.

/// A set of indices below a fixed length; the first index is the highest bit of the first byte (BEP 3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bitfield {
    bytes: Vec<u8>,
    len: u32,
    ones: u32,
}

impl Bitfield {
    /// The empty set below `len`.
    pub fn new(len: u32) -> Self {
        Self { bytes: vec![0; Self::byte_len(len)], len, ones: 0 }
    }

    /// The set of all indices below `len`.
    pub fn full(len: u32) -> Self {
        let mut bytes = vec![0xff; Self::byte_len(len)];
        if let (Some(last), spare @ 1..) = (bytes.last_mut(), len.wrapping_neg() % 8) {
            *last = 0xff << spare;
        }
        Self { bytes, len, ones: len }
    }

    /// The set that `bytes` encode.
    ///
    /// # Errors
    /// When there are not exactly `len.div_ceil(8)` bytes, or a spare bit is set.
    pub fn from_bytes(bytes: &[u8], len: u32) -> Result<Self, BitfieldError> {
        if bytes.len() != Self::byte_len(len) {
            return Err(BitfieldError::Length { expected: Self::byte_len(len), got: bytes.len() });
        }
        let spare = len.wrapping_neg() % 8;
        if bytes.last().is_some_and(|last| last & !(0xffu8 << spare) != 0) {
            return Err(BitfieldError::SpareBit);
        }
        let ones = bytes.iter().map(|byte| byte.count_ones()).sum();
        Ok(Self { bytes: bytes.to_vec(), len, ones })
    }

    /// Bytes that a set below `len` takes.
    pub fn byte_len(len: u32) -> usize {
        len.div_ceil(8) as usize
    }

    /// One past the highest index that the set may hold.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Whether no index is in the set.
    pub fn is_empty(&self) -> bool {
        self.ones == 0
    }

    /// Whether every index is in the set.
    pub fn is_full(&self) -> bool {
        self.ones == self.len
    }

    /// How many indices are in the set.
    pub fn count(&self) -> u32 {
        self.ones
    }

    /// Whether `index` is in the set; indices out of range are not.
    pub fn contains(&self, index: u32) -> bool {
        index < self.len && self.bytes[index as usize / 8] & Self::mask(index) != 0
    }

    /// Adds `index`; true if it was not there. Out of range is ignored.
    pub fn insert(&mut self, index: u32) -> bool {
        let new = index < self.len && !self.contains(index);
        if new {
            self.bytes[index as usize / 8] |= Self::mask(index);
            self.ones += 1;
        }
        new
    }

    /// Takes `index` out; true if it was there.
    pub fn remove(&mut self, index: u32) -> bool {
        let there = self.contains(index);
        if there {
            self.bytes[index as usize / 8] &= !Self::mask(index);
            self.ones -= 1;
        }
        there
    }

    /// The indices in the set, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.bytes.iter().enumerate().filter(|(_, byte)| **byte != 0).flat_map(|(at, byte)| {
            (0..8u32).filter(move |bit| byte & (0x80 >> bit) != 0).map(move |bit| at as u32 * 8 + bit)
        })
    }

    /// The wire form.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn mask(index: u32) -> u8 {
        0x80 >> (index % 8)
    }
}

/// Bytes that are no bitfield of the expected length.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BitfieldError {
    /// The wrong number of bytes.
    #[error("expected a bitfield of {expected} bytes, got {got}")]
    Length {
        /// Bytes that the torrent's pieces take.
        expected: usize,
        /// Bytes that came.
        got: usize,
    },
    /// A bit beyond the last index.
    #[error("expected the spare bits of the bitfield to be zero, got a one")]
    SpareBit,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn behaves_like_a_set(len in 0u32..300, ops in prop::collection::vec((0u32..310, any::<bool>()), 0..80)) {
            let mut bits = Bitfield::new(len);
            let mut model = BTreeSet::new();
            for (index, add) in ops {
                if add {
                    prop_assert_eq!(bits.insert(index), index < len && model.insert(index));
                } else {
                    prop_assert_eq!(bits.remove(index), model.remove(&index));
                }
            }
            prop_assert_eq!(bits.count() as usize, model.len());
            prop_assert_eq!(bits.iter().collect::<Vec<_>>(), model.iter().copied().collect::<Vec<_>>());
            prop_assert_eq!(Bitfield::from_bytes(bits.as_bytes(), len), Ok(bits));
        }

        #[test]
        fn full_holds_everything(len in 0u32..300) {
            let full = Bitfield::full(len);
            prop_assert!(full.is_full());
            prop_assert_eq!(full.iter().count() as u32, len);
            prop_assert_eq!(Bitfield::from_bytes(full.as_bytes(), len), Ok(full));
        }
    }

    #[test]
    fn wrong_bytes_are_refused() {
        assert_eq!(Bitfield::from_bytes(&[0; 2], 8), Err(BitfieldError::Length { expected: 1, got: 2 }));
        assert_eq!(Bitfield::from_bytes(&[1], 7), Err(BitfieldError::SpareBit));
    }
}
