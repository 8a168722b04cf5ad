//! The table of all metrics, with their names and meanings.

/// A metric, with one name and any number of caches and labels.
#[derive(Debug)]
pub(crate) struct Metric {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    /// Name of the label beside `cache`, or empty.
    pub(super) label: &'static str,
    pub(super) help: &'static str,
    /// `true` if only some of the values are counted.
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
            label: concat!("" $(, $label)?),
            help: $help,
            is_sampled: false $(|| $sampled)?,
        };)*

        /// All metrics, in the order of the documentation.
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
        "Run time of loaders, which a caller would wait without the cache.";
    COALESCED: Counter "hotset_coalesced_total",
        "Callers that missed, and got the value of another caller's load.";
    RENEWALS: Counter "hotset_refreshes_total", "Loads that refreshed a live entry.";
    STALE_SERVES: Counter "hotset_stale_serves_total",
        "Callers that were served an expired value because a load failed or took too long.";
    QUEUED_LOADS: Counter "hotset_queued_loads_total",
        "Loads that had to wait for a permit.";
    ABANDONED_LOADS: Counter "hotset_abandoned_loads_total",
        "Loads that outlived their lease, so that another load took their place.";
    AGE_SECONDS: Histogram "hotset_age_seconds",
        "Age of served values since they were loaded, on one hit in 64.", sampled: true;
    INSERTS: Counter "hotset_inserts_total", "Entries stored, replacements included.";
    REFUSED: Counter "hotset_refused_total",
        "Values not stored: heavier than the whole budget, or with no time to live.";
    OUTDATED: Counter "hotset_outdated_total",
        "Loads whose value was not stored, and updates that were repeated, because the key was written meanwhile.";
    REMOVALS: Counter "hotset_removals_total" ["cause"],
        "Entries that were evicted, expired, replaced, removed, cleared or invalidated.";
    ENTRIES: Gauge "hotset_entries", "Number of entries.";
    WEIGHT: Gauge "hotset_weight", "Weight of all entries; without a weigher, each weighs 1.";
    CAPACITY: Gauge "hotset_capacity", "Maximum weight of all entries; absent if unbounded.";

    #[cfg(feature = "redis")]
    L2_CALL_SECONDS: Histogram "hotset_l2_call_seconds" ["operation"],
        "Duration of calls to Redis: ask, fill, release, invalidate, renew, acknowledge.";
    #[cfg(feature = "redis")]
    L2_FAILURES: Counter "hotset_l2_failures_total" ["operation"], "Calls to Redis that failed.";
    #[cfg(feature = "redis")]
    L2_WAITS: Counter "hotset_l2_waits_total",
        "Times that a caller waited for another process's load.";
    #[cfg(feature = "redis")]
    L2_ALONE: Counter "hotset_l2_alone_total",
        "Loads whose value was not offered to Redis, for example because it failed.";
    #[cfg(feature = "redis")]
    L2_FILLS: Counter "hotset_l2_fills_total" ["result"],
        "Loaded values for Redis: stored, or lost to an invalidation or another process.";
    #[cfg(feature = "redis")]
    L2_UNREADABLE: Counter "hotset_l2_unreadable_total",
        "Values in Redis of another schema or format, or damaged.";
    #[cfg(feature = "redis")]
    L2_UNSTORABLE: Counter "hotset_l2_unstorable_total",
        "Values that were too large for Redis, had too many tags, or could not be serialized.";
    #[cfg(feature = "redis")]
    L2_ALTERED: Counter "hotset_l2_altered_total",
        "Values that were not stored in Redis because their encoding decodes to another value.";
    #[cfg(feature = "redis")]
    L2_UNENCODABLE: Counter "hotset_l2_unencodable_total",
        "Uses of keys that cannot be encoded, or decode to another key, and are cached by each process for itself.";
    #[cfg(feature = "redis")]
    OVERDUE_LOADS: Gauge "hotset_overdue_loads",
        "Loads that still run although their lease has ended.";
    #[cfg(feature = "redis")]
    INVALIDATIONS: Counter "hotset_invalidations_total" ["result"],
        "Invalidations that were sent to Redis, or deferred because it did not accept them.";
    #[cfg(feature = "redis")]
    INVALIDATIONS_QUEUED: Gauge "hotset_invalidations_queued",
        "Invalidations that Redis has not accepted yet.";
    #[cfg(feature = "redis")]
    INVALIDATION_OVERFLOWS: Counter "hotset_invalidation_overflows_total",
        "Times that the queue of invalidations overflowed, and became one invalidation of everything.";
    #[cfg(feature = "redis")]
    BREAKER_OPEN: Gauge "hotset_breaker_open",
        "1 while Redis is not called, because it failed too often.";
    #[cfg(feature = "redis")]
    BACKPLANE_PROVEN: Gauge "hotset_backplane_proven",
        "1 while invalidations of other processes are proven to arrive.";
    #[cfg(feature = "redis")]
    BACKPLANE_PROVEN_SECONDS: Gauge "hotset_backplane_proven_seconds",
        "Seconds for which invalidations of other processes have been proven to arrive without a break.";
    #[cfg(feature = "redis")]
    BACKPLANE_EVENTS: Counter "hotset_backplane_events_total",
        "Invalidations by other processes that were applied.";
    #[cfg(feature = "redis")]
    BACKPLANE_GAPS: Counter "hotset_backplane_gaps_total",
        "Times that invalidations were missing, so that all of L1 was invalidated.";
    #[cfg(feature = "redis")]
    BACKPLANE_SUBSCRIPTIONS: Counter "hotset_backplane_subscriptions_total",
        "Times that the subscription was started.";
    #[cfg(feature = "redis")]
    FORGETS: Counter "hotset_forgets_total",
        "Times that all of L1 was invalidated, because invalidations might have been missed.";
    #[cfg(feature = "redis")]
    UNPROVEN_READS: Counter "hotset_unproven_reads_total",
        "Reads that L1 could not serve, because invalidations were not proven to arrive.";
    #[cfg(feature = "redis")]
    SHADOW: Counter "hotset_shadow_total" ["result"],
        "Values in Redis that were compared in shadow mode: the same as the loaded value, or different.";
    #[cfg(feature = "redis")]
    ROLLOUT_PERCENT: Gauge "hotset_rollout_percent", "Percentage of keys that go through Redis.";
    #[cfg(feature = "redis")]
    SHADOW_ON: Gauge "hotset_shadow", "1 while the values in Redis are compared, and not served.";
    #[cfg(feature = "redis")]
    WARNINGS: Gauge "hotset_warnings",
        "Number of warnings about Redis's configuration, this process's permissions there, keys and values.";
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the table of the documentation.
    fn documented() -> String {
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
        format!("| metric | kind | label | |\n| --- | --- | --- | --- |\n{rows}")
    }

    #[cfg(feature = "redis")]
    #[test]
    fn the_documentation_has_this_table() {
        let table = documented();
        assert!(table == include_str!("table.md"), "it should be\n{table}");
    }

    #[test]
    fn names_are_as_prometheus_wants_them() {
        for metric in ALL {
            let name = metric.name;
            assert!(name.starts_with("hotset_"), "{name}");
            let is_total = name.ends_with("_total");
            assert_eq!(is_total, metric.kind == Kind::Counter, "{name}");
            let has_unit = name.ends_with("_seconds");
            assert!(has_unit || metric.kind != Kind::Histogram, "{name}");
            assert!(metric.help.ends_with('.'), "{name}");
        }
        assert_eq!(documented().lines().count(), ALL.len() + 2);
    }
}
