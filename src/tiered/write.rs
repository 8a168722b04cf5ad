//! Writes: to the database first, then to L2, then to all who may hold the old value.

use crate::entry::Loaded;
use crate::tiered::builder::MAX_KEY;
use crate::tiered::coherence::pending_invalidations::Pushed;
use crate::tiered::health::count;
use crate::tiered::l2::remote::{Head, LookupReply, NewValue, Peer, Subject};
use crate::tiered::load::{Fresh, Sealed};
use crate::tiered::load_lease::Lease;
use crate::tiered::log::{StateChange, log};
use crate::tiered::{Consistency, Inner, RemoteKey, RemoteValue, TieredCache, key_of, name_of};
use crate::trace::Span;
use std::future::{Future, Ready};
use std::sync::Arc;
use std::time::Instant;

/// How far word of a change has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Delivery {
    /// All are told, as the [`Consistency`] promises.
    Acknowledged,
    /// The old value is invalid everywhere, as with [`Acknowledged`](Self::Acknowledged), but Redis does not hold
    /// the new one: it is too large, has too many tags or cannot be serialized, its key is too long, or it
    /// could not be transferred. This process keeps it in L1, in the classes that keep values there; other
    /// processes load it.
    NotShared,
    /// Redis could not be told. This process sees the change; for the others it waits until Redis
    /// answers again.
    Queued,
    /// Only this process was changed, and no other process hears of it: the key cannot be encoded, is of more
    /// than 64 KiB, or decodes to another key. Each process has an entry of its own under such a key, which
    /// lives in its L1 until it is removed there or its time to live ends, whatever the class.
    LocalOnly,
}

impl<K: RemoteKey, V: RemoteValue> TieredCache<K, V> {
    /// Makes the old value of a key invalid, in this process, in Redis and in all other processes: to be
    /// called after the database was changed. A load of the key that is under way, wherever, stores
    /// its value nowhere.
    ///
    /// # Cancellation
    ///
    /// What was begun goes on if the future is dropped.
    pub async fn invalidate(&self, key: &K) -> Delivery {
        let Some(name) = self.inner.key_name(key) else {
            self.inner.l1.remove(key);
            return Delivery::LocalOnly;
        };
        let change = Change::of(Subject::Key(name), Some(key));
        self.inner.tell(change).await
    }

    /// As [`invalidate`](Self::invalidate), for all that was loaded with this
    /// [tag](Loaded::tags).
    ///
    /// # Cancellation
    ///
    /// What was begun goes on if the future is dropped.
    pub async fn invalidate_tag(&self, tag: &str) -> Delivery {
        self.inner
            .tell(Change::of(Subject::Tag(tag.into()), None))
            .await
    }

    /// As [`invalidate`](Self::invalidate), for the whole namespace. Redis is not scanned: what it holds
    /// is of an older version from now on, and goes by its time to live.
    ///
    /// # Cancellation
    ///
    /// What was begun goes on if the future is dropped.
    pub async fn clear(&self) -> Delivery {
        self.inner.tell(Change::of(Subject::All, None)).await
    }

    /// Waits until Redis was told of all invalidations that are queued. For a process that is about to
    /// end: what it takes with it, others hear of never.
    ///
    /// It waits as long as Redis does not answer, so give it a time:
    ///
    /// ```
    /// # use hotset::TieredCache;
    /// # async fn example(prices: TieredCache<u64, u64>) {
    /// let most = std::time::Duration::from_secs(10);
    /// if tokio::time::timeout(most, prices.flush()).await.is_err() {
    ///     eprintln!("{} changes remain untold", prices.health().queued);
    /// }
    /// # }
    /// ```
    ///
    /// # Cancellation
    ///
    /// The future may be dropped at any time.
    pub async fn flush(&self) {
        self.inner.pending_invalidations.emptied().await;
    }

    /// Stores a value, in place of one that is held anywhere.
    ///
    /// If the key is written to or invalidated at the same time, neither value stays. While Redis is
    /// unreachable nothing is stored. A value that Redis cannot take stays in this process's L1, and the
    /// result says so: [`Delivery::NotShared`].
    ///
    /// # Cancellation
    ///
    /// What was begun goes on if the future is dropped.
    pub async fn insert(&self, key: K, value: V) -> Delivery {
        self.insert_loaded(key, Loaded::new(value)).await
    }

