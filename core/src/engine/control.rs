//! Operations on runs and queues from outside: read, cancel, resume, retry, rewind; queues. Each is one store call under the outage budget.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt;

use super::config::Role;
use super::error::{EngineError, Result};
use super::{Engine, Outbox, Phase, records};
use crate::protocol::client::{Client, Event};
use crate::protocol::errors::Code;
use crate::protocol::frame::{Reader, Writer};
use crate::protocol::ops::event;
use crate::store::{ControlVerdict, NewMessage, Payload, Position, Queue, RunFilter, RunKey, RunState, Verdict, WakeHint, Write};

const CHILDREN_PAGE: i64 = 500;
/// Runs of one page of a list.
const MOST_LISTED: i64 = 1000;

pub fn run_key(text: &str) -> Result<RunKey> {
    text.parse().map_err(|_| EngineError::new(Code::RunNotFound, "This is no run's key: a key is a UUID."))
}

fn limit(n: Option<i64>, what: &str, queue: &str) -> Result<Option<i32>> {
    match n {
        None => Ok(None),
        Some(n) if (1..=1_000_000).contains(&n) => Ok(Some(n as i32)),
        Some(n) => Err(EngineError::new(Code::ConfigInvalid, format!("the {what} of queue \"{queue}\" must be 1 to 1000000, not {n}"))),
    }
}

impl Engine {
    /// Answer a submit with what this future gives; it starts when the database has been reached for the first time.
    pub fn answer<F, Fut>(self: &Arc<Self>, client: Arc<Client>, token: u64, work: F)
    where
        F: FnOnce(Arc<Engine>) -> Fut + Send + 'static,
        Fut: Future<Output = Result<Vec<u8>>> + Send + 'static,
    {
        self.spawn(move |engine| async move {
            let mut out = Outbox::default();
            let answer = AssertUnwindSafe(async move { work(engine).await }).catch_unwind().await;
            match answer.unwrap_or_else(|panic| Err(EngineError::panicked(panic))) {
                Ok(frame) => out.complete(&client, token, frame),
                Err(e) => out.push(&client, Event { token, kind: event::FAILED, frame: e.frame() }),
            }
        });
    }

    pub async fn get_run(&self, run: RunKey) -> Result<Vec<u8>> {
        let mut w = Writer::new();
        match self.within_budget(|| self.store.find(run)).await? {
            Some(detail) => {
                let waits_for = self.explain(&detail).await;
                records::run(&mut w, &detail.summary, &records::RunExtras { detail: Some(&detail), waits_for });
            }
            None => {
                w.null();
            }
        }
        Ok(w.finish())
    }

