//! Models of the lock, which loom runs in all interleavings.

use super::*;
use loom::sync::Arc;
use loom::thread;

/// Data in two halves, which make a torn read visible. Each access goes through loom's cell, which also fails a
/// model in which a reader and a writer overlap.
type Pair = (usize, usize);

/// Writes to both halves.
fn bump(lock: &ReadBiasedLock<Pair>) {
    let mut pair = lock.write();
    pair.0 += 1;
    pair.1 += 1;
}

/// Reads, and checks that both halves are equal.
fn check(lock: &ReadBiasedLock<Pair>) {
    lock.read(|pair| assert_eq!(pair.0, pair.1));
}

/// Runs a model on a lock with and without read bias.
fn model(run: impl Fn(Arc<ReadBiasedLock<Pair>>) + Sync + Send + 'static) {
    let run = std::sync::Arc::new(run);
    for biased in [false, true] {
        let run = std::sync::Arc::clone(&run);
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(3);
        builder.check(move || {
            let lock = Arc::new(ReadBiasedLock::new((0, 0)));
            if biased {
                check(&lock);
            }
            run(lock);
        });
    }
}

#[test]
fn reader_and_writer_exclude_each_other() {
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
fn two_readers_one_without_a_slot_and_a_writer_exclude_each_other() {
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
fn nested_reader_does_not_wait_for_a_waiting_writer() {
    model(|lock| {
        let reader = thread::spawn({
            let lock = Arc::clone(&lock);
            move || lock.read(|_| check(&lock))
        });
        bump(&lock);
        reader.join().unwrap();
    });
}

/// The nested waiter reads another lock, and the writer parks because of the other reader.
#[test]
fn nested_waiter_unparks_a_writer() {
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

/// The second write finds the bias still revoked, or granted again by the reader in between.
#[test]
fn two_reads_and_two_writes_exclude_each_other() {
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
fn slot_that_is_reused_by_another_thread_excludes_writers() {
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
fn write_inside_a_read_panics_while_a_writer_waits() {
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
fn try_write_and_write_exclude_each_other() {
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
