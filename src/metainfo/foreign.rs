//! Reading the `info` of BitTorrent torrents: v1 (BEP 3, BEP 47), hybrid and v2 (BEP 52).
//!
//! Whatever ordinary clients load is loaded, and shown as `names` describes. What is refused cannot be given any
//! meaning: lengths that are none, hashes that do not fit the lengths.

use std::collections::HashSet;
use std::ops::Range;

use super::bencode::{Document, Value};
use super::layout::Run;
use super::names::{file_name, is_name, tree_path};
use super::path::{MAX_COMPONENTS, MAX_PATH_LEN, TreePath};
use super::{Entry, EntryKind, Form, MAX_FILES, MetainfoError, file_tree};
use crate::types::FileRoot;

/// Bytes of the largest piece of a foreign torrent.
pub(super) const MAX_FOREIGN_PIECE_LENGTH: i64 = 256 << 20;
/// How BitComet, which had padding before BEP 47, names it.
const BITCOMET_PADDING: &[u8] = b"_____padding_file_";

/// What is in a foreign `info`. Its pieces are not compared with its layout yet.
pub(super) struct Foreign {
    /// As it is in the torrent.
    pub(super) raw_name: Vec<u8>,
    /// Fit for a file; empty if the torrent has no usable name.
    pub(super) name: String,
    pub(super) is_private: bool,
    /// Whether it is one file, not a directory with one file in it.
    pub(super) is_single_file: bool,
    pub(super) piece_length: u32,
    /// Where the hashes of the pieces lie in `info`, end to end; empty in v2.
    pub(super) pieces: Range<usize>,
    pub(super) entries: Vec<Entry>,
    /// The line of bytes, in which each entry has its turn; of v1 and hybrid torrents.
    pub(super) runs: Vec<Run>,
    /// Where each entry comes from, in its order.
    pub(super) origins: Vec<Origin>,
    /// What a hybrid or v2 torrent says are the roots of the entries, in their order; else empty. Not verified.
    pub(super) roots: Vec<Option<FileRoot>>,
    /// Entries that are links, and the names that lead to their targets; until [`Foreign::resolve_links`].
    links: Vec<(usize, Vec<String>)>,
}

/// Where an entry stands in `info`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    /// Its number among the files that the torrent lists, padding included.
    pub(super) number: u32,
    /// Bytes of `info` that are its dictionary; empty of a single file.
    pub(super) dictionary: Range<u32>,
}

/// Which form `info` has. Native is what is not foreign: it is then read strictly, and its faults are named.
pub(super) fn form_of(info: &Value<'_>) -> Form {
    if info.get("piece hash algo").is_some() {
        return Form::Native;
    }
    let has_v1 = info.get("pieces").is_some_and(|pieces| pieces.as_bytes().is_some());
    let has_v2 = info.get("file tree").is_some_and(|tree| tree.is_dict()) && meta_version(info) == 2;
    match (has_v1, has_v2) {
        (true, true) => Form::Hybrid,
        (true, false) => Form::V1,
        (false, true) => Form::V2,
        (false, false) => Form::Native,
    }
}

fn meta_version(info: &Value<'_>) -> i64 {
    info.get("meta version").and_then(|version| version.as_int()).unwrap_or(1)
}

/// Reads an `info` that [`form_of`] says is of a foreign form.
pub(super) fn read(form: Form, info: &Value<'_>) -> Result<Foreign, MetainfoError> {
    let raw_name = utf8_or(info, "name.utf-8", "name").and_then(|name| name.as_bytes());
    let raw_name = raw_name.ok_or(MetainfoError::Missing("name"))?;
    let mut foreign = Foreign {
        raw_name: raw_name.to_vec(),
        name: file_name(raw_name).unwrap_or_default(),
        is_private: info.get("private").and_then(|private| private.as_int()).is_some_and(|private| private != 0),
        is_single_file: false,
        piece_length: piece_length(info)?,
        pieces: 0..0,
        entries: Vec::new(),
        runs: Vec::new(),
        origins: Vec::new(),
        roots: Vec::new(),
        links: Vec::new(),
    };
    if form == Form::V2 {
        file_tree::read(info, &mut foreign)?;
        foreign.resolve_links();
        return Ok(foreign);
    }
    let pieces = info.get("pieces").and_then(|pieces| Some((pieces, pieces.as_bytes()?)));
    let (pieces, hashes) = pieces.ok_or(MetainfoError::Missing("pieces"))?;
    let end = (pieces.start() - info.start()) as usize + pieces.raw().len();
    foreign.pieces = end - hashes.len()..end;
    match info.get("files") {
        Some(files) if files.is_list() => {
            for (file, number) in files.items().zip(0..) {
                foreign.file(&file, number, info.start())?;
            }
            if foreign.runs.is_empty() {
                return Err(field("files", "a list of files", "an empty one"));
            }
        }
        _ => {
            foreign.is_single_file = true;
            let attributes = Attributes::of(info);
            let kind = EntryKind::File { length: length(info)?, root: None, executable: attributes.has(b'x') };
            // The path is the name, which may need the infohash: the caller sets it.
            foreign.push(TreePath::of_names(&["_".into()]), kind, 0, 0..0);
        }
    }
    foreign.resolve_links();
    if form == Form::Hybrid {
        foreign.roots = file_tree::roots(info, &foreign).unwrap_or_default();
    }
    Ok(foreign)
}

