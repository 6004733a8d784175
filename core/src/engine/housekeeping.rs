//! Lease and housekeeping, on an OS thread with a runtime of its own: neither a busy host language nor a full commit lane loses a lease.
//!
//! One statement a tick beats, reaps, fires timers, sees queue changes, and says when to come back. A worker that owns nothing holds no
//! lease and ticks when the earliest foreign lease may run out, at the next timer if nobody with a lease is there to fire it, or after 30 s.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use uuid::Uuid;

use super::counters::Counters;
use super::error::{EngineError, Result};
use super::{Engine, Outbox, Phase, Role};
use crate::protocol::errors::Code;
use crate::store::{Peer, TickReport, TickRequest, WorkerInfo};

/// A tick that finds nothing to wait for comes again after this.
const IDLE: Duration = Duration::from_secs(30);
/// How often the processes of this host are looked at; costs no statement.
const PEER_LOOK: Duration = Duration::from_millis(200);
const PAGE: i64 = 500;
/// A worker whose connection was cut notices at its next beat and connects again; this much later than that it has had its time.
const SILENT_MS: i64 = 500;
/// Whatever is later than this some tick before it will have found.
const LONGEST_MS: i64 = 3_600_000;
/// In so many idle ticks one looks into queues with a limit too: there somebody often waits for good reason.
const LOOK_AT_LIMITED: u32 = 10;

#[derive(Default)]
pub struct Ticks {
    sooner: Notify,
    asked: AtomicBool,
    /// Tick at this time at the latest.
    by: Mutex<Option<Instant>>,
    /// So long another worker of this namespace is there for certain, or gone without a word.
    others: Mutex<Option<Instant>>,
    peers: Mutex<Vec<Peer>>,
    /// When this process last came to own nothing.
    idle_since: Mutex<Option<Instant>>,
}

impl Ticks {
    /// Tick now: something was started that another's timer or lease depends on.
    pub fn now(&self) {
        self.asked.store(true, Ordering::Release);
        self.sooner.notify_one();
    }

    /// Tick in so many milliseconds at the latest.
    pub fn within(&self, ms: i64) {
        let at = Instant::now() + Duration::from_millis(ms.clamp(0, LONGEST_MS) as u64);
        let mut by = self.by.lock().unwrap_or_else(PoisonError::into_inner);
        if by.is_none_or(|before| at < before) {
            *by = Some(at);
            drop(by);
            self.sooner.notify_one();
        }
    }

    pub fn others_until(&self, ms: i64) {
        let until = Instant::now() + Duration::from_millis(ms.clamp(0, LONGEST_MS) as u64);
        let mut others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        *others = (*others).max(Some(until));
    }
}

impl Engine {
    /// The incarnation under which this process owns runs; registered on first need.
    pub async fn ensure_lease(self: &Arc<Self>) -> Result<Uuid> {
        if let Some(incarnation) = self.incarnation() {
            return Ok(incarnation);
        }
        let _one = self.leasing.lock().await;
        if let Some(incarnation) = self.incarnation() {
            return Ok(incarnation);
        }
        if self.phase() != Phase::Launched {
            return Err(EngineError::plain(Code::Closed));
        }
        let incarnation = Uuid::new_v4();
        let worker = WorkerInfo {
            incarnation,
            lanes: self.lanes.len() as i16,
            lease_ms: self.config.lease_ms,
            host: self.host.name.clone(),
            boot_id: self.host.boot_id.clone(),
            pid_namespace: self.host.pid_namespace.clone(),
            pid: self.host.pid,
            process_start: self.host.process_start,
            build: self.config.version.clone(),
            language: self.config.language.clone(),
            queues: self.config.queues.clone().unwrap_or_default(),
            environment: self.config.environment.clone(),
            protocol: crate::protocol::VERSION,
            schema: crate::store::SCHEMA_VERSION,
        };
        self.within_budget(|| self.store.register(&worker)).await?;
        crate::failpoint!("engine.register.after");
        *self.lease.write().unwrap_or_else(PoisonError::into_inner) = Some(incarnation);
        *self.ticks.idle_since.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        self.ticks.now();
        Ok(incarnation)
    }

    /// The row of our lease is gone: another worker has taken our runs over. They end here, and the next claim registers anew.
    pub fn lease_lost(self: &Arc<Self>, incarnation: Uuid) {
        {
            let mut lease = self.lease.write().unwrap_or_else(PoisonError::into_inner);
            if *lease != Some(incarnation) {
                return;
            }
            *lease = None;
        }
        Counters::add(&self.counters.leases_lost, 1);
        self.log_all(
            "warning",
            "lease_lost",
            "this worker's lease was taken over (it was stalled or cut off for longer than the lease); its runs go on elsewhere and it registers anew",
        );
        self.stop_all("lease_lost", "this worker lost its lease");
        // At once, although it owns nothing now: whoever watches sees that it is back.
        self.spawn(|engine| async move {
            match engine.ensure_lease().await {
                Err(e) if e.code != Code::Closed => engine.log_all("warning", e.code.as_str(), &e.message),
                Ok(_) | Err(_) => engine.claims.look(),
            }
        });
    }

