//! `begin_*`: where a call stands, whether it is recorded, and what the host is to do next. In memory; never waits.

use std::sync::Arc;
use std::time::Instant;

use super::exec::{Call, Exec, ExecState, Phase};
use super::history::Place;
use super::retry::RetryPolicy;
use super::{text, verdict};
use crate::engine::error::{EngineError, Result};
use crate::engine::{Engine, Outbox};
use crate::protocol::errors::Code;
use crate::protocol::ops::{flag, kind};
use crate::store::{Effect, Payload, Position, Site, StepRecord, StepWrite, Write};

/// What every `begin_*` says about its call.
pub struct Asked<'a> {
    pub branch: &'a str,
    pub token: u64,
    pub flags: i64,
    pub kind: i16,
    pub name: &'a str,
    pub location: &'a str,
    pub digest: Option<i64>,
    pub policy: RetryPolicy,
}

pub enum Entered {
    /// Nothing more to do here.
    Answer(Vec<u8>),
    /// New: the call is in `st.calls` in phase `Opening`.
    Live(Place),
}

pub fn replayed(record: &StepRecord, seq: i32) -> Vec<u8> {
    let value = record.output.value();
    verdict::recorded(record.failed, value, seq)
}

impl Exec {
    /// Give the call its place and look whether it is recorded.
    pub fn enter(self: &Arc<Self>, engine: &Arc<Engine>, st: &mut ExecState, asked: Asked<'_>, out: &mut Outbox) -> Result<Entered> {
        if let Some(why) = st.stopped {
            return Ok(Entered::Answer(verdict::stopped(why)));
        }
        if st.finishing {
            return Ok(Entered::Answer(verdict::stopped("finished")));
        }
        if st.branch_closed(asked.branch) {
            return Ok(Entered::Answer(verdict::stopped("branch_closed")));
        }
        let place = st.next_place(asked.branch);
        st.handed = false;
        st.concurrent |= !asked.branch.is_empty() || !st.calls.is_empty() || st.history.anyone_waiting();
        let shielded = asked.flags & flag::SHIELDED != 0;
        let site = engine.site(asked.name, asked.location);
        if st.history.get(&place).is_some() {
            return self.enter_recorded(engine, st, &asked, place, &site, out);
        }
        let cancelled = st.cancel.is_some() && !shielded;
        if cancelled && (!self.client.ordered || st.alone()) {
            let answer = st.cancelled();
            let effects = st.forget_open_wait(&place);
            self.note_cancel(engine, st, &place, site, &effects, out);
            return Ok(Entered::Answer(answer));
        }
        if let Some(message) = self.other_than_open_wait(st, &place, &asked) {
            return Err(self.block(engine, st, Code::Mismatch, message, out));
        }
        engine.history_replayed(self);
        let named = matches!(asked.kind, kind::STEP | kind::TRANSACTION);
        let in_flight = |st: &ExecState| {
            let live = st.calls.iter().any(|(p, c)| p.0 == place.0 && *c.site.name == *asked.name && c.digest.is_none());
            // A recorded call whose completion has not had its turn is in flight as it was the first time: what was refused then is refused now.
            live || st.history.waits_undigested(&place.0, asked.name)
        };
        if named && asked.digest.is_none() && in_flight(st) {
            return Err(EngineError::new(Code::AmbiguousStep, text::ambiguous(asked.name, asked.location)));
        }
        let call = Call {
            token: asked.token,
            kind: asked.kind,
            site,
            digest: asked.digest,
            started: Instant::now(),
            seen: st.seen(),
            attempt: st.attempts.get(&place).map_or(1, |a| a.failed + 1),
            policy: asked.policy,
            shielded,
            phase: Phase::Opening,
        };
        // A race is not a wait: what is called in its branches meets the cancel, in its turn.
        if cancelled && asked.kind != kind::GROUP {
            // The first time it was seen behind everything recorded, and clean-up followed: here it waits for the turns of all that.
            let replaying = st.history.replaying();
            st.calls.insert(place.clone(), Call { phase: Phase::Deferred, ..call });
            if !replaying {
                self.cancel_call(engine, st, &place, out);
            }
            return Ok(Entered::Answer(verdict::pending(replaying, place.1)));
        }
        if let Some(digest) = asked.digest.filter(|_| named)
            && let Some(other) = st.history.elsewhere(digest, &place)
        {
            if !self.client.ordered {
                let message = text::reordered(self, &place, asked.name, asked.location, other);
                return Err(self.block(engine, st, Code::Reordered, message, out));
            }
            // In a loop's world the call that owns that record may still come in this turn (two equal calls at once, one of them
            // cut short by a crash). Judged when everything runnable has run.
            st.calls.insert(place.clone(), Call { phase: Phase::Deferred, ..call });
            return Ok(Entered::Answer(verdict::pending(true, place.1)));
        }
        st.calls.insert(place.clone(), call);
        Ok(Entered::Live(place))
    }

