//! Loads: their permits, and the storage of loaded values in L2 and L1.

use crate::clock::{precise_now, saturating_nanos};
use crate::entry::Loaded;
use crate::error::{AnyError, LoadError};
use crate::single_flight::future::TaskTimer;
use crate::single_flight::{Permit, run_within};
use crate::stats::timer::{CountOperation, OperationTimer, Outcome};
use crate::tiered::health::{TierCounters, count};
use crate::tiered::l2::envelope::{EnvelopeContents, Unstorable};
use crate::tiered::l2::remote::{Fill, Head, write_number};
use crate::tiered::load_lease::LoadLease;
use crate::tiered::{Inner, RemoteKey, RemoteValue, key_of};
use crate::trace::Span;
use crate::traits::erasure::LoadResult;
use std::future::Future;
use std::time::{Duration, Instant};
use tokio::task::coop::consume_budget;

/// A value from L2, from a loader or from a writer, before it is stored in L1.
pub(super) struct Fetched<V> {
    pub(super) loaded: Loaded<V>,
    /// The time at which the value was current, or an earlier one.
    current_at: Instant,
    /// The time at which the value's time to live began, or an earlier one.
    ttl_from: Instant,
    /// `false` if no cache stores the value: its time to live was set to zero, its key was invalidated during the load,
    /// or another process has taken the load over.
    is_cached: bool,
}

impl<V> Fetched<V> {
    /// Creates one from a value that a writer had at this time.
    pub(super) fn written(loaded: Loaded<V>, at: Instant) -> Self {
        Self {
            is_cached: loaded.ttl != Some(Duration::ZERO),
            ..Self::found(loaded, at)
        }
    }

    /// Creates one from a value that L2 was asked for at this time. Its time to live is what remains of it. That may be
    /// zero, because L2 counts whole milliseconds.
    pub(super) fn found(loaded: Loaded<V>, asked: Instant) -> Self {
        Self {
            loaded,
            current_at: asked,
            ttl_from: asked,
            is_cached: true,
        }
    }

    /// Returns the same for a value that was current at an earlier time, if there is one.
    pub(super) fn since(mut self, current_at: Option<Instant>) -> Self {
        if let Some(current_at) = current_at {
            // The age of the value is that at the time of the reply. `for_l1` adds the time since `current_at`.
            let before = self.current_at.saturating_duration_since(current_at);
            self.loaded.age = self.loaded.age.saturating_sub(saturating_nanos(before));
            self.current_at = self.current_at.min(current_at);
        }
        self
    }

    /// Creates one from a value whose load began at this time and has just ended.
    pub(super) fn loaded(mut loaded: Loaded<V>, begun: Instant) -> Self {
        loaded.load_time = saturating_nanos(begun.elapsed());
        Self {
            ttl_from: Instant::now(),
            ..Self::written(loaded, begun)
        }
    }

    /// Keeps the value out of L1, because its key was changed during the load.
    pub(super) fn outdate(&mut self) {
        self.is_cached = false;
    }
}

/// The time to live of a value in L1.
enum L1Ttl {
    /// L1 does not store the value.
    NotStored,
    /// The value has expired on its way to L1. L1 stores it nevertheless, in place of an older value that may be served
    /// if a later load fails.
    Expired,
    Left(Duration),
}

impl L1Ttl {
    /// The shortest time to live that L1 stores. A value with a time to live of zero is not stored.
    const SHORTEST: Duration = Duration::from_nanos(1);

    /// Returns the time to live in the form that L1 accepts.
    fn duration(&self) -> Duration {
        match self {
            Self::NotStored => Duration::ZERO,
            Self::Expired => Self::SHORTEST,
            Self::Left(left) => *left,
        }
    }
}

/// Counts the run of a loader. A run that did not end has failed.
impl CountOperation for TierCounters {
    fn count_operation(&self, elapsed: Duration, outcome: Outcome) {
        self.load_times.count(elapsed);
        if outcome != Outcome::Succeeded {
            count(&self.load_failures);
        }
    }
}

/// The result of encoding a value for L2.
pub(super) enum Encoded {
    /// The envelope of the value.
    Ready(Vec<u8>),
    /// Its time to live is zero, so no cache stores it.
    Expired,
    /// L2 cannot take it. L1 may still keep it.
    Unstorable,
}

/// The permit of a load. It is empty for a load that runs within another load, which has one.
pub(super) struct LoadPermit(Option<Permit>);

impl<K: RemoteKey, V: RemoteValue> Inner<K, V> {
    /// Returns a permit if one is free.
    pub(super) fn try_permit(&self) -> Option<LoadPermit> {
        if self.bulkhead.is_entered() {
            return Some(LoadPermit(None));
        }
        let permit = self.bulkhead.try_acquire()?;
        Some(LoadPermit(Some(permit)))
    }

    /// Waits for a permit.
    pub(super) async fn wait_for_permit(
        &self,
        deadline: Option<Instant>,
    ) -> Result<LoadPermit, LoadError<AnyError>> {
        count(&self.counters.queued_loads);
        let mut timer = TaskTimer::default();
        match self.bulkhead.acquire(deadline, &mut timer, || ()).await {
            Ok(permit) => Ok(LoadPermit(Some(permit))),
            Err(_) => Err(LoadError::WaitTimeout),
        }
    }

