//! An index that grows without rehashing all of its values in one call.

use crate::storage::allocated::AllocatedBytes;
use hashbrown::HashTable;

/// The number of buckets of the former table that an insertion drains. The new table has room for twice as many
/// values as there are. The former table has at most 16 buckets for each 7 values, removed ones included. It is
/// therefore drained long before the new table is full.
pub(crate) const BUCKETS_PER_STEP: usize = 256;

/// A hash table of values, which does not store their hashes.
///
/// All operations on a value use the same hash: `hash_of` returns the one that the value was inserted with.
pub(crate) trait Table: Default + AllocatedBytes {
    type Hash: Copy;
    type Value: Copy + PartialEq;

    /// Creates an empty table with room for `capacity` values.
    fn with_capacity(capacity: usize) -> Self;

    /// Returns the number of values.
    fn len(&self) -> usize;

    /// Returns the number of values that the table has room for, with those that it contains.
    fn capacity(&self) -> usize;

    /// Returns the number of buckets.
    fn buckets(&self) -> usize;

    /// Returns the first result of `pick` for a value with this hash. `pick` may be called with other values, and has
    /// to return `None` for what was never inserted.
    fn find<R>(&self, hash: Self::Hash, pick: impl Fn(Self::Value) -> Option<R>) -> Option<R>;

    /// Inserts a value that is not in the table. The caller has checked that there is room.
    fn insert(
        &mut self,
        hash: Self::Hash,
        value: Self::Value,
        hash_of: impl Fn(Self::Value) -> Self::Hash,
    );

    /// Removes a value. Returns whether the table contained it.
    fn remove(
        &mut self,
        hash: Self::Hash,
        value: Self::Value,
        hash_of: impl Fn(Self::Value) -> Self::Hash,
    ) -> bool;

    /// Removes a value of a bucket and returns it, or `None` if the bucket is empty.
    fn take_from(
        &mut self,
        bucket: usize,
        hash_of: impl Fn(Self::Value) -> Self::Hash,
    ) -> Option<Self::Value>;

    /// Returns all values, in no particular order.
    fn iter(&self) -> impl Iterator<Item = Self::Value> + '_;
}

impl<T: Copy + PartialEq> Table for HashTable<T> {
    type Hash = u64;
    type Value = T;

    fn with_capacity(capacity: usize) -> Self {
        Self::with_capacity(capacity)
    }

    fn len(&self) -> usize {
        self.len()
    }

    fn capacity(&self) -> usize {
        self.capacity()
    }

    fn buckets(&self) -> usize {
        self.num_buckets()
    }

    fn find<R>(&self, hash: u64, pick: impl Fn(T) -> Option<R>) -> Option<R> {
        let found = self.find(hash, |&value| pick(value).is_some());
        found.and_then(|&value| pick(value))
    }

    fn insert(&mut self, hash: u64, value: T, hash_of: impl Fn(T) -> u64) {
        self.insert_unique(hash, value, |&value| hash_of(value));
    }

    fn remove(&mut self, hash: u64, value: T, _: impl Fn(T) -> u64) -> bool {
        let found = self.find_entry(hash, |&other| other == value);
        found
            .map(hashbrown::hash_table::OccupiedEntry::remove)
            .is_ok()
    }

    fn take_from(&mut self, bucket: usize, _: impl Fn(T) -> u64) -> Option<T> {
        let found = self.get_bucket_entry(bucket).ok()?;
        Some(found.remove().0)
    }

    fn iter(&self) -> impl Iterator<Item = T> + '_ {
        self.iter().copied()
    }
}

/// A table whose growth is spread over many insertions.
///
/// While it grows there are two tables. Values are inserted into the new one and looked up in both, the new one first.
/// A lookup of a value in the new one costs the same as in a plain table.
#[repr(C)]
pub(crate) struct Index<B> {
    /// All values, except those that have not moved yet.
    table: B,
    /// `None` most of the time. It is one pointer, so that little lies between the fields that writes change.
    growth: Option<Box<Growth<B>>>,
}

/// A second table.
enum Growth<B> {
    /// The former table, while its values are moved to the larger one.
    Outgrown(Outgrown<B>),
    /// An empty table for the next growth.
    Spare(B),
}

/// The capacity from which on a table gets a spare one. A smaller table is allocated when it is needed.
const MIN_SPARE_CAPACITY: usize = 1 << 16;

/// A table whose values are being moved to a larger one.
struct Outgrown<B> {
    table: B,
    /// The next bucket to be drained. Those below it are empty.
    next: usize,
}

impl<B: Default> Default for Index<B> {
    fn default() -> Self {
        Self {
            table: B::default(),
            growth: None,
        }
    }
}

