//! Real mounts whose dataset changes under programs that use them. Needs /dev/fuse and the right to mount.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

#[allow(dead_code, unreachable_pub)]
mod support;

use std::collections::BTreeMap;
use std::ffi::{CString, OsString};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

use knot::fuse::FuseMounter;
use knot::node::mount::{MountOptions, MountView, Mounted, Mounter, Pending};
use knot::types::{HashAlgorithm, InfoSig};
use knot::vfs::{Dataset, Release, Version, VersionInfo};
use rustix::fs::{AtFlags, Mode as Permissions, OFlags};
use rustix::io::Errno;
use support::content::{FakeContent, Mode, wait_until};
use support::tree::{Item, metainfo_of, noise};
use tempfile::TempDir;

const PIECE: u32 = 64 * 1024;

/// A version with its content, so that a test can see what is asked of it.
#[derive(Clone)]
struct Made {
    version: Version,
    content: Arc<FakeContent>,
}

fn made(mut items: Vec<Item>, seq: u64, mode: Mode) -> Made {
    items.sort_by(|a, b| a.path.cmp(&b.path));
    let metainfo = Arc::new(metainfo_of(&items, HashAlgorithm::Blake3, PIECE));
    let content = FakeContent::new(&items, mode);
    let release = Release { origin: InfoSig([9; 64]), seq, signed_at: Some(1_700_000_000 + seq as i64) };
    Made { version: Version { metainfo, content: Arc::clone(&content) as _, release: Some(release) }, content }
}

fn version(items: Vec<Item>, seq: u64) -> Version {
    made(items, seq, Mode::Cached).version
}

/// Versions by number; those without metainfo are known, but not here.
#[derive(Default)]
struct Versions {
    here: Mutex<BTreeMap<u64, Option<Version>>>,
    asked: Mutex<Vec<u64>>,
}

impl Versions {
    fn put(&self, seq: u64, version: Option<Version>) {
        self.here.lock().unwrap().insert(seq, version);
    }
}

impl Dataset for Versions {
    fn seqs(&self) -> Vec<u64> {
        self.here.lock().unwrap().keys().copied().collect()
    }

    fn newest(&self) -> Option<u64> {
        let here = self.here.lock().unwrap();
        here.iter().rev().find(|(_, version)| version.is_some()).map(|(seq, _)| *seq)
    }

    fn describe(&self, seq: u64) -> Option<VersionInfo> {
        let here = self.here.lock().unwrap();
        let known = here.get(&seq)?.as_ref().or_else(|| here.values().flatten().next())?;
        let info_hash = known.metainfo.info_hash();
        Some(VersionInfo { info_hash, info_sig: InfoSig([seq as u8; 64]), signed_at: Some(seq as i64) })
    }

    fn version(&self, seq: u64) -> Option<Version> {
        self.asked.lock().unwrap().push(seq);
        self.here.lock().unwrap().get(&seq)?.clone()
    }

    fn checked_at(&self) -> Option<i64> {
        Some(1_800_000_000)
    }
}

struct Mount {
    mounted: Option<Box<dyn Mounted>>,
    dir: TempDir,
}

impl Mount {
    fn new(version: Version) -> Self {
        Self::of(version, None)
    }

    fn of(version: Version, dataset: Option<Arc<dyn Dataset>>) -> Self {
        Self::with(|at, options| FuseMounter.mount(MountView { version, dataset }, at, options).unwrap())
    }

    fn with(mount: impl FnOnce(&Path, &MountOptions) -> Box<dyn Mounted>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("mnt")).unwrap();
        let options = MountOptions { allow_other: false, uid: 12, gid: 34, fs_name: "knot:versions".into() };
        let mounted = mount(&dir.path().join("mnt"), &options);
        Self { mounted: Some(mounted), dir }
    }

    fn show(&self, version: Version) {
        self.mounted.as_ref().unwrap().show(version).unwrap();
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("mnt")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root().join(name)
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    fn ino(&self, name: &str) -> u64 {
        fs::symlink_metadata(self.path(name)).unwrap().ino()
    }
}

fn names(dir: &Path) -> Vec<OsString> {
    let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    names
}

fn errno(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap()
}

