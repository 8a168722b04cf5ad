//! The module `thread_slot` for models that run under loom.

use crate::sync::model_fence;
use crate::sync::slot_assignment::SlotAssignment;
use loom::sync::Mutex;
use loom::sync::atomic::AtomicUsize;
use loom::thread_local;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};

/// The number of slots. It is one less than the number of threads of a model, so that one of them has no slot.
const SLOTS: usize = 2;
pub(crate) const NO_LOCK: usize = 0;
pub(crate) const SHARED: usize = 1;

loom::lazy_static! {
    static ref ALL: Vec<AtomicUsize> = {
        let initial = |slot| if slot < SLOTS { NO_LOCK } else { SHARED };
        (0..=SLOTS).map(|slot| AtomicUsize::new(initial(slot))).collect()
    };
    static ref ASSIGNMENT: Arc<Assignment> = Arc::new(Assignment {
        slots: Mutex::new(SlotAssignment::new()),
        high_water: AtomicUsize::new(0),
    });
}

thread_local! {
    static CURRENT: Owned = {
        let assignment = Arc::clone(&ASSIGNMENT);
        let slot = assignment.change(|slots| slots.assign(SLOTS));
        Owned { slot, assignment }
    };
}

/// The indices of the slots that are owned, and their high-water mark.
struct Assignment {
    slots: Mutex<SlotAssignment>,
    high_water: AtomicUsize,
}

impl Assignment {
    /// Changes the assignment, and stores the new high-water mark.
    fn change<R>(&self, change: impl FnOnce(&mut SlotAssignment) -> R) -> R {
        let mut slots = self.slots.lock().unwrap();
        let result = change(&mut slots);
        self.high_water.store(slots.high_water(), SeqCst);
        model_fence();
        result
    }
}

struct Owned {
    slot: Option<usize>,
    /// A clone of `ASSIGNMENT`, which loom drops before the first thread of a model ends.
    assignment: Arc<Assignment>,
}

impl Drop for Owned {
    fn drop(&mut self) {
        if let Some(slot) = self.slot {
            self.assignment.change(|slots| slots.release(slot));
        }
    }
}

#[derive(Clone, Copy)]
pub(crate) struct ThreadSlot(usize);

impl ThreadSlot {
    pub(crate) fn current() -> Self {
        Self(CURRENT.with(|owned| owned.slot.unwrap_or(SLOTS)))
    }

    pub(crate) fn published_lock(self) -> &'static AtomicUsize {
        &ALL[self.0]
    }

    pub(crate) fn index(self) -> usize {
        self.0
    }
}

pub(crate) fn slots_in_use() -> impl Iterator<Item = &'static AtomicUsize> {
    ALL[..ASSIGNMENT.high_water.load(SeqCst)].iter()
}

pub(crate) fn count_in_use() -> usize {
    ASSIGNMENT.high_water.load(Relaxed)
}
