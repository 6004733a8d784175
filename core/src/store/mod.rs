//! The only place with SQL. Two stores, one contract: [`Store`], in domain types.
//!
//! Rules both keep (`core/docs/recovery.md`, design `semantics.md` §8):
//! - an owner's write is fenced by (incarnation's lane lease row, run row's owner and epoch), locked, not compared;
//! - every run row a batch touches is locked in one pass in key order before anything else;
//! - a wake adds to `run.inbox` in the transaction of what woke, with no predicate on state, and makes a `Waiting` run `Ready`;
//! - repeating a batch with the same tokens after an unknown outcome gives the same verdicts;
//! - time is the database's.

mod forget;
pub mod postgres;
pub mod sqlite;
mod types;
mod user_sql;

use async_trait::async_trait;
use uuid::Uuid;

pub use types::*;

/// What a store call may fail with. A verdict is never an error; an error is never a verdict.
#[derive(Debug, Clone)]
pub enum StoreError {
    /// Connection lost, refused, timed out, server starting, shutting down, read-only, too many connections (08*, 57P*, 53*, 25006,
    /// I/O): the outcome is unknown; say the same again on a new connection.
    Unavailable(String),
    /// 40001, 40P01, 55P03, SQLITE_BUSY: rolled back; say the same again.
    Conflict(String),
    /// 57014 and other limits somebody configured: bounded retries, then surfaced.
    Configured(String),
    /// Wrong password, no such database, no privilege, bad URL: a person must act. (code of errors.toml, text without secrets)
    Setup { code: &'static str, message: String },
    /// A bad value or a broken rule (22*, 23*, 54*, 42*): repeating it will not help.
    Rejected { sqlstate: String, message: String },
}

impl std::fmt::Display for StoreError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            StoreError::Unavailable(m) => write!(f, "database unavailable: {m}"),
            StoreError::Conflict(m) => write!(f, "database conflict: {m}"),
            StoreError::Configured(m) => write!(f, "refused by a configured limit: {m}"),
            StoreError::Setup { message, .. } => write!(f, "{message}"),
            StoreError::Rejected { sqlstate, message } => write!(f, "rejected by the database ({sqlstate}): {message}"),
        }
    }
}

impl std::error::Error for StoreError {}

/// In the text of an outage: what was accepted once is refused.
pub(crate) const REFUSED_NOW: &str = "the user or password that was good before is refused now";

pub type Result<T> = std::result::Result<T, StoreError>;

/// What this library's migrations bring a schema to.
pub const SCHEMA_VERSION: i32 = 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreKind {
    Postgres,
    Sqlite,
}

/// How to reach the database and what to call things.
#[derive(Clone)]
pub struct StoreConfig {
    /// `postgres://..` or `sqlite:path` / `sqlite::memory:`. Never printed: see `redacted`.
    pub url: String,
    /// PostgreSQL schema, `[a-z_][a-z0-9_]{0,62}`; unused on SQLite.
    pub schema: String,
    pub namespace: String,
    /// Commit lanes (connections of `commit`), 1..=8; SQLite always has one.
    pub lanes: usize,
    /// Connections for everything else at most.
    pub pool: usize,
    /// None: found out at connect. True: transaction-mode pooler, so explicit transactions, unnamed statements, no LISTEN.
    pub pooler: Option<bool>,
    /// Any await on the database longer than this is an error and drops its connection.
    pub statement_timeout_ms: u64,
    /// The same of a beat: there must be time for another before the lease is out.
    pub beat_timeout_ms: u64,
    /// Also work when `synchronous_commit` is off.
    pub allow_async_commit: bool,
    /// What is to follow a run that the store itself ends. The options a run was started with are the engine's to read.
    pub follow_up: FollowUp,
}

pub type FollowUp = fn(namespace: &str, ended: &Ended) -> Option<NewRun>;

