//! Random numbers for what need not be secret: jitter and early renewal.

use std::cell::Cell;
use std::hash::{BuildHasher, RandomState};

thread_local! {
    static STATE: Cell<u64> = Cell::new(RandomState::new().hash_one(0));
}

/// A number above 0 and at most 1, evenly spread.
#[allow(clippy::cast_precision_loss)]
pub(crate) fn unit() -> f64 {
    ((bits() >> 11) + 1) as f64 / (1_u64 << 53) as f64
}

/// 64 bits. By splitmix64 (Steele, Lea, Flood, OOPSLA 2014), from a seed of the operating system's.
pub(crate) fn bits() -> u64 {
    let mut bits = STATE.get().wrapping_add(0x9E37_79B9_7F4A_7C15);
    STATE.set(bits);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_in_range_and_spread_evenly() {
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
