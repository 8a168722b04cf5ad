//! The resolution of ages and gaps.
//!
//! An age is a number of ticks since the last request for a key. A tick is 1/16 of the shard's entries in requests that
//! move an entry: insertions, and the first hit on each entry in each tick.

/// The number of ticks in which as many entries are moved as the shard has.
pub(super) const TICKS_PER_CAPACITY: u32 = 16;

/// The number of linear buckets in each octave of ages, as a power of two.
const SUB_BITS: u32 = 3;
/// The number of buckets of ages.
pub(super) const AGE_BUCKETS: usize = 56;
/// The highest age that is distinguished. It is almost 64 times the shard's entries. Higher ages count as this one.
pub(super) const MAX_AGE: u32 = (1 << 10) - 1 - (1 << SUB_BITS);

/// The number of gaps that are distinguished: octaves from 1 to this one.
pub(super) const GAPS: u32 = 10;

/// The bucket of each age.
#[allow(clippy::cast_possible_truncation)] // There are few buckets.
static BUCKETS: [u8; 1 << 10] = {
    let mut buckets = [0; 1 << 10];
    let mut age = 0;
    while age < buckets.len() {
        let shifted = age + (1 << SUB_BITS);
        let octave = shifted.ilog2() - SUB_BITS;
        let bucket = ((octave as usize) << SUB_BITS) + (shifted >> octave) - (1 << SUB_BITS);
        buckets[age] = if bucket < AGE_BUCKETS {
            bucket
        } else {
            AGE_BUCKETS - 1
        } as u8;
        age += 1;
    }
    buckets
};

/// Returns the bucket of an age. The buckets are one tick wide up to an age of 7, and then at most an eighth of the age.
#[inline(always)]
pub(super) fn bucket_of(age: u32) -> usize {
    BUCKETS[(age as usize).min(BUCKETS.len() - 1)].into()
}

/// Returns the lowest age of a bucket.
#[allow(clippy::cast_possible_truncation)]
pub(super) const fn start_of(bucket: usize) -> u32 {
    let mantissa = (1 << SUB_BITS) + (bucket as u32 & ((1 << SUB_BITS) - 1));
    (mantissa << (bucket as u32 >> SUB_BITS)) - (1 << SUB_BITS)
}

/// Returns the number of ticks of a bucket.
#[allow(clippy::cast_possible_truncation)]
pub(super) const fn width_of(bucket: usize) -> u32 {
    1 << (bucket as u32 >> SUB_BITS)
}

/// Returns the octave of an age: its number of significant bits, from 1 to [`GAPS`].
#[inline]
pub(super) const fn octave_of(age: u32) -> u32 {
    let bits = u32::BITS - (age | 1).leading_zeros();
    if bits < GAPS { bits } else { GAPS }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_contiguous_and_cover_all_ages() {
        let mut next = 0;
        for bucket in 0..AGE_BUCKETS {
            assert_eq!(start_of(bucket), next);
            next += width_of(bucket);
            assert_eq!(bucket_of(start_of(bucket)), bucket);
            assert_eq!(bucket_of(next - 1), bucket);
        }
        assert_eq!(next, MAX_AGE + 1);
        assert_eq!(bucket_of(u32::MAX), AGE_BUCKETS - 1);
    }

    #[test]
    fn octaves_double_up_to_the_highest_age() {
        let octaves = [0, 1, 2, 3, 4, MAX_AGE, u32::MAX].map(octave_of);
        assert_eq!(octaves, [1, 1, 2, 2, 3, GAPS, GAPS]);
    }
}
