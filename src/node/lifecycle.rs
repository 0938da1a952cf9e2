//! When a store's node starts and ends: one process a store, started in the background when a command needs it,
//! gone when nobody needs it any more.
//!
//! Who is the node is decided by an flock on `node.lock` in the store, held for as long as the process lives: the
//! kernel drops it with the process, however that ends, so neither the lock file nor the socket beside it can be
//! mistaken for a node that is no longer there.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::api::{ApiError, ErrorKind};

/// How long a background node may take until it is ready.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// A node that leaves when it is idle waits this long for the first command that uses it.
const FIRST_USER_WITHIN: Duration = Duration::from_secs(30);
/// A log file above this size starts anew with the next node.
const LOG_LIMIT: u64 = 4 << 20;
/// What is shown of the log of a node that did not start.
const LOG_TAIL: u64 = 2000;

/// A store: the directory that holds a node's cache, index and identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreDir(PathBuf);

impl StoreDir {
    /// The store at `path`, made (for its owner only) where there is none.
    ///
    /// # Errors
    /// When there is no such directory and it cannot be made.
    pub fn open(path: &Path) -> Result<Self, LifecycleError> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(path).and_then(|()| path.canonicalize());
        made.map(Self).map_err(|source| LifecycleError::store(path, source))
    }

    /// The store at `path`, if there is one.
    pub fn find(path: &Path) -> Option<Self> {
        path.canonicalize().ok().map(Self)
    }

    /// The directory, absolute.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The socket on which the node is asked.
    pub fn socket(&self) -> PathBuf {
        self.0.join("control.sock")
    }

    /// Where a background node writes what it has to say.
    pub fn log(&self) -> PathBuf {
        self.0.join("node.log")
    }

    /// Becomes the node of the store; `None` when another process is.
    ///
    /// # Errors
    /// When the lock file cannot be made.
    pub fn lock(&self) -> Result<Option<StoreLock>, LifecycleError> {
        let path = self.lock_path();
        let open = OpenOptions::new().create(true).truncate(false).read(true).write(true).mode(0o600).open(&path);
        let mut file = open.map_err(|source| LifecycleError::store(&path, source))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(source)) => return Err(LifecycleError::store(&path, source)),
        }
        let written = file.set_len(0).and_then(|()| file.write_all(std::process::id().to_string().as_bytes()));
        written.map_err(|source| LifecycleError::store(&path, source))?;
        Ok(Some(StoreLock(file)))
    }

    /// Process id of the node that holds the store, as far as its lock file tells; for messages.
    pub fn holder(&self) -> Option<u32> {
        std::fs::read_to_string(self.lock_path()).ok()?.parse().ok()
    }

    fn lock_path(&self) -> PathBuf {
        self.0.join("node.lock")
    }

    fn open_log(&self) -> io::Result<File> {
        let log = OpenOptions::new().create(true).append(true).mode(0o600).open(self.log())?;
        if log.metadata()?.len() > LOG_LIMIT {
            log.set_len(0)?;
        }
        Ok(log)
    }

    fn log_from(&self, start: u64) -> String {
        let tail = || -> io::Result<String> {
            let mut log = File::open(self.log())?;
            let end = log.seek(SeekFrom::End(0))?;
            log.seek(SeekFrom::Start(start.max(end.saturating_sub(LOG_TAIL)).min(end)))?;
            let mut text = Vec::new();
            log.take(LOG_TAIL).read_to_end(&mut text)?;
            Ok(String::from_utf8_lossy(&text).trim().to_owned())
        };
        tail().ok().filter(|text| !text.is_empty()).unwrap_or_else(|| "nothing".to_owned())
    }
}

/// The right to be the node of a store, until dropped.
#[derive(Debug)]
pub struct StoreLock(#[expect(dead_code, reason = "held for its lock")] File);

/// What a background node says once to whoever started it, as a line of JSON on its standard output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Readiness {
    /// It answers on its socket.
    Ready,
    /// Another process became the node of the store first.
    Busy,
    /// It could not start.
    Failed(ApiError),
}

impl Readiness {
    /// Tells the process that started this one. That it may have left meanwhile is no error.
    pub fn report(&self) {
        let mut line = serde_json::to_vec(self).unwrap_or_default();
        line.push(b'\n');
        let mut out = io::stdout().lock();
        if let Err(error) = out.write_all(&line).and_then(|()| out.flush()) {
            tracing::debug!(%error, "nobody waits for the node");
        }
    }
}

/// A node that this process started in the background.
#[derive(Debug)]
pub struct Background(Child);

/// What came of starting one.
#[derive(Debug)]
pub enum Started {
    /// It runs and answers.
    Ready(Background),
    /// Another process was faster.
    Busy,
}

