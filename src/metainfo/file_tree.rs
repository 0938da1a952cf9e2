//! The `file tree` of BitTorrent v2 (BEP 52).

use super::bencode::Value;
use super::foreign::{Attributes, Foreign, field, length};
use super::names::{file_name, tree_path};
use super::{EntryKind, MAX_FILES, MAX_PIECE_LENGTH, MIN_PIECE_LENGTH, MetainfoError};
use crate::types::FileRoot;

/// A file of the tree: the names of its path, and what is said of it.
struct Leaf<'d> {
    names: Vec<&'d [u8]>,
    file: Value<'d>,
}

impl Leaf<'_> {
    fn root(&self) -> Option<FileRoot> {
        self.file.get("pieces root")?.as_bytes()?.try_into().ok().map(FileRoot)
    }
}

/// Reads the files of a v2 torrent.
pub(super) fn read(info: &Value<'_>, foreign: &mut Foreign) -> Result<(), MetainfoError> {
    let piece_length = foreign.piece_length;
    if !piece_length.is_power_of_two() || !(MIN_PIECE_LENGTH..=MAX_PIECE_LENGTH).contains(&piece_length) {
        return Err(MetainfoError::PieceLength { power_of_two: true, got: piece_length.to_string() });
    }
    for (leaf, number) in leaves(info)?.into_iter().zip(0..) {
        let path = tree_path(leaf.names.iter().copied());
        let attributes = Attributes::of(&leaf.file);
        // Empty: the names are the keys above, not in the dictionary.
        let dictionary = 0..0;
        if let Some(target) = attributes.link(&leaf.file) {
            foreign.push_link(path, target, number, dictionary);
            foreign.roots.push(None);
            continue;
        }
        let length = length(&leaf.file)?;
        let root = leaf.root().filter(|_| length > 0);
        if length > 0 && root.is_none() {
            return Err(MetainfoError::Missing("pieces root"));
        }
        foreign.push(path, EntryKind::File { length, root, executable: attributes.has(b'x') }, number, dictionary);
        foreign.roots.push(root);
    }
    match &foreign.entries[..] {
        [] => return Err(field("file tree", "files", "none")),
        [only] => foreign.is_single_file = only.is_file() && only.path.as_str() == foreign.name,
        _ => {}
    }
    Ok(())
}

/// The roots that a hybrid torrent has for the entries of its v1 form; `None` if its two forms are not of the same
/// files, and so one of them is wrong.
pub(super) fn roots(info: &Value<'_>, foreign: &Foreign) -> Option<Vec<Option<FileRoot>>> {
    let leaves = leaves(info).ok()?;
    if leaves.len() != foreign.entries.len() {
        return None;
    }
    let pairs = leaves.iter().zip(&foreign.entries);
    let roots = pairs.map(|(leaf, entry)| {
        let same_path = match foreign.is_single_file {
            true => matches!(leaf.names[..], [name] if file_name(name).unwrap_or_default() == foreign.name),
            false => tree_path(leaf.names.iter().copied()) == entry.path,
        };
        let is_link = Attributes::of(&leaf.file).link(&leaf.file).is_some();
        let same_length = if is_link { !entry.is_file() } else { length(&leaf.file).ok() == Some(entry.length()) };
        (same_path && same_length).then(|| leaf.root().filter(|_| entry.length() > 0))
    });
    roots.collect()
}

fn leaves<'d>(info: &Value<'d>) -> Result<Vec<Leaf<'d>>, MetainfoError> {
    let tree = info.get("file tree").ok_or(MetainfoError::Missing("file tree"))?;
    let mut leaves = Vec::new();
    collect(&tree, &mut Vec::new(), &mut leaves)?;
    Ok(leaves)
}

/// Goes as deep as dictionaries are nested, which the reader of bencode bounds.
fn collect<'d>(tree: &Value<'d>, names: &mut Vec<&'d [u8]>, leaves: &mut Vec<Leaf<'d>>) -> Result<(), MetainfoError> {
    for (name, below) in tree.pairs() {
        if name.is_empty() {
            if leaves.len() >= MAX_FILES {
                return Err(MetainfoError::TooManyFiles);
            }
            leaves.push(Leaf { names: names.clone(), file: below });
        } else {
            names.push(name);
            collect(&below, names, leaves)?;
            names.pop();
        }
    }
    Ok(())
}
