//! Domain types that cross the line between engine and store. The store returns these, never rows.

use std::sync::Arc;

use uuid::Uuid;

/// A run's key (`core/docs/protocol.md`, "Identity").
pub type RunKey = Uuid;

/// User data with the codec that wrote it. The engine never looks inside `data`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Payload {
    /// 0: no value at all; 1: JSON as `core/docs/payload.md` describes it.
    pub codec: i16,
    /// Encryption key id; null until a later release encrypts.
    pub key_id: Option<String>,
    pub data: Vec<u8>,
}

impl Payload {
    pub fn json(data: Vec<u8>) -> Self {
        Payload { codec: 1, key_id: None, data }
    }
}

/// Run states (`core/docs/states.md`). The number is what the tables hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(i16)]
pub enum RunState {
    /// Claimable now, or at the time of its `start`/`retry` timer.
    Ready = 1,
    /// Owned by a worker that executes it or keeps it parked in memory.
    Running = 2,
    /// Released: no owner, no memory; a timer or a wake brings it back to `Ready`.
    Waiting = 3,
    /// A cancel was requested and the owner cleans up.
    Cancelling = 4,
    /// Stopped by the engine (mismatch, poison); resumable.
    Blocked = 5,
    Succeeded = 6,
    Failed = 7,
    Cancelled = 8,
}

impl RunState {
    pub const ALL: [RunState; 8] = [
        RunState::Ready,
        RunState::Running,
        RunState::Waiting,
        RunState::Cancelling,
        RunState::Blocked,
        RunState::Succeeded,
        RunState::Failed,
        RunState::Cancelled,
    ];

    pub fn from_code(code: i16) -> Option<Self> {
        Self::ALL.into_iter().find(|s| *s as i16 == code)
    }

    pub fn name(self) -> &'static str {
        match self {
            RunState::Ready => "ready",
            RunState::Running => "running",
            RunState::Waiting => "waiting",
            RunState::Cancelling => "cancelling",
            RunState::Blocked => "blocked",
            RunState::Succeeded => "succeeded",
            RunState::Failed => "failed",
            RunState::Cancelled => "cancelled",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.name() == name)
    }

    pub fn is_terminal(self) -> bool {
        matches!(self, RunState::Succeeded | RunState::Failed | RunState::Cancelled)
    }
}

/// Where a call stands in its run: `seq` counts calls of one branch in program order.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Position {
    pub segment: i32,
    /// "" is the main branch; a child branch is `parent/seq/index` or `parent/seq/key`.
    pub branch: Arc<str>,
    pub seq: i32,
}

/// Name and call site, interned: `id` is a hash, so no round trip hands it out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    pub id: i64,
    pub name: Arc<str>,
    /// `file:line` of the call in the user's program, or empty.
    pub location: Arc<str>,
}

/// What the reader of `ready` looks for: one per (namespace, queue, workflow, label). `id` is a hash of the four.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Route {
    pub id: i64,
    /// "" when the run names no queue.
    pub queue: String,
    pub workflow: String,
    pub label: String,
}

/// A point in database time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// Milliseconds from the statement's own time.
    After(i64),
    /// Microseconds since the Unix epoch.
    At(i64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i16)]
pub enum ClosePolicy {
    Cancel = 1,
    Abandon = 2,
}

/// The parent of a child run.
#[derive(Debug, Clone)]
pub struct Parent {
    pub run: RunKey,
    pub root: RunKey,
    pub policy: ClosePolicy,
}

