//! Calls whose effect is in the database itself and commits with their record: messages, events, children, durable values, patches.

use std::sync::Arc;

use super::begin::{Asked, Entered, Recorded};
use super::exec::{Exec, ExecState, Phase};
use super::history::Place;
use super::verdict;
use crate::engine::error::{EngineError, Result};
use crate::engine::names::Unknown;
use crate::engine::{Engine, Outbox};
use crate::protocol::errors::Code;
use crate::protocol::ops::kind;
use crate::store::{Effect, NewRun, Payload, Position, StepWrite, Write};

impl Exec {
    /// A call that is one effect and its record, in one commit.
    pub fn begin_effect(
        self: &Arc<Self>,
        engine: &Arc<Engine>,
        asked: Asked<'_>,
        output: Payload,
        effect: impl FnOnce(&Position) -> Result<Effect>,
        out: &mut Outbox,
    ) -> Result<Vec<u8>> {
        let mut st = self.lock();
        let place = match self.enter(engine, &mut st, asked, out)? {
            Entered::Answer(frame) => return Ok(frame),
            Entered::Live(place) => place,
        };
        let effect = match effect(&self.position(&place)) {
            Ok(effect) => effect,
            Err(e) => {
                st.calls.remove(&place);
                return Err(e);
            }
        };
        self.record(engine, &mut st, &place, Recorded { failed: false, output, host_bytes: false, effects: vec![effect] });
        Ok(verdict::pending(false, place.1))
    }

    /// The child's key is derived from the position (or is the user's own id): a repeated start is the same child.
    pub fn begin_child(self: &Arc<Self>, engine: &Arc<Engine>, asked: Asked<'_>, mut child: NewRun, unchecked: bool, out: &mut Outbox) -> Result<Vec<u8>> {
        let mut st = self.lock();
        let place = match self.enter(engine, &mut st, asked, out)? {
            Entered::Answer(frame) => return Ok(frame),
            Entered::Live(place) => place,
        };
        if child.id_text.is_none() {
            child.key = self.placed(&self.position(&place)).child_key(&child.route.workflow, &child.input.data);
        }
        child.claim_token = engine.random();
        child.claimed = false;
        if let Some(left) = self.deadline.map(|d| d.saturating_duration_since(std::time::Instant::now()).as_millis() as i64) {
            child.deadline_ms = Some(child.deadline_ms.map_or(left, |own| own.min(left)));
        }
        if child.trace_parent.is_none() {
            child.trace_parent = self.trace_parent.clone();
        }
        let pending = verdict::pending(false, place.1);
        let unknown = engine.unknown(&child, unchecked);
        if unknown == Unknown::default() {
            self.record_child(engine, &mut st, &place, child);
            return Ok(pending);
        }
        drop(st);
        // Looked up first, and what comes out is recorded: a name that looks mistyped today may be known when this is replayed, and so may a queue.
        let exec = self.clone();
        engine.look_up_then(unknown, move |engine| {
            let mut st = exec.lock();
            if st.stopped.is_some() || !st.calls.get(&place).is_some_and(|c| matches!(c.phase, Phase::Opening)) {
                return;
            }
            match engine.check_start(&child, unchecked) {
                Ok(()) => exec.record_child(engine, &mut st, &place, child),
                Err(e) => {
                    let kind = if e.code == Code::UnknownQueue { "UnknownQueue" } else { "UnknownWorkflow" };
                    exec.record_error(engine, &mut st, &place, kind, e.code, &e.message, vec![]);
                }
            }
        });
        Ok(pending)
    }

    fn record_child(self: &Arc<Self>, engine: &Arc<Engine>, st: &mut ExecState, place: &Place, child: NewRun) {
        st.has_children = true;
        let output = Payload::json(format!("\"{}\"", child.key).into_bytes());
        self.record(engine, st, place, Recorded { failed: false, output, host_bytes: false, effects: vec![Effect::StartChild(Box::new(child))] });
    }

    /// A durable value: made here, recorded, and the same on every replay. `now` is the database's time.
    pub fn begin_value(self: &Arc<Self>, engine: &Arc<Engine>, asked: Asked<'_>, which: &str, out: &mut Outbox) -> Result<Vec<u8>> {
        let made = match which {
            "now" => None,
            "uuid" => Some(format!(r#"{{"$es":"uuid","v":"{}"}}"#, uuid::Uuid::new_v4())),
            "random" => Some(serde_json::json!(engine.random_unit()).to_string()),
            other => return Err(EngineError::new(Code::FrameInvalid, format!("unknown durable value {other}"))),
        };
        let mut st = self.lock();
        let place = match self.enter(engine, &mut st, asked, out)? {
            Entered::Answer(frame) => return Ok(frame),
            Entered::Live(place) => place,
        };
        let recorded = |text: String| Recorded { failed: false, output: Payload::json(text.into_bytes()), host_bytes: false, effects: vec![] };
        if let Some(text) = made {
            self.record(engine, &mut st, &place, recorded(text));
        } else {
            let (exec, place) = (self.clone(), place.clone());
            engine.spawn(move |engine| async move {
                let now = engine.persist(|| engine.store.now()).await;
                let mut st = exec.lock();
                if st.stopped.is_none() && st.calls.get(&place).is_some_and(|c| matches!(c.phase, Phase::Opening)) {
                    exec.record(&engine, &mut st, &place, recorded(now.to_string()));
                }
            });
        }
        Ok(verdict::pending(false, place.1))
    }

    /// True where the changed code applies: recorded so, or reached for the first time. Takes a place only when true, so that runs
    /// recorded before the change replay as if the call were not there.
    pub fn patch(self: &Arc<Self>, engine: &Arc<Engine>, branch: &str, name: &str, location: &str) -> Result<bool> {
        let mut st = self.lock();
        if st.stopped.is_some() || st.finishing {
            return Ok(false);
        }
        let place = st.peek_place(branch);
        match st.history.get(&place) {
            // A name the database has lost is unknown, not another.
            Some(record) if record.kind == kind::PATCH && (record.site.name.is_empty() || *record.site.name == *name) => {
                st.next_place(branch);
                st.history.take(&place);
                return Ok(true);
            }
            Some(_) => return Ok(false),
            None if st.history.goes_on_behind(&place) || st.open_behind(&place) => return Ok(false),
            None => {}
        }
        st.next_place(branch);
        let done = st.take_done();
        let step = StepWrite {
            at: self.position(&place),
            kind: kind::PATCH,
            site: engine.site(name, location),
            digest: None,
            failed: false,
            done,
            seen: st.seen(),
            attempt: 1,
            took_us: 0,
            token: engine.random(),
            output: Payload::json(b"true".to_vec()),
            effects: vec![],
        };
        let mut out = Outbox::default();
        self.give_up_number(&mut st, done, &mut out);
        out.flush();
        let write = Write::Step { run: self.run, epoch: st.epoch, step: Box::new(step) };
        let exec = self.clone();
        engine.write(self.lane, write, Box::new(move |engine, write, answer, out| exec.after_quiet(engine, write, answer, out)));
        Ok(true)
    }
}
