//! What the database would not take, not even when asked again: a limit somebody configured, a privilege that is gone. Neither the run nor what waits
//! behind the record may be stuck with it.

use std::sync::Arc;

use super::exec::Exec;
use crate::engine::error::EngineError;
use crate::engine::{Engine, Outbox};
use crate::store::{Due, Write};

/// Before a run that its process could not run or end is tried again, there or elsewhere.
pub const AGAIN_MS: i64 = 1000;

impl Exec {
    /// The database takes no end of this run from here, or not a mark it has gone on from: it is tried again, here or elsewhere. Kept, it would be owned
    /// and executed by nobody, for its end is on its way and nothing else is taken from it.
    pub fn give_up_end(self: &Arc<Self>, engine: &Arc<Engine>, e: &EngineError, out: &mut Outbox) {
        let mut st = self.lock();
        engine.log(&self.client, "error", e.code.as_str(), &e.message, out);
        if st.stopped.is_some() {
            // Another is at it. Should the run still be ours after that, `reconcile` finds it.
            drop(st);
            return engine.forget(self);
        }
        let (run, epoch, inbox) = (self.run, st.epoch, st.inbox);
        // One that is to clean up cannot be released: it would be claimed again at once.
        let released = st.cancel.is_none();
        self.stop(&mut st, "released", &e.message, out);
        drop(st);
        engine.end_with(self, if released { Write::Release { run, epoch, inbox, due: Some(Due::After(AGAIN_MS)) } } else { Write::GiveBack { run, epoch } });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::by_hand::{ByHand, asked};
    use crate::engine::error::Result;
    use crate::protocol::errors::Code;
    use crate::protocol::ops::{event, kind};
    use crate::run::finish::Finished;
    use crate::store::{Payload, RunState, Verdict};

    fn refused() -> Result<Verdict> {
        Err(EngineError::new(Code::Unavailable, "refused by a configured limit"))
    }

    #[test]
    fn completions_do_not_wait_behind_a_record_the_database_would_not_take() {
        let h = ByHand::open(true);
        let exec = h.claim(|_| {});
        for (token, name) in [(1, "a"), (2, "b")] {
            exec.begin_step(&h.engine, asked("", token, kind::STEP, name), &mut Outbox::default()).unwrap();
        }
        for seq in [0, 1] {
            let done = Finished { branch: "", seq, attempt: 1, failed: false, output: b"1", retryable: false, stopped: false, token: 10 + seq as u64 };
            exec.finish_step(&h.engine, done, &mut Outbox::default());
        }
        h.answer(|write| match write {
            Write::Step { step, .. } if step.done == 0 => refused(),
            _ => Ok(Verdict::Committed),
        });
        assert_eq!(h.told().iter().map(|e| (e.token, e.kind & 0xff)).collect::<Vec<_>>(), [(10, event::FAILED), (11, event::COMPLETED)]);
    }

    #[test]
    fn a_run_whose_end_the_database_would_not_take_is_tried_again() {
        let h = ByHand::open(false);
        let slots = h.free_slots();
        let exec = h.claim(|_| {});
        exec.finish_run(&h.engine, 1, false, b"null", None, None, false, false, &mut Outbox::default());
        h.answer(|_| refused());
        assert!(matches!(h.commit()[..], [Write::Release { due: Some(Due::After(AGAIN_MS)), .. }]));
        assert_eq!(h.free_slots(), slots);
    }

    #[test]
    fn a_run_goes_on_from_what_is_recorded_when_a_mark_of_it_is_not() {
        let h = ByHand::open(false);
        let exec = h.claim(|_| {});
        assert!(exec.patch(&h.engine, "", "audit", "").unwrap());
        h.answer(|_| refused());
        assert!(matches!(h.commit()[..], [Write::Release { .. }]));
    }

    #[test]
    fn a_retry_whose_error_cannot_be_stored_fails_the_run() {
        let h = ByHand::open(false);
        let exec = h.claim(|_| {});
        let retry = Write::RetryRun { run: exec.run, epoch: 1, after_ms: 0, attempt: 1, token: 1, error: Payload::default() };
        exec.write_end(&h.engine, 1, retry);
        h.answer(|_| Ok(Verdict::Refused { message: "no".into() }));
        assert!(matches!(h.commit()[..], [Write::Outcome { state: RunState::Failed, children: true, .. }]));
        assert!(h.told().iter().any(|e| e.token == 1 && e.kind == event::COMPLETED));
    }
}
