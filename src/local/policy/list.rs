//! Lists of slots that are taken from at their heads only, so that one link a slot does.

use crate::local::column::Column;

/// The link of the last slot of a list.
pub(super) const END: u32 = u32::MAX;
/// The link of a slot that is in no list.
pub(super) const UNFILED: u32 = u32::MAX - 1;

/// The links of all lists of a policy, by slot.
pub(super) struct Links(Column<u32>);

impl Links {
    pub(super) const fn new() -> Self {
        Self(Column::new())
    }

    /// The number of slots that have ever been filed.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns `true` if the slot is in a list.
    #[inline]
    pub(super) fn is_filed(&self, slot: u32) -> bool {
        self.0.get(slot).is_some_and(|&link| link != UNFILED)
    }

    /// Makes sure that the slot has a link.
    #[inline]
    pub(super) fn cover(&mut self, slot: u32) {
        while self.0.len() <= slot as usize {
            self.0.push(UNFILED);
        }
    }

    #[inline]
    fn set(&mut self, slot: u32, link: u32) {
        if let Some(place) = self.0.get_mut(slot) {
            *place = link;
        }
    }

    #[inline]
    fn get(&self, slot: u32) -> u32 {
        self.0.get(slot).copied().unwrap_or(UNFILED)
    }

    /// Takes a slot out of its list. Returns the next one of that list.
    #[inline]
    fn unfile(&mut self, slot: u32) -> u32 {
        let link = self.0.get_mut(slot);
        link.map_or(END, |link| std::mem::replace(link, UNFILED))
    }

    /// Begins to make room for so many slots: see [`Column::grow`].
    pub(super) fn grow(&mut self, slots: usize) {
        self.0.grow(slots);
    }

    /// Goes on with it: see [`Column::step`].
    pub(super) fn step(&mut self, most: usize) -> Option<Vec<u32>> {
        self.0.step(most)
    }
}

/// Slots in the order in which they were filed. If the list is empty the tail means nothing.
///
/// A slot that is vacated stays where it is filed. Whoever takes it finds it vacant, or filled again.
#[derive(Clone, Copy)]
pub(super) struct List {
    pub(super) head: u32,
    pub(super) tail: u32,
}

impl List {
    pub(super) const EMPTY: Self = Self {
        head: END,
        tail: END,
    };

    #[inline]
    pub(super) fn is_empty(self) -> bool {
        self.head == END
    }

    #[inline]
    pub(super) fn push(&mut self, slot: u32, links: &mut Links) {
        links.set(slot, END);
        if self.head == END {
            self.head = slot;
        } else {
            links.set(self.tail, slot);
        }
        self.tail = slot;
    }

    pub(super) fn push_first(&mut self, slot: u32, links: &mut Links) {
        links.set(slot, self.head);
        if self.head == END {
            self.tail = slot;
        }
        self.head = slot;
    }

    #[inline]
    pub(super) fn pop(&mut self, links: &mut Links) -> Option<u32> {
        let head = self.head;
        if head == END {
            return None;
        }
        self.head = links.unfile(head);
        Some(head)
    }

    /// The slots from the head on.
    pub(super) fn iter(self, links: &Links) -> impl Iterator<Item = u32> {
        let mut at = self.head;
        std::iter::from_fn(move || {
            let slot = at;
            if slot == END {
                return None;
            }
            at = links.get(slot);
            Some(slot)
        })
    }

    /// Moves the list to other slots and links: `slot_of` returns the new number of each slot, or `None` to
    /// leave it out.
    pub(super) fn renumber(
        &mut self,
        from: &Links,
        to: &mut Links,
        slot_of: impl Fn(u32) -> Option<u32>,
    ) {
        let mut renumbered = Self::EMPTY;
        for slot in self.iter(from).filter_map(slot_of) {
            renumbered.push(slot, to);
        }
        *self = renumbered;
    }
}

#[allow(clippy::cast_possible_truncation)]
pub(super) fn as_slot(slots: usize) -> u32 {
    slots as u32
}