impl Background {
    /// Starts this program once more with `args`, apart from this one's terminal, and waits until it is ready.
    ///
    /// # Errors
    /// When it cannot be started, ends early, is not ready in time, or says why it cannot run.
    pub async fn start(store: &StoreDir, args: &[std::ffi::OsString]) -> Result<Started, LifecycleError> {
        let log = store.open_log().map_err(|source| LifecycleError::store(&store.log(), source))?;
        let log_start = log.metadata().map_or(0, |metadata| metadata.len());
        // Not current_exe(): that names a file which may have been replaced since.
        let mut child = Command::new("/proc/self/exe")
            .arg0("knot")
            .args(args)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .map_err(LifecycleError::Spawn)?;
        let mut line = String::new();
        if let Some(stdout) = child.stdout.take() {
            // One line of bounded length: a node says no more.
            let mut stdout = BufReader::new(stdout.take(64 << 10));
            let read = tokio::time::timeout(READY_WITHIN, stdout.read_line(&mut line)).await;
            read.map_err(|_| LifecycleError::NotReady { log: store.log() })?.map_err(LifecycleError::Spawn)?;
        }
        match serde_json::from_str(&line) {
            Ok(Readiness::Ready) => Ok(Started::Ready(Self(child))),
            Ok(Readiness::Busy) => Ok(Started::Busy),
            Ok(Readiness::Failed(error)) => Err(LifecycleError::Refused(error)),
            Err(_) => Err(LifecycleError::Died { tail: store.log_from(log_start), log: store.log() }),
        }
    }

    /// Waits for its end, at most `limit`; false when it still runs then.
    pub async fn ended_within(mut self, limit: Duration) -> bool {
        tokio::time::timeout(limit, self.0.wait()).await.is_ok()
    }
}

/// Leaves the terminal of the command that started this process: its Ctrl-C and its end are not for a background
/// node.
pub fn detach() {
    if let Err(error) = rustix::process::setsid() {
        tracing::debug!(%error, "already apart from the terminal");
    }
}

/// Counts who uses the node, and closes when it leaves, so that no command is accepted by a node that is about to
/// end.
#[derive(Clone, Debug, Default)]
pub struct Gate {
    users: Arc<Mutex<Users>>,
    closed: CancellationToken,
}

#[derive(Debug, Default)]
struct Users {
    now: usize,
    ever: bool,
    closed: bool,
}

impl Gate {
    /// Comes in as a user, until the pass is dropped; `None` when the node is leaving.
    pub fn enter(&self) -> Option<Pass> {
        let mut users = self.users();
        if users.closed {
            return None;
        }
        users.now += 1;
        users.ever = true;
        Some(Pass(self.clone()))
    }

    /// Lets nobody in any more, and tells those who are in.
    pub fn close(&self) {
        self.users().closed = true;
        self.closed.cancel();
    }

    /// Completes when the gate is closed.
    pub async fn closed(&self) {
        self.closed.cancelled().await;
    }

    fn is_unused(&self) -> bool {
        self.users().now == 0
    }

    fn was_used(&self) -> bool {
        self.users().ever
    }

    /// Closes unless somebody is in.
    fn close_if_unused(&self) -> bool {
        let mut users = self.users();
        users.closed |= users.now == 0;
        let closed = users.closed;
        drop(users);
        if closed {
            self.closed.cancel();
        }
        closed
    }

    fn users(&self) -> MutexGuard<'_, Users> {
        // The counts are valid after every statement that changes them.
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One user of the node.
#[derive(Debug)]
pub struct Pass(Gate);

impl Drop for Pass {
    fn drop(&mut self) {
        self.0.users().now -= 1;
    }
}

/// Why a node ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// SIGINT, SIGTERM or SIGHUP.
    Signal,
    /// It had nothing to do for long enough.
    Idle,
    /// A command closed its gate.
    Asked,
}

/// The signals that end a process.
#[derive(Debug)]
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    /// Catches them from now on.
    ///
    /// # Errors
    /// When no handler can be installed.
    pub fn new() -> Result<Self, LifecycleError> {
        let catch = |kind| signal(kind).map_err(LifecycleError::Signals);
        Ok(Self {
            interrupt: catch(SignalKind::interrupt())?,
            terminate: catch(SignalKind::terminate())?,
            hangup: catch(SignalKind::hangup())?,
        })
    }

    /// Completes when one arrives.
    pub async fn recv(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}

/// Completes when the node has to end: on a signal, when its gate is closed, or, with `idle_exit`, when it has had
/// no user and `is_idle` has held for that long. The gate is closed then.
pub async fn until_stop(
    gate: &Gate,
    signals: &mut Signals,
    is_idle: impl Fn() -> bool,
    idle_exit: Option<Duration>,
) -> Stop {
    let stop = tokio::select! {
        () = signals.recv() => Stop::Signal,
        () = gate.closed() => Stop::Asked,
        () = until_idle(gate, is_idle, idle_exit) => Stop::Idle,
    };
    gate.close();
    stop
}

async fn until_idle(gate: &Gate, is_idle: impl Fn() -> bool, idle_exit: Option<Duration>) {
    let Some(limit) = idle_exit else { return std::future::pending().await };
    let mut tick = tokio::time::interval((limit / 10).clamp(Duration::from_millis(20), Duration::from_secs(1)));
    let mut idleness = Idleness { limit, start: Instant::now(), since: None };
    loop {
        let now = tick.tick().await;
        let idle = gate.is_unused() && is_idle();
        if idleness.is_over(now, idle, gate.was_used()) && gate.close_if_unused() {
            return;
        }
    }
}

