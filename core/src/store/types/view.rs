//! What is shown to people, and what they ask for by hand.

use uuid::Uuid;

use super::claim::{AttemptRecord, OpenWait, StepRecord};
use super::run::{Payload, RunKey, RunState};

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

/// Names of workflows one look reads at most.
pub const MOST_NAMES: i64 = 10_000;

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
    /// As its owner has noted them: nothing of an owner before it.
    pub slow: Vec<SlowStep>,
    /// Of the owner, if it has one and its lease row stands.
    pub owner_host: Option<String>,
    pub owner_pid: Option<i32>,
    /// Live workers that registered a route for this workflow: None when unknown.
    pub messages_pending: i64,
}

/// A step that has been running for long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlowStep {
    pub name: String,
    pub location: String,
    pub running_ms: i64,
}

impl SlowStep {
    /// As both stores keep them.
    pub(crate) fn text(steps: &[SlowStep]) -> Option<String> {
        let rows: Vec<_> = steps.iter().map(|step| (&step.name, &step.location, step.running_ms)).collect();
        if rows.is_empty() { None } else { serde_json::to_string(&rows).ok() }
    }

    /// `since_ms`: how long ago that was written.
    pub(crate) fn read(text: Option<&str>, since_ms: Option<i64>) -> Vec<SlowStep> {
        let rows: Vec<(String, String, i64)> = text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        rows.into_iter().map(|(name, location, ms)| SlowStep { name, location, running_ms: ms.saturating_add(since_ms.unwrap_or(0)) }).collect()
    }
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
