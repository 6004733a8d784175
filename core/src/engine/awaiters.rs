//! Waiting, from outside any run, for ends and events: one query for all who wait, at once on a hint, else backing off to a second.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::error::{EngineError, Result};
use super::{Engine, Outbox, control, identity};
use crate::protocol::client::{Client, Event};
use crate::protocol::errors::Code;
use crate::protocol::frame::Writer;
use crate::protocol::ops::event;
use crate::run::exec::Exec;
use crate::run::text;
use crate::store::{Payload, RunKey, RunState, WaitAnswer, WakeHint, Write};

struct Awaiter {
    client: Arc<Client>,
    token: u64,
    deadline: Option<Instant>,
}

#[derive(Default)]
pub struct Awaiters {
    results: Mutex<HashMap<RunKey, Vec<Awaiter>>>,
    events: Mutex<HashMap<(RunKey, String), Vec<Awaiter>>>,
    changed: Notify,
}

const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// Interest is told again before others forget it.
const TELL_INTEREST: Duration = Duration::from_secs(20);

impl Awaiters {
    pub fn look(&self) {
        self.changed.notify_one();
    }

    pub fn awaits(&self, run: RunKey) -> bool {
        self.results.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&run)
    }

    fn add<K: std::hash::Hash + Eq>(map: &Mutex<HashMap<K, Vec<Awaiter>>>, key: K, awaiter: Awaiter) {
        map.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_default().push(awaiter);
    }

    /// Nobody waits any longer under these tokens.
    fn forget(&self, gone: impl Fn(&Awaiter) -> bool) {
        fn forget<K>(map: &Mutex<HashMap<K, Vec<Awaiter>>>, gone: impl Fn(&Awaiter) -> bool) {
            map.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, awaiters| {
                awaiters.retain(|a| !gone(a));
                !awaiters.is_empty()
            });
        }
        forget(&self.results, &gone);
        forget(&self.events, &gone);
    }

    fn next_deadline(&self) -> Option<Instant> {
        let results = self.results.lock().unwrap_or_else(PoisonError::into_inner);
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        results.values().flatten().chain(events.values().flatten()).filter_map(|a| a.deadline).min()
    }
}

/// Those whose time is over, taken out.
fn overdue<K: std::hash::Hash + Eq + Clone>(map: &Mutex<HashMap<K, Vec<Awaiter>>>) -> Vec<(K, Awaiter)> {
    let now = Instant::now();
    let mut map = map.lock().unwrap_or_else(PoisonError::into_inner);
    let mut out = Vec::new();
    for (key, awaiters) in map.iter_mut() {
        let (late, rest) = std::mem::take(awaiters).into_iter().partition(|a| a.deadline.is_some_and(|d| d <= now));
        *awaiters = rest;
        let late: Vec<Awaiter> = late;
        out.extend(late.into_iter().map(|a| (key.clone(), a)));
    }
    map.retain(|_, a| !a.is_empty());
    out
}

impl Engine {
    pub fn await_result(self: &Arc<Self>, client: Arc<Client>, token: u64, run: RunKey, timeout_ms: Option<i64>) {
        let deadline = timeout_ms.map(|ms| Instant::now() + Duration::from_millis(ms.max(0) as u64));
        Awaiters::add(&self.awaiters.results, run, Awaiter { client, token, deadline });
        // A run of this process is told when it ends; all others are looked for.
        if self.exec_of(run).is_none() || deadline.is_some() {
            self.awaiters.look();
        }
    }

