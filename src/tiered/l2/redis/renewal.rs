//! Renewals of read leases: those of all caches of a hub whose keys are in one slot share one script.

use crate::tiered::l2::envelope::millis;
use crate::tiered::l2::redis::batching::{BatchOwner, Batched, Batches, only};
use crate::tiered::l2::redis::connection::{Connection, ServerInfo};
use crate::tiered::l2::redis::longest_deadline::LongestDeadline;
use crate::tiered::l2::redis::replicas::CheckLimits;
use crate::tiered::l2::redis::round_trip::{PrimaryCheck, PriorityClass, RoundTrip};
use crate::tiered::l2::redis::{
    CALL_OVERHEAD, RENEW, Redis, malformed_reply, parse, position, script_call,
};
use crate::tiered::l2::remote::RemoteError;
use parking_lot::Mutex;
use redis::{Cmd, Pipeline, Value};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;

/// Largest number of renewals in a batch. Their script takes less than a millisecond.
const MAX_BATCH_LEN: usize = 128;

/// Time between renewals that also keep the state and note the settings of the namespace.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// Number of renewals of a new cache that have upkeep without this interval. At the first one, caches that are started
/// together do not find each other's settings yet.
const FIRST_UPKEEPS: u32 = 3;

/// Time for which the settings of a process are noted after its last heartbeat. It is longer than two of the longest
/// heartbeats.
pub(super) const SETTINGS_RETENTION: Duration = Duration::from_secs(300);

/// The argument in place of settings for upkeep of the state alone, because the settings are noted by a call of their own.
const UPKEEP_WITHOUT_NOTE: &str = "-";

/// The argument in place of a generation, which the script looks up by the settings that it notes.
const GENERATION_OF_SETTINGS: &str = "?";

/// The renewals with upkeep of a cache.
#[derive(Default)]
pub(super) struct Upkeep {
    count: u32,
    last: Option<Instant>,
}

impl Upkeep {
    /// Returns `true` if the renewal that is made now needs upkeep.
    fn is_due(&mut self) -> bool {
        let is_recent = |last: Instant| last.elapsed() < UPKEEP_INTERVAL;
        if self.count >= FIRST_UPKEEPS && self.last.is_some_and(is_recent) {
            return false;
        }
        self.count = self.count.saturating_add(1);
        self.last = Some(Instant::now());
        true
    }
}

/// The renewals of the caches of a hub whose keys are in one slot.
pub(super) struct Renewals {
    batches: Batches<Renewal>,
    deadline: Arc<LongestDeadline>,
    runtime: Handle,
}

impl Renewals {
    pub(super) fn new(deadline: Arc<LongestDeadline>, runtime: Handle) -> Self {
        Self {
            batches: Batches::default(),
            deadline,
            runtime,
        }
    }
}

impl BatchOwner for Renewals {
    fn deadline(&self) -> Duration {
        self.deadline.get()
    }

    fn runtime(&self) -> &Handle {
        &self.runtime
    }
}

/// A renewal of the read lease of one cache.
pub(super) struct Renewal {
    redis: Arc<Redis>,
    nonce: u64,
    lease: Duration,
    has_upkeep: bool,
}

impl Batched for Renewal {
    type Owner = Renewals;
    type Reply = ();

    /// The caches of a process send their heartbeats at the same time, to within a few milliseconds.
    const GATHER_TIME: Duration = Duration::from_millis(2);

    fn batches(renewals: &Renewals) -> &Batches<Self> {
        &renewals.batches
    }

    fn max_len(_: &Renewals) -> usize {
        MAX_BATCH_LEN
    }

    async fn send(_: &Arc<Renewals>, renewals: &[Self]) -> Result<Vec<()>, RemoteError> {
        // Each caller waits for its own deadline at most.
        let longest = renewals.iter().max_by_key(|it| it.redis.settings.deadline);
        match longest {
            Some(longest) => longest.redis.renew_all(renewals).await,
            None => Ok(Vec::new()),
        }
    }
}

