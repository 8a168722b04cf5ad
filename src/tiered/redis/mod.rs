//! [`Remote`] on Redis or Valkey: keys, scripts, replies.
//!
//! All that must be one step is one script, and all keys of a namespace share a hash tag.

mod target;

mod dial;
mod rounds;
mod views;

mod deciders;

mod channel;
mod connection;

use super::codec::{millis, tag_hash};
use super::health::Warning;
use super::remote::{
    Answer, Ask, Fill, Head, Incarnation, Invalidated, Messages, NewValue, Peer, Position, Remote,
    RemoteError, Reply, Subject,
};
use crate::random;
use channel::payload;
use connection::{Connection, Connector};
use redis::aio::MultiplexedConnection;
use redis::{Cmd, Pipeline, Script, Value};
use std::sync::LazyLock;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

pub(crate) use target::{Certificates, Target};

/// A script, and the name that the server gives it.
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

/// As many questions go out in one round trip, within one deadline.
const CHUNK: usize = 256;

/// How long a namespace outlasts its last process, in milliseconds: a month.
const KEPT: u64 = 30 * 24 * 3_600 * 1_000;

/// A century.
const MAX_TTL: Duration = Duration::from_secs(100 * 365 * 24 * 3_600);

/// A day: who leads for longer is taken for lost.
const MAX_LEASE: Duration = Duration::from_secs(24 * 3_600);

script!(ASK, "ask.lua");
script!(FILL, "fill.lua");
script!(INVALIDATE, "invalidate.lua");
script!(RENEW, "renew.lua");

/// All of them, for a new connection to load.
fn scripts() -> [&'static Lua; 4] {
    [&ASK, &FILL, &INVALIDATE, &RENEW]
}

/// A number that no other process has, not even one that was forked from the same.
pub(crate) fn entropy() -> u64 {
    getrandom::u64().unwrap_or_else(|_| random::bits())
}

/// A namespace on a server, as one process uses it.
pub(crate) struct Redis {
    connector: Connector,
    names: Names,
    me: Peer,
    settings: RedisSettings,
    /// Tells of failovers.
    watching: Option<JoinHandle<()>>,
}

pub(crate) struct RedisSettings {
    /// How long a call may take.
    pub(crate) deadline: Duration,
    /// How long a process may lead a load.
    pub(crate) lease: Duration,
    /// How long those who are forgotten may go on serving from their L1.
    pub(crate) trust: Duration,
    /// Bytes of a value.
    pub(crate) max_size: usize,
    /// As many replicas must have what is confirmed.
    pub(crate) replicas: u64,
}

/// When it is to be made sure that the primary is the primary, so that what it says counts.
#[derive(Clone, Copy, PartialEq)]
enum Confirm {
    Never,
    Before,
    After,
}

/// The namespace's keys and channels.
struct Names {
    state: String,
    readers: String,
    /// What is written for replicas to confirm.
    mark: String,
    events: String,
    base: String,
    channel: String,
}

impl Names {
    /// Channels are the server's, where keys are a database's.
    fn new(namespace: &str, database: i64) -> Self {
        // The braces make it one slot of a cluster.
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

    fn entry(&self, key: &[u8]) -> Vec<u8> {
        [self.base.as_bytes(), b":e:", key].concat()
    }

    fn inbox(&self, peer: Peer) -> String {
        format!("{}:to:{peer:016x}", self.channel)
    }
}

impl Redis {
    pub(crate) fn new(
        target: Target,
        namespace: &str,
        me: Peer,
        settings: RedisSettings,
        runtime: &Handle,
    ) -> Self {
        let names = Names::new(namespace, target.database());
        let waits = settings.replicas > 0;
        let connector = Connector::new(target, &names.state, settings.deadline, waits, runtime);
        Self {
            watching: connector.watch(runtime),
            connector,
            names,
            me,
            settings,
        }
    }

    /// A call of a script, with what all have in common. `key` is an entry's, if it is of one.
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
            .arg(millis(self.settings.trust))
            .arg(publish(connection));
        call
    }

