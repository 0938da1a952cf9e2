//! The `knot` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    knot::cli::run()
}
