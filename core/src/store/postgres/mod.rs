//! The PostgreSQL store. One concern a file; here is only who owns which connection.
//!
//! - `url`, `connect`, `errors`: hosts, connections with deadlines, and what an error means.
//! - `commit` -> `batch`, `plain` or `apply` -> `lock`, `starts`, `dedup`, `steps`, `effects`, `waits`, `changes`: the owner's writes.
//! - `claim`, `history`: what an owner reads. `lease`, `orphans`, `tick`: who is alive, takeover, timers. `control`, `resume`: requests.
//! - `guard`, `transaction`: transactional steps. `hints`: LISTEN/NOTIFY. `warm`: ahead of need. `reading`, `queues`, `schema`: the rest.

mod apply;
mod batch;
#[cfg(test)]
mod by_hand;
mod changes;
mod children;
mod claim;
mod commit;
mod connect;
mod control;
mod dedup;
mod effects;
mod errors;
mod guard;
mod hints;
mod history;
mod lease;
mod lock;
mod numeric;
mod orphans;
mod plain;
mod queues;
mod reading;
mod resume;
mod rows;
mod schema;
mod sites;
mod starts;
mod steps;
mod tick;
mod transaction;
mod url;
mod waits;
mod warm;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use async_trait::async_trait;
use uuid::Uuid;

use super::{
    ClaimRequest, ClaimedRun, ControlVerdict, GuardStatement, Identity, OpenWait, OwnedNow, Placeholders, Position, Queue, Result, Route, RunDetail, RunFilter,
    RunKey, RunSummary, SchemaState, Site, SlowStep, StepRecord, StepView, StepWrite, Store, StoreConfig, StoreKind, StoreTransaction, TickReport, TickRequest,
    Verdict, WaitAnswer, WakeHint, WorkerInfo, Write,
};
use connect::{Home, Profile, Shared};
pub use schema::migration_sql;

pub struct PostgresStore {
    shared: Arc<Shared>,
    lanes: Vec<Lane>,
    claim: Arc<Home>,
    /// Only `beat` and only `tick`: the engine calls them from a thread with a runtime of its own.
    beat: Arc<Home>,
    tick: Arc<Home>,
    /// The rest, and probes.
    pool: Arc<Home>,
    /// Users' transactions: the planner as the database has it.
    user: Arc<Home>,
    sites: Arc<sites::Sites>,
    hints: hints::Hints,
    /// The paused and limited queues, and since when that is believed.
    limits: tokio::sync::Mutex<Option<(Instant, BTreeMap<String, Queue>)>>,
    /// How many there were: each begins with another queue.
    claims: AtomicUsize,
    /// Of the queues as they were when `limits` was last forgotten.
    queue_version: AtomicI64,
    swept: Mutex<Option<Instant>>,
    /// Whose life the tick session's lock stands for.
    lives: Mutex<Option<Uuid>>,
    /// Which database this is, for guards: known after `identity`.
    database: Mutex<Option<String>>,
}

/// One connection, one lease row, one batch at a time.
struct Lane {
    home: Arc<Home>,
    /// See `commit`: batches left for which waiters are looked up before locking.
    look_ahead: AtomicU32,
    /// And for which the one statement of `plain` is not tried.
    detour: AtomicU32,
}

impl PostgresStore {
    pub fn open(config: StoreConfig) -> Result<Arc<dyn Store>> {
        let shared = Arc::new(Shared::new(&config)?);
        let home = |size, profile| Arc::new(Home::new(size, profile));
        let lanes =
            (0..config.lanes.clamp(1, 8)).map(|_| Lane { home: home(1, Profile::Engine), look_ahead: AtomicU32::new(0), detour: AtomicU32::new(0) }).collect();
        Ok(Arc::new(PostgresStore {
            lanes,
            claim: home(1, Profile::Engine),
            beat: home(1, Profile::Engine),
            tick: home(1, Profile::Engine),
            pool: home(config.pool.max(2), Profile::Engine),
            user: home(config.pool.max(2), Profile::User),
            sites: Arc::default(),
            hints: hints::Hints::new(&shared),
            limits: tokio::sync::Mutex::new(None),
            claims: AtomicUsize::new(0),
            queue_version: AtomicI64::new(-1),
            swept: Mutex::new(None),
            lives: Mutex::new(None),
            database: Mutex::new(None),
            shared,
        }))
    }

