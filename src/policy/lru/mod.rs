//! Least recently used, with hits that write at most a time, by a relaxed store.
//!
//! The shard has a write clock, which every write advances. A hit stores the time of the clock in its entry, as the
//! entry's *stamp*, but only if the stamp there is older than 1/128 of the shard's size in writes. Repeated reads
//! therefore write nothing. Reads between two writes are simultaneous.
//!
//! The order is stored in lists, one for each *generation*: a span of the write clock of 1/128 of the shard's size. An
//! entry is filed in the generation of its stamp. Hits do not move it. If a stamp is younger than the generation in
//! which the entry is filed, the entry is filed too low. An eviction removes an entry of the oldest generation.
//! If that one is filed too low, it is filed again under its stamp, in O(1); otherwise it is the victim. Entries are
//! therefore removed from a list only at its head, and one link for each slot is enough. A slot that is vacated stays
//! where it is filed, and when it is filled again, its new entry is filed too low.
//!
//! As a result, no entry is evicted while a less recently used one exists, where recency is resolved to 1/64 of the
//! shard: 1/128 for the age of the stamp, and 1/128 for the span of the generation. Below 128 entries both are exact.
//! The size is the size at the time of use: if a shard has shrunk since, the recency of its entries is known only as
//! precisely as it was stored.
//!
//! Generations end as fast as they begin while writes evict. If writes only update, the number of generations would
//! grow without limit, so the shard *merges* them: each write takes a few entries of the oldest generation, files those
//! again that are filed too low, and appends the others to one list of *settled* entries, which are evicted first. A
//! pass begins with the entries that an earlier pass settled, and continues with all generations except the one that is
//! the newest when the pass begins. An entry that was hit since it was settled therefore has a stamp of a generation
//! that still exists, which shows that the entry is filed too low; all others are in the order of their stamps. A pass
//! takes at most two steps for each entry, spread over a quarter as many writes, during which at most 32 generations
//! begin.

#[cfg(test)]
mod tests;

use crate::policy::EvictionPolicy;
use crate::policy::slot_list::{Links, List, as_slot};
use crate::policy::state::{NoOpHits, PolicyStates};
use crate::storage::allocated::AllocatedBytes;
use crate::storage::work_slice::{SLOTS_PER_HOLD, WorkSlice};
use std::mem::replace;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// The highest number of generations, a power of two. It is twice what a shard needs in which every write evicts.
const MAX_GENERATIONS: u32 = 256;
/// The part of the shard's size to which recency is resolved, once for stamps and once for generations.
const RESOLUTION: u32 = 128;
/// The number of generations at which a pass begins that merges them.
const MERGE_GENERATIONS: u32 = 192;
/// The number of entries that a write merges during a pass.
const MERGED_PER_WRITE: u32 = 8;
/// The number of generations from which on a write merges more entries. So many occur only if most slots are vacant,
/// in a shard that has shrunk very much: its generations are short, and vacant slots have to be merged too.
const FAST_MERGE_GENERATIONS: u32 = 232;
/// The number of entries that a write merges then.
const MERGED_PER_WRITE_FAST: u32 = 256;
/// The highest age of a stamp, in writes. Older stamps are set to it, so that the clock may wrap.
const MAX_AGE: u32 = 1 << 31;

const _: () = assert!(MAX_GENERATIONS.is_power_of_two());
// A write that merges also has room for its eviction under the same hold of the lock.
const _: () = assert!(MERGED_PER_WRITE_FAST <= SLOTS_PER_HOLD / 2);

/// The policy of one shard. The fields that a hit reads come first, with those that a write writes.
#[repr(C)]
pub(crate) struct Lru {
    /// The number of writes so far. It wraps.
    clock: u32,
    /// The number of writes by which a stamp may be behind the clock: `len / RESOLUTION`.
    slack: u32,
    /// The number of the oldest generation.
    oldest: u32,
    /// The number of the newest generation.
    newest: u32,
    /// The generations from `oldest` to `newest`, by their number modulo `MAX_GENERATIONS`.
    generations: Box<[Generation; MAX_GENERATIONS as usize]>,
    links: Links,
    /// The number of entries.
    len: u32,
    /// Entries that the last pass has merged and the present one has not reached yet. All entries whose stamps are
    /// older than the generations are here or in `merged`.
    settled: List,
    /// Entries that the present pass has merged. They are older than `settled`.
    merged: List,
    /// The last generation that the present pass merges, or `None` between passes.
    merges_to: Option<u32>,
}

