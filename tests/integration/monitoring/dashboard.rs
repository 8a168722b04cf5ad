//! The dashboard for Grafana: its layout and the results of its queries.

use super::Deployment;
use super::servers::{TEST_TIMEOUT, deployed};
use serde_json::Value;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

fn dashboard() -> Value {
    let file = deployed("grafana/dashboards/hotset.json");
    serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap()
}

fn list<'a>(of: &'a Value, name: &str) -> &'a [Value] {
    of[name].as_array().map_or(&[], Vec::as_slice)
}

/// Returns all panels except rows, but including those that rows hide.
fn panels(of: &Value) -> Vec<&Value> {
    let mut all = Vec::new();
    for panel in list(of, "panels") {
        match panel["type"].as_str() {
            Some("row") => all.extend(panels(panel)),
            _ => all.push(panel),
        }
    }
    all
}

/// Returns an expression as Grafana sends it if all caches are selected.
fn expand(expression: &str) -> String {
    let expanded = expression
        .replace("$__rate_interval", "20s")
        .replace("$cache", ".+");
    assert!(!expanded.contains('$'), "unknown variable: {expanded}");
    expanded
}

#[test]
fn panels_do_not_overlap_and_have_descriptions_and_units() {
    let dashboard = dashboard();
    let mut taken = BTreeSet::new();
    let mut ids = BTreeSet::new();
    for panel in list(&dashboard, "panels") {
        let title = &panel["title"];
        assert!(
            ids.insert(panel["id"].as_u64().unwrap()),
            "{title}: duplicate id"
        );
        let [x, y, w, h] =
            ["x", "y", "w", "h"].map(|name| panel["gridPos"][name].as_u64().unwrap());
        assert!(x + w <= 24 && w > 0 && h > 0, "{title} is out of the grid");
        let cells = (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y)));
        for cell in cells {
            assert!(taken.insert(cell), "{title} overlaps at {cell:?}");
        }
    }
    // The grid has no gaps.
    let bottom = taken.iter().map(|(_, y)| y + 1).max().unwrap();
    assert_eq!(taken.len() as u64, 24 * bottom);
    for panel in panels(&dashboard) {
        let title = &panel["title"];
        let described = panel["description"].as_str().unwrap_or_default();
        assert!(described.len() > 20, "{title} has no description");
        let has_unit = panel["fieldConfig"]["defaults"]["unit"].is_string()
            || panel["options"]["yAxis"]["unit"].is_string()
            || panel["fieldConfig"]["defaults"]["mappings"].is_array();
        assert!(has_unit, "{title} has no unit");
        let names: BTreeSet<_> = list(panel, "targets")
            .iter()
            .map(|target| target["refId"].as_str())
            .collect();
        assert_eq!(names.len(), list(panel, "targets").len(), "{title}: refId");
        assert!(!names.is_empty(), "{title} shows nothing");
    }
}

#[test]
fn every_query_has_data() {
    let deployment = Deployment::start();
    let dashboard = dashboard();
    let mut waiting: Vec<(String, String)> = Vec::new();
    for panel in panels(&dashboard) {
        for target in list(panel, "targets") {
            let (title, expression) = (&panel["title"], target["expr"].as_str().unwrap());
            waiting.push((title.to_string(), expand(expression)));
        }
    }
    let queries = waiting.len();
    assert!(queries > 30, "{queries}");
    // The query for the values of the variable.
    waiting.push(("$cache".into(), "count by (cache) (hotset_entries)".into()));
    let variable = &list(&dashboard["templating"], "list")[1]["definition"];
    assert_eq!(variable, "label_values(hotset_entries, cache)");

    let begun = Instant::now();
    while !waiting.is_empty() {
        assert!(begun.elapsed() < TEST_TIMEOUT, "no data: {waiting:#?}");
        // Prometheus does not announce new data, and each round of queries costs it time.
        std::thread::sleep(Duration::from_millis(500));
        waiting.retain(|(_, expression)| {
            let found = deployment.prometheus.query(expression);
            !found.iter().any(|sample| sample.value().is_finite())
        });
    }
    println!("{queries} queries have data after {:.1?}", begun.elapsed());
    // The annotations mark events that have not occurred, so their queries only have to be valid.
    for mark in list(&dashboard["annotations"], "list") {
        deployment
            .prometheus
            .query(&expand(mark["expr"].as_str().unwrap()));
    }
}
