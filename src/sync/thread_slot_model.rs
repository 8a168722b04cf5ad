//! `thread_slot` as loom's models see it.

use loom::sync::Mutex;
use loom::sync::atomic::AtomicUsize;
use loom::thread_local;
use std::sync::Arc;

/// One fewer than the threads of a model, so that one of them has none of its own.
pub(crate) const SLOTS: usize = 2;
pub(crate) const NOBODY: usize = 0;
pub(crate) const SHARED: usize = 1;

loom::lazy_static! {
    static ref ALL: Vec<AtomicUsize> = {
        let announced = |slot| if slot < SLOTS { NOBODY } else { SHARED };
        (0..=SLOTS).map(|slot| AtomicUsize::new(announced(slot))).collect()
    };
    static ref FREE: Arc<Mutex<Vec<usize>>> = Arc::new(Mutex::new((0..SLOTS).rev().collect()));
}

thread_local! {
    static MINE: Owned = Owned {
        slot: FREE.lock().unwrap().pop(),
        free: Arc::clone(&FREE),
    };
}

struct Owned {
    slot: Option<usize>,
    /// `FREE`, which is gone before a model's first thread ends.
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
        Self(MINE.with(|mine| mine.slot.unwrap_or(SLOTS)))
    }

    pub(crate) fn announced(self) -> &'static AtomicUsize {
        &ALL[self.0]
    }

    pub(crate) fn index(self) -> usize {
        self.0
    }
}

pub(crate) fn in_use() -> impl Iterator<Item = &'static AtomicUsize> {
    ALL[..SLOTS].iter()
}
