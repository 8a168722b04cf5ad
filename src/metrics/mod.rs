//! What caches do, for the facade `metrics`.

pub(crate) mod table;

use crate::durations::Durations;
use metrics::{
    Counter, Gauge, Histogram, Key, Label, Level, Metadata, Recorder, SharedString, Unit,
    with_recorder,
};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use table::{Kind, Metric};

/// Publishes what caches do through the facade [`metrics`](https://docs.rs/metrics), to whatever recorder is
/// installed there: Prometheus, `StatsD`, OpenTelemetry.
///
/// A hit costs nothing for it: caches count in any case, and are read by [`publish`](Self::publish), to be
/// called before each scrape, or every few seconds.
///
/// ```
/// use hotset::{LocalCache, Metrics};
/// use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
///
/// let seconds = Matcher::Suffix("_seconds".into());
/// let prometheus = PrometheusBuilder::new()
///     .set_buckets_for_metric(seconds, &Metrics::BUCKETS)?
///     .install_recorder()?;
///
/// let pages: LocalCache<u64, String> = LocalCache::builder().name("pages").capacity(1_000).build()?;
/// let metrics = Metrics::new();
/// metrics.watch(&pages)?;
///
/// pages.insert(1, "<h1>1</h1>".into());
/// pages.get(&1);
///
/// // What GET /metrics answers:
/// metrics.publish();
/// let answer = prometheus.render();
/// assert!(answer.contains(r#"hotset_hits_total{cache="pages",tier="l1"} 1"#));
/// # Ok(())
/// # }
/// ```
///
/// All have the label `cache`, its [name](crate::Builder::name), and no label grows with keys or values.
/// Durations are in seconds. The hit ratio is `hits / (hits + misses)`, of either tier; of a tiered cache
/// the tier is `l1` or `l2`, of a local one `l1`. Histograms tell what fell into buckets a quarter wide, with
/// the sum exact.
///
#[doc = include_str!("table.md")]
///
/// A clone is another handle to the same.
#[derive(Clone, Default)]
pub struct Metrics {
    watched: Arc<Mutex<Vec<Arc<Watched>>>>,
}

/// A cache that [`Metrics`] can watch: a [`LocalCache`](crate::LocalCache), a `TieredCache`, an `Arc<dyn
/// Cache>` or `Arc<dyn AsyncCache>` of either.
pub trait Watch {
    #[doc(hidden)]
    fn observed(&self) -> Option<Observed>;
}

impl<C: Watch + ?Sized> Watch for Arc<C> {
    fn observed(&self) -> Option<Observed> {
        (**self).observed()
    }
}

impl<C: Watch + ?Sized> Watch for Box<C> {
    fn observed(&self) -> Option<Observed> {
        (**self).observed()
    }
}

/// Why a cache cannot be watched.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum WatchError {
    /// It has no name to tell it by.
    NoName,
    /// Another cache has this name.
    NameTaken(String),
    /// It is an implementation of the traits that is not of this library.
    Unknown,
}

impl fmt::Display for WatchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoName => {
                f.write_str("the cache has no name to tell it by: set one, with Builder::name")
            }
            Self::NameTaken(name) => write!(
                f,
                "another cache that is watched has the name {name:?}: give each its own, with \
                 Builder::name"
            ),
            Self::Unknown => {
                f.write_str("this is no cache of hotset: watch the one that it wraps, if it does")
            }
        }
    }
}

impl std::error::Error for WatchError {}

impl Metrics {
    /// Bounds of buckets, in seconds, from 100 microseconds to a day: for loads, for calls to Redis and for
    /// the age of values.
    pub const BUCKETS: [f64; 23] = [
        0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
        5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3_600.0, 21_600.0, 86_400.0,
    ];

    /// One that watches nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Watches a cache as long as it lives. It is not kept alive; once it is dropped its metrics stay as
    /// they are, until a cache of the same name is watched, which goes on from there.
    ///
    /// # Errors
    ///
    /// If the cache has no name, or one that another has.
    pub fn watch(&self, cache: &(impl Watch + ?Sized)) -> Result<(), WatchError> {
        let observed = cache.observed().ok_or(WatchError::Unknown)?;
        let name = observed.name.ok_or(WatchError::NoName)?;
        let lives = |other: &Watched| (other.read)().is_some();
        // Read without the lock, since whoever drops a cache last drops it as it has been read.
        let namesake = self.list().into_iter().find(|other| *other.name == *name);
        if namesake.as_ref().is_some_and(|other| lives(other)) {
            return Err(WatchError::NameTaken(name));
        }
        let watched = Arc::new(Watched {
            name: name.as_str().into(),
            read: observed.read,
            published: Mutex::default(),
        });
        let mut list = self.watched.lock();
        match list.iter().position(|other| other.name == watched.name) {
            None => list.push(watched),
            Some(at) if namesake.is_some_and(|dead| Arc::ptr_eq(&dead, &list[at])) => {
                list[at] = watched;
            }
            // Another thread was faster.
            Some(_) => return Err(WatchError::NameTaken(name)),
        }
        Ok(())
    }

