//! The state machine of one flight: who leads, who waits, and who is to be told. Pure: it has no lock,
//! no clock and wakes nobody; it returns whom to wake.

use std::collections::VecDeque;
use std::task::Waker;
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

/// Who loads, and who waits.
pub(super) struct State {
    phase: Phase,
    /// Counts the leaders; a leader whose generation is not this has been superseded.
    generation: u32,
    waiters: Waiters,
    next_ticket: u64,
}

/// In order of arrival, by ticket. One that was not polled yet, or was woken, has no waker.
pub(super) type Waiters = VecDeque<(u64, Option<Waker>)>;

/// Called without a lock: waking is an executor's code.
pub(super) fn wake(waiters: Waiters) {
    for waker in waiters.into_iter().filter_map(|(_, waker)| waker) {
        waker.wake();
    }
}

enum Phase {
    /// Someone loads, and may be superseded from `lease_end` on (`None`: never).
    Led {
        by: ThreadId,
        lease_end: Option<Instant>,
    },
    /// The leader is gone; the next who asks leads.
    Vacant,
    /// The outcome is there, or the waiters have to start anew.
    Over,
}

/// Who asks, and the terms on which it would lead.
#[derive(Clone, Copy)]
pub(crate) struct Candidate {
    thread: ThreadId,
    now: Instant,
    lease: Duration,
}

impl Candidate {
    /// The current thread, now.
    pub(crate) fn new(lease: Duration) -> Self {
        Self::of(thread::current().id(), Instant::now(), lease)
    }

    pub(super) fn of(thread: ThreadId, now: Instant, lease: Duration) -> Self {
        Self { thread, now, lease }
    }
}

/// The state machine's answer to a newcomer.
pub(super) enum Admission {
    Lead { generation: u32 },
    Wait { ticket: u64 },
    Recursive,
}

/// The state machine's answer to a waiter.
pub(super) enum Turn {
    Over,
    Lead { generation: u32 },
    Wait { lease_end: Option<Instant> },
}

impl State {
    /// The first leader is on its way.
    pub(super) fn led(candidate: Candidate) -> Self {
        let mut state = Self {
            phase: Phase::Vacant,
            generation: 0,
            waiters: Waiters::new(),
            next_ticket: 0,
        };
        state.lead(candidate);
        state
    }

    fn lead(&mut self, candidate: Candidate) -> u32 {
        self.generation += 1;
        self.phase = Phase::Led {
            by: candidate.thread,
            lease_end: candidate.now.checked_add(candidate.lease),
        };
        self.generation
    }

    pub(super) fn admit(&mut self, candidate: Candidate) -> Admission {
        match self.phase {
            Phase::Vacant => Admission::Lead {
                generation: self.lead(candidate),
            },
            Phase::Led { by, .. } if by == candidate.thread => Admission::Recursive,
            Phase::Led { .. } | Phase::Over => {
                let ticket = self.next_ticket;
                self.next_ticket += 1;
                self.waiters.push_back((ticket, None));
                Admission::Wait { ticket }
            }
        }
    }

    /// A waiter asks for its turn. One that must wait leaves `waker`; others leave the queue.
    pub(super) fn poll(&mut self, ticket: u64, candidate: Candidate, waker: &Waker) -> Turn {
        match self.phase {
            Phase::Over => {
                self.forget(ticket);
                Turn::Over
            }
            Phase::Led { lease_end, .. } if lease_end.is_none_or(|end| candidate.now < end) => {
                if let Ok(place) = self.find(ticket) {
                    match &mut self.waiters[place].1 {
                        Some(old) => old.clone_from(waker),
                        none => *none = Some(waker.clone()),
                    }
                }
                Turn::Wait { lease_end }
            }
            Phase::Led { .. } | Phase::Vacant => {
                self.forget(ticket);
                Turn::Lead {
                    generation: self.lead(candidate),
                }
            }
        }
    }

    fn find(&self, ticket: u64) -> Result<usize, usize> {
        self.waiters
            .binary_search_by_key(&ticket, |(other, _)| *other)
    }

    fn forget(&mut self, ticket: u64) {
        if let Ok(place) = self.find(ticket) {
            self.waiters.remove(place);
        }
    }

    pub(super) fn is_vacant(&self) -> bool {
        matches!(self.phase, Phase::Vacant)
    }

    pub(super) fn is_awaited(&self) -> bool {
        !self.waiters.is_empty()
    }

    pub(super) fn is_led(&self, generation: u32) -> bool {
        matches!(self.phase, Phase::Led { .. }) && self.generation == generation
    }

    /// The leader has its result and is about to land: from now on it cannot be superseded.
    /// `false` if it was.
    pub(super) fn prepare_landing(&mut self, generation: u32) -> bool {
        let led = self.is_led(generation);
        if let (true, Phase::Led { lease_end, .. }) = (led, &mut self.phase) {
            *lease_end = None;
        }
        led
    }

    /// The leader is gone. Whom to wake: the first waiter, who then leads.
    pub(super) fn abandon(&mut self, generation: u32) -> Option<Waker> {
        if !self.is_led(generation) {
            return None;
        }
        self.phase = Phase::Vacant;
        self.wake_first()
    }

    /// A waiter goes away. If it may have been the one who was woken to lead, the next one is.
    pub(super) fn leave(&mut self, ticket: u64) -> Option<Waker> {
        self.forget(ticket);
        match self.phase {
            Phase::Vacant => self.wake_first(),
            _ => None,
        }
    }

    fn wake_first(&mut self) -> Option<Waker> {
        self.waiters.iter_mut().find_map(|(_, waker)| waker.take())
    }

    /// Whom to wake: all.
    pub(super) fn end(&mut self) -> Waiters {
        self.phase = Phase::Over;
        std::mem::take(&mut self.waiters)
    }
}
