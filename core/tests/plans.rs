//! Every statement of the PostgreSQL store looks up what it needs, on tables analysed while they were empty and on large ones. The plans
//! that ran are read from the server's own log (auto_explain), so a statement nobody thought of is judged too.

#[path = "conformance/bench.rs"]
#[allow(dead_code, unreachable_pub, unused_macros, unused_imports)]
mod bench;
#[path = "../../tests/src/cluster.rs"]
#[allow(dead_code, unreachable_pub, unused_imports)]
mod cluster;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;

use bench::*;
use cluster::{Binaries, Cluster};
use everstep::store::*;
use serde_json::Value;
use sqlx::Connection;

/// Runs that have nothing to do with what is asked, of each of three sorts: a million in all.
const BACKLOG: i64 = 334_000;

/// Rows any one node may read. The workload itself has a few hundred; a scan of a large table has a hundred times as many.
const ROWS: f64 = 3_000.0;

/// Tables with a row a worker, queue or setting: small in the largest installation.
/// `route` has a row for each name of a program in each queue; it is read whole only where a start names a workflow nobody knows.
const SMALL: &[&str] = &["meta", "worker", "lease", "queue", "dead_worker", "route"];

fn config(cluster: &Cluster) -> StoreConfig {
    StoreConfig {
        url: cluster.url("postgres"),
        schema: "everstep".into(),
        namespace: "default".into(),
        lanes: 1,
        pool: 2,
        pooler: None,
        statement_timeout_ms: 60_000,
        beat_timeout_ms: 60_000,
        allow_async_commit: false,
        follow_up: |_, _| None,
    }
}

#[test]
fn every_statement_looks_up_what_it_needs() {
    if Binaries::find().is_none() {
        println!("skipped: PostgreSQL is not installed");
        return;
    }
    let cluster = Cluster::start(&[
        "session_preload_libraries = 'auto_explain'",
        "auto_explain.log_min_duration = 0",
        "auto_explain.log_analyze = on",
        "auto_explain.log_timing = off",
        "auto_explain.log_format = json",
        "auto_explain.log_nested_statements = on",
        "logging_collector = on",
        "log_destination = jsonlog",
        "autovacuum = off",
    ])
    .expect("a private cluster");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let store = open(config(&cluster)).expect("the URL is good");
        store.migrate().await.expect("migrates");
        execute(&cluster, "vacuum analyze").await;
        exercise(&store).await;
        // The same sessions, with the plans they made on nothing, meet tables that have grown.
        load(&cluster).await;
        exercise(&store).await;
        execute(&cluster, "vacuum analyze").await;
        exercise(&open(config(&cluster)).expect("the URL is good")).await;
    });
    let plans = plans(&cluster.directory().join("data/log"));
    let statements: BTreeSet<&str> = plans.iter().map(|plan| plan.text.as_str()).collect();
    assert!(statements.len() > 80, "the workload reached only {} statements", statements.len());
    let mut wrong: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for plan in &plans {
        let mut found = BTreeSet::new();
        judge(&plan.root, &mut found);
        if !found.is_empty() {
            wrong.entry(plan.text.clone()).or_default().extend(found);
        }
    }
    let report: Vec<String> = wrong.iter().map(|(text, found)| format!("{found:?}\n    {}", text.replace('\n', "\n    "))).collect();
    assert!(report.is_empty(), "{} of {} statements:\n{}", report.len(), statements.len(), report.join("\n\n"));
}

async fn execute(cluster: &Cluster, sql: &str) {
    let url = cluster.url("postgres");
    let mut connection = sqlx::PgConnection::connect(&url).await.expect("connects");
    sqlx::raw_sql("set auto_explain.log_min_duration = -1").execute(&mut connection).await.expect("sets");
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut connection).await.expect("executes");
}