/// A run that is cancelled where no worker has it: before it started, while it waited elsewhere, or over its worker's head.
pub struct Ended {
    pub run: RunKey,
    pub epoch: i32,
    pub state: RunState,
    pub value: Payload,
    pub workflow: String,
    pub root: RunKey,
    pub trace_parent: Option<String>,
    /// As its start has left them.
    pub options: String,
}

impl std::fmt::Debug for StoreConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoreConfig").field("schema", &self.schema).field("namespace", &self.namespace).finish_non_exhaustive()
    }
}

#[async_trait]
pub trait Store: Send + Sync + 'static {
    fn kind(&self) -> StoreKind;
    /// True behind a transaction-mode pooler (decided by the first connection).
    fn pooled(&self) -> bool;

    // -- schema and identity ------------------------------------------------------------------------------------------------
    /// Connect once and look: reachable, writable, version, durable.
    async fn inspect(&self) -> Result<SchemaState>;
    /// Bring the schema to this library's version. Idempotent; two at once and a kill midway are harmless.
    async fn migrate(&self) -> Result<()>;
    async fn identity(&self) -> Result<Identity>;
    /// Stamp environment and actual identity into `meta`.
    async fn adopt(&self, environment: &str) -> Result<()>;

    // -- presence and leases ------------------------------------------------------------------------------------------------
    /// Insert the worker row and one lease row a lane.
    async fn register(&self, worker: &WorkerInfo) -> Result<()>;
    /// On a connection of its own. False: the row is gone, this incarnation was taken over.
    async fn beat(&self, incarnation: Uuid, lease_ms: i64) -> Result<bool>;
    /// Delete lease and worker rows and put every owned run back to `Ready`; graceful, so nothing counts as a crash.
    async fn deregister(&self, incarnation: Uuid) -> Result<()>;
    /// The one housekeeping round trip: beat, reap, orphans to `Ready`, due timers, queue changes, when to come back.
    async fn tick(&self, request: &TickRequest) -> Result<TickReport>;

    // -- the hot path -------------------------------------------------------------------------------------------------------
    /// Commit a batch as `incarnation` on lane `lane`; verdicts in the order of `writes`. `retry` is true when an earlier try of the
    /// same batch ended in an unknown outcome. Row-level refusals become `Verdict::Refused` by bisection; the rest commits.
    async fn commit(&self, lane: usize, incarnation: Option<Uuid>, writes: &[Write], retry: bool) -> Result<Vec<Verdict>>;
    /// Do ahead of need what the first start, claim and checkpoint would wait for; `works`: more than starts will come. Changes nothing.
    async fn warm(&self, _works: bool) -> Result<()> {
        Ok(())
    }
    /// Whether a run is claimable on one of these routes, and has been there for `older_than_ms`. Needs no lease.
    async fn anything_ready(&self, routes: &[i64], older_than_ms: i64) -> Result<bool>;
    /// Claim ready runs (fenced by the lease), with their first page of history.
    async fn claim(&self, request: &ClaimRequest) -> Result<Vec<ClaimedRun>>;
    /// Everything this incarnation owns now.
    async fn owned(&self, incarnation: Uuid) -> Result<Vec<OwnedNow>>;
    /// Load runs this incarnation owns, as `claim` would have returned them.
    async fn load(&self, incarnation: Uuid, runs: &[RunKey]) -> Result<Vec<ClaimedRun>>;
    /// Next page of history after a position, by (branch, seq).
    async fn history(&self, run: RunKey, segment: i32, after: &Position) -> Result<(Vec<StepRecord>, bool)>;
    /// The present truth about these runs.
    async fn recheck(&self, incarnation: Uuid, runs: &[RunKey]) -> Result<Vec<OwnedNow>>;
    /// Of the given (run, epoch, inbox seen), those whose row moved on: other inbox, epoch, owner or state.
    async fn moved(&self, incarnation: Uuid, runs: &[(RunKey, i32, i32)]) -> Result<Vec<OwnedNow>>;
    /// What each wait of this run would get now, in order. Receives of one topic get distinct messages, oldest first.
    async fn answer_waits(&self, run: RunKey, waits: &[OpenWait]) -> Result<Vec<WaitAnswer>>;
    /// Database time, microseconds since the Unix epoch.
    async fn now(&self) -> Result<i64>;

    /// Steps of this run have been running for long in this epoch; none: no longer. Cheap, and no more than a note: whoever reads it compares the epoch.
    async fn note_slow(&self, run: RunKey, epoch: i32, steps: &[SlowStep]) -> Result<()>;

    // -- reading and control ------------------------------------------------------------------------------------------------
    async fn find(&self, run: RunKey) -> Result<Option<RunDetail>>;
    async fn list(&self, filter: &RunFilter) -> Result<Vec<RunSummary>>;
    async fn steps(&self, run: RunKey, after: Option<&Position>, limit: i64) -> Result<Vec<StepView>>;
    /// Outcomes of the runs among these that are terminal or blocked (or not found).
    async fn outcomes(&self, runs: &[RunKey]) -> Result<Vec<(RunKey, WaitAnswer)>>;
    /// Of these (run, key) pairs the events that exist, the runs that have ended without, and those that are not there.
    async fn events(&self, wanted: &[(RunKey, String)]) -> Result<Vec<(RunKey, String, WaitAnswer)>>;
    /// Never started, or blocked: cancelled at once. Any other: epoch + 1, `Cancelling`, inbox + 1, `grace_ms` for clean-up; without an owner it is claimable.
    async fn cancel(&self, run: RunKey, by: &str, why: &str, grace_ms: i64) -> Result<ControlVerdict>;
    /// Children with policy cancel whose parent is this run and that are not terminal, a page.
    async fn open_children(&self, parent: RunKey, limit: i64) -> Result<Vec<RunKey>>;
    /// None of them is left: the timer that the parent's end has left for them may go.
    async fn children_closed(&self, parent: RunKey) -> Result<()>;
    /// Blocked or cancelled back to `Ready`, epoch + 1, crash count cleared.
    async fn resume(&self, run: RunKey, by: &str) -> Result<ControlVerdict>;
    /// Failed back to `Ready`: the failed step that ended the run, and what was called after it, are forgotten; with no such step, nothing is (`forget.rs`).
    async fn retry(&self, run: RunKey, by: &str) -> Result<ControlVerdict>;
    /// Forget the step at `to` and everything completed at or after it; back to `Ready`, epoch + 1, in any state.
    async fn rewind(&self, run: RunKey, to: &Position, new_effects: bool, by: &str) -> Result<ControlVerdict>;
    /// Blocked by a mismatch on another build than this: back to `Ready`, once per (run, build). Returns how many. One that is named after its launch
    /// (`LAUNCH`) never comes again: of those the last is remembered.
    async fn offer_blocked(&self, build: &str, workflows: &[String]) -> Result<i64>;
    /// Insert or update. `by_operator` false: an operator's earlier change wins.
    async fn put_queue(&self, queue: &Queue, by_operator: bool) -> Result<Queue>;
    /// An operator's pause, or its end; the rest of the row stands as it is. None: there is no such queue.
    async fn pause_queue(&self, name: &str, paused: bool) -> Result<Option<Queue>>;
    async fn queues(&self) -> Result<Vec<Queue>>;
    /// Write these routes: their workflows are known from now on.
    async fn announce(&self, routes: &[Route]) -> Result<()>;
    /// Workflows of this namespace that were announced or started, at most `MOST_NAMES`.
    async fn workflow_names(&self) -> Result<Vec<String>>;

    // -- transactional steps ------------------------------------------------------------------------------------------------
    /// The guard for a user's own transaction on their own driver: locks the run row (owner, epoch, state), inserts the step row.
    fn guard(&self, style: Placeholders, incarnation: Uuid, run: RunKey, epoch: i32, step: &StepWrite) -> GuardStatement;
    /// After a COMMIT of unknown outcome: begin; insert the same key on conflict do nothing; roll back.
    /// `Committed`: it is there with this token; `Adopt`: another's; `NotFound`: it is not there; `Fenced`: and may not be written again.
    async fn probe(&self, incarnation: Uuid, run: RunKey, epoch: i32, step: &StepWrite) -> Result<Verdict>;
    /// A transaction on the core's own connection (SQLite: on the writer, between batches).
    /// `site`: of the step this is; its row is there before the transaction begins.
    async fn begin(&self, site: &Site) -> Result<Box<dyn StoreTransaction>>;

    // -- hints --------------------------------------------------------------------------------------------------------------
    /// Wait for the next hints; returns when there are some. Cancel-safe. Reconnects by itself and says `Resync` when it did.
    async fn next_hints(&self) -> Vec<WakeHint>;
    /// Tell other processes. Never on the hot path: the engine coalesces.
    async fn hint(&self, hints: &[WakeHint]) -> Result<()>;
    /// Hints seem to be missing: make sure that the source still speaks.
    fn doubt_hints(&self);
    /// Let go of all connections.
    async fn close(&self);
}

