//! Whole nodes in one process, over libp2p on loopback.

mod datasets;
mod lazy;
mod liar;
mod reading;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::api::{AddRequest, ApiError, ErrorKind, SeedRequest, TorrentName};
use super::mount::{MountOptions, MountView, Mounted, Mounter, NoMounts, Pending};
use super::{Node, NodeConfig, Torrent, read};
use crate::metainfo::{CreateOptions, Metainfo};
use crate::types::{FileIndex, HashAlgorithm};

const MIB: usize = 1 << 20;

async fn node(store: &Path) -> Node {
    let config = NodeConfig {
        store: store.to_owned(),
        cache_bytes: 1 << 30,
        listen: vec!["/ip4/127.0.0.1/tcp/0".to_owned()],
        ..NodeConfig::default()
    };
    Node::start(config, Arc::new(NoMounts)).await.unwrap()
}

/// One file of `len` bytes in `dir`, and its metainfo.
fn dataset(dir: &Path, len: usize, algorithm: HashAlgorithm) -> (Vec<u8>, Metainfo) {
    let source = dir.join("source");
    std::fs::create_dir(&source).unwrap();
    let bytes: Vec<u8> = (0..len).map(|at| ((at * 2_654_435_761) >> 13) as u8).collect();
    std::fs::write(source.join("data.bin"), &bytes).unwrap();
    let scan = super::tree::scan(&source, None).unwrap();
    let options = CreateOptions {
        name: scan.name.clone(),
        algorithm,
        piece_length: Some(256 << 10),
        created_at: None,
        peers: Vec::new(),
        version: None,
    };
    let metainfo =
        crate::metainfo::create(&options, scan.entries, &scan.source, &|_| std::ops::ControlFlow::Continue(()))
            .unwrap();
    (bytes, metainfo)
}

fn add(torrent: TorrentName, peers: Vec<String>) -> AddRequest {
    AddRequest {
        torrent,
        peers,
        discovery: None,
        metainfo_timeout: Duration::from_secs(20),
        read_timeout: Duration::from_secs(20),
        prefetch_all: false,
        at: None,
    }
}

async fn seed(node: &Node, dir: &Path, metainfo: &Metainfo) -> Torrent {
    let request = SeedRequest {
        path: dir.join("source"),
        torrent: Some(TorrentName::Metainfo(hex::encode(metainfo.bytes()))),
        discovery: None,
        peers: Vec::new(),
    };
    node.handle().seed(request, mpsc::channel(1).0).await.unwrap()
}

/// Reads the whole first file.
async fn read_all(torrent: &Torrent) -> Vec<u8> {
    let len = torrent.metainfo.layout().file_length(FileIndex(0));
    let reader = torrent.content.open(FileIndex(0));
    let mut bytes = Vec::new();
    while (bytes.len() as u64) < len {
        let chunk = read(&torrent.content, reader, FileIndex(0), bytes.len() as u64, 128 << 10).await.unwrap();
        bytes.extend_from_slice(&chunk);
    }
    torrent.content.close(reader);
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newcomer_gets_the_metainfo_from_a_peer_and_becomes_a_source_itself() {
    for algorithm in HashAlgorithm::ALL {
        let dir = tempfile::tempdir().unwrap();
        let (bytes, metainfo) = dataset(dir.path(), 3 * MIB + 77, algorithm);
        let [first, second, third] =
            [node(&dir.path().join("1")).await, node(&dir.path().join("2")).await, node(&dir.path().join("3")).await];
        let seeded = seed(&first, dir.path(), &metainfo).await;
        let id = TorrentName::InfoId(metainfo.info_id().to_string());
        let at_second =
            second.handle().open(add(id.clone(), first.handle().listen_addrs()), mpsc::channel(1).0).await.unwrap();
        assert!(read_all(&at_second).await == bytes, "{algorithm}");
        drop(seeded);
        first.shutdown().await;
        let at_third = third.handle().open(add(id, second.handle().listen_addrs()), mpsc::channel(1).0).await.unwrap();
        assert!(read_all(&at_third).await == bytes, "{algorithm}: from the second node alone");
        second.shutdown().await;
        third.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_are_never_returned_and_their_sender_is_banned() {
    for algorithm in HashAlgorithm::ALL {
        let dir = tempfile::tempdir().unwrap();
        let (bytes, metainfo) = dataset(dir.path(), 4 * MIB, algorithm);
        let (honest, victim) = (node(&dir.path().join("1")).await, node(&dir.path().join("2")).await);
        let _seeded = seed(&honest, dir.path(), &metainfo).await;
        let liar = liar::Liar::start(metainfo.swarm_ids()).await;
        let name = TorrentName::Metainfo(hex::encode(metainfo.bytes()));
        let torrent =
            victim.handle().open(add(name.clone(), vec![liar.addr.clone()]), mpsc::channel(1).0).await.unwrap();
        let reading = tokio::spawn(async move { read_all(&torrent).await });
        liar.asked().await;
        // The liar had the first piece to itself; now there is somebody to get it from.
        let again = victim.handle().open(add(name, honest.handle().listen_addrs()), mpsc::channel(1).0).await.unwrap();
        assert!(reading.await.unwrap() == bytes, "{algorithm}");
        drop(again);
        let status = victim.handle().status().await;
        let warnings = status.warnings.join("\n");
        assert!(warnings.contains(&liar.name), "{algorithm}: {warnings:?}");
        assert!(!warnings.contains(&honest.handle().status().await.peer_id), "{algorithm}: {warnings:?}");
        honest.shutdown().await;
        victim.shutdown().await;
    }
}
