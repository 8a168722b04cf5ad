//! The metrics of the shop in the format of Prometheus.

// All values are counts, which are exact.
#![allow(clippy::float_cmp)]

use super::routes::SMALL;
use super::servers::shop::Shop;
use std::collections::HashMap;

/// Returns the value of each sample by its name and labels.
fn scrape(shop: &Shop) -> HashMap<String, f64> {
    let mut answer = shop.raw("GET", "/metrics", "", false);
    assert_eq!(answer.status(), 200);
    let content_type = answer.headers()["content-type"].to_str().unwrap();
    assert!(
        content_type.starts_with("text/plain; version=0.0.4"),
        "{content_type}"
    );
    let text = answer.body_mut().read_to_string().unwrap();
    let samples = text
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    let sample = |line: &str| {
        let (name, value) = line.rsplit_once(' ').unwrap();
        (name.to_string(), value.parse().unwrap())
    };
    samples.map(sample).collect()
}

#[test]
fn metrics_count_cache_operations_and_requests() {
    let shop = Shop::start(&SMALL);
    let before = scrape(&shop);
    for _ in 0..5 {
        shop.get("/profiles/7");
    }
    shop.get_uncached("/profiles/7");
    shop.put_price(7, 1);
    let now = scrape(&shop);
    let grown = |name: &str| now[name] - before.get(name).unwrap_or(&0.0);
    assert_eq!(
        grown(r#"hotset_hits_total{cache="profiles",tier="l1"}"#),
        4.0
    );
    assert_eq!(
        grown(r#"hotset_misses_total{cache="profiles",tier="l1"}"#),
        1.0
    );
    assert_eq!(grown(r#"hotset_load_seconds_count{cache="profiles"}"#), 1.0);
    assert_eq!(now[r#"hotset_entries{cache="products"}"#], 150.0);
    // One for the cache, one without it, and one before the price was changed.
    assert_eq!(grown("shop_database_reads_total"), 3.0);
    let requests = |endpoint: &str, cache: &str| {
        let labels = format!(r#"{{endpoint="{endpoint}",cache="{cache}"}}"#);
        grown(&format!("shop_request_seconds_count{labels}"))
    };
    assert_eq!(requests("profiles", "on"), 5.0);
    assert_eq!(requests("profiles", "off"), 1.0);
    assert_eq!(requests("set_price", "on"), 1.0);
}

#[test]
fn metrics_show_the_state_of_redis() {
    let backends = super::processes::Backends::new();
    let shop = backends.start_shop(&[]);
    shop.put_price(7, 1);
    let proven = r#"hotset_backplane_proven{cache="prices"}"#;
    super::servers::eventually("delivery of invalidations is proven", || {
        scrape(&shop)[proven] == 1.0
    });
    let now = scrape(&shop);
    assert_eq!(
        now[r#"hotset_invalidations_total{cache="prices",result="sent"}"#],
        1.0
    );
    assert_eq!(now[r#"hotset_breaker_open{cache="prices"}"#], 0.0);
    // Warming looked up the entries in Redis, which was empty.
    assert!(now[r#"hotset_l2_call_seconds_count{cache="prices",operation="lookup"}"#] > 0.0);
}
