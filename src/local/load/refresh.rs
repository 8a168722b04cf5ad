//! The rules for refreshes of live entries, and for new attempts after failed loads.
//!
//! Early refresh is `XFetch` (Vattani, Chierichetti, Lowenstein, "Optimal Probabilistic Cache Stampede Prevention",
//! VLDB 2015): each hit refreshes the entry with a probability that grows as the deadline approaches. The time to the
//! deadline is measured in units of the duration of a load.

use crate::clock::{NEVER, Nanos};
use crate::random;
use crate::storage::allocated::AllocatedBytes;
use crate::storage::column::Column;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// The time from the start of a refresh, or from a failed load, to the next attempt, while an old value serves.
pub(crate) const THROTTLE: Duration = Duration::from_secs(1);

/// The rules of a cache for refreshes.
#[derive(Clone, Copy)]
pub(crate) struct RefreshRules {
    /// The age from which an entry is refreshed, in nanoseconds, if there is one.
    pub(crate) refresh_after: Option<Nanos>,
    /// The beta of `XFetch`. With 0, no entry is refreshed early.
    pub(crate) early: f64,
    /// The time past its deadline for which a value may serve when a load fails, in nanoseconds.
    pub(crate) stale: Nanos,
    /// The time between attempts, in nanoseconds: see [`THROTTLE`].
    pub(crate) throttle: Nanos,
}

impl RefreshRules {
    /// Checks whether a value of this age is due for a refresh, which the second rule decides at random. `left` is the
    /// remaining time to live, or [`NEVER`] if the value does not expire.
    #[cfg(any(test, feature = "redis"))]
    pub(crate) fn is_due(&self, age: Nanos, left: Nanos, load_time: Nanos) -> bool {
        self.refresh_after.is_some_and(|after| age >= after) || self.is_early(left, load_time)
    }

    /// Decides at random whether a value is refreshed before its remaining time to live of `left` ends.
    #[allow(clippy::cast_precision_loss)]
    fn is_early(&self, left: Nanos, load_time: Nanos) -> bool {
        let scale = load_time as f64 * self.early;
        let in_time = left as f64;
        // The logarithm of a random number is never below -64, so most hits need no random number.
        left != NEVER && in_time < scale * 64.0 && in_time <= scale * -random::unit().ln()
    }
}

/// The refresh times of a shard's entries, by slot.
pub(crate) struct RefreshTimes {
    rules: RefreshRules,
    pub(crate) slots: Column<Slot>,
}

/// The refresh times of one entry. Those that are written under the shard's shared lock are atomic.
#[derive(Default)]
pub(crate) struct Slot {
    /// The time from which a hit refreshes the entry.
    refresh_at: Nanos,
    /// The duration of the load of this entry, in nanoseconds.
    load_time: Nanos,
    /// The number of the write that has stored the value in Redis, or 0 if it is not known.
    write: u64,
    /// The time before which no caller refreshes the entry, because another caller has begun to.
    not_before: AtomicU64,
    /// The time until which an old value serves, because a load of the entry failed.
    failed_until: AtomicU64,
}

impl RefreshTimes {
    /// Creates the refresh times of a shard without entries.
    pub(crate) const fn new(rules: RefreshRules) -> Self {
        Self {
            rules,
            slots: Column::new(),
        }
    }

    /// Sets the times of a slot that was filled now, with a value of this age.
    pub(crate) fn set(&mut self, slot: u32, now: Nanos, age: Nanos, load_time: Nanos) {
        // If loads take longer than the age that is allowed, there is still a pause between them.
        let until_refresh = |after: Nanos| after.saturating_sub(age).max(load_time);
        let refresh_at = |after| now.saturating_add(until_refresh(after));
        let new = Slot {
            refresh_at: self.rules.refresh_after.map_or(NEVER, refresh_at),
            load_time,
            write: 0,
            not_before: AtomicU64::new(0),
            failed_until: AtomicU64::new(0),
        };
        self.slots.put(slot, new);
    }

    /// Sets the number of the write that has stored the value of a slot in Redis.
    pub(crate) fn set_write(&mut self, slot: u32, write: u64) {
        if let Some(slot) = self.slots.get_mut(slot) {
            slot.write = write;
        }
    }

    /// Returns the number of the write that has stored the value of a slot in Redis, or 0 if it is not known.
    #[cfg_attr(not(feature = "redis"), allow(dead_code))]
    pub(crate) fn write(&self, slot: u32) -> u64 {
        self.slots.get(slot).map_or(0, |slot| slot.write)
    }

    /// Returns the duration of the load of an entry.
    pub(crate) fn load_time(&self, slot: u32) -> Nanos {
        self.slots.get(slot).map_or(0, |slot| slot.load_time)
    }

