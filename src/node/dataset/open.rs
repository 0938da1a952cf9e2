//! Which version of a dataset is opened, and that it is one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout};

use super::{Dataset, Edition};
use crate::metainfo::{Form, Metainfo};
use crate::node::api::{AddRequest, ApiError, ErrorKind, Progress};
use crate::node::driver::Command;
use crate::node::handle::{NodeHandle, ProgressSink, Torrent, blocking, failure};
use crate::node::names::Lead;
use crate::types::{InfoId, InfoSig};
use crate::updates::UpdateRecord;

/// How long others are asked for a newer version before what is known is taken for the newest.
pub(super) const ASK_FIRST: Duration = Duration::from_secs(2);
/// Between two looks whether anything has come.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// Between two times that peers are asked for a version.
const ASK_INTERVAL: Duration = Duration::from_secs(2);

/// What a version is opened as.
#[derive(Clone)]
pub(in crate::node) struct Membership {
    pub(in crate::node) dataset: Arc<Dataset>,
    pub(in crate::node) edition: Edition,
}

impl Membership {
    /// Whether `metainfo` is what the record says: the version of this dataset, or one of before that the publisher went
    /// back to.
    ///
    /// # Errors
    /// When it says to be something else.
    pub(in crate::node) fn check(&self, metainfo: &Metainfo) -> Result<(), ApiError> {
        let Edition::Recorded(record) = &self.edition else { return Ok(()) };
        check_edition(record, metainfo).map_err(|got| ApiError {
            kind: ErrorKind::Verification,
            message: format!(
                "expected version {} of {}, got a metainfo that says to be {got}: its publisher made a mistake, or \
                 somebody has the key",
                record.seq(),
                record.original()
            ),
        })
    }

    /// `metainfo` with the publisher's signature, which bare metainfo from ordinary clients lacks.
    pub(in crate::node) fn sign(&self, metainfo: Arc<Metainfo>) -> Arc<Metainfo> {
        let Edition::Recorded(record) = &self.edition else { return metainfo };
        if metainfo.info_sig().as_ref() == Some(record.hash_sig()) {
            return metainfo;
        }
        metainfo.with_signature(record.key(), record.hash_sig()).map_or(metainfo, Arc::new)
    }
}

pub(super) fn check_edition(record: &UpdateRecord, metainfo: &Metainfo) -> Result<(), String> {
    if metainfo.info_hash() != *record.hash() {
        return Err(format!("{}", metainfo.info_hash()));
    }
    match metainfo.version() {
        Some(version) if version.origin != *record.original() => Err(format!("of dataset {}", version.origin)),
        // An older number is that of a version that the publisher went back to.
        Some(version) if version.seq > record.seq() => Err(format!("version {}", version.seq)),
        None if metainfo.form() == Form::Native && metainfo.info_hash() != *record.original_hash() => {
            Err("of no dataset".to_owned())
        }
        _ => Ok(()),
    }
}

impl NodeHandle {
    /// Opens what `lead` names: a torrent, or a version of a dataset: the one that is asked for, else the newest. Where
    /// `follows`, an older one that is here is good enough for the beginning.
    pub(in crate::node) async fn open_any(
        &self,
        lead: &Lead,
        request: &AddRequest,
        follows: bool,
        progress: &ProgressSink,
    ) -> Result<Torrent, ApiError> {
        // A link with an InfoHash beside the InfoSig names one version.
        let names_content = lead.metainfo.is_some() || lead.ids.iter().any(|id| matches!(id, InfoId::Hash(_)));
        match lead.id {
            InfoId::Sig(origin) if !names_content => self.open_dataset(origin, lead, request, follows, progress).await,
            _ if request.at.is_some() => Err(ApiError {
                kind: ErrorKind::Usage,
                message: format!("expected the InfoSig of a dataset where a version is asked for, got {}", lead.id),
            }),
            _ => self.open_lead(lead, request, progress).await,
        }
    }

    async fn open_dataset(
        &self,
        origin: InfoSig,
        lead: &Lead,
        request: &AddRequest,
        follows: bool,
        progress: &ProgressSink,
    ) -> Result<Torrent, ApiError> {
        let dataset = self.join(origin, request.discovery.clone()).await?;
        self.send(lead.hints(dataset.key, None)).await?;
        let deadline = Instant::now() + request.metainfo_timeout;
        let mut asked = None;
        loop {
            let edition = match request.at {
                Some(seq) => dataset.known().edition(seq),
                None => self.newest(&dataset, follows, deadline - request.metainfo_timeout).await?,
            };
            if let Some(edition) = edition {
                let left = deadline.saturating_duration_since(Instant::now()).max(LOOK_INTERVAL);
                let request = AddRequest { metainfo_timeout: left, ..request.clone() };
                return self.open_edition(&dataset, edition, lead, &request, progress).await;
            }
            if let Some(seq) = request.at.filter(|_| asked.is_none_or(|at: Instant| at.elapsed() >= ASK_INTERVAL)) {
                if seq == 1 && asked.is_none() {
                    // There may be no record of it.
                    dataset.search_first().await?;
                }
                asked = Some(Instant::now());
                dataset.ask(seq).await;
            }
            if Instant::now() >= deadline {
                return Err(self.version_missing(&dataset, lead, request).await);
            }
            let _ = progress.try_send(Progress::Metainfo(self.wait(dataset.key, request).await));
            let mut changes = dataset.changes();
            let _ = timeout(LOOK_INTERVAL, changes.changed()).await;
        }
    }

