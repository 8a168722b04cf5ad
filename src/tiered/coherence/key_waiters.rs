//! Callers that wait for another process to load a key.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, futures::OwnedNotified};

/// The callers that wait for the values of keys, by key.
#[derive(Default)]
pub(crate) struct KeyWaiters(Mutex<HashMap<Box<[u8]>, Waiters>>);

/// The callers that wait for one key.
#[derive(Default)]
struct Waiters {
    notify: Arc<Notify>,
    count: usize,
}

/// The registration of a waiting caller, which receives every notification from its creation on.
pub(crate) struct KeyWait<'a> {
    key_waiters: &'a KeyWaiters,
    key: &'a [u8],
    notified: Pin<Box<OwnedNotified>>,
}

impl KeyWaiters {
    /// Registers a caller that is about to wait for `key`.
    pub(crate) fn register<'a>(&'a self, key: &'a [u8]) -> KeyWait<'a> {
        let mut waiters_by_key = self.0.lock();
        let waiters = waiters_by_key.entry(key.into()).or_default();
        waiters.count += 1;
        let mut notified = Box::pin(Arc::clone(&waiters.notify).notified_owned());
        notified.as_mut().enable();
        KeyWait {
            key_waiters: self,
            key,
            notified,
        }
    }

    /// Wakes the callers that wait for `key`: it has a value, was invalidated, or its load has failed.
    pub(crate) fn wake(&self, key: &[u8]) {
        let waiters_by_key = self.0.lock();
        let notify = waiters_by_key
            .get(key)
            .map(|waiters| Arc::clone(&waiters.notify));
        // A waker is foreign code and may call back, so none runs under the lock.
        drop(waiters_by_key);
        if let Some(notify) = notify {
            notify.notify_waiters();
        }
    }

    /// Wakes all waiting callers.
    pub(crate) fn wake_all(&self) {
        let waiters_by_key = self.0.lock();
        let all: Vec<_> = waiters_by_key
            .values()
            .map(|waiters| Arc::clone(&waiters.notify))
            .collect();
        drop(waiters_by_key);
        for notify in all {
            notify.notify_waiters();
        }
    }
}

impl KeyWait<'_> {
    pub(crate) const fn key(&self) -> &[u8] {
        self.key
    }

    /// Waits for a notification, for at most `timeout`.
    pub(crate) async fn wait(&mut self, timeout: Duration) {
        let _ = tokio::time::timeout(timeout, self.notified.as_mut()).await;
    }
}

impl Drop for KeyWait<'_> {
    fn drop(&mut self) {
        let mut waiters_by_key = self.key_waiters.0.lock();
        if let Some(waiters) = waiters_by_key.get_mut(self.key) {
            waiters.count -= 1;
            if waiters.count == 0 {
                waiters_by_key.remove(self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::TEST_TIMEOUT;
    use std::future::Future;
    use std::sync::mpsc;
    use std::task::{Context, Wake, Waker};
    use std::thread;

    #[tokio::test(start_paused = true)]
    async fn notification_between_registration_and_wait_is_received_and_nothing_stays_registered() {
        let key_waiters = KeyWaiters::default();
        let mut first = key_waiters.register(b"a");
        let second = key_waiters.register(b"a");
        key_waiters.wake(b"a");
        first.wait(Duration::MAX).await;
        drop(first);
        assert_eq!(key_waiters.0.lock().len(), 1);
        drop(second);
        assert_eq!(key_waiters.0.lock().len(), 0);
    }

    /// A waker that registers another caller and wakes all.
    struct CallsBack(Arc<KeyWaiters>);

    impl Wake for CallsBack {
        fn wake(self: Arc<Self>) {
            drop(self.0.register(b"a"));
            self.0.wake(b"a");
            self.0.wake_all();
        }
    }

    #[test]
    fn waker_that_calls_back_does_not_deadlock() {
        let wakes: [fn(&KeyWaiters); 2] = [|it| it.wake(b"a"), KeyWaiters::wake_all];
        for wake in wakes {
            let (done, ended) = mpsc::channel();
            // A thread of its own, so that the test fails after a deadlock and does not hang.
            thread::spawn(move || {
                let key_waiters = Arc::new(KeyWaiters::default());
                let waker = Waker::from(Arc::new(CallsBack(Arc::clone(&key_waiters))));
                let mut waiting = key_waiters.register(b"a");
                let context = &mut Context::from_waker(&waker);
                assert!(waiting.notified.as_mut().poll(context).is_pending());
                wake(&key_waiters);
                assert!(waiting.notified.as_mut().poll(context).is_ready());
                done.send(()).unwrap();
            });
            assert_eq!(ended.recv_timeout(TEST_TIMEOUT), Ok(()));
        }
    }
}
