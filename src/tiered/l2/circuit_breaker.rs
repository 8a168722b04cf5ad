//! Circuit breaking around L2, by `recloser`, with statistics of the calls.
//!
//! While the circuit is open, callers are refused at once. No caller probes, because a probe may take as long as the
//! deadline: the [background tasks](crate::tiered::coherence::background) probe.

use crate::tiered::health::Warning;
use crate::tiered::l2::calls::{CallCounters, Operation};
use crate::tiered::l2::remote::{
    Fill, Invalidated, LookupReply, LookupRequest, Messages, NewValue, Peer, Position, Remote,
    RemoteError, RemoteFuture, Subject,
};
use crate::tiered::log::{StateChange, log};
use crate::trace::Span;
use parking_lot::Mutex;
use recloser::{AsyncRecloser, Error, Recloser};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tokio::task::coop::consume_budget;

/// The number of calls whose outcome is remembered while the circuit is closed.
const CLOSED_LEN: usize = 6;

/// The share of remembered calls that may fail before the circuit opens.
const ERROR_RATE: f32 = 0.5;

/// The number of probes that have to succeed before the circuit closes.
const HALF_OPEN_LEN: usize = 1;

/// The time for which a right counts as missing after the last call that lacked it.
const MISSING_RIGHT_RETENTION: Duration = Duration::from_secs(60);

/// The largest number of missing rights that are remembered.
const MAX_MISSING_RIGHTS: usize = 8;

/// The time between the opening of the circuit and the first probe.
const OPEN_WAIT: Duration = Duration::from_millis(500);

/// L2 behind a circuit breaker.
pub(crate) struct CircuitBreaker {
    /// The name of the cache.
    name: String,
    recloser: AsyncRecloser,
    /// `true` while the circuit is open or half open.
    open: AtomicBool,
    calls: Arc<CallCounters>,
    last_error: Mutex<Option<RemoteError>>,
    missing_rights: Mutex<MissingRights>,
    remote: Box<dyn Remote>,
}

/// The rights that were missing recently, each with the time of the last call that lacked it. Calls that need only
/// other rights succeed meanwhile.
#[derive(Default)]
struct MissingRights(Vec<(String, Instant)>);

impl MissingRights {
    fn note(&mut self, what: &str) {
        self.0.retain(|(other, _)| other != what);
        if self.0.len() == MAX_MISSING_RIGHTS {
            self.0.remove(0);
        }
        self.0.push((what.to_owned(), Instant::now()));
    }

    fn recent(&mut self) -> Vec<String> {
        self.0
            .retain(|(_, when)| when.elapsed() < MISSING_RIGHT_RETENTION);
        self.0.iter().map(|(what, _)| what.clone()).collect()
    }
}

