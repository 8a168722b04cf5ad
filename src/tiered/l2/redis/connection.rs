//! The connections to the primary, and the facts about the server behind them.
//!
//! The `redis` crate has a connection that reconnects by itself. It is not used here, because each new connection must
//! first find out which replication history its server has, before any command is sent: a server that was restarted,
//! or that was a replica, may lack writes that another server has confirmed.

use crate::tiered::health::Warning;
use crate::tiered::l2::redis::coalesced_query::CoalescedQuery;
use crate::tiered::l2::redis::primary_resolver::PrimaryResolver;
use crate::tiered::l2::redis::scripts;
use crate::tiered::l2::redis::server_clock::ServerClock;
use crate::tiered::l2::redis::server_connection::ServerConnection;
use crate::tiered::l2::redis::shared_connection::SharedConnection;
use crate::tiered::l2::redis::subscription::Subscription;
use crate::tiered::l2::redis::topology::Primary;
use crate::tiered::l2::redis::url::{ServerUrl, Topology};
use crate::tiered::l2::remote::RemoteError;
use parking_lot::Mutex;
use redis::{Client, InfoDict, RedisError, RedisResult};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinHandle};

/// Shortest time limit for connecting. A call that needs the connection waits no longer than its own deadline.
const MIN_CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Time limit for connecting, in deadlines of a call: it takes several round trips.
const CONNECT_TIMEOUT_IN_DEADLINES: u32 = 8;

/// Interval between checks that a server is still the primary, while a connection to it is opened or a voter has
/// announced another primary.
const PRIMARY_CHECK_INTERVAL: Duration = Duration::from_millis(250);

/// Largest number of checks whether a majority agrees with the announcement of a failover. With sentinels that answer
/// at once they last for 10 seconds. Sentinels tell each other of a new primary every two seconds.
const MAX_ANNOUNCEMENT_CHECKS: u32 = 40;

/// The default of `proto-max-bulk-len`, the largest argument that a server accepts, in bytes.
const DEFAULT_MAX_ARGUMENT_SIZE: usize = 512 << 20;

/// Interval between checks that the settings of the server suit a cache.
const SETTINGS_CHECK_INTERVAL: Duration = Duration::from_secs(30);

/// Error text of a connection to a server that is not the primary any more.
const PRIMARY_CHANGED: &str = "another server is the primary now";

/// The connections to a primary.
#[derive(Clone)]
pub(super) struct Connection {
    /// The connection for all calls except large values and `WAIT`.
    pub(super) main: ServerConnection,
    /// A connection to the same server for `WAIT`, which blocks a connection. `None` if no replicas are required.
    pub(super) replica_wait: Option<Arc<ReplicaWait>>,
    /// A connection to the same server for large values.
    pub(super) bulk: Arc<BulkConnection>,
    pub(super) primary: Primary,
    pub(super) server: Arc<ServerInfo>,
}

/// A connection for `WAIT`.
pub(super) struct ReplicaWait {
    pub(super) connection: ServerConnection,
    /// The query for the number of replicas that have all writes.
    pub(super) query: CoalescedQuery<u64>,
}

/// A connection for large values, so that small ones do not wait for them. It is opened when it is needed for the first
/// time, and again after it was lost.
pub(super) struct BulkConnection {
    client: Client,
    connect_timeout: Duration,
    run_id: String,
    connection: SharedConnection<ServerConnection>,
}

impl BulkConnection {
    /// Returns the connection and its number.
    pub(super) async fn get(&self) -> Result<(u64, ServerConnection), RemoteError> {
        let connect = || {
            let (client, run_id) = (self.client.clone(), self.run_id.clone());
            let connect_timeout = self.connect_timeout;
            async move { open_same_server(&client, &run_id, connect_timeout).await }
        };
        self.connection.get(connect).await
    }

    /// Discards the connection of this number.
    pub(super) fn discard(&self, number: u64) {
        self.connection.discard(number);
    }
}

