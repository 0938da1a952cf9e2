//! What an update transfers: the blocks that have changed, and hardly more.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use crate::support::process::Mount;
use crate::support::tree::noise;
use crate::world::{World, crash, downloaded, fetched, files, shows};

const BLOCK: usize = 16 << 10;
const FILE: usize = 1 << 20;
/// The bytes of the files of a version.
type Tree = BTreeMap<PathBuf, Vec<u8>>;

/// The bytes of 16 KiB blocks that are neither those of a whole file nor at the same place of the same file.
fn changed(old: &Tree, new: &Tree) -> u64 {
    let whole: BTreeSet<&[u8]> = old.values().map(Vec::as_slice).collect();
    let of_file = |(path, bytes): (&PathBuf, &Vec<u8>)| {
        if whole.contains(bytes.as_slice()) {
            return 0;
        }
        let before = old.get(path).map(Vec::as_slice).unwrap_or_default();
        let old_blocks: Vec<_> = before.chunks(BLOCK).collect();
        let is_changed = |(at, block): &(usize, &[u8])| old_blocks.get(*at) != Some(block);
        bytes.chunks(BLOCK).enumerate().filter(is_changed).map(|(_, block)| block.len() as u64).sum()
    };
    new.iter().map(of_file).sum()
}

fn fill(world: &World) {
    (0..24).for_each(|at| world.write(&format!("{at:02}"), &noise(at, FILE)));
}

fn append(world: &World) {
    let mut bytes = fs::read(world.data().join("03")).unwrap();
    bytes.extend_from_slice(&noise(100, 10_000));
    world.write("03", &bytes);
}

fn change_the_middle(world: &World) {
    let mut bytes = fs::read(world.data().join("07")).unwrap();
    bytes[FILE / 2 + 5000..][..1000].copy_from_slice(&noise(101, 1000));
    world.write("07", &bytes);
}

/// What is done to the folder, and whether any byte is to be fetched for it.
type Step = (&'static str, fn(&World), bool);

const STEPS: [Step; 5] = [
    ("append", append, true),
    ("insertion of a file in front", |world| world.write("00 first", &noise(102, FILE)), true),
    ("change in the middle", change_the_middle, true),
    ("rename", |world| fs::rename(world.data().join("11"), world.data().join("renamed")).unwrap(), false),
    (
        "executable bit",
        |world| fs::set_permissions(world.data().join("12"), fs::Permissions::from_mode(0o755)).unwrap(),
        false,
    ),
];

/// Publishes the folder and reads all of it through the mount: what was fetched for that.
fn update(world: &World, mount: &Mount) -> u64 {
    let before = downloaded(mount);
    let seq = world.update();
    shows(mount, seq);
    assert!(files(&mount.at) == files(&world.data()), "version {seq} is not what was published");
    fetched(mount, &before)
}

fn fetches_what_has_changed(options: &[&str]) {
    let world = World::new(options, fill);
    let serving = world.serve();
    let mount = world.mount("follower", &[&serving.addr], &[]);
    assert!(files(&mount.at) == files(&world.data()));
    for (what, step, is_some) in STEPS {
        let old = files(&world.data());
        step(&world);
        let least = changed(&old, &files(&world.data()));
        assert_eq!(least > 0, is_some, "{what}");
        let fetched = update(&world, &mount);
        println!("{options:?}: {what}: {fetched} bytes fetched, {least} have changed");
        assert!(fetched as f64 <= least as f64 * 1.05, "{options:?}: {what}: {fetched} bytes for {least}");
        assert!(fetched >= least, "{what}: {fetched} bytes for {least}");
    }
    // What was fetched before a crash is here after it, and new versions go on from there.
    let (at, store) = crash(mount);
    let old = files(&world.data());
    append(&world);
    let seq = world.update();
    let least = changed(&old, &files(&world.data()));
    let mount = Mount::new(&world.sig, &at, &store, &[&serving.addr], &[]);
    shows(&mount, seq);
    assert!(files(&mount.at) == files(&world.data()));
    let fetched = downloaded(&mount).values().sum::<u64>();
    println!("{options:?}: after kill -9: {fetched} bytes fetched, {least} have changed");
    assert!(fetched as f64 <= least as f64 * 1.05, "{options:?}: after kill -9: {fetched} bytes for {least}");
}

#[test]
fn an_update_of_sha256_merkle_fetches_what_has_changed() {
    fetches_what_has_changed(&["--hash", "sha256-merkle"]);
}

#[test]
fn an_update_of_sha256_merkle_in_large_pieces_fetches_what_has_changed() {
    fetches_what_has_changed(&["--hash", "sha256-merkle", "--piece-length", "1MiB"]);
}

#[test]
fn an_update_of_blake3_fetches_what_has_changed() {
    fetches_what_has_changed(&["--hash", "blake3"]);
}

#[test]
fn an_update_of_blake3_in_large_pieces_fetches_what_has_changed() {
    fetches_what_has_changed(&["--hash", "blake3", "--piece-length", "1MiB"]);
}

/// Files laid end to end share fewer pieces, and are followed all the same.
#[test]
fn forms_without_alignment_follow_too() {
    for algorithm in ["sha1", "sha256"] {
        let options = ["--hash", algorithm, "--piece-length", "64KiB"];
        let world = World::new(&options, |world| (0..6).for_each(|at| world.write(&format!("{at}"), &noise(at, FILE))));
        let serving = world.serve();
        let mount = world.mount("follower", &[&serving.addr], &[]);
        assert!(files(&mount.at) == files(&world.data()));
        for step in [0, 1, 2] {
            match step {
                0 => world.write("0 first", &noise(100, 70_001)),
                1 => world.write("5", &noise(101, 5000)),
                _ => fs::rename(world.data().join("1"), world.data().join("renamed")).unwrap(),
            }
            let fetched = update(&world, &mount);
            println!("{algorithm}: step {step}: {fetched} bytes fetched of {}", 6 * FILE);
        }
    }
}
