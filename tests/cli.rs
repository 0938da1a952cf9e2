//! The commands that need no node, as a user runs them: what they print, where, and with which exit code.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

const ALGORITHMS: [&str; 4] = ["sha1", "sha256", "sha256-merkle", "blake3"];

/// A directory to run in, with a small dataset in `data`.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        place.make_tree("data");
        place
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn make_tree(&self, name: &str) {
        let root = self.path().join(name);
        fs::create_dir_all(root.join("deep/er")).unwrap();
        fs::create_dir(root.join("empty")).unwrap();
        fs::write(root.join("deep/er/large"), vec![7; 100_000]).unwrap();
        fs::write(root.join("nothing"), "").unwrap();
        fs::write(root.join("run"), "#!/bin/sh\n").unwrap();
        fs::set_permissions(root.join("run"), fs::Permissions::from_mode(0o755)).unwrap();
        symlink("deep/er/large", root.join("link")).unwrap();
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_knot"));
        command.args(args).current_dir(self.path()).env_clear().env("HOME", self.path()).stdin(Stdio::null());
        command
    }

    fn knot(&self, args: &[&str]) -> Ended {
        Ended::new(self.command(args).output().unwrap(), args)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.path().join(name), bytes).unwrap();
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path().join(name)).unwrap()
    }
}

struct Ended {
    code: i32,
    out: String,
    err: String,
    shown: String,
}

impl Ended {
    fn new(output: Output, args: &[&str]) -> Self {
        let out = String::from_utf8(output.stdout).unwrap();
        let err = String::from_utf8(output.stderr).unwrap();
        let code = output.status.code().expect("it ended by itself");
        let shown = format!("knot {args:?} ended with {code}\nstdout: {out}\nstderr: {err}");
        Self { code, out, err, shown }
    }

    /// What it printed, after it went well.
    #[track_caller]
    fn ok(self) -> String {
        assert_eq!(self.code, 0, "{}", self.shown);
        self.out
    }

    #[track_caller]
    fn json(self) -> Value {
        serde_json::from_str(&self.ok()).unwrap()
    }

    /// Checks that it failed with one message that says `expected`, and nothing on stdout.
    #[track_caller]
    fn fails(self, code: i32, expected: &str) {
        assert_eq!(self.code, code, "{}", self.shown);
        assert!(self.err.contains(expected), "{}", self.shown);
        assert!(self.out.is_empty(), "{}", self.shown);
    }
}

fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

#[test]
fn create_prints_the_info_id_alone() {
    let place = Place::new();
    for algorithm in ALGORITHMS {
        let ended = place.knot(&["create", "data", "--hash", algorithm]);
        assert!(ended.err.is_empty(), "{}", ended.shown);
        let id = ended.ok();
        let digits = if algorithm == "sha1" { 40 } else { 64 };
        assert!(is_hex(id.strip_suffix('\n').unwrap(), digits), "{id:?}");
        let shown = place.knot(&["inspect", "data.knot", "--json"]).json();
        assert_eq!(shown["info_id"], id.trim());
        assert_eq!(shown["info_hash"], id.trim());
        assert_eq!(shown["piece_hash_algo"], algorithm);
    }
}

#[test]
fn the_same_tree_has_the_same_info_hash() {
    let place = Place::new();
    place.make_tree("elsewhere/data");
    for algorithm in ALGORITHMS {
        let create = |path, out| place.knot(&["create", path, "-o", out, "--hash", algorithm]).ok();
        let first = create("data", "a.knot");
        assert_eq!(first, create("elsewhere/data", "b.knot"));
        fs::set_permissions(place.path().join("data/run"), fs::Permissions::from_mode(0o644)).unwrap();
        assert_ne!(first, create("data", "a.knot"), "the executable bit is part of it");
        fs::set_permissions(place.path().join("data/run"), fs::Permissions::from_mode(0o755)).unwrap();
    }
}

