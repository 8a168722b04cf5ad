//! Tags: entries that share a tag are invalidated together, and an invalidated entry is never served again.

use crate::common::{Cache, Fixture, RUNTIME, WAYS, seconds};
use hotset::__private::validate;
use hotset::{Loaded, LocalCache, RemovalCause};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

fn tagged(value: u64, tags: &[&str]) -> Loaded<u64> {
    Loaded::new(value).tags(tags.iter().copied())
}

thread_local! {
    /// The number of times that this thread has hashed or compared a [`Counting`] key.
    static KEY_VISITS: Cell<u64> = const { Cell::new(0) };
}

#[derive(Eq)]
struct Counting(u32);

impl PartialEq for Counting {
    fn eq(&self, other: &Self) -> bool {
        KEY_VISITS.set(KEY_VISITS.get() + 1);
        self.0 == other.0
    }
}

impl Hash for Counting {
    fn hash<H: Hasher>(&self, state: &mut H) {
        KEY_VISITS.set(KEY_VISITS.get() + 1);
        self.0.hash(state);
    }
}

#[test]
fn invalidation_visits_no_entry_for_any_number_of_entries() {
    for entries in [10, 100_000] {
        let cache: LocalCache<Counting, u64> = LocalCache::builder()
            .unbounded()
            .on_removal(|_, _, _| panic!("an entry was visited"))
            .build()
            .unwrap();
        for key in 0..entries {
            let even_or_odd = if key % 2 == 0 { "even" } else { "odd" };
            cache.insert_loaded(Counting(key), tagged(0, &["all", even_or_odd]));
        }
        KEY_VISITS.set(0);
        let before = cache.stats();
        cache.invalidate_tag("odd");
        assert_eq!(KEY_VISITS.get(), 0);
        assert_eq!(cache.stats(), before);
        let live = (0..entries).filter(|&key| cache.contains_key(&Counting(key)));
        assert_eq!(live.count() as u64, u64::from(entries) / 2);
        assert_eq!(cache.len() as u64, u64::from(entries));
    }
}

#[test]
fn invalidated_entry_is_never_served_again() {
    let reads: [fn(&Fixture); 9] = [
        |f| assert_eq!(f.cache.get(&1), None),
        |f| assert_eq!(f.cache.get_with(&1, |value| *value), None),
        |f| assert!(!f.cache.contains_key(&1)),
        |f| assert_eq!(f.cache.remaining_ttl(&1), None),
        |f| assert_eq!(f.cache.iter().collect::<Vec<_>>(), [(2, 20)]),
        |f| {
            f.cache.retain(|&key, _| {
                assert_eq!(key, 2);
                true
            });
        },
        |f| assert_eq!(f.cache.remove(&1), None),
        |f| assert_eq!(f.cache.update(&1, |value| value.map(|_| 0)), None),
        |f| {
            let many = f.cache.get_many_or_load(&[1, 2], |missing| {
                assert_eq!(missing, [1]);
                Ok::<_, Infallible>([(1, 11)])
            });
            assert_eq!(many.unwrap(), [Some(11), Some(20)]);
        },
    ];
    for read in reads {
        for ttl in [Duration::MAX, seconds(100)] {
            let f = Fixture::new(|builder| builder);
            f.cache.insert_loaded(1, tagged(10, &["tag"]).ttl(ttl));
            f.cache.insert_loaded(2, tagged(20, &["other"]).ttl(ttl));
            f.cache.invalidate_tag("tag");
            read(&f);
            validate(&f.cache);
            for way in WAYS {
                f.cache.remove(&1);
                f.cache.insert_loaded(1, tagged(10, &["tag"]).ttl(ttl));
                f.cache.invalidate_tag("tag");
                assert_eq!(way.ask(&f.cache, 1, Ok(12)).unwrap(), 12);
            }
            assert_eq!(f.cache.get(&2), Some(20));
        }
    }
}

