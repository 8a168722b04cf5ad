//! The cache for tests that fails, hangs or is slow on command.

use hotset::testing::{Fault, TestCache};
use hotset::{Cache, LoadError, Loaded, Propagation, WarmOutcome};
use std::io;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

type TestedCache = TestCache<u32, u32>;

#[test]
fn working_cache_has_the_operations_of_a_cache() {
    let cache = TestedCache::new();
    let load = |&key: &u32| Ok::<_, io::Error>(key * 10);
    assert_eq!(Cache::get_or_load(&cache, &1, load).unwrap(), 10);
    Cache::insert_loaded(&cache, 2, Loaded::new(20).tags(["even"]));
    let found = Cache::get_many_or_load(&cache, &[1, 2, 3], |missing| {
        assert_eq!(missing, [3]);
        Ok::<_, io::Error>([(3, 30)])
    });
    assert_eq!(found.unwrap(), [Some(10), Some(20), Some(30)]);
    assert_eq!(Cache::remaining_ttl(&cache, &1), Some(Duration::MAX));
    Cache::invalidate_tag(&cache, "even");
    assert!(!Cache::contains_key(&cache, &2));
    let written = Cache::write_through(&cache, 1, 40, |_| Ok::<_, io::Error>(()));
    assert_eq!(written.unwrap(), Propagation::Acknowledged);
    assert_eq!(Cache::get(&cache, &1), Some(40));
    Cache::invalidate(&cache, &1);
    assert_eq!(Cache::get(&cache, &1), None);
    Cache::clear(&cache);
    assert!(cache.inner().is_empty());
}

#[test]
fn failing_cache_finds_and_changes_nothing() {
    let cache = TestedCache::new();
    cache.inner().insert(1, 10);
    cache.set_fault(Fault::Fail);
    assert_eq!(Cache::get(&cache, &1), None);
    assert_eq!(Cache::get_many(&cache, &[1, 2]), [None, None]);
    assert!(!Cache::contains_key(&cache, &1));
    assert_eq!(Cache::remaining_ttl(&cache, &1), None);
    let changes = [
        Cache::insert(&cache, 2, 20),
        Cache::invalidate(&cache, &1),
        Cache::invalidate_tag(&cache, "tag"),
        Cache::clear(&cache),
        Cache::write_through(&cache, 1, 30, |_| Ok::<_, io::Error>(())).unwrap(),
    ];
    assert!(changes.iter().all(|it| *it == Propagation::Queued));
    let failed = Cache::write_through(&cache, 1, 30, |_| Err("down"));
    assert_eq!(failed, Err("down"));
    let result = Cache::get_or_load(&cache, &1, |_| -> io::Result<u32> { unreachable!() });
    assert!(matches!(result, Err(LoadError::WaitTimeout)));
    let result =
        Cache::get_many_or_load(&cache, &[1], |_| -> io::Result<[_; 0]> { unreachable!() });
    assert!(matches!(result, Err(LoadError::WaitTimeout)));
    let warming = Cache::warm(&cache, [2], |_| -> io::Result<[(u32, u32); 0]> {
        unreachable!()
    });
    assert_eq!(warming.end, WarmOutcome::NotProven);
    Cache::flush(&cache);
    cache.set_fault(Fault::None);
    assert_eq!(Cache::get(&cache, &1), Some(10));
    assert_eq!(cache.inner().len(), 1);
    let rows = |missing: Vec<u32>| Ok::<_, io::Error>(missing.into_iter().map(|key| (key, key)));
    assert_eq!(Cache::warm(&cache, 0..10, rows).found, 10);
}

#[test]
fn thread_hangs_until_the_fault_is_changed() {
    let cache = TestedCache::new();
    cache.inner().insert(1, 10);
    cache.set_fault(Fault::Hang);
    let (sender, found) = mpsc::channel();
    let reader = cache.clone();
    let thread = thread::spawn(move || sender.send(Cache::get(&reader, &1)));
    assert!(found.recv_timeout(Duration::from_millis(20)).is_err());
    cache.set_fault(Fault::None);
    assert_eq!(found.recv().unwrap(), Some(10));
    thread.join().unwrap().unwrap();
}

