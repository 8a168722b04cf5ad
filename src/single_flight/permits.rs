//! The state machine of a bulkhead: the loads that hold a permit, and the callers to which the next one is offered.
//! It is pure: it has no lock and no clock, and returns the wakers to wake instead of waking them.
//!
//! A permit is *offered*, not owned, because it is not certain that a waiting caller is still polled:
//!
//! - A free permit is offered to the first caller in the queue, which is woken. An offer that is not taken within
//!   [`OFFER_TIMEOUT`] lapses. The permit is then open: the next caller that is polled takes it, whatever its place.
//!   The late caller returns to its place in the queue when it is polled again.
//! - A permit that was taken ends with the lease. The load that holds it continues, is counted as abandoned, and
//!   exceeds the bound.
//!
//! A waiting caller asks again after [`CHECK_INTERVAL`] times the number of waiting callers, so that one of them
//! finds a lapsed offer soon, and all of them together cost little. [`MAX_WATCHERS`] of them ask again at the exact
//! moment when an offer lapses or a lease ends. If all did, 1,000 callers behind 64 loads that hang would ask 40,000
//! times a second.

use crate::clock::Instant;
use crate::storage::allocated::AllocatedBytes;
use std::collections::VecDeque;
use std::mem::swap;
use std::task::Waker;
use std::time::Duration;

/// The time for which a free permit is offered to the caller that was woken for it.
pub(crate) const OFFER_TIMEOUT: Duration = Duration::from_millis(5);
/// The interval at which a waiting caller asks again, per waiting caller.
const CHECK_INTERVAL: Duration = Duration::from_millis(20);
/// The longest interval at which a waiting caller asks again.
const MAX_CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// The number of callers that ask again at the moment when an offer lapses or a lease ends.
const MAX_WATCHERS: usize = 8;

/// The ID of a load that holds a permit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct HolderId(u64);

/// The number of a caller in the queue. Earlier callers have smaller tickets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ticket(u64);

/// The permits of a bulkhead and the callers that wait for them.
pub(crate) struct PermitQueue {
    permits: usize,
    lease: Duration,
    /// Loads that hold a permit, by id, which is also the order in which their leases end.
    holders: VecDeque<Holder>,
    /// Offers that have not lapsed, the oldest first.
    offers: VecDeque<Offer>,
    /// The number of free permits that are open to any caller, because their offers have lapsed.
    open: usize,
    /// Callers without an offer, by ticket. A caller that was not polled since it was woken has no waker; a caller
    /// whose offer has lapsed is not here until it is polled again.
    waiting: VecDeque<(Ticket, Option<Waker>)>,
    next_holder: u64,
    next_ticket: u64,
    /// The number of loads that still run although their lease has ended.
    overdue: usize,
    /// The number of loads whose lease ended while they ran, so far.
    abandoned: u64,
}

struct Holder {
    id: HolderId,
    /// The end of the lease. `None`: never.
    lease_end: Option<Instant>,
    /// The number of times that a caller was told to ask again at the end of the lease.
    watchers: usize,
}

struct Offer {
    ticket: Ticket,
    until: Instant,
    /// The number of times that a caller was told to ask again when the offer lapses.
    watchers: usize,
}

/// The answer to a caller in the queue.
#[derive(Debug, PartialEq)]
pub(crate) enum Reply {
    Taken(HolderId),
    /// `again`: the time at which to ask once more, if not woken before.
    Wait {
        again: Instant,
    },
}

impl PermitQueue {
    pub(crate) fn new(permits: usize, lease: Duration) -> Self {
        Self {
            permits,
            lease,
            holders: VecDeque::new(),
            offers: VecDeque::new(),
            open: 0,
            waiting: VecDeque::new(),
            next_holder: 0,
            next_ticket: 0,
            overdue: 0,
            abandoned: 0,
        }
    }

    /// Returns the number of permits that no load holds. Some of them may be offered.
    fn free(&self) -> usize {
        self.permits.saturating_sub(self.holders.len())
    }

    /// Returns the number of loads that still run although their lease has ended.
    pub(crate) fn overdue(&self) -> usize {
        self.overdue
    }

    /// Returns the number of loads whose lease ended while they ran, so far.
    pub(crate) fn abandoned(&self) -> u64 {
        self.abandoned
    }

