//! Least recently used, with hits that write at most a relaxed stamp.
//!
//! The shard has a write clock, which every write advances. A hit stamps its entry with the clock,
//! and only if the stamp there is older than 1/128 of the shard's size, so steady reads write
//! nothing. Reads between two writes are simultaneous.
//!
//! The order is one list through all slots, oldest first, with markers in it that end one
//! *generation* each: a span of the write clock of 1/128 of the shard's size. An entry is filed in
//! the generation of its stamp. Hits do not move it; a stamp younger than the generation it is
//! filed in says that it is filed too low. Eviction looks at the oldest entry: if it is filed too
//! low it is filed again, in front of the marker of its stamp's generation, in O(1); else it is the
//! victim.
//!
//! So no entry is evicted while one less recently used exists, where recency is resolved to 1/64
//! of the shard (1/128 for the stamp's age, 1/128 for the generation's span). Below 128 entries
//! both are exact. The size is that at the time of use: a shard that has shrunk since still knows its
//! entries' past only as finely as it was noted.
//!
//! Generations end as fast as they begin while writes evict. Where writes only update, they run
//! out: then all entries filed too low are filed again, which leaves one list in order, and all
//! markers but one are free. That is O(entries) once in at least as many writes.

use super::{Policy, Words};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// How many generations there can be; a power of two. Twice what a shard needs whose every write
/// evicts.
const GENERATIONS: u32 = 256;
/// The share of the shard's size that recency is resolved to, for stamps and for generations each.
const RESOLUTION: u32 = 128;
/// Stamps older than this are made this old, so that the clock may wrap.
const OLDEST_AGE: u32 = 1 << 31;

#[derive(Clone, Copy)]
struct Link {
    prev: u32,
    next: u32,
}

/// What a hit reads comes first.
#[repr(C)]
pub(crate) struct Lru {
    clock: u32,
    /// How far a stamp may lag behind the clock, in writes: `len / RESOLUTION`.
    slack: u32,
    len: u32,
    /// Generations live from `oldest` to `newest`; their markers are these modulo `GENERATIONS`.
    oldest: u32,
    newest: u32,
    /// One circular list: nodes below [`GENERATIONS`] are markers, the others slots.
    links: Vec<Link>,
    /// The write clock when each generation began, by marker.
    starts: Box<[u32]>,
}

fn node(slot: u32) -> u32 {
    slot + GENERATIONS
}

fn slot(node: u32) -> Option<u32> {
    node.checked_sub(GENERATIONS)
}

fn marker(generation: u32) -> u32 {
    generation % GENERATIONS
}

impl Lru {
    fn age(&self, stamp: u32) -> u32 {
        self.clock.wrapping_sub(stamp)
    }

    /// The generation that a stamp belongs to.
    fn generation_of(&self, stamp: u32) -> u32 {
        // The last generation that is at least as old as the stamp. The oldest has no beginning.
        let age = self.age(stamp);
        let (mut low, mut high) = (self.oldest, self.newest);
        while low != high {
            let middle = high.wrapping_sub(high.wrapping_sub(low) / 2);
            if self.age(self.starts[marker(middle) as usize]) >= age {
                low = middle;
            } else {
                high = middle.wrapping_sub(1);
            }
        }
        low
    }

    /// Puts a node in front of another.
    fn link(&mut self, node: u32, next: u32) {
        let prev = self.links[next as usize].prev;
        self.links[node as usize] = Link { prev, next };
        self.links[prev as usize].next = node;
        self.links[next as usize].prev = node;
    }

    fn unlink(&mut self, node: u32) {
        let Link { prev, next } = self.links[node as usize];
        self.links[prev as usize].next = next;
        self.links[next as usize].prev = prev;
    }

    /// Files a node under its stamp if that is younger than the generation it is in.
    fn file_again(&mut self, node: u32, stamp: u32, generation: u32) -> bool {
        let home = self.generation_of(stamp);
        // Stamps only grow, so a home that is not `generation` is younger.
        if home == generation {
            return false;
        }
        self.unlink(node);
        self.link(node, marker(home));
        true
    }

    /// The node after the newest marker: the list is circular.
    fn first(&self) -> u32 {
        self.links[marker(self.newest) as usize].next
    }

    fn begin_generation(&mut self, words: &impl Words) {
        if self.newest.wrapping_sub(self.oldest) == GENERATIONS - 1 {
            self.merge_generations(words);
        }
        let last = marker(self.newest);
        self.newest = self.newest.wrapping_add(1);
        let new = marker(self.newest);
        self.starts[new as usize] = self.clock;
        let first = self.links[last as usize].next;
        self.link(new, first);
    }

    /// Files all entries under their stamps, then makes one generation of all.
    fn merge_generations(&mut self, words: &impl Words) {
        let mut generation = self.oldest;
        let mut at = self.first();
        loop {
            let next = self.links[at as usize].next;
            if let Some(slot) = slot(at) {
                let word = words.word(slot);
                let stamp = word.load(Relaxed);
                if self.age(stamp) > OLDEST_AGE {
                    word.store(self.clock.wrapping_sub(OLDEST_AGE), Relaxed);
                }
                self.file_again(at, stamp, generation);
            } else if generation == self.newest {
                break;
            } else {
                // Nothing filed too low is left before this marker.
                self.unlink(at);
                generation = generation.wrapping_add(1);
            }
            at = next;
        }
        self.oldest = self.newest;
    }
}

