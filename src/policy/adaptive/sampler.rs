//! The sampling of one shard's keys, from which the share of the small queue is chosen for all shards.

use crate::policy::Words;
use crate::policy::adaptive::miniature::Shadows;
use crate::policy::adaptive::{Choice, rules};
use crate::policy::queues::NOTED;
use crate::policy::s3_fifo::CLOCK;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// The shares of the small queue to choose from, in percent.
const SHARES: [u32; 5] = [1, 10, 40, 95, CLOCK];

/// The number of a cache's entries for each entry of a shadow.
const SAMPLE: usize = 128;
/// The number of a small cache's entries for each entry of a shadow. A shadow has at least 64 entries, because chance
/// decides with fewer.
const SAMPLE_OF_SMALL: usize = 24;

/// The number of reviews of the choice during as many accesses as a shadow has entries.
const LOOKS: usize = 4;
/// The factor by which earlier accesses count less after each review.
const FADING: f32 = 0.96;
/// The lead that a share needs to be chosen, as a part of the accesses.
const LEAD: f32 = 0.002;
/// The lead that it needs in addition, as a part of the square root of the accesses, because chance may cause that
/// much.
const CHANCE: f32 = 0.2;

/// The number of hits that are noted between two writes. Further hits are ignored.
const NOTES: usize = 64;

/// The sampler of the shard that samples.
pub(crate) struct Sampler {
    /// The slots that were hit since the last write.
    notes: [AtomicU32; NOTES],
    /// The number of hits since the last write, some of which may not be in `notes`.
    noted: AtomicU32,
    /// The number of shards for which this one samples.
    shards: usize,
    /// The part of the shard's keys that is sampled, of `1 << 32`.
    part: u64,
    shadows: Shadows<{ SHARES.len() }>,
    /// The number of entries that each shadow may have: the sampled part of the shard's entries.
    capacity: usize,
    /// The number of the shard's entries at the last eviction, or 0 if there was none.
    entries: u32,
    /// The number of accesses, of which earlier ones count less.
    seen: f32,
    /// The number of them that were hits, by shadow.
    hits: [f32; SHARES.len()],
    /// The number of them that were hits in the shard.
    own_hits: f32,
    /// The number of accesses until the next review of the choice.
    until_look: usize,
}

impl Sampler {
    /// Creates a sampler for a shard without entries, which samples for `shards` shards.
    pub(crate) fn new(shards: usize) -> Self {
        Self {
            notes: [const { AtomicU32::new(0) }; NOTES],
            noted: AtomicU32::new(0),
            shards,
            part: 0,
            shadows: Shadows::new(0, SHARES.map(rules)),
            capacity: 0,
            entries: 0,
            seen: 0.0,
            hits: [0.0; SHARES.len()],
            own_hits: 0.0,
            until_look: 0,
        }
    }

    /// Returns the number of shards for which this one samples.
    pub(crate) fn shards(&self) -> usize {
        self.shards
    }

    /// Checks whether a key is in the sample.
    #[inline]
    pub(crate) fn samples(&self, hash: u32) -> bool {
        is_within(self.part, hash)
    }

    /// Notes a hit, and returns whether there was room for it. Several threads may do so at a time, under a shared
    /// lock.
    pub(crate) fn note(&self, slot: u32) -> bool {
        // Once there is no room, no thread writes here.
        if self.noted.load(Relaxed) as usize >= NOTES {
            return false;
        }
        let at = self.noted.fetch_add(1, Relaxed) as usize;
        let location = self.notes.get(at);
        location
            .map(|location| location.store(slot, Relaxed))
            .is_some()
    }

    /// Processes the hits that were noted since the last write.
    #[inline]
    pub(crate) fn take_notes(&mut self, words: &impl Words, choice: &Choice) {
        if *self.noted.get_mut() > 0 {
            self.pass_on(words, choice);
        }
    }

