//! A command's connection to the node of its store, and where that node comes from when none runs.

use std::ffi::OsString;
use std::time::Duration;

use tokio::time::Instant;

use super::error::CliError;
use super::host::Host;
use super::node_args::NodeArgs;
use super::output;
use crate::control::{Client, ControlError, Held};
use crate::node::lifecycle::{Background, Signals, Started, StoreDir};

/// How long a node that starts or ends in another process is waited for.
const OTHER_NODE_WITHIN: Duration = Duration::from_secs(60);
/// How often it is looked for.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// How long the node of a one-shot command may take to end after it.
const END_WITHIN: Duration = Duration::from_secs(5);

/// Who becomes the node where none runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// A process in the background that stays for a while.
    Background,
    /// A process that ends with this command, unless other commands have come to use it.
    OneShot,
    /// This process.
    Foreground,
}

/// A connection to a node, which stays at least until this ends.
pub(super) struct Session {
    pub(super) client: Client,
    held: Held,
    host: Option<Host>,
    child: Option<Background>,
}

impl Session {
    /// Joins the node of the store, or starts one.
    pub(super) async fn open(store: &StoreDir, args: &NodeArgs, role: Role) -> Result<Self, CliError> {
        let client = Client::new(store.socket());
        let deadline = Instant::now() + OTHER_NODE_WITHIN;
        loop {
            match client.hold().await {
                Ok(held) => {
                    adjust(&client, args).await?;
                    return Ok(Self { client, held, host: None, child: None });
                }
                Err(ControlError::NoNode { .. } | ControlError::Leaving) => {}
                Err(error) => return Err(error.into()),
            }
            if let Some(session) = start(store, &client, args, role).await? {
                return Ok(session);
            }
            if Instant::now() >= deadline {
                let holder = store.holder().map_or_else(String::new, |pid| format!(" (process {pid})"));
                return Err(CliError::Failure(format!(
                    "expected the node{holder} that holds the store {:?} to answer within {OTHER_NODE_WITHIN:?}: \
                     look into {:?}, or end that process",
                    store.path(),
                    store.log(),
                )));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Completes with an error when the node ends.
    pub(super) async fn lost(&mut self) -> ControlError {
        self.held.lost().await
    }

    /// Ends the connection, and the node with it if that was only for this command.
    pub(super) async fn close(self) {
        let Self { client, held, host, child } = self;
        let one_shot = match child {
            // Other commands may have mounted something in it meanwhile: then it stays.
            Some(child) => client.status().await.is_ok_and(|status| status.mounts.is_empty()).then_some(child),
            None => None,
        };
        drop(held);
        if let Some(host) = host {
            host.shutdown().await;
        }
        if let Some(child) = one_shot
            && !child.ended_within(END_WITHIN).await
        {
            tracing::debug!("the node stays for other commands");
        }
    }
}

/// Becomes the node, or starts one; `None` when another process is about to be it, or about to end.
async fn start(store: &StoreDir, client: &Client, args: &NodeArgs, role: Role) -> Result<Option<Session>, CliError> {
    let Some(lock) = store.lock()? else { return Ok(None) };
    let session = |held, host, child| Some(Session { client: client.clone(), held, host, child });
    let idle_exit = match role {
        Role::Foreground => {
            let host = Host::start(store, lock, args.config(store)).await?;
            return Ok(session(client.hold().await?, Some(host), None));
        }
        Role::Background => args.idle_exit,
        Role::OneShot => Duration::ZERO,
    };
    drop(lock);
    let Started::Ready(child) = Background::start(store, &daemon_args(store, args, idle_exit)).await? else {
        return Ok(None);
    };
    match client.hold().await {
        Ok(held) => Ok(session(held, None, (role == Role::OneShot).then_some(child))),
        Err(ControlError::NoNode { .. } | ControlError::Leaving) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn daemon_args(store: &StoreDir, args: &NodeArgs, idle_exit: Duration) -> Vec<OsString> {
    let mut all = vec!["daemon".into(), "--background".into(), "--store".into(), store.path().into()];
    all.extend(args.for_daemon(idle_exit));
    all
}

/// Tells a node that runs already what can still be told.
async fn adjust(client: &Client, args: &NodeArgs) -> Result<(), CliError> {
    if let Some(size) = args.cache_size {
        client.set_cache_size(size.as_u64()).await?;
    }
    let names = args.without_effect();
    if !names.is_empty() {
        let verb = if names.len() == 1 { "has" } else { "have" };
        output::note(format!("the node of this store runs already: {} {verb} no effect on it", names.join(", ")));
    }
    Ok(())
}

/// Waits until a signal arrives (`Ok`) or the node, or what it holds, is gone.
pub(super) async fn until_signal(
    signals: &mut Signals,
    session: &mut Session,
    held: &mut Held,
) -> Result<(), CliError> {
    tokio::select! {
        () = signals.recv() => Ok(()),
        error = session.lost() => Err(error.into()),
        error = held.lost() => Err(error.into()),
    }
}
