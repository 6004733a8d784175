//! Transactional steps: the user's rows and the checkpoint commit together (design `semantics.md` §9).
//!
//! The completion number is taken when the checkpoint is written into the user's transaction, before its outcome is known; other
//! completions of the run wait behind it, and a rollback gives it up.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::exec::{Exec, ExecState, Phase};
use super::history::Place;
use super::{text, verdict};
use crate::engine::error::{EngineError, Result};
use crate::engine::{Engine, Outbox};
use crate::protocol::client::Event;
use crate::protocol::errors::Code;
use crate::protocol::ops::event;
use crate::store::{GuardStatement, Payload, Placeholders, Site, StepWrite, StoreError, StoreTransaction, Verdict};

/// Times a transaction runs again after a conflict (40001, 40P01) or a connection lost before its COMMIT; at most a second apart, so a
/// restart of the database is waited out.
const MOST_CONFLICTS: u32 = 60;

type Shared = Arc<tokio::sync::Mutex<Option<Box<dyn StoreTransaction>>>>;

/// One open transaction, and the call it belongs to.
struct Open {
    exec: u64,
    place: Place,
    tx: Shared,
}

/// Transactions open on the engine's own connection.
#[derive(Default)]
pub struct Transactions {
    open: Mutex<(i64, HashMap<i64, Open>)>,
}

impl Transactions {
    pub fn add(&self, exec: u64, place: Place, tx: Box<dyn StoreTransaction>) -> i64 {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.0 += 1;
        let id = open.0;
        open.1.insert(id, Open { exec, place, tx: Arc::new(tokio::sync::Mutex::new(Some(tx))) });
        id
    }

    pub fn get(&self, id: i64) -> Option<Shared> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).1.get(&id).map(|open| open.tx.clone())
    }

    pub fn remove(&self, id: i64) -> Option<Shared> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).1.remove(&id).map(|open| open.tx)
    }

    fn remove_of(&self, exec: u64, place: &Place) -> Option<Shared> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let id = *open.1.iter().find(|(_, open)| open.exec == exec && open.place == *place)?.0;
        open.1.remove(&id).map(|open| open.tx)
    }
}

impl Engine {
    /// End what is open for a call that is over: its host may never have heard of the answer that brought it.
    pub fn roll_back_of(self: &Arc<Self>, exec: u64, place: &Place) {
        if let Some(open) = self.transactions.remove_of(exec, place) {
            self.spawn(move |_| async move { roll_back(Some(open)).await });
        }
    }
}

impl Exec {
    fn place_of(&self, st: &ExecState, branch: &str, seq: i32) -> Option<Place> {
        let place: Place = (branch.into(), seq);
        st.calls.contains_key(&place).then_some(place)
    }

    pub fn site_of(&self, branch: &str, seq: i32) -> Result<Site> {
        let st = self.lock();
        let place: Place = (branch.into(), seq);
        st.calls.get(&place).map(|call| call.site.clone()).ok_or_else(|| nobody_waits(&st))
    }

    /// The checkpoint of this transaction, with its completion number taken.
    fn checkpoint(&self, engine: &Engine, st: &mut ExecState, place: &Place, output: &[u8]) -> Option<StepWrite> {
        let (done, token, conflicts) = match st.calls.get(place)?.phase {
            Phase::InTransaction { done, token, conflicts } => (done, token, conflicts),
            Phase::Running => (st.take_done(), engine.random(), 0),
            _ => return None,
        };
        let call = st.calls.get_mut(place)?;
        call.phase = Phase::InTransaction { done, token, conflicts };
        Some(StepWrite {
            at: self.position(place),
            kind: call.kind,
            site: call.site.clone(),
            digest: call.digest,
            failed: false,
            done,
            seen: call.seen,
            attempt: call.attempt,
            took_us: call.started.elapsed().as_micros() as i64,
            token,
            output: Payload::json(output.to_vec()),
            effects: vec![],
        })
    }