    async fn explain(&self, detail: &crate::store::RunDetail) -> Vec<String> {
        let s = &detail.summary;
        if s.state == RunState::Ready && !s.queue.is_empty() && self.phase() != Phase::Launched {
            // Only a worker is told when a queue changes. Where the database does not answer now, what was known stands.
            if let Ok(queues) = self.store.queues().await {
                self.queues.replace(queues);
            }
        }
        let unlaunched = self.config.role == Role::Worker && self.phase() < Phase::Launched;
        let idle = self.held().or_else(|| unlaunched.then(|| "it is not launched".to_owned()));
        // This host's clock is good enough for a text in words.
        let now_us = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_micros() as i64);
        let mut lines = records::waits_for(detail, idle.as_deref(), self.registered(&s.workflow).is_some(), self.queues.get(&s.queue).as_ref(), now_us);
        lines.extend(self.slow_lines(s.key, &detail.slow));
        lines
    }

    /// One line for `result_timeout`.
    pub async fn what_it_waits_for(&self, run: RunKey) -> String {
        match self.store.find(run).await {
            Ok(Some(detail)) => {
                let lines = self.explain(&detail).await;
                if lines.is_empty() {
                    format!("it is {}", detail.summary.state.name())
                } else {
                    format!("it is {}: {}", detail.summary.state.name(), lines.join("; "))
                }
            }
            Ok(None) => "there is no such run".into(),
            Err(_) => "the database does not answer".into(),
        }
    }

    pub async fn list_runs(&self, frame: &[u8]) -> Result<Vec<u8>> {
        let filter = read_filter(&mut Reader::new(frame))?;
        let mut asked = filter.clone();
        asked.limit += 1;
        let mut runs = self.within_budget(|| self.store.list(&asked)).await?;
        let more = runs.len() as i64 > filter.limit;
        runs.truncate(filter.limit as usize);
        let mut w = Writer::new();
        w.list(runs.len());
        for s in &runs {
            records::run(&mut w, s, &records::RunExtras::default());
        }
        w.opt_str(runs.last().filter(|_| more).map(|s| format!("{}:{}", s.created_at, s.key)).as_deref());
        Ok(w.finish())
    }

    pub async fn list_steps(&self, run: RunKey, after: Option<String>, limit: i64) -> Result<Vec<u8>> {
        let after = after.as_deref().map(read_position).transpose()?;
        let mut steps = self.within_budget(|| self.store.steps(run, after.as_ref(), limit + 1)).await?;
        if steps.is_empty() && after.is_none() && self.within_budget(|| self.store.find(run)).await?.is_none() {
            return Err(not_found(run));
        }
        let more = steps.len() as i64 > limit;
        steps.truncate(limit as usize);
        let mut w = Writer::new();
        w.list(steps.len());
        for s in &steps {
            records::step(&mut w, s);
        }
        let next = steps.last().filter(|_| more).map(|s| format!("{}:{}:{}", s.record.at.segment, s.record.at.seq, s.record.at.branch));
        w.opt_str(next.as_deref());
        Ok(w.finish())
    }

    pub async fn cancel_run(self: &Arc<Self>, run: RunKey, by: &str, why: &str) -> Result<Vec<u8>> {
        let verdict = self.within_budget(|| self.store.cancel(run, by, why, self.config.cancel_grace_ms)).await?;
        let outcome = match verdict {
            ControlVerdict::Done => {
                self.close_children(run);
                self.wakes.tell(WakeHint::Finished);
                self.wakes.tell(WakeHint::Inbox(uuid::Uuid::nil()));
                "cancelled"
            }
            ControlVerdict::Requested => {
                self.wakes.tell(WakeHint::Inbox(uuid::Uuid::nil()));
                self.wakes.tell(WakeHint::Ready);
                // The end of the time for clean-up is a timer.
                self.timer_set(self.config.cancel_grace_ms);
                "requested"
            }
            ControlVerdict::NotPossible(_) => "already_finished",
            ControlVerdict::NotFound => return Err(not_found(run)),
        };
        self.look_at_moved().await;
        self.awaiters.look();
        Ok(one_str(outcome))
    }

    /// Children with policy cancel of a run that has ended, in pages. The end has left a timer: who dies over this is followed by another.
    pub fn close_children(self: &Arc<Self>, parent: RunKey) {
        self.spawn(move |engine| async move {
            loop {
                let page = engine.persist(|| engine.store.open_children(parent, CHILDREN_PAGE)).await;
                let mut stopped = false;
                for child in &page {
                    crate::failpoint!("engine.children.before");
                    let verdict = engine.persist(|| engine.store.cancel(*child, "parent", "the parent run has ended", engine.config.cancel_grace_ms)).await;
                    match verdict {
                        ControlVerdict::Done => {
                            stopped = true;
                            engine.close_children(*child);
                        }
                        ControlVerdict::Requested => stopped = true,
                        ControlVerdict::NotPossible(_) | ControlVerdict::NotFound => {}
                    }
                    crate::failpoint!("engine.children.after");
                }
                if stopped {
                    engine.wakes.tell(WakeHint::Inbox(uuid::Uuid::nil()));
                    engine.look_at_moved().await;
                }
                if (page.len() as i64) < CHILDREN_PAGE {
                    return engine.persist(|| engine.store.children_closed(parent)).await;
                }
            }
        });
    }

    /// What follows from a resume, retry or rewind.
    pub fn resumed(self: &Arc<Self>, run: RunKey, verdict: ControlVerdict) -> Result<Vec<u8>> {
        match verdict {
            ControlVerdict::Done | ControlVerdict::Requested => {
                self.claims.look();
                self.wakes.tell(WakeHint::Ready);
                self.wakes.tell(WakeHint::Inbox(uuid::Uuid::nil()));
                self.spawn(|engine| async move { _ = engine.look_at_moved().await });
                Ok(one_str("resumed"))
            }
            ControlVerdict::NotPossible(_) => Ok(one_str("not_possible")),
            ControlVerdict::NotFound => Err(not_found(run)),
        }
    }

    pub fn send(self: &Arc<Self>, client: Arc<Client>, token: u64, frame: &[u8]) -> Result<()> {
        let mut r = Reader::new(frame);
        let to = run_key(r.str()?)?;
        let message = self.new_message(to, r.str()?, r.bytes()?, r.opt_str()?)?;
        let lane = self.lane_of(to);
        self.write(
            lane,
            Write::Send(message),
            Box::new(move |_, _, answer, out| match answer {
                Ok(Verdict::Committed) => out.complete(&client, token, vec![]),
                Ok(Verdict::Refused { message }) => {
                    out.push(&client, Event { token, kind: event::FAILED, frame: EngineError::new(Code::PayloadInvalid, message).frame() })
                }
                Ok(_) => out.push(&client, Event { token, kind: event::FAILED, frame: not_found(to).frame() }),
                Err(e) => out.push(&client, Event { token, kind: event::FAILED, frame: e.frame() }),
            }),
        );
        Ok(())
    }

    pub fn new_message(&self, to: RunKey, topic: &str, value: &[u8], idempotency_key: Option<&str>) -> Result<NewMessage> {
        if !topic.is_empty() {
            super::identity::check_name("the topic", topic)?;
        }
        if let Some(key) = idempotency_key {
            super::identity::check_name("the idempotency key", key)?;
        }
        if value.len() > self.config.max_payload {
            return Err(EngineError::new(Code::PayloadTooLarge, format!("The message is {} bytes; the limit is {}.", value.len(), self.config.max_payload)));
        }
        Ok(NewMessage {
            to,
            id: idempotency_key.map_or_else(uuid::Uuid::now_v7, |key| super::identity::message_key(to, key)),
            ord: self.wakes.next_ord(),
            topic: topic.to_owned(),
            value: Payload::json(value.to_vec()),
            token: self.random(),
        })
    }

    pub async fn put_queue(self: &Arc<Self>, frame: &[u8]) -> Result<Vec<u8>> {
        let mut r = Reader::new(frame);
        let mut q = r.opt_list()?.ok_or_else(|| EngineError::new(Code::FrameInvalid, "put_queue takes a QUEUE"))?;
        let by_operator = r.bool()?;
        let name = q.str()?.to_owned();
        super::identity::check_name("the queue's name", &name)?;
        let queue = Queue {
            paused: q.bool()?,
            limit: limit(q.opt_int()?, "limit", &name)?,
            worker_limit: limit(q.opt_int()?, "worker_limit", &name)?,
            key_limit: limit(q.opt_int()?, "key_limit", &name)?,
            hold: q.bool()?,
            name,
            rate: None,
            operator: by_operator,
        };
        let queue = self.within_budget(|| self.store.put_queue(&queue, by_operator)).await?;
        Ok(self.queue_changed(&queue))
    }

    /// One statement of the store: whoever read the queue first and wrote it back whole would undo another's change of its limits.
    pub async fn pause_queue(self: &Arc<Self>, name: &str, paused: bool) -> Result<Vec<u8>> {
        super::identity::check_name("the queue's name", name)?;
        match self.within_budget(|| self.store.pause_queue(name, paused)).await? {
            Some(queue) => Ok(self.queue_changed(&queue)),
            None => {
                self.refresh_queues().await?;
                Err(self.unknown_queue(name))
            }
        }
    }

    fn queue_changed(&self, queue: &Queue) -> Vec<u8> {
        self.queues.remember(queue.clone());
        self.served.changed();
        self.wakes.tell(WakeHint::Queues);
        self.claims.look();
        let mut w = Writer::new();
        records::queue(&mut w, queue);
        w.finish()
    }

    pub async fn list_queues(&self) -> Result<Vec<u8>> {
        let queues = self.within_budget(|| self.store.queues()).await?;
        let mut w = Writer::new();
        w.list(queues.len());
        for q in &queues {
            records::queue(&mut w, q);
        }
        Ok(w.finish())
    }
}

