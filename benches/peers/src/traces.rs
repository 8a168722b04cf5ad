//! Access traces: files, and made ones that each stand for a kind of load.

use rand::rngs::SmallRng;
use rand::{Rng, RngExt, SeedableRng};
use rand_distr::{Distribution, Zipf};
use std::fs;
use std::path::{Path, PathBuf};

/// Keys in the order in which they are asked for.
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

    /// A file of 8-byte little-endian keys.
    fn read(path: &Path) -> Result<Self, String> {
        let told = path.display();
        let bytes = fs::read(path).map_err(|error| format!("cannot read {told}: {error}"))?;
        if bytes.is_empty() || bytes.len() % 8 != 0 {
            let format = "a trace is a file of 8-byte little-endian keys";
            return Err(format!("{told} has {} bytes; {format}", bytes.len()));
        }
        let keys = bytes.chunks_exact(8);
        let keys = keys.map(|key| u64::from_le_bytes(key.try_into().expect("8 bytes")));
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        Ok(Self::new(&name, keys))
    }
}

/// The traces at a path: a file, or all `.bin` files of a folder.
pub fn read_all(path: &Path) -> Result<Vec<Trace>, String> {
    if !path.is_dir() {
        return Ok(vec![Trace::read(path)?]);
    }
    let told = path.display();
    let unreadable = |error| format!("cannot read {told}: {error}");
    let entries = fs::read_dir(path).map_err(unreadable)?;
    let files: Result<Vec<PathBuf>, _> = entries.map(|entry| Ok(entry?.path())).collect();
    let mut files = files.map_err(unreadable)?;
    files.retain(|file| file.extension().is_some_and(|extension| extension == "bin"));
    if files.is_empty() {
        return Err(format!("there is no .bin file in {told}"));
    }
    files.sort();
    files.iter().map(|file| Trace::read(file)).collect()
}

fn zipf(distinct: u32, exponent: f64) -> impl Fn(&mut SmallRng) -> u64 {
    let zipf = Zipf::new(f64::from(distinct), exponent).expect("a valid distribution");
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    move |rng| zipf.sample(rng) as u64
}

/// A load of each kind, `length` accesses long.
pub fn made(length: usize) -> Vec<Trace> {
    let distinct = u32::try_from(length / 8).expect("not so long");
    let mut rng = SmallRng::seed_from_u64(1);
    let popular = zipf(distinct, 0.9);
    let steps = 0..length as u64;
    let scattered = |key: u64| key.wrapping_mul(0xD134_2543_DE82_EF95);
    let zipf = steps.clone().map(|_| scattered(popular(&mut rng)));
    let zipf = Trace::new("zipf", zipf);
    // Longer than most caches, time and again.
    let looped = Trace::new(
        "loop",
        steps.clone().map(|step| step % u64::from(distinct / 3)),
    );
    // Half of the time everything is read once.
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
    // What is popular changes at once, and changes bit by bit.
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

/// Half of the keys are new, and the others have been asked for lately: recency is all there is.
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
