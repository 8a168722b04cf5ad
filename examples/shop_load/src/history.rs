//! Who asked for which price when, and what came back: from that it follows whether an old price was
//! served.

use std::collections::HashMap;
use std::time::Duration;

/// Since the check began, by one clock for all threads.
pub(crate) type Moment = Duration;

/// A change that is in the database. The versions of a price rise with its changes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Change {
    pub(crate) id: u64,
    pub(crate) version: u64,
    pub(crate) asked: Moment,
    pub(crate) answered: Moment,
    /// Or only queued, for other processes to hear of later.
    pub(crate) acknowledged: bool,
}

impl Change {
    fn took(&self) -> Duration {
        self.answered.saturating_sub(self.asked)
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Read {
    pub(crate) id: u64,
    pub(crate) version: u64,
    pub(crate) asked: Moment,
    pub(crate) answered: Moment,
}

/// A read that returned less than what was acknowledged before it was asked for.
#[derive(Debug, PartialEq)]
pub(crate) struct Violation {
    pub(crate) read: Read,
    /// The least version that it had to return.
    pub(crate) least: u64,
    /// How long that had been acknowledged when the read was asked for.
    pub(crate) since: Duration,
}

#[derive(Default)]
pub(crate) struct History {
    pub(crate) changes: Vec<Change>,
    pub(crate) reads: Vec<Read>,
}

/// What a history shows.
#[derive(Default)]
pub(crate) struct Findings {
    pub(crate) acknowledged: usize,
    pub(crate) violations: Vec<Violation>,
    /// For each read of a price that had been changed: how long before that was acknowledged.
    pub(crate) since_change: Vec<Duration>,
    /// Reads that overlapped a change of their price.
    pub(crate) overlapping: usize,
    /// Of those that returned the price from before it: how long before their answer the change
    /// was asked for. It is the most that the price can have been old.
    pub(crate) ages: Vec<Duration>,
    /// The longest time without an acknowledged change.
    pub(crate) longest_gap: Duration,
}

impl History {
    pub(crate) fn add(&mut self, other: Self) {
        self.changes.extend(other.changes);
        self.reads.extend(other.reads);
    }

    pub(crate) fn check(&self) -> Findings {
        let mut prices: HashMap<u64, Price> = HashMap::new();
        for change in &self.changes {
            prices.entry(change.id).or_default().add(change);
        }
        prices.values_mut().for_each(Price::sort);
        let acknowledged = self.changes.iter().filter(|change| change.acknowledged);
        let mut answered: Vec<_> = acknowledged.map(|change| change.answered).collect();
        answered.sort_unstable();
        let gaps = answered
            .windows(2)
            .map(|pair| pair[1].saturating_sub(pair[0]));
        let mut findings = Findings {
            acknowledged: answered.len(),
            longest_gap: gaps.max().unwrap_or_default(),
            ..Findings::default()
        };
        for read in &self.reads {
            if let Some(price) = prices.get(&read.id) {
                price.judge(read, &mut findings);
            }
        }
        findings
    }
}

/// The changes of one price.
#[derive(Default)]
struct Price {
    /// What was the highest version from when on, in order.
    acknowledged: Vec<(Moment, u64)>,
    /// In the order in which they were asked for.
    changes: Vec<Change>,
    /// No change took longer.
    longest: Duration,
}

impl Price {
    fn add(&mut self, change: &Change) {
        self.changes.push(*change);
        self.longest = self.longest.max(change.took());
        if change.acknowledged {
            self.acknowledged.push((change.answered, change.version));
        }
    }

    fn sort(&mut self) {
        self.changes.sort_unstable_by_key(|change| change.asked);
        self.acknowledged.sort_unstable();
        // Of two changes the later may be acknowledged first.
        let mut highest = 0;
        self.acknowledged.retain(|&(_, version)| {
            let is_higher = version > highest;
            highest = highest.max(version);
            is_higher
        });
    }

    fn judge(&self, read: &Read, findings: &mut Findings) {
        let before = self
            .acknowledged
            .partition_point(|&(since, _)| since <= read.asked);
        if let Some(&(acknowledged, least)) = self.acknowledged[..before].last() {
            let since = read.asked.saturating_sub(acknowledged);
            findings.since_change.push(since);
            if read.version < least {
                let read = *read;
                let violation = Violation { read, least, since };
                findings.violations.push(violation);
            }
        }
        let mut overlapping = self.overlapping(read).peekable();
        if overlapping.peek().is_some() {
            findings.overlapping += 1;
        }
        let newer = overlapping.find(|change| change.version > read.version);
        let age = newer.map(|change| read.answered.saturating_sub(change.asked));
        findings.ages.extend(age);
    }

    /// Changes that were under way while the price was read.
    fn overlapping(&self, read: &Read) -> impl Iterator<Item = &Change> {
        // None that was asked for earlier was under way still.
        let earliest = read.asked.saturating_sub(self.longest);
        let from = self
            .changes
            .partition_point(|change| change.asked < earliest);
        let end = self
            .changes
            .partition_point(|change| change.asked <= read.answered);
        let under_way = self.changes[from..end].iter();
        under_way.filter(|change| change.answered >= read.asked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn change(id: u64, version: u64, asked: u64, answered: u64) -> Change {
        Change {
            id,
            version,
            asked: ms(asked),
            answered: ms(answered),
            acknowledged: true,
        }
    }

    fn read(id: u64, version: u64, asked: u64, answered: u64) -> Read {
        Read {
            id,
            version,
            asked: ms(asked),
            answered: ms(answered),
        }
    }

    fn check(changes: &[Change], reads: &[Read]) -> Findings {
        let (changes, reads) = (changes.to_vec(), reads.to_vec());
        History { changes, reads }.check()
    }

    #[test]
    fn an_old_read_is_found() {
        let old = read(7, 1, 25, 26);
        let findings = check(
            &[change(7, 2, 10, 20), change(8, 9, 0, 1)],
            &[read(7, 2, 21, 22), old, read(8, 9, 25, 26)],
        );
        let violation = Violation {
            read: old,
            least: 2,
            since: ms(5),
        };
        assert_eq!(findings.violations, [violation]);
        assert_eq!(findings.since_change, [ms(1), ms(5), ms(24)]);
    }

    #[test]
    fn a_read_at_the_very_moment_of_the_acknowledgement_must_see_the_change() {
        let findings = check(&[change(7, 2, 10, 20)], &[read(7, 1, 20, 21)]);
        assert_eq!(findings.violations.len(), 1);
    }

    #[test]
    fn a_read_that_was_asked_for_before_may_return_either() {
        let changes = [change(7, 2, 10, 20)];
        let findings = check(&changes, &[read(7, 1, 19, 25), read(7, 2, 19, 25)]);
        assert!(findings.violations.is_empty());
        assert_eq!(findings.overlapping, 2);
        assert_eq!(findings.ages, [ms(15)]);
    }

    #[test]
    fn what_is_only_queued_need_not_be_seen() {
        let mut queued = change(7, 2, 10, 20);
        queued.acknowledged = false;
        let findings = check(&[queued], &[read(7, 1, 30, 31)]);
        assert!(findings.violations.is_empty());
        assert_eq!(findings.acknowledged, 0);
    }

    #[test]
    fn the_highest_counts_whatever_was_acknowledged_last() {
        let changes = [change(7, 3, 10, 20), change(7, 2, 9, 30)];
        let findings = check(&changes, &[read(7, 2, 31, 32), read(7, 3, 31, 32)]);
        assert_eq!(findings.violations.len(), 1);
        assert_eq!(findings.violations[0].least, 3);
        assert_eq!(findings.violations[0].since, ms(11));
    }

    #[test]
    fn a_long_change_overlaps_reads_long_after_it_was_asked_for() {
        let changes = [change(7, 2, 0, 100), change(7, 3, 40, 41)];
        let findings = check(&changes, &[read(7, 3, 90, 91), read(7, 3, 101, 102)]);
        assert_eq!(findings.overlapping, 1);
        assert!(findings.ages.is_empty());
    }

    #[test]
    fn the_longest_gap_is_between_acknowledgements() {
        let changes = [
            change(1, 1, 0, 10),
            change(2, 1, 0, 95),
            change(1, 2, 0, 30),
        ];
        assert_eq!(check(&changes, &[]).longest_gap, ms(65));
        assert_eq!(check(&changes[..1], &[]).longest_gap, ms(0));
    }
}
