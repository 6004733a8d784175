//! Connections the store owns. sqlx gives no keepalive, connect timeout or read-write check, and its pool pings without a deadline, so the
//! long-lived connections are kept here: each await has a deadline, and one that missed it, or broke, is dropped and never used again.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use sqlx::postgres::{PgArguments, PgConnectOptions, PgConnection, PgRow};
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, Connection, Executor, Postgres, Row};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::errors::{Fault, NO_DATABASE, REFUSED, classify, classify_user, timed_out};
use super::url::Hosts;
use crate::store::{FollowUp, REFUSED_NOW, Result, StoreConfig, StoreError};

pub(super) type Statement<'q> = Query<'q, Postgres, PgArguments>;

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Profile {
    /// The engine's own statements: plans pinned, because a plan made on empty tables is kept while they grow.
    Engine,
    /// A user's SQL: the planner as the database has it.
    User,
}

/// sqlx sets no keep-alive, but the server can: a session that says nothing for long is not forgotten by what stands in between, and one whose
/// client is gone without a word ends, and with it what it has locked. No effect on Unix sockets.
const KEEP_ALIVE: [(&str, &str); 3] = [("tcp_keepalives_idle", "60"), ("tcp_keepalives_interval", "10"), ("tcp_keepalives_count", "6")];

/// Whether the connections are sessions of their own or a transaction-mode pooler's.
const UNKNOWN: u8 = 0;
const SESSION: u8 = 1;
const POOLED: u8 = 2;

/// Shared by all connections of one store.
pub(super) struct Shared {
    hosts: Hosts,
    /// Quoted.
    pub(super) schema: String,
    pub(super) namespace: String,
    pub(super) follow_up: FollowUp,
    pub(super) timeout: Duration,
    /// Of what keeps the lease alive: a connection that has gone silent is given up while there is time for a new one.
    pub(super) beat_timeout: Duration,
    allow_async_commit: bool,
    mode: AtomicU8,
    was_writable: AtomicBool,
    closed: AtomicBool,
    /// How many connections were opened: what a new one meets may be another server than the one before knew.
    opened: AtomicU64,
    /// Index of the host that answered last.
    good: AtomicUsize,
    texts: RwLock<HashMap<(usize, usize), Arc<str>>>,
}

/// Which server, and which database of it: what a person needs to put it right. Nothing else of the URL.
fn at_host(error: StoreError, host: &PgConnectOptions) -> StoreError {
    let at = format!("{}:{}", host.get_host(), host.get_port());
    match error {
        StoreError::Unavailable(message) => StoreError::Unavailable(format!("{at}: {message}")),
        StoreError::Setup { code: "config_invalid", message } if message.starts_with(NO_DATABASE) => StoreError::Setup {
            code: "config_invalid",
            message: format!("{NO_DATABASE} \"{}\" at {at}. Create it, or correct the name in the URL.", host.get_database().unwrap_or(host.get_username())),
        },
        other => other,
    }
}

fn is_refused(error: &StoreError) -> bool {
    matches!(error, StoreError::Setup { code: "database_auth", message } if message.starts_with(REFUSED))
}

impl Shared {
    pub(super) fn new(config: &StoreConfig) -> Result<Self> {
        Ok(Shared {
            hosts: Hosts::of(&config.url)?,
            schema: super::schema::quoted(&config.schema)?,
            namespace: config.namespace.clone(),
            follow_up: config.follow_up,
            timeout: Duration::from_millis(config.statement_timeout_ms.max(100)),
            beat_timeout: Duration::from_millis(config.beat_timeout_ms.clamp(100, config.statement_timeout_ms.max(100))),
            allow_async_commit: config.allow_async_commit,
            mode: AtomicU8::new(match config.pooler {
                None => UNKNOWN,
                Some(false) => SESSION,
                Some(true) => POOLED,
            }),
            was_writable: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            opened: AtomicU64::new(0),
            good: AtomicUsize::new(0),
            texts: RwLock::new(HashMap::new()),
        })
    }

