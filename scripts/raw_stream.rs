//! The yardstick of `scripts/bench`: a file over one libp2p stream, between two processes, without knot's engine.
//!
//! `raw-stream KIND serve FILE` prints its address and serves; `raw-stream KIND fetch ADDR LEN [FILE]` reads LEN bytes,
//! throws them away or writes them to a new file, and prints the seconds that it took from the first to the last byte.
//! KIND is `plain` for TCP, Noise and Yamux as libp2p has them, `tuned` for how knot sets them up.

use std::error::Error;
use std::sync::Arc;
use std::time::Instant;

use futures::StreamExt;
use knot::transports::libp2p::{self as wire, Behaviour, Libp2pTransport, Multiplexing};
use knot::transports::{PeerStream, Transport};
use knot::types::{PeerAddr, SwarmId};
use libp2p::swarm::SwarmEvent;
use libp2p::{Swarm, SwarmBuilder, noise, tcp, yamux};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

const CHUNK_LEN: usize = 128 * 1024;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (kind, rest) = args.split_first().ok_or("expected `plain` or `tuned`")?;
    let host = Host::start(kind).await?;
    match rest.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve", file] => serve(host, file).await,
        ["fetch", addr, len] => fetch(host, addr, len.parse()?, None).await,
        ["fetch", addr, len, file] => fetch(host, addr, len.parse()?, Some(std::fs::File::create_new(file)?)).await,
        _ => Err("expected `serve FILE` or `fetch ADDR LEN [FILE]`".into()),
    }
}

/// A swarm that runs until the process ends.
struct Host {
    addr: String,
    transport: Libp2pTransport,
    incoming: mpsc::Receiver<PeerStream>,
}

impl Host {
    async fn start(kind: &str) -> Result<Self, Box<dyn Error>> {
        let (keys, tcp) = (SwarmBuilder::with_new_identity().with_tokio(), tcp::Config::default());
        let mut ends = None;
        let mut behave = |key: &libp2p::identity::Keypair| {
            let (behaviour, transport, incoming) = wire::behaviour(key.public().to_peer_id());
            ends = Some((transport, incoming));
            behaviour
        };
        let mut swarm: Swarm<Behaviour> = match kind {
            "plain" => {
                keys.with_tcp(tcp, noise::Config::new, yamux::Config::default)?.with_behaviour(&mut behave)?.build()
            }
            "tuned" => {
                keys.with_tcp(tcp, noise::Config::new, Multiplexing::default)?.with_behaviour(&mut behave)?.build()
            }
            other => return Err(format!("expected `plain` or `tuned`, got {other:?}").into()),
        };
        swarm.listen_on("/ip4/127.0.0.1/tcp/0".parse()?)?;
        let addr = loop {
            if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
                break format!("{address}/p2p/{}", swarm.local_peer_id());
            }
        };
        tokio::spawn(async move { while swarm.next().await.is_some() {} });
        let (transport, incoming) = ends.ok_or("no behaviour")?;
        Ok(Self { addr, transport, incoming })
    }
}

#[allow(clippy::print_stdout)]
async fn serve(mut host: Host, file: &str) -> Result<(), Box<dyn Error>> {
    println!("{}", host.addr);
    while let Some(mut peer) = host.incoming.recv().await {
        let file = Arc::new(std::fs::File::open(file)?);
        tokio::spawn(async move {
            let mut start = [0; 1];
            peer.io.read_exact(&mut start).await?;
            let mut offset = 0;
            loop {
                let mut chunk = vec![0; CHUNK_LEN];
                let len = std::os::unix::fs::FileExt::read_at(&*file, &mut chunk, offset)?;
                if len == 0 {
                    return peer.io.shutdown().await;
                }
                peer.io.write_all(&chunk[..len]).await?;
                offset += len as u64;
            }
        });
    }
    Ok(())
}

#[allow(clippy::print_stdout)]
async fn fetch(host: Host, addr: &str, len: u64, mut file: Option<std::fs::File>) -> Result<(), Box<dyn Error>> {
    let addr: PeerAddr = addr.parse()?;
    let mut peer = host.transport.dial(addr, SwarmId([0; 20])).await?;
    peer.io.write_all(&[1]).await?;
    peer.io.flush().await?;
    let mut chunk = vec![0; CHUNK_LEN];
    let started = Instant::now();
    let mut got = 0;
    while got < len {
        match peer.io.read(&mut chunk).await? {
            0 => return Err(format!("the stream ended after {got} of {len} bytes").into()),
            read => {
                if let Some(file) = &mut file {
                    std::io::Write::write_all(file, &chunk[..read])?;
                }
                got += read as u64;
            }
        }
    }
    println!("{}", started.elapsed().as_secs_f64());
    Ok(())
}