async fn load(cluster: &Cluster) {
    let runs = |state: i32, from: i64| {
        format!(
            "insert into everstep.run (id, route, epoch, state, timed) \
             select lpad(to_hex(n), 32, '0')::uuid, 1, 1, {state}, {state} = 3 from generate_series({from}, {from} + {BACKLOG}) n;\
             insert into everstep.run_info (run_id, namespace, workflow, queue, created_at, root) \
             select lpad(to_hex(n), 32, '0')::uuid, 'default', 'backlog', 'q', now() - interval '1 day' + n * interval '1 millisecond', \
                    lpad(to_hex(n), 32, '0')::uuid from generate_series({from}, {from} + {BACKLOG}) n;"
        )
    };
    let step = BACKLOG + 1;
    execute(cluster, &runs(1, 1)).await;
    execute(cluster, &runs(3, 1 + step)).await;
    execute(cluster, &runs(6, 1 + 2 * step)).await;
    execute(
        cluster,
        "insert into everstep.ready select 1, 0, (extract(epoch from created_at) * 1000000)::bigint, run_id from everstep.run_info \
         where run_id in (select id from everstep.run where state = 1 and route = 1) on conflict do nothing;\
         insert into everstep.timer select id, 1, now() + interval '1 day' from everstep.run where state = 3 and route = 1 on conflict do nothing;\
         insert into everstep.waiter (run_id, segment, branch, seq, kind, target, site) \
         select id, 0, '', 0, 3, id, 1 from everstep.run where state = 3 and route = 1;\
         insert into everstep.outcome select id, 6, 1, 0, null, now() from everstep.run where state = 6 and route = 1;\
         insert into everstep.message (run_id, topic, ord, id, at, token) select id, 't', 1, id, now(), 1 from everstep.run where route = 1;\
         insert into everstep.event (run_id, key, at) select id, 'k', now() from everstep.run where route = 1;\
         insert into everstep.run_note (run_id, cancel_by) select id, 'x' from everstep.run where route = 1;\
         insert into everstep.step (run_id, at, site, token, took_us, written_by, segment, seq, done, seen, epoch, attempt, kind, branch) \
         select id, now(), 1, 1, 1, id, 0, n, n, n, 1, 1, 1, '' from everstep.run, generate_series(0, 1) n where route = 1;\
         insert into everstep.attempt (run_id, segment, branch, seq, attempt, started, site, at, written_by, epoch, token) \
         select id, 0, '', 0, 1, false, 1, now(), id, 1, 1 from everstep.run where route = 1;\
         insert into everstep.slot select id, 'default', 'other', null, now() from everstep.run where route = 1;\
         insert into everstep.dedup select 'default', 'other', id::text, 2, id from everstep.run where route = 1;\
         insert into everstep.child select id, id, 0, '', 0, 1 from everstep.run where route = 1;\
         insert into everstep.offer select id, 'build-0' from everstep.run where route = 1;\
         insert into everstep.tombstone select id, now() from everstep.run where route = 1;\
         insert into everstep.control_log select id, now(), 'x', 'x', null, id from everstep.run where route = 1;\
         insert into everstep.site select n, 'site', '' from generate_series(1, 100000) n on conflict do nothing;",
    )
    .await;
}

