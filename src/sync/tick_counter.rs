//! A counter of the processor, which takes less time to read than a clock.
//!
//! It only serves to recognize operations that are certainly short, so that the clock need not be read at their end. On
//! x86-64 it is the time-stamp counter, which processors since 2008 advance at a constant rate, also while they sleep.
//! A difference between the counters of two processors may make a short operation appear long, which does no harm: the
//! clock is then read. Elsewhere every operation counts as long.

/// The number of ticks below which an operation is short. It is at most 10 microseconds if the counter advances at
/// 500 MHz or more. That of a processor with 3 GHz reaches it in 1.7 microseconds.
#[cfg(all(target_arch = "x86_64", not(miri)))]
const SHORT_BELOW: u64 = 5_000;

/// The value of the counter at the start of an operation.
#[derive(Clone, Copy)]
pub(crate) struct Ticks(#[cfg(all(target_arch = "x86_64", not(miri)))] u64);

#[cfg(all(target_arch = "x86_64", not(miri)))]
impl Ticks {
    /// Reads the counter.
    #[inline(always)]
    #[allow(unsafe_code)]
    pub(crate) fn now() -> Self {
        // SAFETY: Every x86-64 processor has this instruction. It accesses no memory. If the system forbids it to a
        // process, by a setting that hardly any process uses, the process gets a signal.
        Self(unsafe { std::arch::x86_64::_rdtsc() })
    }

    /// Checks whether less than 10 microseconds have passed since this reading. May return `false` although they have
    /// not passed.
    #[inline(always)]
    pub(crate) fn are_recent(self) -> bool {
        Self::now().0.wrapping_sub(self.0) < SHORT_BELOW
    }
}

#[cfg(not(all(target_arch = "x86_64", not(miri))))]
impl Ticks {
    /// Returns a value without a reading.
    pub(crate) fn now() -> Self {
        Self()
    }

    /// Returns `false`: the time since the start is not known.
    pub(crate) fn are_recent(self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    #[test]
    fn ticks_of_ten_microseconds_ago_are_not_recent() {
        for _ in 0..1_000 {
            let (ticks, start) = (Ticks::now(), Instant::now());
            while start.elapsed() < Duration::from_micros(10) {}
            assert!(!ticks.are_recent());
        }
    }
}
