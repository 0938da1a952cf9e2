use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::ControlFlow;

use proptest::prelude::*;

use super::*;
use crate::metainfo::testing::{MemSource, content, file, options};
use crate::metainfo::{TreePath, create};
use crate::types::HashAlgorithm;

const PIECE: usize = 32 << 10;
const BLOCK: usize = 16 << 10;

/// A version as bytes: what there is at each path, and whether it is executable.
type Tree = BTreeMap<String, (Vec<u8>, bool)>;

fn metainfo(algorithm: HashAlgorithm, piece_length: usize, tree: &Tree) -> Metainfo {
    let entries = tree.iter().map(|(path, (bytes, is_executable))| {
        let mut entry = file(path, bytes.len() as u64);
        if let EntryKind::File { executable, .. } = &mut entry.kind {
            *executable = *is_executable;
        }
        entry
    });
    made(algorithm, piece_length, entries.collect(), tree.values().map(|(bytes, _)| bytes.clone()).collect())
}

fn made(algorithm: HashAlgorithm, piece_length: usize, entries: Vec<Entry>, contents: Vec<Vec<u8>>) -> Metainfo {
    let on_progress = |_| ControlFlow::Continue(());
    create(&options(algorithm, piece_length as u32), entries, &MemSource(contents), &on_progress).unwrap()
}

fn tree(files: &[(&str, Vec<u8>)]) -> Tree {
    files.iter().map(|(path, bytes)| ((*path).to_owned(), (bytes.clone(), false))).collect()
}

fn between(algorithm: HashAlgorithm, old: &Tree, new: &Tree) -> Diff {
    Diff::between(&metainfo(algorithm, PIECE, old), &metainfo(algorithm, PIECE, new))
}

/// Few paths and few contents, so that versions have much in common.
fn any_tree() -> impl Strategy<Value = Tree> {
    let path = prop::sample::select(vec!["a", "b", "d/a", "d/b", "d/e/a", "f", "g/h"]);
    let length = prop::sample::select(vec![0, 1, BLOCK, PIECE - 1, PIECE, PIECE + BLOCK, 2 * PIECE, 3 * PIECE + 5]);
    let bytes = (1_u64..4, length, any::<bool>()).prop_map(|(seed, length, repeats)| {
        let unit = if repeats { PIECE } else { length };
        content(seed, unit).into_iter().cycle().take(length).collect::<Vec<u8>>()
    });
    prop::collection::btree_map(path.prop_map(str::to_owned), (bytes, prop::bool::weighted(0.2)), 0..6)
}

fn paths<'a>(tree: &'a Tree, other: &'a Tree) -> impl Iterator<Item = (&'a String, &'a (Vec<u8>, bool))> {
    tree.iter().filter(|(path, _)| !other.contains_key(*path))
}

/// Checks what does not depend on how the content is hashed.
fn check_lists(diff: &Diff, old: &Tree, new: &Tree) {
    let both = |tree: &[&String]| tree.iter().map(|path| (*path).clone()).collect::<BTreeSet<_>>();
    let renamed_to: Vec<&String> = diff.renamed.iter().map(|renamed| &renamed.to).collect();
    let renamed_from: Vec<&String> = diff.renamed.iter().map(|renamed| &renamed.from).collect();
    let mut is_new: Vec<&String> = diff.added.iter().map(|added| &added.path).collect();
    let mut is_gone: Vec<&String> = diff.removed.iter().map(|removed| &removed.path).collect();
    assert_eq!(diff.removed_files, is_gone.len());
    is_new.extend(renamed_to);
    is_gone.extend(renamed_from);
    assert_eq!(both(&is_new), paths(new, old).map(|(path, _)| path.clone()).collect());
    assert_eq!(both(&is_gone), paths(old, new).map(|(path, _)| path.clone()).collect());
    assert_eq!(is_new.len() + is_gone.len(), both(&is_new).len() + both(&is_gone).len(), "each is told once");
    for renamed in &diff.renamed {
        assert_eq!(old[&renamed.from], new[&renamed.to]);
        assert!(renamed.length > 0);
    }
    for (path, is) in new {
        let Some(was) = old.get(path) else { continue };
        let told = |list: &[Changed]| list.iter().any(|changed| changed.path == *path);
        match (told(&diff.changed), told(&diff.unclear)) {
            (false, false) => assert_eq!(was, is, "{path} has changed"),
            (true, false) => assert_ne!(was, is, "{path} has not changed"),
            (false, true) => assert_eq!((was.0.len(), was.1), (is.0.len(), is.1)),
            (true, true) => panic!("{path} is told twice"),
        }
    }
}

