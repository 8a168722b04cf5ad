//! The builder's settings of loads: leases, limits, refreshes, and expired values in place of errors.

use crate::local::LocalCacheBuilder;
use std::time::Duration;

/// Settings of loads.
impl<K, V, S> LocalCacheBuilder<K, V, S> {
    /// Sets how long a load may take before another caller that waits for the key loads as well. Above zero. Default:
    /// 10 seconds. With `Duration::MAX`, callers wait for a load that hangs without limit.
    ///
    /// It also bounds how long a load keeps its permit of
    /// [`max_concurrent_loads`](Self::max_concurrent_loads), and how long a future that nobody polls can delay
    /// other callers. Loads that outlive it are counted in
    /// [`Stats::abandoned_loads`](crate::Stats::abandoned_loads).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// let cache = hotset::LocalCache::<u64, u64>::builder()
    ///     .capacity(100)
    ///     .lease(Duration::from_secs(2))
    ///     .build()?;
    /// # Ok::<(), hotset::BuildError>(())
    /// ```
    pub fn lease(mut self, lease: Duration) -> Self {
        self.settings.lease = lease;
        self
    }

    /// Sets how long a caller waits for another caller's load, for a permit, or for its own load in a task of
    /// `detached` (feature `tokio`), before it gets [`WaitTimeout`](crate::LoadError::WaitTimeout), or an expired
    /// value within [`stale_if_error`](Self::stale_if_error). Above zero. Default: without limit.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// let cache = hotset::LocalCache::<u64, u64>::builder()
    ///     .capacity(100)
    ///     .wait_timeout(Duration::from_millis(500))
    ///     .build()?;
    /// # Ok::<(), hotset::BuildError>(())
    /// ```
    pub fn wait_timeout(mut self, timeout: Duration) -> Self {
        self.settings.wait_timeout = Some(timeout);
        self
    }

    /// Bounds the number of loaders of this cache that run at one time, over all keys: a bulkhead for the database
    /// behind the cache. Further loads wait in order, up to the [`wait_timeout`](Self::wait_timeout). At least 1.
    /// Default: no bound.
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
    /// loader that waits for a *spawned* load of the same cache holds its permit meanwhile; if that was the last one,
    /// the spawned load begins once the lease is over. A batch of
    /// [`get_many_or_load`](crate::LocalCache::get_many_or_load) is one load. Refreshes of
    /// [`refresh_after`](Self::refresh_after) and [`early_refresh`](Self::early_refresh) do not wait for a permit: they
    /// are postponed.
    ///
    /// # Examples
    ///
    /// ```
    /// let cache = hotset::LocalCache::<u64, u64>::builder().capacity(100).max_concurrent_loads(8).build()?;
    /// # Ok::<(), hotset::BuildError>(())
    /// ```
    #[doc(alias = "bulkhead")]
    pub fn max_concurrent_loads(mut self, loads: usize) -> Self {
        self.settings.max_concurrent_loads = Some(loads);
        self
    }

    /// Sets the age at which a live entry is loaded again. Above zero and below [`time_to_live`](Self::time_to_live).
    /// Default: never.
    ///
    /// The age counts from the begin of the load, or from the insertion. After a load that takes longer than `age`, the
    /// next one begins no sooner than after as much time again.
    ///
    /// The entry is served meanwhile. The first `get_or_load` that finds it due runs its loader. A thread and a plain
    /// [`get_or_load_async`](crate::LocalCache::get_or_load_async) wait for their own refresh, and all others get the
    /// current value at once. With `detached` (feature `tokio`) the refresh runs in its own task, so nobody waits. If
    /// it fails, the current value is returned, and the next attempt begins one second later at the earliest. A write
    /// to the key during the refresh prevails, as over every load.
    ///
    /// Over Redis, the age counts across processes, and of all processes one refreshes a key at a time. The new value
    /// replaces the old one in Redis. Other processes get it when their own copy is due.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// let cache = hotset::LocalCache::<u64, u64>::builder()
    ///     .capacity(100)
    ///     .time_to_live(Duration::from_secs(300))
    ///     .refresh_after(Duration::from_secs(240))
    ///     .build()?;
    /// # Ok::<(), hotset::BuildError>(())
    /// ```
    #[doc(alias("refreshAfterWrite", "stale_while_revalidate", "refresh_after_write"))]
    pub fn refresh_after(mut self, age: Duration) -> Self {
        self.settings.refresh_after = Some(age);
        self
    }

    /// Refreshes popular entries before they expire, at random. `beta` is a finite number above 0, and 1.0 is the
    /// optimum of the paper. Default: off.
    ///
    /// This is `XFetch` (Vattani, Chierichetti, Lowenstein, VLDB 2015). The closer the deadline, in units of the time
    /// that the load of the entry took, the more probable is a refresh at each hit. So popular entries rarely expire,
    /// and entries that were stored together are not all refreshed together. A greater `beta` refreshes earlier. The
    /// refresh itself is that of [`refresh_after`](Self::refresh_after).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// let cache = hotset::LocalCache::<u64, u64>::builder()
    ///     .capacity(100)
    ///     .time_to_live(Duration::from_secs(300))
    ///     .early_refresh(1.0)
    ///     .build()?;
    /// # Ok::<(), hotset::BuildError>(())
    /// ```
    #[doc(alias = "xfetch")]
    pub fn early_refresh(mut self, beta: f64) -> Self {
        self.settings.early_refresh = Some(beta);
        self
    }

    /// Lets `get_or_load` return a value that expired no longer than `max` ago, if a load fails or a caller has waited
    /// for too long. Above zero. Default: the error is returned.
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
    /// Entries are kept that much longer, as far as there is room, and [`len`](crate::LocalCache::len) counts them.
    /// `get` does not return them. A value that was removed or invalidated is never served.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// let cache = hotset::LocalCache::<u64, u64>::builder()
    ///     .capacity(100)
    ///     .time_to_live(Duration::from_secs(60))
    ///     .stale_if_error(Duration::from_secs(600))
    ///     .build()?;
    /// # Ok::<(), hotset::BuildError>(())
    /// ```
    pub fn stale_if_error(mut self, max: Duration) -> Self {
        self.settings.stale_if_error = Some(max);
        self
    }

    /// Sets how long a caller waits before it is given an expired value. Above zero. Requires
    /// [`stale_if_error`](Self::stale_if_error). Default: it waits as long as the
    /// [`wait_timeout`](Self::wait_timeout) allows.
    ///
    /// The load continues and stores its value. If there is no expired value, the caller waits on. The table at
    /// `stale_if_error` says which callers this concerns: those that wait, and those of `detached`. This is the soft
    /// timeout of `FusionCache`.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// let cache = hotset::LocalCache::<u64, u64>::builder()
    ///     .capacity(100)
    ///     .time_to_live(Duration::from_secs(60))
    ///     .stale_if_error(Duration::from_secs(600))
    ///     .stale_if_slow(Duration::from_millis(100))
    ///     .build()?;
    /// # Ok::<(), hotset::BuildError>(())
    /// ```
    pub fn stale_if_slow(mut self, after: Duration) -> Self {
        self.settings.stale_if_slow = Some(after);
        self
    }
}
