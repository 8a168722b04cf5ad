//! The effect of the weights and deadlines of entries on their values.

use crate::policy::adaptive::state::ReuseState;
use crate::policy::adaptive::values::{ValueTable, logarithm_of};
use crate::policy::state::EntryBounds;

/// The part of a measured duration of a tick that counts in the mean, as a divisor.
const MEAN_OVER: u64 = 8;

/// The value of an entry that has expired. It is less than that of all others, which a weight lowers by up to 64
/// doublings and a lifetime by up to 10. It is not much less, because the threshold of the search follows the values, and
/// would otherwise take long to rise again.
const EXPIRED: i32 = -96 * ValueTable::UNITS_PER_DOUBLING;

/// The duration of the ticks of a shard's clock.
#[derive(Default)]
pub(super) struct TickDuration {
    /// The tick and the time of the last measurement.
    last: Option<(u32, u64)>,
    /// The mean duration in nanoseconds, or 0 if it is not known.
    mean: u64,
}

impl TickDuration {
    /// Measures the duration of the ticks since the last call.
    pub(super) fn measure(&mut self, tick: u32, now: u64) {
        let (last_tick, last_time) = *self.last.get_or_insert((tick, now));
        if now <= last_time {
            // Many ticks may be shorter than a step of the clock.
            return;
        }
        let ticks = u64::from(tick.wrapping_sub(last_tick));
        let Some(duration) = (now - last_time).checked_div(ticks) else {
            return;
        };
        self.mean = if self.mean == 0 {
            duration
        } else {
            self.mean - self.mean / MEAN_OVER + duration / MEAN_OVER
        };
        self.last = Some((tick, now));
    }

    /// Returns the number of ticks in a time.
    fn ticks_in(&self, nanos: u64) -> u64 {
        nanos.checked_div(self.mean).unwrap_or(u64::MAX)
    }
}

/// Returns the value of an entry for each unit of its weight.
///
/// An entry that has expired is worth less than all others. If an entry expires before the end of the time for which it
/// is kept for its value, it is worth as much less as this time is shorter.
pub(super) fn value_within(
    bounds: EntryBounds,
    values: &ValueTable,
    state: ReuseState,
    tick: u32,
    duration: &TickDuration,
) -> i32 {
    if bounds.lifetime == 0 {
        return EXPIRED;
    }
    let value = values.value(state, tick) - logarithm_of(bounds.weight.max(1));
    let horizon = u64::from(values.horizon(state, tick));
    let lifetime = duration.ticks_in(bounds.lifetime);
    if lifetime >= horizon {
        return value;
    }
    value - logarithm_of(horizon) + logarithm_of(lifetime.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::adaptive::state::Class;

    const DOUBLING: i32 = ValueTable::UNITS_PER_DOUBLING;

    /// A key that was requested once, in the tick 0.
    fn state() -> ReuseState {
        ReuseState::new(0, Class::FIRST, false)
    }

    fn value(weight: u64, lifetime: u64, duration: &TickDuration) -> i32 {
        let bounds = EntryBounds { weight, lifetime };
        value_within(bounds, &ValueTable::new(), state(), 500, duration)
    }

    #[test]
    fn value_halves_with_twice_the_weight() {
        let duration = TickDuration::default();
        let light = value(3, u64::MAX, &duration);
        assert_eq!(value(6, u64::MAX, &duration), light - DOUBLING);
        assert!(value(u64::MAX, u64::MAX, &duration) < light - 60 * DOUBLING);
        assert_eq!(value(0, u64::MAX, &duration), value(1, u64::MAX, &duration));
    }

    #[test]
    fn ticks_that_are_shorter_than_a_step_of_the_clock_are_measured_together() {
        let mut duration = TickDuration::default();
        // A thousand ticks in each step of four milliseconds.
        for tick in 0..20_000 {
            duration.measure(tick, u64::from(tick / 1_000) * 4_000_000);
        }
        assert_eq!(duration.ticks_in(400_000), 100);
    }

    #[test]
    fn entry_that_expires_soon_is_worth_less_and_an_expired_one_least() {
        let mut duration = TickDuration::default();
        (0..20).for_each(|tick| duration.measure(tick, u64::from(tick) * 4_000));
        let horizon = ValueTable::new().horizon(state(), 500);
        let until_end = u64::from(horizon) * 4_000;
        let lasting = value(1, u64::MAX, &duration);
        assert_eq!(value(1, until_end, &duration), lasting);
        let shorter = value(1, until_end / 4, &duration);
        assert!(horizon >= 4 && shorter < lasting - DOUBLING, "{horizon}");
        assert!(value(1, 0, &duration) < value(u64::MAX, 1, &duration));
    }
}