    /// Processes the noted hits: see [`take_notes`](Self::take_notes).
    fn pass_on(&mut self, words: &impl Words, choice: &Choice) {
        let noted = std::mem::take(self.noted.get_mut()) as usize;
        for at in 0..noted.min(NOTES) {
            let slot = *self.notes[at].get_mut();
            let hash = words.hash(slot);
            // The entry may have been removed meanwhile, or its key may no longer be in the sample.
            if let Some(word) = words.word(slot).filter(|_| self.samples(hash)) {
                word.store(word.load(Relaxed) & !NOTED, Relaxed);
                self.own_hits += 1.0;
                self.access(hash, choice);
            }
        }
    }

    /// Requests a sampled key in all shadows, and reviews the choice from time to time.
    pub(crate) fn access(&mut self, hash: u32, choice: &Choice) {
        let had = self.shadows.access(hash, self.capacity);
        for (shadow, hits) in self.hits.iter_mut().enumerate() {
            if had >> shadow & 1 == 1 {
                *hits += 1.0;
            }
        }
        self.seen += 1.0;
        if self.until_look > 0 {
            self.until_look -= 1;
        } else {
            self.until_look = self.capacity / LOOKS;
            // While there is room for all keys, there is no need to choose.
            if self.entries > 0 {
                self.capacity = self.part_of(self.entries);
                self.look(choice);
            }
        }
    }

    /// Removes a key from the shadows, because it was removed from the shard for another reason than eviction.
    pub(crate) fn remove(&mut self, hash: u32) {
        if self.samples(hash) {
            self.shadows.remove(hash);
        }
    }

    /// Chooses another share if it has more hits than the current one.
    fn look(&mut self, choice: &Choice) {
        let of = |small: u32| SHARES.iter().position(|&share| share == small);
        let chosen = of(choice.get()).map_or(0.0, |chosen| self.hits[chosen]);
        // The sample may underrate the current share, but the hits of the shard itself are real.
        let chosen = chosen.max(self.own_hits);
        let lead = LEAD * self.seen + CHANCE * self.seen.sqrt();
        let by_hits = |(_, a): &(usize, f32), (_, b): &(usize, f32)| a.total_cmp(b);
        let best = self.hits.into_iter().enumerate().max_by(by_hits);
        if let Some((best, _)) = best.filter(|(_, hits)| hits - chosen > lead) {
            choice.set(SHARES[best]);
        }
        self.hits = self.hits.map(|hits| hits * FADING);
        self.own_hits *= FADING;
        self.seen *= FADING;
    }

    /// Sets the number of slots of the shard, and begins with empty shadows.
    pub(crate) fn grow(&mut self, slots: u32) {
        let all = slots as usize * self.shards;
        let sample = (all / SAMPLE_OF_SMALL).clamp(64, 128).max(all / SAMPLE);
        self.part = (((sample as u64) << 32) / u64::from(slots)).min(1 << 32);
        self.capacity = self.part_of(slots);
        self.shadows = Shadows::new(self.capacity, SHARES.map(rules));
    }

    /// Sets the number of slots after the entries were given other ones, and discards the notes of the former slots.
    pub(crate) fn renumber(&mut self, slots: u32) {
        *self.noted.get_mut() = 0;
        self.grow(slots);
    }

    /// Sets the number of the shard's entries, which has no room for more.
    #[inline]
    pub(crate) fn evicts_from(&mut self, entries: u32) {
        if self.entries == 0 {
            // Accesses while there was room for all keys say nothing about the shares.
            (self.seen, self.own_hits) = (0.0, 0.0);
            self.hits = [0.0; SHARES.len()];
        }
        self.entries = entries;
    }

    /// Returns the sampled part of a number of entries, but at least 1.
    fn part_of(&self, entries: u32) -> usize {
        let part = (u64::from(entries) * self.part) >> 32;
        usize::try_from(part).unwrap_or(usize::MAX).max(1)
    }
}

/// Checks whether a hash is in this part of all hashes, of `1 << 32`.
#[inline]
fn is_within(part: u64, hash: u32) -> bool {
    let spread = u64::from(hash).wrapping_mul(0xA24B_AED4_963E_E407);
    // The multiplier is not the sketch's, so that the sample is spread over the whole sketch.
    spread >> 32 < part
}
