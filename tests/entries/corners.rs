//! Regression tests of combined features: refreshes, tags, batches, permits and failures.

use crate::common::{let_others_run, until};
use hotset::{Compute, Loaded, LocalCache, LocalCacheBuilder, ManualClock};
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Barrier, Mutex, mpsc};
use std::thread;
use std::time::Duration;

type Cache = LocalCache<u32, u64>;

/// Builds a cache with an entry that is due for a refresh, and returns it with its clock.
fn cache_with_entry_to_refresh(
    set_up: impl FnOnce(LocalCacheBuilder<u32, u64>) -> LocalCacheBuilder<u32, u64>,
) -> (Cache, ManualClock) {
    let clock = ManualClock::new();
    let builder = LocalCache::builder().capacity(10).clock(clock.clone());
    let cache = set_up(builder.refresh_after(seconds(10))).build().unwrap();
    cache.insert(1, 1);
    clock.set(seconds(10));
    (cache, clock)
}

const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// This also holds without `stale_if_error`.
#[test]
fn failed_refresh_is_tried_again_after_a_second() {
    let (cache, clock) = cache_with_entry_to_refresh(|builder| builder.time_to_live(seconds(100)));
    assert_eq!(cache.get_or_load(&1, |_| Err::<u64, _>("no")).unwrap(), 1);
    clock.advance(seconds(1));
    assert_eq!(cache.get_or_load(&1, |_| Ok::<_, &str>(2)).unwrap(), 2);
}

/// If no permit is free, a refresh is delayed for less than a lease, which never ends here.
#[test]
fn refresh_that_found_no_permit_is_tried_again() {
    let (cache, clock) = cache_with_entry_to_refresh(|builder| {
        builder
            .time_to_live(seconds(1_000_000))
            .max_concurrent_loads(1)
            .lease(Duration::MAX)
    });
    cache
        .get_or_load(&2, |_| {
            let request = || cache.get_or_load(&1, |_| Ok::<_, Infallible>(2)).unwrap();
            assert_eq!(
                thread::scope(|scope| scope.spawn(request).join().unwrap()),
                1
            );
            Ok::<_, Infallible>(0)
        })
        .unwrap();
    clock.set(seconds(100_000));
    assert_eq!(
        cache.get_or_load(&1, |_| Ok::<_, Infallible>(2)).unwrap(),
        2
    );
}

#[test]
fn panicked_refresh_is_tried_again_whatever_the_lease_is() {
    let (cache, clock) = cache_with_entry_to_refresh(|builder| builder.lease(Duration::MAX));
    let panic = || -> Result<u64, Infallible> { std::panic::resume_unwind(Box::new("panic")) };
    let load = std::panic::AssertUnwindSafe(|| cache.get_or_load(&1, |_| panic()));
    assert!(std::panic::catch_unwind(load).is_err());
    clock.set(seconds(100_000));
    assert_eq!(
        cache.get_or_load(&1, |_| Ok::<_, Infallible>(2)).unwrap(),
        2
    );
}

/// An invalidation of a tag is not a write to the key, but `change` is called again nevertheless.
#[test]
fn update_does_not_store_a_value_computed_from_an_invalidated_one() {
    let cache = Cache::new(10);
    cache.insert_loaded(1, Loaded::new(10).tags(["t"]));
    let mut invalidated = false;
    cache.update(&1, |current| {
        if !std::mem::replace(&mut invalidated, true) {
            cache.invalidate_tag("t");
        }
        current.map(|value| value + 1)
    });
    assert_eq!(cache.get(&1), None);
}

/// The entry is removed as one step with the decision to remove it, so that decision is made again too.
#[test]
fn update_decides_again_on_a_removal_if_the_value_dies_meanwhile() {
    let deaths: [fn(&Cache, &ManualClock); 2] = [
        |cache, _| cache.invalidate_tag("t"),
        |_, clock| clock.set(seconds(5)),
    ];
    for die in deaths {
        let clock = ManualClock::new();
        let builder = LocalCache::builder().capacity(10).clock(clock.clone());
        let cache: Cache = builder.build().unwrap();
        cache.insert_loaded(1, Loaded::new(10).tags(["t"]).ttl(seconds(5)));
        let mut seen = Vec::new();
        let updated = cache.update(&1, |current| {
            seen.push(current.copied());
            if seen.len() == 1 {
                die(&cache, &clock);
                return None;
            }
            Some(11)
        });
        assert_eq!(seen, [Some(10), None]);
        assert_eq!((updated, cache.get(&1)), (Some(11), Some(11)));
    }
}