    fn enter_recorded(
        self: &Arc<Self>,
        engine: &Arc<Engine>,
        st: &mut ExecState,
        asked: &Asked<'_>,
        place: Place,
        site: &Site,
        out: &mut Outbox,
    ) -> Result<Entered> {
        let record = st.history.get(&place).ok_or_else(|| EngineError::plain(Code::Internal))?;
        if record.kind == kind::CANCEL_SEEN && (!self.client.ordered || asked.kind == kind::GROUP) {
            st.history.take(&place);
            return Ok(Entered::Answer(st.cancelled()));
        }
        if record.kind == kind::CANCEL_SEEN {
            st.history.wait(place.clone(), asked.token);
            return Ok(Entered::Answer(verdict::pending(true, place.1)));
        }
        if !(1..=kind::CANCEL_SEEN).contains(&record.kind) {
            let message = format!(
                "Run {} holds a record of kind {} at {}, which this library does not know. Upgrade this process.",
                self.run,
                record.kind,
                text::place(&place)
            );
            return Err(self.block(engine, st, Code::NewerEngineNeeded, message, out));
        }
        if !record.output.is_known() {
            let message = text::unknown_codec(&format!("What run {} recorded at {}", self.run, text::place(&place)), record.output.codec);
            return Err(self.block(engine, st, Code::PayloadCodec, message, out));
        }
        // A name the database has lost is unknown, not another: the digest still speaks.
        let renamed = !record.site.name.is_empty() && *record.site.name != *asked.name;
        if record.kind != asked.kind || renamed {
            let message = text::mismatch(self, &place, asked.kind, asked.name, asked.location, (record.kind, &record.site));
            return Err(self.block(engine, st, Code::Mismatch, message, out));
        }
        if let (Some(asked_digest), Some(recorded)) = (asked.digest, record.digest)
            && asked_digest != recorded
        {
            if let Some(other) = st.history.elsewhere(asked_digest, &place) {
                let message = text::reordered(self, &place, asked.name, asked.location, other);
                return Err(self.block(engine, st, Code::Reordered, message, out));
            }
            if !st.drift_warned {
                let message = text::drifted(self, &place, asked.name, asked.location, record);
                st.drift_warned = true;
                engine.log(&self.client, "warning", "argument_drift", &message, out);
            }
        }
        debug_assert_eq!(record.site.id == site.id, record.site == *site);
        if self.client.ordered && asked.kind != kind::GROUP {
            st.history.wait(place.clone(), asked.token);
            return Ok(Entered::Answer(verdict::pending(true, place.1)));
        }
        let record = st.history.take(&place).ok_or_else(|| EngineError::plain(Code::Internal))?;
        Ok(Entered::Answer(replayed(&record, place.1)))
    }

    pub fn begin_step(self: &Arc<Self>, engine: &Arc<Engine>, asked: Asked<'_>, out: &mut Outbox) -> Result<Vec<u8>> {
        let mut st = self.lock();
        match self.enter(engine, &mut st, asked, out)? {
            Entered::Answer(frame) => Ok(frame),
            Entered::Live(place) => {
                let stopped = self.replay_first(engine, &mut st, &place, out);
                Ok(stopped.or_else(|| self.start_call(engine, &mut st, &place)).unwrap_or_else(|| verdict::pending(false, place.1)))
            }
        }
    }

    /// A step that is not recorded: run it now (Some), or later through its token (None).
    fn start_call(self: &Arc<Self>, engine: &Arc<Engine>, st: &mut ExecState, place: &Place) -> Option<Vec<u8>> {
        let before = st.attempts.remove(place).unwrap_or_default();
        let call = st.calls.get_mut(place)?;
        if call.policy.at_most_once {
            if before.started {
                let document = text::error_document("StepInterrupted", Code::StepInterrupted, &text::interrupted(&call.site.name), false);
                self.record(engine, st, place, Recorded { failed: true, output: Payload::json(document), host_bytes: false, effects: vec![] });
                return None;
            }
            let write = Write::Attempt {
                run: self.run,
                epoch: st.epoch,
                at: self.position(place),
                attempt: call.attempt,
                started: true,
                site: call.site.clone(),
                token: engine.random(),
                error: Payload::default(),
                retry_in_ms: None,
            };
            self.write_attempt(engine, place.clone(), write, 0);
            return None;
        }
        if let Some(ms) = before.retry_in_ms.filter(|ms| *ms > 0) {
            call.phase = Phase::BackOff;
            engine.timers.after(ms, self.id, place, super::timers::Due::BackOff);
            return None;
        }
        Some(self.run_frame(engine, call, place))
    }

    /// The verdict `run`, with the attempt's timeout armed.
    pub fn run_frame(self: &Arc<Self>, engine: &Arc<Engine>, call: &mut Call, place: &Place) -> Vec<u8> {
        call.phase = Phase::Running;
        if let Some(ms) = call.policy.timeout_ms {
            engine.timers.after(ms, self.id, place, super::timers::Due::Timeout(call.attempt));
        }
        let key = self.placed(&self.position(place)).idempotency_key();
        verdict::run(place.1, call.attempt, key.hyphenated().encode_lower(&mut [0; 36]))
    }

