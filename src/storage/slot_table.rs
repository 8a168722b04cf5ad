//! A hash table of slot numbers, in four bytes for each position.
//!
//! It is open addressing with linear probing and Robin Hood insertion (Celis, "Robin Hood Hashing", 1986). A *cell* is
//! one word:
//!
//! ```text
//!  31 .. 28   27 .. 23   22 .. 0
//! +----------+----------+---------+
//! | DISTANCE | TAG      | SLOT    |
//! +----------+----------+---------+
//! ```
//!
//! The distance is that from the *home* of the slot's hash, plus one. It is zero in an empty cell, and saturates at
//! [`FAR`]. The tag consists of further bits of the hash. Distance and tag together are the *head* of the cell.
//!
//! The cells of a run are in the order of their homes, and cells with the same home in descending order of their tags.
//! So a search that compares a cell with the head that is expected at its position learns everything at once: if the
//! cell is less, the search ends; if the heads are equal, the slot is a candidate; otherwise the search goes on. A
//! removal moves the cells after it back by one position, so there are no tombstones.
//!
//! A distance that is saturated says too little of the order. Such cells, which are rare unless the hash is poor, are
//! handled in separate functions, which compute the distance from the hash of the slot.

use crate::storage::allocated::AllocatedBytes;
use crate::storage::index::Table;
use std::hint::black_box;
use std::mem::replace;

/// The number of bits of a slot.
const SLOT_BITS: u32 = 23;
const SLOT: u32 = (1 << SLOT_BITS) - 1;
const DISTANCE_SHIFT: u32 = SLOT_BITS + CellHash::TAG_BITS;
/// One position of distance.
const ONE: u32 = 1 << DISTANCE_SHIFT;
/// The distance at which it saturates.
const FAR: u32 = 15 << DISTANCE_SHIFT;
const EMPTY: u32 = 0;

/// The number of slots that a table can contain.
pub(crate) const MAX_SLOTS: u32 = SLOT + 1;

/// The least number of cells. With it, a full table has two empty cells.
const MIN_CELLS: usize = 8;

/// The hash of a slot, as the table uses it.
#[derive(Clone, Copy)]
pub(crate) struct CellHash {
    /// Bits from which the home is taken, the lowest first.
    home: u32,
    /// The head of a cell at the home.
    head: u32,
}

impl CellHash {
    /// The number of bits of a tag.
    pub(crate) const TAG_BITS: u32 = 5;

    /// Creates a hash from the bits of a home and of a tag, of which the lowest [`TAG_BITS`](Self::TAG_BITS) are used.
    #[inline(always)]
    pub(crate) const fn new(home: u32, tag: u32) -> Self {
        Self {
            home,
            head: ONE | ((tag << SLOT_BITS) % ONE),
        }
    }

    #[inline(always)]
    const fn home(self, mask: usize) -> usize {
        self.home as usize & mask
    }

    /// Checks whether a table with this mask of positions does not distinguish two hashes.
    #[cfg(test)]
    pub(crate) fn is_equal(self, other: Self, mask: usize) -> bool {
        self.home(mask) == other.home(mask) && self.head == other.head
    }
}

/// The place where a slot that was not found is to be inserted. It is valid until the table changes.
#[derive(Clone, Copy)]
pub(crate) struct Vacancy {
    position: usize,
    /// The head of the cell at this position.
    head: u32,
}

/// The result of [`SlotTable::probe`].
pub(crate) enum Probe<R> {
    Found(R),
    Vacant(Vacancy),
    /// The slot is absent or so far from its home that other functions have to be used.
    Far,
}

/// A table of slots.
#[derive(Default)]
pub(crate) struct SlotTable {
    /// The cells. Their number is a power of two, or zero.
    cells: Box<[u32]>,
    len: usize,
}

impl SlotTable {
    /// Creates an empty table with room for `capacity` slots, and touches all of its pages. Otherwise the first
    /// insertions, which go to random places, would fault hundreds of pages, perhaps under a lock.
    pub(crate) fn prepared(capacity: usize) -> Self {
        const CELLS_PER_PAGE: usize = 4_096 / size_of::<u32>();
        let mut table = Self::with_capacity(capacity);
        for cell in table.cells.iter_mut().step_by(CELLS_PER_PAGE) {
            // The compiler would omit a plain store of zero to memory that was allocated as zeros.
            *black_box(cell) = EMPTY;
        }
        table
    }