    pub fn tx_guard(self: &Arc<Self>, engine: &Arc<Engine>, branch: &str, seq: i32, output: &[u8], style: Placeholders) -> Result<GuardStatement> {
        if output.len() > engine.config.max_payload {
            return Err(EngineError::new(
                Code::PayloadTooLarge,
                format!("The output of this transaction is {} bytes; the limit is {}.", output.len(), engine.config.max_payload),
            ));
        }
        let mut st = self.lock();
        let stopped = || EngineError::plain(Code::Stopped);
        if st.stopped.is_some() {
            return Err(stopped());
        }
        let place = self.place_of(&st, branch, seq).ok_or_else(|| nobody_waits(&st))?;
        let incarnation = engine.incarnation().ok_or_else(stopped)?;
        let epoch = st.epoch;
        let step = self.checkpoint(engine, &mut st, &place, output).ok_or_else(stopped)?;
        Ok(engine.store.guard(style, incarnation, self.run, epoch, &step))
    }

    /// What the host saw of its transaction.
    pub fn tx_done(self: &Arc<Self>, engine: &Arc<Engine>, branch: &str, seq: i32, outcome: &str, output: &[u8], token: u64, out: &mut Outbox) {
        let mut st = self.lock();
        if let Some(why) = st.stopped {
            return out.complete(&self.client, token, verdict::stopped(why));
        }
        let Some(place) = self.place_of(&st, branch, seq) else {
            return out.complete(&self.client, token, verdict::stopped("superseded"));
        };
        if let Some(call) = st.calls.get_mut(&place) {
            call.token = token;
        }
        match outcome {
            "committed" => self.settle(engine, &mut st, &place, Ok(Verdict::Committed), out),
            "conflict" => self.again_after_conflict(engine, &mut st, &place, out),
            "other_database" => {
                self.roll_back_number(&mut st, &place, out);
                self.record_error(engine, &mut st, &place, "OtherDatabase", Code::OtherDatabase, "The connection of this transaction is not the engine's database, so the two cannot commit together. Use the engine's database, or app.transaction without a source.", vec![]);
            }
            _ => {
                let Some(step) = self.checkpoint(engine, &mut st, &place, output) else {
                    return out.complete(&self.client, token, verdict::stopped("superseded"));
                };
                self.probe(engine, st.epoch, place, step);
            }
        }
    }

    /// A lost COMMIT, a refused guard: ask the database which it was.
    fn probe(self: &Arc<Self>, engine: &Arc<Engine>, epoch: i32, place: Place, step: StepWrite) {
        let exec = self.clone();
        engine.spawn(move |engine| async move {
            let Some(incarnation) = engine.incarnation() else {
                exec.stop(&mut exec.lock(), "lease_lost", "this worker lost its lease", &mut Outbox::default());
                return;
            };
            let verdict = engine.persist(|| engine.store.probe(incarnation, exec.run, epoch, &step)).await;
            let mut out = Outbox::default();
            exec.settle(&engine, &mut exec.lock(), &place, Ok(verdict), &mut out);
            out.flush();
        });
    }

    fn settle(self: &Arc<Self>, engine: &Arc<Engine>, st: &mut ExecState, place: &Place, answer: std::result::Result<Verdict, StoreError>, out: &mut Outbox) {
        if st.stopped.is_some() {
            return;
        }
        let Some(Phase::InTransaction { done, .. }) = st.calls.get(place).map(|c| &c.phase) else { return };
        let done = *done;
        match answer {
            Ok(Verdict::Committed) => {
                crate::failpoint!("engine.transaction.committed");
                engine.claims.clear_suspect(self.run);
                self.complete(st, place, done, verdict::recorded(false, None, place.1), out);
            }
            Ok(Verdict::Adopt(record)) => self.complete(st, place, done, super::begin::replayed(&record, place.1), out),
            Ok(Verdict::NotFound) => self.again_after_conflict(engine, st, place, out),
            Ok(Verdict::Refused { message }) => {
                self.roll_back_number(st, place, out);
                self.record_error(engine, st, place, "TransactionFailed", Code::TransactionFailed, &message, vec![]);
            }
            Ok(_) => {
                // Fenced: nothing of it is stored. Still ours under a new epoch (a cancel came): the workflow sees that here.
                let (exec, place) = (self.clone(), place.clone());
                engine.ask_owner(self, Box::new(move |engine, _| exec.end_at_cancel(engine, &place)));
            }
            Err(e) => {
                self.roll_back_number(st, place, out);
                self.record_error(engine, st, place, "TransactionFailed", Code::TransactionFailed, &e.to_string(), vec![]);
            }
        }
        self.after_change(engine, st);
    }