    /// As [`insert`](Self::insert), with a time to live, a weight and tags of its own.
    ///
    /// # Cancellation
    ///
    /// What was begun goes on if the future is dropped.
    pub async fn insert_loaded(&self, key: K, loaded: Loaded<V>) -> Delivery {
        let written = self
            .write(key, loaded, None::<fn() -> Ready<Result<(), NoError>>>)
            .await;
        written.unwrap_or_else(|never| match never {})
    }

    /// Changes the database, by `write`, and then the caches: this process and Redis hold the new
    /// value, all others forget the old one.
    ///
    /// If the key is written to or invalidated at the same time, neither value stays in a cache, since
    /// nobody but the database knows which came last. `write` must not read the key through the cache:
    /// it would wait for itself, until the [lease](crate::LocalCacheBuilder::lease) ends.
    ///
    /// A value that Redis cannot take stays in this process's L1, and the result says so:
    /// [`Delivery::NotShared`].
    ///
    /// The new entry has the cache's time to live and no tags, whatever the old one had: see
    /// [`write_through_loaded`](Self::write_through_loaded).
    ///
    /// ```
    /// # use hotset::{Delivery, TieredCache};
    /// # async fn example(prices: TieredCache<u64, u64>) -> std::io::Result<()> {
    /// # async fn update_price(id: u64, price: u64) -> std::io::Result<()> { Ok(()) }
    /// let delivery = prices.write_through(7, 800, |price| update_price(7, price)).await?;
    /// if delivery == Delivery::Queued {
    ///     // The database has it; other processes hear of it once Redis is back.
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// What `write` fails with; the caches are then left as they are. If it may have changed the database
    /// all the same, [`invalidate`](Self::invalidate) the key once it can no longer.
    ///
    /// # Cancellation
    ///
    /// If the future is dropped while `write` runs, the key is invalidated, since nobody knows how far
    /// it came. Afterwards it goes on.
    pub async fn write_through<E, F>(
        &self,
        key: K,
        value: V,
        write: impl FnOnce(V) -> F,
    ) -> Result<Delivery, E>
    where
        F: Future<Output = Result<(), E>>,
    {
        self.write_through_loaded(key, Loaded::new(value), write)
            .await
    }

    /// As [`write_through`](Self::write_through), with a time to live, a weight and tags of its own.
    ///
    /// # Errors
    ///
    /// As [`write_through`](Self::write_through).
    ///
    /// # Cancellation
    ///
    /// As [`write_through`](Self::write_through).
    pub async fn write_through_loaded<E, F>(
        &self,
        key: K,
        loaded: Loaded<V>,
        write: impl FnOnce(V) -> F,
    ) -> Result<Delivery, E>
    where
        F: Future<Output = Result<(), E>>,
    {
        let value = loaded.value.clone();
        Box::pin(self.write(key, loaded, Some(|| write(value)))).await
    }

    async fn write<E, F>(
        &self,
        key: K,
        loaded: Loaded<V>,
        write: Option<impl FnOnce() -> F>,
    ) -> Result<Delivery, E>
    where
        F: Future<Output = Result<(), E>>,
    {
        let inner = &self.inner;
        let Some(name) = inner.key_name(&key) else {
            return self.write_here(key, loaded, write).await;
        };
        let (begun, epoch) = (Instant::now(), inner.l1.epoch());
        let is_inserted = write.is_none();
        let mut held = None;
        if inner.asks_l2(&name) || !is_inserted && inner.marks_in_l2(&name) {
            held = inner.look_under(&name).await;
        }
        let subject = Subject::Key(name);
        let mut change = Change::of(subject.clone(), Some(&key));
        let invalidate = || drop(inner.tell_behind(Change::of(subject, None)));
        run_write(write, invalidate).await?;
        change.value = Some(New {
            loaded,
            held,
            is_inserted,
            begun,
            epoch,
        });
        Ok(inner.tell(change).await)
    }
}

enum NoError {}

/// What is to be told, and to be done here.
struct Change<K, V> {
    subject: Subject,
    key: Option<K>,
    value: Option<New<K, V>>,
}

/// The new value of a key.
struct New<K, V> {
    loaded: Loaded<V>,
    /// What lay under the key before the database was changed.
    held: Option<LockGuardMark<K, V>>,
    /// There is no truth elsewhere that another writer may have changed meanwhile.
    is_inserted: bool,
    /// When that was, and the epoch of L1.
    begun: Instant,
    epoch: u64,
}

