//! Insertions into a full cache without optional settings: one lookup, one victim, one replacement in place.

use crate::clock::{NEVER, Nanos};
use crate::local::removal::RemovalCause;
use crate::local::shard::Shard;
use crate::local::shard::entry::MovedEntries;
use crate::local::shard::hash::{KeyHash, StoredHash};
use crate::policy::EvictionPolicy;
use crate::storage::slot_table::{Probe, Vacancy};
use crate::storage::work_slice::WorkSlice;
use equivalent::Equivalent;
use std::mem::replace;

/// The lookup of the key of a plain insertion.
pub(crate) struct PlainLookup {
    hash: KeyHash,
    place: Place,
}

/// The place of a new entry.
enum Place {
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
    pub(crate) fn look_up_plain<Q>(&self, hash: KeyHash, key: &Q, now: Nanos) -> Option<PlainLookup>
    where
        Q: Equivalent<K> + ?Sized,
    {
        // Entries may have deadlines of their own in a cache that needs no time.
        let needs_time = now == 0 && self.expiry.soonest() != NEVER;
        if self.metadata.is_some() || self.is_growing || needs_time || self.expiry.is_due(now) {
            return None;
        }
        let found = self.index.current().probe(hash.cell(), |slot| {
            let entry = self.slab.get_moved(slot)?;
            key.equivalent(&entry.key).then_some(slot)
        });
        let place = match found {
            Probe::Found(slot) => Place::Present(slot),
            Probe::Vacant(vacancy) if !self.index.is_full() => Place::Vacant(vacancy),
            Probe::Vacant(_) | Probe::Far => return None,
        };
        Some(PlainLookup { hash, place })
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
        PlainLookup { hash, place }: PlainLookup,
        key: K,
        value: V,
        deadline: Nanos,
        now: Nanos,
    ) -> Result<(K, V), (K, V)> {
        let work = &mut WorkSlice::new();
        let new_hash = StoredHash::new(hash);
        let slot = if let Place::Present(slot) = place {
            self.policy.on_write(&self.slab, work);
            Some(slot)
        } else {
            let policy = &mut self.policy;
            policy.replace_victim(&MovedEntries(&self.slab), new_hash.bits(), work)
        };
        let entry = slot.and_then(|slot| Some((slot, self.slab.get_moved_mut(slot)?)));
        let Some((slot, entry)) = entry else {
            return Err((key, value));
        };
        let old = (
            replace(&mut entry.key, key),
            replace(&mut entry.value, value),
        );
        let was_expired = replace(entry.deadline.get_mut(), deadline) <= now;
        match place {
            Place::Present(_) => {
                self.policy.on_hit(slot, &entry.policy_state);
                self.count_plain(RemovalCause::Replaced, was_expired);
            }
            Place::Vacant(vacancy) => {
                let old_hash = replace(&mut entry.hash, new_hash);
                // The vacancy is used first, because the removal may move it. The slot is in the index twice meanwhile.
                // The removal finds its former place, because the new one is not far from its home.
                self.index.current_mut().insert_at(vacancy, slot);
                self.remove_from_index(old_hash, slot);
                self.count_plain(RemovalCause::Evicted, was_expired);
            }
        }
        self.expiry.set(slot, deadline);
        self.write_read_time(slot, 0, now);
        self.inserts += 1;
        Ok(old)
    }

    /// Counts a removal by its cause, or as that of an expired entry.
    #[inline(always)]
    fn count_plain(&mut self, cause: RemovalCause, was_expired: bool) {
        let cause = if was_expired {
            RemovalCause::Expired
        } else {
            cause
        };
        // Evictions are not counted, so that a write touches one cache line less.
        if cause != RemovalCause::Evicted {
            self.removals[cause as usize] += 1;
        }
    }
}
