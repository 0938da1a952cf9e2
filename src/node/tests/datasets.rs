//! Datasets that change, between nodes that mount nothing.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::mpsc;

use super::{add, node, read_all};
use crate::metainfo::{CreateOptions, DatasetVersion, Metainfo, SecretKey, create};
use crate::node::Node;
use crate::node::api::{
    AddRequest, DatasetInfo, DatasetRequest, ErrorKind, MirrorRequest, MirrorStatus, PublishRequest, SeedRequest,
    Snapshot, TorrentName,
};
use crate::types::{FileIndex, HashAlgorithm, InfoHash, InfoSig};
use crate::updates::UpdateRecord;

const PIECE: u32 = 64 << 10;

/// A publisher's folder with one file, and what was published of it.
struct Folder {
    dir: PathBuf,
    key: SecretKey,
    original: Option<(InfoHash, InfoSig)>,
    seq: u64,
}

impl Folder {
    fn new(dir: &Path) -> Self {
        let dir = dir.join("folder");
        std::fs::create_dir(&dir).unwrap();
        Self { dir, key: SecretKey::from_seed(&[7; 32]), original: None, seq: 0 }
    }

    fn origin(&self) -> InfoSig {
        self.original.unwrap().1
    }

    fn name(&self) -> TorrentName {
        TorrentName::InfoId(self.origin().to_string())
    }

    /// The next version, with this content.
    fn next(&mut self, content: &[u8]) -> PublishRequest {
        std::fs::write(self.dir.join("data.bin"), content).unwrap();
        let seq = self.seq + 1;
        let metainfo = self.metainfo(self.original.map(|(_, origin)| DatasetVersion { origin, seq }));
        let signed = metainfo.sign(&self.key).unwrap();
        let (hash, _) = *self.original.get_or_insert((signed.info_hash(), signed.info_sig().unwrap()));
        let record = UpdateRecord::sign(&self.key, hash, signed.info_hash(), seq, 1_700_000_000).unwrap();
        let request = self.request(&signed, &record, (self.seq > 0).then_some(self.seq));
        self.seq = seq;
        request
    }

    fn metainfo(&self, version: Option<DatasetVersion>) -> Metainfo {
        let scan = crate::node::tree::scan(&self.dir, None).unwrap();
        let options = CreateOptions {
            name: scan.name.clone(),
            algorithm: HashAlgorithm::Sha256Merkle,
            piece_length: Some(PIECE),
            created_at: None,
            peers: Vec::new(),
            version,
        };
        create(&options, scan.entries, &scan.source, &|_| std::ops::ControlFlow::Continue(())).unwrap()
    }

    fn request(&self, metainfo: &Metainfo, record: &UpdateRecord, replaces: Option<u64>) -> PublishRequest {
        let scan = crate::node::tree::scan(&self.dir, None).unwrap();
        PublishRequest {
            path: self.dir.clone(),
            metainfo: hex::encode(metainfo.bytes()),
            record: hex::encode(record.parts().to_bytes()),
            replaces,
            stamps: vec![(0, scan.source.scanned(FileIndex(0)).unwrap())],
            snapshot: Snapshot::None,
            peers: Vec::new(),
            discovery: None,
        }
    }
}

/// Serves the dataset while the result is kept.
async fn serve(node: &Node, folder: &Folder) -> Box<dyn Send + Sync> {
    let request =
        SeedRequest { path: PathBuf::new(), torrent: Some(folder.name()), discovery: None, peers: Vec::new() };
    node.handle().seed_named(request, mpsc::channel(1).0).await.unwrap().1
}

async fn look(node: &Node, folder: &Folder, look: Duration) -> DatasetInfo {
    let request = DatasetRequest {
        origin: folder.origin().to_string(),
        peers: Vec::new(),
        discovery: None,
        look,
        metainfos: vec![None],
    };
    node.handle().dataset(request).await.unwrap()
}

