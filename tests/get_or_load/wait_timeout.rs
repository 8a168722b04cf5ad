//! A waiter's own deadline passes: `WaitTimeout`, for it alone.

use super::common::*;
use hotset::LoadError;
use std::convert::Infallible;
use std::thread;
use std::time::Instant;

fn impatient_cache() -> Cache {
    let builder = Cache::builder().capacity(100).wait_timeout(SHORT);
    builder.build().unwrap()
}

/// Waits on this thread, in vain.
fn times_out(cache: &Cache) {
    let started = Instant::now();
    let result = cache.get_or_load(&1, |_| Ok::<_, Infallible>(2));
    assert!(matches!(result, Err(LoadError::WaitTimeout)));
    assert!(started.elapsed() >= SHORT);
}

#[test]
fn a_threads_deadline_passes_for_it_alone() {
    let cache = impatient_cache();
    thread::scope(|scope| {
        let slow = LoadingThread::<Infallible>::start(scope, &cache, 1);
        times_out(&cache);
        assert_eq!(slow.finish(Ok(1)).unwrap(), 1);
    });
    assert_eq!(cache.get(&1), Some(1));
    cache.validate();
}

/// The process has timers for tasks outside a runtime, too.
#[test]
fn a_tasks_deadline_passes_for_it_alone() {
    let cache = impatient_cache();
    let slow = LoadingTask::<Infallible>::start(&cache, 1);
    let mut early = Task::<Answer>::aboard(&cache, 1);
    until(|| early.rung() == 1);
    let mut late = Task::<Answer>::aboard(&cache, 1);
    assert!(matches!(early.answer(), Err(LoadError::WaitTimeout)));
    assert_eq!(slow.finish(Ok(1)).unwrap(), 1);
    assert_eq!(late.answer().unwrap(), 1);
    assert_eq!((cache.get(&1), cache.stats().loads), (Some(1), 1));
    cache.validate();
}

#[test]
fn a_threads_deadline_is_not_that_of_a_task_that_waits_with_it() {
    let cache = impatient_cache();
    let slow = LoadingTask::<Infallible>::start(&cache, 1);
    let mut waiting = Task::<Answer>::aboard(&cache, 1);
    times_out(&cache);
    // It was asked for before its own deadline, and has the value when it looks at the time.
    assert_eq!(slow.finish(Ok(1)).unwrap(), 1);
    assert_eq!(waiting.answer().unwrap(), 1);
    cache.validate();
}

#[test]
fn a_waiter_that_was_told_to_lead_leads_though_its_deadline_has_passed() {
    let cache = impatient_cache();
    let slow = LoadingTask::<Infallible>::start(&cache, 1);
    let mut waiting = Task::ask(&cache, 1, || Ok::<_, Infallible>(2));
    waiting.must_wait();
    until(|| waiting.rung() == 1);
    drop(slow);
    assert_eq!(waiting.answer().unwrap(), 2);
    cache.validate();
}

#[test]
fn the_last_one_to_stop_waiting_leaves_nothing_behind() {
    let cache = impatient_cache();
    let slow = LoadingTask::<Infallible>::start(&cache, 1);
    times_out(&cache);
    drop(slow);
    cache.validate();
    assert_eq!(
        cache.get_or_load(&1, |_| Ok::<_, Infallible>(3)).unwrap(),
        3
    );
}

/// Polls `waiting` while two loads in turn, the first of which fails with an error of another type, take longer together
/// than the wait timeout. Returns its answer.
fn answer_after_two_slow_loads<T>(cache: &Cache, mut waiting: Task<'_, T>) -> T {
    let pause = SHORT.mul_f64(0.6);
    let failing = LoadingTask::<u16>::start(cache, 1);
    waiting.must_wait();
    thread::sleep(pause);
    assert!(failing.finish(Err(404)).is_err());
    let hanging = LoadingTask::<u16>::start(cache, 1);
    // It joins the second load, unless this machine was so busy that its deadline has passed already.
    if let Some(answer) = waiting.try_answer() {
        return answer;
    }
    thread::sleep(pause);
    let answer = waiting.answer();
    drop(hanging);
    answer
}

#[test]
fn deadline_of_a_waiter_does_not_start_again_after_an_error_of_another_type() {
    let cache = impatient_cache();
    let one = Task::ask(&cache, 1, || Err::<u32, _>("the loader was called"));
    let answer = answer_after_two_slow_loads(&cache, one);
    assert!(matches!(answer, Err(LoadError::WaitTimeout)));

    let load = |_: Vec<u32>| std::future::ready(Err::<Vec<(u32, u32)>, _>("the loader was called"));
    let batch = Task::new(cache.get_many_or_load_async(&[1], load));
    let answer = answer_after_two_slow_loads(&cache, batch);
    assert!(matches!(answer, Err(LoadError::WaitTimeout)));
    cache.validate();
}

#[cfg(feature = "tokio")]
#[test]
fn a_timer_wakes_tasks_at_their_deadlines_and_threads_have_theirs() {
    let cache = impatient_cache();
    let runtime = runtime();
    let slow = LoadingTask::<Infallible>::start(&cache, 1);
    let tasks = Tasks::spawn(&runtime, 8, || {
        let cache = cache.clone();
        async move {
            let started = Instant::now();
            let load = || async { Ok::<u32, Infallible>(2) };
            let answer = cache.get_or_load_async(&1, load).await;
            assert!(started.elapsed() >= SHORT);
            answer
        }
    });
    times_out(&cache);
    for answer in tasks.answers() {
        assert!(matches!(answer, Err(LoadError::WaitTimeout)));
    }
    assert_eq!(slow.finish(Ok(1)).unwrap(), 1);
    assert_eq!(cache.get(&1), Some(1));
    cache.validate();
}
