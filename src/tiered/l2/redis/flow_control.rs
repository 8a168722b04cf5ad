//! Flow control of one connection: a limit on the bytes in flight, and deadlines that grow with them.
//!
//! Replies on a connection arrive one after the other, so a call waits for the bytes of all calls before it. Without a
//! limit, 64 values of 500 kB exceed the deadline of a call at 1 Gbit/s: all of these calls fail together and are
//! repeated together. Therefore the bytes in flight are limited by a [window](Window), calls beyond it wait in order,
//! and the deadline of a call grows with the bytes that it waits for. After a failure the window opens in steps: it
//! admits one call, then two, then four.
//!
//! A call may belong to a future that nobody polls. Therefore a call waits for admission in a task of its own. It has
//! to begin within [`PICK_UP_TIME`] after that, and its bytes count as in flight no longer than its deadline allows:
//! then a waiting call is admitted in its place.

use crate::tiered::l2::redis::window::{
    CountedBytes, PICK_UP_TIME, Permit, TimeLimits, UNIT_SIZE, Window, transfer_time,
};
use crate::tiered::l2::remote::RemoteError;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Number of successful calls after a failure that open the whole window again. The first takes the whole window, and
/// each further one half of what the one before took, or as much as it needs. Since no window has more than
/// 2<sup>10</sup> units, the last one takes one unit.
const RAMP_STEPS: u32 = 10;

/// Number of timeouts in a row after which no call waits for admission until one succeeds. A single timeout may have a
/// cause that concerns one call only.
const MAX_CONSECUTIVE_TIMEOUTS: u32 = 2;

/// The admission of calls to one connection.
pub(super) struct FlowControl {
    window: Arc<Window>,
    /// Number of successful calls since the last failure, up to [`RAMP_STEPS`].
    ramp: AtomicU32,
    /// Number of timeouts since the last success.
    timeouts: watch::Sender<u32>,
    runtime: Handle,
}

/// A task that is aborted when nobody waits for it any more.
struct WaitingTask(JoinHandle<Result<Permit, RemoteError>>);

impl Drop for WaitingTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl FlowControl {
    /// Creates a flow control whose window has this many bytes. A call with more is admitted alone.
    pub(super) fn new(window: usize, runtime: Handle) -> Self {
        Self {
            window: Arc::new(Window::new(window)),
            ramp: AtomicU32::new(RAMP_STEPS),
            timeouts: watch::Sender::new(0),
            runtime,
        }
    }

    /// Admits a call at once, also beyond the window. It is for small calls that other processes wait for.
    pub(super) fn admit_immediately(&self, bytes: usize, limits: TimeLimits) -> Permit {
        self.window.admit(bytes, None).begin(bytes, bytes, limits)
    }

    /// Admits a call that is expected to transfer `bytes`, and transfers up to `max_bytes`, as soon as the window has
    /// room for it.
    ///
    /// It waits no longer than the bytes before it may take, and no longer than [`TimeLimits::max_wait`].
    ///
    /// # Errors
    ///
    /// Returns [`RemoteError::Timeout`] if that time is over. It is also returned at once if admitted calls time out
    /// one after the other, because a call that waits behind them would time out as well.
    pub(super) async fn admit(
        &self,
        bytes: usize,
        max_bytes: usize,
        limits: TimeLimits,
    ) -> Result<Permit, RemoteError> {
        let units = self.units(bytes);
        if let Ok(units) = Arc::clone(&self.window.free_units).try_acquire_many_owned(units) {
            return Ok(self
                .window
                .admit(bytes, Some(units))
                .begin(bytes, max_bytes, limits));
        }
        if *self.timeouts.borrow() >= MAX_CONSECUTIVE_TIMEOUTS {
            return Err(RemoteError::Timeout);
        }
        let mut waiting = self.wait(units, bytes, limits);
        let admitted = (&mut waiting.0).await;
        let permit = admitted.unwrap_or(Err(RemoteError::Timeout))?;
        Ok(permit.begin(bytes, max_bytes, limits))
    }

