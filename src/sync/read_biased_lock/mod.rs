//! A reader-writer lock for data that is read far more often than it is written.
//!
//! Except for the first few reads after a write, a reader writes to no memory that another reader reads. It
//! announces itself by storing the lock's address in a slot of its own thread. One array contains the slots of all
//! threads of the process. A writer closes the lock's `gate` and waits until no slot contains the lock's address.
//! Similar designs are Linux's brlock, folly's `SharedMutex` with deferred readers, and BRAVO (Dice and Kogan, USENIX
//! ATC 2019).
//!
//! A reader enters by Dekker's handshake. The reader stores to its slot, then loads the gate. The writer stores to
//! the gate, then loads the slots. All four accesses are sequentially consistent, so at least one of the two sees the
//! other. A reader that finds the gate closed clears its slot and waits on an ordinary `RwLock`, which the writer
//! holds meanwhile. A writer that sees a reader waits.
//!
//! A writer leaves the gate closed. Readers open it again after a few reads without a write between them. Data that
//! is written again and again is therefore protected by the `RwLock` alone: its readers do not store to the slots,
//! and its writers do not look at them.
//!
//! Readers without a slot, and readers whose slot announces another lock, always use the `RwLock`.
//!
//! A writer that sees a reader spins briefly, then parks. A reader that leaves loads the gate, whose cache line it has
//! read before. A writer can only wait if the gate is closed, and the reader then unparks it. The reader has no fence
//! between its store to the slot and its load of the gate, because a fence would cost each hit as much as the rest of
//! the hit. A processor that delays the store may therefore let the reader miss a writer that closes the gate in the
//! same moment. For this reason each park has a time limit: 50 microseconds at first, then twice as long each time, up
//! to 10 milliseconds. A missed wake-up delays the writer by about as long as it has waited already. A writer that
//! waits for seconds uses less than a thousandth of them as processor time.
//!
//! User code under a lock (`Clone`, `Eq`, a `get_with` closure) may call a cache again. It must not cause a deadlock:
//!
//! - A thread that reads a lock again while it reads it proceeds at once.
//! - A thread that reads another lock may have to wait for a writer. Through other waiting threads, that writer may
//!   wait for this thread. The thread therefore counts as *urgent* while it waits, and a waiting writer gives way.
//! - A thread that reads or writes any lock panics if it tries to write. A thread that writes panics if it tries to
//!   read and would have to wait.
//!
//! This is the only file with `unsafe` code. These are its invariants:
//!
//! - G: Only a thread that holds `fallback` changes the gate. A thread that holds it for writing closes the gate, and
//!   opens it again if it may not wait for the readers that are in. A thread that holds it for reading opens the gate.
//!   No reader enters by its slot while the gate is closed. Once the thread that closed it has seen no reader in any
//!   slot, there is none until the gate opens.
//! - W: A `WriteGuard` exists only while its thread holds `fallback` for writing and the gate is closed. Each slot was
//!   seen without this lock's address after the gate was closed and before the guard was created.
//! - R: A `ReadGuard` exists only while its thread's slot contains the lock's address. The gate was seen open after
//!   the address was stored there. The closure of `read` runs only in one of three cases. First, its thread has a
//!   `ReadGuard` of this lock. Second, its thread holds `fallback` for reading. Third, it runs inside another reader of
//!   the same thread and lock, which ends later.
#![allow(unsafe_code)]

mod primitives;

use crate::sync::read_biased_lock::primitives::{
    AtomicU32, AtomicUsize, Backoff, Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard, Thread,
    UnsafeCell,
};
use crate::sync::reentrancy::{
    LockGuardMark, assert_holds_nothing, is_exclusive, is_reading, refuse,
};
use crate::sync::thread_slot::{NOBODY, ThreadSlot, in_use};
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::Ordering::{Relaxed, Release, SeqCst};

/// The gate's value while no reader may enter by its slot.
const CLOSED: u32 = 0;
/// The gate's value while readers enter by their slots.
const OPEN: u32 = 1;

/// The number of reads after the last write that open the gate. Together they cost about as much as the next writer
/// saves by not looking at the slots.
const OPEN_AFTER: u32 = primitives::OPEN_AFTER;

