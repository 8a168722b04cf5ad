//! L1 over L2: a [`LocalCache`] in each process over one Redis.

mod batch;
mod blocking;
mod builder;
mod coherence;
mod fetch;
mod health;
mod l2;
mod load;
mod load_lease;
mod log;
#[cfg(feature = "metrics")]
mod metrics;
mod own_key;
mod rollout;
mod shadow;
mod warm;
mod write;

pub use crate::tiered::l2::calls::{CallStats, L2Calls};
pub use crate::tiered::l2::remote::RemoteError;
pub use blocking::BlockingCache;
pub use builder::TieredCacheBuilder;
pub use health::{Health, TierStats, Warning};
pub use rollout::Rollout;
pub use write::Delivery;

use crate::clock::Nanos;
use crate::codec::{encode_key_name, message_pack};
use crate::consistency::Consistency;
use crate::entry::Loaded;
use crate::error::{AnyError, LoadError};
use crate::local::LocalCache;
use crate::schema::{RemoteKey, RemoteValue};
use crate::single_flight::Bulkhead;
use crate::stats::Stats;
use crate::tiered::coherence::background::{BackgroundTasks, Proof};
use crate::tiered::coherence::key_waiters::{Acks, KeyWaiters};
use crate::tiered::coherence::pending_invalidations::PendingInvalidations;
use crate::tiered::coherence::read_lease::{ReadLease, now};
use crate::tiered::l2::circuit_breaker::CircuitBreaker;
use crate::tiered::l2::codec_health::CodecHealth;
use crate::tiered::l2::envelope::EnvelopeCodec;
use crate::tiered::l2::remote::{Peer, Token};
use crate::tiered::load_lease::Releases;
use crate::traits::erasure::{ErrorType, LoadResult, share, typed};
use crate::traits::{AsyncCache, CacheFuture, ErasedAsyncLoader};
use builder::TierSettings;
use health::{TierCounters, count};
use parking_lot::Mutex;
use std::any::Any;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::runtime::Handle;

/// A cache of several processes: in each a [`LocalCache`], its L1, over one Redis, their L2.
///
/// Of all callers in all processes who miss a key together one loads. Who changes the database calls
/// [`invalidate`](Self::invalidate), or changes it through [`write_through`](Self::write_through);
/// what readers may then still see is what the [`Consistency`] promises.
///
/// A clone is another handle to the same cache.
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
/// let price = prices.get_or_load_async(&7, || fetch_price(7)).await?;
/// assert_eq!(price, 700);
///
/// prices.write_through(7, 800, |price| store_price(7, price)).await?;
/// # Ok(())
/// # }
/// ```
///
/// # Redis is down
///
/// No failure of Redis fails a read: the loader is asked instead, and no more than
/// [`max_concurrent_loads`](crate::LocalCacheBuilder::max_concurrent_loads) loaders run at one time (64, unless
/// set). A call to Redis takes no longer than its [deadline](TieredCacheBuilder::deadline), and after a few
/// failures none is made until Redis answers again. Invalidations wait, and go out then. The cache
/// can be built, and works, before Redis does. What Redis refuses for its own sake, or a large value that
/// takes too long, is no such failure.
///
/// # What Redis cannot take
///
/// A value that is too large, has more than 64 tags or cannot be serialized, and any value under a key of
/// more than 1 KiB, stays in L1, in the classes that keep values there; other processes load it. It can be
/// invalidated by all. A key that cannot be serialized, is of more than 64 KiB, or is serialized as another
/// one is, is each process's own: what is done to it is done in this process alone, even in the class
/// [`Realtime`](Consistency::Realtime). See [`Delivery`].
///
/// # Panics
///
/// As [`LocalCache`]. All of it needs the tokio runtime in which it was built to run, with timer and IO
/// enabled.
pub struct TieredCache<K, V> {
    inner: Arc<Inner<K, V>>,
    /// The last handle stops it.
    background: Arc<BackgroundTasks>,
}

struct Inner<K, V> {
    l1: LocalCache<K, V>,
    l2: CircuitBreaker,
    codec: EnvelopeCodec<K, V>,
    codec_health: CodecHealth,
    settings: TierSettings,
    me: Peer,
    tokens: AtomicU64,
    /// Granted and revoked by the keeper.
    read_lease: ReadLease,
    /// Since when, and how it is with the backplane.
    proof: Mutex<Proof>,
    waiters_by_key: KeyWaiters,
    acks: Acks,
    pending_invalidations: PendingInvalidations,
    releases: Releases,
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

impl<K: RemoteKey, V: RemoteValue> TieredCache<K, V> {
    /// The value of a key, if L1 or Redis holds a valid one.
    ///
    /// # Cancellation
    ///
    /// The future may be dropped at any time.
    pub async fn get(&self, key: &K) -> Option<V> {
        match self.inner.get_local(key) {
            Some(value) => Some(value),
            None => Box::pin(self.inner.look_up(key)).await,
        }
    }

