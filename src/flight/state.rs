//! The state machine of one flight: who leads, who waits, and who is to be told. Pure: it has no lock,
//! no clock and wakes nobody; it returns whom to wake.

use std::collections::VecDeque;
use std::mem::swap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::task::Waker;
use std::thread::panicking;
use std::time::{Duration, Instant};

/// Who loads, and who waits.
pub(super) struct State {
    phase: Phase,
    /// Counts the leaders; a leader whose generation is not this has been superseded.
    generation: u32,
    /// The epoch in which the last leader took the lead.
    epoch: u64,
    /// Took the place of a flight of an older epoch. It is not replaced in turn while it is under
    /// way: invalidations, however many, make no stampede.
    replaces: bool,
    waiters: Waiters,
    next_ticket: u64,
}

/// In order of arrival, by ticket. One that was not polled yet, or was woken, has no waker.
pub(super) type Waiters = VecDeque<(u64, Option<Waker>)>;

/// Wakes all of them. Called without a lock: waking is an executor's code.
///
/// # Panics
///
/// If waking one does, after all were woken, and unless something panics already.
pub(super) fn wake(wakers: impl IntoIterator<Item = Waker>) {
    let mut panicked = None;
    for waker in wakers {
        let woken = catch_unwind(AssertUnwindSafe(|| waker.wake()));
        panicked = panicked.or(woken.err());
    }
    if let Some(panic) = panicked.filter(|_| !panicking()) {
        resume_unwind(panic);
    }
}

enum Phase {
    /// The leader waits for a permit and has not begun to load. A caller that needs no permit may supersede it,
    /// and no load is wasted. Any caller may from `lease_end` on: the leader puts that off whenever it is polled,
    /// so by then nobody polls it any more.
    Queued { lease_end: Option<Instant> },
    /// The leader loads, and may be superseded from `lease_end` on (`None`: never).
    Loading {
        lease_end: Option<Instant>,
        has_permit: bool,
    },
    /// The leader is gone; the next who asks leads.
    Vacant,
    /// The outcome is there, or the waiters have to start anew.
    Over,
}

/// Who asks, and the terms on which it would lead.
#[derive(Clone, Copy)]
pub(crate) struct Candidate {
    pub(crate) now: Instant,
    pub(crate) lease: Duration,
    /// How many invalidations there were of things whose keys are not known. It comes after them,
    /// so it may not get what a load of an older epoch finds.
    pub(crate) epoch: u64,
    /// It need not wait for a permit before it loads.
    pub(crate) permitted: bool,
    /// It holds a permit, which ends with its lease.
    pub(crate) has_permit: bool,
}

impl Candidate {
    fn lease_end(&self) -> Option<Instant> {
        self.now.checked_add(self.lease)
    }

    fn is_after(&self, lease_end: Option<Instant>) -> bool {
        lease_end.is_some_and(|end| end <= self.now)
    }
}

/// The state machine's answer to a newcomer.
pub(super) enum Admission {
    Lead {
        generation: u32,
    },
    Wait {
        ticket: u64,
    },
    /// The flight is of an older epoch: the newcomer starts another in its place.
    Replace,
}

/// The state machine's answer to a waiter.
pub(super) enum Turn {
    Over,
    Lead {
        generation: u32,
        supersedes: Option<Superseded>,
    },
    /// `again`: when to ask once more, if not woken before.
    Wait {
        again: Option<Instant>,
    },
}

/// What became of the leader before, if it did not end by itself.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Superseded {
    /// It had not begun to load.
    Queued,
    /// It still loads, without a permit.
    Loading,
    /// It still loads, with a permit, which counts it as abandoned.
    LoadingWithPermit,
}

impl State {
    /// The first leader is on its way.
    pub(super) fn led(candidate: Candidate, replaces: bool) -> Self {
        let mut state = Self {
            phase: Phase::Vacant,
            generation: 0,
            epoch: candidate.epoch,
            replaces,
            waiters: Waiters::new(),
            next_ticket: 0,
        };
        state.lead(candidate);
        state
    }

    fn lead(&mut self, candidate: Candidate) -> u32 {
        self.generation += 1;
        self.epoch = candidate.epoch;
        let lease_end = candidate.lease_end();
        self.phase = if candidate.permitted {
            Phase::Loading {
                lease_end,
                has_permit: candidate.has_permit,
            }
        } else {
            Phase::Queued { lease_end }
        };
        self.generation
    }

