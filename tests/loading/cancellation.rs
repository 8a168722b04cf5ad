//! Callers that are dropped at any moment: all short schedules of polls, drops, and ends of loads.

use hotset::__private::validate;
use hotset::{LoadError, LocalCache, OpaqueError};
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};

type Cache = LocalCache<u32, u32>;
type Answer = Result<u32, LoadError<OpaqueError<u32>>>;

/// A step of a schedule. Callers are numbered in the order of their arrival.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Action {
    Poll(usize),
    Drop(usize),
    /// The oldest load that runs ends, and its caller is woken.
    End(End),
    /// The key is invalidated.
    Remove,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum End {
    Value,
    Error,
    Panic,
}

struct Load {
    number: u32,
    end: Option<End>,
    waker: Option<Waker>,
}

/// The loads of a schedule.
#[derive(Default)]
struct Loads {
    running: Vec<Load>,
    started: u32,
    /// The loads that have returned a result, by number.
    returned: Vec<u32>,
    /// The largest number of loads that ran at one time.
    most: usize,
}

/// A load that is running, until this is dropped.
struct Running {
    number: u32,
    loads: Arc<Mutex<Loads>>,
}

impl Running {
    fn start(loads: Arc<Mutex<Loads>>) -> Self {
        let mut all = loads.lock().unwrap();
        all.started += 1;
        let number = all.started;
        all.running.push(Load {
            number,
            end: None,
            waker: None,
        });
        all.most = all.most.max(all.running.len());
        drop(all);
        Self { number, loads }
    }

    fn poll(&self, cx: &mut Context<'_>) -> Poll<Result<u32, OpaqueError<u32>>> {
        let mut loads = self.loads.lock().unwrap();
        let mut running = loads.running.iter_mut();
        let load = running.find(|load| load.number == self.number).unwrap();
        let result = match load.end {
            None => {
                load.waker = Some(cx.waker().clone());
                return Poll::Pending;
            }
            Some(End::Value) => Ok(self.number),
            Some(End::Error) => Err(OpaqueError(self.number)),
            Some(End::Panic) => {
                drop(loads);
                resume_unwind(Box::new("the loader's panic"))
            }
        };
        loads.returned.push(self.number);
        Poll::Ready(result)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut loads = self.loads.lock().unwrap();
        loads.running.retain(|load| load.number != self.number);
    }
}

#[derive(Default)]
struct WakeFlag(AtomicBool);

impl Wake for WakeFlag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, SeqCst);
    }
}

struct Caller {
    future: Pin<Box<dyn Future<Output = Answer>>>,
    wake_flag: Arc<WakeFlag>,
}

impl Caller {
    fn is_woken(&self) -> bool {
        self.wake_flag.0.load(SeqCst)
    }
}

struct Scene {
    cache: Cache,
    loads: Arc<Mutex<Loads>>,
    /// The callers by number, with `None` for each that has its answer, has panicked, or was dropped.
    callers: Vec<Option<Caller>>,
    answers: Vec<Answer>,
    removed: bool,
    /// Loads that were dropped or have panicked.
    lost: u32,
}

impl Scene {
    fn new() -> Self {
        let builder = Cache::builder().capacity(4).shards(1);
        Self {
            cache: builder.lease(std::time::Duration::MAX).build().unwrap(),
            loads: Arc::default(),
            callers: Vec::new(),
            answers: Vec::new(),
            removed: false,
            lost: 0,
        }
    }

    fn play(schedule: &[Action]) -> Self {
        let mut scene = Self::new();
        for &action in schedule {
            scene.act(action);
        }
        scene
    }

    fn add_caller(&mut self) {
        let (cache, loads) = (self.cache.clone(), Arc::clone(&self.loads));
        let future = async move {
            let load = |_| async {
                let running = Running::start(loads);
                poll_fn(|cx| running.poll(cx)).await
            };
            cache.get_or_load_async(&1, load).await
        };
        self.callers.push(Some(Caller {
            future: Box::pin(future),
            wake_flag: Arc::default(),
        }));
    }