fn xattr(path: &Path, name: &str) -> Result<String, Errno> {
    let mut value = [0; 256];
    let len = rustix::fs::getxattr(path, name, &mut value)?;
    Ok(String::from_utf8(value[..len].to_vec()).unwrap())
}

fn open_at(dir: impl AsFd, path: &str) -> Result<File, Errno> {
    rustix::fs::openat(dir, path, OFlags::RDONLY, Permissions::empty()).map(File::from)
}

fn text_at(dir: impl AsFd, path: &str) -> String {
    let mut text = String::new();
    open_at(dir, path).unwrap().read_to_string(&mut text).unwrap();
    text
}

/// The files of version `seq`: each says which version it is of, as does the name of one, and what is there.
fn numbered(seq: u64) -> Vec<Item> {
    let text = seq.to_string();
    let mut items: Vec<Item> = ["a", "b", "d/x", "d/deep/er/y", "e/z"]
        .iter()
        .map(|path| Item::file(*path, text.clone().into_bytes()))
        .collect();
    items.push(Item::file(format!("only-{seq}"), text.clone().into_bytes()));
    items.push(Item::symlink("link", format!("only-{seq}")));
    items.push(Item::file("same", "the same"));
    items.push(Item::file("e/same", "the same"));
    // Sometimes a file, sometimes a directory.
    let kind = if seq.is_multiple_of(2) { "kind" } else { "kind/file" };
    items.push(Item::file(kind, text.into_bytes()));
    items
}

/// One walk from the root: the version that it gave.
fn walk(root: &Path, way: u64) -> Option<u64> {
    let paths = ["a", "b", "d/x", "d/deep/er/y", "e/z", "link", "kind", "kind/file"];
    match (way % 11) as usize {
        8 => {
            let mut listed = fs::read_dir(root).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
            listed.find_map(|name| name.strip_prefix("only-")?.parse().ok())
        }
        9 => {
            assert_eq!(fs::read(root.join("same")).unwrap(), b"the same");
            assert_eq!(fs::read(root.join("e/same")).unwrap(), b"the same");
            None
        }
        // Several steps through one directory: all of one version.
        10 => {
            let dir = File::open(root.join("d")).unwrap();
            let (first, second) = (text_at(&dir, "deep/er/y"), text_at(&dir, "x"));
            assert_eq!(first, second, "an open directory stays on its version");
            first.parse().ok()
        }
        at => match fs::read_to_string(root.join(paths[at])) {
            Ok(text) => Some(text.parse().unwrap()),
            // What `link` led to may be gone by the time that it is followed.
            Err(error) if paths[at] == "link" => {
                assert_eq!(errno(&error), Errno::NOENT);
                None
            }
            Err(error) => {
                let errors = [Errno::NOENT, Errno::NOTDIR, Errno::ISDIR];
                assert!(at >= 6 && errors.contains(&errno(&error)), "{}: {error}", paths[at]);
                None
            }
        },
    }
}

