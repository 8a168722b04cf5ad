//! CAR, CLOCK with adaptive replacement (Bansal and Modha, FAST 2004). It has a clock of entries that were requested
//! once, a clock of entries that were requested again, and a history of the keys that were evicted from each. A key
//! that returns from a history is evidence that its clock is too small.

use crate::policy::ghost_list::History;
use crate::policy::queues::{HITS, MOST_PASSED, QUIET, Queue, Queues, heat, hits};
use crate::policy::{Eviction, Quiet, Words};
use crate::storage::work_slice::WorkSlice;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// The clock of entries that were requested once, T1 in the paper. Its history is B1.
const ONCE: Queue = Queue::First;
/// The clock of entries that were requested again, T2 in the paper. Its history is B2.
const OFTEN: Queue = Queue::Second;

/// The policy of one shard.
pub(crate) struct Car {
    clocks: Queues,
    /// The keys that were evicted from each clock.
    histories: [History; 2],
    /// The number of entries at which the clock of those requested once is full.
    once_target: f64,
}

impl Default for Car {
    fn default() -> Self {
        Self {
            clocks: Queues::new(),
            histories: [History::default(), History::default()],
            once_target: 0.0,
        }
    }
}

impl Car {
    /// Returns the number of keys in the history of a clock.
    fn left(&self, clock: Queue) -> f64 {
        as_real(self.histories[clock as usize].len())
    }

    /// Moves the target because a key returns that was evicted from this clock. Like in the paper, the step is greater
    /// the fewer keys are in the history of this clock compared with the other one.
    fn adapt(&mut self, clock: Queue, capacity: f64) {
        let (once, often) = (self.left(ONCE), self.left(OFTEN));
        self.once_target = if clock == ONCE {
            (self.once_target + (often / once).max(1.0)).min(capacity)
        } else {
            (self.once_target - (once / often).max(1.0)).max(0.0)
        };
    }

    /// Forgets a key if the histories are full. Together they have at most as many keys as there are entries. The clock
    /// of entries requested once and its history together have at most as many, too.
    fn trim(&mut self, capacity: usize) {
        let [once, often] = &mut self.histories;
        let held = self.clocks.len() as usize;
        if self.clocks.len_of(ONCE) as usize + once.len() >= capacity {
            once.forget_oldest();
        } else if held + once.len() + often.len() >= 2 * capacity {
            often.forget_oldest();
        }
    }
}

/// Converts a number of entries to a real number.
#[allow(clippy::cast_precision_loss)]
fn as_real(entries: usize) -> f64 {
    entries as f64
}

impl Eviction for Car {
    #[inline]
    fn quiet(&self) -> Quiet {
        QUIET
    }

    #[inline]
    fn touch(&self, _: u32, word: &AtomicU32) {
        // CAR has only one bit for hits, so all bits are set at once.
        word.store(word.load(Relaxed) | HITS, Relaxed);
    }

    #[inline]
    fn before_write(&mut self, _: &impl Words, _: &mut WorkSlice) {}

    fn insert(&mut self, slot: u32, word: &AtomicU32, hash: u32) {
        // This entry is included, because another one was evicted for it if there was no room.
        let capacity = self.clocks.len() as usize + 1;
        let returns_to = [ONCE, OFTEN]
            .into_iter()
            .find(|&clock| self.histories[clock as usize].contains(hash));
        let clock = if let Some(clock) = returns_to {
            self.adapt(clock, as_real(capacity));
            self.histories[clock as usize].take(hash);
            OFTEN
        } else {
            self.trim(capacity);
            ONCE
        };
        self.clocks.insert(clock, slot, word, 0);
    }

    fn remove(&mut self, word: &AtomicU32, _: u32) {
        self.clocks.remove(word);
    }

    fn evict(&mut self, words: &impl Words, work: &mut WorkSlice) -> Option<u32> {
        let capacity = self.clocks.len() as usize;
        let mut passed = 0;
        while self.clocks.len() > 0 && !work.is_used_up() {
            let is_once_full = f64::from(self.clocks.len_of(ONCE)) >= self.once_target.max(1.0);
            let clock = if is_once_full { ONCE } else { OFTEN };
            // If all entries of a clock are filed in the other one, that one has to be searched for them first.
            let other = if is_once_full { OFTEN } else { ONCE };
            let taken = self.clocks.take(clock, words, work);
            let Some(taken) = taken.or_else(|| self.clocks.take(other, words, work)) else {
                continue;
            };
            if hits(taken.state) > 0 && passed < MOST_PASSED {
                passed += 1;
                self.clocks.put(&taken, OFTEN, 0);
                continue;
            }
            let history = &mut self.histories[Queue::of(taken.state) as usize];
            history.add(words.hash(taken.slot), capacity);
            return Some(taken.slot);
        }
        None
    }

    fn grow(&mut self, slots: usize) {
        self.clocks.grow(slots);
    }

    fn step(&mut self, most: usize) -> Option<Vec<u32>> {
        self.clocks.step(most)
    }

    fn renumber(&mut self, slots: usize, slot_of: impl Fn(u32) -> Option<u32>) {
        self.clocks.renumber(slots, slot_of);
        for history in &mut self.histories {
            history.shrink(slots);
        }
    }

    fn time(&self) -> u32 {
        0
    }

    fn heat(&self, word: &AtomicU32, _: u32) -> i32 {
        heat(word)
    }

    fn validate(&self, words: &impl Words) {
        self.clocks.validate(words);
    }
}
