//! Leases, the dead, and what counts as a crash.

use std::sync::Arc;

use everstep::store::*;

use crate::bench::*;

pub async fn the_dead_are_reaped(bench: Arc<Bench>) {
    let (victim, survivor) = (bench.worker().await, bench.worker().await);
    let mut runs = Vec::new();
    for _ in 0..5 {
        runs.push(victim.own().await);
    }
    verdict!(victim.one(record(runs[0], 1, step(0))).await, Verdict::Committed);
    let peers = survivor.tick(&[]).await.peers;
    assert_eq!(peers.iter().map(|peer| (peer.incarnation, peer.pid, peer.process_start)).collect::<Vec<_>>(), [(victim.id, 42, 7)]);
    // Its process is gone: whatever its lease says, and though this process may not reap by time.
    let report = survivor.tick_as(false, &[victim.id], 5).await;
    assert_eq!((report.reaped, report.orphans, report.ready), (vec![victim.id], 5, true));
    let claimed = survivor.claim(&[route()], 10).await;
    assert_eq!(claimed.len(), 5);
    assert!(claimed.iter().all(|run| run.epoch == 3 && run.crashes == 1));
    assert_eq!(claimed.iter().find(|run| run.key == runs[0]).expect("claimed").steps.len(), 1);
    verdict!(victim.one(record(runs[0], 1, step(1))).await, Verdict::Fenced);
    assert!(survivor.tick(&[]).await.peers.is_empty());
}

/// Its first registration was answered to nobody, and by the second it had been taken for dead.
pub async fn who_comes_back_can_be_reaped_again(bench: Arc<Bench>) {
    let (judge, late) = (bench.worker().await, Worker::register(bench.store.clone(), 1).await);
    until("it is taken for dead", || async { Some(judge.tick(&[]).await).filter(|report| report.reaped == [late.id]) }).await;
    judge.tick(&[]).await;
    bench.store.register(&info(late.id, 60_000)).await.expect("registers");
    let run = late.own().await;
    let report = judge.tick(&[late.id]).await;
    assert_eq!((report.reaped, report.orphans), (vec![late.id], 1));
    assert_eq!(judge.claim(&[route()], 1).await[0].key, run);
}

pub async fn only_crashes_without_progress_count(bench: Arc<Bench>) {
    let judge = bench.worker().await;
    let route = [route()];
    let mut owner = bench.worker().await;
    let run = owner.own().await;
    let mut epoch = 1;
    let mut last = 0;
    for round in 1..=6 {
        // It gets on each time: never more than one.
        verdict!(owner.one(record(run, epoch, step(round))).await, Verdict::Committed);
        judge.tick(&[owner.id]).await;
        owner = bench.worker().await;
        let claimed = owner.claim(&route, 1).await.remove(0);
        (epoch, last) = (claimed.epoch, claimed.crashes);
        assert_eq!(last, 1, "round {round}");
    }
    // Now it does not.
    while last < 3 {
        judge.tick_as(true, &[owner.id], 4).await;
        owner = bench.worker().await;
        if last == 1 {
            assert!(owner.claim(&route, 1).await.is_empty(), "a suspect waits before it may run again");
        }
        let claimed = until("the suspect's time comes", || async {
            judge.tick(&[]).await;
            owner.claim(&route, 1).await.pop()
        })
        .await;
        assert_eq!(claimed.crashes, last + 1);
        last = claimed.crashes;
    }
    judge.tick_as(true, &[owner.id], 4).await;
    let summary = bench.find(run).await.summary;
    assert_eq!((summary.state, summary.crashes, summary.owner), (RunState::Blocked, 4, None));
    assert!(summary.blocked_why.is_some_and(|why| why.contains("poisoned")));
    assert_eq!(bench.store.resume(run, "test").await.expect("resumes"), ControlVerdict::Done);
    assert_eq!(judge.claim(&route, 1).await[0].crashes, 0);
}