impl Foreign {
    fn file(&mut self, file: &Value<'_>, number: u32, origin: u32) -> Result<(), MetainfoError> {
        if self.runs.len() >= MAX_FILES {
            return Err(MetainfoError::TooManyFiles);
        }
        if !file.is_dict() {
            return Err(field("files", "a list of dictionaries", file.kind()));
        }
        let attributes = Attributes::of(file);
        let names = path_names(file);
        let bitcomet = names.last().is_some_and(|name| name.starts_with(BITCOMET_PADDING));
        if attributes.has(b'p') || bitcomet {
            self.runs.push(Run::Padding(length(file)?));
            return Ok(());
        }
        if names.is_empty() && file.get("path").is_none_or(|path| !path.is_list()) {
            return Err(MetainfoError::Missing("path"));
        }
        let path = tree_path(names);
        let at = file.start() - origin;
        let dictionary = at..at + file.raw().len() as u32;
        if let Some(target) = attributes.link(file) {
            self.push_link(path, target, number, dictionary);
            return Ok(());
        }
        let kind = EntryKind::File { length: length(file)?, root: None, executable: attributes.has(b'x') };
        self.push(path, kind, number, dictionary);
        Ok(())
    }

    pub(super) fn push(&mut self, path: TreePath, kind: EntryKind, number: u32, dictionary: Range<u32>) {
        let entry = Entry { path, kind };
        self.runs.push(Run::File(entry.length()));
        self.entries.push(entry);
        self.origins.push(Origin { number, dictionary });
    }

    pub(super) fn push_link(&mut self, path: TreePath, target: Vec<&[u8]>, number: u32, dictionary: Range<u32>) {
        let name = |raw: &[u8]| if raw == b".." { Some("..".into()) } else { file_name(raw) };
        self.links.push((self.entries.len(), target.into_iter().filter_map(name).collect()));
        self.push(path, EntryKind::Symlink { target: String::new() }, number, dictionary);
    }

    /// Gives links their targets. BEP 47 counts them from the top of the torrent, but libtorrent writes them from the
    /// directory that the link lies in: the first that exists is meant. None leads out of the torrent.
    fn resolve_links(&mut self) {
        let links = std::mem::take(&mut self.links);
        if links.is_empty() {
            return;
        }
        let mut there: HashSet<&str> = HashSet::from([""]);
        for entry in &self.entries {
            there.insert(entry.path.as_str());
            // Where there are more directories than may be, the torrent is refused later.
            if there.len() <= 2 * MAX_FILES {
                there.extend(entry.path.ancestors());
            }
        }
        let mut targets = Vec::with_capacity(links.len());
        for (at, names) in links {
            let path = &self.entries[at].path;
            let below: Vec<&str> = names.iter().map(String::as_str).filter(|name| *name != "..").collect();
            let from_top = (below.len() == names.len() && there.contains(&*below.join("/"))).then(|| below.clone());
            let beside = || beside(path, &names).filter(|to| there.contains(&*to.join("/")));
            targets.push((at, link_target(path, &from_top.or_else(beside).unwrap_or(below))));
        }
        for (at, target) in targets {
            self.entries[at].kind = EntryKind::Symlink { target };
        }
    }
}

/// Where names lead from the directory that `path` lies in, from the top of the torrent; `None` if out of it.
fn beside<'n>(path: &'n TreePath, names: &'n [String]) -> Option<Vec<&'n str>> {
    let mut at: Vec<&str> = path.components().collect();
    at.pop();
    for name in names {
        match &**name {
            ".." => drop(at.pop()?),
            name => at.push(name),
        }
    }
    Some(at)
}