/// The facts that a server reports about itself.
pub(super) struct ServerInfo {
    /// The replication history of the server: the replication id, and a term.
    pub(super) history: String,
    /// The `run_id` of the server, which changes with each restart.
    run_id: String,
    pub(super) clock: ServerClock,
    /// The largest argument that the server accepts, in bytes.
    max_argument_size: usize,
    /// `true` if messages are published and received within their shard of a cluster.
    pub(super) is_sharded: bool,
}

/// The time of a check of the server's settings, and its result.
type SettingsCheck = (Instant, Vec<Warning>);

/// Opens connections to the current primary.
pub(super) struct Connector {
    url: Arc<ServerUrl>,
    resolver: Arc<PrimaryResolver>,
    connect_timeout: Duration,
    requires_replicas: bool,
    connection: Arc<SharedConnection<Connection>>,
    /// The server of the last connection, or of the one that is being opened. `None` once another server is the
    /// primary.
    primary: watch::Sender<Option<Primary>>,
    /// The last check of the server's settings.
    settings_check: Arc<Mutex<Option<SettingsCheck>>>,
    /// The largest argument that the server of the last connection accepts, in bytes.
    max_argument_size: Arc<AtomicUsize>,
    runtime: Handle,
}

impl Connector {
    /// Creates a connector for the primary that serves `key`, a key of the namespace. If `requires_replicas`, each
    /// connection has a second one for `WAIT`.
    pub(super) fn new(
        url: ServerUrl,
        key: &str,
        deadline: Duration,
        requires_replicas: bool,
        runtime: &Handle,
    ) -> Self {
        let url = Arc::new(url);
        let connect_timeout = deadline.saturating_mul(CONNECT_TIMEOUT_IN_DEADLINES);
        let connect_timeout = connect_timeout.max(MIN_CONNECT_TIMEOUT);
        let resolver =
            PrimaryResolver::new(Arc::clone(&url), key, deadline, connect_timeout, runtime);
        Self {
            url,
            resolver: Arc::new(resolver),
            connect_timeout,
            requires_replicas,
            connection: Arc::new(SharedConnection::new(connect_timeout, runtime.clone())),
            primary: watch::Sender::new(None),
            settings_check: Arc::default(),
            max_argument_size: Arc::new(AtomicUsize::new(DEFAULT_MAX_ARGUMENT_SIZE)),
            runtime: runtime.clone(),
        }
    }

    /// Returns the time limit for connecting.
    pub(super) fn connect_timeout(&self) -> Duration {
        self.connect_timeout
    }

    /// Returns the connection and its number.
    pub(super) async fn get(&self) -> Result<(u64, Connection), RemoteError> {
        let connect = || {
            let (url, resolver) = (Arc::clone(&self.url), Arc::clone(&self.resolver));
            let (sender, settings_check) = (self.primary.clone(), Arc::clone(&self.settings_check));
            let (connect_timeout, requires_replicas) =
                (self.connect_timeout, self.requires_replicas);
            let max_argument_size = Arc::clone(&self.max_argument_size);
            let runtime = self.runtime.clone();
            async move {
                let primary = resolver.primary().await?;
                sender.send_replace(Some(primary.clone()));
                *settings_check.lock() = None;
                let opening = open(
                    &url,
                    primary.clone(),
                    connect_timeout,
                    requires_replicas,
                    runtime,
                );
                let connection = tokio::select! {
                    connection = opening => connection?,
                    changed = primary_change(&resolver, &primary) => return Err(changed),
                };
                max_argument_size.store(connection.server.max_argument_size, Relaxed);
                Ok(connection)
            }
        };
        self.connection.get(connect).await
    }

    /// Discards the connection of this number.
    pub(super) fn discard(&self, number: u64) {
        self.connection.discard(number);
    }

    /// Returns the largest argument that the server of the last connection accepts, in bytes.
    pub(super) fn max_argument_size(&self) -> usize {
        self.max_argument_size.load(Relaxed)
    }

