//! A reader-writer lock for data that is read far more often than written.
//!
//! But for the first few after a write, a reader writes to no memory that another reader reads: it
//! announces itself in a slot of its own thread, one array for the whole process, by storing the
//! lock's address there. A writer
//! closes the lock's `gate` and waits until no slot holds the lock's address. Kin: Linux's brlock,
//! folly's `SharedMutex` with deferred readers, BRAVO (Dice and Kogan, USENIX ATC 2019).
//!
//! Entering is Dekker's handshake. The reader stores to its slot, then loads the gate; the writer
//! stores to the gate, then loads the slots. All four are sequentially consistent, so at least one
//! of the two sees the other: a reader that finds the gate closed takes its slot back and waits on
//! an ordinary `RwLock` that the writer holds meanwhile; a writer that sees a reader waits.
//!
//! A writer leaves the gate closed, and readers open it again once a few have come with no write
//! between. So what is written to again and again is that ordinary `RwLock` and nothing more: its
//! writers look for nobody in the slots, which its readers do not write to.
//!
//! Readers with no slot, or whose slot announces another lock, use the `RwLock` throughout.
//!
//! A writer that sees a reader spins for a moment, then parks. A reader that leaves looks at the gate, whose
//! cache line it has read before; only if it is closed does a writer wait, which the reader then unparks. Between
//! its store to the slot and its load of the gate the reader has no fence, which would cost each hit as much as
//! all else that it does, so a processor that delays the store may let it miss a writer that closes the gate in
//! the same moment. A park is therefore limited: to 50 microseconds at first, then to twice as long each time, up
//! to 10 milliseconds. A missed wake-up delays the writer by about as long as it has waited, and a writer that
//! waits for seconds takes less than a thousandth of them in processor time.
//!
//! User code under a lock (`Clone`, `Eq`, a `get_with` closure) may come here again, and must not
//! close a circle of those who wait for each other:
//!
//! - A thread that reads what it is reading already just goes on.
//! - A thread that reads something else may have to wait for a writer, who waits for readers, who
//!   wait for what this thread reads. It says that it is *urgent*, and a writer who waits gives way.
//! - A thread that reads or writes anything and wants to write, or writes and would have to wait to
//!   read, panics.
//!
//! This is the only file with `unsafe` code, and these are its invariants:
//!
//! - G: the gate is changed only by who holds `fallback`: closed for writing, and opened for reading
//!   or where it cannot be closed. Since no reader by its slot comes in while it is closed, there is
//!   none in once the one who closed it has seen none.
//! - W: a `WriteGuard` exists only while its thread holds `fallback` for writing, the gate is
//!   closed, and after every slot was seen without this lock's address since it was closed.
//! - R: a `ReadGuard` exists only while its thread's slot holds the lock's address and the gate was
//!   seen open since it was put there. The closure of `read` runs only while there is one, or while
//!   this thread holds `fallback` for reading, or inside such a closure of the same thread and lock.
#![allow(unsafe_code)]

mod primitives;

use crate::held::{Held, assert_holds_nothing, is_exclusive, is_reading, refuse};
use crate::thread_slot::{NOBODY, ThreadSlot, in_use};
use primitives::{
    AtomicU32, AtomicUsize, Backoff, Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard, Thread,
    UnsafeCell,
};
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::Ordering::{Relaxed, Release, SeqCst};

/// What the gate may be.
const CLOSED: u32 = 0;
const OPEN: u32 = 1;

/// How many reads after the last write open the gate: about as many as cost together what the next
/// writer saves by not looking for readers.
const OPEN_AFTER: u32 = primitives::OPEN_AFTER;

/// What a reader reads comes first, what only the others need last.
#[repr(C)]
pub(crate) struct ReaderLock<T> {
    gate: AtomicU32,
    /// Reads that have found the gate closed since the last write. Racing readers may lose some.
    calm: AtomicU32,
    data: UnsafeCell<T>,
    /// Held by the writer, and by readers who cannot announce themselves.
    fallback: RwLock<()>,
    /// How many wait for `fallback` while they read another lock.
    urgent: AtomicUsize,
    /// The writer that has closed the gate and is about to park, or has. It holds `fallback`, so there is one
    /// at most.
    parked: Mutex<Option<Thread>>,
}

