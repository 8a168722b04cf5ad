//! S3-FIFO: a small queue that new entries pass through, a main queue, and a ghost queue of the keys that were evicted
//! from the small queue (Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023).
//!
//! For [`Adaptive`](crate::policy::adaptive::Adaptive) there are rules that the paper does not have: an admission gate before
//! the main queue, and a small queue of any share. If the small queue has all entries, the policy is CLOCK.

use crate::policy::frequency_sketch::Sketch;
use crate::policy::ghost_queue::Ghost;
use crate::policy::queues::{
    MOST_PASSED, QUIET, Queue, Queues, Taken, after_hit, came, heat, hits,
};
use crate::policy::slot_list::as_slot;
use crate::policy::{Eviction, Quiet, Words};
use crate::storage::work_slice::WorkSlice;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

const SMALL: Queue = Queue::First;
const MAIN: Queue = Queue::Second;

/// The number of hits from which on an entry of the small queue moves to the main queue.
const PROMOTED: u32 = 2;
/// The number of requests by which a candidate has to exceed the entry that it displaces. With a lower one, the keys
/// of a loop would displace each other.
const MARGIN: u32 = 1;
/// The number of ghosts, in percent of the entries. There are as many as the main queue has entries.
const GHOSTS: usize = 90;
/// The number of entries that an eviction moves to the main queue, if that is much too short.
const MOVES: usize = 8;

/// The small queue's share, in percent, at which it is the only one.
pub(crate) const CLOCK: u32 = 100;

/// The rules of the queues.
#[derive(Clone, Copy)]
pub(crate) struct Rules {
    /// The small queue's share of the entries, in percent.
    pub(crate) small: u32,
    /// `true` if an entry at the end of the small queue displaces the main queue's victim when it was requested more
    /// often. There are no ghosts then, because the gate lets in keys that return, and the sketch remembers longer.
    pub(crate) gated: bool,
}

/// The policy of one shard.
pub(crate) struct S3Fifo {
    rules: Rules,
    queues: Queues,
    /// Empty if there is a gate.
    ghost: Ghost,
    /// Empty unless there is a gate.
    sketch: Sketch,
}

impl Default for S3Fifo {
    fn default() -> Self {
        Self::new(Rules {
            small: 10,
            gated: false,
        })
    }
}

impl S3Fifo {
    /// Creates a policy without entries.
    pub(crate) fn new(rules: Rules) -> Self {
        Self {
            rules,
            queues: Queues::new(),
            ghost: Ghost::default(),
            sketch: Sketch::default(),
        }
    }

    /// Returns the number of entries.
    pub(crate) fn len(&self) -> u32 {
        self.queues.len()
    }

    /// Forgets all requests, and sets the size of the ghost queue or of the sketch for `entries` entries.
    pub(crate) fn remember(&mut self, entries: usize) {
        if self.rules.gated {
            self.sketch.resize(entries);
        } else {
            self.ghost.resize(as_slot(entries * GHOSTS / 100));
        }
    }

    /// Sets the share of the small queue. Entries move between the queues during later evictions.
    pub(crate) fn set_small(&mut self, percent: u32) {
        self.rules.small = percent;
    }

    /// Checks whether the small queue is the only one.
    fn is_clock(&self) -> bool {
        self.rules.small == CLOCK
    }

    /// Returns the number of entries at which the small queue is full.
    fn small_target(&self) -> u32 {
        let (len, percent) = (self.len(), self.rules.small);
        (len / 100 * percent + len % 100 * percent / 100).max(1)
    }

