//! Digests and the algorithms that make them.

use std::fmt;
use std::str::FromStr;

/// How a native torrent hashes its pieces; the same algorithm gives its InfoHash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HashAlgorithm {
    /// SHA-1 of each piece of the files laid end to end.
    Sha1,
    /// SHA-256 of each piece of the files laid end to end.
    Sha256,
    /// BEP 52 subtree roots over 16 KiB leaves, files aligned to pieces.
    Sha256Merkle,
    /// BLAKE3 subtree values over 16 KiB groups, files aligned to pieces.
    Blake3,
}

impl HashAlgorithm {
    /// Every algorithm, in the order in which help texts list them.
    pub const ALL: [Self; 4] = [Self::Sha1, Self::Sha256, Self::Sha256Merkle, Self::Blake3];

    /// The name in `piece hash algo` and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
            Self::Sha256Merkle => "sha256-merkle",
            Self::Blake3 => "blake3",
        }
    }

    /// Bytes of one digest.
    pub fn digest_len(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha256 | Self::Sha256Merkle | Self::Blake3 => 32,
        }
    }

    /// Whether a single 16 KiB block can be verified, which also means that files are aligned to pieces.
    pub fn verifies_blocks(self) -> bool {
        matches!(self, Self::Sha256Merkle | Self::Blake3)
    }
}

impl fmt::Display for HashAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for HashAlgorithm {
    type Err = UnknownHashAlgorithm;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|algo| algo.name() == name).ok_or_else(|| UnknownHashAlgorithm(name.to_owned()))
    }
}

/// The name of no hash algorithm that knot knows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a hash algorithm (sha1, sha256, sha256-merkle or blake3), got {0:?}")]
pub struct UnknownHashAlgorithm(pub String);

/// A digest of 20 (SHA-1) or 32 bytes (SHA-256, BLAKE3), kept without an allocation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest {
    len: u8,
    bytes: [u8; 32],
}

impl Digest {
    /// The digest in `bytes`, or `None` unless there are 20 or 32 of them.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        if !matches!(bytes.len(), 20 | 32) {
            return None;
        }
        let mut padded = [0; 32];
        padded[..bytes.len()].copy_from_slice(bytes);
        Some(Self { len: bytes.len() as u8, bytes: padded })
    }

    /// The 20 or 32 bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// The 32 bytes of a SHA-256 or BLAKE3 digest, `None` of a SHA-1 digest.
    pub fn as_array32(&self) -> Option<&[u8; 32]> {
        (self.len == 32).then_some(&self.bytes)
    }
}

impl From<[u8; 20]> for Digest {
    fn from(digest: [u8; 20]) -> Self {
        let mut bytes = [0; 32];
        bytes[..20].copy_from_slice(&digest);
        Self { len: 20, bytes }
    }
}

impl From<[u8; 32]> for Digest {
    fn from(bytes: [u8; 32]) -> Self {
        Self { len: 32, bytes }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.as_bytes()))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Hash of the bencoded `info` dictionary: names an immutable value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InfoHash(pub Digest);

impl InfoHash {
    /// The InfoHash in `bytes`, or `None` unless there are 20 or 32 of them.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        Digest::from_slice(bytes).map(Self)
    }

    /// The 20 or 32 bytes.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Display for InfoHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The root of one file's hash tree: equal roots mean equal content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileRoot(pub [u8; 32]);

impl fmt::Display for FileRoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn algorithm_names_round_trip() {
        for algo in HashAlgorithm::ALL {
            assert_eq!(algo.name().parse(), Ok(algo));
        }
        assert_eq!("md5".parse::<HashAlgorithm>(), Err(UnknownHashAlgorithm("md5".into())));
    }

    #[test]
    fn digests_have_two_widths() {
        assert_eq!(Digest::from_slice(&[1; 20]), Some(Digest::from([1; 20])));
        assert_eq!(Digest::from_slice(&[1; 32]).map(|d| d.to_string()), Some("01".repeat(32)));
        assert_eq!(Digest::from_slice(&[1; 21]), None);
        assert_eq!(Digest::from([7; 20]).as_array32(), None);
    }
}
