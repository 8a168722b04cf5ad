//! The sequential cache with which histories are compared.
//!
//! A load takes effect in two steps, its beginning and its end, because other calls may come between them. Its callers
//! get its value in any case. It stores the value only if the key was not written to or invalidated between the steps.
//! So the state of a key is its entry and the loads in flight that no write has revoked.

use todc_utils::specifications::Specification;

/// A key, below [`KEYS`].
pub type Key = u8;

/// The number of keys.
pub const KEYS: usize = 4;

/// A value, an error or a load: a number that occurs once in a history. It is odd for a value with the tag.
pub type Id = u64;

/// A call or a step of a call, with what it was given and what it returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// A lookup.
    Get(Key, Option<Id>),
    Insert(Key, Id),
    /// A removal that returns the removed value.
    Remove(Key, Option<Id>),
    Invalidate(Key),
    /// An update, with the value that it was given and the one that it returned.
    Update(Key, Option<Id>, Option<Id>),
    /// A `get_or_load` that has returned a value without a load of its own.
    Found(Key, Id),
    /// A `get_or_load` that has returned the error of another caller's load.
    Failed(Key, Id),
    /// The part of a `get_or_load` until its loader runs.
    BeginLoad(Key, Id),
    /// The part of a `get_or_load` after its loader has returned a value.
    EndLoad(Key, Id),
    /// The part of a `get_or_load` after its loader has failed.
    FailLoad(Key, Id),
    Clear,
    /// An invalidation of the only tag.
    InvalidateTag,
}

/// Returns `true` if the value is inserted or loaded with the tag.
#[must_use]
pub fn is_tagged(id: Id) -> bool {
    id % 2 == 1
}

impl Operation {
    /// Returns the key, or `None` for an operation on all keys.
    #[must_use]
    pub fn key(self) -> Option<Key> {
        match self {
            Self::Get(key, _)
            | Self::Insert(key, _)
            | Self::Remove(key, _)
            | Self::Invalidate(key)
            | Self::Update(key, ..)
            | Self::Found(key, _)
            | Self::Failed(key, _)
            | Self::BeginLoad(key, _)
            | Self::EndLoad(key, _)
            | Self::FailLoad(key, _) => Some(key),
            Self::Clear | Self::InvalidateTag => None,
        }
    }
}

/// An operation with what the model has to know of its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    pub operation: Operation,
    /// `true` if the tag was invalidated meanwhile. A load or an insertion may then count as one that began before the
    /// invalidation, although it takes effect after it.
    pub is_during_invalidation: bool,
}

/// The state of one key.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct KeyState {
    entry: Option<Entry>,
    /// The last entry, if it was evicted and the key was not written to since. An update that has read it may still
    /// replace it.
    evicted: Option<Id>,
    /// The loads that may still store their values, in the order in which they began.
    loads: Vec<Load>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Entry {
    id: Id,
    is_tagged: bool,
    /// `true` until a call has seen the entry, if the cache may have stored it or not: the value of a load after which
    /// another one has begun, or of an insertion during which its tag was invalidated.
    may_be_absent: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Load {
    id: Id,
    relation: Relation,
    /// `true` if it began while an earlier load was in flight.
    replaces: bool,
    /// `true` if a later load has begun.
    is_replaced: bool,
}

/// The order of a load and the last invalidation of the tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Relation {
    /// The load began later. Callers join it.
    Later,
    /// The load may count as an earlier one.
    Unknown,
    /// The load began earlier. A value with the tag is not stored. No caller joins the load, except if it replaces
    /// another one: then later callers wait for it, and get its value if that has no tag.
    Earlier,
}

impl KeyState {
    /// Applies a write, which revokes all loads.
    fn write(&mut self, entry: Option<(Id, bool)>) {
        self.entry = entry.map(|(id, is_tagged)| Entry {
            id,
            is_tagged,
            may_be_absent: false,
        });
        self.evicted = None;
        self.loads.clear();
    }

    /// Takes a value, or its absence, that a call has seen. Returns `false` if the cache cannot have it. With evictions
    /// an entry may be absent at any time, and is then not found later either.
    fn observe(&mut self, seen: Option<Id>, has_evictions: bool) -> bool {
        let Some(entry) = &mut self.entry else {
            return seen.is_none();
        };
        if let Some(id) = seen {
            entry.may_be_absent = false;
            return entry.id == id;
        }
        let is_possible = has_evictions || entry.may_be_absent;
        self.evicted = self.entry.take().map(|entry| entry.id);
        is_possible
    }

