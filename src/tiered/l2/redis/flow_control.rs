//! Flow control of one connection: a bound on the bytes in flight, and deadlines that grow with them.
//!
//! Replies on a connection arrive one after the other, so a call waits for the bytes of all calls before it. Without a
//! bound, 64 values of 500 kB exceed the deadline of a call at 1 Gbit/s: all of these calls fail together and are
//! repeated together. Therefore the bytes in flight are bounded by a window, calls beyond it wait in order, and the
//! deadline of a call grows with the bytes that it waits for. After a failure the window opens in steps: it admits
//! one call, then two, then four.
//!
//! A call may belong to a future that nobody polls. Therefore a call waits for admission in a task of its own. It has
//! to begin within [`PICK_UP_TIME`] after that, and its bytes count as in flight no longer than its deadline allows:
//! then a waiting call is admitted in its place.

use crate::tiered::l2::remote::RemoteError;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// The number of bytes that one permit of the window stands for.
const UNIT: usize = 1 << 10;

/// Lowest throughput of a working connection, in bytes per second: 8 Mbit/s, far below any data center network. Calls
/// on a slower connection time out.
const MIN_THROUGHPUT: usize = 1 << 20;

/// Number of successful calls after a failure that open the whole window again. The first takes the whole window, and
/// each further one half of what the one before took, or as much as it needs. Since no window has more than
/// 2<sup>10</sup> units, the last one takes one unit.
const RAMP: u32 = 10;

/// Time within which an admitted call has to begin. It is short, because each call that nobody polls delays those
/// behind it by that much. A call that is polled too late, on a busy machine, begins nevertheless.
const PICK_UP_TIME: Duration = Duration::from_millis(20);

/// Number of timeouts in a row after which no call waits for admission until one succeeds. A single timeout may have a
/// cause that concerns one call only.
const TIMEOUTS: u32 = 2;

/// Time limits of the calls on a connection.
#[derive(Clone, Copy)]
pub(crate) struct TimeLimits {
    /// Deadline of a call that waits for no bytes.
    pub(crate) deadline: Duration,
    /// Longest time that a call waits for admission, and longest time that its bytes keep other calls waiting.
    pub(crate) most: Duration,
}

/// The bytes in flight on one connection.
pub(crate) struct FlowControl {
    line: Arc<Line>,
    /// Number of successful calls since the last failure, up to [`RAMP`].
    ramp: AtomicU32,
    /// Number of timeouts since the last success.
    timeouts: watch::Sender<u32>,
    runtime: Handle,
}

/// The part of a flow that is shared with the tasks in which calls wait.
struct Line {
    limits: TimeLimits,
    /// Size of the window, in units.
    window: u32,
    permits: Arc<Semaphore>,
    /// Lock of the first call in the line. Only that one looks for calls that nobody polls.
    first: tokio::sync::Mutex<()>,
    admitted: Mutex<Admitted>,
    /// Number of bytes that were admitted and have not arrived.
    in_flight: Arc<AtomicUsize>,
    /// Number of bytes that wait for admission.
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
    /// Time at which the call has ended, unless nobody polls it.
    until: Instant,
}

/// Bytes of a call that are in flight. They count until the passage is dropped, but no longer than the call may take
/// while others wait.
pub(crate) struct Passage {
    line: Arc<Line>,
    number: u64,
    /// Time that the call may take.
    allowance: Duration,
}

impl Passage {
    pub(crate) fn allowance(&self) -> Duration {
        self.allowance
    }

    /// Begins the call, which carries up to `most` bytes. If another call was admitted in its place, its bytes come on
    /// top of the window.
    fn begin(self, bytes: usize, most: usize) -> Self {
        let line = Arc::clone(&self.line);
        let mut passage = if line.end_after(self.number, PICK_UP_TIME) {
            self
        } else {
            line.admit(bytes, None)
        };
        // Its own bytes are in flight already.
        let in_flight = line.in_flight.load(Relaxed);
        let time = line.limits.deadline + time_for(in_flight);
        passage.allowance = time + time_for(most.saturating_sub(bytes));
        line.end_after(passage.number, time.min(line.limits.most));
        passage
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        let call = self.line.admitted.lock().calls.remove(&self.number);
        drop(call);
    }
}

