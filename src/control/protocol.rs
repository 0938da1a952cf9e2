//! What goes over the control socket, besides the plain values of [`crate::node::api`].

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::node::api::{AddRequest, ErrorKind};

/// Changes with every change that an older command or node would not understand.
pub(super) const PROTOCOL: u32 = 1;

pub(super) const HOLD: &str = "/v1/hold";
pub(super) const STATUS: &str = "/v1/status";
pub(super) const MOUNT: &str = "/v1/mount";
pub(super) const UNMOUNT: &str = "/v1/unmount";
pub(super) const FREEZE: &str = "/v1/freeze";
pub(super) const EVENTS: &str = "/v1/events";
pub(super) const SEED: &str = "/v1/seed";
pub(super) const MIRROR: &str = "/v1/mirror";
pub(super) const GET: &str = "/v1/get";
pub(super) const DATASET: &str = "/v1/dataset";
pub(super) const PUBLISH: &str = "/v1/publish";
pub(super) const CONTENT: &str = "/v1/content";
pub(super) const CACHE: &str = "/v1/cache";
pub(super) const STOP: &str = "/v1/stop";

/// Bytes of the file as it is in the torrent, in the answer to a content request.
pub(super) const FILE_LENGTH: &str = "knot-file-length";
/// Trailer of content that ended early: the JSON of an [`crate::node::api::ApiError`].
pub(super) const CONTENT_ERROR: &str = "knot-error";

/// The largest request: a torrent file of 32 MiB in hex digits, and stamps of a million files.
pub(super) const MAX_REQUEST: usize = 256 << 20;
/// The longest line of an answer, and the largest answer that is one value.
pub(super) const MAX_ANSWER: usize = 16 << 20;
/// The largest answer about a dataset: two torrent files of 32 MiB in hex digits, and its versions.
pub(super) const MAX_DATASET: usize = 160 << 20;

/// First line of a hold: who answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Hello {
    pub protocol: u32,
    pub version: String,
    pub pid: u32,
}

/// The bytes of one file, or of a part of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContentRequest {
    /// The torrent.
    #[serde(flatten)]
    pub add: AddRequest,
    /// The file's path in the torrent; may be left out for a torrent of one file.
    #[serde(default)]
    pub path: Option<String>,
    /// First byte.
    #[serde(default)]
    pub offset: u64,
    /// Bytes from there; to the end of the file where absent.
    #[serde(default)]
    pub length: Option<u64>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct UnmountRequest {
    pub mountpoint: PathBuf,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct FreezeRequest {
    pub mountpoint: PathBuf,
    pub frozen: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct CacheRequest {
    pub cap_bytes: u64,
}

/// The HTTP status of an error; only [`super::client`] and people read it, the body says it all.
pub(super) fn status_code(kind: ErrorKind) -> u16 {
    match kind {
        ErrorKind::Usage => 400,
        ErrorKind::NotFound => 404,
        ErrorKind::Verification => 422,
        ErrorKind::Failure => 500,
    }
}
