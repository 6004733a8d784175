//! From operation numbers to the engine: reads frames, calls, writes frames. No rule lives here.

use std::sync::Arc;

use super::client::{Client, Event};
use super::errors::Code;
use super::frame::{Reader, Writer};
use super::ops::{event, kind, op};
use crate::engine::error::{EngineError, Result};
use crate::engine::options::StartOptions;
use crate::engine::{Engine, Outbox, control, identity};
use crate::run::begin::Asked;
use crate::run::exec::Exec;
use crate::run::finish::Finished;
use crate::run::refused::AGAIN_MS;
use crate::run::retry::{PartialRetry, RetryPolicy};
use crate::run::transactions::{roll_back, statement_error};
use crate::run::verdict;
use crate::run::waits::WaitFor;
use crate::store::{ClosePolicy, Due, Effect, Parent, Payload, Placeholders, SqlValue, WaitKind, Write};

fn unknown(number: u32) -> EngineError {
    EngineError::new(Code::FrameInvalid, format!("there is no such operation here: {number}"))
}

fn malformed(what: &str) -> EngineError {
    EngineError::new(Code::FrameInvalid, what.to_owned())
}

/// Who asks for a change of a run: a name like every other.
fn actor(by: Option<&str>) -> Result<String> {
    let by = by.unwrap_or("client");
    identity::check_name("by", by)?;
    Ok(by.to_owned())
}

fn exec(engine: &Engine, r: &mut Reader<'_>) -> Result<Option<Arc<Exec>>> {
    Ok(engine.exec(r.int()? as u64))
}

/// The head every `begin_*` has in common; the reader stands behind `flags`.
struct Head<'a> {
    branch: &'a str,
    token: u64,
    flags: i64,
}

/// It is part of a row's key, and PostgreSQL takes no key of more than a third of a page.
const LONGEST_BRANCH: usize = 2000;

fn head<'a>(r: &mut Reader<'a>) -> Result<Head<'a>> {
    let branch = r.str()?;
    if branch.len() > LONGEST_BRANCH || branch.chars().any(char::is_control) {
        let what = "the keys of a branch and of those it is in";
        return Err(EngineError::new(Code::IdInvalid, format!("{what} must be together at most {LONGEST_BRANCH} bytes, without control characters")));
    }
    Ok(Head { branch, token: r.int()? as u64, flags: r.int()? })
}

impl<'a> Head<'a> {
    fn ask(self, kind: i16, name: &'a str, location: &'a str) -> Asked<'a> {
        Asked { branch: self.branch, token: self.token, flags: self.flags, kind, name, location, digest: None, policy: RetryPolicy::none() }
    }
}

pub fn call(engine: &Arc<Engine>, number: u32, frame: &[u8]) -> Result<Vec<u8>> {
    let mut r = Reader::new(frame);
    match number {
        op::REGISTER => engine.register(frame),
        op::INFO => Ok(control::one_str(&engine.info())),
        op::RUN_KEY => Ok(control::one_str(&engine.key_of(r.str()?)?.to_string())),
        op::MIGRATION_SQL => {
            let (store, schema) = (r.str()?, r.opt_str()?);
            Ok(control::one_str(&crate::store::migration_sql(store, schema.unwrap_or(&engine.config.store.schema)).map_err(EngineError::from)?))
        }
        _ => {
            let Some(exec) = exec(engine, &mut r)? else {
                return Ok(dead(number));
            };
            let mut out = Outbox::default();
            let answer = in_run(engine, &exec, number, &mut r, &mut out);
            // A call may have parked the run or woken it.
            exec.after_change(engine, &mut exec.lock());
            answer
        }
    }
}

/// What a call on an execution that has ended answers.
fn dead(number: u32) -> Vec<u8> {
    let mut w = Writer::new();
    match number {
        op::TURN => w.bool(false),
        op::PATCH => w.bool(false),
        op::ABANDON | op::LEAVE_BRANCH => &mut w,
        _ => return verdict::stopped("ended"),
    };
    w.finish()
}

