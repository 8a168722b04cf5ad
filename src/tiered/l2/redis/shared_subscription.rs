//! One connection for the subscriptions of all caches that use a primary.
//!
//! Each cache has a queue of its own for the messages on its channels, so that a cache that falls behind loses only its
//! own messages. That shows as a gap in their versions.

use crate::tiered::l2::redis::messages::parse_message;
use crate::tiered::l2::redis::topology::Primary;
use crate::tiered::l2::redis::url::ServerClient;
use crate::tiered::l2::remote::{Message, Messages, RemoteError, RemoteFuture};
use parking_lot::Mutex;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, PushInfo, PushKind, Value};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::{RwLock, mpsc, watch};

/// Largest number of messages of a cache that wait to be read. Further ones are lost.
const MAX_BUFFERED_MESSAGES: usize = 10_000;

/// Something that happens on a channel.
enum ChannelEvent {
    /// The server has confirmed the subscription to this one of the cache's channels.
    Subscribed(usize),
    Message(Vec<u8>),
}

/// The queue of a cache for one of its channels.
struct Route {
    /// Distinguishes the subscriptions to one channel.
    subscription: u64,
    /// The index of the channel among those of the subscription.
    index: usize,
    queue: mpsc::Sender<ChannelEvent>,
}

/// The queues of all channels.
#[derive(Default)]
struct Routes {
    /// `None` once the connection is closed.
    by_channel: Option<HashMap<String, Vec<Route>>>,
    /// The duration of the read lease of each subscription, which is 0 if it requests no heartbeats.
    leases: HashMap<u64, Duration>,
    /// The time of the last message of the server.
    last_arrival: Option<Instant>,
    /// The number of subscriptions so far.
    subscriptions: u64,
    /// `true` if a call was not answered in time. Further caches subscribe on another connection then. Those that have
    /// subscribed remain, because the connection may work again.
    is_doubtful: bool,
}

impl Routes {
    /// Passes a message of the server to the queues of its channel.
    fn pass(&mut self, push: PushInfo) {
        self.last_arrival = Some(Instant::now());
        let mut data = push.data.into_iter();
        let channel = match data.next() {
            Some(Value::BulkString(name)) => String::from_utf8(name).ok(),
            Some(Value::SimpleString(name)) => Some(name),
            _ => None,
        };
        match (push.kind, channel) {
            (PushKind::Message | PushKind::SMessage, Some(channel)) => {
                if let Some(Value::BulkString(message)) = data.next() {
                    self.send(&channel, |_| ChannelEvent::Message(message.clone()));
                }
            }
            (PushKind::Subscribe | PushKind::SSubscribe, Some(channel)) => {
                self.send(&channel, |route| ChannelEvent::Subscribed(route.index));
            }
            // The slot has moved, or nobody uses the channel any more.
            (PushKind::Unsubscribe | PushKind::SUnsubscribe, Some(channel)) => self.end(&channel),
            (PushKind::Disconnection, _) => self.by_channel = None,
            _ => {}
        }
    }

    /// Ends the subscriptions that have a queue for a channel. Without any sender, their queues end.
    fn end(&mut self, channel: &str) {
        let Some(by_channel) = &mut self.by_channel else {
            return;
        };
        let ended = by_channel.remove(channel).unwrap_or_default();
        let is_ended = |route: &Route| ended.iter().any(|it| it.subscription == route.subscription);
        for routes in by_channel.values_mut() {
            routes.retain(|route| !is_ended(route));
        }
    }

    /// Sends an event to all queues of a channel. A queue that is full loses it.
    fn send(&self, channel: &str, event: impl Fn(&Route) -> ChannelEvent) {
        let routes = self.by_channel.as_ref().and_then(|it| it.get(channel));
        for route in routes.into_iter().flatten() {
            let _ = route.queue.try_send(event(route));
        }
    }