fn seqs(info: &DatasetInfo) -> Vec<u64> {
    info.versions.iter().map(|version| version.seq).collect()
}

/// Waits until `node`, which uses the dataset, knows of version `seq`.
async fn hears_of(node: &Node, folder: &Folder, seq: u64) {
    for _ in 0..200 {
        if seqs(&look(node, folder, Duration::ZERO).await).last() == Some(&seq) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("nobody told of version {seq}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_follows_hears_of_new_versions_and_newcomers_get_the_newest() {
    let dir = tempfile::tempdir().unwrap();
    let nodes = [1, 2, 3].map(|at| dir.path().join(at.to_string()));
    let [publisher, follower, newcomer] = [node(&nodes[0]).await, node(&nodes[1]).await, node(&nodes[2]).await];
    let mut folder = Folder::new(dir.path());
    let [one, two] = [vec![1; 300_000], vec![2; 200_000]];
    publisher.handle().publish(folder.next(&one)).await.unwrap();
    let _serving = serve(&publisher, &folder).await;
    let peers = publisher.handle().listen_addrs();
    let name = folder.name();
    let open = |node: &Node, peers: Vec<String>| {
        let (node, name) = (node.handle(), name.clone());
        async move { node.open(add(name, peers), mpsc::channel(1).0).await }
    };
    let first = open(&follower, peers.clone()).await.unwrap();
    assert!(read_all(&first).await == one);

    let next = folder.next(&two);
    publisher.handle().publish(next).await.unwrap();
    hears_of(&follower, &folder, 2).await;
    let second = open(&follower, peers.clone()).await.unwrap();
    assert!(read_all(&second).await == two && read_all(&first).await == one, "each version keeps its bytes");

    // The publisher goes; whoever has the newest version tells newcomers, though they know the first name only.
    publisher.shutdown().await;
    let third = open(&newcomer, follower.handle().listen_addrs()).await.unwrap();
    assert!(read_all(&third).await == two);
    assert_eq!(seqs(&look(&newcomer, &folder, Duration::ZERO).await).last(), Some(&2));
    let older = AddRequest { at: Some(1), ..add(folder.name(), Vec::new()) };
    let older = newcomer.handle().open(older, mpsc::channel(1).0).await.unwrap();
    assert!(read_all(&older).await == one, "older versions are there as long as somebody has them");
    drop((first, second, third, older));
    follower.shutdown().await;
    newcomer.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_follow_the_newest_version_is_not_published() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("1");
    let publisher = node(&store).await;
    let mut folder = Folder::new(dir.path());
    let first = folder.next(b"one");
    publisher.handle().publish(first.clone()).await.unwrap();
    let again = publisher.handle().publish(first.clone()).await.unwrap_err();
    assert!(again.kind == ErrorKind::Usage && again.message.contains("version 1"), "{again}");
    let second = folder.next(b"two");
    let stale = publisher.handle().publish(PublishRequest { replaces: None, ..second.clone() }).await.unwrap_err();
    assert_eq!(stale.kind, ErrorKind::Usage);
    let mixed = PublishRequest { metainfo: first.metainfo, ..second.clone() };
    assert_eq!(publisher.handle().publish(mixed).await.unwrap_err().kind, ErrorKind::Verification);
    publisher.handle().publish(second).await.unwrap();
    assert_eq!(seqs(&look(&publisher, &folder, Duration::ZERO).await), [1, 2]);
    publisher.shutdown().await;

    // Another process knows what this one did, and serves it.
    let publisher = node(&store).await;
    let _serving = serve(&publisher, &folder).await;
    assert_eq!(seqs(&look(&publisher, &folder, Duration::ZERO).await), [1, 2]);
    publisher.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_says_to_be_something_else_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let publisher = node(&dir.path().join("1")).await;
    let mut folder = Folder::new(dir.path());
    publisher.handle().publish(folder.next(b"one")).await.unwrap();
    let (hash, origin) = folder.original.unwrap();
    std::fs::write(folder.dir.join("data.bin"), b"two").unwrap();
    let other = InfoSig([9; 64]);
    let wrong = [
        Some(DatasetVersion { origin: other, seq: 2 }),
        Some(DatasetVersion { origin, seq: 3 }),
        // It says nothing, and is not the first version.
        None,
    ];
    for version in wrong {
        let metainfo = folder.metainfo(version).sign(&folder.key).unwrap();
        let record = UpdateRecord::sign(&folder.key, hash, metainfo.info_hash(), 2, 1_700_000_000).unwrap();
        let refused = publisher.handle().publish(folder.request(&metainfo, &record, Some(1))).await.unwrap_err();
        assert_eq!(refused.kind, ErrorKind::Verification, "{version:?}: {refused}");
    }
    // Going back to the first version is a new version with the old hash.
    std::fs::write(folder.dir.join("data.bin"), b"one").unwrap();
    let metainfo = folder.metainfo(None).sign(&folder.key).unwrap();
    assert_eq!(metainfo.info_hash(), hash);
    let record = UpdateRecord::sign(&folder.key, hash, hash, 2, 1_700_000_000).unwrap();
    publisher.handle().publish(folder.request(&metainfo, &record, Some(1))).await.unwrap();
    publisher.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fork_is_kept_as_a_proof_and_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    let [honest, follower, forked] =
        [node(&dir.path().join("1")).await, node(&dir.path().join("2")).await, node(&dir.path().join("3")).await];
    let mut folder = Folder::new(dir.path());
    let first = folder.next(b"one");
    honest.handle().publish(first.clone()).await.unwrap();
    forked.handle().publish(first).await.unwrap();
    let _serving = (serve(&honest, &folder).await, serve(&forked, &folder).await);
    honest.handle().publish(folder.next(b"two")).await.unwrap();
    folder.seq = 1;
    forked.handle().publish(folder.next(b"TWO")).await.unwrap();
    let torrent =
        follower.handle().open(add(folder.name(), honest.handle().listen_addrs()), mpsc::channel(1).0).await.unwrap();
    hears_of(&follower, &folder, 2).await;
    let mut peers = forked.handle().listen_addrs();
    peers.truncate(1);
    let request = DatasetRequest {
        origin: folder.origin().to_string(),
        peers,
        discovery: None,
        look: Duration::from_secs(2),
        metainfos: Vec::new(),
    };
    let mut info = follower.handle().dataset(request).await.unwrap();
    for _ in 0..100 {
        if !info.conflicts.is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        info = look(&follower, &folder, Duration::ZERO).await;
    }
    assert_eq!(info.conflicts.len(), 1);
    assert_eq!(info.versions.last().map(|version| version.seq), Some(2));
    assert_ne!(info.versions.last().unwrap().info_hash, info.conflicts[0].info_hash);
    let warnings = follower.handle().status().await.warnings.join("\n");
    assert!(warnings.contains(&info.conflicts[0].info_hash), "{warnings}");
    drop(torrent);
    for node in [honest, follower, forked] {
        node.shutdown().await;
    }
}

async fn mirror(node: &Node, folder: &Folder, keep: u32, peers: Vec<String>) -> Box<dyn Send + Sync> {
    let request = MirrorRequest {
        origin: folder.origin().to_string(),
        keep,
        peers,
        discovery: None,
        poll: None,
        timeout: Duration::from_secs(30),
    };
    node.handle().mirror(request, mpsc::channel(1).0).await.unwrap().1
}

/// Waits until the mirror at `node` is as far as `is_done` says.
async fn mirrored(node: &Node, is_done: impl Fn(&MirrorStatus) -> bool) {
    let mut mirror = None;
    for _ in 0..600 {
        mirror = node.handle().status().await.datasets.pop().and_then(|dataset| dataset.mirror);
        if mirror.as_ref().is_some_and(&is_done) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("the mirror is no further than {mirror:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_that_nobody_can_have_stop_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let nodes = [1, 2, 3].map(|at| dir.path().join(at.to_string()));
    let publisher = node(&nodes[0]).await;
    let mut folder = Folder::new(dir.path());
    let [one, two] = [vec![1; 300_000], vec![2; 200_000]];
    let snapshot = Snapshot::Copy;
    for content in [&one, &two] {
        publisher.handle().publish(PublishRequest { snapshot, ..folder.next(content) }).await.unwrap();
    }
    // The publisher signs a metainfo of another dataset as version 3, and one that he loses as version 4.
    let (hash, _) = folder.original.unwrap();
    let wrong = folder.metainfo(Some(DatasetVersion { origin: InfoSig([9; 64]), seq: 3 })).sign(&folder.key).unwrap();
    publisher.handle().0.store.put_metainfo(&wrong).unwrap();
    let lost = InfoHash(crate::types::Digest::from([4; 32]));
    let dataset = publisher.handle().join(folder.origin(), None).await.unwrap();
    for (seq, version) in [(3, wrong.info_hash()), (4, lost)] {
        let record = UpdateRecord::sign(&folder.key, hash, version, seq, 1_700_000_000).unwrap();
        dataset.learn(record.parts(), "test").await.unwrap();
    }
    let serving = serve(&publisher, &folder).await;

    let mirroring = node(&nodes[1]).await;
    let _mirror = mirror(&mirroring, &folder, 2, publisher.handle().listen_addrs()).await;
    mirrored(&mirroring, |mirror| mirror.complete == [2, 1] && mirror.missing == [4, 3]).await;
    drop((serving, dataset));
    publisher.shutdown().await;

    let newcomer = node(&nodes[2]).await;
    for (seq, content) in [(2, two), (1, one)] {
        let request = AddRequest { at: Some(seq), ..add(folder.name(), mirroring.handle().listen_addrs()) };
        assert!(read_all(&newcomer.handle().open(request, mpsc::channel(1).0).await.unwrap()).await == content);
    }
    mirroring.shutdown().await;
    newcomer.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_keeps_the_content_of_the_newest_versions() {
    let dir = tempfile::tempdir().unwrap();
    let nodes = [1, 2].map(|at| dir.path().join(at.to_string()));
    let [publisher, mirroring] = [node(&nodes[0]).await, node(&nodes[1]).await];
    let mut folder = Folder::new(dir.path());
    for content in 1..=4 {
        let request = PublishRequest { snapshot: Snapshot::Copy, ..folder.next(&vec![content; 200_000]) };
        publisher.handle().publish(request).await.unwrap();
    }
    let _serving = serve(&publisher, &folder).await;
    let kept = mirror(&mirroring, &folder, 2, publisher.handle().listen_addrs()).await;
    // It learns of version 4 alone by itself; those before, it has asked for.
    mirrored(&mirroring, |mirror| mirror.complete == [4, 3] && mirror.served == 4).await;
    let here = || async {
        let torrents = mirroring.handle().status().await.torrents;
        torrents.into_iter().filter(|torrent| torrent.verified_bytes > 0).collect::<Vec<_>>()
    };
    let here = here().await;
    assert_eq!(here.len(), 2, "of the others, the metainfo is all: {here:?}");
    let next = PublishRequest { snapshot: Snapshot::Copy, ..folder.next(&[5; 200_000]) };
    publisher.handle().publish(next).await.unwrap();
    mirrored(&mirroring, |mirror| mirror.complete == [5, 4] && mirror.served == 5).await;
    drop(kept);
    let datasets = mirroring.handle().status().await.datasets;
    assert!(datasets.iter().all(|dataset| dataset.mirror.is_none()), "{datasets:?}");
    publisher.shutdown().await;
    mirroring.shutdown().await;
}