/// One call of everything, in every form.
async fn exercise(store: &Arc<dyn Store>) {
    let worker = Worker::register(store.clone(), 60_000).await;
    let queue =
        |name: &str| Queue { name: name.into(), paused: false, limit: None, worker_limit: None, key_limit: None, hold: false, rate: None, operator: false };
    store.put_queue(&Queue { limit: Some(1000), key_limit: Some(1000), hold: true, ..queue("limited") }, false).await.expect("puts");
    store.put_queue(&queue("free"), true).await.expect("puts");
    store.pause_queue("free", false).await.expect("writes");
    store.queues().await.expect("reads");
    let (free, limited, plain) = (route_of("free", "job"), route_of("limited", "job"), route());
    let routes = [free.clone(), limited.clone(), plain.clone()];
    store.announce(&routes).await.expect("writes");
    store.workflow_names().await.expect("reads");

    // Starts of every sort, alone and mixed.
    let keyed = NewRun {
        route: limited.clone(),
        dedup: Some(Dedup { key: token().to_string(), scope: DedupScope::UntilDone, policy: DedupPolicy::Replace }),
        ..new_run()
    };
    let again = NewRun { key: uuid::Uuid::now_v7(), claim_token: token(), ..keyed.clone() };
    let named = NewRun { id_text: Some(token().to_string()), key: uuid::Uuid::new_v4(), ..new_run() };
    let twice = NewRun { claim_token: token(), ..named.clone() };
    let timed = NewRun { start: Some(Due::After(3_600_000)), deadline_ms: Some(1), expires_ms: Some(1), ..new_run() };
    let timed_key = timed.key;
    let starts: Vec<NewRun> = vec![keyed, again, named, twice, timed, NewRun { route: free.clone(), ..new_run() }];
    for run in starts {
        worker.one(start(run)).await;
    }
    let parent = worker.own().await;
    let child = NewRun { parent: Some(Parent { run: parent, root: parent, policy: ClosePolicy::Cancel }), route: limited.clone(), ..new_run() };
    let child_key = child.key;
    let mut effects = vec![
        Effect::StartChild(Box::new(child)),
        Effect::Send(message(parent, "t", "1")),
        Effect::SetEvent { key: "k".into(), value: Payload::json(b"1".to_vec()) },
        Effect::CloseWait,
        Effect::CloseWaitOf(at(9)),
    ];
    let sent = message(parent, "t", "1");
    effects.push(Effect::Consume { message: sent.id });
    worker.one(Write::Send(sent)).await;
    worker.one(record(parent, 1, step(0))).await;
    let recorded = step(1);
    worker.one(record(parent, 1, with(effects, recorded.clone()))).await;
    worker.again(&[record(parent, 1, recorded), record(parent, 9, step(2)), attempt(parent, 1, 2, 1, false)]).await;
    worker.one(attempt(parent, 1, 3, 1, true)).await;
    let watcher = worker.own().await;
    worker.one(wait(watcher, 1, 0, WaitKind::Event, Some(parent), "k", None)).await;
    worker.one(wait(watcher, 1, 1, WaitKind::Result, Some(parent), "", Some(Due::After(1000)))).await;
    worker.one(wait(watcher, 1, 2, WaitKind::Receive, None, "t", None)).await;
    let waits = worker.store.load(worker.id, &[watcher]).await.expect("loads").remove(0).waits;
    store.answer_waits(watcher, &waits).await.expect("answers");
    store.events(&[(parent, "k".into())]).await.expect("reads");
    let set = Effect::SetEvent { key: "k".into(), value: Payload::json(b"2".to_vec()) };
    worker.one(record(parent, 1, with(vec![set], step(4)))).await;

    // Claims, releases and everything that brings runs back.
    let claimed = worker.claim(&routes, 50).await;
    assert!(claimed.iter().any(|run| run.key == child_key));
    let seen: Vec<(RunKey, i32, i32)> = claimed.iter().map(|run| (run.key, run.epoch, run.inbox)).collect();
    store.moved(worker.id, &seen).await.expect("reads");
    store.owned(worker.id).await.expect("reads");
    store.recheck(worker.id, &[parent, watcher]).await.expect("reads");
    for (at, run) in claimed.iter().enumerate() {
        let (run, epoch, inbox) = (run.key, run.epoch, run.inbox);
        let write = match at % 4 {
            0 => Write::Release { run, epoch, inbox, due: Some(Due::After(1)) },
            1 => Write::GiveBack { run, epoch },
            2 => Write::RetryRun { run, epoch, after_ms: 1, attempt: 1, token: token(), error: Payload::json(b"{}".to_vec()) },
            _ => Write::Block { run, epoch, why: "{\"code\":\"mismatch\"}".into() },
        };
        worker.one(write).await;
    }
    let now = store.recheck(worker.id, &[watcher]).await.expect("reads").remove(0);
    worker.one(Write::Release { run: watcher, epoch: now.epoch, inbox: now.inbox, due: Some(Due::After(60_000)) }).await;
    worker.one(outcome_of_parent(parent)).await;
    until("the timers fire", || async {
        worker.tick(&[]).await;
        (store.find(timed_key).await.expect("reads")?.summary.state == RunState::Cancelled).then_some(())
    })
    .await;
    store.offer_blocked("build-2", &["job".into(), "checkout".into()]).await.expect("offers");
    let woken = worker.claim(&routes, 50).await;
    assert!(woken.iter().any(|run| run.key == watcher && !run.waits.is_empty()));

    // Transactions.
    let run = worker.own().await;
    store.identity().await.expect("reads");
    store.adopt("test").await.expect("adopts");
    store.inspect().await.expect("looks");
    let transaction = store.begin(&site("work")).await.expect("begins");
    transaction.commit(worker.id, run, 1, &step(0)).await.expect("commits");
    store.probe(worker.id, run, 1, &step(0)).await.expect("probes");
    store.history(run, 0, &at(0)).await.expect("reads");

    // Control, and looking.
    store.cancel(run, "ops", "x", 1).await.expect("cancels");
    let failed = worker.own().await;
    worker.commit(&[record(failed, 1, StepWrite { failed: true, ..step(0) }), outcome_of(failed, 1, RunState::Failed)]).await;
    store.retry(failed, "ops").await.expect("retries");
    store.cancel(failed, "ops", "x", 1).await.expect("cancels");
    store.resume(failed, "ops").await.expect("resumes");
    store.rewind(parent, &at(0), true, "ops").await.expect("rewinds");
    store.open_children(parent, 10).await.expect("reads");
    store.outcomes(&[parent, failed]).await.expect("reads");
    store.steps(parent, None, 10).await.expect("reads");
    let any = RunFilter { limit: 10, ..RunFilter::default() };
    store.list(&any).await.expect("lists");
    // Found by their state: the backlog that is walked else is longer than anything may be here.
    let failing = new_run();
    let failing_key = failing.key;
    worker.own_with(failing).await;
    worker.one(outcome_of(failing_key, 1, RunState::Failed)).await;
    let failures = RunFilter { states: vec![RunState::Failed, RunState::Blocked], ..any.clone() };
    assert!(store.list(&failures).await.expect("lists").iter().any(|run| run.key == failing_key));
    store.list(&RunFilter { parent: Some(parent), ..any }).await.expect("lists");
    store.hint(&[WakeHint::Ready]).await.expect("tells");
    store.now().await.expect("tells the time");
    let slow = SlowStep { name: "charge".into(), location: String::new(), running_ms: 300_000 };
    store.note_slow(parent, store.find(parent).await.expect("reads").expect("is there").summary.epoch, &[slow]).await.expect("notes");
    store.note_slow(parent, 0, &[]).await.expect("notes");

    // The end of one worker by death, of another by leave.
    let victim = Worker::register(store.clone(), 1).await;
    victim.own().await;
    until("the dead one is reaped", || async { (!worker.tick(&[]).await.reaped.is_empty()).then_some(()) }).await;
    store.deregister(worker.id).await.expect("deregisters");
}

