//! Update records in a DHT whose only node is libtorrent.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[allow(dead_code, unreachable_pub)]
mod support;

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use knot::discovery::dht::{Dht, DhtConfig};
use knot::discovery::{CheckedRecord, Progress, RecordCheck, RecordNetwork};
use knot::metainfo::SecretKey;
use knot::types::{Digest, InfoHash, RecordParts};
use knot::updates::UpdateRecord;
use tokio::sync::mpsc;

use support::clients::LibtorrentDht;

fn check() -> RecordCheck {
    Arc::new(|bytes| {
        let record = UpdateRecord::verify_own(&RecordParts::from_bytes(bytes)?).ok()?;
        Some(CheckedRecord { dataset: *record.original(), seq: record.seq() })
    })
}

fn network(bootstrap: &str) -> (Dht, Arc<dyn RecordNetwork>) {
    let config = DhtConfig {
        bind: Ipv4Addr::LOCALHOST,
        port: Some(0),
        bootstrap: vec![bootstrap.to_owned()],
        ..DhtConfig::default()
    };
    let dht = Dht::new(config, Arc::new(|_| Progress::default()), mpsc::channel(1).0);
    let records = dht.records(check());
    (dht, records)
}

/// libtorrent keeps an item only if the signature is that of BEP 44.
#[tokio::test]
async fn libtorrent_keeps_a_record_and_gives_it_to_another_reader() {
    let libtorrent = LibtorrentDht::start("127.0.0.1");
    let hash = |byte| InfoHash(Digest::from([byte; 32]));
    let key = SecretKey::from_seed(&[1; 32]);
    let record = |seq| UpdateRecord::sign(&key, hash(0x11), hash(0x22), seq, 1_800_000_000).unwrap();
    let dataset = *record(1).original();
    let ((_one, publisher), (_two, reader)) = (network(&libtorrent.addr), network(&libtorrent.addr));
    let until = Instant::now() + Duration::from_secs(60);
    while let Err(error) = publisher.put(&dataset, &record(1).parts(), None).await {
        assert!(Instant::now() < until, "{error}");
    }
    assert_eq!(publisher.put(&dataset, &record(2).parts(), Some(1)).await, Ok(1));
    let found = reader.get(&dataset, Some(&key.public()), None).await;
    assert_eq!(found, [record(2).parts()]);
    UpdateRecord::verify(&found[0], &dataset).unwrap();
    assert!(publisher.put(&dataset, &record(1).parts(), None).await.is_err(), "libtorrent has a newer one");
    assert_eq!(reader.get(&dataset, Some(&key.public()), Some(2)).await, []);
}
