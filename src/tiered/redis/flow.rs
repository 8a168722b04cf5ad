//! Flow control of one connection: how many bytes are in flight on it, and how long they may take.
//!
//! Replies of a connection come one after the other, so a call waits for the bytes of all calls before
//! it. If nobody bounds them, 64 values of 500 kB take longer than the deadline of a call at 1 Gbit/s,
//! all of these calls fail together, and all are repeated together. So the bytes in flight are bounded by
//! a window, calls beyond it wait in order, and the deadline of a call grows with the bytes that it
//! waits for. After a failure the window opens step by step: one call, then two, then four.

use crate::tiered::remote::RemoteError;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError, watch};

/// Bytes for which one permit of the window stands.
const UNIT: usize = 1 << 10;

/// Throughput of a connection, in bytes a second, below which its calls count as failed.
const MIN_THROUGHPUT: usize = 1 << 20;

/// Successful calls after a failure until the whole window is open again. The first takes the whole
/// window, and each one that follows half of what the one before took, or as much as it needs.
const RAMP: u32 = 10;

/// Timeouts without a success between them after which nobody waits for admission, until there is a success.
/// One alone may be that of a call with bad luck.
const TIMEOUTS: u32 = 2;

/// The bytes in flight on one connection.
pub(crate) struct Flow {
    /// Size of the window, in units.
    window: u32,
    permits: Arc<Semaphore>,
    /// Bytes that were admitted and have not arrived.
    in_flight: Arc<AtomicUsize>,
    /// Bytes that wait for admission.
    waiting: Arc<AtomicUsize>,
    /// Successful calls since the last failure, up to [`RAMP`].
    ramp: AtomicU32,
    /// Number of timeouts since the last success.
    timeouts: watch::Sender<u32>,
}

/// Bytes that are in flight, as long as it lives.
pub(crate) struct Passage {
    _bytes: Counted,
    _permit: Option<OwnedSemaphorePermit>,
}

/// Bytes that are counted somewhere, as long as it lives.
struct Counted {
    total: Arc<AtomicUsize>,
    bytes: usize,
}

impl Counted {
    fn new(total: &Arc<AtomicUsize>, bytes: usize) -> Self {
        total.fetch_add(bytes, Relaxed);
        Self {
            total: Arc::clone(total),
            bytes,
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.total.fetch_sub(self.bytes, Relaxed);
    }
}

impl Flow {
    /// A flow whose window has this many bytes. A call with more is admitted alone.
    pub(crate) fn new(window: usize) -> Self {
        let window = u32::try_from(window / UNIT).unwrap_or(u32::MAX).max(1);
        Self {
            window,
            permits: Arc::new(Semaphore::new(window as usize)),
            in_flight: Arc::default(),
            waiting: Arc::default(),
            ramp: AtomicU32::new(RAMP),
            timeouts: watch::Sender::new(0),
        }
    }

    /// Admits a call that is not held up: one that carries little, and for which others wait.
    pub(crate) fn enter(&self, bytes: usize) -> Passage {
        Passage {
            _bytes: Counted::new(&self.in_flight, bytes),
            _permit: None,
        }
    }

    /// Waits until this many bytes more may be in flight.
    ///
    /// It waits for as long as the bytes before it may take, but no longer than `most`.
    ///
    /// # Errors
    ///
    /// [`RemoteError::Timeout`] if that is over, or at once if calls that were admitted time out one after the
    /// other: who waits behind them would as well.
    pub(crate) async fn admit(
        &self,
        bytes: usize,
        deadline: Duration,
        most: Duration,
    ) -> Result<Passage, RemoteError> {
        let units = self.units(bytes);
        let permit = match Arc::clone(&self.permits).try_acquire_many_owned(units) {
            Ok(permit) => permit,
            Err(TryAcquireError::NoPermits) => {
                let patience = deadline + self.time_for(bytes);
                self.wait(units, bytes, patience.min(most)).await?
            }
            Err(TryAcquireError::Closed) => return Err(RemoteError::Timeout),
        };
        Ok(Passage {
            _bytes: Counted::new(&self.in_flight, bytes),
            _permit: Some(permit),
        })
    }

    async fn wait(
        &self,
        units: u32,
        bytes: usize,
        patience: Duration,
    ) -> Result<OwnedSemaphorePermit, RemoteError> {
        let mut timeouts = self.timeouts.subscribe();
        let _waiting = Counted::new(&self.waiting, bytes);
        tokio::select! {
            biased;
            permit = Arc::clone(&self.permits).acquire_many_owned(units) => {
                permit.map_err(|_| RemoteError::Timeout)
            }
            _ = timeouts.wait_for(|timeouts| *timeouts >= TIMEOUTS) => Err(RemoteError::Timeout),
            () = tokio::time::sleep(patience) => Err(RemoteError::Timeout),
        }
    }

    /// How much of the window a call takes.
    fn units(&self, bytes: usize) -> u32 {
        let own = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX);
        let least = self.window >> self.ramp.load(Relaxed).min(31);
        own.max(least).clamp(1, self.window)
    }

    /// Returns how long a call may take that is sent now and waits for `bytes` of its own, given the
    /// deadline of one that waits for none.
    pub(crate) fn allowance(&self, deadline: Duration, bytes: usize) -> Duration {
        deadline + time_for(self.in_flight.load(Relaxed).saturating_add(bytes))
    }

    /// How long all bytes may take that are in flight or wait, and so many more.
    fn time_for(&self, bytes: usize) -> Duration {
        let before = self
            .in_flight
            .load(Relaxed)
            .saturating_add(self.waiting.load(Relaxed));
        time_for(before.saturating_add(bytes))
    }

