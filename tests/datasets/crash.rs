//! What is left when a node is killed in the middle: the version of before or the new one, and never two of a number.

use std::fs;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::readers::{FILES, path, version_of, write};
use crate::support::clients::free_port;
use crate::support::process::{Mount, both, finish, knot, wait_until};
use crate::world::{OFFLINE, World, crash, dataset, shown, shows};

/// The versions of the files in the order of a walk, which may meet a switch.
fn walk(mount: &Mount) -> Vec<u64> {
    (0..FILES).map(|at| version_of(&fs::read(mount.at.join(path(at))).unwrap(), at)).collect()
}

#[test]
fn a_follower_killed_in_a_switch_shows_the_old_version_or_the_new_one_and_goes_on() {
    let world = World::new(&["--piece-length", "16KiB"], |world| write(world, 1));
    let serving = world.serve();
    let mut mount = world.mount("follower", &[&serving.addr], &[]);
    for round in 0..14 {
        let seq = 2 + round;
        write(&world, seq);
        let mut publishing =
            world.publishing("store", &[]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        thread::sleep(Duration::from_millis(15 * round));
        let seen = version_of(&fs::read(mount.at.join(path(0))).unwrap(), 0);
        let (at, store) = crash(mount);
        assert!(publishing.wait().unwrap().success());
        if round % 5 == 0 {
            // Nobody is there who could tell: what was seen is shown again.
            let alone = Mount::new(&world.sig, &at, &store, &[], &["--timeout", "5s"]);
            assert!((seen..=seq).contains(&shown(&alone)), "{} after {seen}", shown(&alone));
        }
        mount = Mount::new(&world.sig, &at, &store, &[&serving.addr], &[]);
        let walked = walk(&mount);
        assert!(walked.is_sorted() && walked.iter().all(|got| (seen..=seq).contains(got)), "{seen}: {walked:?}");
        shows(&mount, seq);
        assert_eq!(walk(&mount), [seq; FILES as usize]);
    }
    assert_eq!(dataset(&mount)["conflicts"], json!([]));
}

/// What is told is durable before: the number that a killed publisher may have told of is not given to anything else.
#[test]
fn a_publisher_killed_at_any_moment_never_gives_a_number_to_two_versions() {
    let world = World::new(&["--piece-length", "16KiB"], |world| write(world, 1));
    let listen = format!("/ip4/127.0.0.1/tcp/{}", free_port("127.0.0.1"));
    let listen = ["--listen", &listen, "--discovery", "none"];
    let mut serving = world.serve_as("store", &listen);
    let mount = world.mount("follower", &[&serving.addr], &[]);
    let follower = mount.status()["listen"][0].as_str().unwrap().to_owned();
    serving.kill();
    let (mut content, mut newest) = (1, 1);
    let mut told = 0;
    for round in 0..16 {
        content += 1;
        write(&world, content);
        // Every other time it is not the command that publishes, but the node that serves.
        let served = (round % 2 == 1).then(|| world.serve_as("store", &listen));
        let mut command = world.publishing("store", &["--peer", &follower]);
        let mut publishing = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        thread::sleep(Duration::from_millis(12 * round));
        match served {
            Some(mut served) => served.kill(),
            None => publishing.kill().unwrap(),
        }
        publishing.wait().unwrap();
        let heard = dataset(&mount)["newest"]["seq"].as_u64().unwrap();
        told += u64::from(heard > newest);
        assert!(heard >= newest, "{heard} after {newest}");
        content += 1;
        write(&world, content);
        let seq = world.update_as(&["--peer", &follower]);
        assert!(seq == newest + 1 || seq == newest + 2, "{seq} after {newest}");
        wait_until("the follower has heard of it", || dataset(&mount)["newest"]["seq"] == seq);
        newest = seq;
    }
    println!("16 killed publishers: {told} of their versions were heard of");
    let _serving = world.serve_as("store", &listen);
    shows(&mount, newest);
    assert_eq!(walk(&mount), [content; FILES as usize]);
    assert_eq!(dataset(&mount)["conflicts"], json!([]));
}

/// The metainfo of a first version may be in the store without anything else of it.
#[test]
fn publishing_a_first_version_again_completes_what_a_crash_has_left() {
    for round in 0..8 {
        let mut world = World::new(&[], |world| write(world, 1));
        fs::remove_dir_all(world.path("store")).unwrap();
        let sig = std::mem::take(&mut world.sig);
        let mut publishing =
            world.publishing("store", &[]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        thread::sleep(Duration::from_millis(10 + 8 * round));
        publishing.kill().unwrap();
        publishing.wait().unwrap();
        let again = finish(&mut world.publishing("store", &[]));
        assert!(again.status.success(), "{}", both(&again));
        world.sig = sig;
        let serving = world.serve();
        let mount = world.mount("follower", &[&serving.addr], &[]);
        assert_eq!(walk(&mount), [1; FILES as usize]);
    }
}

#[test]
fn what_is_seeded_already_can_be_published() {
    let mut world = World::new(&[], |world| write(world, 1));
    fs::remove_dir_all(world.path("store")).unwrap();
    let sig = std::mem::take(&mut world.sig);
    let metainfo = world.path("data.knot");
    let made = finish(
        knot(&world.path("no"))
            .arg("create")
            .arg(world.data())
            .arg("-o")
            .arg(&metainfo)
            .arg("--key")
            .arg(world.path("key")),
    );
    assert!(made.status.success(), "{}", both(&made));
    assert_eq!(String::from_utf8_lossy(&made.stdout).trim_end(), sig);
    let mut seed = knot(&world.path("store"));
    drop(crate::world::Serving::start(
        seed.arg("seed").arg(world.data()).arg("--metainfo").arg(&metainfo).args(OFFLINE),
    ));
    let published = finish(world.publishing("store", &["--json"]).stderr(Stdio::null()));
    let shown: Value = serde_json::from_slice(&published.stdout).unwrap();
    assert_eq!((&shown["published"], &shown["info_sig"]), (&true.into(), &sig.as_str().into()));
    world.sig = sig;
    let _serving = world.serve();
}
