//! An index of deadlines, to find expired entries.
//!
//! A deadline is stored with its entry, where a hit reads it. To find the entries that are past their deadline, there
//! is a tree of lower bounds over the slots: one for each block of 32 slots, one for each 32 blocks, and so on up to
//! one for all. A write whose deadline lies after the bounds above its slot does not change the tree. If all entries
//! have the same time to live, this holds for every write. Bounds become too low when the entries with the lowest
//! deadlines are removed, so a search that finds no deadline near a bound raises it. The tree takes a quarter of a byte
//! a slot.

use crate::clock::{NEVER, Nanos};
use crate::storage::allocated::AllocatedBytes;
use std::ops::Range;

/// The number of slots in a block.
pub(crate) const SLOTS_PER_BLOCK: u32 = 32;
/// The number of slots, or of smaller blocks, in a block.
const FAN_OUT: usize = SLOTS_PER_BLOCK as usize;

/// A tree of lower bounds on the deadlines of a shard.
pub(crate) struct Expiry {
    /// The bound on all deadlines.
    soonest: Nanos,
    /// The time for which entries are kept past their deadline, in nanoseconds.
    grace: Nanos,
    /// The bounds of all blocks, by level. The blocks of the first level are those of slots. The last level has one
    /// block. There are no levels if there are no deadlines.
    levels: Vec<Vec<Nanos>>,
    /// The number of blocks of slots that are still to be searched, whatever their bounds are.
    to_search: usize,
    /// The block of slots that was searched last.
    hand: usize,
}

impl Expiry {
    /// Creates an index without deadlines.
    pub(crate) const fn new(grace: Nanos) -> Self {
        Self {
            soonest: NEVER,
            grace,
            levels: Vec::new(),
            to_search: 0,
            hand: 0,
        }
    }

    /// Discards all deadlines, because the entries were given other slots, of which there are `slots`. The caller sets
    /// their deadlines again. A search of all slots that is in progress begins again.
    pub(crate) fn restart(&mut self, slots: u32) {
        let searches = self.to_search > 0;
        *self = Self::new(self.grace);
        if searches {
            self.search_all(slots);
        }
    }

    /// Returns the bound on all deadlines.
    #[inline]
    pub(crate) fn soonest(&self) -> Nanos {
        self.soonest
    }

    /// Sets the deadline of a slot.
    #[inline(always)]
    pub(crate) fn set(&mut self, slot: u32, deadline: Nanos) {
        if deadline == NEVER {
            return;
        }
        let block = slot as usize / FAN_OUT;
        match self.levels.first().and_then(|blocks| blocks.get(block)) {
            Some(&bound) if bound <= deadline => {}
            _ => self.lower(block, deadline),
        }
    }

    /// Lowers the bounds above a block of slots to this deadline.
    #[cold]
    fn lower(&mut self, mut block: usize, deadline: Nanos) {
        self.cover(block);
        for level in &mut self.levels {
            if level[block] <= deadline {
                return;
            }
            level[block] = deadline;
            block /= FAN_OUT;
        }
        self.soonest = self.soonest.min(deadline);
    }

    /// Extends the tree so that it has a bound for this block of slots.
    fn cover(&mut self, last: usize) {
        let (mut level, mut last) = (0, last);
        loop {
            if self.levels.len() == level {
                // The bound on all deadlines becomes the bound of the first block.
                self.levels.push(vec![self.soonest]);
            }
            let blocks = &mut self.levels[level];
            if blocks.len() <= last {
                blocks.resize(last + 1, NEVER);
            }
            if blocks.len() == 1 {
                return;
            }
            (level, last) = (level + 1, last / FAN_OUT);
        }
    }

    /// Checks whether an entry may have expired, or a block is to be searched.
    #[inline]
    pub(crate) fn is_due(&self, now: Nanos) -> bool {
        self.is_over(self.soonest, now) || self.to_search > 0
    }

    /// Returns the slots of a block in which an entry may have expired, or `None` if none has. The caller visits all of
    /// them, and then calls [`raise`](Self::raise) with the lowest deadline that is left.
    pub(crate) fn due(&mut self, now: Nanos) -> Option<Range<u32>> {
        let block = self.search().or_else(|| self.soonest_block(now))?;
        let slots = block * FAN_OUT..(block + 1) * FAN_OUT;
        Some(slot_number(slots.start)..slot_number(slots.end))
    }

    /// Returns the next block to be searched, if there is one.
    fn search(&mut self) -> Option<usize> {
        self.to_search = self.to_search.checked_sub(1)?;
        let blocks = self.levels.first().map_or(0, Vec::len);
        self.hand = if self.hand + 1 < blocks {
            self.hand + 1
        } else {
            0
        };
        Some(self.hand)
    }

