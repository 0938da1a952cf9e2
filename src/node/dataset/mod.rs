//! Datasets that change: which versions are known, who else follows them, which one is opened.
//!
//! A dataset is named by its original InfoSig. Everybody who has anything to do with it meets in the swarm of that name,
//! where no content is exchanged: peers there tell each other of the newest version (`knot_update`). Content is
//! exchanged in the swarms of each version.

mod adopt;
mod follow;
mod known;
mod mirror;
mod news;
mod open;
mod publish;
mod scan;
mod serve;
mod view;

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};

use self::known::Known;
use super::api::{ApiError, MirrorStatus};
use super::driver::{Command, Fetched};
use super::handle::{NodeHandle, blocking, failure};
use super::storage::{StorageError, Store};
use super::warnings::Warnings;
use crate::engine::Meeting;
use crate::metainfo::Metainfo;
use crate::types::{InfoId, InfoSig, PeerAddr, RecordParts, TorrentKey};
use crate::updates::{Judgement, UpdateRecord};

pub(super) use self::follow::Following;
pub(super) use self::known::Edition;
pub(super) use self::news::{attend, receive};
pub(super) use self::open::{Membership, peers_at};
pub(super) use self::view::version_of;

/// Addresses of other followers that are remembered.
const MAX_MET: usize = 64;

/// The datasets that somebody uses.
#[derive(Default)]
pub(super) struct Datasets(Mutex<HashMap<InfoSig, Weak<Dataset>>>);

impl Datasets {
    fn find(&self, key: TorrentKey) -> Option<Arc<Dataset>> {
        self.lock().values().filter_map(Weak::upgrade).find(|dataset| dataset.key == key)
    }

    fn named(&self, origin: &InfoSig) -> Option<Arc<Dataset>> {
        self.lock().get(origin).and_then(Weak::upgrade)
    }

