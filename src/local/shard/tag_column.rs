//! The tags of entries, by slot.

use crate::local::tags::EntryTags;
use crate::storage::allocated::AllocatedBytes;
use std::mem::replace;

/// The number of slots that share a block.
const BLOCK_SLOTS: usize = 256;

type SlotTags = Option<Box<EntryTags>>;
type Block = [SlotTags; BLOCK_SLOTS];

/// The tags of entries, by slot. A block is allocated when the first of its entries has tags, so that the first entry
/// with tags in a large shard allocates only one block.
#[derive(Default)]
pub(super) struct TagColumn {
    blocks: Vec<Option<Box<Block>>>,
    /// The size of all blocks and of the tags in them, in bytes. It is counted here, because a sum over all blocks
    /// would take a time proportional to the number of slots.
    content_bytes: usize,
}

impl TagColumn {
    /// Returns `true` if no entry has had tags.
    #[inline(always)]
    pub(super) fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// Returns the tags of a slot, if it has any.
    pub(super) fn get(&self, slot: u32) -> Option<&EntryTags> {
        let block = self.blocks.get(slot as usize / BLOCK_SLOTS)?.as_ref()?;
        block[slot as usize % BLOCK_SLOTS].as_deref()
    }

    /// Sets the tags of a slot.
    pub(super) fn put(&mut self, slot: u32, tags: SlotTags) {
        let (block, at) = (slot as usize / BLOCK_SLOTS, slot as usize % BLOCK_SLOTS);
        if tags.is_none() {
            if let Some(Some(block)) = self.blocks.get_mut(block) {
                self.content_bytes -= block[at].take().allocated_bytes();
            }
            return;
        }
        if self.blocks.len() <= block {
            self.blocks.resize_with(block + 1, || None);
        }
        self.content_bytes += tags.allocated_bytes();
        let block = self.blocks[block].get_or_insert_with(|| {
            self.content_bytes += size_of::<Block>();
            Box::new([const { None }; BLOCK_SLOTS])
        });
        self.content_bytes -= replace(&mut block[at], tags).allocated_bytes();
    }

    /// Returns the tags of these slots, in this order.
    pub(super) fn select(&mut self, slots: &[u32]) -> Self {
        let mut selected = Self::default();
        for (to, &from) in (0..).zip(slots) {
            let block = self.blocks.get_mut(from as usize / BLOCK_SLOTS);
            if let Some(Some(block)) = block {
                selected.put(to, block[from as usize % BLOCK_SLOTS].take());
            }
        }
        selected
    }
}

impl AllocatedBytes for TagColumn {
    fn allocated_bytes(&self) -> usize {
        self.blocks.allocated_bytes() + self.content_bytes
    }
}
