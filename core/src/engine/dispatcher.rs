//! The dispatcher: one task a process claims for all its queues, in batches bounded by free slots. It looks when something may be ready and a
//! slot is free, so an idle process claims nothing and a full one does not either.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::counters::Counters;
use super::{Engine, Outbox, Phase};
use crate::store::{ClaimRequest, ClaimedRun, Position, Route, RunKey, RunState, StoreError, Verdict, WakeHint, Write};

#[derive(Default)]
pub struct Claims {
    /// Something may be ready that nobody here has looked for yet.
    maybe: AtomicBool,
    /// And it is ours to look, now; else others have heard of it too.
    urgent: AtomicBool,
    wake: Notify,
    heard: Mutex<Heard>,
    /// Workflows with ready runs this process left behind: new starts line up behind them.
    behind: Mutex<HashSet<String>>,
    /// Routes by label besides "" this process serves.
    labels: Mutex<Vec<String>>,
    /// Runs here that may have killed their last two processes, with how often they were there.
    suspects: Mutex<HashMap<RunKey, i32>>,
    /// Clients that had no slot when their routes were to be looked at.
    full: Mutex<HashSet<u32>>,
}

/// What a look has left.
#[derive(Default)]
struct Left {
    /// A batch was full, so there may be more.
    more: bool,
    /// A client had no slot: its routes were not looked at.
    unseen: bool,
}

/// What a process without a lease makes of what it hears.
#[derive(Default)]
struct Heard {
    last: Option<Instant>,
    /// What was said since the last claim that left nothing behind.
    on: BTreeSet<i64>,
    /// When this process last said that it leaves something.
    left: Option<Instant>,
    /// Looks in a row for which others had been quicker, and when the last one was.
    futile: u32,
    looked: Option<Instant>,
}

/// What others heard as well is theirs for so long: a worker with a lease is awake and claims at once.
const HEAD_START: Duration = Duration::from_millis(20);
/// Looks for which others were quicker get so rare; a tick looks too, and sooner than this.
const RAREST_LOOK: Duration = Duration::from_secs(30);
/// A worker without room says so this often at most.
const SAY_LEFT: Duration = Duration::from_secs(10);

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
const LOOK_FILE: Duration = Duration::from_secs(1);
/// Rows of one claim at most.
const MOST: i64 = 200;

impl Claims {
    pub fn look(&self) {
        self.urgent.store(true, Ordering::Release);
        self.maybe.store(true, Ordering::Release);
        self.wake.notify_one();
    }

    /// Something is ready on one of our routes; whoever else serves it has heard the same.
    pub fn heard(&self, on: i64) {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.last = Some(Instant::now());
        if heard.on.len() < 16 {
            heard.on.insert(on);
        }
        drop(heard);
        self.maybe.store(true, Ordering::Release);
        self.wake.notify_one();
    }

    /// When a process without a lease may look for what it heard of.
    fn not_before(&self) -> Instant {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let pause = HEAD_START.saturating_mul(1 << heard.futile.min(16)).min(RAREST_LOOK);
        let now = Instant::now();
        match heard.looked {
            Some(at) if at.elapsed() > 2 * pause => heard.futile = 0,
            Some(at) if heard.futile > 0 => return now + HEAD_START.max(pause.saturating_sub(at.elapsed())),
            _ => {}
        }
        now + HEAD_START
    }

    /// A process without a lease has looked. True: what it heard of just before may be too young to have been seen, so it looks once more.
    fn looked(&self, found: bool) -> bool {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.looked = Some(Instant::now());
        heard.futile = if found { 0 } else { heard.futile + 1 };
        !found && heard.last.is_some_and(|at| at.elapsed() < 2 * HEAD_START)
    }

