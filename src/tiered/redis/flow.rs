//! Flow control of one connection: how many bytes are in flight on it, and how long they may take.
//!
//! Replies of a connection come one after the other, so a call waits for the bytes of all calls before
//! it. If nobody bounds them, 64 values of 500 kB take longer than the deadline of a call at 1 Gbit/s,
//! all of these calls fail together, and all are repeated together. So the bytes in flight are bounded by
//! a window, calls beyond it wait in order, and the deadline of a call grows with the bytes that it
//! waits for. After a failure the window opens step by step: one call, then two, then four.
//!
//! A call may belong to a future that nobody polls. So a call waits for admission in a task of its own, has to take it
//! up within [`PICK_UP_TIME`], and its bytes count as in flight no longer than they may take: after that, calls that
//! wait are admitted in its place.

use crate::tiered::remote::RemoteError;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Bytes for which one permit of the window stands.
const UNIT: usize = 1 << 10;

/// Throughput of a connection, in bytes a second, below which its calls count as failed.
const MIN_THROUGHPUT: usize = 1 << 20;

/// Successful calls after a failure until the whole window is open again. The first takes the whole
/// window, and each one that follows half of what the one before took, or as much as it needs.
const RAMP: u32 = 10;

/// The time within which a call that has waited takes up its admission. Otherwise nobody polls it, and another one is
/// admitted in its place.
const PICK_UP_TIME: Duration = Duration::from_millis(20);

/// Timeouts without a success between them after which nobody waits for admission, until there is a success.
/// One alone may be that of a call with bad luck.
const TIMEOUTS: u32 = 2;

/// The bytes in flight on one connection.
pub(crate) struct Flow {
    line: Arc<Line>,
    /// Successful calls since the last failure, up to [`RAMP`].
    ramp: AtomicU32,
    /// Number of timeouts since the last success.
    timeouts: watch::Sender<u32>,
    runtime: Handle,
}

/// What calls share, also those that wait in a task.
struct Line {
    /// Size of the window, in units.
    window: u32,
    permits: Arc<Semaphore>,
    admitted: Mutex<Admitted>,
    /// Bytes that were admitted and have not arrived.
    in_flight: Arc<AtomicUsize>,
    /// Bytes that wait for admission.
    waiting: Arc<AtomicUsize>,
}

/// The calls whose bytes are in flight, by number.
#[derive(Default)]
struct Admitted {
    calls: HashMap<u64, Call>,
    next: u64,
}

struct Call {
    _bytes: Counted,
    _permit: Option<OwnedSemaphorePermit>,
    /// When its bytes have arrived, or it has failed, if anybody polls it.
    until: Instant,
}

/// Bytes that are in flight, as long as it lives, but no longer than they may take while others wait.
pub(crate) struct Passage {
    line: Arc<Line>,
    number: u64,
}

impl Passage {
    /// Begins the call. If others were admitted in its place, its bytes come on top of theirs.
    fn begin(self, bytes: usize, deadline: Duration, most: Duration) -> Self {
        let until = self.line.end_of_call(deadline, most);
        let is_in_flight = self.line.set_end(self.number, until);
        if is_in_flight {
            self
        } else {
            self.line.admit(bytes, None, until)
        }
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        let call = self.line.admitted.lock().calls.remove(&self.number);
        drop(call);
    }
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

impl Line {
    fn admit(
        self: &Arc<Self>,
        bytes: usize,
        permit: Option<OwnedSemaphorePermit>,
        until: Instant,
    ) -> Passage {
        let bytes = Counted::new(&self.in_flight, bytes);
        let mut admitted = self.admitted.lock();
        let number = admitted.next;
        admitted.next += 1;
        admitted.calls.insert(
            number,
            Call {
                _bytes: bytes,
                _permit: permit,
                until,
            },
        );
        Passage {
            line: Arc::clone(self),
            number,
        }
    }

