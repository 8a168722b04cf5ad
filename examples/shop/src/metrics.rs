//! `/metrics`: what the caches and the shop count, for Prometheus.

use crate::AnyError;
use crate::caches::{Caches, each};
use crate::store::{Store, either};
use hotset::Metrics;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use std::time::Duration;
use tokio::time::interval;

/// How often histograms are summed up, which hold all that was noted until then.
const UPKEEP: Duration = Duration::from_secs(5);

/// Requests that hit take microseconds.
const REQUESTS: [f64; 13] = [
    2e-6, 5e-6, 1e-5, 2e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 5e-3, 2.5e-2, 0.1, 1.0,
];

pub(crate) struct Exporter {
    metrics: Metrics,
    prometheus: PrometheusHandle,
}

impl Exporter {
    pub(crate) fn start(caches: &Caches) -> Result<Self, AnyError> {
        let requests = Matcher::Full("shop_request_seconds".into());
        let prometheus = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Prefix("hotset_".into()), Metrics::BUCKETS)?
            .set_buckets_for_metric(requests, &REQUESTS)?
            .install_recorder()?;
        let metrics = Metrics::new();
        for watched in
            each!(caches, (_name, store) => either!(store, cache => metrics.watch(cache)))
        {
            watched?;
        }
        let (kept, mut ticks) = (prometheus.clone(), interval(UPKEEP));
        tokio::spawn(async move {
            loop {
                ticks.tick().await;
                kept.run_upkeep();
            }
        });
        Ok(Self {
            metrics,
            prometheus,
        })
    }

    pub(crate) fn render(&self) -> String {
        self.metrics.publish();
        self.prometheus.render()
    }
}
