//! A model of a process that reads one key from a replica, while its primary fails over to another replica.
//!
//! The exploration of all schedules of a few events shows that the rules of
//! [`freshness`](crate::tiered::l2::redis::freshness) suffice, and that none of them can be left out.

use crate::tiered::l2::redis::freshness::{Freshness, Known};
use crate::tiered::l2::remote::Position;
use std::collections::HashSet;

/// The server that is the primary at first, and remains one that does not know of the failover.
const OLD: usize = 0;

/// The replica of the old server that takes over.
const NEW: usize = 1;

/// The keys of the namespace on a server. A value is the row of the database that was loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Data {
    /// The server that began the incarnation.
    incarnation: usize,
    version: u64,
    value: Option<u8>,
}

impl Data {
    fn position(&self) -> Position {
        Position {
            incarnation: [u8::try_from(self.incarnation).unwrap(); 8],
            version: self.version,
        }
    }
}

/// The progress of a change of the row, by this process or by another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Change {
    NotBegun,
    /// The row was changed, and a server has to be asked. If one was asked that was not the primary, the primary is found
    /// next.
    Queued {
        row: u8,
        is_repeated: bool,
    },
    /// A server has executed the invalidation. It is acknowledged if the server is the primary after that.
    Executed {
        row: u8,
        server: usize,
        at: Position,
    },
    Acknowledged,
}

/// The progress of a renewal of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Renewal {
    None,
    /// The server was the primary after `begun`.
    Confirmed {
        server: usize,
        begun: u8,
    },
    Executed {
        at: Position,
        begun: u8,
    },
}

/// A read of this process that the replica has executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Read {
    known: Known<u8>,
    data: Data,
    /// The last row that this process had written, or had received an event of in the same incarnation.
    seen: u8,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct World {
    /// Raised by the events that are compared by their times.
    time: u8,
    row: u8,
    primary: usize,
    /// The data of each server after each script. That of the new one is empty until it takes over.
    logs: [Vec<Data>; 2],
    /// The number of scripts of the old server that the new one has as its replica.
    replicated: usize,
    /// The server that the replica follows, and the index of the data that it has.
    replica: (usize, usize),
    own: Change,
    other: Change,
    /// The rows and times of acknowledgements.
    acknowledged: Vec<(u8, u8)>,
    renewal: Renewal,
    renewals: u8,
    /// The server that has granted a load lease, the position at which it did, and the row that was loaded.
    load: Option<(usize, Position, u8)>,
    loads: u8,
    freshness: Freshness<u8>,
    /// The event of the other process's change that was received, by incarnation.
    received: Option<(usize, u8)>,
    own_row: u8,
    read: Option<Read>,
}

/// The rules by which a reply of the replica counts.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Rule {
    /// Those of this crate.
    All,
    /// The version of the reply is not compared.
    WithoutVersion,
    /// A reply counts as current at its arrival.
    WithoutAge,
    /// A renewal counts as begun when its script was sent, after the primary was confirmed.
    BegunWhenSent,
    /// A renewal counts whose reply has arrived after the read was sent.
    RenewalAfterRead,
    /// A change of this process is not noted.
    WithoutOwnChanges,
    /// An event is not noted.
    WithoutEvents,
}

/// The events of an exploration. With all of them at once, there would be too many schedules.
#[derive(Debug, Clone, Copy)]
struct Events {
    own_change: bool,
    other_change: bool,
    renewals: u8,
    loads: u8,
}

/// The changes of another process.
const OTHER: Events = Events {
    own_change: false,
    other_change: true,
    renewals: 2,
    loads: 1,
};

/// The changes of this process.
const OWN: Events = Events {
    own_change: true,
    other_change: false,
    ..OTHER
};

/// The first renewal does not count, because nothing is known before it.
const MORE_RENEWALS: Events = Events {
    renewals: 3,
    loads: 0,
    ..OTHER
};

const BOTH: Events = Events {
    own_change: true,
    other_change: true,
    renewals: 1,
    loads: 0,
};

