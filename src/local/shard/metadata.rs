//! Optional metadata of entries, by slot. Only caches that need a kind of it allocate that kind, so that hits of other
//! caches pay nothing for it.

use crate::clock::Nanos;
use crate::local::load::refresh::{RefreshRules, Rules};
use crate::local::removal::Retired;
use crate::local::tags::Tagged;
use crate::storage::column::Column;
use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The metadata of a shard's entries.
pub(crate) struct Extras {
    /// `None` if the cache has no time to idle.
    idle: Option<Idle>,
    tags: TagsBySlot,
    /// `None` if the cache has no rules for renewals.
    pub(crate) refreshes: Option<RefreshRules>,
    /// `None` if the cache cannot forget.
    births: Option<Births>,
    /// `None` if each entry weighs 1.
    weights: Option<Weights>,
}

/// The kinds of metadata that all entries of a cache have. Tags are not among them, because an entry may have none.
#[derive(Clone, Copy, Default)]
pub(crate) struct Kinds {
    /// `true` if entries have weights.
    pub(crate) weighted: bool,
    /// The time to idle, in nanoseconds, if there is one.
    pub(crate) time_to_idle: Option<Nanos>,
    /// The rules for renewals, if there are any.
    pub(crate) refresh: Option<Rules>,
}

impl Kinds {
    /// Returns `true` if there is no such kind.
    pub(crate) const fn is_empty(&self) -> bool {
        !self.weighted && self.time_to_idle.is_none() && self.refresh.is_none()
    }
}

/// The epochs in which the loads of entries began, in a cache that can forget.
struct Births {
    /// The lowest epoch whose entries are live.
    floor: Arc<AtomicU64>,
    /// The epoch of each slot.
    epochs: Column<u64>,
}

impl Births {
    /// Checks whether an entry is not older than the floor.
    fn is_current(&self, slot: u32) -> bool {
        // Relaxed suffices, because a caller that comes after the floor was raised sees the new one.
        let epoch = self.epochs.get(slot).copied().unwrap_or(0);
        epoch >= self.floor.load(Relaxed)
    }
}

/// The metadata of entries whose deadlines hits move.
struct Idle {
    /// The time to idle, in nanoseconds.
    time: Nanos,
    /// The latest time to which hits may move the deadline of each slot.
    limits: Column<Nanos>,
}

/// The weights of entries, by slot. A vacant slot weighs nothing.
struct Weights {
    by_slot: Column<u64>,
    /// `true` for each weight that the caller gave and the weigher did not determine.
    given: Column<bool>,
    /// The sum of all weights.
    total: u64,
}

impl Weights {
    /// Sets the weight of a slot.
    fn set(&mut self, slot: u32, weight: u64, given: bool) {
        self.total = self.total - self.of(slot) + weight;
        self.by_slot.put(slot, weight);
        self.given.put(slot, given);
    }

    /// Returns the weight of a slot.
    fn of(&self, slot: u32) -> u64 {
        self.by_slot.get(slot).copied().unwrap_or(0)
    }
}

/// The number of slots that share a block of tags.
const TAG_BLOCK: usize = 256;

/// The tags of entries, by slot. A block is allocated when the first of its entries has tags, so that the first entry
/// with tags in a large shard allocates only one block.
#[derive(Default)]
struct TagsBySlot {
    blocks: Vec<Option<Box<[Tags; TAG_BLOCK]>>>,
}

type Tags = Option<Box<Tagged>>;

impl TagsBySlot {
    /// Returns `true` if no entry has had tags.
    fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    fn get(&self, slot: u32) -> Option<&Tagged> {
        let block = self.blocks.get(slot as usize / TAG_BLOCK)?.as_ref()?;
        block[slot as usize % TAG_BLOCK].as_deref()
    }

    fn set(&mut self, slot: u32, tags: Tags) {
        let (block, at) = (slot as usize / TAG_BLOCK, slot as usize % TAG_BLOCK);
        if tags.is_none() {
            if let Some(Some(block)) = self.blocks.get_mut(block) {
                block[at] = None;
            }
            return;
        }
        if self.blocks.len() <= block {
            self.blocks.resize_with(block + 1, || None);
        }
        let block = self.blocks[block].get_or_insert_with(|| Box::new([const { None }; TAG_BLOCK]));
        block[at] = tags;
    }

