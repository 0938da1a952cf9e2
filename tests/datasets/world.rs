//! A publisher with a folder and a key, whoever serves what it publishes, and mounts that follow it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;

use knot::metainfo::SecretKey;
use knot::types::InfoHash;
use serde_json::Value;

use crate::support::process::{Mount, PATIENCE, alive, both, finish, knot, signal, status, wait_until};

pub(crate) const OFFLINE: [&str; 2] = ["--discovery", "none"];
const LISTEN: [&str; 2] = ["--listen", "/ip4/127.0.0.1/tcp/0"];

/// A folder `data`, a key, and what was published of it from the store `store`.
pub(crate) struct World {
    dir: tempfile::TempDir,
    /// The name of the dataset, once its first version is published.
    pub(crate) sig: String,
    hashes: RefCell<BTreeMap<u64, InfoHash>>,
}

impl World {
    /// Publishes what `fill` writes into the folder.
    pub(crate) fn new(options: &[&str], fill: impl FnOnce(&Self)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("data")).unwrap();
        let mut world = Self { dir, sig: String::new(), hashes: RefCell::default() };
        let made = finish(knot(&world.path("no-store")).args(["key", "new"]).arg(world.path("key")));
        assert!(made.status.success(), "{}", both(&made));
        fill(&world);
        world.sig = world.published(options).0;
        assert_eq!(world.sig.len(), 128);
        world
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.path("data")
    }

    pub(crate) fn write(&self, name: &str, bytes: &[u8]) {
        let path = self.data().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    /// `knot publish` of the folder; the next version if there is one.
    pub(crate) fn publishing(&self, store: &str, options: &[&str]) -> Command {
        let mut command = knot(&self.path(store));
        command.args(["publish", "data", "--key", "key"]).args(options);
        if !options.contains(&"--snapshot") {
            command.args(["--snapshot", "copy"]);
        }
        if !self.sig.is_empty() {
            command.args(["--update", &self.sig, "--look", "0s"]);
        }
        if !options.contains(&"--discovery") {
            command.args(OFFLINE);
        }
        command.args(LISTEN).current_dir(self.dir.path());
        command
    }

    /// Publishes the folder: the name and the version.
    fn published(&self, options: &[&str]) -> (String, u64) {
        let output = finish(&mut self.publishing("store", &[&["--json"], options].concat()));
        let shown: Value =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", both(&output)));
        assert_eq!(shown["published"], true, "{}", both(&output));
        let (text, seq) = (|name: &str| shown[name].as_str().unwrap(), shown["seq"].as_u64().unwrap());
        let hash = hex::decode(text("info_hash")).unwrap();
        self.hashes.borrow_mut().insert(seq, InfoHash::from_slice(&hash).unwrap());
        (text("info_sig").to_owned(), seq)
    }

    /// The publisher's secret key.
    pub(crate) fn key(&self) -> SecretKey {
        let text = fs::read_to_string(self.path("key")).unwrap();
        let seed = hex::decode(text.split_whitespace().last().unwrap()).unwrap();
        SecretKey::from_seed(&seed.try_into().unwrap())
    }

    /// The InfoHash of a version that was published here.
    pub(crate) fn hash(&self, seq: u64) -> InfoHash {
        self.hashes.borrow()[&seq]
    }

    /// Publishes the folder as the next version; which one that is.
    pub(crate) fn update(&self) -> u64 {
        self.update_as(&[])
    }

    pub(crate) fn update_as(&self, options: &[&str]) -> u64 {
        self.published(options).1
    }

    pub(crate) fn serve(&self) -> Serving {
        self.serve_as("store", &OFFLINE)
    }

    /// Serves what `store` has published.
    pub(crate) fn serve_as(&self, store: &str, options: &[&str]) -> Serving {
        Serving::start(knot(&self.path(store)).args(["seed", &self.sig]).args(options))
    }

    /// A mount of the dataset in the store `name`.
    pub(crate) fn mount(&self, name: &str, peers: &[&str], options: &[&str]) -> Mount {
        Mount::new(&self.sig, &self.path(&format!("{name}-mnt")), &self.path(name), peers, options)
    }
}

