//! Loads for all processes or for this one: their permits, and where their values are stored.

use crate::clock::saturating_nanos;
use crate::entry::Loaded;
use crate::error::{AnyError, LoadError};
use crate::single_flight::future::TaskTimer;
use crate::single_flight::{Permit, run_within};
use crate::tiered::health::{TierCounters, count};
use crate::tiered::l2::envelope::{Storing, Unstorable};
use crate::tiered::l2::remote::{Fill, Head};
use crate::tiered::load_lease::Granted;
use crate::tiered::{Inner, RemoteKey, RemoteValue, key_of};
use crate::trace::Span;
use std::future::Future;
use std::time::{Duration, Instant};

/// The shortest time to live of a value that is cached. A time to live of zero means that the value is not.
pub(super) const SHORTEST_TTL: Duration = Duration::from_nanos(1);

/// A value from L2 or from a loader, on its way to L1.
pub(super) struct Fresh<V> {
    pub(super) loaded: Loaded<V>,
    /// The time at which the value was current, or an earlier one.
    read: Instant,
    /// The time at which the value's time to live began, or an earlier one.
    stored: Instant,
    /// `true` if no cache keeps the value, because its key was invalidated or another process took the load over.
    lost: bool,
}

impl<V> Fresh<V> {
    /// Creates one from a value that L2 was asked for at this time.
    pub(super) fn read(loaded: Loaded<V>, asked: Instant) -> Self {
        Self {
            loaded,
            read: asked,
            stored: asked,
            lost: false,
        }
    }

    /// Creates one from a value whose load began at this time and has just ended.
    pub(super) fn loaded(loaded: Loaded<V>, begun: Instant) -> Self {
        Self {
            stored: Instant::now(),
            ..Self::read(loaded, begun)
        }
    }
}

/// A guard that counts one run of a loader when it is dropped. The run counts as failed unless `failed` is reset, so that
/// a panic or a cancellation counts as a failure.
struct Running<'a> {
    counters: &'a TierCounters,
    begun: Instant,
    failed: bool,
}

impl<'a> Running<'a> {
    /// Counts the start of a load.
    fn start(counters: &'a TierCounters) -> Self {
        count(&counters.loads);
        Self {
            counters,
            begun: Instant::now(),
            failed: true,
        }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.counters.load_times.count(self.begun.elapsed());
        if self.failed {
            count(&self.counters.load_failures);
        }
    }
}

/// The outcome of encoding a value for L2.
pub(super) enum Sealed {
    /// The envelope of the value.
    Ready(Vec<u8>),
    /// Its time to live is zero, so that no cache stores it.
    Expired,
    /// L2 cannot take it. L1 may still keep it.
    Unstorable,
}

/// The right to load: a permit, or none for a load that runs within another load and its permit.
pub(super) struct MayLoad(Option<Permit>);

impl<K: RemoteKey, V: RemoteValue> Inner<K, V> {
    /// Returns the right to load, if the caller needs no permit or one is free.
    pub(super) fn try_permit(&self) -> Option<MayLoad> {
        if self.bulkhead.is_entered() {
            return Some(MayLoad(None));
        }
        let permit = self.bulkhead.try_acquire()?;
        Some(MayLoad(Some(permit)))
    }

    /// Waits for the right to load.
    pub(super) async fn queue(
        &self,
        deadline: Option<Instant>,
    ) -> Result<MayLoad, LoadError<AnyError>> {
        count(&self.counters.queued_loads);
        let mut timer = TaskTimer::default();
        match self.bulkhead.acquire(deadline, &mut timer, || ()).await {
            Ok(permit) => Ok(MayLoad(Some(permit))),
            Err(_) => Err(LoadError::WaitTimeout),
        }
    }

    /// Runs a loader, and counts it.
    pub(super) async fn run<T, F>(
        &self,
        MayLoad(permit): MayLoad,
        load: impl FnOnce() -> F,
    ) -> Result<T, LoadError<AnyError>>
    where
        F: Future<Output = Result<T, LoadError<AnyError>>>,
    {
        let mut running = Running::start(&self.counters);
        let span = Span::load(self.l1.name());
        let enter = || (permit.as_ref().map(Permit::enter), span.enter());
        let result = run_within(enter, load, |result| result).await;
        running.failed = result.is_err();
        result
    }

