//! An outage of Redis.

use super::Deployment;
use super::servers::eventually;
use super::servers::prometheus::{Alert, Prometheus};
use std::time::{Duration, Instant};

/// The alert that an outage of Redis raises.
const ALERT: &str = "HotsetBreakerOpen";

/// Longest time until the alert is resolved after the outage. Its query covers the last half minute.
const MAX_RESOLUTION_TIME: Duration = Duration::from_secs(60);

/// Longest duration of a request, which waits for Redis until the deadline, and then for the database.
const MAX_REQUEST_TIME: Duration = Duration::from_secs(5);

/// The caches of a shop. The single value of `home` is in L1, so the shop seldom requests it from Redis.
const CACHES: [&str; 6] = [
    "home", "prices", "products", "profiles", "sessions", "stock",
];

/// Waits until a condition on the firing alerts is true. Returns the time that this took.
fn time_until(
    prometheus: &Prometheus,
    max_time: Duration,
    is_true: impl Fn(&[Alert]) -> bool,
) -> Duration {
    let begun = Instant::now();
    loop {
        let firing = prometheus.firing();
        if is_true(&firing) {
            return begun.elapsed();
        }
        assert!(
            begun.elapsed() < max_time,
            "the condition was not met within {max_time:?}: {firing:#?}"
        );
        // Prometheus does not announce changes, so the alerts are polled.
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn outage_of_redis_raises_an_alert_within_the_stated_time_while_shops_serve() {
    let mut deployment = Deployment::start();
    let prometheus = &deployment.prometheus;
    let rules = prometheus.rules();
    let rule = rules.iter().find(|rule| rule.name == ALERT).unwrap();
    let within = rule.within();
    eventually("all caches are healthy according to Prometheus", || {
        let healthy = "hotset_backplane_proven == 1 unless hotset_breaker_open == 1";
        prometheus.query(healthy).len() == 2 * CACHES.len()
    });
    assert!(prometheus.firing().is_empty(), "{:?}", prometheus.firing());

    deployment.redis.kill();
    let fired = time_until(prometheus, within, |firing| {
        let is_raised = |cache| firing.iter().filter(|alert| alert.is(ALERT, cache)).count() == 2;
        CACHES.into_iter().all(is_raised)
    });
    for alert in prometheus.firing() {
        let [summary, description] =
            ["summary", "description"].map(|name| &alert.annotations[name]);
        assert!(summary.contains(&alert.labels["instance"]), "{summary}");
        assert!(!description.contains("{{"), "{description}");
    }

    deployment.redis.restart();
    let resolved = time_until(prometheus, MAX_RESOLUTION_TIME, <[Alert]>::is_empty);

    let served = deployment.customers.stop();
    let requests: u64 = served.iter().map(|served| served.requests).sum();
    let slowest = served.iter().map(|served| served.slowest).max().unwrap();
    println!(
        "the alert fired {fired:.1?} after Redis was killed (at most {within:?} are stated) and was resolved \
         {resolved:.1?} after the restart; the shops served {requests} requests, the slowest in {slowest:.1?}"
    );
    for served in served {
        assert!(served.failures.is_empty(), "{:?}", served.failures);
        assert!(served.requests > 100, "{served:?}");
        assert!(served.slowest < MAX_REQUEST_TIME, "{served:?}");
    }
}