/// What a retry forgets is not taken for what is yet to be recorded.
pub async fn after_a_retry_progress_counts_anew(bench: Arc<Bench>) {
    let judge = bench.worker().await;
    let owner = bench.worker().await;
    let run = owner.own().await;
    for seq in 0..3 {
        verdict!(owner.one(record(run, 1, StepWrite { failed: seq == 0, ..step(seq) })).await, Verdict::Committed);
    }
    judge.tick(&[owner.id]).await;
    let owner = bench.worker().await;
    let claimed = owner.claim(&[route()], 1).await.remove(0);
    assert_eq!((claimed.crashes, claimed.steps.len()), (1, 3));
    let retry = Write::RetryRun { run, epoch: claimed.epoch, after_ms: 0, attempt: 1, token: token(), error: Payload::json(b"{}".to_vec()) };
    verdict!(owner.one(retry).await, Verdict::Committed);
    let claimed = owner.claim(&[route()], 1).await.remove(0);
    assert_eq!(claimed.steps.len(), 0);
    verdict!(owner.one(record(run, claimed.epoch, step(0))).await, Verdict::Committed);
    judge.tick(&[owner.id]).await;
    assert_eq!(judge.claim(&[route()], 1).await[0].crashes, 1, "it got on");
}

pub async fn graceful_stop_hands_over(bench: Arc<Bench>) {
    let (leaving, staying) = (bench.worker().await, bench.worker().await);
    let run = leaving.own().await;
    bench.store.deregister(leaving.id).await.expect("deregisters");
    let claimed = staying.claim(&[route()], 1).await.remove(0);
    assert_eq!((claimed.key, claimed.crashes), (run, 0));
    verdict!(leaving.one(record(run, 1, step(0))).await, Verdict::Fenced);
    let report = staying.tick(&[]).await;
    assert!(report.alive && report.reaped.is_empty() && report.orphans == 0);
    bench.store.deregister(leaving.id).await.expect("twice is once");
}

pub async fn the_living_are_left_alone(bench: Arc<Bench>) {
    let (busy, idle) = (Worker::register(bench.store.clone(), 1).await, bench.worker().await);
    let run = busy.own().await;
    until("the lease has run out", || async { idle.tick_as(false, &[], 5).await.next_lease_ms.filter(|ms| *ms <= 0) }).await;
    assert_eq!(bench.state(run).await, RunState::Running, "who has just come back waits a lease before he reaps");
    assert!(busy.store.beat(busy.id, 60_000).await.expect("beats"));
    let report = idle.tick(&[]).await;
    assert!(report.reaped.is_empty() && report.next_lease_ms.is_some_and(|ms| ms > 50_000));
    verdict!(busy.one(record(run, 1, step(0))).await, Verdict::Committed);
    assert!(busy.tick(&[]).await.alive);
    let nobody = TickRequest {
        incarnation: None,
        lease_ms: 0,
        may_reap: true,
        silent_ms: 60_000,
        known_dead: Vec::new(),
        page: 10,
        cancel_grace_ms: 60_000,
        max_crashes: 5,
        boot_id: "elsewhere".into(),
        routes: Vec::new(),
    };
    let report = bench.store.tick(&nobody).await.expect("ticks");
    assert!(report.alive && report.peers.is_empty() && report.reaped.is_empty());
}

/// Of two workers with long leases one loses its sessions. Where sessions hold, that is seen without waiting for the lease.
pub async fn a_session_that_is_gone_is_a_hint(bench: Arc<Bench>) {
    if !bench.is_postgres() {
        return;
    }
    let elsewhere = bench.another();
    let (leaving, staying) = (Worker::register(elsewhere.clone(), 60_000).await, bench.worker().await);
    // It never ticks, so it holds no lock: by this one it shows when a worker is old enough to be judged.
    let mute = bench.worker().await;
    let run = leaving.own().await;
    assert!(leaving.tick(&[]).await.alive, "its tick session holds the lock from here on");
    let silent = |silent_ms| staying.tick_when(true, &[], 5, silent_ms);
    let report = until("those without a session are taken over", || async { Some(silent(1).await).filter(|report| !report.reaped.is_empty()) }).await;
    assert_eq!(report.reaped, [mute.id], "a session that stands keeps its worker, beat or no beat");
    elsewhere.close().await;
    until("the session is gone", || async { silent(50_000).await.next_lease_ms.filter(|ms| *ms < 50_000) }).await;
    assert_eq!(bench.state(run).await, RunState::Running, "it may be cut off and come back: until its next beat it has time");
    let report = silent(1).await;
    assert_eq!((report.reaped, report.orphans), (vec![leaving.id], 1));
    assert_eq!(staying.claim(&[route()], 1).await[0].key, run);
}