    /// Stores loaded values in L2. Each lead comes with the position of its value in `fresh`. A value whose lease has
    /// ended, or whose key was invalidated, is not stored and is marked as lost.
    pub(super) async fn fill(
        &self,
        leads: Vec<(Option<Granted<K, V>>, usize)>,
        fresh: &mut [Fresh<V>],
    ) {
        let (mut leases, mut envelopes) = (Vec::new(), Vec::new());
        for (lead, place) in leads {
            let Some((lease, head)) = lead else {
                count(&self.counters.alone);
                continue;
            };
            // If the value is not for L2, the lease is dropped here, which gives it back. L1 may keep the value.
            if let Sealed::Ready(envelope) = self.envelope(head, lease.key(), &fresh[place].loaded)
            {
                envelopes.push((envelope, fresh[place].loaded.ttl.or(self.settings.ttl)));
                leases.push((lease, place));
            }
        }
        if leases.is_empty() {
            return;
        }
        let fills = leases.iter().zip(&envelopes);
        let fills = fills.map(|((lease, _), (envelope, ttl))| Fill {
            key: lease.key(),
            token: lease.token(),
            envelope,
            ttl: *ttl,
        });
        let filled = self.l2.fill(&fills.collect::<Vec<_>>()).await;
        // After a failure the leases stay open, and are given back. L1 may keep the values, because it receives
        // invalidations itself.
        let Ok(filled) = filled else { return };
        for ((lease, place), filled) in leases.into_iter().zip(filled) {
            match filled {
                Some(true) => {
                    lease.close();
                    count(&self.counters.fills);
                }
                Some(false) => {
                    lease.close();
                    fresh[place].lost = true;
                    count(&self.counters.lost_fills);
                }
                // The lease stays open and is given back, like after a failure of the whole call.
                None => count(&self.counters.unstorable),
            }
        }
    }

    /// Encodes a value for L2, under the key of this name.
    pub(super) fn envelope(&self, head: Head, name: &[u8], loaded: &Loaded<V>) -> Sealed {
        let ttl = loaded.ttl.or(self.settings.ttl);
        if ttl.is_some_and(|ttl| ttl.is_zero()) {
            return Sealed::Expired;
        }
        let Some(key) = key_of(name) else {
            return Sealed::Unstorable;
        };
        let storing = Storing {
            key: &key,
            value: &loaded.value,
            tags: &loaded.tags,
            ttl,
        };
        let envelope = self.codec.encode(head, &storing).and_then(|envelope| {
            let fits = envelope.len() <= self.l2.max_value_size();
            fits.then_some(envelope).ok_or(Unstorable::TooLarge)
        });
        match envelope {
            Ok(envelope) => Sealed::Ready(envelope),
            Err(why) => {
                self.note_unstorable(why);
                Sealed::Unstorable
            }
        }
    }

    /// Returns the value as it goes to L1. Its time to live is zero if L1 does not keep it.
    pub(super) fn local(&self, fresh: Fresh<V>) -> Loaded<V> {
        let ttl = self.ttl_in_l1(&fresh).unwrap_or(Duration::ZERO);
        let mut loaded = fresh.loaded.ttl(ttl);
        let since = saturating_nanos(fresh.read.elapsed());
        loaded.age = loaded.age.saturating_add(since);
        loaded
    }

    /// Returns the time to live of a value in L1, or `None` if L1 does not keep it.
    fn ttl_in_l1(&self, fresh: &Fresh<V>) -> Option<Duration> {
        if fresh.lost {
            return None;
        }
        let ttl = fresh.loaded.ttl.or(self.settings.ttl);
        let ttl = ttl.unwrap_or(Duration::MAX);
        let left = self.settings.local_ttl(ttl, fresh.read, fresh.stored)?;
        // A value that has expired on its way still replaces an older one, which might be served where a later load
        // fails.
        let is_kept = !left.is_zero() || self.l1.serves_stale();
        is_kept.then(|| left.max(SHORTEST_TTL))
    }
}
