//! Which keys go through L2, and whether what it holds is served: to be changed while all runs.

use crate::error::BuildError;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use xxhash_rust::xxh3::xxh3_64;

const MILLION: u64 = 1_000_000;

/// How far a cache has moved to Redis. A clone is another handle to the same, so one can be given to
/// several caches, and kept to change them.
///
/// Of a cache's keys a share goes through Redis, chosen by their hash: a key that is in at ten percent
/// is in at twenty, in all processes. The others are kept in L1 alone. Invalidations are told to all
/// in either case, so the [`Consistency`](crate::Consistency) is promised at each percentage, while it
/// is changed, and where processes differ in it.
///
/// The others live in L1 as that promise lets them: with `Bounded(ttl)` for that time, however long their
/// time to live, and with `L2Only` not at all.
///
/// In the shadow, what Redis holds is compared and not served: what L1 misses is loaded, by each process
/// for itself, and compared with what Redis holds, or stored there.
/// [`shadow_different`](crate::TierStats::shadow_different) counts values that would have been wrong:
/// most often the database was changed, and nobody has invalidated the key. Values are compared as serde
/// serializes them, without regard to the order of the elements of maps and sequences. A change whose invalidation is
/// in flight may count.
///
/// ```
/// use hotset::Rollout;
///
/// let rollout = Rollout::with_percent(10.0)?;
/// // Given to `TieredCacheBuilder::rollout`, it is changed from wherever the service is controlled:
/// rollout.set_percent(50.0)?;
/// assert_eq!(rollout.percent(), 50.0);
/// # Ok::<(), hotset::BuildError>(())
/// ```
#[derive(Clone)]
pub struct Rollout {
    state: Arc<State>,
}

struct State {
    /// Of a million keys.
    share: AtomicU64,
    shadow: AtomicBool,
}

impl Rollout {
    /// All keys.
    #[must_use]
    pub fn full() -> Self {
        Self {
            state: Arc::new(State {
                share: AtomicU64::new(MILLION),
                shadow: AtomicBool::new(false),
            }),
        }
    }

    /// This many of a hundred keys, to begin with.
    ///
    /// # Errors
    ///
    /// If that is not 0 to 100.
    pub fn with_percent(percent: f64) -> Result<Self, BuildError> {
        let rollout = Self::full();
        rollout.set_percent(percent)?;
        Ok(rollout)
    }

    /// From now on, this many of a hundred keys. Resolved to a ten-thousandth.
    ///
    /// # Errors
    ///
    /// If that is not 0 to 100.
    pub fn set_percent(&self, percent: f64) -> Result<(), BuildError> {
        if !(0.0..=100.0).contains(&percent) {
            return Err(BuildError::OutOfRange("percent"));
        }
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // 0 to a million.
        let share = (percent * 10_000.0).round() as u64;
        self.state.share.store(share, Relaxed);
        Ok(())
    }

    /// From now on, in the shadow or not.
    pub fn set_shadow(&self, shadow: bool) {
        self.state.shadow.store(shadow, Relaxed);
    }

    /// How many of a hundred keys.
    #[must_use]
    pub fn percent(&self) -> f64 {
        #[allow(clippy::cast_precision_loss)] // 0 to a million.
        let share = self.state.share.load(Relaxed) as f64;
        share / 10_000.0
    }

    /// In the shadow?
    #[must_use]
    pub fn is_shadow(&self) -> bool {
        self.state.shadow.load(Relaxed)
    }

    /// How many of a hundred keys, and whether in the shadow.
    pub(crate) fn state(&self) -> (f64, bool) {
        (self.percent(), self.is_shadow())
    }

    /// Does the key of this name go through L2?
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
            .field("shadow", &self.is_shadow())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_keys_is_in_and_stays_in_as_it_grows() {
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

    /// Processes of other versions choose the same.
    #[test]
    fn the_share_is_what_it_was() {
        let rollout = Rollout::with_percent(10.0).unwrap();
        let is_in = |key: &u8| rollout.routes(&[*key]);
        let keys: Vec<u8> = (0..100).filter(is_in).collect();
        assert_eq!(keys, [8, 14, 41, 51, 54, 55, 57, 79]);
    }

    #[test]
    fn a_share_below_nothing_or_above_all_is_refused() {
        for percent in [-0.1, 100.1, f64::NAN, f64::INFINITY] {
            assert!(Rollout::with_percent(percent).is_err());
        }
        let refused = Rollout::full().set_percent(101.0).unwrap_err();
        assert!(refused.to_string().contains("percent"), "{refused}");
    }
}
