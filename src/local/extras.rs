//! What lies beside an entry, by slot, in a cache that has such a thing: most have none of it, and
//! hits do not look at what is not there.

use crate::clock::Nanos;
use crate::local::renewal::{Renewals, Rules};
use crate::local::tags::Tagged;
use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

pub(crate) struct Extras {
    idle: Option<Idle>,
    /// Empty until an entry has tags.
    tags: Vec<Option<Box<Tagged>>>,
    pub(crate) renewals: Option<Renewals>,
    births: Option<Births>,
    /// `None` where each entry weighs 1.
    weights: Option<Vec<u64>>,
    /// Whether a weight was given, and is not the weigher's. Empty until an entry is given one.
    given_weights: Vec<bool>,
}

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
    epochs: Vec<u64>,
}

impl Births {
    /// Whoever comes after the floor was raised sees it, so relaxed.
    fn is_current(&self, slot: u32) -> bool {
        self.epochs[slot as usize] >= self.floor.load(Relaxed)
    }
}

/// Deadlines that hits move.
struct Idle {
    time: Nanos,
    /// How far they may move each.
    limits: Vec<Nanos>,
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
    fn deadline(&self, now: Nanos, limit: Nanos) -> Nanos {
        limit.min(now.saturating_add(self.time))
    }
}

impl Extras {
    pub(crate) fn new(kinds: Kinds, floor: Option<Arc<AtomicU64>>) -> Self {
        let limits = Vec::new();
        Self {
            idle: kinds.time_to_idle.map(|time| Idle { time, limits }),
            tags: Vec::new(),
            births: floor.map(|floor| Births {
                floor,
                epochs: Vec::new(),
            }),
            renewals: kinds.renewal.map(Renewals::new),
            weights: kinds.weighted.then(Vec::new),
            given_weights: Vec::new(),
        }
    }

    /// A slot is filled with an entry that shall not live past `limit`: returns its first deadline.
    pub(crate) fn set(&mut self, slot: u32, extra: Extra, limit: Nanos, now: Nanos) -> Nanos {
        if let Some(renewals) = &mut self.renewals {
            renewals.set(slot, now, extra.origin.load_time);
        }
        let slot = slot as usize;
        if let Some(weights) = &mut self.weights {
            put(weights, slot, extra.weight);
            if extra.given_weight && self.given_weights.len() <= slot {
                self.given_weights.resize(slot + 1, false);
            }
            if let Some(given) = self.given_weights.get_mut(slot) {
                *given = extra.given_weight;
            }
        }
        if let Some(births) = &mut self.births {
            put(&mut births.epochs, slot, extra.origin.epoch);
        }
        if extra.origin.tags.is_some() && self.tags.len() <= slot {
            self.tags.resize_with(slot + 1, || None);
        }
        if let Some(tags) = self.tags.get_mut(slot) {
            *tags = extra.origin.tags;
        }
        match &mut self.idle {
            None => limit,
            Some(idle) => {
                put(&mut idle.limits, slot, limit);
                idle.deadline(now, limit)
            }
        }
    }

    /// A live entry is hit: may it be served? If it is one that idles, its deadline moves. It never
    /// moves to before what it was when the shard was last written to, so bounds hold.
    pub(crate) fn hit(&self, slot: u32, deadline: &AtomicU64, now: impl FnOnce() -> Nanos) -> bool {
        if let Some(idle) = &self.idle {
            let moved = idle.deadline(now(), idle.limits[slot as usize]);
            if moved > deadline.load(Relaxed) {
                deadline.store(moved, Relaxed);
            }
        }
        self.is_current(slot)
    }

    /// The slot is vacant now.
    pub(crate) fn clear(&mut self, slot: u32) {
        if let Some(tags) = self.tags.get_mut(slot as usize) {
            *tags = None;
        }
    }

    pub(crate) fn weight(&self, slot: u32) -> u64 {
        let weights = self.weights.as_ref();
        weights.map_or(1, |weights| weights[slot as usize])
    }

    /// How far hits may move an entry's deadline, in a cache where they do.
    pub(crate) fn idle_limit(&self, slot: u32) -> Option<Nanos> {
        let idle = self.idle.as_ref()?;
        Some(idle.limits[slot as usize])
    }

    /// Returns the weight that an entry was given, or `None` if the weigher was asked.
    pub(crate) fn own_weight(&self, slot: u32) -> Option<u64> {
        let given = self.given_weights.get(slot as usize) == Some(&true);
        given.then(|| self.weight(slot))
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
        self.tags.get(slot as usize)?.as_deref()
    }

    /// May entries be dead before their deadline?
    pub(crate) fn may_die(&self) -> bool {
        !self.tags.is_empty() || self.births.is_some()
    }
}

fn put(figures: &mut Vec<u64>, slot: usize, figure: u64) {
    if figures.len() <= slot {
        figures.resize(slot + 1, 0);
    }
    figures[slot] = figure;
}
