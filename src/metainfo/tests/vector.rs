//! The test vector of `schema/metainfo.md`, whose bytes other programs have made.

use std::ops::ControlFlow;

use crate::metainfo::testing::{MemSource, file, options};
use crate::metainfo::{Entry, EntryKind, Metainfo, SecretKey, TreePath, create};
use crate::types::HashAlgorithm;

const DOCUMENT: &str = include_str!("../../../schema/metainfo.md");

/// The hex digits at the end of the document.
fn envelope() -> Vec<u8> {
    let (_, vector) = DOCUMENT.split_once("## Test vector").unwrap();
    let digits: String = vector.lines().filter_map(|line| line.strip_prefix("    ")).collect();
    hex::decode(digits).unwrap()
}

fn made() -> Metainfo {
    let entry = |path: &str, kind| Entry { path: TreePath::new(path).unwrap(), kind };
    let run = b"#!/bin/sh\necho knot\n".to_vec();
    let entries = vec![
        file("big", 50_000),
        entry("bin/run", EntryKind::File { length: run.len() as u64, root: None, executable: true }),
        entry("bin/sh", EntryKind::Symlink { target: "run".into() }),
        file("empty", 0),
        entry("hollow", EntryKind::Directory),
    ];
    let source = MemSource(vec![(0..50_000).map(|at: u32| (at % 251) as u8).collect(), run]);
    let mut options = options(HashAlgorithm::Sha256Merkle, 32 << 10);
    options.name = "vector".into();
    options.created_at = Some(1_700_000_000);
    // The entries without bytes are never read: the source has none for them.
    let plain = create(&options, entries, &source, &|_| ControlFlow::Continue(())).unwrap();
    plain.sign(&SecretKey::from_seed(&std::array::from_fn(|at| at as u8))).unwrap()
}

#[test]
fn the_documented_bytes_are_what_create_and_sign_make() {
    assert_eq!(hex::encode(made().bytes()), hex::encode(envelope()));
}

#[test]
fn the_documented_bytes_are_read() {
    let metainfo = Metainfo::parse(&envelope()).unwrap();
    assert_eq!(metainfo.entries(), made().entries());
    for id in [metainfo.info_hash().to_string(), metainfo.info_id().to_string()] {
        assert!(DOCUMENT.contains(&format!("`{id}`")), "{id}");
    }
    for swarm in metainfo.swarm_ids() {
        assert!(DOCUMENT.contains(&format!("`{swarm}`")), "{swarm}");
    }
}
