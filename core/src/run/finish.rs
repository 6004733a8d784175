//! How calls end: records on their way to the database, their verdicts, retries, and what a refusal by the fence means.

use std::sync::Arc;

use super::begin::Recorded;
use super::exec::{Exec, ExecState, Phase};
use super::history::Place;
use super::{text, verdict};
use crate::engine::error::{EngineError, Result};
use crate::engine::{Engine, Outbox};
use crate::protocol::client::Event;
use crate::protocol::errors::Code;
use crate::protocol::ops::{event, kind};
use crate::store::{OwnedNow, Payload, RunState, StepWrite, Verdict, Write, cancelled_type, cancelled_value};

/// The arguments of `finish_step`.
pub struct Finished<'a> {
    pub branch: &'a str,
    pub seq: i32,
    pub attempt: i32,
    pub failed: bool,
    pub output: &'a [u8],
    pub retryable: bool,
    pub stopped: bool,
    pub token: u64,
}

impl Exec {
    pub fn finish_step(self: &Arc<Self>, engine: &Arc<Engine>, f: Finished<'_>, out: &mut Outbox) {
        let mut st = self.lock();
        if let Some(why) = st.stopped {
            return out.complete(&self.client, f.token, verdict::stopped(why));
        }
        let place = st.place(f.branch, f.seq);
        let Some(call) = st.calls.get_mut(&place).filter(|c| matches!(c.phase, Phase::Running | Phase::InTransaction { .. }) && c.attempt == f.attempt) else {
            // The attempt timed out and was recorded, or its branch was closed: this answer comes after the end.
            let why = if st.branch_closed(f.branch) { "branch_closed" } else { "superseded" };
            return out.complete(&self.client, f.token, verdict::stopped(why));
        };
        call.token = f.token;
        if call.kind == kind::TRANSACTION {
            // One the host did not close itself: it may have given up before it heard that it was open.
            engine.roll_back_of(self.id, &place);
        }
        if call.policy.timeout_ms.is_some() {
            engine.timers.forget_call(self.id, &place);
        }
        if let Phase::InTransaction { done, .. } = call.phase {
            call.phase = Phase::Running;
            self.give_up_number(&mut st, done, out);
        }
        if f.stopped {
            return self.finish_stopped(engine, &mut st, &place, out);
        }
        let Some(call) = st.calls.get_mut(&place) else { return };
        if f.failed && f.retryable && call.policy.again(call.attempt) && !call.policy.at_most_once {
            let retry_in = call.policy.back_off_ms(call.attempt, engine.random_unit());
            call.phase = Phase::Recording;
            let write = Write::Attempt {
                run: self.run,
                epoch: 0,
                at: self.position(&place),
                attempt: call.attempt,
                started: false,
                site: call.site.clone(),
                token: engine.random(),
                error: Payload::json(f.output.to_vec()),
                retry_in_ms: Some(retry_in),
            };
            let write = with_epoch(write, st.epoch);
            return self.write_attempt(engine, place, write, retry_in);
        }
        let recorded = if f.output.len() > engine.config.max_payload {
            let message = format!(
                "The output of step \"{}\" is {} bytes; the limit is {}. Keep large data elsewhere and return a reference.",
                call.site.name,
                f.output.len(),
                engine.config.max_payload
            );
            let document = text::error_document("PayloadTooLarge", Code::PayloadTooLarge, &message, false);
            Recorded { failed: true, output: Payload::json(document), host_bytes: false, effects: vec![] }
        } else {
            Recorded { failed: f.failed, output: Payload::json(f.output.to_vec()), host_bytes: true, effects: vec![] }
        };
        self.record(engine, &mut st, &place, recorded);
    }

    /// The host cut a step short: for a cancel this is where the workflow sees it; otherwise nothing is recorded.
    fn finish_stopped(self: &Arc<Self>, engine: &Arc<Engine>, st: &mut ExecState, place: &Place, out: &mut Outbox) {
        let Some(shielded) = st.calls.get(place).map(|c| c.shielded) else { return };
        if st.cancel.is_some() && !shielded {
            self.cancel_call(engine, st, place, out);
        } else if let Some(call) = st.calls.remove(place) {
            out.complete(&self.client, call.token, verdict::stopped("stopped"));
        }
        self.after_change(engine, st);
    }