/// A reader-writer lock. The fields that each reader loads come first, and those that only other threads need last.
#[repr(C)]
pub(crate) struct ReadBiasedLock<T> {
    /// [`OPEN`] or [`CLOSED`].
    gate: AtomicU32,
    /// The number of reads that have found the gate closed since the last write. Racing readers may lose some.
    calm: AtomicU32,
    data: UnsafeCell<T>,
    /// Held by the writer, and by readers that cannot announce themselves.
    fallback: RwLock<()>,
    /// The number of threads that wait for `fallback` while they read another lock.
    urgent: AtomicUsize,
    /// The writer that has closed the gate and is parked or about to park. It holds `fallback`, so there is at most
    /// one.
    parked: Mutex<Option<Thread>>,
}

// SAFETY: The bounds are those of `std::sync::RwLock`. Readers share `&T`, which needs `T: Sync`. A writer gets
// `&mut T` on any thread, which needs `T: Send`. Invariants W and R exclude that there are both at a time.
unsafe impl<T: Send + Sync> Sync for ReadBiasedLock<T> {}

impl<T> ReadBiasedLock<T> {
    /// Creates a lock whose gate is closed.
    pub(crate) fn new(data: T) -> Self {
        Self {
            gate: AtomicU32::new(CLOSED),
            calm: AtomicU32::new(0),
            fallback: RwLock::new(()),
            urgent: AtomicUsize::new(0),
            parked: Mutex::new(None),
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
        match self.announce(slot) {
            Some(data) => read(&data),
            None => self.read_unannounced(slot, read),
        }
    }

    /// Announces a reader and returns its access to the data, or `None` if the gate is closed or the slot announces a
    /// reader already. After `None`, the caller continues with [`read_unannounced`](Self::read_unannounced).
    ///
    /// This is the first half of [`read`](Self::read), for callers that want no closure in between. It is also the
    /// reader's side of the handshake; the writer's side is `close_on_readers`.
    #[inline(always)]
    pub(crate) fn announce(&self, slot: ThreadSlot) -> Option<ReadGuard<'_, T>> {
        let announced = slot.announced();
        // The check of the gate only avoids a store when it is closed; correctness does not depend on it. The check of
        // the slot is necessary, because the announcement of another lock must not be overwritten.
        if self.gate.load(Relaxed) != OPEN || announced.load(Relaxed) != NOBODY {
            return None;
        }
        announced.swap(self.address(), SeqCst);
        primitives::fence();
        let guard = ReadGuard {
            lock: self,
            announced,
            _not_send: PhantomData,
        };
        // If the gate is closed, the guard is dropped here and clears the slot.
        (self.gate.load(SeqCst) == OPEN).then_some(guard)
    }

    /// Runs `read` on the data after [`announce`](Self::announce) has returned `None`.
    ///
    /// # Panics
    ///
    /// Panics if this thread writes to a lock and would have to wait.
    #[inline(never)]
    pub(crate) fn read_unannounced<R>(&self, slot: ThreadSlot, read: impl FnOnce(&T) -> R) -> R {
        let nested = slot.announced().load(Relaxed) == self.address();
        let _permit = (!nested).then(|| self.permit());
        // SAFETY: This is the second case of invariant R while `_permit` lives, or the third case while the outer
        // reader runs. By W there is no `WriteGuard` meanwhile. An earlier writer released `fallback`, and this thread
        // has acquired that release, directly or through the gate. A later writer waits for `fallback` or for this
        // thread's slot.
        self.data.with(|data| read(unsafe { &*data }))
    }

    /// Acquires `fallback` for reading, and records that this thread holds it.
    #[inline]
    fn permit(&self) -> (LockGuardMark, RwLockReadGuard<'_, ()>) {
        let permit = if is_exclusive() {
            self.permit_at_once()
        } else if is_reading() {
            self.permit_urgently()
        } else {
            self.fallback.read()
        };
        self.note_calm();
        (LockGuardMark::reading(), permit)
    }

