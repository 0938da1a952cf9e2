//! Arguments that several commands share, and what their texts mean.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytesize::ByteSize;
use clap::Args;

use super::error::CliError;
use super::metainfo_file;
use crate::node::NodeConfig;
use crate::node::api::{AddRequest, TorrentName};
use crate::node::lifecycle::StoreDir;
use crate::types::{InfoId, PeerAddr};

/// Where a node listens when nobody says otherwise: every interface, any port, over TCP and QUIC.
const DEFAULT_LISTEN: [&str; 2] = ["/ip4/0.0.0.0/tcp/0", "/ip4/0.0.0.0/udp/0/quic-v1"];
/// Ways to find peers. `static` is `--peer`.
const SOURCES: [&str; 3] = ["static", "mdns", "kad"];
const DEFAULT_CACHE: ByteSize = ByteSize::gib(10);

#[derive(Debug, Args)]
pub(super) struct Common {
    /// Directory of the cache, the index and the identity [default: knot in the XDG data directory]
    #[arg(long, global = true, value_name = "DIR", env = "KNOT_STORE")]
    store: Option<PathBuf>,
    /// Print results as JSON
    #[arg(long, global = true)]
    pub(super) json: bool,
}

impl Common {
    /// The store, made where there is none.
    pub(super) fn store(&self) -> Result<StoreDir, CliError> {
        Ok(StoreDir::open(&self.store_path()?)?)
    }

    /// The store, for commands that only ask the node that runs on it.
    pub(super) fn running_store(&self) -> Result<StoreDir, CliError> {
        let path = self.store_path()?;
        StoreDir::find(&path).ok_or_else(|| no_node(&path))
    }

    /// Where the store is, or would be.
    fn store_path(&self) -> Result<PathBuf, CliError> {
        if let Some(store) = &self.store {
            return Ok(store.clone());
        }
        let dirs = directories::ProjectDirs::from("", "", "knot");
        let dirs =
            dirs.ok_or_else(|| CliError::Usage("expected a home directory for the store: give --store DIR".into()))?;
        Ok(dirs.data_dir().to_owned())
    }
}

/// What a command that only asks says when there is nobody to ask.
pub(super) fn no_node(store: &Path) -> CliError {
    CliError::Failure(format!(
        "no node runs on the store {store:?}: `knot mount`, `knot seed` and `knot daemon` start one"
    ))
}

/// How a node runs, where this command has to start one.
#[derive(Debug, Args)]
#[command(next_help_heading = "Node, where none runs yet")]
pub(super) struct NodeArgs {
    /// Address to listen on, as a multiaddr or IP:PORT; may be given more than once
    #[arg(long, value_name = "ADDR", value_parser = listen_addr, env = "KNOT_LISTEN", value_delimiter = ',')]
    pub(super) listen: Vec<String>,
    /// Nodes to begin the search for peers with, as multiaddrs with a peer id
    #[arg(long, value_name = "ADDR", value_parser = peer, env = "KNOT_BOOTSTRAP", value_delimiter = ',')]
    bootstrap: Vec<String>,
    /// Ways to find peers: `none`, or a list of static, mdns, kad [default: all]
    #[arg(long, value_name = "LIST", value_parser = Discovery::parse, env = "KNOT_DISCOVERY")]
    discovery: Option<Discovery>,
    /// Most bytes that the cache of the store may take, such as 20GiB [default: 10 GiB]; also changes a running node
    #[arg(long, value_name = "SIZE", env = "KNOT_CACHE_SIZE")]
    pub(super) cache_size: Option<ByteSize>,
    /// How long a node in the background stays when it has nothing to do
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "5m", env = "KNOT_IDLE_EXIT")]
    pub(super) idle_exit: Duration,
}

impl NodeArgs {
    pub(super) fn config(&self, store: &StoreDir) -> NodeConfig {
        let listen = match self.listen.is_empty() {
            true => DEFAULT_LISTEN.map(str::to_owned).to_vec(),
            false => self.listen.clone(),
        };
        NodeConfig {
            store: store.path().to_owned(),
            cache_bytes: self.cache_size.unwrap_or(DEFAULT_CACHE).as_u64(),
            listen,
            discovery: self.discovery().unwrap_or_else(|| SOURCES.map(str::to_owned).to_vec()),
            bootstrap: self.bootstrap.clone(),
        }
    }

    /// The sources of peers that were chosen, if they were.
    pub(super) fn discovery(&self) -> Option<Vec<String>> {
        self.discovery.as_ref().map(|Discovery(names)| names.clone())
    }

