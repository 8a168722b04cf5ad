//! Calls of many callers in few round trips.
//!
//! The first calls are made at once. While they are in flight, further ones wait for each other, and are sent together
//! when a round trip has ended.
//!
//! The partitions of a cache share one queue for their reads. Each partition of a batch has a round trip of its own, and
//! those to one server are sent at the same time, which costs the server and the process much less than at different
//! times. With a queue for each of 16 partitions, 64 tasks would hardly ever have to wait for each other.
//!
//! A call may belong to a future that nobody polls, so a round trip for several callers is made in a task.

use crate::tiered::l2::redis::{MAX_QUEUE_TIME, malformed_reply};
use crate::tiered::l2::remote::RemoteError;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use parking_lot::Mutex;
use std::future::{Future, ready};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::timeout;

/// Number of calls that are made at once, each in a round trip of its own.
const MAX_SINGLE_CALLS: usize = 2;

/// Number of round trips for several callers that are in flight at a time.
const MAX_BATCHES: usize = 2;

/// Number of times that a batch waits for further calls.
const MAX_GATHERINGS: u32 = 8;

/// Time for which the next batch waits for the slower partitions of a batch. While no partition has replied, the next
/// batch waits longer, unless calls to other partitions are queued. A server that does not answer delays the calls to
/// others by not more than this.
const MAX_STRAGGLER_TIME: Duration = Duration::from_millis(1);

/// A type that sends calls: a partition, or a link.
pub(super) trait BatchOwner: Send + Sync + 'static {
    /// Returns the time after which a call that was not sent fails.
    fn deadline(&self) -> Duration;

    /// Returns the runtime of the tasks that send.
    fn runtime(&self) -> &Handle;
}

/// A kind of calls that are sent together.
pub(super) trait Batched: Sized + Send + Sync + 'static {
    type Owner: BatchOwner;

    /// The result for one caller.
    type Reply: Send + 'static;

    /// The time for which a batch waits for further calls. It waits again while there are some.
    const GATHER_TIME: Duration = Duration::ZERO;

    /// The longest time for which a batch waits for further calls.
    const MAX_GATHER_TIME: Duration = Self::GATHER_TIME.saturating_mul(MAX_GATHERINGS);

    /// `true` if a call has no purpose without its caller. It is not sent if the caller was dropped before.
    const IS_READ: bool = false;

    /// Returns the calls of this kind, which several owners may share.
    fn batches(owner: &Self::Owner) -> &Batches<Self>;

    /// Returns the largest number of calls in a batch.
    fn max_len(owner: &Self::Owner) -> usize;

    /// Sends a batch in one round trip, and returns the result of each call.
    fn send(
        owner: &Arc<Self::Owner>,
        calls: &[Self],
    ) -> impl Future<Output = Result<Vec<Self::Reply>, RemoteError>> + Send;

    /// Undoes a call whose caller was dropped while it was in flight.
    fn undo(_owner: &Arc<Self::Owner>, _call: Self, _reply: Self::Reply) {}
}

/// A call that waits for the next batch.
struct Queued<B: Batched> {
    owner: Arc<B::Owner>,
    call: B,
    since: Instant,
    /// Sends the result to the caller, which may have been dropped.
    reply: oneshot::Sender<Result<B::Reply, RemoteError>>,
}

/// The calls of one kind in flight, and those that wait.
pub(super) struct Batches<B: Batched>(Mutex<Queue<Queued<B>>>);

impl<B: Batched> Default for Batches<B> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<B: Batched> Batches<B> {
    /// Begins a call with a round trip of its own, which lasts until the result is dropped. Returns `None` if too many
    /// are in flight.
    pub(super) fn begin_single(&self) -> Option<SingleCall<'_, B>> {
        let begins = self.0.lock().begin_single();
        begins.then(|| SingleCall(self))
    }

    /// Sends a call of the owner of these batches together with those of other callers.
    pub(super) async fn send(owner: &Arc<B::Owner>, call: B) -> Result<B::Reply, RemoteError> {
        let (reply, receiver) = oneshot::channel();
        let queued = Queued {
            owner: Arc::clone(owner),
            call,
            since: Instant::now(),
            reply,
        };
        if B::batches(owner).0.lock().push(queued) {
            let sender = Sender::<B> {
                owner: Arc::clone(owner),
                has_ended: false,
            };
            owner.runtime().spawn(sender.run());
        }
        // The time limit is for a runtime that is not driven. Otherwise the round trip ends in time.
        let limit = 2 * owner.deadline() + MAX_QUEUE_TIME;
        let received = timeout(limit, receiver).await;
        let shut_down = || RemoteError::Disconnected("the runtime shuts down".into());
        received
            .map_err(|_| RemoteError::Timeout)?
            .unwrap_or_else(|_| Err(shut_down()))
    }
}

