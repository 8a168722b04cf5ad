//! The path of a miss: L2, the lead across processes, the loader.

use crate::clock::saturating_nanos;
use crate::entry::Loaded;
use crate::error::{AnyError, LoadError};
use crate::tiered::builder::MAX_KEY;
use crate::tiered::coherence::read_lease::now;
use crate::tiered::health::count;
use crate::tiered::l2::remote::{Answer, Ask, Head, RemoteError, Token, Unreadable};
use crate::tiered::load::{Fresh, MayLoad, SHORTEST_TTL};
use crate::tiered::load_lease::{Granted, Lease};
use crate::tiered::{Consistency, Inner, RemoteKey, RemoteValue, key_of};
use crate::traits::erasure::LoadResult;
use std::future::Future;
use std::slice;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The net under words that get lost.
pub(super) const POLL: Duration = Duration::from_millis(100);

/// What L2 says of a key, in the end.
pub(super) enum Found<K, V> {
    Value(Fresh<V>),
    /// This process loads, for all.
    Lead(Granted<K, V>),
    /// L2 cannot be asked: this process loads for itself.
    Alone,
}

impl<K, V> Found<K, V> {
    /// The lead, if there is one to be had, of what is to be loaded.
    pub(super) fn into_lead(self) -> Result<Option<Granted<K, V>>, Fresh<V>> {
        match self {
            Self::Value(fresh) => Err(fresh),
            Self::Lead(lead) => Ok(Some(lead)),
            Self::Alone => Ok(None),
        }
    }
}

/// How the way to a value ends, if not with an error.
enum Approach<K, V> {
    Arrived(Fresh<V>),
    Load(Option<Granted<K, V>>, MayLoad),
}

impl<K: RemoteKey, V: RemoteValue> Inner<K, V> {
    /// Is L2 to be asked for this key?
    pub(super) fn asks_l2(&self, key: &[u8]) -> bool {
        self.settings.consistency != Consistency::L1Only
            && key.len() <= MAX_KEY
            && self.settings.rollout.routes(key)
            && self.may_ask_l2(key)
    }

    /// Does what L2 says of this key count?
    pub(super) fn may_ask_l2(&self, key: &[u8]) -> bool {
        // What has failed over may go on to answer.
        (!self.settings.fails_over || self.read_lease.is_proven(now()))
            && !self.pending_invalidations.blocks(key)
    }

    /// Returns when a caller that comes now stops waiting for the values of these keys: at its own deadline, or as soon as
    /// it accepts expired values, if there is one for each key.
    pub(super) fn wait_deadline(&self, keys: &[K]) -> Option<Instant> {
        let timeout = self.settings.wait_timeout;
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        // `None` is the least: a single key without an expired value is enough.
        let stale_from = keys.iter().map(|key| self.l1.accepts_stale_from(key));
        let stale_from = stale_from.min().flatten();
        deadline.into_iter().chain(stale_from).min()
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
        if self.settings.rollout.is_shadow() {
            return self.fetch_in_shadow(key, load).await;
        }
        let (lead, permit) = match self.approach(key).await? {
            Approach::Arrived(fresh) => return Ok(self.local(fresh)),
            Approach::Load(lead, permit) => (lead, permit),
        };
        let begun = Instant::now();
        let loaded = self.run(permit, load).await?;
        let mut fresh = vec![Fresh::loaded(loaded, begun)];
        self.fill(vec![(lead, 0)], &mut fresh).await;
        Ok(self.local(fresh.remove(0)))
    }

    /// Waits until L2 has a value, or this process may load it.
    async fn approach(self: &Arc<Self>, key: &K) -> Result<Approach<K, V>, LoadError<AnyError>> {
        let deadline = self.wait_deadline(slice::from_ref(key));
        let name = self.key_name(key);
        loop {
            let found = match &name {
                Some(name) => self.find(name, deadline).await?,
                None => Found::Alone,
            };
            let lead = match found.into_lead() {
                Ok(lead) => lead,
                Err(fresh) => return Ok(Approach::Arrived(fresh)),
            };
            if let Some(permit) = self.try_permit() {
                return Ok(Approach::Load(lead, permit));
            }
            // Who waits for a permit holds no lead, which might end before it begins.
            drop(lead);
            let permit = self.queue(deadline).await?;
            let found = match &name {
                Some(name) => self.look_again(name).await,
                None => Some(Found::Alone),
            };
            match found.map(Found::into_lead) {
                Some(Ok(lead)) => return Ok(Approach::Load(lead, permit)),
                Some(Err(fresh)) => return Ok(Approach::Arrived(fresh)),
                // Another process loads. Who waits for that holds no permit.
                None => {}
            }
        }
    }

    /// What L2 has or gives at once.
    async fn look_again(self: &Arc<Self>, name: &[u8]) -> Option<Found<K, V>> {
        let mut read = self.ask(name, None).await;
        if let Read::Refused(token) = read {
            read = self.ask(name, Some(token)).await;
        }
        match read {
            Read::Found(found) => Some(found),
            Read::Refused(_) | Read::Led(_) => None,
        }
    }

