//! What is damaged, and how: nothing wrong is ever read, and everything can be stored again.

use std::fs;
use std::path::Path;

use super::*;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Damage {
    Truncate,
    Empty,
    Corrupt,
    Remove,
    Replace,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Location {
    CacheFile,
    Index,
    Log,
}

const DAMAGES: [Damage; 5] = [Damage::Truncate, Damage::Empty, Damage::Corrupt, Damage::Remove, Damage::Replace];

fn damage(path: &Path, damage: Damage) {
    let Ok(mut content) = fs::read(path) else { return };
    match damage {
        Damage::Truncate => {
            fs::OpenOptions::new().write(true).open(path).unwrap().set_len(content.len() as u64 / 2).unwrap()
        }
        Damage::Empty => fs::OpenOptions::new().write(true).open(path).unwrap().set_len(0).unwrap(),
        Damage::Corrupt => {
            content.iter_mut().step_by(700).for_each(|byte| *byte ^= 0x55);
            fs::write(path, content).unwrap();
        }
        Damage::Remove => fs::remove_file(path).unwrap(),
        Damage::Replace => {
            let other = path.with_extension("other");
            fs::write(&other, vec![0x5a; content.len()]).unwrap();
            fs::rename(other, path).unwrap();
        }
    }
}

fn damage_at(fixture: &Fixture, location: Location, how: Damage) {
    match location {
        Location::CacheFile => fixture.cache_files().iter().for_each(|path| damage(path, how)),
        Location::Index => damage(&fixture.dir.path().join("index.db"), how),
        Location::Log => damage(&fixture.dir.path().join("index.db-wal"), how),
    }
}

fn survives(algorithm: HashAlgorithm, location: Location, how: Damage, killed: bool, boot: &str) {
    let fixture = Fixture::new(algorithm, &[1, 40_000, 100_000, PIECE as usize]);
    let (store, torrent) = fixture.open();
    fixture.fill(&torrent);
    store.flush().unwrap();
    if killed {
        // The index is copied as the killed process left it, since this one still has it open.
        let copy = tempfile::tempdir().unwrap();
        for name in ["index.db", "index.db-wal"] {
            fs::copy(fixture.dir.path().join(name), copy.path().join(name)).unwrap();
        }
        drop((torrent, store));
        for name in ["index.db", "index.db-wal"] {
            fs::copy(copy.path().join(name), fixture.dir.path().join(name)).unwrap();
        }
    } else {
        drop((torrent, store));
    }
    damage_at(&fixture, location, how);
    let (store, torrent) = fixture.open_with(ROOMY, boot);
    let missing = fixture.missing(&torrent);
    if location == Location::CacheFile {
        assert!(missing > 0, "the damage was not noticed");
    }
    // What is missing in the end is known to be missing.
    assert_eq!(fixture.missing(&torrent), missing);
    fixture.fill(&torrent);
    assert_eq!(fixture.missing(&torrent), 0);
    drop((torrent, store));
    let (_store, torrent) = fixture.open_with(ROOMY, boot);
    assert_eq!(fixture.missing(&torrent), 0);
}

#[test]
fn damaged_cache_files_are_noticed() {
    for algorithm in [HashAlgorithm::Sha1, HashAlgorithm::Sha256Merkle] {
        for how in DAMAGES {
            for (killed, boot) in [(false, "boot"), (true, "boot"), (true, "another")] {
                survives(algorithm, Location::CacheFile, how, killed, boot);
            }
        }
    }
}

#[test]
fn a_damaged_index_costs_the_cache_at_most() {
    for how in DAMAGES {
        for killed in [false, true] {
            survives(HashAlgorithm::Blake3, Location::Index, how, killed, "boot");
        }
    }
}

#[test]
fn a_damaged_log_costs_the_last_marks_at_most() {
    for how in DAMAGES {
        survives(HashAlgorithm::Sha256, Location::Log, how, true, "boot");
    }
}

#[test]
fn a_damaged_index_is_kept_aside_and_reported() {
    let fixture = Fixture::new(HashAlgorithm::Blake3, &[100_000]);
    let (store, torrent) = fixture.open();
    fixture.fill(&torrent);
    drop((torrent, store));
    damage(&fixture.dir.path().join("index.db"), Damage::Replace);
    let (store, torrent) = fixture.open();
    assert!(fixture.warnings()[0].contains("index.db.damaged"), "{:?}", fixture.warnings());
    assert!(fixture.dir.path().join("index.db.damaged").exists());
    assert_eq!((store.used_bytes(), fixture.bytes_on_disk()), (0, 0));
    assert_eq!(fixture.missing(&torrent), 100_000);
}

#[test]
fn a_file_that_goes_while_it_is_used_is_fetched_again() {
    for (algorithm, how) in [(HashAlgorithm::Blake3, Damage::Empty), (HashAlgorithm::Sha1, Damage::Truncate)] {
        let fixture = Fixture::new(algorithm, &[4 * PIECE as usize]);
        let (_store, torrent) = fixture.open();
        fixture.fill(&torrent);
        damage(&fixture.cache_files()[0], how);
        assert!(fixture.missing(&torrent) > 0);
        assert!(!fixture.lost().is_empty());
        fixture.fill(&torrent);
        assert_eq!(fixture.missing(&torrent), 0);
    }
}

#[test]
fn room_that_a_killed_node_did_not_count_is_given_back() {
    let fixture = Fixture::new(HashAlgorithm::Blake3, &[8 * PIECE as usize]);
    let (store, torrent) = fixture.open();
    fixture.fill_piece(&torrent, PieceIndex(0));
    store.flush().unwrap();
    drop((torrent, store));
    // Blocks of other pieces that reached the file but not the index.
    let path = &fixture.cache_files()[0];
    let mut content = fs::read(path).unwrap();
    content[3 * PIECE as usize..].fill(1);
    fs::write(path, &content).unwrap();
    let (_store, torrent) = fixture.open();
    assert!(torrent.read_block(fixture.whole(PieceIndex(0))).unwrap().is_some());
    assert_eq!(fixture.bytes_on_disk(), u64::from(PIECE));
}
