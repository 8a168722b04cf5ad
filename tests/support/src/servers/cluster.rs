//! A Redis Cluster of three primaries with a replica each.

use super::{Server, eventually, free_port};
use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The time after which a replica no longer tries to take over. It waits five seconds for its primary.
const MAX_FAILOVER_TIME: Duration = Duration::from_secs(10);

/// Checks whether a server serves a slot, by its line in the reply to `CLUSTER NODES`.
fn serves(line: &str, slot: u16) -> bool {
    line.split(' ').skip(8).any(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let range = first.parse().ok().zip(last.parse().ok());
        range.is_some_and(|(first, last): (u16, u16)| (first..=last).contains(&slot))
    })
}

/// A running cluster of six servers.
pub struct Cluster {
    pub servers: Vec<Server>,
}

impl Cluster {
    /// Starts the servers, and waits until they form a cluster. A server that does not reply for a second is replaced.
    pub fn start() -> Self {
        Self::start_with("1000")
    }

    /// Like [`start`](Self::start), for tests without a failover. A busy machine may delay the replies of servers.
    pub fn start_without_failover() -> Self {
        Self::start_with("60000")
    }

    fn start_with(node_timeout_millis: &str) -> Self {
        let servers: Vec<_> = (0..6)
            .map(|_| {
                let bus = free_port().to_string();
                let options = ["--cluster-enabled", "yes", "--cluster-port", &bus];
                let timing = ["--cluster-node-timeout", node_timeout_millis];
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
        let mut nodes: Option<String> = None;
        eventually("a server replies", || {
            let mut servers = self.servers.iter();
            nodes = servers.find_map(|server| server.try_command(&[b"CLUSTER", b"NODES"]));
            nodes.is_some()
        });
        let nodes = nodes.unwrap_or_default();
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
            let at = if serves(&line, slot) {
                0
            } else {
                primaries.len()
            };
            primaries.insert(at, (index, words[0].to_string()));
        }
        primaries
    }

    /// Returns the slots of the partitions of a namespace, by their numbers, as far as they have a state.
    pub fn partitions(&self, namespace: &str, count: u16) -> BTreeMap<u16, u16> {
        let pattern = format!("hotset:{count}:{{{namespace}/*:state");
        let mut slots = BTreeMap::new();
        for server in &self.servers {
            let names: Option<Vec<String>> = server.try_command(&[b"KEYS", pattern.as_bytes()]);
            for name in names.unwrap_or_default() {
                // The number is between the namespace and the salt.
                let number = name.split(['/', '.']).nth(1).unwrap().parse().unwrap();
                let slot: Option<u16> =
                    server.try_command(&[b"CLUSTER", b"KEYSLOT", name.as_bytes()]);
                slots.insert(number, slot.unwrap());
            }
        }
        slots
    }

    /// Lets the replica of the primary that serves a slot take over, and waits until it has. Without a mode, the replica
    /// waits for the writes of the primary first.
    pub fn fail_over(&self, slot: u16, mode: Option<&str>) {
        let (old, id) = self.primaries(slot).swap_remove(0);
        let port = |line: &str| {
            let address = line.split(' ').nth(1)?;
            address.split([':', '@']).nth(1)?.parse().ok()
        };
        let mut found: Option<u16> = None;
        eventually("the replica is known", || {
            let nodes = self.nodes();
            let mut replicas = nodes
                .iter()
                .filter(|line| line.split(' ').nth(3) == Some(&id));
            found = replicas.find_map(|line| port(line));
            found.is_some()
        });
        let port = found.unwrap();
        let replica = self.servers.iter().find(|server| server.port() == port);
        let words = ["CLUSTER", "FAILOVER"].into_iter().chain(mode);
        let words: Vec<&[u8]> = words.map(str::as_bytes).collect();
        let mut accepted: Option<Instant> = None;
        eventually("the replica takes over", || {
            // It refuses while its link to the primary is down, and gives up if the primary does not reply in time.
            if accepted.is_none_or(|at| at.elapsed() > MAX_FAILOVER_TIME) {
                let reply: Option<()> = replica.unwrap().try_command(&words);
                accepted = reply.map(|()| Instant::now());
            }
            self.has_failed_over(slot, old)
        });
    }

    /// Sets an option of all servers.
    pub fn configure(&self, name: &str, value: &str) {
        for server in &self.servers {
            let () = server.command(&[b"CONFIG", b"SET", name.as_bytes(), value.as_bytes()]);
        }
    }

    /// Waits until a server other than `old` serves a slot.
    pub fn wait_for_failover(&self, slot: u16, old: usize) {
        eventually("a replica takes over", || self.has_failed_over(slot, old));
    }

    /// Checks whether a server other than `old` serves a slot.
    fn has_failed_over(&self, slot: u16, old: usize) -> bool {
        let primaries = self.primaries(slot);
        primaries.len() == 3 && primaries[0].0 != old
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

    /// Moves a slot, with its keys, to another server, and waits until all primaries agree.
    pub fn move_slot(&self, slot: u16) {
        let (to, to_id) = self.primaries(slot).swap_remove(1);
        // A message that the old server sent before may reverse the move, until the new one has announced its epoch.
        eventually("the slot has moved", || {
            self.try_move_slot(slot, &self.servers[to], &to_id)
        });
    }

    /// Moves a slot to a server. Returns `true` if all primaries agree.
    fn try_move_slot(&self, slot: u16, to: &Server, to_id: &str) -> bool {
        let primaries = self.primaries(slot);
        let all = || primaries.iter().map(|(index, _)| &self.servers[*index]);
        let number = slot.to_string();
        let set = |server: &Server, what: &str, id: &str| {
            let words = ["CLUSTER", "SETSLOT", &number, what, id];
            // It fails if the server does not serve the slot any more.
            let _: Option<()> = server.try_command(&words.map(str::as_bytes));
        };
        if let Some((from, from_id)) = primaries.first().filter(|(_, id)| id != to_id) {
            let from = &self.servers[*from];
            set(to, "IMPORTING", from_id);
            set(from, "MIGRATING", to_id);
            migrate(slot, from, to);
        }
        set(to, "NODE", to_id);
        all().for_each(|server| set(server, "NODE", to_id));
        all().all(|server| {
            let nodes: Option<String> = server.try_command(&[b"CLUSTER", b"NODES"]);
            nodes.is_some_and(|nodes| {
                let new = nodes.lines().find(|line| line.starts_with(to_id));
                new.is_some_and(|line| serves(line, slot))
            })
        })
    }
}

/// Moves the keys of a slot.
fn migrate(slot: u16, from: &Server, to: &Server) {
    let number = slot.to_string();
    loop {
        let some: Vec<Vec<u8>> =
            from.command(&[b"CLUSTER", b"GETKEYSINSLOT", number.as_bytes(), b"100"]);
        if some.is_empty() {
            return;
        }
        let port = to.port().to_string();
        let head = ["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "KEYS"];
        let mut words: Vec<&[u8]> = head.iter().map(|word| word.as_bytes()).collect();
        words.extend(some.iter().map(Vec::as_slice));
        let _: String = from.command(&words);
    }
}
