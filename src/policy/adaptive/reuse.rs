//! The model that all shards of a cache share: the values of entries, and the learner that computes them.

use crate::policy::adaptive::learner::Learner;
use crate::policy::adaptive::sample::is_in_part;
use crate::policy::adaptive::state::Class;
use crate::policy::adaptive::values::ValueTable;
use crate::storage::allocated::{AllocatedBytes, arc_bytes};
use parking_lot::{Mutex, MutexGuard};
use std::alloc::Layout;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// The model of when keys are requested again, which all shards of a cache share.
pub(crate) struct ReuseModel {
    values: ValueTable,
    /// The part of the keys that is observed, in units of 2 to the power of -32.
    part: AtomicU32,
    shards: usize,
    /// Locked by a shard while it holds its own lock, and never in the opposite order. An observation is skipped if
    /// another shard has locked it, so that no shard waits for another one.
    learner: Mutex<Learner>,
}

impl ReuseModel {
    /// Creates a model without observations for a cache with this number of shards.
    pub(crate) fn new(shards: usize) -> Self {
        let (learner, values) = (Learner::new(shards), ValueTable::new());
        Self {
            values,
            part: AtomicU32::new(learner.part()),
            shards,
            learner: Mutex::new(learner),
        }
    }

    /// Returns the values of entries.
    #[inline(always)]
    pub(super) fn values(&self) -> &ValueTable {
        &self.values
    }

    /// Checks whether the requests for a key are observed.
    #[inline]
    pub(super) fn observes(&self, hash: u32) -> bool {
        is_in_part(hash, self.part.load(Relaxed))
    }

    /// Records that a shard has another number of slots than before.
    pub(super) fn resize_shard(&self, before: usize, slots: usize) {
        let of_all = slots.saturating_mul(self.shards);
        self.learner.lock().resize_shard(before, slots, of_all);
    }

    /// Locks the learner for a series of observations, unless another shard has locked it.
    #[inline]
    pub(super) fn try_observe(&self) -> Option<Observer<'_>> {
        let learner = self.learner.try_lock()?;
        Some(Observer {
            learner,
            model: self,
        })
    }
}

/// The learner while a shard has locked it.
pub(super) struct Observer<'a> {
    learner: MutexGuard<'a, Learner>,
    model: &'a ReuseModel,
}

impl Observer<'_> {
    /// Records a request for an observed key of a shard, after which the key has this class.
    pub(super) fn request(&mut self, hash: u32, shard: u32, tick: u32, class: Class) {
        let values = &self.model.values;
        self.learner.request(hash, shard, tick, class, values);
        self.model.part.store(self.learner.part(), Relaxed);
    }

    /// Removes a key, because it was removed from its shard for another reason than eviction.
    pub(super) fn remove(&mut self, hash: u32, shard: u32) {
        self.learner.remove(hash, shard);
    }
}

/// The memory of the model itself is included.
impl AllocatedBytes for ReuseModel {
    fn allocated_bytes(&self) -> usize {
        let learned = self.learner.lock().allocated_bytes();
        arc_bytes(Layout::new::<Self>()) + self.values.allocated_bytes() + learned
    }
}
