//! Several flights of one caller: leads that are lost together, and waits that are polled together.
//!
//! A caller that waits for several keys and finds their leader gone shall take over all of them at
//! once, so that they are one load. This needs two things: the leads of a batch are all handed over
//! before any waiter is woken, and a woken caller asks in all its flights before it acts.

use super::leader::Leader;
use super::state::{Candidate, Waiters, wake};
use super::wait::{Alarm, TooLate, until};
use super::waiter::{NotYet, Step, Waiter};
use std::collections::VecDeque;
use std::time::Instant;

/// The leads of several flights, each with the caller's number for its key. Dropped, all of them are
/// handed over to waiters before the first waiter is woken.
pub(crate) struct Leaders<'a, K, V>(VecDeque<(usize, Leader<'a, K, V>)>);

impl<'a, K, V> Leaders<'a, K, V> {
    pub(crate) const fn new() -> Self {
        Self(VecDeque::new())
    }

    pub(crate) fn push(&mut self, at: usize, leader: Leader<'a, K, V>) {
        self.0.push_back((at, leader));
    }

    /// Takes the lead that was pushed first.
    pub(crate) fn pop(&mut self) -> Option<(usize, Leader<'a, K, V>)> {
        self.0.pop_front()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &(usize, Leader<'a, K, V>)> {
        self.0.iter()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<K, V> Drop for Leaders<'_, K, V> {
    fn drop(&mut self) {
        let mut woken = Waiters::new();
        for (_, leader) in &mut self.0 {
            woken.append(&mut leader.abandon());
        }
        // The leaders themselves are dropped after this: a panic in the `drop` of a key would lose
        // the waiters.
        wake(woken);
    }
}

/// Waits until at least one of several waiters is told something, and takes those that are out of
/// `waiting`. `candidate` returns the terms on which they would lead, the same for all, so that
/// leases that end together are taken over together.
pub(crate) async fn wait_any<'a, K, V>(
    waiting: &mut Vec<(usize, Waiter<'a, K, V>)>,
    candidate: impl Fn() -> Candidate,
    deadline: Option<Instant>,
    alarm: &mut impl Alarm,
) -> Result<Vec<(usize, Step<'a, K, V>)>, TooLate> {
    until(alarm, deadline, |cx| {
        let candidate = candidate();
        let (mut told, mut next) = (Vec::new(), None);
        waiting.retain_mut(|(at, waiter)| match waiter.poll(candidate, cx.waker()) {
            Ok(step) => {
                told.push((*at, step));
                false
            }
            Err(NotYet { again }) => {
                next = next.into_iter().chain(again).min();
                true
            }
        });
        if told.is_empty() {
            Err(NotYet { again: next })
        } else {
            Ok(told)
        }
    })
    .await
}