    pub fn await_event(self: &Arc<Self>, client: Arc<Client>, token: u64, run: RunKey, key: String, timeout_ms: Option<i64>) {
        let deadline = timeout_ms.map(|ms| Instant::now() + Duration::from_millis(ms.max(0) as u64));
        Awaiters::add(&self.awaiters.events, (run, key.clone()), Awaiter { client, token, deadline });
        self.awaiters.look();
        if self.exec_of(run).is_none() {
            // A run that is not there would be waited for without end. While the database does not answer, the wait goes on.
            self.spawn(move |engine| async move {
                if let Ok(None) = engine.store.find(run).await {
                    let waiting = engine.awaiters.events.lock().unwrap_or_else(PoisonError::into_inner).remove(&(run, key));
                    for a in waiting.into_iter().flatten() {
                        Outbox::default().push(&a.client, Event { token: a.token, kind: event::FAILED, frame: control::not_found(run).frame() });
                    }
                }
            });
        }
    }

    /// The host gave this token up: what it waited for is looked for no more, else this process would poll until that run ends.
    pub fn give_up(&self, client: &Arc<Client>, token: u64) {
        client.cancel(token);
        self.awaiters.forget(|a| a.token == token && Arc::ptr_eq(&a.client, client));
    }

    pub(super) fn forget_awaiters_of(&self, client: &Arc<Client>) {
        self.awaiters.forget(|a| Arc::ptr_eq(&a.client, client));
    }