    /// Removes the queues of a subscription. Returns the channels that no other subscription uses.
    fn remove(&mut self, subscription: u64, channels: &[String]) -> Vec<String> {
        self.leases.remove(&subscription);
        let Some(routes) = &mut self.by_channel else {
            return Vec::new();
        };
        let mut unused = Vec::new();
        for channel in channels {
            if let Some(queues) = routes.get_mut(channel) {
                queues.retain(|route| route.subscription != subscription);
                if queues.is_empty() {
                    unused.push(channel.clone());
                }
            }
        }
        unused
    }
}

/// Ends all subscriptions when the connection's task ends, with or without a message about it.
struct EndOnDrop(Arc<Mutex<Routes>>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        close(&self.0);
    }
}

/// Ends all subscriptions of a connection.
fn close(routes: &Mutex<Routes>) {
    let closed = routes.lock().by_channel.take();
    drop(closed);
}

/// The connection.
#[derive(Clone)]
pub(super) struct SharedSubscription {
    connection: MultiplexedConnection,
    routes: Arc<Mutex<Routes>>,
    /// Held for reading while a cache subscribes, and for writing while unused channels are left. So no channel is left
    /// that a cache has begun to use.
    leaving: Arc<RwLock<()>>,
    is_sharded: bool,
    connect_timeout: Duration,
    /// The primary that publishes the messages.
    publisher: Primary,
    /// The current primary.
    primary: watch::Receiver<Option<Primary>>,
    runtime: Handle,
}

