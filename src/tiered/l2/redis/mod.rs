//! [`Remote`] on Redis or Valkey: keys, scripts, replies.
//!
//! Everything that must be atomic is one script, and all keys of a namespace share a hash tag.

mod coalesced_query;
mod connection;
mod flow_control;
mod link;
mod primary_resolver;
mod round_trip;
mod shared_connection;
mod subscription;
mod topology;
mod transfer;
mod url;

use crate::random;
use crate::tiered::health::Warning;
use crate::tiered::l2::envelope::{millis, tag_hash};
use crate::tiered::l2::redis::connection::{Connection, Connector};
use crate::tiered::l2::redis::flow_control::{ExpectedSize, FlowControl, TimeLimits};
use crate::tiered::l2::redis::subscription::payload;
use crate::tiered::l2::remote::{
    Answer, Ask, Fill, Incarnation, Invalidated, Messages, NewValue, Peer, Position, Remote,
    RemoteError, Reply, Subject,
};
use redis::{Cmd, Script, Value};
use std::sync::LazyLock;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use crate::tiered::l2::redis::round_trip::{Confirm, Lane, RoundTrip};
use crate::tiered::l2::redis::transfer::{BULK_WINDOW, SMALL_VALUE, SMALL_WINDOW};

pub(crate) use crate::tiered::l2::redis::url::{Certificates, ServerUrl};

/// A script and its SHA-1 hash, by which the server knows it.
struct Lua {
    source: &'static str,
    hash: String,
}

macro_rules! script {
    ($name:ident, $file:literal) => {
        static $name: LazyLock<Lua> = LazyLock::new(|| {
            let source = concat!(
                include_str!("scripts/prelude.lua"),
                include_str!(concat!("scripts/", $file))
            );
            let hash = Script::new(source).get_hash().into();
            Lua { source, hash }
        });
    };
}

/// Largest number of calls in one round trip, which have one deadline together.
const CHUNK: usize = 256;

/// Estimated number of bytes of a call and its reply besides the value: names, tokens and protocol.
const CALL: usize = 256;

/// Time for which the state of a namespace is kept after its last process has ended, in milliseconds: 30 days.
const KEPT: u64 = 30 * 24 * 3_600 * 1_000;

/// Time to live from which on a value is stored without one, because Redis refuses very long ones: a century.
const MAX_TTL: Duration = Duration::from_secs(100 * 365 * 24 * 3_600);

/// Longest lease of a load: a day. The process that leads for longer is taken for dead.
const MAX_LEASE: Duration = Duration::from_secs(24 * 3_600);

/// Longest time that a call waits until it is sent, if the lease is not shorter: a caller of a cache had better run its
/// loader by then.
const MAX_WAIT: Duration = Duration::from_secs(10);

script!(ASK, "ask.lua");
script!(FILL, "fill.lua");
script!(INVALIDATE, "invalidate.lua");
script!(RENEW, "renew.lua");

/// Returns all scripts, which each new connection loads.
fn scripts() -> [&'static Lua; 4] {
    [&ASK, &FILL, &INVALIDATE, &RENEW]
}

/// Returns a number that no other process gets, not even one forked from the same parent.
pub(crate) fn entropy() -> u64 {
    getrandom::u64().unwrap_or_else(|_| random::bits())
}

/// The connection of one process to a namespace on a server.
pub(crate) struct Redis {
    connector: Connector,
    names: Names,
    me: Peer,
    settings: RedisSettings,
    /// Flow control of the connection for small values.
    small: FlowControl,
    /// Flow control of the connection for large values.
    bulk: FlowControl,
    /// Expected size of a value that comes in the reply to a question.
    value_size: ExpectedSize,
    runtime: Handle,
    /// The task that watches for failovers.
    watching: Option<JoinHandle<()>>,
}

pub(crate) struct RedisSettings {
    /// Longest time that a call may take.
    pub(crate) deadline: Duration,
    /// Longest time that a process may lead a load.
    pub(crate) lease: Duration,
    /// Longest time for which processes missing in the list of readers may go on serving from their L1.
    pub(crate) read_lease: Duration,
    /// Largest size of a value, in bytes.
    pub(crate) max_size: usize,
    /// Number of replicas that must have a write before it is confirmed.
    pub(crate) replicas: u64,
}

