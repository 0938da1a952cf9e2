//! Every decoder of what strangers send, fed with the corpus in `tests/corpus`, and with what chance makes of it: the
//! same bytes in every run. `KNOT_FUZZ_ROUNDS` and `KNOT_FUZZ_SEED` make it go on for longer, and elsewhere.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "fuzz/mutate.rs"]
mod mutate;
#[allow(unreachable_pub)]
#[path = "fuzz/targets.rs"]
mod targets;

use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use mutate::{Dice, mutate};
use targets::TARGETS;

const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus");
/// All of it: nobody should wait for a repository because of its tests.
const MAX_CORPUS: u64 = 300 << 10;
/// How often each target is fed something made of each file of its corpus.
const ROUNDS: u64 = 3000;
/// The same for targets that calculate for long.
const FEW_ROUNDS: u64 = 60;
const SLOW: [&str; 3] = ["hashes", "mse_plain", "mse_tampered"];
/// The longest input that is made.
const MAX_INPUT: usize = 8 << 10;

/// The inputs of a target by their names.
fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let dir = Path::new(CORPUS).join(target);
    let entries = fs::read_dir(&dir).unwrap_or_else(|error| panic!("{dir:?}: {error}"));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

/// Feeds it, and shows what it was fed if that is too much for it.
fn feed(target: &str, input: &[u8], origin: &Path) {
    let fed = catch_unwind(AssertUnwindSafe(|| targets::run(target, input)));
    assert!(
        fed.is_ok(),
        "{target}, made of {}:\n{}\n(hex) {}",
        origin.display(),
        input.escape_ascii(),
        hex::encode(input)
    );
}

fn fuzz(target: &str) {
    let corpus = corpus(target);
    let from_environment = |name| std::env::var(name).ok().map(|value| value.parse::<u64>().unwrap());
    let rounds = if SLOW.contains(&target) { FEW_ROUNDS } else { ROUNDS };
    let rounds = from_environment("KNOT_FUZZ_ROUNDS").unwrap_or(rounds);
    let mut dice = Dice::new(from_environment("KNOT_FUZZ_SEED").unwrap_or(1));
    feed(target, &[], Path::new("nothing"));
    for (path, input) in &corpus {
        feed(target, input, path);
    }
    for _ in 0..rounds {
        for (path, input) in &corpus {
            let (_, other) = &corpus[dice.below(corpus.len())];
            let mut input = input[..input.len().min(MAX_INPUT)].to_vec();
            mutate(&mut input, other, &mut dice);
            input.truncate(MAX_INPUT);
            feed(target, &input, path);
        }
    }
}

macro_rules! tests {
    ($($target:ident)*) => {
        const TESTED: &[&str] = &[$(stringify!($target)),*];
        $(
            #[test]
            fn $target() {
                fuzz(stringify!($target));
            }
        )*
    };
}

tests! {
    handshake wire extension_handshake metadata_exchange pex hashes mse_plain mse_tampered
    http_tracker udp_tracker lsd magnet metainfo control
}

#[test]
fn every_target_has_a_test_a_corpus_and_a_program() {
    let targets: BTreeSet<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
    assert_eq!(targets, TESTED.iter().copied().collect());
    let dirs = fs::read_dir(CORPUS).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(dirs.collect::<BTreeSet<_>>(), targets.iter().map(|name| (*name).to_owned()).collect());
    let programs = fs::read_to_string(Path::new(CORPUS).join("../fuzz/Cargo.toml")).unwrap();
    for target in &targets {
        assert!(programs.contains(&format!("[[bin]]\nname = \"{target}\"\n")), "{target}");
    }
    let files: Vec<_> = targets.iter().flat_map(|target| corpus(target)).collect();
    let size: u64 = files.iter().map(|(_, bytes)| bytes.len() as u64).sum();
    assert!(size <= MAX_CORPUS, "the corpus has {size} bytes");
    let (path, _) = files.iter().find(|(_, bytes)| bytes.len() > 64 << 10).unwrap_or(&files[0]);
    assert!(fs::metadata(path).unwrap().len() <= 64 << 10, "{path:?} is large");
}