    async fn queues_are_at(&self, version: i64) {
        if self.queue_version.swap(version, Ordering::Relaxed) != version {
            *self.limits.lock().await = None;
        }
    }

    fn remember_database(&self, identity: &str) {
        // The part of the identity that any role can compute.
        let database = identity.split_once('/').map(|(_, database)| database.to_string());
        *self.database.lock().unwrap_or_else(PoisonError::into_inner) = database;
    }
}

#[async_trait]
impl Store for PostgresStore {
    fn kind(&self) -> StoreKind {
        StoreKind::Postgres
    }

    fn pooled(&self) -> bool {
        self.shared.pooled()
    }

    async fn inspect(&self) -> Result<SchemaState> {
        schema::inspect(self).await
    }

    async fn migrate(&self) -> Result<()> {
        schema::migrate(self).await
    }

    async fn identity(&self) -> Result<Identity> {
        let identity = schema::identity(self).await?;
        self.remember_database(&identity.actual_identity);
        Ok(identity)
    }

    async fn adopt(&self, environment: &str) -> Result<()> {
        schema::adopt(self, environment).await
    }

    async fn register(&self, worker: &WorkerInfo) -> Result<()> {
        lease::register(self, worker).await
    }

    async fn beat(&self, incarnation: Uuid, lease_ms: i64) -> Result<bool> {
        lease::beat(self, incarnation, lease_ms).await
    }

    async fn deregister(&self, incarnation: Uuid) -> Result<()> {
        lease::deregister(self, incarnation).await
    }

    async fn tick(&self, request: &TickRequest) -> Result<TickReport> {
        tick::tick(self, request).await
    }

    async fn commit(&self, lane: usize, incarnation: Option<Uuid>, writes: &[Write], retry: bool) -> Result<Vec<Verdict>> {
        commit::commit(self, lane, incarnation, writes, retry).await
    }

    async fn warm(&self, works: bool) -> Result<()> {
        warm::warm(self, works).await
    }

    async fn anything_ready(&self, routes: &[i64], older_than_ms: i64) -> Result<bool> {
        tick::anything_ready(self, routes, older_than_ms).await
    }

    async fn claim(&self, request: &ClaimRequest) -> Result<Vec<ClaimedRun>> {
        claim::claim(self, request).await
    }

    async fn owned(&self, incarnation: Uuid) -> Result<Vec<OwnedNow>> {
        history::owned(&mut self.pool.session(&self.shared).await?, incarnation).await
    }

    async fn load(&self, incarnation: Uuid, runs: &[RunKey]) -> Result<Vec<ClaimedRun>> {
        history::load(self, &mut self.pool.session(&self.shared).await?, incarnation, runs).await
    }

    async fn history(&self, run: RunKey, segment: i32, after: &Position) -> Result<(Vec<StepRecord>, bool)> {
        history::page(self, &mut self.pool.session(&self.shared).await?, run, segment, after).await
    }

    async fn recheck(&self, incarnation: Uuid, runs: &[RunKey]) -> Result<Vec<OwnedNow>> {
        history::recheck(&mut self.pool.session(&self.shared).await?, incarnation, runs).await
    }

    async fn moved(&self, incarnation: Uuid, runs: &[(RunKey, i32, i32)]) -> Result<Vec<OwnedNow>> {
        history::moved(&mut self.pool.session(&self.shared).await?, incarnation, runs).await
    }

    async fn answer_waits(&self, run: RunKey, waits: &[OpenWait]) -> Result<Vec<WaitAnswer>> {
        history::answer_waits(&mut self.pool.session(&self.shared).await?, run, waits).await
    }

    async fn note_slow(&self, run: RunKey, epoch: i32, steps: &[SlowStep]) -> Result<()> {
        changes::note_slow(&mut self.pool.session(&self.shared).await?, run, epoch, steps).await
    }

    async fn now(&self) -> Result<i64> {
        reading::now(&mut self.pool.session(&self.shared).await?).await
    }

    async fn find(&self, run: RunKey) -> Result<Option<RunDetail>> {
        reading::find(self, run).await
    }

