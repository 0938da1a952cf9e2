//! A publisher of a dataset, as a user would be one: a folder of one file, a key, a store, and `knot seed`.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;

use super::process::{PATIENCE, knot, run, signal, wait_until};

/// What every node of a test is started with.
pub const OFFLINE: [&str; 4] = ["--discovery", "none", "--listen", "/ip4/127.0.0.1/tcp/0"];

/// A folder that is published; its node runs while [`Publisher::seed`] is kept.
pub struct Publisher {
    dir: PathBuf,
    store: PathBuf,
    /// The dataset's name, once there is a version.
    pub sig: String,
}

impl Publisher {
    /// Publishes `content` as the first version of the file `data`, and `sub/data`.
    pub fn new(dir: &Path, content: &str) -> Self {
        let (dir, store) = (dir.to_owned(), dir.join("publisher"));
        std::fs::create_dir_all(dir.join("folder/sub")).unwrap();
        run(knot(&dir.join("no-store")).args(["key", "new"]).arg(dir.join("key")));
        let mut publisher = Self { dir, store, sig: String::new() };
        publisher.sig = publisher.publish(content, &[]);
        publisher
    }

    /// The next version.
    pub fn update(&self, content: &str) {
        self.publish(content, &["--update", &self.sig]);
    }

    fn publish(&self, content: &str, more: &[&str]) -> String {
        ["data", "sub/data"]
            .iter()
            .for_each(|name| std::fs::write(self.dir.join("folder").join(name), content).unwrap());
        let mut command = knot(&self.store);
        command.arg("publish").arg(self.dir.join("folder")).arg("--key").arg(self.dir.join("key"));
        // Older versions stay where they are.
        run(command.args(["--snapshot", "copy"]).args(OFFLINE).args(more)).trim_end().to_owned()
    }

    /// Serves what is published, until it is dropped.
    pub fn seed(&self) -> Server {
        let mut command = knot(&self.store);
        command.args(["seed", &self.sig]).args(OFFLINE);
        Server::start(command)
    }
}

/// A command that serves in the foreground, and prints where; killed when dropped.
pub struct Server {
    running: Lines,
    /// Where it listens, with its peer id.
    pub addr: String,
}

impl Server {
    pub fn start(command: Command) -> Self {
        let running = Lines::of(command);
        let addr = running.next();
        assert!(addr.contains("/p2p/"), "an address with a peer id, got {addr}");
        Self { running, addr }
    }

    /// Ends it as Ctrl-C does.
    pub fn end(self) {
        self.running.end();
    }
}

/// A running command whose standard output is read line by line; killed when dropped.
pub struct Lines {
    child: Child,
    lines: mpsc::Receiver<String>,
    notes: mpsc::Receiver<String>,
}

impl Lines {
    pub fn of(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = lines_of(child.stdout.take().unwrap());
        let notes = lines_of(child.stderr.take().unwrap());
        Self { child, lines, notes }
    }

    /// The next line that it prints.
    #[track_caller]
    pub fn next(&self) -> String {
        let line = self.lines.recv_timeout(PATIENCE);
        line.unwrap_or_else(|_| {
            panic!("expected a line in time; stderr: {:?}", self.notes.try_iter().collect::<Vec<_>>())
        })
    }

    /// The next line, as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        let line = self.next();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
    }

    /// Waits for a line on standard error with `text` in it.
    #[track_caller]
    pub fn note(&self, text: &str) {
        while !self.notes.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("expected {text:?} in time")).contains(text)
        {
        }
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Whether everything that it has printed has been looked at.
    pub fn is_silent(&self) -> bool {
        self.lines.try_recv().is_err()
    }

    /// Waits for its end; what else it printed.
    pub fn rest(mut self) -> Vec<String> {
        wait_until("a command ends", || self.has_ended());
        // The end of the pipe is the end of these.
        self.lines.iter().collect()
    }

    pub fn end(mut self) {
        signal(self.child.id(), "-INT");
        wait_until("a command ends", || self.has_ended());
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lines_of(pipe: impl std::io::Read + Send + 'static) -> mpsc::Receiver<String> {
    let (send, lines) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            let _ = send.send(line);
        }
    });
    lines
}
