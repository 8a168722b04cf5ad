//! A history of reads and changes of prices, and the check that no outdated price was served.

use std::collections::HashMap;
use std::time::Duration;

/// The time since the start of the check, by one clock for all threads.
pub(crate) type Moment = Duration;

/// A change that was written to the database. The version of a price rises with each change.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Change {
    pub(crate) id: u64,
    pub(crate) version: u64,
    pub(crate) sent: Moment,
    pub(crate) answered: Moment,
    /// Whether the change was acknowledged, or only queued for other processes.
    pub(crate) acknowledged: bool,
}

impl Change {
    fn duration(&self) -> Duration {
        self.answered.saturating_sub(self.sent)
    }
}

/// A read, with the version that it returned.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Read {
    pub(crate) id: u64,
    pub(crate) version: u64,
    pub(crate) sent: Moment,
    pub(crate) answered: Moment,
}

/// A read that returned an older version than the last one acknowledged before the read was sent.
#[derive(Debug, PartialEq)]
pub(crate) struct Violation {
    pub(crate) read: Read,
    /// The minimum version that the read had to return.
    pub(crate) least: u64,
    /// The time from the acknowledgement of that version until the read was sent.
    pub(crate) since: Duration,
}

/// All changes and reads of a client, or of all clients.
#[derive(Default)]
pub(crate) struct History {
    pub(crate) changes: Vec<Change>,
    pub(crate) reads: Vec<Read>,
}

/// The results of the check.
#[derive(Default)]
pub(crate) struct Findings {
    pub(crate) acknowledged: usize,
    pub(crate) violations: Vec<Violation>,
    /// For each read of a changed price, the time from the last acknowledged change until the read was sent.
    pub(crate) since_change: Vec<Duration>,
    /// The number of reads that overlapped a change of their price.
    pub(crate) overlapping: usize,
    /// For each overlapping read that returned the price before the change, the time from when the change was sent
    /// until the read was answered. It is an upper bound of the staleness of the price.
    pub(crate) ages: Vec<Duration>,
    /// The longest time between two acknowledged changes.
    pub(crate) longest_gap: Duration,
}

impl History {
    pub(crate) fn add(&mut self, other: Self) {
        self.changes.extend(other.changes);
        self.reads.extend(other.reads);
    }

    /// Checks each read against the changes of its price.
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
                price.check(read, &mut findings);
            }
        }
        findings
    }
}

/// The changes of one price.
#[derive(Default)]
struct Price {
    /// The highest acknowledged versions, each with the time of its acknowledgement, in order.
    acknowledged: Vec<(Moment, u64)>,
    /// The changes in the order in which they were sent.
    changes: Vec<Change>,
    /// The duration of the longest change.
    longest: Duration,
}

impl Price {
    fn add(&mut self, change: &Change) {
        self.changes.push(*change);
        self.longest = self.longest.max(change.duration());
        if change.acknowledged {
            self.acknowledged.push((change.answered, change.version));
        }
    }

    /// Sorts the changes, and keeps only acknowledgements that raise the version.
    fn sort(&mut self) {
        self.changes.sort_unstable_by_key(|change| change.sent);
        self.acknowledged.sort_unstable();
        // Two changes may be acknowledged in the opposite order of their versions.
        let mut highest = 0;
        self.acknowledged.retain(|&(_, version)| {
            let is_higher = version > highest;
            highest = highest.max(version);
            is_higher
        });
    }

    /// Adds the results of one read to the findings.
    fn check(&self, read: &Read, findings: &mut Findings) {
        let before = self
            .acknowledged
            .partition_point(|&(since, _)| since <= read.sent);
        if let Some(&(acknowledged, least)) = self.acknowledged[..before].last() {
            let since = read.sent.saturating_sub(acknowledged);
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
        let age = newer.map(|change| read.answered.saturating_sub(change.sent));
        findings.ages.extend(age);
    }

    /// Returns the changes that were in flight while the price was read.
    fn overlapping(&self, read: &Read) -> impl Iterator<Item = &Change> {
        // A change that was sent before this time was answered before the read was sent.
        let earliest = read.sent.saturating_sub(self.longest);
        let from = self
            .changes
            .partition_point(|change| change.sent < earliest);
        let end = self
            .changes
            .partition_point(|change| change.sent <= read.answered);
        let in_flight = self.changes[from..end].iter();
        in_flight.filter(|change| change.answered >= read.sent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn change(id: u64, version: u64, sent: u64, answered: u64) -> Change {
        Change {
            id,
            version,
            sent: ms(sent),
            answered: ms(answered),
            acknowledged: true,
        }
    }

    fn read(id: u64, version: u64, sent: u64, answered: u64) -> Read {
        Read {
            id,
            version,
            sent: ms(sent),
            answered: ms(answered),
        }
    }

    fn check(changes: &[Change], reads: &[Read]) -> Findings {
        let (changes, reads) = (changes.to_vec(), reads.to_vec());
        History { changes, reads }.check()
    }

    #[test]
    fn read_of_older_version_than_acknowledged_is_a_violation() {
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
    fn read_sent_at_the_time_of_the_acknowledgement_must_see_the_change() {
        let findings = check(&[change(7, 2, 10, 20)], &[read(7, 1, 20, 21)]);
        assert_eq!(findings.violations.len(), 1);
    }

    #[test]
    fn read_sent_before_the_acknowledgement_may_return_either_version() {
        let changes = [change(7, 2, 10, 20)];
        let findings = check(&changes, &[read(7, 1, 19, 25), read(7, 2, 19, 25)]);
        assert!(findings.violations.is_empty());
        assert_eq!(findings.overlapping, 2);
        assert_eq!(findings.ages, [ms(15)]);
    }

    #[test]
    fn read_need_not_see_a_queued_change() {
        let mut queued = change(7, 2, 10, 20);
        queued.acknowledged = false;
        let findings = check(&[queued], &[read(7, 1, 30, 31)]);
        assert!(findings.violations.is_empty());
        assert_eq!(findings.acknowledged, 0);
    }

    #[test]
    fn read_must_see_the_highest_version_even_if_a_lower_one_was_acknowledged_later() {
        let changes = [change(7, 3, 10, 20), change(7, 2, 9, 30)];
        let findings = check(&changes, &[read(7, 2, 31, 32), read(7, 3, 31, 32)]);
        assert_eq!(findings.violations.len(), 1);
        assert_eq!(findings.violations[0].least, 3);
        assert_eq!(findings.violations[0].since, ms(11));
    }

    #[test]
    fn long_change_overlaps_reads_sent_long_after_it() {
        let changes = [change(7, 2, 0, 100), change(7, 3, 40, 41)];
        let findings = check(&changes, &[read(7, 3, 90, 91), read(7, 3, 101, 102)]);
        assert_eq!(findings.overlapping, 1);
        assert!(findings.ages.is_empty());
    }

    #[test]
    fn longest_gap_is_between_two_acknowledgements() {
        let changes = [
            change(1, 1, 0, 10),
            change(2, 1, 0, 95),
            change(1, 2, 0, 30),
        ];
        assert_eq!(check(&changes, &[]).longest_gap, ms(65));
        assert_eq!(check(&changes[..1], &[]).longest_gap, ms(0));
    }
}
