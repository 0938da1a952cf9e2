//! The metainfo as a value.

use std::ops::RangeInclusive;
use std::sync::Arc;

use bytes::Bytes;

use super::bencode::{Document, Value};
use super::foreign::{self, Origin};
use super::hybrid::V2Form;
use super::tree::Node;
use super::{
    DatasetVersion, Entry, EntryKind, Hints, Layout, MetainfoError, SecretKey, decode, encode, native, piece_layers,
    raw_name, torrent,
};
use crate::types::{
    Digest, FileIndex, FileRoot, HashAlgorithm, InfoHash, InfoId, InfoSig, Magnet, PeerAddr, PieceIndex, PublicKey,
    SwarmId,
};

/// Bytes of the largest `.knot` metainfo.
pub const MAX_METAINFO_LEN: usize = 32 << 20;
/// Bytes of the largest torrent file of another form, and of its `info`: 100,000 files with long paths fit.
pub const MAX_TORRENT_LEN: usize = 32 << 20;
/// Entries that a torrent may have; also directories.
pub const MAX_FILES: usize = 1_000_000;
/// Pieces that a torrent may have.
pub const MAX_PIECES: usize = 2_000_000;
/// Bytes of the smallest piece length of a native torrent.
pub const MIN_PIECE_LENGTH: u32 = 16 << 10;
/// Bytes of the largest piece length of a native torrent.
pub const MAX_PIECE_LENGTH: u32 = 64 << 20;

/// What kind of torrent it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// knot's own.
    Native,
    /// BitTorrent v1 (BEP 3).
    V1,
    /// BitTorrent v1 and v2 at once (BEP 52).
    Hybrid,
    /// BitTorrent v2 only (BEP 52).
    V2,
}

impl Form {
    /// Its name, for people and for `--json`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Native => "knot",
            Self::V1 => "v1",
            Self::Hybrid => "hybrid",
            Self::V2 => "v2",
        }
    }
}

impl std::fmt::Display for Form {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A metainfo, verified: its InfoHash is that of its `info`, its signature is the key's, its paths stay inside the
/// torrent, there is a hash for each piece, and the roots of its files follow from its piece hashes. Only a torrent
/// of [`Form::V2`] may lack piece hashes: see [`Metainfo::has_layers`].
#[derive(Clone)]
pub struct Metainfo {
    pub(super) parts: Parts,
    hints: Arc<Hints>,
}

/// What the forms have in common.
#[derive(Clone)]
pub(super) struct Parts {
    pub(super) bytes: Bytes,
    pub(super) info: Bytes,
    pub(super) info_hash: InfoHash,
    pub(super) signature: Option<(InfoSig, PublicKey)>,
    pub(super) created_at: Option<i64>,
    pub(super) peers: Vec<PeerAddr>,
    pub(super) form: Form,
    pub(super) name: String,
    pub(super) algorithm: HashAlgorithm,
    pub(super) layout: Layout,
    /// Digests end to end.
    pub(super) pieces: Bytes,
    pub(super) entries: Vec<Entry>,
    /// The non-empty files that have hash trees, by root.
    pub(super) by_root: Vec<(FileRoot, FileIndex)>,
    /// Of a hybrid torrent, whose [`Parts::pieces`] are those of v1.
    pub(super) v2_form: Option<V2Form>,
    pub(super) foreign: Option<Arc<Extra>>,
    pub(super) version: Option<DatasetVersion>,
}

/// What only foreign forms have.
pub(super) struct Extra {
    /// The name as it is in `info`; what stands for it where no file can be called that.
    pub(super) raw_name: Vec<u8>,
    /// SHA-256 of the `info` of a hybrid torrent.
    pub(super) v2_hash: Option<InfoHash>,
    pub(super) is_private: bool,
    pub(super) is_single_file: bool,
    pub(super) origins: Vec<Origin>,
    pub(super) roots: Vec<Option<FileRoot>>,
}

impl Metainfo {
    /// Reads and verifies a `.knot` envelope or a `.torrent` file, as `schema/metainfo.md` describes them.
    ///
    /// # Errors
    /// When it is neither, breaks a limit, or anything in it does not verify.
    pub fn parse(bytes: &[u8]) -> Result<Self, MetainfoError> {
        if bytes.len() > MAX_TORRENT_LEN {
            return Err(MetainfoError::TooLarge { got: bytes.len() });
        }
        Self::from_bytes(Bytes::copy_from_slice(bytes))
    }