    pub(super) fn pooled(&self) -> bool {
        self.mode.load(Ordering::Relaxed) == POOLED
    }

    pub(super) fn opened(&self) -> u64 {
        self.opened.load(Ordering::SeqCst)
    }

    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    pub(super) fn closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// A statement with the schema put in. Texts are constants, so their address is their key.
    pub(super) fn text(&self, template: &'static str) -> Arc<str> {
        let key = (template.as_ptr() as usize, template.len());
        if let Some(text) = self.texts.read().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return text.clone();
        }
        let text: Arc<str> = template.replace("{s}", &self.schema).into();
        self.texts.write().unwrap_or_else(PoisonError::into_inner).insert(key, text.clone());
        text
    }

    fn q<'q>(&self, template: &'static str) -> Statement<'q> {
        sqlx::query(AssertSqlSafe(self.text(template)))
    }

    /// What pins an engine session, as (name, value).
    fn settings(&self, profile: Profile) -> Vec<(&'static str, String)> {
        let millis = self.timeout.as_millis();
        let mut settings = vec![
            // Later than our own deadline: a statement this ends was ended by somebody else's setting or by an operator.
            ("statement_timeout", (millis + 1000).to_string()),
            ("idle_in_transaction_session_timeout", (millis + 1000).to_string()),
        ];
        if profile == Profile::Engine {
            // The engine's batches hold others up and say themselves again; a user's transaction may wait for its turn at a hot row.
            settings.push(("lock_timeout", "1000".into()));
            settings.push(("plan_cache_mode", "force_generic_plan".into()));
            for name in ["enable_seqscan", "enable_hashjoin", "enable_mergejoin", "enable_bitmapscan", "enable_sort", "jit"] {
                settings.push((name, "off".into()));
            }
        }
        settings
    }

    /// What opens a transaction; one message, so that behind a pooler the settings hold exactly as long as the server connection does.
    fn opening(&self, profile: Profile) -> String {
        let mut text = String::from("BEGIN ISOLATION LEVEL READ COMMITTED");
        if self.pooled() {
            for (name, value) in self.settings(profile) {
                text.push_str(&format!("; SET LOCAL {name} = '{value}'"));
            }
        }
        text
    }

    async fn connect(&self, profile: Profile) -> Result<PgConnection> {
        if self.closed() {
            return Err(StoreError::Unavailable("the store is closed".into()));
        }
        let mut last = StoreError::Unavailable("the URL names no host".into());
        // The one that answered last comes first: one that has gone would cost each connection its whole timeout.
        let good = self.good.load(Ordering::Relaxed);
        for at in (good..self.hosts.len()).chain(0..good) {
            let host = self.hosts.get(at);
            let mut connected = self.connect_host(&host, profile).await;
            if matches!(&connected, Err(error) if is_refused(error)) {
                connected = self.connect_host(&self.hosts.read_again(at), profile).await;
            }
            match connected {
                Ok(connection) => {
                    self.good.store(at, Ordering::Relaxed);
                    self.opened.fetch_add(1, Ordering::SeqCst);
                    return Ok(connection);
                }
                Err(error @ StoreError::Setup { code: "database_not_durable", .. }) => return Err(error),
                Err(error) => last = at_host(self.refused_now(error), &host),
            }
        }
        Err(last)
    }

    /// Credentials that were good once are being changed, and the new ones are on their way: to be waited for like any outage.
    fn refused_now(&self, error: StoreError) -> StoreError {
        match error {
            error if is_refused(&error) && self.was_writable.load(Ordering::Relaxed) => {
                StoreError::Unavailable(format!("{REFUSED_NOW}. A password that is not in the URL is read again at each attempt (PGPASSWORD, passfile)"))
            }
            other => other,
        }
    }

    async fn connect_host(&self, host: &PgConnectOptions, profile: Profile) -> Result<PgConnection> {
        let mode = self.mode.load(Ordering::Relaxed);
        if mode != POOLED {
            // An option in the start-up packet tells the two apart for certain: a pooler refuses it or keeps it to itself.
            let mut options = host.clone().options([("everstep.session", "1"), ("default_transaction_isolation", "read committed")]);
            options = options.options(KEEP_ALIVE).options(self.settings(profile));
            match self.greet(&options).await {
                Ok((connection, true)) => {
                    self.mode.store(SESSION, Ordering::Relaxed);
                    return Ok(connection);
                }
                Ok((_, false)) | Err(Greeting::OptionsRefused) if mode == UNKNOWN => self.mode.store(POOLED, Ordering::Relaxed),
                Ok((connection, false)) => return Ok(connection),
                Err(Greeting::OptionsRefused) => {
                    return Err(StoreError::Setup {
                        code: "config_invalid",
                        message: "The server refuses start-up options as a pooler does, but pooler is configured off.".into(),
                    });
                }
                Err(Greeting::Failed(error)) => return Err(error),
            }
        }
        match self.greet(&host.clone().statement_cache_capacity(0)).await {
            Ok((connection, _)) => Ok(connection),
            Err(Greeting::Failed(error)) => Err(error),
            Err(Greeting::OptionsRefused) => Err(StoreError::Unavailable("the pooler refused the connection".into())),
        }
    }

    /// Connect, and look before anything is entrusted to the session. True: it is a session of our own.
    async fn greet(&self, options: &PgConnectOptions) -> std::result::Result<(PgConnection, bool), Greeting> {
        let mut connection = match tokio::time::timeout(self.timeout, PgConnection::connect_with(options)).await {
            Err(_) => return Err(Greeting::Failed(timed_out(self.timeout))),
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => {
                let refused = error.as_database_error().is_some_and(|e| e.message().contains("unsupported startup parameter"));
                return Err(if refused { Greeting::OptionsRefused } else { Greeting::Failed(classify(error).error) });
            }
        };
        const LOOK: &str = "select coalesce(current_setting('everstep.session', true), ''), \
            current_setting('transaction_read_only') = 'on' or pg_is_in_recovery(), current_setting('synchronous_commit')";
        // The simple protocol: the one form that is safe before it is known whether sessions hold.
        let look = tokio::time::timeout(self.timeout, connection.fetch_one(sqlx::raw_sql(LOOK))).await;
        let row = match look {
            Err(_) => return Err(Greeting::Failed(timed_out(self.timeout))),
            Ok(Err(error)) => return Err(Greeting::Failed(classify(error).error)),
            Ok(Ok(row)) => row,
        };
        let read = |error: sqlx::Error| Greeting::Failed(classify(error).error);
        let session: String = row.try_get(0).map_err(read)?;
        let read_only: bool = row.try_get(1).map_err(read)?;
        let durable: String = row.try_get(2).map_err(read)?;
        if read_only {
            let message = "The server answers but is read-only. Name the primary.".to_string();
            return Err(Greeting::Failed(if self.was_writable.load(Ordering::Relaxed) {
                StoreError::Unavailable(message)
            } else {
                StoreError::Setup { code: "database_read_only", message }
            }));
        }
        if durable == "off" && !self.allow_async_commit {
            let message = "synchronous_commit is off, so an acknowledged step could be lost. Turn it on, or set allow_async_commit.";
            return Err(Greeting::Failed(StoreError::Setup { code: "database_not_durable", message: message.into() }));
        }
        self.was_writable.store(true, Ordering::Relaxed);
        Ok((connection, session == "1"))
    }

    /// Options of a session beside the homes, for the listener: of the host that answered last.
    pub(super) fn lone(&self) -> PgConnectOptions {
        self.hosts.get(self.good.load(Ordering::Relaxed)).options(KEEP_ALIVE)
    }
}