pub fn one_str(text: &str) -> Vec<u8> {
    let mut w = Writer::new();
    w.str(text);
    w.finish()
}

pub fn not_found(run: RunKey) -> EngineError {
    EngineError::new(Code::RunNotFound, format!("There is no run {run}."))
}

fn not_a_page(text: &str) -> EngineError {
    let shown: String = text.chars().take(60).collect();
    EngineError::new(Code::ConfigInvalid, format!("`after` must be the `next` of a page of the same list, not {shown:?}"))
}

fn read_position(text: &str) -> Result<Position> {
    let bad = || not_a_page(text);
    let mut parts = text.splitn(3, ':');
    let segment = parts.next().and_then(|p| p.parse().ok()).ok_or_else(bad)?;
    let seq = parts.next().and_then(|p| p.parse().ok()).ok_or_else(bad)?;
    Ok(Position { segment, seq, branch: branch(parts.next().ok_or_else(bad)?).map_err(|_| bad())?.into() })
}

/// PostgreSQL has no text with a U+0000, so no step stands there.
pub fn branch(text: &str) -> Result<&str> {
    if text.contains('\0') { Err(EngineError::new(Code::ConfigInvalid, "a branch is named as in the list of steps, without U+0000")) } else { Ok(text) }
}

fn read_filter(r: &mut Reader<'_>) -> Result<RunFilter> {
    let mut filter = RunFilter { limit: 100, ..RunFilter::default() };
    let Some(mut f) = r.opt_list()? else { return Ok(filter) };
    if let Some(mut states) = f.opt_list()? {
        while !states.at_end() {
            let name = states.str()?;
            filter.states.push(RunState::from_name(name).ok_or_else(|| {
                let near =
                    super::identity::nearest(name, RunState::ALL.into_iter().map(RunState::name)).map_or(String::new(), |n| format!("; did you mean {n}?"));
                EngineError::new(Code::ConfigInvalid, format!("there is no state \"{name}\"{near}"))
            })?);
        }
    }
    let named = |what: &str, name: Option<&str>| name.map(|name| super::identity::check_name(what, name).map(|()| name.to_owned())).transpose();
    filter.workflow = named("the workflow's name", f.opt_str()?)?;
    // Without a name: those outside any queue.
    filter.queue = match f.opt_str()? {
        Some("") => Some(String::new()),
        queue => named("the queue's name", queue)?,
    };
    filter.parent = f.opt_str()?.map(run_key).transpose()?;
    let (attribute, value) = (f.opt_str()?, f.opt_str()?);
    filter.attribute = attribute.zip(value).map(|(name, value)| super::options::attribute(name, value)).transpose()?;
    filter.created_from = f.opt_int()?;
    filter.created_before = f.opt_int()?;
    if let Some(after) = f.opt_str()? {
        let bad = || not_a_page(after);
        let (at, key) = after.split_once(':').ok_or_else(bad)?;
        filter.after = Some((at.parse().map_err(|_| bad())?, key.parse().map_err(|_| bad())?));
    }
    filter.limit = f.opt_int()?.unwrap_or(100);
    if !(1..=MOST_LISTED).contains(&filter.limit) {
        return Err(EngineError::new(Code::ConfigInvalid, format!("limit must be between 1 and {MOST_LISTED}, it is {}", filter.limit)));
    }
    Ok(filter)
}

