//! Every statement the store says is explained: none may walk through a table that grows. SQLite keeps no statistics here (nobody runs
//! ANALYZE), so the plan of an empty file is the plan of a full one.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use uuid::Uuid;

use super::SqliteStore;
use super::value::Columns as _;
use crate::store::*;

static SEEN: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

pub(super) fn saw(sql: &str) {
    SEEN.lock().expect("not poisoned").insert(sql.to_string());
}

/// Tables of a handful of rows, whose walk is the quickest way.
/// `route` has a row for each name of a program in each queue; it is read whole only where a start names a workflow nobody knows.
const SMALL: [&str; 6] = ["queue", "worker", "dead_worker", "sqlite_master", "meta", "route"];
const TABLES: [&str; 16] =
    ["run", "ready", "timer", "run_info", "outcome", "run_note", "step", "attempt", "waiter", "message", "event", "child", "slot", "dedup", "site", "route"];

fn token() -> i64 {
    (Uuid::new_v4().as_u64_pair().0 >> 1) as i64
}

fn route(queue: &str) -> Route {
    Route { id: queue.len() as i64, queue: queue.into(), workflow: "w".into(), label: String::new() }
}

fn run(queue: &str, claimed: bool) -> NewRun {
    NewRun {
        key: Uuid::now_v7(),
        id_text: None,
        route: route(queue),
        version: None,
        priority: 0,
        start: None,
        expires_ms: None,
        deadline_ms: None,
        input: Payload::default(),
        parent: None,
        forked_from: None,
        trace_parent: None,
        trace_state: None,
        attributes: Some("{\"a\":1}".into()),
        fairness_key: Some("k".into()),
        cost: 1,
        created_by: None,
        dedup: None,
        options: None,
        reuse_purged: false,
        claimed,
        claim_token: token(),
    }
}

fn at(seq: i32) -> Position {
    Position { segment: 0, branch: "".into(), seq }
}

fn site() -> Site {
    Site { id: 1, name: "s".into(), location: "".into() }
}

fn step(run: RunKey, seq: i32, failed: bool, effects: Vec<Effect>) -> Write {
    let step = StepWrite {
        at: at(seq),
        kind: 1,
        site: site(),
        digest: None,
        failed,
        done: seq,
        seen: 0,
        attempt: 1,
        took_us: 1,
        token: token(),
        output: Payload::default(),
        effects,
    };
    Write::Step { run, epoch: 1, step: Box::new(step) }
}

fn outcome(run: RunKey, state: RunState) -> Write {
    Write::Outcome { run, epoch: 1, state, token: token(), value: Payload::default(), error_type: None, error_message: None, then: None, children: true }
}

struct Bench {
    store: Arc<dyn Store>,
    me: Uuid,
}

impl Bench {
    async fn register(&self, incarnation: Uuid, lease_ms: i64) {
        let worker = WorkerInfo {
            incarnation,
            lanes: 1,
            lease_ms,
            host: String::new(),
            boot_id: "b".into(),
            pid_namespace: String::new(),
            pid: 1,
            process_start: 1,
            build: "1".into(),
            language: String::new(),
            queues: Vec::new(),
            environment: String::new(),
            protocol: 1,
            schema: 1,
        };
        self.store.register(&worker).await.expect("registers");
    }

    async fn commit(&self, who: Uuid, writes: &[Write]) -> Vec<Verdict> {
        let verdicts = self.store.commit(0, Some(who), writes, false).await.expect("commits");
        self.store.commit(0, Some(who), writes, true).await.expect("commits again");
        verdicts
    }

    async fn own(&self, who: Uuid) -> RunKey {
        let new = NewRun { deadline_ms: Some(1 << 40), ..run("", true) };
        let key = new.key;
        self.commit(who, &[Write::Start(Box::new(new))]).await;
        key
    }

    async fn claim(&self) -> usize {
        let routes = ["", "q", "qq"].map(route).to_vec();
        let request = ClaimRequest { incarnation: self.me, claim_token: token(), routes, max: 50, held_by_queue: Vec::new() };
        self.store.claim(&request).await.expect("claims").len()
    }

    async fn tick(&self) -> TickReport {
        let request = TickRequest {
            incarnation: Some(self.me),
            lease_ms: 60_000,
            may_reap: true,
            silent_ms: 60_000,
            known_dead: Vec::new(),
            page: 100,
            cancel_grace_ms: 60_000,
            max_crashes: 2,
            boot_id: "b".into(),
            routes: Vec::new(),
        };
        self.store.tick(&request).await.expect("ticks")
    }