enum Greeting {
    OptionsRefused,
    Failed(StoreError),
}

struct Idle {
    connection: PgConnection,
    /// A socket belongs to the reactor it was opened on; on another runtime it would never wake.
    runtime: tokio::runtime::Id,
}

/// Where connections of one purpose live while nobody uses them.
pub(super) struct Home {
    idle: Mutex<Vec<Idle>>,
    permits: Arc<Semaphore>,
    profile: Profile,
}

impl Home {
    pub(super) fn new(size: usize, profile: Profile) -> Self {
        Home { idle: Mutex::new(Vec::new()), permits: Arc::new(Semaphore::new(size.max(1))), profile }
    }

    /// Wait for a connection of this home; opens one when none is idle.
    pub(super) async fn session(self: &Arc<Self>, shared: &Arc<Shared>) -> Result<Session> {
        let permit = self.permits.clone().acquire_owned().await.map_err(|_| StoreError::Unavailable("the store is closed".into()))?;
        let runtime = tokio::runtime::Handle::current().id();
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop().filter(|idle| idle.runtime == runtime);
        let connection = match idle {
            Some(idle) => idle.connection,
            None => shared.connect(self.profile).await?,
        };
        let within = shared.timeout;
        Ok(Session { shared: shared.clone(), home: self.clone(), _permit: permit, connection: Some(connection), runtime, state: State::Idle, within })
    }