/// How many files of equal content are only in the one and only in the other: so many have moved.
fn moved(old: &Tree, new: &Tree) -> usize {
    let mut gone: Vec<_> = paths(old, new).map(|(_, file)| file).filter(|(bytes, _)| !bytes.is_empty()).collect();
    let mut count = 0;
    for (_, file) in paths(new, old) {
        if let Some(at) = gone.iter().position(|other| *other == file) {
            gone.swap_remove(at);
            count += 1;
        }
    }
    count
}

/// Pieces of an aligned file, with all that their hashes depend on: the width that a tree is filled up to, and, for
/// BLAKE3, the place in the file and whether it is all of it.
fn aligned_pieces(algorithm: HashAlgorithm, bytes: &[u8]) -> Vec<(Vec<u8>, usize, bool)> {
    let is_only = bytes.len() <= PIECE;
    let pieces = bytes.chunks(PIECE).enumerate().map(|(at, piece)| match algorithm {
        HashAlgorithm::Blake3 => (piece.to_vec(), at, is_only),
        _ if is_only => (piece.to_vec(), piece.len().div_ceil(BLOCK).next_power_of_two(), false),
        _ => (piece.to_vec(), PIECE / BLOCK, false),
    });
    pieces.collect()
}

fn aligned_transfer(algorithm: HashAlgorithm, old: &Tree, new: &Tree) -> usize {
    let known: HashSet<_> = old.values().flat_map(|(bytes, _)| aligned_pieces(algorithm, bytes)).collect();
    let is_new = |bytes: &Vec<u8>| old.values().all(|(other, _)| other != bytes);
    let files = new.values().map(|(bytes, _)| bytes).filter(|bytes| is_new(bytes));
    let missing = files.flat_map(|bytes| aligned_pieces(algorithm, bytes)).filter(|piece| !known.contains(piece));
    missing.map(|(piece, ..)| piece.len()).sum()
}

fn line_transfer(old: &Tree, new: &Tree) -> usize {
    let line = |tree: &Tree| tree.values().flat_map(|(bytes, _)| bytes.clone()).collect::<Vec<u8>>();
    let (old, new) = (line(old), line(new));
    let known: HashSet<&[u8]> = old.chunks(PIECE).collect();
    new.chunks(PIECE).filter(|piece| !known.contains(piece)).map(<[u8]>::len).sum()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn aligned_forms_tell_everything(old in any_tree(), new in any_tree(), is_blake3: bool) {
        let algorithm = if is_blake3 { HashAlgorithm::Blake3 } else { HashAlgorithm::Sha256Merkle };
        let diff = between(algorithm, &old, &new);
        check_lists(&diff, &old, &new);
        prop_assert_eq!(&diff.unclear, &[]);
        prop_assert_eq!(diff.renamed.len(), moved(&old, &new));
        prop_assert_eq!(diff.transfer_bytes as usize, aligned_transfer(algorithm, &old, &new));
        prop_assert_eq!(diff.is_empty(), old == new);
    }

    #[test]
    fn forms_end_to_end_tell_what_they_can(old in any_tree(), new in any_tree(), is_sha1: bool) {
        let algorithm = if is_sha1 { HashAlgorithm::Sha1 } else { HashAlgorithm::Sha256 };
        let diff = between(algorithm, &old, &new);
        check_lists(&diff, &old, &new);
        prop_assert!(diff.renamed.len() <= moved(&old, &new));
        prop_assert_eq!(diff.transfer_bytes as usize, line_transfer(&old, &new));
        prop_assert!(!diff.is_empty() || old == new);
        prop_assert!(between(algorithm, &old, &old).is_empty());
    }
}

