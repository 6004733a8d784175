//! SQLite: the embedded default. One file, one writer, any number of processes.

mod claim;
mod clock;
mod commit;
mod connection;
mod control;
mod finish;
mod held;
mod hints;
#[cfg(test)]
mod plans;
mod presence;
mod queues;
mod read;
mod rows;
mod schema;
mod start;
mod step;
mod tick;
mod transaction;
mod value;
mod wait;
mod wake;

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Mutex;
use uuid::Uuid;

use super::*;
use connection::Location;
use held::{Held, Place, Transaction};
pub use schema::migration_sql;

/// Read connections: SQLite readers never wait for the writer, nor it for them.
const READERS: usize = 2;

/// Sites and routes known to be stored: each is written once and never removed.
#[derive(Debug, Clone, Default)]
struct Names {
    sites: HashSet<i64>,
    routes: HashSet<i64>,
}

#[derive(Clone)]
pub struct SqliteStore {
    shared: Arc<Shared>,
}

#[doc(hidden)]
pub struct Shared {
    namespace: String,
    location: Location,
    /// Names this store where there is no file to name it.
    instance: Uuid,
    timeout: Duration,
    /// Who wants the writer waits here first, and holds it with the writer. Heartbeats do not, so they wait for one transaction at most.
    turn: Arc<Mutex<()>>,
    writer: Arc<Mutex<Place>>,
    /// None in memory: there the one connection is the database.
    readers: Vec<Arc<Mutex<Place>>>,
    next_reader: AtomicUsize,
    names: RwLock<Arc<Names>>,
    locks: std::sync::Mutex<HashMap<Uuid, File>>,
    clock: std::sync::Mutex<clock::Clock>,
    hints: hints::Hints,
}

impl Deref for SqliteStore {
    type Target = Shared;
    fn deref(&self) -> &Shared {
        &self.shared
    }
}

impl SqliteStore {
    pub fn open(config: StoreConfig) -> Result<Arc<dyn Store>> {
        let location = location(&config.url)?;
        let readers = match location {
            Location::File(_) => (0..READERS).map(|_| Place::new(location.clone(), Duration::from_secs(5), config.follow_up)).collect(),
            Location::Memory => Vec::new(),
        };
        let shared = Shared {
            namespace: config.namespace,
            instance: Uuid::new_v4(),
            timeout: Duration::from_millis(config.statement_timeout_ms.max(1)),
            turn: Arc::new(Mutex::new(())),
            // Short inside SQLite, which sleeps in fixed steps; the waiting is done by `begin_write`.
            writer: Place::new(location.clone(), Duration::from_millis(5), config.follow_up),
            readers,
            location,
            next_reader: AtomicUsize::new(0),
            names: RwLock::new(Arc::new(Names::default())),
            locks: std::sync::Mutex::new(HashMap::new()),
            clock: std::sync::Mutex::default(),
            hints: hints::Hints::new(),
        };
        Ok(Arc::new(SqliteStore { shared: Arc::new(shared) }))
    }

    async fn write(&self) -> Result<Transaction> {
        let turn = self.turn.clone().lock_owned().await;
        Held::take(&self.writer, Some(turn)).await?.begin_write().await
    }

    /// Ahead of all who wait for their turn.
    async fn write_next(&self) -> Result<Transaction> {
        Held::take(&self.writer, None).await?.begin_write().await
    }

    async fn read(&self) -> Result<Held> {
        if self.readers.is_empty() {
            let turn = self.turn.clone().lock_owned().await;
            return Held::take(&self.writer, Some(turn)).await;
        }
        for reader in &self.readers {
            if let Some(free) = Held::take_free(reader).await {
                return free;
            }
        }
        let next = self.next_reader.fetch_add(1, Ordering::Relaxed) % self.readers.len();
        Held::take(&self.readers[next], None).await
    }

    fn names(&self) -> Arc<Names> {
        let names: RwLockReadGuard<'_, Arc<Names>> = self.names.read().unwrap_or_else(PoisonError::into_inner);
        names.clone()
    }

    /// Only after the COMMIT that stored them.
    fn remember(&self, sites: Vec<i64>, routes: Vec<i64>) {
        if sites.is_empty() && routes.is_empty() {
            return;
        }
        let mut names = self.names.write().unwrap_or_else(PoisonError::into_inner);
        let names = Arc::make_mut(&mut names);
        names.sites.extend(sites);
        names.routes.extend(routes);
    }