    async fn list(&self, filter: &RunFilter) -> Result<Vec<RunSummary>> {
        reading::list(self, filter).await
    }

    async fn steps(&self, run: RunKey, after: Option<&Position>, limit: i64) -> Result<Vec<StepView>> {
        reading::steps(self, run, after, limit).await
    }

    async fn outcomes(&self, runs: &[RunKey]) -> Result<Vec<(RunKey, WaitAnswer)>> {
        history::ends(&mut self.pool.session(&self.shared).await?, runs).await
    }

    async fn events(&self, wanted: &[(RunKey, String)]) -> Result<Vec<(RunKey, String, WaitAnswer)>> {
        reading::events(self, wanted).await
    }

    async fn cancel(&self, run: RunKey, by: &str, why: &str, grace_ms: i64) -> Result<ControlVerdict> {
        control::cancel(self, run, by, why, grace_ms).await
    }

    async fn open_children(&self, parent: RunKey, limit: i64) -> Result<Vec<RunKey>> {
        children::open(self, parent, limit).await
    }

    async fn children_closed(&self, parent: RunKey) -> Result<()> {
        children::closed(self, parent).await
    }

    async fn resume(&self, run: RunKey, by: &str) -> Result<ControlVerdict> {
        resume::resume(self, run, by).await
    }

    async fn retry(&self, run: RunKey, by: &str) -> Result<ControlVerdict> {
        resume::retry(self, run, by).await
    }

    async fn rewind(&self, run: RunKey, to: &Position, new_effects: bool, by: &str) -> Result<ControlVerdict> {
        resume::rewind(self, run, to, new_effects, by).await
    }

    async fn offer_blocked(&self, build: &str, workflows: &[String]) -> Result<i64> {
        resume::offer_blocked(self, build, workflows).await
    }

    async fn put_queue(&self, queue: &Queue, by_operator: bool) -> Result<Queue> {
        let put = queues::put(&mut self.pool.session(&self.shared).await?, queue, by_operator).await?;
        *self.limits.lock().await = None;
        self.hints.tell(self, None, vec![WakeHint::Queues]);
        Ok(put)
    }

    async fn pause_queue(&self, name: &str, paused: bool) -> Result<Option<Queue>> {
        let changed = queues::pause(&mut self.pool.session(&self.shared).await?, name, paused).await?;
        *self.limits.lock().await = None;
        self.hints.tell(self, None, vec![WakeHint::Queues]);
        Ok(changed)
    }

    async fn queues(&self) -> Result<Vec<Queue>> {
        queues::all(&mut self.pool.session(&self.shared).await?).await
    }

    async fn announce(&self, routes: &[Route]) -> Result<()> {
        self.sites.announce(&mut self.pool.session(&self.shared).await?, routes).await
    }

    async fn workflow_names(&self) -> Result<Vec<String>> {
        sites::workflow_names(&mut self.pool.session(&self.shared).await?).await
    }

    fn guard(&self, style: Placeholders, incarnation: Uuid, run: RunKey, epoch: i32, step: &StepWrite) -> GuardStatement {
        let database = self.database.lock().unwrap_or_else(PoisonError::into_inner).clone();
        guard::statement(&self.shared, database, style, incarnation, run, epoch, step)
    }

    async fn probe(&self, incarnation: Uuid, run: RunKey, epoch: i32, step: &StepWrite) -> Result<Verdict> {
        guard::probe(&mut self.pool.session(&self.shared).await?, &self.sites, incarnation, run, epoch, step).await
    }

    async fn begin(&self, site: &Site) -> Result<Box<dyn StoreTransaction>> {
        transaction::begin(self, site).await
    }

    async fn next_hints(&self) -> Vec<WakeHint> {
        self.hints.next(self).await
    }

    async fn hint(&self, hints: &[WakeHint]) -> Result<()> {
        self.hints.send(self, hints).await
    }

    fn doubt_hints(&self) {
        self.hints.doubt();
    }

    async fn close(&self) {
        self.shared.close();
        self.hints.close().await;
        let lanes = self.lanes.iter().map(|lane| &lane.home);
        lanes.chain([&self.claim, &self.beat, &self.tick, &self.pool, &self.user]).for_each(|home| home.clear());
    }
}
