//! The dispatcher: one task a process claims for all its queues, in batches bounded by free slots. It looks when something may be ready and a
//! slot is free, so an idle process claims nothing and a full one does not either.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use super::counters::Counters;
use super::{Engine, Outbox, Phase, identity};
use crate::store::{ClaimRequest, ClaimedRun, Due, Position, Route, RunKey, RunState, Verdict, Write};

#[derive(Default)]
pub struct Claims {
    /// Something may be ready that nobody here has looked for yet.
    maybe: AtomicBool,
    wake: Notify,
    /// Workflows with ready runs this process left behind: new starts line up behind them.
    behind: Mutex<HashSet<String>>,
    /// Routes by label besides "" this process serves.
    labels: Mutex<Vec<String>>,
    /// Runs here that may have killed their last two processes, with how often they were there.
    suspects: Mutex<HashMap<RunKey, i32>>,
}

/// Crashes without progress from which a run is a suspect (`core/docs/decisions/0006-suspects-run-in-shrinking-groups.md`).
const SUSPECT: i32 = 2;

/// How many suspects one worker runs at a time when the worst of them has this many crashes left before it is blocked.
fn together(crashes_left: i32) -> usize {
    match crashes_left {
        ..=1 => 1,
        2 => 8,
        _ => 50,
    }
}

/// A suspect that has to wait its turn is put back for so long, ...
const TURN_MS: i64 = 1000;
/// ... and each one behind it a little longer, so that they do not come back as one.
const APART_MS: i64 = 20;

/// Between two looks at a SQLite file nobody was told of.
const LOOK_FILE: std::time::Duration = std::time::Duration::from_secs(1);
/// Rows of one claim at most.
const MOST: i64 = 200;

impl Claims {
    pub fn look(&self) {
        self.maybe.store(true, Ordering::Release);
        self.wake.notify_one();
    }

    pub fn slots_freed(&self) {
        if self.maybe.load(Ordering::Acquire) {
            self.wake.notify_one();
        }
    }

    pub fn became_ready(&self, workflow: &str) {
        self.behind.lock().unwrap_or_else(PoisonError::into_inner).insert(workflow.to_owned());
        self.look();
    }

    /// Whether a new run of this route would overtake one that is ready already.
    pub fn anyone_ready(&self, route: &Route) -> bool {
        self.maybe.load(Ordering::Acquire) && self.behind.lock().unwrap_or_else(PoisonError::into_inner).contains(&route.workflow)
    }

    /// True: this suspect may run here now.
    fn take_suspect(&self, run: RunKey, crashes: i32, max_crashes: i32) -> bool {
        let mut suspects = self.suspects.lock().unwrap_or_else(PoisonError::into_inner);
        let others = suspects.iter().filter(|(key, _)| **key != run);
        let worst = others.clone().map(|(_, crashes)| *crashes).max().unwrap_or(0).max(crashes);
        let free = others.count() < together(max_crashes - worst);
        if free {
            suspects.insert(run, crashes);
        }
        free
    }

    /// The run has recorded something, or has left: it is cleared.
    pub fn clear_suspect(&self, run: RunKey) {
        self.suspects.lock().unwrap_or_else(PoisonError::into_inner).remove(&run);
    }

    pub fn serve_labels(&self, labels: Vec<String>) {
        *self.labels.lock().unwrap_or_else(PoisonError::into_inner) = labels;
    }
}

impl Engine {
    pub(super) async fn run_dispatcher(self: Arc<Self>) {
        let mut failures = 0;
        loop {
            if !self.claims.maybe.load(Ordering::Acquire)
                || self.phase() != Phase::Launched
                || self.held().is_some()
                || self.free_slots() <= 0
                || self.history_full()
            {
                if self.is_sqlite() {
                    // A file tells nobody anything: besides what was seen of its changes, one look a second finds what was missed.
                    if tokio::time::timeout(LOOK_FILE, self.claims.wake.notified()).await.is_err() {
                        self.claims.maybe.store(true, Ordering::Release);
                    }
                } else {
                    self.claims.wake.notified().await;
                }
                continue;
            }
            // Cleared before looking: what becomes ready during the look is looked for again.
            self.claims.maybe.store(false, Ordering::Release);
            match self.claim_once().await {
                Ok(more) => {
                    failures = 0;
                    if more {
                        self.claims.maybe.store(true, Ordering::Release);
                    } else if !self.claims.maybe.load(Ordering::Acquire) {
                        self.claims.behind.lock().unwrap_or_else(PoisonError::into_inner).clear();
                    }
                }
                Err(e) => {
                    self.outage(&e);
                    // The claim may have committed and its answer been lost: what is ours is looked up.
                    self.reconcile().await;
                    self.claims.maybe.store(true, Ordering::Release);
                    failures += 1;
                    tokio::time::sleep(self.back_off(failures)).await;
                }
            }
        }
    }

