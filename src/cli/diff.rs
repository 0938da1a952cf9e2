//! `knot diff`

use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use super::args::{Common, duration, info_sig, peer};
use super::error::CliError;
use super::node_args::NodeArgs;
use super::output::{self, Bar};
use super::session::{Role, Session};
use crate::control::Client;
use crate::metainfo::Metainfo;
use crate::node::api::{ApiError, DatasetInfo, DatasetRequest, ErrorKind};
use crate::types::InfoSig;
use crate::updates::Diff;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The dataset
    #[arg(value_name = "INFO_SIG", value_parser = info_sig)]
    origin: InfoSig,
    /// The older version [default: the one before B]
    #[arg(value_name = "A", value_parser = clap::value_parser!(u64).range(1..))]
    old: Option<u64>,
    /// The newer version [default: the newest]
    #[arg(value_name = "B", value_parser = clap::value_parser!(u64).range(1..))]
    new: Option<u64>,
    /// How long to look for versions and their metainfo
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "10s")]
    look: Duration,
    /// Peer to ask, as a multiaddr or HOST:PORT; may be given more than once
    #[arg(long, value_name = "ADDR", value_parser = peer, env = "KNOT_PEER", value_delimiter = ',')]
    peer: Vec<String>,
    #[command(flatten)]
    node: NodeArgs,
}

/// A diff with what follows from it, for programs.
#[derive(Debug, Serialize)]
pub(super) struct ShownDiff {
    #[serde(flatten)]
    pub(super) diff: Diff,
    reused_bytes: u64,
    reused_percent: f64,
}

impl ShownDiff {
    pub(super) fn new(diff: Diff) -> Self {
        Self { reused_bytes: diff.reused_bytes(), reused_percent: diff.reused_percent(), diff }
    }
}

#[derive(Debug, Serialize)]
struct Shown {
    info_sig: String,
    from: u64,
    to: u64,
    #[serde(flatten)]
    diff: ShownDiff,
}

pub(super) async fn run(common: &Common, args: Args) -> Result<(), CliError> {
    let session = Session::open(&common.store()?, &args.node, Role::OneShot).await?;
    let bar = Bar::new();
    bar.waiting("looking for the versions".to_owned());
    let found = find(&session.client, &args).await;
    drop(bar);
    session.close().await;
    let ((from, old), (to, new)) = found?;
    let diff = Diff::between(&old, &new);
    if common.json {
        let info_sig = args.origin.to_string();
        return output::json(&Shown { info_sig, from, to, diff: ShownDiff::new(diff) });
    }
    output::line(format!("versions {from} to {to}: {diff:#}"))
}

/// The two versions, numbers and metainfo.
async fn find(client: &Client, args: &Args) -> Result<((u64, Metainfo), (u64, Metainfo)), CliError> {
    let (from, to) = match (args.old, args.new) {
        (Some(from), Some(to)) => (from, to),
        (from, to) => {
            let info = client.dataset(&request(args, Vec::new())).await?;
            let to = to.or(info.versions.last().map(|version| version.seq)).ok_or_else(|| none(args, "any version"))?;
            (from.map_or_else(|| before(args, &info, to), Ok)?, to)
        }
    };
    let info = client.dataset(&request(args, vec![Some(from), Some(to)])).await?;
    let mut metainfos = info.metainfos.iter();
    let mut read = |seq: u64| {
        let found = metainfos.next().and_then(Option::as_ref);
        let found = found.ok_or_else(|| none(args, &format!("the metainfo of version {seq}")))?;
        let bytes = hex::decode(found).unwrap_or_default();
        let name = format!("version {seq}");
        Metainfo::parse(&bytes).map_err(|source| CliError::Metainfo { path: Path::new(&name).to_owned(), source })
    };
    Ok(((from, read(from)?), (to, read(to)?)))
}

/// The version before `to`, of those that are known.
fn before(args: &Args, info: &DatasetInfo, to: u64) -> Result<u64, CliError> {
    let older = info.versions.iter().map(|version| version.seq).filter(|seq| *seq < to).max();
    older.ok_or_else(|| none(args, &format!("a version before {to}")))
}

fn request(args: &Args, metainfos: Vec<Option<u64>>) -> DatasetRequest {
    DatasetRequest {
        origin: args.origin.to_string(),
        peers: args.peer.clone(),
        discovery: args.node.discovery(),
        look: args.look,
        metainfos,
    }
}

fn none(args: &Args, what: &str) -> CliError {
    let message = format!(
        "expected to find {what} of {}, got nothing in time: check that it is being seeded, give --peer ADDR, or look \
         longer with --look TIME",
        args.origin
    );
    ApiError { kind: ErrorKind::NotFound, message }.into()
}