#[derive(Clone, Copy)]
struct Generation {
    /// The time of the write clock when the generation began.
    start: u32,
    /// The slots that are filed in it: first those that were filled in it, the last one first, then those that were
    /// filed again. So the entry of a write is evicted before those that were hit between it and the next write.
    slots: List,
}

impl Generation {
    /// A generation without slots that began at this time of the write clock.
    const fn new(start: u32) -> Self {
        Self {
            start,
            slots: List::EMPTY,
        }
    }
}

impl Lru {
    /// Returns the number of writes since this time of the clock.
    #[inline]
    fn age(&self, stamp: u32) -> u32 {
        self.clock.wrapping_sub(stamp)
    }

    #[inline]
    fn generation(&self, generation: u32) -> &Generation {
        &self.generations[(generation % MAX_GENERATIONS) as usize]
    }

    /// Checks whether a stamp belongs to this generation or a later one. Stamps that are older than all generations
    /// belong to the oldest.
    #[inline]
    fn is_of_or_after(&self, stamp: u32, generation: u32) -> bool {
        self.age(self.generation(generation).start) >= self.age(stamp)
    }

    /// Returns the generation to which a stamp belongs.
    fn generation_of(&self, stamp: u32) -> u32 {
        // Each generation spans `slack` writes while the shard keeps its size. The estimate is then right, or off by
        // one. The branches of a binary search would be mispredicted.
        let since = self.age(stamp) / self.slack.max(1);
        let mut found = self
            .newest
            .wrapping_sub(since.min(self.newest.wrapping_sub(self.oldest)));
        while found != self.oldest && !self.is_of_or_after(stamp, found) {
            found = found.wrapping_sub(1);
        }
        while found != self.newest && self.is_of_or_after(stamp, found.wrapping_add(1)) {
            found = found.wrapping_add(1);
        }
        found
    }

    /// Files a slot that was filled in the newest generation.
    #[inline]
    fn file(&mut self, slot: u32) {
        let newest = &mut self.generations[(self.newest % MAX_GENERATIONS) as usize];
        newest.slots.push_first(slot, &mut self.links);
    }

    /// Files a slot that was removed from its list in the generation of its stamp.
    #[cold]
    #[inline(never)]
    fn refile(&mut self, slot: u32, stamp: u32) {
        let generation = self.generation_of(stamp) % MAX_GENERATIONS;
        let generation = &mut self.generations[generation as usize];
        generation.slots.push(slot, &mut self.links);
    }

    /// Removes a slot of a generation.
    #[inline]
    fn take(&mut self, generation: u32) -> Option<u32> {
        let generation = &mut self.generations[(generation % MAX_GENERATIONS) as usize];
        generation.slots.pop(&mut self.links)
    }

    /// Detaches a slot of the oldest generation.
    #[inline]
    fn detach_oldest(&mut self) -> Option<u32> {
        let oldest = &mut self.generations[(self.oldest % MAX_GENERATIONS) as usize];
        oldest.slots.detach(&self.links)
    }

    /// Detaches the first slot of those that are older than all generations, unless they are filed too low.
    #[cold]
    fn detach_settled(&mut self) -> Option<u32> {
        let merged = self.merged.detach(&self.links);
        merged.or_else(|| self.settled.detach(&self.links))
    }

    /// Removes the least recently used entry from the lists. Its link is not cleared. Returns `None` if there is none,
    /// or if the work was used up before one was found.
    #[inline]
    fn take_victim(&mut self, states: &impl PolicyStates, work: &mut WorkSlice) -> Option<u32> {
        while !work.is_used_up() {
            work.spend(1);
            let (slot, later) = if !(self.merged.is_empty() && self.settled.is_empty()) {
                (self.detach_settled()?, self.oldest)
            } else if let Some(slot) = self.detach_oldest() {
                (slot, self.oldest.wrapping_add(1))
            } else if self.oldest == self.newest {
                return None;
            } else {
                self.oldest = self.oldest.wrapping_add(1);
                continue;
            };
            let Some(stored) = states.state(slot) else {
                self.links.clear(slot);
                continue;
            };
            let stamp = stored.load(Relaxed);
            let is_last = later == self.newest.wrapping_add(1);
            if is_last || !self.is_of_or_after(stamp, later) {
                return Some(slot);
            }
            // The entry is filed too low, because stamps only grow.
            self.refile(slot, stamp);
        }
        None
    }

