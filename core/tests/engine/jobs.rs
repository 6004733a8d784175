//! Steps that run as jobs, what follows a run, and who takes runs on.

use std::sync::{Arc, Mutex};

use everstep::protocol::Value;
use everstep::protocol::ops::{op, record};

use super::host::{Unwind, frame};
use super::{Place, count, until, waits};

pub fn a_job_is_retried_as_a_whole_and_on_finish_starts_with_the_end(p: &Place) {
    let h = p.host();
    let ends = Arc::new(Mutex::new(Vec::new()));
    let seen = ends.clone();
    h.register("step", "job", Some(r#"{"retry":{"max_attempts":3,"initial_ms":1,"jitter":false},"on_finish":"after"}"#), |c| {
        if c.attempt < 3 { Err(Unwind::Failed("\"no\"".into())) } else { Ok(c.attempt.to_string()) }
    });
    h.workflow("after", move |c| {
        seen.lock().unwrap().push(c.input.clone());
        Ok("null".into())
    });
    h.launch();
    let run = h.start("job", "null");
    assert_eq!(h.result(&run).unwrap(), ("succeeded".into(), "3".into()));
    until("on_finish", || ends.lock().unwrap().len() == 1);
    let end: serde_json::Value = serde_json::from_str(&ends.lock().unwrap()[0]).unwrap();
    assert_eq!((end["run"].as_str(), end["state"].as_str(), end["value"].as_i64()), (Some(run.as_str()), Some("succeeded"), Some(3)));
    h.close();
}

