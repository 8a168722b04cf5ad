//! Metrics that are published through the facade `metrics`, in the format of Prometheus.

// The compared numbers are whole.
#![allow(clippy::float_cmp)]

#[cfg(feature = "serde")]
use hotset::{AsyncCache, Cache, CacheConfig};
use hotset::{LocalCache, Metrics, WatchError};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusRecorder};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

/// The recorder of one test.
struct Prometheus(PrometheusRecorder);

impl Prometheus {
    fn new() -> Self {
        let ours = Matcher::Prefix("hotset_".into());
        let builder = PrometheusBuilder::new().set_buckets_for_metric(ours, Metrics::BUCKETS);
        Self(builder.unwrap().build_recorder())
    }

    fn scrape(&self, metrics: &Metrics) -> String {
        metrics::with_local_recorder(&self.0, || metrics.publish());
        self.0.handle().render()
    }
}

/// Returns the number after `line`, which is the name of a metric with its labels.
fn value(scraped: &str, line: &str) -> f64 {
    let found = scraped.lines().find_map(|each| each.strip_prefix(line));
    let found = found.unwrap_or_else(|| panic!("no {line} in\n{scraped}"));
    found.trim().parse().unwrap()
}

fn named(name: &str) -> LocalCache<u64, u64> {
    let builder = LocalCache::builder().name(name).capacity(100);
    builder.build().unwrap()
}

fn get_or_load(cache: &LocalCache<u64, u64>, key: u64) {
    let load = |key: &u64| Ok::<u64, Infallible>(*key);
    cache.get_or_load(&key, load).unwrap();
}

#[test]
fn all_metrics_are_published_before_the_first_operation() {
    let (prometheus, metrics, cache) = (Prometheus::new(), Metrics::new(), named("pages"));
    metrics.watch(&cache).unwrap();
    let scraped = prometheus.scrape(&metrics);
    // All documented metrics of a cache without Redis, each with its help text.
    let documented = include_str!("../../src/metrics/table.md").lines().skip(2);
    let local = documented.take_while(|row| !row.contains("_l2_call_"));
    let mut count = 0;
    for row in local {
        let mut cells = row
            .split(" | ")
            .map(|cell| cell.trim_matches(['|', ' ', '`']));
        let (name, kind) = (cells.next().unwrap(), cells.next().unwrap());
        assert!(
            scraped.contains(&format!("# TYPE {name} {kind}\n")),
            "{name}\n{scraped}"
        );
        assert!(scraped.contains(&format!("# HELP {name} ")), "{name}");
        let first = match kind {
            "histogram" => format!("{name}_count{{cache=\"pages\"}} 0\n"),
            _ => format!("\n{name}{{cache=\"pages\""),
        };
        assert!(scraped.contains(&first), "{first}\n{scraped}");
        count += 1;
    }
    assert_eq!(count, 19);
    assert_eq!(value(&scraped, "hotset_capacity{cache=\"pages\"}"), 100.0);
    let evicted = "hotset_removals_total{cache=\"pages\",cause=\"evicted\"}";
    assert_eq!(value(&scraped, evicted), 0.0);
}

#[test]
fn repeated_scrapes_publish_the_totals_of_the_cache() {
    let (prometheus, metrics, cache) = (Prometheus::new(), Metrics::new(), named("pages"));
    metrics.watch(&cache).unwrap();
    for round in 1..=5 {
        for key in 0..150 {
            get_or_load(&cache, key);
            get_or_load(&cache, key);
        }
        let (scraped, stats) = (prometheus.scrape(&metrics), cache.stats());
        let is = |line: &str, expected: u64| {
            let found = value(&scraped, line);
            let expected = f64::from(u32::try_from(expected).unwrap());
            assert!((found - expected).abs() < 1e-9, "{round}: {line} {found}");
        };
        is("hotset_hits_total{cache=\"pages\",tier=\"l1\"}", stats.hits);
        is(
            "hotset_misses_total{cache=\"pages\",tier=\"l1\"}",
            stats.misses,
        );
        is("hotset_loads_total{cache=\"pages\"}", stats.loads);
        is("hotset_load_seconds_count{cache=\"pages\"}", stats.loads);
        is(
            "hotset_load_seconds_bucket{cache=\"pages\",le=\"+Inf\"}",
            stats.loads,
        );
        is("hotset_entries{cache=\"pages\"}", 100);
        is("hotset_weight{cache=\"pages\"}", 100);
        is(
            "hotset_memory_bytes{cache=\"pages\"}",
            cache.memory_usage() as u64,
        );
        let evicted = "hotset_removals_total{cache=\"pages\",cause=\"evicted\"}";
        is(evicted, stats.evicted);
        let sum = value(&scraped, "hotset_load_seconds_sum{cache=\"pages\"}");
        let exact = stats.load_times.total().as_secs_f64();
        assert!((sum - exact).abs() < 1e-9 * exact.max(1.0), "{sum} {exact}");
    }
    assert!(cache.stats().hits > 0 && cache.stats().evicted > 0);
}

