//! Real mounts of torrents whose content is in memory. Needs /dev/fuse and the right to mount, and the programs
//! rsync, sqlite3, setpriv and fusermount3.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[allow(dead_code, unreachable_pub)]
mod support;

use std::cell::Cell;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::num::NonZeroU64;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use knot::fuse::FuseMounter;
use knot::metainfo::Metainfo;
use knot::node::api::{ApiError, ErrorKind};
use knot::node::mount::{MountOptions, MountView, Mounted, Mounter};
use knot::types::HashAlgorithm;
use knot::vfs::Version;
use rustix::fs::{Advice, Mode as Permissions, StatVfsMountFlags, fadvise};
use rustix::io::Errno;
use support::content::{FakeContent, Mode, wait_until};
use support::tree::{CREATED_AT, Item, ItemKind, awkward_tree, metainfo_of, noise, write_tree};
use tempfile::TempDir;

const PIECE: u32 = 64 * 1024;

/// A torrent that is mounted.
struct Mount {
    items: Vec<Item>,
    content: Arc<FakeContent>,
    metainfo: Arc<Metainfo>,
    mounted: Option<Box<dyn Mounted>>,
    dir: TempDir,
}

impl Mount {
    fn new(items: Vec<Item>, mode: Mode) -> Self {
        Self::with(items, mode, HashAlgorithm::Sha256Merkle, false)
    }

    fn with(mut items: Vec<Item>, mode: Mode, algorithm: HashAlgorithm, allow_other: bool) -> Self {
        items.sort_by(|a, b| a.path.cmp(&b.path));
        let metainfo = Arc::new(metainfo_of(&items, algorithm, PIECE));
        let content = FakeContent::new(&items, mode);
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir(dir.path().join("mnt")).unwrap();
        let mut mount = Self { items, content, metainfo, mounted: None, dir };
        mount.mounted = Some(mount.try_mount(&mount.root(), allow_other).unwrap());
        mount
    }

    fn try_mount(&self, at: &Path, allow_other: bool) -> Result<Box<dyn Mounted>, ApiError> {
        let content: Arc<dyn knot::vfs::Content> = Arc::clone(&self.content) as _;
        let version = Version { metainfo: Arc::clone(&self.metainfo), content, release: None };
        let view = MountView { version, dataset: None };
        let options = MountOptions { allow_other, uid: 12, gid: 34, fs_name: "knot:a test".into() };
        FuseMounter.mount(view, at, &options)
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("mnt")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root().join(name)
    }

    fn index(&self, path: &str) -> usize {
        self.items.iter().position(|item| item.path == path).unwrap()
    }

    fn unmount(&mut self) {
        self.mounted.take().unwrap().unmount().unwrap();
        assert!(!is_mounted(&self.root()));
    }
}

fn is_mounted(path: &Path) -> bool {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    table.lines().any(|line| line.split(' ').nth(4) == path.to_str())
}

/// Runs a program and returns what it printed.
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn errno_of(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap()
}

/// Waits for a program that must leave.
fn wait_for_exit(child: &mut Child) {
    let start = Instant::now();
    while child.try_wait().unwrap().is_none() {
        assert!(start.elapsed() < Duration::from_secs(20), "a killed program hangs in a read");
        thread::sleep(Duration::from_millis(2));
    }
}

fn assert_same_tree(mount: &Mount) {
    for item in &mount.items {
        let path = mount.path(&item.path);
        let meta = fs::symlink_metadata(&path).unwrap();
        match &item.kind {
            ItemKind::Directory => assert!(meta.is_dir()),
            ItemKind::Symlink { target } => assert_eq!(fs::read_link(&path).unwrap(), Path::new(target)),
            ItemKind::File { bytes, executable } => {
                assert_eq!(meta.len(), bytes.len() as u64, "{:?}", item.path);
                assert_eq!(meta.permissions().mode() & 0o111 != 0, *executable);
                assert!(fs::read(&path).unwrap() == *bytes, "{:?} differs", item.path);
            }
        }
    }
}