    /// Loaded history is bounded: a process full of long histories claims no more until some are done.
    fn history_full(&self) -> bool {
        self.history_bytes.load(Ordering::Relaxed) > self.config.history_bytes as i64
    }

    fn free_slots(&self) -> i64 {
        self.slots.read().unwrap_or_else(PoisonError::into_inner).values().map(|s| s.load(Ordering::Relaxed)).max().unwrap_or(0)
    }

    /// Claim for each client with free slots. True: a batch was full, so there may be more.
    async fn claim_once(self: &Arc<Self>) -> crate::store::Result<bool> {
        let mut by_client: HashMap<u32, Vec<String>> = HashMap::new();
        for (name, r) in self.registry.read().unwrap_or_else(PoisonError::into_inner).iter() {
            by_client.entry(r.client).or_default().push(name.clone());
        }
        let mut more = false;
        for (client, workflows) in by_client {
            let Some(slots) = self.slots_of(client) else { continue };
            let free = slots.load(Ordering::Relaxed);
            if free <= 0 {
                // Left unlooked-at: another look when a slot comes free.
                more = true;
                continue;
            }
            let Ok(incarnation) = self.ensure_lease().await else { return Ok(true) };
            let max = free.min(MOST);
            slots.fetch_sub(max, Ordering::Relaxed);
            let request =
                ClaimRequest { incarnation, claim_token: self.random(), routes: self.routes_of(&workflows), max, held_by_queue: self.held_by_queue() };
            Counters::add(&self.counters.claims, 1);
            let claimed = self.store.claim(&request).await;
            crate::failpoint!("engine.claim.after");
            let taken = claimed.as_ref().map_or(0, Vec::len) as i64;
            self.slots_changed(client, max - taken);
            let claimed = claimed?;
            Counters::add(&self.counters.claimed, taken as u64);
            more |= taken == max;
            self.execute_all(claimed).await;
        }
        Ok(more)
    }

    fn routes_of(&self, workflows: &[String]) -> Vec<Route> {
        let mut queues = match &self.config.queues {
            Some(served) => served.clone(),
            None => self.queues.names(),
        };
        queues.push(String::new());
        let labels = self.claims.labels.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut routes = Vec::with_capacity(queues.len() * workflows.len());
        for queue in &queues {
            if self.queues.get(queue).is_some_and(|q| q.paused) {
                continue;
            }
            for workflow in workflows {
                for label in std::iter::once("").chain(labels.iter().map(String::as_str)) {
                    routes.push(identity::route(&self.config.store.namespace, queue, workflow, label));
                }
            }
        }
        routes
    }

    fn held_by_queue(&self) -> Vec<(String, i32)> {
        let mut held: HashMap<String, i32> = HashMap::new();
        for exec in self.all_execs() {
            if !exec.queue.is_empty() {
                *held.entry(exec.queue.to_string()).or_default() += 1;
            }
        }
        held.into_iter().collect()
    }

    /// Runs that are ours now: the rest of their history, then to their hosts.
    pub async fn execute_all(self: &Arc<Self>, claimed: Vec<ClaimedRun>) {
        let mut ready = Vec::with_capacity(claimed.len());
        for mut run in claimed {
            while run.more_steps {
                let after = run.steps.last().map_or(Position { segment: run.segment, branch: "".into(), seq: -1 }, |s| s.at.clone());
                let (page, more) = self.persist(|| self.store.history(run.key, run.segment, &after)).await;
                run.more_steps = more && !page.is_empty();
                run.steps.extend(page);
            }
            ready.push(run);
        }
        let ready = self.few_suspects(ready).await;
        let mut out = Outbox::default();
        for run in ready {
            match self.exec_of(run.key) {
                Some(old) if old.lock().epoch >= run.epoch => self.slot_back(&run.route.workflow),
                old => {
                    // Ours before and ours again, under a later epoch: what the older execution still does counts for nothing.
                    if let Some(old) = old {
                        old.stop(&mut old.lock(), "fenced", "this run goes on in a new execution", &mut out);
                        self.forget(&old);
                    }
                    self.execute(run, &mut out);
                }
            }
        }
    }

