//! Failovers under load: no read returns a value older than an acknowledged change, and every call ends.

use super::checker::{Kind, Operation, Summary, Time, assert_allowed, now};
use super::history::{BOUND, CLOCK_RESOLUTION, Workers};
use super::servers::cluster::Cluster;
use super::servers::replicated::{Replicated, url};
use super::servers::{Cut, Proxy, Server, TEST_TIMEOUT, soon};
use super::{builder, value};
use hotset::{Consistency, Propagation};
use std::sync::mpsc;
use std::time::{Duration, Instant};
use support::caches::wait_until_proven;

/// The deadline of the workers' caches. A call has to succeed within it also on a busy machine, so that the workers
/// recover after a fault.
const WORKER_DEADLINE: Duration = Duration::from_secs(1);

/// A fault that was injected, and its time.
struct Fault {
    what: &'static str,
    from: Time,
}

/// Returns the longest time without an acknowledged write between two points in time.
fn longest_gap(history: &[Operation], from: Time, until: Time) -> Duration {
    let acknowledged = history.iter().filter_map(|it| match it.kind {
        Kind::Acknowledged(at) => Some(at),
        _ => None,
    });
    let mut times: Vec<Time> = acknowledged
        .filter(|at| (from..until).contains(at))
        .collect();
    times.push(from);
    times.sort_unstable();
    let gaps = times.windows(2).map(|pair| pair[1] - pair[0]);
    Duration::from_nanos(gaps.max().unwrap_or(0))
}

fn assert_recovered_and_allowed(history: &[Operation], faults: &[Fault], bound: Duration) {
    let next = faults.iter().skip(1).map(|fault| fault.from);
    for (fault, next) in faults.iter().zip(next.chain([Time::MAX])) {
        let gap = longest_gap(history, fault.from, next);
        println!("{}: nothing was acknowledged for {gap:.1?}", fault.what);
    }
    assert_allowed(history, bound);
}

/// Waits until a hundred writes that began after `since` are acknowledged.
async fn wait_until_working(workers: &Workers, since: Time) {
    let is_acknowledged = |operation: &&Operation| {
        operation.begun > since && matches!(operation.kind, Kind::Acknowledged(_))
    };
    let begun = Instant::now();
    while workers.operations().iter().filter(is_acknowledged).count() < 100 {
        assert!(
            begun.elapsed() < TEST_TIMEOUT,
            "the workers have not recovered"
        );
        pause(200).await;
    }
}

/// Waits for a time in which the workers continue, so that their operations cover the time after a fault.
async fn pause(millis: u64) {
    tokio::time::sleep(Duration::from_millis(millis)).await;
}

/// Workers on two sides of a network, and the faults so far.
struct Sentinels {
    replicated: Replicated,
    /// The proxies through which half of the workers reach the sentinels.
    near: Vec<Proxy>,
    workers: Workers,
    faults: Vec<Fault>,
}

impl Sentinels {
    async fn start(consistency: &'static str) -> Self {
        let replicated = Replicated::start().await;
        let mut near = Vec::new();
        for sentinel in replicated.sentinels() {
            near.push(Proxy::start(sentinel).await);
        }
        let (far, through) = (replicated.url(), url(near.iter().map(Proxy::port)));
        let urls = [&far, &through, &far, &through].map(Clone::clone);
        let workers = Workers::start(consistency, urls.into(), WORKER_DEADLINE);
        wait_until_working(&workers, now()).await;
        Self {
            replicated,
            near,
            workers,
            faults: Vec::new(),
        }
    }

    /// Injects a fault into the primary, and waits until another server takes over.
    fn fail(&mut self, what: &'static str, fault: impl FnOnce(&mut Self, usize)) -> usize {
        let old = self.replicated.primary();
        self.faults.push(Fault { what, from: now() });
        fault(self, old);
        self.replicated.wait_for_failover(old);
        old
    }

