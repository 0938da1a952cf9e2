//! `knot create`

use std::fs::File;
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use bytesize::ByteSize;
use clap::ValueEnum;
use serde::Serialize;

use super::args::{Common, resolved};
use super::error::CliError;
use super::key;
use super::output::{self, Bar};
use crate::metainfo::{self, CreateError, CreateOptions, Form, Hints, Metainfo, TorrentOptions};
use crate::node::tree::{self, Scan};
use crate::types::HashAlgorithm;

/// Left out files that are named; more are counted.
const SKIPPED_SHOWN: usize = 5;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// File or directory
    path: PathBuf,
    /// Where to write the metainfo [default: NAME.knot or NAME.torrent in the current directory]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// What to make: all but `knot` are for ordinary BitTorrent clients
    #[arg(long, value_enum, default_value = "knot")]
    format: Kind,
    /// How to hash: sha256-merkle or blake3, which verify 16 KiB blocks, or sha1 or sha256, which verify pieces
    /// [default: sha256-merkle; for BitTorrent's formats always what they have]
    #[arg(long, value_name = "ALGO")]
    hash: Option<HashAlgorithm>,
    /// Bytes of a piece, such as 256KiB [default: by the size of the content]
    #[arg(long, value_name = "N", value_parser = piece_length)]
    piece_length: Option<u32>,
    /// Name of the torrent [default: the last name of PATH]
    #[arg(long)]
    name: Option<String>,
    /// Tracker's URL, or several that are as good, with commas between; each further --tracker is for when those before
    /// fail
    #[arg(long, value_name = "URL", value_parser = tier)]
    tracker: Vec<Tier>,
    /// URL at which the content is too (BEP 19); may be given more than once
    #[arg(long, value_name = "URL", value_parser = url)]
    web_seed: Vec<String>,
    /// Let clients find peers through the trackers alone (BEP 27)
    #[arg(long, requires = "tracker")]
    private: bool,
    /// Text for whoever looks at the metainfo
    #[arg(long, value_name = "TEXT")]
    comment: Option<String>,
    /// Sign with this key, from `knot key new`: the InfoID is then an InfoSig
    #[arg(long, value_name = "FILE", env = "KNOT_KEY")]
    key: Option<PathBuf>,
}

/// What `knot create` makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// knot's own: blocks are verified, unchanged files are shared
    Knot,
    /// BitTorrent v1, which every client takes; pieces are verified
    Torrent,
    /// BitTorrent v2 only: blocks are verified, unchanged files are shared
    TorrentV2,
    /// BitTorrent v1 and v2 at once, for clients of both kinds; knot reads it as v1
    Hybrid,
}

impl Kind {
    /// The form of a torrent for ordinary clients, and how its pieces are hashed; `None` of knot's own.
    fn torrent(self) -> Option<(Form, HashAlgorithm)> {
        match self {
            Self::Knot => None,
            Self::Torrent => Some((Form::V1, HashAlgorithm::Sha1)),
            Self::TorrentV2 => Some((Form::V2, HashAlgorithm::Sha256Merkle)),
            Self::Hybrid => Some((Form::Hybrid, HashAlgorithm::Sha1)),
        }
    }

    fn format(self) -> Format {
        if self == Self::Knot { Format::Knot } else { Format::Torrent }
    }
}

/// What kind of metainfo.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// knot's own: blocks are verified, unchanged files are shared
    Knot,
    /// BitTorrent v1
    Torrent,
}

impl Format {
    /// Every one.
    pub(super) const ALL: [Self; 2] = [Self::Knot, Self::Torrent];
}

/// Trackers that are as good as each other.
#[derive(Clone, Debug)]
struct Tier(Vec<String>);

#[derive(Debug, Serialize)]
struct Created {
    info_id: String,
    info_hash: String,
    metainfo: PathBuf,
}

pub(super) fn run(common: &Common, args: Args) -> Result<(), CliError> {
    // What is wrong with the key shows before hours of hashing.
    let key = args.key.as_deref().map(key::read).transpose()?;
    let scan = tree::scan(&args.path, args.name.as_deref())?;
    let output = args.output.clone().unwrap_or_else(|| default_output(&scan.name, args.format.format()));
    check_outside(&args.path, &output)?;
    report_skipped(&scan);
    let mut metainfo = hash(&args, scan)?;
    if let Some(key) = key {
        metainfo = metainfo.sign(&key).map_err(|source| CliError::Metainfo { path: output.clone(), source })?;
    }
    write_whole(&output, metainfo.bytes()).map_err(|source| CliError::file("write the metainfo", &output, source))?;
    let info_id = metainfo.info_id().to_string();
    if !common.json {
        return output::line(info_id);
    }
    output::json(&Created { info_id, info_hash: metainfo.info_hash().to_string(), metainfo: output })
}