#[test]
fn inspect_shows_everything() {
    let place = Place::new();
    let key = place.knot(&["key", "new", "my.key"]).ok();
    let id = place.knot(&["create", "data", "--key", "my.key", "--piece-length", "32KiB", "--name", "other"]).ok();
    let shown = place.knot(&["inspect", "other.knot", "--json"]).json();
    assert!(is_hex(id.trim(), 128), "an InfoSig");
    assert_eq!(shown["info_id"], id.trim());
    assert_eq!(shown["info_sig"], id.trim());
    assert_eq!(shown["pub_key"], key.trim());
    assert_eq!(shown["signature_valid"], true);
    assert_eq!(shown["name"], "other");
    assert_eq!(shown["piece_length"], 32768);
    assert_eq!(shown["piece_count"], 4 + 1);
    assert_eq!(shown["total_length"], 100_010);
    let files = shown["files"].as_array().unwrap();
    let paths: Vec<_> = files.iter().map(|file| file["path"].as_str().unwrap()).collect();
    assert_eq!(paths, ["deep/er/large", "nothing", "run"]);
    assert_eq!(files[0]["length"], 100_000);
    assert!(is_hex(files[0]["root"].as_str().unwrap(), 64));
    assert_eq!((files[0].get("executable"), &files[2]["executable"]), (None, &Value::Bool(true)));
    assert_eq!(shown["directories"], serde_json::json!(["empty"]));
    assert_eq!(shown["symlinks"], serde_json::json!([{ "path": "link", "target": "deep/er/large" }]));
    let for_people = place.knot(&["inspect", "other.knot"]).ok();
    for part in [id.trim(), key.trim(), "(valid)", "\"deep/er/large\"", "(executable)", "-> \"deep/er/large\""] {
        assert!(for_people.contains(part), "expected {part} in {for_people}");
    }
}

#[test]
fn an_unsigned_metainfo_has_no_signature_that_could_be_valid() {
    let place = Place::new();
    place.knot(&["create", "data"]).ok();
    let shown = place.knot(&["inspect", "data.knot", "--json"]).json();
    for field in ["info_sig", "pub_key", "signature_valid"] {
        assert_eq!(shown[field], Value::Null, "{field}");
    }
}

#[test]
fn blake3_roots_are_what_b3sum_prints() {
    let place = Place::new();
    place.knot(&["create", "data", "--hash", "blake3"]).ok();
    let shown = place.knot(&["inspect", "data.knot", "--json"]).json();
    assert_eq!(shown["files"][0]["root"], blake3::hash(&[7; 100_000]).to_hex().as_str());
}

#[test]
fn create_says_what_it_made_as_json() {
    let place = Place::new();
    place.knot(&["key", "new", "my.key"]).ok();
    let made = place.knot(&["create", "data", "--key", "my.key", "-o", "x.knot", "--json"]).json();
    let shown = place.knot(&["inspect", "x.knot", "--json"]).json();
    assert_eq!((&made["info_id"], &made["info_hash"]), (&shown["info_id"], &shown["info_hash"]));
    assert_eq!(made["metainfo"], "x.knot");
}

#[test]
fn odd_content_has_a_metainfo_too() {
    let place = Place::new();
    fs::create_dir(place.path().join("none")).unwrap();
    place.write("zero", b"");
    place.write("one file", b"x");
    for algorithm in ALGORITHMS {
        for (path, files, length) in [("none", 0, 0), ("zero", 1, 0), ("one file", 1, 1)] {
            place.knot(&["create", path, "-o", "x.knot", "--hash", algorithm]).ok();
            let shown = place.knot(&["inspect", "x.knot", "--json"]).json();
            assert_eq!(shown["files"].as_array().unwrap().len(), files, "{path}");
            assert_eq!(shown["total_length"], length, "{path}");
            assert_eq!(shown["name"], path);
        }
    }
}

#[test]
fn create_refuses_what_makes_no_sense() {
    let place = Place::new();
    place.knot(&["create", "nowhere"]).fails(1, "\"nowhere\"");
    place.knot(&["create", "data", "--hash", "md5"]).fails(2, "sha256-merkle");
    for length in ["0", "5", "16385", "128MiB", "9223372036854775808", "-1", "much"] {
        let ended = place.knot(&["create", "data", &format!("--piece-length={length}")]);
        assert!(matches!(ended.code, 1 | 2) && ended.err.contains("expected"), "{}", ended.shown);
    }
    place.knot(&["create", "data", "--name", "a/b"]).fails(1, "a/b");
    place.knot(&["create", "data", "-o", "data/data.knot"]).fails(2, "outside");
    place.knot(&["create", "data", "-o", "no/such/x.knot"]).fails(1, "no/such/x.knot");
    assert!(!place.path().join("data.knot").exists(), "nothing was written");
}

