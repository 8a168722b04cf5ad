//! The construction of a cache from its builder.

use crate::clock::saturating_nanos;
use crate::error::{BuildError, MAX_SHARDS};
use crate::local::budget::Budget;
use crate::local::builder::LocalCacheBuilder;
use crate::local::shard::metadata::ColumnSet;
use crate::local::shard::{MAX_ENTRIES, Setup, Shard};
use crate::local::tags::Tags;
use crate::local::{Bound, Inner, Insertions, LocalCache, ShardCell};
use crate::policy::ShardPolicies;
use crate::single_flight::{Bulkhead, InFlightLoads};
use crate::stats::Counters;
use crate::sync::read_biased_lock::ReadBiasedLock;
use std::sync::Arc;
use std::thread;

/// The minimum capacity of each shard, in entries, by default. A cache with less than twice this capacity has one
/// shard.
const MIN_ENTRIES_PER_SHARD: usize = 64;
/// The highest number of shards that [`min_shards`] requires. So many shards have room for billions of entries. The
/// limit matters for a capacity of `usize::MAX`, which is meant as unbounded.
const MAX_SHARDS_FOR_CAPACITY: usize = 1_024;

impl<K: Eq, V, S> LocalCache<K, V, S> {
    /// Builds a cache from valid settings.
    pub(super) fn from_builder(builder: LocalCacheBuilder<K, V, S>) -> Self {
        let settings = builder.settings;
        let (bound, limit) = match (builder.capacity, builder.max_weight) {
            (Some(entries), _) => (Bound::Entries, entries as u64),
            (None, Some(weight)) => (Bound::Weight, weight),
            (None, None) => (Bound::None, u64::MAX),
        };
        let shards = match builder.shards {
            Some(shards) => shards.next_power_of_two(),
            None => default_shards(builder.capacity),
        };
        let shards = shards.max(min_shards(builder.capacity));
        let time_to_idle = settings.time_to_idle.map(saturating_nanos);
        let refresh_rules = settings.refresh_rules();
        let tags = Tags::new(settings.partition_count());
        let policies = ShardPolicies::new(builder.policy, shards);
        let cell = |index| {
            let setup = Setup {
                expected_entries: expected_entries(builder.capacity, shards),
                columns: ColumnSet {
                    weights: bound == Bound::Weight,
                    time_to_idle,
                    refresh_rules,
                },
                grace: settings.grace(),
                has_read_times: settings.tracks_ages,
                tag_epoch: tags.shared_epoch(),
                min_live: settings.is_l1.then(|| tags.shared_min_live()),
            };
            let policy = policies.of_shard(index);
            ShardCell {
                shard: ReadBiasedLock::new(Shard::new(setup, policy)),
                in_flight: InFlightLoads::new(),
            }
        };
        let max_loads = settings.max_concurrent_loads;
        let has_deadlines = settings.time_to_live.is_some()
            || time_to_idle.is_some()
            || settings.expire_after.is_some();
        let is_plain = settings.listener.is_none()
            && settings.weigher.is_none()
            && settings.expire_after.is_none()
            && settings.time_to_idle.is_none()
            && refresh_rules.is_none()
            && !settings.is_l1;
        let inner = Inner {
            cells: (0..shards).map(cell).collect(),
            cell_mask: shards - 1,
            expires: has_deadlines || refresh_rules.is_some(),
            has_refresh_rules: refresh_rules.is_some(),
            insertions: if is_plain {
                Insertions::Plain
            } else {
                Insertions::General
            },
            leads_at_once: max_loads.is_none() && settings.stale_if_error.is_none(),
            hasher: builder.hasher,
            bulkhead: max_loads.map(|loads| Arc::new(Bulkhead::new(loads, settings.lease))),
            counters: Counters::new(settings.tracks_ages),
            settings,
            tags,
            bound,
            budget: Budget::new(limit),
        };
        Self {
            inner: Arc::new(inner),
        }
    }
}

