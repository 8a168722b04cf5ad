//! A loader that calls for its own key gets `Recursive` and does not wait for itself. Other keys work.

use super::common::*;
use hotset::__private::validate;
use hotset::LoadError;
use std::convert::Infallible;
use std::future::{pending, ready};
use std::sync::Mutex;
use std::thread;
use tokio::task::yield_now;

fn ask_by_thread(cache: &Cache, key: u32) -> Answer {
    cache.get_or_load(&key, |_| Ok(key * 10))
}

async fn ask_by_task(cache: &Cache, key: u32) -> Answer {
    cache.get_or_load_async(&key, |_| ready(Ok(key * 10))).await
}

fn is_recursive(answer: &Answer) -> bool {
    matches!(answer, Err(LoadError::Recursive))
}

#[test]
fn blocking_loader_gets_recursive_for_its_own_key_and_other_keys_work() {
    let cache = Cache::new(10);
    let load_one = |_: &u32| {
        let two = cache.get_or_load(&2, |_| {
            // The key of an outer loader is recursive, too.
            assert!(is_recursive(&ask_by_thread(&cache, 1)));
            Ok::<_, Infallible>(20)
        });
        Ok::<_, Infallible>(two.unwrap() + 1)
    };
    assert_eq!(cache.get_or_load(&1, load_one).unwrap(), 21);
    assert_eq!((cache.get(&1), cache.get(&2)), (Some(21), Some(20)));
    validate(&cache);
}

#[test]
fn async_loader_gets_recursive_for_its_own_key_and_other_keys_work() {
    let cache = cache_with_endless_lease();
    let load_one = |_| async {
        assert!(is_recursive(&ask_by_task(&cache, 1).await));
        yield_now().await;
        // Also after it has waited, and from within another load.
        assert!(is_recursive(&ask_by_task(&cache, 1).await));
        let load_two = |_| async {
            yield_now().await;
            assert!(is_recursive(&ask_by_task(&cache, 1).await));
            Ok::<_, Infallible>(20)
        };
        let two = cache.get_or_load_async(&2, load_two).await;
        assert_eq!(ask_by_task(&cache, 3).await.unwrap(), 30);
        Ok::<_, Infallible>(two.unwrap() + 1)
    };
    let mut task = Task::new(cache.get_or_load_async(&1, load_one));
    task.must_wait();
    task.must_wait();
    assert_eq!(task.answer().unwrap(), 21);
    let cached = [1, 2, 3].map(|key| cache.get(&key));
    assert_eq!(cached, [Some(21), Some(20), Some(30)]);
    validate(&cache);
}

#[test]
fn loader_gets_recursive_before_it_has_created_its_future() {
    let cache = cache_with_endless_lease();
    let load = |_| {
        assert!(is_recursive(&ask_by_thread(&cache, 1)));
        assert!(is_recursive(&Task::new(ask_by_task(&cache, 1)).answer()));
        ready(Ok::<_, Infallible>(4))
    };
    let mut task = Task::new(cache.get_or_load_async(&1, load));
    assert_eq!(task.answer().unwrap(), 4);
    validate(&cache);
}

#[test]
fn blocking_and_async_calls_get_recursive_in_each_others_loaders() {
    let cache = cache_with_endless_lease();
    let by_thread = cache.get_or_load(&1, |_| {
        let mut inner = Task::new(ask_by_task(&cache, 1));
        assert!(is_recursive(&inner.answer()));
        Task::new(ask_by_task(&cache, 2)).answer()
    });
    assert_eq!(by_thread.unwrap(), 20);
    let load = |_| async {
        yield_now().await;
        assert!(is_recursive(&ask_by_thread(&cache, 3)));
        ask_by_thread(&cache, 4)
    };
    let mut by_task = Task::new(cache.get_or_load_async(&3, load));
    by_task.must_wait();
    assert_eq!(by_task.answer().unwrap(), 40);
    validate(&cache);
}

