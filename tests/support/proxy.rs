//! A TCP proxy on loopback that limits the rate from the server and counts it: a slow line for a seeder.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// A running proxy; its threads end with the connections.
pub struct Proxy {
    addr: SocketAddr,
    from_server: Arc<AtomicU64>,
}

impl Proxy {
    /// Forwards to `server`, at most `bytes_per_s` from it to each client.
    pub fn start(server: SocketAddr, bytes_per_s: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let from_server = Arc::new(AtomicU64::new(0));
        let counter = from_server.clone();
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(upstream) = TcpStream::connect(server) else { continue };
                let (client_read, upstream_write) = (client.try_clone().unwrap(), upstream.try_clone().unwrap());
                thread::spawn(move || forward(client_read, upstream_write, u64::MAX, &AtomicU64::new(0)));
                let counter = counter.clone();
                thread::spawn(move || forward(upstream, client, bytes_per_s, &counter));
            }
        });
        Self { addr, from_server }
    }

    /// In front of a seeder's `/ip4/…/tcp/…/p2p/…`: the proxy, and its address in the same form.
    pub fn before(multiaddr: &str, bytes_per_s: u64) -> (Self, String) {
        let parts: Vec<&str> = multiaddr.split('/').collect();
        let server = format!("{}:{}", parts[2], parts[4]).parse().unwrap();
        let proxy = Self::start(server, bytes_per_s);
        let through = format!("/ip4/127.0.0.1/tcp/{}/p2p/{}", proxy.addr.port(), parts[6]);
        (proxy, through)
    }

    /// Bytes that came from the server so far, protocol and encryption included.
    pub fn bytes_from_server(&self) -> u64 {
        self.from_server.load(Ordering::Relaxed)
    }
}

fn forward(mut from: TcpStream, mut to: TcpStream, bytes_per_s: u64, counter: &AtomicU64) {
    let mut buffer = [0; 16 * 1024];
    let (started, mut sent) = (Instant::now(), 0u64);
    while let Ok(len @ 1..) = from.read(&mut buffer) {
        if to.write_all(&buffer[..len]).is_err() {
            break;
        }
        sent += len as u64;
        counter.fetch_add(len as u64, Ordering::Relaxed);
        let due = Duration::from_secs_f64(sent as f64 / bytes_per_s as f64);
        thread::sleep(due.saturating_sub(started.elapsed()));
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
