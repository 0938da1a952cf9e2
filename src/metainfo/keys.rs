//! Ed25519 keys of publishers.

use std::fmt;

use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use zeroize::Zeroizing;

use crate::types::{InfoHash, InfoSig, PublicKey};

/// First word of a key file.
const FILE_TAG: &str = "knot-secret-key-ed25519";

/// A publisher's secret key. Wiped from memory when dropped, and shown by nothing but [`SecretKey::to_text`].
pub struct SecretKey(SigningKey);

impl SecretKey {
    /// A new key from the system's random numbers.
    ///
    /// # Errors
    /// When the system has none to give.
    pub fn generate() -> Result<Self, KeyError> {
        let mut seed = Zeroizing::new([0; 32]);
        getrandom::fill(&mut *seed).map_err(|error| KeyError::Random(error.to_string()))?;
        Ok(Self::from_seed(&seed))
    }

    /// The key with an RFC 8032 seed.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// The key in the text of a key file: one line, `knot-secret-key-ed25519`, a space, and the RFC 8032 seed as 64
    /// hex digits. White space around it does not matter.
    ///
    /// # Errors
    /// When it is something else. The message repeats nothing of the text.
    pub fn from_text(text: &str) -> Result<Self, KeyError> {
        let digits = text.trim().strip_prefix(FILE_TAG).ok_or(KeyError::Format)?;
        let mut seed = Zeroizing::new([0; 32]);
        hex::decode_to_slice(digits.trim_start(), &mut *seed).map_err(|_| KeyError::Digits)?;
        Ok(Self::from_seed(&seed))
    }

    /// The text of a key file, with a line end. Whoever reads it can sign as this publisher.
    pub fn to_text(&self) -> Zeroizing<String> {
        let digits = Zeroizing::new(hex::encode(self.0.as_bytes()));
        Zeroizing::new(format!("{FILE_TAG} {}\n", *digits))
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key().to_bytes())
    }

    /// The signature of `message`, of an update record.
    pub fn sign_bytes(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }

    /// The signature of an InfoHash: over its 20 or 32 raw bytes.
    pub fn sign(&self, info_hash: &InfoHash) -> InfoSig {
        InfoSig(self.0.sign(info_hash.as_bytes()).to_bytes())
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey(of {})", self.public())
    }
}

/// Whether `sig` is the one signature of `info_hash` by `key`.
pub fn is_signature_of(key: &PublicKey, info_hash: &InfoHash, sig: &InfoSig) -> bool {
    is_signature(key, info_hash.as_bytes(), &sig.0)
}

/// Whether `signature` is the one signature of `message` by `key` (RFC 8032, strict: no weak keys, no malleability).
pub fn is_signature(key: &PublicKey, message: &[u8], signature: &[u8; 64]) -> bool {
    let signature = Signature::from_bytes(signature);
    VerifyingKey::from_bytes(&key.0).is_ok_and(|key| key.verify_strict(message, &signature).is_ok())
}

/// Why there is no key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The text is no key file.
    #[error("expected a key file of one line, {FILE_TAG:?} and 64 hex digits; make one with `knot key new FILE`")]
    Format,
    /// The digits are not a seed.
    #[error("expected 64 hex digits behind {FILE_TAG:?} in the key file, got something else: is it complete?")]
    Digits,
    /// No random numbers.
    #[error("expected random numbers from the system, got an error: {0}")]
    Random(String),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Digest;

    #[test]
    fn rfc_8032_test_1() {
        let seed = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
        let key = SecretKey::from_text(&format!("{FILE_TAG} {seed}\n")).unwrap();
        assert_eq!(key.public().to_string(), "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a");
    }

    #[test]
    fn text_round_trips_and_signs_the_same() {
        let key = SecretKey::generate().unwrap();
        let again = SecretKey::from_text(&key.to_text()).unwrap();
        let hash = InfoHash(Digest::from([7; 32]));
        assert_eq!(key.sign(&hash), again.sign(&hash));
        assert!(is_signature_of(&key.public(), &hash, &key.sign(&hash)));
        assert!(!is_signature_of(&key.public(), &InfoHash(Digest::from([8; 32])), &key.sign(&hash)));
        assert_ne!(SecretKey::generate().unwrap().public(), key.public());
    }

    #[test]
    fn wrong_texts_are_refused_without_repeating_them() {
        let secret = "ab".repeat(31);
        for text in ["", "ab", &secret, &format!("{FILE_TAG} {secret}"), &format!("{FILE_TAG} {secret}zz")] {
            let message = SecretKey::from_text(text).unwrap_err().to_string();
            assert!(!message.contains("abab"), "{message}");
        }
    }

    #[test]
    fn debug_hides_the_seed() {
        let key = SecretKey::from_seed(&[0xab; 32]);
        assert!(!format!("{key:?}").contains("abab"));
    }

    #[test]
    fn a_weak_key_signs_nothing() {
        // The neutral element as key and as R, with S = 0, passes the cofactored equation for every message.
        let mut one = [0; 32];
        one[0] = 1;
        let mut sig = [0; 64];
        sig[0] = 1;
        assert!(!is_signature_of(&PublicKey(one), &InfoHash(Digest::from([7; 32])), &InfoSig(sig)));
    }
}
