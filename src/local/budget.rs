//! The one budget of a cache, whatever its shards: so many entries, or so much weight.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What may be held and what is. Entries are inserted only against a [`Reservation`], so the sum
/// of what all shards hold never exceeds the limit, not even for a moment.
#[repr(align(128))]
pub(crate) struct Budget {
    limit: u64,
    /// Held or reserved. It orders nothing else, so relaxed accesses do.
    used: AtomicU64,
}

impl Budget {
    pub(crate) const fn new(limit: u64) -> Self {
        Self {
            limit,
            used: AtomicU64::new(0),
        }
    }

    pub(crate) const fn limit(&self) -> u64 {
        self.limit
    }

    pub(crate) fn used(&self) -> u64 {
        self.used.load(Relaxed)
    }

    #[cfg_attr(not(feature = "snapshot"), allow(dead_code))]
    pub(crate) fn left(&self) -> u64 {
        self.limit.saturating_sub(self.used())
    }

    /// Gives back what a removed entry weighed.
    pub(crate) fn release(&self, amount: u64) {
        if amount > 0 {
            self.used.fetch_sub(amount, Relaxed);
        }
    }

    fn try_take(&self, amount: u64) -> bool {
        // A full cache fails at the load, so that its writers share the line unchanged.
        self.used
            .fetch_update(Relaxed, Relaxed, |used| {
                used.checked_add(amount).filter(|&sum| sum <= self.limit)
            })
            .is_ok()
    }
}

/// A part of the budget that belongs to an insertion under way. What is not spent goes back.
pub(crate) struct Reservation<'a> {
    budget: &'a Budget,
    amount: u64,
}

impl<'a> Reservation<'a> {
    pub(crate) const fn none(budget: &'a Budget) -> Self {
        Self { budget, amount: 0 }
    }

    /// Takes over what an evicted entry weighed.
    pub(crate) fn add(&mut self, freed: u64) {
        self.amount += freed;
    }

    /// Tries to reach `wanted` from what nobody uses, all or nothing.
    pub(crate) fn reach(&mut self, wanted: u64) -> bool {
        if let Some(missing) = wanted.checked_sub(self.amount) {
            if missing > 0 && !self.budget.try_take(missing) {
                return false;
            }
            self.amount = wanted;
        }
        true
    }

    pub(crate) fn give_back(&mut self) {
        self.budget.release(std::mem::take(&mut self.amount));
    }

    /// An entry of this weight is held now; it was reached before.
    pub(crate) fn spend(&mut self, weight: u64) {
        self.amount -= weight;
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        self.give_back();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_spent_goes_back() {
        let budget = Budget::new(10);
        let mut first = Reservation::none(&budget);
        assert!(first.reach(7));
        first.spend(4);
        let mut second = Reservation::none(&budget);
        assert!(!second.reach(4));
        second.add(1);
        // `add` is for what the budget counts as used already.
        budget.used.fetch_add(1, Relaxed);
        assert!(second.reach(3));
        assert_eq!(budget.used(), 10);
        drop(first);
        drop(second);
        assert_eq!(budget.used(), 4);
    }

    #[test]
    fn amounts_near_the_end_of_the_type_do_not_wrap() {
        let budget = Budget::new(u64::MAX);
        let mut all = Reservation::none(&budget);
        assert!(all.reach(u64::MAX));
        assert!(!Reservation::none(&budget).reach(1));
    }
}
