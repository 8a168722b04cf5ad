//! The metrics of a local cache, for the feature `metrics`.

use crate::local::{Inner, LocalCache};
use crate::metrics::sealed::Source;
use crate::metrics::table::{
    ABANDONED_LOADS, AGE_SECONDS, CAPACITY, COALESCED, ENTRIES, HITS, INSERTS, LOAD_FAILURES,
    LOAD_SECONDS, LOADS, MEMORY_BYTES, MISSES, OUTDATED, QUEUED_LOADS, REFRESHES, REFUSED,
    REMOVALS, STALE_SERVES, WEIGHT,
};
use crate::metrics::{MetricsSource, ReadSamples, Sample, Watch};
use crate::stats::Stats;
use crate::stats::histogram::DurationHistogram;
use std::sync::{Arc, Weak};

/// The numbers and durations of a cache's loads.
pub(crate) struct Loads {
    pub(crate) begun: u64,
    pub(crate) failures: u64,
    pub(crate) queued: u64,
    pub(crate) abandoned: u64,
    pub(crate) times: DurationHistogram,
}

impl<K, V, S> Watch for LocalCache<K, V, S>
where
    K: Send + Sync + 'static,
    V: Send + Sync + 'static,
    S: Send + Sync + 'static,
{
}

impl<K, V, S> Source for LocalCache<K, V, S>
where
    K: Send + Sync + 'static,
    V: Send + Sync + 'static,
    S: Send + Sync + 'static,
{
    fn source(&self) -> MetricsSource {
        let cache: Weak<Inner<K, V, S>> = Arc::downgrade(&self.inner);
        MetricsSource {
            name: self.name().map(str::to_owned),
            cache,
        }
    }
}

impl<K: Send + Sync, V: Send + Sync, S: Send + Sync> ReadSamples for Inner<K, V, S> {
    fn samples(self: Arc<Self>) -> Vec<Sample> {
        let cache = LocalCache { inner: self };
        let stats = cache.stats();
        let loads = Loads {
            begun: stats.loads,
            failures: stats.load_failures,
            queued: stats.queued,
            abandoned: stats.abandoned_loads,
            times: stats.load_times.clone(),
        };
        samples(stats, loads, &cache)
    }
}

/// Returns the samples of a cache in this process, either alone or as the L1 of a tiered cache. `stats` are those of
/// the cache.
#[allow(clippy::cast_precision_loss)] // Recorders take `f64` only.
pub(crate) fn samples<K, V, S>(
    stats: Stats,
    loads: Loads,
    cache: &LocalCache<K, V, S>,
) -> Vec<Sample> {
    let removal = |cause, count| Sample::labeled_counter(&REMOVALS, cause, count);
    let capacity = cache.capacity();
    let capacity = capacity.map(|most| Sample::gauge(&CAPACITY, most as f64));
    let samples = [
        Sample::labeled_counter(&HITS, "l1", stats.hits),
        Sample::labeled_counter(&MISSES, "l1", stats.misses),
        Sample::counter(&LOADS, loads.begun),
        Sample::counter(&LOAD_FAILURES, loads.failures),
        Sample::histogram(&LOAD_SECONDS, loads.times),
        Sample::counter(&COALESCED, stats.coalesced),
        Sample::counter(&REFRESHES, stats.refreshes),
        Sample::counter(&STALE_SERVES, stats.stale),
        Sample::counter(&QUEUED_LOADS, loads.queued),
        Sample::counter(&ABANDONED_LOADS, loads.abandoned),
        Sample::histogram(&AGE_SECONDS, stats.ages),
        Sample::counter(&INSERTS, stats.inserts),
        Sample::counter(&REFUSED, stats.refused),
        Sample::counter(&OUTDATED, stats.outdated),
        removal("evicted", stats.evicted),
        removal("expired", stats.expired),
        removal("replaced", stats.replaced),
        removal("removed", stats.removed),
        removal("cleared", stats.cleared),
        removal("invalidated", stats.invalidated),
        Sample::gauge(&ENTRIES, stats.entries as f64),
        Sample::gauge(&WEIGHT, stats.weight as f64),
        Sample::gauge(&MEMORY_BYTES, cache.memory_usage() as f64),
    ];
    samples.into_iter().chain(capacity).collect()
}