    /// Returns the mask of positions. Without cells, no position is valid.
    #[inline(always)]
    fn mask(&self) -> usize {
        self.cells.len().wrapping_sub(1)
    }

    /// Returns the result of `pick` for a slot in the first two cells of a search for this hash, where most slots
    /// are, or `None`. `pick` has to return `None` for numbers that are no slots.
    ///
    /// The slot that matches is selected without a branch, because processors would often mispredict it. With branches,
    /// a lookup of a random key took a third longer.
    #[inline(always)]
    pub(crate) fn find_near<R>(
        &self,
        hash: CellHash,
        pick: impl Fn(u32) -> Option<R>,
    ) -> Option<R> {
        let mask = self.mask();
        let position = hash.home(mask);
        let first = self.cells.get(position)? ^ hash.head;
        let second = self.cells[(position + 1) & mask] ^ (hash.head + ONE);
        // All bits are set if `first` is a slot. A comparison would be compiled to a branch.
        #[allow(clippy::cast_sign_loss, clippy::cast_possible_truncation)]
        let is_first = ((i64::from(first) - i64::from(MAX_SLOTS)) >> 63) as u32;
        pick(second ^ ((first ^ second) & is_first))
    }

    /// Returns the first result of `pick` for a slot with this hash, or the place to insert one. `pick` has to return
    /// `None` for numbers that are no slots.
    #[inline(always)]
    pub(crate) fn probe<R>(&self, hash: CellHash, pick: impl Fn(u32) -> Option<R>) -> Probe<R> {
        let mask = self.mask();
        let mut position = hash.home(mask);
        let mut head = hash.head;
        while let Some(&cell) = self.cells.get(position) {
            // Unless the heads are equal, this is no slot.
            if let Some(found) = pick(cell ^ head) {
                return Probe::Found(found);
            }
            if cell < head {
                return Probe::Vacant(Vacancy { position, head });
            }
            head += ONE;
            if head >= FAR {
                return Probe::Far;
            }
            position = (position + 1) & mask;
        }
        Probe::Far
    }

    /// Returns the first cell that a search for a hash reads, or `None` if there are no cells.
    #[inline]
    pub(crate) fn first_cell(&self, hash: CellHash) -> Option<&u32> {
        self.cells.get(hash.home(self.mask()))
    }

    /// Searches the cells whose distance is saturated.
    #[cold]
    #[inline(never)]
    fn find_far<R>(&self, hash: CellHash, pick: impl Fn(u32) -> Option<R>) -> Option<R> {
        Some(self.find_far_position(hash, pick)?.1)
    }

    /// Returns the first result of `pick` for a slot whose distance is saturated, with its position.
    fn find_far_position<R>(
        &self,
        hash: CellHash,
        pick: impl Fn(u32) -> Option<R>,
    ) -> Option<(usize, R)> {
        let mask = self.mask();
        let mut position = self.first_far(hash)?;
        let head = (hash.head % ONE) | FAR;
        while self.cells[position] >= FAR {
            if let Some(found) = pick(self.cells[position] ^ head) {
                return Some((position, found));
            }
            position = (position + 1) & mask;
        }
        None
    }

    /// Returns the first position of which the distance is saturated, or `None` if there are no cells.
    fn first_far(&self, hash: CellHash) -> Option<usize> {
        let mask = self.mask();
        let steps = (FAR / ONE - 1) as usize;
        (!self.cells.is_empty()).then(|| (hash.home(mask) + steps) & mask)
    }

    /// Inserts a slot where [`probe`](Self::probe) has found it absent. The caller has checked that there is room, or
    /// removes another slot next: a full table has room for one more.
    #[inline(always)]
    pub(crate) fn insert_at(&mut self, Vacancy { position, head }: Vacancy, slot: u32) {
        debug_assert!(slot < MAX_SLOTS && self.len < self.cells.len() - 1);
        let mask = self.mask();
        let mut position = position;
        let mut moved = replace(&mut self.cells[position], head | slot);
        while moved != EMPTY {
            if moved < FAR {
                moved += ONE;
            }
            position = (position + 1) & mask;
            moved = replace(&mut self.cells[position], moved);
        }
        self.len += 1;
    }

