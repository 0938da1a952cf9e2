//! How a node runs: arguments of every command that may have to start one.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::time::Duration;

use bytesize::ByteSize;
use clap::{Args, ValueEnum};

use super::args::{duration, peer};
use crate::node::lifecycle::StoreDir;
use crate::node::{Limits, NodeConfig};
use crate::transports::mse::EncryptionPolicy;

/// Ways to find peers. `static` is `--peer`, `pex` what peers tell of each other, `webseed` the servers that torrents
/// name, `gossip` passes on which dataset has a newer version.
const SOURCES: [&str; 9] = ["static", "mdns", "kad", "gossip", "dht", "trackers", "pex", "lsd", "webseed"];
const DEFAULT_CACHE: ByteSize = ByteSize::gib(10);

/// How a node runs, where this command has to start one.
#[derive(Debug, Args)]
#[command(next_help_heading = "Node, where none runs yet")]
pub(super) struct NodeArgs {
    /// Address to listen on: a multiaddr for other knots, IP:PORT for BitTorrent clients; may be given more than once
    #[arg(long, value_name = "ADDR", value_parser = listen_addr, env = "KNOT_LISTEN", value_delimiter = ',')]
    listen: Vec<String>,
    /// Port for BitTorrent clients, TCP and uTP [default: 6881 or the next that is free]
    #[arg(long, value_name = "PORT", env = "KNOT_PORT")]
    port: Option<u16>,
    /// Encryption of streams to BitTorrent clients: `required` reaches only those that encrypt
    #[arg(long, value_enum, default_value = "preferred", env = "KNOT_ENCRYPTION")]
    encryption: EncryptionArg,
    /// Use uTP where TCP does not get through; the default
    #[arg(long, overrides_with = "no_utp")]
    utp: bool,
    /// Use TCP only
    #[arg(long, env = "KNOT_NO_UTP")]
    no_utp: bool,
    /// Nodes to begin the search for peers with, as multiaddrs with a peer id
    #[arg(long, value_name = "ADDR", value_parser = peer, env = "KNOT_BOOTSTRAP", value_delimiter = ',')]
    bootstrap: Vec<String>,
    /// Nodes to enter the mainline DHT through, or `none` [default: the well-known ones]
    #[arg(long, value_name = "HOST:PORT", env = "KNOT_DHT_BOOTSTRAP", value_delimiter = ',')]
    dht_bootstrap: Vec<String>,
    /// Ways to find peers: `none`, or a list of static, mdns, kad, gossip, dht, trackers, pex, lsd, webseed
    /// [default: all]. `gossip` brings news of datasets. With `webseed`, HTTP servers that the torrent names are asked
    /// for what no peer delivers
    #[arg(long, value_name = "LIST", value_parser = Discovery::parse, env = "KNOT_DISCOVERY")]
    discovery: Option<Discovery>,
    /// Most connections of one torrent
    #[arg(long, value_name = "N", value_parser = max_peers, env = "KNOT_MAX_PEERS")]
    max_peers: Option<usize>,
    /// Most bytes a second to peers, such as 2MiB
    #[arg(long, value_name = "RATE", value_parser = rate, env = "KNOT_UPLOAD_LIMIT")]
    upload_limit: Option<u64>,
    /// Most bytes a second from peers, such as 10MiB
    #[arg(long, value_name = "RATE", value_parser = rate, env = "KNOT_DOWNLOAD_LIMIT")]
    download_limit: Option<u64>,
    /// Give peers nothing
    #[arg(long, env = "KNOT_NO_UPLOAD")]
    no_upload: bool,
    /// Most bytes that the cache of the store may take, such as 20GiB [default: 10 GiB]; also changes a running node
    #[arg(long, value_name = "SIZE", env = "KNOT_CACHE_SIZE")]
    pub(super) cache_size: Option<ByteSize>,
    /// How long a node in the background stays when it has nothing to do
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "5m", env = "KNOT_IDLE_EXIT")]
    pub(super) idle_exit: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum EncryptionArg {
    /// Never
    Disabled,
    /// Where the peer can
    Preferred,
    /// Always
    Required,
}

impl EncryptionArg {
    fn policy(self) -> EncryptionPolicy {
        match self {
            Self::Disabled => EncryptionPolicy::Disabled,
            Self::Preferred => EncryptionPolicy::Preferred,
            Self::Required => EncryptionPolicy::Required,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Disabled => "disabled",
            Self::Preferred => "preferred",
            Self::Required => "required",
        }
    }
}

impl NodeArgs {
    pub(super) fn config(&self, store: &StoreDir) -> NodeConfig {
        NodeConfig {
            store: store.path().to_owned(),
            cache_bytes: self.cache_size.unwrap_or(DEFAULT_CACHE).as_u64(),
            listen: self.listen.clone(),
            port: self.port,
            encryption: self.encryption.policy(),
            no_utp: self.no_utp(),
            discovery: self.discovery().unwrap_or_else(|| SOURCES.map(str::to_owned).to_vec()),
            bootstrap: self.bootstrap.clone(),
            dht_bootstrap: self.dht_bootstrap(),
            limits: Limits {
                max_peers: self.max_peers,
                upload: self.upload_limit,
                download: self.download_limit,
                no_upload: self.no_upload,
            },
        }
    }

