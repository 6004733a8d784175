//! A store to try things on, and the few shapes the checks are made of.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use everstep::store::*;
use uuid::Uuid;

use crate::cluster::{Binaries, Cluster};

/// Where stores live; removed when the program ends.
pub enum Place {
    Postgres(Box<Cluster>),
    Sqlite(PathBuf),
}

impl Place {
    pub fn all() -> Vec<Place> {
        let directory = std::env::temp_dir().join(format!("everstep-conformance-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("a temporary directory");
        let mut places = vec![Place::Sqlite(directory)];
        if Binaries::find().is_some() {
            places.push(Place::Postgres(Box::new(Cluster::start(&[]).expect("a private cluster"))));
        } else {
            println!("PostgreSQL is not installed: only SQLite is tried");
        }
        places
    }

    pub fn name(&self) -> &'static str {
        match self {
            Place::Postgres(_) => "postgres",
            Place::Sqlite(_) => "sqlite",
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Place::Sqlite(directory) = self {
            drop(std::fs::remove_dir_all(directory));
        }
    }
}

static NEXT: AtomicU32 = AtomicU32::new(0);
static TOKEN: AtomicI64 = AtomicI64::new(1);

pub fn token() -> i64 {
    TOKEN.fetch_add(1, Ordering::Relaxed)
}

pub struct Bench {
    pub store: Arc<dyn Store>,
    pub config: StoreConfig,
}

impl Bench {
    pub async fn new(place: &Place) -> Bench {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let (url, schema) = match place {
            Place::Postgres(cluster) => (cluster.url("postgres"), format!("check_{number}")),
            Place::Sqlite(directory) => (format!("sqlite:{}", directory.join(format!("{number}.db")).display()), "everstep".into()),
        };
        let config = StoreConfig {
            url,
            schema,
            namespace: "default".into(),
            lanes: 2,
            pool: 4,
            pooler: None,
            statement_timeout_ms: 30_000,
            beat_timeout_ms: 30_000,
            allow_async_commit: false,
            follow_up: |_, _| None,
        };
        let store = open(config.clone()).expect("the URL is good");
        store.migrate().await.expect("migrates");
        Bench { store, config }
    }

    /// Another process, as far as the database can tell.
    pub fn another(&self) -> Arc<dyn Store> {
        open(self.config.clone()).expect("the URL is good")
    }

    pub fn is_postgres(&self) -> bool {
        self.store.kind() == StoreKind::Postgres
    }

    pub async fn worker(&self) -> Worker {
        Worker::register(self.store.clone(), 60_000).await
    }

    pub async fn find(&self, run: RunKey) -> RunDetail {
        self.store.find(run).await.expect("reads").expect("the run is there")
    }

    pub async fn state(&self, run: RunKey) -> RunState {
        self.find(run).await.summary.state
    }
}

pub fn info(incarnation: Uuid, lease_ms: i64) -> WorkerInfo {
    WorkerInfo {
        incarnation,
        lanes: 2,
        lease_ms,
        host: "host".into(),
        boot_id: "boot".into(),
        pid_namespace: "ns".into(),
        pid: 42,
        process_start: 7,
        build: "build-1".into(),
        language: "rust".into(),
        queues: vec!["q".into()],
        environment: "test".into(),
        protocol: 1,
        schema: 1,
    }
}

/// A registered worker.
#[derive(Clone)]
pub struct Worker {
    pub store: Arc<dyn Store>,
    pub id: Uuid,
}

impl Worker {
    pub async fn register(store: Arc<dyn Store>, lease_ms: i64) -> Worker {
        let id = Uuid::new_v4();
        store.register(&info(id, lease_ms)).await.expect("registers");
        Worker { store, id }
    }

    pub async fn commit(&self, writes: &[Write]) -> Vec<Verdict> {
        self.store.commit(0, Some(self.id), writes, false).await.expect("commits")
    }

    pub async fn again(&self, writes: &[Write]) -> Vec<Verdict> {
        self.store.commit(0, Some(self.id), writes, true).await.expect("commits")
    }

    pub async fn one(&self, write: Write) -> Verdict {
        self.commit(&[write]).await.remove(0)
    }

    /// Start a run as already claimed.
    pub async fn own(&self) -> RunKey {
        self.own_with(new_run()).await
    }

    pub async fn own_with(&self, run: NewRun) -> RunKey {
        let run = NewRun { claimed: true, ..run };
        let key = run.key;
        assert!(matches!(self.one(start(run)).await, Verdict::Started { claimed: true }));
        key
    }

    pub async fn claim(&self, routes: &[Route], max: i64) -> Vec<ClaimedRun> {
        let request = ClaimRequest { incarnation: self.id, claim_token: token(), routes: routes.to_vec(), max, held_by_queue: Vec::new() };
        self.store.claim(&request).await.expect("claims")
    }

    pub async fn tick(&self, known_dead: &[Uuid]) -> TickReport {
        self.tick_as(true, known_dead, 5).await
    }

    pub async fn tick_as(&self, may_reap: bool, known_dead: &[Uuid], max_crashes: i32) -> TickReport {
        self.tick_when(may_reap, known_dead, max_crashes, 60_000).await
    }

    pub async fn tick_when(&self, may_reap: bool, known_dead: &[Uuid], max_crashes: i32, silent_ms: i64) -> TickReport {
        let request = TickRequest {
            incarnation: Some(self.id),
            lease_ms: 60_000,
            may_reap,
            silent_ms,
            known_dead: known_dead.to_vec(),
            page: 500,
            cancel_grace_ms: 60_000,
            max_crashes,
            boot_id: "boot".into(),
            routes: Vec::new(),
        };
        self.store.tick(&request).await.expect("ticks")
    }
}

pub fn route() -> Route {
    route_of("", "checkout")
}

pub fn route_of(queue: &str, workflow: &str) -> Route {
    let id = queue.bytes().chain([0]).chain(workflow.bytes()).fold(17i64, |hash, byte| hash.wrapping_mul(1_000_003).wrapping_add(byte.into()));
    Route { id, queue: queue.into(), workflow: workflow.into(), label: String::new() }
}

pub fn new_run() -> NewRun {
    NewRun {
        key: Uuid::now_v7(),
        id_text: None,
        route: route(),
        version: Some("build-1".into()),
        priority: 0,
        start: None,
        expires_ms: None,
        deadline_ms: None,
        input: Payload::json(b"{\"a\":1}".to_vec()),
        parent: None,
        forked_from: None,
        trace_parent: Some("00-trace".into()),
        trace_state: None,
        attributes: Some("{\"tenant\":\"t1\",\"n\":3}".into()),
        fairness_key: None,
        cost: 1,
        created_by: Some("someone".into()),
        dedup: None,
        options: None,
        reuse_purged: false,
        claimed: false,
        claim_token: token(),
    }
}

pub fn start(run: NewRun) -> Write {
    Write::Start(Box::new(run))
}

pub fn at(seq: i32) -> Position {
    Position { segment: 0, branch: "".into(), seq }
}

pub fn site(name: &str) -> Site {
    let id = name.bytes().fold(5i64, |hash, byte| hash.wrapping_mul(131).wrapping_add(byte.into()));
    Site { id, name: name.into(), location: "app.py:3".into() }
}

pub fn step(seq: i32) -> StepWrite {
    StepWrite {
        at: at(seq),
        kind: 1,
        site: site("charge"),
        digest: Some(99),
        failed: false,
        done: seq,
        seen: seq,
        attempt: 1,
        took_us: 1500,
        token: token(),
        output: Payload::json(format!("\"out {seq}\"").into_bytes()),
        effects: Vec::new(),
    }
}

pub fn record(run: RunKey, epoch: i32, step: StepWrite) -> Write {
    Write::Step { run, epoch, step: Box::new(step) }
}

pub fn with(effects: Vec<Effect>, step: StepWrite) -> StepWrite {
    StepWrite { effects, ..step }
}

pub fn outcome(run: RunKey, epoch: i32) -> Write {
    outcome_of(run, epoch, RunState::Succeeded)
}

pub fn outcome_of(run: RunKey, epoch: i32, state: RunState) -> Write {
    let failed = state == RunState::Failed;
    Write::Outcome {
        run,
        epoch,
        state,
        token: token(),
        value: Payload::json(b"\"done\"".to_vec()),
        error_type: failed.then(|| "Boom".into()),
        error_message: failed.then(|| "it went off".into()),
        then: None,
        children: false,
    }
}

/// The end of a run that may have children.
pub fn outcome_of_parent(run: RunKey) -> Write {
    match outcome(run, 1) {
        Write::Outcome { run, epoch, state, token, value, error_type, error_message, then, .. } => {
            Write::Outcome { run, epoch, state, token, value, error_type, error_message, then, children: true }
        }
        other => other,
    }
}

pub fn wait(run: RunKey, epoch: i32, seq: i32, kind: WaitKind, target: Option<RunKey>, key: &str, due: Option<Due>) -> Write {
    Write::Wait { run, epoch, at: at(seq), kind, due, target, key: key.into(), site: site("wait") }
}

pub fn message(to: RunKey, topic: &str, text: &str) -> NewMessage {
    NewMessage { to, id: Uuid::now_v7(), ord: token(), topic: topic.into(), value: Payload::json(text.as_bytes().to_vec()), token: token() }
}

pub fn attempt(run: RunKey, epoch: i32, seq: i32, number: i32, started: bool) -> Write {
    Write::Attempt {
        run,
        epoch,
        at: at(seq),
        attempt: number,
        started,
        site: site("charge"),
        token: token(),
        error: Payload::json(b"{\"type\":\"Boom\"}".to_vec()),
        retry_in_ms: Some(1000),
    }
}

/// Wait for a condition, at most half a minute.
pub async fn until<F, T>(what: &str, mut condition: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let limit = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(Instant::now() < limit, "not within 30 s: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

macro_rules! verdict {
    ($value:expr, $pattern:pat $(if $guard:expr)?) => {
        match $value {
            $pattern $(if $guard)? => {}
            other => panic!("expected {}, got {other:?}", stringify!($pattern)),
        }
    };
}
pub(crate) use verdict;
