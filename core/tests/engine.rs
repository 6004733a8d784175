//! The engine over its border, driven by a host in Rust, on both stores.

#[path = "../../tests/src/cluster.rs"]
#[allow(dead_code)]
mod cluster;
#[path = "engine/ends.rs"]
mod ends;
mod host;
#[path = "engine/jobs.rs"]
mod jobs;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ends::{
    a_close_during_a_drain_gives_the_runs_back_without_a_crash, an_event_of_a_run_that_has_ended_without_it_is_waited_for_no_longer,
    what_looks_mistyped_is_refused_at_launch_and_at_a_start,
};
use everstep::protocol::Value;
use everstep::protocol::ops::{op, record};
use host::{Ctx, Host, PATIENCE, Unwind, frame};
use jobs::{
    a_cancel_ends_a_job_that_waits_for_its_next_attempt, a_job_is_retried_as_a_whole_and_on_finish_starts_with_the_end,
    a_job_that_runs_at_most_once_is_never_begun_twice, a_start_changes_of_a_registered_policy_only_what_it_names,
    a_worker_with_one_full_client_does_not_ask_without_pause, what_is_to_follow_a_run_follows_a_cancel_wherever_the_run_is,
};

/// A database of its own for one test.
struct Place {
    url: String,
    schema: String,
    _dir: Option<tempfile::TempDir>,
}

static NEXT: AtomicU64 = AtomicU64::new(0);

fn on_sqlite(case: fn(&Place)) {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", dir.path().join("e.db").display());
    case(&Place { url, schema: "everstep".into(), _dir: Some(dir) });
}

/// Each case is a test on SQLite; on PostgreSQL all of them run side by side on one private cluster, each in a schema of its own.
macro_rules! cases {
    ($($name:ident),* $(,)?) => {
        mod sqlite {
            $(#[test]
            fn $name() {
                super::on_sqlite(super::$name);
            })*
        }

        #[test]
        fn postgres() {
            let cluster = cluster::Cluster::start(&["max_connections=300"]).expect("a private cluster: is PostgreSQL installed?");
            let on = |case: fn(&Place), name: &str| {
                let schema = format!("t{}_{}", NEXT.fetch_add(1, Ordering::Relaxed), &name[..name.len().min(30)]);
                case(&Place { url: cluster.url("postgres"), schema, _dir: None });
            };
            std::thread::scope(|scope| {
                $(scope.spawn(|| on($name, stringify!($name)));)*
            });
        }
    };
}

cases!(
    steps_are_recorded_and_an_id_attaches,
    a_closed_worker_hands_its_run_to_the_next_which_repeats_no_step,
    retries_back_off_and_the_key_stays_the_same,
    messages_events_children_and_durable_values,
    cancel_reaches_waits_and_running_steps_and_leaves_room_for_clean_up,
    a_race_is_decided_once_and_losers_are_not_run_again,
    a_changed_order_blocks_with_both_names_and_the_fixed_build_goes_on,
    a_failed_run_is_retried_from_the_step_that_failed,
    a_job_is_retried_as_a_whole_and_on_finish_starts_with_the_end,
    a_job_that_runs_at_most_once_is_never_begun_twice,
    a_cancel_ends_a_job_that_waits_for_its_next_attempt,
    what_is_to_follow_a_run_follows_a_cancel_wherever_the_run_is,
    a_start_changes_of_a_registered_policy_only_what_it_names,
    a_worker_with_one_full_client_does_not_ask_without_pause,
    a_workflow_is_retried_from_the_step_that_failed,
    sleepers_are_released_under_pressure_and_wake_in_time,
    every_wake_up_reaches_a_run_that_is_being_released,
    a_queue_with_a_limit_is_never_over_it_and_delays_priorities_and_dedup_hold,
    a_child_on_a_queue_that_is_not_there_fails_alike_when_it_is,
    deadlines_and_unknown_workflows_and_late_starts,
    a_transaction_commits_its_rows_and_its_checkpoint_together,
    a_close_during_a_drain_gives_the_runs_back_without_a_crash,
    an_event_of_a_run_that_has_ended_without_it_is_waited_for_no_longer,
    what_looks_mistyped_is_refused_at_launch_and_at_a_start,
);

