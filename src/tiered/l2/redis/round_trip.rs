//! One round trip: a call on a connection, within its [flow](crate::tiered::l2::redis::flow_control) and a deadline. It is repeated if the server
//! has closed the connection.

use crate::tiered::l2::envelope::millis;
use crate::tiered::l2::redis::connection::{Bulk, Connection};
use crate::tiered::l2::redis::flow_control::{FlowControl, Passage};
use crate::tiered::l2::redis::link::Link;
use crate::tiered::l2::redis::{Redis, nonsense};
use crate::tiered::l2::remote::RemoteError;
use redis::{Cmd, Pipeline, RedisResult, Value};
use std::sync::Arc;

/// Number of times that a call is repeated on a fresh connection after its connection was closed. It is two, because
/// the first fresh connection may have been made for another call, before the server closed all connections that it
/// had.
const RETRIES: usize = 2;

/// The replies of a trip, one for each call: a value of the server, or its error.
pub(crate) type Replies = Vec<Result<Value, RemoteError>>;

/// The time at which a trip checks that its server still is the primary, so that its replies count.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Confirm {
    Never,
    Before,
    After,
}

/// The connection that a trip uses, and its order there.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Lane {
    /// The connection for small values, without waiting: for heartbeats and invalidations.
    Control,
    /// The connection for small values.
    Small,
    /// The connection for large values.
    Bulk,
}

/// The properties of a trip.
#[derive(Clone, Copy)]
pub(crate) struct RoundTrip {
    pub(crate) lane: Lane,
    /// Expected number of bytes, which it waits for room for.
    pub(crate) bytes: usize,
    /// Largest possible number of bytes, which its deadline allows for.
    pub(crate) most: usize,
    pub(crate) confirm: Confirm,
}

impl RoundTrip {
    /// Creates a trip that carries this many bytes and does not check the primary.
    pub(crate) fn on(lane: Lane, bytes: usize) -> Self {
        Self {
            lane,
            bytes,
            most: bytes,
            confirm: Confirm::Never,
        }
    }

    /// Returns the trip with a check of the primary.
    pub(crate) fn confirmed(self, confirm: Confirm) -> Self {
        Self { confirm, ..self }
    }
}

/// The connections that an attempt has used, by their numbers.
#[derive(Default)]
struct Used {
    main: Option<u64>,
    bulk: Option<(Arc<Bulk>, u64)>,
}

impl Redis {
    /// Returns the flow of the connection that a lane belongs to.
    fn flow(&self, lane: Lane) -> &FlowControl {
        match lane {
            Lane::Control | Lane::Small => &self.small,
            Lane::Bulk => &self.bulk,
        }
    }

    /// Makes a single call.
    pub(crate) async fn one(
        &self,
        trip: RoundTrip,
        call: impl Fn(&Connection) -> Cmd,
    ) -> Result<Value, RemoteError> {
        let call = |(): &(), connection: &Connection| call(connection);
        self.trip(trip, &[()], call)
            .await?
            .pop()
            .ok_or_else(nonsense)?
    }

    /// Makes a call for each of the items, in one round trip. A connection that has failed is not used again.
    ///
    /// # Errors
    ///
    /// Returns an error if there were no replies in time. A call that the server refuses is only an error of its own
    /// reply.
    pub(crate) async fn trip<T>(
        &self,
        trip: RoundTrip,
        items: &[T],
        call: impl Fn(&T, &Connection) -> Cmd,
    ) -> Result<Replies, RemoteError> {
        let flow = self.flow(trip.lane);
        let passage = Arc::new(match trip.lane {
            Lane::Control => flow.enter(trip.bytes),
            Lane::Small | Lane::Bulk => flow.admit(trip.bytes, trip.most).await?,
        });
        let mut used = Used::default();
        let trying = self.try_again(trip, items, &call, &passage, &mut used);
        let result = tokio::time::timeout(passage.allowance(), trying).await;
        let result = result.unwrap_or(Err(RemoteError::Timeout));
        flow.note(&result);
        if let Err(error) = &result {
            self.give_up(trip.lane, used, error);
        }
        result
    }

    /// Attempts a trip, and repeats it on a fresh connection if the connection was closed. Every call may be made
    /// twice: a script that finds its own earlier write gives the same reply as before.
    async fn try_again<T>(
        &self,
        trip: RoundTrip,
        items: &[T],
        call: &impl Fn(&T, &Connection) -> Cmd,
        passage: &Arc<Passage>,
        used: &mut Used,
    ) -> Result<Replies, RemoteError> {
        let mut retries = 0;
        loop {
            match self.attempt(trip, items, call, passage, used).await {
                Err(error @ RemoteError::Disconnected(_)) if retries < RETRIES => {
                    retries += 1;
                    self.give_up(trip.lane, std::mem::take(used), &error);
                }
                result => return result,
            }
        }
    }

