//! An outage of Redis. That alerts fire within the time that they state is tested with simulated time.

use super::Deployment;
use super::servers::prometheus::{Alert, Prometheus};
use super::servers::{TEST_TIMEOUT, eventually};
use std::time::{Duration, Instant};

/// The alert that an outage of Redis raises.
const ALERT: &str = "HotsetBreakerOpen";

/// The alert that is raised after the outage, because Redis has restarted without values.
const COLD: &str = "HotsetPartitionsCold";

/// The caches of a shop. The single value of `home` is in L1, so the shop seldom requests it from Redis.
const CACHES: [&str; 6] = [
    "home", "prices", "products", "profiles", "sessions", "stock",
];

/// Returns the number of caches, of all shops, for which an alert fires.
fn count(firing: &[Alert], name: &str) -> usize {
    let count = |cache| firing.iter().filter(|alert| alert.is(name, cache)).count();
    CACHES.into_iter().map(count).sum()
}

/// Waits until a condition on the firing alerts is true. Returns the time that this took.
fn time_until(prometheus: &Prometheus, is_true: impl Fn(&[Alert]) -> bool) -> Duration {
    let begun = Instant::now();
    loop {
        let firing = prometheus.firing();
        if is_true(&firing) {
            return begun.elapsed();
        }
        assert!(
            begun.elapsed() < TEST_TIMEOUT,
            "the condition was never met: {firing:#?}"
        );
        // Prometheus does not announce changes, so the alerts are polled.
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn outage_of_redis_raises_an_alert_while_shops_serve() {
    let mut deployment = Deployment::start();
    let prometheus = &deployment.prometheus;
    let rules = prometheus.rules();
    let rule = rules.iter().find(|rule| rule.name == ALERT).unwrap();
    let within = rule.within();
    eventually("all caches are healthy according to Prometheus", || {
        let healthy = "hotset_backplane_proven == 1 unless hotset_breaker_open == 1";
        prometheus.query(healthy).len() == 2 * CACHES.len()
    });
    // On a busy machine a circuit may have been open, and the alert is resolved some time after it has closed.
    time_until(prometheus, <[Alert]>::is_empty);

    deployment.redis.kill();
    let fired = time_until(prometheus, |firing| {
        count(firing, ALERT) == 2 * CACHES.len()
    });
    for alert in prometheus.firing() {
        let [summary, description] =
            ["summary", "description"].map(|name| &alert.annotations[name]);
        assert!(summary.contains(&alert.labels["instance"]), "{summary}");
        assert!(!description.contains("{{"), "{description}");
    }

    deployment.redis.restart();
    let resolved = time_until(prometheus, |firing| {
        count(firing, COLD) == 2 * CACHES.len() && firing.len() == 2 * CACHES.len()
    });

    let served = deployment.customers.stop();
    let requests: u64 = served.iter().map(|served| served.requests).sum();
    let slowest = served.iter().map(|served| served.slowest).max().unwrap();
    println!(
        "the alert fired {fired:.1?} after Redis was killed (at most {within:?} are stated) and was resolved \
         {resolved:.1?} after the restart; the shops served {requests} requests, the slowest in {slowest:.1?}"
    );
    for served in served {
        assert!(served.failures.is_empty(), "{:?}", served.failures);
        assert!(served.requests > 0, "{served:?}");
    }
}
