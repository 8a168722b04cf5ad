//! A primary with replicas, monitored by sentinels.

use super::process::Process;
use super::{Cut, Proxy, Server, deployed, eventually, free_port, signal};
use rustix::process::Signal;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// The name of the service in `sentinel.conf`.
pub(super) const SERVICE: &str = "hotset";

struct Sentinel {
    port: u16,
    process: Process,
    _folder: TempDir,
}

impl Sentinel {
    /// Starts a sentinel that monitors the primary at a port.
    fn start(primary: u16) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("sentinel.conf");
        let text = std::fs::read_to_string(deployed("sentinel.conf")).unwrap();
        // The timeouts are shorter than in production.
        let text = text
            .replace("redis-1 6379", &format!("127.0.0.1 {primary}"))
            .replace("hotset 2000", "hotset 600")
            .replace("hotset 10000", "hotset 2000");
        std::fs::write(&file, text).unwrap();
        let port = free_port();
        let mut command = Command::new("redis-server");
        command
            .arg(file)
            .args([
                "--sentinel",
                "--port",
                &port.to_string(),
                "--bind",
                "127.0.0.1",
            ])
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let process = Process::spawn(&mut command).expect("redis-server is installed");
        Self {
            port,
            process,
            _folder: folder,
        }
    }

    /// Calls `SENTINEL`.
    fn ask<T: redis::FromRedisValue>(&self, question: &[&str]) -> redis::RedisResult<T> {
        self.call("SENTINEL", question)
    }

    fn call<T: redis::FromRedisValue>(
        &self,
        name: &str,
        arguments: &[&str],
    ) -> redis::RedisResult<T> {
        let client = redis::Client::open(format!("redis://127.0.0.1:{}/", self.port))?;
        let mut call = redis::cmd(name);
        call.arg(arguments).query(&mut client.get_connection()?)
    }

    /// Returns the ids of its connections, except those to other sentinels, which have a name.
    fn clients(&self) -> Vec<String> {
        let list: String = self.call("CLIENT", &["LIST"]).unwrap();
        let clients = list.lines().filter(|client| client.contains(" name= "));
        let id = |client: &str| {
            client
                .strip_prefix("id=")?
                .split(' ')
                .next()
                .map(String::from)
        };
        clients.filter_map(id).collect()
    }
}

/// Three servers, each behind a proxy that can be cut, and three sentinels.
pub struct Replicated {
    pub servers: Vec<Server>,
    /// The proxies of the servers, in the same order. Sentinels and replicas know the servers by the ports of these.
    pub proxies: Vec<Proxy>,
    sentinels: Vec<Sentinel>,
}

impl Replicated {
    /// Starts all servers, and waits until replication works.
    pub async fn start() -> Self {
        let (mut servers, mut proxies) = (Vec::<Server>::new(), Vec::<Proxy>::new());
        for _ in 0..3 {
            let mut server = Server::start();
            let proxy = Proxy::start(server.address()).await;
            let primary = proxies.first().map(Proxy::port);
            server.announce(proxy.port(), primary);
            server.restart();
            servers.push(server);
            proxies.push(proxy);
        }
        let primary = proxies[0].port();
        let sentinels = (0..3).map(|_| Sentinel::start(primary)).collect();
        let replicated = Self {
            servers,
            proxies,
            sentinels,
        };
        replicated.wait_until_settled();
        replicated
    }

    /// Returns the addresses of the sentinels.
    pub fn sentinels(&self) -> Vec<SocketAddr> {
        let ports = self.sentinels.iter().map(|sentinel| sentinel.port);
        ports
            .map(|port| (Ipv4Addr::LOCALHOST, port).into())
            .collect()
    }

    pub fn url(&self) -> String {
        url(self.sentinels().iter().map(SocketAddr::port))
    }

    /// Returns the index of the server that a majority of the sentinels names as the primary, if there is one.
    fn named(&self) -> Option<usize> {
        let port = |sentinel: &Sentinel| {
            let address = sentinel.ask(&["GET-MASTER-ADDR-BY-NAME", SERVICE]);
            address.map_or(0, |(_, port): (String, u16)| port)
        };
        let ports: Vec<u16> = self.sentinels.iter().map(port).collect();
        let is_named =
            |proxy: &Proxy| ports.iter().filter(|port| **port == proxy.port()).count() > 1;
        self.proxies.iter().position(is_named)
    }

