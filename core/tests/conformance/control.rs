//! Requests from outside.

use std::sync::Arc;

use everstep::store::*;
use uuid::Uuid;

use crate::bench::*;

pub async fn cancel_at_once_or_asked(bench: Arc<Bench>) {
    let worker = bench.worker().await;
    let cancel = |run| bench.store.cancel(run, "ops", "not wanted", 5000);
    assert_eq!(cancel(Uuid::now_v7()).await.expect("answers"), ControlVerdict::NotFound);
    let ready = new_run();
    let ready_key = ready.key;
    worker.one(start(ready)).await;
    assert_eq!(cancel(ready_key).await.expect("answers"), ControlVerdict::Done);
    assert!(worker.claim(&[route()], 10).await.is_empty());

    let (running, waiting, parent) = (worker.own().await, worker.own().await, worker.own().await);
    verdict!(worker.one(Write::Release { run: waiting, epoch: 1, inbox: 0, due: Some(Due::After(60_000)) }).await, Verdict::Committed);
    verdict!(worker.one(wait(parent, 1, 0, WaitKind::Result, Some(waiting), "", None)).await, Verdict::Opened { .. });
    // It has started: its code may have something to undo, and whoever claims it does that.
    assert_eq!(cancel(waiting).await.expect("answers"), ControlVerdict::Requested);
    let claimed = worker.claim(&[route()], 10).await.remove(0);
    assert_eq!((claimed.key, claimed.state, claimed.cancel.map(|c| c.by)), (waiting, RunState::Cancelling, Some("ops".to_string())));
    verdict!(worker.one(outcome_of(waiting, claimed.epoch, RunState::Cancelled)).await, Verdict::Committed);
    assert_eq!(worker.store.moved(worker.id, &[(parent, 1, 0)]).await.expect("reads").len(), 1, "who waits for it is told");
    let summary = bench.find(waiting).await.summary;
    assert_eq!((summary.state, summary.cancel_by.as_deref(), summary.cancel_why.as_deref()), (RunState::Cancelled, Some("ops"), Some("not wanted")));

    assert!(worker.store.moved(worker.id, &[(running, 1, 0)]).await.expect("reads").is_empty(), "nothing has happened");
    assert_eq!(cancel(running).await.expect("answers"), ControlVerdict::Requested);
    assert_eq!(cancel(running).await.expect("answers"), ControlVerdict::Requested);
    let now = worker.store.moved(worker.id, &[(running, 1, 0)]).await.expect("reads").remove(0);
    assert_eq!((now.epoch, now.mine, now.state, now.inbox), (2, true, RunState::Cancelling, 1));
    let request = now.cancel.expect("the request");
    assert_eq!((request.by.as_str(), request.why.as_str()), ("ops", "not wanted"));
    assert!((1..=5000).contains(&request.grace_left_ms));
    // The clean-up writes under the new epoch.
    verdict!(worker.one(record(running, 2, step(0))).await, Verdict::Committed);
    verdict!(worker.one(outcome_of(running, 2, RunState::Cancelled)).await, Verdict::Committed);
    assert_eq!(cancel(running).await.expect("answers"), ControlVerdict::NotPossible(RunState::Cancelled));
}

pub async fn a_checkpoint_raced_with_cancel_is_refused(bench: Arc<Bench>) {
    let worker = bench.worker().await;
    for _ in 0..50 {
        let run = worker.own().await;
        let write = record(run, 1, step(0));
        let (checkpoint, cancelled) = tokio::join!(worker.one(write), bench.store.cancel(run, "ops", "race", 60_000));
        assert_eq!(cancelled.expect("answers"), ControlVerdict::Requested);
        let recorded = bench.find(run).await.steps_recorded;
        match checkpoint {
            Verdict::Committed => assert_eq!(recorded, 1),
            Verdict::Fenced => assert_eq!(recorded, 0),
            other => panic!("unexpected {other:?}"),
        }
        verdict!(worker.one(record(run, 1, step(1))).await, Verdict::Fenced);
    }
}

pub async fn a_checkpoint_raced_with_rewind_is_refused(bench: Arc<Bench>) {
    let worker = bench.worker().await;
    for _ in 0..50 {
        let run = worker.own().await;
        verdict!(worker.one(record(run, 1, step(0))).await, Verdict::Committed);
        let (write, first) = (record(run, 1, step(1)), at(0));
        let (checkpoint, rewound) = tokio::join!(worker.one(write), bench.store.rewind(run, &first, false, "ops"));
        assert_eq!(rewound.expect("answers"), ControlVerdict::Done);
        verdict!(checkpoint, Verdict::Committed | Verdict::Fenced);
        assert_eq!(bench.find(run).await.steps_recorded, 0, "nothing written before the rewind, or refused by it, is left");
        verdict!(worker.one(record(run, 1, step(2))).await, Verdict::Fenced);
        assert_eq!(worker.claim(&[route()], 1).await[0].key, run);
    }
}

