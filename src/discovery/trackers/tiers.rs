//! The announce list of a swarm (BEP 12): which tracker is asked, when, and with which event.
//!
//! A list is divided into groups that work side by side, each an announce list of its own in which one tracker is
//! asked at a time. For a public swarm each tier is a group: lists of today put each tracker in its own tier, and a
//! reader must not wait for the dead ones. For a private swarm all tiers are one group, in the order of BEP 12,
//! since BEP 27 wants one tracker at a time.

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use rand::seq::SliceRandom as _;
use url::Url;

use super::announce::{Answer, Event, Retry, TrackerError};
use super::pace::{Due, Pace};
use crate::discovery::JoinOptions;

/// Trackers of one swarm that are used.
const MAX_TRACKERS: usize = 100;

/// What a tracker knows of this peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// Nothing.
    Stranger,
    /// That it started, perhaps: it was told, and has not answered yet.
    Told,
    /// That it started.
    Known,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Completion {
    None,
    ToTell,
    Told,
}

/// One tracker of a swarm.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) url: Url,
    pub(super) tracker_id: Option<Vec<u8>>,
    standing: Standing,
    completion: Completion,
    failures: u32,
    /// When it may be asked again, if it said so.
    not_before: Option<Instant>,
    never: bool,
    due: Option<Due>,
}

impl Member {
    fn new(url: Url) -> Self {
        Self {
            url,
            tracker_id: None,
            standing: Standing::Stranger,
            completion: Completion::None,
            failures: 0,
            not_before: None,
            never: false,
            due: None,
        }
    }

    /// What the next announce is for.
    pub(super) fn event(&self) -> Event {
        match (self.standing, self.completion) {
            (Standing::Stranger | Standing::Told, _) => Event::Started,
            (Standing::Known, Completion::ToTell) => Event::Completed,
            (Standing::Known, _) => Event::Regular,
        }
    }

    /// Whether the tracker should hear that this peer goes.
    pub(super) fn expects_farewell(&self) -> bool {
        self.standing != Standing::Stranger
    }

    /// An announce with `event` is about to be sent.
    pub(super) fn asked(&mut self) {
        if self.standing == Standing::Stranger {
            self.standing = Standing::Told;
        }
    }

    fn answered(&mut self, event: Event, answer: &Answer, due: Due) {
        self.standing = Standing::Known;
        if event == Event::Completed {
            self.completion = Completion::Told;
        }
        self.failures = 0;
        self.not_before = None;
        self.due = Some(due);
        if answer.tracker_id.is_some() {
            self.tracker_id.clone_from(&answer.tracker_id);
        }
    }

    fn failed(&mut self, now: Instant, error: &TrackerError) {
        if self.standing == Standing::Told {
            self.standing = Standing::Stranger;
        }
        self.failures = self.failures.saturating_add(1);
        self.due = None;
        match error {
            TrackerError::Refused { retry: Some(Retry::Never), .. } | TrackerError::Url(_) => self.never = true,
            TrackerError::Refused { retry: Some(Retry::After(wait)), .. } => {
                self.not_before = now.checked_add(*wait);
                self.never = self.not_before.is_none();
            }
            _ => {}
        }
    }

    /// How often in a row it has failed.
    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    fn may_be_asked(&self, now: Instant) -> bool {
        !self.never && self.not_before.is_none_or(|at| at <= now)
    }
}

/// A tracker's place in a group: tier and place in it.
pub(super) type Place = (usize, usize);

/// Trackers of which one is asked at a time.
#[derive(Debug)]
pub(super) struct Group {
    tiers: Vec<Vec<Member>>,
    /// Rounds in a row in which none answered.
    failures: u32,
    /// When the next round begins after one in which none answered; `None` while one answers.
    retry: Option<Instant>,
    /// Whether the last round ended with an answer.
    working: bool,
}

impl Group {
    fn new(tiers: Vec<Vec<Member>>) -> Self {
        let working = tiers.iter().flatten().any(|member| member.due.is_some());
        Self { tiers, failures: 0, retry: None, working }
    }

    /// The trackers to try in this round, in order.
    pub(super) fn places(&self, now: Instant) -> Vec<Place> {
        let all =
            self.tiers.iter().enumerate().flat_map(|(tier, members)| (0..members.len()).map(move |at| (tier, at)));
        all.filter(|(tier, at)| self.tiers[*tier][*at].may_be_asked(now)).collect()
    }

