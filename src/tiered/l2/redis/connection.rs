//! The connection to the primary, and the facts about the server behind it.
//!
//! The `redis` crate has a connection that reconnects by itself. It is not used here, because each new connection must
//! first find out which replication history its server has, before any command is sent: a server that was restarted,
//! or that was a replica, may lack writes that another server has confirmed.

use crate::tiered::health::Warning;
use crate::tiered::l2::redis::coalesced_query::CoalescedQuery;
use crate::tiered::l2::redis::link::Link;
use crate::tiered::l2::redis::primary_resolver::Decision;
use crate::tiered::l2::redis::scripts;
use crate::tiered::l2::redis::shared_connection::SharedConnection;
use crate::tiered::l2::redis::subscription::Subscription;
use crate::tiered::l2::redis::topology::Primary;
use crate::tiered::l2::redis::url::{PrimaryResolver, ServerUrl};
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
const PATIENCE: Duration = Duration::from_secs(2);

/// Time limit for connecting, in deadlines of a call: it takes several round trips.
const PATIENT: u32 = 8;

/// Interval between checks that a server still is the primary, while a connection to it is opened.
const CHECKED: Duration = Duration::from_millis(250);

/// The default of `proto-max-bulk-len`, the largest argument that a server accepts, in bytes.
const MAX_ARGUMENT: usize = 512 << 20;

const MOVED: &str = "another server is the primary now";

/// Interval between checks that the settings of the server suit a cache.
const INSPECTED: Duration = Duration::from_secs(30);

/// A connection to a primary.
#[derive(Clone)]
pub(crate) struct Connection {
    pub(crate) link: Link,
    /// A connection to the same server for `WAIT`, which blocks a connection. `None` if no replicas are required.
    pub(crate) waiting: Option<Arc<Waiting>>,
    /// A connection to the same server for large values.
    pub(crate) bulk: Arc<Bulk>,
    pub(crate) primary: Primary,
    pub(crate) facts: Arc<Facts>,
}

/// A connection for `WAIT`.
pub(crate) struct Waiting {
    pub(crate) link: Link,
    /// Questions for the number of replicas that have all writes.
    pub(crate) replicated: CoalescedQuery<u64>,
}

/// A connection for large values, so that small ones do not wait for them. It is opened when it is needed for the first
/// time, and again after it was lost.
pub(crate) struct Bulk {
    client: Client,
    patience: Duration,
    /// The `run_id` of the server.
    run: String,
    dial: SharedConnection<Link>,
}

impl Bulk {
    /// Returns the connection and its number.
    pub(crate) async fn get(&self) -> Result<(u64, Link), RemoteError> {
        let connecting = || {
            let (client, run, patience) = (self.client.clone(), self.run.clone(), self.patience);
            async move { open_to(&client, &run, patience).await }
        };
        self.dial.get(connecting).await
    }

    /// Discards the connection of this number.
    pub(crate) fn discard(&self, number: u64) {
        self.dial.discard(number);
    }
}

/// The facts that a server reports about itself.
pub(crate) struct Facts {
    /// Its branch of the replication history: the replication id, and a term.
    pub(crate) branch: String,
    /// Its `run_id`, which is another one after each restart.
    run: String,
    /// The largest argument that it accepts, in bytes.
    max_argument: usize,
    /// Whether messages are published and received within their shard of a cluster.
    pub(crate) is_sharded: bool,
}

/// The time of a check of the server's settings, and its result.
type Inspected = (Instant, Vec<Warning>);

/// Opens connections to the current primary.
pub(crate) struct Connector {
    target: Arc<ServerUrl>,
    decision: Arc<Decision>,
    patience: Duration,
    waiters_by_key: bool,
    dial: Arc<SharedConnection<Connection>>,
    /// The server of the last connection, or of the one that is being opened. `None` once another server is the
    /// primary.
    primary: watch::Sender<Option<Primary>>,
    /// The last check of the server's settings.
    inspected: Arc<Mutex<Option<Inspected>>>,
    /// The largest argument that the server of the last connection accepts, in bytes.
    max_argument: Arc<AtomicUsize>,
    runtime: Handle,
}

impl Connector {
    /// Creates a connector for the primary that serves `key`, a key of the namespace. If `waits`, each connection has a
    /// second one for `WAIT`.
    pub(crate) fn new(
        target: ServerUrl,
        key: &str,
        deadline: Duration,
        waiters_by_key: bool,
        runtime: &Handle,
    ) -> Self {
        let target = Arc::new(target);
        let patience = PATIENCE.max(deadline.saturating_mul(PATIENT));
        let decision = Decision::new(Arc::clone(&target), key, deadline, patience, runtime);
        Self {
            target,
            decision: Arc::new(decision),
            patience,
            waiters_by_key,
            dial: Arc::new(SharedConnection::new(patience, runtime.clone())),
            primary: watch::Sender::new(None),
            inspected: Arc::default(),
            max_argument: Arc::new(AtomicUsize::new(MAX_ARGUMENT)),
            runtime: runtime.clone(),
        }
    }

