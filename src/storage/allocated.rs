//! The size of the memory that data structures have allocated.

use hashbrown::{HashMap, HashSet, HashTable};
use std::alloc::Layout;
use std::collections::VecDeque;
use std::hash::{BuildHasher, Hash};

/// A data structure that allocates memory.
pub(crate) trait AllocatedBytes {
    /// Returns the size of the memory that the structure has allocated, in bytes, without the size of the structure
    /// itself.
    ///
    /// It is the sum of the sizes that were requested from the allocator. The memory that the keys and values of a
    /// cache own is not included. The time that this takes does not depend on the number of entries.
    fn allocated_bytes(&self) -> usize;
}

/// The items of collections are included, but not the memory that they own.
impl<T> AllocatedBytes for Vec<T> {
    fn allocated_bytes(&self) -> usize {
        self.capacity() * size_of::<T>()
    }
}

impl<T> AllocatedBytes for VecDeque<T> {
    fn allocated_bytes(&self) -> usize {
        self.capacity() * size_of::<T>()
    }
}

impl<T> AllocatedBytes for Box<[T]> {
    fn allocated_bytes(&self) -> usize {
        size_of_val(&**self)
    }
}

impl<T> AllocatedBytes for HashTable<T> {
    fn allocated_bytes(&self) -> usize {
        self.allocation_size()
    }
}

impl<K: Eq + Hash, V, S: BuildHasher> AllocatedBytes for HashMap<K, V, S> {
    fn allocated_bytes(&self) -> usize {
        self.allocation_size()
    }
}

impl<T: Eq + Hash, S: BuildHasher> AllocatedBytes for HashSet<T, S> {
    fn allocated_bytes(&self) -> usize {
        self.allocation_size()
    }
}

impl<T: AllocatedBytes> AllocatedBytes for Box<T> {
    fn allocated_bytes(&self) -> usize {
        size_of::<T>() + (**self).allocated_bytes()
    }
}

impl<T: AllocatedBytes> AllocatedBytes for Option<T> {
    fn allocated_bytes(&self) -> usize {
        self.as_ref().map_or(0, T::allocated_bytes)
    }
}

/// Returns the size of the memory that an `Arc` of a value with this layout allocates, in bytes: that of the value and
/// of two counters.
pub(crate) fn arc_bytes(value: Layout) -> usize {
    let both = Layout::new::<[usize; 2]>().extend(value);
    both.map_or(0, |(both, _)| both.pad_to_align().size())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allocation_of_an_arc_has_room_for_both_counters_and_the_alignment() {
        let counters = 2 * size_of::<usize>();
        assert_eq!(
            arc_bytes(Layout::new::<usize>()),
            counters + size_of::<usize>()
        );
        // Ten bytes are padded to the alignment of the counters.
        let padded = 10_usize.next_multiple_of(align_of::<usize>());
        assert_eq!(
            arc_bytes(Layout::for_value("nine chars")),
            counters + padded
        );
        let aligned = Layout::from_size_align(64, 64).unwrap();
        assert_eq!(arc_bytes(aligned), 128);
    }

    #[test]
    fn contents_of_boxes_are_included_and_those_of_items_are_not() {
        let items = vec![vec![1_u64; 5], Vec::with_capacity(7)];
        assert_eq!(items.allocated_bytes(), 2 * size_of::<Vec<u64>>());
        let boxed = Some(Box::new(items));
        assert_eq!(boxed.allocated_bytes(), 3 * size_of::<Vec<u64>>());
        assert_eq!(None::<Box<Vec<u64>>>.allocated_bytes(), 0);
    }
}