/// A call in flight with a round trip of its own.
pub(super) struct SingleCall<'a, B: Batched>(&'a Batches<B>);

impl<B: Batched> Drop for SingleCall<'_, B> {
    fn drop(&mut self) {
        self.0.0.lock().end_single();
    }
}

/// The calls in flight, and those that wait. If calls wait, a task sends them.
struct Queue<T> {
    /// Number of calls in flight that have a round trip of their own.
    singles: usize,
    /// Number of tasks that send batches.
    senders: usize,
    waiting: Vec<T>,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self {
            singles: 0,
            senders: 0,
            waiting: Vec::new(),
        }
    }
}

impl<T> Queue<T> {
    /// Begins a call with a round trip of its own. Returns `false` if too many are in flight.
    fn begin_single(&mut self) -> bool {
        let is_allowed = self.singles < MAX_SINGLE_CALLS;
        self.singles += usize::from(is_allowed);
        is_allowed
    }

    fn end_single(&mut self) {
        self.singles -= 1;
    }

    /// Queues a call. Returns `true` if the caller has to start a task that sends batches.
    fn push(&mut self, call: T) -> bool {
        self.waiting.push(call);
        let needs_sender = self.senders < MAX_BATCHES;
        self.senders += usize::from(needs_sender);
        needs_sender
    }

    /// Takes up to `limit` calls, which are sent in one batch. Returns `None` if there are none: then the task that
    /// calls this has ended.
    fn take(&mut self, limit: usize) -> Option<Vec<T>> {
        if self.waiting.is_empty() {
            self.senders -= 1;
            return None;
        }
        let count = self.waiting.len().min(limit);
        Some(self.waiting.drain(..count).collect())
    }

    /// Notes that a task has ended although calls may wait. Returns those that no other task sends.
    fn abandon(&mut self) -> Vec<T> {
        self.senders -= 1;
        if self.senders > 0 {
            return Vec::new();
        }
        std::mem::take(&mut self.waiting)
    }
}

/// A task that sends batches.
struct Sender<B: Batched> {
    owner: Arc<B::Owner>,
    has_ended: bool,
}

impl<B: Batched> Sender<B> {
    /// Sends batches until no call is queued.
    async fn run(mut self) {
        loop {
            self.gather().await;
            let limit = B::max_len(&self.owner);
            let calls = B::batches(&self.owner).0.lock().take(limit);
            let Some(calls) = calls else {
                self.has_ended = true;
                return;
            };
            self.send_to_all(calls).await;
        }
    }

    /// Sends the calls of a batch to their owners.
    async fn send_to_all(&self, queued: Vec<Queued<B>>) {
        let mut groups: Vec<Vec<Queued<B>>> = Vec::new();
        for call in queued {
            let is_same = |group: &&mut Vec<Queued<B>>| Arc::ptr_eq(&group[0].owner, &call.owner);
            match groups.iter_mut().find(is_same) {
                Some(group) => group.push(call),
                None => groups.push(vec![call]),
            }
        }
        let owners: Vec<_> = groups
            .iter()
            .map(|group| Arc::clone(&group[0].owner))
            .collect();
        let calls = groups.into_iter().map(Self::send);
        let mut sending: FuturesUnordered<_> = calls.collect();
        // While no partition has replied, only calls to other partitions have a reason to pass this batch.
        while timeout(MAX_STRAGGLER_TIME, sending.next()).await.is_err() {
            if self.is_awaited_by_others(&owners) {
                self.owner.runtime().spawn(sending.for_each(|()| ready(())));
                return;
            }
        }
        if sending.is_empty() {
            return;
        }
        let all = sending.by_ref().for_each(|()| ready(()));
        if timeout(MAX_STRAGGLER_TIME, all).await.is_err() {
            self.owner.runtime().spawn(sending.for_each(|()| ready(())));
        }
    }

