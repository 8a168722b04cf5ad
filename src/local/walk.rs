//! Walks over all entries, which visit a limited number of slots under each hold of a shard's lock.

use crate::local::LocalCache;
use crate::local::shard::Shard;
use crate::storage::work_slice::SLOTS_PER_HOLD;
use crate::sync::read_biased_lock::ReadBiasedLock;
use hashbrown::HashTable;
use std::cmp::Reverse;
use std::hash::{BuildHasher, Hash};
use std::ops::Range;

/// A span of a shard's slots, and the time from which heats are measured.
#[derive(Debug, Clone)]
pub(crate) struct Span {
    pub(crate) slots: Range<u32>,
    /// The time of the policy's clock when the walk began.
    pub(crate) since: u32,
}

/// An item made of an entry, with the heat and the slot of the entry.
pub(crate) struct Listed<T> {
    pub(crate) heat: i32,
    pub(crate) slot: u32,
    pub(crate) item: T,
}

impl<T> Listed<T> {
    /// Converts the item.
    pub(crate) fn map<U>(self, change: impl FnOnce(T) -> U) -> Listed<U> {
        Listed {
            heat: self.heat,
            slot: self.slot,
            item: change(self.item),
        }
    }
}

/// A walk over the slots of one shard.
///
/// Entries keep their slots, so each entry that exists when the walk begins is visited, unless it is removed before. If
/// the entries are given other slots meanwhile, the walk begins again.
pub(super) struct Walk {
    /// The first slot that was not visited yet.
    next: u32,
    /// The state of the shard when the walk began. `None` before that.
    start: Option<WalkStart>,
    is_over: bool,
}

/// The state of a shard when a walk began.
#[derive(PartialEq)]
struct WalkStart {
    renumberings: u32,
    time: u32,
    inserts: u64,
}

impl Walk {
    /// Creates a walk that has not begun.
    pub(super) const fn new() -> Self {
        Self {
            next: 0,
            start: None,
            is_over: false,
        }
    }

    /// Returns `true` if all slots were visited.
    pub(super) const fn is_over(&self) -> bool {
        self.is_over
    }

    /// Visits the next span. Returns `true` if the walk has begun again with this span. All slots that were visited
    /// before are then visited once more.
    pub(super) fn step<K, V>(
        &mut self,
        lock: &ReadBiasedLock<Shard<K, V>>,
        visit: impl FnOnce(&Shard<K, V>, &Span),
    ) -> bool {
        lock.read(|shard| {
            let renumberings = shard.renumberings();
            let start = self.start.take();
            let begins_again = start
                .as_ref()
                .is_some_and(|start| start.renumberings != renumberings);
            let start = start.filter(|_| !begins_again).unwrap_or_else(|| {
                self.next = 0;
                WalkStart {
                    renumberings,
                    time: shard.time(),
                    inserts: shard.inserts(),
                }
            });
            let slots = self.next..self.next.saturating_add(SLOTS_PER_HOLD);
            self.next = slots.end;
            self.is_over = self.next >= shard.end();
            let since = start.time;
            self.start = Some(start);
            visit(shard, &Span { slots, since });
            begins_again
        })
    }

    /// Checks whether entries were stored since the walk began, so that a key may have been visited in two slots.
    fn was_written_to<K, V>(&self, lock: &ReadBiasedLock<Shard<K, V>>) -> bool {
        let inserts = lock.read(Shard::inserts);
        self.start
            .as_ref()
            .is_some_and(|start| start.inserts != inserts)
    }
}

