//! Both sides against each other, and against what is neither.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadBuf, duplex};
use tokio::time::timeout;

use super::*;

const SWARM: SwarmId = SwarmId([7; 20]);
const OTHER: SwarmId = SwarmId([8; 20]);
const ROOM: usize = 64 * 1024;

fn served() -> ServedSwarms {
    let swarms = ServedSwarms::new();
    for last in 0..50 {
        swarms.insert(SwarmId([last; 20]));
    }
    swarms.remove(&OTHER);
    swarms
}

fn encryption(policy: EncryptionPolicy, prefer: Cipher) -> Encryption {
    Encryption { policy, prefer }
}

const PREFERRED: Encryption = Encryption { policy: EncryptionPolicy::Preferred, prefer: Cipher::Rc4 };

/// A stream that moves at most so many bytes at once.
struct Slivers<S>(S, usize);

/// One whose reads take at most so many bytes, in turn.
struct Uneven<S> {
    io: S,
    lens: Vec<usize>,
    at: usize,
}

impl<S: AsyncRead + Unpin> AsyncRead for Uneven<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let len = self.lens[self.at % self.lens.len()];
        self.at += 1;
        Pin::new(&mut Slivers(&mut self.io, len)).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Uneven<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Slivers<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let len = buf.remaining().min(self.1);
        let mut part = ReadBuf::new(buf.initialize_unfilled_to(len));
        let result = Pin::new(&mut self.0).poll_read(cx, &mut part);
        let read = part.filled().len();
        buf.advance(read);
        result
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Slivers<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let len = buf.len().min(self.1);
        Pin::new(&mut self.0).poll_write(cx, &buf[..len])
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

async fn both<S>(
    near: S,
    far: S,
    offered: Ciphers,
    listener: Encryption,
) -> (Result<CipherStream<S>, MseError>, Result<CipherStream<S>, MseError>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let served = served();
    tokio::join!(initiate(near, &SWARM, offered), accept(far, &listener, &served))
}

/// Sends `len` bytes each way at once, and checks them.
async fn exchange(
    near: &mut (impl AsyncRead + AsyncWrite + Unpin),
    far: &mut (impl AsyncRead + AsyncWrite + Unpin),
    len: usize,
) {
    let data: Vec<u8> = (0..len).map(|at| (at * 31 % 251) as u8).collect();
    let reversed: Vec<u8> = data.iter().rev().copied().collect();
    let (mut near_in, mut near_out) = tokio::io::split(near);
    let (mut far_in, mut far_out) = tokio::io::split(far);
    let (mut at_near, mut at_far) = (vec![0; len], vec![0; len]);
    tokio::join!(
        async {
            near_out.write_all(&data).await.unwrap();
            near_out.flush().await.unwrap();
        },
        async {
            far_out.write_all(&reversed).await.unwrap();
            far_out.flush().await.unwrap();
        },
        async { near_in.read_exact(&mut at_near).await.unwrap() },
        async { far_in.read_exact(&mut at_far).await.unwrap() },
    );
    assert!(at_far == data && at_near == reversed);
}

#[tokio::test]
async fn both_sides_agree_on_a_cipher() {
    use Cipher::{Plaintext, Rc4};
    use EncryptionPolicy::{Preferred, Required};
    let cases = [
        (Ciphers::BOTH, Preferred, Rc4, Rc4),
        (Ciphers::BOTH, Preferred, Plaintext, Plaintext),
        (Ciphers::BOTH, Required, Plaintext, Rc4),
        (Ciphers::only(Rc4), Preferred, Plaintext, Rc4),
        (Ciphers::only(Rc4), Required, Rc4, Rc4),
        (Ciphers::only(Plaintext), Preferred, Rc4, Plaintext),
    ];
    for (offered, policy, prefer, expected) in cases {
        let (near, far) = duplex(ROOM);
        let (near, far) = both(near, far, offered, encryption(policy, prefer)).await;
        let (mut near, mut far) = (near.unwrap(), far.unwrap());
        assert_eq!((near.cipher(), far.cipher()), (expected, expected));
        exchange(&mut near, &mut far, 200_000).await;
        near.shutdown().await.unwrap();
        assert_eq!(far.read(&mut [0]).await.unwrap(), 0);
    }
}

