//! A hash table that grows without rehashing all of its values in one call.

use crate::storage::allocated::AllocatedBytes;
use hashbrown::HashTable;

/// The number of buckets of the former table that an insertion drains. The new table has room for twice as many
/// values as there are. The former table has at most 16 buckets for each 7 values, removed ones included. It is
/// therefore drained long before the new table is full.
pub(crate) const BUCKETS_PER_STEP: usize = 256;

/// A hash table whose growth is spread over many insertions.
///
/// All operations on a value use the same hash: `hash_of` returns the one that the value was inserted with. `HashTable`
/// requires it.
///
/// While it grows there are two tables. Values are inserted into the new one and looked up in both, the new one first.
/// A lookup of a value in the new one costs the same as in a plain table.
#[repr(C)]
pub(crate) struct Index<T> {
    /// All values, except those that have not moved yet.
    table: HashTable<T>,
    /// The former table while its values are moved.
    outgrown: Option<Box<Outgrown<T>>>,
    /// An empty table for the next growth.
    spare: Option<Box<HashTable<T>>>,
}

/// The capacity from which on a table gets a spare one. A smaller table is allocated when it is needed.
const MIN_SPARE_CAPACITY: usize = 1 << 16;

/// A table whose values are being moved to a larger one.
struct Outgrown<T> {
    table: HashTable<T>,
    /// The next bucket to be drained. Those below it are empty.
    next: usize,
}

impl<T> Default for Index<T> {
    fn default() -> Self {
        Self {
            table: HashTable::new(),
            outgrown: None,
            spare: None,
        }
    }
}

impl<T: Copy> Index<T> {
    /// Creates an empty index with room for `capacity` values.
    pub(crate) fn with_capacity(capacity: usize) -> Self {
        Self {
            table: HashTable::with_capacity(capacity),
            outgrown: None,
            spare: None,
        }
    }

    /// Returns the number of values.
    pub(crate) fn len(&self) -> usize {
        self.table.len() + self.outgrown.as_ref().map_or(0, |old| old.table.len())
    }

    /// Returns the table that holds all values, except those that have not moved yet.
    #[inline(always)]
    pub(crate) fn current(&self) -> &HashTable<T> {
        &self.table
    }

    /// Returns a value, whether or not it has moved.
    #[inline]
    pub(crate) fn find(&self, hash: u64, is_it: impl Fn(&T) -> bool) -> Option<T> {
        match self.table.find(hash, &is_it) {
            Some(&found) => Some(found),
            None => match &self.outgrown {
                None => None,
                Some(outgrown) => outgrown.find(hash, is_it),
            },
        }
    }

    /// Removes a value. Returns whether the index contained it.
    #[inline]
    pub(crate) fn remove(&mut self, hash: u64, is_it: impl Fn(&T) -> bool) -> bool {
        match self.table.find_entry(hash, &is_it) {
            Ok(found) => {
                found.remove();
                true
            }
            Err(_) => self.remove_outgrown(hash, is_it),
        }
    }

    /// Removes a value that has not moved yet.
    #[cold]
    fn remove_outgrown(&mut self, hash: u64, is_it: impl Fn(&T) -> bool) -> bool {
        let Some(outgrown) = &mut self.outgrown else {
            return false;
        };
        let found = outgrown.table.find_entry(hash, is_it);
        found
            .map(hashbrown::hash_table::OccupiedEntry::remove)
            .is_ok()
    }

    /// Returns `true` if the next insertion would rehash the table, because it is full of values and of tombstones of
    /// removed ones.
    #[inline]
    pub(crate) fn is_full(&self) -> bool {
        self.table.capacity() == self.table.len()
    }

    /// Returns `true` if the table is large and almost full, and there is no spare one. Allocating a table of four
    /// million buckets takes two milliseconds, so the caller does it where no lock is held.
    #[inline]
    pub(crate) fn needs_spare(&self) -> bool {
        let capacity = self.table.capacity();
        capacity >= MIN_SPARE_CAPACITY
            && capacity - self.table.len() <= capacity / 64
            && self.spare.is_none()
    }

    /// Allocates an empty table for `capacity` values, and touches all of its pages. Otherwise each of the first
    /// steps would fault about 200 pages, because it moves values to random places. That takes more than a millisecond.
    pub(crate) fn prepare_table(capacity: usize) -> HashTable<T>
    where
        T: Default,
    {
        const BUCKETS_PER_PAGE: usize = 512;
        let mut table = HashTable::with_capacity(capacity);
        for bucket in (0..table.num_buckets()).step_by(BUCKETS_PER_PAGE) {
            table.insert_unique(bucket as u64, T::default(), |_| bucket as u64);
        }
        table.clear();
        table
    }

    /// Stores an empty table for the next growth, or returns it as an error if there is one already.
    pub(crate) fn set_spare(&mut self, table: HashTable<T>) -> Result<(), HashTable<T>> {
        if self.spare.is_some() {
            return Err(table);
        }
        self.spare = Some(Box::new(table));
        Ok(())
    }

    /// Inserts a value that is not in the index. If the table is full, it rehashes all values at once: call
    /// [`grow`](Self::grow) before that.
    #[inline]
    pub(crate) fn insert(&mut self, hash: u64, value: T, hash_of: impl Fn(&T) -> u64) {
        debug_assert_eq!(
            hash,
            hash_of(&value),
            "a value has one hash for all operations"
        );
        self.table.insert_unique(hash, value, hash_of);
    }

