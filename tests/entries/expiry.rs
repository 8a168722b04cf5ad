//! Deadlines: no entry is served at or after its deadline, for any behavior of the clock.

use crate::common::{KeyedFixture, seconds, until};
use hotset::__private::validate;
use hotset::{Loaded, LocalCache, RemovalCause, SystemClock};
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

type Cache = LocalCache<u64, u64>;

/// The latest time that the cache distinguishes from others, in nanoseconds.
const MAX_TIME_NANOS: u64 = u64::MAX;

const fn nanos(count: u64) -> Duration {
    Duration::from_nanos(count)
}

type Fixture = KeyedFixture<u64>;

impl Fixture {
    fn plain() -> Self {
        Self::new(|builder| builder)
    }

    fn with_ttl(ttl: Duration) -> Self {
        Self::new(|builder| builder.time_to_live(ttl))
    }

    fn with_idle(idle: Duration) -> Self {
        Self::new(|builder| builder.time_to_idle(idle))
    }

    fn load(&self, key: u64, loaded: impl Into<Loaded<u64>>) -> u64 {
        let loaded = self
            .cache
            .get_or_load_entry(&key, |_| Ok::<_, Infallible>(loaded.into()));
        loaded.unwrap()
    }

    fn listed(&self) -> Vec<(u64, u64)> {
        self.cache.iter().collect()
    }

    /// Checks whether the key is served, by each way to read that is not recorded. All must agree.
    fn serves(&self, key: u64) -> bool {
        let present = self.cache.contains_key(&key);
        assert_eq!(self.cache.remaining_ttl(&key).is_some(), present);
        assert_eq!(
            self.listed().iter().any(|(listed, _)| *listed == key),
            present
        );
        present
    }
}

#[test]
fn entry_is_not_served_at_or_after_its_deadline() {
    let f = Fixture::with_ttl(seconds(10));
    for key in 0..4 {
        f.cache.insert(key, key);
    }
    f.clock.set(nanos(9_999_999_999));
    assert!((0..4).all(|key| f.serves(key)));
    assert_eq!(f.cache.get(&0), Some(0));
    assert_eq!(f.load(0, 7), 0);
    for past in [Duration::ZERO, nanos(1), seconds(1_000)] {
        f.clock.set(seconds(10) + past);
        assert!((0..4).all(|key| !f.serves(key)));
        assert_eq!(f.cache.get(&0), None);
        assert_eq!(f.cache.get_with(&0, |value| *value), None);
        f.cache.retain(|_, _| unreachable!("none is live"));
    }
    assert_eq!(f.cache.remove(&1), None);
    assert_eq!(
        f.cache.update(&2, |value| Some(value.map_or(9, |_| 8))),
        Some(9)
    );
    assert_eq!(f.load(3, 7), 7);
    assert_eq!(f.cache.remaining_ttl(&2), Some(seconds(10)));
    assert_eq!(f.cache.remaining_ttl(&3), Some(seconds(10)));
    validate(&f.cache);
}

#[test]
fn insert_with_zero_ttl_stores_nothing_and_removes_the_old_value() {
    let f = Fixture::plain();
    f.cache.insert(1, 10);
    f.cache.insert_with_ttl(1, 11, Duration::ZERO);
    assert_eq!(f.cache.get(&1), None);
    assert_eq!(f.take_notified(), [(1, 10, RemovalCause::Replaced)]);
    for value in [12, 13] {
        let loaded = Loaded::new(value).ttl(Duration::ZERO);
        assert_eq!(f.load(1, loaded), value);
    }
    let stats = f.cache.stats();
    assert_eq!((stats.inserts, stats.refused, stats.loads), (1, 3, 2));
    assert!(f.cache.is_empty());
    assert!(f.take_notified().is_empty());
}

