//! What is printed, as Markdown.

use crate::comparison::{Comparison, Side};
use crate::cpu::Cpu;
use crate::history::Findings;
use crate::mix::{self, Endpoint};
use crate::options::Options;
use crate::prices::{CLOSE_READS, Seen, WRITERS};
use crate::tally::Summary;
use indicatif::HumanCount;
use std::time::Duration;

/// So many of the violations are listed.
const LISTED: usize = 20;

pub(crate) fn print_setup(options: &Options, shops: usize) {
    let pace = match options.rate {
        Some(rate) => format!("open loop, {} requests a second", HumanCount(rate)),
        None => "closed loop".into(),
    };
    println!(
        "{shops} shops with {} products, {} clients ({pace}), Zipf {}, seed {}. {} slices of {}, off and \
         on in turns. The shops have warmed what sells best, as they do when they start; all that their \
         caches load from then on counts.\n\n\
         Each client takes the shops in turn for: {}.",
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
    print_row("all that is cacheable", &cacheable(comparison));
    println!(
        "\n| | cache off | cache on | change |\n\
         | --- | --: | --: | --: |"
    );
    let row = |what, value: fn(&Side) -> f64| {
        let (off, on) = (value(off), value(on));
        println!("| {what} | {off:.1} | {on:.1} | {} |", change(off, on));
    };
    row("database reads per 1,000 requests", Side::reads_per_1000);
    row("requests a second", Side::requests_per_second);
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
    println!("\nSlice by slice, off and on in turns, of what is cacheable:\n");
    for slice in slices {
        println!(
            "- mean {}, {:.0} requests a second, {:.1} database reads per 1,000 requests",
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
    let since = |most: u64| {
        let most = Duration::from_millis(most);
        let close = findings.since_change.iter();
        HumanCount(close.filter(|since| **since <= most).count() as u64)
    };
    println!(
        "\n{} acknowledged changes of prices by {WRITERS} writers, {} reads by {readers} readers \
         ({CLOSE_READS}% of them of the last prices changed), Redis killed and started {restarts} times:\n\n\
         - old prices read after their change was acknowledged: **{}**\n\
         - reads asked for within 1 ms after a change of their price was acknowledged: {}, within 10 ms: {}, \
         ever: {}\n\
         - reads that overlapped a change of their price: {}; {}\n\
         - the longest time without an acknowledged change: {}\n\
         - changes with word to the other shop queued (202, not acknowledged): {}\n\
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
        println!("- the first failure: {failure}");
    }
    for violation in findings.violations.iter().take(LISTED) {
        println!(
            "- price {}, read {} after the check began: version {}, although version {} had been \
             acknowledged {} before",
            violation.read.id,
            time(violation.read.asked),
            violation.read.version,
            violation.least,
            time(violation.since),
        );
    }
    if findings.violations.len() > LISTED {
        println!("- and {} more", findings.violations.len() - LISTED);
    }
}

/// What the shops count against what the database does.
#[allow(clippy::cast_precision_loss)]
pub(crate) fn print_transactions(committed: u64, reads: u64, changes: u64) {
    println!(
        "\nPostgreSQL has committed {} transactions in all; the shops count {} reads and the clients {} \
         changes, {:.1}% of that.",
        HumanCount(committed),
        HumanCount(reads),
        HumanCount(changes),
        (reads + changes) as f64 * 100.0 / committed as f64,
    );
}

/// How old the old prices were that overlapping reads returned.
fn ages(ages: &[Duration]) -> String {
    let mut ages = ages.to_vec();
    ages.sort_unstable();
    let percentile = |percent: usize| time(ages[(ages.len() * percent).div_ceil(100) - 1]);
    match ages.len() {
        0 => "none returned the price from before it".into(),
        count => format!(
            "{} returned the price from before it, {} (p50), {} (p99), {} (max) after the change \
             was asked for",
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
    // Three digits, as many as are measured.
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
    fn changes_have_a_sign() {
        assert_eq!(change(200.0, 50.0), "-75.0%");
        assert_eq!(change(50.0, 200.0), "+300.0%");
        assert_eq!(change(0.0, 1.0), "-");
    }

    #[test]
    fn times_have_three_digits() {
        let text = |nanos| time(Duration::from_nanos(nanos));
        assert_eq!(text(1_234), "1.23 us");
        assert_eq!(text(123_456), "123 us");
        assert_eq!(text(12_345_678), "12.3 ms");
        assert_eq!(text(2_000_000_000), "2.00 s");
    }

    #[test]
    fn ages_are_told_if_there_are_any() {
        assert!(ages(&[]).starts_with("none"));
        let told = ages(&[8, 3, 5].map(Duration::from_millis));
        let expected = "3 returned the price from before it, 5.00 ms (p50), 8.00 ms (p99)";
        assert!(told.starts_with(expected), "{told}");
    }
}
