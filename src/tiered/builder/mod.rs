//! The builder of a tiered cache.

mod servers;

use crate::codec::{Codec, MessagePack};
use crate::error::BuildError;
use crate::local::LocalCacheBuilder;
use crate::schema::{Schema, Schemas};
use crate::tiered::l2::envelope::EnvelopeCodec;
use crate::tiered::l2::redis::{Certificates, RedisServer};
use crate::tiered::rollout::Rollout;
use crate::tiered::settings::TierSettings;
use crate::tiered::{Consistency, RemoteKey, RemoteValue, TieredCache};
use std::time::Duration;

/// The default deadline of a call to Redis.
pub(super) const DEFAULT_DEADLINE: Duration = Duration::from_millis(200);
/// The longest deadline, so that sums of deadlines do not overflow.
pub(super) const MAX_DEADLINE: Duration = Duration::from_secs(24 * 60 * 60);
/// The default interval between heartbeats.
pub(super) const DEFAULT_HEARTBEAT: Duration = Duration::from_millis(500);
/// The default maximum size of a value in Redis, in bytes.
const DEFAULT_MAX_VALUE_SIZE: usize = 1 << 20;
/// The default maximum number of queued invalidations.
const DEFAULT_MAX_QUEUED: usize = 10_000;

/// The maximum length of a key's name in L2, in bytes. Entries with longer names are stored in L1 only. Invalidations
/// of them reach all processes.
pub(super) const MAX_KEY_LEN: usize = 1 << 10;

/// A builder of a [`TieredCache`], from [`LocalCacheBuilder::redis`], which is called after the settings of L1.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), hotset::BuildError> {
/// use hotset::{Consistency, LocalCache, TieredCache};
/// use std::time::Duration;
///
/// let prices: TieredCache<String, u64> = LocalCache::builder()
///     .capacity(100_000)
///     .time_to_live(Duration::from_secs(300))
///     .redis("redis://127.0.0.1/", "prices")
///     .consistency(Consistency::Realtime)
///     .local_time_to_live(Duration::from_secs(60))
///     .compress_above(4 << 10)
///     .build()?;
/// # Ok(())
/// # }
/// ```
#[must_use = "a builder does nothing until build is called"]
pub struct TieredCacheBuilder<K, V> {
    pub(super) local: LocalCacheBuilder<K, V>,
    pub(super) server: RedisServer,
    pub(super) codec: EnvelopeCodec<K, V>,
    pub(super) settings: TierSettings,
    pub(super) deadline: Duration,
    pub(super) max_queue: usize,
    pub(super) partitions: Option<u16>,
    pub(super) next_partitions: Option<u16>,
    pub(super) moved_percent: Option<f64>,
    pub(super) percent: Option<f64>,
    pub(super) shadow: Option<bool>,
    pub(super) replicas: u64,
    pub(super) certificates: Certificates,
}

// The bounds belong to the methods, so that the compiler names the trait that a type lacks.
impl<K, V> LocalCacheBuilder<K, V> {
    /// Sets Redis as L2 of a tiered cache. The settings so far are those of each process's L1.
    ///
    /// `server` is a [`RedisHub`](crate::RedisHub), or a URL that names a server of Redis, version 6 or newer, or of
    /// Valkey:
    ///
    /// | | |
    /// | --- | --- |
    /// | a server | `redis://[user:password@]host[:port][/database]`, `redis+unix:///path` |
    /// | a primary that sentinels watch | `redis-sentinel://[user:password@]host[:port],host[:port],../service[/database]` |
    /// | a cluster | `redis-cluster://[user:password@]host[:port],host[:port],..` |
    ///
    /// `rediss` in place of `redis` selects TLS (feature `redis-tls`).
    ///
    /// Name *all* sentinels (version 6.2 or newer): the answers of a primary count only while a majority of the
    /// sentinels agrees that it is the primary. If the sentinels have their own password, add
    /// `?sentinel_user=..&sentinel_password=..`. For a cluster, some of the servers are enough. A namespace is
    /// distributed over all of its primaries, in as many [`partitions`](TieredCacheBuilder::partitions) as are set.
    ///
    /// `namespace` is the name of the cache in Redis. Caches with the same namespace, in any process, share their
    /// values, and must have the same types of keys and values. Each value is stored with its own [`Schema`] and that
    /// of its key. A value that was stored with another schema is a miss. Use
    /// [`redis_with_schemas`](Self::redis_with_schemas) for types that do not implement `Schema`.
    ///
    /// [`time_to_live`](Self::time_to_live) and [`lease`](Self::lease) also apply to values and loads in Redis.
    /// [`max_concurrent_loads`](Self::max_concurrent_loads) limits the loaders that this process runs, not its calls to
    /// Redis.
    ///
    /// A user of Redis without all rights needs the rights of `hotset` in this ACL file (and, on sentinels,
    /// `+sentinel +subscribe`):
    ///
    /// ```text
    #[doc = include_str!("../l2/redis/users.acl")]
    /// ```
    pub fn redis(
        self,
        server: impl Into<RedisServer>,
        namespace: impl Into<String>,
    ) -> TieredCacheBuilder<K, V>
    where
        K: RemoteKey + Schema,
        V: RemoteValue + Schema,
    {
        self.redis_with_schemas(server, namespace, Schemas::of::<K, V>())
    }

