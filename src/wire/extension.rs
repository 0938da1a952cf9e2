//! The extension protocol (BEP 10) and the exchange of metadata over it (BEP 9).

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};

use super::WireError;
use crate::types::bencode::{Value, put_bytes, put_int};

/// The id of the extension handshake itself.
pub const EXTENSION_HANDSHAKE_ID: u8 = 0;

/// The extension that carries the whole envelope of a native torrent, with the messages of BEP 9.
pub const KNOT_METAINFO: &str = "knot_metainfo";
/// The number under which this node receives [`KNOT_METAINFO`] messages.
pub const KNOT_METAINFO_ID: u8 = 1;

/// The extension that carries the `info` dictionary of a BitTorrent torrent (BEP 9).
pub const UT_METADATA: &str = "ut_metadata";
/// The number under which this node receives [`UT_METADATA`] messages.
pub const UT_METADATA_ID: u8 = 2;

/// The extension by which peers name each other peers (BEP 11).
pub const UT_PEX: &str = "ut_pex";
/// The number under which this node receives [`UT_PEX`] messages.
pub const UT_PEX_ID: u8 = 4;

/// Bytes of every piece of metadata but the last (BEP 9).
pub const METADATA_PIECE_LEN: u32 = 16 * 1024;

/// Extensions of one peer that are kept; no client has nearly as many.
const MAX_EXTENSIONS: usize = 64;
/// Bytes of an extension's name, and characters of a client's, that are kept.
const MAX_NAME: usize = 64;

/// What a peer says about itself after the handshake. Later ones add to and overwrite earlier ones (BEP 10).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExtensionHandshake {
    /// Extensions by name, with the number under which the sender receives each; 0 turns one off.
    pub extensions: BTreeMap<String, u8>,
    /// Name and version of the client.
    pub client: Option<String>,
    /// Port on which the sender takes TCP connections.
    pub port: Option<u16>,
    /// The receiver's address as the sender sees it.
    pub your_ip: Option<IpAddr>,
    /// Requests that the sender queues before it drops some.
    pub request_queue: Option<u32>,
    /// Bytes of what [`UT_METADATA`] carries.
    pub metadata_size: Option<u64>,
    /// Bytes of what [`KNOT_METAINFO`] carries.
    pub metainfo_size: Option<u64>,
    /// Whether the sender will not download (BEP 21), where it says.
    pub upload_only: Option<bool>,
}

impl ExtensionHandshake {
    /// The payload of the message with id 0.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::from(&b"d"[..]);
        let int = |out: &mut BytesMut, key: &str, value: Option<i64>| {
            if let Some(value) = value {
                put_bytes(out, key.as_bytes());
                put_int(out, value);
            }
        };
        let size = |size: Option<u64>| size.and_then(|size| i64::try_from(size).ok());
        // Keys in bytewise order, as canonical bencode wants them.
        int(&mut out, "knot_metainfo_size", size(self.metainfo_size));
        put_bytes(&mut out, b"m");
        out.put_u8(b'd');
        for (name, id) in &self.extensions {
            int(&mut out, name, Some(i64::from(*id)));
        }
        out.put_u8(b'e');
        int(&mut out, "metadata_size", size(self.metadata_size));
        int(&mut out, "p", self.port.map(i64::from));
        int(&mut out, "reqq", self.request_queue.map(i64::from));
        int(&mut out, "upload_only", self.upload_only.map(i64::from));
        if let Some(client) = &self.client {
            put_bytes(&mut out, b"v");
            put_bytes(&mut out, client.as_bytes());
        }
        if let Some(ip) = self.your_ip {
            put_bytes(&mut out, b"yourip");
            match ip {
                IpAddr::V4(ip) => put_bytes(&mut out, &ip.octets()),
                IpAddr::V6(ip) => put_bytes(&mut out, &ip.octets()),
            }
        }
        out.put_u8(b'e');
        out.freeze()
    }

    /// Reads the payload of a message with id 0. Fields of the wrong type or range count as absent, as real clients
    /// treat them; names are cut to a bound.
    ///
    /// # Errors
    /// When the payload does not start with a dictionary.
    pub fn decode(payload: &[u8]) -> Result<Self, WireError> {
        let Some((dict @ Value::Dict(_), _)) = Value::read(payload) else {
            return Err(WireError::Extension("a bencoded dictionary as extension handshake"));
        };
        let size = |key| dict.get(key).and_then(Value::int).and_then(|size| u64::try_from(size).ok());
        Ok(Self {
            extensions: dict.get("m").map(extensions).unwrap_or_default(),
            client: dict
                .get("v")
                .and_then(Value::bytes)
                .map(|name| String::from_utf8_lossy(name).chars().take(MAX_NAME).collect()),
            port: size("p").and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0),
            your_ip: dict.get("yourip").and_then(Value::bytes).and_then(ip),
            request_queue: size("reqq").map(|reqq| u32::try_from(reqq).unwrap_or(u32::MAX)),
            metadata_size: size("metadata_size"),
            metainfo_size: size("knot_metainfo_size"),
            upload_only: size("upload_only").map(|flag| flag != 0),
        })
    }
}

