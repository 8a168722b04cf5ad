//! A bound on the number of loads that run at one time, over all keys. Callers above the bound wait in order of
//! arrival.

use crate::clock::{Instant, precise_now};
use crate::single_flight::Pending;
use crate::single_flight::context::{Entered, is_running};
use crate::single_flight::permits::{HolderId, PermitQueue, Reply, Ticket};
use crate::single_flight::state::wake;
use crate::storage::allocated::AllocatedBytes;
use crate::sync::{Mutex, MutexGuard};
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

/// The permits of one cache. [`PermitQueue`] is its state machine.
pub(crate) struct Bulkhead {
    queue: Mutex<PermitQueue>,
    now: fn() -> Instant,
}

impl Bulkhead {
    /// Creates a bulkhead with the given number of permits, each of which ends after `lease`.
    pub(crate) fn new(permits: usize, lease: Duration) -> Self {
        Self::with_clock(permits, lease, precise_now)
    }

    pub(crate) fn with_clock(permits: usize, lease: Duration, now: fn() -> Instant) -> Self {
        Self {
            queue: Mutex::new(PermitQueue::new(permits, lease)),
            now,
        }
    }

    /// Checks whether the current thread runs a load that holds a permit of this bulkhead. A load within that load
    /// needs no permit of its own: it could wait for one without limit, because the outer load keeps its permit
    /// meanwhile.
    pub(crate) fn is_entered(&self) -> bool {
        is_running(self)
    }

    /// Takes a permit, if one is free and not offered to a caller in the queue.
    pub(crate) fn try_acquire(self: &Arc<Self>) -> Option<Permit> {
        let now = (self.now)();
        self.step(now, |queue| Some(self.permit(queue.try_take(now)?)))
    }

    /// Waits for a permit, in order of arrival. Calls `on_poll` whenever the caller is polled.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no permit until `deadline`.
    #[cfg(feature = "redis")]
    pub(crate) async fn acquire(
        self: &Arc<Self>,
        deadline: Option<Instant>,
        timer: &mut impl crate::single_flight::Timer,
        mut on_poll: impl FnMut(),
    ) -> Result<Permit, crate::single_flight::TimedOut> {
        let mut queued = self.enqueue();
        let ready = |cx: &mut std::task::Context<'_>| {
            on_poll();
            queued.poll(cx.waker())
        };
        crate::single_flight::poll_until(timer, deadline, ready).await
    }

    /// Appends the caller to the queue.
    pub(crate) fn enqueue(self: &Arc<Self>) -> Queued<'_> {
        Queued {
            bulkhead: self,
            ticket: self.queue.lock().enqueue(),
        }
    }

    /// Returns the number of loads that still run although their lease has ended, and of all loads whose lease has
    /// ended while they ran.
    pub(crate) fn abandoned(&self) -> (usize, u64) {
        self.step((self.now)(), |queue| (queue.overdue(), queue.abandoned()))
    }

    fn permit(self: &Arc<Self>, id: HolderId) -> Permit {
        Permit {
            bulkhead: Arc::clone(self),
            id,
        }
    }

    /// Advances the queue to `now`, runs a step on it, and wakes the callers that have an offer. If waking panics, the
    /// result is dropped without the lock, so a permit in it is released.
    fn step<T>(&self, now: Instant, step: impl FnOnce(&mut PermitQueue) -> T) -> T {
        let mut queue = self.queue.lock();
        let woken = queue.advance(now);
        let result = step(&mut queue);
        unlock_and_wake(queue, woken);
        result
    }

    /// Runs a step that may free a permit, and wakes the callers to whom it is then offered.
    fn free<T>(&self, step: impl FnOnce(&mut PermitQueue) -> T) -> T {
        let now = (self.now)();
        let mut queue = self.queue.lock();
        let result = step(&mut queue);
        let woken = queue.advance(now);
        unlock_and_wake(queue, woken);
        result
    }
}

impl AllocatedBytes for Bulkhead {
    fn allocated_bytes(&self) -> usize {
        self.queue.lock().allocated_bytes()
    }
}

fn unlock_and_wake(queue: MutexGuard<'_, PermitQueue>, woken: Vec<Waker>) {
    drop(queue);
    wake(woken);
}

/// The right to load, for one lease.
pub(crate) struct Permit {
    bulkhead: Arc<Bulkhead>,
    id: HolderId,
}

impl Permit {
    /// Marks this thread as loading with this permit while the result lives.
    pub(crate) fn enter(&self) -> impl Drop + use<> {
        Entered::new(Arc::as_ptr(&self.bulkhead), None)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.bulkhead.free(|queue| queue.release(self.id));
    }
}

/// A caller in the queue. Dropping it removes the caller, and passes its offer on to the next one.
pub(crate) struct Queued<'a> {
    bulkhead: &'a Arc<Bulkhead>,
    ticket: Ticket,
}

impl Queued<'_> {
    /// Asks for a permit. Not called again after it has returned one.
    pub(crate) fn poll(&mut self, waker: &Waker) -> Result<Permit, Pending> {
        // Wakers are cloned and dropped without the lock, because both run code of an executor.
        let mut waker = Some(waker.clone());
        let now = (self.bulkhead.now)();
        self.bulkhead.step(now, |queue| {
            match queue.poll(self.ticket, now, &mut waker) {
                Reply::Taken(id) => Ok(self.bulkhead.permit(id)),
                Reply::Wait { again } => Err(Pending { again: Some(again) }),
            }
        })
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        // The waker is dropped after the lock is released.
        let _waker = self.bulkhead.free(|queue| queue.leave(self.ticket));
    }
}
