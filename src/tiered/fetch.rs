//! The path of a miss in L1: it asks L2 for the value or the load lease, and runs the loader if there is no value.

use crate::clock::{precise_now, saturating_nanos};
use crate::consistency::Consistency;
use crate::entry::Loaded;
use crate::error::{AnyError, LoadError};
use crate::local::tier_hooks::WaitLimits;
use crate::tiered::builder::MAX_KEY_LEN;
use crate::tiered::coherence::read_lease::now;
use crate::tiered::health::count;
use crate::tiered::l2::remote::{Head, LookupReply, RemoteError, Token, Unreadable};
use crate::tiered::load::Fetched;
use crate::tiered::load_lease::{LeaseRequest, LoadLease};
use crate::tiered::refresh_by_rule::DueForRefresh;
use crate::tiered::{Inner, RemoteKey, RemoteValue, key_of};
use crate::traits::erasure::LoadResult;
use std::future::Future;
use std::slice;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::coop::consume_budget;

/// The interval at which a caller that waits for another process asks L2 again, in case a notification is lost.
pub(super) const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// The answer of L2 to a caller that loads the key if there is no value.
pub(super) enum L2Answer<K, V> {
    /// L2 has a value.
    Value(Fetched<V>),
    /// L2 has no value and has granted the load lease: this process loads for all processes.
    LoadLease(LoadLease<K, V>),
    /// Another process has the load lease, for at most this long.
    LeasedElsewhere(Duration),
    /// L2 has a value that this process cannot read, written under this token. The caller may ask for a lease to
    /// replace it.
    Unreadable(Token),
    /// L2 may not be asked, or has given no usable answer: this process loads for itself.
    L2Unavailable,
}

/// Returns the time after which a caller that waits for another process asks L2 again. The lease of that process ends
/// after `lease_left` at the latest.
///
/// # Errors
///
/// Returns [`LoadError::WaitTimeout`] if the deadline has passed.
pub(super) fn time_to_poll(
    lease_left: Duration,
    deadline: Option<Instant>,
) -> Result<Duration, LoadError<AnyError>> {
    let timeout = lease_left.min(POLL_INTERVAL);
    let Some(deadline) = deadline else {
        return Ok(timeout);
    };
    let left = deadline.saturating_duration_since(precise_now());
    if left.is_zero() {
        return Err(LoadError::WaitTimeout);
    }
    Ok(timeout.min(left))
}

impl<K: RemoteKey, V: RemoteValue> Inner<K, V> {
    /// Checks whether this key is stored in L2, and L2 may be asked for it now.
    pub(super) fn uses_l2(&self, key: &[u8]) -> bool {
        self.settings.consistency != Consistency::L1Only
            && key.len() <= MAX_KEY_LEN
            && self.settings.rollout.routes(key)
            && self.trusts_l2(key)
    }

    /// Checks whether a value that L2 returns for this key may be served.
    pub(super) fn trusts_l2(&self, key: &[u8]) -> bool {
        // A demoted primary may still answer, so an answer counts only while invalidations are proven to arrive.
        let map = &self.partitions.map;
        let now = now();
        map.is_known()
            && map.numbers_of(key).all(|number| {
                (!self.settings.fails_over || self.read_lease.is_proven(number, now))
                    && !self.partitions[number].pending_invalidations.covers(key)
            })
    }

    /// Returns the time at which a caller with these limits stops waiting for the values of these keys: its deadline
    /// or, if each key has an expired value, the time from which it accepts them, whichever is earlier.
    pub(super) fn end_of_wait(&self, keys: &[K], limits: WaitLimits) -> Option<Instant> {
        let stale_from = limits.stale_from;
        let stale_from = stale_from.filter(|_| keys.iter().all(|key| self.l1.has_stale(key)));
        limits.deadline.into_iter().chain(stale_from).min()
    }

    /// Returns the value from L2, or loads it. Called by the leader of a load in L1.
    pub(super) async fn fetch<F>(
        self: &Arc<Self>,
        key: &K,
        limits: WaitLimits,
        due: &DueForRefresh,
        load: impl FnOnce() -> F,
    ) -> LoadResult<V>
    where
        F: Future<Output = LoadResult<V>>,
    {
        if self.settings.rollout.is_shadow() {
            return self.fetch_in_shadow(key, limits, load).await;
        }
        let deadline = self.end_of_wait(slice::from_ref(key), limits);
        let name = self.key_name(key);
        let mut permit = None;
        let (lease, permit) = loop {
            let answer = match &name {
                None => L2Answer::L2Unavailable,
                Some(name) if permit.is_some() => self.ask_to_replace(name).await,
                Some(name) => self.ask_until_decided(name, deadline).await?,
            };
            let lease = match answer {
                L2Answer::Value(fetched) => {
                    if let Some(name) = &name {
                        self.note_if_due(due, name, &fetched.loaded);
                    }
                    return Ok(self.for_l1(fetched));
                }
                L2Answer::LoadLease(lease) => Some(lease),
                L2Answer::L2Unavailable => None,
                // Another process loads. A caller releases its permit before it waits for that.
                L2Answer::LeasedElsewhere(_) | L2Answer::Unreadable(_) => {
                    permit = None;
                    continue;
                }
            };
            if let Some(permit) = permit.take().or_else(|| self.try_permit()) {
                break (lease, permit);
            }
            // A caller releases the lease before it waits for a permit, because the lease might end before the load
            // begins.
            drop(lease);
            permit = Some(self.wait_for_permit(deadline).await?);
        };
        let fetched = self.load_and_fill(key, permit, lease, load).await?;
        Ok(self.for_l1(fetched))
    }

