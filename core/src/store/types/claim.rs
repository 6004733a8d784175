//! Claims: what a worker asks for, and a run with all it needs to go on.

use uuid::Uuid;

use super::run::{Payload, Position, Route, RunKey, RunState, Site};
use super::write::WaitKind;

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
    /// Rewinds that asked for new effects: what this run does from here on has keys of its own.
    pub new_effects: i32,
    /// Who was here before has started children, whatever is recorded of them now.
    pub has_children: bool,
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
    /// The run has ended without the event that was asked for.
    Ended,
    /// The awaited run is blocked: not an end, but worth saying.
    Blocked {
        why: String,
    },
    NotFound,
}
