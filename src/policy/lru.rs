//! Least recently used, with hits that write at most a relaxed stamp.
//!
//! The shard has a write clock, which every write advances. A hit stamps its entry with the clock,
//! and only if the stamp there is older than 1/128 of the shard's size, so steady reads write
//! nothing. Reads between two writes are simultaneous.
//!
//! The order is in lists, one for each *generation*: a span of the write clock of 1/128 of the
//! shard's size. An entry is filed in the generation of its stamp. Hits do not move it; a stamp
//! younger than the generation it is filed in says that it is filed too low. Eviction takes the
//! first entry of the oldest generation: if it is filed too low it is filed again, under its stamp,
//! in O(1); else it is the victim. So a list is only ever taken from at its head, and needs but one
//! link a slot: a slot that is vacated stays where it is filed, and when it is filled again it is
//! one that is filed too low.
//!
//! So no entry is evicted while one less recently used exists, where recency is resolved to 1/64
//! of the shard (1/128 for the stamp's age, 1/128 for the generation's span). Below 128 entries
//! both are exact. The size is that at the time of use: a shard that has shrunk since still knows its
//! entries' past only as finely as it was noted.
//!
//! Generations end as fast as they begin while writes evict. Where writes only update, they would run
//! out, so the shard *merges* them before: each write takes a few entries of the oldest generation, files
//! those again that are filed too low, and appends the others to one list of *settled* entries, which are
//! evicted first. A pass begins with the entries that an earlier pass settled, and goes on to all
//! generations but the one that is the newest at its begin. So an entry that was hit since it was settled has
//! a stamp of a generation that is still there, which tells that it is filed too low; all others are in the
//! order of their stamps. A pass takes at most two steps an entry, spread over a quarter as many writes,
//! during which no more than 32 generations begin.

use crate::policy::slot_list::{Links, List, as_slot};
use crate::policy::{Eviction, Quiet, Words};
use crate::storage::work_slice::WorkSlice;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// How many generations there can be; a power of two. Twice what a shard needs whose every write
/// evicts.
const GENERATIONS: u32 = 256;
/// The share of the shard's size that recency is resolved to, for stamps and for generations each.
const RESOLUTION: u32 = 128;
/// With so many generations a pass begins that merges them.
const MERGE_FROM: u32 = 192;
/// How many entries a write merges during a pass.
const MERGED_PER_WRITE: u32 = 8;
/// With so many generations a write merges more. That happens only where most slots are vacant, in a shard
/// that has shrunk by far: its generations are short, and vacant slots have to be merged too.
const MERGE_FASTER_FROM: u32 = 232;
const MERGED_PER_WRITE_FASTER: u32 = 1_024;
/// Stamps older than this are made this old, so that the clock may wrap.
const OLDEST_AGE: u32 = 1 << 31;

/// What a hit reads comes first, and what a write writes with it.
#[repr(C)]
pub(crate) struct Lru {
    clock: u32,
    /// How far a stamp may lag behind the clock, in writes: `len / RESOLUTION`.
    slack: u32,
    /// Generations live from `oldest` to `newest`, in their places modulo `GENERATIONS`.
    oldest: u32,
    newest: u32,
    generations: Box<[Generation]>,
    links: Links,
    len: u32,
    /// Entries that were merged by the last pass, to which the present one has not come yet. All stamps that
    /// are older than the generations are here or in `merged`.
    settled: List,
    /// Entries that the present pass has merged. They are older than `settled`.
    merged: List,
    /// The last generation that the present pass merges.
    merges_to: Option<u32>,
}

#[derive(Clone, Copy)]
struct Generation {
    /// The write clock when it began.
    start: u32,
    list: List,
}

impl Lru {
    #[inline]
    fn age(&self, stamp: u32) -> u32 {
        self.clock.wrapping_sub(stamp)
    }

    #[inline]
    fn generation(&self, generation: u32) -> &Generation {
        &self.generations[(generation % GENERATIONS) as usize]
    }

    /// Does a stamp belong to this generation or a later one? All belong to the oldest at least.
    #[inline]
    fn is_of_or_after(&self, stamp: u32, generation: u32) -> bool {
        self.age(self.generation(generation).start) >= self.age(stamp)
    }