    /// Moves the least recently used entry from its list to that of the newest generation, sets its stamp to the
    /// present, and returns its slot. Returns `None` and moves no entry if the search takes more than a few steps. The
    /// caller then continues it with [`move_victim`](Self::move_victim).
    #[inline(always)]
    fn move_first_victim(&mut self, states: &impl PolicyStates) -> Option<u32> {
        if !self.merged.is_empty() || !self.settled.is_empty() {
            return None;
        }
        if self.generation(self.oldest).slots.is_empty() && self.oldest != self.newest {
            self.oldest = self.oldest.wrapping_add(1);
        }
        let (oldest, newest) = (self.oldest, self.newest);
        let slot = self.generation(oldest).slots.head();
        let stored = states.state(slot)?;
        if oldest == newest || self.is_of_or_after(stored.load(Relaxed), oldest.wrapping_add(1)) {
            return None;
        }
        let link = self.links.get_moved_mut(slot)?;
        stored.store(self.clock, Relaxed);
        let oldest = &mut self.generations[(oldest % MAX_GENERATIONS) as usize];
        oldest.slots.set_head(*link);
        let newest = &mut self.generations[(newest % MAX_GENERATIONS) as usize];
        *link = newest.slots.replace_head(slot);
        Some(slot)
    }

    /// Moves the least recently used entry like [`move_first_victim`](Self::move_first_victim), however many steps the
    /// search takes. Returns `None` if there is no entry, or if the work was used up before one was found.
    #[cold]
    #[inline(never)]
    fn move_victim(&mut self, states: &impl PolicyStates, work: &mut WorkSlice) -> Option<u32> {
        let victim = self.take_victim(states, work)?;
        states.state(victim)?.store(self.clock, Relaxed);
        self.file(victim);
        Some(victim)
    }

    /// Loads the stamp of the most likely next victim while the caller waits for memory anyway, so that the next write
    /// need not wait for it.
    #[inline]
    fn prefetch_next(&self, states: &impl PolicyStates) {
        // Without settled entries, which are rare, it is the first of the oldest generation that has entries.
        let mut slots = self.generation(self.oldest).slots;
        if slots.is_empty() {
            slots = self.generation(self.oldest.wrapping_add(1)).slots;
        }
        // If there is no slot, there is no state either.
        if let Some(stamp) = states.state(slots.head()) {
            stamp.load(Relaxed);
        }
    }

    /// Returns the number of generations.
    fn live_generations(&self) -> u32 {
        self.newest.wrapping_sub(self.oldest) + 1
    }

    /// Begins a generation. If there is the highest number of them, the newest one continues instead.
    #[inline(always)]
    fn begin_generation(&mut self) {
        let live = self.live_generations();
        if live < MAX_GENERATIONS {
            self.newest = self.newest.wrapping_add(1);
            let generation = (self.newest % MAX_GENERATIONS) as usize;
            self.generations[generation] = Generation::new(self.clock);
        }
        if live + 1 >= MERGE_GENERATIONS && self.merges_to.is_none() {
            self.merges_to = Some(self.newest.wrapping_sub(1));
        }
    }

    /// Merges a few entries up to the generation `to`: see the module's documentation.
    #[cold]
    fn merge(&mut self, to: u32, states: &impl PolicyStates, work: &mut WorkSlice) {
        let steps = if self.live_generations() < FAST_MERGE_GENERATIONS {
            MERGED_PER_WRITE
        } else {
            MERGED_PER_WRITE_FAST
        };
        work.spend(steps);
        for _ in 0..steps {
            if let Some(slot) = self.settled.pop(&mut self.links) {
                self.settle(slot, self.oldest, states);
            } else if to.wrapping_sub(self.oldest) >= MAX_GENERATIONS {
                // The oldest generation is later than `to` by now.
                self.settled = replace(&mut self.merged, List::EMPTY);
                self.merges_to = None;
                return;
            } else if let Some(slot) = self.take(self.oldest) {
                self.settle(slot, self.oldest.wrapping_add(1), states);
            } else {
                self.oldest = self.oldest.wrapping_add(1);
            }
        }
    }

    /// Files a slot that was removed from its list under its stamp, if the stamp belongs to the generation `later` or
    /// after it. Otherwise appends the slot to the merged ones.
    fn settle(&mut self, slot: u32, later: u32, states: &impl PolicyStates) {
        let Some(stored) = states.state(slot) else {
            return;
        };
        let stamp = stored.load(Relaxed);
        if self.is_of_or_after(stamp, later) {
            self.refile(slot, stamp);
            return;
        }
        if self.age(stamp) > MAX_AGE {
            stored.store(self.clock.wrapping_sub(MAX_AGE), Relaxed);
        }
        self.merged.push(slot, &mut self.links);
    }

    /// Sets the number of entries.
    fn resize(&mut self, len: u32) {
        self.len = len;
        self.slack = len / RESOLUTION;
    }
}

