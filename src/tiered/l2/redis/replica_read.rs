//! Reads of values from replicas, for caches whose class allows values that are not the newest.
//!
//! A read is one `MGET` of entries and of the [state](State) of the namespace, which are of the same time because `MGET`
//! is atomic. [`Freshness`] decides whether the reply is recent enough, and [`State::decide`] which entries are values.
//! Everything else is left to the primary: what a replica does not have, large values, tags, and load leases.

use crate::tiered::l2::redis::Redis;
use crate::tiered::l2::redis::batched_reads::OwnedRequest;
use crate::tiered::l2::redis::batching::{Batched, Batches};
use crate::tiered::l2::redis::connection::ServerInfo;
use crate::tiered::l2::redis::freshness::{Freshness, Known, Refusal};
use crate::tiered::l2::redis::plain_read::{State, bytes};
use crate::tiered::l2::redis::replicas::UsableReplica;
use crate::tiered::l2::remote::{LookupReply, LookupRequest, Position, RemoteError};
use crate::tiered::l2::replica_reads::{ReplicaOutcome, ReplicaReadCounters};
use futures_util::future::join_all;
use parking_lot::Mutex;
use redis::Value;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The part of the deadline of a call within which a replica has to reply.
const DEADLINE_PART: u32 = 4;

/// The settings of reads from replicas, which all partitions of a cache share.
pub(crate) struct ReplicaSettings {
    /// The longest time since which a value that a replica returns may be outdated: half of the bound of the class.
    ///
    /// Then L1 may serve the value for the other half. And a caller may join a load that began up to half of the bound
    /// ago, so the value that it gets is not older than the bound either.
    pub(crate) max_age: Duration,
    pub(crate) heartbeat: Duration,
    pub(crate) counters: Arc<ReplicaReadCounters>,
}

/// The state of a partition that reads from replicas.
pub(super) struct ReplicaReading {
    pub(super) settings: Arc<ReplicaSettings>,
    freshness: Mutex<Freshness<Instant>>,
    /// The primary of the last renewal.
    primary: Mutex<Option<Arc<ServerInfo>>>,
}

impl ReplicaReading {
    pub(super) fn new(settings: Arc<ReplicaSettings>) -> Self {
        Self {
            settings,
            freshness: Mutex::default(),
            primary: Mutex::default(),
        }
    }

    /// Notes a position that a reply or a message contains.
    pub(super) fn note_position(&self, at: Position) {
        self.freshness.lock().note_position(at, Instant::now());
    }

    /// Notes the position in the reply to a renewal that began at `begun`.
    pub(super) fn note_renewal(&self, at: Position, (begun, primary): (Instant, &Arc<ServerInfo>)) {
        *self.primary.lock() = Some(Arc::clone(primary));
        let mut freshness = self.freshness.lock();
        freshness.note_renewal(at, begun, Instant::now());
    }

    /// Returns what is known of the namespace, if a value of a replica may be recent enough.
    fn known(&self) -> Result<Known<Instant>, Refusal> {
        let known = self.freshness.lock().known().ok_or(Refusal::Old)?;
        known.current_at(self.oldest()?)?;
        Ok(known)
    }

    /// Returns the earliest time at which a value may have been current.
    fn oldest(&self) -> Result<Instant, Refusal> {
        let oldest = Instant::now().checked_sub(self.settings.max_age);
        oldest.ok_or(Refusal::Old)
    }
}

/// A read of one value from a replica.
pub(super) struct ReplicaRead(OwnedRequest);

impl Batched for ReplicaRead {
    type Owner = Redis;

    /// The reply, or `None` if the primary has to be asked.
    type Reply = Option<LookupReply>;

    const IS_READ: bool = true;

    fn batches(redis: &Redis) -> &Batches<Self> {
        &redis.settings.reads.on_replicas
    }

    fn max_len(redis: &Redis) -> usize {
        redis.batch_len()
    }

    async fn send(redis: &Arc<Redis>, reads: &[Self]) -> Result<Vec<Self::Reply>, RemoteError> {
        let requests: Vec<_> = reads.iter().map(|read| read.0.borrow()).collect();
        let requests: Vec<_> = requests.iter().collect();
        Ok(redis.read_on_replica(&requests).await)
    }
}

/// Returns the replies if no replica was asked.
fn undecided(requests: usize) -> Vec<Option<LookupReply>> {
    std::iter::repeat_with(|| None).take(requests).collect()
}

impl Redis {
    /// Reads values from replicas. Returns `None` for each request that the primary has to serve.
    pub(super) async fn read_on_replicas(
        self: &Arc<Self>,
        requests: &[LookupRequest<'_>],
    ) -> Vec<Option<LookupReply>> {
        let may_ask = |request: &LookupRequest<'_>| {
            request.may_be_old && !request.head_only && request.unreadable.is_none()
        };
        let asked: Vec<_> = requests.iter().filter(|request| may_ask(request)).collect();
        let replies = match asked[..] {
            _ if !self.has_usable_replica() => return undecided(requests.len()),
            [] => return undecided(requests.len()),
            [request] => vec![self.read_one_on_replica(request).await],
            _ => {
                let batches = asked.chunks(self.batch_len());
                let batches = batches.map(|requests| self.read_on_replica(requests));
                join_all(batches).await.into_iter().flatten().collect()
            }
        };
        let mut replies = replies.into_iter();
        let reply = |request| may_ask(request).then(|| replies.next().flatten())?;
        requests.iter().map(reply).collect()
    }