    fn locks(&self) -> std::sync::MutexGuard<'_, HashMap<Uuid, File>> {
        self.locks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A call that takes longer than any statement may: its outcome is unknown. The connection is rolled back before its next use.
    async fn bounded<T>(&self, call: impl Future<Output = Result<T>> + Send) -> Result<T> {
        // The longest transaction of a user may be ahead of it, here and in another process.
        let limit = self.timeout.max(Duration::from_secs(10));
        tokio::time::timeout(limit, call)
            .await
            .unwrap_or_else(|_| Err(StoreError::Unavailable(format!("SQLite has not answered within {} ms", limit.as_millis()))))
    }
}

fn location(url: &str) -> Result<Location> {
    let rest = url.strip_prefix("sqlite:").unwrap_or(url);
    let path = rest.strip_prefix("//").unwrap_or(rest);
    let refuse = |message: &str| Err(StoreError::Setup { code: "config_invalid", message: message.into() });
    match path {
        ":memory:" => Ok(Location::Memory),
        "" => refuse("The SQLite URL names no file. Write sqlite:path/to/file.db or sqlite::memory:."),
        path if path.contains(['?', '\0']) => refuse("A SQLite URL is sqlite: and a path; it takes no parameters."),
        path => Ok(Location::File(PathBuf::from(path))),
    }
}

#[async_trait]
impl Store for SqliteStore {
    fn kind(&self) -> StoreKind {
        StoreKind::Sqlite
    }

    fn pooled(&self) -> bool {
        false
    }

    async fn inspect(&self) -> Result<SchemaState> {
        self.bounded(self.look_at_schema()).await
    }

    async fn migrate(&self) -> Result<()> {
        self.bounded(self.migrate_schema()).await
    }

    async fn identity(&self) -> Result<Identity> {
        self.bounded(self.whose()).await
    }

    async fn adopt(&self, environment: &str) -> Result<()> {
        self.bounded(self.stamp(environment)).await
    }

    async fn register(&self, worker: &WorkerInfo) -> Result<()> {
        self.bounded(self.register_worker(worker)).await
    }

    async fn beat(&self, incarnation: Uuid, lease_ms: i64) -> Result<bool> {
        self.bounded(self.beat_worker(incarnation, lease_ms)).await
    }

    async fn deregister(&self, incarnation: Uuid) -> Result<()> {
        self.bounded(self.deregister_worker(incarnation)).await
    }

    async fn tick(&self, request: &TickRequest) -> Result<TickReport> {
        self.bounded(self.housekeeping(request)).await
    }

    async fn commit(&self, lane: usize, incarnation: Option<Uuid>, writes: &[Write], retry: bool) -> Result<Vec<Verdict>> {
        self.bounded(self.commit_batch(lane, incarnation, writes, retry)).await
    }

    async fn anything_ready(&self, routes: &[i64], older_than_ms: i64) -> Result<bool> {
        self.bounded(self.anyone_ready(routes, older_than_ms)).await
    }

    async fn claim(&self, request: &ClaimRequest) -> Result<Vec<ClaimedRun>> {
        self.bounded(self.claim_runs(request)).await
    }

    async fn owned(&self, incarnation: Uuid) -> Result<Vec<OwnedNow>> {
        self.bounded(self.owned_now(incarnation, claim::Which::Owned)).await
    }

    async fn load(&self, incarnation: Uuid, runs: &[RunKey]) -> Result<Vec<ClaimedRun>> {
        self.bounded(self.load_owned(incarnation, runs)).await
    }

    async fn history(&self, run: RunKey, segment: i32, after: &Position) -> Result<(Vec<StepRecord>, bool)> {
        self.bounded(self.history_page(run, segment, after)).await
    }

    async fn recheck(&self, incarnation: Uuid, runs: &[RunKey]) -> Result<Vec<OwnedNow>> {
        self.bounded(self.owned_now(incarnation, claim::Which::These(runs))).await
    }

    async fn moved(&self, incarnation: Uuid, runs: &[(RunKey, i32, i32)]) -> Result<Vec<OwnedNow>> {
        let keys: Vec<RunKey> = runs.iter().map(|(run, _, _)| *run).collect();
        let seen: HashMap<RunKey, (i32, i32)> = runs.iter().map(|(run, epoch, inbox)| (*run, (*epoch, *inbox))).collect();
        let mut now = self.bounded(self.owned_now(incarnation, claim::Which::These(&keys))).await?;
        now.retain(|run| {
            let held = run.mine && matches!(run.state, RunState::Running | RunState::Cancelling);
            !held || seen.get(&run.key) != Some(&(run.epoch, run.inbox))
        });
        Ok(now)
    }