#[test]
fn every_byte_of_an_awkward_tree_reads_back() {
    for algorithm in HashAlgorithm::ALL {
        for mode in [Mode::Cached, Mode::Swarm] {
            let mut mount = Mount::with(awkward_tree(PIECE), mode, algorithm, false);
            assert_same_tree(&mount);
            mount.unmount();
            wait_until("readers are closed", || mount.content.open_readers() == 0);
        }
    }
}

#[test]
fn several_readers_read_anywhere() {
    for mode in [Mode::Cached, Mode::Swarm] {
        let mount = Mount::new((0..3).map(|at| Item::file(format!("{at}"), noise(at, 3_000_001))).collect(), mode);
        thread::scope(|scope| {
            for reader in 0..6u64 {
                let item = &mount.items[reader as usize % 3];
                let file = File::open(mount.path(&item.path)).unwrap();
                scope.spawn(move || {
                    let bytes = item.bytes();
                    let spots = noise(reader, 16 * 150);
                    for spot in spots.chunks(16) {
                        let offset = u64::from_le_bytes(spot[..8].try_into().unwrap()) % (bytes.len() as u64 + 10);
                        let len = u64::from_le_bytes(spot[8..].try_into().unwrap()) % 50_000;
                        let mut got = vec![0; len as usize];
                        let count = read_full(&file, &mut got, offset);
                        let start = bytes.len().min(offset as usize);
                        let expected = &bytes[start..bytes.len().min(start + len as usize)];
                        assert!(got[..count] == *expected, "{len} bytes at {offset} differ");
                    }
                });
            }
        });
    }
}

fn read_full(file: &File, buf: &mut [u8], offset: u64) -> usize {
    let mut done = 0;
    while done < buf.len() {
        match file.read_at(&mut buf[done..], offset + done as u64).unwrap() {
            0 => break,
            count => done += count,
        }
    }
    done
}

#[test]
fn rsync_and_find_see_the_same_tree() {
    let mount = Mount::new(awkward_tree(PIECE), Mode::Swarm);
    let source = mount.dir.path().join("source");
    write_tree(&source, &mount.items);
    let (from, to) = (format!("{}/", source.display()), format!("{}/", mount.root().display()));
    let args = ["-rlcni", "--executability", "--delete", "--out-format=%i %n"];
    assert_eq!(run(Command::new("rsync").args(args).args([&from, &to])), "");
    assert_eq!(run(Command::new("rsync").args(args).args([&to, &from])), "");

    let list = |root: &Path| {
        // Types, sizes and links of everything, and that -ls can show it.
        let format = r"%P\0%y\0%l\0%s\0\n";
        let all = run(Command::new("find").arg(root).args(["!", "-type", "d", "-printf", format]));
        let directories = run(Command::new("find").arg(root).args(["-type", "d", "-printf", r"%P\0%n\0\n"]));
        let lines = run(Command::new("find").arg(root).arg("-ls")).lines().count();
        let sorted = |text: String| {
            let mut lines: Vec<String> = text.split("\0\n").map(str::to_owned).collect();
            lines.sort();
            lines
        };
        (sorted(all), sorted(directories).len(), lines)
    };
    assert_eq!(list(&mount.root()), list(&source));
}

#[test]
fn sqlite_and_programs_run_from_the_mount() {
    let scratch = tempfile::tempdir().unwrap();
    let database = scratch.path().join("db");
    let fill = "create table t(id integer primary key, x text);
        with recursive n(i) as (select 1 union all select i + 1 from n where i < 20000)
        insert into t select i, hex(i * 7919) from n; create index x on t(x);";
    run(Command::new("sqlite3").arg(&database).arg(fill));
    let items = vec![
        Item::file("db", fs::read(&database).unwrap()),
        Item::executable("echo", fs::read("/bin/echo").unwrap()),
        Item::executable("script", &b"#!/bin/sh\necho from a script\n"[..]),
    ];
    let mount = Mount::new(items, Mode::Swarm);
    let ask =
        "pragma integrity_check; select count(*), sum(length(x)) from t; select id from t where x = hex(7919 * 77);";
    let expected = run(Command::new("sqlite3").arg("-readonly").arg(&database).arg(ask));
    assert!(expected.starts_with("ok\n20000|"));
    assert_eq!(run(Command::new("sqlite3").arg("-readonly").arg(mount.path("db")).arg(ask)), expected);
    assert_eq!(run(Command::new(mount.path("echo")).arg("mapped")), "mapped\n");
    assert_eq!(run(&mut Command::new(mount.path("script"))), "from a script\n");
}

