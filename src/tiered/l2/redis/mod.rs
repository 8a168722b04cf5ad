//! [`Remote`] on Redis or Valkey: keys, scripts, replies.
//!
//! Everything that must be atomic is one script, and all keys of a namespace share a hash tag.

#[cfg(test)]
mod adoption_model;
mod batched_fills;
mod batched_reads;
mod batching;
mod coalesced_query;
mod connection;
mod connector;
mod expected_size;
mod flow_control;
mod freshness;
#[cfg(test)]
mod freshness_model;
mod hub;
mod hub_builder;
mod invalidation;
mod layout;
mod link;
mod longest_deadline;
mod messages;
mod names;
mod namespace_state;
mod plain_read;
mod primary_resolver;
mod renewal;
mod replica_read;
mod replicas;
mod round_trip;
mod route;
mod routed_messages;
mod server_clock;
mod server_connection;
mod shared_connection;
mod shared_subscription;
mod silence;
mod topology;
mod transfer;
mod url;
mod voters;
mod window;

pub use crate::tiered::l2::redis::hub::{RedisHub, RedisServer};
pub use crate::tiered::l2::redis::hub_builder::RedisHubBuilder;

pub(crate) use crate::tiered::l2::redis::batched_reads::BatchedReads;
pub(crate) use crate::tiered::l2::redis::hub::{Hub, Target};
pub(crate) use crate::tiered::l2::redis::layout::Layout;
pub(crate) use crate::tiered::l2::redis::names::PartitionId;
pub(crate) use crate::tiered::l2::redis::namespace_state::NamespaceState;
pub(crate) use crate::tiered::l2::redis::replica_read::ReplicaSettings;
pub(crate) use crate::tiered::l2::redis::url::Certificates;

use crate::random;
use crate::tiered::health::Warning;
use crate::tiered::l2::envelope::millis;
use crate::tiered::l2::redis::batched_fills::BatchedFill;
use crate::tiered::l2::redis::batching::{BatchOwner, Batches};
use crate::tiered::l2::redis::connection::{Connection, DEFAULT_MAX_ARGUMENT_SIZE};
use crate::tiered::l2::redis::expected_size::ExpectedSize;
use crate::tiered::l2::redis::invalidation::BatchedInvalidation;
use crate::tiered::l2::redis::longest_deadline::IncludedDeadline;
use crate::tiered::l2::redis::names::Names;
use crate::tiered::l2::redis::plain_read::PlainReads;
use crate::tiered::l2::redis::renewal::{Renewals, Upkeep};
use crate::tiered::l2::redis::replica_read::ReplicaReading;
use crate::tiered::l2::redis::round_trip::{PriorityClass, RoundTrip};
use crate::tiered::l2::redis::route::Route;
use crate::tiered::l2::redis::routed_messages::RoutedMessages;
use crate::tiered::l2::redis::transfer::MAX_SMALL_VALUE_SIZE;
use crate::tiered::l2::redis::window::TimeLimits;
use crate::tiered::l2::remote::{
    Fill, Incarnation, Invalidated, LookupReply, LookupRequest, Messages, NewValue, Peer, Position,
    Remote, RemoteError, RemoteFuture, Subject,
};
use parking_lot::Mutex;
use redis::{Cmd, Script, Value};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use tokio::runtime::Handle;

/// A script and its SHA-1 hash, by which the server knows it.
struct Lua {
    source: &'static str,
    hash: String,
}

/// Defines a script of several files, the first of which is common to all.
macro_rules! script {
    ($name:ident, $($file:literal),+) => {
        static $name: LazyLock<Lua> = LazyLock::new(|| {
            let source = concat!(
                include_str!("scripts/state.lua"),
                $(include_str!(concat!("scripts/", $file))),+
            );
            let hash = Script::new(source).get_hash().into();
            Lua { source, hash }
        });
    };
}

/// Largest number of keys in one call of a script. Redis serves no other client meanwhile, for a fifth of a millisecond.
const MAX_SCRIPT_LEN: usize = 64;

/// Largest number of calls in one round trip, which have one deadline together.
const MAX_CALLS: usize = 256;

/// Estimated number of bytes of a call and its reply besides the value: names, tokens and protocol.
const CALL_OVERHEAD: usize = 256;

/// Time for which the key is kept that is written for replicas to confirm, in milliseconds: 30 days.
const MARK_RETENTION_MILLIS: u64 = 30 * 24 * 3_600 * 1_000;

/// Time to live from which on a value is stored without one, because Redis refuses very long ones: a century.
const MAX_TTL: Duration = Duration::from_secs(100 * 365 * 24 * 3_600);

