//! Reading bencode as ordinary clients do: for files and messages that knot did not make.
//!
//! Keys may be unsorted, and of several equal ones the first counts; integers and lengths may have leading zeros, and
//! zero a sign; bytes behind the end are left alone. What a value was spelt with stays at hand ([`Value::raw`]), since
//! that, and never a re-encoding, is what gets hashed. Bounded: one pass, 16 bytes a value, at most [`MAX_VALUES`].

use super::MetainfoError;

/// Levels of lists and dictionaries that are followed.
const MAX_DEPTH: usize = 100;
/// Values in one document.
const MAX_VALUES: usize = 4_000_000;

/// A value that was read, with all that is in it.
pub(super) struct Document<'a> {
    bytes: &'a [u8],
    values: Vec<Span>,
}

/// Where a value lies. What is in a list or dictionary follows it.
#[derive(Clone, Copy)]
struct Span {
    start: u32,
    end: u32,
    /// Index of the value behind this one and all that is in it.
    next: u32,
    /// Bytes of a string's length and colon.
    head: u32,
}

/// A list or dictionary that has not ended yet.
struct Open {
    at: usize,
    is_dict: bool,
    wants_key: bool,
}

impl<'a> Document<'a> {
    /// Reads the value that `bytes` start with.
    ///
    /// # Errors
    /// When they are no bencode, end too early, or hold too much.
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self, MetainfoError> {
        // Spans count in 32 bits; callers have stricter limits.
        if u32::try_from(bytes.len()).is_err() {
            return Err(MetainfoError::TooLarge { got: bytes.len() });
        }
        let mut values: Vec<Span> = Vec::new();
        let mut open: Vec<Open> = Vec::new();
        let mut at = 0;
        loop {
            let first = *bytes.get(at).ok_or_else(|| error(at, "they end too early"))?;
            if first == b'e' {
                let Some(Open { at: opened, is_dict, wants_key }) = open.pop() else {
                    return Err(error(at, "an end of nothing"));
                };
                if is_dict && !wants_key {
                    return Err(error(at, "a key without a value"));
                }
                at += 1;
                values[opened].end = at as u32;
                values[opened].next = values.len() as u32;
            } else {
                if let Some(Open { is_dict: true, wants_key, .. }) = open.last_mut() {
                    if *wants_key && !first.is_ascii_digit() {
                        return Err(error(at, "a key that is no byte string"));
                    }
                    *wants_key = !*wants_key;
                }
                if values.len() >= MAX_VALUES {
                    return Err(error(at, "too many values"));
                }
                let (end, head) = scalar(bytes, at, first)?;
                values.push(Span { start: at as u32, end: end as u32, next: values.len() as u32 + 1, head });
                if matches!(first, b'l' | b'd') {
                    if open.len() >= MAX_DEPTH {
                        return Err(error(at, "nested too deep"));
                    }
                    open.push(Open { at: values.len() - 1, is_dict: first == b'd', wants_key: true });
                }
                at = end;
            }
            if open.is_empty() {
                return Ok(Self { bytes, values });
            }
        }
    }

    /// The value.
    pub(super) fn root(&self) -> Value<'_> {
        Value { bytes: self.bytes, values: &self.values, at: 0 }
    }
}

/// Where an integer or string ends, or the first byte of a list or dictionary; and the bytes before a string's own.
fn scalar(bytes: &[u8], at: usize, first: u8) -> Result<(usize, u32), MetainfoError> {
    let digits = |from: usize| from + bytes[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    match first {
        b'l' | b'd' => Ok((at + 1, 0)),
        b'i' => {
            let from = at + 1 + usize::from(bytes.get(at + 1) == Some(&b'-'));
            let end = if from <= bytes.len() { digits(from) } else { from };
            match bytes.get(end) {
                Some(b'e') if end > from => Ok((end + 1, 0)),
                Some(_) => Err(error(at, "an integer that is none")),
                None => Err(error(end, "they end too early")),
            }
        }
        b'0'..=b'9' => {
            let colon = digits(at);
            match bytes.get(colon) {
                Some(b':') => {}
                Some(_) => return Err(error(at, "a length that is none")),
                None => return Err(error(colon, "they end too early")),
            }
            let len = number(&bytes[at..colon]).and_then(|len| usize::try_from(len).ok());
            let end = len.and_then(|len| len.checked_add(colon + 1)).filter(|end| *end <= bytes.len());
            let end = end.ok_or_else(|| error(at, "a byte string that is longer than they are"))?;
            Ok((end, (colon + 1 - at) as u32))
        }
        _ => Err(error(at, "no value starts like that")),
    }
}

fn number(digits: &[u8]) -> Option<i64> {
    str::from_utf8(digits).ok()?.parse().ok()
}

fn error(at: usize, problem: &str) -> MetainfoError {
    MetainfoError::Bencode(format!("{problem}, at byte {at}"))
}

/// A value in a document.
#[derive(Clone, Copy)]
pub(super) struct Value<'d> {
    bytes: &'d [u8],
    values: &'d [Span],
    at: u32,
}

impl<'d> Value<'d> {
    fn span(&self) -> Span {
        self.values[self.at as usize]
    }

