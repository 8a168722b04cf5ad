//! A sample of the keys of a cache, with the time and class of their last request.

use crate::policy::adaptive::age::MAX_AGE;
use crate::policy::adaptive::state::{CLASS_BITS, Class};
use crate::policy::slot_list::as_slot;
use crate::policy::spread;
use crate::storage::allocated::AllocatedBytes;

/// The number of keys in a bucket.
const WAYS: usize = 8;
/// The number of keys that the smallest sample has room for, and the highest number.
const MIN_KEYS: usize = 1_024;
const MAX_KEYS: usize = 65_536;
/// The number of entries for which a sample has room for two keys more.
const ENTRIES_PER_TWO_KEYS: usize = 3;

/// The number of entries of a small cache that are in the sample in the long run.
const SAMPLED_ENTRIES: usize = 128;
/// The part of the keys of a large cache that is in the sample in the long run, as a divisor.
const MIN_DIVISOR: usize = 8;
/// The bounds of the number of requests for keys in the sample after which it is reduced to these limits, and that number
/// for each entry. A large cache takes longer to learn.
const MIN_INITIAL_REQUESTS: usize = 8_192;
const MAX_INITIAL_REQUESTS: usize = 65_536;
const INITIAL_REQUESTS_PER_ENTRY: usize = 8;
/// The number of requests for keys in the sample between two reductions.
const REQUESTS_PER_STEP: usize = 1_024;
/// The number of new keys for each of which one other key may be removed early. If more are removed, the sample gets
/// smaller.
const KEYS_PER_LOSS: usize = 8;

/// The last request for a key of the sample.
///
/// ```text
///    31      30 .. 15  14 .. 10   9 .. 0
/// +--------+----------+---------+---------+
/// | IS_KEY | TICK     | CLASS   | EXPOSED |
/// +--------+----------+---------+---------+
/// ```
///
/// `EXPOSED` is the age up to which it was recorded that the key did not return.
#[derive(Clone, Copy, Default)]
struct Key(u32);

impl Key {
    const NONE: Self = Self(0);
    const IS_KEY: u32 = 1 << 31;
    const EXPOSED: u32 = (1 << Self::CLASS_SHIFT) - 1;
    const CLASS_SHIFT: u32 = 10;
    const TICK_SHIFT: u32 = Self::CLASS_SHIFT + CLASS_BITS;
    const TICK: u32 = (1 << (31 - Self::TICK_SHIFT)) - 1;

    fn new(tick: u32, class: Class) -> Self {
        let tick = (tick & Self::TICK) << Self::TICK_SHIFT;
        Self(Self::IS_KEY | tick | (class.bits() << Self::CLASS_SHIFT))
    }

    #[inline]
    fn is_key(self) -> bool {
        self.0 >= Self::IS_KEY
    }

    #[inline]
    fn class(self) -> Class {
        Class::from_bits(self.0 >> Self::CLASS_SHIFT)
    }

    #[inline]
    fn exposed_to(self) -> u32 {
        self.0 & Self::EXPOSED
    }

    #[inline]
    fn with_exposure(self, age: u32) -> Self {
        Self((self.0 & !Self::EXPOSED) | age)
    }

    /// Returns the age, up to the highest that is distinguished.
    #[inline]
    fn age(self, tick: u32) -> u32 {
        (tick.wrapping_sub(self.0 >> Self::TICK_SHIFT) & Self::TICK).min(MAX_AGE)
    }
}

const _: () = assert!(MAX_AGE <= Key::EXPOSED);

/// The ages of a key since its last request: those that were recorded already, and those that were not.
pub(super) struct Exposure {
    /// The class of the key.
    pub(super) class: Class,
    /// The age up to which it was recorded that the key did not return.
    pub(super) from: u32,
    /// The age that the key has reached.
    pub(super) to: u32,
}

impl Exposure {
    #[inline]
    fn new(key: Key, tick: u32) -> Self {
        Self {
            class: key.class(),
            from: key.exposed_to(),
            to: key.age(tick),
        }
    }
}

/// The keys of a shard whose hashes have the same place.
#[derive(Clone, Copy, Default)]
struct Bucket {
    hashes: [u32; WAYS],
    keys: [Key; WAYS],
}

