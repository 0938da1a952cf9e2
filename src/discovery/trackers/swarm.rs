//! The task of one swarm: keeps its trackers informed from join to leave.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use futures::future::join_all;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::{sleep_until, timeout};
use url::Url;

use super::announce::{Announce, Answer, Event, TrackerError};
use super::board::{Board, Outcome, shown};
use super::client::TrackerClient;
use super::tiers::{Group, Groups, Member, Place};
use super::{NAME, TrackerLimits};
use crate::discovery::{Found, JoinOptions, ProgressFn};
use crate::types::{PeerAddr, SwarmId, WirePeerId};

/// How often it is looked whether peers are wanted, once they may be asked for.
const LOOK_AGAIN: Duration = Duration::from_secs(20);
/// Missing bytes that are named while the metainfo is unknown: a peer that misses none would count as a seeder.
const UNKNOWN_LEFT: u64 = 16 * 1024;
/// Peers that are asked for while they are wanted, and otherwise.
const WANT: u32 = 200;
const WANT_FEW: u32 = 20;

/// What the tasks of all swarms share.
pub(super) struct Shared {
    pub(super) client: TrackerClient,
    pub(super) limits: TrackerLimits,
    pub(super) peer_id: WirePeerId,
    pub(super) progress: ProgressFn,
    pub(super) found: mpsc::Sender<Found>,
    pub(super) board: Board,
    /// Announces that may be under way at a time.
    pub(super) slots: Semaphore,
}

/// What is asked of the task of a swarm.
#[derive(Clone, Debug, Default)]
pub(super) struct Orders {
    /// `None`: leave, and end.
    pub(super) options: Option<JoinOptions>,
    pub(super) completed: bool,
}

/// One swarm's part.
struct Swarm {
    shared: Arc<Shared>,
    id: SwarmId,
    key: u32,
}

/// Works until the orders are to leave, and ends when the trackers have heard of it.
pub(super) async fn run(shared: Arc<Shared>, id: SwarmId, mut orders: watch::Receiver<Orders>) {
    let swarm = Swarm { shared, id, key: rand::random() };
    let mut groups = Groups::default();
    let mut port = None;
    loop {
        let Orders { options, completed } = orders.borrow_and_update().clone();
        let Some(options) = options else { break };
        port = options.port;
        let (gone, bad) = groups.replace(&options);
        for _ in bad {
            swarm.shared.board.set(swarm.id, "unreadable URL", Outcome::Failed(1, "expected a URL".to_owned()));
        }
        swarm.farewell(gone, port).await;
        if completed {
            groups.completed();
        }
        let work = async {
            join_all(groups.0.iter_mut().map(|group| swarm.serve(group, port))).await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = work => {}
            changed = orders.changed() => if changed.is_err() { break },
        }
    }
    swarm.farewell(groups.into_members(), port).await;
    swarm.shared.board.clear(swarm.id);
}

impl Swarm {
    /// Asks the trackers of a group whenever it is time. Ends when none may be asked any more. May be dropped at
    /// any point: what the trackers know of this peer is in the group.
    async fn serve(&self, group: &mut Group, port: Option<u16>) {
        loop {
            let now = Instant::now();
            let wants_peers = (self.shared.progress)(self.id).wants_peers;
            let Some(next) = group.next(now, wants_peers) else { return };
            if next > now {
                // Peers may come to be wanted, so that the time is another.
                let look_again = if wants_peers { now } else { now + LOOK_AGAIN };
                let earliest = group.next(now, true).unwrap_or(next);
                sleep_until(next.min(earliest.max(look_again)).into()).await;
                continue;
            }
            self.round(group, port).await;
        }
    }

    /// Asks one tracker after the other until one answers.
    async fn round(&self, group: &mut Group, port: Option<u16>) {
        for place in group.places(Instant::now()) {
            match self.ask(group, place, port).await {
                Ok((event, answer)) => {
                    let due = self.shared.limits.pace.after_answer(Instant::now(), &answer, rand::random());
                    group.answered(place, event, &answer, due);
                    return;
                }
                Err(error) => {
                    group.failed(place, Instant::now(), &error);
                    let member = group.member(place);
                    let (name, failures) = (shown(&member.url), member.failures());
                    tracing::debug!(swarm = %self.id, tracker = name, %error, "announce failed");
                    self.shared.board.set(self.id, &name, Outcome::Failed(failures, error.to_string()));
                }
            }
        }
        group.exhausted(Instant::now(), &self.shared.limits.pace, rand::random());
    }

    /// Announces to one tracker and passes on what it names. Returns the first answer.
    async fn ask(&self, group: &mut Group, place: Place, port: Option<u16>) -> Result<(Event, Answer), TrackerError> {
        let member = group.member(place);
        let event = member.event();
        let name = shown(&member.url);
        // The semaphore is never closed.
        let _slot = self.shared.slots.acquire().await;
        member.asked();
        self.shared.board.set(self.id, &name, Outcome::Asking);
        let announce = self.announce(event, member.tracker_id.clone(), port);
        let mut answers = pin!(self.shared.client.announce(&member.url, &announce));
        let mut outcome: Option<Result<Answer, TrackerError>> = None;
        while let Some(answer) = answers.next().await {
            if let Ok(answer) = &answer {
                self.shared.board.set(self.id, &name, Outcome::of(answer));
                self.pass_on(answer).await;
            }
            if !matches!(outcome, Some(Ok(_))) {
                outcome = Some(answer);
            }
        }
        let answer = outcome.unwrap_or_else(|| Err(TrackerError::Url("a URL without an address".to_owned())))?;
        Ok((event, answer))
    }

    async fn pass_on(&self, answer: &Answer) {
        if let Some(ip) = answer.external_ip {
            self.shared.board.set_external_ip(ip);
        }
        for peer in &answer.peers {
            let addr = PeerAddr::Socket(*peer);
            // Waits while the channel is full, for the next answer may be half an hour away.
            if self.shared.found.send(Found { swarm: self.id, addr, source: NAME }).await.is_err() {
                return;
            }
        }
    }

    fn announce(&self, event: Event, tracker_id: Option<Vec<u8>>, port: Option<u16>) -> Announce {
        let progress = (self.shared.progress)(self.id);
        Announce {
            swarm: self.id,
            peer_id: self.shared.peer_id,
            key: self.key,
            // Trackers refuse port 0, so one who cannot be reached names a port that nobody listens at.
            port: port.unwrap_or(1),
            uploaded: progress.uploaded,
            downloaded: progress.downloaded,
            left: progress.left.unwrap_or(UNKNOWN_LEFT),
            event,
            want: match event {
                Event::Stopped => 0,
                _ if progress.wants_peers => WANT,
                _ => WANT_FEW,
            },
            tracker_id,
        }
    }

    /// Tells trackers that this peer goes, all at once, and waits for them only so long.
    async fn farewell(&self, members: Vec<Member>, port: Option<u16>) {
        let told = members.into_iter().filter(Member::expects_farewell).map(|member| async move {
            let announce = self.announce(Event::Stopped, member.tracker_id.clone(), port);
            self.say(&member.url, &announce).await;
            self.shared.board.remove(self.id, &shown(&member.url));
        });
        if timeout(self.shared.limits.farewell, join_all(told)).await.is_err() {
            tracing::debug!(swarm = %self.id, "not all trackers took note that the swarm was left");
        }
    }

    async fn say(&self, url: &Url, announce: &Announce) {
        let answers = self.shared.client.announce(url, announce);
        answers.for_each(|_| std::future::ready(())).await;
    }
}
