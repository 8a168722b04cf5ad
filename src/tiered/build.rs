//! The construction of a tiered cache from its builder.

use crate::error::BuildError;
use crate::local::settings::KeyPartitions;
use crate::single_flight::Bulkhead;
use crate::tiered::coherence::background::BackgroundTasks;
use crate::tiered::coherence::key_waiters::KeyWaiters;
use crate::tiered::coherence::read_lease::ReadLease;
use crate::tiered::health::TierCounters;
use crate::tiered::l2::calls::CallCounters;
use crate::tiered::l2::circuit_breaker::CircuitBreaker;
use crate::tiered::l2::codec_health::CodecHealth;
use crate::tiered::l2::redis::{
    Hub, Layout, PartitionId, Redis, RedisSettings, ReplicaSettings, Target, entropy,
};
use crate::tiered::l2::remote::Peer;
use crate::tiered::l2::replica_reads::ReplicaReadCounters;
use crate::tiered::layout_change::LayoutChange;
use crate::tiered::load_lease::Releases;
use crate::tiered::partition::{Partition, Partitions};
use crate::tiered::partition_map::{PartitionMap, number_of};
use crate::tiered::refresh_by_rule::RefreshThrottle;
use crate::tiered::rollout::Rollout;
use crate::tiered::settings::TierSettings;
use crate::tiered::{
    Consistency, Inner, RemoteKey, RemoteValue, TieredCache, TieredCacheBuilder, name_of,
};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use tokio::runtime::Handle;

/// The default maximum number of concurrent loads.
const DEFAULT_MAX_LOADS: usize = 64;
/// The shortest heartbeat. With a shorter one, a pause of a busy machine looks like a failure.
const MIN_HEARTBEAT: Duration = Duration::from_millis(50);
/// The longest heartbeat.
const MAX_HEARTBEAT: Duration = Duration::from_secs(60);
/// The default number of partitions of a namespace in a cluster.
const DEFAULT_PARTITIONS: u16 = 16;
/// The maximum number of partitions of a namespace.
const MAX_PARTITIONS: u16 = 1_024;
/// The maximum length of a namespace, in bytes.
const MAX_NAMESPACE_LEN: usize = 128;

impl<K: RemoteKey, V: RemoteValue> TieredCache<K, V> {
    /// Builds a cache, if the settings are valid.
    pub(super) fn from_builder(builder: TieredCacheBuilder<K, V>) -> Result<Self, BuildError> {
        let target = builder.validate()?;
        let runtime = Handle::try_current().map_err(|_| BuildError::NoRuntime)?;
        let hub = target.into_hub(&runtime);
        let TieredCacheBuilder {
            mut local,
            mut settings,
            ..
        } = builder;
        settings.fails_over = hub.fails_over() || builder.replicas > 0;
        let loads = local.settings.max_concurrent_loads.take();
        local.settings.is_l1 = true;
        let name = local
            .settings
            .name
            .get_or_insert_with(|| settings.namespace.clone());
        let name = name.clone();
        let me = entropy();
        let replica_reads = Arc::<ReplicaReadCounters>::default();
        let count = partition_count(builder.partitions, &hub)?;
        let change = builder
            .next_partitions
            .map(|next| layout_change(count, next, &settings.rollout))
            .transpose()?;
        let mut redis = RedisSettings {
            deadline: builder.deadline,
            lease: settings.lease,
            read_lease: settings.read_lease(),
            max_size: builder.codec.max_size,
            replicas: builder.replicas,
            shared_settings: shared_settings(settings.consistency, &builder.codec.name),
            layout: Arc::default(),
            reads: Arc::default(),
            replica_reads: replica_settings(&settings, &replica_reads),
        };
        let map = PartitionMap::new(count, change.clone());
        if map.len() > 1 {
            local.settings.partitions = Some(key_partitions(map.count_in_l1()));
        }
        redis.layout = layout(&hub, &settings.namespace, (me, &redis), count, change);
        let permits = loads.unwrap_or(DEFAULT_MAX_LOADS);
        let bulkhead = Arc::new(Bulkhead::new(permits, settings.lease));
        let l1 = local.build()?;
        // Other caches may use the rollout, so it is changed only after the last step that can fail.
        if let Some(percent) = builder.percent {
            settings.rollout.set_percent(percent)?;
        }
        if let Some(percent) = builder.moved_percent {
            settings.rollout.set_moved_percent(percent)?;
        }
        if let Some(shadow) = builder.shadow {
            settings.rollout.set_shadow(shadow);
        }
        let calls = Arc::<CallCounters>::default();
        let partition = |id| {
            let redis = redis.in_layout(id);
            let redis = Redis::new(Arc::clone(&hub), &settings.namespace, id, me, redis);
            let remote = Box::new(Arc::new(redis));
            let l2 = CircuitBreaker::new(name.clone(), Arc::clone(&calls), remote);
            Partition::new(l2, builder.max_queue)
        };
        let next = builder.next_partitions.unwrap_or(0);
        let ids = PartitionId::all(count).chain(PartitionId::all(next));
        let partitions = Partitions::new(ids.map(partition).collect(), map);
        let inner = Inner {
            l1,
            calls,
            replica_reads,
            codec: builder.codec,
            codec_health: CodecHealth::default(),
            read_lease: ReadLease::new(
                settings.consistency,
                settings.ttl,
                partitions.numbers().len(),
            ),
            partitions,
            settings,
            me,
            tokens: AtomicU64::new(0),
            key_waiters: KeyWaiters::default(),
            releases: Releases::default(),
            refresh_throttle: RefreshThrottle::default(),
            bulkhead,
            counters: TierCounters::default(),
            runtime,
        };
        let inner = Arc::new(inner);
        let background = Arc::new(BackgroundTasks::start(&inner));
        Ok(Self { inner, background })
    }
}

