//! The change of a namespace from one number of partitions to another, while processes use it.
//!
//! The partitions of a number are a *layout*, which has keys and events of its own. During the change each process
//! writes to both layouts, first to the old one. A share of the keys is read in the new one. If it has no value for such
//! a key, the holder of its load lease copies the value from the old one.
//!
//! A copy is never outdated: an invalidation that the new layout gets before the lease is granted was in the old layout
//! before that, so the copied value is newer. One that the new layout gets later revokes the lease. A test explores all
//! schedules of a model of this (`layout_change/model.rs`).
//!
//! # Phases
//!
//! | phase | reads | writes | copies |
//! | --- | --- | --- | --- |
//! | prepared | old | old, new | no |
//! | moving | a share of the keys: new, the others: old | old, new | yes |
//! | moved | new | old, new | no |
//!
//! Processes agree if each writes to all layouts that another one reads, and in the order in which another one copies.
//! So a process that only knows the old layout agrees with *prepared*, and one that only knows the new layout agrees
//! with *moved*. Processes note their phases in one place, and a phase is refused while a process does not agree with it.
//! The scripts check this (`scripts/settings.lua`).

#[cfg(test)]
mod model;

use crate::tiered::rollout::{MILLION, Rollout};
use parking_lot::Mutex;
use std::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{Acquire, Release},
};
use std::time::{Duration, Instant};

/// The time for which values are copied after the percentage of moved keys has become 100. Values that are read less
/// often are loaded again.
pub(crate) const COPY_TIME: Duration = Duration::from_secs(60);

/// A phase of the change, as one process sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Prepared,
    Moving,
    Moved,
}

impl Phase {
    /// Returns the name of the phase, which scripts read.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Prepared => "prepared",
            Self::Moving => "moving",
            Self::Moved => "moved",
        }
    }
}

/// The change of a namespace from `from` partitions to `to` partitions, as one cache makes it.
pub(crate) struct LayoutChange {
    pub(crate) from: u16,
    pub(crate) to: u16,
    rollout: Rollout,
    progress: Mutex<Progress>,
    /// `false` until the phase was noted for the first time, or could not be.
    is_known: AtomicBool,
    /// The number of keys out of a million that are read in the new layout.
    share: AtomicU64,
    copies: AtomicBool,
}

#[derive(Default)]
struct Progress {
    /// The phase that is noted.
    noted: Option<Phase>,
    /// The time since which the percentage has been 100.
    full_since: Option<Instant>,
    /// `true` if copying was stopped, and the next phase is noted at the next heartbeat. Copies in flight end
    /// meanwhile.
    is_stopping: bool,
}

impl LayoutChange {
    /// Creates a change whose share of moved keys is that of `rollout`.
    pub(crate) fn new(from: u16, to: u16, rollout: Rollout) -> Self {
        Self {
            from,
            to,
            rollout,
            progress: Mutex::default(),
            is_known: AtomicBool::new(false),
            share: AtomicU64::new(0),
            copies: AtomicBool::new(false),
        }
    }

    /// Checks whether it is known in which layout each key is read.
    pub(crate) fn is_known(&self) -> bool {
        self.is_known.load(Acquire)
    }

    /// Checks whether the key with this hash is read in the new layout.
    pub(crate) fn is_moved(&self, hash: u64) -> bool {
        hash % MILLION < self.share.load(Acquire)
    }

    /// Checks whether values are copied from the old layout.
    pub(crate) fn copies(&self) -> bool {
        self.copies.load(Acquire)
    }

    /// Returns the percentage of keys that are read in the new layout.
    pub(crate) fn moved_percent(&self) -> f64 {
        Rollout::percent_of(self.share.load(Acquire))
    }