    /// Of these runs, those to execute now: all but the suspects beyond those this worker may run together. They are put back before the one is started,
    /// or its crash would count against them.
    async fn few_suspects(self: &Arc<Self>, runs: Vec<ClaimedRun>) -> Vec<ClaimedRun> {
        let stays = |run: &ClaimedRun| {
            run.crashes < SUSPECT || run.state != RunState::Running || self.claims.take_suspect(run.key, run.crashes, self.config.max_crashes)
        };
        let (now, later): (Vec<ClaimedRun>, Vec<ClaimedRun>) = runs.into_iter().partition(stays);
        let mut put_back = Vec::with_capacity(later.len());
        for (i, run) in later.into_iter().enumerate() {
            let (done, is_done) = tokio::sync::oneshot::channel();
            put_back.push(is_done);
            let due = Due::After(TURN_MS + i as i64 * APART_MS);
            let write = Write::Release { run: run.key, epoch: run.epoch, inbox: run.inbox, due: Some(due) };
            self.write(
                self.lane_of(run.key),
                write,
                Box::new(move |engine, _, answer, _| {
                    engine.slot_back(&run.route.workflow);
                    if matches!(answer, Ok(Verdict::Changed { .. })) {
                        engine.give_back(run.key, run.epoch);
                    }
                    // Nobody waits any more only when this process ends.
                    let _ = done.send(());
                }),
            );
        }
        for is_done in put_back {
            // An error says that the ack was dropped with its lane: the process ends.
            let _ = is_done.await;
        }
        now
    }

    /// The slot taken for a run of this workflow is free again.
    pub fn slot_back(&self, workflow: &str) {
        if let Some(registered) = self.registered(workflow) {
            self.slots_changed(registered.client, 1);
        }
    }

    /// Put back a run that is ours but cannot run here.
    pub fn give_back(self: &Arc<Self>, run: RunKey, epoch: i32) {
        let lane = self.lane_of(run);
        self.write(lane, Write::GiveBack { run, epoch }, Box::new(|_, _, _, _| {}));
    }

    /// After an unknown outcome, at each reconnect and every 30 s: what is ours in the database but not in memory is run or given back.
    pub async fn reconcile(self: &Arc<Self>) {
        let Some(incarnation) = self.incarnation() else { return };
        let owned = self.persist(|| self.store.owned(incarnation)).await;
        let missing: Vec<RunKey> = {
            let starting = self.starting.lock().unwrap_or_else(PoisonError::into_inner);
            owned.iter().map(|o| o.key).filter(|k| !starting.contains(k) && self.exec_of(*k).is_none()).collect()
        };
        if missing.is_empty() || self.incarnation() != Some(incarnation) {
            return;
        }
        let runs = self.persist(|| self.store.load(incarnation, &missing)).await;
        for run in &runs {
            if let Some(r) = self.registered(&run.route.workflow) {
                self.slots_changed(r.client, -1);
            }
        }
        self.execute_all(runs).await;
    }

    /// The last write of an execution that has ended here: given back, blocked. It is forgotten whatever the verdict.
    pub fn end_with(self: &Arc<Self>, exec: &Arc<crate::run::exec::Exec>, write: Write) {
        let ended = exec.clone();
        self.write(
            exec.lane,
            write,
            Box::new(move |engine, write, answer, _| {
                if let (Ok(Verdict::Fenced), Write::Block { .. } | Write::GiveBack { .. }) = (&answer, &write) {
                    // Another epoch or owner decides about it now; if it is still ours, `reconcile` finds it.
                    let engine = engine.clone();
                    engine.clone().spawn(move |_| async move { engine.reconcile().await });
                }
                engine.forget(&ended);
            }),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_neighbour_of_the_poison_is_alone_before_it_could_be_blocked() {
        let claims = Claims::default();
        let mut runs = std::iter::repeat_with(uuid::Uuid::new_v4);
        assert_eq!(runs.by_ref().take(60).filter(|run| claims.take_suspect(*run, 2, 5)).count(), 50);
        assert!(!claims.take_suspect(uuid::Uuid::new_v4(), 4, 5), "its last chance is a run alone");
        let claims = Claims::default();
        let last = uuid::Uuid::new_v4();
        assert!(claims.take_suspect(last, 4, 5) && !claims.take_suspect(uuid::Uuid::new_v4(), 2, 5));
        claims.clear_suspect(last);
        assert_eq!(runs.take(20).filter(|run| claims.take_suspect(*run, 3, 5)).count(), 8);
    }

    #[test]
    fn what_is_left_behind_holds_new_starts_back_until_it_is_claimed() {
        let claims = Claims::default();
        let route = identity::route("default", "", "checkout", "");
        assert!(!claims.anyone_ready(&route));
        claims.became_ready("checkout");
        assert!(claims.anyone_ready(&route));
        assert!(!claims.anyone_ready(&identity::route("default", "", "refund", "")));
        assert_ne!(route.id, identity::route("other", "", "checkout", "").id);
    }
}
