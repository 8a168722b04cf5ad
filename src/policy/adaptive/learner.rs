//! Learns from a sample of the keys at which ages the keys of each class return.

use crate::policy::adaptive::age::{AGE_BUCKETS, MAX_AGE, bucket_of, start_of, width_of};
use crate::policy::adaptive::sample::{Exposure, Sample};
use crate::policy::adaptive::state::{CLASSES, Class, GROUPS};
use crate::policy::adaptive::values::{Returns, ValueTable, initial_returns, rates};
use crate::storage::allocated::AllocatedBytes;

/// The number of observed requests after which the values of one class are computed again.
const REQUESTS_PER_CLASS: usize = 8;
/// The number of observed requests after which values are computed for the first time, those of all classes. Fewer
/// requests say little. Until then the policy is close to LRU, so a small snapshot is restored in its order.
const FIRST_REQUESTS: usize = 320;
/// The lowest number of observed requests after which earlier observations count less.
const REQUESTS_PER_ROUND: usize = 256;
/// The number of rounds in which the sample observes as many requests as it has entries of the cache. If a round would
/// then have less than [`REQUESTS_PER_ROUND`], it has that many. With shorter rounds, the hit ratio on a trace was 1.7
/// points lower, because keys returned after their observations had lost their weight.
const ROUNDS_PER_CAPACITY: usize = 8;
/// The number of rounds into which all requests so far are divided at least, so that the first rounds are short.
const MIN_ROUNDS: usize = 4;
/// The number of observed requests after which the values are computed less often, and the factor by which they are.
const LEARNING_REQUESTS: usize = 65_536;
const LATER_INTERVAL: usize = 4;
/// The factor by which the number of slots has to decrease before the sample gets smaller.
const SHRINK_DIVISOR: usize = 4;
/// The number of rounds after which the values of a class are computed again although none of its keys was observed.
const ROUNDS_OF_UNUSED: u32 = 4;
/// The factor by which earlier observations count less after each round.
const DECAY: f32 = 0.97;
/// The weight of the observations of a wider group of classes in the estimate for one class, as a number of keys.
const PRIOR_KEYS: f32 = 32.0;

/// The observations of one class, by the bucket of the age. Earlier ones count less.
#[derive(Clone)]
struct Observations {
    /// The number of keys that returned.
    returned: [f32; AGE_BUCKETS],
    /// The number of keys that had the age, less that of the bucket before. A key counts in part if it had only some of
    /// the ages of a bucket.
    exposed: [f32; AGE_BUCKETS],
    /// `true` if no key was observed.
    is_empty: bool,
}

impl Observations {
    const NONE: Self = Self {
        returned: [0.0; AGE_BUCKETS],
        exposed: [0.0; AGE_BUCKETS],
        is_empty: true,
    };

    /// Records that a key grew older, from one age to another.
    fn expose(&mut self, from: u32, to: u32) {
        self.step(from, 1.0);
        self.step(to, -1.0);
        self.is_empty = false;
    }

    /// Changes the number of keys by `keys` from an age on.
    #[allow(clippy::cast_precision_loss)]
    fn step(&mut self, age: u32, keys: f32) {
        let bucket = bucket_of(age);
        let before = (age.min(MAX_AGE) - start_of(bucket)) as f32 / width_of(bucket) as f32;
        self.exposed[bucket] += keys * (1.0 - before);
        if let Some(next) = self.exposed.get_mut(bucket + 1) {
            *next += keys * before;
        }
    }

    /// Adds the observations of another class.
    fn add(&mut self, other: &Self) {
        let add = |sums: &mut Returns, others: &Returns| {
            sums.iter_mut()
                .zip(others)
                .for_each(|(sum, other)| *sum += other);
        };
        add(&mut self.returned, &other.returned);
        add(&mut self.exposed, &other.exposed);
        self.is_empty &= other.is_empty;
    }

    /// Returns the sum of the observations of several classes.
    fn sum(all: &[Self]) -> Self {
        let mut sum = Self::NONE;
        for observed in all {
            sum.add(observed);
        }
        sum
    }

    /// Lets the observations so far count less.
    fn decay(&mut self) {
        let all = self.returned.iter_mut().chain(&mut self.exposed);
        all.for_each(|count| *count *= DECAY);
    }

