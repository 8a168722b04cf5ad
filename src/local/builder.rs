//! The builder of a cache.

use crate::clock::{Clock, TimeSource, saturating_nanos};
use crate::error::{BuildError, MAX_SHARDS};
use crate::local::removal::RemovalCause;
use crate::local::settings::Settings;
use crate::local::{DefaultHasher, LocalCache};
use crate::policy::Policy;
use std::fmt;
use std::time::Duration;

/// A builder of a [`LocalCache`], from [`LocalCache::builder`].
///
/// Exactly one bound is required: [`capacity`](Self::capacity), [`max_weight`](Self::max_weight) or
/// [`unbounded`](Self::unbounded). All other settings have defaults.
///
/// # Examples
///
/// ```
/// use hotset::{LocalCache, Policy};
/// use std::time::Duration;
///
/// let prices: LocalCache<u64, u64> = LocalCache::builder()
///     .capacity(100_000)
///     .time_to_live(Duration::from_secs(300))
///     .policy(Policy::S3Fifo)
///     .name("prices")
///     .build()?;
/// # Ok::<(), hotset::BuildError>(())
/// ```
#[must_use = "a builder does nothing until build is called"]
pub struct LocalCacheBuilder<K, V, S = DefaultHasher> {
    pub(crate) capacity: Option<usize>,
    pub(crate) max_weight: Option<u64>,
    pub(crate) unbounded: bool,
    pub(crate) shards: Option<usize>,
    pub(crate) policy: Policy,
    pub(crate) hasher: S,
    pub(crate) settings: Settings<K, V>,
}

impl<K, V> LocalCacheBuilder<K, V> {
    /// The maximum number of [`shards`](Self::shards): 65,536.
    pub const MAX_SHARDS: usize = MAX_SHARDS;

    /// Creates a builder with the default settings.
    pub(crate) fn new() -> Self {
        Self {
            capacity: None,
            max_weight: None,
            unbounded: false,
            shards: None,
            policy: Policy::Lru,
            hasher: DefaultHasher::default(),
            settings: Settings::new(),
        }
    }
}