    /// The leader has its permit and is about to load: its lease begins. `false` if it was
    /// superseded.
    pub(super) fn begin(&mut self, generation: u32, candidate: Candidate) -> bool {
        let led = self.is_led(generation);
        if led {
            self.epoch = candidate.epoch;
            self.phase = Phase::Loading {
                lease_end: candidate.lease_end(),
                has_permit: candidate.has_permit,
            };
        }
        led
    }

    /// The leader is polled while it waits for its permit, so it is alive.
    pub(super) fn prolong(&mut self, generation: u32, candidate: Candidate) {
        if self.generation != generation {
            return;
        }
        if let Phase::Queued { lease_end } = &mut self.phase {
            *lease_end = candidate.lease_end();
        }
    }

    pub(super) fn admit(&mut self, candidate: Candidate) -> Admission {
        match self.phase {
            Phase::Loading { .. } if candidate.epoch > self.epoch && !self.replaces => {
                Admission::Replace
            }
            Phase::Queued { .. } if !candidate.permitted => self.board(),
            Phase::Loading { .. } | Phase::Over => self.board(),
            Phase::Queued { .. } | Phase::Vacant => Admission::Lead {
                generation: self.lead(candidate),
            },
        }
    }

    fn board(&mut self) -> Admission {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.waiters.push_back((ticket, None));
        Admission::Wait { ticket }
    }

    /// A waiter asks for its turn. One that must wait leaves `waker`; others leave the queue. What is
    /// left in `waker` is to be dropped without a lock, since that is an executor's code too.
    pub(super) fn poll(
        &mut self,
        ticket: u64,
        candidate: Candidate,
        waker: &mut Option<Waker>,
    ) -> Turn {
        let again = match self.phase {
            Phase::Over => {
                *waker = self.forget(ticket);
                return Turn::Over;
            }
            Phase::Loading { lease_end, .. } if !candidate.is_after(lease_end) => lease_end,
            Phase::Queued { lease_end }
                if !candidate.permitted && !candidate.is_after(lease_end) =>
            {
                lease_end
            }
            Phase::Queued { .. } | Phase::Loading { .. } | Phase::Vacant => {
                *waker = self.forget(ticket);
                return Turn::Lead {
                    supersedes: self.leader(),
                    generation: self.lead(candidate),
                };
            }
        };
        if let Ok(place) = self.find(ticket) {
            swap(&mut self.waiters[place].1, waker);
        }
        Turn::Wait { again }
    }

    /// Returns what the leader does, if there is one.
    fn leader(&self) -> Option<Superseded> {
        match self.phase {
            Phase::Queued { .. } => Some(Superseded::Queued),
            Phase::Loading {
                has_permit: true, ..
            } => Some(Superseded::LoadingWithPermit),
            Phase::Loading { .. } => Some(Superseded::Loading),
            Phase::Vacant | Phase::Over => None,
        }
    }

    fn find(&self, ticket: u64) -> Result<usize, usize> {
        self.waiters
            .binary_search_by_key(&ticket, |(other, _)| *other)
    }

    fn forget(&mut self, ticket: u64) -> Option<Waker> {
        let place = self.find(ticket).ok()?;
        self.waiters.remove(place)?.1
    }

    pub(super) fn is_vacant(&self) -> bool {
        matches!(self.phase, Phase::Vacant)
    }

    pub(super) fn is_awaited(&self) -> bool {
        !self.waiters.is_empty()
    }

    pub(super) fn is_led(&self, generation: u32) -> bool {
        self.leader().is_some() && self.generation == generation
    }

    /// The leader has its result and is about to land: from now on it cannot be superseded.
    /// `false` if it was.
    pub(super) fn prepare_landing(&mut self, generation: u32) -> bool {
        let led = self.is_led(generation);
        if led {
            self.phase = Phase::Loading {
                lease_end: None,
                has_permit: false,
            };
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

    /// A waiter goes away. If it may have been the one who was woken to lead, the next one is: whom to
    /// wake, and its own waker, to be dropped without a lock.
    pub(super) fn leave(&mut self, ticket: u64) -> (Option<Waker>, Option<Waker>) {
        let own = self.forget(ticket);
        match self.phase {
            Phase::Vacant => (self.wake_first(), own),
            _ => (None, own),
        }
    }

    /// Marks a waiter as busy: it cannot lead before it polls again. If it may have been woken to lead, the next waiter
    /// is to be woken instead. Returns the same as [`leave`](Self::leave).
    pub(super) fn step_back(&mut self, ticket: u64) -> (Option<Waker>, Option<Waker>) {
        let place = self.find(ticket).ok();
        let own = place.and_then(|place| self.waiters[place].1.take());
        match self.phase {
            Phase::Vacant if own.is_none() => (self.wake_first(), own),
            _ => (None, own),
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
