//! `knot unmount`

use std::path::{Path, PathBuf};

use super::args::{Common, resolved};
use super::error::CliError;
use crate::control::{Client, ControlError};
use crate::fuse;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where `knot mount` mounted something
    mountpoint: PathBuf,
}

pub(super) async fn run(common: &Common, args: Args) -> Result<(), CliError> {
    let mountpoint = resolved(&args.mountpoint)?;
    if is_of_this_store(common, &mountpoint).await? {
        let store = common.running_store()?;
        return Ok(Client::new(store.socket()).unmount(&mountpoint).await?);
    }
    // It may be of another store, or what a killed node has left.
    Ok(fuse::unmount_foreign(&mountpoint)?)
}

async fn is_of_this_store(common: &Common, mountpoint: &Path) -> Result<bool, CliError> {
    let Ok(store) = common.running_store() else { return Ok(false) };
    match Client::new(store.socket()).status().await {
        Ok(status) => Ok(status.mounts.iter().any(|mount| mount.mountpoint == mountpoint)),
        Err(ControlError::NoNode { .. } | ControlError::Leaving) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
