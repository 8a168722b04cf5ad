//! Spans and events, as a subscriber of `tracing` sees them.

use super::servers::{Server, soon};
use super::{SHORT_HEARTBEAT, builder, proven, value};
use hotset::{Consistency, TieredCache};
use std::cell::{Cell, RefCell};
use std::fmt::{self, Debug};
use std::sync::{Arc, Mutex, Once};
use support::caches::wait_until_proven;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber, span};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;

/// The events and the starts of spans on one thread, one line for each.
#[derive(Clone, Default)]
struct Recorder(Arc<Mutex<Vec<String>>>);

thread_local! {
    static RECORDER: RefCell<Option<Recorder>> = const { RefCell::new(None) };
    /// The subscriber panics at the next event that contains this text.
    static PANIC_TRIGGER: Cell<Option<&'static str>> = const { Cell::new(None) };
}

/// A global subscriber that passes events on to the recorder of their thread. A subscriber for each thread would miss
/// events, because `tracing` asks for the interest in a call site once and caches the answer.
struct ByThread;

impl Recorder {
    /// Starts to record on this thread, which must be the only one of the test's runtime.
    fn start() -> Self {
        static SUBSCRIBER: Once = Once::new();
        SUBSCRIBER.call_once(|| {
            let subscriber = tracing_subscriber::registry().with(ByThread);
            tracing::subscriber::set_global_default(subscriber).unwrap();
        });
        let recorder = Self::default();
        RECORDER.set(Some(recorder.clone()));
        recorder
    }

    /// Returns the lines so far.
    fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    /// Returns the number of lines that contain `part`.
    fn count(&self, part: &str) -> usize {
        let lines = self.lines();
        lines.iter().filter(|line| line.contains(part)).count()
    }
}

/// Adds a line to the recorder of this thread, if there is one.
fn record(line: String) {
    RECORDER.with_borrow(|recorder| {
        if let Some(recorder) = recorder {
            recorder.0.lock().unwrap().push(line);
        }
    });
}

/// The fields of an event or span: ` name=value` for each.
#[derive(Default)]
struct Fields(String);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        fmt::Write::write_fmt(&mut self.0, format_args!(" {field}={value:?}")).unwrap();
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for ByThread {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if event.metadata().target() == "hotset" {
            let mut fields = Fields::default();
            event.record(&mut fields);
            let line = format!("{}{}", event.metadata().level(), fields.0);
            if PANIC_TRIGGER.get().is_some_and(|part| line.contains(part)) {
                PANIC_TRIGGER.set(None);
                panic!("panic of the subscriber: {line}");
            }
            record(line);
        }
    }

    fn on_new_span(&self, attributes: &span::Attributes<'_>, id: &span::Id, at: Context<'_, S>) {
        let metadata = attributes.metadata();
        if metadata.target() == "hotset" {
            assert_eq!(*metadata.level(), Level::DEBUG);
            let mut fields = Fields::default();
            attributes.record(&mut fields);
            let parent = at.span(id).and_then(|span| Some(span.parent()?.name()));
            let within = parent.map_or(String::new(), |parent| format!("{parent} > "));
            let line = format!("{within}{}{}", metadata.name(), fields.0);
            record(line);
        }
    }
}

