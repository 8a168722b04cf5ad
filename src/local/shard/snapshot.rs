//! Entries on their way to a file and back.

use crate::clock::{NEVER, Nanos, saturating_nanos};
use crate::local::budget::{Budget, Reservation};
use crate::local::removal::{RemovalCause, Removals};
use crate::local::shard::{Entry, MAX_ENTRIES, NewEntry, Shard};
use crate::local::tags::Tagged;
use crate::local::walk::{Listed, Span};
use crate::policy::EvictionPolicy;
use crate::storage::work_slice::WorkSlice;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// A live entry with all that is to be kept of it.
pub(crate) struct Copied<K, V> {
    pub(crate) key: K,
    pub(crate) value: V,
    /// How long it had to live; `None`: for ever.
    pub(crate) left: Option<Nanos>,
    /// How long it had to idle.
    pub(crate) idle: Option<Nanos>,
    /// How old its value is.
    pub(crate) age: Option<Nanos>,
    pub(crate) weight: Option<u64>,
    pub(crate) tags: Vec<Arc<str>>,
}

/// What became of an entry that was to take free room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Restored {
    Stored,
    /// There is something of its key already.
    LockGuardMark,
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
            let extras = self.extras.as_ref();
            let deadline = entry.deadline.load(Relaxed);
            let limit = extras.and_then(|extras| extras.idle_limit(slot));
            let tags = extras.and_then(|extras| extras.tags(slot));
            Copied {
                key: entry.key.clone(),
                value: entry.value.clone(),
                left: left(limit.unwrap_or(deadline)),
                idle: limit.and(left(deadline)),
                age: self
                    .ages
                    .as_ref()
                    .map(|ages| saturating_nanos(ages.of(slot, now))),
                weight: extras.and_then(|extras| extras.own_weight(slot)),
                tags: tags.into_iter().flat_map(Tagged::names).collect(),
            }
        };
        self.live_in(span, now).map(move |listed| listed.map(copy))
    }

    /// Stores an entry, taking `new`, where nothing alive has to give way to it.
    pub(crate) fn restore(
        &mut self,
        new: &mut Option<NewEntry<K, V>>,
        room: &mut Reservation<'_>,
        budget: &Budget,
        now: Nanos,
        out: &mut Removals<'_, K, V>,
    ) -> Restored
    where
        K: Eq,
    {
        let Some(NewEntry {
            hash, key, extra, ..
        }) = new
        else {
            return Restored::Stored;
        };
        if self.peek(*hash, key, || now).is_some() {
            return Restored::LockGuardMark;
        }
        // A dead one of its key.
        self.remove(*hash, key, RemovalCause::Expired, budget, now, out);
        let weight = extra.weight;
        if self.slab.len() >= MAX_ENTRIES || !room.reach(weight) {
            return Restored::NoRoom;
        }
        let work = &mut WorkSlice::new();
        self.policy.on_write(&self.slab, work);
        room.spend(weight);
        self.fill(new, now, work, out);
        Restored::Stored
    }
}
