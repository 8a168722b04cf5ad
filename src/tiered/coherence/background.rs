//! What runs in the background: the subscription and its proof, the outbox, and probes of what fails.

use crate::clock::saturating_nanos;
use crate::tiered::coherence::event_sequence::{Effect, EventSequence};
use crate::tiered::coherence::read_lease::now;
use crate::tiered::health::{Warning, count};
use crate::tiered::l2::remote::{Message, Messages, Peer, Position, RemoteError};
use crate::tiered::load_lease::Release;
use crate::tiered::log::{StateChange, log};
use crate::tiered::{Consistency, Inner, RemoteKey, RemoteValue};
use futures_util::future::join_all;
use std::collections::HashSet;
use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

/// How often it is tried to subscribe, at least.
const RETRY: Duration = Duration::from_millis(500);

/// Messages that are handled before their senders are told.
const BATCH: usize = 1_024;

/// The tasks of a cache. They end with it.
pub(crate) struct BackgroundTasks {
    tasks: [JoinHandle<()>; 3],
    leave: Box<dyn Fn() + Send + Sync>,
}

impl BackgroundTasks {
    pub(crate) fn start<K: RemoteKey, V: RemoteValue>(inner: &Arc<Inner<K, V>>) -> Self {
        let start = &inner.runtime;
        let leaving = Arc::clone(inner);
        Self {
            tasks: [
                start.spawn(Listening::new(inner).run()),
                start.spawn(send(Arc::clone(inner))),
                start.spawn(give_back(Arc::clone(inner))),
            ],
            leave: Box::new(move || drop(leaving.runtime.spawn(leave(Arc::clone(&leaving))))),
        }
    }
}

impl Drop for BackgroundTasks {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
        (self.leave)();
    }
}

/// How it is with the backplane, for [`Health`](crate::tiered::Health).
#[derive(Default)]
pub(crate) struct Proof {
    /// Since when invalidations are proven to arrive.
    pub(crate) since: Option<Instant>,
    pub(crate) gaps: u64,
    /// Why the last subscription ended, or there was none.
    pub(crate) lost: Option<RemoteError>,
    pub(crate) subscriptions: u64,
}

/// The one who listens.
struct Listening<K, V> {
    inner: Arc<Inner<K, V>>,
    events: EventSequence,
    /// Whom to tell how far was heard.
    senders: HashSet<Peer>,
    /// What was last told of the subscription, and of the proof.
    told: Told,
}

#[derive(Default)]
struct Told {
    subscribed: Option<bool>,
    proven: bool,
}

impl<K: RemoteKey, V: RemoteValue> Listening<K, V> {
    fn new(inner: &Arc<Inner<K, V>>) -> Self {
        // The server's lease lasts a little longer, lest its clock runs faster.
        let read_lease = saturating_nanos(inner.settings.read_lease() / 50 * 49);
        Self {
            inner: Arc::clone(inner),
            events: EventSequence::new(inner.me, read_lease),
            senders: HashSet::new(),
            told: Told::default(),
        }
    }

