//! Tests of the state machine, step by step.

use super::*;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::task::Wake;
use std::time::{Duration, Instant};

const LEASE: Duration = Duration::from_secs(10);

/// The time of a test, in seconds from its start.
struct Cast {
    start: Instant,
}

impl Cast {
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
struct Bell(AtomicUsize);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, SeqCst);
    }
}

/// A waiter and the bell that its waker rings.
struct Guest<'a> {
    waiter: Waiter<'a, u32, u32>,
    bell: Arc<Bell>,
}

impl<'a> Guest<'a> {
    fn join_or_lead(in_flight: &'a InFlightLoads<u32, u32>, candidate: Candidate) -> Self {
        match in_flight.join_or_lead(1, &1, candidate) {
            Role::Wait(waiter) => Self {
                waiter,
                bell: Arc::default(),
            },
            _ => panic!("there is no load to wait for"),
        }
    }

    fn poll(&mut self, candidate: Candidate) -> Result<Answer<'a, u32, u32>, Pending> {
        self.waiter.poll(candidate, &self.bell.clone().into())
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

    fn is_sent_away(&mut self, candidate: Candidate) -> bool {
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

    fn rung(&self) -> usize {
        self.bell.0.load(SeqCst)
    }
}

fn lead(in_flight: &InFlightLoads<u32, u32>, candidate: Candidate) -> Leader<'_, u32, u32> {
    match in_flight.join_or_lead(1, &1, candidate) {
        Role::Lead(leader) => leader,
        _ => panic!("somebody leads already"),
    }
}

/// A leader and two waiters, all of second 0. Both waiters are waiting to be woken.
fn lead_and_guests<'a>(
    in_flight: &'a InFlightLoads<u32, u32>,
    cast: &Cast,
) -> (Leader<'a, u32, u32>, [Guest<'a>; 2]) {
    let leader = lead(in_flight, cast.at(0));
    let mut guests = [(), ()].map(|()| Guest::join_or_lead(in_flight, cast.at(0)));
    for guest in &mut guests {
        guest.must_wait(cast.at(0));
    }
    (leader, guests)
}

/// Does what a leader does to store, except for the write to the shard. Returns whether it may store.
fn stores(leader: &mut Leader<'_, u32, u32>) -> bool {
    leader.in_flight.begin_write(1, &1, Some(leader)).is_ok()
}

fn revoke(in_flight: &InFlightLoads<u32, u32>) {
    in_flight.begin_write(1, &1, None).unwrap().finish();
}

#[test]
fn all_waiters_get_the_outcome_of_the_leader() {
    let (cast, in_flight) = (Cast::new(), InFlightLoads::new());
    let mut leader = lead(&in_flight, cast.at(0));
    let mut early = Guest::join_or_lead(&in_flight, cast.at(1));
    assert_eq!(early.must_wait(cast.at(1)), Some(cast.start + LEASE));
    // A waiter that was not polled before the landing gets the outcome as well.
    let mut late = Guest::join_or_lead(&in_flight, cast.at(1));
    assert!(stores(&mut leader));
    leader.complete(|| Outcome::Value(7));
    assert_eq!(early.rung(), 1);
    assert!(early.has_completed_with(cast.at(2), 7));
    assert!(late.has_completed_with(cast.at(2), 7));
    assert_eq!(in_flight.len(), 0);
}

#[test]
fn outcome_without_waiters_is_not_computed() {
    let (cast, in_flight) = (Cast::new(), InFlightLoads::new());
    lead(&in_flight, cast.at(0)).complete(|| panic!("asked"));
    assert_eq!(in_flight.len(), 0);
}

#[test]
fn call_of_a_loader_for_its_own_key_is_recursive() {
    let (cast, in_flight) = (Cast::new(), InFlightLoads::new());
    let leader = lead(&in_flight, cast.at(0));
    drop(Guest::join_or_lead(&in_flight, cast.at(1)));
    let _loading = leader.enter(None);
    assert!(matches!(
        in_flight.join_or_lead(1, &1, cast.at(1)),
        Role::Recursive(_)
    ));
    assert!(matches!(
        in_flight.join_or_lead(2, &2, cast.at(1)),
        Role::Lead(_)
    ));
}

#[test]
fn dropped_leader_wakes_one_waiter_which_leads() {
    let (cast, in_flight) = (Cast::new(), InFlightLoads::new());
    let (leader, [mut first, mut second]) = lead_and_guests(&in_flight, &cast);
    drop(leader);
    assert_eq!((first.rung(), second.rung()), (1, 0));
    let leader = first.leads(cast.at(1));
    second.must_wait(cast.at(1));
    leader.complete(|| Outcome::Value(8));
    assert!(second.has_completed_with(cast.at(2), 8));
}

