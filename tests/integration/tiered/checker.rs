//! A checker of histories: it decides whether each read was allowed.
//!
//! Each write gives its key a higher number in the database than all writes before. So a read is wrong if its number is
//! lower than that of a write that was acknowledged before the read began (by more than the bound, if the class has
//! one). In the process that wrote, a read is also wrong if its number is lower than that of a write that had returned.
//! Times are those of the machine's monotonic clock.

use rustix::time::{ClockId, clock_gettime};
use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

/// A point in time, in nanoseconds.
pub(crate) type Time = u64;

pub(crate) fn now() -> Time {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap() * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap()
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Kind {
    /// The time at which the call returned.
    Read(Time),
    Acknowledged(Time),
    Queued(Time),
}

/// An operation of one process on one key.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Operation {
    pub(crate) process: usize,
    pub(crate) key: u64,
    pub(crate) begun: Time,
    pub(crate) kind: Kind,
    pub(crate) number: u64,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, ended) = match self.kind {
            Kind::Read(ended) => ('r', ended),
            Kind::Acknowledged(ended) => ('a', ended),
            Kind::Queued(ended) => ('q', ended),
        };
        let Self {
            process,
            key,
            begun,
            number,
            ..
        } = self;
        write!(f, "{kind} {process} {key} {begun} {ended} {number}")
    }
}

pub(crate) fn parse(line: &str) -> Option<Operation> {
    let words: Vec<&str> = line.split(' ').collect();
    let [kind, process, key, begun, ended, number] = words[..] else {
        // The line is incomplete, because its process was killed while it wrote the line.
        return None;
    };
    let ended = ended.parse().ok()?;
    Some(Operation {
        process: process.parse().ok()?,
        key: key.parse().ok()?,
        begun: begun.parse().ok()?,
        kind: match kind {
            "r" => Kind::Read(ended),
            "a" => Kind::Acknowledged(ended),
            _ => Kind::Queued(ended),
        },
        number: number.parse().ok()?,
    })
}

/// The lowest number that a read of one key may return, by the time at which the read begins.
#[derive(Default)]
struct Writes {
    /// The time from which a write counts, and the highest number so far, in the order of time.
    floors: Vec<(Time, u64)>,
}

impl Writes {
    fn new(mut ended: Vec<(Time, u64)>) -> Self {
        ended.sort_unstable();
        let mut highest = 0;
        for (_, number) in &mut ended {
            highest = highest.max(*number);
            *number = highest;
        }
        Self { floors: ended }
    }

    fn floor(&self, begun: Time) -> u64 {
        let counting = self.floors.partition_point(|(ended, _)| *ended < begun);
        counting
            .checked_sub(1)
            .map_or(0, |last| self.floors[last].1)
    }
}

/// The numbers of operations in a history.
pub(crate) struct Summary<'a>(pub(crate) &'a [Operation]);

impl fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |is: fn(&Kind) -> bool| self.0.iter().filter(|it| is(&it.kind)).count();
        write!(
            f,
            "{} operations, {} writes acknowledged and {} queued",
            self.0.len(),
            count(|kind| matches!(kind, Kind::Acknowledged(_))),
            count(|kind| matches!(kind, Kind::Queued(_))),
        )
    }
}

/// Returns the reads that were not allowed.
pub(crate) fn violations(history: &[Operation], bound: Duration) -> Vec<Operation> {
    let bound = u64::try_from(bound.as_nanos()).unwrap();
    let mut everywhere: HashMap<u64, Vec<(Time, u64)>> = HashMap::new();
    let mut here: HashMap<(usize, u64), Vec<(Time, u64)>> = HashMap::new();
    for write in history {
        let (ended, acknowledged) = match write.kind {
            Kind::Read(_) => continue,
            Kind::Acknowledged(ended) => (ended, true),
            Kind::Queued(ended) => (ended, false),
        };
        if acknowledged {
            let writes = everywhere.entry(write.key).or_default();
            writes.push((ended + bound, write.number));
        }
        let own = here.entry((write.process, write.key)).or_default();
        own.push((ended, write.number));
    }
    let everywhere: HashMap<_, _> = everywhere
        .into_iter()
        .map(|(key, writes)| (key, Writes::new(writes)))
        .collect();
    let here: HashMap<_, _> = here
        .into_iter()
        .map(|(key, writes)| (key, Writes::new(writes)))
        .collect();
    let is_wrong = |operation: &&Operation| {
        let Kind::Read(_) = operation.kind else {
            return false;
        };
        let Operation {
            process,
            key,
            begun,
            number,
            ..
        } = **operation;
        let floor = everywhere.get(&key).map_or(0, |writes| writes.floor(begun));
        let own = here
            .get(&(process, key))
            .map_or(0, |writes| writes.floor(begun));
        number < floor.max(own)
    };
    history.iter().filter(is_wrong).copied().collect()
}

pub(crate) fn assert_allowed(history: &[Operation], bound: Duration) {
    let wrong = violations(history, bound);
    if let Some(read) = wrong.first() {
        let mut around: Vec<_> = history.iter().filter(|it| it.key == read.key).collect();
        around.sort_by_key(|it| it.begun);
        let at = around.partition_point(|it| it.begun < read.begun);
        for it in &around[at.saturating_sub(30)..(at + 5).min(around.len())] {
            println!("{it}");
        }
    }
    assert!(
        wrong.is_empty(),
        "{} wrong, the first {}",
        wrong.len(),
        wrong[0]
    );
}

#[test]
fn checker_accepts_allowed_and_rejects_forbidden_histories() {
    let lines = |lines: &[&str]| -> Vec<Operation> {
        lines.iter().map(|line| parse(line).unwrap()).collect()
    };
    let wrong =
        |history: &[&str], bound| violations(&lines(history), Duration::from_nanos(bound)).len();
    // Process 1 writes 5 to key 7 from time 100 to 200. Process 2 reads.
    let write = "a 1 7 100 200 5";
    assert_eq!(wrong(&[write, "r 2 7 201 210 4"], 0), 1);
    assert_eq!(wrong(&[write, "r 2 7 201 210 5"], 0), 0);
    assert_eq!(wrong(&[write, "r 2 7 150 210 4"], 0), 0);
    assert_eq!(wrong(&[write, "r 2 8 201 210 4"], 0), 0);
    assert_eq!(wrong(&[write, "r 2 7 250 260 4"], 100), 0);
    assert_eq!(wrong(&[write, "r 2 7 301 310 4"], 100), 1);
    // A write that is acknowledged later with a lower number changes nothing.
    assert_eq!(wrong(&[write, "a 2 7 150 300 4", "r 2 7 301 310 4"], 0), 1);
    // A queued write counts only in the process that wrote.
    let queued = "q 1 7 100 200 5";
    assert_eq!(wrong(&[queued, "r 2 7 201 210 4"], 0), 0);
    assert_eq!(wrong(&[queued, "r 1 7 201 210 4"], 0), 1);
    assert!(parse("r 1 7 20").is_none());
}