// SAFETY: as for `std::sync::RwLock`: readers share `&T` (`T: Sync`) and a writer gets `&mut T` on
// whichever thread it runs (`T: Send`); invariants W and R keep the two apart.
unsafe impl<T: Send + Sync> Sync for ReaderLock<T> {}

impl<T> ReaderLock<T> {
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
    /// If this thread is writing to a lock, and would have to wait.
    pub(crate) fn read<R>(&self, read: impl FnOnce(&T) -> R) -> R {
        let slot = ThreadSlot::current();
        match self.announce(slot) {
            Some(data) => read(&data),
            None => self.read_unannounced(slot, read),
        }
    }

    /// The first half of [`read`](Self::read), for who wants no closure in between: shares the data
    /// if that takes no more than an announcement. `None` if the gate is closed, or the slot is not
    /// idle; then there is [`read_unannounced`](Self::read_unannounced).
    ///
    /// It is the reader's half of the handshake; the other is in `close`.
    #[inline(always)]
    pub(crate) fn announce(&self, slot: ThreadSlot) -> Option<ReadGuard<'_, T>> {
        let announced = slot.announced();
        // That the gate is asked before as well saves a store where it is closed, and no more.
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
        // Otherwise the guard takes the announcement back.
        (self.gate.load(SeqCst) == OPEN).then_some(guard)
    }

    /// The second half of [`read`](Self::read).
    #[inline(never)]
    pub(crate) fn read_unannounced<R>(&self, slot: ThreadSlot, read: impl FnOnce(&T) -> R) -> R {
        let nested = slot.announced().load(Relaxed) == self.address();
        let _permit = (!nested).then(|| self.permit());
        // SAFETY: the second or third case of invariant R, while `_permit` lives or the outer
        // reader runs. By W there is no `WriteGuard`: one that was before ended with a release of
        // `fallback` that we have acquired, and one to come waits for `fallback` or our slot.
        self.data.with(|data| read(unsafe { &*data }))
    }

    /// Takes `fallback` for reading, and notes that this thread does.
    #[inline]
    fn permit(&self) -> (Held, RwLockReadGuard<'_, ()>) {
        let permit = if is_exclusive() {
            self.permit_at_once()
        } else if is_reading() {
            self.permit_urgently()
        } else {
            self.fallback.read()
        };
        self.note_calm();
        (Held::reading(), permit)
    }

    /// For a thread that writes something: it may read, but not wait.
    #[cold]
    fn permit_at_once(&self) -> RwLockReadGuard<'_, ()> {
        let permit = self.fallback.try_read_recursive();
        permit.unwrap_or_else(|| refuse("wait for a writer of"))
    }

    #[cold]
    fn permit_urgently(&self) -> RwLockReadGuard<'_, ()> {
        // The writer whom we wait for may wait for one who waits for what we read.
        self.urgent.fetch_add(1, SeqCst);
        self.unpark_writer();
        let permit = self.fallback.read_recursive();
        self.urgent.fetch_sub(1, SeqCst);
        permit
    }

    /// Notes that a read has come by `fallback`, and opens the gate if that was enough of them since
    /// it was closed. The caller holds `fallback` for reading, so there is no writer.
    fn note_calm(&self) {
        if self.gate.load(Relaxed) == OPEN {
            return;
        }
        let calm = self.calm.load(Relaxed) + 1;
        if calm < OPEN_AFTER {
            self.calm.store(calm, Relaxed);
        } else {
            // A release: who sees the gate open sees what was written before it was closed.
            self.gate.store(OPEN, Release);
        }
    }

    /// Waits until nobody else reads or writes, and keeps all out while the guard lives.
    ///
    /// # Panics
    ///
    /// If this thread reads or writes any lock.
    #[inline]
    pub(crate) fn write(&self) -> WriteGuard<'_, T> {
        assert_holds_nothing("write to");
        loop {
            let permit = self.fallback.write();
            if self.close(true) {
                return self.guard(permit);
            }
            drop(permit);
            let mut backoff = Backoff::new();
            while self.urgent.load(SeqCst) > 0 {
                backoff.pause();
            }
        }
    }

    /// As [`write`](Self::write), but gives up where that would wait.
    pub(crate) fn try_write(&self) -> Option<WriteGuard<'_, T>> {
        let permit = self.fallback.try_write()?;
        self.close(false).then(|| self.guard(permit))
    }

    /// The writer's half of the handshake. `false`, and the gate is not closed, if there are readers
    /// in and it is not to wait for them, or must not since an urgent one is to go first.
    #[inline]
    fn close(&self, wait: bool) -> bool {
        // Relaxed: by invariant G nobody changes a closed gate while we hold `fallback`.
        self.gate.load(Relaxed) == CLOSED || self.close_on_readers(wait)
    }

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

    /// Returns whether no slot has this lock's address any more.
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

    fn is_reader(&self, slot: &AtomicUsize) -> bool {
        slot.load(SeqCst) == self.address()
    }

    /// Waits until the reader with this slot has left, or another has become urgent, or for a while.
    #[cold]
    fn park(&self, backoff: &mut Backoff, slot: &AtomicUsize) {
        *self.parked.lock() = Some(primitives::current());
        primitives::fence();
        // A thread that did not see this one in `parked` had made its change by then, so the change is seen here.
        if self.is_reader(slot) && self.urgent.load(SeqCst) == 0 {
            backoff.park();
        }
        *self.parked.lock() = None;
    }

    /// Wakes the writer that waits for readers, if there is one.
    #[cold]
    #[inline(never)]
    fn unpark_writer(&self) {
        if let Some(writer) = &*self.parked.lock() {
            writer.unpark();
        }
    }

    fn guard<'a>(&'a self, permit: RwLockWriteGuard<'a, ()>) -> WriteGuard<'a, T> {
        self.calm.store(0, Relaxed);
        WriteGuard {
            lock: self,
            _held: Held::exclusively(),
            _permit: permit,
            _not_send: PhantomData,
        }
    }

    fn address(&self) -> usize {
        std::ptr::from_ref(self) as usize
    }
}