    /// Kills the primary, which later joins as a replica.
    async fn kill(&mut self) {
        let old = self.fail("primary killed", |sentinels, old| {
            sentinels.replicated.servers[old].kill();
        });
        pause(2_000).await;
        self.replicated.rejoin(old);
        self.wait_until_settled().await;
    }

    /// Cuts half of the clients off from the sentinels, but not from the old primary. The others reach all servers.
    async fn cut_off(&mut self) {
        let old = self.fail("primary cut off from all but clients", |sentinels, old| {
            sentinels.replicated.isolate(old);
            for proxy in &sentinels.near {
                proxy.cut(Cut::All);
            }
        });
        pause(2_000).await;
        self.replicated.proxies[old].mend();
        self.near.iter().for_each(Proxy::mend);
        self.wait_until_settled().await;
    }

    /// Pauses the primary. After it resumes, it does not know how long it was paused, and processes the commands that
    /// were sent.
    async fn pause(&mut self) {
        let old = self.fail("primary paused", |sentinels, old| {
            sentinels.replicated.servers[old].pause();
        });
        self.replicated.servers[old].resume();
        pause(2_000).await;
        self.wait_until_settled().await;
    }

    /// Waits until replication and all workers work.
    async fn wait_until_settled(&self) {
        self.replicated.wait_until_settled();
        wait_until_working(&self.workers, now()).await;
    }

    /// Ends the workers, and checks their history.
    fn end(self, bound: Duration) {
        let history = self.workers.end();
        println!("{}", Summary(&history));
        assert_recovered_and_allowed(&history, &self.faults, bound);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn realtime_reads_are_correct_during_sentinel_failovers() {
    let mut sentinels = Sentinels::start("realtime").await;
    sentinels.kill().await;
    sentinels.cut_off().await;
    sentinels.cut_off().await;
    sentinels.pause().await;
    sentinels.end(Duration::ZERO);
}

#[tokio::test(flavor = "multi_thread")]
async fn l2_only_reads_are_correct_during_sentinel_failovers() {
    let mut sentinels = Sentinels::start("l2only").await;
    sentinels.cut_off().await;
    sentinels.end(Duration::ZERO);
}

#[tokio::test(flavor = "multi_thread")]
async fn bounded_reads_are_within_their_bound_during_sentinel_failovers() {
    let mut sentinels = Sentinels::start("bounded").await;
    sentinels.cut_off().await;
    sentinels.end(BOUND + CLOCK_RESOLUTION);
}

/// The old primary neither answers nor closes connections, and the next regular check is far off.
#[tokio::test(flavor = "multi_thread")]
async fn failover_is_detected_by_the_message_of_the_sentinels() {
    let replicated = Replicated::start().await;
    let cache = builder::<u64>(&replicated.url(), Consistency::Realtime);
    let cache = cache.heartbeat(Duration::from_secs(60)).build().unwrap();
    wait_until_proven(&cache).await;
    let old = replicated.primary();
    replicated.servers[old].pause();
    replicated.wait_for_failover(old);
    soon("the cache has subscribed to another server", || {
        let health = cache.health();
        health.subscriptions == 2 && health.proven_for.is_some()
    })
    .await;
    replicated.servers[old].resume();
    assert_eq!(
        cache.get_or_load_async(&1, |_| value(10)).await.unwrap(),
        10
    );
    assert_eq!(
        replicated.servers[replicated.primary()]
            .entries("test")
            .len(),
        1
    );
}

/// The process does not know that it was paused, and that the server which it reaches is no longer the primary.
#[tokio::test(flavor = "multi_thread")]
async fn resumed_process_does_not_read_from_demoted_primary() {
    let replicated = Replicated::start().await;
    let mut near = Vec::new();
    for sentinel in replicated.sentinels() {
        near.push(Proxy::start(sentinel).await);
    }
    let near_url = url(near.iter().map(Proxy::port));
    let far = builder::<u64>(&replicated.url(), Consistency::L2Only);
    let far = far.build().unwrap();
    wait_until_proven(&far).await;
    assert_eq!(far.insert(1, 10).await, Propagation::Acknowledged);

    // All tasks of the process run in one thread, which the test stops and resumes.
    let (is_stopped, stopped) = mpsc::channel();
    let (go, go_on) = mpsc::channel();
    let paused = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.unwrap().block_on(async {
            let near = builder::<u64>(&near_url, Consistency::L2Only)
                .build()
                .unwrap();
            wait_until_proven(&near).await;
            assert_eq!(near.get(&1).await, Some(10));
            is_stopped.send(()).unwrap();
            go_on.recv().unwrap();
            near.get(&1).await
        })
    });
    stopped.recv().unwrap();
    let old = replicated.primary();
    replicated.isolate(old);
    for proxy in &near {
        proxy.cut(Cut::All);
    }
    replicated.wait_for_failover(old);
    let listens = || far.health().subscriptions == 2 && far.health().proven_for.is_some();
    soon("the cache has subscribed to another server", listens).await;
    assert_eq!(far.insert(1, 11).await, Propagation::Acknowledged);
    go.send(()).unwrap();
    assert_eq!(paused.join().unwrap(), None);
}

