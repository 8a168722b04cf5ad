//! Several loads of one caller: leaders that hand over together, and waiters that are polled together.
//!
//! A caller that waits for several keys whose leader is dropped takes over all of them at once, so that one call of its
//! loader loads them. This needs two things: all leaders of a batch hand over before any waiter is woken, and a woken
//! caller polls all its waiters before it acts.

use crate::clock::Instant;
use crate::single_flight::leader::Leader;
use crate::single_flight::state::{Candidate, wake};
use crate::single_flight::wait::{TimedOut, Timer, poll_until};
use crate::single_flight::waiter::{Answer, Pending, Waiter};
use crate::sync::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Wake, Waker};

/// The leaders of one caller, each with the caller's number for its key. When the group is dropped, all of them hand
/// over to waiters before the first waiter is woken.
pub(crate) struct LeaderGroup<'a, K, V>(VecDeque<(usize, Leader<'a, K, V>)>);

impl<'a, K, V> LeaderGroup<'a, K, V> {
    pub(crate) const fn new() -> Self {
        Self(VecDeque::new())
    }

    pub(crate) fn push(&mut self, at: usize, leader: Leader<'a, K, V>) {
        self.0.push_back((at, leader));
    }

    /// Removes and returns the leader that was pushed first.
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

impl<K, V> Drop for LeaderGroup<'_, K, V> {
    fn drop(&mut self) {
        let mut woken = Vec::new();
        for (_, leader) in &mut self.0 {
            woken.append(&mut leader.abandon());
        }
        // The leaders themselves are dropped after this, because a panic in the `drop` of a key would lose the waiters.
        wake(woken);
    }
}

/// The waiters of one caller, each with the caller's number for its key.
///
/// Each waiter has its own waker, which records the waiter before it wakes the caller. So the caller polls only the
/// waiters that were woken, and the work of a batch that waits for many single loads is linear in their number.
pub(crate) struct WaiterGroup<'a, K, V> {
    /// The waiters, each `None` once it has an answer.
    members: Vec<Option<Member<'a, K, V>>>,
    /// The number of waiters without an answer.
    left: usize,
    woken: Arc<Woken>,
    /// `true` if all members are to be polled, woken or not.
    poll_all: bool,
    /// The time at which all members are to be polled at the latest.
    again: Option<Instant>,
}

/// The answers to some of the waiters, each with the caller's number for its key.
type Answers<'a, K, V> = Vec<(usize, Answer<'a, K, V>)>;

struct Member<'a, K, V> {
    at: usize,
    waiter: Waiter<'a, K, V>,
    waker: Waker,
}

/// The members that were woken since they were last polled.
struct Woken(Mutex<WokenMembers>);

struct WokenMembers {
    members: Vec<usize>,
    /// The caller's waker. Taken when it is woken, so once for all members between two polls.
    caller: Option<Waker>,
}

struct WakeMember {
    member: usize,
    woken: Arc<Woken>,
}

impl Wake for WakeMember {
    fn wake(self: Arc<Self>) {
        let mut woken = self.woken.0.lock();
        woken.members.push(self.member);
        let caller = woken.caller.take();
        drop(woken);
        if let Some(caller) = caller {
            caller.wake();
        }
    }
}

impl<'a, K, V> WaiterGroup<'a, K, V> {
    pub(crate) fn new() -> Self {
        Self {
            members: Vec::new(),
            left: 0,
            woken: Arc::new(Woken(Mutex::new(WokenMembers {
                members: Vec::new(),
                caller: None,
            }))),
            poll_all: false,
            again: None,
        }
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.left == 0
    }

    pub(crate) fn push(&mut self, at: usize, waiter: Waiter<'a, K, V>) {
        let waker = Arc::new(WakeMember {
            member: self.members.len(),
            woken: Arc::clone(&self.woken),
        });
        self.left += 1;
        self.poll_all = true;
        self.members.push(Some(Member {
            at,
            waiter,
            waker: waker.into(),
        }));
    }

    /// Removes the waiters for keys for which `waits_on` returns `false`. It gets the caller's numbers for the keys.
    pub(crate) fn retain(&mut self, mut waits_on: impl FnMut(usize) -> bool) {
        for member in &mut self.members {
            if member.take_if(|member| !waits_on(member.at)).is_some() {
                self.left -= 1;
            }
        }
    }

    /// Lets other waiters lead all of these loads until [`next_answers`](Self::next_answers) is called, because the
    /// caller is about to run a load.
    pub(crate) fn mark_busy(&mut self) {
        for member in self.members.iter_mut().flatten() {
            member.waiter.mark_busy();
        }
        self.poll_all = true;
    }

    /// Waits until at least one waiter has an answer. Returns all answers, and removes their waiters. `candidate`
    /// returns the terms on which a waiter would lead. All waiters of one poll get the same terms, so that loads whose
    /// leases end together are taken over together.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no answer until `deadline`.
    pub(crate) async fn next_answers(
        &mut self,
        candidate: impl Fn() -> Candidate,
        deadline: Option<Instant>,
        timer: &mut impl Timer,
    ) -> Result<Answers<'a, K, V>, TimedOut> {
        poll_until(timer, deadline, |cx| self.poll(candidate(), cx.waker())).await
    }

    fn poll(&mut self, candidate: Candidate, waker: &Waker) -> Result<Answers<'a, K, V>, Pending> {
        // The caller's waker is registered before the members are polled, so that no wake-up is lost.
        let woken = self.take_woken(candidate.now, waker);
        let mut answers = self.poll_members(woken, candidate);
        if answers
            .iter()
            .any(|(_, answer)| !matches!(answer, Answer::Completed(_)))
        {
            // A load has lost its leader. If it belongs to a batch, the other loads of the batch have lost theirs too,
            // but some of their waiters may not have been woken yet.
            answers.append(&mut self.poll_members(0..self.members.len(), candidate));
        }
        if answers.is_empty() {
            Err(Pending { again: self.again })
        } else {
            Ok(answers)
        }
    }

    fn poll_members(
        &mut self,
        members: impl IntoIterator<Item = usize>,
        candidate: Candidate,
    ) -> Answers<'a, K, V> {
        let mut answers = Vec::new();
        for index in members {
            let Some(member) = &mut self.members[index] else {
                continue;
            };
            match member.waiter.poll(candidate, &member.waker) {
                Ok(answer) => {
                    answers.push((member.at, answer));
                    self.members[index] = None;
                    self.left -= 1;
                }
                Err(Pending { again }) => self.again = self.again.into_iter().chain(again).min(),
            }
        }
        answers
    }

    /// Returns the members to poll now, in their order, and registers the caller's waker for the next ones.
    fn take_woken(&mut self, now: Instant, caller: &Waker) -> Vec<usize> {
        // The wakers are cloned and dropped without the lock, because both run code of an executor.
        let caller = Some(caller.clone());
        let mut woken = self.woken.0.lock();
        let old_caller = std::mem::replace(&mut woken.caller, caller);
        let mut members = std::mem::take(&mut woken.members);
        drop(woken);
        drop(old_caller);
        if self.poll_all || self.again.is_some_and(|again| again <= now) {
            self.poll_all = false;
            self.again = None;
            return (0..self.members.len()).collect();
        }
        members.sort_unstable();
        members
    }
}
