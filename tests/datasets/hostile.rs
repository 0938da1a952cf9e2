//! What strangers, copies of the publisher's key and a careless publisher can do to a follower.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use knot::metainfo::{CreateOptions, DatasetVersion, Entry, EntryKind, Metainfo, SecretKey, Source, TreePath, create};
use knot::types::{Digest, FileIndex, HashAlgorithm, InfoHash, InfoId, InfoSig, RecordParts};
use knot::updates::UpdateRecord;
use serde_json::{Value, json};

use crate::readers::{FILES, content, path, version_of, write};
use crate::support::clients::{Seed, free_port};
use crate::support::process::{Mount, both, finish, knot, status, wait_until};
use crate::teller::Teller;
use crate::world::{OFFLINE, World, crash, dataset, downloaded, fetched, shown, shows};

/// What a node may take at most.
const MAX_MEMORY_KIB: u64 = 300 << 10;

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64
}

fn hash(byte: u8) -> InfoHash {
    InfoHash(Digest::from([byte; 32]))
}

impl World {
    fn origin(&self) -> InfoSig {
        let Ok(InfoId::Sig(origin)) = self.sig.parse() else { panic!("{}", self.sig) };
        origin
    }

    /// What its key signs.
    fn record(&self, hash: InfoHash, seq: u64, signed_at: i64) -> UpdateRecord {
        UpdateRecord::sign(&self.key(), self.hash(1), hash, seq, signed_at).unwrap()
    }
}

/// The bytes of a record's value.
struct Fields<'a> {
    hash: &'a InfoHash,
    hash_sig: [u8; 64],
    key: [u8; 32],
    original_hash: &'a InfoHash,
    original: [u8; 64],
    seq: u64,
}

impl Fields<'_> {
    fn bytes(&self) -> Vec<u8> {
        let mut out = b"d".to_vec();
        let fields: [(&str, &[u8]); 5] = [
            ("ih", self.hash.as_bytes()),
            ("is", &self.hash_sig),
            ("k", &self.key),
            ("oh", self.original_hash.as_bytes()),
            ("os", &self.original),
        ];
        for (name, bytes) in fields {
            out.extend(format!("{}:{name}{}:", name.len(), bytes.len()).bytes());
            out.extend(bytes);
        }
        out.extend(format!("1:qi{}e1:ti{}ee", self.seq, now()).bytes());
        out
    }

    /// With the signature that `sign` makes of what is to be signed.
    fn parts(&self, sign: impl FnOnce(&[u8]) -> [u8; 64]) -> RecordParts {
        use sha1::Digest as _;
        let (value, salt) = (self.bytes(), sha1::Sha1::digest(self.original).into());
        let mut buffer = b"4:salt20:".to_vec();
        buffer.extend(salt);
        buffer.extend(format!("3:seqi{}e1:v{}:", self.seq, value.len()).bytes());
        buffer.extend(&value);
        RecordParts { key: self.key, salt, seq: self.seq as i64, signature: sign(&buffer), value }
    }
}

/// A key of order 1, and a signature that a careless check takes for one by it, of anything.
const WEAK_KEY: [u8; 32] = {
    let mut bytes = [0; 32];
    bytes[0] = 1;
    bytes
};
const WEAK_SIGNATURE: [u8; 64] = {
    let mut bytes = [0; 64];
    bytes[0] = 1;
    bytes
};

fn walk(mount: &Mount) -> Vec<u64> {
    (0..FILES).map(|at| version_of(&fs::read(mount.at.join(path(at))).unwrap(), at)).collect()
}

/// Versions 1 to `versions`, published.
fn published(versions: u64) -> World {
    let world = World::new(&["--piece-length", "16KiB"], |world| write(world, 1));
    for seq in 2..=versions {
        write(&world, seq);
        assert_eq!(world.update(), seq);
    }
    world
}

