//! Which entry goes when there is no room: policies over slots.

mod lru;

pub(crate) use lru::Lru;

use std::sync::atomic::AtomicU32;

/// Where a policy finds the word of each entry. The word is the policy's own; it lies with the
/// entry since a hit reads that cache line anyway.
pub(crate) trait Words {
    fn word(&self, slot: u32) -> &AtomicU32;
}

/// An eviction policy. It knows slots and their words, nothing of keys, values or time.
///
/// [`touch`](Self::touch) runs under a shared lock; all else under an exclusive one.
pub(crate) trait Policy: Default {
    /// A hit: at most a relaxed store to the entry's word.
    fn touch(&self, word: &AtomicU32);

    /// Comes before each write to the shard: the reads before it are older than those after.
    fn before_write(&mut self, words: &impl Words);

    /// A slot was filled. Its word is set.
    fn insert(&mut self, slot: u32, words: &impl Words);

    /// A slot is about to be vacated.
    fn remove(&mut self, slot: u32);

    /// The slot to vacate next; it stays until [`remove`](Self::remove). `None` if there is none.
    fn victim(&mut self, words: &impl Words) -> Option<u32>;

    /// All slots, the last to be evicted first.
    fn hottest_first(&self, words: &impl Words) -> Vec<u32>;

    /// Checks the policy's own structure, for tests.
    ///
    /// # Panics
    ///
    /// If it is broken.
    fn validate(&self, words: &impl Words);
}
