//! Hit ratios of the policies: equal to those of plain implementations of their papers, and for `Adaptive` never much
//! below that of LRU.

use ahash::RandomState;
use hotset::__private::validate;
use hotset::{LocalCache, Policy};
use peers::traces::{self, Trace};
use std::collections::{HashMap, VecDeque};

/// Returns the hit ratio of a trace in percent. `access` returns whether a request was a hit.
#[allow(clippy::cast_precision_loss)]
fn hit_ratio(trace: &Trace, mut access: impl FnMut(u64) -> bool) -> f64 {
    let hits = trace.keys.iter().filter(|&&key| access(key)).count();
    100.0 * hits as f64 / trace.keys.len() as f64
}

/// Returns the hit ratio of a cache of this crate.
fn hotset(trace: &Trace, policy: Policy, capacity: usize, shards: usize) -> f64 {
    let cache = LocalCache::builder()
        .capacity(capacity)
        .policy(policy)
        .shards(shards)
        // With a fixed seed each run samples the same keys.
        .hasher(RandomState::with_seeds(1, 2, 3, 4))
        .build()
        .unwrap();
    let ratio = hit_ratio(trace, |key| {
        let hit = cache.get(&key).is_some();
        if !hit {
            cache.insert(key, ());
        }
        hit
    });
    assert_eq!(cache.len(), capacity);
    validate(&cache);
    ratio
}

/// Returns the hit ratio of an exact LRU cache.
fn lru(trace: &Trace, capacity: usize) -> f64 {
    let mut cache = lru::LruCache::new(capacity.try_into().unwrap());
    hit_ratio(trace, |key| {
        let hit = cache.get(&key).is_some();
        if !hit {
            cache.put(key, ());
        }
        hit
    })
}

/// A ghost list: keys in the order of their addition, from which any key can be removed.
#[derive(Default)]
struct Ghosts {
    queue: VecDeque<(u64, usize)>,
    last: HashMap<u64, usize>,
    added: usize,
}

impl Ghosts {
    fn add(&mut self, key: u64) {
        self.added += 1;
        self.last.insert(key, self.added);
        self.queue.push_back((key, self.added));
    }

    fn remove(&mut self, key: u64) -> bool {
        self.last.remove(&key).is_some()
    }

    fn len(&self) -> usize {
        self.last.len()
    }

    fn remove_oldest(&mut self) {
        while let Some((key, number)) = self.queue.pop_front() {
            if self.last.get(&key) == Some(&number) {
                self.last.remove(&key);
                return;
            }
        }
    }
}

/// Returns the hit ratio of algorithm 1 of Yang et al., SOSP 2023.
fn s3_fifo(trace: &Trace, capacity: usize) -> f64 {
    let (mut small, mut main, mut ghosts) = (VecDeque::new(), VecDeque::new(), Ghosts::default());
    let mut frequencies: HashMap<u64, u32> = HashMap::new();
    hit_ratio(trace, |key| {
        if let Some(frequency) = frequencies.get_mut(&key) {
            *frequency = (*frequency + 1).min(3);
            return true;
        }
        while frequencies.len() >= capacity {
            if small.len() >= capacity / 10 && !small.is_empty() {
                let tail: u64 = small.pop_front().unwrap();
                if frequencies[&tail] > 1 {
                    frequencies.insert(tail, 0);
                    main.push_back(tail);
                } else {
                    frequencies.remove(&tail);
                    ghosts.add(tail);
                    while ghosts.len() > capacity * 9 / 10 {
                        ghosts.remove_oldest();
                    }
                }
            } else {
                let tail: u64 = main.pop_front().unwrap();
                let frequency = frequencies.get_mut(&tail).unwrap();
                if *frequency > 0 {
                    *frequency -= 1;
                    main.push_back(tail);
                } else {
                    frequencies.remove(&tail);
                }
            }
        }
        if ghosts.remove(key) {
            main.push_back(key);
        } else {
            small.push_back(key);
        }
        frequencies.insert(key, 0);
        false
    })
}