    async fn answer_waits(&self, run: RunKey, waits: &[OpenWait]) -> Result<Vec<WaitAnswer>> {
        let answered = async {
            let mut tx = self.read().await?.begin_read().await?;
            let outcome = wait::answer_waits(&mut tx, run, waits).await;
            tx.finish(outcome).await
        };
        self.bounded(answered).await
    }

    async fn note_slow(&self, run: RunKey, epoch: i32, steps: &[SlowStep]) -> Result<()> {
        self.bounded(self.note_slow_steps(run, epoch, steps)).await
    }

    async fn now(&self) -> Result<i64> {
        Ok(rows::now_us())
    }

    async fn find(&self, run: RunKey) -> Result<Option<RunDetail>> {
        self.bounded(self.find_run(run)).await
    }

    async fn list(&self, filter: &RunFilter) -> Result<Vec<RunSummary>> {
        self.bounded(self.list_runs(filter)).await
    }

    async fn steps(&self, run: RunKey, after: Option<&Position>, limit: i64) -> Result<Vec<StepView>> {
        self.bounded(self.step_views(run, after, limit)).await
    }

    async fn outcomes(&self, runs: &[RunKey]) -> Result<Vec<(RunKey, WaitAnswer)>> {
        self.bounded(self.outcomes_of(runs)).await
    }

    async fn events(&self, wanted: &[(RunKey, String)]) -> Result<Vec<(RunKey, String, WaitAnswer)>> {
        self.bounded(self.published(wanted)).await
    }

    async fn cancel(&self, run: RunKey, by: &str, why: &str, grace_ms: i64) -> Result<ControlVerdict> {
        self.bounded(self.cancel_run(run, by, why, grace_ms)).await
    }

    async fn open_children(&self, parent: RunKey, limit: i64) -> Result<Vec<RunKey>> {
        self.bounded(self.children_to_cancel(parent, limit)).await
    }

    async fn children_closed(&self, parent: RunKey) -> Result<()> {
        self.bounded(self.no_children_left(parent)).await
    }

    async fn resume(&self, run: RunKey, by: &str) -> Result<ControlVerdict> {
        self.bounded(self.resume_run(run, by)).await
    }

    async fn retry(&self, run: RunKey, by: &str) -> Result<ControlVerdict> {
        self.bounded(self.retry_run(run, by)).await
    }

    async fn rewind(&self, run: RunKey, to: &Position, new_effects: bool, by: &str) -> Result<ControlVerdict> {
        self.bounded(self.rewind_run(run, to, new_effects, by)).await
    }

    async fn offer_blocked(&self, build: &str, workflows: &[String]) -> Result<i64> {
        self.bounded(self.offer_blocked_runs(build, workflows)).await
    }

    async fn put_queue(&self, queue: &Queue, by_operator: bool) -> Result<Queue> {
        self.bounded(self.put(queue, by_operator)).await
    }

    async fn pause_queue(&self, name: &str, paused: bool) -> Result<Option<Queue>> {
        self.bounded(self.pause(name, paused)).await
    }

    async fn queues(&self) -> Result<Vec<Queue>> {
        self.bounded(self.all_queues()).await
    }

    async fn announce(&self, routes: &[Route]) -> Result<()> {
        self.bounded(self.write_routes(routes)).await
    }

    async fn workflow_names(&self) -> Result<Vec<String>> {
        self.bounded(self.workflows()).await
    }

    fn guard(&self, style: Placeholders, incarnation: Uuid, run: RunKey, epoch: i32, step: &StepWrite) -> GuardStatement {
        transaction::guard(style, incarnation, run, epoch, step)
    }

    async fn probe(&self, incarnation: Uuid, run: RunKey, epoch: i32, step: &StepWrite) -> Result<Verdict> {
        self.bounded(self.probe_step(incarnation, run, epoch, step)).await
    }

    /// The name is written with the checkpoint: there is one writer, and nobody to wait for.
    async fn begin(&self, _site: &Site) -> Result<Box<dyn StoreTransaction>> {
        self.bounded(self.begin_transaction()).await
    }

    fn doubt_hints(&self) {
        // The file is asked each time: there is no source that could have gone.
    }

    async fn next_hints(&self) -> Vec<WakeHint> {
        self.wait_for_hints().await
    }

    async fn hint(&self, hints: &[WakeHint]) -> Result<()> {
        self.hints.give(hints);
        Ok(())
    }

    async fn close(&self) {
        for place in self.readers.iter().chain([&self.writer]) {
            place.lock().await.close().await;
        }
        self.locks().clear();
    }
}
