//! Criterion benchmarks of hotset, with each workload, size and number of threads: `cargo bench --bench cache`.
//! The package `peers` compares hotset with other caches.

mod common;

use common::{Adaptive, Bench, Hotset, Numbers, Peer, Work};
use criterion::measurement::WallTime;
use criterion::{
    BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main,
};
use std::time::Duration;

/// Adds one cache to a group, with one thread and with two.
fn bench<P: Peer<Numbers>>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    work: Work,
    capacity: usize,
    keys: &[u64],
) {
    if !work.suits::<Numbers, P>() {
        return;
    }
    let bench = Bench::<Numbers, P>::new(work, capacity, keys);
    for threads in [1, 2] {
        group.throughput(Throughput::Elements(threads));
        let id = BenchmarkId::new(P::NAME, format!("{threads} threads"));
        let mut seed = 0;
        group.bench_function(id, |bencher| {
            bencher.iter_custom(|operations| {
                seed += 1;
                bench.time(threads, operations, seed)
            });
        });
    }
}

fn caches(criterion: &mut Criterion) {
    for work in Work::ALL {
        for capacity in work.sizes() {
            let keys = work.keys::<Numbers>(capacity);
            let mut group = criterion.benchmark_group(format!("{}/{capacity}", work.name()));
            bench::<Hotset<Numbers>>(&mut group, work, capacity, &keys);
            bench::<Adaptive<Numbers>>(&mut group, work, capacity, &keys);
            group.finish();
        }
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(800));
    targets = caches
}
criterion_main!(benches);
