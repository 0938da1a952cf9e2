//! An update record as networks carry it: the parts of a mutable item (BEP 44), and their one spelling as bytes.

use bytes::BytesMut;

use super::bencode::{Value, put_bytes, put_int};

/// Bytes of the longest value that the mainline DHT carries (BEP 44), as the byte string that it is.
pub const MAX_RECORD_VALUE_LEN: usize = 1000 - 4;
/// Bytes of the longest spelling of a record.
pub const MAX_RECORD_LEN: usize = MAX_RECORD_VALUE_LEN + 200;

/// An update record that nobody has verified. `schema/update.md` says what the parts are.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RecordParts {
    /// The publisher's public key: BEP 44's `k`.
    pub key: [u8; 32],
    /// SHA1 of the original InfoSig.
    pub salt: [u8; 20],
    /// The version.
    pub seq: i64,
    /// The signature: BEP 44's `sig`.
    pub signature: [u8; 64],
    /// The bencoded dictionary, which is a byte string in BEP 44's `v`.
    pub value: Vec<u8>,
}

impl RecordParts {
    /// The dictionary of `k`, `salt`, `seq`, `sig` and `v` that Kademlia, gossip and peers carry.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = BytesMut::from(&b"d"[..]);
        for (name, value) in [("k", &self.key[..]), ("salt", &self.salt)] {
            put_bytes(&mut out, name.as_bytes());
            put_bytes(&mut out, value);
        }
        put_bytes(&mut out, b"seq");
        put_int(&mut out, self.seq);
        for (name, value) in [("sig", &self.signature[..]), ("v", &self.value)] {
            put_bytes(&mut out, name.as_bytes());
            put_bytes(&mut out, value);
        }
        out.extend_from_slice(b"e");
        out.to_vec()
    }

    /// The parts that `bytes` spell; `None` if they spell none, or more than a record can be.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        if bytes.len() > MAX_RECORD_LEN {
            return None;
        }
        let (dict, rest) = Value::read(bytes)?;
        let part = |name| dict.get(name).and_then(Value::bytes);
        let parts = Self {
            key: part("k")?.try_into().ok()?,
            salt: part("salt")?.try_into().ok()?,
            seq: dict.get("seq")?.int()?,
            signature: part("sig")?.try_into().ok()?,
            value: part("v").filter(|value| value.len() <= MAX_RECORD_VALUE_LEN)?.to_vec(),
        };
        rest.is_empty().then_some(parts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn parts_round_trip_and_cut_ones_are_refused(seq: i64, value in prop::collection::vec(any::<u8>(), 0..=MAX_RECORD_VALUE_LEN), cut in 1_usize..60) {
            let parts = RecordParts { key: [1; 32], salt: [2; 20], seq, signature: [3; 64], value };
            let bytes = parts.to_bytes();
            prop_assert!(bytes.len() <= MAX_RECORD_LEN);
            prop_assert_eq!(RecordParts::from_bytes(&bytes), Some(parts));
            prop_assert_eq!(RecordParts::from_bytes(&bytes[..bytes.len() - cut]), None);
        }

        #[test]
        fn garbage_is_no_record(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert_eq!(RecordParts::from_bytes(&bytes), None);
        }
    }

    #[test]
    fn what_follows_a_record_or_is_too_long_for_one_is_refused() {
        let parts = RecordParts { key: [1; 32], salt: [2; 20], seq: 5, signature: [3; 64], value: b"de".to_vec() };
        assert_eq!(RecordParts::from_bytes(&[parts.to_bytes(), vec![0]].concat()), None);
        let long = RecordParts { value: vec![0; MAX_RECORD_VALUE_LEN + 1], ..parts };
        assert_eq!(RecordParts::from_bytes(&long.to_bytes()), None);
    }
}
