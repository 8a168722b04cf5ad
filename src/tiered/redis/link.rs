//! A link to a server that ends its calls when it is closed.

use super::target::resp3;
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{
    AsyncConnectionConfig, Client, Cmd, Pipeline, PushInfo, PushKind, RedisError, RedisFuture,
    RedisResult, Value,
};
use std::convert::Infallible;
use std::io;
use std::time::Duration;
use tokio::sync::watch;

/// A connection whose calls end when the server closes it.
///
/// Without this, a call that is sent at the very moment at which the connection is closed may wait in vain,
/// until its deadline: it is left in the queue of a task that has ended. Of 100 connections that were killed
/// about one was lost in this way, and its read ran the loader.
#[derive(Clone)]
pub(crate) struct Link {
    connection: MultiplexedConnection,
    /// Becomes `true`, or ends, when the connection is closed.
    closed: watch::Receiver<bool>,
}

impl Link {
    pub(crate) async fn open(client: &Client, patience: Duration) -> RedisResult<Self> {
        let (close, closed) = watch::channel(false);
        let note = move |push: PushInfo| {
            if push.kind == PushKind::Disconnection {
                close.send_replace(true);
            }
            Ok::<_, Infallible>(())
        };
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(patience))
            .set_response_timeout(None)
            .set_push_sender(note);
        // In the older protocol nothing is pushed.
        let client = resp3(client)?;
        let opening = client.get_multiplexed_async_connection_with_config(&config);
        Ok(Self {
            connection: opening.await?,
            closed,
        })
    }
}

fn was_closed() -> RedisError {
    let why = "the server has closed the connection";
    io::Error::new(io::ErrorKind::BrokenPipe, why).into()
}

impl ConnectionLike for Link {
    fn req_packed_command<'a>(&'a mut self, call: &'a Cmd) -> RedisFuture<'a, Value> {
        Box::pin(async move {
            tokio::select! {
                biased;
                reply = self.connection.req_packed_command(call) => reply,
                _ = self.closed.wait_for(|closed| *closed) => Err(was_closed()),
            }
        })
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        calls: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        Box::pin(async move {
            tokio::select! {
                biased;
                replies = self.connection.req_packed_commands(calls, offset, count) => replies,
                _ = self.closed.wait_for(|closed| *closed) => Err(was_closed()),
            }
        })
    }

    fn get_db(&self) -> i64 {
        self.connection.get_db()
    }
}
