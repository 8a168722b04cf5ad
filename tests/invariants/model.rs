//! Operations on a cache of one shard, compared with a plain model of expiration, of tags, and of LRU if that is the
//! policy. The package `fuzz` uses this file too.
//!
//! The removal listener drives the model. The cache may remove a dead entry at any time, so the model does not
//! predict removals but checks each one: whether the entry was cached, whether it was dead, whether room was needed,
//! and whether there was a less recently used entry.

use hotset::__private::validate;
use hotset::{
    Compute, Loaded, LocalCache, LocalCacheBuilder, ManualClock, Policy, RemovalCause, Stats,
};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub(crate) type Key = u16;

/// A set of the tags `"0"` to `"7"`, one in each bit.
pub(crate) type TagSet = u8;

#[derive(Debug, Clone, PartialEq)]
struct Value {
    /// A number that no other value of the run has, so that each removal is identified.
    id: u64,
    weight: u64,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Bound {
    Entries(u64),
    Weight(u64),
}

/// The settings of a run. Times are in nanoseconds, the unit of deadlines.
#[derive(Debug, Clone)]
pub(crate) struct Setup {
    pub(crate) policy: Policy,
    pub(crate) bound: Bound,
    pub(crate) time_to_live: Option<u64>,
    pub(crate) time_to_idle: Option<u64>,
    pub(crate) keys: Key,
    /// `true` if the run begins with an insertion of every key, and checks the contents less often.
    pub(crate) large: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct Load {
    pub(crate) weight: u64,
    pub(crate) own_weight: Option<u64>,
    pub(crate) ttl: Option<u64>,
    pub(crate) tags: TagSet,
}

#[derive(Debug, Clone)]
pub(crate) enum Op {
    Insert(Key, u64),
    InsertWithTtl(Key, u64, u64),
    InsertLoaded(Key, Load),
    Get(Key),
    GetWith(Key),
    Peek(Key),
    /// A load that fails if there is `None`.
    GetOrLoad(Key, Option<Load>),
    Remove(Key),
    /// An update that removes the key if there is `None`.
    Update(Key, Option<u64>),
    /// A `compute` that keeps the entry.
    Keep(Key),
    /// A `refresh` that fails if there is `None`.
    Refresh(Key, Option<u64>),
    SetTtl(Key, u64),
    /// A change of the bound, to this many percent of the bound at first.
    Resize(u64),
    /// A `retain` that keeps the keys below this one.
    Retain(Key),
    Clear,
    EvictExpired,
    /// The number of a tag, from 0 to 7.
    InvalidateTag(u8),
    Advance(u64),
    SetBack(u64),
}

/// An entry of the cache, live or dead.
struct Entry {
    value: Value,
    weight: u64,
    /// The weight that the caller has given, if it has.
    given_weight: Option<u64>,
    /// The time beyond which hits do not move the deadline.
    limit: u64,
    deadline: u64,
    /// The tick of the last use.
    used: u64,
    tags: TagSet,
    is_invalidated: bool,
}

/// The settings that an update or a refresh keeps.
#[derive(Clone, Copy)]
struct Terms {
    given_weight: Option<u64>,
    limit: u64,
    tags: TagSet,
}

pub(crate) struct Model {
    setup: Setup,
    first_bound: Bound,
    cache: LocalCache<Key, Value>,
    clock: ManualClock,
    removals: Arc<Mutex<Vec<(Key, Value, RemovalCause)>>>,
    entries: BTreeMap<Key, Entry>,
    now: u64,
    /// The number of writes to the shard. Reads between two of them are simultaneous.
    tick: u64,
    /// The highest number of entries since the cache was empty, which limits the resolution of recency.
    peak: u64,
    stats: Stats,
    next_id: u64,
}

impl Model {
    fn new(setup: &Setup) -> Self {
        let clock = ManualClock::new();
        let removals = Arc::new(Mutex::new(Vec::new()));
        let listener = {
            let removals = Arc::clone(&removals);
            move |key, value, cause| removals.lock().unwrap().push((key, value, cause))
        };
        let mut builder: LocalCacheBuilder<Key, Value> = LocalCache::builder()
            .policy(setup.policy)
            .shards(1)
            .clock(clock.clone())
            .on_removal(listener);
        builder = match setup.bound {
            Bound::Entries(entries) => builder.capacity(usize::try_from(entries).unwrap()),
            Bound::Weight(weight) => builder
                .max_weight(weight)
                .weigher(|_, value: &Value| value.weight),
        };
        if let Some(ttl) = setup.time_to_live {
            builder = builder.time_to_live(Duration::from_nanos(ttl));
        }
        if let Some(idle) = setup.time_to_idle {
            builder = builder.time_to_idle(Duration::from_nanos(idle));
        }
        Self {
            setup: setup.clone(),
            first_bound: setup.bound,
            cache: builder.build().unwrap(),
            clock,
            removals,
            entries: BTreeMap::new(),
            now: 0,
            tick: 0,
            peak: 0,
            stats: Stats::default(),
            next_id: 0,
        }
    }

