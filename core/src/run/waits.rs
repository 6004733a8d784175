//! Waiting: sleeps, messages, events, other runs' ends. Parked in memory first; what a wait would get is read, never guessed from a hint.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::begin::{Asked, Entered, Recorded};
use super::exec::{Exec, ExecState, Phase};
use super::finish::with_epoch;
use super::history::Place;
use super::timers::Due as Timer;
use super::{text, verdict};
use crate::engine::error::Result;
use crate::engine::{Engine, Outbox};
use crate::protocol::client::Event;
use crate::protocol::errors::Code;
use crate::protocol::ops::{event, kind};
use crate::store::{Due, Effect, Message, OpenWait, Payload, RunKey, RunState, Verdict, WaitAnswer, WaitKind, Write};

/// What a wait waits for.
pub struct WaitFor {
    pub kind: WaitKind,
    pub due: Option<Due>,
    pub target: Option<RunKey>,
    pub key: String,
}

/// The kind of the call that opened such a wait.
fn kind_of(wait: WaitKind) -> Option<i16> {
    match wait {
        WaitKind::Sleep => Some(kind::SLEEP),
        WaitKind::Receive => Some(kind::RECEIVE),
        WaitKind::Event => Some(kind::EVENT),
        WaitKind::Result => Some(kind::RESULT),
        WaitKind::Retry => None,
    }
}

impl Exec {
    pub fn begin_wait(self: &Arc<Self>, engine: &Arc<Engine>, asked: Asked<'_>, wait: WaitFor, out: &mut Outbox) -> Result<Vec<u8>> {
        let mut st = self.lock();
        let place = match self.enter(engine, &mut st, asked, out)? {
            Entered::Answer(frame) => return Ok(frame),
            Entered::Live(place) => place,
        };
        let answer = verdict::pending(false, place.1);
        let Some(call) = st.calls.get(&place) else { return Ok(answer) };
        if let Some(open) = st.open_waits.get(&place)
            && (open.key != wait.key || open.target != wait.target)
        {
            let message = text::mismatch(self, &place, call.kind, &call.site.name, &call.site.location, (call.kind, &open.site));
            return Err(self.block(engine, &mut st, Code::Mismatch, message, out));
        }
        if let Some(open) = st.open_waits.remove(&place) {
            // It was open when the run was claimed: the deadline stands as it was first committed.
            self.waiting(engine, &mut st, place, open);
            return Ok(answer);
        }
        let Some(call) = st.calls.get(&place) else { return Ok(answer) };
        let write = Write::Wait {
            run: self.run,
            epoch: st.epoch,
            at: self.position(&place),
            kind: wait.kind,
            due: wait.due,
            target: wait.target,
            key: wait.key,
            site: call.site.clone(),
        };
        self.write_wait(engine, place, write);
        Ok(answer)
    }

    /// Code that changed where the run waits is seen at that wait, as it is at a record: else it would wait on for what its new code never asked for.
    /// Key and target are compared by `begin_wait`.
    pub fn other_than_open_wait(&self, st: &ExecState, place: &Place, asked: &Asked<'_>) -> Option<String> {
        let open = st.open_waits.get(place)?;
        let kind = kind_of(open.kind)?;
        (kind != asked.kind).then(|| text::mismatch(self, place, asked.kind, asked.name, asked.location, (kind, &open.site)))
    }

    fn write_wait(self: &Arc<Self>, engine: &Arc<Engine>, place: Place, write: Write) {
        let exec = self.clone();
        engine.write(
            self.lane,
            write,
            Box::new(move |engine, write, answer, out| {
                let mut st = exec.lock();
                if st.stopped.is_some() {
                    return;
                }
                match (answer, &write) {
                    (Ok(Verdict::Opened { due_in_ms }), Write::Wait { at, kind, target, key, site, .. }) => {
                        let open = OpenWait { at: at.clone(), kind: *kind, due_in_ms, due_at: None, target: *target, key: key.clone(), site: site.clone() };
                        exec.waiting(engine, &mut st, place, open);
                    }
                    (Ok(Verdict::NotFound), _) => {
                        exec.record_error(engine, &mut st, &place, "RunNotFound", Code::RunNotFound, "There is no such run to wait for.", vec![])
                    }
                    (Ok(_), _) => {
                        drop(st);
                        let again = exec.clone();
                        engine.ask_owner(&exec, Box::new(move |engine, epoch| again.write_wait(engine, place, with_epoch(write, epoch))));
                    }
                    (Err(e), _) => {
                        let token = st.calls.remove(&place).map_or(0, |c| c.token);
                        out.push(&exec.client, Event { token, kind: event::FAILED, frame: e.frame() });
                    }
                }
            }),
        );
    }

