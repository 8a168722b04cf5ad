//! Two queues of slots, as the FIFO and CLOCK policies have them.

use crate::policy::slot_list::{Links, List, as_slot};
use crate::policy::{Quiet, Words};
use crate::storage::work_slice::WorkSlice;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// In a word, at the top: how often the entry was hit since it was filed or passed by, at most three times.
const HIT: u32 = 1 << 30;
pub(crate) const HITS: u32 = 3 * HIT;
/// Nobody needs to be told of another hit, be it that somebody was, or that nobody watches the entry.
pub(crate) const NOTED: u32 = 1 << 29;
/// How often the key had been asked for when it came, where somebody counts that: at most three times.
const CAME: u32 = 1 << 27;
const CAMES: u32 = 3 * CAME;
/// The entry belongs to the second queue.
const SECOND: u32 = 1 << 1;
/// The slot is filed where an earlier entry was.
const ASTRAY: u32 = 1;

/// How many entries an eviction passes by, before it takes one that was hit. Else it might pass by all.
pub(crate) const MOST_PASSED: u32 = 1_000;

/// With more slots than this the lists are not emptied when the last entry is removed, which would take too
/// long for one call. A shard starts afresh then.
const MOST_UNFILED: usize = 1_024;

/// A hit changes nothing if all bits are set but for those that hits do not change.
pub(crate) const QUIET: Quiet = Quiet {
    clock: u32::MAX,
    slack: NOTED - 1,
};

/// How often an entry was hit.
#[inline]
pub(crate) fn hits(state: u32) -> u32 {
    state / HIT
}

/// Returns the heat of an entry: entries of the second queue are hotter than those of the first, and then those with more
/// hits.
#[allow(clippy::cast_possible_wrap)] // It is a few bits.
pub(crate) fn heat(word: &AtomicU32) -> i32 {
    let state = word.load(Relaxed);
    let queue = (state & SECOND) / SECOND;
    (queue * (HITS / HIT + 1) + hits(state)) as i32
}

/// How often its key had been asked for when an entry came.
#[inline]
pub(crate) fn came(state: u32) -> u32 {
    (state & CAMES) / CAME
}