#[cfg(test)]
mod tests {
    use super::super::by_hand::ByHand;
    use super::*;

    #[test]
    fn a_bug_in_an_operation_is_its_answer() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let h = ByHand::open(false);
        h.engine.set_runtime(runtime.handle().clone());
        let client = h.engine.client(1).unwrap();
        h.engine.answer(client.clone(), 7, |_| async { panic!("a bug") });
        let told = client.drain(1, std::time::Duration::from_secs(30));
        assert_eq!(told.iter().map(|e| (e.token, e.kind)).collect::<Vec<_>>(), [(7, event::FAILED)]);
    }

    /// A FILTER with these, all else left out.
    fn filter(workflow: Option<&str>, queue: Option<&str>, attribute: Option<(&str, &str)>) -> Result<RunFilter> {
        let mut w = Writer::new();
        w.list(10).null().opt_str(workflow).opt_str(queue).null();
        w.opt_str(attribute.map(|(name, _)| name)).opt_str(attribute.map(|(_, value)| value)).null().null().null().null();
        read_filter(&mut Reader::new(&w.finish()))
    }

    #[test]
    fn what_no_run_can_have_is_no_filter() {
        let good = filter(Some("pay"), Some(""), Some(("customer", "\"x\""))).expect("is good");
        assert_eq!((good.workflow.as_deref(), good.queue.as_deref()), (Some("pay"), Some("")));
        assert_eq!(filter(Some("a\0b"), None, None).err().map(|e| e.code), Some(Code::IdInvalid));
        assert_eq!(filter(None, Some("a\0b"), None).err().map(|e| e.code), Some(Code::IdInvalid));
        for attribute in [("a\0b", "1"), ("a", "\"\\u0000\"")] {
            assert_eq!(filter(None, None, Some(attribute)).err().map(|e| e.code), Some(Code::PayloadInvalid));
        }
        assert_eq!(branch("a\0").err().map(|e| e.code), Some(Code::ConfigInvalid));
        assert_eq!(read_position("0:1:a\0").err().map(|e| e.code), Some(Code::ConfigInvalid));
    }

    #[test]
    fn a_limit_that_is_none_is_said_with_its_queue() {
        let refused = limit(Some(0), "key_limit", "mail").expect_err("refused");
        assert_eq!(refused.message, "the key_limit of queue \"mail\" must be 1 to 1000000, not 0");
    }
}
