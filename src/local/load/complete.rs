//! The end of a load: its result is stored and passed to the waiters, or an expired value serves in its place.

use crate::clock::Nanos;
use crate::entry::Loaded;
use crate::error::{AnyError, LoadError};
use crate::local::insert::PlainLoad;
use crate::local::load::load_timer::LoadTimer;
use crate::local::shard::Shard;
use crate::local::{Insertions, KeyLocation, LocalCache};
use crate::single_flight::{Leader, Outcome};
use crate::stats::Count;
use crate::sync::thread_slot::ThreadSlot;
use equivalent::Equivalent;
use std::hash::{BuildHasher, Hash};
use std::mem::forget;

impl<K, V, S> LocalCache<K, V, S>
where
    K: Eq + Hash + Clone,
    V: Clone,
    S: BuildHasher,
{
    /// Returns the result of a call from the outcome of another caller's load, and counts the call.
    pub(crate) fn take_outcome<Q>(
        &self,
        key: &Q,
        outcome: Outcome<V>,
    ) -> Result<V, LoadError<AnyError>>
    where
        Q: Hash + Equivalent<K> + ?Sized,
    {
        let result = match outcome {
            Outcome::Stale(value) => {
                self.count_stale(key);
                return Ok(value);
            }
            Outcome::Value(value) => Ok(value),
            Outcome::Failed(error) => Err(error),
            Outcome::Absent => unreachable!("handled by the callers of this function"),
        };
        self.inner.counters.count(Count::Coalesced);
        result
    }

    fn count_stale<Q>(&self, key: &Q)
    where
        Q: Hash + Equivalent<K> + ?Sized,
    {
        self.inner.counters.count(Count::Stale);
        self.count_served(ThreadSlot::current(), key);
    }

    /// Looks up a key again for its leader, because a value may have been stored since the leader's first lookup.
    pub(crate) fn look_up_again<Q>(
        &self,
        location: &KeyLocation<'_, K, V>,
        key: &Q,
        leader: &Leader<'_, K, V>,
    ) -> Option<Outcome<V>>
    where
        Q: Hash + Equivalent<K> + ?Sized,
    {
        // The value that is found here may be invalidated meanwhile. Callers that come after the invalidation then do
        // not get this value, but look up the key themselves.
        leader.outdate(leader.epoch + 1);
        let live = self.peek_at(location, key, |value, _| value.clone());
        let found = live.map(Outcome::Value);
        found.or_else(|| self.stale(location, key))
    }

    /// Stops the timer of a load. Returns the run time of the load, or 0 if no entry needs it.
    #[inline(always)]
    pub(crate) fn stop_timer(&self, load_timer: LoadTimer<'_>, succeeded: bool) -> Nanos {
        if self.needs_load_times() {
            return load_timer.stop(succeeded);
        }
        load_timer.stop_sampled(succeeded);
        0
    }

    /// Checks whether an entry needs the run time of its load, for its age or for refreshes.
    fn needs_load_times(&self) -> bool {
        self.inner.insertions != Insertions::Plain || self.inner.settings.tracks_ages
    }

    /// Stores the result of a load on the short path of insertions, if that is possible, and passes it to the waiters.
    #[inline(always)]
    pub(in crate::local) fn complete_load(
        &self,
        location: &KeyLocation<'_, K, V>,
        key: K,
        leader: &mut Leader<'_, K, V>,
        loaded: Loaded<V>,
        load_time: Nanos,
    ) -> V {
        // The value is cloned once on either path.
        if loaded.tags.capacity() > 0 || !self.may_insert_plain() {
            return self.complete(location, key, leader, loaded, load_time);
        }
        let Loaded {
            value, ttl, tags, ..
        } = loaded;
        // It owns no memory. A call of its destructor would take 18 instructions.
        forget(tags);
        let returned = value.clone();
        let load = PlainLoad {
            leader,
            age: load_time.max(loaded.age),
        };
        match self.insert_plain(location, key, value, ttl, Some(load)) {
            Ok(replaced) => {
                leader.finish(|| Outcome::Value(returned.clone()));
                drop(replaced);
                returned
            }
            Err((key, value)) => {
                drop(returned);
                let tags = Vec::new();
                let loaded = Loaded {
                    value,
                    tags,
                    ..loaded
                };
                self.complete(location, key, leader, loaded, load_time)
            }
        }
    }

    /// Stores the result of a load, and passes it to the waiters.
    #[inline(never)]
    pub(crate) fn complete(
        &self,
        location: &KeyLocation<'_, K, V>,
        key: K,
        leader: &mut Leader<'_, K, V>,
        loaded: Loaded<V>,
        load_time: Nanos,
    ) -> V {
        let value = loaded.value.clone();
        if !loaded.tags.is_empty() || self.inner.settings.is_l1 {
            // The value may be invalidated meanwhile, perhaps by one of its tags. Callers that come after the
            // invalidation then do not get this value, but look up the key themselves.
            leader.outdate(leader.epoch + 1);
        }
        let provenance = self.provenance(&loaded, leader.epoch, load_time);
        let mut removals = self.removals();
        // The weigher and the rule of `expire_after` run before the load is over. If they load its key, that is
        // recursive.
        let settings = &self.inner.settings;
        let calls_user = settings.weigher.is_some() || settings.expire_after.is_some();
        let entered = calls_user.then(|| leader.enter(None));
        let (leading, out) = (Some(&mut *leader), &mut removals);
        // The callers get the value even if it is outdated and was not stored.
        let _ = self.store(location, key, loaded, provenance, leading, out);
        drop(entered);
        leader.finish(|| Outcome::Value(value.clone()));
        removals.finish();
        value
    }

    /// Ends a load that has failed. Its callers get an expired value, if one may serve, or the error.
    #[cold]
    #[inline(never)]
    pub(crate) fn complete_failed<Q>(
        &self,
        location: &KeyLocation<'_, K, V>,
        key: &Q,
        leader: &mut Leader<'_, K, V>,
        error: LoadError<AnyError>,
    ) -> Result<V, LoadError<AnyError>>
    where
        Q: Hash + Equivalent<K> + ?Sized,
    {
        // This comes before anything is read: see `look_up_again`.
        leader.outdate(leader.epoch + 1);
        if self.inner.has_refresh_rules {
            let now = self.inner.settings.clock.now();
            let record = |shard: &Shard<K, V>| shard.load_failed(location.hash, key, now);
            location.cell.shard.read(record);
        }
        if let Some(outcome) = self.stale(location, key) {
            if let Outcome::Stale(_) = outcome {
                self.count_stale(key);
            }
            leader.finish(|| outcome.clone());
            return match outcome {
                Outcome::Value(value) | Outcome::Stale(value) => Ok(value),
                Outcome::Failed(_) | Outcome::Absent => unreachable!("there is a value"),
            };
        }
        leader.finish(|| Outcome::Failed(error.clone()));
        Err(error)
    }
}