    /// Starts a task that discards the connection after a failover, if the servers announce failovers.
    pub(super) fn watch_failovers(&self, runtime: &Handle) -> Option<JoinHandle<()>> {
        let resolver = Arc::clone(&self.resolver);
        let (connection, primary) = (Arc::clone(&self.connection), self.primary.clone());
        let watching = async move {
            let (announced, mut announcements) = watch::channel(String::new());
            let on_primary = |address: &str| drop(announced.send_replace(address.into()));
            let leaving = async {
                while announcements.changed().await.is_ok() {
                    let address = announcements.borrow_and_update().clone();
                    leave_if_replaced(&resolver, &connection, &primary, &address).await;
                }
            };
            tokio::join!(resolver.watch(on_primary), leaving);
        };
        self.resolver
            .announces_failovers()
            .then(|| runtime.spawn(watching))
    }

    /// Checks that the server of this connection was the primary at some time after this call.
    pub(super) async fn check_primary(&self, connection: &Connection) -> Result<(), RemoteError> {
        if self.resolver.primary().await? == connection.primary {
            return Ok(());
        }
        leave_primary(&self.connection, &self.primary, &connection.primary);
        Err(RemoteError::Disconnected(PRIMARY_CHANGED.into()))
    }

    /// Returns the warnings of the last check of the server's settings.
    pub(super) fn warnings(&self) -> Vec<Warning> {
        let last = self.settings_check.lock();
        last.as_ref()
            .map_or_else(Vec::new, |(_, warnings)| warnings.clone())
    }

    /// Checks whether the settings of the server suit a cache, if the last check was [`SETTINGS_CHECK_INTERVAL`] ago.
    pub(super) async fn check_settings(&self, connection: &Connection) -> Result<(), RemoteError> {
        let is_due = |(last, _): &(Instant, _)| last.elapsed() >= SETTINGS_CHECK_INTERVAL;
        if !self.settings_check.lock().as_ref().is_none_or(is_due) {
            return Ok(());
        }
        let memory: InfoDict = redis::cmd("INFO")
            .arg("memory")
            .query_async(&mut connection.main.clone())
            .await?;
        let warnings = Warning::of(memory.get("maxmemory"), memory.get("maxmemory_policy"));
        *self.settings_check.lock() = Some((Instant::now(), warnings));
        Ok(())
    }

    /// Subscribes to channels on the primary. The subscription ends when another server becomes the primary.
    pub(super) async fn subscribe(&self, channels: &[String]) -> Result<Subscription, RemoteError> {
        let (_, connection) = self.get().await?;
        let (mut current, changes) = (self.primary.subscribe(), self.primary.subscribe());
        let Connection {
            server, primary, ..
        } = connection;
        let client = self.url.client(primary.address.as_deref())?;
        let opening = Subscription::open(
            &client,
            channels,
            server.is_sharded,
            self.connect_timeout,
            primary.clone(),
            changes,
        );
        tokio::select! {
            subscription = opening => subscription,
            // A primary that was replaced may never reply.
            _ = current.wait_for(|current| current.as_ref() != Some(&primary)) => {
                Err(RemoteError::Disconnected(PRIMARY_CHANGED.into()))
            }
        }
    }
}

/// Waits until a server other than `primary` is the primary. Returns the error for the connection to `primary`.
async fn primary_change(resolver: &Arc<PrimaryResolver>, primary: &Primary) -> RemoteError {
    loop {
        // A poll, because a primary that was replaced announces nothing to its clients.
        tokio::time::sleep(PRIMARY_CHECK_INTERVAL).await;
        let current = resolver.primary().await;
        if current.is_ok_and(|current| current != *primary) {
            return RemoteError::Disconnected(PRIMARY_CHANGED.into());
        }
    }
}

