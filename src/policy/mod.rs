//! Eviction policies over slots: which entry is evicted when there is no room.

mod adaptive;
mod car;
mod ghost_list;
mod ghost_queue;
mod lru;
mod queues;
mod s3_fifo;
mod slot_list;
mod state;

pub(crate) use crate::policy::state::{EntryBounds, PolicyStates};

use crate::policy::adaptive::{Adaptive, ReuseModel};
use crate::policy::car::Car;
use crate::policy::lru::Lru;
use crate::policy::s3_fifo::S3Fifo;
use crate::policy::state::NoOpHits;
use crate::random;
use crate::storage::allocated::AllocatedBytes;
use crate::storage::work_slice::WorkSlice;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

/// The rule that selects the entry to evict, for [`LocalCacheBuilder::policy`](crate::LocalCacheBuilder::policy).
///
/// - [`Lru`](Self::Lru), the default, if it has to be predictable which entries are cached.
/// - [`Adaptive`](Self::Adaptive) if misses are expensive, or if entries have different weights or times to live: it has
///   the best hit ratio on most workloads, and is rarely behind LRU. Writes have 0.4 to 1.0 of the speed of `Lru`.
/// - [`S3Fifo`](Self::S3Fifo) if most keys are requested once. If keys return only after a while, it can be far worse
///   than LRU.
/// - [`Car`](Self::Car) adapts between recency and frequency; it is seldom far behind LRU.
///
/// Hits are as fast with each: none takes a lock, and most write nothing.
///
/// # Examples
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
#[doc(alias = "EvictionPolicy")]
pub enum Policy {
    /// Least recently used. Recency is resolved to one 64th of a shard, and exact below 128 entries.
    #[default]
    Lru,
    /// Three FIFO queues: new entries pass through a small one. Those that are hit twice move from there to the main
    /// one. Keys that return soon after their eviction are inserted into the main one at once (Yang et al., "FIFO
    /// queues are all you need for cache eviction", SOSP 2023). It takes five bytes more than `Lru` for each entry of
    /// capacity.
    S3Fifo,
    /// CLOCK with adaptive replacement: two clocks, of entries that were requested once and of entries that were
    /// requested again. Their shares follow the keys that return after their eviction from either (Bansal and Modha,
    /// FAST 2004). It takes up to 30 bytes more than `Lru` for each entry of capacity.
    Car,
    /// Evicts the entry with the fewest expected hits for the time that it takes up room, as learned from when keys were
    /// requested again (compare Beckmann et al., "LHD", NSDI 2018; Song et al., "Learning Relaxed Belady", NSDI 2020).
    /// An entry is worth its expected hits for each unit of weight, and less if it expires before it is likely requested
    /// again. It is not predictable which entries are cached.
    ///
    /// It takes at most 12 bytes more than `Lru` for each entry of capacity, up to 30 kilobytes for each cache, and half a
    /// kilobyte for each shard.
    #[doc(alias = "TinyLfu")]
    Adaptive,
}

/// Spreads the 32 bits of a stored hash over 64, for tables of hashes.
#[inline]
fn spread(hash: u32) -> u64 {
    random::spread(hash.into(), random::GOLDEN_RATIO)
}

/// An eviction policy. It knows slots, their states, hashes and bounds, and nothing of keys or values.
///
/// [`on_hit`](Self::on_hit) runs under a shared lock, and everything else under an exclusive one.
pub(crate) trait EvictionPolicy: AllocatedBytes {
    /// Returns the hits of which [`on_hit`](Self::on_hit) need not be notified until the next write begins.
    fn no_op_hits(&self) -> NoOpHits;

    /// Records a hit. Except for a few hits, this is at most a relaxed store to the state of the entry.
    fn on_hit(&self, slot: u32, state: &AtomicU32);

    /// Records that a write to a key of the shard begins: the reads before it count as older than those after it.
    fn on_write(&mut self, states: &impl PolicyStates, work: &mut WorkSlice);