    /// Put the call's record on its way; its verdict comes with the commit, in the order of completions.
    pub fn record(self: &Arc<Self>, engine: &Arc<Engine>, st: &mut ExecState, place: &Place, r: Recorded) {
        let done = st.take_done();
        let epoch = st.epoch;
        let Some(call) = st.calls.get_mut(place) else { return };
        if matches!(&call.phase, Phase::Waiting(wait) if wait.due_in_ms.is_some()) {
            engine.timers.forget_call(self.id, place);
        }
        call.phase = Phase::Recording;
        let step = StepWrite {
            at: self.position(place),
            kind: call.kind,
            site: call.site.clone(),
            digest: call.digest,
            failed: r.failed,
            done,
            seen: call.seen,
            attempt: call.attempt,
            took_us: call.started.elapsed().as_micros() as i64,
            token: engine.random(),
            output: r.output,
            effects: r.effects,
        };
        let write = Write::Step { run: self.run, epoch, step: Box::new(step) };
        self.write_step(engine, place.clone(), write, r.host_bytes);
    }

    fn write_step(self: &Arc<Self>, engine: &Arc<Engine>, place: Place, write: Write, host_bytes: bool) {
        let exec = self.clone();
        engine.write(self.lane, write, Box::new(move |engine, write, answer, out| exec.after_step(engine, place, write, answer, host_bytes, out)));
    }

    fn after_step(self: Arc<Self>, engine: &Arc<Engine>, place: Place, write: Write, answer: Result<Verdict>, host_bytes: bool, out: &mut Outbox) {
        let Write::Step { step, .. } = &write else { return };
        let mut st = self.lock();
        if st.stopped.is_some() {
            return;
        }
        match answer {
            Ok(Verdict::Committed) => {
                let value = step.output.value().filter(|_| !host_bytes);
                let frame = verdict::recorded(step.failed, value, place.1);
                self.complete(&mut st, &place, step.done, frame, out);
                if self.crashes > 0 {
                    engine.claims.clear_suspect(self.run);
                }
                if step.effects.iter().any(|effect| matches!(effect, crate::store::Effect::SetEvent { .. })) {
                    engine.event_set();
                }
                if step.kind == kind::RECEIVE {
                    self.look_at_waits(engine, &mut st);
                }
                self.after_change(engine, &mut st);
            }
            Ok(Verdict::Adopt(record)) => {
                let frame = super::begin::replayed(&record, place.1);
                self.complete(&mut st, &place, step.done, frame, out);
                self.after_change(engine, &mut st);
            }
            Ok(Verdict::NotFound) => {
                let document = text::error_document("RunNotFound", Code::RunNotFound, "There is no such run to send to.", false);
                self.rewrite_as_error(engine, place, write, document);
            }
            // The holder of its dedup key is awaited in the child's stead. It ends with its own parent, not with this run.
            Ok(Verdict::Attached { run: holder, workflow, .. }) if workflow == *step.site.name => {
                if let Write::Step { run, epoch, mut step } = write {
                    step.output = Payload::json(format!("\"{holder}\"").into_bytes());
                    step.effects.retain(|e| !matches!(e, crate::store::Effect::StartChild(_)));
                    self.write_step(engine, place, Write::Step { run, epoch, step }, false);
                }
            }
            // A child that cannot be started: what is recorded is why, so that replay sees the same. Asked again it would be refused again.
            Ok(refused @ (Verdict::Attached { .. } | Verdict::IdConflict { .. } | Verdict::Purged | Verdict::Deduplicated { .. })) => {
                let (kind, code, message) = text::child_refused(&step.site.name, &refused);
                let document = text::error_document(kind, code, &message, false);
                self.rewrite_as_error(engine, place, write, document);
            }
            Ok(Verdict::Refused { message }) => {
                if step.failed && !host_bytes {
                    let e = EngineError::new(Code::PayloadInvalid, message);
                    let token = st.calls.remove(&place).map_or(0, |c| c.token);
                    self.give_up_number(&mut st, step.done, out);
                    out.push(&self.client, Event { token, kind: event::FAILED, frame: e.frame() });
                    return;
                }
                let document = text::error_document("PayloadInvalid", Code::PayloadInvalid, &message, false);
                self.rewrite_as_error(engine, place, write, document);
            }
            Ok(_) => {
                drop(st);
                let exec = self.clone();
                engine.ask_owner(&self, Box::new(move |engine, epoch| exec.write_step(engine, place, with_epoch(write, epoch), host_bytes)));
            }
            Err(e) => {
                let token = st.calls.remove(&place).map_or(0, |c| c.token);
                out.push(&self.client, Event { token, kind: event::FAILED, frame: e.frame() });
                // Later completions stand behind it.
                self.give_up_number(&mut st, step.done, out);
            }
        }
    }

