//! Is what is mounted what was published?

use std::collections::BTreeMap;
use std::fs::{self, File, FileType};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::tree::noise;

/// Everything below `root` by its path in there, links not followed.
fn walk(root: &Path) -> BTreeMap<PathBuf, FileType> {
    let mut found = BTreeMap::new();
    let mut dirs = vec![root.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).unwrap().map(Result::unwrap) {
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                dirs.push(entry.path());
            }
            found.insert(entry.path().strip_prefix(root).unwrap().to_owned(), kind);
        }
    }
    found
}

/// Names, kinds, links, executable bits and every byte agree.
pub fn whole(source: &Path, copy: &Path) {
    let expected = walk(source);
    let got = walk(copy);
    assert_eq!(
        expected.keys().map(|path| path.as_os_str().as_bytes()).collect::<Vec<_>>(),
        got.keys().map(|path| path.as_os_str().as_bytes()).collect::<Vec<_>>()
    );
    for (path, kind) in &expected {
        assert_eq!(&got[path], kind, "{path:?}");
        let (here, there) = (source.join(path), copy.join(path));
        if kind.is_symlink() {
            assert_eq!(fs::read_link(&here).unwrap(), fs::read_link(&there).unwrap());
        } else if kind.is_file() {
            assert!(fs::read(&here).unwrap() == fs::read(&there).unwrap(), "{path:?} differs");
            let executable = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o100;
            assert_eq!(executable(&here), executable(&there), "{path:?}");
        }
    }
}

/// Names and every byte of files agree, of those files that are in both or should be: a v1 torrent knows no empty
/// directories.
pub fn files(source: &Path, copy: &Path) {
    let of = |root: &Path| walk(root).into_iter().filter(|(_, kind)| kind.is_file()).map(|(path, _)| path);
    assert_eq!(of(source).collect::<Vec<_>>(), of(copy).collect::<Vec<_>>());
    for path in of(source) {
        assert!(fs::read(source.join(&path)).unwrap() == fs::read(copy.join(&path)).unwrap(), "{path:?} differs");
    }
}

/// `reads` reads of any length at any place agree; the same for the same seed.
pub fn at_random(source: &Path, copy: &Path, seed: u64, reads: usize) {
    let files: Vec<(PathBuf, u64)> = walk(source)
        .into_iter()
        .filter(|(_, kind)| kind.is_file())
        .map(|(path, _)| (path.clone(), fs::metadata(source.join(&path)).unwrap().len()))
        .filter(|(_, len)| *len > 0)
        .collect();
    let dice = noise(seed, reads * 12);
    for throw in dice.chunks_exact(12) {
        let throw = |at: usize| u64::from(u32::from_le_bytes(throw[at..at + 4].try_into().unwrap()));
        let (path, len) = &files[throw(0) as usize % files.len()];
        let at = throw(4) % len;
        let mut expected = vec![0; (throw(8) % 100_000).min(len - at) as usize];
        let mut got = expected.clone();
        File::open(source.join(path)).unwrap().read_exact_at(&mut expected, at).unwrap();
        File::open(copy.join(path)).unwrap().read_exact_at(&mut got, at).unwrap();
        assert!(expected == got, "{path:?} at {at}, {} bytes", got.len());
    }
}
