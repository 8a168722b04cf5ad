//! The state machine of one load: its leader, its waiters, and the answers to them. It is pure: it has no lock and no
//! clock, and returns the wakers to wake instead of waking them.

use crate::clock::Instant;
use std::collections::VecDeque;
use std::mem::swap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::task::Waker;
use std::thread::panicking;
use std::time::Duration;

/// The leader and the waiters of a load.
pub(crate) struct State {
    phase: Phase,
    /// The number of leaders so far. A leader with another generation has been superseded.
    generation: u32,
    /// The epoch in which the current or last leader became the leader or, after a wait for a permit, began to load.
    epoch: u64,
    /// `true` if this load replaced a load of an older epoch. Such a load cannot be replaced itself while its leader
    /// loads, so that many invalidations cause no stampede.
    replaces: bool,
    waiters: Waiters,
    next_ticket: u64,
}

/// Waiters by ticket, in order of arrival. A waiter has no waker before its first poll, after it was woken, and while
/// it is busy.
pub(crate) type Waiters = VecDeque<(u64, Option<Waker>)>;

/// Wakes all wakers. The caller holds no lock, because waking runs code of an executor.
///
/// # Panics
///
/// If a waker panics, wakes the others and then resumes the panic, unless the thread is panicking already.
pub(crate) fn wake(wakers: impl IntoIterator<Item = Waker>) {
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
    /// The leader waits for a permit and has not begun to load. A caller that may load at once may supersede it, which
    /// wastes no load. Any caller may supersede it after its lease. The leader extends its lease whenever it is polled,
    /// so the lease ends only if the leader is no longer polled.
    Queued { lease: Lease },
    /// The leader loads, and may be superseded after its lease.
    Loading { lease: Lease, has_permit: bool },
    /// The leader has its result, and cannot be superseded.
    Completing,
    /// There is no leader. The next caller that polls becomes the leader.
    Vacant,
    /// The load has ended. Its outcome is set, or its waiters have to start again.
    Over,
}

/// The lease of a leader. Its end is computed only when a caller waits, which is rare.
#[derive(Clone, Copy)]
struct Lease {
    start: Instant,
    length: Duration,
}

impl Lease {
    /// Returns the end of the lease, or `None` if it never ends.
    fn end(self) -> Option<Instant> {
        self.start.checked_add(self.length)
    }
}

/// The terms on which a caller would lead.
#[derive(Clone, Copy)]
pub(crate) struct Candidate {
    pub(crate) now: Instant,
    pub(crate) lease: Duration,
    /// The number of earlier invalidations that name no key, such as those of tags. The caller may not get the outcome
    /// of a load that began in an older epoch.
    pub(crate) epoch: u64,
    /// `true` if the caller may load at once, with a permit or because it needs none.
    pub(crate) permitted: bool,
    /// `true` if the caller holds a permit, which ends with its lease.
    pub(crate) has_permit: bool,
}

impl Candidate {
    fn lease(&self) -> Lease {
        Lease {
            start: self.now,
            length: self.lease,
        }
    }

    fn is_after(&self, lease: Lease) -> bool {
        lease.end().is_some_and(|end| end <= self.now)
    }
}

/// The state machine's answer to a caller that joins.
pub(crate) enum Admission {
    Lead {
        generation: u32,
    },
    Wait {
        ticket: u64,
    },
    /// The load is of an older epoch, so the caller replaces it with a new load.
    Replace,
}

/// The state machine's answer to a waiter.
pub(crate) enum Turn {
    Over,
    Lead {
        generation: u32,
        supersedes: Option<Superseded>,
    },
    /// `again`: the time at which to ask again, if not woken before.
    Wait {
        again: Option<Instant>,
    },
}

/// The activity of a leader when a waiter superseded it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Superseded {
    /// It waited for a permit and had not begun to load.
    Queued,
    /// It was loading without a permit, and still is.
    Loading,
    /// It was loading with a permit, and still is. The bulkhead counts it as abandoned.
    LoadingWithPermit,
}

