//! Refreshes by a rule: the caller that finds a live value due loads it again.
//!
//! The value of L1 may be older than that of L2, because a refresh by a rule sends no event. So the caller compares the
//! two first, and adopts the newer one.

use crate::clock::Nanos;
use crate::entry::Loaded;
use crate::error::{AnyError, LoadError};
use crate::local::tier_hooks::{Missed, THROTTLE};
use crate::tiered::coherence::read_lease::now;
use crate::tiered::l2::remote::Subject;
use crate::tiered::publish::Change;
use crate::tiered::refresh::RefreshAnswer;
use crate::tiered::{Inner, RemoteKey, RemoteValue};
use crate::traits::erasure::{LoadResult, LoaderProperties};
use crate::traits::key::LookupKey;
use std::array;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use xxhash_rust::xxh3::xxh3_64;

/// The largest difference between the deadlines that two processes compute for the same value.
const MAX_DEADLINE_ERROR: Duration = Duration::from_millis(50);

/// The value that a caller finds due for a refresh, in L1 or on the way there.
#[derive(Clone, Copy)]
pub(super) struct CopyInL1 {
    /// The remaining time to live. It may be shorter than in L2.
    pub(super) left: Duration,
    /// The number of the write that has stored the value in L2, or 0 if it is not known.
    pub(super) write: u64,
}

/// The relation of a value of L2 to the copy in L1.
struct Comparison {
    /// `true` if L1 is to store the value: it is newer, or it is the same and lives longer.
    is_adopted: bool,
    /// `true` if the value of L2 is due for a refresh.
    is_due: bool,
}

/// The result of a fetch: whether a rule found the value from L2 due for a refresh.
#[derive(Default)]
pub(super) struct DueForRefresh(OnceLock<CopyInL1>);

impl DueForRefresh {
    /// Returns the value, if it is due.
    pub(super) fn value(&self) -> Option<CopyInL1> {
        self.0.get().copied()
    }
}

/// The number of times that a [`RefreshThrottle`] remembers.
const THROTTLE_LEN: usize = 256;

/// The times before which no caller refreshes a value that it has found in L2, by a hash of the key. L1 has such times
/// for its own entries, but not every value of L2 becomes one.
///
/// A key whose hash equals that of another key may be refreshed later than necessary, by at most [`THROTTLE`].
pub(super) struct RefreshThrottle([AtomicU64; THROTTLE_LEN]);

