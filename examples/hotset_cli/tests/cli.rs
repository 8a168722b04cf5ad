//! Tests of the program with a real Redis and with caches.

use hotset::{Consistency, Loaded, LocalCache, Schema, TieredCache};
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::process::{Command, Output};
use std::time::Duration;
use support::caches::wait_until_proven;
use support::servers::{Server, deployed, soon};

/// Runs the program.
fn run(server: &Server, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_hotset-cli"))
        .args(["--namespace", "test", "--heartbeat", "1000"])
        .args(arguments)
        .env("HOTSET_REDIS_URL", server.url())
        .output()
        .expect("the program can be run")
}

/// Runs the program, and returns its output if it has succeeded.
fn output(server: &Server, arguments: &[&str]) -> String {
    let output = run(server, arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    String::from_utf8(output.stdout).expect("the output is UTF-8")
}

async fn cache<K: hotset::RemoteKey + Schema>(server: &Server) -> TieredCache<K, u64> {
    let cache = LocalCache::builder()
        .capacity(100)
        .time_to_live(Duration::from_secs(3_600))
        .redis(server.url(), "test")
        .consistency(Consistency::Realtime)
        .heartbeat(Duration::from_secs(1))
        .deadline(Duration::from_secs(30))
        .build()
        .expect("valid settings");
    wait_until_proven(&cache).await;
    cache
}

fn loaded(value: u64) -> Ready<Result<u64, Infallible>> {
    ready(Ok(value))
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_invalidated_in_all_processes_before_the_program_ends() {
    let server = Server::start();
    let cache = cache::<String>(&server).await;
    for key in ["apple", "pear", "7", "plum"] {
        cache
            .get_or_load_async(key, |_| loaded(1))
            .await
            .expect("no error");
    }
    let printed = output(&server, &["invalidate", "apple", "\"7\"", "8"]);
    let expected = [
        "string \"apple\": invalidated",
        "string \"7\": invalidated",
        "integer 8: invalidated; Redis had no value for it",
    ];
    assert_eq!(printed.lines().collect::<Vec<_>>(), expected);
    // L1 is asked alone: a read of a value that Redis has would also find it.
    for (key, expected) in [
        ("apple", None),
        ("7", None),
        ("pear", Some(1)),
        ("plum", Some(1)),
    ] {
        assert_eq!(cache.get(key).await, expected, "{key}");
    }
    assert_eq!(cache.tier_stats().events, 3);
    output(&server, &["clear"]);
    assert_eq!(cache.get("pear").await, None);
    assert_eq!(cache.health().gaps, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_any_type_are_given_as_json() {
    let server = Server::start();
    let cache = cache::<(i64, String)>(&server).await;
    let keys = [(-1, "x".to_string()), (300, "y".to_string())];
    for key in &keys {
        cache
            .get_or_load_async(key, |_| loaded(1))
            .await
            .expect("no error");
    }
    output(&server, &["invalidate", r#"[-1, "x"]"#]);
    assert_eq!(cache.get(&keys[0]).await, None);
    assert_eq!(cache.get(&keys[1]).await, Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn tags_are_invalidated() {
    let server = Server::start();
    let cache = cache::<u64>(&server).await;
    for (key, tag) in [(1, "red"), (2, "green")] {
        cache.insert_loaded(key, Loaded::new(key).tags([tag])).await;
    }
    output(&server, &["tag", "red"]);
    assert_eq!(cache.get(&1).await, None);
    assert_eq!(cache.get(&2).await, Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn values_are_inspected_and_the_server_is_checked() {
    let server = Server::start();
    let cache = cache::<u64>(&server).await;
    cache.insert(1, 10).await;
    let printed = output(&server, &["inspect", "1", "2"]);
    let lines: Vec<_> = printed.lines().collect();
    assert!(lines[0].contains(" bytes, expires in 3"), "{printed}");
    assert_eq!(lines[1], "integer 2: no value");
    let printed = output(&server, &["health"]);
    assert!(printed.starts_with("a message took "), "{printed}");
    // The check neither registers a reader nor notes settings.
    let fields: Vec<String> = server.command(&[b"HKEYS", b"hotset:{test}:settings"]);
    let settings = fields.iter().filter(|field| !field.starts_with('#'));
    assert_eq!(settings.count(), 1);
    let readers: Vec<String> = server.command(&[b"ZRANGE", b"hotset:{test}:readers", b"0", b"-1"]);
    assert!(readers.iter().filter(|reader| !reader.is_empty()).count() <= 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn script_for_redis_cli_invalidates_keys_and_everything() {
    let server = Server::start();
    let script = deployed("invalidate.lua");
    let invalidate = |arguments: &[&str]| {
        let output = Command::new("redis-cli")
            .args(["-p", &server.port().to_string(), "--eval"])
            .arg(&script)
            .args(["hotset:{test}:state", ",", "0"])
            .args(arguments)
            .output()
            .expect("redis-cli is installed");
        String::from_utf8(output.stdout).expect("the output is UTF-8")
    };
    assert!(invalidate(&["1"]).contains("NOSTATE"));

    let numbers = cache::<i64>(&server).await;
    let keys = [0, 1, -1, 127, 128, -33, 256, 70_000, -70_000, 1 << 40];
    for key in keys {
        numbers
            .get_or_load_async(&key, |_| loaded(1))
            .await
            .expect("no error");
        let wait: u64 = invalidate(&[&key.to_string()])
            .trim()
            .parse()
            .expect("a time");
        assert!(wait <= 2_000, "{wait}");
        soon("the event is applied", || numbers.stats().entries == 0).await;
        assert_eq!(numbers.get(&key).await, None, "{key}");
    }
    for key in keys {
        numbers
            .get_or_load_async(&key, |_| loaded(1))
            .await
            .expect("no error");
    }
    invalidate(&[]);
    soon("the event is applied", || numbers.stats().entries == 0).await;
    for key in keys {
        assert_eq!(numbers.get(&key).await, None, "{key}");
    }
    assert_eq!(numbers.health().gaps, 0);

    // The script knows the keys of one partition only.
    let settings = b"hotset:{test}:settings".as_slice();
    let _: u64 = server.command(&[b"HSET", settings, b"#current", b"1 4"]);
    assert!(invalidate(&["1"]).contains("PARTITIONS"));
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_strings_if_that_is_said_and_numbers_may_be_negative() {
    let server = Server::start();
    let strings = cache::<String>(&server).await;
    strings.insert("4006381333931".into(), 1).await;
    output(&server, &["invalidate", "--string", "4006381333931"]);
    assert_eq!(strings.get("4006381333931").await, None);
    let printed = output(&server, &["inspect", "-7"]);
    assert_eq!(printed, "integer -7: no value\n");
    let refused = run(&server, &["invalidate", "1.5"]);
    let errors = String::from_utf8_lossy(&refused.stderr).to_string();
    assert!(errors.contains("--string"), "{errors}");
}

/// The history of a server behind sentinels contains the term, so a URL without sentinels finds another history.
#[tokio::test(flavor = "multi_thread")]
async fn namespace_of_another_history_is_left_alone() {
    let server = Server::start();
    let cache = cache::<u64>(&server).await;
    cache.insert(1, 10).await;
    drop(cache);
    soon("the connections of the cache are closed", || {
        let clients: String = server.command(&[b"CLIENT", b"LIST"]);
        clients.lines().count() == 1
    })
    .await;
    let key = b"hotset:{test}:state".as_slice();
    let state = || -> Vec<u8> { server.command(&[b"GET", key]) };
    let last = (state().len() - 1).to_string();
    let _: u64 = server.command(&[b"SETRANGE", key, last.as_bytes(), b"1"]);
    let before = state();
    for command in [&["inspect", "1"][..], &["health"], &["clear"]] {
        let refused = run(&server, command);
        let errors = String::from_utf8_lossy(&refused.stderr).to_string();
        assert!(errors.contains("another URL"), "{errors}");
    }
    assert_eq!(state(), before);
}

#[test]
fn errors_say_what_is_wrong() {
    let mut server = Server::start();
    server.kill();
    let failed = run(&server, &["clear"]);
    assert!(!failed.status.success());
    let errors = String::from_utf8_lossy(&failed.stderr).to_string();
    assert!(errors.contains("there is no connection"), "{errors}");
    let failed = Command::new(env!("CARGO_BIN_EXE_hotset-cli"))
        .args(["--namespace", "test", "clear"])
        .env_remove("HOTSET_REDIS_URL")
        .output()
        .expect("the program can be run");
    let errors = String::from_utf8_lossy(&failed.stderr).to_string();
    assert!(errors.contains("HOTSET_REDIS_URL"), "{errors}");
}
