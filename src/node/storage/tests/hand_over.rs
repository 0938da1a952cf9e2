//! Moving what is complete out of the cache.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::*;

/// Moves every file below `to`.
fn move_out(fixture: &Fixture, torrent: &TorrentStorage, to: &Path) {
    fs::create_dir(to).unwrap();
    let mut files = torrent.hand_over().unwrap();
    for (entry, at) in fixture.metainfo.entries().iter().zip(0..) {
        files.move_file(FileIndex(at), &to.join(entry.path.as_str())).unwrap();
    }
    files.finish(to).unwrap();
}

fn user_file(fixture: &Fixture, to: &Path, file: usize) -> PathBuf {
    to.join(fixture.metainfo.entries()[file].path.as_str())
}

#[test]
fn what_is_complete_moves_and_is_served_where_it_went() {
    for algorithm in HashAlgorithm::ALL {
        let fixture = Fixture::new(algorithm, &awkward_sizes());
        let to = fixture.dir.path().join("got");
        {
            let (store, torrent) = fixture.open();
            fixture.fill(&torrent);
            fixture.lost();
            let verified = torrent.verified();
            move_out(&fixture, &torrent, &to);
            for (content, file) in fixture.files.iter().zip(0..) {
                let path = user_file(&fixture, &to, file);
                assert!(&fs::read(&path).unwrap() == content, "file {file}");
                let plain = fixture.dir.path().join("plain");
                fs::File::create(&plain).unwrap();
                let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
                assert_eq!(mode(&path), mode(&plain));
            }
            assert_eq!((fixture.missing(&torrent), fixture.bytes_on_disk(), store.used_bytes()), (0, 0, 0));
            assert!(torrent.is_complete());
            assert_eq!(torrent.verified(), verified);
            assert_eq!(fixture.lost(), []);
        }
        // The next process knows where they are, and hashes nothing.
        let (_store, torrent) = fixture.open();
        assert!(torrent.is_in_place() && torrent.is_complete());
        assert_eq!(fixture.missing(&torrent), 0);
    }
}

#[test]
fn what_the_user_changes_is_not_served_and_fetched_into_a_file_of_its_own() {
    for algorithm in [HashAlgorithm::Sha1, HashAlgorithm::Sha256Merkle] {
        let fixture = Fixture::new(algorithm, &[3 * PIECE as usize, 5]);
        let to = fixture.dir.path().join("got");
        let (_store, torrent) = fixture.open();
        fixture.fill(&torrent);
        move_out(&fixture, &torrent, &to);
        let changed = vec![b'x'; 3 * PIECE as usize];
        fs::write(user_file(&fixture, &to, 0), &changed).unwrap();
        assert!(fixture.missing(&torrent) > 0);
        fixture.fill(&torrent);
        assert_eq!(fixture.missing(&torrent), 0);
        assert!(fs::read(user_file(&fixture, &to, 0)).unwrap() == changed, "wrote to a file of the user");
    }
}

#[test]
fn a_move_that_is_broken_off_goes_back() {
    let fixture = Fixture::new(HashAlgorithm::Blake3, &[2 * PIECE as usize, 7]);
    let (_store, torrent) = fixture.open();
    fixture.fill(&torrent);
    let to = fixture.dir.path().join("file");
    {
        let mut files = torrent.hand_over().unwrap();
        files.move_file(FileIndex(0), &to).unwrap();
        assert!(files.move_file(FileIndex(1), &to).is_err(), "it exists");
    }
    assert!(!to.exists());
    assert_eq!(fixture.missing(&torrent), 0);
    assert!(!torrent.is_in_place());
}

#[test]
fn what_is_not_all_here_or_used_by_another_torrent_stays() {
    let fixture = Fixture::new(HashAlgorithm::Sha256Merkle, &[2 * PIECE as usize]);
    let (store, torrent) = fixture.open();
    fixture.fill_piece(&torrent, PieceIndex(0));
    assert!(torrent.hand_over().is_none());
    fixture.fill(&torrent);
    let other = store.torrent(fixture.metainfo.clone(), Source::Cache).unwrap();
    assert!(torrent.hand_over().is_none());
    assert_eq!(fixture.missing(&other), 0);
}

#[test]
fn after_a_power_cut_what_was_moved_is_not_trusted() {
    let fixture = Fixture::new(HashAlgorithm::Sha256, &[PIECE as usize]);
    let to = fixture.dir.path().join("got");
    {
        let (_store, torrent) = fixture.open();
        fixture.fill(&torrent);
        move_out(&fixture, &torrent, &to);
    }
    let (_store, torrent) = fixture.open_with(ROOMY, "another boot");
    assert!(!torrent.is_in_place());
    assert_eq!(fixture.missing(&torrent), u64::from(PIECE));
}