/// Bytes that are part of a total for as long as this value exists.
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
    /// Counts the bytes of a call as in flight.
    fn admit(self: &Arc<Self>, bytes: usize, permit: Option<OwnedSemaphorePermit>) -> Passage {
        let call = Call {
            _bytes: Counted::new(&self.in_flight, bytes),
            _permit: permit,
            until: Instant::now() + PICK_UP_TIME,
        };
        let mut admitted = self.admitted.lock();
        let number = admitted.next;
        admitted.next += 1;
        admitted.calls.insert(number, call);
        Passage {
            line: Arc::clone(self),
            number,
            allowance: PICK_UP_TIME,
        }
    }

    /// Sets the time after which the bytes of a call do not count any more. Returns `false` if that has happened
    /// already.
    fn end_after(&self, number: u64, time: Duration) -> bool {
        let mut admitted = self.admitted.lock();
        let call = admitted.calls.get_mut(&number);
        call.map(|call| call.until = Instant::now() + time)
            .is_some()
    }

    /// Ends the passages of calls that nobody polls. Returns the time at which the next one may be overdue.
    fn end_overdue(&self) -> Option<Instant> {
        let now = Instant::now();
        let mut admitted = self.admitted.lock();
        admitted.calls.retain(|_, call| call.until > now);
        admitted.calls.values().map(|call| call.until).min()
    }

    /// Waits until a part of the window is free, and takes it.
    async fn wait(&self, units: u32) -> Option<OwnedSemaphorePermit> {
        let _first = self.first.lock().await;
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

/// A task that is aborted when nobody waits for it any more.
struct Waiting(JoinHandle<Result<Passage, RemoteError>>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl FlowControl {
    /// Creates a flow whose window has this many bytes. A call with more is admitted alone.
    pub(crate) fn new(window: usize, limits: TimeLimits, runtime: Handle) -> Self {
        let window = u32::try_from(window / UNIT).unwrap_or(u32::MAX).max(1);
        Self {
            line: Arc::new(Line {
                limits,
                window,
                permits: Arc::new(Semaphore::new(window as usize)),
                first: tokio::sync::Mutex::default(),
                admitted: Mutex::default(),
                in_flight: Arc::default(),
                waiting: Arc::default(),
            }),
            ramp: AtomicU32::new(RAMP),
            timeouts: watch::Sender::new(0),
            runtime,
        }
    }

    /// Admits a call at once, also beyond the window: one that carries little and that other processes wait for.
    pub(crate) fn enter(&self, bytes: usize) -> Passage {
        self.line.admit(bytes, None).begin(bytes, bytes)
    }

    /// Admits a call that is expected to carry `bytes`, and carries up to `most`, as soon as the window has room for
    /// it.
    ///
    /// It waits no longer than the bytes before it may take, and no longer than [`TimeLimits::most`].
    ///
    /// # Errors
    ///
    /// Returns [`RemoteError::Timeout`] if that time is over. It is also returned at once if admitted calls time out
    /// one after the other, because a call that waits behind them would time out as well.
    pub(crate) async fn admit(&self, bytes: usize, most: usize) -> Result<Passage, RemoteError> {
        let units = self.units(bytes);
        if let Ok(permit) = Arc::clone(&self.line.permits).try_acquire_many_owned(units) {
            return Ok(self.line.admit(bytes, Some(permit)).begin(bytes, most));
        }
        if *self.timeouts.borrow() >= TIMEOUTS {
            return Err(RemoteError::Timeout);
        }
        let mut waiting = self.wait(units, bytes);
        let admitted = (&mut waiting.0).await;
        let passage = admitted.unwrap_or(Err(RemoteError::Timeout))?;
        Ok(passage.begin(bytes, most))
    }

    /// Waits for admission in a task.
    fn wait(&self, units: u32, bytes: usize) -> Waiting {
        let (line, mut timeouts) = (Arc::clone(&self.line), self.timeouts.subscribe());
        let counted = Counted::new(&line.waiting, bytes);
        let before = line.in_flight.load(Relaxed) + line.waiting.load(Relaxed);
        // The time to begin, so that a call is admitted also behind one that nobody polls.
        let patience = line.limits.deadline + PICK_UP_TIME + time_for(before);
        let patience = patience.min(line.limits.most);
        Waiting(self.runtime.spawn(async move {
            let _counted = counted;
            tokio::select! {
                biased;
                permit = line.wait(units) => match permit {
                    Some(permit) => Ok(line.admit(bytes, Some(permit))),
                    None => Err(RemoteError::Timeout),
                },
                _ = timeouts.wait_for(|timeouts| *timeouts >= TIMEOUTS) => Err(RemoteError::Timeout),
                () = tokio::time::sleep(patience) => Err(RemoteError::Timeout),
            }
        }))
    }

    /// Returns the part of the window that a call takes, in units.
    fn units(&self, bytes: usize) -> u32 {
        let own = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX);
        let least = self.line.window >> self.ramp.load(Relaxed);
        own.max(least).clamp(1, self.line.window)
    }

    /// Records the result of a call.
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
                // Of two calls that end together one may not count, which only delays the ramp.
                let ramp = self.ramp.load(Relaxed);
                if ramp < RAMP {
                    self.ramp.store(ramp + 1, Relaxed);
                    self.timeouts.send_replace(0);
                }
            }
        }
    }
}

/// Returns the time that the bytes take at most on a working connection.
fn time_for(bytes: usize) -> Duration {
    #[allow(clippy::cast_precision_loss)] // To a millionth is enough.
    Duration::from_secs_f64(bytes as f64 / MIN_THROUGHPUT as f64)
}

