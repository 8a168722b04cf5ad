//! The protocol of a change: publish it, apply it locally, await acknowledgements.
//!
//! A change is an invalidation of a key, a tag or everything, or a new value for a key.
//!
//! 1. **Before the write** (new values only). The writer asks L2 for the [state of the key](PriorState). If L2 has no
//!    value, the writer acquires the load lease, so that other callers wait for the new value. An insertion, which writes
//!    to no database, replaces whatever L2 has, so it skips this step.
//! 2. **Write.** The writer changes the database. The remaining steps run in a task of their own, so that a change
//!    whose caller is cancelled is not published in part.
//! 3. **Publish.** L2 raises the version of the namespace, sends an event to all processes, and stores the new value if
//!    the state of the key is still that of step 1. Its reply names the processes that hold a read lease. If L2 cannot
//!    be reached, the invalidation is queued and applied locally, and the protocol ends.
//! 4. **Apply locally.** L1 stores the new value if no other writer has changed the key since step 1. Otherwise it
//!    removes the old value.
//! 5. **Await acknowledgements.** The writer waits until each process that holds a read lease has applied the event, or
//!    its lease has ended.
//!
//! A load that began before step 3 has a lease of an older version, so L2 refuses its value. In L1, step 4 revokes the
//! loads of the key that are in flight. If such a load stores its value in L1 between steps 3 and 4, the
//! [insertion](ConditionalInsertion) that was begun before step 3 fails, and step 4 removes that value instead of
//! storing the new one.

use crate::consistency::{Consistency, Propagation};
use crate::entry::Loaded;
use crate::local::tier_hooks::ConditionalInsertion;
use crate::tiered::builder::MAX_KEY_LEN;
use crate::tiered::coherence::pending_invalidations::Pushed;
use crate::tiered::health::count;
use crate::tiered::l2::remote::{
    Head, Invalidated, NewValue, Peer, RemoteError, Subject, write_number,
};
use crate::tiered::load::{Encoded, Fetched};
use crate::tiered::log::{StateChange, log};
use crate::tiered::partition::Partition;
use crate::tiered::prior_state::PriorState;
use crate::tiered::{Inner, RemoteKey, RemoteValue, key_of, name_of};
use crate::trace::Span;
use futures_util::future::join_all;
use std::sync::Arc;
use std::time::Instant;
use tokio::task::JoinHandle;

/// Number of times that an insertion is sent while everything or its tags are invalidated at the same time.
const MAX_INSERT_ATTEMPTS: usize = 5;

/// A change to publish, and to apply in this process.
pub(super) struct Change<K, V> {
    pub(super) subject: Subject,
    pub(super) key: Option<K>,
    pub(super) value: Option<NewEntry<K, V>>,
}

impl<K: RemoteKey, V: RemoteValue> Change<K, V> {
    /// Creates a change without a new value. `key` is the key of `subject`, if it has one.
    pub(super) fn invalidation(subject: Subject, key: Option<&K>) -> Self {
        Self {
            subject,
            key: key.cloned(),
            value: None,
        }
    }
}

/// The new value of a key.
pub(super) struct NewEntry<K, V> {
    pub(super) loaded: Loaded<V>,
    /// The state of the key in L2 before the write. `None` if L2 was not asked or did not answer, or if another process
    /// has the load lease.
    pub(super) prior: Option<PriorState<K, V>>,
    /// `true` for an insertion, which writes to no database.
    pub(super) is_inserted: bool,
    /// The time at which the call began, before the write.
    pub(super) begun: Instant,
    /// The epoch of L1 before the write.
    pub(super) epoch: u64,
}

/// The results of sending a change, each with the number of its partition.
pub(super) type Sent = Vec<(usize, Result<Invalidated, RemoteError>)>;

/// A new value, encoded for publication.
pub(super) struct Outgoing {
    /// The value, or `None` if only the invalidation is published.
    pub(super) value: Option<NewValue>,
    /// `true` if the class or the rollout excludes the key from L2.
    is_local: bool,
    /// `false` if L2 cannot store the value.
    fits: bool,
    /// The number of the write.
    pub(super) write: u64,
}

impl<K: RemoteKey, V: RemoteValue> Inner<K, V> {
    /// Runs steps 3 to 5 for a change, and waits for their end.
    pub(super) async fn publish(self: &Arc<Self>, change: Change<K, V>) -> Propagation {
        let subject = change.subject.clone();
        if let Ok(propagation) = self.spawn_publication(change).await {
            return propagation;
        }
        // The runtime shuts down, or user code has panicked, for example the `Drop` of a removed entry.
        for number in self.partitions.map.written(&subject).into_iter().flatten() {
            self.queue(&self.partitions[number], subject.clone());
        }
        self.apply(&subject);
        Propagation::Queued
    }

    /// Runs steps 3 to 5 in a task of their own.
    pub(super) fn spawn_publication(
        self: &Arc<Self>,
        change: Change<K, V>,
    ) -> JoinHandle<Propagation> {
        let inner = Arc::clone(self);
        let publication = async move { inner.run_publication(change).await };
        self.spawn(Span::current().around(publication))
    }

