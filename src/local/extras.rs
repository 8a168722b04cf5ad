//! What lies beside an entry, by slot, in a cache that has such a thing: most have none of it, and
//! hits do not look at what is not there.

use crate::clock::Nanos;
use crate::local::renewal::{Renewals, Rules};
use crate::local::tags::Tagged;

pub(crate) struct Extras {
    /// Empty until an entry has tags.
    tags: Vec<Option<Box<Tagged>>>,
    pub(crate) renewals: Option<Renewals>,
    /// `None` where each entry weighs 1.
    weights: Option<Vec<u64>>,
}

/// What an entry is stored with.
pub(crate) struct Extra {
    pub(crate) weight: u64,
    pub(crate) origin: Origin,
}

/// Where a value comes from.
#[derive(Default)]
pub(crate) struct Origin {
    /// How long it took to load.
    pub(crate) load_time: Nanos,
    pub(crate) tags: Option<Box<Tagged>>,
}

impl Extras {
    pub(crate) fn new(weighted: bool, renewal: Option<Rules>) -> Self {
        Self {
            tags: Vec::new(),
            renewals: renewal.map(Renewals::new),
            weights: weighted.then(Vec::new),
        }
    }

    pub(crate) fn set(&mut self, slot: u32, extra: Extra, now: Nanos) {
        if let Some(renewals) = &mut self.renewals {
            renewals.set(slot, now, extra.origin.load_time);
        }
        let slot = slot as usize;
        if let Some(weights) = &mut self.weights {
            if weights.len() <= slot {
                weights.resize(slot + 1, 0);
            }
            weights[slot] = extra.weight;
        }
        if extra.origin.tags.is_some() && self.tags.len() <= slot {
            self.tags.resize_with(slot + 1, || None);
        }
        if let Some(tags) = self.tags.get_mut(slot) {
            *tags = extra.origin.tags;
        }
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

    /// Was no tag of the entry invalidated?
    #[inline]
    pub(crate) fn is_current(&self, slot: u32) -> bool {
        self.tags(slot).is_none_or(Tagged::is_current)
    }

    #[inline]
    pub(crate) fn tags(&self, slot: u32) -> Option<&Tagged> {
        self.tags.get(slot as usize)?.as_deref()
    }

    pub(crate) fn has_tags(&self) -> bool {
        !self.tags.is_empty()
    }
}
