//! Counts and durations of the calls to L2.

use crate::stats::histogram::{DurationHistogram, Tally};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

macro_rules! operations {
    ($($(#[$doc:meta])* $name:ident: $variant:ident),* $(,)?) => {
        /// The calls of a [`TieredCache`](crate::tiered::TieredCache) to Redis, by purpose.
        #[derive(Debug, Clone, PartialEq, Eq, Default)]
        #[non_exhaustive]
        pub struct L2Calls {
            $($(#[$doc])* pub $name: CallStats,)*
        }

        impl L2Calls {
            /// Returns the statistics of all kinds of calls, with their names.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, &CallStats)> {
                [$((stringify!($name), &self.$name)),*].into_iter()
            }
        }

        /// The purpose of a call.
        #[derive(Debug, Clone, Copy)]
        pub(crate) enum Operation {
            $($variant,)*
        }

        impl Operation {
            /// Returns the name of the operation in statistics and traces.
            pub(crate) const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => stringify!($name),)*
                }
            }
        }

        /// The counters behind [`L2Calls`].
        #[derive(Default)]
        pub(crate) struct CallCounters {
            $($name: CallCounter,)*
        }

        impl CallCounters {
            /// Returns the counter of an operation.
            pub(crate) const fn of(&self, operation: Operation) -> &CallCounter {
                match operation {
                    $(Operation::$variant => &self.$name,)*
                }
            }

            pub(crate) fn snapshot(&self) -> L2Calls {
                L2Calls {
                    $($name: self.$name.snapshot(),)*
                }
            }
        }
    };
}

operations! {
    /// Requests for values, or for the leases of their loads. One call may be for several keys.
    lookup: Lookup,
    /// Writes of loaded values.
    fill: Fill,
    /// Returns of leases whose loads failed, or whose values are not stored in Redis.
    release: Release,
    /// Invalidations, with or without a new value.
    invalidate: Invalidate,
    /// Renewals of the proof that invalidations arrive.
    renew: Renew,
    /// Acknowledgements of invalidations, to the processes that have sent them.
    acknowledge: Acknowledge,
}

/// Statistics of one kind of calls.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct CallStats {
    /// The durations of the calls, including calls that failed or whose caller was dropped, but not those that the open
    /// circuit breaker refused.
    pub times: DurationHistogram,
    /// The number of calls that failed.
    pub failures: u64,
}

/// Counters of one kind of calls.
#[derive(Default)]
pub(crate) struct CallCounter {
    times: Tally,
    failures: AtomicU64,
}

/// The measurement of a call, which ends with the call or when its caller is dropped.
pub(crate) struct CallTimer<'a> {
    counter: Option<&'a CallCounter>,
    begun: Instant,
}

impl CallTimer<'_> {
    /// Ends the measurement, and counts a failure.
    pub(crate) fn end(self, failed: bool) {
        if let Some(counter) = self.counter.filter(|_| failed) {
            counter.failures.fetch_add(1, Relaxed);
        }
    }

    /// Ends the measurement without counting the call.
    pub(crate) fn discard(mut self) {
        self.counter = None;
    }
}

impl Drop for CallTimer<'_> {
    fn drop(&mut self) {
        if let Some(counter) = self.counter {
            counter.times.count(self.begun.elapsed());
        }
    }
}

impl CallCounter {
    /// Begins the measurement of a call.
    pub(crate) fn begin(&self) -> CallTimer<'_> {
        CallTimer {
            counter: Some(self),
            begun: Instant::now(),
        }
    }

    fn snapshot(&self) -> CallStats {
        CallStats {
            times: self.times.snapshot(),
            failures: self.failures.load(Relaxed),
        }
    }
}

impl L2Calls {
    /// Returns the number of calls of all kinds that failed.
    pub(crate) fn failures(&self) -> u64 {
        self.iter().map(|(_, calls)| calls.failures).sum()
    }
}