fn extensions(dict: &Value<'_>) -> BTreeMap<String, u8> {
    let Value::Dict(entries) = dict else { return BTreeMap::new() };
    let known = entries.iter().filter_map(|(name, id)| {
        let name = std::str::from_utf8(name).ok().filter(|name| name.len() <= MAX_NAME)?;
        Some((name.to_owned(), u8::try_from(id.int()?).ok()?))
    });
    known.take(MAX_EXTENSIONS).collect()
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(Ipv4Addr::from(v4).into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(|v6| Ipv6Addr::from(v6).into())
}

/// A message of [`UT_METADATA`] or [`KNOT_METAINFO`] (BEP 9).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetadataMessage {
    /// Please send a piece.
    Request {
        /// Index of the 16 KiB piece.
        piece: u32,
    },
    /// A piece.
    Data {
        /// Index of the 16 KiB piece.
        piece: u32,
        /// Bytes of all pieces, as the sender claims.
        total_size: u64,
        /// The piece's bytes; at most 16 KiB.
        data: Bytes,
    },
    /// The sender does not have the piece, or has answered too many requests.
    Reject {
        /// Index of the 16 KiB piece.
        piece: u32,
    },
}

impl MetadataMessage {
    /// The payload of the extension's message.
    pub fn encode(&self) -> Bytes {
        let (kind, piece, data) = match self {
            Self::Request { piece } => (0, *piece, None),
            Self::Data { piece, total_size, data } => (1, *piece, Some((*total_size, data))),
            Self::Reject { piece } => (2, *piece, None),
        };
        let mut out = BytesMut::with_capacity(64 + data.map_or(0, |(_, data)| data.len()));
        out.put_u8(b'd');
        put_bytes(&mut out, b"msg_type");
        put_int(&mut out, kind);
        put_bytes(&mut out, b"piece");
        put_int(&mut out, i64::from(piece));
        if let Some((total_size, _)) = data {
            put_bytes(&mut out, b"total_size");
            put_int(&mut out, i64::try_from(total_size).unwrap_or(i64::MAX));
        }
        out.put_u8(b'e');
        if let Some((_, data)) = data {
            out.put_slice(data);
        }
        out.freeze()
    }