    /// Returns the possible next steps. Only the next new caller may be polled for the first time, and a caller that
    /// has ended does nothing.
    fn actions(&self, most_callers: usize, removes: bool) -> Vec<Action> {
        let mut actions = Vec::new();
        for (index, caller) in self.callers.iter().enumerate() {
            if caller.is_some() {
                actions.extend([Action::Poll(index), Action::Drop(index)]);
            }
        }
        if self.callers.len() < most_callers {
            actions.push(Action::Poll(self.callers.len()));
        }
        let loads = self.loads.lock().unwrap();
        if loads.running.iter().any(|load| load.end.is_none()) {
            let ends = [End::Value, End::Error, End::Panic];
            actions.extend(ends.map(Action::End));
        }
        if removes && !self.removed {
            actions.push(Action::Remove);
        }
        actions
    }

    fn act(&mut self, action: Action) {
        let running = || self.loads.lock().unwrap().running.len();
        let (before, woken) = (running(), self.woken());
        match action {
            Action::Poll(index) => self.poll(index),
            Action::Drop(index) => drop(self.callers[index].take()),
            Action::End(end) => self.end(end),
            Action::Remove => {
                self.removed = true;
                self.cache.remove(&1);
            }
        }
        let running = self.loads.lock().unwrap().running.len();
        let load_was_dropped = matches!(action, Action::Drop(_)) && running < before;
        self.lost += u32::from(load_was_dropped);
        if load_was_dropped && !self.removed {
            self.check_one_waiter_is_woken(&woken);
        }
    }

    /// Returns for each caller whether it has been woken since it was last polled.
    fn woken(&self) -> Vec<bool> {
        let is_woken = |caller: &Option<Caller>| caller.as_ref().is_some_and(Caller::is_woken);
        self.callers.iter().map(is_woken).collect()
    }

    /// Checks that a waiter is or was woken after a leader was dropped.
    fn check_one_waiter_is_woken(&self, woken_before: &[bool]) {
        let woken = self.woken();
        if self.callers.iter().any(Option::is_some) {
            assert!(woken.contains(&true), "no waiter was woken to lead");
        }
        let newly = woken.iter().zip(woken_before);
        let newly = newly.filter(|(woken, before)| **woken && !**before).count();
        assert!(newly <= 1, "{newly} were woken to lead");
    }

    fn poll(&mut self, index: usize) {
        if index == self.callers.len() {
            self.add_caller();
        }
        let woken = self.woken();
        let Some(caller) = &mut self.callers[index] else {
            return;
        };
        caller.wake_flag.0.store(false, SeqCst);
        let waker = Arc::clone(&caller.wake_flag).into();
        let mut cx = Context::from_waker(&waker);
        match catch_unwind(AssertUnwindSafe(|| caller.future.as_mut().poll(&mut cx))) {
            Ok(Poll::Pending) => {}
            Ok(Poll::Ready(answer)) => {
                self.callers[index] = None;
                self.answers.push(answer);
            }
            Err(_) => {
                self.callers[index] = None;
                self.lost += 1;
                if !self.removed {
                    self.check_one_waiter_is_woken(&woken);
                }
            }
        }
    }

