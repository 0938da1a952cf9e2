//! One signed statement of a publisher: this is the newest version.

use bytes::BytesMut;
use sha1::{Digest as _, Sha1};
use sha2::Sha256;

use crate::metainfo::{SecretKey, is_signature, is_signature_of};
use crate::types::bencode::{Value, put_bytes, put_int};
use crate::types::{InfoHash, InfoSig, MAX_RECORD_VALUE_LEN, PublicKey, RecordParts};

/// A verified record. The same bytes and the same signature are a mutable item of the mainline DHT (BEP 44) and a
/// record of the libp2p Kademlia, so that whoever has it can publish it again without the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpdateRecord {
    key: PublicKey,
    original_hash: InfoHash,
    original: InfoSig,
    hash: InfoHash,
    hash_sig: InfoSig,
    seq: u64,
    signed_at: i64,
    signature: [u8; 64],
}

impl UpdateRecord {
    /// The statement of the owner of `key` that version `seq` (from 1, at most 2^63 - 1) of the dataset that began
    /// with `original_hash` is `hash`, made at `signed_at` (Unix seconds).
    ///
    /// # Errors
    /// When `seq` is out of range.
    pub fn sign(
        key: &SecretKey,
        original_hash: InfoHash,
        hash: InfoHash,
        seq: u64,
        signed_at: i64,
    ) -> Result<Self, RecordError> {
        if seq == 0 || i64::try_from(seq).is_err() {
            return Err(RecordError::Seq(seq.to_string()));
        }
        let mut record = Self {
            key: key.public(),
            original_hash,
            original: key.sign(&original_hash),
            hash,
            hash_sig: key.sign(&hash),
            seq,
            signed_at,
            signature: [0; 64],
        };
        record.signature = key.sign_bytes(&signed_buffer(&record.salt(), seq as i64, &record.value()));
        Ok(record)
    }

    /// The record in `parts`, if it is a good one of the dataset that was asked for. In the order of `schema/update.md`:
    /// form, agreement of the parts, dataset, signatures.
    ///
    /// # Errors
    /// The first of these that does not hold.
    pub fn verify(parts: &RecordParts, asked: &InfoSig) -> Result<Self, RecordError> {
        let record = Self::read_agreeing(parts)?;
        if record.original != *asked {
            return Err(RecordError::OtherDataset);
        }
        record.signed(parts)
    }

    /// The record in `parts`, if it is a good one of the dataset that it names itself: for those who keep and pass on
    /// records of datasets that they do not know.
    ///
    /// # Errors
    /// As of [`UpdateRecord::verify`].
    pub fn verify_own(parts: &RecordParts) -> Result<Self, RecordError> {
        Self::read_agreeing(parts)?.signed(parts)
    }

    fn read_agreeing(parts: &RecordParts) -> Result<Self, RecordError> {
        let record = Self::read(parts)?;
        if record.value() != parts.value {
            return Err(RecordError::NotCanonical);
        }
        if i64::try_from(record.seq) != Ok(parts.seq) || record.key.0 != parts.key || record.salt() != parts.salt {
            return Err(RecordError::Disagrees);
        }
        Ok(record)
    }

    fn signed(self, parts: &RecordParts) -> Result<Self, RecordError> {
        let buffer = signed_buffer(&parts.salt, parts.seq, &parts.value);
        let (key, signs) = (&self.key, is_signature_of);
        let is_good = signs(key, &self.original_hash, &self.original)
            && is_signature(key, &buffer, &self.signature)
            && signs(key, &self.hash, &self.hash_sig);
        is_good.then_some(self).ok_or(RecordError::Signature)
    }

    fn read(parts: &RecordParts) -> Result<Self, RecordError> {
        if parts.value.len() > MAX_RECORD_VALUE_LEN {
            return Err(RecordError::TooLong(parts.value.len()));
        }
        let (dict, rest) = Value::read(&parts.value).ok_or(RecordError::Form)?;
        let bytes = |key| dict.get(key).and_then(Value::bytes);
        let hash = |key| bytes(key).and_then(InfoHash::from_slice);
        let sig = |key| bytes(key).and_then(|bytes| <[u8; 64]>::try_from(bytes).ok()).map(InfoSig);
        let read = || {
            Some(Self {
                key: PublicKey(bytes("k")?.try_into().ok()?),
                original_hash: hash("oh")?,
                original: sig("os")?,
                hash: hash("ih")?,
                hash_sig: sig("is")?,
                seq: dict.get("q")?.int().and_then(|seq| u64::try_from(seq).ok()).filter(|seq| *seq > 0)?,
                signed_at: dict.get("t")?.int()?,
                signature: parts.signature,
            })
        };
        read().filter(|_| rest.is_empty()).ok_or(RecordError::Form)
    }