    /// Ends leases and offers whose time has passed, then offers the permits that are free and not open. Returns the
    /// wakers of the callers to wake.
    ///
    /// Afterwards every free permit is offered or open, or no caller waits for an offer.
    pub(crate) fn advance(&mut self, now: Instant) -> Vec<Waker> {
        let is_over = |holder: &Holder| holder.lease_end.is_some_and(|end| end <= now);
        while self.holders.front().is_some_and(is_over) {
            self.holders.pop_front();
            self.overdue += 1;
            self.abandoned += 1;
        }
        while self.offers.front().is_some_and(|offer| offer.until <= now) {
            self.offers.pop_front();
            self.open += 1;
        }
        let mut woken = Vec::new();
        // Any caller may take an open permit, whatever its place, so as many are woken as there are open permits.
        let sleeping = self
            .waiting
            .iter_mut()
            .filter_map(|(_, waker)| waker.take());
        woken.extend(sleeping.take(self.open));
        while self.free() > self.offers.len() + self.open {
            let Some((ticket, waker)) = self.waiting.pop_front() else {
                break;
            };
            let until = now + OFFER_TIMEOUT;
            self.offers.push_back(Offer {
                ticket,
                until,
                watchers: 0,
            });
            woken.extend(waker);
        }
        woken
    }

    /// Takes a permit that is neither held nor offered. Call [`advance`](Self::advance) before.
    pub(crate) fn try_take(&mut self, now: Instant) -> Option<HolderId> {
        (self.free() > self.offers.len()).then(|| {
            self.open = self.open.saturating_sub(1);
            self.take(now)
        })
    }

    fn take(&mut self, now: Instant) -> HolderId {
        let id = HolderId(self.next_holder);
        self.next_holder += 1;
        let lease_end = now.checked_add(self.lease);
        self.holders.push_back(Holder {
            id,
            lease_end,
            watchers: 0,
        });
        id
    }

    /// Appends a caller to the queue. Returns its ticket.
    pub(crate) fn enqueue(&mut self) -> Ticket {
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        self.waiting.push_back((ticket, None));
        ticket
    }

    /// Asks for a permit. The `waker` of a caller that has to wait is taken. The waker that `waker` contains afterwards
    /// is to be dropped without a lock, because that runs code of an executor. Call [`advance`](Self::advance) before.
    pub(crate) fn poll(
        &mut self,
        ticket: Ticket,
        now: Instant,
        waker: &mut Option<Waker>,
    ) -> Reply {
        if self.withdraw_offer(ticket) {
            return Reply::Taken(self.take(now));
        }
        if let Some(id) = self.try_take(now) {
            *waker = self.dequeue(ticket);
            return Reply::Taken(id);
        }
        match self.find(ticket) {
            Ok(location) => swap(&mut self.waiting[location].1, waker),
            Err(location) => self.waiting.insert(location, (ticket, waker.take())),
        }
        let again = self.next_check(now);
        Reply::Wait { again }
    }

    /// Returns the time at which a caller asks again. It is well within the lease, so that the caller proves in time
    /// that it is alive.
    fn next_check(&mut self, now: Instant) -> Instant {
        let callers = u32::try_from(self.waiting.len()).unwrap_or(u32::MAX);
        let longest = MAX_CHECK_INTERVAL.min((self.lease / 2).max(OFFER_TIMEOUT));
        let check = now + CHECK_INTERVAL.saturating_mul(callers).min(longest);
        let offer = self.offers.front_mut();
        let check = offer.map_or(check, |offer| {
            check_at(&mut offer.watchers, offer.until, check)
        });
        let Some(holder) = self.holders.front_mut() else {
            return check;
        };
        holder
            .lease_end
            .map_or(check, |end| check_at(&mut holder.watchers, end, check))
    }

    /// Removes a caller from the queue. Returns its waker, which is to be dropped without a lock. Call
    /// [`advance`](Self::advance) afterwards, so that its offer passes on.
    pub(crate) fn leave(&mut self, ticket: Ticket) -> Option<Waker> {
        self.withdraw_offer(ticket);
        self.dequeue(ticket)
    }

    /// Ends a load. Call [`advance`](Self::advance) afterwards.
    pub(crate) fn release(&mut self, id: HolderId) {
        match self.holders.binary_search_by_key(&id, |holder| holder.id) {
            Ok(location) => drop(self.holders.remove(location)),
            // The lease has ended before the load.
            Err(_) => self.overdue -= 1,
        }
    }

    fn withdraw_offer(&mut self, ticket: Ticket) -> bool {
        let offered = self.offers.iter().position(|offer| offer.ticket == ticket);
        offered
            .and_then(|location| self.offers.remove(location))
            .is_some()
    }

