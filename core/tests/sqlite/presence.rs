//! Who is there: leases, beats and the lock files that tell who has gone.

use super::*;

#[tokio::test]
async fn a_process_that_has_gone_is_seen_at_once() {
    let directory = Directory::new();
    let (first, second) = (directory.migrated().await, directory.open());
    let (gone, here) = (register(&first).await, register(&second).await);
    let run = own(&first, gone).await;
    assert_eq!(directory.lock_files(), 2);
    let report = second.tick(&tick(here)).await.expect("ticks");
    assert!(report.reaped.is_empty() && report.peers.len() == 1, "its lock is held: {report:?}");
    // What the kernel does to a process that is killed: every connection and every lock goes, and no row is changed.
    first.close().await;
    let report = second.tick(&tick(here)).await.expect("ticks");
    assert_eq!((report.reaped, report.orphans, report.ready), (vec![gone], 1, true), "its lease had a minute left");
    let claimed = claim(&second, here, 10).await.remove(0);
    assert_eq!((claimed.key, claimed.crashes, claimed.epoch), (run, 1, 3));
    assert_eq!(directory.lock_files(), 1);
    second.deregister(here).await.expect("deregisters");
    assert_eq!(directory.lock_files(), 0);
}

/// Taken over while it stood still, it keeps nothing of the lease it had.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_lost_lease_keeps_no_file_open() {
    let directory = Directory::new();
    let (stalled, other) = (directory.migrated().await, directory.open());
    let (lost, here) = (register(&stalled).await, register(&other).await);
    let locks_of = |incarnation: Uuid| {
        let name = format!(".lock-{}", incarnation.simple());
        let open = std::fs::read_dir("/proc/self/fd").expect("reads").flatten();
        open.filter_map(|e| std::fs::read_link(e.path()).ok()).filter(|path| path.to_string_lossy().contains(&name)).count()
    };
    assert_eq!(locks_of(lost), 1);
    let report = other.tick(&TickRequest { known_dead: vec![lost], ..tick(here) }).await.expect("ticks");
    assert_eq!(report.reaped, [lost]);
    stalled.register(&worker(lost)).await.expect("said again, and the file is made again");
    assert_eq!((locks_of(lost), directory.lock_files()), (1, 2));
    other.tick(&TickRequest { known_dead: vec![lost], ..tick(here) }).await.expect("ticks");
    assert!(!stalled.tick(&tick(lost)).await.expect("ticks").alive);
    assert_eq!((locks_of(lost), directory.lock_files()), (0, 1));
}

/// The first whose beat gets through after the file stood still must not bury those whose beats are still on their way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stall_of_the_file_takes_nobody_over() {
    const LEASE_MS: i64 = 600;
    let directory = Directory::new();
    let (first, second, third) = (directory.migrated().await, directory.open(), directory.open());
    let (here, there) = (register(&first).await, register(&second).await);
    let run = own(&second, there).await;
    assert!(second.beat(there, LEASE_MS).await.expect("beats"));
    let lease_began = Instant::now();
    let stall = third.begin(&site("work")).await.expect("begins");
    let request = TickRequest { lease_ms: LEASE_MS, may_reap: true, ..tick(here) };
    let ticking = tokio::spawn({
        let (first, request) = (first.clone(), request.clone());
        async move { first.tick(&request).await }
    });
    while lease_began.elapsed() < Duration::from_millis(LEASE_MS as u64 * 2) {
        assert!(!ticking.is_finished(), "the file stands still");
        tokio::task::yield_now().await;
    }
    stall.rollback().await;
    let report = ticking.await.expect("ends").expect("ticks");
    assert!(report.alive && report.reaped.is_empty(), "its beat had no chance: {report:?}");
    assert!(second.beat(there, 60_000).await.expect("beats"));
    assert!(first.tick(&request).await.expect("ticks").reaped.is_empty());
    assert_eq!(second.owned(there).await.expect("reads")[0].key, run);
}

/// A registration whose outcome is not known is said again.
#[tokio::test]
async fn a_registration_that_was_cut_short_can_be_said_again() {
    let directory = Directory::new();
    let (store, other) = (directory.migrated().await, directory.open());
    let incarnation = Uuid::new_v4();
    let stall = other.begin(&site("work")).await.expect("begins");
    assert!(tokio::time::timeout(Duration::from_millis(1), store.register(&worker(incarnation))).await.is_err(), "the file stands still");
    stall.rollback().await;
    store.register(&worker(incarnation)).await.expect("registers");
    assert!(store.beat(incarnation, 60_000).await.expect("beats"));
}

/// Heartbeats go ahead of everybody who waits for the writer.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_beat_waits_for_one_transaction_at_most() {
    let directory = Directory::new();
    let store = directory.migrated().await;
    let me = register(&store).await;
    let first = store.begin(&site("work")).await.expect("begins");
    let order = Arc::new(std::sync::Mutex::new(Vec::new()));
    let queued: Vec<_> = (0..5)
        .map(|_| {
            let (store, order) = (store.clone(), order.clone());
            tokio::spawn(async move {
                let transaction = store.begin(&site("work")).await.expect("begins");
                order.lock().expect("not poisoned").push("transaction");
                transaction.rollback().await;
            })
        })
        .collect();
    // They have all asked once each has been polled; the beat comes last.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    let beat = {
        let (store, order) = (store.clone(), order.clone());
        tokio::spawn(async move {
            assert!(store.beat(me, 60_000).await.expect("beats"));
            order.lock().expect("not poisoned").push("beat");
        })
    };
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    first.rollback().await;
    beat.await.expect("joins");
    for task in queued {
        task.await.expect("joins");
    }
    let order = order.lock().expect("not poisoned").clone();
    let place = order.iter().position(|what| *what == "beat").expect("it has beaten");
    assert!(place <= 1, "{order:?}");
}
