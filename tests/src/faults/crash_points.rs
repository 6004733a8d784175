//! SIGKILL (as `abort`) at every named crash point of the engine, once each, on both stores: the process that reaches it dies, a fresh one
//! finishes everything, and the audit is clean. A point the workload never reaches is a failure too: it would prove nothing.

use std::time::Duration;

use serde_json::json;

use super::{BOTH, Check, Context, clean};
use crate::stage::Stage;

const PATIENCE: Duration = Duration::from_secs(60);

pub(super) fn checks() -> Vec<Check> {
    let points = everstep::failpoint::NAMES.iter();
    points.map(|point| Check::new(format!("crash_at {point}"), BOTH, move |context| crash_at(context, point))).collect()
}

/// Runs of every sort the store has a statement for. Ids are fixed, so whoever drives may ask twice.
async fn drive(stage: &Stage, name: &str) -> Result<(), crate::worker::Failure> {
    let worker = stage.worker(Some(name)).map_err(crate::worker::Failure::lost)?;
    worker.call("queue", json!({"name": "q", "limit": 3})).await?;
    let programs = [
        ("plain", json!([["step", 1], ["step", 2], ["step", 3]]), json!({})),
        ("money", json!([["tx", 1, 10], ["step", "x"], ["tx", 2, 20]]), json!({})),
        ("branches", json!([["all", [["step", 1]], [["step", 2], ["tx", 3, 1]]], ["map", [1, 2, 3]]]), json!({})),
        ("sleeper", json!([["step", 1], ["sleep", 400], ["step", 2]]), json!({})),
        ("receiver", json!([["receive", "t", 60000], ["step", 2]]), json!({})),
        ("sender", json!([["step", 1], ["send", "receiver", "t", "m#1"]]), json!({})),
        ("parent", json!([["child", [["step", 1], ["tx", 4, 5]], {"id": "leaf"}], ["step", 2]]), json!({})),
        ("leaver", json!([["child", [["receive", "never", 60000]], {"id": "orphan", "wait": false}], ["step", 1]]), json!({})),
        ("queued", json!([["step", 1]]), json!({"queue": "q"})),
        ("later", json!([["step", 1]]), json!({"queue": "q", "delay_ms": 300})),
        ("retried", json!([["step", 1, {"as": "five", "fail": 1}]]), json!({})),
        ("doomed", json!([["receive", "never", 60000]]), json!({})),
    ];
    for (id, program, options) in programs {
        worker.call("start", json!({"id": id, "program": program, "options": options})).await?;
    }
    worker.call("cancel", json!({"id": "doomed"})).await?;
    Ok(())
}

const FINISHED: [&str; 11] = ["plain", "money", "branches", "sleeper", "receiver", "sender", "parent", "leaver", "queued", "later", "retried"];

async fn crash_at(context: Context, point: &'static str) -> Result<(), String> {
    let mut stage = context.stage(json!({"max_parked": 0, "release_after_ms": 20})).await?;
    let migrating = point.contains("migrate");
    if !migrating {
        // Somebody dies and leaves runs behind, so that reaping and taking over are part of the workload.
        context.launch(&mut stage, "first", json!({}), &[]).await?;
        for i in 0..5 {
            let program = json!([["step", 1], ["step", 2, {"hold": "g"}], ["tx", 5, 1]]);
            stage.start(Some("first"), &format!("left-{i}"), program, json!({})).await.map_err(|e| e.to_string())?;
        }
        stage.log.until(PATIENCE, |r| r.iter().filter(|r| r.kind == "begin" && r.step == "1").count() >= 5).await?;
        stage.kill("first").await?;
        stage.open_gate("g")?;
    }
    let target = format!("{point}:1");
    let launched = context.launch(&mut stage, "crashing", json!({}), &[("EVERSTEP_CRASH_AT", &target)]).await;
    // From here on every answer may be missing: the process dies somewhere in the middle, which is the point.
    let driven = match launched {
        Ok(()) => drive(&stage, "crashing").await.map_err(|e| e.to_string()),
        Err(why) => Err(why),
    };
    if let Some(mut worker) = stage.workers.remove("crashing") {
        let ended = tokio::time::timeout(Duration::from_secs(15), worker.ended()).await;
        if ended.is_err() {
            return Err(format!("the workload never reached {point} (driving it: {driven:?})\n{}", worker.errors()));
        }
    }
    context.launch(&mut stage, "fresh", json!({}), &[]).await?;
    drive(&stage, "fresh").await.map_err(|e| format!("after the crash: {e}"))?;
    let left: Vec<String> = (0..if migrating { 0 } else { 5 }).map(|i| format!("left-{i}")).collect();
    for id in FINISHED.iter().map(|s| s.to_string()).chain(left) {
        stage.result(Some("fresh"), &id, PATIENCE).await.map_err(|e| format!("run {id}: {e}\n{}", stage.errors()))?;
    }
    // Cancelled by hand; and the child of a run that has ended, whoever has died over it.
    for id in ["doomed", "orphan"] {
        let state = format!("select r.state from {{s}}run r join {{s}}run_info i on i.run_id = r.id where i.id_text = '{id}'");
        stage.until(&state, "8", PATIENCE).await.map_err(|e| format!("run {id}: {e}\n{}", stage.errors()))?;
    }
    clean(&stage, true).await
}