    /// Runs operations on a new cache. Panics if the cache does not do what the model does.
    pub(crate) fn run(setup: &Setup, ops: &[Op]) {
        let mut model = Self::new(setup);
        if setup.large {
            (0..setup.keys).for_each(|key| model.insert(key, 1, None));
        }
        let check_every = if setup.large { 32 } else { 1 };
        for (step, op) in ops.iter().enumerate() {
            model.apply(op);
            // An entry that is removed for no reason that `apply` knows must be dead.
            model.check_removals(&[], RemovalCause::Expired, None);
            model.check_figures();
            if step % check_every == 0 {
                model.check_contents();
            }
        }
        model.check_contents();
    }

    fn apply(&mut self, op: &Op) {
        match *op {
            Op::Insert(key, weight) => self.insert(key, weight, None),
            Op::InsertWithTtl(key, weight, ttl) => self.insert(key, weight, Some(ttl)),
            Op::InsertLoaded(key, ref load) => {
                let (value, loaded) = self.loaded(load);
                self.cache.insert_loaded(key, loaded);
                self.inserted(key, value, self.terms_of(load));
            }
            Op::Get(key) => {
                let expected = self.look_up(key);
                assert_eq!(self.cache.get(&key), expected);
            }
            Op::GetWith(key) => {
                let expected = self.look_up(key).map(|value| value.id);
                assert_eq!(self.cache.get_with(&key, |value| value.id), expected);
            }
            Op::Peek(key) => assert_eq!(self.cache.peek(&key).as_ref(), self.live(key)),
            Op::GetOrLoad(key, ref load) => self.get_or_load(key, load.as_ref()),
            Op::Remove(key) => {
                let expected = self.live(key).cloned();
                assert_eq!(self.cache.remove(&key), expected);
                self.removed(key, RemovalCause::Removed);
            }
            Op::Update(key, weight) => self.update(key, weight),
            Op::Keep(key) => {
                let expected = self.live(key).cloned();
                let kept = self.cache.compute(&key, |_| Compute::Keep);
                assert_eq!(kept, expected);
            }
            Op::Refresh(key, weight) => self.refresh(key, weight),
            Op::SetTtl(key, ttl) => self.set_ttl(key, ttl),
            Op::Resize(percent) => self.resize(percent),
            Op::Retain(below) => self.retain(below),
            Op::Clear => {
                self.cache.clear();
                self.tick += 1;
                let all: Vec<Key> = self.entries.keys().copied().collect();
                self.check_removals(&all, RemovalCause::Cleared, None);
            }
            Op::EvictExpired => {
                let dead = self.entries.len() - self.all_live().len();
                assert_eq!(self.cache.remove_expired(), dead);
                self.check_removals(&[], RemovalCause::Expired, None);
                assert_eq!(self.entries.len(), self.all_live().len());
            }
            Op::InvalidateTag(tag) => {
                self.cache.invalidate_tag(&tag.to_string());
                for entry in self.entries.values_mut() {
                    entry.is_invalidated |= entry.tags >> tag & 1 == 1;
                }
            }
            Op::Advance(by) => {
                self.now += by;
                self.clock.advance(Duration::from_nanos(by));
            }
            Op::SetBack(by) => {
                self.now = self.now.saturating_sub(by);
                self.clock.set(Duration::from_nanos(self.now));
            }
        }
    }

    fn insert(&mut self, key: Key, weight: u64, ttl: Option<u64>) {
        let value = self.new_value(weight);
        match ttl.map(Duration::from_nanos) {
            Some(ttl) => self.cache.insert_with_ttl(key, value.clone(), ttl),
            None => self.cache.insert(key, value.clone()),
        }
        self.inserted(key, value, self.terms(ttl));
    }