impl Default for RefreshThrottle {
    fn default() -> Self {
        Self(array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl RefreshThrottle {
    fn not_before(&self, name: &[u8]) -> &AtomicU64 {
        let hash = xxh3_64(name).to_le_bytes();
        &self.0[usize::from(hash[0])]
    }

    /// Checks whether the caller is to refresh the key with this name. Returns `true` to at most one of several
    /// callers.
    fn claim(&self, name: &[u8], now: Nanos) -> bool {
        let not_before = self.not_before(name);
        let before = not_before.load(Relaxed);
        let until = now.saturating_add(THROTTLE_NANOS);
        let claim = || not_before.compare_exchange(before, until, Relaxed, Relaxed);
        now >= before && claim().is_ok()
    }

    /// Records the end of a refresh.
    fn note_end(&self, name: &[u8], now: Nanos, has_succeeded: bool) {
        let failed_until = now.saturating_add(THROTTLE_NANOS);
        let not_before = if has_succeeded { 0 } else { failed_until };
        self.not_before(name).store(not_before, Relaxed);
    }
}

/// [`THROTTLE`] in nanoseconds.
const THROTTLE_NANOS: Nanos = THROTTLE.as_secs() * 1_000_000_000;

impl<K: RemoteKey, V: RemoteValue> Inner<K, V> {
    /// Asks the rules of L1 about a value that was found in L2, and notes in `due` if the caller is to refresh it.
    pub(super) fn note_if_due(&self, due: &DueForRefresh, name: &[u8], found: &Loaded<V>) {
        let is_due = self.l1.refreshes_by_rule() && self.l1.is_due_for_refresh(found);
        if is_due && self.refresh_throttle.claim(name, now()) {
            let _ = due.0.set(CopyInL1 {
                left: found.ttl.unwrap_or(Duration::MAX),
                write: found.write,
            });
        }
    }

    /// Returns the new value of a key whose live value a rule of L1 finds due for a refresh. Returns the live value if
    /// another caller refreshes it, if there is no permit for the load, or if the load fails. `copy` is the live value.
    pub(super) async fn refresh_by_rule<Q, F>(
        self: &Arc<Self>,
        key: &Q,
        (mut due, loader): (Missed<'_, K, V>, LoaderProperties),
        copy: CopyInL1,
        load: impl FnOnce(K) -> F,
    ) -> Result<V, LoadError<AnyError>>
    where
        Q: LookupKey<K> + ?Sized,
        F: Future<Output = LoadResult<V>>,
    {
        let Some(permit) = self.try_permit() else {
            return Ok(live_value(due));
        };
        let owned = key.to_key();
        if self.settings.rollout.is_shadow() {
            drop(permit);
            let limits = self.l1.wait_limits();
            let fetch = || async {
                self.fetch_in_shadow(&owned, limits, || load(owned.clone()))
                    .await
            };
            return self.l1.load_missed(key, due, loader, fetch).await;
        }
        let mut refresh_lease = None;
        let name = self.key_name(&owned);
        if let Some(name) = name.as_ref().filter(|name| self.uses_l2(name)) {
            // Begun before L2 is asked, so that an invalidation that arrives between the answer and the insertion
            // prevents it.
            let insertion = self.l1.begin_insertion(&owned);
            let (current, may_load) = match self.ask_to_refresh(name).await {
                RefreshAnswer::Granted(lease) => {
                    refresh_lease = Some((lease.lease, lease.prior));
                    (lease.current, true)
                }
                RefreshAnswer::Elsewhere { current, .. } => {
                    (current.map(|(_, current)| current), false)
                }
                RefreshAnswer::L2Unavailable => (None, true),
            };
            let mut is_due = true;
            if let Some(current) = current {
                let compared = self.compare_with_copy(&current.loaded, copy);
                is_due = compared.is_due;
                if compared.is_adopted {
                    due = self.l1.due_for_refresh(key, current.loaded.value.clone());
                    insertion.commit(owned.clone(), self.for_l1(current));
                }
            }
            if !is_due || !may_load {
                return Ok(live_value(due));
            }
        }
        let reload = || async {
            let (_refresh_lease, prior) = refresh_lease.unzip();
            let lease = name.as_deref().zip(prior);
            let lease = lease.map(|(name, prior)| self.lease_to_replace(name, prior));
            let load = || load(owned.clone());
            let fetched = self.load_and_fill(&owned, permit, lease, load).await;
            if let Some(name) = &name {
                let has_succeeded = fetched.is_ok();
                self.refresh_throttle.note_end(name, now(), has_succeeded);
            }
            let fetched = fetched?;
            if let Some(name) = name.filter(|_| fetched.loaded.ttl == Some(Duration::ZERO)) {
                // The loader wants no cache to have a value.
                let subject = Subject::Key(name);
                drop(self.spawn_publication(Change::invalidation(subject, Some(&owned))));
            }
            Ok(self.for_l1(fetched))
        };
        self.l1.load_missed(key, due, loader, reload).await
    }

    /// Compares a value of L2 with the copy in L1, which is due for a refresh.
    fn compare_with_copy(&self, found: &Loaded<V>, copy: CopyInL1) -> Comparison {
        let left = found.ttl.unwrap_or(Duration::MAX);
        let lives_longer = left > copy.left.saturating_add(MAX_DEADLINE_ERROR);
        let is_same = found.write == copy.write;
        // L2 may have an older value than L1, if it could not store that of L1. The number of its write is then not
        // known. It is not known either if L1 has no entry any more.
        let is_newer = !is_same && (copy.write != 0 || copy.left.is_zero());
        // The rule of early refreshes is random, so it is not asked again about the same value and the same deadline. A
        // value without a deadline is due by its age only.
        let was_asked = !is_newer && !lives_longer && copy.left != Duration::MAX;
        let is_due = was_asked || self.l1.is_due_for_refresh(found);
        Comparison {
            // The insertion of the same value ends the throttle of its refreshes in L1.
            is_adopted: is_newer || (is_same && !is_due),
            is_due,
        }
    }
}

/// Returns the live value that a rule finds due for a refresh.
fn live_value<K, V>(due: Missed<'_, K, V>) -> V {
    due.into_live_value().expect("a value that is due is live")
}
