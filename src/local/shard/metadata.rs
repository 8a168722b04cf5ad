//! Optional metadata of entries: a table with a row for each slot, and a column for each kind.
//!
//! A cache allocates only the columns that it needs, and no table if it needs none, so that hits of other caches pay
//! nothing for them. Tags have no flag in [`ColumnSet`], because an entry of any cache may have tags: the first entry
//! with tags allocates a table.

use crate::clock::Nanos;
use crate::local::load::refresh::{RefreshRules, RefreshTimes};
use crate::local::removal::Retired;
use crate::local::shard::epoch_column::{EpochColumn, MinLiveEpochs};
use crate::local::shard::tag_column::TagColumn;
use crate::local::tags::EntryTags;
use crate::storage::allocated::AllocatedBytes;
use crate::storage::column::Column;
use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The highest number of times that hits extend a deadline within one time to idle.
const IDLE_TIME_STEPS: Nanos = 64;

/// The columns that the table of a cache has from the start.
#[derive(Clone, Copy, Default)]
pub(crate) struct ColumnSet {
    /// `true` if entries have weights.
    pub(crate) weights: bool,
    /// The time to idle, in nanoseconds, if there is one.
    pub(crate) time_to_idle: Option<Nanos>,
    /// The rules for refreshes, if there are any.
    pub(crate) refresh_rules: Option<RefreshRules>,
}

impl ColumnSet {
    /// Returns `true` if there are no columns.
    pub(crate) const fn is_empty(&self) -> bool {
        !self.weights && self.time_to_idle.is_none() && self.refresh_rules.is_none()
    }
}

/// The metadata of an entry to be stored.
pub(crate) struct EntryMetadata {
    pub(crate) weight: u64,
    /// `true` if the caller gave the weight and the weigher did not determine it.
    pub(crate) is_explicit_weight: bool,
    pub(crate) provenance: Provenance,
}

/// The provenance of a value.
#[derive(Default)]
pub(crate) struct Provenance {
    /// The duration of the load, in nanoseconds.
    pub(crate) load_time: Nanos,
    /// The time since the value was read from its source, in nanoseconds, when it is stored.
    pub(crate) age: Nanos,
    /// The number of the write that has stored the value in Redis, or 0 if it is not known.
    pub(crate) write: u64,
    /// The epoch in which the load began.
    pub(crate) epoch: u64,
    /// The number of the key's partition.
    pub(crate) partition: u16,
    pub(crate) tags: Option<Box<EntryTags>>,
    /// The tags of the entry that the value was computed from, if `tags` differ from them. If one of them is
    /// invalidated, the value is outdated.
    pub(crate) replaced_tags: Option<Box<EntryTags>>,
    /// The latest deadline of the entry that the value was computed from, if the new entry keeps it.
    pub(crate) deadline: Option<NonZero<Nanos>>,
}

impl Provenance {
    /// Checks whether no tag of the value was invalidated after it was read.
    pub(crate) fn is_current(&self) -> bool {
        let mut tags = self.tags.iter().chain(&self.replaced_tags);
        tags.all(|tags| tags.is_current())
    }
}

/// The metadata of a shard's entries.
pub(crate) struct MetadataTable {
    /// The time to idle, in nanoseconds. Used only with `latest_deadlines`.
    time_to_idle: Nanos,
    /// The latest deadline of each slot that hits may set. `None` if hits do not change deadlines.
    latest_deadlines: Option<Column<Nanos>>,
    tags: TagColumn,
    /// `None` if the cache has no rules for refreshes.
    pub(crate) refreshes: Option<RefreshTimes>,
    /// `None` if entries are not invalidated by their epoch.
    epochs: Option<EpochColumn>,
    /// The weight of each slot, which is 0 for a vacant one. `None` if each entry weighs 1.
    weights: Option<Column<u64>>,
    /// `true` for each weight that the caller gave and the weigher did not determine.
    explicit_weights: Option<Column<bool>>,
    /// The sum of all weights.
    total_weight: u64,
}

/// The operations on a column that do not depend on the type of its items.
trait AnyColumn {
    /// Begins to make room for `slots` slots: see [`Column::grow`].
    fn grow(&mut self, slots: usize);

    /// Moves up to `most` slots, and returns storage that is no longer needed: see [`Column::step`].
    fn step(&mut self, most: usize) -> Option<Box<dyn Retired>>;

    /// Moves the items of these slots to the first slots of storage with room for `room` slots.
    fn select(&mut self, slots: &[u32], room: usize);
}

