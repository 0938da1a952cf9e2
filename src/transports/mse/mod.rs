//! Message Stream Encryption: how BitTorrent clients keep what they are from whoever looks at the bytes.
//!
//! As Azureus specified it and every client since has it: Diffie–Hellman over a 768-bit group, RC4 keyed with the
//! shared secret and the swarm's id, paddings of random length. It hides the protocol from filters; it proves
//! nothing about the peer, so nothing may rely on it for secrecy.
//!
//! Steps, with S the secret, A the side that dials:
//!
//! ```text
//! 1 A→B  Ya, PadA
//! 2 B→A  Yb, PadB
//! 3 A→B  H('req1' S), H('req2' swarm) ⊕ H('req3' S), {VC, crypto_provide, PadC, length of IA}, {IA}
//! 4 B→A  {VC, crypto_select, PadD}, then the stream, encrypted or not as selected
//! ```
//!
//! [`initiate`] is A and [`accept`] B; `accept` also lets plain handshakes through where the policy does. Neither
//! keeps time: callers bound them, and what they hold of a peer's bytes is bounded by the paddings' lengths.

mod handshake;
mod intake;
mod key;
mod stream;
mod swarms;

use std::io;

use tokio::io::{AsyncRead, AsyncWrite};

pub use stream::CipherStream;
pub use swarms::ServedSwarms;

use crate::types::SwarmId;
use intake::Intake;

/// The longest padding that either side may send.
const MAX_PAD: usize = 512;
/// What an ordinary handshake begins with (BEP 3).
const PLAIN_PREFIX: &[u8; 20] = b"\x13BitTorrent protocol";

/// When to encrypt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EncryptionPolicy {
    /// Never: dial in the clear, and refuse encrypted connections.
    Disabled,
    /// Dial encrypted, and once more in the clear when that fails; accept both.
    #[default]
    Preferred,
    /// Only connections that are encrypted from the first byte to the last, with RC4.
    Required,
}

/// What the stream after the encrypted handshake is sent with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cipher {
    /// Nothing: only the handshake was hidden.
    Plaintext,
    /// RC4.
    #[default]
    Rc4,
}

impl Cipher {
    /// The cipher's bit in `crypto_provide` and `crypto_select`.
    fn bit(self) -> u32 {
        match self {
            Self::Plaintext => 1,
            Self::Rc4 => 2,
        }
    }
}

/// How streams are encrypted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Encryption {
    /// When.
    pub policy: EncryptionPolicy,
    /// What to choose when a peer offers both and the policy is [`EncryptionPolicy::Preferred`]. Plaintext costs
    /// nothing after the handshake, RC4 about 3 ns a byte each way.
    pub prefer: Cipher,
}

impl Encryption {
    /// What this side offers, or accepts, within the encrypted handshake; `None` where there is none.
    pub fn ciphers(&self) -> Option<Ciphers> {
        match self.policy {
            EncryptionPolicy::Disabled => None,
            EncryptionPolicy::Preferred => Some(Ciphers::BOTH),
            EncryptionPolicy::Required => Some(Ciphers::only(Cipher::Rc4)),
        }
    }

    /// What to answer to a peer that offers `provided`.
    fn select(&self, provided: u32) -> Result<Cipher, MseError> {
        let accepted = self.ciphers().unwrap_or(Ciphers(0));
        let other = match self.prefer {
            Cipher::Plaintext => Cipher::Rc4,
            Cipher::Rc4 => Cipher::Plaintext,
        };
        [self.prefer, other]
            .into_iter()
            .find(|cipher| accepted.contains(*cipher) && provided & cipher.bit() != 0)
            .ok_or(MseError::NoCommonCipher { accepted: accepted.0, provided })
    }
}

/// A set of ciphers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ciphers(u32);

impl Ciphers {
    /// All of them.
    pub const BOTH: Self = Self(3);

    /// One.
    pub fn only(cipher: Cipher) -> Self {
        Self(cipher.bit())
    }

    fn contains(self, cipher: Cipher) -> bool {
        self.0 & cipher.bit() != 0
    }
}

/// Why an encrypted stream could not be made.
#[derive(Debug, thiserror::Error)]
pub enum MseError {
    /// The stream failed.
    #[error("the stream failed in the encrypted handshake: {0}")]
    Io(#[from] io::Error),
    /// The peer left.
    #[error("the peer closed the stream in the encrypted handshake")]
    Closed,
    /// A public key that fixes the secret, or is none of the group.
    #[error("expected a public key of the 768-bit group, got one outside it or one that fixes the secret")]
    WeakKey,
    /// The cipher takes keys of 1 to 256 bytes, and these have 20.
    #[error("the cipher refused its key")]
    Cipher,
    /// The bytes that everything after is counted from did not come.
    #[error("expected {what} within {MAX_PAD} bytes of padding, got something else")]
    NoSync {
        /// What should have come.
        what: &'static str,
    },
    /// The peer wants a swarm that is not served here.
    #[error("the peer asks for a swarm that is not served here")]
    UnknownSwarm,
    /// What was decrypted is not what a peer with the right key sends.
    #[error("expected the verification constant, got something else: the peer has another key")]
    BadVerification,
    /// Nothing that both sides would use.
    #[error("no common cipher: this side takes {accepted:#x}, the peer {provided:#x} (1 is plaintext, 2 is RC4)")]
    NoCommonCipher {
        /// What this side takes.
        accepted: u32,
        /// What the peer said.
        provided: u32,
    },
    /// A padding longer than any may be.
    #[error("expected at most {MAX_PAD} bytes of padding, got {0}")]
    PadTooLong(usize),
    /// An ordinary handshake, where every stream must be encrypted.
    #[error("expected an encrypted handshake, got a plain one, which the encryption policy forbids")]
    PlainRefused,
    /// Neither an ordinary handshake nor, as the policy is, anything else.
    #[error("expected a BitTorrent handshake, got something else")]
    NoHandshake,
}

/// Opens an encrypted stream over `io`, which this side dialled, for `swarm`.
///
/// # Errors
/// When the peer speaks no Message Stream Encryption, or none that is `offered`.
pub async fn initiate<S>(io: S, swarm: &SwarmId, offered: Ciphers) -> Result<CipherStream<S>, MseError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    handshake::initiate(Intake::new(io), swarm, offered).await
}

/// Tells a plain handshake from an encrypted one on `io`, which a peer dialled, and carries the latter out for one of
/// `swarms`. The stream yields the peer's bytes from the first of its BitTorrent handshake on.
///
/// # Errors
/// When the peer sends neither, or what the policy forbids, or asks for a swarm that is not served.
pub async fn accept<S>(io: S, encryption: &Encryption, swarms: &ServedSwarms) -> Result<CipherStream<S>, MseError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut intake = Intake::new(io);
    let plain = intake.starts_with(PLAIN_PREFIX).await?;
    match (plain, encryption.policy) {
        (true, EncryptionPolicy::Required) => Err(MseError::PlainRefused),
        (true, _) => Ok(CipherStream::plain(intake)),
        (false, EncryptionPolicy::Disabled) => Err(MseError::NoHandshake),
        (false, _) => handshake::respond(intake, encryption, swarms).await,
    }
}

#[cfg(test)]
mod tests;