/// Returns the hit ratio of the algorithm in figure 2 of Bansal and Modha, FAST 2004.
#[allow(clippy::cast_precision_loss)]
fn car(trace: &Trace, capacity: usize) -> f64 {
    let (mut t1, mut t2) = (VecDeque::new(), VecDeque::new());
    let (mut b1, mut b2) = (Ghosts::default(), Ghosts::default());
    let mut referenced: HashMap<u64, bool> = HashMap::new();
    let mut p = 0.0_f64;
    hit_ratio(trace, |key| {
        if let Some(referenced) = referenced.get_mut(&key) {
            *referenced = true;
            return true;
        }
        let (in_b1, in_b2) = (b1.last.contains_key(&key), b2.last.contains_key(&key));
        if t1.len() + t2.len() == capacity {
            loop {
                let from_t1 = t1.len() as f64 >= p.max(1.0);
                let head: u64 = if from_t1 {
                    t1.pop_front()
                } else {
                    t2.pop_front()
                }
                .unwrap();
                if referenced.insert(head, false) == Some(true) {
                    t2.push_back(head);
                    continue;
                }
                referenced.remove(&head);
                if from_t1 {
                    b1.add(head);
                } else {
                    b2.add(head);
                }
                break;
            }
            if !in_b1 && !in_b2 {
                if t1.len() + b1.len() >= capacity {
                    b1.remove_oldest();
                } else if t1.len() + t2.len() + b1.len() + b2.len() >= 2 * capacity {
                    b2.remove_oldest();
                }
            }
        }
        referenced.insert(key, false);
        let (len1, len2) = (b1.len() as f64, b2.len() as f64);
        if in_b1 {
            p = (p + (len2 / len1).max(1.0)).min(capacity as f64);
            b1.remove(key);
            t2.push_back(key);
        } else if in_b2 {
            p = (p - (len1 / len2).max(1.0)).max(0.0);
            b2.remove(key);
            t2.push_back(key);
        } else {
            t1.push_back(key);
        }
        false
    })
}

const CAPACITIES: [usize; 3] = [64, 500, 4_000];

/// Checks that the hit ratio of a policy differs from that of a reference by at most half a percent.
fn assert_matches(policy: Policy, reference: fn(&Trace, usize) -> f64) {
    for trace in traces::generate(200_000) {
        for capacity in CAPACITIES {
            let ours = hotset(&trace, policy, capacity, 1);
            let theirs = reference(&trace, capacity);
            assert!(
                (ours - theirs).abs() <= 0.5,
                "{}, {capacity} entries: {ours:.2} for {theirs:.2}",
                trace.name
            );
        }
    }
}

#[test]
fn lru_has_the_hit_ratio_of_an_exact_lru() {
    assert_matches(Policy::Lru, lru);
}

#[test]
fn s3_fifo_has_the_hit_ratio_of_its_paper() {
    assert_matches(Policy::S3Fifo, s3_fifo);
}

#[test]
fn car_has_the_hit_ratio_of_its_paper() {
    assert_matches(Policy::Car, car);
}

/// Returns a trace of batches of new keys, each of which is requested a second time at once. Each key is requested
/// twice.
fn twice(length: usize, batch: u64) -> Trace {
    let keys = (0..length as u64).map(|step| step / (2 * batch) * batch + step % batch);
    Trace {
        name: "twice".to_owned(),
        keys: keys
            .map(|key| key.wrapping_mul(0xD134_2543_DE82_EF95))
            .collect(),
    }
}

#[test]
fn adaptive_is_never_much_worse_than_lru_and_better_on_most_traces() {
    let mut traces = traces::generate(200_000);
    traces.extend(traces::generate_phases(200_000));
    traces.extend([50, 400, 3_600].map(|batch| twice(200_000, batch)));
    for trace in traces {
        for (capacity, shards) in [(64, 1), (500, 4), (4_000, 4)] {
            let ours = hotset(&trace, Policy::Adaptive, capacity, shards);
            // With the same shards, so that an uneven distribution of the keys over them affects both policies.
            let lead = ours - hotset(&trace, Policy::Lru, capacity, shards);
            let least = match (trace.name.as_str(), capacity) {
                ("zipf" | "scan over zipf", _) | ("shifting zipf", 64) => 2.0,
                ("loop", 4_000) => 10.0,
                // Nine of ten entries are still needed, so that an eviction often finds no other one.
                ("twice", 4_000) => -4.0,
                _ => -2.0,
            };
            let name = &trace.name;
            assert!(
                lead >= least,
                "{name}, {capacity} entries: {ours:.2}, {lead:+.2} over LRU"
            );
        }
    }
}

/// Removed entries leave vacant slots anywhere in the queues.
#[test]
fn policies_keep_their_lead_over_lru_when_entries_are_removed() {
    let trace = &traces::generate(400_000)[0];
    let ratio = |policy| {
        let cache = LocalCache::builder()
            .capacity(2_000)
            .policy(policy)
            .shards(1);
        let cache = cache
            .hasher(RandomState::with_seeds(1, 2, 3, 4))
            .build()
            .unwrap();
        let mut inserted = VecDeque::new();
        let ratio = hit_ratio(trace, |key| {
            let hit = cache.get(&key).is_some();
            if !hit {
                cache.insert(key, ());
                inserted.push_back(key);
                // Half of the keys are removed before they are evicted.
                if inserted.len() > 500 {
                    let early = inserted.pop_front().unwrap();
                    if early % 2 == 0 {
                        cache.remove(&early);
                    }
                }
            }
            hit
        });
        validate(&cache);
        ratio
    };
    let lru = ratio(Policy::Lru);
    for policy in [Policy::S3Fifo, Policy::Car, Policy::Adaptive] {
        let lead = ratio(policy) - lru;
        assert!(lead > 0.0, "{policy:?}: {lead:+.2} over LRU");
    }
}