#[test]
fn dropped_waiter_that_was_woken_to_lead_wakes_the_next() {
    let (cast, in_flight) = (Cast::new(), InFlightLoads::new());
    let (leader, [first, mut second]) = lead_and_guests(&in_flight, &cast);
    drop(leader);
    drop(first);
    assert_eq!(second.rung(), 1);
    drop(second.leads(cast.at(1)));
    // A flight without leader and waiter is closed.
    assert_eq!(in_flight.len(), 0);
}

#[test]
fn new_caller_may_lead_before_the_woken_waiter() {
    let (cast, in_flight) = (Cast::new(), InFlightLoads::new());
    let leader = lead(&in_flight, cast.at(0));
    let mut guest = Guest::join_or_lead(&in_flight, cast.at(0));
    guest.must_wait(cast.at(0));
    drop(leader);
    let newcomer = lead(&in_flight, cast.at(1));
    guest.must_wait(cast.at(1));
    newcomer.complete(|| Outcome::Value(9));
    assert!(guest.has_completed_with(cast.at(2), 9));
}

#[test]
fn first_waiter_polled_after_the_lease_leads_with_its_own_lease() {
    let (cast, in_flight) = (Cast::new(), InFlightLoads::new());
    let mut slow = lead(&in_flight, cast.at(0));
    let mut first = Guest::join_or_lead(&in_flight, cast.at(1));
    let mut second = Guest::join_or_lead(&in_flight, cast.at(1));
    first.must_wait(cast.at(9));
    let mut leader = first.leads(cast.at(10));
    let again = second.must_wait(cast.at(10));
    assert_eq!(again, Some(cast.start + 2 * LEASE));

    assert!(stores(&mut leader));
    assert!(!stores(&mut slow), "something newer was stored");
    slow.complete(|| panic!("superseded"));
    second.must_wait(cast.at(11));
    leader.complete(|| Outcome::Value(3));
    assert!(second.has_completed_with(cast.at(11), 3));
}

#[test]
fn superseded_leader_stores_until_its_successor_has_stored() {
    let (cast, in_flight) = (Cast::new(), InFlightLoads::new());
    let mut slow = lead(&in_flight, cast.at(0));
    let mut guest = Guest::join_or_lead(&in_flight, cast.at(1));
    let mut leader = guest.leads(cast.at(10));
    assert!(stores(&mut slow));
    assert!(stores(&mut leader));
    assert!(!stores(&mut slow));
}

#[test]
fn superseded_leader_of_an_ended_load_may_not_store() {
    let (cast, in_flight) = (Cast::new(), InFlightLoads::new());
    let mut slow = lead(&in_flight, cast.at(0));
    let mut guest = Guest::join_or_lead(&in_flight, cast.at(1));
    guest
        .leads(cast.at(10))
        .complete(|| Outcome::Failed(LoadError::Failed(Arc::new("refused"))));
    assert_eq!(in_flight.len(), 0);
    assert!(!stores(&mut slow));
}

#[test]
fn revoked_load_completes_for_its_waiters_and_new_callers_start_another() {
    let (cast, in_flight) = (Cast::new(), InFlightLoads::new());
    let mut leader = lead(&in_flight, cast.at(0));
    let mut guest = Guest::join_or_lead(&in_flight, cast.at(0));
    revoke(&in_flight);
    assert!(!stores(&mut leader));
    let mut anew = lead(&in_flight, cast.at(1));
    leader.complete(|| Outcome::Value(4));
    assert!(guest.has_completed_with(cast.at(1), 4));
    assert!(stores(&mut anew));
}

#[test]
fn waiters_of_a_revoked_load_without_leader_start_again() {
    let (cast, in_flight) = (Cast::new(), InFlightLoads::new());
    let (leader, mut guests) = lead_and_guests(&in_flight, &cast);
    in_flight.revoke_all();
    drop(leader);
    for guest in &mut guests {
        assert_eq!(guest.rung(), 1);
        assert!(guest.is_sent_away(cast.at(1)));
    }
    assert_eq!(in_flight.len(), 0);
}

#[test]
fn waiters_of_a_revoked_load_start_again_after_its_lease() {
    let (cast, in_flight) = (Cast::new(), InFlightLoads::new());
    let slow = lead(&in_flight, cast.at(0));
    let mut first = Guest::join_or_lead(&in_flight, cast.at(0));
    let mut second = Guest::join_or_lead(&in_flight, cast.at(0));
    second.must_wait(cast.at(0));
    revoke(&in_flight);
    let sent_away = first.poll(cast.at(10)).ok();
    // The leader still loads, and is reported once.
    assert!(matches!(
        sent_away,
        Some(Answer::Retry {
            supersedes: Some(Superseded::Loading)
        })
    ));
    assert_eq!(second.rung(), 1);
    assert!(matches!(
        second.poll(cast.at(10)),
        Ok(Answer::Retry { supersedes: None })
    ));
    slow.complete(|| panic!("superseded"));
}