impl Bucket {
    /// Returns the position of the key with this hash.
    #[inline]
    fn position(&self, hash: u32) -> Option<usize> {
        // This check has no branches and compares all hashes at once.
        let matches = self.hashes.map(|other| u8::from(other == hash));
        if u64::from_ne_bytes(matches) == 0 {
            return None;
        }
        let mut keys = self.hashes.iter().zip(&self.keys);
        keys.position(|(&other, key)| other == hash && key.is_key())
    }

    /// Returns the position for a new key: a vacant one, or else that of the oldest key.
    fn position_to_fill(&self, tick: u32) -> usize {
        let age = |key: &Key| {
            if key.is_key() {
                key.age(tick)
            } else {
                u32::MAX
            }
        };
        let ages = self.keys.iter().map(age).enumerate();
        ages.max_by_key(|&(_, age)| age).map_or(0, |(way, _)| way)
    }
}

/// A sample of the keys. If there are too many, the part of the keys that is in the sample gets smaller (Waldspurger et
/// al., "Efficient MRC construction with SHARDS", FAST 2015).
pub(super) struct Sample {
    /// The buckets of all shards, the same number for each.
    buckets: Box<[Bucket]>,
    buckets_per_shard: usize,
    /// The number of the bucket to visit next.
    hand: usize,
    /// The number of keys that were seen since the visits began with the first bucket.
    seen: usize,
    /// The numbers of keys that were added, and of those for which another one was removed early.
    added: usize,
    lost: usize,
    /// The part of the keys that is in the sample, in units of 2 to the power of -32.
    part: u32,
    /// The highest part in the long run.
    max_part: u32,
    /// The number of entries of the cache.
    entries: usize,
    /// The number of requests from the beginning until the part may be made smaller.
    initial_requests: usize,
    /// The number of requests until the part may be made smaller.
    until_step: usize,
    /// The tick of each shard's clock at the last request.
    ticks: Box<[u32]>,
}

/// Checks whether a key is in a sample of this part of the keys, in units of 2 to the power of -32.
#[inline]
pub(super) const fn is_in_part(hash: u32, part: u32) -> bool {
    // The low bits of a hash are those of the place in the index, so they are uniformly distributed.
    hash << 8 <= part
}

impl Sample {
    /// Creates an empty sample for a cache with this number of shards.
    pub(super) fn new(shards: usize) -> Self {
        Self {
            buckets: Box::default(),
            buckets_per_shard: 0,
            hand: 0,
            seen: 0,
            added: 0,
            lost: 0,
            part: u32::MAX,
            max_part: u32::MAX,
            entries: 0,
            initial_requests: MIN_INITIAL_REQUESTS,
            until_step: MIN_INITIAL_REQUESTS,
            ticks: vec![0; shards].into(),
        }
    }

    /// Sets the number of entries of the cache.
    pub(super) fn set_entries(&mut self, entries: usize) {
        self.entries = entries;
        let keys = (MIN_KEYS + 2 * (entries / ENTRIES_PER_TWO_KEYS)).min(MAX_KEYS);
        let divisor = (entries / SAMPLED_ENTRIES).clamp(1, MIN_DIVISOR);
        self.max_part = u32::MAX / as_slot(divisor);
        let initial = entries
            .saturating_mul(INITIAL_REQUESTS_PER_ENTRY)
            .clamp(MIN_INITIAL_REQUESTS, MAX_INITIAL_REQUESTS);
        self.until_step += initial.saturating_sub(self.initial_requests);
        self.initial_requests = self.initial_requests.max(initial);
        let buckets_per_shard = (keys / WAYS).div_ceil(self.ticks.len());
        if buckets_per_shard != self.buckets_per_shard {
            self.buckets_per_shard = buckets_per_shard;
            self.rebuild();
        }
    }

    /// Returns the part of the keys that is in the sample, in units of 2 to the power of -32.
    pub(super) fn part(&self) -> u32 {
        self.part
    }

    /// Returns the number of entries of the cache.
    pub(super) fn entries(&self) -> usize {
        self.entries
    }

    /// Returns the number of entries of the cache whose keys are in the sample, approximately.
    pub(super) fn sampled_entries(&self) -> usize {
        self.entries / (u32::MAX / self.part.max(1)) as usize
    }