    /// Makes the calls of a trip on the current connection, which it notes in `used`.
    async fn attempt<T>(
        &self,
        trip: RoundTrip,
        items: &[T],
        call: &impl Fn(&T, &Connection) -> Cmd,
        passage: &Arc<Passage>,
        used: &mut Used,
    ) -> Result<Replies, RemoteError> {
        let (number, connection) = self.connector.get().await?;
        used.main = Some(number);
        if trip.confirm == Confirm::Before {
            self.confirm(&connection).await?;
            self.connector.inspect(&connection).await?;
        }
        let mut pipeline = Pipeline::with_capacity(items.len());
        for item in items {
            pipeline.add_command(call(item, &connection));
        }
        pipeline.ignore_errors();
        let replies = if trip.lane == Lane::Bulk {
            let (number, link) = connection.bulk.get().await?;
            used.bulk = Some((Arc::clone(&connection.bulk), number));
            self.carry(link, pipeline, Arc::clone(passage)).await?
        } else {
            pipeline.query_async(&mut connection.link.clone()).await?
        };
        let replies = replies.into_iter().map(|reply| reply.map_err(Into::into));
        let replies: Replies = replies.collect();
        for reply in &replies {
            if let Err(error @ RemoteError::Disconnected(_)) = reply {
                // The server itself says that its scripts or its role have changed, so all connections to it are stale.
                self.connector.discard(number);
                return Err(error.clone());
            }
        }
        if trip.confirm == Confirm::After {
            self.confirm(&connection).await?;
        }
        Ok(replies)
    }

    /// Transfers large values in a task, which shares the passage with the caller: their bytes are in flight until they
    /// have arrived, even if the caller is dropped before that.
    async fn carry(
        &self,
        mut link: Link,
        pipeline: Pipeline,
        passage: Arc<Passage>,
    ) -> Result<Vec<RedisResult<Value>>, RemoteError> {
        let carrying = self.runtime.spawn(async move {
            let replies = pipeline.query_async(&mut link);
            tokio::time::timeout(passage.allowance(), replies).await
        });
        let replies = carrying.await?.map_err(|_| RemoteError::Timeout)?;
        Ok(replies?)
    }

    /// Discards the connection that has failed.
    fn give_up(&self, lane: Lane, used: Used, error: &RemoteError) {
        use RemoteError::{Disconnected, Timeout, Undecided};
        match (error, used.bulk, used.main) {
            (Timeout | Disconnected(_), Some((bulk, number)), _) => bulk.discard(number),
            // A slow large value says nothing about the connection for small ones.
            (Timeout, None, _) if lane == Lane::Bulk => {}
            (Timeout | Disconnected(_) | Undecided(_), _, Some(number)) => {
                self.connector.discard(number);
            }
            _ => {}
        }
    }

    /// Checks that the server of this connection was the primary at some time after this call, and that enough replicas
    /// have all writes from before it.
    async fn confirm(&self, connection: &Connection) -> Result<(), RemoteError> {
        self.connector.confirm(connection).await?;
        let Some(waiting) = &connection.waiting else {
            return Ok(());
        };
        let replicated = waiting
            .replicated
            .ask(|| self.replicate(waiting.link.clone()));
        let (have, required) = (replicated.await?, self.settings.replicas);
        if have < required {
            let why = format!("{have} replicas have the write, {required} are required");
            return Err(RemoteError::Undecided(why));
        }
        Ok(())
    }

    /// Returns the number of replicas that have all writes so far. It writes a mark for them to confirm, because `WAIT`
    /// counts replicas only up to the last write of its own connection.
    fn replicate(
        &self,
        mut link: Link,
    ) -> impl Future<Output = Result<u64, RemoteError>> + Send + use<> {
        let mut waiting = Pipeline::new();
        let write = waiting
            .cmd("SET")
            .arg(&self.names.mark)
            .arg(crate::tiered::l2::redis::entropy());
        write.arg("PX").arg(crate::tiered::l2::redis::KEPT).ignore();
        let deadline = self.settings.deadline;
        waiting.cmd("WAIT").arg(self.settings.replicas);
        waiting.arg(millis(deadline / 2));
        async move {
            // It runs in a task, which would stay forever on a connection that was cut.
            let replies = tokio::time::timeout(deadline, waiting.query_async(&mut link)).await;
            let (have,): (u64,) = replies.map_err(|_| RemoteError::Timeout)??;
            Ok(have)
        }
    }
}