/// The load begins after the invalidation, and nothing is written after that.
#[test]
fn update_that_finds_its_value_invalidated_revokes_no_load() {
    for change in [Compute::Put(11), Compute::Remove] {
        let cache = Cache::new(10);
        cache.insert_loaded(1, Loaded::new(10).tags(["t"]));
        let (start, started) = mpsc::channel();
        let (release, released) = mpsc::channel();
        let load = move |_: &u32| {
            start.send(()).unwrap();
            released.recv().unwrap();
            Ok::<_, Infallible>(20)
        };
        let mut load = Some(load);
        thread::scope(|scope| {
            let kept = cache.compute(&1, |_| {
                let Some(load) = load.take() else {
                    return Compute::Keep;
                };
                cache.invalidate_tag("t");
                let cache = &cache;
                scope.spawn(move || cache.get_or_load(&1, load).unwrap());
                started.recv().unwrap();
                change
            });
            assert_eq!(kept, None);
            release.send(()).unwrap();
        });
        assert_eq!(cache.get(&1), Some(20), "{change:?}");
    }
}

#[test]
fn update_keeps_the_tags() {
    let cache = Cache::new(10);
    cache.insert_loaded(1, Loaded::new(10).tags(["t"]));
    cache.update(&1, |current| current.map(|value| value + 1));
    cache.invalidate_tag("t");
    assert_eq!(cache.get(&1), None);
}

/// A write sweeps a few blocks of slots. If every invalidation restarted the sweep, it would never get further than
/// these.
#[test]
fn sweep_completes_while_tags_are_invalidated_continuously() {
    let clock = ManualClock::new();
    let cache: Cache = LocalCache::builder()
        .unbounded()
        .shards(1)
        .clock(clock.clone())
        .build()
        .unwrap();
    (0..100).for_each(|key| cache.insert_loaded(key, Loaded::new(0).tags(["live"])));
    (100..1_000).for_each(|key| cache.insert_with_ttl(key, 0, seconds(1)));
    clock.set(seconds(2));
    for n in 0..10_000 {
        cache.invalidate_tag(&format!("user {n}"));
        cache.insert(0, 0);
    }
    assert_eq!(cache.len(), 100);
}

/// The entry is stored behind the position of a sweep that has seen the invalidation already. The weigher invalidates
/// the tag at the right moment.
#[test]
fn entry_invalidated_just_before_it_was_stored_is_removed() {
    let handle: Arc<Mutex<Option<Cache>>> = Arc::default();
    let weigher = {
        let handle = Arc::clone(&handle);
        move |_: &u32, &value: &u64| {
            if value == 13 {
                // Taken, because a cache that its own weigher refers to would never be dropped.
                let cache = handle.lock().unwrap().take();
                cache.expect("to be weighed once").invalidate_tag("t");
            }
            1
        }
    };
    let cache: Cache = LocalCache::builder()
        .max_weight(100)
        .weigher(weigher)
        .shards(1)
        .build()
        .unwrap();
    *handle.lock().unwrap() = Some(cache.clone());
    cache.insert_loaded(1, Loaded::new(1).tags(["other"]));
    cache.insert_loaded(2, Loaded::new(13).tags(["t"]));
    assert_eq!(cache.get(&2), None);
    cache.remove_expired();
    assert_eq!(cache.len(), 1);
}

/// A value whose next clone waits if it is armed.
struct Slow {
    armed: Arc<AtomicBool>,
    clones: mpsc::SyncSender<()>,
    resume: Arc<Barrier>,
}

impl Clone for Slow {
    fn clone(&self) -> Self {
        if self.armed.swap(false, SeqCst) {
            self.clones.send(()).unwrap();
            self.resume.wait();
        }
        Self {
            armed: Arc::clone(&self.armed),
            clones: self.clones.clone(),
            resume: Arc::clone(&self.resume),
        }
    }
}

