//! The scenarios of the models of loads.

use super::*;

/// The number of threads.
const CALLERS: usize = if cfg!(loom_models) { 3 } else { 4 };

scenarios! {
    concurrent_callers_make_one_load
    dropped_leader_is_replaced_by_one_waiter
    waiter_dropped_after_its_leader_strands_no_other_waiter
    waiter_dropped_during_completion_strands_no_other_waiter
    waiters_supersede_a_slow_leader_and_each_other
    one_of_two_waiters_supersedes_a_slow_leader
    completing_leader_is_not_superseded
    superseded_leader_does_not_store_after_an_invalidation
    superseded_leader_does_not_store_during_an_invalidation
    caller_after_an_invalidation_gets_the_new_value
    caller_after_a_clear_gets_the_new_value
    load_before_an_invalidation_is_not_stored
    load_whose_leader_is_dropped_during_an_invalidation_is_not_stored
    waiters_of_a_revoked_load_without_leader_load_the_new_value
    caller_of_a_later_epoch_gets_the_new_value
    concurrent_callers_of_two_epochs_get_new_values
    caller_of_a_third_epoch_waits_and_gets_the_newest_value
    queued_leader_is_superseded_and_there_is_one_load
    concurrent_updates_lose_no_increment
    concurrent_callers_make_one_load_on_the_short_path
    caller_after_an_invalidation_gets_the_new_value_on_the_short_path
    superseded_leader_does_not_store_after_an_invalidation_on_the_short_path
    superseded_leader_does_not_store_during_an_invalidation_on_the_short_path
    waiters_supersede_a_slow_leader_on_the_short_path
}

/// Returns the values that all threads got, this thread first.
fn all<T>(first: T, others: impl IntoIterator<Item = thread::JoinHandle<T>>) -> Vec<T> {
    let others = others.into_iter().map(|other| other.join().unwrap());
    std::iter::once(first).chain(others).collect()
}

fn concurrent_callers_make_one_load() {
    check_concurrent_callers(&Model::new());
}

fn concurrent_callers_make_one_load_on_the_short_path() {
    check_concurrent_callers(&Model::with_short_path(true));
}

fn check_concurrent_callers(model: &Arc<Model>) {
    let others: Vec<_> = (1..CALLERS).map(|_| model.spawn(Model::ask)).collect();
    let answers = all(model.ask(), others);
    assert!(answers.iter().all(|&value| value == OLD));
    model.ends_with(Some(OLD), 1..=1);
}

fn dropped_leader_is_replaced_by_one_waiter() {
    let model = Model::new();
    let leader = model.caller().lead_first();
    let others: Vec<_> = (1..CALLERS).map(|_| model.spawn(Model::ask)).collect();
    drop(leader);
    for other in others {
        assert_eq!(other.join().unwrap(), OLD);
    }
    model.ends_with(Some(OLD), 1..=1);
}

fn waiter_dropped_after_its_leader_strands_no_other_waiter() {
    let model = Model::new();
    let leader = model.caller().lead_first();
    let dropped = model.spawn(|model| model.caller().give_up());
    let others: Vec<_> = (2..CALLERS).map(|_| model.spawn(Model::ask)).collect();
    drop(leader);
    dropped.join().unwrap();
    for other in others {
        assert_eq!(other.join().unwrap(), OLD);
    }
    model.ends_with(Some(OLD), 1..=1);
}

fn waiter_dropped_during_completion_strands_no_other_waiter() {
    let model = Model::new();
    let leader = model.caller().lead_first();
    let dropped = model.spawn(|model| model.caller().give_up());
    let others: Vec<_> = (2..CALLERS).map(|_| model.spawn(Model::ask)).collect();
    let answers = all(model.caller().lead(leader, false).unwrap(), others);
    dropped.join().unwrap();
    assert!(answers.iter().all(|&value| value == OLD));
    model.ends_with(Some(OLD), 1..=1);
}

/// All timers fire at the end of the leader's lease, and then at the end of each other's.
fn waiters_supersede_a_slow_leader_and_each_other() {
    check_superseding_waiters(&Model::new());
}

fn waiters_supersede_a_slow_leader_on_the_short_path() {
    check_superseding_waiters(&Model::with_short_path(true));
}

fn check_superseding_waiters(model: &Arc<Model>) {
    let slow = Caller {
        load: Model::load_and_increment,
        ..model.caller()
    };
    let leader = slow.lead_first();
    let superseding = |model: &Model| {
        let caller = Caller {
            timer_works: true,
            load: Model::load_and_increment,
            ..model.caller()
        };
        caller.ask()
    };
    let others: Vec<_> = (1..CALLERS).map(|_| model.spawn(superseding)).collect();
    slow.lead(leader, false);
    let answers: Vec<_> = others.into_iter().map(|it| it.join().unwrap()).collect();
    let stored = model.stored();
    assert!(answers.iter().any(|&value| Some(value) == stored));
    model.ends_with(stored, 1..=CALLERS);
}