    /// [`Metainfo::parse`] of bytes that are kept as they are.
    ///
    /// # Errors
    /// As [`Metainfo::parse`].
    pub fn from_bytes(bytes: Bytes) -> Result<Self, MetainfoError> {
        if bytes.len() > MAX_TORRENT_LEN {
            return Err(MetainfoError::TooLarge { got: bytes.len() });
        }
        let doc = match Document::read(&bytes) {
            Ok(doc) => doc,
            // What the lenient reader cannot make out, the strict one can say what is wrong with.
            Err(_) if bytes.len() <= MAX_METAINFO_LEN => {
                return Ok(Self::new(native::read(bytes.clone())?, Hints::default()));
            }
            Err(error) => return Err(error),
        };
        let root = doc.root();
        let hints = Hints::read(&root);
        let info = root.get("info").filter(Value::is_dict);
        let parts = match info.map(|info| (foreign::form_of(&info), info)) {
            Some((form, info)) if form != Form::Native => torrent::read(bytes.clone(), &root, form, &info)?,
            _ => native::read(bytes.clone())?,
        };
        Ok(Self::new(parts, hints))
    }

    /// The metainfo of a bare `info`, of any form, which must be all of `info`: what `ut_metadata` transfers (BEP 9).
    /// Whether it is the one that was asked for, [`Metainfo::matches`] tells.
    ///
    /// # Errors
    /// As [`Metainfo::parse`].
    pub fn from_info_bytes(info: &[u8]) -> Result<Self, MetainfoError> {
        if info.len() > MAX_TORRENT_LEN {
            return Err(MetainfoError::TooLarge { got: info.len() });
        }
        let doc = Document::read(info)?;
        let root = doc.root();
        if root.raw().len() != info.len() {
            return Err(MetainfoError::TrailingBytes { expected: root.raw().len(), got: info.len() });
        }
        let hash = match foreign::form_of(&root) {
            Form::Native => {
                let algorithm = root.get("piece hash algo").ok_or(MetainfoError::Missing("pieces"))?;
                let algorithm = algorithm.as_text().unwrap_or_default().parse()?;
                Some(native::hash_info(algorithm, info))
            }
            _ => None,
        };
        Self::from_bytes(encode::dictionary(&encode::bare(info.to_vec(), hash.as_ref())).into())
    }

    fn new(parts: Parts, hints: Hints) -> Self {
        Self { parts, hints: Arc::new(hints) }
    }

    /// The same metainfo, signed by `key`; a signature that it has is replaced.
    ///
    /// # Errors
    /// When it would become larger than a metainfo may be.
    pub fn sign(&self, key: &SecretKey) -> Result<Self, MetainfoError> {
        let mut pairs = self.pairs()?;
        encode::put_info_hash(&mut pairs, &self.info_hash());
        encode::put_signature(&mut pairs, &key.public(), &key.sign(&self.info_hash()));
        Self::from_bytes(encode::dictionary(&pairs).into())
    }

    /// The same metainfo with a signature that came another way.
    ///
    /// # Errors
    /// When it is not the key's over this InfoHash.
    pub fn with_signature(&self, key: &PublicKey, sig: &InfoSig) -> Result<Self, MetainfoError> {
        let mut pairs = self.pairs()?;
        encode::put_info_hash(&mut pairs, &self.info_hash());
        encode::put_signature(&mut pairs, key, sig);
        Self::from_bytes(encode::dictionary(&pairs).into())
    }

    /// The same metainfo with other hints: what is hashed and signed stays.
    ///
    /// # Errors
    /// When it would become larger than a metainfo may be.
    pub fn with_hints(&self, hints: &Hints) -> Result<Self, MetainfoError> {
        let mut pairs = self.pairs()?;
        hints.put(&mut pairs);
        Self::from_bytes(encode::dictionary(&pairs).into())
    }

