//! Batches: one round trip for the keys that L1 misses, one load for those that L2 misses too, and one round trip to
//! store the loaded values.

use crate::clock::precise_now;
use crate::entry::Loaded;
use crate::error::{AnyError, LoadError, LoaderError};
use crate::local::tier_hooks::{BatchLookup, WaitLimits};
use crate::tiered::coherence::key_waiters::KeyWait;
use crate::tiered::coherence::read_lease::now;
use crate::tiered::fetch::{L2Answer, POLL_INTERVAL};
use crate::tiered::health::count;
use crate::tiered::l2::remote::Token;
use crate::tiered::load::Fetched;
use crate::tiered::load_lease::{LeaseRequest, LoadLease};
use crate::tiered::{Inner, RemoteKey, RemoteValue, TieredCache};
use crate::traits::erasure::{BatchResult, ErrorType, share_batch_async, typed};
use crate::traits::key::LookupKey;
use equivalent::Equivalent;
use futures_util::future::join_all;
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::hash::Hash;
use std::sync::Arc;
use std::time::{Duration, Instant};

impl<K: RemoteKey, V: RemoteValue> TieredCache<K, V> {
    /// Returns the values for several keys from L1 and Redis, in their order, with `None` for each key for which
    /// neither has a valid one.
    ///
    /// All keys that L1 does not have are read from Redis together, usually in one round trip to each partition.
    /// [`get_many_or_load_async`](Self::get_many_or_load_async) also loads the missing values.
    ///
    /// # Cancel safety
    ///
    /// The future may be dropped at any time.
    ///
    /// # Examples
    ///
    /// ```
    /// # use hotset::TieredCache;
    /// # async fn example(prices: TieredCache<String, u64>) {
    /// let found = prices.get_many(["apple", "pear"]).await;
    /// println!("{} of {} prices are cached", found.iter().flatten().count(), found.len());
    /// # }
    /// ```
    #[doc(alias("get_all_present", "getAllPresent"))]
    pub async fn get_many<'q, Q>(&self, keys: impl IntoIterator<Item = &'q Q>) -> Vec<Option<V>>
    where
        Q: Hash + Equivalent<K> + ToOwned<Owned = K> + ?Sized + 'q,
    {
        let keys: Vec<K> = keys.into_iter().map(ToOwned::to_owned).collect();
        let values = self.inner.look_up_many_in_l1(&keys);
        Box::pin(self.inner.look_up_many_missing(&keys, values)).await
    }

    /// Returns the values for several keys, in their order. Runs `load` once for the keys that neither L1 nor Redis
    /// has, and stores its results.
    ///
    /// Like [`LocalCache::get_many_or_load_async`](crate::LocalCache::get_many_or_load_async), usually with one round trip
    /// to each partition in Redis for all keys that L1 misses. If other processes load some of the keys, the call waits
    /// for their values. If several of these loads fail at about the same time, `load` is called once for all of their
    /// keys.
    ///
    /// # Errors
    ///
    /// Returns the same errors as [`get_or_load_async`](Self::get_or_load_async), for the first key that has one.
    ///
    /// # Cancel safety
    ///
    /// The future may be dropped at any time.
    ///
    /// # Examples
    ///
    /// ```
    /// # use hotset::TieredCache;
    /// # async fn example(prices: TieredCache<String, u64>) -> Result<(), Box<dyn std::error::Error>> {
    /// # async fn fetch_prices(names: Vec<String>) -> std::io::Result<Vec<(String, u64)>> { Ok(Vec::new()) }
    /// let found = prices.get_many_or_load_async(["apple", "pear"], fetch_prices).await?;
    /// println!("an apple costs {:?}, a pear {:?}", found[0], found[1]);
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias("getAll", "get_all"))]
    pub async fn get_many_or_load_async<'q, Q, T, E, F, M>(
        &self,
        keys: impl IntoIterator<Item = &'q Q>,
        load: impl FnMut(Vec<K>) -> F,
    ) -> Result<Vec<Option<V>>, LoadError<E>>
    where
        Q: Hash + Equivalent<K> + ToOwned<Owned = K> + ?Sized + 'q,
        F: Future<Output = Result<T, E>>,
        T: IntoIterator<Item = (K, V)>,
        E: LoaderError<M>,
    {
        self.get_many_loaded_async(keys, load).await
    }

    /// Like [`get_many_or_load_async`](Self::get_many_or_load_async), but `load` returns pairs of key and [`Loaded`].
    /// Each has its own time to live, weight and tags.
    ///
    /// # Errors
    ///
    /// Returns the same errors as [`get_many_or_load_async`](Self::get_many_or_load_async).
    ///
    /// # Cancel safety
    ///
    /// The future may be dropped at any time.
    ///
    /// # Examples
    ///
    /// ```
    /// # use hotset::TieredCache;
    /// # async fn example(prices: TieredCache<String, u64>) -> Result<(), Box<dyn std::error::Error>> {
    /// # async fn fetch_prices(names: Vec<String>) -> std::io::Result<Vec<(String, u64)>> { Ok(Vec::new()) }
    /// use hotset::Loaded;
    ///
    /// let load = |names| async {
    ///     let rows = fetch_prices(names).await?;
    ///     Ok::<_, std::io::Error>(rows.into_iter().map(|(name, price)| (name, Loaded::new(price).tags(["fruit"]))))
    /// };
    /// let found = prices.get_many_or_load_entries_async(["apple", "pear"], load).await?;
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias("getAll", "get_all"))]
    pub async fn get_many_or_load_entries_async<'q, Q, T, E, F, M>(
        &self,
        keys: impl IntoIterator<Item = &'q Q>,
        load: impl FnMut(Vec<K>) -> F,
    ) -> Result<Vec<Option<V>>, LoadError<E>>
    where
        Q: Hash + Equivalent<K> + ToOwned<Owned = K> + ?Sized + 'q,
        F: Future<Output = Result<T, E>>,
        T: IntoIterator<Item = (K, Loaded<V>)>,
        E: LoaderError<M>,
    {
        self.get_many_loaded_async(keys, load).await
    }

    /// Returns the values for several keys, for a loader of values or of entries.
    pub(super) async fn get_many_loaded_async<'q, Q, T, L, E, F, M>(
        &self,
        keys: impl IntoIterator<Item = &'q Q>,
        mut load: impl FnMut(Vec<K>) -> F,
    ) -> Result<Vec<Option<V>>, LoadError<E>>
    where
        Q: LookupKey<K> + ?Sized + 'q,
        F: Future<Output = Result<T, E>>,
        T: IntoIterator<Item = (K, L)>,
        L: Into<Loaded<V>>,
        E: LoaderError<M>,
    {
        let keys = keys.into_iter().collect();
        let load = |missing| share_batch_async(load(missing));
        let values = self
            .inner
            .get_many_or_load(keys, ErrorType::of::<E>(), load);
        typed(Box::pin(values).await)
    }
}

