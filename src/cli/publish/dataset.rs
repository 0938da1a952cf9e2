//! What has to be known of a dataset before its next version is made.

use std::path::PathBuf;

use super::Hashed;
use crate::cli::create::now;
use crate::cli::error::CliError;
use crate::cli::output;
use crate::metainfo::{Metainfo, SecretKey};
use crate::node::api::{ApiError, DatasetInfo, ErrorKind, VersionInfo};
use crate::types::{InfoHash, InfoId, InfoSig};

/// How far ahead of this clock a version may be signed before it is worth a word, in seconds.
const CLOCK_SLACK_S: i64 = 60;

/// The newest version of a dataset.
pub(in crate::cli) struct Newest {
    pub(in crate::cli) origin: InfoSig,
    pub(in crate::cli) original_hash: InfoHash,
    pub(in crate::cli) seq: u64,
    pub(in crate::cli) hash: InfoHash,
    pub(in crate::cli) metainfo: Metainfo,
    /// The metainfo is that of an older version, since that of the newest cannot be had.
    pub(in crate::cli) is_missing: bool,
    /// What this store has published of it.
    pub(in crate::cli) path: Option<PathBuf>,
    /// Another version, if one was asked for.
    old: Option<Metainfo>,
    conflicts: Vec<VersionInfo>,
}

impl Newest {
    /// What `info` says, which was asked for the metainfo of the newest version and perhaps of version `old`.
    pub(super) fn new(origin: &InfoSig, info: DatasetInfo, old: Option<u64>) -> Result<Self, CliError> {
        let newest = info.versions.last().ok_or_else(|| missing(format!("a version of the dataset {origin}")))?;
        if let Some(ahead) = newest.signed_at.filter(|at| now().is_some_and(|now| *at > now + CLOCK_SLACK_S)) {
            output::note(format!(
                "version {} was signed at {ahead} (Unix time), which has not come on this clock: is it right?",
                newest.seq
            ));
        }
        let (seq, hash) = (newest.seq, info_hash(&newest.info_hash)?);
        let first = info.versions.iter().find(|version| version.seq == 1).map(|version| &version.info_hash);
        let original_hash = info.original_hash.as_ref().or(first);
        let original_hash = original_hash.ok_or_else(|| missing(format!("a record of the dataset {origin}")))?;
        let mut metainfos = info.metainfos.iter();
        let mut read = |seq: u64| {
            let found = metainfos.next().and_then(Option::as_ref);
            let found = found.ok_or_else(|| missing(format!("the metainfo of version {seq}")))?;
            let metainfo = hex::decode(found).ok().and_then(|bytes| Metainfo::parse(&bytes).ok());
            metainfo
                .ok_or_else(|| CliError::Failure(format!("expected a metainfo of version {seq}, got something else")))
        };
        let metainfo = read(seq)?;
        Ok(Self {
            origin: *origin,
            original_hash: info_hash(original_hash)?,
            seq,
            hash,
            metainfo,
            is_missing: false,
            old: old.map(read).transpose()?,
            path: info.path,
            conflicts: info.conflicts,
        })
    }

    /// Whether `key` is the one behind the dataset: only it makes the signature that is the dataset's name.
    pub(super) fn check_key(&self, key: &SecretKey) -> Result<(), CliError> {
        if key.sign(&self.original_hash) == self.origin {
            return Ok(());
        }
        let publisher = self.metainfo.public_key().map_or_else(|| "another".to_owned(), |key| key.to_string());
        Err(CliError::Usage(format!(
            "expected the key behind the dataset, whose public half is {publisher}, got the key {}: choose the right \
             one, or publish a new dataset without --update",
            key.public()
        )))
    }

    /// Whether the newest version is the only one of its number.
    pub(super) fn check_conflict(&self) -> Result<(), CliError> {
        let Some(other) = self.conflicts.iter().find(|other| other.seq == self.seq) else { return Ok(()) };
        Err(CliError::Failure(format!(
            "expected one version {}, got two that the key has signed, {} and {}: somebody else publishes with it, or a \
             backup was restored. When it is clear which is right, publish with --over-conflict: a higher version \
             settles it",
            self.seq, self.hash, other.info_hash
        )))
    }

    /// The version that was asked for besides, to be published again.
    pub(super) fn old_version(&self, key: &SecretKey) -> Result<Hashed, CliError> {
        let old = self.old.as_ref().ok_or_else(|| missing("the version to go back to".to_owned()))?;
        let metainfo = old.sign(key).map_err(|error| CliError::Failure(error.to_string()))?;
        Ok(Hashed { metainfo, stamps: Vec::new() })
    }
}

fn info_hash(text: &str) -> Result<InfoHash, CliError> {
    match text.parse() {
        Ok(InfoId::Hash(hash)) => Ok(hash),
        _ => Err(CliError::Failure(format!("expected an InfoHash from the node, got {text:?}"))),
    }
}

fn missing(what: String) -> CliError {
    let message = format!(
        "expected to find {what}, got nothing in time: check that the dataset is being seeded, give --peer ADDR, or \
         look longer with --look TIME; `knot publish` goes on without it with --over-missing"
    );
    ApiError { kind: ErrorKind::NotFound, message }.into()
}
