//! Reading a `CacheConfig`, building a cache from it, and its errors.

use hotset::{
    AsyncCache, Backend, BuildError, Cache, CacheConfig, Capacity, ConfigError, ConfiguredCache,
    Consistency, LocalCacheBuilder, ManualClock, Policy, RedisUrl,
};
use proptest::prelude::*;
use serde::Deserialize;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

const TOML: &str = r#"
    backend = "tiered"
    capacity = 100_000
    shards = 16
    policy = "adaptive"
    time_to_live = "1h 30m"
    time_to_idle = "300s"
    lease = "3s"
    wait_timeout = "250ms"
    max_concurrent_loads = 32
    refresh_after = "5m"
    early_refresh = 1
    stale_if_error = "1day"
    ttl_jitter = 0.1
    name = "prices"
    url = "redis://cache:secret@redis:6379/3"
    namespace = "shop:prices"
    consistency = "bounded 5s"
    local_time_to_live = "1m"
    deadline = "100ms"
    heartbeat = "1s"
    max_value_size = 65536
    compress_above = 1024
    max_queued_invalidations = 5000
    percent = 12.5
    shadow = true
    replicas = 2
    root_certificate = "/etc/ca.pem"
    client_certificate = "/etc/client.pem"
    client_key = "/etc/client.key"
"#;

const JSON: &str = r#"{
    "backend": "tiered",
    "capacity": 100000,
    "shards": 16,
    "policy": "adaptive",
    "time_to_live": "1h 30m",
    "time_to_idle": "300s",
    "lease": "3s",
    "wait_timeout": "250ms",
    "max_concurrent_loads": 32,
    "refresh_after": "5m",
    "early_refresh": 1,
    "stale_if_error": "1day",
    "ttl_jitter": 0.1,
    "name": "prices",
    "url": "redis://cache:secret@redis:6379/3",
    "namespace": "shop:prices",
    "consistency": "bounded(5s)",
    "local_time_to_live": "1m",
    "deadline": "100ms",
    "heartbeat": "1s",
    "max_value_size": 65536,
    "compress_above": 1024,
    "max_queued_invalidations": 5000,
    "percent": 12.5,
    "shadow": true,
    "replicas": 2,
    "root_certificate": "/etc/ca.pem",
    "client_certificate": "/etc/client.pem",
    "client_key": "/etc/client.key"
}"#;

const VARIABLES: [(&str, &str); 29] = [
    ("PRICES_BACKEND", "tiered"),
    ("PRICES_CAPACITY", "100000"),
    ("PRICES_SHARDS", "16"),
    ("PRICES_POLICY", "adaptive"),
    ("PRICES_TIME_TO_LIVE", "1h 30m"),
    ("PRICES_TIME_TO_IDLE", "300s"),
    ("PRICES_LEASE", "3s"),
    ("PRICES_WAIT_TIMEOUT", "250ms"),
    ("PRICES_MAX_CONCURRENT_LOADS", "32"),
    ("PRICES_REFRESH_AFTER", "5m"),
    ("PRICES_EARLY_REFRESH", "1"),
    ("PRICES_STALE_IF_ERROR", "1day"),
    ("PRICES_TTL_JITTER", "0.1"),
    ("PRICES_NAME", "prices"),
    ("PRICES_URL", "redis://cache:secret@redis:6379/3"),
    ("PRICES_NAMESPACE", "shop:prices"),
    ("PRICES_CONSISTENCY", "bounded 5s"),
    ("PRICES_LOCAL_TIME_TO_LIVE", "1m"),
    ("PRICES_DEADLINE", "100ms"),
    ("PRICES_HEARTBEAT", "1s"),
    ("PRICES_MAX_VALUE_SIZE", "65536"),
    ("PRICES_COMPRESS_ABOVE", "1024"),
    ("PRICES_MAX_QUEUED_INVALIDATIONS", "5000"),
    ("PRICES_PERCENT", "12.5"),
    ("PRICES_SHADOW", "true"),
    ("PRICES_REPLICAS", "2"),
    ("PRICES_ROOT_CERTIFICATE", "/etc/ca.pem"),
    ("PRICES_CLIENT_CERTIFICATE", "/etc/client.pem"),
    ("PRICES_CLIENT_KEY", "/etc/client.key"),
];

fn toml(text: &str) -> CacheConfig {
    CacheConfig::from_toml(text).unwrap()
}

