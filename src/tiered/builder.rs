//! How a tiered cache is set up.

use crate::codec::{Codec, MessagePack};
use crate::error::BuildError;
use crate::local::LocalCacheBuilder;
use crate::schema::{Schema, Schemas};
use crate::single_flight::Bulkhead;
use crate::tiered::coherence::background::BackgroundTasks;
use crate::tiered::coherence::invalidation_acks::InvalidationAcks;
use crate::tiered::coherence::key_waiters::KeyWaiters;
use crate::tiered::coherence::pending_invalidations::PendingInvalidations;
use crate::tiered::coherence::read_lease::ReadLease;
use crate::tiered::health::TierCounters;
use crate::tiered::l2::circuit_breaker::CircuitBreaker;
use crate::tiered::l2::codec_health::CodecHealth;
use crate::tiered::l2::envelope::EnvelopeCodec;
use crate::tiered::l2::redis::{Certificates, Redis, RedisSettings, ServerUrl, entropy};
use crate::tiered::load_lease::Releases;
use crate::tiered::rollout::Rollout;
use crate::tiered::{Consistency, Inner, RemoteKey, RemoteValue, TieredCache};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;

const DEFAULT_DEADLINE: Duration = Duration::from_millis(200);
const DEFAULT_HEARTBEAT: Duration = Duration::from_millis(500);
const DEFAULT_LOADS: usize = 64;
const DEFAULT_MAX_SIZE: usize = 1 << 20;
const DEFAULT_QUEUE: usize = 10_000;

/// Shorter and a busy machine's pauses look like failures.
const MIN_HEARTBEAT: Duration = Duration::from_millis(50);
const MAX_HEARTBEAT: Duration = Duration::from_secs(60);

/// Bytes of a namespace.
const MAX_NAMESPACE: usize = 128;

/// The maximum length of a key's name in L2, in bytes. Entries with longer names are stored in L1 only. Invalidations of
/// them reach all processes.
pub(super) const MAX_KEY_LEN: usize = 1 << 10;

/// Sets up a [`TieredCache`]; from [`LocalCacheBuilder::redis`], which comes after the settings of L1.
#[must_use = "a builder does nothing until build is called"]
pub struct TieredCacheBuilder<K, V> {
    local: LocalCacheBuilder<K, V>,
    url: String,
    codec: EnvelopeCodec<K, V>,
    settings: TierSettings,
    deadline: Duration,
    max_queue: usize,
    percent: Option<f64>,
    replicas: u64,
    certificates: Certificates,
}

/// What the cache goes on needing.
pub(super) struct TierSettings {
    pub(super) namespace: String,
    pub(super) consistency: Consistency,
    /// Of values, in L2.
    pub(super) ttl: Option<Duration>,
    /// Of copies in L1, at most.
    pub(super) local_ttl: Option<Duration>,
    pub(super) lease: Duration,
    pub(super) wait_timeout: Option<Duration>,
    pub(super) heartbeat: Duration,
    /// The primary may become another server while the old one still answers.
    pub(super) fails_over: bool,
    pub(super) rollout: Rollout,
}

impl TierSettings {
    /// How long a lease on serving from L1 lasts: two heartbeats.
    pub(super) fn read_lease(&self) -> Duration {
        self.heartbeat * 2
    }

    /// Returns the time for which L1 may serve a value that was current at `current_at`, and whose time to live of `ttl`
    /// began at `ttl_from`. Returns zero if that time has passed, and `None` if the class stores no values in L1.
    pub(super) fn l1_ttl(
        &self,
        ttl: Duration,
        current_at: Instant,
        ttl_from: Instant,
    ) -> Option<Duration> {
        let bound = match self.consistency {
            Consistency::L2Only => return None,
            Consistency::Bounded(bound) => bound.saturating_sub(current_at.elapsed()),
            Consistency::Realtime | Consistency::L1Only => Duration::MAX,
        };
        let own = self.local_ttl.unwrap_or(Duration::MAX);
        let left = match ttl {
            Duration::MAX => ttl,
            ttl => ttl.saturating_sub(ttl_from.elapsed()),
        };
        Some(left.min(own).min(bound))
    }
}

