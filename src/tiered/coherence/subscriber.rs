//! The subscription to invalidations.

use crate::clock::saturating_nanos;
use crate::consistency::Consistency;
use crate::tiered::coherence::event_sequence::{Effect, EventSequence};
use crate::tiered::coherence::read_lease::now;
use crate::tiered::health::count;
use crate::tiered::l2::remote::{Incarnation, Message, Messages, NO_PEER, Peer, RemoteError};
use crate::tiered::log::{StateChange, log};
use crate::tiered::partition::Partition;
use crate::tiered::{Inner, RemoteKey, RemoteValue};
use std::collections::HashSet;
use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};
use tokio::time::{Interval, MissedTickBehavior, interval, interval_at};

/// The longest interval between attempts to subscribe.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);

/// The number of messages that are received before their senders get an acknowledgement.
const RECEIVE_BATCH: usize = 1_024;

/// Returns an interval whose ticks coincide in all caches of the process with the same period, so that their heartbeats
/// share a round trip. Those of other processes are at other times.
fn common_interval(period: Duration) -> Interval {
    static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);
    let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let since_tick = nanos(ORIGIN.elapsed()) % nanos(period);
    let until_tick = period.saturating_sub(Duration::from_nanos(since_tick));
    let mut ticks = interval_at(tokio::time::Instant::now() + until_tick, period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    ticks
}

/// The state of the subscription, for [`Health`](crate::tiered::Health).
#[derive(Default)]
pub(crate) struct Proof {
    /// The time since which invalidations are proven to arrive.
    pub(crate) since: Option<Instant>,
    pub(crate) gaps: u64,
    /// The reason why there is no subscription.
    pub(crate) not_subscribed: Option<RemoteError>,
    pub(crate) subscriptions: u64,
    /// The incarnation of the partition in L2.
    incarnation: Option<Incarnation>,
    /// The time at which the partition began another incarnation, which has no values.
    pub(crate) cold_since: Option<Instant>,
}

/// The task that receives the invalidations of a partition, applies them to L1, and renews the read lease.
pub(crate) struct Subscriber<K, V> {
    inner: Arc<Inner<K, V>>,
    /// The number of the partition.
    number: usize,
    events: EventSequence,
    /// The senders of the events since the last acknowledgement.
    senders: HashSet<Peer>,
    logged: LoggedState,
}

/// The state of the subscription and of the proof that was logged last.
#[derive(Default)]
struct LoggedState {
    subscribed: Option<bool>,
    proven: bool,
}

impl<K: RemoteKey, V: RemoteValue> Subscriber<K, V> {
    /// Creates the subscriber of the partition with this number.
    pub(crate) fn new(inner: &Arc<Inner<K, V>>, number: usize) -> Self {
        // Shorter by 2 % than on the server, whose clock may be faster.
        let read_lease = saturating_nanos(inner.settings.read_lease() / 50 * 49);
        Self {
            inner: Arc::clone(inner),
            number,
            events: EventSequence::new(inner.me, read_lease),
            senders: HashSet::new(),
            logged: LoggedState::default(),
        }
    }

    fn partition(&self) -> &Partition {
        &self.inner.partitions[self.number]
    }