impl Place {
    fn host(&self) -> Arc<Host> {
        self.host_with(serde_json::json!({}))
    }

    fn host_with(&self, more: serde_json::Value) -> Arc<Host> {
        let mut config = serde_json::json!({ "database": self.url, "schema": self.schema, "auto_migrate": true, "lease_ms": 2000 });
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        Host::open(config)
    }
}

fn count() -> (Arc<AtomicU64>, impl Fn() -> u64 + Clone) {
    let n = Arc::new(AtomicU64::new(0));
    let m = n.clone();
    (n, move || m.fetch_add(1, Ordering::SeqCst) + 1)
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < end, "{what} did not come about");
        std::thread::yield_now();
    }
}

fn text(v: &Value) -> String {
    match v {
        Value::Str(s) => s.clone(),
        other => format!("{other:?}"),
    }
}

/// The run waits for a message, as its own status says.
fn waits(h: &Host, run: &str) -> bool {
    matches!(&h.run(run)[record::run::WAITS_FOR], Value::List(l) if l.iter().any(|v| text(v).contains("waits for a message")))
}

fn steps_are_recorded_and_an_id_attaches(p: &Place) {
    let h = p.host();
    let (n, tick) = count();
    h.workflow("add", move |c| {
        let a = c.step("a", || tick().to_string())?;
        let b = c.step_of("b", &a, || format!("{a}1"))?;
        Ok(b)
    });
    h.workflow("other", |_| Ok("null".into()));
    h.launch();
    let run = h.start_with("add", "null", 1, |w| _ = w.str("order-1")).unwrap();
    assert_eq!(h.result(&run).unwrap(), ("succeeded".into(), "11".into()));
    assert_eq!(h.start_with("add", "null", 1, |w| _ = w.str("order-1")).unwrap(), run);
    assert_eq!(h.start_with("other", "null", 1, |w| _ = w.str("order-1")), Err("id_conflict".into()));
    assert_eq!(h.start_with("add", "null", 1, |w| _ = w.str("a\0b")), Err("id_invalid".into()));
    assert_eq!(h.start_with("add", "null", 2, |w| _ = w.null().str("quue")), Err("unknown_queue".into()));
    assert_eq!(n.load(Ordering::SeqCst), 1);
    h.close();
    assert_eq!(h.start_with("add", "null", 0, |_| {}), Err("closed".into()));
}

fn a_closed_worker_hands_its_run_to_the_next_which_repeats_no_step(p: &Place) {
    let (n, tick) = count();
    let body = move |c: &Ctx| {
        c.step("first", || tick().to_string())?;
        let m = c.receive("go", None)?;
        c.step("last", || tick().to_string())?;
        Ok(m.unwrap())
    };
    let a = p.host();
    a.workflow("w", body.clone());
    a.launch();
    let run = a.start("w", "null");
    until("first step", || n.load(Ordering::SeqCst) == 1);
    a.close();
    let b = p.host();
    b.workflow("w", body);
    b.launch();
    b.send(&run, "go", "\"now\"");
    assert_eq!(b.result(&run).unwrap(), ("succeeded".into(), "\"now\"".into()));
    assert_eq!(n.load(Ordering::SeqCst), 2);
    b.close();
}

fn retries_back_off_and_the_key_stays_the_same(p: &Place) {
    let h = p.host();
    let keys = Arc::new(Mutex::new(Vec::new()));
    let seen = keys.clone();
    h.workflow("w", move |c| {
        c.step_with(
            "s",
            Some("1"),
            |w| _ = w.list(5).int(3).int(1).float(1.0).int(1).bool(false),
            |attempt, key| {
                seen.lock().unwrap().push(key.to_owned());
                if attempt < 3 { Err("{\"type\":\"E\"}".into()) } else { Ok(attempt.to_string()) }
            },
        )
    });
    h.workflow("fails", |c| {
        let e = c.step_with("s", None, |w| _ = w.list(2).int(2).int(1), |_, _| Err("{\"type\":\"E\"}".into())).unwrap_err();
        assert_eq!(e, Unwind::Failed("{\"type\":\"E\"}".into()));
        Err(e)
    });
    h.launch();
    assert_eq!(h.result(&h.start("w", "null")).unwrap().1, "3");
    let keys = keys.lock().unwrap();
    assert!(keys.len() == 3 && keys.iter().all(|k| *k == keys[0] && k.len() == 36));
    assert_eq!(h.result(&h.start("fails", "null")).unwrap(), ("failed".into(), "{\"type\":\"E\"}".into()));
    h.close();
}

