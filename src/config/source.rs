//! Reading settings from TOML, JSON and the environment.

use crate::config::{CacheConfig, ConfigError};
use serde::de::value::MapDeserializer;
use serde::de::{Deserialize, Deserializer, IntoDeserializer, MapAccess, Visitor};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fmt::{self, Display};
use std::{env, iter};

/// The maximum edit distance, in characters, between an unknown name and the setting that an error proposes instead.
const MAX_EDIT_DISTANCE: usize = 3;

/// The names of the settings that environment variables have set, so that an error can name the variable.
#[derive(Debug, Clone, Default)]
pub(super) struct Environment {
    prefix: Option<String>,
    set: BTreeSet<&'static str>,
}

/// Always equal, so that configurations with equal settings are equal even if their settings come from different
/// sources.
impl PartialEq for Environment {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl CacheConfig {
    /// Reads the settings of a TOML document.
    ///
    /// # Errors
    ///
    /// Returns an error if the text is not TOML, if it has an unknown setting, or if a value has the wrong type.
    /// Settings that are missing or out of range are errors only when a cache is built, because the environment may
    /// set them.
    ///
    /// # Examples
    ///
    /// ```
    /// use hotset::{CacheConfig, Capacity};
    ///
    /// let config = CacheConfig::from_toml("capacity = 1000\ntime_to_live = '5m'")?;
    /// assert_eq!(config.capacity, Some(Capacity::Entries(1_000)));
    /// # Ok::<(), hotset::ConfigError>(())
    /// ```
    pub fn from_toml(text: &str) -> Result<Self, ConfigError> {
        let table: toml::Table = toml::from_str(text).map_err(|error| {
            // The `Display` of the error is not used, because it quotes the line, which may contain a password.
            let before = error.span().and_then(|span| text.get(..span.start));
            let line = before.map_or(1, |before| before.matches('\n').count() + 1);
            ConfigError::Syntax {
                format: "TOML",
                reason: format!("{}, in line {line}", error.message()),
            }
        })?;
        Self::from_entries(table)
    }

    /// Reads the settings of a JSON object. A setting that is `null` counts as not set.
    ///
    /// # Errors
    ///
    /// Returns the same errors as [`from_toml`](Self::from_toml).
    ///
    /// # Examples
    ///
    /// ```
    /// use hotset::{CacheConfig, Capacity};
    ///
    /// let config = CacheConfig::from_json(r#"{"capacity": 1000, "time_to_live": "5m"}"#)?;
    /// assert_eq!(config.capacity, Some(Capacity::Entries(1_000)));
    /// # Ok::<(), hotset::ConfigError>(())
    /// ```
    pub fn from_json(text: &str) -> Result<Self, ConfigError> {
        let Entries(entries) = serde_json::from_str(text).map_err(|error| ConfigError::Syntax {
            format: "JSON",
            reason: without_secrets(&error.to_string()),
        })?;
        Self::from_entries(entries)
    }

    /// Reads the settings of the environment: all variables that begin with the prefix and `_`, such as
    /// `PRICES_TIME_TO_LIVE` for `"PRICES"` or `"PRICES_"`. A variable with an empty value counts as not set.
    ///
    /// No other variable may begin with the prefix. Kubernetes sets variables that begin with the name of a service.
    ///
    /// # Errors
    ///
    /// Returns an error if the prefix is empty, if a variable with the prefix is not a setting, or if its value has
    /// the wrong type.
    ///
    /// # Examples
    ///
    /// ```
    /// use hotset::CacheConfig;
    ///
    /// let config = CacheConfig::from_env("PRICES")?;
    /// println!("{config:?}");
    /// # Ok::<(), hotset::ConfigError>(())
    /// ```
    pub fn from_env(prefix: &str) -> Result<Self, ConfigError> {
        Self::default().override_from_env(prefix)
    }

    /// Replaces the settings that the environment sets, and keeps the others. Variables are read like by
    /// [`from_env`](Self::from_env).
    ///
    /// # Errors
    ///
    /// Returns the same errors as [`from_env`](Self::from_env).
    ///
    /// # Examples
    ///
    /// ```
    /// use hotset::CacheConfig;
    ///
    /// let defaults = CacheConfig::from_toml("capacity = 1000")?;
    /// // With PRICES_CAPACITY=2000, the capacity is 2,000.
    /// let config = defaults.override_from_env("PRICES")?;
    /// # Ok::<(), hotset::ConfigError>(())
    /// ```
    pub fn override_from_env(self, prefix: &str) -> Result<Self, ConfigError> {
        self.override_from_vars(prefix, env::vars_os())
    }

