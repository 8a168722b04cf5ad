//! The path of a miss: L2, the lead across processes, the loader.

use super::builder::MAX_KEY;
use super::codec::Unstorable;
use super::health::count;
use super::lease::{Granted, Lease};
use super::remote::{Answer, Ask, Fill, Head, Token};
use super::{Consistency, Inner, TierKey, TierValue, name_of};
use crate::entry::Loaded;
use crate::error::{AnyError, LoadError};
use crate::flight::future::TaskAlarm;
use crate::flight::{Permit, run_within};
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The net under words that get lost.
const POLL: Duration = Duration::from_millis(100);

/// What L2 says of a key, in the end.
pub(super) enum Found<K: 'static + Send + Sync, V: 'static + Send + Sync> {
    /// Read at this time or later.
    Value(Loaded<V>, Instant),
    /// This process loads, for all.
    Lead(Granted<K, V>),
    /// L2 cannot be asked: this process loads for itself.
    Alone,
}

/// An error among those of loaders: the wait for another process, or for a permit, took too long.
pub(super) struct TimedOut;

impl TimedOut {
    /// As callers know it.
    pub(super) fn reveal(error: LoadError<AnyError>) -> LoadError<AnyError> {
        match error {
            LoadError::Failed(error) if error.is::<Self>() => LoadError::WaitTimeout,
            error => error,
        }
    }
}

pub(super) type LoadResult<V> = Result<Loaded<V>, Arc<AnyError>>;

impl<K: TierKey, V: TierValue> Inner<K, V> {
    /// Is L2 to be asked for this key?
    pub(super) fn asks_l2(&self, key: &[u8]) -> bool {
        self.settings.consistency != Consistency::L1Only
            && key.len() <= MAX_KEY
            && !self.outbox.blocks(key)
    }

    /// Until when a caller who comes now waits.
    pub(super) fn wait_deadline(&self) -> Option<Instant> {
        Instant::now().checked_add(self.settings.wait_timeout?)
    }

    /// What an L1 flight runs.
    pub(super) async fn fetch<F>(
        self: &Arc<Self>,
        key: &K,
        load: impl FnOnce() -> F,
    ) -> LoadResult<V>
    where
        F: Future<Output = LoadResult<V>>,
    {
        let deadline = self.wait_deadline();
        let found = match name_of(key) {
            Some(name) => self.find(&name, deadline).await?,
            None => Found::Alone,
        };
        let lead = match found {
            Found::Value(loaded, asked) => return Ok(self.local(loaded, asked, asked)),
            Found::Lead(lead) => Some(lead),
            Found::Alone => {
                count(&self.counters.alone);
                None
            }
        };
        let permit = self.permit(deadline).await?;
        let begun = Instant::now();
        let enter = || permit.as_ref().map(Permit::enter);
        let loaded = run_within(enter, load, |result| result).await?;
        drop(permit);
        let stored = Instant::now();
        let kept = match lead {
            Some(lead) => self.fill(vec![(lead, &loaded)]).await[0],
            None => true,
        };
        Ok(self.keep(loaded, kept, begun, stored))
    }

    /// Asks L2 until it has a value or gives the lead, waiting for other processes.
    pub(super) async fn find(
        self: &Arc<Self>,
        name: &[u8],
        deadline: Option<Instant>,
    ) -> Result<Found<K, V>, Arc<AnyError>> {
        let mut refused = None;
        loop {
            if !self.asks_l2(name) {
                return Ok(Found::Alone);
            }
            // Before L2 is asked, so that no word is missed.
            let mut wait = self.waits.enter(name);
            let lease = Lease::ask(self, name);
            let asked = Instant::now();
            let Ok(mut answers) = self.l2.ask(&[lease.question(refused)]).await else {
                return Ok(Found::Alone);
            };
            let left = match self.read(lease, answers.pop().unwrap_or(Answer::None), asked) {
                Read::Found(found) => return Ok(found),
                Read::Refused(token) => {
                    refused = Some(token);
                    continue;
                }
                Read::Led(left) => left,
            };
            count(&self.counters.l2_waits);
            let mut most = left.min(POLL);
            if let Some(deadline) = deadline {
                let now = Instant::now();
                if now >= deadline {
                    return Err(Arc::new(TimedOut));
                }
                most = most.min(deadline - now);
            }
            wait.wait(most).await;
        }
    }

    /// What an answer means.
    pub(super) fn read(&self, lease: Lease<K, V>, answer: Answer, asked: Instant) -> Read<K, V> {
        match answer {
            Answer::Value { envelope, left } => {
                lease.close();
                if let Some(loaded) = self.decode(&envelope, left) {
                    return Read::Found(Found::Value(loaded, asked));
                }
                match Head::of(&envelope) {
                    Ok(head) => Read::Refused(head.token),
                    Err(_) => Read::Found(Found::Alone),
                }
            }
            Answer::Lead { head, oversize } => {
                count(&self.counters.l2_misses);
                if oversize {
                    count(&self.counters.unreadable);
                }
                Read::Found(Found::Lead((lease, head)))
            }
            Answer::Led { left } => {
                lease.close();
                Read::Led(left)
            }
            Answer::None => {
                lease.close();
                Read::Found(Found::Alone)
            }
        }
    }

