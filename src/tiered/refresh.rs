//! Refreshes: loads of keys that have a live value.
//!
//! Of all processes, one refreshes a key at a time: the one that holds the key's *refresh lease*. This is a load lease
//! under a name that no key has. The old value stays under the name of the key, where all processes find it, until the
//! new one replaces it.
//!
//! A refresh [by a rule](crate::tiered::refresh_by_rule) replaces the value in L2 without an event, because the old
//! value is not invalid: other processes get the new one when their own copy is due. A refresh that the application
//! requests is published like a write, so that all processes get the new value at once.

use crate::error::{AnyError, LoadError, LoaderError};
use crate::local::tier_hooks::WaitLimits;
use crate::tiered::coherence::read_lease::now;
use crate::tiered::fetch::{L2Answer, time_to_poll};
use crate::tiered::health::count;
use crate::tiered::l2::remote::{Head, Invalidated, LookupReply, Subject, Token};
use crate::tiered::load::Fetched;
use crate::tiered::load_lease::{LeaseRequest, LoadLease};
use crate::tiered::prior_state::PriorState;
use crate::tiered::publish::{Change, NewEntry};
use crate::tiered::{Inner, RemoteKey, RemoteValue, TieredCache};
use crate::traits::erasure::{LoadResult, LoaderProperties, share_value, typed};
use crate::traits::key::LookupKey;
use crate::traits::write::InvalidateOnDrop;
use equivalent::Equivalent;
use futures_util::future::select;
use parking_lot::Mutex;
use std::future::Future;
use std::hash::Hash;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// The first byte of the name of a refresh lease. No name of a key begins with it, because `MessagePack` does not use
/// it.
const REFRESH_LEASE: u8 = 0xc1;

impl<K: RemoteKey, V: RemoteValue> TieredCache<K, V> {
    /// Loads the value for `key` now, whether it is cached or not, stores the result in L1 and Redis, and invalidates
    /// the old value in all other processes.
    ///
    /// All processes serve the current value meanwhile, if there is one. If a load of the key is in flight in any
    /// process, for a refresh or for [`get_or_load_async`](Self::get_or_load_async), the call joins it. So after a
    /// change in the database, call [`invalidate`](Self::invalidate) instead: a load that the call joins may have begun
    /// before the change. If that load fails, this caller loads.
    ///
    /// The new entry keeps the tags of the current one, and its [weight](crate::Loaded::weight) in L1. Its time to live
    /// begins again, with the length that an insertion has.
    ///
    /// If the key is written to or invalidated during the load, the loaded value is returned and not stored. Like two
    /// insertions at the same time, a refresh and an insertion may then both be missing in the caches. While Redis
    /// cannot be reached, the value is stored in L1 only. In the class `L1Only`, and for keys that the
    /// [rollout](crate::Rollout) excludes from Redis, other processes keep their values.
    ///
    /// # Errors
    ///
    /// Returns the same errors as [`get_or_load_async`](Self::get_or_load_async). The current value stays in the
    /// caches. With [`stale_if_error`](crate::LocalCacheBuilder::stale_if_error), the call returns the current value in
    /// L1, or an expired one, instead of the error of the loader.
    ///
    /// # Cancel safety
    ///
    /// The future may be dropped at any time. It is then not known whether the value was stored.
    ///
    /// # Examples
    ///
    /// ```
    /// # use hotset::TieredCache;
    /// # async fn fetch_price(name: String) -> std::io::Result<u64> { Ok(120) }
    /// # async fn example(prices: TieredCache<String, u64>) -> Result<(), Box<dyn std::error::Error>> {
    /// let price = prices.refresh_async("apple", fetch_price).await?;
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "reload")]
    pub async fn refresh_async<Q, E, F, M>(
        &self,
        key: &Q,
        load: impl FnOnce(K) -> F,
    ) -> Result<V, LoadError<E>>
    where
        Q: Hash + Equivalent<K> + ToOwned<Owned = K> + ?Sized,
        F: Future<Output = Result<V, E>>,
        E: LoaderError<M>,
    {
        let loader = LoaderProperties::new::<E, _>(&load);
        let load = |key, _| share_value(load(key));
        typed(Box::pin(self.inner.refresh(key, loader, load)).await)
    }

    /// Like [`refresh_async`](Self::refresh_async), but `load` is given the current value, or `None` if there is no
    /// live one.
    ///
    /// A loader that finds the value unchanged returns it again, for example after the status 304 of a web server.
    ///
    /// # Errors
    ///
    /// Returns the same errors as [`refresh_async`](Self::refresh_async).
    ///
    /// # Cancel safety
    ///
    /// See [`refresh_async`](Self::refresh_async).
    ///
    /// # Examples
    ///
    /// ```
    /// # use hotset::TieredCache;
    /// # async fn fetch_page(old: Option<String>) -> std::io::Result<String> { Ok(old.unwrap_or_default()) }
    /// # async fn example(pages: TieredCache<String, String>) -> Result<(), Box<dyn std::error::Error>> {
    /// let page = pages.refresh_with_async("/", fetch_page).await?;
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "reload")]
    pub async fn refresh_with_async<Q, E, F, M>(
        &self,
        key: &Q,
        load: impl FnOnce(Option<V>) -> F,
    ) -> Result<V, LoadError<E>>
    where
        Q: Hash + Equivalent<K> + ToOwned<Owned = K> + ?Sized,
        F: Future<Output = Result<V, E>>,
        E: LoaderError<M>,
    {
        let loader = LoaderProperties::new::<E, _>(&load);
        let load = |_, current| share_value(load(current));
        typed(Box::pin(self.inner.refresh(key, loader, load)).await)
    }
}

