//! The rules in `alerts.yml`, as Prometheus parses them.

use super::Deployment;
use super::servers::prometheus::{Prometheus, RedisExporter, Rule};
use super::servers::{Server, eventually, free_port};
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

/// Interval between scrapes plus interval between evaluations, as in prometheus.yml.
const DETECTION_TIME: Duration = Duration::from_secs(10);

#[test]
fn each_alert_has_a_severity_a_description_and_a_time() {
    let no_exporter = (Ipv4Addr::LOCALHOST, free_port()).into();
    let rules = Prometheus::start(&[], no_exporter).rules();
    let alerts: Vec<_> = rules.iter().filter(|rule| rule.is_alert()).collect();
    assert!(alerts.len() >= 11, "{alerts:?}");
    for alert in alerts {
        let name = &alert.name;
        let severity = alert.labels.get("severity").map(String::as_str);
        let known = [Some("critical"), Some("warning"), Some("info")];
        assert!(known.contains(&severity), "{name}: {severity:?}");
        let length = |annotation| alert.annotations.get(annotation).map_or(0, String::len);
        assert!(length("summary") > 20, "{name} has no summary");
        assert!(length("description") > 80, "{name} has no description");
        let pending = Duration::from_secs_f64(alert.duration.unwrap());
        assert!(pending > Duration::ZERO, "{name} fires without delay");
        let within = alert.within();
        assert!(
            within > pending + DETECTION_TIME,
            "{name}: {within:?} is too short"
        );
    }
}

/// A rule with a misspelled name would never fire.
#[test]
fn metrics_in_rules_exist() {
    let deployment = Deployment::start();
    eventually("rules were evaluated", || {
        let rules = deployment.prometheus.rules();
        rules.iter().all(|rule| rule.health == "ok")
    });
    let rules = deployment.prometheus.rules();
    let names: BTreeSet<_> = rules.iter().flat_map(Rule::metrics).collect();
    assert!(names.len() >= 12, "{names:?}");
    for name in names {
        eventually(name, || !deployment.prometheus.query(name).is_empty());
    }
    // Recordings of the value an hour ago have no data yet.
    let recorded = rules.iter().filter(|rule| !rule.is_alert());
    for rule in recorded.filter(|rule| !rule.name.ends_with(":before")) {
        eventually(&rule.name, || {
            !deployment.prometheus.query(&rule.name).is_empty()
        });
    }
}

#[test]
fn redis_near_its_memory_limit_raises_an_alert() {
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
    // The limit is set a little above the current use.
    let memory: redis::InfoDict = redis.command(&[b"INFO", b"memory"]);
    let used: u64 = memory.get("used_memory").unwrap();
    let limit = (used * 21 / 20).to_string();
    let () = redis.command(&[b"CONFIG", b"SET", b"maxmemory", limit.as_bytes()]);
    eventually("Redis is near its limit", || {
        !prometheus.query(query).is_empty()
    });
}