    async fn hot_path(&self) {
        let me = self.me;
        let (a, b, c, d) = (self.own(me).await, self.own(me).await, self.own(me).await, self.own(me).await);
        let message = |to| NewMessage { to, id: Uuid::now_v7(), ord: 1, topic: "t".into(), value: Payload::default(), token: token() };
        let wait = |run, seq, kind, target| Write::Wait { run, epoch: 1, at: at(seq), kind, due: Some(Due::After(1)), target, key: "e".into(), site: site() };
        self.commit(me, &[wait(b, 5, WaitKind::Event, Some(a)), wait(b, 6, WaitKind::Result, Some(a)), wait(a, 7, WaitKind::Receive, None)]).await;
        let child = NewRun { parent: Some(Parent { run: a, root: a, policy: ClosePolicy::Cancel }), ..run("", false) };
        let taken = message(a);
        let dedup = |policy| NewRun { dedup: Some(Dedup { key: "k".into(), scope: DedupScope::UntilDone, policy }), ..run("q", false) };
        let effects = vec![
            Effect::Send(message(b)),
            Effect::SetEvent { key: "e".into(), value: Payload::default() },
            Effect::StartChild(Box::new(child)),
            Effect::Consume { message: taken.id },
            Effect::CloseWait,
        ];
        let attempt = |run| Write::Attempt {
            run,
            epoch: 1,
            at: at(9),
            attempt: 1,
            started: true,
            site: site(),
            token: token(),
            error: Payload::default(),
            retry_in_ms: Some(1),
        };
        let delayed = NewRun { start: Some(Due::After(1)), expires_ms: Some(1), ..run("q", false) };
        self.commit(
            me,
            &[Write::Send(taken), step(a, 0, false, effects), attempt(a), Write::Start(Box::new(delayed)), Write::Start(Box::new(dedup(DedupPolicy::Attach)))],
        )
        .await;
        // Another token at a position that is taken, another's attempt, another's dedup key.
        self.commit(me, &[step(a, 0, false, Vec::new()), step(a, 1, false, Vec::new()), attempt(a), Write::Start(Box::new(dedup(DedupPolicy::Replace)))]).await;
        let retry = Write::RetryRun { run: c, epoch: 1, after_ms: 1, attempt: 1, token: token(), error: Payload::default() };
        let release = Write::Release { run: d, epoch: 1, inbox: 0, due: Some(Due::After(1)) };
        self.commit(me, &[outcome(a, RunState::Succeeded), Write::GiveBack { run: b, epoch: 1 }, retry, release]).await;
        self.store.answer_waits(b, &self.store.find(b).await.expect("reads").expect("is there").waits).await.expect("answers");
        let keys = [a, b, c, d];
        self.store.outcomes(&keys).await.expect("reads");
        self.store.events(&[(a, "e".into())]).await.expect("reads");
        self.store.recheck(me, &keys).await.expect("reads");
        self.store.load(me, &keys).await.expect("reads");
        self.store.history(a, 0, &at(0)).await.expect("reads");
        self.store.steps(a, None, 10).await.expect("reads");
        self.store.open_children(a, 10).await.expect("reads");
        self.store.owned(me).await.expect("reads");
    }

    async fn control(&self) {
        let me = self.me;
        let (a, b, c) = (self.own(me).await, self.own(me).await, self.own(me).await);
        let why = "{\"code\":\"mismatch\",\"build\":\"0\"}".to_string();
        self.commit(me, &[step(a, 0, true, Vec::new()), outcome(a, RunState::Failed), Write::Block { run: b, epoch: 1, why }]).await;
        assert_eq!(self.store.retry(a, "t").await.expect("retries"), ControlVerdict::Done);
        assert_eq!(self.store.offer_blocked("2", &["w".into()]).await.expect("offers"), 1);
        assert_eq!(self.store.cancel(c, "t", "t", 0).await.expect("cancels"), ControlVerdict::Requested);
        assert_eq!(self.store.cancel(a, "t", "t", 0).await.expect("cancels"), ControlVerdict::Requested);
        let unstarted = run("q", false);
        let d = unstarted.key;
        self.commit(me, &[Write::Start(Box::new(unstarted))]).await;
        assert_eq!(self.store.cancel(d, "t", "t", 0).await.expect("cancels"), ControlVerdict::Done);
        assert_eq!(self.store.resume(d, "t").await.expect("resumes"), ControlVerdict::Done);
        self.commit(me, &[step(c, 0, false, Vec::new())]).await;
        let slow = SlowStep { name: "s".into(), location: String::new(), running_ms: 300_000 };
        self.store.note_slow(c, 2, &[slow]).await.expect("notes");
        self.store.note_slow(c, 2, &[]).await.expect("notes");
        self.store.rewind(a, &at(0), true, "t").await.expect("rewinds");
    }

