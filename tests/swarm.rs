//! The main job with the real program: create, seed, mount and read, between processes on loopback.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

#[allow(dead_code, unreachable_pub)]
mod support;

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use support::process::{Mount, Seeder, alive, both, create, finish, knot, run, signal, status, wait_until};
use support::proxy::Proxy;
use support::{compare, tree};

const ALGORITHMS: [&str; 4] = ["sha1", "sha256", "sha256-merkle", "blake3"];

fn awkward(dir: &Path) {
    tree::write_tree(dir, &tree::awkward_tree(65536));
}

/// A tree, its metainfo and a place for stores.
struct Dataset {
    dir: tempfile::TempDir,
    id: String,
}

impl Dataset {
    fn new(build: impl FnOnce(&Path), options: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("source");
        fs::create_dir(&source).unwrap();
        build(&source);
        let id = create(&source, &dir.path().join("a.knot"), options);
        Self { dir, id }
    }

    fn one_file(len: usize, options: &[&str]) -> Self {
        Self::new(|source| fs::write(source.join("data.bin"), tree::noise(1, len)).unwrap(), options)
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    fn metainfo(&self) -> String {
        self.path("a.knot").to_str().unwrap().to_owned()
    }

    fn seeder(&self, name: &str) -> Seeder {
        Seeder::start(&self.path("source"), &self.path("a.knot"), &self.path(name))
    }

    fn mount(&self, what: &str, peers: &[&str], options: &[&str]) -> Mount {
        Mount::new(what, &self.path("mnt"), &self.path("store"), peers, options)
    }
}

#[test]
fn every_byte_of_an_awkward_tree_under_every_algorithm_from_two_seeders() {
    for algorithm in ALGORITHMS {
        let data = Dataset::new(awkward, &["--hash", algorithm, "--piece-length", "65536"]);
        let (one, two) = (data.seeder("s1"), data.seeder("s2"));
        let mount = data.mount(&data.id, &[&one.addr, &two.addr], &[]);
        let source = data.path("source");
        thread::scope(|scope| {
            scope.spawn(|| compare::at_random(&source, &mount.at, 7, 400));
            scope.spawn(|| compare::at_random(&source, &mount.at, 8, 400));
            scope.spawn(|| compare::whole(&source, &mount.at));
        });
        let out = run(Command::new("rsync")
            .args(["-rlpcni", "--delete", "--omit-dir-times", "--no-perms"])
            .args([&format!("{}/", source.display()), &format!("{}/", mount.at.display())]));
        assert_eq!(out, "", "{algorithm}: rsync -c finds no difference");
        let listing = run(Command::new("find").arg(&mount.at).arg("-ls"));
        assert!(listing.lines().count() > 10, "{listing}");
        let status = mount.status();
        let torrent = &status["torrents"][0];
        assert_eq!(torrent["info_id"], data.id.as_str());
        assert_eq!(torrent["verified_bytes"], torrent["total_bytes"]);
        assert_eq!(status["warnings"], serde_json::json!([]), "{algorithm}");
    }
}

#[test]
fn a_database_is_queried_from_the_mount() {
    let data = Dataset::new(
        |source| {
            let rows = "create table t(a integer primary key, b text);\n\
                        with recursive n(i) as (select 1 union all select i + 1 from n where i < 20000)\n\
                        insert into t select i, hex(randomblob(40)) from n;";
            run(Command::new("sqlite3").arg(source.join("t.db")).arg(rows));
        },
        &[],
    );
    let seeder = data.seeder("s1");
    let mount = data.mount(&data.id, &[&seeder.addr], &[]);
    let db = format!("file:{}?mode=ro&immutable=1", mount.at.join("t.db").display());
    let out = run(Command::new("sqlite3").arg(db).arg("select count(*), max(a) from t; pragma integrity_check;"));
    assert_eq!(out, "20000|20000\nok\n");
}

#[test]
fn a_partial_read_fetches_little() {
    let len = 64 << 20;
    let data = Dataset::one_file(len, &[]);
    let seeder = data.seeder("s1");
    let mount = data.mount(&data.id, &[&seeder.addr], &[]);
    let file = fs::File::open(mount.at.join("data.bin")).unwrap();
    let expected = fs::read(data.path("source/data.bin")).unwrap();
    let mut read = 0;
    for at in (0..100).map(|nth| nth * (len as u64 / 100)) {
        let mut buffer = [0; 4096];
        file.read_exact_at(&mut buffer, at).unwrap();
        assert_eq!(buffer[..], expected[at as usize..][..4096]);
        read += 4096;
    }
    let fetched = mount.status()["torrents"][0]["downloaded_bytes"].as_u64().unwrap();
    println!("bytes fetched per byte read: {:.1} ({fetched} for {read})", fetched as f64 / read as f64);
    assert!(fetched >= read);
    // The kernel reads ahead up to 128 KiB around a random read; nothing else may be fetched.
    assert!(fetched <= len as u64 / 5, "fetched {fetched} of {len} bytes for {read} scattered ones");
}

#[test]
fn another_seeder_takes_over_and_without_one_a_read_fails_in_time_and_succeeds_later() {
    let data = Dataset::one_file(24 << 20, &[]);
    let expected = fs::read(data.path("source/data.bin")).unwrap();
    let (mut one, mut two) = (data.seeder("s1"), data.seeder("s2"));
    let (_slow, through) = Proxy::before(&one.addr, 8 << 20);
    let mount = data.mount(&data.id, &[&through, &two.addr], &["--read-timeout", "3s"]);
    let file = fs::File::open(mount.at.join("data.bin")).unwrap();
    let mut buffer = vec![0; 4 << 20];
    file.read_exact_at(&mut buffer, 0).unwrap();
    one.kill();
    let middle = 8 << 20;
    file.read_exact_at(&mut buffer, middle).unwrap();
    assert!(buffer == expected[middle as usize..][..buffer.len()]);
    two.kill();
    let last = 23 << 20;
    let mut tail = vec![0; 4096];
    let error = file.read_exact_at(&mut tail, last).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(5), "EIO without a seeder: {error}");
    let listen = two.addr.split("/p2p/").next().unwrap().to_owned();
    let _back = Seeder::start_on(&data.path("source"), &data.path("a.knot"), &data.path("s2"), &listen);
    wait_until("a later read succeeds", || file.read_exact_at(&mut tail, last).is_ok());
    assert_eq!(tail, expected[last as usize..][..4096]);
}

