//! The rollout of a cache to L2, which can be changed while the cache is in use.

use crate::error::BuildError;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use xxhash_rust::xxh3::xxh3_64;

/// The unit of the share of keys.
pub(crate) const MILLION: u64 = 1_000_000;

/// A handle to the share of keys that a cache stores in Redis, and to its shadow mode.
///
/// A clone is another handle to the same rollout. One rollout may be given to several caches, and changes them
/// together.
///
/// # Percentage
///
/// The hash of a key decides whether it is stored in Redis, so a key that is included at 10 percent is also included at
/// 20 percent, in all processes. Entries of the other keys are stored in L1 only. Invalidations reach all processes in
/// both cases. So the [`Consistency`](crate::Consistency) holds at each percentage, while the percentage is changed,
/// and if processes have different percentages. L1 stores the entries of the other keys as the class allows: with
/// `Bounded(ttl)` for that time at most, and with `L2Only` not at all.
///
/// # Shadow mode
///
/// In shadow mode values in Redis are not served. Each process loads the keys that L1 misses. If Redis has a value, it
/// is compared with the loaded value, otherwise the loaded value is stored in Redis.
/// [`shadow_different`](crate::TierStats::shadow_different) counts values that would have been wrong. The most frequent
/// reason is a change of the database without an invalidation of the key. Values are compared in the form in which
/// serde serializes them, except for the order of the elements of maps and sequences. A change whose invalidation is in
/// flight may count as well.
///
/// # Moved keys
///
/// While the number of partitions of a namespace changes, see
/// [`next_partitions`](crate::TieredCacheBuilder::next_partitions), the rollout also has the percentage of keys that are
/// read in the next partitions.
///
/// # Examples
///
/// ```
/// use hotset::Rollout;
///
/// let rollout = Rollout::with_percent(10.0)?;
/// // Pass it to `TieredCacheBuilder::rollout`, and change it later, for instance from an admin endpoint.
/// rollout.set_percent(50.0)?;
/// assert_eq!(rollout.percent(), 50.0);
/// # Ok::<(), hotset::BuildError>(())
/// ```
#[derive(Clone)]
pub struct Rollout {
    state: Arc<State>,
}

struct State {
    /// The number of keys out of a million that are stored in Redis.
    share: AtomicU64,
    /// The number of keys out of a million that are read in the next partitions.
    moved: AtomicU64,
    shadow: AtomicBool,
}

