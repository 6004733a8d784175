//! Things that happen at once.

use std::collections::HashSet;
use std::sync::Arc;

use everstep::store::*;
use sqlx::Connection;

use crate::bench::*;

const ROUNDS: usize = 10_000;
const AT_ONCE: usize = 100;

/// A message and the release of its receiver, ten thousand times: nobody is left asleep with a message in his box.
pub async fn messages_against_releases(bench: Arc<Bench>) {
    let worker = bench.worker().await;
    let sender = bench.another();
    let mut woken = 0;
    for _ in 0..ROUNDS / AT_ONCE {
        let runs: Vec<NewRun> = (0..AT_ONCE).map(|_| NewRun { claimed: true, ..new_run() }).collect();
        let keys: Vec<RunKey> = runs.iter().map(|run| run.key).collect();
        worker.commit(&runs.into_iter().map(start).collect::<Vec<_>>()).await;
        let waits: Vec<Write> = keys.iter().map(|run| wait(*run, 1, 0, WaitKind::Receive, None, "t", None)).collect();
        worker.commit(&waits).await;
        let releases: Vec<Write> = keys.iter().map(|run| Write::Release { run: *run, epoch: 1, inbox: 0, due: None }).collect();
        let sends: Vec<Write> = keys.iter().rev().map(|run| Write::Send(message(*run, "t", "1"))).collect();
        let (released, sent) = tokio::join!(
            async {
                let mut all = Vec::new();
                for chunk in releases.chunks(10) {
                    all.extend(worker.commit(chunk).await);
                }
                all
            },
            async {
                let mut all = Vec::new();
                for chunk in sends.chunks(10) {
                    all.extend(sender.commit(1, None, chunk, false).await.expect("sends"));
                }
                all
            }
        );
        assert!(sent.iter().all(|verdict| matches!(verdict, Verdict::Committed)));
        let asleep: usize = released.iter().filter(|verdict| matches!(verdict, Verdict::Committed)).count();
        let changed = released.iter().filter(|verdict| matches!(verdict, Verdict::Changed { inbox: 1 })).count();
        assert_eq!(asleep + changed, AT_ONCE);
        let claimed = worker.claim(&[route()], AT_ONCE as i64 * 2).await;
        assert_eq!(claimed.len(), asleep, "every sleeper was woken");
        woken += asleep;
        let ends: Vec<Write> = worker.store.owned(worker.id).await.expect("reads").iter().map(|now| outcome(now.key, now.epoch)).collect();
        assert_eq!(ends.len(), AT_ONCE);
        worker.commit(&ends).await;
    }
    assert!(woken > 0, "the race was never run both ways");
}

/// 200 runs of three processes that message one another, in orders that no two share.
pub async fn runs_that_message_one_another(bench: Arc<Bench>) {
    let workers = [bench.worker().await, Worker::register(bench.another(), 60_000).await, Worker::register(bench.another(), 60_000).await];
    let mut runs = Vec::new();
    for at in 0..200 {
        runs.push((at % 3, workers[at % 3].own().await));
    }
    let mut tasks = Vec::new();
    for (process, worker) in workers.iter().enumerate() {
        for lane in 0..2 {
            let (worker, runs) = (worker.clone(), runs.clone());
            tasks.push(tokio::spawn(async move {
                let mine: Vec<RunKey> = runs.iter().enumerate().filter(|(at, run)| run.0 == process && at % 2 == lane).map(|(_, run)| run.1).collect();
                for round in 0..20i32 {
                    let batch: Vec<Write> = mine
                        .iter()
                        .enumerate()
                        .map(|(at, run)| {
                            let to = runs[(at * 7 + round as usize * 13 + lane * 5 + process) % runs.len()].1;
                            record(*run, 1, with(vec![Effect::Send(message(to, "t", "1"))], step(round)))
                        })
                        .collect();
                    let verdicts = worker.store.commit(lane, Some(worker.id), &batch, false).await.expect("commits without a deadlock");
                    assert!(verdicts.iter().all(|verdict| matches!(verdict, Verdict::Committed)));
                }
            }));
        }
    }
    for task in tasks {
        task.await.expect("the task ends well");
    }
    let mut pending = 0;
    for (_, run) in &runs {
        pending += bench.find(*run).await.messages_pending;
    }
    assert_eq!(pending, 200 * 20);
}

pub async fn claims_share_nothing(bench: Arc<Bench>) {
    let workers = [bench.worker().await, Worker::register(bench.another(), 60_000).await, Worker::register(bench.another(), 60_000).await];
    bench
        .store
        .put_queue(
            &Queue { name: "limited".into(), paused: false, limit: Some(40), worker_limit: None, key_limit: None, hold: false, rate: None, operator: false },
            false,
        )
        .await
        .expect("puts");
    let routes = [route_of("free", "job"), route_of("limited", "job")];
    let mut batch = Vec::new();
    for at in 0..1000 {
        batch.push(start(NewRun { route: routes[at % 2].clone(), ..new_run() }));
    }
    for chunk in batch.chunks(250) {
        workers[0].commit(chunk).await;
    }
    let mut tasks = Vec::new();
    for worker in &workers {
        let (worker, routes) = (worker.clone(), routes.to_vec());
        tasks.push(tokio::spawn(async move {
            let mut mine = Vec::new();
            loop {
                let claimed = worker.claim(&routes, 37).await;
                if claimed.is_empty() {
                    return mine;
                }
                mine.extend(claimed.into_iter().map(|run| (run.key, run.route.queue)));
            }
        }));
    }
    let mut seen = HashSet::new();
    let mut limited = 0;
    for task in tasks {
        for (run, queue) in task.await.expect("the task ends well") {
            assert!(seen.insert(run), "one run, one owner");
            limited += usize::from(queue == "limited");
        }
    }
    assert_eq!((seen.len(), limited), (540, 40));
}