#[tokio::test]
async fn no_common_cipher_is_said() {
    let (near, far) = duplex(ROOM);
    let listener = encryption(EncryptionPolicy::Required, Cipher::Rc4);
    let (near, far) = both(near, far, Ciphers::only(Cipher::Plaintext), listener).await;
    assert!(matches!(far, Err(MseError::NoCommonCipher { accepted: 2, provided: 1 })));
    assert!(matches!(near, Err(MseError::Closed)));
}

#[tokio::test]
async fn a_selection_that_was_not_offered_is_refused() {
    // The listener thinks that it may choose, and takes what was not offered: 3 is no choice either.
    for selected in [0u32, 1, 3, 4, u32::MAX] {
        let (near, mut far) = duplex(ROOM);
        let listener = async {
            let pair = key::KeyPair::generate();
            let mut theirs = [0; key::KEY_LEN];
            far.read_exact(&mut theirs).await.unwrap();
            let mut cipher = pair.agree(&theirs).unwrap().listener_cipher(&SWARM).unwrap();
            let mut answer = [&[0; 8][..], &selected.to_be_bytes(), &[0; 2]].concat();
            cipher.apply(&mut answer);
            far.write_all(pair.public()).await.unwrap();
            far.write_all(&answer).await.unwrap();
        };
        let (near, ()) = tokio::join!(initiate(near, &SWARM, Ciphers::only(Cipher::Rc4)), listener);
        assert!(matches!(near, Err(MseError::NoCommonCipher { accepted: 2, provided }) if provided == selected));
    }
}

#[tokio::test]
async fn streams_may_be_split_anywhere() {
    for cipher in [Cipher::Rc4, Cipher::Plaintext] {
        for sliver in [1, 2, 3, 7, 19, 20, 21, 95, 96, 97, 500] {
            let (near, far) = duplex(ROOM);
            let listener = encryption(EncryptionPolicy::Preferred, cipher);
            let (near, far) = both(Slivers(near, sliver), Slivers(far, sliver), Ciphers::BOTH, listener).await;
            exchange(&mut near.unwrap(), &mut far.unwrap(), 2_000).await;
        }
    }
}

/// The dialler as other clients are: the handshake goes along as initial payload, and more right behind it.
async fn dial_with_payload(
    mut io: DuplexStream,
    initial: &[u8],
    provide: u32,
    sliver: usize,
) -> CipherStream<DuplexStream> {
    let pair = key::KeyPair::generate();
    io.write_all(pair.public()).await.unwrap();
    let mut theirs = [0; key::KEY_LEN];
    io.read_exact(&mut theirs).await.unwrap();
    let secret = pair.agree(&theirs).unwrap();
    let (mut outbound, mut inbound) = (secret.dialler_cipher(&SWARM).unwrap(), secret.listener_cipher(&SWARM).unwrap());
    let mut offer = [&[0; 8][..], &provide.to_be_bytes(), &[0, 3], b"pad"].concat();
    offer.extend_from_slice(&(initial.len() as u16).to_be_bytes());
    offer.extend_from_slice(initial);
    outbound.apply(&mut offer);
    let request = [&secret.mark()[..], &secret.mask(&key::swarm_hash(&SWARM)), &offer].concat();
    for part in request.chunks(sliver) {
        io.write_all(part).await.unwrap();
        tokio::task::yield_now().await;
    }
    let mut intake = Intake::new(io);
    let mut mark = [0; 8];
    inbound.apply(&mut mark);
    intake.skip_past(&mark, MAX_PAD, "mark").await.unwrap();
    let selected = u32::from_be_bytes(intake.take_decrypted(&mut inbound).await.unwrap());
    let pad = u16::from_be_bytes(intake.take_decrypted(&mut inbound).await.unwrap());
    intake.skip_decrypted(pad.into(), &mut inbound).await.unwrap();
    match selected {
        1 => CipherStream::new(intake, stream::Inbound::Plain, None),
        _ => CipherStream::new(intake, stream::Inbound::Rc4(inbound), Some(outbound)),
    }
}