/// Shared access by an announcement. Not `Send`: the slot is the thread's.
pub(crate) struct ReadGuard<'a, T> {
    lock: &'a ReaderLock<T>,
    /// The thread's slot, which holds the lock's address.
    announced: &'static AtomicUsize,
    _not_send: PhantomData<*const ()>,
}

impl<T> Deref for ReadGuard<'_, T> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        // SAFETY: this is the first case of invariant R. By the handshake it holds until `drop` clears the slot,
        // so for as long as the reference is borrowed. By W there is no `WriteGuard` meanwhile. An earlier writer
        // released `fallback`; the thread that opened the gate afterwards had acquired `fallback`, and this thread
        // has acquired the gate, so the writes happened before. A later writer waits for this thread's slot.
        self.lock.data.with(|data| unsafe { &*data })
    }
}

/// Lets writers in. This happens also when a reader panics.
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

/// Exclusive access. Not `Send`: re-entry is told by the thread.
pub(crate) struct WriteGuard<'a, T> {
    lock: &'a ReaderLock<T>,
    _held: Held,
    _permit: RwLockWriteGuard<'a, ()>,
    _not_send: PhantomData<*const ()>,
}

impl<T> Deref for WriteGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: invariant W; the reference borrows the guard, so no `&mut` is made meanwhile.
        self.lock.data.with(|data| unsafe { &*data })
    }
}

