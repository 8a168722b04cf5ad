//! Invalidations by processes that have no cache.

use crate::codec::encode_key_name;
use crate::error::BuildError;
use crate::tiered::MAX_NAME_LEN;
use crate::tiered::build::{
    check_heartbeat, check_namespace, layout, layout_change, partition_count,
};
use crate::tiered::builder::{DEFAULT_DEADLINE, DEFAULT_HEARTBEAT, MAX_DEADLINE};
use crate::tiered::coherence::invalidation_acks::InvalidationAcks;
use crate::tiered::health::Warning;
use crate::tiered::l2::redis::{
    Certificates, Layout, NamespaceState, PartitionId, Redis, RedisServer, RedisSettings, entropy,
};
use crate::tiered::l2::remote::{
    LookupReply, LookupRequest, Message, Messages, Remote, RemoteError, Subject,
};
use crate::tiered::partition_map::PartitionMap;
use crate::tiered::rollout::Rollout;
use futures_util::future::join_all;
use serde::Serialize;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;

/// Invalidates entries of a namespace from a process that has no cache, such as a migration script.
///
/// An invalidation has the same effect as one of a [`TieredCache`](crate::TieredCache): it returns when no cache of the
/// class [`Realtime`](crate::Consistency::Realtime) serves the old value any more. It is not queued if Redis cannot be
/// reached. The error says so, and the call can be repeated.
///
/// It must have the same URL, the same heartbeat, and the same numbers of replicas and of partitions as the caches.
///
/// # Examples
///
/// ```no_run
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use hotset::Invalidator;
///
/// // After a script has changed the prices of two fruits:
/// let prices = Invalidator::new("redis://127.0.0.1/", "prices")?;
/// prices.invalidate("apple").await?;
/// prices.invalidate("pear").await?;
/// # Ok(())
/// # }
/// ```
pub struct Invalidator {
    /// The partitions of the namespace, by their numbers.
    partitions: Vec<Arc<Redis>>,
    map: PartitionMap,
    layout: Arc<Layout>,
    deadline: Duration,
}

/// A builder of an [`Invalidator`], from [`Invalidator::builder`].
///
/// # Examples
///
/// ```no_run
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use hotset::Invalidator;
/// use std::time::Duration;
///
/// let prices = Invalidator::builder("redis://127.0.0.1/", "prices")
///     .heartbeat(Duration::from_secs(1))
///     .build()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "a builder does nothing until build is called"]
pub struct InvalidatorBuilder {
    server: RedisServer,
    namespace: String,
    heartbeat: Duration,
    deadline: Duration,
    replicas: u64,
    partitions: Option<u16>,
    next_partitions: Option<u16>,
}

impl InvalidatorBuilder {
    /// Sets the [heartbeat](crate::TieredCacheBuilder::heartbeat) of the caches. Default: 500 milliseconds.
    pub fn heartbeat(mut self, heartbeat: Duration) -> Self {
        self.heartbeat = heartbeat;
        self
    }