    /// Removes the first entry of the main queue that was not hit since it was filed or got a second chance.
    fn take_victim<'w>(
        &mut self,
        words: &'w impl Words,
        work: &mut WorkSlice,
    ) -> Option<Taken<'w>> {
        for passed in 0.. {
            let taken = self.queues.take(MAIN, words, work)?;
            let hits = hits(taken.state);
            if hits == 0 || passed == MOST_PASSED {
                return Some(taken);
            }
            if self.rules.gated {
                self.sketch.add(words.hash(taken.slot));
            }
            self.queues.put(&taken, MAIN, hits - 1);
        }
        None
    }

    /// Evicts an entry of the main queue.
    fn evict_main(&mut self, words: &impl Words, work: &mut WorkSlice) -> Option<u32> {
        Some(self.take_victim(words, work)?.slot)
    }

    /// Removes an entry from the small queue and returns the evicted one, if there is one.
    ///
    /// The entry moves to the main queue, or is evicted, or moves to the main queue whose victim is evicted.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no entry in the queue.
    fn evict_small(
        &mut self,
        words: &impl Words,
        work: &mut WorkSlice,
    ) -> Result<Option<u32>, Empty> {
        let taken = self.queues.take(SMALL, words, work).ok_or(Empty)?;
        let (hits, hash) = (hits(taken.state), words.hash(taken.slot));
        if self.rules.gated {
            for _ in 0..hits {
                self.sketch.add(hash);
            }
        }
        if hits >= PROMOTED {
            self.queues.put(&taken, MAIN, 0);
            return Ok(None);
        }
        // The words of most entries show that they were requested too rarely to displace any other.
        if self.rules.gated && came(taken.state) + 1 + hits > MARGIN {
            if let Some(victim) = self.take_beaten(hash, words, work) {
                self.queues.put(&taken, MAIN, 0);
                return Ok(Some(victim.slot));
            }
        }
        if !self.rules.gated {
            self.ghost.add(hash);
        }
        Ok(Some(taken.slot))
    }

    /// Removes the main queue's victim if this key was requested more often. This is the admission gate.
    fn take_beaten<'w>(
        &mut self,
        hash: u32,
        words: &'w impl Words,
        work: &mut WorkSlice,
    ) -> Option<Taken<'w>> {
        let count = self.sketch.count(hash);
        if count <= MARGIN {
            return None;
        }
        let victim = self.take_victim(words, work)?;
        if count > self.sketch.count(words.hash(victim.slot)) + MARGIN {
            return Some(victim);
        }
        self.queues.put_back(&victim);
        None
    }

    /// Evicts the first of all entries that was not hit since it was filed or got a second chance, like CLOCK.
    fn evict_clock(&mut self, words: &impl Words, work: &mut WorkSlice) -> Option<u32> {
        for passed in 0.. {
            // The main queue has entries only for a while, after the share has changed.
            let taken = self.queues.take(MAIN, words, work);
            let taken = taken.or_else(|| self.queues.take(SMALL, words, work))?;
            let hits = hits(taken.state);
            if hits == 0 || passed == MOST_PASSED {
                return Some(taken.slot);
            }
            self.queues.put(&taken, SMALL, 0);
        }
        None
    }

    /// Moves the first entries of the small queue to the main queue if the small one is much too long. A few move at a
    /// time, so that a smaller share takes effect soon and no entry is evicted for it.
    #[inline]
    fn shorten_small(&mut self, target: u32, words: &impl Words, work: &mut WorkSlice) {
        let most = target + self.len() / 32 + 1;
        if self.queues.len_of(SMALL) > most {
            self.move_to_main(most, words, work);
        }
    }

    /// Moves up to [`MOVES`] entries to the main queue, until the small one has no more than `most`.
    #[cold]
    fn move_to_main(&mut self, most: u32, words: &impl Words, work: &mut WorkSlice) {
        for _ in 0..MOVES {
            if self.queues.len_of(SMALL) <= most {
                return;
            }
            let Some(taken) = self.queues.take(SMALL, words, work) else {
                return;
            };
            self.queues.put(&taken, MAIN, hits(taken.state));
        }
    }
}

/// The error of a queue without entries: it is empty, or all of its entries are filed in the other queue.
struct Empty;

impl Eviction for S3Fifo {
    #[inline]
    fn quiet(&self) -> Quiet {
        QUIET
    }

    #[inline]
    fn touch(&self, _: u32, word: &AtomicU32) {
        let state = word.load(Relaxed);
        let after = after_hit(state);
        if after != state {
            word.store(after, Relaxed);
        }
    }

    #[inline]
    fn before_write(&mut self, _: &impl Words, _: &mut WorkSlice) {}

    #[inline]
    fn insert(&mut self, slot: u32, word: &AtomicU32, hash: u32) {
        let (queue, came) = if self.is_clock() {
            (SMALL, 0)
        } else if self.rules.gated {
            (SMALL, self.sketch.add(hash))
        } else if self.ghost.take(hash) {
            (MAIN, 0)
        } else {
            (SMALL, 0)
        };
        self.queues.insert(queue, slot, word, came);
    }

