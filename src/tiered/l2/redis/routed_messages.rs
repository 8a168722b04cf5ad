//! Messages of a partition, until another server serves it.

use crate::tiered::l2::redis::link::Link;
use crate::tiered::l2::redis::shared_subscription::{Subscription, subscription_ended};
use crate::tiered::l2::remote::{Message, Messages, RemoteFuture};
use std::sync::Arc;
use tokio::sync::watch;

/// A subscription that ends when the route leads to another link.
pub(super) struct RoutedMessages {
    pub(super) messages: Subscription,
    pub(super) changes: watch::Receiver<Option<Arc<Link>>>,
}

impl Messages for RoutedMessages {
    fn next(&mut self) -> RemoteFuture<'_, Message> {
        Box::pin(async move {
            tokio::select! {
                biased;
                message = self.messages.next() => message,
                // It ends with an error when the partition is dropped.
                _ = self.changes.changed() => Err(subscription_ended()),
            }
        })
    }

    fn try_next(&mut self) -> Option<Message> {
        self.messages.try_next()
    }

    fn close_if_silent(&mut self) {
        self.messages.close_if_silent();
    }
}