/// Leaves the current primary once a majority names another one, after a voter has announced a failover to the server
/// at the address `announced`.
///
/// The first voter announces it before the others know of it. A connection that was opened then would lead to the old
/// primary again, and its subscription would soon end once more. If no majority agrees with the announcement in time,
/// the checks of calls and heartbeats detect a later failover.
async fn leave_if_replaced(
    resolver: &Arc<PrimaryResolver>,
    connection: &SharedConnection<Connection>,
    primary: &watch::Sender<Option<Primary>>,
    announced: &str,
) {
    let is_other = |known: &Primary| known.address.as_deref() != Some(announced);
    let Some(old) = primary.borrow().clone().filter(is_other) else {
        return;
    };
    for _ in 0..MAX_ANNOUNCEMENT_CHECKS {
        if resolver.primary().await.is_ok_and(|current| current != old) {
            leave_primary(connection, primary, &old);
        }
        if primary.borrow().as_ref() != Some(&old) {
            return;
        }
        tokio::time::sleep(PRIMARY_CHECK_INTERVAL).await;
    }
}

/// Ends the subscriptions and discards the connection to the server `old`, which is not the primary any more, so that
/// the new one is found. Does nothing if another call has left it already: a late reply of the old primary must not end
/// the subscription to the new one.
fn leave_primary(
    connection: &SharedConnection<Connection>,
    primary: &watch::Sender<Option<Primary>>,
    old: &Primary,
) {
    let is_current = |current: &mut Option<Primary>| current.take_if(|it| it == old).is_some();
    if primary.send_if_modified(is_current) {
        connection.discard_open();
    }
}

/// Opens the connections to a primary, asks the server for its facts, and loads the scripts.
async fn open(
    url: &ServerUrl,
    primary: Primary,
    connect_timeout: Duration,
    requires_replicas: bool,
    runtime: Handle,
) -> Result<Connection, RemoteError> {
    let client = url.client(primary.address.as_deref())?;
    let mut main = ServerConnection::open(&client, connect_timeout).await?;
    let mut calls = redis::pipe();
    for section in ["server", "replication"] {
        calls.cmd("INFO").arg(section);
    }
    for script in scripts() {
        calls.cmd("SCRIPT").arg("LOAD").arg(script.source).ignore();
    }
    calls.cmd("TIME");
    let asked = Instant::now();
    let replies = calls.query_async(&mut main).await?;
    let (server, replication, (seconds, micros)): (InfoDict, InfoDict, (u64, u64)) = replies;
    let clock = ServerClock::new(asked, seconds * 1_000 + micros / 1_000);
    let term = history_term(url, &primary);
    let mut server = ServerInfo::new(&server, &replication, term, clock)?;
    server.max_argument_size = max_argument_size(&mut main).await;
    let mut replica_wait = None;
    if requires_replicas {
        replica_wait = Some(Arc::new(ReplicaWait {
            connection: open_same_server(&client, &server.run_id, connect_timeout).await?,
            query: CoalescedQuery::new(runtime.clone()),
        }));
    }
    let bulk = BulkConnection {
        client,
        connect_timeout,
        run_id: server.run_id.clone(),
        connection: SharedConnection::new(connect_timeout, runtime),
    };
    Ok(Connection {
        main,
        replica_wait,
        bulk: Arc::new(bulk),
        primary,
        server: Arc::new(server),
    })
}

/// Returns the largest argument that the server accepts, in bytes. Users need not have the right to ask for it, which
/// would also let them read passwords: without that right it returns [`DEFAULT_MAX_ARGUMENT_SIZE`].
async fn max_argument_size(connection: &mut ServerConnection) -> usize {
    let mut query = redis::cmd("CONFIG");
    query.arg("GET").arg("proto-max-bulk-len");
    let reply: RedisResult<HashMap<String, usize>> = query.query_async(connection).await;
    let size = reply.ok().and_then(|reply| reply.into_values().next());
    size.unwrap_or(DEFAULT_MAX_ARGUMENT_SIZE)
}

/// Opens another connection to the server with this `run_id`.
async fn open_same_server(
    client: &Client,
    run_id: &str,
    connect_timeout: Duration,
) -> Result<ServerConnection, RemoteError> {
    let mut connection = ServerConnection::open(client, connect_timeout).await?;
    let server: InfoDict = redis::cmd("INFO")
        .arg("server")
        .query_async(&mut connection)
        .await?;
    // The address may lead to another server by now.
    if server.get::<String>("run_id").as_deref() != Some(run_id) {
        return Err(RemoteError::Disconnected(PRIMARY_CHANGED.into()));
    }
    Ok(connection)
}