impl Drop for World {
    /// What a killed node has left mounted goes also where the test failed before another one took it over.
    fn drop(&mut self) {
        let mounted = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let points = mounted.lines().filter_map(|line| line.split(' ').nth(1)).map(Path::new);
        for point in points.filter(|point| point.starts_with(self.dir.path())) {
            let _ = Command::new("fusermount3").arg("-uzq").arg(point).output();
        }
    }
}

/// A process that serves, killed when dropped.
pub(crate) struct Serving {
    child: Child,
    /// Where it listens, with its peer id.
    pub(crate) addr: String,
    _lines: mpsc::Receiver<String>,
}

impl Serving {
    /// Runs a command that prints where it listens.
    pub(crate) fn start(command: &mut Command) -> Self {
        if !command.get_args().any(|arg| arg == "--listen") {
            command.args(LISTEN);
        }
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let (send, lines) = mpsc::channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let _ = send.send(line);
            }
        });
        let mut said = std::iter::repeat_with(|| lines.recv_timeout(PATIENCE).expect("it prints an address"));
        let addr = said.find(|line| line.contains("/p2p/")).unwrap();
        Self { child, addr, _lines: lines }
    }
}

impl Serving {
    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A process of which nothing is heard, killed when dropped.
pub(crate) struct Process(pub(crate) Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whether the node of a store answers.
pub(crate) fn is_up(store: &Path) -> bool {
    finish(knot(store).args(["status", "--json"])).status.success()
}

/// What the node behind a mount says of the dataset.
pub(crate) fn dataset(mount: &Mount) -> Value {
    mount.status()["datasets"][0].clone()
}

/// The version that a mount shows.
pub(crate) fn shown(mount: &Mount) -> u64 {
    mount.status()["mounts"][0]["version"]["seq"].as_u64().unwrap()
}

/// Waits until a mount shows a version.
pub(crate) fn shows(mount: &Mount, seq: u64) {
    wait_until(&format!("version {seq} is shown, not {}", shown(mount)), || shown(mount) == seq);
}

/// Bytes that were fetched of each torrent.
pub(crate) fn downloaded(mount: &Mount) -> BTreeMap<String, u64> {
    let status = mount.status();
    let torrents = status["torrents"].as_array().unwrap();
    let bytes = |torrent: &Value| torrent["downloaded_bytes"].as_u64().unwrap();
    torrents.iter().map(|torrent| (torrent["info_id"].as_str().unwrap().to_owned(), bytes(torrent))).collect()
}

/// Bytes that were fetched since `before`.
pub(crate) fn fetched(mount: &Mount, before: &BTreeMap<String, u64>) -> u64 {
    downloaded(mount).iter().map(|(id, bytes)| bytes - before.get(id).copied().unwrap_or(0)).sum()
}

/// `kill -9` of the node behind a mount. The mount point stays, and is mounted over by the next node.
pub(crate) fn crash(mount: Mount) -> (PathBuf, PathBuf) {
    let pid = mount.node_pid();
    signal(pid, "-KILL");
    wait_until("the node is gone", || !alive(pid));
    let left = (mount.at.clone(), mount.store.clone());
    // Nobody is left who could be asked to unmount.
    std::mem::forget(mount);
    left
}

/// Where the node of a store listens for other knots, with its peer id.
pub(crate) fn address(store: &Path) -> String {
    let status = status(store);
    let mut addrs = status["listen"].as_array().unwrap().iter().filter_map(Value::as_str);
    addrs.find(|addr| addr.contains("/p2p/")).unwrap().to_owned()
}

/// The bytes of every file below a directory, by its path there.
pub(crate) fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(next) = dirs.pop() {
        for entry in fs::read_dir(&next).unwrap().map(Result::unwrap) {
            match entry.file_type().unwrap().is_dir() {
                true => dirs.push(entry.path()),
                false => {
                    let path = entry.path();
                    found.insert(path.strip_prefix(dir).unwrap().to_owned(), fs::read(&path).unwrap());
                }
            }
        }
    }
    found
}
