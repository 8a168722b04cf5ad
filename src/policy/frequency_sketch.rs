//! An approximate count of recent requests by key.

use crate::random;
use crate::storage::allocated::AllocatedBytes;

/// The number of entries that share a word of 32 counters, which is not quite three bytes for each entry.
const ENTRIES_PER_WORD: usize = 3;
/// The number of additions for each entry between two times that a counter is halved.
const HALVING_PERIOD: usize = 3;
/// The low bits of all counters, which remain when all counters of a word are halved.
const LOW_BITS: u64 = 0x5555_5555_5555_5555;
/// The multiplier that spreads hashes over words and counters. It is independent of the one of the sampler.
const MULTIPLIER: u64 = 0xD6E8_FEB8_6659_FD93;

/// A count-min sketch of counters of two bits (Einziger et al., "`TinyLFU`", 2017).
///
/// The admission gate compares two keys, one of which has to have at least two requests more. With the same memory,
/// more and smaller counters decide this better. A key has four counters in one word, so that a lookup and an addition
/// touch one cache line. The words are halved in turn as keys are added, so that earlier requests count less.
#[derive(Default)]
pub(crate) struct FrequencySketch {
    words: Box<[u64]>,
    /// The number of additions until the next word is halved.
    until_halved: usize,
    /// The word that is halved next.
    hand: usize,
}

/// The counters of a key in a word, by their value. Each mask has one bit for each counter, the low one of the counter.
struct Counters {
    zeros: u64,
    ones: u64,
    twos: u64,
}

impl Counters {
    /// Returns the counters of a word whose low bits are in `mask`.
    #[inline]
    fn of(word: u64, mask: u64) -> Self {
        let (low, high) = (word & mask, word >> 1 & mask);
        Self {
            zeros: mask & !low & !high,
            ones: low & !high,
            twos: high & !low,
        }
    }

    /// Returns the least value of the counters. There are no branches, because they would be mispredicted.
    #[inline]
    fn least(&self) -> u32 {
        let more = |of: u64| u32::from(of == 0);
        more(self.zeros) * (1 + more(self.ones) * (1 + more(self.twos)))
    }
}

impl FrequencySketch {
    /// Resets all counters, and sets their number for this number of entries.
    pub(crate) fn resize(&mut self, entries: usize) {
        self.words = vec![0; entries.div_ceil(ENTRIES_PER_WORD)].into();
        (self.until_halved, self.hand) = (0, 0);
    }

    /// Returns the index of the word of a key, and a mask of the low bits of its four counters there.
    #[inline]
    #[allow(clippy::cast_possible_truncation)]
    fn location(&self, hash: u32) -> (usize, u64) {
        let spread = random::spread(hash.into(), MULTIPLIER);
        let word = ((spread >> 32) * self.words.len() as u64) >> 32;
        // One of eight counters in each quarter of the word.
        let bit = |quarter: u32| 1 << (quarter * 16 + (spread >> (8 + 3 * quarter) & 7) as u32 * 2);
        (word as usize, bit(0) | bit(1) | bit(2) | bit(3))
    }

    /// Returns the number of times that a key was added, up to 3: the least of its counters.
    #[inline]
    pub(crate) fn count(&self, hash: u32) -> u32 {
        let (at, mask) = self.location(hash);
        let counters = Counters::of(self.words.get(at).copied().unwrap_or(0), mask);
        counters.least()
    }

    /// Counts a key, and returns the number of times that it had been added before.
    #[inline]
    pub(crate) fn add(&mut self, hash: u32) -> u32 {
        let (at, mask) = self.location(hash);
        let Some(word) = self.words.get_mut(at) else {
            return 0;
        };
        // Only the least counters are incremented, because the others are too high already.
        let counters = Counters::of(*word, mask);
        let or = |least: u64, next: u64| if least == 0 { next } else { least };
        *word += or(or(counters.zeros, counters.ones), counters.twos);
        self.age();
        counters.least()
    }

    /// Halves the counters of a word from time to time.
    #[inline]
    fn age(&mut self) {
        if self.until_halved > 0 {
            self.until_halved -= 1;
            return;
        }
        self.until_halved = HALVING_PERIOD * ENTRIES_PER_WORD - 1;
        if let Some(word) = self.words.get_mut(self.hand) {
            *word = *word >> 1 & LOW_BITS;
        }
        self.hand += 1;
        if self.hand >= self.words.len() {
            self.hand = 0;
        }
    }
}

impl AllocatedBytes for FrequencySketch {
    fn allocated_bytes(&self) -> usize {
        self.words.allocated_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::tests::hash;

    #[test]
    fn counts_are_close_and_decrease_as_others_are_added() {
        let mut sketch = FrequencySketch::default();
        assert_eq!(sketch.count(7), 0);
        sketch.add(7);
        sketch.resize(10_000);
        for n in 0..1_000 {
            for _ in 0..n % 4 {
                sketch.add(hash(n));
            }
        }
        let exact = (0..1_000).filter(|&n| sketch.count(hash(n)) == n % 4);
        assert!(exact.count() > 900);
        for _ in 0..100 {
            sketch.add(hash(5_000));
        }
        assert_eq!(sketch.count(hash(5_000)), 3);
        let others = 6_000..70_000;
        for n in others {
            sketch.add(hash(n));
        }
        assert!(sketch.count(hash(5_000)) < 3);
    }
}