#[test]
fn slow_cache_delays_a_thread() {
    let cache = TestedCache::new();
    let delay = Duration::from_millis(10);
    cache.set_fault(Fault::Delay(delay));
    let begun = std::time::Instant::now();
    Cache::insert(&cache, 1, 10);
    assert!(begun.elapsed() >= delay);
    assert_eq!(cache.inner().get(&1), Some(10));
}

#[cfg(feature = "tokio")]
mod tasks {
    use super::*;
    use hotset::AsyncCache;
    use tokio::time::{Instant, timeout};

    #[tokio::test(start_paused = true)]
    async fn task_hangs_until_the_fault_is_changed() {
        let cache = TestedCache::new();
        cache.inner().insert(1, 10);
        cache.set_fault(Fault::Hang);
        let mut get = std::pin::pin!(AsyncCache::get(&cache, &1));
        let day = Duration::from_secs(86_400);
        assert!(timeout(day, &mut get).await.is_err());
        cache.set_fault(Fault::None);
        assert_eq!(get.await, Some(10));
    }

    #[tokio::test(start_paused = true)]
    async fn slow_cache_delays_a_task() {
        let cache = TestedCache::new();
        let (delay, begun) = (Duration::from_secs(5), Instant::now());
        cache.set_fault(Fault::Delay(delay));
        let load = |key| async move { Ok::<_, io::Error>(key * 10) };
        let loaded = AsyncCache::get_or_load_async(&cache, &1, load).await;
        assert_eq!(loaded.unwrap(), 10);
        assert_eq!(begun.elapsed(), delay);
    }

    #[tokio::test(start_paused = true)]
    async fn endless_delay_ends_when_the_fault_is_changed() {
        let cache = TestedCache::new();
        cache.inner().insert(1, 10);
        cache.set_fault(Fault::Delay(Duration::MAX));
        let mut get = std::pin::pin!(AsyncCache::get(&cache, &1));
        assert!(timeout(Duration::from_secs(1), &mut get).await.is_err());
        cache.set_fault(Fault::None);
        assert_eq!(get.await, Some(10));
    }

    #[tokio::test]
    async fn failing_cache_returns_an_error_to_tasks() {
        let cache = TestedCache::new();
        cache.set_fault(Fault::Fail);
        let load = |_| async { Err::<u32, _>("not called") };
        let result = AsyncCache::get_or_load_async(&cache, &1, load).await;
        assert!(matches!(result, Err(LoadError::WaitTimeout)));
        let changes = [
            AsyncCache::insert(&cache, 1, 10).await,
            AsyncCache::invalidate(&cache, &1).await,
            AsyncCache::invalidate_tag(&cache, "tag").await,
            AsyncCache::clear(&cache).await,
        ];
        assert!(changes.iter().all(|it| *it == Propagation::Queued));
        let write = |value| async move { if value == 10 { Ok(()) } else { Err("down") } };
        let written = AsyncCache::write_through(&cache, 1, 10, write).await;
        assert_eq!(written, Ok(Propagation::Queued));
        let failed = AsyncCache::write_through(&cache, 1, 20, write).await;
        assert_eq!(failed, Err("down"));
        let rows = |missing: Vec<u32>| async {
            Ok::<_, io::Error>(missing.into_iter().map(|key| (key, key)))
        };
        let warming = cache.warm_async(0..10, rows).await;
        assert_eq!((warming.end, warming.found), (WarmOutcome::NotProven, 0));
        AsyncCache::flush(&cache).await;
        assert_eq!(AsyncCache::get(&cache, &1).await, None);
        assert_eq!(AsyncCache::get_many(&cache, &[1, 2]).await, [None, None]);
        assert!(cache.inner().is_empty());
        cache.set_fault(Fault::None);
        assert_eq!(cache.warm_async(0..10, rows).await.found, 10);
        assert_eq!(
            AsyncCache::get_many(&cache, &[3, 30]).await,
            [Some(3), None]
        );
    }
}