    /// The version to open, if that can be said.
    async fn newest(&self, dataset: &Dataset, follows: bool, began: Instant) -> Result<Option<Edition>, ApiError> {
        let has_asked = dataset.answers() > 0 || began.elapsed() >= ASK_FIRST;
        let (newest, has_record) = {
            let known = dataset.known();
            (known.editions().next_back(), known.newest_record().is_some())
        };
        let Some(newest) = newest.filter(|_| has_asked) else { return Ok(None) };
        if !follows || !has_record || self.is_here(&newest).await? {
            return Ok(Some(newest));
        }
        let editions: Vec<_> = dataset.known().editions().rev().skip(1).collect();
        for edition in editions {
            // What a peer has just told of the first version is not worth more than the newest one: nothing else of it is
            // here.
            if self.is_stored(&edition).await? {
                return Ok(Some(edition));
            }
        }
        Ok(Some(newest))
    }

    /// Whether the metainfo of any version of a dataset is in the store.
    pub(in crate::node) async fn knows_version(
        &self,
        origin: InfoSig,
        lead: &Lead,
        sources: &Option<Vec<String>>,
    ) -> Result<bool, ApiError> {
        if lead.metainfo.is_some() {
            return Ok(true);
        }
        let dataset = self.join(origin, sources.clone()).await?;
        let editions: Vec<_> = dataset.known().editions().rev().collect();
        for edition in editions {
            if self.is_here(&edition).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether nobody has to be asked for the metainfo of a version.
    pub(in crate::node) async fn is_here(&self, edition: &Edition) -> Result<bool, ApiError> {
        Ok(matches!(edition, Edition::First(_)) || self.is_stored(edition).await?)
    }

    /// Whether the metainfo of a version is in the store.
    async fn is_stored(&self, edition: &Edition) -> Result<bool, ApiError> {
        let (store, hash) = (self.0.store.clone(), edition.hash());
        blocking(move || store.has_metainfo(&hash)).await?.map_err(|error| failure(error.to_string()))
    }

    /// Opens a version; whom the dataset has met may have it. `lead` says where else to ask.
    pub(in crate::node) async fn open_edition(
        &self,
        dataset: &Arc<Dataset>,
        edition: Edition,
        lead: &Lead,
        request: &AddRequest,
        progress: &ProgressSink,
    ) -> Result<Torrent, ApiError> {
        let version = Lead::of_edition(dataset, edition, lead);
        let mut torrent = self.open_lead(&version, request, progress).await?;
        // What the user named, not which version it is today.
        torrent.info.info_id = dataset.origin.to_string();
        Ok(torrent)
    }

    async fn version_missing(&self, dataset: &Dataset, lead: &Lead, request: &AddRequest) -> ApiError {
        let wait = self.wait(dataset.key, request).await;
        if let Some(seq) = request.at {
            let known: Vec<_> = dataset.known().editions().map(|edition| edition.seq().to_string()).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            return ApiError {
                kind: ErrorKind::NotFound,
                message: format!(
                    "expected version {seq} of {}, got versions {known} from {} peers: give one of these with --at",
                    dataset.origin, wait.peers
                ),
            };
        }
        super::super::search::metainfo_missing(&wait, lead, request)
    }

    /// Waits until networks and peers had time to tell of newer versions: until `answers` more than now have answered,
    /// `look` at the most.
    pub(in crate::node) async fn ask_all(&self, dataset: &Arc<Dataset>, look: Duration) -> usize {
        let before = dataset.answers();
        let networks = self.networks_of(dataset);
        let asked = async {
            dataset.look(&networks).await;
            // Peers that are being dialled tell by themselves what they know.
            while dataset.answers() == before && self.expects_peers(dataset).await {
                sleep(LOOK_INTERVAL).await;
            }
        };
        let _ = timeout(look, asked).await;
        dataset.answers()
    }

    async fn expects_peers(&self, dataset: &Dataset) -> bool {
        self.stats(dataset.key).await.is_some_and(|stats| stats.known_addresses > 0 || !self.0.sources.is_empty())
    }
}

impl Dataset {
    /// The trackers of a version know its followers, too.
    pub(in crate::node) fn trackers(&self, metainfo: &Metainfo) -> Command {
        let trackers = metainfo.hints().trackers.clone();
        Command::Hints { torrent: self.key, peers: Vec::new(), trackers }
    }

    /// What a torrent that is a version of it is opened with.
    pub(super) fn hint_peers(&self, lead: &mut Lead) {
        for addr in self.followers() {
            if !lead.peers.contains(&addr) {
                lead.peers.push(addr);
            }
        }
    }
}

impl Lead {
    /// What is known of a version of a dataset; the hints of `lead`, which names the dataset, are good for it.
    pub(super) fn of_edition(dataset: &Arc<Dataset>, edition: Edition, lead: &Lead) -> Self {
        let mut version = match &edition {
            Edition::First(metainfo) => Self::of(metainfo.clone()),
            Edition::Recorded(record) => {
                let mut version = Self::of_id(InfoId::Hash(*record.hash()));
                let sig = InfoId::Sig(*record.hash_sig());
                version.ids.push(sig);
                if record.hash_sig() != record.original() {
                    version.swarms.push(sig.swarm_id());
                }
                version
            }
        };
        version.peers.extend(lead.peers.iter().cloned());
        version.trackers.extend(lead.trackers.iter().cloned());
        version.web_seeds.clone_from(&lead.web_seeds);
        version.select_only.clone_from(&lead.select_only);
        dataset.hint_peers(&mut version);
        version.membership = Some(Membership { dataset: dataset.clone(), edition });
        version
    }
}

/// Where peers of a dataset's versions may be, said again to a torrent that is open.
pub(in crate::node) fn peers_at(dataset: &Dataset, torrent: crate::types::TorrentKey) -> Vec<Command> {
    dataset.followers().into_iter().map(|addr| Command::PeerAt { torrent, addr }).collect()
}
