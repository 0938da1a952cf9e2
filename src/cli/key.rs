//! `knot key`

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use clap::Subcommand;
use serde::Serialize;
use zeroize::Zeroizing;

use super::args::Common;
use super::error::CliError;
use super::output;
use crate::metainfo::SecretKey;
use crate::types::PublicKey;

/// No key file is longer.
const MAX_KEY_FILE: u64 = 4096;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: KeyCommand,
}

#[derive(Debug, Subcommand)]
enum KeyCommand {
    /// Make a key in a new file that only you can read; prints its public half
    New {
        /// Where to write it
        file: PathBuf,
    },
    /// Print the public half of a key
    Show {
        /// The key's file
        file: PathBuf,
    },
}

pub(super) fn run(common: &Common, args: Args) -> Result<(), CliError> {
    let public = match args.command {
        KeyCommand::New { file } => new(&file)?,
        KeyCommand::Show { file } => read(&file)?.public(),
    };
    #[derive(Serialize)]
    struct Shown {
        public_key: String,
    }
    let public_key = public.to_string();
    if common.json { output::json(&Shown { public_key }) } else { output::line(public_key) }
}

fn new(path: &Path) -> Result<PublicKey, CliError> {
    let key = SecretKey::generate().map_err(|source| CliError::Key { path: path.to_owned(), source })?;
    // A key that is overwritten is lost, so an existing file is an error.
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(key.to_text().as_bytes())?;
        file.sync_all()
    };
    write().map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => CliError::Failure(format!(
            "expected a new file for the key, got {path:?}, which exists: choose another name, or move it away"
        )),
        _ => CliError::file("make the key", path, source),
    })?;
    Ok(key.public())
}

/// Reads a key file; says so when others can read it too.
pub(super) fn read(path: &Path) -> Result<SecretKey, CliError> {
    let mut text = Zeroizing::new(String::new());
    let mut read = || -> io::Result<u32> {
        let file = File::open(path)?;
        let mode = file.metadata()?.mode();
        // Room for all of it at once: a buffer that grows leaves copies behind.
        text.reserve(MAX_KEY_FILE as usize);
        file.take(MAX_KEY_FILE).read_to_string(&mut text)?;
        Ok(mode)
    };
    let mode = read().map_err(|source| CliError::file("read the key", path, source))?;
    if mode & 0o077 != 0 {
        output::note(format!("other users can read the key {path:?}: `chmod 600` it"));
    }
    SecretKey::from_text(&text).map_err(|source| CliError::Key { path: path.to_owned(), source })
}
