//! Failovers under load: nobody reads what was acknowledged away, and nobody is left without an answer.

use super::checker::{Kind, Operation, Summary, Time, assert_allowed, now};
use super::history::{BOUND, GRAIN, Workers};
use super::servers::cluster::Cluster;
use super::servers::replicated::{Replicated, url};
use super::servers::{Cut, Proxy, Server, soon};
use super::{builder, value};
use hotset::{Consistency, Delivery};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// What was done to the servers, and when.
struct Fault {
    what: &'static str,
    from: Time,
}

/// The longest time without an acknowledged write between two points in time.
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
        // What is left of it once the servers have decided is a matter of heartbeats.
        assert!(gap < Duration::from_secs(15), "{gap:?}");
        println!("{}: nothing was acknowledged for {gap:.1?}", fault.what);
    }
    assert_allowed(history, bound);
}

/// Waits until a hundred writes are acknowledged that have begun since.
async fn working(workers: &Workers, since: Time) {
    let is_acknowledged =
        |it: &&Operation| it.begun > since && matches!(it.kind, Kind::Acknowledged(_));
    let begun = Instant::now();
    while workers.noted().iter().filter(is_acknowledged).count() < 100 {
        assert!(
            begun.elapsed() < Duration::from_secs(60),
            "it has not recovered"
        );
        pause(200).await;
    }
}

/// Lets the workers go on as it is for a while.
async fn pause(millis: u64) {
    tokio::time::sleep(Duration::from_millis(millis)).await;
}

/// Workers on two sides of a network, and what fails.
struct Sentinels {
    replicated: Replicated,
    /// How half of the workers reach the sentinels.
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
        let workers = Workers::start(consistency, urls.into());
        working(&workers, now()).await;
        Self {
            replicated,
            near,
            workers,
            faults: Vec::new(),
        }
    }

    /// Something is done to the primary, and another takes over.
    fn fail(&mut self, what: &'static str, fault: impl FnOnce(&mut Self, usize)) -> usize {
        let old = self.replicated.primary();
        self.faults.push(Fault { what, from: now() });
        fault(self, old);
        self.replicated.wait_for_failover(old);
        old
    }

    async fn kill(&mut self) {
        let old = self.fail("primary killed", |it, old| {
            it.replicated.servers[old].kill();
        });
        pause(2_000).await;
        self.replicated.rejoin(old);
        self.settled().await;
    }

    /// Half of the clients reach the old primary, and no sentinel; the others reach all.
    async fn cut_off(&mut self) {
        let old = self.fail("primary cut off from all but clients", |it, old| {
            it.replicated.isolate(old);
            for way in &it.near {
                way.cut(Cut::All);
            }
        });
        pause(2_000).await;
        self.replicated.proxies[old].mend();
        self.near.iter().for_each(Proxy::mend);
        self.settled().await;
    }

    /// It does not know for how long it was away, and finds what clients have sent.
    async fn pause(&mut self) {
        let old = self.fail("primary paused", |it, old| {
            it.replicated.servers[old].pause();
        });
        self.replicated.servers[old].resume();
        pause(2_000).await;
        self.settled().await;
    }

    async fn settled(&self) {
        self.replicated.wait_until_settled();
        working(&self.workers, now()).await;
    }

    fn end(self, bound: Duration) {
        let history = self.workers.end();
        println!("{}", Summary(&history));
        assert_recovered_and_allowed(&history, &self.faults, bound);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_realtime_read_is_wrong_while_sentinels_fail_over() {
    let mut sentinels = Sentinels::start("realtime").await;
    sentinels.kill().await;
    sentinels.cut_off().await;
    sentinels.cut_off().await;
    sentinels.pause().await;
    sentinels.end(Duration::ZERO);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_read_from_l2_alone_is_wrong_while_sentinels_fail_over() {
    let mut sentinels = Sentinels::start("l2only").await;
    sentinels.cut_off().await;
    sentinels.end(Duration::ZERO);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_bounded_read_is_older_than_its_bound_while_sentinels_fail_over() {
    let mut sentinels = Sentinels::start("bounded").await;
    sentinels.cut_off().await;
    sentinels.end(BOUND + GRAIN);
}

/// The old primary says nothing, and closes nothing; and it is long until it is asked again.
#[tokio::test(flavor = "multi_thread")]
async fn a_failover_is_noticed_by_word_of_the_sentinels() {
    let replicated = Replicated::start().await;
    let cache = builder::<u64>(&replicated.url(), Consistency::Realtime);
    let cache = cache.heartbeat(Duration::from_secs(60)).build().unwrap();
    soon("proven", || cache.health().proven_for.is_some()).await;
    let old = replicated.primary();
    replicated.servers[old].pause();
    replicated.wait_for_failover(old);
    soon("it listens to another", || {
        let health = cache.health();
        health.subscriptions == 2 && health.proven_for.is_some()
    })
    .await;
    replicated.servers[old].resume();
    assert_eq!(cache.get_or_load_async(&1, || value(10)).await.unwrap(), 10);
    assert_eq!(
        replicated.servers[replicated.primary()]
            .entries("test")
            .len(),
        1
    );
}

/// It does not know that it was away, and that the server which it reaches is the primary no more.
#[tokio::test(flavor = "multi_thread")]
async fn who_was_paused_asks_no_old_primary() {
    let replicated = Replicated::start().await;
    let mut near = Vec::new();
    for sentinel in replicated.sentinels() {
        near.push(Proxy::start(sentinel).await);
    }
    let near_url = url(near.iter().map(Proxy::port));
    let far = builder::<u64>(&replicated.url(), Consistency::L2Only);
    let far = far.build().unwrap();
    soon("proven", || far.health().proven_for.is_some()).await;
    assert_eq!(far.insert(1, 10).await, Delivery::Acknowledged);

    // All of it runs in one thread, which is told when to stop and when to go on.
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
            soon("proven", || near.health().proven_for.is_some()).await;
            assert_eq!(near.get(&1).await, Some(10));
            is_stopped.send(()).unwrap();
            go_on.recv().unwrap();
            near.get(&1).await
        })
    });
    stopped.recv().unwrap();
    let old = replicated.primary();
    replicated.isolate(old);
    for way in &near {
        way.cut(Cut::All);
    }
    replicated.wait_for_failover(old);
    let listens = || far.health().subscriptions == 2 && far.health().proven_for.is_some();
    soon("it listens to another", listens).await;
    assert_eq!(far.insert(1, 11).await, Delivery::Acknowledged);
    go.send(()).unwrap();
    assert_eq!(paused.join().unwrap(), None);
}

