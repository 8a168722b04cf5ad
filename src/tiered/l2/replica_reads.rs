//! Statistics of reads from replicas.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

macro_rules! outcomes {
    ($($(#[$doc:meta])* $name:ident: $variant:ident),* $(,)?) => {
        /// The values that a [`TieredCache`](crate::tiered::TieredCache) has requested from replicas, by outcome. All
        /// are 0 without [`read_from_replicas`](crate::TieredCacheBuilder::read_from_replicas).
        ///
        /// # Examples
        ///
        /// ```
        /// # use hotset::TieredCache;
        /// # async fn example(prices: TieredCache<String, u64>) -> Result<(), Box<dyn std::error::Error>> {
        /// for (outcome, count) in prices.tier_stats().replica_reads.iter() {
        ///     println!("{count} reads from replicas: {outcome}");
        /// }
        /// # Ok(())
        /// # }
        /// ```
        #[derive(Debug, Clone, PartialEq, Eq, Default)]
        #[cfg_attr(feature = "serde", derive(serde::Serialize))]
        #[non_exhaustive]
        pub struct ReplicaReads {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl ReplicaReads {
            /// Returns all numbers, with their names.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name)),*].into_iter()
            }
        }

        /// The outcome of a request for a value to a replica.
        #[derive(Debug, Clone, Copy, PartialEq)]
        pub(crate) enum ReplicaOutcome {
            $($variant,)*
        }

        /// The counters behind [`ReplicaReads`].
        #[derive(Default)]
        pub(crate) struct ReplicaReadCounters {
            $($name: AtomicU64,)*
        }

        impl ReplicaReadCounters {
            /// Counts requests with the same outcome.
            pub(crate) fn count(&self, outcome: ReplicaOutcome, requests: usize) {
                let counter = match outcome {
                    $(ReplicaOutcome::$variant => &self.$name,)*
                };
                counter.fetch_add(requests as u64, Relaxed);
            }

            pub(crate) fn snapshot(&self) -> ReplicaReads {
                ReplicaReads {
                    $($name: self.$name.load(Relaxed),)*
                }
            }
        }
    };
}

outcomes! {
    /// The values that a replica has served.
    served: Served,
    /// Requests that the primary had to serve, because the replica lacked a change that this process had made or
    /// received.
    behind: Behind,
    /// Requests that the primary had to serve, because the last heartbeat of this process that has succeeded began more
    /// than half of the bound of the class ago.
    old: Old,
    /// Requests that the primary had to serve, because the replica had no value, or one that it cannot decide about.
    undecided: Undecided,
    /// Requests that the primary had to serve, because the replica did not reply in time, or replied with an error.
    failed: Failed,
}
