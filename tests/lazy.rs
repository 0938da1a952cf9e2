//! `knot mount --lazy` with the real program: the mount comes first, the metainfo later.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[allow(dead_code, unreachable_pub)]
mod support;

use std::fs;
use std::io::ErrorKind;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use support::process::{Mount, Seeder, create, finish, knot, run, signal, status, wait_until};
use support::{compare, tree};

/// Content that nobody serves yet.
struct World {
    dir: tempfile::TempDir,
    id: String,
    /// Where it will be served.
    addr: String,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("source");
        tree::write_tree(&source, &tree::awkward_tree(65536));
        let id = create(&source, &dir.path().join("a.knot"), &[]);
        // A port that was free a moment before.
        let addr = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        Self { dir, id, addr }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().canonicalize().unwrap().join(name)
    }

    fn mount(&self, name: &str, options: &[&str]) -> Mount {
        Mount::new(&self.id, &self.path(name), &self.path("store"), &[], &[&["--lazy"], options].concat())
    }

    fn seed(&self) -> Seeder {
        Seeder::start_on(&self.path("source"), &self.path("a.knot"), &self.path("seeder"), &self.addr)
    }
}

fn names(dir: &Path) -> Vec<std::ffi::OsString> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect()
}

fn waits_for(store: &Path) -> Option<String> {
    status(store)["mounts"][0]["waits_for"].as_str().map(str::to_owned)
}

fn xattr(path: &Path, name: &str) -> String {
    let mut value = vec![0; 4096];
    let len = rustix::fs::getxattr(path, name, &mut value[..]).unwrap();
    String::from_utf8(value[..len].to_vec()).unwrap()
}

fn is_mounted(path: &Path) -> bool {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    table.lines().any(|line| line.split(' ').nth(4) == path.to_str())
}

#[test]
fn the_tree_appears_when_somebody_serves_it() {
    let world = World::new();
    let mount = world.mount("mnt", &["--peer", &world.addr, "--timeout", "1s"]);
    // What a program sees meanwhile is a directory with nothing in it.
    let inside = fs::File::open(&mount.at).unwrap();
    for _ in 0..2 {
        assert!(names(&mount.at).is_empty());
        assert_eq!(fs::metadata(mount.at.join("run")).unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(fs::read(mount.at.join("sizes/512")).unwrap_err().kind(), ErrorKind::NotFound);
        assert!(fs::metadata(&mount.at).unwrap().is_dir());
    }
    run(Command::new("df").arg(&mount.at));
    assert_eq!(xattr(&mount.at, "user.knot.info_id"), world.id);
    wait_until("it says what it waits for", || xattr(&mount.at, "user.knot.waits_for").contains("waiting for one of"));
    assert_eq!(waits_for(&mount.store), Some(xattr(&mount.at, "user.knot.waits_for")));
    assert_eq!(mount.status()["torrents"][0]["state"], "metainfo");
    let shown = run(knot(&mount.store).arg("status"));
    assert!(shown.contains("empty, waiting for"), "{shown}");
    wait_until("there is a warning", || mount.status()["warnings"].to_string().contains("is still empty after 1s"));

    let _seeder = world.seed();
    wait_until("the tree appears", || !names(&mount.at).is_empty());
    compare::whole(&world.path("source"), &mount.at);
    assert_eq!(fs::read(mount.at.join("sizes/512")).unwrap().len(), 512);
    assert_eq!(waits_for(&mount.store), None);
    // A directory that was open all the while shows it as well.
    let mut listed = rustix::fs::Dir::read_from(&inside).unwrap();
    assert!(listed.by_ref().any(|entry| entry.unwrap().file_name().to_bytes() == b"run"));
    assert!(rustix::fs::statat(&inside, "run", rustix::fs::AtFlags::empty()).is_ok());
}

#[test]
fn what_is_known_is_there_at_once() {
    let world = World::new();
    let metainfo = world.path("a.knot");
    let mount = Mount::new(metainfo.to_str().unwrap(), &world.path("mnt"), &world.path("store"), &[], &["--lazy"]);
    assert!(names(&mount.at).contains(&"run".into()));
    assert_eq!(waits_for(&mount.store), None);
}

#[test]
fn it_can_be_unmounted_and_mounted_again_while_it_waits() {
    let world = World::new();
    let first = world.mount("mnt", &[]);
    run(knot(&first.store).arg("unmount").arg(&first.at));
    assert!(!is_mounted(&first.at));
    wait_until("nobody waits any more", || first.status()["torrents"] == serde_json::json!([]));
    let again = world.mount("mnt", &[]);
    let other = world.mount("other", &["--peer", &world.addr]);
    let _seeder = world.seed();
    for at in [&again.at, &other.at] {
        wait_until("both fill", || !names(at).is_empty());
        compare::whole(&world.path("source"), at);
    }
}

#[test]
fn who_waits_without_it_gives_up_in_time_or_helps() {
    let world = World::new();
    let lazy = world.mount("mnt", &[]);
    let at = world.path("other");
    fs::create_dir(&at).unwrap();
    let mount = |options: &[&str]| {
        let mut command = knot(&lazy.store);
        command.arg("mount").arg(&world.id).arg(&at).args(["--discovery", "none"]).args(options);
        finish(&mut command)
    };
    let started = Instant::now();
    let output = mount(&["--timeout", "1s"]);
    assert_eq!(output.status.code(), Some(3), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(started.elapsed() < Duration::from_secs(20));
    let _seeder = world.seed();
    // The peer that it names is one for the other mount as well.
    assert!(mount(&["--peer", &world.addr]).status.success());
    wait_until("it fills", || !names(&lazy.at).is_empty());
    compare::whole(&world.path("source"), &lazy.at);
    run(knot(&lazy.store).arg("unmount").arg(&at));
}

#[test]
fn ctrl_c_ends_a_mount_that_waits() {
    let world = World::new();
    let at = world.path("mnt");
    fs::create_dir(&at).unwrap();
    let mut command = knot(&world.path("store"));
    command.args(["mount", "-f", "--lazy", &world.id]).arg(&at).args(["--discovery", "none"]);
    command.args(["--listen", "/ip4/127.0.0.1/tcp/0"]).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    wait_until("it is mounted", || is_mounted(&at));
    wait_until("it is empty", || names(&at).is_empty());
    signal(child.id(), "-INT");
    wait_until("it ends", || child.try_wait().unwrap().is_some());
    assert!(!is_mounted(&at));
}
