//! What a worker asks to be committed, and the verdict on each write.

use uuid::Uuid;

use super::claim::StepRecord;
use super::run::{Due, Payload, Position, RunKey, RunState, Site};
use super::start::NewRun;

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
    /// The wait at another place is over too: this is the record of a race that it has lost.
    CloseWaitOf(Position),
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
        /// It may have children: a timer is left for those that are to end with it.
        children: bool,
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