#[test]
fn ttl_of_a_nanosecond_lasts_until_the_clock_advances() {
    let f = Fixture::plain();
    f.cache.insert_with_ttl(1, 1, nanos(1));
    f.load(2, Loaded::new(2).ttl(nanos(1)));
    assert!(f.serves(1) && f.serves(2));
    assert_eq!(f.cache.remaining_ttl(&1), Some(nanos(1)));
    f.clock.advance(nanos(1));
    assert!(!f.serves(1) && !f.serves(2));
}

#[test]
fn maximum_ttl_lasts_until_the_end_of_the_clock() {
    let f = Fixture::with_ttl(seconds(1));
    f.clock.set(seconds(5));
    f.cache.insert_with_ttl(1, 1, Duration::MAX);
    f.load(2, Loaded::new(2).ttl(Duration::MAX));
    f.clock.set(nanos(MAX_TIME_NANOS - 1));
    assert_eq!(f.cache.remove_expired(), 0);
    for key in [1, 2] {
        assert_eq!(f.cache.get(&key), Some(key));
        assert_eq!(f.cache.remaining_ttl(&key), Some(Duration::MAX));
    }
}

#[test]
fn entry_without_deadline_is_live_at_the_end_of_the_clock() {
    let f = Fixture::plain();
    f.cache.insert(1, 1);
    f.cache.insert(2, 2);
    f.clock.set(Duration::MAX);
    assert_eq!(f.cache.get(&1), Some(1));
    assert!(f.serves(1), "other calls do not find the entry");
    assert_eq!(f.cache.remove_expired(), 0);
    assert_eq!(f.cache.remove(&1), Some(1));
    assert_eq!(f.take_notified(), [(1, 1, RemovalCause::Removed)]);
    assert!(f.serves(2));
}

#[test]
fn entry_stored_at_the_end_of_the_clock_is_live() {
    let f = Fixture::plain();
    f.clock.set(Duration::MAX);
    f.cache.insert(1, 1);
    f.cache.insert_with_ttl(2, 2, Duration::MAX);
    f.cache.insert_with_ttl(3, 3, Duration::ZERO);
    assert!(f.serves(1) && f.serves(2) && !f.serves(3));
    assert_eq!(f.cache.stats().refused, 1);
}

#[test]
fn entry_with_deadline_is_expired_at_the_end_of_the_clock() {
    let f = Fixture::with_ttl(seconds(1));
    f.cache.insert(1, 1);
    f.clock.set(Duration::MAX);
    assert!(!f.serves(1));
    assert_eq!(f.cache.remove_expired(), 1);
    f.clock.set(Duration::ZERO);
    f.cache.insert(1, 2);
    assert_eq!(f.cache.remaining_ttl(&1), Some(seconds(1)));
    validate(&f.cache);
}

#[test]
fn entry_lives_longer_if_the_clock_goes_back() {
    let f = Fixture::with_ttl(seconds(10));
    f.clock.set(seconds(100));
    f.cache.insert(1, 1);
    f.clock.set(seconds(50));
    f.cache.insert(2, 2);
    assert_eq!(f.cache.remaining_ttl(&1), Some(seconds(60)));
    assert_eq!(f.cache.remaining_ttl(&2), Some(seconds(10)));
    f.clock.set(seconds(60));
    assert!(f.serves(1) && !f.serves(2));
    f.clock.set(seconds(59));
    assert!(f.serves(1) && f.serves(2), "the entry was removed");
    f.clock.set(seconds(60));
    assert_eq!(f.cache.remove_expired(), 1);
    f.clock.set(seconds(59));
    assert!(f.serves(1) && !f.serves(2));
    validate(&f.cache);
}

#[test]
fn stopped_clock_expires_no_entry() {
    let f = Fixture::with_ttl(nanos(1));
    for key in 0..100 {
        f.cache.insert(key, key);
    }
    for _ in 0..1_000 {
        f.cache.insert(0, 0);
    }
    assert_eq!(f.cache.remove_expired(), 0);
    assert!((0..100).all(|key| f.serves(key)));
    assert_eq!(f.cache.stats().expired, 0);
}