impl Redis {
    /// Renews the read lease of this cache, alone or together with those of other caches.
    pub(super) async fn renew_lease(
        self: &Arc<Self>,
        nonce: u64,
        lease: Duration,
    ) -> Result<(), RemoteError> {
        let layout = &self.settings.layout;
        // While the number of partitions is refused, each renewal tries again.
        let has_upkeep = self.upkeep.lock().is_due() || layout.check().is_err();
        if layout.is_noted_with(self.partition) && (layout.adapt() || layout.needs_note()) {
            let _ = layout.note().await;
        }
        if layout.is_noted_separately() {
            layout.check_first().await?;
        }
        let renewal = Renewal {
            redis: Arc::clone(self),
            nonce,
            lease,
            has_upkeep,
        };
        // The round trip may take as long as the longest deadline of all caches.
        let limit = self.settings.deadline + Renewal::MAX_GATHER_TIME;
        let renewing = async {
            // A renewal that was refused would be refused again, and would fail the batch.
            if self.renews_alone.load(Relaxed) {
                return self.renew_all(&[renewal]).await.map(drop);
            }
            Batches::send(&self.renewals, renewal).await
        };
        let renewed = tokio::time::timeout(limit, renewing).await;
        let renewed = renewed.unwrap_or(Err(RemoteError::Timeout));
        if let Ok(()) | Err(RemoteError::Refused(_) | RemoteError::Forbidden(_)) = renewed {
            self.renews_alone.store(renewed.is_err(), Relaxed);
        }
        renewed
    }

    async fn renew_all(&self, renewals: &[Renewal]) -> Result<Vec<()>, RemoteError> {
        // Before the primary is checked.
        let begun = Instant::now();
        // The time at which the call was sent.
        let asked = Mutex::new(Instant::now());
        let calls = |connection: &Connection| {
            *asked.lock() = Instant::now();
            let mut calls = Pipeline::with_capacity(1);
            calls.add_command(renew_call(renewals, connection));
            calls
        };
        let bytes = CALL_OVERHEAD * renewals.len();
        let round_trip =
            RoundTrip::new(PriorityClass::Control, bytes).with_check(PrimaryCheck::Before);
        let round_trip = round_trip.without_layout();
        let (replies, server) = self.call_all(round_trip, calls).await?;
        let (time, replies): (u64, Vec<Value>) = parse(only(replies)??)?;
        server.clock.read(*asked.lock(), time);
        if replies.len() != renewals.len() {
            return Err(malformed_reply());
        }
        let renewals = renewals.iter().zip(replies);
        renewals
            .map(|(renewal, reply)| renewal.complete(reply, (begun, &server)))
            .collect()
    }
}

impl Redis {
    /// Checks the replicas of the primary in the background.
    fn check_replicas(&self) {
        if let (Some(link), Some(settings)) = (self.route.last(), &self.settings.replica_reads) {
            link.check_replicas(CheckLimits {
                interval: settings.heartbeat / 4 * 3,
                max_lag: settings.max_age,
            });
        }
    }
}

impl Renewal {
    /// Notes what a reply says about the namespace.
    fn complete(
        &self,
        reply: Value,
        renewed: (Instant, &Arc<ServerInfo>),
    ) -> Result<(), RemoteError> {
        let reply: (_, _, Option<Vec<String>>, u8, String) = parse(reply)?;
        let (id, version, others, is_refused, generation) = reply;
        let at = position(id, version)?;
        self.redis.note_position(at);
        // Where the number of partitions is refused, events of other processes do not arrive.
        if let Some(reading) = self
            .redis
            .replica_reading
            .as_ref()
            .filter(|_| is_refused == 0)
        {
            reading.note_renewal(at, renewed);
            self.redis.check_replicas();
        }
        if let Some(others) = others {
            let layout = &self.redis.settings.layout;
            if !layout.is_noted_separately() {
                layout.note_renewal(renewed.0, (is_refused == 1, &others, generation));
            }
            *self.redis.other_settings.lock() = others;
            layout.check()?;
        }
        Ok(())
    }
}

/// Returns the call that renews leases.
fn renew_call(renewals: &[Renewal], connection: &Connection) -> Cmd {
    let keys = renewals.iter().flat_map(|renewal| {
        let names = &renewal.redis.names;
        [&names.state, &names.readers, &names.tags, &names.settings]
    });
    let mut call = script_call(&RENEW, connection, &connection.server.history, keys);
    call.arg(millis(SETTINGS_RETENTION));
    for renewal in renewals {
        let Redis {
            names,
            settings,
            own_id,
            ..
        } = &*renewal.redis;
        let lease = renewal.lease;
        let (layout, of) = (&settings.layout, renewal.redis.partition.of);
        let noted = renewal.has_upkeep.then(|| {
            if of == 1 && layout.is_noted_separately() {
                UPKEEP_WITHOUT_NOTE
            } else {
                &settings.shared_settings
            }
        });
        let noted = noted.unwrap_or_default();
        let generation = if noted.is_empty() || layout.is_noted_separately() {
            layout.generation(of)
        } else {
            GENERATION_OF_SETTINGS.into()
        };
        call.arg(format!("{own_id:016x}"))
            .arg(if lease.is_zero() { 0 } else { millis(lease) })
            .arg(millis(settings.read_lease))
            .arg(noted)
            .arg(names.peer_channel(*own_id))
            .arg(renewal.nonce)
            .arg(&*generation);
    }
    call
}
