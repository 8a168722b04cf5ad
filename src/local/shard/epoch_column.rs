//! The epochs of entries, by slot.

use crate::storage::allocated::AllocatedBytes;
use crate::storage::column::Column;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

/// The value of a row whose slot is vacant.
const VACANT: u64 = 0;

/// The epoch in which the load of each slot's value began, in a shard whose entries are dead if their epoch is below a
/// minimum.
///
/// The dead entries are counted, so that a hit reads no row while there are none.
pub(super) struct EpochColumn {
    /// The lowest epoch whose entries are live. It only rises.
    min_live: Arc<AtomicU64>,
    /// The minimum live epoch at which no entry is dead, or `u64::MAX` if there may be a dead entry.
    all_live_at: u64,
    /// The minimum live epoch for which `dead` was counted.
    counted_at: u64,
    /// The number of entries whose epoch is below `counted_at`.
    dead: u32,
    /// The number of entries.
    occupied: u32,
    /// The successor of each entry's epoch, or [`VACANT`].
    rows: Column<u64>,
}

impl EpochColumn {
    /// Creates a column without entries.
    pub(super) fn new(min_live: Arc<AtomicU64>) -> Self {
        Self {
            min_live,
            all_live_at: 0,
            counted_at: 0,
            dead: 0,
            occupied: 0,
            rows: Column::new(),
        }
    }

    /// Returns `true` if no entry is dead. If it returns `false`, there may be a dead one: see [`is_live`](Self::is_live).
    #[inline(always)]
    pub(super) fn are_all_live(&self) -> bool {
        // Relaxed suffices, because a caller that comes after the minimum was raised sees the new one.
        self.min_live.load(Relaxed) == self.all_live_at
    }

    /// Checks whether the epoch of an entry is not below the minimum.
    pub(super) fn is_live(&self, slot: u32) -> bool {
        self.row(slot) > self.min_live.load(Relaxed)
    }

    /// Sets the epoch of an entry.
    pub(super) fn put(&mut self, slot: u32, epoch: u64) {
        let min = self.min_live.load(Relaxed);
        if min != self.counted_at {
            // No load had begun in the epoch of the new minimum when it was raised, so all entries are older.
            self.counted_at = min;
            self.dead = self.occupied;
        }
        self.discount(slot);
        self.rows.put(slot, epoch + 1);
        self.occupied += 1;
        self.dead += u32::from(epoch < min);
        self.set_all_live_at();
    }

    /// Notes that a slot was vacated.
    pub(super) fn clear(&mut self, slot: u32) {
        self.discount(slot);
        if let Some(row) = self.rows.get_mut(slot) {
            *row = VACANT;
        }
        self.set_all_live_at();
    }

    /// Takes the entry of a slot, if there is one, out of the counts.
    fn discount(&mut self, slot: u32) {
        let row = self.row(slot);
        if row != VACANT {
            self.occupied -= 1;
            self.dead -= u32::from(row <= self.counted_at);
        }
    }

    /// Sets `all_live_at` by the counts.
    fn set_all_live_at(&mut self) {
        self.all_live_at = match self.dead {
            0 => self.counted_at,
            _ => u64::MAX,
        };
    }

    fn row(&self, slot: u32) -> u64 {
        self.rows.get(slot).copied().unwrap_or(VACANT)
    }

    /// Returns the rows, to make room for more of them or to move them.
    pub(super) fn rows(&mut self) -> &mut Column<u64> {
        &mut self.rows
    }
}

impl AllocatedBytes for EpochColumn {
    fn allocated_bytes(&self) -> usize {
        self.rows.allocated_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    /// An epoch column, and the epochs that it should have.
    struct Test {
        column: EpochColumn,
        min_live: Arc<AtomicU64>,
        epochs: HashMap<u32, u64>,
    }

    impl Test {
        fn new() -> Self {
            let min_live = Arc::new(AtomicU64::new(0));
            let mut column = EpochColumn::new(Arc::clone(&min_live));
            column.rows().grow(100);
            Self {
                column,
                min_live,
                epochs: HashMap::new(),
            }
        }

        fn put(&mut self, slot: u32, epoch: u64) {
            self.column.put(slot, epoch);
            self.epochs.insert(slot, epoch);
            self.check();
        }

        fn clear(&mut self, slot: u32) {
            self.column.clear(slot);
            self.epochs.remove(&slot);
            self.check();
        }

        fn raise(&mut self, min: u64) {
            self.min_live.store(min, Relaxed);
            self.check();
        }

        fn check(&self) {
            let min = self.min_live.load(Relaxed);
            let are_all_live = self.epochs.values().all(|&epoch| epoch >= min);
            assert!(are_all_live || !self.column.are_all_live());
            for (&slot, &epoch) in &self.epochs {
                assert_eq!(self.column.is_live(slot), epoch >= min, "slot {slot}");
            }
        }
    }

    #[test]
    fn hits_read_no_row_once_the_last_dead_entry_is_removed_or_replaced() {
        let mut test = Test::new();
        (0..4).for_each(|slot| test.put(slot, 0));
        assert!(test.column.are_all_live());
        test.raise(7);
        assert!(!test.column.are_all_live());
        test.put(0, 7);
        test.put(4, 8);
        test.clear(1);
        test.clear(1);
        test.put(2, 6);
        test.put(3, 9);
        assert!(!test.column.are_all_live());
        test.put(2, 7);
        assert!(test.column.are_all_live());
        test.raise(10);
        for slot in [0, 2, 3, 4] {
            test.put(5, 10);
            assert!(!test.column.are_all_live());
            test.clear(slot);
        }
        assert!(test.column.are_all_live());
    }

    #[test]
    fn counts_are_right_after_entries_have_moved() {
        let mut test = Test::new();
        (0..10).for_each(|slot| test.put(slot, u64::from(slot)));
        (0..5).for_each(|slot| test.clear(slot));
        test.raise(10);
        let moved: Vec<u32> = (5..10).collect();
        *test.column.rows() = test.column.rows().select(&moved, 100);
        test.epochs = (0..5).zip(5..10).collect();
        test.check();
        (0..5).for_each(|slot| test.put(slot, 10));
        assert!(test.column.are_all_live());
    }
}
