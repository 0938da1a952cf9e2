//! Publishing versions of a dataset with the real program: what it publishes, refuses, shows and keeps to itself.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[allow(dead_code, unreachable_pub)]
mod support;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;

use serde_json::Value;
use support::process::{PATIENCE, both, finish, knot, signal, wait_until};
use support::tree;

const OFFLINE: [&str; 4] = ["--discovery", "none", "--listen", "/ip4/127.0.0.1/tcp/0"];

/// A folder of ten files, a key and a store.
struct World {
    dir: tempfile::TempDir,
    secret: String,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("data/sub")).unwrap();
        let mut world = Self { dir, secret: String::new() };
        world.new_key("key");
        let text = fs::read_to_string(world.path("key")).unwrap();
        world.secret = text.split_whitespace().last().unwrap().to_owned();
        assert_eq!(world.secret.len(), 64);
        (0..9).for_each(|at| world.write(&format!("sub/{at}"), at, 1000));
        world.write("large", 100, 300_000);
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn new_key(&self, name: &str) {
        let made = finish(knot(&self.path("no-store")).args(["key", "new"]).arg(self.path(name)));
        assert!(made.status.success(), "{}", both(&made));
    }

    fn write(&self, name: &str, seed: u64, len: usize) {
        fs::write(self.path("data").join(name), tree::noise(seed, len)).unwrap();
    }

    fn remove(&self, numbers: std::ops::Range<u64>) {
        numbers.for_each(|at| fs::remove_file(self.path(&format!("data/sub/{at}"))).unwrap());
    }

    fn command(&self, store: &str, args: &[&str]) -> Command {
        let mut command = knot(&self.path(store));
        command.args(args).args(OFFLINE).current_dir(self.dir.path());
        command
    }

    /// Runs a command; nothing that it prints has the secret key in it.
    fn run(&self, store: &str, args: &[&str]) -> Ended {
        let output = finish(&mut self.command(store, args));
        assert!(!both(&output).contains(&self.secret), "a secret key was printed");
        Ended { shown: format!("knot {args:?}\n{}", both(&output)), output }
    }

    /// Publishes the folder, with more arguments.
    fn publish(&self, args: &[&str]) -> Ended {
        self.run("store", &[&["publish", "data", "--key", "key"], args].concat())
    }

    /// Publishes the first version; its InfoSig.
    fn first(&self) -> String {
        let sig = self.publish(&["--piece-length", "16KiB"]).ok();
        sig.trim_end().to_owned()
    }

    fn update(&self, sig: &str, args: &[&str]) -> Ended {
        self.publish(&[&["--update", sig], args].concat())
    }

    /// What publishing the folder as the next version would come to.
    fn plan(&self, sig: &str) -> Value {
        self.update(sig, &["--dry-run", "--json", "--max-delete", "100"]).json()
    }

    fn diff(&self, args: &[&str]) -> Value {
        self.run("store", &[&["diff", "--json"], args].concat()).json()
    }
}

struct Ended {
    output: Output,
    shown: String,
}

impl Ended {
    #[track_caller]
    fn ok(&self) -> String {
        assert!(self.output.status.success(), "{}", self.shown);
        String::from_utf8(self.output.stdout.clone()).unwrap()
    }

    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_str(&self.ok()).unwrap_or_else(|error| panic!("{error}: {}", self.shown))
    }

    fn notes(&self) -> String {
        String::from_utf8_lossy(&self.output.stderr).into_owned()
    }

    #[track_caller]
    fn says(self, expected: &str) -> Self {
        assert!(self.notes().contains(expected), "expected {expected:?}: {}", self.shown);
        self
    }

    #[track_caller]
    fn fails(self, code: i32, expected: &str) {
        assert_eq!(self.output.status.code(), Some(code), "{}", self.shown);
        assert!(self.output.stdout.is_empty(), "{}", self.shown);
        self.says(expected);
    }
}

fn paths<'a>(diff: &'a Value, list: &str) -> Vec<&'a str> {
    diff[list].as_array().unwrap().iter().map(|one| one["path"].as_str().unwrap()).collect()
}