    /// Waits for admission in a task.
    fn wait(&self, units: u32, bytes: usize, limits: TimeLimits) -> WaitingTask {
        let (window, mut timeouts) = (Arc::clone(&self.window), self.timeouts.subscribe());
        let queued = CountedBytes::new(&window.queued, bytes);
        let bytes_before = window.in_flight.load(Relaxed) + window.queued.load(Relaxed);
        // It includes the time to begin, so that a call is admitted also behind one that nobody polls.
        let max_wait = limits.deadline + PICK_UP_TIME + transfer_time(bytes_before);
        let max_wait = max_wait.min(limits.max_wait);
        WaitingTask(self.runtime.spawn(async move {
            let _queued = queued;
            let too_many = |timeouts: &u32| *timeouts >= MAX_CONSECUTIVE_TIMEOUTS;
            tokio::select! {
                biased;
                units = window.acquire(units) => match units {
                    Some(units) => Ok(window.admit(bytes, Some(units))),
                    None => Err(RemoteError::Timeout),
                },
                _ = timeouts.wait_for(too_many) => Err(RemoteError::Timeout),
                // The deadline of the wait.
                () = tokio::time::sleep(max_wait) => Err(RemoteError::Timeout),
            }
        }))
    }

    /// Returns the part of the window that a call takes, in units.
    fn units(&self, bytes: usize) -> u32 {
        let own = u32::try_from(bytes.div_ceil(UNIT_SIZE)).unwrap_or(u32::MAX);
        let min = self.window.units >> self.ramp.load(Relaxed);
        own.max(min).clamp(1, self.window.units)
    }

