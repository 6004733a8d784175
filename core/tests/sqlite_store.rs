//! What only the SQLite store has to show, beside the conformance checks both stores pass: several processes on one file, the lock
//! files that tell who has gone, the one writer, and whose database a file is. A second store on the file stands for another process.

#[path = "sqlite/presence.rs"]
mod presence;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use everstep::store::*;
use uuid::Uuid;

struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("everstep-sqlite-{}", Uuid::new_v4().simple()));
        std::fs::create_dir_all(&path).expect("a temporary directory");
        Directory(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("everstep.db")
    }

    fn open(&self) -> Arc<dyn Store> {
        open(&url(&self.file()))
    }

    async fn migrated(&self) -> Arc<dyn Store> {
        let store = self.open();
        store.migrate().await.expect("migrates");
        store
    }

    fn lock_files(&self) -> usize {
        let entries = std::fs::read_dir(&self.0).expect("reads");
        entries.flatten().filter(|e| e.file_name().to_string_lossy().contains(".lock-")).count()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

fn site(name: &str) -> Site {
    Site { id: 77, name: name.into(), location: "".into() }
}

fn url(path: &Path) -> String {
    format!("sqlite:{}", path.display())
}

fn open(url: &str) -> Arc<dyn Store> {
    everstep::store::open(config(url)).expect("the URL is good")
}

fn config(url: &str) -> StoreConfig {
    StoreConfig {
        url: url.into(),
        schema: "everstep".into(),
        namespace: "default".into(),
        lanes: 1,
        pool: 2,
        pooler: None,
        statement_timeout_ms: 30_000,
        beat_timeout_ms: 30_000,
        allow_async_commit: false,
        follow_up: |_, _| None,
    }
}

async fn register(store: &Arc<dyn Store>) -> Uuid {
    let incarnation = Uuid::new_v4();
    store.register(&worker(incarnation)).await.expect("registers");
    incarnation
}

fn worker(incarnation: Uuid) -> WorkerInfo {
    WorkerInfo {
        incarnation,
        lanes: 1,
        lease_ms: 60_000,
        host: "host".into(),
        boot_id: "boot".into(),
        pid_namespace: "ns".into(),
        pid: 1,
        process_start: 1,
        build: "1".into(),
        language: "rust".into(),
        queues: Vec::new(),
        environment: "test".into(),
        protocol: 1,
        schema: 1,
    }
}

fn tick(incarnation: Uuid) -> TickRequest {
    TickRequest {
        incarnation: Some(incarnation),
        lease_ms: 60_000,
        may_reap: false,
        silent_ms: 60_000,
        known_dead: Vec::new(),
        page: 100,
        cancel_grace_ms: 60_000,
        max_crashes: 5,
        boot_id: "boot".into(),
        routes: Vec::new(),
    }
}

fn route() -> Route {
    Route { id: 7, queue: String::new(), workflow: "checkout".into(), label: String::new() }
}

fn new_run(claimed: bool) -> NewRun {
    NewRun {
        key: Uuid::now_v7(),
        id_text: None,
        route: route(),
        version: None,
        priority: 0,
        start: None,
        expires_ms: None,
        deadline_ms: None,
        input: Payload::json(b"1".to_vec()),
        parent: None,
        forked_from: None,
        trace_parent: None,
        trace_state: None,
        attributes: None,
        fairness_key: None,
        cost: 1,
        created_by: None,
        dedup: None,
        options: None,
        reuse_purged: false,
        claimed,
        claim_token: token(),
    }
}

fn token() -> i64 {
    (Uuid::new_v4().as_u64_pair().0 >> 1) as i64
}

fn step(seq: i32) -> StepWrite {
    StepWrite {
        at: Position { segment: 0, branch: "".into(), seq },
        kind: 1,
        site: Site { id: 11, name: "charge".into(), location: "app.py:3".into() },
        digest: Some(5),
        failed: false,
        done: seq,
        seen: seq,
        attempt: 1,
        took_us: 10,
        token: token(),
        output: Payload::json(b"{}".to_vec()),
        effects: Vec::new(),
    }
}

fn record(run: RunKey, epoch: i32, step: StepWrite) -> Write {
    Write::Step { run, epoch, step: Box::new(step) }
}

async fn own(store: &Arc<dyn Store>, me: Uuid) -> RunKey {
    let run = new_run(true);
    let key = run.key;
    let verdicts = store.commit(0, Some(me), &[Write::Start(Box::new(run))], false).await.expect("commits");
    assert!(matches!(verdicts[..], [Verdict::Started { claimed: true }]), "{verdicts:?}");
    key
}

async fn claim(store: &Arc<dyn Store>, me: Uuid, max: i64) -> Vec<ClaimedRun> {
    let request = ClaimRequest { incarnation: me, claim_token: token(), routes: vec![route()], max, held_by_queue: Vec::new() };
    store.claim(&request).await.expect("claims")
}

#[tokio::test]
async fn in_memory_one_connection_does_it_all() {
    let store = open("sqlite::memory:");
    store.migrate().await.expect("migrates");
    let me = register(&store).await;
    let key = own(&store, me).await;
    let written = step(0);
    let write = [record(key, 1, written.clone())];
    assert!(matches!(store.commit(0, Some(me), &write, false).await.expect("commits")[..], [Verdict::Committed]));
    assert_eq!(store.load(me, &[key]).await.expect("loads")[0].steps[0].token, written.token);
    let mut transaction = store.begin(&site("work")).await.expect("begins");
    transaction.execute("create table total (n integer)", &[]).await.expect("creates");
    let waits = store.clone();
    // Asked for while the transaction has the only connection: answered after it.
    let beat = tokio::spawn(async move { waits.beat(me, 60_000).await });
    assert!(matches!(transaction.commit(me, key, 1, &step(1)).await.expect("commits"), Verdict::Committed));
    assert!(beat.await.expect("joins").expect("beats"));
    assert_eq!(store.find(key).await.expect("reads").expect("is there").steps_recorded, 2);
    store.deregister(me).await.expect("deregisters");
    assert_eq!(store.find(key).await.expect("reads").expect("is there").summary.state, RunState::Ready);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_new_file_is_migrated_once_however_many_begin() {
    let directory = Directory::new();
    let stores: Vec<_> = (0..6).map(|_| directory.open()).collect();
    assert!(stores[0].inspect().await.expect("looks").database_empty);
    let tasks: Vec<_> = stores.iter().cloned().map(|store| tokio::spawn(async move { store.migrate().await })).collect();
    for task in tasks {
        task.await.expect("joins").expect("migrates");
    }
    let state = stores[5].inspect().await.expect("looks");
    assert_eq!((state.version, state.min_compatible, state.database_empty), (Some(SCHEMA_VERSION), 1, false));
}

#[tokio::test]
async fn a_newer_schema_is_refused() {
    let directory = Directory::new();
    let store = directory.migrated().await;
    let me = register(&store).await;
    let run = own(&store, me).await;
    let mut transaction = store.begin(&site("work")).await.expect("begins");
    transaction.execute("update meta set value = '99' where key in ('schema_version', 'min_compatible')", &[]).await.expect("updates");
    assert!(matches!(transaction.commit(me, run, 1, &step(0)).await.expect("commits"), Verdict::Committed));
    match directory.open().migrate().await {
        Err(StoreError::Setup { code, .. }) => assert_eq!(code, "schema_too_new"),
        other => panic!("expected schema_too_new, got {other:?}"),
    }
}

#[tokio::test]
async fn what_cannot_be_opened_says_why() {
    let directory = Directory::new();
    let refused = |path: PathBuf| async move {
        match open(&url(&path)).inspect().await {
            Err(StoreError::Setup { code, .. }) => code,
            other => panic!("expected Setup, got {other:?}"),
        }
    };
    assert_eq!(refused(directory.0.join("missing/everstep.db")).await, "database_unreachable");
    let text = directory.0.join("text.db");
    std::fs::write(&text, vec![b'x'; 8192]).expect("writes");
    assert_eq!(refused(text).await, "database_unreachable");
    for bad in ["sqlite:", "sqlite:file.db?mode=ro"] {
        assert!(matches!(everstep::store::open(config(bad)), Err(StoreError::Setup { code: "config_invalid", .. })), "{bad}");
    }
}

/// The file moved or was replaced in its place: the same database. Copied to another name: not.
#[tokio::test]
async fn a_copy_is_not_the_same_database() {
    let directory = Directory::new();
    let store = directory.migrated().await;
    let fresh = store.identity().await.expect("reads");
    assert_eq!((fresh.stored_environment, fresh.stored_identity), (None, None));
    store.adopt("production").await.expect("adopts");
    let adopted = store.identity().await.expect("reads");
    assert_eq!(adopted.stored_environment.as_deref(), Some("production"));
    assert_eq!(adopted.stored_identity.as_ref(), Some(&adopted.actual_identity));
    store.close().await;

    let copy = directory.0.join("copy.db");
    std::fs::copy(directory.file(), &copy).expect("copies");
    let theirs = open(&url(&copy)).identity().await.expect("reads");
    assert_ne!(theirs.stored_identity.as_ref(), Some(&theirs.actual_identity), "a copy");

    let moved = directory.0.join("moved.db");
    std::fs::rename(directory.file(), &moved).expect("renames");
    let theirs = open(&url(&moved)).identity().await.expect("reads");
    assert_eq!(theirs.stored_identity.as_ref(), Some(&theirs.actual_identity), "moved");

    std::fs::rename(&copy, directory.file()).expect("renames");
    let theirs = directory.open().identity().await.expect("reads");
    assert_eq!(theirs.stored_identity.as_ref(), Some(&theirs.actual_identity), "restored in its place");
}

/// Each process claims, records and finishes until nothing is left: every run ends once, by one of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn several_processes_share_one_file() {
    const RUNS: usize = 300;
    let directory = Directory::new();
    let store = directory.migrated().await;
    let starts: Vec<Write> = (0..RUNS).map(|_| Write::Start(Box::new(new_run(false)))).collect();
    store.commit(0, None, &starts, false).await.expect("commits");
    let workers: Vec<_> = (0..3)
        .map(|_| {
            let store = directory.open();
            tokio::spawn(async move {
                let me = register(&store).await;
                let mut done = 0;
                loop {
                    let claimed = claim(&store, me, 7).await;
                    if claimed.is_empty() {
                        return done;
                    }
                    let mut writes = Vec::new();
                    for run in &claimed {
                        writes.push(record(run.key, run.epoch, step(0)));
                        writes.push(Write::Outcome {
                            run: run.key,
                            epoch: run.epoch,
                            state: RunState::Succeeded,
                            token: token(),
                            value: Payload::default(),
                            error_type: None,
                            error_message: None,
                            then: None,
                            children: true,
                        });
                    }
                    for verdict in store.commit(0, Some(me), &writes, false).await.expect("commits") {
                        assert!(matches!(verdict, Verdict::Committed), "{verdict:?}");
                    }
                    done += claimed.len();
                }
            })
        })
        .collect();
    let mut done = 0;
    for worker in workers {
        done += worker.await.expect("joins");
    }
    assert_eq!(done, RUNS);
    let filter = RunFilter { states: vec![RunState::Succeeded], limit: 1000, ..RunFilter::default() };
    assert_eq!(store.list(&filter).await.expect("lists").len(), RUNS);
}

#[tokio::test]
async fn a_commit_elsewhere_is_a_hint_here() {
    let directory = Directory::new();
    let (here, there) = (directory.migrated().await, directory.open());
    let other = register(&there).await;
    let me = register(&here).await;
    here.hint(&[WakeHint::Queues]).await.expect("hints");
    assert_eq!(here.next_hints().await, [WakeHint::Queues], "one's own hint comes at once");
    // The first look only learns where the file stands.
    assert!(tokio::time::timeout(Duration::from_millis(400), here.next_hints()).await.is_err());
    there.commit(0, Some(other), &[Write::Start(Box::new(new_run(false)))], false).await.expect("commits");
    let hints = tokio::time::timeout(Duration::from_secs(5), here.next_hints()).await.expect("within 5 s");
    assert!(hints.contains(&WakeHint::Ready) && !hints.contains(&WakeHint::Inbox(Uuid::nil())), "{hints:?}");
    let run = own(&here, me).await;
    let message = NewMessage { to: run, id: Uuid::now_v7(), ord: 1, topic: "t".into(), value: Payload::default(), token: token() };
    there.commit(0, None, &[Write::Send(message)], false).await.expect("commits");
    let hints = tokio::time::timeout(Duration::from_secs(5), here.next_hints()).await.expect("within 5 s");
    assert!(hints.contains(&WakeHint::Inbox(Uuid::nil())), "{hints:?}");
    // One's own commits are not news.
    here.commit(0, Some(me), &[record(run, 1, step(0))], false).await.expect("commits");
    assert!(tokio::time::timeout(Duration::from_millis(400), here.next_hints()).await.is_err());
}

/// The writer is given back at its time, whatever the step does, and what it wrote is undone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_ends_at_its_time() {
    let directory = Directory::new();
    let (store, elsewhere) = (directory.migrated().await, directory.open());
    let me = register(&store).await;
    let run = own(&store, me).await;
    let too_long = |result: Result<SqlRows>| assert!(matches!(result, Err(StoreError::Setup { code: "transaction_too_long", .. })), "{result:?}");

    let mut transaction = store.begin(&site("work")).await.expect("begins");
    transaction.execute("create table total (n integer)", &[]).await.expect("creates");
    // Idle: another process waits for the writer and gets it.
    let begun = Instant::now();
    elsewhere.commit(0, None, &[Write::Start(Box::new(new_run(false)))], false).await.expect("commits");
    assert!(begun.elapsed() > Duration::from_secs(3), "the transaction had the writer until then");
    too_long(transaction.execute("select 1", &[]).await);
    assert!(matches!(transaction.commit(me, run, 1, &step(0)).await, Err(StoreError::Setup { code: "transaction_too_long", .. })));

    // In the middle of a statement that would take minutes.
    let mut transaction = store.begin(&site("work")).await.expect("begins");
    let endless = "with recursive n(i) as (select 1 union all select i + 1 from n) select count(*) from n where i < 1e12";
    too_long(transaction.execute(endless, &[]).await);
    drop(transaction);
    let mut after = store.begin(&site("work")).await.expect("the writer is free and has no deadline of the one before");
    assert!(matches!(after.execute("select * from total", &[]).await, Err(StoreError::Rejected { .. })), "rolled back");
    after.rollback().await;
    assert_eq!(store.find(run).await.expect("reads").expect("is there").steps_recorded, 0);
}

