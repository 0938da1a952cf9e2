//! What people name torrents by, what torrents are, and what the node is asked.

use std::collections::BTreeSet;

use knot::metainfo::{EntryKind, Form, Metainfo};
use knot::node::api::{AddRequest, GetRequest, MountRequest, NodeStatus, Progress, SeedRequest};
use knot::types::{FileIndex, InfoId, Magnet, PeerAddr};

pub(crate) fn magnet(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let _ = text.parse::<InfoId>();
    if let Ok(addr) = text.parse::<PeerAddr>() {
        assert_eq!(addr.to_string().parse(), Ok(addr));
    }
    let Ok(magnet) = text.parse::<Magnet>() else { return };
    for list in [&magnet.trackers, &magnet.peers, &magnet.web_seeds, &magnet.sources] {
        assert!(list.len() <= 200);
    }
    assert!(magnet.select_only.len() <= 200 && !magnet.swarm_ids().is_empty());
    let written = magnet.to_string();
    if written.len() <= 64 << 10 {
        let mut again: Magnet = written.parse().expect("a link that knot writes");
        assert_eq!(again.ids().collect::<BTreeSet<_>>(), magnet.ids().collect::<BTreeSet<_>>());
        (again.id, again.looks_cut) = (magnet.id, magnet.looks_cut);
        assert_eq!(again, magnet);
    }
}

/// A torrent that is accepted keeps to its limits, has names that a filesystem can have, and is the same torrent in
/// every form that it is passed on in.
pub(crate) fn metainfo(input: &[u8]) {
    let _ = Metainfo::from_info_bytes(input);
    let Ok(metainfo) = Metainfo::parse(input) else { return };
    let (mut paths, mut leaves, mut directories) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let mut total = 0;
    for (at, entry) in (0..).zip(metainfo.entries()) {
        let path = entry.path.as_str();
        assert!(paths.insert(path), "two entries at {path:?}");
        let is_name = |name: &str| !matches!(name, "" | "." | "..") && name.len() <= 255 && !name.contains('\0');
        assert!(path.len() <= 4096 && path.split('/').all(is_name), "{path:?}");
        if let EntryKind::Symlink { target } = &entry.kind {
            assert!(!target.starts_with('/') && !target.is_empty(), "{target:?}");
        }
        let parents = path.match_indices('/').map(|(at, _)| &path[..at]);
        directories.extend(parents);
        if !matches!(entry.kind, EntryKind::Directory) {
            leaves.insert(path);
        }
        total += entry.length();
        let _ = (metainfo.raw_path(FileIndex(at)), metainfo.web_seed_url("http://seed/", FileIndex(at)));
    }
    assert_eq!(leaves.intersection(&directories).next(), None, "a file that is a directory");
    if metainfo.form() != Form::V2 {
        assert_eq!(total, metainfo.total_length());
    }
    assert_eq!(metainfo.hints(), Metainfo::parse(metainfo.bytes()).expect("what was parsed").hints());
    let public = Metainfo::parse(&metainfo.public_bytes()).expect("what peers are given");
    let bare = Metainfo::from_info_bytes(metainfo.info_bytes()).expect("what ordinary peers are given");
    for other in [&public, &bare] {
        assert_eq!(other.info_hash(), metainfo.info_hash());
        assert_eq!(other.entries(), metainfo.entries());
    }
    assert_eq!(public.info_id(), metainfo.info_id());
    magnet(metainfo.magnet().to_string().as_bytes());
}

/// What the node is asked and answers over its socket.
pub(crate) fn control(input: &[u8]) {
    macro_rules! round_trip {
        ($($kind:ty),*) => {$(
            if let Ok(value) = serde_json::from_slice::<$kind>(input) {
                let written = serde_json::to_vec(&value).expect("JSON");
                assert_eq!(serde_json::from_slice::<$kind>(&written).expect("what was written"), value);
            }
        )*};
    }
    round_trip!(AddRequest, MountRequest, SeedRequest, GetRequest);
    // Rates are fractions, whose last digits may change.
    let _ = (serde_json::from_slice::<NodeStatus>(input).is_ok(), serde_json::from_slice::<Progress>(input).is_ok());
}
