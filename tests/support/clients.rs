//! The clients that others use, and a tracker, each on a loopback address of its own: clients keep one connection for
//! an address.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Instant;

use super::process::{Mount, PATIENCE, knot, run, wait_until};

const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support");

/// A process that ends with the test.
pub(crate) struct Running {
    child: Child,
    lines: Option<mpsc::Receiver<String>>,
}

impl Running {
    /// A process whose output nobody reads.
    fn quiet(command: &mut Command) -> Self {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        Self { child: child.unwrap_or_else(|error| panic!("{command:?}: is it installed? {error}")), lines: None }
    }

    /// A process whose standard output is read line by line; it ends with its standard input.
    fn talking(command: &mut Command) -> Self {
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = child.unwrap_or_else(|error| panic!("{command:?}: is it installed? {error}"));
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (send, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let _ = send.send(line);
            }
        });
        Self { child, lines: Some(lines) }
    }

    /// Waits for a line of which `wanted` makes something.
    pub(crate) fn until<T>(&self, what: &str, wanted: impl Fn(&str) -> Option<T>) -> T {
        let (lines, started) = (self.lines.as_ref().unwrap(), Instant::now());
        loop {
            let left = PATIENCE.saturating_sub(started.elapsed());
            let line = lines.recv_timeout(left).unwrap_or_else(|error| panic!("waited in vain until {what}: {error}"));
            if let Some(found) = wanted(&line) {
                return found;
            }
        }
    }

    /// What it has said that nobody has waited for.
    pub(crate) fn rest(&self) -> Vec<String> {
        self.lines.as_ref().unwrap().try_iter().collect()
    }

    /// Whether it has ended well; waits for that.
    fn succeeds(mut self) {
        let started = Instant::now();
        while started.elapsed() < PATIENCE {
            if let Some(status) = self.child.try_wait().unwrap() {
                assert!(status.success(), "{status}");
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        panic!("a client did not end in time");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A libtorrent with content in `dir`, or that fetches it there.
pub(crate) struct Libtorrent {
    pub(crate) process: Running,
    pub(crate) addr: SocketAddr,
}

impl Libtorrent {
    /// `encryption` is `disabled`, `enabled` or `forced`; `torrent` a file or a magnet link.
    pub(crate) fn start(dir: &Path, ip: &str, encryption: &str, torrent: &str, peers: &[SocketAddr]) -> Self {
        Self::start_with(&[], dir, ip, encryption, torrent, peers)
    }

    /// `options` are those of `peer.py`.
    pub(crate) fn start_with(
        options: &[&str],
        dir: &Path,
        ip: &str,
        encryption: &str,
        torrent: &str,
        peers: &[SocketAddr],
    ) -> Self {
        let mut command = Command::new("/usr/bin/python3");
        command.arg(Path::new(SCRIPTS).join("peer.py")).args(options).arg(dir).args([ip, encryption, torrent]);
        let process = Running::talking(command.args(peers.iter().map(ToString::to_string)));
        let port = process.until("libtorrent listens", |line| line.strip_prefix("listening ")?.parse().ok());
        Self { process, addr: SocketAddr::new(ip.parse().unwrap(), port) }
    }

    /// Waits until it is connected to a peer.
    pub(crate) fn connected(self, to: SocketAddr) -> Self {
        let wanted = format!("connected {}", to.ip());
        self.process.until("libtorrent is connected", |line| (line == wanted).then_some(()));
        self
    }

    /// Waits until it has everything.
    pub(crate) fn complete(self) -> Self {
        self.process.until("libtorrent has everything", |line| (line == "seeding").then_some(()));
        self
    }
}

/// A DHT node of libtorrent, which knows no other.
pub(crate) struct LibtorrentDht {
    pub(crate) addr: String,
    _process: Running,
}

impl LibtorrentDht {
    pub(crate) fn start(ip: &str) -> Self {
        let mut command = Command::new("/usr/bin/python3");
        let process = Running::talking(command.arg(Path::new(SCRIPTS).join("dht.py")).arg(ip));
        let port: u16 = process.until("libtorrent listens", |line| line.strip_prefix("listening ")?.parse().ok());
        Self { addr: format!("{ip}:{port}"), _process: process }
    }
}

/// A torrent of `source` as libtorrent makes it by default: hybrid, with padding.
pub(crate) fn libtorrent_creates(source: &Path, torrent: &Path) {
    run(Command::new("/usr/bin/python3").arg(Path::new(SCRIPTS).join("create.py")).arg(source).arg(torrent));
}

/// A torrent of `source` in the format of BEP 52 only.
pub(crate) fn libtorrent_creates_v2(source: &Path, torrent: &Path) {
    run(Command::new("/usr/bin/python3").arg(Path::new(SCRIPTS).join("create.py")).arg(source).arg(torrent).arg("v2"));
}

/// What libtorrent reads in a torrent.
pub(crate) fn libtorrent_reads(torrent: &str) -> String {
    run(Command::new("/usr/bin/python3").arg(Path::new(SCRIPTS).join("read.py")).arg(torrent))
}

/// Asserts that libtorrent does not load a torrent either.
pub(crate) fn libtorrent_refuses(torrent: &Path) {
    let load =
        "import sys, libtorrent\ntry: libtorrent.torrent_info(sys.argv[1])\nexcept RuntimeError: print('refused')";
    assert_eq!(run(Command::new("/usr/bin/python3").args(["-c", load]).arg(torrent)), "refused\n");
}

/// A port at `ip` that was free a moment before.
pub(crate) fn free_port(ip: &str) -> u16 {
    TcpListener::bind((ip, 0)).unwrap().local_addr().unwrap().port()
}

/// An aria2 that fetches `torrent` into `dir`, or, where all of it is there, serves it.
fn aria2(dir: &Path, ip: &str, torrent: &str) -> Command {
    let mut command = Command::new("aria2c");
    command.arg("--no-conf").arg(format!("--interface={ip}")).arg(format!("--listen-port={}", free_port(ip))).args([
        "--enable-dht=false",
        "--enable-dht6=false",
        "--bt-enable-lpd=false",
        "--enable-peer-exchange=false",
        "--file-allocation=none",
        "--check-integrity=true",
        "--bt-tracker-connect-timeout=5",
        "--summary-interval=0",
        "-q",
        "-d",
    ]);
    command.arg(dir).arg(torrent);
    command
}

/// Serves what is in `dir` until dropped.
pub(crate) fn aria2_seeds(dir: &Path, ip: &str, torrent: &str) -> Running {
    Running::quiet(aria2(dir, ip, torrent).args(["--seed-ratio=0.0", "--bt-seed-unverified=false"]))
}

/// Fetches what `dir` lacks, and serves what is there, until dropped.
pub(crate) fn aria2_shares(dir: &Path, ip: &str, torrent: &str) -> Running {
    Running::quiet(aria2(dir, ip, torrent).arg("--seed-ratio=0.0"))
}

/// Fetches everything, then ends.
pub(crate) fn aria2_fetches(dir: &Path, ip: &str, torrent: &str) {
    Running::quiet(aria2(dir, ip, torrent).arg("--seed-time=0")).succeeds();
}

/// A transmission-daemon that fetches `torrent` into `dir`, or, where all of it is there, serves it. It never dials
/// loopback addresses: who is to meet it there has to dial it.
pub(crate) fn transmission(home: &Path, dir: &Path, ip: &str, torrent: &Path) -> Running {
    let watched = home.join("watched");
    fs::create_dir_all(&watched).unwrap();
    fs::copy(torrent, watched.join("a.torrent")).unwrap();
    let (ip, port) = match ip.split_once(':') {
        Some((ip, port)) => (ip, port.parse().unwrap()),
        None => (ip, free_port(ip)),
    };
    let rpc_port = free_port(ip);
    let mut command = Command::new("transmission-daemon");
    command.args(["-f", "--no-dht", "--no-lpd", "--no-portmap", "--no-auth", "-i", ip, "-r", ip, "-I", "::1"]);
    command.args(["-P", &port.to_string(), "-p", &rpc_port.to_string()]);
    Running::quiet(command.arg("-g").arg(home).arg("-c").arg(&watched).arg("-w").arg(dir))
}

/// An opentracker; Debian's build serves only the swarms of a list.
pub(crate) struct Tracker {
    _process: Running,
    addr: SocketAddr,
    _dir: tempfile::TempDir,
}

impl Tracker {
    /// `plan` makes the torrents whose infohashes are served, from the tracker's HTTP and UDP URLs.
    pub(crate) fn start(ip: &str, plan: impl FnOnce(&str, &str) -> Vec<String>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        // It gives up root's rights before it reads.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let port = free_port(ip);
        let addr = SocketAddr::new(ip.parse().unwrap(), port);
        let listed = plan(&format!("http://{addr}/announce"), &format!("udp://{addr}/announce"));
        fs::write(dir.path().join("list"), listed.join("\n") + "\n").unwrap();
        let mut command = Command::new("opentracker");
        command.args(["-i", ip, "-p", &port.to_string(), "-P", &port.to_string(), "-w", "list", "-d"]);
        let process = Running::quiet(command.arg(dir.path()).current_dir(dir.path()));
        let tracker = Self { _process: process, addr, _dir: dir };
        wait_until("the tracker listens", || TcpStream::connect(tracker.addr).is_ok());
        tracker
    }

    /// Waits until the tracker knows a seed of a torrent.
    pub(crate) fn wait_for_seed(&self, hash: &str) {
        self.wait_for(hash, "8:completei1e");
    }

    /// Waits until the tracker says so of a torrent, bencoded.
    pub(crate) fn wait_for(&self, hash: &str, said: &str) {
        let escaped: String =
            hash.as_bytes().chunks(2).map(|pair| format!("%{}", str::from_utf8(pair).unwrap())).collect();
        let request = format!("GET /scrape?info_hash={escaped} HTTP/1.0\r\n\r\n");
        wait_until(&format!("the tracker says {said}"), || {
            let mut stream = TcpStream::connect(self.addr).unwrap();
            let mut answer = Vec::new();
            stream.write_all(request.as_bytes()).and_then(|()| stream.read_to_end(&mut answer)).unwrap();
            String::from_utf8_lossy(&answer).contains(said)
        });
    }
}

/// `ip` at a port that is free, unless it names one.
fn with_port(ip: &str) -> String {
    if ip.contains(':') { ip.to_owned() } else { format!("{ip}:0") }
}

/// A `knot seed` at `ip`, and where BitTorrent clients reach it.
pub(crate) struct Seed {
    pub(crate) addr: SocketAddr,
    pub(crate) store: PathBuf,
    _process: Running,
}

impl Seed {
    pub(crate) fn start(source: &Path, torrent: &Path, ip: &str, store: &Path, options: &[&str]) -> Self {
        let mut command = knot(store);
        command.arg("seed").arg(source).arg("--metainfo").arg(torrent).args(["--listen", &with_port(ip)]);
        let process = Running::talking(command.args(options));
        let addr = process.until("knot seeds", |line| line.parse().ok());
        Self { addr, store: store.to_owned(), _process: process }
    }
}

/// A `knot mount` at `ip` of whatever `what` names.
pub(crate) fn mount(what: &str, ip: &str, dir: &Path, options: &[&str]) -> Mount {
    let mount = Mount { at: dir.join("mnt"), store: dir.join("store") };
    fs::create_dir_all(&mount.at).unwrap();
    let mut command = knot(&mount.store);
    command.arg("mount").arg(what).arg(&mount.at).args(["--listen", &with_port(ip)]);
    run(command.args(options));
    mount
}
