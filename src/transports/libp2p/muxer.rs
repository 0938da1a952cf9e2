//! Yamux with larger frames.
//!
//! What a muxer sends is encrypted, written and taken up by the other side frame by frame. The frames of libp2p's own
//! adapter have 16 KiB, and it offers no way to change that. A block has as many, so each costs a system call and a
//! turn of the connection's task on either side. What three blocks a frame gain is the difference of the two raw rows of
//! `scripts/bench`. It is the same protocol: a frame may be as long as the window of its stream has room.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use futures::{AsyncRead, AsyncWrite};
use libp2p::core::UpgradeInfo;
use libp2p::core::muxing::{StreamMuxer, StreamMuxerEvent};
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade};
use yamux::{Config, Connection, ConnectionError, Mode, Stream};

use crate::types::BLOCK_LEN;

/// Payload of a frame: as many blocks as fit into one message of Noise (65,535 bytes).
pub(super) const FRAME_LEN: usize = 3 * BLOCK_LEN as usize;
/// Streams that one connection may have, of all protocols.
const MAX_STREAMS: usize = 512;
/// What every stream may have on its way before anybody reads, by the specification.
const FIRST_WINDOW: usize = 256 * 1024;
/// By how much the windows of a connection may grow together where rate and round trip ask for it: a gigabyte a second
/// over an eighth of a second.
const MAX_GROWTH: usize = 128 * 1024 * 1024;
/// Streams that the other side has opened and the swarm has not taken; more are reset.
const MAX_WAITING: usize = 256;

/// Makes a [`Muxer`] of a connection that is encrypted already.
#[derive(Clone, Debug)]
pub struct Multiplexing(Config);

/// The limits of a node.
impl Default for Multiplexing {
    fn default() -> Self {
        let mut config = Config::default();
        config.set_max_num_streams(MAX_STREAMS);
        config.set_max_connection_receive_window(Some(MAX_STREAMS * FIRST_WINDOW + MAX_GROWTH));
        config.set_split_send_size(FRAME_LEN);
        Self(config)
    }
}

impl Multiplexing {
    fn muxer<C: AsyncRead + AsyncWrite + Unpin>(self, io: C, mode: Mode) -> Ready<Result<Muxer<C>, Infallible>> {
        let connection = Connection::new(io, self.0, mode);
        ready(Ok(Muxer { connection, waiting: VecDeque::new(), taker: None }))
    }
}

impl UpgradeInfo for Multiplexing {
    type Info = &'static str;
    type InfoIter = std::iter::Once<Self::Info>;

    fn protocol_info(&self) -> Self::InfoIter {
        std::iter::once("/yamux/1.0.0")
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> InboundConnectionUpgrade<C> for Multiplexing {
    type Output = Muxer<C>;
    type Error = Infallible;
    type Future = Ready<Result<Muxer<C>, Infallible>>;

    fn upgrade_inbound(self, io: C, _: Self::Info) -> Self::Future {
        self.muxer(io, Mode::Server)
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> OutboundConnectionUpgrade<C> for Multiplexing {
    type Output = Muxer<C>;
    type Error = Infallible;
    type Future = Ready<Result<Muxer<C>, Infallible>>;

    fn upgrade_outbound(self, io: C, _: Self::Info) -> Self::Future {
        self.muxer(io, Mode::Client)
    }
}

/// Many streams over one connection.
pub struct Muxer<C> {
    connection: Connection<C>,
    /// Streams that came while the connection was driven and nobody asked for one.
    waiting: VecDeque<Stream>,
    /// Who asked, and was told that there is none yet.
    taker: Option<Waker>,
}

impl<C: AsyncRead + AsyncWrite + Unpin> Muxer<C> {
    /// Drives the connection, up to the next stream that the other side opens.
    fn poll_opened(&mut self, cx: &mut Context<'_>) -> Poll<Result<Stream, ConnectionError>> {
        self.connection.poll_next_inbound(cx).map(|next| next.unwrap_or(Err(ConnectionError::Closed)))
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> StreamMuxer for Muxer<C> {
    type Substream = Stream;
    type Error = ConnectionError;

    fn poll_inbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Stream, ConnectionError>> {
        if let Some(stream) = self.waiting.pop_front() {
            return Poll::Ready(Ok(stream));
        }
        let opened = self.poll_opened(cx);
        if opened.is_pending() {
            self.taker = Some(cx.waker().clone());
        }
        opened
    }

    fn poll_outbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Stream, ConnectionError>> {
        self.connection.poll_new_outbound(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), ConnectionError>> {
        self.connection.poll_close(cx)
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<StreamMuxerEvent, ConnectionError>> {
        // One at a time, so that a peer that opens many does not keep others waiting.
        let Poll::Ready(opened) = self.poll_opened(cx) else { return Poll::Pending };
        let stream = opened?;
        if self.waiting.len() < MAX_WAITING {
            self.waiting.push_back(stream);
        }
        if let Some(taker) = self.taker.take() {
            taker.wake();
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}
