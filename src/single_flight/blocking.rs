//! The blocking front: runs a future on a thread, which parks while the future waits.

use crate::clock::{Instant, precise_now};
use crate::single_flight::Timer;
use std::cell::Cell;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.unpark();
    }
}

fn new_waker() -> Waker {
    Arc::new(Unpark(thread::current())).into()
}

thread_local! {
    static WAKER: Waker = new_waker();
}

/// A timer that sets the time until which [`block_on`] parks.
pub(crate) struct ThreadTimer<'a>(&'a Cell<Option<Instant>>);

impl Timer for ThreadTimer<'_> {
    fn set(&mut self, at: Option<Instant>, _: &mut Context<'_>) -> Poll<()> {
        self.0.set(at);
        Poll::Pending
    }
}

/// Runs a future on this thread, and parks the thread while the future waits. `make` creates the future with a timer,
/// which sets the time in `wake_at` until which the thread parks.
pub(crate) fn block_on<'a, F: Future>(
    wake_at: &'a Cell<Option<Instant>>,
    make: impl FnOnce(ThreadTimer<'a>) -> F,
) -> F::Output {
    let mut future = pin!(make(ThreadTimer(wake_at)));
    let mut run = |waker: &Waker| {
        let mut cx = Context::from_waker(waker);
        loop {
            // `park` may return spuriously, so the future is polled after each return.
            if let Poll::Ready(output) = future.as_mut().poll(&mut cx) {
                return output;
            }
            match wake_at.take() {
                Some(at) => thread::park_timeout(at.saturating_duration_since(precise_now())),
                None => thread::park(),
            }
        }
    };
    // The waker of a thread that is ending may have been dropped already. A new one serves instead.
    match WAKER.try_with(&mut run) {
        Ok(output) => output,
        Err(_) => run(&new_waker()),
    }
}
