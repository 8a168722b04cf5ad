//! The operations of a shard under its shared lock.

use crate::clock::{NEVER, Nanos, TimeSource};
use crate::local::load::refresh::RefreshTimes;
use crate::local::shard::Shard;
use crate::local::shard::entry::{Entry, EntrySettings};
use crate::local::shard::hash::KeyHash;
use crate::local::walk::{Listed, Span};
use crate::policy::EvictionPolicy;
use crate::storage::slot_table::Probe;
use crate::sync::prefetch::prefetch;
use equivalent::Equivalent;
use std::num::NonZero;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// The time of a hit.
#[derive(Clone, Copy)]
pub(crate) struct HitTime<'a> {
    /// The time, if it was read before the lookup, or 0 if it is to be read when it is needed.
    pub(crate) early: Nanos,
    pub(crate) clock: &'a TimeSource,
}

impl HitTime<'_> {
    /// Returns the time.
    #[inline]
    pub(crate) fn now(self) -> Nanos {
        match self.early {
            0 => self.clock.time_of_hit(),
            early => early,
        }
    }

    /// Checks whether a deadline has passed. Reads the clock if the time was not read early and there is a deadline.
    #[inline(always)]
    fn is_late_for(self, deadline: Nanos) -> bool {
        if self.early == 0 {
            deadline != NEVER && deadline <= self.clock.time_of_hit()
        } else {
            deadline <= self.early
        }
    }
}

impl<K, V> Shard<K, V> {
    /// Returns the entry of a key and its slot.
    #[inline(always)]
    pub(super) fn find<Q>(&self, hash: KeyHash, key: &Q) -> Option<(u32, &Entry<K, V>)>
    where
        Q: Equivalent<K> + ?Sized,
    {
        // This searches the storage that entries move to, which has all of them while the shard does not grow. A hit
        // then costs as much as in a shard that cannot grow. With the search of the former storage inlined here, it
        // took eight instructions more.
        let pick = |slot| {
            let entry = self.slab.get_moved(slot)?;
            key.equivalent(&entry.key).then_some((slot, entry))
        };
        let index = self.index.current();
        if let Some(found) = index.find_near(hash.cell(), pick) {
            return Some(found);
        }
        let found = index.probe(hash.cell(), pick);
        match found {
            Probe::Found(found) => Some(found),
            Probe::Vacant(_) if !self.is_growing => None,
            Probe::Vacant(_) | Probe::Far => self.find_everywhere(hash, key),
        }
    }

    /// Returns the entry of a key and its slot, whether or not it has moved to larger storage, and however far it is
    /// from its place in the index.
    #[cold]
    #[inline(never)]
    fn find_everywhere<Q>(&self, hash: KeyHash, key: &Q) -> Option<(u32, &Entry<K, V>)>
    where
        Q: Equivalent<K> + ?Sized,
    {
        self.index.find(hash.cell(), |slot| {
            let entry = self.slab.get(slot)?;
            key.equivalent(&entry.key).then_some((slot, entry))
        })
    }

    /// Returns the approximate memory of the entries, in bytes.
    pub(crate) fn memory(&self) -> usize {
        self.slab.len() as usize * size_of::<Entry<K, V>>()
    }

    /// Begins to load from memory what the index has for a hash.
    #[inline]
    pub(crate) fn prefetch_index(&self, hash: KeyHash) {
        if let Some(cell) = self.index.current().first_cell(hash.cell()) {
            prefetch(cell);
        }
    }

    /// Begins to load from memory the entry that probably has a hash.
    #[inline]
    pub(crate) fn prefetch_entry(&self, hash: KeyHash) {
        // The tag alone is compared, so that no entry is read.
        let prefetch = |slot| self.slab.prefetch_moved(slot);
        self.index.current().probe(hash.cell(), prefetch);
    }

    /// Returns the slot of a key, live or not.
    #[inline(always)]
    pub(crate) fn slot_of<Q>(&self, hash: KeyHash, key: &Q) -> Option<u32>
    where
        Q: Equivalent<K> + ?Sized,
    {
        self.find(hash, key).map(|(slot, _)| slot)
    }