impl<B: Table> Index<B> {
    /// Creates an empty index with room for `capacity` values.
    pub(crate) fn with_capacity(capacity: usize) -> Self {
        Self {
            table: B::with_capacity(capacity),
            growth: None,
        }
    }

    /// Returns the former table while its values are moved.
    fn outgrown(&self) -> Option<&Outgrown<B>> {
        match self.growth.as_deref() {
            Some(Growth::Outgrown(outgrown)) => Some(outgrown),
            _ => None,
        }
    }

    /// Returns the number of values.
    pub(crate) fn len(&self) -> usize {
        self.table.len() + self.outgrown().map_or(0, |old| old.table.len())
    }

    /// Returns the table that holds all values, except those that have not moved yet.
    #[inline(always)]
    pub(crate) fn current(&self) -> &B {
        &self.table
    }

    /// Returns the table that holds all values, except those that have not moved yet.
    #[inline(always)]
    pub(crate) fn current_mut(&mut self) -> &mut B {
        &mut self.table
    }

    /// Returns the first result of `pick` for a value with this hash, whether or not it has moved.
    #[inline]
    pub(crate) fn find<R>(&self, hash: B::Hash, pick: impl Fn(B::Value) -> Option<R>) -> Option<R> {
        match self.table.find(hash, &pick) {
            None => self.find_outgrown(hash, pick),
            found => found,
        }
    }

    /// Returns a value that has not moved yet.
    #[cold]
    #[inline(never)]
    fn find_outgrown<R>(&self, hash: B::Hash, pick: impl Fn(B::Value) -> Option<R>) -> Option<R> {
        self.outgrown()?.table.find(hash, pick)
    }

    /// Removes a value. Returns whether the index contained it.
    #[inline(always)]
    pub(crate) fn remove(
        &mut self,
        hash: B::Hash,
        value: B::Value,
        hash_of: impl Fn(B::Value) -> B::Hash,
    ) -> bool {
        self.table.remove(hash, value, &hash_of) || self.remove_outgrown(hash, value, hash_of)
    }

    /// Removes a value that has not moved yet.
    #[cold]
    #[inline(never)]
    fn remove_outgrown(
        &mut self,
        hash: B::Hash,
        value: B::Value,
        hash_of: impl Fn(B::Value) -> B::Hash,
    ) -> bool {
        match self.growth.as_deref_mut() {
            Some(Growth::Outgrown(outgrown)) => outgrown.table.remove(hash, value, hash_of),
            _ => false,
        }
    }

    /// Returns `true` if the next insertion needs a larger table. A `HashTable` may be full of tombstones of removed
    /// values.
    #[inline]
    pub(crate) fn is_full(&self) -> bool {
        self.table.capacity() == self.table.len()
    }

    /// Returns `true` if the table is large and almost full, and there is no second one. Allocating a table of four
    /// million buckets takes two milliseconds, so the caller does it where no lock is held.
    #[inline]
    pub(crate) fn needs_spare(&self) -> bool {
        let capacity = self.table.capacity();
        capacity >= MIN_SPARE_CAPACITY
            && capacity - self.table.len() <= capacity / 64
            && self.growth.is_none()
    }

    /// Stores an empty table for the next growth, or returns it as an error if there is a second one already.
    pub(crate) fn set_spare(&mut self, table: B) -> Result<(), B> {
        if self.growth.is_some() {
            return Err(table);
        }
        self.growth = Some(Box::new(Growth::Spare(table)));
        Ok(())
    }

    /// Inserts a value that is not in the index. The caller has [grown](Self::grow) the table if it was
    /// [full](Self::is_full).
    #[inline]
    pub(crate) fn insert(
        &mut self,
        hash: B::Hash,
        value: B::Value,
        hash_of: impl Fn(B::Value) -> B::Hash,
    ) {
        self.table.insert(hash, value, hash_of);
    }

    /// Returns `true` while values are left to be moved.
    pub(crate) fn is_growing(&self) -> bool {
        self.outgrown().is_some()
    }

    /// Allocates a table for `capacity` values and begins to move the present ones there.
    #[cold]
    pub(crate) fn grow(&mut self, capacity: usize, hash_of: impl Fn(B::Value) -> B::Hash) {
        while self.is_growing() {
            self.step(usize::MAX, &hash_of);
        }
        // If most buckets contain tombstones only, the new table has to leave enough insertions to drain them.
        let least = self.table.len() + self.table.buckets() / 8 + 1;
        let capacity = capacity.max(least);
        let table = match self.growth.take().map(|growth| *growth) {
            Some(Growth::Spare(spare)) if spare.capacity() >= capacity => spare,
            _ => B::with_capacity(capacity),
        };
        let table = std::mem::replace(&mut self.table, table);
        if table.len() > 0 {
            let outgrown = Outgrown { table, next: 0 };
            self.growth = Some(Box::new(Growth::Outgrown(outgrown)));
        }
    }