    /// The same arguments for `knot daemon`.
    pub(super) fn for_daemon(&self, idle_exit: Duration) -> Vec<OsString> {
        let mut args: Vec<OsString> = Vec::new();
        let mut push = |name: &str, value: &str| args.push(format!("--{name}={value}").into());
        self.listen.iter().for_each(|addr| push("listen", addr));
        self.bootstrap.iter().for_each(|addr| push("bootstrap", addr));
        if let Some(names) = self.discovery() {
            push("discovery", &if names.is_empty() { "none".to_owned() } else { names.join(",") });
        }
        if let Some(size) = self.cache_size {
            push("cache-size", &size.as_u64().to_string());
        }
        push("idle-exit", &format!("{}ms", idle_exit.as_millis()));
        args
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Discovery(Vec<String>);

impl Discovery {
    fn parse(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(Self(Vec::new()));
        }
        let known = |name: &str| match SOURCES.contains(&name) {
            true => Ok(name.to_owned()),
            false => Err(format!("expected `none` or a list of {}, got {name:?}", SOURCES.join(", "))),
        };
        text.split(',').map(known).collect::<Result<_, _>>().map(Self)
    }
}

/// Which torrent, and where its bytes come from.
#[derive(Debug, Args)]
pub(super) struct TorrentArgs {
    /// InfoID (40, 64 or 128 hex digits) or metainfo file
    #[arg(value_name = "INFO_ID|FILE")]
    torrent: PathBuf,
    /// Peer to ask, as a multiaddr or IP:PORT; may be given more than once
    #[arg(long, value_name = "ADDR", value_parser = peer, env = "KNOT_PEER", value_delimiter = ',')]
    peer: Vec<String>,
    /// How long to wait for the metainfo
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "60s", env = "KNOT_TIMEOUT")]
    timeout: Duration,
    /// How long a read waits without progress until it fails
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "60s", env = "KNOT_READ_TIMEOUT")]
    read_timeout: Duration,
}

impl TorrentArgs {
    pub(super) fn request(&self, node: &NodeArgs, prefetch_all: bool) -> Result<AddRequest, CliError> {
        Ok(AddRequest {
            torrent: torrent_name(&self.torrent)?,
            peers: self.peer.clone(),
            discovery: node.discovery(),
            metainfo_timeout: self.timeout,
            read_timeout: self.read_timeout,
            prefetch_all,
        })
    }
}

/// An InfoID where the text is one, else a file: `./` in front makes a file of what looks like an InfoID.
fn torrent_name(text: &Path) -> Result<TorrentName, CliError> {
    let id = text.to_str().map(str::parse::<InfoId>);
    if let Some(Ok(id)) = id {
        return Ok(TorrentName::InfoId(id.to_string()));
    }
    match metainfo_file::read(text) {
        Ok(metainfo) => Ok(TorrentName::Metainfo(hex::encode(metainfo.bytes()))),
        Err(CliError::File { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            let got = text.display();
            Err(CliError::Usage(format!(
                "expected an InfoID of 40, 64 or 128 hex digits or a metainfo file, got {got:?}, which is neither"
            )))
        }
        Err(error) => Err(error),
    }
}

/// A time such as `90s` or `5m`; a bare number is seconds.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.parse() {
        return Ok(Duration::from_secs(seconds));
    }
    humantime::parse_duration(text).map_err(|error| format!("expected a time such as 30s or 5m: {error}"))
}

fn listen_addr(text: &str) -> Result<String, String> {
    if text.starts_with('/') {
        return Ok(text.to_owned());
    }
    let addr: SocketAddr =
        text.parse().map_err(|_| format!("expected a multiaddr (/ip4/127.0.0.1/tcp/0) or IP:PORT, got {text:?}"))?;
    let family = if addr.is_ipv4() { "ip4" } else { "ip6" };
    Ok(format!("/{family}/{}/tcp/{}", addr.ip(), addr.port()))
}

pub(super) fn peer(text: &str) -> Result<String, String> {
    text.parse::<PeerAddr>().map(|addr| addr.to_string()).map_err(|error| error.to_string())
}

/// `path` with every symlink resolved, also where a dead filesystem is mounted at its end; the absolute path where
/// it does not exist.
pub(super) fn resolved(path: &Path) -> Result<PathBuf, CliError> {
    let absolute = std::path::absolute(path).map_err(|source| CliError::file("find", path, source))?;
    if let Ok(path) = absolute.canonicalize() {
        return Ok(path);
    }
    let parent = absolute.parent().and_then(|parent| parent.canonicalize().ok());
    Ok(match (parent, absolute.file_name()) {
        (Some(parent), Some(name)) => parent.join(name),
        _ => absolute,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_addresses_have_short_forms() {
        assert_eq!(duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("1m 500ms"), Ok(Duration::from_millis(60_500)));
        assert!(duration("soon").unwrap_err().contains("such as 30s"));
        assert_eq!(listen_addr("127.0.0.1:4001").as_deref(), Ok("/ip4/127.0.0.1/tcp/4001"));
        assert_eq!(listen_addr("[::1]:0").as_deref(), Ok("/ip6/::1/tcp/0"));
        assert!(listen_addr("localhost").is_err());
        assert!(peer("localhost").is_err());
    }

    #[test]
    fn sources_are_checked() {
        assert_eq!(Discovery::parse("none"), Ok(Discovery(vec![])));
        assert_eq!(Discovery::parse("mdns,kad"), Ok(Discovery(vec!["mdns".into(), "kad".into()])));
        assert!(Discovery::parse("mdns,dns").unwrap_err().contains("\"dns\""));
        assert!(Discovery::parse("").is_err());
    }

    #[test]
    fn an_info_id_is_not_looked_for_among_files() {
        let id = "Ab".repeat(32);
        assert_eq!(torrent_name(Path::new(&id)).unwrap(), TorrentName::InfoId(id.to_lowercase()));
        let error = torrent_name(Path::new("abcd")).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("\"abcd\""), "{error}");
    }

    #[test]
    fn a_path_is_resolved_as_far_as_it_exists() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().canonicalize().unwrap();
        std::os::unix::fs::symlink(&real, dir.path().join("link")).unwrap();
        assert_eq!(resolved(&dir.path().join("link")).unwrap(), real);
        assert_eq!(resolved(&dir.path().join("link/none")).unwrap(), real.join("none"));
    }
}
