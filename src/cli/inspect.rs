//! `knot inspect`

use std::path::PathBuf;

use serde::Serialize;

use super::args::Common;
use super::error::CliError;
use super::{metainfo_file, output};
use crate::metainfo::{Entry, EntryKind, Metainfo, MetainfoError};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The metainfo file
    file: PathBuf,
}

/// What a metainfo says. Where there is no signature, `info_sig`, `pub_key` and `signature_valid` are null.
#[derive(Debug, Serialize)]
struct Shown<'a> {
    info_id: String,
    info_hash: String,
    info_sig: Option<String>,
    pub_key: Option<String>,
    signature_valid: Option<bool>,
    name: &'a str,
    created_at: Option<i64>,
    piece_length: u32,
    piece_hash_algo: &'static str,
    piece_count: u32,
    total_length: u64,
    files: Vec<ShownFile<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    directories: Vec<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    symlinks: Vec<ShownLink<'a>>,
}

#[derive(Debug, Serialize)]
struct ShownFile<'a> {
    path: &'a str,
    length: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    root: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    executable: bool,
}

#[derive(Debug, Serialize)]
struct ShownLink<'a> {
    path: &'a str,
    target: &'a str,
}

/// What is shown of a metainfo whose signature is not its key's.
#[derive(Debug, Serialize)]
struct Forged<'a> {
    pub_key: &'a str,
    signature_valid: bool,
}

pub(super) fn run(common: &Common, args: &Args) -> Result<(), CliError> {
    let metainfo = metainfo_file::read(&args.file).inspect_err(|error| {
        if let CliError::Metainfo { source: MetainfoError::Signature { public_key }, .. } = error
            && common.json
        {
            // The error itself decides how this ends.
            let _ = output::json(&Forged { pub_key: public_key, signature_valid: false });
        }
    })?;
    let shown = Shown::of(&metainfo);
    if common.json { output::json(&shown) } else { output::bytes(shown.for_people().as_bytes()) }
}

impl<'a> Shown<'a> {
    fn of(metainfo: &'a Metainfo) -> Self {
        let mut shown = Self {
            info_id: metainfo.info_id().to_string(),
            info_hash: metainfo.info_hash().to_string(),
            info_sig: metainfo.info_sig().map(|sig| sig.to_string()),
            pub_key: metainfo.public_key().map(|key| key.to_string()),
            // One that did not verify would not have been read.
            signature_valid: metainfo.info_sig().map(|_| true),
            name: metainfo.name(),
            created_at: metainfo.created_at(),
            piece_length: metainfo.piece_length(),
            piece_hash_algo: metainfo.algorithm().name(),
            piece_count: metainfo.piece_count(),
            total_length: metainfo.total_length(),
            files: Vec::new(),
            directories: Vec::new(),
            symlinks: Vec::new(),
        };
        metainfo.entries().iter().for_each(|entry| shown.add(entry));
        shown
    }

    fn add(&mut self, entry: &'a Entry) {
        let path = entry.path.as_str();
        match &entry.kind {
            EntryKind::File { length, root, executable } => {
                let root = root.map(|root| root.to_string());
                self.files.push(ShownFile { path, length: *length, root, executable: *executable });
            }
            EntryKind::Directory => self.directories.push(path),
            EntryKind::Symlink { target } => self.symlinks.push(ShownLink { path, target }),
        }
    }

    fn for_people(&self) -> String {
        let mut lines = vec![format!("name             {:?}", self.name), format!("info id          {}", self.info_id)];
        lines.push(format!("info hash        {}", self.info_hash));
        match &self.pub_key {
            Some(key) => lines.push(format!("signed by        {key} (valid)")),
            None => lines.push("signed by        nobody".to_owned()),
        }
        lines.push(format!("piece hash algo  {}", self.piece_hash_algo));
        let (count, length) = (self.piece_count, output::size(self.piece_length.into()));
        lines.push(format!("pieces           {count} of {length}"));
        let total = output::size(self.total_length);
        lines.push(format!("content          {total} in {} files", self.files.len()));
        let line = |mark: &str, path: &str, note: &str| format!("  {mark:>12} {path:?}{note}");
        let note = |file: &ShownFile<'_>| if file.executable { " (executable)" } else { "" };
        lines.extend(self.files.iter().map(|file| line(&output::size(file.length), file.path, note(file))));
        lines.extend(self.directories.iter().map(|path| line("directory", path, "")));
        lines.extend(self.symlinks.iter().map(|link| line("symlink", link.path, &format!(" -> {:?}", link.target))));
        lines.join("\n") + "\n"
    }
}