    /// Runs a loader, and counts it.
    pub(super) async fn run<T, F>(
        &self,
        LoadPermit(permit): LoadPermit,
        load: impl FnOnce() -> F,
    ) -> Result<T, LoadError<AnyError>>
    where
        F: Future<Output = Result<T, LoadError<AnyError>>>,
    {
        // Without this, a loop around the call would keep the runtime's thread for itself, if L2 is not asked and the
        // loader has its value at once.
        consume_budget().await;
        count(&self.counters.loads);
        let timer = OperationTimer::new(&self.counters, precise_now());
        let span = Span::load(self.l1.name());
        let enter = || (permit.as_ref().map(Permit::enter), span.enter());
        let result = run_within(enter, load).await;
        timer.stop(result.is_ok());
        result
    }

    /// Runs a loader, and stores its result in L2 under `lease`, if there is one.
    pub(super) async fn load_and_fill<F>(
        &self,
        key: &K,
        permit: LoadPermit,
        lease: Option<LoadLease<K, V>>,
        load: impl FnOnce() -> F,
    ) -> Result<Fetched<V>, LoadError<AnyError>>
    where
        F: Future<Output = LoadResult<V>>,
    {
        let begun = Instant::now();
        let mut loaded = self.run(permit, load).await?;
        self.l1.apply_expire_after(key, &mut loaded);
        let mut fetched = [Fetched::loaded(loaded, begun)];
        self.fill(vec![(lease, 0)], &mut fetched).await;
        let [fetched] = fetched;
        Ok(fetched)
    }

    /// Stores loaded values in L2. Each lease comes with the position of its value in `fetched`. A value whose lease
    /// has ended, or whose key was invalidated, is stored neither in L2 nor in L1.
    pub(super) async fn fill(
        &self,
        loads: Vec<(Option<LoadLease<K, V>>, usize)>,
        fetched: &mut [Fetched<V>],
    ) {
        let (mut leases, mut envelopes) = (Vec::new(), Vec::new());
        for (lease, place) in loads {
            let Some(lease) = lease else {
                count(&self.counters.unleased_values);
                continue;
            };
            let loaded = &fetched[place].loaded;
            // If L2 does not store the value, the lease is dropped here, which releases it. L1 may store the value.
            if let Encoded::Ready(envelope) = self.encode(lease.head(), lease.key(), loaded) {
                envelopes.push((envelope, loaded.ttl.or(self.settings.ttl)));
                leases.push((lease, place));
            }
        }
        if leases.is_empty() {
            return;
        }
        let fills = leases.iter().zip(&envelopes);
        let fills = fills.map(|((lease, _), (envelope, ttl))| {
            let fill = Fill {
                key: lease.key(),
                token: lease.token(),
                envelope,
                ttl: *ttl,
            };
            (lease.partition(), fill)
        });
        let filled = self.partitions.fill(&fills.collect::<Vec<_>>()).await;
        for ((lease, place), filled) in leases.into_iter().zip(filled) {
            match filled {
                Ok(Some(true)) => {
                    fetched[place].loaded.write = write_number(&lease.head().token);
                    lease.close();
                    count(&self.counters.fills);
                }
                Ok(Some(false)) => {
                    lease.close();
                    fetched[place].outdate();
                    count(&self.counters.lost_fills);
                }
                Ok(None) => count(&self.counters.unstorable),
                // The lease stays open and is released, like that of a value that was refused. L1 may store the value,
                // because it receives invalidations itself.
                Err(_) => {}
            }
        }
    }

    /// Encodes a value for L2, under the key of this name.
    pub(super) fn encode(&self, head: Head, name: &[u8], loaded: &Loaded<V>) -> Encoded {
        let ttl = loaded.ttl.or(self.settings.ttl);
        if ttl.is_some_and(|ttl| ttl.is_zero()) {
            return Encoded::Expired;
        }
        let Some(key) = key_of(name) else {
            return Encoded::Unstorable;
        };
        let contents = EnvelopeContents {
            key: &key,
            value: &loaded.value,
            tags: &loaded.tags,
            ttl,
            load_time: loaded.load_time,
        };
        let envelope = self.codec.encode(head, &contents).and_then(|envelope| {
            let fits = envelope.len() <= self.partition_of(name).l2.max_value_size();
            fits.then_some(envelope).ok_or(Unstorable::TooLarge)
        });
        match envelope {
            Ok(envelope) => Encoded::Ready(envelope),
            Err(why) => {
                self.note_unstorable(why);
                Encoded::Unstorable
            }
        }
    }

    /// Returns the value for L1, with its time to live and its age there.
    pub(super) fn for_l1(&self, fetched: Fetched<V>) -> Loaded<V> {
        let ttl = self.l1_ttl(&fetched).duration();
        let mut loaded = fetched.loaded.ttl(ttl);
        let since = saturating_nanos(fetched.current_at.elapsed());
        loaded.age = loaded.age.saturating_add(since);
        loaded
    }

    /// Returns the time to live of a value in L1.
    fn l1_ttl(&self, fetched: &Fetched<V>) -> L1Ttl {
        if !fetched.is_cached {
            return L1Ttl::NotStored;
        }
        let ttl = fetched.loaded.ttl.or(self.settings.ttl);
        let ttl = ttl.unwrap_or(Duration::MAX);
        let (current_at, ttl_from) = (fetched.current_at, fetched.ttl_from);
        match self.settings.l1_ttl(ttl, current_at, ttl_from) {
            Some(left) if !left.is_zero() => L1Ttl::Left(left),
            Some(_) if self.l1.serves_stale() => L1Ttl::Expired,
            Some(_) | None => L1Ttl::NotStored,
        }
    }
}
