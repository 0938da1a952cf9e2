//! Commands and the nodes behind them, as processes on this machine: who becomes the node, how it ends, and what
//! commands see of that. Everything stays on loopback. Mounting needs root or fusermount3.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// Bounds every wait: what takes longer hangs.
const SOON: Duration = Duration::from_secs(60);

/// A machine's worth of stores, seeders and mount points; nothing of it is left when it is dropped.
struct World {
    dir: TempDir,
}

impl World {
    /// With a dataset in `data`, its metainfo in `data.knot`, and an InfoID.
    fn new() -> (Self, String) {
        let world = Self { dir: tempfile::tempdir().unwrap() };
        let data = world.path("data");
        fs::create_dir_all(data.join("sub")).unwrap();
        fs::write(data.join("small"), "hello\n").unwrap();
        fs::write(data.join("sub/large"), noise(3_000_000)).unwrap();
        let id = ok(world.knot("maker", &["create", "data"])).trim().to_owned();
        (world, id)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().canonicalize().unwrap().join(name)
    }

    fn mountpoint(&self, name: &str) -> String {
        fs::create_dir_all(self.path(name)).unwrap();
        self.path(name).to_str().unwrap().to_owned()
    }

    fn command(&self, store: &str, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_knot"));
        command.args(args).current_dir(self.dir.path()).stdin(Stdio::null());
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("KNOT_")) {
            command.env_remove(name);
        }
        command.env("KNOT_STORE", self.path(store)).env("KNOT_DISCOVERY", "none");
        command.env("KNOT_LISTEN", "/ip4/127.0.0.1/tcp/0");
        command
    }

    fn knot(&self, store: &str, args: &[&str]) -> Output {
        self.command(store, args).output().unwrap()
    }

    fn start(&self, store: &str, args: &[&str]) -> Running {
        let mut command = self.command(store, args);
        Running(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
    }

    /// Seeds `data`; the process, and where to reach it.
    fn seed(&self, store: &str) -> (Running, String) {
        let mut seeder = self.start(store, &["seed", "data"]);
        let addr = seeder.line();
        assert!(addr.starts_with("/ip4/127.0.0.1/tcp/") && addr.contains("/p2p/"), "{addr}");
        (seeder, addr)
    }

    fn status(&self, store: &str) -> Option<Value> {
        let output = self.knot(store, &["status", "--json"]);
        output.status.success().then(|| serde_json::from_slice(&output.stdout).unwrap())
    }

    fn pid(&self, store: &str) -> u64 {
        self.status(store).expect("a node runs")["pid"].as_u64().unwrap()
    }

    fn compare(&self, mountpoint: &str) {
        for file in ["small", "sub/large"] {
            let got = fs::read(Path::new(mountpoint).join(file)).unwrap();
            assert!(got == fs::read(self.path("data").join(file)).unwrap(), "{file} differs");
        }
    }

    fn mounts(&self) -> Vec<String> {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(str::to_owned);
        points.filter(|point| Path::new(point).starts_with(self.path(""))).collect()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for store in fs::read_dir(self.dir.path()).unwrap().flatten() {
            if store.path().join("node.lock").exists() {
                self.knot(store.file_name().to_str().unwrap(), &["daemon", "--stop"]);
            }
        }
        for mountpoint in self.mounts() {
            self.knot("maker", &["unmount", &mountpoint]);
        }
    }
}

/// A command that runs; killed when dropped.
struct Running(Child);

impl Running {
    fn line(&mut self) -> String {
        let mut line = String::new();
        // Byte by byte: what comes behind the line is for the next call.
        let out = self.0.stdout.as_mut().unwrap();
        BufReader::with_capacity(1, out).read_line(&mut line).unwrap();
        if line.is_empty() {
            panic!("expected a line on stdout, got an end; stderr: {}", self.err());
        }
        line.trim_end().to_owned()
    }

    /// What it wrote to stderr, after its end.
    fn err(&mut self) -> String {
        let mut err = String::new();
        self.0.stderr.as_mut().unwrap().read_to_string(&mut err).unwrap();
        err
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }

