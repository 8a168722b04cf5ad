//! One round trip: calls on a connection, within its [flow control](crate::tiered::l2::redis::flow_control) and a
//! deadline. It is repeated if the server has closed the connection.

use crate::tiered::l2::envelope::millis;
use crate::tiered::l2::redis::connection::{
    Connection, ReplicaWait, ServerInfo, SideConnection, is_slot_moved,
};
use crate::tiered::l2::redis::flow_control::FlowControl;
use crate::tiered::l2::redis::link::Link;
use crate::tiered::l2::redis::server_connection::ServerConnection;
use crate::tiered::l2::redis::silence::Silence;
use crate::tiered::l2::redis::window::Permit;
use crate::tiered::l2::redis::{MARK_RETENTION_MILLIS, Redis, entropy, malformed_reply};
use crate::tiered::l2::remote::RemoteError;
use redis::{Cmd, Pipeline, RedisResult, Value};
use std::sync::Arc;
use std::time::Instant;

/// Number of times that a round trip is repeated on a fresh connection after its connection was closed. It is two,
/// because the first fresh connection may have been opened for another call, before the server closed all connections
/// that it had.
const MAX_RETRIES: usize = 2;

/// The replies of a round trip, one for each call: a value of the server, or its error.
pub(super) type Replies = Vec<Result<Value, RemoteError>>;

/// The time at which a round trip checks that its server is still the primary, so that its replies count.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum PrimaryCheck {
    Never,
    Before,
    After,
}

/// The connection that a round trip uses, and its priority there.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum PriorityClass {
    /// The connection for small values, without queueing: for heartbeats and invalidations.
    Control,
    /// The connection for small values.
    Small,
    /// The connection for large values.
    Bulk,
}

/// The properties of a round trip.
#[derive(Clone, Copy)]
pub(super) struct RoundTrip {
    pub(super) class: PriorityClass,
    /// Expected number of bytes, for which the window of the connection must have room.
    pub(super) bytes: usize,
    /// Largest possible number of bytes, which the deadline allows for.
    pub(super) max_bytes: usize,
    pub(super) check: PrimaryCheck,
    /// `false` for calls that are made whatever the number of partitions of other processes is.
    pub(super) needs_layout: bool,
}

impl RoundTrip {
    /// Creates a round trip of this many bytes that does not check the primary.
    pub(super) fn new(class: PriorityClass, bytes: usize) -> Self {
        Self {
            class,
            bytes,
            max_bytes: bytes,
            check: PrimaryCheck::Never,
            needs_layout: true,
        }
    }

    /// Returns the round trip for calls that are made whatever the number of partitions of other processes is.
    pub(super) fn without_layout(self) -> Self {
        Self {
            needs_layout: false,
            ..self
        }
    }

    /// Returns the round trip with a check of the primary.
    pub(super) fn with_check(self, check: PrimaryCheck) -> Self {
        Self { check, ..self }
    }
}

/// The connections that an attempt has used, by their numbers.
#[derive(Default)]
struct UsedConnections {
    main: Option<(u64, Arc<Silence>)>,
    bulk: Option<(Arc<SideConnection>, u64)>,
}

/// Returns the flow control of the connection that a priority class uses.
fn flow_control(link: &Link, class: PriorityClass) -> &FlowControl {
    match class {
        PriorityClass::Control | PriorityClass::Small => &link.small,
        PriorityClass::Bulk => &link.bulk,
    }
}

impl Redis {
    /// Makes a single call.
    pub(super) async fn call_once(
        &self,
        round_trip: RoundTrip,
        call: impl Fn(&Connection) -> Cmd,
    ) -> Result<Value, RemoteError> {
        let call = |(): &(), connection: &Connection| call(connection);
        self.call_each(round_trip, &[()], call)
            .await?
            .pop()
            .ok_or_else(malformed_reply)?
    }

    /// Makes a call for each of the items, in one round trip. See [`call_all`](Self::call_all).
    pub(super) async fn call_each<T>(
        &self,
        round_trip: RoundTrip,
        items: &[T],
        call: impl Fn(&T, &Connection) -> Cmd,
    ) -> Result<Replies, RemoteError> {
        let calls = |connection: &Connection| {
            let mut calls = Pipeline::with_capacity(items.len());
            for item in items {
                calls.add_command(call(item, connection));
            }
            calls
        };
        let (replies, _) = self.call_all(round_trip, calls).await?;
        Ok(replies)
    }

