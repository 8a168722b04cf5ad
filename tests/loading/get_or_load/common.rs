//! Shared code of the cases: callers on threads, in tasks, and polled by hand.

use crate::common::let_others_run;
pub(crate) use crate::common::{TEST_TIMEOUT, until};
use hotset::__private::validate;
use hotset::{LoadError, LoaderError, LocalCache};
use std::any::Any;
use std::convert::Infallible;
use std::future::{Future, ready};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, Wake};
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};
use tokio::runtime::{Handle, Runtime};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

pub(crate) type Cache = LocalCache<u32, u32>;
pub(crate) type Answer<E = Infallible> = Result<u32, LoadError<E>>;

/// A lease or wait timeout whose end a test awaits. Between two steps of a test, not even a busy machine takes so long.
pub(crate) const SHORT_TIMEOUT: Duration = Duration::from_secs(1);

pub(crate) fn cache_with_lease(lease: Duration) -> Cache {
    Cache::builder().capacity(100).lease(lease).build().unwrap()
}

/// Returns a cache whose slow loads are never superseded.
pub(crate) fn cache_with_endless_lease() -> Cache {
    cache_with_lease(Duration::MAX)
}

/// Waits in a task until the condition is true.
pub(crate) async fn until_async(condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < TEST_TIMEOUT, "timed out");
        tokio::task::yield_now().await;
    }
}

/// Waits until this number of callers have missed. A miss is counted just before the caller joins a load, so this also
/// lets other threads run, after which the last one has most likely joined.
pub(crate) fn until_missed(cache: &Cache, misses: u64) {
    until(|| cache.stats().misses >= misses);
    let_others_run();
}

/// Repeats `attempt` until it returns `true`. A test cannot observe that a thread waits for a load, so it checks
/// afterwards that all threads did.
pub(crate) fn some_attempt(mut attempt: impl FnMut() -> bool) {
    assert!((0..1_000).any(|_| attempt()));
}

pub(crate) fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_time()
        .build()
        .unwrap()
}

#[derive(Default)]
struct WakeCounter(AtomicUsize);

impl Wake for WakeCounter {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, SeqCst);
    }
}

/// A task that is polled by hand. Unlike a thread, it certainly waits for a load once a poll has left it pending.
pub(crate) struct Task<'a, T> {
    future: Pin<Box<dyn Future<Output = T> + Send + 'a>>,
    wakes: Arc<WakeCounter>,
}

impl<'a, T> Task<'a, T> {
    pub(crate) fn new(future: impl Future<Output = T> + Send + 'a) -> Self {
        Self {
            future: Box::pin(future),
            wakes: Arc::default(),
        }
    }

    fn poll(&mut self) -> Poll<T> {
        let waker = self.wakes.clone().into();
        self.future.as_mut().poll(&mut Context::from_waker(&waker))
    }

    pub(crate) fn must_wait(&mut self) {
        assert!(self.poll().is_pending(), "the task has an answer already");
    }

    pub(crate) fn answer(&mut self) -> T {
        self.try_answer().expect("the task has no answer yet")
    }

    pub(crate) fn try_answer(&mut self) -> Option<T> {
        match self.poll() {
            Poll::Ready(answer) => Some(answer),
            Poll::Pending => None,
        }
    }

    /// Polls the task, which panics, and returns the payload.
    pub(crate) fn panics(&mut self) -> Box<dyn Any + Send> {
        let poll = catch_unwind(AssertUnwindSafe(|| self.poll().is_ready()));
        poll.expect_err("the task does not panic")
    }

    /// Replaces its waker, like a move to another task.
    pub(crate) fn move_to_another(&mut self) {
        self.wakes = Arc::default();
    }

    /// Returns the number of times that it was woken.
    pub(crate) fn wake_count(&self) -> usize {
        self.wakes.0.load(SeqCst)
    }
}

impl<'a, E> Task<'a, Answer<E>> {
    /// Creates a caller whose loader ends at once.
    pub(crate) fn ask<M>(
        cache: &'a Cache,
        key: u32,
        load: impl FnOnce() -> Result<u32, E> + Send + 'a,
    ) -> Self
    where
        E: LoaderError<M>,
    {
        Self::new(async move { cache.get_or_load_async(&key, |_| ready(load())).await })
    }

    /// Creates a caller that waits for a load in flight. Its own loader must not be called.
    pub(crate) fn waiting<M>(cache: &'a Cache, key: u32) -> Self
    where
        E: LoaderError<M>,
    {
        let mut task = Self::ask(cache, key, || panic!("the loader was called"));
        task.must_wait();
        task
    }
}

/// A task, polled by hand, that loads until it is given the result.
pub(crate) struct LoadingTask<'a, E> {
    finish: oneshot::Sender<Result<u32, E>>,
    task: Task<'a, Answer<E>>,
}

