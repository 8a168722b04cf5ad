//! Lists from which slots are removed at the head only, so that one link for each slot is enough.

use crate::storage::allocated::AllocatedBytes;
use crate::storage::column::Column;
use std::mem::replace;

/// The link of the last slot of a list.
pub(crate) const END: u32 = u32::MAX;
/// The link of a slot that is in no list.
pub(crate) const UNFILED: u32 = u32::MAX - 1;

/// The links of all lists of a policy, by slot.
pub(crate) struct Links(Column<u32>);

impl Links {
    /// Creates links for no slots.
    pub(crate) const fn new() -> Self {
        Self(Column::new())
    }

    /// Returns the number of slots that have a link.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Checks whether a slot is in a list.
    #[inline]
    pub(crate) fn is_filed(&self, slot: u32) -> bool {
        self.0.get(slot).is_some_and(|&link| link != UNFILED)
    }

    /// Adds links up to this slot, if it has none.
    #[inline]
    pub(crate) fn cover(&mut self, slot: u32) {
        while self.0.len() <= slot as usize {
            self.0.push(UNFILED);
        }
    }

    /// Sets the link of a slot.
    #[inline]
    fn set(&mut self, slot: u32, link: u32) {
        if let Some(location) = self.0.get_mut(slot) {
            *location = link;
        }
    }

    /// Returns the link of a slot for writing, or `None` if it has none or has not moved to larger storage yet.
    #[inline(always)]
    pub(crate) fn get_moved_mut(&mut self, slot: u32) -> Option<&mut u32> {
        self.0.get_moved_mut(slot)
    }

    /// Returns the link of a slot.
    #[inline]
    fn get(&self, slot: u32) -> u32 {
        self.0.get(slot).copied().unwrap_or(UNFILED)
    }

    /// Returns the slot that follows this one in its list, if there is one.
    pub(crate) fn next(&self, slot: u32) -> Option<u32> {
        Some(self.get(slot)).filter(|&next| next != END && next != UNFILED)
    }

    /// Clears the link of a slot that was [detached](List::detach).
    #[inline]
    pub(crate) fn clear(&mut self, slot: u32) {
        self.set(slot, UNFILED);
    }

    /// Clears the link of a slot that is removed from its list, and returns the next slot of that list.
    #[inline]
    fn unfile(&mut self, slot: u32) -> u32 {
        let link = self.0.get_mut(slot);
        link.map_or(END, |link| replace(link, UNFILED))
    }

    /// Begins to make room for `slots` slots: see [`Column::grow`].
    pub(crate) fn grow(&mut self, slots: usize) {
        self.0.grow(slots);
    }

    /// Moves up to `most` slots: see [`Column::step`].
    pub(crate) fn step(&mut self, most: usize) -> Option<Vec<u32>> {
        self.0.step(most)
    }
}

impl AllocatedBytes for Links {
    fn allocated_bytes(&self) -> usize {
        self.0.allocated_bytes()
    }
}

/// A list of slots. If it is empty, the tail has no meaning.
///
/// A slot that is vacated stays in its list. It is vacant, or filled again, when it is removed from the list.
#[derive(Clone, Copy)]
pub(crate) struct List {
    head: u32,
    tail: u32,
}

impl List {
    /// A list without slots.
    pub(crate) const EMPTY: Self = Self {
        head: END,
        tail: END,
    };

    /// Returns `true` if the list has no slots.
    #[inline]
    pub(crate) fn is_empty(self) -> bool {
        self.head == END
    }

    /// Returns the first slot, or [`END`].
    #[inline]
    pub(crate) fn head(self) -> u32 {
        self.head
    }

    /// Removes the first slot. `next` is its link.
    #[inline]
    pub(crate) fn set_head(&mut self, next: u32) {
        self.head = next;
    }

    /// Adds a slot at the head, and returns the link that the caller gives it.
    #[inline]
    pub(crate) fn replace_head(&mut self, slot: u32) -> u32 {
        if self.is_empty() {
            self.tail = slot;
        }
        replace(&mut self.head, slot)
    }

    /// Adds a slot at the end.
    #[inline]
    pub(crate) fn push(&mut self, slot: u32, links: &mut Links) {
        links.set(slot, END);
        if self.is_empty() {
            self.head = slot;
        } else {
            links.set(self.tail, slot);
        }
        self.tail = slot;
    }

    /// Adds a slot at the head.
    #[inline]
    pub(crate) fn push_first(&mut self, slot: u32, links: &mut Links) {
        let next = self.replace_head(slot);
        links.set(slot, next);
    }

    /// Removes the first slot and returns it, but keeps its link. The caller files the slot in a list again, or
    /// [clears](Links::clear) the link.
    #[inline]
    pub(crate) fn detach(&mut self, links: &Links) -> Option<u32> {
        let head = self.head;
        if head == END {
            return None;
        }
        self.head = links.get(head);
        Some(head)
    }

    /// Removes the first slot and returns it.
    #[inline]
    pub(crate) fn pop(&mut self, links: &mut Links) -> Option<u32> {
        let head = self.head;
        if head == END {
            return None;
        }
        self.head = links.unfile(head);
        Some(head)
    }

    /// Returns the slots from the head on.
    pub(crate) fn iter(self, links: &Links) -> impl Iterator<Item = u32> {
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

    /// Moves the list to other slots and links. `slot_of` returns the new number of each slot, or `None` to
    /// leave it out.
    pub(crate) fn renumber(
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

/// Converts a number of slots to the type that numbers them.
#[allow(clippy::cast_possible_truncation)]
pub(crate) fn as_slot(slots: usize) -> u32 {
    slots as u32
}