fn messages_events_children_and_durable_values(p: &Place) {
    let h = p.host();
    h.workflow("child", |c| {
        let a = c.receive("t", None)?.unwrap();
        let b = c.receive("t", None)?.unwrap();
        c.set_event("ready", &b)?;
        Ok(format!("[{a},{b}]"))
    });
    h.workflow("parent", |c| {
        let child = c.child("child", "null")?;
        c.send(&child, "t", "1")?;
        c.send(&child, "t", "2")?;
        let event = c.wait_for("event", None, Some(&child), Some("ready"))?.unwrap();
        let result = c.wait_for("result", None, Some(&child), None)?.unwrap();
        let uuid = c.durable("uuid")?;
        let now: i64 = c.durable("now")?.parse().unwrap();
        assert!(uuid.contains("$es") && now > 1_700_000_000_000_000);
        assert_eq!(c.receive("never", Some(20))?, None);
        Ok(format!("{{\"event\":{event},\"result\":{result}}}"))
    });
    h.launch();
    let run = h.start("parent", "null");
    assert_eq!(h.result(&run).unwrap().1, "{\"event\":2,\"result\":[1,2]}");
    h.close();
}

fn cancel_reaches_waits_and_running_steps_and_leaves_room_for_clean_up(p: &Place) {
    let h = p.host();
    let (cleaned, tick) = count();
    h.workflow("w", move |c| match c.receive("never", None) {
        Err(Unwind::Cancelled) => {
            assert_eq!(c.step("more", || "1".into()), Err(Unwind::Cancelled), "outside a clean-up nothing goes on");
            c.shielded().step("clean", || tick().to_string())?;
            Err(Unwind::Cancelled)
        }
        other => panic!("{other:?}"),
    });
    h.launch();
    let run = h.start("w", "null");
    until("waiting", || waits(&h, &run));
    assert_eq!(h.control(op::CANCEL_RUN, &run), "requested");
    assert_eq!(h.result(&run).unwrap().0, "cancelled");
    assert_eq!(cleaned.load(Ordering::SeqCst), 1);
    assert_eq!(h.control(op::CANCEL_RUN, &run), "already_finished");
    h.close();
}

fn a_race_is_decided_once_and_losers_are_not_run_again(p: &Place) {
    let (slow, tick) = count();
    let body = move |c: &Ctx| {
        let (seq, winner) = c.group("race")?;
        let tick = tick.clone();
        match winner {
            Some(w) => assert_eq!(w, "1", "the recorded winner"),
            None => {
                let loser = c.branch(format!("/{seq}/0"));
                loser.step("slow", || tick().to_string())?;
                let fast = c.branch(format!("/{seq}/1"));
                fast.step("fast", || "7".into())?;
                assert_eq!(c.finish_group(seq, "1")?, "1");
                assert!(matches!(loser.step("more", || "1".into()), Err(Unwind::Stopped(_))), "a branch that lost records nothing");
            }
        }
        let won = c.branch(format!("/{seq}/1")).step("fast", || "8".into());
        // Live, this is a second call of the branch; on replay it is the recorded one.
        c.receive("go", None)?;
        won
    };
    let a = p.host();
    a.workflow("w", body.clone());
    a.launch();
    let run = a.start("w", "null");
    until("waiting", || waits(&a, &run));
    a.close();
    let b = p.host();
    b.workflow("w", body);
    b.launch();
    b.send(&run, "go", "1");
    let end = b.result(&run).unwrap();
    let steps = everstep::protocol::frame::decode(&b.ask(op::LIST_STEPS, frame(|w| _ = w.str(&run))).unwrap());
    assert_eq!(end, ("succeeded".into(), "7".into()), "{steps:?}");
    assert_eq!(slow.load(Ordering::SeqCst), 1);
    b.close();
}

