use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt as _;

use super::*;
use crate::metainfo::testing::options;
use crate::metainfo::{TorrentOptions, create, create_torrent};
use crate::types::HashAlgorithm;

/// A published folder and a store, on a filesystem without reflinks (or with them: then nothing is linked).
struct World {
    dir: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let world = Self { dir: tempfile::tempdir().unwrap() };
        fs::create_dir_all(world.path().join("sub/empty")).unwrap();
        fs::create_dir(world.store()).unwrap();
        world.write("large", &[1; 100_000]);
        world.write("sub/small", b"small");
        world.write("sub/nothing", b"");
        world.write("run", b"#!/bin/sh\n");
        fs::set_permissions(world.path().join("run"), Permissions::from_mode(0o700)).unwrap();
        symlink("sub/small", world.path().join("link")).unwrap();
        world
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("t")
    }

    fn store(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.path().join(name), bytes).unwrap();
    }

    fn hashed(&self) -> Hashed {
        let scan = tree::scan(&self.path(), Some("t")).unwrap();
        let files = (0..scan.entries.len() as u32).map(FileIndex);
        let stamps = files.filter_map(|file| Some((file.0, scan.source.scanned(file)?))).collect();
        let options = options(HashAlgorithm::Sha256Merkle, 32 << 10);
        let metainfo = create(&options, scan.entries, &scan.source, &|_| ControlFlow::Continue(())).unwrap();
        Hashed { path: self.path(), metainfo, stamps }
    }

    fn keep(&self, hashed: &Hashed, previous: &[Previous<'_>], mode: Snapshot) -> Result<Kept, ApiError> {
        let Hashed { path, metainfo, stamps } = hashed;
        keep(&self.store(), &Version { path, metainfo, stamps }, previous, mode)
    }

    fn snapshots(&self) -> Vec<String> {
        let entries =
            fs::read_dir(self.store().join(DIR)).map(|entries| entries.map(Result::unwrap).collect::<Vec<_>>());
        let names = entries.unwrap_or_default().into_iter().map(|entry| entry.file_name().into_string().unwrap());
        names.collect()
    }

    /// Whether this filesystem has reflinks: then `auto` does what `copy` does.
    fn has_reflinks(&self) -> bool {
        let probe =
            |name| File::options().read(true).write(true).create(true).truncate(true).open(self.dir.path().join(name));
        let (mut from, to) = (probe("from").unwrap(), probe("to").unwrap());
        io::Write::write_all(&mut from, &[1; 9000]).unwrap();
        rustix::fs::ioctl_ficlone(to, from).is_ok()
    }
}

struct Hashed {
    path: PathBuf,
    metainfo: Metainfo,
    stamps: Vec<(u32, FileStamp)>,
}