    /// Notes what became of a call.
    pub(crate) fn note<T>(&self, result: &Result<T, RemoteError>) {
        match result {
            Err(RemoteError::Timeout) => {
                self.ramp.store(0, Relaxed);
                self.timeouts.send_modify(|timeouts| *timeouts += 1);
            }
            Err(RemoteError::Disconnected(_) | RemoteError::Undecided(_)) => {
                self.ramp.store(0, Relaxed);
            }
            Ok(_) | Err(_) => {
                // Of two calls that end together one may not count, which delays the ramp and no more.
                let ramp = self.ramp.load(Relaxed);
                if ramp < RAMP {
                    self.ramp.store(ramp + 1, Relaxed);
                    self.timeouts.send_replace(0);
                }
            }
        }
    }
}

fn time_for(bytes: usize) -> Duration {
    #[allow(clippy::cast_precision_loss)] // To a millionth is enough.
    Duration::from_secs_f64(bytes as f64 / MIN_THROUGHPUT as f64)
}

/// The size that a reply is expected to have, learned from those that came lately.
pub(crate) struct ExpectedSize(AtomicUsize);

impl ExpectedSize {
    pub(crate) fn new(bytes: usize) -> Self {
        Self(AtomicUsize::new(bytes))
    }

    /// The size in bytes.
    pub(crate) fn get(&self) -> usize {
        self.0.load(Relaxed)
    }

    /// Moves the expectation an eighth of the way to the size of a reply; half of it if that is larger,
    /// since too little is expected at a higher price than too much.
    pub(crate) fn note(&self, bytes: usize) {
        let expected = self.get();
        let next = if bytes > expected {
            expected + (bytes - expected).div_ceil(2)
        } else {
            expected - (expected - bytes) / 8
        };
        if next != expected {
            self.0.store(next, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    const DEADLINE: Duration = Duration::from_millis(200);
    const MOST: Duration = Duration::from_secs(10);
    const KB: usize = UNIT;

    fn admit(flow: &Flow, bytes: usize) -> Option<Passage> {
        let passage = flow.admit(bytes, DEADLINE, MOST).now_or_never()?;
        passage.ok()
    }

    #[tokio::test]
    async fn bytes_beyond_the_window_wait_and_a_call_larger_than_it_is_admitted_alone() {
        let flow = Flow::new(100 * KB);
        let first = admit(&flow, 60 * KB).unwrap();
        assert!(admit(&flow, 60 * KB).is_none());
        let second = admit(&flow, 40 * KB).unwrap();
        drop((first, second));
        let large = admit(&flow, 1_000 * KB).unwrap();
        assert!(admit(&flow, 1).is_none());
        // Who does not wait is admitted all the same.
        drop((flow.enter(1), large));
        assert!(admit(&flow, 100 * KB).is_some());
    }

    #[tokio::test]
    async fn the_deadline_grows_with_the_bytes_in_flight() {
        let flow = Flow::new(10 * MIN_THROUGHPUT);
        assert_eq!(flow.allowance(DEADLINE, 0), DEADLINE);
        let second = Duration::from_secs(1);
        assert_eq!(flow.allowance(DEADLINE, MIN_THROUGHPUT), DEADLINE + second);
        let before = admit(&flow, 3 * MIN_THROUGHPUT);
        assert_eq!(
            flow.allowance(DEADLINE, MIN_THROUGHPUT),
            DEADLINE + 4 * second
        );
        drop(before);
        assert_eq!(flow.allowance(DEADLINE, 0), DEADLINE);
    }

    #[tokio::test]
    async fn after_a_failure_calls_are_admitted_one_then_two_then_four_at_a_time() {
        let flow = Flow::new(64 * KB);
        flow.note::<()>(&Err(RemoteError::Timeout));
        for admitted in [1, 2, 4, 8] {
            let passages: Vec<_> = (0..20).map_while(|_| admit(&flow, KB)).collect();
            assert_eq!(passages.len(), admitted);
            flow.note(&Ok(()));
        }
        (0..RAMP).for_each(|_| flow.note(&Ok(())));
        let passages: Vec<_> = (0..100).map_while(|_| admit(&flow, KB)).collect();
        assert_eq!(passages.len(), 64);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_behind_calls_that_time_out_does_not_wait_any_longer() {
        let flow = Flow::new(KB);
        let admitted = admit(&flow, KB);
        let waiting = flow.admit(KB, DEADLINE, MOST);
        tokio::pin!(waiting);
        assert!(waiting.as_mut().now_or_never().is_none());
        for result in [Err(RemoteError::Timeout), Ok(()), Err(RemoteError::Timeout)] {
            flow.note(&result);
            assert!(waiting.as_mut().now_or_never().is_none());
        }
        flow.note::<()>(&Err(RemoteError::Timeout));
        assert!(matches!(waiting.await, Err(RemoteError::Timeout)));
        // Nor does who comes now, until there is a success.
        assert!(flow.admit(KB, DEADLINE, MOST).now_or_never().is_some());
        flow.note(&Ok(()));
        let begun = tokio::time::Instant::now();
        assert!(flow.admit(KB, DEADLINE, MOST).await.is_err());
        // As long as what is before it may take.
        assert!((DEADLINE..2 * DEADLINE).contains(&begun.elapsed()));
        drop(admitted);
        assert!(admit(&flow, KB).is_some());
        assert_eq!(flow.waiting.load(Relaxed), 0);
    }

    #[test]
    fn the_expected_size_follows_the_sizes_that_come_faster_up_than_down() {
        let size = ExpectedSize::new(4_096);
        (0..100).for_each(|_| size.note(100));
        assert!((100..110).contains(&size.get()), "{}", size.get());
        (0..5).for_each(|_| size.note(10_000));
        assert!(size.get() > 9_000);
    }
}