#[tokio::test]
async fn a_step_cannot_end_the_engines_transaction() {
    let directory = Directory::new();
    let store = directory.migrated().await;
    let mut transaction = store.begin(&site("work")).await.expect("begins");
    for sql in ["commit", "  -- sly\n COMMIT", "/* sly */ end", "rollback", "begin"] {
        assert!(matches!(transaction.execute(sql, &[]).await, Err(StoreError::Rejected { .. })), "{sql}");
    }
    for sql in ["savepoint mine", "rollback to mine", "release mine"] {
        transaction.execute(sql, &[]).await.expect(sql);
    }
    transaction.rollback().await;
}

#[tokio::test]
async fn what_follows_a_statement_is_not_run() {
    let directory = Directory::new();
    let store = directory.migrated().await;
    let mut transaction = store.begin(&site("work")).await.expect("begins");
    transaction.execute("create table t (a integer primary key)", &[]).await.expect("creates");
    assert!(matches!(transaction.execute("insert into t values (1); commit", &[]).await, Err(StoreError::Rejected { .. })));
    transaction.execute("create trigger b after insert on t begin select 1; end;", &[]).await.expect("one statement");
    assert_eq!(transaction.execute("select a from t;", &[]).await.expect("is still in it").rows.len(), 0);
    transaction.rollback().await;
}

