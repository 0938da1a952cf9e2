//! Mirroring a dataset without its key: every record and every metainfo is kept, of the newest versions the content,
//! all of it is served, and records are put again into the networks that forget them.

mod gaps;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::task::AbortOnDropHandle;

use self::gaps::Gaps;
use super::open::ASK_FIRST;
use super::{Dataset, Edition};
use crate::engine::Prefetch;
use crate::metainfo::{EntryKind, Metainfo};
use crate::node::api::{
    AddRequest, ApiError, ErrorKind, MirrorRequest, MirrorStatus, Progress, TorrentInfo, TorrentName,
    default_read_timeout,
};
use crate::node::driver::Command;
use crate::node::handle::{NodeHandle, ProgressSink, Shared, Torrent, blocking, usage};
use crate::node::names::Lead;
use crate::types::InfoId;

/// Between two looks at how far things are, where nothing else happens.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How long peers have to send the metainfo of a version; then it is the turn of others.
const METAINFO_TIMEOUT: Duration = Duration::from_secs(20);
/// Until a version that could not be opened is tried again; doubles each time.
const SHORTEST_WAIT: Duration = Duration::from_secs(5);
const LONGEST_WAIT: Duration = Duration::from_secs(600);
/// Versions that are being opened at the same time.
const MAX_OPENING: usize = 8;
/// Versions that are served at the same time; of older ones, the metainfo is in the store.
const MAX_SERVED: usize = 256;
/// After that long without a new block the next version has its turn as well.
const STALLED: Duration = Duration::from_secs(5);

/// A dataset that is being mirrored, until it is dropped.
struct Mirroring {
    dataset: Arc<Dataset>,
    _task: AbortOnDropHandle<()>,
}

impl Drop for Mirroring {
    fn drop(&mut self) {
        self.dataset.set_mirror(None);
    }
}

impl NodeHandle {
    /// Keeps and serves a dataset while the kept value lives; returns when anything is known of it, which may be
    /// before anything of it is here.
    ///
    /// # Errors
    /// `NotFound` when nobody knows it in time, `Usage` for names and addresses that make no sense.
    pub async fn mirror(
        &self,
        request: MirrorRequest,
        progress: ProgressSink,
    ) -> Result<(TorrentInfo, Box<dyn Send + Sync>), ApiError> {
        let origin = match request.origin.parse().map_err(usage)? {
            InfoId::Sig(origin) => origin,
            InfoId::Hash(hash) => return Err(usage(format!("expected an InfoSig of 128 hex digits, got {hash}"))),
        };
        if request.keep == 0 {
            return Err(usage("expected at least one version to keep, got 0"));
        }
        let add = AddRequest {
            torrent: TorrentName::InfoId(request.origin.clone()),
            peers: request.peers.clone(),
            discovery: request.discovery.clone(),
            metainfo_timeout: METAINFO_TIMEOUT,
            read_timeout: default_read_timeout(),
            prefetch_all: false,
            at: None,
        };
        let lead = Lead::new(&add.torrent, &request.peers, self.0.local).await?;
        let dataset = self.join(origin, request.discovery.clone()).await?;
        if let Some(poll) = request.poll {
            dataset.poll_every(poll);
        }
        self.send(lead.hints(dataset.key, None)).await?;
        self.until_known(&dataset, &add, request.timeout, &progress).await?;
        dataset.serve();
        dataset.search_first().await?;
        let mirror = Mirror {
            node: Arc::downgrade(&self.0),
            dataset: dataset.clone(),
            lead: Arc::new(lead),
            add,
            keep: request.keep as usize,
            versions: BTreeMap::new(),
            stored: HashSet::new(),
            tries: HashMap::new(),
            opening: JoinSet::new(),
            taking_over: JoinSet::new(),
            gaps: Gaps::default(),
            followers: 0,
            began: Instant::now(),
            problem: None,
        };
        mirror.report();
        let info = TorrentInfo { info_id: request.origin, name: String::new(), total_length: 0 };
        let task = AbortOnDropHandle::new(tokio::spawn(mirror.run()));
        Ok((info, Box::new(Mirroring { dataset, _task: task })))
    }

