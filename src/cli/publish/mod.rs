//! `knot publish`
//!
//! The command scans, hashes and signs; the node looks up, keeps and tells. The secret key stays in this process.

mod dataset;
mod version;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ValueEnum;
use serde::Serialize;

pub(super) use self::dataset::Newest;
pub(super) use self::version::{Hashed, Recipe};
use super::args::{Common, duration, info_sig, peer, resolved};
use super::create::{Format, now, piece_length};
use super::error::CliError;
use super::node_args::NodeArgs;
use super::output::{self, Bar};
use super::session::{Role, Session};
use super::{diff::ShownDiff, key};
use crate::control::{Client, ControlError, Held};
use crate::metainfo::{Form, Metainfo, SecretKey};
use crate::node::api::{
    DatasetInfo, DatasetRequest, ErrorKind, PublishRequest, Published, SeedRequest, Snapshot, TorrentName,
};
use crate::types::{FileStamp, HashAlgorithm, InfoHash, InfoSig};
use crate::updates::{Diff, UpdateRecord};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// File or directory to publish; with --rollback, by default what was published before
    #[arg(required_unless_present = "rollback")]
    path: Option<PathBuf>,
    /// Dataset whose next version it is: the InfoSig that publishing its first version printed
    #[arg(long, value_name = "INFO_SIG", value_parser = info_sig)]
    update: Option<InfoSig>,
    /// What to make of it: `torrent`, which ordinary clients take, is for the first two versions
    #[arg(long, value_enum, default_value = "knot")]
    format: Format,
    /// How to hash the first version: sha256-merkle, blake3, sha1 or sha256 [default: sha256-merkle]
    #[arg(long, value_name = "ALGO")]
    hash: Option<HashAlgorithm>,
    /// Bytes of a piece of the first version, such as 256KiB [default: by the size of the content]
    #[arg(long, value_name = "N", value_parser = piece_length)]
    piece_length: Option<u32>,
    /// Name of the first version [default: the last name of PATH]
    #[arg(long)]
    name: Option<String>,
    /// Say what would be published, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Publish version N once more, as the newest one
    #[arg(long, value_name = "N", requires = "update", value_parser = clap::value_parser!(u64).range(1..))]
    rollback: Option<u64>,
    #[command(flatten)]
    how: How,
    #[command(flatten)]
    node: NodeArgs,
}

/// How versions are published, also by `knot watch`.
#[derive(Debug, clap::Args)]
pub(super) struct How {
    /// Key to sign with, from `knot key new`
    #[arg(long, value_name = "FILE", env = "KNOT_KEY")]
    pub(super) key: PathBuf,
    /// Most of the files that may disappear, in percent; more are taken for a mistake
    #[arg(long, value_name = "PERCENT", value_parser = percent, default_value = "50")]
    max_delete: u8,
    /// Whether published bytes stay servable when PATH changes: `auto` shares blocks with it where the filesystem has
    /// reflinks, `copy` copies files where it has not, `none` keeps nothing
    #[arg(long, value_enum, default_value = "auto")]
    snapshot: SnapshotArg,
    /// How long to look for a newer version
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "10s")]
    look: Duration,
    /// Publish also where the newest version is one of two that were signed with the same number
    #[arg(long)]
    over_conflict: bool,
    /// Publish also where nobody has the newest version any more, or where it says to be another one: what changes is
    /// then told from the version before
    #[arg(long)]
    over_missing: bool,
    /// Peer to ask and to tell, as a multiaddr or HOST:PORT; may be given more than once
    #[arg(long, value_name = "ADDR", value_parser = peer, env = "KNOT_PEER", value_delimiter = ',')]
    peer: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum SnapshotArg {
    /// By reflinks, where the filesystem has them
    Auto,
    /// By reflinks, else by copies
    Copy,
    /// Not at all
    None,
}

impl From<SnapshotArg> for Snapshot {
    fn from(arg: SnapshotArg) -> Self {
        match arg {
            SnapshotArg::Auto => Self::Auto,
            SnapshotArg::Copy => Self::Copy,
            SnapshotArg::None => Self::None,
        }
    }
}

/// What publishing came to.
#[derive(Debug, Serialize)]
pub(super) struct Shown {
    /// The dataset.
    pub(super) info_sig: String,
    /// The version that is or would be published, or, where nothing has changed, is.
    pub(super) seq: u64,
    pub(super) info_hash: String,
    pub(super) published: bool,
    /// From the version before; null of a first version.
    pub(super) diff: Option<ShownDiff>,
    /// Who was told.
    pub(super) told: Option<Published>,
}

