//! Programs that read while versions come: each byte is of a version that was published, and of one only.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use sha2::{Digest, Sha256};

use crate::world::{World, shows};

const VERSIONS: u64 = 200;
pub(crate) const FILES: u64 = 6;

/// The bytes of file `at` in version `seq`: they say which they are, and nothing of them is in another version.
pub(crate) fn content(seq: u64, at: u64) -> Vec<u8> {
    let head = format!("{seq} {at}\n");
    let line = format!("{}\n", hex::encode(Sha256::digest(format!("{seq} {at}"))));
    let len = (100 + (seq * 7919 + at * 104_729) % 60_000) as usize;
    let mut bytes = head.into_bytes();
    while bytes.len() < len {
        bytes.extend_from_slice(line.as_bytes());
    }
    bytes
}

pub(crate) fn path(at: u64) -> String {
    if at.is_multiple_of(2) { format!("{at}") } else { format!("d/e/{at}") }
}

pub(crate) fn write(world: &World, seq: u64) {
    (0..FILES).for_each(|at| world.write(&path(at), &content(seq, at)));
}

/// The version that the bytes of a file are of, if they are of one.
pub(crate) fn version_of(bytes: &[u8], at: u64) -> u64 {
    let head = bytes.split(|byte| *byte == b'\n').next().unwrap();
    let head = std::str::from_utf8(head).unwrap();
    let seq = head.split(' ').next().unwrap().parse().unwrap_or_else(|_| panic!("{head:?}"));
    assert!(bytes == content(seq, at), "the bytes of file {at} are not those of version {seq}");
    seq
}

/// What the readers have seen.
#[derive(Default)]
struct Seen {
    /// The newest version, by whomever.
    newest: AtomicU64,
    files: AtomicU64,
    done: AtomicBool,
}

impl Seen {
    fn go_on(&self) -> bool {
        !self.done.load(Ordering::SeqCst)
    }

    /// A way from the root has led to a version, where `least` was seen before it began.
    fn saw(&self, seq: u64, least: u64) {
        assert!(seq >= least, "version {seq} after {least}");
        self.newest.fetch_max(seq, Ordering::SeqCst);
        self.files.fetch_add(1, Ordering::Relaxed);
    }

    /// Whole files, one after the other.
    fn verify(&self, root: &Path) {
        for at in (0..FILES).cycle() {
            if !self.go_on() {
                return;
            }
            let least = self.newest.load(Ordering::SeqCst);
            self.saw(version_of(&fs::read(root.join(path(at))).unwrap(), at), least);
        }
    }

    /// Files that stay open while versions come, and are read to the end then.
    fn hold(&self, root: &Path) {
        for at in (0..FILES).cycle() {
            if !self.go_on() {
                return;
            }
            let least = self.newest.load(Ordering::SeqCst);
            let mut file = File::open(root.join(path(at))).unwrap();
            let mut bytes = vec![0; 64];
            file.read_exact(&mut bytes).unwrap();
            let seen = self.newest.load(Ordering::SeqCst);
            while self.go_on() && self.newest.load(Ordering::SeqCst) < seen + 3 {
                thread::yield_now();
                thread::sleep(std::time::Duration::from_millis(5));
            }
            file.read_to_end(&mut bytes).unwrap();
            let mut again = vec![0; bytes.len()];
            file.read_exact_at(&mut again, 0).unwrap();
            assert!(again == bytes, "an open file has changed");
            self.saw(version_of(&bytes, at), least);
        }
    }
}

/// Maps files, waits while versions come, and reads the maps to the end, until its standard input ends. Prints how
/// many.
const MAPPER: &str = "
import hashlib, mmap, os, select, sys, time
count = 0
while not select.select([sys.stdin], [], [], 0)[0]:
    maps = []
    for name in sys.argv[2:]:
        with open(os.path.join(sys.argv[1], name), 'rb') as file:
            maps.append(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))
    heads = [bytes(m[:m.find(b'\\n')]) for m in maps]
    time.sleep(0.3)
    for m, head in zip(maps, heads):
        data, line = m[:], hashlib.sha256(head).hexdigest().encode() + b'\\n'
        body = data[len(head) + 1:]
        if data[:len(head) + 1] != head + b'\\n' or body != line * (len(body) // len(line)) or len(body) < 90:
            sys.exit('a map has changed: ' + repr(head))
        count += 1
        m.close()
print(count)";

#[test]
fn every_byte_is_of_one_version_through_two_hundred_of_them() {
    let world = World::new(&["--piece-length", "16KiB"], |world| write(world, 1));
    let serving = world.serve();
    let mount = world.mount("follower", &[&serving.addr], &[]);
    let mut python = Command::new("python3");
    python.args(["-c", MAPPER]).arg(&mount.at).args((0..FILES).map(path));
    let mut mapper = python.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let seen = Seen::default();
    thread::scope(|scope| {
        let readers = [
            scope.spawn(|| seen.verify(&mount.at)),
            scope.spawn(|| seen.verify(&mount.at)),
            scope.spawn(|| seen.hold(&mount.at)),
        ];
        for seq in 2..=VERSIONS {
            write(&world, seq);
            assert_eq!(world.update(), seq);
            // Mostly they come as they are published; now and then the mount is to have come along.
            if seq.is_multiple_of(20) {
                shows(&mount, seq);
            }
            if readers.iter().any(thread::ScopedJoinHandle::is_finished) {
                break;
            }
        }
        shows(&mount, VERSIONS);
        seen.done.store(true, Ordering::SeqCst);
    });
    (0..FILES).for_each(|at| assert_eq!(version_of(&fs::read(mount.at.join(path(at))).unwrap(), at), VERSIONS));
    drop(mapper.stdin.take());
    let mut counted = String::new();
    mapper.stdout.take().unwrap().read_to_string(&mut counted).unwrap();
    assert!(mapper.wait().unwrap().success(), "a map is wrong");
    let (files, maps) = (seen.files.into_inner(), counted.trim().parse::<u64>().unwrap());
    println!("{files} files and {maps} maps verified through {VERSIONS} versions");
    assert!(files > VERSIONS && maps > VERSIONS / 4);
}
