//! Waiting, from outside any run, for ends and events: one query for all who wait, at once on a hint, else backing off to a second.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
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

/// A token is unique in its client only.
type Name = (usize, u64);

impl Awaiter {
    fn name_of(client: &Arc<Client>, token: u64) -> Name {
        (Arc::as_ptr(client).addr(), token)
    }

    fn name(&self) -> Name {
        Awaiter::name_of(&self.client, self.token)
    }
}

/// Who waits for what, in the order they asked, and where to find the one a host gives up: lanes that tell an end wait for this lock.
#[derive(Default)]
struct Waiting<K> {
    by_key: BTreeMap<K, BTreeMap<u64, Awaiter>>,
    by_name: HashMap<Name, (K, u64)>,
}

impl<K: Ord + Clone> Waiting<K> {
    fn add(&mut self, key: K, number: u64, awaiter: Awaiter) {
        self.by_name.insert(awaiter.name(), (key.clone(), number));
        self.by_key.entry(key).or_default().insert(number, awaiter);
    }

    /// Out with those who wait for this and had asked before `number` was drawn.
    fn take(&mut self, key: &K, number: u64) -> Vec<Awaiter> {
        let Some(all) = self.by_key.get_mut(key) else { return Vec::new() };
        let later = all.split_off(&number);
        let taken = std::mem::replace(all, later);
        if all.is_empty() {
            self.by_key.remove(key);
        }
        for awaiter in taken.values() {
            self.by_name.remove(&awaiter.name());
        }
        taken.into_values().collect()
    }

    fn give_up(&mut self, name: Name) -> Option<(K, Awaiter)> {
        let (key, number) = self.by_name.remove(&name)?;
        let all = self.by_key.get_mut(&key)?;
        let awaiter = all.remove(&number)?;
        if all.is_empty() {
            self.by_key.remove(&key);
        }
        Some((key, awaiter))
    }

    fn give_up_all(&mut self, which: impl Fn(u64, &Awaiter) -> bool) -> Vec<(K, Awaiter)> {
        let names: Vec<Name> = self.by_key.values().flatten().filter(|(number, a)| which(**number, a)).map(|(_, a)| a.name()).collect();
        names.into_iter().filter_map(|name| self.give_up(name)).collect()
    }

    fn all(&self) -> impl Iterator<Item = &Awaiter> {
        self.by_key.values().flat_map(BTreeMap::values)
    }
}

#[derive(Default)]
pub struct Awaiters {
    results: Mutex<Waiting<RunKey>>,
    events: Mutex<Waiting<(RunKey, String)>>,
    /// How many have asked. Who asks while the database is being looked at may ask for what that look could not see.
    asked: AtomicU64,
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
        self.results.lock().unwrap_or_else(PoisonError::into_inner).by_key.contains_key(&run)
    }

    fn awaits_event_of(&self, run: RunKey) -> bool {
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        events.by_key.range((run, String::new())..).next().is_some_and(|((of, _), _)| *of == run)
    }

    fn add<K: Ord + Clone>(&self, waiting: &Mutex<Waiting<K>>, key: K, awaiter: Awaiter) {
        let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.add(key, self.asked.fetch_add(1, Ordering::Relaxed), awaiter);
    }

    fn next_deadline(&self) -> Option<Instant> {
        let results = self.results.lock().unwrap_or_else(PoisonError::into_inner);
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        results.all().chain(events.all()).filter_map(|a| a.deadline).min()
    }
}

/// Those whose time is over, taken out.
fn overdue<K: Ord + Clone>(waiting: &Mutex<Waiting<K>>, asked: u64) -> Vec<(K, Awaiter)> {
    let now = Instant::now();
    waiting.lock().unwrap_or_else(PoisonError::into_inner).give_up_all(|number, a| number < asked && a.deadline.is_some_and(|d| d <= now))
}

