//! The sampling of one shard's keys, from which the share of the small queue is chosen for all shards.

use crate::policy::PolicyStates;
use crate::policy::adaptive::miniature::MiniatureCaches;
use crate::policy::adaptive::{SmallQueueShare, rules};
use crate::policy::s3_fifo::CLOCK_PERCENT;
use crate::policy::state::QueueState;
use crate::random;
use crate::storage::allocated::AllocatedBytes;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// The shares of the small queue to choose from, in percent.
const SMALL_PERCENTS: [u32; 5] = [1, 10, 40, 95, CLOCK_PERCENT];

/// The number of a cache's entries for each entry of a miniature cache.
const ENTRIES_PER_SAMPLE: usize = 128;
/// The same number for small caches. A miniature cache has at least 64 entries, because with fewer of them the result
/// depends on chance.
const ENTRIES_PER_SAMPLE_OF_SMALL: usize = 24;

/// The number of reviews of the share during as many accesses as a miniature cache has entries.
const REVIEWS_PER_CAPACITY: usize = 4;
/// The factor by which earlier accesses count less after each review.
const DECAY: f32 = 0.96;
/// The lead in hits that a share needs to be chosen, as a part of the accesses.
const MIN_LEAD: f32 = 0.002;
/// The lead that it needs in addition, as a part of the square root of the accesses, because chance can cause as
/// much.
const NOISE_LEAD: f32 = 0.2;

/// The number of hits that are recorded between two writes. Further hits are ignored.
const MAX_RECORDED_HITS: usize = 64;

/// The multiplier that spreads hashes for the decision whether a key is sampled. It is not the one of the sketch, so
/// that the sample is spread over the whole sketch.
const MULTIPLIER: u64 = 0xA24B_AED4_963E_E407;

/// The sampler of the shard that samples.
pub(crate) struct Sampler {
    /// The slots that were hit since the last write.
    recorded: [AtomicU32; MAX_RECORDED_HITS],
    /// The number of hits since the last write, some of which may not be in `recorded`.
    hits_since_write: AtomicU32,
    /// The number of shards for which this one samples.
    shards: usize,
    /// The part of the shard's keys that is sampled, in units of 2 to the power of -32.
    part: u64,
    caches: MiniatureCaches<{ SMALL_PERCENTS.len() }>,
    /// The number of entries that each miniature cache may have: the sampled part of the shard's entries.
    capacity: usize,
    /// The number of the shard's entries at the last eviction, or 0 if there was none.
    entries: u32,
    /// The number of accesses, of which earlier ones count less.
    accesses: f32,
    /// The number of accesses that were hits, by miniature cache.
    hits: [f32; SMALL_PERCENTS.len()],
    /// The number of accesses that were hits in the shard.
    own_hits: f32,
    /// The number of accesses until the next review of the share.
    until_review: usize,
}

impl Sampler {
    /// Creates a sampler for a shard without entries, which samples for `shards` shards.
    pub(crate) fn new(shards: usize) -> Self {
        Self {
            recorded: [const { AtomicU32::new(0) }; MAX_RECORDED_HITS],
            hits_since_write: AtomicU32::new(0),
            shards,
            part: 0,
            caches: MiniatureCaches::new(0, SMALL_PERCENTS.map(rules)),
            capacity: 0,
            entries: 0,
            accesses: 0.0,
            hits: [0.0; SMALL_PERCENTS.len()],
            own_hits: 0.0,
            until_review: 0,
        }
    }

    /// Returns the number of shards for which this one samples.
    pub(crate) fn shards(&self) -> usize {
        self.shards
    }

    /// Checks whether a key is in the sample.
    #[inline]
    pub(crate) fn samples(&self, hash: u32) -> bool {
        random::spread(hash.into(), MULTIPLIER) >> 32 < self.part
    }

    /// Records a hit, and returns whether there was room for it. Several threads may do so at a time, under a shared
    /// lock.
    pub(crate) fn record_hit(&self, slot: u32) -> bool {
        // Once there is no room, no thread writes here.
        if self.hits_since_write.load(Relaxed) as usize >= MAX_RECORDED_HITS {
            return false;
        }
        let at = self.hits_since_write.fetch_add(1, Relaxed) as usize;
        let location = self.recorded.get(at);
        location
            .map(|location| location.store(slot, Relaxed))
            .is_some()
    }

    /// Replays the hits that were recorded since the last write in the miniature caches.
    #[inline]
    pub(crate) fn replay_hits(&mut self, states: &impl PolicyStates, share: &SmallQueueShare) {
        if *self.hits_since_write.get_mut() > 0 {
            self.replay_some_hits(states, share);
        }
    }

