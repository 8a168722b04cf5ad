//! The replicas of a primary, from which caches may read.
//!
//! The primary knows its replicas. They are checked with the heartbeats of the caches that read from them, in tasks of
//! their own: a replica is usable while it replies, follows this primary, and is connected to it. A read that fails, or
//! whose reply is too old, makes its replica unusable until the next check. So a replica that does not reply delays only
//! the reads that are in flight.

use crate::tiered::l2::redis::connector::Connector;
use crate::tiered::l2::redis::link::Link;
use crate::tiered::l2::redis::longest_deadline::LongestDeadline;
use crate::tiered::l2::redis::server_connection::ServerConnection;
use crate::tiered::l2::redis::url::{Address, ServerUrl, Topology};
use crate::tiered::l2::remote::RemoteError;
use parking_lot::Mutex;
use redis::InfoDict;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// The replicas of one primary.
pub(super) struct Replicas {
    url: Arc<ServerUrl>,
    deadline: Arc<LongestDeadline>,
    all: Mutex<Vec<Arc<Replica>>>,
    /// The number of reads so far, which selects the replica of the next one.
    reads: AtomicUsize,
    last_check: Mutex<Option<Instant>>,
}

impl Replicas {
    pub(super) fn new(url: Arc<ServerUrl>, deadline: Arc<LongestDeadline>) -> Self {
        Self {
            url,
            deadline,
            all: Mutex::default(),
            reads: AtomicUsize::new(0),
            last_check: Mutex::default(),
        }
    }

    /// Returns the longest deadline of the caches that use the replicas.
    pub(super) fn longest_deadline(&self) -> Duration {
        self.deadline.get()
    }

    /// Checks whether there is a usable replica.
    pub(super) fn is_any_usable(&self) -> bool {
        let all = self.all.lock();
        all.iter()
            .any(|replica| replica.connection.lock().is_some())
    }

    /// Returns a usable replica, each time another one. Returns `None` if there is none.
    pub(super) fn next(&self) -> Option<UsableReplica> {
        let all = self.all.lock();
        let first = self.reads.fetch_add(1, Relaxed);
        (0..all.len()).find_map(|at| all[first.wrapping_add(at) % all.len()].usable())
    }

    /// Returns `true` if the last check began at least `interval` ago, and counts as the beginning of the next one.
    fn begin_check(&self, interval: Duration) -> bool {
        let mut last = self.last_check.lock();
        let is_recent = last.is_some_and(|last| last.elapsed() < interval);
        if !is_recent {
            *last = Some(Instant::now());
        }
        !is_recent
    }

    /// Replaces the list of replicas by those at these addresses. Known ones remain.
    fn set_addresses(&self, addresses: Vec<Address>) -> Vec<Arc<Replica>> {
        let mut all = self.all.lock();
        let known = std::mem::take(&mut *all);
        let replica = |address: Address| {
            let known = known.iter().find(|replica| replica.address == address);
            known.map_or_else(|| Arc::new(Replica::new(address.clone())), Arc::clone)
        };
        *all = addresses.into_iter().map(replica).collect();
        all.clone()
    }

    /// Asks the primary for its replicas.
    async fn find(
        &self,
        connector: &Connector,
        max_lag: Duration,
    ) -> Result<(Vec<Address>, String), RemoteError> {
        let (_, connection) = connector.get().await?;
        let mut query = redis::cmd("INFO");
        let mut main = connection.main.clone();
        let reply = query.arg("replication").query_async(&mut main);
        let reply: String = tokio::time::timeout(self.deadline.get(), reply)
            .await
            .map_err(|_| RemoteError::Timeout)??;
        let addresses = online_replicas(&reply, max_lag);
        Ok((addresses, connection.server.history.clone()))
    }
}

/// The time limits of a check.
#[derive(Clone, Copy)]
pub(super) struct CheckLimits {
    /// The time for which no further check begins.
    pub(super) interval: Duration,
    /// The longest time since the last acknowledgement of a replica to its primary.
    pub(super) max_lag: Duration,
}

impl Link {
    /// Checks the replicas in the background, unless a check has begun recently.
    pub(super) fn check_replicas(self: &Arc<Self>, limits: CheckLimits) {
        if !self.replicas.begin_check(limits.interval) {
            return;
        }
        let link = Arc::clone(self);
        self.runtime.spawn(async move {
            let finding = link.replicas.find(&link.connector, limits.max_lag);
            // Without a reply, the replicas remain that are known.
            let Ok((addresses, history)) = finding.await else {
                return;
            };
            let replication_id: Arc<str> = history.split(':').next().unwrap_or_default().into();
            for replica in link.replicas.set_addresses(addresses) {
                let (link, replication_id) = (Arc::clone(&link), Arc::clone(&replication_id));
                let runtime = link.runtime.clone();
                runtime.spawn(async move {
                    replica.check(&link.replicas, &replication_id).await;
                });
            }
        });
    }
}

/// Returns the addresses of the replicas that follow a primary, from its reply to `INFO replication`: in lines like
/// `slave0:ip=127.0.0.1,port=7001,state=online,offset=1,lag=0`. The lag is in whole seconds, and a replica acknowledges
/// once a second.
fn online_replicas(info: &str, max_lag: Duration) -> Vec<Address> {
    let max_lag = max_lag.as_secs() + 1;
    let replica = |line: &str| {
        let (name, fields) = line.trim_end().split_once(':')?;
        let number = name.strip_prefix("slave")?;
        number.parse::<u64>().ok()?;
        let field = |name: &str| {
            let mut fields = fields.split(',').filter_map(|field| field.split_once('='));
            fields.find_map(|(key, value)| (key == name).then_some(value))
        };
        let lag: u64 = field("lag")?.parse().ok()?;
        let is_online = field("state") == Some("online") && lag <= max_lag;
        is_online.then_some(())?;
        Some(format!("{}:{}", field("ip")?, field("port")?))
    };
    info.lines().filter_map(replica).collect()
}