#[test]
fn ttl_of_an_entry_overrides_that_of_the_cache() {
    let f = Fixture::with_ttl(seconds(10));
    f.cache.insert_with_ttl(1, 1, seconds(1));
    f.cache.insert_with_ttl(2, 2, seconds(100));
    f.load(3, Loaded::new(3).ttl(seconds(1)));
    f.load(4, Loaded::new(4).ttl(seconds(100)));
    f.load(5, 5);
    let left = [1, 2, 3, 4, 5].map(|key| f.cache.remaining_ttl(&key));
    assert_eq!(left, [1, 100, 1, 100, 10].map(|left| Some(seconds(left))));
    f.clock.set(seconds(1));
    assert_eq!(
        [1, 2, 3, 4, 5].map(|key| f.serves(key)),
        [false, true, false, true, true]
    );
    f.clock.set(seconds(99));
    assert_eq!(
        [1, 2, 3, 4, 5].map(|key| f.serves(key)),
        [false, true, false, true, false]
    );
    f.clock.set(seconds(100));
    assert!((1..6).all(|key| !f.serves(key)));
}

#[test]
fn replaced_value_has_a_new_deadline() {
    let f = Fixture::plain();
    f.cache.insert_with_ttl(1, 1, seconds(1));
    f.cache.insert(1, 2);
    assert_eq!(f.cache.remaining_ttl(&1), Some(Duration::MAX));
    f.cache.insert_with_ttl(1, 3, seconds(5));
    assert_eq!(f.cache.remaining_ttl(&1), Some(seconds(5)));
    f.clock.advance(seconds(4));
    f.cache.insert_with_ttl(1, 4, seconds(2));
    assert_eq!(f.cache.remaining_ttl(&1), Some(seconds(2)));
    // An update keeps the deadline.
    f.cache.update(&1, |_| Some(5));
    assert_eq!(f.cache.remaining_ttl(&1), Some(seconds(2)));
}

#[test]
fn remaining_ttl_decreases_to_zero_at_the_deadline() {
    let f = Fixture::with_ttl(seconds(3));
    assert_eq!(f.cache.remaining_ttl(&1), None);
    f.cache.insert(1, 1);
    let mut left = Vec::new();
    for _ in 0..4 {
        left.push(f.cache.remaining_ttl(&1));
        f.clock.advance(seconds(1));
    }
    let expected = [Some(seconds(3)), Some(seconds(2)), Some(seconds(1)), None];
    assert_eq!(left, expected);
}

#[test]
fn every_kind_of_hit_restarts_the_idle_time() {
    let hits: [fn(&Fixture); 4] = [
        |f| assert_eq!(f.cache.get(&1), Some(1)),
        |f| assert_eq!(f.cache.get_with(&1, |value| *value), Some(1)),
        |f| assert_eq!(f.load(1, 2), 1),
        |f| f.cache.insert(1, 1),
    ];
    for hit in hits {
        let f = Fixture::with_idle(seconds(10));
        f.cache.insert(1, 1);
        for _ in 0..5 {
            f.clock.advance(seconds(9));
            hit(&f);
            assert_eq!(f.cache.remaining_ttl(&1), Some(seconds(10)));
        }
        f.clock.advance(seconds(10));
        assert!(!f.serves(1));
        validate(&f.cache);
    }
}

#[test]
fn call_that_is_no_hit_does_not_restart_the_idle_time() {
    let f = Fixture::with_idle(seconds(10));
    f.cache.insert(1, 1);
    f.clock.advance(seconds(9));
    assert!(f.cache.contains_key(&1));
    assert_eq!(f.cache.remaining_ttl(&1), Some(seconds(1)));
    assert_eq!(f.listed(), [(1, 1)]);
    f.cache.retain(|_, _| true);
    f.cache.insert(2, 2);
    assert_eq!(f.cache.remaining_ttl(&1), Some(seconds(1)));
    f.clock.advance(seconds(1));
    assert!(!f.serves(1) && f.serves(2));
}

