//! Tests of the state machine, step by step.

use super::*;
use crate::clock::Instant;
use crate::error::SharedError;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::task::Wake;
use std::time::Duration;

const LEASE: Duration = Duration::from_secs(10);

/// The clock of a test, in seconds from its start.
struct TestClock {
    start: Instant,
}

impl TestClock {
    fn new() -> Self {
        Self {
            start: Instant::now(),
        }
    }

    fn at(&self, seconds: u64) -> Candidate {
        Candidate {
            now: self.start + Duration::from_secs(seconds),
            lease: LEASE,
            epoch: 0,
            permitted: true,
            has_permit: false,
        }
    }
}

#[derive(Default)]
struct WakeCounter(AtomicUsize);

impl Wake for WakeCounter {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, SeqCst);
    }
}

/// A waiter and the counter of its waker.
struct TestWaiter<'a> {
    waiter: Waiter<'a, u32, u32>,
    wakes: Arc<WakeCounter>,
}

impl<'a> TestWaiter<'a> {
    fn join(in_flight: &'a InFlightLoads<u32, u32>, candidate: Candidate) -> Self {
        match in_flight.join_or_lead(1, &1, candidate) {
            Role::Wait(waiter) => Self {
                waiter,
                wakes: Arc::default(),
            },
            _ => panic!("there is no load to wait for"),
        }
    }

    fn poll(&mut self, candidate: Candidate) -> Result<Answer<'a, u32, u32>, Pending> {
        self.waiter.poll(candidate, &self.wakes.clone().into())
    }

    fn must_wait(&mut self, candidate: Candidate) -> Option<Instant> {
        match self.poll(candidate) {
            Err(Pending { again }) => again,
            Ok(_) => panic!("it has an answer"),
        }
    }

    fn leads(&mut self, candidate: Candidate) -> Leader<'a, u32, u32> {
        match self.poll(candidate) {
            Ok(Answer::Lead(leader)) => leader,
            _ => panic!("it does not lead"),
        }
    }

    fn must_retry(&mut self, candidate: Candidate) -> bool {
        matches!(self.poll(candidate), Ok(Answer::Retry { .. }))
    }

    fn has_completed_with(&mut self, candidate: Candidate, expected: u32) -> bool {
        match self.poll(candidate) {
            Ok(Answer::Completed(completed)) => {
                matches!(completed.into_outcome(), Outcome::Value(value) if value == expected)
            }
            _ => false,
        }
    }

    fn wake_count(&self) -> usize {
        self.wakes.0.load(SeqCst)
    }
}

fn lead(in_flight: &InFlightLoads<u32, u32>, candidate: Candidate) -> Leader<'_, u32, u32> {
    match in_flight.join_or_lead(1, &1, candidate) {
        Role::Lead(leader) => leader,
        _ => panic!("somebody leads already"),
    }
}

/// Returns a leader and two waiters, which joined in second 0 and were polled once.
fn lead_with_two_waiters<'a>(
    in_flight: &'a InFlightLoads<u32, u32>,
    clock: &TestClock,
) -> (Leader<'a, u32, u32>, [TestWaiter<'a>; 2]) {
    let leader = lead(in_flight, clock.at(0));
    let mut waiters = [(), ()].map(|()| TestWaiter::join(in_flight, clock.at(0)));
    for waiter in &mut waiters {
        waiter.must_wait(clock.at(0));
    }
    (leader, waiters)
}

/// Runs the steps of a leader that stores, except for the write to the shard. Returns `true` if it may store.
fn stores(leader: &mut Leader<'_, u32, u32>) -> bool {
    leader.in_flight.begin_write(1, &1, Some(leader)).is_ok()
}

fn revoke(in_flight: &InFlightLoads<u32, u32>) {
    in_flight.begin_write(1, &1, None).unwrap().finish();
}

