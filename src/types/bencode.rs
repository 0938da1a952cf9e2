//! Bencode as extension messages and trackers use it: small, from strangers, and not always canonical.
//!
//! Real clients and trackers send unsorted keys and numbers with leading zeros here, and data behind the dictionary,
//! so this reader is lenient where it does no harm and strict about size. Metainfo, whose bytes are hashed, is read
//! elsewhere.

use bytes::{BufMut, BytesMut};

/// Nesting that any known message stays well below.
const MAX_DEPTH: u32 = 16;
/// Values in one message; bounds the memory that a frame of brackets can take.
const MAX_VALUES: u32 = 8192;

/// A bencoded value, borrowing its strings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// A number.
    Int(i64),
    /// A string; bencode's strings are bytes.
    Bytes(&'a [u8]),
    /// A list.
    List(Vec<Value<'a>>),
    /// A dictionary, in the order that it came in.
    Dict(Vec<(&'a [u8], Value<'a>)>),
}

impl<'a> Value<'a> {
    /// The value at the start of `input`, and what follows it; `None` if there is none.
    pub fn read(input: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let mut reader = Reader { rest: input, values: 0 };
        let value = reader.value(0)?;
        Some((value, reader.rest))
    }

    /// The first value under `key` of a dictionary.
    pub fn get(&self, key: &str) -> Option<&Self> {
        let Self::Dict(entries) = self else { return None };
        entries.iter().find(|(name, _)| *name == key.as_bytes()).map(|(_, value)| value)
    }

    /// The number, if it is one.
    pub fn int(&self) -> Option<i64> {
        if let Self::Int(int) = self { Some(*int) } else { None }
    }

    /// The string, if it is one.
    pub fn bytes(&self) -> Option<&'a [u8]> {
        if let Self::Bytes(bytes) = self { Some(bytes) } else { None }
    }
}

struct Reader<'a> {
    rest: &'a [u8],
    values: u32,
}

impl<'a> Reader<'a> {
    fn value(&mut self, depth: u32) -> Option<Value<'a>> {
        self.values += 1;
        if depth > MAX_DEPTH || self.values > MAX_VALUES {
            return None;
        }
        match *self.rest.first()? {
            b'i' => {
                self.rest = &self.rest[1..];
                self.number(b'e').map(Value::Int)
            }
            b'l' => {
                self.rest = &self.rest[1..];
                let mut items = Vec::new();
                while !self.end()? {
                    items.push(self.value(depth + 1)?);
                }
                Some(Value::List(items))
            }
            b'd' => {
                self.rest = &self.rest[1..];
                let mut entries = Vec::new();
                while !self.end()? {
                    entries.push((self.string()?, self.value(depth + 1)?));
                }
                Some(Value::Dict(entries))
            }
            _ => self.string().map(Value::Bytes),
        }
    }

    /// Whether the list or dictionary ends here; takes its end.
    fn end(&mut self) -> Option<bool> {
        let ends = *self.rest.first()? == b'e';
        if ends {
            self.rest = &self.rest[1..];
        }
        Some(ends)
    }

    fn string(&mut self) -> Option<&'a [u8]> {
        self.rest.first().filter(|byte| byte.is_ascii_digit())?;
        let len = usize::try_from(self.number(b':')?).ok()?;
        let (string, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        Some(string)
    }

    /// Digits up to `end`, which is taken too.
    fn number(&mut self, end: u8) -> Option<i64> {
        // A 64-bit number has at most 20 characters: a longer run of digits is not searched.
        let digits = self.rest.iter().take(21).position(|byte| *byte == end)?;
        let text = std::str::from_utf8(&self.rest[..digits]).ok()?;
        self.rest = &self.rest[digits + 1..];
        text.parse().ok().filter(|_| !text.starts_with('+'))
    }
}

/// Appends `value` as a bencoded number.
pub fn put_int(out: &mut BytesMut, value: i64) {
    out.put_slice(format!("i{value}e").as_bytes());
}

/// Appends `value` as a bencoded string.
pub fn put_bytes(out: &mut BytesMut, value: &[u8]) {
    out.put_slice(format!("{}:", value.len()).as_bytes());
    out.put_slice(value);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn values_and_what_follows_them() {
        let (value, rest) = Value::read(b"d1:b1:x1:ai-07e1:cl0:i3eeetail").unwrap();
        assert_eq!(value.get("b").and_then(Value::bytes), Some(&b"x"[..]));
        assert_eq!(value.get("a").and_then(Value::int), Some(-7));
        assert_eq!(value.get("c"), Some(&Value::List(vec![Value::Bytes(b""), Value::Int(3)])));
        assert_eq!(rest, b"tail");
    }

    #[test]
    fn bombs_are_refused() {
        assert_eq!(Value::read(&b"l".repeat(1000)), None);
        let mut wide = vec![b'l'];
        wide.extend(b"le".repeat(100_000));
        wide.push(b'e');
        assert_eq!(Value::read(&wide), None);
        for text in ["", "i", "ie", "i1", "i+1e", "-1:a", "5:abc", "99999999999999999999:a", "d", "di1e1:ae", "x"] {
            assert_eq!(Value::read(text.as_bytes()), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(prop_oneof![Just(b'd'), Just(b'l'), Just(b'e'), Just(b'i'), Just(b':'), b'0'..=b'9', any::<u8>()], 0..200)) {
            let _ = Value::read(&bytes);
        }

        #[test]
        fn what_is_put_is_read(int: i64, string in prop::collection::vec(any::<u8>(), 0..50)) {
            let mut out = BytesMut::from(&b"l"[..]);
            put_int(&mut out, int);
            put_bytes(&mut out, &string);
            out.put_u8(b'e');
            let expected = Value::List(vec![Value::Int(int), Value::Bytes(&string)]);
            prop_assert_eq!(Value::read(&out), Some((expected, &b""[..])));
        }
    }
}
