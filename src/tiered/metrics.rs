//! The metrics of a tiered cache, for the feature `metrics`.

use crate::local::tier_hooks::{Loads, samples};
use crate::metrics::sealed::Source;
use crate::metrics::table::{
    BACKPLANE_EVENTS, BACKPLANE_GAPS, BACKPLANE_PROVEN, BACKPLANE_PROVEN_SECONDS,
    BACKPLANE_SUBSCRIPTIONS, BREAKER_OPEN, HITS, INVALIDATION_OVERFLOWS, INVALIDATIONS,
    INVALIDATIONS_QUEUED, L1_INVALIDATIONS, L2_ALTERED, L2_CALL_SECONDS, L2_COPIES, L2_FAILURES,
    L2_FILLS, L2_REPLICA_READS, L2_UNENCODABLE, L2_UNLEASED_VALUES, L2_UNREADABLE, L2_UNSTORABLE,
    L2_WAITS, MISSES, MOVED_PERCENT, OVERDUE_LOADS, PARTITIONS, PARTITIONS_COLD, PARTITIONS_PROVEN,
    ROLLOUT_PERCENT, SHADOW, SHADOW_ON, UNPROVEN_READS, WARNINGS,
};
use crate::metrics::{MetricsSource, ReadSamples, Sample, Watch};
use crate::tiered::{BlockingCache, Health, Inner, RemoteKey, RemoteValue, TierStats, TieredCache};
use std::sync::{Arc, Weak};

impl<K: RemoteKey, V: RemoteValue> Watch for TieredCache<K, V> {}

impl<K: RemoteKey, V: RemoteValue> Source for TieredCache<K, V> {
    fn source(&self) -> MetricsSource {
        let cache: Weak<Inner<K, V>> = Arc::downgrade(&self.inner);
        MetricsSource {
            name: Some(self.name().to_owned()),
            cache,
        }
    }
}

impl<K: RemoteKey, V: RemoteValue> Watch for BlockingCache<K, V> {}

impl<K: RemoteKey, V: RemoteValue> Source for BlockingCache<K, V> {
    fn source(&self) -> MetricsSource {
        self.tier.source()
    }
}

impl<K: RemoteKey, V: RemoteValue> ReadSamples for Inner<K, V> {
    fn samples(self: Arc<Self>) -> Vec<Sample> {
        let (stats, tier) = (self.l1.stats(), self.tier_stats());
        let loads = Loads {
            begun: tier.loads,
            failures: tier.load_failures,
            queued: tier.queued_loads,
            abandoned: tier.abandoned_loads,
            times: tier.load_times.clone(),
        };
        let mut all = samples(stats, loads, &self.l1);
        all.extend(tier_samples(&tier));
        all.extend(health_samples(&self.health()));
        all
    }
}

fn tier_samples(tier: &TierStats) -> Vec<Sample> {
    let mut samples = vec![
        Sample::labeled_counter(&HITS, "l2", tier.l2_hits),
        Sample::labeled_counter(&MISSES, "l2", tier.l2_misses),
        Sample::counter(&L2_WAITS, tier.l2_waits),
        Sample::counter(&L2_UNLEASED_VALUES, tier.unleased_values),
        Sample::labeled_counter(&L2_FILLS, "stored", tier.fills),
        Sample::labeled_counter(&L2_FILLS, "lost", tier.lost_fills),
        Sample::counter(&L2_COPIES, tier.copied),
        Sample::counter(&L2_UNREADABLE, tier.unreadable),
        Sample::counter(&L2_UNSTORABLE, tier.unstorable),
        Sample::counter(&L2_ALTERED, tier.altered),
        Sample::counter(&L2_UNENCODABLE, tier.unencodable),
        Sample::labeled_counter(&INVALIDATIONS, "sent", tier.invalidations),
        Sample::labeled_counter(&INVALIDATIONS, "deferred", tier.deferred),
        Sample::counter(&INVALIDATION_OVERFLOWS, tier.overflows),
        Sample::counter(&BACKPLANE_EVENTS, tier.events),
        Sample::counter(&L1_INVALIDATIONS, tier.l1_invalidations),
        Sample::counter(&PARTITIONS_COLD, tier.cold_partitions),
        Sample::counter(&UNPROVEN_READS, tier.unproven_reads),
        Sample::labeled_counter(&SHADOW, "same", tier.shadow_same),
        Sample::labeled_counter(&SHADOW, "different", tier.shadow_different),
    ];
    for (operation, calls) in tier.calls.iter() {
        let times = calls.times.clone();
        samples.push(Sample::labeled_histogram(
            &L2_CALL_SECONDS,
            operation,
            times,
        ));
        samples.push(Sample::labeled_counter(
            &L2_FAILURES,
            operation,
            calls.failures,
        ));
    }
    for (outcome, count) in tier.replica_reads.iter() {
        samples.push(Sample::labeled_counter(&L2_REPLICA_READS, outcome, count));
    }
    samples
}

#[allow(clippy::cast_precision_loss)] // Recorders take `f64` only.
fn health_samples(health: &Health) -> [Sample; 13] {
    let proven_for = health.proven_for.unwrap_or_default();
    let partitions = &health.partitions;
    let proven = partitions.iter().filter(|it| it.proven_for.is_some());
    let gauge = |metric, is: bool| Sample::gauge(metric, f64::from(u8::from(is)));
    [
        gauge(&BREAKER_OPEN, health.breaker_open),
        gauge(&BACKPLANE_PROVEN, health.proven_for.is_some()),
        Sample::gauge(&BACKPLANE_PROVEN_SECONDS, proven_for.as_secs_f64()),
        Sample::counter(&BACKPLANE_GAPS, health.gaps),
        Sample::counter(&BACKPLANE_SUBSCRIPTIONS, health.subscriptions),
        Sample::gauge(&PARTITIONS, partitions.len() as f64),
        Sample::gauge(&PARTITIONS_PROVEN, proven.count() as f64),
        Sample::gauge(&MOVED_PERCENT, health.moved_percent),
        Sample::gauge(&INVALIDATIONS_QUEUED, health.queued as f64),
        Sample::gauge(&OVERDUE_LOADS, health.overdue_loads as f64),
        Sample::gauge(&ROLLOUT_PERCENT, health.percent),
        gauge(&SHADOW_ON, health.shadow),
        Sample::gauge(&WARNINGS, health.warnings.len() as f64),
    ]
}
