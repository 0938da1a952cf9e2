//! Where the followers of a dataset meet: records of versions, and no content.

use bytes::Bytes;

use super::lab::{CONN, Lab, handshakes, is_closed, sent};
use crate::engine::sim::TORRENT;
use crate::engine::{Input, Meeting, Output};
use crate::metainfo::{SecretKey, testing};
use crate::types::{ConnId, HashAlgorithm, PeerAddr};
use crate::wire::{ExtensionHandshake, KNOT_METAINFO, KNOT_UPDATE, KNOT_UPDATE_ID, Message, UpdateMessage};

/// The peer's number for the extension.
const THEIRS: u8 = 9;

fn meeting(search: bool, lends: bool) -> Lab {
    let (metainfo, _) = testing::torrent(HashAlgorithm::Blake3, 1 << 14, &[testing::content(1, 100)]);
    let mut lab = Lab::with(metainfo.sign(&SecretKey::from_seed(&[1; 32])).unwrap(), |_| {});
    let envelope = lends.then(|| lab.metainfo.public_bytes());
    let meeting = Meeting { id: lab.metainfo.info_id(), search, envelope };
    lab.put(Input::Meet { torrent: TORRENT, meeting });
    lab
}

/// A peer comes that follows versions.
fn greet(lab: &mut Lab, conn: ConnId, node: usize) -> Vec<Output> {
    let mut out = lab.connect(conn, node, true, true);
    let theirs =
        ExtensionHandshake { extensions: [(KNOT_UPDATE.to_owned(), THEIRS)].into(), ..ExtensionHandshake::default() };
    out.extend(lab.hear(conn, Message::Extended { id: 0, payload: theirs.encode() }));
    out
}

/// What was said of versions, and to whom.
fn told(out: &[Output]) -> Vec<(ConnId, UpdateMessage)> {
    let message = |out: &Output| match out {
        Output::Send { conn, message: Message::Extended { id: THEIRS, payload } } => {
            Some((*conn, UpdateMessage::decode(payload).unwrap()))
        }
        _ => None,
    };
    out.iter().filter_map(message).collect()
}

fn hear(lab: &mut Lab, conn: ConnId, message: &UpdateMessage) -> Vec<Output> {
    lab.hear(conn, Message::Extended { id: KNOT_UPDATE_ID, payload: message.encode() })
}

fn record(text: &'static str) -> UpdateMessage {
    UpdateMessage::Record(Some(Bytes::from_static(text.as_bytes())))
}

#[test]
fn peers_hear_of_the_newest_record_when_they_come_and_when_it_changes() {
    let mut lab = meeting(false, false);
    let out = greet(&mut lab, CONN, 1);
    assert_eq!(told(&out), [(CONN, UpdateMessage::Record(None))], "that nothing is known is worth saying, too");
    assert!(handshakes(&out)[0].extensions.contains_key(KNOT_UPDATE));
    let is_met = |out: &Output| matches!(out, Output::PeerMet { addr: PeerAddr::Memory(1), .. });
    assert_eq!(out.iter().filter(|out| is_met(out)).count(), 1);

    let tell = |lab: &mut Lab, text: &'static str| {
        lab.put(Input::TellRecord { torrent: TORRENT, record: Bytes::from_static(text.as_bytes()) })
    };
    assert_eq!(told(&tell(&mut lab, "one")), [(CONN, record("one"))]);
    assert_eq!(told(&tell(&mut lab, "one")), [], "nobody is told twice");
    let other = ConnId(8);
    assert_eq!(told(&greet(&mut lab, other, 2)), [(other, record("one"))]);
    // Who brought a record is not told of it.
    let heard = hear(&mut lab, other, &record("two"));
    assert!(matches!(&heard[..], [Output::RecordHeard { record: Some(record), .. }] if record == "two"), "{heard:?}");
    assert_eq!(told(&tell(&mut lab, "two")), [(CONN, record("two"))]);
}

#[test]
fn records_of_versions_can_be_asked_for() {
    let mut lab = meeting(false, false);
    greet(&mut lab, CONN, 1);
    let asked = hear(&mut lab, CONN, &UpdateMessage::Ask { seq: 5 });
    assert!(matches!(&asked[..], [Output::RecordAsked { conn: CONN, seq: 5, .. }]), "{asked:?}");
    let answer = lab.put(Input::SendRecord { conn: CONN, record: Some(Bytes::from_static(b"five")) });
    assert_eq!(told(&answer), [(CONN, record("five"))]);
    let ask = lab.put(Input::AskRecord { torrent: TORRENT, seq: 3 });
    assert_eq!(told(&ask), [(CONN, UpdateMessage::Ask { seq: 3 })]);
}

#[test]
fn of_who_says_too_much_the_last_word_is_heard_and_nonsense_ends_a_connection() {
    let mut lab = meeting(false, false);
    greet(&mut lab, CONN, 1);
    let heard = (0..1000).filter(|_| !hear(&mut lab, CONN, &record("again")).is_empty()).count();
    assert!((1..100).contains(&heard), "{heard}");
    assert!(hear(&mut lab, CONN, &record("last")).is_empty());
    let heard = lab.wait(2 * super::lab::S);
    let records = |out: &[Output]| out.iter().filter(|out| matches!(out, Output::RecordHeard { .. })).count();
    let is_last = |out: &Output| matches!(out, Output::RecordHeard { record: Some(record), .. } if record == "last");
    assert!(heard.iter().any(is_last) && records(&heard) == 1, "{heard:?}");
    assert!(!hear(&mut lab, CONN, &record("later")).is_empty());
    assert_eq!(records(&lab.wait(2 * super::lab::S)), 0);
    assert!(is_closed(&lab.hear(CONN, Message::Extended { id: KNOT_UPDATE_ID, payload: Bytes::from_static(b"x") })));
}

#[test]
fn the_metainfo_of_the_first_version_is_lent_and_searched_where_it_is_wanted() {
    let mut lender = meeting(false, true);
    let size = lender.metainfo.public_bytes().len() as u64;
    let out = greet(&mut lender, CONN, 1);
    assert_eq!(handshakes(&out)[0].metainfo_size, Some(size));
    let mut searching = meeting(true, false);
    searching.connect(CONN, 1, true, true);
    let offer = ExtensionHandshake {
        extensions: [(KNOT_METAINFO.to_owned(), 8)].into(),
        metainfo_size: Some(size),
        ..ExtensionHandshake::default()
    };
    let out = searching.hear(CONN, Message::Extended { id: 0, payload: offer.encode() });
    assert!(sent(&out).iter().any(|message| matches!(message, Message::Extended { id: 8, .. })), "{out:?}");
    // As soon as a version is known, the first one is not needed.
    let meeting = Meeting { id: searching.metainfo.info_id(), search: false, envelope: None };
    searching.put(Input::Meet { torrent: TORRENT, meeting });
    assert_eq!(searching.stats().metainfo_pieces, None);
}

#[test]
fn torrents_say_nothing_of_versions() {
    let mut lab = Lab::new(HashAlgorithm::Sha256Merkle, true);
    let out = greet(&mut lab, CONN, 1);
    assert!(!handshakes(&out)[0].extensions.contains_key(KNOT_UPDATE) && told(&out).is_empty());
    assert!(hear(&mut lab, CONN, &record("one")).is_empty());
}
