//! A timer that counts an operation when it ends.

use crate::clock::{Instant, precise_now};
use std::mem::forget;
use std::time::Duration;

/// The outcome of an operation that an [`OperationTimer`] has measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Succeeded,
    Failed,
    /// The operation did not end: it panicked, or the future that ran it was dropped.
    Dropped,
}

/// The counters of a kind of operation.
pub(crate) trait CountOperation {
    /// Counts an operation that took this long.
    fn count_operation(&self, elapsed: Duration, outcome: Outcome);
}

/// A timer that counts an operation when it ends, also if it panics or the future that runs it is dropped.
pub(crate) struct OperationTimer<'a, C: CountOperation> {
    counters: &'a C,
    started: Instant,
}

impl<'a, C: CountOperation> OperationTimer<'a, C> {
    /// Creates a timer of an operation that has started at this time.
    pub(crate) const fn new(counters: &'a C, started: Instant) -> Self {
        Self { counters, started }
    }

    /// Counts the operation, and returns its duration.
    pub(crate) fn stop(self, succeeded: bool) -> Duration {
        let elapsed = self.count(if succeeded {
            Outcome::Succeeded
        } else {
            Outcome::Failed
        });
        forget(self);
        elapsed
    }

    /// Ends the measurement without counting the operation. Returns its counters and its start.
    #[inline(always)]
    pub(crate) const fn into_parts(self) -> (&'a C, Instant) {
        let parts = (self.counters, self.started);
        forget(self);
        parts
    }

    /// Ends the measurement without counting the operation.
    #[cfg(feature = "redis")]
    pub(crate) fn discard(self) {
        forget(self);
    }

    fn count(&self, outcome: Outcome) -> Duration {
        let elapsed = precise_now().saturating_duration_since(self.started);
        self.counters.count_operation(elapsed, outcome);
        elapsed
    }
}

/// Counts an operation that did not end. A timer that was stopped or discarded is not dropped.
impl<C: CountOperation> Drop for OperationTimer<'_, C> {
    fn drop(&mut self) {
        self.count(Outcome::Dropped);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    #[derive(Default)]
    struct Counted(RefCell<Vec<Outcome>>);

    impl CountOperation for Counted {
        fn count_operation(&self, _: Duration, outcome: Outcome) {
            self.0.borrow_mut().push(outcome);
        }
    }

    #[test]
    fn operation_is_counted_once_with_its_outcome() {
        let counted = Counted::default();
        let timer = || OperationTimer::new(&counted, Instant::now());
        timer().stop(true);
        timer().stop(false);
        drop(timer());
        let expected = [Outcome::Succeeded, Outcome::Failed, Outcome::Dropped];
        assert_eq!(*counted.0.borrow(), expected);
    }

    #[cfg(feature = "redis")]
    #[test]
    fn discarded_operation_is_not_counted() {
        let counted = Counted::default();
        OperationTimer::new(&counted, Instant::now()).discard();
        assert!(counted.0.borrow().is_empty());
    }
}
