use super::merge::{MERGED_PER_WRITE, MERGED_PER_WRITE_FAST};
use super::*;
use crate::policy::tests::hottest_first;

#[derive(Default)]
struct Stamps(Vec<Option<AtomicU32>>);

impl PolicyStates for Stamps {
    fn state(&self, slot: u32) -> Option<&AtomicU32> {
        self.0.get(slot as usize)?.as_ref()
    }

    fn hash(&self, slot: u32) -> u32 {
        slot
    }
}

/// The policy, with the true time of the last use of each slot.
struct Model {
    lru: Lru,
    stamps: Stamps,
    used: Vec<Option<u64>>,
    now: u64,
    /// The highest number of slots that one write has merged.
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
        self.lru.on_write(&self.stamps, &mut work);
        self.most_work = self.most_work.max(work.done());
        self.now += 1;
    }

    fn fill(&mut self, slot: usize) {
        self.write();
        let stamp = self.stamps.0[slot].insert(AtomicU32::new(0));
        self.lru.insert(u32::try_from(slot).unwrap(), stamp, 0);
        self.used[slot] = Some(self.now);
    }

    fn hit(&mut self, slot: usize) {
        if let Some(stamp) = &self.stamps.0[slot] {
            if !self.lru.no_op_hits().is_no_op_hit(stamp) {
                self.lru.on_hit(0, stamp);
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
        let used = self.used[victim].expect("the victim is occupied");
        let oldest = self.used.iter().flatten().min().unwrap();
        let entries = self.used.iter().flatten().count() as u64;
        assert!(
            used <= oldest + entries / 64,
            "{used} {oldest} of {entries}"
        );
        self.vacate(victim);
        victim
    }
}

/// Returns a generator of random numbers below a limit.
fn rng(seed: u32) -> impl FnMut(usize) -> usize {
    let mut state = u64::from(seed);
    move |below| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        usize::try_from(state >> 33).unwrap() % below
    }
}

/// Checks the contract with each mixture of writes, at sizes below and above the one up to which it is exact.
#[test]
fn victim_is_the_least_recently_used_within_a_64th_of_the_shard() {
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
                // A slot is filled again at once, or after another one was evicted.
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
fn order_is_kept_when_the_clock_wraps() {
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
fn updates_without_evictions_do_not_exhaust_generations_and_merge_few_entries_each() {
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
        assert!(model.lru.live_generations() < MAX_GENERATIONS);
        if step % 1_000 == 0 {
            model.lru.validate(&model.stamps);
            let victim = model.evict();
            model.fill(victim);
        }
    }
    assert!(merges > 1, "{merges} merges");
    assert!(model.most_work <= MERGED_PER_WRITE, "{}", model.most_work);
}

/// The generations are as short as the entries require, and there are a hundred times as many slots.
#[test]
fn write_to_a_shrunk_shard_merges_a_bounded_number_of_vacant_slots() {
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
    assert!(most <= MERGED_PER_WRITE_FAST, "{most}");
    for _ in 0..1_000 {
        let victim = model.evict();
        model.fill(victim);
    }
}

#[test]
fn eviction_stops_when_its_work_is_used_up_and_a_later_one_continues() {
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
fn unused_entry_stays_the_victim_after_any_number_of_updates() {
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
fn heat_orders_entries_by_last_use_and_the_coldest_is_evicted() {
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
