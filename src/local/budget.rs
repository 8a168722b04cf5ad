//! The budget of a cache, which all of its shards share: a number of entries, or a total weight.

#[cfg(all(test, any(loom_models, shuttle_models)))]
mod models;

use crate::sync::{AtomicU64, model_fence};
use std::sync::atomic::Ordering::{Relaxed, SeqCst};

/// The budget of a cache. Entries are inserted only against a [`Reservation`], so the total weight of all shards never
/// exceeds the limit, not even for a moment.
#[repr(align(128))]
pub(crate) struct Budget {
    /// Changed while the cache is in use. Sequentially consistent with `used` where it is changed.
    limit: AtomicU64,
    /// The weight of all entries and reservations. It orders no other memory than `limit`.
    used: AtomicU64,
}

impl Budget {
    /// Creates a budget of which nothing is used.
    pub(crate) fn new(limit: u64) -> Self {
        Self {
            limit: AtomicU64::new(limit),
            used: AtomicU64::new(0),
        }
    }

    /// Returns the highest weight.
    pub(crate) fn limit(&self) -> u64 {
        self.limit.load(Relaxed)
    }

    /// Sets the highest weight. If it is exceeded now, nothing more can be reserved.
    pub(crate) fn set_limit(&self, limit: u64) {
        self.limit.store(limit, SeqCst);
        model_fence();
    }

    /// Checks whether the highest weight is exceeded, because it was lowered.
    pub(crate) fn is_exceeded(&self) -> bool {
        self.used.load(SeqCst) > self.limit()
    }

    /// Checks whether exactly the highest weight is used.
    #[inline]
    pub(crate) fn is_used_up(&self) -> bool {
        self.used() == self.limit()
    }

    /// Returns the weight of all entries and reservations.
    #[inline]
    pub(crate) fn used(&self) -> u64 {
        self.used.load(Relaxed)
    }

    /// Returns the weight that is neither used nor reserved.
    pub(crate) fn left(&self) -> u64 {
        self.limit().saturating_sub(self.used())
    }

    /// Gives back the weight of a removed entry.
    pub(crate) fn release(&self, amount: u64) {
        if amount > 0 {
            self.used.fetch_sub(amount, Relaxed);
        }
    }

    /// Reserves a weight, if it is free.
    fn try_take(&self, amount: u64) -> bool {
        // In a full cache this fails at the load, so that its writers share the cache line unchanged.
        let limit = self.limit();
        let taken = self.used.fetch_update(SeqCst, Relaxed, |used| {
            used.checked_add(amount).filter(|&sum| sum <= limit)
        });
        let Ok(before) = taken else {
            return false;
        };
        model_fence();
        // If the limit was lowered meanwhile, either `is_exceeded` sees this reservation, or this load sees the limit.
        if before + amount > self.limit.load(SeqCst) {
            self.release(amount);
            return false;
        }
        true
    }
}

/// The part of the budget that an insertion in progress has reserved. On drop, the part that was not spent is given
/// back.
pub(crate) struct Reservation<'a> {
    budget: &'a Budget,
    amount: u64,
}

impl<'a> Reservation<'a> {
    /// Creates an empty reservation.
    pub(crate) const fn none(budget: &'a Budget) -> Self {
        Self { budget, amount: 0 }
    }

    /// Returns the budget of the reservation.
    #[cfg(feature = "snapshot")]
    pub(crate) const fn budget(&self) -> &'a Budget {
        self.budget
    }

    /// Adds the weight of an evicted entry.
    pub(crate) fn add(&mut self, freed: u64) {
        self.amount += freed;
    }

    /// Extends the reservation to `wanted` from the free part of the budget, or not at all. Returns whether it has that
    /// much.
    pub(crate) fn reach(&mut self, wanted: u64) -> bool {
        if let Some(missing) = wanted.checked_sub(self.amount) {
            if missing > 0 && !self.budget.try_take(missing) {
                return false;
            }
            self.amount = wanted;
        }
        true
    }

    /// Gives back all that is reserved.
    pub(crate) fn give_back(&mut self) {
        self.budget.release(std::mem::take(&mut self.amount));
    }

    /// Takes the weight of an entry that is stored now. The caller has [reached](Self::reach) this weight before.
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
    fn dropped_reservation_gives_back_the_unspent_part() {
        let budget = Budget::new(10);
        let mut first = Reservation::none(&budget);
        assert!(first.reach(7));
        first.spend(4);
        let mut second = Reservation::none(&budget);
        assert!(!second.reach(4));
        second.add(1);
        // `add` is for a weight that the budget counts as used already.
        budget.used.fetch_add(1, Relaxed);
        assert!(second.reach(3));
        assert_eq!(budget.used(), 10);
        drop(first);
        drop(second);
        assert_eq!(budget.used(), 4);
    }

    #[test]
    fn reservation_at_the_time_of_a_lower_limit_is_seen_or_fails() {
        // Two threads that begin each round at the same time.
        let (round, ready) = (AtomicU64::new(0), AtomicU64::new(0));
        let budgets: Vec<Budget> = (0..20_000).map(|_| Budget::new(1)).collect();
        let begin = |number: usize| {
            let number = number as u64;
            if ready.fetch_add(1, SeqCst) == 2 * number + 1 {
                round.store(number + 1, SeqCst);
            }
            while round.load(SeqCst) <= number {
                std::hint::spin_loop();
            }
        };
        std::thread::scope(|scope| {
            let insert = scope.spawn(|| {
                for (number, budget) in budgets.iter().enumerate() {
                    begin(number);
                    let mut room = Reservation::none(budget);
                    if room.reach(1) {
                        room.spend(1);
                    }
                }
            });
            let seen: Vec<bool> = budgets
                .iter()
                .enumerate()
                .map(|(number, budget)| {
                    begin(number);
                    budget.set_limit(0);
                    budget.is_exceeded()
                })
                .collect();
            insert.join().unwrap();
            let unseen = budgets
                .iter()
                .zip(seen)
                .filter(|(budget, seen)| budget.is_exceeded() && !seen);
            assert_eq!(unseen.count(), 0);
        });
    }

    #[test]
    fn reservation_near_the_maximum_of_the_type_does_not_wrap() {
        let budget = Budget::new(u64::MAX);
        let mut all = Reservation::none(&budget);
        assert!(all.reach(u64::MAX));
        assert!(!Reservation::none(&budget).reach(1));
    }
}
