//! Configurations: texts in TOML and JSON, variables of the environment, and URLs of servers.

use arbitrary::{Arbitrary, Unstructured};
use hotset::{CacheConfig, ConfigError, RedisUrl};
use serde::Serialize;
use std::ffi::OsString;
use std::fmt::Write;

/// A password in URLs, which neither an error nor the `Debug` output may show.
const PASSWORD: &str = "hunter2";

/// An input of the target.
#[derive(Debug, Arbitrary)]
enum Input<'a> {
    Toml(&'a str),
    Json(&'a str),
    /// Settings that exist, with any values, as TOML, JSON and variables.
    Settings(Vec<(u8, Setting<'a>)>),
    /// Variables with a prefix.
    Variables {
        prefix: &'a str,
        variables: Vec<(&'a str, Vec<u8>)>,
    },
    /// A URL as it is.
    Url(&'a str),
    /// A URL with a password.
    Login {
        scheme: Scheme,
        user: &'a str,
        hosts: &'a str,
        path: &'a str,
        query: Option<&'a str>,
    },
}

/// The value of a setting.
#[derive(Debug, Arbitrary, Serialize)]
#[serde(untagged)]
enum Setting<'a> {
    Text(&'a str),
    Word(Word),
    Whole(i64),
    Float(f64),
    Bool(bool),
    List(Vec<&'a str>),
}

/// A text that some settings expect.
#[derive(Debug, Arbitrary, Serialize)]
enum Word {
    #[serde(rename = "local")]
    Local,
    #[serde(rename = "tiered")]
    Tiered,
    #[serde(rename = "unbounded")]
    Unbounded,
    #[serde(rename = "s3-fifo")]
    S3Fifo,
    #[serde(rename = "5m")]
    Minutes,
    #[serde(rename = "1h 30m")]
    Hours,
    #[serde(rename = "bounded 250ms")]
    Bounded,
    #[serde(rename = "redis://127.0.0.1/")]
    Url,
}

#[derive(Debug, Arbitrary)]
enum Scheme {
    Redis,
    RedisTls,
    Unix,
    Sentinel,
    Cluster,
}

impl Scheme {
    fn text(&self) -> &'static str {
        match self {
            Self::Redis => "redis",
            Self::RedisTls => "rediss",
            Self::Unix => "redis+unix",
            Self::Sentinel => "redis-sentinel",
            Self::Cluster => "redis-cluster",
        }
    }
}

/// The names of all settings.
const NAMES: [&str; 33] = [
    "backend",
    "capacity",
    "shards",
    "policy",
    "time_to_live",
    "time_to_idle",
    "lease",
    "wait_timeout",
    "max_concurrent_loads",
    "refresh_after",
    "early_refresh",
    "stale_if_error",
    "stale_if_slow",
    "ttl_jitter",
    "track_ages",
    "name",
    "url",
    "namespace",
    "consistency",
    "local_time_to_live",
    "deadline",
    "heartbeat",
    "max_value_size",
    "compress_above",
    "max_queued_invalidations",
    "percent",
    "shadow",
    "replicas",
    "root_certificate",
    "client_certificate",
    "client_key",
    // No settings.
    "capacty",
    "",
];

/// Checks that a configuration is read or refused without a panic, that it can be written and read again, and that
/// passwords are not shown.
///
/// # Panics
///
/// Panics if the input shows a fault.
pub fn run(data: &[u8]) {
    let Ok(input) = Input::arbitrary_take_rest(Unstructured::new(data)) else {
        return;
    };
    // Only a URL with a login has a password. Elsewhere the word is shown like any other.
    let has_word = data
        .windows(PASSWORD.len())
        .any(|word| word == PASSWORD.as_bytes());
    if has_word && !matches!(input, Input::Login { .. }) {
        return;
    }
    match input {
        Input::Toml(text) => check(CacheConfig::from_toml(text)),
        Input::Json(text) => check(CacheConfig::from_json(text)),
        Input::Settings(settings) => check_settings(&settings),
        Input::Variables { prefix, variables } => {
            let variables = variables
                .iter()
                .map(|(name, value)| (format!("{prefix}_{name}"), os_string(value)));
            check(CacheConfig::default().override_from_vars(prefix, variables));
        }
        Input::Url(url) => check_url(url),
        Input::Login {
            scheme,
            user,
            hosts,
            path,
            query,
        } => {
            let mut url = format!("{}://{user}:{PASSWORD}@{hosts}/{path}", scheme.text());
            if let Some(query) = query {
                let _ = write!(url, "?sentinel_password={PASSWORD}{query}");
            }
            // The other parts show the password if they contain it.
            if url.matches(PASSWORD).count() == 1 + usize::from(query.is_some()) {
                check_url(&url);
            }
        }
    }
}

#[cfg(unix)]
fn os_string(bytes: &[u8]) -> OsString {
    use std::os::unix::ffi::OsStringExt;
    OsString::from_vec(bytes.to_vec())
}

#[cfg(not(unix))]
fn os_string(bytes: &[u8]) -> OsString {
    String::from_utf8_lossy(bytes).into_owned().into()
}

/// Reads the same settings from TOML, from JSON and from variables, and compares the results.
fn check_settings(settings: &[(u8, Setting<'_>)]) {
    let name = |at: u8| NAMES[usize::from(at) % NAMES.len()];
    let mut table = toml::Table::new();
    let mut object = serde_json::Map::new();
    for (at, value) in settings {
        let Ok(in_toml) = toml::Value::try_from(value) else {
            continue;
        };
        table.insert(name(*at).into(), in_toml);
        object.insert(name(*at).into(), serde_json::to_value(value).unwrap());
    }
    let has_other_floats = table
        .values()
        .any(|value| value.as_float().is_some_and(|float| !float.is_finite()));
    let of_toml = CacheConfig::from_toml(&toml::to_string(&table).unwrap());
    let of_json = CacheConfig::from_json(&serde_json::to_string(&object).unwrap());
    // JSON has no infinite numbers.
    if !has_other_floats {
        let is_same = match (&of_toml, &of_json) {
            (Ok(one), Ok(other)) => format!("{one:?}") == format!("{other:?}"),
            (Err(_), Err(_)) => true,
            _ => false,
        };
        assert!(is_same, "{of_toml:?} {of_json:?}");
    }
    // Variables have the texts that JSON has, without the quotes.
    let variables = object.iter().map(|(name, value)| {
        let value = value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_string);
        (format!("A_{}", name.to_ascii_uppercase()), value)
    });
    check(CacheConfig::default().override_from_vars("A", variables));
    check(of_toml);
    check(of_json);
}

/// Builds a local cache with the URL of a server, which is checked.
fn check_url(url: &str) {
    let mut config = CacheConfig::default();
    config.capacity = Some(10.into());
    config.url = Some(RedisUrl::from(url));
    config.namespace = Some("prices".into());
    check(Ok(config));
    // The URL may also be in a place where none is expected.
    for name in ["url", "lease", "policy", "backend", "capacity", "percent"] {
        let value = toml::Value::String(url.into());
        check(CacheConfig::from_toml(&format!("{name} = {value}")));
        let variable = format!("A_{}", name.to_ascii_uppercase());
        check(CacheConfig::default().override_from_vars("A", [(variable, url)]));
    }
    check(CacheConfig::from_toml(&format!("url = \"{url}")));
    check(CacheConfig::from_toml(&format!("{url} = 1")));
    check(CacheConfig::from_json(&format!("{{\"url\": \"{url}")));
}

/// Checks the result of reading a configuration.
fn check(config: Result<CacheConfig, ConfigError>) {
    let config = match config {
        Ok(config) => config,
        Err(error) => return check_error(&error),
    };
    assert!(!format!("{config:?}").contains(PASSWORD), "{config:?}");
    if let Ok(text) = toml::to_string(&config) {
        assert_same(&config, CacheConfig::from_toml(&text), &text);
    }
    // JSON has no infinite numbers: serde writes a `null`, which counts as not set. No cache can be built with them.
    let numbers = [config.early_refresh, config.ttl_jitter, config.percent];
    if numbers.into_iter().flatten().all(f64::is_finite) {
        let text = serde_json::to_string(&config).unwrap();
        assert_same(&config, CacheConfig::from_json(&text), &text);
    }
    let built = config.local_builder::<u64, u64>();
    if let Err(error) = built {
        check_error(&error);
    }
    if let Err(error) = config.build_blocking::<u64, u64>() {
        check_error(&error);
    }
}

fn assert_same(config: &CacheConfig, read: Result<CacheConfig, ConfigError>, text: &str) {
    let read = read.unwrap_or_else(|error| panic!("{error}: {text}"));
    assert_eq!(format!("{read:?}"), format!("{config:?}"), "{text}");
    // A NaN equals itself as text only.
    let numbers = [config.early_refresh, config.ttl_jitter, config.percent];
    if !numbers.into_iter().flatten().any(f64::is_nan) {
        assert_eq!(read, *config, "{text}");
    }
}

/// Checks that an error names the setting and shows no password.
fn check_error(error: &ConfigError) {
    let text = error.to_string();
    assert!(!text.contains(PASSWORD), "{text}");
    assert!(!format!("{error:?}").contains(PASSWORD), "{error:?}");
    match error {
        ConfigError::Value { setting, reason } => {
            assert!(!setting.is_empty() && !reason.is_empty(), "{text}");
        }
        ConfigError::Unknown { candidates, .. } => assert!(!candidates.is_empty(), "{text}"),
        ConfigError::Syntax { reason, .. } => assert!(!reason.is_empty(), "{text}"),
        _ => assert!(!text.is_empty()),
    }
}
