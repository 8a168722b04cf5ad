//! Classes of consistency, and the extent to which a change has reached other processes.

#[cfg(any(feature = "redis", feature = "serde"))]
use std::time::Duration;

/// The values that a reader may see after an *acknowledged* change.
///
/// A change is acknowledged when [`invalidate`], [`write_through`] or another write has returned
/// [`Propagation::Acknowledged`] or [`Propagation::NotShared`]. All processes of a namespace need the same class, and
/// the same [`heartbeat`](crate::TieredCacheBuilder::heartbeat).
///
/// | | the writer's process | other processes | while Redis is unreachable |
/// | --- | --- | --- | --- |
/// | `Realtime` | the new value | the new value | the new value, from the loader |
/// | `Bounded(ttl)` | the new value | the new value, usually within milliseconds; an old one for at most `ttl` | the same |
/// | `L2Only` | the new value | the new value | the new value, from the loader |
/// | `L1Only` | the new value | like `Bounded`, with the entry's time to live for `ttl` | the same |
///
/// A change that is *queued* ([`Propagation::Queued`]), because Redis was unreachable, is seen in the writer's process
/// at once. Other processes see it once it has been sent, or once the old value has expired in their L1 and in Redis.
/// Invalidations that are queued in a process when it dies are lost.
///
/// Keys that cannot be encoded are cached by each process for itself, whatever the class ([`Propagation::LocalOnly`]).
///
/// With [`stale_if_error`](crate::LocalCacheBuilder::stale_if_error), an old value may be served in any class if the
/// loader fails, and to a caller that has waited for [`stale_if_slow`](crate::LocalCacheBuilder::stale_if_slow) or for
/// the wait timeout.
///
/// `Realtime` assumes that the clocks of processes and server run equally fast, to within two percent, that the
/// server's clock is not set forward, that machines with an L1 are not suspended, and that the replication id of a
/// server changes when it is restarted or takes over.
///
/// # Failover
///
/// A server that takes over may lack changes that the old one had confirmed, and the old one may continue to confirm
/// changes without knowing. The classes hold in spite of this. With sentinels and clusters, a primary is trusted while
/// a majority of the servers that elect it confirms it; a process that cannot reach a majority does not call Redis, and
/// runs its loaders instead. Behind a single address that may later lead to another server, this cannot be checked: set
/// the number of replicas (see `TieredCacheBuilder::replicas`). After a failover, Redis counts as empty.
///
/// [`invalidate`]: crate::TieredCache::invalidate
/// [`write_through`]: crate::TieredCache::write_through
/// [`Propagation::Acknowledged`]: crate::Propagation::Acknowledged
/// [`Propagation::LocalOnly`]: crate::Propagation::LocalOnly
/// [`Propagation::NotShared`]: crate::Propagation::NotShared
/// [`Propagation::Queued`]: crate::Propagation::Queued
///
/// # Examples
///
/// ```
/// use hotset::Consistency;
/// use std::time::Duration;
///
/// let prices = Consistency::Realtime;
/// let profiles = Consistency::Bounded(Duration::from_secs(5));
/// assert_ne!(prices, profiles);
/// ```
#[cfg(any(feature = "redis", feature = "serde"))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Consistency {
    /// The class for prices and stock. L1 serves values only while invalidations are proven to arrive; otherwise Redis
    /// or the loader is asked.
    ///
    /// A change is acknowledged once all processes that might serve the old value have received it. A process that has
    /// died delays this by at most two heartbeats, and so does a namespace that is new, or that Redis has evicted,
    /// because it is then unknown which processes serve values of it.
    Realtime,
    /// The class for profiles and logins. L1 serves a value for at most this time after it was read. Invalidations
    /// usually arrive within milliseconds.
    Bounded(Duration),
    /// The class without values in L1, for values that are large, or rarely read twice by one process.
    L2Only,
    /// The class without values in Redis, which only distributes invalidations.
    L1Only,
}

/// The extent to which a change has reached the other processes.
///
/// A [`LocalCache`](crate::LocalCache), which has no other processes, always returns
/// [`Acknowledged`](Self::Acknowledged) through the traits.
///
/// # Examples
///
/// ```
/// use hotset::{AsyncCache, LocalCache};
/// use std::sync::Arc;
///
/// # async fn store_price(id: u64, price: u64) -> std::io::Result<()> { Ok(()) }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> std::io::Result<()> {
/// let prices: Arc<dyn AsyncCache<u64, u64>> = Arc::new(LocalCache::new(1_000));
/// let propagation = prices.write_through(7, 800, |price| store_price(7, price)).await?;
/// if !propagation.is_acknowledged() {
///     println!("other processes may still serve the old price: {propagation:?}");
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Propagation {
    /// The change has reached all processes, to the extent that the [`Consistency`] class promises.
    Acknowledged,
    /// The old value is invalid in all processes, like with [`Acknowledged`](Self::Acknowledged), but Redis does not
    /// have the new value: it is too large, has too many tags or cannot be serialized, its key is too long, or it could
    /// not be transferred. This process stores it in L1, if the consistency class stores values there. Other processes
    /// load it.
    NotShared,
    /// Redis could not be reached. The change is visible in this process. The invalidation for the other processes is
    /// queued until Redis answers again.
    Queued,
    /// The change does not reach other processes, because the key cannot be encoded, is longer than 64 KiB, or decodes
    /// to another key. Each process has its own entry under such a key. With every consistency class, the entry stays
    /// in L1 until it is removed there or expires.
    LocalOnly,
}

impl Propagation {
    /// Returns `true` if no process serves the old value any more, to the extent that the
    /// [`Consistency`] class promises: for [`Acknowledged`](Self::Acknowledged) and
    /// [`NotShared`](Self::NotShared).
    ///
    /// # Examples
    ///
    /// ```
    /// use hotset::Propagation;
    ///
    /// assert!(Propagation::NotShared.is_acknowledged());
    /// assert!(!Propagation::Queued.is_acknowledged());
    /// ```
    #[must_use]
    pub const fn is_acknowledged(self) -> bool {
        matches!(self, Self::Acknowledged | Self::NotShared)
    }
}
