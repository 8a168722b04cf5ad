//! A model of one partition whose slot moves or whose server fails over, and of a process that would *adopt* the state
//! that it finds on the new server, instead of beginning a new incarnation without values.
//!
//! The exploration of all schedules shows why this crate never adopts a state: each rule by which a process could decide
//! has a schedule after which an old value is read although its invalidation was acknowledged.

use std::collections::HashSet;

/// The keys of the partition on one server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Keys {
    /// The incarnation and the version of the state.
    state: Option<(u8, u8)>,
    /// The incarnation in which the old value was stored.
    value: Option<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Owner {
    /// The server that the process knows.
    Old,
    /// The replica of the old server, after a failover.
    Replica,
    /// The server to which the slot moves.
    New,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Partition {
    owner: Owner,
    is_moving: bool,
    old: Keys,
    replica: Keys,
    new: Keys,
    /// `true` once the invalidation of the value is acknowledged.
    is_acknowledged: bool,
    failed_over: bool,
}

/// The events that may happen in an exploration.
#[derive(Clone, Copy, Default)]
#[allow(clippy::struct_excessive_bools)] // Each kind of event may happen or not.
struct Events {
    moves: bool,
    /// An operator ends a move while keys are on both servers.
    forced_ends: bool,
    failovers: bool,
    /// Changes are acknowledged when all replicas have them.
    waits_for_replicas: bool,
}

/// The rules by which the process could adopt a state of its incarnation, at the version that it knows or a later one.
#[derive(Clone, Copy, PartialEq)]
enum Rule {
    /// By the incarnation and the version alone.
    SamePosition,
    /// Also, the server that it knows says that the slot has moved, and there was no failover.
    ToldByOldOwner,
}

impl Partition {
    fn start() -> Self {
        let keys = Keys {
            state: Some((0, 0)),
            value: Some(0),
        };
        Self {
            owner: Owner::Old,
            is_moving: false,
            old: keys,
            replica: keys,
            new: Keys::default(),
            is_acknowledged: false,
            failed_over: false,
        }
    }

    fn keys(&mut self) -> &mut Keys {
        match self.owner {
            Owner::Old => &mut self.old,
            Owner::Replica => &mut self.replica,
            Owner::New => &mut self.new,
        }
    }

    /// Returns what may happen next.
    fn next(&self, events: Events) -> Vec<Self> {
        let mut next = Vec::new();
        let mut add = |change: &dyn Fn(&mut Self)| {
            let mut after = self.clone();
            change(&mut after);
            next.push(after);
        };
        let mut keys = *self.clone().keys();
        // Without an owner that has the keys together, the script of an invalidation is refused.
        let is_split = self.is_moving && (keys.state.is_none() || keys.value.is_none());
        if !self.is_acknowledged && self.owner != Owner::New && !is_split {
            // A missing state begins a new incarnation.
            keys.state = Some(keys.state.map_or((1, 1), |(id, version)| (id, version + 1)));
            keys.value = None;
            add(&|it| {
                *it.keys() = keys;
                it.is_acknowledged = true;
                if events.waits_for_replicas {
                    it.replica = keys;
                }
            });
        }
        if self.owner == Owner::Old {
            add(&|it| it.replica = it.old);
        }
        if events.failovers && self.owner == Owner::Old {
            add(&|it| (it.owner, it.failed_over) = (Owner::Replica, true));
        }
        if !events.moves || self.owner == Owner::New {
            return next;
        }
        if !self.is_moving {
            add(&|it| it.is_moving = true);
            return next;
        }
        if let Some(state) = self.clone().keys().state {
            add(&|it| (it.keys().state, it.new.state) = (None, Some(state)));
        }
        if let Some(value) = self.clone().keys().value {
            add(&|it| (it.keys().value, it.new.value) = (None, Some(value)));
        }
        if events.forced_ends {
            add(&|it| it.is_moving = false);
        }
        if events.forced_ends || *self.clone().keys() == Keys::default() {
            add(&|it| it.owner = Owner::New);
        }
        next
    }

    /// Checks whether a process that was paused since the start, and adopts the state now, reads the old value although
    /// its invalidation was acknowledged.
    fn reads_old_value(&self, rule: Rule) -> bool {
        let has_moved = match rule {
            Rule::SamePosition => self.owner != Owner::Old,
            Rule::ToldByOldOwner => self.owner == Owner::New && !self.failed_over,
        };
        let keys = *self.clone().keys();
        // The process knows version 0 of incarnation 0.
        let is_adopted = has_moved && keys.state.is_some_and(|(id, _)| id == 0);
        is_adopted && self.is_acknowledged && keys.value == Some(0)
    }
}

/// Checks whether no schedule of these events lets the process read the old value.
fn is_sound(rule: Rule, events: Events) -> bool {
    let first = Partition::start();
    let (mut seen, mut open) = (HashSet::from([first.clone()]), vec![first]);
    while let Some(partition) = open.pop() {
        if partition.reads_old_value(rule) {
            return false;
        }
        for next in partition.next(events) {
            if seen.insert(next.clone()) {
                open.push(next);
            }
        }
    }
    true
}

const MOVES: Events = Events {
    moves: true,
    forced_ends: false,
    failovers: false,
    waits_for_replicas: false,
};

const FAILOVERS: Events = Events {
    moves: false,
    failovers: true,
    ..MOVES
};

/// The value and the state were moved, the operator ends the move, the invalidation begins a new incarnation on the old
/// server, and the operator assigns the slot to the new server without moving the keys again.
#[test]
fn moved_state_cannot_be_adopted_if_a_move_may_end_while_keys_are_on_both_servers() {
    let forced = Events {
        forced_ends: true,
        ..MOVES
    };
    for rule in [Rule::SamePosition, Rule::ToldByOldOwner] {
        assert!(is_sound(rule, MOVES));
        assert!(!is_sound(rule, forced));
    }
}

/// The replica takes over without the invalidation. Nothing distinguishes that from a planned failover.
#[test]
fn state_of_a_replica_cannot_be_adopted_unless_changes_wait_for_all_replicas() {
    assert!(!is_sound(Rule::SamePosition, FAILOVERS));
    let waiting = Events {
        waits_for_replicas: true,
        ..FAILOVERS
    };
    assert!(is_sound(Rule::SamePosition, waiting));
}

/// The replica takes over without the invalidation, and then the slot moves from there.
#[test]
fn failover_before_a_move_has_to_be_noticed() {
    let both = Events {
        failovers: true,
        ..MOVES
    };
    assert!(!is_sound(Rule::SamePosition, both));
    assert!(is_sound(Rule::ToldByOldOwner, both));
}