    fn remove(&mut self, word: &AtomicU32, _: u32) {
        self.queues.remove(word);
    }

    fn evict(&mut self, words: &impl Words, work: &mut WorkSlice) -> Option<u32> {
        if self.is_clock() {
            return self.evict_clock(words, work);
        }
        let small_target = self.small_target();
        if self.rules.gated {
            self.shorten_small(small_target, words, work);
        }
        let mut moved = 0;
        while self.len() > 0 && !work.is_used_up() {
            // The entry that the caller is about to insert counts too. Otherwise, with a capacity of two, the entry
            // that was promoted just now would be the only candidate.
            let is_small_full = self.queues.len_of(SMALL) >= small_target;
            if !is_small_full || moved >= MOST_PASSED {
                if let Some(victim) = self.evict_main(words, work) {
                    return Some(victim);
                }
            }
            match self.evict_small(words, work) {
                Ok(None) => moved += 1,
                Ok(victim) => return victim,
                // Its entries are filed in the main queue. If that has no others, `evict_main` files them where they
                // belong.
                Err(Empty) => {
                    if let Some(victim) = self.evict_main(words, work) {
                        return Some(victim);
                    }
                }
            }
        }
        None
    }

    fn grow(&mut self, slots: usize) {
        self.queues.grow(slots);
        self.remember(slots);
    }

    fn step(&mut self, most: usize) -> Option<Vec<u32>> {
        self.queues.step(most)
    }

    fn renumber(&mut self, slots: usize, slot_of: impl Fn(u32) -> Option<u32>) {
        self.queues.renumber(slots, slot_of);
        self.remember(slots);
    }

    fn time(&self) -> u32 {
        0
    }

    fn heat(&self, word: &AtomicU32, _: u32) -> i32 {
        heat(word)
    }

    fn validate(&self, words: &impl Words) {
        self.queues.validate(words);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::tests::hottest_first;

    struct All(Vec<AtomicU32>);

    impl Words for All {
        fn word(&self, slot: u32) -> Option<&AtomicU32> {
            self.0.get(slot as usize)
        }

        fn hash(&self, slot: u32) -> u32 {
            slot.wrapping_mul(0x9E37_79B9)
        }
    }

    /// Returns a policy with `entries` entries, each of which was hit `hits` times.
    fn filled(rules: Rules, entries: u32, hits: usize) -> (S3Fifo, All) {
        let words = All((0..entries).map(|_| AtomicU32::new(0)).collect());
        let mut policy = S3Fifo::new(rules);
        policy.grow(words.0.len());
        for (slot, word) in (0..).zip(&words.0) {
            policy.insert(slot, word, words.hash(slot));
            (0..hits).for_each(|_| policy.touch(slot, word));
        }
        (policy, words)
    }

    #[test]
    fn an_eviction_passes_by_a_bounded_number() {
        for (small, gated) in [(10, false), (10, true), (95, true), (CLOCK, true)] {
            let rules = Rules { small, gated };
            let (mut policy, words) = filled(rules, 20_000, 3);
            for _ in 0..3 {
                let victim = policy.evict(&words, &mut WorkSlice::unlimited()).unwrap();
                let passed = words.0.iter().filter(|word| hits(word.load(Relaxed)) < 3);
                assert!(passed.count() < 8_000);
                policy.insert(victim, &words.0[victim as usize], words.hash(victim));
                policy.validate(&words);
            }
        }
    }

    #[test]
    fn the_last_to_go_come_first() {
        let (mut policy, words) = filled(S3Fifo::default().rules, 100, 0);
        for slot in [7, 7, 7, 30, 30, 55] {
            policy.touch(slot, &words.0[slot as usize]);
        }
        assert_eq!(hottest_first(&policy, &words, 100)[..4], [7, 30, 55, 99]);
        // Promoted to the main queue, which comes before the other.
        while policy.evict(&words, &mut WorkSlice::unlimited()).unwrap() < 31 {}
        assert_eq!(hottest_first(&policy, &words, 100)[..3], [30, 7, 55]);
    }
}