    /// Makes several calls in one round trip. Returns their replies, and the server that has sent them. A connection
    /// that has failed is not used again. If another server serves the slot by now, the calls are made there.
    ///
    /// # Errors
    ///
    /// Returns an error if there were no replies in time. A call that the server refuses is only an error of its own
    /// reply.
    pub(super) async fn call_all(
        &self,
        round_trip: RoundTrip,
        calls: impl Fn(&Connection) -> Pipeline,
    ) -> Result<(Replies, Arc<ServerInfo>), RemoteError> {
        let begun = Instant::now();
        if round_trip.needs_layout {
            self.settings.layout.check_first().await?;
        }
        let mut link = self.find_link().await?;
        loop {
            let result = self.call_all_on(&link, round_trip, &calls).await;
            let Err(error @ (RemoteError::Disconnected(_) | RemoteError::Undecided(_))) = &result
            else {
                return result;
            };
            self.route.doubt(&link);
            let may_have_moved = matches!(error, RemoteError::Disconnected(_))
                && self.route.slot().is_some()
                && begun.elapsed() < self.limits.deadline;
            let next = if may_have_moved {
                self.find_link().await.ok()
            } else {
                None
            };
            match next {
                Some(next) if !Arc::ptr_eq(&next, &link) => link = next,
                _ => return result,
            }
        }
    }

    /// Returns the link to the server that serves the keys, if it is found before the deadline.
    async fn find_link(&self) -> Result<Arc<Link>, RemoteError> {
        let finding = tokio::time::timeout(self.limits.deadline, self.route.link());
        finding.await.unwrap_or(Err(RemoteError::Timeout))
    }

    /// Makes several calls in one round trip on a link.
    async fn call_all_on(
        &self,
        link: &Arc<Link>,
        round_trip: RoundTrip,
        calls: &impl Fn(&Connection) -> Pipeline,
    ) -> Result<(Replies, Arc<ServerInfo>), RemoteError> {
        let flow_control = flow_control(link, round_trip.class);
        // Shared with the task of `transfer`, which may outlive this call, and kept for retries.
        let permit = Arc::new(match round_trip.class {
            PriorityClass::Control => flow_control.admit_immediately(round_trip.bytes, self.limits),
            PriorityClass::Small | PriorityClass::Bulk => {
                flow_control
                    .admit(round_trip.bytes, round_trip.max_bytes, self.limits)
                    .await?
            }
        });
        let mut used = UsedConnections::default();
        let begun = Instant::now();
        let attempts = self.retry(link, round_trip, calls, &permit, &mut used);
        let result = tokio::time::timeout(permit.allowance(), attempts).await;
        let result = result.unwrap_or(Err(RemoteError::Timeout));
        let is_timeout = matches!(result, Err(RemoteError::Timeout));
        // A short deadline of one cache says nothing about the calls of others.
        if !is_timeout || self.limits.deadline >= link.deadline.get() {
            flow_control.note(&result);
        }
        if let Err(error) = &result {
            self.discard_failed(link, round_trip.class, used, error, begun);
        }
        result
    }

    /// Attempts a round trip, and repeats it on a fresh connection if the connection was closed. Every call may be made
    /// twice: a script that finds its own earlier write returns the same reply as before.
    async fn retry(
        &self,
        link: &Link,
        round_trip: RoundTrip,
        calls: &impl Fn(&Connection) -> Pipeline,
        permit: &Arc<Permit>,
        used: &mut UsedConnections,
    ) -> Result<(Replies, Arc<ServerInfo>), RemoteError> {
        let begun = Instant::now();
        let mut retries = 0;
        loop {
            match self.attempt(link, round_trip, calls, permit, used).await {
                Err(error @ RemoteError::Disconnected(_))
                    if retries < MAX_RETRIES && !is_slot_moved(&error) =>
                {
                    retries += 1;
                    let used = std::mem::take(used);
                    self.discard_failed(link, round_trip.class, used, &error, begun);
                }
                result => return result,
            }
        }
    }

