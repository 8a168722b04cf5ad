//! S3-FIFO behind a gate, whose small queue has the share that does best.
//!
//! Which that is depends on the load. Where keys return soon and then no more, all the room belongs to
//! new entries; where most are asked for once, next to none. Shadows tell: caches in miniature, one for
//! each share, that hold hashes of a sample of the keys, and no values (Waldspurger et al., "Cache modeling
//! and optimization using miniature simulations", ATC 2017). One shard of a cache samples for all, and
//! all take the share whose shadow has hit most of late. They begin as CLOCK, which is closest to LRU on
//! most loads, and change when there is reason to.
//!
//! A hit on a sampled entry is noted, once between two writes: hits in between are simultaneous. Others
//! cost what they cost with S3-FIFO.

use super::list::as_slot;
use super::queues::{NOTED, QUIET, after_hit, heat};
use super::s3_fifo::{CLOCK, Rules, S3Fifo};
use super::sampler::Sampler;
use super::{Eviction, Quiet, Words};
use crate::local::work::WorkSlice;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// What the shards of a cache have in common: the share of the small queue, in percent.
pub(crate) struct Choice(AtomicU32);

impl Default for Choice {
    fn default() -> Self {
        Self(AtomicU32::new(CLOCK))
    }
}

impl Choice {
    pub(super) fn get(&self) -> u32 {
        self.0.load(Relaxed)
    }

    pub(super) fn set(&self, small: u32) {
        self.0.store(small, Relaxed);
    }
}

/// The rules for a share, in the shards and in the shadows.
pub(super) const fn rules(small: u32) -> Rules {
    Rules { small, gated: true }
}

pub(crate) struct Adaptive {
    queues: S3Fifo,
    choice: Arc<Choice>,
    /// In the one shard that samples.
    sampler: Option<Box<Sampler>>,
}

impl Adaptive {
    /// `samples_of` is the number of shards for which this one samples, if it does.
    pub(super) fn new(choice: Arc<Choice>, samples_of: Option<usize>) -> Self {
        Self {
            queues: S3Fifo::new(rules(CLOCK)),
            choice,
            sampler: samples_of.map(|shards| Box::new(Sampler::new(shards))),
        }
    }
}

impl Adaptive {
    /// Returns a policy without entries that has the same part in the same choice.
    pub(super) fn emptied(&self) -> Self {
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