#[test]
fn ages_are_tracked_by_default_with_the_feature_metrics() {
    let (prometheus, metrics) = (Prometheus::new(), Metrics::new());
    let clock = hotset::ManualClock::new();
    let builder = LocalCache::builder().name("pages").capacity(100);
    let cache: LocalCache<u64, u64> = builder.clock(clock.clone()).build().unwrap();
    metrics.watch(&cache).unwrap();
    cache.insert(1, 1);
    clock.advance(Duration::from_secs(20));
    for _ in 0..6_400 {
        cache.get(&1);
    }
    let scraped = prometheus.scrape(&metrics);
    let count = value(&scraped, "hotset_age_seconds_count{cache=\"pages\"}");
    let up_to = |bound: &str| {
        let line = format!("hotset_age_seconds_bucket{{cache=\"pages\",le=\"{bound}\"}}");
        value(&scraped, &line)
    };
    assert!((95.0..=105.0).contains(&count), "{count}");
    assert_eq!((up_to("10"), up_to("30")), (0.0, count));
}

#[test]
fn cache_without_a_unique_name_is_rejected() {
    let metrics = Metrics::new();
    let nameless: LocalCache<u64, u64> = LocalCache::new(10);
    assert_eq!(metrics.watch(&nameless), Err(WatchError::NoName));
    let (first, second) = (named("pages"), named("pages"));
    metrics.watch(&first).unwrap();
    let taken = metrics.watch(&second).unwrap_err();
    assert!(taken.to_string().contains("\"pages\""), "{taken}");
    assert!(
        taken.to_string().contains("LocalCacheBuilder::name"),
        "{taken}"
    );
    assert_eq!(format!("{metrics:?}"), r#"["pages"]"#);
}

#[test]
fn watched_cache_is_not_kept_alive_and_its_successor_continues_the_counters() {
    let (prometheus, metrics) = (Prometheus::new(), Metrics::new());
    let shared_value = Arc::new(0);
    for sum in [1.0, 2.0, 3.0] {
        let cache: LocalCache<u64, Arc<u64>> = LocalCache::builder()
            .name("pages")
            .capacity(10)
            .build()
            .unwrap();
        metrics.watch(&cache).unwrap();
        cache.insert(1, Arc::clone(&shared_value));
        let scraped = prometheus.scrape(&metrics);
        assert_eq!(
            value(&scraped, "hotset_inserts_total{cache=\"pages\"}"),
            sum
        );
        drop(cache);
        assert_eq!(Arc::strong_count(&shared_value), 1);
        prometheus.scrape(&metrics);
    }
}

#[cfg(feature = "serde")]
#[tokio::test]
async fn configured_cache_is_watched_whichever_trait_it_has() {
    let (prometheus, metrics) = (Prometheus::new(), Metrics::new());
    let config = |name| CacheConfig::from_toml(&format!("capacity = 10\nname = '{name}'")).unwrap();
    let blocking = config("blocking").build_blocking::<u64, u64>().unwrap();
    let tasks = config("tasks").build_async::<u64, u64>().unwrap();
    metrics.watch(&blocking).unwrap();
    metrics.watch(&tasks).unwrap();
    blocking.insert(1, 1);
    let scraped = prometheus.scrape(&metrics);
    assert_eq!(value(&scraped, "hotset_entries{cache=\"blocking\"}"), 1.0);
    assert_eq!(value(&scraped, "hotset_entries{cache=\"tasks\"}"), 0.0);

    // The trait object is the same cache.
    let shared: Arc<dyn AsyncCache<u64, u64>> = tasks.clone().into();
    drop(tasks);
    shared.insert(1, 1).await;
    let scraped = prometheus.scrape(&metrics);
    assert_eq!(value(&scraped, "hotset_entries{cache=\"tasks\"}"), 1.0);
}

#[test]
fn cache_behind_a_pointer_is_watched() {
    let (prometheus, metrics) = (Prometheus::new(), Metrics::new());
    let (shared, boxed) = (Arc::new(named("shared")), Box::new(named("boxed")));
    metrics.watch(&shared).unwrap();
    metrics.watch(&&boxed).unwrap();
    (*shared).insert(1, 1);
    let scraped = prometheus.scrape(&metrics);
    assert_eq!(value(&scraped, "hotset_entries{cache=\"shared\"}"), 1.0);
    assert_eq!(value(&scraped, "hotset_entries{cache=\"boxed\"}"), 0.0);
}

#[test]
fn concurrent_scrapes_count_nothing_twice() {
    let (prometheus, metrics, cache) = (Prometheus::new(), Metrics::new(), named("pages"));
    metrics.watch(&cache).unwrap();
    std::thread::scope(|scope| {
        for key in 0..4 {
            let (prometheus, metrics, cache) = (&prometheus, &metrics, &cache);
            scope.spawn(move || {
                for _ in 0..200 {
                    get_or_load(cache, key);
                    prometheus.scrape(metrics);
                }
            });
        }
    });
    let scraped = prometheus.scrape(&metrics);
    let hits = value(&scraped, "hotset_hits_total{cache=\"pages\",tier=\"l1\"}");
    assert_eq!(hits, 4.0 * 199.0);
    let loads = value(&scraped, "hotset_load_seconds_count{cache=\"pages\"}");
    assert_eq!(loads, 4.0);
}

#[test]
fn late_recorder_and_second_publisher_get_the_same_totals() {
    let cache = named("pages");
    let (metrics, other) = (Metrics::new(), Metrics::new());
    metrics.watch(&cache).unwrap();
    other.watch(&cache).unwrap();
    cache.insert(1, 1);
    cache.get(&1);
    // There is no recorder yet.
    metrics.publish();
    let prometheus = Prometheus::new();
    prometheus.scrape(&metrics);
    let scraped = prometheus.scrape(&other);
    let hits = "hotset_hits_total{cache=\"pages\",tier=\"l1\"}";
    assert_eq!(value(&scraped, hits), 1.0);
}

#[test]
fn gauges_of_a_dropped_cache_become_nan() {
    let (prometheus, metrics) = (Prometheus::new(), Metrics::new());
    let (dropped, live) = (named("dropped"), named("live"));
    metrics.watch(&dropped).unwrap();
    metrics.watch(&live).unwrap();
    dropped.insert(1, 1);
    prometheus.scrape(&metrics);
    drop(dropped);
    let scraped = prometheus.scrape(&metrics);
    assert!(value(&scraped, "hotset_entries{cache=\"dropped\"}").is_nan());
    assert_eq!(
        value(&scraped, "hotset_inserts_total{cache=\"dropped\"}"),
        1.0
    );
    assert_eq!(value(&scraped, "hotset_entries{cache=\"live\"}"), 0.0);
    assert_eq!(format!("{metrics:?}"), r#"["live"]"#);
}

#[test]
fn ages_of_many_hits_are_sampled_once() {
    let (prometheus, metrics, cache) = (Prometheus::new(), Metrics::new(), named("pages"));
    metrics.watch(&cache).unwrap();
    cache.insert(1, 1);
    for _ in 0..64 * 10_000 {
        cache.get(&1);
    }
    let scraped = prometheus.scrape(&metrics);
    let recorded = value(&scraped, "hotset_age_seconds_count{cache=\"pages\"}");
    assert!((3_000.0..=4_096.0).contains(&recorded), "{recorded}");
    prometheus.scrape(&metrics);
    let again = value(&scraped, "hotset_age_seconds_count{cache=\"pages\"}");
    assert_eq!(recorded, again);
}
