//! Callers that are threads or tasks, and loads that run until a test ends them.

use hotset::{LoadError, Loaded, LocalCache, LocalCacheBuilder, ManualClock, RemovalCause};
use std::hash::Hash;
use std::sync::{Arc, LazyLock, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

pub(crate) type Cache = LocalCache<u32, u64>;
pub(crate) type Answer = Result<u64, LoadError<&'static str>>;
type Finding = Result<Loaded<u64>, &'static str>;

/// The longest wait of a test before it fails. It only ends tests that hang: no test that passes comes near it, however
/// busy the machine is.
pub(crate) const TEST_TIMEOUT: Duration = Duration::from_secs(300);

/// The number of checks of a condition that follow each other at once. It is usually true by then.
const QUICK_CHECKS: u32 = 100;

pub(crate) static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().unwrap());

pub(crate) const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

pub(crate) const fn just_before(time: Duration) -> Duration {
    time.saturating_sub(Duration::from_nanos(1))
}

/// Waits for a condition that other threads make true.
pub(crate) fn until(condition: impl Fn() -> bool) {
    let start = Instant::now();
    let mut checks = 0;
    while !condition() {
        assert!(
            start.elapsed() < TEST_TIMEOUT,
            "the condition did not hold in time"
        );
        checks += 1;
        if checks < QUICK_CHECKS {
            thread::yield_now();
        } else {
            // Leaves the processor to the threads that this one waits for.
            thread::sleep(Duration::from_micros(200));
        }
    }
}

/// Lets other threads run. As far as can be seen from outside, they wait for a load by then, but no result of a test
/// depends on that. Yielding would take many seconds on a busy machine, where each turn of another thread takes
/// milliseconds.
pub(crate) fn let_others_run() {
    thread::sleep(Duration::from_millis(1));
}

/// The kind of a caller.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Way {
    Thread,
    Task,
}

pub(crate) const WAYS: [Way; 2] = [Way::Thread, Way::Task];

/// The kinds of a leader and another caller: both threads, both tasks, and mixed.
pub(crate) const PAIRS: [(Way, Way); 4] = [
    (Way::Thread, Way::Thread),
    (Way::Task, Way::Task),
    (Way::Thread, Way::Task),
    (Way::Task, Way::Thread),
];

impl Way {
    /// Returns the result of a caller whose loader ends at once.
    pub(crate) fn ask(self, cache: &Cache, key: u32, finding: Result<u64, &'static str>) -> Answer {
        self.ask_for(cache, key, finding.map(Loaded::new))
    }

    pub(crate) fn ask_for(self, cache: &Cache, key: u32, finding: Finding) -> Answer {
        match self {
            Self::Thread => cache.get_or_load_entry(&key, |_| finding),
            Self::Task => {
                RUNTIME.block_on(cache.get_or_load_entry_async(&key, |_| async { finding }))
            }
        }
    }

    /// Returns the value for a caller that must not need its loader.
    pub(crate) fn hit(self, cache: &Cache, key: u32) -> u64 {
        self.ask(cache, key, Err("the loader was called")).unwrap()
    }

    /// Starts a caller in its own thread or task.
    pub(crate) fn call(self, cache: &Cache, key: u32) -> Call {
        let (finish, finished) = oneshot::channel::<Finding>();
        let (start, started) = mpsc::channel();
        let (send, answer) = mpsc::channel();
        let cache = cache.clone();
        match self {
            Self::Thread => drop(thread::spawn(move || {
                let answer = cache.get_or_load_entry(&key, |_| {
                    start.send(()).unwrap();
                    finished.blocking_recv().unwrap()
                });
                drop(cache);
                let _ = send.send(answer);
            })),
            Self::Task => drop(RUNTIME.spawn(async move {
                let load = |_| async move {
                    start.send(()).unwrap();
                    finished.await.unwrap()
                };
                let answer = cache.get_or_load_entry_async(&key, load).await;
                drop(cache);
                let _ = send.send(answer);
            })),
        }
        Call {
            finish,
            started,
            answer,
        }
    }

    /// Starts a caller, and waits until its loader runs.
    pub(crate) fn load(self, cache: &Cache, key: u32) -> Call {
        let call = self.call(cache, key);
        call.started();
        call
    }

    /// Starts a caller, and waits until it has missed. As far as can be seen from outside, it then waits.
    pub(crate) fn wait(self, cache: &Cache, key: u32) -> Call {
        let misses = cache.stats().misses;
        let call = self.call(cache, key);
        until(|| cache.stats().misses > misses);
        let_others_run();
        call
    }
}

pub(crate) struct Call {
    finish: oneshot::Sender<Finding>,
    started: mpsc::Receiver<()>,
    answer: mpsc::Receiver<Answer>,
}

impl Call {
    /// Waits until the loader runs.
    pub(crate) fn started(&self) {
        self.started.recv_timeout(TEST_TIMEOUT).unwrap();
    }

    pub(crate) fn has_started(&self) -> bool {
        self.started.try_recv().is_ok()
    }

    /// Ends the load with this result.
    pub(crate) fn finish(self, finding: Finding) -> Answer {
        self.finish.send(finding).expect("the loader runs");
        self.answer.recv_timeout(TEST_TIMEOUT).unwrap()
    }

    pub(crate) fn find(self, value: u64) -> u64 {
        self.finish(Ok(Loaded::new(value))).unwrap()
    }

    /// Returns the result of the caller. If its own loader runs, the loader returns `finding`.
    pub(crate) fn answer(self, finding: Finding) -> Answer {
        // The send fails if the caller has waited for the load of another caller.
        let _ = self.finish.send(finding);
        self.answer.recv_timeout(TEST_TIMEOUT).unwrap()
    }
}

type Removals<K> = Vec<(K, u64, RemovalCause)>;

/// A cache of one shard with much room whose loads never lose their lease, its clock, and the calls of its listener.
pub(crate) struct KeyedFixture<K> {
    pub(crate) cache: LocalCache<K, u64>,
    pub(crate) clock: ManualClock,
    notified: Arc<Mutex<Removals<K>>>,
}

pub(crate) type Fixture = KeyedFixture<u32>;

impl<K: Copy + Eq + Hash + Send + Sync + 'static> KeyedFixture<K> {
    pub(crate) fn new(
        set_up: impl FnOnce(LocalCacheBuilder<K, u64>) -> LocalCacheBuilder<K, u64>,
    ) -> Self {
        let clock = ManualClock::new();
        let notified = Arc::new(Mutex::new(Removals::new()));
        let listener = {
            let notified = Arc::clone(&notified);
            move |key, value, cause| notified.lock().unwrap().push((key, value, cause))
        };
        let builder = LocalCache::builder()
            .capacity(100_000)
            .shards(1)
            .lease(Duration::MAX)
            .clock(clock.clone())
            .on_removal(listener);
        Self {
            cache: set_up(builder).build().unwrap(),
            clock,
            notified,
        }
    }

    /// Returns the calls of the listener since the last call of this function.
    pub(crate) fn take_notified(&self) -> Removals<K> {
        std::mem::take(&mut self.notified.lock().unwrap())
    }
}
