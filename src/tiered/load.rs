//! A load for all processes, or for this one: its permit, and what becomes of the value.

use super::codec::{Storing, Unstorable};
use super::fetch::TimedOut;
use super::health::{TierCounters, count};
use super::lease::Granted;
use super::remote::{Fill, Head};
use super::{Inner, TierKey, TierValue, key_of};
use crate::clock::saturating_nanos;
use crate::entry::Loaded;
use crate::error::AnyError;
use crate::flight::future::TaskAlarm;
use crate::flight::{Permit, run_within};
use crate::trace::Span;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The shortest time to live of a value that is cached. A time to live of zero means that the value is not.
pub(super) const SHORTEST_TTL: Duration = Duration::from_nanos(1);

pub(super) type LoadResult<V> = Result<Loaded<V>, Arc<AnyError>>;

/// A value from L2 or from a loader, on its way to L1.
pub(super) struct Fresh<V> {
    pub(super) loaded: Loaded<V>,
    /// It was true then, or later.
    read: Instant,
    /// Its time to live began then, or later.
    stored: Instant,
    /// Its key was invalidated, or another process took over: nobody keeps it.
    lost: bool,
}

impl<V> Fresh<V> {
    /// L2 was asked for it then.
    pub(super) fn read(loaded: Loaded<V>, asked: Instant) -> Self {
        Self {
            loaded,
            read: asked,
            stored: asked,
            lost: false,
        }
    }

    /// Its load began then, and has just ended.
    pub(super) fn loaded(loaded: Loaded<V>, begun: Instant) -> Self {
        Self {
            stored: Instant::now(),
            ..Self::read(loaded, begun)
        }
    }
}

/// Counts a run of a loader, as failed unless it is told otherwise: also if it panics or is cancelled.
struct Running<'a> {
    counters: &'a TierCounters,
    begun: Instant,
    failed: bool,
}

impl<'a> Running<'a> {
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

/// A value on its way to L2.
pub(super) enum Sealed {
    Ready(Vec<u8>),
    /// It has no time to live.
    Expired,
    /// L2 cannot take it. L1 may keep it all the same.
    Unstorable,
}

/// The right to load, if one is needed: who loads within a load has it.
pub(super) struct MayLoad(Option<Permit>);

impl<K: TierKey, V: TierValue> Inner<K, V> {
    /// The right to load, if there is no need to wait for it.
    pub(super) fn try_permit(&self) -> Option<MayLoad> {
        if self.bulkhead.is_passed() {
            return Some(MayLoad(None));
        }
        let permit = self.bulkhead.try_pass()?;
        Some(MayLoad(Some(permit)))
    }

    /// Waits for the right to load.
    pub(super) async fn queue(&self, deadline: Option<Instant>) -> Result<MayLoad, Arc<AnyError>> {
        count(&self.counters.queued_loads);
        let mut alarm = TaskAlarm::default();
        match self.bulkhead.pass(deadline, &mut alarm, || ()).await {
            Ok(permit) => Ok(MayLoad(Some(permit))),
            Err(_) => Err(Arc::new(TimedOut)),
        }
    }

    /// Runs a loader.
    pub(super) async fn run<T, F>(
        &self,
        MayLoad(permit): MayLoad,
        load: impl FnOnce() -> F,
    ) -> Result<T, Arc<AnyError>>
    where
        F: Future<Output = Result<T, Arc<AnyError>>>,
    {
        let mut running = Running::start(&self.counters);
        let span = Span::load(self.l1.name());
        let enter = || (permit.as_ref().map(Permit::enter), span.enter());
        let result = run_within(enter, load, |result| result).await;
        running.failed = result.is_err();
        result
    }

    /// Stores in L2 what was loaded with the lead, by its place among `fresh`. What that comes too late
    /// for is lost.
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
            // If it is not for L2, the lease is given back as it is dropped. L1 may keep the value.
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
        // A failure leaves the leases open, to be given back. L1 may keep the value: it hears of
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
                // The lease stays open, as if all had failed.
                None => count(&self.counters.unstorable),
            }
        }
    }

    /// Encodes a value that is to be stored in L2 under the key of this name.
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