    /// As networks carry it.
    pub fn parts(&self) -> RecordParts {
        RecordParts {
            key: self.key.0,
            salt: self.salt(),
            seq: self.seq as i64,
            signature: self.signature,
            value: self.value(),
        }
    }

    fn value(&self) -> Vec<u8> {
        let mut out = BytesMut::from(&b"d"[..]);
        let fields: [(&str, &[u8]); 5] = [
            ("ih", self.hash.as_bytes()),
            ("is", &self.hash_sig.0),
            ("k", &self.key.0),
            ("oh", self.original_hash.as_bytes()),
            ("os", &self.original.0),
        ];
        for (name, value) in fields {
            put_bytes(&mut out, name.as_bytes());
            put_bytes(&mut out, value);
        }
        put_bytes(&mut out, b"q");
        put_int(&mut out, self.seq as i64);
        put_bytes(&mut out, b"t");
        put_int(&mut out, self.signed_at);
        out.extend_from_slice(b"e");
        out.to_vec()
    }

    /// SHA1 of the original InfoSig: tells the datasets of one key apart (BEP 44's `salt`).
    pub fn salt(&self) -> [u8; 20] {
        Sha1::digest(self.original.0).into()
    }

    /// Where the mainline DHT keeps it (BEP 44).
    pub fn target(&self) -> [u8; 20] {
        target(&self.key.0, &self.salt())
    }

    /// Where the libp2p Kademlia keeps the records of the dataset `original`.
    pub fn kad_key(original: &InfoSig) -> [u8; 32] {
        Sha256::digest(original.0).into()
    }

    /// The publisher.
    pub fn key(&self) -> &PublicKey {
        &self.key
    }

    /// The name of the dataset.
    pub fn original(&self) -> &InfoSig {
        &self.original
    }

    /// The InfoHash of its first version.
    pub fn original_hash(&self) -> &InfoHash {
        &self.original_hash
    }

    /// The InfoHash of this version.
    pub fn hash(&self) -> &InfoHash {
        &self.hash
    }

    /// The InfoSig of this version.
    pub fn hash_sig(&self) -> &InfoSig {
        &self.hash_sig
    }

    /// The version, from 1.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// When the publisher says that it was signed, in Unix seconds.
    pub fn signed_at(&self) -> i64 {
        self.signed_at
    }
}

/// What BEP 44 has signed of an item with a salt whose value is a byte string.
fn signed_buffer(salt: &[u8], seq: i64, value: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::new();
    put_bytes(&mut out, b"salt");
    put_bytes(&mut out, salt);
    put_bytes(&mut out, b"seq");
    put_int(&mut out, seq);
    put_bytes(&mut out, b"v");
    put_bytes(&mut out, value);
    out.to_vec()
}

fn target(key: &[u8; 32], salt: &[u8]) -> [u8; 20] {
    Sha1::new().chain_update(key).chain_update(salt).finalize().into()
}

/// Why a record is not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Larger than any record.
    #[error("expected an update record of at most {MAX_RECORD_VALUE_LEN} bytes, got {0}")]
    TooLong(usize),
    /// No dictionary with the fields of a record.
    #[error("expected an update record (a bencoded dictionary of ih, is, k, oh, os, q, t), got something else")]
    Form,
    /// Another spelling of it would have the same meaning, and another signature.
    #[error("expected an update record in canonical bencoding with no other fields, got another spelling")]
    NotCanonical,
    /// `q`, `k` or the salt are not those inside the value.
    #[error("expected an update record that agrees with the item around it, got another seq, key or salt")]
    Disagrees,
    /// A record of another dataset.
    #[error("expected a record of the dataset that was asked for, got one of another")]
    OtherDataset,
    /// A signature is not the publisher's.
    #[error("expected signatures by the key behind the original InfoSig, got others")]
    Signature,
    /// A version that cannot be.
    #[error("expected a seq from 1 to 2^63 - 1, got {0}")]
    Seq(String),
}

#[cfg(test)]
mod tests;
