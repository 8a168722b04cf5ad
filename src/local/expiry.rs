//! Deadlines, and the sweep that finds what is past them.
//!
//! A deadline lies with its entry, where the hit reads it. The sweep is a hand that goes round all
//! slots, a few at each write. It rests while nothing can have expired: `soonest` is a lower bound
//! of all deadlines, renewed whenever the hand has gone round.

use crate::clock::{NEVER, Nanos};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// How many slots a write sweeps while something may have expired. A full round takes an eighth as
/// many writes as there are slots.
pub(crate) const SLOTS_PER_WRITE: u32 = 8;

/// What a hit reads comes first.
#[repr(C)]
pub(crate) struct Expiry {
    time_to_idle: Option<Nanos>,
    /// How long entries are kept past their deadline.
    grace: Nanos,
    /// With `time_to_idle`: how far hits may move the deadline of each slot.
    limits: Vec<Nanos>,
    /// No deadline lies before it.
    soonest: Nanos,
    /// No deadline of a slot that the hand has passed in this round lies before it.
    soonest_passed: Nanos,
    hand: u32,
    /// How many slots to look at whatever `soonest` says.
    to_search: u32,
}

impl Expiry {
    pub(crate) const fn new(time_to_idle: Option<Nanos>, grace: Nanos) -> Self {
        Self {
            time_to_idle,
            grace,
            limits: Vec::new(),
            soonest: NEVER,
            soonest_passed: NEVER,
            hand: 0,
            to_search: 0,
        }
    }

    /// The first deadline of an entry that shall not live past `limit`.
    pub(crate) fn first_deadline(&self, now: Nanos, limit: Nanos) -> Nanos {
        self.time_to_idle
            .map_or(limit, |idle| limit.min(now.saturating_add(idle)))
    }

    /// Notes what a slot was filled with.
    pub(crate) fn set(&mut self, slot: u32, limit: Nanos, deadline: Nanos) {
        if self.time_to_idle.is_some() {
            let slot = slot as usize;
            if self.limits.len() <= slot {
                self.limits.resize(slot + 1, NEVER);
            }
            self.limits[slot] = limit;
        }
        self.soonest = self.soonest.min(deadline);
        self.soonest_passed = self.soonest_passed.min(deadline);
    }

    /// Moves the deadline of an entry that was hit, if it is one that idles. Deadlines never move
    /// back, so `soonest` stays a lower bound.
    #[inline]
    pub(crate) fn touch(&self, slot: u32, deadline: &AtomicU64, now: Nanos) {
        if let Some(idle) = self.time_to_idle {
            let moved = now.saturating_add(idle).min(self.limits[slot as usize]);
            if moved > deadline.load(Relaxed) {
                deadline.store(moved, Relaxed);
            }
        }
    }

    /// The next slot for the sweep to look at, or `None` while nothing can have expired.
    pub(crate) fn next(&mut self, now: Nanos, end: u32) -> Option<u32> {
        if self.hand >= end {
            self.hand = 0;
            self.soonest = self.soonest_passed;
            self.soonest_passed = NEVER;
        }
        if end == 0 || !(self.to_search > 0 || self.is_over(self.soonest, now)) {
            return None;
        }
        self.to_search = self.to_search.saturating_sub(1);
        self.hand += 1;
        Some(self.hand - 1)
    }

    /// Is an entry with this deadline of no use any more?
    pub(crate) fn is_over(&self, deadline: Nanos, now: Nanos) -> bool {
        deadline.saturating_add(self.grace) <= now
    }

    /// Something may be dead that no deadline tells of: the hand goes round once more.
    pub(crate) fn search(&mut self, slots: u32) {
        self.to_search = slots;
    }

    /// The sweep has found a slot alive.
    pub(crate) fn passed(&mut self, deadline: Nanos) {
        self.soonest_passed = self.soonest_passed.min(deadline);
    }

    /// Checks the lower bound, for tests.
    ///
    /// # Panics
    ///
    /// If it is broken.
    pub(crate) fn validate(&self, deadlines: impl Iterator<Item = (u32, Nanos)>) {
        for (slot, deadline) in deadlines {
            assert!(deadline >= self.soonest, "slot {slot} is before `soonest`");
            assert!(slot >= self.hand || deadline >= self.soonest_passed);
        }
    }
}