    /// Returns the tags of these slots, in this order.
    fn select(&mut self, slots: &[u32]) -> Self {
        let mut selected = Self::default();
        for (to, &from) in (0..).zip(slots) {
            let block = self.blocks.get_mut(from as usize / TAG_BLOCK);
            if let Some(Some(block)) = block {
                selected.set(to, block[from as usize % TAG_BLOCK].take());
            }
        }
        selected
    }
}

/// The metadata of an entry to be stored.
pub(crate) struct Extra {
    pub(crate) weight: u64,
    /// `true` if the caller gave the weight and the weigher did not determine it.
    pub(crate) given_weight: bool,
    pub(crate) origin: Origin,
}

/// The origin of a value.
#[derive(Default)]
pub(crate) struct Origin {
    /// The duration of the load, in nanoseconds.
    pub(crate) load_time: Nanos,
    /// The time since the value was read from its source, in nanoseconds, when it is stored.
    pub(crate) age: Nanos,
    /// The epoch in which the load began.
    pub(crate) epoch: u64,
    pub(crate) tags: Option<Box<Tagged>>,
    /// The tags of the entry that the value was computed from, if `tags` differ from them. If one of them is
    /// invalidated, the value is outdated.
    pub(crate) replaced_tags: Option<Box<Tagged>>,
    /// The limit on the life of the entry that the value was computed from, if the new entry keeps it.
    pub(crate) deadline: Option<NonZero<Nanos>>,
}

impl Origin {
    /// Checks whether no tag of the value was invalidated after it was read.
    pub(crate) fn is_current(&self) -> bool {
        let mut tags = self.tags.iter().chain(&self.replaced_tags);
        tags.all(|tags| tags.is_current())
    }
}

impl Idle {
    /// Returns the latest time to which hits may move the deadline of a slot.
    fn limit(&self, slot: u32) -> Nanos {
        self.limits.get(slot).copied().unwrap_or(0)
    }

    /// Returns the deadline of an entry that is used now.
    fn deadline(&self, now: Nanos, limit: Nanos) -> Nanos {
        limit.min(now.saturating_add(self.time))
    }
}

impl Extras {
    /// Creates the metadata of a shard without entries.
    pub(crate) fn new(kinds: Kinds, floor: Option<Arc<AtomicU64>>) -> Self {
        let limits = Column::new();
        Self {
            idle: kinds.time_to_idle.map(|time| Idle { time, limits }),
            tags: TagsBySlot::default(),
            births: floor.map(|floor| Births {
                floor,
                epochs: Column::new(),
            }),
            refreshes: kinds.refresh.map(RefreshRules::new),
            weights: kinds.weighted.then(|| Weights {
                by_slot: Column::new(),
                given: Column::new(),
                total: 0,
            }),
        }
    }

    /// Sets the metadata of a slot that was filled with an entry. Returns the entry's first deadline, which is not
    /// after `limit`.
    pub(crate) fn set(&mut self, slot: u32, extra: Extra, limit: Nanos, now: Nanos) -> Nanos {
        if let Some(refreshes) = &mut self.refreshes {
            refreshes.set(slot, now, extra.origin.load_time);
        }
        if let Some(weights) = &mut self.weights {
            weights.set(slot, extra.weight, extra.given_weight);
        }
        if let Some(births) = &mut self.births {
            births.epochs.put(slot, extra.origin.epoch);
        }
        self.tags.set(slot, extra.origin.tags);
        match &mut self.idle {
            None => limit,
            Some(idle) => {
                idle.limits.put(slot, limit);
                idle.deadline(now, limit)
            }
        }
    }

    /// Moves the deadline of a live entry that was hit, if the cache has a time to idle, and checks whether the entry
    /// may be served.
    ///
    /// A deadline never moves to an earlier time, so the bounds that [`Expiry`](crate::local::shard::expiry::Expiry) has of
    /// deadlines hold.
    pub(crate) fn hit(&self, slot: u32, deadline: &AtomicU64, now: impl FnOnce() -> Nanos) -> bool {
        if let Some(idle) = &self.idle {
            let moved = idle.deadline(now(), idle.limit(slot));
            if moved > deadline.load(Relaxed) {
                deadline.store(moved, Relaxed);
            }
        }
        self.is_current(slot)
    }

