//! Torrents as programs use them.

use std::io::SeekFrom;

use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};

use super::*;
use crate::node::TorrentProgress;

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_read_and_sought_in_while_it_arrives() {
    let dir = tempfile::tempdir().unwrap();
    let (bytes, metainfo) = dataset(dir.path(), 5 * MIB + 77, HashAlgorithm::Sha256Merkle);
    let (seeder, reader) = (node(&dir.path().join("1")).await, node(&dir.path().join("2")).await);
    let _seeded = seed(&seeder, dir.path(), &metainfo).await;
    let name = TorrentName::InfoId(metainfo.info_id().to_string());
    let torrent = reader.handle().open(add(name, seeder.handle().listen_addrs()), mpsc::channel(1).0).await.unwrap();
    assert!(torrent.open("nothing").is_err());
    let mut file = torrent.open("data.bin").unwrap();
    assert_eq!(file.length(), bytes.len() as u64);

    // A few bytes in the middle cost about as much.
    file.seek(SeekFrom::Start(3 * MIB as u64)).await.unwrap();
    let mut part = [0; 1000];
    file.read_exact(&mut part).await.unwrap();
    assert!(part == bytes[3 * MIB..3 * MIB + 1000]);
    let before = reader.handle().progress(&torrent).await;
    assert!((1..=32 << 10).contains(&before.verified_bytes) && before.peers > 0, "{before:?}");

    // Seeking back and forth gives what is there, as any file does.
    for at in [0, 5 * MIB + 70, 3 * MIB + 500, 3 * MIB + 510, MIB] {
        file.seek(SeekFrom::Start(at as u64)).await.unwrap();
        let mut some = Vec::new();
        (&mut file).take(100).read_to_end(&mut some).await.unwrap();
        assert!(some == bytes[at..bytes.len().min(at + 100)], "at {at}");
    }
    assert_eq!(file.seek(SeekFrom::End(-7)).await.unwrap(), bytes.len() as u64 - 7);
    assert!(file.seek(SeekFrom::Current(-(6 * MIB as i64))).await.is_err());
    assert_eq!(file.seek(SeekFrom::End(10)).await.unwrap(), bytes.len() as u64 + 10);
    assert_eq!(file.read(&mut part).await.unwrap(), 0);
    file.rewind().await.unwrap();
    let mut all = Vec::new();
    file.read_to_end(&mut all).await.unwrap();
    assert!(all == bytes);
    let done = reader.handle().next_progress(&torrent, &TorrentProgress::default()).await;
    assert_eq!((done.verified_bytes, done.total_bytes), (bytes.len() as u64, bytes.len() as u64));
    seeder.shutdown().await;
    reader.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pieces_come_in_order_whatever_files_they_span() {
    for algorithm in HashAlgorithm::ALL {
        let dir = tempfile::tempdir().unwrap();
        let (bytes, metainfo) = dataset(dir.path(), 3 * MIB + 77, algorithm);
        let (seeder, reader) = (node(&dir.path().join("1")).await, node(&dir.path().join("2")).await);
        let _seeded = seed(&seeder, dir.path(), &metainfo).await;
        let name = TorrentName::InfoId(metainfo.info_id().to_string());
        let torrent =
            reader.handle().open(add(name, seeder.handle().listen_addrs()), mpsc::channel(1).0).await.unwrap();
        let (mut pieces, mut all, mut next) = (torrent.pieces(), Vec::new(), 0);
        while let Some(piece) = pieces.next_piece().await {
            let (index, piece) = piece.unwrap();
            assert_eq!((index.0, piece.len()), (next, torrent.metainfo.layout().piece_len(index) as usize));
            next += 1;
            all.extend_from_slice(&piece);
        }
        assert!(all == bytes && next == torrent.metainfo.piece_count(), "{algorithm}");
        seeder.shutdown().await;
        reader.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_nobody_answers_times_out_and_a_later_one_succeeds() {
    let dir = tempfile::tempdir().unwrap();
    let (bytes, metainfo) = dataset(dir.path(), MIB, HashAlgorithm::Blake3);
    let reader = node(&dir.path().join("2")).await;
    let name = TorrentName::Metainfo(hex::encode(metainfo.bytes()));
    let request = AddRequest { read_timeout: Duration::from_millis(300), ..add(name.clone(), Vec::new()) };
    let torrent = reader.handle().open(request, mpsc::channel(1).0).await.unwrap();
    let mut file = torrent.open("data.bin").unwrap();
    let error = file.read_u8().await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut, "{error}");
    let seeder = node(&dir.path().join("1")).await;
    let _seeded = seed(&seeder, dir.path(), &metainfo).await;
    let _hint = reader.handle().open(add(name, seeder.handle().listen_addrs()), mpsc::channel(1).0).await.unwrap();
    for _ in 0..200 {
        if file.read_u8().await.is_ok_and(|byte| byte == bytes[0]) {
            seeder.shutdown().await;
            reader.shutdown().await;
            return;
        }
    }
    panic!("no read succeeded though a seeder is there");
}

/// Somebody reads the first byte of a file: how many bytes are here then, once there are at least `wanted`.
async fn begin(name: &str, wanted: u64) -> u64 {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join(name), vec![7; 5 * MIB]).unwrap();
    let (seeder, reader) = (node(&dir.path().join("1")).await, node(&dir.path().join("2")).await);
    let request = SeedRequest { path: source, torrent: None, discovery: None, peers: Vec::new() };
    let seeded = seeder.handle().seed(request, mpsc::channel(1).0).await.unwrap();
    let id = TorrentName::InfoId(seeded.info.info_id.clone());
    let torrent = reader.handle().open(add(id, seeder.handle().listen_addrs()), mpsc::channel(1).0).await.unwrap();
    let mut file = torrent.open(name).unwrap();
    assert_eq!(file.read_u8().await.unwrap(), 7);
    for _ in 0..200 {
        if reader.handle().progress(&torrent).await.verified_bytes >= wanted {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let verified = reader.handle().progress(&torrent).await.verified_bytes;
    seeder.shutdown().await;
    reader.shutdown().await;
    verified
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ends_of_a_film_come_when_it_is_begun() {
    const ENDS: u64 = (256 + 512) << 10;
    assert_eq!(begin("film.MKV", ENDS).await, ENDS);
    assert_eq!(begin("table.csv", 16 << 10).await, 16 << 10);
}
