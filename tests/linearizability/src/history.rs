//! Histories: the calls of several threads, and the order of their beginnings and ends.

use crate::model::{Id, Key, Model, Operation, Step};
use crate::subject::{Subject, pause, seed_pauses};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use std::fmt::Write;
use std::ops::Range;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::thread;
use todc_utils::linearizability::WGLChecker;
use todc_utils::linearizability::history::{Action, History};

/// An operation of a thread.
#[derive(Debug, Clone)]
struct Recorded {
    thread: usize,
    /// From its beginning to its end, in steps of the history.
    steps: Range<u64>,
    operation: Operation,
}

/// The kind of calls and threads of histories.
#[derive(Debug, Clone, Copy)]
pub struct Workload {
    pub threads: usize,
    /// The number of calls of each thread in a history.
    pub calls: usize,
    /// The number of keys, at most [`KEYS`](crate::model::KEYS).
    pub keys: Key,
}

/// Numbers that all threads of a history share.
struct Counters {
    /// The number of beginnings and ends of operations so far. An operation that ends before another one begins has a
    /// lower number, in all threads.
    step: AtomicU64,
    id: AtomicU64,
}

impl Counters {
    fn step(&self) -> u64 {
        self.step.fetch_add(1, SeqCst)
    }

    fn id(&self) -> Id {
        self.id.fetch_add(1, SeqCst)
    }
}

/// A thread that calls a cache and records what it returns.
struct Caller<'a, C> {
    thread: usize,
    cache: &'a C,
    counters: &'a Counters,
    random: SmallRng,
    recorded: Vec<Recorded>,
}

impl<C: Subject> Caller<'_, C> {
    fn record(&mut self, begin: u64, operation: Operation) {
        self.recorded.push(Recorded {
            thread: self.thread,
            steps: begin..self.counters.step(),
            operation,
        });
    }

    /// Makes a random call.
    fn call(&mut self, keys: Key) {
        let key = self.random.random_range(0..keys);
        let kind = self.random.random_range(0..100);
        let begin = self.counters.step();
        let operation = match kind {
            0..25 => Operation::Get(key, self.cache.get(key)),
            25..40 => {
                let id = self.counters.id();
                self.cache.insert(key, id);
                Operation::Insert(key, id)
            }
            40..47 => Operation::Remove(key, self.cache.remove(key)),
            47..52 => {
                self.cache.invalidate(key);
                Operation::Invalidate(key)
            }
            52..65 => {
                let new = self.random.random_ratio(4, 5).then(|| self.counters.id());
                let mut seen = None;
                let returned = self.cache.update(key, &mut |value| {
                    seen = value;
                    pause();
                    new
                });
                assert_eq!(returned, new);
                Operation::Update(key, seen, new)
            }
            65..95 => return self.get_or_load(begin, key),
            95..98 => {
                self.cache.clear();
                Operation::Clear
            }
            _ => {
                self.cache.invalidate_tag();
                Operation::InvalidateTag
            }
        };
        self.record(begin, operation);
    }

    /// Calls `get_or_load` with a loader that sometimes fails.
    fn get_or_load(&mut self, begin: u64, key: Key) {
        let counters = self.counters;
        let fails = self.random.random_ratio(1, 5);
        let mut load = None;
        let returned = self.cache.get_or_load(key, &mut || {
            let id = counters.id();
            let ran = counters.step();
            for _ in 0..4 {
                pause();
            }
            load = Some((id, ran, counters.step()));
            if fails { Err(id) } else { Ok(id) }
        });
        let Some((id, ran, ended)) = load else {
            return self.record(
                begin,
                match returned {
                    Ok(id) => Operation::Found(key, id),
                    Err(id) => Operation::Failed(key, id),
                },
            );
        };
        assert_eq!(returned, if fails { Err(id) } else { Ok(id) });
        self.recorded.push(Recorded {
            thread: self.thread,
            steps: begin..ran,
            operation: Operation::BeginLoad(key, id),
        });
        self.record(
            ended,
            if fails {
                Operation::FailLoad(key, id)
            } else {
                Operation::EndLoad(key, id)
            },
        );
    }
}