#[test]
fn entry_is_invalidated_by_any_of_its_tags_and_later_entries_are_served() {
    let cache = Cache::new(10);
    for tag in ["a", "b", "c", "a"] {
        // A name that is given twice counts once.
        cache.insert_loaded(1, tagged(10, &["a", "b"]).tags(["c", "a"]));
        cache.invalidate_tag("d");
        assert_eq!(cache.get(&1), Some(10));
        cache.invalidate_tag(tag);
        assert_eq!(cache.get(&1), None);
        cache.insert(1, 11);
        cache.invalidate_tag(tag);
        assert_eq!(cache.get(&1), Some(11), "it has no tags now");
    }
}

/// The cache keeps the `Arc` of a name as long as it knows the tag.
#[test]
fn tag_names_without_entries_are_removed() {
    let cache = Cache::new(10);
    let used: Arc<str> = "used".into();
    cache.insert_loaded(0, Loaded::new(0).tags([Arc::clone(&used)]));
    let names: Vec<Arc<str>> = (0..10_000).map(|n| format!("tag {n}").into()).collect();
    for (n, name) in names.iter().enumerate() {
        cache.insert_loaded(1, Loaded::new(1).tags([Arc::clone(name)]));
        if n % 2 == 0 {
            cache.invalidate_tag(name);
        }
    }
    let known = names.iter().filter(|name| Arc::strong_count(name) > 1);
    assert!(known.count() <= 128);
    for n in 0..10_000 {
        cache.invalidate_tag(&format!("never used {n}"));
    }
    assert_eq!(cache.get(&0), Some(0));
    cache.invalidate_tag("used");
    assert_eq!(cache.get(&0), None);
}

#[test]
fn remove_expired_removes_invalidated_entries() {
    for shards in [1, 8] {
        let f = Fixture::new(|builder| builder.capacity(100_000).shards(shards));
        for key in 0..5_000 {
            let tag = if key % 5 == 0 { "dead" } else { "live" };
            f.cache.insert_loaded(key, tagged(1, &[tag]));
        }
        assert_eq!(f.cache.remove_expired(), 0);
        f.cache.invalidate_tag("dead");
        f.cache.invalidate_tag("never used");
        assert_eq!(f.cache.len(), 5_000);
        assert_eq!(f.cache.remove_expired(), 1_000);
        assert_eq!(f.cache.remove_expired(), 0);
        let notified = f.take_notified();
        assert_eq!(notified.len(), 1_000);
        assert!(
            notified
                .iter()
                .all(|&(key, _, cause)| key % 5 == 0 && cause == RemovalCause::Invalidated)
        );
        let stats = f.cache.stats();
        assert_eq!((stats.invalidated, stats.expired), (1_000, 0));
        assert_eq!((f.cache.len(), f.cache.weight()), (4_000, 4_000));
        validate(&f.cache);
    }
}

#[test]
fn writes_remove_invalidated_entries() {
    let f = Fixture::new(|builder| builder);
    f.cache.insert(1_000, 0);
    for round in 1..4 {
        (0..800).for_each(|key| f.cache.insert_loaded(key, tagged(1, &["tag"])));
        f.cache.invalidate_tag("tag");
        (0..101).for_each(|_| f.cache.insert(1_000, 0));
        assert_eq!(f.cache.len(), 1);
        assert_eq!(f.cache.stats().invalidated, round * 800);
    }
    validate(&f.cache);
}

#[test]
fn weight_of_invalidated_entries_is_free_after_their_removal() {
    let builder = Cache::builder().max_weight(1_000).weigher(|_, &v| v);
    let cache = builder.shards(1).build().unwrap();
    (0..10).for_each(|key| cache.insert_loaded(key, tagged(90, &["tag"])));
    cache.invalidate_tag("tag");
    assert_eq!(cache.weight(), 900);
    // The insertion finds room.
    cache.insert(10, 1_000);
    assert_eq!((cache.weight(), cache.get(&10)), (1_000, Some(1_000)));
    assert_eq!(cache.stats().invalidated, 10);
    validate(&cache);
    cache.remove(&10);
    (0..10).for_each(|key| cache.insert_loaded(key, tagged(90, &["tag"]).weight(100)));
    cache.invalidate_tag("tag");
    assert_eq!(cache.remove_expired(), 10);
    assert!(cache.is_empty());
    validate(&cache);
}

