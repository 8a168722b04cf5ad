//! The printed report about the runs.

use crate::args::Args;
use crate::runs::Run;
use hotset::Stats;
use indicatif::{HumanCount, HumanFloatCount};
use std::time::Duration;

pub fn print_setup(args: &Args, profiles: usize) {
    let requests = match &args.trace {
        Some(path) => format!("access trace {}", path.display()),
        None => "Zipf traffic".to_string(),
    };
    println!(
        "{} profiles, {requests}, {} threads, {} for each run.\n\
         The cache has a capacity of {} profiles and a time to live of {}, and starts empty.\n",
        HumanCount(profiles as u64),
        args.threads,
        time(args.seconds),
        HumanCount(args.capacity as u64),
        time(args.ttl),
    );
}

pub fn print_table(alone: &Run, cached: &Run, hit_ratio: f64) {
    println!(
        "{:17}{:>11}{:>10}{:>10}{:>10}{:>12}{:>10}",
        "", "requests/s", "p50", "p99", "max", "db queries", "hit ratio"
    );
    print_row(alone, "-");
    print_row(cached, &format!("{:.1}%", hit_ratio * 100.0));
}

fn print_row(run: &Run, hit_ratio: &str) {
    let percentile = |percent| {
        let nanos = run.latencies.value_at_percentile(percent);
        time(Duration::from_nanos(nanos))
    };
    println!(
        "{:17}{:>11}{:>10}{:>10}{:>10}{:>12}{hit_ratio:>10}",
        run.name,
        format!("{:.0}", HumanFloatCount(run.requests_per_second())),
        percentile(50.0),
        percentile(99.0),
        percentile(100.0),
        HumanCount(run.queries).to_string(),
    );
}

pub fn print_savings(alone: &Run, cached: &Run) {
    let times = (alone.mean_time(), cached.mean_time());
    let reads = (alone.queries_per_request(), cached.queries_per_request());
    println!(
        "\nPer request, because the runs serve different numbers of requests in the same time:\n  \
         mean response time  {} -> {} ({})\n  \
         database reads      {:.3} -> {:.3} ({})",
        time(times.0),
        time(times.1),
        change(times.0.as_secs_f64(), times.1.as_secs_f64()),
        reads.0,
        reads.1,
        change(reads.0, reads.1),
    );
}

pub fn print_stats(stats: &Stats) {
    println!(
        "\nStatistics of the cache over the whole run:\n  \
         {} loads, 99% of them within {}\n  \
         {} callers waited for a load of another caller and shared its result\n  \
         {} profiles evicted, {} expired, {} cached at the end",
        HumanCount(stats.loads),
        time(stats.load_times.percentile(99.0)),
        HumanCount(stats.coalesced),
        HumanCount(stats.evicted),
        HumanCount(stats.expired),
        HumanCount(stats.entries),
    );
}

fn change(before: f64, after: f64) -> String {
    let percent = (after / before - 1.0) * 100.0;
    let direction = if percent < 0.0 { "less" } else { "more" };
    format!("{:.1}% {direction}", percent.abs())
}

fn time(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    let (per_second, unit) = match seconds {
        ..1e-6 => (1e9, "ns"),
        ..1e-3 => (1e6, "us"),
        ..1.0 => (1e3, "ms"),
        _ => (1.0, "s"),
    };
    format!("{:.1} {unit}", seconds * per_second)
}
