//! Batches that are dropped, panic or hang while other batches wait for the same keys. Each waiting batch loads the
//! keys that it takes over with one call of its loader.

use crate::common::{let_others_run, until};
use hotset::__private::validate;
use hotset::LocalCache;
use std::collections::HashMap;
use std::convert::Infallible;
use std::future::{Future, pending};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

type Cache = LocalCache<u32, u32>;
type Values = Vec<Option<u32>>;

const KEYS: u32 = 500;
/// A lease whose end a test awaits.
const LEASE: Duration = Duration::from_millis(700);

fn cache_with_endless_lease() -> Cache {
    cache_with_lease(Duration::MAX)
}

fn cache_with_lease(lease: Duration) -> Cache {
    let builder = Cache::builder().capacity(2_000);
    builder.lease(lease).build().unwrap()
}

fn all() -> Vec<u32> {
    (0..KEYS).collect()
}

fn tenfold(keys: &[u32]) -> Values {
    keys.iter().map(|key| Some(key * 10)).collect()
}

/// The keys of each call of a loader.
#[derive(Clone, Default)]
struct Calls(Arc<Mutex<Vec<Vec<u32>>>>);

impl Calls {
    fn load(&self, keys: Vec<u32>) -> Vec<(u32, u32)> {
        let pairs = keys.iter().map(|&key| (key, key * 10)).collect();
        self.0.lock().unwrap().push(keys);
        pairs
    }

    fn take(&self) -> Vec<Vec<u32>> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

type Batch = Pin<Box<dyn Future<Output = Values> + Send>>;

fn poll(batch: &mut Batch) -> Poll<Values> {
    batch.as_mut().poll(&mut Context::from_waker(Waker::noop()))
}

fn answer(batch: &mut Batch) -> Values {
    match poll(batch) {
        Poll::Ready(values) => values,
        Poll::Pending => panic!("it has no answer yet"),
    }
}

/// Returns a batch whose loader hangs. It loads those of its keys that no other call loads, and waits for the others.
fn hanging(cache: &Cache, keys: Vec<u32>) -> Batch {
    let cache = cache.clone();
    let mut batch: Batch = Box::pin(async move {
        let load = |_| pending::<Result<HashMap<u32, u32>, Infallible>>();
        cache.get_many_or_load_async(&keys, load).await.unwrap()
    });
    assert!(poll(&mut batch).is_pending());
    batch
}

fn asking(cache: &Cache, keys: Vec<u32>, calls: &Calls) -> Batch {
    let (cache, calls) = (cache.clone(), calls.clone());
    Box::pin(async move {
        let load = async |missing| Ok::<_, Infallible>(calls.load(missing));
        cache.get_many_or_load_async(&keys, load).await.unwrap()
    })
}

/// Returns a batch that waits for other batches for all of its keys.
fn waiting(cache: &Cache, keys: Vec<u32>, calls: &Calls) -> Batch {
    let mut batch = asking(cache, keys, calls);
    assert!(poll(&mut batch).is_pending());
    batch
}

fn outlast_the_lease() {
    let start = Instant::now();
    until(|| start.elapsed() > LEASE);
}

/// A batch of all keys whose loader hangs, and the calls of the loaders of other batches.
struct Scene {
    cache: Cache,
    calls: Calls,
    lost: Batch,
}

impl Scene {
    fn new(cache: Cache) -> Self {
        let lost = hanging(&cache, all());
        let calls = Calls::default();
        Self { cache, calls, lost }
    }

    fn waiting(&self, keys: Vec<u32>) -> Batch {
        waiting(&self.cache, keys, &self.calls)
    }

