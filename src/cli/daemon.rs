//! `knot daemon`

use std::time::Duration;

use super::args::Common;
use super::error::CliError;
use super::host::Host;
use super::node_args::NodeArgs;
use super::{as_client, as_node, output};
use crate::control::Client;
use crate::node::api::{ApiError, ErrorKind};
use crate::node::lifecycle::{self, Readiness, Signals, StoreDir};

/// How long a node that was told to stop may take.
const STOP_WITHIN: Duration = Duration::from_secs(20);

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    node: NodeArgs,
    /// Stop the node that runs on the store, with all its mounts
    #[arg(long, conflicts_with = "background")]
    stop: bool,
    /// How commands start a node: apart from the terminal, and gone when idle
    #[arg(long, hide = true)]
    background: bool,
}

pub(super) fn run(common: &Common, args: Args) -> Result<(), CliError> {
    if args.stop {
        return as_client(stop(common));
    }
    if args.background {
        lifecycle::detach();
    }
    let result = as_node(serve(common, &args));
    if let (true, Err(error)) = (args.background, &result) {
        Readiness::Failed(ApiError { kind: error.kind(), message: error.chain() }).report();
    }
    result
}

async fn serve(common: &Common, args: &Args) -> Result<(), CliError> {
    let store = common.store()?;
    let mut signals = Signals::new()?;
    let Some(lock) = store.lock()? else {
        if args.background {
            Readiness::Busy.report();
            return Ok(());
        }
        return Err(already_runs(&store));
    };
    let start = Host::start(&store, lock, args.node.config(&store));
    let host = tokio::select! {
        host = start => host?,
        () = signals.recv() => return Err(CliError::Interrupted),
    };
    let handle = host.handle();
    if args.background {
        Readiness::Ready.report();
    } else {
        handle.listen_addrs().iter().try_for_each(output::line)?;
    }
    let idle_exit = args.background.then_some(args.node.idle_exit);
    let stop = lifecycle::until_stop(host.gate(), &mut signals, || handle.is_idle(), idle_exit).await;
    tracing::info!(?stop, "the node ends");
    host.shutdown().await;
    Ok(())
}

fn already_runs(store: &StoreDir) -> CliError {
    let holder = store.holder().map_or_else(String::new, |pid| format!(" (process {pid})"));
    CliError::Failure(format!(
        "expected no node on the store {:?}, but one runs{holder}: use it, or end it with `knot daemon --stop`",
        store.path()
    ))
}

async fn stop(common: &Common) -> Result<(), CliError> {
    let store = common.running_store()?;
    Client::new(store.socket()).stop().await?;
    // Its end is the end of its lock.
    let ended = async {
        while store.lock()?.is_none() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    };
    let late = || CliError::Api(ApiError { kind: ErrorKind::Failure, message: not_ended(&store) });
    tokio::time::timeout(STOP_WITHIN, ended).await.map_err(|_| late())?
}

fn not_ended(store: &StoreDir) -> String {
    format!("expected the node to end within {STOP_WITHIN:?}: look into {:?}, or kill its process", store.log())
}
