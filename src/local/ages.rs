//! When the values of a shard were read from where they come from, by slot.

use super::column::Column;
use crate::clock::Nanos;
use std::time::Duration;

/// Times are kept in units of 4.2 ms, the resolution of a coarse clock, and wrap around after 208 days.
const TICK_BITS: u32 = 22;
const DAY: Nanos = 24 * 3_600 * 1_000_000_000;
/// No value is older than this when it comes, so that it can become older before the wrap.
const OLDEST: Nanos = 100 * DAY;

pub(crate) struct Ages {
    pub(crate) read_at: Column<u32>,
}

/// Wrapped around.
#[allow(clippy::cast_possible_truncation)]
const fn tick(time: Nanos) -> u32 {
    (time >> TICK_BITS) as u32
}

impl Ages {
    pub(crate) const fn new() -> Self {
        Self {
            read_at: Column::new(),
        }
    }

    /// A slot is filled now with a value of this age.
    #[inline]
    pub(crate) fn set(&mut self, slot: u32, now: Nanos, age: Nanos) {
        let read_at = tick(now.wrapping_sub(age.min(OLDEST)));
        self.read_at.put(slot, read_at);
    }

    /// How old the value in a slot is.
    pub(crate) fn of(&self, slot: u32, now: Nanos) -> Duration {
        let ticks = tick(now).wrapping_sub(self.read_at.get(slot).copied().unwrap_or(0));
        // The last day before the wrap is of a clock that went back.
        let ticks = if ticks > u32::MAX - tick(DAY) {
            0
        } else {
            ticks
        };
        Duration::from_nanos(Nanos::from(ticks) << TICK_BITS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Nanos = 1_000_000_000;

    /// To a tick.
    fn assert_about(age: Duration, expected: Nanos) {
        let error = Duration::from_nanos(expected).abs_diff(age);
        assert!(error <= Duration::from_nanos(1 << TICK_BITS), "{age:?}");
    }

    #[test]
    fn ages_grow_also_past_the_wrap() {
        let mut ages = Ages::new();
        for now in [0, 5 * SECOND, 207 * DAY, 208 * DAY, 1_000 * DAY] {
            ages.set(0, now, 0);
            assert_about(ages.of(0, now), 0);
            assert_about(ages.of(0, now + 200 * DAY), 200 * DAY);
        }
    }

    #[test]
    fn a_value_may_be_old_when_it_comes_and_older_than_the_clock() {
        let mut ages = Ages::new();
        ages.set(0, 20 * SECOND, 3 * SECOND);
        assert_about(ages.of(0, 21 * SECOND), 4 * SECOND);
        ages.set(0, SECOND, 3_600 * SECOND);
        assert_about(ages.of(0, 2 * SECOND), 3_601 * SECOND);
        ages.set(0, SECOND, Nanos::MAX);
        assert_about(ages.of(0, SECOND), 100 * DAY);
    }

    #[test]
    fn a_clock_that_goes_back_makes_values_young() {
        let mut ages = Ages::new();
        ages.set(0, 20 * SECOND, 0);
        assert_eq!(ages.of(0, 10 * SECOND), Duration::ZERO);
    }
}
