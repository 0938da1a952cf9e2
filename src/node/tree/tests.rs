use std::fs;
use std::ops::ControlFlow;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use super::*;
use crate::metainfo::{CreateError, CreateOptions, create, verify_source};
use crate::types::HashAlgorithm;

fn go_on(_: u64) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn options(name: &str) -> CreateOptions {
    let (name, algorithm) = (name.to_owned(), HashAlgorithm::Sha256Merkle);
    CreateOptions { name, algorithm, piece_length: None, created_at: None, peers: Vec::new(), version: None }
}

fn make(path: &Path) -> Result<Metainfo, CreateError> {
    let scan = scan(path, None).unwrap();
    create(&options(&scan.name), scan.entries, &scan.source, &go_on)
}

fn tree() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let at = |path: &str| dir.path().join("set").join(path);
    for sub in ["a/deep/er", "hollow/hollower", "a-b"] {
        fs::create_dir_all(at(sub)).unwrap();
    }
    for (path, data) in [("a/deep/er/f", "deep"), ("a-b/x", "dash"), ("a!", "bang"), ("new\nline ü", ""), ("zero", "")]
    {
        fs::write(at(path), data).unwrap();
    }
    fs::write(at("run"), vec![7; 100_000]).unwrap();
    fs::set_permissions(at("run"), fs::Permissions::from_mode(0o755)).unwrap();
    symlink("../run", at("a/link")).unwrap();
    dir
}

#[test]
fn a_tree_is_listed_in_the_order_of_its_paths() {
    let dir = tree();
    let scan = scan(&dir.path().join("set"), None).unwrap();
    let listed: Vec<_> = scan.entries.iter().map(|entry| entry.path.as_str()).collect();
    let expected = ["a!", "a-b/x", "a/deep/er/f", "a/link", "hollow/hollower", "new\nline ü", "run", "zero"];
    assert_eq!((&scan.name[..], &listed[..]), ("set", &expected[..]));
    let kinds: Vec<_> = scan.entries.iter().map(|entry| &entry.kind).collect();
    assert!(matches!(kinds[3], EntryKind::Symlink { target } if target == "../run"));
    assert_eq!(kinds[4], &EntryKind::Directory);
    assert_eq!(kinds[6], &EntryKind::File { length: 100_000, root: None, executable: true });
    assert!(scan.skipped.is_empty());
}

