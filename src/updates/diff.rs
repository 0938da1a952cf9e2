//! What changed between two versions of a dataset, and what a mirror of the one needs to become one of the other.

mod content;
mod show;

use std::collections::{HashMap, HashSet, VecDeque};

use serde::Serialize;

use self::content::{Contents, Relation};
use crate::metainfo::{Entry, EntryKind, Metainfo};
use crate::types::FileIndex;

/// What changed from an old version to a new one. Every list is in the order of paths.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Diff {
    /// What is only in the new version, and no renamed file.
    pub added: Vec<Added>,
    /// What is other than it was.
    pub changed: Vec<Changed>,
    /// Files of the same length at the same path, of which the hashes do not tell whether they are what they were:
    /// where files lie end to end, a change moves or touches the pieces of its neighbours.
    pub unclear: Vec<Changed>,
    /// What is only in the old version, and no renamed file.
    pub removed: Vec<Removed>,
    /// Files of the same content at another path. Files without content are not looked for.
    pub renamed: Vec<Renamed>,
    /// Files of the old version.
    pub old_files: usize,
    /// Of these, those at paths that are gone and not renamed.
    pub removed_files: usize,
    /// Bytes of all files of the new version.
    pub total_bytes: u64,
    /// Of these, the most that somebody needs to fetch who has all of the old version. Who compares blocks as well
    /// needs less.
    pub transfer_bytes: u64,
}

/// Something that is new.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Added {
    /// Where.
    pub path: String,
    /// Bytes; 0 of what is no file.
    pub length: u64,
}

/// Something that is other than it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Changed {
    /// Where.
    pub path: String,
    /// Bytes as it was.
    pub old_length: u64,
    /// Bytes as it is.
    pub length: u64,
}

/// Something that is gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Removed {
    /// Where it was.
    pub path: String,
    /// Bytes that it had.
    pub length: u64,
}

/// A file that has moved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Renamed {
    /// Where it was.
    pub from: String,
    /// Where it is.
    pub to: String,
    /// Its bytes.
    pub length: u64,
}

impl Diff {
    /// What changed from `old` to `new`.
    pub fn between(old: &Metainfo, new: &Metainfo) -> Self {
        let contents = Contents::new(old, new);
        let mut diff = Self {
            old_files: old.entries().iter().filter(|entry| entry.is_file()).count(),
            total_bytes: new.total_length(),
            transfer_bytes: contents.transfer(),
            ..Self::default()
        };
        let places = Places::new(old, new);
        for (was, is) in &places.both {
            diff.compare(&contents, *was, *is);
        }
        let (added, removed) = diff.pair_renamed(&contents, &places);
        diff.added = added.into_iter().map(|at| added_entry(&new.entries()[at])).collect();
        for at in removed {
            let entry = &old.entries()[at];
            diff.removed_files += usize::from(entry.is_file());
            diff.removed.push(Removed { path: entry.path.to_string(), length: entry.length() });
        }
        diff.sort();
        diff
    }

    /// Whether the new version is what the old one is.
    pub fn is_empty(&self) -> bool {
        let Self { added, changed, unclear, removed, renamed, .. } = self;
        added.is_empty() && changed.is_empty() && unclear.is_empty() && removed.is_empty() && renamed.is_empty()
    }

    /// Bytes of the new version that somebody has who has all of the old one.
    pub fn reused_bytes(&self) -> u64 {
        self.total_bytes.saturating_sub(self.transfer_bytes)
    }

    /// The share of these, from 0 to 100; of nothing everything is there.
    pub fn reused_percent(&self) -> f64 {
        percent(self.reused_bytes(), self.total_bytes)
    }

    /// Whether more than `percent` of the old version's files are gone.
    pub fn removes_more_than(&self, percent: u8) -> bool {
        self.removed_files as u128 * 100 > self.old_files as u128 * u128::from(percent)
    }

    /// Sorts what is at the same path in both versions into what changed and what did not.
    fn compare(&mut self, contents: &Contents<'_>, was: usize, is: usize) {
        let (old, new) = (&contents.old.entries()[was], &contents.new.entries()[is]);
        let change = || Changed { path: new.path.to_string(), old_length: old.length(), length: new.length() };
        let is_executable = |entry: &Entry| matches!(entry.kind, EntryKind::File { executable: true, .. });
        if !old.is_file() || !new.is_file() {
            self.changed.extend((old.kind != new.kind).then(change));
            return;
        }
        match contents.compare(FileIndex(was as u32), FileIndex(is as u32)) {
            Relation::Other => self.changed.push(change()),
            _ if is_executable(old) != is_executable(new) => self.changed.push(change()),
            Relation::Unclear => self.unclear.push(change()),
            Relation::Same => {}
        }
    }