    /// Returns the time limit for connecting.
    pub(crate) fn patience(&self) -> Duration {
        self.patience
    }

    /// Returns the connection and its number.
    pub(crate) async fn get(&self) -> Result<(u64, Connection), RemoteError> {
        let connecting = || {
            let (target, decision) = (Arc::clone(&self.target), Arc::clone(&self.decision));
            let (primary, inspected) = (self.primary.clone(), Arc::clone(&self.inspected));
            let (patience, waiters_by_key) = (self.patience, self.waiters_by_key);
            let (max_argument, runtime) = (Arc::clone(&self.max_argument), self.runtime.clone());
            async move {
                let decided = decision.primary().await?;
                primary.send_replace(Some(decided.clone()));
                *inspected.lock() = None;
                let connecting =
                    connect(&target, decided.clone(), patience, waiters_by_key, runtime);
                let connection = tokio::select! {
                    connection = connecting => connection?,
                    moved = is_another(&decision, &decided) => return Err(moved),
                };
                max_argument.store(connection.facts.max_argument, Relaxed);
                Ok(connection)
            }
        };
        self.dial.get(connecting).await
    }

    /// Discards the connection of this number.
    pub(crate) fn discard(&self, number: u64) {
        self.dial.discard(number);
    }

    /// Returns the largest argument that the server of the last connection accepts, in bytes.
    pub(crate) fn max_argument(&self) -> usize {
        self.max_argument.load(Relaxed)
    }

    /// Starts a task that discards the connection after a failover, where servers announce one.
    pub(crate) fn watch(&self, runtime: &Handle) -> Option<JoinHandle<()>> {
        let decision = Arc::clone(&self.decision);
        let (dial, primary) = (Arc::clone(&self.dial), self.primary.clone());
        let move_on = move |address: &str| {
            let known = primary
                .borrow()
                .as_ref()
                .and_then(|known| known.address.clone());
            if known.is_some_and(|known| known != address) {
                move_on(&dial, &primary);
            }
        };
        decision
            .has_events()
            .then(|| runtime.spawn(async move { decision.watch(move_on).await }))
    }

    /// Checks that the server of this connection was the primary at some time after this call.
    pub(crate) async fn confirm(&self, connection: &Connection) -> Result<(), RemoteError> {
        if self.decision.primary().await? == connection.primary {
            return Ok(());
        }
        move_on(&self.dial, &self.primary);
        Err(RemoteError::Disconnected(MOVED.into()))
    }

    /// Returns the warnings of the last check of the server's settings.
    pub(crate) fn warnings(&self) -> Vec<Warning> {
        let inspected = self.inspected.lock();
        inspected
            .as_ref()
            .map_or_else(Vec::new, |(_, warnings)| warnings.clone())
    }

    /// Checks whether the settings of the server suit a cache, if the last check was [`INSPECTED`] ago.
    pub(crate) async fn inspect(&self, connection: &Connection) -> Result<(), RemoteError> {
        let is_due = |(last, _): &(Instant, _)| last.elapsed() >= INSPECTED;
        if !self.inspected.lock().as_ref().is_none_or(is_due) {
            return Ok(());
        }
        let mut link = connection.link.clone();
        let memory: InfoDict = redis::cmd("INFO")
            .arg("memory")
            .query_async(&mut link)
            .await?;
        let warnings = Warning::of(memory.get("maxmemory"), memory.get("maxmemory_policy"));
        *self.inspected.lock() = Some((Instant::now(), warnings));
        Ok(())
    }

    /// Subscribes to channels on the primary. The subscription ends when another server becomes the primary.
    pub(crate) async fn listen(&self, channels: &[String]) -> Result<Subscription, RemoteError> {
        let (_, connection) = self.get().await?;
        let (mut primary, moves) = (self.primary.subscribe(), self.primary.subscribe());
        let Connection {
            facts, primary: of, ..
        } = connection;
        let client = self.target.client(of.address.as_deref())?;
        let (is_sharded, patience) = (facts.is_sharded, self.patience);
        let opening =
            Subscription::open(&client, channels, is_sharded, patience, of.clone(), moves);
        tokio::select! {
            channel = opening => channel,
            // A primary that was replaced may never answer.
            _ = primary.wait_for(|now| now.as_ref() != Some(&of)) => {
                Err(RemoteError::Disconnected(MOVED.into()))
            }
        }
    }
}

/// Waits until another server is the primary.
async fn is_another(decision: &Arc<Decision>, decided: &Primary) -> RemoteError {
    loop {
        tokio::time::sleep(CHECKED).await;
        if decision.primary().await.is_ok_and(|now| now != *decided) {
            return RemoteError::Disconnected(MOVED.into());
        }
    }
}