    /// Acquires `fallback` for a thread that writes to a lock, and that may therefore read but not wait.
    ///
    /// # Panics
    ///
    /// Panics if the thread would have to wait.
    #[cold]
    fn permit_at_once(&self) -> RwLockReadGuard<'_, ()> {
        let permit = self.fallback.try_read_recursive();
        permit.unwrap_or_else(|| refuse("wait for a writer of"))
    }

    /// Acquires `fallback` for a thread that reads another lock.
    #[cold]
    fn permit_urgently(&self) -> RwLockReadGuard<'_, ()> {
        // The writer that this thread waits for may wait for this thread, through others that wait. It gives way.
        self.urgent.fetch_add(1, SeqCst);
        self.unpark_writer();
        let permit = self.fallback.read_recursive();
        self.urgent.fetch_sub(1, SeqCst);
        permit
    }

    /// Counts a read through `fallback`, and opens the gate if there were enough of them since it was closed. The
    /// caller holds `fallback` for reading, so there is no writer.
    fn note_calm(&self) {
        if self.gate.load(Relaxed) == OPEN {
            return;
        }
        let calm = self.calm.load(Relaxed) + 1;
        if calm < OPEN_AFTER {
            self.calm.store(calm, Relaxed);
        } else {
            // A release, so that a thread which sees the gate open also sees what was written while it was closed.
            self.gate.store(OPEN, Release);
        }
    }

    /// Waits until no other thread reads or writes, and excludes all of them while the guard lives.
    ///
    /// # Panics
    ///
    /// Panics if this thread reads or writes any lock.
    #[inline]
    pub(crate) fn write(&self) -> WriteGuard<'_, T> {
        assert_holds_nothing("write to");
        loop {
            let permit = self.fallback.write();
            if self.close(true) {
                return self.guard(permit);
            }
            // An urgent reader goes first.
            drop(permit);
            let mut backoff = Backoff::new();
            while self.urgent.load(SeqCst) > 0 {
                backoff.pause();
            }
        }
    }

    /// Like [`write`](Self::write), but returns `None` instead of waiting.
    pub(crate) fn try_write(&self) -> Option<WriteGuard<'_, T>> {
        let permit = self.fallback.try_write()?;
        self.close(false).then(|| self.guard(permit))
    }

    /// Closes the gate, and waits for readers that are in if `wait` is set. The caller holds `fallback` for writing.
    ///
    /// Returns `false`, and leaves the gate open, if a reader is in and `wait` is not set, or if an urgent reader has
    /// to go first.
    #[inline]
    fn close(&self, wait: bool) -> bool {
        // Relaxed suffices: by invariant G no other thread changes a closed gate while this one holds `fallback`.
        self.gate.load(Relaxed) == CLOSED || self.close_on_readers(wait)
    }

    /// Closes an open gate. This is the writer's side of the handshake.
    #[cold]
    fn close_on_readers(&self, wait: bool) -> bool {
        self.gate.swap(CLOSED, SeqCst);
        primitives::fence();
        let left = self.readers_have_left(wait);
        if !left {
            self.gate.store(OPEN, Release);
        }
        left
    }

    /// Checks whether all readers with slots have left, and waits for them if `wait` is set and no reader is urgent.
    fn readers_have_left(&self, wait: bool) -> bool {
        in_use().all(|slot| {
            let mut backoff = Backoff::new();
            while self.is_reader(slot) {
                if !wait || self.urgent.load(SeqCst) > 0 {
                    return false;
                }
                if !backoff.spin() {
                    self.park(&mut backoff, slot);
                }
            }
            true
        })
    }

    /// Checks whether this slot announces a reader of this lock.
    fn is_reader(&self, slot: &AtomicUsize) -> bool {
        slot.load(SeqCst) == self.address()
    }

    /// Parks until the reader with this slot has left, another reader is urgent, or the time limit of the park passes.
    #[cold]
    fn park(&self, backoff: &mut Backoff, slot: &AtomicUsize) {
        *self.parked.lock() = Some(primitives::current());
        primitives::fence();
        // A thread that does not find this writer in `parked` has changed its slot or `urgent` before it looked. The
        // change is then visible here.
        if self.is_reader(slot) && self.urgent.load(SeqCst) == 0 {
            backoff.park();
        }
        *self.parked.lock() = None;
    }

    /// Unparks the writer that waits for readers, if there is one.
    #[cold]
    #[inline(never)]
    fn unpark_writer(&self) {
        if let Some(writer) = &*self.parked.lock() {
            writer.unpark();
        }
    }

    /// Returns the guard of a writer that has excluded all other threads.
    fn guard<'a>(&'a self, permit: RwLockWriteGuard<'a, ()>) -> WriteGuard<'a, T> {
        self.calm.store(0, Relaxed);
        WriteGuard {
            lock: self,
            _held: LockGuardMark::exclusively(),
            _permit: permit,
            _not_send: PhantomData,
        }
    }

    fn address(&self) -> usize {
        std::ptr::from_ref(self) as usize
    }
}

