//! Callers that are threads or tasks, and loads that go on until they are told to end.

use hotset::{LoadError, Loaded, LocalCache, LocalCacheBuilder, ManualClock, RemovalCause};
use std::sync::{Arc, LazyLock, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

pub(crate) type Cache = LocalCache<u32, u64>;
pub(crate) type Answer = Result<u64, LoadError<&'static str>>;
type Finding = Result<Loaded<u64>, &'static str>;

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().unwrap());

pub(crate) const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

pub(crate) const fn just_before(time: Duration) -> Duration {
    time.saturating_sub(Duration::from_nanos(1))
}

pub(crate) fn until(condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "waited in vain");
        thread::yield_now();
    }
}

/// How a caller asks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Way {
    Thread,
    Task,
}

pub(crate) const WAYS: [Way; 2] = [Way::Thread, Way::Task];

/// The one who loads and another one: all threads, all tasks, and mixed.
pub(crate) const PAIRS: [(Way, Way); 4] = [
    (Way::Thread, Way::Thread),
    (Way::Task, Way::Task),
    (Way::Thread, Way::Task),
    (Way::Task, Way::Thread),
];

impl Way {
    /// What a caller gets whose loader ends at once.
    pub(crate) fn ask(self, cache: &Cache, key: u32, finding: Result<u64, &'static str>) -> Answer {
        self.ask_for(cache, key, finding.map(Loaded::new))
    }

    pub(crate) fn ask_for(self, cache: &Cache, key: u32, finding: Finding) -> Answer {
        match self {
            Self::Thread => cache.get_or_load(&key, |_| finding),
            Self::Task => RUNTIME.block_on(cache.get_or_load_async(&key, || async { finding })),
        }
    }

    /// A caller who must not need its loader.
    pub(crate) fn hit(self, cache: &Cache, key: u32) -> u64 {
        self.ask(cache, key, Err("the loader was called")).unwrap()
    }

    /// A caller in a thread or a task of its own.
    pub(crate) fn call(self, cache: &Cache, key: u32) -> Call {
        let (finish, finished) = oneshot::channel::<Finding>();
        let (start, started) = mpsc::channel();
        let (send, answer) = mpsc::channel();
        let cache = cache.clone();
        match self {
            Self::Thread => drop(thread::spawn(move || {
                let answer = cache.get_or_load(&key, |_| {
                    start.send(()).unwrap();
                    finished.blocking_recv().unwrap()
                });
                drop(cache);
                let _ = send.send(answer);
            })),
            Self::Task => drop(RUNTIME.spawn(async move {
                let load = || async move {
                    start.send(()).unwrap();
                    finished.await.unwrap()
                };
                let answer = cache.get_or_load_async(&key, load).await;
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

    /// One whose loader runs.
    pub(crate) fn load(self, cache: &Cache, key: u32) -> Call {
        let call = self.call(cache, key);
        call.started();
        call
    }

    /// One who has missed and, as far as can be seen from outside, waits.
    pub(crate) fn wait(self, cache: &Cache, key: u32) -> Call {
        let misses = cache.stats().misses;
        let call = self.call(cache, key);
        until(|| cache.stats().misses > misses);
        (0..100).for_each(|_| thread::yield_now());
        call
    }
}

pub(crate) struct Call {
    finish: oneshot::Sender<Finding>,
    started: mpsc::Receiver<()>,
    answer: mpsc::Receiver<Answer>,
}

impl Call {
    /// Waits until its loader runs.
    pub(crate) fn started(&self) {
        self.started.recv_timeout(PATIENCE).unwrap();
    }

    pub(crate) fn has_started(&self) -> bool {
        self.started.try_recv().is_ok()
    }

    /// Ends its load.
    pub(crate) fn finish(self, finding: Finding) -> Answer {
        self.finish.send(finding).expect("it waits for this");
        self.answer.recv_timeout(PATIENCE).unwrap()
    }

    pub(crate) fn find(self, value: u64) -> u64 {
        self.finish(Ok(Loaded::new(value))).unwrap()
    }

    /// What it gets, where its own loader does not run, or ends with this.
    pub(crate) fn answer(self, finding: Finding) -> Answer {
        // One who waits has no use for it.
        let _ = self.finish.send(finding);
        self.answer.recv_timeout(PATIENCE).unwrap()
    }
}

type Told = Arc<Mutex<Vec<(u32, u64, RemovalCause)>>>;

/// A cache of one shard, its clock, and what its listener was told.
pub(crate) struct Fixture {
    pub(crate) cache: Cache,
    pub(crate) clock: ManualClock,
    told: Told,
}

impl Fixture {
    pub(crate) fn new(
        set_up: impl FnOnce(LocalCacheBuilder<u32, u64>) -> LocalCacheBuilder<u32, u64>,
    ) -> Self {
        let clock = ManualClock::new();
        let told = Told::default();
        let listener = {
            let told = Arc::clone(&told);
            move |&key: &u32, &value: &u64, cause| told.lock().unwrap().push((key, value, cause))
        };
        let builder = LocalCache::builder()
            .capacity(1_000)
            .shards(1)
            .clock(clock.clone())
            .on_removal(listener);
        Self {
            cache: set_up(builder).build().unwrap(),
            clock,
            told,
        }
    }

    /// What the listener was told since this was last asked.
    pub(crate) fn take_told(&self) -> Vec<(u32, u64, RemovalCause)> {
        std::mem::take(&mut self.told.lock().unwrap())
    }
}