/// The keys of a batch that have no value after one round.
struct Round<K> {
    /// The keys for which the loader returned no value.
    left_out: Mutex<HashSet<K>>,
    /// The names of keys that other processes load, and the remaining times of their leases.
    leased_elsewhere: Mutex<HashMap<Box<[u8]>, Duration>>,
}

impl<K> Default for Round<K> {
    fn default() -> Self {
        Self {
            left_out: Mutex::default(),
            leased_elsewhere: Mutex::default(),
        }
    }
}

/// Keys to load, each with its load lease if L2 has granted one.
pub(crate) type ToLoad<K, V> = Vec<(K, Option<LoadLease<K, V>>)>;

/// The request of a batch for the value of a key, or for the lease to load it.
struct KeyRequest<K, V> {
    key: K,
    request: LeaseRequest<K, V>,
    /// The token of a value that cannot be read, and counts as absent.
    unreadable: Option<Token>,
}

/// The answer of L2 to a batch.
pub(crate) struct BatchAnswer<K, V> {
    pub(crate) found: Vec<(K, Fetched<V>)>,
    pub(crate) to_load: ToLoad<K, V>,
    /// The names of keys that other processes load, and the remaining times of their leases.
    leased_elsewhere: HashMap<Box<[u8]>, Duration>,
    /// `true` if this process also loads the keys that other processes load.
    is_shadow: bool,
}