#[test]
fn all_waiters_get_the_outcome_of_the_leader() {
    let (clock, in_flight) = (TestClock::new(), InFlightLoads::new());
    let mut leader = lead(&in_flight, clock.at(0));
    let mut early = TestWaiter::join(&in_flight, clock.at(1));
    assert_eq!(early.must_wait(clock.at(1)), Some(clock.start + LEASE));
    // A waiter that was not polled before the completion gets the outcome as well.
    let mut late = TestWaiter::join(&in_flight, clock.at(1));
    assert!(stores(&mut leader));
    leader.complete(|| Outcome::Value(7));
    assert_eq!(early.wake_count(), 1);
    assert!(early.has_completed_with(clock.at(2), 7));
    assert!(late.has_completed_with(clock.at(2), 7));
    assert_eq!(in_flight.len(), 0);
}

#[test]
fn outcome_without_waiters_is_not_computed() {
    let (clock, in_flight) = (TestClock::new(), InFlightLoads::new());
    lead(&in_flight, clock.at(0)).complete(|| panic!("computed"));
    assert_eq!(in_flight.len(), 0);
}

#[test]
fn call_of_a_loader_for_its_own_key_is_recursive() {
    let (clock, in_flight) = (TestClock::new(), InFlightLoads::new());
    let leader = lead(&in_flight, clock.at(0));
    drop(TestWaiter::join(&in_flight, clock.at(1)));
    let _loading = leader.enter(None);
    assert!(matches!(
        in_flight.join_or_lead(1, &1, clock.at(1)),
        Role::Recursive(_)
    ));
    assert!(matches!(
        in_flight.join_or_lead(2, &2, clock.at(1)),
        Role::Lead(_)
    ));
}

#[test]
fn dropped_leader_wakes_one_waiter_which_leads() {
    let (clock, in_flight) = (TestClock::new(), InFlightLoads::new());
    let (leader, [mut first, mut second]) = lead_with_two_waiters(&in_flight, &clock);
    drop(leader);
    assert_eq!((first.wake_count(), second.wake_count()), (1, 0));
    let leader = first.leads(clock.at(1));
    second.must_wait(clock.at(1));
    leader.complete(|| Outcome::Value(8));
    assert!(second.has_completed_with(clock.at(2), 8));
}

#[test]
fn dropped_waiter_that_was_woken_to_lead_wakes_the_next() {
    let (clock, in_flight) = (TestClock::new(), InFlightLoads::new());
    let (leader, [first, mut second]) = lead_with_two_waiters(&in_flight, &clock);
    drop(leader);
    drop(first);
    assert_eq!(second.wake_count(), 1);
    drop(second.leads(clock.at(1)));
    // A load without leader and waiter is unregistered.
    assert_eq!(in_flight.len(), 0);
}

#[test]
fn new_caller_may_lead_before_the_woken_waiter() {
    let (clock, in_flight) = (TestClock::new(), InFlightLoads::new());
    let leader = lead(&in_flight, clock.at(0));
    let mut waiter = TestWaiter::join(&in_flight, clock.at(0));
    waiter.must_wait(clock.at(0));
    drop(leader);
    let newcomer = lead(&in_flight, clock.at(1));
    waiter.must_wait(clock.at(1));
    newcomer.complete(|| Outcome::Value(9));
    assert!(waiter.has_completed_with(clock.at(2), 9));
}

#[test]
fn first_waiter_polled_after_the_lease_leads_with_its_own_lease() {
    let (clock, in_flight) = (TestClock::new(), InFlightLoads::new());
    let mut slow = lead(&in_flight, clock.at(0));
    let mut first = TestWaiter::join(&in_flight, clock.at(1));
    let mut second = TestWaiter::join(&in_flight, clock.at(1));
    first.must_wait(clock.at(9));
    let mut leader = first.leads(clock.at(10));
    let again = second.must_wait(clock.at(10));
    assert_eq!(again, Some(clock.start + 2 * LEASE));

    assert!(stores(&mut leader));
    assert!(!stores(&mut slow), "something newer was stored");
    slow.complete(|| panic!("superseded"));
    second.must_wait(clock.at(11));
    leader.complete(|| Outcome::Value(3));
    assert!(second.has_completed_with(clock.at(11), 3));
}

