//! Processes that die with work in hand.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{Context, clean};
use crate::event_log::Record;
use crate::stage::Stage;

const PATIENCE: Duration = Duration::from_secs(120);

fn begun(records: &[Record], step: &str) -> usize {
    records.iter().filter(|r| r.kind == "begin" && r.step == step).count()
}

async fn start_many(stage: &Stage, by: &str, id: &str, count: usize, program: serde_json::Value) -> Result<(), String> {
    let worker = stage.worker(Some(by))?;
    worker.call("start_many", json!({"id": id, "count": count, "program": program})).await.map(drop).map_err(|e| e.to_string())
}

async fn all_succeed(stage: &Stage, id: &str, count: usize) -> Result<(), String> {
    let sql = format!("select count(*) from {{s}}run r join {{s}}run_info i on i.run_id = r.id where i.id_text like '{id}-%' and r.state = 6");
    stage.until(&sql, &count.to_string(), LONG).await.map_err(|e| format!("{e}\n{}", stage.errors()))
}

/// One of three processes dies with 1,000 runs: the others finish them, within lease + 2 s of recovery and the work itself.
pub(super) async fn of_a_thousand_runs(context: Context) -> Result<(), String> {
    let mut stage = context.stage(json!({"slots": 1000})).await?;
    for name in ["a", "b", "c"] {
        context.launch(&mut stage, name, json!({}), &[]).await?;
    }
    start_many(&stage, "a", "r", 1000, json!([["step", 1], ["step", 2, {"hold": "g"}], ["tx", 1, 1], ["step", 3]])).await?;
    stage.log.until(PATIENCE, |r| begun(r, "1") >= 1000).await?;
    let victims = stage.log.read()?.iter().filter(|r| r.kind == "begin" && r.step == "1").fold(std::collections::HashMap::<u32, usize>::new(), |mut n, r| {
        *n.entry(r.pid).or_default() += 1;
        n
    });
    // Whoever holds most of them dies.
    let (most, held) = victims.iter().max_by_key(|(_, n)| **n).map(|(p, n)| (*p, *n)).ok_or("nobody runs anything")?;
    let name = stage.workers.values().find(|w| w.pid() == most).map(|w| w.name.clone()).ok_or("the holder is no worker of ours")?;
    stage.kill(&name).await?;
    let killed = Instant::now();
    stage.log.until(PATIENCE, |r| begun(r, "1") >= 1000 + held).await?;
    let recovered = killed.elapsed();
    let bound = stage.lease() + Duration::from_secs(2);
    if recovered > bound {
        return Err(format!("{held} runs of the killed process were resumed after {recovered:?}; the bound is {bound:?}"));
    }
    stage.open_gate("g")?;
    all_succeed(&stage, "r", 1000).await?;
    let moved = stage.audit_connection().await?.number("select sum(amount) from moved").await.map_err(|e| e.to_string())?;
    if moved != 1000 {
        return Err(format!("{moved} moved instead of 1000"));
    }
    clean(&stage, true).await
}

/// Steps of 60 s, hit again and again by a neighbour: nobody can wait for them less.
const LONG: Duration = Duration::from_secs(500);

/// One run of 1,000 kills its process each time it runs, beside steps of 60 s: exactly that one is blocked, however often its neighbours were
/// hit with it.
pub(super) async fn poison_among_a_thousand(context: Context) -> Result<(), String> {
    let mut stage = context.stage(json!({"slots": 400})).await?;
    let mut number = 0;
    for _ in 0..3 {
        context.launch(&mut stage, &format!("w{number}"), json!({}), &[]).await?;
        number += 1;
    }
    start_many(&stage, "w0", "good", 1000, json!([["step", 1], ["step", 2, {"ms": 60000}], ["step", 3]])).await?;
    stage.log.until(PATIENCE, |r| begun(r, "1") >= 900).await?;
    stage.start(Some("w1"), "poison", json!([["step", "boom", {"crash": "always"}]]), json!({})).await.map_err(|e| e.to_string())?;
    let began = Instant::now();
    let deadline = began + LONG;
    let mut database = stage.audit_connection().await?;
    let blocked = "select count(*) from {s}run where state = 5";
    while database.number(blocked).await.map_err(|e| e.to_string())? == 0 {
        if Instant::now() > deadline {
            let rows = database.rows("select state, crashes, count(*) from {s}run group by state, crashes").await.map_err(|e| e.to_string())?;
            return Err(format!("nothing was blocked in {LONG:?}; (state, crashes, runs): {rows:?}\n{}", stage.errors()));
        }
        // Whoever supervises processes starts a new one for each that died.
        let dead: Vec<String> = stage.workers.values_mut().filter_map(|w| w.has_ended().then(|| w.name.clone())).collect();
        for name in dead {
            stage.workers.remove(&name);
            context.launch(&mut stage, &format!("w{number}"), json!({}), &[]).await?;
            number += 1;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    println!("  blocked after {:.1?}", began.elapsed());
    all_succeed(&stage, "good", 1000).await?;
    println!("  all over after {:.1?}", began.elapsed());
    let found =
        database.rows("select i.id_text, r.crashes from {s}run r join {s}run_info i on i.run_id = r.id where r.state = 5").await.map_err(|e| e.to_string())?;
    if found.len() != 1 || found[0].first().cloned().flatten().as_deref() != Some("poison") {
        return Err(format!("blocked: {found:?}; only the poison run should be"));
    }
    clean(&stage, true).await
}

/// A run that sleeps fifty times and survives ten kills between its sleeps made progress each time: it is never blocked.
pub(super) async fn fifty_sleeps_and_ten_kills(context: Context) -> Result<(), String> {
    let mut stage = context.stage(json!({})).await?;
    context.launch(&mut stage, "w0", json!({}), &[]).await?;
    stage.start(Some("w0"), "r", json!([["repeat", 50, [["sleep", 60]]], ["step", "end"]]), json!({})).await.map_err(|e| e.to_string())?;
    for kill in 0..10 {
        let wanted = (kill + 1) * 4;
        let woken = |records: &[Record]| {
            let mut steps: Vec<&str> = records.iter().filter(|r| r.kind == "woke").map(|r| r.step.as_str()).collect();
            steps.sort_unstable();
            steps.dedup();
            steps.len() >= wanted
        };
        let blocked = "select r.state from {s}run r join {s}run_info i on i.run_id = r.id where i.id_text = 'r'";
        tokio::select! {
            woken = stage.log.until(PATIENCE, woken) => woken.map_err(|e| format!("before kill {kill}: {e}\n{}", stage.errors()))?,
            Ok(_) = stage.until(blocked, "5", PATIENCE) => return Err(format!("before kill {kill}: the run is blocked")),
        };
        stage.kill(&format!("w{kill}")).await?;
        context.launch(&mut stage, &format!("w{}", kill + 1), json!({}), &[]).await?;
    }
    let result = stage.result(Some("w10"), "r", PATIENCE).await.map_err(|e| format!("{e}\n{}", stage.errors()))?;
    if result.get(1) != Some(&json!("end")) {
        return Err(format!("unexpected result {result}"));
    }
    clean(&stage, true).await
}