    /// Makes a call for each of the items and returns the replies. As many go out in one round trip as
    /// the deadline is meant for.
    async fn each<T>(
        &self,
        items: &[T],
        call: impl Fn(&T, &Connection) -> Cmd,
    ) -> Result<Vec<Value>, RemoteError> {
        let mut replies = Vec::with_capacity(items.len());
        for items in items.chunks(CHUNK) {
            let mut some = self.trip(items, Confirm::Never, &call).await?;
            replies.append(&mut some);
        }
        Ok(replies)
    }

    async fn one(
        &self,
        confirm: Confirm,
        call: impl Fn(&Connection) -> Cmd,
    ) -> Result<Value, RemoteError> {
        let call = |(): &(), connection: &Connection| call(connection);
        let mut replies = self.trip(&[()], confirm, call).await?;
        replies.pop().ok_or_else(nonsense)
    }

    /// One round trip. A connection on which something went wrong is not used again.
    async fn trip<T>(
        &self,
        items: &[T],
        confirm: Confirm,
        call: impl Fn(&T, &Connection) -> Cmd,
    ) -> Result<Vec<Value>, RemoteError> {
        let mut used = None;
        let trip = tokio::time::timeout(self.settings.deadline, async {
            let (number, mut connection) = self.connector.get().await?;
            used = Some(number);
            if confirm == Confirm::Before {
                self.confirm(&connection).await?;
                self.connector.inspect(&connection).await?;
            }
            let mut pipeline = Pipeline::new();
            for item in items {
                pipeline.add_command(call(item, &connection));
            }
            let replies: Vec<Value> = pipeline.query_async(&mut connection.link).await?;
            if confirm == Confirm::After {
                self.confirm(&connection).await?;
            }
            Ok(replies)
        });
        let result = trip.await.unwrap_or(Err(RemoteError::Timeout));
        let is_over = |error: &RemoteError| {
            use RemoteError::{Disconnected, Timeout, Undecided};
            matches!(error, Timeout | Disconnected(_) | Undecided(_))
        };
        if let Some(number) = used.filter(|_| result.as_ref().is_err_and(is_over)) {
            self.connector.discard(number);
        }
        result
    }

    /// Was this connection's server the primary at a time after this was called, and have as many
    /// replicas what it was told before as shall have it?
    async fn confirm(&self, connection: &Connection) -> Result<(), RemoteError> {
        self.connector.confirm(connection).await?;
        let Some(waiting) = &connection.waiting else {
            return Ok(());
        };
        let replicated = waiting
            .replicated
            .ask(|| self.replicate(waiting.link.clone()));
        let (have, shall) = (replicated.await?, self.settings.replicas);
        if have < shall {
            let why = format!("{have} replicas have it, of {shall} that shall");
            return Err(RemoteError::Undecided(why));
        }
        Ok(())
    }

    /// How many replicas have all that was written so far, and another write, for which they must be
    /// there.
    fn replicate(
        &self,
        mut link: MultiplexedConnection,
    ) -> impl Future<Output = Result<u64, RemoteError>> + Send + use<> {
        let mut waiting = Pipeline::new();
        let write = waiting.cmd("SET").arg(&self.names.mark).arg(entropy());
        write.arg("PX").arg(KEPT).ignore();
        let most = millis(self.settings.deadline / 2);
        waiting.cmd("WAIT").arg(self.settings.replicas).arg(most);
        async move {
            let (have,): (u64,) = waiting.query_async(&mut link).await?;
            Ok(have)
        }
    }

    fn ask_call(&self, ask: &Ask<'_>, connection: &Connection) -> Cmd {
        let mut call = self.call(&ASK, connection, Some(ask.key));
        call.arg(ask.lead.as_ref().map_or(&[][..], |token| token))
            .arg(millis(self.settings.lease.min(MAX_LEASE)))
            .arg(ask.refused.as_ref().map_or(&[][..], |token| token))
            .arg(self.settings.max_size);
        call
    }