fn nothing() -> Vec<u8> {
    let mut w = Writer::new();
    w.null();
    w.finish()
}

impl Engine {
    pub fn await_result(self: &Arc<Self>, client: Arc<Client>, token: u64, run: RunKey, timeout_ms: Option<i64>) {
        let deadline = timeout_ms.map(|ms| Instant::now() + Duration::from_millis(ms.max(0) as u64));
        self.awaiters.add(&self.awaiters.results, run, Awaiter { client, token, deadline });
        // A run of this process is told when it ends; all others are looked for.
        if self.exec_of(run).is_none() || deadline.is_some() {
            self.awaiters.look();
        }
    }

    pub fn await_event(self: &Arc<Self>, client: Arc<Client>, token: u64, run: RunKey, key: String, timeout_ms: Option<i64>) {
        let deadline = timeout_ms.map(|ms| Instant::now() + Duration::from_millis(ms.max(0) as u64));
        self.awaiters.add(&self.awaiters.events, (run, key), Awaiter { client, token, deadline });
        self.awaiters.look();
    }

    /// The host gave this token up: what it waited for is looked for no more, else this process would poll until that run ends.
    pub fn give_up(&self, client: &Arc<Client>, token: u64) {
        client.cancel(token);
        let name = Awaiter::name_of(client, token);
        self.awaiters.results.lock().unwrap_or_else(PoisonError::into_inner).give_up(name);
        self.awaiters.events.lock().unwrap_or_else(PoisonError::into_inner).give_up(name);
    }

    pub(super) fn forget_awaiters_of(&self, client: &Arc<Client>) {
        let of_client = |_: u64, a: &Awaiter| Arc::ptr_eq(&a.client, client);
        self.awaiters.results.lock().unwrap_or_else(PoisonError::into_inner).give_up_all(of_client);
        self.awaiters.events.lock().unwrap_or_else(PoisonError::into_inner).give_up_all(of_client);
    }