    /// The bytes that spell it.
    pub(super) fn raw(&self) -> &'d [u8] {
        let span = self.span();
        &self.bytes[span.start as usize..span.end as usize]
    }

    /// First byte of [`Value::raw`] in the document.
    pub(super) fn start(&self) -> u32 {
        self.span().start
    }

    /// What it is, in words.
    pub(super) fn kind(&self) -> &'static str {
        match self.raw().first() {
            Some(b'i') => "an integer",
            Some(b'l') => "a list",
            Some(b'd') => "a dictionary",
            _ => "a byte string",
        }
    }

    /// Whether it is a dictionary.
    pub(super) fn is_dict(&self) -> bool {
        self.raw().first() == Some(&b'd')
    }

    /// Whether it is a list.
    pub(super) fn is_list(&self) -> bool {
        self.raw().first() == Some(&b'l')
    }

    /// The bytes of a byte string.
    pub(super) fn as_bytes(&self) -> Option<&'d [u8]> {
        let raw = self.raw();
        raw.first().filter(|first| first.is_ascii_digit()).map(|_| &raw[self.span().head as usize..])
    }

    /// The text of a byte string that is one.
    pub(super) fn as_text(&self) -> Option<&'d str> {
        str::from_utf8(self.as_bytes()?).ok()
    }

    /// The value of an integer that fits.
    pub(super) fn as_int(&self) -> Option<i64> {
        number(self.raw().strip_prefix(b"i")?.strip_suffix(b"e")?)
    }

    /// What is in a list; nothing in anything else.
    pub(super) fn items(&self) -> impl Iterator<Item = Value<'d>> + use<'d> {
        self.children(self.is_list())
    }

    /// Keys and values of a dictionary, as they stand there; nothing in anything else.
    pub(super) fn pairs(&self) -> impl Iterator<Item = (&'d [u8], Value<'d>)> + use<'d> {
        let mut children = self.children(self.is_dict());
        std::iter::from_fn(move || {
            let (key, value) = (children.next()?, children.next()?);
            Some((key.as_bytes()?, value))
        })
    }

    /// The first value with this key in a dictionary.
    pub(super) fn get(&self, key: &str) -> Option<Value<'d>> {
        self.pairs().find(|(other, _)| *other == key.as_bytes()).map(|(_, value)| value)
    }

    fn children(&self, has_any: bool) -> impl Iterator<Item = Value<'d>> + use<'d> {
        let Self { bytes, values, .. } = *self;
        let end = if has_any { self.span().next } else { 0 };
        let mut at = self.at + 1;
        std::iter::from_fn(move || {
            let value = (at < end).then_some(Value { bytes, values, at })?;
            at = value.span().next;
            Some(value)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sloppy_bencode_is_read() {
        let spelt = b"d1:bi-0e1:ai007e1:b3:two03:keyld0:leei-5eee";
        let longer = [&spelt[..], b"junk"].concat();
        let doc = Document::read(&longer).unwrap();
        let root = doc.root();
        assert_eq!(root.raw(), spelt);
        let keys: Vec<_> = root.pairs().map(|(key, _)| key).collect();
        assert_eq!(keys, [&b"b"[..], b"a", b"b", b"key"]);
        assert_eq!(root.get("b").unwrap().as_int(), Some(0));
        assert_eq!(root.get("a").unwrap().as_int(), Some(7));
        let items: Vec<_> = root.get("key").unwrap().items().collect();
        assert_eq!((items.len(), items[0].kind(), items[1].as_int()), (2, "a dictionary", Some(-5)));
        assert_eq!(items[0].get("").map(|value| value.raw()), Some(&b"le"[..]));
        assert!(root.get("zz").is_none() && items[1].items().next().is_none() && root.as_bytes().is_none());
    }

    #[test]
    fn what_no_client_reads_is_refused() {
        for bytes in [
            &b""[..],
            b"e",
            b"d",
            b"l",
            b"i",
            b"i-",
            b"i-e",
            b"ie",
            b"i+5e",
            b"i5",
            b"5",
            b"5:abc",
            b"x",
            b"d1:ae",
            b"di1e1:ae",
            b"d1:a",
            b"lli1ee",
            b"99999999999999999999:a",
            b"18446744073709551615:",
            b"5x",
            b" i1e",
        ] {
            assert!(matches!(Document::read(bytes).map(|_| ()), Err(MetainfoError::Bencode(_))), "{bytes:?}");
        }
        assert!(Document::read(&[b"l".repeat(100), b"e".repeat(100)].concat()).is_ok());
        assert!(Document::read(&[b"l".repeat(101), b"e".repeat(101)].concat()).is_err());
        assert!(Document::read(&[b"l".to_vec(), b"le".repeat(MAX_VALUES), b"e".to_vec()].concat()).is_err());
        assert_eq!(Document::read(b"i99999999999999999999e").unwrap().root().as_int(), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(prop::sample::select(&b"deli0123456789:-a\xff"[..]), 0..60)) {
            if let Ok(doc) = Document::read(&bytes) {
                let root = doc.root();
                prop_assert!(bytes.starts_with(root.raw()));
                // What is in it spells it, end to end.
                let inner: usize = root.items().map(|item| item.raw().len()).sum();
                if root.is_list() {
                    prop_assert_eq!(inner + 2, root.raw().len());
                }
                let again = Document::read(root.raw()).unwrap();
                prop_assert_eq!(again.root().raw(), root.raw());
            }
        }
    }
}
