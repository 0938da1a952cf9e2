//! What names a torrent.

use std::fmt;
use std::str::FromStr;

use sha1::{Digest as _, Sha1};

use super::InfoHash;

/// Ed25519 signature of an InfoHash: names a pseudonymous dataset that its publisher may change.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InfoSig(pub [u8; 64]);

/// Ed25519 public key of a publisher.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublicKey(pub [u8; 32]);

/// The 20 bytes that name a swarm in handshakes and look-ups.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SwarmId(pub [u8; 20]);

macro_rules! shown_as_hex {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{self}")
            }
        }
    )*};
}
shown_as_hex!(InfoSig, PublicKey, SwarmId);

/// What a user asks for: the InfoSig of a signed torrent, else the InfoHash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum InfoId {
    /// An immutable value.
    Hash(InfoHash),
    /// A dataset under its publisher's signature.
    Sig(InfoSig),
}

impl InfoId {
    /// The raw bytes: 20, 32 or 64.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Hash(hash) => hash.as_bytes(),
            Self::Sig(sig) => &sig.0,
        }
    }

    /// The swarm of a native torrent: SHA-1 of the raw InfoID.
    pub fn swarm_id(&self) -> SwarmId {
        SwarmId(Sha1::digest(self.as_bytes()).into())
    }

    /// Every swarm that it may mean while the metainfo is not known: the native one, and for an InfoHash, which
    /// could as well be a BitTorrent infohash, the ordinary one ([`InfoHash::swarm_id`]).
    pub fn swarm_candidates(&self) -> Vec<SwarmId> {
        match self {
            Self::Hash(hash) => vec![self.swarm_id(), hash.swarm_id()],
            Self::Sig(_) => vec![self.swarm_id()],
        }
    }
}

impl fmt::Display for InfoId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.as_bytes()))
    }
}

impl FromStr for InfoId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || IdError { got: text.chars().take(160).collect(), digits: text.chars().count() };
        let bytes = hex::decode(text).map_err(|_| error())?;
        if let Ok(sig) = <[u8; 64]>::try_from(&bytes[..]) {
            return Ok(Self::Sig(InfoSig(sig)));
        }
        InfoHash::from_slice(&bytes).map(Self::Hash).ok_or_else(error)
    }
}

impl InfoHash {
    /// The swarm of an ordinary BitTorrent torrent: a v1 infohash as it is, a v2 one cut to 20 bytes (BEP 52).
    /// Native torrents have another one: [`InfoId::swarm_id`].
    pub fn swarm_id(&self) -> SwarmId {
        let mut id = [0; 20];
        id.copy_from_slice(&self.as_bytes()[..20]);
        SwarmId(id)
    }
}

/// A text that is no InfoID.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected an InfoID of 40, 64 or 128 hex digits, got {digits} characters: {got:?}")]
pub struct IdError {
    got: String,
    digits: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_forms_by_length() {
        for (digits, is_sig) in [(40, false), (64, false), (128, true)] {
            let text = "ab".repeat(digits / 2);
            let id: InfoId = text.parse().unwrap();
            assert_eq!(matches!(id, InfoId::Sig(_)), is_sig);
            assert_eq!(id.to_string(), text);
        }
    }

    #[test]
    fn other_texts_are_refused_with_what_was_expected() {
        for text in ["", "zz", &"a".repeat(41), &"ab".repeat(21), &"é".repeat(20)] {
            let error = text.parse::<InfoId>().unwrap_err().to_string();
            assert!(error.contains("40, 64 or 128 hex digits"), "{error}");
        }
    }

    #[test]
    fn swarm_id_is_sha1_of_the_raw_id() {
        let id: InfoId = "00".repeat(32).parse().unwrap();
        assert_eq!(id.swarm_id().to_string(), "de8a847bff8c343d69b853a215e6ee775ef2ef96");
    }

    #[test]
    fn an_info_hash_may_be_native_or_ordinary() {
        for (digits, candidates) in [(40, 2), (64, 2), (128, 1)] {
            let id: InfoId = "ab".repeat(digits / 2).parse().unwrap();
            let swarms = id.swarm_candidates();
            assert_eq!((swarms.len(), swarms[0]), (candidates, id.swarm_id()));
            assert!(swarms[1..].iter().all(|swarm| swarm.0 == [0xab; 20]));
        }
    }
}
