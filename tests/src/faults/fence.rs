//! The store's promises at the finest grain: one row, two connections, every interleaving decided here and not by luck.

use std::sync::Arc;
use std::time::Duration;

use everstep::store::NewMessage;
use everstep::store::{self, NewRun, OpenWait, Payload, Position, Route, Site, StepWrite, StoreConfig, Verdict, WaitKind, WorkerInfo, Write};
use sqlx::Connection;
use uuid::Uuid;

use super::Context;
use crate::database::Database;
use crate::scenario::Store;
use crate::stage::Stage;

/// Long enough for a statement that does not wait to be over, on a busy machine.
const WAITS: Duration = Duration::from_millis(400);

struct Bench {
    _stage: Stage,
    store: Arc<dyn store::Store>,
    url: String,
    postgres: bool,
}

fn told(e: store::StoreError) -> String {
    e.to_string()
}

fn worker() -> WorkerInfo {
    WorkerInfo {
        incarnation: Uuid::now_v7(),
        lanes: 2,
        lease_ms: 60_000,
        host: "suite".into(),
        boot_id: "another".into(),
        pid_namespace: "another".into(),
        pid: 1,
        process_start: 1,
        build: String::new(),
        language: "rust".into(),
        queues: Vec::new(),
        environment: "suite".into(),
        protocol: 1,
        schema: 1,
    }
}

fn run(workflow: &str) -> NewRun {
    NewRun {
        key: Uuid::now_v7(),
        id_text: None,
        route: Route { id: 1, queue: String::new(), workflow: workflow.into(), label: String::new() },
        version: None,
        priority: 0,
        start: None,
        expires_ms: None,
        deadline_ms: None,
        input: Payload::json(b"null".to_vec()),
        parent: None,
        forked_from: None,
        trace_parent: None,
        trace_state: None,
        attributes: None,
        fairness_key: None,
        cost: 1,
        created_by: None,
        dedup: None,
        options: None,
        reuse_purged: false,
        claimed: true,
        claim_token: 7,
    }
}

fn position(seq: i32) -> Position {
    Position { segment: 0, branch: "".into(), seq }
}

fn site() -> Site {
    Site { id: 1, name: "work".into(), location: "fence.rs:1".into() }
}

fn step(run: Uuid, seq: i32, token: i64, output: &str) -> Write {
    Write::Step {
        run,
        epoch: 1,
        step: Box::new(StepWrite {
            at: position(seq),
            kind: 1,
            site: site(),
            digest: None,
            failed: false,
            done: seq,
            seen: seq,
            attempt: 1,
            took_us: 1,
            token,
            output: Payload::json(output.as_bytes().to_vec()),
            effects: Vec::new(),
        }),
    }
}

impl Bench {
    async fn set(context: Context) -> Result<Bench, String> {
        let postgres = context.store == Store::Postgres;
        let stage = context.stage(serde_json::json!({})).await?;
        let url = stage.url(Some("direct"))?;
        let store = store::open(StoreConfig {
            url: url.clone(),
            schema: "everstep".into(),
            namespace: "default".into(),
            lanes: 2,
            pool: 4,
            pooler: Some(false),
            statement_timeout_ms: 20_000,
            beat_timeout_ms: 20_000,
            allow_async_commit: false,
            follow_up: |_, _| None,
        })
        .map_err(told)?;
        store.migrate().await.map_err(told)?;
        Ok(Bench { _stage: stage, store, url, postgres })
    }

    /// A worker that runs one run.
    async fn owner(&self) -> Result<(Uuid, Uuid), String> {
        let info = worker();
        self.store.register(&info).await.map_err(told)?;
        let run = run("work");
        let key = run.key;
        match self.one(info.incarnation, Write::Start(Box::new(run))).await? {
            Verdict::Started { claimed: true } => Ok((info.incarnation, key)),
            other => Err(format!("a start of our own: {other:?}")),
        }
    }

    async fn one(&self, incarnation: Uuid, write: Write) -> Result<Verdict, String> {
        let verdicts = self.store.commit(0, Some(incarnation), &[write], false).await.map_err(told)?;
        verdicts.into_iter().next().ok_or("no verdict".into())
    }

    /// Run `sql` in a transaction that stays open until the returned connection commits.
    async fn open(&self, sql: &str) -> Result<Other, String> {
        let mut database = Database::open(&self.url, "everstep").await.map_err(|e| e.to_string())?;
        let begin = if self.postgres { "begin" } else { "begin immediate" };
        for statement in [begin, sql] {
            database.execute(statement).await.map_err(|e| e.to_string())?;
        }
        Ok(Other(database))
    }

    fn literal(&self, id: Uuid) -> String {
        if self.postgres { format!("'{id}'") } else { format!("x'{}'", id.simple()) }
    }
}

struct Other(Database);

impl Other {
    async fn commit(mut self) -> Result<(), String> {
        self.0.execute("commit").await.map_err(|e| e.to_string())?;
        match self.0 {
            Database::Postgres { connection, .. } => connection.close().await,
            Database::Sqlite(connection) => connection.close().await,
        }
        .map_err(|e| e.to_string())
    }
}