/// How long a node has had nothing to do.
struct Idleness {
    limit: Duration,
    start: Instant,
    since: Option<Instant>,
}

impl Idleness {
    /// Whether that is long enough. A node that nobody has used yet waits for whoever started it.
    fn is_over(&mut self, now: Instant, idle: bool, was_used: bool) -> bool {
        if !idle {
            self.since = None;
            return false;
        }
        if !was_used {
            return now.duration_since(self.start) >= self.limit.max(FIRST_USER_WITHIN);
        }
        now.duration_since(*self.since.get_or_insert(now)) >= self.limit
    }
}

/// Why a node cannot start.
#[derive(Debug, thiserror::Error)]
pub enum LifecycleError {
    /// The store cannot be used.
    #[error("cannot use {path:?} in the store: choose a directory of yours with --store")]
    Store {
        /// What was to be made or opened.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// No process.
    #[error("cannot start a node in the background")]
    Spawn(#[source] io::Error),
    /// No signal handler.
    #[error("cannot catch signals")]
    Signals(#[source] io::Error),
    /// It ended without a word.
    #[error("the node ended before it was ready; at the end of its log {log:?}: {tail}")]
    Died {
        /// What it wrote.
        tail: String,
        /// Where.
        log: PathBuf,
    },
    /// It says nothing.
    #[error("expected the node to be ready within {READY_WITHIN:?}; look into its log {log:?}")]
    NotReady {
        /// Where to look.
        log: PathBuf,
    },
    /// It said why.
    #[error(transparent)]
    Refused(ApiError),
}

impl LifecycleError {
    fn store(path: &Path, source: io::Error) -> Self {
        Self::Store { path: path.to_owned(), source }
    }

    /// The kind that decides the exit code.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Refused(error) => error.kind,
            _ => ErrorKind::Failure,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn one_holder_a_store_and_a_left_lock_file_is_no_holder() {
        let dir = tempfile::tempdir().unwrap();
        let store = StoreDir::open(&dir.path().join("a/b")).unwrap();
        let first = store.lock().unwrap().expect("the store is free");
        assert_eq!(store.holder(), Some(std::process::id()));
        assert!(store.lock().unwrap().is_none());
        drop(first);
        assert!(store.path().join("node.lock").exists());
        assert!(store.lock().unwrap().is_some());
    }

    #[test]
    fn a_new_store_is_for_its_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        let store = StoreDir::open(&dir.path().join("store")).unwrap();
        assert_eq!(store.path().metadata().unwrap().permissions().mode() & 0o777, 0o700);
        let _lock = store.lock().unwrap();
        assert_eq!(store.lock_path().metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_store_that_cannot_be_made_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        let error = StoreDir::open(&file.join("store")).unwrap_err();
        assert!(error.to_string().contains("--store"), "{error}");
    }

    #[test]
    fn nobody_comes_in_after_the_gate_has_closed() {
        let gate = Gate::default();
        let pass = gate.enter().unwrap();
        assert!(!gate.close_if_unused(), "somebody is in");
        assert!(gate.enter().is_some());
        drop(pass);
        assert!(gate.close_if_unused());
        assert!(gate.enter().is_none());
    }

    fn idleness(limit_s: u64) -> (Idleness, impl Fn(u64) -> Instant) {
        let start = Instant::now();
        (Idleness { limit: Duration::from_secs(limit_s), start, since: None }, move |s| start + Duration::from_secs(s))
    }

    #[test]
    fn an_idle_node_ends_after_its_time_and_a_busy_one_does_not() {
        let (mut idleness, at) = idleness(300);
        assert!(!idleness.is_over(at(1000), false, true), "it is busy");
        assert!(!idleness.is_over(at(1001), true, true));
        assert!(!idleness.is_over(at(1300), true, true), "too early");
        assert!(!idleness.is_over(at(1301), false, true), "busy again");
        assert!(!idleness.is_over(at(1302), true, true));
        assert!(!idleness.is_over(at(1601), true, true), "the time counts anew");
        assert!(idleness.is_over(at(1602), true, true));
    }

    #[test]
    fn a_new_node_waits_for_its_first_user() {
        let (mut idleness, at) = idleness(0);
        assert!(!idleness.is_over(at(29), true, false));
        assert!(idleness.is_over(at(29), true, true), "used, and idle since");
        assert!(idleness.is_over(at(30), true, false), "nobody came");
    }

    #[tokio::test]
    async fn a_node_that_has_nobody_left_closes_its_gate_and_ends() {
        let gate = Gate::default();
        let busy = AtomicBool::new(true);
        let idle = until_idle(&gate, || !busy.load(Ordering::Relaxed), Some(Duration::ZERO));
        tokio::pin!(idle);
        drop(gate.enter());
        assert!(futures::poll!(&mut idle).is_pending(), "it has work");
        let pass = gate.enter();
        busy.store(false, Ordering::Relaxed);
        assert!(futures::poll!(&mut idle).is_pending(), "it has a user");
        drop(pass);
        idle.await;
        assert!(gate.enter().is_none());
    }
}