    /// Every one, once.
    pub(super) fn list(&self) -> Vec<Arc<Dataset>> {
        self.lock().values().filter_map(Weak::upgrade).collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<InfoSig, Weak<Dataset>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A dataset that somebody uses. Its followers are met until the last user drops it.
pub(super) struct Dataset {
    /// Its name.
    pub(super) origin: InfoSig,
    /// Where its followers meet.
    pub(super) key: TorrentKey,
    /// Sources that may be asked for followers; `None` for all.
    sources: Option<Vec<String>>,
    store: Arc<Store>,
    commands: mpsc::Sender<Command>,
    warnings: Arc<Warnings>,
    known: Mutex<Known>,
    /// Counts what has changed of it.
    changed: watch::Sender<u64>,
    /// Peers and networks that have told what they know.
    answers: AtomicUsize,
    poll_ms: AtomicU64,
    serves: AtomicBool,
    met: Mutex<VecDeque<PeerAddr>>,
    /// The versions whose content is exchanged.
    open: Mutex<Vec<TorrentKey>>,
    /// Records are judged one after the other.
    learning: tokio::sync::Mutex<()>,
    /// How far its mirror is, where there is one.
    mirror: Mutex<Option<MirrorStatus>>,
}

impl Drop for Dataset {
    fn drop(&mut self) {
        // Without a driver there is nobody to meet.
        let _ = self.commands.try_send(Command::Remove { torrent: self.key });
    }
}

impl NodeHandle {
    /// Meets the followers of a dataset from now on, until the last clone is dropped.
    pub(super) async fn join(&self, origin: InfoSig, sources: Option<Vec<String>>) -> Result<Arc<Dataset>, ApiError> {
        if let Some(dataset) = self.0.datasets.lock().get(&origin).and_then(Weak::upgrade) {
            return Ok(dataset);
        }
        let store = self.0.store.clone();
        let load = move || -> Result<Known, StorageError> {
            let mut known = Known::load(&origin, &store.updates(&origin)?);
            known.first = store.metainfo(&InfoId::Sig(origin))?;
            known.checked_at = store.checked(&origin)?;
            Ok(known)
        };
        let known = blocking(load).await?.map_err(|error| failure(error.to_string()))?;
        let dataset = {
            let mut datasets = self.0.datasets.lock();
            if let Some(dataset) = datasets.get(&origin).and_then(Weak::upgrade) {
                return Ok(dataset);
            }
            datasets.retain(|_, dataset| dataset.strong_count() > 0);
            let dataset = Arc::new(Dataset {
                origin,
                key: self.0.registry.new_key(),
                sources,
                store: self.0.store.clone(),
                commands: self.0.commands.clone(),
                warnings: self.0.warnings.clone(),
                known: Mutex::new(known),
                changed: watch::Sender::new(0),
                answers: AtomicUsize::new(0),
                poll_ms: AtomicU64::new(scan::DEFAULT_POLL.as_millis() as u64),
                serves: AtomicBool::new(false),
                met: Mutex::default(),
                open: Mutex::default(),
                learning: tokio::sync::Mutex::default(),
                mirror: Mutex::default(),
            });
            datasets.insert(origin, Arc::downgrade(&dataset));
            dataset
        };
        dataset.meet().await?;
        scan::start(self, &dataset);
        Ok(dataset)
    }
}

impl Dataset {
    /// Begins to meet followers; searches the metainfo of the first version where nothing at all is known.
    async fn meet(self: &Arc<Self>) -> Result<(), ApiError> {
        let (is_known, record) = {
            let known = self.known();
            let record = known.newest_record().map(|record| Bytes::from(record.parts().to_bytes()));
            (record.is_some() || known.first.is_some(), record)
        };
        let (fetched, waiting) = oneshot::channel();
        self.say_meeting(!is_known, Some(fetched)).await?;
        if let Some(record) = record {
            self.send(Command::TellRecord { torrent: self.key, record }).await?;
        }
        tokio::spawn(keep_first(Arc::downgrade(self), waiting));
        Ok(())
    }

    /// Searches the metainfo of the first version, of which there may be no record, where it is not known.
    async fn search_first(self: &Arc<Self>) -> Result<(), ApiError> {
        if self.known().edition(1).is_some() {
            return Ok(());
        }
        let (fetched, waiting) = oneshot::channel();
        self.say_meeting(true, Some(fetched)).await?;
        tokio::spawn(keep_first(Arc::downgrade(self), waiting));
        Ok(())
    }

    async fn say_meeting(&self, search: bool, fetched: Option<oneshot::Sender<Fetched>>) -> Result<(), ApiError> {
        let id = InfoId::Sig(self.origin);
        let envelope = self.known().first.as_ref().map(|first| first.public_bytes());
        let (torrent, sources) = (self.key, self.sources.clone());
        let meeting = Meeting { id, search, envelope };
        self.send(Command::Meet { torrent, swarm: id.swarm_id(), meeting, fetched, sources }).await
    }

    /// The metainfo of the first version is here: others may have it.
    pub(super) async fn set_first(&self, first: Arc<Metainfo>) -> Result<(), ApiError> {
        if self.known().first.replace(first).is_some() {
            return Ok(());
        }
        self.touch();
        self.say_meeting(false, None).await
    }

    /// A record has come, from `source`. What it is worth; `None` if it is no record of this dataset.
    pub(super) async fn learn(&self, parts: RecordParts, source: &str) -> Option<Judgement> {
        let _turn = self.learning.lock().await;
        let origin = self.origin;
        let verified = blocking(move || UpdateRecord::verify(&parts, &origin)).await.ok()?;
        let record = verified.inspect_err(|error| tracing::debug!(source, %error, "update record refused")).ok()?;
        let judgement = self.known().judge(&record, unix_now());
        let is_new = self.known().record(record.seq()).is_none();
        match judgement {
            Judgement::Same => {}
            Judgement::Older if !is_new => {}
            Judgement::FromTheFuture => self.warnings.add(format!(
                "{}: version {} is signed at a time that has not come; check the clocks here and at its publisher",
                self.origin,
                record.seq()
            )),
            Judgement::Newer | Judgement::Older | Judgement::Conflict => self.keep(record, judgement, source).await?,
        }
        Some(judgement)
    }

    /// Keeps a record durably before anything is done about it.
    async fn keep(&self, record: UpdateRecord, judgement: Judgement, source: &str) -> Option<()> {
        let (store, kept) = (self.store.clone(), record.clone());
        let stored = blocking(move || store.put_update(&kept)).await.ok()?;
        if let Err(error) = stored {
            self.warnings.add(format!("{}: version {} cannot be kept: {error}", self.origin, record.seq()));
            return None;
        }
        if judgement == Judgement::Conflict {
            let followed = self.known().record(record.seq()).map(|followed| followed.hash().to_string());
            self.warnings.add(format!(
                "{}: its key has signed two versions {}: {} is followed, {} is not; its publisher should find out why",
                self.origin,
                record.seq(),
                followed.unwrap_or_default(),
                record.hash(),
            ));
        }
        tracing::info!(origin = %self.origin, seq = record.seq(), source, ?judgement, "update record");
        let bytes = Bytes::from(record.parts().to_bytes());
        {
            let mut known = self.known();
            known.insert(record);
            if judgement == Judgement::Newer {
                known.problem = None;
            }
        }
        if judgement == Judgement::Newer {
            // Everybody who is met hears of it, whoever brought it.
            let _ = self.send(Command::TellRecord { torrent: self.key, record: bytes }).await;
        }
        self.touch();
        Some(())
    }

    /// Somebody has told what he knows.
    pub(super) fn answered(&self) {
        self.answers.fetch_add(1, Ordering::Relaxed);
        let now = unix_now();
        let last = self.known().checked_at.replace(now);
        if last.is_none_or(|last| now - last >= CHECKED_INTERVAL_S) {
            let (store, origin) = (self.store.clone(), self.origin);
            tokio::task::spawn_blocking(move || {
                if let Err(error) = store.put_checked(&origin, now) {
                    tracing::debug!(%error, "the time of a look is not kept");
                }
            });
        }
        self.touch();
    }

    pub(super) fn answers(&self) -> usize {
        self.answers.load(Ordering::Relaxed)
    }

    /// Another follower can be reached at `addr`: whatever version is open may be had there.
    pub(super) async fn met(&self, addr: PeerAddr) {
        {
            let mut met = self.met.lock().unwrap_or_else(PoisonError::into_inner);
            if met.contains(&addr) {
                return;
            }
            if met.len() == MAX_MET {
                met.pop_front();
            }
            met.push_back(addr.clone());
        }
        let open = self.open_versions().clone();
        for torrent in open {
            let _ = self.send(Command::PeerAt { torrent, addr: addr.clone() }).await;
        }
    }

    /// Where other followers are.
    pub(super) fn followers(&self) -> Vec<PeerAddr> {
        self.met.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// A torrent is open that is a version of the dataset.
    pub(super) fn opened(&self, torrent: TorrentKey) {
        self.open_versions().push(torrent);
    }

    pub(super) fn closed(&self, torrent: TorrentKey) {
        self.open_versions().retain(|open| *open != torrent);
    }

    /// Whether a network of this name may be asked about it.
    pub(super) fn may_ask(&self, network: &str) -> bool {
        self.sources.as_ref().is_none_or(|names| names.iter().any(|name| name == network))
    }

    /// Between two looks for a newer version.
    pub(super) fn poll(&self) -> Duration {
        Duration::from_millis(self.poll_ms.load(Ordering::Relaxed))
    }

    /// Lets it be looked at least that often.
    pub(super) fn poll_every(&self, poll: Duration) {
        self.poll_ms.fetch_min(u64::try_from(poll.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Whether records are put again into networks that forget them: by its publisher and by mirrors.
    pub(super) fn serves(&self) -> bool {
        self.serves.load(Ordering::Relaxed)
    }

    pub(super) fn serve(&self) {
        self.serves.store(true, Ordering::Relaxed);
    }

    /// Asks peers for the record of a version.
    pub(super) async fn ask(&self, seq: u64) {
        let _ = self.send(Command::AskRecord { torrent: self.key, seq }).await;
    }

    /// Says why the newest version is not shown; empty where it is.
    pub(super) fn set_problem(&self, problem: Option<String>) {
        let is_new = {
            let mut known = self.known();
            let is_new = known.problem != problem;
            known.problem.clone_from(&problem);
            is_new
        };
        if let (Some(problem), true) = (problem, is_new) {
            self.warnings.add(problem);
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells when anything has changed.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn touch(&self) {
        self.changed.send_modify(|count| *count = count.wrapping_add(1));
    }

    fn open_versions(&self) -> MutexGuard<'_, Vec<TorrentKey>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn send(&self, command: Command) -> Result<(), ApiError> {
        self.commands.send(command).await.map_err(|_| failure("the node is shutting down".to_owned()))
    }
}

/// How often the time of the last look is kept, in seconds.
const CHECKED_INTERVAL_S: i64 = 60;

/// Keeps the metainfo of the first version when it has come.
async fn keep_first(dataset: Weak<Dataset>, waiting: oneshot::Receiver<Fetched>) {
    let Ok(Ok(first)) = waiting.await else { return };
    if let Some(dataset) = dataset.upgrade() {
        let _ = dataset.set_first(first).await;
    }
}

/// Now, in seconds of Unix time.
pub(super) fn unix_now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64)
}