#[test]
fn a_file_that_moves_keeps_its_name_first() {
    let same = content(1, 2 * PIECE);
    let old = tree(&[("a/one", same.clone()), ("b/two", same.clone()), ("c", content(2, 5))]);
    let new = tree(&[("z/two", same.clone()), ("z/three", same), ("c", content(2, 5))]);
    let diff = between(HashAlgorithm::Sha256Merkle, &old, &new);
    let pairs: Vec<_> = diff.renamed.iter().map(|renamed| (&*renamed.from, &*renamed.to)).collect();
    assert_eq!(pairs, [("a/one", "z/three"), ("b/two", "z/two")]);
    assert_eq!((diff.transfer_bytes, diff.reused_percent()), (0, 100.0));
    assert!(diff.added.is_empty() && diff.removed.is_empty() && diff.changed.is_empty());
}

#[test]
fn an_appended_file_keeps_its_whole_pieces() {
    let bytes = content(1, 3 * PIECE);
    let old = tree(&[("log", bytes[..2 * PIECE].to_vec())]);
    let new = tree(&[("log", bytes[..2 * PIECE + 9].to_vec())]);
    let diff = between(HashAlgorithm::Sha256Merkle, &old, &new);
    assert_eq!((diff.transfer_bytes, diff.reused_bytes()), (9, 2 * PIECE as u64));
    assert_eq!(diff.changed, [Changed { path: "log".into(), old_length: 65_536, length: 65_545 }]);
}

#[test]
fn end_to_end_a_neighbour_of_a_change_is_unclear_and_an_inner_change_is_not() {
    let (a, b) = (content(1, BLOCK), content(2, 3 * PIECE));
    let old = tree(&[("a", a.clone()), ("b", b.clone())]);
    let mut changed = a.clone();
    changed[0] ^= 1;
    let diff = between(HashAlgorithm::Sha1, &old, &tree(&[("a", changed), ("b", b.clone())]));
    let paths = |list: &[Changed]| list.iter().map(|changed| changed.path.clone()).collect::<Vec<_>>();
    // A piece that both touch is another one: either may have changed.
    assert_eq!((paths(&diff.unclear), paths(&diff.changed)), (vec!["a".into(), "b".into()], vec![]));
    let mut changed = b;
    changed[PIECE] ^= 1;
    let diff = between(HashAlgorithm::Sha1, &old, &tree(&[("a", a), ("b", changed)]));
    assert_eq!((paths(&diff.unclear), paths(&diff.changed)), (vec![], vec!["b".into()]));
    assert_eq!(diff.transfer_bytes, PIECE as u64);
}

#[test]
fn a_file_is_found_again_end_to_end_where_its_pieces_are_its_own() {
    let (a, b) = (content(1, 2 * PIECE), content(2, PIECE));
    let old = tree(&[("a", a.clone()), ("b", b.clone())]);
    let new = tree(&[("b", b), ("c", a)]);
    let diff = between(HashAlgorithm::Sha256, &old, &new);
    assert_eq!(diff.renamed, [Renamed { from: "a".into(), to: "c".into(), length: 2 * PIECE as u64 }]);
    assert_eq!((diff.changed.len(), diff.unclear.len(), diff.transfer_bytes), (0, 0, 0));
}

