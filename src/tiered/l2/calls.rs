//! Counts and durations of the calls to L2.

use crate::clock::precise_now;
use crate::stats::histogram::{AtomicHistogram, DurationHistogram};
use crate::stats::timer::{CountOperation, OperationTimer, Outcome};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

macro_rules! operations {
    ($($(#[$doc:meta])* $name:ident: $variant:ident),* $(,)?) => {
        /// The calls of a [`TieredCache`](crate::tiered::TieredCache) to Redis, by purpose.
        ///
        /// # Examples
        ///
        /// ```
        /// # use hotset::TieredCache;
        /// # async fn example(prices: TieredCache<String, u64>) -> Result<(), Box<dyn std::error::Error>> {
        /// for (name, calls) in prices.tier_stats().calls.iter() {
        ///     println!("{name}: {} calls, {} of them failed", calls.times.count(), calls.failures);
        /// }
        /// # Ok(())
        /// # }
        /// ```
        #[derive(Debug, Clone, PartialEq, Eq, Default)]
        #[cfg_attr(feature = "serde", derive(serde::Serialize))]
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
    /// Releases of leases whose loads failed, or whose values are not stored in Redis.
    release: Release,
    /// Invalidations, with or without a new value.
    invalidate: Invalidate,
    /// Renewals of the proof that invalidations arrive.
    renew: Renew,
    /// Acknowledgements of invalidations, to the processes that have sent them.
    acknowledge: Acknowledge,
}

/// Statistics of one kind of calls.
///
/// # Examples
///
/// ```
/// # use hotset::TieredCache;
/// # async fn example(prices: TieredCache<String, u64>) -> Result<(), Box<dyn std::error::Error>> {
/// let lookups = prices.tier_stats().calls.lookup;
/// println!("{} of {} lookups failed", lookups.failures, lookups.times.count());
/// println!("99 percent take less than {:?}", lookups.times.percentile(99.0));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
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
    times: AtomicHistogram,
    failures: AtomicU64,
}

/// Counts a call. A call whose caller was dropped has not failed.
impl CountOperation for CallCounter {
    fn count_operation(&self, elapsed: Duration, outcome: Outcome) {
        self.times.count(elapsed);
        if outcome == Outcome::Failed {
            self.failures.fetch_add(1, Relaxed);
        }
    }
}

impl CallCounter {
    /// Begins the measurement of a call.
    pub(crate) fn begin(&self) -> OperationTimer<'_, Self> {
        OperationTimer::new(self, precise_now())
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