    pub(super) async fn run_awaiters(self: Arc<Self>) {
        let mut pause = FIRST_PAUSE;
        let mut told: Option<Instant> = None;
        loop {
            let (runs, events) = self.awaited();
            if runs.is_empty() && events.is_empty() && self.awaiters.next_deadline().is_none() {
                pause = FIRST_PAUSE;
                self.awaiters.changed.notified().await;
                continue;
            }
            if !(runs.is_empty() && events.is_empty()) && told.is_none_or(|at| at.elapsed() > TELL_INTEREST) {
                told = Some(Instant::now());
                self.wakes.tell(WakeHint::Awaiting);
            }
            match self.look_once(&runs, &events).await {
                Ok(0) => {}
                Ok(_) => pause = FIRST_PAUSE,
                Err(e) => self.outage(&e),
            }
            self.say_overdue().await;
            let mut until = Instant::now() + pause;
            if let Some(deadline) = self.awaiters.next_deadline() {
                until = until.min(deadline);
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
            if tokio::time::timeout_at(until.into(), self.awaiters.changed.notified()).await.is_ok() {
                pause = FIRST_PAUSE;
            }
        }
    }

    /// What is not executing here and so has to be looked for.
    fn awaited(&self) -> (Vec<RunKey>, Vec<(RunKey, String)>) {
        let runs = self.awaiters.results.lock().unwrap_or_else(PoisonError::into_inner).keys().filter(|k| self.exec_of(**k).is_none()).copied().collect();
        let events = self.awaiters.events.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect();
        (runs, events)
    }

    async fn look_once(&self, runs: &[RunKey], events: &[(RunKey, String)]) -> crate::store::Result<usize> {
        let mut found = 0;
        if !runs.is_empty() {
            for (run, answer) in self.store.outcomes(runs).await? {
                let reply = match answer {
                    WaitAnswer::Result { value, .. } if !value.is_known() => Err(unknown_codec(&format!("The result of run {run}"), &value)),
                    WaitAnswer::Result { state, value } => Ok((state, value)),
                    WaitAnswer::Blocked { why } => Err(EngineError::new(Code::RunBlocked, format!("Run {run} is blocked: {}", blocked_text(&why)))),
                    WaitAnswer::NotFound => Err(EngineError::new(Code::RunNotFound, format!("There is no run {run}."))),
                    _ => continue,
                };
                found += 1;
                self.answer_result(run, reply, &mut Outbox::default());
            }
        }
        if !events.is_empty() {
            for (run, key, value) in self.store.events(events).await? {
                found += 1;
                let unreadable = (!value.is_known()).then(|| unknown_codec(&format!("The event \"{key}\" of run {run}"), &value));
                let awaiters = self.awaiters.events.lock().unwrap_or_else(PoisonError::into_inner).remove(&(run, key));
                let mut out = Outbox::default();
                for a in awaiters.into_iter().flatten() {
                    if let Some(error) = &unreadable {
                        out.push(&a.client, Event { token: a.token, kind: event::FAILED, frame: error.frame() });
                        continue;
                    }
                    let mut w = Writer::new();
                    w.bytes(&value.data);
                    out.complete(&a.client, a.token, w.finish());
                }
            }
        }
        Ok(found)
    }

    fn answer_result(&self, run: RunKey, reply: Result<(RunState, Payload)>, out: &mut Outbox) {
        let awaiters = self.awaiters.results.lock().unwrap_or_else(PoisonError::into_inner).remove(&run);
        for a in awaiters.into_iter().flatten() {
            match &reply {
                Ok((state, value)) => {
                    let mut w = Writer::new();
                    w.str(state.name()).opt_bytes(value.value());
                    out.complete(&a.client, a.token, w.finish());
                }
                Err(e) => out.push(&a.client, Event { token: a.token, kind: event::FAILED, frame: e.frame() }),
            }
        }
    }

    async fn say_overdue(self: &Arc<Self>) {
        for (_, a) in overdue(&self.awaiters.events) {
            let mut w = Writer::new();
            w.null();
            Outbox::default().complete(&a.client, a.token, w.finish());
        }
        let late = overdue(&self.awaiters.results);
        for (run, a) in late {
            self.spawn(move |engine| async move {
                let why = engine.what_it_waits_for(run).await;
                let e = EngineError::new(Code::ResultTimeout, format!("Run {run} is not finished yet: {why}"));
                Outbox::default().push(&a.client, Event { token: a.token, kind: event::FAILED, frame: e.frame() });
            });
        }
    }

    /// A run of this process has published something: no hint of one's own is heard.
    pub fn event_set(&self) {
        self.awaiters.look();
    }

    /// The end of a run of this process is committed.
    pub fn run_ended(self: &Arc<Self>, exec: &Arc<Exec>, write: &Write, out: &mut Outbox) {
        if let Write::Outcome { run, state, value, .. } = write {
            self.answer_result(*run, Ok((*state, value.clone())), out);
            self.woken_waiters(*run);
            if exec.parent.is_some() {
                // A parent that was released is ready now.
                self.claims.look();
            }
            let mut st = exec.lock();
            exec.answer_open_calls(&mut st, out);
            let has_children = st.has_children;
            drop(st);
            if has_children {
                self.close_children(*run);
            }
        }
        self.forget(exec);
        if !self.queues.is_free(&exec.queue) {
            // Its slot of a limited queue is free: whoever has room may take the next, here or elsewhere.
            self.claims.look();
            self.wakes.tell(WakeHint::ReadyOn(identity::queue_number(&self.config.store.namespace, &exec.queue)));
        }
    }
}

fn unknown_codec(what: &str, value: &Payload) -> EngineError {
    EngineError::new(Code::PayloadCodec, text::unknown_codec(what, value.codec))
}

/// The message inside a `blocked_why` document.
pub fn blocked_text(why: &str) -> String {
    let document: Option<serde_json::Value> = serde_json::from_str(why).ok();
    document.and_then(|d| d.get("message")?.as_str().map(str::to_owned)).unwrap_or_else(|| why.to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::by_hand::ByHand;

    #[test]
    fn what_a_host_gave_up_is_looked_for_no_more() {
        let h = ByHand::open(true);
        let client = h.engine.client(1).unwrap();
        let run = uuid::Uuid::now_v7();
        for token in [7, 8] {
            h.engine.await_result(client.clone(), token, run, None);
            h.engine.await_event(client.clone(), token, run, "key".into(), None);
        }
        h.engine.give_up(&client, 7);
        assert_eq!(h.engine.awaited().0, [run], "another token waits for the same run");
        h.engine.give_up(&client, 8);
        assert_eq!(h.engine.awaited(), (vec![], vec![]));
    }
}