#[test]
fn suspended_loader_makes_no_other_task_of_its_thread_recursive() {
    let cache = cache_with_endless_lease();
    let loading = LoadingTask::<Infallible>::start(&cache, 1);
    let mut waiting = Task::<Answer>::waiting(&cache, 1);
    // Neither is the loader of another key that calls for this one.
    let mut outer = Task::new(cache.get_or_load_async(&2, |_| ask_by_task(&cache, 1)));
    outer.must_wait();
    assert_eq!(loading.finish(Ok(7)).unwrap(), 7);
    assert_eq!(waiting.answer().unwrap(), 7);
    assert_eq!(outer.answer().unwrap(), 7);
    validate(&cache);
}

#[test]
fn loader_that_moves_between_threads_is_recursive_only_on_its_current_thread() {
    let cache = cache_with_endless_lease();
    let load = |_| async {
        for _ in 0..2 {
            yield_now().await;
            assert!(is_recursive(&ask_by_task(&cache, 1).await));
        }
        Ok::<_, Infallible>(7)
    };
    let mut task = Task::new(cache.get_or_load_async(&1, load));
    task.must_wait();
    thread::scope(|scope| {
        scope.spawn(|| task.must_wait()).join().unwrap();
    });
    let mut waiting = Task::<Answer>::waiting(&cache, 1);
    assert_eq!(task.answer().unwrap(), 7);
    assert_eq!(waiting.answer().unwrap(), 7);
    validate(&cache);
}

#[test]
fn waiters_get_the_value_of_a_loader_that_got_recursive() {
    let cache = cache_with_endless_lease();
    let mut leader = Task::new(cache.get_or_load_async(&1, |_| async {
        yield_now().await;
        assert!(is_recursive(&ask_by_task(&cache, 1).await));
        yield_now().await;
        Ok::<_, Infallible>(6)
    }));
    leader.must_wait();
    let mut waiting = Task::<Answer>::waiting(&cache, 1);
    leader.must_wait();
    assert_eq!(waiting.wake_count(), 0);
    assert_eq!(leader.answer().unwrap(), 6);
    assert_eq!(waiting.answer().unwrap(), 6);
}

/// The `?` of a loader converts the recursion to its own error. The next call loads as usual.
#[test]
fn loader_that_fails_with_recursive_leaves_no_load_behind() {
    let cache = cache_with_endless_lease();
    let result = cache.get_or_load(&1, |_| ask_by_thread(&cache, 1));
    let error = result.unwrap_err();
    assert!(matches!(error.as_inner(), Some(LoadError::Recursive)));
    validate(&cache);
    assert_eq!(ask_by_thread(&cache, 1).unwrap(), 10);
}

/// A value whose destructor requests a key, and sends the answer.
struct AsksWhenDropped<'a> {
    cache: &'a Cache,
    key: u32,
    answer: &'a Mutex<Option<Answer>>,
}

impl Drop for AsksWhenDropped<'_> {
    fn drop(&mut self) {
        let answer = self.cache.get_or_load(&self.key, |_| Ok(7));
        *self.answer.lock().unwrap() = Some(answer);
    }
}

#[test]
fn destructor_of_a_cancelled_loader_gets_recursive_for_its_own_key() {
    for (key, recurses) in [(1, true), (2, false)] {
        let cache = cache_with_endless_lease();
        let answer = Mutex::new(None);
        let asks = AsksWhenDropped {
            cache: &cache,
            key,
            answer: &answer,
        };
        let load = |_| async {
            let _asks = asks;
            pending::<Result<u32, Infallible>>().await
        };
        let mut task = Task::new(cache.get_or_load_async(&1, load));
        task.must_wait();
        drop(task);
        assert_eq!(
            is_recursive(&answer.into_inner().unwrap().unwrap()),
            recurses
        );
        validate(&cache);
    }
}
