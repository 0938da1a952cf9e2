//! What status shows of a torrent.

use std::time::Duration;

use crate::types::{ConnId, PeerAddr, PeerIdentity};

/// A torrent, at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TorrentStats {
    /// Whether its metainfo is known. While it is not, everything about bytes is 0.
    pub has_metainfo: bool,
    /// Whether every piece is verified.
    pub is_complete: bool,
    /// Bytes that are verified; padding counts, so that [`crate::metainfo::Layout::pieces_length`] is all.
    pub verified_bytes: u64,
    /// Payload bytes from peers, useful or not.
    pub downloaded_bytes: u64,
    /// Payload bytes to peers.
    pub uploaded_bytes: u64,
    /// Payload bytes a second from peers, over the last seconds.
    pub download_rate: u64,
    /// Payload bytes a second to peers, over the last seconds.
    pub upload_rate: u64,
    /// Payload bytes from peers that came to nothing.
    pub wasted: Wasted,
    /// Payload bytes asked of a second peer because a read was blocked on them.
    pub hedged_bytes: u64,
    /// Blocks and pieces that did not match their hashes.
    pub hash_failures: u64,
    /// Reads that wait for blocks.
    pub waiting_reads: usize,
    /// Bytes ahead of the positions of readers that are wanted, whether they are here or not.
    pub window_bytes: u64,
    /// While the metainfo is searched: pieces of it that the furthest peer has sent, of how many.
    pub metainfo_pieces: Option<(u32, u32)>,
    /// Addresses that are known.
    pub known_addresses: usize,
    /// Connected peers.
    pub peers: Vec<PeerStats>,
}

/// Payload bytes that were thrown away, by cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wasted {
    /// Had been received from another peer, or before.
    pub duplicate: u64,
    /// Did not match their hash.
    pub corrupt: u64,
    /// Were not asked for.
    pub unasked: u64,
    /// Could not be stored.
    pub unstored: u64,
}

impl Wasted {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.duplicate + self.corrupt + self.unasked + self.unstored
    }
}

/// A connected peer, at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct PeerStats {
    /// The connection.
    pub conn: ConnId,
    /// Where.
    pub addr: PeerAddr,
    /// Who.
    pub identity: PeerIdentity,
    /// Its client, where it says.
    pub client: String,
    /// Payload bytes from it.
    pub downloaded_bytes: u64,
    /// Payload bytes to it.
    pub uploaded_bytes: u64,
    /// Payload bytes a second from it, over the last seconds.
    pub download_rate: u64,
    /// Payload bytes a second to it, over the last seconds.
    pub upload_rate: u64,
    /// Share of the pieces that it has, 0 to 1.
    pub progress: f64,
    /// Whether it lets us request.
    pub unchokes_us: bool,
    /// Whether we let it request.
    pub unchoked: bool,
    /// Requests to it that are not answered yet.
    pub requests: usize,
    /// Shortest time from a request to its block.
    pub delay: Option<Duration>,
}