    /// Returns `true` if a caller may join a load.
    fn joins(&self, id: Id) -> bool {
        let last = self.loads.last();
        let is_joined = |load: &Load| {
            load.relation != Relation::Earlier || load.replaces && !is_tagged(load.id)
        };
        last.is_some_and(|load| load.id == id && is_joined(load))
    }

    /// Returns `true` if a caller may begin a load, because it need not join another one.
    fn begins_load(&self) -> bool {
        let last = self.loads.last();
        last.is_none_or(|load| load.relation != Relation::Later)
    }

    /// Applies an operation on this key, or on all keys. Returns `false` if it is not possible in this state.
    fn apply(&mut self, step: Step, has_evictions: bool) -> bool {
        match step.operation {
            Operation::Get(_, found) => self.observe(found, has_evictions),
            Operation::Insert(_, id) => {
                self.write(Some((id, is_tagged(id))));
                if let Some(entry) = &mut self.entry {
                    entry.may_be_absent = entry.is_tagged && step.is_during_invalidation;
                }
                true
            }
            Operation::Remove(_, found) => {
                let is_possible = self.observe(found, has_evictions);
                self.write(None);
                is_possible
            }
            Operation::Invalidate(_) | Operation::Clear => {
                self.write(None);
                true
            }
            Operation::Update(_, seen, new) => {
                let was_evicted = has_evictions && seen.is_some() && seen == self.evicted;
                let is_possible = was_evicted || self.observe(seen, has_evictions);
                // An updated entry keeps its tags.
                let is_tagged = self.entry.as_ref().is_some_and(|entry| entry.is_tagged);
                self.write(new.map(|id| (id, is_tagged)));
                is_possible
            }
            Operation::Found(_, id) => self.joins(id) || self.observe(Some(id), has_evictions),
            Operation::Failed(_, id) => self.joins(id),
            Operation::BeginLoad(_, id) => {
                let is_possible = self.begins_load() && self.observe(None, has_evictions);
                let relation = if step.is_during_invalidation {
                    Relation::Unknown
                } else {
                    Relation::Later
                };
                let replaces = !self.loads.is_empty();
                for load in &mut self.loads {
                    load.is_replaced = true;
                }
                self.loads.push(Load {
                    id,
                    relation,
                    replaces,
                    is_replaced: false,
                });
                is_possible
            }
            Operation::EndLoad(_, id) => {
                self.end_load(id, true);
                true
            }
            Operation::FailLoad(_, id) => {
                self.end_load(id, false);
                true
            }
            Operation::InvalidateTag => {
                self.entry = self.entry.take().filter(|entry| !entry.is_tagged);
                for load in &mut self.loads {
                    load.relation = Relation::Earlier;
                }
                true
            }
        }
    }

    /// Ends a load, with a value or an error. Loads that began earlier do not replace the value.
    fn end_load(&mut self, id: Id, is_value: bool) {
        let Some(at) = self.loads.iter().position(|load| load.id == id) else {
            return;
        };
        let load = self.loads.remove(at);
        let is_tagged = is_tagged(id);
        if !is_value || is_tagged && load.relation == Relation::Earlier {
            return;
        }
        self.entry = Some(Entry {
            id,
            is_tagged,
            may_be_absent: load.is_replaced || is_tagged && load.relation == Relation::Unknown,
        });
        self.loads.drain(..at);
    }
}

/// The sequential cache. With `EVICTIONS`, it may lose any entry at any time.
pub struct Model<const EVICTIONS: bool>;

impl<const EVICTIONS: bool> Specification for Model<EVICTIONS> {
    type State = [KeyState; KEYS];
    type Operation = Step;

    fn init() -> Self::State {
        Self::State::default()
    }

    fn apply(step: &Step, state: &Self::State) -> (bool, Self::State) {
        let mut state = state.clone();
        let is_possible = match step.operation.key() {
            Some(key) => state[usize::from(key)].apply(*step, EVICTIONS),
            None => state.iter_mut().all(|key| key.apply(*step, EVICTIONS)),
        };
        (is_possible, state)
    }
}
