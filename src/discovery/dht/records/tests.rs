//! A DHT of its own on loopback.

use std::net::{Ipv4Addr, SocketAddr};

use mainline::Testnet;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;

use super::*;
use crate::discovery::dht::{Dht, DhtConfig};
use crate::discovery::records::samples::{SAMPLE, Sample, check, seqs};
use crate::discovery::{Progress, Source as _};
use crate::types::bencode::Value;
use crate::updates::UpdateRecord;

fn network(bootstrap: &[String]) -> (Dht, Arc<dyn RecordNetwork>) {
    let config = DhtConfig {
        bind: Ipv4Addr::LOCALHOST,
        port: Some(0),
        bootstrap: bootstrap.to_vec(),
        request_timeout: Duration::from_millis(300),
        ..DhtConfig::default()
    };
    let dht = Dht::new(config, Arc::new(|_| Progress::default()), mpsc::channel(1).0);
    let records = dht.records(check());
    (dht, records)
}

#[tokio::test]
async fn records_are_found_by_the_key_alone_and_mirrors_put_them_in_again() {
    let testnet = Testnet::builder(5).build().unwrap();
    let (dataset, key) = (SAMPLE.dataset(), SAMPLE.key());
    let ((_one, publisher), (_two, reader)) = (network(&testnet.bootstrap), network(&testnet.bootstrap));
    assert_eq!(publisher.name(), "dht");
    assert_eq!(reader.get(&dataset, Some(&key), None).await, []);
    assert!(publisher.put(&dataset, &SAMPLE.parts(1), None).await.unwrap() > 0);
    assert_eq!(reader.get(&dataset, Some(&key), None).await, [SAMPLE.parts(1)]);
    assert_eq!(reader.get(&dataset, Some(&key), Some(1)).await, [], "nothing is newer");
    assert_eq!(reader.get(&dataset, None, None).await, [], "nobody can look without the key");
    let sibling = Sample { first: 9, ..SAMPLE };
    assert_eq!(reader.get(&sibling.dataset(), Some(&key), None).await, []);

    publisher.put(&dataset, &SAMPLE.parts(2), Some(1)).await.unwrap();
    assert_eq!(reader.get(&dataset, Some(&key), Some(1)).await, [SAMPLE.parts(2)]);
    // Who has no secret key puts in the same bytes: in this network, and in another one.
    let copy = reader.get(&dataset, Some(&key), None).await.remove(0);
    assert!(reader.put(&dataset, &copy, None).await.unwrap() > 0);
    let elsewhere = Testnet::builder(3).build().unwrap();
    let (_three, mirror) = network(&elsewhere.bootstrap);
    mirror.follow(&dataset);
    mirror.put(&dataset, &copy, None).await.unwrap();
    let (_four, late) = network(&elsewhere.bootstrap);
    let found = late.get(&dataset, Some(&key), None).await.remove(0);
    assert_eq!(found, SAMPLE.parts(2));
    UpdateRecord::verify(&found, &dataset).unwrap();
    mirror.unfollow(&dataset);
}

#[tokio::test]
async fn the_network_that_is_ahead_is_a_conflict() {
    let testnet = Testnet::builder(5).build().unwrap();
    let (dataset, key) = (SAMPLE.dataset(), SAMPLE.key());
    let ((_one, alice), (_two, bob)) = (network(&testnet.bootstrap), network(&testnet.bootstrap));
    alice.put(&dataset, &SAMPLE.parts(3), None).await.unwrap();
    let conflict = Err(RecordNetworkError::Conflict);
    assert_eq!(bob.put(&dataset, &SAMPLE.parts(2), None).await, conflict, "a stale one");
    assert_eq!(bob.put(&dataset, &SAMPLE.parts(4), Some(1)).await, conflict, "he knows of the first only");
    assert_eq!(bob.put(&dataset, &SAMPLE.conflicting(3), Some(2)).await, conflict, "both publish the third");
    assert_eq!(seqs(&alice.get(&dataset, Some(&key), None).await), [3]);
    // The network has forgotten the fourth: that is no reason not to publish the fifth.
    bob.put(&dataset, &SAMPLE.parts(5), Some(4)).await.unwrap();
    assert_eq!(seqs(&alice.get(&dataset, Some(&key), None).await), [5]);

    let other = Sample { publisher: 2, ..SAMPLE };
    let wrong = alice.put(&dataset, &other.parts(9), None).await;
    assert!(matches!(wrong, Err(RecordNetworkError::Failed(_))), "{wrong:?}");
    let forged = RecordParts { signature: [7; 64], ..SAMPLE.parts(9) };
    let forged = alice.put(&dataset, &forged, None).await;
    assert!(matches!(forged, Err(RecordNetworkError::Failed(_))), "{forged:?}");
}