fn in_run(engine: &Arc<Engine>, exec: &Arc<Exec>, number: u32, r: &mut Reader<'_>, out: &mut Outbox) -> Result<Vec<u8>> {
    match number {
        op::BEGIN_STEP => {
            let h = head(r)?;
            let kind = r.int()? as i16;
            if !matches!(kind, kind::STEP | kind::TRANSACTION) {
                return Err(malformed("begin_step takes kind step or transaction"));
            }
            let (name, location, arguments, key) = (r.str()?, r.opt_str()?.unwrap_or_default(), r.opt_bytes()?, r.opt_str()?);
            identity::check_name("the step's name", name)?;
            let retry = PartialRetry::read(r)?;
            if let Some(refused) = retry.as_ref().and_then(PartialRetry::refused) {
                return Err(EngineError::new(Code::ConfigInvalid, format!("step \"{name}\": {refused}")));
            }
            let policy = retry.map_or_else(RetryPolicy::none, |r| r.policy());
            let asked = Asked { digest: identity::digest(name, arguments, key), policy, ..h.ask(kind, name, location) };
            exec.begin_step(engine, asked, out)
        }
        op::TURN => {
            let mut st = exec.lock();
            let (mut more, completion) = exec.turn(&mut st);
            if completion.is_none() && !more {
                more = exec.judge_deferred(engine, &mut st, out);
            }
            let mut w = Writer::new();
            w.bool(more);
            if let Some((token, verdict)) = completion {
                w.int(token as i64).bytes(&verdict);
            }
            Ok(w.finish())
        }
        op::BEGIN_GROUP => {
            let (branch, flags, group, location) = (r.str()?, r.int()?, r.str()?, r.opt_str()?.unwrap_or_default());
            let decided = match group {
                "all" | "map" => false,
                "any" | "race" => true,
                other => return Err(malformed(&format!("there is no group kind {other}"))),
            };
            let asked = Head { branch, token: 0, flags }.ask(kind::GROUP, group, location);
            exec.begin_group(engine, asked, decided, out)
        }
        op::BEGIN_WAIT => {
            let h = head(r)?;
            let (what, location) = (r.str()?, r.opt_str()?.unwrap_or_default());
            let (after, at, target, key) = (r.opt_ms()?, r.opt_int()?, r.opt_str()?, r.opt_str()?);
            let due = at.map(Due::at).or(after.map(|ms| Due::After(ms.max(0))));
            let target = target.map(control::run_key).transpose()?;
            let (kind, wait) = match what {
                "sleep" => (kind::SLEEP, WaitKind::Sleep),
                "receive" => (kind::RECEIVE, WaitKind::Receive),
                "event" => (kind::EVENT, WaitKind::Event),
                "result" => (kind::RESULT, WaitKind::Result),
                other => return Err(malformed(&format!("there is no wait {other}"))),
            };
            match wait {
                WaitKind::Sleep if due.is_none() => return Err(malformed("a sleep needs a time")),
                WaitKind::Event | WaitKind::Result if target.is_none() => return Err(malformed("this wait needs a run")),
                WaitKind::Event => identity::check_name("the event's key", key.unwrap_or_default())?,
                // The empty topic is the default one.
                WaitKind::Receive if key.is_some_and(|topic| !topic.is_empty()) => identity::check_name("the topic", key.unwrap_or_default())?,
                _ => {}
            }
            let key = key.unwrap_or_default().to_owned();
            // The name is what the mismatch text shows, and what must not change under a running workflow.
            let name = if key.is_empty() { what.to_owned() } else { key.clone() };
            exec.begin_wait(engine, h.ask(kind, &name, location), WaitFor { kind: wait, due, target, key }, out)
        }
        op::BEGIN_VALUE => {
            let h = head(r)?;
            let (which, location) = (r.str()?, r.opt_str()?.unwrap_or_default());
            exec.begin_value(engine, h.ask(kind::VALUE, which, location), which, out)
        }
        op::PATCH => {
            let (branch, _flags, name, location) = (r.str()?, r.int()?, r.str()?, r.opt_str()?.unwrap_or_default());
            identity::check_name("the patch's name", name)?;
            let mut w = Writer::new();
            w.bool(exec.patch(engine, branch, name, location)?);
            Ok(w.finish())
        }
        op::BEGIN_SEND => {
            let h = head(r)?;
            let (location, to, topic) = (r.opt_str()?.unwrap_or_default(), control::run_key(r.str()?)?, r.opt_str()?.unwrap_or_default());
            let (value, key) = (r.bytes()?, r.opt_str()?);
            let mut message = engine.new_message(to, topic, value, key)?;
            let digest = identity::digest("send", Some(value), Some(&format!("{to}/{topic}")));
            let asked = Asked { digest, ..h.ask(kind::SEND, "send", location) };
            exec.begin_effect(
                engine,
                asked,
                Payload::default(),
                |at| {
                    // The send repeated after a crash is the same message.
                    if key.is_none() {
                        message.id = exec.placed(at).sent_key(to, topic, value);
                    }
                    Ok(Effect::Send(message))
                },
                out,
            )
        }
        op::BEGIN_EVENT => {
            let h = head(r)?;
            let (location, key, value) = (r.opt_str()?.unwrap_or_default(), r.str()?, r.bytes()?);
            identity::check_name("the event's key", key)?;
            if value.len() > engine.config.max_payload {
                return Err(EngineError::new(
                    Code::PayloadTooLarge,
                    format!("The event is {} bytes; the limit is {}.", value.len(), engine.config.max_payload),
                ));
            }
            let effect = Effect::SetEvent { key: key.to_owned(), value: Payload::json(value.to_vec()) };
            exec.begin_effect(engine, h.ask(kind::EVENT_SET, key, location), Payload::default(), |_| Ok(effect), out)
        }
        op::BEGIN_CHILD => {
            let h = head(r)?;
            let (location, workflow, input) = (r.opt_str()?.unwrap_or_default(), r.str()?, r.opt_bytes()?);
            let options = StartOptions::read(r)?;
            let policy = match r.opt_str()?.unwrap_or("cancel") {
                "cancel" => ClosePolicy::Cancel,
                "abandon" => ClosePolicy::Abandon,
                other => return Err(malformed(&format!("policy must be cancel or abandon, not {other}"))),
            };
            let unchecked = options.unchecked;
            let child = engine.new_run(workflow, input, options, Some(Parent { run: exec.run, root: exec.root, policy }))?;
            let asked = Asked { digest: identity::digest(workflow, input, None), ..h.ask(kind::CHILD, workflow, location) };
            exec.begin_child(engine, asked, child, unchecked, out)
        }
        op::ABANDON => {
            let why = r.str()?.to_owned();
            let mut st = exec.lock();
            let (run, epoch, inbox) = (exec.run, st.epoch, st.inbox);
            // What this process cannot run at all it would take again at once, and again.
            let broken = matches!(why.as_str(), "internal" | "no_thread" | "unknown_workflow") && st.cancel.is_none();
            exec.stop(&mut st, "abandoned", &why, out);
            drop(st);
            engine.end_with(exec, if broken { Write::Release { run, epoch, inbox, due: Some(Due::After(AGAIN_MS)) } } else { Write::GiveBack { run, epoch } });
            Ok(vec![])
        }
        op::LEAVE_BRANCH => {
            exec.lock().leave_branch(r.str()?);
            Ok(vec![])
        }
        op::TX_GUARD => {
            let (branch, seq, _attempt, output) = (r.str()?, r.int()? as i32, r.int()?, r.bytes()?);
            let style = match r.str()? {
                "dollar" => Placeholders::Dollar,
                "percent" => Placeholders::Percent,
                "named" => Placeholders::Named,
                "question" => Placeholders::Question,
                other => return Err(malformed(&format!("there is no placeholder style {other}"))),
            };
            let guard = exec.tx_guard(engine, branch, seq, output, style)?;
            let mut w = Writer::new();
            w.str(&guard.sql).list(guard.params.len());
            for p in &guard.params {
                w.opt_str(p.as_deref());
            }
            Ok(w.finish())
        }
        other => Err(unknown(other)),
    }
}