#[test]
fn without_peers_reads_fail_in_time_and_the_terminal_stays_usable() {
    let data = Dataset::one_file(1 << 20, &[]);
    let mount = data.mount(&data.metainfo(), &[], &["--read-timeout", "2s"]);
    assert_eq!(fs::metadata(mount.at.join("data.bin")).unwrap().len(), 1 << 20);
    let error = fs::read(mount.at.join("data.bin")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(5));
    drop(mount);
    // Interrupted at once while the read waits.
    let mount = data.mount(&data.metainfo(), &[], &["--read-timeout", "60s"]);
    let mut cat =
        Command::new("cat").arg(mount.at.join("data.bin")).stdout(std::process::Stdio::null()).spawn().unwrap();
    thread::sleep(Duration::from_millis(500));
    let asked = Instant::now();
    // Not SIGINT: a shell has its background jobs ignore that.
    signal(cat.id(), "-TERM");
    wait_until("cat ends", || cat.try_wait().unwrap().is_some());
    assert!(asked.elapsed() < Duration::from_secs(30), "long before the read timeout");
}

#[test]
fn a_metainfo_that_nobody_has_is_exit_code_3() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("mnt");
    fs::create_dir(&at).unwrap();
    let mut command = knot(&dir.path().join("store"));
    command.arg("mount").arg("ab".repeat(32)).arg(&at).args(["--discovery", "none", "--timeout", "1s"]);
    let output = finish(&mut command);
    assert_eq!(output.status.code(), Some(3), "{}", both(&output));
    assert!(both(&output).contains("--peer"), "says what to do: {}", both(&output));
    run(knot(&dir.path().join("store")).args(["status", "--json"]).env("RUST_BACKTRACE", "0"));
}