    /// What the fence refused is still ours. A cancel ends it here, unless it is clean-up: then, as without any, it runs again under the epoch of now.
    fn end_at_cancel(self: &Arc<Self>, engine: &Arc<Engine>, place: &Place) {
        let mut out = Outbox::default();
        let mut st = self.lock();
        if st.calls.get(place).is_some_and(|c| matches!(c.phase, Phase::InTransaction { .. })) {
            self.again_after_conflict(engine, &mut st, place, &mut out);
            self.after_change(engine, &mut st);
        }
        drop(st);
        out.flush();
    }

    fn roll_back_number(&self, st: &mut ExecState, place: &Place, out: &mut Outbox) {
        let Some(call) = st.calls.get_mut(place) else { return };
        if let Phase::InTransaction { done, .. } = call.phase {
            call.phase = Phase::Running;
            self.give_up_number(st, done, out);
        }
    }

    fn again_after_conflict(self: &Arc<Self>, engine: &Arc<Engine>, st: &mut ExecState, place: &Place, out: &mut Outbox) {
        let Some(call) = st.calls.get_mut(place) else { return };
        if st.cancel.is_some() && !call.shielded {
            self.roll_back_number(st, place, out);
            return self.cancel_call(engine, st, place, out);
        }
        let conflicts = match &mut call.phase {
            Phase::InTransaction { conflicts, .. } => {
                *conflicts += 1;
                *conflicts
            }
            // It conflicted before its checkpoint: the number is taken now, and kept for the attempts to come.
            _ => {
                let done = st.take_done();
                if let Some(call) = st.calls.get_mut(place) {
                    call.phase = Phase::InTransaction { done, token: engine.random(), conflicts: 1 };
                }
                1
            }
        };
        if conflicts > MOST_CONFLICTS {
            self.roll_back_number(st, place, out);
            let message = format!("The transaction met {MOST_CONFLICTS} conflicts (40001 or 40P01) or lost connections in a row.");
            return self.record_error(engine, st, place, "TransactionFailed", Code::TransactionFailed, &message, vec![]);
        }
        let (exec, place) = (self.clone(), place.clone());
        engine.spawn(move |engine| async move {
            tokio::time::sleep(engine.back_off(conflicts - 1)).await;
            let st = exec.lock();
            let Some(call) = st.calls.get(&place).filter(|c| st.stopped.is_none() && matches!(c.phase, Phase::InTransaction { .. })) else { return };
            let key = exec.placed(&exec.position(&place)).idempotency_key().to_string();
            Outbox::default().complete(&exec.client, call.token, verdict::run(place.1, call.attempt, &key));
        });
    }

    /// Checkpoint and commit on the engine's own connection.
    pub fn tx_commit(self: &Arc<Self>, engine: &Arc<Engine>, tx: i64, branch: &str, seq: i32, output: &[u8], token: u64, out: &mut Outbox) {
        let mut st = self.lock();
        let open = engine.transactions.remove(tx);
        if let Some(why) = st.stopped {
            drop(st);
            engine.spawn(move |_| async move { roll_back(open).await });
            return out.complete(&self.client, token, verdict::stopped(why));
        }
        let place = self.place_of(&st, branch, seq);
        let step = place.as_ref().and_then(|p| self.checkpoint(engine, &mut st, p, output));
        let (Some(place), Some(step), Some(open), Some(incarnation)) = (place, step, open, engine.incarnation()) else {
            let e = EngineError::new(Code::TransactionFailed, "This transaction is no longer open (on SQLite one may take 5 s at most).");
            return out.push(&self.client, Event { token, kind: event::FAILED, frame: e.frame() });
        };
        if let Some(call) = st.calls.get_mut(&place) {
            call.token = token;
        }
        let epoch = st.epoch;
        let exec = self.clone();
        engine.spawn(move |engine| async move {
            let taken = open.lock().await.take();
            let Some(transaction) = taken else { return };
            let too_large = step.output.data.len() > engine.config.max_payload;
            let answer = if too_large {
                transaction.rollback().await;
                Ok(Verdict::Refused { message: format!("The output is {} bytes; the limit is {}.", step.output.data.len(), engine.config.max_payload) })
            } else {
                transaction.commit(incarnation, exec.run, epoch, &step).await
            };
            match answer {
                Err(StoreError::Unavailable(_) | StoreError::Conflict(_)) => exec.probe(&engine, epoch, place, step),
                answer => {
                    let mut out = Outbox::default();
                    exec.settle(&engine, &mut exec.lock(), &place, answer, &mut out);
                    out.flush();
                }
            }
        });
    }
}