#[test]
fn the_same_tree_elsewhere_is_the_same_torrent() {
    let (one, two) = (tree(), tree());
    let made = make(&one.path().join("set")).unwrap();
    assert_eq!(made.info_hash(), make(&two.path().join("set")).unwrap().info_hash());

    let source = TreeSource::for_metainfo(&two.path().join("set"), &made).unwrap();
    assert!(verify_source(&made, &source, &go_on).unwrap().is_full());
    fs::write(two.path().join("set/run"), vec![8; 100_000]).unwrap();
    fs::remove_file(two.path().join("set/a!")).unwrap();
    let source = TreeSource::for_metainfo(&two.path().join("set"), &made).unwrap();
    let good = verify_source(&made, &source, &go_on).unwrap();
    // Pieces 0: a!, 1: a-b/x, 2: a/deep/er/f, 3 and 4: run.
    assert_eq!(good.iter().collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn names_come_from_the_path_or_the_caller() {
    let dir = tree();
    let set = dir.path().join("set");
    assert_eq!(scan(&set.join("."), None).unwrap().name, "set");
    assert_eq!(scan(&set.join("a/.."), None).unwrap().name, "set");
    assert_eq!(scan(&set, Some("other")).unwrap().name, "other");
    assert!(matches!(scan(&set, Some("../x")), Err(TreeError::Path(_))));
    assert!(matches!(scan(&set.join("none"), None), Err(TreeError::Io { .. })));

    for (name, expected) in [(None, "run"), (Some("walk"), "walk")] {
        let one = scan(&set.join("run"), name).unwrap();
        let made = create(&options(&one.name), one.entries, &one.source, &go_on).unwrap();
        assert!(made.is_single_file() && made.name() == expected);
        let source = TreeSource::for_metainfo(&set.join("run"), &made).unwrap();
        assert!(verify_source(&made, &source, &go_on).unwrap().is_full());
    }
    let made = make(&set).unwrap();
    assert!(matches!(TreeSource::for_metainfo(&set.join("run"), &made), Err(TreeError::NotADirectory { .. })));
}

#[test]
fn what_a_torrent_cannot_hold_is_skipped_or_named() {
    let dir = tree();
    let set = dir.path().join("set");
    let _socket = std::os::unix::net::UnixListener::bind(set.join("socket")).unwrap();
    let listed = scan(&set, None).unwrap();
    assert_eq!(listed.skipped, [set.canonicalize().unwrap().join("socket")]);
    assert!(listed.entries.iter().all(|entry| entry.path.as_str() != "socket"));
    assert!(matches!(scan(&set.join("socket"), None), Err(TreeError::Special { .. })));

    symlink("/etc/passwd", set.join("out")).unwrap();
    assert!(matches!(make(&set).unwrap_err(), CreateError::Symlink(_)));
    fs::remove_file(set.join("out")).unwrap();

    symlink(OsStr::from_bytes(b"\xff"), set.join("odd")).unwrap();
    assert!(matches!(scan(&set, None), Err(TreeError::NotUtf8 { .. })));
    fs::remove_file(set.join("odd")).unwrap();
    fs::write(set.join(OsStr::from_bytes(b"caf\xe9")), "").unwrap();
    assert!(matches!(scan(&set, None), Err(TreeError::NotUtf8 { .. })));
}

#[test]
fn change_is_noticed_by_the_guard() {
    let dir = tree();
    let path = dir.path().join("set/run");
    let listed = scan(&path, None).unwrap();
    let (source, file) = (&listed.source, FileIndex(0));
    let then = source.scanned(file).unwrap();
    let mut buf = Vec::new();
    assert_eq!(source.read_guarded(file, 5, 10, &mut buf).unwrap(), then);
    assert_eq!((&buf[..], source.guard(file).unwrap()), (&[7; 10][..], then));
    source.check_unchanged(file).unwrap();
    assert!(source.read_at(file, 99_999, &mut [0; 10]).is_err());
    assert!(source.read_guarded(file, 99_999, 10, &mut buf).is_err());
    assert_eq!(buf, [7; 10]);

    // Written to in place, with size and mtime as before.
    let mtime = fs::metadata(&path).unwrap().modified().unwrap();
    // Older kernels take ctime from a clock that ticks every few milliseconds.
    std::thread::sleep(std::time::Duration::from_millis(30));
    let handle = File::options().write(true).open(&path).unwrap();
    handle.write_all_at(&[8], 5).unwrap();
    handle.set_modified(mtime).unwrap();
    let now = source.read_guarded(file, 5, 10, &mut buf).unwrap();
    assert!(now.ctime_ns != then.ctime_ns && now.mtime_ns == then.mtime_ns);
    assert!(source.check_unchanged(file).is_err());

    // Replaced: the open file is still the old one, until it is opened again.
    fs::write(dir.path().join("new"), vec![9; 100_000]).unwrap();
    fs::rename(dir.path().join("new"), &path).unwrap();
    source.read_guarded(file, 5, 10, &mut buf).unwrap();
    assert_eq!(buf[20..22], [8, 7]);
    source.reopen(file);
    assert_ne!(source.read_guarded(file, 5, 10, &mut buf).unwrap().inode, then.inode);
    assert_eq!(buf[30..], [9; 10]);
}

#[test]
fn what_has_taken_the_place_of_a_file_is_not_read() {
    let dir = tree();
    let path = dir.path().join("set/run");
    let listed = scan(&path, None).unwrap();
    fs::rename(&path, dir.path().join("moved")).unwrap();
    assert!(listed.source.read_at(FileIndex(0), 0, &mut [0]).is_err());
    symlink(dir.path().join("moved"), &path).unwrap();
    assert!(listed.source.read_at(FileIndex(0), 0, &mut [0]).is_err());
    assert!(listed.source.guard(FileIndex(0)).is_err());
    fs::remove_file(&path).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    // A pipe without a writer would hold up whoever opens it to read.
    assert!(listed.source.read_at(FileIndex(0), 0, &mut [0]).is_err());
}

#[test]
fn many_more_files_than_are_kept_open_can_be_read() {
    let dir = tempfile::tempdir().unwrap();
    for at in 0..300 {
        fs::write(dir.path().join(format!("{at:03}")), [at as u8]).unwrap();
    }
    let listed = scan(dir.path(), Some("many")).unwrap();
    for _ in 0..2 {
        for at in 0..300 {
            let mut buf = [0];
            listed.source.read_at(FileIndex(at), 0, &mut buf).unwrap();
            assert_eq!(buf, [at as u8]);
        }
    }
    assert_eq!(listed.source.open.lock().unwrap().len(), MAX_OPEN.get());
}

/// A v1 torrent of files of one byte.
fn v1(paths: &[&[&[u8]]]) -> Metainfo {
    let string = |bytes: &[u8]| [format!("{}:", bytes.len()).as_bytes(), bytes].concat();
    let file = |path: &&[&[u8]]| {
        let names: Vec<u8> = path.iter().flat_map(|name| string(name)).collect();
        [b"d6:lengthi1e4:pathl".as_slice(), &names, b"ee"].concat()
    };
    let files: Vec<u8> = paths.iter().flat_map(file).collect();
    let head = b"d4:infod5:filesl".as_slice();
    let tail = b"e4:name1:n12:piece lengthi16384e6:pieces20:hhhhhhhhhhhhhhhhhhhhee";
    Metainfo::parse(&[head, &files, tail].concat()).unwrap()
}

#[test]
fn names_that_are_no_text_are_found_as_they_are_spelt_and_as_they_are_shown() {
    // Each is shown as what the one before is spelt as.
    let paths: [&[&[u8]]; 4] = [&[b"caf%E9"], &[b"caf\xe9"], &[b"d\xe9", b"x"], &[b"plain"]];
    let shown = ["caf%25E9", "caf%E9", "d%E9/x", "plain"];
    let metainfo = v1(&paths);
    let listed: Vec<_> = metainfo.entries().iter().map(|entry| entry.path.as_str()).collect();
    assert_eq!(listed, shown);
    for as_spelt in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        for (at, path) in paths.iter().enumerate() {
            let raw: PathBuf = path.iter().map(|name| OsStr::from_bytes(name)).collect();
            let path = root.join(if as_spelt { raw } else { shown[at].into() });
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, [at as u8]).unwrap();
        }
        let source = TreeSource::for_metainfo(&root, &metainfo).unwrap();
        for at in 0..paths.len() {
            let mut byte = [9];
            source.read_at(FileIndex(at as u32), 0, &mut byte).unwrap();
            assert_eq!(byte, [at as u8], "as spelt: {as_spelt}");
        }
    }
}

#[test]
fn names_never_lead_out_of_the_tree() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    fs::create_dir(root.join("set")).unwrap();
    fs::write(root.join("outside"), "x").unwrap();
    let absolute = root.join("outside").into_os_string().into_encoded_bytes();
    let paths: [&[&[u8]]; 3] = [&[b"../outside"], &[&absolute], &[b"a\0b"]];
    let source = TreeSource::for_metainfo(&root.join("set"), &v1(&paths)).unwrap();
    for at in 0..3 {
        assert!(source.path(FileIndex(at)).unwrap().starts_with(root.join("set")));
        assert!(source.guard(FileIndex(at)).is_err());
    }
}