    /// Clears the metadata of a slot that was vacated.
    pub(crate) fn clear(&mut self, slot: u32) {
        self.tags.set(slot, None);
        if let Some(weights) = &mut self.weights {
            weights.set(slot, 0, false);
        }
    }

    /// Returns the weight of an entry.
    pub(crate) fn weight(&self, slot: u32) -> u64 {
        let weights = self.weights.as_ref();
        weights.map_or(1, |weights| weights.of(slot))
    }

    /// Returns the sum of the weights of all entries, or `None` if each weighs 1.
    pub(crate) fn total_weight(&self) -> Option<u64> {
        Some(self.weights.as_ref()?.total)
    }

    /// Begins to make room for `slots` slots: see [`Column::grow`].
    pub(crate) fn grow(&mut self, slots: usize) {
        let Self {
            idle,
            refreshes,
            births,
            weights,
            ..
        } = self;
        if let Some(idle) = idle {
            idle.limits.grow(slots);
        }
        if let Some(refreshes) = refreshes {
            refreshes.slots.grow(slots);
        }
        if let Some(births) = births {
            births.epochs.grow(slots);
        }
        if let Some(weights) = weights {
            weights.by_slot.grow(slots);
            weights.given.grow(slots);
        }
    }

    /// Moves up to `most` slots: see [`Column::step`]. Calls `retire` with storage that is no longer needed.
    pub(crate) fn step<'a>(&mut self, most: usize, mut retire: impl FnMut(Box<dyn Retired + 'a>)) {
        let mut step = |column: Option<&mut Column<u64>>| {
            if let Some(emptied) = column.and_then(|column| column.step(most)) {
                retire(Box::new(emptied));
            }
        };
        step(self.idle.as_mut().map(|idle| &mut idle.limits));
        step(self.births.as_mut().map(|births| &mut births.epochs));
        step(self.weights.as_mut().map(|weights| &mut weights.by_slot));
        let weights = self.weights.as_mut();
        if let Some(emptied) = weights.and_then(|weights| weights.given.step(most)) {
            retire(Box::new(emptied));
        }
        let refreshes = self.refreshes.as_mut();
        if let Some(emptied) = refreshes.and_then(|refreshes| refreshes.slots.step(most)) {
            retire(Box::new(emptied));
        }
    }

    /// Moves the metadata of these slots, which are all occupied ones, to the first slots of storage with room for
    /// `room` slots.
    pub(crate) fn select(&mut self, slots: &[u32], room: usize) {
        if let Some(idle) = &mut self.idle {
            idle.limits = idle.limits.select(slots, room);
        }
        if let Some(refreshes) = &mut self.refreshes {
            refreshes.slots = refreshes.slots.select(slots, room);
        }
        if let Some(births) = &mut self.births {
            births.epochs = births.epochs.select(slots, room);
        }
        if let Some(weights) = &mut self.weights {
            weights.by_slot = weights.by_slot.select(slots, room);
            weights.given = weights.given.select(slots, room);
        }
        self.tags = self.tags.select(slots);
    }

    /// Returns the latest time to which hits may move an entry's deadline, or `None` if hits do not move deadlines.
    pub(crate) fn idle_limit(&self, slot: u32) -> Option<Nanos> {
        let idle = self.idle.as_ref()?;
        Some(idle.limit(slot))
    }

    /// Returns the weight that the caller gave for an entry, or `None` if the weigher determined it.
    pub(crate) fn own_weight(&self, slot: u32) -> Option<u64> {
        let weights = self.weights.as_ref()?;
        let given = weights.given.get(slot) == Some(&true);
        given.then(|| weights.of(slot))
    }

    /// Checks whether no tag of the entry was invalidated and the entry was not forgotten.
    pub(crate) fn is_current(&self, slot: u32) -> bool {
        let births = self.births.as_ref();
        births.is_none_or(|births| births.is_current(slot)) && !self.is_invalidated(slot)
    }

    /// Checks whether a tag of the entry was invalidated.
    pub(crate) fn is_invalidated(&self, slot: u32) -> bool {
        self.tags(slot).is_some_and(|tags| !tags.is_current())
    }

    /// Returns the tags of an entry, if it has any.
    pub(crate) fn tags(&self, slot: u32) -> Option<&Tagged> {
        self.tags.get(slot)
    }

    /// Checks whether entries may be dead before their deadline.
    pub(crate) fn may_die(&self) -> bool {
        !self.tags.is_empty() || self.births.is_some()
    }
}
