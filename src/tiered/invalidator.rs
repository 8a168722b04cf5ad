//! Invalidations by processes that have no cache.

use crate::codec::encode_key_name;
use crate::error::BuildError;
use crate::tiered::MAX_NAME_LEN;
use crate::tiered::build::{check_heartbeat, check_namespace};
use crate::tiered::builder::DEFAULT_HEARTBEAT;
use crate::tiered::coherence::invalidation_acks::InvalidationAcks;
use crate::tiered::health::Warning;
use crate::tiered::l2::redis::{Certificates, Redis, RedisServer, RedisSettings, entropy};
use crate::tiered::l2::remote::{
    LookupReply, LookupRequest, Message, Remote, RemoteError, Subject,
};
use serde::Serialize;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

/// The deadline of a call to Redis.
const DEADLINE: Duration = Duration::from_secs(5);

/// Invalidates entries of a namespace from a process that has no cache, such as a migration script.
///
/// An invalidation has the same effect as one of a [`TieredCache`](crate::TieredCache) of the class `Realtime`: it
/// returns when no process serves the old value any more. It is not queued if Redis cannot be reached: the error says
/// so, and the call can be repeated.
///
/// # Examples
///
/// ```no_run
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use hotset::Invalidator;
///
/// // After a script has changed the prices of two fruits:
/// let prices = Invalidator::new("redis://127.0.0.1/", "prices")?;
/// prices.invalidate("apple").await?;
/// prices.invalidate("pear").await?;
/// # Ok(())
/// # }
/// ```
pub struct Invalidator {
    redis: Arc<Redis>,
    acks: Arc<InvalidationAcks>,
    /// The task that receives acknowledgements.
    listener: Mutex<Option<JoinHandle<()>>>,
    runtime: Handle,
}

/// A value in Redis, from [`Invalidator::inspect`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RemoteEntry {
    /// The size of the value as it is stored, in bytes: with its key and its tags, and compressed if it is.
    pub size: usize,
    /// The time until it expires, or `None` if it does not expire.
    pub time_to_live: Option<Duration>,
}

/// The result of [`Invalidator::check`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ServiceCheck {
    /// The time in which a message that was sent through Redis came back.
    pub round_trip: Duration,
    /// The number of invalidations in the namespace so far.
    pub invalidations: u64,
    /// The warnings about the configuration of the server.
    pub warnings: Vec<Warning>,
}

impl Invalidator {
    /// Creates an invalidator of a namespace, whose caches have the default heartbeat of 500 milliseconds.
    ///
    /// # Errors
    ///
    /// Returns an error if the URL or the namespace is invalid, or if this is not called in a tokio runtime. The server
    /// need not be reachable.
    pub fn new(
        server: impl Into<RedisServer>,
        namespace: impl AsRef<str>,
    ) -> Result<Self, BuildError> {
        Self::with_heartbeat(server, namespace, DEFAULT_HEARTBEAT)
    }

    /// Creates an invalidator of a namespace, whose caches have this
    /// [heartbeat](crate::TieredCacheBuilder::heartbeat).
    ///
    /// # Errors
    ///
    /// Returns an error like [`new`](Self::new), and if the heartbeat is out of range.
    pub fn with_heartbeat(
        server: impl Into<RedisServer>,
        namespace: impl AsRef<str>,
        heartbeat: Duration,
    ) -> Result<Self, BuildError> {
        check_namespace(namespace.as_ref())?;
        check_heartbeat(heartbeat)?;
        let target = server.into().target(Certificates::default())?;
        let runtime = Handle::try_current().map_err(|_| BuildError::NoRuntime)?;
        let settings = RedisSettings {
            deadline: DEADLINE,
            lease: DEADLINE,
            read_lease: 2 * heartbeat,
            max_size: usize::MAX,
            replicas: 0,
            // It uses no values, so its settings agree with those of any cache.
            shared_settings: String::new(),
        };
        let hub = target.into_hub(&runtime);
        let redis = Redis::new(hub, namespace.as_ref(), entropy(), settings);
        Ok(Self {
            redis: Arc::new(redis),
            acks: Arc::default(),
            listener: Mutex::default(),
            runtime,
        })
    }

    /// Invalidates the entry of `key` in all processes, and waits until none serves it.
    ///
    /// `key` must have the same form in Serde as the keys of the caches: `&str` for `String`, any integer for any
    /// other, maps for structures.
    ///
    /// # Errors
    ///
    /// Returns an error if Redis cannot be reached or refuses the call, and [`RemoteError::Refused`] if the key cannot
    /// be encoded or is longer than 64 KiB. After another error than that, the entry may have been invalidated.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the entry may have been invalidated.
    pub async fn invalidate<Q: Serialize + ?Sized>(&self, key: &Q) -> Result<(), RemoteError> {
        self.invalidate_subject(Subject::Key(name(key)?)).await
    }

