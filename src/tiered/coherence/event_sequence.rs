//! Proof that invalidations arrive: a state machine without clock and connection.
//!
//! 1. Events carry consecutive numbers, so a receiver detects that one is missing as soon as it receives a later one.
//! 2. A heartbeat proves that none is missing at the moment: a process requests a read lease for its L1 from the
//!    server, and the server answers on the channel of the events, after all of them.
//!    A heartbeat has the number of the last event. So on a new subscription it also shows whether events were missed
//!    since the previous one.
//! 3. The lease begins when it is requested, on the receiver's clock. So it ends there before it ends on the server's
//!    clock.
//! 4. A write is acknowledged only after every process that has a lease has received it, or its lease has ended.
//!
//! After Gray and Cheriton, "Leases", SOSP 1989.

use crate::clock::Nanos;
use crate::tiered::l2::remote::{Message, Peer, Position, Subject};
use std::collections::VecDeque;

/// The number of requests for a lease that are remembered until their heartbeats arrive.
const MAX_REQUESTS: usize = 16;

/// The effect of a message on L1.
#[derive(Debug, PartialEq)]
pub(crate) enum Effect {
    None,
    /// L1 invalidates the entries of `subjects`.
    Invalidate {
        subjects: Vec<Subject>,
        sender: Peer,
    },
    /// Events are missing, or may be: L1 invalidates all entries. It may serve entries that are stored from now on
    /// until `lease_until`.
    InvalidateAll {
        lease_until: Option<Nanos>,
    },
    /// No event is missing: L1 may serve its entries until `until`.
    RenewLease {
        until: Nanos,
    },
}

/// The state of the event channel in one process.
#[derive(Debug)]
pub(crate) struct EventSequence {
    me: Peer,
    /// The duration of a read lease.
    lease: Nanos,
    /// The position up to which each event was received, or is covered by an invalidation of everything. `None` until
    /// the first heartbeat.
    position: Option<Position>,
    /// `true` until a message on the current subscription has set or confirmed the position.
    is_new: bool,
    /// The requests for leases: the nonce of the heartbeat, and the time of the request.
    requests: VecDeque<(u64, Nanos)>,
    newest_nonce: u64,
    /// The number of gaps that were detected.
    pub(crate) gaps: u64,
}

impl EventSequence {
    pub(crate) fn new(me: Peer, lease: Nanos) -> Self {
        Self {
            me,
            lease,
            position: None,
            is_new: true,
            requests: VecDeque::new(),
            newest_nonce: 0,
            gaps: 0,
        }
    }

    /// Returns the position up to which each event was received.
    pub(crate) fn position(&self) -> Option<Position> {
        self.position
    }

    /// Continues on a new subscription. The position remains, so that L1 keeps its entries if no event was missed.
    pub(crate) fn resubscribe(&mut self) {
        self.is_new = true;
        self.requests.clear();
    }

    /// Notes that a lease is requested now, and returns the nonce for its heartbeat.
    pub(crate) fn request_lease(&mut self, now: Nanos) -> u64 {
        self.newest_nonce += 1;
        if self.requests.len() == MAX_REQUESTS {
            self.requests.pop_front();
        }
        self.requests.push_back((self.newest_nonce, now));
        self.newest_nonce
    }

    /// Checks whether the subscription counts as lost: a request is older than a lease, and a later one has no
    /// heartbeat either.
    ///
    /// A process that was suspended finds an old request when it resumes, while the heartbeat waits in its socket. It
    /// is received before the answer to a later request is due.
    pub(crate) fn is_lost(&self, now: Nanos) -> bool {
        let is_old = |&(_, requested): &(u64, Nanos)| now.saturating_sub(requested) > self.lease;
        self.requests.len() > 1 && self.requests.front().is_some_and(is_old)
    }

    /// Receives a message, and returns its effect on L1.
    pub(crate) fn receive(&mut self, message: &Message) -> Effect {
        match message {
            Message::Event {
                at,
                sender,
                subjects,
            } => self.receive_event(*at, *sender, subjects),
            Message::Heartbeat { at, nonce } => self.receive_heartbeat(*at, *nonce),
            Message::Acknowledgement { .. } | Message::LoadEnded(_) | Message::Malformed => {
                Effect::None
            }
        }
    }