/// A statement may take the whole transaction with it. A step that swallows its error goes on outside of any.
#[tokio::test]
async fn a_transaction_that_was_undone_records_nothing() {
    let directory = Directory::new();
    let store = directory.migrated().await;
    let me = register(&store).await;
    let run = own(&store, me).await;
    let mut transaction = store.begin(&site("work")).await.expect("begins");
    transaction.execute("create table t (a integer primary key)", &[]).await.expect("creates");
    assert!(matches!(transaction.commit(me, run, 1, &step(0)).await, Ok(Verdict::Committed)));

    let mut transaction = store.begin(&site("work")).await.expect("begins");
    transaction.execute("insert into t values (1)", &[]).await.expect("inserts");
    transaction.execute("savepoint mine", &[]).await.expect("saves");
    transaction.execute("insert into t values (1)", &[]).await.expect_err("is there");
    transaction.execute("rollback to mine", &[]).await.expect("a savepoint outlives an error");
    transaction.execute("insert or rollback into t values (1)", &[]).await.expect_err("is there");
    transaction.execute("insert into t values (2)", &[]).await.expect_err("it would be committed by itself");
    assert!(matches!(transaction.commit(me, run, 1, &step(1)).await, Ok(Verdict::Refused { .. })));
    let mut transaction = store.begin(&site("work")).await.expect("begins");
    assert_eq!(transaction.execute("select a from t", &[]).await.expect("reads").rows.len(), 0);
    transaction.rollback().await;
}