fn a_changed_order_blocks_with_both_names_and_the_fixed_build_goes_on(p: &Place) {
    let a = p.host_with(serde_json::json!({ "version": "1" }));
    a.workflow("w", |c| {
        c.step("reserve", || "1".into())?;
        c.receive("go", None)?;
        Ok("1".into())
    });
    a.launch();
    let run = a.start("w", "null");
    until("waiting", || waits(&a, &run));
    a.close();
    let b = p.host_with(serde_json::json!({ "version": "2" }));
    b.workflow("w", |c| {
        c.step("charge", || "1".into())?;
        Ok("2".into())
    });
    b.launch();
    // It waits, released: the message makes it ready, and the changed code meets its records.
    b.send(&run, "go", "1");
    b.until_state(&run, "blocked");
    let why = text(&b.run(&run)[record::run::BLOCKED_WHY]);
    assert!(why.contains("reserve") && why.contains("charge") && why.contains("test.rs:1"), "{why}");
    assert!(b.result(&run).unwrap_err().starts_with("run_blocked"));
    b.close();
    let c = p.host_with(serde_json::json!({ "version": "3" }));
    c.workflow("w", |c| {
        c.step("reserve", || "9".into())?;
        let patched = c.patch("audit");
        c.receive("go", None)?;
        Ok(patched.to_string())
    });
    c.launch();
    assert_eq!(c.result(&run).unwrap().1, "false", "recorded before the patch");
    c.close();
}

fn a_failed_run_is_retried_from_the_step_that_failed(p: &Place) {
    let h = p.host();
    let (first, tick) = count();
    let (second, tock) = count();
    h.workflow("w", move |c| {
        c.step("ok", || tick().to_string())?;
        c.step_with("breaks", None, |w| _ = w.null(), |_, _| if tock() == 1 { Err("\"no\"".into()) } else { Ok("\"yes\"".into()) })
    });
    h.launch();
    let run = h.start("w", "null");
    assert_eq!(h.result(&run).unwrap().0, "failed");
    assert_eq!(h.control(op::RETRY_RUN, &run), "resumed");
    until("the retry", || h.state(&run) == "succeeded");
    assert_eq!(h.result(&run).unwrap(), ("succeeded".into(), "\"yes\"".into()));
    assert_eq!((first.load(Ordering::SeqCst), second.load(Ordering::SeqCst)), (1, 2));
    assert_eq!(h.control(op::RETRY_RUN, &run), "not_possible");
    h.close();
}

