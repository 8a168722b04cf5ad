//! Statistics and reports as JSON.

use hotset::{Loaded, LocalCache, ManualClock, Stats, WarmOptions};
use serde_json::{Value, json};
use std::time::Duration;

fn cache() -> (LocalCache<String, u64>, ManualClock) {
    let clock = ManualClock::new();
    let builder = LocalCache::builder().capacity(100).clock(clock.clone());
    (builder.build().unwrap(), clock)
}

#[test]
fn serialized_statistics_have_a_number_for_each_count() {
    let (cache, _) = cache();
    cache.insert("a".to_string(), 1);
    cache.get("a");
    cache.get("b");
    cache.insert_loaded("c".to_string(), Loaded::new(1).ttl(Duration::ZERO));
    let failing = |_: &str| Err::<u64, _>("no");
    assert!(cache.get_or_load("b", failing).is_err());
    assert_eq!(cache.refresh("a", |_| Ok::<_, &str>(2)).unwrap(), 2);
    let json = serde_json::to_value(cache.stats()).unwrap();
    let fields = json.as_object().unwrap();
    for (name, count) in [
        ("hits", 1),
        ("misses", 2),
        ("loads", 2),
        ("load_failures", 1),
        ("refreshes", 1),
        ("inserts", 2),
        ("refused", 1),
        ("replaced", 1),
        ("entries", 1),
        ("weight", 1),
        ("evicted", 0),
    ] {
        assert_eq!(fields[name], json!(count), "{name}");
    }
    assert_eq!(fields["load_times"]["count"], json!(2));
    for name in ["total", "mean", "p50", "p90", "p99", "p999"] {
        assert!(
            fields["load_times"][name].as_f64().unwrap() >= 0.0,
            "{name}"
        );
    }
}

#[test]
fn serialized_statistics_of_an_unused_cache_contain_no_null() {
    let json = serde_json::to_value(Stats::default()).unwrap();
    let values = json.as_object().unwrap().values();
    let nested = |value: &Value| match value {
        Value::Object(fields) => fields.values().all(Value::is_number),
        value => value.is_number(),
    };
    assert!(values.into_iter().all(nested), "{json}");
    assert_eq!(json["load_times"]["mean"], json!(0.0));
}

/// An error that cannot be serialized.
#[derive(Debug)]
struct QueryError;

impl std::fmt::Display for QueryError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the query failed")
    }
}

impl std::error::Error for QueryError {}

#[test]
fn serialized_warm_report_has_the_failures_with_their_errors() {
    let (cache, _) = cache();
    let load = |keys: Vec<String>| {
        if keys.contains(&"bad".to_string()) {
            return Err(QueryError);
        }
        Ok(keys
            .into_iter()
            .filter(|key| key != "none")
            .map(|key| (key, 1)))
    };
    let keys = ["a", "none", "bad", "b"].map(str::to_string);
    let report = cache.warm_with(WarmOptions::new().batch(1), keys, load);
    let mut json = serde_json::to_value(&report).unwrap();
    let time_taken = json.as_object_mut().unwrap().remove("time_taken").unwrap();
    assert!(time_taken.as_f64().unwrap() >= 0.0);
    let expected = json!({
        "found": 2,
        "left_out": 1,
        "failed": 1,
        "failures": [{ "keys": ["bad"], "error": "the loader failed: the query failed" }],
        "end": "Done",
    });
    assert_eq!(json, expected);
}