fn vars(variables: &[(&str, &str)]) -> Result<CacheConfig, ConfigError> {
    CacheConfig::default().override_from_vars("PRICES_", variables.iter().copied())
}

fn message<T>(result: Result<T, ConfigError>) -> String {
    result.err().expect("an error").to_string()
}

fn build(config: &CacheConfig) -> Result<ConfiguredCache<u64, u64>, ConfigError> {
    config.build_blocking()
}

#[test]
fn toml_json_and_variables_give_equal_configurations() {
    let config = toml(TOML);
    assert_eq!(CacheConfig::from_json(JSON).unwrap(), config);
    assert_eq!(vars(&VARIABLES).unwrap(), config);

    assert_eq!(config.backend, Some(Backend::Tiered));
    assert_eq!(config.capacity, Some(Capacity::Entries(100_000)));
    assert_eq!(config.policy, Some(Policy::Adaptive));
    assert_eq!(config.time_to_live, Some(Duration::from_secs(5_400)));
    assert_eq!(config.wait_timeout, Some(Duration::from_millis(250)));
    assert_eq!(config.ttl_jitter, Some(0.1));
    let bounded = Consistency::Bounded(Duration::from_secs(5));
    assert_eq!(config.consistency, Some(bounded));
    assert_eq!(
        config.url.unwrap().as_str(),
        "redis://cache:secret@redis:6379/3"
    );
}

