//! A waiter whose deadline passes gets `WaitTimeout`. Other waiters continue to wait.

use super::common::*;
use hotset::__private::validate;
use hotset::LoadError;
use std::convert::Infallible;
use std::thread;
use std::time::Instant;

fn cache_with_wait_timeout() -> Cache {
    let builder = Cache::builder().capacity(100).wait_timeout(SHORT_TIMEOUT);
    builder.build().unwrap()
}

/// Waits on this thread until the wait timeout.
fn times_out(cache: &Cache) {
    let started = Instant::now();
    let result = cache.get_or_load(&1, |_| Ok::<_, Infallible>(2));
    assert!(matches!(result, Err(LoadError::WaitTimeout)));
    assert!(started.elapsed() >= SHORT_TIMEOUT);
}

#[test]
fn wait_timeout_of_a_thread_concerns_that_thread_only() {
    let cache = cache_with_wait_timeout();
    thread::scope(|scope| {
        let slow = LoadingThread::<Infallible>::start(scope, &cache, 1);
        times_out(&cache);
        assert_eq!(slow.finish(Ok(1)).unwrap(), 1);
    });
    assert_eq!(cache.get(&1), Some(1));
    validate(&cache);
}

/// Outside a runtime, the timer thread of the process wakes tasks.
#[test]
fn wait_timeout_of_a_task_concerns_that_task_only() {
    let cache = cache_with_wait_timeout();
    let slow = LoadingTask::<Infallible>::start(&cache, 1);
    let mut early = Task::<Answer>::waiting(&cache, 1);
    until(|| early.wake_count() == 1);
    let mut late = Task::<Answer>::waiting(&cache, 1);
    assert!(matches!(early.answer(), Err(LoadError::WaitTimeout)));
    assert_eq!(slow.finish(Ok(1)).unwrap(), 1);
    assert_eq!(late.answer().unwrap(), 1);
    assert_eq!((cache.get(&1), cache.stats().loads), (Some(1), 1));
    validate(&cache);
}

#[test]
fn wait_timeout_of_a_thread_does_not_end_the_wait_of_a_task() {
    let cache = cache_with_wait_timeout();
    let slow = LoadingTask::<Infallible>::start(&cache, 1);
    let mut waiting = Task::<Answer>::waiting(&cache, 1);
    times_out(&cache);
    // The load completed before the deadline of the task, which gets the value when it is polled.
    assert_eq!(slow.finish(Ok(1)).unwrap(), 1);
    assert_eq!(waiting.answer().unwrap(), 1);
    validate(&cache);
}

#[test]
fn waiter_that_was_woken_to_lead_leads_after_its_deadline() {
    let cache = cache_with_wait_timeout();
    let slow = LoadingTask::<Infallible>::start(&cache, 1);
    let mut waiting = Task::ask(&cache, 1, || Ok::<_, Infallible>(2));
    waiting.must_wait();
    until(|| waiting.wake_count() == 1);
    drop(slow);
    assert_eq!(waiting.answer().unwrap(), 2);
    validate(&cache);
}

#[test]
fn last_waiter_that_times_out_leaves_no_load_behind() {
    let cache = cache_with_wait_timeout();
    let slow = LoadingTask::<Infallible>::start(&cache, 1);
    times_out(&cache);
    drop(slow);
    validate(&cache);
    assert_eq!(
        cache.get_or_load(&1, |_| Ok::<_, Infallible>(3)).unwrap(),
        3
    );
}

/// Polls `waiting` while two loads in turn, the first of which fails with an error of another type, take longer
/// together than the wait timeout. Returns its answer.
fn answer_after_two_slow_loads<T>(cache: &Cache, mut waiting: Task<'_, T>) -> T {
    let pause = SHORT_TIMEOUT.mul_f64(0.6);
    let failing = LoadingTask::<()>::start(cache, 1);
    waiting.must_wait();
    // A part of the wait timeout has to pass. Nothing in the cache shows that it has, so no condition can be awaited.
    thread::sleep(pause);
    assert!(failing.finish(Err(())).is_err());
    let hanging = LoadingTask::<()>::start(cache, 1);
    // The waiter joins the second load, unless this machine was so busy that its deadline has passed already.
    if let Some(answer) = waiting.try_answer() {
        return answer;
    }
    // The rest of the wait timeout passes.
    thread::sleep(pause);
    let answer = waiting.answer();
    drop(hanging);
    answer
}

#[test]
fn deadline_of_a_waiter_does_not_start_again_after_an_error_of_another_type() {
    let cache = cache_with_wait_timeout();
    let one = Task::ask(&cache, 1, || Err::<u32, _>("the loader was called"));
    let answer = answer_after_two_slow_loads(&cache, one);
    assert!(matches!(answer, Err(LoadError::WaitTimeout)));

    let load = |_: Vec<u32>| std::future::ready(Err::<Vec<(u32, u32)>, _>("the loader was called"));
    let batch = Task::new(cache.get_many_or_load_async(&[1], load));
    let answer = answer_after_two_slow_loads(&cache, batch);
    assert!(matches!(answer, Err(LoadError::WaitTimeout)));
    validate(&cache);
}

#[cfg(feature = "tokio")]
#[test]
fn timer_wakes_tasks_and_threads_at_their_deadlines() {
    let cache = cache_with_wait_timeout();
    let runtime = runtime();
    let slow = LoadingTask::<Infallible>::start(&cache, 1);
    let tasks = Tasks::spawn(&runtime, 8, || {
        let cache = cache.clone();
        async move {
            let started = Instant::now();
            let load = |_| async { Ok::<u32, Infallible>(2) };
            let answer = cache.get_or_load_async(&1, load).await;
            assert!(started.elapsed() >= SHORT_TIMEOUT);
            answer
        }
    });
    times_out(&cache);
    for answer in tasks.answers() {
        assert!(matches!(answer, Err(LoadError::WaitTimeout)));
    }
    assert_eq!(slow.finish(Ok(1)).unwrap(), 1);
    assert_eq!(cache.get(&1), Some(1));
    validate(&cache);
}
