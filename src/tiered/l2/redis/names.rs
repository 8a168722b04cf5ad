//! The names of keys and channels in Redis.

use crate::tiered::l2::remote::Peer;
use crc::{CRC_16_XMODEM, Crc};

/// The number of slots of a cluster.
const SLOTS: u16 = 16_384;

/// The checksum by which a cluster assigns slots.
const CHECKSUM: Crc<u16> = Crc::<u16>::new(&CRC_16_XMODEM);

/// A partition, by its number, and the number of all partitions of the namespace, which is a power of two.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PartitionId {
    pub(crate) number: u16,
    pub(crate) of: u16,
}

impl PartitionId {
    /// The partition of a namespace that has only one.
    pub(crate) const ONLY: Self = Self { number: 0, of: 1 };

    /// Returns all partitions of a layout.
    pub(crate) fn all(of: u16) -> impl Iterator<Item = Self> {
        (0..of).map(move |number| Self { number, of })
    }
}

/// Returns the beginning of all names of a partition's keys. The text in braces puts all keys into one slot of a
/// cluster.
///
/// The slots of partitions are spread over all slots: that of partition `p` of `n` is in the `p`-th of `n` equal parts.
/// So all processes know the slots without coordination, and a cluster that assigns equal ranges of slots to its
/// servers assigns them equal numbers of partitions.
fn base(namespace: &str, partition: PartitionId) -> String {
    let PartitionId { number, of } = partition;
    if of == 1 {
        return format!("hotset:{{{namespace}}}");
    }
    // The number of partitions is part of the name, so that the keys differ from those of other layouts and from those
    // of a namespace with one partition, whatever its name is.
    let mut salt = 0_u32;
    loop {
        let tag = format!("{namespace}/{number}.{salt}");
        if slot(&tag) / (SLOTS / of) == number {
            return format!("hotset:{of}:{{{tag}}}");
        }
        salt += 1;
    }
}

/// Returns the slot of keys with this text in braces.
fn slot(tag: &str) -> u16 {
    CHECKSUM.checksum(tag.as_bytes()) % SLOTS
}

/// The names of a partition's keys and channels.
pub(super) struct Names {
    /// The key of the state, which `state.lua` describes.
    pub(super) state: String,
    /// The key of the set of readers.
    pub(super) readers: String,
    /// The key of the cells of invalidated tags.
    pub(super) tags: String,
    /// The key of the settings with which the namespace is used.
    pub(super) settings: String,
    /// The key that is written for replicas to confirm.
    pub(super) mark: String,
    /// The channel of events.
    pub(super) events: String,
    /// The slot of all keys in a cluster.
    pub(super) slot: u16,
    /// The beginning of all names of keys.
    base: String,
    /// The beginning of the names of channels.
    channel: String,
}

impl Names {
    /// Creates the names. The names of channels contain the database, because channels belong to the server,
    /// while keys belong to a database.
    pub(super) fn new(namespace: &str, partition: PartitionId, database: i64) -> Self {
        let base = base(namespace, partition);
        Self {
            state: format!("{base}:state"),
            readers: format!("{base}:readers"),
            tags: format!("{base}:tags"),
            settings: format!("{base}:settings"),
            mark: format!("{base}:mark"),
            channel: format!("{base}:{database}"),
            events: format!("{base}:{database}:events"),
            slot: slot(base.split(['{', '}']).nth(1).unwrap_or_default()),
            base,
        }
    }

    /// Returns the name of the entry of a key.
    pub(super) fn entry(&self, key: &[u8]) -> Vec<u8> {
        [self.base.as_bytes(), b":e:", key].concat()
    }

    /// Returns the name of the channel that only `peer` subscribes to.
    pub(super) fn peer_channel(&self, peer: Peer) -> String {
        format!("{}:to:{peer:016x}", self.channel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_the_cluster_specification() {
        assert_eq!(CHECKSUM.checksum(b"123456789"), 0x31c3);
        // By `CLUSTER KEYSLOT`.
        assert_eq!((slot("foo"), slot("user1000")), (12_182, 3_443));
    }

    #[test]
    fn slot_of_each_partition_is_in_its_part_of_all_slots() {
        for of in [2, 16, 256, 1_024] {
            for number in 0..of {
                let base = base("prices", PartitionId { number, of });
                let tag = base.split(['{', '}']).nth(1).unwrap();
                let first = number * (SLOTS / of);
                assert!((first..first + SLOTS / of).contains(&slot(tag)), "{base}");
            }
        }
    }

    #[test]
    fn names_of_a_namespace_with_one_partition_contain_no_number() {
        let names = Names::new("prices", PartitionId::ONLY, 3);
        assert_eq!(names.entry(b"key"), b"hotset:{prices}:e:key");
        assert_eq!(names.events, "hotset:{prices}:3:events");
    }
}
