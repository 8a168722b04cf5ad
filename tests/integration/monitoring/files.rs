//! The files for Prometheus, checked with `promtool`.

use super::servers::deployed;
use std::process::Command;

fn promtool(arguments: [&str; 2], file: &str) {
    let tool = Command::new("promtool")
        .args(arguments)
        .arg(deployed(file))
        .output()
        .expect("promtool is installed: it comes with prometheus");
    let output = [tool.stdout, tool.stderr].concat();
    assert!(
        tool.status.success(),
        "{}",
        String::from_utf8_lossy(&output)
    );
}

#[test]
fn documented_users_equal_deployed_users() {
    let documented = include_str!("../../../src/tiered/l2/redis/users.acl");
    let deployed = std::fs::read_to_string(deployed("users.acl")).unwrap();
    assert_eq!(documented, deployed);
}

#[test]
fn configuration_and_rules_are_valid() {
    promtool(["check", "config"], "prometheus.yml");
    promtool(["check", "rules"], "alerts.yml");
}

#[test]
fn each_alert_fires_in_time_in_its_case_and_in_no_other_case() {
    promtool(["test", "rules"], "alerts_test.yml");
}