impl CircuitBreaker {
    /// Creates a closed breaker for the cache of this name, which counts its calls in `calls`.
    pub(crate) fn new(name: String, calls: Arc<CallCounters>, remote: Box<dyn Remote>) -> Self {
        let recloser = Recloser::custom()
            .closed_len(CLOSED_LEN)
            .error_rate(ERROR_RATE)
            .half_open_len(HALF_OPEN_LEN)
            .open_wait(OPEN_WAIT)
            .build();
        Self {
            name,
            recloser: recloser.into(),
            open: AtomicBool::new(false),
            calls,
            last_error: Mutex::new(None),
            missing_rights: Mutex::default(),
            remote,
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.open.load(Relaxed)
    }

    /// Returns the error of the last call, or `None` if it succeeded.
    pub(crate) fn last_error(&self) -> Option<RemoteError> {
        self.last_error.lock().clone()
    }

    /// Makes a call, unless the circuit is open.
    async fn call<T>(
        &self,
        operation: Operation,
        call: impl Future<Output = Result<T, RemoteError>>,
    ) -> Result<T, RemoteError> {
        if self.is_open() {
            // The call awaits nothing else. Without this, a loop around it would keep the runtime's thread for itself.
            consume_budget().await;
            return Err(RemoteError::Open);
        }
        self.attempt(operation, call).await
    }

    /// Makes a call like [`call`](Self::call), but also while the circuit is open, if a probe is due.
    async fn attempt<T>(
        &self,
        operation: Operation,
        call: impl Future<Output = Result<T, RemoteError>>,
    ) -> Result<T, RemoteError> {
        let fails = RemoteError::is_outage;
        let is_probe = self.is_open();
        let call = Span::l2(&self.name, operation.name()).around(call);
        let timer = self.calls.of(operation).begin();
        let result = self.recloser.call_with(fails, call).await;
        match result {
            Ok(reply) => {
                timer.stop(true);
                self.note_success(is_probe);
                Ok(reply)
            }
            Err(Error::Rejected) => {
                timer.discard();
                self.note_open();
                Err(RemoteError::Open)
            }
            Err(Error::Inner(error)) => {
                timer.stop(false);
                if let RemoteError::Forbidden(what) = &error {
                    self.missing_rights.lock().note(what);
                }
                *self.last_error.lock() = Some(error.clone());
                Err(error)
            }
        }
    }

    fn note_open(&self) {
        if !self.open.swap(true, Relaxed) {
            let error = self.last_error().unwrap_or(RemoteError::Open);
            log(&self.name, &StateChange::CircuitOpened(&error));
        }
    }

    /// Notes a successful call. Only a probe closes the circuit: a call that was in flight when it opened does not.
    fn note_success(&self, is_probe: bool) {
        if is_probe && self.open.swap(false, Relaxed) {
            log(&self.name, &StateChange::CircuitClosed);
        }
        if !self.is_open() && self.last_error.lock().is_some() {
            *self.last_error.lock() = None;
        }
    }

    /// Looks up several keys in one call. A key whose lookup fails, while others succeed, counts as one without a
    /// value.
    pub(crate) async fn lookup(
        &self,
        requests: &[LookupRequest<'_>],
    ) -> Result<Vec<LookupReply>, RemoteError> {
        if self.is_open() || !requests.iter().any(|request| request.may_be_old) {
            return self.look_up_on_primary(requests).await;
        }
        // Not counted as a call, because it says nothing about the primary.
        let found = self.remote.look_up_on_replicas(requests).await?;
        let rest = requests.iter().zip(&found);
        let rest = rest.filter(|(_, found)| found.is_none());
        let rest: Vec<_> = rest.map(|(request, _)| *request).collect();
        let mut replies = match rest[..] {
            [] => Vec::new(),
            _ => self.look_up_on_primary(&rest).await?,
        }
        .into_iter();
        let found = found.into_iter();
        let all = found.map(|found| found.or_else(|| replies.next()));
        Ok(all
            .map(|reply| reply.unwrap_or(LookupReply::None))
            .collect())
    }

    async fn look_up_on_primary(
        &self,
        requests: &[LookupRequest<'_>],
    ) -> Result<Vec<LookupReply>, RemoteError> {
        let call = self.remote.lookup(requests);
        let replies = self.call(Operation::Lookup, call).await?;
        let replies = self.note_refusals(replies).into_iter();
        Ok(replies
            .map(|reply| reply.unwrap_or(LookupReply::None))
            .collect())
    }

    /// Stores several values in one call. Returns for each whether it was stored, or `None` if this value failed while
    /// others did not.
    pub(crate) async fn fill(&self, fills: &[Fill<'_>]) -> Result<Vec<Option<bool>>, RemoteError> {
        let filled = self.call(Operation::Fill, self.remote.fill(fills)).await?;
        Ok(self.note_refusals(filled))
    }

    /// Replaces the errors of single keys by `None`, and notes missing rights.
    fn note_refusals<T>(&self, results: Vec<Result<T, RemoteError>>) -> Vec<Option<T>> {
        let note = |error| {
            if let RemoteError::Forbidden(what) = &error {
                self.missing_rights.lock().note(what);
            }
        };
        let results = results.into_iter();
        results.map(|result| result.map_err(note).ok()).collect()
    }

    /// Releases leases without a value.
    pub(crate) async fn release(&self, leases: &[Fill<'_>]) -> Result<(), RemoteError> {
        let call = self.remote.fill(leases);
        self.call(Operation::Release, call).await.map(drop)
    }

    /// Returns the largest size of an envelope, in bytes, as far as it is known.
    pub(crate) fn max_value_size(&self) -> usize {
        self.remote.max_value_size()
    }

    /// Returns a position that the namespace has had, as recent as this process knows.
    pub(crate) fn position(&self) -> Option<Position> {
        self.remote.position()
    }

    pub(crate) async fn invalidate(
        &self,
        subject: &Subject,
        value: Option<&NewValue>,
    ) -> Result<Invalidated, RemoteError> {
        let call = self.remote.invalidate(subject, value);
        self.call(Operation::Invalidate, call).await
    }

    pub(crate) async fn renew(&self, nonce: u64, lease: Duration) -> Result<(), RemoteError> {
        let call = self.remote.renew(nonce, lease);
        self.call(Operation::Renew, call).await
    }

    /// Checks whether L2 still replies, by looking up a key that no cache stores.
    pub(crate) async fn check(&self) {
        let _ = self.lookup(&[LookupRequest::without_load(&[])]).await;
    }

    /// Checks whether L2 replies again, if the last call failed or the circuit is open.
    ///
    /// The check is a write and not a ping, so that it also fails where L2 refuses writes.
    pub(crate) async fn probe(&self, lease: Duration) {
        if self.is_open() || self.last_error.lock().is_some() {
            let probe = self.remote.renew(0, lease);
            let _ = self.attempt(Operation::Renew, probe).await;
        }
    }

    pub(crate) async fn acknowledge(
        &self,
        peers: &[Peer],
        at: Position,
    ) -> Result<(), RemoteError> {
        let call = self.remote.acknowledge(peers, at);
        self.call(Operation::Acknowledge, call).await
    }

    /// Returns the address of the server that serves the keys, if there may be several and it is known.
    pub(crate) fn server(&self) -> Option<String> {
        self.remote.server()
    }

    /// Returns `true` while calls are refused, because other processes use the namespace with another number of
    /// partitions.
    pub(crate) fn is_refused(&self) -> bool {
        self.remote.is_refused()
    }

    /// Returns warnings about the server's configuration and about rights that were missing recently.
    pub(crate) fn warnings(&self) -> Vec<Warning> {
        let forbidden = self.missing_rights.lock().recent();
        let forbidden = forbidden.into_iter().map(Warning::Forbidden);
        self.remote
            .warnings()
            .into_iter()
            .chain(forbidden)
            .collect()
    }

    /// Subscribes to messages. The call is not counted, because a subscription has a connection of its own.
    pub(crate) fn subscribe(&self) -> RemoteFuture<'_, Box<dyn Messages>> {
        self.remote.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::future::join_all;
    use tokio::sync::watch;

    /// An L2 that is never called, because the tests pass calls of their own.
    struct Nothing;

    impl Remote for Nothing {
        fn lookup<'a>(
            &'a self,
            _: &'a [LookupRequest<'a>],
        ) -> RemoteFuture<'a, Vec<Result<LookupReply, RemoteError>>> {
            unreachable!()
        }
        fn look_up_on_replicas<'a>(
            &'a self,
            _: &'a [LookupRequest<'a>],
        ) -> RemoteFuture<'a, Vec<Option<LookupReply>>> {
            unreachable!()
        }
        fn fill<'a>(
            &'a self,
            _: &'a [Fill<'a>],
        ) -> RemoteFuture<'a, Vec<Result<bool, RemoteError>>> {
            unreachable!()
        }
        fn invalidate<'a>(
            &'a self,
            _: &'a Subject,
            _: Option<&'a NewValue>,
        ) -> RemoteFuture<'a, Invalidated> {
            unreachable!()
        }
        fn max_value_size(&self) -> usize {
            unreachable!()
        }
        fn renew(&self, _: u64, _: Duration) -> RemoteFuture<'_, ()> {
            unreachable!()
        }
        fn position(&self) -> Option<Position> {
            unreachable!()
        }
        fn acknowledge<'a>(&'a self, _: &'a [Peer], _: Position) -> RemoteFuture<'a, ()> {
            unreachable!()
        }
        fn server(&self) -> Option<String> {
            None
        }
        fn is_refused(&self) -> bool {
            false
        }
        fn warnings(&self) -> Vec<Warning> {
            Vec::new()
        }
        fn subscribe(&self) -> RemoteFuture<'_, Box<dyn Messages>> {
            unreachable!()
        }
    }

    #[tokio::test]
    async fn call_that_began_before_the_circuit_opened_does_not_close_it() {
        let breaker = CircuitBreaker::new("test".into(), Arc::default(), Box::new(Nothing));
        let (end, ends) = watch::channel(false);
        let slow = |mut ends: watch::Receiver<bool>| {
            let ended = async move { ends.wait_for(|ended| *ended).await.map(drop) };
            breaker.call(Operation::Lookup, async {
                ended.await.map_err(|_| RemoteError::Timeout)
            })
        };
        let slow = join_all((0..10).map(|_| slow(ends.clone())));
        let outage = async {
            while !breaker.is_open() {
                let fails = async { Err::<(), _>(RemoteError::Timeout) };
                let _ = breaker.call(Operation::Fill, fails).await;
            }
            end.send_replace(true);
        };
        let (results, ()) = tokio::join!(slow, outage);
        assert!(results.iter().all(Result::is_ok));
        assert!(breaker.is_open() && breaker.last_error().is_some());
        let calls = breaker.calls.snapshot();
        assert_eq!((calls.lookup.times.count(), calls.lookup.failures), (10, 0));
        assert_eq!(calls.fill.times.count(), calls.fill.failures);
    }

    #[tokio::test]
    async fn call_whose_caller_is_dropped_is_counted() {
        let breaker = CircuitBreaker::new("test".into(), Arc::default(), Box::new(Nothing));
        let never = std::future::pending::<Result<(), RemoteError>>();
        let call = breaker.call(Operation::Lookup, never);
        let most = Duration::from_millis(20);
        assert!(tokio::time::timeout(most, call).await.is_err());
        let calls = breaker.calls.snapshot();
        assert_eq!((calls.lookup.times.count(), calls.lookup.failures), (1, 0));
        assert!(calls.lookup.times.total() >= most);
    }
}
