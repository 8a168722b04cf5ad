//! A reader-writer lock for data that is read far more often than it is written.
//!
//! Except in the first few reads after a write, a reader writes to no memory that another reader accesses. It publishes
//! the lock's address in the slot of its own thread. A writer revokes the lock's *read bias* and waits until no slot of
//! any thread of the process contains the lock's address. Similar designs are Linux's brlock, folly's `SharedMutex`
//! with deferred readers, and BRAVO (Dice and Kogan, USENIX ATC 2019), from which the terms are taken.
//!
//! Reader and writer exclude each other with Dekker's algorithm, here called the *handshake*. The reader stores to its
//! slot, then loads the bias. The writer stores to the bias, then loads the slots. All four accesses are sequentially
//! consistent, so at least one of the two sees the other. A reader that finds the bias revoked clears its slot and
//! acquires the *underlying* lock, an ordinary `RwLock`, which the writer holds while it writes. A writer that sees a
//! reader waits for it.
//!
//! The bias stays revoked after a write. Readers grant it again after a few reads without a write between them.
//! Frequently written data is therefore protected by the underlying lock alone: its readers do not store to the slots,
//! and its writers do not check the slots.
//!
//! The bias is granted after one read for every four slots in use, and after 16 reads at least. A writer that revokes
//! it checks every slot, also those of idle threads. So it checks at most four slots for each of the reads before it,
//! however many threads there are.
//!
//! A reader without its own slot, or whose slot already contains another lock, always uses the underlying lock. A
//! thread has no slot only while its last destructors run.
//!
//! A writer that sees a reader spins briefly, then parks. When a reader ends, it clears its slot and loads the bias,
//! whose cache line it has read before. If the bias is revoked, a writer may be waiting, and the reader unparks it.
//! There is no fence between this store and this load, because a fence would cost as much as the rest of a hit. If the
//! processor delays the store, the reader can miss a writer that revokes the bias at the same moment. For this reason
//! each park has a time limit: 50 microseconds at first, doubled each time, up to 10 milliseconds. A missed wake-up
//! delays the writer by about as long as it has already waited. Even a writer that waits for seconds uses less than a
//! thousandth of that time on the processor.
//!
//! User code under a lock (`Clone`, `Eq`, a `get_with` closure) may call a cache again. These rules prevent deadlocks:
//!
//! - A thread that already reads a lock can read the same lock again without waiting.
//! - A thread that reads one lock and then reads a second one may have to wait for a writer. That writer may in turn
//!   wait for this thread, directly or through other threads. While the thread waits, it therefore counts as a *nested
//!   waiter* of the second lock, and a writer that waits for readers of that lock releases it.
//! - A thread that reads or writes any lock panics if it calls `write`. A thread that writes panics if it calls `read`
//!   and would have to wait.
//!
//! This is the only module with `unsafe` code. These are its invariants:
//!
//! - B: Only a thread that holds `underlying` changes the bias. A thread that holds it for writing revokes the bias,
//!   and grants it again if it gives up waiting for active readers. A thread that holds it for reading may only grant
//!   the bias. No reader enters through its slot while the bias is revoked. Once the thread that revoked it has seen no
//!   reader in any slot, there is none until the bias is granted again.
//! - W: A `WriteGuard` exists only while its thread holds `underlying` for writing and the bias is revoked. Each slot
//!   was seen without this lock's address after the bias was revoked and before the guard was created.
//! - R: A `ReadGuard` exists only while its thread's slot contains the lock's address. The bias was seen granted after
//!   the address was stored there. The closure of `read` runs only in one of three cases. First, its thread has a
//!   `ReadGuard` of this lock. Second, its thread holds `underlying` for reading. Third, it runs inside another reader
//!   of the same thread and lock, which ends later.
#![allow(unsafe_code)]

#[cfg(test)]
#[cfg(loom_models)]
mod models;
mod primitives;
#[cfg(test)]
#[cfg(not(loom_models))]
mod tests;

use crate::sync::model_fence;
use crate::sync::read_biased_lock::primitives::{
    AtomicU32, AtomicUsize, Backoff, MIN_READS_BEFORE_BIAS, Mutex, RwLock, RwLockReadGuard,
    RwLockWriteGuard, Thread, UnsafeCell,
};
use crate::sync::reentrancy::{
    LockGuardMark, assert_no_lock_held, holds_no_unpublished_lock, is_reading, is_writing,
    panic_on_reentry,
};
use crate::sync::thread_slot::{NO_LOCK, SHARED, ThreadSlot, count_in_use, slots_in_use};
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::Ordering::{Relaxed, Release, SeqCst};

