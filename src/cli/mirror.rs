//! `knot mirror`

use std::time::Duration;

use serde::Serialize;

use super::args::{Common, duration, info_sig, peer};
use super::error::CliError;
use super::node_args::NodeArgs;
use super::output::{self, Bar};
use super::session::{Role, Session, until_signal};
use super::status::short;
use crate::node::api::MirrorRequest;
use crate::node::lifecycle::Signals;
use crate::types::InfoSig;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The dataset
    #[arg(value_name = "INFO_SIG", value_parser = info_sig)]
    origin: InfoSig,
    /// Versions whose content is kept, the newest ones; of all others, what is needed to name and verify them
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    keep: u32,
    /// How often to look for a newer version; what others push is seen at once [default: 5m]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    poll: Option<Duration>,
    /// How long to wait until anybody knows the dataset
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "60s", env = "KNOT_TIMEOUT")]
    timeout: Duration,
    /// Peer to ask, as a multiaddr or HOST:PORT; may be given more than once
    #[arg(long, value_name = "ADDR", value_parser = peer, env = "KNOT_PEER", value_delimiter = ',')]
    peer: Vec<String>,
    #[command(flatten)]
    node: NodeArgs,
}

#[derive(Debug, Serialize)]
struct Mirroring {
    info_sig: String,
    keep: u32,
    addresses: Vec<String>,
}

pub(super) async fn run(common: &Common, args: Args) -> Result<(), CliError> {
    let mut signals = Signals::new()?;
    let open = async { Session::open(&common.store()?, &args.node, Role::Foreground).await };
    let mut session = tokio::select! {
        session = open => session?,
        () = signals.recv() => return Err(CliError::Interrupted),
    };
    let result = serve(common, &mut session, args, &mut signals).await;
    session.close().await;
    result
}

async fn serve(common: &Common, session: &mut Session, args: Args, signals: &mut Signals) -> Result<(), CliError> {
    let request = MirrorRequest {
        origin: args.origin.to_string(),
        keep: args.keep,
        peers: args.peer,
        discovery: args.node.discovery(),
        poll: args.poll,
        timeout: args.timeout,
    };
    let (bar, client) = (Bar::new(), session.client.clone());
    let (addresses, mut held) = tokio::select! {
        mirroring = client.mirror(&request, |progress| bar.show(&progress)) => mirroring?,
        () = signals.recv() => return Err(CliError::Interrupted),
    };
    drop(bar);
    let MirrorRequest { origin, keep, .. } = request;
    output::note(format!(
        "mirroring {} with the content of its newest versions, {keep} at the most; `knot status` shows how far it is",
        short(&origin)
    ));
    if common.json {
        output::json(&Mirroring { info_sig: origin, keep, addresses })?;
    } else {
        addresses.iter().try_for_each(output::line)?;
    }
    until_signal(signals, session, &mut held).await
}