    /// Reads the payload of the extension's message, without copying the data. `None` for a kind of message that is
    /// not known, which BEP 9 says to ignore.
    ///
    /// # Errors
    /// When a field that the kind needs is missing or out of range, or the data is longer than a piece.
    pub fn decode(payload: &Bytes) -> Result<Option<Self>, WireError> {
        let Some((dict @ Value::Dict(_), rest)) = Value::read(payload) else {
            return Err(WireError::Extension("a bencoded dictionary as metadata message"));
        };
        let int = |key| dict.get(key).and_then(Value::int);
        let kind = int("msg_type").ok_or(WireError::Extension("msg_type in a metadata message"))?;
        if !(0..=2).contains(&kind) {
            return Ok(None);
        }
        let piece = int("piece")
            .and_then(|piece| u32::try_from(piece).ok())
            .ok_or(WireError::Extension("a piece index in a metadata message"))?;
        if kind != 1 {
            return Ok(Some(if kind == 0 { Self::Request { piece } } else { Self::Reject { piece } }));
        }
        let total_size = int("total_size")
            .and_then(|size| u64::try_from(size).ok())
            .ok_or(WireError::Extension("total_size in a metadata data message"))?;
        if rest.is_empty() || rest.len() > METADATA_PIECE_LEN as usize {
            return Err(WireError::Extension("1 to 16384 bytes of data in a metadata data message"));
        }
        Ok(Some(Self::Data { piece, total_size, data: payload.slice_ref(rest) }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    prop_compose! {
        fn any_handshake()(
            extensions in prop::collection::btree_map("[a-z_]{1,20}", any::<u8>(), 0..8),
            client in prop::option::of("[ -~é]{0,60}"),
            port in prop::option::of(1u16..),
            v4 in prop::option::of(any::<[u8; 4]>()),
            v6: [u8; 16],
            request_queue: Option<u32>,
            metadata_size in prop::option::of(0..=i64::MAX as u64),
            metainfo_size in prop::option::of(0..=i64::MAX as u64),
            upload_only: Option<bool>,
        ) -> ExtensionHandshake {
            let your_ip = v4.map(|v4| if v4[0] & 1 == 0 { IpAddr::from(v4) } else { IpAddr::from(v6) });
            ExtensionHandshake { extensions, client, port, your_ip, request_queue, metadata_size, metainfo_size, upload_only }
        }
    }

    proptest! {
        #[test]
        fn handshakes_round_trip(handshake in any_handshake()) {
            let bytes = handshake.encode();
            prop_assert_eq!(ExtensionHandshake::decode(&bytes), Ok(handshake));
            for cut in 0..bytes.len() {
                prop_assert!(ExtensionHandshake::decode(&bytes[..cut]).is_err());
            }
        }

        #[test]
        fn metadata_messages_round_trip(piece: u32, total_size in 0..=i64::MAX as u64, data in prop::collection::vec(any::<u8>(), 1..500)) {
            let data = Bytes::from(data);
            for message in [
                MetadataMessage::Request { piece },
                MetadataMessage::Reject { piece },
                MetadataMessage::Data { piece, total_size, data: data.clone() },
            ] {
                prop_assert_eq!(MetadataMessage::decode(&message.encode()), Ok(Some(message)));
            }
        }
    }

    #[test]
    fn an_extension_handshake_in_canonical_order() {
        let handshake = ExtensionHandshake {
            extensions: [(KNOT_METAINFO.to_owned(), 1), (UT_METADATA.to_owned(), 2)].into(),
            client: Some("knot 0".into()),
            port: Some(6881),
            your_ip: Some([127, 0, 0, 2].into()),
            request_queue: Some(250),
            metadata_size: Some(31235),
            metainfo_size: Some(40000),
            upload_only: Some(true),
        };
        let expected = b"d18:knot_metainfo_sizei40000e1:md13:knot_metainfoi1e11:ut_metadatai2ee\
            13:metadata_sizei31235e1:pi6881e4:reqqi250e11:upload_onlyi1e1:v6:knot 06:yourip4:\x7f\0\0\x02e";
        assert_eq!(handshake.encode(), expected[..]);
    }

    #[test]
    fn sloppy_handshakes_are_read_as_far_as_they_go() {
        let sloppy =
            b"d1:v3:\xff\xfea1:md3:foo3:bar11:ut_metadatai03e5:floodi999ee4:reqqi-5e1:pi70000e6:yourip3:abcetrailing";
        let handshake = ExtensionHandshake::decode(sloppy).unwrap();
        assert_eq!(handshake.extensions, [(UT_METADATA.to_owned(), 3)].into());
        assert_eq!(handshake.client.as_deref(), Some("\u{fffd}\u{fffd}a"));
        assert_eq!((handshake.request_queue, handshake.port, handshake.your_ip), (None, None, None));
        assert!(ExtensionHandshake::decode(b"le").is_err());
    }

    #[test]
    fn bad_metadata_messages_are_refused_and_unknown_ones_ignored() {
        let decode = |bytes: &[u8]| MetadataMessage::decode(&Bytes::copy_from_slice(bytes));
        assert_eq!(decode(b"d8:msg_typei3e5:piecei0ee"), Ok(None));
        for bad in [
            &b"d5:piecei0ee"[..],
            b"d8:msg_typei0ee",
            b"d8:msg_typei0e5:piecei-1ee",
            b"d8:msg_typei1e5:piecei0eedata",
            b"d8:msg_typei1e5:piecei0e10:total_sizei4ee",
            b"i1e",
            b"",
        ] {
            assert!(decode(bad).is_err(), "{}", bad.escape_ascii());
        }
        let mut long = b"d8:msg_typei1e5:piecei0e10:total_sizei40000ee".to_vec();
        long.extend([0; 16385]);
        assert!(decode(&long).is_err());
    }
}
