//! Insertions into a full cache without optional settings: one lookup, one victim, one replacement in place.

use crate::clock::{NEVER, Nanos};
use crate::local::removal::RemovalCause;
use crate::local::shard::Shard;
use crate::local::shard::entry::MovedEntries;
use crate::local::shard::hash::{KeyHash, StoredHash};
use crate::policy::EvictionPolicy;
use crate::storage::work_slice::WorkSlice;
use equivalent::Equivalent;
use std::mem::replace;

/// The lookup of the key of a plain insertion.
pub(crate) struct PlainLookup {
    hash: KeyHash,
    /// The slot of the key, if it has an entry.
    existing: Option<u32>,
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
        let is_match = |&slot: &u32| {
            let entry = self.slab.get_moved(slot);
            entry.is_some_and(|entry| key.equivalent(&entry.key))
        };
        let existing = self.index.current().find(hash.canonical(), is_match);
        Some(PlainLookup {
            hash,
            existing: existing.copied(),
        })
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
        PlainLookup { hash, existing }: PlainLookup,
        key: K,
        value: V,
        deadline: Nanos,
        age: Nanos,
        now: Nanos,
    ) -> Result<(K, V), (K, V)> {
        let work = &mut WorkSlice::new();
        let new_hash = StoredHash::new(hash);
        let slot = if existing.is_some() {
            self.policy.on_write(&self.slab, work);
            existing
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
        if existing.is_some() {
            self.policy.on_hit(slot, &entry.policy_state);
            self.count_plain(RemovalCause::Replaced, was_expired);
        } else {
            let old_hash = replace(&mut entry.hash, new_hash);
            self.remove_from_index(old_hash, slot);
            self.add_to_index(hash, slot);
            self.count_plain(RemovalCause::Evicted, was_expired);
        }
        self.expiry.set(slot, deadline);
        self.write_read_time(slot, age, now);
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