#[test]
fn every_removal_of_an_invalidated_entry_has_the_cause_invalidated() {
    let removals: [fn(&Cache); 8] = [
        |cache| cache.insert(1, 2),
        |cache| cache.insert_with_ttl(1, 2, Duration::ZERO),
        |cache| assert_eq!(cache.remove(&1), None),
        |cache| assert_eq!(cache.update(&1, |_| None), None),
        Cache::clear,
        |cache| {
            let loaded = cache.get_or_load(&1, |_| Ok::<_, Infallible>(2));
            assert_eq!(loaded.unwrap(), 2);
        },
        |cache| assert_eq!(cache.remove_expired(), 1),
        |cache| cache.insert(2, 0),
    ];
    for remove in removals {
        let f = Fixture::new(|builder| builder.capacity(1));
        f.cache
            .insert_loaded(1, tagged(1, &["tag"]).ttl(seconds(1)));
        f.cache.invalidate_tag("tag");
        // It is past its deadline as well, but it was invalidated before that.
        f.clock.advance(seconds(1));
        remove(&f.cache);
        assert_eq!(f.take_notified(), [(1, 1, RemovalCause::Invalidated)]);
        let stats = f.cache.stats();
        assert_eq!(
            (stats.invalidated, stats.expired, stats.replaced),
            (1, 0, 0)
        );
        validate(&f.cache);
    }
}

#[derive(Debug, Clone)]
enum Op {
    /// An insertion. The tags are bits.
    Insert(u32, u8, Option<u64>),
    Load(u32, u8, Option<u64>),
    Get(u32),
    Remove(u32),
    Invalidate(u8),
    Advance(u64),
    Clear,
    EvictExpired,
}

fn op() -> impl Strategy<Value = Op> {
    let entry = || (0..12_u32, 0..16_u8, option::of(1..30_u64));
    prop_oneof![
        4 => entry().prop_map(|(key, tags, ttl)| Op::Insert(key, tags, ttl)),
        4 => entry().prop_map(|(key, tags, ttl)| Op::Load(key, tags, ttl)),
        3 => (0..12_u32).prop_map(Op::Get),
        2 => (0..12_u32).prop_map(Op::Remove),
        3 => (0..5_u8).prop_map(Op::Invalidate),
        2 => (1..10_u64).prop_map(Op::Advance),
        1 => Just(Op::Clear),
        1 => Just(Op::EvictExpired),
    ]
}

fn names(tags: u8) -> impl Iterator<Item = String> {
    (0..4).filter(move |bit| tags >> bit & 1 == 1).map(name)
}

fn name(bit: u8) -> String {
    format!("tag {bit}")
}

proptest! {
    #[test]
    fn random_operations_give_the_results_of_a_naive_cache_with_tags(ops in vec(op(), 1..200), shards in 1..3_usize) {
        let f = Fixture::new(|builder| builder.shards(shards));
        // The value, tags and deadline of each live entry.
        let mut model: BTreeMap<u32, (u64, u8, u64)> = BTreeMap::new();
        let mut now = 0;
        for (value, op) in (0..).zip(ops) {
            let loaded = |tags, ttl: Option<u64>| {
                let ttl = ttl.map_or(Duration::MAX, Duration::from_nanos);
                Loaded::new(value).tags(names(tags)).ttl(ttl)
            };
            let deadline = |ttl: Option<u64>| ttl.map_or(u64::MAX, |ttl| now + ttl);
            match op {
                Op::Insert(key, tags, ttl) => {
                    f.cache.insert_loaded(key, loaded(tags, ttl));
                    model.insert(key, (value, tags, deadline(ttl)));
                }
                Op::Load(key, tags, ttl) => {
                    let load = |_: &u32| Ok::<_, Infallible>(loaded(tags, ttl));
                    let expected = model.entry(key).or_insert((value, tags, deadline(ttl))).0;
                    prop_assert_eq!(f.cache.get_or_load_entry(&key, load).unwrap(), expected);
                }
                Op::Get(key) => {
                    prop_assert_eq!(f.cache.get(&key), model.get(&key).map(|value| value.0));
                }
                Op::Remove(key) => {
                    let removed = model.remove(&key).map(|value| value.0);
                    prop_assert_eq!(f.cache.remove(&key), removed);
                }
                Op::Invalidate(bit) => {
                    f.cache.invalidate_tag(&name(bit));
                    model.retain(|_, (_, tags, _)| *tags >> bit & 1 == 0);
                }
                Op::Advance(by) => {
                    now += by;
                    f.clock.advance(Duration::from_nanos(by));
                    model.retain(|_, (_, _, deadline)| now < *deadline);
                }
                Op::Clear => {
                    f.cache.clear();
                    model.clear();
                    prop_assert!(f.cache.is_empty());
                }
                Op::EvictExpired => {
                    f.cache.remove_expired();
                    prop_assert_eq!(f.cache.len(), model.len());
                }
            }
            let mut listed: Vec<_> = f.cache.iter().collect();
            listed.sort_unstable();
            let live = model.iter().map(|(&key, &(value, ..))| (key, value));
            prop_assert_eq!(listed, live.collect::<Vec<_>>());
            validate(&f.cache);
        }
    }
}

