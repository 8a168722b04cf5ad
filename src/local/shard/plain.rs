//! Insertions into a full cache without optional settings: one lookup, one victim, one replacement in place.

use crate::clock::Nanos;
use crate::local::removal::RemovalCause;
use crate::local::shard::Shard;
use crate::local::shard::entry::{Entry, MovedEntries};
use crate::local::shard::hash::{KeyHash, StoredHash};
use crate::policy::EvictionPolicy;
use crate::storage::slot_table::{Probe, Vacancy};
use crate::storage::work_slice::WorkSlice;
use equivalent::Equivalent;
use std::mem::replace;

/// An entry to be stored without optional settings.
pub(crate) struct PlainEntry<K, V> {
    pub(crate) hash: KeyHash,
    pub(crate) key: K,
    pub(crate) value: V,
    pub(crate) deadline: Nanos,
    /// The time since the value was read from its source, in nanoseconds.
    pub(crate) age: Nanos,
}

/// The place of a new entry.
#[derive(Clone, Copy)]
pub(crate) enum Place {
    /// The slot of the present entry of the key.
    Present(u32),
    /// The place in the index for the slot of another entry, which has to be evicted.
    Vacant(Vacancy),
}

impl<K, V> Shard<K, V> {
    /// Looks up the key of a plain insertion. `now` is 0 if the cache needs no time. The caller has checked that the
    /// budget is used up.
    ///
    /// Returns `None` if the insertion needs more work than [`store_plain`](Self::store_plain) does.
    #[inline(always)]
    pub(crate) fn look_up_plain<Q>(&self, hash: KeyHash, key: &Q, now: Nanos) -> Option<Place>
    where
        Q: Equivalent<K> + ?Sized,
    {
        // Entries may have deadlines of their own in a cache that needs no time.
        let is_due = if now == 0 {
            self.expiry.has_deadlines()
        } else {
            self.expiry.is_due(now)
        };
        if is_due || self.metadata.is_some() || self.is_growing {
            return None;
        }
        let found = self.index.current().probe(hash.cell(), |slot| {
            let entry = self.slab.get_moved(slot)?;
            key.equivalent(&entry.key).then_some(slot)
        });
        match found {
            Probe::Found(slot) => Some(Place::Present(slot)),
            // A full index has room for one more slot until that of the victim is removed.
            Probe::Vacant(vacancy) => Some(Place::Vacant(vacancy)),
            Probe::Far => None,
        }
    }

    /// Stores an entry in place of the present one of its key, or of the policy's victim, and returns what it replaces.
    ///
    /// The effect is that of [`insert`](Self::insert), for a shard whose entries have no metadata.
    ///
    /// # Errors
    ///
    /// Returns the key and the value if there is no victim.
    #[inline(always)]
    pub(crate) fn store_plain(
        &mut self,
        place: Place,
        new: PlainEntry<K, V>,
        now: Nanos,
    ) -> Result<(K, V), (K, V)> {
        let work = &mut WorkSlice::new();
        let PlainEntry {
            hash,
            key,
            value,
            deadline,
            age,
        } = new;
        match place {
            Place::Present(slot) => {
                self.policy.on_write(&self.slab, work);
                let Some(entry) = self.slab.get_moved_mut(slot) else {
                    return Err((key, value));
                };
                self.policy.on_hit(slot, &entry.policy_state);
                let (old, was_expired) = entry.replace(key, value, deadline, now);
                self.finish_plain(slot, deadline, age, now);
                self.count_plain(RemovalCause::Replaced, was_expired);
                Ok(old)
            }
            Place::Vacant(vacancy) => {
                let hash = StoredHash::new(hash);
                let states = MovedEntries {
                    slab: &self.slab,
                    now: self.expiry.has_deadlines().then_some(now),
                };
                let victim = self.policy.replace_victim(&states, hash.bits(), work);
                let victim = victim.and_then(|slot| Some((slot, self.slab.get_moved_mut(slot)?)));
                let Some((slot, entry)) = victim else {
                    return Err((key, value));
                };
                let old_hash = replace(&mut entry.hash, hash);
                let (old, was_expired) = entry.replace(key, value, deadline, now);
                // The vacancy is used first, because the removal may move it. The slot is in the index twice meanwhile.
                // The removal finds its former place, because the new one is not far from its home.
                self.index.current_mut().insert_at(vacancy, slot);
                self.remove_from_index(old_hash, slot);
                self.finish_plain(slot, deadline, age, now);
                // Evictions are not counted, so that a write touches one cache line less.
                if was_expired {
                    self.count_plain(RemovalCause::Expired, true);
                }
                Ok(old)
            }
        }
    }

    /// Completes an insertion into a slot.
    #[inline(always)]
    fn finish_plain(&mut self, slot: u32, deadline: Nanos, age: Nanos, now: Nanos) {
        self.expiry.set(slot, deadline);
        self.write_read_time(slot, age, now);
        self.inserts += 1;
    }

    /// Counts a removal by its cause, or as that of an expired entry.
    #[inline(always)]
    fn count_plain(&mut self, cause: RemovalCause, was_expired: bool) {
        let cause = if was_expired {
            RemovalCause::Expired
        } else {
            cause
        };
        self.removals[cause as usize] += 1;
    }
}

impl<K, V> Entry<K, V> {
    /// Replaces the key, the value and the deadline. Returns the former key and value, and whether they had expired.
    #[inline(always)]
    fn replace(&mut self, key: K, value: V, deadline: Nanos, now: Nanos) -> ((K, V), bool) {
        let was_expired = replace(self.deadline.get_mut(), deadline) <= now;
        let old = (replace(&mut self.key, key), replace(&mut self.value, value));
        (old, was_expired)
    }
}