/// Callers that join after the lease of a slow leader supersede it, but not each other.
fn one_of_two_waiters_supersedes_a_slow_leader() {
    let model = Model::new();
    let slow = Caller {
        load: Model::load_and_increment,
        ..model.caller()
    };
    let leader = slow.lead_first();
    let takes_over = |model: &Model| {
        let caller = Caller {
            load: Model::load_and_increment,
            ..late(model)
        };
        caller.ask()
    };
    let others = [model.spawn(takes_over), model.spawn(takes_over)];
    slow.lead(leader, false);
    let answers = others.map(|other| other.join().unwrap());
    let stored = model.stored();
    assert!(answers.iter().any(|&value| Some(value) == stored));
    model.ends_with(stored, 1..=2);
}

/// A leader that is about to complete its load is not superseded.
fn completing_leader_is_not_superseded() {
    let model = Model::new();
    let slow = Caller {
        stores: false,
        ..model.caller()
    };
    let leader = slow.lead_first();
    let other = model.spawn(|model| late(model).ask());
    slow.lead(leader, false);
    other.join().unwrap();
    let stored = model.stored();
    model.ends_with(stored, 1..=if stored.is_some() { 2 } else { 1 });
}

fn late(model: &Model) -> Caller<'_> {
    Caller {
        now: Cell::new(model.start + LEASE),
        ..model.caller()
    }
}

/// Completes the load without its slow leader, so that no write finds it.
fn complete_late_without_storing(model: &Model) {
    let caller = Caller {
        stores: false,
        ..late(model)
    };
    caller.ask();
}

fn superseded_leader_does_not_store_after_an_invalidation() {
    check_superseded_leader_after_invalidation(&Model::new());
}

fn superseded_leader_does_not_store_after_an_invalidation_on_the_short_path() {
    check_superseded_leader_after_invalidation(&Model::with_short_path(true));
}

fn check_superseded_leader_after_invalidation(model: &Arc<Model>) {
    let slow = model.caller();
    let leader = slow.lead_first();
    let other = model.spawn(|model| {
        complete_late_without_storing(model);
        model.invalidate();
    });
    slow.lead(leader, false);
    other.join().unwrap();
    model.ends_with(None, 1..=2);
}

fn superseded_leader_does_not_store_during_an_invalidation() {
    check_superseded_leader_during_invalidation(&Model::new());
}

fn superseded_leader_does_not_store_during_an_invalidation_on_the_short_path() {
    check_superseded_leader_during_invalidation(&Model::with_short_path(true));
}

fn check_superseded_leader_during_invalidation(model: &Arc<Model>) {
    let slow = model.caller();
    let leader = slow.lead_first();
    let others = [
        model.spawn(complete_late_without_storing),
        model.spawn(Model::invalidate),
    ];
    slow.lead(leader, false);
    for other in others {
        other.join().unwrap();
    }
    model.ends_with(None, 1..=2);
}

fn check_caller_after(model: &Arc<Model>, invalidate: fn(&Model)) {
    let others: Vec<_> = (1..CALLERS).map(|_| model.spawn(Model::ask)).collect();
    invalidate(model);
    assert_eq!(model.ask(), NEW);
    for other in others {
        other.join().unwrap();
    }
    model.ends_with(Some(NEW), 1..=CALLERS);
}

fn caller_after_an_invalidation_gets_the_new_value() {
    check_caller_after(&Model::new(), Model::invalidate);
}

fn caller_after_an_invalidation_gets_the_new_value_on_the_short_path() {
    check_caller_after(&Model::with_short_path(true), Model::invalidate);
}

fn caller_after_a_clear_gets_the_new_value() {
    check_caller_after(&Model::new(), Model::clear);
}

/// After the invalidation no caller loads again, which would hide the value that an older load has stored.
fn load_before_an_invalidation_is_not_stored() {
    let model = Model::new();
    let others: Vec<_> = (1..CALLERS).map(|_| model.spawn(Model::ask)).collect();
    model.invalidate();
    for other in others {
        other.join().unwrap();
    }
    assert_ne!(model.stored(), Some(OLD));
    model.ends_with(model.stored(), 1..=CALLERS);
}

