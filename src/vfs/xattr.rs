//! Extended attributes.

use super::attr::FsError;
use super::dataset::Version;
use super::fs::Vfs;
use super::ino::Ino;
use super::table::Place;
use super::tree::NodeKind;
use super::view::View;

/// What the kind of an inode says that it has.
const OF_FILE: &[&str] = &["user.knot.root", "user.knot.info_id", "user.knot.info_hash"];
const OF_NODE: &[&str] = &["user.knot.info_id", "user.knot.info_hash"];
const OF_VERSION: &[&str] = &["user.knot.seq", "user.knot.infohash", "user.knot.infosig", "user.knot.signed_at"];
const OF_ROOT: &[&str] = &[
    "user.knot.info_id",
    "user.knot.info_hash",
    "user.knot.waits_for",
    "user.knot.origin",
    "user.knot.seq",
    "user.knot.infohash",
    "user.knot.infosig",
    "user.knot.signed_at",
    "user.knot.checked_at",
];

impl Vfs {
    /// The value of an extended attribute.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn xattr(&self, ino: Ino, name: &[u8]) -> Result<Vec<u8>, FsError> {
        let place = self.place(ino)?;
        let name = std::str::from_utf8(name).map_err(|_| FsError::NoAttribute)?;
        self.value(ino, &place, name).map(String::into_bytes).ok_or(FsError::NoAttribute)
    }

    /// Names of the extended attributes that say what something is. How far it is, `user.knot.cached_bytes`, can be
    /// asked for but is not named: copies that take along every attribute would carry a number that is not theirs.
    ///
    /// # Errors
    /// When there is no such inode.
    pub fn xattr_names(&self, ino: Ino) -> Result<Vec<&'static str>, FsError> {
        let place = self.place(ino)?;
        let candidates = match &place {
            _ if ino == Ino::ROOT => OF_ROOT,
            Place::Version(_) => OF_VERSION,
            Place::Node(view, at) => match view.tree.node(*at).map(|node| &node.kind) {
                Some(NodeKind::File { .. }) => OF_FILE,
                _ => OF_NODE,
            },
            Place::Hidden | Place::Status | Place::Versions | Place::Current(_) => OF_NODE,
        };
        Ok(candidates.iter().copied().filter(|name| self.value(ino, &place, name).is_some()).collect())
    }

    fn value(&self, ino: Ino, place: &Place, name: &str) -> Option<String> {
        let name = name.strip_prefix("user.knot.")?;
        match place {
            _ if ino == Ino::ROOT => self.root_value(name),
            Place::Node(view, at) => node_value(view, *at, name),
            Place::Version(seq) => self.version_value(*seq, name),
            Place::Hidden | Place::Status | Place::Versions | Place::Current(_) => {
                torrent_value(self.current().version.as_ref()?, name)
            }
        }
    }

    fn root_value(&self, name: &str) -> Option<String> {
        let (current, release) = {
            let table = self.table();
            (table.current.clone(), table.release.clone())
        };
        let version = current.version.as_ref();
        let pending = self.pending.as_ref().filter(|_| version.is_none());
        match name {
            "info_id" if version.is_none() => pending.map(|pending| pending.info_id.clone()),
            "waits_for" => pending.map(|pending| (pending.waits_for)()),
            "origin" => release.map(|release| release.origin.to_string()),
            "seq" => release.map(|release| release.seq.to_string()),
            "signed_at" => release?.signed_at.map(|at| at.to_string()),
            "checked_at" => self.dataset.as_ref()?.checked_at().map(|at| at.to_string()),
            "infohash" => version.map(|version| version.metainfo.info_hash().to_string()),
            "infosig" => version?.metainfo.info_sig().map(|sig| sig.to_string()),
            _ => torrent_value(version?, name),
        }
    }

    fn version_value(&self, seq: u64, name: &str) -> Option<String> {
        let info = self.dataset.as_ref()?.describe(seq)?;
        match name {
            "seq" => Some(seq.to_string()),
            "infohash" => Some(info.info_hash.to_string()),
            "infosig" => Some(info.info_sig.to_string()),
            "signed_at" => info.signed_at.map(|at| at.to_string()),
            _ => None,
        }
    }
}

fn node_value(view: &View, at: u32, name: &str) -> Option<String> {
    let version = view.version.as_ref()?;
    match (name, &view.tree.node(at)?.kind) {
        ("root", NodeKind::File { root, .. }) => root.as_ref().map(|root| root.to_string()),
        ("cached_bytes", NodeKind::File { file, .. }) => Some(version.content.cached_bytes(*file).to_string()),
        _ => torrent_value(version, name),
    }
}

fn torrent_value(version: &Version, name: &str) -> Option<String> {
    match name {
        "info_id" => Some(version.metainfo.info_id().to_string()),
        "info_hash" => Some(version.metainfo.info_hash().to_string()),
        _ => None,
    }
}