pub fn submit(engine: &Arc<Engine>, client: &Arc<Client>, token: u64, number: u32, frame: &[u8]) -> Result<()> {
    let mut r = Reader::new(frame);
    match number {
        op::FINISH_STEP => {
            let Some(exec) = exec(engine, &mut r)? else { return ended(client, token) };
            let (branch, seq, attempt, failed, output) = (r.str()?, r.int()? as i32, r.int()? as i32, r.bool()?, r.opt_bytes()?.unwrap_or_default());
            let (retryable, _type, _message, stopped) = (r.bool()?, r.opt_str()?, r.opt_str()?, r.bool()?);
            let mut out = Outbox::default();
            exec.finish_step(engine, Finished { branch, seq, attempt, failed, output, retryable, stopped, token }, &mut out);
        }
        op::FINISH_RUN => {
            let Some(exec) = exec(engine, &mut r)? else { return ended(client, token) };
            let (failed, value, error_type, error_message, retryable, cancelled) =
                (r.bool()?, r.opt_bytes()?.unwrap_or_default(), r.opt_str()?, r.opt_str()?, r.bool()?, r.bool()?);
            exec.finish_run(engine, token, failed, value, error_type, error_message, retryable, cancelled, &mut Outbox::default());
        }
        op::FINISH_GROUP => {
            let Some(exec) = exec(engine, &mut r)? else { return ended(client, token) };
            exec.finish_group(engine, r.str()?, r.int()? as i32, r.str()?, token, &mut Outbox::default());
        }
        op::TX_DONE => {
            let Some(exec) = exec(engine, &mut r)? else { return ended(client, token) };
            let (branch, seq, _attempt, outcome, output) = (r.str()?, r.int()? as i32, r.int()?, r.str()?, r.opt_bytes()?.unwrap_or_default());
            exec.tx_done(engine, branch, seq, outcome, output, token, &mut Outbox::default());
        }
        op::TX_COMMIT => {
            let tx = r.int()?;
            let Some(exec) = exec(engine, &mut r)? else {
                let open = engine.transactions.remove(tx);
                engine.spawn(move |_| async move { roll_back(open).await });
                return ended(client, token);
            };
            let (branch, seq, _attempt, output) = (r.str()?, r.int()? as i32, r.int()?, r.bytes()?);
            exec.tx_commit(engine, tx, branch, seq, output, token, &mut Outbox::default());
        }
        op::TX_OPEN => {
            let Some(exec) = exec(engine, &mut r)? else { return ended(client, token) };
            let (branch, seq) = (r.str()?.to_owned(), r.int()? as i32);
            let site = exec.site_of(&branch, seq)?;
            engine.answer(client.clone(), token, move |engine| async move {
                engine.roll_back_of(exec.id, &(branch.as_str().into(), seq));
                let tx = engine.within_budget(|| engine.store.begin(&site)).await?;
                if let Err(gone) = exec.site_of(&branch, seq) {
                    tx.rollback().await;
                    return Err(gone);
                }
                let mut w = Writer::new();
                w.int(engine.transactions.add(exec.id, (branch.as_str().into(), seq), tx));
                Ok(w.finish())
            });
        }
        op::TX_EXECUTE => {
            let (tx, sql) = (r.int()?, r.str()?.to_owned());
            let params = sql_values(&mut r)?;
            engine.answer(client.clone(), token, move |engine| async move {
                let gone =
                    || EngineError::new(Code::TransactionTooLong, "This transaction is over: its function has returned, or it took longer than 5 s on SQLite.");
                let open = engine.transactions.get(tx).ok_or_else(gone)?;
                let mut open = open.lock().await;
                let rows = open.as_mut().ok_or_else(gone)?.execute(&sql, &params).await.map_err(statement_error)?;
                Ok(sql_rows(&rows))
            });
        }
        op::TX_ROLLBACK => {
            let open = engine.transactions.remove(r.int()?);
            engine.answer(client.clone(), token, |_| async move {
                roll_back(open).await;
                Ok(vec![])
            });
        }
        _ => outside(engine, client, token, number, frame)?,
    }
    Ok(())
}