    /// Moves the values of up to `buckets` buckets. After the last one, returns the former table. The caller drops it
    /// where no lock is held.
    pub(crate) fn step(
        &mut self,
        buckets: usize,
        hash_of: impl Fn(B::Value) -> B::Hash,
    ) -> Option<B> {
        let Some(Growth::Outgrown(outgrown)) = self.growth.as_deref_mut() else {
            return None;
        };
        let Outgrown { table: from, next } = outgrown;
        let table = &mut self.table;
        let end = next.saturating_add(buckets).min(from.buckets());
        let mut values = 0;
        while *next < end && values < buckets {
            // A removal may move another value to the bucket.
            match from.take_from(*next, &hash_of) {
                Some(value) => {
                    table.insert(hash_of(value), value, &hash_of);
                    values += 1;
                }
                None => *next += 1,
            }
        }
        if from.len() > 0 {
            return None;
        }
        let emptied = std::mem::take(from);
        self.growth = None;
        Some(emptied)
    }

    /// Returns all values, in no particular order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = B::Value> + '_ {
        let outgrown = self.outgrown().into_iter();
        let outgrown = outgrown.flat_map(|outgrown| outgrown.table.iter());
        self.table.iter().chain(outgrown)
    }
}

impl<B: AllocatedBytes> AllocatedBytes for Index<B> {
    fn allocated_bytes(&self) -> usize {
        self.table.allocated_bytes() + self.growth.allocated_bytes()
    }
}

impl<B: AllocatedBytes> AllocatedBytes for Growth<B> {
    fn allocated_bytes(&self) -> usize {
        match self {
            Self::Outgrown(outgrown) => outgrown.table.allocated_bytes(),
            Self::Spare(table) => table.allocated_bytes(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{GOLDEN_RATIO, spread};
    use crate::storage::slot_table::{CellHash, SlotTable};

    fn hash_of(value: u32) -> u64 {
        spread(value.into(), GOLDEN_RATIO)
    }

    #[allow(clippy::cast_possible_truncation)]
    fn cell_of(value: u32) -> CellHash {
        CellHash::new((hash_of(value) >> 32) as u32, (hash_of(value) >> 59) as u32)
    }

    fn check_growth<B: Table<Value = u32>>(hash_of: impl Fn(u32) -> B::Hash + Copy) {
        let mut index = Index::<B>::default();
        let mut steps = 0;
        for value in 0..50_000_u32 {
            if index.is_full() {
                assert!(!index.is_growing(), "it is full before it has grown");
                index.grow(index.len() * 2, hash_of);
            }
            index.insert(hash_of(value), value, hash_of);
            if index.is_growing() {
                steps += 1;
                index.step(BUCKETS_PER_STEP, hash_of);
                let find = |value: u32| {
                    index.find(hash_of(value), |other| (other == value).then_some(other))
                };
                for value in [0, value / 2, value / 3 * 2, value - 1] {
                    assert_eq!(find(value), (value % 5 != 1).then_some(value));
                }
            }
            if value % 5 == 1 {
                assert!(index.remove(hash_of(value), value, hash_of));
                assert!(!index.remove(hash_of(value), value, hash_of));
            }
        }
        assert_eq!((index.len(), index.iter().count()), (40_000, 40_000));
        assert!(steps > 100, "it has grown at once");
    }

    #[test]
    fn values_are_found_and_removed_while_the_index_grows() {
        check_growth::<HashTable<u32>>(hash_of);
        check_growth::<SlotTable>(cell_of);
    }

    #[test]
    fn spare_table_is_requested_before_it_is_needed_and_used_once() {
        let mut index = Index::<SlotTable>::with_capacity(MIN_SPARE_CAPACITY);
        let mut value = 0;
        while !index.needs_spare() {
            assert!(!index.is_full());
            index.insert(cell_of(value), value, cell_of);
            value += 1;
        }
        let spare = || SlotTable::with_capacity(4 * MIN_SPARE_CAPACITY);
        assert!(spare().capacity() >= 4 * MIN_SPARE_CAPACITY);
        assert!(index.set_spare(spare()).is_ok() && !index.needs_spare());
        assert!(index.set_spare(spare()).is_err());
        index.grow(2 * MIN_SPARE_CAPACITY, cell_of);
        assert!(index.table.capacity() >= 4 * MIN_SPARE_CAPACITY);
        assert!(index.is_growing() && !index.needs_spare());
    }
}