#[test]
fn who_has_seen_a_version_never_sees_an_older_one() {
    const SWITCHES: u64 = 400;
    let mount = Mount::new(version(numbered(1), 1));
    let (shown, done) = (AtomicU64::new(1), AtomicBool::new(false));
    // The newest that any walk has given, by anyone.
    let seen = AtomicU64::new(1);
    let (walks, useful) = (AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        for reader in 0..4 {
            let (root, shown, done, seen, walks, useful) = (mount.root(), &shown, &done, &seen, &walks, &useful);
            scope.spawn(move || {
                let mut way: u64 = reader;
                while !done.load(Ordering::SeqCst) {
                    way = way.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    let least = seen.load(Ordering::SeqCst).max(shown.load(Ordering::SeqCst));
                    walks.fetch_add(1, Ordering::Relaxed);
                    if let Some(got) = walk(&root, way >> 33) {
                        assert!(got >= least, "walk {} gave {got} after {least}", (way >> 33) % 11);
                        seen.fetch_max(got, Ordering::SeqCst);
                        useful.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        for seq in 2..=SWITCHES {
            mount.show(version(numbered(seq), seq));
            // From the end of the switch on nobody may see what was before.
            shown.store(seq, Ordering::SeqCst);
            if seq.is_multiple_of(3) {
                let before = useful.load(Ordering::Relaxed);
                wait_until("readers read", || useful.load(Ordering::Relaxed) >= before + 20);
            }
        }
        done.store(true, Ordering::SeqCst);
    });
    let (walks, useful) = (walks.into_inner(), useful.into_inner());
    println!("{walks} walks through {SWITCHES} versions, {useful} of them gave one");
    assert!(useful >= SWITCHES);
}

#[test]
fn an_open_file_and_a_map_stay_on_their_version() {
    let text = |seq: u64| noise(seq, 3_000_000);
    let items = |seq| vec![Item::file("d/file", text(seq)), Item::file("file", text(seq))];
    let first = made(items(1), 1, Mode::Swarm);
    let mount = Mount::new(first.version.clone());
    let open = [File::open(mount.path("file")).unwrap(), File::open(mount.path("d/file")).unwrap()];
    let mut head = [0; 100];
    open[0].read_exact_at(&mut head, 0).unwrap();
    // A program that maps the file, reads the first page of it, and the others when it is told to.
    let script = "import mmap,sys
f = open(sys.argv[1], 'rb'); m = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)
m[0]; print('mapped', flush=True); sys.stdin.readline(); sys.stdout.buffer.write(m[:])";
    let mut python = Command::new("python3");
    python.args(["-c", script]).arg(mount.path("d/file")).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut program = python.spawn().unwrap();
    let mut output = program.stdout.take().unwrap();
    output.read_exact(&mut [0; 7]).unwrap();

    for seq in 2..5 {
        mount.show(version(items(seq), seq));
        assert!(fs::read(mount.path("file")).unwrap() == text(seq));
        assert!(fs::read(mount.path("d/file")).unwrap() == text(seq));
    }
    for file in &open {
        let mut bytes = vec![0; 3_000_000];
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert!(bytes == text(1), "an open file has changed");
    }
    drop(program.stdin.take());
    let mut mapped = Vec::new();
    output.read_to_end(&mut mapped).unwrap();
    assert!(mapped == text(1), "a map has changed");
    assert!(program.wait().unwrap().success());
    drop(open);
    wait_until("everything is closed", || first.content.open_readers() == 0);
}

#[test]
fn an_open_directory_stays_on_its_version() {
    let mount = Mount::new(version(numbered(1), 1));
    let dir = File::open(mount.path("d")).unwrap();
    let listed_late = File::open(mount.root()).unwrap();
    // A program that has its working directory in a directory below.
    let script = "read line; cat y ../../x; ls ..";
    let mut shell = Command::new("sh");
    shell.args(["-c", script]).current_dir(mount.path("d/deep/er")).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut program = shell.spawn().unwrap();
    for seq in 2..6 {
        mount.show(version(numbered(seq), seq));
        assert_eq!(mount.text("d/x"), seq.to_string());
    }
    assert_eq!((text_at(&dir, "x"), text_at(&dir, "deep/er/y")), ("1".into(), "1".into()));
    assert_eq!(open_at(&dir, "none").unwrap_err(), Errno::NOENT);
    drop(program.stdin.take());
    let mut output = String::new();
    program.stdout.take().unwrap().read_to_string(&mut output).unwrap();
    program.wait().unwrap();
    assert_eq!(output, "11er\n");

    // A root that was opened before lists what was there; what its names lead to is the mount's.
    let list = |root: &File| {
        // Not `read_from`, which opens the directory anew.
        let mut dir = rustix::fs::Dir::new(root.try_clone().unwrap()).unwrap();
        dir.rewind();
        dir.map(|entry| entry.unwrap().file_name().to_owned()).collect::<Vec<CString>>()
    };
    assert!(list(&listed_late).contains(&c"only-1".to_owned()));
    assert!(list(&File::open(mount.root()).unwrap()).contains(&c"only-5".to_owned()));
    for _ in 0..3 {
        list(&listed_late);
        assert_eq!([mount.text("a"), mount.text("d/x"), text_at(&listed_late, "b")], ["5", "5", "5"]);
    }
    assert_eq!(fs::metadata(mount.path("only-1")).unwrap_err().kind(), io::ErrorKind::NotFound);
    // Nor does such a listing take the new directory out of its place.
    let new = File::open(mount.path("d")).unwrap();
    list(&listed_late);
    let place = fs::read_link(format!("/proc/self/fd/{}", new.as_fd().as_raw_fd())).unwrap();
    assert_eq!(place, mount.path("d"));
}

#[test]
fn what_does_not_change_keeps_its_number_and_its_pages() {
    let big = noise(1, 1_000_000);
    let items = |seq: u64| {
        vec![
            Item::file("changes", seq.to_string().into_bytes()),
            Item::file("d/changes", seq.to_string().into_bytes()),
            Item::file("d/stays", big.clone()),
            Item::file("whole/stays", big.clone()),
            Item::file("stays", big.clone()),
            Item::symlink("link", "stays"),
        ]
    };
    let first = made(items(1), 1, Mode::Cached);
    let mount = Mount::new(first.version.clone());
    let stays = ["stays", "d/stays", "whole/stays", "whole", "link"];
    let changes = ["changes", "d/changes", "d"];
    for path in &stays[..3] {
        assert!(fs::read(mount.path(path)).unwrap() == big);
    }
    let numbers = |paths: &[&str]| paths.iter().map(|path| mount.ino(path)).collect::<Vec<_>>();
    let mut before = (numbers(&stays), numbers(&changes));
    let mtime = fs::metadata(mount.path("stays")).unwrap().mtime();
    first.content.take_asked();
    for seq in 2..20 {
        let next = made(items(seq), seq, Mode::Cached);
        mount.show(next.version.clone());
        for path in &stays[..3] {
            assert!(fs::read(mount.path(path)).unwrap() == big);
        }
        assert_eq!((first.content.take_asked(), next.content.take_asked()), (vec![], vec![]), "pages are kept");
        let after = (numbers(&stays), numbers(&changes));
        assert_eq!(after.0, before.0);
        assert!(after.1.iter().zip(&before.1).all(|(after, before)| after != before));
        assert_eq!(mount.text("d/changes"), seq.to_string());
        before = after;
    }
    assert_eq!(fs::metadata(mount.path("stays")).unwrap().mtime(), mtime);
}

#[test]
fn pages_outlive_versions_that_nobody_reads() {
    let big = noise(1, 300_000);
    let items = |top: u64, below: u64| {
        let text = |number: u64| number.to_string().into_bytes();
        vec![Item::file("d/e/stays", big.clone()), Item::file("d/new", text(below)), Item::file("top", text(top))]
    };
    let mount = Mount::new(version(items(1, 1), 1));
    assert!(fs::read(mount.path("d/e/stays")).unwrap() == big);
    // What changes is below the directory, then only beside it, then below it again.
    mount.show(version(items(2, 2), 2));
    mount.show(version(items(3, 2), 3));
    let last = made(items(4, 4), 4, Mode::Failing);
    mount.show(last.version.clone());
    assert!(fs::read(mount.path("d/e/stays")).unwrap() == big);
    assert_eq!(last.content.take_asked(), []);
}

#[test]
fn names_come_and_go_at_once() {
    let items = |names: &[&'static str]| names.iter().map(|name| Item::file(*name, *name)).collect::<Vec<_>>();
    let mount = Mount::new(version(items(&["a", "d/a"]), 1));
    let absent = |path: &str| match fs::metadata(mount.path(path)) {
        Ok(_) => false,
        Err(error) => {
            assert!(matches!(errno(&error), Errno::NOENT | Errno::NOTDIR));
            true
        }
    };
    for round in 0..20u64 {
        assert!(absent("b") && absent("d/b") && absent("b/c") && !absent("a") && !absent("d/a"));
        assert_eq!(names(&mount.root()), ["a", "d"]);
        mount.show(version(items(&["b/c", "d/b"]), 2 * round + 2));
        assert_eq!([mount.text("b/c"), mount.text("d/b")], ["b/c", "d/b"]);
        assert!(absent("a") && absent("d/a"));
        assert_eq!(names(&mount.root()), ["b", "d"]);
        assert_eq!(names(&mount.path("d")), ["b"]);
        mount.show(version(items(&["a", "d/a"]), 2 * round + 3));
    }
}

#[test]
fn every_version_is_below_the_hidden_directory() {
    let dataset = Arc::new(Versions::default());
    let first = version(numbered(1), 1);
    dataset.put(1, Some(first.clone()));
    let mount = Mount::of(first.clone(), Some(Arc::clone(&dataset) as _));
    assert!(!names(&mount.root()).contains(&".knot".into()));
    assert_eq!(names(&mount.path(".knot")), ["current", "status", "versions"]);
    assert_eq!(names(&mount.path(".knot/versions")), ["1"]);
    assert_eq!(fs::read_link(mount.path(".knot/current")).unwrap(), Path::new("versions/1"));
    assert_eq!(fs::metadata(mount.path(".knot/versions/2")).unwrap_err().kind(), io::ErrorKind::NotFound);

    // Known, but not here.
    dataset.put(2, None);
    assert_eq!(names(&mount.path(".knot/versions")), ["1", "2"]);
    assert!(fs::metadata(mount.path(".knot/versions/2")).unwrap().is_dir());
    assert_eq!(xattr(&mount.path(".knot/versions/2"), "user.knot.seq").unwrap(), "2");
    assert!(dataset.asked.lock().unwrap().is_empty());
    for _ in 0..2 {
        assert_eq!(errno(&fs::read_dir(mount.path(".knot/versions/2")).unwrap_err()), Errno::AGAIN);
        assert_eq!(errno(&fs::read(mount.path(".knot/versions/2/only-2")).unwrap_err()), Errno::AGAIN);
    }
    assert!(dataset.asked.lock().unwrap().contains(&2), "asking has it fetched");
    let second = version(numbered(2), 2);
    dataset.put(2, Some(second.clone()));
    assert_eq!(mount.text(".knot/versions/2/only-2"), "2");
    assert_eq!(mount.text(".knot/current/a"), "2");
    assert_eq!(mount.text("a"), "1");

    let inside = open_at(File::open(mount.path(".knot/versions/1")).unwrap(), "d").unwrap();
    mount.show(second);
    for path in ["a", "d/deep/er/y", "link", "kind/file"] {
        assert_eq!(mount.text(&format!(".knot/versions/1/{path}")), "1");
    }
    assert_eq!(text_at(&inside, "x"), "1");
    assert_eq!([mount.text("a"), mount.text(".knot/versions/2/kind")], ["2", "2"]);
    assert_eq!(mount.ino("same"), mount.ino(".knot/versions/1/same"), "one file, two names");
    assert_ne!(mount.ino("e"), mount.ino(".knot/versions/2/e"));
    let listed = |path: &str| names(&mount.path(path));
    assert_eq!(listed("d"), listed(".knot/versions/2/d"));
    assert!(listed(".knot/versions/1").contains(&"only-1".into()));
    assert_eq!(fs::write(mount.path(".knot/versions/1/a"), "").unwrap_err().kind(), io::ErrorKind::ReadOnlyFilesystem);
    let find = Command::new("find").arg(mount.path(".knot/versions")).args(["-type", "f"]).output().unwrap();
    assert!(find.status.success());
    assert_eq!(find.stdout.iter().filter(|byte| **byte == b'\n').count(), 18);
}

#[test]
fn attributes_tell_the_version() {
    let dataset = Arc::new(Versions::default());
    let first = version(numbered(1), 1);
    let mount = Mount::of(first.clone(), Some(Arc::clone(&dataset) as _));
    let root = |name: &str| xattr(&mount.root(), &format!("user.knot.{name}"));
    assert_eq!(root("seq").unwrap(), "1");
    assert_eq!(root("infohash").unwrap(), first.metainfo.info_hash().to_string());
    assert_eq!(root("origin").unwrap(), "09".repeat(64));
    assert_eq!(root("signed_at").unwrap(), "1700000001");
    assert_eq!(root("checked_at").unwrap(), "1800000000");
    assert_eq!(root("infosig"), Err(Errno::NODATA), "it is not signed");
    let second = version(numbered(2), 2);
    mount.show(second.clone());
    assert_eq!(root("seq").unwrap(), "2");
    assert_eq!(root("infohash").unwrap(), second.metainfo.info_hash().to_string());
    // The same content, published again.
    mount.show(Version { release: Some(Release { seq: 7, ..second.release.clone().unwrap() }), ..second });
    assert_eq!((root("seq").unwrap(), mount.text("a")), ("7".into(), "2".into()));
    let status: serde_json::Value = serde_json::from_str(&mount.text(".knot/status")).unwrap();
    assert_eq!((&status["seq"], &status["checked_at"]), (&7.into(), &1_800_000_000.into()));
    dataset.put(3, Some(first));
    let third = mount.path(".knot/versions/3");
    assert_eq!(xattr(&third, "user.knot.infosig").unwrap(), "03".repeat(64));
    assert_eq!(xattr(&third, "user.knot.signed_at").unwrap(), "3");
    assert_eq!(xattr(&third, "user.knot.origin"), Err(Errno::NODATA));
}

#[test]
fn a_mount_that_waits_is_filled_and_goes_on() {
    let dataset = Arc::new(Versions::default());
    let mount = Mount::with(|at, options| {
        let waits_for = Box::new(|| "the first".to_owned());
        let dataset = Some(Arc::clone(&dataset) as Arc<dyn Dataset>);
        FuseMounter.mount_empty(Pending { info_id: "09".into(), waits_for, dataset }, at, options).unwrap()
    });
    assert_eq!(xattr(&mount.root(), "user.knot.waits_for").unwrap(), "the first");
    assert_eq!(fs::metadata(mount.path("a")).unwrap_err().kind(), io::ErrorKind::NotFound);
    assert_eq!(names(&mount.path(".knot")), ["status", "versions"]);
    let inside = File::open(mount.root()).unwrap();
    for seq in 1..4 {
        mount.show(version(numbered(seq), seq));
        assert_eq!([mount.text("a"), text_at(&inside, "d/x")], [seq.to_string(), seq.to_string()]);
        assert_eq!(xattr(&mount.root(), "user.knot.waits_for"), Err(Errno::NODATA));
    }
    let mtime = |path: &str| fs::metadata(mount.path(path)).unwrap().mtime();
    assert_eq!(mtime(""), mtime("a"));
}

#[test]
fn a_thousand_switches_are_quick_and_leave_nothing_open() {
    let items = |seq: u64| {
        let mut items = numbered(seq);
        items.extend((0..50).map(|at| Item::file(format!("many/{at}"), "x")));
        items
    };
    let first = made(items(1), 1, Mode::Cached);
    let mount = Mount::new(first.version.clone());
    let weak = Arc::downgrade(&first.content);
    drop(first);
    let started = Instant::now();
    for seq in 2..1000 {
        mount.show(version(items(seq), seq));
        assert_eq!(mount.text("d/deep/er/y"), seq.to_string());
        assert_eq!(mount.text("many/7"), "x");
    }
    println!("1,000 switches took {:?}", started.elapsed());
    wait_until("the kernel forgets the first version", || weak.upgrade().is_none());
}

#[test]
fn a_mount_is_unmounted_while_it_switches() {
    for round in 0..20u64 {
        let mut mount = Mount::new(version(numbered(1), 1));
        let mounted: Arc<dyn Mounted> = Arc::from(mount.mounted.take().unwrap());
        let (root, other) = (mount.root(), Arc::clone(&mounted));
        let done = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&done);
        let switching = thread::spawn(move || {
            let mut seq = 2;
            while !stop.load(Ordering::SeqCst) {
                // Once it is unmounted there is nothing to switch.
                if other.show(version(numbered(seq), seq)).is_err() {
                    break;
                }
                seq += 1;
            }
        });
        let walker = thread::spawn({
            let (root, stop) = (root.clone(), Arc::clone(&done));
            move || {
                while !stop.load(Ordering::SeqCst) {
                    let _ = fs::read(root.join("d/deep/er/y"));
                }
            }
        });
        thread::sleep(std::time::Duration::from_millis(10 + round));
        assert!(Command::new("umount").arg("-l").arg(&root).status().unwrap().success());
        done.store(true, Ordering::SeqCst);
        switching.join().unwrap();
        walker.join().unwrap();
        assert!(!mounted.is_alive());
    }
}

#[test]
fn what_was_absent_is_found_through_a_root_that_was_open_before() {
    let mount = Mount::new(version(numbered(1), 1));
    let root = File::open(mount.root()).unwrap();
    for seq in 2..50 {
        assert!(rustix::fs::statat(&root, format!("only-{seq}"), AtFlags::empty()).is_err());
        mount.show(version(numbered(seq), seq));
        assert!(rustix::fs::statat(&root, format!("only-{seq}"), AtFlags::empty()).is_ok());
        assert!(rustix::fs::statat(&root, format!("only-{}", seq - 1), AtFlags::empty()).is_err());
    }
}
