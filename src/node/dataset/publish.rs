//! Publishing: what a command has hashed and signed becomes the newest version of a dataset.

use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::open::check_edition;
use super::{Dataset, Edition};
use crate::index::{PublicationRow, SeedRecord};
use crate::metainfo::Metainfo;
use crate::node::api::{
    AddRequest, ApiError, DatasetInfo, DatasetRequest, DatasetStatus, ErrorKind, PublishRequest, Published, Snapshot,
    TorrentName, VersionInfo, default_read_timeout,
};
use crate::node::handle::{NodeHandle, blocking, failure, usage};
use crate::node::names::Lead;
use crate::node::snapshot::{self, Previous, Version};
use crate::types::{InfoId, RecordParts};
use crate::updates::{Judgement, UpdateRecord};

/// How long the peers that a publisher names may take to be there and hear of a new version.
const PUSH_WITHIN: Duration = Duration::from_secs(5);
/// Between two looks whether they are there.
const PUSH_LOOK: Duration = Duration::from_millis(50);

impl NodeHandle {
    /// What is known of a dataset, here and, if there is time to look, elsewhere.
    ///
    /// # Errors
    /// `NotFound` when nobody knows anything of it.
    pub async fn dataset(&self, request: DatasetRequest) -> Result<DatasetInfo, ApiError> {
        let origin = match request.origin.parse().map_err(usage)? {
            InfoId::Sig(origin) => origin,
            InfoId::Hash(hash) => return Err(usage(format!("expected an InfoSig of 128 hex digits, got {hash}"))),
        };
        let lead = Lead::new(&TorrentName::InfoId(request.origin), &request.peers, self.0.local).await?;
        let dataset = self.join(origin, request.discovery.clone()).await?;
        self.send(lead.hints(dataset.key, None)).await?;
        let answers = match request.look.is_zero() {
            true => 0,
            false => self.ask_all(&dataset, request.look).await,
        };
        let is_unknown = dataset.known().editions().next().is_none();
        if is_unknown {
            return Err(ApiError {
                kind: ErrorKind::NotFound,
                message: format!(
                    "expected to find the dataset {origin}, got nothing: {answers} peers and networks answered; check \
                     that it is being seeded, or give --peer ADDR"
                ),
            });
        }
        let mut metainfos = Vec::new();
        for seq in &request.metainfos {
            let metainfo = self.metainfo_of(&dataset, *seq, &lead, &request.discovery, request.look).await?;
            metainfos.push(metainfo.map(|metainfo| hex::encode(metainfo.bytes())));
        }
        self.describe(&dataset, metainfos, answers).await
    }

    async fn describe(
        &self,
        dataset: &Dataset,
        metainfos: Vec<Option<String>>,
        answers: usize,
    ) -> Result<DatasetInfo, ApiError> {
        let (store, origin) = (self.0.store.clone(), dataset.origin);
        let publication = blocking(move || store.publication(&origin)).await?;
        let publication = publication.map_err(|error| failure(error.to_string()))?;
        let known = dataset.known();
        let of_record = |record: &UpdateRecord| Edition::Recorded(Box::new(record.clone())).info();
        Ok(DatasetInfo {
            origin: origin.to_string(),
            original_hash: known.original_hash().map(|hash| hash.to_string()),
            versions: known.editions().map(|edition| edition.info()).collect(),
            conflicts: known.conflicts().iter().map(of_record).collect(),
            metainfos,
            path: publication.map(|row| PathBuf::from(std::ffi::OsString::from_vec(row.path))),
            checked_at: known.checked_at,
            answers,
        })
    }