    /// The row itself was refused: what is recorded in its stead is the error, so that replay sees the same.
    fn rewrite_as_error(self: &Arc<Self>, engine: &Arc<Engine>, place: Place, write: Write, document: Vec<u8>) {
        if let Write::Step { run, epoch, mut step } = write {
            step.failed = true;
            step.output = Payload::json(document);
            step.effects.retain(|e| matches!(e, crate::store::Effect::CloseWait | crate::store::Effect::CloseWaitOf(_)));
            self.write_step(engine, place, Write::Step { run, epoch, step }, false);
        }
    }

    /// A failed attempt (then the back-off), or the mark of an at-most-once step (then it runs).
    pub fn write_attempt(self: &Arc<Self>, engine: &Arc<Engine>, place: Place, write: Write, back_off_ms: i64) {
        let exec = self.clone();
        engine.write(
            self.lane,
            write,
            Box::new(move |engine, write, answer, out| {
                let mut st = exec.lock();
                if st.stopped.is_some() {
                    return;
                }
                let started = matches!(&write, Write::Attempt { started: true, .. });
                let over = st.cancel.is_some() && st.calls.get(&place).is_some_and(|c| !c.shielded);
                match answer {
                    // The cancel came while the row was on its way: another attempt, or the first, would be work for nothing.
                    Ok(Verdict::Committed | Verdict::Adopt(_)) if over => {
                        exec.cancel_call(engine, &mut st, &place, out);
                        exec.after_change(engine, &mut st);
                    }
                    Ok(Verdict::Committed | Verdict::Adopt(_)) if started => {
                        let Some(call) = st.calls.get_mut(&place) else { return };
                        let token = call.token;
                        let frame = exec.run_frame(engine, call, &place);
                        out.complete(&exec.client, token, frame);
                    }
                    Ok(Verdict::Committed | Verdict::Adopt(_)) => {
                        if let Some(call) = st.calls.get_mut(&place) {
                            call.phase = Phase::BackOff;
                            call.attempt += 1;
                            engine.timers.after(back_off_ms, exec.id, &place, super::timers::Due::BackOff);
                        }
                        exec.after_change(engine, &mut st);
                    }
                    Ok(_) => {
                        drop(st);
                        let again = exec.clone();
                        engine.ask_owner(&exec, Box::new(move |engine, epoch| again.write_attempt(engine, place, with_epoch(write, epoch), back_off_ms)));
                    }
                    Err(e) => {
                        let token = st.calls.remove(&place).map_or(0, |c| c.token);
                        out.push(&exec.client, Event { token, kind: event::FAILED, frame: e.frame() });
                    }
                }
            }),
        );
    }

    /// Answers nobody waits for: a refusal still has to be looked into.
    pub fn after_quiet(self: &Arc<Self>, engine: &Arc<Engine>, write: Write, answer: Result<Verdict>, out: &mut Outbox) {
        if let Err(e) = &answer {
            // Not recorded, and the workflow has gone on as if it were: a replay would go another way.
            return self.give_up_end(engine, e, out);
        }
        if matches!(answer, Ok(Verdict::Fenced)) {
            let exec = self.clone();
            engine.ask_owner(
                self,
                Box::new(move |engine, epoch| {
                    let lane = exec.lane;
                    let again = exec.clone();
                    engine.write(lane, with_epoch(write, epoch), Box::new(move |engine, _, answer, out| again.stop_if_fenced(engine, answer, out)));
                }),
            );
        }
    }

    fn stop_if_fenced(&self, engine: &Arc<Engine>, answer: Result<Verdict>, out: &mut Outbox) {
        if matches!(answer, Ok(Verdict::Fenced)) {
            self.stop(&mut self.lock(), "fenced", "this run has another owner now", out);
            engine.forget(self);
        }
    }