/// Longest lease of a load: a day. A process whose load takes longer counts as dead.
const MAX_LOAD_LEASE: Duration = Duration::from_secs(24 * 3_600);

/// Longest time that a call waits until it is sent, unless the load lease is shorter. After that time a caller of a
/// cache runs its loader instead.
const MAX_QUEUE_TIME: Duration = Duration::from_secs(10);

script!(LOOKUP, "values.lua", "lookup.lua");
script!(FILL, "values.lua", "writes.lua", "fill.lua");
script!(INVALIDATE, "values.lua", "writes.lua", "invalidate.lua");
script!(RENEW, "writes.lua", "settings.lua", "renew.lua");
script!(NOTE, "writes.lua", "settings.lua", "note.lua");

/// Returns all scripts, which each new connection loads.
fn scripts() -> [&'static Lua; 5] {
    [&LOOKUP, &FILL, &INVALIDATE, &RENEW, &NOTE]
}

/// Returns a random number that differs between processes, even if they were forked from the same parent.
pub(crate) fn entropy() -> u64 {
    getrandom::u64().unwrap_or_else(|_| random::bits())
}

/// A namespace on Redis, as one cache uses it.
pub(crate) struct Redis {
    /// The way to the primary that serves the partition.
    route: Route,
    /// The deadline of this cache, as one of those of the hub.
    _deadline: IncludedDeadline,
    /// The hub exists as long as one of its caches, so that further ones find it.
    hub: Arc<Hub>,
    partition: PartitionId,
    names: Names,
    /// The id of this process.
    own_id: Peer,
    settings: RedisSettings,
    limits: TimeLimits,
    /// Expected size of a value in the reply to a request.
    value_size: ExpectedSize,
    plain_reads: PlainReads,
    /// `None` if the cache does not read from replicas.
    replica_reading: Option<Arc<ReplicaReading>>,
    fills: Batches<BatchedFill>,
    invalidations: Batches<BatchedInvalidation>,
    renewals: Arc<Renewals>,
    upkeep: Mutex<Upkeep>,
    /// `true` if the last renewal was refused.
    renews_alone: AtomicBool,
    /// The last position of the namespace that a reply has contained.
    position: Mutex<Option<Position>>,
    /// The other settings with which the namespace is used.
    other_settings: Mutex<Vec<String>>,
}

/// The settings of a [`Redis`].
#[derive(Clone)]
pub(crate) struct RedisSettings {
    /// Longest time that a call may take.
    pub(crate) deadline: Duration,
    /// Longest time for which a process holds the lease of a load.
    pub(crate) lease: Duration,
    /// Longest time for which processes that are missing in the list of readers may serve from their L1.
    pub(crate) read_lease: Duration,
    /// Largest size of a value, in bytes.
    pub(crate) max_size: usize,
    /// Number of replicas that must have a write before it is confirmed.
    pub(crate) replicas: u64,
    /// The settings that all processes of a namespace should share, in words.
    pub(crate) shared_settings: String,
    /// Whether processes use the namespace with the same number of partitions.
    pub(crate) layout: Arc<Layout>,
    /// The reads of all partitions.
    pub(crate) reads: Arc<BatchedReads>,
    /// `None` if the cache does not read from replicas.
    pub(crate) replica_reads: Option<Arc<ReplicaSettings>>,
}

impl RedisSettings {
    /// Returns the settings for a partition. Those that processes share contain the number of partitions.
    pub(crate) fn in_layout(&self, id: PartitionId) -> Self {
        let suffix = if self.shared_settings.is_empty() {
            String::new()
        } else {
            layout::suffix(id.of)
        };
        Self {
            shared_settings: format!("{}{suffix}", self.shared_settings),
            ..self.clone()
        }
    }
}

impl Redis {
    /// Creates the access of the cache `own_id` to a namespace, over the connections of a hub.
    pub(crate) fn new(
        hub: Arc<Hub>,
        namespace: &str,
        partition: PartitionId,
        own_id: Peer,
        settings: RedisSettings,
    ) -> Self {
        let names = Names::new(namespace, partition, hub.url.database());
        let route = Route::new(Arc::clone(&hub), names.slot, settings.replicas);
        let limits = TimeLimits {
            deadline: settings.deadline,
            max_wait: settings.lease.min(MAX_QUEUE_TIME),
        };
        let replica_reads = settings.replica_reads.clone();
        Self {
            partition,
            names,
            own_id,
            limits,
            replica_reading: replica_reads.map(|it| Arc::new(ReplicaReading::new(it))),
            value_size: ExpectedSize::new(MAX_SMALL_VALUE_SIZE / 4),
            plain_reads: PlainReads::new(),
            fills: Batches::default(),
            invalidations: Batches::default(),
            renewals: hub.renewals(route.slot(), settings.replicas),
            upkeep: Mutex::default(),
            renews_alone: AtomicBool::new(false),
            position: Mutex::default(),
            other_settings: Mutex::default(),
            settings,
            _deadline: hub.deadline.include(limits.deadline),
            route,
            hub,
        }
    }