impl<K: RemoteKey, V: RemoteValue> Inner<K, V> {
    /// Returns the values for several keys from L1, L2 and the loader, whose result is in shared form already. The
    /// caller accepts errors of other callers' loads only if they have the type `error_type`.
    pub(super) async fn get_many_or_load<Q, F>(
        self: &Arc<Self>,
        keys: Vec<&Q>,
        error_type: ErrorType,
        load: impl FnMut(Vec<K>) -> F,
    ) -> Result<Vec<Option<V>>, LoadError<AnyError>>
    where
        Q: LookupKey<K> + ?Sized,
        F: Future<Output = BatchResult<K, V>>,
    {
        // Locked while `load` creates a future, and not while that runs.
        let load = Mutex::new(load);
        let first = Round::default();
        let lookup = BatchLookup::Recorded;
        let mut limits = self.l1.wait_limits();
        let values = self.load_round(keys.clone(), error_type, lookup, limits, &load, &first);
        let mut values = values.await?;
        // The remaining keys are loaded by other processes, or another batch of this process waits for them. The wait
        // is outside of the batch, because other callers wait for the other keys of the batch.
        let mut left_out = first.left_out.into_inner();
        let missing = |at: &usize| values[*at].is_none();
        let missing = (0..keys.len()).filter(missing);
        let mut rest: Vec<(usize, K)> = missing.map(|at| (at, keys[at].to_key())).collect();
        loop {
            rest.retain(|(at, key)| values[*at].is_none() && !left_out.contains(key));
            if rest.is_empty() {
                return Ok(values);
            }
            let names: Vec<_> = rest.iter().map(|(_, key)| self.key_name(key)).collect();
            // Registered before L2 is asked, so that no notification is missed.
            let key_waits: Vec<_> = names
                .iter()
                .flatten()
                .map(|name| self.key_waiters.register(name))
                .collect();
            let (round, lookup) = (Round::default(), BatchLookup::Unrecorded);
            let rest_keys = rest.iter().map(|(_, key)| key).collect();
            let found = self.load_round(rest_keys, error_type, lookup, limits, &load, &round);
            for ((at, _), value) in rest.iter().zip(found.await?) {
                values[*at] = value;
            }
            left_out.extend(round.left_out.into_inner());
            let leased_elsewhere = round.leased_elsewhere.into_inner();
            // If it is empty, another batch of this process waits for the keys.
            if leased_elsewhere.is_empty() && !limits.is_over() {
                continue;
            }
            if limits.next().is_none_or(|next| precise_now() < next) {
                self.wait_for_others(&leased_elsewhere, key_waits, limits.next())
                    .await;
                continue;
            }
            for (at, key) in &rest {
                if values[*at].is_none() && !left_out.contains(key) {
                    values[*at] = self.l1.stale_in_place(key);
                    if values[*at].is_none() && limits.is_over() {
                        return Err(LoadError::WaitTimeout);
                    }
                }
            }
            limits.stale_from = None;
        }
    }

    /// Gets the values from L1, L2 and the loader, once. Keys that other processes load get no value.
    async fn load_round<Q, F>(
        self: &Arc<Self>,
        keys: Vec<&Q>,
        error_type: ErrorType,
        lookup: BatchLookup,
        limits: WaitLimits,
        load: &Mutex<impl FnMut(Vec<K>) -> F>,
        round: &Round<K>,
    ) -> Result<Vec<Option<V>>, LoadError<AnyError>>
    where
        Q: LookupKey<K> + ?Sized,
        F: Future<Output = BatchResult<K, V>>,
    {
        self.may_serve(now());
        let fetch = |missing| self.fetch_many(missing, limits, load, round);
        self.l1
            .get_many_or_load_shared(keys, error_type, lookup, limits, fetch)
            .await
    }

    /// Waits until the loads of other processes have ended, so that the keys whose loads have failed are loaded
    /// together. Waits for at most the polling interval, and not beyond `until`.
    async fn wait_for_others(
        &self,
        leased_elsewhere: &HashMap<Box<[u8]>, Duration>,
        mut key_waits: Vec<KeyWait<'_>>,
        until: Option<Instant>,
    ) {
        let longest = leased_elsewhere.values().max().copied();
        let mut timeout = longest.unwrap_or_default().min(POLL_INTERVAL);
        if let Some(until) = until {
            timeout = timeout.min(until.saturating_duration_since(precise_now()));
        }
        key_waits.retain(|wait| leased_elsewhere.contains_key(wait.key()));
        join_all(key_waits.iter_mut().map(|wait| {
            count(&self.counters.l2_waits);
            wait.wait(timeout)
        }))
        .await;
    }

    /// Returns the values from L2, or loads them, except for keys that other processes load. The leader of a batch in
    /// L1 runs this.
    async fn fetch_many<F>(
        self: &Arc<Self>,
        keys: Vec<K>,
        limits: WaitLimits,
        load: &Mutex<impl FnMut(Vec<K>) -> F>,
        round: &Round<K>,
    ) -> BatchResult<K, V>
    where
        F: Future<Output = BatchResult<K, V>>,
    {
        let deadline = self.end_of_wait(&keys, limits);
        let is_shadow = self.settings.rollout.is_shadow();
        let mut answer = self.ask_many(&keys, is_shadow).await;
        let mut permit = None;
        if !answer.to_load.is_empty() || is_shadow {
            permit = self.try_permit();
            if permit.is_none() {
                // A caller that waits for a permit holds no lease, which might end before the load begins.
                drop(answer);
                permit = Some(self.wait_for_permit(deadline).await?);
                answer = self.ask_many(&keys, is_shadow).await;
            }
        }
        // This function runs more than once in a round if the batch takes keys over from another one.
        let leased_elsewhere = answer.leased_elsewhere.drain();
        round.leased_elsewhere.lock().extend(leased_elsewhere);
        let mut shadow = Vec::new();
        if is_shadow {
            shadow = Self::take_shadow_values(&mut answer);
        }
        let to_load = std::mem::take(&mut answer.to_load);
        if let Some(permit) = permit.filter(|_| !to_load.is_empty()) {
            let begun = Instant::now();
            let keys = to_load.iter().map(|(key, _)| key.clone()).collect();
            let loaded = self.run(permit, || (load.lock())(keys)).await?;
            self.compare_many(shadow, &loaded).await;
            let mut loaded = self
                .fill_many(to_load, loaded, begun, &round.left_out)
                .await;
            answer.found.append(&mut loaded);
        }

        let found = answer.found.into_iter();
        Ok(found
            .map(|(key, fetched)| (key, self.for_l1(fetched)))
            .collect())
    }