    /// Returns the index of the primary. Waits until the sentinels agree on it.
    pub fn primary(&self) -> usize {
        eventually("sentinels agree", || self.named().is_some());
        self.named().unwrap()
    }

    /// Waits until both replicas follow the primary and all sentinels know them.
    pub fn wait_until_settled(&self) {
        eventually("replicas follow", || {
            let primary = self.primary();
            let info: Option<redis::InfoDict> =
                self.servers[primary].try_command(&[b"INFO", b"replication"]);
            info.is_some_and(|info| {
                let follows = |slave: &str| {
                    info.get::<String>(slave)
                        .is_some_and(|slave| slave.contains("state=online"))
                };
                follows("slave0") && follows("slave1")
            })
        });
        eventually("sentinels know the replicas and each other", || {
            self.sentinels.iter().all(|sentinel| {
                let state = sentinel.ask(&["MASTER", SERVICE]);
                let state: std::collections::HashMap<String, String> = state.unwrap_or_default();
                let is = |name: &str, value: &str| state.get(name).is_some_and(|it| it == value);
                is("num-slaves", "2") && is("num-other-sentinels", "2") && is("flags", "master")
            })
        });
    }

    /// Makes the sentinels promote another server.
    pub fn fail_over(&self) {
        let () = self.sentinels[0].ask(&["FAILOVER", SERVICE]).unwrap();
    }

    pub fn pause_sentinel(&self, index: usize) {
        signal(&self.sentinels[index].process, Signal::STOP);
    }

    pub fn resume_sentinel(&self, index: usize) {
        signal(&self.sentinels[index].process, Signal::CONT);
    }

    /// Returns the number of connections to sentinels, except those between sentinels.
    pub fn clients_of_sentinels(&self) -> usize {
        self.sentinels
            .iter()
            .map(|sentinel| sentinel.clients().len())
            .sum()
    }

    /// Closes all connections to sentinels, except those between sentinels.
    pub fn close_clients_of_sentinels(&self) {
        for sentinel in &self.sentinels {
            for id in sentinel.clients() {
                // It may be closed already.
                let _: redis::RedisResult<u64> = sentinel.call("CLIENT", &["KILL", "ID", &id]);
            }
        }
    }

    /// Waits until a server other than `old` is the primary.
    pub fn wait_for_failover(&self, old: usize) {
        eventually("another primary", || self.primary() != old);
    }

    /// Starts a server that was killed, as a replica of the current primary.
    pub fn rejoin(&mut self, index: usize) {
        let primary = self.proxies[self.primary()].port();
        let own = self.proxies[index].port();
        self.servers[index].announce(own, Some(primary));
        self.servers[index].restart();
    }

    /// Cuts the connections of a server to its replicas and to all sentinels. Clients still reach it.
    pub fn isolate(&self, index: usize) {
        // Its own connection to a primary does not pass through its proxy.
        self.proxies[index].cut(Cut::Peers);
    }
}

/// Returns the URL of sentinels at these ports.
pub fn url(ports: impl IntoIterator<Item = u16>) -> String {
    let hosts: Vec<_> = ports
        .into_iter()
        .map(|port| format!("127.0.0.1:{port}"))
        .collect();
    format!("redis-sentinel://{}/{SERVICE}", hosts.join(","))
}

impl Server {
    /// Makes the server announce another port than its own, and follow the primary at a port.
    fn announce(&mut self, port: u16, primary: Option<u16>) {
        let port = port.to_string();
        let mut options = vec![
            "--replica-announce-ip",
            "127.0.0.1",
            "--replica-announce-port",
            &port,
        ];
        let primary = primary.map(|port| format!("127.0.0.1 {port}"));
        if let Some(primary) = &primary {
            options.extend(["--replicaof", primary]);
        }
        self.set_options(&options);
    }
}
