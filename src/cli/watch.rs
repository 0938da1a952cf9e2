//! `knot watch`

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{Config, Event, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use super::args::{Common, duration, info_sig, resolved};
use super::create::Format;
use super::error::CliError;
use super::node_args::NodeArgs;
use super::publish::{self, How, Newest, Publisher, Recipe, Shown};
use super::session::{Role, Session};
use super::{key, output};
use crate::control::{ControlError, Held};
use crate::metainfo::Entry;
use crate::node::lifecycle::Signals;
use crate::node::tree::{self, Scan};
use crate::types::{FileIndex, FileStamp, InfoSig};
use crate::updates::Diff;

/// After how many times the time to settle it is said that the directory does not rest.
const RESTLESS: u32 = 10;
/// How long after a try that failed before anything was hashed the next one is made, if nothing changes.
const RETRY: Duration = Duration::from_secs(60);

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Directory, or file, to watch
    #[arg(value_name = "DIR")]
    path: PathBuf,
    /// Dataset that it is published as
    #[arg(long, value_name = "INFO_SIG", value_parser = info_sig)]
    update: InfoSig,
    /// Publish every change, and serve what is published [default: say what would be published, and how]
    #[arg(long)]
    auto: bool,
    /// How long nothing may have changed before it is looked at
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "5s")]
    settle: Duration,
    #[command(flatten)]
    how: How,
    #[command(flatten)]
    node: NodeArgs,
}

pub(super) async fn run(common: &Common, args: Args) -> Result<(), CliError> {
    let key = key::read(&args.how.key)?;
    let path = resolved(&args.path)?;
    // From here on no change is missed.
    let changes = Changes::of(&path)?;
    let mut signals = Signals::new()?;
    let open = async { Session::open(&common.store()?, &args.node, Role::Foreground).await };
    let mut session = tokio::select! {
        session = open => session?,
        () = signals.recv() => return Err(CliError::Interrupted),
    };
    let client = session.client.clone();
    let publisher = Publisher::new(&client, &key, &args.how, &args.node);
    let mut watching = Watching { common, args: &args, path, publisher, changes, last: None, served: None };
    let result = tokio::select! {
        result = watching.run() => result,
        () = signals.recv() => Ok(()),
        error = session.lost() => Err(error.into()),
    };
    session.close().await;
    result
}

struct Watching<'a> {
    common: &'a Common,
    args: &'a Args,
    path: PathBuf,
    publisher: Publisher<'a>,
    changes: Changes,
    /// The tree that was hashed last.
    last: Option<Tree>,
    /// Keeps the node serving what is published.
    served: Option<Held>,
}

impl Watching<'_> {
    async fn run(&mut self) -> Result<(), CliError> {
        output::note(format!("watching {:?}; Ctrl-C ends it", self.path));
        self.serve().await;
        loop {
            // Also at the beginning: it may be in the middle of a change.
            self.changes.rest(self.args.settle, &self.path).await;
            let retry = match self.look().await {
                Ok(()) => None,
                Err(error) if self.is_final(&error) => return Err(error),
                Err(error) => {
                    output::note(error.chain());
                    Some(RETRY)
                }
            };
            self.changes.wait(retry).await;
        }
    }

    /// Serves what is published, if that is to be and this store has published any of it.
    async fn serve(&mut self) {
        if !self.args.auto || self.served.is_some() {
            return;
        }
        match self.publisher.serve(&self.args.update).await {
            Ok(served) => self.served = served,
            // After the next version it is tried again.
            Err(error) => output::note(error.chain()),
        }
    }

    /// Whether no later try can go better.
    fn is_final(&self, error: &CliError) -> bool {
        match error {
            CliError::Control(ControlError::Api(_)) => false,
            CliError::Control(_) | CliError::OutputClosed => true,
            _ => !self.path.exists(),
        }
    }

    /// Looks whether there is anything to publish.
    async fn look(&mut self) -> Result<(), CliError> {
        let tree = Tree::of(self.path.clone()).await?;
        if self.last.as_ref() == Some(&tree) {
            return Ok(());
        }
        let newest = self.publisher.look(&self.args.update, None).await?;
        let recipe = Recipe::next(&newest, self.path.clone(), Format::Knot)?;
        let hashed = recipe.hash(self.publisher.key).await?;
        // Whatever comes of it: the same tree is not hashed again.
        self.last = Some(tree);
        let diff = Diff::between(&newest.metainfo, &hashed.metainfo);
        if diff.is_empty() {
            output::note(format!("{:?} is what version {} is", self.path, newest.seq));
            return Ok(());
        }
        let shown = Shown::new(&newest.origin, newest.seq + 1, hashed.metainfo.info_hash(), Some(diff.clone()));
        if !self.args.auto {
            self.show(&newest, &diff, &shown)?;
            output::note(format!("to publish it: {}", publish::command(&self.path, &self.args.how, &newest.origin)));
            return Ok(());
        }
        self.publisher.check_removed(&diff)?;
        let told = self.publisher.publish_next(&newest, self.path.clone(), hashed).await?;
        self.serve().await;
        self.show(&newest, &diff, &Shown { published: true, told: Some(told), ..shown })
    }

    fn show(&self, newest: &Newest, diff: &Diff, shown: &Shown) -> Result<(), CliError> {
        if self.common.json {
            return output::json(shown);
        }
        let verb = if shown.published { "published" } else { "staged" };
        output::line(format!("{verb} version {}: {diff}", newest.seq + 1))
    }
}

/// What a tree looks like without reading its files.
#[derive(PartialEq, Eq)]
struct Tree {
    entries: Vec<Entry>,
    stamps: Vec<Option<FileStamp>>,
}