/// The answer of L2 to a caller that is about to refresh a key.
pub(super) enum RefreshAnswer<K, V> {
    Granted(RefreshLease<K, V>),
    /// Another process refreshes or loads the key, for at most this long.
    Elsewhere {
        left: Duration,
        current: Option<(Token, Fetched<V>)>,
    },
    L2Unavailable,
}

/// The refresh lease of a key, granted to this process.
pub(super) struct RefreshLease<K, V> {
    /// The lease. It is released when this is dropped.
    pub(super) lease: LoadLease<K, V>,
    /// The value in L2, unless it cannot be read.
    pub(super) current: Option<Fetched<V>>,
    /// The state of the key in L2.
    pub(super) prior: PriorState<K, V>,
}

/// The publication of a refresh.
#[derive(Default)]
struct Publication {
    /// `true` once the value may have reached L2.
    has_begun: AtomicBool,
    /// The replies of L2, whose acknowledgements are to be awaited, each with the number of its partition.
    replies: Mutex<Vec<(usize, Invalidated)>>,
}

/// Returns the name under which L2 has the refresh lease of the key with this name.
fn refresh_lease_name(name: &[u8]) -> Box<[u8]> {
    [&[REFRESH_LEASE], name].concat().into()
}

/// Returns the name of the key whose refresh lease has this name, or `None` if it is not the name of a refresh lease.
pub(super) fn key_of_refresh_lease(name: &[u8]) -> Option<&[u8]> {
    name.strip_prefix(&[REFRESH_LEASE])
}

impl<K: RemoteKey, V: RemoteValue> Inner<K, V> {
    /// Loads a value that the application wants to be refreshed, and publishes it.
    pub(super) async fn refresh<Q, F>(
        self: &Arc<Self>,
        key: &Q,
        loader: LoaderProperties,
        load: impl FnOnce(K, Option<V>) -> F,
    ) -> Result<V, LoadError<AnyError>>
    where
        Q: LookupKey<K> + ?Sized,
        F: Future<Output = LoadResult<V>>,
    {
        let limits = self.l1.wait_limits();
        // If L1 may not serve its entries, they are invalid after this, and none of them is the current value.
        self.may_serve(now());
        let missed = self.l1.reload_missed(key);
        let publication = Publication::default();
        // If this is dropped or user code panics before L1 has the new value, L1 may still have the old one, although
        // L2 and the other processes have not.
        let unfinished = InvalidateOnDrop::new(|| {
            let key = publication.has_begun.load(Relaxed).then(|| key.to_key());
            if let Some((key, name)) =
                key.and_then(|key| self.key_name(&key).map(|name| (key, name)))
            {
                let change = Change::invalidation(Subject::Key(name), Some(&key));
                drop(self.spawn_publication(change));
            }
        });
        let reload = || async { self.reload(key.to_key(), limits, load, &publication).await };
        let result = self
            .l1
            .load_missed(key, missed, loader.reloading(), reload)
            .await;
        unfinished.disarm();
        self.await_acknowledgements(publication.replies.into_inner())
            .await;
        result
    }

