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
/// The slots of partitions are spread evenly over all slots, and are the same for all namespaces with the same number of
/// partitions. So all processes know the slots without coordination, a cluster that assigns equal ranges of slots to its
/// servers assigns them equal numbers of partitions, and one script renews the read leases of all caches of a process in
/// a partition.
fn base(namespace: &str, partition: PartitionId) -> String {
    let PartitionId { number, of } = partition;
    if of == 1 {
        return format!("hotset:{{{namespace}}}");
    }
    // The number of partitions is part of the name, so that the keys differ from those of other layouts and from those
    // of a namespace with one partition, whatever its name is.
    let tag = format!("{namespace}/{number}.");
    let salt = salt(&tag, slot_of_partition(partition));
    format!("hotset:{of}:{{{tag}{salt}}}")
}

/// Returns the slot of a partition: the middle of the `p`-th of `n` equal parts of all slots.
fn slot_of_partition(PartitionId { number, of }: PartitionId) -> u16 {
    let part = SLOTS / of;
    number * part + part / 2
}

/// The number of letters of a salt. Four are not enough for each slot.
const SALT_LEN: usize = 5;

/// The first of the sixteen letters of salts, which differ in their lower four bits.
const FIRST_LETTER: u8 = b'@';

/// Returns the letters that put the slot of `tag`, followed by them, to `slot`.
///
/// The checksum is linear: each bit of the letters that is set inverts certain bits of the checksum. So the letters are
/// the solution of a system of linear equations.
fn salt(tag: &str, slot: u16) -> String {
    let inversions = independent_inversions();
    let mut letters = [FIRST_LETTER; SALT_LEN];
    let without_bits = [tag.as_bytes(), &letters].concat();
    let mut difference = CHECKSUM.checksum(&without_bits) ^ slot;
    let mut bits = 0;
    for (highest, inversion) in inversions.iter().enumerate().rev() {
        if difference >> highest & 1 == 1 {
            difference ^= inversion.checksum;
            bits ^= inversion.bits;
        }
    }
    for (letter, of_tag) in letters.iter_mut().zip(letters_with(bits)) {
        *letter ^= of_tag;
    }
    letters.into_iter().map(char::from).collect()
}

/// Bits of the letters of a salt, and the bits of the checksum that they invert.
#[derive(Clone, Copy, Default)]
struct Inversion {
    bits: u32,
    checksum: u16,
}

/// Returns for each bit of the checksum an inversion of which it is the highest bit.
fn independent_inversions() -> [Inversion; 16] {
    let mut independent = [Inversion::default(); 16];
    for bit in 0..4 * SALT_LEN {
        let bits = 1 << bit;
        let mut inversion = Inversion {
            bits,
            checksum: CHECKSUM.checksum(&letters_with(bits)),
        };
        while let Some(highest) = inversion.checksum.checked_ilog2() {
            let other = &mut independent[highest as usize];
            if other.checksum == 0 {
                *other = inversion;
                break;
            }
            inversion.checksum ^= other.checksum;
            inversion.bits ^= other.bits;
        }
    }
    independent
}

/// Returns the lower four bits of each letter of a salt.
fn letters_with(bits: u32) -> [u8; SALT_LEN] {
    std::array::from_fn(|letter| (bits >> (4 * letter) & 15) as u8)
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
    fn slots_of_partitions_are_even_and_equal_in_all_namespaces() {
        for of in [2, 16, 256, 1_024] {
            for (number, namespace) in
                (0..of).zip(["a", "prices", "shop:prices/1"].into_iter().cycle())
            {
                let base = base(namespace, PartitionId { number, of });
                let tag = base.split(['{', '}']).nth(1).unwrap();
                assert_eq!(slot(tag), number * (SLOTS / of) + SLOTS / of / 2, "{base}");
                assert!(tag.starts_with(&format!("{namespace}/{number}.")));
                assert!(tag.bytes().all(|byte| byte.is_ascii_graphic()));
            }
        }
    }

    #[test]
    fn salt_exists_for_each_slot() {
        for at in 0..SLOTS {
            let tag = format!("prices/0.{}", salt("prices/0.", at));
            assert_eq!(slot(&tag), at);
        }
    }

    /// Processes of other versions of this crate must use the same names.
    #[test]
    fn names_of_partitions_are_those_of_earlier_versions() {
        let base = base("prices", PartitionId { number: 3, of: 16 });
        assert_eq!(base, "hotset:16:{prices/3.C@KHH}");
    }

    #[test]
    fn names_of_a_namespace_with_one_partition_contain_no_number() {
        let names = Names::new("prices", PartitionId::ONLY, 3);
        assert_eq!(names.entry(b"key"), b"hotset:{prices}:e:key");
        assert_eq!(names.events, "hotset:{prices}:3:events");
    }
}