/// Writers change a database and then invalidate a tag of one row or of two. After that, no reader through the cache
/// finds a value from before the change.
#[test]
fn concurrent_reader_never_finds_a_value_older_than_the_last_invalidation_of_its_tag() {
    const ROW_TAGS: [&str; 4] = ["row 0", "row 1", "row 2", "row 3"];
    const PAIR_TAGS: [&str; 2] = ["rows 0 and 2", "rows 1 and 3"];
    let cache = Cache::builder().capacity(64).shards(2).build().unwrap();
    let database: [AtomicU64; 4] = Default::default();
    let invalidated: [AtomicU64; 4] = Default::default();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for reader in 0..4_usize {
            let (cache, database, invalidated, done) = (&cache, &database, &invalidated, &done);
            scope.spawn(move || {
                let mut at = reader;
                while !done.load(SeqCst) {
                    at = (at + 1) % 4;
                    let oldest_allowed = invalidated[at].load(SeqCst);
                    let key = u32::try_from(at).unwrap();
                    let tags = [ROW_TAGS[at], PAIR_TAGS[at % 2]];
                    let row = || tagged(database[at].load(SeqCst), &tags);
                    let value = match (reader, at) {
                        (0 | 1, _) => cache.get_or_load_entry(&key, |_| Ok::<_, Infallible>(row())),
                        (2, _) => {
                            let load = async |_| {
                                let row = row();
                                tokio::task::yield_now().await;
                                Ok::<_, Infallible>(row)
                            };
                            RUNTIME.block_on(cache.get_or_load_entry_async(&key, load))
                        }
                        _ => {
                            let load = |_| Ok::<_, Infallible>([(key, row())]);
                            let found = cache.get_many_or_load_entries(&[key], load);
                            found.map(|values| values[0].unwrap())
                        }
                    };
                    let value = value.unwrap();
                    assert!(value >= oldest_allowed, "{value} after {oldest_allowed}");
                }
            });
        }
        let writers = (0..2_usize).map(|writer| {
            let (cache, database, invalidated) = (&cache, &database, &invalidated);
            // Each writer has two rows of its own.
            let change = move |at: usize| database[at].fetch_add(1, SeqCst) + 1;
            scope.spawn(move || {
                for step in 0..5_000 {
                    let (one, two) = (writer, writer + 2);
                    if step % 3 == 0 {
                        let versions = [change(one), change(two)];
                        cache.invalidate_tag(PAIR_TAGS[writer]);
                        invalidated[one].store(versions[0], SeqCst);
                        invalidated[two].store(versions[1], SeqCst);
                    } else {
                        let at = if step % 3 == 1 { one } else { two };
                        let version = change(at);
                        cache.invalidate_tag(ROW_TAGS[at]);
                        invalidated[at].store(version, SeqCst);
                    }
                }
            })
        });
        for writer in writers.collect::<Vec<_>>() {
            writer.join().unwrap();
        }
        done.store(true, SeqCst);
    });
    validate(&cache);
}