    /// Sets how long a call to Redis may take, up to a day. Default: 200 milliseconds.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline.min(MAX_DEADLINE);
        self
    }

    /// Sets the number of [replicas](crate::TieredCacheBuilder::replicas) of the caches. Default: 0.
    pub fn replicas(mut self, replicas: u64) -> Self {
        self.replicas = replicas;
        self
    }

    /// Sets the number of [partitions](crate::TieredCacheBuilder::partitions) of the caches. Default: as for the caches,
    /// 16 for a cluster and otherwise 1.
    pub fn partitions(mut self, partitions: u16) -> Self {
        self.partitions = Some(partitions);
        self
    }

    /// Sets the number of [partitions](crate::TieredCacheBuilder::next_partitions) to which the caches are moving.
    /// Default: none.
    pub fn next_partitions(mut self, partitions: u16) -> Self {
        self.next_partitions = Some(partitions);
        self
    }

    /// Builds the invalidator. The server need not be reachable.
    ///
    /// # Errors
    ///
    /// Returns an error if a setting is invalid, or if this is not called in a tokio runtime.
    pub fn build(self) -> Result<Invalidator, BuildError> {
        check_namespace(&self.namespace)?;
        check_heartbeat(self.heartbeat)?;
        if self.deadline.is_zero() {
            return Err(BuildError::ZeroDuration("deadline"));
        }
        let target = self.server.target(Certificates::default())?;
        let runtime = Handle::try_current().map_err(|_| BuildError::NoRuntime)?;
        let mut settings = RedisSettings {
            deadline: self.deadline,
            lease: self.deadline,
            read_lease: 2 * self.heartbeat,
            max_size: usize::MAX,
            replicas: self.replicas,
            // It uses no values, so its settings agree with those of any cache.
            shared_settings: String::new(),
            layout: Arc::default(),
            reads: Arc::default(),
            replica_reads: None,
        };
        let hub = target.into_hub(&runtime);
        let count = partition_count(self.partitions, &hub)?;
        let me = entropy();
        let change = self
            .next_partitions
            .map(|next| layout_change(count, next, &Rollout::full()))
            .transpose()?;
        let map = PartitionMap::new(count, change.clone());
        if map.len() > 1 {
            let namespace = &self.namespace;
            settings.layout = layout(&hub, namespace, (me, &settings), count, change);
        }
        let partition = |id| {
            let redis = Redis::new(Arc::clone(&hub), &self.namespace, id, me, settings.clone());
            Arc::new(redis)
        };
        Ok(Invalidator {
            partitions: PartitionId::all(count)
                .chain(PartitionId::all(self.next_partitions.unwrap_or(0)))
                .map(partition)
                .collect(),
            map,
            layout: Arc::clone(&settings.layout),
            deadline: self.deadline,
        })
    }
}

/// A value in Redis, from [`Invalidator::inspect`].
///
/// # Examples
///
/// ```
/// # async fn example(prices: hotset::Invalidator) -> Result<(), hotset::RemoteError> {
/// if let Some(entry) = prices.inspect("apple").await? {
///     println!("{} bytes, for another {:?}", entry.size, entry.time_to_live);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RemoteEntry {
    /// The size of the value as it is stored, in bytes: with its key and its tags, and compressed if it is.
    pub size: usize,
    /// The time until it expires, or `None` if it does not expire.
    pub time_to_live: Option<Duration>,
}

/// The result of [`Invalidator::check`].
///
/// # Examples
///
/// ```
/// # async fn example(prices: hotset::Invalidator) -> Result<(), hotset::RemoteError> {
/// let check = prices.check().await?;
/// println!("a message takes {:?}; warnings: {:?}", check.round_trip, check.warnings);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ServiceCheck {
    /// The time in which a message that was sent through Redis came back.
    pub round_trip: Duration,
    /// The warnings about the configuration of the server.
    pub warnings: Vec<Warning>,
}

impl Invalidator {
    /// Creates an invalidator of a namespace whose caches have the default heartbeat and no replicas.
    ///
    /// # Errors
    ///
    /// Returns an error if the URL or the namespace is invalid, or if this is not called in a tokio runtime. The server
    /// need not be reachable.
    pub fn new(
        server: impl Into<RedisServer>,
        namespace: impl Into<String>,
    ) -> Result<Self, BuildError> {
        Self::builder(server, namespace).build()
    }

    /// Returns a builder of an invalidator of a namespace.
    pub fn builder(
        server: impl Into<RedisServer>,
        namespace: impl Into<String>,
    ) -> InvalidatorBuilder {
        InvalidatorBuilder {
            server: server.into(),
            namespace: namespace.into(),
            heartbeat: DEFAULT_HEARTBEAT,
            deadline: DEFAULT_DEADLINE,
            replicas: 0,
            partitions: None,
            next_partitions: None,
        }
    }

