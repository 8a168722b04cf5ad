//! What the current thread is loading at this moment: flights, so that a loader that asks for its
//! own key is told, and bulkheads, so that a load within a load needs no second permit.
//!
//! A task is where it is polled, so this holds for tasks as well, as long as a loader does not ask
//! from another task or thread that it has started.

use crate::sync::thread_local;
use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::{Poll, ready};

thread_local! {
    // Addresses of what lives as long as its `Entered`. loom's macro knows no `const` blocks.
    #[allow(clippy::missing_const_for_thread_local)]
    static WITHIN: RefCell<Vec<usize>> = RefCell::new(Vec::new());
}

/// This thread is within something, until this is dropped.
pub(super) struct Entered(usize);

impl Entered {
    pub(super) fn new<T>(what: *const T) -> Self {
        // An error: the thread is ending. What it loads then is not told apart.
        let _ = WITHIN.try_with(|within| within.borrow_mut().push(what as usize));
        Self(what as usize)
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let _ = WITHIN.try_with(|within| {
            let mut within = within.borrow_mut();
            if let Some(last) = within.iter().rposition(|&what| what == self.0) {
                within.remove(last);
            }
        });
    }
}

pub(super) fn is_within<T>(what: *const T) -> bool {
    WITHIN
        .try_with(|within| within.borrow().contains(&(what as usize)))
        .unwrap_or(false)
}

/// Does this thread run a loader, of whatever?
#[cfg(feature = "tokio")]
pub(crate) fn is_loading() -> bool {
    let within = WITHIN.try_with(|within| !within.borrow().is_empty());
    within.unwrap_or(false)
}

/// Makes a future, runs it and makes of its output what it is to be, always within what `enter`
/// enters.
pub(crate) async fn run_within<E, F: Future, T>(
    enter: impl Fn() -> E,
    make: impl FnOnce() -> F,
    finish: impl FnOnce(F::Output) -> T,
) -> T {
    let future = {
        let _entered = enter();
        make()
    };
    let mut future = pin!(future);
    let mut finish = Some(finish);
    poll_fn(|cx| {
        let _entered = enter();
        let output = ready!(future.as_mut().poll(cx));
        let finish = finish.take().expect("a future is ready once");
        Poll::Ready(finish(output))
    })
    .await
}