    /// Checks whether the caller is to refresh this live entry. Returns `true` to at most one of several callers.
    pub(crate) fn claim(&self, slot: u32, deadline: Nanos, now: Nanos) -> bool {
        let Some(slot) = self.slots.get(slot) else {
            return false;
        };
        let not_before = slot.not_before.load(Relaxed);
        let left = match deadline {
            NEVER => NEVER,
            deadline => deadline.saturating_sub(now),
        };
        let is_early = || self.rules.is_early(left, slot.load_time);
        if now < not_before || !(now >= slot.refresh_at || is_early()) {
            return false;
        }
        // The claim is short, so that another caller gets it soon if this one does not refresh the entry. While the
        // load of a refresh is in flight, no second one starts.
        let until = now.saturating_add(self.rules.throttle);
        let claim = slot
            .not_before
            .compare_exchange(not_before, until, Relaxed, Relaxed);
        claim.is_ok()
    }

    /// Records that a load of this entry has failed.
    pub(crate) fn failed(&self, slot: u32, now: Nanos) {
        let until = now.saturating_add(self.rules.throttle);
        if let Some(slot) = self.slots.get(slot) {
            slot.not_before.store(until, Relaxed);
            slot.failed_until.store(until, Relaxed);
        }
    }

    /// Checks whether an entry with this deadline may serve in place of a load that failed.
    pub(crate) fn may_serve(&self, deadline: Nanos, now: Nanos) -> bool {
        now < deadline.saturating_add(self.rules.stale)
    }

    /// Checks whether a load of this entry has failed so recently that no other one is tried.
    pub(crate) fn is_throttled(&self, slot: u32, now: Nanos) -> bool {
        let slot = self.slots.get(slot);
        slot.is_some_and(|slot| now < slot.failed_until.load(Relaxed))
    }
}

impl AllocatedBytes for RefreshTimes {
    fn allocated_bytes(&self) -> usize {
        self.slots.allocated_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: RefreshRules = RefreshRules {
        refresh_after: None,
        early: 1.0,
        stale: 0,
        throttle: 5,
    };

    /// Returns the observed probability of a refresh when `left` is left of the time to live and a load takes 1,000.
    fn chance(left: Nanos) -> f64 {
        let mut refreshes = RefreshTimes::new(RULES);
        let tries = 20_000_u32;
        let hits = (0..tries).filter(|_| {
            refreshes.set(0, 0, 0, 1_000);
            refreshes.claim(0, left + 1, 1)
        });
        f64::from(u32::try_from(hits.count()).unwrap()) / f64::from(tries)
    }

    #[test]
    fn probability_of_an_early_refresh_is_that_of_xfetch() {
        // The probability of -1,000 * ln(u) >= left is exp(-left / 1,000), if u is uniform between 0 and 1.
        for left in [0_u32, 500, 1_000, 2_000] {
            let expected = (-f64::from(left) / 1_000.0).exp();
            let found = chance(left.into());
            assert!(
                (found - expected).abs() < 0.02,
                "{left}: {found}, {expected}"
            );
        }
        assert!(chance(100_000) == 0.0);
    }

    #[test]
    fn refresh_is_claimed_by_one_caller_until_the_throttle_has_passed() {
        let rules = RefreshRules {
            refresh_after: Some(100),
            early: 0.0,
            ..RULES
        };
        let mut refreshes = RefreshTimes::new(rules);
        refreshes.set(0, 1_000, 0, 7);
        assert!(!refreshes.claim(0, NEVER, 1_099));
        assert!(refreshes.claim(0, NEVER, 1_100));
        assert!(!refreshes.claim(0, NEVER, 1_104));
        assert!(refreshes.claim(0, NEVER, 1_105));
        refreshes.failed(0, 1_109);
        assert!(!refreshes.claim(0, NEVER, 1_113) && refreshes.is_throttled(0, 1_113));
        assert!(refreshes.claim(0, NEVER, 1_114) && !refreshes.is_throttled(0, 1_114));
    }

    #[test]
    fn value_is_due_at_its_age_and_not_before_a_load_could_have_ended() {
        let rules = RefreshRules {
            refresh_after: Some(100),
            early: 0.0,
            ..RULES
        };
        let mut refreshes = RefreshTimes::new(rules);
        for (age, due_at) in [(0, 1_100), (60, 1_040), (98, 1_007), (500, 1_007)] {
            refreshes.set(0, 1_000, age, 7);
            assert!(!refreshes.claim(0, NEVER, due_at - 1), "{age}");
            assert!(refreshes.claim(0, NEVER, due_at), "{age}");
        }
        assert!(!rules.is_due(99, NEVER, 7) && rules.is_due(100, NEVER, 7));
        assert!(!rules.is_due(99, 0, 7), "without early refreshes");
    }
}
