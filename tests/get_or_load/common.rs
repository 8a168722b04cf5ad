//! What the cases share: callers on threads, in tasks, and polled by hand.

use hotset::{LoadError, LocalCache};
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

/// A lease that a test waits out; long beside what a busy machine keeps a thread waiting.
pub(crate) const SHORT: Duration = Duration::from_millis(300);
/// What a test waits for at the most before it fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn cache_with_lease(lease: Duration) -> Cache {
    Cache::builder().capacity(100).lease(lease).build().unwrap()
}

/// A cache whose loads are never taken over for being slow.
pub(crate) fn patient_cache() -> Cache {
    cache_with_lease(Duration::MAX)
}

/// Waits for a condition that other threads bring about, or for a time.
pub(crate) fn until(condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "waited in vain");
        thread::yield_now();
    }
}

pub(crate) async fn until_async(condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "waited in vain");
        tokio::task::yield_now().await;
    }
}

/// Waits until so many callers have missed. A miss is counted just before the caller boards: this
/// also lets the last one get there, most likely.
pub(crate) fn until_missed(cache: &Cache, misses: u64) {
    until(|| cache.stats().misses >= misses);
    (0..100).for_each(|_| thread::yield_now());
}

/// Whether a thread has boarded cannot be seen from outside, so `attempt` says whether all had.
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
struct Bell(AtomicUsize);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, SeqCst);
    }
}

/// A task that is polled by hand. Unlike a thread's, its boarding is certain: it is aboard once a
/// poll has left it pending.
pub(crate) struct Task<'a, T> {
    future: Pin<Box<dyn Future<Output = T> + Send + 'a>>,
    bell: Arc<Bell>,
}

impl<'a, T> Task<'a, T> {
    pub(crate) fn new(future: impl Future<Output = T> + Send + 'a) -> Self {
        Self {
            future: Box::pin(future),
            bell: Arc::default(),
        }
    }

    fn poll(&mut self) -> Poll<T> {
        let waker = self.bell.clone().into();
        self.future.as_mut().poll(&mut Context::from_waker(&waker))
    }

    pub(crate) fn must_wait(&mut self) {
        assert!(self.poll().is_pending(), "it has an answer already");
    }

    pub(crate) fn answer(&mut self) -> T {
        self.try_answer().expect("it has no answer yet")
    }

    pub(crate) fn try_answer(&mut self) -> Option<T> {
        match self.poll() {
            Poll::Ready(answer) => Some(answer),
            Poll::Pending => None,
        }
    }

    /// What a poll panics with.
    pub(crate) fn panics(&mut self) -> Box<dyn Any + Send> {
        let poll = catch_unwind(AssertUnwindSafe(|| self.poll().is_ready()));
        poll.expect_err("it does not panic")
    }

    /// From now on it is polled with another waker, as after a move to another task.
    pub(crate) fn move_to_another(&mut self) {
        self.bell = Arc::default();
    }

    /// How often it was woken.
    pub(crate) fn rung(&self) -> usize {
        self.bell.0.load(SeqCst)
    }
}

impl<'a, E: Any + Send + Sync> Task<'a, Answer<E>> {
    /// A caller whose loader is done at once.
    pub(crate) fn ask(
        cache: &'a Cache,
        key: u32,
        load: impl FnOnce() -> Result<u32, E> + Send + 'a,
    ) -> Self {
        Self::new(async move { cache.get_or_load_async(&key, || ready(load())).await })
    }

    /// A caller who waits for a load that is under way; its own loader must not be called.
    pub(crate) fn aboard(cache: &'a Cache, key: u32) -> Self {
        let mut task = Self::ask(cache, key, || panic!("not asked"));
        task.must_wait();
        task
    }
}

/// A task, polled by hand, that loads until it is told what it has loaded.
pub(crate) struct LoadingTask<'a, E> {
    finish: oneshot::Sender<Result<u32, E>>,
    task: Task<'a, Answer<E>>,
}

impl<'a, E: Any + Send + Sync> LoadingTask<'a, E> {
    pub(crate) fn start(cache: &'a Cache, key: u32) -> Self {
        let (finish, finished) = oneshot::channel();
        let mut task = Task::new(async move {
            // Its sender is dropped, in place of a result: a panic, but for the message.
            let load = || async {
                let result = finished.await;
                result.unwrap_or_else(|_| resume_unwind(Box::new("the loader's panic")))
            };
            cache.get_or_load_async(&key, load).await
        });
        let loads = cache.stats().loads;
        task.must_wait();
        assert_eq!(cache.stats().loads, loads + 1, "it does not lead");
        Self { finish, task }
    }

    pub(crate) fn finish(mut self, result: Result<u32, E>) -> Answer<E> {
        assert!(self.finish.send(result).is_ok(), "it loads no more");
        self.task.answer()
    }

    pub(crate) fn panic(mut self) {
        drop(self.finish);
        let panic = self.task.panics();
        assert_eq!(panic.downcast_ref(), Some(&"the loader's panic"));
    }
}

/// A thread that loads until it is told what it has loaded.
pub(crate) struct LoadingThread<'scope, E> {
    finish: mpsc::Sender<Result<u32, E>>,
    thread: ScopedJoinHandle<'scope, Answer<E>>,
}

impl<'scope, E: Any + Send + Sync> LoadingThread<'scope, E> {
    pub(crate) fn start(scope: &'scope Scope<'scope, '_>, cache: &Cache, key: u32) -> Self {
        let (finish, finished) = mpsc::channel();
        let (started, is_started) = mpsc::channel();
        let cache = cache.clone();
        let thread = scope.spawn(move || {
            cache.get_or_load(&key, |_| {
                started.send(()).unwrap();
                finished.recv_timeout(PATIENCE).unwrap()
            })
        });
        is_started.recv_timeout(PATIENCE).unwrap();
        Self { finish, thread }
    }

    pub(crate) fn finish(self, result: Result<u32, E>) -> Answer<E> {
        self.finish.send(result).unwrap();
        self.thread.join().unwrap()
    }
}

/// A loader that counts how often it is called.
pub(crate) fn counted(
    loads: &AtomicUsize,
    value: u32,
) -> impl FnOnce() -> Result<u32, Infallible> + Send {
    move || {
        loads.fetch_add(1, SeqCst);
        Ok(value)
    }
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