    /// Checks whether calls of owners other than these wait.
    fn is_awaited_by_others(&self, owners: &[Arc<B::Owner>]) -> bool {
        let queue = B::batches(&self.owner).0.lock();
        let is_other = |call: &Queued<B>| !owners.iter().any(|it| Arc::ptr_eq(it, &call.owner));
        queue.waiting.iter().any(is_other)
    }

    /// Waits for further calls of a batch.
    async fn gather(&self) {
        if B::GATHER_TIME.is_zero() {
            // Callers that are ready to run may queue further calls first.
            tokio::task::yield_now().await;
            return;
        }
        let waiting = || B::batches(&self.owner).0.lock().waiting.len();
        for _ in 0..MAX_GATHERINGS {
            let before = waiting();
            tokio::time::sleep(B::GATHER_TIME).await;
            if waiting() == before {
                return;
            }
        }
    }

    /// Sends calls of one owner, and replies to each caller.
    async fn send(queued: Vec<Queued<B>>) {
        let owner = Arc::clone(&queued[0].owner);
        let deadline = owner.deadline();
        let (mut calls, mut replies) = (Vec::new(), Vec::new());
        for Queued {
            call, since, reply, ..
        } in queued
        {
            if since.elapsed() >= deadline {
                let _ = reply.send(Err(RemoteError::Timeout));
            } else if !(B::IS_READ && reply.is_closed()) {
                calls.push(call);
                replies.push(reply);
            }
        }
        if calls.is_empty() {
            return;
        }
        match B::send(&owner, &calls).await {
            Ok(results) => {
                for ((reply, call), result) in replies.into_iter().zip(calls).zip(results) {
                    if let Err(Ok(unreceived)) = reply.send(Ok(result)) {
                        B::undo(&owner, call, unreceived);
                    }
                }
            }
            Err(RemoteError::Refused(_) | RemoteError::Forbidden(_)) if calls.len() > 1 => {
                // One of them may have been refused, which must not fail the others.
                let mut outage = None;
                for (reply, call) in replies.into_iter().zip(calls) {
                    let result = match &outage {
                        None => B::send(&owner, &[call]).await.and_then(only),
                        Some(error) => Err(RemoteError::clone(error)),
                    };
                    outage = result.as_ref().err().filter(|it| it.is_outage()).cloned();
                    let _ = reply.send(result);
                }
            }
            Err(error) => {
                for reply in replies {
                    let _ = reply.send(Err(error.clone()));
                }
            }
        }
    }
}

/// Returns the only result of a batch of one.
pub(super) fn only<T>(mut results: Vec<T>) -> Result<T, RemoteError> {
    results.pop().ok_or_else(malformed_reply)
}

