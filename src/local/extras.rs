//! What lies beside an entry, by slot, in a cache that has such a thing: most have none of it, and
//! hits do not look at what is not there.

use super::column::Column;
use crate::clock::Nanos;
use crate::local::renewal::{Renewals, Rules};
use crate::local::tags::Tagged;
use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

pub(crate) struct Extras {
    idle: Option<Idle>,
    tags: TagsBySlot,
    pub(crate) renewals: Option<Renewals>,
    births: Option<Births>,
    /// `None` where each entry weighs 1.
    weights: Option<Weights>,
}

/// Storage that has grown out of use. Dropping it takes long, so it is dropped where no lock is held.
pub(crate) trait Retired {}

impl<T> Retired for T {}

/// What the entries of a cache have beside them, whether or not they have tags.
#[derive(Clone, Copy, Default)]
pub(crate) struct Kinds {
    pub(crate) weighted: bool,
    pub(crate) time_to_idle: Option<Nanos>,
    pub(crate) renewal: Option<Rules>,
}

impl Kinds {
    pub(crate) const fn is_empty(&self) -> bool {
        !self.weighted && self.time_to_idle.is_none() && self.renewal.is_none()
    }
}

/// The epochs in which the loads of entries began, in a cache that can forget.
struct Births {
    /// What is older is dead.
    floor: Arc<AtomicU64>,
    epochs: Column<u64>,
}

impl Births {
    /// Whoever comes after the floor was raised sees it, so relaxed.
    fn is_current(&self, slot: u32) -> bool {
        let epoch = self.epochs.get(slot).copied().unwrap_or(0);
        epoch >= self.floor.load(Relaxed)
    }
}

/// Deadlines that hits move.
struct Idle {
    time: Nanos,
    /// How far they may move each.
    limits: Column<Nanos>,
}

/// What entries weigh, by slot. A vacant slot weighs nothing.
struct Weights {
    by_slot: Column<u64>,
    /// Whether the weight was given, and is not the weigher's.
    given: Column<bool>,
    total: u64,
}

impl Weights {
    fn set(&mut self, slot: u32, weight: u64, given: bool) {
        self.total = self.total - self.of(slot) + weight;
        self.by_slot.put(slot, weight);
        self.given.put(slot, given);
    }

    fn of(&self, slot: u32) -> u64 {
        self.by_slot.get(slot).copied().unwrap_or(0)
    }
}

/// How many slots share a block of tags.
const TAG_BLOCK: usize = 256;

/// The tags of entries, in blocks that exist once an entry of theirs has tags. So the first entry with tags
/// of a large shard costs no more than one block.
#[derive(Default)]
struct TagsBySlot {
    blocks: Vec<Option<Box<[Tags; TAG_BLOCK]>>>,
}

type Tags = Option<Box<Tagged>>;

impl TagsBySlot {
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

/// What an entry is stored with.
pub(crate) struct Extra {
    pub(crate) weight: u64,
    /// The weight was given, and is not the weigher's.
    pub(crate) given_weight: bool,
    pub(crate) origin: Origin,
}

/// Where a value comes from.
#[derive(Default)]
pub(crate) struct Origin {
    /// How long it took to load.
    pub(crate) load_time: Nanos,
    /// How long ago it was read from where it comes from, when it is stored.
    pub(crate) age: Nanos,
    /// The epoch in which the load began.
    pub(crate) epoch: u64,
    pub(crate) tags: Option<Box<Tagged>>,
    /// The tags of the entry that the value was made of, where `tags` are others: if one of them is
    /// invalidated, the value is outdated.
    pub(crate) replaced_tags: Option<Box<Tagged>>,
    /// The time past which the entry that the value was made of does not live, for the new one to
    /// keep.
    pub(crate) deadline: Option<NonZero<Nanos>>,
}

impl Origin {
    /// Checks that no tag of the value was invalidated since it was read.
    pub(crate) fn is_current(&self) -> bool {
        let mut tags = self.tags.iter().chain(&self.replaced_tags);
        tags.all(|tags| tags.is_current())
    }
}

impl Idle {
    fn limit(&self, slot: u32) -> Nanos {
        self.limits.get(slot).copied().unwrap_or(0)
    }

