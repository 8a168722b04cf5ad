//! Access traces, from files or generated for typical workloads.

use rand::rngs::SmallRng;
use rand::{Rng, RngExt, SeedableRng};
use rand_distr::{Distribution, Zipf};
use std::fs;
use std::path::{Path, PathBuf};

/// A named sequence of requested keys.
pub struct Trace {
    pub name: String,
    pub keys: Vec<u64>,
}

impl Trace {
    fn new(name: &str, keys: impl IntoIterator<Item = u64>) -> Self {
        Self {
            name: name.to_owned(),
            keys: keys.into_iter().collect(),
        }
    }

    /// Reads a file of 8-byte little-endian keys.
    fn read(path: &Path) -> Result<Self, String> {
        let name = path.display();
        let bytes = fs::read(path).map_err(|error| format!("cannot read {name}: {error}"))?;
        if bytes.is_empty() || bytes.len() % 8 != 0 {
            let format = "a trace is a file of 8-byte little-endian keys";
            return Err(format!("{name} has {} bytes; {format}", bytes.len()));
        }
        let keys = bytes.chunks_exact(8);
        let keys = keys.map(|key| u64::from_le_bytes(key.try_into().expect("8 bytes")));
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        Ok(Self::new(&name, keys))
    }
}

/// Reads the traces at a path: one file, or all `.bin` files of a folder.
pub fn read_all(path: &Path) -> Result<Vec<Trace>, String> {
    if !path.is_dir() {
        return Ok(vec![Trace::read(path)?]);
    }
    let name = path.display();
    let unreadable = |error| format!("cannot read {name}: {error}");
    let entries = fs::read_dir(path).map_err(unreadable)?;
    let files: Result<Vec<PathBuf>, _> = entries.map(|entry| Ok(entry?.path())).collect();
    let mut files = files.map_err(unreadable)?;
    files.retain(|file| file.extension().is_some_and(|extension| extension == "bin"));
    if files.is_empty() {
        return Err(format!("there is no .bin file in {name}"));
    }
    files.sort();
    files.iter().map(|file| Trace::read(file)).collect()
}

/// Returns a generator of ranks with a Zipf distribution.
fn zipf(distinct: u32, exponent: f64) -> impl Fn(&mut SmallRng) -> u64 {
    let zipf = Zipf::new(f64::from(distinct), exponent).expect("a valid distribution");
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    move |rng| zipf.sample(rng) as u64
}

/// Generates one trace of each kind with `length` accesses.
pub fn generate(length: usize) -> Vec<Trace> {
    let distinct = u32::try_from(length / 8).expect("the length fits into 32 bits");
    let mut rng = SmallRng::seed_from_u64(1);
    let popular = zipf(distinct, 0.9);
    let steps = 0..length as u64;
    let scattered = |key: u64| key.wrapping_mul(0xD134_2543_DE82_EF95);
    let zipf = steps.clone().map(|_| scattered(popular(&mut rng)));
    let zipf = Trace::new("zipf", zipf);
    // A loop over more keys than most caches contain.
    let looped = Trace::new(
        "loop",
        steps.clone().map(|step| step % u64::from(distinct / 3)),
    );
    // Half of the accesses are scans, which read each key once.
    let burst = u64::from(distinct / 5);
    let scan = steps.clone().map(|step| {
        let scans = step / burst % 2 == 1;
        if scans {
            1 << 40 | step
        } else {
            scattered(popular(&mut rng))
        }
    });
    let scan = Trace::new("scan over zipf", scan);
    // The popular keys change all at once, or gradually.
    let shifted = steps.clone().map(|step| {
        let phase = step / (u64::from(distinct) / 2);
        scattered(popular(&mut rng) + (phase << 32))
    });
    let shifted = Trace::new("shifting zipf", shifted);
    let drifting = steps.map(|step| scattered(popular(&mut rng) + step / 16));
    let drifting = Trace::new("drifting zipf", drifting);
    vec![
        zipf,
        looped,
        scan,
        shifted,
        drifting,
        soon_again(length, rng),
    ]
}

/// Generates a trace in which half of the accesses are to new keys and half to recently requested keys, so that only
/// recency predicts accesses.
fn soon_again(length: usize, mut rng: SmallRng) -> Trace {
    let mut keys: Vec<u64> = Vec::with_capacity(length);
    #[allow(clippy::cast_precision_loss)]
    let mean = length as f64 / 200.0;
    while keys.len() < length {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let back = (-rng.random::<f64>().ln() * mean) as usize + 1;
        let key = match keys.len().checked_sub(back) {
            Some(at) if rng.random::<bool>() => keys[at],
            _ => rng.next_u64(),
        };
        keys.push(key);
    }
    Trace::new("soon again", keys)
}

/// Generates one trace of each kind whose load changes over time, with `length` accesses.
pub fn generate_phases(length: usize) -> Vec<Trace> {
    let distinct = u32::try_from(length / 10).expect("the length fits into 32 bits");
    vec![
        loops_that_stop(length, distinct),
        growing_set(length, distinct),
        recency_then_frequency(length, distinct),
    ]
}

/// Returns the number of the phase that a step belongs to, of which there are eight.
fn phase_of(step: usize, length: usize) -> usize {
    step * 8 / length
}

/// Generates popular keys, and in every second phase a loop over keys that are requested more often.
fn loops_that_stop(length: usize, distinct: u32) -> Trace {
    let mut rng = SmallRng::seed_from_u64(2);
    let popular = zipf(distinct, 0.9);
    let looped = u64::from(distinct / 8);
    let keys = (0..length).map(|step| {
        if phase_of(step, length) % 2 == 1 && rng.random_bool(0.8) {
            1 << 40 | (step as u64 % looped)
        } else {
            popular(&mut rng)
        }
    });
    Trace::new("loops that stop", keys)
}

/// Generates popular keys, and keys of a set that grows past the capacity.
fn growing_set(length: usize, distinct: u32) -> Trace {
    let mut rng = SmallRng::seed_from_u64(3);
    let popular = zipf(distinct, 0.9);
    let keys = (0..length as u64).map(|step| {
        if rng.random_bool(0.3) {
            return 1 << 40 | popular(&mut rng);
        }
        let size = u64::from(distinct) * step / length as u64;
        rng.random_range(0..=size)
    });
    Trace::new("growing set", keys)
}

/// Generates keys that are requested soon again or never, and in every second phase popular keys among keys that are
/// requested once.
fn recency_then_frequency(length: usize, distinct: u32) -> Trace {
    let mut rng = SmallRng::seed_from_u64(4);
    let popular = zipf(distinct, 0.9);
    let recent = soon_again(length, SmallRng::seed_from_u64(5)).keys;
    let keys = (0..length).map(|step| {
        if phase_of(step, length) % 2 == 1 {
            recent[step]
        } else if rng.random() {
            popular(&mut rng)
        } else {
            rng.next_u64()
        }
    });
    Trace::new("recency, then frequency", keys)
}