/// Q6: at most one run per key in the scope.
#[derive(Debug, Clone)]
pub struct Dedup {
    pub key: String,
    pub scope: DedupScope,
    pub policy: DedupPolicy,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DedupScope {
    /// Until a worker first claims the run.
    Queued,
    /// Until the run is terminal.
    UntilDone,
    /// For so many milliseconds from the start.
    Ttl(i64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DedupPolicy {
    /// The start answers with the run that holds the key.
    Attach,
    /// The start is an error.
    Reject,
    /// The holder, if it has not started, is cancelled and this run takes its place; else as `Reject`.
    Replace,
}

/// A run to insert.
#[derive(Debug, Clone)]
pub struct NewRun {
    pub key: RunKey,
    /// The user's own id, kept and compared on every conflict; None for an engine-made key.
    pub id_text: Option<String>,
    pub route: Route,
    pub version: Option<String>,
    /// Lower runs first; default 0. Woken and released runs go ahead of new work.
    pub priority: i32,
    pub start: Option<Due>,
    /// Not started by then: the run is cancelled with code `expired`.
    pub expires_ms: Option<i64>,
    pub deadline_ms: Option<i64>,
    pub input: Payload,
    pub parent: Option<Parent>,
    pub forked_from: Option<RunKey>,
    pub trace_parent: Option<String>,
    pub trace_state: Option<String>,
    /// A flat JSON object of strings, numbers and booleans, as text; None when there are none.
    pub attributes: Option<String>,
    pub fairness_key: Option<String>,
    pub cost: i32,
    pub created_by: Option<String>,
    pub dedup: Option<Dedup>,
    /// Opaque to the store: retry policy and on_finish of this run, as JSON text.
    pub options: Option<String>,
    /// `reuse = "purged"`: start even though a tombstone stands under the key.
    pub reuse_purged: bool,
    /// True: insert it as already claimed (state `Running`, epoch 1, owner of the batch, this claim token).
    /// False: insert it `Ready` (with a `ready` row, or a `start` timer when `start` is set).
    pub claimed: bool,
    /// Stored with the run in both cases; decides "was this insert mine" after an unknown outcome.
    pub claim_token: i64,
}

/// One recorded call.
#[derive(Debug, Clone)]
pub struct StepWrite {
    pub at: Position,
    pub kind: i16,
    pub site: Site,
    /// Digest of name and arguments, when there are arguments or a key.
    pub digest: Option<i64>,
    /// True: `output` is an error document.
    pub failed: bool,
    /// Order of completion in the run, from 0.
    pub done: i32,
    /// How many completions the run had been handed when this call was made.
    pub seen: i32,
    pub attempt: i32,
    /// Microseconds from first call to completion, by the worker's monotonic clock.
    pub took_us: i64,
    /// Client-made, random: tells "mine" from "another's" after an unknown outcome.
    pub token: i64,
    pub output: Payload,
    /// What commits with the row, and only if the row is new.
    pub effects: Vec<Effect>,
}

#[derive(Debug, Clone)]
pub enum Effect {
    /// Insert a message and wake its receiver.
    Send(NewMessage),
    /// Publish key/value on the own run (replacing an earlier value) and wake its waiters.
    SetEvent { key: String, value: Payload },
    /// Start a child run (never `claimed`) and record it in `child`.
    StartChild(Box<NewRun>),
    /// The message this receive took: marked consumed by this position.
    Consume { message: Uuid },
    /// Delete the `waiter` row of this position.
    CloseWait,
}

#[derive(Debug, Clone)]
pub struct NewMessage {
    pub to: RunKey,
    /// UUIDv7, or derived from (receiver, idempotency key): the same id is the same message.
    pub id: Uuid,
    /// Orders one sender's messages.
    pub ord: i64,
    pub topic: String,
    pub value: Payload,
    pub token: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i16)]
pub enum WaitKind {
    Sleep = 1,
    /// `key` is the topic.
    Receive = 2,
    /// `target` is the publishing run, `key` the event's key.
    Event = 3,
    /// `target` is the run whose end is awaited.
    Result = 4,
    /// A step's back-off: `due` only.
    Retry = 5,
}

/// One state change asked of the store. A batch commits as a whole; each write gets its own verdict.
#[derive(Debug, Clone)]
pub enum Write {
    Start(Box<NewRun>),
    Step {
        run: RunKey,
        epoch: i32,
        step: Box<StepWrite>,
    },
    /// A failed attempt before its back-off, or (`started`) the mark of an at-most-once step before it runs.
    Attempt {
        run: RunKey,
        epoch: i32,
        at: Position,
        attempt: i32,
        started: bool,
        site: Site,
        token: i64,
        error: Payload,
        retry_in_ms: Option<i64>,
    },
    /// Open a wait. Inserted while the target's run row is locked, so no wake-up is lost.
    Wait {
        run: RunKey,
        epoch: i32,
        at: Position,
        kind: WaitKind,
        due: Option<Due>,
        target: Option<RunKey>,
        key: String,
        site: Site,
    },
    /// The run's end. Frees its slot, timers, dedup key; wakes waiters on it. `cancel_children` is left to the engine (paged).
    Outcome {
        run: RunKey,
        epoch: i32,
        state: RunState,
        token: i64,
        value: Payload,
        error_type: Option<String>,
        error_message: Option<String>,
        then: Option<Box<NewRun>>,
    },
    /// Workflow-level retry: back to `Ready` after `after_ms`, the error kept as an attempt of position (segment, "", -1).
    RetryRun {
        run: RunKey,
        epoch: i32,
        after_ms: i64,
        attempt: i32,
        token: i64,
        error: Payload,
    },
    /// To `Waiting` if `inbox` still is what the run has; the timer is the earliest of `due`.
    Release {
        run: RunKey,
        epoch: i32,
        inbox: i32,
        due: Option<Due>,
    },
    /// Owned run back to `Ready` (drain, unknown workflow, capacity), ahead of new work.
    GiveBack {
        run: RunKey,
        epoch: i32,
    },
    /// To `Blocked`; `why` is a JSON document {code, message, build, ..}.
    Block {
        run: RunKey,
        epoch: i32,
        why: String,
    },
    /// A message from outside any run.
    Send(NewMessage),
}

#[derive(Debug, Clone)]
pub enum Verdict {
    /// Start: inserted now (or by an earlier try of the same token). `claimed` as stored.
    Started { claimed: bool },
    /// Start: the key exists, same workflow, same id text.
    Attached { run: RunKey, state: RunState, workflow: String },
    /// Start: the key exists under another workflow, or another text.
    IdConflict { workflow: String, id_text: Option<String> },
    /// Start: a tombstone stands under the key.
    Purged,
    /// Start: the dedup key is held and the policy says no.
    Deduplicated { run: RunKey },
    /// Step, Attempt, Outcome, RetryRun, Release, GiveBack, Block, Send: done, now or by an earlier try of the same token.
    Committed,
    /// Step: another row with another token stands at the position.
    Adopt(Box<StepRecord>),
    /// Wait: open. Milliseconds until due by the database's clock.
    Opened { due_in_ms: Option<i64> },
    /// Release: something woke the run first; look again.
    Changed { inbox: i32 },
    /// The fence refused it: nothing of this write was stored.
    Fenced,
    /// Send, Wait: there is no such run.
    NotFound,
    /// This row alone is refused by the database (22*, 23*, 54*); the text carries no payload.
    Refused { message: String },
}

/// A recorded call as read back.
#[derive(Debug, Clone)]
pub struct StepRecord {
    pub at: Position,
    pub kind: i16,
    pub site: Site,
    pub digest: Option<i64>,
    pub failed: bool,
    pub done: i32,
    pub seen: i32,
    pub attempt: i32,
    pub took_us: i64,
    pub token: i64,
    pub written_by: Uuid,
    pub epoch: i32,
    /// Microseconds since the Unix epoch, database time.
    pub recorded_at: i64,
    pub output: Payload,
}

#[derive(Debug, Clone)]
pub struct AttemptRecord {
    pub at: Position,
    pub attempt: i32,
    pub started: bool,
    /// Milliseconds until the next attempt may run, <= 0 when due; None when there is none.
    pub retry_in_ms: Option<i64>,
    pub written_by: Uuid,
    pub recorded_at: i64,
    pub error: Payload,
}

#[derive(Debug, Clone)]
pub struct OpenWait {
    pub at: Position,
    pub kind: WaitKind,
    pub due_in_ms: Option<i64>,
    /// Microseconds since the Unix epoch.
    pub due_at: Option<i64>,
    pub target: Option<RunKey>,
    pub key: String,
    pub site: Site,
}

#[derive(Debug, Clone)]
pub struct CancelRequest {
    pub by: String,
    pub why: String,
    /// Milliseconds left for clean-up.
    pub grace_left_ms: i64,
}

/// A run this worker now owns, with all it needs to go on.
#[derive(Debug, Clone)]
pub struct ClaimedRun {
    pub key: RunKey,
    pub epoch: i32,
    pub state: RunState,
    pub inbox: i32,
    pub segment: i32,
    pub id_text: Option<String>,
    pub route: Route,
    pub version: Option<String>,
    pub priority: i32,
    pub input: Payload,
    pub parent: Option<RunKey>,
    pub root: RunKey,
    pub trace_parent: Option<String>,
    pub attributes: Option<String>,
    pub created_by: Option<String>,
    pub options: Option<String>,
    /// Takeovers from a dead lease with nothing recorded since the one before.
    pub crashes: i32,
    /// How often the workflow as a whole was retried.
    pub run_attempt: i32,
    pub deadline_in_ms: Option<i64>,
    pub cancel: Option<CancelRequest>,
    /// First page, by (branch, seq); at most `HISTORY_PAGE` rows.
    pub steps: Vec<StepRecord>,
    pub more_steps: bool,
    pub attempts: Vec<AttemptRecord>,
    pub waits: Vec<OpenWait>,
}

/// Rows a page of history holds.
pub const HISTORY_PAGE: i64 = 1000;

/// What a queue is (Q1, Q2, Q4).
#[derive(Debug, Clone, PartialEq)]
pub struct Queue {
    pub name: String,
    pub paused: bool,
    /// Runs of this queue at one time, in the whole fleet.
    pub limit: Option<i32>,
    /// .. in one worker.
    pub worker_limit: Option<i32>,
    /// .. for one fairness key.
    pub key_limit: Option<i32>,
    /// A released run keeps its slot (the queue as a mutex).
    pub hold: bool,
    /// Reserved: (starts, per milliseconds).
    pub rate: Option<(i32, i64)>,
    /// True once an operator changed it: code no longer overwrites it.
    pub operator: bool,
}

/// How many runs of one route to claim at most.
#[derive(Debug, Clone)]
pub struct ClaimRequest {
    pub incarnation: Uuid,
    pub claim_token: i64,
    pub routes: Vec<Route>,
    /// Over all routes.
    pub max: i64,
    /// Owned and not parked now by this worker, by queue name: for `worker_limit`.
    pub held_by_queue: Vec<(String, i32)>,
}

#[derive(Debug, Clone)]
pub struct WorkerInfo {
    pub incarnation: Uuid,
    pub lanes: i16,
    pub lease_ms: i64,
    pub host: String,
    pub boot_id: String,
    pub pid_namespace: String,
    pub pid: i32,
    /// Clock ticks since boot, from /proc: with `pid`, names one process.
    pub process_start: i64,
    pub build: String,
    pub language: String,
    pub queues: Vec<String>,
    pub environment: String,
    pub protocol: i32,
    pub schema: i32,
}

/// A live lease of another worker on this host.
#[derive(Debug, Clone)]
pub struct Peer {
    pub incarnation: Uuid,
    pub boot_id: String,
    pub pid_namespace: String,
    pub pid: i32,
    pub process_start: i64,
}

#[derive(Debug, Clone)]
pub struct TickRequest {
    /// None: this process holds no lease now.
    pub incarnation: Option<Uuid>,
    pub lease_ms: i64,
    /// False while this process has itself been connected for less than one lease.
    pub may_reap: bool,
    /// Workers of this host whose process is gone: reaped whatever their lease says and `may_reap` is.
    pub known_dead: Vec<Uuid>,
    /// Rows one tick moves at most, of each sort.
    pub page: i64,
    /// A run with so many crashes without progress is blocked at takeover.
    pub max_crashes: i32,
    pub boot_id: String,
}

#[derive(Debug, Clone, Default)]
pub struct TickReport {
    /// The own lease stands (true when none was asked for).
    pub alive: bool,
    pub reaped: Vec<Uuid>,
    /// Runs of dead workers put back to `Ready` (or `Blocked`) in this tick.
    pub orphans: i64,
    /// Timers that fired in this tick.
    pub timers: i64,
    /// A page was full: tick again at once.
    pub more: bool,
    /// Something became claimable.
    pub ready: bool,
    /// Grows with every change of any queue.
    pub queue_version: i64,
    pub next_timer_ms: Option<i64>,
    /// Until the earliest lease of another worker runs out.
    pub next_lease_ms: Option<i64>,
    /// Live workers with the caller's `boot_id`, without the caller.
    pub peers: Vec<Peer>,
}

/// The present truth about a run a worker believes it owns.
#[derive(Debug, Clone)]
pub struct OwnedNow {
    pub key: RunKey,
    pub epoch: i32,
    pub mine: bool,
    pub state: RunState,
    pub inbox: i32,
    pub claim_token: i64,
    pub cancel: Option<CancelRequest>,
}

#[derive(Debug, Clone)]
pub struct Message {
    pub id: Uuid,
    pub topic: String,
    pub value: Payload,
}

/// What an open wait would get now.
#[derive(Debug, Clone)]
pub enum WaitAnswer {
    Nothing,
    Message(Message),
    Event(Payload),
    /// The awaited run is terminal.
    Result {
        state: RunState,
        value: Payload,
    },
    /// The awaited run is blocked: not an end, but worth saying.
    Blocked {
        why: String,
    },
    NotFound,
}

#[derive(Debug, Clone)]
pub struct RunSummary {
    pub key: RunKey,
    pub id_text: Option<String>,
    pub workflow: String,
    pub version: Option<String>,
    pub queue: String,
    pub label: String,
    pub state: RunState,
    pub epoch: i32,
    pub segment: i32,
    pub priority: i32,
    pub crashes: i32,
    pub run_attempt: i32,
    pub owner: Option<Uuid>,
    pub parent: Option<RunKey>,
    pub root: RunKey,
    pub forked_from: Option<RunKey>,
    pub attributes: Option<String>,
    pub fairness_key: Option<String>,
    pub cost: i32,
    pub created_by: Option<String>,
    pub trace_parent: Option<String>,
    pub trace_state: Option<String>,
    /// Microseconds since the Unix epoch, database time; so are the next four.
    pub created_at: i64,
    pub finished_at: Option<i64>,
    pub start_at: Option<i64>,
    pub deadline_at: Option<i64>,
    pub expires_at: Option<i64>,
    pub error_type: Option<String>,
    pub error_message: Option<String>,
    pub cancel_by: Option<String>,
    pub cancel_why: Option<String>,
    pub blocked_why: Option<String>,
}

#[derive(Debug, Clone)]
pub struct RunDetail {
    pub summary: RunSummary,
    pub input: Payload,
    pub outcome: Option<Payload>,
    pub waits: Vec<OpenWait>,
    pub attempts: Vec<AttemptRecord>,
    pub steps_recorded: i64,
    /// Of the owner, if it has one and its lease row stands.
    pub owner_host: Option<String>,
    pub owner_pid: Option<i32>,
    /// Live workers that registered a route for this workflow: None when unknown.
    pub messages_pending: i64,
}

#[derive(Debug, Clone, Default)]
pub struct RunFilter {
    pub states: Vec<RunState>,
    pub workflow: Option<String>,
    pub queue: Option<String>,
    pub parent: Option<RunKey>,
    /// Attribute name and its value as JSON text.
    pub attribute: Option<(String, String)>,
    pub created_from: Option<i64>,
    pub created_before: Option<i64>,
    /// Keyset: (created_at, key) of the last row of the page before; newest first.
    pub after: Option<(i64, RunKey)>,
    pub limit: i64,
}

#[derive(Debug, Clone)]
pub struct StepView {
    pub record: StepRecord,
    pub host: Option<String>,
    pub pid: Option<i32>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ControlVerdict {
    /// Took effect at once (cancelled, back to ready).
    Done,
    /// Recorded; the owner will see it.
    Requested,
    /// Nothing to do in this state.
    NotPossible(RunState),
    NotFound,
}

#[derive(Debug, Clone)]
pub struct SchemaState {
    /// None: our tables are not there.
    pub version: Option<i32>,
    pub min_compatible: i32,
    /// True when the database holds no tables at all outside system schemas.
    pub database_empty: bool,
}

#[derive(Debug, Clone)]
pub struct Identity {
    pub stored_environment: Option<String>,
    pub stored_identity: Option<String>,
    pub actual_identity: String,
}

/// Placeholder styles of the drivers a guard statement is written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placeholders {
    /// $1, $2: asyncpg, pg, pgx.
    Dollar,
    /// %s: psycopg.
    Percent,
    /// :p1, :p2: SQLAlchemy `text()`.
    Named,
    /// ?: JDBC, SQLite.
    Question,
}

/// One statement for the user's own transaction; every parameter is text (or null) and is cast in SQL.
/// It returns one row with one text column: `ok`, `recorded`, `fenced` or `other_database`.
#[derive(Debug, Clone)]
pub struct GuardStatement {
    pub sql: String,
    pub params: Vec<Option<String>>,
}

/// A hint that something may have changed; correctness never depends on one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WakeHint {
    /// Something became claimable.
    Ready,
    /// The inbox of a run owned by this incarnation moved, or a cancel was requested.
    Inbox(Uuid),
    /// A run ended or an event was published that somebody outside may await.
    Finished,
    /// Somebody awaits the ends of runs of other processes: tell `Finished` for the next 30 s.
    Awaiting,
    /// A queue changed, or a timer was set: tick.
    Queues,
    /// The source was interrupted: hints may have been missed.
    Resync,
}

/// A value a user's statement takes or returns on the engine's own connection.
#[derive(Debug, Clone, PartialEq)]
pub enum SqlValue {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    Bytes(Vec<u8>),
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `core/docs/states.md` draws the states once; this keeps the page and the code one thing.
    #[test]
    fn the_page_and_the_code_know_the_same_states() {
        let page = include_str!("../../docs/states.md");
        let cells = |line: &str| line.split('|').map(|c| c.trim().trim_matches('`').to_owned()).collect::<Vec<_>>();
        let mut numbered = Vec::new();
        let mut changes = 0;
        for row in page.lines().filter(|l| l.starts_with("| ")).map(cells) {
            if let Ok(number) = row[2].parse::<i16>() {
                numbered.push((row[1].clone(), number));
            } else if let Some(to) = RunState::from_name(&row[2]) {
                let from = RunState::from_name(&row[1]);
                assert!(from.is_some() || row[1] == "(new)", "{row:?}");
                assert!(!from.is_some_and(RunState::is_terminal) || to == RunState::Ready, "an ended state changes only by retry, resume or rewind: {row:?}");
                changes += 1;
            }
        }
        let code: Vec<(String, i16)> = RunState::ALL.iter().map(|s| (s.name().to_owned(), *s as i16)).collect();
        assert_eq!(numbered, code);
        assert!(changes > 15, "the table of changes was not read");
    }
}
