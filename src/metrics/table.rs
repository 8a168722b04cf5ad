//! The table of all metrics, with their names and meanings.

/// A metric: one name, for all caches and all values of its label.
#[derive(Debug)]
pub(crate) struct Metric {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    /// The name of the label besides `cache`, or empty.
    pub(super) label: &'static str,
    pub(super) help: &'static str,
    /// `true` if the values are a sample.
    pub(super) is_sampled: bool,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    /// A histogram of durations in seconds.
    Histogram,
}

macro_rules! metrics {
    ($($(#[$cfg:meta])? $metric:ident: $kind:ident $name:literal $([$label:literal])?,
        $help:literal $(, sampled: $sampled:literal)?;)*) => {
        $($(#[$cfg])? pub(crate) static $metric: Metric = Metric {
            name: $name,
            kind: Kind::$kind,
            label: concat!($($label)?),
            help: $help,
            is_sampled: false $(|| $sampled)?,
        };)*

        /// All metrics, in the order of `table.md`.
        pub(super) static ALL: &[&Metric] = &[$($(#[$cfg])? &$metric,)*];
    };
}

metrics! {
    HITS: Counter "hotset_hits_total" ["tier"], "Lookups that found a live entry.";
    MISSES: Counter "hotset_misses_total" ["tier"], "Lookups that found no live entry.";
    LOADS: Counter "hotset_loads_total", "Loaders that were run.";
    LOAD_FAILURES: Counter "hotset_load_failures_total",
        "Loaders that returned an error or panicked, or whose caller was cancelled.";
    LOAD_SECONDS: Histogram "hotset_load_seconds",
        "Run time of loaders, in seconds, failed ones included.";
    COALESCED: Counter "hotset_coalesced_total",
        "Callers that missed, and got the value or the error of another caller's load.";
    REFRESHES: Counter "hotset_refreshes_total", "Loads that refreshed a live entry.";
    STALE_SERVES: Counter "hotset_stale_serves_total",
        "Callers that got an expired value because a load failed, had failed recently, or took too long.";
    QUEUED_LOADS: Counter "hotset_queued_loads_total",
        "Loads that had to wait for a permit.";
    ABANDONED_LOADS: Counter "hotset_abandoned_loads_total",
        "Loads that exceeded their lease, so that another caller loaded, or their permit passed to another load.";
    AGE_SECONDS: Histogram "hotset_age_seconds",
        "Age of served values, in seconds since they were loaded, sampled on one hit in 64.", sampled: true;
    INSERTS: Counter "hotset_inserts_total", "Stored entries, replacements included.";
    REFUSED: Counter "hotset_refused_total",
        "Values that were not stored because they outweigh the capacity or have a time to live of zero.";
    OUTDATED: Counter "hotset_outdated_total",
        "Loads whose value was not stored, and updates that were repeated, because the key was written to meanwhile.";
    REMOVALS: Counter "hotset_removals_total" ["cause"],
        "Entries that were evicted, expired, replaced, removed, cleared or invalidated.";
    ENTRIES: Gauge "hotset_entries", "Number of entries, including expired ones that have not been removed yet.";
    WEIGHT: Gauge "hotset_weight", "Weight of all entries. Without a weigher, each weighs 1.";
    MEMORY_BYTES: Gauge "hotset_memory_bytes",
        "Memory that the cache has allocated, without the memory that keys and values own, in bytes.";
    CAPACITY: Gauge "hotset_capacity", "Maximum weight of all entries. Absent if the cache is unbounded.";

    #[cfg(feature = "redis")]
    L2_CALL_SECONDS: Histogram "hotset_l2_call_seconds" ["operation"],
        "Duration of calls to Redis: lookup, fill, release, invalidate, renew, acknowledge.";
    #[cfg(feature = "redis")]
    L2_FAILURES: Counter "hotset_l2_failures_total" ["operation"], "Calls to Redis that failed.";
    #[cfg(feature = "redis")]
    L2_REPLICA_READS: Counter "hotset_l2_replica_reads_total" ["outcome"],
        "Values requested from replicas: served, or left to the primary because the replica was behind, old, undecided or failed.";
    #[cfg(feature = "redis")]
    L2_WAITS: Counter "hotset_l2_waits_total",
        "Waits for the load of another process.";
    #[cfg(feature = "redis")]
    L2_UNLEASED_VALUES: Counter "hotset_l2_unleased_values_total",
        "Values that were loaded without a load lease and so not sent to Redis, for example during an outage.";
    #[cfg(feature = "redis")]
    L2_FILLS: Counter "hotset_l2_fills_total" ["result"],
        "Loaded values sent to Redis: stored, or lost to an invalidation or another process.";
    #[cfg(feature = "redis")]
    L2_UNREADABLE: Counter "hotset_l2_unreadable_total",
        "Values in Redis that were damaged, or of another schema or format.";
    #[cfg(feature = "redis")]
    L2_UNSTORABLE: Counter "hotset_l2_unstorable_total",
        "Values not stored in Redis because they were too large, had too many tags, or could not be serialized.";
    #[cfg(feature = "redis")]
    L2_ALTERED: Counter "hotset_l2_altered_total",
        "Values that were not stored in Redis because their encoding decodes to another value.";
    #[cfg(feature = "redis")]
    L2_UNENCODABLE: Counter "hotset_l2_unencodable_total",
        "Uses of keys that cannot be encoded, or decode to another key. Each process caches them for itself.";
    #[cfg(feature = "redis")]
    OVERDUE_LOADS: Gauge "hotset_overdue_loads",
        "Number of loads that have exceeded their lease and still run.";
    #[cfg(feature = "redis")]
    INVALIDATIONS: Counter "hotset_invalidations_total" ["result"],
        "Invalidations that Redis accepted, or that were deferred because it did not.";
    #[cfg(feature = "redis")]
    INVALIDATIONS_QUEUED: Gauge "hotset_invalidations_queued",
        "Number of invalidations that Redis has not accepted yet.";
    #[cfg(feature = "redis")]
    INVALIDATION_OVERFLOWS: Counter "hotset_invalidation_overflows_total",
        "Overflows of the queue of invalidations, which replaced it by one invalidation of all entries.";
    #[cfg(feature = "redis")]
    BREAKER_OPEN: Gauge "hotset_breaker_open",
        "1 while Redis is not called because it failed too often, else 0.";
    #[cfg(feature = "redis")]
    BACKPLANE_PROVEN: Gauge "hotset_backplane_proven",
        "1 while invalidations of other processes are proven to arrive, else 0.";
    #[cfg(feature = "redis")]
    BACKPLANE_PROVEN_SECONDS: Gauge "hotset_backplane_proven_seconds",
        "Time for which invalidations of other processes have been proven to arrive without interruption, in seconds.";
    #[cfg(feature = "redis")]
    BACKPLANE_EVENTS: Counter "hotset_backplane_events_total",
        "Applied invalidations of other processes.";
    #[cfg(feature = "redis")]
    BACKPLANE_GAPS: Counter "hotset_backplane_gaps_total",
        "Gaps in the sequence of invalidations of a partition, on which its entries in L1 were invalidated.";
    #[cfg(feature = "redis")]
    BACKPLANE_SUBSCRIPTIONS: Counter "hotset_backplane_subscriptions_total",
        "Starts of the subscription to invalidations.";
    #[cfg(feature = "redis")]
    L1_INVALIDATIONS: Counter "hotset_l1_invalidations_total",
        "Invalidations of all entries of a partition in L1, because invalidations by other processes might have been missed.";
    #[cfg(feature = "redis")]
    PARTITIONS: Gauge "hotset_partitions", "Number of partitions of the namespace.";
    #[cfg(feature = "redis")]
    PARTITIONS_PROVEN: Gauge "hotset_partitions_proven",
        "Number of partitions whose invalidations by other processes are proven to arrive.";
    #[cfg(feature = "redis")]
    MOVED_PERCENT: Gauge "hotset_moved_percent", "Percentage of keys that are read in the next partitions.";
    #[cfg(feature = "redis")]
    L2_COPIES: Counter "hotset_l2_copies_total", "Values that were copied to the next partitions.";
    #[cfg(feature = "redis")]
    PARTITIONS_COLD: Counter "hotset_partitions_cold_total",
        "Losses of the values of a partition in Redis, by a failover, a moved slot, a restart, an eviction, or when a primary gets its first replica.";
    #[cfg(feature = "redis")]
    UNPROVEN_READS: Counter "hotset_unproven_reads_total",
        "Reads that L1 did not serve because invalidations were not proven to arrive.";
    #[cfg(feature = "redis")]
    SHADOW: Counter "hotset_shadow_total" ["result"],
        "Values in Redis that were compared with the loaded value in shadow mode.";
    #[cfg(feature = "redis")]
    ROLLOUT_PERCENT: Gauge "hotset_rollout_percent", "Percentage of keys that go through Redis.";
    #[cfg(feature = "redis")]
    SHADOW_ON: Gauge "hotset_shadow", "1 in shadow mode, in which values in Redis are compared and not served, else 0.";
    #[cfg(feature = "redis")]
    WARNINGS: Gauge "hotset_warnings",
        "Number of warnings about keys, values, and the configuration of Redis and the permissions there.";
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the content that `table.md` should have.
    #[cfg(feature = "redis")]
    fn expected_table() -> String {
        let row = |metric: &&Metric| {
            let (name, help) = (metric.name, metric.help);
            let kind = format!("{:?}", metric.kind).to_lowercase();
            let label = match metric.label {
                "" => String::new(),
                label => format!("`{label}`"),
            };
            format!("| `{name}` | {kind} | {label} | {help} |\n")
        };
        let rows: String = ALL.iter().map(row).collect();
        format!("| metric | kind | label | meaning |\n| --- | --- | --- | --- |\n{rows}")
    }

    #[cfg(feature = "redis")]
    #[test]
    fn table_in_the_documentation_equals_the_metrics() {
        let table = expected_table();
        let actual = include_str!("table.md");
        assert!(table == actual, "src/metrics/table.md should be\n{table}");
    }

    #[test]
    fn metric_names_follow_the_conventions_of_prometheus() {
        for metric in ALL {
            let name = metric.name;
            assert!(name.starts_with("hotset_"), "{name}");
            let is_total = name.ends_with("_total");
            assert_eq!(is_total, metric.kind == Kind::Counter, "{name}");
            let has_unit = name.ends_with("_seconds");
            assert!(has_unit || metric.kind != Kind::Histogram, "{name}");
        }
    }

    #[test]
    fn help_texts_are_sentences() {
        for metric in ALL {
            let (name, help) = (metric.name, metric.help);
            assert!(help.ends_with('.'), "{name}");
            let first = help.chars().next();
            assert!(
                first.is_some_and(|first| first == '1' || first.is_uppercase()),
                "{name}"
            );
        }
    }
}
