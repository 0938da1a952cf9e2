//! The nodes file: addresses of DHT nodes that answered, one a line, to start from the next time.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::SocketAddrV4;
use std::path::{Path, PathBuf};

use tokio::io::AsyncReadExt as _;

/// Nodes that are kept: a few that answer are enough to find the rest.
pub(super) const MAX_NODES: usize = 200;
/// Bytes that are read of the file.
const MAX_FILE: u64 = 64 * 1024;

/// Reads the nodes of `path`. A file that is missing or damaged is no error: lines that are no address are left
/// out, and the well-known nodes lead into the network again.
pub(super) async fn load(path: &Path) -> Vec<SocketAddrV4> {
    let mut bytes = Vec::new();
    let read = async { tokio::fs::File::open(path).await?.take(MAX_FILE).read_to_end(&mut bytes).await };
    match read.await {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => tracing::warn!(path = %path.display(), %error, "could not read the known DHT nodes"),
    }
    let text = String::from_utf8_lossy(&bytes);
    let nodes: BTreeSet<_> = text.lines().filter_map(|line| line.trim().parse::<SocketAddrV4>().ok()).collect();
    nodes.into_iter().filter(|node| node.port() != 0).take(MAX_NODES).collect()
}

/// Replaces the file at once, so that a crash leaves the old or the new one.
pub(super) async fn save(path: &Path, nodes: &[String]) -> std::io::Result<()> {
    let lines: String = nodes.iter().take(MAX_NODES).map(|node| format!("{node}\n")).collect();
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    tokio::fs::write(&beside, lines).await?;
    tokio::fs::rename(&beside, path).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nodes_survive_and_damage_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("nodes");
        assert!(load(&path).await.is_empty());
        let nodes = ["127.0.0.1:1".to_owned(), "127.0.0.2:2".to_owned()];
        save(&path, &nodes).await.unwrap();
        let loaded: Vec<_> = load(&path).await.iter().map(ToString::to_string).collect();
        assert_eq!(loaded, nodes);
        std::fs::write(&path, b"\xff\xfe\nnonsense\n127.0.0.1:0\n 127.0.0.3:3 \r\n127.0.0.3:3\n[::1]:4\n127.0.0")
            .unwrap();
        assert_eq!(load(&path).await, ["127.0.0.3:3".parse().unwrap()]);
        std::fs::write(&path, "127.0.0.1:1\n".repeat(1 << 20)).unwrap();
        assert_eq!(load(&path).await.len(), 1);
        assert_eq!(load(dir.path()).await, [], "a directory is no file");
    }
}
