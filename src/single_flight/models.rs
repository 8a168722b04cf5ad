//! Models of loads of one key, which run under loom and under shuttle.

mod permits;
mod scenarios;

use super::*;
use crate::clock::Instant;
use crate::sync::schedules::scenarios;
use std::cell::Cell;
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize as Monitor, Ordering::Acquire};
use std::task::{Context, Poll, Wake};
use std::time::Duration;

#[cfg(loom_models)]
use loom::{sync::Condvar, thread};
#[cfg(shuttle_models)]
use shuttle::{sync::Condvar, thread};

const KEY: u32 = 1;
const HASH: u64 = 1;
const LEASE: Duration = Duration::from_secs(10);

/// The value in the database at first.
const OLD: u32 = 100;
/// The value in the database after its change.
const NEW: u32 = 200;

/// A waker for a thread of the model. It does not use `unpark`: shuttle's `park` also returns spuriously, which
/// would hide a lost wake-up, and loom's `unpark` interrupts the wait for a lock.
struct ThreadWaker {
    woken: Mutex<bool>,
    changed: Condvar,
}

impl ThreadWaker {
    fn wait(&self) {
        let mut woken = self.woken.lock();
        while !*woken {
            woken = self.changed.wait(woken).unwrap();
        }
        *woken = false;
    }
}

impl Wake for ThreadWaker {
    fn wake(self: Arc<Self>) {
        *self.woken.lock() = true;
        self.changed.notify_one();
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    let waker_of_thread = Arc::new(ThreadWaker {
        woken: Mutex::new(false),
        changed: Condvar::new(),
    });
    let waker = waker_of_thread.clone().into();
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => waker_of_thread.wait(),
        }
    }
}

struct Entry {
    value: u32,
    epoch: u64,
    /// The load whose leader stored it.
    load: Arc<InFlightLoad<u32, u32>>,
    generation: u32,
}

struct Model {
    in_flight: InFlightLoads<u32, u32>,
    /// The shard and its lock.
    shard: Mutex<Option<Entry>>,
    /// Accessed relaxed, so that only the locks order its reads.
    database: AtomicU32,
    epoch: AtomicU64,
    /// The number of running loads of [`load_one_of_two`](Self::load_one_of_two).
    running: AtomicUsize,
    /// The number of loads. Not an atomic of the model, so that counting orders nothing.
    loads: Monitor,
    start: Instant,
    /// `true` if a leader that is alone stores without `begin_write`.
    short_path: bool,
}

impl Model {
    fn new() -> Arc<Self> {
        Self::with_short_path(false)
    }

    fn with_short_path(short_path: bool) -> Arc<Self> {
        Arc::new(Self {
            short_path,
            in_flight: InFlightLoads::new(),
            shard: Mutex::new(None),
            database: AtomicU32::new(OLD),
            epoch: AtomicU64::new(0),
            running: AtomicUsize::new(0),
            loads: Monitor::new(0),
            start: Instant::now(),
        })
    }

    fn spawn<T: Send + 'static>(
        self: &Arc<Self>,
        role: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> thread::JoinHandle<T> {
        let model = Arc::clone(self);
        thread::spawn(move || role(&model))
    }

    /// Raises the value in the database.
    fn change(&self, value: u32) {
        self.database.fetch_max(value, Relaxed);
    }

    fn caller(&self) -> Caller<'_> {
        Caller {
            model: self,
            now: Cell::new(self.start),
            timer_works: false,
            epoch: 0,
            permitted: Cell::new(true),
            permitted_once_it_waits: false,
            load: Self::load,
            stores: true,
        }
    }

    fn ask(&self) -> u32 {
        self.caller().ask()
    }

    fn load(&self) -> u32 {
        self.database.load(Relaxed)
    }

    /// Reads the database and raises its value, so that no two loads find the same.
    fn load_and_increment(&self) -> u32 {
        self.database.fetch_add(1, Relaxed)
    }

    fn load_one_of_two(&self) -> u32 {
        assert!(self.running.fetch_add(1, Relaxed) < 2);
        // The load takes some time, so that shuttle runs other threads meanwhile.
        #[cfg(shuttle_models)]
        (0..3).for_each(|_| thread::yield_now());
        let value = self.load();
        self.running.fetch_sub(1, Relaxed);
        value
    }

    fn store(&self, leader: &mut Leader<'_, u32, u32>, value: u32) -> bool {
        let entry = Entry {
            value,
            epoch: leader.epoch,
            load: Arc::clone(&leader.load),
            generation: leader.generation,
        };
        let mut shard = self.shard.lock();
        if self.short_path && leader.is_alone() {
            Self::check_order(shard.as_ref(), &entry);
            *shard = Some(entry);
            leader.finish_lone_write();
            return true;
        }
        let Ok(key_write) = self.in_flight.begin_write(HASH, &KEY, Some(leader)) else {
            return false;
        };
        Self::check_order(shard.as_ref(), &entry);
        *shard = Some(entry);
        key_write.finish();
        true
    }

    /// Checks that an entry may replace the stored one.
    fn check_order(stored: Option<&Entry>, entry: &Entry) {
        let Some(old) = stored else {
            return;
        };
        let is_older = Arc::ptr_eq(&entry.load, &old.load) && entry.generation < old.generation;
        assert!(
            !is_older,
            "a superseded leader overwrites its successor's value"
        );
        assert!(entry.epoch >= old.epoch, "the value is of an older epoch");
    }

    /// Changes the database and then removes the key from the cache.
    fn invalidate(&self) {
        self.change(NEW);
        let mut shard = self.shard.lock();
        let key_write = self.in_flight.begin_write(HASH, &KEY, None).unwrap();
        *shard = None;
        key_write.finish();
    }

    /// Changes the database and then removes all keys from the cache.
    fn clear(&self) {
        self.change(NEW);
        let mut shard = self.shard.lock();
        self.in_flight.revoke_all();
        *shard = None;
    }

    /// Checks the stored value and the number of loads at the end of a scenario.
    #[track_caller]
    fn ends_with(&self, stored: Option<u32>, loads: std::ops::RangeInclusive<usize>) {
        assert_eq!(self.in_flight.len(), 0);
        assert_eq!(self.stored(), stored);
        let count = self.loads.load(Relaxed);
        assert!(loads.contains(&count), "{count} loads");
    }

    fn stored(&self) -> Option<u32> {
        self.shard.lock().as_ref().map(|entry| entry.value)
    }
}

