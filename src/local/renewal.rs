//! When an entry is loaded anew though it lives, and when a load that failed is tried again.
//!
//! Early renewal is `XFetch` (Vattani, Chierichetti, Lowenstein, "Optimal Probabilistic Cache Stampede
//! Prevention", VLDB 2015): each hit renews with a chance that grows as the deadline comes near,
//! measured in the time that a load takes.

use super::column::Column;
use crate::clock::{NEVER, Nanos};
use crate::random;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// How long after a renewal has begun, or a load has failed, the next one is tried where an old value
/// serves meanwhile.
pub(crate) const THROTTLE: Duration = Duration::from_secs(1);

/// The rules of a cache.
#[derive(Clone, Copy)]
pub(crate) struct Rules {
    pub(crate) refresh_after: Option<Nanos>,
    /// `XFetch`'s beta; 0 for never.
    pub(crate) early: f64,
    /// How long past its deadline a value may serve where a load fails.
    pub(crate) stale: Nanos,
    pub(crate) throttle: Nanos,
}

/// What the rules say of a shard's entries, by slot. Words that hits write are atomic.
pub(crate) struct Renewals {
    rules: Rules,
    pub(crate) slots: Column<Slot>,
}

#[derive(Default)]
pub(crate) struct Slot {
    refresh_at: Nanos,
    /// How long the load of this entry took.
    load_time: Nanos,
    /// Somebody has set out to renew it: nobody else does before this.
    not_before: AtomicU64,
    /// A load of it failed: an old value serves until this.
    failed_until: AtomicU64,
}

impl Renewals {
    pub(crate) const fn new(rules: Rules) -> Self {
        Self {
            rules,
            slots: Column::new(),
        }
    }

    /// Notes that a slot was filled.
    pub(crate) fn set(&mut self, slot: u32, now: Nanos, load_time: Nanos) {
        let refresh_after = self.rules.refresh_after;
        let new = Slot {
            refresh_at: refresh_after.map_or(NEVER, |after| now.saturating_add(after)),
            load_time,
            not_before: AtomicU64::new(0),
            failed_until: AtomicU64::new(0),
        };
        self.slots.put(slot, new);
    }

    /// Returns how long the load of an entry took.
    pub(crate) fn load_time(&self, slot: u32) -> Nanos {
        self.slots.get(slot).map_or(0, |slot| slot.load_time)
    }

    /// Is this live entry to be renewed, by the caller? Says yes to one of many.
    pub(crate) fn claim(&self, slot: u32, deadline: Nanos, now: Nanos) -> bool {
        let Some(slot) = self.slots.get(slot) else {
            return false;
        };
        let not_before = slot.not_before.load(Relaxed);
        if now < not_before || !(now >= slot.refresh_at || self.is_early(slot, deadline, now)) {
            return false;
        }
        // Not for long: whatever becomes of the caller, there will be another. While a renewal is
        // under way its flight keeps others from a second.
        let until = now.saturating_add(self.rules.throttle);
        let claim = slot
            .not_before
            .compare_exchange(not_before, until, Relaxed, Relaxed);
        claim.is_ok()
    }

    #[allow(clippy::cast_precision_loss)]
    fn is_early(&self, slot: &Slot, deadline: Nanos, now: Nanos) -> bool {
        let scale = slot.load_time as f64 * self.rules.early;
        let left = deadline.saturating_sub(now) as f64;
        // No random number makes up for more than that.
        deadline != NEVER && left < scale * 64.0 && left <= scale * -random::unit().ln()
    }

    /// A load of this entry has failed.
    pub(crate) fn failed(&self, slot: u32, now: Nanos) {
        let until = now.saturating_add(self.rules.throttle);
        if let Some(slot) = self.slots.get(slot) {
            slot.not_before.store(until, Relaxed);
            slot.failed_until.store(until, Relaxed);
        }
    }

    /// May this expired entry serve in place of a load that failed?
    pub(crate) fn may_serve(&self, deadline: Nanos, now: Nanos) -> bool {
        now < deadline.saturating_add(self.rules.stale)
    }

    /// Has a load failed so short a time ago that none is tried?
    pub(crate) fn is_throttled(&self, slot: u32, now: Nanos) -> bool {
        let slot = self.slots.get(slot);
        slot.is_some_and(|slot| now < slot.failed_until.load(Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Rules = Rules {
        refresh_after: None,
        early: 1.0,
        stale: 0,
        throttle: 5,
    };

    /// The chance of a renewal when `left` is left of the time to live, at a load time of 1,000.
    fn chance(left: Nanos) -> f64 {
        let mut renewals = Renewals::new(RULES);
        let tries = 20_000_u32;
        let hits = (0..tries).filter(|_| {
            renewals.set(0, 0, 1_000);
            renewals.claim(0, left + 1, 1)
        });
        f64::from(u32::try_from(hits.count()).unwrap()) / f64::from(tries)
    }

    #[test]
    fn the_chance_of_an_early_renewal_is_xfetchs() {
        // -1,000 * ln(u) >= left, with u even between 0 and 1: that is exp(-left / 1,000).
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
    fn one_claims_and_the_next_may_after_the_throttle() {
        let rules = Rules {
            refresh_after: Some(100),
            early: 0.0,
            ..RULES
        };
        let mut renewals = Renewals::new(rules);
        renewals.set(0, 1_000, 7);
        assert!(!renewals.claim(0, NEVER, 1_099));
        assert!(renewals.claim(0, NEVER, 1_100));
        assert!(!renewals.claim(0, NEVER, 1_104));
        assert!(renewals.claim(0, NEVER, 1_105));
        renewals.failed(0, 1_109);
        assert!(!renewals.claim(0, NEVER, 1_113) && renewals.is_throttled(0, 1_113));
        assert!(renewals.claim(0, NEVER, 1_114) && !renewals.is_throttled(0, 1_114));
    }
}
