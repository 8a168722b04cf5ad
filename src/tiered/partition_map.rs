//! The partitions in which each key is, in a layout and in the layout that the namespace is moving to.

use crate::tiered::l2::remote::Subject;
use crate::tiered::layout_change::LayoutChange;
use crate::tiered::refresh::key_of_refresh_lease;
use std::ops::Range;
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_64;

/// Returns the number of the partition of a key, of `count` partitions.
pub(super) fn number_of(name: &[u8], count: usize) -> usize {
    place(hash(name), count)
}

/// Returns the hash that decides in which partition a key is, and whether it is moved.
fn hash(name: &[u8]) -> u64 {
    xxh3_64(name)
}

/// Returns the number of the partition of keys with this hash, of `count` partitions.
fn place(hash: u64, count: usize) -> usize {
    #[allow(clippy::cast_possible_truncation)] // The other bits are masked.
    let hash = hash as usize;
    hash & (count - 1)
}

/// The numbers of the partitions of each key. The partitions of the next layout have the numbers after those of the
/// current one. The number of each layout is a power of two.
pub(super) struct PartitionMap {
    /// The number of partitions of the current layout.
    count: usize,
    /// The number of partitions of the next layout, or 0.
    next: usize,
    change: Option<Arc<LayoutChange>>,
}

impl PartitionMap {
    /// Creates the map of a layout with `count` partitions and, if there is a change, of the next layout.
    pub(super) fn new(count: u16, change: Option<Arc<LayoutChange>>) -> Self {
        let next = change.as_ref().map_or(0, |change| change.to);
        Self {
            count: count.into(),
            next: next.into(),
            change,
        }
    }

    /// Returns the number of partitions of both layouts.
    pub(super) fn len(&self) -> usize {
        self.count + self.next
    }

    /// Checks whether it is known in which layout each key is read.
    pub(super) fn is_known(&self) -> bool {
        self.change.as_ref().is_none_or(|change| change.is_known())
    }

    /// Returns the percentage of keys that are read in the next layout.
    pub(super) fn moved_percent(&self) -> f64 {
        let change = self.change.as_ref();
        change.map_or(0.0, |change| change.moved_percent())
    }

    /// Returns the number of partitions of the layout that contains this partition.
    pub(super) fn layout_of(&self, number: usize) -> usize {
        if number < self.count {
            self.count
        } else {
            self.next
        }
    }

    /// Returns the number of the partition in which this key is read, or the key of this refresh lease.
    pub(super) fn number_of(&self, name: &[u8]) -> usize {
        let hash = hash(key_of_refresh_lease(name).unwrap_or(name));
        match &self.change {
            Some(change) if change.is_moved(hash) => self.count + place(hash, self.next),
            _ => place(hash, self.count),
        }
    }

    /// Returns the numbers of the partitions of a key: in the layout, and in the next one.
    pub(super) fn numbers_of(&self, name: &[u8]) -> impl Iterator<Item = usize> + use<> {
        let [old, new] = self.written_by_key(name);
        old.chain(new)
    }

    fn written_by_key(&self, name: &[u8]) -> [Range<usize>; 2] {
        let hash = hash(name);
        let old = place(hash, self.count);
        let new = match self.next {
            0 => 0..0,
            next => {
                let new = self.count + place(hash, next);
                new..new + 1
            }
        };
        [old..old + 1, new]
    }

    /// Returns the numbers of the partitions to which a change is written: first those of the layout and, when all of
    /// them have it, those of the next one.
    pub(super) fn written(&self, subject: &Subject) -> [Range<usize>; 2] {
        match subject {
            Subject::Key(name) => self.written_by_key(name),
            Subject::Tag(_) | Subject::All => [0..self.count, self.count..self.len()],
        }
    }

    /// Returns the numbers of the partitions to which a change is written after this partition.
    pub(super) fn written_after(&self, number: usize, subject: &Subject) -> Range<usize> {
        let [_, next] = self.written(subject);
        if number < self.count { next } else { 0..0 }
    }

    /// Returns the number of the partition from which a value for this key is copied to this partition.
    pub(super) fn source_of(&self, name: &[u8], number: usize) -> Option<usize> {
        let copies = self.change.as_ref().is_some_and(|change| change.copies());
        (copies && number >= self.count).then(|| place(hash(name), self.count))
    }

    /// Returns the number of partitions of L1: that of the layout with more partitions. Each of them is a part of one
    /// partition of both layouts.
    pub(super) fn count_in_l1(&self) -> usize {
        self.count.max(self.next)
    }

    /// Returns the partitions of L1 that are parts of this partition.
    pub(super) fn parts_in_l1(&self, number: usize) -> impl Iterator<Item = usize> + use<> {
        let first = number.checked_sub(self.count).unwrap_or(number);
        (first..self.count_in_l1()).step_by(self.layout_of(number))
    }

    /// Returns the partitions that contain this partition of L1.
    pub(super) fn containing(&self, part: usize) -> impl Iterator<Item = usize> + use<> {
        let new = (self.next > 0).then(|| self.count + (part & (self.next - 1)));
        std::iter::once(part & (self.count - 1)).chain(new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tiered::layout_change::Phase;
    use crate::tiered::rollout::Rollout;
    use std::time::Instant;

    fn map(count: u16, next: u16) -> PartitionMap {
        let change = (next > 0).then(|| {
            let change = LayoutChange::new(count, next, Rollout::full());
            change.enter(Some(Phase::Moved), Instant::now());
            Arc::new(change)
        });
        PartitionMap::new(count, change)
    }

    #[test]
    fn partition_of_l1_is_part_of_one_partition_of_each_layout() {
        for (count, next) in [(1, 0), (8, 0), (1, 16), (16, 1), (4, 32), (32, 4)] {
            let all = map(count, next);
            assert_eq!(all.count_in_l1(), usize::from(count.max(next)));
            for key in 0..1_000_u32 {
                let name = key.to_be_bytes();
                let part = number_of(&name, all.count_in_l1());
                let numbers: Vec<_> = all.numbers_of(&name).collect();
                assert_eq!(all.containing(part).collect::<Vec<_>>(), numbers);
                for number in 0..all.len() {
                    let has_part = all.parts_in_l1(number).any(|it| it == part);
                    assert_eq!(has_part, numbers.contains(&number));
                }
            }
        }
    }

    #[test]
    fn change_is_written_to_the_layout_before_the_next_one() {
        let all = map(2, 4);
        assert_eq!(all.written(&Subject::All), [0..2, 2..6]);
        let subject = Subject::Key(b"key"[..].into());
        let [old, new] = all.written(&subject);
        assert!(old.start < 2 && new.start >= 2 && old.len() == 1 && new.len() == 1);
        assert_eq!(all.number_of(b"key"), new.start);
        assert_eq!(all.written_after(old.start, &subject), new);
        assert!(all.written_after(new.start, &subject).is_empty());
        assert_eq!(
            all.source_of(b"key", new.start),
            None,
            "nothing is copied any more"
        );
        let [old, new] = map(4, 0).written(&Subject::All);
        assert!(old.len() == 4 && new.is_empty());
    }
}