    fn receive_event(&mut self, at: Position, sender: Peer, subjects: &[Subject]) -> Effect {
        let Some(position) = self.position else {
            // There is no lease yet. Classes that serve without one still apply the invalidation.
            return self.invalidate(sender, subjects);
        };
        let next = Position {
            version: position.version + 1,
            ..position
        };
        let is_next = at == next;
        self.move_to(at, is_next);
        if is_next {
            self.invalidate(sender, subjects)
        } else {
            Effect::InvalidateAll { lease_until: None }
        }
    }

    /// Moves to the position of a message. If an event before it is missing, that is a gap, unless it may have been sent
    /// before the subscription.
    fn move_to(&mut self, at: Position, is_complete: bool) {
        let is_new = std::mem::take(&mut self.is_new);
        self.gaps += u64::from(!is_complete && !is_new);
        self.position = Some(at);
    }

    /// Returns the effect of an event. The sender has applied its own invalidation when it published it.
    fn invalidate(&self, sender: Peer, subjects: &[Subject]) -> Effect {
        if sender == self.me {
            return Effect::None;
        }
        Effect::Invalidate {
            subjects: subjects.to_vec(),
            sender,
        }
    }

    /// Receives a heartbeat. Every event before it was received, or is covered by the invalidation of everything that
    /// this returns, and every event after it will be received. So the lease holds in both cases.
    fn receive_heartbeat(&mut self, at: Position, nonce: u64) -> Effect {
        let lease_until = self.take_request(nonce);
        let is_complete = self.position == Some(at);
        self.move_to(at, is_complete);
        if is_complete {
            lease_until.map_or(Effect::None, |until| Effect::RenewLease { until })
        } else {
            Effect::InvalidateAll { lease_until }
        }
    }

