//! The owner's writes, and what refuses them.

use std::sync::Arc;

use everstep::store::*;
use sqlx::Connection;
use uuid::Uuid;

use crate::bench::*;

pub async fn steps_commit_and_read_back(bench: Arc<Bench>) {
    let worker = bench.worker().await;
    let run = worker.own().await;
    let written = step(0);
    verdict!(worker.one(record(run, 1, written.clone())).await, Verdict::Committed);
    let loaded = worker.store.load(worker.id, &[run]).await.expect("loads").remove(0);
    assert_eq!((loaded.key, loaded.epoch, loaded.state, loaded.crashes), (run, 1, RunState::Running, 0));
    assert_eq!(loaded.input, Payload::json(b"{\"a\":1}".to_vec()));
    assert_eq!((loaded.version.as_deref(), loaded.trace_parent.as_deref()), (Some("build-1"), Some("00-trace")));
    assert_eq!(loaded.root, run);
    let read = &loaded.steps[0];
    assert_eq!((&read.at, read.kind, &read.site, read.digest), (&written.at, 1, &written.site, Some(99)));
    assert_eq!((read.failed, read.done, read.seen, read.attempt, read.took_us), (false, 0, 0, 1, 1500));
    assert_eq!((read.token, read.written_by, read.epoch), (written.token, worker.id, 1));
    assert_eq!(read.output, written.output);
    let now = worker.store.now().await.expect("tells the time");
    assert!(read.recorded_at <= now && now - read.recorded_at < 60_000_000);
}

pub async fn stale_epoch_is_fenced(bench: Arc<Bench>) {
    let worker = bench.worker().await;
    let run = worker.own().await;
    let other = worker.own().await;
    let batch = [record(run, 2, step(0)), record(other, 1, step(0))];
    let verdicts = worker.commit(&batch).await;
    verdict!(&verdicts[0], Verdict::Fenced);
    verdict!(&verdicts[1], Verdict::Committed);
    verdict!(worker.one(outcome(run, 0)).await, Verdict::Fenced);
    verdict!(worker.one(attempt(run, 7, 0, 1, false)).await, Verdict::Fenced);
    verdict!(worker.one(wait(run, 2, 0, WaitKind::Receive, None, "t", None)).await, Verdict::Fenced);
    verdict!(worker.one(Write::Release { run, epoch: 2, inbox: 0, due: None }).await, Verdict::Fenced);
    assert_eq!(bench.find(run).await.steps_recorded, 0);
    assert_eq!(bench.state(run).await, RunState::Running);
}

pub async fn another_owner_is_fenced(bench: Arc<Bench>) {
    let (owner, thief) = (bench.worker().await, bench.worker().await);
    let run = owner.own().await;
    verdict!(thief.one(record(run, 1, step(0))).await, Verdict::Fenced);
    verdict!(thief.one(outcome(run, 1)).await, Verdict::Fenced);
    verdict!(thief.one(Write::GiveBack { run, epoch: 1 }).await, Verdict::Fenced);
    verdict!(owner.one(record(run, 1, step(0))).await, Verdict::Committed);
}

pub async fn lost_lease_fences_everything(bench: Arc<Bench>) {
    let worker = Worker::register(bench.store.clone(), 1).await;
    let run = worker.own().await;
    let kept = step(0);
    verdict!(worker.one(record(run, 1, kept.clone())).await, Verdict::Committed);
    let reaper = bench.worker().await;
    let reaped = until("the lease runs out", || async { reaper.tick(&[]).await.reaped.into_iter().next() }).await;
    assert_eq!(reaped, worker.id);
    verdict!(worker.one(record(run, 1, step(1))).await, Verdict::Fenced);
    verdict!(worker.one(outcome(run, 1)).await, Verdict::Fenced);
    verdict!(worker.one(start(NewRun { claimed: true, ..new_run() })).await, Verdict::Fenced);
    assert!(worker.claim(&[route()], 10).await.is_empty(), "a worker without a lease claims nothing");
    assert!(!worker.store.beat(worker.id, 60_000).await.expect("beats"));
    // What was written before still answers as written.
    verdict!(worker.again(&[record(run, 1, kept)]).await.remove(0), Verdict::Committed);
}