impl State {
    /// Creates the state of a load with its first leader.
    pub(crate) fn led(candidate: Candidate, replaces: bool) -> Self {
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

    /// Makes this the state of another load with its first leader. The former load has ended and had no waiters.
    pub(crate) fn restart(&mut self, candidate: Candidate, replaces: bool) {
        debug_assert!(self.waiters.is_empty() && self.next_ticket == 0);
        self.generation = 0;
        self.replaces = replaces;
        self.lead(candidate);
    }

    fn lead(&mut self, candidate: Candidate) -> u32 {
        self.generation += 1;
        self.epoch = candidate.epoch;
        let lease = candidate.lease();
        self.phase = if candidate.permitted {
            Phase::Loading {
                lease,
                has_permit: candidate.has_permit,
            }
        } else {
            Phase::Queued { lease }
        };
        self.generation
    }

    /// Starts the lease of a leader that is about to load. Returns `false` if the leader was superseded.
    pub(crate) fn begin(&mut self, generation: u32, candidate: Candidate) -> bool {
        let led = self.is_led(generation);
        if led {
            self.epoch = candidate.epoch;
            self.phase = Phase::Loading {
                lease: candidate.lease(),
                has_permit: candidate.has_permit,
            };
        }
        led
    }

    /// Extends the lease of a leader that waits for its permit. A poll of the leader calls this, which proves that it
    /// is still alive.
    pub(crate) fn extend_lease(&mut self, generation: u32, candidate: Candidate) {
        if self.generation != generation {
            return;
        }
        if let Phase::Queued { lease } = &mut self.phase {
            *lease = candidate.lease();
        }
    }

    /// Admits a caller, as the leader or as a waiter.
    pub(crate) fn admit(&mut self, candidate: Candidate) -> Admission {
        match self.phase {
            Phase::Loading { .. } | Phase::Completing
                if candidate.epoch > self.epoch && !self.replaces =>
            {
                Admission::Replace
            }
            Phase::Queued { .. } if !candidate.permitted => self.enqueue(),
            Phase::Loading { .. } | Phase::Completing | Phase::Over => self.enqueue(),
            Phase::Queued { .. } | Phase::Vacant => Admission::Lead {
                generation: self.lead(candidate),
            },
        }
    }

    fn enqueue(&mut self) -> Admission {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.waiters.push_back((ticket, None));
        Admission::Wait { ticket }
    }

    /// Returns the answer to a waiter. A waiter that has to wait stays in the queue, which takes its `waker`. With any
    /// other answer it is removed from the queue. The caller must drop the waker that `waker` contains afterwards
    /// without holding a lock, because the drop runs code of an executor.
    pub(crate) fn poll(
        &mut self,
        ticket: u64,
        candidate: Candidate,
        waker: &mut Option<Waker>,
    ) -> Turn {
        let again = match self.phase {
            Phase::Over => {
                *waker = self.dequeue(ticket);
                return Turn::Over;
            }
            // The leader has its result.
            Phase::Completing => None,
            Phase::Loading { lease, .. } if !candidate.is_after(lease) => lease.end(),
            Phase::Queued { lease } if !candidate.permitted && !candidate.is_after(lease) => {
                lease.end()
            }
            Phase::Queued { .. } | Phase::Loading { .. } | Phase::Vacant => {
                *waker = self.dequeue(ticket);
                return Turn::Lead {
                    supersedes: self.leader_activity(),
                    generation: self.lead(candidate),
                };
            }
        };
        if let Ok(location) = self.find(ticket) {
            swap(&mut self.waiters[location].1, waker);
        }
        Turn::Wait { again }
    }

    /// Returns the activity of the leader, if there is one.
    fn leader_activity(&self) -> Option<Superseded> {
        match self.phase {
            Phase::Queued { .. } => Some(Superseded::Queued),
            Phase::Loading {
                has_permit: true, ..
            } => Some(Superseded::LoadingWithPermit),
            Phase::Loading { .. } | Phase::Completing => Some(Superseded::Loading),
            Phase::Vacant | Phase::Over => None,
        }
    }

    fn find(&self, ticket: u64) -> Result<usize, usize> {
        self.waiters
            .binary_search_by_key(&ticket, |(other, _)| *other)
    }

    fn dequeue(&mut self, ticket: u64) -> Option<Waker> {
        let location = self.find(ticket).ok()?;
        self.waiters.remove(location)?.1
    }

    pub(crate) fn is_vacant(&self) -> bool {
        matches!(self.phase, Phase::Vacant)
    }

    pub(crate) fn is_awaited(&self) -> bool {
        !self.waiters.is_empty()
    }

    pub(crate) fn is_led(&self, generation: u32) -> bool {
        self.leader_activity().is_some() && self.generation == generation
    }

    /// Makes it impossible to supersede a leader that has its result. Returns `false` if it was superseded before.
    pub(crate) fn prepare_completion(&mut self, generation: u32) -> bool {
        let led = self.is_led(generation);
        if led {
            self.phase = Phase::Completing;
        }
        led
    }

    /// Removes the leader. Returns the waker of the first waiter that has one, which becomes the leader when it is
    /// polled.
    pub(crate) fn abandon(&mut self, generation: u32) -> Option<Waker> {
        if !self.is_led(generation) {
            return None;
        }
        self.phase = Phase::Vacant;
        self.wake_first()
    }

    /// Removes a waiter. If it may have been woken to lead, the first waker in the result is that of the next waiter,
    /// which is to be woken instead. The second one is the removed waiter's own, to be dropped without holding a lock.
    pub(crate) fn leave(&mut self, ticket: u64) -> (Option<Waker>, Option<Waker>) {
        let own = self.dequeue(ticket);
        match self.phase {
            Phase::Vacant => (self.wake_first(), own),
            _ => (None, own),
        }
    }

    /// Marks a waiter as busy: it is not woken to lead before it is polled again. Returns the same wakers as
    /// [`leave`](Self::leave).
    pub(crate) fn mark_busy(&mut self, ticket: u64) -> (Option<Waker>, Option<Waker>) {
        let location = self.find(ticket).ok();
        let own = location.and_then(|location| self.waiters[location].1.take());
        match self.phase {
            Phase::Vacant if own.is_none() => (self.wake_first(), own),
            _ => (None, own),
        }
    }

    fn wake_first(&mut self) -> Option<Waker> {
        self.waiters.iter_mut().find_map(|(_, waker)| waker.take())
    }

    /// Ends the load. Returns all waiters, to be woken.
    pub(crate) fn end(&mut self) -> Waiters {
        self.phase = Phase::Over;
        std::mem::take(&mut self.waiters)
    }
}