pub async fn grace_and_deadline_end(bench: Arc<Bench>) {
    let worker = bench.worker().await;
    let stuck = worker.own().await;
    assert_eq!(bench.store.cancel(stuck, "ops", "now", 1).await.expect("answers"), ControlVerdict::Requested);
    until("the grace is over", || async {
        worker.tick(&[]).await;
        (bench.state(stuck).await == RunState::Cancelled).then_some(())
    })
    .await;
    verdict!(worker.one(record(stuck, 2, step(0))).await, Verdict::Fenced);
    let late = NewRun { claimed: true, deadline_ms: Some(1), ..new_run() };
    let queued = NewRun { deadline_ms: Some(1), ..new_run() };
    let keys = (late.key, queued.key);
    worker.commit(&[start(late), start(queued)]).await;
    until("the deadlines pass", || async {
        worker.tick(&[]).await;
        let states = (bench.state(keys.0).await, bench.state(keys.1).await);
        (states == (RunState::Cancelling, RunState::Cancelled)).then_some(())
    })
    .await;
    assert_eq!(bench.find(keys.1).await.summary.error_type.as_deref(), Some("DeadlinePassed"));
    let now = worker.store.recheck(worker.id, &[keys.0]).await.expect("reads").remove(0);
    assert_eq!(now.cancel.expect("the request").by, "deadline");
    // A worker that dies while it cleans up leaves a run that another finishes cancelling.
    let heir = bench.worker().await;
    heir.tick(&[worker.id]).await;
    let claimed = heir.claim(&[route()], 10).await;
    let claimed = claimed.iter().find(|run| run.key == keys.0).expect("claimed");
    assert_eq!(claimed.state, RunState::Cancelling);
    assert!(claimed.cancel.is_some());
}

pub async fn resume_retry_rewind(bench: Arc<Bench>) {
    let worker = bench.worker().await;
    let run = worker.own().await;
    for seq in 0..4 {
        let recorded = StepWrite { failed: seq == 2, ..step(seq) };
        verdict!(worker.one(record(run, 1, recorded)).await, Verdict::Committed);
    }
    verdict!(worker.one(attempt(run, 1, 2, 1, false)).await, Verdict::Committed);
    assert_eq!(bench.store.retry(run, "ops").await.expect("answers"), ControlVerdict::NotPossible(RunState::Running));
    verdict!(worker.one(outcome_of(run, 1, RunState::Failed)).await, Verdict::Committed);
    assert_eq!(bench.store.retry(run, "ops").await.expect("answers"), ControlVerdict::Done);
    let again = worker.claim(&[route()], 1).await.remove(0);
    assert_eq!(again.steps.iter().map(|record| record.at.seq).collect::<Vec<_>>(), [0, 1]);
    assert!(again.attempts.is_empty() && again.epoch == 3);
    let detail = bench.find(run).await;
    assert!(detail.outcome.is_none() && detail.summary.error_type.is_none());
    verdict!(worker.one(outcome_of(run, 3, RunState::Failed)).await, Verdict::Committed);
    assert_eq!(bench.store.retry(run, "ops").await.expect("answers"), ControlVerdict::Done);
    assert_eq!(worker.claim(&[route()], 1).await[0].steps.len(), 2, "no failed step, nothing is forgotten");

    // Rewind a run that ended, and give a taken message back.
    let receiver = worker.own().await;
    let sent = message(receiver, "t", "1");
    let id = sent.id;
    worker.one(Write::Send(sent)).await;
    verdict!(worker.one(record(receiver, 1, step(0))).await, Verdict::Committed);
    verdict!(worker.one(record(receiver, 1, with(vec![Effect::Consume { message: id }], step(1)))).await, Verdict::Committed);
    verdict!(worker.one(outcome(receiver, 1)).await, Verdict::Committed);
    assert_eq!(bench.store.rewind(receiver, &at(7), false, "ops").await.expect("answers"), ControlVerdict::NotPossible(RunState::Succeeded));
    assert_eq!(bench.store.rewind(receiver, &at(1), true, "ops").await.expect("answers"), ControlVerdict::Done);
    assert_eq!(bench.find(receiver).await.messages_pending, 1);
    let again = worker.claim(&[route()], 1).await.remove(0);
    assert_eq!((again.steps.len(), again.new_effects), (1, 1));

    let cancelled = new_run();
    let key = cancelled.key;
    worker.one(start(cancelled)).await;
    bench.store.cancel(key, "ops", "oops", 1000).await.expect("cancels");
    assert_eq!(bench.store.resume(key, "ops").await.expect("answers"), ControlVerdict::Done);
    assert_eq!(bench.store.resume(key, "ops").await.expect("answers"), ControlVerdict::NotPossible(RunState::Ready));
    let claimed = worker.claim(&[route()], 1).await.remove(0);
    assert!(claimed.key == key && claimed.cancel.is_none());
    assert!(worker.claim(&[route()], 1).await.is_empty());
}