pub(super) async fn run(common: &Common, args: Args) -> Result<(), CliError> {
    // What is wrong with the key shows before hours of hashing.
    let key = key::read(&args.how.key)?;
    let path = args.path.as_deref().map(resolved).transpose()?;
    let shown = match (args.update, path) {
        (Some(origin), path) => {
            let session = Session::open(&common.store()?, &args.node, Role::OneShot).await?;
            let publisher = Publisher::new(&session.client, &key, &args.how, &args.node);
            let shown = next(&publisher, &args, &origin, path).await;
            session.close().await;
            shown?
        }
        (None, Some(path)) => first(common, &args, &key, path).await?,
        (None, None) => return Err(CliError::Usage("expected PATH, got none: say what to publish".into())),
    };
    shown.print(common, args.dry_run)
}

impl Shown {
    /// Of a version that is not published (yet).
    pub(super) fn new(origin: &InfoSig, seq: u64, info_hash: InfoHash, diff: Option<Diff>) -> Self {
        let (info_sig, info_hash) = (origin.to_string(), info_hash.to_string());
        Self { info_sig, seq, info_hash, published: false, diff: diff.map(ShownDiff::new), told: None }
    }

    fn print(&self, common: &Common, dry_run: bool) -> Result<(), CliError> {
        match &self.diff {
            _ if common.json => output::json(self),
            // What would change is what a dry run is asked for.
            Some(diff) if dry_run => output::line(diff.diff.to_string()),
            _ => output::line(&self.info_sig),
        }
    }
}

/// Publishes a new dataset.
async fn first(common: &Common, args: &Args, key: &SecretKey, path: PathBuf) -> Result<Shown, CliError> {
    let recipe = Recipe::first(path.clone(), args.name.clone(), args.format, args.hash, args.piece_length)?;
    let hashed = recipe.hash(key).await?;
    let (hash, origin) = (hashed.metainfo.info_hash(), key.sign(&hashed.metainfo.info_hash()));
    let shown = Shown::new(&origin, 1, hash, None);
    if args.dry_run {
        output::note(format!("would publish {} as version 1", describe(&hashed.metainfo)));
        return Ok(shown);
    }
    let session = Session::open(&common.store()?, &args.node, Role::OneShot).await?;
    let publisher = Publisher::new(&session.client, key, &args.how, &args.node);
    let published = publisher.publish_first(&origin, path, hashed).await;
    session.close().await;
    let told = published?;
    Ok(Shown { published: told.is_some(), told, ..shown })
}

/// Publishes the next version of a dataset.
async fn next(
    publisher: &Publisher<'_>,
    args: &Args,
    origin: &InfoSig,
    path: Option<PathBuf>,
) -> Result<Shown, CliError> {
    let newest = publisher.look(origin, args.rollback).await?;
    let path = path.or_else(|| newest.path.clone()).ok_or_else(|| {
        CliError::Usage("expected PATH, since this store has not published the dataset, got none: give it".into())
    })?;
    let hashed = match args.rollback {
        Some(_) => newest.old_version(publisher.key)?,
        None => {
            let given = [("--hash", args.hash.is_some()), ("--piece-length", args.piece_length.is_some())];
            refuse_given(&newest, &[given[0], given[1], ("--name", args.name.is_some())])?;
            Recipe::next(&newest, path.clone(), args.format)?.hash(publisher.key).await?
        }
    };
    let diff = Diff::between(&newest.metainfo, &hashed.metainfo);
    // Of two versions that were told apart by their number alone, the content is the same.
    if diff.is_empty() && !newest.is_missing {
        output::note(format!("nothing has changed since version {}: nothing is published", newest.seq));
        return Ok(Shown::new(origin, newest.seq, newest.hash, Some(diff)));
    }
    let shown = Shown::new(origin, newest.seq + 1, hashed.metainfo.info_hash(), Some(diff.clone()));
    if args.rollback.is_none() {
        publisher.check_removed(&diff)?;
    }
    if args.dry_run {
        output::note(format!("would publish {} as version {}", describe(&hashed.metainfo), newest.seq + 1));
        return Ok(shown);
    }
    output::note(format!("version {}: {diff}", newest.seq + 1));
    let told = publisher.publish_next(&newest, path, hashed).await?;
    Ok(Shown { published: true, told: Some(told), ..shown })
}

/// What a dataset keeps for its life cannot be chosen again: bytes that are hashed otherwise cannot be reused.
fn refuse_given(newest: &Newest, given: &[(&str, bool)]) -> Result<(), CliError> {
    let Some((name, _)) = given.iter().find(|(_, is_given)| *is_given) else { return Ok(()) };
    Err(CliError::Usage(format!(
        "expected no {name} with --update, since a dataset keeps it, or mirrors would have to fetch everything again, \
         got one: version {} is {:?}, {}, in pieces of {} bytes",
        newest.seq,
        newest.metainfo.name(),
        newest.metainfo.algorithm(),
        newest.metainfo.piece_length(),
    )))
}