/// The value of the read bias while no reader may enter through its slot.
const REVOKED: u32 = 0;
/// The value of the read bias while readers may enter through their slots.
const GRANTED: u32 = 1;
/// The number of slots in use for each read that is necessary to grant the read bias again.
const SLOTS_PER_READ: usize = 4;

/// A reader-writer lock. The fields that each reader loads come first, and those that only other threads need last.
#[repr(C)]
pub(crate) struct ReadBiasedLock<T> {
    /// [`GRANTED`] or [`REVOKED`].
    read_bias: AtomicU32,
    /// The number of reads that have found the bias revoked since the last write. Some reads may not be counted,
    /// because readers race.
    reads_since_write: AtomicU32,
    /// The lock held by the writer, and by readers that cannot use their slots. It is on the same cache line as the
    /// bias and the first fields of the data, so that a writer needs few lines that another one has written.
    underlying: RwLock<()>,
    data: UnsafeCell<T>,
    /// The number of threads that wait for `underlying` while they read another lock.
    nested_waiters: AtomicUsize,
    /// The writer that has revoked the bias and is parked or about to park. It holds `underlying`, so there is at most
    /// one.
    parked_writer: Mutex<Option<Thread>>,
}

// SAFETY: The bounds are those of `std::sync::RwLock`. Readers share `&T`, which needs `T: Sync`. A writer gets
// `&mut T` on any thread, which needs `T: Send`. By invariants W and R there are never both at the same time.
unsafe impl<T: Send + Sync> Sync for ReadBiasedLock<T> {}

impl<T> ReadBiasedLock<T> {
    /// Creates a lock whose read bias is revoked.
    pub(crate) fn new(data: T) -> Self {
        Self {
            read_bias: AtomicU32::new(REVOKED),
            reads_since_write: AtomicU32::new(0),
            underlying: RwLock::new(()),
            nested_waiters: AtomicUsize::new(0),
            parked_writer: Mutex::new(None),
            data: UnsafeCell::new(data),
        }
    }

    /// Runs `read` on the data, shared with other readers.
    ///
    /// # Panics
    ///
    /// Panics if this thread writes to a lock and would have to wait.
    pub(crate) fn read<R>(&self, read: impl FnOnce(&T) -> R) -> R {
        let slot = ThreadSlot::current();
        match self.publish(slot) {
            Some(data) => read(&data),
            None => self.read_unpublished(slot, read),
        }
    }

