//! `knot demo`: `scripts/demo`, with this program instead of one that is built first.

use std::process::Command;

use super::error::CliError;

const SCRIPT: &str = concat!(include_str!("../../scripts/need"), include_str!("../../scripts/demo"));

#[derive(Debug, clap::Args)]
pub(super) struct Args {}

pub(super) fn run(_: &Args) -> Result<(), CliError> {
    let program = std::env::current_exe().map_err(|source| CliError::file("find", "knot".as_ref(), source))?;
    let status = Command::new("bash").args(["-c", SCRIPT, "demo"]).env("KNOT", program).status();
    match status.map_err(|source| CliError::file("run", "bash".as_ref(), source))? {
        status if status.success() => Ok(()),
        status if status.code() == Some(130) => Err(CliError::Interrupted),
        status => Err(CliError::Failure(format!("the demo failed ({status}): what went wrong stands above"))),
    }
}