/// If the task does not end by itself, because the runtime shuts down, the callers of calls that no other task sends are
/// notified.
impl<B: Batched> Drop for Sender<B> {
    fn drop(&mut self) {
        if !self.has_ended {
            let stranded = B::batches(&self.owner).0.lock().abandon();
            drop(stranded);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::future::join_all;
    use proptest::prelude::*;

    /// Something that happens to a queue.
    #[derive(Debug, Clone)]
    enum Event {
        Push,
        Take(usize),
        Abandon,
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            4 => Just(Event::Push),
            4 => (1..5usize).prop_map(Event::Take),
            1 => Just(Event::Abandon),
        ]
    }

    proptest! {
        #[test]
        fn each_call_is_sent_once_or_abandoned_and_none_waits_without_a_sender(
            events in proptest::collection::vec(event(), 0..200),
        ) {
            let mut queue = Queue::default();
            let (mut pushed, mut senders, mut left) = (0_usize, 0, Vec::new());
            for event in events {
                match event {
                    Event::Push => {
                        senders += usize::from(queue.push(pushed));
                        pushed += 1;
                    }
                    Event::Take(limit) if senders > 0 => match queue.take(limit) {
                        Some(calls) => {
                            prop_assert!((1..=limit).contains(&calls.len()));
                            left.extend(calls);
                        }
                        None => senders -= 1,
                    },
                    Event::Abandon if senders > 0 => {
                        left.extend(queue.abandon());
                        senders -= 1;
                    }
                    Event::Take(_) | Event::Abandon => {}
                }
                prop_assert!(senders <= MAX_BATCHES && senders == queue.senders);
                prop_assert!(senders > 0 || queue.waiting.is_empty());
            }
            while senders > 0 {
                match queue.take(usize::MAX) {
                    Some(calls) => left.extend(calls),
                    None => senders -= 1,
                }
            }
            prop_assert_eq!(left, (0..pushed).collect::<Vec<_>>());
        }
    }

    #[test]
    fn few_calls_have_a_round_trip_of_their_own() {
        let mut queue = Queue::<()>::default();
        for _ in 0..MAX_SINGLE_CALLS {
            assert!(queue.begin_single());
        }
        assert!(!queue.begin_single());
        queue.end_single();
        assert!(queue.begin_single());
    }

    /// An owner that replies with the size of the batch, or not at all.
    struct Replies {
        batches: Arc<Batches<Call>>,
        is_hanging: bool,
        runtime: Handle,
    }

    impl BatchOwner for Replies {
        fn deadline(&self) -> Duration {
            Duration::from_secs(1)
        }

        fn runtime(&self) -> &Handle {
            &self.runtime
        }
    }

    struct Call;

    impl Batched for Call {
        type Owner = Replies;
        type Reply = usize;

        fn batches(owner: &Replies) -> &Batches<Self> {
            &owner.batches
        }

        fn max_len(_: &Replies) -> usize {
            100
        }

        async fn send(owner: &Arc<Replies>, calls: &[Self]) -> Result<Vec<usize>, RemoteError> {
            if owner.is_hanging {
                std::future::pending::<()>().await;
            }
            // The time of a round trip.
            tokio::time::sleep(Duration::from_millis(1)).await;
            Ok(vec![calls.len(); calls.len()])
        }
    }

    /// Returns partitions that share their batches, and of which some do not reply.
    fn partitions<const N: usize>(are_hanging: [bool; N]) -> [Arc<Replies>; N] {
        let batches = Arc::<Batches<Call>>::default();
        are_hanging.map(|is_hanging| {
            Arc::new(Replies {
                batches: Arc::clone(&batches),
                is_hanging,
                runtime: Handle::current(),
            })
        })
    }

    #[tokio::test(start_paused = true)]
    async fn partition_that_does_not_reply_delays_no_other_partition() {
        let [hanging, others @ ..] = partitions([true, false, false]);
        for _ in 0..10 {
            let begun = tokio::time::Instant::now();
            for _ in 0..5 {
                let hanging = Arc::clone(&hanging);
                tokio::spawn(async move { Batches::send(&hanging, Call).await });
            }
            let calls = others.iter().flat_map(|owner| (0..20).map(move |_| owner));
            let replies = join_all(calls.map(|owner| Batches::send(owner, Call))).await;
            for reply in replies {
                // The calls of one partition are sent together, and not with those of another one.
                assert!((2..=20).contains(&reply.unwrap()));
            }
            assert!(
                begun.elapsed() <= 4 * MAX_STRAGGLER_TIME,
                "{:?}",
                begun.elapsed()
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn batches_of_a_partition_that_does_not_reply_delay_no_other_partition() {
        let [hanging, other] = partitions([true, false]);
        for _ in 0..10 {
            for _ in 0..2 * MAX_BATCHES {
                let hanging = Arc::clone(&hanging);
                tokio::spawn(async move { Batches::send(&hanging, Call).await });
                // Each is in a batch of its own, if a task is left to send it.
                tokio::time::sleep(Duration::from_micros(100)).await;
            }
            let begun = tokio::time::Instant::now();
            assert_eq!(Batches::send(&other, Call).await.unwrap(), 1);
            assert!(
                begun.elapsed() <= 4 * MAX_STRAGGLER_TIME,
                "{:?}",
                begun.elapsed()
            );
        }
    }
}
