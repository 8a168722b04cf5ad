//! The current connection to the primary, which follows a failover.

use crate::tiered::health::Warning;
use crate::tiered::l2::redis::connection::{
    Connection, DEFAULT_MAX_ARGUMENT_SIZE, PRIMARY_CHANGED, is_primary_changed, open, slot_moved,
};
use crate::tiered::l2::redis::longest_deadline::LongestDeadline;
use crate::tiered::l2::redis::primary_resolver::PrimaryResolver;
use crate::tiered::l2::redis::shared_connection::SharedConnection;
use crate::tiered::l2::redis::shared_subscription::SharedSubscription;
use crate::tiered::l2::redis::topology::Primary;
use crate::tiered::l2::redis::url::ServerUrl;
use crate::tiered::l2::remote::RemoteError;
use parking_lot::Mutex;
use redis::InfoDict;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Interval between checks that a server is still the primary, while a connection to it is opened or a voter has
/// announced another primary.
const PRIMARY_CHECK_INTERVAL: Duration = Duration::from_millis(250);

/// Largest number of checks whether a majority agrees with the announcement of a failover. With sentinels that answer
/// at once they last for 10 seconds. Sentinels tell each other of a new primary every two seconds.
const MAX_ANNOUNCEMENT_CHECKS: u32 = 40;

/// Interval between checks that the settings of the server suit a cache.
const SETTINGS_CHECK_INTERVAL: Duration = Duration::from_secs(30);

/// The time of a check of the server's settings, and its result.
type SettingsCheck = (Instant, Vec<Warning>);

/// Opens connections to the current primary.
pub(super) struct Connector {
    url: Arc<ServerUrl>,
    resolver: Arc<PrimaryResolver>,
    deadline: Arc<LongestDeadline>,
    connection: Arc<SharedConnection<Connection>>,
    subscription: SharedConnection<SharedSubscription>,
    /// The server of the last connection, or of the one that is being opened. `None` once another server is the
    /// primary.
    primary: watch::Sender<Option<Primary>>,
    /// The last check of the server's settings.
    settings_check: Arc<Mutex<Option<SettingsCheck>>>,
    /// The largest argument that the server of the last connection accepts, in bytes.
    max_argument_size: Arc<AtomicUsize>,
    runtime: Handle,
}

impl Connector {
    /// Creates a connector for the primary that a resolver finds.
    pub(super) fn new(
        url: Arc<ServerUrl>,
        resolver: PrimaryResolver,
        deadline: Arc<LongestDeadline>,
        runtime: &Handle,
    ) -> Self {
        let shared = || SharedConnection::new(Arc::clone(&deadline), runtime.clone());
        Self {
            url,
            resolver: Arc::new(resolver),
            connection: Arc::new(shared()),
            subscription: SharedConnection::new(Arc::clone(&deadline), runtime.clone()),
            primary: watch::Sender::new(None),
            settings_check: Arc::default(),
            max_argument_size: Arc::new(AtomicUsize::new(DEFAULT_MAX_ARGUMENT_SIZE)),
            runtime: runtime.clone(),
            deadline,
        }
    }

    /// Returns the connection and its number.
    pub(super) async fn get(&self) -> Result<(u64, Connection), RemoteError> {
        let connect = || {
            let (url, resolver) = (Arc::clone(&self.url), Arc::clone(&self.resolver));
            let (sender, settings_check) = (self.primary.clone(), Arc::clone(&self.settings_check));
            let max_argument_size = Arc::clone(&self.max_argument_size);
            let (deadline, runtime) = (Arc::clone(&self.deadline), self.runtime.clone());
            async move {
                let primary = resolver.primary().await?;
                sender.send_replace(Some(primary.clone()));
                *settings_check.lock() = None;
                let opening = open(&url, primary.clone(), deadline, runtime);
                let connection = tokio::select! {
                    connection = opening => connection?,
                    changed = primary_change(&resolver, &primary) => return Err(changed),
                };
                max_argument_size.store(connection.server.max_argument_size, Relaxed);
                Ok(connection)
            }
        };
        self.connection.get(connect).await
    }

