//! The value of keeping an entry, by its class and age.

use crate::policy::adaptive::age::{AGE_BUCKETS, MAX_AGE, bucket_of, start_of, width_of};
use crate::policy::adaptive::state::{CLASSES, Class, ReuseState};
use crate::storage::allocated::AllocatedBytes;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicU16, Ordering::Relaxed};

/// The expected returns to each bucket of ages, in returns for each key that reaches it.
pub(super) type Returns = [f32; AGE_BUCKETS];

/// The number of values that the table has room for in each class, a power of two.
const ROW: usize = AGE_BUCKETS.next_power_of_two();
const TABLE: usize = CLASSES * ROW;

/// The values of all classes and ages. Shards read it while another one changes it.
///
/// A value is the logarithm of the expected hits in each tick, in [units](Self::UNITS_PER_DOUBLING) from 0 on.
pub(super) struct ValueTable {
    values: [AtomicU16; TABLE],
    /// The bucket of ages until which an entry is kept for its value. Allocated only if entries have deadlines.
    ends: OnceLock<Box<[AtomicU8; TABLE]>>,
}

impl ValueTable {
    /// The number of units in which a value doubles.
    pub(super) const UNITS_PER_DOUBLING: i32 = 1 << LOGARITHM_BITS;

    /// Creates a table of the values that are expected before anything is observed.
    pub(super) fn new() -> Self {
        let table = Self {
            values: [const { AtomicU16::new(0) }; TABLE],
            ends: OnceLock::new(),
        };
        let initial = rates(&initial_returns());
        Class::all().for_each(|class| table.set(class, &initial));
        table
    }

    /// Returns the value of an entry with this state.
    #[inline(always)]
    pub(super) fn value(&self, state: ReuseState, tick: u32) -> i32 {
        self.values[Self::index(state, tick)].load(Relaxed).into()
    }

    /// Returns the place of a state in the table.
    #[inline(always)]
    fn index(state: ReuseState, tick: u32) -> usize {
        let bucket = bucket_of(state.age(tick));
        // Nothing is cut off. This shows the compiler that the index is not out of bounds.
        (state.class().number() * ROW + bucket) % TABLE
    }

    /// Returns the number of ticks for which an entry with this state is kept for its value.
    pub(super) fn horizon(&self, state: ReuseState, tick: u32) -> u32 {
        let ends = self.ends.get_or_init(Self::initial_ends);
        let end = ends[Self::index(state, tick)].load(Relaxed);
        let age = state.age(tick).min(MAX_AGE);
        start_of(end.into()).saturating_sub(age).max(1)
    }

    /// Returns the value like [`value`](Self::value) for an entry that may have been requested after this tick.
    pub(super) fn value_at(&self, state: ReuseState, tick: u32) -> i32 {
        self.value(state, tick.wrapping_add(state.lead(tick)))
    }

    /// Returns the ends that are expected before anything is observed.
    fn initial_ends() -> Box<[AtomicU8; TABLE]> {
        let initial = rates(&initial_returns());
        Box::new(std::array::from_fn(|at| {
            AtomicU8::new(initial.end(at % ROW))
        }))
    }

    /// Sets the values of a class.
    pub(super) fn set(&self, class: Class, rates: &Rates) {
        let row = class.number() * ROW..;
        for (value, &rate) in self.values[row.clone()].iter().zip(&rates.hits_per_tick) {
            value.store(logarithm(rate), Relaxed);
        }
        if let Some(ends) = self.ends.get() {
            let ends = ends[row].iter().take(AGE_BUCKETS);
            for (bucket, end) in ends.enumerate() {
                end.store(rates.end(bucket), Relaxed);
            }
        }
    }
}

impl AllocatedBytes for ValueTable {
    fn allocated_bytes(&self) -> usize {
        self.ends.get().map_or(0, |ends| size_of_val(&**ends))
    }
}

/// The number of low bits of a floating-point number that do not count in its logarithm. The other bits are the exponent
/// and a part of the mantissa, so they grow with the logarithm.
const MANTISSA_BITS_DROPPED: u32 = f32::MANTISSA_DIGITS - 1 - LOGARITHM_BITS;
/// The number of bits after the binary point of a logarithm.
const LOGARITHM_BITS: u32 = 11;

/// Returns the logarithm of a positive number in units, and 0 for numbers up to 2 to the power of -24.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn logarithm(rate: f32) -> u16 {
    const LEAST: u32 =
        (f32::MIN_POSITIVE.to_bits() >> MANTISSA_BITS_DROPPED) + ((126 - 24) << LOGARITHM_BITS);
    let units = (rate.to_bits() >> MANTISSA_BITS_DROPPED).saturating_sub(LEAST);
    units.min(u16::MAX.into()) as u16
}

/// Returns the logarithm of a number that is not 0, in units.
#[allow(clippy::cast_precision_loss, clippy::cast_possible_wrap)] // Less than 64 times the units.
pub(super) fn logarithm_of(number: u64) -> i32 {
    const ONE: u32 = 1_f32.to_bits() >> MANTISSA_BITS_DROPPED;
    (((number as f32).to_bits() >> MANTISSA_BITS_DROPPED) - ONE) as i32
}

/// A point of the curve of expected hits over the time that an entry is kept.
#[derive(Clone, Copy)]
struct Point {
    time: f32,
    hits: f32,
}

impl Point {
    /// Returns the hits per tick from this point to a later one.
    fn rate_to(self, later: Self) -> f32 {
        (later.hits - self.hits) / (later.time - self.time).max(f32::MIN_POSITIVE)
    }
}

