//! `knot get`

use std::path::PathBuf;

use serde::Serialize;

use super::args::{Common, TorrentArgs, resolved};
use super::error::CliError;
use super::node_args::NodeArgs;
use super::output::{self, Bar};
use super::session::{Role, Session};
use crate::node::api::{GetRequest, TorrentInfo};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    torrent: TorrentArgs,
    /// Directory that gets the torrent's file, or a directory of its name
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    output: PathBuf,
    /// File or directory of the torrent to download instead of everything; may be given more than once
    #[arg(long, value_name = "PATH")]
    select: Vec<String>,
    #[command(flatten)]
    node: NodeArgs,
}

#[derive(Debug, Serialize)]
struct Got {
    path: String,
    #[serde(flatten)]
    torrent: TorrentInfo,
}

pub(super) async fn run(common: &Common, args: Args) -> Result<(), CliError> {
    let Args { torrent, output, select, node } = args;
    let request = GetRequest { add: torrent.request(&node, true)?, dest: resolved(&output)?, select };
    let session = Session::open(&common.store()?, &node, Role::OneShot).await?;
    let bar = Bar::new();
    let result = session.client.get(&request, |progress| bar.show(&progress)).await;
    drop(bar);
    session.close().await;
    let (path, torrent) = result?;
    if common.json { output::json(&Got { path, torrent }) } else { output::line(path) }
}