    /// The envelope as it may be given to strangers: without URLs of trackers and web seeds, in which people have
    /// their passwords, and without all else that is neither hashed nor signed but the date and the verified layers of v2.
    pub fn public_bytes(&self) -> Bytes {
        let Ok(mut pairs) = self.pairs() else { return self.bytes().clone() };
        let public = [&b"info"[..], b"infohash", b"infosig", b"infosig algo", b"pub key", b"creation date"];
        pairs.retain(|key, _| public.contains(&key.as_slice()));
        encode::put_info_hash(&mut pairs, &self.info_hash());
        pairs.extend(self.layers_value().map(|layers| (piece_layers::KEY.into(), layers)));
        encode::dictionary(&pairs).into()
    }

    pub(super) fn pairs(&self) -> Result<encode::Pairs, MetainfoError> {
        if self.form() == Form::Native {
            return decode::pairs(self.bytes());
        }
        let doc = Document::read(self.bytes())?;
        let mut pairs = encode::Pairs::new();
        for (key, value) in doc.root().pairs() {
            pairs.entry(key.to_vec()).or_insert_with(|| value.raw().to_vec());
        }
        Ok(pairs)
    }

    /// What kind of torrent it is.
    pub fn form(&self) -> Form {
        self.parts.form
    }

    /// Whether its content can be fetched and read.
    ///
    /// # Errors
    /// When it cannot: a v2 torrent whose piece hashes are not here.
    pub fn check_mountable(&self) -> Result<(), MetainfoError> {
        if self.has_layers() { Ok(()) } else { Err(MetainfoError::NoLayers) }
    }

    /// The whole envelope, as it came.
    pub fn bytes(&self) -> &Bytes {
        &self.parts.bytes
    }

    /// The bencoded `info`, as it came: what the InfoHash is the hash of.
    pub fn info_bytes(&self) -> &Bytes {
        &self.parts.info
    }

    /// The hash of `info`: SHA-1 of v1 and hybrid torrents, SHA-256 of v2 ones, and as the algorithm says of native
    /// ones.
    pub fn info_hash(&self) -> InfoHash {
        self.parts.info_hash
    }

    /// The v2 infohash of a hybrid or v2 torrent.
    pub fn v2_info_hash(&self) -> Option<InfoHash> {
        match self.form() {
            Form::V2 => Some(self.info_hash()),
            _ => self.parts.foreign.as_ref()?.v2_hash,
        }
    }

    /// The publisher's signature of the InfoHash, if it is signed.
    pub fn info_sig(&self) -> Option<InfoSig> {
        self.parts.signature.map(|(sig, _)| sig)
    }

    /// The publisher's key, if it is signed.
    pub fn public_key(&self) -> Option<PublicKey> {
        self.parts.signature.map(|(_, key)| key)
    }

    /// Which version of which dataset it says that it is. A first version, and BitTorrent's forms, say nothing.
    pub fn version(&self) -> Option<DatasetVersion> {
        self.parts.version
    }

    /// The dataset that it belongs to, if it is signed: that of which it says to be a version, else its own.
    pub fn origin(&self) -> Option<InfoSig> {
        let sig = self.info_sig()?;
        Some(self.version().map_or(sig, |version| version.origin))
    }

    /// The InfoSig if it is signed, else the InfoHash.
    pub fn info_id(&self) -> InfoId {
        self.info_sig().map_or(InfoId::Hash(self.parts.info_hash), InfoId::Sig)
    }