/// The metainfo file of a torrent, where nobody says otherwise.
pub(super) fn default_output(name: &str, format: Format) -> PathBuf {
    let extension = match format {
        Format::Knot => "knot",
        Format::Torrent => "torrent",
    };
    PathBuf::from(format!("{name}.{extension}"))
}

/// A metainfo in the tree that it describes would change the tree.
fn check_outside(path: &Path, output: &Path) -> Result<(), CliError> {
    let (root, file) = (resolved(path)?, resolved(output)?);
    if !file.starts_with(&root) {
        return Ok(());
    }
    Err(CliError::Usage(format!(
        "expected to write the metainfo outside of {path:?}, got {output:?}, which is part of it: choose another place with -o"
    )))
}

/// Says what of a tree is in no torrent.
pub(super) fn report_skipped(scan: &Scan) {
    for path in scan.skipped.iter().take(SKIPPED_SHOWN) {
        output::note(format!("left out {path:?}, which is neither file, directory nor symlink"));
    }
    if let Some(more) = scan.skipped.len().checked_sub(SKIPPED_SHOWN).filter(|more| *more > 0) {
        output::note(format!("left out {more} more"));
    }
}

fn hash(args: &Args, scan: Scan) -> Result<Metainfo, CliError> {
    let total = scan.entries.iter().map(|entry| entry.length()).sum();
    let bar = Bar::new();
    let on_progress = |done| {
        bar.bytes("hashing", done, total);
        ControlFlow::Continue(())
    };
    let hints = Hints {
        trackers: args.tracker.iter().map(|Tier(urls)| urls.clone()).collect(),
        web_seeds: args.web_seed.clone(),
        nodes: Vec::new(),
        comment: args.comment.clone(),
        created_by: Some(concat!("knot ", env!("CARGO_PKG_VERSION")).to_owned()),
    };
    if let Some((form, algorithm)) = args.format.torrent() {
        if let Some(got) = args.hash.filter(|hash| *hash != algorithm) {
            return Err(CliError::Usage(format!(
                "expected no --hash but {algorithm} with this --format, got {got}: {form} torrents have no other"
            )));
        }
        let options = TorrentOptions {
            name: scan.name,
            form,
            piece_length: args.piece_length,
            created_at: now(),
            is_private: args.private,
            hints,
        };
        return Ok(metainfo::create_torrent(&options, &scan.entries, &scan.source, &on_progress)?);
    }
    if args.private {
        return Err(CliError::Usage(
            "expected --private with BitTorrent's formats (--format torrent) only: knot's own form has no such mark"
                .into(),
        ));
    }
    let options = CreateOptions {
        name: scan.name,
        algorithm: args.hash.unwrap_or(HashAlgorithm::Sha256Merkle),
        piece_length: args.piece_length,
        created_at: now(),
        peers: Vec::new(),
        version: None,
    };
    let metainfo = metainfo::create(&options, scan.entries, &scan.source, &on_progress)?;
    if hints.trackers.is_empty() && hints.web_seeds.is_empty() && hints.comment.is_none() {
        return Ok(metainfo);
    }
    Ok(metainfo.with_hints(&hints).map_err(CreateError::from)?)
}

fn tier(text: &str) -> Result<Tier, String> {
    text.split(',').map(url).collect::<Result<_, _>>().map(Tier)
}

fn url(text: &str) -> Result<String, String> {
    let is_url =
        url::Url::parse(text).is_ok_and(|url| matches!(url.scheme(), "http" | "https" | "udp") && url.has_host());
    is_url.then(|| text.to_owned()).ok_or_else(|| format!("expected a URL (http://, https:// or udp://), got {text:?}"))
}

/// Seconds since 1970, if the clock is not before that.
pub(super) fn now() -> Option<i64> {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    i64::try_from(since_1970.as_secs()).ok()
}

/// Writes a file so that it is never seen half written.
fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(format!(".{}.part", std::process::id()));
    let partial = PathBuf::from(partial);
    let write = || {
        let mut file = File::create(&partial)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&partial, path)
    };
    write().inspect_err(|_| {
        // The first error is the one to tell.
        let _ = std::fs::remove_file(&partial);
    })
}

/// A number of bytes such as `64KiB`.
pub(super) fn piece_length(text: &str) -> Result<u32, String> {
    let size: ByteSize = text.parse().map_err(|error| format!("expected bytes such as 65536 or 64KiB: {error}"))?;
    u32::try_from(size.as_u64()).map_err(|_| format!("expected at most 64MiB, got {text}"))
}
