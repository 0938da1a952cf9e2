//! Update records between swarms on loopback, and strangers that send what they should not.

use std::time::Instant;

use futures::StreamExt as _;
use libp2p::gossipsub::{self, IdentTopic, PublishError};
use libp2p::kad::store::MemoryStore;
use libp2p::kad::{self, GetRecordOk, Mode, QueryResult, Quorum, Record, RecordKey};
use libp2p::swarm::{NetworkBehaviour, SwarmEvent};
use libp2p::{Multiaddr, Swarm, SwarmBuilder, identify, noise, tcp, yamux};
use tokio::time::{sleep, timeout};

use super::*;
use crate::discovery::RecordNetworkError;
use crate::discovery::kad::KAD_PROTOCOL;
use crate::discovery::records::samples::{SAMPLE, Sample, seqs};
use crate::types::InfoSig;

const OTHER: Sample = Sample { publisher: 3, first: 0x44 };

async fn start(kad: bool, gossip: bool, bootstrap: Vec<String>) -> NodeSwarm {
    NodeSwarm::start(SwarmConfig {
        key: Keypair::generate_ed25519(),
        listen: vec!["/ip4/127.0.0.1/tcp/0".to_owned()],
        kad,
        mdns: false,
        gossip,
        bootstrap,
    })
    .await
    .unwrap()
}

fn network(node: &NodeSwarm) -> Arc<dyn RecordNetwork> {
    let [network] = &node.record_networks()[..] else { panic!("one network is on") };
    network.clone()
}

/// Puts the record in until `nodes` take it: a network takes a moment to come together.
async fn put(network: &Arc<dyn RecordNetwork>, sample: Sample, seq: u64, nodes: usize) {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        let outcome = network.put(&sample.dataset(), &sample.parts(seq), None).await;
        if outcome == Ok(nodes) {
            return;
        }
        assert!(Instant::now() < until, "put in at {nodes} nodes: {outcome:?}");
        sleep(Duration::from_millis(50)).await;
    }
}

async fn next(pushed: &mut mpsc::Receiver<PushedRecord>) -> PushedRecord {
    timeout(Duration::from_secs(30), pushed.recv()).await.unwrap().unwrap()
}

/// Who speaks the protocols and keeps no rules.
fn stranger<B: NetworkBehaviour>(node: &NodeSwarm, behaviour: impl FnOnce(&Keypair) -> B) -> Swarm<B> {
    let mut swarm = SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)
        .unwrap()
        .with_behaviour(|key| Ok(behaviour(key)))
        .unwrap()
        .with_swarm_config(|config| config.with_idle_connection_timeout(Duration::from_secs(60)))
        .build();
    swarm.dial(node.listen_addrs()[0].parse::<Multiaddr>().unwrap()).unwrap();
    swarm
}

fn key(dataset: &InfoSig) -> RecordKey {
    RecordKey::new(&UpdateRecord::kad_key(dataset))
}

#[derive(NetworkBehaviour)]
struct KadStranger {
    kad: kad::Behaviour<MemoryStore>,
    identify: identify::Behaviour,
}

fn kad_stranger(node: &NodeSwarm) -> Swarm<KadStranger> {
    let mut swarm = stranger(node, |keypair| {
        let local = keypair.public().to_peer_id();
        let mut kad = kad::Behaviour::with_config(local, MemoryStore::new(local), kad::Config::new(KAD_PROTOCOL));
        kad.set_mode(Some(Mode::Client));
        let identify = identify::Behaviour::new(identify::Config::new("/knot/1".to_owned(), keypair.public()));
        KadStranger { kad, identify }
    });
    let addr: Multiaddr = node.listen_addrs()[0].parse().unwrap();
    swarm.behaviour_mut().kad.add_address(&node.peer_id().0.parse().unwrap(), addr);
    swarm
}

async fn result(swarm: &mut Swarm<KadStranger>) -> (QueryResult, bool) {
    loop {
        let event = timeout(Duration::from_secs(60), swarm.select_next_some()).await.unwrap();
        if let SwarmEvent::Behaviour(KadStrangerEvent::Kad(kad::Event::OutboundQueryProgressed {
            result, step, ..
        })) = event
            && matches!(result, QueryResult::GetRecord(_) | QueryResult::PutRecord(_))
        {
            return (result, step.last);
        }
    }
}

/// Leaves the record at two nodes, whatever they think of it.
async fn leave(swarm: &mut Swarm<KadStranger>, key: &RecordKey, value: Vec<u8>) {
    let quorum = Quorum::N(2.try_into().unwrap());
    swarm.behaviour_mut().kad.put_record(Record::new(key.clone(), value), quorum).unwrap();
    let (result, _) = result(swarm).await;
    assert!(matches!(result, QueryResult::PutRecord(Ok(_))), "{result:?}");
}