fn bad_records(world: &World) -> Vec<RecordParts> {
    let (key, stranger) = (world.key(), SecretKey::from_seed(&[66; 32]));
    let (one, two) = (world.hash(1), world.hash(2));
    let good = world.record(two, 2, now()).parts();
    let forged_outside = RecordParts { seq: 9, ..good.clone() };
    let text = String::from_utf8_lossy(&good.value).into_owned();
    assert!(text.contains("1:qi2e"));
    let at = good.value.windows(6).position(|part| part == b"1:qi2e").unwrap();
    let mut value = good.value.clone();
    value[at + 4] = b'9';
    let forged = RecordParts { seq: 9, value: value.clone(), ..good.clone() };
    let forged_inside = RecordParts { value, ..good.clone() };
    let sibling = UpdateRecord::sign(&key, hash(7), one, 9, now()).unwrap().parts();
    let sibling_of_this_salt = RecordParts { salt: good.salt, ..sibling.clone() };
    let others = Fields {
        hash: &one,
        hash_sig: stranger.sign(&one).0,
        key: stranger.public().0,
        original_hash: &one,
        original: world.origin().0,
        seq: 9,
    };
    let by_another_key = others.parts(|buffer| stranger.sign_bytes(buffer));
    // The key is the right one, but not that of the signatures.
    let unsigned = Fields { key: key.public().0, ..others }.parts(|buffer| stranger.sign_bytes(buffer));
    let weak = Fields {
        hash: &one,
        hash_sig: WEAK_SIGNATURE,
        key: WEAK_KEY,
        original_hash: &one,
        original: world.origin().0,
        seq: 9,
    };
    let weak = weak.parts(|_| WEAK_SIGNATURE);
    let from_the_future = world.record(one, 9, now() + 2 * 3600).parts();
    let bad = vec![
        forged_outside,
        forged,
        forged_inside,
        sibling,
        sibling_of_this_salt,
        by_another_key,
        unsigned,
        weak,
        from_the_future,
    ];
    for parts in &bad[..8] {
        assert!(UpdateRecord::verify(parts, &world.origin()).is_err());
    }
    bad
}

#[test]
fn only_good_records_are_followed_and_a_fork_is_shown_and_outlives_the_node() {
    let world = published(2);
    let serving = world.serve();
    let mount = world.mount("follower", &[&serving.addr], &[]);
    shows(&mount, 2);
    assert_eq!(walk(&mount), [2; FILES as usize]);
    let mut teller = Teller::meet(&mount, &world.sig);
    bad_records(&world).iter().for_each(|parts| teller.tell(parts).unwrap());
    // What came before it has been looked at when this one is followed: back to version 1.
    teller.tell(&world.record(world.hash(1), 3, now()).parts()).unwrap();
    shows(&mount, 3);
    assert_eq!(walk(&mount), [1; FILES as usize]);
    let state = dataset(&mount);
    assert_eq!((&state["newest"]["seq"], &state["versions"], &state["conflicts"]), (&3.into(), &3.into(), &json!([])));
    let warnings = mount.status()["warnings"].to_string();
    assert!(warnings.contains("version 9 is signed at a time that has not come"), "{warnings}");

    let fork = world.record(world.hash(2), 3, now() - 5);
    teller.tell(&fork.parts()).unwrap();
    wait_until("the fork is noticed", || !dataset(&mount)["conflicts"].as_array().unwrap().is_empty());
    teller.tell(&world.record(world.hash(2), 2, now()).parts()).unwrap();
    let is_forked = |mount: &Mount| {
        assert_eq!(shown(mount), 3);
        assert_eq!(walk(mount), [1; FILES as usize]);
        let state = dataset(mount);
        assert_eq!(state["newest"]["info_hash"], world.hash(1).to_string().as_str());
        assert_eq!(state["conflicts"].as_array().unwrap().len(), 1, "{state}");
        assert_eq!(state["conflicts"][0]["info_hash"], world.hash(2).to_string().as_str());
    };
    is_forked(&mount);
    let (at, store) = crash(mount);
    let mount = Mount::new(&world.sig, &at, &store, &[&serving.addr], &[]);
    is_forked(&mount);
}

#[test]
fn a_dataset_of_a_weak_key_has_no_versions() {
    let world = published(1);
    let origin = hex::encode(WEAK_SIGNATURE);
    let one = world.hash(1);
    let weak = Fields {
        hash: &one,
        hash_sig: WEAK_SIGNATURE,
        key: WEAK_KEY,
        original_hash: &one,
        original: WEAK_SIGNATURE,
        seq: 2,
    };
    let parts = weak.parts(|_| WEAK_SIGNATURE);
    let serving = world.serve();
    let addr = SocketAddr::from(([127, 0, 0, 1], free_port("127.0.0.1")));
    fs::create_dir(world.path("mnt")).unwrap();
    let mut command = knot(&world.path("follower"));
    command.arg("mount").arg(&origin).arg(world.path("mnt")).args(["--peer", &serving.addr, "--timeout", "5s"]);
    let mounting = command.args(["--listen", &addr.to_string()]).args(OFFLINE);
    let output = std::thread::scope(|scope| {
        let ended = scope.spawn(|| finish(mounting));
        let mut teller = None;
        wait_until("the node is there", || {
            teller = Teller::dial(addr, &origin);
            teller.is_some() || ended.is_finished()
        });
        teller.expect("a node that searches takes peers").tell(&parts).unwrap();
        ended.join().unwrap()
    });
    assert_eq!(output.status.code(), Some(3), "{}", both(&output));
}