/// The namespace's keys and channels.
struct Names {
    state: String,
    readers: String,
    /// A key that is written for replicas to confirm.
    mark: String,
    events: String,
    base: String,
    channel: String,
}

impl Names {
    /// Creates the names. Those of channels contain the database, because channels belong to the server, while keys
    /// belong to a database.
    fn new(namespace: &str, database: i64) -> Self {
        // The braces put all keys into one slot of a cluster.
        let base = format!("hotset:{{{namespace}}}");
        Self {
            state: format!("{base}:state"),
            readers: format!("{base}:readers"),
            mark: format!("{base}:mark"),
            channel: format!("{base}:{database}"),
            events: format!("{base}:{database}:events"),
            base,
        }
    }

    /// Returns the name of the entry of a key.
    fn entry(&self, key: &[u8]) -> Vec<u8> {
        [self.base.as_bytes(), b":e:", key].concat()
    }

    /// Returns the name of the channel that only `peer` listens to.
    fn inbox(&self, peer: Peer) -> String {
        format!("{}:to:{peer:016x}", self.channel)
    }
}

impl Redis {
    /// Creates the connections of the process `me`. They are opened when they are needed for the first time.
    pub(crate) fn new(
        target: ServerUrl,
        namespace: &str,
        me: Peer,
        settings: RedisSettings,
        runtime: &Handle,
    ) -> Self {
        let names = Names::new(namespace, target.database());
        let waiters_by_key = settings.replicas > 0;
        let connector = Connector::new(
            target,
            &names.state,
            settings.deadline,
            waiters_by_key,
            runtime,
        );
        let limits = TimeLimits {
            deadline: settings.deadline,
            most: settings.lease.min(MAX_WAIT),
        };
        Self {
            watching: connector.watch(runtime),
            connector,
            names,
            me,
            settings,
            small: FlowControl::new(SMALL_WINDOW, limits, runtime.clone()),
            bulk: FlowControl::new(BULK_WINDOW, limits, runtime.clone()),
            value_size: ExpectedSize::new(SMALL_VALUE / 4),
            runtime: runtime.clone(),
        }
    }

    /// Returns a call of a script, with the arguments that all scripts share. `key` is the key of the entry, for a
    /// script that concerns one.
    fn call(&self, script: &Lua, connection: &Connection, key: Option<&[u8]>) -> Cmd {
        let mut call = redis::cmd("EVALSHA");
        call.arg(&script.hash)
            .arg(if key.is_some() { 3 } else { 2 })
            .arg(&self.names.state)
            .arg(&self.names.readers);
        if let Some(key) = key {
            call.arg(self.names.entry(key));
        }
        call.arg(&entropy().to_be_bytes())
            .arg(&connection.facts.branch)
            .arg(millis(self.settings.read_lease))
            .arg(publish(connection));
        call
    }

    /// Returns the call that asks for a value. A value of more than `most` bytes is not in the reply.
    fn ask_call(&self, ask: &Ask<'_>, most: usize, connection: &Connection) -> Cmd {
        let mut call = self.call(&ASK, connection, Some(ask.key));
        call.arg(ask.lead.as_ref().map_or(&[][..], |token| token))
            .arg(millis(self.settings.lease.min(MAX_LEASE)))
            .arg(ask.refused.as_ref().map_or(&[][..], |token| token))
            .arg(self.settings.max_size)
            .arg(if ask.head_only { 0 } else { most });
        call
    }

    /// Returns the call that stores a value, or gives a lease back.
    fn fill_call(&self, fill: &Fill<'_>, connection: &Connection) -> Cmd {
        let mut call = self.call(&FILL, connection, Some(fill.key));
        call.arg(&fill.token)
            .arg(fill.envelope)
            .arg(ttl_millis(fill.ttl))
            .arg(&self.names.events)
            .arg([b"F", fill.key].concat());
        call
    }

    /// Returns the call that invalidates, and stores the new value of a key.
    fn invalidate_call(
        &self,
        subject: &Subject,
        value: Option<&NewValue>,
        connection: &Connection,
    ) -> Cmd {
        let key = match subject {
            Subject::Key(key) => Some(&**key),
            Subject::Tag(_) | Subject::All => None,
        };
        let mut call = self.call(&INVALIDATE, connection, key);
        call.arg(&self.names.events).arg(payload(self.me, subject));
        match subject {
            Subject::Key(_) => call.arg("k").arg(""),
            Subject::Tag(tag) => call.arg("t").arg(&tag_hash(tag)),
            Subject::All => call.arg("a").arg(""),
        };
        if let Some(value) = value {
            call.arg(&value.instead_of)
                .arg(&value.envelope)
                .arg(ttl_millis(value.ttl));
        } else {
            call.arg("").arg("").arg(0);
        }
        call
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        if let Some(watching) = &self.watching {
            watching.abort();
        }
    }
}