#[test]
fn create_refuses_links_out_of_the_tree() {
    let place = Place::new();
    symlink("/etc/passwd", place.path().join("data/out")).unwrap();
    place.knot(&["create", "data"]).fails(1, "\"out\"");
}

#[test]
fn a_key_is_for_its_owner_and_is_never_shown() {
    let place = Place::new();
    let public = place.knot(&["key", "new", "my.key"]).ok();
    assert!(is_hex(public.trim(), 64));
    assert_eq!(place.path().join("my.key").metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let text = String::from_utf8(place.read("my.key")).unwrap();
    let secret = text.split_whitespace().last().unwrap();
    assert!(is_hex(secret, 64));
    for args in [&["key", "show", "my.key"][..], &["create", "data", "--key", "my.key"], &["inspect", "data.knot"]] {
        let mut command = place.command(args);
        let ended = Ended::new(command.env("KNOT_LOG", "trace").output().unwrap(), args);
        assert_eq!(ended.code, 0, "{}", ended.shown);
        assert!(!ended.shown.contains(secret), "the secret key was shown");
    }
    assert!(!place.read("data.knot").windows(32).any(|window| hex::encode(window) == secret));
    assert_eq!(place.knot(&["key", "show", "my.key"]).ok(), public);
    assert_eq!(place.knot(&["key", "show", "my.key", "--json"]).json()["public_key"], public.trim());
}

#[test]
fn a_key_is_never_overwritten() {
    let place = Place::new();
    place.knot(&["key", "new", "my.key"]).ok();
    let before = place.read("my.key");
    place.knot(&["key", "new", "my.key"]).fails(1, "exists");
    assert_eq!(place.read("my.key"), before);
}

#[test]
fn what_is_no_key_is_refused_before_anything_is_hashed() {
    let place = Place::new();
    place.write("bad.key", b"knot-secret-key-ed25519 abcd");
    place.knot(&["create", "data", "--key", "bad.key"]).fails(1, "64 hex digits");
    place.knot(&["create", "data", "--key", "none.key"]).fails(1, "none.key");
    place.knot(&["key", "show", "data/run"]).fails(1, "knot key new");
    assert!(!place.path().join("data.knot").exists());
}

#[test]
fn a_key_that_others_can_read_is_pointed_out() {
    let place = Place::new();
    place.knot(&["key", "new", "my.key"]).ok();
    fs::set_permissions(place.path().join("my.key"), fs::Permissions::from_mode(0o644)).unwrap();
    let ended = place.knot(&["key", "show", "my.key"]);
    assert!(ended.err.contains("chmod 600"), "{}", ended.shown);
    ended.ok();
}

#[test]
fn damaged_metainfo_is_refused() {
    let place = Place::new();
    place.knot(&["create", "data"]).ok();
    let whole = place.read("data.knot");
    place.knot(&["inspect", "none.knot"]).fails(1, "none.knot");
    place.knot(&["inspect", "data"]).fails(1, "\"data\"");
    for length in [0, 1, whole.len() / 2, whole.len() - 1] {
        place.write("cut.knot", &whole[..length]);
        place.knot(&["inspect", "cut.knot"]).fails(1, "cut.knot");
    }
    place.write("more.knot", &[&whole[..], b"x"].concat());
    place.knot(&["inspect", "more.knot"]).fails(1, "expected");
    place.write("deep.knot", &b"l".repeat(1_000_000));
    place.knot(&["inspect", "deep.knot"]).fails(1, "expected");
    place.write("large.knot", &vec![b'x'; 9 << 20]);
    place.knot(&["inspect", "large.knot"]).fails(1, "expected");
}

#[test]
fn forged_metainfo_is_a_verification_failure() {
    let place = Place::new();
    place.knot(&["key", "new", "my.key"]).ok();
    place.knot(&["create", "data", "--key", "my.key"]).ok();
    let good = place.read("data.knot");
    let changed = |marker: &[u8], behind: usize| {
        let mut bytes = good.clone();
        let at = bytes.windows(marker.len()).position(|window| window == marker).unwrap();
        bytes[at + marker.len() + behind] ^= 1;
        bytes
    };
    place.write("name.knot", &changed(b"4:name4:", 0));
    place.knot(&["inspect", "name.knot"]).fails(4, "infohash");
    place.write("sig.knot", &changed(b"7:infosig64:", 10));
    place.knot(&["inspect", "sig.knot"]).fails(4, "signature");
    let ended = place.knot(&["inspect", "sig.knot", "--json"]);
    assert_eq!(ended.code, 4, "{}", ended.shown);
    assert_eq!(serde_json::from_str::<Value>(&ended.out).unwrap()["signature_valid"], false);
    place.knot(&["mount", "sig.knot", "data/empty"]).fails(4, "signature");
}

#[test]
fn what_names_no_torrent_is_refused_before_a_node_is_started() {
    let place = Place::new();
    for torrent in ["abcd", "none.knot", &"a".repeat(41)] {
        place.knot(&["mount", torrent, "data/empty"]).fails(2, "InfoID");
        place.knot(&["get", torrent]).fails(2, "InfoID");
        place.knot(&["cat", torrent]).fails(2, "InfoID");
    }
    let id = "ab".repeat(32);
    place.knot(&["mount", &id, "data/empty", "--peer", "nowhere"]).fails(2, "multiaddr");
    place.knot(&["mount", &id, "data/empty", "--discovery", "rumour"]).fails(2, "\"rumour\"");
    place.knot(&["mount", &id, "data/empty", "--cache-size", "lots"]).fails(2, "lots");
    place.knot(&["mount", &id, "data/empty", "--read-timeout", "soon"]).fails(2, "such as 30s");
    place.knot(&["mount", &id]).fails(2, "MOUNTPOINT");
    assert!(!place.path().join(".local").exists(), "no store was made");
}

#[test]
fn without_a_node_there_is_nothing_to_ask() {
    let place = Place::new();
    place.knot(&["status"]).fails(1, "no node runs");
    place.knot(&["status", "--json"]).fails(1, "no node runs");
    place.knot(&["daemon", "--stop"]).fails(1, "no node runs");
    place.knot(&["unmount", "data"]).fails(2, "expected a mount of knot");
    assert!(!place.path().join(".local").exists(), "no store was made");
    fs::create_dir(place.path().join("store")).unwrap();
    drop(std::os::unix::net::UnixListener::bind(place.path().join("store/control.sock")).unwrap());
    place.knot(&["status", "--store", "store"]).fails(1, "no node runs");
    place.knot(&["daemon", "--stop", "--store", "store"]).fails(1, "no node");
}

#[test]
fn a_store_that_cannot_be_made_is_an_error() {
    let place = Place::new();
    let id = "ab".repeat(32);
    place.knot(&["mount", &id, "data/empty", "--store", "data/run/store"]).fails(1, "--store");
}

#[test]
fn every_shell_has_completions() {
    let place = Place::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = place.knot(&["completions", shell]).ok();
        assert!(script.contains("unmount") && script.contains("read-timeout"), "{shell}");
    }
    place.write("knot.bash", place.knot(&["completions", "bash"]).ok().as_bytes());
    let parsed = Command::new("bash").arg("-n").arg(place.path().join("knot.bash")).status().unwrap();
    assert!(parsed.success());
}

#[test]
fn help_names_every_command() {
    let place = Place::new();
    let help = place.knot(&["--help"]).ok();
    for command in [
        "create",
        "inspect",
        "seed",
        "mount",
        "unmount",
        "get",
        "cat",
        "status",
        "key",
        "daemon",
        "completions",
        "demo",
    ] {
        assert!(help.contains(&format!("\n  {command} ")), "{command} in {help}");
        assert!(place.knot(&[command, "--help"]).ok().contains("Usage:"));
    }
    assert_eq!(place.knot(&[]).code, 2);
    place.knot(&["dance"]).fails(2, "dance");
}

#[test]
fn a_reader_who_has_had_enough_is_no_error() {
    let place = Place::new();
    let mut knot =
        place.command(&["completions", "bash"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(knot.stdout.take());
    let ended = Ended::new(knot.wait_with_output().unwrap(), &["completions"]);
    assert_eq!((ended.code, ended.err.as_str()), (0, ""));
}
