//! The two sides of the handshake.

use rand::Rng;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use super::intake::Intake;
use super::key::{KEY_LEN, KeyPair, KeyStream, swarm_hash};
use super::stream::{CipherStream, Inbound};
use super::{Cipher, Ciphers, Encryption, MAX_PAD, MseError, ServedSwarms};
use crate::types::SwarmId;

/// The verification constant: eight zeros, decrypted.
const VC: [u8; 8] = [0; 8];

/// The side that dialled. It sends no initial payload: what the wire has to say is not known here.
pub(super) async fn initiate<S>(
    mut intake: Intake<S>,
    swarm: &SwarmId,
    offered: Ciphers,
) -> Result<CipherStream<S>, MseError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let pair = KeyPair::generate();
    send_key(&mut intake.io, &pair).await?;
    let secret = pair.agree(&intake.take::<KEY_LEN>().await?)?;
    let (mut outbound, mut inbound) = (secret.dialler_cipher(swarm)?, secret.listener_cipher(swarm)?);

    let pad = padding();
    let mut offer = Vec::with_capacity(VC.len() + 8 + pad.len());
    offer.extend_from_slice(&VC);
    offer.extend_from_slice(&offered.0.to_be_bytes());
    put_padding(&mut offer, &pad);
    offer.extend_from_slice(&0u16.to_be_bytes());
    outbound.apply(&mut offer);
    let mut request = Vec::with_capacity(40 + offer.len());
    request.extend_from_slice(&secret.mark());
    request.extend_from_slice(&secret.mask(&swarm_hash(swarm)));
    request.extend_from_slice(&offer);
    intake.io.write_all(&request).await?;
    intake.io.flush().await?;

    let mut mark = VC;
    inbound.apply(&mut mark);
    intake.skip_past(&mark, MAX_PAD, "the encrypted verification constant").await?;
    let selected = u32::from_be_bytes(intake.take_decrypted(&mut inbound).await?);
    let cipher = [Cipher::Rc4, Cipher::Plaintext]
        .into_iter()
        .find(|cipher| cipher.bit() == selected && offered.contains(*cipher))
        .ok_or(MseError::NoCommonCipher { accepted: offered.0, provided: selected })?;
    skip_padding(&mut intake, &mut inbound).await?;
    Ok(match cipher {
        Cipher::Plaintext => CipherStream::new(intake, Inbound::Plain, None),
        Cipher::Rc4 => CipherStream::new(intake, Inbound::Rc4(inbound), Some(outbound)),
    })
}

/// The side that was dialled.
pub(super) async fn respond<S>(
    mut intake: Intake<S>,
    encryption: &Encryption,
    swarms: &ServedSwarms,
) -> Result<CipherStream<S>, MseError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let theirs = intake.take::<KEY_LEN>().await?;
    let pair = KeyPair::generate();
    let secret = pair.agree(&theirs)?;
    send_key(&mut intake.io, &pair).await?;

    intake.skip_past(&secret.mark(), MAX_PAD, "the hash of the shared secret").await?;
    let swarm = swarms.find(&secret.mask(&intake.take().await?)).ok_or(MseError::UnknownSwarm)?;
    let (mut inbound, mut outbound) = (secret.dialler_cipher(&swarm)?, secret.listener_cipher(&swarm)?);
    if intake.take_decrypted::<8>(&mut inbound).await? != VC {
        return Err(MseError::BadVerification);
    }
    let cipher = encryption.select(u32::from_be_bytes(intake.take_decrypted(&mut inbound).await?))?;
    skip_padding(&mut intake, &mut inbound).await?;
    let initial = u16::from_be_bytes(intake.take_decrypted(&mut inbound).await?);

    let pad = padding();
    let mut answer = Vec::with_capacity(VC.len() + 6 + pad.len());
    answer.extend_from_slice(&VC);
    answer.extend_from_slice(&cipher.bit().to_be_bytes());
    put_padding(&mut answer, &pad);
    outbound.apply(&mut answer);
    intake.io.write_all(&answer).await?;
    intake.io.flush().await?;
    // The initial payload is the stream's beginning. It is always encrypted, also when the rest is not.
    Ok(match cipher {
        Cipher::Plaintext => {
            CipherStream::new(intake, Inbound::Rc4Until { cipher: inbound, left: usize::from(initial) }, None)
        }
        Cipher::Rc4 => CipherStream::new(intake, Inbound::Rc4(inbound), Some(outbound)),
    })
}

async fn send_key(io: &mut (impl AsyncWrite + Unpin), pair: &KeyPair) -> Result<(), MseError> {
    let mut hello = pair.public().to_vec();
    hello.extend_from_slice(&padding());
    io.write_all(&hello).await?;
    io.flush().await?;
    Ok(())
}

/// Random bytes, of a random length.
fn padding() -> Vec<u8> {
    let mut pad = vec![0; rand::random_range(0..=MAX_PAD)];
    rand::rng().fill_bytes(&mut pad);
    pad
}

fn put_padding(message: &mut Vec<u8>, pad: &[u8]) {
    message.extend_from_slice(&(pad.len() as u16).to_be_bytes());
    message.extend_from_slice(pad);
}

async fn skip_padding<S>(intake: &mut Intake<S>, cipher: &mut KeyStream) -> Result<(), MseError>
where
    S: AsyncRead + Unpin,
{
    let len = usize::from(u16::from_be_bytes(intake.take_decrypted(cipher).await?));
    if len > MAX_PAD {
        return Err(MseError::PadTooLong(len));
    }
    intake.skip_decrypted(len, cipher).await
}
