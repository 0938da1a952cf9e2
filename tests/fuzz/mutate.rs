//! What chance makes of an input: small changes of the kinds that decoders stumble over.

/// Numbers that look like chance, the same for the same seed.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `end`; 0 if there is none.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        ((u128::from(self.next()) * end as u128) >> 64) as usize
    }
}

const NUMBERS: [&[u8]; 12] = [
    b"0",
    b"-1",
    b"-0",
    b"1",
    b"00",
    b"255",
    b"65536",
    b"4294967295",
    b"4294967296",
    b"9223372036854775807",
    b"-9223372036854775808",
    b"99999999999999999999999",
];
const WORDS: [u32; 8] = [0, 1, 0x4000, 0x7fff_ffff, 0x8000_0000, 0xffff_fffe, 0xffff_ffff, 0x2_0009];
const BYTES: [u8; 14] = [0, 1, 0x7f, 0x80, 0xff, b'0', b'9', b'd', b'e', b'i', b'l', b':', b'-', b'%'];

/// Changes `input` in one to four places; `other` is another input of the same kind.
pub(crate) fn mutate(input: &mut Vec<u8>, other: &[u8], dice: &mut Dice) {
    for _ in 0..=dice.below(4) {
        let at = dice.below(input.len() + 1);
        let magnitude = dice.below(8);
        let len = 1 + dice.below(1 << magnitude);
        let part = at..(at + len).min(input.len());
        match dice.below(9) {
            0 => input.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << dice.below(8)),
            1 => input.iter_mut().skip(at).take(1).for_each(|byte| *byte = BYTES[dice.below(BYTES.len())]),
            2 => drop(input.drain(part)),
            3 => drop(input.splice(at..at, (0..len).map(|_| dice.below(256) as u8).collect::<Vec<_>>())),
            4 => {
                let again = input[part].to_vec();
                drop(input.splice(at..at, again));
            }
            5 => {
                let from = dice.below(other.len() + 1);
                let to = (from + len).min(other.len());
                drop(input.splice(part, other[from..to].iter().copied()));
            }
            6 => {
                let digits = digits(input, at);
                drop(input.splice(digits, NUMBERS[dice.below(NUMBERS.len())].iter().copied()));
            }
            7 => {
                let word = WORDS[dice.below(WORDS.len())].to_be_bytes();
                input.iter_mut().skip(at).zip(word).for_each(|(byte, new)| *byte = new);
            }
            _ => input.truncate(at.max(1)),
        }
    }
}

/// The first number in text behind `at`.
fn digits(input: &[u8], at: usize) -> std::ops::Range<usize> {
    let start = input[at..].iter().position(u8::is_ascii_digit).map_or(input.len(), |skipped| at + skipped);
    let len = input[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    start..start + len
}
