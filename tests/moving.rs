//! Mounts whose dataset moves on, as commands hold them, follow them and look past them. Needs /dev/fuse and the right
//! to mount.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[allow(dead_code, unreachable_pub)]
mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use support::dataset::{Lines, Publisher, Server};
use support::process::{Mount, both, finish, knot, run, wait_until};

/// A publisher that is being served, and a mount of what it publishes.
struct World {
    dir: tempfile::TempDir,
    publisher: Publisher,
    mount: Mount,
    _server: Server,
}

impl World {
    fn new(options: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let publisher = Publisher::new(dir.path(), "one");
        let server = publisher.seed();
        let (at, store) = (dir.path().join("mnt"), dir.path().join("store"));
        let mount = Mount::new(&publisher.sig, &at, &store, &[&server.addr], options);
        Self { dir, publisher, mount, _server: server }
    }

    fn at(&self) -> &Path {
        &self.mount.at
    }

    fn knot(&self, args: &[&str]) -> Command {
        let mut command = knot(&self.mount.store);
        command.args(args);
        command
    }

    fn shows(&self, content: &str) -> bool {
        fs::read_to_string(self.at().join("data")).unwrap() == content
    }

    /// The newest version that the node behind the mount knows of.
    fn newest(&self) -> u64 {
        self.mount.status()["datasets"][0]["newest"]["seq"].as_u64().unwrap_or(0)
    }

    /// A follower of the mounts that misses nothing from here on.
    fn follow(&self) -> Lines {
        let lines = Lines::of(self.knot(&["status", "--follow"]));
        lines.note("following");
        lines
    }

    fn snapshot(&self) -> Command {
        let mut command = self.knot(&["run", "--snapshot"]);
        command.arg(self.at()).arg("--");
        command
    }
}

#[test]
fn a_frozen_mount_stays_until_it_is_thawed() {
    let world = World::new(&[]);
    assert!(world.shows("one"));
    let frozen: Value = serde_json::from_str(&run(world.knot(&["freeze", "--json"]).arg(world.at()))).unwrap();
    assert_eq!((&frozen["frozen"], &frozen["version"]["seq"]), (&true.into(), &1.into()));
    let follower = world.follow();
    world.publisher.update("two");
    wait_until("the mount's node hears of version 2", || world.newest() == 2);
    // Another mount on the same node, which is not frozen, shows that the version can be had: this one could, too.
    let other = world.dir.path().join("other");
    let other = Mount::new(&world.publisher.sig, &other, &world.mount.store, &[], &[]);
    wait_until("another mount shows version 2", || fs::read_to_string(other.at.join("data")).unwrap() == "two");
    assert!(world.shows("one"));
    let text = run(&mut world.knot(&["status"]));
    assert!(text.contains("version 1, signed 20") && text.contains(", frozen\n"), "{text}");
    assert!(text.contains("newest: version 2, signed 20") && text.contains("2 versions known"), "{text}");
    run(world.knot(&["thaw"]).arg(world.at()));
    wait_until("the mount goes on", || world.shows("two"));

    let own = world.at().to_str().unwrap().to_owned();
    let events = std::iter::repeat_with(|| follower.json()).filter(|event| event["mountpoint"] == own.as_str());
    let kinds: Vec<_> = events.take(2).map(|event| (event["event"].clone(), event["seq"].clone())).collect();
    assert_eq!(kinds, [("thaw".into(), 1.into()), ("switch".into(), 2.into())], "no switch came before the thaw");
}

#[test]
fn what_follows_nothing_cannot_be_frozen() {
    let world = World::new(&["--at", "1"]);
    let refused = finish(world.knot(&["freeze"]).arg(world.at()));
    assert_eq!(refused.status.code(), Some(2), "{}", both(&refused));
    assert!(both(&refused).contains("stays as it is anyway"), "{}", both(&refused));
    let elsewhere = finish(world.knot(&["freeze"]).arg(world.dir.path()));
    assert_eq!(elsewhere.status.code(), Some(2), "{}", both(&elsewhere));
    let nobody = finish(knot(&world.dir.path().join("none")).arg("thaw").arg(world.at()));
    assert!(!nobody.status.success() && both(&nobody).contains("no node runs"), "{}", both(&nobody));
}

