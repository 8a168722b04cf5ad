use super::*;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Barrier;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc;
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
fn readers_without_a_slot_and_writers_exclude_each_other() {
    let lock = ReadBiasedLock::new((0u64, 0u64));
    let threads = crate::sync::thread_slot::SLOTS + 8;
    let barrier = Barrier::new(threads);
    thread::scope(|scope| {
        for thread in 0..threads {
            let (lock, barrier) = (&lock, &barrier);
            scope.spawn(move || {
                let _ = ThreadSlot::current();
                barrier.wait();
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
    for _ in 1..READS_BEFORE_BIAS {
        lock.read(|_| assert_eq!(lock.read_bias.load(SeqCst), REVOKED));
    }
    lock.read(|_| assert_eq!(lock.read_bias.load(SeqCst), GRANTED));
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
                while lock.read_bias.load(SeqCst) != REVOKED {
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
fn writer_that_waits_for_a_slow_reader_uses_little_processor_time() {
    let lock = lock_with(GRANTED);
    let (reading, is_reading) = mpsc::channel();
    let read_time = std::time::Duration::from_millis(200);
    let waited = thread::scope(|scope| {
        scope.spawn(|| {
            lock.read(|_| {
                reading.send(()).unwrap();
                while lock.read_bias.load(SeqCst) != REVOKED {
                    thread::yield_now();
                }
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
                while !read_both.load(SeqCst) {
                    thread::yield_now();
                }
            });
        });
        is_reading.recv().unwrap();
        scope.spawn(|| *lock.write() = 1);
        while lock.parked_writer.lock().is_none() {
            thread::yield_now();
        }
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