    pub(super) async fn run_awaiters(self: Arc<Self>) {
        let mut pause = FIRST_PAUSE;
        let mut told: Option<Instant> = None;
        loop {
            let asked = self.awaiters.asked.load(Ordering::Relaxed);
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
            match self.look_once(&runs, &events, asked).await {
                Ok(0) => {}
                Ok(_) => pause = FIRST_PAUSE,
                Err(e) => self.outage(&e),
            }
            self.say_overdue(asked).await;
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
        let runs =
            self.awaiters.results.lock().unwrap_or_else(PoisonError::into_inner).by_key.keys().filter(|k| self.exec_of(**k).is_none()).copied().collect();
        let events = self.awaiters.events.lock().unwrap_or_else(PoisonError::into_inner).by_key.keys().cloned().collect();
        (runs, events)
    }

    async fn look_once(&self, runs: &[RunKey], events: &[(RunKey, String)], asked: u64) -> crate::store::Result<usize> {
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
                self.answer_result(run, asked, reply, &mut Outbox::default());
            }
        }
        if !events.is_empty() {
            for (run, key, answer) in self.store.events(events).await? {
                let reply = match answer {
                    WaitAnswer::Event(value) if !value.is_known() => Err(unknown_codec(&format!("The event \"{key}\" of run {run}"), &value)),
                    WaitAnswer::Event(value) => {
                        let mut w = Writer::new();
                        w.bytes(&value.data);
                        Ok(w.finish())
                    }
                    WaitAnswer::Ended => Ok(nothing()),
                    // While the database does not answer, the wait goes on; a run that is not there would be waited for without end.
                    WaitAnswer::NotFound => Err(control::not_found(run)),
                    _ => continue,
                };
                found += 1;
                let awaiters = self.awaiters.events.lock().unwrap_or_else(PoisonError::into_inner).take(&(run, key), asked);
                let mut out = Outbox::default();
                for a in awaiters {
                    match &reply {
                        Ok(frame) => out.complete(&a.client, a.token, frame.clone()),
                        Err(e) => out.push(&a.client, Event { token: a.token, kind: event::FAILED, frame: e.frame() }),
                    }
                }
            }
        }
        Ok(found)
    }

    fn answer_result(&self, run: RunKey, asked: u64, reply: Result<(RunState, Payload)>, out: &mut Outbox) {
        let awaiters = self.awaiters.results.lock().unwrap_or_else(PoisonError::into_inner).take(&run, asked);
        for a in awaiters {
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

    /// Only to those whom the look behind us was for: who asked since has a right to one of his own, however short his time.
    async fn say_overdue(self: &Arc<Self>, asked: u64) {
        for (_, a) in overdue(&self.awaiters.events, asked) {
            Outbox::default().complete(&a.client, a.token, nothing());
        }
        let late = overdue(&self.awaiters.results, asked);
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

    /// The end of a run of this process is committed, or its retry as a whole.
    pub fn run_ended(self: &Arc<Self>, exec: &Arc<Exec>, write: &Write, out: &mut Outbox) {
        if let Write::Outcome { run, state, value, .. } = write {
            self.answer_result(*run, u64::MAX, Ok((*state, value.clone())), out);
            self.woken_waiters(*run);
            if exec.parent.is_some() {
                // A parent that was released is ready now.
                self.claims.look();
            }
            if self.awaiters.awaits_event_of(*run) {
                // What it has not published by now never comes.
                self.awaiters.look();
            }
        }
        // A retry of the whole run is another execution, and this one's calls are nobody's.
        let mut st = exec.lock();
        exec.answer_open_calls(&mut st, "ended", out);
        let has_children = st.has_children;
        drop(st);
        if has_children && matches!(write, Write::Outcome { .. }) {
            self.close_children(exec.run);
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
    use super::super::by_hand::{ByHand, asked, receive};
    use super::*;
    use crate::protocol::ops::kind;

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
        let (results, events) = (h.engine.awaiters.results.lock().unwrap(), h.engine.awaiters.events.lock().unwrap());
        assert!(results.by_name.is_empty() && events.by_name.is_empty());
    }

    #[test]
    fn an_answer_is_for_those_who_had_asked_when_it_was_looked_for() {
        let h = ByHand::open(true);
        let client = h.engine.client(1).unwrap();
        let run = uuid::Uuid::now_v7();
        let key = || "key".to_owned();
        h.engine.await_event(client.clone(), 7, run, key(), None);
        let asked = h.engine.awaiters.asked.load(Ordering::Relaxed);
        // Between the two the run was started.
        h.engine.await_event(client.clone(), 8, run, key(), None);
        let mut events = h.engine.awaiters.events.lock().unwrap();
        assert_eq!(events.take(&(run, key()), asked).iter().map(|a| a.token).collect::<Vec<_>>(), [7]);
        drop(events);
        assert!(h.engine.awaiters.awaits_event_of(run) && !h.engine.awaiters.awaits_event_of(uuid::Uuid::nil()));
        h.engine.give_up(&client, 8);
        assert!(!h.engine.awaiters.awaits_event_of(run));
    }

    /// Its host held the promise and the frames of each for good, one a try.
    #[test]
    fn what_a_run_that_is_retried_had_open_is_answered() {
        let h = ByHand::open(true);
        let exec = h.claim(|_| {});
        exec.begin_wait(&h.engine, asked("", 1, kind::RECEIVE, "a"), receive("a"), &mut Outbox::default()).unwrap();
        h.commit();
        let retry = Write::RetryRun { run: exec.run, epoch: 1, after_ms: 0, attempt: 1, token: 1, error: Payload::default() };
        exec.write_end(&h.engine, 2, retry);
        h.commit();
        assert_eq!(h.told().iter().map(|e| (e.token, e.kind)).collect::<Vec<_>>(), [(1, event::COMPLETED), (2, event::COMPLETED)]);
    }
}