/// A call dropped half-way (a timeout of the caller) leaves a connection that the next call can use, and nothing of it behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_dropped_call_leaves_nothing_behind() {
    let directory = Directory::new();
    let store = directory.migrated().await;
    let me = register(&store).await;
    let run = own(&store, me).await;
    let mut standing = 0;
    for seq in 0..200 {
        let writes = [record(run, 1, step(seq))];
        let call = store.commit(0, Some(me), &writes, false);
        let dropped = tokio::time::timeout(Duration::from_micros(u64::try_from(seq).unwrap_or(0) * 10), call).await;
        // Unknown, so it is said again; whatever the first try came to, the step stands once.
        if dropped.is_err() {
            let verdicts = store.commit(0, Some(me), &writes, true).await.expect("commits");
            assert!(matches!(verdicts[..], [Verdict::Committed]), "{verdicts:?}");
        }
        standing += 1;
        assert_eq!(store.find(run).await.expect("reads").expect("is there").steps_recorded, standing);
    }
}

/// Dropped without an end, a transaction is rolled back then, not by the next call here: another process can write at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_transaction_frees_the_file() {
    let directory = Directory::new();
    let (store, elsewhere) = (directory.migrated().await, directory.open());
    let begun = Instant::now();
    for _ in 0..20 {
        let mut transaction = store.begin(&site("work")).await.expect("begins");
        transaction.execute("create table total (n integer)", &[]).await.expect("creates: nothing is left of the one before");
        drop(transaction);
        elsewhere.commit(0, None, &[Write::Start(Box::new(new_run(false)))], false).await.expect("commits");
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "nobody waited for a transaction's time to be over");
}

