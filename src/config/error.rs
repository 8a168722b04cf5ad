//! What is wrong with a configuration, and what to do about it.

use super::value::Backend;
use crate::error::BuildError;
use std::error::Error;
use std::fmt;

/// Why a [`CacheConfig`](super::CacheConfig) cannot be read, or no cache be built from it. `setting` is
/// its name where it was set: `time_to_live`, or for a variable `PRICES_TIME_TO_LIVE`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConfigError {
    /// The text does not parse.
    Syntax {
        /// `"TOML"` or `"JSON"`.
        format: &'static str,
        /// What was found, and where.
        why: String,
    },
    /// There is no such setting.
    Unknown {
        /// As it was written.
        setting: String,
        /// The one that was likely meant, or all that there are.
        known: Vec<String>,
    },
    /// A setting with a value that is not one.
    Value {
        /// Its name.
        setting: String,
        /// What was found, and what is expected.
        why: String,
    },
    /// A setting that this backend needs.
    Missing {
        /// Its name.
        setting: String,
        /// What it is.
        what: &'static str,
    },
    /// This build of hotset lacks the feature `redis`.
    NoRedis {
        /// The name of the setting `backend`.
        setting: String,
        /// The one that was asked for.
        backend: Backend,
    },
    /// A value that a builder refuses.
    Build {
        /// The name of the setting; `None` if it is not for a setting that it cannot be built.
        setting: Option<String>,
        /// Why.
        error: BuildError,
    },
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Syntax { format, why } => write!(f, "this is no {format}: {why}"),
            Self::Unknown { setting, known } => match &**known {
                [meant] => write!(f, "there is no setting {setting}: did you mean {meant}?"),
                known => write!(
                    f,
                    "there is no setting {setting}: use one of {}",
                    known.join(", ")
                ),
            },
            Self::Value { setting, why } => write!(f, "{setting}: {why}"),
            Self::Missing { setting, what } => write!(f, "{setting} is missing: set it to {what}"),
            Self::NoRedis { setting, backend } => write!(
                f,
                "{setting} is {backend}, and hotset was built without Redis: add the feature \
                 \"redis\" to it in Cargo.toml, or use local"
            ),
            Self::Build { setting, error } => {
                let why = error.to_string();
                match setting {
                    Some(setting) if !why.contains(&**setting) => write!(f, "{setting}: {why}"),
                    _ => f.write_str(&why),
                }
            }
        }
    }
}

impl Error for ConfigError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Build { error, .. } => Some(error),
            _ => None,
        }
    }
}

/// Which setting a builder refuses.
pub(super) fn setting_of(error: &BuildError) -> Option<&'static str> {
    Some(match error {
        BuildError::NoBound
        | BuildError::SeveralBounds
        | BuildError::NoWeigher
        | BuildError::WeigherWithoutBound => "capacity",
        BuildError::Shards(_) => "shards",
        BuildError::ZeroDuration("consistency: Bounded") => "consistency",
        BuildError::ZeroDuration(setting)
        | BuildError::OutOfRange(setting)
        | BuildError::NotOverRedis(setting)
        | BuildError::Certificate(setting) => setting,
        BuildError::RefreshAfterEnd => "refresh_after",
        BuildError::StaleIfSlowAlone => "stale_if_slow",
        BuildError::NoLoads => "max_concurrent_loads",
        BuildError::RedisUrl(_) => "url",
        BuildError::Namespace => "namespace",
        BuildError::Heartbeat => "heartbeat",
        BuildError::NoRuntime => return None,
    })
}
