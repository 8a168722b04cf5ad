//! Plain reads of many callers in few round trips.
//!
//! A round trip for thirty reads costs the process and the server little more than one for a single read, because one
//! read of the state serves all of them.

use crate::tiered::l2::redis::Redis;
use crate::tiered::l2::redis::batching::{Batched, Batches};
use crate::tiered::l2::redis::plain_read::PlainReplies;
use crate::tiered::l2::remote::{LookupReply, LookupRequest, RemoteError, Token};
use std::sync::Arc;
use std::time::Duration;

/// A read of one value.
pub(super) struct BatchedRead {
    key: Box<[u8]>,
    lease_token: Option<Token>,
    head_only: bool,
}

impl BatchedRead {
    fn request(&self) -> LookupRequest<'_> {
        LookupRequest {
            lease_token: self.lease_token,
            head_only: self.head_only,
            ..LookupRequest::without_load(&self.key)
        }
    }
}

impl Batched for BatchedRead {
    type Owner = Redis;

    /// The reply, or `None` if a script has to decide, and the error of the server if the user lacks the right for plain
    /// reads.
    type Reply = (Option<LookupReply>, Option<String>);

    const IS_READ: bool = true;

    fn batches(redis: &Redis) -> &Batches<Self> {
        &redis.reads
    }

    fn max_len(redis: &Redis) -> usize {
        redis.batch_len()
    }

    fn deadline(redis: &Redis) -> Duration {
        redis.settings.deadline
    }

    async fn send(redis: &Arc<Redis>, reads: &[Self]) -> Result<Vec<Self::Reply>, RemoteError> {
        let requests: Vec<_> = reads.iter().map(Self::request).collect();
        let PlainReplies { replies, refusal } = redis.read_plain(&requests).await?;
        let replies = replies.into_iter().map(|reply| (reply, refusal.clone()));
        Ok(replies.collect())
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
        if let Some(_in_flight) = self.reads.begin_single() {
            return self.read_plain(std::slice::from_ref(request)).await;
        }
        let read = BatchedRead {
            key: request.key.into(),
            lease_token: request.lease_token,
            head_only: request.head_only,
        };
        let (reply, refusal) = Batches::send(self, read, &self.runtime).await?;
        Ok(PlainReplies {
            replies: vec![reply],
            refusal,
        })
    }
}