#[tokio::test]
async fn a_closed_store_stays_closed() {
    let directory = Directory::new();
    let store = directory.migrated().await;
    store.close().await;
    std::fs::remove_file(directory.file()).expect("removes");
    assert!(matches!(store.list(&RunFilter::default()).await, Err(StoreError::Unavailable(_))));
    assert!(matches!(store.commit(0, None, &[], false).await, Err(StoreError::Unavailable(_))));
    assert!(!directory.file().exists());
}

#[tokio::test]
async fn one_row_the_database_refuses_stands_alone() {
    let directory = Directory::new();
    let store = directory.migrated().await;
    let me = register(&store).await;
    let mut writes = Vec::new();
    for n in 0..5 {
        let run = own(&store, me).await;
        let name = if n == 2 { "nul\0inside" } else { "charge" };
        let site = Site { id: 100 + n, name: name.into(), location: "app.py:3".into() };
        writes.push(record(run, 1, StepWrite { site, ..step(0) }));
    }
    // Nothing here foresees this one: only the table's own rule refuses it.
    writes.push(Write::Start(Box::new(NewRun { id_text: Some("é".repeat(128)), ..new_run(false) })));
    let verdicts = store.commit(0, Some(me), &writes, false).await.expect("commits");
    for (at, verdict) in verdicts.iter().enumerate() {
        let refused = matches!(verdict, Verdict::Refused { message } if !message.is_empty());
        assert_eq!(refused, at == 2 || at == 5, "{at}: {verdict:?}");
    }
}

#[tokio::test]
async fn the_printed_migration_is_the_one_that_runs() {
    let directory = Directory::new();
    let store = directory.open();
    assert!(store.inspect().await.expect("looks").database_empty);
    let sql = migration_sql("sqlite", "").expect("prints");
    use sqlx::Connection as _;
    let mut by_hand = sqlx::SqliteConnection::connect(&url(&directory.file())).await.expect("opens");
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut by_hand).await.expect("runs");
    let names = "select group_concat(sql, ';') from (select sql from sqlite_master order by name)";
    let printed: String = sqlx::query_scalar(names).fetch_one(&mut by_hand).await.expect("reads");
    by_hand.close().await.expect("closes");
    assert_eq!(store.inspect().await.expect("looks").version, Some(SCHEMA_VERSION));
    store.migrate().await.expect("has nothing to do");

    let other = Directory::new();
    other.migrated().await.close().await;
    let mut migrated = sqlx::SqliteConnection::connect(&url(&other.file())).await.expect("opens");
    let ran: String = sqlx::query_scalar(names).fetch_one(&mut migrated).await.expect("reads");
    assert_eq!(printed, ran);
}