    /// Replaces settings like [`override_from_env`](Self::override_from_env), but from the given variables.
    ///
    /// # Errors
    ///
    /// Returns the same errors as [`from_env`](Self::from_env).
    ///
    /// # Examples
    ///
    /// ```
    /// use hotset::CacheConfig;
    ///
    /// let file = CacheConfig::from_toml("capacity = 1000\nlease = '3s'")?;
    /// let config = file.override_from_vars("PRICES", [("PRICES_CAPACITY", "2000")])?;
    /// assert_eq!(config, CacheConfig::from_toml("capacity = 2000\nlease = '3s'")?);
    /// # Ok::<(), hotset::ConfigError>(())
    /// ```
    pub fn override_from_vars<N: Into<OsString>, V: Into<OsString>>(
        mut self,
        prefix: &str,
        vars: impl IntoIterator<Item = (N, V)>,
    ) -> Result<Self, ConfigError> {
        let prefix = match prefix.strip_suffix('_').unwrap_or(prefix) {
            "" => return Err(no_prefix()),
            prefix => format!("{prefix}_"),
        };
        for (variable, value) in vars {
            let variable = variable.into();
            let Some(rest) = variable
                .to_str()
                .and_then(|name| name.strip_prefix(&prefix))
            else {
                continue;
            };
            let name = find_setting(rest, Some(&prefix))?;
            let value = value.into();
            let value = value.to_str().ok_or_else(|| ConfigError::Value {
                setting: source_name(name, Some(&prefix)),
                reason: "it is not Unicode".to_string(),
            })?;
            self.set(name, Some(&prefix), serde_plain::Deserializer::new(value))?;
            if !value.is_empty() {
                self.environment.set.insert(name);
            }
        }
        self.environment.prefix = Some(prefix);
        Ok(self)
    }

    fn from_entries<'de, D: Deserializer<'de>>(
        entries: impl IntoIterator<Item = (String, D)>,
    ) -> Result<Self, ConfigError>
    where
        D::Error: Display,
    {
        let mut config = Self::default();
        for (name, value) in entries {
            let name = find_setting(&name, None)?;
            if config.is_set(name) {
                return Err(ConfigError::Value {
                    setting: name.to_string(),
                    reason: "it is set twice: remove one of them".to_string(),
                });
            }
            config.set(name, None, value)?;
        }
        Ok(config)
    }

    /// Deserializes a single setting, so that an error can name it.
    fn set<'de, D: Deserializer<'de>>(
        &mut self,
        name: &'static str,
        prefix: Option<&str>,
        value: D,
    ) -> Result<(), ConfigError> {
        let entry = MapDeserializer::new(iter::once((name, SingleValue(value))));
        let one = Self::deserialize(entry).map_err(|error: D::Error| ConfigError::Value {
            setting: source_name(name, prefix),
            reason: without_secrets(error.to_string().trim_end()),
        })?;
        self.overlay(one);
        Ok(())
    }

    /// Returns the name of a setting in its source: the environment variable or the plain name. For a setting that is
    /// not set, returns both if the environment was read.
    pub(super) fn name_of(&self, name: &str) -> String {
        let Environment { prefix, set } = &self.environment;
        let variable = source_name(name, prefix.as_deref());
        if set.contains(name) {
            variable
        } else if prefix.is_some() && !self.is_set(name) {
            format!("{name} (in the environment {variable})")
        } else {
            name.to_string()
        }
    }
}

/// The entries of a JSON object, including duplicate keys.
struct Entries(Vec<(String, serde_json::Value)>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(EntriesVisitor)
    }
}

struct EntriesVisitor;

impl<'de> Visitor<'de> for EntriesVisitor {
    type Value = Entries;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of settings")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Entries, A::Error> {
        let next = || object.next_entry().transpose();
        iter::from_fn(next).collect::<Result<_, _>>().map(Entries)
    }
}

/// A deserializer that is passed as the value of a map entry.
struct SingleValue<D>(D);

impl<'de, D: Deserializer<'de>> IntoDeserializer<'de, D::Error> for SingleValue<D> {
    type Deserializer = D;

    fn into_deserializer(self) -> D {
        self.0
    }
}

/// Returns the name of a setting in a source: the name of the environment variable if there is a prefix.
fn source_name(name: &str, prefix: Option<&str>) -> String {
    match prefix {
        Some(prefix) => format!("{prefix}{}", name.to_ascii_uppercase()),
        None => name.to_string(),
    }
}

/// Returns the setting that a source calls `written`, after the prefix.
///
/// # Errors
///
/// If there is no such setting, returns an error that proposes the most similar one. If none is similar, the error
/// lists all settings.
fn find_setting(written: &str, prefix: Option<&str>) -> Result<&'static str, ConfigError> {
    let whole = format!("{}{written}", prefix.unwrap_or_default());
    let mut names = CacheConfig::NAMES.iter().copied();
    if let Some(name) = names.find(|name| source_name(name, prefix) == whole) {
        return Ok(name);
    }
    let distance = |name: &str| strsim::osa_distance(&source_name(name, prefix), &whole);
    let nearest = CacheConfig::NAMES
        .iter()
        .filter(|name| distance(name) <= MAX_EDIT_DISTANCE)
        .min_by_key(|name| distance(name));
    let offered = nearest.map_or(CacheConfig::NAMES, std::slice::from_ref);
    Err(ConfigError::Unknown {
        setting: without_secrets(&whole),
        candidates: offered
            .iter()
            .map(|name| source_name(name, prefix))
            .collect(),
    })
}

fn no_prefix() -> ConfigError {
    ConfigError::Value {
        setting: "prefix".to_string(),
        reason: "it is empty, so any variable could be a setting: use for example \"PRICES_\""
            .to_string(),
    }
}

/// Replaces an error text that may contain a URL, because a URL may contain a password.
fn without_secrets(text: &str) -> String {
    if text.contains("://") || text.contains('@') {
        return "a URL is not expected here".to_string();
    }
    text.to_string()
}
