//! Records of the border (`core/ops.toml`): RUN, STEP, QUEUE as positional lists.

use super::awaiters::blocked_text;
use crate::protocol::frame::Writer;
use crate::run::text::kind_name;
use crate::store::{OpenWait, Queue, RunDetail, RunState, RunSummary, StepView, WaitKind};

/// What goes into a RUN besides its summary.
#[derive(Default)]
pub struct RunExtras<'a> {
    pub detail: Option<&'a RunDetail>,
    pub waits_for: Vec<String>,
}

pub fn run(w: &mut Writer, s: &RunSummary, x: &RunExtras<'_>) {
    let detail = x.detail;
    w.list(37);
    w.str(&s.key.to_string()).opt_str(s.id_text.as_deref()).str(&s.workflow).opt_str(s.version.as_deref());
    w.opt_str((!s.queue.is_empty()).then_some(s.queue.as_str())).opt_str((!s.label.is_empty()).then_some(s.label.as_str()));
    w.str(s.state.name()).int(s.epoch.into()).int(s.priority.into()).int(s.crashes.into()).int(s.run_attempt.into());
    w.opt_str(s.owner.map(|o| o.to_string()).as_deref());
    w.opt_str(detail.and_then(|d| d.owner_host.as_deref())).opt_int(detail.and_then(|d| d.owner_pid).map(i64::from));
    w.opt_str(s.parent.map(|p| p.to_string()).as_deref()).str(&s.root.to_string()).opt_str(s.forked_from.map(|p| p.to_string()).as_deref());
    w.opt_str(s.attributes.as_deref()).opt_str(s.fairness_key.as_deref()).int(s.cost.into()).opt_str(s.created_by.as_deref());
    w.int(s.created_at).opt_int(s.finished_at).opt_int(s.start_at).opt_int(s.deadline_at).opt_int(s.expires_at);
    w.opt_str(s.error_type.as_deref()).opt_str(s.error_message.as_deref()).opt_str(s.cancel_by.as_deref()).opt_str(s.cancel_why.as_deref());
    w.opt_str(s.blocked_why.as_deref().map(blocked_text).as_deref());
    w.list(x.waits_for.len());
    for line in &x.waits_for {
        w.str(line);
    }
    w.int(detail.map_or(0, |d| d.steps_recorded));
    w.opt_bytes(detail.and_then(|d| d.input.value()));
    w.opt_bytes(detail.and_then(|d| d.outcome.as_ref()?.value()));
    w.opt_str(s.trace_parent.as_deref()).opt_str(s.trace_state.as_deref());
}

pub fn step(w: &mut Writer, v: &StepView) {
    let r = &v.record;
    w.list(16);
    w.str(&r.at.branch).int(r.at.seq.into()).int(r.at.segment.into()).str(kind_name(r.kind)).str(&r.site.name).str(&r.site.location);
    w.bool(r.failed).int(r.attempt.into()).int(r.done.into()).int(r.took_us).int(r.recorded_at).str(&r.written_by.to_string());
    w.opt_str(v.host.as_deref()).opt_int(v.pid.map(i64::from));
    w.opt_bytes(r.output.value()).int(r.epoch.into());
}

pub fn queue(w: &mut Writer, q: &Queue) {
    w.list(6)
        .str(&q.name)
        .bool(q.paused)
        .opt_int(q.limit.map(i64::from))
        .opt_int(q.worker_limit.map(i64::from))
        .opt_int(q.key_limit.map(i64::from))
        .bool(q.hold);
}

fn in_words(ms: i64) -> String {
    match ms {
        ..=0 => "due now".into(),
        1..=999 => format!("in {ms} ms"),
        1000..=119_999 => format!("in {} s", ms / 1000),
        120_000..=7_199_999 => format!("in {} min", ms / 60_000),
        _ => format!("in {} h", ms / 3_600_000),
    }
}

fn wait_line(w: &OpenWait) -> String {
    let due = w.due_in_ms.map(in_words);
    let until = due.as_ref().map_or(String::new(), |d| format!(", gives up {d}"));
    match w.kind {
        WaitKind::Sleep => format!("sleeps, wakes {}", due.unwrap_or_else(|| "when told".into())),
        WaitKind::Receive => format!("waits for a message on topic \"{}\"{until}", w.key),
        WaitKind::Event => format!("waits for event \"{}\" of run {}{until}", w.key, w.target.unwrap_or_default()),
        WaitKind::Result => format!("waits for the end of run {}{until}", w.target.unwrap_or_default()),
        WaitKind::Retry => format!("next attempt {}", due.unwrap_or_else(|| "soon".into())),
    }
}

/// Why a run is where it is, a line each: the core of `explain`.
/// `now_us`: microseconds since the epoch.
pub fn waits_for(d: &RunDetail, held_here: Option<&str>, known_here: bool, queue: Option<&Queue>, now_us: i64) -> Vec<String> {
    let s = &d.summary;
    let mut lines: Vec<String> = Vec::new();
    match s.state {
        RunState::Ready => {
            if let Some(at) = s.start_at.filter(|at| s.epoch == 0 && *at > now_us) {
                lines.push(format!("ready; not before its start, {}", in_words((at - now_us) / 1000)));
            } else if queue.is_some_and(|q| q.paused) {
                lines.push(format!("ready; queue \"{}\" is paused", s.queue));
            } else if let Some(limit) = queue.and_then(|q| q.limit) {
                lines.push(format!("ready; waits for a slot of queue \"{}\" (limit {limit}) on a worker that knows workflow \"{}\"", s.queue, s.workflow));
            } else if known_here {
                lines.push("ready; waits for a free worker slot".into());
            } else {
                lines.push(format!("ready; waits for a worker that knows workflow \"{}\" (this process does not)", s.workflow));
            }
            if let Some(why) = held_here {
                lines.push(format!("this process claims nothing: {why}"));
            }
        }
        RunState::Running | RunState::Cancelling => {
            let on = d.owner_host.as_deref().map_or(String::new(), |h| format!(" on {h}, process {}", d.owner_pid.unwrap_or(0)));
            let next = d.attempts.iter().filter_map(|a| a.retry_in_ms).filter(|ms| *ms > 0).min();
            if s.state == RunState::Cancelling {
                lines.push(format!("cleans up after a cancel{on}"));
            } else if d.waits.is_empty() {
                lines.push(format!("executes{on}"));
            }
            if let Some(ms) = next {
                lines.push(format!("a failed step runs again {}", in_words(ms)));
            }
        }
        RunState::Blocked => lines.push(s.blocked_why.as_deref().map_or_else(|| "blocked".into(), blocked_text)),
        RunState::Waiting | RunState::Succeeded | RunState::Failed | RunState::Cancelled => {}
    }
    if !s.state.is_terminal() {
        lines.extend(d.waits.iter().map(wait_line));
    }
    lines
}
