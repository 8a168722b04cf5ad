//! The tiered cache: a [`LocalCache`] in each process (L1) over one Redis (L2).

mod batch;
mod blocking;
mod build;
mod builder;
mod coherence;
mod copy;
mod fetch;
mod health;
mod invalidator;
pub(crate) mod l2;
mod layout_change;
mod load;
mod load_lease;
mod log;
#[cfg(feature = "metrics")]
mod metrics;
mod partition;
mod partition_map;
mod prior_state;
mod publish;
mod read;
mod refresh;
mod refresh_by_rule;
#[cfg(feature = "serde")]
mod restore;
mod rollout;
mod settings;
mod shadow;
mod traits;
mod warm;
mod write;

pub use crate::tiered::invalidator::{Invalidator, InvalidatorBuilder, RemoteEntry, ServiceCheck};
pub use crate::tiered::l2::calls::{CallStats, L2Calls};
pub use crate::tiered::l2::redis::{RedisHub, RedisHubBuilder, RedisServer};
pub use crate::tiered::l2::remote::RemoteError;
pub use crate::tiered::l2::replica_reads::ReplicaReads;
pub use blocking::BlockingCache;
pub use builder::TieredCacheBuilder;
pub use health::{Health, PartitionHealth, TierStats, Warning};
pub use rollout::Rollout;

use crate::codec::{encode_key_name, message_pack};
use crate::consistency::Consistency;
use crate::local::LocalCache;
use crate::schema::{RemoteKey, RemoteValue};
use crate::single_flight::Bulkhead;
use crate::stats::Stats;
use crate::tiered::coherence::background::BackgroundTasks;
use crate::tiered::coherence::key_waiters::KeyWaiters;
use crate::tiered::coherence::read_lease::{ReadLease, now};
use crate::tiered::l2::calls::CallCounters;
use crate::tiered::l2::codec_health::CodecHealth;
use crate::tiered::l2::envelope::EnvelopeCodec;
use crate::tiered::l2::remote::{Peer, Token};
use crate::tiered::l2::replica_reads::ReplicaReadCounters;
use crate::tiered::load_lease::Releases;
use crate::tiered::partition::{Partition, Partitions};
use crate::tiered::refresh_by_rule::RefreshThrottle;
use crate::tiered::settings::TierSettings;
use health::TierCounters;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

/// A cache of several processes: each has a [`LocalCache`], its L1, and all share one Redis, their L2.
///
/// Of all callers in all processes that miss a key together, one loads. Code that changes the database calls
/// [`invalidate`](Self::invalidate) after the change, or changes it through [`write_through`](Self::write_through).
/// The [`Consistency`] says which values readers may still get after that.
///
/// A clone is another handle to the same cache.
///
/// # Outages of Redis
///
/// A failure of Redis never fails a read: the loader runs instead, and at most
/// [`max_concurrent_loads`](crate::LocalCacheBuilder::max_concurrent_loads) loaders run at one time (64 by default). A
/// call to Redis takes no longer than its [deadline](TieredCacheBuilder::deadline). After a few failures a circuit
/// breaker opens: Redis is only probed until it answers again, and invalidations are queued until then. A call that
/// Redis refuses, or a large value that takes too long, does not open the circuit breaker. The cache can be built, and
/// works, before Redis can be reached.
///
/// # Values and keys that Redis cannot store
///
/// A value that is too large, has more than 64 tags or cannot be serialized, and any value under a key of more than 1
/// KiB, is stored in L1 only, in the classes that store values there. Each process loads such a value for itself, and
/// an invalidation by any process reaches all of them. A key that cannot be serialized, is longer than 64 KiB, or has
/// the same serialized form as another key, is local to each process: operations on it concern this process only, even
/// in the class [`Realtime`](Consistency::Realtime). See [`Propagation`](crate::Propagation).
///
/// # What is not offered over Redis
///
/// | of [`LocalCache`] | reason, and what to do instead |
/// | --- | --- |
/// | `update`, `compute` and their other forms | Redis has no lock that keeps all processes from writing to a key while one of them computes its value: a lock with a lease may end before the computation does. Compute in the database, by a transaction or a compare-and-set, with [`write_through`](Self::write_through). |
/// | `retain` | The predicate needs every key and value of the namespace, which would have to be read from Redis. Use [tags](Self::invalidate_tag). |
/// | `iter`, `keys`, `hottest`, `len`, `peek`, `get_with` | They see the L1 of one process, and Redis has no list of the keys of a namespace. Use [`get`](Self::get) and [`get_many`](Self::get_many). |
/// | `remove`, which returns the value | The current value may be in L1, in Redis, or only in the L1 of another process. Use [`invalidate`](Self::invalidate). |
/// | `set_ttl` | Each process has a copy in its L1 with its own deadline. Store the value again, with [`insert_loaded`](Self::insert_loaded). |
/// | `set_capacity`, `set_max_weight`, `remove_expired`, `shrink_to_fit` | They concern the memory of one process only. The [builder](TieredCacheBuilder) of L1 sets its bound. |
/// | `restore` | The values in a snapshot may have been invalidated since. [`warm_from_snapshot`](Self::warm_from_snapshot) reads them from Redis. |
/// | `detached` | It is not needed: a task that calls [`get_or_load_async`](Self::get_or_load_async) on a clone of this handle continues if the request that spawned it is cancelled. |
///
/// # Panics
///
/// Panics in the cases in which [`LocalCache`] does. All methods need the tokio runtime in which the cache was built,
/// with timer and IO enabled.
///
/// # Examples
///
/// ```no_run
/// use hotset::{Consistency, LocalCache, TieredCache};
/// use std::time::Duration;
///
/// # async fn fetch_price(id: u64) -> std::io::Result<u64> { Ok(id * 100) }
/// # async fn store_price(id: u64, price: u64) -> std::io::Result<()> { Ok(()) }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let prices: TieredCache<u64, u64> = LocalCache::builder()
///     .capacity(100_000)
///     .time_to_live(Duration::from_secs(300))
///     .redis("redis://127.0.0.1/", "prices")
///     .consistency(Consistency::Realtime)
///     .build()?;
///
/// let price = prices.get_or_load_async(&7, fetch_price).await?;
/// assert_eq!(price, 700);
///
/// prices.write_through(7, 800, |price| store_price(7, price)).await?;
/// # Ok(())
/// # }
/// ```
pub struct TieredCache<K, V> {
    inner: Arc<Inner<K, V>>,
    /// The background tasks, which end with the last handle.
    background: Arc<BackgroundTasks>,
}