#[test]
fn nothing_can_be_written() {
    let items = vec![Item::file("file", noise(1, 10)), Item::directory("dir"), Item::symlink("link", "file")];
    let mount = Mount::new(items, Mode::Cached);
    let (file, dir) = (mount.path("file"), mount.path("dir"));
    let now = rustix::fs::Timespec { tv_sec: 1, tv_nsec: 0 };
    let times = rustix::fs::Timestamps { last_access: now, last_modification: now };
    let results = [
        OpenOptions::new().write(true).open(&file).map(drop),
        OpenOptions::new().read(true).append(true).open(&file).map(drop),
        OpenOptions::new().write(true).truncate(true).open(&file).map(drop),
        File::create(mount.path("new")).map(drop),
        fs::create_dir(mount.path("new")),
        fs::remove_file(&file),
        fs::remove_dir(&dir),
        fs::rename(&file, mount.path("new")),
        fs::hard_link(&file, mount.path("new")),
        std::os::unix::fs::symlink("file", mount.path("new")),
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)),
        std::os::unix::fs::chown(&file, Some(1), Some(1)),
        rustix::fs::utimensat(rustix::fs::CWD, &file, &times, rustix::fs::AtFlags::empty()).map_err(Into::into),
        rustix::fs::setxattr(&file, "user.a", b"b", rustix::fs::XattrFlags::empty()).map_err(Into::into),
        rustix::fs::removexattr(&file, "user.knot.info_id").map_err(Into::into),
        rustix::fs::mknodat(rustix::fs::CWD, mount.path("new"), rustix::fs::FileType::Fifo, Permissions::RUSR, 0)
            .map_err(Into::into),
        rustix::fs::access(&file, rustix::fs::Access::WRITE_OK).map_err(Into::into),
    ];
    for (at, result) in results.into_iter().enumerate() {
        assert_eq!(errno_of(&result.unwrap_err()), Errno::ROFS, "operation {at}");
    }
    // Nor where root takes the kernel's own guard away.
    run(Command::new("mount").args(["-i", "-o", "remount,rw"]).arg(mount.root()));
    assert_eq!(errno_of(&OpenOptions::new().write(true).open(&file).unwrap_err()), Errno::ROFS);
    assert_eq!(errno_of(&File::create(mount.path("new")).unwrap_err()), Errno::ROFS);
    assert_eq!(errno_of(&fs::remove_file(&file).unwrap_err()), Errno::ROFS);
    assert_eq!(errno_of(&fs::create_dir(mount.path("new")).unwrap_err()), Errno::ROFS);
    assert_same_tree(&mount);
}