#[test]
fn a_version_follows_the_other_under_one_name() {
    let world = World::new();
    let sig = world.first();
    assert!(sig.len() == 128 && sig.bytes().all(|byte| byte.is_ascii_hexdigit()), "{sig:?}");
    // The same once more is the same dataset.
    assert_eq!(world.publish(&["--piece-length", "16KiB"]).says("published already").ok().trim_end(), sig);

    world.write("added", 200, 5000);
    fs::rename(world.path("data/sub/3"), world.path("data/moved")).unwrap();
    world.remove(4..5);
    let mut large = tree::noise(100, 300_000).to_vec();
    large.extend_from_slice(b"appended");
    fs::write(world.path("data/large"), large).unwrap();
    let ended = world.update(&sig, &[]).says("1 added, 1 changed, 1 removed, 1 renamed");
    assert_eq!(ended.ok(), format!("{sig}\n"), "the InfoSig, alone on a line");

    let diff = world.diff(&[&sig]);
    assert_eq!((diff["from"].as_u64(), diff["to"].as_u64()), (Some(1), Some(2)));
    assert_eq!((paths(&diff, "added"), paths(&diff, "changed")), (vec!["added"], vec!["large"]));
    assert_eq!(paths(&diff, "removed"), ["sub/4"]);
    assert_eq!((&diff["renamed"][0]["from"], &diff["renamed"][0]["to"]), (&"sub/3".into(), &"moved".into()));
    // 300,008 bytes in pieces of 16 KiB: all but the last are there, and so are the other files.
    assert_eq!(diff["transfer_bytes"], 5000 + 300_008 % 16_384);
    let text = world.run("store", &["diff", &sig, "1", "2"]).ok();
    assert!(text.contains("+ \"added\"") && text.contains("> \"sub/3\" -> \"moved\""), "{text}");
    assert_eq!(world.diff(&[&sig, "2"])["to"], 2);

    // Nothing has changed: nothing is published.
    assert_eq!(world.update(&sig, &[]).says("nothing has changed since version 2").ok(), format!("{sig}\n"));
    let shown = world.update(&sig, &["--json"]).json();
    assert_eq!((&shown["seq"], &shown["published"]), (&2.into(), &false.into()));
}

#[test]
fn a_single_file_keeps_the_name_of_the_dataset() {
    let world = World::new();
    let key = ["--key", "key"];
    let sig = world.run("store", &[&["publish", "data/large"], &key[..]].concat()).ok();
    let sig = sig.trim_end();
    fs::rename(world.path("data/large"), world.path("data/other name")).unwrap();
    let update = [&["publish", "data/other name", "--update", sig], &key[..]].concat();
    world.run("store", &update).says("nothing has changed").ok();
    world.write("other name", 7, 10);
    world.run("store", &update).ok();
    assert_eq!(paths(&world.diff(&[sig]), "changed"), ["large"]);
}

#[test]
fn what_looks_like_a_mistake_is_refused() {
    let world = World::new();
    let sig = world.first();
    world.remove(0..6);
    world.update(&sig, &[]).fails(1, "expected at most 50 % of 10 files to disappear, got 6");
    world.update(&sig, &["--max-delete", "59"]).fails(1, "--max-delete 100");
    assert_eq!(world.plan(&sig)["seq"], 2, "nothing was published");
    world.update(&sig, &["--max-delete", "60"]).ok();

    world.write("large", 5, 5);
    world.new_key("other-key");
    world
        .run("store", &["publish", "data", "--key", "other-key", "--update", &sig])
        .fails(2, "the key behind the dataset");
    world.update(&sig, &["--hash", "blake3"]).fails(2, "expected no --hash with --update");
    world.update(&sig, &["--piece-length", "1MiB"]).fails(2, "in pieces of 16384 bytes");
    world.update(&sig, &["--name", "x"]).fails(2, "expected no --name");
    world.update(&sig, &["--format", "torrent"]).fails(2, "versions 1 and 2 only, got version 3");
    world.update(&sig[..40], &[]).fails(2, "128 hex digits");
    world.update(&sig, &["--rollback", "9", "--look", "1s"]).fails(3, "version 9");
    world.update(&"ab".repeat(64), &["--look", "1s"]).fails(3, "");
    world.publish(&["--rollback", "1"]).fails(2, "--update");
    world.run("store", &["publish", "--key", "key"]).fails(2, "PATH");
    world.run("store", &["publish", "data", "--key", "nothing"]).fails(1, "cannot read the key");
    assert_eq!(world.plan(&sig)["seq"], 3, "none of these was published");
}

#[test]
fn a_dry_run_leaves_no_trace() {
    let world = World::new();
    let planned = world.publish(&["--dry-run", "--piece-length", "16KiB"]).says("would publish").ok();
    assert!(!world.path("store").exists());
    let sig = world.first();
    assert_eq!(planned.trim_end(), sig);
    world.write("added", 1, 1);
    let text = world.update(&sig, &["--dry-run"]).says("version 2").ok();
    assert!(text.starts_with("1 added; ") && text.contains("+ \"added\" (1 B)"), "{text}");
    let plan = world.plan(&sig);
    assert_eq!((&plan["seq"], &plan["published"]), (&2.into(), &false.into()));
    assert_eq!(paths(&plan["diff"], "added"), ["added"]);
    let store = world.run("store", &["diff", &sig, "--look", "1s"]);
    store.fails(3, "a version before 1");
    world.remove(0..9);
    world.update(&sig, &["--dry-run"]).fails(1, "files to disappear");
}

