//! The times at which the values of a shard were read from their source, by slot.

use crate::clock::Nanos;
use crate::storage::allocated::AllocatedBytes;
use crate::storage::column::Column;
use std::time::Duration;

/// The binary logarithm of a tick in nanoseconds. Times are kept in ticks of 4.2 ms, the resolution of a coarse clock,
/// and wrap around after 208 days.
const TICK_BITS: u32 = 22;
/// One day, in nanoseconds.
const DAY: Nanos = 24 * 3_600 * 1_000_000_000;
/// The highest age of a value when it is stored. It leaves room for the value to become older before times wrap.
const MAX_STORED_AGE: Nanos = 100 * DAY;

/// The read times of a shard's values.
pub(crate) struct ReadTimes {
    /// The read time of each slot, in ticks.
    pub(crate) read_at: Column<u32>,
}

/// Converts a time to ticks, which wrap around.
#[allow(clippy::cast_possible_truncation)]
const fn tick(time: Nanos) -> u32 {
    (time >> TICK_BITS) as u32
}

impl ReadTimes {
    /// Creates the read times of a shard without entries.
    pub(crate) const fn new() -> Self {
        Self {
            read_at: Column::new(),
        }
    }

    /// Sets the read time of a slot that was filled now with a value of this age.
    #[inline]
    pub(crate) fn set(&mut self, slot: u32, now: Nanos, age: Nanos) {
        let read_at = tick(now.wrapping_sub(age.min(MAX_STORED_AGE)));
        self.read_at.put(slot, read_at);
    }

    /// Returns the age of the value in a slot.
    pub(crate) fn age(&self, slot: u32, now: Nanos) -> Duration {
        let ticks = tick(now).wrapping_sub(self.read_at.get(slot).copied().unwrap_or(0));
        // An age in the last day before the wrap means that the clock went back.
        let ticks = if ticks > u32::MAX - tick(DAY) {
            0
        } else {
            ticks
        };
        Duration::from_nanos(Nanos::from(ticks) << TICK_BITS)
    }
}

impl AllocatedBytes for ReadTimes {
    fn allocated_bytes(&self) -> usize {
        self.read_at.allocated_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Nanos = 1_000_000_000;

    /// Asserts that an age is as expected, except for one tick.
    fn assert_about(age: Duration, expected: Nanos) {
        let error = Duration::from_nanos(expected).abs_diff(age);
        assert!(error <= Duration::from_nanos(1 << TICK_BITS), "{age:?}");
    }

    #[test]
    fn age_grows_also_past_the_wrap_of_read_times() {
        let mut read_times = ReadTimes::new();
        for now in [0, 5 * SECOND, 207 * DAY, 208 * DAY, 1_000 * DAY] {
            read_times.set(0, now, 0);
            assert_about(read_times.age(0, now), 0);
            assert_about(read_times.age(0, now + 200 * DAY), 200 * DAY);
        }
    }

    #[test]
    fn age_includes_the_age_when_stored_even_if_that_exceeds_the_time_of_the_clock() {
        let mut read_times = ReadTimes::new();
        read_times.set(0, 20 * SECOND, 3 * SECOND);
        assert_about(read_times.age(0, 21 * SECOND), 4 * SECOND);
        read_times.set(0, SECOND, 3_600 * SECOND);
        assert_about(read_times.age(0, 2 * SECOND), 3_601 * SECOND);
        read_times.set(0, SECOND, Nanos::MAX);
        assert_about(read_times.age(0, SECOND), 100 * DAY);
    }

    #[test]
    fn clock_that_goes_back_gives_an_age_of_zero() {
        let mut read_times = ReadTimes::new();
        read_times.set(0, 20 * SECOND, 0);
        assert_eq!(read_times.age(0, 10 * SECOND), Duration::ZERO);
    }
}
