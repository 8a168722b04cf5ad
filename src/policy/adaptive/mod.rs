//! S3-FIFO with an admission gate, whose small queue has the share with the best hit ratio.
//!
//! The best share depends on the workload. If keys return soon and then never again, new entries should have all the
//! room. If most keys are requested once, they should have almost none. The policy compares the shares by miniature
//! caches, called shadows: one for each share, with hashes of a sample of the keys and without values (Waldspurger et
//! al., "Cache modeling and optimization using miniature simulations", ATC 2017). One shard of a cache samples for all
//! shards, and all use the share whose shadow had the most hits lately. They begin as CLOCK, which is closest to LRU on
//! most workloads, and change if another share is better.
//!
//! A hit on a sampled entry is noted once between two writes, because hits between two writes are simultaneous. Other
//! hits cost the same as with S3-FIFO.

mod miniature;
mod sampler;

use crate::policy::adaptive::sampler::Sampler;
use crate::policy::queues::{NOTED, QUIET, after_hit, heat};
use crate::policy::s3_fifo::{CLOCK, Rules, S3Fifo};
use crate::policy::slot_list::as_slot;
use crate::policy::{Eviction, Quiet, Words};
use crate::storage::work_slice::WorkSlice;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// The share of the small queue, in percent, that all shards of a cache use.
pub(crate) struct Choice(AtomicU32);

impl Default for Choice {
    fn default() -> Self {
        Self(AtomicU32::new(CLOCK))
    }
}

impl Choice {
    /// Returns the share.
    pub(crate) fn get(&self) -> u32 {
        self.0.load(Relaxed)
    }

    /// Sets the share.
    pub(crate) fn set(&self, small: u32) {
        self.0.store(small, Relaxed);
    }
}

/// Returns the rules for a share, which the shards and the shadows follow.
pub(crate) const fn rules(small: u32) -> Rules {
    Rules { small, gated: true }
}

/// The policy of one shard.
pub(crate) struct Adaptive {
    queues: S3Fifo,
    choice: Arc<Choice>,
    /// `Some` in the one shard that samples.
    sampler: Option<Box<Sampler>>,
}

impl Adaptive {
    /// Creates a policy without entries. `samples_of` is the number of shards for which this one samples, if it does.
    pub(crate) fn new(choice: Arc<Choice>, samples_of: Option<usize>) -> Self {
        Self {
            queues: S3Fifo::new(rules(CLOCK)),
            choice,
            sampler: samples_of.map(|shards| Box::new(Sampler::new(shards))),
        }
    }

    /// Returns a policy without entries that shares the same choice, and samples if this one does.
    pub(crate) fn emptied(&self) -> Self {
        let samples_of = self.sampler.as_ref().map(|sampler| sampler.shards());
        Self::new(Arc::clone(&self.choice), samples_of)
    }
}

impl Eviction for Adaptive {
    #[inline]
    fn quiet(&self) -> Quiet {
        QUIET
    }

    fn touch(&self, slot: u32, word: &AtomicU32) {
        let state = word.load(Relaxed);
        let mut after = after_hit(state);
        let noted = |sampler: &Sampler| sampler.note(slot);
        if state & NOTED == 0 && self.sampler.as_deref().is_some_and(noted) {
            after |= NOTED;
        }
        if after != state {
            word.store(after, Relaxed);
        }
    }

    #[inline]
    fn before_write(&mut self, words: &impl Words, _: &mut WorkSlice) {
        if let Some(sampler) = &mut self.sampler {
            sampler.take_notes(words, &self.choice);
        }
    }

    fn insert(&mut self, slot: u32, word: &AtomicU32, hash: u32) {
        self.queues.insert(slot, word, hash);
        if let Some(sampler) = &mut self.sampler {
            if sampler.samples(hash) {
                word.store(word.load(Relaxed) & !NOTED, Relaxed);
                sampler.access(hash, &self.choice);
            }
        }
    }

    fn remove(&mut self, word: &AtomicU32, hash: u32) {
        self.queues.remove(word, hash);
        if let Some(sampler) = &mut self.sampler {
            sampler.remove(hash);
        }
    }

    fn evict(&mut self, words: &impl Words, work: &mut WorkSlice) -> Option<u32> {
        if let Some(sampler) = &mut self.sampler {
            sampler.evicts_from(self.queues.len());
        }
        self.queues.set_small(self.choice.get());
        self.queues.evict(words, work)
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

    fn heat(&self, word: &AtomicU32, _: u32) -> i32 {
        heat(word)
    }

    fn validate(&self, words: &impl Words) {
        self.queues.validate(words);
    }
}