impl World {
    fn start(events: Events) -> Self {
        let change = |happens| {
            if happens {
                Change::NotBegun
            } else {
                Change::Acknowledged
            }
        };
        let data = Data {
            incarnation: OLD,
            version: 1,
            value: Some(0),
        };
        Self {
            time: 0,
            row: 0,
            primary: OLD,
            logs: [vec![data], Vec::new()],
            replicated: 0,
            replica: (OLD, 0),
            own: change(events.own_change),
            other: change(events.other_change),
            acknowledged: Vec::new(),
            renewal: Renewal::None,
            renewals: 0,
            load: None,
            loads: 0,
            freshness: Freshness::default(),
            received: None,
            own_row: 0,
            read: None,
        }
    }

    /// Returns the servers that execute scripts: a demoted one does, too.
    fn servers(&self) -> impl Iterator<Item = usize> + use<> {
        OLD..=self.primary
    }

    fn data(&self, server: usize) -> Data {
        *self.logs[server].last().unwrap()
    }

    /// Executes a script, which begins a new incarnation if the state belongs to another server.
    fn execute(&mut self, server: usize, script: impl FnOnce(&mut Data)) -> Position {
        let mut data = self.data(server);
        if data.incarnation != server {
            data = Data {
                incarnation: server,
                version: 1,
                value: None,
            };
        }
        script(&mut data);
        if data != self.data(server) {
            self.logs[server].push(data);
        }
        data.position()
    }

    fn tick(&mut self) -> u8 {
        self.time += 1;
        self.time
    }

    /// Returns what may happen next.
    fn next(&self, rule: Rule, events: Events) -> Vec<Self> {
        let mut next = Vec::new();
        let mut add = |change: &dyn Fn(&mut Self)| {
            let mut after = self.clone();
            change(&mut after);
            next.push(after);
        };
        self.add_changes(rule, &mut add);
        if self.renewals < events.renewals || self.renewal != Renewal::None {
            self.add_renewals(rule, &mut add);
        }
        self.add_replication(&mut add);
        match self.load {
            None if self.loads < events.loads => {
                for server in self.servers() {
                    add(&|it| {
                        let at = it.execute(server, |_| ());
                        it.loads += 1;
                        it.load = it
                            .data(server)
                            .value
                            .is_none()
                            .then_some((server, at, it.row));
                    });
                }
            }
            None => {}
            Some((server, at, row)) => add(&|it| {
                it.load = None;
                if it.data(server).position() == at {
                    it.execute(server, |data| data.value = Some(row));
                }
            }),
        }
        // Only then, what happens between a read and its reply makes a difference.
        if rule == Rule::RenewalAfterRead && self.read.is_none() {
            add(&|it| it.read = it.begin_read());
        }
        next
    }

    /// Returns a read that the replica executes now.
    fn begin_read(&self) -> Option<Read> {
        let is_writing = matches!(self.own, Change::Queued { .. } | Change::Executed { .. });
        let known = self.freshness.known().filter(|_| !is_writing)?;
        let (server, index) = self.replica;
        let data = self.logs[server][index];
        let received = self.received.filter(|(id, _)| *id == data.incarnation);
        let received = received.map_or(0, |(_, row)| row);
        Some(Read {
            known,
            data,
            seen: received.max(self.own_row),
        })
    }

    fn add_changes(&self, rule: Rule, add: &mut impl FnMut(&dyn Fn(&mut Self))) {
        for is_own in [true, false] {
            let change = if is_own { self.own } else { self.other };
            let set = |it: &mut Self, change| {
                *(if is_own { &mut it.own } else { &mut it.other }) = change;
            };
            match change {
                Change::NotBegun => add(&|it| {
                    it.row += 1;
                    let row = it.row;
                    set(
                        it,
                        Change::Queued {
                            row,
                            is_repeated: false,
                        },
                    );
                }),
                Change::Queued { row, is_repeated } => {
                    let may_ask = |server: &usize| !is_repeated || *server == self.primary;
                    for server in self.servers().filter(may_ask) {
                        add(&|it| {
                            let at = it.execute(server, |data| {
                                data.version += 1;
                                data.value = None;
                            });
                            set(it, Change::Executed { row, server, at });
                        });
                    }
                }
                Change::Executed { row, server, at } => {
                    add(&|it| {
                        if server != it.primary {
                            return set(
                                it,
                                Change::Queued {
                                    row,
                                    is_repeated: true,
                                },
                            );
                        }
                        let now = it.tick();
                        it.acknowledged.push((row, now));
                        set(it, Change::Acknowledged);
                        if is_own {
                            it.own_row = row;
                            if rule != Rule::WithoutOwnChanges {
                                it.freshness.note_position(at, now);
                            }
                        }
                    });
                    if !is_own && self.received.is_none() {
                        add(&|it| {
                            it.received = Some((usize::from(at.incarnation[0]), row));
                            if rule != Rule::WithoutEvents {
                                it.freshness.note_position(at, it.time);
                            }
                        });
                    }
                }
                Change::Acknowledged => {}
            }
        }
    }

