//! Random numbers that need not be secret, for jitter and early refreshes, and mixers of hashes.

use std::cell::Cell;
use std::hash::{BuildHasher, RandomState};

/// The fractional part of the golden ratio, times two to the power of 64, as an odd integer.
pub(crate) const GOLDEN_RATIO: u64 = 0x9E37_79B9_7F4A_7C15;

thread_local! {
    /// The state of the generator of this thread.
    static STATE: Cell<u64> = Cell::new(RandomState::new().hash_one(0));
}

/// Returns a random number above 0 and at most 1, uniformly distributed.
#[allow(clippy::cast_precision_loss)]
pub(crate) fn unit() -> f64 {
    ((bits() >> 11) + 1) as f64 / (1_u64 << 53) as f64
}

/// Returns 64 random bits by `SplitMix64` (Steele, Lea and Flood, OOPSLA 2014), from a seed of the operating system.
pub(crate) fn bits() -> u64 {
    let bits = STATE.get().wrapping_add(GOLDEN_RATIO);
    STATE.set(bits);
    mix(bits)
}

/// Mixes bits with the finalizer of `SplitMix64`: each bit of the input influences all bits of the output.
#[inline]
pub(crate) const fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^ (bits >> 31)
}

/// Spreads bits over a number by multiplication (Knuth, "The Art of Computer Programming", volume 3, section 6.4). The
/// high bits of the result depend on all bits of the input.
///
/// This is cheaper than [`mix`]. The multiplier is odd. [`GOLDEN_RATIO`] suits, except where two results for the same
/// input have to be independent of each other.
#[inline]
pub(crate) const fn spread(bits: u64, multiplier: u64) -> u64 {
    bits.wrapping_mul(multiplier)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_numbers_are_in_range_and_uniformly_distributed() {
        let mut tenths = [0_u32; 10];
        for _ in 0..100_000 {
            let number = unit();
            assert!(number > 0.0 && number <= 1.0);
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let tenth = (number * 10.0).ceil() as usize - 1;
            tenths[tenth] += 1;
        }
        assert!(
            tenths.iter().all(|count| (9_000..11_000).contains(count)),
            "{tenths:?}"
        );
    }
}