#[test]
fn hits_do_not_extend_an_idle_entry_past_its_ttl() {
    let f = Fixture::new(|builder| builder.time_to_idle(seconds(10)).time_to_live(seconds(25)));
    f.cache.insert(1, 1);
    f.cache.insert_with_ttl(2, 2, seconds(12));
    f.cache.insert_with_ttl(3, 3, Duration::MAX);
    let hit_all_after = |by| {
        f.clock.advance(seconds(by));
        [1, 2, 3].map(|key| {
            f.cache.get(&key);
            f.cache.remaining_ttl(&key).map(|left| left.as_secs())
        })
    };
    assert_eq!(hit_all_after(0), [Some(10), Some(10), Some(10)]);
    assert_eq!(hit_all_after(9), [Some(10), Some(3), Some(10)]);
    assert_eq!(hit_all_after(3), [Some(10), None, Some(10)]);
    assert_eq!(hit_all_after(6), [Some(7), None, Some(10)]);
    assert_eq!(hit_all_after(7), [None, None, Some(10)]);
    assert_eq!(hit_all_after(10), [None, None, None]);
}

#[test]
fn hit_extends_the_idle_time_only_by_more_than_a_64th() {
    let f = Fixture::with_idle(seconds(64));
    f.cache.insert(1, 1);
    f.clock.advance(seconds(1));
    f.cache.get(&1);
    assert_eq!(f.cache.remaining_ttl(&1), Some(seconds(63)));
    f.clock.advance(nanos(1));
    f.cache.get(&1);
    assert_eq!(f.cache.remaining_ttl(&1), Some(seconds(64)));
}

#[test]
fn entry_expires_between_63_64ths_of_the_idle_time_and_the_idle_time_after_its_last_hit() {
    let f = Fixture::with_idle(seconds(64));
    f.cache.insert(1, 1);
    for step in 0..2_000 {
        f.clock.advance(Duration::from_millis(step % 700));
        assert_eq!(f.cache.get(&1), Some(1));
        let left = f.cache.remaining_ttl(&1).unwrap();
        assert!((seconds(63)..=seconds(64)).contains(&left), "{left:?}");
    }
    f.clock.advance(nanos(62_999_999_999));
    assert!(f.cache.contains_key(&1));
    f.clock.advance(seconds(1));
    assert!(!f.cache.contains_key(&1));
    validate(&f.cache);
}

#[test]
fn resolution_of_the_idle_time_does_not_shorten_the_time_to_live() {
    let ttl = Duration::from_millis(64_500);
    let f = Fixture::new(|builder| builder.time_to_idle(seconds(64)).time_to_live(ttl));
    f.cache.insert(1, 1);
    f.clock.advance(Duration::from_millis(500));
    f.cache.get(&1);
    assert_eq!(f.cache.remaining_ttl(&1), Some(seconds(64)));
}

#[test]
fn hit_at_an_earlier_time_does_not_shorten_the_idle_time() {
    let f = Fixture::with_idle(seconds(10));
    f.clock.set(seconds(100));
    f.cache.insert(1, 1);
    f.clock.set(seconds(50));
    f.cache.get(&1);
    assert_eq!(f.cache.remaining_ttl(&1), Some(seconds(60)));
    validate(&f.cache);
}

