//! The module `thread_slot` for models that run under loom.

use loom::sync::Mutex;
use loom::sync::atomic::AtomicUsize;
use loom::thread_local;
use std::sync::Arc;

/// The number of slots. It is one less than the number of threads of a model, so that one of them has no slot.
pub(crate) const SLOTS: usize = 2;
pub(crate) const NO_LOCK: usize = 0;
pub(crate) const SHARED: usize = 1;

loom::lazy_static! {
    static ref ALL: Vec<AtomicUsize> = {
        let initial = |slot| if slot < SLOTS { NO_LOCK } else { SHARED };
        (0..=SLOTS).map(|slot| AtomicUsize::new(initial(slot))).collect()
    };
    static ref FREE: Arc<Mutex<Vec<usize>>> = Arc::new(Mutex::new((0..SLOTS).rev().collect()));
}

thread_local! {
    static CURRENT: Owned = Owned {
        slot: FREE.lock().unwrap().pop(),
        free: Arc::clone(&FREE),
    };
}

struct Owned {
    slot: Option<usize>,
    /// A clone of `FREE`, which loom drops before the first thread of a model ends.
    free: Arc<Mutex<Vec<usize>>>,
}

impl Drop for Owned {
    fn drop(&mut self) {
        self.free.lock().unwrap().extend(self.slot);
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
    ALL[..SLOTS].iter()
}