/// Shared access by an announcement. It is not `Send`, because the slot belongs to the thread.
pub(crate) struct ReadGuard<'a, T> {
    lock: &'a ReadBiasedLock<T>,
    /// The thread's slot, which contains the lock's address.
    announced: &'static AtomicUsize,
    _not_send: PhantomData<*const ()>,
}

impl<T> Deref for ReadGuard<'_, T> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        // SAFETY: This is the first case of invariant R. It lasts until `drop` clears the slot, so longer than the
        // borrow of the reference. By the handshake and W there is no `WriteGuard` meanwhile. An earlier writer
        // released `fallback`. The thread that opened the gate afterwards had acquired that release, and this thread
        // has acquired the gate, so the writes happened before. A later writer waits for this thread's slot.
        self.lock.data.with(|data| unsafe { &*data })
    }
}

/// Clears the slot, and unparks a writer that waits. This also happens when the reader panics.
impl<T> Drop for ReadGuard<'_, T> {
    #[inline(always)]
    fn drop(&mut self) {
        self.announced.store(NOBODY, Release);
        primitives::reader_fence();
        if self.lock.gate.load(Relaxed) != OPEN {
            self.lock.unpark_writer();
        }
    }
}

/// Exclusive access. It is not `Send`, because re-entry is detected by the thread.
pub(crate) struct WriteGuard<'a, T> {
    lock: &'a ReadBiasedLock<T>,
    _held: LockGuardMark,
    _permit: RwLockWriteGuard<'a, ()>,
    _not_send: PhantomData<*const ()>,
}

impl<T> Deref for WriteGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: By invariant W no reader and no other writer is in, and earlier writers ended with a release that
        // this thread has acquired. The reference borrows the guard, so there is no `&mut` meanwhile.
        self.lock.data.with(|data| unsafe { &*data })
    }
}

impl<T> DerefMut for WriteGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: By invariant W no reader and no other writer is in. Earlier ones ended with a release that this
        // thread has acquired. The reference borrows the guard mutably, so there is no other reference meanwhile.
        self.lock.data.with_mut(|data| unsafe { &mut *data })
    }
}

#[cfg(test)]
#[cfg(loom_models)]
mod models {
    use super::*;
    use loom::sync::Arc;
    use loom::thread;

    /// Data in two halves, which make a torn read visible. Each access goes through loom's cell, which also fails a
    /// model in which a reader and a writer overlap.
    type Pair = (usize, usize);

    fn bump(lock: &ReadBiasedLock<Pair>) {
        let mut pair = lock.write();
        pair.0 += 1;
        pair.1 += 1;
    }

    fn check(lock: &ReadBiasedLock<Pair>) {
        lock.read(|pair| assert_eq!(pair.0, pair.1));
    }

    fn model(run: impl Fn(Arc<ReadBiasedLock<Pair>>) + Sync + Send + 'static) {
        let run = std::sync::Arc::new(run);
        for opened in [false, true] {
            let run = std::sync::Arc::clone(&run);
            let mut builder = loom::model::LocalCacheBuilder::new();
            builder.preemption_bound = Some(3);
            builder.check(move || {
                let lock = Arc::new(ReadBiasedLock::new((0, 0)));
                if opened {
                    check(&lock);
                }
                run(lock);
            });
        }
    }

