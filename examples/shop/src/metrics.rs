//! The route `/metrics`: metrics of the caches and of the shop, for Prometheus.

use crate::AnyError;
use crate::caches::{Caches, map_caches};
use hotset::Metrics;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use std::time::Duration;
use tokio::time::interval;

/// The interval at which the exporter moves recorded samples into its histograms, so that they use bounded memory.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// The bucket bounds of request latencies, in seconds. A request that hits the cache takes microseconds.
const REQUEST_BUCKETS: [f64; 13] = [
    2e-6, 5e-6, 1e-5, 2e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 5e-3, 2.5e-2, 0.1, 1.0,
];

/// The exporter of all metrics.
pub(crate) struct Exporter {
    metrics: Metrics,
    prometheus: PrometheusHandle,
}

impl Exporter {
    /// Installs the recorder, and starts its upkeep.
    pub(crate) fn start(caches: &Caches) -> Result<Self, AnyError> {
        let requests = Matcher::Full("shop_request_seconds".into());
        let prometheus = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Prefix("hotset_".into()), Metrics::BUCKETS)?
            .set_buckets_for_metric(requests, &REQUEST_BUCKETS)?
            .install_recorder()?;
        let metrics = Metrics::new();
        for watched in map_caches!(caches, (_name, store) => metrics.watch(&store.cache)) {
            watched?;
        }
        let (handle, mut ticks) = (prometheus.clone(), interval(UPKEEP_INTERVAL));
        tokio::spawn(async move {
            loop {
                ticks.tick().await;
                handle.run_upkeep();
            }
        });
        Ok(Self {
            metrics,
            prometheus,
        })
    }

    /// Returns all metrics as text.
    pub(crate) fn render(&self) -> String {
        self.metrics.publish();
        self.prometheus.render()
    }
}