/// Ends the subscriptions and discards the connection to a server that is not the primary any more, so that the new
/// one is found.
fn move_on(dial: &SharedConnection<Connection>, primary: &watch::Sender<Option<Primary>>) {
    primary.send_replace(None);
    dial.hang_up();
}

/// Opens a connection, asks the server for its facts, and loads the scripts.
async fn connect(
    target: &ServerUrl,
    primary: Primary,
    patience: Duration,
    waiters_by_key: bool,
    runtime: Handle,
) -> Result<Connection, RemoteError> {
    let client = target.client(primary.address.as_deref())?;
    let mut link = Link::open(&client, patience).await?;
    let mut first = redis::pipe();
    for section in ["server", "replication"] {
        first.cmd("INFO").arg(section);
    }
    for script in scripts() {
        first.cmd("SCRIPT").arg("LOAD").arg(script.source).ignore();
    }
    let (server, replication): (InfoDict, InfoDict) = first.query_async(&mut link).await?;
    let mut facts = Facts::of(&server, &replication, term_of_branch(target, &primary))?;
    facts.max_argument = max_argument(&mut link).await;
    let mut waiting = None;
    if waiters_by_key {
        waiting = Some(Arc::new(Waiting {
            link: open_to(&client, &facts.run, patience).await?,
            replicated: CoalescedQuery::new(runtime.clone()),
        }));
    }
    let bulk = Bulk {
        client,
        patience,
        run: facts.run.clone(),
        dial: SharedConnection::new(patience, runtime),
    };
    Ok(Connection {
        link,
        waiting,
        bulk: Arc::new(bulk),
        primary,
        facts: Arc::new(facts),
    })
}

/// Returns the largest argument that the server accepts. Users need not have the right to ask for it, which would also
/// let them read passwords: without that right it returns the default, [`MAX_ARGUMENT`].
async fn max_argument(link: &mut Link) -> usize {
    let mut question = redis::cmd("CONFIG");
    question.arg("GET").arg("proto-max-bulk-len");
    let reply: RedisResult<HashMap<String, usize>> = question.query_async(link).await;
    let limit = reply.ok().and_then(|reply| reply.into_values().next());
    limit.unwrap_or(MAX_ARGUMENT)
}

/// Opens another connection to the server with this `run_id`.
async fn open_to(client: &Client, run: &str, patience: Duration) -> Result<Link, RemoteError> {
    let mut link = Link::open(client, patience).await?;
    let server: InfoDict = redis::cmd("INFO")
        .arg("server")
        .query_async(&mut link)
        .await?;
    // The address may lead to another server by now.
    if server.get::<String>("run_id").as_deref() != Some(run) {
        return Err(RemoteError::Disconnected(MOVED.into()));
    }
    Ok(link)
}

/// Returns the term that is part of a branch of history, beside the replication id. With sentinels, a server may become
/// the primary again that never noticed its demotion and still has the same id. A server of a cluster does notice, and
/// its term would also count the failovers of other shards.
fn term_of_branch(target: &ServerUrl, primary: &Primary) -> u64 {
    match target.primary_resolver {
        PrimaryResolver::Sentinels { .. } => primary.term,
        PrimaryResolver::Cluster { .. } | PrimaryResolver::Nobody => 0,
    }
}

impl Facts {
    /// Reads the facts from the reply to `INFO`.
    fn of(server: &InfoDict, replication: &InfoDict, term: u64) -> Result<Self, RemoteError> {
        if replication
            .get::<String>("role")
            .is_some_and(|role| role != "master")
        {
            return Err(RemoteError::Disconnected("it is a replica".into()));
        }
        let lacks = |what| RemoteError::Refused(format!("INFO tells no {what}"));
        let branch = replication.get::<String>("master_replid");
        let mode = server.get::<String>("redis_mode");
        // The name of the field in Valkey.
        let mode = mode.or_else(|| server.get("server_mode"));
        let version = server.get::<String>("redis_version").unwrap_or_default();
        let major = version
            .split('.')
            .next()
            .and_then(|major| major.parse::<u32>().ok());
        Ok(Self {
            branch: format!("{}:{term}", branch.ok_or_else(|| lacks("master_replid"))?),
            run: server.get("run_id").ok_or_else(|| lacks("run_id"))?,
            max_argument: MAX_ARGUMENT,
            is_sharded: mode.is_some_and(|mode| mode == "cluster") && major >= Some(7),
        })
    }
}

/// Checks whether a new connection mends the error, because it loads the scripts and finds the primary: the scripts
/// were flushed, the server is a replica now or on another branch of history, or the slot has moved.
fn is_lost(error: &RedisError) -> bool {
    // In a pipeline, an error that our own scripts return has no code.
    matches!(error.code(), Some("NOSCRIPT" | "READONLY" | "MOVED"))
        || error.to_string().contains("on another branch of history")
}

/// Checks whether the user lacks a right, for the command or for one in a script.
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
        } else if error.is_io_error() || error.is_unrecoverable_error() || is_lost(&error) {
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
