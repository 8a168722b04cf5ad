//! How a cache is set up.

use crate::clock::{Clock, NEVER, Nanos, TimeSource, saturating_nanos};
use crate::error::{BuildError, MAX_SHARDS};
use crate::local::load::refresh::{Rules, THROTTLE};
use crate::local::removal::{Listener, RemovalCause};
use crate::local::{DefaultHasher, LocalCache};
use crate::policy::Policy;
use crate::random;
use std::sync::Arc;
use std::time::Duration;

/// Tells what an entry weighs.
pub(crate) type Weigher<K, V> = dyn Fn(&K, &V) -> u64 + Send + Sync;

/// How long a loader has before a waiter may take over, unless set.
const DEFAULT_LEASE: Duration = Duration::from_secs(10);

/// Sets up a [`LocalCache`]; from [`LocalCache::builder`].
///
/// One bound is needed: [`capacity`](Self::capacity), [`max_weight`](Self::max_weight) or
/// [`unbounded`](Self::unbounded). All else has a default.
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

/// What a cache goes on needing once it is built.
pub(crate) struct Settings<K, V> {
    pub(crate) name: Option<String>,
    pub(crate) time_to_live: Option<Duration>,
    /// The same, as each write needs it.
    ttl_nanos: Nanos,
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
    /// Everything can be [forgotten](LocalCache::forget) at once.
    pub(crate) forgets: bool,
    pub(crate) weigher: Option<Box<Weigher<K, V>>>,
    pub(crate) listener: Option<Box<Listener<K, V>>>,
}

impl<K, V> Settings<K, V> {
    /// The deadline of an entry stored now with this time to live, or the cache's own.
    #[inline]
    pub(crate) fn deadline(&self, now: Nanos, ttl: Option<Duration>) -> Nanos {
        let nanos = ttl.map_or(self.ttl_nanos, saturating_nanos);
        let nanos = match self.ttl_jitter {
            Some(fraction) if nanos != NEVER => jitter(nanos, fraction),
            _ => nanos,
        };
        now.saturating_add(nanos)
    }

    /// What there is to know of renewals, if there are any.
    pub(crate) fn refresh(&self) -> Option<Rules> {
        let rules = Rules {
            refresh_after: self.refresh_after.map(saturating_nanos),
            early: self.early_refresh.unwrap_or(0.0),
            stale: self.grace(),
            throttle: saturating_nanos(THROTTLE),
        };
        let renews = self.refresh_after.is_some() || self.early_refresh.is_some();
        (renews || self.stale_if_error.is_some()).then_some(rules)
    }

    /// How long entries are kept past their deadline.
    pub(crate) fn grace(&self) -> Nanos {
        self.stale_if_error.map_or(0, saturating_nanos)
    }

    /// What an entry weighs: at least 1, so that a bound on weight bounds entries too.
    pub(crate) fn weigh(&self, key: &K, value: &V, own: Option<u64>) -> u64 {
        let Some(weigher) = &self.weigher else {
            return 1;
        };
        own.unwrap_or_else(|| weigher(key, value)).max(1)
    }
}

/// A time that is shorter by at most this fraction of it.
#[cold]
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss
)]
fn jitter(nanos: Nanos, fraction: f64) -> Nanos {
    nanos - (nanos as f64 * fraction * (1.0 - random::unit())) as Nanos
}

impl<K, V> LocalCacheBuilder<K, V> {
    /// The most shards that [`shards`](Self::shards) takes.
    pub const MAX_SHARDS: usize = MAX_SHARDS;

    pub(crate) fn new() -> Self {
        Self {
            capacity: None,
            max_weight: None,
            unbounded: false,
            shards: None,
            policy: Policy::Lru,
            hasher: DefaultHasher::default(),
            settings: Settings {
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
                forgets: false,
                weigher: None,
                listener: None,
            },
        }
    }
}

