//! Mounts that are empty at first, on a machine where nothing can be shown.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::node::api::MountRequest;

/// Every torrent is one too many.
#[derive(Default)]
struct Refuses {
    filled: Arc<AtomicUsize>,
}

struct Empty(Arc<AtomicUsize>);

impl Mounter for Refuses {
    fn mount(&self, _: MountView, _: &Path, _: &MountOptions) -> Result<Box<dyn Mounted>, ApiError> {
        panic!("nothing is known yet")
    }

    fn mount_empty(&self, _: Pending, _: &Path, _: &MountOptions) -> Result<Box<dyn Mounted>, ApiError> {
        Ok(Box::new(Empty(self.filled.clone())))
    }
}

impl Mounted for Empty {
    fn is_alive(&self) -> bool {
        true
    }

    fn show(&self, _: crate::vfs::Version) -> Result<(), ApiError> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Err(ApiError { kind: ErrorKind::Failure, message: "a torrent of no use".to_owned() })
    }

    fn unmount(&self) -> Result<(), ApiError> {
        Ok(())
    }
}

async fn until(what: impl AsyncFn() -> bool) {
    for _ in 0..600 {
        if what().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("waited in vain");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torrent_that_cannot_be_shown_is_told_and_the_mount_stays_until_it_is_unmounted() {
    let dir = tempfile::tempdir().unwrap();
    let (_, metainfo) = dataset(dir.path(), MIB, HashAlgorithm::Sha1);
    let seeder = node(&dir.path().join("1")).await;
    let config = NodeConfig {
        store: dir.path().join("2"),
        cache_bytes: 1 << 30,
        listen: vec!["/ip4/127.0.0.1/tcp/0".to_owned()],
        ..NodeConfig::default()
    };
    let mounter = Refuses::default();
    let filled = mounter.filled.clone();
    let node = Node::start(config, Arc::new(mounter)).await.unwrap();
    let handle = node.handle();
    let id = TorrentName::InfoId(metainfo.info_id().to_string());
    let mountpoint = dir.path().join("mnt");
    let request = MountRequest {
        add: add(id, seeder.handle().listen_addrs()),
        mountpoint: mountpoint.clone(),
        allow_other: false,
        uid: 0,
        gid: 0,
        lazy: true,
        prefetch: Default::default(),
        poll: None,
        on_update: None,
        keep_versions: 0,
    };
    let info = handle.mount(request, mpsc::channel(1).0).await.unwrap();
    assert_eq!((info.info_id, info.name), (metainfo.info_id().to_string(), String::new()));
    let waits_for = async || handle.status().await.mounts[0].waits_for.clone().unwrap();
    assert!(waits_for().await.contains("waiting"));
    let _seeded = seed(&seeder, dir.path(), &metainfo).await;
    until(async || waits_for().await.contains("stays empty, since a torrent of no use")).await;
    assert_eq!(filled.load(Ordering::SeqCst), 1);
    let warnings = handle.status().await.warnings.join("\n");
    assert!(warnings.contains("mnt stays empty: a torrent of no use"), "{warnings}");
    handle.unmount(mountpoint).await.unwrap();
    until(async || handle.is_idle()).await;
    node.shutdown().await;
    seeder.shutdown().await;
}
