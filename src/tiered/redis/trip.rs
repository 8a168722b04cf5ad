//! One round trip: a connection, within its [flow](super::flow) and a deadline, and once more if the server
//! has closed it.

use super::connection::{Bulk, Connection};
use super::flow::{Flow, Passage};
use super::link::Link;
use super::{Redis, nonsense};
use crate::tiered::codec::millis;
use crate::tiered::remote::RemoteError;
use redis::{Cmd, Pipeline, RedisResult, Value};
use std::sync::Arc;
use std::time::Duration;

/// Times that a call is sent again, on a fresh connection, since the one before was closed. Twice, because
/// the first fresh one may have been made for somebody else, before the server closed all that it had.
const RETRIES: usize = 2;

/// How long a call waits at most until it is sent.
const MAX_WAIT: Duration = Duration::from_secs(10);

/// The replies of a trip, each of them the server's or its error.
pub(super) type Replies = Vec<Result<Value, RemoteError>>;

/// When it is to be made sure that the primary is the primary, so that what it says counts.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Confirm {
    Never,
    Before,
    After,
}

/// The connection on which a trip goes.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Lane {
    /// For what is small. It begins at once: a heartbeat or an invalidation.
    Control,
    /// For what is small, on the same connection.
    Small,
    /// For what is large, on a connection of its own.
    Bulk,
}

/// What a trip is like.
#[derive(Clone, Copy)]
pub(super) struct Trip {
    pub(super) lane: Lane,
    /// The bytes that it is expected to carry.
    pub(super) bytes: usize,
    /// The bytes that it may carry at most: its deadline allows for these.
    pub(super) most: usize,
    pub(super) confirm: Confirm,
}

impl Trip {
    pub(super) fn on(lane: Lane, bytes: usize) -> Self {
        Self {
            lane,
            bytes,
            most: bytes,
            confirm: Confirm::Never,
        }
    }

    pub(super) fn confirmed(self, confirm: Confirm) -> Self {
        Self { confirm, ..self }
    }
}

/// The connections that an attempt has used.
#[derive(Default)]
struct Used {
    main: Option<u64>,
    bulk: Option<(Arc<Bulk>, u64)>,
}

impl Redis {
    fn flow(&self, lane: Lane) -> &Flow {
        match lane {
            Lane::Control | Lane::Small => &self.small,
            Lane::Bulk => &self.bulk,
        }
    }

    /// Makes one call on its own.
    pub(super) async fn one(
        &self,
        trip: Trip,
        call: impl Fn(&Connection) -> Cmd,
    ) -> Result<Value, RemoteError> {
        let call = |(): &(), connection: &Connection| call(connection);
        self.trip(trip, &[()], call)
            .await?
            .pop()
            .ok_or_else(nonsense)?
    }

    /// Makes a call for each of the items, in one round trip. A connection on which something went wrong is
    /// not used again.
    ///
    /// # Errors
    ///
    /// If there were no replies in time. What the server refuses is the error of that reply alone.
    pub(super) async fn trip<T>(
        &self,
        trip: Trip,
        items: &[T],
        call: impl Fn(&T, &Connection) -> Cmd,
    ) -> Result<Replies, RemoteError> {
        let (flow, deadline) = (self.flow(trip.lane), self.settings.deadline);
        let passage = match trip.lane {
            Lane::Control => flow.enter(trip.bytes, deadline),
            Lane::Small | Lane::Bulk => {
                let most = self.settings.lease.min(MAX_WAIT);
                flow.admit(trip.bytes, deadline, most).await?
            }
        };
        // Those that it is expected to carry are in flight already.
        let allowance = flow.allowance(deadline, trip.most.saturating_sub(trip.bytes));
        let (passage, mut used) = (Arc::new(passage), Used::default());
        let trying = self.try_again(trip, items, &call, &passage, allowance, &mut used);
        let result = tokio::time::timeout(allowance, trying).await;
        let result = result.unwrap_or(Err(RemoteError::Timeout));
        flow.note(&result);
        if let Err(error) = &result {
            self.give_up(trip.lane, used, error);
        }
        result
    }