impl SharedSubscription {
    /// Connects to the server `publisher`, for as long as that is the primary. The client speaks RESP3, which has
    /// subscriptions within a shard.
    pub(super) async fn open(
        client: ServerClient,
        is_sharded: bool,
        connect_timeout: Duration,
        publisher: Primary,
        primary: watch::Receiver<Option<Primary>>,
        runtime: Handle,
    ) -> Result<Self, RemoteError> {
        let routes = Arc::new(Mutex::new(Routes {
            by_channel: Some(HashMap::new()),
            ..Routes::default()
        }));
        let pushed = EndOnDrop(Arc::clone(&routes));
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(connect_timeout))
            .set_push_sender(move |push| {
                pushed.0.lock().pass(push);
                Ok::<_, std::convert::Infallible>(())
            });
        Ok(Self {
            connection: client.connect(config).await?,
            routes,
            leaving: Arc::default(),
            is_sharded,
            connect_timeout,
            publisher,
            primary,
            runtime,
        })
    }

    /// Returns `true` unless the connection is closed or does not work, or another server is the primary now.
    pub(super) fn is_usable(&self) -> bool {
        let routes = self.routes.lock();
        !routes.is_doubtful
            && routes.by_channel.is_some()
            && self.primary.borrow().as_ref() == Some(&self.publisher)
    }

    /// Ends all subscriptions if nothing has arrived for most of the longest read lease. In that time, the cache with that
    /// lease has requested a heartbeat.
    fn close_if_silent(&self) {
        let routes = self.routes.lock();
        let longest = routes.leases.values().max().copied().unwrap_or_default();
        let limit = longest / 4 * 3;
        let is_silent = routes.last_arrival.is_none_or(|it| it.elapsed() >= limit);
        drop(routes);
        if is_silent {
            close(&self.routes);
        }
    }

    /// Subscribes to channels, for a cache whose read lease has this duration. If that fails or takes longer than
    /// `timeout`, the next attempt uses a new connection.
    pub(super) async fn subscribe(
        &self,
        channels: [String; 2],
        read_lease: Duration,
        timeout: Duration,
    ) -> Result<Subscription, RemoteError> {
        let subscribing = self.try_subscribe(channels, read_lease);
        let subscribed = tokio::time::timeout(timeout, subscribing).await;
        let subscribed = subscribed.unwrap_or(Err(RemoteError::Timeout));
        if let Err(RemoteError::Timeout | RemoteError::Disconnected(_)) = subscribed {
            self.routes.lock().is_doubtful = true;
        }
        subscribed
    }

    async fn try_subscribe(
        &self,
        channels: [String; 2],
        read_lease: Duration,
    ) -> Result<Subscription, RemoteError> {
        let _leaving = self.leaving.read().await;
        let mut subscription = self.add_routes(channels, read_lease)?;
        for channel in &subscription.channels {
            // A command for each channel, because the `redis` crate expects one reply to a command.
            let call = self.call(["SUBSCRIBE", "SSUBSCRIBE"], channel);
            call.exec_async(&mut self.connection.clone()).await?;
        }
        // The crate may take the end of another subscription for the reply, so only the confirmations count.
        let mut is_confirmed = [false; 2];
        while is_confirmed.contains(&false) {
            match subscription.receive().await {
                Some(ChannelEvent::Subscribed(index)) => is_confirmed[index] = true,
                Some(ChannelEvent::Message(_)) => {}
                None => return Err(subscription_ended()),
            }
        }
        Ok(subscription)
    }

    /// Returns a call with the first command, or with the second one for channels within a shard.
    fn call(&self, [command, sharded]: [&str; 2], channel: &str) -> Cmd {
        let mut call = redis::cmd(if self.is_sharded { sharded } else { command });
        call.arg(channel);
        call
    }

    fn add_routes(
        &self,
        channels: [String; 2],
        read_lease: Duration,
    ) -> Result<Subscription, RemoteError> {
        let (queue, events) = mpsc::channel(MAX_BUFFERED_MESSAGES);
        let mut routes = self.routes.lock();
        routes.subscriptions += 1;
        let number = routes.subscriptions;
        let by_channel = routes.by_channel.as_mut().ok_or_else(subscription_ended)?;
        for (index, channel) in channels.iter().enumerate() {
            by_channel.entry(channel.clone()).or_default().push(Route {
                subscription: number,
                index,
                queue: queue.clone(),
            });
        }
        routes.leases.insert(number, read_lease);
        drop(routes);
        Ok(Subscription {
            number,
            channels,
            events,
            has_ended: false,
            connection: self.clone(),
        })
    }

    /// Leaves channels that no cache uses.
    async fn leave(self, channels: Vec<String>) {
        let _leaving = self.leaving.write().await;
        for channel in channels {
            let is_unused = {
                let mut routes = self.routes.lock();
                let by_channel = routes.by_channel.as_mut();
                let is_empty = |routes: &Vec<Route>| routes.is_empty();
                by_channel.is_some_and(|routes| routes.get(&channel).is_some_and(is_empty))
            };
            if is_unused {
                let call = self.call(["UNSUBSCRIBE", "SUNSUBSCRIBE"], &channel);
                let mut connection = self.connection.clone();
                let leaving = call.exec_async(&mut connection);
                let left = tokio::time::timeout(self.connect_timeout, leaving).await;
                if left.is_err() {
                    // A late reply would end a subscription that begins after this.
                    self.routes.lock().is_doubtful = true;
                    return;
                }
                // If the user may not leave channels, messages still arrive, and are ignored.
            }
        }
    }
}

/// The subscription of a cache: to all events, and to the messages for itself.
pub(super) struct Subscription {
    number: u64,
    channels: [String; 2],
    events: mpsc::Receiver<ChannelEvent>,
    has_ended: bool,
    connection: SharedSubscription,
}

impl Subscription {
    /// Waits for the next event, or returns `None` if the subscription has ended.
    async fn receive(&mut self) -> Option<ChannelEvent> {
        let SharedSubscription {
            publisher, primary, ..
        } = &mut self.connection;
        let is_other = |primary: &Option<Primary>| primary.as_ref() != Some(publisher);
        tokio::select! {
            biased;
            event = self.events.recv() => event,
            _ = primary.wait_for(is_other) => None,
        }
    }
}

