//! The connection to the primary, and what is known of the server behind it.
//!
//! A connection of our own making, where the `redis` crate has one that mends itself: each new one
//! must first learn on which branch of history its server is, since a server that was restarted, or
//! that was a replica, may lack what another one had confirmed; and no command may get past that.

use super::channel::Channel;
use super::deciders::Decision;
use super::dial::Dial;
use super::link::Link;
use super::rounds::Rounds;
use super::scripts;
use super::target::{Deciders, Target};
use super::views::Primary;
use crate::tiered::health::Warning;
use crate::tiered::remote::RemoteError;
use parking_lot::Mutex;
use redis::{Client, InfoDict, RedisError, RedisResult};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// How long connecting may take at least; who waits for it waits no longer than its own deadline.
const PATIENCE: Duration = Duration::from_secs(2);

/// How many deadlines connecting may take: it is several round trips.
const PATIENT: u32 = 8;

/// How often it is asked, while it is connected to, whether it is the primary still.
const CHECKED: Duration = Duration::from_millis(250);

/// The largest argument that a server takes unless it is told otherwise, in bytes.
const MAX_ARGUMENT: usize = 512 << 20;

const MOVED: &str = "another server is the primary now";

/// How often it is looked whether the server is set up for a cache.
const INSPECTED: Duration = Duration::from_secs(30);

/// A connection to a primary.
#[derive(Clone)]
pub(crate) struct Connection {
    pub(crate) link: Link,
    /// To the same server, for what makes a connection wait.
    pub(crate) waiting: Option<Arc<Waiting>>,
    /// To the same server, for what takes long to transfer.
    pub(crate) bulk: Arc<Bulk>,
    pub(crate) primary: Primary,
    pub(crate) facts: Arc<Facts>,
}

/// A connection that may wait.
pub(crate) struct Waiting {
    pub(crate) link: Link,
    /// How many replicas have confirmed.
    pub(crate) replicated: Rounds<u64>,
}

/// A connection for large values, so that small ones do not wait for them. It is made when it is needed for
/// the first time, and again when it was lost.
pub(crate) struct Bulk {
    client: Client,
    patience: Duration,
    /// Of the server.
    run: String,
    dial: Dial<Link>,
}

impl Bulk {
    /// The connection, and its number.
    pub(crate) async fn get(&self) -> Result<(u64, Link), RemoteError> {
        let connecting = || {
            let (client, run, patience) = (self.client.clone(), self.run.clone(), self.patience);
            async move { open_to(&client, &run, patience).await }
        };
        self.dial.get(connecting).await
    }

    pub(crate) fn discard(&self, number: u64) {
        self.dial.discard(number);
    }
}

/// What a server says of itself.
pub(crate) struct Facts {
    /// The branch of history that it is on: its replication id, and a term.
    pub(crate) branch: String,
    /// Its name for this run of itself.
    run: String,
    /// The largest argument that it takes, in bytes.
    max_argument: usize,
    /// Are messages published within their shard, and heard by those who listen there?
    pub(crate) is_sharded: bool,
}

/// When, and what was wrong.
type Inspected = (Instant, Vec<Warning>);

/// Makes connections to whoever is the primary.
pub(crate) struct Connector {
    target: Arc<Target>,
    decision: Arc<Decision>,
    patience: Duration,
    waits: bool,
    dial: Arc<Dial<Connection>>,
    /// To whom the last connection was made, or is being made; `None` once the primary is another.
    primary: watch::Sender<Option<Primary>>,
    /// When the server was looked at last, and what is wrong with it.
    inspected: Arc<Mutex<Option<Inspected>>>,
    /// The largest argument that the server takes, in bytes.
    max_argument: Arc<AtomicUsize>,
    runtime: Handle,
}

impl Connector {
    /// `key` is one of the namespace's, `waits` whether there is to be a second connection, to wait on.
    pub(crate) fn new(
        target: Target,
        key: &str,
        deadline: Duration,
        waits: bool,
        runtime: &Handle,
    ) -> Self {
        let target = Arc::new(target);
        let patience = PATIENCE.max(deadline.saturating_mul(PATIENT));
        let decision = Decision::new(Arc::clone(&target), key, deadline, patience, runtime);
        Self {
            target,
            decision: Arc::new(decision),
            patience,
            waits,
            dial: Arc::new(Dial::new(patience, runtime.clone())),
            primary: watch::Sender::new(None),
            inspected: Arc::default(),
            max_argument: Arc::new(AtomicUsize::new(MAX_ARGUMENT)),
            runtime: runtime.clone(),
        }
    }

    pub(crate) fn patience(&self) -> Duration {
        self.patience
    }

