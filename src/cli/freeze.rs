//! `knot freeze` and `knot thaw`

use std::path::PathBuf;

use super::args::{Common, no_node, resolved};
use super::error::CliError;
use super::output;
use crate::control::{Client, ControlError};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where `knot mount` mounted a dataset
    mountpoint: PathBuf,
}

/// Holds the mount on the version that it shows, or lets it follow its dataset again.
pub(super) async fn run(common: &Common, args: Args, frozen: bool) -> Result<(), CliError> {
    let mountpoint = resolved(&args.mountpoint)?;
    let store = common.running_store()?;
    let client = Client::new(store.socket());
    client.freeze(&mountpoint, frozen).await.map_err(|error| match error {
        ControlError::NoNode { .. } | ControlError::Leaving => no_node(store.path()),
        error => error.into(),
    })?;
    let status = client.status().await?;
    let Some(mount) = status.mounts.iter().find(|mount| mount.mountpoint == mountpoint) else { return Ok(()) };
    if common.json {
        return output::json(mount);
    }
    let version = mount.version.as_ref().map_or_else(String::new, |version| format!(" {}", version.seq));
    output::note(match frozen {
        true => format!("{mountpoint:?} stays on version{version} until `knot thaw`"),
        false => format!("{mountpoint:?} shows version{version} and follows its dataset"),
    });
    Ok(())
}