    /// Makes the calls of a round trip on the current connection, and notes that connection in `used`.
    async fn attempt(
        &self,
        link: &Link,
        round_trip: RoundTrip,
        calls: &impl Fn(&Connection) -> Pipeline,
        permit: &Arc<Permit>,
        used: &mut UsedConnections,
    ) -> Result<(Replies, Arc<ServerInfo>), RemoteError> {
        let (number, connection) = link.connector.get().await?;
        used.main = Some((number, Arc::clone(&connection.silence)));
        if round_trip.check == PrimaryCheck::Before {
            self.check_primary(link, &connection).await?;
            link.connector.check_settings(&connection).await?;
        }
        let mut pipeline = calls(&connection);
        pipeline.ignore_errors();
        let replies = if round_trip.class == PriorityClass::Bulk {
            let (number, bulk) = connection.bulk.get().await?;
            used.bulk = Some((Arc::clone(&connection.bulk), number));
            self.transfer(bulk, pipeline, Arc::clone(permit)).await?
        } else {
            let replies = pipeline.query_async(&mut connection.main.clone()).await?;
            connection.silence.end();
            replies
        };
        let replies: Vec<RedisResult<Value>> = replies;
        let replies = replies.into_iter().map(|reply| reply.map_err(Into::into));
        let replies: Replies = replies.collect();
        for reply in &replies {
            if let Err(error @ RemoteError::Disconnected(_)) = reply {
                // The server itself reports that its scripts or its role have changed, so all connections to it are
                // stale.
                if !is_slot_moved(error) {
                    link.connector.discard(number);
                }
                return Err(error.clone());
            }
        }
        if round_trip.check == PrimaryCheck::After {
            self.check_primary(link, &connection).await?;
        }
        Ok((replies, connection.server))
    }

    /// Transfers large values in a task that shares the permit with the caller: their bytes are in flight until they
    /// have arrived, even if the caller is dropped before that.
    async fn transfer(
        &self,
        mut connection: ServerConnection,
        pipeline: Pipeline,
        permit: Arc<Permit>,
    ) -> Result<Vec<RedisResult<Value>>, RemoteError> {
        let transfer = self.hub.runtime.spawn(async move {
            let replies = pipeline.query_async(&mut connection);
            tokio::time::timeout(permit.allowance(), replies).await
        });
        let replies = transfer.await?.map_err(|_| RemoteError::Timeout)?;
        Ok(replies?)
    }

    /// Discards the connection that has failed, of a call that began at `begun`.
    fn discard_failed(
        &self,
        link: &Link,
        class: PriorityClass,
        used: UsedConnections,
        error: &RemoteError,
        begun: Instant,
    ) {
        use RemoteError::{Disconnected, Timeout, Undecided};
        match (error, used.bulk, used.main) {
            _ if is_slot_moved(error) => {}
            (Timeout | Disconnected(_), Some((bulk, number)), _) => bulk.discard(number),
            // A slow large value says nothing about the connection for small ones.
            (Timeout, None, _) if class == PriorityClass::Bulk => {}
            (Timeout, _, Some((number, silence)))
                if silence.note_timeout(begun)
                    >= link.deadline.silence_limit(self.limits.deadline) =>
            {
                link.connector.discard(number);
            }
            (Disconnected(_) | Undecided(_), _, Some((number, _))) => {
                link.connector.discard(number);
            }
            _ => {}
        }
    }

    /// Checks that the server of this connection was the primary at some time after this call, and that enough replicas
    /// have all writes from before it.
    async fn check_primary(&self, link: &Link, connection: &Connection) -> Result<(), RemoteError> {
        let slot = self.route.slot();
        link.connector.check_primary(connection, slot).await?;
        let required = self.settings.replicas;
        if required == 0 {
            return Ok(());
        }
        let ReplicaWait { connection, query } = &*connection.replica_wait;
        let count = || self.count_replicas(Arc::clone(connection));
        let found = query.run(count).await?;
        if found < required {
            let why = format!("{found} replicas have the write, {required} are required");
            return Err(RemoteError::Undecided(why));
        }
        Ok(())
    }

    /// Returns the number of replicas that have all writes so far. It writes a key for them to confirm, because `WAIT`
    /// counts replicas only up to the last write of its own connection.
    fn count_replicas(
        &self,
        connection: Arc<SideConnection>,
    ) -> impl Future<Output = Result<u64, RemoteError>> + Send + use<> {
        let mut calls = Pipeline::new();
        let write = calls.cmd("SET").arg(&self.names.mark).arg(entropy());
        write.arg("PX").arg(MARK_RETENTION_MILLIS).ignore();
        let deadline = self.settings.deadline;
        calls.cmd("WAIT").arg(self.settings.replicas);
        calls.arg(millis(deadline / 2));
        async move {
            let (number, mut opened) = connection.get().await?;
            // It runs in a task, which would never end on a connection that was cut.
            let replies = tokio::time::timeout(deadline, calls.query_async(&mut opened)).await;
            let count = replies.map_err(|_| RemoteError::Timeout);
            let count = count.and_then(|replies| Ok(replies?));
            let (count,): (u64,) = count.inspect_err(|_| connection.discard(number))?;
            Ok(count)
        }
    }
}