    fn fill_call(&self, fill: &Fill<'_>, connection: &Connection) -> Cmd {
        let mut call = self.call(&FILL, connection, Some(fill.key));
        call.arg(&fill.token)
            .arg(fill.envelope)
            .arg(ttl_millis(fill.ttl))
            .arg(&self.names.events)
            .arg([b"F", fill.key].concat());
        call
    }

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
    fn ask<'a>(&'a self, asks: &'a [Ask<'a>]) -> Reply<'a, Vec<Answer>> {
        Box::pin(async move {
            let call = |ask: &Ask<'_>, connection: &Connection| self.ask_call(ask, connection);
            let answers = asks.iter().zip(self.each(asks, call).await?);
            answers.map(|(ask, reply)| answer(ask, reply)).collect()
        })
    }

    fn fill<'a>(&'a self, fills: &'a [Fill<'a>]) -> Reply<'a, Vec<bool>> {
        Box::pin(async move {
            let call = |fill: &Fill<'_>, connection: &Connection| self.fill_call(fill, connection);
            let replies = self.each(fills, call).await?.into_iter();
            Ok(replies.map(|reply| reply == Value::Int(1)).collect())
        })
    }

    fn invalidate<'a>(
        &'a self,
        subject: &'a Subject,
        value: Option<&'a NewValue>,
    ) -> Reply<'a, Invalidated> {
        Box::pin(async move {
            let call = |connection: &Connection| self.invalidate_call(subject, value, connection);
            let reply = self.one(Confirm::After, call).await?;
            let (id, version, stored, readers) = parse(reply)?;
            let readers: Vec<(String, u64)> = readers;
            let reader = |(peer, left): (String, u64)| {
                let peer = u64::from_str_radix(&peer, 16).ok();
                (peer, Duration::from_millis(left))
            };
            Ok(Invalidated {
                position: position(id, version)?,
                stored,
                readers: readers.into_iter().map(reader).collect(),
            })
        })
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
            self.one(Confirm::Before, call).await.map(drop)
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
            self.each(peers, publish).await.map(drop)
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

/// The command that reaches those who listen on this server.
fn publish(connection: &Connection) -> &'static str {
    if connection.facts.is_sharded {
        "SPUBLISH"
    } else {
        "PUBLISH"
    }
}

/// As scripts take it: 0 is for ever, as is what Redis would refuse as too long.
fn ttl_millis(ttl: Option<Duration>) -> u64 {
    let ttl = ttl.filter(|ttl| *ttl < MAX_TTL);
    ttl.map_or(0, millis)
}

fn answer(ask: &Ask<'_>, reply: Value) -> Result<Answer, RemoteError> {
    let mut parts = reply.into_sequence().map_err(|_| nonsense())?.into_iter();
    let mut part = || parts.next().ok_or_else(nonsense);
    match parse::<i64>(part()?)? {
        0 => Ok(Answer::None),
        1 => {
            let left = parse::<i64>(part()?)?;
            Ok(Answer::Value {
                // -1: it has no end.
                left: u64::try_from(left).ok().map(Duration::from_millis),
                envelope: parse(part()?)?,
            })
        }
        2 => Ok(Answer::Led {
            left: Duration::from_millis(parse::<i64>(part()?)?.try_into().unwrap_or(0)),
        }),
        kind @ (3 | 4) => {
            let at = position(parse(part()?)?, parse(part()?)?)?;
            let head = Head {
                incarnation: at.incarnation,
                version: at.version,
                token: ask.lead.ok_or_else(nonsense)?,
            };
            Ok(Answer::Lead {
                head,
                oversize: kind == 4,
            })
        }
        _ => Err(nonsense()),
    }
}

fn position(incarnation: Vec<u8>, version: u64) -> Result<Position, RemoteError> {
    let incarnation: Incarnation = incarnation.try_into().map_err(|_| nonsense())?;
    Ok(Position {
        incarnation,
        version,
    })
}

fn parse<T: redis::FromRedisValue>(value: Value) -> Result<T, RemoteError> {
    redis::from_redis_value(value).map_err(|_| nonsense())
}

fn nonsense() -> RemoteError {
    RemoteError::Refused("a reply of another shape than its script's".into())
}
