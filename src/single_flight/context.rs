//! The loads that the current thread runs at this moment, so that a loader's call for its own key is recognized, and
//! their bulkheads, so that a load within a load needs no second permit.
//!
//! A task runs on the thread that polls it, so this holds for tasks as well, unless a loader calls the cache from
//! another task or thread that it has started.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};

/// A mark of a thread.
#[derive(Clone, Copy)]
struct Mark {
    /// The address of an object that lives as long as the [`Entered`] of this mark, or 0 if there is no mark.
    address: usize,
    loader: LoaderId,
}

impl Mark {
    const NONE: Self = Self {
        address: 0,
        loader: None,
    };
}

/// The marks of the current thread. Most often there is at most one, which needs no destructor and no allocation.
struct Marks {
    first: Cell<Mark>,
    /// The number of marks in `FURTHER_MARKS`, which were set while there was a first one.
    further: Cell<usize>,
}

impl Marks {
    const fn new() -> Self {
        Self {
            first: Cell::new(Mark::NONE),
            further: Cell::new(0),
        }
    }
}

// The macros of the models do not support `const` blocks.
#[cfg(not(any(loom_models, shuttle_models)))]
std::thread_local! {
    static MARKS: Marks = const { Marks::new() };
}
#[cfg(any(loom_models, shuttle_models))]
crate::sync::thread_local! {
    static MARKS: Marks = Marks::new();
}
crate::sync::thread_local! {
    #[allow(clippy::missing_const_for_thread_local)]
    static FURTHER_MARKS: RefCell<Vec<Mark>> = RefCell::new(Vec::new());
}

/// Returns the marks of this thread.
fn marks() -> impl Iterator<Item = Mark> {
    let (first, further) = MARKS.with(|marks| (marks.first.get(), marks.further.get()));
    let further = if further > 0 {
        FURTHER_MARKS.try_with(|further| further.borrow().clone())
    } else {
        Ok(Vec::new())
    };
    let first = (first.address != 0).then_some(first);
    first.into_iter().chain(further.unwrap_or_default())
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

    #[inline]
    fn at(address: usize, loader: LoaderId) -> Self {
        let mark = Mark { address, loader };
        MARKS.with(|marks| {
            if marks.first.get().address == 0 {
                marks.first.set(mark);
            } else {
                Self::add_further(marks, mark);
            }
        });
        Self(address)
    }

    #[cold]
    fn add_further(marks: &Marks, mark: Mark) {
        // An error means that the thread is ending. A recursion in a destructor is then not recognized.
        if FURTHER_MARKS
            .try_with(|further| further.borrow_mut().push(mark))
            .is_ok()
        {
            marks.further.set(marks.further.get() + 1);
        }
    }

    /// Removes the mark if there are further ones.
    #[cold]
    fn remove_further(&self, marks: &Marks) {
        let removed = FURTHER_MARKS.try_with(|further| {
            let mut further = further.borrow_mut();
            let last = further.iter().rposition(|mark| mark.address == self.0);
            last.map(|last| further.remove(last)).is_some()
        });
        if removed.unwrap_or(false) {
            marks.further.set(marks.further.get() - 1);
        } else if marks.first.get().address == self.0 {
            marks.first.set(Mark::NONE);
        }
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
        let of_this_load = || marks().filter(|mark| mark.address == self.0);
        let is_same = of_this_load().all(|mark| mark.loader == loader);
        loader.is_some() && is_same && of_this_load().count() < MAX_REENTRIES
    }

    /// Marks this thread as running the loader of this call while the result lives.
    pub(crate) fn enter(&self, loader: LoaderId) -> impl Drop + use<> {
        Entered::at(self.0, loader)
    }
}

impl Drop for Entered {
    #[inline]
    fn drop(&mut self) {
        MARKS.with(|marks| {
            if marks.further.get() == 0 && marks.first.get().address == self.0 {
                marks.first.set(Mark::NONE);
            } else {
                self.remove_further(marks);
            }
        });
    }
}

/// Checks whether this thread has a mark for this address.
pub(crate) fn is_running<T>(address: *const T) -> bool {
    marks().any(|mark| mark.address == address as usize)
}

/// Checks whether this thread runs a loader of any cache.
#[cfg(feature = "tokio")]
pub(crate) fn is_loading() -> bool {
    marks().next().is_some()
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