    /// The sources of peers that were chosen, if they were.
    pub(super) fn discovery(&self) -> Option<Vec<String>> {
        self.discovery.as_ref().map(|Discovery(names)| names.clone())
    }

    fn no_utp(&self) -> bool {
        self.no_utp && !self.utp
    }

    fn dht_bootstrap(&self) -> Option<Vec<String>> {
        match &self.dht_bootstrap[..] {
            [] => None,
            [none] if none == "none" => Some(Vec::new()),
            nodes => Some(nodes.to_vec()),
        }
    }

    /// Names of arguments that were given and mean nothing to a node that runs already.
    pub(super) fn without_effect(&self) -> Vec<&'static str> {
        let given = [
            ("--listen", !self.listen.is_empty()),
            ("--port", self.port.is_some()),
            ("--encryption", self.encryption != EncryptionArg::Preferred),
            ("--no-utp", self.no_utp()),
            ("--dht-bootstrap", !self.dht_bootstrap.is_empty()),
            ("--max-peers", self.max_peers.is_some()),
            ("--upload-limit", self.upload_limit.is_some()),
            ("--download-limit", self.download_limit.is_some()),
            ("--no-upload", self.no_upload),
        ];
        given.into_iter().filter(|(_, is_given)| *is_given).map(|(name, _)| name).collect()
    }

    /// The same arguments for `knot daemon`.
    pub(super) fn for_daemon(&self, idle_exit: Duration) -> Vec<OsString> {
        let mut args: Vec<OsString> = Vec::new();
        let mut push = |name: &str, value: &str| args.push(format!("--{name}={value}").into());
        self.listen.iter().for_each(|addr| push("listen", addr));
        self.bootstrap.iter().for_each(|addr| push("bootstrap", addr));
        self.dht_bootstrap.iter().for_each(|addr| push("dht-bootstrap", addr));
        if let Some(names) = self.discovery() {
            push("discovery", &if names.is_empty() { "none".to_owned() } else { names.join(",") });
        }
        push("encryption", self.encryption.name());
        let numbers = [
            ("port", self.port.map(u64::from)),
            ("max-peers", self.max_peers.map(|peers| peers as u64)),
            ("upload-limit", self.upload_limit),
            ("download-limit", self.download_limit),
            ("cache-size", self.cache_size.map(|size| size.as_u64())),
        ];
        for (name, value) in numbers {
            if let Some(value) = value {
                push(name, &value.to_string());
            }
        }
        push("idle-exit", &format!("{}ms", idle_exit.as_millis()));
        args.extend([("--no-utp", self.no_utp()), ("--no-upload", self.no_upload)].into_iter().filter_map(flag));
        args
    }
}

fn flag((name, is_given): (&'static str, bool)) -> Option<OsString> {
    is_given.then(|| name.into())
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

fn listen_addr(text: &str) -> Result<String, String> {
    let is_address = text.starts_with('/') || text.parse::<SocketAddr>().is_ok();
    is_address
        .then(|| text.to_owned())
        .ok_or_else(|| format!("expected a multiaddr (/ip4/127.0.0.1/tcp/0) or IP:PORT, got {text:?}"))
}

fn max_peers(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|peers| *peers > 0).ok_or_else(|| format!("expected a number from 1, got {text:?}"))
}

/// Bytes a second; 0 would be a node that does nothing.
fn rate(text: &str) -> Result<u64, String> {
    let expected = || format!("expected bytes a second such as 500KiB or 2MiB, got {text:?}");
    let rate = text.strip_suffix("/s").unwrap_or(text).parse::<ByteSize>().map_err(|_| expected())?.as_u64();
    match rate {
        0 => Err(format!("{}; to give peers nothing, use --no-upload", expected())),
        rate => Ok(rate),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_rates_have_short_forms() {
        for addr in ["127.0.0.1:4001", "[::1]:0", "/ip4/127.0.0.1/tcp/4001"] {
            assert_eq!(listen_addr(addr).as_deref(), Ok(addr));
        }
        assert!(listen_addr("localhost").is_err());
        assert_eq!(rate("1MiB"), Ok(1 << 20));
        assert_eq!(rate("2000/s"), Ok(2000));
        assert!(rate("0").unwrap_err().contains("--no-upload"));
        assert!(rate("fast").is_err());
    }

    #[test]
    fn sources_are_checked() {
        assert_eq!(Discovery::parse("none"), Ok(Discovery(vec![])));
        assert_eq!(Discovery::parse("mdns,dht"), Ok(Discovery(vec!["mdns".into(), "dht".into()])));
        assert!(Discovery::parse("mdns,dns").unwrap_err().contains("\"dns\""));
        assert!(Discovery::parse("").is_err());
    }
}
