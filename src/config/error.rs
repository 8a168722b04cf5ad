//! Errors of a configuration. The messages say what to change.

use crate::config::value::Backend;
use crate::error::BuildError;
use std::error::Error;
use std::fmt;

/// The reason why a [`CacheConfig`](crate::config::CacheConfig) cannot be read, or a cache cannot be built from it.
///
/// `setting` is the name of the setting in its source: `time_to_live`, or for an environment variable
/// `PRICES_TIME_TO_LIVE`.
///
/// # Examples
///
/// ```
/// use hotset::CacheConfig;
///
/// let error = CacheConfig::from_toml("capacty = 1000").unwrap_err();
/// assert_eq!(error.to_string(), "there is no setting capacty: did you mean capacity?");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConfigError {
    /// The text does not parse.
    Syntax {
        /// `"TOML"` or `"JSON"`.
        format: &'static str,
        /// Description of the error, with its position.
        reason: String,
    },
    /// A setting that does not exist.
    Unknown {
        /// Its name in its source.
        setting: String,
        /// The setting that was probably meant, or all settings.
        candidates: Vec<String>,
    },
    /// A setting with an invalid value.
    Value {
        /// Its name.
        setting: String,
        /// Description of the value, and of the expected one.
        reason: String,
    },
    /// A setting that this backend needs.
    Missing {
        /// Its name.
        setting: String,
        /// Description of a valid value.
        expected: &'static str,
    },
    /// This build of hotset lacks the feature `redis`.
    NoRedis {
        /// The name of the setting `backend`.
        setting: String,
        /// The backend that was requested.
        backend: Backend,
    },
    /// A value that a builder refuses.
    Build {
        /// The name of the setting; `None` if the reason is not a setting.
        setting: Option<String>,
        /// The error of the builder.
        error: BuildError,
    },
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Syntax { format, reason } => write!(f, "this is not valid {format}: {reason}"),
            Self::Unknown {
                setting,
                candidates,
            } => match &**candidates {
                [similar] => write!(f, "there is no setting {setting}: did you mean {similar}?"),
                all => write!(
                    f,
                    "there is no setting {setting}: use one of {}",
                    all.join(", ")
                ),
            },
            Self::Value { setting, reason } => write!(f, "{setting}: {reason}"),
            Self::Missing { setting, expected } => {
                write!(f, "{setting} is missing: set it to {expected}")
            }
            Self::NoRedis { setting, backend } => write!(
                f,
                "{setting} is {backend}, and hotset was built without Redis: add the feature \
                 \"redis\" to it in Cargo.toml, or use local"
            ),
            Self::Build { setting, error } => {
                let reason = error.to_string();
                match setting {
                    Some(setting) if !reason.contains(&**setting) => {
                        write!(f, "{setting}: {reason}")
                    }
                    _ => f.write_str(&reason),
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

/// Returns the name of the setting that a builder refuses.
pub(super) fn setting_of(error: &BuildError) -> Option<&'static str> {
    Some(match error {
        BuildError::NoBound
        | BuildError::SeveralBounds
        | BuildError::NoWeigher
        | BuildError::WeigherWithoutBound => "capacity",
        BuildError::Shards(_) => "shards",
        BuildError::ZeroDuration(setting)
        | BuildError::OutOfRange(setting)
        | BuildError::Certificate(setting) => setting,
        BuildError::RefreshAfterEnd => "refresh_after",
        BuildError::StaleIfSlowAlone => "stale_if_slow",
        BuildError::NoLoads => "max_concurrent_loads",
        BuildError::RedisUrl(_) => "url",
        BuildError::Namespace => "namespace",
        BuildError::Heartbeat => "heartbeat",
        BuildError::Partitions => "partitions",
        BuildError::NextPartitions => "next_partitions",
        BuildError::ReadFromReplicas => "read_from_replicas",
        BuildError::NoRuntime | BuildError::HubCertificates | BuildError::OtherBound(_) => {
            return None;
        }
    })
}