    /// Asks L2 until it has a value or grants the lease, and waits for other processes meanwhile.
    async fn ask_until_decided(
        self: &Arc<Self>,
        name: &[u8],
        deadline: Option<Instant>,
    ) -> Result<L2Answer<K, V>, LoadError<AnyError>> {
        let mut unreadable = None;
        loop {
            // The waiter is registered before L2 is asked, so that no notification is missed.
            let mut wait = self.key_waiters.register(name);
            let lease_left = match self.ask(name, unreadable).await {
                L2Answer::LeasedElsewhere(left) => left,
                L2Answer::Unreadable(token) => {
                    unreadable = Some(token);
                    continue;
                }
                answer => return Ok(answer),
            };
            count(&self.counters.l2_waits);
            wait.wait(time_to_poll(lease_left, deadline)?).await;
        }
    }

    /// Asks L2 once. If L2 has an unreadable value, asks again, for the lease to replace that value.
    async fn ask_to_replace(self: &Arc<Self>, name: &[u8]) -> L2Answer<K, V> {
        match self.ask(name, None).await {
            L2Answer::Unreadable(token) => self.ask(name, Some(token)).await,
            answer => answer,
        }
    }

    /// Asks L2 for a value, or for the lease to load it. A value that was written under the token `unreadable` counts
    /// as absent.
    pub(super) async fn ask(
        self: &Arc<Self>,
        name: &[u8],
        unreadable: Option<Token>,
    ) -> L2Answer<K, V> {
        if !self.uses_l2(name) {
            return L2Answer::L2Unavailable;
        }
        let request = LeaseRequest::new(self, name);
        let asked = Instant::now();
        let l2 = &self.partitions[request.partition()].l2;
        let answer = match l2.lookup(&[request.lookup_request(unreadable)]).await {
            Ok(mut answers) => {
                self.read(request, answers.pop().unwrap_or(LookupReply::None), asked)
            }
            Err(_) => L2Answer::L2Unavailable,
        };
        match answer {
            L2Answer::LoadLease(lease) if self.copies(&lease) => self.copy_value(lease).await,
            answer => answer,
        }
    }

    /// Decodes the answer to a request that was sent at `asked`.
    pub(super) fn read(
        &self,
        request: LeaseRequest<K, V>,
        answer: LookupReply,
        asked: Instant,
    ) -> L2Answer<K, V> {
        match answer {
            LookupReply::Value {
                envelope,
                left,
                current_at,
                ..
            } => {
                let loaded = self.decode(&envelope, request.key(), left);
                request.close();
                match loaded {
                    Some(loaded) => {
                        L2Answer::Value(Fetched::found(loaded, asked).since(current_at))
                    }
                    None => Head::of(&envelope).map_or(L2Answer::L2Unavailable, |head| {
                        L2Answer::Unreadable(head.token)
                    }),
                }
            }
            LookupReply::LeaseGranted { head, oversize } => {
                count(&self.counters.l2_misses);
                if oversize {
                    self.note_unreadable(Unreadable::TooLarge);
                }
                L2Answer::LoadLease(request.granted(head))
            }
            LookupReply::LeasedElsewhere { left } => {
                request.close();
                L2Answer::LeasedElsewhere(left)
            }
            LookupReply::None => {
                request.close();
                L2Answer::L2Unavailable
            }
        }
    }

    /// Returns the values of several keys from L1 and L2, in one round trip, without loading.
    pub(super) async fn look_up_many(&self, keys: &[K]) -> Result<Vec<Option<V>>, RemoteError> {
        let mut values = self.look_up_many_in_l1(keys);
        self.look_up_in_l2(keys, &mut values).await?;
        Ok(values)
    }

    /// Returns the values of several keys from L1, and counts a hit or a miss for each.
    pub(super) fn look_up_many_in_l1(&self, keys: &[K]) -> Vec<Option<V>> {
        let may_serve = self.may_serve(now());
        let look_up = |key| {
            if may_serve {
                self.l1.get(key)
            } else {
                self.l1.miss();
                None
            }
        };
        keys.iter().map(look_up).collect()
    }

