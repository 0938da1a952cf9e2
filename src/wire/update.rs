//! What peers tell each other of the versions of a dataset: the extension `knot_update`.

use bytes::{BufMut, Bytes, BytesMut};

use super::WireError;
use crate::types::MAX_RECORD_LEN;
use crate::types::bencode::{Value, put_bytes, put_int};

/// The extension by which peers tell each other of the newest version of a dataset.
pub const KNOT_UPDATE: &str = "knot_update";
/// The number under which this node receives [`KNOT_UPDATE`] messages.
pub const KNOT_UPDATE_ID: u8 = 5;

/// A message of [`KNOT_UPDATE`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpdateMessage {
    /// An update record as networks carry it: the newest that the sender knows, or the one that was asked for.
    /// `None`: the sender knows of none.
    Record(Option<Bytes>),
    /// Please send the record of this version.
    Ask {
        /// Which version; 0 is the newest that the receiver knows.
        seq: u64,
    },
}

impl UpdateMessage {
    /// The payload of the extension's message.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::from(&b"d"[..]);
        match self {
            Self::Record(Some(record)) => {
                put_bytes(&mut out, b"record");
                put_bytes(&mut out, record);
            }
            Self::Record(None) => {}
            Self::Ask { seq } => {
                put_bytes(&mut out, b"ask");
                put_int(&mut out, i64::try_from(*seq).unwrap_or(i64::MAX));
            }
        }
        out.put_u8(b'e');
        out.freeze()
    }

    /// Reads the payload of the extension's message.
    ///
    /// # Errors
    /// When it is no dictionary, or a record longer than any.
    pub fn decode(payload: &Bytes) -> Result<Self, WireError> {
        let Some((dict @ Value::Dict(_), _)) = Value::read(payload) else {
            return Err(WireError::Extension("a bencoded dictionary as knot_update message"));
        };
        if let Some(seq) = dict.get("ask").and_then(Value::int).and_then(|seq| u64::try_from(seq).ok()) {
            return Ok(Self::Ask { seq });
        }
        match dict.get("record").and_then(Value::bytes) {
            Some(record) if record.len() > MAX_RECORD_LEN => {
                Err(WireError::Extension("an update record of at most 1196 bytes in a knot_update message"))
            }
            record => Ok(Self::Record(record.map(|record| payload.slice_ref(record)))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn messages_round_trip(seq in 0..=i64::MAX as u64, record in prop::option::of(prop::collection::vec(any::<u8>(), 0..=MAX_RECORD_LEN))) {
            for message in [UpdateMessage::Ask { seq }, UpdateMessage::Record(record.map(Bytes::from))] {
                prop_assert_eq!(UpdateMessage::decode(&message.encode()), Ok(message));
            }
        }

        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = UpdateMessage::decode(&Bytes::from(bytes));
        }
    }

    #[test]
    fn what_no_record_can_be_is_refused_and_what_is_not_known_is_ignored() {
        let decode = |bytes: &[u8]| UpdateMessage::decode(&Bytes::copy_from_slice(bytes));
        assert_eq!(decode(b"d6:futurei1ee"), Ok(UpdateMessage::Record(None)));
        assert!(decode(b"le").is_err() && decode(b"").is_err());
        assert!(
            UpdateMessage::decode(&UpdateMessage::Record(Some(vec![0; MAX_RECORD_LEN + 1].into())).encode()).is_err()
        );
    }
}