    /// Counts a request in a shard, in this tick of the shard's clock.
    pub(super) fn count_request(&mut self, shard: u32, tick: u32) {
        self.until_step = self.until_step.saturating_sub(1);
        if self.until_step == 0 && self.part > self.max_part {
            self.until_step = REQUESTS_PER_STEP;
            self.reduce();
        }
        if let Some(last) = self.ticks.get_mut(shard as usize) {
            *last = tick;
        }
    }

    /// Returns the bucket of a key.
    #[inline]
    #[allow(clippy::cast_possible_truncation)]
    fn bucket(&mut self, hash: u32, shard: u32) -> Option<&mut Bucket> {
        let place = ((spread(hash) >> 32) * self.buckets_per_shard as u64) >> 32;
        let first = shard as usize * self.buckets_per_shard;
        self.buckets.get_mut(first + place as usize)
    }

    /// Records a request for a key. Returns the time since its last request if it was in the sample. Otherwise, the key
    /// is added with this class.
    pub(super) fn request(
        &mut self,
        hash: u32,
        shard: u32,
        tick: u32,
        class: Class,
    ) -> Option<Exposure> {
        let bucket = self.bucket(hash, shard)?;
        let Some(way) = bucket.position(hash) else {
            self.add(hash, shard, tick, Key::new(tick, class));
            return None;
        };
        let exposure = Exposure::new(bucket.keys[way], tick);
        if exposure.to > 0 {
            bucket.keys[way] = Key::new(tick, exposure.class.after_return(exposure.to));
        }
        Some(exposure)
    }

    /// Adds a key. If there is no room in its bucket, the oldest key of the bucket is removed.
    fn add(&mut self, hash: u32, shard: u32, tick: u32, key: Key) {
        let Some(bucket) = self.bucket(hash, shard) else {
            return;
        };
        let way = bucket.position_to_fill(tick);
        let lost = bucket.keys[way].is_key();
        bucket.hashes[way] = hash;
        bucket.keys[way] = key;
        self.added += 1;
        self.lost += usize::from(lost);
        if self.added >= self.buckets.len() * WAYS / 4 {
            let loses_many = self.lost * KEYS_PER_LOSS > self.added;
            (self.added, self.lost) = (0, 0);
            if loses_many {
                self.reduce();
            }
        }
    }

    /// Makes the part smaller by a quarter, and removes the keys that are no longer in it.
    #[cold]
    fn reduce(&mut self) {
        self.part -= self.part / 4;
        self.rebuild();
    }

    /// Creates the buckets again, with the keys that are in the part.
    fn rebuild(&mut self) {
        let shards = self.ticks.len();
        let buckets = vec![Bucket::default(); shards * self.buckets_per_shard].into();
        let before = std::mem::replace(&mut self.buckets, buckets);
        let per_shard = (before.len() / shards).max(1);
        for (shard, buckets) in (0..).zip(before.chunks(per_shard)) {
            let tick = self.ticks[shard as usize];
            let keys = buckets
                .iter()
                .flat_map(|bucket| bucket.hashes.iter().zip(&bucket.keys));
            for (&hash, &key) in keys.filter(|(_, key)| key.is_key()) {
                if is_in_part(hash, self.part) {
                    self.add(hash, shard, tick, key);
                }
            }
        }
        (self.hand, self.seen, self.added, self.lost) = (0, 0, 0, 0);
    }

    /// Removes a key.
    pub(super) fn remove(&mut self, hash: u32, shard: u32) {
        if let Some(bucket) = self.bucket(hash, shard) {
            if let Some(way) = bucket.position(hash) {
                bucket.keys[way] = Key::NONE;
            }
        }
    }

    /// Calls `expose` with the keys of a bucket, all buckets in turn. Removes keys of the highest age, which count as
    /// keys that were never requested.
    pub(super) fn visit(&mut self, mut expose: impl FnMut(Exposure)) {
        let Some(bucket) = self.buckets.get_mut(self.hand) else {
            self.begin_pass();
            return;
        };
        let tick = self.ticks[self.hand / self.buckets_per_shard];
        for key in bucket.keys.iter_mut().filter(|key| key.is_key()) {
            let exposure = Exposure::new(*key, tick);
            let age = exposure.to;
            self.seen += 1;
            expose(exposure);
            *key = if age < MAX_AGE {
                key.with_exposure(age)
            } else {
                Key::NONE
            };
        }
        self.hand += 1;
    }