impl<T: Default + 'static> AnyColumn for Column<T> {
    fn grow(&mut self, slots: usize) {
        Self::grow(self, slots);
    }

    fn step(&mut self, most: usize) -> Option<Box<dyn Retired>> {
        let emptied = Self::step(self, most)?;
        Some(Box::new(emptied))
    }

    fn select(&mut self, slots: &[u32], room: usize) {
        *self = Self::select(self, slots, room);
    }
}

/// Returns a column as one of any type.
fn any_column<T: Default + 'static>(column: &mut Option<Column<T>>) -> Option<&mut dyn AnyColumn> {
    column.as_mut().map(|column| column as &mut dyn AnyColumn)
}

impl MetadataTable {
    /// Creates the table of a shard without entries.
    pub(crate) fn new(columns: ColumnSet, min_live: Option<Arc<MinLiveEpochs>>) -> Self {
        Self {
            time_to_idle: columns.time_to_idle.unwrap_or_default(),
            latest_deadlines: columns.time_to_idle.map(|_| Column::new()),
            tags: TagColumn::default(),
            refreshes: columns.refresh_rules.map(RefreshTimes::new),
            epochs: min_live.map(EpochColumn::new),
            weights: columns.weights.then(Column::new),
            explicit_weights: columns.weights.then(Column::new),
            total_weight: 0,
        }
    }

    /// Returns all columns except that of the tags, which grows by itself.
    fn columns(&mut self) -> impl Iterator<Item = &mut dyn AnyColumn> {
        let (refreshes, epochs) = (self.refreshes.as_mut(), self.epochs.as_mut());
        [
            any_column(&mut self.latest_deadlines),
            refreshes.map(|refreshes| &mut refreshes.slots as &mut dyn AnyColumn),
            epochs.map(|epochs| epochs.rows() as &mut dyn AnyColumn),
            any_column(&mut self.weights),
            any_column(&mut self.explicit_weights),
        ]
        .into_iter()
        .flatten()
    }

    /// Begins to make room for `slots` slots: see [`Column::grow`].
    pub(crate) fn grow(&mut self, slots: usize) {
        self.columns().for_each(|column| column.grow(slots));
    }

    /// Moves up to `most` slots of each column: see [`Column::step`]. Calls `retire` with storage that is no longer
    /// needed.
    pub(crate) fn step(&mut self, most: usize, retire: impl FnMut(Box<dyn Retired>)) {
        self.columns()
            .filter_map(|column| column.step(most))
            .for_each(retire);
    }

    /// Moves the metadata of these slots, which are all occupied ones, to the first slots of storage with room for
    /// `room` slots.
    pub(crate) fn select(&mut self, slots: &[u32], room: usize) {
        self.columns().for_each(|column| column.select(slots, room));
        self.tags = self.tags.select(slots);
    }

    /// Writes the row of a slot that was filled with an entry. Returns the entry's first deadline, which is not after
    /// `latest_deadline`.
    pub(crate) fn write(
        &mut self,
        slot: u32,
        metadata: EntryMetadata,
        latest_deadline: Nanos,
        now: Nanos,
    ) -> Nanos {
        let EntryMetadata {
            weight,
            is_explicit_weight,
            provenance,
        } = metadata;
        if let Some(refreshes) = &mut self.refreshes {
            refreshes.set(slot, now, provenance.age, provenance.load_time);
            refreshes.set_write(slot, provenance.write);
        }
        self.write_weight(slot, weight, is_explicit_weight);
        if let Some(epochs) = &mut self.epochs {
            epochs.put(slot, provenance.partition, provenance.epoch);
        }
        self.tags.put(slot, provenance.tags);
        self.set_deadline(slot, latest_deadline, now)
    }

    /// Sets the latest deadline of an entry. Returns its first deadline, which is not after the latest.
    pub(crate) fn set_deadline(&mut self, slot: u32, latest: Nanos, now: Nanos) -> Nanos {
        match &mut self.latest_deadlines {
            None => latest,
            Some(latest_deadlines) => {
                latest_deadlines.put(slot, latest);
                latest.min(now.saturating_add(self.time_to_idle))
            }
        }
    }

    /// Clears the row of a slot that was vacated.
    pub(crate) fn clear(&mut self, slot: u32) {
        if let Some(epochs) = &mut self.epochs {
            epochs.clear(slot);
        }
        self.tags.put(slot, None);
        self.write_weight(slot, 0, false);
    }

    /// Writes the weight of a slot, if entries have weights.
    fn write_weight(&mut self, slot: u32, weight: u64, is_explicit: bool) {
        let (Some(weights), Some(explicit)) = (&mut self.weights, &mut self.explicit_weights)
        else {
            return;
        };
        let replaced = weights.get(slot).copied().unwrap_or(0);
        self.total_weight = self.total_weight - replaced + weight;
        weights.put(slot, weight);
        explicit.put(slot, is_explicit);
    }