    /// Records the result of a call.
    pub(super) fn note<T>(&self, result: &Result<T, RemoteError>) {
        match result {
            Err(RemoteError::Timeout) => {
                self.ramp.store(0, Relaxed);
                self.timeouts.send_modify(|timeouts| *timeouts += 1);
            }
            Err(RemoteError::Disconnected(_) | RemoteError::Undecided(_)) => {
                self.ramp.store(0, Relaxed);
            }
            Ok(_) | Err(_) => {
                // Of two calls that end together one may not count, which only delays the ramp.
                let ramp = self.ramp.load(Relaxed);
                if ramp < RAMP_STEPS {
                    self.ramp.store(ramp + 1, Relaxed);
                    self.timeouts.send_replace(0);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tiered::l2::redis::window::MIN_THROUGHPUT;
    use futures_util::FutureExt;
    use std::time::Duration;
    use tokio::time::Instant;

    const DEADLINE: Duration = Duration::from_millis(200);
    const KB: usize = UNIT_SIZE;

    const LIMITS: TimeLimits = TimeLimits {
        deadline: DEADLINE,
        max_wait: Duration::from_secs(10),
    };

    fn new_flow_control(window: usize) -> FlowControl {
        FlowControl::new(window, Handle::current())
    }

    fn admit(flow_control: &FlowControl, bytes: usize) -> Option<Permit> {
        flow_control
            .admit(bytes, bytes, LIMITS)
            .now_or_never()?
            .ok()
    }

    #[tokio::test]
    async fn call_beyond_the_window_waits_and_call_larger_than_the_window_is_admitted_alone() {
        let flow_control = new_flow_control(100 * KB);
        let first = admit(&flow_control, 60 * KB).unwrap();
        assert!(admit(&flow_control, 60 * KB).is_none());
        let second = admit(&flow_control, 40 * KB).unwrap();
        drop((first, second));
        let large = admit(&flow_control, 1_000 * KB).unwrap();
        assert!(admit(&flow_control, 1).is_none());
        // A call that does not wait is admitted nevertheless.
        drop((flow_control.admit_immediately(1, LIMITS), large));
        assert!(admit(&flow_control, 100 * KB).is_some());
    }

    #[tokio::test]
    async fn allowance_grows_with_the_bytes_in_flight_and_with_those_of_the_call() {
        let flow_control = new_flow_control(10 * MIN_THROUGHPUT);
        let allowance = |bytes| admit(&flow_control, bytes).unwrap().allowance();
        let second = Duration::from_secs(1);
        assert_eq!(allowance(0), DEADLINE);
        assert_eq!(allowance(MIN_THROUGHPUT), DEADLINE + second);
        let before = admit(&flow_control, 3 * MIN_THROUGHPUT);
        assert_eq!(allowance(MIN_THROUGHPUT), DEADLINE + 4 * second);
        drop(before);
        assert_eq!(allowance(0), DEADLINE);
        let small = flow_control
            .admit(KB, MIN_THROUGHPUT, LIMITS)
            .await
            .unwrap();
        assert_eq!(small.allowance(), DEADLINE + second);
    }

    #[tokio::test]
    async fn window_after_a_failure_admits_one_then_two_then_four_calls() {
        let flow_control = new_flow_control(64 * KB);
        flow_control.note::<()>(&Err(RemoteError::Timeout));
        for admitted in [1, 2, 4, 8] {
            let permits: Vec<_> = (0..20).map_while(|_| admit(&flow_control, KB)).collect();
            assert_eq!(permits.len(), admitted);
            flow_control.note(&Ok(()));
        }
        (0..RAMP_STEPS).for_each(|_| flow_control.note(&Ok(())));
        let permits: Vec<_> = (0..100).map_while(|_| admit(&flow_control, KB)).collect();
        assert_eq!(permits.len(), 64);
    }

    #[tokio::test(start_paused = true)]
    async fn call_that_waits_behind_calls_that_time_out_fails_at_once() {
        let flow_control = new_flow_control(KB);
        let admitted = admit(&flow_control, KB);
        let waiting = flow_control.admit(KB, KB, LIMITS);
        tokio::pin!(waiting);
        assert!(waiting.as_mut().now_or_never().is_none());
        for result in [Err(RemoteError::Timeout), Ok(()), Err(RemoteError::Timeout)] {
            flow_control.note(&result);
            assert!(waiting.as_mut().now_or_never().is_none());
        }
        flow_control.note::<()>(&Err(RemoteError::Timeout));
        assert!(matches!(waiting.await, Err(RemoteError::Timeout)));
        // A call that comes now does not wait either, until there is a success.
        assert!(flow_control.admit(KB, KB, LIMITS).now_or_never().is_some());
        flow_control.note(&Ok(()));
        drop(admitted);
        assert!(admit(&flow_control, KB).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn unpolled_call_delays_other_calls_no_longer_than_it_may_take() {
        let flow_control = new_flow_control(KB);
        let unpolled = admit(&flow_control, KB).unwrap();
        let waiting = flow_control.admit(KB, KB, LIMITS);
        tokio::pin!(waiting);
        assert!(waiting.as_mut().now_or_never().is_none());
        let begun = Instant::now();
        let admitted = flow_control.admit(KB, KB, LIMITS).await;
        assert!(admitted.is_ok());
        assert!((DEADLINE..2 * DEADLINE).contains(&begun.elapsed()));
        drop((unpolled, admitted));
        assert!(waiting.await.is_ok());
        assert!(admit(&flow_control, KB).is_some());
        assert_eq!(flow_control.window.queued.load(Relaxed), 0);
        assert_eq!(flow_control.window.in_flight.load(Relaxed), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn large_call_keeps_its_part_of_the_window_for_as_long_as_it_may_take() {
        let flow_control = new_flow_control(KB);
        let large = admit(&flow_control, 2 * MIN_THROUGHPUT).unwrap();
        let begun = Instant::now();
        assert!(flow_control.admit(KB, KB, LIMITS).await.is_ok());
        assert!(begun.elapsed() >= large.allowance());
    }
}