    /// The generation that a stamp belongs to.
    fn generation_of(&self, stamp: u32) -> u32 {
        // Generations span `slack` writes each while the shard keeps its size: then this is it, or
        // one next to it. A search by halves would be mispredicted.
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

    /// Files a slot at the end of a generation.
    #[inline]
    fn file(&mut self, slot: u32, generation: u32) {
        let generation = &mut self.generations[(generation % GENERATIONS) as usize];
        generation.list.push(slot, &mut self.links);
    }

    /// Takes the first slot of a generation.
    #[inline]
    fn take(&mut self, generation: u32) -> Option<u32> {
        let generation = &mut self.generations[(generation % GENERATIONS) as usize];
        generation.list.pop(&mut self.links)
    }

    /// Takes the first of the slots that are older than all generations, if they are filed right.
    #[inline]
    fn take_settled(&mut self) -> Option<u32> {
        let merged = self.merged.pop(&mut self.links);
        merged.or_else(|| self.settled.pop(&mut self.links))
    }

    /// Loads the word of the next victim, most likely, while the caller waits for memory anyway: the
    /// next write then need not.
    #[inline]
    fn fetch_next(&self, words: &impl Words) {
        let oldest = self.generation(self.oldest).list;
        let lists = [self.merged, self.settled, oldest];
        if let Some(list) = lists.into_iter().find(|list| !list.is_empty()) {
            if let Some(word) = words.word(list.head) {
                word.load(Relaxed);
            }
        }
    }

    fn live_generations(&self) -> u32 {
        self.newest.wrapping_sub(self.oldest) + 1
    }

    /// Begins a generation, unless there are as many as there can be: the newest then goes on.
    #[cold]
    fn begin_generation(&mut self) {
        if self.live_generations() < GENERATIONS {
            self.newest = self.newest.wrapping_add(1);
            self.generations[(self.newest % GENERATIONS) as usize] = Generation {
                start: self.clock,
                list: List::EMPTY,
            };
        }
        if self.live_generations() >= MERGE_FROM && self.merges_to.is_none() {
            self.merges_to = Some(self.newest.wrapping_sub(1));
        }
    }

    /// Merges a few entries: see the module's documentation.
    #[cold]
    fn merge(&mut self, to: u32, words: &impl Words, work: &mut WorkSlice) {
        let steps = if self.live_generations() < MERGE_FASTER_FROM {
            MERGED_PER_WRITE
        } else {
            MERGED_PER_WRITE_FASTER
        };
        work.spend(steps);
        for _ in 0..steps {
            if let Some(slot) = self.settled.pop(&mut self.links) {
                self.settle(slot, self.oldest, words);
            } else if to.wrapping_sub(self.oldest) >= GENERATIONS {
                // The oldest generation is a later one by now.
                self.settled = std::mem::replace(&mut self.merged, List::EMPTY);
                self.merges_to = None;
                return;
            } else if let Some(slot) = self.take(self.oldest) {
                self.settle(slot, self.oldest.wrapping_add(1), words);
            } else {
                self.oldest = self.oldest.wrapping_add(1);
            }
        }
    }

    /// Files a slot that was taken under its stamp, if that is of the generation `later` or after it, or else
    /// appends it to those that are merged.
    fn settle(&mut self, slot: u32, later: u32, words: &impl Words) {
        let Some(word) = words.word(slot) else {
            return;
        };
        let stamp = word.load(Relaxed);
        if self.is_of_or_after(stamp, later) {
            self.file(slot, self.generation_of(stamp));
            return;
        }
        if self.age(stamp) > OLDEST_AGE {
            word.store(self.clock.wrapping_sub(OLDEST_AGE), Relaxed);
        }
        self.merged.push(slot, &mut self.links);
    }

    fn resize(&mut self, len: u32) {
        self.len = len;
        self.slack = len / RESOLUTION;
    }
}

impl Default for Lru {
    fn default() -> Self {
        let empty = Generation {
            start: 0,
            list: List::EMPTY,
        };
        Self {
            clock: 0,
            slack: 0,
            oldest: 0,
            newest: 0,
            generations: vec![empty; GENERATIONS as usize].into(),
            links: Links::new(),
            len: 0,
            settled: List::EMPTY,
            merged: List::EMPTY,
            merges_to: None,
        }
    }
}

impl Eviction for Lru {
    #[inline]
    fn quiet(&self) -> Quiet {
        Quiet {
            clock: self.clock,
            slack: self.slack,
        }
    }

