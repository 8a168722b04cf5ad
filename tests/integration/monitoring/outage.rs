//! Redis dies, and comes back.

use super::World;
use super::servers::eventually;
use super::servers::prometheus::{Alert, Prometheus};
use std::time::{Duration, Instant};

const ALERT: &str = "HotsetBreakerOpen";

/// The alert looks back for half a minute.
const RESOLVED: Duration = Duration::from_secs(60);

/// A request waits for Redis no longer than its deadline, and then for the database.
const SLOWEST: Duration = Duration::from_secs(5);

/// Also `home`, whose one value is in L1, so that nobody asks Redis for it.
const CACHES: [&str; 6] = [
    "home", "prices", "products", "profiles", "sessions", "stock",
];

/// How long it takes until something is true of the alerts that fire.
fn time_until(
    prometheus: &Prometheus,
    most: Duration,
    is_true: impl Fn(&[Alert]) -> bool,
) -> Duration {
    let begun = Instant::now();
    loop {
        let firing = prometheus.firing();
        if is_true(&firing) {
            return begun.elapsed();
        }
        assert!(
            begun.elapsed() < most,
            "not within {most:?}, but {firing:#?}"
        );
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn killing_redis_raises_an_alert_in_the_time_that_it_states_while_shops_go_on() {
    let mut world = World::start();
    let prometheus = &world.prometheus;
    let rules = prometheus.rules();
    let rule = rules.iter().find(|rule| rule.name == ALERT).unwrap();
    let within = rule.within();
    eventually("all is well, and Prometheus knows", || {
        let well = "hotset_backplane_proven == 1 unless hotset_breaker_open == 1";
        prometheus.query(well).len() == 2 * CACHES.len()
    });
    assert!(prometheus.firing().is_empty(), "{:?}", prometheus.firing());

    world.redis.kill();
    let fired = time_until(prometheus, within, |firing| {
        let is_said = |cache| firing.iter().filter(|alert| alert.is(ALERT, cache)).count() == 2;
        CACHES.into_iter().all(is_said)
    });
    for alert in prometheus.firing() {
        let [summary, description] =
            ["summary", "description"].map(|name| &alert.annotations[name]);
        assert!(summary.contains(&alert.labels["instance"]), "{summary}");
        assert!(!description.contains("{{"), "{description}");
    }

    world.redis.restart();
    let resolved = time_until(prometheus, RESOLVED, <[Alert]>::is_empty);

    let served = world.customers.leave();
    let answers: u64 = served.iter().map(|served| served.answers).sum();
    let slowest = served.iter().map(|served| served.slowest).max().unwrap();
    println!(
        "the alert fires {fired:.1?} after Redis was killed ({within:?} are stated), and none {resolved:.1?} \
         after it was back; {answers} answers meanwhile, the slowest in {slowest:.1?}"
    );
    for served in served {
        assert!(served.failures.is_empty(), "{:?}", served.failures);
        assert!(served.answers > 100, "{served:?}");
        assert!(served.slowest < SLOWEST, "{served:?}");
    }
}