    /// Completes the values that were found in L1 by those in L2, as far as L2 answers.
    pub(super) async fn look_up_many_missing(
        &self,
        keys: &[K],
        mut values: Vec<Option<V>>,
    ) -> Vec<Option<V>> {
        // A failure of L2 does not fail a read. It is counted, and visible in the health.
        let _ = self.look_up_in_l2(keys, &mut values).await;
        values
    }

    /// Returns the value of a key that was not found in L1 from L2, without loading.
    pub(super) async fn look_up_missing(&self, key: K) -> Option<V> {
        let mut value = [None];
        self.look_up_in_l2(&[key], &mut value).await.ok()?;
        let [value] = value;
        value
    }

    /// Returns the remaining time to live of a key's value in L2, or `None` if L2 has no readable value.
    pub(super) async fn remaining_ttl_in_l2(&self, key: K) -> Option<Duration> {
        let is_served = !self.settings.rollout.is_shadow();
        let name = self.key_name(&key);
        let Some(name) = name.filter(|name| is_served && self.uses_l2(name)) else {
            // Without this, a loop around the call would keep the runtime's thread for itself.
            consume_budget().await;
            return None;
        };
        let reply = self.look_up_names(&[&name], false).await.pop()?.ok()?;
        if let LookupReply::Value { envelope, left, .. } = reply {
            self.decode(&envelope, &name, left)?;
            // L2 counts whole milliseconds, so nothing may be left of a value that it still has.
            Some(left.unwrap_or(Duration::MAX)).filter(|left| !left.is_zero())
        } else {
            count(&self.counters.l2_misses);
            None
        }
    }

    /// Looks up in L2 the keys that have no value yet, and stores in L1 the values that are found. Returns an error if
    /// some of the keys could not be looked up.
    async fn look_up_in_l2(&self, keys: &[K], values: &mut [Option<V>]) -> Result<(), RemoteError> {
        let is_served = !self.settings.rollout.is_shadow();
        let missing: Vec<_> = keys
            .iter()
            .zip(values)
            .filter(|(_, value)| value.is_none())
            .filter_map(|(key, value)| {
                // The insertion is begun before `uses_l2` is checked, so that an invalidation after the check
                // prevents it.
                let insertion = self.l1.begin_insertion(key);
                let name = self
                    .key_name(key)
                    .filter(|name| is_served && self.uses_l2(name))?;
                Some((key, value, insertion, name))
            })
            .collect();
        if missing.is_empty() {
            // Without this, a loop around the call would keep the runtime's thread for itself.
            consume_budget().await;
            return Ok(());
        }
        let asked = Instant::now();
        let names: Vec<&[u8]> = missing.iter().map(|(_, _, _, name)| &**name).collect();
        let may_be_old = self.settings.reads_from_replicas();
        let answers = self.look_up_names(&names, may_be_old).await;
        let mut failure = None;
        for ((key, value, insertion, name), answer) in missing.into_iter().zip(answers) {
            let (envelope, left, current_at) = match answer {
                Ok(LookupReply::Value {
                    envelope,
                    left,
                    current_at,
                    ..
                }) => (envelope, left, current_at),
                Ok(_) => {
                    count(&self.counters.l2_misses);
                    continue;
                }
                Err(error) => {
                    failure = Some(error);
                    continue;
                }
            };
            if let Some(loaded) = self.decode(&envelope, &name, left) {
                *value = Some(loaded.value.clone());
                let fetched = Fetched::found(loaded, asked).since(current_at);
                insertion.commit(key.clone(), self.for_l1(fetched));
            }
        }
        failure.map_or(Ok(()), Err)
    }

    /// Decodes an envelope of the key with this name. The value gets the remaining time to live `left`, or an unlimited
    /// one if that is `None`. Returns `None` if the envelope is unreadable, or if more time is left than the value was
    /// given: then the server's clock was set back, and Redis would keep the value for too long.
    pub(super) fn decode(
        &self,
        envelope: &[u8],
        name: &[u8],
        left: Option<Duration>,
    ) -> Option<Loaded<V>> {
        let decoded = self.codec.decode(envelope, &key_of(name)?);
        let decoded = decoded.inspect_err(|why| self.note_unreadable(*why));
        let mut loaded = decoded.ok()?;
        if loaded.ttl.zip(left).is_some_and(|(ttl, left)| left > ttl) {
            return None;
        }
        count(&self.counters.l2_hits);
        if let (Some(ttl), Some(left)) = (loaded.ttl, left) {
            // The age is computed by the server's clock, which all processes share.
            loaded.age = saturating_nanos(ttl.saturating_sub(left));
        }
        Some(loaded.ttl(left.unwrap_or(Duration::MAX)))
    }
}