    pub(super) fn clear(&self) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Idle,
    Transaction,
    /// An await is in progress or ended badly: what the server thinks is not known.
    Unsure,
}

/// A connection in use. Dropped while it is unsure or in a transaction, it is closed and the server rolls back: so a cancelled future is safe.
pub(super) struct Session {
    pub(super) shared: Arc<Shared>,
    home: Arc<Home>,
    _permit: OwnedSemaphorePermit,
    connection: Option<PgConnection>,
    runtime: tokio::runtime::Id,
    state: State,
    /// An await that takes longer is an error, and the end of the connection.
    pub(super) within: Duration,
}

impl Session {
    pub(super) fn q<'q>(&self, template: &'static str) -> Statement<'q> {
        // In a user's session a plan must not outlive the settings it was made under.
        self.shared.q(template).persistent(self.home.profile == Profile::Engine && !self.shared.pooled())
    }

    pub(super) async fn begin(&mut self) -> Result<()> {
        let text = self.shared.opening(self.home.profile);
        self.simple(text).await?;
        self.state = State::Transaction;
        Ok(())
    }

    /// From here to its end, a user's transaction runs statements of the engine.
    pub(super) async fn pin(&mut self) -> Result<()> {
        if self.home.profile == Profile::Engine {
            return Ok(());
        }
        let settings = self.shared.settings(Profile::Engine);
        let text: Vec<String> = settings.iter().map(|(name, value)| format!("SET LOCAL {name} = '{value}'")).collect();
        self.simple(text.join("; ")).await
    }

    pub(super) async fn commit(&mut self) -> Result<()> {
        self.simple("COMMIT".into()).await?;
        self.state = State::Idle;
        Ok(())
    }

    /// Ends the transaction if there is one. A connection that cannot even do that is dropped.
    pub(super) async fn rollback(&mut self) {
        if self.state == State::Transaction {
            match self.simple("ROLLBACK".into()).await {
                Ok(()) => self.state = State::Idle,
                Err(_) => self.connection = None,
            }
        }
    }

    /// Text without parameters: may hold several statements, or be the user's own.
    pub(super) async fn simple(&mut self, text: String) -> Result<()> {
        let (timeout, before) = (self.within, self.state);
        let connection = self.live()?;
        let done = tokio::time::timeout(timeout, connection.execute(sqlx::raw_sql(AssertSqlSafe(text)))).await;
        self.settle(done, before).map(|_| ())
    }

    pub(super) async fn rows(&mut self, statement: Statement<'_>) -> Result<Vec<PgRow>> {
        let wrapped = self.wrap().await?;
        let (timeout, before) = (self.within, self.state);
        let connection = self.live()?;
        let done = tokio::time::timeout(timeout, statement.fetch_all(connection)).await;
        let result = self.settle(done, before);
        self.unwrap_after(wrapped, result).await
    }

    pub(super) async fn run(&mut self, statement: Statement<'_>) -> Result<u64> {
        let wrapped = self.wrap().await?;
        let (timeout, before) = (self.within, self.state);
        let connection = self.live()?;
        let done = tokio::time::timeout(timeout, statement.execute(connection)).await;
        let result = self.settle(done, before).map(|done| done.rows_affected());
        self.unwrap_after(wrapped, result).await
    }

    /// A user's statement, inside a transaction; its errors are the user's.
    pub(super) async fn user_rows(&mut self, statement: Statement<'_>) -> Result<(Vec<PgRow>, u64)> {
        use futures_util::TryStreamExt;
        let (timeout, before) = (self.within, self.state);
        let connection = self.live()?;
        let collect = async {
            let (mut rows, mut affected) = (Vec::new(), 0);
            let mut stream = connection.fetch_many(statement);
            while let Some(item) = stream.try_next().await? {
                match item {
                    sqlx::Either::Left(done) => affected += done.rows_affected(),
                    sqlx::Either::Right(row) => rows.push(row),
                }
            }
            Ok((rows, affected))
        };
        let done = tokio::time::timeout(timeout, collect).await;
        self.settle_as(done, before, classify_user)
    }

    /// Behind a transaction-mode pooler even one statement needs a transaction: in autocommit, parse and execute may reach two servers.
    async fn wrap(&mut self) -> Result<bool> {
        let wrap = self.shared.pooled() && self.state == State::Idle;
        if wrap {
            self.begin().await?;
        }
        Ok(wrap)
    }

    async fn unwrap_after<T>(&mut self, wrapped: bool, result: Result<T>) -> Result<T> {
        match (wrapped, result) {
            (false, result) => result,
            (true, Ok(value)) => self.commit().await.map(|()| value),
            (true, Err(error)) => {
                self.rollback().await;
                Err(error)
            }
        }
    }

    fn live(&mut self) -> Result<&mut PgConnection> {
        self.state = State::Unsure;
        self.connection.as_mut().ok_or_else(|| StoreError::Unavailable("the connection was lost".into()))
    }

    fn settle<T>(&mut self, done: std::result::Result<sqlx::Result<T>, tokio::time::error::Elapsed>, before: State) -> Result<T> {
        self.settle_as(done, before, classify)
    }

    fn settle_as<T>(
        &mut self,
        done: std::result::Result<sqlx::Result<T>, tokio::time::error::Elapsed>,
        before: State,
        classify: fn(sqlx::Error) -> Fault,
    ) -> Result<T> {
        match done {
            Ok(Ok(value)) => {
                self.state = before;
                Ok(value)
            }
            Ok(Err(error)) => {
                let Fault { error, connection_usable } = classify(error);
                if connection_usable {
                    self.state = before;
                } else {
                    self.connection = None;
                }
                Err(error)
            }
            Err(_) => {
                self.connection = None;
                Err(timed_out(self.within))
            }
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if self.state == State::Idle
            && let Some(connection) = self.connection.take()
            && !self.shared.closed()
        {
            let idle = Idle { connection, runtime: self.runtime };
            self.home.idle.lock().unwrap_or_else(PoisonError::into_inner).push(idle);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::by_hand::{Door, server};
    use super::*;

    #[tokio::test]
    async fn a_password_that_was_good_once_is_waited_for() {
        // Each refusal is followed by one more try, with what is read anew.
        let config = server(&[Door::WrongPassword, Door::WrongPassword, Door::Open, Door::WrongPassword, Door::WrongPassword, Door::Open]).await;
        let shared = Arc::new(Shared::new(&config).expect("the URL is good"));
        let home = Arc::new(Home::new(4, Profile::Engine));
        let mut held = Vec::new();
        let mut refused = Vec::new();
        for _ in 0..4 {
            match home.session(&shared).await {
                Ok(session) => held.push(session),
                Err(error) => refused.push(error),
            }
        }
        assert_eq!(held.len(), 2);
        assert!(matches!(&refused[0], StoreError::Setup { code: "database_auth", .. }), "{refused:?}");
        assert!(matches!(&refused[1], StoreError::Unavailable(message) if message.contains("passfile")), "{refused:?}");
    }
}