    /// Checks that another batch of all keys has found their values by one call of its loader.
    fn loaded_by_one_call(self, found: &Values) {
        assert_eq!(*found, tenfold(&all()));
        assert_eq!(self.calls.take(), [all()]);
        assert_eq!(self.cache.stats().loads, 2);
        drop(self.lost);
        validate(&self.cache);
    }
}

#[test]
fn batch_dropped_while_another_waits_is_loaded_again_by_one_call() {
    let bounded = Cache::builder().capacity(2_000).max_concurrent_loads(1);
    for cache in [cache_with_endless_lease(), bounded.build().unwrap()] {
        let mut scene = Scene::new(cache);
        let mut other = scene.waiting(all());
        scene.lost = Box::pin(pending());
        scene.loaded_by_one_call(&answer(&mut other));
    }
}

#[test]
fn batch_that_outlasts_its_lease_is_loaded_again_by_one_call() {
    let bounded = Cache::builder().capacity(2_000).max_concurrent_loads(2);
    for cache in [
        cache_with_lease(LEASE),
        bounded.lease(LEASE).build().unwrap(),
    ] {
        let scene = Scene::new(cache);
        let mut other = scene.waiting(all());
        outlast_the_lease();
        scene.loaded_by_one_call(&answer(&mut other));
    }
}

#[test]
fn thread_that_waits_out_the_lease_of_a_batch_calls_its_loader_once() {
    let scene = Scene::new(cache_with_lease(LEASE));
    let load = |missing| Ok::<_, Infallible>(scene.calls.load(missing));
    let found = scene.cache.get_many_or_load(&all(), load);
    scene.loaded_by_one_call(&found.unwrap());
}

#[test]
fn task_that_waits_out_the_lease_of_a_batch_calls_its_loader_once() {
    let scene = Scene::new(cache_with_lease(LEASE));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let found = runtime.block_on(asking(&scene.cache, all(), &scene.calls));
    scene.loaded_by_one_call(&found);
}

/// Lets a thread wait for a batch, which `lose` ends without values. Returns the calls of the thread's loader.
///
/// A test cannot observe that the thread waits for all keys. It may find keys without a load in flight, and load them
/// before the others. So the caller repeats this until it did not.
fn thread_that_waits(lose: impl FnOnce(&Cache, &dyn Fn())) -> Vec<Vec<u32>> {
    let cache = cache_with_endless_lease();
    let calls = Calls::default();
    thread::scope(|scope| {
        let waiter = Mutex::new(None);
        let wait = || {
            let found = scope.spawn(|| {
                cache.get_many_or_load(&all(), |keys| Ok::<_, Infallible>(calls.load(keys)))
            });
            *waiter.lock().unwrap() = Some(found);
            until(|| cache.stats().misses == u64::from(2 * KEYS));
            let_others_run();
        };
        lose(&cache, &wait);
        let found = waiter.into_inner().unwrap().unwrap().join().unwrap();
        assert_eq!(found.unwrap(), tenfold(&all()));
    });
    validate(&cache);
    let calls = calls.take();
    let mut keys = calls.concat();
    keys.sort_unstable();
    assert_eq!(keys, all());
    assert!(calls.len() <= 4, "{} calls", calls.len());
    calls
}

#[test]
fn thread_takes_over_a_dropped_batch_with_one_call() {
    let attempt = || {
        thread_that_waits(|cache, wait| {
            let lost = hanging(cache, all());
            wait();
            drop(lost);
        })
    };
    assert!((0..100).any(|_| attempt() == [all()]));
}

#[test]
fn thread_takes_over_a_panicked_batch_with_one_call() {
    let attempt = || {
        thread_that_waits(|cache, wait| {
            let load = |_| -> Result<HashMap<u32, u32>, Infallible> {
                wait();
                resume_unwind(Box::new("the loader's panic"))
            };
            let call = AssertUnwindSafe(|| cache.get_many_or_load(&all(), load));
            assert!(catch_unwind(call).is_err());
        })
    };
    assert!((0..100).any(|_| attempt() == [all()]));
}

/// Polls a batch as soon as it is woken, on the thread that wakes it.
struct PollOnWake {
    batch: Mutex<Option<Batch>>,
    found: Mutex<Option<Values>>,
}

impl PollOnWake {
    fn start(batch: Batch) -> Arc<Self> {
        let this = Arc::new(Self {
            batch: Mutex::new(Some(batch)),
            found: Mutex::default(),
        });
        Arc::clone(&this).wake();
        this
    }
}

impl Wake for PollOnWake {
    fn wake(self: Arc<Self>) {
        let Some(mut batch) = self.batch.lock().unwrap().take() else {
            return;
        };
        let waker = Arc::clone(&self).into();
        match batch.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(values) => *self.found.lock().unwrap() = Some(values),
            Poll::Pending => *self.batch.lock().unwrap() = Some(batch),
        }
    }
}