    /// Returns `true` while values are left to be moved.
    pub(crate) fn is_growing(&self) -> bool {
        self.outgrown.is_some()
    }

    /// Allocates a table for `capacity` values and begins to move the present ones there.
    #[cold]
    pub(crate) fn grow(&mut self, capacity: usize, hash_of: impl Fn(&T) -> u64) {
        while self.outgrown.is_some() {
            self.step(usize::MAX, &hash_of);
        }
        // If most buckets contain tombstones only, the new table has to leave enough insertions to drain them.
        let least = self.table.len() + self.table.num_buckets() / 8 + 1;
        let capacity = capacity.max(least);
        let spare = self.spare.take().map(|spare| *spare);
        let table = spare
            .filter(|spare| spare.capacity() >= capacity)
            .unwrap_or_else(|| HashTable::with_capacity(capacity));
        let table = std::mem::replace(&mut self.table, table);
        if !table.is_empty() {
            self.outgrown = Some(Box::new(Outgrown { table, next: 0 }));
        }
    }

    /// Moves the values of up to `buckets` buckets. After the last one, returns the former table. The caller drops it
    /// where no lock is held.
    pub(crate) fn step(
        &mut self,
        buckets: usize,
        hash_of: impl Fn(&T) -> u64,
    ) -> Option<HashTable<T>> {
        let Self {
            table, outgrown, ..
        } = self;
        let Outgrown { table: from, next } = &mut **outgrown.as_mut()?;
        let end = next.saturating_add(buckets).min(from.num_buckets());
        for bucket in *next..end {
            if let Ok(found) = from.get_bucket_entry(bucket) {
                let (value, _) = found.remove();
                table.insert_unique(hash_of(&value), value, &hash_of);
            }
        }
        *next = end;
        if !from.is_empty() {
            return None;
        }
        outgrown.take().map(|emptied| emptied.table)
    }

    /// Returns all values, in no particular order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = T> + '_ {
        let outgrown = self.outgrown.iter();
        let outgrown = outgrown.flat_map(|outgrown| outgrown.table.iter());
        self.table.iter().chain(outgrown).copied()
    }
}

impl<T> AllocatedBytes for Index<T> {
    fn allocated_bytes(&self) -> usize {
        let tables = self.table.allocated_bytes() + self.spare.allocated_bytes();
        tables + self.outgrown.allocated_bytes()
    }
}

impl<T> AllocatedBytes for Outgrown<T> {
    fn allocated_bytes(&self) -> usize {
        self.table.allocated_bytes()
    }
}

impl<T: Copy> Outgrown<T> {
    /// Returns a value that has not moved yet.
    #[cold]
    #[inline(never)]
    fn find(&self, hash: u64, is_it: impl Fn(&T) -> bool) -> Option<T> {
        self.table.find(hash, is_it).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{GOLDEN_RATIO, spread};

    #[allow(clippy::trivially_copy_pass_by_ref)]
    fn hash_of(value: &u32) -> u64 {
        spread((*value).into(), GOLDEN_RATIO)
    }

    #[test]
    fn values_are_found_and_removed_while_the_index_grows() {
        let mut index = Index::default();
        let mut steps = 0;
        for value in 0..50_000_u32 {
            if index.is_full() {
                assert!(index.outgrown.is_none(), "it is full before it has grown");
                index.grow(index.len() * 2, hash_of);
            }
            let rehash = |hashed: &u32| {
                assert_eq!(*hashed, value, "all values are rehashed at once");
                hash_of(hashed)
            };
            index.insert(hash_of(&value), value, rehash);
            if index.outgrown.is_some() {
                steps += 1;
                index.step(BUCKETS_PER_STEP, hash_of);
                let find = |value: u32| index.find(hash_of(&value), |&other| other == value);
                for value in [0, value / 2, value / 3 * 2, value - 1] {
                    assert_eq!(find(value), (value % 5 != 1).then_some(value));
                }
            }
            if value % 5 == 1 {
                assert!(index.remove(hash_of(&value), |&other| other == value));
                assert!(!index.remove(hash_of(&value), |&other| other == value));
            }
        }
        assert_eq!((index.len(), index.iter().count()), (40_000, 40_000));
        assert!(steps > 100, "it has grown at once");
    }

    #[test]
    fn spare_table_is_requested_before_it_is_needed_and_used_once() {
        let mut index = Index::with_capacity(MIN_SPARE_CAPACITY);
        let mut value = 0;
        while !index.needs_spare() {
            assert!(!index.is_full());
            index.insert(hash_of(&value), value, hash_of);
            value += 1;
        }
        let spare = || Index::prepare_table(4 * MIN_SPARE_CAPACITY);
        assert!(spare().is_empty() && spare().capacity() >= 4 * MIN_SPARE_CAPACITY);
        assert!(index.set_spare(spare()).is_ok() && !index.needs_spare());
        assert!(index.set_spare(spare()).is_err());
        index.grow(2 * MIN_SPARE_CAPACITY, hash_of);
        assert!(index.table.capacity() >= 4 * MIN_SPARE_CAPACITY);
        assert!(index.spare.is_none() && !index.needs_spare());
    }
}