/// What the nodes have under the key.
async fn kept(swarm: &mut Swarm<KadStranger>, key: &RecordKey) -> Vec<Vec<u8>> {
    swarm.behaviour_mut().kad.remove_record(key);
    swarm.behaviour_mut().kad.get_record(key.clone());
    let mut values = Vec::new();
    loop {
        match result(swarm).await {
            (QueryResult::GetRecord(Ok(GetRecordOk::FoundRecord(found))), _) => values.push(found.record.value),
            (_, true) => return values,
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kad_keeps_the_newest_good_record_whatever_strangers_bring() {
    let hub = start(true, false, vec![]).await;
    let publisher = start(true, false, hub.listen_addrs()).await;
    let mut reader = start(true, false, hub.listen_addrs()).await;
    let dataset = SAMPLE.dataset();
    let (one, two) = (network(&publisher), network(&reader));
    assert_eq!(one.name(), "kad");
    put(&one, SAMPLE, 2, 2).await;
    assert_eq!(two.get(&dataset, None, None).await, [SAMPLE.parts(2)]);
    assert_eq!(two.get(&OTHER.dataset(), None, None).await, []);

    let mut stranger = kad_stranger(&hub);
    let (key, other) = (key(&dataset), key(&OTHER.dataset()));
    let good = SAMPLE.parts(2).to_bytes();
    let three = vec![good.clone(), good.clone(), good.clone()];
    let forged = RecordParts { signature: [7; 64], ..SAMPLE.parts(9) };
    for bad in [
        vec![b'x'; 10_000],
        forged.to_bytes(),
        OTHER.parts(9).to_bytes(),
        SAMPLE.parts(1).to_bytes(),
        SAMPLE.conflicting(2).to_bytes(),
    ] {
        leave(&mut stranger, &key, bad).await;
        assert_eq!(kept(&mut stranger, &key).await, three);
    }
    leave(&mut stranger, &other, good.clone()).await;
    assert_eq!(kept(&mut stranger, &other).await, Vec::<Vec<u8>>::new());

    // A newer one is taken from anybody, and is news to a node that happens to keep it.
    let mut pushed = reader.take_records().unwrap();
    two.follow(&dataset);
    leave(&mut stranger, &key, SAMPLE.parts(3).to_bytes()).await;
    put(&one, SAMPLE, 3, 2).await;
    let news = PushedRecord { dataset, record: SAMPLE.parts(3), source: "kad" };
    assert_eq!(next(&mut pushed).await, news);
    assert_eq!(seqs(&two.get(&dataset, None, Some(2)).await), [3]);

    let conflict = Err(RecordNetworkError::Conflict);
    assert_eq!(two.put(&dataset, &SAMPLE.parts(2), None).await, conflict, "a stale one");
    assert_eq!(two.put(&dataset, &SAMPLE.parts(4), Some(2)).await, conflict, "somebody has published the third");
    assert_eq!(two.put(&dataset, &SAMPLE.parts(4), Some(3)).await, Ok(2));
    assert_eq!(seqs(&one.get(&dataset, None, None).await), [4]);
    let forged = two.put(&dataset, &forged, None).await;
    assert!(matches!(forged, Err(RecordNetworkError::Failed(_))), "{forged:?}");
}

/// Nodes that differ in what they have: a look-up does not end at the first answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kad_brings_what_several_nodes_have() {
    let (stale, fresh) = (start(true, false, vec![]).await, start(true, false, vec![]).await);
    for (node, seq) in [(&stale, 1), (&fresh, 2)] {
        let alone = network(node).put(&SAMPLE.dataset(), &SAMPLE.parts(seq), None).await;
        assert!(matches!(alone, Err(RecordNetworkError::NotReady(_))), "{alone:?}");
    }
    let reader = start(true, false, [stale.listen_addrs(), fresh.listen_addrs()].concat()).await;
    put(&network(&reader), OTHER, 1, 2).await;
    assert_eq!(seqs(&network(&reader).get(&SAMPLE.dataset(), None, None).await), [1, 2]);
}

fn topic(dataset: &InfoSig) -> IdentTopic {
    IdentTopic::new(format!("/knot/update/1/{}", hex::encode(UpdateRecord::kad_key(dataset))))
}

type Gossip = Swarm<crate::discovery::gossip::Behaviour>;

/// A stranger that subscribes to the topic and waits for the node to do so.
async fn gossip_stranger(node: &NodeSwarm, topic: &IdentTopic) -> Gossip {
    let mut swarm = stranger(node, |_| crate::discovery::gossip::behaviour().unwrap());
    swarm.behaviour_mut().subscribe(topic).unwrap();
    until(&mut swarm, |event| matches!(event, gossipsub::Event::Subscribed { .. }).then_some(())).await;
    swarm
}

async fn until<T>(swarm: &mut Gossip, mut wanted: impl FnMut(gossipsub::Event) -> Option<T>) -> T {
    let found = async {
        loop {
            if let SwarmEvent::Behaviour(event) = swarm.select_next_some().await
                && let Some(found) = wanted(event)
            {
                return found;
            }
        }
    };
    timeout(Duration::from_secs(30), found).await.unwrap()
}

async fn message(swarm: &mut Gossip) -> Vec<u8> {
    until(swarm, |event| match event {
        gossipsub::Event::Message { message, .. } => Some(message.data),
        _ => None,
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gossip_goes_from_node_to_node_until_nobody_follows() {
    let dataset = SAMPLE.dataset();
    let publisher = start(false, true, vec![]).await;
    let mut middle = start(false, true, publisher.listen_addrs()).await;
    let mut end = start(false, true, middle.listen_addrs()).await;
    let (publish, between, last) = (network(&publisher), network(&middle), network(&end));
    assert_eq!(publish.name(), "gossip");
    let (mut between_pushed, mut last_pushed) = (middle.take_records().unwrap(), end.take_records().unwrap());
    assert_eq!(publish.put(&dataset, &SAMPLE.parts(1), None).await, Ok(0), "nobody follows yet");
    for _ in 0..2 {
        between.follow(&dataset);
    }
    last.follow(&dataset);
    // The middle one takes the first record that it hears; the end may not be in its mesh by then.
    put(&publish, SAMPLE, 2, 1).await;
    assert_eq!(next(&mut between_pushed).await.record, SAMPLE.parts(2));
    let mut reached = None;
    for seq in 3..60 {
        publish.put(&dataset, &SAMPLE.parts(seq), None).await.unwrap();
        assert_eq!(next(&mut between_pushed).await.record, SAMPLE.parts(seq));
        if let Ok(Some(pushed)) = timeout(Duration::from_millis(500), last_pushed.recv()).await {
            reached = Some((seq, pushed));
            break;
        }
    }
    let (seq, pushed) = reached.expect("a record that reached the end");
    assert_eq!(pushed, PushedRecord { dataset, record: SAMPLE.parts(pushed.record.seq as u64), source: "gossip" });

    assert_eq!(between.put(&dataset, &SAMPLE.parts(seq - 1), None).await, Err(RecordNetworkError::Conflict));
    between.unfollow(&dataset);
    put(&publish, SAMPLE, seq + 1, 1).await;
    assert_eq!(next(&mut between_pushed).await.record, SAMPLE.parts(seq + 1), "it still follows");
    between.unfollow(&dataset);
    put(&publish, SAMPLE, seq + 2, 0).await;
    assert!(publish.get(&dataset, None, None).await.is_empty(), "nothing is kept");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gossip_passes_on_only_what_is_good_and_new() {
    let dataset = SAMPLE.dataset();
    let mut node = start(false, true, vec![]).await;
    let mut pushed = node.take_records().unwrap();
    let network = network(&node);
    network.follow(&dataset);
    let topic = topic(&dataset);
    let mut liar = gossip_stranger(&node, &topic).await;
    let mut listener = gossip_stranger(&node, &topic).await;
    let good = |seq| SAMPLE.parts(seq).to_bytes();
    let first = good(1);
    let listener = tokio::spawn(async move {
        let mut heard = Vec::new();
        while heard.len() < 3 {
            heard.extend(Some(message(&mut listener).await).filter(|message| *message != first));
        }
        (heard, listener)
    });
    // Both have subscribed when it can be sent to both.
    tokio::select! {
        () = put(&network, SAMPLE, 1, 2) => {}
        () = until(&mut liar, |_| None::<()>) => {}
    }
    let forged = RecordParts { signature: [7; 64], ..SAMPLE.parts(9) };
    // Two that are no records of the dataset, a good one, one that is old, one of the same number, and one too many.
    let conflicting = SAMPLE.conflicting(5).to_bytes();
    for sent in [forged.to_bytes(), OTHER.parts(9).to_bytes(), good(5), good(4), conflicting.clone(), good(6)] {
        liar.behaviour_mut().publish(topic.clone(), sent).unwrap();
    }
    let liar_task = tokio::spawn(async move {
        until(&mut liar, |event| matches!(event, gossipsub::Event::Unsubscribed { .. }).then_some(())).await;
        liar
    });
    let expected = [good(5), conflicting, good(6)];
    for record in &expected {
        assert_eq!(next(&mut pushed).await.record.to_bytes(), *record);
    }
    let (heard, _listener) = listener.await.unwrap();
    assert_eq!(heard, expected);
    network.unfollow(&dataset);
    let mut liar = liar_task.await.unwrap();
    let lost = liar.behaviour_mut().publish(topic, good(7));
    assert!(matches!(lost, Err(PublishError::NoPeersSubscribedToTopic)), "{lost:?}");
    assert!(pushed.try_recv().is_err());
}