    fn waiting(self: &Arc<Self>, engine: &Arc<Engine>, st: &mut ExecState, place: Place, open: OpenWait) {
        let kind = open.kind;
        // None: it has lost a race while it was being opened.
        let Some(call) = st.calls.get_mut(&place) else { return };
        if let Some(ms) = open.due_in_ms {
            engine.timers.after(ms, self.id, &place, Timer::Wait);
        }
        let shielded = call.shielded;
        call.phase = Phase::Waiting(open);
        if st.cancel.is_some() && !shielded {
            // It came while the wait was being opened.
            let mut out = Outbox::default();
            self.cancel_call(engine, st, &place, &mut out);
            return out.flush();
        }
        if kind != WaitKind::Sleep {
            self.look_at_waits(engine, st);
        }
        self.after_change(engine, st);
    }

    /// Read what the open waits would get now. One look at a time; a hint that comes during a look leads to another.
    pub fn look_at_waits(self: &Arc<Self>, engine: &Arc<Engine>, st: &mut ExecState) {
        if let Some(again) = &mut st.looking {
            *again = true;
            return;
        }
        // A message already on its way into a record is not consumed yet and would be found again: its commit looks again.
        if st.stopped.is_some() || st.finishing || st.calls.values().any(|c| c.kind == kind::RECEIVE && matches!(c.phase, Phase::Recording)) {
            return;
        }
        let waits: Vec<(Place, OpenWait)> = st
            .calls
            .iter()
            .filter_map(|(p, c)| match &c.phase {
                Phase::Waiting(w) if w.kind != WaitKind::Sleep => Some((p.clone(), w.clone())),
                _ => None,
            })
            .collect();
        if waits.is_empty() {
            return;
        }
        let targets: HashSet<RunKey> = waits.iter().filter_map(|(_, w)| w.target).collect();
        for gone in st.watches.difference(&targets) {
            engine.unwatch(*gone, self.id);
        }
        for target in &targets {
            engine.watch(*target, self.id);
        }
        st.watches = targets;
        st.looking = Some(false);
        let exec = self.clone();
        engine.spawn(move |engine| async move {
            let (mut places, mut asked): (Vec<Place>, Vec<OpenWait>) = waits.into_iter().unzip();
            // Oldest first: receives of one topic get messages in the order they asked.
            let mut order: Vec<usize> = (0..places.len()).collect();
            order.sort_by(|a, b| places[*a].cmp(&places[*b]));
            places = order.iter().map(|i| places[*i].clone()).collect();
            asked = order.iter().map(|i| asked[*i].clone()).collect();
            let answers = engine.persist(|| engine.store.answer_waits(exec.run, &asked)).await;
            let late = exec.late_results(&places, &asked, &answers);
            let mut said = HashMap::new();
            for (place, target) in late {
                said.insert(place, engine.what_it_waits_for(target).await);
            }
            let mut st = exec.lock();
            let again = st.looking.take().unwrap_or(false);
            if st.stopped.is_some() {
                return;
            }
            for (place, answer) in places.iter().zip(answers) {
                if st.stopped.is_some() {
                    return;
                }
                exec.take_answer(&engine, &mut st, place, answer, said.get(place).map(String::as_str));
            }
            if again {
                exec.look_at_waits(&engine, &mut st);
            }
            exec.after_change(&engine, &mut st);
        });
    }

    /// Waits for the end of a run whose time is over, and which run that is.
    fn late_results(&self, places: &[Place], asked: &[OpenWait], answers: &[WaitAnswer]) -> Vec<(Place, RunKey)> {
        let st = self.lock();
        let late = |place: &Place, answer: &WaitAnswer| st.overdue.contains(place) && matches!(answer, WaitAnswer::Nothing | WaitAnswer::Blocked { .. });
        let waits = places.iter().zip(asked).zip(answers).filter(|((place, wait), answer)| wait.kind == WaitKind::Result && late(place, answer));
        waits.filter_map(|((place, wait), _)| Some((place.clone(), wait.target?))).collect()
    }

