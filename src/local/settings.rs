//! The settings of a cache, and the deadlines and weights of entries that follow from them.

use crate::clock::{NEVER, Nanos, TimeSource, saturating_nanos};
use crate::local::load::refresh::{RefreshRules, THROTTLE};
use crate::local::removal::Listener;
use crate::random;
use crate::storage::allocated::AllocatedBytes;
use std::time::Duration;

/// The default lease of a load.
const DEFAULT_LEASE: Duration = Duration::from_secs(10);

/// A function that returns the weight of an entry.
pub(crate) type Weigher<K, V> = dyn Fn(&K, &V) -> u64 + Send + Sync;

/// A function that returns the time to live of an entry, or `None` for that of the cache.
pub(crate) type ExpireAfter<K, V> = dyn Fn(&K, &V) -> Option<Duration> + Send + Sync;

/// The partitions of keys. Entries of one partition can be invalidated in one step.
pub(crate) struct KeyPartitions<K> {
    /// The number of partitions.
    pub(crate) count: u16,
    /// Returns the number of a key's partition, which is less than `count`.
    pub(crate) of: Box<dyn Fn(&K) -> u16 + Send + Sync>,
}

/// The settings that a cache needs after it is built.
pub(crate) struct Settings<K, V> {
    pub(crate) name: Option<String>,
    pub(crate) time_to_live: Option<Duration>,
    /// The time to live in nanoseconds, converted in advance because each write needs it. [`NEVER`] if there is none.
    pub(super) ttl_nanos: Nanos,
    pub(crate) time_to_idle: Option<Duration>,
    pub(crate) clock: TimeSource,
    pub(crate) lease: Duration,
    pub(crate) wait_timeout: Option<Duration>,
    pub(crate) max_concurrent_loads: Option<usize>,
    pub(crate) refresh_after: Option<Duration>,
    pub(crate) early_refresh: Option<f64>,
    pub(crate) stale_if_error: Option<Duration>,
    pub(crate) stale_if_slow: Option<Duration>,
    pub(crate) ttl_jitter: Option<f64>,
    pub(crate) tracks_ages: bool,
    /// `true` if the cache is the L1 of a tiered cache, which can invalidate all of its entries in one step.
    pub(crate) is_l1: bool,
    /// The partitions of the keys of an L1, if there are several.
    pub(crate) partitions: Option<KeyPartitions<K>>,
    pub(crate) weigher: Option<Box<Weigher<K, V>>>,
    pub(crate) expire_after: Option<Box<ExpireAfter<K, V>>>,
    pub(crate) listener: Option<Box<Listener<K, V>>>,
}

impl<K, V> Settings<K, V> {
    /// Creates the default settings.
    pub(super) fn new() -> Self {
        Self {
            name: None,
            time_to_live: None,
            ttl_nanos: NEVER,
            time_to_idle: None,
            clock: TimeSource::System,
            lease: DEFAULT_LEASE,
            wait_timeout: None,
            max_concurrent_loads: None,
            refresh_after: None,
            early_refresh: None,
            stale_if_error: None,
            stale_if_slow: None,
            ttl_jitter: None,
            tracks_ages: cfg!(feature = "metrics"),
            is_l1: false,
            partitions: None,
            weigher: None,
            expire_after: None,
            listener: None,
        }
    }

    /// Returns the number of partitions of the keys.
    pub(super) fn partition_count(&self) -> u16 {
        self.partitions
            .as_ref()
            .map_or(1, |partitions| partitions.count)
    }

    /// Returns the partition of a key. It may serialize the key, so no lock is held.
    pub(super) fn partition_of(&self, key: &K) -> u16 {
        let partitions = self.partitions.as_ref();
        partitions.map_or(0, |partitions| (partitions.of)(key))
    }

    /// Returns the deadline of an entry that is stored at `now`. Without a `ttl`, the cache's time to live applies.
    #[inline]
    pub(crate) fn deadline(&self, now: Nanos, ttl: Option<Duration>) -> Nanos {
        let nanos = ttl.map_or(self.ttl_nanos, saturating_nanos);
        let nanos = match self.ttl_jitter {
            Some(fraction) if nanos != NEVER => jitter(nanos, fraction),
            _ => nanos,
        };
        now.saturating_add(nanos)
    }

    /// Returns the time to live of an entry: its explicit one, or that of the rule, or `None` for that of the cache.
    #[inline]
    pub(crate) fn ttl_of(
        &self,
        key: &K,
        value: &V,
        explicit: Option<Duration>,
    ) -> Option<Duration> {
        match &self.expire_after {
            Some(rule) if explicit.is_none() => rule(key, value),
            _ => explicit,
        }
    }

    /// Returns the rules for refreshes and stale values, or `None` if the cache has neither.
    pub(crate) fn refresh_rules(&self) -> Option<RefreshRules> {
        let rules = RefreshRules {
            refresh_after: self.refresh_after.map(saturating_nanos),
            early: self.early_refresh.unwrap_or(0.0),
            stale: self.grace(),
            throttle: saturating_nanos(THROTTLE),
        };
        let refreshes = self.refresh_after.is_some() || self.early_refresh.is_some();
        (refreshes || self.stale_if_error.is_some()).then_some(rules)
    }

    /// Returns the time for which entries are kept past their deadline, in nanoseconds.
    pub(crate) fn grace(&self) -> Nanos {
        self.stale_if_error.map_or(0, saturating_nanos)
    }

    /// Returns the weight of an entry. It is at least 1, so that a bound on the weight also bounds the number of
    /// entries.
    pub(crate) fn weigh(&self, key: &K, value: &V, explicit: Option<u64>) -> u64 {
        let Some(weigher) = &self.weigher else {
            return 1;
        };
        explicit.unwrap_or_else(|| weigher(key, value)).max(1)
    }
}

/// The memory that closures own is not included.
impl<K, V> AllocatedBytes for Settings<K, V> {
    fn allocated_bytes(&self) -> usize {
        let name = self.name.as_ref().map_or(0, String::capacity);
        let weigher = self.weigher.as_deref().map_or(0, size_of_val);
        let expire_after = self.expire_after.as_deref().map_or(0, size_of_val);
        let listener = self.listener.as_deref().map_or(0, size_of_val);
        name + weigher + expire_after + listener
    }
}

/// Shortens a time by a random part, which is at most `fraction` of it.
#[cold]
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss
)]
fn jitter(nanos: Nanos, fraction: f64) -> Nanos {
    nanos - (nanos as f64 * fraction * (1.0 - random::unit())) as Nanos
}