    /// Inserts a slot behind cells whose distance is saturated.
    #[cold]
    #[inline(never)]
    fn insert_far(&mut self, hash: CellHash, slot: u32, hash_of: impl Fn(u32) -> CellHash) {
        let Some(mut position) = self.first_far(hash) else {
            unreachable!("the caller has checked that there is room");
        };
        let mask = self.mask();
        let tag = hash.head % ONE;
        loop {
            let cell = self.cells[position];
            let own = position.wrapping_sub(hash.home(mask)) & mask;
            let is_before = cell < FAR || {
                let distance = self.distance(position, &hash_of);
                distance < own || distance == own && cell % ONE < tag
            };
            if is_before {
                break;
            }
            position = (position + 1) & mask;
        }
        let head = FAR | tag;
        self.insert_at(Vacancy { position, head }, slot);
    }

    /// Returns the true distance from home of the cell at a position.
    fn distance(&self, position: usize, hash_of: impl Fn(u32) -> CellHash) -> usize {
        let mask = self.mask();
        let home = hash_of(self.cells[position] & SLOT).home(mask);
        position.wrapping_sub(home) & mask
    }

    /// Removes the slot at a position, and moves the cells after it back.
    #[inline(always)]
    fn remove_at(&mut self, mut position: usize, hash_of: impl Fn(u32) -> CellHash) {
        let mask = self.mask();
        self.len -= 1;
        loop {
            let next = (position + 1) & mask;
            let cell = self.cells[next];
            if cell < 2 * ONE {
                self.cells[position] = EMPTY;
                return;
            }
            if cell >= FAR {
                self.move_back_far(position, hash_of);
                return;
            }
            self.cells[position] = cell - ONE;
            position = next;
        }
    }

    /// Moves the cells after a position back, of which some are saturated.
    #[cold]
    #[inline(never)]
    fn move_back_far(&mut self, mut position: usize, hash_of: impl Fn(u32) -> CellHash) {
        let mask = self.mask();
        loop {
            let next = (position + 1) & mask;
            let mut cell = self.cells[next];
            if cell < 2 * ONE {
                self.cells[position] = EMPTY;
                return;
            }
            if cell < FAR || self.is_first_far(next, &hash_of) {
                cell -= ONE;
            }
            self.cells[position] = cell;
            position = next;
        }
    }

    /// Removes a slot whose distance is saturated. Returns whether the table contained it.
    #[cold]
    #[inline(never)]
    fn remove_far(&mut self, hash: CellHash, slot: u32, hash_of: impl Fn(u32) -> CellHash) -> bool {
        let pick = |other| (other == slot).then_some(());
        let Some((position, ())) = self.find_far_position(hash, pick) else {
            return false;
        };
        self.remove_at(position, hash_of);
        true
    }

    /// Checks whether the distance of a cell is exactly that at which it saturates.
    fn is_first_far(&self, position: usize, hash_of: impl Fn(u32) -> CellHash) -> bool {
        self.distance(position, hash_of) == (FAR / ONE - 1) as usize
    }
}

impl Table for SlotTable {
    type Hash = CellHash;
    type Value = u32;

    fn with_capacity(capacity: usize) -> Self {
        if capacity == 0 {
            return Self::default();
        }
        let cells = (capacity * 4).div_ceil(3).next_power_of_two();
        let cells = cells.max(MIN_CELLS);
        Self {
            cells: vec![EMPTY; cells].into(),
            len: 0,
        }
    }

    #[inline(always)]
    fn len(&self) -> usize {
        self.len
    }

    /// Returns three quarters of the number of cells. So there are always two empty cells, at which each search ends.
    #[inline(always)]
    fn capacity(&self) -> usize {
        self.cells.len() / 4 * 3
    }

    fn buckets(&self) -> usize {
        self.cells.len()
    }

    #[inline(always)]
    fn find<R>(&self, hash: CellHash, pick: impl Fn(u32) -> Option<R>) -> Option<R> {
        match self.probe(hash, &pick) {
            Probe::Found(found) => Some(found),
            Probe::Vacant(_) => None,
            Probe::Far => self.find_far(hash, pick),
        }
    }

    #[inline]
    fn insert(&mut self, hash: CellHash, slot: u32, hash_of: impl Fn(u32) -> CellHash) {
        // A slot with the same head goes before or after the others, whichever is faster.
        match self.probe(hash, |_| None::<()>) {
            Probe::Vacant(vacancy) => self.insert_at(vacancy, slot),
            Probe::Found(()) | Probe::Far => self.insert_far(hash, slot, hash_of),
        }
    }

