//! The layouts with which processes use a namespace: its number of partitions, or the change to another number.
//!
//! The partitions of each number have keys and events of their own. A process with another number would find no value of
//! the others, and would miss their invalidations, as they would miss its own. So a number is refused while processes
//! use another one, except during a [change](crate::tiered::layout_change). All layouts are noted at the key for the
//! settings of a namespace with one partition.

use crate::tiered::l2::envelope::millis;
use crate::tiered::l2::redis::coalesced_query::CoalescedQuery;
use crate::tiered::l2::redis::connection::Connection;
use crate::tiered::l2::redis::renewal::SETTINGS_RETENTION;
use crate::tiered::l2::redis::round_trip::{PriorityClass, RoundTrip};
use crate::tiered::l2::redis::{
    CALL_OVERHEAD, NOTE, PartitionId, Redis, malformed_reply, parse, script_call,
};
use crate::tiered::l2::remote::RemoteError;
use crate::tiered::layout_change::{LayoutChange, Phase};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// The interval at which settings are noted again. It is much shorter than their retention.
const NOTE_INTERVAL: Duration = Duration::from_secs(60);

/// The time after which settings are noted again before the next call: almost the time after which a process with
/// another layout may be accepted.
const MAX_PAUSE: Duration = SETTINGS_RETENTION.saturating_sub(Duration::from_secs(30));

/// Whether other processes use the namespace with a layout that agrees with that of a cache.
#[derive(Default)]
pub(crate) struct Layout {
    /// The access to the settings. `None` for an invalidator of a namespace with one partition.
    noting: Option<Noting>,
    /// The generations of the layouts whose values are up to date, which are those that this cache may read. Empty for an
    /// invalidator, and until the first note.
    generations: Mutex<Vec<(u16, Arc<str>)>>,
    /// The settings of the processes with which the layout of this cache, or the wanted phase of its change, does not
    /// agree.
    refused_for: Mutex<Vec<String>>,
    is_refused: AtomicBool,
}

struct Noting {
    /// The namespace as one with one partition.
    redis: Arc<Redis>,
    /// The number of partitions.
    count: u16,
    change: Option<Arc<LayoutChange>>,
    query: CoalescedQuery<()>,
    last: Mutex<LastNote>,
}

/// The last attempt to note the settings.
#[derive(Default)]
struct LastNote {
    /// The time at which it began. `None` if another one has to be made before the next call.
    begun: Option<Instant>,
    has_failed: bool,
    /// `true` if any attempt has succeeded so far.
    is_known: bool,
}

impl LastNote {
    fn is_older(&self, than: Duration) -> bool {
        self.begun.is_none_or(|begun| begun.elapsed() >= than)
    }
}

/// The reply when settings were noted.
struct Noted {
    /// The settings of other processes that do not agree, or differ in something else.
    others: Vec<String>,
    /// The number of the settings that were noted, from 1, or 0 if all are refused.
    number: usize,
    /// The layouts whose values are up to date, each followed by its generation.
    generations: Vec<String>,
}

impl Noting {
    /// Checks whether this is a cache, and not an invalidator, whose settings are not noted.
    fn is_cache(&self) -> bool {
        !self.redis.settings.shared_settings.is_empty()
    }

    /// Notes an attempt to note the settings, begun at this time.
    fn note_attempt(&self, begun: Instant, has_succeeded: bool) {
        let mut last = self.last.lock();
        last.begun = Some(begun);
        last.has_failed = !has_succeeded;
        last.is_known |= has_succeeded;
    }

    /// Returns the phases of the change that are right now, the best one first, with the settings for each. Without a
    /// change there are only settings.
    fn candidates(&self) -> Vec<(Option<Phase>, String)> {
        let settings = &self.redis.settings.shared_settings;
        let Some(change) = &self.change else {
            return vec![(None, format!("{settings}{}", suffix(self.count)))];
        };
        let phases = change.wanted(Instant::now()).iter();
        let candidates = phases.map(|&phase| {
            let suffix = change_suffix(change, phase.name());
            (Some(phase), format!("{settings}{suffix}"))
        });
        candidates.collect()
    }

    /// Notes the phase in which this cache is from now on. `None` if that could not be noted.
    fn enter(&self, phase: Option<Phase>) {
        if let Some(change) = &self.change {
            change.enter(phase, Instant::now());
        }
    }
}

impl Layout {
    /// Creates the layout of a cache or an invalidator. `redis` is the namespace as one with one partition.
    pub(crate) fn new(redis: Redis, count: u16, change: Option<Arc<LayoutChange>>) -> Self {
        let query = CoalescedQuery::new(redis.hub.runtime.clone());
        Self {
            noting: Some(Noting {
                redis: Arc::new(redis),
                count,
                change,
                query,
                last: Mutex::default(),
            }),
            ..Self::default()
        }
    }