impl<K: RemoteKey, V: RemoteValue> LocalCacheBuilder<K, V> {
    /// The settings so far are those of each process's L1, over the Redis (or Valkey), of version 6 or
    /// newer, at this URL:
    ///
    /// | | |
    /// | --- | --- |
    /// | a server | `redis://[user:password@]host[:port][/database]`, `redis+unix:///path` |
    /// | a primary that sentinels watch | `redis-sentinel://[user:password@]host[:port],host[:port],../service[/database]` |
    /// | a cluster | `redis-cluster://[user:password@]host[:port],host[:port],..` |
    ///
    /// With `rediss` in place of `redis` it is TLS (feature `redis-tls`).
    ///
    /// Name *all* sentinels (of version 6.2 or newer): what a primary says counts while a majority of them
    /// agrees that it is the primary. If they have a password of their own, add
    /// `?sentinel_user=..&sentinel_password=..`. Of a cluster some servers are enough. A namespace is one
    /// slot there, on one server: so have one for each cache.
    ///
    /// `namespace` names the cache there: caches with the same one, in whatever process, share their
    /// values, and must have keys and values of the same types. Each value is stored with the
    /// [`Schema`] of its key and of itself; one that was stored with another schema is a miss.
    /// [`redis_with_schemas`](Self::redis_with_schemas) is for types that have none.
    ///
    /// [`time_to_live`](Self::time_to_live) and [`lease`](Self::lease) are also those of values and
    /// loads in Redis; [`max_concurrent_loads`](Self::max_concurrent_loads) bounds the loaders that
    /// this process runs, not its questions to Redis.
    ///
    /// A user of Redis that is not allowed everything needs the rights of `hotset` in this ACL file (and
    /// one among sentinels `+sentinel +subscribe`):
    ///
    /// ```text
    #[doc = include_str!("../../examples/deploy/users.acl")]
    /// ```
    pub fn redis(
        self,
        url: impl Into<String>,
        namespace: impl Into<String>,
    ) -> TieredCacheBuilder<K, V>
    where
        K: Schema,
        V: Schema,
    {
        self.redis_with_schemas(url, namespace, Schemas::of::<K, V>())
    }

    /// Like [`redis`](Self::redis), for keys and values of any type: `schemas` names their shapes in place of
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
        url: impl Into<String>,
        namespace: impl Into<String>,
        schemas: Schemas,
    ) -> TieredCacheBuilder<K, V> {
        let settings = TierSettings {
            namespace: namespace.into(),
            consistency: Consistency::Bounded(Duration::from_secs(5)),
            ttl: self.settings.time_to_live,
            local_ttl: None,
            lease: self.settings.lease,
            wait_timeout: self.settings.wait_timeout,
            heartbeat: DEFAULT_HEARTBEAT,
            fails_over: false,
            rollout: Rollout::full(),
        };
        TieredCacheBuilder {
            local: self,
            url: url.into(),
            codec: EnvelopeCodec::new(MessagePack, schemas, DEFAULT_MAX_SIZE),
            settings,
            deadline: DEFAULT_DEADLINE,
            max_queue: DEFAULT_QUEUE,
            percent: None,
            replicas: 0,
            certificates: Certificates::default(),
        }
    }
}

impl<K: RemoteKey, V: RemoteValue> TieredCacheBuilder<K, V> {
    /// What readers may see after a change. Default: `Bounded` to five seconds.
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

    /// How long L1 keeps a copy, where that is shorter than its value lives.
    pub fn local_time_to_live(mut self, ttl: Duration) -> Self {
        self.settings.local_ttl = Some(ttl);
        self
    }

