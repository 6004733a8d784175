//! What a start asks for.

use super::run::{Due, Payload, Route, RunKey};

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
