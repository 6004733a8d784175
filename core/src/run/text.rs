//! What the engine says about runs and steps: names, places and call sites, never a payload.

use super::exec::Exec;
use super::history::Place;
use crate::protocol::errors::Code;
use crate::protocol::ops::kind;
use crate::store::{Site, StepRecord, Verdict};

pub fn kind_name(k: i16) -> &'static str {
    match k {
        kind::STEP => "step",
        kind::TRANSACTION => "transaction",
        kind::SLEEP => "sleep",
        kind::RECEIVE => "receive",
        kind::SEND => "send",
        kind::EVENT_SET => "event_set",
        kind::EVENT => "event",
        kind::CHILD => "child",
        kind::RESULT => "result",
        kind::VALUE => "value",
        kind::PATCH => "patch",
        kind::GROUP => "group",
        kind::CANCEL_SEEN => "cancel_seen",
        _ => "unknown",
    }
}

pub fn place(p: &Place) -> String {
    if p.0.is_empty() { format!("position {}", p.1) } else { format!("position {}#{}", p.0, p.1) }
}

fn call(k: i16, name: &str, location: &str) -> String {
    let at = if location.is_empty() { String::new() } else { format!(" ({location})") };
    format!("{} \"{name}\"{at}", kind_name(k))
}

/// `recorded`: kind and site of the call that stands there.
pub fn mismatch(exec: &Exec, at: &Place, k: i16, name: &str, location: &str, recorded: (i16, &Site)) -> String {
    format!(
        "Run {} of workflow \"{}\" is blocked at {}: recorded here is {}, but the code now asks for {}. The workflow's code changed, or its order depends on something \
         that is not recorded (a set, a map, the clock). Deploy code that makes the same calls (app.patch marks a change under running workflows) or roll back, and the run \
         goes on by itself; or rewind it to before this position.",
        exec.run,
        exec.workflow,
        place(at),
        call(recorded.0, &recorded.1.name, &recorded.1.location),
        call(k, name, location)
    )
}

pub fn reordered(exec: &Exec, at: &Place, name: &str, location: &str, other: &StepRecord) -> String {
    format!(
        "Run {} of workflow \"{}\" is blocked at {}: the arguments of {} are recorded at position {}{}, so the calls come in another order than the first time. \
         Iterate in a fixed order (sort sets and maps) or give each call a key, deploy, and the run goes on by itself.",
        exec.run,
        exec.workflow,
        place(at),
        call(kind::STEP, name, location),
        if other.at.branch.is_empty() { String::new() } else { format!("{}#", other.at.branch) },
        other.at.seq
    )
}

pub fn drifted(exec: &Exec, at: &Place, name: &str, location: &str, record: &StepRecord) -> String {
    format!(
        "Run {}: on replay {} at {} got other arguments than recorded (first called at {}). The recorded result stands. An argument depends on something that is not \
         recorded: a clock, a random value, a changed constant.",
        exec.run,
        call(kind::STEP, name, location),
        place(at),
        if record.site.location.is_empty() { "an unknown place" } else { &record.site.location }
    )
}

pub fn ambiguous(name: &str, location: &str) -> String {
    format!(
        "Two calls of {} are in flight in one branch without arguments or key, so a replay could not tell their results apart. Pass a key to each, or use all, any, race or map.",
        call(kind::STEP, name, location)
    )
}

/// Type, code and message for a child whose start the store refused.
pub fn child_refused(workflow: &str, why: &Verdict) -> (&'static str, Code, String) {
    match why {
        Verdict::Deduplicated { run } => ("RunDeduplicated", Code::RunDeduplicated, format!("Run {run} holds the dedup key of this child.")),
        Verdict::Attached { run, workflow: held, .. } => (
            "IdConflict",
            Code::IdConflict,
            format!("Run {run} holds the dedup key of this child and is of workflow \"{held}\", not \"{workflow}\". Use another key."),
        ),
        Verdict::Purged => (
            "RunPurged",
            Code::RunPurged,
            "A run with the id of this child existed and was removed by retention. Start it again only with the option reuse_purged.".into(),
        ),
        Verdict::IdConflict { workflow: held, .. } => (
            "IdConflict",
            Code::IdConflict,
            format!("A run with the id of this child exists and is of workflow \"{held}\", not \"{workflow}\". Use another id."),
        ),
        _ => ("RunNotFound", Code::RunNotFound, "The child could not be started.".into()),
    }
}

/// `what`: whose value it is.
pub fn unknown_codec(what: &str, codec: i16) -> String {
    format!("{what} was written by codec {codec}, which this process does not know. Upgrade this process.")
}

pub fn interrupted(name: &str) -> String {
    format!("The at-most-once step \"{name}\" was cut short by a crash. It may or may not have had its effect; it will not run again.")
}

/// An error document (`core/docs/payload.md`) the engine itself makes.
pub fn error_document(kind: &str, code: Code, message: &str, retryable: bool) -> Vec<u8> {
    serde_json::json!({ "type": kind, "code": code.as_str(), "message": message, "stack": null, "cause": null, "details": null, "retryable": retryable })
        .to_string()
        .into_bytes()
}

/// For columns that lists show.
pub fn short(message: &str) -> String {
    message.chars().filter(|c| *c != '\0').take(500).collect()
}