    /// `said`: what the awaited run waits for, where this wait's time is over.
    fn take_answer(self: &Arc<Self>, engine: &Arc<Engine>, st: &mut ExecState, place: &Place, answer: WaitAnswer, said: Option<&str>) {
        if !st.calls.get(place).is_some_and(|c| matches!(c.phase, Phase::Waiting(_))) {
            return;
        }
        if let WaitAnswer::Message(Message { value, .. }) | WaitAnswer::Event(value) | WaitAnswer::Result { value, .. } = &answer
            && !value.is_known()
        {
            let message = text::unknown_codec(&format!("What run {} waited for at {}", self.run, text::place(place)), value.codec);
            let mut out = Outbox::default();
            // The wait stays open and the message where it is: a process that knows the codec takes them up.
            self.block(engine, st, Code::PayloadCodec, message, &mut out);
            return out.flush();
        }
        let (failed, output, mut effects) = match answer {
            WaitAnswer::Message(m) => (false, m.value, vec![Effect::Consume { message: m.id }]),
            WaitAnswer::Event(value) => (false, value, vec![]),
            WaitAnswer::Ended => (false, Payload::default(), vec![]),
            WaitAnswer::Result { state, value } => (state != RunState::Succeeded, value, vec![]),
            WaitAnswer::NotFound => {
                return self.record_error(engine, st, place, "RunNotFound", Code::RunNotFound, "There is no such run to wait for.", vec![Effect::CloseWait]);
            }
            WaitAnswer::Nothing | WaitAnswer::Blocked { .. } => {
                if !st.overdue.remove(place) {
                    return;
                }
                if st.calls.get(place).is_some_and(|c| c.kind == kind::RESULT) {
                    return self.record_error(
                        engine,
                        st,
                        place,
                        "ResultTimeout",
                        Code::ResultTimeout,
                        &format!("The awaited run has not finished in time: {}.", said.unwrap_or("it is under way")),
                        vec![Effect::CloseWait],
                    );
                }
                (false, Payload::default(), vec![])
            }
        };
        effects.push(Effect::CloseWait);
        self.record(engine, st, place, Recorded { failed, output, host_bytes: false, effects });
    }

    /// The timer of a wait has fired.
    pub fn wait_is_over(self: &Arc<Self>, engine: &Arc<Engine>, st: &mut ExecState, place: &Place) {
        let sleeping = st.calls.get(place).is_some_and(|c| matches!(&c.phase, Phase::Waiting(w) if w.kind == WaitKind::Sleep));
        if sleeping {
            self.record(engine, st, place, Recorded { failed: false, output: Payload::default(), host_bytes: false, effects: vec![Effect::CloseWait] });
            self.after_change(engine, st);
        } else {
            st.overdue.insert(place.clone());
            self.look_at_waits(engine, st);
        }
    }