#[test]
fn remove_expired_removes_all_expired_entries_and_no_others() {
    for shards in [1, 8] {
        let f = Fixture::new(|builder| builder.shards(shards));
        // There are more slots than a sweep visits while it holds the lock once, and a sweep is in progress.
        for key in 0..5_000 {
            f.cache.insert_with_ttl(key, key, seconds(1 + key % 3));
        }
        f.clock.set(seconds(1));
        (0..50).for_each(|_| f.cache.insert(0, 0));
        let mut expected: Vec<u64> = (1..5_000).filter(|key| key % 3 == 0).collect();
        let swept = f.cache.stats().expired;
        assert!(swept > 0);
        assert_eq!(
            f.cache.remove_expired() as u64,
            expected.len() as u64 + 1 - swept
        );
        assert_eq!(f.cache.remove_expired(), 0);
        expected.insert(0, 0);
        let mut notified = f.take_notified();
        notified.retain(|(_, _, cause)| *cause != RemovalCause::Replaced);
        assert!(
            notified
                .iter()
                .all(|(_, _, cause)| *cause == RemovalCause::Expired)
        );
        let mut notified: Vec<u64> = notified.into_iter().map(|(key, ..)| key).collect();
        notified.sort_unstable();
        assert_eq!(notified, expected);
        f.clock.set(seconds(3));
        assert_eq!(f.cache.remove_expired(), 3_333);
        assert_eq!(f.listed(), [(0, 0)]);
        validate(&f.cache);
    }
}

/// Inserts 1,000 entries that then expire, and `live` entries that do not. Returns the number of all.
fn expire_a_thousand(f: &Fixture, live: u64) -> u64 {
    (0..1_000).for_each(|key| f.cache.insert_with_ttl(key, key, seconds(1)));
    (1_000..1_000 + live).for_each(|key| f.cache.insert(key, key));
    f.clock.advance(seconds(1));
    1_000 + live
}

#[test]
fn insertions_remove_expired_entries() {
    let f = Fixture::plain();
    for _ in 0..3 {
        let slots = expire_a_thousand(&f, 1);
        for _ in 0..slots.div_ceil(8) {
            f.cache.insert(1_000, 1_000);
        }
        assert_eq!(f.cache.len(), 1);
        assert!(f.serves(1_000));
    }
    assert_eq!(f.cache.stats().expired, 3_000);
    validate(&f.cache);
}

#[test]
fn removals_remove_expired_entries_as_well() {
    let f = Fixture::plain();
    let slots = expire_a_thousand(&f, 200);
    for key in 1_000..1_000 + slots.div_ceil(8) {
        assert_eq!(f.cache.remove(&key), Some(key));
    }
    assert_eq!(f.cache.len(), 50);
    assert_eq!(f.cache.stats().expired, 1_000);
}

#[test]
fn every_removal_of_an_expired_entry_has_the_cause_expired() {
    let removals: [fn(&Fixture); 7] = [
        |f| f.cache.insert(1, 2),
        |f| f.cache.insert_with_ttl(1, 2, Duration::ZERO),
        |f| assert_eq!(f.cache.remove(&1), None),
        |f| assert_eq!(f.cache.update(&1, |_| None), None),
        |f| f.cache.clear(),
        |f| assert_eq!(f.load(1, 2), 2),
        |f| assert_eq!(f.cache.remove_expired(), 1),
    ];
    for remove in removals {
        let f = Fixture::plain();
        f.cache.insert_with_ttl(1, 1, seconds(1));
        f.clock.advance(seconds(1));
        remove(&f);
        assert_eq!(f.take_notified(), [(1, 1, RemovalCause::Expired)]);
        let stats = f.cache.stats();
        assert_eq!(stats.expired, 1);
        assert_eq!(stats.replaced + stats.removed + stats.cleared, 0);
    }
}

#[test]
fn expired_entries_are_removed_before_live_ones_are_evicted() {
    let f = Fixture::new(|builder| builder.capacity(20_000).shards(4));
    for key in 0..20_000 {
        if key % 20 == 7 {
            f.cache.insert_with_ttl(key, key, seconds(1));
        } else {
            f.cache.insert(key, key);
        }
    }
    f.take_notified();
    f.clock.advance(seconds(1));
    // These are fewer than the expired entries, so that each shard has enough expired entries for the new ones.
    for key in 20_000..20_500 {
        f.cache.insert(key, key);
    }
    let stats = f.cache.stats();
    assert_eq!(stats.evicted, 0, "{stats}");
    assert!(stats.expired >= 500, "{stats}");
    validate(&f.cache);
}