impl<K: Eq + Hash, V, S: BuildHasher> LocalCache<K, V, S> {
    /// Returns the items that `visit` makes of all entries, the hottest first, in equal shares from each shard.
    pub(super) fn list<T>(
        &self,
        visit: impl Fn(&Shard<K, V>, &Span, &mut Vec<Listed<T>>),
        key_of: impl Fn(&T) -> &K,
    ) -> Vec<T> {
        let shards = self.inner.cells.iter().map(|cell| {
            let (mut walk, mut listed, mut filed_next) = (Walk::new(), Vec::new(), Vec::new());
            while !walk.is_over() {
                // Outside of the lock, so that it is dropped there, also if a `clone` panics.
                let (mut items, mut links) = (Vec::new(), Vec::new());
                let add = |shard: &Shard<K, V>, span: &Span| {
                    visit(shard, span, &mut items);
                    links.extend(shard.filed_next_in(span));
                };
                if walk.step(&cell.shard, add) {
                    listed.clear();
                    filed_next.clear();
                }
                listed.append(&mut items);
                filed_next.append(&mut links);
            }
            if walk.was_written_to(&cell.shard) {
                self.keep_last_of_each_key(&mut listed, &key_of);
            }
            let positions = positions(&filed_next);
            listed.sort_unstable_by_key(|listed| {
                Reverse((listed.heat, positions[listed.slot as usize]))
            });
            listed.into_iter().map(|listed| listed.item).collect()
        });
        interleave(shards.collect())
    }

    /// Removes all but the last item of each key, which is the newest: an entry is in one slot at a time.
    fn keep_last_of_each_key<T>(&self, listed: &mut Vec<Listed<T>>, key_of: impl Fn(&T) -> &K) {
        let hash_of = |item: &T| self.hash_of(key_of(item));
        let mut last = HashTable::with_capacity(listed.len());
        let mut is_last = vec![false; listed.len()];
        for (at, Listed { item, .. }) in listed.iter().enumerate().rev() {
            let is_match = |&other: &usize| key_of(&listed[other].item) == key_of(item);
            let hash = hash_of(item);
            if last.find(hash, is_match).is_none() {
                last.insert_unique(hash, at, |&other| hash_of(&listed[other].item));
                is_last[at] = true;
            }
        }
        let mut is_last = is_last.into_iter();
        listed.retain(|_| is_last.next() == Some(true));
    }
}

/// Returns the positions of slots in their queues. `filed_next` has for each slot the slot that was filed after it.
///
/// The links were read at different times, so a queue may have come apart into several pieces. The order of the pieces
/// is not known.
fn positions(filed_next: &[u32]) -> Vec<usize> {
    const UNKNOWN: usize = usize::MAX;
    let mut is_first = vec![true; filed_next.len()];
    for &next in filed_next {
        if let Some(is_first) = is_first.get_mut(next as usize) {
            *is_first = false;
        }
    }
    let mut positions = vec![UNKNOWN; filed_next.len()];
    let mut position = 0;
    for first in (0..filed_next.len()).filter(|&slot| is_first[slot]) {
        let mut slot = first;
        // A slot that has a position was reached through an outdated link.
        while positions.get(slot) == Some(&UNKNOWN) {
            positions[slot] = position;
            position += 1;
            slot = filed_next[slot] as usize;
        }
    }
    positions
}

/// Merges the lists of all shards, so that the first entries of each list come first.
fn interleave<T>(shards: Vec<Vec<T>>) -> Vec<T> {
    let total = shards.iter().map(Vec::len).sum();
    let mut entries = Vec::with_capacity(total);
    let mut shards: Vec<_> = shards.into_iter().map(Vec::into_iter).collect();
    while entries.len() < total {
        entries.extend(shards.iter_mut().filter_map(Iterator::next));
    }
    entries
}

#[cfg(all(test, not(any(loom_models, shuttle_models))))]
mod tests {
    use super::*;
    use crate::policy::Policy;

    fn step(cache: &LocalCache<u64, u64>, walk: &mut Walk, visited: &mut Vec<u64>) {
        let before = visited.len();
        let lock = &cache.inner.cells[0].shard;
        let begins_again = walk.step(lock, |shard, span| visited.extend(shard.keys_in(span)));
        assert!(visited.len() - before <= SLOTS_PER_HOLD as usize);
        if begins_again {
            visited.drain(..before);
        }
    }

