use std::os::unix::fs::MetadataExt;

use super::*;

const ID: FileId = FileId { object: 1, file: 0, generation: 0 };

fn cache() -> (tempfile::TempDir, FileCache) {
    let dir = tempfile::tempdir().unwrap();
    let cache = FileCache::open(dir.path().join("cache"), 32).unwrap();
    (dir, cache)
}

#[test]
fn files_are_sparse_and_holes_give_room_back() {
    let (dir, cache) = cache();
    let file = cache.create(ID, 8 << 20, || "ab/cd".into()).unwrap();
    let path = dir.path().join("cache/ab/cd");
    let on_disk = || fs::metadata(&path).unwrap().blocks() * 512;
    assert_eq!((fs::metadata(&path).unwrap().len(), on_disk()), (8 << 20, 0));
    cache.write(&file, &mut [IoSlice::new(&[7; 65536])], 1 << 20).unwrap();
    assert_eq!(on_disk(), 65536);
    file.punch(1 << 20, 65536).unwrap();
    assert_eq!(on_disk(), 0);
    let mut buf = vec![1];
    file.read_into(&mut buf, 3, 1 << 20).unwrap();
    assert_eq!(buf, [1, 0, 0, 0]);
}

#[test]
fn a_read_beyond_the_end_is_an_error_and_leaves_nothing() {
    let (_dir, cache) = cache();
    let file = cache.create(ID, 10, || "a".into()).unwrap();
    let mut buf = vec![1];
    assert_eq!(file.read_into(&mut buf, 8, 5).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    assert_eq!(buf, [1]);
    assert_eq!(file.read_nowait(1, 10).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
}

#[test]
fn what_was_just_written_needs_no_disk() {
    let (_dir, cache) = cache();
    let file = cache.create(ID, 65536, || "a".into()).unwrap();
    cache.write(&file, &mut [IoSlice::new(&[3; 65536])], 0).unwrap();
    // Filesystems without RWF_NOWAIT answer that they would block.
    assert!(matches!(file.read_nowait(16, 40).unwrap(), Nowait::WouldBlock | Nowait::Read(_)));
    if let Nowait::Read(bytes) = file.read_nowait(16, 40).unwrap() {
        assert_eq!(bytes, [3; 16]);
    }
}

#[test]
fn open_files_are_bounded_and_reopened() {
    let (_dir, cache) = cache();
    for file in 0..200 {
        let id = FileId { object: 2, file, generation: 0 };
        let handle = cache.create(id, 1, || format!("x/{file}").into()).unwrap();
        cache.write(&handle, &mut [IoSlice::new(&[file as u8])], 0).unwrap();
    }
    let open: usize = cache.shards.iter().map(|shard| shard.lock().unwrap().len()).sum();
    assert!(open <= 32, "{open} files open");
    for file in 0..200 {
        let handle = cache.existing(FileId { object: 2, file, generation: 0 }, || format!("x/{file}").into()).unwrap();
        let mut buf = Vec::new();
        handle.read_into(&mut buf, 1, 0).unwrap();
        assert_eq!(buf, [file as u8]);
    }
    cache.close_object(2);
    assert!(cache.shards.iter().all(|shard| shard.lock().unwrap().is_empty()));
}

#[test]
fn a_change_shows_in_the_stamp() {
    let (dir, cache) = cache();
    let file = cache.create(ID, 10, || "a".into()).unwrap();
    let before = file.stamp().unwrap();
    assert_eq!(file.stamp().unwrap(), before);
    fs::write(dir.path().join("cache/b"), [0; 10]).unwrap();
    fs::rename(dir.path().join("cache/b"), dir.path().join("cache/a")).unwrap();
    cache.close(ID);
    let after = cache.existing(ID, || "a".into()).unwrap().stamp().unwrap();
    assert_eq!(after.size, before.size);
    assert_ne!(after.inode, before.inode);
}

#[test]
fn removed_and_cleared_files_are_gone() {
    let (_dir, cache) = cache();
    cache.create(ID, 10, || "a".into()).unwrap();
    cache.remove(ID, Path::new("a")).unwrap();
    cache.remove(ID, Path::new("a")).unwrap();
    assert_eq!(cache.existing(ID, || "a".into()).unwrap_err().kind(), io::ErrorKind::NotFound);
    cache.create(ID, 10, || "d/a".into()).unwrap();
    cache.clear().unwrap();
    assert_eq!(cache.existing(ID, || "d/a".into()).unwrap_err().kind(), io::ErrorKind::NotFound);
    assert_eq!(cache.create(ID, 10, || "d/a".into()).unwrap().stamp().unwrap().size, 10);
}

#[test]
fn the_reserve_can_be_taken_and_held_again() {
    let (dir, cache) = cache();
    let path = dir.path().join("reserve");
    let reserve = Reserve::hold(&path);
    assert_eq!(fs::metadata(&path).unwrap().blocks() * 512, 4 << 20);
    reserve.release().unwrap();
    assert_eq!(fs::metadata(&path).unwrap().blocks(), 0);
    reserve.refill();
    assert_eq!(fs::metadata(&path).unwrap().blocks() * 512, 4 << 20);
    let space = cache.space().unwrap();
    assert!(space.free > 0 && space.total >= space.free);
}