    /// Tells the recorder of the current thread, or else the global one, what has changed since this was
    /// last called.
    pub fn publish(&self) {
        with_recorder(|recorder| {
            for metric in table::ALL {
                metric.describe(recorder);
            }
            for watched in self.list() {
                if let Some(samples) = (watched.read)() {
                    watched.publish(samples, recorder);
                }
            }
        });
    }

    fn list(&self) -> Vec<Arc<Watched>> {
        self.watched.lock().clone()
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.list().into_iter().map(|watched| watched.name.clone());
        f.debug_list().entries(names).finish()
    }
}

/// What a cache has to say of itself.
#[doc(hidden)]
pub struct Observed {
    pub(crate) name: Option<String>,
    /// `None` once it is dropped.
    pub(crate) read: Box<dyn Fn() -> Option<Vec<Sample>> + Send + Sync>,
}

/// One metric of a cache at one moment.
pub(crate) struct Sample {
    metric: &'static Metric,
    /// Of the label that the metric has, if it has one.
    label: &'static str,
    value: Value,
}

enum Value {
    Counter(u64),
    Gauge(f64),
    Histogram(Durations),
}

impl Sample {
    pub(crate) fn counter(metric: &'static Metric, value: u64) -> Self {
        Self::counter_of(metric, "", value)
    }

    pub(crate) fn counter_of(metric: &'static Metric, label: &'static str, value: u64) -> Self {
        Self::new(metric, label, Value::Counter(value))
    }

    pub(crate) fn gauge(metric: &'static Metric, value: f64) -> Self {
        Self::new(metric, "", Value::Gauge(value))
    }

    pub(crate) fn histogram(metric: &'static Metric, durations: Durations) -> Self {
        Self::histogram_of(metric, "", durations)
    }

    pub(crate) fn histogram_of(
        metric: &'static Metric,
        label: &'static str,
        durations: Durations,
    ) -> Self {
        Self::new(metric, label, Value::Histogram(durations))
    }

    fn new(metric: &'static Metric, label: &'static str, value: Value) -> Self {
        debug_assert_eq!(label.is_empty(), metric.label.is_empty());
        Self {
            metric,
            label,
            value,
        }
    }
}

/// A cache, and how far it was published.
struct Watched {
    name: Arc<str>,
    read: Box<dyn Fn() -> Option<Vec<Sample>> + Send + Sync>,
    published: Mutex<Published>,
}

/// What the recorder knows, by name and label.
#[derive(Default)]
struct Published {
    counters: HashMap<(&'static str, &'static str), u64>,
    histograms: HashMap<(&'static str, &'static str), Durations>,
}

impl Watched {
    fn publish(&self, samples: Vec<Sample>, recorder: &dyn Recorder) {
        let mut published = self.published.lock();
        for sample in samples {
            let (metric, key) = (sample.metric, self.key(&sample));
            let of = (metric.name, sample.label);
            // Sums only grow; one that was read before another thread's is no news.
            match sample.value {
                Value::Counter(sum) => {
                    let known = published.counters.entry(of).or_default();
                    let news = sum.saturating_sub(*known);
                    *known += news;
                    metric.counter(recorder, &key).increment(news);
                }
                Value::Gauge(value) => metric.gauge(recorder, &key).set(value),
                Value::Histogram(sum) => {
                    let known = published.histograms.entry(of).or_default();
                    let histogram = metric.histogram(recorder, &key);
                    let news = sum.since(known);
                    for (seconds, count) in news.seconds() {
                        histogram.record_many(seconds, count);
                    }
                    known.add(&news);
                }
            }
        }
    }

    fn key(&self, sample: &Sample) -> Key {
        let mut labels = vec![Label::new(
            "cache",
            SharedString::from_shared(Arc::clone(&self.name)),
        )];
        if !sample.label.is_empty() {
            labels.push(Label::from_static_parts(sample.metric.label, sample.label));
        }
        Key::from_parts(sample.metric.name, labels)
    }
}

static METADATA: Metadata<'static> = Metadata::new("hotset", Level::INFO, Some("hotset"));

impl Metric {
    fn describe(&self, recorder: &dyn Recorder) {
        let (name, help) = (self.name.into(), self.help.into());
        match self.kind {
            Kind::Counter => recorder.describe_counter(name, None, help),
            Kind::Gauge => recorder.describe_gauge(name, None, help),
            Kind::Histogram => recorder.describe_histogram(name, Some(Unit::Seconds), help),
        }
    }

    fn counter(&self, recorder: &dyn Recorder, key: &Key) -> Counter {
        debug_assert_eq!(self.kind, Kind::Counter);
        recorder.register_counter(key, &METADATA)
    }

    fn gauge(&self, recorder: &dyn Recorder, key: &Key) -> Gauge {
        debug_assert_eq!(self.kind, Kind::Gauge);
        recorder.register_gauge(key, &METADATA)
    }

    fn histogram(&self, recorder: &dyn Recorder, key: &Key) -> Histogram {
        debug_assert_eq!(self.kind, Kind::Histogram);
        recorder.register_histogram(key, &METADATA)
    }
}