/// Converts a percentage into a number out of a million.
///
/// # Errors
///
/// Returns an error with the name of the setting if the percentage is out of range.
fn share_of(percent: f64, setting: &'static str) -> Result<u64, BuildError> {
    if !(0.0..=100.0).contains(&percent) {
        return Err(BuildError::OutOfRange(setting));
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // 0 to a million.
    Ok((percent * 10_000.0).round() as u64)
}

impl Rollout {
    /// Creates a rollout of all keys, without shadow mode.
    ///
    /// # Examples
    ///
    /// ```
    /// let rollout = hotset::Rollout::full();
    /// assert_eq!(rollout.percent(), 100.0);
    /// assert!(!rollout.is_shadow());
    /// ```
    #[must_use]
    pub fn full() -> Self {
        Self {
            state: Arc::new(State {
                share: AtomicU64::new(MILLION),
                moved: AtomicU64::new(0),
                shadow: AtomicBool::new(false),
            }),
        }
    }

    /// Creates a rollout of this percentage of keys, from 0 to 100.
    ///
    /// # Errors
    ///
    /// Returns an error if `percent` is out of range.
    ///
    /// # Examples
    ///
    /// ```
    /// use hotset::{BuildError, Rollout};
    ///
    /// assert_eq!(Rollout::with_percent(10.0)?.percent(), 10.0);
    /// assert_eq!(Rollout::with_percent(101.0).unwrap_err(), BuildError::OutOfRange("percent"));
    /// # Ok::<(), BuildError>(())
    /// ```
    pub fn with_percent(percent: f64) -> Result<Self, BuildError> {
        let rollout = Self::full();
        rollout.set_percent(percent)?;
        Ok(rollout)
    }

    /// Sets the percentage of keys, from 0 to 100, with a resolution of 0.0001.
    ///
    /// # Errors
    ///
    /// Returns an error if `percent` is out of range.
    ///
    /// # Examples
    ///
    /// ```
    /// let rollout = hotset::Rollout::full();
    /// rollout.set_percent(12.5)?;
    /// assert_eq!(rollout.percent(), 12.5);
    /// # Ok::<(), hotset::BuildError>(())
    /// ```
    pub fn set_percent(&self, percent: f64) -> Result<(), BuildError> {
        let share = share_of(percent, "percent")?;
        self.state.share.store(share, Relaxed);
        Ok(())
    }

    /// Sets the percentage of keys that are read in the next partitions, from 0 to 100, with a resolution of 0.0001.
    ///
    /// It takes effect within a heartbeat, as soon as all processes write to the next partitions. Before that, and in
    /// caches without [`next_partitions`](crate::TieredCacheBuilder::next_partitions), it has no effect.
    ///
    /// # Errors
    ///
    /// Returns an error if `percent` is out of range.
    ///
    /// # Examples
    ///
    /// ```
    /// let rollout = hotset::Rollout::full();
    /// assert_eq!(rollout.moved_percent(), 0.0);
    /// rollout.set_moved_percent(12.5)?;
    /// assert_eq!(rollout.moved_percent(), 12.5);
    /// # Ok::<(), hotset::BuildError>(())
    /// ```
    pub fn set_moved_percent(&self, percent: f64) -> Result<(), BuildError> {
        let share = share_of(percent, "moved_percent")?;
        self.state.moved.store(share, Relaxed);
        Ok(())
    }

    /// Returns the percentage of keys that are read in the next partitions, as it was set. [`Health::moved_percent`] is
    /// the one that is in effect.
    ///
    /// [`Health::moved_percent`]: crate::Health::moved_percent
    ///
    /// # Examples
    ///
    /// ```
    /// assert_eq!(hotset::Rollout::full().moved_percent(), 0.0);
    /// ```
    #[must_use]
    pub fn moved_percent(&self) -> f64 {
        Self::percent_of(self.moved_share())
    }

    /// Returns the number of keys out of a million that are read in the next partitions.
    pub(crate) fn moved_share(&self) -> u64 {
        self.state.moved.load(Relaxed)
    }

    /// Converts a number out of a million into a percentage.
    pub(crate) fn percent_of(share: u64) -> f64 {
        #[allow(clippy::cast_precision_loss)] // 0 to a million.
        let share = share as f64;
        share / 10_000.0
    }

    /// Turns shadow mode on or off.
    ///
    /// # Examples
    ///
    /// ```
    /// let rollout = hotset::Rollout::full();
    /// rollout.set_shadow(true);
    /// assert!(rollout.is_shadow());
    /// ```
    pub fn set_shadow(&self, shadow: bool) {
        self.state.shadow.store(shadow, Relaxed);
    }

    /// Returns the percentage of keys that are stored in Redis.
    ///
    /// # Examples
    ///
    /// ```
    /// let rollout = hotset::Rollout::with_percent(10.0)?;
    /// let other = rollout.clone();
    /// other.set_percent(20.0)?;
    /// assert_eq!(rollout.percent(), 20.0);
    /// # Ok::<(), hotset::BuildError>(())
    /// ```
    #[must_use]
    pub fn percent(&self) -> f64 {
        Self::percent_of(self.state.share.load(Relaxed))
    }

    /// Checks whether shadow mode is on.
    ///
    /// # Examples
    ///
    /// ```
    /// let rollout = hotset::Rollout::full();
    /// assert!(!rollout.is_shadow());
    /// rollout.set_shadow(true);
    /// assert!(rollout.is_shadow());
    /// ```
    #[must_use]
    pub fn is_shadow(&self) -> bool {
        self.state.shadow.load(Relaxed)
    }

    /// Returns the percentage of keys, and whether shadow mode is on.
    pub(crate) fn state(&self) -> (f64, bool) {
        (self.percent(), self.is_shadow())
    }

    /// Checks whether the key of this name is stored in L2.
    pub(crate) fn routes(&self, name: &[u8]) -> bool {
        let share = self.state.share.load(Relaxed);
        share == MILLION || xxh3_64(name) % MILLION < share
    }
}

impl Default for Rollout {
    fn default() -> Self {
        Self::full()
    }
}

impl fmt::Debug for Rollout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rollout")
            .field("percent", &self.percent())
            .field("moved_percent", &self.moved_percent())
            .field("shadow", &self.is_shadow())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_stay_included_while_the_percentage_grows() {
        let rollout = Rollout::full();
        let is_in = |key: u32| rollout.routes(&key.to_be_bytes());
        let mut before: Vec<u32> = Vec::new();
        for permille in [0_u32, 5, 100, 200, 995, 1_000] {
            rollout.set_percent(f64::from(permille) / 10.0).unwrap();
            let now: Vec<u32> = (0..100_000).filter(|key| is_in(*key)).collect();
            let off = now.len().abs_diff(permille as usize * 100);
            assert!(off < 500 && (permille % 1_000 != 0 || off == 0), "{off}");
            assert!(before.iter().all(|key| is_in(*key)));
            before = now;
        }
    }

    /// Processes of other versions of this crate must choose the same keys.
    #[test]
    fn keys_at_ten_percent_are_those_of_earlier_versions() {
        let rollout = Rollout::with_percent(10.0).unwrap();
        let is_in = |key: &u8| rollout.routes(&[*key]);
        let keys: Vec<u8> = (0..100).filter(is_in).collect();
        assert_eq!(keys, [8, 14, 41, 51, 54, 55, 57, 79]);
    }

    #[test]
    fn percentage_out_of_range_is_refused() {
        for percent in [-0.1, 100.1, f64::NAN, f64::INFINITY] {
            assert!(Rollout::with_percent(percent).is_err());
        }
        let refused = Rollout::full().set_percent(101.0).unwrap_err();
        assert!(refused.to_string().contains("percent"), "{refused}");
        let refused = Rollout::full().set_moved_percent(-1.0).unwrap_err();
        assert!(refused.to_string().contains("moved_percent"), "{refused}");
    }
}