    /// The swarms that its content is served in. A native one's are named after SHA-1 of its ids, those of ordinary
    /// torrents by the infohash as it is, so that ordinary clients are in them. The swarm of a first version's InfoSig is
    /// not among them: there meets who follows the dataset, at whatever version.
    pub fn swarm_ids(&self) -> Vec<SwarmId> {
        let has_own = self.version().is_some() || self.is_private();
        let sig = self.info_sig().filter(|_| has_own).map(|sig| InfoId::Sig(sig).swarm_id());
        let hash = match self.form() {
            Form::Native => InfoId::Hash(self.info_hash()).swarm_id(),
            Form::V1 | Form::Hybrid | Form::V2 => self.info_hash().swarm_id(),
        };
        let v2 = self.v2_info_hash().map(|hash| hash.swarm_id()).filter(|swarm| *swarm != hash);
        sig.into_iter().chain([hash]).chain(v2).collect()
    }

    /// Whether `id` names it: its InfoHash, or its InfoSig.
    pub fn matches(&self, id: &InfoId) -> bool {
        match id {
            InfoId::Hash(hash) => *hash == self.info_hash() || Some(*hash) == self.v2_info_hash(),
            InfoId::Sig(sig) => self.info_sig().as_ref() == Some(sig),
        }
    }

    /// A link to it, with what the hints say.
    pub fn magnet(&self) -> Magnet {
        let v1 = (self.info_hash().as_bytes().len() == 20).then(|| self.info_hash());
        let ordinary = match self.form() {
            Form::Native => None,
            _ => Magnet::ordinary(v1, self.v2_info_hash()),
        };
        let mut magnet = ordinary.unwrap_or_else(|| Magnet::new(self.info_id()));
        magnet.id = self.info_id();
        magnet.display_name = Some(self.name().to_owned());
        magnet.trackers = self.hints().trackers.concat();
        magnet.web_seeds = self.hints().web_seeds.clone();
        magnet.peers = self.peers().iter().map(ToString::to_string).collect();
        magnet
    }

    /// The name of the torrent: one name, fit for a file.
    pub fn name(&self) -> &str {
        &self.parts.name
    }

    /// Whether it is a single file with the torrent's own name, not a directory.
    pub fn is_single_file(&self) -> bool {
        match &self.parts.foreign {
            Some(foreign) => foreign.is_single_file,
            None => matches!(self.entries(), [only] if only.is_file() && only.path.as_str() == self.name()),
        }
    }

    /// How pieces, and `info`, are hashed.
    pub fn algorithm(&self) -> HashAlgorithm {
        self.parts.algorithm
    }

    /// Bytes of every piece but short ones.
    pub fn piece_length(&self) -> u32 {
        self.parts.layout.piece_length()
    }

    /// How many pieces there are.
    pub fn piece_count(&self) -> u32 {
        self.parts.layout.piece_count()
    }

    /// The hash of `piece`; `None` if there is no such piece.
    pub fn piece_hash(&self, piece: PieceIndex) -> Option<Digest> {
        let len = self.parts.algorithm.digest_len();
        let start = (piece.0 as usize).checked_mul(len)?;
        Digest::from_slice(self.parts.pieces.get(start..start.checked_add(len)?)?)
    }

    /// Files, empty directories and symlinks; a [`FileIndex`] counts them.
    pub fn entries(&self) -> &[Entry] {
        &self.parts.entries
    }

    /// The entry with index `file`.
    pub fn entry(&self, file: FileIndex) -> Option<&Entry> {
        self.parts.entries.get(file.0 as usize)
    }

    /// Where the files lie on the pieces; entries other than files have no bytes.
    pub fn layout(&self) -> &Layout {
        &self.parts.layout
    }

    /// Bytes of all files.
    pub fn total_length(&self) -> u64 {
        self.parts.layout.total_length()
    }

    /// Whether its publisher wants it to be found through its trackers alone (BEP 27).
    pub fn is_private(&self) -> bool {
        self.parts.foreign.as_ref().is_some_and(|foreign| foreign.is_private)
    }

    /// Where to find it, and who made it. Neither hashed nor signed: anyone may have put it there.
    pub fn hints(&self) -> &Hints {
        &self.hints
    }

    /// When it was made, in seconds since 1970. Neither hashed nor signed.
    pub fn created_at(&self) -> Option<i64> {
        self.parts.created_at
    }