    /// Waits until any version is known, if only its record; and until others had time to tell of newer ones, since peers
    /// send the metainfo of the first version to whoever asks.
    async fn until_known(
        &self,
        dataset: &Dataset,
        add: &AddRequest,
        within: Duration,
        progress: &ProgressSink,
    ) -> Result<(), ApiError> {
        let began = Instant::now();
        let mut changes = dataset.changes();
        loop {
            let is_known = dataset.known().editions().next().is_some();
            if is_known && (dataset.answers() > 0 || began.elapsed() >= ASK_FIRST) {
                return Ok(());
            }
            let wait = self.wait(dataset.key, add).await;
            if !is_known && began.elapsed() >= within {
                return Err(ApiError {
                    kind: ErrorKind::NotFound,
                    message: format!(
                        "expected to find the dataset {} within {}, got nothing from {} peers: check that it is being \
                         seeded, or give --peer ADDR",
                        dataset.origin,
                        humantime::format_duration(within),
                        wait.peers
                    ),
                });
            }
            let _ = progress.try_send(Progress::Metainfo(wait));
            let _ = timeout(LOOK_INTERVAL / 4, changes.changed()).await;
        }
    }
}

/// What mirrors one dataset.
struct Mirror {
    node: Weak<Shared>,
    dataset: Arc<Dataset>,
    lead: Arc<Lead>,
    add: AddRequest,
    /// Versions whose content is kept.
    keep: usize,
    /// Versions that are served.
    versions: BTreeMap<u64, Version>,
    /// Versions that are too old to be served, and whose metainfo is in the store.
    stored: HashSet<u64>,
    /// Versions that could not be opened.
    tries: HashMap<u64, Try>,
    opening: JoinSet<(u64, Result<Torrent, ApiError>)>,
    /// Versions that take over what they share with others.
    taking_over: JoinSet<u64>,
    gaps: Gaps,
    followers: usize,
    began: Instant,
    problem: Option<String>,
}

/// A version that is served.
struct Version {
    torrent: Torrent,
    stage: Stage,
}

/// How far the content of a version is.
#[derive(Clone, Copy)]
enum Stage {
    /// It is not wanted, or not yet.
    Idle,
    /// What it shares with other versions is being taken over.
    TakingOver,
    /// That has been done.
    TakenOver,
    /// It is being fetched: the bytes that were here when a new one was seen last, and when.
    Fetching(u64, Instant),
}

impl Version {
    fn is_complete(&self) -> bool {
        self.torrent.source.torrent.storage.is_complete()
    }

    /// Whether its content does not come, so that the next one has its turn.
    fn is_stalled(&mut self) -> bool {
        let here = self.torrent.source.torrent.storage.verified_bytes();
        match self.stage {
            Stage::Fetching(bytes, since) if bytes == here => since.elapsed() >= STALLED,
            _ => {
                self.stage = Stage::Fetching(here, Instant::now());
                false
            }
        }
    }
}

/// A version that is not open: when it is tried again.
#[derive(Clone, Copy)]
struct Try {
    /// Since when.
    since: Instant,
    /// `None` while it is being opened.
    next: Option<Instant>,
    wait: Duration,
    failures: u32,
}

impl Try {
    /// Whether there are others to turn to meanwhile.
    fn is_missing(&self) -> bool {
        self.failures > 0 || self.since.elapsed() >= STALLED
    }
}

