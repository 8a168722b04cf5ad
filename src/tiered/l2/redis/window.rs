//! The bytes in flight on one connection, and the permits of the calls that they belong to.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// Number of bytes that one unit of the window stands for.
pub(super) const UNIT_SIZE: usize = 1 << 10;

/// Lowest throughput of a working connection, in bytes per second: 8 Mbit/s, far below any data center network. Calls
/// on a slower connection time out.
pub(super) const MIN_THROUGHPUT: usize = 1 << 20;

/// Time within which an admitted call has to begin. It is short, because each call that nobody polls delays those
/// behind it by that much. A call that is polled too late, on a busy machine, begins nevertheless.
pub(super) const PICK_UP_TIME: Duration = Duration::from_millis(20);

/// Time limits of the calls of a cache.
#[derive(Clone, Copy)]
pub(super) struct TimeLimits {
    /// Deadline of a call that waits for no bytes.
    pub(super) deadline: Duration,
    /// Longest time that a call waits for admission, and longest time that its bytes keep other calls waiting.
    pub(super) max_wait: Duration,
}

/// The bytes in flight on one connection, and their limit. It is shared with the tasks in which calls wait.
pub(super) struct Window {
    /// Size of the window, in units.
    pub(super) units: u32,
    pub(super) free_units: Arc<Semaphore>,
    /// Lock of the first call in the queue. Only that call looks for calls that nobody polls.
    queue_head: tokio::sync::Mutex<()>,
    admitted: Mutex<Admitted>,
    /// Number of bytes that were admitted and have not arrived.
    pub(super) in_flight: Arc<AtomicUsize>,
    /// Number of bytes that wait for admission.
    pub(super) queued: Arc<AtomicUsize>,
}

/// The calls whose bytes are in flight, by number.
#[derive(Default)]
struct Admitted {
    calls: HashMap<u64, Call>,
    next_number: u64,
}

/// A call whose bytes are in flight.
struct Call {
    _bytes: CountedBytes,
    _units: Option<OwnedSemaphorePermit>,
    /// Time at which the call has ended, unless nobody polls it.
    overdue_at: Instant,
}

/// The admission of a call. Its bytes are in flight until the permit is dropped, but no longer than the call may take
/// while other calls wait.
pub(super) struct Permit {
    window: Arc<Window>,
    number: u64,
    /// Time that the call may take.
    allowance: Duration,
}

impl Permit {
    /// Returns the time that the call may take.
    pub(super) fn allowance(&self) -> Duration {
        self.allowance
    }

    /// Begins the call, which is expected to transfer `bytes` and transfers up to `max_bytes`. If another call was
    /// admitted in its place, its bytes come on top of the window.
    pub(super) fn begin(self, bytes: usize, max_bytes: usize, limits: TimeLimits) -> Self {
        let window = Arc::clone(&self.window);
        let mut permit = if window.end_after(self.number, PICK_UP_TIME) {
            self
        } else {
            window.admit(bytes, None)
        };
        // The call's own bytes are in flight already.
        let in_flight = window.in_flight.load(Relaxed);
        let time = limits.deadline + transfer_time(in_flight);
        permit.allowance = time + transfer_time(max_bytes.saturating_sub(bytes));
        window.end_after(permit.number, time.min(limits.max_wait));
        permit
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let call = self.window.admitted.lock().calls.remove(&self.number);
        drop(call);
    }
}

/// Bytes that are part of a total for as long as this value exists.
pub(super) struct CountedBytes {
    total: Arc<AtomicUsize>,
    bytes: usize,
}

impl CountedBytes {
    pub(super) fn new(total: &Arc<AtomicUsize>, bytes: usize) -> Self {
        total.fetch_add(bytes, Relaxed);
        Self {
            total: Arc::clone(total),
            bytes,
        }
    }
}

impl Drop for CountedBytes {
    fn drop(&mut self) {
        self.total.fetch_sub(self.bytes, Relaxed);
    }
}

impl Window {
    /// Creates a window of this many bytes.
    pub(super) fn new(bytes: usize) -> Self {
        let units = u32::try_from(bytes / UNIT_SIZE).unwrap_or(u32::MAX).max(1);
        Self {
            units,
            free_units: Arc::new(Semaphore::new(units as usize)),
            queue_head: tokio::sync::Mutex::default(),
            admitted: Mutex::default(),
            in_flight: Arc::default(),
            queued: Arc::default(),
        }
    }

    /// Counts the bytes of a call as in flight.
    pub(super) fn admit(
        self: &Arc<Self>,
        bytes: usize,
        units: Option<OwnedSemaphorePermit>,
    ) -> Permit {
        let call = Call {
            _bytes: CountedBytes::new(&self.in_flight, bytes),
            _units: units,
            overdue_at: Instant::now() + PICK_UP_TIME,
        };
        let mut admitted = self.admitted.lock();
        let number = admitted.next_number;
        admitted.next_number += 1;
        admitted.calls.insert(number, call);
        Permit {
            window: Arc::clone(self),
            number,
            allowance: PICK_UP_TIME,
        }
    }

    /// Sets the time after which the bytes of a call do not count any more. Returns `false` if that has happened
    /// already.
    fn end_after(&self, number: u64, time: Duration) -> bool {
        let mut admitted = self.admitted.lock();
        let call = admitted.calls.get_mut(&number);
        call.map(|call| call.overdue_at = Instant::now() + time)
            .is_some()
    }

    /// Ends the admission of calls that nobody polls. Returns the time at which the next one may be overdue.
    fn end_overdue(&self) -> Option<Instant> {
        let now = Instant::now();
        let mut admitted = self.admitted.lock();
        admitted.calls.retain(|_, call| call.overdue_at > now);
        admitted.calls.values().map(|call| call.overdue_at).min()
    }

    /// Waits until a part of the window is free, and takes it.
    pub(super) async fn acquire(&self, units: u32) -> Option<OwnedSemaphorePermit> {
        let _queue_head = self.queue_head.lock().await;
        let acquiring = Arc::clone(&self.free_units).acquire_many_owned(units);
        tokio::pin!(acquiring);
        loop {
            // A call that has taken its units may not be admitted yet, so the next check is never left out.
            let latest_check = Instant::now() + PICK_UP_TIME;
            let next_check = self.end_overdue().unwrap_or(latest_check);
            tokio::select! {
                units = &mut acquiring => return units.ok(),
                () = tokio::time::sleep_until(next_check) => {}
            }
        }
    }
}

/// Returns the time that the bytes take at most on a working connection.
pub(super) fn transfer_time(bytes: usize) -> Duration {
    #[allow(clippy::cast_precision_loss)] // An accuracy of a millionth is enough.
    Duration::from_secs_f64(bytes as f64 / MIN_THROUGHPUT as f64)
}
