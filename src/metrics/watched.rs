//! A watched cache, and the values that were published for it.

use crate::metrics::sample::{Sample, Value};
use crate::metrics::table::{Kind, Metric};
use crate::metrics::watch::ReadSamples;
use crate::stats::histogram::DurationHistogram;
use metrics::{
    Counter, Gauge, Histogram, Key, Label, Level, Metadata, Recorder, SharedString, Unit,
};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::{Arc, Weak};

/// The name of a metric, and the value of its label besides `cache`.
pub(super) type SeriesKey = (&'static str, &'static str);

/// The totals of the counters of a cache.
pub(super) type CounterTotals = HashMap<SeriesKey, u64>;

/// The maximum number of values of a sampled histogram that are recorded by one call of `publish`.
const MAX_RECORDED_SAMPLES: u64 = 4_096;

/// A watched cache, and the values that were published for it.
pub(super) struct WatchedCache {
    pub(super) name: Arc<str>,
    cache: Weak<dyn ReadSamples>,
    published: Mutex<Published>,
}

/// The values that were published for a cache.
#[derive(Default)]
struct Published {
    /// The totals of earlier caches of the same name.
    base: CounterTotals,
    /// The published totals, which include `base`.
    counters: CounterTotals,
    gauges: HashMap<SeriesKey, Gauge>,
    histograms: HashMap<SeriesKey, DurationHistogram>,
}

impl WatchedCache {
    /// Creates a watched cache whose counters continue from `base`.
    pub(super) fn new(name: Arc<str>, cache: Weak<dyn ReadSamples>, base: CounterTotals) -> Self {
        Self {
            name,
            cache,
            published: Mutex::new(Published {
                counters: base.clone(),
                base,
                ..Published::default()
            }),
        }
    }

    pub(super) fn is_dropped(&self) -> bool {
        self.cache.strong_count() == 0
    }

    /// Returns the published totals of the counters.
    pub(super) fn totals(&self) -> CounterTotals {
        self.published.lock().counters.clone()
    }

    /// Publishes the current values of the cache to `recorder`. Does nothing if the cache was dropped.
    pub(super) fn publish(&self, recorder: &dyn Recorder) {
        let Some(cache) = self.cache.upgrade() else {
            return;
        };
        let samples = cache.samples();
        let mut published = self.published.lock();
        for sample in samples {
            let key = self.key(&sample);
            published.publish(sample, &key, recorder);
        }
    }

    /// Sets all gauges to NaN, because the cache was dropped and has no current values.
    pub(super) fn unset_gauges(&self) {
        for gauge in self.published.lock().gauges.values() {
            gauge.set(f64::NAN);
        }
    }

    fn key(&self, sample: &Sample) -> Key {
        let name = SharedString::from_shared(Arc::clone(&self.name));
        let mut labels = vec![Label::new("cache", name)];
        if !sample.label.is_empty() {
            labels.push(Label::from_static_parts(sample.metric.label, sample.label));
        }
        Key::from_parts(sample.metric.name, labels)
    }
}

impl Published {
    fn publish(&mut self, sample: Sample, key: &Key, recorder: &dyn Recorder) {
        let metric = sample.metric;
        let series = (metric.name, sample.label);
        match sample.value {
            Value::Counter(total) => {
                let total = total + self.base.get(&series).copied().unwrap_or_default();
                let published = self.counters.entry(series).or_default();
                // Another thread may have read a larger total later, and published it earlier.
                *published = total.max(*published);
                metric.counter(recorder, key).absolute(*published);
            }
            Value::Gauge(value) => {
                let gauge = metric.gauge(recorder, key);
                gauge.set(value);
                self.gauges.insert(series, gauge);
            }
            Value::Histogram(total) => {
                let published = self.histograms.entry(series).or_default();
                record_new(metric, &metric.histogram(recorder, key), &total, published);
            }
        }
    }
}

/// Records the durations in `total` that are not in `published` yet, and adds them to `published`.
fn record_new(
    metric: &Metric,
    histogram: &Histogram,
    total: &DurationHistogram,
    published: &mut DurationHistogram,
) {
    let mut new = total.since(published);
    let seconds = new.seconds();
    let max = if metric.is_sampled {
        MAX_RECORDED_SAMPLES
    } else {
        u64::MAX
    };
    let divisor = new.count().div_ceil(max).max(1);
    for (value, count) in &seconds {
        let count = count.div_ceil(divisor);
        histogram.record_many(*value, usize::try_from(count).unwrap_or(usize::MAX));
    }
    new.set_total(&seconds);
    published.add(&new);
}

static METADATA: Metadata<'static> = Metadata::new("hotset", Level::INFO, Some("hotset"));

impl Metric {
    /// Gives the recorder the description of this metric.
    pub(super) fn describe(&self, recorder: &dyn Recorder) {
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