/// Like a managed primary without sentinels, there is one address, which begins to lead to another server. Half of the
/// clients stay connected to the old server, which does not know that it was replaced.
#[tokio::test(flavor = "multi_thread")]
async fn realtime_reads_are_correct_while_an_address_moves_to_another_server() {
    let (mut old, new) = (Server::start(), Server::start());
    let feed = Proxy::start(old.address()).await;
    let port = feed.port().to_string();
    let () = new.command(&[b"REPLICAOF", b"127.0.0.1", port.as_bytes()]);
    let (stay, go) = (
        Proxy::start(old.address()).await,
        Proxy::start(old.address()).await,
    );
    let urls = [&go, &stay, &go, &stay].map(Proxy::url);
    let workers = Workers::start("realtime-wait", urls.into(), WORKER_DEADLINE);
    wait_until_working(&workers, now()).await;

    let fault = Fault {
        what: "address moved",
        from: now(),
    };
    feed.cut(Cut::All);
    let () = new.command(&[b"REPLICAOF", b"NO", b"ONE"]);
    go.forward_to(new.address());
    pause(3_000).await;
    // The new primary gets a replica, too.
    old.kill();
    stay.forward_to(new.address());
    old.restart();
    let port = new.port().to_string();
    let () = old.command(&[b"REPLICAOF", b"127.0.0.1", port.as_bytes()]);
    wait_until_working(&workers, now()).await;

    let history = workers.end();
    println!("{}", Summary(&history));
    assert_recovered_and_allowed(&history, &[fault], Duration::ZERO);
}

#[tokio::test(flavor = "multi_thread")]
async fn realtime_reads_are_correct_during_failovers_and_a_slot_migration_of_a_cluster() {
    let mut cluster = Cluster::start();
    let workers = Workers::start("realtime", vec![cluster.url(); 4], WORKER_DEADLINE);
    let slot = cluster.slot("test");
    wait_until_working(&workers, now()).await;
    let mut faults = Vec::new();
    let mut fault = |what| faults.push(Fault { what, from: now() });

    fault("slot moved");
    cluster.move_slot(slot);
    wait_until_working(&workers, now()).await;

    let old = cluster.primaries(slot)[0].0;
    fault("primary killed");
    cluster.servers[old].kill();
    cluster.wait_for_failover(slot, old);
    pause(2_000).await;
    cluster.servers[old].restart();
    cluster.wait_until_settled();
    wait_until_working(&workers, now()).await;

    let old = cluster.primaries(slot)[0].0;
    fault("primary paused");
    cluster.servers[old].pause();
    cluster.wait_for_failover(slot, old);
    cluster.servers[old].resume();
    pause(2_000).await;
    cluster.wait_until_settled();
    wait_until_working(&workers, now()).await;

    fault("slot moved");
    cluster.move_slot(slot);
    wait_until_working(&workers, now()).await;

    let history = workers.end();
    println!("{}", Summary(&history));
    assert_recovered_and_allowed(&history, &faults, Duration::ZERO);
}
