//! Which entry goes when there is no room: policies over slots.

mod adaptive;
mod car;
mod frequency_sketch;
mod ghost_list;
mod ghost_queue;
mod lru;
mod queues;
mod s3_fifo;
mod slot_list;

use crate::policy::adaptive::Adaptive;
use crate::policy::car::Car;
use crate::policy::lru::Lru;
use crate::policy::s3_fifo::S3Fifo;
use crate::storage::work_slice::WorkSlice;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

pub(crate) use crate::policy::adaptive::Choice;

/// Which entry gives way when there is no room, for [`LocalCacheBuilder::policy`](crate::LocalCacheBuilder::policy).
///
/// - [`Lru`](Self::Lru), the default, where one has to foretell what is held.
/// - [`Adaptive`](Self::Adaptive) where misses are expensive: it has the best hit ratio on most loads, and
///   is hardly ever behind LRU. It writes at three quarters of LRU's speed or more.
/// - [`S3Fifo`](Self::S3Fifo) where most keys are asked for once; where keys return only after a while it
///   can be far worse than LRU.
/// - [`Car`](Self::Car) adapts between recency and frequency; it is seldom far behind LRU.
///
/// Hits are as fast with each: none takes a lock, and most write nothing.
///
/// ```
/// use hotset::{LocalCache, Policy};
///
/// let pages: LocalCache<u64, String> = LocalCache::builder()
///     .capacity(10_000)
///     .policy(Policy::Adaptive)
///     .build()?;
/// # Ok::<(), hotset::BuildError>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "kebab-case")
)]
#[non_exhaustive]
pub enum Policy {
    /// The least recently used. Recency is resolved to one 64th of a shard, and exact below 128 entries.
    #[default]
    Lru,
    /// Three FIFO queues: new entries pass through a small one, from which those that are hit twice
    /// move to the main one; keys that return soon after having left go there at once (Yang et al., "FIFO
    /// queues are all you need for cache eviction", SOSP 2023). It takes five bytes an entry of capacity
    /// more than `Lru`.
    S3Fifo,
    /// CLOCK with adaptive replacement: two clocks, of what was asked for once and of what returned,
    /// whose shares follow the keys that return after having left either (Bansal and Modha, FAST 2004).
    /// It takes up to 30 bytes an entry of capacity more than `Lru`.
    Car,
    /// S3-FIFO with an admission gate, whose small queue has the share that does best on a sample of
    /// the keys, from one percent to all, which is CLOCK (Waldspurger et al., "Cache modeling and
    /// optimization using miniature simulations", ATC 2017; Einziger et al., "`TinyLFU`", 2017).
    ///
    /// It takes at most four bytes an entry of capacity more than `Lru`, and a few kilobytes a cache.
    Adaptive,
}

