//! Update records pushed from node to node by gossipsub: a topic for each dataset, whose followers subscribe to it.
//!
//! A message is a record and nothing else, without author and signature of its own: the record proves itself, and
//! whoever passes it on stays unnamed. Only what the check finds good, and what is not older than what has come
//! already, is passed on. Nothing is kept: who comes later finds the record in another network.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use libp2p::gossipsub::{
    self, ConfigBuilder, Event, IdentTopic, IdentityTransform, MaxCountSubscriptionFilter, MessageAcceptance,
    MessageAuthenticity, MessageId, PeerScoreParams, PeerScoreThresholds, PublishError, TopicHash, TopicScoreParams,
    TopicSubscriptionFilter, ValidationMode, score_parameter_decay,
};
use sha2::{Digest as _, Sha256};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::records::{
    Desk, GET_TIMEOUT, PushedRecord, RecordCheck, RecordNetwork, RecordNetworkError, checked, key_of, spelled,
};
use crate::types::{InfoSig, MAX_RECORD_LEN, PublicKey, RecordParts};

/// The libp2p behaviour that passes records on.
pub type Behaviour = gossipsub::Behaviour<IdentityTransform, MaxCountSubscriptionFilter<Topics>>;

const NAME: &str = "gossip";
const TOPIC_PREFIX: &str = "/knot/update/1/";
/// Datasets that are followed here, and topics that are kept of a peer. The rest is found by look-ups only.
const MAX_TOPICS: usize = 256;
/// Bytes of a frame: a new connection begins with all topics in one, each with its name and a few bytes more.
const MAX_FRAME: usize = MAX_TOPICS * (TOPIC_PREFIX.len() + 64 + 16) + 2 * MAX_RECORD_LEN;
/// Messages that may wait for one peer.
const MAX_QUEUED: usize = 64;
/// Messages named in one offer of what was missed.
const MAX_OFFERED: usize = 64;
/// Frames are few, so the mesh can take its time; new subscribers join it at once.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// Records of one number that are passed on: two show that the publisher has signed both.
const MAX_OF_ONE_SEQ: usize = 2;
/// How long a peer is remembered for what was no record.
const FORGIVE_AFTER: Duration = Duration::from_secs(10 * 60);

/// The behaviour of a node.
///
/// # Errors
/// When the library refuses the settings.
pub fn behaviour() -> Result<Behaviour, String> {
    let config = ConfigBuilder::default()
        .validation_mode(ValidationMode::Anonymous)
        .validate_messages()
        .message_id_fn(|message| message_id(&message.topic, &message.data))
        .heartbeat_initial_delay(HEARTBEAT)
        .heartbeat_interval(HEARTBEAT)
        .flood_publish(true)
        .max_transmit_size(MAX_FRAME)
        .max_control_message_size(MAX_FRAME)
        .max_control_messages_sent(MAX_OFFERED)
        .connection_handler_queue_len(MAX_QUEUED)
        .build()
        .map_err(|error| error.to_string())?;
    let topics = MaxCountSubscriptionFilter {
        filter: Topics,
        max_subscribed_topics: MAX_TOPICS,
        max_subscriptions_per_request: MAX_TOPICS,
    };
    let mut behaviour = Behaviour::new_with_subscription_filter(MessageAuthenticity::Anonymous, config, topics)?;
    // Nodes behind one address are no crime, and silence is none: most topics are silent for days.
    let score = PeerScoreParams { ip_colocation_factor_weight: 0.0, ..PeerScoreParams::default() };
    behaviour.with_peer_score(score, PeerScoreThresholds::default())?;
    Ok(behaviour)
}

/// Only what is no record costs a peer its standing: one puts it out of the mesh, three shut it out.
fn topic_score() -> TopicScoreParams {
    TopicScoreParams {
        topic_weight: 1.0,
        time_in_mesh_weight: 0.0,
        first_message_deliveries_weight: 0.0,
        mesh_message_deliveries_weight: 0.0,
        mesh_failure_penalty_weight: 0.0,
        invalid_message_deliveries_weight: -20.0,
        invalid_message_deliveries_decay: score_parameter_decay(FORGIVE_AFTER),
        ..TopicScoreParams::default()
    }
}

