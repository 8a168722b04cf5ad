//! What caches do, for the facade `metrics`.

pub(crate) mod table;

use crate::stats::histogram::DurationHistogram;
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
/// Caches count in any case, and are read by [`publish`](Self::publish), to be called before each scrape,
/// or every few seconds. Some recorders keep what a histogram is told until they are scraped, or looked
/// after as they ask for: `run_upkeep` of the one below.
///
/// ```
/// use hotset::{LocalCache, Metrics};
/// use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
///
/// let ours = Matcher::Prefix("hotset_".into());
/// let prometheus = PrometheusBuilder::new()
///     .set_buckets_for_metric(ours, Metrics::BUCKETS)?
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
/// All have the label `cache`, its [name](crate::LocalCacheBuilder::name), and no label grows with keys or values.
/// DurationHistogram are in seconds. The hit ratio is `hits / (hits + misses)`, of either tier; of a tiered cache
/// the tier is `l1` or `l2`, of a local one `l1`. Histograms tell what fell into buckets a quarter wide; ages,
/// which are a sample, tell at most 4,096 values each time.
///
#[doc = include_str!("table.md")]
///
/// A clone is another handle to the same.
#[derive(Clone, Default)]
pub struct Metrics {
    list: Arc<Mutex<List>>,
}

#[derive(Default)]
struct List {
    watched: Vec<Arc<Watched>>,
    /// How far the counters of caches that are gone had come, by name.
    gone: HashMap<Arc<str>, HashMap<Of, u64>>,
}

/// What is published under one name, and with which label.
type Of = (&'static str, &'static str);

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

impl<C: Watch + ?Sized> Watch for &C {
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
    /// A cache that is watched has this name: another, or it is watched already.
    NameTaken(String),
    /// It is an implementation of the traits that is not of this library.
    Unknown,
}

impl fmt::Display for WatchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoName => f.write_str(
                "the cache has no name to tell it by: set one, with LocalCacheBuilder::name",
            ),
            Self::NameTaken(name) => write!(
                f,
                "a cache of the name {name:?} is watched already: watch each once, and give each a name \
                 of its own, with LocalCacheBuilder::name"
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
    pub const BUCKETS: &'static [f64] = &[
        0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
        5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3_600.0, 21_600.0, 86_400.0,
    ];

    /// One that watches nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Watches a cache as long as it lives; it is not kept alive. Once it is dropped its gauges are not a
    /// number, and its counters stay, until a cache of the same name is watched, which goes on from there.
    ///
    /// # Errors
    ///
    /// If the cache has no name, or one that is watched already, or is not one of this library.
    pub fn watch(&self, cache: &(impl Watch + ?Sized)) -> Result<(), WatchError> {
        let observed = cache.observed().ok_or(WatchError::Unknown)?;
        let name = observed.name.ok_or(WatchError::NoName)?;
        // Without the lock, since a cache that was about to go is dropped as it has been read.
        let namesake = self
            .watched()
            .into_iter()
            .find(|other| *other.name == *name);
        if let Some(dead) = namesake.filter(|other| (other.read)().is_none()) {
            self.let_go(&dead);
        }
        let mut list = self.list.lock();
        if list.watched.iter().any(|other| *other.name == *name) {
            return Err(WatchError::NameTaken(name));
        }
        let name: Arc<str> = name.into();
        let base = list.gone.remove(&name).unwrap_or_default();
        list.watched.push(Arc::new(Watched {
            name,
            read: observed.read,
            published: Mutex::new(Published::after(base)),
        }));
        Ok(())
    }

    /// Tells the recorder of the current thread, or else the global one, how it is now.
    pub fn publish(&self) {
        with_recorder(|recorder| {
            for metric in table::ALL {
                metric.describe(recorder);
            }
            for watched in self.watched() {
                if let Some(samples) = (watched.read)() {
                    watched.publish(samples, recorder);
                } else {
                    watched.unset();
                    self.let_go(&watched);
                }
            }
        });
    }

    fn watched(&self) -> Vec<Arc<Watched>> {
        self.list.lock().watched.clone()
    }

    /// The cache was dropped.
    fn let_go(&self, dead: &Arc<Watched>) {
        let mut list = self.list.lock();
        if let Some(at) = list
            .watched
            .iter()
            .position(|other| Arc::ptr_eq(other, dead))
        {
            list.watched.swap_remove(at);
            let counters = dead.published.lock().counters.clone();
            list.gone.insert(Arc::clone(&dead.name), counters);
        }
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self
            .watched()
            .into_iter()
            .map(|watched| watched.name.clone());
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
    Histogram(DurationHistogram),
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

    pub(crate) fn histogram(metric: &'static Metric, durations: DurationHistogram) -> Self {
        Self::histogram_of(metric, "", durations)
    }

    pub(crate) fn histogram_of(
        metric: &'static Metric,
        label: &'static str,
        durations: DurationHistogram,
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

/// How far a cache was published.
#[derive(Default)]
struct Published {
    /// What its namesakes before it had counted.
    base: HashMap<Of, u64>,
    /// What is known, with that.
    counters: HashMap<Of, u64>,
    gauges: HashMap<Of, Gauge>,
    histograms: HashMap<Of, DurationHistogram>,
}

impl Published {
    fn after(base: HashMap<Of, u64>) -> Self {
        Self {
            counters: base.clone(),
            base,
            ..Self::default()
        }
    }
}

/// Ages are told of at most so many hits at one time.
const MOST_SAMPLED: u64 = 4_096;

impl Watched {
    fn publish(&self, samples: Vec<Sample>, recorder: &dyn Recorder) {
        let mut published = self.published.lock();
        for sample in samples {
            let (metric, key) = (sample.metric, self.key(&sample));
            let of = (metric.name, sample.label);
            match sample.value {
                Value::Counter(sum) => {
                    let sum = sum + published.base.get(&of).copied().unwrap_or_default();
                    let known = published.counters.entry(of).or_default();
                    // Another thread may have read it later, and told it before.
                    *known = sum.max(*known);
                    metric.counter(recorder, &key).absolute(*known);
                }
                Value::Gauge(value) => {
                    let gauge = metric.gauge(recorder, &key);
                    gauge.set(value);
                    published.gauges.insert(of, gauge);
                }
                Value::Histogram(sum) => {
                    let known = published.histograms.entry(of).or_default();
                    let histogram = metric.histogram(recorder, &key);
                    let mut news = sum.since(known);
                    let seconds = news.seconds();
                    let most = if metric.is_sampled {
                        MOST_SAMPLED
                    } else {
                        u64::MAX
                    };
                    let share = news.count().div_ceil(most).max(1);
                    for (value, count) in &seconds {
                        let count = count.div_ceil(share);
                        histogram.record_many(*value, usize::try_from(count).unwrap_or(usize::MAX));
                    }
                    news.set_total(&seconds);
                    known.add(&news);
                }
            }
        }
    }

    /// Nobody knows how it is now.
    fn unset(&self) {
        for gauge in self.published.lock().gauges.values() {
            gauge.set(f64::NAN);
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