    fn end(&mut self, end: End) {
        let mut loads = self.loads.lock().unwrap();
        let mut running = loads.running.iter_mut();
        let Some(load) = running.find(|load| load.end.is_none()) else {
            return;
        };
        load.end = Some(end);
        let waker = load.waker.take();
        drop(loads);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Polls only callers that were woken, and ends loads when there are none. All callers must get an answer.
    fn drain(&mut self) {
        while self.callers.iter().any(Option::is_some) {
            let woken = self.woken().iter().position(|woken| *woken);
            let loads = self.loads.lock().unwrap();
            let ends = loads.running.iter().any(|load| load.end.is_none());
            drop(loads);
            match woken {
                Some(index) => self.act(Action::Poll(index)),
                None if ends => self.act(Action::End(End::Value)),
                None => panic!("a wake-up was lost"),
            }
        }
    }

    fn check(&self) {
        validate(&self.cache);
        let loads = self.loads.lock().unwrap();
        assert!(loads.running.is_empty());
        let most = if self.removed { 2 } else { 1 };
        assert!(loads.most <= most, "{} loads at a time", loads.most);
        let returned = u32::try_from(loads.returned.len()).unwrap();
        assert_eq!(loads.started, returned + self.lost);
        for answer in &self.answers {
            let number = match answer {
                Ok(number) => *number,
                Err(LoadError::Failed(number)) => number.0,
                Err(error) => panic!("{error}"),
            };
            assert!(
                loads.returned.contains(&number),
                "no load returned {number}"
            );
        }
    }
}

/// Runs every schedule up to a length, and checks the state after each. Returns the number of schedules.
fn play_all(schedule: &mut Vec<Action>, length: usize, callers: usize, removes: bool) -> usize {
    let played = catch_unwind(AssertUnwindSafe(|| {
        let mut scene = Scene::play(schedule);
        let actions = scene.actions(callers, removes);
        scene.drain();
        scene.check();
        actions
    }));
    let actions = played.unwrap_or_else(|panic| {
        eprintln!("after {schedule:?}");
        resume_unwind(panic)
    });
    let mut count = 1;
    if schedule.len() < length {
        for action in actions {
            schedule.push(action);
            count += play_all(schedule, length, callers, removes);
            schedule.pop();
        }
    }
    count
}

#[test]
fn every_short_schedule_of_a_leader_and_two_waiters_ends() {
    let schedules = play_all(&mut Vec::new(), 8, 3, false);
    assert!(schedules > 10_000, "{schedules}");
}

#[test]
fn every_short_schedule_of_a_leader_and_three_waiters_ends() {
    // All four callers arrive first, because the interesting schedules begin there.
    let mut joined: Vec<_> = (0..4).map(Action::Poll).collect();
    let schedules = play_all(&mut joined, 4 + 5, 4, false);
    assert!(schedules > 10_000, "{schedules}");
}

#[test]
fn every_short_schedule_with_an_invalidation_ends() {
    let schedules = play_all(&mut Vec::new(), 7, 3, true);
    assert!(schedules > 10_000, "{schedules}");
}

#[test]
fn waiter_that_was_woken_to_lead_and_is_dropped_hands_over() {
    use Action::{Drop, Poll};
    let mut scene = Scene::play(&[Poll(0), Poll(1), Poll(2), Poll(3), Drop(0)]);
    assert_eq!(scene.woken(), [false, true, false, false]);
    scene.act(Drop(1));
    assert_eq!(scene.woken(), [false, false, true, false]);
    // The drop of a waiter that was not woken to lead does no harm.
    scene.act(Drop(3));
    scene.act(Poll(2));
    assert_eq!(scene.loads.lock().unwrap().started, 2);
    scene.drain();
    scene.check();
    assert_eq!(scene.answers.len(), 1);
}

#[test]
fn waiter_that_was_woken_by_the_outcome_and_is_dropped_strands_no_other() {
    use Action::{Drop, Poll};
    let value = Action::End(End::Value);
    let mut scene = Scene::play(&[Poll(0), Poll(1), Poll(2), value, Poll(0), Drop(1)]);
    assert_eq!(scene.woken(), [false, false, true]);
    validate(&scene.cache);
    scene.act(Poll(2));
    assert!(matches!(scene.answers[..], [Ok(1), Ok(1)]));
    scene.check();
}

#[test]
fn all_waiters_may_be_dropped_before_and_after_the_leader() {
    use Action::{Drop, Poll};
    for order in [
        [0, 1, 2],
        [0, 2, 1],
        [1, 0, 2],
        [1, 2, 0],
        [2, 0, 1],
        [2, 1, 0],
    ] {
        let mut scene = Scene::play(&[Poll(0), Poll(1), Poll(2)]);
        for caller in order {
            scene.act(Drop(caller));
        }
        scene.check();
        assert_eq!(scene.loads.lock().unwrap().started, 1);
    }
}