pub async fn another_token_is_adopted(bench: Arc<Bench>) {
    let worker = bench.worker().await;
    let run = worker.own().await;
    let first = step(0);
    verdict!(worker.one(record(run, 1, first.clone())).await, Verdict::Committed);
    let second = StepWrite { token: token(), output: Payload::json(b"\"late\"".to_vec()), ..first.clone() };
    let sent = message(run, "t", "1");
    let late = with(vec![Effect::Send(sent)], second.clone());
    for write in [second, late] {
        match worker.one(record(run, 1, write)).await {
            Verdict::Adopt(stands) => assert_eq!((stands.token, stands.output), (first.token, first.output.clone())),
            other => panic!("expected Adopt, got {other:?}"),
        }
    }
    assert_eq!(bench.find(run).await.messages_pending, 0, "effects of a row that was not new do not happen");
}

pub async fn unknown_outcomes_settle(bench: Arc<Bench>) {
    let worker = bench.worker().await;
    let (run, peer) = (worker.own().await, worker.own().await);
    let child = new_run();
    let child_key = child.key;
    let effects = vec![
        Effect::Send(message(peer, "t", "1")),
        Effect::SetEvent { key: "e".into(), value: Payload::json(b"1".to_vec()) },
        Effect::StartChild(Box::new(NewRun { parent: Some(Parent { run, root: run, policy: ClosePolicy::Cancel }), ..child })),
    ];
    let fresh = NewRun { claimed: true, ..new_run() };
    let outside = message(peer, "t", "2");
    let batch = vec![
        record(run, 1, with(effects, step(0))),
        attempt(run, 1, 1, 1, false),
        start(fresh),
        Write::Send(outside),
        wait(peer, 1, 3, WaitKind::Receive, None, "t", Some(Due::After(60_000))),
    ];
    worker.commit(&batch).await;
    let inbox = worker.store.recheck(worker.id, &[peer]).await.expect("reads")[0].inbox;
    let verdicts = worker.again(&batch).await;
    verdict!(&verdicts[0], Verdict::Committed);
    verdict!(&verdicts[1], Verdict::Committed);
    verdict!(&verdicts[2], Verdict::Started { claimed: true });
    verdict!(&verdicts[3], Verdict::Committed);
    verdict!(&verdicts[4], Verdict::Opened { due_in_ms: Some(1..=60_000) });
    let after = worker.store.recheck(worker.id, &[peer]).await.expect("reads")[0].inbox;
    assert_eq!(inbox, after, "a repeated batch wakes nobody twice");
    assert_eq!(bench.find(peer).await.messages_pending, 2);
    assert_eq!(bench.state(child_key).await, RunState::Ready);

    let end = outcome(run, 1);
    verdict!(worker.one(end.clone()).await, Verdict::Committed);
    verdict!(worker.again(&[end]).await.remove(0), Verdict::Committed);
    verdict!(worker.one(outcome(run, 1)).await, Verdict::Fenced);

    let release = Write::Release { run: peer, epoch: 1, inbox: after, due: None };
    verdict!(worker.one(release.clone()).await, Verdict::Committed);
    verdict!(worker.again(&[release]).await.remove(0), Verdict::Committed);

    let gone = worker.own().await;
    let back = Write::GiveBack { run: gone, epoch: 1 };
    verdict!(worker.one(back.clone()).await, Verdict::Committed);
    verdict!(worker.again(&[back]).await.remove(0), Verdict::Committed);
}

pub async fn a_bad_value_stands_alone(bench: Arc<Bench>) {
    let worker = bench.worker().await;
    let mut runs = Vec::new();
    for _ in 0..8 {
        runs.push(worker.own().await);
    }
    // No timestamp is that far away: one value the database itself refuses.
    let mut batch: Vec<Write> = runs.iter().map(|run| record(*run, 1, step(0))).collect();
    batch.insert(5, start(NewRun { start: Some(Due::At(i64::MAX)), expires_ms: Some(i64::MAX), ..new_run() }));
    let verdicts = worker.commit(&batch).await;
    for (at, verdict) in verdicts.iter().enumerate() {
        match (at, verdict) {
            (5, Verdict::Refused { message }) => assert!(!message.is_empty()),
            // SQLite keeps times as numbers: for it there is nothing wrong.
            (5, Verdict::Started { .. }) if !bench.is_postgres() => {}
            (5, other) => panic!("expected Refused, got {other:?}"),
            (_, Verdict::Committed) => {}
            (_, other) => panic!("a good row got {other:?}"),
        }
    }
    for run in runs {
        assert_eq!(bench.find(run).await.steps_recorded, 1);
    }
}