    /// Returns the settings of an entry that is stored now without a weight and tags of its own.
    fn terms(&self, ttl: Option<u64>) -> Terms {
        Terms {
            given_weight: None,
            limit: self.limit(ttl),
            tags: 0,
        }
    }

    /// Returns the settings of an entry that is stored now.
    fn terms_of(&self, load: &Load) -> Terms {
        Terms {
            given_weight: load.own_weight,
            tags: load.tags,
            ..self.terms(load.ttl)
        }
    }

    /// Returns a new value, alone and with its settings.
    fn loaded(&mut self, load: &Load) -> (Value, Loaded<Value>) {
        let value = self.new_value(load.weight);
        let tags = (0..8).filter(|tag| load.tags >> tag & 1 == 1);
        let mut loaded = Loaded::new(value.clone()).tags(tags.map(|tag| tag.to_string()));
        if let Some(weight) = load.own_weight {
            loaded = loaded.weight(weight);
        }
        if let Some(ttl) = load.ttl {
            loaded = loaded.ttl(Duration::from_nanos(ttl));
        }
        (value, loaded)
    }

    /// Returns the time at which an entry expires that is stored now.
    fn limit(&self, ttl: Option<u64>) -> u64 {
        let ttl = ttl.or(self.setup.time_to_live);
        ttl.map_or(u64::MAX, |ttl| self.now.saturating_add(ttl))
    }

    fn get_or_load(&mut self, key: Key, load: Option<&Load>) {
        let hit = self.look_up(key);
        let fresh = load.map(|load| self.loaded(load));
        let mut loads = 0;
        let returned = self.cache.get_or_load_entry(&key, |_| {
            loads += 1;
            fresh.clone().map(|(_, loaded)| loaded).ok_or("not found")
        });
        assert_eq!(loads, u64::from(hit.is_none()));
        self.stats.loads += loads;
        match (hit, load, fresh) {
            (Some(value), ..) => assert_eq!(returned.unwrap(), value),
            (None, Some(load), Some((value, _))) => {
                assert_eq!(returned.unwrap(), value);
                self.inserted(key, value, self.terms_of(load));
            }
            _ => {
                self.stats.load_failures += 1;
                assert_eq!(returned.unwrap_err().as_inner(), Some(&"not found"));
            }
        }
    }

    fn update(&mut self, key: Key, weight: Option<u64>) {
        let live = self.live(key).cloned();
        // A live entry keeps its weight, its limit and its tags.
        let terms = self.kept(key).unwrap_or(self.terms(None));
        let next = weight.map(|weight| self.new_value(weight));
        let mut seen = Vec::new();
        let returned = self.cache.update(&key, |value| {
            seen.push(value.cloned());
            next.clone()
        });
        assert_eq!(seen, [live]);
        assert_eq!(returned, next);
        match next {
            Some(value) => self.inserted(key, value, terms),
            None => self.removed(key, RemovalCause::Removed),
        }
    }

    fn refresh(&mut self, key: Key, weight: Option<u64>) {
        let live = self.live(key).cloned();
        // A live entry keeps its weight and its tags, but not its limit.
        let new_terms = self.terms(None);
        let terms = self.kept(key).map_or(new_terms, |kept| Terms {
            limit: new_terms.limit,
            ..kept
        });
        let fresh = weight.map(|weight| self.new_value(weight));
        let returned = self.cache.refresh_with(&key, |old| {
            assert_eq!(old, live);
            fresh.clone().ok_or("not found")
        });
        self.stats.loads += 1;
        self.stats.refreshes += u64::from(live.is_some());
        if let Some(value) = fresh {
            assert_eq!(returned.unwrap(), value);
            self.inserted(key, value, terms);
        } else {
            self.stats.load_failures += 1;
            assert_eq!(returned.unwrap_err().as_inner(), Some(&"not found"));
        }
    }

    /// Returns the settings of a live entry.
    fn kept(&self, key: Key) -> Option<Terms> {
        self.live(key)?;
        let entry = self.entries.get(&key)?;
        Some(Terms {
            given_weight: entry.given_weight,
            limit: entry.limit,
            tags: entry.tags,
        })
    }