#[test]
fn after_kill_nine_the_next_node_serves_what_was_verified() {
    let data = Dataset::one_file(16 << 20, &[]);
    let expected = fs::read(data.path("source/data.bin")).unwrap();
    let mut seeder = data.seeder("s1");
    let mount = data.mount(&data.id, &[&seeder.addr], &[]);
    assert!(fs::read(mount.at.join("data.bin")).unwrap() == expected);
    // Marks are written within a moment; then the node dies without a word.
    thread::sleep(Duration::from_secs(1));
    let pid = mount.node_pid();
    signal(pid, "-KILL");
    wait_until("the node is gone", || !alive(pid));
    seeder.kill();
    let again = data.mount(&data.id, &[], &["--read-timeout", "2s"]);
    assert!(fs::read(again.at.join("data.bin")).unwrap() == expected, "served without any peer");
    assert_eq!(again.status()["torrents"][0]["downloaded_bytes"], 0);
    std::mem::forget(mount);
}

#[test]
fn a_changed_source_is_never_served() {
    let data = Dataset::one_file(4 << 20, &[]);
    let seeder = data.seeder("s1");
    let path = data.path("source/data.bin");
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(b"changed behind the seeder's back", 1 << 20).unwrap();
    let mount = data.mount(&data.id, &[&seeder.addr], &["--read-timeout", "3s"]);
    let expected = fs::read(&path).unwrap();
    let mounted = fs::File::open(mount.at.join("data.bin")).unwrap();
    let mut buffer = vec![0; 4096];
    mounted.read_exact_at(&mut buffer, 3 << 20).unwrap();
    assert_eq!(buffer, expected[3 << 20..][..4096], "the rest is still served");
    let error = mounted.read_exact_at(&mut buffer, 1 << 20).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(5));
    let warnings = status(&data.path("s1"))["warnings"].to_string();
    assert!(warnings.contains("data.bin"), "the seeder says which file changed: {warnings}");
    assert!(alive(seeder.pid()));
}

#[test]
fn get_and_cat_deliver_the_source() {
    let data = Dataset::new(awkward, &[]);
    let seeder = data.seeder("s1");
    let out = data.path("out");
    fs::create_dir(&out).unwrap();
    let peer = ["--discovery", "none", "--peer", &seeder.addr];
    run(knot(&data.path("store")).args(["get", &data.id, "-o"]).arg(&out).args(peer));
    compare::whole(&data.path("source"), &out.join("source"));

    let single = Dataset::one_file(3 << 20, &[]);
    let seeder = single.seeder("s1");
    let mut cat = knot(&single.path("store"));
    cat.args(["cat", &single.id, "data.bin", "--discovery", "none", "--peer", &seeder.addr]);
    let output = finish(&mut cat);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stdout == fs::read(single.path("source/data.bin")).unwrap());
}

#[test]
fn a_download_takes_its_room_once_and_is_mounted_from_where_it_lies() {
    let data = Dataset::one_file(8 << 20, &[]);
    let (store, out) = (data.path("store"), data.path("out"));
    fs::create_dir(&out).unwrap();
    {
        let seeder = data.seeder("s1");
        let peer = ["--discovery", "none", "--peer", &seeder.addr];
        run(knot(&store).args(["get", &data.id, "-o"]).arg(&out).args(peer));
    }
    compare::whole(&data.path("source"), &out.join("source"));
    let used: u64 = walkdir::WalkDir::new(store.join("cache"))
        .into_iter()
        .map(|entry| entry.unwrap().metadata().unwrap())
        .filter(fs::Metadata::is_file)
        .map(|metadata| metadata.blocks() * 512)
        .sum();
    assert_eq!(used, 0, "the cache keeps {used} bytes of a download of {}", 8 << 20);
    // Without any peer.
    let mount = Mount::new(&data.id, &data.path("mnt"), &store, &[], &[]);
    compare::whole(&data.path("source"), &mount.at);
}

