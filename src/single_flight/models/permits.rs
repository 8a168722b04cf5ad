//! Models of a bulkhead: offers that are taken, lapse or pass on, and leases that end.

use super::*;
use crate::single_flight::Bulkhead;
use crate::sync::thread_local;
use std::sync::OnceLock;

/// The number of callers that wait out the lease of a load. With two, loom has too many schedules to run.
const WAITERS: usize = if cfg!(loom_models) { 1 } else { 2 };

scenarios! {
    every_caller_gets_a_permit_of_its_own
    offer_to_a_dropped_caller_passes_on
    offer_that_is_not_taken_passes_to_a_polled_caller
    hanging_load_loses_its_permit_at_the_end_of_its_lease
    load_that_ends_with_its_lease_releases_one_permit
}

thread_local! {
    // The time of this thread, which moves only when its timer fires.
    #[allow(clippy::missing_const_for_thread_local)]
    static NOW: Cell<Option<Instant>> = Cell::new(None);
}

fn now() -> Instant {
    static START: OnceLock<Instant> = OnceLock::new();
    let start = *START.get_or_init(Instant::now);
    NOW.with(Cell::get).unwrap_or(start)
}

/// A timer that fires at once, if it works, and moves the time of its thread.
struct ModelTimer {
    works: bool,
}

impl Timer for ModelTimer {
    fn set(&mut self, at: Option<Instant>, _: &mut Context<'_>) -> Poll<()> {
        match at.filter(|_| self.works) {
            Some(at) => {
                NOW.with(|now| now.set(Some(at)));
                Poll::Ready(())
            }
            None => Poll::Pending,
        }
    }
}

struct Permits {
    bulkhead: Arc<Bulkhead>,
    /// The number of loads that run and hold a permit.
    running: AtomicUsize,
}

impl Permits {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            bulkhead: Arc::new(Bulkhead::with_clock(1, LEASE, now)),
            running: AtomicUsize::new(0),
        })
    }

    fn spawn(
        self: &Arc<Self>,
        role: impl FnOnce(&Self) + Send + 'static,
    ) -> thread::JoinHandle<()> {
        let permits = Arc::clone(self);
        thread::spawn(move || role(&permits))
    }

    /// Loads once there is a permit. Without a working timer only a wake-up can end the wait.
    fn load(&self, timer_works: bool) {
        let mut timer = ModelTimer { works: timer_works };
        let acquire = async {
            if let Some(permit) = self.bulkhead.try_acquire() {
                return permit;
            }
            let mut queued = self.bulkhead.enqueue();
            let turn = |cx: &mut Context<'_>| queued.poll(cx.waker());
            let permit = poll_until(&mut timer, None, turn).await;
            permit.expect("there is no deadline")
        };
        let permit = block_on(acquire);
        let running = self.running.fetch_add(1, Relaxed);
        // With a working timer, the time may have jumped to the end of the other's lease.
        assert!(running == 0 || timer_works);
        self.running.fetch_sub(1, Relaxed);
        drop(permit);
    }

    /// Enters the queue and polls once. The caller stays in the queue while the result lives.
    fn enqueue_unpolled(&self) -> impl Drop + '_ {
        let mut queued = self.bulkhead.enqueue();
        // A permit that is free at once is released at once.
        drop(queued.poll(Waker::noop()));
        queued
    }

    /// Checks that there is one permit when no load runs, and the number of abandoned loads.
    fn ends(&self, abandoned: impl std::ops::RangeBounds<u64>) {
        let (overdue, count) = self.bulkhead.abandoned();
        assert!(overdue == 0 && abandoned.contains(&count));
        let permit = self.bulkhead.try_acquire();
        assert!(permit.is_some(), "a permit is lost");
        assert!(
            self.bulkhead.try_acquire().is_none(),
            "a permit was given back twice"
        );
    }
}

fn every_caller_gets_a_permit_of_its_own() {
    let permits = Permits::new();
    let others = [(); 2].map(|()| permits.spawn(|permits| permits.load(false)));
    permits.load(false);
    for other in others {
        other.join().unwrap();
    }
    permits.ends(0..=0);
}

fn offer_to_a_dropped_caller_passes_on() {
    let permits = Permits::new();
    let held = permits.bulkhead.try_acquire();
    let dropped = permits.spawn(|permits| drop(permits.enqueue_unpolled()));
    let other = permits.spawn(|permits| permits.load(false));
    drop(held);
    dropped.join().unwrap();
    other.join().unwrap();
    permits.ends(0..=0);
}

fn offer_that_is_not_taken_passes_to_a_polled_caller() {
    let permits = Permits::new();
    let held = permits.bulkhead.try_acquire();
    let unpolled = permits.enqueue_unpolled();
    let other = permits.spawn(|permits| permits.load(true));
    drop(held);
    other.join().unwrap();
    drop(unpolled);
    // The time may have jumped to the end of the lease.
    permits.ends(..=1);
}

fn hanging_load_loses_its_permit_at_the_end_of_its_lease() {
    let permits = Permits::new();
    let hanging = permits.bulkhead.try_acquire();
    let others: Vec<_> = (0..WAITERS)
        .map(|_| permits.spawn(|permits| permits.load(true)))
        .collect();
    for other in others {
        other.join().unwrap();
    }
    drop(hanging);
    // The time may have jumped to the end of each other load's lease, too.
    permits.ends(1..=1 + WAITERS as u64);
}

fn load_that_ends_with_its_lease_releases_one_permit() {
    let permits = Permits::new();
    let held = permits.bulkhead.try_acquire();
    let other = permits.spawn(|permits| permits.load(true));
    drop(held);
    other.join().unwrap();
    permits.ends(..=1);
}
