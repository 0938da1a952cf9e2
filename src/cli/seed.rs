//! `knot seed`

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::args::{Common, link, peer, resolved, torrent_name};
use super::create::{self, Format};
use super::error::CliError;
use super::node_args::NodeArgs;
use super::output::{self, Bar};
use super::session::{Role, Session, until_signal};
use crate::control::Client;
use crate::node::api::{SeedRequest, TorrentInfo, TorrentName};
use crate::node::lifecycle::Signals;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// File or directory to serve, which stays where and as it is; or the InfoSig of a dataset that was published from
    /// this store: what is published of it later is served, too
    path: PathBuf,
    /// What it is the content of: a .knot or .torrent file, a URL, a magnet link or an InfoID [default: the file that
    /// `knot create` writes, here or beside PATH, where there is one]
    #[arg(long, value_name = "TORRENT")]
    metainfo: Option<PathBuf>,
    /// Peer to connect to, as a multiaddr or HOST:PORT; may be given more than once
    #[arg(long, value_name = "ADDR", value_parser = peer)]
    peer: Vec<String>,
    #[command(flatten)]
    node: NodeArgs,
}

#[derive(Debug, Serialize)]
struct Seeding {
    #[serde(flatten)]
    torrent: TorrentInfo,
    addresses: Vec<String>,
}

pub(super) async fn run(common: &Common, args: Args) -> Result<(), CliError> {
    if let Some(Ok(torrent @ TorrentName::InfoId(_))) = link(&args.path).filter(|_| args.metainfo.is_none()) {
        let (discovery, peers) = (args.node.discovery(), args.peer);
        let request = SeedRequest { path: PathBuf::new(), torrent: Some(torrent), discovery, peers };
        return run_request(common, &args.node, request).await;
    }
    let path = resolved(&args.path)?;
    let torrent = match (&args.metainfo, beside(&path)) {
        (Some(name), _) => Some(torrent_name(name)?),
        (None, Some(file)) => {
            output::note(format!("using the metainfo {file:?}"));
            Some(torrent_name(&file)?)
        }
        (None, None) => None,
    };
    let request = SeedRequest { path, torrent, discovery: args.node.discovery(), peers: args.peer };
    run_request(common, &args.node, request).await
}

async fn run_request(common: &Common, node: &NodeArgs, request: SeedRequest) -> Result<(), CliError> {
    let mut signals = Signals::new()?;
    let open = async { Session::open(&common.store()?, node, Role::Foreground).await };
    let mut session = tokio::select! {
        session = open => session?,
        () = signals.recv() => return Err(CliError::Interrupted),
    };
    let result = serve(common, &mut session, &request, &mut signals).await;
    session.close().await;
    result
}

async fn serve(
    common: &Common,
    session: &mut Session,
    request: &SeedRequest,
    signals: &mut Signals,
) -> Result<(), CliError> {
    let bar = Bar::new();
    let client = session.client.clone();
    let seeding = tokio::select! {
        seeding = client.seed(request, |progress| bar.show(&progress)) => seeding?,
        () = signals.recv() => return Err(CliError::Interrupted),
    };
    drop(bar);
    let (torrent, addresses, mut held) = seeding;
    output::note(format!("seeding {:?} ({}) as {}", torrent.name, output::size(torrent.total_length), torrent.info_id));
    report_missing(&client, &torrent).await?;
    if common.json {
        output::json(&Seeding { torrent, addresses })?;
    } else {
        addresses.iter().try_for_each(output::line)?;
    }
    until_signal(signals, session, &mut held).await
}

/// Says so when not all of the content is what the metainfo says: only what is gets served.
async fn report_missing(client: &Client, torrent: &TorrentInfo) -> Result<(), CliError> {
    let status = client.status().await?;
    let seeded = status.torrents.iter().find(|seeded| seeded.info_id == torrent.info_id);
    if let Some(seeded) = seeded.filter(|seeded| seeded.verified_bytes < seeded.total_bytes) {
        output::note(format!(
            "expected {} bytes as the metainfo says, got {}: only these are served; was the content changed since \
             `knot create`?",
            seeded.total_bytes, seeded.verified_bytes
        ));
    }
    Ok(())
}

/// The metainfo that `knot create` wrote for `path`, in the current directory or beside `path`.
fn beside(path: &Path) -> Option<PathBuf> {
    let name = path.file_name()?.to_str()?;
    let files = Format::ALL.map(|format| create::default_output(name, format));
    let places = files.iter().flat_map(|file| [Path::new(".").join(file), path.with_file_name(file)]);
    places.into_iter().find(|file| file.is_file())
}
