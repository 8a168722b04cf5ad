//! Messages of a partition, until another server serves it.

use crate::tiered::l2::redis::link::Link;
use crate::tiered::l2::redis::replica_read::ReplicaReading;
use crate::tiered::l2::redis::shared_subscription::{Subscription, subscription_ended};
use crate::tiered::l2::remote::{Message, Messages, RemoteFuture};
use std::sync::Arc;
use tokio::sync::watch;

/// A subscription that ends when the route leads to another link.
pub(super) struct RoutedMessages {
    pub(super) messages: Subscription,
    pub(super) changes: watch::Receiver<Option<Arc<Link>>>,
    /// Notes the positions of messages, if the cache reads from replicas.
    pub(super) replica_reading: Option<Arc<ReplicaReading>>,
}

impl RoutedMessages {
    /// Notes the position of a message, before the cache applies it. So a replica that lacks an event is not read from
    /// after the event.
    fn note(&self, message: Message) -> Message {
        if let (Some(reading), Message::Event { at, .. } | Message::Heartbeat { at, .. }) =
            (&self.replica_reading, &message)
        {
            reading.note_position(*at);
        }
        message
    }
}

impl Messages for RoutedMessages {
    fn next(&mut self) -> RemoteFuture<'_, Message> {
        Box::pin(async move {
            tokio::select! {
                biased;
                message = self.messages.next() => Ok(self.note(message?)),
                // It ends with an error when the partition is dropped.
                _ = self.changes.changed() => Err(subscription_ended()),
            }
        })
    }

    fn try_next(&mut self) -> Option<Message> {
        self.messages.try_next().map(|message| self.note(message))
    }

    fn close_if_silent(&mut self) {
        self.messages.close_if_silent();
    }
}
