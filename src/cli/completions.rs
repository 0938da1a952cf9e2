//! `knot completions`

use clap_complete::Shell;

use super::error::CliError;
use super::output;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Which shell
    shell: Shell,
}

pub(super) fn run(args: &Args, command: &mut clap::Command) -> Result<(), CliError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, command, "knot", &mut script);
    output::bytes(&script)
}
