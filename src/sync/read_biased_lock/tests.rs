use super::*;
use crate::clock::until;
use crate::sync::thread_slot::tests::on_live_threads;
use std::cell::OnceCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Barrier, mpsc};
use std::thread;

#[test]
fn readers_see_no_partial_write() {
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
                        assert!(
                            words[0] >= last,
                            "an earlier value was read after a later one"
                        );
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
fn readers_with_slots_in_several_chunks_and_writers_exclude_each_other() {
    let lock = ReadBiasedLock::new((0u64, 0u64));
    let numbers = AtomicUsize::new(0);
    on_live_threads(136, || {
        let is_writer = numbers.fetch_add(1, SeqCst) % 8 == 0;
        for _ in 0..500 {
            if is_writer {
                let mut pair = lock.write();
                pair.0 += 1;
                pair.1 += 1;
            } else {
                lock.read(|pair| assert_eq!(pair.0, pair.1));
            }
        }
    });
    assert_eq!(lock.read(|pair| pair.0), 136 / 8 * 500);
}

#[test]
fn reads_of_200_live_threads_do_not_take_the_underlying_lock() {
    let lock = lock_with(GRANTED);
    let underlying = lock.underlying.write();
    let published = on_live_threads(200, || {
        let reader = lock.publish(ThreadSlot::current());
        reader.is_some_and(|value| *value == 0)
    });
    assert_eq!(published, [true; 200]);
    drop(underlying);
}

#[test]
fn writer_finds_the_reader_in_each_of_200_slots() {
    let (lock, turn) = (lock_with(GRANTED), Mutex::new(()));
    on_live_threads(200, || {
        let _turn = turn.lock();
        let reader = lock.publish(ThreadSlot::current());
        assert!(reader.is_some() && lock.try_write().is_none());
    });
    assert!(lock.try_write().is_some());
}

#[test]
fn bias_is_granted_after_one_read_for_four_slots_in_use() {
    let reads = on_live_threads(400, || {
        let lock = ReadBiasedLock::new(0);
        let read = || {
            lock.read(|_| ());
            lock.read_bias.load(SeqCst) == REVOKED
        };
        1 + std::iter::repeat_with(read)
            .take_while(|&revoked| revoked)
            .count()
    });
    // Other tests in this process may have threads as well.
    assert!(
        reads.iter().all(|reads| (100..1_000).contains(reads)),
        "{reads:?}"
    );
    assert_eq!(
        [0, 1, 64, 68, 2_000].map(reads_before_bias),
        [16, 16, 16, 17, 500]
    );
}

/// Reads a lock when it is dropped.
struct ReadOnDrop(Arc<ReadBiasedLock<i32>>, mpsc::Sender<i32>);

impl Drop for ReadOnDrop {
    fn drop(&mut self) {
        self.1.send(self.0.read(|value| *value)).unwrap();
    }
}

/// Thread-local variables are dropped in an unspecified order, so one is initialized before the slot is assigned and
/// one afterwards. One of the two is dropped when the slot is free.
#[test]
fn destructor_that_runs_after_the_slot_was_freed_reads_through_the_underlying_lock() {
    thread_local! {
        static FIRST: OnceCell<ReadOnDrop> = const { OnceCell::new() };
        static LAST: OnceCell<ReadOnDrop> = const { OnceCell::new() };
    }
    let lock = Arc::new(lock_with(GRANTED));
    let (values, read) = mpsc::channel();
    let on_drop = || ReadOnDrop(Arc::clone(&lock), values.clone());
    let (first, last) = (on_drop(), on_drop());
    let thread = thread::spawn(|| {
        FIRST.with(|variable| assert!(variable.set(first).is_ok()));
        let _ = ThreadSlot::current();
        LAST.with(|variable| assert!(variable.set(last).is_ok()));
    });
    thread.join().unwrap();
    assert_eq!([read.recv(), read.recv()], [Ok(0), Ok(0)]);
    *lock.write() = 1;
}

/// Returns a lock that was read until its bias had this value.
fn lock_with(bias: u32) -> ReadBiasedLock<i32> {
    let lock = ReadBiasedLock::new(0);
    while lock.read_bias.load(SeqCst) != bias {
        lock.read(|_| ());
    }
    lock
}

#[test]
fn reads_grant_the_bias_and_a_write_revokes_it() {
    let lock = lock_with(GRANTED);
    *lock.write() += 1;
    assert_eq!(lock.read_bias.load(SeqCst), REVOKED);
    for _ in 1..MIN_READS_BEFORE_BIAS {
        lock.read(|_| assert_eq!(lock.read_bias.load(SeqCst), REVOKED));
    }
    while lock.read_bias.load(SeqCst) != GRANTED {
        lock.read(|_| ());
    }
    *lock.write() += 1;
    assert_eq!(lock.read_bias.load(SeqCst), REVOKED);
    assert_eq!(lock.read(|value| *value), 2);
}

#[test]
fn read_inside_a_read_proceeds_while_a_writer_waits() {
    read_inside_a_read(&lock_with(GRANTED), &lock_with(GRANTED));
}

fn read_inside_a_read(lock: &ReadBiasedLock<i32>, other: &ReadBiasedLock<i32>) {
    let (reading, is_reading) = mpsc::channel();
    thread::scope(|scope| {
        scope.spawn(move || {
            lock.read(|_| {
                reading.send(()).unwrap();
                until(|| lock.read_bias.load(SeqCst) == REVOKED);
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
fn thread_that_would_wait_for_itself_panics_and_the_lock_stays_usable() {
    for bias in [REVOKED, GRANTED] {
        thread_that_would_wait_for_itself(&lock_with(bias), &lock_with(bias));
    }
}

fn thread_that_would_wait_for_itself(lock: &ReadBiasedLock<i32>, other: &ReadBiasedLock<i32>) {
    let panics = |f: &dyn Fn()| {
        let message = catch_unwind(AssertUnwindSafe(f)).expect_err("it returned");
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

/// Without nested waiters this is a deadlock. It has too many spinning threads for a model.
#[test]
fn nested_readers_in_opposite_order_and_writers_do_not_deadlock() {
    nested_readers_in_opposite_order(&[lock_with(GRANTED), lock_with(GRANTED)]);
}

fn nested_readers_in_opposite_order(locks: &[ReadBiasedLock<i32>; 2]) {
    let (reading, revoked) = (Barrier::new(4), AtomicBool::new(false));
    let both_are_being_written = || {
        let being_written = |lock: &ReadBiasedLock<_>| lock.read_bias.load(SeqCst) == REVOKED;
        revoked.fetch_or(locks.iter().all(being_written), SeqCst) || revoked.load(SeqCst)
    };
    thread::scope(|scope| {
        for [first, second] in [[0, 1], [1, 0]].map(|order| order.map(|at| &locks[at])) {
            let (reading, ready) = (&reading, &both_are_being_written);
            scope.spawn(move || {
                first.read(|_| {
                    reading.wait();
                    until(ready);
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
fn writer_that_waits_for_a_slow_reader_uses_little_processor_time() {
    let lock = lock_with(GRANTED);
    let (reading, is_reading) = mpsc::channel();
    let read_time = std::time::Duration::from_millis(200);
    let waited = thread::scope(|scope| {
        scope.spawn(|| {
            lock.read(|_| {
                reading.send(()).unwrap();
                until(|| lock.read_bias.load(SeqCst) == REVOKED);
                let until = processor_time() + read_time;
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
    assert!(waited < read_time / 10, "{waited:?}");
}

/// A nested reader waits for the parked writer, and the first reader waits for the nested one. If the writer did not
/// release the underlying lock, none of them would return.
#[test]
fn parked_writer_releases_the_lock_for_a_nested_waiter() {
    let (lock, other) = (lock_with(GRANTED), lock_with(GRANTED));
    let (reading, is_reading) = mpsc::channel();
    let read_both = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            lock.read(|_| {
                reading.send(()).unwrap();
                until(|| read_both.load(SeqCst));
            });
        });
        is_reading.recv().unwrap();
        scope.spawn(|| *lock.write() = 1);
        until(|| lock.parked_writer.lock().is_some());
        other.read(|_| lock.read(|_| ()));
        read_both.store(true, SeqCst);
    });
    assert_eq!(lock.read(|value| *value), 1);
}

#[test]
fn panic_in_a_reader_or_a_writer_releases_the_lock() {
    let lock = ReadBiasedLock::new(0);
    let _ = catch_unwind(AssertUnwindSafe(|| lock.read(|_| panic!("reader"))));
    let _ = catch_unwind(AssertUnwindSafe(|| {
        let _guard = lock.write();
        panic!("writer");
    }));
    *lock.write() += 1;
    assert_eq!(lock.read(|value| *value), 1);
}