#[test]
fn other_hashes_tell_nothing() {
    let tree = tree(&[("a", content(1, PIECE)), ("none", vec![])]);
    let of = |algorithm, piece_length| metainfo(algorithm, piece_length, &tree);
    let merkle = of(HashAlgorithm::Sha256Merkle, PIECE);
    for other in [of(HashAlgorithm::Blake3, PIECE), of(HashAlgorithm::Sha256, PIECE)] {
        let diff = Diff::between(&merkle, &other);
        assert_eq!((diff.unclear.len(), diff.transfer_bytes), (1, PIECE as u64));
    }
    // Roots do not depend on the piece length, piece hashes do.
    assert!(Diff::between(&merkle, &of(HashAlgorithm::Sha256Merkle, 2 * PIECE)).is_empty());
    let diff = Diff::between(&of(HashAlgorithm::Sha1, PIECE), &of(HashAlgorithm::Sha1, 2 * PIECE));
    assert_eq!((diff.unclear.len(), diff.transfer_bytes), (1, PIECE as u64));
}

#[test]
fn links_directories_and_marks_are_compared_too() {
    let entry = |path: &str, kind| Entry { path: TreePath::new(path).unwrap(), kind };
    let link = |path, target: &str| entry(path, EntryKind::Symlink { target: target.into() });
    let directory = |path| entry(path, EntryKind::Directory);
    let script = |executable| entry("run", EntryKind::File { length: 3, root: None, executable });
    let of = |entries: Vec<Entry>| {
        let contents = entries.iter().map(|entry| vec![7; entry.length() as usize]).collect();
        made(HashAlgorithm::Blake3, PIECE, entries, contents)
    };
    let old = of(vec![directory("d"), directory("gone"), link("l", "run"), script(false)]);
    let new = of(vec![file("d/x", 1), link("l", "d"), directory("new"), script(true)]);
    let diff = Diff::between(&old, &new);
    let paths = |list: Vec<&String>| list.into_iter().cloned().collect::<Vec<_>>();
    assert_eq!(paths(diff.added.iter().map(|added| &added.path).collect()), ["d/x", "new"]);
    assert_eq!(paths(diff.changed.iter().map(|changed| &changed.path).collect()), ["l", "run"]);
    assert_eq!(paths(diff.removed.iter().map(|removed| &removed.path).collect()), ["gone"]);
    assert_eq!((diff.old_files, diff.removed_files), (1, 0), "directories are no files");
}

#[test]
fn a_share_of_removed_files_is_of_files() {
    let of = |removed_files, old_files| Diff { removed_files, old_files, ..Diff::default() };
    assert!(!of(1, 2).removes_more_than(50));
    assert!(of(2, 3).removes_more_than(50));
    assert!(of(1, 1).removes_more_than(99));
    assert!(!of(1, 1).removes_more_than(100));
    assert!(!of(0, 0).removes_more_than(0));
    assert!(of(1, 1000).removes_more_than(0));
}

#[test]
fn people_see_some_lines_and_the_totals() {
    let many: Vec<(String, Vec<u8>)> = (0..15).map(|at| (format!("new/{at:02}"), vec![at; 2048])).collect();
    let mut new = tree(&[("same", content(1, 30 << 10)), ("now\n", content(2, 100))]);
    new.extend(many.into_iter().map(|(path, bytes)| (path, (bytes, false))));
    let old = tree(&[("same", content(1, 30 << 10)), ("was", content(2, 100)), ("gone", vec![1; 10])]);
    let text = between(HashAlgorithm::Sha256Merkle, &old, &new).to_string();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines[0],
        "15 added, 1 removed, 1 renamed; whoever has the old version fetches at most 30.0 KiB of 60.1 KiB (50.1 % is \
         reused)"
    );
    assert_eq!(lines[1], "  + \"new/00\" (2.0 KiB)");
    assert_eq!(
        &lines[10..],
        ["  + \"new/09\" (2.0 KiB)", "  … 5 more added", "  - \"gone\" (10 B)", "  > \"was\" -> \"now\\n\""]
    );
    let all = format!("{:#}", between(HashAlgorithm::Sha256Merkle, &old, &new));
    assert_eq!((all.lines().count(), all.contains("more added")), (18, false));
    let text = between(HashAlgorithm::Sha256Merkle, &old, &old).to_string();
    assert!(text.starts_with("nothing changed; "), "{text}");
}