    /// Finds the files that have moved, those that kept their names first; gives what was added and removed besides.
    fn pair_renamed(&mut self, contents: &Contents<'_>, places: &Places) -> (Vec<usize>, Vec<usize>) {
        let (old, new) = (contents.old, contents.new);
        let mut gone = HashSet::new();
        let mut added = places.added.clone();
        for keeps_name in [true, false] {
            let name = |entry: &Entry| keeps_name.then(|| entry.path.file_name().to_owned());
            let mut known: HashMap<_, VecDeque<usize>> = HashMap::new();
            for at in places.removed.iter().copied().filter(|at| !gone.contains(at)) {
                if let Some(key) = contents.key_of_old(FileIndex(at as u32)) {
                    known.entry((name(&old.entries()[at]), key)).or_default().push_back(at);
                }
            }
            added.retain(|at| {
                let (entry, file) = (&new.entries()[*at], FileIndex(*at as u32));
                let key = contents.key_of_new(file).map(|key| (name(entry), key));
                let Some(was) = key.and_then(|key| known.get_mut(&key)?.pop_front()) else { return true };
                gone.insert(was);
                let from = old.entries()[was].path.to_string();
                self.renamed.push(Renamed { from, to: entry.path.to_string(), length: entry.length() });
                false
            });
        }
        (added, places.removed.iter().copied().filter(|at| !gone.contains(at)).collect())
    }

    fn sort(&mut self) {
        self.added.sort_by(|a, b| a.path.cmp(&b.path));
        self.changed.sort_by(|a, b| a.path.cmp(&b.path));
        self.unclear.sort_by(|a, b| a.path.cmp(&b.path));
        self.removed.sort_by(|a, b| a.path.cmp(&b.path));
        self.renamed.sort_by(|a, b| a.to.cmp(&b.to));
    }
}

fn added_entry(entry: &Entry) -> Added {
    Added { path: entry.path.to_string(), length: entry.length() }
}

fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 100.0 } else { part as f64 * 100.0 / whole as f64 }
}

/// Which paths are in which version.
struct Places {
    /// Indices in both, of what is at the same path.
    both: Vec<(usize, usize)>,
    added: Vec<usize>,
    removed: Vec<usize>,
}

impl Places {
    fn new(old: &Metainfo, new: &Metainfo) -> Self {
        let by_path = |of: &Metainfo| -> HashMap<String, usize> {
            of.entries().iter().enumerate().map(|(at, entry)| (entry.path.to_string(), at)).collect()
        };
        let (old_paths, new_paths) = (by_path(old), by_path(new));
        // A directory is listed while it is empty only: it has not gone when something comes into it.
        let filled = |of: &Metainfo| -> HashSet<String> {
            of.entries().iter().flat_map(|entry| ancestors(entry.path.as_str())).map(str::to_owned).collect()
        };
        let only_in = |entries: &[Entry], others: &HashMap<String, usize>, filled: &HashSet<String>| {
            let mut seen = HashSet::new();
            let mut is_new = |entry: &Entry| {
                let path = entry.path.as_str();
                let is_filled = entry.kind == EntryKind::Directory && filled.contains(path);
                // A directory may be listed more than once.
                !others.contains_key(path) && !is_filled && seen.insert(path.to_owned())
            };
            let found = entries.iter().enumerate().filter(|(_, entry)| is_new(entry));
            found.map(|(at, _)| at).collect::<Vec<_>>()
        };
        Self {
            both: new_paths.iter().filter_map(|(path, is)| Some((*old_paths.get(path)?, *is))).collect(),
            added: only_in(new.entries(), &old_paths, &filled(old)),
            removed: only_in(old.entries(), &new_paths, &filled(new)),
        }
    }
}

/// The directories that a path lies in, below the top.
fn ancestors(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').map(|(at, _)| &path[..at])
}

#[cfg(test)]
mod tests;