    /// Sets how long a call to Redis may take before it counts as failed. Default: 200 milliseconds.
    ///
    /// A call that transfers values, or waits for others that do, may take longer: a second for each MiB that is
    /// in flight before it and of its own. Values of more than 16 KiB have a connection of their own, so that
    /// small ones do not wait for them, with 1 MiB in flight at a time or a single value; those that have not been
    /// sent within the [lease](LocalCacheBuilder::lease) fail. Such a failure concerns that value alone: the loader is
    /// asked instead, and the circuit breaker stays closed.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// How often a process proves that invalidations reach it; after two without proof it does not
    /// trust its L1. A `Realtime` change waits that long for a process that has died. All processes of
    /// a namespace must be given the same. Default: 500 milliseconds.
    pub fn heartbeat(mut self, heartbeat: Duration) -> Self {
        self.settings.heartbeat = heartbeat;
        self
    }

    /// Sets how many bytes a value may have in Redis, serialized. Larger ones stay in L1, and larger ones
    /// that are found are not read. Default: 1 MiB.
    ///
    /// Values beyond the server's `proto-max-bulk-len` stay in L1 as well. It is read when a connection is
    /// made, if the user has the right to `CONFIG GET`, and else taken for 512 MiB.
    pub fn max_value_size(mut self, bytes: usize) -> Self {
        self.codec.max_size = bytes;
        self
    }

    /// Values of more bytes than this, serialized, are compressed (LZ4) where that makes them
    /// smaller. Default: none are.
    pub fn compress_above(mut self, bytes: usize) -> Self {
        self.codec.compress_above = Some(bytes);
        self
    }

    /// How many invalidations wait while Redis is unreachable; more become one of everything.
    /// Default: 10,000.
    pub fn max_queued_invalidations(mut self, queued: usize) -> Self {
        self.max_queue = queued;
        self
    }

    /// How many of a hundred keys go through Redis, to begin with: see [`Rollout`]. Default: all.
    pub fn percent(mut self, percent: f64) -> Self {
        self.percent = Some(percent);
        self
    }

    /// What Redis holds is compared with what is loaded, and not served: see [`Rollout`]. Default: no.
    pub fn shadow(self, shadow: bool) -> Self {
        self.settings.rollout.set_shadow(shadow);
        self
    }

    /// One rollout for several caches: to be called before [`percent`](Self::percent) and
    /// [`shadow`](Self::shadow), which change it.
    pub fn rollout(mut self, rollout: &Rollout) -> Self {
        self.settings.rollout = rollout.clone();
        self
    }

    /// A change is acknowledged only once this many replicas have it (`WAIT`), and nothing that a server
    /// says counts before they have confirmed that they follow it. Default: none.
    ///
    /// For a primary that fails over behind one address, as managed ones do: say how many replicas
    /// there are of which any may take over. An address must not lead back to a server that was left and
    /// does not know it. With sentinels and clusters there is no need for it:
    /// they are asked.
    pub fn replicas(mut self, replicas: u64) -> Self {
        self.replicas = replicas;
        self
    }

    /// The certificate, in PEM, of the authority that has signed those of the servers; in place of the
    /// ones that the machine trusts.
    #[cfg(feature = "redis-tls")]
    pub fn root_certificate(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.certificates.root = Some(pem.into());
        self
    }

    /// The certificate that this process shows to servers, and its private key, both in PEM.
    #[cfg(feature = "redis-tls")]
    pub fn client_certificate(
        mut self,
        certificate: impl Into<Vec<u8>>,
        key: impl Into<Vec<u8>>,
    ) -> Self {
        self.certificates.client = Some(redis::ClientTlsConfig {
            client_cert: certificate.into(),
            client_key: key.into(),
        });
        self
    }

