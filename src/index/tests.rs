use super::*;

fn piece(object: u32, piece: u32, blocks: Option<Vec<u8>>, leaves: Option<Vec<u8>>) -> PieceRecord {
    PieceRecord { object, piece, used_us: 7, bytes: 16384, written: Written::ThisBoot, blocks, leaves }
}

fn object(id: u32) -> ObjectRecord {
    let key = format!("file/{id}");
    ObjectRecord { id, key, length: u64::MAX >> 1, piece_length: 65536, info_hash: None }
}

#[test]
fn a_boot_is_counted_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index.db");
    let boots: Vec<u32> = ["a", "a", "b", "a"].iter().map(|id| Index::open(&path, id).unwrap().boot()).collect();
    assert_eq!(boots, [1, 1, 2, 3]);
}

#[test]
fn marks_of_another_boot_are_suspect_unless_synced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index.db");
    let mut index = Index::open(&path, "a").unwrap();
    let pieces = vec![piece(1, 0, None, None), piece(1, 1, Some(vec![0x80]), Some(vec![9; 64]))];
    let batch = Batch { objects: vec![object(1)], pieces, synced: vec![(1, 0)], ..Batch::default() };
    index.commit(&batch, Durability::Disk).unwrap();
    let written = |index: &Index| index.pieces(1).unwrap().iter().map(|piece| piece.written).collect::<Vec<_>>();
    assert_eq!(written(&index), [Written::Synced, Written::ThisBoot]);
    drop(index);
    assert_eq!(written(&Index::open(&path, "b").unwrap()), [Written::Synced, Written::Suspect]);
}

#[test]
fn leaves_stay_until_the_piece_is_complete() {
    let dir = tempfile::tempdir().unwrap();
    let mut index = Index::open(&dir.path().join("index.db"), "a").unwrap();
    let mut write = |record| {
        index.commit(&Batch { pieces: vec![record], ..Batch::default() }, Durability::Process).unwrap();
        index.leaves(1, 0).unwrap()
    };
    assert_eq!(write(piece(1, 0, Some(vec![0x80]), Some(vec![1; 64]))), Some(vec![1; 64]));
    assert_eq!(write(piece(1, 0, Some(vec![0xc0]), None)), Some(vec![1; 64]));
    assert_eq!(write(piece(1, 0, None, None)), None);
}

#[test]
fn objects_without_pieces_are_pruned() {
    let dir = tempfile::tempdir().unwrap();
    let mut index = Index::open(&dir.path().join("index.db"), "a").unwrap();
    let stamp = FileStamp { size: 1, mtime_ns: -2, ctime_ns: 3, inode: u64::MAX };
    let batch = Batch {
        objects: vec![object(3), object(5)],
        pieces: vec![piece(3, 0, None, None), piece(5, 0, None, None)],
        stamps: vec![(3, 0, stamp), (5, 0, stamp)],
        ..Batch::default()
    };
    index.commit(&batch, Durability::Process).unwrap();
    assert_eq!(index.stamps(5).unwrap(), [(0, stamp)]);
    let gone = Batch { forgotten: vec![(5, 0)], used: vec![(3, 0, 99)], ..Batch::default() };
    index.commit(&gone, Durability::Disk).unwrap();
    assert_eq!(index.prune_objects().unwrap(), (vec![object(5).key], 3));
    assert_eq!(index.objects().unwrap(), [object(3)]);
    assert_eq!(index.stamps(5).unwrap(), []);
    let mut seen = Vec::new();
    index.for_each_piece(|used, object, piece, bytes| seen.push((used, object, piece, bytes))).unwrap();
    assert_eq!(seen, [(99, 3, 0, 16384)]);
}

#[test]
fn torrents_seeds_and_mounts_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index.db");
    let info_hash = InfoHash::from_slice(&[1; 32]).unwrap();
    let unsigned = TorrentRecord { info_hash, info_id: InfoId::Hash(info_hash), metainfo: b"de".to_vec() };
    let sig = InfoId::Sig(crate::types::InfoSig([2; 64]));
    let signed = TorrentRecord { info_id: sig, ..unsigned.clone() };
    let stamp = FileStamp { size: 1, mtime_ns: 2, ctime_ns: 3, inode: 4 };
    let seed = SeedRecord {
        path: b"/a\xff".to_vec(),
        info_hash,
        pieces: None,
        stamps: vec![(0, stamp), (2, stamp)],
        synced: true,
    };
    let mount = MountRecord { mountpoint: b"/mnt".to_vec(), info_id: vec![1; 32] };
    {
        let mut index = Index::open(&path, "a").unwrap();
        index.put_torrent(&unsigned, 1).unwrap();
        index.put_torrent(&signed, 2).unwrap();
        index.put_seed(&SeedRecord { stamps: vec![(9, stamp)], ..seed.clone() }).unwrap();
        index.put_seed(&seed).unwrap();
        index.put_mount(&mount, 1).unwrap();
    }
    let mut index = Index::open(&path, "a").unwrap();
    assert_eq!(index.torrent(&InfoId::Hash(info_hash)).unwrap().as_ref(), Some(&signed));
    assert_eq!(index.torrent(&sig).unwrap().as_ref(), Some(&signed));
    assert_eq!(index.seed(b"/a\xff").unwrap(), Some(seed));
    assert_eq!(index.seed(b"/b").unwrap(), None);
    assert_eq!(index.seed_paths(&info_hash).unwrap(), [b"/a\xff"]);
    assert_eq!(index.mounts().unwrap(), [mount]);
    index.remove_mount(b"/mnt").unwrap();
    assert_eq!(index.mounts().unwrap(), []);
}

#[test]
fn a_file_that_is_no_index_is_called_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index.db");
    std::fs::write(&path, vec![b'x'; 8192]).unwrap();
    assert!(matches!(Index::open(&path, "a"), Err(IndexError::Damaged(_))));
}

#[test]
fn an_index_of_a_newer_knot_is_not_touched() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index.db");
    drop(Index::open(&path, "a").unwrap());
    Connection::open(&path).unwrap().pragma_update(None, "user_version", 999).unwrap();
    assert!(matches!(Index::open(&path, "a"), Err(IndexError::TooNew { .. })));
}