#[test]
fn waiter_is_woken_only_when_all_keys_of_a_dropped_batch_can_be_taken_over() {
    let mut scene = Scene::new(cache_with_endless_lease());
    let waiter = PollOnWake::start(asking(&scene.cache, all(), &scene.calls));
    assert!(scene.calls.take().is_empty());
    scene.lost = Box::pin(pending());
    let found = waiter.found.lock().unwrap().take();
    scene.loaded_by_one_call(&found.expect("it has no answer yet"));
}

#[test]
fn two_batches_that_wait_for_a_dropped_batch_call_their_loaders_once_each() {
    let Scene { cache, calls, lost } = Scene::new(cache_with_endless_lease());
    let (low, high): (Vec<u32>, Vec<u32>) = ((0..300).collect(), (200..KEYS).collect());
    let mut first = waiting(&cache, low.clone(), &calls);
    let mut second = waiting(&cache, high.clone(), &calls);
    drop(lost);
    assert_eq!(answer(&mut first), tenfold(&low));
    assert_eq!(answer(&mut second), tenfold(&high));
    assert_eq!(calls.take(), [low, (300..KEYS).collect()]);
    validate(&cache);
}

#[test]
fn removed_keys_of_a_dropped_batch_are_loaded_by_the_same_call() {
    let Scene { cache, calls, lost } = Scene::new(cache_with_endless_lease());
    let mut other = waiting(&cache, all(), &calls);
    for key in (0..KEYS).step_by(2) {
        cache.remove(&key);
    }
    drop(lost);
    assert_eq!(answer(&mut other), tenfold(&all()));
    let [mut keys] = <[Vec<u32>; 1]>::try_from(calls.take()).unwrap();
    keys.sort_unstable();
    assert_eq!(keys, all());
    validate(&cache);
}

#[test]
fn key_without_leader_is_loaded_while_another_caller_loads_an_earlier_key() {
    let cache = cache_with_endless_lease();
    let calls = Calls::default();
    let slow = hanging(&cache, vec![1]);
    let lost = hanging(&cache, vec![2, 3]);
    let mut other = waiting(&cache, vec![1, 2, 3], &calls);
    drop(lost);
    assert!(poll(&mut other).is_pending());
    assert_eq!(calls.take(), [[2, 3]]);
    assert_eq!(cache.get(&3), Some(30));
    drop(slow);
    assert_eq!(answer(&mut other), tenfold(&[1, 2, 3]));
    assert_eq!(calls.take(), [[1]]);
    validate(&cache);
}

#[test]
fn batch_that_loads_keys_it_took_over_does_not_delay_waiters_of_its_other_keys() {
    let cache = cache_with_endless_lease();
    let [slow, lost] = [1, 2].map(|key| hanging(&cache, vec![key]));
    let mut busy = hanging(&cache, vec![1, 2]);
    let calls = Calls::default();
    let waiter = PollOnWake::start(asking(&cache, vec![1], &calls));
    drop(lost);
    // This batch takes over key 2. It is the first waiter for key 1, but cannot lead there.
    assert!(poll(&mut busy).is_pending());
    drop(slow);
    assert_eq!(calls.take(), [[1]]);
    assert_eq!(*waiter.found.lock().unwrap(), Some(tenfold(&[1])));
}