    /// Attempts a trip, and again on a fresh connection if the connection was lost. Every call may be made
    /// twice: a script that finds what it has written itself says what it said before.
    async fn try_again<T>(
        &self,
        trip: Trip,
        items: &[T],
        call: &impl Fn(&T, &Connection) -> Cmd,
        passage: &Arc<Passage>,
        allowance: Duration,
        used: &mut Used,
    ) -> Result<Replies, RemoteError> {
        let mut retries = 0;
        loop {
            let attempt = self.attempt(trip, items, call, passage, allowance, used);
            match attempt.await {
                Err(error @ RemoteError::Disconnected(_)) if retries < RETRIES => {
                    retries += 1;
                    self.give_up(trip.lane, std::mem::take(used), &error);
                }
                result => return result,
            }
        }
    }

    async fn attempt<T>(
        &self,
        trip: Trip,
        items: &[T],
        call: &impl Fn(&T, &Connection) -> Cmd,
        passage: &Arc<Passage>,
        allowance: Duration,
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
            self.carry(link, pipeline, Arc::clone(passage), allowance)
                .await?
        } else {
            pipeline.query_async(&mut connection.link.clone()).await?
        };
        let replies = replies.into_iter().map(|reply| reply.map_err(Into::into));
        let replies: Replies = replies.collect();
        for reply in &replies {
            if let Err(error @ RemoteError::Disconnected(_)) = reply {
                // By the server's own word it is not the one that it was: nothing of the connection is of use.
                self.connector.discard(number);
                return Err(error.clone());
            }
        }
        if trip.confirm == Confirm::After {
            self.confirm(&connection).await?;
        }
        Ok(replies)
    }

    /// Transfers what is large, in a task of its own: its bytes are in flight until they have arrived, also
    /// if nobody waits for them any more.
    async fn carry(
        &self,
        mut link: Link,
        pipeline: Pipeline,
        passage: Arc<Passage>,
        allowance: Duration,
    ) -> Result<Vec<RedisResult<Value>>, RemoteError> {
        let carrying = self.runtime.spawn(async move {
            let replies = pipeline.query_async(&mut link);
            let replies = tokio::time::timeout(allowance, replies).await;
            drop(passage);
            replies
        });
        match carrying.await {
            Ok(Ok(replies)) => Ok(replies?),
            Ok(Err(_)) => Err(RemoteError::Timeout),
            Err(_) => Err(RemoteError::Disconnected("the runtime shuts down".into())),
        }
    }

    /// Gives up the connection on which something went wrong.
    fn give_up(&self, lane: Lane, used: Used, error: &RemoteError) {
        use RemoteError::{Disconnected, Timeout, Undecided};
        match (error, used.bulk, used.main) {
            (Timeout | Disconnected(_), Some((bulk, number)), _) => bulk.discard(number),
            // Small values do not suffer from a large one that is late.
            (Timeout, None, _) if lane == Lane::Bulk => {}
            (Timeout | Disconnected(_) | Undecided(_), _, Some(number)) => {
                self.connector.discard(number);
            }
            _ => {}
        }
    }

    /// Was this connection's server the primary at a time after this was called, and have as many
    /// replicas what it was told before as shall have it?
    async fn confirm(&self, connection: &Connection) -> Result<(), RemoteError> {
        self.connector.confirm(connection).await?;
        let Some(waiting) = &connection.waiting else {
            return Ok(());
        };
        let replicated = waiting
            .replicated
            .ask(|| self.replicate(waiting.link.clone()));
        let (have, shall) = (replicated.await?, self.settings.replicas);
        if have < shall {
            let why = format!("{have} replicas have it, of {shall} that shall");
            return Err(RemoteError::Undecided(why));
        }
        Ok(())
    }

    /// How many replicas have all that was written so far, and another write, for which they must be
    /// there.
    fn replicate(
        &self,
        mut link: Link,
    ) -> impl Future<Output = Result<u64, RemoteError>> + Send + use<> {
        let mut waiting = Pipeline::new();
        let write = waiting
            .cmd("SET")
            .arg(&self.names.mark)
            .arg(super::entropy());
        write.arg("PX").arg(super::KEPT).ignore();
        let most = millis(self.settings.deadline / 2);
        waiting.cmd("WAIT").arg(self.settings.replicas).arg(most);
        async move {
            let (have,): (u64,) = waiting.query_async(&mut link).await?;
            Ok(have)
        }
    }
}
