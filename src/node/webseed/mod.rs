//! Web seeds (BEP 19): servers that have the files of a torrent, as peers.
//!
//! The engine sees a peer that has everything, lets us request, and answers or rejects each request: at the other end
//! of the stream is a task of this process, which turns requests for blocks into requests for parts of files. So what
//! a server sends is verified as what any peer sends, and one that sends other bytes is found out and banned.
//!
//! Nothing is asked of a server before the engine requests something. When a server fails, the peer goes away, and
//! comes back, if the engine wants it, when the server has been left alone for a while: longer each time.

mod health;
mod job;
mod session;

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use url::Url;

use super::peer::Established;
use super::warnings::Warnings;
use crate::discovery::http::{HttpClient, HttpLimits, LocalAddrs, Reach};
use crate::metainfo::Metainfo;
use crate::types::{PeerAddr, PeerIdentity, SwarmId, TorrentKey, WirePeerId};
use crate::wire::Handshake;
use health::Health;
use session::{Seed, serve};

/// The name in `--discovery` and in `knot status`.
pub(super) const NAME: &str = "webseed";
/// What a request may take. How long a body takes is not bounded, but it may not stall.
const LIMITS: HttpLimits =
    HttpLimits { connect: Duration::from_secs(10), total: Duration::from_secs(20), body: 0, redirects: 5 };
/// Bytes on their way between the engine's side of a stream and the task at its other end, each way.
const STREAM_BUFFER: usize = 256 * 1024;
/// Web seeds of which it is remembered how they did.
const MAX_REMEMBERED: usize = 4096;

/// The web seeds of all torrents.
pub(super) struct WebSeeds {
    http: HttpClient,
    warnings: Arc<Warnings>,
    health: Mutex<HashMap<(TorrentKey, String), Arc<Health>>>,
    connected: Arc<AtomicUsize>,
}

impl WebSeeds {
    /// Requests come from the addresses `local`.
    pub(super) fn new(local: LocalAddrs, warnings: Arc<Warnings>) -> Self {
        let http = HttpClient::new(LIMITS, local);
        Self { http, warnings, health: Mutex::default(), connected: Arc::default() }
    }

    /// A connection to the web seed at `url`, as if its handshake were done.
    ///
    /// # Errors
    /// When the URL is none of a web seed, or the server is to be left alone for now.
    pub(super) fn connect(
        &self,
        torrent: TorrentKey,
        swarm: SwarmId,
        metainfo: Arc<Metainfo>,
        url: &str,
    ) -> Result<Established, String> {
        let reach = reach(url)?;
        let health = self.health(torrent, url);
        if let Some(wait) = health.rest(Instant::now()) {
            return Err(format!("the server failed; it is left alone for {wait:?}"));
        }
        let (near, far) = tokio::io::duplex(STREAM_BUFFER);
        let base = url.to_owned();
        let seed = Seed { metainfo, base, reach, http: self.http.clone(), health, warnings: self.warnings.clone() };
        let connected = self.connected.clone();
        connected.fetch_add(1, Relaxed);
        tokio::spawn(async move {
            serve(seed, far).await;
            connected.fetch_sub(1, Relaxed);
        });
        Ok(Established {
            torrent,
            addr: PeerAddr::Web(url.to_owned()),
            identity: PeerIdentity::Web(url.to_owned()),
            handshake: Handshake::new(swarm, WirePeerId(*b"-KN0100-a web seed  ")).without_hashes(),
            outgoing: true,
            io: Box::new(near),
        })
    }

    /// One line for `knot status`.
    pub(super) fn state(&self) -> String {
        match self.connected.load(Relaxed) {
            0 => "servers that torrents name, asked when peers do not deliver".to_owned(),
            connected => format!("{connected} asked, since peers do not deliver"),
        }
    }

    fn health(&self, torrent: TorrentKey, url: &str) -> Arc<Health> {
        let mut all = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MAX_REMEMBERED {
            all.retain(|_, health| Arc::strong_count(health) > 1);
        }
        all.entry((torrent, url.to_owned())).or_default().clone()
    }
}

/// How near the server of a web seed may be. The torrent names it, so it may be on this host or network; but not if the
/// URL has a query: that may be meant to have a device do something, and the files of a torrent need none.
fn reach(url: &str) -> Result<Reach, String> {
    let parsed = Url::parse(url).map_err(|error| format!("expected a URL: {error}"))?;
    match (parsed.scheme(), parsed.query()) {
        ("http" | "https", None) => Ok(Reach::Anywhere),
        ("http" | "https", Some(_)) => Ok(Reach::Internet),
        (scheme, _) => Err(format!("expected an http or https URL, got {scheme}")),
    }
}

#[cfg(test)]
mod tests;
