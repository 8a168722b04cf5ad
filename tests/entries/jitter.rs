//! Jitter of deadlines, and settings that the builder refuses.

use hotset::{BuildError, Loaded, LocalCache, LocalCacheBuilder, ManualClock};
use std::convert::Infallible;
use std::time::Duration;

type Cache = LocalCache<u32, u32>;

const TTL: Duration = Duration::from_secs(1_000);

fn with_jitter(fraction: f64) -> Cache {
    let builder = Cache::builder().unbounded().time_to_live(TTL);
    let builder = builder.clock(ManualClock::new()).ttl_jitter(fraction);
    builder.build().unwrap()
}

/// Returns the remaining times to live, in seconds, of entries that are stored at one time.
fn remaining_ttls(fraction: f64, store: impl Fn(&Cache, u32)) -> Vec<f64> {
    let cache = with_jitter(fraction);
    let keys = 0..10_000;
    keys.clone().for_each(|key| store(&cache, key));
    keys.map(|key| cache.remaining_ttl(&key).unwrap().as_secs_f64())
        .collect()
}

#[test]
fn deadlines_are_uniformly_distributed_over_the_fraction_however_entries_are_stored() {
    let stores: [fn(&Cache, u32); 4] = [
        |cache, key| cache.insert(key, 0),
        |cache, key| cache.insert_with_ttl(key, 0, TTL),
        |cache, key| drop(cache.get_or_load(&key, |_| Ok::<_, Infallible>(0))),
        |cache, key| cache.insert_loaded(key, Loaded::new(0).ttl(TTL)),
    ];
    for store in stores {
        for fraction in [0.001, 0.1, 0.5, 1.0] {
            let left = remaining_ttls(fraction, store);
            let (least, most) = (1_000.0 * (1.0 - fraction), 1_000.0);
            assert!(left.iter().all(|left| (least..=most).contains(left)));
            for tenth in 0..10 {
                let from = least + 100.0 * fraction * f64::from(tenth);
                let within = |left: &&f64| **left >= from && **left < from + 100.0 * fraction;
                let count = left.iter().filter(within).count();
                // The limits are nine standard deviations from the mean.
                assert!((730..1_270).contains(&count), "{count} from {from}");
            }
        }
    }
}

#[test]
fn jitter_does_not_limit_entries_that_never_expire() {
    let cache = with_jitter(1.0);
    cache.insert_with_ttl(1, 1, Duration::MAX);
    assert_eq!(cache.remaining_ttl(&1), Some(Duration::MAX));
    let cache = Cache::builder().unbounded().ttl_jitter(0.5).build();
    let cache = cache.unwrap();
    cache.insert(1, 1);
    assert_eq!(cache.remaining_ttl(&1), Some(Duration::MAX));
}

#[test]
fn jitter_does_not_make_a_short_time_to_live_zero() {
    let cache = with_jitter(1.0);
    for key in 0..1_000 {
        cache.insert_with_ttl(key, 0, Duration::from_nanos(1));
        assert!(cache.contains_key(&key));
        cache.insert_with_ttl(key, 0, Duration::from_nanos(u64::MAX - 1));
        assert!(cache.contains_key(&key));
    }
    cache.insert_with_ttl(0, 0, Duration::ZERO);
    assert!(!cache.contains_key(&0));
}

/// Returns the error of a builder with these settings, and its message.
fn refused(
    set_up: impl FnOnce(LocalCacheBuilder<u32, u32>) -> LocalCacheBuilder<u32, u32>,
) -> (BuildError, String) {
    let error = set_up(Cache::builder().capacity(10)).build().unwrap_err();
    let message = error.to_string();
    (error, message)
}

#[test]
fn jitter_out_of_range_is_refused() {
    for fraction in [0.0, -0.0, -0.1, 1.000_001, f64::NAN, f64::INFINITY] {
        let (error, message) = refused(|builder| builder.ttl_jitter(fraction));
        assert_eq!(error, BuildError::OutOfRange("ttl_jitter"));
        assert!(message.contains("ttl_jitter") && message.contains("use a number above 0"));
    }
}

#[test]
fn early_refresh_out_of_range_is_refused() {
    let infinities = [f64::INFINITY, f64::NEG_INFINITY];
    for beta in [0.0, -1.0, f64::NAN].into_iter().chain(infinities) {
        let (error, message) = refused(|builder| builder.early_refresh(beta));
        assert_eq!(error, BuildError::OutOfRange("early_refresh"));
        assert!(message.contains("early_refresh") && message.contains("use a finite number"));
    }
    let most = Cache::builder().capacity(1).early_refresh(f64::MAX).build();
    assert!(most.is_ok());
}

#[test]
fn refresh_after_not_below_time_to_live_is_refused() {
    let second = Duration::from_secs(1);
    for refresh_after in [second, second * 2] {
        let (error, message) =
            refused(|builder| builder.time_to_live(second).refresh_after(refresh_after));
        assert_eq!(error, BuildError::RefreshAfterEnd);
        assert!(message.contains("use a shorter refresh_after"));
    }
    let just_before = second.saturating_sub(Duration::from_nanos(1));
    let builder = Cache::builder().capacity(1).time_to_live(second);
    assert!(builder.refresh_after(just_before).build().is_ok());
    let without_end = Cache::builder().capacity(1).refresh_after(second);
    assert!(without_end.build().is_ok());
}

#[test]
fn zero_durations_and_zero_concurrent_loads_are_refused() {
    let (error, message) = refused(|builder| builder.refresh_after(Duration::ZERO));
    assert_eq!(error, BuildError::ZeroDuration("refresh_after"));
    assert!(message.starts_with("refresh_after") && message.contains("leave it out"));
    let (error, message) = refused(|builder| builder.stale_if_error(Duration::ZERO));
    assert_eq!(error, BuildError::ZeroDuration("stale_if_error"));
    assert!(message.starts_with("stale_if_error") && message.contains("leave it out"));
    let (error, message) = refused(|builder| builder.max_concurrent_loads(0));
    assert_eq!(error, BuildError::NoLoads);
    assert!(message.contains("max_concurrent_loads") && message.contains("use 1 or more"));
}