/// What a user's transactional step runs its SQL on when there is no data source of its own.
#[async_trait]
pub trait StoreTransaction: Send {
    /// One statement; `$1..` on PostgreSQL, `?1..` or `?` on SQLite. Rows as (column names, values); affected rows for others.
    async fn execute(&mut self, sql: &str, params: &[SqlValue]) -> Result<SqlRows>;
    /// Fence, checkpoint, commit. Anything but `Committed` rolled back.
    async fn commit(self: Box<Self>, incarnation: Uuid, run: RunKey, epoch: i32, step: &StepWrite) -> Result<Verdict>;
    async fn rollback(self: Box<Self>);
}

#[derive(Debug, Clone, Default)]
pub struct SqlRows {
    pub columns: Vec<String>,
    pub rows: Vec<Vec<SqlValue>>,
    pub affected: u64,
}

/// Open the store a URL names. Connects nothing.
pub fn open(config: StoreConfig) -> Result<std::sync::Arc<dyn Store>> {
    match config.url.split(':').next() {
        Some("postgres" | "postgresql") => postgres::PostgresStore::open(config),
        Some("sqlite") => sqlite::SqliteStore::open(config),
        _ => Err(StoreError::Setup {
            code: "config_invalid",
            message: "The database URL must start with postgres://, postgresql:// or sqlite:. Set EVERSTEP_DATABASE_URL or pass database=.".into(),
        }),
    }
}