/// A word after one more hit. If it is the same as before there is nothing to be done.
#[inline]
pub(crate) fn after_hit(state: u32) -> u32 {
    if state & HITS == HITS {
        state
    } else {
        state + HIT
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Queue {
    First,
    Second,
}

impl Queue {
    /// The queue that a word says its entry belongs to.
    #[inline]
    pub(crate) fn of(state: u32) -> Self {
        if state & SECOND == 0 {
            Self::First
        } else {
            Self::Second
        }
    }

    fn bit(self) -> u32 {
        self as u32 * SECOND
    }
}

/// An entry taken out of its queue.
pub(crate) struct Taken<'w> {
    pub(crate) slot: u32,
    pub(crate) word: &'w AtomicU32,
    pub(crate) state: u32,
}

/// Two queues, taken from at their heads only, so that an entry takes one link. A slot that is vacated
/// stays where it is filed; when it is filled again, its word says that it is astray, and whoever comes
/// upon it files it where it belongs. Until then it counts for neither queue.
pub(crate) struct Queues {
    lists: [List; 2],
    /// How many entries are in each queue.
    lens: [u32; 2],
    /// How many are astray.
    astray: u32,
    links: Links,
}

impl Queues {
    pub(crate) const fn new() -> Self {
        Self {
            lists: [List::EMPTY; 2],
            lens: [0; 2],
            astray: 0,
            links: Links::new(),
        }
    }

    /// How many entries there are.
    pub(crate) fn len(&self) -> u32 {
        self.lens[0] + self.lens[1] + self.astray
    }

    pub(crate) fn len_of(&self, queue: Queue) -> u32 {
        self.lens[queue as usize]
    }

    pub(crate) fn grow(&mut self, slots: usize) {
        self.links.grow(slots);
    }

    pub(crate) fn step(&mut self, most: usize) -> Option<Vec<u32>> {
        self.links.step(most)
    }

    /// Gives the entries other slots: see [`Eviction::renumber`](crate::policy::Eviction::renumber).
    pub(crate) fn renumber(&mut self, slots: usize, slot_of: impl Fn(u32) -> Option<u32>) {
        let from = std::mem::replace(&mut self.links, Links::new());
        self.links.grow(slots);
        self.links.cover(as_slot(slots).saturating_sub(1));
        for list in &mut self.lists {
            list.renumber(&from, &mut self.links, &slot_of);
        }
    }

    /// Files an entry at the end of the queue that its state says, and sets its word.
    #[inline]
    fn file(&mut self, slot: u32, word: &AtomicU32, state: u32) {
        word.store(state & !ASTRAY, Relaxed);
        let queue = Queue::of(state) as usize;
        self.lists[queue].push(slot, &mut self.links);
        self.lens[queue] += 1;
    }

    /// A slot was filled: its entry comes last in this queue, sooner or later.
    #[inline]
    pub(crate) fn insert(&mut self, queue: Queue, slot: u32, word: &AtomicU32, came: u32) {
        let state = NOTED | queue.bit() | (came * CAME);
        self.links.cover(slot);
        if self.links.is_filed(slot) {
            word.store(state | ASTRAY, Relaxed);
            self.astray += 1;
        } else {
            self.file(slot, word, state);
        }
    }

    /// An entry that was not taken is about to leave.
    pub(crate) fn remove(&mut self, word: &AtomicU32) {
        let state = word.load(Relaxed);
        if state & ASTRAY == 0 {
            self.lens[Queue::of(state) as usize] -= 1;
        } else {
            self.astray -= 1;
        }
        if self.len() == 0 && self.links.len() <= MOST_UNFILED {
            // Else whoever fills them again finds all of them astray.
            for list in &mut self.lists {
                while list.pop(&mut self.links).is_some() {}
            }
        }
    }

    /// Takes the first entry of a queue, past what is not there any more. `None` if there is none, or if the
    /// work was used up on the way.
    #[inline]
    pub(crate) fn take<'w>(
        &mut self,
        queue: Queue,
        words: &'w impl Words,
        work: &mut WorkSlice,
    ) -> Option<Taken<'w>> {
        while !work.is_used_up() {
            work.spend(1);
            let slot = self.lists[queue as usize].pop(&mut self.links)?;
            let Some(word) = words.word(slot) else {
                continue;
            };
            let state = word.load(Relaxed);
            if state & ASTRAY == 0 {
                self.lens[queue as usize] -= 1;
                return Some(Taken { slot, word, state });
            }
            self.astray -= 1;
            self.file(slot, word, state);
        }
        None
    }

    /// Files what was taken at the end of a queue, with so many hits.
    #[inline]
    pub(crate) fn put(&mut self, taken: &Taken<'_>, queue: Queue, hits: u32) {
        let state = taken.state & (NOTED | CAMES) | queue.bit() | (hits * HIT);
        self.file(taken.slot, taken.word, state);
    }

    /// Files what was taken where it was.
    pub(crate) fn put_back(&mut self, taken: &Taken<'_>) {
        let queue = Queue::of(taken.state) as usize;
        self.lists[queue].push_first(taken.slot, &mut self.links);
        self.lens[queue] += 1;
    }

    pub(crate) fn validate(&self, words: &impl Words) {
        let mut filed = vec![false; self.links.len()];
        let (mut lens, mut astray) = ([0; 2], 0);
        for (queue, list) in self.lists.iter().enumerate() {
            for slot in list.iter(&self.links) {
                assert!(!std::mem::replace(&mut filed[slot as usize], true));
                if let Some(word) = words.word(slot) {
                    let state = word.load(Relaxed);
                    if state & ASTRAY == 0 {
                        assert!(Queue::of(state) as usize == queue);
                        lens[queue] += 1;
                    } else {
                        astray += 1;
                    }
                }
            }
        }
        assert_eq!((lens, astray), (self.lens, self.astray));
        for (slot, filed) in (0..).zip(filed) {
            assert_eq!(filed, self.links.is_filed(slot));
            assert!(filed || words.word(slot).is_none());
        }
    }
}