    /// Peers that the envelope suggests. Neither hashed nor signed: anyone may have put them there.
    pub fn peers(&self) -> &[PeerAddr] {
        &self.parts.peers
    }

    /// The root of `file`, in a torrent with hash trees; `None` of empty files and what is no file.
    pub fn file_root(&self, file: FileIndex) -> Option<FileRoot> {
        match self.entry(file)?.kind {
            EntryKind::File { root, .. } => root,
            EntryKind::Directory | EntryKind::Symlink { .. } => None,
        }
    }

    /// What a hybrid or v2 torrent says is the BEP 52 root of `file`. It is as good as the publisher's word: what v1
    /// hashes verify need not have that root, so content must not be shared by it. It is left out where the two forms
    /// of a hybrid torrent are not of the same files.
    pub fn claimed_root(&self, file: FileIndex) -> Option<FileRoot> {
        *self.parts.foreign.as_ref()?.roots.get(file.0 as usize)?
    }

    /// The files that a selection names (BEP 53), which counts files as the torrent lists them, padding included.
    pub fn selected(&self, numbers: &[RangeInclusive<u32>]) -> Vec<FileIndex> {
        let number = |at: u32| match &self.parts.foreign {
            Some(foreign) => foreign.origins.get(at as usize).map_or(at, |origin| origin.number),
            None => at,
        };
        let all =
            (0..self.entries().len() as u32).filter(|at| numbers.iter().any(|range| range.contains(&number(*at))));
        all.map(FileIndex).collect()
    }

    /// The names of an entry's path below the torrent's own directory, byte for byte as the torrent spells them: what
    /// the file is called where it comes from. Those that no path can have are left out.
    pub fn raw_path(&self, file: FileIndex) -> Option<Vec<Vec<u8>>> {
        let entry = self.entry(file)?;
        let Some(foreign) = &self.parts.foreign else {
            return Some(entry.path.components().map(|name| name.into()).collect());
        };
        if foreign.is_single_file {
            return Some(vec![foreign.raw_name.clone()]);
        }
        if self.form() == Form::V2 {
            return Some(entry.path.components().map(raw_name).collect());
        }
        let dictionary = foreign.origins.get(file.0 as usize)?.dictionary.clone();
        foreign::raw_path(self.info_bytes().get(dictionary.start as usize..dictionary.end as usize)?)
    }

    /// Where the web seed `base` has `file` (BEP 19), names spelt as the torrent spells them. `None` of what is no
    /// file.
    pub fn web_seed_url(&self, base: &str, file: FileIndex) -> Option<String> {
        self.entry(file).filter(|entry| entry.is_file())?;
        if self.is_single_file() && !base.ends_with('/') {
            return Some(base.to_owned());
        }
        let mut names = self.raw_path(file)?;
        if !self.is_single_file() {
            let raw_name = self.parts.foreign.as_ref().map(|foreign| foreign.raw_name.clone());
            names.insert(0, raw_name.unwrap_or_else(|| self.name().into()));
        }
        let mut url = base.trim_end_matches('/').to_owned();
        for name in names {
            url.push('/');
            encode::put_percent(&mut url, &name);
        }
        Some(url)
    }

    /// The root of the file that `piece` belongs to, in a torrent with hash trees.
    pub(super) fn root_of_piece(&self, piece: PieceIndex) -> Option<Node> {
        let (file, _) = self.parts.layout.file_of_piece(piece)?;
        self.tree_root(file).map(|root| root.0)
    }

    /// The files with `root`, in order.
    pub(super) fn files_with_root(&self, root: &Node) -> impl Iterator<Item = FileIndex> + '_ {
        let root = FileRoot(*root);
        let first = self.parts.by_root.partition_point(|(other, _)| *other < root);
        self.parts.by_root[first..].iter().take_while(move |(other, _)| *other == root).map(|(_, file)| *file)
    }
}

impl std::fmt::Debug for Metainfo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (id, name, files) = (self.info_id(), self.name(), self.entries().len());
        write!(f, "Metainfo({id} {} {name:?}, {files} entries, {} pieces)", self.form(), self.piece_count())
    }
}