    /// The run as the database has it, after a refusal or a hint. Still ours: the cancel that moved its epoch is taken up, and the
    /// refused write goes again under the new epoch. Another's: this execution ends.
    pub fn learn(self: &Arc<Self>, engine: &Arc<Engine>, now: Option<&OwnedNow>, out: &mut Outbox) -> Option<i32> {
        let mut st = self.lock();
        if st.stopped.is_some() {
            return None;
        }
        // Read before a cancel and heard after it: what is known here is newer.
        if now.is_some_and(|n| n.epoch < st.epoch) {
            return Some(st.epoch);
        }
        // A cancel moves the epoch by one and leaves the run to its owner. Any other move is another execution, of this process too: a run
        // that was rewound and claimed again here must not hear of what this one still does.
        let same = |n: &&OwnedNow| n.epoch == st.epoch || (n.state == RunState::Cancelling && n.epoch == st.epoch + 1);
        let Some(now) = now.filter(|n| n.mine && matches!(n.state, RunState::Running | RunState::Cancelling)).filter(same) else {
            self.stop(&mut st, "fenced", "this run has another owner now, or has ended", out);
            drop(st);
            engine.forget(self);
            return None;
        };
        st.epoch = now.epoch;
        let inbox_moved = st.inbox != now.inbox;
        st.inbox = now.inbox;
        if let (Some(cancel), None) = (&now.cancel, &st.cancel) {
            st.cancel = Some(cancel.clone());
            self.cancel_open_calls(engine, &mut st, out);
            self.after_change(engine, &mut st);
        }
        if inbox_moved {
            self.look_at_waits(engine, &mut st);
        }
        Some(now.epoch)
    }

    /// A cancel was requested: running steps get the signal; waits end here, and that is recorded.
    fn cancel_open_calls(self: &Arc<Self>, engine: &Arc<Engine>, st: &mut ExecState, out: &mut Outbox) {
        let Some(cancel) = st.cancel.clone() else { return };
        let mut w = crate::protocol::frame::Writer::new();
        w.str("cancel").str(&cancel.by).str(&cancel.why);
        self.tell(event::SIGNAL, w.finish(), out);
        let mut open: Vec<Place> = st
            .calls
            .iter()
            .filter(|(_, c)| !c.shielded && matches!(c.phase, Phase::Waiting(_) | Phase::BackOff | Phase::Deferred))
            .map(|(p, _)| p.clone())
            .collect();
        open.sort();
        for place in open {
            engine.timers.forget_call(self.id, &place);
            self.cancel_call(engine, st, &place, out);
        }
    }

    /// `finish_run`: the run's end, or the next attempt of the whole run.
    #[allow(clippy::too_many_arguments)]
    pub fn finish_run(
        self: &Arc<Self>,
        engine: &Arc<Engine>,
        token: u64,
        failed: bool,
        value: &[u8],
        error_type: Option<&str>,
        error_message: Option<&str>,
        retryable: bool,
        cancelled: bool,
        out: &mut Outbox,
    ) {
        let mut st = self.lock();
        if st.stopped.is_some() || st.finishing {
            return out.complete(&self.client, token, vec![]);
        }
        st.finishing = true;
        let mut value = Payload::json(value.to_vec());
        let (mut failed, mut error_type, mut error_message) = (failed, error_type.map(str::to_owned), error_message.map(text::short));
        if value.data.len() > engine.config.max_payload {
            let message = format!("The result of the run is {} bytes; the limit is {}.", value.data.len(), engine.config.max_payload);
            value = Payload::json(text::error_document("PayloadTooLarge", Code::PayloadTooLarge, &message, false));
            (failed, error_type, error_message) = (true, Some("PayloadTooLarge".into()), Some(message));
        }
        let state = match (cancelled || st.cancel.is_some(), failed) {
            (true, _) => RunState::Cancelled,
            (false, true) => RunState::Failed,
            (false, false) => RunState::Succeeded,
        };
        if let (RunState::Cancelled, Some(cancel)) = (state, &st.cancel) {
            error_message = Some(text::short(&cancel.why));
            value = cancelled_value(&cancel.by, &cancel.why);
            error_type = Some(cancelled_type(&cancel.by).into());
        }
        let token_row = engine.random();
        let write = if state == RunState::Failed && retryable && self.retry.again(self.run_attempt) && !self.retry.at_most_once {
            let after_ms = self.retry.back_off_ms(self.run_attempt, engine.random_unit());
            Write::RetryRun { run: self.run, epoch: st.epoch, after_ms, attempt: self.run_attempt, token: token_row, error: value }
        } else {
            let then = self.on_finish.as_ref().map(|workflow| Box::new(engine.finish_run_start(self, workflow, state, &value, st.epoch)));
            Write::Outcome { run: self.run, epoch: st.epoch, state, token: token_row, value, error_type, error_message, then, children: st.has_children }
        };
        drop(st);
        self.write_end(engine, token, write);
    }

