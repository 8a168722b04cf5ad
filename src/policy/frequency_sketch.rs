//! How often keys were asked for lately, roughly.

/// How many entries share a word of 32 counters: not quite three bytes an entry.
const ENTRIES_PER_WORD: usize = 3;
/// Each counter is halved once in so many additions for each entry.
const PERIOD: usize = 3;
/// What is left of all counters when they are halved.
const HALVES: u64 = 0x5555_5555_5555_5555;

/// A count-min sketch of two bits a counter: what the gate asks is which of two keys was asked for
/// at least twice more, and with the same memory more and smaller counters tell better. A key has four
/// counters in one word, so that it takes one cache line to ask and to add; they are halved word by word
/// as others are added, so that what is long past counts for less (Einziger et al., "`TinyLFU`", 2017).
#[derive(Default)]
pub(crate) struct Sketch {
    words: Box<[u64]>,
    /// How many additions there are until the next word is halved, and which.
    until_halved: usize,
    hand: usize,
}

/// The counters of a key in a word, by their value: in each mask one bit, the low one, for each counter.
struct Counters {
    zeros: u64,
    ones: u64,
    twos: u64,
}

impl Counters {
    #[inline]
    fn of(word: u64, mask: u64) -> Self {
        let (low, high) = (word & mask, word >> 1 & mask);
        Self {
            zeros: mask & !low & !high,
            ones: low & !high,
            twos: high & !low,
        }
    }

    /// Without branches, which would be mispredicted.
    #[inline]
    fn least(&self) -> u32 {
        let more = |of: u64| u32::from(of == 0);
        more(self.zeros) * (1 + more(self.ones) * (1 + more(self.twos)))
    }
}

impl Sketch {
    /// Forgets everything, for so many entries.
    pub(crate) fn resize(&mut self, entries: usize) {
        self.words = vec![0; entries.div_ceil(ENTRIES_PER_WORD)].into();
        (self.until_halved, self.hand) = (0, 0);
    }

    /// The word of a key, and the low bits of its four counters there.
    #[inline]
    #[allow(clippy::cast_possible_truncation)]
    fn location(&self, hash: u32) -> (usize, u64) {
        let spread = u64::from(hash).wrapping_mul(0xD6E8_FEB8_6659_FD93);
        let word = ((spread >> 32) * self.words.len() as u64) >> 32;
        // One of eight in each quarter.
        let bit = |quarter: u32| 1 << (quarter * 16 + (spread >> (8 + 3 * quarter) & 7) as u32 * 2);
        (word as usize, bit(0) | bit(1) | bit(2) | bit(3))
    }

    /// How often a key was added, at most three times: the least of its counters.
    #[inline]
    pub(crate) fn count(&self, hash: u32) -> u32 {
        let (at, mask) = self.location(hash);
        let counters = Counters::of(self.words.get(at).copied().unwrap_or(0), mask);
        counters.least()
    }

    /// Counts a key, and returns how often it had been added before.
    #[inline]
    pub(crate) fn add(&mut self, hash: u32) -> u32 {
        let (at, mask) = self.location(hash);
        let Some(word) = self.words.get_mut(at) else {
            return 0;
        };
        // Only the least are raised, for the others are too high already.
        let counters = Counters::of(*word, mask);
        let or = |least: u64, next: u64| if least == 0 { next } else { least };
        *word += or(or(counters.zeros, counters.ones), counters.twos);
        self.age();
        counters.least()
    }

    #[inline]
    fn age(&mut self) {
        if self.until_halved > 0 {
            self.until_halved -= 1;
            return;
        }
        self.until_halved = PERIOD * ENTRIES_PER_WORD - 1;
        if let Some(word) = self.words.get_mut(self.hand) {
            *word = *word >> 1 & HALVES;
        }
        self.hand += 1;
        if self.hand >= self.words.len() {
            self.hand = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::tests::hash;

    #[test]
    fn counts_are_close_and_fade() {
        let mut sketch = Sketch::default();
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