/// The shared state of all handles and background tasks.
struct Inner<K, V> {
    l1: LocalCache<K, V>,
    partitions: Partitions,
    /// The counters of all calls to L2.
    calls: Arc<CallCounters>,
    replica_reads: Arc<ReplicaReadCounters>,
    codec: EnvelopeCodec<K, V>,
    codec_health: CodecHealth,
    settings: TierSettings,
    /// The random id that distinguishes this cache from all others of the namespace.
    me: Peer,
    /// The number of tokens that were created so far.
    tokens: AtomicU64,
    /// Granted and revoked by the subscriber.
    read_lease: ReadLease,
    key_waiters: KeyWaiters,
    releases: Releases,
    refresh_throttle: RefreshThrottle,
    bulkhead: Arc<Bulkhead>,
    counters: TierCounters,
    runtime: Handle,
}

impl<K, V> Clone for TieredCache<K, V> {
    fn clone(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
            background: Arc::clone(&self.background),
        }
    }
}

impl<K, V> TieredCache<K, V> {
    /// Returns the name of L1, or the namespace if L1 was given no name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.inner.name()
    }

    /// Returns the statistics of L1. They count each miss of L1 as a load, whether its value comes from Redis or from
    /// the loader. [`tier_stats`](Self::tier_stats) counts the runs of the loader.
    ///
    /// # Examples
    ///
    /// ```
    /// # use hotset::TieredCache;
    /// # async fn example(prices: TieredCache<String, u64>) -> Result<(), Box<dyn std::error::Error>> {
    /// let l1 = prices.stats();
    /// println!("{} hits in L1, {} misses", l1.hits, l1.misses);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.inner.l1.stats()
    }

    /// Returns an estimate of the memory that L1 has allocated, in bytes, like [`LocalCache::memory_usage`].
    /// Connections to Redis and queued invalidations are not included.
    ///
    /// # Blocking
    ///
    /// See [`LocalCache::memory_usage`].
    ///
    /// # Examples
    ///
    /// ```
    /// # use hotset::TieredCache;
    /// # async fn example(prices: TieredCache<String, u64>) -> Result<(), Box<dyn std::error::Error>> {
    /// let mebibytes = prices.memory_usage() / (1 << 20);
    /// println!("prices: {mebibytes} MiB");
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    #[doc(alias = "memory_used")]
    pub fn memory_usage(&self) -> usize {
        self.inner.l1.memory_usage()
    }

    /// Returns the statistics of Redis and of the loader.
    ///
    /// # Examples
    ///
    /// ```
    /// # use hotset::TieredCache;
    /// # async fn example(prices: TieredCache<String, u64>) -> Result<(), Box<dyn std::error::Error>> {
    /// let stats = prices.tier_stats();
    /// println!("{stats:?}");
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn tier_stats(&self) -> TierStats {
        self.inner.tier_stats()
    }

    /// Returns the health of the Redis connection and of the invalidation channel.
    ///
    /// # Examples
    ///
    /// ```
    /// # use hotset::TieredCache;
    /// # async fn example(prices: TieredCache<String, u64>) -> Result<(), Box<dyn std::error::Error>> {
    /// for warning in prices.health().warnings {
    ///     eprintln!("{warning}");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn health(&self) -> Health {
        self.inner.health()
    }

    /// Returns the rollout, which can be changed while the cache is in use.
    ///
    /// # Examples
    ///
    /// ```
    /// # use hotset::TieredCache;
    /// # async fn example(prices: TieredCache<String, u64>) -> Result<(), Box<dyn std::error::Error>> {
    /// prices.rollout().set_percent(50.0)?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn rollout(&self) -> &Rollout {
        &self.inner.settings.rollout
    }
}