impl Messages for Subscription {
    fn next(&mut self) -> RemoteFuture<'_, Message> {
        Box::pin(async move {
            while !self.has_ended {
                match self.receive().await {
                    Some(ChannelEvent::Message(message)) => return Ok(parsed(&message)),
                    Some(ChannelEvent::Subscribed(_)) => {}
                    None => self.has_ended = true,
                }
            }
            Err(subscription_ended())
        })
    }

    fn try_next(&mut self) -> Option<Message> {
        loop {
            match self.events.try_recv().ok()? {
                ChannelEvent::Message(message) => return Some(parsed(&message)),
                ChannelEvent::Subscribed(_) => {}
            }
        }
    }

    fn close_if_silent(&mut self) {
        self.connection.close_if_silent();
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut routes = self.connection.routes.lock();
        let unused = routes.remove(self.number, &self.channels);
        drop(routes);
        if !unused.is_empty() {
            let connection = self.connection.clone();
            let runtime = connection.runtime.clone();
            runtime.spawn(connection.leave(unused));
        }
    }
}

fn parsed(message: &[u8]) -> Message {
    parse_message(message).unwrap_or(Message::Malformed)
}

pub(super) fn subscription_ended() -> RemoteError {
    RemoteError::Disconnected("the subscription ended".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::mpsc::error::TryRecvError;

    const EVENTS: &str = "events";

    /// Returns routes with two subscriptions to a common channel and to one of their own, and their queues.
    fn two_subscriptions(buffer: usize) -> (Routes, [mpsc::Receiver<ChannelEvent>; 2]) {
        let mut by_channel: HashMap<String, Vec<Route>> = HashMap::new();
        let queues = [0, 1].map(|subscription| {
            let (queue, events) = mpsc::channel(buffer);
            for (index, channel) in [EVENTS.to_string(), subscription.to_string()]
                .into_iter()
                .enumerate()
            {
                by_channel.entry(channel).or_default().push(Route {
                    subscription,
                    index,
                    queue: queue.clone(),
                });
            }
            events
        });
        let routes = Routes {
            by_channel: Some(by_channel),
            ..Routes::default()
        };
        (routes, queues)
    }

    fn push(kind: PushKind, channel: &str) -> PushInfo {
        let bytes = |text: &str| Value::BulkString(text.into());
        PushInfo {
            kind,
            data: vec![bytes(channel), bytes("message")],
        }
    }

    #[test]
    fn queue_that_is_full_loses_its_own_messages_only() {
        let (mut routes, [mut one, mut other]) = two_subscriptions(1);
        for _ in 0..3 {
            routes.pass(push(PushKind::Message, EVENTS));
            assert!(matches!(one.try_recv(), Ok(ChannelEvent::Message(_))));
        }
        assert!(matches!(other.try_recv(), Ok(ChannelEvent::Message(_))));
        assert!(matches!(other.try_recv(), Err(TryRecvError::Empty)));
    }

    #[test]
    fn end_of_one_channel_ends_the_subscriptions_that_use_it() {
        let (mut routes, [mut one, mut other]) = two_subscriptions(1);
        routes.pass(push(PushKind::SUnsubscribe, "0"));
        assert!(matches!(one.try_recv(), Err(TryRecvError::Disconnected)));
        routes.pass(push(PushKind::SMessage, EVENTS));
        assert!(matches!(other.try_recv(), Ok(ChannelEvent::Message(_))));
        routes.pass(push(PushKind::Disconnection, ""));
        assert!(matches!(other.try_recv(), Err(TryRecvError::Disconnected)));
    }

    #[test]
    fn channel_is_unused_when_the_last_subscription_to_it_has_ended() {
        let (mut routes, _queues) = two_subscriptions(1);
        let channels = |own: &str| [EVENTS.to_string(), own.to_string()];
        assert_eq!(routes.remove(0, &channels("0")), ["0"]);
        assert_eq!(routes.remove(1, &channels("1")), channels("1"));
    }

    #[test]
    fn subscriptions_end_with_the_task_of_the_connection() {
        let (routes, [mut one, _other]) = two_subscriptions(1);
        drop(EndOnDrop(Arc::new(Mutex::new(routes))));
        assert!(matches!(one.try_recv(), Err(TryRecvError::Disconnected)));
    }
}