impl Default for Lru {
    fn default() -> Self {
        Self {
            clock: 0,
            slack: 0,
            oldest: 0,
            newest: 0,
            generations: Box::new([Generation::new(0); MAX_GENERATIONS as usize]),
            links: Links::new(),
            len: 0,
            settled: List::EMPTY,
            merged: List::EMPTY,
            merges_to: None,
        }
    }
}

impl EvictionPolicy for Lru {
    #[inline]
    fn no_op_hits(&self) -> NoOpHits {
        NoOpHits {
            clock: self.clock,
            slack: self.slack,
        }
    }

    #[inline]
    fn on_hit(&self, _: u32, state: &AtomicU32) {
        state.store(self.clock, Relaxed);
    }

    #[inline(always)]
    fn on_write(&mut self, states: &impl PolicyStates, work: &mut WorkSlice) {
        self.clock = self.clock.wrapping_add(1);
        if self.age(self.generation(self.newest).start) >= self.slack.max(1) {
            self.begin_generation();
        }
        if let Some(to) = self.merges_to {
            self.merge(to, states, work);
        }
    }

    #[inline]
    fn insert(&mut self, slot: u32, state: &AtomicU32, _: u32) {
        state.store(self.clock, Relaxed);
        self.links.cover(slot);
        // A slot that is filed already is filed too low, because an earlier entry was there.
        if !self.links.is_filed(slot) {
            self.file(slot);
        }
        self.resize(self.len + 1);
    }

    fn remove(&mut self, _: &AtomicU32, _: u32) {
        self.resize(self.len - 1);
    }

    fn evict(&mut self, states: &impl PolicyStates, work: &mut WorkSlice) -> Option<u32> {
        let victim = self.take_victim(states, work)?;
        self.links.clear(victim);
        self.resize(self.len - 1);
        self.prefetch_next(states);
        Some(victim)
    }

    #[inline(always)]
    fn replace_victim(
        &mut self,
        states: &impl PolicyStates,
        _: u32,
        work: &mut WorkSlice,
    ) -> Option<u32> {
        self.on_write(states, work);
        let victim = match self.move_first_victim(states) {
            None => self.move_victim(states, work)?,
            Some(victim) => victim,
        };
        self.prefetch_next(states);
        Some(victim)
    }

    fn grow(&mut self, slots: usize) {
        self.links.grow(slots);
    }

    fn step(&mut self, most: usize) -> Option<Vec<u32>> {
        self.links.step(most)
    }

    fn renumber(&mut self, slots: usize, slot_of: impl Fn(u32) -> Option<u32>) {
        let from = replace(&mut self.links, Links::new());
        let to = &mut self.links;
        to.grow(slots);
        to.cover(as_slot(slots).saturating_sub(1));
        for generation in self.generations.iter_mut() {
            generation.slots.renumber(&from, to, &slot_of);
        }
        for list in [&mut self.settled, &mut self.merged] {
            list.renumber(&from, to, &slot_of);
        }
    }

    fn time(&self) -> u32 {
        self.clock
    }

    #[allow(clippy::cast_possible_wrap)] // Stamps differ by less than half of the range of the clock.
    fn heat(&self, state: &AtomicU32, since: u32) -> i32 {
        state.load(Relaxed).wrapping_sub(since) as i32
    }

    fn filed_next(&self, _: u32) -> Option<u32> {
        None
    }

    fn validate(&self, states: &impl PolicyStates) {
        let mut filed = vec![false; self.links.len()];
        let mut file = |slot: u32| assert!(!replace(&mut filed[slot as usize], true));
        for list in [self.merged, self.settled] {
            list.iter(&self.links).for_each(&mut file);
        }
        for generation in 0..self.live_generations() {
            let slots = self.generation(self.oldest.wrapping_add(generation)).slots;
            for slot in slots.iter(&self.links) {
                file(slot);
                if let Some(stored) = states.state(slot) {
                    let home = self.generation_of(stored.load(Relaxed));
                    assert!(
                        home.wrapping_sub(self.oldest) >= generation,
                        "slot {slot} is filed above its own generation, {home}"
                    );
                }
            }
        }
        let slots = 0..as_slot(self.links.len());
        let occupied = slots.filter(|&slot| states.state(slot).is_some());
        assert_eq!(occupied.clone().count(), self.len as usize);
        for slot in occupied {
            assert!(filed[slot as usize], "slot {slot} is in no list");
        }
        for (slot, filed) in (0..).zip(filed) {
            assert_eq!(filed, self.links.is_filed(slot));
        }
    }
}

impl AllocatedBytes for Lru {
    fn allocated_bytes(&self) -> usize {
        size_of_val(&*self.generations) + self.links.allocated_bytes()
    }
}
