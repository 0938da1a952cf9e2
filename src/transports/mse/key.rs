//! The key exchange, and the keys that come of it.

use crypto_bigint::modular::{ConstMontyForm, ConstMontyParams};
use crypto_bigint::{U192, U768, const_monty_params};
use rc4::{KeyInit, Rc4, StreamCipher};
use sha1::{Digest, Sha1};

use super::MseError;
use crate::types::SwarmId;

/// Bytes of a public key and of the secret.
pub(super) const KEY_LEN: usize = 96;
/// Bits of a private key: what the specification calls enough.
const PRIVATE_BITS: u32 = 160;
/// Bytes of the RC4 key stream that are thrown away, as its first ones leak the key.
const RC4_DROP: usize = 1024;

const_monty_params!(
    Group,
    U768,
    "ffffffffffffffffc90fdaa22168c234c4c6628b80dc1cd129024e088a67cc74020bbea63b139b22514a08798e3404ddef9519b3cd3a\
     431b302b0a6df25f14374fe1356d6d51c245e485b576625e7ec6f44c42e9a63a36210000000000090563",
    "The prime P of the specification."
);

type Element = ConstMontyForm<Group, { U768::LIMBS }>;

/// The generator G of the specification.
const GENERATOR: u32 = 2;

/// One side's half of the exchange.
pub(super) struct KeyPair {
    private: U192,
    public: [u8; KEY_LEN],
}

impl KeyPair {
    /// A new one.
    pub(super) fn generate() -> Self {
        Self::from_private(rand::random())
    }

    fn from_private(private: [u8; 20]) -> Self {
        let mut padded = [0; 24];
        padded[4..].copy_from_slice(&private);
        let private = U192::from_be_slice(&padded);
        let public = power(&U768::from(GENERATOR), &private);
        Self { private, public }
    }

    /// What to send to the peer.
    pub(super) fn public(&self) -> &[u8; KEY_LEN] {
        &self.public
    }

    /// The secret shared with the owner of `theirs`.
    pub(super) fn agree(&self, theirs: &[u8; KEY_LEN]) -> Result<Secret, MseError> {
        let theirs = U768::from_be_slice(theirs);
        let last = Group::PARAMS.modulus().get().wrapping_sub(&U768::ONE);
        // 0, 1 and P - 1 generate one or two values only.
        if theirs <= U768::ONE || theirs >= last {
            return Err(MseError::WeakKey);
        }
        Ok(Secret(power(&theirs, &self.private)))
    }
}

fn power(base: &U768, exponent: &U192) -> [u8; KEY_LEN] {
    let value = Element::new(base).pow_bounded_exp(exponent, PRIVATE_BITS).retrieve().to_be_bytes();
    let mut bytes = [0; KEY_LEN];
    bytes.copy_from_slice(value.as_ref());
    bytes
}

/// S: what both sides know and nobody else.
pub(super) struct Secret([u8; KEY_LEN]);

impl Secret {
    /// `HASH('req1', S)`: where the third step begins.
    pub(super) fn mark(&self) -> [u8; 20] {
        hash(&[b"req1", &self.0])
    }

    /// Turns the hash of a swarm into the form that is sent, and back.
    pub(super) fn mask(&self, swarm_hash: &[u8; 20]) -> [u8; 20] {
        let mut masked = hash(&[b"req3", &self.0]);
        for (byte, other) in masked.iter_mut().zip(swarm_hash) {
            *byte ^= other;
        }
        masked
    }

    /// What the side that dialled sends with.
    pub(super) fn dialler_cipher(&self, swarm: &SwarmId) -> Result<KeyStream, MseError> {
        KeyStream::new(&hash(&[b"keyA", &self.0, &swarm.0]))
    }

    /// What the side that was dialled sends with.
    pub(super) fn listener_cipher(&self, swarm: &SwarmId) -> Result<KeyStream, MseError> {
        KeyStream::new(&hash(&[b"keyB", &self.0, &swarm.0]))
    }
}

/// `HASH('req2', SKEY)`.
pub(super) fn swarm_hash(swarm: &SwarmId) -> [u8; 20] {
    hash(&[b"req2", &swarm.0])
}

fn hash(parts: &[&[u8]]) -> [u8; 20] {
    let mut hasher = Sha1::new();
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize().into()
}

/// One direction's cipher, at its place in the stream.
pub(super) struct KeyStream(Box<Rc4>);

impl KeyStream {
    fn new(key: &[u8; 20]) -> Result<Self, MseError> {
        let mut cipher = Rc4::new_from_slice(key).map_err(|_| MseError::Cipher)?;
        cipher.apply_keystream(&mut [0; RC4_DROP]);
        Ok(Self(Box::new(cipher)))
    }

    /// Encrypts or decrypts `bytes` in place: the next ones of the stream.
    pub(super) fn apply(&mut self, bytes: &mut [u8]) {
        self.0.apply_keystream(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Computed with Python's `pow` for the private keys 1, 2, … 20 and 101, 102, … 120.
    const PUBLIC_A: &str = "96e112dab29e8c5272accb9b17b26887ce54a144a4e3b697c7d159b7a817e556b0918db2b4c658e02a87f7e5f\
                            b14b18a553e084cbf3dad2d30f16596ccb982d406258c61b30c5c1dae2ddc60bdbd48d79896312aad63238c39\
                            e1a633821eb693";
    const SECRET: &str = "d05ed96a95215a89b44073afe5d0b1626289ac01cff7849392948b2470b346547e944d7562a897ae86976bc3899\
                          99083ec09572dbdc8ed7f6a0a86a1aa42a3ca04209b72d8239890360435640643b76479ed7836f1857963fcc7cb\
                          72084c3ab4";

    fn pair(first: u8) -> KeyPair {
        KeyPair::from_private(std::array::from_fn(|at| first + at as u8))
    }

    #[test]
    fn the_exchange_gives_known_values_and_one_secret() {
        let (a, b) = (pair(1), pair(101));
        assert_eq!(hex::encode(a.public()), PUBLIC_A);
        let (at_a, at_b) = (a.agree(b.public()).unwrap(), b.agree(a.public()).unwrap());
        assert_eq!(hex::encode(at_a.0), SECRET);
        assert_eq!(at_a.0, at_b.0);
        assert_eq!(hex::encode(at_a.mark()), "78fffb0f23055a793ff7609f359e04e383ec3505");
    }

    #[test]
    fn rc4_drops_its_beginning() {
        let mut bytes = [0; 16];
        pair(1).agree(pair(101).public()).unwrap().dialler_cipher(&SwarmId([7; 20])).unwrap().apply(&mut bytes);
        assert_eq!(hex::encode(bytes), "6001a24df82bedd60d89ed941f5de1f9");
    }

    #[test]
    fn keys_that_fix_the_secret_are_refused() {
        let last = Group::PARAMS.modulus().get().wrapping_sub(&U768::ONE);
        for weak in [U768::ZERO, U768::ONE, last, *Group::PARAMS.modulus().as_ref(), U768::MAX] {
            let mut bytes = [0; KEY_LEN];
            bytes.copy_from_slice(weak.to_be_bytes().as_ref());
            assert!(matches!(pair(1).agree(&bytes), Err(MseError::WeakKey)));
        }
    }

    #[test]
    fn the_mask_undoes_itself() {
        let secret = pair(1).agree(pair(101).public()).unwrap();
        let hash = swarm_hash(&SwarmId([9; 20]));
        assert_eq!(secret.mask(&secret.mask(&hash)), hash);
    }
}
