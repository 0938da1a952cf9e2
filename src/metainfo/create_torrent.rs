//! Making a BitTorrent torrent that ordinary clients accept: here v1; `create_v2` makes v2 and hybrid ones.

use super::create::{check_sorted, hash, lay_out};
use super::encode::{bare, dictionary, put_bytes, put_date, put_int};
use super::{
    CreateError, CreateOptions, Entry, EntryKind, Form, Hints, Metainfo, MetainfoError, OnProgress, Source, TreePath,
    create_v2, piece_layers,
};
use crate::types::{Digest, HashAlgorithm};

/// What to make.
#[derive(Clone, Debug)]
pub struct TorrentOptions {
    /// The torrent's name: one name, fit for a file.
    pub name: String,
    /// Which form: v1, v2 or hybrid.
    pub form: Form,
    /// Bytes of a piece, a power of two; `None` for [`super::default_piece_length`].
    pub piece_length: Option<u32>,
    /// When it is made, in seconds since 1970. Stays outside what is hashed.
    pub created_at: Option<i64>,
    /// Whether peers shall be found through its trackers alone (BEP 27). Is hashed.
    pub is_private: bool,
    /// Where to find it, and who made it. Stay outside what is hashed.
    pub hints: Hints,
}

/// Hashes `source` on all cores, in one pass, or in two for a hybrid torrent, and makes the torrent of `entries`, whose
/// indices are the `source`'s. The same entries and content give the same InfoHash. A torrent has no empty directories:
/// they are left out; and v2 has an order of its own. So entries of the result may have other indices.
///
/// # Errors
/// When the entries are not sorted by path, break a limit, or cannot be read as they were listed.
pub fn create_torrent(
    options: &TorrentOptions,
    entries: &[Entry],
    source: &dyn Source,
    on_progress: &OnProgress<'_>,
) -> Result<Metainfo, CreateError> {
    check_sorted(entries)?;
    if entries.iter().all(|entry| entry.length() == 0) {
        return Err(CreateError::Nothing);
    }
    if options.name.contains('/') {
        let (expected, got) = ("one name", format!("{:?}", options.name));
        return Err(MetainfoError::Field { key: "name", expected, got }.into());
    }
    if let Some(odd) = options.piece_length.filter(|length| !length.is_power_of_two()) {
        return Err(MetainfoError::PieceLength { power_of_two: true, got: odd.to_string() }.into());
    }
    let mut pairs = match options.form {
        Form::V2 | Form::Hybrid => {
            let made = create_v2::make(options, entries, source, on_progress)?;
            let mut pairs = bare(made.info, None);
            pairs.insert(piece_layers::KEY.into(), made.layers);
            pairs
        }
        Form::V1 | Form::Native => {
            let layout = lay_out(&plan(options, HashAlgorithm::Sha1), entries)?;
            let pieces = hash(HashAlgorithm::Sha1, &layout, entries, source, on_progress)?;
            bare(info(options, layout.piece_length(), entries, &pieces), None)
        }
    };
    options.hints.put(&mut pairs);
    if let Some(created_at) = options.created_at {
        put_date(&mut pairs, created_at);
    }
    match Metainfo::from_bytes(dictionary(&pairs).into()) {
        Err(MetainfoError::TooLarge { got }) => Err(CreateError::TooLarge { got }),
        made => Ok(made?),
    }
}

/// What can be checked of it before anything is hashed.
pub(super) fn plan(options: &TorrentOptions, algorithm: HashAlgorithm) -> CreateOptions {
    CreateOptions {
        name: options.name.clone(),
        algorithm,
        piece_length: options.piece_length,
        created_at: options.created_at,
        peers: Vec::new(),
        version: None,
    }
}

fn info(options: &TorrentOptions, piece_length: u32, entries: &[Entry], pieces: &[Digest]) -> Vec<u8> {
    let mut out = vec![b'd'];
    match entries {
        [only] if only.is_file() && only.path.as_str() == options.name => put_file(&mut out, only),
        _ => {
            put_bytes(&mut out, b"files");
            out.push(b'l');
            for entry in entries.iter().filter(|entry| entry.kind != EntryKind::Directory) {
                out.push(b'd');
                put_entry(&mut out, entry);
                out.push(b'e');
            }
            out.push(b'e');
        }
    }
    put_bytes(&mut out, b"name");
    put_bytes(&mut out, options.name.as_bytes());
    put_bytes(&mut out, b"piece length");
    put_int(&mut out, piece_length.into());
    put_bytes(&mut out, b"pieces");
    put_bytes(&mut out, &pieces.iter().flat_map(Digest::as_bytes).copied().collect::<Vec<_>>());
    if options.is_private {
        put_bytes(&mut out, b"private");
        put_int(&mut out, 1);
    }
    out.push(b'e');
    out
}

/// The pairs of a file that is one of several.
pub(super) fn put_entry(out: &mut Vec<u8>, entry: &Entry) {
    put_file(out, entry);
    put_names(out, "path", entry.path.components());
    if let EntryKind::Symlink { target } = &entry.kind {
        put_names(out, "symlink path", from_top(&entry.path, target));
    }
}

pub(super) fn put_file(out: &mut Vec<u8>, entry: &Entry) {
    let attr: &[u8] = match entry.kind {
        EntryKind::File { executable: true, .. } => b"x",
        EntryKind::Symlink { .. } => b"l",
        EntryKind::File { .. } | EntryKind::Directory => b"",
    };
    if !attr.is_empty() {
        put_bytes(out, b"attr");
        put_bytes(out, attr);
    }
    put_bytes(out, b"length");
    put_int(out, entry.length().into());
}

pub(super) fn put_names<'n>(out: &mut Vec<u8>, key: &str, names: impl IntoIterator<Item = &'n str>) {
    put_bytes(out, key.as_bytes());
    out.push(b'l');
    names.into_iter().for_each(|name| put_bytes(out, name.as_bytes()));
    out.push(b'e');
}

/// Where a link at `path` leads, from the top of the torrent, as BEP 47 has it. It has been checked to stay inside.
pub(super) fn from_top<'n>(path: &'n TreePath, target: &'n str) -> Vec<&'n str> {
    let mut at: Vec<&str> = path.components().collect();
    at.pop();
    for name in target.split('/') {
        match name {
            "" | "." => {}
            ".." => drop(at.pop()),
            name => at.push(name),
        }
    }
    at
}