pub async fn blocked_runs_are_offered_once(bench: Arc<Bench>) {
    let worker = bench.worker().await;
    let (mismatch, poisoned) = (worker.own().await, worker.own().await);
    let block = |run, why: &str| Write::Block { run, epoch: 1, why: why.into() };
    worker.commit(&[block(mismatch, "{\"code\":\"mismatch\",\"build\":\"build-1\"}"), block(poisoned, "{\"code\":\"poisoned\"}")]).await;
    let offer = |build: &'static str| {
        let store = bench.store.clone();
        async move { store.offer_blocked(build, &["checkout".into()]).await.expect("offers") }
    };
    assert_eq!(offer("build-1").await, 0, "the build that met the mismatch");
    assert_eq!(bench.store.offer_blocked("build-2", &["other".into()]).await.expect("offers"), 0);
    assert_eq!(offer("build-2").await, 1);
    assert_eq!(offer("build-2").await, 0);
    let claimed = worker.claim(&[route()], 5).await;
    assert_eq!(claimed.iter().map(|run| run.key).collect::<Vec<_>>(), [mismatch]);
    let again = Write::Block { run: mismatch, epoch: claimed[0].epoch, why: "{\"code\":\"mismatch\",\"build\":\"build-2\"}".into() };
    verdict!(worker.one(again).await, Verdict::Committed);
    assert_eq!(offer("build-2").await, 0, "once a run and build");
    assert_eq!(offer("build-3").await, 1);
}

/// A program without a build id offers what is blocked at each of its launches.
pub async fn offers_do_not_pile_up(bench: Arc<Bench>) {
    let worker = bench.worker().await;
    let run = worker.own().await;
    let block = |epoch: i32| Write::Block { run, epoch, why: "{\"code\":\"mismatch\",\"build\":\"build-1\"}".into() };
    verdict!(worker.one(block(1)).await, Verdict::Committed);
    let offer = |build: &'static str| {
        let store = bench.store.clone();
        async move { store.offer_blocked(build, &["checkout".into()]).await.expect("offers") }
    };
    let taken = || async { worker.claim(&[route()], 5).await[0].epoch };
    for build in ["launch 1", "build-2", "launch 2"] {
        assert_eq!(offer(build).await, 1, "{build}");
        verdict!(worker.one(block(taken().await)).await, Verdict::Committed);
    }
    assert_eq!((offer("build-2").await, offer("launch 2").await), (0, 0));
    // Of launches the last is remembered.
    assert_eq!(offer("launch 1").await, 1);
    verdict!(worker.one(outcome_of(run, taken().await, RunState::Failed)).await, Verdict::Committed);
    // Of a run that has ended none, from the next launch on.
    assert_eq!(offer("build-3").await, 0);
    assert_eq!(bench.store.retry(run, "ops").await.expect("answers"), ControlVerdict::Done);
    verdict!(worker.one(block(taken().await)).await, Verdict::Committed);
    assert_eq!(offer("build-2").await, 1);
}

