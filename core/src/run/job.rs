//! A step that runs as a job of its own: its attempt is the whole run.

use std::sync::Arc;

use super::exec::Exec;
use super::finish::with_epoch;
use super::text;
use super::timers::Due;
use crate::engine::{Engine, Outbox};
use crate::protocol::errors::Code;
use crate::protocol::ops::event;
use crate::store::{Payload, RunState, Verdict, Write};

impl Exec {
    /// Hand the job to its host. One that runs at most once is marked first, as such a step of a workflow is; one that was marked before and has no outcome was
    /// cut short, and ends with that.
    pub fn begin_job(self: &Arc<Self>, engine: &Arc<Engine>, frame: Vec<u8>, out: &mut Outbox) {
        let st = self.lock();
        let (epoch, cancelled) = (st.epoch, st.cancel.is_some());
        let cut_short = st.attempts.get(&self.whole()).is_some_and(|a| a.started);
        drop(st);
        if cancelled || (cut_short && self.retry.at_most_once) {
            return self.end_before_it_begins(engine, epoch);
        }
        if !self.retry.at_most_once {
            return self.run_job(engine, frame, out);
        }
        let mark = Write::Attempt {
            run: self.run,
            epoch,
            at: self.position(&self.whole()),
            attempt: self.run_attempt,
            started: true,
            site: engine.site(&self.workflow, ""),
            token: engine.random(),
            error: Payload::default(),
            retry_in_ms: None,
        };
        self.mark_job(engine, mark, frame);
    }

    /// Asked to cancel, or cut short where it may not begin again: it ends here, and its function is not called.
    fn end_before_it_begins(self: &Arc<Self>, engine: &Arc<Engine>, epoch: i32) {
        let message = text::interrupted(&self.workflow);
        let value = Payload::json(text::error_document("StepInterrupted", Code::StepInterrupted, &message, false));
        let write = Write::Outcome {
            run: self.run,
            epoch,
            state: RunState::Failed,
            token: engine.random(),
            then: self.on_finish.as_ref().map(|workflow| Box::new(engine.finish_run_start(self, workflow, RunState::Failed, &value, epoch))),
            value,
            error_type: Some("StepInterrupted".into()),
            error_message: Some(message),
            children: false,
        };
        let write = self.as_cancelled(engine, write);
        self.end_unheard(engine, write);
    }

    fn mark_job(self: &Arc<Self>, engine: &Arc<Engine>, mark: Write, frame: Vec<u8>) {
        let exec = self.clone();
        engine.write(
            self.lane,
            mark,
            Box::new(move |engine, mark, answer, out| {
                let (stopped, cancelled, epoch) = {
                    let st = exec.lock();
                    (st.stopped.is_some(), st.cancel.is_some(), st.epoch)
                };
                if stopped {
                    return;
                }
                match answer {
                    Ok(Verdict::Committed | Verdict::Adopt(_)) if cancelled => exec.end_before_it_begins(engine, epoch),
                    Ok(Verdict::Committed | Verdict::Adopt(_)) => exec.run_job(engine, frame, out),
                    Ok(_) => {
                        let again = exec.clone();
                        engine.ask_owner(&exec, Box::new(move |engine, epoch| again.mark_job(engine, with_epoch(mark, epoch), frame)));
                    }
                    Err(e) => {
                        engine.log_all("warning", e.code.as_str(), &e.message);
                        let mut st = exec.lock();
                        exec.stop(&mut st, "fenced", "this run could not be marked as begun; it is given back", out);
                        let write = Write::GiveBack { run: exec.run, epoch: st.epoch };
                        drop(st);
                        engine.end_with(&exec, write);
                    }
                }
            }),
        );
    }

    fn run_job(self: &Arc<Self>, engine: &Arc<Engine>, frame: Vec<u8>, out: &mut Outbox) {
        self.tell(event::RUN_READY, frame, out);
        if let Some(ms) = self.retry.timeout_ms {
            engine.timers.after(ms, self.id, &self.whole(), Due::Timeout(self.run_attempt));
        }
    }
}
