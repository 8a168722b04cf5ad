//! The future of `get_or_load_async`: its size, the condition for `Send`, and when it calls its loader.

use hotset::LocalCache;
use std::convert::Infallible;
use std::future::{Future, ready};
use std::mem::size_of_val;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

type Cache = LocalCache<u32, u32>;

fn poll<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// Runs a loader whose future has more than a thousand bytes.
async fn large(value: u32) -> Result<u32, Infallible> {
    let bytes = [value; 256];
    tokio::task::yield_now().await;
    Ok(bytes[255])
}

#[test]
fn future_of_get_or_load_is_small_whatever_the_size_of_the_loader() {
    let cache = Cache::new(10);
    assert!(size_of_val(&large(1)) > 1_000);
    let size = size_of_val(&cache.get_or_load_async(&1, |_| large(1)));
    assert!(size <= 96, "{size} bytes");
    let captured = [1_u8; 1_000];
    let load = |_| ready(Ok::<_, Infallible>(u32::from(captured[999])));
    let moving = cache.get_or_load_async(&1, load);
    assert!(size_of_val(&moving) <= 96, "{} bytes", size_of_val(&moving));
}

#[test]
fn future_of_get_or_load_is_send_if_the_loader_is() {
    fn assert_send<T: Send>(value: T) -> T {
        value
    }
    let cache = Cache::new(10);
    drop(assert_send(cache.get_or_load_async(&1, |_| large(1))));
}

#[test]
fn async_loader_is_called_only_on_a_miss_and_after_the_first_poll() {
    let cache = Cache::new(10);
    drop(
        cache.get_or_load_async(&1, |_| -> std::future::Ready<Result<u32, Infallible>> {
            panic!("called")
        }),
    );
    assert_eq!(cache.stats().misses, 0);
    cache.insert(1, 5);
    let mut hit = pin!(cache.get_or_load_async(&1, |_| {
        panic!("called");
        #[allow(unreachable_code)]
        ready(Ok::<_, Infallible>(0))
    }));
    assert!(matches!(poll(hit.as_mut()), Poll::Ready(Ok(5))));
}
