//! The connections to the primary, and the facts about the server behind them.
//!
//! The `redis` crate has a connection that reconnects by itself. It is not used here, because each new connection must
//! first find out which replication history its server has, before any command is sent: a server that was restarted,
//! or that was a replica, may lack writes that another server has confirmed.

use crate::tiered::l2::redis::coalesced_query::CoalescedQuery;
use crate::tiered::l2::redis::longest_deadline::LongestDeadline;
use crate::tiered::l2::redis::scripts;
use crate::tiered::l2::redis::server_clock::ServerClock;
use crate::tiered::l2::redis::server_connection::ServerConnection;
use crate::tiered::l2::redis::shared_connection::SharedConnection;
use crate::tiered::l2::redis::silence::Silence;
use crate::tiered::l2::redis::topology::Primary;
use crate::tiered::l2::redis::url::{ServerClient, ServerUrl, Topology};
use crate::tiered::l2::remote::RemoteError;
use redis::{InfoDict, RedisError, RedisResult};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::task::JoinError;

/// The default of `proto-max-bulk-len`, the largest argument that a server accepts, in bytes.
pub(super) const DEFAULT_MAX_ARGUMENT_SIZE: usize = 512 << 20;

/// Error text of a connection to a server that is not the primary any more.
pub(super) const PRIMARY_CHANGED: &str = "another server is the primary now";

/// Error text of a call to a server that does not serve the slot of the key any more.
const SLOT_MOVED: &str = "another server serves the slot now";

/// Returns `true` if another server is the primary instead of that of a connection.
pub(super) fn is_primary_changed(error: &RemoteError) -> bool {
    matches!(error, RemoteError::Disconnected(why) if why == PRIMARY_CHANGED)
}

/// Returns the error of a call to a server that does not serve the slot of the key any more.
pub(super) fn slot_moved() -> RemoteError {
    RemoteError::Disconnected(SLOT_MOVED.into())
}

/// Returns `true` for the error [`slot_moved`]. The connection still works for other slots.
pub(super) fn is_slot_moved(error: &RemoteError) -> bool {
    matches!(error, RemoteError::Disconnected(why) if why == SLOT_MOVED)
}

/// The connections to a primary.
#[derive(Clone)]
pub(super) struct Connection {
    /// The connection for all calls except large values and `WAIT`.
    pub(super) main: ServerConnection,
    /// A connection to the same server for large values, so that small ones do not wait for them.
    pub(super) bulk: Arc<SideConnection>,
    pub(super) replica_wait: Arc<ReplicaWait>,
    pub(super) primary: Primary,
    pub(super) server: Arc<ServerInfo>,
    /// For how long the main connection has not replied.
    pub(super) silence: Arc<Silence>,
}

/// A connection to the same server for `WAIT`, which blocks a connection.
pub(super) struct ReplicaWait {
    pub(super) connection: Arc<SideConnection>,
    /// The query for the number of replicas that have all writes. It belongs to the connection, because the replicas of
    /// another server prove nothing.
    pub(super) query: CoalescedQuery<u64>,
}

/// A connection beside the main one, to the same server. It is opened when it is needed for the first time, and again
/// after it was lost.
pub(super) struct SideConnection {
    client: ServerClient,
    deadline: Arc<LongestDeadline>,
    run_id: String,
    connection: SharedConnection<ServerConnection>,
}

impl SideConnection {
    fn new(
        client: ServerClient,
        run_id: &str,
        deadline: &Arc<LongestDeadline>,
        runtime: &Handle,
    ) -> Arc<Self> {
        Arc::new(Self {
            client,
            deadline: Arc::clone(deadline),
            run_id: run_id.into(),
            connection: SharedConnection::new(Arc::clone(deadline), runtime.clone()),
        })
    }

    /// Returns the connection and its number.
    pub(super) async fn get(&self) -> Result<(u64, ServerConnection), RemoteError> {
        let connect = || {
            let (client, run_id) = (self.client.clone(), self.run_id.clone());
            let connect_timeout = self.deadline.connect_timeout();
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
    pub(super) max_argument_size: usize,
    /// `true` if messages are published and received within their shard of a cluster.
    pub(super) is_sharded: bool,
}

/// Opens the connection to a primary, asks the server for its facts, and loads the scripts.
pub(super) async fn open(
    url: &ServerUrl,
    primary: Primary,
    deadline: Arc<LongestDeadline>,
    runtime: Handle,
) -> Result<Connection, RemoteError> {
    let client = url.client(primary.address.as_deref())?;
    let mut main = ServerConnection::open(&client, deadline.connect_timeout()).await?;
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
    let side = |client| SideConnection::new(client, &server.run_id, &deadline, &runtime);
    Ok(Connection {
        main,
        replica_wait: Arc::new(ReplicaWait {
            connection: side(client.clone()),
            query: CoalescedQuery::new(runtime.clone()),
        }),
        bulk: side(client),
        primary,
        server: Arc::new(server),
        silence: Arc::new(Silence::new()),
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
    client: &ServerClient,
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
/// were flushed, or the server is a replica now or has another replication history.
fn needs_reconnect(error: &RedisError) -> bool {
    // In a pipeline, an error that our own scripts return has no code.
    matches!(error.code(), Some("NOSCRIPT" | "READONLY"))
        || error.to_string().contains("another replication history")
}

/// Returns `true` if the user lacks a right, for the command or for one in a script.
fn is_forbidden(error: &RedisError) -> bool {
    // The first text is that of Redis 7.2 and newer and of Valkey.
    let in_script = ["ACL failure in script", "executing the script can't"];
    let text = error.to_string();
    error.code() == Some("NOPERM") || in_script.iter().any(|it| text.contains(it))
}

/// The error of a task that did not end.
impl From<JoinError> for RemoteError {
    fn from(_: JoinError) -> Self {
        Self::Disconnected("the runtime shuts down".into())
    }
}

impl From<RedisError> for RemoteError {
    fn from(error: RedisError) -> Self {
        if error.code() == Some("MOVED") {
            slot_moved()
        } else if error.is_timeout() {
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