    #[test]
    fn a_reader_against_a_writer() {
        model(|lock| {
            let reader = thread::spawn({
                let lock = Arc::clone(&lock);
                move || check(&lock)
            });
            bump(&lock);
            reader.join().unwrap();
        });
    }

    #[test]
    fn two_readers_and_a_writer_one_without_a_slot() {
        model(|lock| {
            let readers = [(); 2].map(|()| {
                let lock = Arc::clone(&lock);
                thread::spawn(move || check(&lock))
            });
            bump(&lock);
            for reader in readers {
                reader.join().unwrap();
            }
        });
    }

    #[test]
    fn a_nested_reader_does_not_wait_for_a_waiting_writer() {
        model(|lock| {
            let reader = thread::spawn({
                let lock = Arc::clone(&lock);
                move || lock.read(|_| check(&lock))
            });
            bump(&lock);
            reader.join().unwrap();
        });
    }

    /// The urgent reader has announced another lock, and the writer parks because of the other reader.
    #[test]
    fn an_urgent_reader_unparks_a_writer() {
        model(|lock| {
            let reader = thread::spawn({
                let lock = Arc::clone(&lock);
                move || check(&lock)
            });
            let writer = thread::spawn({
                let lock = Arc::clone(&lock);
                move || bump(&lock)
            });
            let other = ReadBiasedLock::new((0, 0));
            check(&other);
            other.read(|_| check(&lock));
            for thread in [reader, writer] {
                thread.join().unwrap();
            }
        });
    }

    /// The second write finds the gate closed, or opened by the reader in between.
    #[test]
    fn a_reader_that_comes_twice_against_a_writer_that_does() {
        model(|lock| {
            let reader = thread::spawn({
                let lock = Arc::clone(&lock);
                move || {
                    check(&lock);
                    check(&lock);
                }
            });
            bump(&lock);
            bump(&lock);
            reader.join().unwrap();
        });
    }

    #[test]
    fn a_slot_that_passes_from_one_reader_to_the_next() {
        model(|lock| {
            let readers = thread::spawn({
                let lock = Arc::clone(&lock);
                move || {
                    let read = move |lock: Arc<_>| thread::spawn(move || check(&lock));
                    read(Arc::clone(&lock)).join().unwrap();
                    read(lock).join().unwrap();
                }
            });
            bump(&lock);
            readers.join().unwrap();
        });
    }

    #[test]
    fn a_reader_that_wants_to_write_while_a_writer_waits() {
        use std::panic::{AssertUnwindSafe, catch_unwind};

        model(|lock| {
            let reader = thread::spawn({
                let lock = Arc::clone(&lock);
                move || lock.read(|_| catch_unwind(AssertUnwindSafe(|| bump(&lock))).unwrap_err())
            });
            bump(&lock);
            reader.join().unwrap();
            check(&lock);
        });
    }

    #[test]
    fn two_writers_one_of_which_gives_up() {
        model(|lock| {
            let writer = thread::spawn({
                let lock = Arc::clone(&lock);
                move || bump(&lock)
            });
            if let Some(mut pair) = lock.try_write() {
                pair.0 += 1;
                pair.1 += 1;
            }
            check(&lock);
            writer.join().unwrap();
        });
    }
}