    fn end(&mut self) -> ExitStatus {
        let mut status = None;
        eventually("the command ends", || {
            status = self.0.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // SIGTERM lets a node take its mounts away.
        let _ = kill_process(Pid::from_child(&self.0), Signal::TERM);
        let deadline = Instant::now() + SOON;
        while matches!(self.0.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[track_caller]
fn ok(output: Output) -> String {
    String::from_utf8(ok_bytes(output)).unwrap()
}

#[track_caller]
fn ok_bytes(output: Output) -> Vec<u8> {
    assert!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    output.stdout
}

#[track_caller]
fn fails(output: &Output, code: i32, expected: &str) {
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{err}");
    assert!(err.contains(expected), "expected {expected:?} in {err:?}");
}

#[track_caller]
fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !check() {
        assert!(Instant::now() < deadline, "expected within {SOON:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn noise(length: usize) -> Vec<u8> {
    let mut state = 1u64;
    let words = std::iter::repeat_with(move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u8
    });
    words.take(length).collect()
}

#[test]
fn a_mount_is_ready_when_the_command_returns_and_its_node_leaves_when_idle() {
    let (world, id) = World::new();
    let (_seeder, addr) = world.seed("a");
    let at = world.mountpoint("mnt");
    ok(world.knot("b", &["mount", &id, &at, "--peer", &addr, "--idle-exit", "200ms"]));
    let mut names: Vec<_> = fs::read_dir(&at).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["small", "sub"]);
    world.compare(&at);
    let status = world.status("b").unwrap();
    assert_eq!(status["mounts"][0]["mountpoint"], at.as_str());
    assert_eq!(status["mounts"][0]["info_id"], id.as_str());
    ok(world.knot("b", &["unmount", &at]));
    assert!(world.mounts().is_empty());
    eventually("the idle node leaves", || world.status("b").is_none());
}

#[test]
fn mounts_at_once_share_one_node() {
    let (world, id) = World::new();
    let (_seeder, addr) = world.seed("a");
    let points: Vec<_> = (0..4).map(|n| world.mountpoint(&format!("mnt{n}"))).collect();
    let mut mounting: Vec<_> = points.iter().map(|at| world.start("b", &["mount", &id, at, "--peer", &addr])).collect();
    for mount in &mut mounting {
        assert!(mount.end().success());
    }
    assert_eq!(world.status("b").unwrap()["mounts"].as_array().unwrap().len(), points.len());
    for at in &points {
        world.compare(at);
        ok(world.knot("b", &["unmount", at]));
    }
}

#[test]
fn get_writes_the_files_and_leaves_no_node() {
    let (world, id) = World::new();
    let (_seeder, addr) = world.seed("a");
    fs::create_dir(world.path("out")).unwrap();
    let path = ok(world.knot("b", &["get", &id, "-o", "out", "--peer", &addr]));
    assert_eq!(path.trim_end(), world.path("out/data").to_str().unwrap());
    world.compare(path.trim_end());
    assert!(world.status("b").is_none(), "the node ended with the command");
}

#[test]
fn get_can_be_told_what_of_it() {
    let (world, id) = World::new();
    let (_seeder, addr) = world.seed("a");
    fs::create_dir(world.path("out")).unwrap();
    let get = |paths: &[&str]| {
        let select = paths.iter().flat_map(|path| ["--select", path]).collect::<Vec<_>>();
        world.knot("b", &[&["get", &id, "-o", "out", "--peer", &addr], &select[..]].concat())
    };
    fails(&get(&["small", "sub/lar"]), 2, "\"sub/lar\"");
    ok(get(&["sub/"]));
    let same = fs::read(world.path("out/data/sub/large")).unwrap() == fs::read(world.path("data/sub/large")).unwrap();
    assert!(same && !world.path("out/data/small").exists());
}

#[test]
fn cat_writes_a_file_or_a_part_of_it() {
    let (world, id) = World::new();
    let (_seeder, addr) = world.seed("a");
    let cat = |args: &[&str]| world.knot("b", &[&["cat", &id, "--peer", &addr], args].concat());
    assert_eq!(ok(cat(&["small"])), "hello\n");
    assert_eq!(ok(cat(&["small", "--offset", "1", "--length", "3"])), "ell");
    assert_eq!(ok(cat(&["small", "--range", "1-3"])), "ell");
    assert_eq!(ok(cat(&["small", "--range", "4-"])), "o\n");
    fails(&cat(&["small", "--range", "3-1"]), 2, "FIRST-LAST");
    assert!(ok_bytes(cat(&["sub/large"])) == fs::read(world.path("data/sub/large")).unwrap());
    fails(&cat(&[]), 2, "\"sub/large\"");
    fails(&cat(&["none"]), 1, "\"none\"");
}

#[test]
fn nobody_who_has_it_is_exit_code_3() {
    let (world, id) = World::new();
    let at = world.mountpoint("mnt");
    fails(&world.knot("b", &["mount", &id, &at, "--timeout", "1s"]), 3, "metainfo");
    assert!(world.mounts().is_empty());
    // With the metainfo it mounts, and reads are what fails.
    ok(world.knot("b", &["mount", "data.knot", &at, "--read-timeout", "1s"]));
    assert_eq!(fs::read(Path::new(&at).join("small")).unwrap_err().raw_os_error(), Some(5), "EIO");
    fails(&world.knot("b", &["cat", "data.knot", "small", "--read-timeout", "1s"]), 3, "");
    ok(world.knot("b", &["unmount", &at]));
}

#[test]
fn ctrl_c_ends_a_waiting_mount_and_its_request() {
    let (world, id) = World::new();
    let at = world.mountpoint("mnt");
    let mut mounting = world.start("b", &["mount", &id, &at, "--timeout", "1h", "--idle-exit", "100ms"]);
    eventually("the node waits for the metainfo", || {
        world.status("b").is_some_and(|status| !status["torrents"].as_array().unwrap().is_empty())
    });
    mounting.signal(Signal::INT);
    assert_eq!(mounting.end().code(), Some(130));
    eventually("the node forgets the torrent and leaves", || world.status("b").is_none());
}

#[test]
fn after_kill_9_the_next_command_starts_a_node_and_the_dead_mount_can_be_unmounted() {
    let (world, id) = World::new();
    let (_seeder, addr) = world.seed("a");
    let (at, again) = (world.mountpoint("mnt"), world.mountpoint("again"));
    ok(world.knot("b", &["mount", &id, &at, "--peer", &addr]));
    world.compare(&at);
    // What was verified is written down in batches; the last of them may still be lost.
    std::thread::sleep(Duration::from_secs(1));
    let pid = world.pid("b");
    kill_process(Pid::from_raw(pid as i32).unwrap(), Signal::KILL).unwrap();
    eventually("the node is gone", || world.status("b").is_none());
    assert!(world.path("b").join("control.sock").exists(), "it left its socket behind");
    // Without any peer: what was read is here.
    ok(world.knot("b", &["mount", &id, &again, "--read-timeout", "5s"]));
    world.compare(&again);
    assert_ne!(world.pid("b"), pid);
    ok(world.knot("b", &["unmount", &at]));
    ok(world.knot("b", &["unmount", &again]));
    assert!(world.mounts().is_empty());
}

#[test]
fn mount_f_stays_until_ctrl_c_and_takes_its_mount_along() {
    let (world, id) = World::new();
    let (_seeder, addr) = world.seed("a");
    let at = world.mountpoint("mnt");
    let mut mount = world.start("b", &["mount", "-f", &id, &at, "--peer", &addr, "--json"]);
    assert_eq!(serde_json::from_str::<Value>(&mount.line()).unwrap()["info_id"], id.as_str());
    world.compare(&at);
    assert_eq!(world.pid("b"), u64::from(mount.0.id()), "the command is the node");
    mount.signal(Signal::INT);
    assert!(mount.end().success());
    assert!(world.mounts().is_empty());
}

#[test]
fn mount_f_ends_when_its_mount_is_taken_away() {
    let (world, id) = World::new();
    let (_seeder, addr) = world.seed("a");
    let at = world.mountpoint("mnt");
    let mut mount = world.start("b", &["mount", "-f", &id, &at, "--peer", &addr, "--json"]);
    mount.line();
    ok(world.knot("elsewhere", &["unmount", &at]));
    assert!(mount.end().success());
}

#[test]
fn a_daemon_is_the_only_one_on_its_store_and_stops_when_told() {
    let (world, id) = World::new();
    let (_seeder, addr) = world.seed("a");
    let mut daemon = world.start("b", &["daemon"]);
    assert!(daemon.line().contains("/p2p/"));
    fails(&world.knot("b", &["daemon"]), 1, "--stop");
    let at = world.mountpoint("mnt");
    ok(world.knot("b", &["mount", &id, &at, "--peer", &addr]));
    assert_eq!(world.pid("b"), u64::from(daemon.0.id()), "the mount is in the daemon");
    ok(world.knot("b", &["daemon", "--stop"]));
    assert!(daemon.end().success());
    assert!(world.mounts().is_empty());
    assert!(!world.path("b").join("control.sock").exists());
}

#[test]
fn a_second_seed_joins_the_node_and_ends_alone() {
    let (world, _) = World::new();
    let (_first, addr) = world.seed("a");
    fs::write(world.path("other"), "other").unwrap();
    let mut second = world.start("a", &["seed", "other"]);
    assert_eq!(second.line(), addr, "the same node");
    assert_eq!(world.status("a").unwrap()["torrents"].as_array().unwrap().len(), 2);
    second.signal(Signal::TERM);
    assert!(second.end().success());
    eventually("the second torrent goes with its command", || {
        world.status("a").unwrap()["torrents"].as_array().unwrap().len() == 1
    });
}

#[test]
fn a_mount_outlives_the_one_shot_whose_node_it_joined() {
    let (world, id) = World::new();
    let at = world.mountpoint("mnt");
    // It waits for a peer, and is the first in its store.
    let mut get = world.start("b", &["get", "data.knot", "-o", "out", "--read-timeout", "1h"]);
    eventually("the node of get runs", || world.status("b").is_some());
    ok(world.knot("b", &["mount", "data.knot", &at]));
    let pid = world.pid("b");
    let (_seeder, addr) = world.seed("a");
    ok(world.knot("b", &["cat", &id, "small", "--peer", &addr]));
    assert!(get.end().success());
    assert_eq!(world.pid("b"), pid);
    world.compare(&at);
    ok(world.knot("b", &["unmount", &at]));
    eventually("the last one out ends it", || world.status("b").is_none());
}

#[test]
fn why_a_node_cannot_start_reaches_the_terminal() {
    let (world, id) = World::new();
    let at = world.mountpoint("mnt");
    // TEST-NET-1: an address that this machine does not have.
    let output = world.knot("b", &["mount", &id, &at, "--listen", "/ip4/192.0.2.1/tcp/1"]);
    fails(&output, 1, "192.0.2.1");
    assert!(world.status("b").is_none());
}

#[test]
fn places_that_cannot_be_mounted_on_are_refused() {
    let (world, _) = World::new();
    let at = world.mountpoint("mnt");
    fails(&world.knot("b", &["mount", "data.knot", "nowhere"]), 2, "mkdir");
    fails(&world.knot("b", &["mount", "data.knot", "data"]), 2, "empty");
    fails(&world.knot("b", &["mount", "data.knot", "data/small"]), 2, "directory");
    ok(world.knot("b", &["mount", "data.knot", &at]));
    fails(&world.knot("b", &["mount", "data.knot", &at]), 2, "already mounted");
    ok(world.knot("b", &["unmount", &at]));
}

#[test]
fn what_is_not_what_its_metainfo_says_is_not_seeded() {
    let (world, _) = World::new();
    fs::write(world.path("data/small"), "hullo\n").unwrap();
    fs::write(world.path("data/sub/large"), vec![0; 3_000_000]).unwrap();
    let mut seeder = world.start("a", &["seed", "data"]);
    assert_eq!(seeder.end().code(), Some(4));
    assert!(seeder.err().contains("knot create"));
}

#[test]
fn of_content_that_has_changed_in_part_only_the_rest_is_seeded() {
    let (world, id) = World::new();
    fs::write(world.path("data/small"), "hullo\n").unwrap();
    let (mut seeder, addr) = world.seed("a");
    let cat = |path| world.knot("b", &["cat", &id, path, "--peer", &addr, "--read-timeout", "1s"]);
    assert!(ok_bytes(cat("sub/large")) == fs::read(world.path("data/sub/large")).unwrap());
    let small = cat("small");
    fails(&small, 3, "");
    assert!(small.stdout.is_empty(), "nothing wrong is served");
    seeder.signal(Signal::TERM);
    assert!(seeder.end().success());
    let err = seeder.err();
    assert!(err.contains("3000006") && err.contains("3000000"), "{err}");
}