    /// The connection, and its number.
    pub(crate) async fn get(&self) -> Result<(u64, Connection), RemoteError> {
        let connecting = || {
            let (target, decision) = (Arc::clone(&self.target), Arc::clone(&self.decision));
            let (primary, inspected) = (self.primary.clone(), Arc::clone(&self.inspected));
            let (patience, waits) = (self.patience, self.waits);
            let (max_argument, runtime) = (Arc::clone(&self.max_argument), self.runtime.clone());
            async move {
                let decided = decision.primary().await?;
                primary.send_replace(Some(decided.clone()));
                *inspected.lock() = None;
                let connecting = connect(&target, decided.clone(), patience, waits, runtime);
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

    pub(crate) fn discard(&self, number: u64) {
        self.dial.discard(number);
    }

    /// The largest argument that the server takes, in bytes, as of the last connection to it.
    pub(crate) fn max_argument(&self) -> usize {
        self.max_argument.load(Relaxed)
    }

    /// Hears of failovers before anybody asks.
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

    /// Was the server of this connection the primary at a time after this was called?
    pub(crate) async fn confirm(&self, connection: &Connection) -> Result<(), RemoteError> {
        if self.decision.primary().await? == connection.primary {
            return Ok(());
        }
        move_on(&self.dial, &self.primary);
        Err(RemoteError::Disconnected(MOVED.into()))
    }

    pub(crate) fn warnings(&self) -> Vec<Warning> {
        let inspected = self.inspected.lock();
        inspected
            .as_ref()
            .map_or_else(Vec::new, |(_, warnings)| warnings.clone())
    }

    /// Looks, now and then, whether the server is set up for a cache.
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

    /// A subscription to channels on the primary, which ends when that is another.
    pub(crate) async fn listen(&self, channels: &[String]) -> Result<Channel, RemoteError> {
        let (_, connection) = self.get().await?;
        let (mut primary, moves) = (self.primary.subscribe(), self.primary.subscribe());
        let Connection {
            facts, primary: of, ..
        } = connection;
        let client = self.target.client(of.address.as_deref())?;
        let (is_sharded, patience) = (facts.is_sharded, self.patience);
        let opening = Channel::open(&client, channels, is_sharded, patience, of.clone(), moves);
        tokio::select! {
            channel = opening => channel,
            // Who says nothing is not waited for.
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

/// Another server is the primary: who listens to the old one or writes to it shall find it.
fn move_on(dial: &Dial<Connection>, primary: &watch::Sender<Option<Primary>>) {
    primary.send_replace(None);
    dial.hang_up();
}

/// What a connection begins with: what the server says of itself, and the scripts.
async fn connect(
    target: &Target,
    primary: Primary,
    patience: Duration,
    waits: bool,
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
    if waits {
        waiting = Some(Arc::new(Waiting {
            link: open_to(&client, &facts.run, patience).await?,
            replicated: Rounds::new(runtime.clone()),
        }));
    }
    let bulk = Bulk {
        client,
        patience,
        run: facts.run.clone(),
        dial: Dial::new(patience, runtime),
    };
    Ok(Connection {
        link,
        waiting,
        bulk: Arc::new(bulk),
        primary,
        facts: Arc::new(facts),
    })
}

/// Asks for the largest argument that the server takes. A user need not have the right to ask, which
/// would let it read passwords too: then it is taken for what it is unless it was set.
async fn max_argument(link: &mut Link) -> usize {
    let mut question = redis::cmd("CONFIG");
    question.arg("GET").arg("proto-max-bulk-len");
    let reply: RedisResult<HashMap<String, usize>> = question.query_async(link).await;
    let limit = reply.ok().and_then(|reply| reply.into_values().next());
    limit.unwrap_or(MAX_ARGUMENT)
}

/// Opens another connection to the server that calls this run of itself so.
async fn open_to(client: &Client, run: &str, patience: Duration) -> Result<Link, RemoteError> {
    let mut link = Link::open(client, patience).await?;
    let server: InfoDict = redis::cmd("INFO")
        .arg("server")
        .query_async(&mut link)
        .await?;
    // The address may have begun to lead to another.
    if server.get::<String>("run_id").as_deref() != Some(run) {
        return Err(RemoteError::Disconnected(MOVED.into()));
    }
    Ok(link)
}

/// What belongs to a branch of history besides its id. By word of sentinels a server may become the
/// primary again that has never been told that it was not, and has the same id still. One of a cluster
/// has been told; and a cluster's terms count the failovers of all.
fn term_of_branch(target: &Target, primary: &Primary) -> u64 {
    match target.deciders {
        Deciders::Sentinels { .. } => primary.term,
        Deciders::Cluster { .. } | Deciders::Nobody => 0,
    }
}

impl Facts {
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
        // As Valkey calls it.
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

/// Somebody flushed the scripts, or the server is another's replica now, or on another branch, or the
/// slot has moved: a new connection brings them, or finds the primary.
fn is_lost(error: &RedisError) -> bool {
    // Of a pipeline's errors, those that only our scripts make have no code.
    matches!(error.code(), Some("NOSCRIPT" | "READONLY" | "MOVED"))
        || error.to_string().contains("on another branch of history")
}

/// To the user, or to a script on the user's behalf.
fn is_forbidden(error: &RedisError) -> bool {
    let in_script = || error.to_string().contains("executing the script can't");
    error.code() == Some("NOPERM") || in_script()
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
            // Servers repeat arguments, which are keys and values.
            let why = error.to_string();
            let why = why.split(", with args").next().unwrap_or_default();
            Self::Refused(why.to_owned())
        }
    }
}
