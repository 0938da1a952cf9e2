//! The yardstick of `scripts/bench`: a file over one libp2p stream, between two processes, without knot's engine.
//!
//! `raw-stream serve FILE` prints its address and serves; `raw-stream fetch ADDR LEN [FILE]` reads LEN bytes,
//! throws them away or writes them to a new file, and prints the seconds that it took from the first to the last byte.

use std::error::Error;
use std::sync::Arc;
use std::time::Instant;

use knot::node::swarm::{NodeSwarm, SwarmConfig};
use knot::types::SwarmId;
use libp2p::identity::Keypair;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const CHUNK_LEN: usize = 128 * 1024;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve", file] => serve(file).await,
        ["fetch", addr, len] => fetch(addr, len.parse()?, None).await,
        ["fetch", addr, len, file] => fetch(addr, len.parse()?, Some(std::fs::File::create_new(file)?)).await,
        _ => Err("expected `serve FILE` or `fetch ADDR LEN [FILE]`".into()),
    }
}

async fn start() -> Result<NodeSwarm, Box<dyn Error>> {
    let listen = vec!["/ip4/127.0.0.1/tcp/0".to_owned()];
    let key = Keypair::generate_ed25519();
    Ok(NodeSwarm::start(SwarmConfig { key, listen, kad: false, mdns: false, gossip: false, bootstrap: Vec::new() })
        .await?)
}

#[allow(clippy::print_stdout)]
async fn serve(file: &str) -> Result<(), Box<dyn Error>> {
    let mut swarm = start().await?;
    println!("{}", swarm.listen_addrs().first().ok_or("no address")?);
    let mut incoming = swarm.take_incoming().ok_or("no streams")?;
    while let Some(mut peer) = incoming.recv().await {
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
async fn fetch(addr: &str, len: u64, mut file: Option<std::fs::File>) -> Result<(), Box<dyn Error>> {
    let swarm = start().await?;
    let mut peer = swarm.transport().dial(addr.parse()?, SwarmId([0; 20])).await?;
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
