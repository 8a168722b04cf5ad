//! The requested profiles in their order, generated or read before the runs, so that each run gets the same requests.

use crate::AnyError;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand_distr::{Distribution, Zipf};
use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// The number of requests of the built-in traffic before it repeats.
const REQUESTS: usize = 4_000_000;

/// The number of requests that a thread takes at a time: few enough that the threads together stay close to the order,
/// and enough that they do not contend for the next block.
const BLOCK_SIZE: usize = 64;

/// A sequence of requested profiles.
pub struct Traffic {
    ids: Vec<u64>,
    counts: HashMap<u64, u64>,
}

impl Traffic {
    /// Generates requests whose frequency for each profile is inversely proportional to its rank.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss
    )]
    pub fn zipf(profiles: usize, seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        // Shuffled, because popular profiles with adjacent ids would share pages of the database.
        let mut by_rank: Vec<u64> = (0..profiles as u64).collect();
        by_rank.shuffle(&mut rng);
        let ranks = Zipf::new(profiles as f64, 1.0).expect("there is at least one profile");
        let ranks = ranks.sample_iter(&mut rng).take(REQUESTS);
        Self::new(ranks.map(|rank| by_rank[rank as usize - 1]).collect())
    }

    /// Reads an access trace from a file, and numbers the keys in the order of their first appearance.
    pub fn from_trace(path: &Path) -> Result<Self, AnyError> {
        let format = "a trace is a file of 8-byte little-endian keys; see --help";
        let trace = path.display();
        let bytes =
            fs::read(path).map_err(|error| format!("cannot read {trace}: {error}; {format}"))?;
        if bytes.is_empty() {
            return Err(format!("{trace} is empty; {format}").into());
        }
        if bytes.len() % 8 != 0 {
            let length = bytes.len();
            let problem = format!("{trace} has {length} bytes, which is not a multiple of 8");
            return Err(format!("{problem}; {format}").into());
        }
        let mut numbers = HashMap::new();
        let accesses = bytes.chunks_exact(8).map(|key| {
            let next = numbers.len() as u64;
            *numbers.entry(key).or_insert(next)
        });
        Ok(Self::new(accesses.collect()))
    }

    fn new(ids: Vec<u64>) -> Self {
        let mut counts = HashMap::new();
        for id in &ids {
            *counts.entry(*id).or_default() += 1;
        }
        Self { ids, counts }
    }

    /// Returns the number of distinct profiles.
    pub fn distinct(&self) -> usize {
        self.counts.len()
    }

    /// Returns the profile with the most requests.
    pub fn hottest(&self) -> u64 {
        let hottest = self.counts.iter().max_by_key(|&(id, count)| (count, id));
        *hottest.expect("there are requests").0
    }

    /// Starts a replay at the first request, which several threads can share.
    pub fn replay(&self) -> Replay<'_> {
        Replay {
            ids: &self.ids,
            next_block: AtomicUsize::new(0),
        }
    }
}

/// The position of several threads in the traffic.
pub struct Replay<'a> {
    ids: &'a [u64],
    next_block: AtomicUsize,
}

impl<'a> Replay<'a> {
    /// Takes the next block of requests. After the last block the first one follows again.
    pub fn next_block(&self) -> &'a [u64] {
        let blocks = self.ids.len().div_ceil(BLOCK_SIZE);
        let start = self.next_block.fetch_add(1, Relaxed) % blocks * BLOCK_SIZE;
        let end = self.ids.len().min(start + BLOCK_SIZE);
        &self.ids[start..end]
    }
}
