//! Publishes the statistics of a cache through the facade `metrics`, and prints them in the format of Prometheus.
//!
//! ```sh
//! cargo run --features metrics --example metrics
//! ```

use hotset::{LocalCache, Metrics};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};
use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let durations = Matcher::Prefix("hotset_".into());
    let prometheus = PrometheusBuilder::new()
        .set_buckets_for_metric(durations, Metrics::BUCKETS)?
        .install_recorder()?;

    // The name becomes the label `cache` of each metric.
    let squares: LocalCache<u64, u64> = LocalCache::builder()
        .name("squares")
        .capacity(1_000)
        .build()?;
    let metrics = Metrics::new();
    metrics.watch(&squares)?;

    for number in (0..10_000).map(|step| step % 900) {
        squares.get_or_insert_with(&number, |number| number * number);
    }

    // A service does the same for each request of `GET /metrics`.
    metrics.publish();
    let text = prometheus.render();
    for line in text.lines().filter(|line| !line.contains("_bucket")) {
        println!("{line}");
    }
    Ok(())
}