impl Mirror {
    async fn run(mut self) {
        let mut changes = self.dataset.changes();
        let mut look = interval(LOOK_INTERVAL);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            changes.mark_unchanged();
            let Some(node) = self.node.upgrade().map(NodeHandle) else { return };
            self.look_again_with_new_followers();
            self.gaps.ask(&self.dataset).await;
            self.open_more(&node);
            self.fetch(&node).await;
            self.report();
            drop(node);
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                Some(opened) = self.opening.join_next() => self.opened(opened),
                Some(Ok(seq)) = self.taking_over.join_next() => {
                    let version = self.versions.get_mut(&seq);
                    if let Some(version) = version.filter(|version| matches!(version.stage, Stage::TakingOver)) {
                        version.stage = Stage::TakenOver;
                    }
                }
                _ = look.tick() => {}
            }
        }
    }

    /// Whoever has just come may have what nobody had.
    fn look_again_with_new_followers(&mut self) {
        let followers = self.dataset.followers().len();
        if std::mem::replace(&mut self.followers, followers) < followers {
            let waiting = self.tries.values_mut().filter_map(|tried| tried.next.as_mut());
            waiting.for_each(|next| *next = Instant::now());
        }
    }

    /// Begins to open what is not open: what has never been tried first, and of that the newest.
    fn open_more(&mut self, node: &NodeHandle) {
        let now = Instant::now();
        let is_due = |tried: Option<&Try>| tried.is_none_or(|tried| tried.next.is_some_and(|next| next <= now));
        let mut due: Vec<Edition> = {
            let is_wanted = |seq: &u64| !self.versions.contains_key(seq) && !self.stored.contains(seq);
            let known = self.dataset.known();
            let editions = known.editions().rev();
            editions.filter(|edition| is_wanted(&edition.seq()) && is_due(self.tries.get(&edition.seq()))).collect()
        };
        due.sort_by_key(|edition| self.tries.get(&edition.seq()).map_or(0, |tried| tried.failures));
        for edition in due.into_iter().take(MAX_OPENING.saturating_sub(self.opening.len())) {
            let seq = edition.seq();
            let tried =
                self.tries.entry(seq).or_insert(Try { since: now, next: None, wait: SHORTEST_WAIT, failures: 0 });
            tried.next = None;
            let (node, dataset, lead, add) = (node.clone(), self.dataset.clone(), self.lead.clone(), self.add.clone());
            self.opening.spawn(async move {
                // Nobody is told how far it is.
                let (progress, _) = tokio::sync::mpsc::channel(1);
                (seq, node.open_edition(&dataset, edition, &lead, &add, &progress).await)
            });
        }
    }

    fn opened(&mut self, opened: Result<(u64, Result<Torrent, ApiError>), tokio::task::JoinError>) {
        match opened {
            Ok((seq, Ok(torrent))) => {
                self.tries.remove(&seq);
                self.versions.insert(seq, Version { torrent, stage: Stage::Idle });
                if self.versions.len() > MAX_SERVED.max(self.keep) {
                    self.stored.extend(self.versions.pop_first().map(|(seq, _)| seq));
                }
            }
            Ok((seq, Err(error))) => {
                tracing::debug!(origin = %self.dataset.origin, seq, %error, "a version cannot be mirrored so far");
                let Some(tried) = self.tries.get_mut(&seq) else { return };
                tried.next = Some(Instant::now() + tried.wait);
                tried.wait = (tried.wait * 2).min(LONGEST_WAIT);
                tried.failures += 1;
            }
            // Its version is tried no more: that is a bug, which is in the log.
            Err(error) => tracing::error!(%error, "a task that opens a version has ended"),
        }
    }

    /// The versions whose content is kept, newest first. What nobody has so far takes no other's place.
    fn kept(&self) -> Vec<u64> {
        let is_missing = |seq: &u64| self.tries.get(seq).is_some_and(Try::is_missing);
        // Of the versions before the newest, those that are known already need not be the newest.
        let nobody_tells = self.followers == 0 && self.began.elapsed() >= STALLED;
        let keep = if nobody_tells || self.gaps.have_been_asked() { self.keep } else { 1 };
        let known = self.dataset.known();
        known.editions().rev().map(|edition| edition.seq()).filter(|seq| !is_missing(seq)).take(keep).collect()
    }

    /// Has the content of the newest versions fetched, one after the other, and that of no other.
    async fn fetch(&mut self, node: &NodeHandle) {
        let kept = self.kept();
        self.let_go(node, &kept).await;
        let (mut sum, cap) = (Sum::default(), node.0.store.cap_bytes());
        self.problem = None;
        for seq in kept {
            // The newest is waited for.
            let Some(version) = self.versions.get_mut(&seq) else { return };
            sum.add(&version.torrent.metainfo);
            if sum.bytes > cap && !version.is_complete() {
                self.problem = Some(format!(
                    "expected a cache of {} bytes, which version {seq} and those after it need, got {cap}: their content \
                     is not kept in full; give --cache-size",
                    sum.bytes
                ));
                return;
            }
            if version.is_complete() {
                // Should it be evicted for want of room, it is fetched again.
                version.stage = Stage::TakenOver;
                continue;
            }
            match version.stage {
                Stage::Idle => {
                    version.stage = Stage::TakingOver;
                    return self.take_over(node, seq);
                }
                Stage::TakingOver => return,
                Stage::TakenOver => {
                    let torrent = version.torrent.key;
                    let _ = node.send(Command::Prefetch { torrent, prefetch: Prefetch::All }).await;
                }
                Stage::Fetching(..) => {}
            }
            if !version.is_stalled() {
                return;
            }
        }
    }

    /// Begins to copy what a version shares with the others, which then need not be fetched.
    fn take_over(&mut self, node: &NodeHandle, seq: u64) {
        let Some(torrent) = self.versions.get(&seq).map(|version| version.torrent.clone()) else { return };
        let others = self.versions.iter().rev().filter(|(other, _)| **other != seq);
        let from: Vec<_> = others.take(self.keep).map(|(_, other)| other.torrent.clone()).collect();
        let node = node.clone();
        self.taking_over.spawn(async move {
            node.take_over(&torrent, from.iter()).await;
            seq
        });
    }

    /// What is not to be kept any more is not fetched, and makes room first.
    async fn let_go(&mut self, node: &NodeHandle, kept: &[u64]) {
        // A publisher who goes back to an old version gives its content a new number.
        let keys: HashSet<_> =
            kept.iter().filter_map(|seq| self.versions.get(seq)).map(|version| version.torrent.key).collect();
        let is_gone =
            |(seq, version): &(&u64, &mut Version)| !matches!(version.stage, Stage::Idle) && !kept.contains(*seq);
        let gone = self.versions.iter_mut().filter(is_gone);
        for (_, version) in gone {
            version.stage = Stage::Idle;
            if keys.contains(&version.torrent.key) {
                continue;
            }
            let _ = node.send(Command::Prefetch { torrent: version.torrent.key, prefetch: Prefetch::None }).await;
            let storage = version.torrent.source.torrent.storage.clone();
            let _ = blocking(move || storage.retire(false)).await;
        }
    }

    fn report(&self) {
        let is_complete = |seq: &u64| self.versions.get(seq).is_some_and(Version::is_complete);
        let (complete, fetching) = self.kept().into_iter().partition(is_complete);
        let mut missing: Vec<u64> =
            self.tries.iter().filter(|(_, tried)| tried.is_missing()).map(|(seq, _)| *seq).collect();
        missing.sort_unstable_by(|a, b| b.cmp(a));
        self.dataset.set_mirror(Some(MirrorStatus {
            keep: u32::try_from(self.keep).unwrap_or(u32::MAX),
            served: self.versions.len(),
            complete,
            fetching,
            missing,
            problem: self.problem.clone(),
        }));
    }
}

/// Bytes of several versions, where files that they share count once.
#[derive(Default)]
struct Sum {
    bytes: u64,
    files: HashSet<(crate::types::FileRoot, u64)>,
}

impl Sum {
    fn add(&mut self, metainfo: &Metainfo) {
        for entry in metainfo.entries() {
            let EntryKind::File { length, root, .. } = &entry.kind else { continue };
            let is_new = root.is_none_or(|root| self.files.insert((root, *length)));
            self.bytes = self.bytes.saturating_add(if is_new { *length } else { 0 });
        }
    }
}

impl Dataset {
    fn set_mirror(&self, status: Option<MirrorStatus>) {
        *self.mirror.lock().unwrap_or_else(PoisonError::into_inner) = status;
    }
}
