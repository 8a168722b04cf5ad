//! Prometheus with the files in `examples/deploy`, and the exporter of the metrics of Redis.

use super::process::Process;
use super::{TEST_TIMEOUT, deployed, eventually, free_port};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;
use ureq::Agent;

pub type Labels = BTreeMap<String, String>;

/// A series in the result of a query.
#[derive(Debug, Deserialize)]
pub struct Sample {
    #[serde(rename = "metric")]
    pub labels: Labels,
    /// The time, and the number as text, because JSON has no infinity.
    value: (f64, String),
}

impl Sample {
    pub fn value(&self) -> f64 {
        self.value.1.parse().unwrap()
    }
}

#[derive(Debug, Deserialize)]
pub struct Alert {
    pub labels: Labels,
    pub annotations: Labels,
    state: String,
}

impl Alert {
    pub fn is(&self, name: &str, cache: &str) -> bool {
        let has = |label, value| self.labels.get(label).is_some_and(|is| is == value);
        has("alertname", name) && has("cache", cache)
    }
}

/// A rule in `alerts.yml`, for a recording or an alert.
#[derive(Debug, Deserialize)]
pub struct Rule {
    pub name: String,
    pub query: String,
    /// The result of the last evaluation: `ok`, `err` or `unknown`.
    pub health: String,
    /// The value of `for`, in seconds. `None` for a recording.
    pub duration: Option<f64>,
    #[serde(default)]
    pub labels: Labels,
    #[serde(default)]
    pub annotations: Labels,
}

impl Rule {
    /// Returns `true` if the rule is for an alert.
    pub fn is_alert(&self) -> bool {
        self.duration.is_some()
    }

    /// Returns the time within which the alert fires, according to its annotation.
    pub fn within(&self) -> Duration {
        let within = self.annotations.get("within");
        let within = within.unwrap_or_else(|| panic!("{} has no `within`", self.name));
        humantime::parse_duration(within).unwrap()
    }

    /// Returns the names of the metrics in the query, without recordings of other rules.
    pub fn metrics(&self) -> impl Iterator<Item = &str> {
        let words = self
            .query
            .split(|letter: char| !letter.is_alphanumeric() && !['_', ':'].contains(&letter));
        words.filter(|word| word.starts_with("hotset_") || word.starts_with("redis_"))
    }
}

/// A `prometheus` server of one test.
pub struct Prometheus {
    address: SocketAddr,
    agent: Agent,
    _process: Process,
    _folder: TempDir,
}

impl Prometheus {
    /// Starts a server with the deployed configuration, except for the targets.
    pub fn start(shops: &[SocketAddr], redis_exporter: SocketAddr) -> Self {
        let folder = tempfile::tempdir().unwrap();
        configure(folder.path(), shops, redis_exporter);
        let address = (Ipv4Addr::LOCALHOST, free_port()).into();
        let option = |name: &str, value: &Path| format!("--{name}={}", value.display());
        let mut command = Command::new("prometheus");
        command
            .arg(option("config.file", &folder.path().join("prometheus.yml")))
            .arg(option("storage.tsdb.path", &folder.path().join("data")))
            .arg(format!("--web.listen-address={address}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let process = Process::spawn(&mut command).expect("prometheus is installed");
        let config = Agent::config_builder().timeout_global(Some(TEST_TIMEOUT));
        let server = Self {
            address,
            agent: config.build().into(),
            _process: process,
            _folder: folder,
        };
        eventually("prometheus is ready", || {
            let ready = server.agent.get(format!("http://{address}/-/ready"));
            ready.call().is_ok()
        });
        server
    }

    /// Evaluates an expression at the current time.
    pub fn query(&self, expression: &str) -> Vec<Sample> {
        #[derive(Deserialize)]
        struct Vector {
            result: Vec<Sample>,
        }
        self.ask::<Vector>("query", &[("query", expression)]).result
    }

    /// Returns the alerts that are firing, without those that are pending.
    pub fn firing(&self) -> Vec<Alert> {
        #[derive(Deserialize)]
        struct Alerts {
            alerts: Vec<Alert>,
        }
        let mut alerts = self.ask::<Alerts>("alerts", &[]).alerts;
        alerts.retain(|alert| alert.state == "firing");
        alerts
    }

    pub fn rules(&self) -> Vec<Rule> {
        #[derive(Deserialize)]
        struct Groups {
            groups: Vec<Group>,
        }
        #[derive(Deserialize)]
        struct Group {
            rules: Vec<Rule>,
        }
        let groups = self.ask::<Groups>("rules", &[]).groups;
        groups.into_iter().flat_map(|group| group.rules).collect()
    }

    fn ask<T: DeserializeOwned>(&self, what: &str, parameters: &[(&str, &str)]) -> T {
        #[derive(Deserialize)]
        struct Reply<T> {
            data: T,
        }
        let url = format!("http://{}/api/v1/{what}", self.address);
        let request = self.agent.get(url).query_pairs(parameters.iter().copied());
        let reply = request.call().and_then(|mut reply| {
            let reply: Reply<T> = reply.body_mut().read_json()?;
            Ok(reply.data)
        });
        reply.unwrap_or_else(|error| panic!("{what} {parameters:?}: {error}"))
    }
}

fn configure(folder: &Path, shops: &[SocketAddr], redis_exporter: SocketAddr) {
    let mut text = std::fs::read_to_string(deployed("prometheus.yml")).unwrap();
    let shops: Vec<_> = shops.iter().map(SocketAddr::to_string).collect();
    for (target, real) in [
        ("shop-1:8080, shop-2:8080", shops.join(", ")),
        ("redis-exporter:9121", redis_exporter.to_string()),
    ] {
        assert!(text.contains(target), "prometheus.yml has no {target}");
        text = text.replace(target, &real);
    }
    std::fs::write(folder.join("prometheus.yml"), text).unwrap();
    std::fs::copy(deployed("alerts.yml"), folder.join("alerts.yml")).unwrap();
}

/// The exporter of the metrics of Redis.
pub struct RedisExporter {
    address: SocketAddr,
    _process: Process,
}

impl RedisExporter {
    pub fn start(redis: SocketAddr) -> Self {
        let address: SocketAddr = (Ipv4Addr::LOCALHOST, free_port()).into();
        let mut command = Command::new("prometheus-redis-exporter");
        command
            .args(["--redis.addr", &format!("redis://{redis}")])
            .args(["--web.listen-address", &address.to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let process = Process::spawn(&mut command).expect("prometheus-redis-exporter is installed");
        let exporter = Self {
            address,
            _process: process,
        };
        eventually("the exporter listens", || {
            TcpStream::connect(address).is_ok()
        });
        exporter
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }
}