/// A replica, with the connection of this process to it.
pub(super) struct Replica {
    address: Address,
    /// The connection while the replica is usable, and its number.
    connection: Mutex<Option<(u64, ServerConnection)>>,
    connections: AtomicU64,
    is_checking: AtomicBool,
}

/// A connection to a replica that replies, as far as it is known.
pub(super) struct UsableReplica {
    replica: Arc<Replica>,
    /// The number of the connection.
    number: u64,
    pub(super) connection: ServerConnection,
}

impl UsableReplica {
    /// Notes that the replica has failed or is too far behind. It is not used until the next check.
    pub(super) fn discard(&self) {
        self.replica.discard(self.number);
    }
}

impl Replica {
    fn new(address: Address) -> Self {
        Self {
            address,
            connection: Mutex::default(),
            connections: AtomicU64::new(0),
            is_checking: AtomicBool::new(false),
        }
    }

    fn usable(self: &Arc<Self>) -> Option<UsableReplica> {
        let connection = self.connection.lock();
        let (number, connection) = connection.as_ref()?;
        Some(UsableReplica {
            replica: Arc::clone(self),
            number: *number,
            connection: connection.clone(),
        })
    }

    /// Discards the connection of this number.
    fn discard(&self, number: u64) {
        let discarded = self
            .connection
            .lock()
            .take_if(|(current, _)| *current == number);
        drop(discarded);
    }

    /// Checks whether the replica is usable, unless a check is in flight. A connection that is open has to reply within
    /// the longest deadline.
    async fn check(self: &Arc<Self>, replicas: &Replicas, replication_id: &str) {
        if self.is_checking.swap(true, Relaxed) {
            return;
        }
        if let Some(mut usable) = self.usable() {
            let checking = check_role(&mut usable.connection, replication_id);
            let is_good = tokio::time::timeout(replicas.deadline.get(), checking).await;
            if !matches!(is_good, Ok(Ok(true))) {
                usable.discard();
            }
        } else {
            let connecting = self.connect(replicas, replication_id);
            let connect_timeout = replicas.deadline.connect_timeout();
            let connected = tokio::time::timeout(connect_timeout, connecting).await;
            if let Ok(Ok(Some(connection))) = connected {
                let number = self.connections.fetch_add(1, Relaxed);
                *self.connection.lock() = Some((number, connection));
            }
        }
        self.is_checking.store(false, Relaxed);
    }

    /// Connects to the replica. Returns `None` if it does not follow the primary.
    async fn connect(
        &self,
        replicas: &Replicas,
        replication_id: &str,
    ) -> Result<Option<ServerConnection>, RemoteError> {
        let client = replicas.url.client(Some(&self.address))?;
        let connect_timeout = replicas.deadline.connect_timeout();
        let mut connection = ServerConnection::open(&client, connect_timeout).await?;
        if matches!(replicas.url.topology, Topology::Cluster { .. }) {
            // Without it, a replica of a cluster redirects all reads to its primary.
            let () = redis::cmd("READONLY").query_async(&mut connection).await?;
        }
        let is_good = check_role(&mut connection, replication_id).await?;
        Ok(is_good.then_some(connection))
    }
}

/// Checks that a server is a replica of the primary with this replication id, and is connected to it.
async fn check_role(
    connection: &mut ServerConnection,
    replication_id: &str,
) -> Result<bool, RemoteError> {
    let mut query = redis::cmd("INFO");
    let info: InfoDict = query.arg("replication").query_async(connection).await?;
    let is = |field, value: &str| info.get::<String>(field).as_deref() == Some(value);
    Ok(
        is("role", "slave")
            && is("master_link_status", "up")
            && is("master_replid", replication_id),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tiered::l2::redis::url::Certificates;

    #[test]
    fn online_replicas_are_found_in_the_reply_of_the_primary() {
        let info = "# Replication\r\nrole:master\r\nconnected_slaves:4\r\n\
                    slave0:ip=127.0.0.1,port=7001,state=online,offset=42,lag=0\r\n\
                    slave1:ip=10.0.0.7,port=7002,state=wait_bgsave,offset=0,lag=0\r\n\
                    slave2:ip=::1,port=7003,state=online,offset=42,lag=1,type=replica\r\n\
                    slave3:ip=10.0.0.8,port=7004,state=online,offset=1,lag=5\r\n\
                    slave_expires_tracked_keys:0\r\nmaster_replid:abc\r\n";
        let second = Duration::from_secs(1);
        let online = online_replicas(info, second);
        assert_eq!(online, ["127.0.0.1:7001", "::1:7003"]);
        assert_eq!(online_replicas(info, 4 * second).len(), 3);
        assert!(online_replicas("role:slave\r\nslave_repl_offset:42\r\n", second).is_empty());
    }

    #[test]
    fn known_replicas_remain_when_the_list_changes() {
        let url = ServerUrl::new("redis://127.0.0.1/", Certificates::default());
        let replicas = Replicas::new(Arc::new(url.unwrap()), Arc::default());
        assert!(replicas.next().is_none());
        let first = replicas.set_addresses(vec!["a:1".into(), "b:2".into()]);
        let second = replicas.set_addresses(vec!["b:2".into(), "c:3".into()]);
        assert!(Arc::ptr_eq(&first[1], &second[0]));
        assert_eq!(second[1].address, "c:3");
        assert!(replicas.next().is_none(), "none is connected");
    }
}
