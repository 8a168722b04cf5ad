//! Concurrency primitives that do not depend on the cache, and a switch between the real atomics and locks and those of
//! loom and shuttle.
//!
//! Single flight is written against [`Mutex`] and the atomics of this module, so that its models run under loom and
//! shuttle.

pub(crate) mod prefetch;
pub(crate) mod read_biased_lock;
pub(crate) mod reentrancy;
pub(crate) mod slot_assignment;
#[cfg_attr(loom_models, path = "thread_slot_model.rs")]
pub(crate) mod thread_slot;
pub(crate) mod tick_counter;

#[cfg(all(test, any(loom_models, shuttle_models)))]
pub(crate) mod schedules;

#[cfg(not(any(loom_models, shuttle_models)))]
mod imp {
    pub(crate) use parking_lot::{Mutex, MutexGuard};
    pub(crate) use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize};
    pub(crate) use std::thread_local;
}

#[cfg(any(loom_models, shuttle_models))]
mod imp {
    #[cfg(loom_models)]
    pub(crate) use loom::{
        sync::MutexGuard,
        sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize},
        thread_local,
    };
    #[cfg(shuttle_models)]
    pub(crate) use shuttle::{
        sync::MutexGuard,
        sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize},
        thread_local,
    };

    /// The lock of the model, with the interface of `parking_lot`.
    pub(crate) struct Mutex<T>(
        #[cfg(loom_models)] loom::sync::Mutex<T>,
        #[cfg(shuttle_models)] shuttle::sync::Mutex<T>,
    );

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            #[cfg(loom_models)]
            return Self(loom::sync::Mutex::new(value));
            #[cfg(shuttle_models)]
            return Self(shuttle::sync::Mutex::new(value));
        }

        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            self.0.lock().unwrap()
        }

        pub(crate) fn get_mut(&mut self) -> &mut T {
            self.0.get_mut().unwrap()
        }

        pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
            self.0.try_lock().ok()
        }
    }
}

pub(crate) use imp::*;

/// Orders sequentially consistent accesses before it and after it in models of loom, which orders only fences so.
/// Elsewhere this returns at once, because the accesses alone suffice.
#[inline(always)]
pub(crate) fn model_fence() {
    #[cfg(loom_models)]
    loom::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
}