/// The leader of a load that replaced another load reads a stale value. Then its tag is invalidated, and a further
/// caller waits, because that load is not replaced again.
#[test]
fn stale_value_is_not_served_to_a_caller_that_came_after_its_tag_was_invalidated() {
    let clock = ManualClock::new();
    let cache: LocalCache<u32, Slow> = LocalCache::builder()
        .capacity(10)
        .stale_if_error(seconds(100))
        .clock(clock.clone())
        .build()
        .unwrap();
    let (clones, cloning) = mpsc::sync_channel(1);
    let slow = Slow {
        armed: Arc::default(),
        clones,
        resume: Arc::new(Barrier::new(2)),
    };
    let (armed, resume) = (Arc::clone(&slow.armed), Arc::clone(&slow.resume));
    cache.insert_loaded(1, Loaded::new(slow).tags(["t"]).ttl(seconds(1)));
    clock.set(seconds(1));
    let barrier = Barrier::new(2);
    let loads = AtomicU32::new(0);
    thread::scope(|scope| {
        let first = scope.spawn(|| {
            let load = |_: &u32| {
                barrier.wait();
                barrier.wait();
                Err::<Slow, _>("no")
            };
            drop(cache.get_or_load(&1, load));
        });
        barrier.wait();
        cache.invalidate_tag("another");
        let second = scope.spawn(|| {
            let load = |_: &u32| {
                armed.store(true, SeqCst);
                Err::<Slow, _>("no")
            };
            drop(cache.get_or_load(&1, load));
        });
        cloning.recv().unwrap();
        cache.invalidate_tag("t");
        let third = scope.spawn(|| {
            let load = |_: &u32| {
                loads.fetch_add(1, SeqCst);
                Err::<Slow, _>("no")
            };
            cache.get_or_load(&1, load).is_ok()
        });
        until(|| cache.stats().misses >= 3);
        let_others_run();
        resume.wait();
        let served = third.join().unwrap();
        barrier.wait();
        first.join().unwrap();
        second.join().unwrap();
        assert!(!served, "the caller got the invalidated value");
        assert_eq!(loads.load(SeqCst), 1);
    });
}

/// `Stats::stale` counts callers that were served an expired value. This one is served a live value.
#[test]
fn live_value_served_after_a_failed_refresh_is_not_counted_as_stale() {
    let (cache, _clock) = cache_with_entry_to_refresh(|builder| {
        builder
            .time_to_live(seconds(100))
            .stale_if_error(seconds(100))
    });
    assert_eq!(cache.get_or_load(&1, |_| Err::<u64, _>("no")).unwrap(), 1);
    assert_eq!(cache.stats().stale, 0);
}

/// The iterator runs within the permit and the loads of the batch, so its own loads do not wait for them.
#[test]
fn iterator_returned_by_a_batch_loader_is_part_of_the_load() {
    let cache: Cache = LocalCache::builder()
        .capacity(10)
        .max_concurrent_loads(1)
        .wait_timeout(Duration::from_millis(100))
        .build()
        .unwrap();
    let found = cache.get_many_or_load(&[1], |missing| {
        let cache = &cache;
        Ok::<_, Infallible>(missing.into_iter().map(move |key| {
            let other = cache.get_or_load(&9, |_| Ok::<_, Infallible>(90));
            (
                key,
                other.expect("the load is within the permit of the batch"),
            )
        }))
    });
    assert_eq!(found.unwrap(), [Some(90)]);
}

/// Otherwise the innermost load would wait for the permit of the outermost one.
#[cfg(feature = "tokio")]
#[tokio::test]
async fn detached_load_within_a_load_uses_its_permit() {
    let cache: Cache = LocalCache::builder()
        .capacity(10)
        .max_concurrent_loads(1)
        .wait_timeout(Duration::from_millis(100))
        .build()
        .unwrap();
    let (outer, inner) = (cache.clone(), cache.clone());
    let three = move |_| async move {
        let load = |_| async { Ok::<_, &str>(3) };
        let three = inner.get_or_load_async(&3, load).await;
        three.map_err(|_| "no permit for the innermost")
    };
    let two = || async { outer.detached().get_or_load_async(&2, three).await };
    let found = cache
        .get_or_load_async(&1, |_| async {
            two().await.map_err(|error| *error.as_inner().unwrap())
        })
        .await;
    assert_eq!(found.unwrap(), 3);
}
