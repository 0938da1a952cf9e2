use std::time::Duration;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn groups(tiers: &[&[&str]], private: bool) -> Groups {
    let mut groups = Groups::default();
    assert!(groups.replace(&options(tiers, private)).0.is_empty());
    groups
}

fn options(tiers: &[&[&str]], private: bool) -> JoinOptions {
    let trackers = tiers.iter().map(|tier| tier.iter().map(|name| format!("http://{name}/announce")).collect());
    JoinOptions { trackers: trackers.collect(), private, port: None }
}

fn order(group: &mut Group, now: Instant) -> Vec<String> {
    let places = group.places(now);
    places.into_iter().map(|place| group.member(place).url.host_str().unwrap().to_owned()).collect()
}

fn place(group: &mut Group, now: Instant, host: &str) -> Place {
    let places = group.places(now);
    places.into_iter().find(|place| group.member(*place).url.host_str() == Some(host)).unwrap()
}

/// The tracker `host` answers its next announce; says which event that was.
fn answer(group: &mut Group, now: Instant, host: &str, earliest: u32, latest: u32) -> Event {
    let place = place(group, now, host);
    let event = group.member(place).event();
    group.member(place).asked();
    let due = Due { earliest: now + earliest * SECOND, latest: now + latest * SECOND };
    group.answered(place, event, &Answer::default(), due);
    event
}

fn refuse(group: &mut Group, now: Instant, host: &str, retry: Option<Retry>) {
    let place = place(group, now, host);
    group.member(place).asked();
    group.failed(place, now, &TrackerError::Refused { reason: "no".to_owned(), retry });
}

#[test]
fn tiers_of_a_public_swarm_work_side_by_side_and_of_a_private_one_in_turn() {
    let now = Instant::now();
    let tiers: &[&[&str]] = &[&["a", "b"], &["c"]];
    assert_eq!(groups(tiers, false).0.len(), 2);
    let mut private = groups(tiers, true);
    assert_eq!(private.0.len(), 1);
    assert_eq!(order(&mut private.0[0], now)[2], "c");
    assert!(groups(&[], true).0.is_empty());
}