    #[inline(always)]
    fn remove(&mut self, hash: CellHash, slot: u32, hash_of: impl Fn(u32) -> CellHash) -> bool {
        let mask = self.mask();
        let mut position = hash.home(mask);
        let mut expected = hash.head | slot;
        while let Some(&cell) = self.cells.get(position) {
            if cell == expected {
                self.remove_at(position, hash_of);
                return true;
            }
            if cell < expected & !SLOT {
                return false;
            }
            expected += ONE;
            if expected >= FAR {
                return self.remove_far(hash, slot, hash_of);
            }
            position = (position + 1) & mask;
        }
        false
    }

    fn take_from(&mut self, position: usize, hash_of: impl Fn(u32) -> CellHash) -> Option<u32> {
        let cell = self.cells[position];
        if cell == EMPTY {
            return None;
        }
        self.remove_at(position, hash_of);
        Some(cell & SLOT)
    }

    fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        let cells = self.cells.iter().filter(|&&cell| cell != EMPTY);
        cells.map(|&cell| cell & SLOT)
    }
}

impl AllocatedBytes for SlotTable {
    fn allocated_bytes(&self) -> usize {
        self.cells.allocated_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::mix;
    use std::collections::HashSet;

    /// Checks the order of the cells and the distances.
    fn validate(table: &SlotTable, hash_of: impl Fn(u32) -> CellHash + Copy) {
        let mask = table.mask();
        assert_eq!(table.iter().count(), table.len());
        for position in 0..table.cells.len() {
            let cell = table.cells[position];
            if cell == EMPTY {
                continue;
            }
            let distance = table.distance(position, hash_of);
            let hash = hash_of(cell & SLOT);
            assert_eq!((cell % ONE) & !SLOT, hash.head % ONE, "tag");
            let saturated = u32::try_from(distance + 1).unwrap_or(15).min(15);
            assert_eq!(cell / ONE, saturated, "distance");
            let before = position.wrapping_sub(1) & mask;
            if distance > 0 {
                assert_ne!(table.cells[before], EMPTY, "a gap before home");
                let distance_before = table.distance(before, hash_of);
                assert!(distance_before + 1 >= distance, "order of homes");
                if distance_before + 1 == distance {
                    let tags = [table.cells[before], cell].map(|cell| (cell % ONE) & !SLOT);
                    assert!(tags[0] >= tags[1], "order of tags");
                }
            }
        }
    }

    /// Inserts and removes slots, and compares the table with a set, for hashes from good to constant.
    #[test]
    #[allow(clippy::cast_possible_truncation)]
    fn slots_are_found_until_they_are_removed_for_any_quality_of_the_hash() {
        for (homes, tags) in [
            (u32::MAX, 32),
            (64, 32),
            (8, 3),
            (1, 32),
            (1, 1),
            (1_000, 1),
        ] {
            let hash_of = |slot: u32| {
                let bits = mix(slot.into());
                CellHash::new(bits as u32 % homes, (bits >> 40) as u32 % tags)
            };
            let mut table = SlotTable::with_capacity(96);
            assert_eq!(table.capacity(), 96);
            let mut present = HashSet::new();
            let mut state = 7;
            for step in 0..20_000_u64 {
                state = mix(state + step);
                let slot = (state % 200) as u32;
                let hash = hash_of(slot);
                let found = table.find(hash, |other| (other == slot).then_some(other));
                assert_eq!(found, present.contains(&slot).then_some(slot));
                if found.is_some() {
                    assert!(table.remove(hash, slot, hash_of));
                    present.remove(&slot);
                } else {
                    assert!(!table.remove(hash, slot, hash_of));
                    if table.len() < table.capacity() {
                        table.insert(hash, slot, hash_of);
                        present.insert(slot);
                    }
                }
                if step % 16 == 0 {
                    validate(&table, hash_of);
                }
            }
            assert!(present.len() > 50 || table.len() > 50);
            for position in 0..table.buckets() {
                while let Some(slot) = table.take_from(position, hash_of) {
                    assert!(present.remove(&slot));
                    validate(&table, hash_of);
                }
            }
            assert!(present.is_empty() && table.len() == 0);
        }
    }

    #[test]
    fn table_without_cells_contains_nothing_and_has_no_room() {
        let mut table = SlotTable::default();
        let hash = CellHash::new(5, 5);
        assert_eq!(table.find(hash, Some), None);
        assert!(!table.remove(hash, 1, |_| hash));
        assert_eq!((table.len(), table.capacity(), table.buckets()), (0, 0, 0));
    }
}