#[tokio::test]
async fn the_initial_payload_is_the_streams_beginning() {
    let initial: Vec<u8> = (0..3000).map(|at| at as u8).collect();
    for (provide, sliver, len) in [(3, 5000, 68), (2, 1, 68), (1, 1, 68), (1, 5000, 3000), (2, 97, 3000), (1, 13, 0)] {
        let (near, far) = duplex(ROOM);
        let served = served();
        let payload = &initial[..len];
        let (mut near, far) =
            tokio::join!(dial_with_payload(near, payload, provide, sliver), accept(far, &PREFERRED, &served));
        let mut far = far.unwrap();
        near.write_all(b"and more").await.unwrap();
        let mut got = vec![0; len + 8];
        far.read_exact(&mut got).await.unwrap();
        assert_eq!(got, [payload, b"and more"].concat());
        exchange(&mut near, &mut far, 5_000).await;
    }
}

#[tokio::test]
async fn swarms_that_are_not_served_are_refused() {
    let (near, far) = duplex(ROOM);
    let served = served();
    let (near, far) = tokio::join!(initiate(near, &OTHER, Ciphers::BOTH), accept(far, &PREFERRED, &served));
    assert!(matches!(far, Err(MseError::UnknownSwarm)));
    assert!(matches!(near, Err(MseError::Closed)));
}

#[tokio::test]
async fn plain_handshakes_pass_where_the_policy_lets_them() {
    let handshake = [&PLAIN_PREFIX[..], &[0; 48], b"after"].concat();
    for sliver in [1, 19, 20, 21, 100] {
        for policy in [EncryptionPolicy::Disabled, EncryptionPolicy::Preferred, EncryptionPolicy::Required] {
            let (mut near, far) = duplex(ROOM);
            near.write_all(&handshake).await.unwrap();
            let accepted = accept(Slivers(far, sliver), &encryption(policy, Cipher::Rc4), &served()).await;
            if policy == EncryptionPolicy::Required {
                assert!(matches!(accepted, Err(MseError::PlainRefused)));
                continue;
            }
            let mut far = accepted.unwrap();
            let mut got = vec![0; handshake.len()];
            far.read_exact(&mut got).await.unwrap();
            assert_eq!(got, handshake);
            far.write_all(b"answer").await.unwrap();
            let mut answer = [0; 6];
            near.read_exact(&mut answer).await.unwrap();
            assert_eq!(&answer, b"answer");
        }
    }
}

#[tokio::test]
async fn disabled_refuses_at_the_first_wrong_byte() {
    for wrong in 0..20 {
        let (mut near, far) = duplex(ROOM);
        let mut bytes = PLAIN_PREFIX[..=wrong].to_vec();
        bytes[wrong] ^= 1;
        near.write_all(&bytes).await.unwrap();
        let refused = accept(far, &encryption(EncryptionPolicy::Disabled, Cipher::Rc4), &served()).await;
        assert!(matches!(refused, Err(MseError::NoHandshake)));
    }
}

#[tokio::test]
async fn a_plain_client_answers_an_encrypted_dial_with_an_error() {
    let (near, mut far) = duplex(ROOM);
    let plain_client = async move {
        let mut first = [0; 20];
        far.read_exact(&mut first).await.unwrap();
        assert_ne!(&first, PLAIN_PREFIX);
    };
    let (near, ()) = tokio::join!(initiate(near, &SWARM, Ciphers::BOTH), plain_client);
    assert!(matches!(near, Err(MseError::Closed | MseError::Io(_))));
}

#[tokio::test]
async fn endless_garbage_ends_after_the_longest_padding() {
    for dialled in [true, false] {
        let (near, far) = duplex(64);
        let (mut answers, mut garbage) = tokio::io::split(far);
        let flood = async {
            let mut fed = 0;
            while garbage.write_all(&[0xAA; 8]).await.is_ok() {
                fed += 8;
            }
            fed
        };
        let drain = async {
            let _ = tokio::io::copy(&mut answers, &mut tokio::io::sink()).await;
        };
        let refuse = async {
            let mut near = near;
            if dialled {
                return initiate(&mut near, &SWARM, Ciphers::BOTH).await.err();
            }
            accept(&mut near, &PREFERRED, &served()).await.err()
        };
        let (fed, (), error) = tokio::join!(flood, drain, refuse);
        assert!(matches!(error, Some(MseError::NoSync { .. })), "{error:?}");
        assert!(fed <= key::KEY_LEN + MAX_PAD + 20 + 2 * 64 + 1024, "{fed} bytes were taken");
    }
}

