//! The background tasks of a cache.

use crate::tiered::coherence::subscriber::Subscriber;
use crate::tiered::health::{Warning, count};
use crate::tiered::l2::remote::RemoteError;
use crate::tiered::load_lease::Release;
use crate::tiered::log::{StateChange, log};
use crate::tiered::partition::Partition;
use crate::tiered::{Inner, RemoteKey, RemoteValue};
use futures_util::future::join_all;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

/// The background tasks of a cache. They end when this is dropped, with the last handle of the cache.
pub(crate) struct BackgroundTasks {
    tasks: Vec<JoinHandle<()>>,
    sign_off: Box<dyn Fn() + Send + Sync>,
}

impl BackgroundTasks {
    /// Starts the tasks, in the runtime in which the cache is built.
    pub(crate) fn start<K: RemoteKey, V: RemoteValue>(inner: &Arc<Inner<K, V>>) -> Self {
        let cache = Arc::clone(inner);
        let mut tasks = vec![inner.spawn(maintain(Arc::clone(inner)))];
        for number in inner.partitions.numbers() {
            tasks.push(inner.spawn(Subscriber::new(inner, number).run()));
            tasks.push(inner.spawn(send_pending(Arc::clone(inner), number)));
        }
        Self {
            tasks,
            sign_off: Box::new(move || drop(cache.spawn(sign_off(Arc::clone(&cache))))),
        }
    }
}

impl Drop for BackgroundTasks {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
        (self.sign_off)();
    }
}

/// Ends the read lease and releases queued load leases, so that no other process waits for this one.
async fn sign_off<K: RemoteKey, V: RemoteValue>(inner: Arc<Inner<K, V>>) {
    // After a failure the leases end by their time.
    let partitions = inner.partitions.iter();
    join_all(partitions.map(|partition| partition.l2.renew(0, Duration::ZERO))).await;
    loop {
        let leases = inner.releases.take();
        if leases.is_empty() || !inner.release(leases).await.1.is_empty() {
            return;
        }
    }
}

/// The maximum number of pending invalidations that are sent at one time.
const SEND_BATCH: usize = 64;

/// Sends the pending invalidations of a partition whenever L2 answers.
async fn send_pending<K: RemoteKey, V: RemoteValue>(inner: Arc<Inner<K, V>>, number: usize) {
    let Partition {
        l2,
        pending_invalidations: pending,
        ..
    } = &inner.partitions[number];
    loop {
        let batch = pending.oldest(SEND_BATCH);
        if batch.is_empty() {
            pending.pushed().await;
            continue;
        }
        let sending = batch.into_iter().map(|(entry, subject)| {
            let inner = &inner;
            async move {
                let published = l2.invalidate(&subject, None).await;
                match &published {
                    Ok(_) => {
                        count(&inner.counters.invalidations);
                        // The next layout must get it after this one, from which values are copied.
                        for later in inner.partitions.map.written_after(number, &subject) {
                            inner.queue(&inner.partitions[later], subject.clone());
                        }
                        if pending.complete(entry) {
                            log(inner.name(), &StateChange::Sent);
                        }
                    }
                    // An invalidation that is refused must not block the others.
                    Err(RemoteError::Refused(_) | RemoteError::Forbidden(_)) => {
                        pending.postpone(entry);
                    }
                    Err(_) => {}
                }
                published.is_ok()
            }
        });
        if !join_all(sending).await.contains(&true) {
            // L2 does not answer. The circuit breaker probes it at the same interval.
            tokio::time::sleep(inner.settings.heartbeat).await;
        }
    }
}

/// Releases load leases when they are queued. At each heartbeat, probes L2 while it does not answer, and logs changed
/// settings and warnings.
async fn maintain<K: RemoteKey, V: RemoteValue>(inner: Arc<Inner<K, V>>) {
    let mut heartbeats = interval(inner.settings.heartbeat);
    heartbeats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut later = Vec::new();
    let mut logged = LoggedState::new(&inner);
    loop {
        tokio::select! {
            () = inner.releases.pushed() => {}
            _ = heartbeats.tick() => {
                logged.log_changes(&inner);
                let partitions = inner.partitions.iter();
                let registration = inner.settings.registration();
                join_all(partitions.map(|partition| partition.l2.probe(registration))).await;
                later.drain(..).for_each(|release| inner.releases.put_back(release));
            }
        }
        loop {
            let releases = inner.releases.take();
            if releases.is_empty() {
                break;
            }
            let (released, failed) = inner.release(releases).await;
            later.extend(released.into_iter().filter_map(Release::repeat));
            if !failed.is_empty() {
                later.extend(failed);
                break;
            }
        }
    }
}

/// The rollout, the percentage of moved keys and the warnings that were logged last.
struct LoggedState {
    rollout: (f64, bool),
    moved_percent: f64,
    warnings: Vec<Warning>,
}

impl LoggedState {
    fn new<K, V>(inner: &Inner<K, V>) -> Self {
        Self {
            rollout: inner.settings.rollout.state(),
            moved_percent: 0.0,
            warnings: Vec::new(),
        }
    }

    /// Logs each change since the last call.
    fn log_changes<K, V>(&mut self, inner: &Inner<K, V>) {
        let rollout = inner.settings.rollout.state();
        if std::mem::replace(&mut self.rollout, rollout) != rollout {
            let (percent, shadow) = rollout;
            log(inner.name(), &StateChange::Rollout { percent, shadow });
        }
        let percent = inner.partitions.map.moved_percent();
        #[allow(clippy::float_cmp)] // A number that was stored, or another one.
        if std::mem::replace(&mut self.moved_percent, percent) != percent {
            log(inner.name(), &StateChange::Moved { percent });
        }
        let before = std::mem::replace(&mut self.warnings, inner.warnings());
        for warning in absent_in(&before, &self.warnings) {
            log(inner.name(), &StateChange::Warned(warning));
        }
        for warning in absent_in(&self.warnings, &before) {
            log(inner.name(), &StateChange::Remedied(warning));
        }
    }
}

/// Returns the warnings whose condition is not in `others`.
fn absent_in<'a>(
    others: &'a [Warning],
    warnings: &'a [Warning],
) -> impl Iterator<Item = &'a Warning> {
    warnings
        .iter()
        .filter(|warning| !others.iter().any(|other| warning.is_same_condition(other)))
}
