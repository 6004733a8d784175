//! The engine: what one process knows and does. Pure parts live in `run`, SQL in `store`; here is what ties them to time, threads and hosts.

mod awaiters;
#[cfg(test)]
pub mod by_hand;
mod committer;
mod config;
pub mod control;
mod counters;
mod dispatcher;
mod drain;
pub mod error;
pub mod host;
mod housekeeping;
pub mod identity;
mod lifecycle;
mod misfits;
pub mod names;
pub mod options;
mod outbox;
mod queues;
mod records;
mod release;
mod served;
mod slow;
mod starts;
mod wakes;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use tokio::sync::Notify;
use uuid::Uuid;

pub use config::{Config, Replay, Role};
pub use outbox::Outbox;

use crate::key_map::KeyMap;
use crate::protocol::client::Client;
use crate::run::exec::Exec;
use crate::run::timers::Timers;
use crate::run::transactions::Transactions;
use crate::store::{RunKey, Site, Store, StoreError};
use committer::Lane;
use error::{EngineError, Result};

/// A function this process can run.
#[derive(Clone)]
pub struct Registered {
    pub client: u32,
    /// A step that can be started by itself (W22).
    pub is_step: bool,
    pub version: Option<String>,
    pub options: options::RegisterOptions,
}

/// How far the engine has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    Opened,
    Connected,
    Launched,
    Draining,
    Closed,
}

#[derive(Default)]
struct Execs {
    by_id: KeyMap<u64, Arc<Exec>>,
    by_run: KeyMap<RunKey, u64>,
}

pub struct Engine {
    pub config: Config,
    pub store: Arc<dyn Store>,
    pub timers: Timers,
    pub transactions: Transactions,
    host: host::Host,
    lanes: Vec<Lane>,
    handle: OnceLock<tokio::runtime::Handle>,
    phase: Mutex<Phase>,
    connecting: tokio::sync::Mutex<()>,
    registry: RwLock<HashMap<String, Registered>>,
    clients: RwLock<BTreeMap<u32, Arc<Client>>>,
    next_client: AtomicU32,
    /// By client: its free slots, and how many it has.
    slots: RwLock<HashMap<u32, (Arc<AtomicI64>, i64)>>,
    execs: RwLock<Execs>,
    next_exec: AtomicU64,
    /// Runs whose claimed start is on its way: owned in the database before they are known here.
    starting: Mutex<HashSet<RunKey>>,
    lease: RwLock<Option<Uuid>>,
    leasing: tokio::sync::Mutex<()>,
    /// One at a time takes runs on, from the store's answer to their executions: between the two a run is ours and nobody here knows it.
    taking: tokio::sync::Mutex<()>,
    held: Mutex<Option<String>>,
    pub claims: dispatcher::Claims,
    wakes: wakes::Wakes,
    awaiters: awaiters::Awaiters,
    queues: queues::Queues,
    names: names::Names,
    ticks: housekeeping::Ticks,
    releases: release::Releases,
    served: served::ServedNow,
    slow: slow::Slow,
    counters: counters::Counters,
    misfits: misfits::Misfits,
    /// Changed whenever an execution ends: drain waits on it.
    ended: Notify,
    draining: drain::Drain,
    closing: AtomicBool,
    /// What of an outage has been said.
    outage: AtomicU8,
    /// Of all loaded history, about.
    history_bytes: AtomicI64,
    random: AtomicU64,
    sites: RwLock<identity::Sites>,
}

impl Engine {
    pub fn open(json: &str) -> Result<Arc<Engine>> {
        let config = Config::resolve(json, &|name| std::env::var(name).ok())?;
        let store = crate::store::open(config.store.clone())?;
        let lanes = if store.kind() == crate::store::StoreKind::Sqlite { 1 } else { config.store.lanes };
        Ok(Arc::new(Engine {
            store,
            timers: Timers::default(),
            transactions: Transactions::default(),
            host: host::Host::here(),
            lanes: (0..lanes).map(|_| Lane::default()).collect(),
            handle: OnceLock::new(),
            phase: Mutex::new(Phase::Opened),
            connecting: tokio::sync::Mutex::default(),
            registry: RwLock::default(),
            clients: RwLock::default(),
            next_client: AtomicU32::new(1),
            slots: RwLock::default(),
            execs: RwLock::default(),
            next_exec: AtomicU64::new(1),
            starting: Mutex::default(),
            lease: RwLock::default(),
            leasing: tokio::sync::Mutex::default(),
            taking: tokio::sync::Mutex::default(),
            held: Mutex::default(),
            claims: dispatcher::Claims::default(),
            wakes: wakes::Wakes::default(),
            awaiters: awaiters::Awaiters::default(),
            queues: queues::Queues::default(),
            names: names::Names::default(),
            ticks: housekeeping::Ticks::default(),
            releases: release::Releases::default(),
            served: served::ServedNow::default(),
            slow: slow::Slow::default(),
            counters: counters::Counters::default(),
            misfits: misfits::Misfits::default(),
            ended: Notify::new(),
            draining: drain::Drain::default(),
            closing: AtomicBool::new(false),
            outage: AtomicU8::new(0),
            history_bytes: AtomicI64::new(0),
            random: AtomicU64::new(Uuid::new_v4().as_u64_pair().1 ^ Uuid::new_v4().as_u64_pair().0.rotate_left(17)),
            sites: RwLock::default(),
            config,
        }))
    }