/// The size that a reply is expected to have, learned from the latest replies.
pub(crate) struct ExpectedSize(AtomicUsize);

impl ExpectedSize {
    pub(crate) fn new(bytes: usize) -> Self {
        Self(AtomicUsize::new(bytes))
    }

    /// Returns the expected size in bytes.
    pub(crate) fn get(&self) -> usize {
        self.0.load(Relaxed)
    }

    /// Moves the expectation an eighth of the way to the size of a smaller reply, and half of the way to that of a
    /// larger one, because expecting too little costs more than expecting too much.
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
    const KB: usize = UNIT;

    fn flow(window: usize) -> FlowControl {
        let limits = TimeLimits {
            deadline: DEADLINE,
            most: Duration::from_secs(10),
        };
        FlowControl::new(window, limits, Handle::current())
    }

    fn admit(flow: &FlowControl, bytes: usize) -> Option<Passage> {
        flow.admit(bytes, bytes).now_or_never()?.ok()
    }

    #[tokio::test]
    async fn call_beyond_the_window_waits_and_call_larger_than_the_window_is_admitted_alone() {
        let flow = flow(100 * KB);
        let first = admit(&flow, 60 * KB).unwrap();
        assert!(admit(&flow, 60 * KB).is_none());
        let second = admit(&flow, 40 * KB).unwrap();
        drop((first, second));
        let large = admit(&flow, 1_000 * KB).unwrap();
        assert!(admit(&flow, 1).is_none());
        // A call that does not wait is admitted nevertheless.
        drop((flow.enter(1), large));
        assert!(admit(&flow, 100 * KB).is_some());
    }

    #[tokio::test]
    async fn allowance_grows_with_the_bytes_in_flight_and_with_those_of_the_call() {
        let flow = flow(10 * MIN_THROUGHPUT);
        let allowance = |bytes| admit(&flow, bytes).unwrap().allowance();
        let second = Duration::from_secs(1);
        assert_eq!(allowance(0), DEADLINE);
        assert_eq!(allowance(MIN_THROUGHPUT), DEADLINE + second);
        let before = admit(&flow, 3 * MIN_THROUGHPUT);
        assert_eq!(allowance(MIN_THROUGHPUT), DEADLINE + 4 * second);
        drop(before);
        assert_eq!(allowance(0), DEADLINE);
        let small = flow.admit(KB, MIN_THROUGHPUT).await.unwrap();
        assert_eq!(small.allowance(), DEADLINE + second);
    }

    #[tokio::test]
    async fn window_after_a_failure_admits_one_then_two_then_four_calls() {
        let flow = flow(64 * KB);
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
    async fn call_that_waits_behind_calls_that_time_out_fails_at_once() {
        let flow = flow(KB);
        let admitted = admit(&flow, KB);
        let waiting = flow.admit(KB, KB);
        tokio::pin!(waiting);
        assert!(waiting.as_mut().now_or_never().is_none());
        for result in [Err(RemoteError::Timeout), Ok(()), Err(RemoteError::Timeout)] {
            flow.note(&result);
            assert!(waiting.as_mut().now_or_never().is_none());
        }
        flow.note::<()>(&Err(RemoteError::Timeout));
        assert!(matches!(waiting.await, Err(RemoteError::Timeout)));
        // A call that comes now does not wait either, until there is a success.
        assert!(flow.admit(KB, KB).now_or_never().is_some());
        flow.note(&Ok(()));
        drop(admitted);
        assert!(admit(&flow, KB).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn unpolled_calls_do_not_keep_others_waiting_longer_than_they_may_take() {
        let flow = flow(KB);
        let unpolled = admit(&flow, KB).unwrap();
        let waiting = flow.admit(KB, KB);
        tokio::pin!(waiting);
        assert!(waiting.as_mut().now_or_never().is_none());
        let begun = Instant::now();
        let admitted = flow.admit(KB, KB).await;
        assert!(admitted.is_ok());
        assert!((DEADLINE..2 * DEADLINE).contains(&begun.elapsed()));
        drop((unpolled, admitted));
        assert!(waiting.await.is_ok());
        assert!(admit(&flow, KB).is_some());
        assert_eq!(flow.line.waiting.load(Relaxed), 0);
        assert_eq!(flow.line.in_flight.load(Relaxed), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn large_call_keeps_its_part_of_the_window_for_as_long_as_it_may_take() {
        let flow = flow(KB);
        let large = admit(&flow, 2 * MIN_THROUGHPUT).unwrap();
        let begun = Instant::now();
        assert!(flow.admit(KB, KB).await.is_ok());
        assert!(begun.elapsed() >= large.allowance());
    }

    #[test]
    fn expected_size_follows_larger_replies_faster_than_smaller_ones() {
        let size = ExpectedSize::new(4_096);
        (0..100).for_each(|_| size.note(100));
        assert!((100..110).contains(&size.get()), "{}", size.get());
        (0..5).for_each(|_| size.note(10_000));
        assert!(size.get() > 9_000);
    }
}
