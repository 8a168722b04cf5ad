//! Whether invalidations are proven to arrive: a state machine without clock and connection.
//!
//! Events carry consecutive numbers, so a receiver sees when one is missing. That none is missing
//! *now* is what a beat proves: a process asks the server for a lease on serving from its L1, and the
//! server answers on the channel on which events come, behind all of them. The lease begins when it
//! was asked for, on the receiver's clock, so it ends there before it ends on the server's; and who
//! writes waits, before the write is acknowledged, until all who hold a lease have heard of it or
//! their leases are over (Gray and Cheriton, "Leases", SOSP 1989).

use crate::clock::Nanos;
use crate::tiered::l2::remote::{Message, Peer, Position, Subject};
use std::collections::VecDeque;

/// Beats that were asked for and did not come: more are not remembered.
const MAX_ASKED: usize = 16;

/// What follows from a message.
#[derive(Debug, PartialEq)]
pub(crate) enum Effect {
    Nothing,
    /// Of what this process holds, this is invalid.
    Invalidate {
        subject: Subject,
        sender: Peer,
    },
    /// Something was missed, or may have been: nothing that this process holds is proven. What it
    /// holds from now on may be served until then.
    Forget {
        until: Option<Nanos>,
    },
    /// All up to here was heard, and what is held may be served until then.
    ReadLease {
        until: Nanos,
    },
}

/// What one process knows of the channel.
#[derive(Debug)]
pub(crate) struct EventSequence {
    me: Peer,
    /// How long a lease is.
    lease: Nanos,
    /// All up to here was heard or forgotten. `None` until there is a first beat.
    heard: Option<Position>,
    /// Leases asked for: the beat's number, and when.
    asked: VecDeque<(u64, Nanos)>,
    next_nonce: u64,
    pub(crate) gaps: u64,
}

impl EventSequence {
    pub(crate) fn new(me: Peer, lease: Nanos) -> Self {
        Self {
            me,
            lease,
            heard: None,
            asked: VecDeque::new(),
            next_nonce: 0,
            gaps: 0,
        }
    }

    /// Up to where all was heard.
    pub(crate) fn heard(&self) -> Option<Position> {
        self.heard
    }

    /// The connection was lost, or there is a new one.
    pub(crate) fn reset(&mut self) {
        self.heard = None;
        self.asked.clear();
    }

    /// A lease is asked for now: the number that the beat is to have.
    pub(crate) fn ask(&mut self, now: Nanos) -> u64 {
        self.next_nonce += 1;
        if self.asked.len() == MAX_ASKED {
            self.asked.pop_front();
        }
        self.asked.push_back((self.next_nonce, now));
        self.next_nonce
    }

    /// How long the oldest beat that was asked for is overdue.
    pub(crate) fn waits_since(&self) -> Option<Nanos> {
        self.asked.front().map(|&(_, asked)| asked)
    }

    /// What follows from a message.
    pub(crate) fn hear(&mut self, message: &Message) -> Effect {
        match message {
            Message::Event {
                at,
                sender,
                subject,
            } => self.hear_event(*at, *sender, subject),
            Message::Heartbeat { at, nonce } => self.hear_beat(*at, *nonce),
            Message::Acknowledgement { .. } | Message::Filled(_) | Message::Foreign => {
                Effect::Nothing
            }
        }
    }

    fn hear_event(&mut self, at: Position, sender: Peer, subject: &Subject) -> Effect {
        let Some(heard) = self.heard else {
            // Nothing is trusted yet; what is held all the same, by a lesser promise, goes.
            return self.invalidate(sender, subject);
        };
        let next = Position {
            version: heard.version + 1,
            ..heard
        };
        self.heard = Some(at);
        if at == next {
            self.invalidate(sender, subject)
        } else {
            self.gaps += 1;
            Effect::Forget { until: None }
        }
    }

    /// What this process has invalidated itself is applied where it is acknowledged.
    fn invalidate(&self, sender: Peer, subject: &Subject) -> Effect {
        if sender == self.me {
            return Effect::Nothing;
        }
        Effect::Invalidate {
            subject: subject.clone(),
            sender,
        }
    }

    /// All before the beat was heard or is forgotten now, and what comes after it will be heard:
    /// either way the lease holds.
    fn hear_beat(&mut self, at: Position, nonce: u64) -> Effect {
        let until = self.take_asked(nonce);
        if self.heard == Some(at) {
            return until.map_or(Effect::Nothing, |until| Effect::ReadLease { until });
        }
        if self.heard.replace(at).is_some() {
            self.gaps += 1;
        }
        Effect::Forget { until }
    }

