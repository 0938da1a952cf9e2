//! The encrypted handshake: against anything, and against itself with somebody in between.

use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake};

use knot::transports::mse::{Ciphers, Encryption, EncryptionPolicy, MseError, ServedSwarms, accept, initiate};
use knot::types::SwarmId;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, duplex};

const SWARM: SwarmId = SwarmId([7; 20]);
const PLAIN_PREFIX: &[u8] = b"\x13BitTorrent protocol";

fn served() -> ServedSwarms {
    let swarms = ServedSwarms::new();
    swarms.insert(SWARM);
    swarms
}

/// Works on `work` until it is done, or until nothing is left that could bring it further.
fn drive<T>(work: impl Future<Output = T>) -> Option<T> {
    struct Woken(AtomicBool);
    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    let woken = Arc::new(Woken(AtomicBool::new(true)));
    let waker = woken.clone().into();
    let mut context = Context::from_waker(&waker);
    let mut work = pin!(work);
    while woken.0.swap(false, Ordering::SeqCst) {
        if let Poll::Ready(done) = work.as_mut().poll(&mut context) {
            return Some(done);
        }
    }
    None
}

/// A peer that says the same whatever it hears, some bytes at a time, and then leaves.
struct Recording<'a> {
    rest: &'a [u8],
    sliver: usize,
}

impl AsyncRead for Recording<'_> {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let (now, later) = self.rest.split_at(self.rest.len().min(self.sliver).min(buf.remaining()));
        buf.put_slice(now);
        self.rest = later;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Recording<'_> {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// The first byte says how the rest is split. It opens no stream, but for a plain handshake, which comes out as it is.
pub(crate) fn anything(input: &[u8]) {
    let Some((sliver, stream)) = input.split_first() else { return };
    let sliver = 1 + usize::from(*sliver);
    for policy in [EncryptionPolicy::Disabled, EncryptionPolicy::Preferred, EncryptionPolicy::Required] {
        let encryption = Encryption { policy, ..Encryption::default() };
        let peer = Recording { rest: stream, sliver };
        let got = drive(async {
            let mut stream = accept(peer, &encryption, &served()).await?;
            let mut got = Vec::new();
            stream.read_to_end(&mut got).await?;
            Ok::<_, MseError>(got)
        });
        let got = got.expect("a recording never waits");
        let plain = stream.starts_with(PLAIN_PREFIX) && policy != EncryptionPolicy::Required;
        assert_eq!(got.ok().as_deref(), plain.then_some(stream));
    }
    let dialled = drive(initiate(Recording { rest: stream, sliver }, &SWARM, Ciphers::BOTH));
    assert!(dialled.expect("a recording never waits").is_err());
}

/// A stream whose writes somebody changes: what is laid over the one with number `at` (exclusive or).
struct Tampered<'a> {
    io: DuplexStream,
    at: Option<usize>,
    mask: &'a [u8],
}

impl AsyncRead for Tampered<'_> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Tampered<'_> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let mut bytes = buf.to_vec();
        if self.at == Some(0) {
            bytes.iter_mut().zip(self.mask).for_each(|(byte, mask)| *byte ^= mask);
        }
        self.at = self.at.and_then(|at| at.checked_sub(1));
        Pin::new(&mut self.io).poll_write(cx, &bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// The first byte says whose and which message is changed, the rest how: lengths, ciphers and constants, since what is
/// laid over the encrypted bytes is laid over what they stand for. Nobody waits for ever but for bytes of the other.
pub(crate) fn tampered(input: &[u8]) {
    let Some((choice, mask)) = input.split_first() else { return };
    let (near, far) = duplex(64 * 1024);
    let at = usize::from(choice >> 1) % 2;
    let mut near = Tampered { io: near, at: (choice & 1 == 0).then_some(at), mask };
    let mut far = Tampered { io: far, at: (choice & 1 == 1).then_some(at), mask };
    let (encryption, served) = (Encryption::default(), served());
    let opened = drive(async {
        tokio::join!(initiate(&mut near, &SWARM, Ciphers::BOTH), accept(&mut far, &encryption, &served))
    });
    if mask.iter().any(|byte| *byte != 0) {
        return;
    }
    let Some((Ok(mut near), Ok(mut far))) = opened else { panic!("nobody changed anything") };
    let exchanged = drive(async {
        near.write_all(b"said").await?;
        near.flush().await?;
        let mut heard = [0; 4];
        far.read_exact(&mut heard).await?;
        Ok::<_, io::Error>(heard)
    });
    assert_eq!(exchanged.expect("all is sent").expect("all is read"), *b"said");
}