    /// The value of a key; if neither L1 nor Redis holds a valid one, what `load` returns, which is
    /// then stored in both.
    ///
    /// In this process it is as [`LocalCache::get_or_load_async`]. Of all processes that miss a key
    /// together one loads; the others wait for it. One that takes longer than the
    /// [lease](crate::LocalCacheBuilder::lease) is not waited for any longer: its late value goes to its own
    /// callers and is stored nowhere. Neither is a value whose key was invalidated while it was loaded.
    ///
    /// # Errors
    ///
    /// As [`LocalCache::get_or_load_async`]. Failures of Redis are none.
    ///
    /// # Cancellation
    ///
    /// The future may be dropped at any time; another caller, or another process, then loads.
    pub async fn get_or_load_async<L, E, F>(
        &self,
        key: &K,
        load: impl FnOnce() -> F + Send,
    ) -> Result<V, LoadError<E>>
    where
        F: Future<Output = Result<L, E>> + Send,
        L: Into<Loaded<V>>,
        E: Any + Send + Sync,
    {
        if let Some(value) = self.inner.get_local(key) {
            return Ok(value);
        }
        let error_type = ErrorType::of::<E>();
        let load = || async { share(load().await) };
        typed(Box::pin(self.inner.get_or_fetch(key, error_type, load)).await)
    }

    /// What the cache is called: what L1 was named, or the namespace.
    #[must_use]
    pub fn name(&self) -> &str {
        self.inner.name()
    }

    /// What L1 has done and holds. What is a load to it is the way to a value, by Redis or the loader;
    /// the loader's own loads are in [`tier_stats`](Self::tier_stats).
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.inner.l1.stats()
    }

    /// What was asked of Redis, and what came of it.
    #[must_use]
    pub fn tier_stats(&self) -> TierStats {
        self.inner.tier_stats()
    }

    /// How it is with Redis, and with invalidations by other processes.
    #[must_use]
    pub fn health(&self) -> Health {
        self.inner.health()
    }

    /// Which keys go through Redis: to be changed while the cache is used.
    #[must_use]
    pub fn rollout(&self) -> &Rollout {
        &self.inner.settings.rollout
    }

    /// A handle for threads.
    #[must_use]
    pub fn blocking(&self) -> BlockingCache<K, V> {
        BlockingCache::new(self.clone())
    }
}

impl<K, V> Inner<K, V> {
    fn token(&self) -> Token {
        let number = self.tokens.fetch_add(1, Relaxed);
        let mut token = [0; 16];
        token[..8].copy_from_slice(&self.me.to_be_bytes());
        token[8..].copy_from_slice(&number.to_be_bytes());
        token
    }

    /// What the cache is called.
    fn name(&self) -> &str {
        self.l1.name().unwrap_or_default()
    }

    fn tier_stats(&self) -> TierStats {
        self.counters
            .snapshot(self.l2.calls(), self.bulkhead.abandoned().1)
    }

    fn health(&self) -> Health {
        let proof = self.proof.lock();
        let proven = proof.since.filter(|_| self.read_lease.is_proven(now()));
        let warnings = self.warnings(proof.lost.as_ref());
        Health {
            last_error: self.l2.last_error(),
            not_subscribed: proof.lost.clone(),
            breaker_open: self.l2.is_open(),
            proven_for: proven.map(|since| since.elapsed()),
            gaps: proof.gaps,
            subscriptions: proof.subscriptions,
            queued: self.pending_invalidations.len(),
            overdue_loads: self.bulkhead.abandoned().0,
            percent: self.settings.rollout.percent(),
            shadow: self.settings.rollout.is_shadow(),
            warnings,
        }
    }

    /// Returns what is wrong with the server's configuration, with this process's rights (if there is no
    /// subscription, for this reason), and with its keys and values.
    fn warnings(&self, not_subscribed: Option<&RemoteError>) -> Vec<Warning> {
        let mut warnings = self.l2.warnings();
        if let Some(RemoteError::Forbidden(what)) = not_subscribed {
            let forbidden = Warning::Forbidden(what.clone());
            if !warnings.contains(&forbidden) {
                warnings.push(forbidden);
            }
        }
        warnings.extend(self.codec_warnings());
        warnings
    }
}