/// A caller of the key, and its terms.
struct Caller<'a> {
    model: &'a Model,
    now: Cell<Instant>,
    /// `true` if its timer fires, at once, and moves its time. Otherwise it never fires.
    timer_works: bool,
    epoch: u64,
    permitted: Cell<bool>,
    permitted_once_it_waits: bool,
    load: fn(&Model) -> u32,
    /// `true` if its load stores the value. A load that fails does not.
    stores: bool,
}

impl Timer for &Caller<'_> {
    fn set(&mut self, at: Option<Instant>, _: &mut Context<'_>) -> Poll<()> {
        match at {
            Some(at) if self.timer_works => {
                self.now.set(at);
                Poll::Ready(())
            }
            _ => Poll::Pending,
        }
    }
}

impl<'a> Caller<'a> {
    fn candidate(&self) -> Candidate {
        Candidate {
            now: self.now.get(),
            lease: LEASE,
            epoch: self.epoch,
            permitted: self.permitted.get(),
            has_permit: false,
        }
    }

    fn join_or_lead(&self) -> Role<'a, u32, u32> {
        self.model
            .in_flight
            .join_or_lead(HASH, &KEY, self.candidate())
    }

    /// Becomes the leader before any other caller joins.
    fn lead_first(&self) -> Leader<'a, u32, u32> {
        match self.join_or_lead() {
            Role::Lead(leader) => leader,
            _ => panic!("somebody leads already"),
        }
    }

    async fn wait(&self, mut waiter: Waiter<'a, u32, u32>) -> Answer<'a, u32, u32> {
        if self.permitted_once_it_waits {
            self.permitted.set(true);
        }
        let turn = |cx: &mut Context<'_>| waiter.poll(self.candidate(), cx.waker());
        let answers = poll_until(&mut &*self, None, turn).await;
        answers.expect("there is no deadline")
    }

    fn ask(&self) -> u32 {
        loop {
            let (leader, looks_again) = match self.look_up() {
                Ok(value) => return value,
                Err(Role::Lead(leader)) => (leader, !self.permitted.get()),
                Err(Role::Wait(waiter)) => match block_on(self.wait(waiter)) {
                    Answer::Lead(leader) => (leader, true),
                    Answer::Retry { .. } => continue,
                    Answer::Completed(completed) => match completed.into_outcome() {
                        Outcome::Value(value) => return value,
                        _ => panic!("no load fails"),
                    },
                },
                Err(Role::Recursive(_)) => panic!("no loader asks"),
            };
            if let Some(value) = self.lead(leader, looks_again) {
                return value;
            }
        }
    }

    /// Loads as the leader. Returns `None` if it was superseded while it waited for its permit.
    fn lead(&self, mut leader: Leader<'a, u32, u32>, looks_again: bool) -> Option<u32> {
        if !self.permitted.replace(true) && !leader.begin(self.candidate()) {
            return None;
        }
        let found = looks_again.then(|| self.found(self.model.shard.lock().as_ref()));
        let value = match found.flatten() {
            Some(value) => value,
            None => self.load(&mut leader),
        };
        leader.outdate(self.epoch + 1);
        leader.complete(|| Outcome::Value(value));
        Some(value)
    }

    /// Looks the key up and joins or leads its load under one hold of the shard's lock.
    fn look_up(&self) -> Result<u32, Role<'a, u32, u32>> {
        let shard = self.model.shard.lock();
        self.found(shard.as_ref())
            .ok_or_else(|| self.join_or_lead())
    }

    fn found(&self, stored: Option<&Entry>) -> Option<u32> {
        // A value of an older epoch counts as invalidated.
        let entry = stored.filter(|entry| entry.epoch >= self.epoch);
        entry.map(|entry| entry.value)
    }

    fn load(&self, leader: &mut Leader<'a, u32, u32>) -> u32 {
        let value = {
            let _within = leader.enter(None);
            self.model.loads.fetch_add(1, Relaxed);
            (self.load)(self.model)
        };
        if self.stores {
            self.model.store(leader, value);
        }
        value
    }

    /// Joins or leads, polls once, and is dropped whatever the answer.
    fn give_up(&self) {
        if let Role::Wait(waiter) = self.join_or_lead() {
            let future = pin!(self.wait(waiter));
            let _ = future.poll(&mut Context::from_waker(Waker::noop()));
        }
    }
}