impl Tree {
    async fn of(path: PathBuf) -> Result<Self, CliError> {
        // What it is called does not matter.
        let scan = tokio::task::spawn_blocking(move || tree::scan(&path, Some("tree"))).await;
        let Scan { entries, source, .. } =
            scan.map_err(|error| CliError::Failure(format!("listing stopped: {error}")))??;
        let stamps = (0..entries.len() as u32).map(|file| source.scanned(FileIndex(file))).collect();
        Ok(Self { entries, stamps })
    }
}

/// Changes of a tree, as the kernel tells them.
struct Changes {
    changed: Arc<Notify>,
    /// Watches until dropped.
    _watcher: RecommendedWatcher,
}

impl Changes {
    fn of(path: &Path) -> Result<Self, CliError> {
        let changed = Arc::new(Notify::new());
        let heard = changed.clone();
        let on_event = move |event: notify::Result<Event>| {
            // After an error nobody knows what has changed.
            if event.as_ref().map_or(true, is_change) {
                heard.notify_one();
            }
        };
        let refused = |error: notify::Error| {
            CliError::Failure(format!(
                "expected to watch {path:?}, got an error: {error}; if there are too many directories, raise the sysctl \
                 fs.inotify.max_user_watches"
            ))
        };
        let config = Config::default().with_follow_symlinks(false);
        let mut watcher = RecommendedWatcher::new(on_event, config).map_err(refused)?;
        // A file may be replaced by another one, which only its directory tells.
        let (watched, mode) = match path.parent().filter(|_| path.is_file()) {
            Some(parent) => (parent, RecursiveMode::NonRecursive),
            None => (path, RecursiveMode::Recursive),
        };
        watcher.watch(watched, mode).map_err(refused)?;
        Ok(Self { changed, _watcher: watcher })
    }

    /// Waits until something has changed since it was last waited for, for at most as long as `most`.
    async fn wait(&self, most: Option<Duration>) {
        match most {
            None => self.changed.notified().await,
            Some(most) => drop(timeout(most, self.changed.notified()).await),
        }
    }

    /// Waits until nothing has changed for as long as `settle`.
    async fn rest(&self, settle: Duration, path: &Path) {
        let began = Instant::now();
        let mut is_told = false;
        while timeout(settle, self.changed.notified()).await.is_ok() {
            if !is_told && began.elapsed() >= settle * RESTLESS {
                is_told = true;
                output::note(format!("{path:?} has not rested for {settle:?} yet: waiting on"));
            }
        }
    }
}

/// Whether an event is more than that somebody, such as knot, has read something.
fn is_change(event: &Event) -> bool {
    !matches!(event.kind, EventKind::Access(access) if access != AccessKind::Close(AccessMode::Write))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_millis(300);

    async fn is_heard(changes: &Changes) -> bool {
        timeout(SOON, changes.changed.notified()).await.is_ok()
    }

    #[tokio::test]
    async fn changes_are_heard_and_reads_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("sub/file");
        std::fs::create_dir(dir.path().join("sub")).unwrap();
        std::fs::write(&file, "old").unwrap();
        let changes = Changes::of(dir.path()).unwrap();
        std::fs::read(&file).unwrap();
        drop(Tree::of(dir.path().to_owned()).await.unwrap());
        assert!(!is_heard(&changes).await);
        std::fs::write(&file, "new").unwrap();
        assert!(is_heard(&changes).await);
        changes.rest(SOON, dir.path()).await;
        std::fs::create_dir(dir.path().join("later")).unwrap();
        changes.rest(SOON, dir.path()).await;
        std::fs::write(dir.path().join("later/file"), "new").unwrap();
        assert!(is_heard(&changes).await, "also in a directory that came later");
        changes.rest(SOON, dir.path()).await;
        std::fs::remove_file(&file).unwrap();
        assert!(is_heard(&changes).await);
    }

    #[tokio::test]
    async fn a_file_that_is_replaced_is_heard_too() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "old").unwrap();
        let changes = Changes::of(&file).unwrap();
        for _ in 0..2 {
            std::fs::write(dir.path().join("next"), "new").unwrap();
            changes.rest(SOON, &file).await;
            std::fs::rename(dir.path().join("next"), &file).unwrap();
            assert!(is_heard(&changes).await);
            changes.rest(SOON, &file).await;
        }
    }

    #[tokio::test]
    async fn a_tree_rests_only_when_nothing_changes_for_a_while() {
        let dir = tempfile::tempdir().unwrap();
        let changes = Changes::of(dir.path()).unwrap();
        let began = Instant::now();
        let writer = async {
            for at in 0..5 {
                std::fs::write(dir.path().join("file"), at.to_string()).unwrap();
                tokio::time::sleep(SOON / 2).await;
            }
        };
        tokio::join!(writer, changes.rest(SOON, dir.path()));
        assert!(began.elapsed() >= SOON * 3, "{:?}", began.elapsed());
    }

    #[tokio::test]
    async fn a_tree_is_other_after_every_kind_of_change() {
        let dir = tempfile::tempdir().unwrap();
        let of = || async { Tree::of(dir.path().to_owned()).await.unwrap() };
        let empty = of().await;
        std::fs::write(dir.path().join("a"), "1").unwrap();
        let one = of().await;
        assert!(empty != one && one == of().await);
        std::fs::write(dir.path().join("b"), "2").unwrap();
        std::fs::rename(dir.path().join("b"), dir.path().join("a")).unwrap();
        let replaced = of().await;
        assert!(one != replaced, "of the same name and length");
        std::os::unix::fs::symlink("a", dir.path().join("l")).unwrap();
        assert!(replaced != of().await);
    }
}