    /// Asks L2 until it has a value or gives the lead, waiting for other processes.
    pub(super) async fn find(
        self: &Arc<Self>,
        name: &[u8],
        deadline: Option<Instant>,
    ) -> Result<Found<K, V>, LoadError<AnyError>> {
        let mut refused = None;
        loop {
            // Before L2 is asked, so that no word is missed.
            let mut wait = self.waiters_by_key.enter(name);
            let left = match self.ask(name, refused).await {
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
                    return Err(LoadError::WaitTimeout);
                }
                most = most.min(deadline - now);
            }
            wait.wait(most).await;
        }
    }

    /// Asks L2 for a value, or for the lead of its load.
    pub(super) async fn ask(self: &Arc<Self>, name: &[u8], refused: Option<Token>) -> Read<K, V> {
        if !self.asks_l2(name) {
            return Read::Found(Found::Alone);
        }
        let lease = Lease::ask(self, name);
        let asked = Instant::now();
        match self.l2.ask(&[lease.question(refused)]).await {
            Ok(mut answers) => self.read(lease, answers.pop().unwrap_or(Answer::None), asked),
            Err(_) => Read::Found(Found::Alone),
        }
    }

    /// What an answer means.
    pub(super) fn read(
        &self,
        mut lease: Lease<K, V>,
        answer: Answer,
        asked: Instant,
    ) -> Read<K, V> {
        match answer {
            Answer::Value { envelope, left } => {
                let loaded = self.decode(&envelope, lease.key(), left);
                lease.close();
                if let Some(loaded) = loaded {
                    return Read::Found(Found::Value(Fresh::read(loaded, asked)));
                }
                match Head::of(&envelope) {
                    Ok(head) => Read::Refused(head.token),
                    Err(_) => Read::Found(Found::Alone),
                }
            }
            Answer::Lead { head, oversize } => {
                count(&self.counters.l2_misses);
                if oversize {
                    self.note_unreadable(Unreadable::TooLarge);
                }
                lease.grant();
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

    /// The value that L1 or L2 holds, for one who does not load.
    pub(super) async fn look_up(&self, key: &K) -> Option<V> {
        let found = self.look_up_many(slice::from_ref(key)).await;
        found.ok()?.pop()?
    }

    /// The values of several keys that L1 or L2 holds, in one round trip, for one who does not load.
    pub(super) async fn look_up_many(&self, keys: &[K]) -> Result<Vec<Option<V>>, RemoteError> {
        let may_serve = self.may_serve(now());
        let held = |key| {
            if may_serve {
                self.l1.get(key)
            } else {
                self.l1.miss();
                None
            }
        };
        let mut values: Vec<_> = keys.iter().map(held).collect();
        let missing = (keys.iter().zip(&mut values)).filter(|(_, value)| value.is_none());
        let is_served = !self.settings.rollout.is_shadow();
        let missing = missing.filter_map(|(key, value)| {
            // Before it is known whether L2 may be asked: an invalidation that comes in between voids it.
            let promise = self.l1.promise(key);
            let name = self
                .key_name(key)
                .filter(|name| is_served && self.asks_l2(name))?;
            Some((key, value, promise, name))
        });
        let missing: Vec<_> = missing.collect();
        if missing.is_empty() {
            return Ok(values);
        }
        let asked = Instant::now();
        let asks = missing.iter().map(|(_, _, _, name)| Ask {
            key: name,
            lead: None,
            refused: None,
            head_only: false,
        });
        let answers = self.l2.ask(&asks.collect::<Vec<_>>()).await?;
        for ((key, value, promise, name), answer) in missing.into_iter().zip(answers) {
            let Answer::Value { envelope, left } = answer else {
                count(&self.counters.l2_misses);
                continue;
            };
            if let Some(loaded) = self.decode(&envelope, &name, left) {
                *value = Some(loaded.value.clone());
                promise.keep(key.clone(), self.local(Fresh::read(loaded, asked)));
            }
        }
        Ok(values)
    }

    /// Returns the value in an envelope under the key of this name, which has so much `left` to live.
    fn decode(&self, envelope: &[u8], name: &[u8], left: Option<Duration>) -> Option<Loaded<V>> {
        let decoded = self.codec.decode(envelope, &key_of(name)?);
        let decoded = decoded.inspect_err(|why| self.note_unreadable(*why));
        let mut loaded = decoded.ok()?;
        count(&self.counters.l2_hits);
        if let (Some(ttl), Some(left)) = (loaded.ttl, left) {
            // By the server's clock, which all share.
            loaded.age = saturating_nanos(ttl.saturating_sub(left));
        }
        // Redis counts milliseconds: if none is left, the value is still one that is cached.
        let ttl = left.map_or(Duration::MAX, |left| left.max(SHORTEST_TTL));
        Some(loaded.ttl(ttl))
    }
}

/// What an answer means to one who asked for the lead.
pub(super) enum Read<K, V> {
    Found(Found<K, V>),
    /// What this token wrote cannot be read: to be asked for the lead in its place.
    Refused(Token),
    /// Another process loads; its lease lasts for as long as this.
    Led(Duration),
}
