//! The number of partitions with which processes use a namespace.
//!
//! The partitions of each number have keys and events of their own. A process with another number would find no value of
//! the others, and would miss their invalidations, as they would miss its own. So a number is refused while processes
//! use another one. All numbers are noted at the key for the settings of a namespace with one partition.

use crate::tiered::l2::envelope::millis;
use crate::tiered::l2::redis::coalesced_query::CoalescedQuery;
use crate::tiered::l2::redis::connection::Connection;
use crate::tiered::l2::redis::renewal::SETTINGS_RETENTION;
use crate::tiered::l2::redis::round_trip::{PriorityClass, RoundTrip};
use crate::tiered::l2::redis::{CALL_OVERHEAD, NOTE, Redis, parse, script_call};
use crate::tiered::l2::remote::RemoteError;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Whether other processes use the namespace with the same number of partitions as a cache.
#[derive(Default)]
pub(crate) struct Layout {
    /// The access to the settings, for a cache with several partitions. A cache with one notes them when it renews its
    /// read lease.
    noting: Option<Noting>,
    /// The settings of the processes that use another number, while the number of this cache is refused.
    refused_for: Mutex<Vec<String>>,
    is_refused: AtomicBool,
}

struct Noting {
    /// The namespace as one with one partition.
    redis: Arc<Redis>,
    query: CoalescedQuery<()>,
    is_done: AtomicBool,
}

impl Layout {
    /// Creates the layout of a cache with several partitions. `redis` is the namespace as one with one partition.
    pub(crate) fn of_several(redis: Redis) -> Self {
        let query = CoalescedQuery::new(redis.hub.runtime.clone());
        Self {
            noting: Some(Noting {
                redis: Arc::new(redis),
                query,
                is_done: AtomicBool::new(false),
            }),
            ..Self::default()
        }
    }

    /// Notes whether the number of this cache was refused, because there are processes with these settings.
    pub(super) fn set_refused(&self, is_refused: bool, others: &[String]) {
        let others = if is_refused { others } else { &[] };
        *self.refused_for.lock() = others.to_vec();
        self.is_refused.store(is_refused, Relaxed);
    }

    /// Returns the settings of the processes for which the number of a cache with several partitions is refused.
    pub(super) fn others(&self) -> Vec<String> {
        if self.noting.is_some() {
            self.refused_for.lock().clone()
        } else {
            Vec::new()
        }
    }

    /// Returns an error if the number of this cache is refused.
    ///
    /// # Errors
    ///
    /// Returns [`RemoteError::Refused`].
    pub(super) fn check(&self) -> Result<(), RemoteError> {
        if !self.is_refused.load(Relaxed) {
            return Ok(());
        }
        let others = self.refused_for.lock().join("; ");
        Err(RemoteError::Refused(format!(
            "other processes use the namespace with another number of partitions ({others}): set the same number, or \
             wait until five minutes after these processes have ended"
        )))
    }

    /// Checks the number before the first call. If the server of the settings does not answer, calls are made without
    /// the check, which is repeated with each renewal that has upkeep.
    pub(super) async fn check_first(self: &Arc<Self>) -> Result<(), RemoteError> {
        if let Some(noting) = &self.noting {
            if !noting.is_done.load(Relaxed) {
                self.note().await;
            }
        }
        self.check()
    }

    /// Returns an error if all processes with a cache use another number of partitions than this.
    ///
    /// # Errors
    ///
    /// Returns [`RemoteError::Refused`]. If the server of the settings does not answer, there is no error.
    pub(crate) async fn check_caches(
        &self,
        redis: &Redis,
        partitions: u16,
    ) -> Result<(), RemoteError> {
        let settings = format!("an invalidator{}", suffix(partitions));
        let redis = self.noting.as_ref().map_or(redis, |noting| &noting.redis);
        if let Ok((others, is_refused)) = redis.note_settings(&settings, true).await {
            self.set_refused(is_refused, &others);
        }
        self.check()
    }

    /// Notes the settings of a cache with several partitions, and whether they are refused.
    ///
    /// The future is boxed, because the call is made by a function that calls this one.
    pub(super) fn note(self: &Arc<Self>) -> BoxFuture<'_, ()> {
        Box::pin(self.note_now())
    }

    async fn note_now(self: &Arc<Self>) {
        let is_cache = |noting: &&Noting| !noting.redis.settings.shared_settings.is_empty();
        let Some(noting) = self.noting.as_ref().filter(is_cache) else {
            return;
        };
        let note = || {
            let layout = Arc::clone(self);
            let redis = Arc::clone(&noting.redis);
            async move {
                let settings = &redis.settings.shared_settings;
                let (others, is_refused) = redis.note_settings(settings, false).await?;
                layout.set_refused(is_refused, &others);
                Ok(())
            }
        };
        let _ = noting.query.run(note).await;
        noting.is_done.store(true, Relaxed);
    }
}

/// Returns the end of a description of settings, from which scripts read the number of partitions.
pub(crate) fn suffix(partitions: u16) -> String {
    match partitions {
        1 => String::new(),
        _ => format!(" in {partitions} partitions"),
    }
}

impl Redis {
    /// Notes settings where those of a namespace with one partition are noted. If `is_query`, notes nothing. Returns the
    /// other ones, and whether these are refused.
    async fn note_settings(
        &self,
        settings: &str,
        is_query: bool,
    ) -> Result<(Vec<String>, bool), RemoteError> {
        let call = |connection: &Connection| {
            let mut call = script_call(&NOTE, connection, [&self.names.settings].into_iter());
            call.arg(millis(SETTINGS_RETENTION))
                .arg(settings)
                .arg(u8::from(is_query));
            call
        };
        let round_trip = RoundTrip::new(PriorityClass::Control, CALL_OVERHEAD);
        let reply = self.call_once(round_trip.without_layout(), call).await?;
        let (others, is_refused): (Vec<String>, u8) = parse(reply)?;
        Ok((others, is_refused == 1))
    }
}