/// Publishes through the node of a store.
pub(super) struct Publisher<'a> {
    client: &'a Client,
    pub(super) key: &'a SecretKey,
    how: &'a How,
    discovery: Option<Vec<String>>,
}

impl<'a> Publisher<'a> {
    pub(super) fn new(client: &'a Client, key: &'a SecretKey, how: &'a How, node: &NodeArgs) -> Self {
        Self { client, key, how, discovery: node.discovery() }
    }

    /// What is known of the dataset `origin`, here and elsewhere, with the metainfo of the newest version and of another
    /// one if it is wanted.
    ///
    /// # Errors
    /// When that is not enough to publish the next version.
    pub(super) async fn look(&self, origin: &InfoSig, old: Option<u64>) -> Result<Newest, CliError> {
        let request = DatasetRequest {
            origin: origin.to_string(),
            peers: self.how.peer.clone(),
            discovery: self.discovery.clone(),
            look: self.how.look,
            metainfos: [None].into_iter().chain(old.map(Some)).collect(),
        };
        let bar = Bar::new();
        bar.waiting("looking for the newest version".to_owned());
        let (info, is_missing) = self.ask(request).await?;
        drop(bar);
        let mut newest = Newest::new(origin, info, old)?;
        newest.is_missing = is_missing;
        newest.check_key(self.key)?;
        if !self.how.over_conflict {
            newest.check_conflict()?;
        }
        Ok(newest)
    }