    /// Asks L2 for values, or for the leases to load them.
    async fn ask_many(self: &Arc<Self>, keys: &[K], is_shadow: bool) -> BatchAnswer<K, V> {
        let mut batch = BatchAnswer {
            found: Vec::new(),
            to_load: Vec::new(),
            leased_elsewhere: HashMap::new(),
            is_shadow,
        };
        let mut requests = Vec::new();
        for key in keys {
            match self.key_name(key).filter(|name| self.uses_l2(name)) {
                Some(name) => requests.push(KeyRequest {
                    key: key.clone(),
                    request: LeaseRequest::new(self, &name),
                    unreadable: None,
                }),
                None => batch.to_load.push((key.clone(), None)),
            }
        }
        // A key whose value cannot be read is requested once more, to replace that value. If another value that cannot
        // be read was stored meanwhile, this process loads the key for itself, so that the batch ends.
        let again = self.ask_round(requests, &mut batch).await;
        for KeyRequest { key, request, .. } in self.ask_round(again, &mut batch).await {
            request.close();
            batch.to_load.push((key, None));
        }
        if !is_shadow {
            self.copy_to_load(&mut batch).await;
        }
        batch
    }

    /// Asks L2 in one round trip. Returns the requests to send again, because the values cannot be read.
    async fn ask_round(
        self: &Arc<Self>,
        requests: Vec<KeyRequest<K, V>>,
        batch: &mut BatchAnswer<K, V>,
    ) -> Vec<KeyRequest<K, V>> {
        let mut again = Vec::new();
        if requests.is_empty() {
            return again;
        }
        let asked = Instant::now();
        let lookups = requests.iter().map(|it| {
            let lookup = it.request.lookup_request(it.unreadable);
            (it.request.partition(), lookup)
        });
        let answers = self.partitions.lookup(&lookups.collect::<Vec<_>>()).await;
        for (KeyRequest { key, request, .. }, answer) in requests.into_iter().zip(answers) {
            let Ok(answer) = answer else {
                batch.to_load.push((key, None));
                continue;
            };
            let name: Box<[u8]> = request.key().into();
            match self.read(request, answer, asked) {
                L2Answer::Value(fetched) => batch.found.push((key, fetched)),
                L2Answer::LoadLease(lease) => batch.to_load.push((key, Some(lease))),
                L2Answer::L2Unavailable => batch.to_load.push((key, None)),
                L2Answer::Unreadable(token) => again.push(KeyRequest {
                    key,
                    request: LeaseRequest::new(self, &name),
                    unreadable: Some(token),
                }),
                L2Answer::LeasedElsewhere(_) if batch.is_shadow => batch.to_load.push((key, None)),
                L2Answer::LeasedElsewhere(left) => {
                    batch.leased_elsewhere.insert(name, left);
                }
            }
        }
        again
    }

    /// Copies the values of keys that were to be loaded from the old layout, if the namespace is moving to another one.
    async fn copy_to_load(&self, batch: &mut BatchAnswer<K, V>) {
        let copied = self.copy_values(std::mem::take(&mut batch.to_load)).await;
        for (key, result) in copied {
            match result {
                Ok(fetched) => batch.found.push((key, fetched)),
                Err(lease) => batch.to_load.push((key, lease)),
            }
        }
    }

    /// Stores loaded values in L2. The leases of keys for which the loader returned no value are released.
    async fn fill_many(
        &self,
        to_load: ToLoad<K, V>,
        loaded: Vec<(K, Loaded<V>)>,
        begun: Instant,
        left_out: &Mutex<HashSet<K>>,
    ) -> Vec<(K, Fetched<V>)> {
        let mut loaded: HashMap<K, Loaded<V>> = loaded.into_iter().collect();
        let (mut keys, mut fetched, mut loads) = (Vec::new(), Vec::new(), Vec::new());
        for (key, lease) in to_load {
            let Some(mut loaded) = loaded.remove(&key) else {
                left_out.lock().insert(key);
                continue;
            };
            self.l1.apply_expire_after(&key, &mut loaded);
            loads.push((lease, fetched.len()));
            fetched.push(Fetched::loaded(loaded, begun));
            keys.push(key);
        }
        self.fill(loads, &mut fetched).await;
        keys.into_iter().zip(fetched).collect()
    }
}
