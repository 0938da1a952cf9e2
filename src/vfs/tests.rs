//! The vfs against a model: a sorted map of paths.

mod versions;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::metainfo::{CreateOptions, Entry, EntryKind, Metainfo, Source, TreePath, create};
use crate::types::{FileIndex, HashAlgorithm, ReaderId};

const OWNER: Owner = Owner { uid: 5, gid: 6 };

/// Content whose file `n` is full of byte `n`, and that answers reads with `surplus` bytes too many.
#[derive(Default)]
struct Bytewise {
    surplus: i32,
    here: bool,
    open: Mutex<BTreeSet<ReaderId>>,
    asked: Mutex<Vec<(FileIndex, u64, u32)>>,
}

impl Bytewise {
    fn part(&self, file: FileIndex, len: u32) -> Bytes {
        vec![file.0 as u8; (len as i32 + self.surplus) as usize].into()
    }
}

impl Content for Bytewise {
    fn open(&self, _: FileIndex) -> ReaderId {
        let mut open = self.open.lock().unwrap();
        let reader = ReaderId(open.last().map_or(7, |last| last.0 + 1));
        open.insert(reader);
        reader
    }

    fn close(&self, reader: ReaderId) {
        assert!(self.open.lock().unwrap().remove(&reader));
    }

    fn read_cached(&self, _: ReaderId, file: FileIndex, _: u64, len: u32) -> Option<Bytes> {
        self.here.then(|| self.part(file, len))
    }

    fn read(&self, _: ReaderId, file: FileIndex, offset: u64, len: u32, reply: ReadReply) {
        self.asked.lock().unwrap().push((file, offset, len));
        reply(Ok(self.part(file, len)));
    }

    fn cached_bytes(&self, _: FileIndex) -> u64 {
        if self.here { 1000 } else { 0 }
    }
}

struct Zeros;

impl Source for Zeros {
    fn read_at(&self, _: FileIndex, _: u64, buf: &mut [u8]) -> io::Result<()> {
        buf.fill(0);
        Ok(())
    }

    fn check_unchanged(&self, _: FileIndex) -> io::Result<()> {
        Ok(())
    }
}

fn metainfo(entries: Vec<Entry>, created_at: Option<i64>) -> Arc<Metainfo> {
    let options = CreateOptions {
        name: "t".into(),
        algorithm: HashAlgorithm::Sha1,
        piece_length: None,
        created_at,
        peers: Vec::new(),
        version: None,
    };
    Arc::new(create(&options, entries, &Zeros, &|_| ControlFlow::Continue(())).unwrap())
}

fn file(path: &str, length: u64) -> Entry {
    let kind = EntryKind::File { length, root: None, executable: false };
    Entry { path: TreePath::new(path).unwrap(), kind }
}

fn vfs(entries: Vec<Entry>, content: Arc<Bytewise>) -> Vfs {
    over(metainfo(entries, None), content)
}

fn over(metainfo: Arc<Metainfo>, content: Arc<Bytewise>) -> Vfs {
    Vfs::new(Version { metainfo, content, release: None }, None, OWNER).unwrap()
}

fn look(vfs: &Vfs, parent: Ino, name: &[u8]) -> Result<Attr, FsError> {
    vfs.lookup(parent, name)?.attr.ok_or(FsError::NotFound)
}

fn find(vfs: &Vfs, path: &str) -> Result<Attr, FsError> {
    path.split('/').try_fold(vfs.attr(Ino::ROOT)?, |at, name| look(vfs, at.ino, name.as_bytes()))
}

/// A line of a listing.
#[derive(Clone, Debug, PartialEq)]
struct Line {
    ino: Ino,
    name: String,
    kind: FileKind,
    next: u64,
}

fn list(vfs: &Vfs, ino: Ino, from: u64) -> Result<Vec<Line>, FsError> {
    let handle = vfs.open_dir(ino)?.handle;
    let lines = list_open(vfs, handle, from);
    vfs.close(handle);
    lines
}

fn list_open(vfs: &Vfs, handle: Handle, from: u64) -> Result<Vec<Line>, FsError> {
    let mut lines = Vec::new();
    vfs.read_dir(handle, from, |DirEntry { ino, name, kind, next }| {
        lines.push(Line { ino, name: name.to_owned(), kind, next });
        false
    })?;
    Ok(lines)
}