    /// Returns `true` if a hit serves each entry whose deadline has not passed, and changes no deadline.
    #[inline(always)]
    pub(crate) fn needs_no_check(&self) -> bool {
        let epochs = self.epochs.as_ref();
        epochs.is_none_or(EpochColumn::are_all_live)
            && self.tags.is_empty()
            && self.latest_deadlines.is_none()
    }

    /// Extends the deadline of a live entry that was hit, if the cache has a time to idle, and checks whether the entry
    /// may be served.
    pub(crate) fn on_hit(
        &self,
        slot: u32,
        deadline: &AtomicU64,
        now: impl FnOnce() -> Nanos,
    ) -> bool {
        if let Some(latest) = self.latest_deadline(slot) {
            self.extend_deadline(deadline, latest, now);
        }
        self.is_current(slot)
    }

    /// Extends a deadline to the end of a time to idle that begins now, but not past the latest deadline.
    ///
    /// The deadline is written only if it moves by more than 1/64 of the time to idle, or to the latest one. So most
    /// hits on a popular entry do not write to its cache line, which other threads read, and the time to live is exact.
    ///
    /// A deadline never changes to an earlier time, so the lower bounds in
    /// [`Expiry`](crate::local::shard::expiry::Expiry) stay valid.
    fn extend_deadline(&self, deadline: &AtomicU64, latest: Nanos, now: impl FnOnce() -> Nanos) {
        let extended = latest.min(now().saturating_add(self.time_to_idle));
        let current = deadline.load(Relaxed);
        let resolution = if extended == latest {
            0
        } else {
            self.time_to_idle / IDLE_TIME_STEPS
        };
        if extended > current.saturating_add(resolution) {
            deadline.store(extended, Relaxed);
        }
    }

    /// Returns the latest deadline of an entry that hits may set, or `None` if hits do not change deadlines.
    pub(crate) fn latest_deadline(&self, slot: u32) -> Option<Nanos> {
        let latest_deadlines = self.latest_deadlines.as_ref()?;
        Some(latest_deadlines.get(slot).copied().unwrap_or(0))
    }

    /// Returns `true` if entries have weights.
    pub(crate) fn has_weights(&self) -> bool {
        self.weights.is_some()
    }

    /// Returns the weight of an entry.
    pub(crate) fn weight(&self, slot: u32) -> u64 {
        let Some(weights) = &self.weights else {
            return 1;
        };
        weights.get(slot).copied().unwrap_or(0)
    }

    /// Returns the weight that the caller gave for an entry, or `None` if the weigher determined it.
    pub(crate) fn explicit_weight(&self, slot: u32) -> Option<u64> {
        let is_explicit = self.explicit_weights.as_ref()?.get(slot) == Some(&true);
        is_explicit.then(|| self.weight(slot))
    }

    /// Returns the sum of the weights of all entries, or `None` if each weighs 1.
    pub(crate) fn total_weight(&self) -> Option<u64> {
        self.weights.as_ref().map(|_| self.total_weight)
    }

    /// Returns the tags of an entry, if it has any.
    pub(crate) fn tags(&self, slot: u32) -> Option<&EntryTags> {
        self.tags.get(slot)
    }

    /// Checks whether the entry was invalidated neither by a tag nor by its epoch.
    pub(crate) fn is_current(&self, slot: u32) -> bool {
        let is_of_live_epoch = self
            .epochs
            .as_ref()
            .is_none_or(|epochs| epochs.is_live(slot));
        is_of_live_epoch && !self.is_tag_invalidated(slot)
    }

    /// Checks whether a tag of the entry was invalidated.
    pub(crate) fn is_tag_invalidated(&self, slot: u32) -> bool {
        self.tags(slot).is_some_and(|tags| !tags.is_current())
    }

    /// Checks whether entries may be invalidated before their deadline, by a tag or by their epoch.
    pub(crate) fn has_invalidations(&self) -> bool {
        !self.tags.is_empty() || self.epochs.is_some()
    }
}

impl AllocatedBytes for MetadataTable {
    fn allocated_bytes(&self) -> usize {
        self.latest_deadlines.allocated_bytes()
            + self.tags.allocated_bytes()
            + self.refreshes.allocated_bytes()
            + self.epochs.allocated_bytes()
            + self.weights.allocated_bytes()
            + self.explicit_weights.allocated_bytes()
    }
}
