//! The socket itself: its path, its permissions, and who may connect.

use std::fs::{File, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::unix::SocketAddr;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes of a socket's path that the kernel takes, its final NUL not counted.
const MAX_PATH: usize = 107;
/// Commands that may be connected at a time; others wait.
const MAX_CONNECTIONS: usize = 256;

/// Names `socket` within the kernel's limit: through its directory's descriptor, where its path is longer.
struct ShortPath {
    path: PathBuf,
    _dir: Option<File>,
}

impl ShortPath {
    fn of(socket: &Path) -> io::Result<Self> {
        if socket.as_os_str().len() <= MAX_PATH {
            return Ok(Self { path: socket.to_owned(), _dir: None });
        }
        let dir = File::open(socket.parent().unwrap_or(Path::new("/")))?;
        let name = socket.file_name().unwrap_or_default();
        let path = Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string()).join(name);
        Ok(Self { path, _dir: Some(dir) })
    }
}

/// Connects to a node's socket.
pub(super) async fn connect(socket: &Path) -> io::Result<UnixStream> {
    let short = ShortPath::of(socket)?;
    UnixStream::connect(&short.path).await
}

/// Listens at `socket`, in place of whatever an earlier node left there. Only the holder of the store's lock calls
/// this, so what is there is stale.
pub(super) fn listen(socket: &Path) -> io::Result<OwnerListener> {
    // Made under another name first: under its own it never exists with wider permissions, nor not yet listening.
    let new = socket.with_extension("new");
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&ShortPath::of(&new)?.path)?;
    std::fs::set_permissions(&new, Permissions::from_mode(0o600))?;
    std::fs::rename(&new, socket)?;
    Ok(OwnerListener { listener, slots: Arc::new(Semaphore::new(MAX_CONNECTIONS)) })
}

/// Accepts connections of this process's user and of root.
pub(super) struct OwnerListener {
    listener: UnixListener,
    slots: Arc<Semaphore>,
}

impl OwnerListener {
    /// The next connection, with the slot that it takes until it ends.
    pub(super) async fn accept(&mut self) -> (UnixStream, Option<OwnedSemaphorePermit>) {
        let slot = self.slots.clone().acquire_owned().await.ok();
        loop {
            match self.listener.accept().await {
                Ok((stream, from)) if is_allowed(&stream, &from) => return (stream, slot),
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a command");
                    // Out of descriptors, most likely: trying at once would fail again.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

fn is_allowed(stream: &UnixStream, from: &SocketAddr) -> bool {
    let own = rustix::process::geteuid().as_raw();
    match stream.peer_cred() {
        Ok(peer) if peer.uid() == own || peer.uid() == 0 => true,
        Ok(peer) => {
            tracing::warn!(uid = peer.uid(), ?from, "refused a command of another user");
            false
        }
        Err(error) => {
            tracing::warn!(%error, "refused a command of nobody knows whom");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_is_for_its_owner_and_replaces_a_stale_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        drop(listen(&path).unwrap());
        assert_eq!(connect(&path).await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        let mut listener = listen(&path).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let (_client, _server) = tokio::join!(connect(&path), listener.accept());
    }

    #[tokio::test]
    async fn a_store_deep_in_the_tree_has_a_socket_too() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("d".repeat(200)).join("e".repeat(200));
        std::fs::create_dir_all(&deep).unwrap();
        let path = deep.join("control.sock");
        let mut listener = listen(&path).unwrap();
        let (client, _server) = tokio::join!(connect(&path), listener.accept());
        client.unwrap();
        drop(listener);
        assert!(connect(&path).await.is_err());
    }
}