    async fn queues_and_housekeeping(&self) {
        let queue =
            Queue { name: "qq".into(), paused: false, limit: Some(5), worker_limit: Some(5), key_limit: Some(5), hold: true, rate: None, operator: false };
        self.store.put_queue(&queue, false).await.expect("puts");
        self.store.pause_queue("qq", false).await.expect("writes");
        self.store.queues().await.expect("reads");
        self.store.announce(&[run("qq", false).route]).await.expect("writes");
        self.store.workflow_names().await.expect("reads");
        self.commit(self.me, &[Write::Start(Box::new(run("qq", false)))]).await;
        assert!(self.claim().await > 0);
        for run in self.store.owned(self.me).await.expect("reads") {
            self.commit(self.me, &[Write::Release { run: run.key, epoch: run.epoch, inbox: run.inbox, due: None }]).await;
        }
        for _ in 0..2 {
            let dead = Uuid::new_v4();
            self.register(dead, -1).await;
            self.own(dead).await;
            let report = self.tick().await;
            assert_eq!((report.reaped, report.orphans > 0), (vec![dead], true));
            self.claim().await;
        }
        self.store.beat(self.me, 1).await.expect("beats");
        self.store.deregister(self.me).await.expect("deregisters");
    }

    async fn lists(&self) {
        let base = RunFilter { limit: 10, ..RunFilter::default() };
        let (from, key) = (Some(1), Uuid::nil());
        for filter in [
            RunFilter { states: vec![RunState::Running], after: Some((i64::MAX, key)), ..base.clone() },
            RunFilter { states: vec![RunState::Failed, RunState::Blocked], ..base.clone() },
            RunFilter { parent: Some(key), ..base.clone() },
            RunFilter { workflow: Some("w".into()), queue: Some("q".into()), attribute: Some(("a".into(), "1".into())), ..base.clone() },
            RunFilter { created_from: from, created_before: Some(i64::MAX), ..base },
        ] {
            self.store.list(&filter).await.expect("lists");
        }
    }
}

#[tokio::test]
async fn no_statement_walks_a_table_that_grows() {
    let directory = std::env::temp_dir().join(format!("everstep-plans-{}", Uuid::new_v4().simple()));
    std::fs::create_dir_all(&directory).expect("a temporary directory");
    let config = StoreConfig {
        url: format!("sqlite:{}", directory.join("everstep.db").display()),
        schema: String::new(),
        namespace: "n".into(),
        lanes: 1,
        pool: 1,
        pooler: None,
        statement_timeout_ms: 30_000,
        beat_timeout_ms: 30_000,
        allow_async_commit: false,
        follow_up: |_, _| None,
    };
    let bench = Bench { store: SqliteStore::open(config.clone()).expect("opens"), me: Uuid::new_v4() };
    bench.store.migrate().await.expect("migrates");
    bench.register(bench.me, 60_000).await;
    bench.hot_path().await;
    bench.control().await;
    bench.queues_and_housekeeping().await;
    bench.lists().await;
    bench.store.close().await;

    let statements = SEEN.lock().expect("not poisoned").clone();
    let place = super::Place::new(super::location(&config.url).expect("a path"), std::time::Duration::from_secs(1), |_, _| None);
    let mut conn = super::Held::take(&place, None).await.expect("opens");
    let (mut explained, mut walks) = (0, Vec::new());
    for sql in statements {
        let verb = sql.split_whitespace().next().unwrap_or_default();
        if !["select", "insert", "update", "delete", "with"].contains(&verb) {
            continue;
        }
        let (_, plan) = conn.dynamic(format!("explain query plan {sql}"), Vec::new()).await.expect("explains");
        explained += 1;
        for line in plan {
            let line = line.text(3).expect("a line of the plan");
            let table = line.strip_prefix("SCAN ").and_then(|rest| rest.split_whitespace().next()).unwrap_or_default();
            let walked = TABLES.contains(&table) && !SMALL.contains(&table);
            if walked || line.contains("AUTOMATIC") {
                walks.push(format!("{line}\n    of: {sql}"));
            }
        }
    }
    drop(conn);
    std::fs::remove_dir_all(directory).expect("removes");
    assert!(walks.is_empty(), "{}", walks.join("\n"));
    assert!(explained > 100, "only {explained} statements were tried");
}
