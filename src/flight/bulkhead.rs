//! A bound on how many loads run at one time, over all keys. Who comes above it waits in order.

use super::context::{Entered, is_within};
use super::wait::until;
use super::{Alarm, NotYet, TooLate};
use crate::sync::Mutex;
use std::collections::VecDeque;
use std::mem::swap;
use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

pub(crate) struct Bulkhead {
    queue: Mutex<Queue>,
}

/// The first `free` of those who wait may each take a permit, and have been woken.
struct Queue {
    free: usize,
    /// In order of arrival, by ticket.
    waiting: VecDeque<(u64, Option<Waker>)>,
    next_ticket: u64,
}

impl Queue {
    /// One more may take a permit than before. Whom to wake.
    fn admit(&mut self) -> Option<Waker> {
        let last = self.free.checked_sub(1)?;
        self.waiting.get_mut(last)?.1.take()
    }

    fn find(&self, ticket: u64) -> Option<usize> {
        let tickets = self
            .waiting
            .binary_search_by_key(&ticket, |(other, _)| *other);
        tickets.ok()
    }
}

impl Bulkhead {
    pub(crate) fn new(permits: usize) -> Self {
        Self {
            queue: Mutex::new(Queue {
                free: permits,
                waiting: VecDeque::new(),
                next_ticket: 0,
            }),
        }
    }

    /// Does a load that the current thread runs hold a permit already? Loads within it need no
    /// other: they might wait for it.
    pub(crate) fn is_passed(&self) -> bool {
        is_within(self)
    }

    /// A permit, if one is free and nobody waits.
    pub(crate) fn try_pass(self: &Arc<Self>) -> Option<Permit> {
        let mut queue = self.queue.lock();
        if queue.free <= queue.waiting.len() {
            return None;
        }
        queue.free -= 1;
        Some(Permit(Arc::clone(self)))
    }

    /// A permit, in order of arrival.
    ///
    /// # Errors
    ///
    /// If there is none until `deadline`.
    pub(crate) async fn pass(
        self: &Arc<Self>,
        deadline: Option<Instant>,
        alarm: &mut impl Alarm,
    ) -> Result<Permit, TooLate> {
        let mut queued = Queued::new(self);
        until(alarm, deadline, |cx| queued.poll(cx.waker())).await
    }
}

/// The right to load.
pub(crate) struct Permit(Arc<Bulkhead>);

impl Permit {
    /// This thread loads with this permit while the result lives.
    pub(crate) fn enter(&self) -> impl Drop + use<> {
        Entered::new(Arc::as_ptr(&self.0))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut queue = self.0.queue.lock();
        queue.free += 1;
        let woken = queue.admit();
        drop(queue);
        if let Some(waker) = woken {
            waker.wake();
        }
    }
}

/// A place in the queue. Dropped, it is left to the next.
struct Queued<'a> {
    bulkhead: &'a Arc<Bulkhead>,
    ticket: u64,
}

impl<'a> Queued<'a> {
    fn new(bulkhead: &'a Arc<Bulkhead>) -> Self {
        let mut queue = bulkhead.queue.lock();
        let ticket = queue.next_ticket;
        queue.next_ticket += 1;
        queue.waiting.push_back((ticket, None));
        Self { bulkhead, ticket }
    }

    fn poll(&mut self, waker: &Waker) -> Result<Permit, NotYet> {
        // Wakers are cloned and dropped without the lock: both are an executor's code.
        let mut waker = Some(waker.clone());
        let mut queue = self.bulkhead.queue.lock();
        let never = NotYet { again: None };
        let place = queue.find(self.ticket).ok_or(never)?;
        if place < queue.free {
            let left = queue.waiting.remove(place);
            queue.free -= 1;
            drop(queue);
            drop(left);
            return Ok(Permit(Arc::clone(self.bulkhead)));
        }
        swap(&mut queue.waiting[place].1, &mut waker);
        drop(queue);
        Err(NotYet { again: None })
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        let mut queue = self.bulkhead.queue.lock();
        let Some(place) = queue.find(self.ticket) else {
            return;
        };
        let left = queue.waiting.remove(place);
        let woken = if place < queue.free {
            queue.admit()
        } else {
            None
        };
        drop(queue);
        drop(left);
        if let Some(waker) = woken {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permits_go_out_in_order_and_a_place_that_is_left_goes_to_the_next() {
        let bulkhead = Arc::new(Bulkhead::new(1));
        let first = bulkhead.try_pass().unwrap();
        let mut queued = [(); 3].map(|()| Queued::new(&bulkhead));
        let waker = Waker::noop();
        assert!(queued.iter_mut().all(|place| place.poll(waker).is_err()));
        drop(first);
        // Not past those who wait.
        assert!(bulkhead.try_pass().is_none());
        let [second, mut third, mut fourth] = queued;
        assert!(third.poll(waker).is_err());
        drop(second);
        let permit = third.poll(waker).ok().unwrap();
        assert!(fourth.poll(waker).is_err());
        drop(permit);
        drop(fourth.poll(waker).ok().unwrap());
        assert!(bulkhead.try_pass().is_some());
    }
}