/// A node that answers as any other would and keeps the item that it was asked to store.
async fn stored_at(socket: &UdpSocket) -> Vec<u8> {
    let mut packet = [0; 2048];
    loop {
        let (len, from): (usize, SocketAddr) = socket.recv_from(&mut packet).await.unwrap();
        let (message, _) = Value::read(&packet[..len]).unwrap();
        let text = |value: &Value<'_>, key: &str| value.get(key).and_then(Value::bytes).map(<[u8]>::to_vec);
        let Some(query) = text(&message, "q") else { continue };
        if query == b"put" {
            return packet[..len].to_vec();
        }
        let transaction = text(&message, "t").unwrap();
        let mut answer = b"d1:rd2:id20:ABCDEFGHIJKLMNOPQRST5:nodes0:5:token4:good".to_vec();
        answer.extend_from_slice(format!("e1:t{}:", transaction.len()).as_bytes());
        answer.extend_from_slice(&transaction);
        answer.extend_from_slice(b"1:y1:re");
        socket.send_to(&answer, from).await.unwrap();
    }
}

#[tokio::test]
async fn the_item_on_the_wire_is_the_signed_one_with_a_byte_string_as_value() {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let bootstrap = [socket.local_addr().unwrap().to_string()];
    let (_dht, records) = network(&bootstrap);
    let record = SAMPLE.parts(7);
    let dataset = SAMPLE.dataset();
    let packet = tokio::select! {
        packet = timeout(Duration::from_secs(60), stored_at(&socket)) => packet.unwrap(),
        outcome = records.put(&dataset, &record, Some(6)) => panic!("nobody was asked to store it: {outcome:?}"),
    };
    let (message, _) = Value::read(&packet).unwrap();
    let item = message.get("a").unwrap();
    for (name, expected) in [
        ("k", &record.key[..]),
        ("salt", &record.salt),
        ("sig", &record.signature),
        ("token", b"good"),
        ("v", &record.value),
    ] {
        assert_eq!(item.get(name).and_then(Value::bytes), Some(expected), "{name}");
    }
    assert_eq!(item.get("seq").and_then(Value::int), Some(7));
    assert_eq!(item.get("cas").and_then(Value::int), Some(6));
    let as_byte_string = [format!("1:v{}:", record.value.len()).as_bytes(), &record.value].concat();
    assert!(packet.windows(as_byte_string.len()).any(|window| window == as_byte_string));
}

#[tokio::test]
async fn a_network_that_is_not_there_is_no_record_and_is_told() {
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let (dht, records) = network(&[silent.local_addr().unwrap().to_string()]);
    let (dataset, key) = (SAMPLE.dataset(), SAMPLE.key());
    let all = async {
        assert_eq!(records.get(&dataset, Some(&key), None).await, []);
        let error = records.put(&dataset, &SAMPLE.parts(1), None).await.unwrap_err();
        assert!(matches!(error, RecordNetworkError::NotReady(_) | RecordNetworkError::Timeout), "{error:?}");
        dht.shutdown().await;
        assert_eq!(records.get(&dataset, Some(&key), None).await, []);
        let error = records.put(&dataset, &SAMPLE.parts(1), None).await.unwrap_err();
        assert!(matches!(error, RecordNetworkError::NotReady(_)), "{error:?}");
    };
    timeout(Duration::from_secs(120), all).await.unwrap();
}