    /// The right to load, where none is held.
    pub(super) async fn permit(
        &self,
        deadline: Option<Instant>,
    ) -> Result<Option<Permit>, Arc<AnyError>> {
        if self.bulkhead.is_passed() {
            return Ok(None);
        }
        if let Some(permit) = self.bulkhead.try_pass() {
            return Ok(Some(permit));
        }
        count(&self.counters.queued_loads);
        let mut alarm = TaskAlarm::default();
        let permit = self.bulkhead.pass(deadline, &mut alarm).await;
        permit.map(Some).map_err(|_| Arc::new(TimedOut) as _)
    }

    /// Stores in L2 what was loaded under leases. Says for each whether L1 may keep it.
    pub(super) async fn fill(&self, loaded: Vec<(Granted<K, V>, &Loaded<V>)>) -> Vec<bool> {
        let mut kept = vec![true; loaded.len()];
        let (mut places, mut envelopes, mut leases) = (Vec::new(), Vec::new(), Vec::new());
        for (at, ((lease, head), loaded)) in loaded.into_iter().enumerate() {
            match self.envelope(head, loaded) {
                Some(envelope) => {
                    places.push(at);
                    envelopes.push((envelope, loaded.ttl.or(self.settings.ttl)));
                    leases.push(lease);
                }
                // Not for L2: the lease is given back as it is dropped.
                None => drop(lease),
            }
        }
        if places.is_empty() {
            return kept;
        }
        let fills = leases.iter().zip(&envelopes);
        let fills = fills.map(|(lease, (envelope, ttl))| Fill {
            key: lease.key(),
            token: lease.token(),
            envelope,
            ttl: ttl.filter(|ttl| *ttl != Duration::MAX),
        });
        let fills: Vec<_> = fills.collect();
        // A failure leaves the leases open, to be given back. L1 may keep the value: it hears of
        // invalidations itself.
        let Ok(stored) = self.l2.fill(&fills).await else {
            return kept;
        };
        drop(fills);
        for ((at, lease), stored) in places.into_iter().zip(leases).zip(stored) {
            lease.close();
            kept[at] = stored;
            count(if stored {
                &self.counters.fills
            } else {
                &self.counters.lost_fills
            });
        }
        kept
    }

    /// The envelope of a value that is to be stored.
    pub(super) fn envelope(&self, head: Head, loaded: &Loaded<V>) -> Option<Vec<u8>> {
        let ttl = loaded.ttl.or(self.settings.ttl);
        if ttl.is_some_and(|ttl| ttl.is_zero()) {
            return None;
        }
        let envelope = self.codec.encode(head, &loaded.value, &loaded.tags, ttl);
        let unstorable = |_: &Unstorable| count(&self.counters.unstorable);
        envelope.inspect_err(unstorable).ok()
    }

    /// What is loaded, as L1 is to keep it: not at all, if it was lost.
    pub(super) fn keep(
        &self,
        mut loaded: Loaded<V>,
        kept: bool,
        begun: Instant,
        stored: Instant,
    ) -> Loaded<V> {
        if !kept {
            loaded.ttl = Some(Duration::ZERO);
            return loaded;
        }
        loaded.ttl = loaded.ttl.or(self.settings.ttl);
        self.local(loaded, begun, stored)
    }

    /// What was read and stored at these times or later, as L1 is to keep it.
    pub(super) fn local(&self, mut loaded: Loaded<V>, read: Instant, stored: Instant) -> Loaded<V> {
        let ttl = loaded.ttl.unwrap_or(Duration::MAX);
        loaded.ttl = Some(self.settings.local_ttl(ttl, read, stored));
        loaded
    }

    /// The value that L2 holds, for one who does not load.
    pub(super) async fn look_up(&self, key: &K) -> Option<V> {
        let asked = Instant::now();
        let name = name_of(key).filter(|name| self.asks_l2(name))?;
        let promise = self.l1.promise(key);
        let ask = Ask {
            key: &name,
            lead: None,
            refused: None,
        };
        let answer = self.l2.ask(&[ask]).await.ok()?.pop()?;
        let Answer::Value { envelope, left } = answer else {
            return None;
        };
        let loaded = self.decode(&envelope, left)?;
        let value = loaded.value.clone();
        promise.keep(key.clone(), self.local(loaded, asked, asked));
        Some(value)
    }

    /// The value in an envelope, which has so much `left` to live.
    fn decode(&self, envelope: &[u8], left: Option<Duration>) -> Option<Loaded<V>> {
        let Ok(loaded) = self.codec.decode(envelope) else {
            count(&self.counters.unreadable);
            return None;
        };
        count(&self.counters.l2_hits);
        Some(loaded.ttl(left.unwrap_or(Duration::MAX)))
    }
}

/// What an answer means to one who asked for the lead.
pub(super) enum Read<K: 'static + Send + Sync, V: 'static + Send + Sync> {
    Found(Found<K, V>),
    /// What this token wrote cannot be read: to be asked for the lead in its place.
    Refused(Token),
    /// Another process loads; its lease lasts for as long as this.
    Led(Duration),
}