/// The publisher of before, restored from a backup.
#[test]
fn who_knows_older_versions_only_never_moves_a_mount_back() {
    let world = published(1);
    let copied = Command::new("cp").arg("-r").arg(world.path("store")).arg(world.path("stale")).status().unwrap();
    assert!(copied.success());
    let mut serving = world.serve();
    let mount = world.mount("follower", &[&serving.addr], &[]);
    for seq in 2..=3 {
        write(&world, seq);
        assert_eq!(world.update(), seq);
    }
    shows(&mount, 3);
    assert_eq!(walk(&mount), [3; FILES as usize]);
    let mut teller = Teller::meet(&mount, &world.sig);
    for seq in [1, 2] {
        teller.tell(&world.record(world.hash(seq), seq, now()).parts()).unwrap();
    }
    assert_eq!((shown(&mount), walk(&mount)), (3, vec![3; FILES as usize]));
    // What was verified is remembered durably within 100 ms; after the crash nobody is there to send it again.
    std::thread::sleep(Duration::from_secs(1));
    let (at, store) = crash(mount);
    serving.kill();
    let stale = world.serve_as("stale", &OFFLINE);
    let mount = Mount::new(&world.sig, &at, &store, &[&stale.addr], &[]);
    wait_until("the stale one is met", || dataset(&mount)["followers"].as_u64().unwrap() > 0);
    // It is the stale one that learns.
    wait_until("the stale one has heard", || status(&world.path("stale"))["datasets"][0]["newest"]["seq"] == 3);
    assert_eq!((shown(&mount), walk(&mount)), (3, vec![3; FILES as usize]));
}

/// One file in memory.
struct Text(Vec<u8>);

impl Source for Text {
    fn read_at(&self, _: FileIndex, offset: u64, buf: &mut [u8]) -> std::io::Result<()> {
        buf.copy_from_slice(&self.0[offset as usize..][..buf.len()]);
        Ok(())
    }

    fn check_unchanged(&self, _: FileIndex) -> std::io::Result<()> {
        Ok(())
    }
}

/// A signed metainfo of the directory `dir` with the one file `text`, that says to be `version`.
fn signed(world: &World, dir: &Path, text: &str, version: DatasetVersion) -> Metainfo {
    fs::create_dir_all(dir).unwrap();
    fs::write(dir.join("text"), text).unwrap();
    let kind = EntryKind::File { length: text.len() as u64, root: None, executable: false };
    let entries = vec![Entry { path: TreePath::new("text").unwrap(), kind }];
    let options = CreateOptions {
        name: "data".into(),
        algorithm: HashAlgorithm::Sha256Merkle,
        piece_length: Some(16 << 10),
        created_at: None,
        peers: Vec::new(),
        version: Some(version),
    };
    let go_on = |_| std::ops::ControlFlow::Continue(());
    let made = create(&options, entries, &Text(text.as_bytes().to_vec()), &go_on).unwrap().sign(&world.key()).unwrap();
    fs::write(dir.with_extension("knot"), made.bytes()).unwrap();
    made
}

fn seeds(world: &World, name: &str, addr: &str) -> Seed {
    let dir = world.path(name);
    Seed::start(&dir, &dir.with_extension("knot"), addr, &world.path(&format!("{name}-store")), &OFFLINE)
}