impl<K, V, S> LocalCacheBuilder<K, V, S> {
    /// Holds at most this many entries, exactly, over all shards. With 0 nothing is held, and
    /// [`get_or_load`](LocalCache::get_or_load) still makes one load of several at a time.
    pub fn capacity(mut self, entries: usize) -> Self {
        self.capacity = Some(entries);
        self
    }

    /// Holds entries of at most this weight together, exactly, over all shards, in the unit of the
    /// [`weigher`](Self::weigher).
    pub fn max_weight(mut self, weight: u64) -> Self {
        self.max_weight = Some(weight);
        self
    }

    /// Tells what an entry weighs; at least 1 is counted. It is called once, when the entry is
    /// stored, without a lock.
    pub fn weigher(mut self, weigher: impl Fn(&K, &V) -> u64 + Send + Sync + 'static) -> Self {
        self.settings.weigher = Some(Box::new(weigher));
        self
    }

    /// Holds whatever is inserted until it expires or is removed.
    pub fn unbounded(mut self) -> Self {
        self.unbounded = true;
        self
    }

    /// How long an entry lives after it was stored. Default: for ever.
    pub fn time_to_live(mut self, ttl: Duration) -> Self {
        self.settings.time_to_live = Some(ttl);
        self.settings.ttl_nanos = saturating_nanos(ttl);
        self
    }

    /// How long an entry lives after it was last stored or hit. Default: for ever. An entry with a
    /// time to live as well goes at whichever comes first.
    pub fn time_to_idle(mut self, idle: Duration) -> Self {
        self.settings.time_to_idle = Some(idle);
        self
    }

    /// Which entry gives way when there is no room. Default: [`Policy::Lru`]; [`Policy`] says when to take
    /// another.
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// How many parts the cache is split into, each with a lock of its own; rounded up to a power
    /// of two. The default grows with the number of cores, and is less for small caches.
    ///
    /// A shard holds at most seven million entries and then evicts, whatever the bound. Where
    /// `capacity` asks for more, there are more shards; with `max_weight` and `unbounded` it is for
    /// you to set enough.
    pub fn shards(mut self, shards: usize) -> Self {
        self.shards = Some(shards);
        self
    }

    /// What hashes keys. The default is foldhash, seeded at random: keys made to collide need one
    /// who has learned the seed. Where that is too little, `std::hash::RandomState` is slower and
    /// keeps its seed.
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