    async fn run_publication(self: Arc<Self>, change: Change<K, V>) -> Propagation {
        let Change {
            subject,
            key,
            value,
        } = change;
        // The insertion is begun before the change is published, so that it fails if an invalidation arrives meanwhile.
        let insertion = key.as_ref().map(|key| self.l1.begin_insertion(key));

        // Step 3: publish.
        let asked = Instant::now();
        let mut value = value;
        let (sent, outgoing) = self.send(&subject, &mut value).await;
        let is_sent_to_all = sent.iter().all(|(_, result)| result.is_ok());
        let mut propagation = if is_sent_to_all {
            Propagation::Acknowledged
        } else {
            Propagation::Queued
        };
        // The invalidation is queued before L1 removes the old value, so that a caller that misses L1 does not ask L2.
        let replies = self.queue_failed(&subject, sent);

        // Step 4: apply locally.
        let mut stored = false;
        let reply_of = |partition| replies.iter().find(|(number, _)| *number == partition);
        let outgoing = outgoing.and_then(|(partition, outgoing)| {
            let (_, published) = reply_of(partition)?;
            Some((outgoing, published))
        });
        if let (Some(key), Some(insertion), Some(mut new), Some((outgoing, published))) =
            (key, insertion, value, outgoing)
        {
            if published.stored {
                new.loaded.write = outgoing.write;
            }
            let is_shareable = outgoing.fits && !published.is_refused;
            // An invalidation that is queued for the other layout is still to be sent.
            if is_sent_to_all && !is_shareable {
                propagation = Propagation::NotShared;
            }
            let stays_local = new.is_inserted && (outgoing.is_local || !is_shareable);
            stored = self.store_published(key, insertion, new, published, stays_local, asked);
        }
        self.apply_published(&subject, stored);

        // Step 5: await acknowledgements.
        self.await_acknowledgements(replies).await;
        propagation
    }

    /// Queues the invalidation for the partitions that did not get it, and returns the replies of the others.
    pub(super) fn queue_failed(&self, subject: &Subject, sent: Sent) -> Vec<(usize, Invalidated)> {
        let mut replies = Vec::new();
        for (number, result) in sent {
            match result {
                Ok(published) => replies.push((number, published)),
                Err(_) => self.queue(&self.partitions[number], subject.clone()),
            }
        }
        if !replies.is_empty() {
            count(&self.counters.invalidations);
        }
        replies
    }

    /// Sends a change to the partitions that it concerns, in the order of their layouts. Returns the reply of each and,
    /// with the number of its partition, the new value.
    async fn send(
        &self,
        subject: &Subject,
        value: &mut Option<NewEntry<K, V>>,
    ) -> (Sent, Option<(usize, Outgoing)>) {
        let (mut sent, mut outgoing) = (Vec::new(), None);
        let layouts = self.partitions.map.written(subject);
        if let (Subject::Key(name), Some(new)) = (subject, value) {
            let prior = new.prior.as_ref().map(PriorState::partition);
            let partition = prior.unwrap_or_else(|| self.partitions.map.number_of(name));
            for number in layouts.into_iter().flatten() {
                let result = if number == partition {
                    let (result, value) = self.send_value(partition, subject, name, new).await;
                    outgoing = Some((partition, value));
                    result
                } else {
                    self.partitions[number].l2.invalidate(subject, None).await
                };
                sent.push((number, result));
            }
            return (sent, outgoing);
        }
        for layout in layouts {
            let calls = layout.map(|number| async move {
                let l2 = &self.partitions[number].l2;
                (number, l2.invalidate(subject, None).await)
            });
            sent.extend(join_all(calls).await);
        }
        (sent, None)
    }

    /// Sends a new value. If that of an insertion is not stored, because everything or one of its tags was invalidated
    /// after the position that this process knew, sends it again.
    async fn send_value(
        &self,
        partition: usize,
        subject: &Subject,
        name: &[u8],
        new: &mut NewEntry<K, V>,
    ) -> (Result<Invalidated, RemoteError>, Outgoing) {
        let l2 = &self.partitions[partition].l2;
        let mut attempts = 0;
        loop {
            let outgoing = self.outgoing(name, new);
            let sent = outgoing.value.as_ref();
            let published = match l2.invalidate(subject, sent).await {
                Ok(published) => published,
                failed => return (failed, outgoing),
            };
            attempts += 1;
            let is_outdated = !published.stored
                && !published.is_refused
                && sent.is_some_and(|sent| sent.expected.is_none() && !sent.envelope.is_empty());
            if !is_outdated || attempts == MAX_INSERT_ATTEMPTS {
                return (Ok(published), outgoing);
            }
            new.prior = Some(PriorState::of_any(partition, published.position));
        }
    }

