//! Hints between processes and what follows from them. A hint is never needed: everything it speeds up is also found by polling.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::counters::Counters;
use super::{Engine, Outbox, Phase};
use crate::run::exec::Exec;
use crate::store::{Due, Effect, NewRun, Route, RunKey, Verdict, WakeHint, Write};

/// The first hint goes at once; those within this time after it go together.
const COALESCE: Duration = Duration::from_millis(10);
/// How long after somebody asked this process tells the ends of its runs.
const INTEREST: Duration = Duration::from_secs(30);

/// What to say again under the epoch the run has now.
pub type Again = Box<dyn FnOnce(&Arc<Engine>, i32) + Send>;

#[derive(Default)]
pub struct Wakes {
    pending: Mutex<Vec<WakeHint>>,
    filled: Notify,
    /// Somebody in another process awaits results.
    interest: Mutex<Option<Instant>>,
    /// Executions here by the run whose event or end they wait for.
    watched: Mutex<HashMap<RunKey, HashSet<u64>>>,
    ord: std::sync::atomic::AtomicI64,
}

impl Wakes {
    pub fn tell(&self, hint: WakeHint) {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        if let WakeHint::Timer(ms) = hint
            && let Some(WakeHint::Timer(first)) = pending.iter_mut().find(|h| matches!(h, WakeHint::Timer(_)))
        {
            *first = ms.min(*first);
        } else if pending.contains(&hint) {
            return;
        } else {
            pending.push(hint);
        }
        drop(pending);
        self.filled.notify_one();
    }

    /// Orders the messages this process sends: its clock, but never the same twice and never back.
    pub fn next_ord(&self) -> i64 {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_micros() as i64);
        let before = self.ord.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(now.max(last + 1)));
        now.max(before.unwrap_or_default() + 1)
    }

    fn somebody_awaits(&self) -> bool {
        self.interest.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|at| at.elapsed() < INTEREST)
    }
}

impl Engine {
    pub(super) async fn tell_hints(self: Arc<Self>) {
        loop {
            self.wakes.filled.notified().await;
            let hints = std::mem::take(&mut *self.wakes.pending.lock().unwrap_or_else(PoisonError::into_inner));
            if hints.is_empty() {
                continue;
            }
            Counters::add(&self.counters.hints, 1);
            if let Err(e) = self.store.hint(&hints).await {
                self.outage(&e);
            }
            tokio::time::sleep(COALESCE).await;
        }
    }

    pub(super) async fn hear_hints(self: Arc<Self>) {
        loop {
            for hint in self.store.next_hints().await {
                self.heard(&hint);
            }
        }
    }