fn a_workflow_is_retried_from_the_step_that_failed(p: &Place) {
    let h = p.host();
    let (first, tick) = count();
    let (second, tock) = count();
    let retry = Some(r#"{"retry":{"max_attempts":3,"initial_ms":1,"jitter":false}}"#);
    h.register("workflow", "w", retry, move |c| {
        c.step("ok", || tick().to_string())?;
        let tock = tock.clone();
        c.step_with("breaks", None, |w| _ = w.null(), |_, _| if tock() < 3 { Err("\"no\"".into()) } else { Ok("\"yes\"".into()) })
    });
    h.launch();
    assert_eq!(h.result(&h.start("w", "null")).unwrap(), ("succeeded".into(), "\"yes\"".into()));
    assert_eq!((first.load(Ordering::SeqCst), second.load(Ordering::SeqCst)), (1, 3));
    h.close();
}

fn sleepers_are_released_under_pressure_and_wake_in_time(p: &Place) {
    let h = p.host_with(serde_json::json!({ "max_parked": 0, "release_after_ms": 0 }));
    h.workflow("w", |c| {
        let before: i64 = c.durable("now")?.parse().unwrap();
        c.sleep(700)?;
        let after: i64 = c.durable("now")?.parse().unwrap();
        Ok((after - before).to_string())
    });
    h.launch();
    let runs: Vec<String> = (0..20).map(|_| h.start("w", "null")).collect();
    for run in &runs {
        let slept: i64 = h.result(run).unwrap().1.parse().unwrap();
        assert!(slept >= 700_000, "woke early: {slept} us");
    }
    let info = everstep::protocol::call(h.handle, op::INFO, &[]).1;
    let info: serde_json::Value = serde_json::from_str(everstep::protocol::frame::Reader::new(&info).str().unwrap()).unwrap();
    assert!(info["counters"]["released"].as_u64().unwrap() > 0, "{info}");
    h.close();
}

fn every_wake_up_reaches_a_run_that_is_being_released(p: &Place) {
    let h = p.host_with(serde_json::json!({ "max_parked": 0, "release_after_ms": 0, "slots": 200 }));
    h.workflow("w", |c| {
        for _ in 0..5 {
            c.receive("t", None)?;
        }
        Ok("null".into())
    });
    h.launch();
    let runs: Vec<String> = (0..40).map(|_| h.start("w", "null")).collect();
    for round in 0..5 {
        for run in &runs {
            h.send(run, "t", &round.to_string());
        }
    }
    for run in &runs {
        assert_eq!(h.result(run).unwrap().0, "succeeded");
    }
    h.close();
}

fn a_queue_with_a_limit_is_never_over_it_and_delays_priorities_and_dedup_hold(p: &Place) {
    let h = p.host();
    let now = Arc::new(AtomicU64::new(0));
    let most = Arc::new(AtomicU64::new(0));
    let (a, b) = (now.clone(), most.clone());
    h.workflow("w", move |c| {
        c.step("s", || {
            b.fetch_max(a.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            std::thread::yield_now();
            a.fetch_sub(1, Ordering::SeqCst);
            "1".into()
        })
    });
    h.launch();
    h.ask(op::PUT_QUEUE, frame(|w| _ = w.list(6).str("q").bool(false).int(2).null().null().bool(false).bool(false))).unwrap();
    let runs: Vec<String> = (0..30).map(|_| h.start_with("w", "null", 2, |w| _ = w.null().str("q")).unwrap()).collect();
    for run in &runs {
        assert_eq!(h.result(run).unwrap().0, "succeeded");
    }
    assert!(most.load(Ordering::SeqCst) <= 2, "{} at once", most.load(Ordering::SeqCst));
    let began = Instant::now();
    let late = h.start_with("w", "null", 5, |w| _ = w.null().null().null().null().int(300)).unwrap();
    assert_eq!(h.result(&late).unwrap().0, "succeeded");
    assert!(began.elapsed() >= Duration::from_millis(300));
    let keyed = |n: usize| {
        h.start_with("w", "null", 14, |w| {
            w.null().null().null().null().int(60_000);
            for _ in 0..8 {
                w.null();
            }
            w.str(&format!("key-{n}"));
        })
    };
    assert_eq!(keyed(1).unwrap(), keyed(1).unwrap(), "attached to the holder");
    assert_ne!(keyed(1).unwrap(), keyed(2).unwrap());
    h.close();
}

fn a_child_on_a_queue_that_is_not_there_fails_alike_when_it_is(p: &Place) {
    let parent = |c: &Ctx| {
        let child = c.child_on(Some("late"), "child", "null");
        let code = child.err().map_or("none", |e| if format!("{e:?}").contains("unknown_queue") { "unknown_queue" } else { "another" });
        c.receive("go", None)?;
        Ok(code.to_owned())
    };
    let worker = || {
        let h = p.host();
        h.workflow("parent", parent);
        h.workflow("child", |_| Ok("null".into()));
        h.launch();
        h
    };
    let a = worker();
    let before = a.start("parent", "null");
    until("waiting", || waits(&a, &before));
    let client = p.host_with(serde_json::json!({ "role": "client" }));
    client.ask(op::PUT_QUEUE, frame(|w| _ = w.list(6).str("late").bool(false).null().null().null().bool(false).bool(false))).unwrap();
    let after = a.start("parent", "null");
    until("waiting", || waits(&a, &after));
    a.close();
    let b = worker();
    for (run, code) in [(before, "unknown_queue"), (after, "none")] {
        b.send(&run, "go", "1");
        assert_eq!(b.result(&run).unwrap(), ("succeeded".into(), code.into()));
    }
    client.close();
    b.close();
}

fn deadlines_and_unknown_workflows_and_late_starts(p: &Place) {
    let client = p.host_with(serde_json::json!({ "role": "client" }));
    client.ask(op::CONNECT, vec![]).unwrap();
    let stray = client.start("nobody_knows", "null");
    let h = p.host();
    h.workflow("w", |c| c.receive("never", None).map(|_| "null".into()));
    h.launch();
    let run = h
        .start_with("w", "null", 8, |w| {
            for _ in 0..7 {
                w.null();
            }
            w.int(300);
        })
        .unwrap();
    assert_eq!(h.result(&run).unwrap().0, "cancelled");
    assert!(text(&h.run(&run)[record::run::CANCEL_WHY]).contains("deadline"));
    assert_eq!(h.state(&stray), "ready");
    assert!(matches!(&h.run(&stray)[record::run::WAITS_FOR], Value::List(l) if text(&l[0]).contains("nobody_knows")));
    assert_eq!(client.result(&run).unwrap().0, "cancelled");
    client.close();
    h.close();
}

fn a_transaction_commits_its_rows_and_its_checkpoint_together(p: &Place) {
    let h = p.host();
    h.workflow("w", |c| {
        let total = tx(c, &[("create table if not exists ledger_test (n bigint)", &[]), ("insert into ledger_test values (1)", &[])])?;
        c.receive("go", None)?;
        Ok(total)
    });
    h.launch();
    let run = h.start("w", "null");
    until("waiting", || waits(&h, &run));
    h.send(&run, "go", "1");
    assert_eq!(h.result(&run).unwrap(), ("succeeded".into(), "\"done\"".into()));
    h.close();
}

/// A transactional step on the engine's own connection.
fn tx(c: &Ctx, statements: &[(&str, &[i64])]) -> Result<String, Unwind> {
    use everstep::protocol::frame::Reader;
    use everstep::protocol::ops::{kind, verdict};
    let token = c.host.token();
    let f = frame(|w| {
        w.int(c.exec as i64).str(&c.branch).int(token as i64).int(0).int(kind::TRANSACTION.into()).str("tx").str("").null().null().null();
    });
    let (status, a) = everstep::protocol::call(c.host.handle, op::BEGIN_STEP, &f);
    assert_eq!(status, 0);
    let mut r = Reader::new(&a);
    match r.int().unwrap() {
        verdict::RECORDED => {
            r.bool().unwrap();
            return Ok(String::from_utf8(r.bytes().unwrap().to_vec()).unwrap());
        }
        verdict::RUN => {}
        other => panic!("verdict {other}"),
    }
    let (seq, attempt) = (r.int().unwrap(), r.int().unwrap());
    let a = c.host.ask(op::TX_OPEN, frame(|w| _ = w.int(c.exec as i64).str(&c.branch).int(seq))).unwrap();
    let tx = Reader::new(&a).int().unwrap();
    for (sql, params) in statements {
        let f = frame(|w| {
            w.int(tx).str(sql).list(params.len());
            for p in *params {
                w.int(*p);
            }
        });
        c.host.ask(op::TX_EXECUTE, f).unwrap();
    }
    let a = c.host.ask(op::TX_COMMIT, frame(|w| _ = w.int(tx).int(c.exec as i64).str(&c.branch).int(seq).int(attempt).bytes(b"\"done\""))).unwrap();
    assert_eq!(Reader::new(&a).int().unwrap(), verdict::RECORDED);
    Ok("\"done\"".into())
}

#[test]
fn a_copied_database_is_held_until_it_is_adopted() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (dir.path().join("one.db"), dir.path().join("two.db"));
    let config = |path: &std::path::Path| serde_json::json!({ "database": format!("sqlite:{}", path.display()) });
    let a = Host::open(config(&one));
    a.workflow("w", |c| c.receive("go", None).map(|_| "null".into()));
    a.launch();
    let run = a.start("w", "null");
    a.close();
    std::fs::copy(&one, &two).unwrap();
    let b = Host::open(config(&two));
    b.workflow("w", |c| c.receive("go", None).map(|_| "1".into()));
    let launched = b.ask(op::LAUNCH, vec![]).unwrap();
    let mut r = everstep::protocol::frame::Reader::new(&launched);
    r.opt_str().unwrap();
    assert!(r.opt_str().unwrap().unwrap().contains("copy"));
    b.send(&run, "go", "1");
    assert_eq!(b.state(&run), "ready");
    b.ask(op::ADOPT, vec![]).unwrap();
    until("a claim", || b.state(&run) == "running");
    b.close();
}