impl<K: RemoteKey, V: RemoteValue> TieredCache<K, V> {
    /// Returns a handle for threads.
    ///
    /// # Examples
    ///
    /// ```
    /// # use hotset::TieredCache;
    /// # async fn example(prices: TieredCache<String, u64>) -> Result<(), Box<dyn std::error::Error>> {
    /// # fn fetch_price(name: &str) -> std::io::Result<u64> { Ok(120) }
    /// use hotset::Cache;
    ///
    /// let prices = prices.blocking();
    /// std::thread::spawn(move || prices.get_or_load("apple", fetch_price));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn blocking(&self) -> BlockingCache<K, V> {
        BlockingCache::new(self.clone())
    }
}

impl<K, V> Inner<K, V> {
    /// Starts a task in the background. The task is boxed, because tokio's code for tasks is compiled again for each
    /// type of task, and the types of tasks here depend on the types of keys and values.
    fn spawn<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        let task: Pin<Box<dyn Future<Output = T> + Send>> = Box::pin(task);
        self.runtime.spawn(task)
    }

    /// Returns a token that no cache has used before.
    fn token(&self) -> Token {
        let number = self.tokens.fetch_add(1, Relaxed);
        let mut token = [0; 16];
        token[..8].copy_from_slice(&self.me.to_be_bytes());
        token[8..].copy_from_slice(&number.to_be_bytes());
        token
    }

    /// Returns the name of the cache.
    fn name(&self) -> &str {
        self.l1.name().unwrap_or_default()
    }

    fn tier_stats(&self) -> TierStats {
        let (calls, replica_reads) = (self.calls.snapshot(), self.replica_reads.snapshot());
        self.counters
            .snapshot(calls, replica_reads, self.bulkhead.abandoned().1)
    }

    /// Returns the partition of the key with this name.
    fn partition_of(&self, name: &[u8]) -> &Partition {
        &self.partitions[self.partitions.map.number_of(name)]
    }

    fn health(&self) -> Health {
        let now = now();
        let mut health = Health {
            last_error: None,
            not_subscribed: None,
            breaker_open: false,
            proven_for: self.read_lease.is_all_proven(now).then_some(Duration::MAX),
            gaps: 0,
            subscriptions: 0,
            queued: 0,
            overdue_loads: self.bulkhead.abandoned().0,
            percent: self.settings.rollout.percent(),
            shadow: self.settings.rollout.is_shadow(),
            partitions: Vec::new(),
            moved_percent: self.partitions.map.moved_percent(),
            warnings: self.warnings(),
        };
        for (number, partition) in self.partitions.iter().enumerate() {
            let proof = partition.proof.lock();
            let since = |since: Option<Instant>| since.map(|since| since.elapsed());
            let is_proven = self.read_lease.is_proven(number, now);
            let state = PartitionHealth {
                layout: self.partitions.map.layout_of(number),
                server: partition.l2.server(),
                proven_for: since(proof.since).filter(|_| is_proven),
                cold_for: since(proof.cold_since),
                breaker_open: partition.l2.is_open(),
                queued: partition.pending_invalidations.len(),
            };
            health.not_subscribed = health
                .not_subscribed
                .or_else(|| proof.not_subscribed.clone());
            health.gaps += proof.gaps;
            health.subscriptions += proof.subscriptions;
            drop(proof);
            health.last_error = health.last_error.or_else(|| partition.l2.last_error());
            health.proven_for = health
                .proven_for
                .zip(state.proven_for)
                .map(|(a, b)| a.min(b));
            health.breaker_open |= state.breaker_open;
            health.queued += state.queued;
            health.partitions.push(state);
        }
        health
    }

    /// Returns the warnings about the configuration of the servers, the rights of their user, and keys and values.
    fn warnings(&self) -> Vec<Warning> {
        let mut warnings = Vec::new();
        for partition in self.partitions.iter() {
            let not_subscribed = partition.proof.lock().not_subscribed.clone();
            let missing_right = match not_subscribed {
                Some(RemoteError::Forbidden(what)) => Some(Warning::Forbidden(what)),
                _ => None,
            };
            for warning in partition.l2.warnings().into_iter().chain(missing_right) {
                if !warnings.contains(&warning) {
                    warnings.push(warning);
                }
            }
        }
        warnings.extend(self.codec_warnings());
        warnings
    }
}