#[test]
fn serialized_configuration_is_read_back_unchanged() {
    let config = toml(TOML);
    let json = serde_json::to_string(&config).unwrap();
    assert_eq!(CacheConfig::from_json(&json).unwrap(), config);
    assert_eq!(
        serde_json::to_string(&CacheConfig::default()).unwrap(),
        "{}"
    );
    let mut longest = CacheConfig::default();
    longest.lease = Some(Duration::MAX);
    let json = serde_json::to_string(&longest).unwrap();
    assert_eq!(CacheConfig::from_json(&json).unwrap(), longest);
    for other in ["realtime", "l1-only", "l2-only", "bounded 1m 5ms"] {
        let config = toml(&format!("capacity = 'unbounded'\nconsistency = '{other}'"));
        let json = serde_json::to_string(&config).unwrap();
        assert_eq!(
            json,
            format!(r#"{{"capacity":"unbounded","consistency":"{other}"}}"#)
        );
        assert_eq!(CacheConfig::from_json(&json).unwrap(), config);
    }
}

proptest! {
    #[test]
    fn durations_are_serialized_without_loss(nanos in any::<u64>()) {
        let mut config = CacheConfig::default();
        config.lease = Some(Duration::from_nanos(nanos));
        config.consistency = Some(Consistency::Bounded(Duration::from_nanos(nanos)));
        let json = serde_json::to_string(&config).unwrap();
        prop_assert_eq!(CacheConfig::from_json(&json).unwrap(), config);
    }

    #[test]
    fn numbers_are_serialized_without_loss(number in prop::num::f64::NORMAL) {
        let mut config = CacheConfig::default();
        config.ttl_jitter = Some(number);
        let json = serde_json::to_string(&config).unwrap();
        prop_assert_eq!(CacheConfig::from_json(&json).unwrap(), config);
    }

    #[test]
    fn unknown_setting_is_named_in_the_error(name in "[a-z][a-z_]{0,30}") {
        let known = serde_json::to_value(toml(TOML)).unwrap();
        prop_assume!(known.get(&name).is_none());
        let variable = format!("PRICES_{}", name.to_uppercase());
        let errors = [
            (&name, message(CacheConfig::from_toml(&format!("{name} = 1")))),
            (&name, message(CacheConfig::from_json(&format!("{{\"{name}\": 1}}")))),
            (&variable, message(vars(&[(&variable, "1")]))),
        ];
        for (written, error) in errors {
            prop_assert!(
                error.starts_with(&format!("there is no setting {written}: ")),
                "{}", error
            );
        }
    }
}

#[test]
fn misspelled_setting_gets_the_similar_name_proposed() {
    assert_eq!(
        message(CacheConfig::from_toml("time_to_life = '5m'")),
        "there is no setting time_to_life: did you mean time_to_live?"
    );
    assert_eq!(
        message(vars(&[("PRICES_CAPACTIY", "5")])),
        "there is no setting PRICES_CAPACTIY: did you mean PRICES_CAPACITY?"
    );
    // Names of variables are in capitals.
    let lowercase = message(vars(&[("PRICES_ttl_jitter", "5")]));
    assert!(lowercase.starts_with("there is no setting PRICES_ttl_jitter: use one of PRICES_BACK"));
    let far = message(CacheConfig::from_json(r#"{"something_else": 5}"#));
    assert!(
        far.starts_with("there is no setting something_else: use one of backend, capacity, shards"),
        "{far}"
    );
}

#[test]
fn environment_overrides_a_file() {
    let file = toml("backend = 'tiered'\ncapacity = 10\nlease = '3s'");
    let over = [
        ("PRICES_BACKEND", "local"),
        ("PRICES_CAPACITY", "unbounded"),
        ("PRICES_LEASE", ""),
        ("PRICE_LEASE", "1s"),
        ("PRICESLEASE", "1s"),
        ("prices_lease", "1s"),
    ];
    let expected = toml("backend = 'local'\ncapacity = 'unbounded'\nlease = '3s'");
    for prefix in ["PRICES", "PRICES_"] {
        let config = file.clone().override_from_vars(prefix, over).unwrap();
        assert_eq!(config, expected);
    }
}

/// The variable that tells the child process of a test what it is.
const CHILD: &str = "HOTSET_TEST_CHILD_PROCESS";

#[test]
fn from_env_reads_the_environment_of_the_process() {
    if std::env::var_os(CHILD).is_some() {
        assert_eq!(CacheConfig::from_env("PRICES_").unwrap(), toml(TOML));
        let over = toml("capacity = 1").override_from_env("PRICES_").unwrap();
        assert_eq!(over, toml(TOML));
        return;
    }
    let child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "config::from_env_reads_the_environment_of_the_process",
        ])
        .env(CHILD, "1")
        .envs(VARIABLES)
        .output()
        .unwrap();
    assert!(child.status.success(), "{child:?}");
    assert!(String::from_utf8_lossy(&child.stdout).contains("1 passed"));
}

#[test]
fn configuration_can_be_a_field_of_another_one() {
    #[derive(Deserialize)]
    struct Service {
        port: u16,
        prices: CacheConfig,
    }
    let service: Service =
        toml::from_str("port = 80\n[prices]\ncapacity = 10\ntime_to_live = '5m'").unwrap();
    assert_eq!(service.port, 80);
    assert_eq!(service.prices, toml("capacity = 10\ntime_to_live = '300s'"));
    let error = toml::from_str::<Service>("port = 80\n[prices]\nttl = '5m'").err();
    assert!(error.unwrap().to_string().contains("unknown field `ttl`"));
}

#[test]
fn value_of_the_wrong_type_is_reported_with_its_setting() {
    let wrong = [
        (
            "time_to_live = 300",
            "time_to_live: invalid type: integer `300`, expected a duration with its unit, such as \
             \"250ms\", \"5m\" or \"1h 30m\"",
        ),
        (
            "heartbeat = '300'",
            "heartbeat: invalid value: string \"300\", expected a duration with its unit, such as \
             \"250ms\", \"5m\" or \"1h 30m\"",
        ),
        (
            "capacity = -1",
            "capacity: invalid value: integer `-1`, expected a number of entries, or \"unbounded\"",
        ),
        (
            "capacity = 'all'",
            "capacity: invalid value: string \"all\", expected a number of entries, or \
             \"unbounded\"",
        ),
        (
            "shards = 'many'",
            "shards: invalid type: string \"many\", expected usize",
        ),
        (
            "policy = 'mru'",
            "policy: unknown variant `mru`, expected one of `lru`, `s3-fifo`, `car`, `adaptive`",
        ),
        (
            "backend = 'disk'",
            "backend: unknown variant `disk`, expected one of `local`, `redis`, `tiered`",
        ),
        (
            "consistency = 'bounded'",
            "consistency: invalid value: string \"bounded\", expected \"realtime\", \"bounded \
             5s\" or another duration, \"l1-only\" or \"l2-only\"",
        ),
        // A URL in the wrong place is not shown, because it may have a password.
        (
            "backend = 'redis://user:secret@host/'",
            "backend: a URL is not expected here",
        ),
    ];
    for (text, expected) in wrong {
        assert_eq!(message(CacheConfig::from_toml(text)), expected, "{text}");
    }
    assert_eq!(
        message(CacheConfig::from_json(r#"{"ttl_jitter": "0.1"}"#)),
        "ttl_jitter: invalid type: string \"0.1\", expected f64"
    );
    assert_eq!(
        message(vars(&[("PRICES_SHARDS", "many")])),
        "PRICES_SHARDS: cannot parse u64: invalid digit found in string"
    );
    assert_eq!(
        message(vars(&[("PRICES_LEASE", "soon")])),
        "PRICES_LEASE: invalid value: string \"soon\", expected a duration with its unit, such as \
         \"250ms\", \"5m\" or \"1h 30m\""
    );
}

#[cfg(unix)]
#[test]
fn variable_that_is_not_unicode_is_named_in_the_error() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    let odd = OsStr::from_bytes(b"\xff");
    let variables = [(OsStr::new("PRICES_NAME"), odd), (odd, odd)];
    let result = CacheConfig::default().override_from_vars("PRICES", variables);
    assert_eq!(message(result), "PRICES_NAME: it is not Unicode");
}

#[test]
fn syntax_error_has_its_line_but_not_its_text() {
    let broken = message(CacheConfig::from_toml(
        "capacity = 5\nurl = \"redis://user:secret@host",
    ));
    assert!(broken.starts_with("this is not valid TOML: "), "{broken}");
    assert!(broken.ends_with(", in line 2"), "{broken}");
    assert!(!broken.contains("secret"), "{broken}");
    let at_line_start = message(CacheConfig::from_toml("capacity = 5\n= 6"));
    assert!(at_line_start.ends_with(", in line 2"), "{at_line_start}");
    assert_eq!(
        message(CacheConfig::from_json("\"redis://:secret@host\"")),
        "this is not valid JSON: a URL is not expected here"
    );
    let broken = message(CacheConfig::from_json("{\n\"url\": \"redis://:secret@host"));
    assert!(broken.starts_with("this is not valid JSON: "), "{broken}");
    assert!(broken.contains("line 2"), "{broken}");
    assert!(!broken.contains("secret"), "{broken}");
}

#[test]
fn setting_that_is_set_twice_is_rejected() {
    assert_eq!(
        message(CacheConfig::from_json(r#"{"shards": 1, "shards": 2}"#)),
        "shards: it is set twice: remove one of them"
    );
    let error = message(CacheConfig::from_toml("shards = 1\nshards = 2"));
    assert!(
        error.starts_with("this is not valid TOML: duplicate key"),
        "{error}"
    );
}

#[test]
fn null_counts_as_not_set() {
    let config = CacheConfig::from_json(r#"{"lease": null, "capacity": null}"#);
    assert_eq!(config.unwrap(), CacheConfig::default());
}

#[test]
fn empty_prefix_is_rejected() {
    for prefix in ["", "_"] {
        assert_eq!(
            message(CacheConfig::from_env(prefix)),
            "prefix: it is empty, so any variable could be a setting: use for example \"PRICES_\""
        );
    }
}

/// The messages for invalid URLs matter most, because they are read most often.
#[test]
fn no_error_shows_the_password_of_a_url() {
    for url in [
        "redis://user:hunter2?x@host/",
        "redis://user:hun?ter2@host",
        "redis://:hunter2#a@host",
        "redis://user:a@hunter2?b@host",
        "redis://user:hunter2@host:99999",
        "redis://user:hunter2",
        "redis:/user:hunter2@host",
        "user:hunter2@host",
        "redis-sentinel://:x@a:1,u:hunter2@b:1/shop",
        "redis-sentinel://a/shop?sentinel_password=hunter2",
        "redis-cluster://u:hunter2@a,,",
    ] {
        let mut config = toml("capacity = 10\nnamespace = 'prices'");
        config.url = Some(url.into());
        let refused = build(&config)
            .err()
            .map(|error| format!("{error} {error:?}"));
        let said = format!("{config:?} {refused:?}");
        assert!(!said.contains("ter2"), "{said}");
    }
    let misplaced = CacheConfig::from_toml("'redis://u:hunter2@host' = 1");
    assert!(!message(misplaced).contains("hunter2"));
    let shown = format!(
        "{:?}",
        RedisUrl::from("redis-sentinel://u:p@a:1,[::1]:2,c/shop/3")
    );
    assert_eq!(shown, "\"redis-sentinel://***@a:1,[::1]:2,c/shop/3\"");
}

#[test]
fn debug_output_shows_no_password() {
    let urls = [
        ("redis://user:secret@host:1/2", "redis://***@host:1/2"),
        ("redis://:sec@ret@host", "redis://***@host"),
        ("redis://host/", "redis://host/"),
        ("unix:///redis?pass=secret", "unix:///redis?***"),
        ("user:secret@host", "://***@host"),
    ];
    for (url, shown) in urls {
        let mut config = CacheConfig::default();
        config.url = Some(url.into());
        let debug = format!("{config:?}");
        assert!(debug.contains(&format!("\"{shown}\"")), "{debug}");
        assert!(!debug.contains("ret"), "{debug}");
    }
}

#[test]
fn error_of_a_builder_names_the_setting() {
    let refused = [
        (
            "",
            "capacity is missing: set it to a number of entries, or to \"unbounded\"",
        ),
        (
            "shards = 0",
            "shards is 0: use 1 or more, or leave it out for the default",
        ),
        (
            "lease = '0s'",
            "lease is zero, which has no meaning: use a longer duration, or leave it out",
        ),
        (
            "ttl_jitter = 1.5",
            "ttl_jitter is a fraction: use a number above 0 and at most 1",
        ),
        (
            "early_refresh = nan",
            "early_refresh is out of range: use a finite number above 0",
        ),
        (
            "time_to_live = '5m'\nrefresh_after = '6m'",
            "refresh_after is not below time_to_live, so entries would expire before they are \
             refreshed: use a shorter refresh_after",
        ),
        (
            "max_concurrent_loads = 0",
            "max_concurrent_loads is 0, so nothing could be loaded: use 1 or more, or leave it out",
        ),
    ];
    for (text, expected) in refused {
        assert_eq!(message(build(&toml(text))), expected, "{text}");
    }
    let twice = toml("capacity = 5").build_async_with::<u64, u64>(LocalCacheBuilder::unbounded);
    assert_eq!(
        message(twice),
        "the cache has more than one bound: keep one of capacity, max_weight and unbounded"
    );
}

#[test]
fn error_of_a_builder_names_the_variable_that_set_the_value() {
    assert_eq!(
        message(build(&vars(&[("PRICES_SHARDS", "0")]).unwrap())),
        "PRICES_SHARDS: shards is 0: use 1 or more, or leave it out for the default"
    );
    assert_eq!(
        message(build(&vars(&[]).unwrap())),
        "capacity (in the environment PRICES_CAPACITY) is missing: set it to a number of entries, \
         or to \"unbounded\""
    );
    // This setting is from the file.
    let config = toml("shards = 0").override_from_vars("PRICES_", [("PRICES_LEASE", "5s")]);
    let error = build(&config.unwrap()).err().unwrap();
    let setting = Some("shards".to_string());
    let error_of_builder = BuildError::Shards(0);
    assert_eq!(
        error,
        ConfigError::Build {
            setting,
            error: error_of_builder
        }
    );
}

#[cfg(not(feature = "redis"))]
#[test]
fn backend_that_needs_a_disabled_feature_is_rejected() {
    for backend in ["redis", "tiered"] {
        let config = vars(&[("PRICES_BACKEND", backend), ("PRICES_CAPACITY", "5")]).unwrap();
        assert_eq!(
            message(build(&config)),
            format!(
                "PRICES_BACKEND is {backend}, and hotset was built without Redis: add the feature \
                 \"redis\" to it in Cargo.toml, or use local"
            )
        );
    }
}

#[cfg(feature = "redis")]
#[test]
fn settings_of_redis_are_checked_with_every_backend() {
    let refused = [
        (
            "url = 'http://user:secret@host/'",
            "url: this is not a URL of a Redis server, because it cannot be parsed: use \
             redis://[user:password@]host[:port][/database], \
             redis-sentinel://[user:password@]host,host,host/service[/database] or \
             redis-cluster://[user:password@]host,host",
        ),
        (
            "namespace = 'a b'",
            "a namespace has 1 to 128 printable ASCII characters without blanks and braces: use for \
             example \"shop:prices\"",
        ),
        (
            "heartbeat = '1ms'",
            "heartbeat is out of range: use 50 milliseconds to 60 seconds",
        ),
        (
            "consistency = 'bounded 0s'",
            "consistency is zero, which has no meaning: use a longer duration, or leave \
             it out",
        ),
        (
            "deadline = '0ms'",
            "deadline is zero, which has no meaning: use a longer duration, or leave it out",
        ),
    ];
    let rest = [
        ("url", "redis://localhost/"),
        ("namespace", "prices"),
        ("capacity", "unbounded"),
    ];
    for (text, expected) in refused {
        for backend in ["local", "redis", "tiered"] {
            let mut whole = format!("{text}\nbackend = '{backend}'\n");
            for (name, value) in rest.iter().filter(|(name, _)| !text.starts_with(name)) {
                whole.extend([name, " = '", value, "'\n"]);
            }
            assert_eq!(message(build(&toml(&whole))), expected, "{whole}");
        }
    }
}

#[cfg(feature = "redis")]
#[test]
fn missing_setting_of_the_backend_is_named_in_the_error() {
    let tiered = "backend = 'tiered'\n";
    let whole = "url = 'redis://localhost/'\nnamespace = 'prices'\ncapacity = 5\n";
    let refused = [
        (
            String::new(),
            "url is missing: set it to redis://[user:password@]host[:port][/database]",
        ),
        (
            "url = 'redis://localhost/'".to_string(),
            "namespace is missing: set it to the name of the cache in Redis",
        ),
        (
            "url = 'redis://localhost/'\nnamespace = 'prices'".to_string(),
            "capacity is missing: set it to a number of entries, or to \"unbounded\"",
        ),
        (
            format!("{whole}refresh_after = '1h'\ntime_to_live = '5m'"),
            "refresh_after is not below time_to_live, so entries would expire before they are refreshed: use a shorter \
             refresh_after",
        ),
    ];
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _entered = runtime.enter();
    for (text, expected) in refused {
        let config = toml(&format!("{tiered}{text}"));
        assert_eq!(message(build(&config)), expected, "{text}");
    }
}

#[cfg(feature = "redis")]
#[test]
fn cache_over_redis_outside_a_runtime_is_rejected() {
    let config = "backend = 'redis'\nurl = 'redis://localhost/'\nnamespace = 'prices'";
    let error = build(&toml(config)).err().unwrap();
    let (setting, inner) = (None, BuildError::NoRuntime);
    let expected = ConfigError::Build {
        setting,
        error: inner.clone(),
    };
    assert_eq!(error, expected);
    assert_eq!(error.to_string(), inner.to_string());
}

#[test]
fn blocking_cache_has_the_configured_settings() {
    let clock = ManualClock::new();
    let config = toml("capacity = 2\ntime_to_live = '5m'\nbackend = 'local'");
    let cache = config.build_blocking_with(|local| local.clock(clock.clone()));
    let cache: Arc<dyn Cache<u64, u64>> = cache.unwrap().into();
    let load = |key: &u64| Ok::<_, &str>(key * 100);
    assert_eq!(cache.get_or_load(&7, load).unwrap(), 700);
    assert_eq!(cache.get(&7), Some(700));
    clock.advance(Duration::from_secs(300));
    assert_eq!(cache.get(&7), None);
    for key in 0..5 {
        cache.insert(key, key);
    }
    assert_eq!((0..5).filter(|key| cache.get(key).is_some()).count(), 2);
}

#[tokio::test]
async fn async_cache_has_the_settings_made_in_code() {
    let config = toml("name = 'pages'");
    let cache = config.build_async_with(|local| {
        local
            .max_weight(10)
            .weigher(|_, page: &String| page.len() as u64)
    });
    let cache: Arc<dyn AsyncCache<u64, String>> = cache.unwrap().into();
    cache.insert(1, "x".repeat(11)).await;
    cache.insert(2, "x".repeat(10)).await;
    assert_eq!(cache.get(&1).await, None);
    assert!(cache.get(&2).await.is_some());
}

#[test]
fn local_builder_takes_types_that_redis_cannot_store() {
    struct Opaque;
    let config = toml("capacity = 5\nname = 'opaque'");
    let builder = config.local_builder::<u64, Arc<Opaque>>().unwrap();
    let hasher = std::hash::RandomState::new();
    let cache = builder.hasher(hasher).build().unwrap();
    cache.insert(1, Arc::new(Opaque));
    assert_eq!((cache.name(), cache.capacity()), (Some("opaque"), Some(5)));
}
