//! The loads that the current thread runs at this moment, so that a loader's call for its own key is recognized, and
//! their bulkheads, so that a load within a load needs no second permit.
//!
//! A task runs on the thread that polls it, so this holds for tasks as well, unless a loader calls the cache from
//! another task or thread that it has started.

use crate::sync::thread_local;
use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};

thread_local! {
    // Addresses of objects that live as long as their `Entered`. loom's macro accepts no `const` blocks.
    #[allow(clippy::missing_const_for_thread_local)]
    static ACTIVE_LOADS: RefCell<Vec<(usize, LoaderId)>> = RefCell::new(Vec::new());
}

/// The type name of a loader, if it is known. Loaders of one place in the code have the same type name.
pub(crate) type LoaderId = Option<&'static str>;

/// The maximum depth to which loaders of the same place in the code run within each other for one key.
const MAX_REENTRIES: usize = 8;

/// A mark of this thread: it runs a load, or a load with a permit of a bulkhead. Dropping it removes the mark.
pub(crate) struct Entered(usize);

impl Entered {
    pub(crate) fn new<T>(address: *const T, loader: LoaderId) -> Self {
        Self::at(address as usize, loader)
    }

    fn at(address: usize, loader: LoaderId) -> Self {
        // An error means that the thread is ending. A recursion in a destructor is then not recognized.
        let _ = ACTIVE_LOADS.try_with(|active| active.borrow_mut().push((address, loader)));
        Self(address)
    }
}

/// A call for a key on a thread that runs the loader of this key. Usually the loader makes this call. But a loader that
/// waits in a work-stealing pool may run a stolen job of another caller, which is no recursion.
pub(crate) struct Reentry(usize);

impl Reentry {
    pub(crate) fn new<T>(address: *const T) -> Self {
        Self(address as usize)
    }

    /// Checks whether the call may belong to a stolen job: it comes from the same place in the code as the load that it
    /// runs within, and the nesting is less than `MAX_REENTRIES` deep, which an endless recursion exceeds.
    pub(crate) fn may_be_stolen(&self, loader: LoaderId) -> bool {
        let depth = ACTIVE_LOADS.try_with(|active| {
            let active = active.borrow();
            let loads = active.iter().filter(|(address, _)| *address == self.0);
            let is_same = loads.clone().all(|(_, other)| *other == loader);
            is_same.then(|| loads.count())
        });
        let depth = depth.ok().flatten();
        loader.is_some() && depth.is_some_and(|depth| depth < MAX_REENTRIES)
    }

    /// Marks this thread as running the loader of this call while the result lives.
    pub(crate) fn enter(&self, loader: LoaderId) -> impl Drop + use<> {
        Entered::at(self.0, loader)
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let _ = ACTIVE_LOADS.try_with(|active| {
            let mut active = active.borrow_mut();
            // The marks of a blocking call end in the reverse order, and without a search.
            if active.last().is_some_and(|&(address, _)| address == self.0) {
                active.pop();
            } else if let Some(last) = active.iter().rposition(|&(address, _)| address == self.0) {
                active.remove(last);
            }
        });
    }
}

/// Checks whether this thread has a mark for this address.
pub(crate) fn is_running<T>(address: *const T) -> bool {
    ACTIVE_LOADS
        .try_with(|active| {
            active
                .borrow()
                .iter()
                .any(|&(other, _)| other == address as usize)
        })
        .unwrap_or(false)
}

/// Checks whether this thread runs a loader of any cache.
#[cfg(feature = "tokio")]
pub(crate) fn is_loading() -> bool {
    let active = ACTIVE_LOADS.try_with(|active| !active.borrow().is_empty());
    active.unwrap_or(false)
}

/// Creates a future with `make`, and awaits it. Both, and the drop of the future, run within the marks that `enter`
/// sets.
pub(crate) async fn run_within<E, F: Future>(
    enter: impl Fn() -> E,
    make: impl FnOnce() -> F,
) -> F::Output {
    let future = {
        let _entered = enter();
        make()
    };
    let mut running = RunningFuture {
        future: pin!(Some(future)),
        enter: &enter,
    };
    poll_fn(|cx| {
        let _entered = enter();
        let future = running.future.as_mut().as_pin_mut();
        let future = future.expect("the future is dropped with its owner");
        future.poll(cx)
    })
    .await
}

/// A future that is dropped within the marks that `enter` sets: its destructor is code of the user, which may call the
/// cache.
struct RunningFuture<'a, F, E, N: Fn() -> E> {
    future: Pin<&'a mut Option<F>>,
    enter: &'a N,
}

impl<F, E, N: Fn() -> E> Drop for RunningFuture<'_, F, E, N> {
    fn drop(&mut self) {
        let _entered = (self.enter)();
        self.future.set(None);
    }
}
