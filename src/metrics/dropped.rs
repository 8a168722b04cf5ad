//! The counters of caches that were dropped, for successors with the same name.

use crate::metrics::watched::CounterTotals;
use std::collections::VecDeque;
use std::sync::Arc;

/// The number of names whose counters are kept after their cache was dropped.
///
/// A service has few caches, which it names after their content, so this is far above what it needs. It bounds the
/// memory of a program that creates a cache for each tenant or each job, at about 2 KB for each name.
pub(super) const MAX_DROPPED_CACHES: usize = 1_000;

/// The last totals of the counters of dropped caches.
#[derive(Default)]
pub(super) struct DroppedCaches {
    /// The names, each once, with the one that was dropped first at the front.
    by_age: VecDeque<(Arc<str>, CounterTotals)>,
}

impl DroppedCaches {
    /// Keeps the totals of a dropped cache. If there are too many names, discards the one that was dropped first.
    pub(super) fn insert(&mut self, name: Arc<str>, totals: CounterTotals) {
        self.take(&name);
        if self.by_age.len() >= MAX_DROPPED_CACHES {
            self.by_age.pop_front();
        }
        self.by_age.push_back((name, totals));
    }

    /// Removes and returns the totals of the last cache of this name, or an empty map if they are not kept.
    pub(super) fn take(&mut self, name: &str) -> CounterTotals {
        let position = self.by_age.iter().position(|(other, _)| **other == *name);
        let removed = position.and_then(|position| self.by_age.remove(position));
        removed.map(|(_, totals)| totals).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn totals(value: u64) -> CounterTotals {
        CounterTotals::from([(("hotset_hits_total", "l1"), value)])
    }

    fn insert(dropped: &mut DroppedCaches, names: std::ops::Range<usize>) {
        for name in names {
            dropped.insert(name.to_string().into(), totals(1));
        }
    }

    #[test]
    fn names_above_the_bound_discard_the_oldest_names() {
        let mut dropped = DroppedCaches::default();
        insert(&mut dropped, 0..MAX_DROPPED_CACHES + 2);
        assert_eq!(dropped.by_age.len(), MAX_DROPPED_CACHES);
        assert_eq!(dropped.take("0"), CounterTotals::default());
        assert_eq!(dropped.take("1"), CounterTotals::default());
        assert_eq!(dropped.take("2"), totals(1));
    }

    #[test]
    fn name_dropped_again_is_kept_once_and_counts_as_new() {
        let mut dropped = DroppedCaches::default();
        insert(&mut dropped, 0..MAX_DROPPED_CACHES);
        dropped.insert("0".into(), totals(2));
        assert_eq!(dropped.by_age.len(), MAX_DROPPED_CACHES);
        insert(&mut dropped, MAX_DROPPED_CACHES..MAX_DROPPED_CACHES + 1);
        assert_eq!(dropped.take("0"), totals(2));
        assert_eq!(dropped.take("0"), CounterTotals::default());
        assert_eq!(dropped.take("1"), CounterTotals::default());
    }
}