    async fn run(mut self) {
        let mut retry = interval(self.inner.settings.heartbeat.min(RETRY));
        retry.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            retry.tick().await;
            let lost = match self.inner.l2.subscribe().await {
                Ok(messages) => {
                    self.inner.proof.lock().subscriptions += 1;
                    self.told.subscribed = Some(true);
                    log(self.inner.name(), &StateChange::Subscribed);
                    self.events.reset();
                    let Err(lost) = self.listen(messages).await;
                    self.distrust();
                    lost
                }
                Err(error) => error,
            };
            if self.told.subscribed.replace(false) != Some(false) {
                log(self.inner.name(), &StateChange::NotSubscribed(&lost));
            }
            self.inner.proof.lock().lost = Some(lost);
            self.check();
        }
    }

    /// A cache that nobody asks for anything is to know as well that Redis does not answer.
    fn check(&self) {
        let inner = Arc::clone(&self.inner);
        self.inner
            .runtime
            .spawn(async move { inner.l2.check().await });
    }

    /// Logs whether invalidations are proven to arrive, if that has changed.
    fn log_proof(&mut self) {
        let proven = self.inner.read_lease.is_proven(now());
        if std::mem::replace(&mut self.told.proven, proven) != proven {
            let change = if proven {
                StateChange::Proven
            } else {
                StateChange::Unproven
            };
            log(self.inner.name(), &change);
        }
    }

    fn distrust(&mut self) {
        self.inner.read_lease.revoke();
        self.inner.proof.lock().since = None;
        self.log_proof();
        // Who waits for another process polls from now on.
        self.inner.waiters_by_key.wake_all();
    }

    /// Listens until the connection is lost, or says nothing for so long that it must be.
    async fn listen(&mut self, mut messages: Box<dyn Messages>) -> Result<Infallible, RemoteError> {
        let heartbeat = self.inner.settings.heartbeat;
        let silence = saturating_nanos(self.inner.settings.read_lease());
        let mut beats = interval(heartbeat);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                message = messages.next() => {
                    self.hear_or_forget(&message?);
                    for _ in 0..BATCH {
                        let Some(message) = messages.try_next() else { break };
                        self.hear_or_forget(&message);
                    }
                    self.acknowledge();
                    self.log_proof();
                }
                _ = beats.tick() => {
                    self.log_proof();
                    let now = now();
                    let asked = self.events.waits_since();
                    if asked.is_some_and(|asked| now.saturating_sub(asked) > silence) {
                        return Err(RemoteError::Timeout);
                    }
                    self.renew(now);
                }
            }
        }
    }

    /// Asks for the lease on L1 again. What comes of it comes as a message.
    fn renew(&mut self, now: u64) {
        let inner = Arc::clone(&self.inner);
        let nonce = self.events.ask(now);
        self.inner.runtime.spawn(async move {
            let lease = inner.settings.read_lease();
            let _ = inner.l2.renew(nonce, lease).await;
        });
    }

    /// User code runs where entries are removed. If it panics, not all may have been.
    fn hear_or_forget(&mut self, message: &Message) {
        if catch_unwind(AssertUnwindSafe(|| self.hear(message))).is_err() {
            self.inner.read_lease.revoke();
            self.inner.l1.forget();
        }
    }

    fn hear(&mut self, message: &Message) {
        let inner = &self.inner;
        match message {
            Message::Acknowledgement { by, at } => inner.acks.note(*by, *at),
            Message::Filled(key) => inner.waiters_by_key.wake(key),
            Message::Event { .. } | Message::Heartbeat { .. } | Message::Foreign => {}
        }
        match self.events.hear(message) {
            Effect::Nothing => {}
            Effect::Invalidate { subject, sender } => {
                inner.apply(&subject);
                count(&inner.counters.events);
                self.senders.insert(sender);
            }
            Effect::Forget { until } => {
                inner.read_lease.revoke();
                count(&inner.counters.forgets);
                // What was held, and what is being loaded now, is not served from here on.
                inner.l1.forget();
                inner.waiters_by_key.wake_all();
                let mut proof = inner.proof.lock();
                let missed = std::mem::replace(&mut proof.gaps, self.events.gaps);
                let missed = missed < self.events.gaps;
                proof.since = until.map(|_| Instant::now());
                proof.lost = None;
                drop(proof);
                if let Some(until) = until {
                    inner.read_lease.grant(until);
                }
                if missed {
                    log(inner.name(), &StateChange::Gap);
                }
            }
            Effect::ReadLease { until } => {
                let mut proof = inner.proof.lock();
                if proof.since.is_none() || !inner.read_lease.is_proven(now()) {
                    proof.since = Some(Instant::now());
                }
                drop(proof);
                inner.read_lease.grant(until);
            }
        }
    }

    /// Tells those who have written, and wait for it, how far was heard.
    fn acknowledge(&mut self) {
        let is_awaited = self.inner.settings.consistency == Consistency::Realtime;
        let senders: Vec<Peer> = self.senders.drain().collect();
        let Some(heard) = self.events.heard().filter(|_| is_awaited) else {
            return;
        };
        if !senders.is_empty() {
            let inner = Arc::clone(&self.inner);
            self.inner.runtime.spawn(acknowledge(inner, senders, heard));
        }
    }
}