/// Records the history of a new cache.
fn record(cache: &impl Subject, workload: Workload, seed: u64) -> Vec<Recorded> {
    let counters = Counters {
        step: AtomicU64::new(0),
        id: AtomicU64::new(1),
    };
    let barrier = Barrier::new(workload.threads);
    let mut recorded = thread::scope(|scope| {
        let threads: Vec<_> = (0..workload.threads)
            .map(|thread| {
                let (counters, barrier) = (&counters, &barrier);
                scope.spawn(move || {
                    let mut random = SmallRng::seed_from_u64(seed ^ (thread as u64) << 48);
                    seed_pauses(random.random());
                    let mut caller = Caller {
                        thread,
                        cache,
                        counters,
                        random,
                        recorded: Vec::new(),
                    };
                    barrier.wait();
                    (0..workload.calls).for_each(|_| caller.call(workload.keys));
                    caller.recorded
                })
            })
            .collect();
        let results = threads.into_iter().map(|thread| thread.join().unwrap());
        results.flatten().collect::<Vec<_>>()
    });
    recorded.sort_by_key(|recorded| recorded.steps.start);
    recorded
}

/// Returns the steps of operations, each with its times and its thread.
fn steps(recorded: &[Recorded]) -> Vec<(Range<u64>, usize, Step)> {
    let invalidations: Vec<&Range<u64>> = recorded
        .iter()
        .filter(|recorded| recorded.operation == Operation::InvalidateTag)
        .map(|recorded| &recorded.steps)
        .collect();
    let step = |recorded: &Recorded| {
        let steps = &recorded.steps;
        let overlaps = |other: &&Range<u64>| other.start < steps.end && steps.start < other.end;
        let step = Step {
            operation: recorded.operation,
            is_during_invalidation: invalidations.iter().any(overlaps),
        };
        (steps.clone(), recorded.thread, step)
    };
    recorded.iter().map(step).collect()
}

/// Returns `true` if there is an order in which the model returns the same.
fn is_linearizable<const EVICTIONS: bool>(recorded: &[Recorded]) -> bool {
    let mut actions = Vec::new();
    for (times, thread, step) in steps(recorded) {
        actions.push((times.start, thread, Action::Call(step)));
        actions.push((times.end, thread, Action::Response(step)));
    }
    if actions.is_empty() {
        return true;
    }
    actions.sort_by_key(|(time, ..)| *time);
    let actions = actions
        .into_iter()
        .map(|(_, thread, action)| (thread, action));
    WGLChecker::<Model<EVICTIONS>>::is_linearizable(History::from_actions(actions.collect()))
}

/// The order that operations on several keys promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// There is one order of all operations. This holds for a cache of one shard.
    Whole,
    /// There is an order of the operations on each key. `clear` removes the entries of one shard after the other, so it
    /// takes effect at another time for each of them.
    EachKey,
}

/// Checks histories of new caches until they have `operations` operations.
///
/// # Errors
///
/// Returns the first history that is not linearizable, as text.
pub fn check<C: Subject, const EVICTIONS: bool>(
    new_cache: impl Fn(u64) -> C,
    workload: impl Fn(u64) -> Workload,
    order: Order,
    operations: usize,
) -> Result<(), String> {
    let mut checked = 0;
    for seed in 0.. {
        if checked >= operations {
            break;
        }
        let recorded = record(&new_cache(seed), workload(seed), seed);
        checked += recorded.len();
        let keys: Vec<Option<Key>> = match order {
            Order::Whole => vec![None],
            Order::EachKey => (0..workload(seed).keys).map(Some).collect(),
        };
        for key in keys {
            let is_of_key = |recorded: &&Recorded| {
                let other = recorded.operation.key();
                key.is_none() || other.is_none() || other == key
            };
            let part: Vec<_> = recorded.iter().filter(is_of_key).cloned().collect();
            if !is_linearizable::<EVICTIONS>(&part) {
                return Err(text(seed, checked, &part));
            }
        }
    }
    Ok(())
}

/// Returns a history as text, one operation in each line, with the steps at which it began and ended.
fn text(seed: u64, checked: usize, recorded: &[Recorded]) -> String {
    let mut text = format!("no order explains history {seed}, after {checked} operations:\n");
    for Recorded {
        thread,
        steps,
        operation,
    } in recorded
    {
        let (begin, end) = (steps.start, steps.end);
        let _ = writeln!(text, "{begin:4} to {end:4}: thread {thread}: {operation:?}");
    }
    text
}
