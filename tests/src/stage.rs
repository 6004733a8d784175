//! Where one scenario (or test) plays: a fresh database on either store, an event log, gates, a proxy or pooler where asked for, and the
//! worker processes. Dropping it ends all of them and removes every file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::audit::{Expect, Report, audit};
use crate::cluster::{Cluster, Stop};
use crate::database::Database;
use crate::event_log::EventLog;
use crate::pooler::Pooler;
use crate::proxy::Proxy;
use crate::scenario::Store;
use crate::worker::{Failure, Language, Worker};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Short, so that takeovers are seen in seconds; long enough for a busy two-core machine to beat in time.
pub const LEASE_MS: u64 = 2500;
pub const BEAT_MS: u64 = 500;

/// Fewer than any three processes would like: what holds a session while it waits for another shows.
const POOLED_SESSIONS: u32 = 6;

/// Money the accounts open with, and how many there are.
const ACCOUNTS: i64 = 8;
const OPENING: i64 = 1000;

pub enum Server {
    Shared(Arc<Cluster>),
    Own(Cluster),
}

impl Server {
    pub fn cluster(&self) -> &Cluster {
        match self {
            Server::Shared(c) => c,
            Server::Own(c) => c,
        }
    }
}

pub struct Stage {
    // Dropped in this order: processes, doors, server, files.
    pub workers: BTreeMap<String, Worker>,
    pub proxy: Option<Proxy>,
    pub pooler: Option<Pooler>,
    server: Option<Server>,
    pub store: Store,
    /// Processes speak these in turn, by the order of their names' first appearance; a name keeps its language.
    languages: Vec<Language>,
    speaks: BTreeMap<String, usize>,
    pub log: EventLog,
    directory: PathBuf,
    database: String,
    engine: Value,
}

/// What a stage is built of.
pub struct Plan<'a> {
    /// One, or a mixed fleet.
    pub languages: &'a [Language],
    pub store: Store,
    /// The cluster to use on PostgreSQL; None: one of its own, so that it may be broken.
    pub shared: Option<Arc<Cluster>>,
    pub proxy: bool,
    pub pooler: bool,
    pub engine: Value,
}

pub fn merge(into: &mut Value, from: &Value) {
    if let (Some(into), Some(from)) = (into.as_object_mut(), from.as_object()) {
        into.extend(from.clone());
    }
}