    fn deadline(&self, now: Nanos, limit: Nanos) -> Nanos {
        limit.min(now.saturating_add(self.time))
    }
}

impl Extras {
    pub(crate) fn new(kinds: Kinds, floor: Option<Arc<AtomicU64>>) -> Self {
        let limits = Column::new();
        Self {
            idle: kinds.time_to_idle.map(|time| Idle { time, limits }),
            tags: TagsBySlot::default(),
            births: floor.map(|floor| Births {
                floor,
                epochs: Column::new(),
            }),
            renewals: kinds.renewal.map(Renewals::new),
            weights: kinds.weighted.then(|| Weights {
                by_slot: Column::new(),
                given: Column::new(),
                total: 0,
            }),
        }
    }

    /// A slot is filled with an entry that shall not live past `limit`: returns its first deadline.
    pub(crate) fn set(&mut self, slot: u32, extra: Extra, limit: Nanos, now: Nanos) -> Nanos {
        if let Some(renewals) = &mut self.renewals {
            renewals.set(slot, now, extra.origin.load_time);
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

    /// A live entry is hit: may it be served? If it is one that idles, its deadline moves. It never
    /// moves to before what it was when the shard was last written to, so bounds hold.
    pub(crate) fn hit(&self, slot: u32, deadline: &AtomicU64, now: impl FnOnce() -> Nanos) -> bool {
        if let Some(idle) = &self.idle {
            let moved = idle.deadline(now(), idle.limit(slot));
            if moved > deadline.load(Relaxed) {
                deadline.store(moved, Relaxed);
            }
        }
        self.is_current(slot)
    }

    /// The slot is vacant now.
    pub(crate) fn clear(&mut self, slot: u32) {
        self.tags.set(slot, None);
        if let Some(weights) = &mut self.weights {
            weights.set(slot, 0, false);
        }
    }

    pub(crate) fn weight(&self, slot: u32) -> u64 {
        let weights = self.weights.as_ref();
        weights.map_or(1, |weights| weights.of(slot))
    }

    /// What all entries weigh, in a cache that weighs.
    pub(crate) fn total_weight(&self) -> Option<u64> {
        Some(self.weights.as_ref()?.total)
    }

    /// Begins to make room for so many slots.
    pub(crate) fn grow(&mut self, slots: usize) {
        let Self {
            idle,
            renewals,
            births,
            weights,
            ..
        } = self;
        if let Some(idle) = idle {
            idle.limits.grow(slots);
        }
        if let Some(renewals) = renewals {
            renewals.slots.grow(slots);
        }
        if let Some(births) = births {
            births.epochs.grow(slots);
        }
        if let Some(weights) = weights {
            weights.by_slot.grow(slots);
            weights.given.grow(slots);
        }
    }

    /// Goes on with it, for up to `most` slots, and calls `retire` with storage that has grown out of use.
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
        let renewals = self.renewals.as_mut();
        if let Some(emptied) = renewals.and_then(|renewals| renewals.slots.step(most)) {
            retire(Box::new(emptied));
        }
    }

    /// Takes what these slots have, which are all that are occupied, for the first slots of as many as `room`.
    pub(crate) fn select(&mut self, slots: &[u32], room: usize) {
        if let Some(idle) = &mut self.idle {
            idle.limits = idle.limits.select(slots, room);
        }
        if let Some(renewals) = &mut self.renewals {
            renewals.slots = renewals.slots.select(slots, room);
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

    /// How far hits may move an entry's deadline, in a cache where they do.
    pub(crate) fn idle_limit(&self, slot: u32) -> Option<Nanos> {
        let idle = self.idle.as_ref()?;
        Some(idle.limit(slot))
    }

    /// Returns the weight that an entry was given, or `None` if the weigher was asked.
    pub(crate) fn own_weight(&self, slot: u32) -> Option<u64> {
        let weights = self.weights.as_ref()?;
        let given = weights.given.get(slot) == Some(&true);
        given.then(|| weights.of(slot))
    }

    /// Was no tag of the entry invalidated, and the entry not forgotten?
    pub(crate) fn is_current(&self, slot: u32) -> bool {
        let births = self.births.as_ref();
        births.is_none_or(|births| births.is_current(slot)) && !self.is_invalidated(slot)
    }

    /// Was a tag of the entry invalidated?
    pub(crate) fn is_invalidated(&self, slot: u32) -> bool {
        self.tags(slot).is_some_and(|tags| !tags.is_current())
    }

    pub(crate) fn tags(&self, slot: u32) -> Option<&Tagged> {
        self.tags.get(slot)
    }

    /// May entries be dead before their deadline?
    pub(crate) fn may_die(&self) -> bool {
        !self.tags.is_empty() || self.births.is_some()
    }
}