    /// Adds the entry of a slot that was filled, and sets its state.
    fn insert(&mut self, slot: u32, state: &AtomicU32, hash: u32);

    /// Removes an entry from the policy, because the caller is about to remove it for another reason than
    /// [`evict`](Self::evict).
    fn remove(&mut self, state: &AtomicU32, hash: u32);

    /// Chooses a slot for the caller to vacate. Returns `None` if there is none, or if the work was used up before one
    /// was found. In the second case, a later call continues the search.
    fn evict(&mut self, states: &impl PolicyStates, work: &mut WorkSlice) -> Option<u32>;

    /// Records a write, chooses a victim and inserts an entry with this hash in its slot. Returns that slot, whose
    /// contents the caller replaces, or `None` like [`evict`](Self::evict). The write is recorded even then.
    #[inline]
    fn replace_victim(
        &mut self,
        states: &impl PolicyStates,
        hash: u32,
        work: &mut WorkSlice,
    ) -> Option<u32> {
        self.on_write(states, work);
        let slot = self.evict(states, work)?;
        self.insert(slot, states.state(slot)?, hash);
        Some(slot)
    }

    /// Begins to make room for `slots` slots.
    fn grow(&mut self, slots: usize);

    /// Moves up to `most` slots to the larger storage. After the last one, returns the former storage, for the caller
    /// to drop where no lock is held.
    fn step(&mut self, most: usize) -> Option<Vec<u32>>;

    /// Gives the entries other slots, below `slots`. `slot_of` returns the new slot of each, or `None` for slots that
    /// are vacant.
    fn renumber(&mut self, slots: usize, slot_of: impl Fn(u32) -> Option<u32>);

    /// Returns the time of the policy's clock, for [`heat`](Self::heat), or 0 if the policy has none.
    fn time(&self) -> u32;

    /// Returns the heat of an entry. Of two entries, the one with less heat is most likely evicted before the other.
    /// Heats are comparable if they were computed with the same `since`, a time of the policy's clock.
    fn heat(&self, state: &AtomicU32, since: u32) -> i32;

    /// Returns the slot that was filed after this one in the same queue, or `None` if there is none or the policy has
    /// no queues. Of entries with the same heat, the one that was filed first is most likely evicted before the others.
    fn filed_next(&self, slot: u32) -> Option<u32>;

    /// Checks the policy's own structure, for tests.
    ///
    /// # Panics
    ///
    /// Panics if it is broken.
    fn validate(&self, states: &impl PolicyStates);
}

/// The policy of one shard. The fields that each write changes are next to each other.
#[repr(C)]
pub(crate) struct AnyPolicy {
    /// The no-op hits of `kind` since the last write began.
    no_op_hits: NoOpHits,
    kind: Kind,
}

enum Kind {
    Lru(Lru),
    S3Fifo(Box<S3Fifo>),
    Car(Box<Car>),
    Adaptive(Box<Adaptive>),
}

impl Kind {
    /// Replaces the victim of a policy with queues. A function of its own, so that the one that calls it has one branch
    /// before `Adaptive`.
    #[inline(never)]
    fn replace_victim_of_queues(
        &mut self,
        states: &impl PolicyStates,
        hash: u32,
        work: &mut WorkSlice,
    ) -> Option<u32> {
        // The no-op hits of these policies never change.
        match self {
            Self::S3Fifo(policy) => replace_victim_of(&mut **policy, states, hash, work),
            Self::Car(policy) => replace_victim_of(&mut **policy, states, hash, work),
            Self::Lru(_) | Self::Adaptive(_) => None,
        }
    }
}

/// Calls the policy of a [`Kind`].
macro_rules! dispatch {
    ($kind:expr, $policy:ident => $call:expr) => {
        match $kind {
            Kind::Lru($policy) => $call,
            Kind::S3Fifo($policy) => $call,
            Kind::Car($policy) => $call,
            Kind::Adaptive($policy) => $call,
        }
    };
}

