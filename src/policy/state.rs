//! The state that a policy keeps of each entry, in 32 bits.
//!
//! `Lru` stores the time of its write clock at the last use. `S3Fifo` and `Car` store a [`QueueState`], and `Adaptive`
//! stores a `ReuseState`.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// The states and hashes of entries, by slot.
pub(crate) trait PolicyStates {
    /// Returns the policy's state of an entry, or `None` if the slot is vacant. The state is stored with the entry,
    /// because a hit reads that cache line anyway.
    fn state(&self, slot: u32) -> Option<&AtomicU32>;

    /// Returns the bits that the entry stores of its key's hash, or 0 if the slot is vacant.
    fn hash(&self, slot: u32) -> u32;

    /// Returns the time in nanoseconds, or `None` if all entries have the same weight and none expires. Entries then have
    /// no [bounds](Self::bounds).
    #[inline(always)]
    fn now(&self) -> Option<u64> {
        None
    }

    /// Returns the weight of an entry and the time until it expires. Called only if [`now`](Self::now) returns a time.
    #[inline(always)]
    fn bounds(&self, _: u32) -> EntryBounds {
        EntryBounds {
            weight: 1,
            lifetime: u64::MAX,
        }
    }
}

/// The weight and the lifetime of an entry, which bound the value of keeping it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EntryBounds {
    pub(crate) weight: u64,
    /// The time until the entry expires, in nanoseconds, or 0 if it has expired.
    pub(crate) lifetime: u64,
}

/// The states of entries on which a hit is a no-op: those that are at most `slack` behind `clock`.
///
/// Every policy can express its no-op hits in this way: one that stores the time of a clock, and one that counts in
/// the top bits up to all ones.
#[derive(Clone, Copy)]
pub(crate) struct NoOpHits {
    pub(crate) clock: u32,
    pub(crate) slack: u32,
}

impl NoOpHits {
    /// The no-op hits of policies that store a [`QueueState`]: those on entries with the most hits.
    pub(crate) const OF_QUEUES: Self = Self {
        clock: u32::MAX,
        slack: QueueState::ONE_HIT - 1,
    };

    /// Checks whether a hit on an entry with this state changes nothing, so that the policy need not be called.
    #[inline]
    pub(crate) fn is_no_op_hit(self, state: &AtomicU32) -> bool {
        self.contains(state.load(Relaxed))
    }

    const fn contains(self, state: u32) -> bool {
        self.clock.wrapping_sub(state) <= self.slack
    }
}

/// One of the two queues of [`Queues`](crate::policy::queues::Queues).
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Queue {
    First,
    Second,
}

/// The state of an entry in [`Queues`](crate::policy::queues::Queues).
///
/// ```text
///  31  30  29 .. 2  1       0
/// +-------+--------+--------+----------+
/// | HITS  | unused | SECOND | MISFILED |
/// +-------+--------+--------+----------+
/// ```
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct QueueState(u32);

impl QueueState {
    /// The number of hits since the entry was filed or got a second chance. It does not exceed [`MAX_HITS`].
    const HITS: u32 = 0b11 << 30;
    const ONE_HIT: u32 = 1 << 30;
    /// Set if the entry belongs to the second queue.
    const SECOND: u32 = 1 << 1;
    /// Set if the slot is still filed where an earlier entry of the slot was.
    const MISFILED: u32 = 1;

    /// Creates the state of an entry that is inserted into a queue.
    #[inline]
    pub(crate) fn new(queue: Queue) -> Self {
        Self(queue_bit(queue))
    }

    #[inline]
    pub(crate) fn load(state: &AtomicU32) -> Self {
        Self(state.load(Relaxed))
    }

    #[inline]
    pub(crate) fn store(self, state: &AtomicU32) {
        state.store(self.0, Relaxed);
    }

    /// Returns the number of hits since the entry was filed or got a second chance.
    #[inline]
    pub(crate) fn hits(self) -> u32 {
        self.0 / Self::ONE_HIT
    }

    /// Returns the state after one more hit. If it is the same as before, there is nothing to store.
    #[inline]
    pub(crate) fn after_hit(self) -> Self {
        if self.0 & Self::HITS == Self::HITS {
            self
        } else {
            Self(self.0 + Self::ONE_HIT)
        }
    }

    /// Returns the state with the most hits.
    #[inline]
    pub(crate) fn with_max_hits(self) -> Self {
        Self(self.0 | Self::HITS)
    }

    /// Returns the state of the entry when it is filed again, in this queue and with this number of hits.
    #[inline]
    pub(crate) fn refiled(queue: Queue, hits: u32) -> Self {
        Self(queue_bit(queue) | (hits * Self::ONE_HIT))
    }

    /// Returns the queue to which the entry belongs.
    #[inline]
    pub(crate) fn queue(self) -> Queue {
        if self.0 & Self::SECOND == 0 {
            Queue::First
        } else {
            Queue::Second
        }
    }

    /// Checks whether the slot is still filed where an earlier entry of the slot was.
    #[inline]
    pub(crate) fn is_misfiled(self) -> bool {
        self.0 & Self::MISFILED != 0
    }

    #[inline]
    pub(crate) fn misfiled(self) -> Self {
        Self(self.0 | Self::MISFILED)
    }

    #[inline]
    pub(crate) fn filed(self) -> Self {
        Self(self.0 & !Self::MISFILED)
    }

    /// Returns the heat of the entry. Entries of the second queue are hotter than those of the first, and then those
    /// with more hits.
    #[allow(clippy::cast_possible_wrap)] // It has three bits.
    pub(crate) fn heat(self) -> i32 {
        (self.queue() as u32 * (MAX_HITS + 1) + self.hits()) as i32
    }
}

/// The number of hits up to which a [`QueueState`] counts.
pub(crate) const MAX_HITS: u32 = QueueState::HITS / QueueState::ONE_HIT;

#[inline]
fn queue_bit(queue: Queue) -> u32 {
    queue as u32 * QueueState::SECOND
}

/// The layout of [`QueueState`].
const _: () = {
    // A hit adds to the top bits, so that it never changes another field.
    assert!(QueueState::HITS.leading_ones() == 2 && MAX_HITS == 3);
    assert!(QueueState::SECOND & QueueState::MISFILED == 0);
    // A hit is a no-op if all bits that a hit can set are set, whatever the others are.
    assert!(NoOpHits::OF_QUEUES.contains(QueueState::HITS));
    assert!(NoOpHits::OF_QUEUES.contains(u32::MAX));
    assert!(!NoOpHits::OF_QUEUES.contains(QueueState::HITS - 1));
};