impl Remote for Redis {
    fn ask<'a>(&'a self, asks: &'a [Ask<'a>]) -> Reply<'a, Vec<Result<Answer, RemoteError>>> {
        Box::pin(self.ask_all(asks))
    }

    fn fill<'a>(&'a self, fills: &'a [Fill<'a>]) -> Reply<'a, Vec<Result<bool, RemoteError>>> {
        Box::pin(self.fill_all(fills))
    }

    fn invalidate<'a>(
        &'a self,
        subject: &'a Subject,
        value: Option<&'a NewValue>,
    ) -> Reply<'a, Invalidated> {
        Box::pin(self.invalidate_with(subject, value))
    }

    fn max_value_size(&self) -> usize {
        self.connector.max_argument()
    }

    fn renew(&self, nonce: u64, lease: Duration) -> Reply<'_, ()> {
        Box::pin(async move {
            let call = |connection: &Connection| {
                let mut call = self.call(&RENEW, connection, None);
                let lease = if lease.is_zero() { 0 } else { millis(lease) };
                call.arg(format!("{:016x}", self.me))
                    .arg(lease)
                    .arg(self.names.inbox(self.me))
                    .arg(nonce)
                    .arg(KEPT);
                call
            };
            let trip = RoundTrip::on(Lane::Control, CALL).confirmed(Confirm::Before);
            self.one(trip, call).await.map(drop)
        })
    }

    fn acknowledge<'a>(&'a self, peers: &'a [Peer], at: Position) -> Reply<'a, ()> {
        Box::pin(async move {
            let mut message = b"A".to_vec();
            message.extend_from_slice(&at.incarnation);
            message.extend_from_slice(&at.version.to_be_bytes());
            message.extend_from_slice(&self.me.to_be_bytes());
            let publish = |&peer: &Peer, connection: &Connection| {
                let mut call = redis::cmd(publish(connection));
                call.arg(self.names.inbox(peer)).arg(&message);
                call
            };
            for peers in peers.chunks(CHUNK) {
                let trip = RoundTrip::on(Lane::Control, CALL * peers.len());
                let replies = self.trip(trip, peers, publish).await?;
                replies.into_iter().try_for_each(|reply| reply.map(drop))?;
            }
            Ok(())
        })
    }

    fn warnings(&self) -> Vec<Warning> {
        self.connector.warnings()
    }

    fn listen(&self) -> Reply<'_, Box<dyn Messages>> {
        Box::pin(async move {
            let channels = [self.names.events.clone(), self.names.inbox(self.me)];
            let listening = self.connector.listen(&channels);
            let channel = tokio::time::timeout(self.connector.patience(), listening).await;
            let channel = channel.unwrap_or(Err(RemoteError::Timeout))?;
            Ok(Box::new(channel) as Box<dyn Messages>)
        })
    }
}

/// Returns the command that publishes to the subscribers of this server.
fn publish(connection: &Connection) -> &'static str {
    if connection.facts.is_sharded {
        "SPUBLISH"
    } else {
        "PUBLISH"
    }
}

/// Returns a time to live in milliseconds, for scripts. It is 0 for none, and for one of [`MAX_TTL`] or more.
fn ttl_millis(ttl: Option<Duration>) -> u64 {
    let ttl = ttl.filter(|ttl| *ttl < MAX_TTL);
    ttl.map_or(0, millis)
}

fn position(incarnation: Vec<u8>, version: u64) -> Result<Position, RemoteError> {
    let incarnation: Incarnation = incarnation.try_into().map_err(|_| nonsense())?;
    Ok(Position {
        incarnation,
        version,
    })
}

/// Converts a part of a reply.
fn parse<T: redis::FromRedisValue>(value: Value) -> Result<T, RemoteError> {
    redis::from_redis_value(value).map_err(|_| nonsense())
}

/// Returns the error for a reply that does not have the shape that its script returns.
fn nonsense() -> RemoteError {
    RemoteError::Refused("the reply does not have the shape that its script returns".into())
}
