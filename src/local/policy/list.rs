//! Lists of slots that are taken from at their heads only, so that one link a slot does.

/// The link of the last slot of a list.
pub(super) const END: u32 = u32::MAX;
/// The link of a slot that is in no list.
pub(super) const UNFILED: u32 = u32::MAX - 1;

/// Slots in the order in which they were filed; the links of all lists of a policy are in one array, by
/// slot. If the list is empty the tail means nothing.
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
    pub(super) fn push(&mut self, slot: u32, links: &mut [u32]) {
        links[slot as usize] = END;
        if self.head == END {
            self.head = slot;
        } else {
            links[self.tail as usize] = slot;
        }
        self.tail = slot;
    }

    pub(super) fn push_first(&mut self, slot: u32, links: &mut [u32]) {
        links[slot as usize] = self.head;
        if self.head == END {
            self.tail = slot;
        }
        self.head = slot;
    }

    #[inline]
    pub(super) fn pop(&mut self, links: &mut [u32]) -> Option<u32> {
        let head = self.head;
        let link = links.get_mut(head as usize)?;
        self.head = std::mem::replace(link, UNFILED);
        Some(head)
    }

    /// The slots from the head on.
    pub(super) fn iter(self, links: &[u32]) -> impl Iterator<Item = u32> {
        let mut at = self.head;
        std::iter::from_fn(move || {
            let slot = at;
            at = *links.get(slot as usize)?;
            Some(slot)
        })
    }
}

#[allow(clippy::cast_possible_truncation)]
pub(super) fn as_slot(slots: usize) -> u32 {
    slots as u32
}