    /// End every execution here without a write.
    pub fn stop_all(self: &Arc<Self>, why: &'static str, message: &str) {
        let mut out = Outbox::default();
        for exec in self.all_execs() {
            exec.stop(&mut exec.lock(), why, message, &mut out);
            self.forget(&exec);
        }
    }

    pub(super) fn start_housekeeping(self: &Arc<Self>) -> Result<()> {
        let engine = self.clone();
        let thread = std::thread::Builder::new().name("everstep-lease".into()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            match runtime {
                Ok(runtime) => runtime.block_on(engine.run_housekeeping()),
                Err(e) => engine.log_all("error", "internal", &format!("no runtime for the lease thread: {e}")),
            }
        });
        thread.map(|_| ()).map_err(|e| EngineError::new(Code::Internal, format!("no thread for the lease: {e}")))
    }

    async fn run_housekeeping(self: Arc<Self>) {
        let mut connected_since: Option<Instant> = None;
        let mut last_reconcile = Instant::now();
        let mut failures = 0;
        let (mut idle_ticks, mut ticks_held) = (0, 0);
        let mut known_dead = Vec::new();
        while self.phase() <= Phase::Draining && !self.closing.load(Ordering::Acquire) {
            self.ticks.asked.store(false, Ordering::Release);
            *self.ticks.by.lock().unwrap_or_else(PoisonError::into_inner) = None;
            let held = self.incarnation();
            let lease = Duration::from_millis(self.config.lease_ms as u64);
            let request = TickRequest {
                incarnation: held,
                lease_ms: self.config.lease_ms,
                // After an outage every lease is out at once: whoever has just come back waits a whole lease for the others.
                may_reap: connected_since.is_some_and(|since| since.elapsed() >= lease) && self.config.role == Role::Worker,
                silent_ms: self.config.beat_ms + SILENT_MS,
                known_dead: std::mem::take(&mut known_dead),
                page: PAGE,
                cancel_grace_ms: self.config.cancel_grace_ms,
                max_crashes: self.config.max_crashes,
                boot_id: self.host.boot_id.clone(),
                routes: self.routes_to_look_at(if held.is_some() { ticks_held } else { idle_ticks }),
            };
            Counters::add(&self.counters.ticks, 1);
            let report = match self.tick_and_beat(&request).await {
                Ok(report) => report,
                Err(e) => {
                    self.outage(&e);
                    connected_since = None;
                    failures += 1;
                    tokio::time::sleep(self.back_off(failures)).await;
                    continue;
                }
            };
            failures = 0;
            let back = self.outage.swap(0, Ordering::Relaxed) > 0;
            if back || report.overlooked {
                self.store.doubt_hints();
            }
            connected_since = connected_since.or_else(|| Some(Instant::now()));
            self.after_tick(held, &report).await;
            if back || (held.is_some() && last_reconcile.elapsed() >= IDLE) {
                last_reconcile = Instant::now();
                self.spawn(|engine| async move { engine.reconcile().await });
            }
            if report.more {
                continue;
            }
            (idle_ticks, ticks_held) = if held.is_some() { (0, ticks_held + 1) } else { (idle_ticks + 1, 0) };
            known_dead = self.until_next_tick(&report, connected_since, lease).await;
        }
    }

    /// A tick that has much to move must not cost the lease: the beat goes out beside it, on its own connection.
    async fn tick_and_beat(self: &Arc<Self>, request: &TickRequest) -> crate::store::Result<TickReport> {
        let beat = Duration::from_millis(self.config.beat_ms as u64);
        let tick = self.store.tick(request);
        tokio::pin!(tick);
        loop {
            match tokio::time::timeout(beat, &mut tick).await {
                Ok(report) => return report,
                Err(_) => {
                    let Some(incarnation) = request.incarnation else { continue };
                    let alive = tokio::select! {
                        report = &mut tick => return report,
                        alive = self.store.beat(incarnation, self.config.lease_ms) => alive?,
                    };
                    if !alive {
                        self.lease_lost(incarnation);
                    }
                }
            }
        }
    }

    async fn after_tick(self: &Arc<Self>, held: Option<Uuid>, report: &TickReport) {
        if let (Some(incarnation), false) = (held, report.alive) {
            self.lease_lost(incarnation);
        }
        for parent in &report.closing {
            self.close_children(*parent);
        }
        if !report.reaped.is_empty() {
            Counters::add(&self.counters.reaped, report.reaped.len() as u64);
        }
        // The store has told the others.
        if report.ready || report.orphans > 0 || report.overlooked {
            self.claims.look();
        }
        *self.ticks.others.lock().unwrap_or_else(PoisonError::into_inner) = report.others_ms.map(|ms| Instant::now() + Duration::from_millis(ms.max(0) as u64));
        let peers = report.peers.iter().filter(|p| Some(p.incarnation) != held).cloned().collect();
        *self.ticks.peers.lock().unwrap_or_else(PoisonError::into_inner) = peers;
        if self.queues.version.load(Ordering::Relaxed) != report.queue_version {
            let version = report.queue_version;
            self.spawn(move |engine| async move { engine.queues_moved(version).await });
        }
        if held.is_some() {
            // Hints bring these at once where they work; the look is for those that were lost.
            let every = if self.store.pooled() || self.is_sqlite() { 1 } else { 4 };
            if self.counters.ticks.load(Ordering::Relaxed).is_multiple_of(every) {
                self.spawn(|engine| async move {
                    if engine.look_at_moved().await {
                        engine.store.doubt_hints();
                    }
                });
            }
            self.note_slow_steps();
            self.let_go_when_idle().await;
        }
    }

    /// Where a tick looks for what no hint has told of: nowhere while there is no room for it.
    fn routes_to_look_at(&self, ticks: u32) -> Vec<i64> {
        if self.phase() != Phase::Launched || self.held().is_some() || self.free_slots() <= 0 || self.config.role != Role::Worker {
            return Vec::new();
        }
        let served = self.served();
        let mut routes = served.routes.clone();
        if ticks % LOOK_AT_LIMITED == LOOK_AT_LIMITED - 1 {
            routes.extend(&served.limited);
        }
        routes
    }

    /// Whether another worker of this namespace holds a lease: it is awake, hears what we hear, and fires timers. SQLite has no such hints, and a look at
    /// the file costs nobody anything.
    pub(super) fn others_awake(&self) -> bool {
        !self.is_sqlite() && self.ticks.others.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|until| Instant::now() < until)
    }

    /// A worker that has owned nothing for two leases needs no lease, and then no beats.
    async fn let_go_when_idle(self: &Arc<Self>) {
        let idle_long = {
            let mut since = self.ticks.idle_since.lock().unwrap_or_else(PoisonError::into_inner);
            if self.exec_count() > 0
                || !self.starting.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
                || !self.lanes.iter().all(super::committer::Lane::is_idle)
            {
                *since = None;
                return;
            }
            let since = since.get_or_insert_with(Instant::now);
            since.elapsed() > Duration::from_millis(2 * self.config.lease_ms as u64)
        };
        if !idle_long {
            return;
        }
        // A claim under way is no idleness, though nothing of it is in memory yet.
        let Ok(_none_taken) = self.taking.try_lock() else { return };
        let _one = self.leasing.lock().await;
        let Some(incarnation) = self.incarnation() else { return };
        *self.lease.write().unwrap_or_else(PoisonError::into_inner) = None;
        // What a claim has just taken under it goes back to ready with it: nothing is lost, and nothing counts as a crash.
        if let Err(e) = self.store.deregister(incarnation).await {
            self.outage(&e);
        }
    }

    async fn until_next_tick(&self, report: &TickReport, connected_since: Option<Instant>, lease: Duration) -> Vec<Uuid> {
        let beat = Duration::from_millis(self.config.beat_ms as u64);
        // Where no hint tells of a new worker, its death must be seen in time all the same.
        let idle = if self.store.pooled() || self.is_sqlite() { lease.min(IDLE) } else { IDLE };
        let mut next = if self.incarnation().is_some() { beat } else { idle };
        if let Some(ms) = report.next_timer_ms.filter(|_| self.incarnation().is_some() || !self.others_awake()) {
            next = next.min(Duration::from_millis(ms.max(0) as u64));
        }
        if let Some(ms) = report.next_lease_ms.filter(|_| self.config.role == Role::Worker) {
            let out = Duration::from_millis(ms.max(0) as u64) + Duration::from_millis(20);
            let allowed = connected_since.map_or(lease, |since| lease.saturating_sub(since.elapsed()));
            next = next.min(out.max(allowed));
        }
        // A floor, so that a timer that cannot fire yet (its row is locked) is no busy loop.
        let floor = Instant::now() + Duration::from_millis(10);
        let latest = floor.max(Instant::now() + next);
        let host = &self.host;
        loop {
            let by = *self.ticks.by.lock().unwrap_or_else(PoisonError::into_inner);
            let until = by.map_or(latest, |by| by.max(floor).min(latest));
            let dead: Vec<Uuid> =
                self.ticks.peers.lock().unwrap_or_else(PoisonError::into_inner).iter().filter(|p| host.knows_dead(p)).map(|p| p.incarnation).collect();
            if !dead.is_empty() || self.ticks.asked.load(Ordering::Acquire) || Instant::now() >= until || self.closing.load(Ordering::Acquire) {
                return dead;
            }
            let has_peers = !self.ticks.peers.lock().unwrap_or_else(PoisonError::into_inner).is_empty();
            let pause = if has_peers { until.min(Instant::now() + PEER_LOOK) } else { until };
            // Either way the loop looks again.
            let _ = tokio::time::timeout_at(pause.into(), self.ticks.sooner.notified()).await;
        }
    }
}