/// The same bytes under another topic are another message: otherwise whoever sends a record under a wrong topic
/// keeps it from the right one.
fn message_id(topic: &TopicHash, data: &[u8]) -> MessageId {
    let digest = Sha256::new().chain_update(topic.as_str()).chain_update([0]).chain_update(data).finalize();
    MessageId::new(&digest)
}

fn topic_of(key: &[u8; 32]) -> IdentTopic {
    IdentTopic::new(format!("{TOPIC_PREFIX}{}", hex::encode(key)))
}

/// Which topics are taken note of: those that a dataset can have.
pub struct Topics;

impl TopicSubscriptionFilter for Topics {
    fn can_subscribe(&mut self, topic: &TopicHash) -> bool {
        let key = topic.as_str().strip_prefix(TOPIC_PREFIX);
        let is_hex = |key: &str| key.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        key.is_some_and(|key| key.len() == 64 && is_hex(key))
    }
}

/// Makes the network, and the driver that works for it beside the behaviour. Records that come are reported over
/// `pushed`.
pub fn network(check: RecordCheck, pushed: mpsc::Sender<PushedRecord>) -> (GossipRecords, GossipDriver) {
    let desk = Arc::new(Desk::new());
    let driver = GossipDriver { desk: desk.clone(), check: check.clone(), pushed, topics: HashMap::new() };
    (GossipRecords { desk, check }, driver)
}

/// A record to be published.
struct Publish {
    topic: TopicHash,
    bytes: Vec<u8>,
    seq: u64,
    done: oneshot::Sender<Result<usize, RecordNetworkError>>,
}

/// Asks for what the driver does.
pub struct GossipRecords {
    desk: Arc<Desk<Publish>>,
    check: RecordCheck,
}

impl RecordNetwork for GossipRecords {
    fn name(&self) -> &'static str {
        NAME
    }

    /// Nothing: this network keeps no records.
    fn get<'a>(&'a self, _: &'a InfoSig, _: Option<&'a PublicKey>, _: Option<u64>) -> BoxFuture<'a, Vec<RecordParts>> {
        futures::future::ready(Vec::new()).boxed()
    }

    /// Returns how many peers it was sent to; none is no error, since there may be no follower yet.
    fn put<'a>(
        &'a self,
        dataset: &'a InfoSig,
        record: &'a RecordParts,
        _: Option<u64>,
    ) -> BoxFuture<'a, Result<usize, RecordNetworkError>> {
        async move {
            let (bytes, checked) = spelled(&self.check, dataset, record)?;
            let _turn = self.desk.turn(GET_TIMEOUT).await.ok_or(RecordNetworkError::Timeout)?;
            let (done, outcome) = oneshot::channel();
            let topic = topic_of(&key_of(dataset)).hash();
            self.desk.ask(Publish { topic, bytes, seq: checked.seq, done });
            match timeout(GET_TIMEOUT, outcome).await {
                Ok(Ok(outcome)) => outcome,
                Ok(Err(_)) | Err(_) => Err(RecordNetworkError::Timeout),
            }
        }
        .boxed()
    }

    fn follow(&self, dataset: &InfoSig) {
        self.desk.follow(dataset);
    }

    fn unfollow(&self, dataset: &InfoSig) {
        self.desk.unfollow(dataset);
    }
}

/// Does it.
pub struct GossipDriver {
    desk: Arc<Desk<Publish>>,
    check: RecordCheck,
    pushed: mpsc::Sender<PushedRecord>,
    topics: HashMap<TopicHash, Followed>,
}

/// A topic that is subscribed to.
struct Followed {
    dataset: InfoSig,
    /// The highest number that has come, and the messages that had it.
    newest: u64,
    seen: Vec<MessageId>,
}

impl Followed {
    /// Whether a record with the number `seq` says what has not been said.
    fn is_news(&self, seq: u64, id: &MessageId) -> bool {
        seq > self.newest || seq == self.newest && self.seen.len() < MAX_OF_ONE_SEQ && !self.seen.contains(id)
    }

