//! A hit returns the value. It waits neither for a load nor for a write to another shard.

use super::common::*;
use hotset::__private::validate;
use hotset::{LoadError, LocalCache, ManualClock};
use std::cell::RefCell;
use std::convert::Infallible;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// Returns a cache with one shard, so that the loaded entry is in the same shard as the hit entry.
fn one_shard() -> Cache {
    let cache = Cache::builder().capacity(10).shards(1).build().unwrap();
    cache.insert(1, 5);
    cache
}

fn must_hit(cache: &Cache) {
    let load = || Err::<u32, _>("the loader was called");
    assert_eq!(cache.get(&1), Some(5));
    assert_eq!(cache.get_or_load(&1, |_| load()).unwrap(), 5);
    assert_eq!(Task::ask(cache, 1, load).answer().unwrap(), 5);
}

#[test]
fn hit_does_not_wait_for_a_thread_that_loads_another_key() {
    let cache = one_shard();
    thread::scope(|scope| {
        let loading = LoadingThread::<Infallible>::start(scope, &cache, 2);
        must_hit(&cache);
        assert_eq!(loading.finish(Ok(6)).unwrap(), 6);
    });
    validate(&cache);
}

#[test]
fn hit_does_not_wait_for_a_task_that_loads_another_key() {
    let cache = one_shard();
    let loading = LoadingTask::<Infallible>::start(&cache, 2);
    must_hit(&cache);
    assert_eq!(loading.finish(Ok(6)).unwrap(), 6);
    validate(&cache);
}

#[test]
fn threads_and_tasks_hit_while_threads_and_tasks_load_other_keys() {
    let cache = one_shard();
    let runtime = runtime();
    thread::scope(|scope| {
        let by_thread = LoadingThread::<Infallible>::start(scope, &cache, 2);
        let by_task = LoadingTask::<Infallible>::start(&cache, 3);
        let threads = [(); 4].map(|()| scope.spawn(|| must_hit(&cache)));
        let tasks = Tasks::spawn(&runtime, 16, || {
            let cache = cache.clone();
            async move { must_hit(&cache) }
        });
        let [(), (), (), ()] = threads.map(|thread| thread.join().unwrap());
        tasks.answers();
        assert_eq!(by_thread.finish(Ok(6)).unwrap(), 6);
        assert_eq!(by_task.finish(Ok(7)).unwrap(), 7);
    });
    assert_eq!(cache.stats().loads, 2);
    validate(&cache);
}

/// Returns a cache in which key 1 is due for a refresh.
fn due_for_refresh() -> Cache {
    let clock = ManualClock::new();
    let cache = Cache::builder()
        .capacity(10)
        .refresh_after(Duration::from_secs(1))
        .lease(Duration::MAX)
        .clock(clock.clone())
        .build()
        .unwrap();
    cache.insert(1, 5);
    clock.advance(Duration::from_secs(2));
    cache
}

#[test]
fn hit_does_not_wait_for_the_thread_that_refreshes_the_entry() {
    let cache = due_for_refresh();
    thread::scope(|scope| {
        let refreshing = LoadingThread::<&str>::start(scope, &cache, 1);
        must_hit(&cache);
        assert_eq!(refreshing.finish(Ok(6)).unwrap(), 6);
    });
    assert_eq!(cache.get(&1), Some(6));
    validate(&cache);
}

#[test]
fn hit_does_not_wait_for_the_task_that_refreshes_the_entry() {
    let cache = due_for_refresh();
    let refreshing = LoadingTask::<&str>::start(&cache, 1);
    must_hit(&cache);
    // A refresh that is dropped or fails removes nothing.
    drop(refreshing);
    must_hit(&cache);
    let cache = due_for_refresh();
    let refreshing = LoadingTask::<&str>::start(&cache, 1);
    assert_eq!(refreshing.finish(Err("refused")).unwrap(), 5);
    must_hit(&cache);
    validate(&cache);
}

thread_local! {
    /// The channels by which this thread reports its first comparison of keys, and then waits.
    static PAUSE: RefCell<Option<(mpsc::Sender<()>, mpsc::Receiver<()>)>> =
        const { RefCell::new(None) };
}

/// Even keys are in one of two shards, odd keys in the other. All keys of a shard have one hash, so that a writer
/// compares them under its lock.
#[derive(Clone)]
struct Parity(u32);

impl Hash for Parity {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        hasher.write_u32(self.0 % 2);
    }
}

impl PartialEq for Parity {
    fn eq(&self, other: &Self) -> bool {
        if let Some((reached, go_on)) = PAUSE.take() {
            reached.send(()).unwrap();
            go_on.recv_timeout(TEST_TIMEOUT).unwrap();
        }
        self.0 == other.0
    }
}

impl Eq for Parity {}

#[derive(Default)]
struct ByShard(u64);

impl Hasher for ByShard {
    fn write(&mut self, _: &[u8]) {
        unreachable!("keys write a u32");
    }

    fn write_u32(&mut self, shard: u32) {
        self.0 = u64::from(shard);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[test]
fn hit_does_not_wait_for_a_writer_of_another_shard() {
    let cache = LocalCache::builder()
        .capacity(100)
        .shards(2)
        .hasher(BuildHasherDefault::<ByShard>::default())
        .build()
        .unwrap();
    cache.insert(Parity(0), 0);
    cache.insert(Parity(1), 1);
    let written = AtomicBool::new(false);
    let (reached, is_reached) = mpsc::channel();
    let (go_on, goes_on) = mpsc::channel();
    thread::scope(|scope| {
        scope.spawn(|| {
            PAUSE.set(Some((reached, goes_on)));
            cache.insert(Parity(2), 2);
            written.store(true, SeqCst);
        });
        is_reached.recv_timeout(TEST_TIMEOUT).unwrap();
        let key = Parity(1);
        let never = || -> Result<u32, Infallible> { panic!("the loader was called") };
        assert_eq!(cache.get(&key), Some(1));
        assert_eq!(cache.get_or_load(&key, |_| never()).unwrap(), 1);
        let load = |_| std::future::ready(never());
        let mut task = Task::new(cache.get_or_load_async(&key, load));
        assert_eq!(task.answer().unwrap(), 1);
        // A load in the same shard as the hit does not wait either.
        let load = |_: &Parity| Ok::<_, Infallible>(3);
        let loaded: Result<u32, LoadError<_>> = cache.get_or_load(&Parity(3), load);
        assert_eq!(loaded.unwrap(), 3);
        assert!(!written.load(SeqCst));
        go_on.send(()).unwrap();
    });
    assert_eq!(cache.get(&Parity(2)), Some(2));
    validate(&cache);
}