    fn filled(entries: u64) -> LocalCache<u64, u64> {
        let cache = LocalCache::builder().unbounded().shards(1).build().unwrap();
        (0..entries).for_each(|key| cache.insert(key, key));
        cache
    }

    #[test]
    fn positions_follow_the_links_of_each_queue() {
        const END: u32 = u32::MAX;
        // The queues 3, 0, 2 and 4, 1.
        assert_eq!(positions(&[2, END, END, 0, 1]), [1, 4, 2, 0, 3]);
        assert_eq!(positions(&[END, END]), [0, 1]);
        // Outdated links lead from two slots to one, and in a circle.
        assert_eq!(positions(&[1, END, 1]), [0, 1, 2]);
        assert_eq!(positions(&[1, 0]).len(), 2);
    }

    #[test]
    fn entries_of_a_queue_are_listed_in_the_reverse_order_of_their_insertion() {
        for policy in [Policy::Lru, Policy::S3Fifo, Policy::Car] {
            let builder = LocalCache::builder().capacity(100).shards(1);
            let cache: LocalCache<u64, u64> = builder.policy(policy).build().unwrap();
            // The slots of evicted entries are used again, so slots are not in the order of insertion.
            (0..150).for_each(|key| cache.insert(key, key));
            let entries = cache.hottest(usize::MAX);
            let keys: Vec<u64> = entries.into_iter().map(|(key, _)| key).collect();
            assert!(
                keys.iter().copied().eq((50..150).rev()),
                "{policy:?}: {keys:?}"
            );
        }
    }

    #[test]
    fn walk_visits_all_entries_in_slices_even_if_they_get_other_slots() {
        let entries = 3 * u64::from(SLOTS_PER_HOLD);
        let cache = filled(entries);
        let (mut walk, mut visited) = (Walk::new(), Vec::new());
        while !walk.is_over() {
            step(&cache, &mut walk, &mut visited);
        }
        visited.sort_unstable();
        assert!(visited.into_iter().eq(0..entries));

        let (mut walk, mut visited) = (Walk::new(), Vec::new());
        step(&cache, &mut walk, &mut visited);
        assert!(!walk.is_over());
        // The last entries move to slots that the walk has passed.
        for key in 0..entries - 100 {
            assert_eq!(cache.remove(&key), Some(key));
        }
        cache.shrink_to_fit();
        while !walk.is_over() {
            step(&cache, &mut walk, &mut visited);
        }
        visited.sort_unstable();
        assert!(visited.into_iter().eq(entries - 100..entries));
    }

    #[test]
    fn key_found_in_two_slots_is_listed_once_with_its_last_value() {
        let entries = 2 * u64::from(SLOTS_PER_HOLD);
        let cache = filled(entries);
        let moved = std::cell::Cell::new(false);
        // The first entry moves to the last slot while the second half is still to be listed.
        let visit = |shard: &Shard<u64, u64>, span: &Span, listed: &mut Vec<_>| {
            listed.extend(shard.clones_in(span, 0));
            moved.set(span.slots.end == SLOTS_PER_HOLD);
        };
        let (mut walk, mut listed) = (Walk::new(), Vec::new());
        while !walk.is_over() {
            walk.step(&cache.inner.cells[0].shard, |shard, span| {
                visit(shard, span, &mut listed);
            });
            if moved.get() {
                cache.remove(&0);
                cache.remove(&(entries - 1));
                cache.insert(0, 7);
            }
        }
        assert!(walk.was_written_to(&cache.inner.cells[0].shard));
        let of_key = |listed: &[Listed<(u64, u64)>]| -> Vec<u64> {
            let found = listed.iter().filter(|listed| listed.item.0 == 0);
            found.map(|listed| listed.item.1).collect()
        };
        assert_eq!(of_key(&listed), [0, 7]);
        cache.keep_last_of_each_key(&mut listed, |(key, _)| key);
        assert_eq!(of_key(&listed), [7]);
        assert_eq!(listed.len() as u64, entries - 1);
    }
}