    fn note(&mut self, seq: u64, id: MessageId) {
        if seq > self.newest {
            (self.newest, self.seen) = (seq, Vec::new());
        }
        if seq == self.newest && !self.seen.contains(&id) {
            self.seen.push(id);
        }
    }
}

impl GossipDriver {
    /// Waits until [`GossipDriver::drive`] has something to do. Safe to cancel.
    pub async fn changed(&self) {
        self.desk.news().await;
    }

    /// Takes up followed datasets, drops those that no longer are, publishes.
    pub fn drive(&mut self, gossip: &mut Behaviour) {
        if !self.desk.has_news() {
            return;
        }
        let mut wanted: HashMap<_, _> =
            self.desk.followed().into_iter().map(|(key, dataset)| (topic_of(&key).hash(), dataset)).collect();
        self.topics.retain(|topic, _| {
            let stays = wanted.remove(topic).is_some();
            if !stays {
                gossip.unsubscribe(&IdentTopic::new(topic.as_str()));
            }
            stays
        });
        for (topic, dataset) in wanted {
            self.subscribe(gossip, topic, dataset);
        }
        for publish in self.desk.take() {
            let outcome = self.publish(gossip, &publish);
            // Fails if the wait for it is over.
            let _ = publish.done.send(outcome);
        }
    }

    fn subscribe(&mut self, gossip: &mut Behaviour, topic: TopicHash, dataset: InfoSig) {
        if self.topics.len() >= MAX_TOPICS {
            tracing::debug!(%dataset, "looked up only: news of {MAX_TOPICS} datasets are waited for already");
            return;
        }
        let name = IdentTopic::new(topic.as_str());
        if let Err(error) = gossip.set_topic_params(name.clone(), topic_score()) {
            tracing::debug!(%error, "peers are not scored");
        }
        match gossip.subscribe(&name) {
            Ok(_) => drop(self.topics.insert(topic, Followed { dataset, newest: 0, seen: Vec::new() })),
            Err(error) => tracing::debug!(%dataset, %error, "news are not waited for"),
        }
    }

    fn publish(&mut self, gossip: &mut Behaviour, publish: &Publish) -> Result<usize, RecordNetworkError> {
        if let Some(followed) = self.topics.get_mut(&publish.topic) {
            if followed.newest > publish.seq {
                return Err(RecordNetworkError::Conflict);
            }
            followed.note(publish.seq, message_id(&publish.topic, &publish.bytes));
        }
        let peers = gossip.all_peers().filter(|(_, topics)| topics.contains(&&publish.topic)).count();
        match gossip.publish(publish.topic.clone(), publish.bytes.clone()) {
            // The peers have had it within the last minute.
            Ok(_) | Err(PublishError::Duplicate) => Ok(peers),
            Err(PublishError::NoPeersSubscribedToTopic) => Ok(0),
            Err(error) => Err(RecordNetworkError::Failed(format!("not published: {error}"))),
        }
    }

    /// Takes an event of the behaviour.
    pub fn handle(&mut self, gossip: &mut Behaviour, event: Event) {
        let Event::Message { propagation_source, message_id, message } = event else { return };
        let verdict = self.judge(&message.topic, &message_id, &message.data);
        gossip.report_message_validation_result(&message_id, &propagation_source, verdict);
    }

    fn judge(&mut self, topic: &TopicHash, id: &MessageId, bytes: &[u8]) -> MessageAcceptance {
        let Some(followed) = self.topics.get_mut(topic) else { return MessageAcceptance::Ignore };
        if followed.seen.contains(id) {
            return MessageAcceptance::Ignore;
        }
        let good = checked(&self.check, bytes).filter(|(_, checked)| checked.dataset == followed.dataset);
        let Some((record, checked)) = good else { return MessageAcceptance::Reject };
        if !followed.is_news(checked.seq, id) {
            return MessageAcceptance::Ignore;
        }
        followed.note(checked.seq, id.clone());
        let pushed = PushedRecord { dataset: checked.dataset, record, source: NAME };
        if self.pushed.try_send(pushed).is_err() {
            tracing::debug!(dataset = %checked.dataset, "too many records at once: a look-up brings this one again");
        }
        MessageAcceptance::Accept
    }
}