fn load_whose_leader_is_dropped_during_an_invalidation_is_not_stored() {
    let model = Model::new();
    let leader = model.caller().lead_first();
    let waiters: Vec<_> = (2..CALLERS).map(|_| model.spawn(Model::ask)).collect();
    let other = model.spawn(Model::invalidate);
    drop(leader);
    other.join().unwrap();
    for waiter in waiters {
        waiter.join().unwrap();
    }
    assert_ne!(model.stored(), Some(OLD));
    model.ends_with(model.stored(), 1..=CALLERS);
}

/// All waiters of the revoked load start again, because none may lead it.
fn waiters_of_a_revoked_load_without_leader_load_the_new_value() {
    let model = Model::new();
    let leader = model.caller().lead_first();
    let waiters: Vec<_> = (1..CALLERS).map(|_| model.spawn(Model::ask)).collect();
    model.invalidate();
    drop(leader);
    for waiter in waiters {
        assert_eq!(waiter.join().unwrap(), NEW);
    }
    model.ends_with(Some(NEW), 1..=1);
}

/// Returns the value in the database from this epoch on.
fn new_in(epoch: u64) -> u32 {
    NEW + u32::try_from(epoch).unwrap()
}

fn caller_in(model: &Model, epoch: u64) -> Caller<'_> {
    Caller {
        epoch,
        load: Model::load_one_of_two,
        ..model.caller()
    }
}

fn caller_of_a_later_epoch_gets_the_new_value() {
    let model = Model::new();
    let leader = caller_in(&model, 0).lead_first();
    let later = model.spawn(|model| {
        model.change(new_in(1));
        model.epoch.store(1, Release);
        assert_eq!(caller_in(model, 1).ask(), new_in(1));
    });
    let any = model.spawn(|model| {
        let epoch = model.epoch.load(Acquire);
        let value = caller_in(model, epoch).ask();
        assert!(epoch == 0 || value == new_in(epoch));
    });
    caller_in(&model, 0).lead(leader, false);
    later.join().unwrap();
    any.join().unwrap();
    model.ends_with(Some(new_in(1)), 1..=3);
}

fn concurrent_callers_of_two_epochs_get_new_values() {
    let model = Model::new();
    let later = |epoch| {
        model.spawn(move |model| {
            model.change(new_in(epoch));
            assert!(caller_in(model, epoch).ask() >= new_in(epoch));
        })
    };
    let others = [later(1), later(2)];
    caller_in(&model, 0).ask();
    for other in others {
        other.join().unwrap();
    }
    model.ends_with(Some(new_in(2)), 1..=3);
}

/// While two loads of different epochs run, a caller of a third epoch waits, but does not get their values.
fn caller_of_a_third_epoch_waits_and_gets_the_newest_value() {
    let model = Model::new();
    let _slow = caller_in(&model, 0).lead_first();
    model.running.store(1, Relaxed);
    model.change(new_in(1));
    let leader = caller_in(&model, 1).lead_first();
    let later = |model: &Model| {
        model.change(new_in(2));
        assert_eq!(caller_in(model, 2).ask(), new_in(2));
    };
    let others: Vec<_> = (1..CALLERS).map(|_| model.spawn(later)).collect();
    caller_in(&model, 1).lead(leader, false);
    for other in others {
        other.join().unwrap();
    }
    model.ends_with(Some(new_in(2)), 1..=2);
}

fn queued_leader_is_superseded_and_there_is_one_load() {
    let model = Model::new();
    let queued = Caller {
        permitted: Cell::new(false),
        ..model.caller()
    };
    let leader = queued.lead_first();
    let others: Vec<_> = (1..CALLERS)
        .map(|nth| {
            model.spawn(move |model| {
                let caller = Caller {
                    permitted: Cell::new(false),
                    permitted_once_it_waits: nth == 1,
                    ..model.caller()
                };
                caller.ask()
            })
        })
        .collect();
    let answers = queued.lead(leader, true).unwrap_or_else(|| queued.ask());
    assert!(all(answers, others).iter().all(|&value| value == OLD));
    model.ends_with(Some(OLD), 1..=1);
}

/// Callers that read and write as one step exclude each other, or try again.
fn concurrent_updates_lose_no_increment() {
    fn increment(model: &Model) {
        loop {
            let in_flight = &model.in_flight;
            let mut leader = in_flight.register_update(HASH, KEY, model.caller().candidate());
            let value = model.stored().unwrap_or(0);
            if model.store(&mut leader, value + 1) {
                return;
            }
        }
    }
    let model = Model::new();
    let others: Vec<_> = (1..CALLERS).map(|_| model.spawn(increment)).collect();
    increment(&model);
    for other in others {
        other.join().unwrap();
    }
    let increments = u32::try_from(CALLERS).unwrap();
    model.ends_with(Some(increments), 0..=0);
}