/// The maximum length of a key's name, in bytes. Events send it to all processes.
const MAX_NAME_LEN: usize = 1 << 16;

/// Returns the name of a key in L2: its encoding in `MessagePack`, with the entries of maps sorted.
///
/// Returns `None` if the key cannot be encoded, if its name is too long, or if its name decodes to another key, which
/// may have the same name. So different keys have different names, and each name decodes to its key. A key without a
/// name has entries in L1 only, and each process has its own.
fn name_of<K: RemoteKey>(key: &K) -> Option<Box<[u8]>> {
    let name = encode_key_name(key).ok()?;
    let is_its_own = || key_of::<K>(&name).is_some_and(|named| named == *key);
    (name.len() <= MAX_NAME_LEN && is_its_own()).then(|| name.into())
}

/// Returns the key of a name in L2, or `None` if it is not the name of a key of this type.
fn key_of<K: RemoteKey>(name: &[u8]) -> Option<K> {
    message_pack::from_bytes(name).ok()
}

impl<K, V> fmt::Debug for TieredCache<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TieredCache")
            .field("namespace", &self.inner.settings.namespace)
            .field("consistency", &self.inner.settings.consistency)
            .field("l1", &self.inner.l1)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::{Schema, Schemas};
    use serde::{Deserialize, Serialize};
    use std::cell::Cell;
    use std::convert::Infallible;
    use std::hash::{Hash, Hasher};

    thread_local! {
        static HASHES: Cell<u32> = const { Cell::new(0) };
    }

    /// A key that counts how often it is hashed: once for each lookup in L1.
    #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
    struct CountedKey(u64);

    impl Hash for CountedKey {
        fn hash<H: Hasher>(&self, state: &mut H) {
            HASHES.set(HASHES.get() + 1);
            self.0.hash(state);
        }
    }

    /// Returns a cache of the class `L1Only`, which needs no server to serve.
    fn l1_only(capacity: usize) -> TieredCache<CountedKey, u64> {
        let schemas = Schemas::new(u64::schema(), u64::schema());
        LocalCache::builder()
            .capacity(capacity)
            .redis_with_schemas("redis://127.0.0.1:1/", "test", schemas)
            .consistency(Consistency::L1Only)
            .build()
            .unwrap()
    }

    #[tokio::test]
    async fn memory_usage_is_that_of_l1() {
        let cache = l1_only(10_000);
        let empty = cache.memory_usage();
        for key in 0..10_000 {
            let load = |_| async { Ok::<_, Infallible>(10) };
            cache
                .get_or_load_async(&CountedKey(key), load)
                .await
                .unwrap();
        }
        let full = cache.memory_usage();
        assert!(full > empty + 10_000 * 32, "{empty}, {full}");
        assert_eq!(full, cache.inner.l1.memory_usage());
        assert_eq!(full, cache.blocking().memory_usage());
    }

    #[tokio::test]
    async fn miss_looks_l1_up_once() {
        let cache = l1_only(100);
        let load = |_| async { Ok::<_, Infallible>(10) };
        for (hashes, key) in [CountedKey(1), CountedKey(2)].iter().enumerate() {
            let hashes = u32::try_from(hashes).unwrap();
            assert_eq!(HASHES.get(), 2 * hashes);
            assert_eq!(cache.get_or_load_async(key, load).await.unwrap(), 10);
            assert_eq!(HASHES.get(), 2 * hashes + 1, "a miss");
            assert_eq!(cache.get_or_load_async(key, load).await.unwrap(), 10);
            assert_eq!(HASHES.get(), 2 * hashes + 2, "a hit");
        }
        let stats = cache.stats();
        assert_eq!((stats.hits, stats.misses, stats.loads), (2, 2, 2));

        HASHES.set(0);
        assert_eq!(cache.get(&CountedKey(3)).await, None);
        // The second one is that of the insertion of a value from L2.
        assert_eq!(HASHES.get(), 2);
        assert_eq!(cache.stats().misses, 3);
    }
}
