//! A web server on loopback that serves a directory, well or badly, and remembers what it was asked.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;

/// How it serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manners {
    /// As it should.
    Good,
    /// Whole files, whatever is asked for.
    NoRanges,
    /// Every byte wrong.
    Corrupt,
    /// A page that says that there is nothing, with status 404.
    Missing,
    /// The same with status 200.
    Page,
    /// Connections break after so many bytes of a body.
    Breaks(usize),
    /// Connections are closed as they come.
    Down,
}

/// A running server; its threads end with the process.
pub struct WebServer {
    addr: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    root: PathBuf,
    manners: Mutex<Manners>,
    /// Bytes of bodies by path, as it is spelt in requests.
    sent: Mutex<BTreeMap<String, u64>>,
    requests: Mutex<usize>,
}

impl WebServer {
    pub fn start(root: &Path, manners: Manners) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            root: root.to_owned(),
            manners: Mutex::new(manners),
            sent: Mutex::default(),
            requests: Mutex::default(),
        });
        let server = shared.clone();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let shared = server.clone();
                thread::spawn(move || shared.serve(stream));
            }
        });
        Self { addr, shared }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.addr)
    }

    pub fn set(&self, manners: Manners) {
        *self.shared.manners.lock().unwrap() = manners;
    }

    /// Requests so far.
    pub fn requests(&self) -> usize {
        *self.shared.requests.lock().unwrap()
    }

    /// Bytes of all bodies.
    pub fn sent(&self) -> u64 {
        self.shared.sent.lock().unwrap().values().sum()
    }

    /// Every path that was asked for.
    pub fn paths(&self) -> Vec<String> {
        self.shared.sent.lock().unwrap().keys().cloned().collect()
    }
}

impl Shared {
    fn serve(&self, stream: TcpStream) {
        stream.set_nodelay(true).unwrap();
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
        loop {
            let head: Vec<String> = lines.by_ref().take_while(|line| !line.is_empty()).collect();
            let Some(path) = head.first().and_then(|line| line.split(' ').nth(1)) else { return };
            let manners = *self.manners.lock().unwrap();
            if manners == Manners::Down {
                return;
            }
            *self.requests.lock().unwrap() += 1;
            let range = head.iter().find_map(|line| {
                line.to_ascii_lowercase()
                    .strip_prefix("range: bytes=")?
                    .split_once('-')
                    .map(|(a, b)| (a.parse().unwrap(), b.parse::<usize>().unwrap() + 1))
            });
            if self.answer(&stream, path, range, manners).is_err() {
                return;
            }
        }
    }

    fn answer(
        &self,
        mut stream: &TcpStream,
        path: &str,
        range: Option<(usize, usize)>,
        manners: Manners,
    ) -> std::io::Result<()> {
        let page = b"<html>nothing here</html>".to_vec();
        let file = match manners {
            Manners::Missing | Manners::Page => None,
            _ => fs::read(self.root.join(decoded(path))).ok(),
        };
        let (status, headers, mut body) = match (file, range) {
            (Some(file), Some((first, end))) if manners != Manners::NoRanges && end <= file.len() => {
                let headers = format!("Content-Range: bytes {first}-{}/{}\r\n", end - 1, file.len());
                ("206 Partial Content", headers, file[first..end].to_vec())
            }
            (Some(file), _) => ("200 OK", String::new(), file),
            (None, _) if manners == Manners::Page => ("200 OK", "Content-Type: text/html\r\n".to_owned(), page),
            (None, _) => ("404 Not Found", "Content-Type: text/html\r\n".to_owned(), page),
        };
        if manners == Manners::Corrupt {
            body.iter_mut().for_each(|byte| *byte ^= 0x55);
        }
        let head = format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\n\r\n", body.len());
        stream.write_all(head.as_bytes())?;
        let mut left = if let Manners::Breaks(after) = manners { after } else { usize::MAX };
        self.sent.lock().unwrap().entry(path.to_owned()).or_default();
        for chunk in body.chunks(16 * 1024) {
            let chunk = &chunk[..chunk.len().min(left)];
            left -= chunk.len();
            stream.write_all(chunk)?;
            *self.sent.lock().unwrap().entry(path.to_owned()).or_default() += chunk.len() as u64;
            if left == 0 || *self.manners.lock().unwrap() == Manners::Down {
                return Err(std::io::ErrorKind::BrokenPipe.into());
            }
        }
        Ok(())
    }
}

/// A path below the root.
fn decoded(path: &str) -> PathBuf {
    use std::os::unix::ffi::OsStringExt as _;
    let mut bytes = Vec::new();
    let mut rest = path.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let escaped =
            (*first == b'%').then(|| u8::from_str_radix(std::str::from_utf8(&tail[..2]).unwrap(), 16).unwrap());
        bytes.push(escaped.unwrap_or(*first));
        rest = if escaped.is_some() { &tail[2..] } else { tail };
    }
    let path = PathBuf::from(std::ffi::OsString::from_vec(bytes));
    path.components().filter(|part| matches!(part, Component::Normal(_))).collect()
}