#[test]
fn every_switch_is_a_line_and_runs_the_hook() {
    let log = tempfile::NamedTempFile::new().unwrap();
    let hook = format!(
        r#"echo "$KNOT_MOUNTPOINT $KNOT_PREVIOUS_SEQ $KNOT_SEQ $KNOT_INFOHASH $(cat "$KNOT_MOUNTPOINT/data")" >> {:?}"#,
        log.path()
    );
    let world = World::new(&["--on-update", &hook]);
    let follower = world.follow();
    let mut expected = String::new();
    for (seq, content) in [(2, "two"), (3, "three")] {
        world.publisher.update(content);
        let event = follower.json();
        assert_eq!((&event["event"], &event["seq"]), (&"switch".into(), &seq.into()), "{event}");
        assert_eq!(
            (&event["origin"], &event["mountpoint"]),
            (&world.publisher.sig.as_str().into(), &world.at().to_str().into())
        );
        assert!(world.shows(content), "the line comes when the mount shows it");
        let now = event["at"].as_i64().unwrap();
        assert!(event["signed_at"].as_i64().is_some_and(|signed| signed > now - 3600 && signed <= now), "{event}");
        let version = &world.mount.status()["mounts"][0]["version"];
        assert_eq!((&event["info_hash"], &event["info_sig"]), (&version["info_hash"], &version["info_sig"]));
        let (at, hash) = (world.at().display(), event["info_hash"].as_str().unwrap());
        expected.push_str(&format!("{at} {} {seq} {hash} {content}\n", seq - 1));
        wait_until("the hook has run", || fs::read_to_string(log.path()).unwrap() == expected);
    }
    run(world.knot(&["unmount"]).arg(world.at()));
    assert_eq!(follower.json()["event"], "unmount");
    run(&mut world.knot(&["daemon", "--stop"]));
    assert_eq!(follower.rest(), [""; 0], "it ends with the node");
}

#[test]
fn a_command_in_a_snapshot_keeps_its_version() {
    let world = World::new(&[]);
    let go = world.dir.path().join("go");
    // From inside the mount, so that the current directory is pinned as well.
    let script = format!(
        r#"echo $KNOT_SNAPSHOT_SEQ; until [ -e {go:?} ]; do sleep 0.05; done
           cat data; echo; cat {:?}; echo; ls -A {:?} | tr '\n' ' '; echo; exit 7"#,
        world.at().join("data"),
        world.at(),
    );
    let mut command = world.snapshot();
    command.args(["/bin/sh", "-c", &script]).current_dir(world.at().join("sub"));
    let mut inside = Lines::of(command);
    assert_eq!(inside.next(), "1");
    world.publisher.update("two");
    wait_until("everybody else sees version 2", || world.shows("two"));
    world.publisher.update("three");
    wait_until("everybody else sees version 3", || world.shows("three"));
    fs::write(&go, "").unwrap();
    assert_eq!([inside.next(), inside.next(), inside.next()], ["one", "one", "data sub "]);
    wait_until("it ends", || inside.has_ended());
    let after = run(world.snapshot().args(["sh", "-c", "cat data; echo $KNOT_SNAPSHOT_SEQ"]).current_dir(world.at()));
    assert_eq!(after, "three3\n");
    let code = finish(world.snapshot().args(["sh", "-c", "exit 7"])).status.code();
    assert_eq!(code, Some(7), "the exit code is the command's");
    assert!(world.shows("three"), "nothing is left over the mount");
}

#[test]
fn a_snapshot_that_cannot_be_says_why() {
    let world = World::new(&[]);
    let refused = |at: &Path, command: &str| {
        let output = finish(world.knot(&["run", "--snapshot"]).arg(at).arg("--").arg(command));
        (output.status.code(), both(&output))
    };
    let (code, said) = refused(world.dir.path(), "true");
    assert!(code == Some(2) && said.contains("expected a mount of a dataset"), "{said}");
    let (code, said) = refused(&world.at().join("sub"), "true");
    assert!(code == Some(2) && said.contains("expected a mount of a dataset"), "{said}");
    let (code, said) = refused(world.at(), "no-such-command");
    assert!(code == Some(1) && said.contains("cannot run \"no-such-command\""), "{said}");
}

#[test]
fn users_without_rights_have_snapshots_too() {
    let world = World::new(&["--allow-other"]);
    fs::set_permissions(world.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    // A user who may make user namespaces, but nothing in this one.
    let program = env!("CARGO_BIN_EXE_knot");
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", program, "run", "--snapshot"]);
    command.arg(world.at()).args(["--", "sh", "-c", "cat data; id -u"]).current_dir(world.at());
    let output = finish(&mut command);
    let said = both(&output);
    if said.contains("knot mount --at 1") {
        assert_eq!(output.status.code(), Some(1), "where namespaces are forbidden, it says what else there is: {said}");
    } else {
        assert_eq!(String::from_utf8_lossy(&output.stdout), "one65534\n", "{said}");
    }
}