    /// Builds it. Redis need not be reachable.
    ///
    /// # Errors
    ///
    /// If a setting is missing or cannot be, or if this is not called in a tokio runtime.
    pub fn build(self) -> Result<TieredCache<K, V>, BuildError> {
        let target = self.validate()?;
        let runtime = Handle::try_current().map_err(|_| BuildError::NoRuntime)?;
        let Self {
            mut local,
            mut settings,
            ..
        } = self;
        if let Some(percent) = self.percent {
            settings.rollout.set_percent(percent)?;
        }
        settings.fails_over = target.fails_over() || self.replicas > 0;
        let loads = local.settings.max_concurrent_loads.take();
        local.settings.forgets = true;
        let name = local
            .settings
            .name
            .get_or_insert_with(|| settings.namespace.clone());
        let name = name.clone();
        let me = entropy();
        let redis = RedisSettings {
            deadline: self.deadline,
            lease: settings.lease,
            read_lease: settings.read_lease(),
            max_size: self.codec.max_size,
            replicas: self.replicas,
        };
        let redis = Redis::new(target, &settings.namespace, me, redis, &runtime);
        let permits = loads.unwrap_or(DEFAULT_LOADS);
        let bulkhead = Arc::new(Bulkhead::new(permits, settings.lease));
        let inner = Inner {
            l1: local.build()?,
            l2: CircuitBreaker::new(name, Box::new(redis)),
            codec: self.codec,
            codec_health: CodecHealth::default(),
            read_lease: ReadLease::new(settings.consistency, settings.ttl),
            settings,
            me,
            tokens: AtomicU64::new(0),
            proof: Mutex::default(),
            key_waiters: KeyWaiters::default(),
            acks: InvalidationAcks::default(),
            pending_invalidations: PendingInvalidations::new(self.max_queue),
            releases: Releases::default(),
            bulkhead,
            counters: TierCounters::default(),
            runtime,
        };
        let inner = Arc::new(inner);
        let background = Arc::new(BackgroundTasks::start(&inner));
        Ok(TieredCache { inner, background })
    }

    /// The server, if the settings can be. Those of L1 alone are for [`LocalCacheBuilder::build`] to judge.
    pub(crate) fn validate(&self) -> Result<ServerUrl, BuildError> {
        let TierSettings {
            namespace,
            consistency,
            local_ttl,
            heartbeat,
            ..
        } = &self.settings;
        let is_name = |byte: u8| byte.is_ascii_graphic() && !b"{}".contains(&byte);
        if namespace.is_empty()
            || namespace.len() > MAX_NAMESPACE
            || !namespace.bytes().all(is_name)
        {
            return Err(BuildError::Namespace);
        }
        if !(MIN_HEARTBEAT..=MAX_HEARTBEAT).contains(heartbeat) {
            return Err(BuildError::Heartbeat);
        }
        if *consistency == Consistency::Bounded(Duration::ZERO) {
            return Err(BuildError::ZeroDuration("consistency: Bounded"));
        }
        if *local_ttl == Some(Duration::ZERO) {
            return Err(BuildError::ZeroDuration("local_time_to_live"));
        }
        if self.deadline.is_zero() {
            return Err(BuildError::ZeroDuration("deadline"));
        }
        if let Some(percent) = self.percent {
            drop(Rollout::with_percent(percent)?);
        }
        let local = &self.local.settings;
        if local.refresh_after.is_some() {
            return Err(BuildError::NotOverRedis("refresh_after"));
        }
        if local.early_refresh.is_some() {
            return Err(BuildError::NotOverRedis("early_refresh"));
        }
        if local.max_concurrent_loads == Some(0) {
            return Err(BuildError::NoLoads);
        }
        ServerUrl::new(&self.url, self.certificates.clone())
    }
}

impl<K, V> std::fmt::Debug for TieredCacheBuilder<K, V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Not the URL, which may hold a password.
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
            .field("percent", &self.percent)
            .field("shadow", &self.settings.rollout.is_shadow())
            .field("replicas", &self.replicas)
            .finish_non_exhaustive()
    }
}