#[test]
fn update_is_revoked_by_other_writes_but_not_by_its_own() {
    let (cast, in_flight) = (Cast::new(), InFlightLoads::new());
    let mut mine = in_flight.register_update(1, 1, cast.at(0));
    let mut other = in_flight.register_update(1, 1, cast.at(0));
    let mut loading = lead(&in_flight, cast.at(0));
    assert!(stores(&mut mine));
    assert!(stores(&mut mine));
    assert!(stores(&mut mine) && !stores(&mut other) && !stores(&mut loading));
    assert_eq!(in_flight.len(), 1);
    drop(mine);
    assert_eq!(in_flight.len(), 0);
}

#[test]
fn waiters_start_again_if_the_outcome_panics() {
    let (cast, in_flight) = (Cast::new(), InFlightLoads::new());
    let leader = lead(&in_flight, cast.at(0));
    let mut guest = Guest::join_or_lead(&in_flight, cast.at(0));
    guest.must_wait(cast.at(0));
    let complete = std::panic::AssertUnwindSafe(|| leader.complete(|| panic!("Clone")));
    assert!(std::panic::catch_unwind(complete).is_err());
    assert_eq!(guest.rung(), 1);
    assert!(guest.is_sent_away(cast.at(1)));
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
    let (cast, in_flight) = (Cast::new(), InFlightLoads::new());
    let mut leader = lead(&in_flight, queued(cast.at(0)));
    let mut guest = Guest::join_or_lead(&in_flight, queued(cast.at(1)));
    assert_eq!(
        guest.must_wait(queued(cast.at(1))),
        Some(cast.start + LEASE)
    );
    leader.extend_lease(queued(cast.at(8)));
    assert!(guest.must_wait(queued(cast.at(17))).is_some());
    let mut next = guest.leads(queued(cast.at(18)));
    assert_eq!(next.supersedes, Some(Superseded::Queued));
    // The old one has lost its lead, whether or not it gets a permit, and cannot prolong it.
    leader.extend_lease(queued(cast.at(19)));
    assert!(!leader.begin(cast.at(19)) && next.begin(cast.at(20)));
    next.complete(|| Outcome::Value(1));
    drop(leader);
    assert_eq!(in_flight.len(), 0);
}

#[test]
fn lease_of_a_queued_leader_begins_with_its_permit() {
    let (cast, in_flight) = (Cast::new(), InFlightLoads::new());
    let mut leader = lead(&in_flight, queued(cast.at(0)));
    let mut guest = Guest::join_or_lead(&in_flight, queued(cast.at(1)));
    leader.extend_lease(queued(cast.at(9)));
    assert!(leader.begin(cast.at(15)));
    assert!(guest.must_wait(queued(cast.at(24))).is_some());
    let next = guest.leads(queued(cast.at(25)));
    assert_eq!(next.supersedes, Some(Superseded::Loading));
    drop((leader, next));
    assert_eq!(in_flight.len(), 0);
}

#[test]
fn waiter_marked_busy_after_it_was_woken_wakes_the_next() {
    let (cast, in_flight) = (Cast::new(), InFlightLoads::new());
    let (leader, [mut busy, mut other]) = lead_and_guests(&in_flight, &cast);
    drop(leader);
    assert_eq!((busy.rung(), other.rung()), (1, 0));
    busy.waiter.mark_busy();
    assert_eq!((busy.rung(), other.rung()), (1, 1));
    drop(other.leads(cast.at(0)));
    // There is no other waiter.
    drop(busy.leads(cast.at(0)));
    assert_eq!(in_flight.len(), 0);
}

#[test]
fn waiter_marked_busy_is_not_woken_to_lead_and_gets_the_outcome() {
    let (cast, in_flight) = (Cast::new(), InFlightLoads::new());
    let (leader, [mut busy, mut other]) = lead_and_guests(&in_flight, &cast);
    busy.waiter.mark_busy();
    drop(leader);
    assert_eq!((busy.rung(), other.rung()), (0, 1));
    other.leads(cast.at(0)).complete(|| Outcome::Value(7));
    assert!(busy.has_completed_with(cast.at(0), 7));
    assert_eq!(in_flight.len(), 0);
}
