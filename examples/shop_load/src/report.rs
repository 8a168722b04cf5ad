//! The printed report, as Markdown.

use crate::comparison::{Comparison, Side};
use crate::cpu::Cpu;
use crate::history::Findings;
use crate::mix::{self, Endpoint};
use crate::options::Options;
use crate::prices::{CLOSE_READS_PERCENT, Seen, WRITERS};
use crate::tally::Summary;
use indicatif::HumanCount;
use std::time::Duration;

/// The maximum number of listed violations.
const MAX_LISTED: usize = 20;

pub(crate) fn print_setup(options: &Options, shops: usize) {
    let pace = match options.rate {
        Some(rate) => format!("open loop, {} requests per second", HumanCount(rate)),
        None => "closed loop".into(),
    };
    println!(
        "{shops} shops with {} products, {} clients ({pace}), Zipf exponent {}, seed {}. {} slices of {} with the \
         cache off and on in turns. The shops have warmed their caches with the best sellers at their start; all \
         later loads are counted.\n\n\
         Each client sends requests to the shops in turn: {}.",
        HumanCount(options.products),
        options.clients,
        options.zipf,
        options.seed,
        options.slices,
        time(options.seconds),
        mix::describe(),
    );
}

pub(crate) fn print_comparison(comparison: &Comparison) {
    let Comparison { off, on, slices } = comparison;
    println!(
        "\n| | requests, off | on | mean, off | on | change | p50, off | on | p99, off | on |\n\
         | --- | --: | --: | --: | --: | --: | --: | --: | --: | --: |"
    );
    for endpoint in Endpoint::ALL {
        let sides = [off, on].map(|side| side.tally.summary(|it| it == endpoint));
        print_row(&format!("`{}`", endpoint.name()), &sides);
    }
    print_row("all cacheable requests", &cacheable(comparison));
    println!(
        "\n| | cache off | cache on | change |\n\
         | --- | --: | --: | --: |"
    );
    let row = |name, value: fn(&Side) -> f64| {
        let (off, on) = (value(off), value(on));
        println!("| {name} | {off:.1} | {on:.1} | {} |", change(off, on));
    };
    row("database reads per 1,000 requests", Side::reads_per_1000);
    row("requests per second", Side::requests_per_second);
    let parts = ["shops", "PostgreSQL", "Redis", "load generator"];
    for (place, name) in parts.into_iter().enumerate() {
        let part = |cpu: Cpu| [cpu.shops, cpu.postgres, cpu.redis, cpu.clients][place];
        if let Some((off, on)) = cpu_micros(off, part).zip(cpu_micros(on, part)) {
            let percent = change(off, on);
            println!(
                "| processor time per request: {name} | {off:.0} us | {on:.0} us | {percent} |"
            );
        }
    }
    println!("\nAll slices, off and on in turns (mean of cacheable requests):\n");
    for slice in slices {
        println!(
            "- mean {}, {:.0} requests per second, {:.1} database reads per 1,000 requests",
            time(slice.tally.summary(Endpoint::is_cacheable).mean),
            slice.requests_per_second(),
            slice.reads_per_1000()
        );
    }
}

fn cacheable(comparison: &Comparison) -> [Summary; 2] {
    [&comparison.off, &comparison.on].map(|side| side.tally.summary(Endpoint::is_cacheable))
}

fn print_row(name: &str, [off, on]: &[Summary; 2]) {
    println!(
        "| {name} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
        HumanCount(off.requests),
        HumanCount(on.requests),
        time(off.mean),
        time(on.mean),
        change(off.mean.as_secs_f64(), on.mean.as_secs_f64()),
        time(off.p50),
        time(on.p50),
        time(off.p99),
        time(on.p99),
    );
}

#[allow(clippy::cast_precision_loss)]
fn cpu_micros(side: &Side, part: impl Fn(Cpu) -> Duration) -> Option<f64> {
    let time = part(side.cpu?);
    Some(time.as_secs_f64() * 1e6 / side.tally.requests() as f64)
}