/// Returns the term that is part of a replication history, beside the replication id. With sentinels, a server may
/// become the primary again that never noticed its demotion and still has the same id. A server of a cluster does
/// notice, and its term would also count the failovers of other shards.
fn history_term(url: &ServerUrl, primary: &Primary) -> u64 {
    match url.topology {
        Topology::Sentinels { .. } => primary.term,
        Topology::Cluster { .. } | Topology::SingleServer => 0,
    }
}

impl ServerInfo {
    /// Reads the facts from the reply to `INFO`.
    fn new(
        server: &InfoDict,
        replication: &InfoDict,
        term: u64,
        clock: ServerClock,
    ) -> Result<Self, RemoteError> {
        if replication
            .get::<String>("role")
            .is_some_and(|role| role != "master")
        {
            return Err(RemoteError::Disconnected("it is a replica".into()));
        }
        let missing = |field| RemoteError::Refused(format!("the reply to INFO has no {field}"));
        let replication_id = replication.get::<String>("master_replid");
        let replication_id = replication_id.ok_or_else(|| missing("master_replid"))?;
        let mode = server.get::<String>("redis_mode");
        // The name of the field in Valkey.
        let mode = mode.or_else(|| server.get("server_mode"));
        let version = server.get::<String>("redis_version").unwrap_or_default();
        let major = version
            .split('.')
            .next()
            .and_then(|major| major.parse::<u32>().ok());
        Ok(Self {
            history: format!("{replication_id:<40.40}:{term:016x}"),
            run_id: server.get("run_id").ok_or_else(|| missing("run_id"))?,
            clock,
            max_argument_size: DEFAULT_MAX_ARGUMENT_SIZE,
            is_sharded: mode.is_some_and(|mode| mode == "cluster") && major >= Some(7),
        })
    }
}

/// Returns `true` if a new connection mends the error, because it loads the scripts and finds the primary: the scripts
/// were flushed, the server is a replica now or has another replication history, or the slot has moved.
fn needs_reconnect(error: &RedisError) -> bool {
    // In a pipeline, an error that our own scripts return has no code.
    matches!(error.code(), Some("NOSCRIPT" | "READONLY" | "MOVED"))
        || error.to_string().contains("another replication history")
}

/// Returns `true` if the user lacks a right, for the command or for one in a script.
fn is_forbidden(error: &RedisError) -> bool {
    let in_script = || error.to_string().contains("executing the script can't");
    error.code() == Some("NOPERM") || in_script()
}

/// The error of a task that did not end.
impl From<JoinError> for RemoteError {
    fn from(_: JoinError) -> Self {
        Self::Disconnected("the runtime shuts down".into())
    }
}

impl From<RedisError> for RemoteError {
    fn from(error: RedisError) -> Self {
        if error.is_timeout() {
            Self::Timeout
        } else if error.is_io_error() || error.is_unrecoverable_error() || needs_reconnect(&error) {
            Self::Disconnected(error.to_string())
        } else if is_forbidden(&error) {
            Self::Forbidden(error.to_string())
        } else {
            // Servers repeat the arguments, which are keys and values.
            let why = error.to_string();
            let why = why.split(", with args").next().unwrap_or_default();
            Self::Refused(why.to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn late_reply_of_an_old_primary_does_not_end_the_subscription_to_the_new_one() {
        let named = |id: &str, term| Primary {
            id: id.into(),
            term,
            address: None,
        };
        let connection = SharedConnection::new(Duration::from_secs(1), Handle::current());
        let (old, new) = (named("old", 1), named("new", 2));
        let primary = watch::Sender::new(Some(old.clone()));
        let mut changes = primary.subscribe();
        leave_primary(&connection, &primary, &old);
        assert!(changes.borrow_and_update().is_none());
        primary.send_replace(Some(new.clone()));
        changes.mark_unchanged();
        leave_primary(&connection, &primary, &old);
        assert!(!changes.has_changed().unwrap());
        assert_eq!(*primary.borrow(), Some(new));
    }
}
