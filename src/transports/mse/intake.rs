//! A stream that is read piecemeal.

use bytes::{Buf, BufMut, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::MseError;
use super::key::KeyStream;

/// Bytes that one read takes at most: all that is held beyond what the handshake asks for.
const READ_MAX: usize = 1024;

/// A stream, and what was read of it but not used.
pub(super) struct Intake<S> {
    pub(super) io: S,
    pub(super) buffer: BytesMut,
}

impl<S: AsyncRead + Unpin> Intake<S> {
    pub(super) fn new(io: S) -> Self {
        Self { io, buffer: BytesMut::new() }
    }

    /// Reads what there is, at least a byte.
    async fn fill(&mut self) -> Result<(), MseError> {
        match self.io.read_buf(&mut (&mut self.buffer).limit(READ_MAX)).await? {
            0 => Err(MseError::Closed),
            _ => Ok(()),
        }
    }

    /// Whether the stream begins with `prefix`: known at the first byte that differs. Nothing is used up.
    pub(super) async fn starts_with(&mut self, prefix: &[u8]) -> Result<bool, MseError> {
        loop {
            let given = self.buffer.len().min(prefix.len());
            if self.buffer[..given] != prefix[..given] {
                return Ok(false);
            }
            if given == prefix.len() {
                return Ok(true);
            }
            self.fill().await?;
        }
    }

    /// Skips everything up to the end of `mark`, which must begin within `max_skip` bytes.
    pub(super) async fn skip_past(&mut self, mark: &[u8], max_skip: usize, what: &'static str) -> Result<(), MseError> {
        let mut searched = 0;
        loop {
            let end = self.buffer.len().min(max_skip + mark.len());
            if let Some(at) = self.buffer[searched..end].windows(mark.len()).position(|window| window == mark) {
                self.buffer.advance(searched + at + mark.len());
                return Ok(());
            }
            if end == max_skip + mark.len() {
                return Err(MseError::NoSync { what });
            }
            searched = end.saturating_sub(mark.len() - 1);
            self.fill().await?;
        }
    }

    /// The next `N` bytes.
    pub(super) async fn take<const N: usize>(&mut self) -> Result<[u8; N], MseError> {
        while self.buffer.len() < N {
            self.fill().await?;
        }
        let mut bytes = [0; N];
        self.buffer.copy_to_slice(&mut bytes);
        Ok(bytes)
    }

    /// The next `N` bytes, decrypted.
    pub(super) async fn take_decrypted<const N: usize>(&mut self, cipher: &mut KeyStream) -> Result<[u8; N], MseError> {
        let mut bytes = self.take::<N>().await?;
        cipher.apply(&mut bytes);
        Ok(bytes)
    }

    /// Throws the next `len` bytes away, keeping the cipher in step.
    pub(super) async fn skip_decrypted(&mut self, len: usize, cipher: &mut KeyStream) -> Result<(), MseError> {
        while self.buffer.len() < len {
            self.fill().await?;
        }
        cipher.apply(&mut self.buffer[..len]);
        self.buffer.advance(len);
        Ok(())
    }
}