#[cfg(test)]
#[cfg(not(loom_models))]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::Barrier;
    use std::sync::atomic::AtomicBool;
    use std::sync::mpsc;
    use std::thread;

    #[test]
    fn readers_never_see_half_a_write() {
        let lock = ReadBiasedLock::new([0u64; 16]);
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let writers: Vec<_> = (0..2)
                .map(|_| {
                    scope.spawn(|| {
                        for _ in 0..50_000 {
                            let mut words = lock.write();
                            let next = words[0] + 1;
                            words.iter_mut().for_each(|word| *word = next);
                        }
                    })
                })
                .collect();
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut last = 0;
                    while !done.load(Relaxed) {
                        lock.read(|words| {
                            assert!(words.iter().all(|&word| word == words[0]), "{words:?}");
                            assert!(words[0] >= last, "time went back");
                            last = words[0];
                        });
                    }
                });
            }
            for writer in writers {
                writer.join().unwrap();
            }
            done.store(true, Relaxed);
        });
        assert_eq!(lock.read(|words| words[15]), 100_000);
    }

    #[test]
    fn readers_without_a_slot_are_kept_apart_from_writers_too() {
        let lock = ReadBiasedLock::new((0u64, 0u64));
        let threads = crate::sync::thread_slot::SLOTS + 8;
        let gate = Barrier::new(threads);
        thread::scope(|scope| {
            for thread in 0..threads {
                let (lock, gate) = (&lock, &gate);
                scope.spawn(move || {
                    let _ = ThreadSlot::current();
                    gate.wait();
                    for _ in 0..500 {
                        if thread % 8 == 0 {
                            let mut pair = lock.write();
                            pair.0 += 1;
                            pair.1 += 1;
                        } else {
                            lock.read(|pair| assert_eq!(pair.0, pair.1));
                        }
                    }
                });
            }
        });
        assert_eq!(lock.read(|pair| pair.0), threads.div_ceil(8) as u64 * 500);
    }

    /// Returns a lock that was read until its gate had this value.
    fn lock_with(gate: u32) -> ReadBiasedLock<i32> {
        let lock = ReadBiasedLock::new(0);
        while lock.gate.load(SeqCst) != gate {
            lock.read(|_| ());
        }
        lock
    }

    #[test]
    fn reads_open_the_gate_and_a_write_closes_it() {
        let lock = lock_with(OPEN);
        *lock.write() += 1;
        assert_eq!(lock.gate.load(SeqCst), CLOSED);
        for _ in 1..OPEN_AFTER {
            lock.read(|_| assert_eq!(lock.gate.load(SeqCst), CLOSED));
        }
        lock.read(|_| assert_eq!(lock.gate.load(SeqCst), OPEN));
        *lock.write() += 1;
        assert_eq!(lock.gate.load(SeqCst), CLOSED);
        assert_eq!(lock.read(|value| *value), 2);
    }

    #[test]
    fn a_read_inside_a_read_goes_on_while_a_writer_waits() {
        a_read_inside_a_read(&lock_with(OPEN), &lock_with(OPEN));
    }

    fn a_read_inside_a_read(lock: &ReadBiasedLock<i32>, other: &ReadBiasedLock<i32>) {
        let (reading, is_reading) = mpsc::channel();
        thread::scope(|scope| {
            scope.spawn(move || {
                lock.read(|_| {
                    reading.send(()).unwrap();
                    while lock.gate.load(SeqCst) != CLOSED {
                        thread::yield_now();
                    }
                    // The writer waits for this thread now.
                    lock.read(|value| assert_eq!(*value, 0));
                    other.read(|_| lock.read(|_| other.read(|value| assert_eq!(*value, 0))));
                });
            });
            is_reading.recv().unwrap();
            *lock.write() = 1;
        });
        assert_eq!(lock.read(|value| *value), 1);
    }

    #[test]
    fn a_thread_that_would_wait_for_itself_panics_and_the_lock_lives_on() {
        for gate in [CLOSED, OPEN] {
            a_thread_that_would_wait_for_itself(&lock_with(gate), &lock_with(gate));
        }
    }

    fn a_thread_that_would_wait_for_itself(
        lock: &ReadBiasedLock<i32>,
        other: &ReadBiasedLock<i32>,
    ) {
        let panics = |f: &dyn Fn()| {
            let message = catch_unwind(AssertUnwindSafe(f)).expect_err("it went on");
            message
                .downcast_ref::<String>()
                .unwrap()
                .contains("from inside a cache")
        };
        assert!(panics(&|| lock.read(|_| *lock.write() = 1)));
        assert!(panics(&|| other.read(|_| lock.read(|_| *lock.write() = 1))));
        assert!(panics(&|| {
            let _guard = lock.write();
            lock.read(|_| ());
        }));
        assert!(panics(&|| {
            let _guard = lock.write();
            *lock.write() = 1;
        }));
        // Another lock may be part of a circle of waiting threads.
        assert!(panics(&|| lock.read(|_| *other.write() = 1)));
        assert!(panics(&|| {
            let _guard = lock.write();
            *other.write() = 1;
        }));
        lock.read(|_| assert!(lock.try_write().is_none()));
        *lock.write() += 1;
        *other.write() += 1;
        assert_eq!(lock.read(|value| *value) + other.read(|value| *value), 2);
    }

    /// Without urgent readers this is a deadlock. It has too many spinning threads for a model.
    #[test]
    fn nested_readers_in_opposite_order_and_writers_do_not_wait_in_a_circle() {
        nested_readers_in_opposite_order(&[lock_with(OPEN), lock_with(OPEN)]);
    }

    fn nested_readers_in_opposite_order(locks: &[ReadBiasedLock<i32>; 2]) {
        let (reading, closing) = (Barrier::new(4), AtomicBool::new(false));
        let both_are_being_written = || {
            let being_written = |lock: &ReadBiasedLock<_>| lock.gate.load(SeqCst) == CLOSED;
            closing.fetch_or(locks.iter().all(being_written), SeqCst) || closing.load(SeqCst)
        };
        thread::scope(|scope| {
            for [first, second] in [[0, 1], [1, 0]].map(|order| order.map(|at| &locks[at])) {
                let (reading, ready) = (&reading, &both_are_being_written);
                scope.spawn(move || {
                    first.read(|_| {
                        reading.wait();
                        while !ready() {
                            thread::yield_now();
                        }
                        second.read(|_| ());
                    });
                });
                scope.spawn(move || {
                    reading.wait();
                    *first.write() += 1;
                });
            }
        });
        for lock in locks {
            assert_eq!(lock.read(|value| *value), 1);
        }
    }

    /// Returns the processor time that this thread has used.
    #[cfg(target_os = "linux")]
    fn processor_time() -> std::time::Duration {
        use rustix::time::{ClockId, clock_gettime};

        clock_gettime(ClockId::ThreadCPUTime).try_into().unwrap()
    }

    /// The reader is busy all the time and both times are processor times, so that a busy machine delays both alike.
    #[cfg(target_os = "linux")]
    #[test]
    fn writer_that_waits_for_a_slow_reader_takes_next_to_no_processor_time() {
        let lock = lock_with(OPEN);
        let (reading, is_reading) = mpsc::channel();
        let held_for = std::time::Duration::from_millis(200);
        let waited = thread::scope(|scope| {
            scope.spawn(|| {
                lock.read(|_| {
                    reading.send(()).unwrap();
                    while lock.gate.load(SeqCst) != CLOSED {
                        thread::yield_now();
                    }
                    let until = processor_time() + held_for;
                    while processor_time() < until {}
                });
            });
            is_reading.recv().unwrap();
            let writer = scope.spawn(|| {
                *lock.write() = 1;
                processor_time()
            });
            writer.join().unwrap()
        });
        assert!(waited < held_for / 10, "{waited:?}");
    }

    /// A nested reader waits for the parked writer, and the first reader waits for the nested one. If the writer did
    /// not give way, none of them would return.
    #[test]
    fn parked_writer_makes_way_for_an_urgent_reader() {
        let (lock, other) = (lock_with(OPEN), lock_with(OPEN));
        let (reading, is_reading) = mpsc::channel();
        let read_both = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                lock.read(|_| {
                    reading.send(()).unwrap();
                    while !read_both.load(SeqCst) {
                        thread::yield_now();
                    }
                });
            });
            is_reading.recv().unwrap();
            scope.spawn(|| *lock.write() = 1);
            while lock.parked.lock().is_none() {
                thread::yield_now();
            }
            other.read(|_| lock.read(|_| ()));
            read_both.store(true, SeqCst);
        });
        assert_eq!(lock.read(|value| *value), 1);
    }

    #[test]
    fn a_panic_in_a_reader_or_a_writer_lets_others_in() {
        let lock = ReadBiasedLock::new(0);
        let _ = catch_unwind(AssertUnwindSafe(|| lock.read(|_| panic!("reader"))));
        let _ = catch_unwind(AssertUnwindSafe(|| {
            let _guard = lock.write();
            panic!("writer");
        }));
        *lock.write() += 1;
        assert_eq!(lock.read(|value| *value), 1);
    }
}
