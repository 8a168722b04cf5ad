//! Values of many callers, stored in few round trips.

use crate::tiered::l2::redis::Redis;
use crate::tiered::l2::redis::batching::{Batched, Batches};
use crate::tiered::l2::redis::transfer::{MAX_SMALL_VALUE_SIZE, unless_all_failed};
use crate::tiered::l2::remote::{Fill, RemoteError, Token};
use std::sync::Arc;
use std::time::Duration;

/// A value to be stored.
pub(super) struct BatchedFill {
    key: Box<[u8]>,
    token: Token,
    envelope: Box<[u8]>,
    ttl: Option<Duration>,
}

impl BatchedFill {
    fn borrow(&self) -> Fill<'_> {
        Fill {
            key: &self.key,
            token: self.token,
            envelope: &self.envelope,
            ttl: self.ttl,
        }
    }
}

impl Batched for BatchedFill {
    type Owner = Redis;
    type Reply = Result<bool, RemoteError>;

    fn batches(redis: &Redis) -> &Batches<Self> {
        &redis.fills
    }

    fn max_len(redis: &Redis) -> usize {
        redis.batch_len()
    }

    async fn send(redis: &Arc<Redis>, fills: &[Self]) -> Result<Vec<Self::Reply>, RemoteError> {
        let fills: Vec<_> = fills.iter().map(Self::borrow).collect();
        redis.fill_each(&fills).await
    }
}

impl Redis {
    /// Stores values, or releases leases. A single value is stored together with those of other callers.
    pub(super) async fn fill_all(
        self: &Arc<Self>,
        fills: &[Fill<'_>],
    ) -> Result<Vec<Result<bool, RemoteError>>, RemoteError> {
        let [fill] = fills else {
            return unless_all_failed(self.fill_each(fills).await?);
        };
        // Other processes wait for a lease that is released, and a large value has a round trip of its own.
        if !(1..=MAX_SMALL_VALUE_SIZE).contains(&fill.envelope.len()) {
            return unless_all_failed(self.fill_each(fills).await?);
        }
        if let Some(_in_flight) = self.fills.begin_single() {
            return unless_all_failed(self.fill_each(fills).await?);
        }
        let fill = BatchedFill {
            key: fill.key.into(),
            token: fill.token,
            envelope: fill.envelope.into(),
            ttl: fill.ttl,
        };
        let stored = Batches::send(self, fill).await??;
        Ok(vec![Ok(stored)])
    }
}
