//! The rules, as Prometheus has read them.

use super::World;
use super::servers::prometheus::{Prometheus, RedisExporter, Rule};
use super::servers::{Server, eventually, free_port};
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

/// A scrape and an evaluation, as in prometheus.yml.
const SEEN: Duration = Duration::from_secs(10);

#[test]
fn each_alert_tells_how_bad_it_is_what_to_do_and_when_it_fires() {
    let nobody = (Ipv4Addr::LOCALHOST, free_port()).into();
    let rules = Prometheus::start(&[], nobody).rules();
    let alerts: Vec<_> = rules.iter().filter(|rule| rule.is_alert()).collect();
    assert!(alerts.len() >= 7, "{alerts:?}");
    for alert in alerts {
        let name = &alert.name;
        let severity = alert.labels.get("severity").map(String::as_str);
        let known = [Some("critical"), Some("warning"), Some("info")];
        assert!(known.contains(&severity), "{name}: {severity:?}");
        let length = |annotation| alert.annotations.get(annotation).map_or(0, String::len);
        assert!(length("summary") > 20, "{name} has no summary");
        assert!(length("description") > 80, "{name} does not say what to do");
        let pending = Duration::from_secs_f64(alert.duration.unwrap());
        assert!(pending > Duration::ZERO, "{name} fires at once");
        let within = alert.within();
        assert!(within > pending + SEEN, "{name}: {within:?} is too short");
    }
}

/// A name that is misspelled would be a rule that never says anything.
#[test]
fn rules_are_on_metrics_that_there_are() {
    let world = World::start();
    eventually("rules were evaluated", || {
        let rules = world.prometheus.rules();
        rules.iter().all(|rule| rule.health == "ok")
    });
    let rules = world.prometheus.rules();
    let names: BTreeSet<_> = rules.iter().flat_map(Rule::metrics).collect();
    assert!(names.len() >= 12, "{names:?}");
    for name in names {
        eventually(name, || !world.prometheus.query(name).is_empty());
    }
    // What is compared with an hour ago is not there yet.
    let recorded = rules.iter().filter(|rule| !rule.is_alert());
    for rule in recorded.filter(|rule| !rule.name.ends_with(":before")) {
        eventually(&rule.name, || {
            !world.prometheus.query(&rule.name).is_empty()
        });
    }
}

#[test]
fn redis_near_its_maxmemory_is_seen() {
    let redis = Server::start();
    let exporter = RedisExporter::start(redis.address());
    let prometheus = Prometheus::start(&[], exporter.address());
    let rules = prometheus.rules();
    let mut rules = rules.iter();
    let alert = rules.find(|rule| rule.name == "RedisMemoryNearLimit");
    let query = &alert.unwrap().query;
    eventually("Redis is scraped", || {
        !prometheus.query("redis_memory_used_bytes").is_empty()
    });
    assert!(prometheus.query(query).is_empty());
    // What it has now becomes nearly all that it may have.
    let memory: redis::InfoDict = redis.command(&[b"INFO", b"memory"]);
    let used: u64 = memory.get("used_memory").unwrap();
    let limit = (used * 21 / 20).to_string();
    let () = redis.command(&[b"CONFIG", b"SET", b"maxmemory", limit.as_bytes()]);
    eventually("it is near its limit", || {
        !prometheus.query(query).is_empty()
    });
}
