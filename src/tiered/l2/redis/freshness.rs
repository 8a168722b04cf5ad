//! Proof that the reply of a replica is recent enough, without comparing clocks.
//!
//! 1. Each change of a namespace raises its version, and a replica executes what its primary has executed, in the same
//!    order. So a replica whose state has a version has all changes up to that version.
//! 2. A renewal of the read lease returns the version. The process knows, on its own clock, when the renewal began.
//!    After that the primary was confirmed, and only then the script was sent. So a change that was acknowledged before
//!    the renewal began is up to that version, or is one of an earlier primary, whose values belong to another
//!    incarnation. The values of a replica with that version were current when the renewal began.
//! 3. A position that this process has learned from its own changes, or from events, is also one that the replica needs.
//!    So no read returns a value that this process has replaced before.
//!
//! A renewal counts only if its reply has arrived before the read is sent. `freshness_model.rs` explores this in all
//! schedules of a few events.

use crate::tiered::l2::remote::Position;

/// The reason why the reply of a replica does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The replica lacks a change that this process has made, or knows of.
    Behind,
    /// The last renewal of this process that has succeeded began too long ago.
    Old,
}

/// The knowledge of a process about a namespace on its primary. `T` is the time on the clock of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Known<T> {
    /// The last incarnation that was found, and its highest version.
    position: Position,
    /// The time at which the version was found.
    found_at: T,
    /// The time at which the incarnation was found. All that is known of other incarnations is older.
    begun_at: T,
    /// The beginning of the last renewal that began after `begun_at`, and whose version is not above that of `position`.
    renewed_at: Option<T>,
}

impl<T: Copy + Ord> Known<T> {
    /// Returns the time at which values of a replica are known to have been current, if it has the position.
    pub(super) fn current_at(&self, oldest: T) -> Result<T, Refusal> {
        let current_at = self.renewed_at.filter(|renewed| *renewed >= oldest);
        current_at.ok_or(Refusal::Old)
    }

    /// Checks the position in the reply of a replica. Returns a time at which the values of the reply were current, which
    /// is `oldest` or later.
    pub(super) fn check(&self, at: Position, oldest: T) -> Result<T, Refusal> {
        let known = self.position;
        if at.incarnation != known.incarnation || at.version < known.version {
            return Err(Refusal::Behind);
        }
        self.current_at(oldest)
    }

    /// Checks whether the position was found before `time`.
    pub(super) fn is_from_before(&self, time: T) -> bool {
        self.found_at < time
    }
}

/// Collects what a process knows of a namespace.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Freshness<T>(Option<Known<T>>);

impl<T> Default for Freshness<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T: Copy + Ord> Freshness<T> {
    /// Returns what is known now.
    pub(super) fn known(&self) -> Option<Known<T>> {
        self.0
    }

    /// Notes a position that a reply or a message contains, which has arrived at `now`.
    pub(super) fn note_position(&mut self, at: Position, now: T) {
        match &mut self.0 {
            Some(known) if known.position.incarnation == at.incarnation => {
                if known.position.version < at.version {
                    known.position = at;
                    known.found_at = now;
                }
            }
            // Which of two incarnations is newer is not known: the reply may be a late one of a demoted primary. So only
            // renewals that begin from now on count, because their primary is confirmed after all that was known.
            known => {
                *known = Some(Known {
                    position: at,
                    found_at: now,
                    begun_at: now,
                    renewed_at: None,
                });
            }
        }
    }

    /// Notes the position in the reply to a renewal that began at `begun`, before the primary was confirmed. The reply
    /// has arrived at `now`.
    pub(super) fn note_renewal(&mut self, at: Position, begun: T, now: T) {
        self.note_position(at, now);
        if let Some(known) = self.0.as_mut().filter(|known| known.begun_at < begun) {
            known.renewed_at = known.renewed_at.max(Some(begun));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tiered::l2::remote::Incarnation;

    const ID: Incarnation = [1; 8];
    const OTHER_ID: Incarnation = [2; 8];

    fn at(incarnation: Incarnation, version: u64) -> Position {
        Position {
            incarnation,
            version,
        }
    }

    /// Returns what is known after version 5, which renewals at the times 10 and 20 have returned.
    fn freshness() -> Freshness<u32> {
        let mut freshness = Freshness::default();
        freshness.note_position(at(ID, 5), 1);
        freshness.note_renewal(at(ID, 5), 10, 11);
        freshness.note_renewal(at(ID, 5), 20, 22);
        // A late reply.
        freshness.note_renewal(at(ID, 5), 15, 23);
        freshness
    }

    #[test]
    fn values_are_as_old_as_the_last_renewal() {
        let known = freshness().known().unwrap();
        for version in [5, 6] {
            assert_eq!(known.check(at(ID, version), 20), Ok(20));
        }
        assert_eq!(known.check(at(ID, 5), 21), Err(Refusal::Old));
    }

    #[test]
    fn replica_needs_each_version_that_was_known_before_the_read() {
        let mut freshness = freshness();
        let before = freshness.known().unwrap();
        freshness.note_position(at(ID, 7), 30);
        freshness.note_position(at(ID, 6), 31);
        let known = freshness.known().unwrap();
        assert_eq!(before.check(at(ID, 5), 0), Ok(20));
        assert_eq!(known.check(at(ID, 6), 0), Err(Refusal::Behind));
        assert_eq!(known.check(at(ID, 7), 0), Ok(20));
        assert!(known.is_from_before(31) && !known.is_from_before(30));
        // A renewal during the read proves nothing about its reply.
        freshness.note_renewal(at(ID, 8), 40, 41);
        assert_eq!(before.check(at(ID, 5), 0), Ok(20));
    }

    #[test]
    fn only_renewals_that_begin_after_another_incarnation_was_found_count() {
        let mut freshness = freshness();
        freshness.note_position(at(OTHER_ID, 1), 30);
        let check = |freshness: &Freshness<u32>, id| {
            let known = freshness.known().unwrap();
            known.check(at(id, 9), 0)
        };
        assert_eq!(check(&freshness, OTHER_ID), Err(Refusal::Old));
        assert_eq!(check(&freshness, ID), Err(Refusal::Behind));
        for begun in [29, 30] {
            freshness.note_renewal(at(OTHER_ID, 1), begun, 40);
            assert_eq!(check(&freshness, OTHER_ID), Err(Refusal::Old));
        }
        freshness.note_renewal(at(OTHER_ID, 1), 31, 40);
        assert_eq!(check(&freshness, OTHER_ID), Ok(31));
        // A late reply of the other primary.
        freshness.note_renewal(at(ID, 9), 39, 50);
        assert_eq!(check(&freshness, ID), Err(Refusal::Old));
        assert_eq!(check(&freshness, OTHER_ID), Err(Refusal::Behind));
    }
}