/// The longest name of a key, in bytes. Events carry it to all processes.
const MAX_NAME: usize = 1 << 16;

/// Returns the name of a key in L2: its encoding in `MessagePack`, with the entries of maps sorted.
///
/// Returns `None` if it cannot be encoded or is too long, or if its name decodes to another key, whose name that may be
/// as well. Entries under such a key are in L1 alone, and are each process's own. So different keys have different
/// names, and a name leads back to its key.
fn name_of<K: RemoteKey>(key: &K) -> Option<Box<[u8]>> {
    let name = encode_key_name(key).ok()?;
    let is_its_own = || key_of::<K>(&name).is_some_and(|named| named == *key);
    (name.len() <= MAX_NAME && is_its_own()).then(|| name.into())
}

/// Returns the key of a name in L2, or `None` if it is not the name of a key of this type.
fn key_of<K: RemoteKey>(name: &[u8]) -> Option<K> {
    message_pack::from_bytes(name).ok()
}

impl<K: RemoteKey, V: RemoteValue> Inner<K, V> {
    /// A hit in L1, if it may serve.
    #[inline]
    fn get_local(&self, key: &K) -> Option<V> {
        let now = now();
        if self.read_lease.may_serve(now) {
            self.l1.hit_or_look_again(key, now)
        } else {
            None
        }
    }

    /// May L1 serve what it holds, to one who has missed or comes with a batch? If not, nothing that it
    /// holds now is served to this caller or a later one, and no load under way either.
    fn may_serve(&self, now: Nanos) -> bool {
        if self.read_lease.may_serve(now) {
            return true;
        }
        match self.settings.consistency {
            Consistency::Realtime | Consistency::L2Only => {
                count(&self.counters.unproven_reads);
                self.l1.forget();
                false
            }
            Consistency::Bounded(_) | Consistency::L1Only => {
                // Loads that began before now are not for those who come later.
                self.l1.begin_epoch();
                self.read_lease.extend(now);
                true
            }
        }
    }

    /// Loads through L1's single flight.
    async fn get_or_fetch<F>(
        self: &Arc<Self>,
        key: &K,
        error_type: ErrorType,
        load: impl FnOnce() -> F,
    ) -> Result<V, LoadError<AnyError>>
    where
        F: Future<Output = LoadResult<V>>,
    {
        self.may_serve(now());
        let fetch = || self.fetch(key, load);
        self.l1.get_or_load_shared(key, error_type, fetch).await
    }
}

impl<K: RemoteKey, V: RemoteValue> AsyncCache<K, V> for TieredCache<K, V> {
    fn get<'a>(&'a self, key: &'a K) -> CacheFuture<'a, Option<V>> {
        match self.inner.get_local(key) {
            Some(value) => CacheFuture::ready(Some(value)),
            None => CacheFuture::new(self.inner.look_up(key)),
        }
    }

    fn insert(&self, key: K, value: V) -> CacheFuture<'_, ()> {
        CacheFuture::new(async move {
            self.insert(key, value).await;
        })
    }

    fn insert_with_ttl(&self, key: K, value: V, ttl: Duration) -> CacheFuture<'_, ()> {
        CacheFuture::new(async move {
            self.insert_loaded(key, Loaded::new(value).ttl(ttl)).await;
        })
    }

    /// Returns what L1 held.
    fn remove<'a>(&'a self, key: &'a K) -> CacheFuture<'a, Option<V>> {
        let held = self.inner.get_local(key);
        CacheFuture::new(async move {
            self.invalidate(key).await;
            held
        })
    }

    fn clear(&self) -> CacheFuture<'_, ()> {
        CacheFuture::new(async move {
            self.clear().await;
        })
    }

    fn rollout(&self) -> Option<&Rollout> {
        Some(self.rollout())
    }

    #[cfg(feature = "metrics")]
    fn observed(&self) -> Option<crate::metrics::Observed>
    where
        Self: 'static,
    {
        crate::Watch::observed(self)
    }

    fn get_or_load_erased<'a>(
        &'a self,
        key: &'a K,
        load: &'a mut ErasedAsyncLoader<'_, V>,
    ) -> CacheFuture<'a, Result<V, LoadError<AnyError>>> {
        if let Some(value) = self.inner.get_local(key) {
            return CacheFuture::ready(Ok(value));
        }
        let load = move || async move { load().await.map_err(LoadError::Failed) };
        CacheFuture::new(self.inner.get_or_fetch(key, ErrorType::ANY, load))
    }
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
