//! What can be tuned.

use std::time::Duration;

use crate::types::WirePeerId;

/// Bounds and identity of the engine. The defaults suit a machine of today.
#[derive(Clone, Debug)]
pub struct Config {
    /// This node's id in handshakes: decides which of two crossing connections stays, and recognises ourselves.
    pub peer_id: WirePeerId,
    /// Name and version of the client, for extension handshakes.
    pub client: String,
    /// Port on which this node takes TCP connections, for peers to dial it and to name it to others.
    pub listen_port: Option<u16>,
    /// Whether peers are exchanged with peers (BEP 11).
    pub pex: bool,
    /// Connections of one torrent, in both directions.
    pub max_peers: usize,
    /// Connections of one torrent from one IP address that proves nothing.
    pub max_peers_per_ip: usize,
    /// Dials of one torrent that may be under way at once.
    pub max_dials: usize,
    /// Addresses of one torrent that are remembered.
    pub max_candidates: usize,
    /// Payload bytes a second to all peers of all torrents; `None` and 0 limit nothing.
    pub upload_limit: Option<u64>,
    /// Payload bytes a second from all peers of all torrents; `None` and 0 limit nothing.
    pub download_limit: Option<u64>,
    /// Answers no requests for blocks.
    pub no_upload: bool,
    /// Peers of one torrent that may request at once, besides an optimistic one.
    pub upload_slots: usize,
    /// Requests that are queued for one peer before more are refused; told to peers as `reqq`.
    pub upload_queue: u32,
    /// Blocks on their way from storage to one peer's socket, at most; fewer for slow peers.
    pub send_pipeline: usize,
    /// Requests sent to one peer and not answered, whatever it allows.
    pub max_requests: u32,
    /// Bytes ahead of a reader that are fetched at most.
    pub max_window: u64,
    /// How long a fetch of the metainfo from one peer goes on without progress.
    pub metainfo_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            peer_id: WirePeerId([0; 20]),
            client: concat!("knot ", env!("CARGO_PKG_VERSION")).to_owned(),
            listen_port: None,
            pex: true,
            max_peers: 200,
            max_peers_per_ip: 8,
            max_dials: 32,
            max_candidates: 2000,
            upload_limit: None,
            download_limit: None,
            no_upload: false,
            upload_slots: 16,
            upload_queue: 2000,
            send_pipeline: 64,
            max_requests: 2000,
            max_window: 32 << 20,
            metainfo_timeout: Duration::from_secs(10),
        }
    }
}
