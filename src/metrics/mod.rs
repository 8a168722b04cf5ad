//! Metrics of caches, published through the facade `metrics`.

mod dropped;
mod sample;
pub(crate) mod table;
mod watch;
mod watched;

pub(crate) use sample::Sample;
pub(crate) use watch::{MetricsSource, ReadSamples, sealed};
pub use watch::{Watch, WatchError};

use dropped::DroppedCaches;
use metrics::with_recorder;
use parking_lot::Mutex;
use std::fmt;
use std::sync::Arc;
use watched::WatchedCache;

/// A publisher of the metrics of caches, through the facade [`metrics`](https://docs.rs/metrics), to the recorder
/// that is installed there: Prometheus, `StatsD`, OpenTelemetry.
///
/// Caches count their operations in any case. Call [`publish`](Self::publish) before each scrape, or every few
/// seconds, to read the counters and to pass them to the recorder. Some recorders keep all recorded values of a
/// histogram until they are scraped or maintained, such as by `run_upkeep` of the recorder in the example.
///
/// All metrics have the label `cache`, which is the [name](crate::LocalCacheBuilder::name) of the cache. The number of
/// label values does not grow with keys or values. Durations are in seconds. The hit ratio of a tier is
/// `hits / (hits + misses)`; a tiered cache has the tiers `l1` and `l2`, a local cache has `l1`. A histogram is
/// recorded with a resolution of 25%. Ages are a sample, of which each call of `publish` records at most 4,096.
///
#[doc = include_str!("table.md")]
///
/// A clone is another handle to the same publisher.
///
/// # Examples
///
/// ```
/// use hotset::{LocalCache, Metrics};
/// use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
///
/// let prefix = Matcher::Prefix("hotset_".into());
/// let prometheus = PrometheusBuilder::new()
///     .set_buckets_for_metric(prefix, Metrics::BUCKETS)?
///     .install_recorder()?;
///
/// let pages: LocalCache<u64, String> = LocalCache::builder().name("pages").capacity(1_000).build()?;
/// let metrics = Metrics::new();
/// metrics.watch(&pages)?;
///
/// pages.insert(1, "<h1>1</h1>".into());
/// pages.get(&1);
///
/// // The response to GET /metrics:
/// metrics.publish();
/// let response = prometheus.render();
/// assert!(response.contains(r#"hotset_hits_total{cache="pages",tier="l1"} 1"#));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Default)]
pub struct Metrics {
    caches: Arc<Mutex<Caches>>,
}

#[derive(Default)]
struct Caches {
    watched: Vec<Arc<WatchedCache>>,
    dropped: DroppedCaches,
}