    /// The engine ends the run itself: its host has not heard of it.
    pub fn end_unheard(self: &Arc<Self>, engine: &Arc<Engine>, write: Write) {
        self.lock().finishing = true;
        self.write_end(engine, 0, write);
    }

    pub fn write_end(self: &Arc<Self>, engine: &Arc<Engine>, token: u64, write: Write) {
        let exec = self.clone();
        engine.write(
            self.lane,
            write,
            Box::new(move |engine, write, answer, out| match answer {
                Ok(Verdict::Committed) => {
                    engine.run_ended(&exec, &write, out);
                    exec.answer_end(token, out);
                }
                Ok(Verdict::Refused { message }) => {
                    // What the user returned cannot be stored: the run fails with that, never silently. A retry does not say whether there are children.
                    let (Write::Outcome { token: row, .. } | Write::RetryRun { token: row, .. }) = write else { return };
                    let children = !matches!(write, Write::Outcome { children: false, .. });
                    let value = Payload::json(text::error_document("PayloadInvalid", Code::PayloadInvalid, &message, false));
                    let write = Write::Outcome {
                        run: exec.run,
                        epoch: exec.lock().epoch,
                        state: RunState::Failed,
                        token: row,
                        value,
                        error_type: Some("PayloadInvalid".into()),
                        error_message: Some(message),
                        then: None,
                        children,
                    };
                    exec.write_end(engine, token, write);
                }
                Ok(_) => {
                    let again = exec.clone();
                    exec.answer_end(token, out);
                    engine.ask_owner(
                        &exec,
                        Box::new(move |engine, epoch| {
                            let write = again.as_cancelled(engine, with_epoch(write, epoch));
                            again.write_end(engine, 0, write);
                        }),
                    );
                }
                Err(e) => {
                    out.push(&exec.client, Event { token, kind: event::FAILED, frame: e.frame() });
                    exec.give_up_end(engine, &e, out);
                }
            }),
        );
    }

    /// 0: nobody asked, or has been answered.
    fn answer_end(&self, token: u64, out: &mut Outbox) {
        if token != 0 {
            out.complete(&self.client, token, vec![]);
        }
    }

    /// A cancel that overtook the end decides it, in the words of the cancel, and what is to follow the run follows it all the same.
    pub fn as_cancelled(&self, engine: &Arc<Engine>, write: Write) -> Write {
        let Some(cancel) = self.lock().cancel.clone() else { return write };
        let (Write::Outcome { run, epoch, token, .. } | Write::RetryRun { run, epoch, token, .. }) = write else { return write };
        let value = cancelled_value(&cancel.by, &cancel.why);
        Write::Outcome {
            run,
            epoch,
            state: RunState::Cancelled,
            token,
            error_type: Some(cancelled_type(&cancel.by).into()),
            error_message: Some(text::short(&cancel.why)),
            then: self.on_finish.as_ref().map(|workflow| Box::new(engine.finish_run_start(self, workflow, RunState::Cancelled, &value, epoch))),
            value,
            // A retry does not say: the store looks.
            children: true,
        }
    }

    /// Slots follow what the run does: parked while everything waits.
    pub fn after_change(self: &Arc<Self>, engine: &Arc<Engine>, st: &mut ExecState) {
        if st.stopped.is_some() || st.finishing {
            // What it held is counted when it is forgotten. After that a look or a turn that was still under way may come here, and would take a slot
            // nobody gives back.
            return;
        }
        let waiting = st.all_waiting();
        if waiting != st.parked {
            st.parked = waiting;
            st.parked_since = waiting.then(std::time::Instant::now);
            if waiting {
                st.releasable = st.cancel.is_none() && st.earliest_due().is_some_and(|due| due.is_none_or(|ms| ms >= engine.config.release_after_ms));
            }
            engine.parked_changed(if waiting { 1 } else { -1 }, st.releasable);
            engine.slots_changed(self.client_id, if waiting { 1 } else { -1 });
            if waiting {
                engine.parked_in(&self.queue);
            }
            if waiting && self.is_struck(st) {
                engine.struck_parked();
            }
        }
        if waiting && !st.handed && !st.concurrent {
            engine.rehearse_release(self);
        }
    }