impl<'a, E> LoadingTask<'a, E> {
    pub(crate) fn start<M>(cache: &'a Cache, key: u32) -> Self
    where
        E: LoaderError<M>,
    {
        let (finish, finished) = oneshot::channel();
        let mut task = Task::new(async move {
            // If the sender is dropped, this panics without a message on the standard error.
            let load = |_| async {
                let result = finished.await;
                result.unwrap_or_else(|_| resume_unwind(Box::new("the loader's panic")))
            };
            cache.get_or_load_async(&key, load).await
        });
        let loads = cache.stats().loads;
        task.must_wait();
        assert_eq!(cache.stats().loads, loads + 1, "the task does not lead");
        Self { finish, task }
    }

    pub(crate) fn finish(mut self, result: Result<u32, E>) -> Answer<E> {
        assert!(
            self.finish.send(result).is_ok(),
            "the load has ended already"
        );
        self.task.answer()
    }

    pub(crate) fn panic(mut self) {
        drop(self.finish);
        let panic = self.task.panics();
        assert_eq!(panic.downcast_ref(), Some(&"the loader's panic"));
    }
}

/// A thread that loads until it is given the result.
pub(crate) struct LoadingThread<'scope, E> {
    finish: mpsc::Sender<Result<u32, E>>,
    thread: ScopedJoinHandle<'scope, Answer<E>>,
}

impl<'scope, E: Send + Sync + 'static> LoadingThread<'scope, E> {
    pub(crate) fn start<M>(scope: &'scope Scope<'scope, '_>, cache: &Cache, key: u32) -> Self
    where
        E: LoaderError<M>,
    {
        let (finish, finished) = mpsc::channel();
        let (started, is_started) = mpsc::channel();
        let cache = cache.clone();
        let thread = scope.spawn(move || {
            cache.get_or_load(&key, |_| {
                started.send(()).unwrap();
                finished.recv_timeout(TEST_TIMEOUT).unwrap()
            })
        });
        is_started.recv_timeout(TEST_TIMEOUT).unwrap();
        Self { finish, thread }
    }

    pub(crate) fn finish(self, result: Result<u32, E>) -> Answer<E> {
        self.finish.send(result).unwrap();
        self.thread.join().unwrap()
    }
}

/// Returns a loader that counts its calls.
pub(crate) fn counted(
    loads: &AtomicUsize,
    value: u32,
) -> impl FnOnce() -> Result<u32, Infallible> + Send {
    move || {
        loads.fetch_add(1, SeqCst);
        Ok(value)
    }
}

/// Checks that the first load of key 1 has failed, and that one waiter has then loaded 11.
pub(crate) fn check_one_led(cache: &Cache, loads: &AtomicUsize) {
    assert_eq!(loads.load(SeqCst), 1);
    let stats = cache.stats();
    assert_eq!((stats.loads, stats.load_failures), (2, 1));
    assert_eq!(cache.get(&1), Some(11));
    validate(cache);
}

/// Lets 4 threads and 16 tasks wait for a load of key 1 in flight, calls `lose_load`, which ends that load without a
/// value, and checks that one of the waiters loads.
pub(crate) fn check_one_waiter_takes_over(
    runtime: &Runtime,
    cache: &Cache,
    lose_load: impl FnOnce(),
) {
    let loads = Arc::new(AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| cache.get_or_load(&1, |_| counted(&loads, 11)()).unwrap());
        }
        let tasks = spawn_callers(runtime, 16, cache, &loads, 11);
        until_missed(cache, 21);
        lose_load();
        assert_eq!(tasks.answers(), [11; 16]);
    });
    check_one_led(cache, &loads);
}

/// Spawns tasks that request key 1, with a loader that counts its calls.
pub(crate) fn spawn_callers(
    runtime: &Runtime,
    count: usize,
    cache: &Cache,
    loads: &Arc<AtomicUsize>,
    value: u32,
) -> Tasks<u32> {
    Tasks::spawn(runtime, count, || {
        let (cache, loads) = (cache.clone(), loads.clone());
        async move {
            let load = |_| async { counted(&loads, value)() };
            cache.get_or_load_async(&1, load).await.unwrap()
        }
    })
}

/// Tasks of a runtime.
pub(crate) struct Tasks<T> {
    runtime: Handle,
    tasks: Vec<JoinHandle<T>>,
}

impl<T: Send + 'static> Tasks<T> {
    pub(crate) fn spawn<F: Future<Output = T> + Send + 'static>(
        runtime: &Runtime,
        count: usize,
        task: impl Fn() -> F,
    ) -> Self {
        Self {
            runtime: runtime.handle().clone(),
            tasks: (0..count).map(|_| runtime.spawn(task())).collect(),
        }
    }

    pub(crate) fn answers(self) -> Vec<T> {
        until(|| self.tasks.iter().all(JoinHandle::is_finished));
        let join = |task: JoinHandle<T>| self.runtime.block_on(task).unwrap();
        self.tasks.into_iter().map(join).collect()
    }
}
