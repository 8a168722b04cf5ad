//! Two queues of slots, for the FIFO and CLOCK policies.

use crate::policy::slot_list::{Links, List, as_slot};
use crate::policy::state::{PolicyStates, Queue, QueueState};
use crate::storage::allocated::AllocatedBytes;
use crate::storage::work_slice::WorkSlice;
use std::sync::atomic::AtomicU32;

/// The highest number of entries to which one eviction gives a second chance. It then evicts an entry although it was
/// hit. Without a limit, one eviction might visit all entries. The policies count across calls, because one eviction
/// may need several holds of the shard's lock.
pub(crate) const MAX_SECOND_CHANCES: u32 = 1_000;

/// The highest number of slots at which the lists are emptied when the last entry is removed. With more slots, that
/// would take too long for one call, and the shard replaces its storage instead.
const MAX_SLOTS_UNFILED_AT_ONCE: usize = 1_024;

/// An entry that was removed from its queue.
pub(crate) struct Taken<'s> {
    pub(crate) slot: u32,
    /// The state as it is stored with the entry.
    stored: &'s AtomicU32,
    /// The state when the entry was removed from the queue.
    pub(crate) state: QueueState,
}

/// Two queues whose entries are removed at the head only, so that an entry needs one link.
///
/// A slot that is vacated stays where it is filed. When it is filled again, the state of the new entry is marked as
/// misfiled, and a call that finds it at the head of a list files it where it belongs. Until then it is in neither
/// queue.
pub(crate) struct Queues {
    lists: [List; 2],
    /// The number of entries in each queue.
    lens: [u32; 2],
    /// The number of misfiled entries.
    misfiled: u32,
    links: Links,
}

impl Queues {
    /// Creates empty queues.
    pub(crate) const fn new() -> Self {
        Self {
            lists: [List::EMPTY; 2],
            lens: [0; 2],
            misfiled: 0,
            links: Links::new(),
        }
    }

    /// Returns the number of entries.
    pub(crate) fn len(&self) -> u32 {
        self.lens[0] + self.lens[1] + self.misfiled
    }

    /// Returns the number of entries in a queue.
    pub(crate) fn len_of(&self, queue: Queue) -> u32 {
        self.lens[queue as usize]
    }

    /// Begins to make room for `slots` slots: see [`Links::grow`].
    pub(crate) fn grow(&mut self, slots: usize) {
        self.links.grow(slots);
    }

    /// Returns the slot that was filed after this one in the same queue, if there is one.
    pub(crate) fn filed_next(&self, slot: u32) -> Option<u32> {
        self.links.next(slot)
    }

    /// Moves up to `most` slots: see [`Links::step`].
    pub(crate) fn step(&mut self, most: usize) -> Option<Vec<u32>> {
        self.links.step(most)
    }

    /// Gives the entries other slots: see [`EvictionPolicy::renumber`](crate::policy::EvictionPolicy::renumber).
    pub(crate) fn renumber(&mut self, slots: usize, slot_of: impl Fn(u32) -> Option<u32>) {
        let from = std::mem::replace(&mut self.links, Links::new());
        self.links.grow(slots);
        self.links.cover(as_slot(slots).saturating_sub(1));
        for list in &mut self.lists {
            list.renumber(&from, &mut self.links, &slot_of);
        }
    }

    /// Files an entry at the end of the queue to which it belongs, and stores its state.
    #[inline]
    fn file(&mut self, slot: u32, stored: &AtomicU32, state: QueueState) {
        state.filed().store(stored);
        let queue = state.queue() as usize;
        self.lists[queue].push(slot, &mut self.links);
        self.lens[queue] += 1;
    }

    /// Adds the entry of a slot that was filled to the end of a queue. If the slot is filed already, the entry is added
    /// there when the slot is taken from its list.
    #[inline]
    pub(crate) fn insert(&mut self, queue: Queue, slot: u32, stored: &AtomicU32) {
        let state = QueueState::new(queue);
        self.links.cover(slot);
        if self.links.is_filed(slot) {
            state.misfiled().store(stored);
            self.misfiled += 1;
        } else {
            self.file(slot, stored, state);
        }
    }

    /// Removes an entry from the counts, because it is about to be removed for another reason than eviction.
    pub(crate) fn remove(&mut self, stored: &AtomicU32) {
        let state = QueueState::load(stored);
        if state.is_misfiled() {
            self.misfiled -= 1;
        } else {
            self.lens[state.queue() as usize] -= 1;
        }
        if self.len() == 0 && self.links.len() <= MAX_SLOTS_UNFILED_AT_ONCE {
            // Otherwise all entries that fill these slots again would be misfiled.
            for list in &mut self.lists {
                while list.pop(&mut self.links).is_some() {}
            }
        }
    }

    /// Removes the first entry of a queue. Skips vacant slots and files misfiled entries on the way. Returns `None` if
    /// the queue has no entry, or if the work was used up before one was found.
    #[inline]
    pub(crate) fn take<'s>(
        &mut self,
        queue: Queue,
        states: &'s impl PolicyStates,
        work: &mut WorkSlice,
    ) -> Option<Taken<'s>> {
        while !work.is_used_up() {
            work.spend(1);
            let slot = self.lists[queue as usize].pop(&mut self.links)?;
            let Some(stored) = states.state(slot) else {
                continue;
            };
            let state = QueueState::load(stored);
            if !state.is_misfiled() {
                self.lens[queue as usize] -= 1;
                return Some(Taken {
                    slot,
                    stored,
                    state,
                });
            }
            self.misfiled -= 1;
            self.file(slot, stored, state);
        }
        None
    }

    /// Files an entry at the end of a queue, with this number of hits.
    #[inline]
    pub(crate) fn put(&mut self, taken: &Taken<'_>, queue: Queue, hits: u32) {
        let state = QueueState::refiled(queue, hits);
        self.file(taken.slot, taken.stored, state);
    }

    /// Checks the structure, for tests.
    ///
    /// # Panics
    ///
    /// Panics if it is broken.
    pub(crate) fn validate(&self, states: &impl PolicyStates) {
        let mut filed = vec![false; self.links.len()];
        let (mut lens, mut misfiled) = ([0; 2], 0);
        for (queue, list) in self.lists.iter().enumerate() {
            for slot in list.iter(&self.links) {
                assert!(!std::mem::replace(&mut filed[slot as usize], true));
                if let Some(stored) = states.state(slot) {
                    let state = QueueState::load(stored);
                    if state.is_misfiled() {
                        misfiled += 1;
                    } else {
                        assert!(state.queue() as usize == queue);
                        lens[queue] += 1;
                    }
                }
            }
        }
        assert_eq!((lens, misfiled), (self.lens, self.misfiled));
        for (slot, filed) in (0..).zip(filed) {
            assert_eq!(filed, self.links.is_filed(slot));
            assert!(filed || states.state(slot).is_none());
        }
    }
}

impl AllocatedBytes for Queues {
    fn allocated_bytes(&self) -> usize {
        self.links.allocated_bytes()
    }
}