    fn heard(self: &Arc<Self>, hint: &WakeHint) {
        match hint {
            WakeHint::Ready => self.claims.look(),
            WakeHint::ReadyOn(number) => {
                if self.served().hears(*number) {
                    self.claims.heard(*number);
                }
            }
            WakeHint::Left(number) => {
                if self.served().hears(*number) {
                    self.claims.look();
                }
            }
            WakeHint::Timer(ms) => {
                if self.incarnation().is_some() || !self.others_awake() {
                    self.ticks.within(*ms);
                }
            }
            WakeHint::Lease(ms) => {
                self.ticks.others_until(*ms);
                self.ticks.within(*ms + 20);
            }
            WakeHint::Inbox(owner) => {
                if owner.is_nil() || Some(*owner) == self.incarnation() {
                    self.spawn(|engine| async move { _ = engine.look_at_moved().await });
                }
            }
            WakeHint::Finished => self.awaiters.look(),
            WakeHint::Awaiting => *self.wakes.interest.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now()),
            WakeHint::Queues => self.ticks.now(),
            WakeHint::Resync => {
                self.claims.look();
                self.ticks.now();
                self.awaiters.look();
                self.spawn(|engine| async move { _ = engine.look_at_moved().await });
            }
        }
    }

    /// What a committed batch means for others: who here can be told directly is, the rest gets a hint.
    pub(super) fn hint_about(self: &Arc<Self>, writes: &[Write], verdicts: &[Verdict]) {
        for (write, verdict) in writes.iter().zip(verdicts) {
            match (write, verdict) {
                (Write::Start(run), Verdict::Started { claimed: false }) => self.hint_new(run),
                (Write::Start(run), Verdict::Started { claimed: true }) => {
                    if let Some(ms) = run.deadline_ms {
                        self.timer_set(ms);
                    }
                }
                (Write::Send(m), Verdict::Committed) => self.woken(m.to),
                (Write::Step { run, step, .. }, Verdict::Committed) => self.hint_effects(*run, &step.effects),
                (Write::Release { due: Some(due), .. }, Verdict::Committed) => self.timer_set(in_ms(due)),
                // Without a back-off (full jitter may draw none) it is ready now, and no timer will say so.
                (Write::RetryRun { after_ms, .. }, Verdict::Committed) => {
                    self.timer_set(*after_ms);
                    self.claims.look();
                }
                (Write::Outcome { then, .. }, Verdict::Committed) => {
                    if let Some(run) = then {
                        self.hint_new(run);
                    }
                    if self.wakes.somebody_awaits() {
                        self.wakes.tell(WakeHint::Finished);
                    }
                }
                (Write::GiveBack { .. }, Verdict::Committed) => self.wakes.tell(WakeHint::Ready),
                _ => {}
            }
        }
    }

    fn hint_effects(self: &Arc<Self>, run: RunKey, effects: &[Effect]) {
        for effect in effects {
            match effect {
                Effect::Send(m) => self.woken(m.to),
                Effect::SetEvent { .. } => {
                    self.woken_waiters(run);
                    if self.wakes.somebody_awaits() {
                        self.wakes.tell(WakeHint::Finished);
                    }
                }
                Effect::StartChild(run) => self.hint_new(run),
                Effect::Consume { .. } | Effect::CloseWait | Effect::CloseWaitOf(_) => {}
            }
        }
    }

    fn hint_new(self: &Arc<Self>, run: &NewRun) {
        if let Some(ms) = run.start.as_ref().map(in_ms).into_iter().chain(run.deadline_ms).chain(run.expires_ms).min() {
            self.timer_set(ms);
        }
        if run.start.is_none() {
            self.hint_start(&run.route);
        }
    }

    /// A run is ready. Others hear of it unless this process is about to take it itself.
    fn hint_start(self: &Arc<Self>, route: &Route) {
        let mine = self.config.role == super::Role::Worker
            && self.phase() == Phase::Launched
            && self.held().is_none()
            && self.serves_queue(&route.queue)
            && self.queues.is_free(&route.queue)
            && !self.crowded()
            && !self.history_full()
            && self.registered(&route.workflow).is_some_and(|w| self.slots_of(w.client).is_some_and(|s| s.load(Ordering::Relaxed) > 0));
        if self.config.role == super::Role::Worker {
            self.claims.look();
        }
        if !mine {
            self.wakes.tell(WakeHint::ReadyOn(route.id));
        }
    }

    /// This process has set a timer. It fires it itself while it is there; a worker with a lease is missed when it is not, of anyone else others must
    /// know.
    pub(super) fn timer_set(self: &Arc<Self>, ms: i64) {
        self.ticks.within(ms);
        if self.incarnation().is_none() {
            self.wakes.tell(WakeHint::Timer(ms));
        }
    }

    /// This run's inbox has grown.
    fn woken(self: &Arc<Self>, run: RunKey) {
        match self.exec_of(run) {
            Some(exec) => exec.look_at_waits(self, &mut exec.lock()),
            None => {
                // Released: it is ready now. Parked in another process: the store has seen its owner and tells it.
                self.claims.look();
            }
        }
    }

    /// Remember that this execution waits for something of that run.
    pub fn watch(&self, target: RunKey, exec: u64) {
        let mut watched = self.wakes.watched.lock().unwrap_or_else(PoisonError::into_inner);
        watched.entry(target).or_default().insert(exec);
    }

    /// It waits for that run no more. Most runs end elsewhere, and nothing here would ever take its entry out.
    pub fn unwatch(&self, target: RunKey, exec: u64) {
        let mut watched = self.wakes.watched.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(execs) = watched.get_mut(&target) {
            execs.remove(&exec);
            if execs.is_empty() {
                watched.remove(&target);
            }
        }
    }

    #[cfg(test)]
    pub fn watched(&self) -> usize {
        self.wakes.watched.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Executions here that wait for this run's end or events look again.
    pub(super) fn woken_waiters(self: &Arc<Self>, target: RunKey) {
        let watching = self.wakes.watched.lock().unwrap_or_else(PoisonError::into_inner).remove(&target);
        for exec in watching.into_iter().flatten().filter_map(|id| self.exec(id)) {
            exec.look_at_waits(self, &mut exec.lock());
        }
    }

    /// Of the parked runs here, those whose row moved: a message, an event, a child's end, a cancel from another process.
    /// True: there were some.
    pub async fn look_at_moved(self: &Arc<Self>) -> bool {
        let Some(incarnation) = self.incarnation() else { return false };
        let execs: HashMap<RunKey, Arc<Exec>> = self.all_execs().into_iter().map(|e| (e.run, e)).collect();
        if execs.is_empty() {
            return false;
        }
        let seen: Vec<(RunKey, i32, i32)> = execs
            .values()
            .map(|e| {
                let st = e.lock();
                (e.run, st.epoch, st.inbox)
            })
            .collect();
        let moved = self.persist(|| self.store.moved(incarnation, &seen)).await;
        let mut out = Outbox::default();
        for now in &moved {
            if let Some(exec) = execs.get(&now.key) {
                exec.learn(self, Some(now), &mut out);
            }
        }
        !moved.is_empty()
    }

    /// A write of this execution was refused: what does the database say of the run? `again` gets the epoch if it is still ours.
    pub fn ask_owner(self: &Arc<Self>, exec: &Arc<Exec>, again: Again) {
        let exec = exec.clone();
        self.spawn(move |engine| async move {
            let incarnation = engine.incarnation().unwrap_or_default();
            let runs = [exec.run];
            let now = engine.persist(|| engine.store.recheck(incarnation, &runs)).await;
            let mut out = Outbox::default();
            let epoch = exec.learn(&engine, now.first(), &mut out);
            out.flush();
            if let Some(epoch) = epoch {
                again(&engine, epoch);
            }
        });
    }
}

/// From now on by this host's clock. A clock that is off makes a tick early, or as late as the next beat: when a timer is due, the database says.
fn in_ms(due: &Due) -> i64 {
    match due {
        Due::After(ms) => *ms,
        Due::At(us) => {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64);
            us / 1000 - now
        }
    }
}