    /// What the node says; whether that is with an older version in the place of the newest one, which cannot be had.
    async fn ask(&self, request: DatasetRequest) -> Result<(DatasetInfo, bool), CliError> {
        let asked = self.client.dataset(&request).await;
        let is_wrong =
            |error: &ControlError| matches!(error, ControlError::Api(error) if error.kind == ErrorKind::Verification);
        let is_missing = match &asked {
            Ok(info) => info.metainfos.first().is_some_and(Option::is_none),
            Err(error) => is_wrong(error),
        };
        if !is_missing || !self.how.over_missing {
            return Ok((asked?, false));
        }
        let known = DatasetRequest { metainfos: Vec::new(), look: Duration::ZERO, ..request.clone() };
        let mut info = self.client.dataset(&known).await?;
        let seqs: Vec<u64> = info.versions.iter().rev().map(|version| version.seq).collect();
        for seq in seqs.iter().skip(1) {
            let metainfos = [Some(*seq)].into_iter().chain(request.metainfos.iter().skip(1).copied()).collect();
            match self.client.dataset(&DatasetRequest { metainfos, ..request.clone() }).await {
                Ok(older) if older.metainfos.first().is_some_and(Option::is_some) => {
                    output::note(format!("version {} cannot be had: going on from version {seq}", seqs[0]));
                    info.metainfos = older.metainfos;
                    return Ok((info, true));
                }
                Ok(_) => {}
                Err(error) if is_wrong(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok((asked?, false))
    }

    /// Refuses what looks like a mistake.
    pub(super) fn check_removed(&self, diff: &Diff) -> Result<(), CliError> {
        if !diff.removes_more_than(self.how.max_delete) {
            return Ok(());
        }
        Err(CliError::Failure(format!(
            "expected at most {} % of {} files to disappear, got {}: is something not mounted? If they shall go, \
             publish with --max-delete 100",
            self.how.max_delete, diff.old_files, diff.removed_files
        )))
    }

    /// Publishes the first version; `None` if it is published already.
    async fn publish_first(
        &self,
        origin: &InfoSig,
        path: PathBuf,
        hashed: Hashed,
    ) -> Result<Option<Published>, CliError> {
        if let Some((newest, is_complete)) = self.published_before(origin).await? {
            if newest == 1 && is_complete {
                output::note("this is published already: its InfoSig is the same");
                return Ok(None);
            }
            if newest > 1 {
                return Err(CliError::Failure(format!(
                    "expected a new dataset, got the first version of one that is at version {newest}: to go back to it, \
                 `knot publish --key … --update {origin} --rollback 1`"
                )));
            }
        }
        let hash = hashed.metainfo.info_hash();
        output::note(format!("publishing {} as version 1", describe(&hashed.metainfo)));
        self.publish(hash, None, path, hashed).await.map(Some)
    }

    /// The newest version of a dataset that this store knows already, and whether it was published from here to the
    /// end: a crash may have left a part of that, and what is only seeded has no record.
    async fn published_before(&self, origin: &InfoSig) -> Result<Option<(u64, bool)>, CliError> {
        let request = DatasetRequest {
            origin: origin.to_string(),
            peers: Vec::new(),
            discovery: self.discovery.clone(),
            look: Duration::ZERO,
            metainfos: Vec::new(),
        };
        match self.client.dataset(&request).await {
            Ok(info) => {
                let is_complete = |signed_at: Option<i64>| signed_at.is_some() && info.path.is_some();
                Ok(info.versions.last().map(|version| (version.seq, is_complete(version.signed_at))))
            }
            Err(ControlError::Api(error)) if error.kind == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Serves what this store has published of a dataset, and what it publishes later, while the answer is held; `None`
    /// if it has published nothing of it.
    ///
    /// # Errors
    /// When the node cannot, or is gone.
    pub(super) async fn serve(&self, origin: &InfoSig) -> Result<Option<Held>, CliError> {
        let request = SeedRequest {
            path: PathBuf::new(),
            torrent: Some(TorrentName::InfoId(origin.to_string())),
            discovery: self.discovery.clone(),
            peers: self.how.peer.clone(),
        };
        match self.client.seed(&request, |_| ()).await {
            Ok((_, addresses, held)) => {
                output::note(format!("serving {origin} at {}", addresses.join(", ")));
                Ok(Some(held))
            }
            Err(ControlError::Api(error)) if error.kind == ErrorKind::Usage => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Publishes what follows `newest`.
    pub(super) async fn publish_next(
        &self,
        newest: &Newest,
        path: PathBuf,
        hashed: Hashed,
    ) -> Result<Published, CliError> {
        self.publish(newest.original_hash, Some(newest.seq), path, hashed).await
    }

    async fn publish(
        &self,
        original_hash: InfoHash,
        replaces: Option<u64>,
        path: PathBuf,
        hashed: Hashed,
    ) -> Result<Published, CliError> {
        let Hashed { metainfo, stamps } = hashed;
        let signed_at = now().ok_or_else(|| {
            CliError::Failure("expected a clock that is past 1970, got one before it: set the clock".into())
        })?;
        let seq = replaces.unwrap_or(0) + 1;
        let record = UpdateRecord::sign(self.key, original_hash, metainfo.info_hash(), seq, signed_at)
            .map_err(|error| CliError::Failure(error.to_string()))?;
        let request = PublishRequest {
            path,
            metainfo: hex::encode(metainfo.bytes()),
            record: hex::encode(record.parts().to_bytes()),
            replaces,
            stamps,
            snapshot: self.how.snapshot.into(),
            peers: self.how.peer.clone(),
            discovery: self.discovery.clone(),
        };
        let bar = Bar::new();
        bar.waiting(format!("publishing version {seq}"));
        let published = self.client.publish(&request).await;
        drop(bar);
        let published = published?;
        report(record.original(), seq, &published);
        Ok(published)
    }
}

fn report(origin: &InfoSig, seq: u64, published: &Published) {
    published.notes.iter().for_each(output::note);
    let networks = published.networks.iter().map(|(name, nodes)| match nodes {
        0 => name.clone(),
        nodes => format!("{name} ({})", output::counted(*nodes, "node")),
    });
    let told = networks.chain((published.peers > 0).then(|| output::counted(published.peers, "peer")));
    let told: Vec<String> = told.collect();
    let told = if told.is_empty() { "nobody yet".to_owned() } else { told.join(", ") };
    // Whoever was told by a node that serves it already needs no advice.
    let advice = if published.peers > 0 { String::new() } else { format!("; serve it with `knot seed {origin}`") };
    output::note(format!("published version {seq}, told {told}{advice}"));
}

fn describe(metainfo: &Metainfo) -> String {
    let files = metainfo.entries().iter().filter(|entry| entry.is_file()).count();
    let form = if metainfo.form() == Form::Native { metainfo.algorithm().name() } else { "BitTorrent" };
    format!("{:?} ({files} files, {}, {form})", metainfo.name(), output::size(metainfo.total_length()))
}

/// The stamps of the files of a torrent, by their index there.
type Stamps = Vec<(u32, FileStamp)>;

fn percent(text: &str) -> Result<u8, String> {
    let number = text.strip_suffix('%').unwrap_or(text).trim().parse().ok().filter(|percent| *percent <= 100);
    number.ok_or_else(|| format!("expected a percentage from 0 to 100, got {text:?}"))
}

/// The command that publishes what `knot watch` has staged.
pub(super) fn command(path: &Path, how: &How, origin: &InfoSig) -> String {
    format!("knot publish {} --key {} --update {origin}", shell(path), shell(&how.key))
}

/// A path as a shell reads it.
fn shell(path: &Path) -> String {
    let text = path.to_string_lossy();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+,=@".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        return text.into_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_may_have_their_sign() {
        assert_eq!((percent("50"), percent("0 %"), percent("100%")), (Ok(50), Ok(0), Ok(100)));
        for wrong in ["101", "-1", "half", ""] {
            assert!(percent(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_shell_reads_paths_as_they_are() {
        assert_eq!(shell(Path::new("/a/b-c.d")), "/a/b-c.d");
        assert_eq!(shell(Path::new("/a b/it's")), r"'/a b/it'\''s'");
    }
}
