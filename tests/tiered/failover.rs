//! Failovers under load: nobody reads what was acknowledged away, and nobody is left without an answer.

use super::checker::{Kind, Operation, Summary, Time, assert_allowed, now};
use super::history::Workers;
use super::servers::cluster::Cluster;
use super::servers::replicated::{Replicated, url};
use super::servers::{Cut, Proxy};
use std::time::Duration;

/// How long it took until a write was acknowledged again that began after a fault.
struct Recovery {
    what: &'static str,
    from: Time,
}

/// Longest time without an acknowledged write in the ten seconds after a fault.
fn recovery(history: &[Operation], fault: &Recovery) -> Duration {
    let end = fault.from + 10_000_000_000;
    let acknowledged = history.iter().filter_map(|it| match it.kind {
        Kind::Acknowledged(at) => Some(at),
        _ => None,
    });
    let mut times: Vec<Time> = acknowledged
        .filter(|at| (fault.from..end).contains(at))
        .collect();
    times.push(fault.from);
    times.sort_unstable();
    let gaps = times.windows(2).map(|pair| pair[1] - pair[0]);
    Duration::from_nanos(gaps.max().unwrap_or(0))
}

fn assert_recovered(history: &[Operation], faults: &[Recovery], bound: Duration) {
    for fault in faults {
        println!(
            "{}: nothing was acknowledged for {:.1?}",
            fault.what,
            recovery(history, fault)
        );
    }
    let last = faults.last().unwrap().from;
    let acknowledged =
        |it: &&Operation| matches!(it.kind, Kind::Acknowledged(_)) && it.begun > last;
    assert!(
        history.iter().filter(acknowledged).count() > 100,
        "it has not recovered"
    );
    assert_allowed(history, bound);
}

async fn pause(millis: u64) {
    tokio::time::sleep(Duration::from_millis(millis)).await;
}

/// Two sides of a network that is cut: the old primary's, which no sentinel reaches, and the others'.
async fn sentinels_fail_over(consistency: &'static str, bound: Duration) {
    let mut replicated = Replicated::start().await;
    let mut near = Vec::new();
    for sentinel in replicated.sentinels() {
        near.push(Proxy::start(sentinel).await);
    }
    let (far, near_url) = (replicated.url(), url(near.iter().map(Proxy::port)));
    let urls = [&far, &near_url, &far, &near_url].map(Clone::clone);
    let workers = Workers::start(consistency, urls.into());
    pause(2_000).await;
    let mut faults = Vec::new();
    let mut fault = |what| faults.push(Recovery { what, from: now() });

    let old = replicated.primary();
    fault("primary killed");
    replicated.servers[old].kill();
    replicated.failed_over(old);
    pause(2_000).await;
    replicated.rejoin(old);
    replicated.settled();

    // Half of the clients reach the old primary, and no sentinel; the others reach all.
    for what in ["primary cut off from all but clients", "the same again"] {
        let old = replicated.primary();
        fault(what);
        replicated.isolate(old);
        for way in &near {
            way.cut(Cut::All);
        }
        replicated.failed_over(old);
        pause(2_000).await;
        replicated.ways[old].mend();
        near.iter().for_each(Proxy::mend);
        replicated.settled();
    }

    // It does not know for how long it was away, and finds what clients have sent.
    let old = replicated.primary();
    fault("primary paused");
    replicated.servers[old].pause();
    replicated.failed_over(old);
    replicated.servers[old].resume();
    pause(2_000).await;
    replicated.settled();

    let history = workers.end();
    println!("{consistency}, sentinels: {}", Summary(&history));
    assert_recovered(&history, &faults, bound);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_realtime_read_is_wrong_while_sentinels_fail_over() {
    sentinels_fail_over("realtime", Duration::ZERO).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_realtime_read_is_wrong_while_a_cluster_changes() {
    let mut cluster = Cluster::start();
    let workers = Workers::start("realtime", vec![cluster.url(); 4]);
    let slot = cluster.slot("test");
    pause(2_000).await;
    let mut faults = Vec::new();
    let mut fault = |what| faults.push(Recovery { what, from: now() });

    fault("slot moved");
    cluster.move_slot(slot);
    pause(2_000).await;

    let old = cluster.primaries(slot)[0].0;
    fault("primary killed");
    cluster.servers[old].kill();
    super::servers::soon("a replica takes over", || {
        cluster.primaries(slot).len() == 3 && cluster.primaries(slot)[0].0 != old
    })
    .await;
    pause(2_000).await;
    cluster.servers[old].restart();
    cluster.settled();

    let old = cluster.primaries(slot)[0].0;
    fault("primary paused");
    cluster.servers[old].pause();
    super::servers::soon("a replica takes over", || {
        cluster.primaries(slot).len() == 3 && cluster.primaries(slot)[0].0 != old
    })
    .await;
    cluster.servers[old].resume();
    pause(2_000).await;
    cluster.settled();

    fault("slot moved");
    cluster.move_slot(slot);
    pause(2_000).await;

    let history = workers.end();
    println!("realtime, cluster: {}", Summary(&history));
    assert_recovered(&history, &faults, Duration::ZERO);
}