    /// Reads one value, alone or together with those of other callers.
    async fn read_one_on_replica(
        self: &Arc<Self>,
        request: &LookupRequest<'_>,
    ) -> Option<LookupReply> {
        if let Some(_in_flight) = self.settings.reads.on_replicas.begin_single() {
            return self.read_on_replica(&[request]).await.pop()?;
        }
        let read = ReplicaRead(OwnedRequest::new(request));
        Batches::send(self, read).await.ok()?
    }

    /// Checks whether a replica can be asked, so that reads are not queued for nothing.
    fn has_usable_replica(&self) -> bool {
        let link = self.route.last();
        self.replica_reading.is_some()
            && self.settings.layout.check().is_ok()
            && link.is_some_and(|link| link.replicas.is_any_usable())
    }

    /// Reads values from one replica.
    async fn read_on_replica(&self, requests: &[&LookupRequest<'_>]) -> Vec<Option<LookupReply>> {
        let (Some(reading), Some(link)) = (&self.replica_reading, self.route.last()) else {
            return undecided(requests.len());
        };
        let Some(replica) = link.replicas.next() else {
            return undecided(requests.len());
        };
        let (_, share) = self.small_round_trip(requests.len());
        if !self.plain_reads.are_whole(share) {
            return undecided(requests.len());
        }
        let refuse = |outcome| {
            reading.settings.counters.count(outcome, requests.len());
            undecided(requests.len())
        };
        // What is known before the request is sent.
        let Ok(known) = reading.known() else {
            return refuse(ReplicaOutcome::Old);
        };
        let limit = self.settings.deadline / DEADLINE_PART;
        let asking = self.ask_replica(&replica, requests);
        let asked = tokio::time::timeout(limit, asking).await;
        // Other caches with longer deadlines may use the replica, too.
        let max_limit = link.replicas.longest_deadline() / DEADLINE_PART;
        let Ok(Ok(reply)) = asked else {
            if asked.is_ok() || limit >= max_limit {
                replica.discard();
            }
            return refuse(ReplicaOutcome::Failed);
        };
        match self.decide(reading, &known, requests, reply) {
            Ok(replies) => {
                let (counters, served) = (&reading.settings.counters, replies.iter().flatten());
                let served = served.count();
                counters.count(ReplicaOutcome::Served, served);
                counters.count(ReplicaOutcome::Undecided, requests.len() - served);
                replies
            }
            Err(Refusal::Old) => refuse(ReplicaOutcome::Old),
            Err(Refusal::Behind) => {
                // It is usually behind for a moment after a change.
                let long_ago = Instant::now().checked_sub(limit.max(max_limit));
                if long_ago.is_some_and(|long_ago| known.is_from_before(long_ago)) {
                    replica.discard();
                }
                refuse(ReplicaOutcome::Behind)
            }
        }
    }

    /// Asks a replica for entries and the state.
    async fn ask_replica(
        &self,
        replica: &UsableReplica,
        requests: &[&LookupRequest<'_>],
    ) -> Result<ReplicaReply, RemoteError> {
        let mut call = redis::cmd("MGET");
        for request in requests {
            call.arg(self.names.entry(request.key));
        }
        call.arg(&self.names.state);
        let mut connection = replica.connection.clone();
        let values: Vec<Value> = call.query_async(&mut connection).await?;
        let mut values: Vec<_> = values.into_iter().map(bytes).collect();
        Ok(ReplicaReply {
            state: values.pop().flatten().unwrap_or_default(),
            entries: values,
        })
    }

    /// Decides about the reply of a replica. Returns for each request the value, or `None` if the primary has to serve
    /// it.
    fn decide(
        &self,
        reading: &ReplicaReading,
        known: &Known<Instant>,
        requests: &[&LookupRequest<'_>],
        reply: ReplicaReply,
    ) -> Result<Vec<Option<LookupReply>>, Refusal> {
        let primary = reading.primary.lock().clone().ok_or(Refusal::Old)?;
        let state = State::parse(&reply.state).ok_or(Refusal::Behind)?;
        if !self.is_valid(&state, &primary) {
            return Err(Refusal::Behind);
        }
        let current_at = known.check(state.position(), reading.oldest()?)?;
        self.plain_reads.note_largest(&state);
        let now = primary.clock.latest_time(2 * self.settings.read_lease);
        let decide = |(request, entry): (&&LookupRequest<'_>, Option<Vec<u8>>)| {
            let entry = entry.filter(|entry| self.is_readable(entry))?;
            let is_alive = |left: &Option<Duration>| left.is_none_or(|left| !left.is_zero());
            match state.decide(request, entry, false, now?)? {
                LookupReply::Value {
                    envelope,
                    left,
                    version,
                    ..
                    // A replica may have a value for longer than its primary.
                } if is_alive(&left) => {
                    self.value_size.note(envelope.len());
                    Some(LookupReply::Value {
                        envelope,
                        left,
                        version,
                        current_at: Some(current_at),
                    })
                }
                _ => None,
            }
        };
        let mut entries = reply.entries.into_iter();
        let entries = requests
            .iter()
            .map(|request| (request, entries.next().flatten()));
        Ok(entries.map(decide).collect())
    }
}

/// The reply of a replica.
struct ReplicaReply {
    entries: Vec<Option<Vec<u8>>>,
    state: Vec<u8>,
}
