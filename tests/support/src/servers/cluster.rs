//! A Redis Cluster of three primaries with a replica each.

use super::{Server, eventually, free_port};
use std::process::{Command, Stdio};

/// A running cluster of six servers.
pub struct Cluster {
    pub servers: Vec<Server>,
}

impl Cluster {
    /// Starts the servers, and waits until they form a cluster.
    pub fn start() -> Self {
        let servers: Vec<_> = (0..6)
            .map(|_| {
                let bus = free_port().to_string();
                let options = ["--cluster-enabled", "yes", "--cluster-port", &bus];
                let timing = ["--cluster-node-timeout", "1000"];
                Server::start_with(&[&options[..], &timing].concat())
            })
            .collect();
        let addresses = servers.iter().map(|server| server.address().to_string());
        let made = Command::new("redis-cli")
            .args(["--cluster", "create"])
            .args(addresses)
            .args(["--cluster-replicas", "1", "--cluster-yes"])
            .stdout(Stdio::null())
            .status();
        assert!(made.unwrap().success());
        let cluster = Self { servers };
        cluster.wait_until_settled();
        cluster
    }

    /// Returns a URL that names two of the servers.
    pub fn url(&self) -> String {
        let [first, second, ..] = &self.servers[..] else {
            unreachable!("there are six");
        };
        format!("redis-cluster://{},{}", first.address(), second.address())
    }

    /// Returns the reply to `CLUSTER NODES` of a server that replies, one line for each server.
    fn nodes(&self) -> Vec<String> {
        let mut answers = self.servers.iter().filter_map(|server| {
            let nodes: Option<String> = server.try_command(&[b"CLUSTER", b"NODES"]);
            nodes
        });
        let nodes = answers.next().unwrap_or_default();
        nodes.lines().map(Into::into).collect()
    }

    /// Returns the slot of a namespace.
    pub fn slot(&self, namespace: &str) -> u16 {
        let key = format!("hotset:{{{namespace}}}:state");
        self.servers[0].command(&[b"CLUSTER", b"KEYSLOT", key.as_bytes()])
    }

    /// Returns the indices and node ids of the servers that serve slots. The one that serves `slot` comes first.
    pub fn primaries(&self, slot: u16) -> Vec<(usize, String)> {
        let mut primaries = Vec::new();
        for line in self.nodes() {
            let words: Vec<_> = line.split(' ').collect();
            let is_primary = words[2].contains("master") && !words[2].contains("fail");
            let port = words[1].split([':', '@']).nth(1).unwrap();
            let index = self
                .servers
                .iter()
                .position(|server| server.port().to_string() == port);
            let (Some(index), true, true) = (index, is_primary, words.len() > 8) else {
                continue;
            };
            let serves = words[8..].iter().any(|range| {
                let (first, last) = range.split_once('-').unwrap_or((range, range));
                let range = first.parse().ok().zip(last.parse().ok());
                range.is_some_and(|(first, last): (u16, u16)| (first..=last).contains(&slot))
            });
            let at = if serves { 0 } else { primaries.len() };
            primaries.insert(at, (index, words[0].to_string()));
        }
        primaries
    }

    /// Waits until a server other than `old` serves a slot.
    pub fn wait_for_failover(&self, slot: u16, old: usize) {
        eventually("a replica takes over", || {
            let primaries = self.primaries(slot);
            primaries.len() == 3 && primaries[0].0 != old
        });
    }

    /// Waits until all servers agree, each slot is served, and each primary has its replica.
    pub fn wait_until_settled(&self) {
        eventually("the cluster is complete", || {
            self.servers.iter().all(|server| {
                let info: Option<redis::InfoDict> = server.try_command(&[b"CLUSTER", b"INFO"]);
                let is_up = info.is_some_and(|info| {
                    let get = |name| info.get::<String>(name).unwrap_or_default();
                    get("cluster_state") == "ok"
                        && get("cluster_size") == "3"
                        && get("cluster_known_nodes") == "6"
                });
                let role: Option<redis::InfoDict> = server.try_command(&[b"INFO", b"replication"]);
                let is_linked = role.is_some_and(|role| {
                    let get = |name| role.get::<String>(name).unwrap_or_default();
                    get("master_link_status") == "up" || get("connected_slaves") == "1"
                });
                is_up && is_linked
            })
        });
    }

    /// Moves a slot, with its keys, to another server.
    pub fn move_slot(&self, slot: u16) {
        let primaries = self.primaries(slot);
        let [(from, from_id), (to, to_id), ..] = &primaries[..] else {
            unreachable!("there are three");
        };
        let (from, to) = (&self.servers[*from], &self.servers[*to]);
        let number = slot.to_string();
        let set = |server: &Server, what: &str, id: &str| {
            let words = ["CLUSTER", "SETSLOT", &number, what, id];
            let () = server.command(&words.map(str::as_bytes));
        };
        set(to, "IMPORTING", from_id);
        set(from, "MIGRATING", to_id);
        loop {
            let some: Vec<Vec<u8>> =
                from.command(&[b"CLUSTER", b"GETKEYSINSLOT", number.as_bytes(), b"100"]);
            if some.is_empty() {
                break;
            }
            let port = to.port().to_string();
            let head = ["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "KEYS"];
            let mut words: Vec<&[u8]> = head.iter().map(|word| word.as_bytes()).collect();
            words.extend(some.iter().map(Vec::as_slice));
            let _: String = from.command(&words);
        }
        set(to, "NODE", to_id);
        set(from, "NODE", to_id);
        for (index, _) in &primaries[2..] {
            set(&self.servers[*index], "NODE", to_id);
        }
    }
}