impl<K, V, S> LocalCacheBuilder<K, V, S> {
    /// Returns the number of bounds that are set. A valid builder has exactly one.
    pub(crate) fn bounds(&self) -> usize {
        usize::from(self.capacity.is_some())
            + usize::from(self.max_weight.is_some())
            + usize::from(self.unbounded)
    }

    /// Checks all settings.
    pub(super) fn validate(&self) -> Result<(), BuildError> {
        match self.bounds() {
            0 => return Err(BuildError::NoBound),
            1 => {}
            _ => return Err(BuildError::SeveralBounds),
        }
        match (self.max_weight, &self.settings.weigher) {
            (Some(_), None) => return Err(BuildError::NoWeigher),
            (None, Some(_)) => return Err(BuildError::WeigherWithoutBound),
            _ => {}
        }
        if self.settings.stale_if_slow.is_some() && self.settings.stale_if_error.is_none() {
            return Err(BuildError::StaleIfSlowAlone);
        }
        self.validate_settings()
    }

    /// Checks all settings except those of the bound.
    pub(crate) fn validate_settings(&self) -> Result<(), BuildError> {
        if let Some(shards) = self.shards.filter(|n| *n == 0 || *n > MAX_SHARDS) {
            return Err(BuildError::Shards(shards));
        }
        let durations = [
            ("time_to_live", self.settings.time_to_live),
            ("time_to_idle", self.settings.time_to_idle),
            ("lease", Some(self.settings.lease)),
            ("wait_timeout", self.settings.wait_timeout),
            ("refresh_after", self.settings.refresh_after),
            ("stale_if_error", self.settings.stale_if_error),
            ("stale_if_slow", self.settings.stale_if_slow),
        ];
        for (setting, duration) in durations {
            if duration.is_some_and(|duration| duration.is_zero()) {
                return Err(BuildError::ZeroDuration(setting));
            }
        }
        self.validate_loads()
    }

    /// Checks the settings of loads.
    fn validate_loads(&self) -> Result<(), BuildError> {
        let settings = &self.settings;
        let refresh = settings.refresh_after.zip(settings.time_to_live);
        if refresh.is_some_and(|(refresh, ttl)| refresh >= ttl) {
            return Err(BuildError::RefreshAfterEnd);
        }
        let numbers = [
            ("early_refresh", settings.early_refresh, f64::MAX),
            ("ttl_jitter", settings.ttl_jitter, 1.0),
        ];
        for (setting, number, max) in numbers {
            if number.is_some_and(|number| !(number > 0.0 && number <= max)) {
                return Err(BuildError::OutOfRange(setting));
            }
        }
        if settings.max_concurrent_loads == Some(0) {
            return Err(BuildError::NoLoads);
        }
        Ok(())
    }
}

/// Returns the default number of shards. It is high enough that two writers rarely need the same shard. Each shard has
/// room for [`MIN_ENTRIES_PER_SHARD`] entries, so that the LRU order of a small cache is close to that of a single
/// list.
fn default_shards(capacity: Option<usize>) -> usize {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let by_cores = (cores * 4).next_power_of_two().min(MAX_SHARDS);
    match capacity {
        Some(capacity) => by_cores.min(1 << (capacity / MIN_ENTRIES_PER_SHARD).max(1).ilog2()),
        None => by_cores,
    }
}

/// Returns the number of shards that are at most half full if the cache is full. The other half is spare room, because
/// keys are not spread evenly over the shards.
fn min_shards(capacity: Option<usize>) -> usize {
    let half_full = MAX_ENTRIES as usize / 2;
    let shards = capacity.unwrap_or(0).div_ceil(half_full);
    shards.min(MAX_SHARDS_FOR_CAPACITY).next_power_of_two()
}

/// Returns an estimate of the number of entries in the largest shard of a full cache, or 0 if the cache has no capacity
/// in entries. Keys are not spread evenly, so the estimate is four standard deviations above the mean.
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss
)]
fn expected_entries(capacity: Option<usize>, shards: usize) -> usize {
    if shards == 1 {
        return capacity.unwrap_or(0);
    }
    let mean = capacity.unwrap_or(0) as f64 / shards as f64;
    (mean + 4.0 * mean.sqrt()).ceil() as usize
}