    /// Subscribes for a caller that requests no heartbeats.
    pub(crate) async fn subscribe_without_lease(&self) -> Result<Box<dyn Messages>, RemoteError> {
        self.subscribe_with(Duration::ZERO).await
    }

    /// Subscribes for a caller whose read lease has this duration.
    async fn subscribe_with(&self, read_lease: Duration) -> Result<Box<dyn Messages>, RemoteError> {
        let channels = [
            self.names.events.clone(),
            self.names.peer_channel(self.own_id),
        ];
        let timeout = self.hub.deadline.connect_timeout();
        let mut changes = self.route.changes();
        let subscribing = async {
            let link = self.route.link().await?;
            changes.mark_unchanged();
            let subscribing = async {
                let connection = link.connector.subscription().await?;
                connection.subscribe(channels, read_lease, timeout).await
            };
            let subscribed = subscribing.await;
            subscribed.inspect_err(|_| self.route.doubt(&link))
        };
        let subscribing = tokio::time::timeout(2 * timeout, subscribing);
        let subscription = subscribing.await.unwrap_or(Err(RemoteError::Timeout))?;
        Ok(Box::new(RoutedMessages {
            messages: subscription,
            changes,
            replica_reading: self.replica_reading.clone(),
        }))
    }

    /// Notes the position of the namespace that a reply contains.
    fn note_position(&self, at: Position) {
        if let Some(reading) = &self.replica_reading {
            reading.note_position(at);
        }
        let before = self.position.lock().replace(at);
        if before.is_some_and(|before| before.incarnation != at.incarnation) {
            // A server has lost its keys.
            self.settings.layout.note_again();
        }
    }

    /// Returns a call of a script of this namespace. `keys` are the names of further keys.
    fn call(&self, script: &Lua, connection: &Connection, keys: &[Vec<u8>]) -> Cmd {
        let names = [&self.names.state, &self.names.readers, &self.names.tags];
        let names = names.into_iter().map(String::as_bytes);
        let history = self.history(&connection.server);
        let mut call = script_call(
            script,
            connection,
            &history,
            names.chain(keys.iter().map(Vec::as_slice)),
        );
        call.arg(millis(self.settings.read_lease));
        call
    }

    /// Returns the call that requests values, each with the number of bytes up to which it is in the reply.
    fn lookup_call<'a>(
        &self,
        requests: impl Iterator<Item = (&'a LookupRequest<'a>, usize)> + Clone,
        connection: &Connection,
    ) -> Cmd {
        let names = requests.clone().map(|(request, _)| request.key);
        let names: Vec<_> = names.map(|key| self.names.entry(key)).collect();
        let mut call = self.call(&LOOKUP, connection, &names);
        call.arg(millis(self.settings.lease.min(MAX_LOAD_LEASE)))
            .arg(self.settings.max_size);
        for (request, max_bytes) in requests {
            call.arg(request.lease_token.as_ref().map_or(&[][..], |token| token))
                .arg(request.unreadable.as_ref().map_or(&[][..], |token| token))
                .arg(if request.head_only { 0 } else { max_bytes });
        }
        call
    }

    /// Returns the call that stores values, or releases leases.
    fn fill_call<'a>(
        &self,
        fills: impl Iterator<Item = &'a Fill<'a>> + Clone,
        connection: &Connection,
    ) -> Cmd {
        let names: Vec<_> = fills
            .clone()
            .map(|fill| self.names.entry(fill.key))
            .collect();
        let mut call = self.call(&FILL, connection, &names);
        call.arg(&self.names.events);
        for fill in fills {
            call.arg(&fill.token)
                .arg(fill.envelope)
                .arg(ttl_millis(fill.ttl))
                .arg([b"F", fill.key].concat());
        }
        call
    }
}

impl BatchOwner for Redis {
    fn deadline(&self) -> Duration {
        self.settings.deadline
    }

    fn runtime(&self) -> &Handle {
        &self.hub.runtime
    }
}