fn entry() -> impl Strategy<Value = Entry> {
    let name = prop::sample::select(vec!["a", "b", "B", "a b", "é", "\u{1}", ".knot", "status", "..."]);
    let path = prop::collection::vec(name, 1..5).prop_map(|names| TreePath::new(&names.join("/")).unwrap());
    let kind = prop_oneof![
        4 => (0..3000u64, any::<bool>())
            .prop_map(|(length, executable)| EntryKind::File { length, root: None, executable }),
        1 => Just(EntryKind::Directory),
        1 => Just(EntryKind::Symlink { target: "a".into() }),
    ];
    (path, kind).prop_map(|(path, kind)| Entry { path, kind })
}

/// Every path of a torrent, the directories above its entries included.
fn model(metainfo: &Metainfo) -> BTreeMap<String, EntryKind> {
    let mut paths = BTreeMap::new();
    for entry in metainfo.entries() {
        for (at, _) in entry.path.as_str().match_indices('/') {
            paths.insert(entry.path.as_str()[..at].to_owned(), EntryKind::Directory);
        }
        paths.insert(entry.path.to_string(), entry.kind.clone());
    }
    paths
}

fn check_directory(vfs: &Vfs, dir: &str, paths: &BTreeMap<String, EntryKind>) {
    let prefix = if dir.is_empty() { String::new() } else { format!("{dir}/") };
    let inside =
        |path: &&String| path.strip_prefix(&prefix).is_some_and(|name| !name.contains('/') && !name.is_empty());
    let mut expected: Vec<&str> = paths.keys().filter(inside).map(|path| &path[prefix.len()..]).collect();
    expected.sort_unstable_by_key(|name| name.as_bytes());
    let attr = if dir.is_empty() { vfs.attr(Ino::ROOT).unwrap() } else { find(vfs, dir).unwrap() };
    let lines = list(vfs, attr.ino, 0).unwrap();
    assert_eq!((&*lines[0].name, lines[0].ino, &*lines[1].name), (".", attr.ino, ".."));
    assert_eq!(lines[2..].iter().map(|line| &*line.name).collect::<Vec<_>>(), expected);
    for (at, line) in lines.iter().enumerate() {
        let found = look(vfs, attr.ino, line.name.as_bytes()).unwrap();
        assert_eq!((found.ino, found.kind), (line.ino, line.kind), "listed and found agree");
        assert_eq!(list(vfs, attr.ino, line.next).unwrap(), lines[at + 1..], "a listing goes on where it stopped");
    }
    let directories = lines[2..].iter().filter(|line| line.kind == FileKind::Directory).count();
    assert_eq!(attr.links as usize, directories + 2);
}