    /// The runtime of this engine; set before anything is spawned.
    pub fn set_runtime(&self, handle: tokio::runtime::Handle) {
        // A second call would name the same runtime: the bridge makes one an engine.
        let _ = self.handle.set(handle);
    }

    pub fn spawn<F, Fut>(self: &Arc<Self>, task: F)
    where
        F: FnOnce(Arc<Engine>) -> Fut,
        Fut: Future<Output = ()> + Send + 'static,
    {
        if let Some(handle) = self.handle.get() {
            handle.spawn(task(self.clone()));
        }
    }

    /// Say it again until the database answers: reads on behalf of runs, which wait out any outage.
    pub async fn persist<T, F, Fut>(&self, call: F) -> T
    where
        F: Fn() -> Fut,
        Fut: Future<Output = crate::store::Result<T>>,
    {
        let mut failures = 0;
        loop {
            match call().await {
                Ok(value) => return value,
                Err(e) => self.outage(&e),
            }
            failures += 1;
            tokio::time::sleep(self.back_off(failures)).await;
        }
    }

    /// The same for calls from outside a run: they wait as long as the outage budget, and errors that need a person are said at once.
    pub async fn within_budget<T, F, Fut>(&self, call: F) -> Result<T>
    where
        F: Fn() -> Fut,
        Fut: Future<Output = crate::store::Result<T>>,
    {
        let deadline = tokio::time::Instant::now() + std::time::Duration::from_millis(self.config.outage_budget_ms);
        let mut failures = 0;
        loop {
            match call().await {
                Ok(value) => return Ok(value),
                Err(e @ (StoreError::Setup { .. } | StoreError::Rejected { .. })) => return Err(e.into()),
                Err(e) => {
                    self.outage(&e);
                    failures += 1;
                    let pause = self.back_off(failures);
                    if tokio::time::Instant::now() + pause > deadline {
                        return Err(e.into());
                    }
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }

    /// Once an outage: a line for whoever reads the log, and a look at what we own when it is over. One more when it is the credentials that are refused, for
    /// somebody may have to see to those.
    fn outage(&self, e: &StoreError) {
        let said = if matches!(e, StoreError::Unavailable(message) if message.contains(crate::store::REFUSED_NOW)) { 2 } else { 1 };
        // A statement cut off by our own close is no outage.
        if self.phase() != Phase::Closed && self.outage.fetch_max(said, Ordering::Relaxed) < said {
            self.log_all("warning", "unavailable", &format!("{e}; runs wait and go on when it is back"));
        }
    }

    /// The site of a call; made once, for each call asks.
    pub fn site(&self, name: &str, location: &str) -> Site {
        if let Some(site) = self.sites.read().unwrap_or_else(PoisonError::into_inner).get(name, location) {
            return site.clone();
        }
        self.sites.write().unwrap_or_else(PoisonError::into_inner).make(name, location)
    }

    pub fn random(&self) -> i64 {
        // A step of splitmix64 from a random place: the system's own source costs a call into the kernel for each step recorded.
        let mut z = self.random.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) as i64
    }

    /// Even in 0.0..1.0, 53 bits.
    pub fn random_unit(&self) -> f64 {
        (self.random() as u64 >> 11) as f64 / (1u64 << 53) as f64
    }

    pub fn phase(&self) -> Phase {
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn is_connected(&self) -> bool {
        matches!(self.phase(), Phase::Connected | Phase::Launched | Phase::Draining)
    }

    pub fn incarnation(&self) -> Option<Uuid> {
        *self.lease.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn held(&self) -> Option<String> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    // -- clients and registrations ----------------------------------------------------------------------------------------------

    pub fn attach(&self, ordered: bool) -> Result<u32> {
        let client = Client::new(ordered).map_err(|e| EngineError::new(crate::protocol::errors::Code::Internal, format!("no wake-up descriptor: {e}")))?;
        let id = self.next_client.fetch_add(1, Ordering::Relaxed);
        self.clients.write().unwrap_or_else(PoisonError::into_inner).insert(id, Arc::new(client));
        Ok(id)
    }

    /// Nobody reads this client's queue any more. One that functions are registered with stays: runs are claimed for it.
    pub fn detach(&self, id: u32) {
        if self.registry.read().unwrap_or_else(PoisonError::into_inner).values().any(|r| r.client == id) {
            return;
        }
        let gone = self.clients.write().unwrap_or_else(PoisonError::into_inner).remove(&id);
        if let Some(client) = gone {
            self.forget_awaiters_of(&client);
        }
    }

    pub fn client(&self, id: u32) -> Option<Arc<Client>> {
        self.clients.read().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    fn registered(&self, name: &str) -> Option<Registered> {
        self.registry.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    pub fn log(&self, client: &Arc<Client>, level: &str, code: &str, message: &str, out: &mut Outbox) {
        let mut w = crate::protocol::frame::Writer::new();
        w.str(level).str(code).str(message);
        out.push(client, crate::protocol::client::Event { token: 0, kind: crate::protocol::ops::event::LOG, frame: w.finish() });
    }

    /// To the first client: every host reads its own queue, and one line is enough.
    pub fn log_all(&self, level: &str, code: &str, message: &str) {
        let first = self.clients.read().unwrap_or_else(PoisonError::into_inner).values().next().cloned();
        if let Some(client) = first {
            self.log(&client, level, code, message, &mut Outbox::default());
        }
    }

    // -- executions -------------------------------------------------------------------------------------------------------------

    pub fn exec(&self, id: u64) -> Option<Arc<Exec>> {
        self.execs.read().unwrap_or_else(PoisonError::into_inner).by_id.get(&id).cloned()
    }

    fn exec_of(&self, run: RunKey) -> Option<Arc<Exec>> {
        let execs = self.execs.read().unwrap_or_else(PoisonError::into_inner);
        execs.by_run.get(&run).and_then(|id| execs.by_id.get(id)).cloned()
    }

    fn all_execs(&self) -> Vec<Arc<Exec>> {
        self.execs.read().unwrap_or_else(PoisonError::into_inner).by_id.values().cloned().collect()
    }

    fn exec_count(&self) -> usize {
        self.execs.read().unwrap_or_else(PoisonError::into_inner).by_id.len()
    }

    fn remember(&self, exec: &Arc<Exec>) {
        self.history_bytes.fetch_add(exec.history_bytes.load(Ordering::Relaxed), Ordering::Relaxed);
        let mut execs = self.execs.write().unwrap_or_else(PoisonError::into_inner);
        execs.by_run.insert(exec.run, exec.id);
        execs.by_id.insert(exec.id, exec.clone());
    }

    /// Its first call that is not recorded: replay has freed record by record what it was loaded with, about. What is parked for an hour must not keep
    /// others out for it.
    pub fn history_replayed(&self, exec: &Exec) {
        let bytes = exec.history_bytes.swap(0, Ordering::Relaxed);
        if bytes > 0 {
            self.history_bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.claims.slots_freed();
        }
    }

    /// The execution has ended here, however it did: its memory and its slot are free.
    pub fn forget(&self, exec: &Exec) {
        let gone = {
            let mut execs = self.execs.write().unwrap_or_else(PoisonError::into_inner);
            if execs.by_run.get(&exec.run) == Some(&exec.id) {
                execs.by_run.remove(&exec.run);
            }
            execs.by_id.remove(&exec.id).is_some()
        };
        if gone {
            self.history_replayed(exec);
            self.claims.clear_suspect(exec.run);
            let (parked, releasable, watches) = {
                let mut st = exec.lock();
                (std::mem::replace(&mut st.parked, true), st.releasable, std::mem::take(&mut st.watches))
            };
            for target in watches {
                self.unwatch(target, exec.id);
            }
            if parked {
                self.parked_changed(-1, releasable);
            } else {
                self.slots_changed(exec.client_id, 1);
            }
            self.timers.forget(exec.id);
            self.ended.notify_waiters();
            // Whoever waits for its result was to be told from here; from now on it has to be looked for.
            if self.awaiters.awaits(exec.run) {
                self.awaiters.look();
            }
        }
    }

    fn slots_of(&self, client: u32) -> Option<Arc<AtomicI64>> {
        self.slots.read().unwrap_or_else(PoisonError::into_inner).get(&client).map(|(free, _)| free.clone())
    }

    /// `by` slots of this client became free (or, below 0, were taken).
    pub fn slots_changed(&self, client: u32, by: i64) {
        if let Some(slots) = self.slots_of(client) {
            slots.fetch_add(by, Ordering::Relaxed);
            if by > 0 {
                self.claims.slot_of(client);
                self.claims.slots_freed();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::by_hand::ByHand;

    #[test]
    fn a_client_whose_loop_has_gone_is_gone_but_for_one_with_functions() {
        let h = ByHand::open(true);
        let other = h.engine.attach(true).unwrap();
        h.engine.await_result(h.engine.client(other).unwrap(), 7, uuid::Uuid::now_v7(), None);
        let weak = std::sync::Arc::downgrade(&h.engine.client(other).unwrap());
        h.engine.detach(other);
        h.engine.detach(1);
        assert!(weak.upgrade().is_none() && h.engine.client(1).is_some());
        assert_ne!(h.engine.attach(true).unwrap(), other, "a late call of the old loop must not reach a new one");
    }
}