/// As a managed primary does, of which nobody can be asked who it is: one address, that leads to another
/// server from some time on. Half of the clients stay with the old one, which knows nothing of it.
#[tokio::test(flavor = "multi_thread")]
async fn no_realtime_read_is_wrong_while_an_address_moves() {
    let (mut old, new) = (Server::start(), Server::start());
    let feed = Proxy::start(old.address()).await;
    let port = feed.port().to_string();
    let () = new.command(&[b"REPLICAOF", b"127.0.0.1", port.as_bytes()]);
    let (stay, go) = (
        Proxy::start(old.address()).await,
        Proxy::start(old.address()).await,
    );
    let urls = [&go, &stay, &go, &stay].map(Proxy::url);
    let workers = Workers::start("realtime-wait", urls.into());
    working(&workers, now()).await;

    let fault = Fault {
        what: "address moved",
        from: now(),
    };
    feed.cut(Cut::All);
    let () = new.command(&[b"REPLICAOF", b"NO", b"ONE"]);
    go.forward_to(new.address());
    pause(3_000).await;
    // The new one has its replica as well.
    old.kill();
    stay.forward_to(new.address());
    old.restart();
    let port = new.port().to_string();
    let () = old.command(&[b"REPLICAOF", b"127.0.0.1", port.as_bytes()]);
    working(&workers, now()).await;

    let history = workers.end();
    println!("{}", Summary(&history));
    assert_recovered_and_allowed(&history, &[fault], Duration::ZERO);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_realtime_read_is_wrong_while_a_cluster_changes() {
    let mut cluster = Cluster::start();
    let workers = Workers::start("realtime", vec![cluster.url(); 4]);
    let slot = cluster.slot("test");
    working(&workers, now()).await;
    let mut faults = Vec::new();
    let mut fault = |what| faults.push(Fault { what, from: now() });

    fault("slot moved");
    cluster.move_slot(slot);
    working(&workers, now()).await;

    let old = cluster.primaries(slot)[0].0;
    fault("primary killed");
    cluster.servers[old].kill();
    cluster.wait_for_failover(slot, old);
    pause(2_000).await;
    cluster.servers[old].restart();
    cluster.wait_until_settled();
    working(&workers, now()).await;

    let old = cluster.primaries(slot)[0].0;
    fault("primary paused");
    cluster.servers[old].pause();
    cluster.wait_for_failover(slot, old);
    cluster.servers[old].resume();
    pause(2_000).await;
    cluster.wait_until_settled();
    working(&workers, now()).await;

    fault("slot moved");
    cluster.move_slot(slot);
    working(&workers, now()).await;

    let history = workers.end();
    println!("{}", Summary(&history));
    assert_recovered_and_allowed(&history, &faults, Duration::ZERO);
}
