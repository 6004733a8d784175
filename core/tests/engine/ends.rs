//! Launches that are refused, and what comes at the end of a process or a run.

use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use everstep::protocol::frame::Reader;
use everstep::protocol::ops::{op, record};
use everstep::protocol::{self, Value};

use super::host::{Ctx, Unwind, frame};
use super::{Place, count, text, until};

/// A host whose drain is interrupted closes in the middle of it. The store was shut under the drain, and its runs counted as those of a crash.
pub fn a_close_during_a_drain_gives_the_runs_back_without_a_crash(p: &Place) {
    let a = p.host();
    let (begun, tick) = count();
    let held = Arc::new(Barrier::new(2));
    let cut = held.clone();
    a.workflow("w", move |_| {
        tick();
        held.wait();
        Err(Unwind::Stopped("its worker is gone".into()))
    });
    a.launch();
    let run = a.start("w", "null");
    until("the run begins", || begun.load(std::sync::atomic::Ordering::SeqCst) == 1);
    assert!(protocol::submit(a.handle, a.client, a.token(), op::DRAIN, &frame(|w| _ = w.int(25_000))));
    until("the drain", || {
        let (_, info) = protocol::call(a.handle, op::INFO, &[]);
        Reader::new(&info).str().unwrap().contains("\"phase\":\"draining\"")
    });
    let began = Instant::now();
    protocol::close(a.handle, Duration::ZERO);
    assert!(began.elapsed() < Duration::from_secs(20), "it has waited for the drain's own time");
    a.close();
    cut.wait();
    // Nobody is there to take it: it was given back.
    let client = p.host_with(serde_json::json!({ "role": "client" }));
    assert_eq!((client.state(&run).as_str(), &client.run(&run)[record::run::CRASHES]), ("ready", &Value::Int(0)));
    client.close();
}

pub fn an_event_of_a_run_that_has_ended_without_it_is_waited_for_no_longer(p: &Place) {
    let waits_for = |c: &Ctx| {
        let event = c.wait_for("event", None, Some(c.input.trim_matches('"')), Some("progres"))?;
        Ok(format!("\"{event:?}\""))
    };
    let a = p.host();
    a.workflow("ends", |c| {
        c.set_event("progress", "1")?;
        c.receive("go", None)?;
        Ok("1".into())
    });
    a.workflow("parked", waits_for);
    a.launch();
    let b = p.host_with(serde_json::json!({ "max_parked": 0, "release_after_ms": 0 }));
    b.workflow("released", waits_for);
    b.launch();
    let client = p.host_with(serde_json::json!({ "role": "client" }));
    let target = a.start("ends", "null");
    let (parked, released) = (a.start("parked", &format!("\"{target}\"")), b.start("released", &format!("\"{target}\"")));
    let get = |key: &'static str| frame(|w| _ = w.str(&target).str(key));
    let asked = client.token();
    assert!(protocol::submit(client.handle, client.client, asked, op::GET_EVENT, &get("progres")));
    until("the wait", || matches!(&a.run(&parked)[record::run::WAITS_FOR], Value::List(l) if l.iter().any(|v| text(v).contains("waits for event"))));
    b.until_state(&released, "waiting");
    a.send(&target, "go", "1");
    for (h, run) in [(&a, &parked), (&b, &released)] {
        assert_eq!(h.result(run).unwrap(), ("succeeded".into(), "\"None\"".into()));
    }
    let value = |answer: Vec<u8>| Reader::new(&answer).opt_bytes().unwrap().map(<[u8]>::to_vec);
    assert_eq!(value(client.wait(asked).unwrap()), None);
    assert_eq!(value(client.ask(op::GET_EVENT, get("progres")).unwrap()), None);
    assert_eq!(value(client.ask(op::GET_EVENT, get("progress")).unwrap()), Some(b"1".to_vec()));
    let nobody = uuid::Uuid::now_v7().to_string();
    assert_eq!(client.ask(op::GET_EVENT, frame(|w| _ = w.str(&nobody).str("k"))).unwrap_err().0, "run_not_found");
    for h in [client, b, a] {
        h.close();
    }
}

pub fn what_looks_mistyped_is_refused_at_launch_and_at_a_start(p: &Place) {
    let a = p.host();
    a.register("workflow", "pay", Some(r#"{"on_finish":"notfy"}"#), |_| Ok("1".into()));
    a.workflow("notify", |_| Ok("1".into()));
    let (code, message) = a.ask(op::LAUNCH, vec![]).unwrap_err();
    assert_eq!(code, "unknown_workflow");
    assert!(message.contains("\"pay\": on_finish: ") && message.contains("Did you mean \"notify\"?"), "{message}");

    let queue = |name: &'static str| frame(|w| _ = w.list(6).str(name).bool(false).null().null().null().bool(false).bool(false));
    a.ask(op::PUT_QUEUE, queue("orders")).unwrap();
    a.close();
    let b = p.host_with(serde_json::json!({ "queues": ["ordres"] }));
    let (code, message) = b.ask(op::LAUNCH, vec![]).unwrap_err();
    assert_eq!(code, "unknown_queue");
    assert!(message.contains("\"ordres\"") && message.contains("\"orders\""), "{message}");
    // Made meanwhile, it is what was meant.
    b.ask(op::PUT_QUEUE, queue("ordres")).unwrap();
    b.launch();
    b.close();

    let c = p.host_with(serde_json::json!({ "queues": ["orders", "elsewhere"] }));
    c.workflow("w", |_| Ok("1".into()));
    c.workflow("notify", |_| Ok("1".into()));
    c.launch();
    until("the warning", || c.logs.lock().unwrap().iter().any(|line| line.contains("unknown_queue") && line.contains("\"elsewhere\"")));
    let start = |next: &'static str| {
        c.start_with("w", "null", 19, |w| {
            for _ in 0..18 {
                w.null();
            }
            w.str(next);
        })
    };
    assert_eq!(start("notfy").map_err(|code| code.split(' ').next().unwrap_or_default().to_owned()), Err("unknown_workflow".into()));
    assert!(start("notify").is_ok() && start("another").is_ok());
    c.close();
}
