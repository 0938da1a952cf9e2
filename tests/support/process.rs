//! Running the `knot` program as users do: stores in temporary directories, loopback only, no discovery.

use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// How long anything may take before a test gives up.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A `knot` command with nothing of the caller's environment in it.
pub fn knot(store: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_knot"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("KNOT_")) {
        command.env_remove(name);
    }
    command.env("KNOT_STORE", store).stdin(Stdio::null());
    command
}

/// Runs to the end; panics with everything it printed unless it succeeded.
pub fn run(command: &mut Command) -> String {
    let output = finish(command);
    assert!(output.status.success(), "{command:?}\n{}", both(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// Runs to the end, whatever comes of it.
pub fn finish(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// Standard output and error of a finished program.
pub fn both(output: &Output) -> String {
    format!(
        "{}\n--- stdout\n{}\n--- stderr\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// Creates a metainfo beside nothing else in `dir`; its path and InfoID.
pub fn create(source: &Path, metainfo: &Path, options: &[&str]) -> String {
    let dir = metainfo.parent().unwrap();
    let out = run(knot(&dir.join("no-store")).arg("create").arg(source).arg("-o").arg(metainfo).args(options));
    out.trim().to_owned()
}

/// A `knot seed` in the foreground, killed when dropped.
pub struct Seeder {
    child: Child,
    /// Where it listens, with its peer id.
    pub addr: String,
    _lines: mpsc::Receiver<String>,
}

impl Seeder {
    pub fn start(source: &Path, metainfo: &Path, store: &Path) -> Self {
        Self::start_on(source, metainfo, store, "/ip4/127.0.0.1/tcp/0")
    }

    pub fn start_on(source: &Path, metainfo: &Path, store: &Path, listen: &str) -> Self {
        let mut command = knot(store);
        command.arg("seed").arg(source).arg("--metainfo").arg(metainfo).args([
            "--discovery",
            "none",
            "--listen",
            listen,
        ]);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let (send, lines) = mpsc::channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let _ = send.send(line);
            }
        });
        let addr = lines.recv_timeout(PATIENCE).expect("the seeder prints an address");
        assert!(addr.contains("/p2p/"), "an address with a peer id, got {addr}");
        Self { child, addr, _lines: lines }
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Seeder {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A `knot mount` whose node runs in the background; unmounted, and its node ended, when dropped.
pub struct Mount {
    pub at: PathBuf,
    pub store: PathBuf,
}

impl Mount {
    pub fn new(what: &str, at: &Path, store: &Path, peers: &[&str], options: &[&str]) -> Self {
        // Of what a killed node has left there nothing can be said but that it is there.
        let made = std::fs::create_dir_all(at);
        assert!(made.is_ok() || made.is_err_and(|error| error.kind() == ErrorKind::AlreadyExists), "{at:?}");
        let mut command = knot(store);
        command.arg("mount").arg(what).arg(at).args(["--listen", "/ip4/127.0.0.1/tcp/0"]);
        if !options.contains(&"--discovery") {
            command.args(["--discovery", "none"]);
        }
        peers.iter().for_each(|peer| {
            command.args(["--peer", peer]);
        });
        run(command.args(options));
        Self { at: at.to_owned(), store: store.to_owned() }
    }

    pub fn status(&self) -> serde_json::Value {
        status(&self.store)
    }

    /// Process id of the node behind the mount.
    pub fn node_pid(&self) -> u32 {
        self.status()["pid"].as_u64().unwrap() as u32
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let pid = std::panic::catch_unwind(|| self.node_pid()).ok();
        let _ = knot(&self.store).arg("unmount").arg(&self.at).output();
        let _ = Command::new("fusermount3").arg("-uzq").arg(&self.at).output();
        if let Some(pid) = pid {
            signal(pid, "-TERM");
            wait_until("the node ends", || !alive(pid));
        }
    }
}

/// `knot status --json` of a store.
pub fn status(store: &Path) -> serde_json::Value {
    let text = run(knot(store).args(["status", "--json"]));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// Sends a signal to a process that the test started.
pub fn signal(pid: u32, signal: &str) {
    let _ = Command::new("kill").arg(signal).arg(pid.to_string()).stderr(Stdio::null()).status();
}

/// Whether a process runs (zombies do not).
pub fn alive(pid: u32) -> bool {
    let mut stat = String::new();
    std::fs::File::open(format!("/proc/{pid}/stat"))
        .and_then(|mut file| file.read_to_string(&mut stat))
        .is_ok_and(|_| !stat.rsplit(')').next().unwrap_or_default().trim_start().starts_with('Z'))
}

/// Looks until it is so.
pub fn wait_until(what: &str, mut so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !so() {
        assert!(started.elapsed() < PATIENCE, "waited {PATIENCE:?} until {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
