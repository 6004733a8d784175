//! Plays a scenario on a stage, step by step, and ends with the audit.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::audit::Expect;
use crate::cluster::Cluster;
use crate::event_log::Record;
use crate::proxy;
use crate::scenario::{Action, AuditMode, Scenario, Store};
use crate::stage::{Plan, Stage};
use crate::worker::{Failure, Language};

/// Far above anything a healthy engine needs, on a machine that also compiles.
const PATIENCE: Duration = Duration::from_secs(40);

type Asked = oneshot::Receiver<Result<Value, Failure>>;

struct Player {
    stage: Stage,
    asked: HashMap<String, Asked>,
    marks: HashMap<String, Instant>,
}

/// Play one scenario, on request with a transaction-mode pooler before the server; the error says which step broke which promise, with what the workers wrote.
pub async fn play(scenario: &Scenario, languages: &[Language], store: Store, pooled: bool, shared: Arc<Cluster>) -> Result<(), String> {
    let wants = |need: &str| scenario.needs.iter().any(|n| n == need);
    let plan = Plan {
        languages,
        store,
        shared: (!wants("server")).then_some(shared),
        proxy: wants("proxy"),
        pooler: pooled || wants("pooler"),
        engine: scenario.engine.clone(),
    };
    let mut player = Player { stage: Stage::set(plan).await?, asked: HashMap::new(), marks: HashMap::new() };
    let told = |player: &Player, why: String| format!("{why}\n{}", player.stage.errors());
    for (i, action) in scenario.steps.iter().enumerate() {
        if let Err(why) = player.act(action).await {
            return Err(told(&player, format!("step {} ({action:?}): {why}", i + 1)));
        }
    }
    let expect = Expect { finished: scenario.audit == AuditMode::Finished, timer_slack_ms: 0, money: 0 };
    let report = player.stage.audit(expect).await?;
    if report.is_clean() { Ok(()) } else { Err(told(&player, report.to_string())) }
}

fn within(ms: Option<u64>) -> Duration {
    ms.map_or(PATIENCE, Duration::from_millis)
}

/// An answer against what the scenario expects of it.
fn compare(answer: Result<Value, Failure>, value: Option<&Value>, error: Option<&str>, has: Option<&Value>, contains: &[String]) -> Result<(), String> {
    let text = match (&answer, error) {
        (Err(failure), Some(code)) if failure.code == code => failure.to_string(),
        (Err(failure), Some(code)) => return Err(format!("error {code} expected, got {failure}")),
        (Err(failure), None) => return Err(failure.to_string()),
        (Ok(got), Some(code)) => return Err(format!("error {code} expected, got {got}")),
        (Ok(got), None) => {
            if let Some(wanted) = value.filter(|v| *v != got) {
                return Err(format!("{wanted} expected, got {got}"));
            }
            for (key, wanted) in has.and_then(Value::as_object).into_iter().flatten() {
                if got.get(key) != Some(wanted) {
                    return Err(format!("{key} = {wanted} expected, got {got}"));
                }
            }
            got.to_string()
        }
    };
    match contains.iter().find(|c| !text.contains(c.as_str())) {
        Some(missing) => Err(format!("{missing:?} is not in {text}")),
        None => Ok(()),
    }
}

fn ids(id: &str, count: Option<usize>) -> Vec<String> {
    count.map_or_else(|| vec![id.to_string()], |n| (0..n).map(|i| format!("{id}-{i}")).collect())
}

fn matches(record: &Record, kind: &str, run: &Option<String>, step: &Option<String>, detail: &Option<String>) -> bool {
    let fits = |wanted: &Option<String>, got: &str| wanted.as_ref().is_none_or(|w| w.strip_suffix('*').map_or(w == got, |p| got.starts_with(p)));
    record.kind == kind && fits(run, &record.run) && fits(step, &record.step) && fits(detail, &record.detail)
}