    /// Returns a live value and its slot. The policy records the hit, and a time to idle begins again.
    #[inline(always)]
    pub(crate) fn hit<Q>(&self, hash: KeyHash, key: &Q, time: HitTime<'_>) -> Option<(u32, &V)>
    where
        Q: Equivalent<K> + ?Sized,
    {
        let (slot, entry) = self.find(hash, key)?;
        let deadline = entry.deadline.load(Relaxed);
        if time.is_late_for(deadline) {
            return None;
        }
        if let Some(metadata) = &self.metadata {
            if !metadata.needs_no_check() && !metadata.on_hit(slot, &entry.deadline, || time.now())
            {
                return None;
            }
        }
        self.policy.on_hit(slot, &entry.policy_state);
        Some((slot, &entry.value))
    }

    /// Checks whether the entry was invalidated neither by a tag nor by its epoch.
    pub(super) fn is_current(&self, slot: u32) -> bool {
        let metadata = self.metadata.as_ref();
        metadata.is_none_or(|metadata| metadata.is_current(slot))
    }

    fn refreshes(&self) -> Option<&RefreshTimes> {
        self.metadata.as_ref()?.refreshes.as_ref()
    }

    /// Checks whether the caller, which has hit this slot, is to refresh the entry. Returns `true` to at most one of
    /// several callers.
    #[inline]
    pub(crate) fn claim_refresh(&self, slot: u32, now: impl FnOnce() -> Nanos) -> bool {
        let Some(refreshes) = self.refreshes() else {
            return false;
        };
        let entry = self.slab.get(slot);
        entry.is_some_and(|entry| refreshes.claim(slot, entry.deadline.load(Relaxed), now()))
    }

    /// Returns the number of the write that has stored the value of a key in Redis, or 0 if it is not known.
    #[cfg(feature = "redis")]
    pub(crate) fn write_in_l2<Q>(&self, hash: KeyHash, key: &Q) -> u64
    where
        Q: Equivalent<K> + ?Sized,
    {
        let found = self.refreshes().zip(self.slot_of(hash, key));
        found.map_or(0, |(refreshes, slot)| refreshes.write(slot))
    }

    /// Returns a live value and its deadline. The policy does not record it.
    pub(crate) fn peek<Q>(
        &self,
        hash: KeyHash,
        key: &Q,
        now: impl FnOnce() -> Nanos,
    ) -> Option<(&V, Nanos)>
    where
        Q: Equivalent<K> + ?Sized,
    {
        let (slot, entry) = self.find(hash, key)?;
        let deadline = entry.deadline.load(Relaxed);
        let is_live = (deadline == NEVER || now() < deadline) && self.is_current(slot);
        is_live.then_some((&entry.value, deadline))
    }

    /// Returns the age of the value in a slot, if it is known.
    pub(crate) fn age(&self, slot: u32, now: Nanos) -> Option<Duration> {
        Some(self.read_times.as_ref()?.age(slot, now))
    }

    /// Returns a live value and the settings of its entry, like [`peek`](Self::peek) otherwise.
    pub(crate) fn peek_with_settings<Q>(
        &self,
        hash: KeyHash,
        key: &Q,
        now: impl FnOnce() -> Nanos,
    ) -> Option<(&V, EntrySettings)>
    where
        Q: Equivalent<K> + ?Sized,
    {
        let (value, deadline) = self.peek(hash, key, now)?;
        let Some(metadata) = &self.metadata else {
            let settings = EntrySettings {
                latest_deadline: NonZero::new(deadline),
                ..EntrySettings::default()
            };
            return Some((value, settings));
        };
        let slot = self.slot_of(hash, key)?;
        let refreshes = metadata.refreshes.as_ref();
        let settings = EntrySettings {
            latest_deadline: NonZero::new(metadata.latest_deadline(slot).unwrap_or(deadline)),
            weight: metadata.explicit_weight(slot),
            tags: metadata.tags(slot).cloned().map(Box::new),
            load_time: refreshes.map_or(0, |refreshes| refreshes.load_time(slot)),
        };
        Some((value, settings))
    }

    /// Records that a load of this key has failed.
    pub(crate) fn load_failed<Q>(&self, hash: KeyHash, key: &Q, now: Nanos)
    where
        Q: Equivalent<K> + ?Sized,
    {
        if let (Some(refreshes), Some(slot)) = (self.refreshes(), self.slot_of(hash, key)) {
            refreshes.failed(slot, now);
        }
    }

    /// Returns a value that may serve in place of a load that has failed recently, and whether it is live.
    pub(crate) fn stale<Q>(&self, hash: KeyHash, key: &Q, now: Nanos) -> Option<(&V, bool)>
    where
        Q: Equivalent<K> + ?Sized,
    {
        let slot = self.slot_of(hash, key)?;
        let is_throttled = self.refreshes()?.is_throttled(slot, now);
        self.servable(hash, key, now).filter(|_| is_throttled)
    }

    /// Returns a value that may serve in place of a load that fails or takes too long, and whether it is live.
    pub(crate) fn servable<Q>(&self, hash: KeyHash, key: &Q, now: Nanos) -> Option<(&V, bool)>
    where
        Q: Equivalent<K> + ?Sized,
    {
        let refreshes = self.refreshes()?;
        let (slot, entry) = self.find(hash, key)?;
        let deadline = entry.deadline.load(Relaxed);
        // A value with an invalidated tag is known to be wrong. One that was invalidated by its epoch may be right.
        let metadata = self.metadata.as_ref();
        let is_servable = !metadata.is_some_and(|metadata| metadata.is_tag_invalidated(slot))
            && refreshes.may_serve(deadline, now);
        is_servable.then_some((&entry.value, now < deadline && self.is_current(slot)))
    }

    /// Returns clones of the live entries in a span of slots.
    pub(crate) fn clones_in(&self, span: &Span, now: Nanos) -> impl Iterator<Item = Listed<(K, V)>>
    where
        K: Clone,
        V: Clone,
    {
        let live = self.live_in(span, now);
        live.map(|listed| listed.map(|(_, entry)| (entry.key.clone(), entry.value.clone())))
    }

    /// Returns the keys of the live entries in a span of slots.
    pub(crate) fn live_keys_in(&self, span: &Span, now: Nanos) -> impl Iterator<Item = &K> {
        self.live_in(span, now).map(|listed| &listed.item.1.key)
    }

    /// Returns the keys of all entries in a span of slots, expired and invalidated ones included.
    pub(crate) fn keys_in(&self, span: &Span) -> impl Iterator<Item = &K> {
        let slots = span.slots.start..span.slots.end.min(self.slab.end());
        slots.filter_map(|slot| Some(&self.slab.get(slot)?.key))
    }

    /// Returns for each slot in a span the slot that was filed after it in its queue, or `u32::MAX`.
    pub(crate) fn filed_next_in(&self, span: &Span) -> impl Iterator<Item = u32> {
        let slots = span.slots.start..span.slots.end.min(self.slab.end());
        slots.map(|slot| self.policy.filed_next(slot).unwrap_or(u32::MAX))
    }

    /// Returns the live entries in a span of slots, with their slots.
    pub(super) fn live_in(
        &self,
        span: &Span,
        now: Nanos,
    ) -> impl Iterator<Item = Listed<(u32, &Entry<K, V>)>> {
        let slots = span.slots.start..span.slots.end.min(self.slab.end());
        let since = span.since;
        slots.filter_map(move |slot| {
            let entry = self.slab.get(slot)?;
            let is_live = now < entry.deadline.load(Relaxed) && self.is_current(slot);
            is_live.then(|| Listed {
                heat: self.policy.heat(&entry.policy_state, since),
                slot,
                item: (slot, entry),
            })
        })
    }
}