#[tokio::test]
async fn pads_and_constants_are_checked() {
    // What follows the swarm's hash: a wrong constant, a padding too long, none of the ciphers.
    let offers: [(&[u8], &str); 3] = [
        (&[0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0], "verification constant"),
        (&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 2, 1, 0, 0], "at most 512 bytes of padding, got 513"),
        (&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0], "no common cipher"),
    ];
    for (offer, expected) in offers {
        let (mut near, far) = duplex(ROOM);
        let dialler = async {
            let pair = key::KeyPair::generate();
            near.write_all(pair.public()).await.unwrap();
            let mut theirs = [0; key::KEY_LEN];
            near.read_exact(&mut theirs).await.unwrap();
            let secret = pair.agree(&theirs).unwrap();
            let mut offer = offer.to_vec();
            secret.dialler_cipher(&SWARM).unwrap().apply(&mut offer);
            near.write_all(&secret.mark()).await.unwrap();
            near.write_all(&secret.mask(&key::swarm_hash(&SWARM))).await.unwrap();
            near.write_all(&offer).await.unwrap();
            near
        };
        let served = served();
        let (_near, far) = tokio::join!(dialler, accept(far, &PREFERRED, &served));
        let error = far.err().unwrap().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[tokio::test]
async fn a_small_pipe_below_holds_the_writer_back() {
    let (near, far) = duplex(ROOM);
    let (near, far) = both(near, far, Ciphers::only(Cipher::Rc4), PREFERRED).await;
    let (mut near, mut far) = (near.unwrap(), far.unwrap());
    // Nobody reads: the writer must wait when the pipe and the bounded buffer above it are full.
    let chunk = [3; 16 * 1024];
    let mut taken = 0;
    while let Ok(written) = timeout(Duration::from_millis(50), near.write(&chunk)).await {
        taken += written.unwrap();
        assert!(taken <= 4 * ROOM, "nothing bounds what waits");
    }
    let mut got = vec![0; taken];
    let (flushed, read) = tokio::join!(near.flush(), far.read_exact(&mut got));
    flushed.unwrap();
    read.unwrap();
    assert!(got.iter().all(|byte| *byte == 3));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn garbage_never_opens_a_stream(bytes in proptest::collection::vec(any::<u8>(), 0..2000), sliver in 1usize..300) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (mut near, far) = duplex(ROOM);
            near.write_all(&bytes).await.unwrap();
            near.shutdown().await.unwrap();
            prop_assert!(accept(Slivers(far, sliver), &PREFERRED, &served()).await.is_err());
            let (near, mut far) = duplex(ROOM);
            far.write_all(&bytes).await.unwrap();
            far.shutdown().await.unwrap();
            prop_assert!(initiate(Slivers(near, sliver), &SWARM, Ciphers::BOTH).await.is_err());
            Ok(())
        })?;
    }

    #[test]
    fn handshakes_and_payload_round_trip_however_they_are_split(
        lens in proptest::collection::vec(1usize..120, 1..8),
        initial in proptest::collection::vec(any::<u8>(), 0..300),
        provide in 1u32..=3,
        len in 0usize..2000,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (near, far) = duplex(ROOM);
            let far = Uneven { io: far, lens, at: 0 };
            let served = served();
            let (mut near, far) =
                tokio::join!(dial_with_payload(near, &initial, provide, 61), accept(far, &PREFERRED, &served));
            let (mut far, mut got) = (far.unwrap(), vec![0; initial.len()]);
            far.read_exact(&mut got).await.unwrap();
            assert_eq!(got, initial);
            exchange(&mut near, &mut far, len).await;
        });
    }
}