proptest! {
    #[test]
    fn lookups_and_listings_agree_with_the_model(mut entries in prop::collection::vec(entry(), 1..40), here: bool) {
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        entries.dedup_by(|a, b| a.path == b.path);
        let metainfo = metainfo(entries, Some(77));
        let paths = model(&metainfo);
        let content = Arc::new(Bytewise { here, ..Bytewise::default() });
        let vfs = over(Arc::clone(&metainfo), content);
        prop_assert_eq!(vfs.statfs().files, paths.len() as u64 + 1);
        let mut inodes = BTreeSet::from([Ino::ROOT]);
        check_directory(&vfs, "", &paths);
        for (path, kind) in &paths {
            let attr = find(&vfs, path).unwrap();
            prop_assert!(inodes.insert(attr.ino), "one inode for each path");
            prop_assert_eq!((attr.mtime_s, attr.owner), (77, OWNER));
            match kind {
                EntryKind::Directory => {
                    prop_assert_eq!((attr.kind, attr.mode), (FileKind::Directory, 0o555));
                    prop_assert_eq!(vfs.open(attr.ino), Err(FsError::IsADirectory));
                    check_directory(&vfs, path, &paths);
                }
                EntryKind::Symlink { target } => {
                    prop_assert_eq!((attr.kind, attr.size), (FileKind::Symlink, target.len() as u64));
                    prop_assert_eq!(&vfs.read_link(attr.ino).unwrap(), target);
                }
                EntryKind::File { length, executable, .. } => {
                    prop_assert_eq!((attr.kind, attr.size), (FileKind::File, *length));
                    prop_assert_eq!(attr.mode, if *executable { 0o555 } else { 0o444 });
                    prop_assert_eq!(attr.blocks == 0, *length == 0);
                    prop_assert_eq!(look(&vfs, attr.ino, b"a"), Err(FsError::NotADirectory));
                }
            }
            prop_assert_eq!(look(&vfs, attr.ino, b"."), Ok(attr));
            prop_assert_eq!(find(&vfs, &format!("{path}.")), Err(FsError::NotFound));
        }
    }

    #[test]
    fn reads_end_where_the_file_does(
        length in prop_oneof![Just(0u64), 1..100_000u64],
        offset in prop_oneof![0..110_000u64, Just(u64::MAX), Just(u64::MAX - 1)],
        len: u32,
        here: bool,
    ) {
        let content = Arc::new(Bytewise { here, ..Bytewise::default() });
        let vfs = vfs(vec![file("f", length)], Arc::clone(&content));
        let ino = find(&vfs, "f").unwrap().ino;
        let handle = vfs.open(ino).unwrap().handle;
        let expected = length.saturating_sub(offset).min(u64::from(len)) as usize;
        match vfs.read_cached(handle, offset, len).unwrap() {
            Some(bytes) => prop_assert_eq!(bytes.len(), expected),
            None => {
                prop_assert!(!here && expected > 0);
                let got = read(&vfs, handle, offset, len).unwrap();
                prop_assert_eq!(got.len(), expected);
                let asked = content.asked.lock().unwrap().clone();
                prop_assert_eq!(asked, [(FileIndex(0), offset, expected as u32)]);
            }
        }
    }
}

fn read(vfs: &Vfs, handle: Handle, offset: u64, len: u32) -> Result<Bytes, ContentError> {
    let answer = Arc::new(Mutex::new(None));
    let slot = Arc::clone(&answer);
    vfs.read(handle, offset, len, Box::new(move |result| *slot.lock().unwrap() = Some(result)));
    let answer = answer.lock().unwrap().take();
    answer.unwrap()
}

#[test]
fn an_answer_of_another_length_is_none() {
    for surplus in [-1, 1] {
        for here in [false, true] {
            let content = Arc::new(Bytewise { surplus, here, ..Bytewise::default() });
            let vfs = vfs(vec![file("f", 100)], content);
            let ino = find(&vfs, "f").unwrap().ino;
            let handle = vfs.open(ino).unwrap().handle;
            assert_eq!(vfs.read_cached(handle, 10, 50), Ok(None));
            assert!(matches!(read(&vfs, handle, 10, 50), Err(ContentError::Storage(_))));
        }
    }
}

#[test]
fn every_handle_is_closed_once() {
    let content = Arc::new(Bytewise::default());
    let vfs = vfs(vec![file("a", 1), file("b", 1)], Arc::clone(&content));
    let open = || content.open.lock().unwrap().len();
    let (a, b) = (find(&vfs, "a").unwrap().ino, find(&vfs, "b").unwrap().ino);
    let first = vfs.open(a).unwrap().handle;
    let second = vfs.open(a).unwrap().handle;
    assert_ne!(first, second, "each has a window of its own");
    vfs.open(b).unwrap();
    assert_eq!(open(), 3);
    vfs.close(first);
    vfs.close(first);
    assert_eq!(open(), 2);
    vfs.close_all();
    vfs.close(second);
    assert_eq!(open(), 0);
    vfs.open(b).unwrap();
    drop(vfs);
    assert_eq!(open(), 0);
}

#[test]
fn numbers_that_are_no_inodes_are_refused() {
    let vfs = vfs(vec![file("f", 1)], Arc::default());
    let past = find(&vfs, "f").unwrap().ino.0 + 1;
    for number in [0, past, u64::from(u32::MAX), u64::MAX] {
        let ino = Ino(number);
        assert_eq!(vfs.attr(ino), Err(FsError::NotFound));
        assert_eq!(look(&vfs, ino, b"f"), Err(FsError::NotFound));
        assert_eq!(list(&vfs, ino, 0), Err(FsError::NotFound));
        assert_eq!(vfs.open(ino), Err(FsError::NotFound));
        vfs.forget([(ino, 1)]);
    }
    assert_eq!(vfs.read_cached(Handle(0), 0, 1), Err(FsError::Invalid));
    assert_eq!(read(&vfs, Handle(0), 0, 1), Err(ContentError::Closed));
    vfs.close(Handle(0));
    assert_eq!(list(&vfs, Ino::ROOT, u64::MAX), Ok(Vec::new()));
}