/// Operations from outside any run: the first one reaches for the database.
fn outside(engine: &Arc<Engine>, client: &Arc<Client>, token: u64, number: u32, frame: &[u8]) -> Result<()> {
    let mut r = Reader::new(frame);
    match number {
        op::LAUNCH => engine.answer(client.clone(), token, |e| async move { e.launch().await }),
        op::CONNECT => engine.answer(client.clone(), token, |e| async move {
            let notice = e.connect().await?;
            let mut w = Writer::new();
            w.opt_str(notice.as_deref());
            Ok(w.finish())
        }),
        op::DRAIN => {
            let budget = std::time::Duration::from_millis(r.int()?.max(0) as u64);
            engine.answer(client.clone(), token, move |e| async move {
                e.drain(budget).await;
                Ok(vec![])
            });
        }
        op::ADOPT => engine.answer(client.clone(), token, |e| async move { e.adopt().await }),
        op::MIGRATE => engine.answer(client.clone(), token, |e| async move { e.migrate().await }),
        // In memory up to the commit once connected: no task of its own.
        op::START if engine.is_connected() => engine.start(client.clone(), token, frame)?,
        op::START_MANY if engine.is_connected() => engine.start_many(client.clone(), token, frame)?,
        op::SEND if engine.is_connected() => engine.send(client.clone(), token, frame)?,
        op::START | op::START_MANY | op::SEND => {
            let (client, frame) = (client.clone(), frame.to_vec());
            engine.spawn(move |engine| async move {
                let connected = engine.connect().await;
                let begun = connected.and_then(|_| submit(&engine, &client, token, number, &frame));
                if let Err(e) = begun {
                    Outbox::default().push(&client, Event { token, kind: event::FAILED, frame: e.frame() });
                }
            });
        }
        op::AWAIT_RESULT => {
            let (run, timeout) = (control::run_key(r.str()?)?, r.opt_int()?);
            connected(engine, client, token, move |e, client| e.await_result(client, token, run, timeout));
        }
        op::GET_EVENT => {
            let (run, key, timeout) = (control::run_key(r.str()?)?, r.str()?.to_owned(), r.opt_int()?);
            identity::check_name("the event's key", &key)?;
            connected(engine, client, token, move |e, client| e.await_event(client, token, run, key, timeout));
        }
        op::GET_RUN => {
            let run = control::run_key(r.str()?)?;
            engine.answer(client.clone(), token, move |e| async move {
                e.connect().await?;
                e.get_run(run).await
            });
        }
        op::LIST_RUNS => {
            let frame = frame.to_vec();
            engine.answer(client.clone(), token, move |e| async move {
                e.connect().await?;
                e.list_runs(&frame).await
            });
        }
        op::LIST_STEPS => {
            let (run, after, limit) = (control::run_key(r.str()?)?, r.opt_str()?.map(str::to_owned), r.opt_int()?.unwrap_or(1000).clamp(1, 10_000));
            engine.answer(client.clone(), token, move |e| async move {
                e.connect().await?;
                e.list_steps(run, after, limit).await
            });
        }
        op::CANCEL_RUN => {
            let (run, by, why) = (control::run_key(r.str()?)?, actor(r.opt_str()?)?, crate::run::text::short(r.opt_str()?.unwrap_or("requested")));
            engine.answer(client.clone(), token, move |e| async move {
                e.connect().await?;
                e.cancel_run(run, &by, &why).await
            });
        }
        op::RESUME_RUN | op::RETRY_RUN => {
            let (run, by) = (control::run_key(r.str()?)?, actor(r.opt_str()?)?);
            engine.answer(client.clone(), token, move |e| async move {
                e.connect().await?;
                let verdict = if number == op::RESUME_RUN {
                    e.within_budget(|| e.store.resume(run, &by)).await?
                } else {
                    e.within_budget(|| e.store.retry(run, &by)).await?
                };
                e.resumed(run, verdict)
            });
        }
        op::REWIND_RUN => {
            let (run, branch, seq, by) = (control::run_key(r.str()?)?, control::branch(r.str()?)?.to_owned(), r.int()?, actor(r.opt_str()?)?);
            let new_effects = r.opt_bool()?.unwrap_or(false);
            let seq = i32::try_from(seq).ok().filter(|seq| *seq >= 0);
            let seq = seq.ok_or_else(|| EngineError::new(Code::ConfigInvalid, "rewind takes the seq of a recorded step, a number from 0"))?;
            engine.answer(client.clone(), token, move |e| async move {
                e.connect().await?;
                let to = crate::store::Position { segment: 0, branch: branch.as_str().into(), seq };
                let verdict = e.within_budget(|| e.store.rewind(run, &to, new_effects, &by)).await?;
                e.resumed(run, verdict)
            });
        }
        op::PUT_QUEUE => {
            let frame = frame.to_vec();
            engine.answer(client.clone(), token, move |e| async move {
                e.connect().await?;
                e.put_queue(&frame).await
            });
        }
        op::PAUSE_QUEUE => {
            let (name, paused) = (r.str()?.to_owned(), r.bool()?);
            engine.answer(client.clone(), token, move |e| async move {
                e.connect().await?;
                e.pause_queue(&name, paused).await
            });
        }
        op::LIST_QUEUES => engine.answer(client.clone(), token, |e| async move {
            e.connect().await?;
            e.list_queues().await
        }),
        other => return Err(unknown(other)),
    }
    Ok(())
}

