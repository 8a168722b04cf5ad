//! Timers for tasks outside a tokio runtime: one thread for the whole process, started by the first task that
//! has to wait.

use crate::clock::Instant;
use parking_lot::{Condvar, Mutex};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::Waker;
use std::thread;

/// The time at which a task is woken, and a number that distinguishes wake-ups of the same time.
type Key = (Instant, u64);

struct Schedule {
    wakers: BTreeMap<Key, Waker>,
    next_number: u64,
    /// `true` once the thread was started.
    is_running: bool,
}

struct Service {
    schedule: Mutex<Schedule>,
    /// Signalled when the first key changes.
    changed: Condvar,
}

static SERVICE: Service = Service {
    schedule: Mutex::new(Schedule {
        wakers: BTreeMap::new(),
        next_number: 0,
        is_running: false,
    }),
    changed: Condvar::new(),
};

impl Service {
    /// Wakes the tasks at their times. Never returns.
    fn run(&self) {
        let mut schedule = self.schedule.lock();
        loop {
            match schedule.wakers.first_entry() {
                None => self.changed.wait(&mut schedule),
                Some(first) if first.key().0 <= Instant::now() => {
                    let waker = first.remove();
                    // The lock is released, because waking runs an executor's code. Its panic must not end the thread.
                    drop(schedule);
                    let _ = catch_unwind(AssertUnwindSafe(|| waker.wake()));
                    schedule = self.schedule.lock();
                }
                Some(first) => {
                    let remaining = first.key().0.saturating_duration_since(Instant::now());
                    self.changed.wait_for(&mut schedule, remaining);
                }
            }
        }
    }
}

/// A scheduled wake-up of a task. Dropping it cancels the wake-up.
pub(crate) struct ScheduledWake(Key);

impl ScheduledWake {
    /// Schedules a wake-up. Returns `None` if the thread cannot be started, which the next call tries again.
    pub(crate) fn set(at: Instant, waker: Waker) -> Option<Self> {
        let mut schedule = SERVICE.schedule.lock();
        if !schedule.is_running {
            let timers = thread::Builder::new().name("hotset-timers".into());
            timers.spawn(|| SERVICE.run()).ok()?;
            schedule.is_running = true;
        }
        let key = (at, schedule.next_number);
        schedule.next_number += 1;
        schedule.wakers.insert(key, waker);
        if schedule.wakers.first_key_value().map(|(first, _)| *first) == Some(key) {
            SERVICE.changed.notify_one();
        }
        Some(Self(key))
    }
}

impl Drop for ScheduledWake {
    fn drop(&mut self) {
        // The waker is dropped after the lock is released.
        let _waker = SERVICE.schedule.lock().wakers.remove(&self.0);
    }
}

#[cfg(all(test, not(any(loom_models, shuttle_models))))]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::mpsc::{Sender, channel};
    use std::task::Wake;
    use std::time::Duration;

    struct Report(usize, std::sync::Mutex<Sender<usize>>);

    impl Wake for Report {
        fn wake(self: Arc<Self>) {
            self.1.lock().unwrap().send(self.0).unwrap();
        }
    }

    #[test]
    fn timers_wake_in_order_and_dropped_timers_do_not_wake() {
        let (sender, woken) = channel();
        let start = Instant::now();
        let set = |number: usize, millis| {
            let report = Report(number, std::sync::Mutex::new(sender.clone()));
            ScheduledWake::set(
                start + Duration::from_millis(millis),
                Arc::new(report).into(),
            )
            .unwrap()
        };
        let _late = set(3, 40);
        let dropped = set(2, 30);
        let _early = set(1, 20);
        drop(dropped);
        assert_eq!((woken.recv().unwrap(), woken.recv().unwrap()), (1, 3));
        assert!(start.elapsed() >= Duration::from_millis(40));
        assert!(woken.try_recv().is_err());
    }

    struct Panics;

    impl Wake for Panics {
        fn wake(self: Arc<Self>) {
            std::panic::resume_unwind(Box::new("from a waker"));
        }
    }

    #[test]
    fn waker_that_panics_does_not_stop_other_timers() {
        let (sender, woken) = channel();
        let now = Instant::now();
        let _panics = ScheduledWake::set(now, Arc::new(Panics).into());
        let report = Report(7, std::sync::Mutex::new(sender));
        let _timer = ScheduledWake::set(now, Arc::new(report).into());
        assert_eq!(woken.recv().unwrap(), 7);
    }
}