#[test]
fn many_commands_on_one_store_share_one_node() {
    let data = Dataset::one_file(1 << 20, &[]);
    let seeder = data.seeder("s1");
    let expected = fs::read(data.path("source/data.bin")).unwrap();
    let mounts: Vec<Mount> = thread::scope(|scope| {
        let starts: Vec<_> = (0..6)
            .map(|at| {
                let (data, peer) = (&data, seeder.addr.as_str());
                let mountpoint = data.path(&format!("mnt{at}"));
                scope.spawn(move || Mount::new(&data.id, &mountpoint, &data.path("store"), &[peer], &[]))
            })
            .collect();
        starts.into_iter().map(|start| start.join().unwrap()).collect()
    });
    for mount in &mounts {
        assert!(fs::read(mount.at.join("data.bin")).unwrap() == expected);
    }
    let status = mounts[0].status();
    assert_eq!(status["mounts"].as_array().unwrap().len(), 6);
    assert_eq!(status["torrents"].as_array().unwrap().len(), 1);
}

#[test]
fn a_full_disk_costs_the_cache_not_the_read() {
    let data = Dataset::one_file(48 << 20, &[]);
    let seeder = data.seeder("s1");
    let store = data.path("store");
    fs::create_dir(&store).unwrap();
    run(Command::new("mount").args(["-t", "tmpfs", "-o", "size=12m", "tmpfs"]).arg(&store));
    let expected = fs::read(data.path("source/data.bin")).unwrap();
    {
        let mount = data.mount(&data.id, &[&seeder.addr], &[]);
        assert!(fs::read(mount.at.join("data.bin")).unwrap() == expected);
    }
    run(Command::new("umount").arg("-l").arg(&store));
}

#[test]
fn a_small_cache_evicts_and_reads_go_on() {
    let data = Dataset::one_file(48 << 20, &[]);
    let seeder = data.seeder("s1");
    let expected = fs::read(data.path("source/data.bin")).unwrap();
    let mount = data.mount(&data.id, &[&seeder.addr], &["--cache-size", "16MiB"]);
    assert!(fs::read(mount.at.join("data.bin")).unwrap() == expected);
    wait_until("the cache is under its cap", || mount.status()["cache"]["used_bytes"].as_u64().unwrap() <= 16 << 20);
    compare::at_random(&data.path("source"), &mount.at, 3, 50);
}

#[test]
fn a_video_plays_from_a_slow_seeder_and_seeks() {
    let data = Dataset::new(
        |source| {
            let clip = source.join("clip.mkv");
            run(Command::new("ffmpeg")
                .args(["-v", "error", "-f", "lavfi", "-i", "testsrc=size=640x360:rate=25", "-t", "20"])
                .args(["-c:v", "mpeg4", "-b:v", "1500k", "-minrate", "1500k", "-maxrate", "1500k", "-bufsize", "1M"])
                .arg(clip));
        },
        &[],
    );
    let seeder = data.seeder("s1");
    let size = fs::metadata(data.path("source/clip.mkv")).unwrap().len();
    let bitrate = size / 20;
    let (proxy, through) = Proxy::before(&seeder.addr, bitrate * 3);
    let mount = data.mount(&data.id, &[&through], &[]);
    let clip = mount.at.join("clip.mkv");
    // The last seconds first: a seek must not fetch what lies before it.
    let play = |options: &[&str]| {
        let mut ffmpeg = Command::new("ffmpeg");
        run(ffmpeg.args(["-v", "error", "-xerror"]).args(options).arg("-i").arg(&clip).args(["-f", "null", "-"]))
    };
    play(&["-ss", "18"]);
    println!("seek to 18 s of 20 s: {} of {size} bytes from the seeder", proxy.bytes_from_server());
    assert!(proxy.bytes_from_server() < size * 3 / 4, "a seek fetches a part only");
    play(&[]);
    assert!(fs::read(&clip).unwrap() == fs::read(data.path("source/clip.mkv")).unwrap());
}