    /// Returns the phases that are right for the percentage that was set, the best one first.
    pub(crate) fn wanted(&self, now: Instant) -> &'static [Phase] {
        use Phase::{Moved, Moving, Prepared};
        let share = self.rollout.moved_share();
        let mut progress = self.progress.lock();
        if share < MILLION {
            progress.full_since = None;
            return if share == 0 {
                &[Prepared, Moved]
            } else {
                &[Moving, Prepared, Moved]
            };
        }
        let since = *progress.full_since.get_or_insert(now);
        if now.duration_since(since) < COPY_TIME {
            &[Moving, Moved, Prepared]
        } else {
            &[Moved, Moving, Prepared]
        }
    }

    /// Adapts the share of keys to the percentage that was set. Returns `true` if the best phase has to be noted.
    /// Called at each heartbeat.
    pub(crate) fn adapt(&self, now: Instant) -> bool {
        let best = self.wanted(now)[0];
        let mut progress = self.progress.lock();
        let noted = progress.noted;
        if noted == Some(best) {
            progress.is_stopping = false;
            self.set(best);
            return false;
        }
        if noted == Some(Phase::Moving) && !progress.is_stopping {
            progress.is_stopping = true;
            self.set(best);
            return false;
        }
        true
    }

    /// Notes the phase in which this process is now, or `None` if the phase could not be noted. Without a note, the
    /// process acts as its settings say.
    pub(crate) fn enter(&self, phase: Option<Phase>, now: Instant) {
        let best = self.wanted(now)[0];
        let mut progress = self.progress.lock();
        if let Some(phase) = phase {
            progress.noted = Some(phase);
            progress.is_stopping = false;
            self.set(phase);
        } else if progress.noted.is_none() {
            self.set(best);
        }
    }

    /// Reads and copies as the phase requires. The caller holds the lock on the progress.
    fn set(&self, phase: Phase) {
        let share = match phase {
            Phase::Prepared => 0,
            Phase::Moving => self.rollout.moved_share(),
            Phase::Moved => MILLION,
        };
        self.copies.store(phase == Phase::Moving, Release);
        self.share.store(share, Release);
        self.is_known.store(true, Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(percent: f64) -> (LayoutChange, Rollout) {
        let rollout = Rollout::full();
        rollout.set_moved_percent(percent).unwrap();
        (LayoutChange::new(1, 16, rollout.clone()), rollout)
    }

    #[test]
    fn phase_follows_the_percentage_once_it_is_noted() {
        let ((change, rollout), now) = (change(0.0), Instant::now());
        assert!(!change.is_known() && change.adapt(now));
        change.enter(Some(Phase::Prepared), now);
        assert!(change.is_known() && !change.adapt(now));
        rollout.set_moved_percent(25.0).unwrap();
        assert!(change.adapt(now));
        assert!(!change.copies() && !change.is_moved(0));
        change.enter(Some(Phase::Moving), now);
        assert!(change.copies() && change.is_moved(249_999) && !change.is_moved(250_000));
        rollout.set_moved_percent(100.0).unwrap();
        assert!(!change.adapt(now));
        assert!(change.copies() && change.is_moved(MILLION - 1));
    }

    #[test]
    fn copies_stop_one_heartbeat_before_the_next_phase_is_noted() {
        let ((change, rollout), now) = (change(100.0), Instant::now());
        change.enter(Some(Phase::Moving), now);
        let later = now + COPY_TIME;
        assert!(!change.adapt(later));
        assert!(!change.copies() && change.is_moved(MILLION - 1));
        assert!(change.adapt(later));
        change.enter(Some(Phase::Moved), later);
        assert!(!change.adapt(later));

        rollout.set_moved_percent(50.0).unwrap();
        assert!(change.adapt(later));
        change.enter(Some(Phase::Moving), later);
        rollout.set_moved_percent(0.0).unwrap();
        assert!(!change.adapt(later));
        assert!(!change.copies() && !change.is_moved(0));
        assert!(change.adapt(later));
    }

    #[test]
    fn refused_phase_is_replaced_by_the_one_that_is_noted() {
        let ((change, _), now) = (change(50.0), Instant::now());
        assert_eq!(change.wanted(now)[0], Phase::Moving);
        change.enter(Some(Phase::Prepared), now);
        assert!(!change.copies() && !change.is_moved(0));
        assert!(change.adapt(now), "the wanted phase is tried again");
        change.enter(None, now);
        assert!(!change.copies() && !change.is_moved(0));
    }

    #[test]
    fn settings_decide_if_the_phase_cannot_be_noted() {
        let ((change, _), now) = (change(50.0), Instant::now());
        change.enter(None, now);
        assert!(change.is_known() && change.copies() && change.is_moved(499_999));
    }
}