    fn add_renewals(&self, rule: Rule, add: &mut impl FnMut(&dyn Fn(&mut Self))) {
        match self.renewal {
            Renewal::None => add(&|it| {
                let begun = it.tick();
                let server = it.primary;
                it.renewals += 1;
                it.renewal = Renewal::Confirmed { server, begun };
            }),
            Renewal::Confirmed { server, begun } => add(&|it| {
                let begun = if rule == Rule::BegunWhenSent {
                    it.tick()
                } else {
                    begun
                };
                let at = it.execute(server, |_| ());
                it.renewal = Renewal::Executed { at, begun };
            }),
            Renewal::Executed { at, begun } => add(&|it| {
                it.freshness.note_renewal(at, begun, it.time);
                it.renewal = Renewal::None;
            }),
        }
    }

    fn add_replication(&self, add: &mut impl FnMut(&dyn Fn(&mut Self))) {
        let (server, index) = self.replica;
        if index + 1 < self.logs[server].len() {
            add(&|it| it.replica.1 += 1);
        }
        if self.primary == OLD {
            if self.replicated + 1 < self.logs[OLD].len() {
                add(&|it| it.replicated += 1);
            }
            add(&|it| {
                let data = it.logs[OLD][it.replicated];
                it.logs[NEW].push(data);
                it.primary = NEW;
            });
        } else if server == OLD {
            add(&|it| it.replica = (NEW, it.logs[NEW].len() - 1));
        }
    }

    /// Checks the promises for a read whose reply arrives now.
    fn is_allowed(&self, Read { known, data, seen }: Read, rule: Rule) -> bool {
        let mut at = data.position();
        if rule == Rule::WithoutVersion {
            at.version = u64::MAX;
        }
        let (Ok(current_at), Some(row)) = (known.check(at, 0), data.value) else {
            return true;
        };
        let later = self.freshness.known();
        let current_at = match rule {
            Rule::WithoutAge => self.time,
            Rule::RenewalAfterRead => later.map_or(0, |it| it.current_at(0).unwrap_or(0)),
            _ => current_at,
        };
        // A change that was acknowledged before that time is in the value. So an old value is at most as old as the
        // process believes.
        let lacks = |&(changed, at): &(u8, u8)| changed > row && at <= current_at;
        row >= seen && !self.acknowledged.iter().any(lacks)
    }
}

/// Explores all schedules. Returns the number of states and that of replies that count, or `None` if a promise is broken.
fn explore(rule: Rule, events: Events) -> Option<(usize, usize)> {
    let first = World::start(events);
    let (mut seen, mut open) = (HashSet::from([first.clone()]), vec![first]);
    let mut counted = 0;
    while let Some(world) = open.pop() {
        if let Some(read) = world.read.or_else(|| world.begin_read()) {
            if !world.is_allowed(read, rule) {
                return None;
            }
            counted += usize::from(read.known.check(read.data.position(), 0).is_ok());
        }
        for next in world.next(rule, events) {
            if seen.insert(next.clone()) {
                open.push(next);
            }
        }
    }
    Some((seen.len(), counted))
}

#[test]
fn no_schedule_lets_a_replica_break_a_promise() {
    for events in [OTHER, OWN, BOTH] {
        let (states, counted) = explore(Rule::All, events).unwrap();
        println!("{events:?}: {states} states, {counted} replies count");
        assert!(counted > 100, "{states}, {counted}");
    }
}

#[test]
fn each_rule_is_needed() {
    let rules = [
        (Rule::WithoutVersion, OTHER),
        (Rule::WithoutAge, OTHER),
        (Rule::BegunWhenSent, OTHER),
        (Rule::RenewalAfterRead, MORE_RENEWALS),
        (Rule::WithoutEvents, OTHER),
        (Rule::WithoutOwnChanges, OWN),
    ];
    for (rule, events) in rules {
        assert_eq!(explore(rule, events), None, "{rule:?}");
    }
}