#[test]
fn entries_that_expire_together_are_removed_in_slices() {
    let f = Fixture::new(|builder| builder.capacity(10_000).shards(1));
    (0..10_000).for_each(|key| f.cache.insert_with_ttl(key, key, seconds(1)));
    f.clock.advance(seconds(1));
    let mut writes = 0;
    while f.cache.stats().expired < 10_000 {
        f.cache.insert(10_000 + writes, 0);
        writes += 1;
        let cleared = f.take_notified().len();
        assert!((1..=64).contains(&cleared), "{cleared} in one write");
    }
    assert!(writes < 200, "{writes} writes");
    assert_eq!(f.cache.stats().evicted, 0);
}

#[test]
fn cache_under_writes_contains_few_expired_entries() {
    // One entry each tick, with a time to live of 5,000 ticks or half of that.
    let f = Fixture::new(|builder| builder.capacity(10_000));
    let mut deadlines = std::collections::VecDeque::new();
    for tick in 0..40_000u64 {
        let ttl = if tick % 3 == 0 { 2_500 } else { 5_000 };
        f.cache.insert_with_ttl(tick, tick, nanos(ttl));
        deadlines.push_back(tick + ttl);
        f.clock.advance(nanos(1));
        if tick % 1_000 == 999 {
            deadlines.retain(|&deadline| deadline > tick + 1);
            let (len, live) = (f.cache.len(), deadlines.len());
            assert!(len <= live + live / 50, "{len} entries, {live} live");
        }
    }
    assert_eq!(f.cache.stats().evicted, 0);
}

#[test]
fn concurrent_reader_never_gets_a_value_past_its_deadline() {
    use hotset::Clock;

    let f = Fixture::plain();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for key in (0..16).cycle() {
                    let now = f.clock.now();
                    if let Some(deadline) = f.cache.get(&key) {
                        assert!(now < nanos(deadline), "{now:?} {deadline}");
                    }
                    if done.load(Relaxed) {
                        break;
                    }
                }
            });
        }
        // The thread that advances the clock knows the deadlines.
        for now in 0..20_000 {
            let ttl = 1 + now % 24;
            f.cache.insert_with_ttl(now % 16, now + ttl, nanos(ttl));
            f.clock.advance(nanos(1));
        }
        done.store(true, Relaxed);
    });
    validate(&f.cache);
}

#[test]
fn entry_expires_by_the_system_clock() {
    let cache: Cache = LocalCache::builder()
        .capacity(10)
        .time_to_live(Duration::from_millis(500))
        .build()
        .unwrap();
    let start = Instant::now();
    cache.insert(1, 1);
    cache.insert_with_ttl(2, 2, seconds(3_600));
    // On a busy machine it may have expired already.
    let left = cache.remaining_ttl(&1);
    assert!(left.is_none_or(|left| left <= Duration::from_millis(500)));
    until(|| !cache.contains_key(&1));
    // The clock of the cache is coarse, so the entry may expire a little early.
    assert!(start.elapsed() > Duration::from_millis(470));
    assert_eq!((cache.get(&1), cache.get(&2)), (None, Some(2)));
    assert_eq!(cache.remove_expired(), 1);
}

#[test]
fn entry_expires_by_a_ticking_clock_and_not_before_its_time_to_live() {
    const TTL: Duration = Duration::from_millis(30);
    let clock = SystemClock::ticking(Duration::from_millis(1));
    let builder = LocalCache::builder().capacity(10).time_to_live(TTL);
    let cache: LocalCache<u32, u32> = builder.clock(clock).build().unwrap();
    let began = Instant::now();
    cache.insert(1, 1);
    until(|| cache.get(&1).is_none());
    assert!(began.elapsed() >= TTL, "{:?}", began.elapsed());
}