fn connected(engine: &Arc<Engine>, client: &Arc<Client>, token: u64, go: impl FnOnce(&Arc<Engine>, Arc<Client>) + Send + 'static) {
    if engine.is_connected() {
        return go(engine, client.clone());
    }
    let client = client.clone();
    engine.spawn(move |engine| async move {
        match engine.connect().await {
            Ok(_) => go(&engine, client),
            Err(e) => Outbox::default().push(&client, Event { token, kind: event::FAILED, frame: e.frame() }),
        }
    });
}

/// An answer for an execution that has ended: everything is `stopped`, nothing is recorded.
fn ended(client: &Arc<Client>, token: u64) -> Result<()> {
    Outbox::default().complete(client, token, verdict::stopped("ended"));
    Ok(())
}

fn sql_values(r: &mut Reader<'_>) -> Result<Vec<SqlValue>> {
    let mut out = Vec::new();
    let Some(mut list) = r.opt_list()? else { return Ok(out) };
    while !list.at_end() {
        out.push(match list.value(0)? {
            super::Value::Null => SqlValue::Null,
            super::Value::Bool(b) => SqlValue::Bool(b),
            super::Value::Int(i) => SqlValue::Int(i),
            super::Value::Float(f) => SqlValue::Float(f),
            super::Value::Str(s) => SqlValue::Text(s),
            super::Value::Bytes(b) => SqlValue::Bytes(b),
            super::Value::List(_) => return Err(malformed("a parameter of a statement is no list")),
        });
    }
    Ok(out)
}

fn sql_rows(rows: &crate::store::SqlRows) -> Vec<u8> {
    let mut w = Writer::new();
    w.list(rows.columns.len());
    for c in &rows.columns {
        w.str(c);
    }
    w.list(rows.rows.len());
    for row in &rows.rows {
        w.list(row.len());
        for value in row {
            match value {
                SqlValue::Null => w.null(),
                SqlValue::Bool(b) => w.bool(*b),
                SqlValue::Int(i) => w.int(*i),
                SqlValue::Float(f) => w.float(*f),
                SqlValue::Text(s) => w.str(s),
                SqlValue::Bytes(b) => w.bytes(b),
            };
        }
    }
    w.int(rows.affected as i64);
    w.finish()
}