    /// Invalidates all entries with a tag in all processes, and waits until none serves them.
    ///
    /// # Errors
    ///
    /// Returns an error if Redis cannot be reached or refuses the call. The entries may have been invalidated.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the entries may have been invalidated.
    pub async fn invalidate_tag(&self, tag: &str) -> Result<(), RemoteError> {
        self.invalidate_subject(Subject::Tag(tag.into())).await
    }

    /// Invalidates all entries in all processes, and waits until none serves them.
    ///
    /// # Errors
    ///
    /// Returns an error if Redis cannot be reached or refuses the call. The entries may have been invalidated.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the entries may have been invalidated.
    pub async fn clear(&self) -> Result<(), RemoteError> {
        self.invalidate_subject(Subject::All).await
    }

    /// Returns what Redis stores for `key`, or `None` if it has no valid value.
    ///
    /// # Errors
    ///
    /// Returns an error if Redis cannot be reached or refuses the call, or if the key cannot be encoded.
    ///
    /// # Cancel safety
    ///
    /// The future may be dropped at any time.
    pub async fn inspect<Q: Serialize + ?Sized>(
        &self,
        key: &Q,
    ) -> Result<Option<RemoteEntry>, RemoteError> {
        let name = name(key)?;
        let request = LookupRequest::without_load(&name);
        let replies = self.redis.lookup(std::slice::from_ref(&request)).await?;
        match replies.into_iter().next() {
            Some(Ok(LookupReply::Value { envelope, left, .. })) => Ok(Some(RemoteEntry {
                size: envelope.len(),
                time_to_live: left,
            })),
            Some(Err(error)) => Err(error),
            _ => Ok(None),
        }
    }

    /// Checks that Redis can be reached, that the user has the required rights, and that messages arrive.
    ///
    /// # Errors
    ///
    /// Returns an error if one of these does not hold.
    ///
    /// # Cancel safety
    ///
    /// The future may be dropped at any time.
    pub async fn check(&self) -> Result<ServiceCheck, RemoteError> {
        let mut messages = self.redis.subscribe().await?;
        // Numbers in Lua have 53 bits.
        let sent = entropy() >> 11;
        let begun = Instant::now();
        self.redis.renew(sent, Duration::ZERO).await?;
        let arrived = async {
            loop {
                if let Message::Heartbeat { at, nonce } = messages.next().await? {
                    if nonce == sent {
                        return Ok(at.version);
                    }
                }
            }
        };
        let arrived = tokio::time::timeout(DEADLINE, arrived).await;
        Ok(ServiceCheck {
            invalidations: arrived
                .unwrap_or(Err(RemoteError::Timeout))?
                .saturating_sub(1),
            round_trip: begun.elapsed(),
            warnings: self.redis.warnings(),
        })
    }

    async fn invalidate_subject(&self, subject: Subject) -> Result<(), RemoteError> {
        self.listen().await;
        let invalidated = self.redis.invalidate(&subject, None).await?;
        let readers = &invalidated.readers;
        self.acks.wait(invalidated.position, readers).await;
        Ok(())
    }

    /// Starts to receive acknowledgements, unless it has started. If that fails, invalidations wait until the read
    /// leases of all processes have ended.
    async fn listen(&self) {
        let mut listener = self.listener.lock().await;
        if listener.as_ref().is_some_and(|task| !task.is_finished()) {
            return;
        }
        if let Ok(mut messages) = self.redis.subscribe().await {
            let acks = Arc::clone(&self.acks);
            *listener = Some(self.runtime.spawn(async move {
                while let Ok(message) = messages.next().await {
                    if let Message::Acknowledgement { by, at } = message {
                        acks.record(by, at);
                    }
                }
            }));
        }
    }
}

/// Returns the name of a key in Redis.
fn name<Q: Serialize + ?Sized>(key: &Q) -> Result<Box<[u8]>, RemoteError> {
    let refused = |why: String| RemoteError::Refused(format!("the key has no name: {why}"));
    let name = encode_key_name(key).map_err(|error| refused(error.to_string()))?;
    if name.len() > MAX_NAME_LEN {
        return Err(refused(format!("it is longer than {MAX_NAME_LEN} bytes")));
    }
    Ok(name.into())
}

impl Drop for Invalidator {
    fn drop(&mut self) {
        if let Some(listener) = self.listener.get_mut() {
            listener.abort();
        }
    }
}

impl fmt::Debug for Invalidator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the URL, which may contain a password.
        f.debug_struct("Invalidator").finish_non_exhaustive()
    }
}