    /// Removes a request and all earlier ones, and returns the end of the lease that was requested.
    fn take_request(&mut self, nonce: u64) -> Option<Nanos> {
        let place = self.requests.iter().position(|&(it, _)| it == nonce)?;
        let (_, requested) = self.requests.drain(..=place).next_back()?;
        Some(requested.saturating_add(self.lease))
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
            subjects: vec![Subject::All],
        }
    }

    fn applied(sender: Peer) -> Effect {
        Effect::Invalidate {
            subjects: vec![Subject::All],
            sender,
        }
    }

    /// Returns a sequence that has received its first heartbeat, at version 5.
    fn proven() -> EventSequence {
        let mut events = EventSequence::new(ME, 100);
        let nonce = events.request_lease(10);
        let heartbeat = Message::Heartbeat { at: at(5), nonce };
        let lease_until = Some(110);
        assert_eq!(
            events.receive(&heartbeat),
            Effect::InvalidateAll { lease_until }
        );
        assert_eq!(events.receive(&heartbeat), Effect::None);
        events
    }

    #[test]
    fn heartbeat_renews_the_lease_from_its_request_on_and_only_once() {
        let mut events = proven();
        let first = events.request_lease(50);
        let second = events.request_lease(60);
        let heartbeat = |nonce| Message::Heartbeat { at: at(5), nonce };
        assert_eq!(
            events.receive(&heartbeat(second)),
            Effect::RenewLease { until: 160 }
        );
        assert_eq!(events.receive(&heartbeat(first)), Effect::None);
        assert_eq!(events.receive(&heartbeat(99)), Effect::None);
    }

    #[test]
    fn events_in_order_are_applied_and_own_events_only_advance_the_position() {
        let mut events = proven();
        assert_eq!(events.receive(&event(6, OTHER)), applied(OTHER));
        assert_eq!(events.receive(&event(7, ME)), Effect::None);
        assert_eq!(events.receive(&event(8, OTHER)), applied(OTHER));
        assert_eq!(events.position(), Some(at(8)));
        assert_eq!(events.gaps, 0);
    }

    #[test]
    fn missing_event_of_any_sender_invalidates_all_and_the_next_heartbeat_renews_the_lease() {
        for seen in [event(7, OTHER), event(7, ME), event(5, OTHER)] {
            let mut events = proven();
            assert_eq!(
                events.receive(&seen),
                Effect::InvalidateAll { lease_until: None }
            );
            assert_eq!(events.gaps, 1);
            let at = events.position().unwrap();
            let nonce = events.request_lease(30);
            let heartbeat = events.receive(&Message::Heartbeat { at, nonce });
            assert_eq!(heartbeat, Effect::RenewLease { until: 130 });
        }
    }

    #[test]
    fn heartbeat_after_a_missing_event_invalidates_all() {
        let mut events = proven();
        let nonce = events.request_lease(20);
        let heartbeat = Message::Heartbeat { at: at(6), nonce };
        let lease_until = Some(120);
        assert_eq!(
            events.receive(&heartbeat),
            Effect::InvalidateAll { lease_until }
        );
        assert_eq!(events.gaps, 1);
        assert_eq!(events.receive(&event(7, OTHER)), applied(OTHER));
    }

    #[test]
    fn event_of_another_incarnation_invalidates_all_even_with_the_next_number() {
        let mut events = proven();
        let mut other = at(6);
        other.incarnation = [8; 8];
        let event = Message::Event {
            at: other,
            sender: OTHER,
            subjects: vec![Subject::All],
        };
        assert_eq!(
            events.receive(&event),
            Effect::InvalidateAll { lease_until: None }
        );
    }

    #[test]
    fn event_before_the_first_heartbeat_is_applied_and_proves_nothing() {
        let mut events = EventSequence::new(ME, 100);
        assert_eq!(events.receive(&event(6, OTHER)), applied(OTHER));
        assert_eq!(events.position(), None);
    }

    #[test]
    fn new_subscription_continues_at_the_position_of_the_last_one() {
        let resubscribed = || {
            let mut events = proven();
            let lost = events.request_lease(20);
            events.resubscribe();
            (lost, events.request_lease(30), events)
        };
        let (lost, nonce, mut events) = resubscribed();
        let heartbeat = |version, nonce| Message::Heartbeat {
            at: at(version),
            nonce,
        };
        // The lease of a request before the subscription may have been granted by another server.
        assert_eq!(events.receive(&heartbeat(5, lost)), Effect::None);
        assert_eq!(
            events.receive(&heartbeat(5, nonce)),
            Effect::RenewLease { until: 130 }
        );
        let (_, _, mut events) = resubscribed();
        assert_eq!(events.receive(&event(6, OTHER)), applied(OTHER));
        // Missed events are no gap if they were sent before the subscription.
        let invalidated = |lease_until| Effect::InvalidateAll { lease_until };
        let (_, nonce, mut events) = resubscribed();
        let effect = events.receive(&heartbeat(6, nonce));
        assert_eq!((effect, events.gaps), (invalidated(Some(130)), 0));
        let (_, _, mut events) = resubscribed();
        let effect = events.receive(&event(7, OTHER));
        assert_eq!((effect, events.gaps), (invalidated(None), 0));
        let effect = events.receive(&event(9, OTHER));
        assert_eq!((effect, events.gaps), (invalidated(None), 1));
    }

    #[test]
    fn subscription_is_lost_when_two_requests_have_no_heartbeat_for_a_lease() {
        let mut events = proven();
        events.request_lease(50);
        assert!(!events.is_lost(150));
        // A process that was suspended finds that the only request is old.
        assert!(!events.is_lost(9_000));
        let later = events.request_lease(9_000);
        assert!(events.is_lost(9_000));
        assert!(!events.is_lost(150));
        events.receive(&Message::Heartbeat {
            at: at(5),
            nonce: later,
        });
        events.request_lease(9_100);
        events.request_lease(9_200);
        assert!(!events.is_lost(9_200));
        assert!(events.is_lost(9_201));
    }

    #[test]
    fn number_of_requests_without_a_heartbeat_is_bounded() {
        let mut events = proven();
        for now in 0..1_000 {
            events.request_lease(now);
        }
        assert!(events.requests.len() <= MAX_REQUESTS);
    }
}