impl Default for Lru {
    fn default() -> Self {
        // Only generation 0 is linked.
        let mut links = vec![Link { prev: 0, next: 0 }; GENERATIONS as usize];
        links.shrink_to_fit();
        Self {
            links,
            starts: vec![0; GENERATIONS as usize].into(),
            oldest: 0,
            newest: 0,
            clock: 0,
            slack: 0,
            len: 0,
        }
    }
}

impl Policy for Lru {
    #[inline]
    fn touch(&self, word: &AtomicU32) {
        if self.age(word.load(Relaxed)) > self.slack {
            word.store(self.clock, Relaxed);
        }
    }

    fn before_write(&mut self, words: &impl Words) {
        self.clock = self.clock.wrapping_add(1);
        if self.age(self.starts[marker(self.newest) as usize]) >= self.slack.max(1) {
            self.begin_generation(words);
        }
    }

    fn insert(&mut self, slot: u32, words: &impl Words) {
        words.word(slot).store(self.clock, Relaxed);
        let node = node(slot);
        if self.links.len() <= node as usize {
            let unlinked = Link { prev: 0, next: 0 };
            self.links.resize(node as usize + 1, unlinked);
        }
        self.link(node, marker(self.newest));
        self.len += 1;
        self.slack = self.len / RESOLUTION;
    }

    fn remove(&mut self, slot: u32) {
        self.unlink(node(slot));
        self.len -= 1;
        self.slack = self.len / RESOLUTION;
    }

    fn victim(&mut self, words: &impl Words) -> Option<u32> {
        loop {
            let first = self.first();
            if let Some(slot) = slot(first) {
                let stamp = words.word(slot).load(Relaxed);
                if !self.file_again(first, stamp, self.oldest) {
                    return Some(slot);
                }
            } else if self.oldest == self.newest {
                return None;
            } else {
                self.unlink(first);
                self.oldest = self.oldest.wrapping_add(1);
            }
        }
    }

    fn hottest_first(&self, words: &impl Words) -> Vec<u32> {
        let mut by_age = Vec::with_capacity(self.len as usize);
        let newest = marker(self.newest);
        let mut at = self.links[newest as usize].prev;
        while at != newest {
            if let Some(slot) = slot(at) {
                by_age.push((self.age(words.word(slot).load(Relaxed)), slot));
            }
            at = self.links[at as usize].prev;
        }
        by_age.sort_by_key(|&(age, _)| age);
        by_age.into_iter().map(|(_, slot)| slot).collect()
    }

    fn validate(&self, words: &impl Words) {
        let (mut at, mut generation, mut len) = (self.first(), self.oldest, 0);
        loop {
            let Link { prev, next } = self.links[at as usize];
            assert_eq!(self.links[next as usize].prev, at);
            assert_eq!(self.links[prev as usize].next, at);
            if let Some(slot) = slot(at) {
                let home = self.generation_of(words.word(slot).load(Relaxed));
                assert!(
                    home.wrapping_sub(generation) < GENERATIONS,
                    "slot {slot} is filed in generation {generation}, above its own, {home}"
                );
                len += 1;
            } else {
                assert_eq!(at, marker(generation));
                if generation == self.newest {
                    break;
                }
                generation = generation.wrapping_add(1);
            }
            at = next;
        }
        assert_eq!(len, self.len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Stamps(Vec<AtomicU32>);

    impl Words for Stamps {
        fn word(&self, slot: u32) -> &AtomicU32 {
            &self.0[slot as usize]
        }
    }

    /// The true time of last use of each slot, beside the policy.
    struct Model {
        lru: Lru,
        stamps: Stamps,
        used: Vec<Option<u64>>,
        now: u64,
    }

    impl Model {
        fn new(slots: usize, clock: u32) -> Self {
            let mut lru = Lru {
                clock,
                ..Lru::default()
            };
            lru.starts[0] = clock;
            Self {
                lru,
                stamps: Stamps((0..slots).map(|_| AtomicU32::new(0)).collect()),
                used: vec![None; slots],
                now: 0,
            }
        }

        fn write(&mut self) {
            self.lru.before_write(&self.stamps);
            self.now += 1;
        }

        fn fill(&mut self, slot: usize) {
            self.write();
            self.lru.insert(u32::try_from(slot).unwrap(), &self.stamps);
            self.used[slot] = Some(self.now);
        }

        fn hit(&mut self, slot: usize) {
            self.lru.touch(&self.stamps.0[slot]);
            self.used[slot] = Some(self.now);
        }

        fn vacate(&mut self, slot: usize) {
            self.lru.remove(u32::try_from(slot).unwrap());
            self.used[slot] = None;
        }

        fn evict(&mut self) -> usize {
            self.write();
            let victim = self.lru.victim(&self.stamps).unwrap() as usize;
            let used = self.used[victim].expect("the victim is held");
            let oldest = self.used.iter().flatten().min().unwrap();
            let held = self.used.iter().flatten().count() as u64;
            assert!(used <= oldest + held / 64, "{used} {oldest} of {held}");
            self.vacate(victim);
            victim
        }
    }

    fn rng(seed: u64) -> impl FnMut(usize) -> usize {
        let mut state = seed;
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
            let mut random = rng(size as u64);
            let mut model = Model::new(size, 0);
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
        let order = model.lru.hottest_first(&model.stamps);
        assert_eq!(order[..5], [11, 3, 7, 19, 18]);
        assert_eq!(order.len(), 20);
        while model.lru.len > 0 {
            let coldest = *model.lru.hottest_first(&model.stamps).last().unwrap() as usize;
            assert_eq!(model.evict(), coldest);
        }
        assert_eq!(model.lru.victim(&model.stamps), None);
    }
}