/// Not `stopped` where only this call is over (its branch has lost, its time was out): that would take the whole execution down.
fn nobody_waits(st: &ExecState) -> EngineError {
    match st.stopped {
        Some(_) => EngineError::plain(Code::Stopped),
        None => EngineError::new(Code::TransactionFailed, "Nobody waits for this transaction any longer: another branch was first, or its time was out."),
    }
}

pub async fn roll_back(open: Option<Shared>) {
    if let Some(open) = open {
        let taken = open.lock().await.take();
        if let Some(transaction) = taken {
            transaction.rollback().await;
        }
    }
}

/// The message of a statement the database refused, for the user whose statement it was.
pub fn statement_error(e: StoreError) -> EngineError {
    match e {
        StoreError::Rejected { sqlstate, message } => EngineError::new(Code::TransactionFailed, format!("{message} ({sqlstate})")),
        // The transaction is gone with its connection, and nothing of it is stored: it may run again.
        StoreError::Unavailable(m) | StoreError::Conflict(m) => EngineError::new(Code::Unavailable, m),
        StoreError::Setup { code: "transaction_too_long", message } => EngineError::new(Code::TransactionTooLong, message),
        other => EngineError::new(Code::TransactionFailed, text::short(&other.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::by_hand::{ByHand, asked};
    use crate::protocol::frame::Reader;
    use crate::protocol::ops::{flag, kind, verdict as number};
    use crate::run::begin::Asked;
    use crate::run::finish::Finished;
    use crate::store::CancelRequest;

    /// The verdict of a transaction the fence refused, and who had heard of a cancel by then.
    fn after_fence(flags: i64, cancelled: bool) -> i64 {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let h = ByHand::open(true);
        h.engine.set_runtime(runtime.handle().clone());
        let exec = h.claim(|_| {});
        let asked = Asked { flags, ..asked("", 1, kind::TRANSACTION, "pay") };
        exec.begin_step(&h.engine, asked, &mut Outbox::default()).unwrap();
        let place: Place = ("".into(), 0);
        exec.checkpoint(&h.engine, &mut exec.lock(), &place, b"1").unwrap();
        exec.lock().cancel = cancelled.then(|| CancelRequest { by: "client".into(), why: "requested".into(), grace_left_ms: 60_000 });
        exec.end_at_cancel(&h.engine, &place);
        let told = exec.client.drain(1, std::time::Duration::from_secs(30));
        Reader::new(&told[0].frame).int().unwrap()
    }

    #[test]
    fn a_transaction_of_the_clean_up_runs_again_when_a_cancel_has_fenced_it() {
        assert_eq!(after_fence(0, true), number::CANCELLED);
        assert_eq!(after_fence(flag::SHIELDED, true), number::RUN);
        assert_eq!(after_fence(0, false), number::RUN);
    }

    /// Its answer overtook what was on its way to the database: what followed from the cancel then took places that a replay gives to what followed from
    /// the step.
    #[test]
    fn a_cancel_that_has_fenced_a_transaction_is_heard_behind_the_step_before_it() {
        let h = ByHand::open(true);
        let exec = h.claim(|_| {});
        let (step, tx): (Place, Place) = (("".into(), 0), ("".into(), 1));
        exec.begin_step(&h.engine, asked("", 1, kind::STEP, "s"), &mut Outbox::default()).unwrap();
        exec.begin_step(&h.engine, asked("", 2, kind::TRANSACTION, "pay"), &mut Outbox::default()).unwrap();
        let done = Finished { branch: "", seq: step.1, attempt: 1, failed: false, output: b"1", retryable: false, stopped: false, token: 3 };
        exec.finish_step(&h.engine, done, &mut Outbox::default());
        exec.checkpoint(&h.engine, &mut exec.lock(), &tx, b"1").unwrap();
        exec.lock().cancel = Some(CancelRequest { by: "client".into(), why: "requested".into(), grace_left_ms: 60_000 });
        exec.end_at_cancel(&h.engine, &tx);
        assert_eq!(h.told(), [], "the step's record is on its way");
        h.commit();
        let mut told: Vec<u64> = h.told().iter().map(|e| e.token).collect();
        while let (_, Some((token, _))) = exec.turn(&mut exec.lock()) {
            told.push(token);
        }
        assert_eq!(told, [3, 2]);
    }
}