#[test]
fn a_rollback_is_a_new_version() {
    let world = World::new();
    let first = world.publish(&["--json"]).json();
    let sig = first["info_sig"].as_str().unwrap();
    world.write("large", 1, 50_000);
    assert_eq!(world.update(sig, &["--json"]).json()["seq"], 2);
    // The folder does not matter.
    fs::remove_dir_all(world.path("data")).unwrap();
    let rollback = ["publish", "--key", "key", "--update", sig, "--rollback", "1", "--json"];
    let back = world.run("store", &rollback).json();
    assert_eq!((&back["seq"], &back["info_hash"]), (&3.into(), &first["info_hash"]));
    let diff = world.diff(&[sig, "1", "3"]);
    assert!(paths(&diff, "changed").is_empty() && diff["transfer_bytes"] == 0, "{diff}");
    assert_eq!(paths(&world.diff(&[sig]), "changed"), ["large"]);
    world.run("store", &rollback).says("nothing has changed since version 3").ok();
}

#[test]
fn the_first_two_versions_may_be_ordinary_torrents() {
    let world = World::new();
    let sig = world.publish(&["--format", "torrent", "--piece-length", "16KiB"]).ok();
    let sig = sig.trim_end();
    world.write("zlast", 1, 100);
    world.update(sig, &["--format", "torrent"]).ok();
    world.write("zzlast", 2, 100);
    world.update(sig, &["--format", "torrent"]).fails(2, "leave out --format");
    let third = world.update(sig, &["--json"]).json();
    assert_eq!((&third["seq"], &third["published"]), (&3.into(), &true.into()));
    // What is hashed alike is compared, whatever the form.
    assert_eq!(paths(&third["diff"], "added"), ["zzlast"]);
    assert!(third["diff"]["reused_percent"].as_f64().unwrap() > 80.0, "{third}");
    assert_eq!(third["info_hash"].as_str().unwrap().len(), 40, "the algorithm of the dataset");
}

#[test]
fn what_was_published_is_kept_as_copies() {
    let world = World::new();
    let sig = world.publish(&["--snapshot", "copy"]).ok();
    let kept: Vec<PathBuf> =
        fs::read_dir(world.path("store/snapshots")).unwrap().map(|entry| entry.unwrap().path().join("data")).collect();
    assert_eq!(kept.len(), 1);
    support::compare::whole(&world.path("data"), &kept[0]);
    let before = tree::noise(100, 300_000);
    world.write("large", 1, 1);
    assert!(fs::read(kept[0].join("large")).unwrap() == before);
    // It is what is served, though the folder is another one.
    let serving = Running::start(world.command("store", &["seed", sig.trim_end()]), &world.path("log"));
    let addr = std::iter::repeat_with(|| serving.line()).find(|line| line.contains("/p2p/")).unwrap();
    world.run("reader", &["get", sig.trim_end(), "--peer", &addr, "-o", "got"]).ok();
    support::compare::whole(&kept[0], &world.path("got/data"));
    drop(serving);
    world.update(sig.trim_end(), &["--snapshot", "none"]).ok();
}