/// The highest rates of expected hits from each age on.
pub(super) struct Rates {
    hits_per_tick: [f32; AGE_BUCKETS],
    points: [Point; AGE_BUCKETS + 1],
}

/// The part of the highest rate from which on an end is close enough to it.
const ALMOST: f32 = 0.8;

impl Rates {
    /// Returns the bucket at whose start the rate from another one is almost the highest. The distances that are tried
    /// double.
    #[allow(clippy::cast_possible_truncation)] // There are few buckets.
    fn end(&self, from: usize) -> u8 {
        let Some(best) = self.hits_per_tick.get(from) else {
            return 0;
        };
        let ends = (0..).map(|doublings| from + (1 << doublings));
        let mut ends = ends.take_while(|&end| end < AGE_BUCKETS);
        let point = self.points[from];
        let found = ends.find(|&end| point.rate_to(self.points[end]) >= best * ALMOST);
        found.unwrap_or(AGE_BUCKETS) as u8
    }
}

/// Returns for each bucket of ages the expected hits per tick of an entry that has reached it, if the entry is kept
/// until it is hit or until the time that maximizes this rate. It is the index of Gittins ("Bandit processes and dynamic
/// allocation indices", 1979) for a single hit.
///
/// The rate from one age to another is a slope of the curve of hits over time. The greatest slope from a point to later
/// ones is that of the upper convex hull of the later ones, which is built from the end.
pub(super) fn rates(returns: &Returns) -> Rates {
    let points = curve(returns);
    let mut hits_per_tick = [0.0; AGE_BUCKETS];
    // The hull, and the slope from each of its points to the one before.
    let mut hull = [(points[AGE_BUCKETS], f32::NEG_INFINITY); AGE_BUCKETS + 1];
    let mut last = 0;
    for (&point, rate) in points.iter().zip(&mut hits_per_tick).rev() {
        let mut slope = point.rate_to(hull[last].0);
        while slope <= hull[last].1 {
            last -= 1;
            slope = point.rate_to(hull[last].0);
        }
        *rate = slope;
        last += 1;
        hull[last] = (point, slope);
    }
    Rates {
        hits_per_tick,
        points,
    }
}

/// Returns the expected hits and the time that an entry is kept until each age, for an entry that is kept until its
/// first hit.
#[allow(clippy::cast_precision_loss)]
fn curve(returns: &Returns) -> [Point; AGE_BUCKETS + 1] {
    let mut at = Point {
        time: 0.0,
        hits: 0.0,
    };
    let mut points = [at; AGE_BUCKETS + 1];
    for (bucket, &expected) in returns.iter().enumerate() {
        // The part of entries that are not hit within the bucket is almost the exponential of `-expected`.
        let unhit = 1.0 / (1.0 + expected * (1.0 + expected / 2.0));
        let left = 1.0 - at.hits;
        at.hits += left * (1.0 - unhit);
        at.time += left * unhit * (1.0 + expected / 2.0) * width_of(bucket) as f32;
        points[bucket + 1] = at;
    }
    points
}

/// Returns the expected returns before anything was observed. The longer ago the last request was, the fewer returns are
/// expected, so that the policy begins like LRU.
#[allow(clippy::cast_precision_loss)]
pub(super) fn initial_returns() -> Returns {
    std::array::from_fn(|bucket| {
        let (start, width) = (start_of(bucket) as f32, width_of(bucket) as f32);
        0.5 * width / (start + 1.0 + width)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition, by trying all ends.
    fn best_rates(returns: &Returns) -> [f32; AGE_BUCKETS] {
        let points = curve(returns);
        std::array::from_fn(|from| {
            let later = points[from + 1..].iter();
            later
                .map(|&end| points[from].rate_to(end))
                .fold(0.0, f32::max)
        })
    }

    fn assert_close(rates: &Rates, expected: [f32; AGE_BUCKETS]) {
        for (rate, expected) in rates.hits_per_tick.iter().zip(expected) {
            assert!(
                (rate - expected).abs() <= expected * 1e-3,
                "{rate} for {expected}"
            );
        }
    }

    #[test]
    fn rates_are_the_best_over_all_ends() {
        let mut random = 1_u32;
        for _ in 0..100 {
            let returns = std::array::from_fn(|_| {
                random = random.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
                let scale = if random & 1 << 23 == 0 {
                    100.0
                } else {
                    10_000.0
                };
                f32::from(random.to_be_bytes()[0]) / scale
            });
            assert_close(&rates(&returns), best_rates(&returns));
        }
        assert_close(&rates(&initial_returns()), best_rates(&initial_returns()));
    }

    #[test]
    fn value_decreases_with_age_at_first_and_increases_before_a_certain_return() {
        let initial = rates(&initial_returns()).hits_per_tick;
        assert!(initial.is_sorted_by(|a, b| a >= b));
        let mut looped = [0.0; AGE_BUCKETS];
        looped[30] = 100.0;
        let rates = rates(&looped);
        assert!(rates.hits_per_tick[..=30].is_sorted());
        assert!((31..48).contains(&rates.end(10)) && rates.end(30) == 31);
    }

    #[test]
    fn logarithm_grows_by_the_same_amount_with_each_doubling() {
        assert_eq!(logarithm(0.0), 0);
        for exponent in -22..4 {
            let step = logarithm(2_f32.powi(exponent + 1)) - logarithm(2_f32.powi(exponent));
            assert_eq!(i32::from(step), ValueTable::UNITS_PER_DOUBLING);
        }
        assert!(logarithm(1.5) > logarithm(1.25));
        assert_eq!(logarithm(f32::MAX), u16::MAX);
    }
}