    #[allow(clippy::too_many_arguments)]
    pub fn record_error(
        self: &Arc<Self>,
        engine: &Arc<Engine>,
        st: &mut ExecState,
        place: &Place,
        kind: &str,
        code: Code,
        message: &str,
        effects: Vec<Effect>,
    ) {
        let document = text::error_document(kind, code, message, false);
        self.record(engine, st, place, Recorded { failed: true, output: Payload::json(document), host_bytes: false, effects });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::by_hand::{ByHand, asked, receive, recorded};
    use crate::store::{Position, Site};

    fn open_wait(kind: WaitKind, key: &str) -> OpenWait {
        let site = Site { id: 7, name: key.into(), location: "old.rs:7".into() };
        OpenWait { at: Position { segment: 0, branch: "".into(), seq: 0 }, kind, due_in_ms: None, due_at: None, target: None, key: key.into(), site }
    }

    #[test]
    fn what_still_comes_after_the_end_takes_no_slot() {
        let h = ByHand::open(false);
        let slots = h.free_slots();
        let exec = h.claim(|_| {});
        exec.begin_wait(&h.engine, asked("/0/0", 1, kind::RECEIVE, "a"), receive("a"), &mut Outbox::default()).unwrap();
        h.commit();
        assert_eq!(h.free_slots(), slots, "it waits");
        exec.finish_run(&h.engine, 2, false, b"null", None, None, false, false, &mut Outbox::default());
        h.commit();
        exec.after_change(&h.engine, &mut exec.lock());
        assert_eq!(h.free_slots(), slots);
    }

    #[test]
    fn a_run_that_has_been_replayed_to_its_wait_holds_no_history() {
        let h = ByHand::open(false);
        let exec = h.claim(|run| run.steps = vec![recorded(0, &[b'1'; 3000])]);
        assert!(h.history_bytes() > 3000);
        exec.begin_step(&h.engine, asked("", 1, kind::STEP, "s"), &mut Outbox::default()).unwrap();
        exec.begin_wait(&h.engine, asked("", 2, kind::RECEIVE, "a"), receive("a"), &mut Outbox::default()).unwrap();
        h.commit();
        assert_eq!(h.history_bytes(), 0);
        h.engine.forget(&exec);
        assert_eq!(h.history_bytes(), 0);
    }

    #[test]
    fn code_that_changed_at_an_open_wait_blocks() {
        let receives = |topic: &str| vec![open_wait(WaitKind::Receive, topic)];
        let blocked = |name: &str, ask: i16, waits: Vec<OpenWait>| {
            let h = ByHand::open(false);
            let exec = h.claim(|run| run.waits = waits);
            let out = &mut Outbox::default();
            let answer = match ask {
                kind::STEP => exec.begin_step(&h.engine, asked("", 1, kind::STEP, name), out),
                _ => exec.begin_wait(&h.engine, asked("", 1, ask, name), receive(name), out),
            };
            let why = answer.err().map(|e| (e.code, e.message));
            assert_eq!(why.is_some(), matches!(h.commit()[..], [Write::Block { .. }]));
            why
        };
        assert!(blocked("a", kind::RECEIVE, receives("a")).is_none());
        for (name, ask) in [("b", kind::RECEIVE), ("s", kind::STEP)] {
            let (code, message) = blocked(name, ask, receives("a")).unwrap();
            assert_eq!(code, Code::Mismatch);
            assert!(message.contains("receive \"a\" (old.rs:7)") && message.contains(&format!("\"{name}\" (w.rs:1)")), "{message}");
        }
        assert!(blocked("s", kind::STEP, vec![open_wait(WaitKind::Retry, "")]).is_none());
    }

    #[test]
    fn a_wait_that_is_over_before_its_time_leaves_no_timer() {
        let h = ByHand::open(false);
        let exec = h.claim(|_| {});
        let waits = |branch: &str| {
            let wait = WaitFor { due: Some(Due::After(3_600_000)), ..receive("a") };
            exec.begin_wait(&h.engine, asked(branch, 1, kind::RECEIVE, "a"), wait, &mut Outbox::default()).unwrap();
            h.answer(|_| Ok(Verdict::Opened { due_in_ms: Some(3_600_000) }));
            assert_eq!(h.engine.timers.count(), 1);
        };
        waits("");
        let message = Message { id: uuid::Uuid::nil(), topic: "a".into(), value: Payload::json(b"1".to_vec()) };
        exec.take_answer(&h.engine, &mut exec.lock(), &("".into(), 0), WaitAnswer::Message(message), None);
        assert_eq!(h.engine.timers.count(), 0);
        h.commit();
        exec.begin_group(&h.engine, asked("", 2, kind::GROUP, "race"), true, &mut Outbox::default()).unwrap();
        waits("/1/0");
        exec.finish_group(&h.engine, "", 1, "1", 3, &mut Outbox::default());
        assert_eq!(h.engine.timers.count(), 0);
    }

    #[test]
    fn a_run_that_has_gone_watches_nobody() {
        let h = ByHand::open(false);
        let exec = h.claim(|_| {});
        let target = Some(uuid::Uuid::now_v7());
        let wait = WaitFor { kind: WaitKind::Result, due: None, target, key: String::new() };
        exec.begin_wait(&h.engine, asked("", 1, kind::RESULT, "result"), wait, &mut Outbox::default()).unwrap();
        h.commit();
        assert_eq!(h.engine.watched(), 1);
        h.engine.forget(&exec);
        assert_eq!(h.engine.watched(), 0);
    }
}
