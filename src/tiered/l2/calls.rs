//! How many calls to L2 there were, and how long they took.

use crate::stats::histogram::{AtomicHistogram, DurationHistogram};
use crate::stats::timer::{CountOperation, OperationTimer, Outcome};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

macro_rules! operations {
    ($($(#[$doc:meta])* $name:ident: $variant:ident),* $(,)?) => {
        /// The calls to Redis of a [`TieredCache`](crate::tiered::TieredCache), by what they were for.
        #[derive(Debug, Clone, PartialEq, Eq, Default)]
        #[non_exhaustive]
        pub struct L2Calls {
            $($(#[$doc])* pub $name: CallStats,)*
        }

        impl L2Calls {
            /// All of them, with their names.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, &CallStats)> {
                [$((stringify!($name), &self.$name)),*].into_iter()
            }
        }

        /// What a call is for.
        #[derive(Debug, Clone, Copy)]
        pub(crate) enum Operation {
            $($variant,)*
        }

        impl Operation {
            pub(crate) const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => stringify!($name),)*
                }
            }
        }

        /// What [`L2Calls`] is read from.
        #[derive(Default)]
        pub(crate) struct CallCounters {
            $($name: CallCounter,)*
        }

        impl CallCounters {
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
    /// For values, or for the lead of their loads. Several keys may be one call.
    ask: Ask,
    /// To store what was loaded.
    fill: Fill,
    /// To give back leads of loads that came to nothing, or whose values are not for Redis.
    release: Release,
    /// To invalidate, and to write through.
    invalidate: Invalidate,
    /// To renew the proof that invalidations arrive.
    renew: Renew,
    /// To tell who has written that its invalidations have arrived.
    acknowledge: Acknowledge,
}

/// Calls of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct CallStats {
    /// How long they took, also those that failed, or whose caller was dropped. What the open circuit
    /// breaker refuses is no call.
    pub times: DurationHistogram,
    /// How many have failed.
    pub failures: u64,
}

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
    pub(crate) fn begin(&self) -> OperationTimer<'_, Self> {
        OperationTimer::new(self, Instant::now())
    }

    fn snapshot(&self) -> CallStats {
        CallStats {
            times: self.times.snapshot(),
            failures: self.failures.load(Relaxed),
        }
    }
}

impl L2Calls {
    /// How many have failed, of whatever kind.
    pub(crate) fn failures(&self) -> u64 {
        self.iter().map(|(_, calls)| calls.failures).sum()
    }
}