#[test]
fn tiers_are_shuffled_and_the_one_that_answers_comes_first() {
    let now = Instant::now();
    let names: Vec<_> = (0..20).map(|n| format!("t{n}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let mut groups = groups(&[&names], false);
    let group = &mut groups.0[0];
    let shuffled = order(group, now);
    assert_ne!(shuffled, names, "one in 20! is left to chance");
    let last = shuffled[19].clone();
    answer(group, now, &last, 1, 1);
    let mut expected = vec![last];
    expected.extend_from_slice(&shuffled[..19]);
    assert_eq!(order(group, now), expected);
}

#[test]
fn an_answer_sets_the_time_by_whether_peers_are_wanted() {
    let now = Instant::now();
    let mut groups = groups(&[&["a"]], false);
    let group = &mut groups.0[0];
    assert_eq!(group.next(now, false), Some(now));
    assert_eq!(answer(group, now, "a", 10, 100), Event::Started);
    assert_eq!(group.next(now, true), Some(now + 10 * SECOND));
    assert_eq!(group.next(now, false), Some(now + 100 * SECOND));
    assert_eq!(group.next(now + 50 * SECOND, true), Some(now + 50 * SECOND));
    assert_eq!(answer(group, now, "a", 10, 100), Event::Regular);
}

#[test]
fn rounds_without_an_answer_back_off() {
    let now = Instant::now();
    let pace = Pace::default();
    let mut groups = groups(&[&["a"]], false);
    let group = &mut groups.0[0];
    for wait in [10, 20, 40] {
        refuse(group, now, "a", None);
        group.exhausted(now, &pace, 0.0);
        assert_eq!(group.next(now, true), Some(now + wait * SECOND));
        assert_eq!(group.next(now, false), Some(now + wait * SECOND));
    }
    answer(group, now, "a", 5, 5);
    assert_eq!(group.next(now, true), Some(now + 5 * SECOND));
    refuse(group, now, "a", None);
    group.exhausted(now, &pace, 0.0);
    assert_eq!(group.next(now, true), Some(now + 10 * SECOND), "an answer ends the series");
}

#[test]
fn a_tracker_that_says_when_to_come_back_is_obeyed() {
    let now = Instant::now();
    let pace = Pace::default();
    let mut groups = groups(&[&["a", "b"]], false);
    let group = &mut groups.0[0];
    refuse(group, now, "a", Some(Retry::After(3600 * SECOND)));
    assert_eq!(order(group, now), ["b"]);
    refuse(group, now, "b", Some(Retry::Never));
    assert_eq!(order(group, now), Vec::<String>::new());
    group.exhausted(now, &pace, 0.0);
    assert_eq!(group.next(now, true), Some(now + 3600 * SECOND));
    assert_eq!(order(group, now + 3600 * SECOND), ["a"]);
    refuse(group, now + 3600 * SECOND, "a", Some(Retry::Never));
    assert_eq!(group.next(now, true), None);
}

#[test]
fn completion_is_told_once_to_the_one_that_works_and_never_loops() {
    let now = Instant::now();
    let mut groups = groups(&[&["a"], &["b"]], true);
    answer(&mut groups.0[0], now, "b", 100, 100);
    answer(&mut groups.0[0], now, "a", 100, 100);
    groups.completed();
    groups.completed();
    let group = &mut groups.0[0];
    assert_eq!(group.next(now, false), Some(now));
    assert_eq!(answer(group, now, "a", 100, 100), Event::Completed);
    assert_eq!(group.next(now, false), Some(now + 100 * SECOND), "that the other does not know it is no reason");
    groups.completed();
    assert_eq!(answer(&mut groups.0[0], now, "a", 100, 100), Event::Regular);
}

#[test]
fn only_who_heard_of_the_start_hears_of_the_end() {
    let now = Instant::now();
    let mut groups = groups(&[&["known"], &["failed"], &["in-flight"], &["unasked"]], false);
    answer(&mut groups.0[0], now, "known", 1, 1);
    refuse(&mut groups.0[1], now, "failed", None);
    let asked = place(&mut groups.0[2], now, "in-flight");
    groups.0[2].member(asked).asked();
    let told: Vec<_> = groups.into_members().into_iter().filter(Member::expects_farewell).map(|m| m.url).collect();
    let hosts: Vec<_> = told.iter().filter_map(Url::host_str).collect();
    assert_eq!(hosts, ["known", "in-flight"]);
}

#[test]
fn new_options_keep_what_is_known() {
    let now = Instant::now();
    let mut groups = groups(&[&["a"], &["b"]], false);
    answer(&mut groups.0[0], now, "a", 100, 100);
    let mut options = options(&[&["c", "a", "d"]], true);
    options.trackers[0].push("not a URL".to_owned());
    options.trackers[0].push("http://a/announce".to_owned());
    let (gone, bad) = groups.replace(&options);
    assert_eq!(gone.len(), 1);
    assert_eq!(gone[0].url.host_str(), Some("b"));
    assert_eq!(bad, ["not a URL"]);
    let group = &mut groups.0[0];
    assert_eq!(order(group, now).len(), 3, "a URL that comes twice counts once");
    assert_eq!(order(group, now)[0], "a");
    assert_eq!(group.next(now, false), Some(now + 100 * SECOND));
    assert_eq!(answer(group, now, "a", 1, 1), Event::Regular);
}

#[test]
fn a_list_without_end_is_cut() {
    let names: Vec<_> = (0..1000).map(|n| format!("t{n}")).collect();
    let tiers: Vec<Vec<&str>> = names.iter().map(|name| vec![name.as_str()]).collect();
    let tiers: Vec<&[&str]> = tiers.iter().map(Vec::as_slice).collect();
    assert_eq!(groups(&tiers, false).0.len(), MAX_TRACKERS);
}
