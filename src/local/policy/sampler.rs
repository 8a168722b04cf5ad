//! What a shard watches for the others: a sample of its keys, under each share there is to choose.

use super::Words;
use super::adaptive::{Choice, rules};
use super::queues::NOTED;
use super::s3_fifo::CLOCK;
use super::shadow::Shadow;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// The shares of the small queue to choose from, in percent.
const SHARES: [u32; 5] = [1, 10, 40, 80, CLOCK];

/// A shadow has at least so many entries, if the shard does; else one in so many of the cache's.
const LEAST_SAMPLE: usize = 64;
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
    candidates: [Candidate; SHARES.len()],
    /// How many entries a shadow may have: as many as the shard, for its part, once that evicts.
    capacity: usize,
    /// How many accesses there were, fading as hits do, and how many until the next look.
    seen: f32,
    until_look: usize,
}

struct Candidate {
    small: u32,
    shadow: Shadow,
    hits: f32,
}

impl Sampler {
    pub(super) fn new(shards: usize) -> Self {
        Self {
            notes: [const { AtomicU32::new(0) }; NOTES],
            noted: AtomicU32::new(0),
            shards,
            part: 1 << 32,
            candidates: SHARES.map(|small| Candidate {
                small,
                shadow: Shadow::new(rules(small)),
                hits: 0.0,
            }),
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
        for Candidate { shadow, hits, .. } in &mut self.candidates {
            if shadow.access(hash, self.capacity) {
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
        let by_hits = |a: &&Candidate, b: &&Candidate| a.hits.total_cmp(&b.hits);
        let best = self.candidates.iter().max_by(by_hits);
        let chosen = choice.get();
        let chosen = self.candidates.iter().find(|one| one.small == chosen);
        if let (Some(best), Some(chosen)) = (best, chosen) {
            if best.hits - chosen.hits > LEAD * self.seen + CHANCE * self.seen.sqrt() {
                choice.set(best.small);
            }
        }
        for candidate in &mut self.candidates {
            candidate.hits *= FADING;
        }
        self.seen *= FADING;
    }

    /// The shard has room for so many entries now.
    pub(super) fn grow(&mut self, slots: usize) {
        let sample = LEAST_SAMPLE.max(slots * self.shards / SAMPLE);
        self.part = ((sample as u64) << 32) / slots as u64;
        self.fit();
    }

    /// The shard has so many entries, and no room for more.
    #[inline]
    pub(super) fn is_full(&mut self, entries: u32) {
        let part = self.part.min(1 << 32);
        self.capacity = usize::try_from(u64::from(entries) * part >> 32).unwrap_or(0).max(1);
        // Where entries have weights it varies; a little too many do no harm.
        if self.candidates[0].shadow.len() > self.capacity + self.capacity / 4 {
            self.fit();
        }
    }

    #[cold]
    fn fit(&mut self) {
        let (part, capacity) = (self.part, self.capacity);
        for Candidate { shadow, .. } in &mut self.candidates {
            shadow.retain(capacity, |hash| is_within(part, hash));
        }
    }
}

/// Is a hash among this part of all?
#[inline]
fn is_within(part: u64, hash: u32) -> bool {
    let spread = u64::from(hash).wrapping_mul(0xA24B_AED4_963E_E407);
    // Bits that neither the ghosts nor the sketch take from it.
    (spread >> 16 & 0xFFFF_FFFF) < part
}