pub async fn outcome_frees_and_wakes(bench: Arc<Bench>) {
    let worker = bench.worker().await;
    let parent = worker.own().await;
    let run = NewRun { claimed: true, deadline_ms: Some(3_600_000), ..new_run() };
    let key = run.key;
    worker.one(start(run)).await;
    verdict!(worker.one(wait(parent, 1, 0, WaitKind::Result, Some(key), "", None)).await, Verdict::Opened { due_in_ms: None });
    let before = worker.store.recheck(worker.id, &[parent]).await.expect("reads")[0].inbox;
    let next = new_run();
    let next_key = next.key;
    let end = match outcome(key, 1) {
        Write::Outcome { run, epoch, state, token, value, .. } => {
            Write::Outcome { run, epoch, state, token, value, error_type: None, error_message: None, then: Some(Box::new(next)), children: true }
        }
        other => other,
    };
    verdict!(worker.one(end).await, Verdict::Committed);
    let detail = bench.find(key).await;
    assert_eq!((detail.summary.state, detail.summary.owner), (RunState::Succeeded, None));
    assert_eq!(detail.outcome, Some(Payload::json(b"\"done\"".to_vec())));
    assert!(detail.summary.finished_at.is_some());
    assert_eq!(bench.state(next_key).await, RunState::Ready);
    let now = &worker.store.moved(worker.id, &[(parent, 1, before)]).await.expect("reads")[0];
    assert_eq!((now.inbox, now.mine, now.state), (before + 1, true, RunState::Running));
    let waits = worker.store.load(worker.id, &[parent]).await.expect("loads").remove(0).waits;
    match &worker.store.answer_waits(parent, &waits).await.expect("answers")[0] {
        WaitAnswer::Result { state: RunState::Succeeded, value } => assert_eq!(value.data, b"\"done\""),
        other => panic!("expected the result, got {other:?}"),
    }
    let tick = worker.tick(&[]).await;
    assert_eq!(tick.next_timer_ms, None, "the deadline of a finished run is gone");
}

pub async fn attempts_are_kept(bench: Arc<Bench>) {
    let worker = bench.worker().await;
    let run = worker.own().await;
    verdict!(worker.one(attempt(run, 1, 0, 1, true)).await, Verdict::Committed);
    verdict!(worker.one(attempt(run, 1, 0, 1, false)).await, Verdict::Committed);
    let loaded = worker.store.load(worker.id, &[run]).await.expect("loads").remove(0);
    assert_eq!(loaded.attempts.len(), 2);
    let failed = loaded.attempts.iter().find(|attempt| !attempt.started).expect("the failed one");
    assert_eq!((failed.attempt, failed.written_by, failed.error.data.as_slice()), (1, worker.id, b"{\"type\":\"Boom\"}".as_slice()));
    assert!(failed.retry_in_ms.is_some_and(|ms| (1..=1000).contains(&ms)));

    let retry = Write::RetryRun { run, epoch: 1, after_ms: 0, attempt: 1, token: token(), error: Payload::json(b"{}".to_vec()) };
    verdict!(worker.one(retry.clone()).await, Verdict::Committed);
    verdict!(worker.again(&[retry]).await.remove(0), Verdict::Committed);
    let again = until("the run is to be claimed", || async { worker.claim(&[route()], 1).await.pop() }).await;
    assert_eq!((again.key, again.run_attempt, again.crashes), (run, 2, 0));
    assert_eq!(again.attempts.iter().filter(|attempt| attempt.at.seq == -1).count(), 1);
}

