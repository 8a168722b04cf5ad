//! What a shard watches for the others: a sample of its keys, under each share there is to choose.

use super::Words;
use super::adaptive::{Choice, rules};
use super::queues::NOTED;
use super::s3_fifo::CLOCK;
use super::shadow::Shadows;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// The shares of the small queue to choose from, in percent.
const SHARES: [u32; 5] = [1, 10, 40, 95, CLOCK];

/// A shadow has one in so many of a cache's entries, or of a small one's some more: with too few, chance
/// decides. The fewest are as many as 64, and in no cache of a thousand more than one in 24.
const SAMPLE: usize = 128;
const SAMPLE_OF_SMALL: usize = 24;

/// The choice is looked at four times in as many accesses as a shadow has entries, and each time what was
/// before counts for a little less.
const LOOKS: usize = 4;
const FADING: f32 = 0.96;
/// To be chosen, a share has to lead by this part of the accesses, and this part of their square root,
/// which chance alone may make.
const LEAD: f32 = 0.002;
const CHANCE: f32 = 0.2;

/// How many hits are noted between two writes; what is more goes unnoticed.
const NOTES: usize = 64;

pub(super) struct Sampler {
    /// Slots that were hit since the last write, and how many.
    notes: [AtomicU32; NOTES],
    noted: AtomicU32,
    /// For how many shards it samples.
    shards: usize,
    /// The part of the shard's keys that is sampled, of `1 << 32`.
    part: u64,
    shadows: Shadows<{ SHARES.len() }>,
    /// How many entries each shadow may have: as many as the shard, for its part.
    capacity: usize,
    /// How many entries the shard had when it last had to evict; 0 if it never had.
    entries: u32,
    /// Fading: how many accesses there were, and how many of them each shadow and the shard had.
    seen: f32,
    hits: [f32; SHARES.len()],
    own_hits: f32,
    until_look: usize,
}

impl Sampler {
    pub(super) fn new(shards: usize) -> Self {
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

    pub(super) fn shards(&self) -> usize {
        self.shards
    }

    #[inline]
    pub(super) fn samples(&self, hash: u32) -> bool {
        is_within(self.part, hash)
    }

    /// Notes a hit, under a shared lock, so several may at a time. Returns whether there was room.
    pub(super) fn note(&self, slot: u32) -> bool {
        // Once it is full nobody writes to it.
        if self.noted.load(Relaxed) as usize >= NOTES {
            return false;
        }
        let at = self.noted.fetch_add(1, Relaxed) as usize;
        let place = self.notes.get(at);
        place.map(|place| place.store(slot, Relaxed)).is_some()
    }

    /// Passes on what was noted.
    #[inline]
    pub(super) fn take_notes(&mut self, words: &impl Words, choice: &Choice) {
        if *self.noted.get_mut() > 0 {
            self.pass_on(words, choice);
        }
    }

    fn pass_on(&mut self, words: &impl Words, choice: &Choice) {
        let noted = std::mem::take(self.noted.get_mut()) as usize;
        for at in 0..noted.min(NOTES) {
            let slot = *self.notes[at].get_mut();
            let hash = words.hash(slot);
            // It may have left, and what it was sampled for may be less by now.
            if let Some(word) = words.word(slot).filter(|_| self.samples(hash)) {
                word.store(word.load(Relaxed) & !NOTED, Relaxed);
                self.own_hits += 1.0;
                self.access(hash, choice);
            }
        }
    }

    /// A sampled key was asked for.
    pub(super) fn access(&mut self, hash: u32, choice: &Choice) {
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
            // While there is room for all nothing is to be chosen.
            if self.entries > 0 {
                self.capacity = self.part_of(self.entries);
                self.look(choice);
            }
        }
    }

    /// A key has left for a reason that would have been one in the shadows as well.
    pub(super) fn remove(&mut self, hash: u32) {
        if self.samples(hash) {
            self.shadows.remove(hash);
        }
    }

    /// Chooses another share if it does better than the one that is chosen.
    fn look(&mut self, choice: &Choice) {
        let of = |small: u32| SHARES.iter().position(|&share| share == small);
        let chosen = of(choice.get()).map_or(0.0, |chosen| self.hits[chosen]);
        // A sample may make a share look worse than it is, but what the shard has is true.
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

    /// The shard has room for so many entries now.
    pub(super) fn grow(&mut self, slots: u32) {
        let all = slots as usize * self.shards;
        let sample = (all / SAMPLE_OF_SMALL).clamp(64, 128).max(all / SAMPLE);
        self.part = (((sample as u64) << 32) / u64::from(slots)).min(1 << 32);
        self.capacity = self.part_of(slots);
        self.shadows = Shadows::new(self.capacity, SHARES.map(rules));
    }

    /// Sets the number of slots after the entries were given other slots, and discards the notes of the former slots.
    pub(super) fn renumber(&mut self, slots: u32) {
        *self.noted.get_mut() = 0;
        self.grow(slots);
    }

    /// The shard has so many entries, and no room for more.
    #[inline]
    pub(super) fn evicts_from(&mut self, entries: u32) {
        if self.entries == 0 {
            // What there was to see while there was room for all says nothing.
            (self.seen, self.own_hits) = (0.0, 0.0);
            self.hits = [0.0; SHARES.len()];
        }
        self.entries = entries;
    }

    fn part_of(&self, entries: u32) -> usize {
        let part = (u64::from(entries) * self.part) >> 32;
        usize::try_from(part).unwrap_or(usize::MAX).max(1)
    }
}

/// Is a hash among this part of all?
#[inline]
fn is_within(part: u64, hash: u32) -> bool {
    let spread = u64::from(hash).wrapping_mul(0xA24B_AED4_963E_E407);
    // Another multiplier than the sketch's, so that the sample is spread over all of that.
    spread >> 32 < part
}