#[test]
fn attributes_tell_what_is_here() {
    let mount = Mount::new(
        vec![Item::file("d/here", noise(1, 5000)), Item::file("d/gone", noise(2, 5000)), Item::file("empty", "")],
        Mode::Cached,
    );
    mount.content.set_file_mode(mount.index("d/gone"), Mode::Silent);
    let here = fs::metadata(mount.path("d/here")).unwrap();
    assert_eq!((here.blocks(), here.mtime(), here.uid(), here.gid()), (10, CREATED_AT, 12, 34));
    assert_eq!((here.permissions().mode(), here.nlink()), (0o100_444, 1));
    // Not 0, which tar --sparse takes for a file of zeros.
    assert_eq!(fs::metadata(mount.path("d/gone")).unwrap().blocks(), 1);
    assert_eq!(fs::metadata(mount.path("empty")).unwrap().blocks(), 0);
    assert_eq!(fs::metadata(mount.path("d")).unwrap().nlink(), 2);
    assert_eq!(fs::metadata(mount.root()).unwrap().nlink(), 3);

    let xattr = |path: &Path, name: &str| {
        let mut value = [0; 256];
        let len = rustix::fs::getxattr(path, name, &mut value)?;
        Ok::<_, Errno>(String::from_utf8(value[..len].to_vec()).unwrap())
    };
    let info_id = mount.metainfo.info_id().to_string();
    assert_eq!(xattr(&mount.root(), "user.knot.info_id").unwrap(), info_id);
    assert_eq!(xattr(&mount.path("d/here"), "user.knot.cached_bytes").unwrap(), "5000");
    assert_eq!(xattr(&mount.path("d/gone"), "user.knot.cached_bytes").unwrap(), "0");
    assert_eq!(xattr(&mount.path("d/here"), "user.knot.root").unwrap().len(), 64);
    assert_eq!(xattr(&mount.path("d/here"), "user.other"), Err(Errno::NODATA));
    assert_eq!(xattr(&mount.path("d"), "user.knot.root"), Err(Errno::NODATA));
    let mut names = [0; 256];
    let len = rustix::fs::listxattr(mount.path("d/here"), &mut names).unwrap();
    assert_eq!(&names[..len], b"user.knot.root\0user.knot.info_id\0user.knot.info_hash\0");
    assert_eq!(rustix::fs::listxattr(mount.path("d/here"), &mut [0u8; 3]), Err(Errno::RANGE));

    let whole = rustix::fs::statvfs(mount.root()).unwrap();
    assert_eq!((whole.f_blocks, whole.f_bavail, whole.f_namemax), (3, 0, 255));
    assert!(whole.f_flag.contains(StatVfsMountFlags::RDONLY | StatVfsMountFlags::NOSUID));
}

