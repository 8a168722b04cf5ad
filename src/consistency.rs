//! What readers may see after a change.

use std::time::Duration;

/// What a reader may see after a change was *acknowledged*: after [`invalidate`], [`write_through`] or
/// another write has returned [`Delivery::Acknowledged`].
///
/// All processes of a namespace must be given the same, and the same
/// [`heartbeat`](crate::TieredBuilder::heartbeat).
///
/// | | the writer's process | other processes | while Redis is unreachable |
/// | --- | --- | --- | --- |
/// | `Realtime` | the new value | the new value | the new value, from the loader |
/// | `Bounded(ttl)` | the new value | the new value, mostly within milliseconds; an old one for `ttl` at most | as before |
/// | `L2Only` | the new value | the new value | the new value, from the loader |
/// | `L1Only` | the new value | as `Bounded`, with the entry's time to live for `ttl` | as before |
///
/// A change that is *queued* ([`Delivery::Queued`]), since Redis was unreachable, is seen in the
/// writer's process at once. Others see it when it has gone out, or when their L1 and Redis have let
/// the old value go by its time to live. A process that dies with invalidations in its queue takes
/// them along.
///
/// With [`stale_if_error`](crate::Builder::stale_if_error), an old value may be served in any class where the loader
/// fails, and to a caller that has waited for [`stale_if_slow`](crate::Builder::stale_if_slow) or for the wait timeout.
///
/// `Realtime` takes for granted that the clocks of processes and server run equally fast, to within two
/// percent, that nobody sets the server's clock forward, that machines with an L1 are not suspended, and
/// that a server which was restarted, or has taken over, has another replication id.
///
/// # Failover
///
/// A server that takes over may lack what the old one had confirmed, and the old one may go on to confirm
/// without knowing. The classes hold all the same. With sentinels and clusters, a primary is believed
/// while a majority of those who choose it says that it is the one; who cannot find out does not ask
/// Redis, and loads. Behind one address that may lead to another server some day nobody can be asked:
/// say how many replicas there are (see `TieredBuilder::replicas`). After a failover Redis is as if it
/// were empty.
///
/// [`invalidate`]: crate::TieredCache::invalidate
/// [`write_through`]: crate::TieredCache::write_through
/// Keys that cannot be encoded are each process's own, whatever the class ([`Delivery::LocalOnly`]).
///
/// [`Delivery::Acknowledged`]: crate::Delivery::Acknowledged
/// [`Delivery::LocalOnly`]: crate::Delivery::LocalOnly
/// [`Delivery::Queued`]: crate::Delivery::Queued
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Consistency {
    /// For prices and stock. L1 serves while it is proven that invalidations arrive, else Redis is
    /// asked, or the loader. A change is acknowledged once all processes have heard of it that might
    /// serve the old value; one that has died holds that up for two heartbeats at most. So does a
    /// namespace that is new, or that Redis has evicted: nobody knows who serves from it.
    Realtime,
    /// For profiles and logins. L1 serves what it holds, for this long at most after it was read.
    /// Invalidations arrive in milliseconds, as a rule.
    Bounded(Duration),
    /// Nothing is kept in L1: for values that are large, or seldom read twice by one process.
    L2Only,
    /// Nothing is kept in Redis, which only carries invalidations.
    L1Only,
}