impl Remote for Arc<Redis> {
    fn lookup<'a>(
        &'a self,
        requests: &'a [LookupRequest<'a>],
    ) -> RemoteFuture<'a, Vec<Result<LookupReply, RemoteError>>> {
        Box::pin(self.lookup_all(requests))
    }

    fn look_up_on_replicas<'a>(
        &'a self,
        requests: &'a [LookupRequest<'a>],
    ) -> RemoteFuture<'a, Vec<Option<LookupReply>>> {
        Box::pin(async { Ok(self.read_on_replicas(requests).await) })
    }

    fn fill<'a>(
        &'a self,
        fills: &'a [Fill<'a>],
    ) -> RemoteFuture<'a, Vec<Result<bool, RemoteError>>> {
        Box::pin(self.fill_all(fills))
    }

    fn invalidate<'a>(
        &'a self,
        subject: &'a Subject,
        value: Option<&'a NewValue>,
    ) -> RemoteFuture<'a, Invalidated> {
        Box::pin(self.invalidate_with(subject, value))
    }

    fn max_value_size(&self) -> usize {
        let link = self.route.last();
        link.map_or(DEFAULT_MAX_ARGUMENT_SIZE, |link| {
            link.connector.max_argument_size()
        })
    }

    fn renew(&self, nonce: u64, lease: Duration) -> RemoteFuture<'_, ()> {
        Box::pin(self.renew_lease(nonce, lease))
    }

    fn position(&self) -> Option<Position> {
        *self.position.lock()
    }

    fn acknowledge<'a>(&'a self, peers: &'a [Peer], at: Position) -> RemoteFuture<'a, ()> {
        Box::pin(async move {
            let mut message = b"A".to_vec();
            message.extend_from_slice(&at.incarnation);
            message.extend_from_slice(&at.version.to_be_bytes());
            message.extend_from_slice(&self.own_id.to_be_bytes());
            let publish = |&peer: &Peer, connection: &Connection| {
                let mut call = redis::cmd(publish_command(connection));
                call.arg(self.names.peer_channel(peer)).arg(&message);
                call
            };
            for peers in peers.chunks(MAX_CALLS) {
                let round_trip =
                    RoundTrip::new(PriorityClass::Control, CALL_OVERHEAD * peers.len());
                let replies = self.call_each(round_trip, peers, publish).await?;
                replies.into_iter().try_for_each(|reply| reply.map(drop))?;
            }
            Ok(())
        })
    }

    fn server(&self) -> Option<String> {
        self.route.last()?.connector.server()
    }

    fn is_refused(&self) -> bool {
        self.settings.layout.check().is_err()
    }

    fn warnings(&self) -> Vec<Warning> {
        let link = self.route.last();
        let mut warnings = link.map_or_else(Vec::new, |link| link.connector.warnings());
        warnings.extend(self.plain_reads.refusal().map(Warning::Forbidden));
        let mut others = self.other_settings.lock().clone();
        others.extend(self.settings.layout.others());
        if !others.is_empty() {
            warnings.push(Warning::OtherSettings {
                own: self.settings.shared_settings.clone(),
                others,
            });
        }
        warnings
    }

    fn subscribe(&self) -> RemoteFuture<'_, Box<dyn Messages>> {
        Box::pin(self.subscribe_with(self.settings.read_lease))
    }
}

/// Returns a call of a script with these keys, and with the arguments that all scripts share.
fn script_call<K: redis::ToRedisArgs>(
    script: &Lua,
    connection: &Connection,
    history: &str,
    keys: impl Iterator<Item = K>,
) -> Cmd {
    let keys: Vec<_> = keys.collect();
    let mut call = redis::cmd("EVALSHA");
    call.arg(&script.hash).arg(keys.len());
    for key in keys {
        call.arg(key);
    }
    call.arg(&entropy().to_be_bytes())
        .arg(history)
        .arg(publish_command(connection));
    call
}

/// Returns the command that publishes to the subscribers of this server.
fn publish_command(connection: &Connection) -> &'static str {
    if connection.server.is_sharded {
        "SPUBLISH"
    } else {
        "PUBLISH"
    }
}

/// Returns a time to live in milliseconds, for scripts: 0 if there is none, or if it is [`MAX_TTL`] or more.
fn ttl_millis(ttl: Option<Duration>) -> u64 {
    let ttl = ttl.filter(|ttl| *ttl < MAX_TTL);
    ttl.map_or(0, millis)
}

/// Parses a position.
fn position(incarnation: Vec<u8>, version: u64) -> Result<Position, RemoteError> {
    let incarnation: Incarnation = incarnation.try_into().map_err(|_| malformed_reply())?;
    Ok(Position {
        incarnation,
        version,
    })
}

/// Parses a part of a reply.
fn parse<T: redis::FromRedisValue>(value: Value) -> Result<T, RemoteError> {
    redis::from_redis_value(value).map_err(|_| malformed_reply())
}

/// Returns the error for a reply that does not have the shape that its script returns.
fn malformed_reply() -> RemoteError {
    RemoteError::Refused("the reply does not have the shape that its script returns".into())
}