/// The policies of all shards of a cache.
pub(crate) struct ShardPolicies {
    policy: Policy,
    /// `Some` if the policy is `Adaptive`.
    model: Option<Arc<ReuseModel>>,
}

impl ShardPolicies {
    /// Prepares the policies of this number of shards.
    pub(crate) fn new(policy: Policy, shards: usize) -> Self {
        let is_adaptive = policy == Policy::Adaptive;
        Self {
            policy,
            model: is_adaptive.then(|| Arc::new(ReuseModel::new(shards))),
        }
    }

    /// Creates the policy of the shard with this number.
    pub(crate) fn of_shard(&self, shard: usize) -> AnyPolicy {
        AnyPolicy::of(match (self.policy, &self.model) {
            (Policy::Adaptive, Some(model)) => {
                Kind::Adaptive(Box::new(Adaptive::new(Arc::clone(model), shard)))
            }
            (Policy::S3Fifo, _) => Kind::S3Fifo(Box::default()),
            (Policy::Car, _) => Kind::Car(Box::default()),
            (Policy::Lru | Policy::Adaptive, _) => Kind::Lru(Lru::default()),
        })
    }
}

impl AnyPolicy {
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
            no_op_hits: dispatch!(&kind, policy => policy.no_op_hits()),
            kind,
        }
    }

    /// Replaces the victim of a policy other than LRU. An insertion contains the code of the default policy alone.
    #[inline(never)]
    fn replace_victim_of_others(
        &mut self,
        states: &impl PolicyStates,
        hash: u32,
        work: &mut WorkSlice,
    ) -> Option<u32> {
        let Kind::Adaptive(policy) = &mut self.kind else {
            return self.kind.replace_victim_of_queues(states, hash, work);
        };
        let slot = policy.replace_victim(states, hash, work);
        self.no_op_hits = policy.no_op_hits();
        slot
    }

    /// Records a hit that is not a no-op. Not inlined, so that a no-op hit has the registers to itself.
    #[inline(never)]
    fn on_effective_hit(&self, slot: u32, state: &AtomicU32) {
        dispatch!(&self.kind, policy => policy.on_hit(slot, state));
    }
}

/// Calls [`replace_victim`](EvictionPolicy::replace_victim) in a function of its own.
#[inline(never)]
fn replace_victim_of(
    policy: &mut impl EvictionPolicy,
    states: &impl PolicyStates,
    hash: u32,
    work: &mut WorkSlice,
) -> Option<u32> {
    policy.replace_victim(states, hash, work)
}

impl EvictionPolicy for AnyPolicy {
    fn no_op_hits(&self) -> NoOpHits {
        self.no_op_hits
    }

    #[inline(always)]
    fn on_hit(&self, slot: u32, state: &AtomicU32) {
        if !self.no_op_hits.is_no_op_hit(state) {
            self.on_effective_hit(slot, state);
        }
    }

    #[inline(always)]
    fn on_write(&mut self, states: &impl PolicyStates, work: &mut WorkSlice) {
        dispatch!(&mut self.kind, policy => {
            policy.on_write(states, work);
            self.no_op_hits = policy.no_op_hits();
        });
    }

    #[inline(always)]
    fn insert(&mut self, slot: u32, state: &AtomicU32, hash: u32) {
        dispatch!(&mut self.kind, policy => policy.insert(slot, state, hash));
    }

    fn remove(&mut self, state: &AtomicU32, hash: u32) {
        dispatch!(&mut self.kind, policy => policy.remove(state, hash));
    }

    #[inline(always)]
    fn evict(&mut self, states: &impl PolicyStates, work: &mut WorkSlice) -> Option<u32> {
        dispatch!(&mut self.kind, policy => policy.evict(states, work))
    }

