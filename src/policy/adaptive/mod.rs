//! S3-FIFO with an admission gate. Its small queue gets the share of the entries that has the best hit ratio.
//!
//! The best share depends on the workload. If keys are requested again soon, and later never, new entries should have
//! all the room. If most keys are requested once, new entries should have almost none. The policy compares the shares
//! with miniature caches: one for each share, with hashes of a sample of the keys and without values (Waldspurger et
//! al., "Cache modeling and optimization using miniature simulations", ATC 2017). One shard of a cache samples for all
//! shards. All shards use the share whose miniature cache had the most hits recently. They begin with 100%, which is
//! CLOCK and closest to LRU on most workloads, and change if another share is clearly better.
//!
//! A hit on an entry of the sample is recorded at most once between two writes, because the policy does not order the
//! hits between two writes. Other hits cost the same as with S3-FIFO.

mod miniature;
mod sampler;

use crate::policy::EvictionPolicy;
use crate::policy::adaptive::sampler::Sampler;
use crate::policy::s3_fifo::{CLOCK_PERCENT, Rules, S3Fifo};
use crate::policy::slot_list::as_slot;
use crate::policy::state::{NoOpHits, PolicyStates, QueueState};
use crate::storage::allocated::{AllocatedBytes, arc_bytes};
use crate::storage::work_slice::WorkSlice;
use std::alloc::Layout;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// The share of the small queue, in percent, that all shards of a cache use.
pub(crate) struct SmallQueueShare(AtomicU32);

impl Default for SmallQueueShare {
    fn default() -> Self {
        Self(AtomicU32::new(CLOCK_PERCENT))
    }
}

impl SmallQueueShare {
    /// Returns the share in percent.
    pub(crate) fn percent(&self) -> u32 {
        self.0.load(Relaxed)
    }

    /// Sets the share in percent.
    pub(crate) fn set_percent(&self, percent: u32) {
        self.0.store(percent, Relaxed);
    }
}

/// Returns the rules that the shards and the miniature caches follow with this share.
pub(crate) const fn rules(small_percent: u32) -> Rules {
    Rules {
        small_percent,
        gated: true,
    }
}

/// The policy of one shard.
pub(crate) struct Adaptive {
    queues: S3Fifo,
    share: Arc<SmallQueueShare>,
    /// `Some` in the one shard that samples.
    sampler: Option<Box<Sampler>>,
}

impl Adaptive {
    /// Creates a policy without entries. `samples_of` is the number of shards for which this shard samples, or `None`
    /// if it does not sample.
    pub(crate) fn new(share: Arc<SmallQueueShare>, samples_of: Option<usize>) -> Self {
        Self {
            queues: S3Fifo::new(rules(CLOCK_PERCENT)),
            share,
            sampler: samples_of.map(|shards| Box::new(Sampler::new(shards))),
        }
    }

    /// Returns a policy without entries that uses the same share, and that samples if `self` does.
    pub(crate) fn emptied(&self) -> Self {
        let samples_of = self.sampler.as_ref().map(|sampler| sampler.shards());
        Self::new(Arc::clone(&self.share), samples_of)
    }
}

impl Adaptive {
    /// Prepares the queues and the sampler for an eviction.
    #[inline]
    fn begin_eviction(&mut self) {
        if let Some(sampler) = &mut self.sampler {
            sampler.on_eviction(self.queues.len());
        }
        self.queues.set_small_percent(self.share.percent());
    }

    /// Replaces the victim in the shard that samples.
    #[inline(never)]
    fn replace_sampled_victim(
        &mut self,
        states: &impl PolicyStates,
        hash: u32,
        work: &mut WorkSlice,
    ) -> Option<u32> {
        self.on_write(states, work);
        self.begin_eviction();
        let slot = self.queues.replace_victim(states, hash, work)?;
        self.sample(states.state(slot)?, hash);
        Some(slot)
    }

    /// Records the insertion of an entry if it is in the sample.
    #[inline]
    fn sample(&mut self, state: &AtomicU32, hash: u32) {
        if let Some(sampler) = &mut self.sampler {
            if sampler.samples(hash) {
                QueueState::load(state).unsampled().store(state);
                sampler.access(hash, &self.share);
            }
        }
    }
}

impl EvictionPolicy for Adaptive {
    #[inline]
    fn no_op_hits(&self) -> NoOpHits {
        NoOpHits::OF_QUEUES
    }

    fn on_hit(&self, slot: u32, state: &AtomicU32) {
        let before = QueueState::load(state);
        let mut after = before.after_hit();
        let records = |sampler: &Sampler| sampler.record_hit(slot);
        if !before.is_sampled() && self.sampler.as_deref().is_some_and(records) {
            after = after.sampled();
        }
        if after != before {
            after.store(state);
        }
    }

    #[inline]
    fn on_write(&mut self, states: &impl PolicyStates, _: &mut WorkSlice) {
        if let Some(sampler) = &mut self.sampler {
            sampler.replay_hits(states, &self.share);
        }
    }

    fn insert(&mut self, slot: u32, state: &AtomicU32, hash: u32) {
        self.queues.insert(slot, state, hash);
        self.sample(state, hash);
    }

    fn remove(&mut self, state: &AtomicU32, hash: u32) {
        self.queues.remove(state, hash);
        if let Some(sampler) = &mut self.sampler {
            sampler.remove(hash);
        }
    }

    fn evict(&mut self, states: &impl PolicyStates, work: &mut WorkSlice) -> Option<u32> {
        self.begin_eviction();
        self.queues.evict(states, work)
    }

    #[inline(always)]
    fn replace_victim(
        &mut self,
        states: &impl PolicyStates,
        hash: u32,
        work: &mut WorkSlice,
    ) -> Option<u32> {
        if self.sampler.is_some() {
            return self.replace_sampled_victim(states, hash, work);
        }
        self.begin_eviction();
        self.queues.replace_victim(states, hash, work)
    }

    fn grow(&mut self, slots: usize) {
        self.queues.grow(slots);
        if let Some(sampler) = &mut self.sampler {
            sampler.grow(as_slot(slots));
        }
    }

    fn step(&mut self, most: usize) -> Option<Vec<u32>> {
        self.queues.step(most)
    }

    fn renumber(&mut self, slots: usize, slot_of: impl Fn(u32) -> Option<u32>) {
        self.queues.renumber(slots, slot_of);
        if let Some(sampler) = &mut self.sampler {
            sampler.renumber(as_slot(slots));
        }
    }

    fn time(&self) -> u32 {
        0
    }

    fn heat(&self, state: &AtomicU32, _: u32) -> i32 {
        QueueState::load(state).heat()
    }

    fn filed_next(&self, slot: u32) -> Option<u32> {
        self.queues.filed_next(slot)
    }

    fn validate(&self, states: &impl PolicyStates) {
        self.queues.validate(states);
    }
}

impl AllocatedBytes for Adaptive {
    fn allocated_bytes(&self) -> usize {
        // The share is counted once for all shards, by the one that samples.
        let share = self
            .sampler
            .as_ref()
            .map_or(0, |_| arc_bytes(Layout::new::<SmallQueueShare>()));
        self.queues.allocated_bytes() + self.sampler.allocated_bytes() + share
    }
}
