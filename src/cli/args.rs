//! Arguments that several commands share, and what their texts mean.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use super::error::CliError;
use super::node_args::NodeArgs;
use super::{metainfo_file, output};
use crate::node::api::{AddRequest, TorrentName};
use crate::node::lifecycle::StoreDir;
use crate::types::{InfoId, InfoSig, Magnet, MagnetError, PeerAddr, PeerAddrError};

/// Digits of an infohash in base 32.
const BASE32_LEN: usize = 32;

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

/// Which torrent, and where its bytes come from.
#[derive(Debug, Args)]
pub(super) struct TorrentArgs {
    /// Magnet link (in quotes), InfoID, .torrent or .knot file, or the URL of one
    #[arg(value_name = "TORRENT")]
    torrent: PathBuf,
    /// Peer to ask, as a multiaddr or HOST:PORT; may be given more than once
    #[arg(long, value_name = "ADDR", value_parser = peer, env = "KNOT_PEER", value_delimiter = ',')]
    peer: Vec<String>,
    /// How long to wait for the metainfo
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "60s", env = "KNOT_TIMEOUT")]
    timeout: Duration,
    /// How long a read waits without progress until it fails
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "60s", env = "KNOT_READ_TIMEOUT")]
    read_timeout: Duration,
    /// Version of the dataset that an InfoSig names [default: the newest]
    #[arg(long, value_name = "SEQ", value_parser = clap::value_parser!(u64).range(1..))]
    at: Option<u64>,
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
            at: self.at,
        })
    }
}

/// A magnet link, a URL or an InfoID where the text is one, else a file: `./` in front makes a file of everything.
pub(super) fn torrent_name(text: &Path) -> Result<TorrentName, CliError> {
    if let Some(name) = link(text) {
        return name;
    }
    match metainfo_file::read(text) {
        Ok(metainfo) => Ok(TorrentName::Metainfo(hex::encode(metainfo.bytes()))),
        Err(CliError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            let got = text.display();
            Err(CliError::Usage(format!(
                "expected a magnet link, a URL, an InfoID of 40, 64 or 128 hex digits or a metainfo file, got {got:?}, \
                 which is none of them"
            )))
        }
        Err(error) => Err(error),
    }
}

/// What a text names that is no file.
pub(super) fn link(text: &Path) -> Option<Result<TorrentName, CliError>> {
    let text = text.to_str()?.trim();
    let scheme = text.split_once(':').map(|(scheme, _)| scheme.to_ascii_lowercase());
    match scheme.as_deref() {
        Some("magnet") => return Some(magnet(text)),
        Some("http" | "https") => return Some(Ok(TorrentName::Url(text.to_owned()))),
        _ => {}
    }
    if let Ok(id) = text.parse::<InfoId>() {
        return Some(Ok(TorrentName::InfoId(id.to_string())));
    }
    // The other form of an infohash: 32 digits in base 32.
    let is_base32 = text.len() == BASE32_LEN && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let link: Magnet = is_base32.then(|| format!("magnet:?xt=urn:btih:{text}").parse().ok())??;
    Some(Ok(TorrentName::InfoId(link.id.to_string())))
}

fn magnet(text: &str) -> Result<TorrentName, CliError> {
    let magnet: Magnet = text.parse().map_err(|error: MagnetError| CliError::Usage(error.to_string()))?;
    if let Some(hint) = magnet.cut_hint() {
        output::note(format!("the magnet link says where to look for nothing: {hint}"));
    }
    Ok(TorrentName::Magnet(text.to_owned()))
}

/// A time such as `90s` or `5m`; a bare number is seconds.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.parse() {
        return Ok(Duration::from_secs(seconds));
    }
    humantime::parse_duration(text).map_err(|error| format!("expected a time such as 30s or 5m: {error}"))
}

/// The name of a dataset.
pub(super) fn info_sig(text: &str) -> Result<InfoSig, String> {
    match text.trim().parse::<InfoId>() {
        Ok(InfoId::Sig(sig)) => Ok(sig),
        Ok(InfoId::Hash(_)) => Err(format!("expected an InfoSig of 128 hex digits, got the InfoHash {text:?}")),
        Err(_) => Err(format!("expected an InfoSig of 128 hex digits, got {text:?}")),
    }
}

/// A multiaddr, `IP:PORT`, or `HOST:PORT`, which the node looks up.
pub(super) fn peer(text: &str) -> Result<String, String> {
    if let Ok(addr) = text.parse::<PeerAddr>() {
        return Ok(addr.to_string());
    }
    let is_host = |host: &str| !host.is_empty() && !host.contains([':', '/', ' ']);
    match text.rsplit_once(':') {
        Some((host, port)) if is_host(host) && port.parse::<u16>().is_ok_and(|port| port > 0) => Ok(text.to_owned()),
        _ => Err(PeerAddrError(text.to_owned()).to_string()),
    }
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
        for addr in ["127.0.0.2:6881", "[::1]:6881", "seed.example:6881", "/ip4/127.0.0.1/tcp/1"] {
            assert_eq!(peer(addr).as_deref(), Ok(addr));
        }
        for wrong in ["localhost", "localhost:0", ":1", "http://a:1", "::1:x"] {
            assert!(peer(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_info_id_is_not_looked_for_among_files() {
        let id = "Ab".repeat(32);
        assert_eq!(torrent_name(Path::new(&id)).unwrap(), TorrentName::InfoId(id.to_lowercase()));
        let base32 = torrent_name(Path::new("ZHQVOY7XELZD5GFCTXWN7LRUDOMNKMCW")).unwrap();
        assert_eq!(base32, TorrentName::InfoId("c9e15763f722f23e98a29decdfae341b98d53056".into()));
        let link = "magnet:?xt=urn:btih:ZHQVOY7XELZD5GFCTXWN7LRUDOMNKMCW&dn=a";
        assert_eq!(torrent_name(Path::new(link)).unwrap(), TorrentName::Magnet(link.into()));
        assert_eq!(torrent_name(Path::new("HTTP://a/b")).unwrap(), TorrentName::Url("HTTP://a/b".into()));
        assert_eq!(torrent_name(Path::new("magnet:?dn=a")).unwrap_err().exit_code(), 2);
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