impl Stage {
    pub async fn set(plan: Plan<'_>) -> Result<Stage, String> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("everstep-stage-{}-{number}", std::process::id()));
        std::fs::create_dir_all(directory.join("gates")).map_err(|e| e.to_string())?;
        let mut engine = json!({
            "lease_ms": LEASE_MS, "beat_ms": BEAT_MS, "environment": "suite", "auto_migrate": true, "version": "v1",
        });
        merge(&mut engine, &plan.engine);
        let mut stage = Stage {
            workers: BTreeMap::new(),
            proxy: None,
            pooler: None,
            server: None,
            store: plan.store,
            languages: plan.languages.to_vec(),
            speaks: BTreeMap::new(),
            log: EventLog::at(&directory.join("events")),
            directory,
            database: format!("stage_{number}"),
            engine,
        };
        if plan.store == Store::Postgres {
            let server = match plan.shared {
                Some(shared) => Server::Shared(shared),
                None => Server::Own(tokio::task::spawn_blocking(|| Cluster::start(&[])).await.map_err(|e| e.to_string())??),
            };
            let mut admin = Database::open(&server.cluster().url("postgres"), "").await.map_err(|e| e.to_string())?;
            admin.execute(&format!("create database {}", stage.database)).await.map_err(|e| e.to_string())?;
            if plan.pooler {
                stage.pooler = Some(Pooler::start(server.cluster(), POOLED_SESSIONS)?);
            }
            if plan.proxy {
                let behind = stage.pooler.as_ref().map_or_else(|| server.cluster().port(), Pooler::port);
                stage.proxy = Some(Proxy::start(behind).await.map_err(|e| e.to_string())?);
            }
            stage.server = Some(server);
        } else {
            // An empty file that is there is a database SQLite opens.
            std::fs::write(stage.directory.join("everstep.db"), b"").map_err(|e| e.to_string())?;
        }
        let mut database = stage.audit_connection().await?;
        database
            .execute("create table accounts (id integer primary key, opening bigint not null, balance bigint not null)")
            .await
            .map_err(|e| e.to_string())?;
        database
            .execute("create table moved (run text not null, step text not null, account integer not null, amount bigint not null)")
            .await
            .map_err(|e| e.to_string())?;
        for account in 0..ACCOUNTS {
            let sql = format!("insert into accounts values ({account}, {OPENING}, {OPENING})");
            database.execute(&sql).await.map_err(|e| e.to_string())?;
        }
        Ok(stage)
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// What a worker is told to connect to. `via`: direct, proxy (in front of the pooler, where there is one) or pooler; None: the first of proxy, pooler,
    /// direct that there is.
    pub fn url(&self, via: Option<&str>) -> Result<String, String> {
        let Some(server) = &self.server else { return Ok(format!("sqlite:{}", self.directory.join("everstep.db").display())) };
        let door = via.unwrap_or(if self.proxy.is_some() {
            "proxy"
        } else if self.pooler.is_some() {
            "pooler"
        } else {
            "direct"
        });
        match (door, &self.proxy, &self.pooler) {
            ("direct", ..) => Ok(server.cluster().url(&self.database)),
            ("proxy", Some(proxy), _) => Ok(proxy.url(&self.database)),
            ("pooler", _, Some(pooler)) => Ok(pooler.url(&self.database)),
            _ => Err(format!("this scenario has no {door}: name it in `needs`")),
        }
    }

    pub async fn audit_connection(&self) -> Result<Database, String> {
        Database::open(&self.url(Some("direct"))?, self.schema()).await.map_err(|e| e.to_string())
    }

    fn schema(&self) -> &str {
        self.engine.get("schema").and_then(Value::as_str).unwrap_or("everstep")
    }

    pub fn lease(&self) -> Duration {
        Duration::from_millis(self.engine.get("lease_ms").and_then(Value::as_u64).unwrap_or(LEASE_MS))
    }

    fn language_of(&mut self, name: &str) -> Result<&Language, String> {
        let turn = self.speaks.len() % self.languages.len().max(1);
        let index = *self.speaks.entry(name.to_string()).or_insert(turn);
        self.languages.get(index).ok_or_else(|| "this stage has no language".into())
    }

    /// Start a process; it has not launched.
    pub async fn spawn(&mut self, name: &str, engine: &Value, environment: &[(String, String)], via: Option<&str>) -> Result<&Worker, String> {
        let mut whole = self.engine.clone();
        merge(&mut whole, &json!({"database": self.url(via)?}));
        merge(&mut whole, engine);
        let config = json!({
            "engine": whole, "log": self.log.path(), "gates": self.directory.join("gates"), "user_database": self.url(via)?, "store": self.store.name(),
        });
        let worker = Worker::spawn(self.language_of(name)?, name, &config, environment).await?;
        self.workers.insert(name.to_string(), worker);
        self.worker(Some(name))
    }

    /// Start a process and launch its engine.
    pub async fn launch(&mut self, name: &str, engine: &Value) -> Result<&Worker, String> {
        let worker = self.spawn(name, engine, &[], None).await?;
        worker.call("launch", json!({})).await.map_err(|e| format!("worker {name} did not launch: {e}\n{}", worker.errors()))?;
        self.worker(Some(name))
    }

    /// By name, or the first that lives.
    pub fn worker(&self, name: Option<&str>) -> Result<&Worker, String> {
        match name {
            Some(name) => self.workers.get(name).ok_or(format!("there is no worker {name}")),
            None => self.workers.values().find(|w| !w.is_stopped()).ok_or("no worker runs".into()),
        }
    }

    pub async fn kill(&mut self, name: &str) -> Result<u32, String> {
        let mut worker = self.workers.remove(name).ok_or(format!("there is no worker {name}"))?;
        worker.kill().await;
        Ok(worker.pid())
    }

    /// SIGSTOP. Stopped in the midst of a write to SQLite a process holds the file, which nobody can take from one that lives: then it goes on, and is stopped
    /// a moment later.
    pub async fn stop(&mut self, name: &str) -> Result<(), String> {
        let url = self.url(None)?;
        loop {
            let worker = self.workers.get_mut(name).ok_or(format!("there is no worker {name}"))?;
            worker.stop();
            if self.store == Store::Postgres || Database::is_free(&url).await.map_err(|e| e.to_string())? {
                return Ok(());
            }
            worker.resume();
        }
    }

    pub fn open_gate(&self, gate: &str) -> Result<(), String> {
        std::fs::write(self.directory.join("gates").join(gate), b"").map_err(|e| e.to_string())
    }

    pub async fn start(&self, by: Option<&str>, id: &str, program: Value, options: Value) -> Result<Value, Failure> {
        let worker = self.worker(by).map_err(Failure::lost)?;
        worker.call("start", json!({"id": id, "program": program, "options": options})).await
    }

    pub async fn result(&self, by: Option<&str>, id: &str, within: Duration) -> Result<Value, Failure> {
        let worker = self.worker(by).map_err(Failure::lost)?;
        worker.call("result", json!({"id": id, "timeout_ms": within.as_millis() as u64})).await
    }

    /// Wait until a query has this value (as text); its last other value is in the error.
    pub async fn until(&self, sql: &str, wanted: &str, within: Duration) -> Result<(), String> {
        let deadline = tokio::time::Instant::now() + within;
        let mut database = None;
        let mut last = String::from("nothing");
        loop {
            // The server may be down just now: that is one of the scenarios.
            if database.is_none() {
                database = self.audit_connection().await.ok();
            }
            if let Some(open) = database.as_mut() {
                match tokio::time::timeout(Duration::from_secs(5), open.rows(sql)).await {
                    Ok(Ok(rows)) => {
                        last = rows.first().and_then(|r| r.first().cloned().flatten()).unwrap_or_else(|| "null".into());
                        if last == wanted {
                            return Ok(());
                        }
                    }
                    Ok(Err(e)) => {
                        last = e.to_string();
                        database = None;
                    }
                    Err(_) => database = None,
                }
            }
            if tokio::time::Instant::now() > deadline {
                return Err(format!("{last} instead of {wanted} after {within:?}: {sql}"));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Break the server of this stage, which must be its own.
    pub fn postgres(&mut self, what: &str) -> Result<(), String> {
        let Some(Server::Own(cluster)) = &mut self.server else { return Err("this scenario has no server of its own: needs = [\"server\"]".into()) };
        match what {
            "restart" => cluster.restart(Stop::Fast),
            "crash" => {
                cluster.kill();
                cluster.resume()
            }
            "kill" => {
                cluster.kill();
                Ok(())
            }
            "stop" => cluster.stop(Stop::Fast),
            "start" => cluster.resume(),
            "freeze" => {
                cluster.freeze();
                Ok(())
            }
            "thaw" => {
                cluster.thaw();
                Ok(())
            }
            other => Err(format!("unknown fault {other} of the server")),
        }
    }

    pub fn cluster(&self) -> Option<&Cluster> {
        self.server.as_ref().map(Server::cluster)
    }

    pub async fn audit(&self, expect: Expect) -> Result<Report, String> {
        audit(&mut self.audit_connection().await?, Some(&self.log), expect).await
    }

    /// What the workers had to say, for a failure's report.
    pub fn errors(&self) -> String {
        let mut out = String::new();
        for worker in self.workers.values() {
            let errors = worker.errors();
            let lines: Vec<&str> = errors.lines().collect();
            let tail = lines[lines.len().saturating_sub(25)..].join("\n    ");
            if !tail.is_empty() {
                out.push_str(&format!("  worker {}:\n    {tail}\n", worker.name));
            }
        }
        out
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        for worker in self.workers.values() {
            crate::cluster::send(worker.pid(), rustix::process::Signal::KILL);
        }
        if std::env::var_os("EVERSTEP_KEEP").is_none() {
            drop(std::fs::remove_dir_all(&self.directory));
        } else {
            eprintln!("kept: {}", self.directory.display());
        }
    }
}