    /// Like [`redis`](Self::redis), for keys and values of any type. `schemas` names their shapes in place of
    /// [`Schema`].
    ///
    /// ```no_run
    /// use hotset::{LocalCache, Schema, Schemas, TieredCache};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), hotset::BuildError> {
    /// // `serde_json::Value` does not implement `Schema`.
    /// let documents: TieredCache<u64, serde_json::Value> = LocalCache::builder()
    ///     .capacity(100_000)
    ///     .redis_with_schemas(
    ///         "redis://127.0.0.1/",
    ///         "documents",
    ///         Schemas::new(u64::schema(), "document/1"),
    ///     )
    ///     .build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn redis_with_schemas(
        self,
        server: impl Into<RedisServer>,
        namespace: impl Into<String>,
        schemas: Schemas,
    ) -> TieredCacheBuilder<K, V>
    where
        K: RemoteKey,
        V: RemoteValue,
    {
        let settings = TierSettings {
            namespace: namespace.into(),
            consistency: Consistency::Bounded(Duration::from_secs(5)),
            ttl: self.settings.time_to_live,
            local_ttl: None,
            lease: self.settings.lease,
            heartbeat: DEFAULT_HEARTBEAT,
            fails_over: false,
            rollout: Rollout::full(),
            read_from_replicas: false,
        };
        TieredCacheBuilder {
            local: self,
            server: server.into(),
            codec: EnvelopeCodec::new(MessagePack, schemas, DEFAULT_MAX_VALUE_SIZE),
            settings,
            deadline: DEFAULT_DEADLINE,
            max_queue: DEFAULT_MAX_QUEUED,
            partitions: None,
            next_partitions: None,
            moved_percent: None,
            percent: None,
            shadow: None,
            replicas: 0,
            certificates: Certificates::default(),
        }
    }
}

impl<K: RemoteKey, V: RemoteValue> TieredCacheBuilder<K, V> {
    /// Sets the consistency class, which says which values readers may get after a change. Default: `Bounded` to 5
    /// seconds.
    ///
    /// # Examples
    ///
    /// ```
    /// use hotset::{Consistency, LocalCache};
    /// use std::time::Duration;
    ///
    /// let builder = LocalCache::<String, u64>::builder()
    ///     .capacity(100_000)
    ///     .redis("redis://127.0.0.1/", "prices")
    ///     .consistency(Consistency::Bounded(Duration::from_secs(1)));
    /// ```
    pub fn consistency(mut self, consistency: Consistency) -> Self {
        self.settings.consistency = consistency;
        self
    }

    /// Sets the format of keys and values in Redis. Default: [`MessagePack`].
    ///
    /// All processes of a namespace need the same one: a value that was encoded by a codec of another
    /// [name](Codec::name) is a miss. It has no influence on snapshots, nor on the names of keys in Redis, which
    /// are `MessagePack`, so a codec that encrypts hides no keys.
    ///
    /// ```
    /// use hotset::{LocalCache, Postcard};
    ///
    /// let builder = LocalCache::<u64, String>::builder()
    ///     .capacity(100_000)
    ///     .redis("redis://127.0.0.1/", "names")
    ///     .codec(Postcard);
    /// ```
    pub fn codec(mut self, codec: impl Codec<K, V>) -> Self {
        self.codec = self.codec.with_codec(codec);
        self
    }

