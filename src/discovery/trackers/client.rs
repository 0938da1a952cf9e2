//! Asks one tracker, whatever it speaks.

use futures::StreamExt as _;
use futures::stream::{FuturesUnordered, Stream};
use url::Url;

use super::TrackerLimits;
use super::announce::{Announce, Answer, SwarmSize, TrackerError};
use super::http::{announce_url, read_answer, read_scrape, scrape_url};
use super::udp::{UdpClient, UdpError};
use crate::discovery::http::{Family, HttpClient, HttpError, LocalAddrs, Reach};
use crate::discovery::scope::Scope;
use crate::types::SwarmId;

/// Asks HTTP and UDP trackers.
pub struct TrackerClient {
    http: HttpClient,
    udp: UdpClient,
}

impl TrackerClient {
    /// A client that asks from the addresses `local`.
    pub fn new(limits: &TrackerLimits, local: LocalAddrs) -> Self {
        Self { http: HttpClient::new(limits.http, local), udp: UdpClient::new(limits.udp, local) }
    }

    /// Announces over IPv4 and IPv6 at once, as BEP 7 wants it, and yields each answer as it comes. Of a tracker
    /// with one kind of address only, the other yields nothing, unless there is no answer at all.
    pub fn announce<'a>(
        &'a self,
        tracker: &'a Url,
        announce: &'a Announce,
    ) -> impl Stream<Item = Result<Answer, TrackerError>> + 'a {
        let over = [Family::V4, Family::V6].into_iter().map(|family| self.announce_over(tracker, family, announce));
        let answers: FuturesUnordered<_> = over.collect();
        let mut pending = answers.len();
        let mut answered = false;
        answers.filter_map(move |answer| {
            pending -= 1;
            let lacks_address = matches!(
                answer,
                Err(TrackerError::Http(HttpError::NoAddress(_)) | TrackerError::Udp(UdpError::NoAddress(_)))
            );
            let passed = !lacks_address || (pending == 0 && !answered);
            answered |= passed;
            std::future::ready(passed.then_some(answer))
        })
    }

    async fn announce_over(&self, tracker: &Url, family: Family, announce: &Announce) -> Result<Answer, TrackerError> {
        if is_udp(tracker)? {
            return self.udp.announce(tracker, family, announce).await;
        }
        let url = announce_url(tracker, announce);
        let got = self.http.get(&url, reach(tracker), Some(family)).await?;
        let mut answer = read_answer(got.status, &got.body)?;
        let scope = Scope::of(got.remote.ip());
        answer.peers.retain(|peer| scope.may_name(*peer));
        Ok(answer)
    }

    /// Asks how large `swarms` are, at most 74 at a time (BEP 48, BEP 15). `None` for those that the tracker does
    /// not know.
    pub async fn scrape(&self, tracker: &Url, swarms: &[SwarmId]) -> Result<Vec<Option<SwarmSize>>, TrackerError> {
        if !is_udp(tracker)? {
            let url = scrape_url(tracker, swarms)?;
            let got = self.http.get(&url, reach(tracker), None).await?;
            return read_scrape(got.status, &got.body, swarms);
        }
        match self.udp.scrape(tracker, Family::V4, swarms).await {
            Err(TrackerError::Udp(UdpError::NoAddress(_))) => self.udp.scrape(tracker, Family::V6, swarms).await,
            answer => answer,
        }
    }
}

fn is_udp(tracker: &Url) -> Result<bool, TrackerError> {
    match tracker.scheme() {
        "udp" => Ok(true),
        "http" | "https" => Ok(false),
        other => Err(TrackerError::Url(format!("{other:?}"))),
    }
}

/// Torrents and magnet links come from strangers, and a GET can do things in the user's network. A tracker there is
/// asked only if its URL ends as a tracker's does.
fn reach(tracker: &Url) -> Reach {
    let last = tracker.path().rsplit('/').next().unwrap_or_default();
    if last.starts_with("announce") { Reach::Anywhere } else { Reach::Internet }
}