pub(crate) fn print_prices(seen: &Seen, findings: &Findings, readers: u64, restarts: u32) {
    let since = |max_millis: u64| {
        let max = Duration::from_millis(max_millis);
        let close = findings.since_change.iter();
        HumanCount(close.filter(|since| **since <= max).count() as u64)
    };
    println!(
        "\n{} acknowledged price changes by {WRITERS} writers, {} reads by {readers} readers ({CLOSE_READS_PERCENT}% \
         of them of recently changed prices), Redis killed and restarted {restarts} times:\n\n\
         - reads of outdated prices after the change was acknowledged: **{}**\n\
         - reads sent at most 1 ms after a change of their price was acknowledged: {}, at most 10 ms: {}, at any time: \
         {}\n\
         - reads that overlapped a change of their price: {}; {}\n\
         - longest time between two acknowledged changes: {}\n\
         - changes whose invalidations were queued (status 202, not acknowledged): {}\n\
         - failed changes: {}, failed reads: {}",
        HumanCount(findings.acknowledged as u64),
        HumanCount(seen.history.reads.len() as u64),
        HumanCount(findings.violations.len() as u64),
        since(1),
        since(10),
        since(u64::MAX),
        HumanCount(findings.overlapping as u64),
        ages(&findings.ages),
        time(findings.longest_gap),
        HumanCount(seen.queued),
        HumanCount(seen.failed_changes),
        HumanCount(seen.failed_reads),
    );
    if let Some(failure) = &seen.failure {
        println!("- first failure: {failure}");
    }
    for violation in findings.violations.iter().take(MAX_LISTED) {
        println!(
            "- price {}, read {} after the start of the check: version {}, although version {} was acknowledged {} \
             before the read",
            violation.read.id,
            time(violation.read.sent),
            violation.read.version,
            violation.least,
            time(violation.since),
        );
    }
    if findings.violations.len() > MAX_LISTED {
        println!("- and {} more", findings.violations.len() - MAX_LISTED);
    }
}

/// Prints the number of transactions in the database next to the numbers of reads and changes.
#[allow(clippy::cast_precision_loss)]
pub(crate) fn print_transactions(committed: u64, reads: u64, changes: u64) {
    println!(
        "\nPostgreSQL has committed {} transactions; the shops count {} reads and the clients {} changes, {:.1}% of \
         the transactions.",
        HumanCount(committed),
        HumanCount(reads),
        HumanCount(changes),
        (reads + changes) as f64 * 100.0 / committed as f64,
    );
}

/// Describes the staleness of the prices that overlapping reads returned.
fn ages(ages: &[Duration]) -> String {
    let mut ages = ages.to_vec();
    ages.sort_unstable();
    let percentile = |percent: usize| time(ages[(ages.len() * percent).div_ceil(100) - 1]);
    match ages.len() {
        0 => "none returned the price before the change".into(),
        count => format!(
            "{} returned the price before the change, {} (p50), {} (p99), {} (max) after the change was sent",
            HumanCount(count as u64),
            percentile(50),
            percentile(99),
            percentile(100),
        ),
    }
}

fn change(before: f64, after: f64) -> String {
    if before > 0.0 {
        format!("{:+.1}%", (after / before - 1.0) * 100.0)
    } else {
        "-".into()
    }
}

pub(crate) fn time(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    let (per_second, unit) = match seconds {
        ..1e-3 => (1e6, "us"),
        ..1.0 => (1e3, "ms"),
        _ => (1.0, "s"),
    };
    let number = seconds * per_second;
    // Three digits, which is the precision of the histograms.
    match number {
        ..10.0 => format!("{number:.2} {unit}"),
        ..100.0 => format!("{number:.1} {unit}"),
        _ => format!("{number:.0} {unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn change_has_a_sign() {
        assert_eq!(change(200.0, 50.0), "-75.0%");
        assert_eq!(change(50.0, 200.0), "+300.0%");
        assert_eq!(change(0.0, 1.0), "-");
    }

    #[test]
    fn time_has_three_digits() {
        let text = |nanos| time(Duration::from_nanos(nanos));
        assert_eq!(text(1_234), "1.23 us");
        assert_eq!(text(123_456), "123 us");
        assert_eq!(text(12_345_678), "12.3 ms");
        assert_eq!(text(2_000_000_000), "2.00 s");
    }

    #[test]
    fn ages_are_described_by_count_and_percentiles() {
        assert!(ages(&[]).starts_with("none"));
        let text = ages(&[8, 3, 5].map(Duration::from_millis));
        let expected = "3 returned the price before the change, 5.00 ms (p50), 8.00 ms (p99)";
        assert!(text.starts_with(expected), "{text}");
    }
}
