//! Races that show only in numbers.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{Context, clean};
use crate::random::Random;
use crate::stage::Stage;

const PATIENCE: Duration = Duration::from_secs(400);
/// A message to each of 100 runs that wait for nothing else.
const ROUND: Duration = Duration::from_secs(15);

async fn all_finish(stage: &Stage, count: usize) -> Result<(), String> {
    let sql = "select count(*) from {s}run where state = 6";
    let finished = stage.until(sql, &count.to_string(), PATIENCE).await;
    if let Err(why) = finished {
        let mut database = stage.audit_connection().await?;
        let rows = database.rows("select state, count(*) from {s}run group by state").await.map_err(|e| e.to_string())?;
        return Err(format!("{why}\nby state: {rows:?}\n{}", stage.errors()));
    }
    Ok(())
}

/// 100 receivers that are released at every wait, 100 messages to each, sent while they are being released: none sleeps on.
pub(super) async fn message_release_races(context: Context) -> Result<(), String> {
    let (runs, messages) = (100, 100);
    let mut stage = context.stage(json!({"slots": 200})).await?;
    context.launch(&mut stage, "receiver", json!({"max_parked": 0, "release_after_ms": 0, "queues": []}), &[]).await?;
    context.launch(&mut stage, "sender", json!({"queues": []}), &[]).await?;
    let program = json!([["repeat", messages, [["receive", "t", 600_000]]]]);
    let receiver = stage.worker(Some("receiver"))?;
    receiver.call("start_many", json!({"id": "r", "count": runs, "program": program})).await.map_err(|e| e.to_string())?;
    let sender = stage.worker(Some("sender"))?;
    let mut random = Random::seeded(1);
    for n in 0..messages {
        // A round to every receiver, in another order and at another pace each time.
        let mut answers = Vec::new();
        for i in 0..runs {
            let to = (i * 37 + n * 11) % runs;
            let message = json!({"id": format!("r-{to}"), "topic": "t", "message": format!("storm#{n}")});
            answers.push(sender.submit("send", message).await);
            if random.between(0, 10) == 0 {
                tokio::time::sleep(Duration::from_millis(random.between(0, 4))).await;
            }
        }
        for answer in answers {
            answer.await.map_err(|_| "the sender ended")?.map_err(|e| e.to_string())?;
        }
        // A storm first. Then each message has to wake its receiver by itself: one that was lost would be made good by the next.
        if n >= messages / 2 {
            let (sql, sent) = ("select count(*) from {s}message where consumed is not null", runs * (n + 1));
            stage.until(sql, &sent.to_string(), ROUND).await.map_err(|e| format!("in round {n}: {e}"))?;
        }
    }
    all_finish(&stage, runs).await?;
    clean(&stage, true).await
}

/// 200 runs over three processes, each sending to others while it receives: batches lock and wake each other's runs all the time.
pub(super) async fn runs_that_message_one_another(context: Context) -> Result<(), String> {
    let (runs, rounds) = (200, 10);
    let mut stage = context.stage(json!({"slots": 200})).await?;
    for name in ["a", "b", "c"] {
        context.launch(&mut stage, name, json!({}), &[]).await?;
    }
    let mut answers = Vec::new();
    for i in 0..runs {
        let mut program = Vec::new();
        for round in 0..rounds {
            let peer = (i + 7 * round + 1) % runs;
            program.push(json!(["send", format!("r-{peer}"), "t", format!("r-{i}#{round}"), {"wait": true}]));
            program.push(json!(["receive", "t", 600_000]));
        }
        let by = ["a", "b", "c"][i % 3];
        answers.push(stage.worker(Some(by))?.submit("start", json!({"id": format!("r-{i}"), "program": program})).await);
    }
    for answer in answers {
        answer.await.map_err(|_| "a worker ended")?.map_err(|e| e.to_string())?;
    }
    all_finish(&stage, runs).await?;
    let mut database = stage.audit_connection().await?;
    let deadlocks = database.number("select deadlocks from pg_stat_database where datname = current_database()").await.map_err(|e| e.to_string())?;
    if deadlocks != 0 {
        return Err(format!("{deadlocks} deadlocks"));
    }
    clean(&stage, true).await
}

/// Two same-named steps at once, under 10,000 sets of latencies, each replayed from the start before every step: each item its own value.
pub(super) async fn fan_outs_replayed(context: Context) -> Result<(), String> {
    let runs = 10_000;
    let mut stage = context.stage(json!({"slots": 400, "replay": "always"})).await?;
    context.launch(&mut stage, "a", json!({}), &[]).await?;
    let worker = stage.worker(Some("a"))?;
    let program =
        json!([["gather", ["step", "left", {"jitter_ms": 6}], ["step", "right", {"jitter_ms": 6}]], ["map", ["x", "y"], {"jitter_ms": 4}], ["step", "end"]]);
    worker.call("start_many", json!({"id": "r", "count": runs, "program": program})).await.map_err(|e| e.to_string())?;
    all_finish(&stage, runs).await?;
    let wanted = json!([["left", "right"], ["x", "y"], "end"]);
    let mut answers = Vec::new();
    for i in 0..runs {
        answers.push(worker.submit("result", json!({"id": format!("r-{i}"), "timeout_ms": 60_000})).await);
    }
    for (i, answer) in answers.into_iter().enumerate() {
        let value = answer.await.map_err(|_| "the worker ended")?.map_err(|e| e.to_string())?;
        if value != wanted {
            return Err(format!("run r-{i}: another item's value: {value}"));
        }
    }
    clean(&stage, true).await
}

/// Sessions that share-lock one row make MultiXacts; a row a lane makes none. A minute of load makes fewer than 100.
pub(super) async fn multixacts(context: Context) -> Result<(), String> {
    let mut stage = context.own_stage(json!({"slots": 200})).await?;
    for name in ["a", "b"] {
        context.launch(&mut stage, name, json!({}), &[]).await?;
    }
    let mut database = stage.audit_connection().await?;
    let next = "select next_multixact_id::text::bigint from pg_control_checkpoint()";
    database.execute("checkpoint").await.map_err(|e| e.to_string())?;
    let before = database.number(next).await.map_err(|e| e.to_string())?;
    let (began, mut batch) = (Instant::now(), 0);
    let time = Duration::from_secs(60);
    while began.elapsed() < time {
        for (i, name) in ["a", "b"].into_iter().enumerate() {
            let other = format!("{}-{batch}-0", ["b", "a"][i]);
            let program = json!([["step", 1], ["tx", 1, 1], ["all", [["step", 2]], [["step", 3]]], ["send", other, "t", "x", {"optional": true}]]);
            let worker = stage.worker(Some(name))?;
            let command = json!({"id": format!("{name}-{batch}"), "count": 100, "program": program});
            worker.call("start_many", command).await.map_err(|e| e.to_string())?;
        }
        batch += 1;
        all_finish(&stage, batch * 200).await?;
    }
    database.execute("checkpoint").await.map_err(|e| e.to_string())?;
    let made = database.number(next).await.map_err(|e| e.to_string())? - before;
    if made >= 100 {
        return Err(format!("{made} MultiXacts in {:?} of load; fewer than 100 allowed", began.elapsed()));
    }
    clean(&stage, true).await
}