/// Who begins to wait for a run at the moment it ends hears of it.
pub async fn waits_against_outcomes(bench: Arc<Bench>) {
    let (one, two) = (bench.worker().await, Worker::register(bench.another(), 60_000).await);
    for _ in 0..200 {
        let (child, parent) = (one.own().await, two.own().await);
        let (ended, opened) = tokio::join!(one.one(outcome(child, 1)), two.one(wait(parent, 1, 0, WaitKind::Result, Some(child), "", None)));
        verdict!(ended, Verdict::Committed);
        verdict!(opened, Verdict::Opened { .. });
        // Either the end was there when the wait was opened, and looking finds it; or the wait was there first, and the inbox moved.
        let waits = two.store.load(two.id, &[parent]).await.expect("loads").remove(0).waits;
        verdict!(&two.store.answer_waits(parent, &waits).await.expect("answers")[0], WaitAnswer::Result { .. });
    }
    // And the one who is released in between is not forgotten.
    for _ in 0..200 {
        let (child, parent) = (one.own().await, two.own().await);
        verdict!(two.one(wait(parent, 1, 0, WaitKind::Result, Some(child), "", None)).await, Verdict::Opened { .. });
        let (ended, released) = tokio::join!(one.one(outcome(child, 1)), two.one(Write::Release { run: parent, epoch: 1, inbox: 0, due: None }));
        verdict!(ended, Verdict::Committed);
        match released {
            Verdict::Committed => assert_eq!(bench.state(parent).await, RunState::Ready),
            Verdict::Changed { inbox: 1 } => assert_eq!(bench.state(parent).await, RunState::Running),
            other => panic!("unexpected {other:?}"),
        }
    }
}

/// An end that is written in one statement took its snapshot before it waited for the row of him who begins to wait for it. His transaction is held up by
/// hand, between his locks and his commit.
pub async fn a_wait_against_an_end_in_one_statement(bench: Arc<Bench>) {
    if !bench.is_postgres() {
        return;
    }
    let (one, two) = (bench.worker().await, Worker::register(bench.another(), 60_000).await);
    let (child, parent) = (one.own().await, two.own().await);
    let mut between = sqlx::PgConnection::connect(&bench.config.url).await.expect("connects");
    let mut say = async |sql: String| sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).fetch_all(&mut between).await.expect("answers").len();
    let schema = &bench.config.schema;
    let waiting = format!("select 1 from pg_stat_activity where wait_event_type = 'Lock' and query like '%{schema}%'");
    let limit = std::time::Instant::now() + std::time::Duration::from_secs(30);

    say(format!("begin; insert into {schema}.waiter (run_id, segment, branch, seq, kind, key, site) values ('{parent}', 0, '', 0, 1, '', 1)")).await;
    let waiter = two.clone();
    let opening = tokio::spawn(async move { waiter.one(wait(parent, 1, 0, WaitKind::Result, Some(child), "", None)).await });
    while say(waiting.clone()).await < 1 {
        assert!(std::time::Instant::now() < limit && !opening.is_finished(), "it holds the run it will wait for");
    }
    let ending = tokio::spawn(async move { one.one(outcome(child, 1)).await });
    while say(waiting.clone()).await < 2 {
        assert!(std::time::Instant::now() < limit && !ending.is_finished(), "its end waits for the run");
    }
    say("rollback".into()).await;
    verdict!(opening.await.expect("opens"), Verdict::Opened { .. });
    verdict!(ending.await.expect("ends"), Verdict::Committed);
    verdict!(two.one(Write::Release { run: parent, epoch: 1, inbox: 0, due: None }).await, Verdict::Changed { inbox: 1 });
}

/// Everybody locks a run and then its key; a start asks for the key first, so it may not wait for the run. What stands between two statements of another
/// process is held open here by hand.
pub async fn a_key_asked_for_while_its_run_ends(bench: Arc<Bench>) {
    if !bench.is_postgres() {
        return;
    }
    let (one, two) = (bench.worker().await, Worker::register(bench.another(), 60_000).await);
    let keyed = |policy| NewRun { dedup: Some(Dedup { key: "k".into(), scope: DedupScope::UntilDone, policy }), ..new_run() };
    let holder = two.own_with(keyed(DedupPolicy::Attach)).await;
    let mut between = sqlx::PgConnection::connect(&bench.config.url).await.expect("connects");
    let mut say = async |sql: String| sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).fetch_all(&mut between).await.expect("answers").len();

    let schema = &bench.config.schema;
    say(format!("begin; select 1 from {schema}.run where id = '{holder}' for no key update")).await;
    verdict!(one.one(start(keyed(DedupPolicy::Attach))).await, Verdict::Attached { run, state: RunState::Running, .. } if run == holder);
    for policy in [DedupPolicy::Reject, DedupPolicy::Replace] {
        verdict!(one.one(start(keyed(policy))).await, Verdict::Deduplicated { run } if run == holder);
    }
    say("rollback".into()).await;

    say(format!("begin; update {schema}.dedup set run_id = run_id where key = 'k'")).await;
    let ending = tokio::spawn(async move { two.one(outcome(holder, 1)).await });
    let limit = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while say("select 1 from pg_locks where not granted".into()).await == 0 {
        assert!(std::time::Instant::now() < limit && !ending.is_finished(), "its end waits for the key");
    }
    say("commit".into()).await;
    verdict!(ending.await.expect("ends"), Verdict::Committed);
    verdict!(one.one(start(keyed(DedupPolicy::Reject))).await, Verdict::Started { .. });
}