    /// Invalidates the entry of `key` in all processes, and waits until no `Realtime` cache serves it.
    ///
    /// `key` must be encoded like the keys of the caches: pass a value of the same type, or of a borrowed form such as
    /// `&str` for `String`. Integers of up to 64 bits are encoded alike, but an identifier of 128 bits differs from its
    /// text. A key that is encoded in another way is that of another entry.
    ///
    /// # Errors
    ///
    /// Returns an error if Redis cannot be reached or refuses the call, and [`RemoteError::Refused`] if the key cannot
    /// be encoded or is longer than 64 KiB, or if the caches use another URL. After an error the entry may have been
    /// invalidated.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the entry may have been invalidated.
    pub async fn invalidate<Q: Serialize + ?Sized>(&self, key: &Q) -> Result<(), RemoteError> {
        self.invalidate_subject(Subject::Key(name(key)?)).await
    }

    /// Invalidates all entries with a tag in all processes, and waits until no `Realtime` cache serves them.
    ///
    /// # Errors
    ///
    /// Returns an error like [`invalidate`](Self::invalidate).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the entries may have been invalidated.
    pub async fn invalidate_tag(&self, tag: &str) -> Result<(), RemoteError> {
        self.invalidate_subject(Subject::Tag(tag.into())).await
    }

    /// Invalidates all entries in all processes, and waits until no `Realtime` cache serves them.
    ///
    /// # Errors
    ///
    /// Returns an error like [`invalidate`](Self::invalidate).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the entries may have been invalidated.
    pub async fn clear(&self) -> Result<(), RemoteError> {
        self.invalidate_subject(Subject::All).await
    }