    /// Sets the maximum time to live of entries in L1. Default: the time to live of the value.
    ///
    /// # Examples
    ///
    /// ```
    /// let builder = hotset::LocalCache::<String, u64>::builder()
    ///     .capacity(100_000)
    ///     .redis("redis://127.0.0.1/", "prices")
    ///     .local_time_to_live(std::time::Duration::from_secs(60));
    /// ```
    pub fn local_time_to_live(mut self, ttl: Duration) -> Self {
        self.settings.local_ttl = Some(ttl);
        self
    }

    /// Sets how long a call to Redis may take before it counts as failed, up to a day. Default: 200 milliseconds.
    ///
    /// A call that transfers values, or waits behind such calls, may take longer: one more second for each MiB of its
    /// own and of the calls before it. Values of more than 16 KiB have a connection of their own, so that small ones
    /// do not wait for them. Up to 1 MiB is in flight there at one time, or one larger value. A value that has not been
    /// sent within 10 seconds, or within the [lease](LocalCacheBuilder::lease) if that is shorter, fails. Such a
    /// failure concerns that value alone: the loader runs instead, and the circuit breaker stays closed.
    ///
    /// # Examples
    ///
    /// ```
    /// let builder = hotset::LocalCache::<String, u64>::builder()
    ///     .capacity(100_000)
    ///     .redis("redis://127.0.0.1/", "prices")
    ///     .deadline(std::time::Duration::from_millis(100));
    /// ```
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline.min(MAX_DEADLINE);
        self
    }

    /// Sets the interval at which a process proves that invalidations reach it. Default: 500 milliseconds.
    ///
    /// In the class `Realtime`, L1 does not serve after two heartbeats without proof, and a change waits for up to two
    /// heartbeats for a process that has died. All processes of a namespace must use the same heartbeat.
    ///
    /// # Examples
    ///
    /// ```
    /// let builder = hotset::LocalCache::<String, u64>::builder()
    ///     .capacity(100_000)
    ///     .redis("redis://127.0.0.1/", "prices")
    ///     .heartbeat(std::time::Duration::from_secs(1));
    /// ```
    pub fn heartbeat(mut self, heartbeat: Duration) -> Self {
        self.settings.heartbeat = heartbeat;
        self
    }

    /// Sets the maximum size of a serialized value in Redis, in bytes. Default: 1 MiB.
    ///
    /// Larger values are stored in L1 only, and larger values in Redis are not read. Values beyond the server's
    /// `proto-max-bulk-len` are stored in L1 only as well. That setting is read when a connection is made, if the user
    /// has the right to `CONFIG GET`. Otherwise 512 MiB is assumed.
    ///
    /// # Examples
    ///
    /// ```
    /// let builder = hotset::LocalCache::<String, u64>::builder()
    ///     .capacity(100_000)
    ///     .redis("redis://127.0.0.1/", "prices")
    ///     .max_value_size(4 << 20);
    /// ```
    pub fn max_value_size(mut self, bytes: usize) -> Self {
        self.codec.max_size = bytes;
        self
    }

    /// Sets the serialized size, in bytes, above which values are compressed (LZ4), if that makes them smaller.
    /// Default: no compression.
    ///
    /// # Examples
    ///
    /// ```
    /// let builder = hotset::LocalCache::<String, u64>::builder()
    ///     .capacity(100_000)
    ///     .redis("redis://127.0.0.1/", "prices")
    ///     .compress_above(4 << 10);
    /// ```
    pub fn compress_above(mut self, bytes: usize) -> Self {
        self.codec.compress_above = Some(bytes);
        self
    }

    /// Sets the maximum number of invalidations that are queued while Redis cannot be reached. Default: 10,000.
    ///
    /// If there are more, one invalidation of everything replaces them.
    ///
    /// # Examples
    ///
    /// ```
    /// let builder = hotset::LocalCache::<String, u64>::builder()
    ///     .capacity(100_000)
    ///     .redis("redis://127.0.0.1/", "prices")
    ///     .max_queued_invalidations(1_000);
    /// ```
    pub fn max_queued_invalidations(mut self, queued: usize) -> Self {
        self.max_queue = queued;
        self
    }

    /// Sets the initial percentage of keys that are stored in Redis: see [`Rollout`]. Default: 100.
    ///
    /// # Examples
    ///
    /// ```
    /// let builder = hotset::LocalCache::<String, u64>::builder()
    ///     .capacity(100_000)
    ///     .redis("redis://127.0.0.1/", "prices")
    ///     .percent(10.0);
    /// ```
    pub fn percent(mut self, percent: f64) -> Self {
        self.percent = Some(percent);
        self
    }

    /// Turns shadow mode on or off: see [`Rollout`]. Default: off.
    ///
    /// # Examples
    ///
    /// ```
    /// let builder = hotset::LocalCache::<String, u64>::builder()
    ///     .capacity(100_000)
    ///     .redis("redis://127.0.0.1/", "prices")
    ///     .shadow(true);
    /// ```
    pub fn shadow(mut self, shadow: bool) -> Self {
        self.shadow = Some(shadow);
        self
    }

    /// Sets a rollout that several caches share. [`percent`](Self::percent) and [`shadow`](Self::shadow) change it when
    /// the cache is built.
    ///
    /// # Examples
    ///
    /// ```
    /// use hotset::{LocalCache, Rollout};
    ///
    /// let rollout = Rollout::with_percent(10.0)?;
    /// let prices = LocalCache::<u64, u64>::builder()
    ///     .capacity(100_000)
    ///     .redis("redis://127.0.0.1/", "prices")
    ///     .rollout(&rollout);
    /// let names = LocalCache::<u64, String>::builder()
    ///     .capacity(100_000)
    ///     .redis("redis://127.0.0.1/", "names")
    ///     .rollout(&rollout);
    /// rollout.set_percent(50.0)?; // of both caches
    /// # Ok::<(), hotset::BuildError>(())
    /// ```
    pub fn rollout(mut self, rollout: &Rollout) -> Self {
        self.settings.rollout = rollout.clone();
        self
    }

    /// Builds the cache. Redis need not be reachable.
    ///
    /// # Errors
    ///
    /// Returns an error if the settings are invalid, or if this is not called in a tokio runtime. The error names the
    /// setting and suggests a fix. A shared [rollout](Self::rollout) is not changed then.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), hotset::BuildError> {
    /// use hotset::{LocalCache, TieredCache};
    ///
    /// let prices: TieredCache<String, u64> = LocalCache::builder()
    ///     .capacity(100_000)
    ///     .redis("redis://127.0.0.1/", "prices")
    ///     .build()?;
    /// assert_eq!(prices.name(), "prices");
    /// # Ok(())
    /// # }
    /// ```
    pub fn build(self) -> Result<TieredCache<K, V>, BuildError> {
        TieredCache::from_builder(self)
    }
}

impl<K, V> std::fmt::Debug for TieredCacheBuilder<K, V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Without the URL, which may contain a password.
        f.debug_struct("TieredCacheBuilder")
            .field("namespace", &self.settings.namespace)
            .field("codec", &self.codec)
            .field("consistency", &self.settings.consistency)
            .field("local_time_to_live", &self.settings.local_ttl)
            .field("deadline", &self.deadline)
            .field("heartbeat", &self.settings.heartbeat)
            .field("max_value_size", &self.codec.max_size)
            .field("compress_above", &self.codec.compress_above)
            .field("max_queued_invalidations", &self.max_queue)
            .field("partitions", &self.partitions)
            .field("next_partitions", &self.next_partitions)
            .field("moved_percent", &self.moved_percent)
            .field("percent", &self.percent)
            .field("shadow", &self.shadow)
            .field("replicas", &self.replicas)
            .field("read_from_replicas", &self.settings.read_from_replicas)
            .finish_non_exhaustive()
    }
}