#[test]
fn superseded_leader_stores_until_its_successor_has_stored() {
    let (clock, in_flight) = (TestClock::new(), InFlightLoads::new());
    let mut slow = lead(&in_flight, clock.at(0));
    let mut waiter = TestWaiter::join(&in_flight, clock.at(1));
    let mut leader = waiter.leads(clock.at(10));
    assert!(stores(&mut slow));
    assert!(stores(&mut leader));
    assert!(!stores(&mut slow));
}

#[test]
fn superseded_leader_of_an_ended_load_may_not_store() {
    let (clock, in_flight) = (TestClock::new(), InFlightLoads::new());
    let mut slow = lead(&in_flight, clock.at(0));
    let mut waiter = TestWaiter::join(&in_flight, clock.at(1));
    waiter
        .leads(clock.at(10))
        .complete(|| Outcome::Failed(LoadError::Failed(SharedError::erased("refused"))));
    assert_eq!(in_flight.len(), 0);
    assert!(!stores(&mut slow));
}

#[test]
fn revoked_load_completes_for_its_waiters_and_new_callers_start_another() {
    let (clock, in_flight) = (TestClock::new(), InFlightLoads::new());
    let mut leader = lead(&in_flight, clock.at(0));
    let mut waiter = TestWaiter::join(&in_flight, clock.at(0));
    revoke(&in_flight);
    assert!(!stores(&mut leader));
    let mut newer = lead(&in_flight, clock.at(1));
    leader.complete(|| Outcome::Value(4));
    assert!(waiter.has_completed_with(clock.at(1), 4));
    assert!(stores(&mut newer));
}

#[test]
fn waiters_of_a_revoked_load_without_leader_start_again() {
    let (clock, in_flight) = (TestClock::new(), InFlightLoads::new());
    let (leader, mut waiters) = lead_with_two_waiters(&in_flight, &clock);
    in_flight.revoke_all();
    drop(leader);
    for waiter in &mut waiters {
        assert_eq!(waiter.wake_count(), 1);
        assert!(waiter.must_retry(clock.at(1)));
    }
    assert_eq!(in_flight.len(), 0);
}

#[test]
fn waiters_of_a_revoked_load_start_again_after_its_lease() {
    let (clock, in_flight) = (TestClock::new(), InFlightLoads::new());
    let slow = lead(&in_flight, clock.at(0));
    let mut first = TestWaiter::join(&in_flight, clock.at(0));
    let mut second = TestWaiter::join(&in_flight, clock.at(0));
    second.must_wait(clock.at(0));
    revoke(&in_flight);
    let answer = first.poll(clock.at(10)).ok();
    // The leader still loads, and is reported once.
    assert!(matches!(
        answer,
        Some(Answer::Retry {
            supersedes: Some(Superseded::Loading)
        })
    ));
    assert_eq!(second.wake_count(), 1);
    assert!(matches!(
        second.poll(clock.at(10)),
        Ok(Answer::Retry { supersedes: None })
    ));
    slow.complete(|| panic!("superseded"));
}

#[test]
fn update_is_revoked_by_other_writes_but_not_by_its_own() {
    let (clock, in_flight) = (TestClock::new(), InFlightLoads::new());
    let mut mine = in_flight.register_update(1, 1, clock.at(0));
    let mut other = in_flight.register_update(1, 1, clock.at(0));
    let mut loading = lead(&in_flight, clock.at(0));
    assert!(stores(&mut mine));
    assert!(stores(&mut mine));
    assert!(stores(&mut mine) && !stores(&mut other) && !stores(&mut loading));
    assert_eq!(in_flight.len(), 1);
    drop(mine);
    assert_eq!(in_flight.len(), 0);
}

