//! A stream after its handshake.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Cipher;
use super::intake::Intake;
use super::key::KeyStream;

/// Encrypted bytes that may wait for the stream below.
const PENDING_MAX: usize = 64 * 1024;

/// How received bytes are decrypted.
pub(super) enum Inbound {
    /// Not at all.
    Plain,
    /// All of them.
    Rc4(KeyStream),
    /// The next `left`; what follows is plain.
    Rc4Until {
        /// With what.
        cipher: KeyStream,
        /// How many.
        left: usize,
    },
}

impl Inbound {
    fn apply(&mut self, bytes: &mut [u8]) {
        match self {
            Self::Plain => {}
            Self::Rc4(cipher) => cipher.apply(bytes),
            Self::Rc4Until { cipher, left } => {
                let encrypted = bytes.len().min(*left);
                cipher.apply(&mut bytes[..encrypted]);
                *left -= encrypted;
                if *left == 0 {
                    *self = Self::Plain;
                }
            }
        }
    }
}

/// A stream that may be encrypted. As what is written may wait here in encrypted form, whoever writes must flush
/// before waiting for an answer.
pub struct CipherStream<S> {
    io: S,
    /// Received and decrypted, but not yet read.
    read_ahead: BytesMut,
    inbound: Inbound,
    outbound: Option<KeyStream>,
    /// Encrypted, but not yet sent; empty while nothing is encrypted. At most [`PENDING_MAX`] bytes.
    pending: BytesMut,
}

impl<S> CipherStream<S> {
    pub(super) fn new(intake: Intake<S>, mut inbound: Inbound, outbound: Option<KeyStream>) -> Self {
        let Intake { io, buffer: mut read_ahead } = intake;
        inbound.apply(&mut read_ahead);
        Self { io, read_ahead, inbound, outbound, pending: BytesMut::new() }
    }

    /// A stream whose handshake turned out to be an ordinary one.
    pub(super) fn plain(intake: Intake<S>) -> Self {
        Self::new(intake, Inbound::Plain, None)
    }

    /// What this side sends with.
    pub fn cipher(&self) -> Cipher {
        if self.outbound.is_some() { Cipher::Rc4 } else { Cipher::Plaintext }
    }
}

impl<S: AsyncWrite + Unpin> CipherStream<S> {
    /// Sends what is pending.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.pending.is_empty() {
            let sent = ready!(Pin::new(&mut self.io).poll_write(cx, &self.pending))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.pending.advance(sent);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for CipherStream<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.read_ahead.is_empty() {
            let len = this.read_ahead.len().min(buf.remaining());
            buf.put_slice(&this.read_ahead[..len]);
            this.read_ahead.advance(len);
            if this.read_ahead.is_empty() {
                this.read_ahead = BytesMut::new();
            }
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
        this.inbound.apply(&mut buf.filled_mut()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for CipherStream<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.outbound.is_none() {
            return Pin::new(&mut this.io).poll_write(cx, buf);
        }
        if this.pending.len() >= PENDING_MAX
            && let Poll::Pending = this.poll_drain(cx)?
            && this.pending.len() >= PENDING_MAX
        {
            return Poll::Pending;
        }
        let len = buf.len().min(PENDING_MAX - this.pending.len());
        let start = this.pending.len();
        this.pending.extend_from_slice(&buf[..len]);
        if let Some(cipher) = &mut this.outbound {
            cipher.apply(&mut this.pending[start..]);
        }
        // What does not go now goes with the next write or flush.
        let _ = this.poll_drain(cx)?;
        Poll::Ready(Ok(len))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.outbound.is_none() {
            return Pin::new(&mut this.io).poll_write_vectored(cx, bufs);
        }
        let first = bufs.iter().find(|buf| !buf.is_empty()).map_or(&[][..], |buf| &**buf);
        Pin::new(this).poll_write(cx, first)
    }

    fn is_write_vectored(&self) -> bool {
        self.outbound.is_none() && self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.io).poll_shutdown(cx)
    }
}