    /// Returns a block of slots whose bound is past, if there is one. Raises bounds that are too low on the way.
    fn soonest_block(&mut self, now: Nanos) -> Option<usize> {
        'search: while self.is_over(self.soonest, now) {
            let mut block = 0;
            for level in (0..self.levels.len()).rev() {
                let blocks = &self.levels[level];
                let mut children = block * FAN_OUT..blocks.len().min((block + 1) * FAN_OUT);
                let Some(child) = children.find(|&child| self.is_over(blocks[child], now)) else {
                    self.tighten(level + 1, block);
                    continue 'search;
                };
                block = child;
            }
            return Some(block);
        }
        None
    }

    /// Sets the bound of a block to the least of the bounds below it, in this level and in all levels above. The top
    /// level is `soonest`.
    fn tighten(&mut self, level: usize, mut block: usize) {
        for level in level..=self.levels.len() {
            let blocks = &self.levels[level - 1];
            let children = block * FAN_OUT..blocks.len().min((block + 1) * FAN_OUT);
            let bound = blocks[children].iter().copied().min().unwrap_or(NEVER);
            match self.levels.get_mut(level) {
                Some(blocks) => blocks[block] = bound,
                None => self.soonest = bound,
            }
            block /= FAN_OUT;
        }
    }

    /// Sets the bound of a block of slots that was visited. No deadline in it lies before `bound`.
    pub(crate) fn raise(&mut self, slots: &Range<u32>, bound: Nanos) {
        let block = slots.start as usize / FAN_OUT;
        self.levels[0][block] = bound;
        self.tighten(1, block / FAN_OUT);
    }

    /// Checks whether the deadline of an entry and the grace after it have passed.
    #[inline]
    pub(crate) fn is_over(&self, deadline: Nanos, now: Nanos) -> bool {
        deadline.saturating_add(self.grace) <= now
    }

    /// Makes all blocks of `slots` slots due, because entries may be dead before their deadline. The search begins
    /// after the block where the last search ended.
    pub(crate) fn search_all(&mut self, slots: u32) {
        if let Some(last) = slots.checked_sub(1) {
            self.cover(last as usize / FAN_OUT);
            self.to_search = self.levels[0].len();
        }
    }

    /// Checks the bounds, for tests.
    ///
    /// # Panics
    ///
    /// Panics if a deadline lies before a bound.
    pub(crate) fn validate(&self, deadlines: impl Iterator<Item = (u32, Nanos)>) {
        for (slot, deadline) in deadlines {
            let mut block = slot as usize;
            for level in &self.levels {
                block /= FAN_OUT;
                let bound = level.get(block).copied().unwrap_or(NEVER);
                assert!(deadline >= bound, "slot {slot} is before its bound");
            }
            assert!(
                deadline >= self.soonest,
                "slot {slot} is before the bound on all slots"
            );
        }
    }
}

/// Converts the end of a block to a slot number. The end of the last block may be greater than any slot number.
fn slot_number(slot: usize) -> u32 {
    u32::try_from(slot).unwrap_or(u32::MAX)
}

impl AllocatedBytes for Expiry {
    fn allocated_bytes(&self) -> usize {
        let levels = self.levels.iter().map(Vec::allocated_bytes);
        self.levels.allocated_bytes() + levels.sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Compares the index with a plain list of deadlines, which are added, removed and changed.
    #[test]
    fn every_expired_deadline_is_found_and_few_blocks_are_visited_twice() {
        let mut expiry = Expiry::new(5);
        let mut deadlines: Vec<Option<Nanos>> = vec![None; 40_000];
        let mut state = 1u64;
        let mut random = |below: u64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 33) % below
        };
        let mut visited_blocks = 0;
        for now in 0..60_000 {
            for _ in 0..2 {
                let below = random(40_000) + 1;
                let slot = usize::try_from(random(below)).unwrap();
                let deadline = match random(4) {
                    0 => NEVER,
                    1 => now + random(20_000),
                    _ => now + 10_000,
                };
                deadlines[slot] = Some(deadline);
                expiry.set(u32::try_from(slot).unwrap(), deadline);
                deadlines[usize::try_from(random(40_000)).unwrap()] = None;
            }
            while let Some(slots) = expiry.due(now) {
                visited_blocks += 1;
                let block = &mut deadlines[slots.start as usize..slots.end as usize];
                for deadline in block.iter_mut() {
                    deadline.take_if(|deadline| deadline.saturating_add(5) <= now);
                }
                let bound = block.iter().flatten().min();
                expiry.raise(&slots, bound.copied().unwrap_or(NEVER));
            }
            let present = deadlines.iter().flatten();
            if now % 100 == 0 {
                assert!(
                    present
                        .clone()
                        .all(|deadline| deadline.saturating_add(5) > now)
                );
                let by_slot = (0..).zip(&deadlines);
                expiry.validate(by_slot.filter_map(|(slot, deadline)| Some((slot, (*deadline)?))));
            }
        }
        assert!(
            visited_blocks < 2 * 60_000,
            "{visited_blocks} visits for as many deadlines"
        );
        expiry.search_all(40_000);
        let mut blocks = 0;
        while let Some(slots) = expiry.due(10) {
            expiry.raise(&slots, 1_000_000);
            blocks += 1;
        }
        assert_eq!(blocks, 40_000 / 32);
    }
}
