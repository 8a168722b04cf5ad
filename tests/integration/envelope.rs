//! Damaged values and values of other formats in Redis, which are misses, without a panic and within bounded memory.

use hotset::{Consistency, LocalCache, TieredCache};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use redis::aio::MultiplexedConnection;
use servers::Server;
use std::time::Duration;
use support::caches::wait_until_proven;
use support::servers;
use xxhash_rust::xxh3::xxh3_64;

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

/// Largest size of a value, in bytes.
const MAX_SIZE: usize = 64 << 10;

/// Length of the part of an envelope before the tags, in bytes: format, incarnation, version, token.
const HEAD_LEN: usize = 36;

/// Length of the checksum at the end of an envelope, in bytes.
const CHECKSUM_LEN: usize = 8;

/// Length of the deadline after an envelope, in bytes.
const DEADLINE_LEN: usize = 8;

/// Number of damaged values for each combination of a value and a kind of damage.
const DAMAGED_VALUES: usize = 400;

/// A kind of damage. Runs of high bits make huge lengths.
#[derive(Clone, Copy)]
enum Damage {
    Fill(u8),
    Random,
    Truncation,
}

impl Damage {
    const ALL: [Self; 5] = [
        Self::Fill(0xff),
        Self::Fill(0),
        Self::Fill(0x80),
        Self::Random,
        Self::Truncation,
    ];

    /// Damages up to five runs of bytes after the head. Truncation also damages one run.
    fn apply(self, envelope: &[u8], random: &mut SmallRng) -> Vec<u8> {
        let mut damaged = envelope.to_vec();
        let end = damaged.len() - CHECKSUM_LEN;
        for _ in 0..random.random_range(1..6) {
            let at = random.random_range(HEAD_LEN..end);
            let run = random.random_range(1..10).min(end - at);
            let byte = match self {
                Self::Fill(byte) => byte,
                Self::Random | Self::Truncation => random.random(),
            };
            damaged[at..at + run].fill(byte);
        }
        if let Self::Truncation = self {
            damaged.truncate(random.random_range(HEAD_LEN + CHECKSUM_LEN + 1..damaged.len()));
        }
        damaged
    }
}

/// Stores an envelope in Redis, under the name of a key, followed by the deadline of a value that does not expire.
async fn set(connection: &mut MultiplexedConnection, name: &[u8], envelope: Vec<u8>) {
    let mut set = redis::cmd("SET");
    let set = set
        .arg(name)
        .arg([&envelope[..], &[0; DEADLINE_LEN]].concat());
    let _: () = set.query_async(connection).await.unwrap();
}

/// Returns the envelope with a correct checksum, so that the checks after that of the checksum are reached.
fn sealed(mut envelope: Vec<u8>) -> Vec<u8> {
    envelope.truncate(envelope.len() - CHECKSUM_LEN);
    let checksum = xxh3_64(&envelope).to_be_bytes();
    envelope.extend_from_slice(&checksum);
    envelope
}

#[tokio::test]
async fn damaged_values_are_misses_within_bounded_memory() {
    // Short backtraces, because the capture of whole ones takes more than a minute in debug builds.
    let _profiler = dhat::Profiler::builder()
        .testing()
        .trim_backtraces(Some(4))
        .build();
    let server = Server::start();
    let cache: TieredCache<u64, Vec<String>> = LocalCache::builder()
        .capacity(10)
        .redis(server.url(), "test")
        .consistency(Consistency::L2Only)
        .max_value_size(MAX_SIZE)
        .compress_above(500)
        .deadline(Duration::from_secs(30))
        .build()
        .unwrap();
    wait_until_proven(&cache).await;
    let client = redis::Client::open(server.url()).unwrap();
    let config = redis::AsyncConnectionConfig::new()
        .set_connection_timeout(None)
        .set_response_timeout(None);
    let connection = client.get_multiplexed_async_connection_with_config(&config);
    let mut connection = connection.await.unwrap();
    let mut random = SmallRng::seed_from_u64(5);
    let mut whole = Vec::new();
    for words in [3, 300] {
        let value = vec!["word".to_string(); words];
        cache.insert(words as u64, value.clone()).await;
        assert_eq!(cache.get(&(words as u64)).await, Some(value));
        let mut name = b"hotset:{test}:e:".to_vec();
        name.extend(rmp_serde::to_vec_named(&(words as u64)).unwrap());
        let mut get = redis::cmd("GET");
        let mut envelope: Vec<u8> = get.arg(&name).query_async(&mut connection).await.unwrap();
        envelope.truncate(envelope.len() - DEADLINE_LEN);
        whole.push((words as u64, name, envelope));
    }
    let before = dhat::HeapStats::get().max_bytes;
    let (mut read, mut refused) = (0, 0);
    for (key, name, envelope) in &whole {
        for damage in Damage::ALL {
            for _ in 0..DAMAGED_VALUES {
                let damaged = damage.apply(envelope, &mut random);
                set(&mut connection, name, sealed(damaged)).await;
                // A damaged text may still be valid.
                match cache.get(key).await {
                    Some(_) => read += 1,
                    None => refused += 1,
                }
            }
        }
    }
    let stats = cache.tier_stats();
    let total = whole.len() * Damage::ALL.len() * DAMAGED_VALUES;
    assert!(refused > total / 2, "{read} read, {refused} refused");
    assert!(stats.unreadable > total as u64 / 4, "{stats:?}");
    let after = dhat::HeapStats::get().max_bytes;
    let grown = after - before;
    assert!(grown < 4 * MAX_SIZE, "{grown} bytes");

    // A value of the previous format is a miss, and is replaced by the next load.
    let (key, name, envelope) = &whole[1];
    let mut old = envelope.clone();
    old[3] -= 1;
    set(&mut connection, name, sealed(old)).await;
    assert_eq!(cache.get(key).await, None);
    let fills = cache.tier_stats().fills;
    let load = |_| async { Ok::<_, ()>(vec!["newer".to_string()]) };
    let loaded = cache.get_or_load_async(key, load).await.unwrap();
    assert_eq!(cache.get(key).await, Some(loaded));
    assert_eq!(cache.tier_stats().fills, fills + 1);

    // A value with bytes after its end is replaced by the next load.
    let (key, name, envelope) = &whole[0];
    let mut other = envelope.clone();
    other.push(0);
    set(&mut connection, name, sealed(other)).await;
    let load = |_| async { Ok::<_, ()>(vec!["new".to_string()]) };
    let loaded = cache.get_or_load_async(key, load).await.unwrap();
    assert_eq!(loaded, ["new"]);
    assert_eq!(cache.get(key).await, Some(loaded));
}