    fn find(&self, ticket: Ticket) -> Result<usize, usize> {
        self.waiting
            .binary_search_by_key(&ticket, |(other, _)| *other)
    }

    fn dequeue(&mut self, ticket: Ticket) -> Option<Waker> {
        let location = self.find(ticket).ok()?;
        self.waiting.remove(location)?.1
    }
}

/// Returns `moment` and counts a watcher of it, if it is before `check` and has less than [`MAX_WATCHERS`]. Otherwise
/// returns `check`.
fn check_at(watchers: &mut usize, moment: Instant, check: Instant) -> Instant {
    if moment >= check || *watchers >= MAX_WATCHERS {
        return check;
    }
    *watchers += 1;
    moment
}

impl AllocatedBytes for PermitQueue {
    fn allocated_bytes(&self) -> usize {
        let offered = self.holders.allocated_bytes() + self.offers.allocated_bytes();
        offered + self.waiting.allocated_bytes()
    }
}

#[cfg(all(test, not(any(loom_models, shuttle_models))))]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(10);

    /// A queue and the time, which moves only when a test moves it.
    struct TestQueue {
        queue: PermitQueue,
        now: Instant,
    }

    impl TestQueue {
        fn new(permits: usize) -> Self {
            Self {
                queue: PermitQueue::new(permits, LEASE),
                now: Instant::now(),
            }
        }

        fn advance_time(&mut self, time: Duration) {
            self.now += time;
        }

        fn try_take(&mut self) -> Option<HolderId> {
            self.queue.advance(self.now);
            self.queue.try_take(self.now)
        }

        fn poll(&mut self, ticket: Ticket) -> Reply {
            self.queue.advance(self.now);
            self.queue
                .poll(ticket, self.now, &mut Some(Waker::noop().clone()))
        }

        fn waits(&mut self, ticket: Ticket) -> bool {
            matches!(self.poll(ticket), Reply::Wait { .. })
        }

        fn takes(&mut self, ticket: Ticket) -> HolderId {
            match self.poll(ticket) {
                Reply::Taken(id) => id,
                Reply::Wait { .. } => panic!("it has to wait"),
            }
        }

        /// Returns the number of callers that were woken.
        fn release(&mut self, id: HolderId) -> usize {
            self.queue.release(id);
            self.queue.advance(self.now).len()
        }

        fn queued<const N: usize>(&mut self) -> [Ticket; N] {
            let tickets = [(); N].map(|()| self.queue.enqueue());
            assert!(tickets.iter().all(|&ticket| self.waits(ticket)));
            tickets
        }
    }

    #[test]
    fn polled_callers_take_permits_in_order_of_arrival() {
        let mut test = TestQueue::new(1);
        let mut held = test.try_take().unwrap();
        let [one, two, three] = test.queued();
        for next in [one, two, three] {
            assert_eq!(test.release(held), usize::from(next <= three));
            assert!(test.try_take().is_none(), "the permit is offered");
            assert!(
                [one, two, three]
                    .iter()
                    .filter(|&&other| other > next)
                    .all(|&other| test.waits(other))
            );
            held = test.takes(next);
        }
        assert_eq!(test.release(held), 0);
        assert!(test.try_take().is_some());
    }

    #[test]
    fn offer_that_is_not_taken_passes_to_any_polled_caller() {
        let mut test = TestQueue::new(1);
        let held = test.try_take().unwrap();
        let [unpolled, second_unpolled, polled] = test.queued();
        assert_eq!(test.release(held), 1);
        assert!(test.waits(polled));
        test.advance_time(OFFER_TIMEOUT);
        let held = test.takes(polled);
        // The unpolled callers have their old places again once they are polled.
        let late = test.queue.enqueue();
        assert!(test.waits(late) && test.waits(second_unpolled) && test.waits(unpolled));
        assert_eq!(test.release(held), 1);
        assert!(test.waits(late) && test.waits(second_unpolled));
        let held = test.takes(unpolled);
        assert_eq!(test.release(held), 1);
        assert!(test.waits(late));
        let held = test.takes(second_unpolled);
        assert_eq!(test.release(held), 1);
        test.takes(late);
    }

    #[test]
    fn caller_is_woken_for_the_permit_of_a_lapsed_offer() {
        let mut test = TestQueue::new(2);
        let held = [test.try_take().unwrap(), test.try_take().unwrap()];
        let [unpolled, sleeping] = test.queued();
        assert_eq!(test.release(held[0]), 1);
        test.advance_time(OFFER_TIMEOUT);
        // The next call of any kind notices the lapse.
        assert_eq!(test.release(held[1]), 1);
        test.takes(sleeping);
        test.takes(unpolled);
    }

    #[test]
    fn new_caller_takes_the_permit_of_a_lapsed_offer() {
        let mut test = TestQueue::new(1);
        let held = test.try_take().unwrap();
        let [unpolled] = test.queued();
        test.release(held);
        assert!(test.try_take().is_none());
        test.advance_time(OFFER_TIMEOUT);
        let held = test.try_take().unwrap();
        assert!(test.waits(unpolled));
        test.release(held);
        test.takes(unpolled);
    }

    #[test]
    fn permit_ends_with_its_lease_and_the_load_counts_as_abandoned() {
        let mut test = TestQueue::new(1);
        let hanging = test.try_take().unwrap();
        let [waiting] = test.queued();
        test.advance_time(LEASE.saturating_sub(Duration::from_millis(1)));
        let Reply::Wait { again } = test.poll(waiting) else {
            panic!("the lease has not ended")
        };
        assert_eq!(again, test.now + Duration::from_millis(1));
        test.advance_time(Duration::from_millis(1));
        let held = test.takes(waiting);
        assert_eq!((test.queue.overdue(), test.queue.abandoned()), (1, 1));
        // The load ends late and gives back no permit.
        assert_eq!(test.release(hanging), 0);
        assert_eq!((test.queue.overdue(), test.queue.abandoned()), (0, 1));
        assert!(test.try_take().is_none());
        test.release(held);
        assert!(test.try_take().is_some());
    }

    #[test]
    fn offer_passes_on_when_its_caller_is_dropped() {
        let mut test = TestQueue::new(1);
        let held = test.try_take().unwrap();
        let [one, two] = test.queued();
        test.release(held);
        test.queue.leave(one);
        assert_eq!(test.queue.advance(test.now).len(), 1);
        test.takes(two);
    }

    #[test]
    fn many_unpolled_callers_delay_a_polled_one_by_one_offer_timeout() {
        let mut test = TestQueue::new(1);
        let held = test.try_take().unwrap();
        let _unpolled: [Ticket; 50] = test.queued();
        let [polled] = test.queued();
        test.release(held);
        let Reply::Wait { again } = test.poll(polled) else {
            panic!("the first was offered the permit")
        };
        assert_eq!(again, test.now + OFFER_TIMEOUT);
        test.now = again;
        test.takes(polled);
    }

    #[test]
    fn check_interval_grows_with_the_number_of_waiting_callers() {
        let mut test = TestQueue::new(1);
        test.try_take().unwrap();
        let [first] = test.queued();
        let Reply::Wait { again } = test.poll(first) else {
            panic!("the permit is held")
        };
        assert_eq!(again, test.now + CHECK_INTERVAL);
        let others: [Ticket; 99] = test.queued();
        let Reply::Wait { again } = test.poll(others[0]) else {
            panic!("the permit is held")
        };
        assert_eq!(again, test.now + MAX_CHECK_INTERVAL);
    }

    #[test]
    fn few_of_many_callers_ask_again_when_an_offer_lapses_or_a_lease_ends() {
        let mut test = TestQueue::new(2);
        let held = [test.try_take().unwrap(), test.try_take().unwrap()];
        let callers: [Ticket; 100] = test.queued();
        test.advance_time(LEASE.saturating_sub(Duration::from_millis(500)));
        let at_once = |test: &mut TestQueue, before: Duration| {
            let asks = callers[1..].iter().filter(|&&caller| {
                let Reply::Wait { again } = test.poll(caller) else {
                    panic!("it has to wait")
                };
                again < test.now + before
            });
            asks.count()
        };
        assert_eq!(at_once(&mut test, MAX_CHECK_INTERVAL), MAX_WATCHERS);
        test.release(held[0]);
        assert_eq!(at_once(&mut test, 2 * OFFER_TIMEOUT), MAX_WATCHERS);
    }

    #[test]
    fn waiting_callers_ask_again_well_within_a_short_lease() {
        let lease = Duration::from_millis(100);
        let mut test = TestQueue::new(1);
        test.queue = PermitQueue::new(1, lease);
        test.try_take().unwrap();
        let callers: [Ticket; 100] = test.queued();
        let Reply::Wait { again } = test.poll(callers[99]) else {
            panic!("the permit is held")
        };
        assert_eq!(again, test.now + lease / 2);
    }
}