    /// What tells the time for expiry. Default: [`SystemClock`](crate::SystemClock).
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.settings.clock = TimeSource::Custom(Arc::new(clock));
        self
    }

    /// Sets how long a load may take before another caller that waits for the key loads as well. Default: 10
    /// seconds. With `Duration::MAX` a load that hangs is waited for without limit.
    ///
    /// It also bounds how long a load keeps its permit of
    /// [`max_concurrent_loads`](Self::max_concurrent_loads), and how long a future that nobody polls can delay
    /// other callers. Loads that outlive it are counted in
    /// [`Stats::abandoned_loads`](crate::Stats::abandoned_loads).
    pub fn lease(mut self, lease: Duration) -> Self {
        self.settings.lease = lease;
        self
    }

    /// Sets how long a caller waits for another caller's load, for a permit, or for its own load in a task of
    /// `detached` (feature `tokio`), before it gets [`WaitTimeout`](crate::LoadError::WaitTimeout), or an expired
    /// value within [`stale_if_error`](Self::stale_if_error). Default: as long as it takes.
    pub fn wait_timeout(mut self, timeout: Duration) -> Self {
        self.settings.wait_timeout = Some(timeout);
        self
    }

    /// Bounds the number of loaders of this cache that run at one time, over all keys: a bulkhead for what is
    /// behind the cache. Loads above it wait in order, up to the [`wait_timeout`](Self::wait_timeout). Default: no
    /// bound.
    ///
    /// Each load holds a permit, which ends with the load or with the [`lease`](Self::lease), whichever comes first.
    /// So loaders that hang do not use up the permits: loaders that outlived their lease still run, and come on top
    /// of the bound. [`Stats::abandoned_loads`](crate::Stats::abandoned_loads) counts them.
    ///
    /// A free permit is offered to the first caller in the queue. If that caller is a future that nobody polls, the
    /// offer passes to a caller that is polled after a few milliseconds, so the order is strict only among callers
    /// that are polled promptly.
    ///
    /// A loader that loads other keys of the same cache on its thread or in its task does so within its own permit. A
    /// loader that waits for a *spawned* load of the same cache holds its permit meanwhile; if that was the last
    /// one, the spawned load begins once the lease is over. A batch of
    /// [`get_many_or_load`](LocalCache::get_many_or_load) is one load. RefreshRules do not wait: they are put off.
    pub fn max_concurrent_loads(mut self, loads: usize) -> Self {
        self.settings.max_concurrent_loads = Some(loads);
        self
    }

    /// How long after it was stored an entry is loaded anew, though it lives. Default: never.
    ///
    /// It is served meanwhile. The first `get_or_load` that finds it due runs its loader: a thread
    /// and a plain [`get_or_load_async`](LocalCache::get_or_load_async) wait for it themselves, all
    /// others are served at once. With `detached` (feature `tokio`) it runs in a task of its
    /// own, and nobody waits. If it fails, the old value is returned, and the next attempt is made
    /// a second later at the earliest. A write to the key meanwhile wins, as over every load.
    pub fn refresh_after(mut self, age: Duration) -> Self {
        self.settings.refresh_after = Some(age);
        self
    }

    /// Renews popular entries before they expire, by chance: the sooner the deadline, in units of
    /// the time that the entry took to load, the likelier. So nobody finds it expired, and of many
    /// entries that were stored together not all are renewed together. Default: off.
    ///
    /// This is `XFetch` (Vattani, Chierichetti, Lowenstein, VLDB 2015). `beta` is 1.0 for the paper's
    /// optimum; with more, renewals come earlier. Who renews, and what happens when that fails, is
    /// as for [`refresh_after`](Self::refresh_after).
    pub fn early_refresh(mut self, beta: f64) -> Self {
        self.settings.early_refresh = Some(beta);
        self
    }

    /// Lets `get_or_load` return a value that expired no longer than `max` ago where a load fails or a caller has
    /// waited for too long. Default: the error is returned.
    ///
    /// | caller | gets the expired value |
    /// | --- | --- |
    /// | whose loader fails, or that waits for a load that fails | at once; for a second there is no other attempt to load the key |
    /// | that comes within this second | at once |
    /// | that waits for another caller's load | after [`stale_if_slow`](Self::stale_if_slow), or in place of a [`WaitTimeout`](crate::LoadError::WaitTimeout) |
    /// | that waits for a permit of [`max_concurrent_loads`](Self::max_concurrent_loads) | likewise |
    /// | of `detached` (feature `tokio`) that waits for its own load | likewise, and when the [`lease`](Self::lease) of the load ends |
    /// | that runs its own loader on its thread or in its task | when the loader fails; it is not interrupted |
    ///
    /// Each of them is counted in [`Stats::stale`](crate::Stats::stale). If there is no such value, the caller gets
    /// what it would get without this setting.
    ///
    /// Entries are kept that much longer, as far as there is room, and [`len`](LocalCache::len) counts them. `get`
    /// does not return them. A value that was removed or invalidated is never served.
    pub fn stale_if_error(mut self, max: Duration) -> Self {
        self.settings.stale_if_error = Some(max);
        self
    }

    /// Sets how long a caller waits before it is given an expired value. Requires
    /// [`stale_if_error`](Self::stale_if_error). Default: it waits as long as the
    /// [`wait_timeout`](Self::wait_timeout) allows.
    ///
    /// The load goes on and stores its value. Without an expired value the caller waits on. The table at
    /// `stale_if_error` says which callers this concerns: those that wait, and those of `detached`. This is the soft
    /// timeout of `FusionCache`.
    pub fn stale_if_slow(mut self, after: Duration) -> Self {
        self.settings.stale_if_slow = Some(after);
        self
    }

    /// Shortens each time to live by up to this fraction of it, by chance, so that what was stored
    /// together does not expire together. Above 0, at most 1. Default: off.
    pub fn ttl_jitter(mut self, fraction: f64) -> Self {
        self.settings.ttl_jitter = Some(fraction);
        self
    }

    /// Whether it is known how old values are when they are served: [`Stats::ages`](crate::Stats::ages).
    /// It takes four bytes an entry. Default: with the feature `metrics` yes, else no.
    pub fn track_ages(mut self, track: bool) -> Self {
        self.settings.tracks_ages = track;
        self
    }

    /// Is told of every entry that leaves, with the cause, by the thread that made it leave, after
    /// the fact and without a lock. It may call the cache. Entries that are held when the cache is
    /// dropped are not told of.
    ///
    /// Two threads that remove a key's successive values may tell of them in either order.
    pub fn on_removal(
        mut self,
        listener: impl Fn(&K, &V, RemovalCause) + Send + Sync + 'static,
    ) -> Self {
        self.settings.listener = Some(Box::new(listener));
        self
    }

    /// What the cache is called where it is shown.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.settings.name = Some(name.into());
        self
    }

    /// The cache.
    ///
    /// # Errors
    ///
    /// If the settings cannot be: the error says which, and what to change.
    pub fn build(self) -> Result<LocalCache<K, V, S>, BuildError>
    where
        K: Eq,
    {
        self.validate()?;
        Ok(LocalCache::from_builder(self))
    }

    /// How many bounds were set: one, if it can be built.
    pub(crate) fn bounds(&self) -> usize {
        usize::from(self.capacity.is_some())
            + usize::from(self.max_weight.is_some())
            + usize::from(self.unbounded)
    }

    fn validate(&self) -> Result<(), BuildError> {
        match self.bounds() {
            0 => return Err(BuildError::NoBound),
            1 => {}
            _ => return Err(BuildError::SeveralBounds),
        }
        match (self.max_weight, &self.settings.weigher) {
            (Some(_), None) => return Err(BuildError::NoWeigher),
            (None, Some(_)) => return Err(BuildError::WeigherWithoutBound),
            _ => {}
        }
        if self.settings.stale_if_slow.is_some() && self.settings.stale_if_error.is_none() {
            return Err(BuildError::StaleIfSlowAlone);
        }
        self.validate_settings()
    }

    /// All but the bound.
    pub(crate) fn validate_settings(&self) -> Result<(), BuildError> {
        if let Some(shards) = self.shards.filter(|n| *n == 0 || *n > MAX_SHARDS) {
            return Err(BuildError::Shards(shards));
        }
        let durations = [
            ("time_to_live", self.settings.time_to_live),
            ("time_to_idle", self.settings.time_to_idle),
            ("lease", Some(self.settings.lease)),
            ("wait_timeout", self.settings.wait_timeout),
            ("refresh_after", self.settings.refresh_after),
            ("stale_if_error", self.settings.stale_if_error),
            ("stale_if_slow", self.settings.stale_if_slow),
        ];
        for (setting, duration) in durations {
            if duration.is_some_and(|duration| duration.is_zero()) {
                return Err(BuildError::ZeroDuration(setting));
            }
        }
        self.validate_loads()
    }

    fn validate_loads(&self) -> Result<(), BuildError> {
        let settings = &self.settings;
        let refresh = settings.refresh_after.zip(settings.time_to_live);
        if refresh.is_some_and(|(refresh, ttl)| refresh >= ttl) {
            return Err(BuildError::RefreshAfterEnd);
        }
        let numbers = [
            ("early_refresh", settings.early_refresh, f64::MAX),
            ("ttl_jitter", settings.ttl_jitter, 1.0),
        ];
        for (setting, number, most) in numbers {
            if number.is_some_and(|number| !(number > 0.0 && number <= most)) {
                return Err(BuildError::OutOfRange(setting));
            }
        }
        if settings.max_concurrent_loads == Some(0) {
            return Err(BuildError::NoLoads);
        }
        Ok(())
    }
}
