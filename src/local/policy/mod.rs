//! Which entry goes when there is no room: policies over slots.

mod lru;

pub(crate) use lru::Lru;

use std::sync::atomic::AtomicU32;

/// Where a policy finds the word of each entry. The word is the policy's own; it lies with the
/// entry since a hit reads that cache line anyway.
pub(crate) trait Words {
    /// `None` if the slot is vacant.
    fn word(&self, slot: u32) -> Option<&AtomicU32>;
}

/// An eviction policy. It knows slots and their words, nothing of keys, values or time.
///
/// [`touch`](Self::touch) runs under a shared lock; all else under an exclusive one.
pub(crate) trait Policy: Default {
    /// A hit: at most a relaxed store to the entry's word.
    fn touch(&self, word: &AtomicU32);

    /// Comes before each write to a key of the shard: the reads before it are older than those after.
    fn before_write(&mut self, words: &impl Words);

    /// A slot was filled. Its word is set.
    fn insert(&mut self, slot: u32, word: &AtomicU32);

    /// A slot was vacated that [`evict`](Self::evict) did not choose.
    fn remove(&mut self, slot: u32);

    /// Chooses a slot for the caller to vacate. `None` if there is none.
    fn evict(&mut self, words: &impl Words) -> Option<u32>;

    /// There are so many slots now.
    fn grow(&mut self, slots: usize);

    /// All occupied slots, the last to be evicted first.
    fn hottest_first(&self, words: &impl Words) -> Vec<u32>;

    /// Checks the policy's own structure, for tests.
    ///
    /// # Panics
    ///
    /// If it is broken.
    fn validate(&self, words: &impl Words);
}
