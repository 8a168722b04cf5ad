//! Plain reads of many callers in few round trips.
//!
//! The first few reads are sent at once. While they are in flight, further ones wait for each other, for at most the
//! time of a round trip, and are sent together. A round trip for thirty reads costs the process and the server little
//! more than one for a single read, because one read of the state serves all of them.
//!
//! A read may belong to a future that nobody polls, so a round trip for several callers is made in a task.

use crate::tiered::l2::redis::plain_read::PlainReplies;
use crate::tiered::l2::redis::{MAX_CALLS, Redis};
use crate::tiered::l2::remote::{LookupReply, LookupRequest, RemoteError, Token};
use parking_lot::Mutex;
use std::sync::Arc;
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
    reply: oneshot::Sender<Result<Decision, RemoteError>>,
}

impl QueuedRead {
    fn request(&self) -> LookupRequest<'_> {
        LookupRequest {
            key: &self.key,
            lease_token: self.lease_token,
            unreadable: None,
            head_only: self.head_only,
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

    /// Takes up to `limit` reads from the queue. If there are none, the task that calls this has to end.
    fn take(&self, limit: usize) -> Vec<QueuedRead> {
        let mut state = self.0.lock();
        let count = state.queue.len().min(limit);
        if count == 0 {
            state.senders -= 1;
        }
        state.queue.drain(..count).collect()
    }

    /// Takes all reads from the queue.
    fn take_all(&self) -> Vec<QueuedRead> {
        std::mem::take(&mut self.0.lock().queue)
    }
}

impl Redis {
    /// Reads one value, alone or together with those of other callers.
    pub(super) async fn read_one(
        self: &Arc<Self>,
        request: &LookupRequest<'_>,
    ) -> Result<PlainReplies, RemoteError> {
        if request.unreadable.is_some()
            || !self
                .plain_reads
                .are_worthwhile(std::slice::from_ref(request))
        {
            return Ok(PlainReplies::undecided(1));
        }
        if let Some(_in_flight) = self.read_batches.begin_single_read() {
            return self.read_plain(std::slice::from_ref(request)).await;
        }
        let (sender, receiver) = oneshot::channel();
        let is_first = self.read_batches.push(QueuedRead {
            key: request.key.into(),
            lease_token: request.lease_token,
            head_only: request.head_only,
            reply: sender,
        });
        if is_first {
            let redis = Arc::clone(self);
            self.runtime
                .spawn(async move { redis.send_batches().await });
        }
        let shut_down = || RemoteError::Disconnected("the runtime shuts down".into());
        let (reply, refusal) = receiver.await.unwrap_or_else(|_| Err(shut_down()))?;
        Ok(PlainReplies {
            replies: vec![reply],
            refusal,
        })
    }

    /// Sends batches until no read is queued.
    async fn send_batches(&self) {
        loop {
            // Callers that are ready to run may queue further reads first.
            tokio::task::yield_now().await;
            let reads = self.read_batches.take(self.batch_len().min(MAX_CALLS));
            if reads.is_empty() {
                return;
            }
            let requests: Vec<_> = reads.iter().map(QueuedRead::request).collect();
            match self.read_plain(&requests).await {
                Ok(PlainReplies { replies, refusal }) => {
                    for (read, reply) in reads.into_iter().zip(replies) {
                        // The caller may have been dropped.
                        let _ = read.reply.send(Ok((reply, refusal.clone())));
                    }
                }
                Err(error) => {
                    // Those that wait would exceed their deadline.
                    for read in reads.into_iter().chain(self.read_batches.take_all()) {
                        let _ = read.reply.send(Err(error.clone()));
                    }
                }
            }
        }
    }
}