/// The letters of BEP 47: `x` executable, `l` link, `p` padding; `h`, hidden, means nothing here.
#[derive(Clone, Copy)]
pub(super) struct Attributes<'d>(&'d [u8]);

impl<'d> Attributes<'d> {
    pub(super) fn of(file: &Value<'d>) -> Self {
        Self(file.get("attr").and_then(|attr| attr.as_bytes()).unwrap_or_default())
    }

    pub(super) fn has(self, letter: u8) -> bool {
        self.0.contains(&letter)
    }

    /// The names of the path that a symlink leads to, from the top of the torrent. A link without a target is no
    /// link, and a link has no bytes, whatever its length.
    pub(super) fn link(self, file: &Value<'d>) -> Option<Vec<&'d [u8]>> {
        if !self.has(b'l') {
            return None;
        }
        names_of(&file.get("symlink path")?)
    }
}

/// The names of a file's path, as they are in the torrent; none if it has no path.
fn path_names<'d>(file: &Value<'d>) -> Vec<&'d [u8]> {
    utf8_or(file, "path.utf-8", "path").and_then(|path| names_of(&path)).unwrap_or_default()
}

/// The names in a list of names, or in a string with slashes, which some write.
fn names_of<'d>(path: &Value<'d>) -> Option<Vec<&'d [u8]>> {
    match path.as_bytes() {
        Some(text) if text.len() <= MAX_PATH_LEN => Some(text.split(|byte| *byte == b'/').collect()),
        Some(text) => Some(vec![text]),
        None if path.is_list() => Some(path.items().filter_map(|name| name.as_bytes()).collect()),
        None => None,
    }
}

/// The value of the key that promises UTF-8, where it keeps the promise, else of the other.
fn utf8_or<'d>(dict: &Value<'d>, promise: &str, other: &str) -> Option<Value<'d>> {
    let keeps = |value: &Value<'_>| {
        let names = names_of(value).unwrap_or_default();
        names.iter().any(|name| !name.is_empty()) && names.iter().all(|name| str::from_utf8(name).is_ok())
    };
    dict.get(promise).filter(keeps).or_else(|| dict.get(other))
}

/// The target of a link at `path` to a place below the top of the torrent, from the directory that the link lies in.
/// What no filesystem takes leads to the link itself, and so nowhere.
fn link_target(path: &TreePath, to: &[&str]) -> String {
    let from: Vec<&str> = path.parent().map_or_else(Vec::new, |parent| parent.split('/').collect());
    let common = from.iter().zip(to).take_while(|(from, to)| from == to).count();
    let up = (common..from.len()).map(|_| "..");
    let names: Vec<&str> = up.chain(to[common..].iter().copied()).collect();
    let target = if names.is_empty() { ".".to_owned() } else { names.join("/") };
    let fits = names.len() <= MAX_COMPONENTS && target.len() <= MAX_PATH_LEN;
    if fits { target } else { path.file_name().to_owned() }
}

/// The names of a file below the torrent's own, as they are in its dictionary, without those that paths leave out.
pub(super) fn raw_path(dictionary: &[u8]) -> Option<Vec<Vec<u8>>> {
    let doc = Document::read(dictionary).ok()?;
    let names = path_names(&doc.root()).into_iter().filter(|name| is_name(name));
    Some(names.map(<[u8]>::to_vec).collect())
}

/// Bytes of a file: what fits into a file offset.
pub(super) fn length(file: &Value<'_>) -> Result<u64, MetainfoError> {
    let value = file.get("length").ok_or(MetainfoError::Missing("length"))?;
    let expected = "a number of bytes from 0 to 2^63 - 1";
    let length = value.as_int().and_then(|length| u64::try_from(length).ok());
    length.ok_or_else(|| field("length", expected, &super::path::shorten(&String::from_utf8_lossy(value.raw()))))
}

fn piece_length(info: &Value<'_>) -> Result<u32, MetainfoError> {
    let value = info.get("piece length").ok_or(MetainfoError::Missing("piece length"))?;
    let length = value.as_int().filter(|length| (1..=MAX_FOREIGN_PIECE_LENGTH).contains(length));
    length.map(|length| length as u32).ok_or_else(|| {
        let got = super::path::shorten(&String::from_utf8_lossy(value.raw()));
        field("piece length", "from 1 to 268435456 bytes", &got)
    })
}

pub(super) fn field(key: &'static str, expected: &'static str, got: &str) -> MetainfoError {
    MetainfoError::Field { key, expected, got: got.to_owned() }
}