/// What is at `root`: links, directories, and files with their bytes.
fn content(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let entries = walkdir::WalkDir::new(root).min_depth(1).into_iter().map(Result::unwrap);
    let read = |entry: walkdir::DirEntry| {
        let bytes = match entry.file_type() {
            kind if kind.is_file() => fs::read(entry.path()).unwrap(),
            kind if kind.is_symlink() => fs::read_link(entry.path()).unwrap().into_os_string().into_encoded_bytes(),
            _ => b"directory".to_vec(),
        };
        (entry.path().strip_prefix(root).unwrap().to_owned(), bytes)
    };
    entries.map(read).collect()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

#[test]
fn a_copy_has_everything_and_stays_when_the_folder_changes() {
    let world = World::new();
    let (hashed, before) = (world.hashed(), content(&world.path()));
    let kept = world.keep(&hashed, &[], Snapshot::Copy).unwrap();
    let place = world.store().join(DIR).join(hashed.metainfo.info_hash().to_string());
    assert_eq!((&kept.path, &kept.note), (&Some(place.join("t")), &None));
    let numbers = |stamps: &[(u32, FileStamp)]| stamps.iter().map(|(file, _)| *file).collect::<Vec<_>>();
    assert_eq!(numbers(&kept.stamps), numbers(&hashed.stamps));
    assert_eq!(kept.stamps[0].1, stamp_of(&fs::metadata(place.join("t/large")).unwrap()));
    world.write("large", b"other");
    fs::remove_file(world.path().join("run")).unwrap();
    assert_eq!(content(&place.join("t")), before);
    assert_eq!(mode(&place.join("t/large")), 0o444);
    assert_eq!(mode(&place.join("t/run")), 0o555);
    assert_eq!(mode(&place), 0o700, "who could not read the folder cannot read this");
    assert_eq!(find(&world.store(), &hashed.metainfo), kept.path);
    // What is there is whole, so it is not made again; the changed folder does not matter.
    let again = world.keep(&hashed, &[], Snapshot::Copy).unwrap();
    assert_eq!((again.path, again.stamps), (kept.path, vec![]), "but what lies there is not trusted for ever");
}

#[test]
fn what_is_kept_verifies_also_in_the_form_without_roots() {
    let world = World::new();
    let scan = tree::scan(&world.path(), None).unwrap();
    let torrent = TorrentOptions {
        name: "other name".into(),
        form: crate::metainfo::Form::V1,
        piece_length: Some(16 << 10),
        created_at: None,
        is_private: false,
        hints: Default::default(),
    };
    let metainfo = create_torrent(&torrent, &scan.entries, &scan.source, &|_| ControlFlow::Continue(())).unwrap();
    let files = TreeSource::for_metainfo(&world.path(), &metainfo).unwrap();
    let stamps = (0..metainfo.entries().len() as u32)
        .filter_map(|file| Some((file, files.guard(FileIndex(file)).ok()?)))
        .collect();
    let hashed = Hashed { path: world.path(), metainfo, stamps };
    let kept = world.keep(&hashed, &[], Snapshot::Copy).unwrap().path.unwrap();
    assert!(kept.ends_with("other name"));
    let files = TreeSource::for_metainfo(&kept, &hashed.metainfo).unwrap();
    let good = crate::metainfo::verify_source(&hashed.metainfo, &files, &|_| ControlFlow::Continue(())).unwrap();
    assert!(good.is_full());
}

#[test]
fn a_single_file_is_kept_as_a_file() {
    let world = World::new();
    let path = world.path().join("large");
    let scan = tree::scan(&path, Some("t")).unwrap();
    let stamps = vec![(0, scan.source.scanned(FileIndex(0)).unwrap())];
    let options = options(HashAlgorithm::Blake3, 32 << 10);
    let metainfo = create(&options, scan.entries, &scan.source, &|_| ControlFlow::Continue(())).unwrap();
    let kept = world.keep(&Hashed { path, metainfo, stamps }, &[], Snapshot::Copy).unwrap().path.unwrap();
    assert_eq!(fs::read(&kept).unwrap(), [1; 100_000]);
    assert!(kept.ends_with("t"));
}

#[test]
fn files_that_did_not_change_are_shared_with_the_version_before() {
    let world = World::new();
    let first = world.hashed();
    let first_kept = world.keep(&first, &[], Snapshot::Copy).unwrap().path.unwrap();
    fs::create_dir(world.path().join("moved")).unwrap();
    fs::rename(world.path().join("large"), world.path().join("moved/large")).unwrap();
    world.write("sub/small", b"other");
    // The same bytes, but an inode has one mode.
    fs::set_permissions(world.path().join("run"), Permissions::from_mode(0o600)).unwrap();
    let second = world.hashed();
    let previous = [Previous { path: &first_kept, metainfo: &first.metainfo }];
    let second_kept = world.keep(&second, &previous, Snapshot::Copy).unwrap().path.unwrap();
    assert_eq!(content(&second_kept), content(&world.path()));
    assert_eq!(fs::read(first_kept.join("sub/small")).unwrap(), b"small");
    assert_eq!((mode(&first_kept.join("run")), mode(&second_kept.join("run"))), (0o555, 0o444));
    let inode = |path: PathBuf| fs::metadata(path).unwrap().ino();
    let is_shared = inode(first_kept.join("large")) == inode(second_kept.join("moved/large"));
    assert_eq!(is_shared, !world.has_reflinks(), "reflinks take no room either");
    assert_ne!(inode(first_kept.join("run")), inode(second_kept.join("run")));
    // A shared file outlives the first version.
    fs::remove_dir_all(world.store().join(DIR).join(first.metainfo.info_hash().to_string())).unwrap();
    assert_eq!(content(&second_kept), content(&world.path()));
}

#[test]
fn auto_without_reflinks_keeps_nothing_and_says_so_and_none_says_nothing() {
    let world = World::new();
    let hashed = world.hashed();
    assert_eq!(world.keep(&hashed, &[], Snapshot::None).unwrap(), Kept::default());
    let kept = world.keep(&hashed, &[], Snapshot::Auto).unwrap();
    if world.has_reflinks() {
        assert_eq!((content(&kept.path.unwrap()), kept.note), (content(&world.path()), None));
        return;
    }
    assert_eq!(kept.path, None);
    assert!(kept.note.as_ref().unwrap().contains("reflinks") && kept.note.unwrap().contains("--snapshot copy"));
    assert!(world.snapshots().is_empty());
    assert_eq!(find(&world.store(), &hashed.metainfo), None);
}

#[test]
fn a_file_that_changed_since_it_was_hashed_is_not_kept() {
    type Change = fn(&World);
    let changes: [Change; 4] = [
        |world| world.write("sub/small", b"smalL"),
        |world| fs::remove_file(world.path().join("sub/small")).unwrap(),
        |world| fs::rename(world.path().join("run"), world.path().join("sub/small")).unwrap(),
        |world| {
            fs::remove_file(world.path().join("sub/small")).unwrap();
            symlink("../large", world.path().join("sub/small")).unwrap();
        },
    ];
    for change in changes {
        let world = World::new();
        let hashed = world.hashed();
        change(&world);
        let refused = world.keep(&hashed, &[], Snapshot::Copy).unwrap_err();
        assert!(refused.message.contains("sub/small") || refused.message.contains("run"), "{refused}");
        assert!(world.snapshots().is_empty());
    }
}

#[test]
fn an_interrupted_snapshot_is_cleared_away_by_the_next() {
    let world = World::new();
    let hashed = world.hashed();
    let (hash, other) = (hashed.metainfo.info_hash().to_string(), "ab".repeat(32));
    for name in [&hash, &other] {
        let partial = world.store().join(DIR).join(name).with_extension(PARTIAL);
        fs::create_dir_all(partial.join("t")).unwrap();
        fs::write(partial.join("t/large"), "half").unwrap();
    }
    assert_eq!(find(&world.store(), &hashed.metainfo), None);
    let kept = world.keep(&hashed, &[], Snapshot::Copy).unwrap();
    assert_eq!(world.snapshots(), [hash]);
    assert_eq!(content(&kept.path.unwrap()), content(&world.path()));
}