    #[inline(always)]
    fn replace_victim(
        &mut self,
        states: &impl PolicyStates,
        hash: u32,
        work: &mut WorkSlice,
    ) -> Option<u32> {
        if let Kind::Lru(lru) = &mut self.kind {
            let slot = lru.replace_victim(states, hash, work);
            self.no_op_hits = lru.no_op_hits();
            return slot;
        }
        self.replace_victim_of_others(states, hash, work)
    }

    fn step(&mut self, most: usize) -> Option<Vec<u32>> {
        dispatch!(&mut self.kind, policy => policy.step(most))
    }

    fn renumber(&mut self, slots: usize, slot_of: impl Fn(u32) -> Option<u32>) {
        dispatch!(&mut self.kind, policy => policy.renumber(slots, slot_of));
    }

    fn grow(&mut self, slots: usize) {
        dispatch!(&mut self.kind, policy => policy.grow(slots));
    }

    fn time(&self) -> u32 {
        dispatch!(&self.kind, policy => policy.time())
    }

    fn heat(&self, state: &AtomicU32, since: u32) -> i32 {
        dispatch!(&self.kind, policy => policy.heat(state, since))
    }

    fn filed_next(&self, slot: u32) -> Option<u32> {
        dispatch!(&self.kind, policy => policy.filed_next(slot))
    }

    fn validate(&self, states: &impl PolicyStates) {
        dispatch!(&self.kind, policy => policy.validate(states));
    }
}

impl AllocatedBytes for AnyPolicy {
    fn allocated_bytes(&self) -> usize {
        dispatch!(&self.kind, policy => policy.allocated_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cmp::Reverse;

    /// The states of entries that fill all slots.
    pub(crate) struct States(pub(crate) Vec<AtomicU32>);

    impl PolicyStates for States {
        fn state(&self, slot: u32) -> Option<&AtomicU32> {
            self.0.get(slot as usize)
        }

        fn hash(&self, slot: u32) -> u32 {
            slot.wrapping_mul(0x9E37_79B9)
        }
    }

    /// The states of entries, of which all slots except one are vacant.
    pub(crate) struct Sparse {
        pub(crate) states: States,
        pub(crate) only: u32,
    }

    impl PolicyStates for Sparse {
        fn state(&self, slot: u32) -> Option<&AtomicU32> {
            self.states.state(slot).filter(|_| slot == self.only)
        }

        fn hash(&self, slot: u32) -> u32 {
            self.states.hash(slot)
        }
    }

    /// Adds `entries` entries, each of which is hit `hits` times.
    pub(crate) fn fill(policy: &mut impl EvictionPolicy, entries: u32, hits: usize) -> States {
        let states = States((0..entries).map(|_| AtomicU32::new(0)).collect());
        policy.grow(states.0.len());
        for (slot, state) in (0..).zip(&states.0) {
            policy.insert(slot, state, states.hash(slot));
            (0..hits).for_each(|_| policy.on_hit(slot, state));
        }
        states
    }

    /// Lists occupied slots, the hottest first, later slots first among equals.
    pub(crate) fn hottest_first(
        policy: &impl EvictionPolicy,
        states: &impl PolicyStates,
        slots: u32,
    ) -> Vec<u32> {
        let heat = |slot: &u32| policy.heat(states.state(*slot).unwrap(), policy.time());
        let mut listed: Vec<u32> = (0..slots)
            .filter(|slot| states.state(*slot).is_some())
            .collect();
        listed.sort_by_key(|slot| Reverse((heat(slot), *slot)));
        listed
    }

    /// Evicts an entry, and returns the number of holds of the shard's lock that this takes.
    pub(crate) fn holds_until_eviction(
        policy: &mut impl EvictionPolicy,
        states: &impl PolicyStates,
    ) -> u32 {
        let mut holds = 1;
        while policy.evict(states, &mut WorkSlice::new()).is_none() {
            holds += 1;
        }
        holds
    }

    /// Returns a well distributed hash of a number.
    pub(crate) fn hash(n: u32) -> u32 {
        n.wrapping_mul(0x9E37_79B9) ^ n >> 7
    }
}