    /// Returns the expected returns, where `prior` counts as [`PRIOR_KEYS`] keys.
    fn returns(&self, prior: &Returns) -> Returns {
        let mut keys = 0.0;
        std::array::from_fn(|bucket| {
            keys += self.exposed[bucket];
            (self.returned[bucket] + PRIOR_KEYS * prior[bucket]) / (keys.max(0.0) + PRIOR_KEYS)
        })
    }
}

/// The learner of a cache. It observes a sample of the keys of all shards.
///
/// The expected returns at an age are the observed ones, divided by the number of observed keys that reached the age. Keys
/// that have not returned yet count up to their present age (the estimate of occurrences over exposure). Few observations
/// of a class are complemented by those of all classes with as many requests, and those by all observations.
pub(super) struct Learner {
    sample: Sample,
    /// The number of slots of all shards.
    slots: usize,
    /// The observations by class.
    observations: Box<[Observations]>,
    /// The expected returns of all classes with as many earlier requests.
    priors: [Returns; GROUPS],
    /// The number of observed requests.
    requests: usize,
    /// The number of observed requests until the end of the round.
    until_round: usize,
    /// The number of rounds.
    rounds: u32,
}

impl Learner {
    /// Creates a learner for a cache with this number of shards.
    pub(super) fn new(shards: usize) -> Self {
        Self {
            sample: Sample::new(shards),
            slots: 0,
            observations: vec![Observations::NONE; CLASSES].into(),
            priors: [initial_returns(); GROUPS],
            requests: 0,
            until_round: REQUESTS_PER_ROUND,
            rounds: 0,
        }
    }

    /// Returns the part of the keys that is observed, in units of 2 to the power of -32.
    pub(super) fn part(&self) -> u32 {
        self.sample.part()
    }

    /// Records that a shard has another number of slots than before. The other shards will grow to the same number, and
    /// `of_all` is the number of slots of all shards then.
    pub(super) fn resize_shard(&mut self, before: usize, slots: usize, of_all: usize) {
        self.slots = (self.slots + slots).saturating_sub(before);
        let entries = self.sample.entries();
        if of_all > entries {
            self.sample.set_entries(of_all);
        } else if slots < before && self.slots < entries / SHRINK_DIVISOR {
            self.sample.set_entries(self.slots);
        }
    }

    /// Records a request for a key of the sample in a shard, in this tick of the shard's clock. `class` is that of the key
    /// after the request. Computes some values again.
    pub(super) fn request(
        &mut self,
        hash: u32,
        shard: u32,
        tick: u32,
        class: Class,
        values: &ValueTable,
    ) {
        self.sample.count_request(shard, tick);
        if let Some(Exposure { class, from, to }) = self.sample.request(hash, shard, tick, class) {
            if to == 0 {
                return;
            }
            let observed = &mut self.observations[class.number()];
            observed.expose(from, to);
            observed.returned[bucket_of(to)] += 1.0;
        }
        let observations = &mut self.observations;
        // All keys of the sample are visited in turn, a few at each request.
        self.sample.visit(|Exposure { class, from, to }| {
            observations[class.number()].expose(from, to);
        });
        self.compute(values);
    }

    /// Removes a key of a shard from the sample, because it was removed from the shard for another reason than eviction.
    pub(super) fn remove(&mut self, hash: u32, shard: u32) {
        self.sample.remove(hash, shard);
    }

    /// Computes the values of one class again after a few requests, each class in turn.
    fn compute(&mut self, values: &ValueTable) {
        self.requests = self.requests.checked_add(1).unwrap_or(LEARNING_REQUESTS);
        let is_learning = self.requests < LEARNING_REQUESTS;
        let interval = if is_learning { 1 } else { LATER_INTERVAL } * REQUESTS_PER_CLASS;
        if self.requests == FIRST_REQUESTS {
            Class::all().for_each(|class| self.compute_class(class, values));
        } else if self.requests > FIRST_REQUESTS && self.requests % interval == 0 {
            if let Some(class) = Class::all().nth(self.requests / interval % CLASSES) {
                self.compute_class(class, values);
            }
        }
        self.until_round -= 1;
        if self.until_round == 0 {
            self.end_round(values);
        }
    }