#[test]
fn a_metainfo_without_a_date_shows_the_first() {
    for (created_at, expected) in [(None, 0), (Some(5), 5), (Some(253_402_300_799), 253_402_300_799)] {
        let metainfo = metainfo(vec![file("f", 1)], created_at);
        let vfs = over(metainfo, Arc::default());
        assert_eq!(vfs.attr(Ino::ROOT).unwrap().mtime_s, expected);
    }
}

#[test]
fn a_report_stays_the_same_while_it_is_open() {
    let vfs = vfs(vec![file("f", 500)], Arc::default());
    let status = find(&vfs, ".knot/status").unwrap();
    assert!(list(&vfs, Ino::ROOT, 0).unwrap().iter().all(|line| line.name != ".knot"));
    let opened = vfs.open(status.ino).unwrap();
    assert!(opened.live);
    let whole = vfs.read_cached(opened.handle, 0, 10_000).unwrap().unwrap();
    vfs.open(find(&vfs, "f").unwrap().ino).unwrap();
    let half = whole.len() as u64 / 2;
    let rest = vfs.read_cached(opened.handle, half, 10_000).unwrap().unwrap();
    assert_eq!(rest, whole[half as usize..]);
    assert_eq!(vfs.read_cached(opened.handle, u64::MAX, 10), Ok(Some(Bytes::new())));
    vfs.close(opened.handle);
    assert_eq!(vfs.read_cached(opened.handle, 0, 10), Err(FsError::Invalid));
    let again = vfs.open(status.ino).unwrap();
    let report = vfs.read_cached(again.handle, 0, 10_000).unwrap().unwrap();
    assert!(String::from_utf8_lossy(&report).contains("\"open_files\":1"));
}

#[test]
fn what_waits_for_a_torrent_is_an_empty_directory_that_nobody_may_remember() {
    let vfs = Vfs::pending(OWNER, "ab".into(), Box::new(|| "peers".into()), None);
    let attr = vfs.attr(Ino::ROOT).unwrap();
    assert_eq!((attr.kind, attr.valid_for, attr.links), (FileKind::Directory, Duration::ZERO, 2));
    let names = |from| list(&vfs, Ino::ROOT, from).unwrap().into_iter().map(|line| line.name).collect::<Vec<_>>();
    assert_eq!([names(0), names(1), names(2)], [vec![".", ".."], vec![".."], vec![]]);
    assert_eq!(vfs.lookup(Ino::ROOT, b"f"), Ok(Found { attr: None, name_valid_for: Duration::ZERO }));
    assert_eq!(vfs.xattr_names(Ino::ROOT).unwrap(), ["user.knot.info_id", "user.knot.waits_for"]);
    assert_eq!(vfs.xattr(Ino::ROOT, b"user.knot.waits_for").unwrap(), b"peers");
    assert_eq!(vfs.xattr(Ino::ROOT, b"user.knot.info_id").unwrap(), b"ab");
    assert_eq!(vfs.xattr(Ino::ROOT, b"user.other"), Err(FsError::NoAttribute));
    assert_eq!(vfs.attr(Ino(2000)), Err(FsError::NotFound));
    // Who has it open finds the torrent in it.
    let handle = vfs.open_dir(Ino::ROOT).unwrap().handle;
    let version =
        Version { metainfo: metainfo(vec![file("f", 1)], None), content: Arc::<Bytewise>::default(), release: None };
    vfs.switch(version).unwrap().unwrap().finish();
    assert_eq!(list_open(&vfs, handle, 0).unwrap()[2].name, "f");
    assert_eq!(vfs.xattr_names(Ino::ROOT).unwrap(), ["user.knot.info_id", "user.knot.info_hash", "user.knot.infohash"]);
}