    /// The place of the run as a whole: no call ever stands there.
    pub fn whole(&self) -> Place {
        ("".into(), -1)
    }

    fn tell_timeout(&self, place: &Place, out: &mut Outbox) {
        let mut w = crate::protocol::frame::Writer::new();
        w.str("timeout").str(&place.0).int(place.1.into());
        self.tell(event::SIGNAL, w.finish(), out);
    }

    /// A timer of this execution is due.
    pub fn timer_due(self: &Arc<Self>, engine: &Arc<Engine>, place: &Place, due: &super::timers::Due, out: &mut Outbox) {
        let mut st = self.lock();
        if *place == self.whole() {
            // A step that runs as a job: its own attempt is the whole run.
            return self.tell_timeout(place, out);
        }
        let Some(call) = st.calls.get_mut(place) else { return };
        match (due, &call.phase) {
            (super::timers::Due::BackOff, Phase::BackOff) => {
                let token = call.token;
                let frame = self.run_frame(engine, call, place);
                self.after_change(engine, &mut st);
                out.complete(&self.client, token, frame);
            }
            (super::timers::Due::Timeout(attempt), Phase::Running | Phase::InTransaction { .. }) if call.attempt == *attempt => self.tell_timeout(place, out),
            (super::timers::Due::Wait, Phase::Waiting(_)) => self.wait_is_over(engine, &mut st, place),
            _ => {}
        }
    }
}

/// The same write for the execution's present epoch.
pub fn with_epoch(mut write: Write, now: i32) -> Write {
    match &mut write {
        Write::Step { epoch, .. } | Write::Attempt { epoch, .. } | Write::Wait { epoch, .. } | Write::Outcome { epoch, .. } | Write::RetryRun { epoch, .. } => {
            *epoch = now
        }
        Write::Release { epoch, .. } | Write::GiveBack { epoch, .. } | Write::Block { epoch, .. } => *epoch = now,
        Write::Start(_) | Write::Send(_) => {}
    }
    write
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::by_hand::{ByHand, asked, receive};

    #[test]
    fn an_execution_that_another_has_taken_over_gives_its_slot_back() {
        let h = ByHand::open(false);
        let slots = h.free_slots();
        let exec = h.claim(|_| {});
        exec.stop_if_fenced(&h.engine, Ok(Verdict::Fenced), &mut Outbox::default());
        assert_eq!(h.free_slots(), slots);
    }

    #[test]
    fn what_was_read_before_a_cancel_does_not_end_who_has_heard_of_it() {
        let h = ByHand::open(false);
        let exec = h.claim(|run| run.epoch = 2);
        let old = OwnedNow { key: exec.run, epoch: 1, mine: true, state: RunState::Running, inbox: 0, claim_token: 0, cancel: None };
        assert_eq!(exec.learn(&h.engine, Some(&old), &mut Outbox::default()), Some(2));
        assert_eq!(exec.learn(&h.engine, None, &mut Outbox::default()), None);
    }

    #[test]
    fn a_run_whose_last_step_was_cut_short_waits_without_a_slot() {
        let h = ByHand::open(false);
        let slots = h.free_slots();
        let exec = h.claim(|_| {});
        exec.begin_wait(&h.engine, asked("/0/0", 1, kind::RECEIVE, "a"), receive("a"), &mut Outbox::default()).unwrap();
        exec.begin_step(&h.engine, asked("/0/1", 2, kind::STEP, "s"), &mut Outbox::default()).unwrap();
        h.commit();
        assert_eq!(h.free_slots(), slots - 1);
        let cut = Finished { branch: "/0/1", seq: 0, attempt: 1, failed: true, output: b"", retryable: false, stopped: true, token: 3 };
        exec.finish_step(&h.engine, cut, &mut Outbox::default());
        assert_eq!(h.free_slots(), slots);
    }
}