/// What a hash keeps, over 64 bits.
fn spread(hash: u32) -> u64 {
    u64::from(hash).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

/// What a policy knows of entries, by slot.
pub(crate) trait Words {
    /// The policy's own word. It lies with the entry since a hit reads that cache line anyway. `None`
    /// if the slot is vacant.
    fn word(&self, slot: u32) -> Option<&AtomicU32>;

    /// What the entry keeps of its key's hash; 0 if the slot is vacant.
    fn hash(&self, slot: u32) -> u32;
}

/// Which hits change nothing: those on entries whose word is no further behind `clock` than `slack`. Every
/// policy can say so: one that stamps with a clock, and one that counts in the top bits up to all ones.
#[derive(Clone, Copy)]
pub(crate) struct Quiet {
    pub(crate) clock: u32,
    pub(crate) slack: u32,
}

impl Quiet {
    #[inline]
    fn includes(self, word: &AtomicU32) -> bool {
        self.clock.wrapping_sub(word.load(Relaxed)) <= self.slack
    }
}

/// An eviction policy. It knows slots, their words and hashes, nothing of keys, values or time.
///
/// [`touch`](Self::touch) runs under a shared lock; all else under an exclusive one.
pub(crate) trait Eviction {
    /// Which hits [`touch`](Self::touch) need not be told of, until the next write begins.
    fn quiet(&self) -> Quiet;

    /// A hit: at most a relaxed store to the entry's word, but for a few.
    fn touch(&self, slot: u32, word: &AtomicU32);

    /// Comes before each write to a key of the shard: the reads before it are older than those after.
    fn before_write(&mut self, words: &impl Words, work: &mut WorkSlice);

    /// A slot was filled. Its word is set.
    fn insert(&mut self, slot: u32, word: &AtomicU32, hash: u32);

    /// A slot with this word is about to be vacated that [`evict`](Self::evict) did not choose.
    fn remove(&mut self, word: &AtomicU32, hash: u32);

    /// Chooses a slot for the caller to vacate. `None` if there is none, or if the work was used up before
    /// one was found: a later call then goes on from there.
    fn evict(&mut self, words: &impl Words, work: &mut WorkSlice) -> Option<u32>;

    /// Begins to make room for so many slots.
    fn grow(&mut self, slots: usize);

    /// Goes on with it, for up to `most` slots. Returns storage that is not needed any more, for the caller to
    /// drop where no lock is held.
    fn step(&mut self, most: usize) -> Option<Vec<u32>>;

    /// Occupied slots get other numbers, below `slots`: `slot_of` returns each. Vacant ones are gone.
    fn renumber(&mut self, slots: usize, slot_of: impl Fn(u32) -> Option<u32>);

    /// Returns the time of the policy's clock, for [`heat`](Self::heat); 0 if it has none.
    fn time(&self) -> u32;

    /// Returns the heat of an entry with this word: of two entries, the one with less is most likely evicted before the
    /// other. Heats are comparable if they were taken with the same `since`, a time of the policy's clock.
    fn heat(&self, word: &AtomicU32, since: u32) -> i32;

    /// Checks the policy's own structure, for tests.
    ///
    /// # Panics
    ///
    /// If it is broken.
    fn validate(&self, words: &impl Words);
}

/// The policy of a shard.
pub(crate) struct AnyPolicy {
    /// Of the one below, as a write began.
    quiet: Quiet,
    kind: Kind,
}

enum Kind {
    Lru(Lru),
    S3Fifo(Box<S3Fifo>),
    Car(Box<Car>),
    Adaptive(Box<Adaptive>),
}

/// Calls the policy that there is.
macro_rules! each {
    ($any:expr, $policy:ident => $call:expr) => {
        match $any {
            Kind::Lru($policy) => $call,
            Kind::S3Fifo($policy) => $call,
            Kind::Car($policy) => $call,
            Kind::Adaptive($policy) => $call,
        }
    };
}

impl AnyPolicy {
    /// For the shard of this index, of so many, that share a choice.
    pub(crate) fn new(policy: Policy, choice: &Arc<Choice>, index: usize, shards: usize) -> Self {
        let kind = match policy {
            Policy::Lru => Kind::Lru(Lru::default()),
            Policy::S3Fifo => Kind::S3Fifo(Box::default()),
            Policy::Car => Kind::Car(Box::default()),
            Policy::Adaptive => {
                let samples_of = (index == 0).then_some(shards);
                Kind::Adaptive(Box::new(Adaptive::new(Arc::clone(choice), samples_of)))
            }
        };
        Self::of(kind)
    }

    /// Returns a policy of the same kind without entries.
    pub(crate) fn emptied(&self) -> Self {
        Self::of(match &self.kind {
            Kind::Lru(_) => Kind::Lru(Lru::default()),
            Kind::S3Fifo(_) => Kind::S3Fifo(Box::default()),
            Kind::Car(_) => Kind::Car(Box::default()),
            Kind::Adaptive(adaptive) => Kind::Adaptive(Box::new(adaptive.emptied())),
        })
    }

    fn of(kind: Kind) -> Self {
        Self {
            quiet: each!(&kind, policy => policy.quiet()),
            kind,
        }
    }

    /// Out of line, so that a hit that changes nothing has the registers to itself.
    #[inline(never)]
    fn touch_each(&self, slot: u32, word: &AtomicU32) {
        each!(&self.kind, policy => policy.touch(slot, word));
    }
}

impl Eviction for AnyPolicy {
    fn quiet(&self) -> Quiet {
        self.quiet
    }

    #[inline(always)]
    fn touch(&self, slot: u32, word: &AtomicU32) {
        if !self.quiet.includes(word) {
            self.touch_each(slot, word);
        }
    }

    #[inline(always)]
    fn before_write(&mut self, words: &impl Words, work: &mut WorkSlice) {
        each!(&mut self.kind, policy => {
            policy.before_write(words, work);
            self.quiet = policy.quiet();
        });
    }

    #[inline(always)]
    fn insert(&mut self, slot: u32, word: &AtomicU32, hash: u32) {
        each!(&mut self.kind, policy => policy.insert(slot, word, hash));
    }

    fn remove(&mut self, word: &AtomicU32, hash: u32) {
        each!(&mut self.kind, policy => policy.remove(word, hash));
    }

    #[inline(always)]
    fn evict(&mut self, words: &impl Words, work: &mut WorkSlice) -> Option<u32> {
        each!(&mut self.kind, policy => policy.evict(words, work))
    }

    fn step(&mut self, most: usize) -> Option<Vec<u32>> {
        each!(&mut self.kind, policy => policy.step(most))
    }

    fn renumber(&mut self, slots: usize, slot_of: impl Fn(u32) -> Option<u32>) {
        each!(&mut self.kind, policy => policy.renumber(slots, slot_of));
    }

    fn grow(&mut self, slots: usize) {
        each!(&mut self.kind, policy => policy.grow(slots));
    }

    fn time(&self) -> u32 {
        each!(&self.kind, policy => policy.time())
    }

    fn heat(&self, word: &AtomicU32, since: u32) -> i32 {
        each!(&self.kind, policy => policy.heat(word, since))
    }

    fn validate(&self, words: &impl Words) {
        each!(&self.kind, policy => policy.validate(words));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cmp::Reverse;

    /// Lists occupied slots, the hottest first, later slots first among equals.
    pub(crate) fn hottest_first(
        policy: &impl Eviction,
        words: &impl Words,
        slots: u32,
    ) -> Vec<u32> {
        let heat = |slot: &u32| policy.heat(words.word(*slot).unwrap(), policy.time());
        let mut listed: Vec<u32> = (0..slots)
            .filter(|slot| words.word(*slot).is_some())
            .collect();
        listed.sort_by_key(|slot| Reverse((heat(slot), *slot)));
        listed
    }

    /// Hashes as good ones are.
    pub(crate) fn hash(n: u32) -> u32 {
        n.wrapping_mul(0x9E37_79B9) ^ n >> 7
    }
}