/// How a build is named that has no id of its own: by its launch.
pub(crate) const LAUNCH: &str = "launch ";

/// Who has asked for a cancel where nobody did: the run's deadline.
pub(crate) const BY_DEADLINE: &str = "deadline";
/// `error_type` of a run that was not started in time.
pub(crate) const EXPIRED: &str = "Expired";

/// `error_type` of a run that was cancelled, whoever ends it in the end. Like every `error_type` the name of an error class.
pub(crate) fn cancelled_type(by: &str) -> &'static str {
    if by == BY_DEADLINE { "DeadlinePassed" } else { "RunCancelled" }
}

/// What awaits the result of a cancelled run: who asked for it and why, either of which may be empty.
pub(crate) fn cancelled_value(by: &str, why: &str) -> Payload {
    let by = if by.is_empty() { String::new() } else { format!(" by {by}") };
    let why = if why.is_empty() { String::new() } else { format!(": {why}") };
    let message = format!("cancelled{by}{why}");
    let document = serde_json::json!({ "type": "RunCancelled", "code": "run_cancelled", "message": message, "stack": null, "cause": null, "details": null, "retryable": false });
    Payload::json(document.to_string().into_bytes())
}

/// The migrations as text, to be run by hand.
pub fn migration_sql(store: &str, schema: &str) -> Result<String> {
    match store {
        "postgres" => postgres::migration_sql(schema),
        "sqlite" => Ok(sqlite::migration_sql()),
        other => Err(StoreError::Setup { code: "config_invalid", message: format!("There is no store {other}; postgres and sqlite have migrations.") }),
    }
}