impl Player {
    async fn act(&mut self, action: &Action) -> Result<(), String> {
        let stage = &mut self.stage;
        match action {
            Action::Worker { name, engine, environment, error, held, via } => {
                let worker = stage.spawn(name, engine, environment, via.as_deref()).await?;
                let launched = worker.call("launch", json!({})).await;
                let held: Vec<String> = held.iter().cloned().collect();
                compare(launched, None, error.as_deref(), None, &held)
            }
            Action::Start { id, by, program, options, count, workflow, error, attached } => {
                let worker = stage.worker(by.as_deref())?;
                let mut answers = Vec::new();
                for id in ids(id, *count) {
                    let command = json!({"id": id, "program": program, "options": options, "workflow": workflow});
                    answers.push(worker.submit("start", command).await);
                }
                for answer in answers {
                    let answer = answer.await.unwrap_or_else(|_| Err(Failure::lost("the worker ended")));
                    let has = attached.map(|a| json!({"attached": a}));
                    compare(answer, None, error.as_deref(), has.as_ref(), &[])?;
                }
                Ok(())
            }
            Action::Result { id, by, value, error, contains, count, within_ms } => {
                let worker = stage.worker(by.as_deref())?;
                let mut answers = Vec::new();
                for id in ids(id, *count) {
                    let question = json!({"id": id, "timeout_ms": within(*within_ms).as_millis() as u64});
                    answers.push((id, worker.submit("result", question).await));
                }
                for (id, answer) in answers {
                    let answer = answer.await.unwrap_or_else(|_| Err(Failure::lost("the worker ended")));
                    compare(answer, value.as_ref(), error.as_deref(), None, contains).map_err(|e| format!("run {id}: {e}"))?;
                }
                Ok(())
            }
            Action::Ask { name, by, op, with } => {
                let asked = stage.worker(by.as_deref())?.submit(op, with.clone()).await;
                self.asked.insert(name.clone(), asked);
                Ok(())
            }
            Action::Answer { name, value, error } => {
                let asked = self.asked.remove(name).ok_or(format!("{name} was not asked"))?;
                let answer = tokio::time::timeout(PATIENCE, asked).await.map_err(|_| format!("no answer to {name} in {PATIENCE:?}"))?;
                let answer = answer.unwrap_or_else(|_| Err(Failure::lost("the worker ended")));
                compare(answer, value.as_ref(), error.as_deref(), None, &[])
            }
            Action::Call { by, op, with, value, has, contains, error } => {
                let answer = stage.worker(by.as_deref())?.call(op, with.clone()).await;
                compare(answer, value.as_ref(), error.as_deref(), has.as_ref(), contains)
            }
            Action::Send { id, by, topic, value, count } => {
                let worker = stage.worker(by.as_deref())?;
                for id in ids(id, *count) {
                    let sent = worker.call("send", json!({"id": id, "topic": topic, "message": value})).await;
                    compare(sent, None, None, None, &[])?;
                }
                Ok(())
            }
            Action::Listed { by, with, page, count } => {
                let worker = stage.worker(by.as_deref())?;
                let (mut seen, mut after) = (std::collections::HashSet::new(), Value::Null);
                loop {
                    let mut question = json!({"limit": page, "after": after});
                    crate::stage::merge(&mut question, with);
                    let answer = worker.call("list", question).await.map_err(|e| e.to_string())?;
                    let runs = answer.get("runs").and_then(Value::as_array).cloned().unwrap_or_default();
                    if runs.len() > *page {
                        return Err(format!("a page of {} runs; {page} were asked for", runs.len()));
                    }
                    if let Some(twice) = runs.into_iter().find(|r| !seen.insert(r.to_string())) {
                        return Err(format!("run {twice} was listed twice"));
                    }
                    after = answer.get("next").cloned().unwrap_or(Value::Null);
                    if after.is_null() {
                        break;
                    }
                }
                if seen.len() == *count { Ok(()) } else { Err(format!("{} runs were listed instead of {count}", seen.len())) }
            }
            Action::Until { id, state, within_ms, count } => {
                let code = everstep::store::RunState::from_name(state).ok_or(format!("unknown state {state}"))? as i16;
                let (pattern, wanted) = count.map_or((id.clone(), 1), |n| (format!("{id}-%"), n));
                let sql =
                    format!("select count(*) from {{s}}run r join {{s}}run_info i on i.run_id = r.id where i.id_text like '{pattern}' and r.state = {code}");
                stage.until(&sql, &wanted.to_string(), within(*within_ms)).await
            }
            Action::Sql { query, value, within_ms } => {
                let wanted = value.as_str().map_or_else(|| value.to_string(), str::to_string);
                stage.until(query, &wanted, within(*within_ms)).await
            }
            Action::Log { kind, run, step, detail, count, within_ms } => {
                let reached = |records: &[Record]| records.iter().filter(|r| matches(r, kind, run, step, detail)).count() >= *count;
                stage.log.until(within(*within_ms), reached).await
            }
            Action::Logged { kind, run, step, detail, count, distinct } => {
                let records = stage.log.read()?;
                let details: Vec<&str> = records.iter().filter(|r| matches(r, kind, run, step, detail)).map(|r| r.detail.as_str()).collect();
                let different = details.iter().collect::<std::collections::BTreeSet<_>>().len();
                if details.len() != *count {
                    Err(format!("{} records instead of {count}", details.len()))
                } else if distinct.is_some_and(|wanted| wanted != different) {
                    Err(format!("{different} different details: {details:?}"))
                } else {
                    Ok(())
                }
            }
            Action::Kill { name } => stage.kill(name).await.map(drop),
            Action::Stop { name } => stage.stop(name).await,
            Action::Continue { name } => stage.workers.get_mut(name).map(|w| w.resume()).ok_or(format!("there is no worker {name}")),
            Action::Close { name, within_ms } => {
                let mut worker = stage.workers.remove(name).ok_or(format!("there is no worker {name}"))?;
                let began = Instant::now();
                worker.call("close", json!({"deadline_ms": 2000})).await.map_err(|e| e.to_string())?;
                let took = began.elapsed();
                tokio::time::timeout(PATIENCE, worker.ended()).await.map_err(|_| "the process did not end after close")?;
                match within_ms {
                    Some(limit) if took > Duration::from_millis(*limit) => Err(format!("closing took {took:?}")),
                    _ => Ok(()),
                }
            }
            Action::Ended { name } => {
                let mut worker = stage.workers.remove(name).ok_or(format!("there is no worker {name}"))?;
                let ended = tokio::time::timeout(PATIENCE, worker.ended()).await;
                ended.map(drop).map_err(|_| format!("worker {name} still runs after {PATIENCE:?}"))
            }
            Action::Open { gate } => stage.open_gate(gate),
            Action::Postgres { what } => tokio::task::block_in_place(|| stage.postgres(what)),
            Action::Leases { count } => {
                tokio::time::sleep(stage.lease().mul_f64(*count)).await;
                Ok(())
            }
            Action::Fault { text, what, skip, times } => {
                let action = match what.split_once(':').unwrap_or((what, "")) {
                    ("before", _) => proxy::Action::CutBefore,
                    ("after", _) => proxy::Action::CutAfter,
                    ("blackhole", _) => proxy::Action::Blackhole,
                    ("fail", code) => proxy::Action::Fail(code.to_string()),
                    ("delay", ms) => proxy::Action::Delay(Duration::from_millis(ms.parse().map_err(|_| "delay:MILLISECONDS")?)),
                    _ => return Err(format!("unknown fault {what}")),
                };
                let proxy = stage.proxy.as_ref().ok_or("this scenario has no proxy: needs = [\"proxy\"]")?;
                proxy.rule(proxy::Rule::once(text, action).after(*skip).repeated(*times as u64));
                Ok(())
            }
            Action::Struck { count } => {
                let proxy = stage.proxy.as_ref().ok_or("this scenario has no proxy: needs = [\"proxy\"]")?;
                let struck = tokio::time::timeout(PATIENCE, proxy.until_hits(*count)).await;
                struck.map_err(|_| format!("{} faults struck instead of {count}", proxy.hits()))
            }
            Action::Mark { name } => {
                self.marks.insert(name.clone(), Instant::now());
                Ok(())
            }
            Action::Since { mark, at_most_ms } => {
                let passed = self.marks.get(mark).ok_or(format!("no mark {mark}"))?.elapsed();
                if passed <= Duration::from_millis(*at_most_ms) { Ok(()) } else { Err(format!("took {passed:?}, allowed {at_most_ms} ms")) }
            }
        }
    }
}