    /// After a turn with nothing else to hand out: calls whose digest stands elsewhere are judged.
    pub fn judge_deferred(self: &Arc<Self>, engine: &Arc<Engine>, st: &mut ExecState, out: &mut Outbox) -> bool {
        let mut places: Vec<Place> = st.calls.iter().filter(|(_, c)| matches!(c.phase, Phase::Deferred)).map(|(p, _)| p.clone()).collect();
        places.sort();
        for place in &places {
            let Some(call) = st.calls.get(place) else { continue };
            if st.cancel.is_some() && !call.shielded {
                self.cancel_call(engine, st, place, out);
                continue;
            }
            let other = call.digest.and_then(|d| st.history.elsewhere(d, place));
            if let Some(other) = other {
                let message = text::reordered(self, place, &call.site.name, &call.site.location, other);
                self.block(engine, st, Code::Reordered, message, out);
                return true;
            }
            let token = call.token;
            if let Some(call) = st.calls.get_mut(place) {
                call.phase = Phase::Opening;
            }
            if let Some(frame) = self.start_call(engine, st, place) {
                out.complete(&self.client, token, frame);
            }
        }
        !places.is_empty()
    }

    /// Stop this execution and mark the run `blocked`: a person, or a fixed build, resumes it. A build that fits few runs leaves the rest unmarked.
    pub fn block(self: &Arc<Self>, engine: &Arc<Engine>, st: &mut ExecState, code: Code, message: String, out: &mut Outbox) -> EngineError {
        // One that is to clean up cannot be released: it would be claimed again at once. Blocked, it ends with the time for its clean-up.
        if st.stopped.is_none() && st.cancel.is_none() && engine.misfit(code) {
            self.stop(st, "released", &message, out);
            let exec = self.clone();
            engine.put_misfit_back(self.run, st.epoch, st.inbox, move |engine| engine.forget(&exec));
            return EngineError::new(code, message);
        }
        let why = serde_json::json!({ "code": code.as_str(), "message": message, "build": engine.config.version }).to_string();
        let write = Write::Block { run: self.run, epoch: st.epoch, why };
        self.stop(st, "blocked", &message, out);
        engine.log(&self.client, "error", code.as_str(), &message, out);
        engine.end_with(self, write);
        EngineError::new(code, message)
    }

    /// A call in flight ends with the cancel. Its answer stands in the order of completions like any other: given out at once it would overtake what is on its
    /// way to the database, and a replay would bring the two the other way round.
    pub fn cancel_call(self: &Arc<Self>, engine: &Arc<Engine>, st: &mut ExecState, place: &Place, out: &mut Outbox) {
        let Some(call) = st.calls.get(place) else { return };
        let mut effects = if matches!(call.phase, Phase::Waiting(_)) { vec![Effect::CloseWait] } else { vec![] };
        let (site, seen) = (call.site.clone(), call.seen);
        effects.extend(st.forget_open_wait(place));
        let (answer, done) = (st.cancelled(), st.take_done());
        self.write_cancel(engine, st, place, site, (done, seen), &effects);
        self.complete(st, place, done, answer, out);
    }

    /// Record that the workflow saw the cancel here, so that replay sees it at the same place. Nobody waits for the commit.
    pub fn note_cancel(self: &Arc<Self>, engine: &Arc<Engine>, st: &mut ExecState, place: &Place, site: Site, effects: &[Effect], out: &mut Outbox) {
        let numbers = (st.take_done(), st.seen());
        self.write_cancel(engine, st, place, site, numbers, effects);
        self.give_up_number(st, numbers.0, out);
    }

    fn write_cancel(self: &Arc<Self>, engine: &Arc<Engine>, st: &ExecState, place: &Place, site: Site, (done, seen): (i32, i32), effects: &[Effect]) {
        let step = StepWrite {
            at: Position { segment: self.segment, branch: place.0.clone(), seq: place.1 },
            kind: kind::CANCEL_SEEN,
            site,
            digest: None,
            failed: false,
            done,
            seen,
            attempt: 1,
            took_us: 0,
            token: engine.random(),
            output: Payload::default(),
            effects: effects.to_vec(),
        };
        let write = Write::Step { run: self.run, epoch: st.epoch, step: Box::new(step) };
        let exec = self.clone();
        engine.write(self.lane, write, Box::new(move |engine, write, answer, out| exec.after_quiet(engine, write, answer, out)));
    }
}

/// The outcome of a call on its way into a row.
pub struct Recorded {
    pub failed: bool,
    pub output: Payload,
    /// The host has these bytes already: they need not be sent back.
    pub host_bytes: bool,
    pub effects: Vec<Effect>,
}