impl<T> DerefMut for WriteGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: invariant W: no reader and no other writer is in, those that were ended with a
        // release that we have acquired, and the reference borrows the guard mutably.
        self.lock.data.with_mut(|data| unsafe { &mut *data })
    }
}

#[cfg(test)]
#[cfg(loom_models)]
mod models {
    use super::*;
    use loom::sync::Arc;
    use loom::thread;

    /// Every access goes through loom's cell, which fails a model in which a reader and a writer
    /// overlap; the two halves make torn data visible as well.
    type Pair = (usize, usize);

    fn bump(lock: &ReaderLock<Pair>) {
        let mut pair = lock.write();
        pair.0 += 1;
        pair.1 += 1;
    }

    fn check(lock: &ReaderLock<Pair>) {
        lock.read(|pair| assert_eq!(pair.0, pair.1));
    }

    fn model(run: impl Fn(Arc<ReaderLock<Pair>>) + Sync + Send + 'static) {
        let run = std::sync::Arc::new(run);
        for opened in [false, true] {
            let run = std::sync::Arc::clone(&run);
            let mut builder = loom::model::Builder::new();
            builder.preemption_bound = Some(3);
            builder.check(move || {
                let lock = Arc::new(ReaderLock::new((0, 0)));
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

    /// The reader that waits urgently has announced another lock, and the writer parks for the other reader.
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
            let other = ReaderLock::new((0, 0));
            check(&other);
            other.read(|_| check(&lock));
            for thread in [reader, writer] {
                thread.join().unwrap();
            }
        });
    }

    /// The one who writes again finds the gate closed, or opened by the reader in between.
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
        let lock = ReaderLock::new([0u64; 16]);
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
        let lock = ReaderLock::new((0u64, 0u64));
        let threads = crate::thread_slot::SLOTS + 8;
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

    /// A lock that has been read so often that its gate is this.
    fn lock_with(gate: u32) -> ReaderLock<i32> {
        let lock = ReaderLock::new(0);
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

    fn a_read_inside_a_read(lock: &ReaderLock<i32>, other: &ReaderLock<i32>) {
        let (reading, is_reading) = mpsc::channel();
        thread::scope(|scope| {
            scope.spawn(move || {
                lock.read(|_| {
                    reading.send(()).unwrap();
                    while lock.gate.load(SeqCst) != CLOSED {
                        thread::yield_now();
                    }
                    // The writer waits for us now.
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

    fn a_thread_that_would_wait_for_itself(lock: &ReaderLock<i32>, other: &ReaderLock<i32>) {
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
        // Another lock may be one of a circle.
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

    /// Without urgent readers this stops for ever. Too many threads that spin for loom.
    #[test]
    fn nested_readers_in_opposite_order_and_writers_do_not_wait_in_a_circle() {
        nested_readers_in_opposite_order(&[lock_with(OPEN), lock_with(OPEN)]);
    }

    fn nested_readers_in_opposite_order(locks: &[ReaderLock<i32>; 2]) {
        let (reading, closing) = (Barrier::new(4), AtomicBool::new(false));
        let both_are_being_written = || {
            let being_written = |lock: &ReaderLock<_>| lock.gate.load(SeqCst) == CLOSED;
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

    /// The processor time of this thread.
    #[cfg(target_os = "linux")]
    fn processor_time() -> std::time::Duration {
        use rustix::time::{ClockId, clock_gettime};

        clock_gettime(ClockId::ThreadCPUTime).try_into().unwrap()
    }

    /// The reader is busy all the time, so that both have the same share of a busy machine.
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

    /// A reader of the other lock waits for the writer. If the writer stayed parked, that reader would never return.
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
        let lock = ReaderLock::new(0);
        let _ = catch_unwind(AssertUnwindSafe(|| lock.read(|_| panic!("reader"))));
        let _ = catch_unwind(AssertUnwindSafe(|| {
            let _guard = lock.write();
            panic!("writer");
        }));
        *lock.write() += 1;
        assert_eq!(lock.read(|value| *value), 1);
    }
}
