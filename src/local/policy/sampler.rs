//! What a shard watches for the others: a sample of its keys, under each share there is to choose.

use super::Words;
use super::adaptive::{Choice, rules};
use super::queues::NOTED;
use super::s3_fifo::CLOCK;
use super::shadow::Shadows;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// The shares of the small queue to choose from, in percent.
const SHARES: [u32; 5] = [1, 10, 40, 80, CLOCK];

/// A shadow has at least so many entries, if the shard does; else one in so many of the cache's.
const LEAST_SAMPLE: usize = 96;
const SAMPLE: usize = 128;

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
    /// Of each shadow, fading.
    hits: [f32; SHARES.len()],
    /// How many entries a shadow may have: as many as the shard, for its part, once that evicts.
    capacity: usize,
    /// How many accesses there were, fading as hits do, and how many until the next look.
    seen: f32,
    until_look: usize,
}

impl Sampler {
    pub(super) fn new(shards: usize) -> Self {
        Self {
            notes: [const { AtomicU32::new(0) }; NOTES],
            noted: AtomicU32::new(0),
            shards,
            part: 1 << 32,
            shadows: Shadows::new(0, SHARES.map(rules)),
            hits: [0.0; SHARES.len()],
            capacity: usize::MAX,
            seen: 0.0,
            until_look: 0,
        }
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
            if let Some(word) = words.word(slot) {
                word.store(word.load(Relaxed) & !NOTED, Relaxed);
                let hash = words.hash(slot);
                if self.samples(hash) {
                    self.access(hash, choice);
                }
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
        } else if self.capacity < usize::MAX {
            self.until_look = self.capacity / LOOKS;
            self.look(choice);
        }
    }

    /// Chooses another share if it does better than the one that is chosen.
    fn look(&mut self, choice: &Choice) {
        let of = |small: u32| SHARES.iter().position(|&share| share == small);
        let chosen = of(choice.get()).map_or(0.0, |chosen| self.hits[chosen]);
        let lead = LEAD * self.seen + CHANCE * self.seen.sqrt();
        let by_hits = |(_, a): &(usize, f32), (_, b): &(usize, f32)| a.total_cmp(b);
        let best = self.hits.into_iter().enumerate().max_by(by_hits);
        if let Some((best, _)) = best.filter(|(_, hits)| hits - chosen > lead) {
            choice.set(SHARES[best]);
        }
        self.hits = self.hits.map(|hits| hits * FADING);
        self.seen *= FADING;
    }

    /// The shard has room for so many entries now.
    pub(super) fn grow(&mut self, slots: usize) {
        let sample = LEAST_SAMPLE.max(slots * self.shards / SAMPLE);
        self.part = ((sample as u64) << 32) / slots as u64;
        self.begin_anew(sample.min(slots));
    }

    /// The shard has so many entries, and no room for more.
    #[inline]
    pub(super) fn is_full(&mut self, entries: u32) {
        let sample = (u64::from(entries) * self.part.min(1 << 32)) >> 32;
        self.capacity = usize::try_from(sample).unwrap_or(usize::MAX).max(1);
        // Where entries have weights it varies; a little too many do no harm.
        if self.shadows.len() > self.capacity + self.capacity / 4 {
            self.begin_anew(self.capacity);
        }
    }

    #[cold]
    fn begin_anew(&mut self, keys: usize) {
        self.shadows = Shadows::new(keys, SHARES.map(rules));
    }
}

/// Is a hash among this part of all?
#[inline]
fn is_within(part: u64, hash: u32) -> bool {
    let spread = u64::from(hash).wrapping_mul(0xA24B_AED4_963E_E407);
    // Bits that neither the ghosts nor the sketch take from it.
    (spread >> 16 & 0xFFFF_FFFF) < part
}