    /// The metainfo of a version, the newest where none is named; fetched if need be.
    async fn metainfo_of(
        &self,
        dataset: &Arc<Dataset>,
        seq: Option<u64>,
        lead: &Lead,
        discovery: &Option<Vec<String>>,
        look: Duration,
    ) -> Result<Option<Arc<Metainfo>>, ApiError> {
        let edition = {
            let known = dataset.known();
            match seq {
                Some(seq) => known.edition(seq),
                None => known.editions().next_back(),
            }
        };
        let record = match edition {
            None => return Ok(None),
            Some(Edition::First(metainfo)) => return Ok(Some(metainfo)),
            Some(Edition::Recorded(record)) => record,
        };
        let (store, id) = (self.0.store.clone(), InfoId::Hash(*record.hash()));
        let here = blocking(move || store.metainfo(&id)).await?.map_err(|error| failure(error.to_string()))?;
        if here.is_some() || look.is_zero() {
            return Ok(here);
        }
        let request = AddRequest {
            torrent: TorrentName::InfoId(id.to_string()),
            peers: Vec::new(),
            discovery: discovery.clone(),
            metainfo_timeout: look,
            read_timeout: default_read_timeout(),
            prefetch_all: false,
            at: None,
        };
        // Nobody is told how far it is.
        let (progress, _) = tokio::sync::mpsc::channel(1);
        match self.open_edition(dataset, Edition::Recorded(record), lead, &request, &progress).await {
            Ok(torrent) => Ok(Some(torrent.metainfo)),
            Err(error) if error.kind == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Publishes a version: keeps it durably, the record last, then tells everybody.
    ///
    /// # Errors
    /// `Usage` when it does not follow the newest version, `Verification` when record and metainfo do not belong
    /// together.
    pub async fn publish(&self, request: PublishRequest) -> Result<Published, ApiError> {
        let (metainfo, record) = read(&request)?;
        let dataset = self.join(*record.original(), request.discovery.clone()).await?;
        self.check_follows(&dataset, &request, &record).await?;
        let mut notes = Vec::new();
        let place = self.keep_bytes(&dataset, &request, &metainfo, &mut notes).await?;
        let (store, origin) = (self.0.store.clone(), *record.original());
        let row = PublicationRow {
            path: request.path.as_os_str().as_bytes().to_vec(),
            snapshot: snapshot_name(request.snapshot).to_owned(),
        };
        let kept = metainfo.clone();
        blocking(move || {
            store.put_metainfo(&kept)?;
            place.map_or(Ok(()), |seed| store.put_seed(&seed))?;
            store.put_publication(&origin, &row)
        })
        .await?
        .map_err(|error| failure(error.to_string()))?;
        if metainfo.info_sig() == Some(origin) {
            dataset.set_first(metainfo).await?;
        }
        match dataset.learn(record.parts(), "publisher").await {
            Some(Judgement::Newer | Judgement::Same) => {}
            other => return Err(failure(format!("expected a newer version, got {other:?}: look at `knot status`"))),
        }
        self.tell(&dataset, &request, notes).await
    }

    /// Whether what is to be published comes after what is known. A first version that is known, but was not published
    /// from here to the end, may be published again.
    async fn check_follows(
        &self,
        dataset: &Dataset,
        request: &PublishRequest,
        record: &UpdateRecord,
    ) -> Result<(), ApiError> {
        let (newest, has_record) = {
            let known = dataset.known();
            (known.editions().next_back(), known.record(1).is_some())
        };
        let (store, origin) = (self.0.store.clone(), dataset.origin);
        let published =
            blocking(move || store.publication(&origin)).await?.map_err(|error| failure(error.to_string()))?;
        let is_first = |newest: &Edition| newest.seq() == 1 && record.seq() == 1 && newest.hash() == *record.hash();
        if newest.as_ref().is_some_and(is_first) && !(has_record && published.is_some()) {
            return Ok(());
        }
        let newest = newest.map(|edition| edition.seq());
        if newest == request.replaces && newest.is_none_or(|newest| record.seq() > newest) {
            return Ok(());
        }
        let name = |seq: Option<u64>| seq.map_or_else(|| "none".to_owned(), |seq| format!("version {seq}"));
        Err(usage(format!(
            "expected to publish version {} after {}, got {} as the newest: somebody has published meanwhile; look at it \
             with `knot diff`, then publish again",
            record.seq(),
            name(request.replaces),
            name(newest)
        )))
    }

    async fn tell(
        &self,
        dataset: &Arc<Dataset>,
        request: &PublishRequest,
        mut notes: Vec<String>,
    ) -> Result<Published, ApiError> {
        let lead = Lead::of_id(InfoId::Sig(dataset.origin)).with_peers(&request.peers).await?;
        self.send(lead.hints(dataset.key, None)).await?;
        let networks = self.networks_of(dataset);
        let (told, peers) =
            tokio::join!(dataset.announce(&networks, request.replaces), self.push(dataset, lead.peers.len()));
        let mut took = Vec::new();
        for (name, result) in told {
            match result {
                Ok(nodes) => took.push((name, nodes)),
                Err(error) => notes.push(format!("not told to {name}: {error}")),
            }
        }
        Ok(Published { peers, networks: took, notes })
    }

    /// Waits until `wanted` peers are there, who hear of the newest version as soon as they are. How many are.
    async fn push(&self, dataset: &Dataset, wanted: usize) -> usize {
        let deadline = Instant::now() + PUSH_WITHIN;
        loop {
            let peers = dataset.followers().len();
            if peers >= wanted || Instant::now() >= deadline {
                return peers;
            }
            sleep(PUSH_LOOK).await;
        }
    }

    /// Has the published bytes stay here; tells where they lie, as they were when they were hashed.
    async fn keep_bytes(
        &self,
        dataset: &Dataset,
        request: &PublishRequest,
        metainfo: &Arc<Metainfo>,
        notes: &mut Vec<String>,
    ) -> Result<Option<SeedRecord>, ApiError> {
        // The files of a version of before need not be here.
        if request.stamps.is_empty() && metainfo.entries().iter().any(|entry| entry.is_file()) {
            return Ok(None);
        }
        let before: Vec<_> = dataset.known().editions().map(|edition| InfoId::Hash(edition.hash())).collect();
        let (request, version, store) = (request.clone(), metainfo.clone(), self.0.store.clone());
        let kept = blocking(move || {
            let before: Vec<_> = before.iter().filter_map(|id| store.metainfo(id).ok().flatten()).collect();
            let found = |metainfo: &Arc<Metainfo>| Some((snapshot::find(store.dir(), metainfo)?, metainfo.clone()));
            let before: Vec<_> = before.iter().filter_map(found).collect();
            let previous: Vec<_> = before.iter().map(|(path, metainfo)| Previous { path, metainfo }).collect();
            let version = Version { path: &request.path, metainfo: &version, stamps: &request.stamps };
            snapshot::keep(store.dir(), &version, &previous, request.snapshot).map(|kept| match kept.path {
                Some(path) => (path, kept.stamps, kept.note),
                None => (request.path, request.stamps, kept.note),
            })
        });
        let (path, stamps, note) = kept.await??;
        notes.extend(note);
        let path = path.as_os_str().as_bytes().to_vec();
        Ok(Some(SeedRecord { path, info_hash: metainfo.info_hash(), pieces: None, stamps, synced: true }))
    }
}

fn read(request: &PublishRequest) -> Result<(Arc<Metainfo>, UpdateRecord), ApiError> {
    let wrong = |message: String| ApiError { kind: ErrorKind::Verification, message };
    let bytes = hex::decode(&request.metainfo).map_err(usage)?;
    let metainfo = Metainfo::parse(&bytes).map_err(|error| wrong(error.to_string()))?;
    let parts = RecordParts::from_bytes(&hex::decode(&request.record).map_err(usage)?);
    let parts = parts.ok_or_else(|| usage("expected an update record, got something else"))?;
    let record = UpdateRecord::verify_own(&parts).map_err(|error| wrong(error.to_string()))?;
    check_edition(&record, &metainfo)
        .map_err(|got| wrong(format!("expected the metainfo of version {}, got one {got}", record.seq())))?;
    if metainfo.info_sig().as_ref() != Some(record.hash_sig()) {
        return Err(wrong("expected a metainfo that is signed like its record, got another signature".to_owned()));
    }
    Ok((Arc::new(metainfo), record))
}

impl Edition {
    pub(in crate::node) fn info(&self) -> VersionInfo {
        VersionInfo {
            seq: self.seq(),
            info_hash: self.hash().to_string(),
            info_sig: self.sig().map(|sig| sig.to_string()).unwrap_or_default(),
            signed_at: self.signed_at(),
        }
    }
}

impl Dataset {
    /// What `knot status` shows of it.
    pub(in crate::node) fn status(&self) -> DatasetStatus {
        let followers = self.followers().len();
        let known = self.known();
        let of_record = |record: &UpdateRecord| Edition::Recorded(Box::new(record.clone())).info();
        DatasetStatus {
            origin: self.origin.to_string(),
            newest: known.editions().next_back().map(|edition| edition.info()),
            versions: known.editions().count(),
            checked_at: known.checked_at,
            followers,
            problem: known.problem.clone(),
            conflicts: known.conflicts().iter().map(of_record).collect(),
            mirror: self.mirror.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }
}

fn snapshot_name(snapshot: Snapshot) -> &'static str {
    match snapshot {
        Snapshot::Auto => "auto",
        Snapshot::Copy => "copy",
        Snapshot::None => "none",
    }
}