/// `write` must wait for the open transaction `other`, and be refused once that has committed.
async fn waits_and_is_fenced(bench: &Bench, incarnation: Uuid, write: Write, other: Other, what: &str) -> Result<(), String> {
    let mut verdict = Box::pin(bench.one(incarnation, write));
    if let Ok(early) = tokio::time::timeout(WAITS, &mut verdict).await {
        return Err(format!("{what}: the write did not wait: {early:?}"));
    }
    other.commit().await?;
    match verdict.await? {
        Verdict::Fenced => Ok(()),
        stale => Err(format!("{what}: the write of the old owner got {stale:?}")),
    }
}

/// A takeover deletes the lease; a batch that comes during or after it stores nothing.
pub(super) async fn lease(context: Context) -> Result<(), String> {
    let bench = Bench::set(context).await?;
    let (incarnation, key) = bench.owner().await?;
    match bench.one(incarnation, step(key, 0, 11, "1")).await? {
        Verdict::Committed => {}
        other => return Err(format!("a step of the owner: {other:?}")),
    }
    let sql = format!("delete from {{s}}lease where incarnation = {}", bench.literal(incarnation));
    let takeover = bench.open(&sql).await?;
    waits_and_is_fenced(&bench, incarnation, step(key, 1, 12, "2"), takeover, "takeover in flight").await?;
    match bench.one(incarnation, step(key, 2, 13, "3")).await? {
        Verdict::Fenced => Ok(()),
        stale => Err(format!("after the takeover: {stale:?}")),
    }
}

/// A rewind, cancel or claim by another moves the epoch; a checkpoint of the old one that races with it stores nothing.
pub(super) async fn run_row(context: Context) -> Result<(), String> {
    let bench = Bench::set(context).await?;
    let (incarnation, key) = bench.owner().await?;
    let sql = format!("update {{s}}run set epoch = epoch + 1 where id = {}", bench.literal(key));
    let rewind = bench.open(&sql).await?;
    waits_and_is_fenced(&bench, incarnation, step(key, 0, 21, "1"), rewind, "rewind in flight").await?;
    match bench.one(incarnation, step(key, 1, 22, "2")).await? {
        Verdict::Fenced => Ok(()),
        stale => Err(format!("after the rewind: {stale:?}")),
    }
}

/// What stands at a position stays: the same token is the same write, another token is told what stands.
pub(super) async fn conflict(context: Context) -> Result<(), String> {
    let bench = Bench::set(context).await?;
    let (incarnation, key) = bench.owner().await?;
    bench.one(incarnation, step(key, 0, 31, "\"first\"")).await?;
    let again = bench.store.commit(0, Some(incarnation), &[step(key, 0, 31, "\"first\"")], true).await.map_err(told)?;
    if !matches!(again.first(), Some(Verdict::Committed)) {
        return Err(format!("the same batch again after an unknown outcome: {again:?}"));
    }
    match bench.one(incarnation, step(key, 0, 32, "\"second\"")).await? {
        Verdict::Adopt(record) if record.output.data == b"\"first\"" && record.token == 31 => {}
        other => return Err(format!("another value for a recorded position: {other:?}")),
    }
    let mut database = Database::open(&bench.url, "everstep").await.map_err(|e| e.to_string())?;
    match database.number("select count(*) from {s}step where token = 31").await.map_err(|e| e.to_string())? {
        1 => Ok(()),
        n => Err(format!("{n} rows of the first writer are left")),
    }
}

/// A message that comes while its receiver is being released is never slept over.
pub(super) async fn inbox(context: Context) -> Result<(), String> {
    let bench = Bench::set(context).await?;
    let (incarnation, key) = bench.owner().await?;
    let wait = Write::Wait { run: key, epoch: 1, at: position(0), kind: WaitKind::Receive, due: None, target: None, key: "t".into(), site: site() };
    match bench.one(incarnation, wait).await? {
        Verdict::Opened { .. } => {}
        other => return Err(format!("a wait: {other:?}")),
    }
    let message = NewMessage { to: key, id: Uuid::now_v7(), ord: 1, topic: "t".into(), value: Payload::json(b"1".to_vec()), token: 41 };
    let sent = bench.store.commit(0, None, &[Write::Send(message)], false).await.map_err(told)?;
    if !matches!(sent.first(), Some(Verdict::Committed)) {
        return Err(format!("a message from outside: {sent:?}"));
    }
    match bench.one(incarnation, Write::Release { run: key, epoch: 1, inbox: 0, due: None }).await? {
        Verdict::Changed { inbox: 1 } => {}
        other => return Err(format!("a release that has not seen the message: {other:?}")),
    }
    let waits = [OpenWait { at: position(0), kind: WaitKind::Receive, due_in_ms: None, due_at: None, target: None, key: "t".into(), site: site() }];
    let answers = bench.store.answer_waits(key, &waits).await.map_err(told)?;
    match answers.first() {
        Some(store::WaitAnswer::Nothing) | None => Err("the message is not there".into()),
        Some(_) => Ok(()),
    }
}