    fn set_ttl(&mut self, key: Key, ttl: u64) {
        let is_live = self.live(key).is_some();
        assert_eq!(self.cache.set_ttl(&key, Duration::from_nanos(ttl)), is_live);
        let limit = self.limit(Some(ttl));
        let deadline = self.idle_deadline(limit);
        if is_live && limit <= self.now {
            self.removed(key, RemovalCause::Removed);
        } else if is_live {
            let entry = self.entries.get_mut(&key).unwrap();
            (entry.limit, entry.deadline) = (limit, deadline);
        }
    }

    fn resize(&mut self, percent: u64) {
        let bound = match self.first_bound {
            Bound::Entries(entries) => Bound::Entries(entries * percent / 100),
            Bound::Weight(weight) => Bound::Weight(weight * percent / 100),
        };
        self.setup.bound = bound;
        let (Bound::Entries(budget) | Bound::Weight(budget)) = bound;
        match bound {
            Bound::Entries(entries) => self.cache.set_capacity(usize::try_from(entries).unwrap()),
            Bound::Weight(weight) => self.cache.set_max_weight(weight),
        }
        .unwrap();
        self.check_removals(&[], RemovalCause::Evicted, Some(budget));
        assert_eq!(self.cache.capacity(), Some(budget));
        assert!(self.weight() <= budget);
    }

    fn retain(&mut self, below: Key) {
        let mut seen = Vec::new();
        self.cache.retain(|&key, value| {
            seen.push((key, value.clone()));
            key < below
        });
        seen.sort_by_key(|(key, _)| *key);
        assert_eq!(seen, self.all_live());
        let dropped = seen.split_off(seen.partition_point(|(key, _)| *key < below));
        let dropped: Vec<Key> = dropped.into_iter().map(|(key, _)| key).collect();
        self.tick += dropped.len() as u64;
        self.check_removals(&dropped, RemovalCause::Removed, None);
    }

    /// Updates the model after the cache was given a value to store.
    fn inserted(&mut self, key: Key, value: Value, terms: Terms) {
        let Terms {
            given_weight,
            limit,
            tags,
        } = terms;
        let weight = given_weight.unwrap_or(value.weight);
        let (budget, weight) = match self.setup.bound {
            Bound::Entries(entries) => (entries, 1),
            Bound::Weight(budget) => (budget, weight.max(1)),
        };
        if weight > budget || limit <= self.now {
            self.stats.refused += 1;
            self.removed(key, RemovalCause::Replaced);
            return;
        }
        self.tick += 1;
        self.check_removals(&[key], RemovalCause::Replaced, Some(budget - weight));
        let entry = Entry {
            value,
            weight,
            given_weight,
            limit,
            deadline: self.idle_deadline(limit),
            used: self.tick,
            tags,
            is_invalidated: false,
        };
        self.entries.insert(key, entry);
        self.stats.inserts += 1;
        self.peak = self.peak.max(self.entries.len() as u64);
    }

    /// Updates the model after a call that removes a key.
    fn removed(&mut self, key: Key, cause: RemovalCause) {
        self.tick += u64::from(self.entries.contains_key(&key));
        self.check_removals(&[key], cause, None);
    }

    /// Checks the removals of which the listener was notified. All keys in `own` are removed for `cause`. Other entries
    /// may be dead, or be evicted until their weight is at most `room`.
    fn check_removals(&mut self, own: &[Key], cause: RemovalCause, room: Option<u64>) {
        let removals = std::mem::take(&mut *self.removals.lock().unwrap());
        for (key, value, actual_cause) in removals {
            let oldest = self.entries.values().map(|entry| entry.used).min();
            let weight = self.weight();
            let entry = self
                .entries
                .remove(&key)
                .expect("each entry is removed once");
            assert_eq!(entry.value, value);
            if entry.is_invalidated {
                assert_eq!(actual_cause, RemovalCause::Invalidated);
            } else if entry.deadline <= self.now {
                assert_eq!(actual_cause, RemovalCause::Expired);
            } else if own.contains(&key) {
                assert_eq!(actual_cause, cause);
            } else {
                assert_eq!(actual_cause, RemovalCause::Evicted);
                assert!(room.is_some_and(|room| weight > room), "there was room");
                // The resolution is one 128th for the time of use and one for the order, and exact below 128 entries.
                let last = oldest.unwrap() + self.peak / 128 * 2;
                let is_last = entry.used <= last || self.setup.policy != Policy::Lru;
                assert!(is_last, "{key}: {} > {last}", entry.used);
            }
            self.count(actual_cause);
        }
        if self.entries.is_empty() {
            self.peak = 0;
        }
        assert!(own.iter().all(|key| !self.entries.contains_key(key)));
    }