pub async fn lists_and_details(bench: Arc<Bench>) {
    let worker = bench.worker().await;
    let mut keys = Vec::new();
    for at in 0..5 {
        let run = NewRun { route: route_of("q", if at < 3 { "one" } else { "two" }), attributes: Some(format!("{{\"n\":{at}}}")), ..new_run() };
        keys.push(run.key);
        worker.one(start(run)).await;
    }
    let list = |filter: RunFilter| {
        let store = bench.store.clone();
        async move { store.list(&filter).await.expect("lists").into_iter().map(|run| run.key).collect::<Vec<_>>() }
    };
    let any = RunFilter { limit: 10, ..RunFilter::default() };
    let newest: Vec<RunKey> = keys.iter().rev().copied().collect();
    assert_eq!(list(any.clone()).await, newest);
    assert_eq!(list(RunFilter { workflow: Some("two".into()), ..any.clone() }).await, newest[..2]);
    assert_eq!(list(RunFilter { attribute: Some(("n".into(), "2".into())), ..any.clone() }).await, [keys[2]]);
    bench.store.cancel(keys[1], "ops", "x", 10).await.expect("cancels");
    assert_eq!(list(RunFilter { states: vec![RunState::Cancelled], ..any.clone() }).await, [keys[1]]);
    let first = bench.store.list(&RunFilter { limit: 2, ..any.clone() }).await.expect("lists");
    let last = &first[1];
    assert_eq!(list(RunFilter { after: Some((last.created_at, last.key)), ..any.clone() }).await, newest[2..]);
    assert_eq!(list(RunFilter { created_from: Some(last.created_at), ..any.clone() }).await, newest[..2]);
    assert_eq!(list(RunFilter { created_before: Some(last.created_at), queue: Some("q".into()), ..any }).await, newest[2..]);
    assert!(bench.store.find(Uuid::now_v7()).await.expect("reads").is_none());
}

pub async fn slow_steps_are_noted(bench: Arc<Bench>) {
    let worker = bench.worker().await;
    let run = worker.own().await;
    let noted = |name: &str| SlowStep { name: name.into(), location: "app.py:3".into(), running_ms: 300_000 };
    let note = async |epoch, steps: &[SlowStep]| bench.store.note_slow(run, epoch, steps).await.expect("notes");
    let slow = async || bench.find(run).await.slow;
    assert!(slow().await.is_empty());
    note(1, &[noted("charge"), noted("mail")]).await;
    let seen = slow().await;
    assert_eq!(seen.iter().map(|step| (step.name.as_str(), step.location.as_str())).collect::<Vec<_>>(), [("charge", "app.py:3"), ("mail", "app.py:3")]);
    assert!((300_000..360_000).contains(&seen[0].running_ms), "{seen:?}");
    until("it is said how long by now", || async { (slow().await[0].running_ms > seen[0].running_ms).then_some(()) }).await;
    note(1, &[noted("mail")]).await;
    assert_eq!(slow().await.len(), 1);
    note(7, &[noted("charge")]).await;
    note(7, &[]).await;
    assert_eq!(slow().await[0].name, "mail", "another epoch's word counts for nothing");
    // A cancel is a new epoch: what the worker said before is said again, or no longer so.
    assert_eq!(bench.store.cancel(run, "ops", "x", 60_000).await.expect("cancels"), ControlVerdict::Requested);
    assert!(slow().await.is_empty());
    note(2, &[noted("mail")]).await;
    assert_eq!(slow().await.len(), 1);
    note(2, &[]).await;
    assert!(slow().await.is_empty());
    assert_eq!(bench.find(run).await.summary.cancel_by.as_deref(), Some("ops"), "the rest of the note stands");
}

/// Many a program has a table of that name: with other columns, with these, or with a version of its own in it.
pub async fn a_table_meta_of_somebody_else_is_said(bench: Arc<Bench>) {
    use sqlx::Connection;
    let tables = ["(id integer, value text)", "(key integer, value text)", "(key text, value text)", "(key text, value text)"];
    for (at, table) in tables.into_iter().enumerate() {
        let (mut config, mut sql) = (bench.config.clone(), format!("create table {{s}}meta {table};"));
        if at == 3 {
            sql.push_str("insert into {s}meta values ('schema_version', '7');");
        }
        if bench.is_postgres() {
            config.schema = format!("{}_{at}", config.schema);
            sql = format!("create schema {};{}", config.schema, sql.replace("{s}", &format!("{}.", config.schema)));
            let mut theirs = sqlx::PgConnection::connect(&config.url).await.expect("connects");
            sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut theirs).await.expect("creates");
        } else {
            config.url = format!("{}-{at}", config.url);
            let mut theirs = sqlx::SqliteConnection::connect(&format!("{}?mode=rwc", config.url)).await.expect("opens");
            sqlx::raw_sql(sqlx::AssertSqlSafe(sql.replace("{s}", ""))).execute(&mut theirs).await.expect("creates");
        }
        let store = open(config).expect("the URL is good");
        for error in [store.inspect().await.err(), store.migrate().await.err()] {
            match error {
                Some(StoreError::Setup { code: "config_invalid", message }) => assert!(message.contains("meta that is not Everstep's"), "{table}: {message}"),
                other => panic!("{table}: expected config_invalid, got {other:?}"),
            }
        }
    }
}
