//! `knot cat`

use super::args::{Common, TorrentArgs};
use super::error::CliError;
use super::node_args::NodeArgs;
use super::output::{self, Bar};
use super::session::{Role, Session};
use crate::control::{Client, ContentRequest};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    torrent: TorrentArgs,
    /// The file's path in the torrent; may be left out where there is only one
    path: Option<String>,
    /// First byte to write
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    offset: u64,
    /// Bytes to write [default: all]
    #[arg(long, value_name = "BYTES")]
    length: Option<u64>,
    #[command(flatten)]
    node: NodeArgs,
}

pub(super) async fn run(common: &Common, args: Args) -> Result<(), CliError> {
    let Args { torrent, path, offset, length, node } = args;
    let request = ContentRequest { add: torrent.request(&node, false)?, path, offset, length };
    let session = Session::open(&common.store()?, &node, Role::OneShot).await?;
    let result = copy(&session.client, &request).await;
    session.close().await;
    result
}

async fn copy(client: &Client, request: &ContentRequest) -> Result<(), CliError> {
    let bar = Bar::new();
    bar.waiting("waiting for the first bytes".to_owned());
    let mut content = client.content(request).await?;
    let total = content.missing();
    while let Some(bytes) = content.next().await? {
        bar.bytes("reading", total - content.missing(), total);
        // stdout may block for as long as its reader likes; nothing else waits for this thread.
        output::bytes(&bytes)?;
    }
    Ok(())
}