    fn count(&mut self, cause: RemovalCause) {
        let counter = match cause {
            RemovalCause::Replaced => &mut self.stats.replaced,
            RemovalCause::Removed => &mut self.stats.removed,
            RemovalCause::Expired => &mut self.stats.expired,
            RemovalCause::Evicted => &mut self.stats.evicted,
            RemovalCause::Cleared => &mut self.stats.cleared,
            RemovalCause::Invalidated => &mut self.stats.invalidated,
            _ => unreachable!("{cause:?} is new"),
        };
        *counter += 1;
    }

    /// Updates the model for a lookup of a key, and returns the value that it has to find.
    fn look_up(&mut self, key: Key) -> Option<Value> {
        if self.live(key).is_none() {
            self.stats.misses += 1;
            return None;
        }
        self.stats.hits += 1;
        let moved = self.idle_deadline(self.entries[&key].limit);
        let resolution = self.setup.time_to_idle.unwrap_or(0) / 64;
        let entry = self.entries.get_mut(&key)?;
        entry.used = self.tick;
        if moved > entry.deadline.saturating_add(resolution) || moved == entry.limit {
            entry.deadline = entry.deadline.max(moved);
        }
        Some(entry.value.clone())
    }

    /// Returns the deadline of an entry that is used now and lives at most until `limit`.
    fn idle_deadline(&self, limit: u64) -> u64 {
        let idle = self.setup.time_to_idle;
        idle.map_or(limit, |idle| limit.min(self.now.saturating_add(idle)))
    }

    fn live(&self, key: Key) -> Option<&Value> {
        let entry = self.entries.get(&key)?;
        let is_live = self.now < entry.deadline && !entry.is_invalidated;
        is_live.then_some(&entry.value)
    }

    fn all_live(&self) -> Vec<(Key, Value)> {
        let keys = self.entries.keys();
        keys.filter_map(|&key| Some((key, self.live(key)?.clone())))
            .collect()
    }

    fn weight(&self) -> u64 {
        self.entries.values().map(|entry| entry.weight).sum()
    }

    fn new_value(&mut self, weight: u64) -> Value {
        self.next_id += 1;
        Value {
            id: self.next_id,
            weight,
        }
    }

    fn check_figures(&mut self) {
        self.stats.entries = self.entries.len() as u64;
        self.stats.weight = self.weight();
        let stats = self.cache.stats();
        assert_eq!(stats.load_times.count(), stats.loads);
        self.stats.load_times = stats.load_times.clone();
        self.stats.ages = stats.ages.clone();
        assert_eq!(stats, self.stats);
        assert_eq!(self.cache.len(), self.entries.len());
        assert_eq!(self.cache.weight(), self.weight());
        assert_eq!(self.cache.is_empty(), self.entries.is_empty());
    }

    /// Checks the contents. None of these reads may count as a use, because later evictions would differ from those of
    /// the model.
    fn check_contents(&self) {
        validate(&self.cache);
        for key in 0..self.setup.keys {
            assert_eq!(self.cache.contains_key(&key), self.live(key).is_some());
            let left = self.live(key).map(|_| match self.entries[&key].deadline {
                u64::MAX => Duration::MAX,
                deadline => Duration::from_nanos(deadline - self.now),
            });
            assert_eq!(self.cache.remaining_ttl(&key), left);
        }
        let mut listed = self.cache.hottest(usize::MAX);
        let mut hottest = 0;
        for used in listed.iter().rev().map(|(key, _)| self.entries[key].used) {
            let is_in_order = used + self.peak / 128 >= hottest;
            assert!(is_in_order || self.setup.policy != Policy::Lru);
            hottest = hottest.max(used);
        }
        listed.sort_by_key(|(key, _)| *key);
        assert_eq!(listed, self.all_live());
        let mut listed: Vec<_> = self.cache.iter().collect();
        listed.sort_by_key(|(key, _)| *key);
        assert_eq!(listed, self.all_live());
        let mut keys: Vec<_> = self.cache.keys().collect();
        keys.sort_unstable();
        assert!(keys.into_iter().eq(listed.into_iter().map(|(key, _)| key)));
    }
}