    /// Returns when a call that begins now has ended, if anybody polls it.
    fn end_of_call(&self, deadline: Duration, most: Duration) -> Instant {
        let time = deadline + time_for(self.in_flight.load(Relaxed));
        Instant::now() + time.min(most)
    }

    /// Sets when a call has ended. Returns `false` if its passage has ended already.
    fn set_end(&self, number: u64, until: Instant) -> bool {
        let mut admitted = self.admitted.lock();
        let call = admitted.calls.get_mut(&number);
        call.map(|call| call.until = until).is_some()
    }

    /// Ends the passages of calls that nobody polls. Returns when the next one is to be looked at.
    fn end_overdue(&self) -> Option<Instant> {
        let now = Instant::now();
        let mut admitted = self.admitted.lock();
        let calls = admitted.calls.iter();
        let overdue = calls.filter(|(_, call)| call.until <= now);
        let overdue: Vec<u64> = overdue.map(|(number, _)| *number).collect();
        for number in overdue {
            admitted.calls.remove(&number);
        }
        admitted.calls.values().map(|call| call.until).min()
    }

    /// Waits until a part of the window is free.
    async fn wait(&self, units: u32) -> Option<OwnedSemaphorePermit> {
        let acquiring = Arc::clone(&self.permits).acquire_many_owned(units);
        tokio::pin!(acquiring);
        loop {
            let Some(next) = self.end_overdue() else {
                return acquiring.await.ok();
            };
            tokio::select! {
                permit = &mut acquiring => return permit.ok(),
                () = tokio::time::sleep_until(next) => {}
            }
        }
    }
}

/// A task that ends when nobody waits for it any more.
struct Waiting(JoinHandle<Result<Passage, RemoteError>>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Flow {
    /// Creates a flow whose window has this many bytes. A call with more is admitted alone.
    pub(crate) fn new(window: usize, runtime: Handle) -> Self {
        let window = u32::try_from(window / UNIT).unwrap_or(u32::MAX).max(1);
        Self {
            line: Arc::new(Line {
                window,
                permits: Arc::new(Semaphore::new(window as usize)),
                admitted: Mutex::default(),
                in_flight: Arc::default(),
                waiting: Arc::default(),
            }),
            ramp: AtomicU32::new(RAMP),
            timeouts: watch::Sender::new(0),
            runtime,
        }
    }

    /// Admits a call that is not held up: one that carries little, and for which others wait.
    pub(crate) fn enter(&self, bytes: usize, deadline: Duration) -> Passage {
        let until = self.line.end_of_call(deadline, Duration::MAX);
        self.line.admit(bytes, None, until)
    }

    /// Waits until this many bytes more may be in flight.
    ///
    /// It waits for as long as the bytes before it may take, but no longer than `most`. A call that nobody polls is
    /// in flight no longer than that either.
    ///
    /// # Errors
    ///
    /// Returns [`RemoteError::Timeout`] if that time is over, or at once if admitted calls time out one after the
    /// other, because a call that waits behind them would time out as well.
    pub(crate) async fn admit(
        &self,
        bytes: usize,
        deadline: Duration,
        most: Duration,
    ) -> Result<Passage, RemoteError> {
        let units = self.units(bytes);
        match Arc::clone(&self.line.permits).try_acquire_many_owned(units) {
            Ok(permit) => {
                let until = self.line.end_of_call(deadline, most);
                Ok(self.line.admit(bytes, Some(permit), until))
            }
            Err(TryAcquireError::Closed) => Err(RemoteError::Timeout),
            Err(TryAcquireError::NoPermits) => {
                if *self.timeouts.borrow() >= TIMEOUTS {
                    return Err(RemoteError::Timeout);
                }
                let patience = deadline + self.time_for(bytes);
                let patience = patience.min(most);
                let mut waiting = self.wait(units, bytes, patience);
                let admitted = (&mut waiting.0).await;
                let passage = admitted.unwrap_or(Err(RemoteError::Timeout))?;
                Ok(passage.begin(bytes, deadline, most))
            }
        }
    }

    /// Waits in a task of its own.
    fn wait(&self, units: u32, bytes: usize, patience: Duration) -> Waiting {
        let (line, mut timeouts) = (Arc::clone(&self.line), self.timeouts.subscribe());
        let counted = Counted::new(&self.line.waiting, bytes);
        Waiting(self.runtime.spawn(async move {
            let _counted = counted;
            tokio::select! {
                biased;
                permit = line.wait(units) => match permit {
                    Some(permit) => Ok(line.admit(bytes, Some(permit), Instant::now() + PICK_UP_TIME)),
                    None => Err(RemoteError::Timeout),
                },
                _ = timeouts.wait_for(|timeouts| *timeouts >= TIMEOUTS) => Err(RemoteError::Timeout),
                () = tokio::time::sleep(patience) => Err(RemoteError::Timeout),
            }
        }))
    }

    /// How much of the window a call takes.
    fn units(&self, bytes: usize) -> u32 {
        let own = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX);
        let least = self.line.window >> self.ramp.load(Relaxed).min(31);
        own.max(least).clamp(1, self.line.window)
    }

    /// Returns how long a call may take that is sent now and waits for `bytes` of its own, given the
    /// deadline of one that waits for none.
    pub(crate) fn allowance(&self, deadline: Duration, bytes: usize) -> Duration {
        deadline + time_for(self.line.in_flight.load(Relaxed).saturating_add(bytes))
    }

    /// How long all bytes may take that are in flight or wait, and so many more.
    fn time_for(&self, bytes: usize) -> Duration {
        let line = &self.line;
        let before = line.in_flight.load(Relaxed);
        let before = before.saturating_add(line.waiting.load(Relaxed));
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
        let flow = Flow::new(100 * KB, Handle::current());
        let first = admit(&flow, 60 * KB).unwrap();
        assert!(admit(&flow, 60 * KB).is_none());
        let second = admit(&flow, 40 * KB).unwrap();
        drop((first, second));
        let large = admit(&flow, 1_000 * KB).unwrap();
        assert!(admit(&flow, 1).is_none());
        // Who does not wait is admitted all the same.
        drop((flow.enter(1, DEADLINE), large));
        assert!(admit(&flow, 100 * KB).is_some());
    }

    #[tokio::test]
    async fn the_deadline_grows_with_the_bytes_in_flight() {
        let flow = Flow::new(10 * MIN_THROUGHPUT, Handle::current());
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
        let flow = Flow::new(64 * KB, Handle::current());
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
        let flow = Flow::new(KB, Handle::current());
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
        // A call that comes now does not wait either, until there is a success.
        assert!(flow.admit(KB, DEADLINE, MOST).now_or_never().is_some());
        flow.note(&Ok(()));
        drop(admitted);
        assert!(admit(&flow, KB).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_nobody_polls_is_in_flight_no_longer_than_it_may_take() {
        let flow = Flow::new(KB, Handle::current());
        let unpolled = admit(&flow, KB).unwrap();
        // Nor does one that nobody polls any more hold up those behind it.
        let waiting = flow.admit(KB, DEADLINE, MOST);
        tokio::pin!(waiting);
        assert!(waiting.as_mut().now_or_never().is_none());
        let begun = Instant::now();
        let admitted = flow.admit(KB, 10 * DEADLINE, MOST).await;
        assert!(admitted.is_ok());
        assert!((DEADLINE..3 * DEADLINE).contains(&begun.elapsed()));
        drop((unpolled, admitted));
        assert!(waiting.await.is_ok());
        assert!(admit(&flow, KB).is_some());
        assert_eq!(flow.line.waiting.load(Relaxed), 0);
        assert_eq!(flow.line.in_flight.load(Relaxed), 0);
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
