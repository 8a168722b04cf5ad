//! What a cache in this process has to say of itself, for the feature `metrics`.

use crate::local::{Inner, LocalCache};
use crate::metrics::table::{
    ABANDONED_LOADS, AGE_SECONDS, CAPACITY, COALESCED, ENTRIES, HITS, INSERTS, LOAD_FAILURES,
    LOAD_SECONDS, LOADS, MISSES, OUTDATED, QUEUED_LOADS, REFUSED, REMOVALS, RENEWALS, STALE_SERVES,
    WEIGHT,
};
use crate::metrics::{Observed, Sample, Watch};
use crate::stats::Stats;
use crate::stats::histogram::DurationHistogram;
use std::sync::{Arc, Weak};

/// Runs of loaders.
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
    fn observed(&self) -> Option<Observed> {
        let weak: Weak<Inner<K, V, S>> = Arc::downgrade(&self.inner);
        Some(Observed {
            name: self.name().map(str::to_owned),
            read: Box::new(move || {
                let cache = Self {
                    inner: weak.upgrade()?,
                };
                let stats = cache.stats();
                let loads = Loads {
                    begun: stats.loads,
                    failures: stats.load_failures,
                    queued: stats.queued,
                    abandoned: stats.abandoned_loads,
                    times: stats.load_times.clone(),
                };
                Some(samples(stats, loads, cache.capacity()))
            }),
        })
    }
}

/// What a cache in this process, alone or as an L1, has done and holds.
#[allow(clippy::cast_precision_loss)] // A recorder knows no other numbers.
pub(crate) fn samples(stats: Stats, loads: Loads, capacity: Option<u64>) -> Vec<Sample> {
    let removal = |cause, count| Sample::counter_of(&REMOVALS, cause, count);
    let capacity = capacity.map(|most| Sample::gauge(&CAPACITY, most as f64));
    let samples = [
        Sample::counter_of(&HITS, "l1", stats.hits),
        Sample::counter_of(&MISSES, "l1", stats.misses),
        Sample::counter(&LOADS, loads.begun),
        Sample::counter(&LOAD_FAILURES, loads.failures),
        Sample::histogram(&LOAD_SECONDS, loads.times),
        Sample::counter(&COALESCED, stats.coalesced),
        Sample::counter(&RENEWALS, stats.refreshes),
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
    ];
    samples.into_iter().chain(capacity).collect()
}