    /// Publishes a reader in its slot and returns its access to the data, or `None` if the bias is revoked or the slot
    /// contains a lock already. After `None`, the caller continues with [`read_unpublished`](Self::read_unpublished).
    ///
    /// This is the first half of [`read`](Self::read), for callers that avoid the closure for speed. It is also the
    /// reader's side of the handshake; the writer's side is `revoke_granted_bias`.
    #[inline(always)]
    pub(crate) fn publish(&self, slot: ThreadSlot) -> Option<ReadGuard<'_, T>> {
        let published = slot.published_lock();
        // The check of the bias only avoids a store when it is revoked; correctness does not depend on it. The check of
        // the slot is necessary, because the address of another lock must not be overwritten.
        if self.read_bias.load(Relaxed) != GRANTED || published.load(Relaxed) != NO_LOCK {
            return None;
        }
        published.swap(self.address(), SeqCst);
        model_fence();
        let guard = ReadGuard {
            lock: self,
            published,
            _not_send: PhantomData,
        };
        // If the bias is revoked, the guard is dropped here and clears the slot.
        (self.read_bias.load(SeqCst) == GRANTED).then_some(guard)
    }

    /// Runs `read` on the data after [`publish`](Self::publish) has returned `None`.
    ///
    /// # Panics
    ///
    /// Panics if this thread writes to a lock and would have to wait.
    #[inline(always)]
    pub(crate) fn read_unpublished<R>(&self, slot: ThreadSlot, read: impl FnOnce(&T) -> R) -> R {
        let published = slot.published_lock().load(Relaxed);
        let underlying = if published == NO_LOCK && holds_no_unpublished_lock() {
            // Most reads take this path: the thread holds no lock, so it may wait for this one.
            let guard = self.underlying.read();
            Some((LockGuardMark::reading(), guard))
        } else {
            self.lock_nested(published)
        };
        if underlying.is_some() && self.read_bias.load(Relaxed) != GRANTED {
            self.count_read();
        }
        // SAFETY: This is the second case of invariant R while `underlying` lives. Without `underlying` it is the
        // third case, while the outer reader runs. By W there is no `WriteGuard` meanwhile. An earlier writer released
        // `underlying`, and this thread has acquired that release, directly or through the bias. A later writer waits
        // for `underlying` or for this thread's slot.
        self.data.with(|data| read(unsafe { &*data }))
    }

    /// Acquires `underlying` for reading, for a thread that may hold other locks. Returns `None` if the thread reads
    /// this lock already, through its slot, which contains `published`.
    #[cold]
    #[inline(never)]
    fn lock_nested(&self, published: usize) -> Option<(LockGuardMark, RwLockReadGuard<'_, ()>)> {
        if published == self.address() {
            return None;
        }
        if published == SHARED {
            // The thread gets a slot for its next reads.
            ThreadSlot::current();
        }
        let guard = if is_writing() {
            self.lock_without_waiting()
        } else if is_reading() {
            self.lock_as_nested_waiter()
        } else {
            self.underlying.read()
        };
        Some((LockGuardMark::reading(), guard))
    }

    /// Acquires `underlying` for a thread that writes to a lock, and that may therefore read but not wait.
    ///
    /// # Panics
    ///
    /// Panics if the thread would have to wait.
    #[cold]
    fn lock_without_waiting(&self) -> RwLockReadGuard<'_, ()> {
        let guard = self.underlying.try_read_recursive();
        guard.unwrap_or_else(|| panic_on_reentry("wait for a writer of"))
    }

    /// Acquires `underlying` for a thread that reads another lock.
    #[cold]
    fn lock_as_nested_waiter(&self) -> RwLockReadGuard<'_, ()> {
        // The writer that this thread waits for may itself wait for this thread, through other waiting threads. A
        // writer that sees a nested waiter releases `underlying`.
        self.nested_waiters.fetch_add(1, SeqCst);
        self.unpark_writer();
        let guard = self.underlying.read_recursive();
        self.nested_waiters.fetch_sub(1, SeqCst);
        guard
    }

    /// Counts a read through `underlying`, and grants the bias if there were enough such reads since the last write.
    /// The caller holds `underlying` for reading, so there is no writer.
    #[inline]
    fn count_read(&self) {
        let reads = self.reads_since_write.load(Relaxed) + 1;
        if (reads as usize) < reads_before_bias(count_in_use()) {
            self.reads_since_write.store(reads, Relaxed);
        } else {
            // `Release`, so that a thread that sees the bias granted also sees all writes that were made while it was
            // revoked.
            self.read_bias.store(GRANTED, Release);
        }
    }

    /// Acquires exclusive access. Waits until no other thread reads or writes.
    ///
    /// # Panics
    ///
    /// Panics if this thread reads or writes any lock.
    #[inline(always)]
    pub(crate) fn write(&self) -> WriteGuard<'_, T> {
        assert_no_lock_held("write to");
        let mut underlying = self.underlying.write();
        if self.read_bias.load(Relaxed) != REVOKED {
            underlying = self.revoke_bias_for_write(underlying);
        }
        self.guard(underlying)
    }

    /// Revokes the read bias like [`revoke_bias`](Self::revoke_bias), and waits for the active readers. While there are
    /// nested waiters, releases `underlying` for them.
    #[cold]
    #[inline(never)]
    fn revoke_bias_for_write<'a>(
        &'a self,
        mut underlying: RwLockWriteGuard<'a, ()>,
    ) -> RwLockWriteGuard<'a, ()> {
        while !self.revoke_bias(true) {
            drop(underlying);
            let mut backoff = Backoff::new();
            while self.nested_waiters.load(SeqCst) > 0 {
                backoff.pause();
            }
            underlying = self.underlying.write();
        }
        underlying
    }

    /// Like [`write`](Self::write), but returns `None` instead of waiting.
    pub(crate) fn try_write(&self) -> Option<WriteGuard<'_, T>> {
        let underlying = self.underlying.try_write()?;
        self.revoke_bias(false).then(|| self.guard(underlying))
    }

    /// Revokes the read bias. If `wait` is set, waits for the active readers. The caller holds `underlying` for
    /// writing.
    ///
    /// Returns `false`, and leaves the bias granted, if a reader is still active and either `wait` is not set or there
    /// is a nested waiter.
    #[inline]
    fn revoke_bias(&self, wait: bool) -> bool {
        // `Relaxed` suffices, because by invariant B no other thread changes the bias while this thread holds
        // `underlying` for writing.
        self.read_bias.load(Relaxed) == REVOKED || self.revoke_granted_bias(wait)
    }

    /// Revokes a granted read bias. This is the writer's side of the handshake.
    #[cold]
    fn revoke_granted_bias(&self, wait: bool) -> bool {
        self.read_bias.swap(REVOKED, SeqCst);
        model_fence();
        let ended = self.readers_have_ended(wait);
        if !ended {
            self.read_bias.store(GRANTED, Release);
        }
        ended
    }

    /// Checks whether all readers with slots have ended. Waits for them if `wait` is set and there is no nested waiter.
    fn readers_have_ended(&self, wait: bool) -> bool {
        slots_in_use().all(|slot| {
            let mut backoff = Backoff::new();
            while self.is_reader(slot) {
                if !wait || self.nested_waiters.load(SeqCst) > 0 {
                    return false;
                }
                if !backoff.spin() {
                    self.park(&mut backoff, slot);
                }
            }
            true
        })
    }

    /// Checks whether this slot contains this lock.
    fn is_reader(&self, slot: &AtomicUsize) -> bool {
        slot.load(SeqCst) == self.address()
    }

    /// Parks until the reader with this slot has ended, there is a nested waiter, or the time limit of the park passes.
    #[cold]
    fn park(&self, backoff: &mut Backoff, slot: &AtomicUsize) {
        *self.parked_writer.lock() = Some(primitives::current());
        model_fence();
        // A thread changes its slot or `nested_waiters` before it looks for a writer in `parked_writer`. If it does not
        // find this writer there, its change is visible here.
        if self.is_reader(slot) && self.nested_waiters.load(SeqCst) == 0 {
            backoff.park();
        }
        *self.parked_writer.lock() = None;
    }

    /// Unparks the writer that waits for readers, if there is one.
    #[cold]
    #[inline(never)]
    fn unpark_writer(&self) {
        if let Some(writer) = &*self.parked_writer.lock() {
            writer.unpark();
        }
    }

    /// Creates the guard for a writer that has excluded all other threads.
    fn guard<'a>(&'a self, underlying: RwLockWriteGuard<'a, ()>) -> WriteGuard<'a, T> {
        self.reads_since_write.store(0, Relaxed);
        WriteGuard {
            lock: self,
            _mark: LockGuardMark::writing(),
            _underlying: underlying,
            _not_send: PhantomData,
        }
    }

    /// Returns the address of this lock, which identifies it in slots.
    fn address(&self) -> usize {
        std::ptr::from_ref(self) as usize
    }
}

