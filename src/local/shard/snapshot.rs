//! The copies of a shard's entries for a snapshot, and their restoration.

use crate::clock::{NEVER, Nanos, saturating_nanos};
use crate::local::budget::Reservation;
use crate::local::removal::{RemovalCause, Removals};
use crate::local::shard::entry::{Entry, NewEntry};
use crate::local::shard::hash::KeyHash;
use crate::local::shard::{MAX_ENTRIES, Shard};
use crate::local::tags::EntryTags;
use crate::local::walk::{Listed, Span};
use crate::policy::EvictionPolicy;
use crate::storage::work_slice::WorkSlice;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// A copy of a live entry.
pub(crate) struct Copied<K, V> {
    pub(crate) key: K,
    pub(crate) value: V,
    /// The remaining time to live, in nanoseconds. `None` if the entry does not expire.
    pub(crate) left: Option<Nanos>,
    /// The remaining time to idle, in nanoseconds.
    pub(crate) idle: Option<Nanos>,
    /// The age of the value, in nanoseconds.
    pub(crate) age: Option<Nanos>,
    /// The weight, if the caller gave it and the weigher did not determine it.
    pub(crate) weight: Option<u64>,
    pub(crate) tags: Vec<Arc<str>>,
}

/// The reason why an entry was not restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotRestored {
    /// The key was written to, or is being loaded, or has a live entry, or a tag of the entry was invalidated.
    Superseded,
    NoRoom,
}

impl<K, V> Shard<K, V> {
    /// Returns copies of the live entries in a span of slots.
    pub(crate) fn copies_in(
        &self,
        span: &Span,
        now: Nanos,
    ) -> impl Iterator<Item = Listed<Copied<K, V>>>
    where
        K: Clone,
        V: Clone,
    {
        let left = move |deadline: Nanos| (deadline != NEVER).then(|| deadline.saturating_sub(now));
        let copy = move |(slot, entry): (u32, &Entry<K, V>)| {
            let metadata = self.metadata.as_ref();
            let deadline = entry.deadline.load(Relaxed);
            let latest = metadata.and_then(|metadata| metadata.latest_deadline(slot));
            let tags = metadata.and_then(|metadata| metadata.tags(slot));
            let read_times = self.read_times.as_ref();
            Copied {
                key: entry.key.clone(),
                value: entry.value.clone(),
                left: left(latest.unwrap_or(deadline)),
                idle: latest.and(left(deadline)),
                age: read_times.map(|times| saturating_nanos(times.age(slot, now))),
                weight: metadata.and_then(|metadata| metadata.explicit_weight(slot)),
                tags: tags.into_iter().flat_map(EntryTags::names).collect(),
            }
        };
        self.live_in(span, now).map(move |listed| listed.map(copy))
    }

    /// Prepares the restoration of an entry of this key and weight: removes a dead entry of the key, and reserves free
    /// room.
    ///
    /// # Errors
    ///
    /// Returns an error if the key has a live entry, or if another entry would have to be evicted.
    pub(crate) fn prepare_restore(
        &mut self,
        hash: KeyHash,
        key: &K,
        weight: u64,
        room: &mut Reservation<'_>,
        now: Nanos,
        out: &mut Removals<'_, K, V>,
    ) -> Result<(), NotRestored>
    where
        K: Eq,
    {
        if self.peek(hash, key, || now).is_some() {
            return Err(NotRestored::Superseded);
        }
        self.remove(hash, key, RemovalCause::Expired, room.budget(), now, out);
        if self.slab.len() >= MAX_ENTRIES || !room.reach(weight) {
            return Err(NotRestored::NoRoom);
        }
        Ok(())
    }

    /// Stores an entry for which [`prepare_restore`](Self::prepare_restore) has reserved `room` under the same hold of
    /// the lock.
    pub(crate) fn restore(
        &mut self,
        new: NewEntry<K, V>,
        room: &mut Reservation<'_>,
        now: Nanos,
        out: &mut Removals<'_, K, V>,
    ) {
        let work = &mut WorkSlice::new();
        self.policy.on_write(&self.slab, work);
        room.spend(new.metadata.weight);
        self.insert_into_free_slot(new, now, work, out);
    }
}