    /// Returns what Redis stores for `key`, or `None` if it has no valid value.
    ///
    /// # Errors
    ///
    /// Returns an error if Redis cannot be reached or refuses the call, if the key cannot be encoded, or if the caches
    /// use another URL.
    ///
    /// # Cancel safety
    ///
    /// The future may be dropped at any time.
    pub async fn inspect<Q: Serialize + ?Sized>(
        &self,
        key: &Q,
    ) -> Result<Option<RemoteEntry>, RemoteError> {
        let name = name(key)?;
        self.check_partitions().await?;
        for number in self.map.numbers_of(&name) {
            let found = inspect_in(&self.partitions[number], &name).await?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// Checks that Redis can be reached, that caches use the namespace, that the user has the required rights, and that
    /// messages arrive, in all partitions.
    ///
    /// # Errors
    ///
    /// Returns an error if one of these does not hold.
    ///
    /// # Cancel safety
    ///
    /// The future may be dropped at any time.
    pub async fn check(&self) -> Result<ServiceCheck, RemoteError> {
        self.check_partitions().await?;
        let checks = self.partitions.iter().map(|redis| self.check_in(redis));
        let round_trips: Result<Vec<Duration>, _> = join_all(checks).await.into_iter().collect();
        let mut warnings = Vec::new();
        for warning in self.partitions.iter().flat_map(Remote::warnings) {
            if !warnings.contains(&warning) {
                warnings.push(warning);
            }
        }
        Ok(ServiceCheck {
            round_trip: round_trips?.into_iter().max().unwrap_or_default(),
            warnings,
        })
    }

    /// Checks a partition, and returns the time in which a message came back.
    async fn check_in(&self, redis: &Arc<Redis>) -> Result<Duration, RemoteError> {
        if is_missing(redis).await? {
            let why = "no cache uses the namespace with this number of partitions, or its state was evicted";
            return Err(RemoteError::Refused(why.into()));
        }
        let mut messages = redis.subscribe_without_lease().await?;
        // Numbers in Lua have 53 bits.
        let sent = entropy() >> 11;
        let begun = Instant::now();
        redis.renew(sent, Duration::ZERO).await?;
        let arrived = async {
            while !matches!(messages.next().await?, Message::Heartbeat { nonce, .. } if nonce == sent)
            {
            }
            Ok(())
        };
        let arrived = tokio::time::timeout(self.deadline, arrived).await;
        arrived.unwrap_or(Err(RemoteError::Timeout))?;
        Ok(begun.elapsed())
    }

    /// Returns an error if the caches use another number of partitions.
    async fn check_partitions(&self) -> Result<(), RemoteError> {
        self.layout.check_caches(&self.partitions[0]).await
    }

    async fn invalidate_subject(&self, subject: Subject) -> Result<(), RemoteError> {
        self.check_partitions().await?;
        for layout in self.map.written(&subject) {
            let calls = layout.map(|number| self.invalidate_in(&self.partitions[number], &subject));
            join_all(calls)
                .await
                .into_iter()
                .collect::<Result<(), _>>()?;
        }
        Ok(())
    }

    async fn invalidate_in(
        &self,
        redis: &Arc<Redis>,
        subject: &Subject,
    ) -> Result<(), RemoteError> {
        // A state that is missing may have been evicted, so the invalidation is published in that case too.
        is_missing(redis).await?;
        // Without a subscription, the call waits until the read leases of all processes have ended.
        let subscribing = redis.subscribe_without_lease();
        let subscribed = tokio::time::timeout(self.deadline, subscribing).await;
        let messages = subscribed.ok().and_then(Result::ok);
        let invalidated = redis.invalidate(subject, None).await?;
        let acks = InvalidationAcks::default();
        tokio::select! {
            () = acks.wait(invalidated.position, &invalidated.readers) => {}
            () = record_acks(messages, &acks) => {}
        }
        Ok(())
    }
}

/// Returns what a partition stores for a key.
async fn inspect_in(redis: &Arc<Redis>, name: &[u8]) -> Result<Option<RemoteEntry>, RemoteError> {
    if is_missing(redis).await? {
        return Ok(None);
    }
    let request = LookupRequest::without_load(name);
    let replies = redis.lookup(std::slice::from_ref(&request)).await?;
    match replies.into_iter().next() {
        Some(Ok(LookupReply::Value { envelope, left, .. })) => Ok(Some(RemoteEntry {
            size: envelope.len(),
            time_to_live: left,
        })),
        Some(Err(error)) => Err(error),
        _ => Ok(None),
    }
}

/// Returns `true` if a partition has no state.
///
/// # Errors
///
/// Returns an error if the state belongs to another replication history than the server of this URL. A script would then
/// begin a new incarnation, in which all values are invalid.
async fn is_missing(redis: &Redis) -> Result<bool, RemoteError> {
    match redis.namespace_state().await? {
        NamespaceState::Missing => Ok(true),
        NamespaceState::Current => Ok(false),
        NamespaceState::OtherHistory => Err(RemoteError::Refused(
            "the caches use another URL, or no cache has been active since a failover: use the URL of the caches, or \
             try again"
                .into(),
        )),
    }
}

/// Records acknowledgements without end.
async fn record_acks(messages: Option<Box<dyn Messages>>, acks: &InvalidationAcks) {
    if let Some(mut messages) = messages {
        while let Ok(message) = messages.next().await {
            if let Message::Acknowledgement { by, at } = message {
                acks.record(by, at);
            }
        }
    }
    std::future::pending::<()>().await;
}

/// Returns the name of a key in Redis.
fn name<Q: Serialize + ?Sized>(key: &Q) -> Result<Box<[u8]>, RemoteError> {
    let refused = |why: String| RemoteError::Refused(format!("the key has no name: {why}"));
    let name = encode_key_name(key).map_err(|error| refused(error.to_string()))?;
    if name.len() > MAX_NAME_LEN {
        return Err(refused(format!("it is longer than {MAX_NAME_LEN} bytes")));
    }
    Ok(name.into())
}

impl fmt::Debug for Invalidator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the URL, which may contain a password.
        f.debug_struct("Invalidator").finish_non_exhaustive()
    }
}