pub fn a_job_that_runs_at_most_once_is_never_begun_twice(p: &Place) {
    let (_, begun) = count();
    let policy = r#"{"retry":{"at_most_once":true,"max_attempts":3,"initial_ms":1}}"#;
    let first = p.host();
    let (seen, cut) = (begun.clone(), Arc::new(std::sync::Barrier::new(2)));
    let held = cut.clone();
    first.register("step", "once", Some(policy), move |c| {
        if c.input == "2" {
            return Err(Unwind::Failed(r#"{"message":"no"}"#.into()));
        }
        seen();
        held.wait();
        Err(Unwind::Stopped("its process is gone".into()))
    });
    first.launch();
    // What fails is final: a second attempt would be a second time.
    let failed = first.start("once", "2");
    assert_eq!(first.result(&failed).unwrap().0, "failed");
    assert_eq!(first.run(&failed)[record::run::ATTEMPT], Value::Int(1));
    let run = first.start("once", "1");
    until("the job begins", || begun() > 1);
    first.close();
    cut.wait();

    let second = p.host();
    let again = begun.clone();
    second.register("step", "once", Some(policy), move |_| {
        again();
        Ok("1".into())
    });
    second.launch();
    let before = begun();
    let (state, value) = second.result(&run).unwrap();
    assert_eq!(state, "failed");
    assert!(value.contains("step_interrupted"), "{value}");
    assert_eq!(begun(), before + 1, "it was not begun again");
    // Whoever brings it back by hand wants it to begin.
    assert_eq!(second.control(op::RETRY_RUN, &run), "resumed");
    assert_eq!(second.result(&run).unwrap().0, "succeeded");
    second.close();
}

pub fn a_cancel_ends_a_job_that_waits_for_its_next_attempt(p: &Place) {
    let h = p.host();
    let (_, begun) = count();
    let seen = begun.clone();
    h.register("step", "flaky", Some(r#"{"retry":{"max_attempts":5,"initial_ms":3600000,"jitter":false}}"#), move |_| {
        seen();
        Err(Unwind::Failed(r#"{"message":"no"}"#.into()))
    });
    h.launch();
    let run = h.start("flaky", "null");
    until("the first attempt is over", || h.state(&run) == "ready");
    h.control(op::CANCEL_RUN, &run);
    let ended = h.result(&run).unwrap();
    assert_eq!(ended.0, "cancelled");
    assert_eq!(begun(), 2, "its function was called once");
    h.close();
}

pub fn what_is_to_follow_a_run_follows_a_cancel_wherever_the_run_is(p: &Place) {
    let h = p.host();
    let heard: Arc<Mutex<Vec<String>>> = Arc::default();
    let to = heard.clone();
    h.workflow("after", move |c| {
        to.lock().unwrap().push(c.input.clone());
        Ok("null".into())
    });
    h.register("workflow", "w", Some(r#"{"on_finish":"after"}"#), |c| c.wait_for("receive", Some(3_600_000), None, Some("t")).map(|_| "1".into()));
    h.launch();
    let delayed = h.start_with("w", "null", 5, |w| _ = w.null().null().null().null().int(3_600_000)).unwrap();
    let running = h.start("w", "null");
    until("it waits", || waits(&h, &running));
    for run in [&delayed, &running] {
        h.control(op::CANCEL_RUN, run);
        assert_eq!(h.result(run).unwrap().0, "cancelled");
        until("what follows it", || heard.lock().unwrap().iter().any(|input| input.contains(run.as_str())));
    }
    let heard = heard.lock().unwrap();
    assert_eq!(heard.len(), 2);
    assert!(heard.iter().all(|input| input.contains(r#""workflow":"w","state":"cancelled","value":{"#)), "{heard:?}");
    drop(heard);
    h.close();
}

pub fn a_start_changes_of_a_registered_policy_only_what_it_names(p: &Place) {
    let h = p.host();
    let (_, attempts) = count();
    let seen = attempts.clone();
    h.register("step", "flaky", Some(r#"{"retry":{"max_attempts":3,"initial_ms":1}}"#), move |_| {
        if seen() < 3 { Err(Unwind::Failed(r#"{"message":"no"}"#.into())) } else { Ok("1".into()) }
    });
    h.launch();
    // [.., retry]: 17 fields stand before it. A timeout alone leaves the three attempts as they are.
    let with_retry = |retry: &dyn Fn(&mut everstep::protocol::frame::Writer)| {
        h.start_with("flaky", "null", 18, |w| {
            for _ in 0..17 {
                w.null();
            }
            retry(w);
        })
    };
    let run = with_retry(&|w| _ = w.list(7).null().null().null().null().null().int(60_000).bool(false)).unwrap();
    assert_eq!(h.result(&run).unwrap().0, "succeeded");
    assert_eq!(with_retry(&|w| _ = w.list(7).int(0).null().null().null().null().null().bool(false)).unwrap_err(), "config_invalid");
    h.close();
}

pub fn a_worker_with_one_full_client_does_not_ask_without_pause(p: &Place) {
    let h = p.host_with(serde_json::json!({ "beat_ms": 100 }));
    let info = |name: &str| -> i64 {
        let (status, answer) = everstep::protocol::call(h.handle, op::INFO, &[]);
        assert_eq!(status, 0);
        let info: serde_json::Value = serde_json::from_str(everstep::protocol::frame::Reader::new(&answer).str().unwrap()).unwrap();
        info["counters"][name].as_i64().unwrap()
    };
    let gate = Arc::new((Mutex::new(false), std::sync::Condvar::new()));
    let opened = gate.clone();
    h.register("workflow", "held", Some(r#"{"slots":1}"#), move |_| {
        let open = opened.1.wait_while(opened.0.lock().unwrap(), |open| !*open).unwrap();
        drop(open);
        Ok("1".into())
    });
    let other = everstep::protocol::attach(h.handle, false).unwrap();
    let f = frame(|w| _ = w.int(other.into()).str("workflow").str("other").null().null());
    assert_eq!(everstep::protocol::call(h.handle, op::REGISTER, &f).0, 0);
    h.launch();
    let runs: Vec<String> = (0..3).map(|_| h.start("held", "null")).collect();
    h.until_state(&runs[0], "running");
    let (ticks, claims) = (info("ticks"), info("claims"));
    until("three ticks", || info("ticks") >= ticks + 3);
    assert!(info("claims") - claims < 20, "{} claims in three ticks", info("claims") - claims);
    *gate.0.lock().unwrap() = true;
    gate.1.notify_all();
    for run in &runs {
        assert_eq!(h.result(run).unwrap().0, "succeeded");
    }
    h.close();
}