fn problem(mount: &Mount) -> String {
    dataset(mount)["problem"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn a_version_that_says_to_be_another_is_not_shown_and_is_published_over() {
    let world = published(1);
    let serving = world.serve();
    let (origin, other) = (world.origin(), InfoSig([9; 64]));
    let number = signed(&world, &world.path("number"), "wrong number", DatasetVersion { origin, seq: 7 });
    let of_other = signed(&world, &world.path("other"), "wrong dataset", DatasetVersion { origin: other, seq: 3 });
    let seeds = [seeds(&world, "number", "127.0.61.1"), seeds(&world, "other", "127.0.61.2")];
    let [one, two] = [seeds[0].addr.to_string(), seeds[1].addr.to_string()];
    let peers = [serving.addr.as_str(), &one, &two];
    let mount = world.mount("follower", &peers, &[]);
    let mut teller = Teller::meet(&mount, &world.sig);
    teller.tell(&world.record(number.info_hash(), 2, now()).parts()).unwrap();
    wait_until("it is said", || problem(&mount).contains("expected version 2 of"));
    assert!(problem(&mount).contains("says to be version 7"), "{}", problem(&mount));
    teller.tell(&world.record(of_other.info_hash(), 3, now()).parts()).unwrap();
    wait_until("it is said", || problem(&mount).contains("says to be of dataset 0909"));
    assert_eq!((shown(&mount), walk(&mount)), (1, vec![1; FILES as usize]));
    let (at, store) = crash(mount);
    let mount = Mount::new(&world.sig, &at, &store, &peers, &[]);
    assert_eq!((shown(&mount), walk(&mount)), (1, vec![1; FILES as usize]));
    // The publisher hears of them, too, and goes on if it is told to.
    write(&world, 4);
    wait_until("the publisher has heard", || status(&world.path("store"))["datasets"][0]["newest"]["seq"] == 3);
    let refused = finish(&mut world.publishing("store", &[]));
    assert!(!refused.status.success() && both(&refused).contains("--over-missing"), "{}", both(&refused));
    assert_eq!(world.update_as(&["--over-missing"]), 4);
    shows(&mount, 4);
    assert_eq!(walk(&mount), [4; FILES as usize]);
    assert_eq!(dataset(&mount)["problem"], Value::Null);
}

#[test]
fn a_version_that_nobody_has_is_waited_for() {
    let world = published(1);
    let serving = world.serve();
    let later = format!("127.0.62.1:{}", free_port("127.0.62.1"));
    let version = DatasetVersion { origin: world.origin(), seq: 2 };
    let metainfo = signed(&world, &world.path("late"), "it is late", version);
    let mount = world.mount("follower", &[&serving.addr, &later], &["--timeout", "2s"]);
    let mut teller = Teller::meet(&mount, &world.sig);
    teller.tell(&world.record(metainfo.info_hash(), 2, now()).parts()).unwrap();
    wait_until("it is said", || problem(&mount).contains("expected the metainfo of"));
    assert_eq!((shown(&mount), walk(&mount)), (1, vec![1; FILES as usize]));
    assert_eq!(dataset(&mount)["newest"]["seq"], 2);
    let _seed = seeds(&world, "late", &later);
    shows(&mount, 2);
    assert_eq!(fs::read_to_string(mount.at.join("text")).unwrap(), "it is late");
    assert_eq!(dataset(&mount)["problem"], Value::Null);
}

#[test]
fn a_thousand_updates_at_once_are_followed_to_the_last() {
    const UPDATES: u64 = 1000;
    let world = published(2);
    let serving = world.serve();
    let mount = world.mount("follower", &[&serving.addr], &[]);
    walk(&mount);
    // Back and forth between the two versions.
    let hash = |seq: u64| world.hash(1 + seq % 2);
    let key = world.key();
    let sign = |seq| UpdateRecord::sign(&key, world.hash(1), hash(seq), seq, now()).unwrap().parts();
    let records: Vec<_> = (3..3 + UPDATES).map(sign).collect();
    let last = 2 + UPDATES;
    let mut teller = Teller::meet(&mount, &world.sig);
    let mut looks = 0;
    for record in &records {
        teller.tell(record).expect("the follower still listens");
    }
    wait_until("the last one is shown", || {
        looks += 1;
        let got = walk(&mount);
        assert!(got.iter().all(|got| [1, 2].contains(got)), "{got:?}");
        shown(&mount) == last
    });
    assert_eq!(walk(&mount), [1 + last % 2; FILES as usize]);
    let memory = memory_kib(&mount);
    println!("{UPDATES} updates: {looks} looks until the last one, {memory} KiB of memory");
    assert!(memory < MAX_MEMORY_KIB, "{memory} KiB");
}

/// The most memory that the node behind a mount has taken.
fn memory_kib(mount: &Mount) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", mount.node_pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// As many as can be published in a few seconds without optimization.
#[test]
fn of_many_files_one_changes() {
    const MANY: u64 = 20_000;
    let name = |at: u64| format!("{:02}/{at}", at % 100);
    let world = World::new(&["--snapshot", "none"], |world| {
        (0..MANY).for_each(|at| world.write(&name(at), format!("file {at}").as_bytes()));
    });
    let serving = world.serve();
    let mount = world.mount("follower", &[&serving.addr], &[]);
    let read = |at| fs::read(mount.at.join(name(at))).unwrap();
    (0..MANY).step_by(1000).for_each(|at| assert_eq!(read(at), format!("file {at}").into_bytes()));
    let before = downloaded(&mount);
    let text = content(2, 0);
    world.write(&name(7000), &text);
    let seq = world.update_as(&["--snapshot", "none"]);
    shows(&mount, seq);
    assert_eq!(read(7000), text);
    for at in (0..MANY).step_by(1000).filter(|at| *at != 7000) {
        assert_eq!(read(at), format!("file {at}").into_bytes());
    }
    let (fetched, memory) = (fetched(&mount, &before), memory_kib(&mount));
    println!("one of {MANY} files: {fetched} bytes fetched, {} have changed; {memory} KiB of memory", text.len());
    assert!(fetched <= text.len() as u64 * 105 / 100 && memory < MAX_MEMORY_KIB);
}