pub async fn a_retry_leaves_what_waits_beside_the_failure(bench: Arc<Bench>) {
    let worker = bench.worker().await;
    let run = worker.own().await;
    let in_branch = |branch: &str, seq| Position { segment: 0, branch: branch.into(), seq };
    let boom = Payload::json(b"{\"message\":\"boom\"}".to_vec());
    let failed = StepWrite { at: in_branch("/0/1", 0), failed: true, output: boom.clone(), ..step(0) };
    verdict!(worker.one(record(run, 1, failed)).await, Verdict::Committed);
    for (branch, seq) in [("/0/0", 0), ("/0/1", 1)] {
        let Write::Wait { run, epoch, kind, due, target, key, site, .. } = wait(run, 1, 0, WaitKind::Sleep, None, "", Some(Due::After(3_600_000))) else {
            unreachable!()
        };
        let opened = worker.one(Write::Wait { run, epoch, at: in_branch(branch, seq), kind, due, target, key, site }).await;
        verdict!(opened, Verdict::Opened { .. });
    }
    let retry = Write::RetryRun { run, epoch: 1, after_ms: 0, attempt: 1, token: token(), error: boom };
    verdict!(worker.one(retry).await, Verdict::Committed);
    let again = until("the run is to be claimed", || async { worker.claim(&[route()], 1).await.pop() }).await;
    assert_eq!(again.steps.len(), 0, "the failure is tried again");
    assert_eq!(again.waits.iter().map(|wait| wait.at.clone()).collect::<Vec<_>>(), [in_branch("/0/0", 0)]);
}

pub async fn one_batch_of_many_kinds(bench: Arc<Bench>) {
    let worker = bench.worker().await;
    let runs = [worker.own().await, worker.own().await, worker.own().await];
    let stranger = Uuid::now_v7();
    let batch = vec![
        record(runs[0], 1, with(vec![Effect::Send(message(runs[1], "t", "1"))], step(0))),
        outcome(runs[0], 1),
        Write::Send(message(stranger, "t", "1")),
        record(runs[1], 1, step(0)),
        Write::Release { run: runs[1], epoch: 1, inbox: 0, due: None },
        Write::Block { run: runs[2], epoch: 1, why: "{\"code\":\"mismatch\",\"build\":\"build-1\"}".into() },
        record(runs[2], 1, step(0)),
    ];
    let verdicts = worker.commit(&batch).await;
    verdict!(&verdicts[0], Verdict::Committed);
    verdict!(&verdicts[1], Verdict::Committed);
    verdict!(&verdicts[2], Verdict::NotFound);
    verdict!(&verdicts[3], Verdict::Committed);
    verdict!(&verdicts[4], Verdict::Changed { inbox: 1 });
    verdict!(&verdicts[5], Verdict::Committed);
    verdict!(&verdicts[6], Verdict::Fenced);
    assert_eq!(bench.state(runs[1]).await, RunState::Running);
    let blocked = bench.find(runs[2]).await.summary;
    assert_eq!((blocked.state, blocked.owner), (RunState::Blocked, None));
    assert!(blocked.blocked_why.is_some_and(|why| why.contains("mismatch")));
}

/// A failover to a server that lost the last commits, as far as a process can tell: its connections are cut, and a name it has written is not there.
pub async fn lost_names_are_written_again(bench: Arc<Bench>) {
    if !bench.is_postgres() {
        return;
    }
    let worker = bench.worker().await;
    let run = worker.own().await;
    verdict!(worker.one(record(run, 1, step(0))).await, Verdict::Committed);
    let lose = format!(
        "delete from {}.site; select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'everstep' and pid <> pg_backend_pid()",
        bench.config.schema
    );
    let mut by_hand = sqlx::PgConnection::connect(&bench.config.url).await.expect("connects");
    sqlx::raw_sql(sqlx::AssertSqlSafe(lose)).execute(&mut by_hand).await.expect("cuts");
    let write = [record(run, 1, step(1))];
    until("it is recorded", || async { worker.store.commit(0, Some(worker.id), &write, true).await.ok().filter(|v| matches!(v[0], Verdict::Committed)) }).await;
    let names: Vec<String> = bench.another().steps(run, None, 10).await.expect("reads").iter().map(|step| step.record.site.name.to_string()).collect();
    assert_eq!(names, ["charge", "charge"]);
}