#[test]
fn waiters_start_again_if_the_outcome_panics() {
    let (clock, in_flight) = (TestClock::new(), InFlightLoads::new());
    let leader = lead(&in_flight, clock.at(0));
    let mut waiter = TestWaiter::join(&in_flight, clock.at(0));
    waiter.must_wait(clock.at(0));
    let complete = std::panic::AssertUnwindSafe(|| leader.complete(|| panic!("Clone")));
    assert!(std::panic::catch_unwind(complete).is_err());
    assert_eq!(waiter.wake_count(), 1);
    assert!(waiter.must_retry(clock.at(1)));
    assert_eq!(in_flight.len(), 0);
}

fn queued(candidate: Candidate) -> Candidate {
    Candidate {
        permitted: false,
        ..candidate
    }
}

#[test]
fn queued_leader_is_superseded_a_lease_after_it_was_last_polled() {
    let (clock, in_flight) = (TestClock::new(), InFlightLoads::new());
    let mut leader = lead(&in_flight, queued(clock.at(0)));
    let mut waiter = TestWaiter::join(&in_flight, queued(clock.at(1)));
    assert_eq!(
        waiter.must_wait(queued(clock.at(1))),
        Some(clock.start + LEASE)
    );
    leader.extend_lease(queued(clock.at(8)));
    assert!(waiter.must_wait(queued(clock.at(17))).is_some());
    let mut next = waiter.leads(queued(clock.at(18)));
    assert_eq!(next.supersedes, Some(Superseded::Queued));
    // The old leader stays superseded even if it gets a permit, and it cannot extend its lease.
    leader.extend_lease(queued(clock.at(19)));
    assert!(!leader.begin(clock.at(19)) && next.begin(clock.at(20)));
    next.complete(|| Outcome::Value(1));
    drop(leader);
    assert_eq!(in_flight.len(), 0);
}

#[test]
fn lease_of_a_queued_leader_begins_with_its_permit() {
    let (clock, in_flight) = (TestClock::new(), InFlightLoads::new());
    let mut leader = lead(&in_flight, queued(clock.at(0)));
    let mut waiter = TestWaiter::join(&in_flight, queued(clock.at(1)));
    leader.extend_lease(queued(clock.at(9)));
    assert!(leader.begin(clock.at(15)));
    assert!(waiter.must_wait(queued(clock.at(24))).is_some());
    let next = waiter.leads(queued(clock.at(25)));
    assert_eq!(next.supersedes, Some(Superseded::Loading));
    drop((leader, next));
    assert_eq!(in_flight.len(), 0);
}

#[test]
fn waiter_marked_busy_after_it_was_woken_wakes_the_next() {
    let (clock, in_flight) = (TestClock::new(), InFlightLoads::new());
    let (leader, [mut busy, mut other]) = lead_with_two_waiters(&in_flight, &clock);
    drop(leader);
    assert_eq!((busy.wake_count(), other.wake_count()), (1, 0));
    busy.waiter.mark_busy();
    assert_eq!((busy.wake_count(), other.wake_count()), (1, 1));
    drop(other.leads(clock.at(0)));
    // There is no other waiter.
    drop(busy.leads(clock.at(0)));
    assert_eq!(in_flight.len(), 0);
}

#[test]
fn waiter_marked_busy_is_not_woken_to_lead_and_gets_the_outcome() {
    let (clock, in_flight) = (TestClock::new(), InFlightLoads::new());
    let (leader, [mut busy, mut other]) = lead_with_two_waiters(&in_flight, &clock);
    busy.waiter.mark_busy();
    drop(leader);
    assert_eq!((busy.wake_count(), other.wake_count()), (0, 1));
    other.leads(clock.at(0)).complete(|| Outcome::Value(7));
    assert!(busy.has_completed_with(clock.at(0), 7));
    assert_eq!(in_flight.len(), 0);
}