    pub(super) fn member(&mut self, (tier, at): Place) -> &mut Member {
        &mut self.tiers[tier][at]
    }

    pub(super) fn members(&mut self) -> impl Iterator<Item = &mut Member> {
        self.tiers.iter_mut().flatten()
    }

    /// The tracker at `place` has answered: it comes first from now on, in its tier.
    pub(super) fn answered(&mut self, (tier, at): Place, event: Event, answer: &Answer, due: Due) {
        // What another one wished when it was asked last is of the past.
        self.members().for_each(|member| member.due = None);
        self.tiers[tier][at].answered(event, answer, due);
        self.tiers[tier][..=at].rotate_right(1);
        self.failures = 0;
        self.retry = None;
        self.working = true;
    }

    pub(super) fn failed(&mut self, place: Place, now: Instant, error: &TrackerError) {
        self.member(place).failed(now, error);
    }

    /// None has answered in a whole round.
    pub(super) fn exhausted(&mut self, now: Instant, pace: &Pace, jitter: f64) {
        self.failures = self.failures.saturating_add(1);
        self.retry = Some(now + pace.after_failures(self.failures, jitter));
        self.working = false;
    }

    /// When to begin the next round; `None` if no tracker may be asked any more.
    pub(super) fn next(&self, now: Instant, wants_peers: bool) -> Option<Instant> {
        let members = || self.tiers.iter().flatten().filter(|member| !member.never);
        // The first moment at which one may be asked.
        let allowed = members().map(|member| member.not_before.unwrap_or(now).max(now)).min()?;
        // The one that would be asked first is to hear something.
        let first = self.places(now).first().map(|(tier, at)| &self.tiers[*tier][*at]);
        if self.working && first.is_some_and(|member| member.event() == Event::Completed) {
            return Some(now);
        }
        let due =
            members().filter_map(|member| member.due).map(|due| if wants_peers { due.earliest } else { due.latest });
        let due = if self.working { due.min() } else { self.retry };
        Some(due.map_or(allowed, |due| due.max(allowed)))
    }

    /// The download is complete: trackers that saw it begin are to hear it once.
    fn completed(&mut self) {
        for member in self.members().filter(|member| member.completion == Completion::None) {
            member.completion = Completion::ToTell;
        }
    }
}

/// The groups of one swarm.
#[derive(Debug, Default)]
pub(super) struct Groups(pub(super) Vec<Group>);

impl Groups {
    /// Follows new options. Trackers that stay keep what they know; returns those that are no longer used, and the
    /// URLs that are none.
    pub(super) fn replace(&mut self, options: &JoinOptions) -> (Vec<Member>, Vec<String>) {
        let old = std::mem::take(&mut self.0).into_iter().flat_map(|group| group.tiers).flatten();
        let mut old: HashMap<Url, Member> = old.map(|member| (member.url.clone(), member)).collect();
        let mut seen = HashSet::new();
        let mut bad = Vec::new();
        let mut tiers = Vec::new();
        for tier in &options.trackers {
            let mut members = Vec::new();
            for text in tier {
                match Url::parse(text.trim()) {
                    Ok(url) if seen.len() < MAX_TRACKERS && seen.insert(url.clone()) => {
                        members.push(old.remove(&url).unwrap_or_else(|| Member::new(url)));
                    }
                    Ok(_) => {}
                    Err(_) => bad.push(text.clone()),
                }
            }
            members.shuffle(&mut rand::rng());
            // The one that works stays in front.
            members.sort_by_key(|member| member.due.is_none());
            tiers.push(members);
        }
        tiers.retain(|tier| !tier.is_empty());
        self.0 = match options.private {
            true if tiers.is_empty() => Vec::new(),
            true => vec![Group::new(tiers)],
            false => tiers.into_iter().map(|tier| Group::new(vec![tier])).collect(),
        };
        (old.into_values().collect(), bad)
    }

    /// The download is complete.
    pub(super) fn completed(&mut self) {
        self.0.iter_mut().for_each(Group::completed);
    }

    /// All trackers, when the swarm is left.
    pub(super) fn into_members(self) -> Vec<Member> {
        self.0.into_iter().flat_map(|group| group.tiers).flatten().collect()
    }
}

#[cfg(test)]
mod tests;
