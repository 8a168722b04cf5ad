//! The front for threads: waits for a flight by parking.

use super::{Candidate, NotYet, Step, Waiter};
use std::sync::Arc;
use std::task::{Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.unpark();
    }
}

thread_local! {
    static WAKER: Waker = Waker::from(Arc::new(Unpark(thread::current())));
}

/// Waits until the waiter is told something; `None` once `deadline` has passed.
pub(crate) fn wait<K, V>(
    mut waiter: Waiter<'_, K, V>,
    lease: Duration,
    deadline: Option<Instant>,
) -> Option<Step<'_, K, V>> {
    // A thread that is ending may have lost its waker already; it makes one more.
    let waker = WAKER
        .try_with(Waker::clone)
        .unwrap_or_else(|_| Arc::new(Unpark(thread::current())).into());
    loop {
        // `park` may return at any time, so everything is looked at afresh.
        let lease_end = match waiter.poll(Candidate::new(lease), &waker) {
            Ok(step) => return Some(step),
            Err(NotYet { lease_end }) => lease_end,
        };
        let now = Instant::now();
        if deadline.is_some_and(|deadline| deadline <= now) {
            return None;
        }
        match deadline.into_iter().chain(lease_end).min() {
            Some(wake_at) => thread::park_timeout(wake_at.saturating_duration_since(now)),
            None => thread::park(),
        }
    }
}