/// Returns the partitions of the keys of L1.
fn key_partitions<K: RemoteKey>(count: usize) -> KeyPartitions<K> {
    let of = move |key: &K| {
        // A key without a name is local to this process, so it may be in any partition.
        let number = name_of(key).map_or(0, |name| number_of(&name, count));
        u16::try_from(number).unwrap_or(0)
    };
    KeyPartitions {
        // At most `MAX_PARTITIONS`.
        count: u16::try_from(count).unwrap_or(MAX_PARTITIONS),
        of: Box::new(of),
    }
}

/// Returns the layout of a cache or an invalidator.
pub(super) fn layout(
    hub: &Arc<Hub>,
    namespace: &str,
    (me, settings): (Peer, &RedisSettings),
    count: u16,
    change: Option<Arc<LayoutChange>>,
) -> Arc<Layout> {
    let hub = Arc::clone(hub);
    let redis = Redis::new(hub, namespace, PartitionId::ONLY, me, settings.clone());
    Arc::new(Layout::new(redis, count, change))
}

/// Returns the change of a namespace with `count` partitions to `next` partitions.
pub(super) fn layout_change(
    count: u16,
    next: u16,
    rollout: &Rollout,
) -> Result<Arc<LayoutChange>, BuildError> {
    if next == count || check_partitions(next).is_err() {
        return Err(BuildError::NextPartitions);
    }
    Ok(Arc::new(LayoutChange::new(count, next, rollout.clone())))
}

/// Returns the settings of reads from replicas, if the cache reads from them.
fn replica_settings(
    settings: &TierSettings,
    counters: &Arc<ReplicaReadCounters>,
) -> Option<Arc<ReplicaSettings>> {
    let Consistency::Bounded(bound) = settings.consistency else {
        return None;
    };
    settings.read_from_replicas.then(|| {
        Arc::new(ReplicaSettings {
            max_age: bound / 2,
            heartbeat: settings.heartbeat,
            counters: Arc::clone(counters),
        })
    })
}

/// Describes the settings that all processes of a namespace should share. The bound of `Bounded` may differ.
fn shared_settings(consistency: Consistency, codec: &str) -> String {
    let class = match consistency {
        Consistency::Realtime => "Realtime",
        Consistency::Bounded(_) => "Bounded",
        Consistency::L2Only => "L2Only",
        Consistency::L1Only => "L1Only",
    };
    format!("the class {class} and the codec {codec:?}")
}

/// Checks the name of a namespace.
pub(super) fn check_namespace(namespace: &str) -> Result<(), BuildError> {
    let is_name = |byte: u8| byte.is_ascii_graphic() && !b"{}".contains(&byte);
    let is_valid = (1..=MAX_NAMESPACE_LEN).contains(&namespace.len());
    if is_valid && namespace.bytes().all(is_name) {
        Ok(())
    } else {
        Err(BuildError::Namespace)
    }
}

/// Checks the interval between heartbeats.
pub(super) fn check_heartbeat(heartbeat: Duration) -> Result<(), BuildError> {
    if (MIN_HEARTBEAT..=MAX_HEARTBEAT).contains(&heartbeat) {
        Ok(())
    } else {
        Err(BuildError::Heartbeat)
    }
}

/// Checks a number of partitions.
fn check_partitions(count: u16) -> Result<(), BuildError> {
    if count.is_power_of_two() && count <= MAX_PARTITIONS {
        Ok(())
    } else {
        Err(BuildError::Partitions)
    }
}

/// Returns the number of partitions that is set, or the default for the servers of a hub.
pub(super) fn partition_count(set: Option<u16>, hub: &Hub) -> Result<u16, BuildError> {
    let default = if hub.has_slots() {
        DEFAULT_PARTITIONS
    } else {
        1
    };
    let count = set.unwrap_or(default);
    check_partitions(count)?;
    Ok(count)
}

impl<K: RemoteKey, V: RemoteValue> TieredCacheBuilder<K, V> {
    /// Returns the servers, or an error if a setting is invalid.
    /// [`LocalCacheBuilder::build`](crate::LocalCacheBuilder::build) checks the settings of L1.
    pub(crate) fn validate(&self) -> Result<Target, BuildError> {
        let TierSettings {
            namespace,
            consistency,
            local_ttl,
            heartbeat,
            read_from_replicas,
            ..
        } = &self.settings;
        check_namespace(namespace)?;
        check_heartbeat(*heartbeat)?;
        self.partitions.map_or(Ok(()), check_partitions)?;
        if *consistency == Consistency::Bounded(Duration::ZERO) {
            return Err(BuildError::ZeroDuration("consistency"));
        }
        if *read_from_replicas && !matches!(consistency, Consistency::Bounded(_)) {
            return Err(BuildError::ReadFromReplicas);
        }
        if *local_ttl == Some(Duration::ZERO) {
            return Err(BuildError::ZeroDuration("local_time_to_live"));
        }
        if self.deadline.is_zero() {
            return Err(BuildError::ZeroDuration("deadline"));
        }
        if let Some(percent) = self.percent {
            drop(Rollout::with_percent(percent)?);
        }
        if let Some(percent) = self.moved_percent {
            Rollout::full().set_moved_percent(percent)?;
        }
        if let (Some(count), Some(next)) = (self.partitions, self.next_partitions) {
            drop(layout_change(count, next, &Rollout::full())?);
        }
        let local = &self.local.settings;
        if local.max_concurrent_loads == Some(0) {
            return Err(BuildError::NoLoads);
        }
        self.server.target(self.certificates.clone())
    }
}