/// Returns the number of reads after the last write that grant the read bias again, for a number of slots in use.
/// Together they cost at least as much as the next writer saves if it does not check the slots.
fn reads_before_bias(slots: usize) -> usize {
    (slots / SLOTS_PER_READ).max(MIN_READS_BEFORE_BIAS)
}

/// Shared access through a published slot. It is not `Send`, because the slot belongs to the thread.
pub(crate) struct ReadGuard<'a, T> {
    lock: &'a ReadBiasedLock<T>,
    /// The thread's slot, which contains the lock's address.
    published: &'static AtomicUsize,
    _not_send: PhantomData<*const ()>,
}

impl<T> Deref for ReadGuard<'_, T> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        // SAFETY: This is the first case of invariant R. It lasts until `drop` clears the slot, so the reference cannot
        // outlive it. By the handshake and W there is no `WriteGuard` meanwhile. An earlier writer released
        // `underlying`. The thread that granted the bias afterwards had acquired that release. This thread has seen the
        // bias granted by a load that acquires, so it sees all earlier writes. A later writer waits for this thread's
        // slot.
        self.lock.data.with(|data| unsafe { &*data })
    }
}

/// Clears the slot, and unparks a waiting writer. This also happens when the reader panics.
impl<T> Drop for ReadGuard<'_, T> {
    #[inline(always)]
    fn drop(&mut self) {
        self.published.store(NO_LOCK, Release);
        primitives::reader_fence();
        if self.lock.read_bias.load(Relaxed) != GRANTED {
            self.lock.unpark_writer();
        }
    }
}

/// Exclusive access. It is not `Send`, because reentrancy is detected per thread.
pub(crate) struct WriteGuard<'a, T> {
    lock: &'a ReadBiasedLock<T>,
    _mark: LockGuardMark,
    _underlying: RwLockWriteGuard<'a, ()>,
    _not_send: PhantomData<*const ()>,
}

impl<T> Deref for WriteGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: By invariant W there is no reader and no other writer, and earlier writers ended with a release that
        // this thread has acquired. The reference borrows the guard, so there is no `&mut` meanwhile.
        self.lock.data.with(|data| unsafe { &*data })
    }
}

impl<T> DerefMut for WriteGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: By invariant W there is no reader and no other writer. Earlier ones ended with a release that this
        // thread has acquired. The reference borrows the guard mutably, so there is no other reference meanwhile.
        self.lock.data.with_mut(|data| unsafe { &mut *data })
    }
}
