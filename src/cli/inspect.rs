//! `knot inspect`

use std::path::PathBuf;

use serde::Serialize;

use super::args::{Common, link};
use super::error::CliError;
use super::{metainfo_file, output};
use crate::discovery::http::LocalAddrs;
use crate::metainfo::{Entry, EntryKind, Metainfo, MetainfoError};
use crate::node::api::TorrentName;
use crate::node::download;
use crate::types::{Magnet, MagnetError};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// .knot or .torrent file, the URL of one, or a magnet link (in quotes)
    #[arg(value_name = "TORRENT")]
    torrent: PathBuf,
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
    form: &'static str,
    created_at: Option<i64>,
    created_by: Option<&'a str>,
    comment: Option<&'a str>,
    private: bool,
    trackers: &'a [Vec<String>],
    web_seeds: &'a [String],
    magnet: String,
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

pub(super) async fn run(common: &Common, args: &Args) -> Result<(), CliError> {
    let metainfo = match link(&args.torrent).transpose()? {
        Some(TorrentName::Magnet(text)) => return show_magnet(common, &text),
        Some(TorrentName::InfoId(id)) => {
            return Err(CliError::Usage(format!(
                "expected a file, a URL or a magnet link, got the InfoID {id}: its metainfo is with its peers, which \
                 `knot mount` and `knot get` ask"
            )));
        }
        Some(TorrentName::Url(url)) => {
            metainfo_file::parse(url.as_ref(), &download(&url, LocalAddrs::default()).await?)
        }
        Some(TorrentName::Metainfo(_)) | None => metainfo_file::read(&args.torrent),
    };
    let metainfo = metainfo.inspect_err(|error| {
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

/// What a magnet link says.
#[derive(Debug, Serialize)]
struct ShownMagnet<'a> {
    info_id: String,
    v1_info_hash: Option<String>,
    v2_info_hash: Option<String>,
    name: Option<&'a str>,
    trackers: &'a [String],
    peers: &'a [String],
    web_seeds: &'a [String],
    sources: &'a [String],
    select_only: Vec<(u32, u32)>,
}

fn show_magnet(common: &Common, text: &str) -> Result<(), CliError> {
    let magnet: Magnet = text.parse().map_err(|error: MagnetError| CliError::Usage(error.to_string()))?;
    let shown = ShownMagnet {
        info_id: magnet.id.to_string(),
        v1_info_hash: magnet.v1.map(|hash| hash.to_string()),
        v2_info_hash: magnet.v2.map(|hash| hash.to_string()),
        name: magnet.display_name.as_deref(),
        trackers: &magnet.trackers,
        peers: &magnet.peers,
        web_seeds: &magnet.web_seeds,
        sources: &magnet.sources,
        select_only: magnet.select_only.iter().map(|range| (*range.start(), *range.end())).collect(),
    };
    if common.json {
        return output::json(&shown);
    }
    let mut lines = vec![format!("info id          {}", shown.info_id)];
    lines.extend(shown.name.map(|name| format!("name             {name:?}")));
    for (label, values) in [
        ("tracker ", shown.trackers),
        ("peer    ", shown.peers),
        ("web seed", shown.web_seeds),
        ("source  ", shown.sources),
    ] {
        lines.extend(values.iter().map(|value| format!("{label}         {value}")));
    }
    lines.extend(shown.select_only.iter().map(|(first, last)| format!("files            {first}-{last}")));
    output::bytes((lines.join("\n") + "\n").as_bytes())
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
            form: metainfo.form().name(),
            created_at: metainfo.created_at(),
            created_by: metainfo.hints().created_by.as_deref(),
            comment: metainfo.hints().comment.as_deref(),
            private: metainfo.is_private(),
            trackers: &metainfo.hints().trackers,
            web_seeds: &metainfo.hints().web_seeds,
            magnet: metainfo.magnet().to_string(),
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
        lines.push(format!("form             {}{}", self.form, if self.private { ", private" } else { "" }));
        lines.extend(self.comment.map(|comment| format!("comment          {comment:?}")));
        lines.extend(self.created_by.map(|program| format!("created by       {program:?}")));
        lines.extend(self.trackers.iter().map(|tier| format!("trackers         {}", tier.join(", "))));
        lines.extend(self.web_seeds.iter().map(|url| format!("web seed         {url}")));
        lines.push(format!("magnet           {}", self.magnet));
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