    /// The end of the lease that was asked for with this number.
    fn take_asked(&mut self, nonce: u64) -> Option<Nanos> {
        let place = self.asked.iter().position(|&(asked, _)| asked == nonce)?;
        let (_, when) = self.asked.drain(..=place).next_back()?;
        Some(when.saturating_add(self.lease))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: Peer = 1;
    const OTHER: Peer = 2;

    fn at(version: u64) -> Position {
        Position {
            incarnation: [7; 8],
            version,
        }
    }

    fn event(version: u64, sender: Peer) -> Message {
        Message::Event {
            at: at(version),
            sender,
            subject: Subject::All,
        }
    }

    fn applied(sender: Peer) -> Effect {
        Effect::Invalidate {
            subject: Subject::All,
            sender,
        }
    }

    /// One that has heard its first beat, at version 5, and trusts.
    fn proven() -> EventSequence {
        let mut events = EventSequence::new(ME, 100);
        let nonce = events.ask(10);
        let beat = Message::Heartbeat { at: at(5), nonce };
        let until = Some(110);
        assert_eq!(events.hear(&beat), Effect::Forget { until });
        assert_eq!(events.hear(&beat), Effect::Nothing);
        events
    }

    #[test]
    fn a_beat_trusts_from_when_it_was_asked_for_and_only_once() {
        let mut events = proven();
        let first = events.ask(50);
        let second = events.ask(60);
        let beat = |nonce| Message::Heartbeat { at: at(5), nonce };
        assert_eq!(events.waits_since(), Some(50));
        assert_eq!(events.hear(&beat(second)), Effect::ReadLease { until: 160 });
        assert_eq!(events.hear(&beat(first)), Effect::Nothing);
        assert_eq!(events.waits_since(), None);
        assert_eq!(events.hear(&beat(99)), Effect::Nothing);
    }

    #[test]
    fn events_in_order_are_applied_and_ones_own_only_counted() {
        let mut events = proven();
        assert_eq!(events.hear(&event(6, OTHER)), applied(OTHER));
        assert_eq!(events.hear(&event(7, ME)), Effect::Nothing);
        assert_eq!(events.hear(&event(8, OTHER)), applied(OTHER));
        assert_eq!(events.heard(), Some(at(8)));
        assert_eq!(events.gaps, 0);
    }

    #[test]
    fn a_missing_event_forgets_whoever_sent_it_and_the_next_beat_restores_trust() {
        for seen in [event(7, OTHER), event(7, ME), event(5, OTHER)] {
            let mut events = proven();
            assert_eq!(events.hear(&seen), Effect::Forget { until: None });
            assert_eq!(events.gaps, 1);
            let at = events.heard().unwrap();
            let nonce = events.ask(30);
            let beat = events.hear(&Message::Heartbeat { at, nonce });
            assert_eq!(beat, Effect::ReadLease { until: 130 });
        }
    }

    #[test]
    fn a_beat_behind_an_event_that_did_not_come_forgets() {
        let mut events = proven();
        let nonce = events.ask(20);
        let beat = Message::Heartbeat { at: at(6), nonce };
        let until = Some(120);
        assert_eq!(events.hear(&beat), Effect::Forget { until });
        assert_eq!(events.gaps, 1);
        assert_eq!(events.hear(&event(7, OTHER)), applied(OTHER));
    }

    #[test]
    fn another_incarnation_forgets_even_with_the_next_number() {
        let mut events = proven();
        let mut other = at(6);
        other.incarnation = [8; 8];
        let event = Message::Event {
            at: other,
            sender: OTHER,
            subject: Subject::All,
        };
        assert_eq!(events.hear(&event), Effect::Forget { until: None });
    }

    #[test]
    fn before_the_first_beat_events_are_applied_and_prove_nothing() {
        let mut events = EventSequence::new(ME, 100);
        assert_eq!(events.hear(&event(6, OTHER)), applied(OTHER));
        assert_eq!(events.heard(), None);
        let mut events = proven();
        let nonce = events.ask(20);
        events.reset();
        let beat = Message::Heartbeat { at: at(5), nonce };
        assert_eq!(events.hear(&beat), Effect::Forget { until: None });
    }

    #[test]
    fn what_is_asked_for_in_vain_is_bounded() {
        let mut events = proven();
        for now in 0..1_000 {
            events.ask(now);
        }
        assert!(events.asked.len() <= MAX_ASKED);
    }
}
