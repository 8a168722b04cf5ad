//! The epochs of entries, by slot.

use crate::storage::allocated::{AllocatedBytes, arc_bytes};
use crate::storage::column::Column;
use std::alloc::Layout;
use std::sync::Arc;
use std::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

/// The lowest epochs whose entries are live, one for each partition. They only rise.
pub(crate) struct MinLiveEpochs {
    /// The highest of all.
    latest: AtomicU64,
    by_partition: Box<[AtomicU64]>,
}

impl MinLiveEpochs {
    /// Creates the epochs of this number of partitions, all 0.
    pub(crate) fn new(partitions: u16) -> Self {
        Self {
            latest: AtomicU64::new(0),
            by_partition: (0..partitions).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// Raises the epoch of a partition to one that is higher than all others. One call runs at a time.
    #[cfg_attr(not(feature = "redis"), allow(dead_code))]
    pub(crate) fn raise(&self, partition: usize, epoch: u64) {
        self.by_partition[partition].store(epoch, Relaxed);
        self.latest.store(epoch, Release);
    }

    /// Raises the epochs of all partitions to one that is higher than all others. One call runs at a time.
    #[cfg_attr(not(feature = "redis"), allow(dead_code))]
    pub(crate) fn raise_all(&self, epoch: u64) {
        for min in &self.by_partition {
            min.store(epoch, Relaxed);
        }
        self.latest.store(epoch, Release);
    }

    fn of(&self, partition: usize) -> u64 {
        self.by_partition[partition].load(Relaxed)
    }
}

impl AllocatedBytes for MinLiveEpochs {
    fn allocated_bytes(&self) -> usize {
        arc_bytes(Layout::new::<Self>()) + self.by_partition.len() * size_of::<AtomicU64>()
    }
}

/// The partition of an entry and the epoch in which its load began, in one number, or 0 for a vacant slot.
#[derive(Clone, Copy, Default, PartialEq)]
struct Row(u64);

impl Row {
    /// The number of bits that the partition takes. The epoch has the others, which suffice for 10^15 invalidations.
    const PARTITION_BITS: u32 = 10;

    fn new(partition: u16, epoch: u64) -> Self {
        Self((epoch + 1) << Self::PARTITION_BITS | u64::from(partition))
    }

    /// Returns the partition and the epoch.
    #[allow(clippy::cast_possible_truncation)] // The other bits are masked.
    fn get(self) -> Option<(usize, u64)> {
        let epoch = (self.0 >> Self::PARTITION_BITS).checked_sub(1)?;
        let partition = self.0 as usize & ((1 << Self::PARTITION_BITS) - 1);
        Some((partition, epoch))
    }
}

/// The counts of a partition's entries.
#[derive(Clone, Default)]
struct Counts {
    /// The minimum live epoch for which `dead` was counted.
    min_live: u64,
    /// The number of entries whose epoch is below `min_live`.
    dead: u32,
    /// The number of entries.
    occupied: u32,
}

/// The partition of each slot's entry and the epoch in which its load began, in a shard whose entries are dead if their
/// epoch is below the minimum of their partition.
///
/// The dead entries are counted, so that a hit reads no row while there are none.
pub(super) struct EpochColumn {
    min_live: Arc<MinLiveEpochs>,
    /// The latest minimum live epoch at which no entry is dead, or `u64::MAX` if there may be a dead entry.
    all_live_at: u64,
    /// The latest minimum live epoch when the dead entries were counted.
    counted_at: u64,
    /// The number of dead entries of all partitions.
    dead: u32,
    counts: Box<[Counts]>,
    rows: Column<Row>,
}

impl EpochColumn {
    /// Creates a column without entries.
    pub(super) fn new(min_live: Arc<MinLiveEpochs>) -> Self {
        Self {
            all_live_at: 0,
            counted_at: 0,
            dead: 0,
            counts: vec![Counts::default(); min_live.by_partition.len()].into(),
            rows: Column::new(),
            min_live,
        }
    }

    /// Returns `true` if no entry is dead. If it returns `false`, there may be a dead one: see [`is_live`](Self::is_live).
    #[inline(always)]
    pub(super) fn are_all_live(&self) -> bool {
        // Relaxed suffices, because a caller that comes after the minimum was raised sees the new one.
        self.min_live.latest.load(Relaxed) == self.all_live_at
    }

    /// Checks whether the epoch of an entry is not below the minimum.
    pub(super) fn is_live(&self, slot: u32) -> bool {
        let row = self.row(slot).get();
        row.is_some_and(|(partition, epoch)| epoch >= self.min_live.of(partition))
    }

    /// Sets the partition and the epoch of an entry.
    pub(super) fn put(&mut self, slot: u32, partition: u16, epoch: u64) {
        self.count();
        self.discount(slot);
        let row = Row::new(partition, epoch);
        self.rows.put(slot, row);
        let counts = &mut self.counts[usize::from(partition)];
        counts.occupied += 1;
        let is_dead = u32::from(epoch < counts.min_live);
        counts.dead += is_dead;
        self.dead += is_dead;
        self.set_all_live_at();
    }

    /// Counts the dead entries again if a minimum was raised since the last time.
    fn count(&mut self) {
        // With this epoch, the minimum that was raised to it is seen as well.
        let latest = self.min_live.latest.load(Acquire);
        if latest == self.counted_at {
            return;
        }
        self.counted_at = latest;
        for (partition, counts) in self.counts.iter_mut().enumerate() {
            let min_live = self.min_live.of(partition);
            if min_live != counts.min_live {
                counts.min_live = min_live;
                // No load had begun in the epoch of the new minimum when it was raised, so all entries are older.
                counts.dead = counts.occupied;
            }
        }
        self.dead = self.counts.iter().map(|counts| counts.dead).sum();
    }

    /// Notes that a slot was vacated.
    pub(super) fn clear(&mut self, slot: u32) {
        self.discount(slot);
        if let Some(row) = self.rows.get_mut(slot) {
            *row = Row::default();
        }
        self.set_all_live_at();
    }

    /// Takes the entry of a slot, if there is one, out of the counts.
    fn discount(&mut self, slot: u32) {
        let Some((partition, epoch)) = self.row(slot).get() else {
            return;
        };
        let counts = &mut self.counts[partition];
        counts.occupied -= 1;
        let was_dead = u32::from(epoch < counts.min_live);
        counts.dead -= was_dead;
        self.dead -= was_dead;
    }

    /// Sets `all_live_at` by the counts.
    fn set_all_live_at(&mut self) {
        self.all_live_at = match self.dead {
            0 => self.counted_at,
            _ => u64::MAX,
        };
    }

    fn row(&self, slot: u32) -> Row {
        self.rows.get(slot).copied().unwrap_or_default()
    }

    /// Makes room for more entries: see [`Column::grow`].
    pub(super) fn rows(&mut self) -> &mut Column<impl Default + 'static> {
        &mut self.rows
    }
}

impl AllocatedBytes for EpochColumn {
    fn allocated_bytes(&self) -> usize {
        self.rows.allocated_bytes() + self.counts.len() * size_of::<Counts>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use std::collections::HashMap;

    const PARTITIONS: u16 = 4;

    /// An epoch column, and what it should have.
    struct Test {
        column: EpochColumn,
        min_live: Arc<MinLiveEpochs>,
        /// The current epoch.
        epoch: u64,
        entries: HashMap<u32, (u16, u64)>,
        min_live_by_partition: [u64; PARTITIONS as usize],
    }

    impl Test {
        fn new() -> Self {
            let min_live = Arc::new(MinLiveEpochs::new(PARTITIONS));
            let mut column = EpochColumn::new(Arc::clone(&min_live));
            column.rows().grow(100);
            Self {
                column,
                min_live,
                epoch: 0,
                entries: HashMap::new(),
                min_live_by_partition: [0; PARTITIONS as usize],
            }
        }

        /// Stores the value of a load that began in the current epoch, or `ago` epochs before.
        fn put(&mut self, slot: u32, partition: u16, ago: u64) {
            let epoch = self.epoch.saturating_sub(ago);
            self.column.put(slot, partition, epoch);
            self.entries.insert(slot, (partition, epoch));
            self.check();
        }

        fn clear(&mut self, slot: u32) {
            self.column.clear(slot);
            self.entries.remove(&slot);
            self.check();
        }

        fn invalidate(&mut self, partition: u16) {
            self.epoch += 1;
            self.min_live.raise(usize::from(partition), self.epoch);
            self.min_live_by_partition[usize::from(partition)] = self.epoch;
            self.check();
        }

        fn invalidate_all(&mut self) {
            self.epoch += 1;
            self.min_live.raise_all(self.epoch);
            self.min_live_by_partition = [self.epoch; PARTITIONS as usize];
            self.check();
        }

        fn check(&self) {
            for (&slot, &(partition, epoch)) in &self.entries {
                let is_live = epoch >= self.min_live_by_partition[usize::from(partition)];
                assert_eq!(self.column.is_live(slot), is_live, "slot {slot}");
                assert!(is_live || !self.column.are_all_live(), "slot {slot}");
            }
        }
    }

    #[test]
    fn hits_read_no_row_once_the_last_dead_entry_is_removed_or_replaced() {
        let mut test = Test::new();
        (0..4).for_each(|slot| test.put(slot, 0, 0));
        assert!(test.column.are_all_live());
        test.invalidate_all();
        assert!(!test.column.are_all_live());
        test.put(0, 0, 0);
        test.clear(1);
        test.clear(1);
        // The result of a load that began before the invalidation.
        test.put(2, 0, 1);
        test.put(3, 0, 0);
        assert!(!test.column.are_all_live());
        test.put(2, 0, 0);
        assert!(test.column.are_all_live());
    }

    #[test]
    fn entries_of_other_partitions_stay_live() {
        let mut test = Test::new();
        (0..4)
            .zip(0..)
            .for_each(|(slot, partition)| test.put(slot, partition, 0));
        test.invalidate(2);
        test.put(4, 1, 0);
        assert!(!test.column.are_all_live());
        test.clear(2);
        assert!(test.column.are_all_live());
        assert_eq!(test.entries.len(), 4);
    }

    #[test]
    fn counts_are_right_after_entries_have_moved() {
        let mut test = Test::new();
        (0..10).for_each(|slot| test.put(slot, 1, 0));
        (0..5).for_each(|slot| test.clear(slot));
        test.invalidate(1);
        let moved: Vec<u32> = (5..10).collect();
        test.column.rows = test.column.rows.select(&moved, 100);
        test.entries = (0..5).map(|slot| (slot, (1, 0))).collect();
        test.check();
        (0..5).for_each(|slot| test.put(slot, 3, 0));
        assert!(test.column.are_all_live());
    }

    /// A step of a random test.
    #[derive(Debug, Clone)]
    enum Step {
        Put(u32, u16, u64),
        Clear(u32),
        Invalidate(u16),
        InvalidateAll,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (0_u32..8, 0..PARTITIONS, 0_u64..3)
                .prop_map(|(slot, partition, ago)| Step::Put(slot, partition, ago)),
            3 => (0_u32..8).prop_map(Step::Clear),
            2 => (0..PARTITIONS).prop_map(Step::Invalidate),
            1 => Just(Step::InvalidateAll),
        ]
    }

    proptest! {
        #[test]
        fn no_dead_entry_counts_as_live(steps in vec(step(), 0..200)) {
            let mut test = Test::new();
            (0..8).for_each(|slot| test.put(slot, 0, 0));
            for step in steps {
                match step {
                    Step::Put(slot, partition, ago) => test.put(slot, partition, ago),
                    Step::Clear(slot) => test.clear(slot),
                    Step::Invalidate(partition) => test.invalidate(partition),
                    Step::InvalidateAll => test.invalidate_all(),
                }
            }
            // A write counts the entries that were invalidated since the last one.
            (0..8).for_each(|slot| test.put(slot, 0, 0));
            prop_assert!(test.column.are_all_live());
        }
    }
}