    /// Discards the connection of this number.
    pub(super) fn discard(&self, number: u64) {
        self.connection.discard(number);
    }

    /// Returns the largest argument that the server of the last connection accepts, in bytes.
    pub(super) fn max_argument_size(&self) -> usize {
        self.max_argument_size.load(Relaxed)
    }

    /// Starts a task that discards the connection after a failover, if the servers announce failovers.
    pub(super) fn watch_failovers(&self, runtime: &Handle) -> Option<JoinHandle<()>> {
        let resolver = Arc::clone(&self.resolver);
        let (connection, primary) = (Arc::clone(&self.connection), self.primary.clone());
        let watching = async move {
            let (announced, mut announcements) = watch::channel(String::new());
            let on_primary = |address: &str| drop(announced.send_replace(address.into()));
            let leaving = async {
                while announcements.changed().await.is_ok() {
                    let address = announcements.borrow_and_update().clone();
                    leave_if_replaced(&resolver, &connection, &primary, &address).await;
                }
            };
            tokio::join!(resolver.watch(on_primary), leaving);
        };
        self.resolver
            .announces_failovers()
            .then(|| runtime.spawn(watching))
    }

    /// Checks that the server of this connection was the primary at some time after this call, and in a cluster that it
    /// served the slot then.
    pub(super) async fn check_primary(
        &self,
        connection: &Connection,
        slot: Option<u16>,
    ) -> Result<(), RemoteError> {
        let decision = self.resolver.decision().await;
        let is_other = match &decision {
            Ok(decision) => decision.primary != connection.primary,
            Err(error) => is_primary_changed(error),
        };
        if is_other {
            leave_primary(&self.connection, &self.primary, &connection.primary);
            return Err(RemoteError::Disconnected(PRIMARY_CHANGED.into()));
        }
        let decision = decision?;
        if slot.is_some_and(|slot| !decision.confirms(slot)) {
            return Err(slot_moved());
        }
        Ok(())
    }

    /// Returns the last primary that a majority of the voters has elected.
    pub(super) fn elected(&self) -> Option<Primary> {
        self.resolver.elected()
    }

    /// Returns the address of the primary, if there may be several servers and it is known.
    pub(super) fn server(&self) -> Option<String> {
        self.primary.borrow().as_ref()?.address.clone()
    }

    /// Returns the warnings of the last check of the server's settings.
    pub(super) fn warnings(&self) -> Vec<Warning> {
        let last = self.settings_check.lock();
        last.as_ref()
            .map_or_else(Vec::new, |(_, warnings)| warnings.clone())
    }

    /// Checks whether the settings of the server suit a cache, if the last check was [`SETTINGS_CHECK_INTERVAL`] ago.
    pub(super) async fn check_settings(&self, connection: &Connection) -> Result<(), RemoteError> {
        let is_due = |(last, _): &(Instant, _)| last.elapsed() >= SETTINGS_CHECK_INTERVAL;
        if !self.settings_check.lock().as_ref().is_none_or(is_due) {
            return Ok(());
        }
        let memory: InfoDict = redis::cmd("INFO")
            .arg("memory")
            .query_async(&mut connection.main.clone())
            .await?;
        let warnings = Warning::of(memory.get("maxmemory"), memory.get("maxmemory_policy"));
        *self.settings_check.lock() = Some((Instant::now(), warnings));
        Ok(())
    }