#[tokio::test]
async fn miss_is_a_span_that_contains_its_calls_and_its_load() {
    let server = Server::start();
    let recorder = Recorder::start();
    let cache = proven::<u64>(&server.url(), Consistency::Realtime).await;
    let before = recorder.lines().len();
    cache.get_or_load_async(&1, |_| value(10)).await.unwrap();
    cache.get_or_load_async(&1, |_| value(10)).await.unwrap();
    let lines = recorder.lines().split_off(before);
    let of_miss = lines.iter().filter(|line| !line.contains("renew"));
    let expected = [
        r#"fetch cache="test""#,
        r#"fetch > l2 cache="test" operation="lookup""#,
        r#"fetch > load cache="test""#,
        r#"fetch > l2 cache="test" operation="fill""#,
    ];
    assert_eq!(of_miss.collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn outage_and_its_end_are_each_logged_once() {
    let mut server = Server::start();
    let recorder = Recorder::start();
    let cache = proven::<u64>(&server.url(), Consistency::Realtime).await;
    soon("the event is logged", || {
        recorder.count("proven to arrive") == 1
    })
    .await;
    let at_start = [
        r#"INFO message=subscribed to invalidations cache="test""#,
        r#"INFO message=invalidations are proven to arrive cache="test""#,
    ];
    let events = recorder
        .lines()
        .into_iter()
        .filter(|line| !line.contains("l2"));
    assert_eq!(events.collect::<Vec<_>>(), at_start);

    server.kill();
    for key in 0..100 {
        cache.get_or_load_async(&key, |_| value(10)).await.unwrap();
        cache.invalidate(&key).await;
    }
    let worse = [
        "WARN message=no subscription to invalidations: ",
        "WARN message=invalidations are not proven to arrive",
        "WARN message=circuit breaker open",
        "WARN message=Redis cannot be reached: invalidations are queued",
    ];
    for event in worse {
        soon(event, || recorder.count(event) > 0).await;
    }
    // Further attempts to reach Redis are no change.
    let failures = || cache.tier_stats().calls.renew.failures;
    let before = failures();
    soon("probes fail", || failures() >= before + 2).await;
    assert_eq!(
        recorder.count("WARN"),
        worse.len(),
        "{:#?}",
        recorder.lines()
    );

    server.restart();
    let better = [
        "INFO message=subscribed to invalidations",
        "INFO message=invalidations are proven to arrive",
        "INFO message=circuit breaker closed",
        "INFO message=all queued invalidations were sent",
    ];
    for event in better {
        soon(event, || recorder.count(event) > 0).await;
    }
    soon("the cache is healthy", || is_healthy(&cache)).await;
    assert_eq!(
        recorder.count("WARN"),
        worse.len(),
        "{:#?}",
        recorder.lines()
    );
    let all = at_start.len() + better.len();
    soon("each event is logged once", || {
        recorder.count("INFO") == all
    })
    .await;
}

/// Returns the number of heartbeats that Redis has answered.
fn heartbeats<V: hotset::RemoteValue>(cache: &TieredCache<u64, V>) -> u64 {
    let calls = cache.tier_stats().calls.renew;
    calls.times.count() - calls.failures
}

fn is_healthy(cache: &TieredCache<u64, u64>) -> bool {
    let health = cache.health();
    health.proven_for.is_some() && !health.breaker_open && health.queued == 0
}

#[tokio::test]
async fn warnings_about_the_server_and_changes_of_the_rollout_are_logged() {
    let server = Server::start_with(&["--maxmemory", "0"]);
    let recorder = Recorder::start();
    let cache = builder::<u64>(&server.url(), Consistency::Realtime);
    let cache = cache.build().unwrap();
    soon("the warnings are logged", || {
        recorder.count("WARN message=Redis has no memory limit") == 1
    })
    .await;
    cache.rollout().set_percent(25.0).unwrap();
    let rollout = "INFO message=25 percent of the keys are stored in Redis cache";
    soon("the change of the rollout is logged", || {
        recorder.count(rollout) == 1
    })
    .await;
    cache.rollout().set_shadow(true);
    soon("shadow mode is logged", || {
        recorder.count("Redis, in shadow mode") == 1
    })
    .await;
    assert_eq!(recorder.count("WARN"), 1, "{:#?}", recorder.lines());
}

#[tokio::test]
async fn missing_right_is_logged_once_while_other_calls_succeed() {
    let server = Server::start();
    // The user may not read the entry of the key 100, whose name in Redis ends with a `d`.
    let user = "ACL SETUSER app on >secret &* +@all ~hotset:{test}:e:e ~hotset:{test}:[rst]*";
    let () = server.command(&user.split(' ').map(str::as_bytes).collect::<Vec<_>>());
    let recorder = Recorder::start();
    let url = server.url().replace("://", "://app:secret@");
    let cache = builder::<u64>(&url, Consistency::L2Only).heartbeat(SHORT_HEARTBEAT);
    let cache = cache.build().unwrap();
    wait_until_proven(&cache).await;
    let lacks = "WARN message=the user of Redis lacks a right";
    let mut rounds = 0;
    // The calls of heartbeats succeed.
    while rounds < 20 || heartbeats(&cache) < 5 {
        cache.get(&100).await;
        cache.get(&101).await;
        rounds += 1;
    }
    assert!(cache.tier_stats().calls.lookup.failures > 10);
    assert_eq!(recorder.count(lacks), 1, "{:#?}", recorder.lines());
    assert_eq!(recorder.count("resolved"), 0);
    assert_eq!(cache.health().warnings.len(), 1);
    let texts = format!("{:?}", recorder.lines());
    assert!(!texts.contains("secret"), "{texts}");
}

#[tokio::test]
async fn altered_and_unreadable_values_are_each_logged_once() {
    let server = Server::start();
    let url = server.url();
    let other = proven::<String>(&url, Consistency::L2Only).await;
    for key in 0..9 {
        other.insert(key, "of another schema".into()).await;
    }
    let recorder = Recorder::start();
    let cache = proven::<Option<Option<u8>>>(&url, Consistency::L2Only).await;
    for key in 0..9 {
        assert_eq!(cache.get(&key).await, None);
        cache.insert(key + 10, Some(None)).await;
    }
    let stats = cache.tier_stats();
    assert_eq!((stats.unreadable, stats.altered), (9, 9));
    let warnings = cache.health().warnings;
    assert_eq!(warnings.len(), 2);
    for warning in &warnings {
        let line = format!("WARN message={warning} cache=");
        soon("the warning is logged", || recorder.count(&line) == 1).await;
    }
    // The next value is unreadable for another reason, which is no change of state.
    for entry in server.entries("test") {
        let _: u64 = server.command(&[b"APPEND", &entry, b"x"]);
    }
    assert_eq!(cache.get(&0).await, None);
    assert_ne!(cache.health().warnings, warnings);
    let before = heartbeats(&cache);
    soon("heartbeats pass", || heartbeats(&cache) >= before + 2).await;
    assert_eq!(recorder.count("WARN"), 2, "{:#?}", recorder.lines());
    assert_eq!(recorder.count("resolved"), 0);
}

#[tokio::test]
async fn panic_of_the_tracing_subscriber_stops_no_task() {
    let mut server = Server::start();
    let recorder = Recorder::start();
    let cache = proven::<u64>(&server.url(), Consistency::Realtime).await;
    for event in [
        "subscribed to invalidations",
        "circuit breaker",
        "all queued invalidations",
    ] {
        PANIC_TRIGGER.set(Some(event));
        server.kill();
        cache.invalidate(&1).await;
        soon("the breaker opens", || cache.health().breaker_open).await;
        server.restart();
        soon("the cache is healthy", || is_healthy(&cache)).await;
        soon("the subscriber has panicked", || {
            PANIC_TRIGGER.get().is_none()
        })
        .await;
    }
    assert!(recorder.count("WARN") > 0);
}

#[tokio::test]
async fn call_to_redis_is_within_the_span_of_its_caller() {
    let server = Server::start();
    let recorder = Recorder::start();
    let cache = proven::<u64>(&server.url(), Consistency::Realtime).await;
    let request = tracing::debug_span!(target: "hotset", "request");
    tracing::Instrument::instrument(cache.invalidate(&1), request).await;
    let call = r#"request > l2 cache="test" operation="invalidate""#;
    assert_eq!(recorder.count(call), 1, "{:#?}", recorder.lines());
}