struct Plan {
    text: String,
    root: Value,
}

fn plans(directory: &Path) -> Vec<Plan> {
    let mut plans = Vec::new();
    for entry in fs::read_dir(directory).expect("the server's logs").flatten().filter(|entry| entry.path().extension().is_some_and(|e| e == "json")) {
        for line in fs::read_to_string(entry.path()).expect("a log").lines() {
            let line: Value = serde_json::from_str(line).expect("a line of JSON");
            if line["application_name"] != "everstep" {
                continue;
            }
            let Some((_, plan)) = line["message"].as_str().and_then(|message| message.split_once("plan:\n")) else { continue };
            let mut plan: Value = serde_json::from_str(plan).expect("a plan in JSON");
            plans.push(Plan { text: plan["Query Text"].as_str().unwrap_or_default().to_string(), root: plan["Plan"].take() });
        }
    }
    plans
}

fn judge(node: &Value, wrong: &mut BTreeSet<String>) {
    let kind = node["Node Type"].as_str().unwrap_or_default();
    let number = |name: &str| node[name].as_f64().unwrap_or(0.0);
    let read = (number("Actual Rows") + number("Rows Removed by Filter")) * number("Actual Loops").max(1.0);
    if let Some(table) = node["Relation Name"].as_str().filter(|_| node["Schema"] == "everstep" || node["Schema"].is_null())
        && !SMALL.contains(&table)
        && !table.starts_with("pg_")
        && kind != "ModifyTable"
    {
        if !["Index Scan", "Index Only Scan", "Tid Scan"].contains(&kind) {
            wrong.insert(format!("{kind} of {table}"));
        }
        if read > ROWS {
            wrong.insert(format!("{read} rows of {table} by {kind} {}", node["Index Name"].as_str().unwrap_or_default()));
        }
    }
    if kind == "Hash Join" || kind == "Merge Join" {
        wrong.insert(kind.to_string());
    }
    for child in node["Plans"].as_array().into_iter().flatten() {
        judge(child, wrong);
    }
}