/// A new value as it goes to L2.
struct Outgoing {
    value: Option<NewValue>,
    /// L2 is not to hold it.
    is_local: bool,
    /// If it is to, it can.
    fits: bool,
}

impl<K: RemoteKey, V: RemoteValue> Change<K, V> {
    fn of(subject: Subject, key: Option<&K>) -> Self {
        Self {
            subject,
            key: key.cloned(),
            value: None,
        }
    }
}

/// What lay under a key in L2: nobody has written it since if that is there still.
struct LockGuardMark<K, V> {
    head: Head,
    /// If there was nothing, others who come wait for what is written.
    lease: Option<Lease<K, V>>,
}

/// Changes the database with `write`, if there is one. Calls `invalidate` if that is interrupted, because it is unknown
/// then whether the database has changed.
pub(super) async fn run_write<E, F>(
    write: Option<impl FnOnce() -> F>,
    invalidate: impl FnOnce(),
) -> Result<(), E>
where
    F: Future<Output = Result<(), E>>,
{
    let Some(write) = write else { return Ok(()) };
    let mut interrupted = OnDrop(Some(invalidate));
    let written = write().await;
    interrupted.0 = None;
    written
}

/// Calls a function when it is dropped.
struct OnDrop<F: FnOnce()>(Option<F>);

impl<F: FnOnce()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        if let Some(call) = self.0.take() {
            call();
        }
    }
}

impl<K: RemoteKey, V: RemoteValue> Inner<K, V> {
    /// May L2 be asked to mark a key whose value it is not to hold, so that it is known whether somebody else
    /// writes it meanwhile?
    fn marks_in_l2(&self, name: &[u8]) -> bool {
        self.settings.consistency != Consistency::L2Only && self.may_ask_l2(name)
    }

    /// What lies under a key; a lease of this process's own if there is nothing.
    async fn look_under(self: &Arc<Self>, name: &[u8]) -> Option<LockGuardMark<K, V>> {
        let mut lease = Lease::ask(self, name);
        match self
            .l2
            .lookup(&[lease.question_for_head()])
            .await
            .ok()?
            .pop()?
        {
            LookupReply::LeaseGranted { head, .. } => {
                lease.grant();
                let lease = Some(lease);
                Some(LockGuardMark { head, lease })
            }
            LookupReply::Value { envelope, .. } => {
                lease.close();
                let head = Head::of(&envelope).ok()?;
                Some(LockGuardMark { head, lease: None })
            }
            LookupReply::LeasedElsewhere { .. } | LookupReply::None => {
                lease.close();
                None
            }
        }
    }

    async fn tell(self: &Arc<Self>, change: Change<K, V>) -> Delivery {
        let subject = change.subject.clone();
        if let Ok(delivery) = self.tell_behind(change).await {
            return delivery;
        }
        // The runtime shuts down, or user code has panicked, of an entry that was removed or of a key.
        self.defer(subject.clone());
        self.apply(&subject);
        Delivery::Queued
    }

    /// L2 is told later.
    fn defer(&self, subject: Subject) {
        count(&self.counters.deferred);
        match self.pending_invalidations.push(subject) {
            Pushed::First => log(self.name(), &StateChange::Queued),
            Pushed::Overflowed => {
                count(&self.counters.overflows);
                log(self.name(), &StateChange::Overflowed);
            }
            Pushed::Another => {}
        }
    }

    /// In a task of its own, so that no change is told by half.
    fn tell_behind(self: &Arc<Self>, change: Change<K, V>) -> tokio::task::JoinHandle<Delivery> {
        let inner = Arc::clone(self);
        let telling = async move { inner.tell_all(change).await };
        self.runtime.spawn(Span::current().around(telling))
    }