impl<K, V, S> LocalCacheBuilder<K, V, S> {
    /// Bounds the number of entries, exactly, over all shards.
    ///
    /// With 0 nothing is cached, and [`get_or_load`](LocalCache::get_or_load) still merges concurrent loads of one key.
    ///
    /// # Examples
    ///
    /// ```
    /// let cache = hotset::LocalCache::<u64, u64>::builder().capacity(2).build()?;
    /// for key in 0..10 {
    ///     cache.insert(key, key);
    /// }
    /// assert_eq!(cache.len(), 2);
    /// # Ok::<(), hotset::BuildError>(())
    /// ```
    #[doc(alias(
        "max_capacity",
        "maximumSize",
        "items_capacity",
        "maximum_size",
        "max_size"
    ))]
    pub fn capacity(mut self, entries: usize) -> Self {
        self.capacity = Some(entries);
        self
    }

    /// Bounds the total weight of the entries, exactly, over all shards, in the unit of the
    /// [`weigher`](Self::weigher). Requires a weigher.
    ///
    /// # Examples
    ///
    /// ```
    /// let pages = hotset::LocalCache::<String, Vec<u8>>::builder()
    ///     .max_weight(64 << 20)
    ///     .weigher(|url, page| (url.len() + page.len()) as u64)
    ///     .build()?;
    /// assert_eq!(pages.capacity(), Some(64 << 20));
    /// # Ok::<(), hotset::BuildError>(())
    /// ```
    #[doc(alias("max_capacity", "maximumWeight", "weight_capacity", "maximum_weight"))]
    pub fn max_weight(mut self, weight: u64) -> Self {
        self.max_weight = Some(weight);
        self
    }

    /// Sets the function that returns the weight of an entry. Requires [`max_weight`](Self::max_weight).
    ///
    /// The unit is that of `max_weight`. A weight of 0 counts as 1. The function is called once for each entry that is
    /// stored without a [weight of its own](crate::Loaded::weight), with no lock held.
    ///
    /// # Examples
    ///
    /// ```
    /// let names = hotset::LocalCache::<u64, String>::builder()
    ///     .max_weight(1_000)
    ///     .weigher(|_, name| name.len() as u64)
    ///     .build()?;
    /// names.insert(7, "Alice".to_string());
    /// assert_eq!(names.weight(), 5);
    /// # Ok::<(), hotset::BuildError>(())
    /// ```
    #[doc(alias("weighter", "with_weighter"))]
    pub fn weigher(mut self, weigher: impl Fn(&K, &V) -> u64 + Send + Sync + 'static) -> Self {
        self.settings.weigher = Some(Box::new(weigher));
        self
    }

    /// Sets no bound: entries stay until they expire or are removed.
    ///
    /// # Examples
    ///
    /// ```
    /// let cache = hotset::LocalCache::<u64, u64>::builder().unbounded().build()?;
    /// assert_eq!(cache.capacity(), None);
    /// # Ok::<(), hotset::BuildError>(())
    /// ```
    pub fn unbounded(mut self) -> Self {
        self.unbounded = true;
        self
    }

    /// Sets the time from the insertion of an entry to its expiration. Above zero. Default: entries do not expire.
    ///
    /// An entry may have a [time to live of its own](crate::Loaded::ttl) instead.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// let cache = hotset::LocalCache::<u64, u64>::builder()
    ///     .capacity(100)
    ///     .time_to_live(Duration::from_secs(300))
    ///     .build()?;
    /// # Ok::<(), hotset::BuildError>(())
    /// ```
    #[doc(alias("expireAfterWrite", "expire_after_write", "ttl"))]
    pub fn time_to_live(mut self, ttl: Duration) -> Self {
        self.settings.time_to_live = Some(ttl);
        self.settings.ttl_nanos = saturating_nanos(ttl);
        self
    }

    /// Sets the time from the insertion or the last hit of an entry to its expiration. Above zero. Default: entries do
    /// not expire.
    ///
    /// An entry that also has a time to live expires at the earlier of both times.
    ///
    /// A hit writes the new deadline only if it is more than 1/64 of `idle` after the previous one, so that hits on a
    /// popular entry do not write to shared memory. An entry therefore expires between 63/64 of `idle` and `idle` after
    /// its last hit, never later. A time to live is not shortened by this.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// let cache = hotset::LocalCache::<u64, u64>::builder()
    ///     .capacity(100)
    ///     .time_to_live(Duration::from_secs(3_600))
    ///     .time_to_idle(Duration::from_secs(60))
    ///     .build()?;
    /// # Ok::<(), hotset::BuildError>(())
    /// ```
    #[doc(alias("expireAfterAccess", "expire_after_access"))]
    pub fn time_to_idle(mut self, idle: Duration) -> Self {
        self.settings.time_to_idle = Some(idle);
        self
    }

    /// Sets a rule for the time to live of each entry. Default: none.
    ///
    /// `rule` is called each time a value is stored by an insertion, a load or an update, unless the value comes with a
    /// [time to live of its own](crate::Loaded::ttl). If it returns `None`, the [`time_to_live`](Self::time_to_live) of
    /// the cache applies, and an updated entry keeps its remaining time to live. With `Duration::MAX` the entry never
    /// expires; with zero it is not stored. The rule runs on the storing thread, with no lock held. If it loads the key
    /// that is stored, that load returns [`Recursive`](crate::LoadError::Recursive).
    ///
    /// # Examples
    ///
    /// A token is cached for as long as it is valid:
    ///
    /// ```
    /// use hotset::LocalCache;
    /// use std::time::Duration;
    ///
    /// #[derive(Clone)]
    /// struct Token { text: String, valid_for: Duration }
    ///
    /// # fn fetch_token(user: &str) -> std::io::Result<Token> {
    /// #     Ok(Token { text: user.to_uppercase(), valid_for: Duration::from_secs(90) })
    /// # }
    /// let tokens = LocalCache::<String, Token>::builder()
    ///     .capacity(1_000)
    ///     .expire_after(|_, token| Some(token.valid_for))
    ///     .build()?;
    /// tokens.get_or_load("alice", fetch_token)?;
    /// assert!(tokens.remaining_ttl("alice").unwrap() <= Duration::from_secs(90));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[doc(alias("Expiry", "expire_after_create", "expireAfter", "expire_after_update"))]
    pub fn expire_after(
        mut self,
        rule: impl Fn(&K, &V) -> Option<Duration> + Send + Sync + 'static,
    ) -> Self {
        self.settings.expire_after = Some(Box::new(rule));
        self
    }

    /// Sets the eviction policy. Default: [`Policy::Lru`].
    ///
    /// [`Policy`] describes when to choose another one.
    ///
    /// # Examples
    ///
    /// ```
    /// let cache = hotset::LocalCache::<u64, u64>::builder().capacity(100).policy(hotset::Policy::S3Fifo).build()?;
    /// # Ok::<(), hotset::BuildError>(())
    /// ```
    #[doc(alias = "eviction_policy")]
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// Sets the number of shards, each with its own lock. From 1 to [`MAX_SHARDS`](Self::MAX_SHARDS), rounded up to a
    /// power of two. Default: four for each core, rounded up likewise, and fewer for a small capacity.
    ///
    /// A shard contains at most seven million entries. A full shard evicts an entry for each new one, whatever the
    /// bound of the cache. If a [`capacity`](Self::capacity) needs more shards than are set, the cache has more. With
    /// `max_weight` or `unbounded`, set enough shards for all entries.
    ///
    /// # Examples
    ///
    /// ```
    /// let cache = hotset::LocalCache::<u64, u64>::builder().capacity(100).shards(4).build()?;
    /// # Ok::<(), hotset::BuildError>(())
    /// ```
    #[doc(alias("segments", "num_shards"))]
    pub fn shards(mut self, shards: usize) -> Self {
        self.shards = Some(shards);
        self
    }

    /// Sets the hasher of keys. Default: ahash with a random seed.
    ///
    /// With the default, only someone who has learned the seed can construct keys that collide. If that is not safe
    /// enough, use `std::hash::RandomState`, which is slower and does not reveal its seed.
    ///
    /// # Examples
    ///
    /// ```
    /// let hasher = std::hash::RandomState::new();
    /// let cache = hotset::LocalCache::<u64, u64>::builder().capacity(100).hasher(hasher).build()?;
    /// # Ok::<(), hotset::BuildError>(())
    /// ```
    #[doc(alias("build_with_hasher", "with_hasher"))]
    pub fn hasher<T>(self, hasher: T) -> LocalCacheBuilder<K, V, T> {
        LocalCacheBuilder {
            capacity: self.capacity,
            max_weight: self.max_weight,
            unbounded: self.unbounded,
            shards: self.shards,
            policy: self.policy,
            hasher,
            settings: self.settings,
        }
    }

    /// Sets the clock for expiration and refreshes. Default: [`SystemClock`](crate::SystemClock).
    ///
    /// Tests use a [`ManualClock`](crate::ManualClock).
    ///
    /// # Examples
    ///
    /// ```
    /// use hotset::{LocalCache, ManualClock};
    /// use std::time::Duration;
    ///
    /// let clock = ManualClock::new();
    /// let cache = LocalCache::builder()
    ///     .capacity(100)
    ///     .time_to_live(Duration::from_secs(60))
    ///     .clock(clock.clone())
    ///     .build()?;
    /// cache.insert(1, "one");
    /// clock.advance(Duration::from_secs(60));
    /// assert_eq!(cache.get(&1), None);
    /// # Ok::<(), hotset::BuildError>(())
    /// ```
    #[doc(alias = "ticker")]
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.settings.clock = TimeSource::new(clock);
        self
    }

    /// Shortens each time to live at random, by up to this fraction of it, so that entries that were stored together do
    /// not expire together. Above 0, at most 1. Default: off.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// let cache = hotset::LocalCache::<u64, u64>::builder()
    ///     .capacity(100)
    ///     .time_to_live(Duration::from_secs(300))
    ///     .ttl_jitter(0.1)
    ///     .build()?;
    /// # Ok::<(), hotset::BuildError>(())
    /// ```
    pub fn ttl_jitter(mut self, fraction: f64) -> Self {
        self.settings.ttl_jitter = Some(fraction);
        self
    }

    /// Sets whether the cache records the ages of the values that it serves, in [`Stats::ages`](crate::Stats::ages).
    /// Default: yes with the feature `metrics`, otherwise no.
    ///
    /// It takes four bytes for each entry. One hit in 64 is sampled.
    ///
    /// # Examples
    ///
    /// ```
    /// let cache = hotset::LocalCache::<u64, u64>::builder().capacity(100).track_ages(true).build()?;
    /// # Ok::<(), hotset::BuildError>(())
    /// ```
    pub fn track_ages(mut self, track: bool) -> Self {
        self.settings.tracks_ages = track;
        self
    }

    /// Sets a listener that is called once for each removed entry, with the entry and the cause. Default: none.
    ///
    /// It runs on the thread that caused the removal, after the removal, with no lock held. It may call the cache. It
    /// is not called for the entries that are in the cache when the cache is dropped. It owns the key and the value, so
    /// it can send them to another thread or task.
    ///
    /// The removals by one thread are reported in their order. If two threads remove successive values of one key, the
    /// listener may be called for them in either order.
    ///
    /// If the listener panics, the panic reaches the caller of the method that caused the removal, after the listener
    /// was called for all of its removals.
    ///
    /// # Examples
    ///
    /// ```
    /// use hotset::{LocalCache, RemovalCause};
    ///
    /// let cache = LocalCache::<u64, String>::builder()
    ///     .capacity(100)
    ///     .on_removal(|key, _, cause| {
    ///         if cause == RemovalCause::Evicted {
    ///             println!("{key} was evicted");
    ///         }
    ///     })
    ///     .build()?;
    /// # Ok::<(), hotset::BuildError>(())
    /// ```
    ///
    /// A listener that sends the removed entries to a thread:
    ///
    /// ```
    /// use hotset::LocalCache;
    /// use std::sync::mpsc;
    ///
    /// let (sender, removed) = mpsc::channel();
    /// let cache = LocalCache::<u64, String>::builder()
    ///     .capacity(1)
    ///     // The receiver may be gone at the end of the program.
    ///     .on_removal(move |key, value, cause| drop(sender.send((key, value, cause))))
    ///     .build()?;
    /// cache.insert(1, "one".to_string());
    /// cache.insert(2, "two".to_string());
    /// assert_eq!(removed.recv()?.1, "one");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[doc(alias(
        "eviction_listener",
        "removal_listener",
        "lifecycle",
        "evictionListener",
        "removalListener",
        "async_eviction_listener",
        "on_evict",
        "insert_with_lifecycle"
    ))]
    pub fn on_removal(
        mut self,
        listener: impl Fn(K, V, RemovalCause) + Send + Sync + 'static,
    ) -> Self {
        self.settings.listener = Some(Box::new(listener));
        self
    }

    /// Sets the name of the cache in metrics, log events and `Debug` output. Default: none.
    ///
    /// # Examples
    ///
    /// ```
    /// let cache = hotset::LocalCache::<u64, u64>::builder().capacity(100).name("prices").build()?;
    /// assert_eq!(cache.name(), Some("prices"));
    /// # Ok::<(), hotset::BuildError>(())
    /// ```
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.settings.name = Some(name.into());
        self
    }

    /// Builds the cache.
    ///
    /// # Errors
    ///
    /// Returns an error if the settings are invalid. The error names the setting and suggests a fix.
    ///
    /// # Examples
    ///
    /// ```
    /// use hotset::{BuildError, LocalCache};
    ///
    /// let unbounded = LocalCache::<u32, u32>::builder().build();
    /// assert_eq!(unbounded.unwrap_err(), BuildError::NoBound);
    /// ```
    pub fn build(self) -> Result<LocalCache<K, V, S>, BuildError>
    where
        K: Eq,
    {
        self.validate()?;
        Ok(LocalCache::from_builder(self))
    }
}

impl<K, V, S> fmt::Debug for LocalCacheBuilder<K, V, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let settings = &self.settings;
        f.debug_struct("LocalCacheBuilder")
            .field("name", &settings.name)
            .field("capacity", &self.capacity)
            .field("max_weight", &self.max_weight)
            .field("unbounded", &self.unbounded)
            .field("shards", &self.shards)
            .field("policy", &self.policy)
            .field("time_to_live", &settings.time_to_live)
            .field("time_to_idle", &settings.time_to_idle)
            .field("ttl_jitter", &settings.ttl_jitter)
            .field("lease", &settings.lease)
            .field("wait_timeout", &settings.wait_timeout)
            .field("max_concurrent_loads", &settings.max_concurrent_loads)
            .field("refresh_after", &settings.refresh_after)
            .field("early_refresh", &settings.early_refresh)
            .field("stale_if_error", &settings.stale_if_error)
            .field("stale_if_slow", &settings.stale_if_slow)
            .field("track_ages", &settings.tracks_ages)
            .finish_non_exhaustive()
    }
}
