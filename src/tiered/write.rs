//! Writes: to the database first, then to L2, then to all who may hold the old value.

use super::health::count;
use super::lease::Lease;
use super::load::Fresh;
use super::log::{StateChange, log};
use super::outbox::Pushed;
use super::remote::{Answer, Head, NewValue, Peer, Subject};
use super::{Consistency, Inner, TierKey, TierValue, TieredCache, key_of, name_of};
use crate::entry::Loaded;
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
    /// Redis could not be told. This process sees the change; for the others it waits until Redis
    /// answers again.
    Queued,
}

impl<K: TierKey, V: TierValue> TieredCache<K, V> {
    /// Makes the old value of a key invalid, in this process, in Redis and in all other processes: to be
    /// called after the database was changed. A load of the key that is under way, wherever, stores
    /// its value nowhere.
    ///
    /// # Cancellation
    ///
    /// What was begun goes on if the future is dropped.
    pub async fn invalidate(&self, key: &K) -> Delivery {
        let subject = subject_of(key);
        self.inner.tell(Change::of(subject, Some(key))).await
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
        self.inner.outbox.emptied().await;
    }

    /// Stores a value, in place of one that is held anywhere.
    ///
    /// If the key is written to or invalidated at the same time, neither value stays. While Redis is
    /// unreachable nothing is stored.
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
    /// it would wait for itself, until the [lease](crate::Builder::lease) ends.
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
        let subject = subject_of(&key);
        let held = match &subject {
            Subject::Key(name) => inner.look_under(name).await,
            Subject::Tag(_) | Subject::All => None,
        };
        let mut change = Change::of(subject.clone(), Some(&key));
        if let Some(write) = write {
            let unknown = Unknown {
                inner: Arc::clone(inner),
                subject: Some(subject),
            };
            let written = write().await;
            unknown.resolve();
            written?;
        } else {
            // There is no truth elsewhere that another writer may have changed meanwhile.
            change.stays_here = inner.is_local(&change.subject);
        }
        change.value = Some((loaded, held));
        Ok(inner.tell(change).await)
    }
}

enum NoError {}

/// An invalidation of this key: of everything, if it has no name.
fn subject_of<K: TierKey>(key: &K) -> Subject {
    name_of(key).map_or(Subject::All, Subject::Key)
}

/// What is to be told, and to be done here.
struct Change<K, V> {
    subject: Subject,
    key: Option<K>,
    value: Option<New<K, V>>,
    /// The new value stays in L1 though L2 does not hold it.
    stays_here: bool,
}

/// The new value, and what lay under the key before the database was changed.
type New<K, V> = (Loaded<V>, Option<Held<K, V>>);

impl<K: TierKey, V: TierValue> Change<K, V> {
    fn of(subject: Subject, key: Option<&K>) -> Self {
        Self {
            subject,
            key: key.cloned(),
            value: None,
            stays_here: false,
        }
    }
}

/// What lay under a key in L2: nobody has written it since if that is there still.
struct Held<K, V> {
    head: Head,
    /// If there was nothing, others who come wait for what is written.
    lease: Option<Lease<K, V>>,
}

/// A write of which it is not known how far it came, until it is.
struct Unknown<K: TierKey, V: TierValue> {
    inner: Arc<Inner<K, V>>,
    subject: Option<Subject>,
}

impl<K: TierKey, V: TierValue> Unknown<K, V> {
    fn resolve(mut self) {
        self.subject = None;
    }
}

impl<K: TierKey, V: TierValue> Drop for Unknown<K, V> {
    fn drop(&mut self) {
        if let Some(subject) = self.subject.take() {
            self.inner.tell_behind(Change::of(subject, None));
        }
    }
}

impl<K: TierKey, V: TierValue> Inner<K, V> {
    /// What lies under a key; a lease of this process's own if there is nothing.
    async fn look_under(self: &Arc<Self>, name: &[u8]) -> Option<Held<K, V>> {
        if !self.asks_l2(name) {
            return None;
        }
        let mut lease = Lease::ask(self, name);
        match self.l2.ask(&[lease.question(None)]).await.ok()?.pop()? {
            Answer::Lead { head, .. } => {
                lease.grant();
                let lease = Some(lease);
                Some(Held { head, lease })
            }
            Answer::Value { envelope, .. } => {
                lease.close();
                let head = Head::of(&envelope).ok()?;
                Some(Held { head, lease: None })
            }
            Answer::Led { .. } | Answer::None => {
                lease.close();
                None
            }
        }
    }

    /// Is what this is of kept in L1 alone?
    fn is_local(&self, subject: &Subject) -> bool {
        let is_routed = match subject {
            Subject::Key(name) => self.settings.rollout.routes(name),
            Subject::Tag(_) | Subject::All => true,
        };
        self.settings.consistency == Consistency::L1Only || !is_routed
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
        match self.outbox.push(subject) {
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
        let begun = Instant::now();
        let Change {
            subject,
            key,
            value,
            stays_here,
        } = change;
        let new = value
            .as_ref()
            .and_then(|(loaded, held)| self.new_value(&subject, loaded, held.as_ref()?));
        // An invalidation that comes now makes it void.
        let promise = key.as_ref().map(|key| self.l1.promise(key));
        let told = self.l2.invalidate(&subject, new.as_ref()).await;
        let Ok(told) = told else {
            // First, so that whoever finds nothing here does not ask L2.
            self.defer(subject.clone());
            drop(promise);
            self.apply(&subject);
            return Delivery::Queued;
        };
        count(&self.counters.invalidations);
        let mut kept = false;
        if let (Some(key), Some(promise), Some((loaded, held))) = (key, promise, value) {
            if told.stored || stays_here {
                kept = promise.keep(key, self.local(Fresh::read(loaded, begun)));
                if let Some(lease) = held.and_then(|held| held.lease) {
                    lease.close();
                }
            }
        }
        if let (true, Subject::Key(name)) = (kept, &subject) {
            self.waits.wake(name);
        } else {
            // Also if it might not be kept, for what is there instead may be older: a load that began
            // before the change.
            self.apply(&subject);
        }
        let mut readers = told.readers;
        readers.retain(|(peer, _)| self.is_waited_for(*peer));
        self.acks.wait(told.position, &readers).await;
        Delivery::Acknowledged
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

    fn new_value(
        &self,
        subject: &Subject,
        loaded: &Loaded<V>,
        held: &Held<K, V>,
    ) -> Option<NewValue> {
        let Subject::Key(name) = subject else {
            return None;
        };
        if self.settings.consistency == Consistency::L1Only {
            return None;
        }
        let ttl = loaded.ttl.or(self.settings.ttl);
        Some(NewValue {
            instead_of: held.head.token,
            envelope: self.envelope(
                Head {
                    token: self.token(),
                    ..held.head
                },
                name,
                loaded,
            )?,
            ttl,
        })
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
                self.waits.wake(name);
            }
            Subject::Tag(tag) => {
                self.l1.invalidate_tag(tag);
                self.waits.wake_all();
            }
            Subject::All => {
                self.l1.clear();
                self.waits.wake_all();
            }
        }
    }
}