    /// Tells L2, applies the change here, and waits for those who are to hear of it.
    async fn tell_all(self: Arc<Self>, change: Change<K, V>) -> Delivery {
        let Change {
            subject,
            key,
            value,
        } = change;
        let outgoing = match (&subject, &value) {
            (Subject::Key(name), Some(new)) => Some(self.outgoing(name, new)),
            _ => None,
        };
        let new = outgoing.as_ref().and_then(|it| it.value.as_ref());
        // An invalidation that comes now makes it void.
        let promise = key.as_ref().map(|key| self.l1.promise(key));
        let asked = Instant::now();
        let told = self.l2.invalidate(&subject, new).await;
        let Ok(told) = told else {
            // First, so that whoever finds nothing here does not ask L2.
            self.defer(subject.clone());
            drop(promise);
            self.apply(&subject);
            return Delivery::Queued;
        };
        count(&self.counters.invalidations);
        let mut kept = false;
        let mut delivery = Delivery::Acknowledged;
        if let (Some(key), Some(promise), Some(new), Some(outgoing)) =
            (key, promise, value, outgoing)
        {
            let is_shareable = outgoing.fits && !told.is_refused;
            if !is_shareable {
                delivery = Delivery::NotShared;
            }
            let stays_here = new.is_inserted && (outgoing.is_local || !is_shareable);
            let loaded = new.loaded;
            if told.stored || stays_here {
                kept = promise.keep(key, self.local(Fresh::read(loaded, asked)));
            } else if told.untouched {
                // L2 has not compared it with invalidations of tags and of everything: L1 does.
                let local = self.local(Fresh::read(loaded, new.begun));
                kept = promise.keep_since(new.epoch, key, local);
            }
            // It is replaced or deleted.
            if let Some(lease) = new.held.and_then(|held| held.lease) {
                lease.close();
            }
        }
        if let (true, Subject::Key(name)) = (kept, &subject) {
            self.waiters_by_key.wake(name);
        } else {
            // Also if it might not be kept, for what is there instead may be older: a load that began
            // before the change.
            self.apply(&subject);
        }
        let mut readers = told.readers;
        readers.retain(|(peer, _)| self.is_waited_for(*peer));
        self.acks.wait(told.position, &readers).await;
        delivery
    }

    /// Is a write acknowledged only once this reader has heard of it, or its lease is over?
    fn is_waited_for(&self, reader: Option<Peer>) -> bool {
        match self.settings.consistency {
            Consistency::Realtime => reader != Some(self.me),
            // Those who may still read from a server that has failed over, unheard of by this one.
            Consistency::Bounded(_) | Consistency::L2Only => {
                self.settings.fails_over && reader.is_none()
            }
            Consistency::L1Only => false,
        }
    }

    /// What is sent of a new value. Where L2 is not to hold it, or cannot, it is only found out whether
    /// somebody else has written the key.
    fn outgoing(&self, name: &[u8], new: &New<K, V>) -> Outgoing {
        let head = new.held.as_ref().map(|held| held.head);
        let is_local =
            self.settings.consistency == Consistency::L1Only || !self.settings.rollout.routes(name);
        let sealed = if is_local {
            None
        } else if name.len() > MAX_KEY {
            count(&self.counters.unstorable);
            Some(Sealed::Unstorable)
        } else {
            let head = Head {
                token: self.token(),
                // Where L2 was not asked for one, it is not sent.
                ..head.unwrap_or(Head::NONE)
            };
            Some(self.envelope(head, name, &new.loaded))
        };
        let fits = !matches!(sealed, Some(Sealed::Unstorable));
        let envelope = match sealed {
            Some(Sealed::Ready(envelope)) => Some(envelope),
            Some(Sealed::Unstorable) | None => Some(Vec::new()),
            Some(Sealed::Expired) => None,
        };
        let value = head.zip(envelope).map(|(head, envelope)| NewValue {
            expected: head.token,
            envelope,
            ttl: new.loaded.ttl.or(self.settings.ttl),
        });
        Outgoing {
            value,
            is_local,
            fits,
        }
    }

    /// What was invalidated goes from L1.
    pub(super) fn apply(&self, subject: &Subject) {
        match subject {
            Subject::Key(name) => {
                match key_of::<K>(name) {
                    // It has the same name here as in the process that sent the invalidation.
                    Some(key) if name_of(&key).as_ref() == Some(name) => drop(self.l1.remove(&key)),
                    _ => self.l1.forget(),
                }
                self.waiters_by_key.wake(name);
            }
            Subject::Tag(tag) => {
                self.l1.invalidate_tag(tag);
                self.waiters_by_key.wake_all();
            }
            Subject::All => {
                self.l1.clear();
                // A value that was written before, and is yet to be kept, is of an older epoch.
                self.l1.forget();
                self.waiters_by_key.wake_all();
            }
        }
    }
}