    /// Begins to visit all keys again. Makes the part larger if there are few keys.
    fn begin_pass(&mut self) {
        self.hand = 0;
        if std::mem::take(&mut self.seen) < self.buckets.len() * WAYS / 4 {
            self.part = self
                .part
                .saturating_add(self.part / 4)
                .min(self.max_part.max(self.part));
        }
    }
}

impl AllocatedBytes for Sample {
    fn allocated_bytes(&self) -> usize {
        self.buckets.allocated_bytes() + self.ticks.allocated_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::tests::hash;

    fn sample() -> Sample {
        let mut sample = Sample::new(2);
        sample.set_entries(100);
        sample
    }

    /// Requests a key, and returns the number of its class, the age that was recorded before, and the present one.
    fn request(sample: &mut Sample, key: u32, shard: u32, tick: u32) -> Option<(usize, u32, u32)> {
        sample.count_request(shard, tick);
        let found = sample.request(hash(key), shard, tick, Class::FIRST)?;
        Some((found.class.number(), found.from, found.to))
    }

    #[test]
    fn request_returns_the_time_since_the_last_one_in_the_same_shard() {
        let mut sample = sample();
        assert_eq!(request(&mut sample, 7, 0, 1_000_000), None);
        assert_eq!(request(&mut sample, 7, 1, 5), None);
        assert_eq!(request(&mut sample, 7, 0, 1_000_300), Some((0, 0, 300)));
        assert_eq!(request(&mut sample, 7, 0, 1_000_300), Some((9, 0, 0)));
        sample.remove(hash(7), 0);
        assert_eq!(request(&mut sample, 7, 0, 1_000_301), None);
        assert_eq!(request(&mut sample, 7, 1, 6), Some((0, 0, 1)));
    }

    #[test]
    fn visits_expose_each_key_to_each_age_once_and_remove_old_keys() {
        let mut sample = sample();
        for key in 0..100 {
            request(&mut sample, key, key % 2, 0);
        }
        for tick in [3, 9, 2_000, 2_001] {
            (0..2).for_each(|shard| sample.count_request(shard, tick));
            let (mut exposed, buckets) = (0, sample.buckets.len());
            for _ in 0..=buckets {
                sample.visit(|found| exposed += found.to - found.from);
            }
            let ticks = [3, 6, MAX_AGE - 9, 0];
            let expected = ticks[[3, 9, 2_000, 2_001]
                .iter()
                .position(|&at| at == tick)
                .unwrap()];
            assert_eq!(exposed, expected * 100, "at {tick}");
        }
        assert_eq!(request(&mut sample, 1, 1, 2_001), None);
    }

    #[test]
    fn sample_gets_smaller_if_keys_are_lost_and_larger_if_there_are_few() {
        let mut sample = sample();
        let keys = |sample: &Sample, range: std::ops::Range<u32>| {
            let part = sample.part();
            range.filter(move |&key| is_in_part(hash(key), part))
        };
        (0..100_000).for_each(|key| {
            if is_in_part(hash(key), sample.part()) {
                request(&mut sample, key, 0, key / 1_000);
            }
        });
        assert!(
            (1 << 20..1 << 27).contains(&sample.part()),
            "{}",
            sample.part()
        );
        let latest: Vec<u32> = keys(&sample, 99_000..100_000).collect();
        assert!(!latest.is_empty());
        let is_known = |&&key: &&u32| request(&mut sample, key, 0, 101).is_some();
        let known = latest.iter().filter(is_known).count();
        assert!(known * 10 > latest.len() * 7, "{known} of {}", latest.len());
        let reduced = sample.part();
        sample.count_request(0, 5_000);
        (0..100_000).for_each(|_| sample.visit(|_| ()));
        assert_eq!(sample.part(), u32::MAX);
        assert!(reduced < sample.part());
    }

    #[test]
    fn keys_are_kept_when_the_cache_grows() {
        let mut sample = sample();
        for key in 0..200 {
            request(&mut sample, key, key % 2, 0);
        }
        sample.set_entries(10_000);
        let is_known = |&key: &u32| request(&mut sample, key, key % 2, 1).is_some();
        assert_eq!((0..200).filter(is_known).count(), 200);
    }
}
