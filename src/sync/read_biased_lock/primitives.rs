//! The primitives of the lock: the real ones, or their models in loom.

#[cfg(not(loom_models))]
mod imp {
    pub(crate) use parking_lot::{Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};
    pub(crate) use std::sync::atomic::{AtomicU32, AtomicUsize};
    pub(crate) use std::thread::{Thread, current};
    use std::time::Duration;

    /// The least number of reads after the last write that grant the read bias again.
    pub(crate) const MIN_READS_BEFORE_BIAS: usize = 16;

    /// The number of times that a writer checks a slot again without giving up the processor.
    const MAX_SPINS: u32 = 64;
    /// The number of times that a writer then yields to other threads before it checks again. Most reads have ended by
    /// then.
    const MAX_YIELDS: u32 = 8;
    /// The time limit of a writer's first park.
    const FIRST_PARK: Duration = Duration::from_micros(50);
    /// The longest time limit of a park.
    const MAX_PARK: Duration = Duration::from_millis(10);

    /// The waits of a writer, which spins at first and then parks, for longer each time.
    pub(crate) struct Backoff {
        /// The number of calls of [`spin`](Self::spin).
        tries: u32,
        /// The time limit of the next park.
        park: Duration,
    }

    impl Backoff {
        /// Creates a backoff that begins to spin.
        pub(crate) fn new() -> Self {
            Self {
                tries: 0,
                park: FIRST_PARK,
            }
        }

        /// Waits for a moment without parking. Returns `false`, without waiting, if it was called often enough before.
        pub(crate) fn spin(&mut self) -> bool {
            self.tries = self.tries.saturating_add(1);
            if self.tries <= MAX_SPINS {
                std::hint::spin_loop();
            } else if self.tries <= MAX_SPINS + MAX_YIELDS {
                std::thread::yield_now();
            } else {
                return false;
            }
            true
        }

        /// Parks this thread until it is unparked or the time limit passes, and doubles the limit.
        pub(crate) fn park(&mut self) {
            std::thread::park_timeout(self.park);
            self.park = (self.park * 2).min(MAX_PARK);
        }

        /// Waits for a moment. Used for changes after which no thread unparks this one.
        pub(crate) fn pause(&mut self) {
            if !self.spin() {
                // A sleep and not a park, because no thread unparks this one.
                std::thread::sleep(FIRST_PARK);
            }
        }
    }

    /// Returns at once. Models need a fence here; the real parks have a time limit instead.
    #[inline(always)]
    pub(crate) fn reader_fence() {}

    /// A cell with the interface of loom's.
    pub(crate) struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

    impl<T> UnsafeCell<T> {
        pub(crate) fn new(data: T) -> Self {
            Self(std::cell::UnsafeCell::new(data))
        }

        #[inline]
        pub(crate) fn with<R>(&self, access: impl FnOnce(*const T) -> R) -> R {
            access(self.0.get())
        }

        #[inline]
        pub(crate) fn with_mut<R>(&self, access: impl FnOnce(*mut T) -> R) -> R {
            access(self.0.get())
        }
    }
}

#[cfg(loom_models)]
mod imp {
    pub(crate) use loom::cell::UnsafeCell;
    pub(crate) use loom::sync::atomic::{AtomicU32, AtomicUsize};
    pub(crate) use loom::sync::{RwLockReadGuard, RwLockWriteGuard};

    /// One read, because models have few.
    pub(crate) const MIN_READS_BEFORE_BIAS: usize = 1;

    pub(crate) use crate::sync::Mutex;
    pub(crate) use loom::thread::{Thread, current};

    /// A wait without time limits, which loom does not model. A lost wake-up is therefore a deadlock of the model.
    pub(crate) struct Backoff;

    #[allow(clippy::unused_self)] // The methods have the signatures of those outside of models.
    impl Backoff {
        pub(crate) fn new() -> Self {
            Self
        }

        pub(crate) fn spin(&mut self) -> bool {
            false
        }

        pub(crate) fn park(&mut self) {
            loom::thread::park();
        }

        pub(crate) fn pause(&mut self) {
            loom::thread::yield_now();
        }
    }

    pub(crate) fn reader_fence() {
        crate::sync::model_fence();
    }

    /// Loom's lock with the interface of `parking_lot`.
    pub(crate) struct RwLock<T>(loom::sync::RwLock<T>);

    impl<T> RwLock<T> {
        pub(crate) fn new(data: T) -> Self {
            Self(loom::sync::RwLock::new(data))
        }

        pub(crate) fn read(&self) -> RwLockReadGuard<'_, T> {
            self.0.read().unwrap()
        }

        pub(crate) fn read_recursive(&self) -> RwLockReadGuard<'_, T> {
            self.read()
        }

        pub(crate) fn try_read_recursive(&self) -> Option<RwLockReadGuard<'_, T>> {
            self.0.try_read().ok()
        }

        pub(crate) fn write(&self) -> RwLockWriteGuard<'_, T> {
            self.0.write().unwrap()
        }

        pub(crate) fn try_write(&self) -> Option<RwLockWriteGuard<'_, T>> {
            self.0.try_write().ok()
        }
    }
}

pub(crate) use imp::*;
