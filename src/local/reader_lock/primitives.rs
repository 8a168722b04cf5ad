//! What the lock is built on: the real thing, or what loom knows of it.

#[cfg(not(loom_models))]
mod by {
    pub(crate) use parking_lot::{Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};
    pub(crate) use std::sync::atomic::{AtomicU32, AtomicUsize};
    pub(crate) use std::thread::{Thread, current};
    use std::time::Duration;

    pub(crate) const OPEN_AFTER: u32 = 16;

    /// How often a writer looks again at once, then how often it lets other threads run in between. Most
    /// reads are over by then.
    const SPINS: u32 = 64;
    const YIELDS: u32 = 8;
    const FIRST_PARK: Duration = Duration::from_micros(50);
    const LONGEST_PARK: Duration = Duration::from_millis(10);

    /// How a writer waits: at first awake, then parked, for longer each time.
    pub(crate) struct Backoff {
        tries: u32,
        park: Duration,
    }

    impl Backoff {
        pub(crate) fn new() -> Self {
            Self {
                tries: 0,
                park: FIRST_PARK,
            }
        }

        /// Waits for a moment, awake. `false` if that was tried often enough.
        pub(crate) fn spin(&mut self) -> bool {
            self.tries = self.tries.saturating_add(1);
            if self.tries <= SPINS {
                std::hint::spin_loop();
            } else if self.tries <= SPINS + YIELDS {
                std::thread::yield_now();
            } else {
                return false;
            }
            true
        }

        /// Waits until this thread is unparked, or for a while.
        pub(crate) fn park(&mut self) {
            std::thread::park_timeout(self.park);
            self.park = (self.park * 2).min(LONGEST_PARK);
        }

        /// Waits for a while for something that nobody unparks this thread for.
        pub(crate) fn pause(&mut self) {
            if !self.spin() {
                std::thread::sleep(FIRST_PARK);
            }
        }
    }

    /// Where loom's models need a fence and the parks of this module have a limit instead.
    #[inline(always)]
    pub(crate) fn reader_fence() {}

    /// Sequentially consistent accesses make the handshake on their own; loom does not model them.
    #[inline]
    pub(crate) fn fence() {}

    /// The interface of loom's cell over the real one.
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
mod by {
    pub(crate) use loom::cell::UnsafeCell;
    pub(crate) use loom::sync::atomic::{AtomicU32, AtomicUsize};
    pub(crate) use loom::sync::{RwLockReadGuard, RwLockWriteGuard};

    /// So few that models of few reads open the gate.
    pub(crate) const OPEN_AFTER: u32 = 1;

    pub(crate) use crate::sync::Mutex;
    pub(crate) use loom::thread::{Thread, current};

    /// Parks without a limit, of which loom knows nothing: a wake-up that is lost is a deadlock of the model.
    pub(crate) struct Backoff;

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
        fence();
    }

    pub(crate) fn fence() {
        loom::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
    }

    /// `parking_lot`'s interface over loom's lock.
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

pub(super) use by::*;