    /// Checks whether the settings are always noted by a call of their own. With one partition, only the first note is a
    /// call of its own; renewals contain the later ones.
    pub(super) fn is_noted_separately(&self) -> bool {
        let is_separate = |noting: &Noting| noting.count > 1 || noting.change.is_some();
        self.noting.as_ref().is_some_and(is_separate)
    }

    /// Returns the generation of a layout. It is empty, which accepts every state, for the first layout of a namespace,
    /// for one that this cache only writes, and for an invalidator.
    pub(super) fn generation(&self, of: u16) -> Arc<str> {
        let generations = self.generations.lock();
        let known = generations.iter().find(|(layout, _)| *layout == of);
        known.map_or_else(Arc::default, |(_, generation)| Arc::clone(generation))
    }

    /// Returns an error if the values of a partition may be outdated, because the cache uses another layout by now.
    ///
    /// # Errors
    ///
    /// Returns [`RemoteError::Refused`].
    pub(super) fn check_read(&self, partition: PartitionId) -> Result<(), RemoteError> {
        let generations = self.generations.lock();
        let is_read = |(layout, _): &(u16, _)| *layout == partition.of;
        if generations.is_empty() || generations.iter().any(is_read) {
            return Ok(());
        }
        let of = partition.of;
        Err(RemoteError::Refused(format!(
            "the namespace uses another number of partitions than {of} by now: repeat the call"
        )))
    }

    /// Notes the reply of a renewal, begun at this time, that has noted the settings of a namespace with one partition.
    pub(super) fn note_renewal(
        &self,
        begun: Instant,
        (is_refused, others, generation): (bool, &[String], String),
    ) {
        if !is_refused {
            *self.generations.lock() = vec![(1, generation.into())];
        }
        if let Some(noting) = &self.noting {
            noting.note_attempt(begun, true);
        }
        self.set_refused(is_refused, others);
    }

    /// Checks whether the settings are noted at the heartbeats of this partition.
    pub(super) fn is_noted_with(&self, partition: PartitionId) -> bool {
        let is_first = |noting: &Noting| partition.number == 0 && partition.of == noting.count;
        self.is_noted_separately() && self.noting.as_ref().is_some_and(is_first)
    }

    /// Adapts a change to the percentage of moved keys that is set. Returns `true` if its phase has to be noted. Called
    /// at each heartbeat.
    pub(super) fn adapt(&self) -> bool {
        let change = self
            .noting
            .as_ref()
            .and_then(|noting| noting.change.as_ref());
        change.is_some_and(|change| change.adapt(Instant::now()))
    }

    /// Checks whether the settings have to be noted again: after an interval, after a failure, or because they were
    /// refused.
    pub(super) fn needs_note(&self) -> bool {
        let is_due = |noting: &Noting| {
            let last = noting.last.lock();
            last.has_failed || last.is_older(NOTE_INTERVAL)
        };
        self.check().is_err() || self.noting.as_ref().is_none_or(is_due)
    }

    /// Notes the settings again before the next call, because they may have been lost.
    pub(super) fn note_again(&self) {
        if let Some(noting) = &self.noting {
            noting.last.lock().begun = None;
        }
    }

    /// Notes whether the layout of this cache was refused, because there are processes with these settings.
    pub(super) fn set_refused(&self, is_refused: bool, others: &[String]) {
        let others = if is_refused { others } else { &[] };
        *self.refused_for.lock() = others.to_vec();
        self.is_refused.store(is_refused, Relaxed);
    }

    /// Returns the settings of the processes for which the layout of a cache with several partitions, or the wanted phase
    /// of its change, is refused.
    pub(super) fn others(&self) -> Vec<String> {
        if self.is_noted_separately() {
            self.refused_for.lock().clone()
        } else {
            Vec::new()
        }
    }