/// Stores and finishes like a leader that is alone, and returns the address of its load.
fn store_alone<K, V>(mut leader: Leader<'_, K, V>) -> *const InFlightLoad<K, V> {
    assert!(leader.is_alone());
    leader.finish_lone_write();
    assert!(leader.over);
    Arc::as_ptr(&leader.load)
}

#[test]
fn load_in_reused_memory_has_no_state_of_the_former_load() {
    let (clock, in_flight) = (TestClock::new(), InFlightLoads::new());
    let Role::Lead(former) = in_flight.join_or_lead(2, &2, clock.at(0)) else {
        panic!("somebody leads already");
    };
    former.outdate(0);
    let address = store_alone(former);
    assert_eq!(in_flight.len(), 0);

    let mut leader = lead(&in_flight, clock.at(5));
    assert_eq!(Arc::as_ptr(&leader.load), address);
    assert!(matches!(
        in_flight.join_or_lead(2, &2, clock.at(5)),
        Role::Lead(_)
    ));
    let mut waiter = TestWaiter::join(&in_flight, clock.at(6));
    let lease_end = clock.at(5).now + LEASE;
    assert_eq!(waiter.must_wait(clock.at(6)), Some(lease_end));
    assert!(leader.is_alone() && stores(&mut leader));
    leader.complete(|| Outcome::Value(7));
    assert!(waiter.has_completed_with(clock.at(7), 7));
}

#[test]
fn memory_of_a_load_that_is_still_referenced_is_not_reused() {
    let (clock, in_flight) = (TestClock::new(), InFlightLoads::new());
    let mut former = lead(&in_flight, clock.at(0));
    former.finish_lone_write();
    let leader = lead(&in_flight, clock.at(1));
    assert!(!Arc::ptr_eq(&former.load, &leader.load));
    drop(former);
    leader.complete(|| panic!("nobody waits"));
}

#[test]
fn memory_of_a_joined_load_is_not_reused() {
    let (clock, in_flight) = (TestClock::new(), InFlightLoads::new());
    let leader = lead(&in_flight, clock.at(0));
    let load = Arc::downgrade(&leader.load);
    let mut waiter = TestWaiter::join(&in_flight, clock.at(0));
    leader.complete(|| Outcome::Value(7));
    assert!(waiter.has_completed_with(clock.at(1), 7));
    drop(waiter);
    assert!(load.upgrade().is_none());
}

#[test]
fn key_with_a_destructor_does_not_outlive_its_load() {
    let (clock, in_flight) = (TestClock::new(), InFlightLoads::<_, u32>::new());
    let key = Arc::new(1);
    match in_flight.join_or_lead(1, &key, clock.at(0)) {
        Role::Lead(leader) => store_alone(leader),
        _ => panic!("somebody leads already"),
    };
    assert_eq!(Arc::strong_count(&key), 1);
}

#[test]
fn leader_is_not_alone_beside_another_load_or_after_a_write() {
    let (clock, in_flight) = (TestClock::new(), InFlightLoads::new());
    let leader = lead(&in_flight, clock.at(0));
    let other = in_flight.join_or_lead(2, &2, clock.at(0));
    assert!(!leader.is_alone());
    drop(other);
    assert!(leader.is_alone());
    revoke(&in_flight);
    assert!(!leader.is_alone());
    let _other = in_flight.join_or_lead(2, &2, clock.at(0));
    assert!(!leader.is_alone());
}

#[test]
fn lone_leader_that_stores_passes_its_outcome_to_a_waiter() {
    let (clock, in_flight) = (TestClock::new(), InFlightLoads::new());
    let mut leader = lead(&in_flight, clock.at(0));
    let mut waiter = TestWaiter::join(&in_flight, clock.at(0));
    waiter.must_wait(clock.at(0));
    assert!(leader.is_alone());
    leader.finish_lone_write();
    assert!(!leader.over);
    leader.complete(|| Outcome::Value(7));
    assert!(waiter.has_completed_with(clock.at(1), 7));
    assert_eq!(in_flight.len(), 0);
}