    /// Replays the recorded hits, of which there is at least one.
    fn replay_some_hits(&mut self, states: &impl PolicyStates, share: &SmallQueueShare) {
        let hits = std::mem::take(self.hits_since_write.get_mut()) as usize;
        for at in 0..hits.min(MAX_RECORDED_HITS) {
            let slot = *self.recorded[at].get_mut();
            let hash = states.hash(slot);
            // The entry may have been removed meanwhile, or its key may no longer be in the sample.
            if let Some(state) = states.state(slot).filter(|_| self.samples(hash)) {
                QueueState::load(state).unsampled().store(state);
                self.own_hits += 1.0;
                self.access(hash, share);
            }
        }
    }

    /// Requests a sampled key in all miniature caches, and reviews the share from time to time.
    pub(crate) fn access(&mut self, hash: u32, share: &SmallQueueShare) {
        let holders = self.caches.access(hash, self.capacity);
        for (cache, hits) in self.hits.iter_mut().enumerate() {
            if holders >> cache & 1 == 1 {
                *hits += 1.0;
            }
        }
        self.accesses += 1.0;
        if self.until_review > 0 {
            self.until_review -= 1;
        } else {
            self.until_review = self.capacity / REVIEWS_PER_CAPACITY;
            // While there is room for all keys, there is no need to choose.
            if self.entries > 0 {
                self.capacity = self.part_of(self.entries);
                self.review(share);
            }
        }
    }

    /// Removes a key from the miniature caches, because it was removed from the shard for another reason than eviction.
    pub(crate) fn remove(&mut self, hash: u32) {
        if self.samples(hash) {
            self.caches.remove(hash);
        }
    }

    /// Chooses another share if it has more hits than the current one.
    fn review(&mut self, share: &SmallQueueShare) {
        let percent = share.percent();
        let current = SMALL_PERCENTS.iter().position(|&other| other == percent);
        let hits_of_current = current.map_or(0.0, |current| self.hits[current]);
        // The sample may underrate the current share, but the hits of the shard itself are real.
        let hits_of_current = hits_of_current.max(self.own_hits);
        let lead = MIN_LEAD * self.accesses + NOISE_LEAD * self.accesses.sqrt();
        let by_hits = |(_, a): &(usize, f32), (_, b): &(usize, f32)| a.total_cmp(b);
        let best = self.hits.into_iter().enumerate().max_by(by_hits);
        if let Some((best, _)) = best.filter(|(_, hits)| hits - hits_of_current > lead) {
            share.set_percent(SMALL_PERCENTS[best]);
        }
        self.hits = self.hits.map(|hits| hits * DECAY);
        self.own_hits *= DECAY;
        self.accesses *= DECAY;
    }

    /// Sets the number of slots of the shard, and empties the miniature caches.
    pub(crate) fn grow(&mut self, slots: u32) {
        let all = (slots as usize).saturating_mul(self.shards);
        let sample = (all / ENTRIES_PER_SAMPLE_OF_SMALL)
            .clamp(64, 128)
            .max(all / ENTRIES_PER_SAMPLE);
        self.part = (((sample as u64) << 32) / u64::from(slots)).min(1 << 32);
        self.capacity = self.part_of(slots);
        self.caches = MiniatureCaches::new(self.capacity, SMALL_PERCENTS.map(rules));
    }

    /// Sets the number of slots after the entries were given other ones, and discards the recorded hits on the former
    /// slots.
    pub(crate) fn renumber(&mut self, slots: u32) {
        *self.hits_since_write.get_mut() = 0;
        self.grow(slots);
    }

    /// Records an eviction from the shard, which has `entries` entries and no room for more.
    #[inline]
    pub(crate) fn on_eviction(&mut self, entries: u32) {
        if self.entries == 0 {
            // Accesses while there was room for all keys say nothing about the shares.
            (self.accesses, self.own_hits) = (0.0, 0.0);
            self.hits = [0.0; SMALL_PERCENTS.len()];
        }
        self.entries = entries;
    }

    /// Returns the sampled part of a number of entries, but at least 1.
    fn part_of(&self, entries: u32) -> usize {
        let part = (u64::from(entries) * self.part) >> 32;
        usize::try_from(part).unwrap_or(usize::MAX).max(1)
    }
}

impl AllocatedBytes for Sampler {
    fn allocated_bytes(&self) -> usize {
        self.caches.allocated_bytes()
    }
}