    /// Computes the values of a class of which some keys were observed.
    fn compute_class(&self, class: Class, values: &ValueTable) {
        let observed = &self.observations[class.number()];
        if !observed.is_empty {
            let returns = observed.returns(&self.priors[class.count() as usize]);
            values.set(class, &rates(&returns));
        }
    }

    /// Computes the priors of the next round, and lets the observations so far count less.
    #[cold]
    fn end_round(&mut self, values: &ValueTable) {
        self.rounds = self.rounds.wrapping_add(1);
        self.until_round = (self.sample.sampled_entries() / ROUNDS_PER_CAPACITY)
            .min(self.requests / MIN_ROUNDS)
            .max(REQUESTS_PER_ROUND);
        let mut of_counts = [Observations::NONE; GROUPS];
        for class in Class::all() {
            of_counts[class.count() as usize].add(&self.observations[class.number()]);
        }
        let all = Observations::sum(&of_counts).returns(&initial_returns());
        for (prior, observed) in self.priors.iter_mut().zip(&of_counts) {
            *prior = observed.returns(&all);
        }
        self.observations.iter_mut().for_each(Observations::decay);
        if self.rounds % ROUNDS_OF_UNUSED == 0 {
            self.set_unobserved(values);
        }
    }

    /// Sets the values of the classes of which no key was observed to those of all classes with as many requests.
    fn set_unobserved(&self, values: &ValueTable) {
        let rates = self.priors.each_ref().map(rates);
        for class in Class::all().filter(|class| self.observations[class.number()].is_empty) {
            values.set(class, &rates[class.count() as usize]);
        }
    }
}

impl AllocatedBytes for Learner {
    fn allocated_bytes(&self) -> usize {
        self.sample.allocated_bytes() + self.observations.allocated_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::adaptive::state::ReuseState;
    use crate::policy::tests::hash;

    /// Returns the value of an entry that was requested `count` times before, with a gap of `gap` ticks, `age` ticks ago.
    fn value(values: &ValueTable, count: u32, gap: u32, age: u32) -> i32 {
        let class = (0..count).fold(Class::FIRST, |class, _| class.after_return(gap));
        values.value(ReuseState::new(0, class, false), age)
    }

    #[test]
    fn exposure_counts_the_keys_of_each_age() {
        let mut observed = Observations::NONE;
        observed.expose(3, 21);
        observed.expose(21, 21);
        observed.expose(0, 4);
        let mut keys = 0.0;
        let counts = observed.exposed.map(|step| {
            keys += step;
            keys
        });
        // The ages 8 to 23 have buckets of two ticks.
        assert_eq!(counts[..8], [1.0, 1.0, 1.0, 2.0, 1.0, 1.0, 1.0, 1.0]);
        assert_eq!(counts[8..16], [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.5, 0.0]);
        observed.expose(0, u32::MAX);
        assert!(observed.exposed.iter().sum::<f32>().abs() <= 1.0);
    }

    #[test]
    fn sample_follows_the_growth_of_the_first_shard_and_shrinks_with_most_shards() {
        let mut learner = Learner::new(64);
        for grown in 0..64 {
            learner.resize_shard(0, 1_000, 64_000);
            assert_eq!(learner.sample.entries(), 64_000, "after {grown}");
        }
        for _ in 0..60 {
            learner.resize_shard(1_000, 100, 6_400);
        }
        assert!(learner.sample.entries() < 16_000);
    }

    #[test]
    fn keys_that_return_are_worth_more_than_those_that_do_not() {
        let (mut learner, values) = (Learner::new(1), ValueTable::new());
        learner.resize_shard(0, 1_000, 1_000);
        assert!(value(&values, 0, 0, 5) > value(&values, 0, 0, 50));
        // A hundred keys return every 40 ticks, and others are requested once.
        for step in 0..200_000_u32 {
            let tick = step / 10;
            let key = if step % 2 == 0 {
                step / 2 % 200
            } else {
                1 << 20 | step
            };
            learner.request(hash(key), 0, tick, Class::FIRST, &values);
        }
        assert!(value(&values, 3, 100, 20) > value(&values, 0, 0, 1) + 4_096);
        // They are worth more the closer they are to their return.
        assert!(value(&values, 3, 40, 35) > value(&values, 3, 40, 1));
    }
}
