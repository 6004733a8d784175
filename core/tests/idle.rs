//! What a process that has nothing to do asks of the database, counted by the server itself (pg_stat_statements), a role a process.

#[path = "../../tests/src/cluster.rs"]
#[allow(dead_code)]
mod cluster;
mod host;

use std::sync::Arc;
use std::time::{Duration, Instant};

use cluster::{Binaries, Cluster};
use everstep::protocol::ops::op;
use everstep::protocol::{self, frame::Reader};
use host::{Host, frame};
use serde_json::{Value, json};
use sqlx::Row;

/// Longer than two idle ticks.
const PATIENCE: Duration = Duration::from_secs(90);

/// The server's own word for who said how much.
struct Server {
    cluster: Cluster,
    runtime: tokio::runtime::Runtime,
}

impl Server {
    fn start() -> Option<Server> {
        if Binaries::find().is_none() {
            println!("skipped: PostgreSQL is not installed");
            return None;
        }
        let settings = ["shared_preload_libraries = 'pg_stat_statements'", "pg_stat_statements.track = all", "autovacuum = off"];
        let cluster = Cluster::start(&settings).expect("a private cluster");
        let server = Server { cluster, runtime: tokio::runtime::Runtime::new().expect("a runtime") };
        server.execute("create extension pg_stat_statements");
        Some(server)
    }

    fn execute(&self, sql: &'static str) {
        self.rows(sql);
    }

    fn rows(&self, sql: &'static str) -> Vec<sqlx::postgres::PgRow> {
        use sqlx::Connection;
        self.runtime.block_on(async {
            let mut connection = sqlx::PgConnection::connect(&self.cluster.url("postgres")).await.expect("connects");
            sqlx::query(sql).fetch_all(&mut connection).await.expect("executes")
        })
    }

    /// Statements by role since the last `forget`, with their texts.
    fn said(&self, role: &str) -> Vec<(i64, String)> {
        let rows = self.rows("select r.rolname, s.calls, s.query from pg_stat_statements s join pg_roles r on r.oid = s.userid");
        rows.iter().filter(|row| row.get::<String, _>(0) == role).map(|row| (row.get(1), row.get(2))).collect()
    }

    fn calls(&self, role: &str) -> i64 {
        self.said(role).iter().map(|(calls, _)| calls).sum()
    }

    fn forget(&self) {
        self.execute("select pg_stat_statements_reset()");
    }

    /// A process whose statements are told from those of others.
    fn host(&self, role: &'static str, more: Value) -> Arc<Host> {
        let create: &'static str = Box::leak(format!("create role {role} superuser login").into_boxed_str());
        self.execute(create);
        let mut config = json!({ "database": self.cluster.url("postgres").replace("//everstep@", &format!("//{role}@")), "auto_migrate": true });
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        Host::open(config)
    }
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < end, "{what} did not come about");
        std::thread::yield_now();
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

fn info(h: &Host) -> Value {
    let (status, answer) = protocol::call(h.handle, op::INFO, &[]);
    assert_eq!(status, 0);
    serde_json::from_str(Reader::new(&answer).str().unwrap()).unwrap()
}

fn counter(h: &Host, name: &str) -> u64 {
    info(h)["counters"][name].as_u64().unwrap()
}

fn put_queue(h: &Host, name: &str) {
    h.ask(op::PUT_QUEUE, frame(|w| _ = w.list(6).str(name).bool(false).null().null().null().bool(false).bool(false))).expect("put_queue");
}

fn lets_its_lease_go(h: &Host) {
    until("a worker without a lease", || info(h)["incarnation"].is_null());
}

/// Whatever was still on its way when the lease went has been said once another tick is over.
fn after_another_tick(h: &Host) {
    let before = counter(h, "ticks");
    until("a tick", || counter(h, "ticks") > before);
}

#[test]
fn a_worker_with_nothing_to_do_says_one_statement_a_tick_and_finds_what_nobody_told_it() {
    let Some(server) = Server::start() else { return };
    let h = server.host("idle", json!({ "lease_ms": 500, "beat_ms": 100 }));
    h.workflow("w", |c| c.step("s", || "1".into()));
    h.launch();
    for number in 0..50 {
        put_queue(&h, &format!("q{number}"));
    }
    let run = h.start_with("w", "null", 2, |w| _ = w.null().str("q7")).unwrap();
    assert_eq!(h.result(&run).unwrap().0, "succeeded");
    let hidden = h.start_with("w", "null", 5, |w| _ = w.null().str("q9").null().null().int(86_400_000)).unwrap();
    lets_its_lease_go(&h);
    after_another_tick(&h);

    assert!(server.calls("idle") > 0, "its statements are seen");
    server.forget();
    let (since, ticks) = (Instant::now(), counter(&h, "ticks"));
    until("the next statement", || server.calls("idle") > 0);
    let rarely = since.elapsed();
    until("its tick", || counter(&h, "ticks") > ticks);
    assert_eq!((counter(&h, "ticks") - ticks, server.calls("idle")), (1, 1), "{:?}", server.said("idle"));
    assert!(rarely > Duration::from_secs(20), "the next statement came after {rarely:?}");

    // Ready without a word, as when the hint was lost: the next tick sees it, and only then a lease is taken.
    server.execute("delete from everstep.timer");
    server.execute(
        "insert into everstep.ready (route, priority, ord, run_id) select r.route, r.priority, (extract(epoch from i.created_at) * 1000000)::bigint, r.id \
         from everstep.run r join everstep.run_info i on i.run_id = r.id where r.state = 1",
    );
    until("the run nobody told of", || h.state(&hidden) == "succeeded");
    h.close();
}

#[test]
fn hints_for_what_it_cannot_take_cost_an_idle_worker_nothing_and_its_own_still_reach_it() {
    let Some(server) = Server::start() else { return };
    let body = |c: &host::Ctx| c.step("s", || "1".into());
    // Long leases: no tick falls due while this is counted.
    let busy = server.host("busy", json!({ "lease_ms": 600_000, "beat_ms": 100_000 }));
    busy.workflow("theirs", body);
    busy.launch();
    put_queue(&busy, "q");
    let idle = server.host("still", json!({ "lease_ms": 500, "beat_ms": 100 }));
    idle.workflow("ours", body);
    idle.launch();
    for number in 0..50 {
        put_queue(&idle, &format!("q{number}"));
    }
    let client = server.host("client", json!({ "role": "client" }));
    client.launch();

    let start = |workflow: &str, delay: Option<i64>| client.start_with(workflow, "null", 5, |w| _ = w.null().str("q").null().null().opt_int(delay)).unwrap();
    assert_eq!(client.result(&start("theirs", None)).unwrap().0, "succeeded");
    assert_eq!(client.result(&start("ours", None)).unwrap().0, "succeeded");
    lets_its_lease_go(&idle);
    after_another_tick(&idle);

    assert!(server.calls("still") > 0, "its statements are seen");
    server.forget();
    let looks = counter(&idle, "looks");
    for _ in 0..50 {
        let (now, later) = (start("theirs", None), start("theirs", Some(20)));
        assert_eq!(client.result(&now).unwrap().0, "succeeded");
        assert_eq!(client.result(&later).unwrap().0, "succeeded");
    }
    assert_eq!(server.calls("still"), 0, "{:?}", server.said("still"));
    // Hints come in order: when this one has been heard, so have all before it.
    assert_eq!(client.result(&start("ours", None)).unwrap().0, "succeeded");
    assert_eq!(counter(&idle, "looks") - looks, 1, "{:?}", server.said("still"));
    for h in [client, idle, busy] {
        h.close();
    }
}