    /// Loads and publishes a value, or returns the one that another process has loaded meanwhile. Called by the leader
    /// of a load in L1.
    async fn reload<F>(
        self: &Arc<Self>,
        key: K,
        limits: WaitLimits,
        load: impl FnOnce(K, Option<V>) -> F,
        publication: &Publication,
    ) -> LoadResult<V>
    where
        F: Future<Output = LoadResult<V>>,
    {
        let is_shadow = self.settings.rollout.is_shadow();
        let name = self.key_name(&key);
        let name = name.filter(|name| !is_shadow && self.uses_l2(name));
        let mut permit = None;
        let (lease, permit) = loop {
            let lease = match &name {
                None => None,
                Some(name) if permit.is_some() => match self.ask_to_refresh(name).await {
                    RefreshAnswer::Granted(lease) => Some(Box::new(lease)),
                    RefreshAnswer::L2Unavailable => None,
                    // A caller releases its permit before it waits for another process.
                    RefreshAnswer::Elsewhere { .. } => {
                        permit = None;
                        continue;
                    }
                },
                Some(name) => match self.join_or_lead_refresh(name, limits.deadline).await? {
                    JoinedOrLed::Joined(fetched) => return Ok(self.for_l1(fetched)),
                    JoinedOrLed::Led(lease) => lease,
                },
            };
            if let Some(permit) = permit.take().or_else(|| self.try_permit()) {
                break (lease, permit);
            }
            // The lease is released before the wait, because it might end before the load begins.
            drop(lease);
            permit = Some(self.wait_for_permit(limits.deadline).await?);
        };
        let (refresh_lease, in_l2, prior) = match lease {
            Some(lease) => (Some(lease.lease), lease.current, Some(lease.prior)),
            None => (None, None, None),
        };
        // The wait may have been long, so L1 is checked again.
        let in_l1 = self.may_serve(now()).then(|| self.l1.begin_reload(&key));
        let (in_l1, settings) = in_l1.flatten().unzip();
        let in_l2 = in_l2.map(|fetched| (fetched.loaded.value, fetched.loaded.tags));
        let (in_l2, tags) = in_l2.unzip();
        let current = in_l2.or(in_l1);
        let (begun, epoch) = (Instant::now(), self.l1.epoch());
        let mut loaded = self.run(permit, || load(key.clone(), current)).await?;
        if let Some(settings) = settings {
            settings.pass_on(&mut loaded);
        }
        if let Some(tags) = tags {
            loaded.tags = tags;
        }
        self.l1.apply_expire_after(&key, &mut loaded);
        let mut fetched = Fetched::loaded(loaded, begun);
        if let (Some(name), Some(prior)) = (name, prior) {
            let new = NewEntry {
                loaded: fetched.loaded.clone(),
                prior: Some(prior),
                is_inserted: false,
                begun,
                epoch,
            };
            publication.has_begun.store(true, Relaxed);
            let replies = self.publish_refresh(name, new, &mut fetched).await;
            *publication.replies.lock() = replies;
        } else {
            count(&self.counters.unleased_values);
        }
        drop(refresh_lease);
        Ok(self.for_l1(fetched))
    }

    /// Waits for the refresh lease of a key, and returns it. If another process has stored a new value meanwhile,
    /// returns that value instead.
    async fn join_or_lead_refresh(
        self: &Arc<Self>,
        name: &[u8],
        deadline: Option<Instant>,
    ) -> Result<JoinedOrLed<K, V>, LoadError<AnyError>> {
        let lease_name = refresh_lease_name(name);
        // The token of the value in L2 when another process was first found to load.
        let mut joined = None;
        loop {
            // Registered before L2 is asked, so that no notification is missed.
            let mut refresh = self.key_waiters.register(&lease_name);
            let mut load = self.key_waiters.register(name);
            let answer = self.ask_to_refresh(name).await;
            let (left, current) = match answer {
                RefreshAnswer::L2Unavailable => return Ok(JoinedOrLed::Led(None)),
                RefreshAnswer::Granted(lease) => {
                    let token = lease.prior.token();
                    return Ok(match lease.current {
                        Some(fetched) if joined.is_some_and(|old| old != Some(token)) => {
                            JoinedOrLed::Joined(fetched)
                        }
                        _ => JoinedOrLed::Led(Some(Box::new(lease))),
                    });
                }
                RefreshAnswer::Elsewhere { left, current } => (left, current),
            };
            let token = current.as_ref().map(|(token, _)| *token);
            if *joined.get_or_insert(token) != token {
                if let Some((_, fetched)) = current {
                    return Ok(JoinedOrLed::Joined(fetched));
                }
            }
            count(&self.counters.l2_waits);
            let timeout = time_to_poll(left, deadline)?;
            let (refresh, load) = (refresh.wait(timeout), load.wait(timeout));
            select(pin!(refresh), pin!(load)).await;
        }
    }

