//! Plain reads of many callers in few round trips.
//!
//! The first few reads are sent at once. While they are in flight, further ones wait for each other, for at most the
//! time of a round trip, and are sent together. A round trip for thirty reads costs the process and the server little
//! more than one for a single read, because one read of the state serves all of them.
//!
//! A read may belong to a future that nobody polls, so a round trip for several callers is made in a task.

use crate::tiered::l2::redis::plain_read::PlainReplies;
use crate::tiered::l2::redis::{MAX_QUEUE_TIME, Redis};
use crate::tiered::l2::remote::{LookupReply, LookupRequest, RemoteError, Token};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::oneshot;

/// Number of reads that are sent at once, each in a round trip of its own.
const MAX_SINGLE_READS: usize = 2;

/// Number of round trips for several callers that are in flight at a time.
const MAX_BATCHES: usize = 2;

/// The result of a plain read: the reply, or `None` if a script has to decide.
type Decision = (Option<LookupReply>, Option<String>);

/// Collects reads that are sent together.
#[derive(Default)]
pub(super) struct ReadBatches(Mutex<State>);

#[derive(Default)]
struct State {
    /// Number of reads in flight that have a round trip of their own.
    single_reads: usize,
    /// Number of tasks that send batches.
    senders: usize,
    queue: Vec<QueuedRead>,
}

/// A read that waits for the next batch.
struct QueuedRead {
    key: Box<[u8]>,
    lease_token: Option<Token>,
    head_only: bool,
    queued: Instant,
    reply: oneshot::Sender<Result<Decision, RemoteError>>,
}

impl QueuedRead {
    fn request(&self) -> LookupRequest<'_> {
        LookupRequest {
            lease_token: self.lease_token,
            head_only: self.head_only,
            ..LookupRequest::without_load(&self.key)
        }
    }
}

/// A read in flight with a round trip of its own.
struct SingleRead<'a>(&'a ReadBatches);

impl Drop for SingleRead<'_> {
    fn drop(&mut self) {
        self.0.0.lock().single_reads -= 1;
    }
}

impl ReadBatches {
    /// Begins a read with a round trip of its own, unless too many are in flight.
    fn begin_single_read(&self) -> Option<SingleRead<'_>> {
        let mut state = self.0.lock();
        let is_allowed = state.single_reads < MAX_SINGLE_READS;
        is_allowed.then(|| {
            state.single_reads += 1;
            SingleRead(self)
        })
    }

    /// Queues a read. Returns `true` if the caller has to start a task that sends batches.
    fn push(&self, read: QueuedRead) -> bool {
        let mut state = self.0.lock();
        state.queue.push(read);
        let needs_sender = state.senders < MAX_BATCHES;
        if needs_sender {
            state.senders += 1;
        }
        needs_sender
    }
}

/// A task that sends batches.
struct Sender {
    redis: Arc<Redis>,
    has_ended: bool,
}

impl Sender {
    /// Sends batches until no read is queued.
    async fn run(mut self) {
        loop {
            // Callers that are ready to run may queue further reads first.
            tokio::task::yield_now().await;
            let reads = self.take();
            if self.has_ended {
                return;
            }
            self.redis.send_batch(reads).await;
        }
    }

    /// Takes the reads of the next batch from the queue. If the queue is empty, this task has ended.
    fn take(&mut self) -> Vec<QueuedRead> {
        let limit = self.redis.batch_len();
        let mut state = self.redis.read_batches.0.lock();
        let count = state.queue.len().min(limit);
        if count == 0 {
            self.has_ended = true;
            state.senders -= 1;
        }
        state.queue.drain(..count).collect()
    }
}

/// Notifies the callers of the queued reads if the task is the last one and does not end by itself, because the runtime
/// shuts down.
impl Drop for Sender {
    fn drop(&mut self) {
        if self.has_ended {
            return;
        }
        let mut state = self.redis.read_batches.0.lock();
        state.senders -= 1;
        let is_last = state.senders == 0;
        let stranded = is_last.then(|| std::mem::take(&mut state.queue));
        drop(state);
        drop(stranded);
    }
}

impl Redis {
    /// Reads one value, alone or together with those of other callers.
    pub(super) async fn read_one(
        self: &Arc<Self>,
        request: &LookupRequest<'_>,
    ) -> Result<PlainReplies, RemoteError> {
        if request.unreadable.is_some() {
            return Ok(PlainReplies::undecided(1));
        }
        if let Some(_in_flight) = self.read_batches.begin_single_read() {
            return self.read_plain(std::slice::from_ref(request)).await;
        }
        let (reply, receiver) = oneshot::channel();
        let needs_sender = self.read_batches.push(QueuedRead {
            key: request.key.into(),
            lease_token: request.lease_token,
            head_only: request.head_only,
            queued: Instant::now(),
            reply,
        });
        if needs_sender {
            let sender = Sender {
                redis: Arc::clone(self),
                has_ended: false,
            };
            self.runtime.spawn(sender.run());
        }
        // The time limit is for a runtime that is not driven. Otherwise the round trip ends in time.
        let received =
            tokio::time::timeout(2 * self.settings.deadline + MAX_QUEUE_TIME, receiver).await;
        let received = received.map_err(|_| RemoteError::Timeout)?;
        let shut_down = || RemoteError::Disconnected("the runtime shuts down".into());
        let (reply, refusal) = received.unwrap_or_else(|_| Err(shut_down()))?;
        Ok(PlainReplies {
            replies: vec![reply],
            refusal,
        })
    }

    /// Sends one batch, except for reads whose callers were dropped, or have waited for too long.
    async fn send_batch(&self, reads: Vec<QueuedRead>) {
        let max_wait = self.settings.deadline;
        let awaited = reads.into_iter().filter(|read| !read.reply.is_closed());
        let (late, reads): (Vec<_>, Vec<_>) =
            awaited.partition(|read| read.queued.elapsed() >= max_wait);
        for read in late {
            // The caller may have been dropped, here and below.
            let _ = read.reply.send(Err(RemoteError::Timeout));
        }
        if reads.is_empty() {
            return;
        }
        let requests: Vec<_> = reads.iter().map(QueuedRead::request).collect();
        match self.read_plain(&requests).await {
            Ok(PlainReplies { replies, refusal }) => {
                for (read, reply) in reads.into_iter().zip(replies) {
                    let _ = read.reply.send(Ok((reply, refusal.clone())));
                }
            }
            Err(error) => {
                for read in reads {
                    let _ = read.reply.send(Err(error.clone()));
                }
            }
        }
    }
}