async fn acknowledge<K: RemoteKey, V: RemoteValue>(
    inner: Arc<Inner<K, V>>,
    senders: Vec<Peer>,
    heard: Position,
) {
    // If that fails they wait until the lease is over.
    let _ = inner.l2.acknowledge(&senders, heard).await;
}

/// Nobody needs to wait for this process, to hear of anything or to load.
async fn leave<K: RemoteKey, V: RemoteValue>(inner: Arc<Inner<K, V>>) {
    // What fails ends with its lease.
    let _ = inner.l2.renew(0, Duration::ZERO).await;
    let _ = inner.release(&inner.releases.take()).await;
}

/// What others set, as it was when it was last looked at.
struct Settings {
    rollout: (f64, bool),
    warnings: Vec<Warning>,
}

impl Settings {
    fn new<K, V>(inner: &Inner<K, V>) -> Self {
        Self {
            rollout: inner.settings.rollout.state(),
            warnings: Vec::new(),
        }
    }

    fn log_changes<K, V>(&mut self, inner: &Inner<K, V>) {
        let rollout = inner.settings.rollout.state();
        if std::mem::replace(&mut self.rollout, rollout) != rollout {
            let (percent, shadow) = rollout;
            log(inner.name(), &StateChange::Rollout { percent, shadow });
        }
        let lost = inner.proof.lock().lost.clone();
        let warnings = inner.warnings(lost.as_ref());
        let before = std::mem::replace(&mut self.warnings, warnings);
        for warning in self.warnings.iter().filter(|now| !before.contains(now)) {
            log(inner.name(), &StateChange::Warned(warning));
        }
        for warning in before.iter().filter(|old| !self.warnings.contains(old)) {
            log(inner.name(), &StateChange::Remedied(warning));
        }
    }
}

/// Gives leases back, and asks L2 whether it answers, as long as it does not.
async fn give_back<K: RemoteKey, V: RemoteValue>(inner: Arc<Inner<K, V>>) {
    let mut beats = interval(inner.settings.heartbeat);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut later = Vec::new();
    let mut settings = Settings::new(&inner);
    loop {
        tokio::select! {
            () = inner.releases.pushed() => {}
            _ = beats.tick() => {
                settings.log_changes(&inner);
                inner.l2.probe(inner.settings.read_lease()).await;
                later.drain(..).for_each(|release| inner.releases.put_back(release));
            }
        }
        loop {
            let leases = inner.releases.take();
            if leases.is_empty() {
                break;
            }
            if inner.release(&leases).await.is_err() {
                later.extend(leases);
                break;
            }
            later.extend(leases.into_iter().filter_map(Release::repeat));
        }
    }
}

/// Invalidations that are sent at one time.
const SENT: usize = 64;

/// Sends what is in the outbox, whenever L2 answers.
async fn send<K: RemoteKey, V: RemoteValue>(inner: Arc<Inner<K, V>>) {
    loop {
        let some = inner.pending_invalidations.first(SENT);
        if some.is_empty() {
            inner.pending_invalidations.pushed().await;
            continue;
        }
        let sending = some.into_iter().map(|(number, subject)| {
            let inner = &inner;
            async move {
                let told = inner.l2.invalidate(&subject, None).await;
                match &told {
                    Ok(_) => {
                        count(&inner.counters.invalidations);
                        if inner.pending_invalidations.done(number) {
                            log(inner.name(), &StateChange::Sent);
                        }
                    }
                    // One that is refused does not hold up the others.
                    Err(RemoteError::Refused(_) | RemoteError::Forbidden(_)) => {
                        inner.pending_invalidations.postpone(number);
                    }
                    Err(_) => {}
                }
                told.is_ok()
            }
        });
        if !join_all(sending).await.contains(&true) {
            // L2 does not answer: the breaker finds out when it does, and this asks at the same pace.
            tokio::time::sleep(inner.settings.heartbeat).await;
        }
    }
}