    /// Stores a new value in L1, if no other writer has changed the key since step 1. Returns `true` if it is stored.
    fn store_published(
        &self,
        key: K,
        insertion: ConditionalInsertion<'_, K, V>,
        new: NewEntry<K, V>,
        published: &Invalidated,
        stays_local: bool,
        asked: Instant,
    ) -> bool {
        let stored = if published.stored || stays_local {
            let fetched = Fetched::written(new.loaded, asked);
            insertion.commit(key, self.for_l1(fetched))
        } else if published.untouched {
            // L2 stores no value, so it has not checked for invalidations of tags or of everything since step 1. L1
            // checks for them by the epoch.
            let fetched = Fetched::written(new.loaded, new.begun);
            insertion.commit_as_of(new.epoch, key, self.for_l1(fetched))
        } else {
            false
        };
        // The change has replaced or deleted the lease in L2.
        if let Some(lease) = new.prior.and_then(PriorState::into_lease) {
            lease.close();
        }
        stored
    }

    /// Removes the old value from L1 unless the new one is stored, and wakes the callers that wait for it.
    fn apply_published(&self, subject: &Subject, stored: bool) {
        match subject {
            Subject::Key(name) if stored => self.key_waiters.wake(name),
            // This includes a new value that L1 refused, because L1 may then contain the value of a load that began
            // before the change.
            _ => self.apply(subject),
        }
    }

    /// Waits until the readers of each partition have applied the change to which it has replied.
    pub(super) async fn await_acknowledgements(&self, replies: Vec<(usize, Invalidated)>) {
        let waits = replies.into_iter().map(|(number, published)| async move {
            let mut readers = published.readers;
            readers.retain(|(peer, _)| self.awaits(*peer));
            let acks = &self.partitions[number].acks;
            acks.wait(published.position, &readers).await;
        });
        join_all(waits).await;
    }

    /// Checks whether a change waits for the acknowledgement of this reader, or for the end of its read lease.
    fn awaits(&self, reader: Option<Peer>) -> bool {
        match self.settings.consistency {
            Consistency::Realtime => reader != Some(self.me),
            // The change waits only for readers that this server does not know, because they may still read from a
            // demoted primary.
            Consistency::Bounded(_) | Consistency::L2Only => {
                self.settings.fails_over && reader.is_none()
            }
            Consistency::L1Only => false,
        }
    }

    /// Queues an invalidation of a partition until L2 answers.
    pub(super) fn queue(&self, partition: &Partition, subject: Subject) {
        count(&self.counters.deferred);
        match partition.pending_invalidations.push(subject) {
            Pushed::First => log(self.name(), &StateChange::Queued),
            Pushed::Overflowed => {
                count(&self.counters.overflows);
                log(self.name(), &StateChange::Overflowed);
            }
            Pushed::Another => {}
        }
    }

    /// Encodes a new value. If L2 does not or cannot store it, the value is empty, and publishing it only detects
    /// whether another writer has changed the key.
    pub(super) fn outgoing(&self, name: &[u8], new: &NewEntry<K, V>) -> Outgoing {
        let prior_head = new.prior.as_ref().map(PriorState::head);
        let replaces_any = new.prior.as_ref().is_some_and(PriorState::is_any);
        let is_local =
            self.settings.consistency == Consistency::L1Only || !self.settings.rollout.routes(name);
        let token = self.token();
        let encoded = if is_local {
            None
        } else if name.len() > MAX_KEY_LEN {
            count(&self.counters.unstorable);
            Some(Encoded::Unstorable)
        } else {
            let head = Head {
                token,
                // Without a prior state the value is not sent, so `Head::NONE` is never stored.
                ..prior_head.unwrap_or(Head::NONE)
            };
            Some(self.encode(head, name, &new.loaded))
        };
        let fits = !matches!(encoded, Some(Encoded::Unstorable));
        let envelope = match encoded {
            Some(Encoded::Ready(envelope)) => Some(envelope),
            Some(Encoded::Unstorable) | None => Some(Vec::new()),
            Some(Encoded::Expired) => None,
        };
        let value = prior_head.zip(envelope).map(|(head, envelope)| NewValue {
            expected: (!replaces_any).then_some(head.token),
            envelope,
            ttl: new.loaded.ttl.or(self.settings.ttl),
        });
        Outgoing {
            value,
            is_local,
            fits,
            write: write_number(&token),
        }
    }

    /// Applies an invalidation to L1, and wakes the callers that wait for the value.
    pub(super) fn apply(&self, subject: &Subject) {
        match subject {
            Subject::Key(name) => {
                match key_of::<K>(name) {
                    // This process encodes the key to the same name as the process that sent the invalidation. If it
                    // does not, the entry cannot be found, so all entries are invalidated.
                    Some(key) if name_of(&key).as_ref() == Some(name) => drop(self.l1.remove(&key)),
                    _ => self.l1.invalidate_all_entries(),
                }
                self.key_waiters.wake(name);
            }
            Subject::Tag(tag) => {
                self.l1.invalidate_tag(tag);
                self.key_waiters.wake_all();
            }
            Subject::All => {
                self.l1.clear();
                // This begins an epoch, so that L1 does not store a value that was written before the change.
                self.l1.invalidate_all_entries();
                self.key_waiters.wake_all();
            }
        }
    }
}