impl Metrics {
    /// Upper bounds for the buckets of histograms, in seconds, from 100 microseconds to a day. They suit loads, calls
    /// to Redis and the ages of values.
    pub const BUCKETS: &'static [f64] = &[
        0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
        5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3_600.0, 21_600.0, 86_400.0,
    ];

    /// Creates a publisher that watches no cache.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Publishes the metrics of a cache from now on, until the cache is dropped. The cache is not kept alive.
    ///
    /// When the cache is dropped, its gauges become NaN and its counters keep their values. The counters of a new
    /// cache with the same name continue from there. For this, the totals of the 1,000 names that were dropped last
    /// are kept. A cache whose name was dropped before these starts from zero; a recorder that never decreases a
    /// counter then shows the old total until the new one exceeds it.
    ///
    /// # Errors
    ///
    /// Returns an error if the cache has no name, or the name of a cache that is watched already.
    ///
    /// # Examples
    ///
    /// ```
    /// use hotset::{LocalCache, Metrics, WatchError};
    ///
    /// let metrics = Metrics::new();
    /// let prices: LocalCache<u64, u64> = LocalCache::builder().name("prices").capacity(100).build()?;
    /// metrics.watch(&prices)?;
    ///
    /// let without_name: LocalCache<u64, u64> = LocalCache::new(100);
    /// assert_eq!(metrics.watch(&without_name), Err(WatchError::NoName));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn watch(&self, cache: &(impl Watch + ?Sized)) -> Result<(), WatchError> {
        let MetricsSource { name, cache } = cache.source();
        let name = name.ok_or(WatchError::NoName)?;
        // Also bounds `watched` for a program that never calls `publish`.
        self.retire_dropped();
        let mut caches = self.caches.lock();
        if caches.watched.iter().any(|other| *other.name == *name) {
            return Err(WatchError::NameTaken(name));
        }
        let base = caches.dropped.take(&name);
        let watched = WatchedCache::new(name.into(), cache, base);
        caches.watched.push(Arc::new(watched));
        Ok(())
    }

    /// Publishes the current metrics of all watched caches to the recorder of the current thread, or else to the
    /// global one.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn example(metrics: hotset::Metrics) {
    /// use std::{thread, time::Duration};
    ///
    /// thread::spawn(move || {
    ///     loop {
    ///         metrics.publish();
    ///         thread::sleep(Duration::from_secs(5));
    ///     }
    /// });
    /// # }
    /// ```
    pub fn publish(&self) {
        with_recorder(|recorder| {
            for metric in table::ALL {
                metric.describe(recorder);
            }
            self.retire_dropped();
            for watched in self.watched() {
                watched.publish(recorder);
            }
        });
    }

    fn watched(&self) -> Vec<Arc<WatchedCache>> {
        self.caches.lock().watched.clone()
    }

    /// Stops watching the caches that were dropped, and keeps the totals of their counters.
    fn retire_dropped(&self) {
        for watched in self.watched() {
            if watched.is_dropped() {
                watched.unset_gauges();
                self.retire(&watched);
            }
        }
    }

    fn retire(&self, dropped: &Arc<WatchedCache>) {
        let mut caches = self.caches.lock();
        let mut watched = caches.watched.iter();
        // Another thread may have retired it in the meantime.
        if let Some(index) = watched.position(|other| Arc::ptr_eq(other, dropped)) {
            caches.watched.swap_remove(index);
            let name = Arc::clone(&dropped.name);
            caches.dropped.insert(name, dropped.totals());
        }
    }
}

/// Shows the names of the watched caches.
impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let watched = self.watched();
        let names = watched.iter().map(|watched| &watched.name);
        f.debug_list().entries(names).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LocalCache;
    use dropped::MAX_DROPPED_CACHES;

    fn named(name: &str) -> LocalCache<u64, u64> {
        let builder = LocalCache::builder().name(name).capacity(1).shards(1);
        builder.build().unwrap()
    }

    #[test]
    fn dropped_caches_are_no_longer_watched_although_nothing_was_published() {
        let metrics = Metrics::new();
        for name in ["first", "second", "third"] {
            metrics.watch(&named(name)).unwrap();
        }
        assert_eq!(metrics.watched().len(), 1);
    }

    #[test]
    fn totals_of_more_names_than_the_bound_are_discarded() {
        let metrics = Metrics::new();
        let watch_with_total = |name: &str| {
            let cache = named(name);
            metrics.watch(&cache).unwrap();
            let base = metrics.watched()[0].totals();
            cache.insert(1, 1);
            metrics.publish();
            let total =
                |totals: watched::CounterTotals| totals.get(&("hotset_inserts_total", "")).copied();
            (total(base), total(metrics.watched()[0].totals()))
        };
        assert_eq!(watch_with_total("first"), (None, Some(1)));
        assert_eq!(watch_with_total("first"), (Some(1), Some(2)));
        for name in 1..=MAX_DROPPED_CACHES {
            watch_with_total(&name.to_string());
        }
        assert_eq!(watch_with_total("second"), (None, Some(1)));
        assert_eq!(watch_with_total("first"), (None, Some(1)));
    }
}
