//! What tools of Prometheus say of its files.

use super::servers::deployed;
use std::process::Command;

fn promtool(arguments: [&str; 2], file: &str) {
    let tool = Command::new("promtool")
        .args(arguments)
        .arg(deployed(file))
        .output()
        .expect("promtool is installed: it comes with prometheus");
    let said = [tool.stdout, tool.stderr].concat();
    assert!(tool.status.success(), "{}", String::from_utf8_lossy(&said));
}

#[test]
fn the_configuration_is_valid() {
    promtool(["check", "config"], "prometheus.yml");
    promtool(["check", "rules"], "alerts.yml");
}

#[test]
fn documented_users_equal_deployed_users() {
    let documented = include_str!("../../../src/tiered/l2/redis/users.acl");
    let deployed = std::fs::read_to_string(deployed("users.acl")).unwrap();
    assert_eq!(documented, deployed);
}

#[test]
fn each_alert_fires_in_its_case_in_time_and_in_no_other() {
    promtool(["test", "rules"], "alerts_test.yml");
}
