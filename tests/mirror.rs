//! A mirror keeps a dataset alive after its publisher. Needs /dev/fuse and the right to mount.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[allow(dead_code, unreachable_pub)]
mod support;

use std::fs;
use std::path::Path;

use serde_json::Value;
use support::dataset::{OFFLINE, Publisher, Server};
use support::process::{Mount, both, finish, knot, run, status, wait_until};

fn mirror(store: &Path, sig: &str, peers: &[&str]) -> Server {
    let mut command = knot(store);
    command.args(["mirror", sig]).args(OFFLINE);
    peers.iter().for_each(|peer| {
        command.args(["--peer", peer]);
    });
    Server::start(command)
}

/// Waits until these versions are here, newest first.
fn complete(store: &Path, seqs: &[u64]) {
    let of = |status: &Value| status["datasets"][0]["mirror"]["complete"].clone();
    wait_until("everything is mirrored", || of(&status(store)) == Value::from(seqs.to_vec()));
}

#[test]
fn a_mirror_keeps_a_dataset_alive_after_its_publisher() {
    let dir = tempfile::tempdir().unwrap();
    let publisher = Publisher::new(dir.path(), "one");
    publisher.update("two");
    let (sig, store) = (publisher.sig.clone(), dir.path().join("mirror"));
    let served = publisher.seed();
    let mirrored = mirror(&store, &sig, &[&served.addr]);
    complete(&store, &[2, 1]);
    publisher.update("three");
    complete(&store, &[3, 2, 1]);
    let text = run(knot(&store).arg("status"));
    assert!(text.contains("3 versions served, complete: 3, 2, 1"), "{text}");

    // The publisher is gone for good; the mirror starts again by itself.
    drop(served);
    fs::remove_dir_all(dir.path().join("publisher")).unwrap();
    fs::remove_dir_all(dir.path().join("folder")).unwrap();
    mirrored.end();
    let mirrored = mirror(&store, &sig, &[]);
    complete(&store, &[3, 2, 1]);
    let newcomer = |name: &str, options: &[&str]| {
        let (at, store) = (dir.path().join(name), dir.path().join(format!("{name}-store")));
        Mount::new(&sig, &at, &store, &[&mirrored.addr], options)
    };
    let read = |mount: &Mount| fs::read_to_string(mount.at.join("sub/data")).unwrap();
    let newest = newcomer("newest", &[]);
    assert_eq!(read(&newest), "three");
    let first = newcomer("first", &["--at", "1"]);
    assert_eq!(read(&first), "one");
    let second = newcomer("second", &["--at", "2"]);
    assert_eq!(read(&second), "two");
}

#[test]
fn a_dataset_that_nobody_knows_is_no_mirror() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = knot(&dir.path().join("store"));
    let unknown = finish(command.args(["mirror", &"ab".repeat(64), "--timeout", "1s"]).args(OFFLINE));
    assert_eq!(unknown.status.code(), Some(3), "{}", both(&unknown));
    assert!(both(&unknown).contains("give --peer ADDR"), "{}", both(&unknown));
    let mut command = knot(&dir.path().join("store"));
    let hash = finish(command.args(["mirror", &"ab".repeat(32)]).args(OFFLINE));
    assert_eq!(hash.status.code(), Some(2), "{}", both(&hash));
    assert!(both(&hash).contains("128 hex digits"), "{}", both(&hash));
}