    /// Returns an error if the layout of this cache is refused.
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
             wait until five minutes after these processes have ended or have changed their settings"
        )))
    }

    /// Checks the number before the first call, and after a pause in which other processes may have forgotten this one.
    ///
    /// # Errors
    ///
    /// Returns [`RemoteError::Refused`], or the error of the check if none has succeeded so far. Later, calls are made
    /// although the server of the settings does not answer, and the check is repeated at each heartbeat.
    pub(super) async fn check_first(self: &Arc<Self>) -> Result<(), RemoteError> {
        if let Some(noting) = self.noting.as_ref().filter(|noting| noting.is_cache()) {
            let is_due = {
                let last = noting.last.lock();
                !last.is_known || last.is_older(MAX_PAUSE)
            };
            if is_due {
                let noted = tokio::time::timeout(noting.redis.limits.deadline, self.note()).await;
                let noted = noted.unwrap_or(Err(RemoteError::Timeout));
                if !noting.last.lock().is_known {
                    noted?;
                }
            }
        }
        self.check()
    }

    /// Returns an error if all processes with a cache use another layout. `redis` is the partition of an only one.
    ///
    /// # Errors
    ///
    /// Returns [`RemoteError::Refused`]. If the server of the settings does not answer, there is no error.
    pub(crate) async fn check_caches(&self, redis: &Redis) -> Result<(), RemoteError> {
        let noting = self.noting.as_ref();
        let change = noting.and_then(|noting| noting.change.as_ref());
        let count = noting.map_or(1, |noting| noting.count);
        let suffix = change.map_or_else(|| suffix(count), |it| change_suffix(it, "writing"));
        let settings = [format!("an invalidator{suffix}")];
        let redis = noting.map_or(redis, |noting| &noting.redis);
        if let Ok(noted) = redis.note_settings(&settings, true).await {
            self.set_refused(noted.number == 0, &noted.others);
        }
        self.check()
    }

    /// Notes the settings of a cache by a call of its own, and whether they are refused.
    ///
    /// The future is boxed, because the call is made by a function that calls this one.
    pub(super) fn note(self: &Arc<Self>) -> BoxFuture<'_, Result<(), RemoteError>> {
        Box::pin(self.note_now())
    }

    async fn note_now(self: &Arc<Self>) -> Result<(), RemoteError> {
        let Some(noting) = self.noting.as_ref().filter(|noting| noting.is_cache()) else {
            return Ok(());
        };
        let note = || {
            let layout = Arc::clone(self);
            async move {
                // A layout that is noted separately has this.
                let Some(noting) = &layout.noting else {
                    return Ok(());
                };
                let begun = Instant::now();
                let noted = layout.note_once(noting).await;
                noting.note_attempt(begun, noted.is_ok());
                noted.inspect_err(|_| noting.enter(None))
            }
        };
        noting.query.run(note).await
    }

    async fn note_once(&self, noting: &Noting) -> Result<(), RemoteError> {
        let (phases, settings): (Vec<_>, Vec<_>) = noting.candidates().into_iter().unzip();
        let noted = noting.redis.note_settings(&settings, false).await?;
        let generations = parse_generations(&noted.generations)?;
        let accepted = noted.number.checked_sub(1);
        if accepted.is_some() {
            // Before calls are accepted, and before the phase, in which another layout may be read.
            *self.generations.lock() = generations;
        }
        self.set_refused(accepted.is_none(), &noted.others);
        if let Some(accepted) = accepted {
            noting.enter(phases[accepted]);
            if accepted > 0 {
                // Operators find in the warnings why the change does not advance.
                *self.refused_for.lock() = noted.others;
            }
        }
        Ok(())
    }
}

/// Parses layouts, each followed by its generation.
fn parse_generations(noted: &[String]) -> Result<Vec<(u16, Arc<str>)>, RemoteError> {
    let layouts = noted.chunks_exact(2).map(|layout| {
        let number = layout[0].parse().map_err(|_| malformed_reply())?;
        Ok((number, layout[1].as_str().into()))
    });
    layouts.collect()
}

/// Returns the end of a description of settings, from which scripts read the number of partitions.
pub(crate) fn suffix(partitions: u16) -> String {
    match partitions {
        1 => String::new(),
        _ => format!(" in {partitions} partitions"),
    }
}

/// Returns the end of a description of settings during a change, in the phase of this name.
fn change_suffix(change: &LayoutChange, phase: &str) -> String {
    format!(" in {} to {} partitions, {phase}", change.from, change.to)
}

impl Redis {
    /// Notes the first of several settings whose layout agrees with those of all other processes, where the settings of
    /// a namespace with one partition are noted. If `is_query`, notes nothing.
    async fn note_settings(
        &self,
        settings: &[String],
        is_query: bool,
    ) -> Result<Noted, RemoteError> {
        let call = |connection: &Connection| {
            let keys = [&self.names.settings].into_iter();
            let mut call = script_call(&NOTE, connection, &connection.server.history, keys);
            call.arg(millis(SETTINGS_RETENTION))
                .arg(u8::from(is_query))
                .arg(settings);
            call
        };
        let round_trip = RoundTrip::new(PriorityClass::Control, CALL_OVERHEAD);
        let reply = self.call_once(round_trip.without_layout(), call).await?;
        let (others, number, generations) = parse(reply)?;
        Ok(Noted {
            others,
            number,
            generations,
        })
    }
}
