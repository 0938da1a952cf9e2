//! A libp2p stream as tokio's traits want it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::{AsyncRead as _, AsyncWrite as _};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::OwnedSemaphorePermit;

/// Bytes asked of the stream at once. The stream wants initialised memory, and what it delivers at once is seldom
/// more than a frame of the multiplexer: clearing all of a large buffer for each would cost more than it saves.
const MAX_READ: usize = super::muxer::FRAME_LEN;

/// A stream, and the place that it takes among the accepted streams of its connection.
pub(super) struct Libp2pStream {
    stream: libp2p::Stream,
    /// Given back when the stream is dropped.
    _place: Option<OwnedSemaphorePermit>,
}

impl Libp2pStream {
    pub(super) fn new(stream: libp2p::Stream, place: Option<OwnedSemaphorePermit>) -> Self {
        Self { stream, _place: place }
    }
}

impl AsyncRead for Libp2pStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let room = buf.remaining().min(MAX_READ);
        let read = ready!(Pin::new(&mut self.stream).poll_read(cx, buf.initialize_unfilled_to(room)))?;
        buf.advance(read);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Libp2pStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(cx)
    }
}