    /// Publishes a refreshed value, so that it replaces the old one in all processes.
    async fn publish_refresh(
        self: &Arc<Self>,
        name: Box<[u8]>,
        new: NewEntry<K, V>,
        fetched: &mut Fetched<V>,
    ) -> Vec<(usize, Invalidated)> {
        let outgoing = self.outgoing(&name, &new);
        let subject = Subject::Key(name.clone());
        let prior = new.prior.as_ref().map(PriorState::partition);
        let partition = prior.unwrap_or_else(|| self.partitions.map.number_of(&name));
        let mut sent = Vec::new();
        for number in self.partitions.map.numbers_of(&name) {
            let value = outgoing.value.as_ref().filter(|_| number == partition);
            let l2 = &self.partitions[number].l2;
            sent.push((number, l2.invalidate(&subject, value).await));
        }
        let published = sent.iter().find(|(number, _)| *number == partition);
        // After a failure L1 may store the value, because it receives invalidations itself.
        if let Some((_, Ok(published))) = published {
            if published.stored {
                fetched.loaded.write = outgoing.write;
                count(&self.counters.fills);
            } else if !published.untouched {
                fetched.outdate();
                count(&self.counters.lost_fills);
            }
            if let Some(lease) = new.prior.and_then(PriorState::into_lease) {
                // The value has replaced the lease.
                lease.close();
            }
            self.key_waiters.wake(&name);
        }
        // A refresh is not queued, because the old value is not invalid. But the next layout may have another one.
        sent.retain(|(number, result)| *number != partition || result.is_ok());
        self.queue_failed(&subject, sent)
    }

    /// Asks L2 for the refresh lease of a key and for the value.
    pub(super) async fn ask_to_refresh(self: &Arc<Self>, name: &[u8]) -> RefreshAnswer<K, V> {
        if !self.uses_l2(name) {
            return RefreshAnswer::L2Unavailable;
        }
        let partition = self.partitions.map.number_of(name);
        let lease = LeaseRequest::in_partition(self, &refresh_lease_name(name), partition);
        let request = LeaseRequest::in_partition(self, name, partition);
        let requests = [lease.request_in_order(), request.request_in_order()];
        let asked = Instant::now();
        let answers = self.partitions[partition].l2.lookup(&requests).await.ok();
        let answers = answers.and_then(|answers| <[LookupReply; 2]>::try_from(answers).ok());
        let Some([lease_answer, answer]) = answers else {
            return RefreshAnswer::L2Unavailable;
        };
        let token = match &answer {
            LookupReply::Value { envelope, .. } => Head::of(envelope).ok().map(|head| head.token),
            _ => None,
        };
        let answer = self.read(request, answer, asked);
        let lease = match lease_answer {
            LookupReply::LeaseGranted { head, .. } => lease.granted(head),
            LookupReply::LeasedElsewhere { left } => {
                lease.close();
                let current = match answer {
                    L2Answer::Value(fetched) => token.map(|token| (token, fetched)),
                    _ => None,
                };
                return RefreshAnswer::Elsewhere { left, current };
            }
            LookupReply::Value { .. } | LookupReply::None => return RefreshAnswer::L2Unavailable,
        };
        let (current, prior) = match answer {
            L2Answer::LoadLease(load) => (None, PriorState::of_lease(load)),
            L2Answer::LeasedElsewhere(left) => {
                return RefreshAnswer::Elsewhere {
                    left,
                    current: None,
                };
            }
            L2Answer::L2Unavailable => return RefreshAnswer::L2Unavailable,
            L2Answer::Value(fetched) => {
                let Some(token) = token else {
                    return RefreshAnswer::L2Unavailable;
                };
                (
                    Some(fetched),
                    PriorState::of_value(partition, token, lease.head()),
                )
            }
            L2Answer::Unreadable(token) => {
                (None, PriorState::of_value(partition, token, lease.head()))
            }
        };
        RefreshAnswer::Granted(RefreshLease {
            lease,
            current,
            prior,
        })
    }
}

/// The result of [`join_or_lead_refresh`](Inner::join_or_lead_refresh).
enum JoinedOrLed<K, V> {
    /// The value that another process has stored meanwhile.
    Joined(Fetched<V>),
    /// The caller loads. It has no lease if L2 cannot be asked.
    Led(Option<Box<RefreshLease<K, V>>>),
}
