//! Reads of many callers in few round trips.
//!
//! A round trip for thirty reads costs the process and the server little more than one for a single read, because one
//! read of the state, or one call of a script, serves all of them.

use crate::tiered::l2::redis::Redis;
use crate::tiered::l2::redis::batching::{Batched, Batches, only};
use crate::tiered::l2::redis::plain_read::PlainReplies;
use crate::tiered::l2::redis::replica_read::ReplicaRead;
use crate::tiered::l2::redis::transfer::ParsedReply;
use crate::tiered::l2::remote::{Fill, LookupReply, LookupRequest, RemoteError, Token};
use std::sync::Arc;

/// The reads of a cache that are sent together.
#[derive(Default)]
pub(crate) struct BatchedReads {
    plain: Batches<BatchedRead>,
    by_script: Batches<BatchedLookup>,
    pub(super) on_replicas: Batches<ReplicaRead>,
}

/// A request for one value.
pub(super) struct OwnedRequest {
    key: Box<[u8]>,
    lease_token: Option<Token>,
    unreadable: Option<Token>,
    head_only: bool,
    may_be_old: bool,
}

impl OwnedRequest {
    pub(super) fn new(request: &LookupRequest<'_>) -> Self {
        Self {
            key: request.key.into(),
            lease_token: request.lease_token,
            unreadable: request.unreadable,
            head_only: request.head_only,
            may_be_old: request.may_be_old,
        }
    }

    pub(super) fn borrow(&self) -> LookupRequest<'_> {
        LookupRequest {
            key: &self.key,
            lease_token: self.lease_token,
            unreadable: self.unreadable,
            head_only: self.head_only,
            in_order: false,
            may_be_old: self.may_be_old,
        }
    }
}

/// A plain read of one value.
pub(super) struct BatchedRead(OwnedRequest);

/// A lookup of one value by a script.
pub(super) struct BatchedLookup(OwnedRequest);

impl Batched for BatchedRead {
    type Owner = Redis;

    /// The reply, or `None` if a script has to decide, and the error of the server if the user lacks the right for plain
    /// reads.
    type Reply = (Option<LookupReply>, Option<String>);

    const IS_READ: bool = true;

    fn batches(redis: &Redis) -> &Batches<Self> {
        &redis.settings.reads.plain
    }

    fn max_len(redis: &Redis) -> usize {
        redis.batch_len()
    }

    async fn send(redis: &Arc<Redis>, reads: &[Self]) -> Result<Vec<Self::Reply>, RemoteError> {
        let requests: Vec<_> = reads.iter().map(|read| read.0.borrow()).collect();
        let PlainReplies { replies, refusal } = redis.read_plain(&requests).await?;
        let replies = replies.into_iter().map(|reply| (reply, refusal.clone()));
        Ok(replies.collect())
    }
}

impl Batched for BatchedLookup {
    type Owner = Redis;
    type Reply = Result<ParsedReply, RemoteError>;

    const IS_READ: bool = true;

    fn batches(redis: &Redis) -> &Batches<Self> {
        &redis.settings.reads.by_script
    }

    fn max_len(redis: &Redis) -> usize {
        redis.batch_len()
    }

    async fn send(redis: &Arc<Redis>, lookups: &[Self]) -> Result<Vec<Self::Reply>, RemoteError> {
        let requests: Vec<_> = lookups.iter().map(|lookup| lookup.0.borrow()).collect();
        let requests: Vec<_> = requests.iter().collect();
        redis.look_up_by_script(&requests).await
    }

    /// Releases the load lease that nobody received.
    fn undo(redis: &Arc<Redis>, lookup: Self, reply: Self::Reply) {
        let granted = matches!(
            reply,
            Ok(ParsedReply::Complete(LookupReply::LeaseGranted { .. }))
        );
        let Some(token) = lookup.0.lease_token.filter(|_| granted) else {
            return;
        };
        let owner = Arc::clone(redis);
        redis.hub.runtime.spawn(async move {
            let release = Fill {
                key: &lookup.0.key,
                token,
                envelope: &[],
                ttl: None,
            };
            // If it fails, the lease ends by its time.
            let _ = owner.fill_each(&[release]).await;
        });
    }
}

impl Redis {
    /// Looks up one value by a script, alone or together with those of other callers.
    pub(super) async fn look_up_one(
        self: &Arc<Self>,
        request: &LookupRequest<'_>,
    ) -> Result<ParsedReply, RemoteError> {
        if let Some(_in_flight) = self.settings.reads.by_script.begin_single() {
            return only(self.look_up_by_script(&[request]).await?)?;
        }
        let lookup = BatchedLookup(OwnedRequest::new(request));
        Batches::send(self, lookup).await?
    }

    /// Reads one value, alone or together with those of other callers.
    pub(super) async fn read_one(
        self: &Arc<Self>,
        request: &LookupRequest<'_>,
    ) -> Result<PlainReplies, RemoteError> {
        if request.unreadable.is_some() {
            return Ok(PlainReplies::undecided(1));
        }
        if let Some(_in_flight) = self.settings.reads.plain.begin_single() {
            return self.read_plain(std::slice::from_ref(request)).await;
        }
        let read = BatchedRead(OwnedRequest::new(request));
        let (reply, refusal) = Batches::send(self, read).await?;
        Ok(PlainReplies {
            replies: vec![reply],
            refusal,
        })
    }
}