    /// Returns the connection for subscriptions to the primary. Its subscriptions end when another server becomes the
    /// primary.
    pub(super) async fn subscription(&self) -> Result<SharedSubscription, RemoteError> {
        loop {
            let (_, connection) = self.get().await?;
            let (mut current, changes) = (self.primary.subscribe(), self.primary.subscribe());
            let Connection {
                server, primary, ..
            } = connection;
            let connect = || {
                let client = self.url.client(primary.address.as_deref());
                let (publisher, is_sharded) = (primary.clone(), server.is_sharded);
                let connect_timeout = self.deadline.connect_timeout();
                let runtime = self.runtime.clone();
                async move {
                    let opening = SharedSubscription::open(
                        client?,
                        is_sharded,
                        connect_timeout,
                        publisher.clone(),
                        changes,
                        runtime,
                    );
                    tokio::select! {
                        subscription = opening => subscription,
                        // A primary that was replaced may never reply.
                        _ = current.wait_for(|current| current.as_ref() != Some(&publisher)) => {
                            Err(RemoteError::Disconnected(PRIMARY_CHANGED.into()))
                        }
                    }
                }
            };
            let (number, subscription) = self.subscription.get(connect).await?;
            if subscription.is_usable() {
                return Ok(subscription);
            }
            self.subscription.discard(number);
        }
    }
}

/// Waits until a server other than `primary` is the primary. Returns the error for the connection to `primary`.
async fn primary_change(resolver: &Arc<PrimaryResolver>, primary: &Primary) -> RemoteError {
    loop {
        // A poll, because a primary that was replaced announces nothing to its clients.
        tokio::time::sleep(PRIMARY_CHECK_INTERVAL).await;
        let is_other = match resolver.primary().await {
            Ok(current) => current != *primary,
            Err(error) => is_primary_changed(&error),
        };
        if is_other {
            return RemoteError::Disconnected(PRIMARY_CHANGED.into());
        }
    }
}

/// Leaves the current primary once a majority names another one, after a voter has announced a failover to the server
/// at the address `announced`.
///
/// The first voter announces it before the others know of it. A connection that was opened then would lead to the old
/// primary again, and its subscription would soon end once more. If no majority agrees with the announcement in time,
/// the checks of calls and heartbeats detect a later failover.
async fn leave_if_replaced(
    resolver: &Arc<PrimaryResolver>,
    connection: &SharedConnection<Connection>,
    primary: &watch::Sender<Option<Primary>>,
    announced: &str,
) {
    let is_other = |known: &Primary| known.address.as_deref() != Some(announced);
    let Some(old) = primary.borrow().clone().filter(is_other) else {
        return;
    };
    for _ in 0..MAX_ANNOUNCEMENT_CHECKS {
        if resolver.primary().await.is_ok_and(|current| current != old) {
            leave_primary(connection, primary, &old);
        }
        if primary.borrow().as_ref() != Some(&old) {
            return;
        }
        tokio::time::sleep(PRIMARY_CHECK_INTERVAL).await;
    }
}

/// Ends the subscriptions and discards the connection to the server `old`, which is not the primary any more, so that
/// the new one is found. Does nothing if another call has left it already: a late reply of the old primary must not end
/// the subscription to the new one.
fn leave_primary(
    connection: &SharedConnection<Connection>,
    primary: &watch::Sender<Option<Primary>>,
    old: &Primary,
) {
    let is_current = |current: &mut Option<Primary>| current.take_if(|it| it == old).is_some();
    if primary.send_if_modified(is_current) {
        connection.discard_open();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn late_reply_of_an_old_primary_does_not_end_the_subscription_to_the_new_one() {
        let named = |id: &str, term| Primary {
            id: id.into(),
            term,
            address: None,
        };
        let connection = SharedConnection::new(Arc::default(), Handle::current());
        let (old, new) = (named("old", 1), named("new", 2));
        let primary = watch::Sender::new(Some(old.clone()));
        let mut changes = primary.subscribe();
        leave_primary(&connection, &primary, &old);
        assert!(changes.borrow_and_update().is_none());
        primary.send_replace(Some(new.clone()));
        changes.mark_unchanged();
        leave_primary(&connection, &primary, &old);
        assert!(!changes.has_changed().unwrap());
        assert_eq!(*primary.borrow(), Some(new));
    }
}