    #[inline]
    fn touch(&self, _: u32, word: &AtomicU32) {
        word.store(self.clock, Relaxed);
    }

    #[inline]
    fn before_write(&mut self, words: &impl Words, work: &mut WorkSlice) {
        self.clock = self.clock.wrapping_add(1);
        if self.age(self.generation(self.newest).start) >= self.slack.max(1) {
            self.begin_generation();
        }
        if let Some(to) = self.merges_to {
            self.merge(to, words, work);
        }
    }

    #[inline]
    fn insert(&mut self, slot: u32, word: &AtomicU32, _: u32) {
        word.store(self.clock, Relaxed);
        // Else it is filed where an earlier entry was, that is, too low.
        self.links.cover(slot);
        if !self.links.is_filed(slot) {
            self.file(slot, self.newest);
        }
        self.resize(self.len + 1);
    }

    fn remove(&mut self, _: &AtomicU32, _: u32) {
        self.resize(self.len - 1);
    }

    fn evict(&mut self, words: &impl Words, work: &mut WorkSlice) -> Option<u32> {
        while !work.is_used_up() {
            work.spend(1);
            let (slot, later) = if let Some(slot) = self.take_settled() {
                (slot, self.oldest)
            } else if let Some(slot) = self.take(self.oldest) {
                (slot, self.oldest.wrapping_add(1))
            } else if self.oldest == self.newest {
                return None;
            } else {
                self.oldest = self.oldest.wrapping_add(1);
                continue;
            };
            let Some(word) = words.word(slot) else {
                continue;
            };
            let stamp = word.load(Relaxed);
            let is_last = later == self.newest.wrapping_add(1);
            if is_last || !self.is_of_or_after(stamp, later) {
                self.resize(self.len - 1);
                self.fetch_next(words);
                return Some(slot);
            }
            // Stamps only grow, so it is filed too low.
            self.file(slot, self.generation_of(stamp));
        }
        None
    }

    fn grow(&mut self, slots: usize) {
        self.links.grow(slots);
    }

    fn step(&mut self, most: usize) -> Option<Vec<u32>> {
        self.links.step(most)
    }

    fn renumber(&mut self, slots: usize, slot_of: impl Fn(u32) -> Option<u32>) {
        let from = std::mem::replace(&mut self.links, Links::new());
        let to = &mut self.links;
        to.grow(slots);
        to.cover(as_slot(slots).saturating_sub(1));
        let generations = self.generations.iter_mut().map(|it| &mut it.list);
        for list in generations.chain([&mut self.settled, &mut self.merged]) {
            list.renumber(&from, to, &slot_of);
        }
    }

    fn time(&self) -> u32 {
        self.clock
    }

    #[allow(clippy::cast_possible_wrap)] // Stamps lie less than half a turn of the clock apart.
    fn heat(&self, word: &AtomicU32, since: u32) -> i32 {
        word.load(Relaxed).wrapping_sub(since) as i32
    }