    /// All that was ready has been claimed.
    fn nothing_left(&self) {
        self.behind.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).on.clear();
    }

    /// What this process heard of and has no room for; nothing if it said so a moment ago.
    fn leaves(&self) -> BTreeSet<i64> {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        if heard.on.is_empty() || heard.left.is_some_and(|at| at.elapsed() < SAY_LEFT) {
            return BTreeSet::new();
        }
        heard.left = Some(Instant::now());
        std::mem::take(&mut heard.on)
    }

    pub fn labels(&self) -> Vec<String> {
        self.labels.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn slots_freed(&self) {
        if self.maybe.load(Ordering::Acquire) {
            self.wake.notify_one();
        }
    }

    /// A client has a slot again: what was not looked at for want of one is looked at now.
    pub fn slot_of(&self, client: u32) {
        if self.full.lock().unwrap_or_else(PoisonError::into_inner).remove(&client) {
            self.look();
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
                || self.crowded()
            {
                self.say_what_is_left();
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
            let looked = match self.worth_a_lease().await {
                Ok(false) => continue,
                // Cleared before looking: what becomes ready during the look is looked for again.
                Ok(true) => {
                    self.claims.maybe.store(false, Ordering::Release);
                    self.claim_once().await
                }
                Err(e) => Err(e),
            };
            match looked {
                Ok(left) => {
                    failures = 0;
                    if left.more {
                        self.claims.maybe.store(true, Ordering::Release);
                    } else if left.unseen {
                        self.tell_left();
                    } else if !self.claims.maybe.load(Ordering::Acquire) {
                        self.claims.nothing_left();
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

    /// A lease is a row, its beats and its end: a process without one looks first whether there is anything to own. What others have heard of as well it
    /// leaves to those who are awake, and looks later, and ever less often while they take it all.
    async fn worth_a_lease(self: &Arc<Self>) -> crate::store::Result<bool> {
        if self.incarnation().is_some() {
            self.claims.urgent.store(false, Ordering::Release);
            return Ok(true);
        }
        let until = self.claims.not_before();
        let mut urgent = self.claims.urgent.swap(false, Ordering::AcqRel) || !self.others_awake();
        while !urgent && self.incarnation().is_none() && Instant::now() < until {
            // Either way it is looked again.
            let _ = tokio::time::timeout_at(until.into(), self.claims.wake.notified()).await;
            urgent = self.claims.urgent.swap(false, Ordering::AcqRel);
        }
        if self.phase() != Phase::Launched || self.held().is_some() {
            return Ok(false);
        }
        self.claims.maybe.store(false, Ordering::Release);
        let served = self.served();
        let routes: Vec<i64> = served.routes.iter().chain(&served.limited).copied().collect();
        let older_than_ms = if urgent { 0 } else { HEAD_START.as_millis() as i64 };
        Counters::add(&self.counters.looks, 1);
        let found = self.store.anything_ready(&routes, older_than_ms).await?;
        if self.claims.looked(found) && !urgent {
            self.claims.maybe.store(true, Ordering::Release);
        }
        Ok(found)
    }

    /// Others without a lease leave to us what we have heard of: those who could take it must know when we cannot.
    fn say_what_is_left(&self) {
        if self.claims.maybe.load(Ordering::Acquire) && self.incarnation().is_some() && self.phase() == Phase::Launched {
            self.tell_left();
        }
    }

    fn tell_left(&self) {
        for on in self.claims.leaves() {
            self.wakes.tell(WakeHint::Left(on));
        }
    }

    /// Loaded history is bounded: a process full of long histories claims no more until some are done.
    pub(super) fn history_full(&self) -> bool {
        self.history_bytes.load(Ordering::Relaxed) > self.config.history_bytes as i64
    }

    pub(super) fn free_slots(&self) -> i64 {
        self.slots.read().unwrap_or_else(PoisonError::into_inner).values().map(|(free, _)| free.load(Ordering::Relaxed)).max().unwrap_or(0)
    }

    /// Claim for each client with free slots.
    async fn claim_once(self: &Arc<Self>) -> crate::store::Result<Left> {
        let _one = self.taking.lock().await;
        let served = self.served();
        let mut left = Left::default();
        for (client, routes) in &served.by_client {
            let client = *client;
            let Some(slots) = self.slots_of(client) else { continue };
            let free = slots.load(Ordering::Relaxed);
            if free <= 0 {
                // Another look when one of its slots comes free; not before, or the process asks the database without pause.
                self.claims.full.lock().unwrap_or_else(PoisonError::into_inner).insert(client);
                left.unseen = true;
                if slots.load(Ordering::Relaxed) > 0 {
                    self.claims.slot_of(client);
                }
                continue;
            }
            let incarnation = match self.ensure_lease().await {
                Ok(incarnation) => incarnation,
                Err(_) if self.phase() != Phase::Launched => return Ok(Left { more: true, ..left }),
                // Refused at once, it would be asked for again at once, and nobody would hear of it.
                Err(e) => return Err(StoreError::Unavailable(e.message)),
            };
            let max = free.min(MOST);
            slots.fetch_sub(max, Ordering::Relaxed);
            let request = ClaimRequest { incarnation, claim_token: self.random(), routes: routes.clone(), max, held_by_queue: self.held_by_queue() };
            Counters::add(&self.counters.claims, 1);
            let claimed = self.store.claim(&request).await;
            crate::failpoint!("engine.claim.after");
            let taken = claimed.as_ref().map_or(0, Vec::len) as i64;
            self.slots_changed(client, max - taken);
            let claimed = claimed?;
            Counters::add(&self.counters.claimed, taken as u64);
            left.more |= taken == max;
            self.execute_all(claimed).await;
        }
        Ok(left)
    }

    fn held_by_queue(&self) -> Vec<(String, i32)> {
        let mut held: HashMap<String, i32> = HashMap::new();
        for exec in self.all_execs() {
            if !exec.queue.is_empty() && !exec.lock().parked {
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
        let ready = self.fit_to_run(ready).await;
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

    /// Of these runs, those to execute now: all but what a misfit build leaves alone, and the suspects beyond those this worker may run together. They are put
    /// back before the one is started, or its crash would count against them.
    async fn fit_to_run(self: &Arc<Self>, runs: Vec<ClaimedRun>) -> Vec<ClaimedRun> {
        let stays = |run: &ClaimedRun| {
            run.crashes < SUSPECT || run.state != RunState::Running || self.claims.take_suspect(run.key, run.crashes, self.config.max_crashes)
        };
        let (runs, misfits): (Vec<ClaimedRun>, Vec<ClaimedRun>) = runs.into_iter().partition(|run| run.state != RunState::Running || !self.leaves_alone(run));
        for run in misfits {
            self.put_misfit_back(run.key, run.epoch, run.inbox, move |engine| engine.slot_back(&run.route.workflow));
        }
        let (now, later): (Vec<ClaimedRun>, Vec<ClaimedRun>) = runs.into_iter().partition(stays);
        let mut put_back = Vec::with_capacity(later.len());
        for (i, run) in later.into_iter().enumerate() {
            let (done, is_done) = tokio::sync::oneshot::channel();
            put_back.push(is_done);
            self.put_back(run.key, run.epoch, run.inbox, TURN_MS + i as i64 * APART_MS, move |engine| {
                engine.slot_back(&run.route.workflow);
                // Nobody waits any more only when this process ends.
                let _ = done.send(());
            });
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
        let _one = self.taking.lock().await;
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
                if let (Ok(Verdict::Changed { .. }), Write::Release { run, epoch, .. }) = (&answer, &write) {
                    // Something woke it meanwhile: it is not to wait.
                    return engine.end_with(&ended, Write::GiveBack { run: *run, epoch: *epoch });
                }
                if let (Ok(Verdict::Fenced), Write::Block { .. } | Write::GiveBack { .. } | Write::Release { .. }) = (&answer, &write) {
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
    use super::super::identity;
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
    fn what_is_parked_takes_nothing_of_a_queues_worker_limit() {
        use super::super::by_hand::{ByHand, asked, receive};
        let h = ByHand::open(false);
        let on_queue = || h.claim(|run| run.route = identity::route("default", "q", "w", ""));
        let (parked, _busy) = (on_queue(), on_queue());
        parked.begin_wait(&h.engine, asked("", 1, crate::protocol::ops::kind::RECEIVE, "a"), receive("a"), &mut Outbox::default()).unwrap();
        h.commit();
        assert_eq!(h.engine.held_by_queue(), [("q".to_owned(), 1)]);
    }

    #[test]
    fn looks_for_what_others_take_become_rare() {
        let claims = Claims::default();
        let wait = |claims: &Claims| claims.not_before().saturating_duration_since(Instant::now());
        assert!(wait(&claims) <= HEAD_START);
        for _ in 0..20 {
            claims.heard(1);
            assert!(claims.looked(false), "what was heard a moment ago is looked for once more");
        }
        assert!(wait(&claims) > RAREST_LOOK / 2);
        claims.looked(true);
        assert!(wait(&claims) <= HEAD_START);
        assert_eq!(claims.leaves().into_iter().collect::<Vec<_>>(), [1]);
        claims.heard(2);
        assert!(claims.leaves().is_empty(), "it was said a moment ago");
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