    /// Subscribes, again after each loss of the connection, and receives messages.
    pub(crate) async fn run(mut self) {
        let mut retry = interval(self.inner.settings.heartbeat.min(RETRY_INTERVAL));
        retry.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            retry.tick().await;
            let error = match self.partition().l2.subscribe().await {
                Ok(messages) => {
                    self.partition().proof.lock().subscriptions += 1;
                    self.logged.subscribed = Some(true);
                    log(self.inner.name(), &StateChange::Subscribed);
                    self.events.resubscribe();
                    let Err(error) = self.receive_all(messages).await;
                    self.revoke_lease();
                    error
                }
                Err(error) => error,
            };
            if self.logged.subscribed.replace(false) != Some(false) {
                log(self.inner.name(), &StateChange::NotSubscribed(&error));
            }
            self.partition().proof.lock().not_subscribed = Some(error);
            self.check();
        }
    }

    /// Calls L2 in the background, so that a cache without requests detects an outage too.
    fn check(&self) {
        let inner = Arc::clone(&self.inner);
        let number = self.number;
        self.inner
            .spawn(async move { inner.partitions[number].l2.check().await });
    }

    /// Logs whether invalidations are proven to arrive, if that has changed.
    fn log_proof(&mut self) {
        let proven = self.inner.read_lease.is_proven(self.number, now());
        if std::mem::replace(&mut self.logged.proven, proven) != proven {
            let change = if proven {
                StateChange::Proven
            } else {
                StateChange::Unproven
            };
            log(self.inner.name(), &change);
        }
    }

    fn revoke_lease(&mut self) {
        self.inner.read_lease.revoke(self.number);
        self.partition().proof.lock().since = None;
        self.log_proof();
        // Callers that wait for another process have to poll from now on.
        self.inner.key_waiters.wake_all();
    }

    /// Receives messages until the connection fails, or no heartbeat arrives for longer than a read lease.
    async fn receive_all(
        &mut self,
        mut messages: Box<dyn Messages>,
    ) -> Result<Infallible, RemoteError> {
        let mut heartbeats = common_interval(self.inner.settings.heartbeat);
        self.request_lease(now());
        loop {
            tokio::select! {
                biased;
                message = messages.next() => {
                    self.receive_or_invalidate(&message?);
                    for _ in 0..RECEIVE_BATCH {
                        let Some(message) = messages.try_next() else { break };
                        self.receive_or_invalidate(&message);
                    }
                    self.acknowledge();
                    self.log_proof();
                }
                _ = heartbeats.tick() => {
                    self.log_proof();
                    let now = now();
                    if self.events.is_lost(now) {
                        messages.close_if_silent();
                        return Err(RemoteError::Timeout);
                    }
                    self.request_lease(now);
                }
            }
        }
    }

    /// Requests a heartbeat, and registers this process as a reader in the class `Realtime`. The answer arrives as a
    /// message.
    fn request_lease(&mut self, now: u64) {
        let inner = Arc::clone(&self.inner);
        let (nonce, number) = (self.events.request_lease(now), self.number);
        self.inner.spawn(async move {
            let l2 = &inner.partitions[number].l2;
            let _ = l2.renew(nonce, inner.settings.registration()).await;
            if l2.is_refused() {
                inner.read_lease.revoke(number);
            }
        });
    }

    /// Receives a message. If user code panics, which runs where entries are removed, the invalidation may be
    /// incomplete, so L1 invalidates all entries.
    fn receive_or_invalidate(&mut self, message: &Message) {
        if catch_unwind(AssertUnwindSafe(|| self.receive(message))).is_err() {
            self.inner.read_lease.revoke(self.number);
            self.inner.invalidate_partition(self.number);
        }
    }

    fn receive(&mut self, message: &Message) {
        let inner = &self.inner;
        match message {
            Message::Acknowledgement { by, at } => self.partition().acks.record(*by, *at),
            Message::LoadEnded(key) => inner.key_waiters.wake(key),
            Message::Event { .. } | Message::Heartbeat { .. } | Message::Malformed => {}
        }
        match self.events.receive(message) {
            Effect::None => {}
            Effect::Invalidate { subjects, sender } => {
                for subject in &subjects {
                    inner.apply(subject);
                    count(&inner.counters.events);
                }
                if sender != NO_PEER {
                    self.senders.insert(sender);
                }
            }
            Effect::InvalidateAll { lease_until } => self.invalidate_all(lease_until),
            Effect::RenewLease { until } => {
                let mut proof = self.partition().proof.lock();
                if proof.since.is_none() || !inner.read_lease.is_proven(self.number, now()) {
                    proof.since = Some(Instant::now());
                }
                proof.not_subscribed = None;
                drop(proof);
                self.grant_lease(until);
            }
        }
    }

    /// Grants the read lease, except while calls are refused because other processes use another number of partitions.
    /// A heartbeat can overtake the reply that ends a refusal. It grants no lease, because calls still fail at that
    /// moment; the next heartbeat does.
    fn grant_lease(&self, until: u64) {
        if !self.partition().l2.is_refused() {
            self.inner.read_lease.grant(self.number, until);
        }
    }

    /// Invalidates the entries of the partition in L1, and the loads in flight, because events are missing or may be.
    fn invalidate_all(&self, lease_until: Option<u64>) {
        let inner = &self.inner;
        inner.read_lease.revoke(self.number);
        count(&inner.counters.l1_invalidations);
        // The lease is granted after the invalidation, so a reader that sees the lease sees the invalidation.
        inner.invalidate_partition(self.number);
        inner.key_waiters.wake_all();
        let mut proof = self.partition().proof.lock();
        let gaps = std::mem::replace(&mut proof.gaps, self.events.gaps);
        proof.since = lease_until.map(|_| Instant::now());
        proof.not_subscribed = None;
        let incarnation = self.events.position().map(|at| at.incarnation);
        let last = std::mem::replace(&mut proof.incarnation, incarnation);
        if last.is_some() && last != incarnation {
            proof.cold_since = Some(Instant::now());
            count(&inner.counters.cold_partitions);
        }
        drop(proof);
        if let Some(until) = lease_until {
            self.grant_lease(until);
        }
        if gaps < self.events.gaps {
            log(inner.name(), &StateChange::Gap);
        }
    }

    /// Sends an acknowledgement of the events that this process has applied to their senders. Only writers in the class
    /// `Realtime` wait for one.
    fn acknowledge(&mut self) {
        let is_awaited = self.inner.settings.consistency == Consistency::Realtime;
        let senders: Vec<Peer> = self.senders.drain().collect();
        let Some(position) = self.events.position().filter(|_| is_awaited) else {
            return;
        };
        if !senders.is_empty() {
            let (inner, number) = (Arc::clone(&self.inner), self.number);
            self.inner.spawn(async move {
                // After a failure the senders wait until this process's read lease ends.
                let _ = inner.partitions[number]
                    .l2
                    .acknowledge(&senders, position)
                    .await;
            });
        }
    }
}