    fn validate(&self, words: &impl Words) {
        let mut filed = vec![false; self.links.len()];
        let mut file = |slot: u32| assert!(!std::mem::replace(&mut filed[slot as usize], true));
        for list in [self.merged, self.settled] {
            list.iter(&self.links).for_each(&mut file);
        }
        for generation in 0..self.live_generations() {
            let list = self.generation(self.oldest.wrapping_add(generation)).list;
            for slot in list.iter(&self.links) {
                file(slot);
                if let Some(word) = words.word(slot) {
                    let home = self.generation_of(word.load(Relaxed));
                    assert!(
                        home.wrapping_sub(self.oldest) >= generation,
                        "slot {slot} is filed above its own generation, {home}"
                    );
                }
            }
        }
        let slots = 0..as_slot(self.links.len());
        let held = slots.filter(|&slot| words.word(slot).is_some());
        assert_eq!(held.clone().count(), self.len as usize);
        for slot in held {
            assert!(filed[slot as usize], "slot {slot} is in no list");
        }
        for (slot, filed) in (0..).zip(filed) {
            assert_eq!(filed, self.links.is_filed(slot));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::tests::hottest_first;

    #[derive(Default)]
    struct Stamps(Vec<Option<AtomicU32>>);

    impl Words for Stamps {
        fn word(&self, slot: u32) -> Option<&AtomicU32> {
            self.0.get(slot as usize)?.as_ref()
        }

        fn hash(&self, slot: u32) -> u32 {
            slot
        }
    }

    /// The true time of last use of each slot, beside the policy.
    struct Model {
        lru: Lru,
        stamps: Stamps,
        used: Vec<Option<u64>>,
        now: u64,
        /// The most slots that one write has merged.
        most_work: u32,
    }

    impl Model {
        fn new(slots: u32, clock: u32) -> Self {
            let mut lru = Lru {
                clock,
                ..Lru::default()
            };
            lru.generations[0].start = clock;
            lru.grow(slots as usize);
            Self {
                lru,
                stamps: Stamps((0..slots).map(|_| None).collect()),
                used: vec![None; slots as usize],
                now: 0,
                most_work: 0,
            }
        }

        fn write(&mut self) {
            let mut work = WorkSlice::unlimited();
            self.lru.before_write(&self.stamps, &mut work);
            self.most_work = self.most_work.max(work.done());
            self.now += 1;
        }

        fn fill(&mut self, slot: usize) {
            self.write();
            let word = self.stamps.0[slot].insert(AtomicU32::new(0));
            self.lru.insert(u32::try_from(slot).unwrap(), word, 0);
            self.used[slot] = Some(self.now);
        }

        fn hit(&mut self, slot: usize) {
            if let Some(word) = &self.stamps.0[slot] {
                if !self.lru.quiet().includes(word) {
                    self.lru.touch(0, word);
                }
                self.used[slot] = Some(self.now);
            }
        }

        fn remove(&mut self, slot: usize) {
            self.lru.remove(self.stamps.0[slot].as_ref().unwrap(), 0);
            self.vacate(slot);
        }

        fn vacate(&mut self, slot: usize) {
            self.stamps.0[slot] = None;
            self.used[slot] = None;
        }

        fn evict(&mut self) -> usize {
            self.write();
            let work = &mut WorkSlice::unlimited();
            let victim = self.lru.evict(&self.stamps, work).unwrap() as usize;
            let used = self.used[victim].expect("the victim is held");
            let oldest = self.used.iter().flatten().min().unwrap();
            let held = self.used.iter().flatten().count() as u64;
            assert!(used <= oldest + held / 64, "{used} {oldest} of {held}");
            self.vacate(victim);
            victim
        }
    }

    fn rng(seed: u32) -> impl FnMut(usize) -> usize {
        let mut state = u64::from(seed);
        move |below| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            usize::try_from(state >> 33).unwrap() % below
        }
    }

    /// The contract, in each mixture of writes and at sizes on both sides of where it is exact.
    #[test]
    fn the_victim_is_the_least_recently_used_within_a_64th() {
        for (size, updates) in [(5, 1), (63, 30), (100, 0), (127, 9), (700, 2), (5_000, 40)] {
            let mut random = rng(size);
            let mut model = Model::new(size, 0);
            let size = size as usize;
            (0..size).for_each(|slot| model.fill(slot));
            for step in 0..40_000 {
                if step % 4_001 == 0 {
                    model.lru.validate(&model.stamps);
                }
                for _ in 0..random(4) {
                    let slot = random(size) * random(size) / size;
                    model.hit(slot);
                }
                if random(updates + 1) == 0 {
                    let victim = model.evict();
                    model.fill(victim);
                } else if random(50) == 0 {
                    // A slot may be filled at once, or after others have been evicted.
                    let slot = random(size);
                    model.write();
                    model.remove(slot);
                    if random(2) == 0 {
                        let victim = model.evict();
                        model.fill(victim);
                    }
                    model.fill(slot);
                } else {
                    model.write();
                    let slot = random(size);
                    model.hit(slot);
                }
            }
        }
    }

    #[test]
    fn the_clock_may_wrap() {
        let mut random = rng(3);
        let mut model = Model::new(300, u32::MAX - 5_000);
        (0..300).for_each(|slot| model.fill(slot));
        for _ in 0..20_000 {
            let slot = random(300);
            model.hit(slot);
            let victim = model.evict();
            model.fill(victim);
        }
        model.lru.validate(&model.stamps);
    }

    #[test]
    fn generations_never_run_out_and_each_write_merges_a_few_entries() {
        let mut model = Model::new(20_000, 0);
        (0..20_000).for_each(|slot| model.fill(slot));
        let mut random = rng(5);
        let mut merges = 0;
        for step in 0..120_000 {
            let merged_before = model.lru.merges_to.is_some();
            model.write();
            model.hit(random(20_000));
            model.hit(step % 1_000);
            merges += usize::from(merged_before && model.lru.merges_to.is_none());
            assert!(model.lru.live_generations() < GENERATIONS);
            if step % 1_000 == 0 {
                model.lru.validate(&model.stamps);
                let victim = model.evict();
                model.fill(victim);
            }
        }
        assert!(merges > 1, "{merges} merges");
        assert!(model.most_work <= MERGED_PER_WRITE, "{}", model.most_work);
    }

    /// Its generations are as short as is right for its entries, and it has a hundred times as many slots.
    #[test]
    fn merging_vacant_slots_of_a_shrunk_shard_takes_a_bounded_number_of_steps_a_write() {
        let mut model = Model::new(50_000, 0);
        (0..50_000).for_each(|slot| model.fill(slot));
        (500..50_000).for_each(|slot| model.remove(slot));
        let mut random = rng(6);
        for _ in 0..5_000 {
            model.write();
            model.hit(random(500));
            model.hit(random(250));
        }
        model.lru.validate(&model.stamps);
        let most = model.most_work;
        assert!(most <= MERGED_PER_WRITE_FASTER, "{most}");
        for _ in 0..1_000 {
            let victim = model.evict();
            model.fill(victim);
        }
    }

    #[test]
    fn an_eviction_stops_when_its_work_is_used_up_and_a_later_one_goes_on() {
        let mut model = Model::new(20_000, 0);
        (0..20_000).for_each(|slot| model.fill(slot));
        model.write();
        (0..20_000).for_each(|slot| model.hit(slot));
        let mut slices = 0;
        let victim = loop {
            let mut work = WorkSlice::new();
            let victim = model.lru.evict(&model.stamps, &mut work);
            slices += 1;
            assert_eq!(victim.is_none(), work.is_used_up());
            if let Some(victim) = victim {
                break victim;
            }
        };
        assert!(slices > 5, "{slices} slices");
        model.vacate(victim as usize);
        model.lru.validate(&model.stamps);
    }

    #[test]
    fn an_entry_that_nobody_uses_stays_the_victim_however_many_updates_pass() {
        let mut model = Model::new(50, 0);
        (0..50).for_each(|slot| model.fill(slot));
        for round in 0..100_000 {
            model.write();
            model.hit(1 + round % 49);
        }
        model.lru.validate(&model.stamps);
        assert_eq!(model.evict(), 0);
    }

    #[test]
    fn the_hottest_come_first() {
        let mut model = Model::new(20, 0);
        (0..20).for_each(|slot| model.fill(slot));
        for slot in [7, 3, 11] {
            model.write();
            model.hit(slot);
        }
        model.remove(18);
        let order = hottest_first(&model.lru, &model.stamps, 20);
        assert_eq!(order[..5], [11, 3, 7, 19, 17]);
        assert_eq!(order.len(), 19);
        while model.lru.len > 0 {
            let coldest = hottest_first(&model.lru, &model.stamps, 20).pop().unwrap();
            assert_eq!(model.evict(), coldest as usize);
        }
        let work = &mut WorkSlice::unlimited();
        assert_eq!(model.lru.evict(&model.stamps, work), None);
    }
}