#[test]
fn the_hidden_directory_is_found_but_not_listed() {
    let mount = Mount::new(vec![Item::file("a", noise(1, 5000))], Mode::Cached);
    let listed: Vec<_> = fs::read_dir(mount.root()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(listed, ["a"]);
    let report: serde_json::Value = serde_json::from_slice(&fs::read(mount.path(".knot/status")).unwrap()).unwrap();
    assert_eq!(report["cached_bytes"], 5000);
    assert_eq!(report["info_id"], mount.metainfo.info_id().to_string());
    mount.content.set_mode(Mode::Silent);
    let report: serde_json::Value = serde_json::from_slice(&fs::read(mount.path(".knot/status")).unwrap()).unwrap();
    assert_eq!(report["cached_bytes"], 0);

    let own = Mount::new(vec![Item::file(".knot", "mine")], Mode::Cached);
    assert_eq!(fs::read(own.path(".knot")).unwrap(), b"mine");
}

#[test]
fn the_kernel_keeps_what_it_has_read() {
    let mount = Mount::new(vec![Item::file("file", noise(1, 4 << 20))], Mode::Swarm);
    assert!(fs::read(mount.path("file")).unwrap() == mount.items[0].bytes());
    let asked = mount.content.take_asked();
    let bytes: u64 = asked.iter().map(|read| u64::from(read.len)).sum();
    assert_eq!(bytes, 4 << 20, "every byte is asked for once: {asked:?}");
    assert!(asked.len() <= 64, "reads of 64 KiB and more: {asked:?}");
    assert!(asked.iter().all(|read| read.len <= 1 << 20));
    mount.content.set_mode(Mode::Silent);
    assert!(fs::read(mount.path("file")).unwrap() == mount.items[0].bytes());
    assert_eq!(mount.content.take_asked(), []);
}

#[test]
fn a_small_read_asks_for_little() {
    let mount = Mount::new(vec![Item::file("file", noise(1, 8 << 20))], Mode::Swarm);
    let file = File::open(mount.path("file")).unwrap();
    for offset in [5 << 20, 3 << 20, 7 << 20, 0] {
        file.read_exact_at(&mut [0; 4096], offset).unwrap();
    }
    let bytes: u32 = mount.content.take_asked().iter().map(|read| read.len).sum();
    assert!(bytes <= 4 * 16 * 1024, "{bytes} bytes asked for 4 reads of 4 KiB");
}

/// What a program announces with `posix_fadvise` or `readahead` reaches a mount as reads of the kernel, and what it says
/// it will read at random is not read ahead of.
#[test]
fn advice_of_programs_is_heeded() {
    let mount = Mount::new(vec![Item::file("file", noise(1, 8 << 20))], Mode::Swarm);
    let file = File::open(mount.path("file")).unwrap();
    let asked = || mount.content.take_asked().iter().map(|read| u64::from(read.len)).sum::<u64>();
    fadvise(&file, 4 << 20, NonZeroU64::new(512 << 10), Advice::WillNeed).unwrap();
    let announced = Cell::new(0);
    wait_until("what was announced is asked for", || {
        announced.set(announced.get() + asked());
        announced.get() >= 512 << 10
    });
    mount.content.set_mode(Mode::Silent);
    file.read_exact_at(&mut [0; 512 << 10], 4 << 20).unwrap();
    mount.content.set_mode(Mode::Swarm);
    fadvise(&file, 0, None, Advice::Random).unwrap();
    for offset in (0..1 << 20).step_by(4096) {
        file.read_exact_at(&mut [0; 4096], offset).unwrap();
    }
    assert_eq!(asked(), 1 << 20);
}

#[test]
fn a_killed_reader_leaves_at_once() {
    let mut mount = Mount::new(vec![Item::file("file", noise(1, 1 << 20))], Mode::Silent);
    for (count, signal) in [(1, "-KILL"), (2, "-TERM")] {
        let mut cat =
            Command::new("cat").arg(mount.path("file")).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        mount.content.wait_for_unanswered(1);
        assert_eq!(fs::read_dir(mount.root()).unwrap().count(), 1, "listed while {count} readers wait");
        assert_eq!(fs::metadata(mount.path("file")).unwrap().len(), 1 << 20);
        run(Command::new("kill").args([signal, &cat.id().to_string()]));
        wait_for_exit(&mut cat);
    }
    mount.unmount();
    assert_eq!(mount.content.open_readers(), 0);
}

#[test]
fn waiting_reads_do_not_hold_back_others() {
    let mut items: Vec<Item> = (0..60).map(|at| Item::file(format!("gone{at}"), noise(at, 300_000))).collect();
    items.push(Item::file("here", noise(99, 3_000_000)));
    let mut mount = Mount::new(items, Mode::Silent);
    mount.content.set_file_mode(mount.index("here"), Mode::Cached);
    let cat = |at| {
        Command::new("cat")
            .arg(mount.path(&format!("gone{at}")))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    };
    let mut cats: Vec<Child> = (0..60).map(cat).collect();
    mount.content.wait_for_unanswered(60);
    assert!(fs::read(mount.path("here")).unwrap() == mount.items[mount.index("here")].bytes());
    mount.unmount();
    cats.iter_mut().for_each(wait_for_exit);
}

#[test]
fn after_a_failed_read_the_next_one_starts_afresh() {
    let mut mount = Mount::new(vec![Item::file("file", noise(1, 1 << 20))], Mode::Failing);
    assert_eq!(errno_of(&fs::read(mount.path("file")).unwrap_err()), Errno::IO);
    // Waits out the second for which the range fails by itself, then a reader that waits can be killed again.
    wait_until("the range is asked for again", || {
        mount.content.take_asked();
        fs::read(mount.path("file")).unwrap_err();
        !mount.content.take_asked().is_empty()
    });
    thread::sleep(Duration::from_millis(1100));
    mount.content.set_mode(Mode::Silent);
    let mut cat =
        Command::new("cat").arg(mount.path("file")).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    mount.content.wait_for_unanswered(1);
    cat.kill().unwrap();
    wait_for_exit(&mut cat);
    mount.unmount();
}

#[test]
fn a_read_succeeds_when_the_swarm_is_back() {
    let mount = Mount::new(vec![Item::file("file", noise(1, 1 << 20))], Mode::Failing);
    assert_eq!(errno_of(&fs::read(mount.path("file")).unwrap_err()), Errno::IO);
    mount.content.set_mode(Mode::Swarm);
    let read = || fs::read(mount.path("file")).ok();
    wait_until("the file can be read", || read().is_some());
    assert!(read().unwrap() == mount.items[0].bytes());
}

#[test]
fn a_mount_in_use_is_taken_away() {
    let mut mount = Mount::new(vec![Item::file("file", noise(1, 3 << 20))], Mode::Silent);
    let file = File::open(mount.path("file")).unwrap();
    let mut cat =
        Command::new("cat").arg(mount.path("file")).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    mount.content.wait_for_unanswered(1);
    mount.unmount();
    assert!(file.read_at(&mut [0; 10], 2 << 20).is_err());
    wait_for_exit(&mut cat);
    wait_until("readers are closed", || mount.content.open_readers() == 0);
    assert!(fs::read_dir(mount.root()).unwrap().next().is_none());
}

#[test]
fn a_mount_that_was_taken_away_from_outside_is_noticed() {
    let mut mount = Mount::new(vec![Item::file("file", noise(1, 10))], Mode::Cached);
    assert!(mount.mounted.as_ref().unwrap().is_alive());
    run(Command::new("umount").arg(mount.root()));
    assert!(!mount.mounted.as_ref().unwrap().is_alive());
    let other = mount.try_mount(&mount.root(), false).unwrap();
    mount.mounted.take().unwrap().unmount().unwrap();
    assert!(is_mounted(&mount.root()), "the first mount has taken the second away");
    assert!(other.is_alive());
    drop(other);
    assert!(!is_mounted(&mount.root()));
}

#[test]
fn what_was_mounted_over_a_mount_is_left_alone() {
    let mut mount = Mount::new(vec![Item::file("file", noise(1, 10))], Mode::Cached);
    run(Command::new("mount").args(["-t", "tmpfs", "over it"]).arg(mount.root()));
    let mounted = mount.mounted.take().unwrap();
    assert!(mounted.is_alive());
    let error = mounted.unmount().unwrap_err();
    assert!(error.message.contains("over it is mounted over it"), "{error}");
    run(Command::new("umount").arg(mount.root()));
    run(Command::new("umount").arg(mount.root()));
    assert!(!is_mounted(&mount.root()));
}

#[test]
fn places_that_cannot_be_mounted_on_are_refused() {
    let mount = Mount::new(vec![Item::file("file", noise(1, 10))], Mode::Cached);
    let dir = mount.dir.path();
    fs::write(dir.join("a file"), "").unwrap();
    for (place, expected) in [
        (mount.root(), "already mounted (knot:a test, fuse.knot)"),
        (dir.join("none"), "does not exist"),
        (dir.join("a file"), "which is a file"),
        (dir.to_owned(), "expected an empty directory"),
    ] {
        let Err(error) = mount.try_mount(&place, false) else { panic!("mounted on {place:?}") };
        assert_eq!(error.kind, ErrorKind::Usage);
        assert!(error.message.contains(expected), "{error}");
    }
    // Below another mount of ours there is no place either.
    assert!(mount.try_mount(&mount.path("file"), false).is_err());
}

#[test]
fn names_of_mount_points_may_be_awkward() {
    let mount = Mount::new(vec![Item::file("file", noise(1, 10))], Mode::Cached);
    let place = mount.dir.path().join("a b\\c\nd,e");
    fs::create_dir(&place).unwrap();
    let mounted = mount.try_mount(&place, false).unwrap();
    assert!(mounted.is_alive());
    assert_eq!(fs::read(place.join("file")).unwrap(), mount.items[0].bytes());
    mounted.unmount().unwrap();
    assert!(fs::read_dir(&place).unwrap().next().is_none());
}

#[test]
fn only_the_mounter_may_look_unless_others_may() {
    let read_as_nobody = |mount: &Mount| {
        let args = ["--reuid", "65534", "--regid", "65534", "--clear-groups", "cat"];
        Command::new("setpriv").args(args).arg(mount.path("file")).output().unwrap().status.success()
    };
    let items = vec![Item::file("file", noise(1, 10))];
    assert!(!read_as_nobody(&Mount::new(items.clone(), Mode::Cached)));
    assert!(read_as_nobody(&Mount::with(items, Mode::Cached, HashAlgorithm::Sha1, true)));
}

/// Not a test by itself: another process that mounts. It prints a line when it is ready and goes on until it is
/// killed.
#[test]
#[ignore = "started by other tests"]
fn helper_that_mounts() {
    let Some(place) = std::env::var_os("KNOT_TEST_MOUNTPOINT") else { return };
    let items = vec![Item::file("file", "from the helper")];
    let metainfo = Arc::new(metainfo_of(&items, HashAlgorithm::Blake3, PIECE));
    let content = FakeContent::new(&items, Mode::Cached);
    let options = MountOptions { allow_other: false, uid: 65534, gid: 65534, fs_name: "knot:helper".into() };
    let view = MountView { version: Version { metainfo, content, release: None }, dataset: None };
    let mounted = FuseMounter.mount(view, Path::new(&place), &options).unwrap();
    assert_eq!(fs::read(Path::new(&place).join("file")).unwrap(), b"from the helper");
    if std::env::var_os("KNOT_TEST_UNMOUNT").is_some() {
        let open = File::open(Path::new(&place).join("file")).unwrap();
        mounted.unmount().unwrap();
        drop(open);
        return;
    }
    fs::write(std::env::var_os("KNOT_TEST_READY").unwrap(), "").unwrap();
    loop {
        thread::park();
    }
}

const HELPER_ARGS: [&str; 4] = ["--ignored", "--exact", "helper_that_mounts", "--nocapture"];

#[test]
fn what_a_killed_node_has_left_is_cleaned_up() {
    let mount = Mount::new(vec![Item::file("file", noise(1, 10))], Mode::Cached);
    let (place, ready) = (mount.dir.path().join("other"), mount.dir.path().join("ready"));
    fs::create_dir(&place).unwrap();
    let mut helper = Command::new(std::env::current_exe().unwrap())
        .args(HELPER_ARGS)
        .env("KNOT_TEST_MOUNTPOINT", &place)
        .env("KNOT_TEST_READY", &ready)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    wait_until("the helper has mounted", || ready.exists());
    assert!(matches!(mount.try_mount(&place, false), Err(error) if error.message.contains("already mounted")));
    helper.kill().unwrap();
    helper.wait().unwrap();
    assert_eq!(errno_of(&fs::read_dir(&place).unwrap_err()), Errno::NOTCONN);
    let mounted = mount.try_mount(&place, false).unwrap();
    assert_eq!(fs::read(place.join("file")).unwrap(), mount.items[0].bytes());
    mounted.unmount().unwrap();
    assert!(!is_mounted(&place));
}

#[test]
fn an_ordinary_user_mounts_and_unmounts() {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let place = dir.path().join("mnt");
    fs::create_dir(&place).unwrap();
    std::os::unix::fs::chown(&place, Some(65534), Some(65534)).unwrap();
    let program = dir.path().join("helper");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    // Not every machine lets ordinary users open /dev/fuse; in a mount namespace of its own this test does.
    let script = "set -e; mount -t tmpfs tmpfs /mnt; mknod -m 666 /mnt/fuse c 10 229; mount --bind /mnt/fuse /dev/fuse
        exec setpriv --reuid 65534 --regid 65534 --clear-groups -- \"$@\"";
    run(Command::new("unshare")
        .args(["--mount", "sh", "-c", script, "sh"])
        .arg(program)
        .args(HELPER_ARGS)
        .env("KNOT_TEST_MOUNTPOINT", &place)
        .env("KNOT_TEST_UNMOUNT", "1"));
    assert!(!is_mounted(&place));
}