/// A running command whose standard output is read line by line.
struct Running {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Running {
    fn start(mut command: Command, log: &Path) -> Self {
        let stderr = fs::File::create(log).unwrap();
        let mut child = command.stdout(Stdio::piped()).stderr(stderr).spawn().unwrap();
        let (send, lines) = mpsc::channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let _ = send.send(line);
            }
        });
        Self { child, lines }
    }

    fn line(&self) -> String {
        self.lines.recv_timeout(PATIENCE).expect("a line in time")
    }

    fn json(&self) -> Value {
        let line = self.line();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
    }

    fn ends_well(mut self) {
        signal(self.child.id(), "-INT");
        let mut status = None;
        wait_until("the watch ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        assert!(status.unwrap().success(), "{status:?}");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_watch_stages_what_changes_and_publishes_nothing() {
    let world = World::new();
    let sig = world.first();
    let watch = ["watch", "data", "--key", "key", "--update", &sig, "--settle", "300ms", "--look", "1s", "--json"];
    let log = world.path("log");
    let watching = Running::start(world.command("store", &watch), &log);
    wait_until("the folder is looked at", || fs::read_to_string(&log).unwrap().contains("is what version 1 is"));
    world.write("sub/0", 50, 10);
    let staged = watching.json();
    assert_eq!((&staged["seq"], &staged["published"]), (&2.into(), &false.into()));
    assert_eq!(paths(&staged["diff"], "changed"), ["sub/0"]);
    wait_until("it says how to publish", || fs::read_to_string(&log).unwrap().contains(&format!("--update {sig}")));
    world.write("new", 51, 10);
    let staged = watching.json();
    assert_eq!(staged["seq"], 2, "nothing was published");
    assert_eq!(paths(&staged["diff"], "added"), ["new"]);
    watching.ends_well();
    assert!(!fs::read_to_string(&log).unwrap().contains(&world.secret));
    assert_eq!(world.plan(&sig)["seq"], 2);
}

#[test]
fn a_watch_publishes_by_itself_but_no_mass_removal() {
    let world = World::new();
    let sig = world.first();
    world.write("before", 49, 10);
    let watch = ["watch", "data", "--key", "key", "--update", &sig, "--settle", "300ms", "--look", "1s", "--auto"];
    let log = world.path("log");
    let watching = Running::start(world.command("store", &[&watch[..], &["--json"]].concat()), &log);
    let published = watching.json();
    assert_eq!((&published["seq"], paths(&published["diff"], "added")), (&2.into(), vec!["before"]));
    assert_eq!(published["published"], true);
    // It is served by the watch itself.
    let addrs = support::process::status(&world.path("store"))["listen"].clone();
    let addr = addrs.as_array().unwrap().iter().filter_map(Value::as_str).find(|addr| addr.contains("/p2p/")).unwrap();
    world.run("reader", &["get", &sig, "--peer", addr, "-o", "got"]).ok();
    support::compare::whole(&world.path("data"), &world.path("got/data"));
    world.remove(0..7);
    wait_until("it refuses", || fs::read_to_string(&log).unwrap().contains("files to disappear, got 7"));
    (0..6).for_each(|at| world.write(&format!("sub/{at}"), at, 1000));
    let published = watching.json();
    assert_eq!((&published["seq"], paths(&published["diff"], "removed")), (&3.into(), vec!["sub/6"]));
    watching.ends_well();
    assert_eq!(world.diff(&[&sig])["to"], 3);
}

/// A key that is used in two places: each has published a version 2 of its own.
#[test]
fn two_versions_of_one_number_are_noticed_and_the_newest_of_others_is_continued() {
    let world = World::new();
    let sig = world.first();
    let publish = |store: &str, args: &[&str]| {
        let first = ["publish", "data", "--key", "key", "--update", &sig, "--look", "5s"];
        world.run(store, &[&first[..], args].concat())
    };
    for store in ["other", "third"] {
        let first = ["publish", "data", "--key", "key", "--piece-length", "16KiB"];
        assert_eq!(world.run(store, &first).ok().trim_end(), sig);
    }
    world.write("new", 1, 1000);
    publish("other", &[]).ok();
    world.write("new", 2, 2000);
    publish("store", &["--snapshot", "copy"]).ok();
    let serving = Running::start(world.command("store", &["seed", &sig]), &world.path("log"));
    let addr = std::iter::repeat_with(|| serving.line()).find(|line| line.contains("/p2p/")).unwrap();
    let peer = ["--peer", &addr];

    // Who has seen version 1 only goes on from version 2, which it fetches the metainfo of.
    world.write("new", 3, 3000);
    let plan = publish("third", &[&peer[..], &["--dry-run", "--json"]].concat()).json();
    assert_eq!((&plan["seq"], &plan["diff"]["changed"][0]["old_length"]), (&3.into(), &2000.into()), "{plan}");
    publish("other", &peer).fails(1, "expected one version 2, got two that the key has signed");
    let settled = publish("other", &[&peer[..], &["--over-conflict", "--json"]].concat()).json();
    assert_eq!((&settled["seq"], &settled["published"]), (&3.into(), &true.into()));
    // Everybody hears of it, and gets it from whoever serves it: it is what the folder is.
    let served = Running::start(world.command("other", &["seed", &sig]), &world.path("log-of-other"));
    let other = std::iter::repeat_with(|| served.line()).find(|line| line.contains("/p2p/")).unwrap();
    let plan = publish("third", &[&peer[..], &["--peer", &other, "--dry-run", "--json"]].concat()).json();
    assert_eq!((&plan["seq"], plan["diff"]["changed"].as_array().unwrap().len()), (&3.into(), 0), "{plan}");
}

#[test]
fn the_secret_key_stays_out_of_the_store() {
    let world = World::new();
    let sig = world.first();
    world.write("new", 1, 1);
    world.update(&sig, &[]).ok();
    let secret = hex::decode(&world.secret).unwrap();
    let mut dirs = vec![world.path("store")];
    let mut looked_at = 0;
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                dirs.push(entry.path());
            } else if entry.file_type().unwrap().is_file() {
                let bytes = fs::read(entry.path()).unwrap();
                let has = |needle: &[u8]| bytes.windows(needle.len()).any(|window| window == needle);
                assert!(!has(&secret) && !has(world.secret.as_bytes()), "{:?}", entry.path());
                looked_at += 1;
            }
        }
    }
    assert!(looked_at > 2, "the store has an index and an identity");
}
