//! Chaos: workers killed, stopped and restarted, the server restarted, connections cut, all under load and by a seeded schedule; then a
//! quiet phase in which everything must finish; then the audit.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::audit::{Expect, Observer};
use crate::proxy::{Action, Rule};
use crate::random::Random;
use crate::scenario::Store;
use crate::stage::{Plan, Stage};
use crate::worker::Language;

pub struct Settings {
    pub seconds: u64,
    pub seed: u64,
    pub workers: usize,
    pub store: Store,
}

/// Runs the client keeps unfinished at one time.
const IN_FLIGHT: usize = 150;
const QUIET: Duration = Duration::from_secs(90);

#[derive(Debug, Clone, PartialEq)]
enum Fault {
    Kill(usize),
    Pause(usize, u64),
    Drain(usize),
    Server(&'static str),
    CutAll,
    Cut(Action),
}

/// The whole schedule, from the seed alone: (milliseconds since the start, fault).
fn schedule(settings: &Settings) -> Vec<(u64, Fault)> {
    let mut random = Random::seeded(settings.seed);
    let (mut at, mut out, mut server_after) = (1000, Vec::new(), 8000);
    while at < settings.seconds * 1000 {
        let worker = random.between(0, settings.workers as u64) as usize;
        let postgres = settings.store == Store::Postgres;
        let fault = match random.between(0, 10) {
            0..=3 => Fault::Kill(worker),
            4 | 5 => Fault::Pause(worker, random.between(300, 5000)),
            6 => Fault::Drain(worker),
            7 if postgres && at > server_after => {
                // Recovery takes its time; two at once would only be one longer outage.
                server_after = at + 12_000;
                Fault::Server(if random.between(0, 2) == 0 { "restart" } else { "crash" })
            }
            7 | 8 if postgres => Fault::CutAll,
            9 if postgres => Fault::Cut(random.pick(&[Action::CutBefore, Action::CutAfter, Action::Fail("40001".into())]).clone()),
            _ => Fault::Kill(worker),
        };
        out.push((at, fault));
        at += random.between(300, 2200);
    }
    out
}

fn program(random: &mut Random, n: usize) -> Value {
    let account = random.between(0, 8);
    let money = random.between(1, 50);
    match random.between(0, 8) {
        0 => json!([["step", 1], ["tx", account, money], ["step", 2, {"jitter_ms": 30}], ["tx", (account + 1) % 8, money]]),
        1 => json!([["all", [["step", 1, {"jitter_ms": 50}], ["tx", account, 1]], [["step", 2], ["step", 3]]], ["map", [1, 2, 3], {"jitter_ms": 20}]]),
        2 => json!([["step", 1], ["sleep", random.between(50, 1500)], ["step", 2]]),
        3 => json!([["child", [["step", 1], ["tx", account, money]], {}], ["step", 2]]),
        4 => json!([["step", 1, {"as": "five", "fail": 1}], ["tx", account, money]]),
        5 => json!([["receive", "mail", 600_000], ["step", 1], ["tx", account, money]]),
        6 if n > 0 => json!([["race", [["step", "slow", {"ms": 30_000}]], [["step", "fast", {"jitter_ms": 20}]]], ["step", 2]]),
        _ => json!([["repeat", random.between(2, 12), [["step", 1, {"jitter_ms": 5}]]], ["value", "uuid"], ["tx", account, money]]),
    }
}

/// `languages`: the workers speak them in turn, the client the first after them.
pub async fn run(languages: &[Language], settings: &Settings) -> Result<(), String> {
    let engine = json!({"slots": 200, "max_parked": 20, "release_after_ms": 200});
    let plan = Plan { languages, store: settings.store, shared: None, proxy: settings.store == Store::Postgres, pooler: false, engine };
    let mut stage = Stage::set(plan).await?;
    println!("chaos: seed {}, {} s, {} workers, {}, {}", settings.seed, settings.seconds, settings.workers, settings.store.name(), names(languages));
    for slot in 0..settings.workers {
        stage.launch(&name(slot), &json!({})).await?;
    }
    // Talks to the server itself: what it was told is the promise the audit holds the engine to.
    let direct = stage.url(Some("direct"))?;
    stage.launch("client", &json!({"role": "client", "database": direct})).await?;
    let client = stage.worker(Some("client"))?;
    client.call("queue", json!({"name": "load"})).await.map_err(|e| e.to_string())?;

    let mut random = Random::seeded(settings.seed ^ 0x5eed);
    let mut observer = Observer::default();
    let (mut pending, mut resumes): (std::collections::VecDeque<_>, Vec<(Instant, usize)>) = Default::default();
    let (mut started, mut faults) = (0usize, 0usize);
    let mut schedule = schedule(settings).into_iter().peekable();
    let (began, mut next_look, mut next_load) = (Instant::now(), Instant::now(), Instant::now());
    let mut failures = Vec::new();
    while began.elapsed() < Duration::from_secs(settings.seconds) {
        let now = began.elapsed().as_millis() as u64;
        resumes.retain(|(at, slot)| {
            let due = Instant::now() >= *at;
            if due && let Some(worker) = stage.workers.get_mut(&name(*slot)) {
                worker.resume();
            }
            !due
        });
        if let Some((_, fault)) = schedule.next_if(|(at, _)| *at <= now) {
            println!("{:>7.1} s  {fault:?}", now as f64 / 1000.0);
            strike(&mut stage, &fault, &mut resumes).await?;
            faults += 1;
            continue;
        }
        if Instant::now() >= next_load && pending.len() < IN_FLIGHT {
            let id = format!("r-{started}");
            let program = program(&mut random, started);
            let wants_mail = program.to_string().contains("mail");
            let client = stage.worker(Some("client"))?;
            let start = client.submit("start", json!({"id": id, "program": program, "options": {"queue": "load"}})).await;
            pending.push_back((id.clone(), start, wants_mail));
            started += 1;
            next_load = Instant::now() + Duration::from_millis(random.between(2, 25));
        }
        // Each start's answer, in its own time; mail goes to those that wait for it.
        while let Some((id, mut start, wants_mail)) = pending.pop_front() {
            match start.try_recv() {
                Ok(Ok(_)) if wants_mail => {
                    let client = stage.worker(Some("client"))?;
                    drop(client.submit("send", json!({"id": id, "topic": "mail", "message": format!("{id}#1"), "idempotency_key": "once"})).await);
                }
                Ok(Ok(_)) => {}
                Ok(Err(failure)) => failures.push(format!("start of {id}: {failure}")),
                Err(tokio::sync::oneshot::error::TryRecvError::Empty) => {
                    pending.push_front((id, start, wants_mail));
                    break;
                }
                Err(tokio::sync::oneshot::error::TryRecvError::Closed) => failures.push(format!("start of {id}: the client ended")),
            }
        }
        if Instant::now() >= next_look {
            // The server may be down; then there is nothing to see.
            if let Ok(mut database) = stage.audit_connection().await {
                drop(observer.look(&mut database).await);
            }
            next_look = Instant::now() + Duration::from_millis(700);
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    println!("{:>7.1} s  quiet", began.elapsed().as_secs_f64());
    quiet(&mut stage, settings, pending, &mut failures).await?;
    finish(&mut stage, settings, observer, started, faults, failures).await
}

fn names(languages: &[Language]) -> String {
    languages.iter().map(|l| l.name.as_str()).collect::<Vec<_>>().join(" ")
}

fn name(slot: usize) -> String {
    format!("w{slot}")
}

async fn strike(stage: &mut Stage, fault: &Fault, resumes: &mut Vec<(Instant, usize)>) -> Result<(), String> {
    let respawn = async |stage: &mut Stage, slot: usize| {
        let worker = stage.spawn(&name(slot), &json!({}), &[], None).await?;
        // It may take as long as the server is away; nobody waits for it here.
        drop(worker.submit("launch", json!({})).await);
        Ok::<(), String>(())
    };
    match fault {
        Fault::Kill(slot) => {
            resumes.retain(|(_, s)| s != slot);
            stage.kill(&name(*slot)).await?;
            respawn(stage, *slot).await
        }
        Fault::Pause(slot, ms) => {
            if let Some(worker) = stage.workers.get_mut(&name(*slot)) {
                worker.stop();
            }
            resumes.retain(|(_, s)| s != slot);
            resumes.push((Instant::now() + Duration::from_millis(*ms), *slot));
            Ok(())
        }
        Fault::Drain(slot) => {
            resumes.retain(|(_, s)| s != slot);
            if let Some(mut worker) = stage.workers.remove(&name(*slot)) {
                worker.resume();
                drop(worker.submit("close", json!({"deadline_ms": 1000})).await);
                // Its successor does not wait for it, as in a rolling deploy.
                tokio::spawn(async move {
                    if tokio::time::timeout(Duration::from_secs(10), worker.ended()).await.is_err() {
                        worker.kill().await;
                    }
                });
            }
            respawn(stage, *slot).await
        }
        Fault::Server(what) => tokio::task::block_in_place(|| stage.postgres(what)),
        Fault::CutAll => {
            if let Some(proxy) = &stage.proxy {
                proxy.cut_all();
            }
            Ok(())
        }
        Fault::Cut(action) => {
            if let Some(proxy) = &stage.proxy {
                proxy.rule(Rule::once("commit", action.clone()));
                proxy.rule(Rule::once("\".step", action.clone()));
            }
            Ok(())
        }
    }
}

type Started = (String, tokio::sync::oneshot::Receiver<Result<Value, crate::worker::Failure>>, bool);

/// No more faults: everything that was accepted must finish.
async fn quiet(stage: &mut Stage, settings: &Settings, pending: std::collections::VecDeque<Started>, failures: &mut Vec<String>) -> Result<(), String> {
    if let Some(proxy) = &stage.proxy {
        proxy.clear();
    }
    for slot in 0..settings.workers {
        let lives = stage.workers.get_mut(&name(slot)).is_some_and(|w| !w.has_ended());
        match stage.workers.get_mut(&name(slot)) {
            Some(worker) if lives => worker.resume(),
            _ => drop(stage.launch(&name(slot), &json!({})).await?),
        }
    }
    for (id, start, wants_mail) in pending {
        match tokio::time::timeout(QUIET, start).await {
            Ok(Ok(Ok(_))) if wants_mail => {
                let send = json!({"id": id, "topic": "mail", "message": format!("{id}#1"), "idempotency_key": "once"});
                stage.worker(Some("client"))?.call("send", send).await.map_err(|e| format!("mail to {id}: {e}"))?;
            }
            Ok(Ok(Ok(_))) => {}
            Ok(Ok(Err(failure))) => failures.push(format!("start of {id}: {failure}")),
            _ => failures.push(format!("start of {id} was never answered")),
        }
    }
    let unfinished = "select count(*) from {s}run where state < 5";
    let over = stage.until(unfinished, "0", QUIET).await;
    if let Err(why) = over {
        let mut database = stage.audit_connection().await?;
        let rows = database
            .rows(
                "select i.id_text, r.state, {id:r.owner}, r.inbox, r.epoch, i.workflow from {s}run r left join {s}run_info i on i.run_id = r.id \
                 where r.state < 5 limit 10",
            )
            .await
            .map_err(|e| e.to_string())?;
        for row in rows {
            failures.push(format!("unfinished: {row:?}"));
        }
        failures.push(format!("not everything finished in the quiet phase: {why}"));
    }
    Ok(())
}

async fn finish(
    stage: &mut Stage,
    settings: &Settings,
    mut observer: Observer,
    started: usize,
    faults: usize,
    mut failures: Vec<String>,
) -> Result<(), String> {
    let mut database = stage.audit_connection().await?;
    observer.look(&mut database).await.map_err(|e| e.to_string())?;
    // Two processes are asked for the same results: they must agree, and with the database.
    let mut random = Random::seeded(settings.seed ^ 0xa5c);
    for _ in 0..60.min(started) {
        let id = format!("r-{}", random.between(0, started as u64));
        for by in ["client".to_string(), name(0)] {
            if let Err(failure) = stage.result(Some(&by), &id, Duration::from_secs(20)).await {
                failures.push(format!("result of {id} by {by}: {failure}"));
            }
        }
    }
    let report = stage.audit(Expect { finished: true, timer_slack_ms: 10_000, money: 0 }).await?;
    println!("{report}");
    let blocked = database.number("select count(*) from {s}run where state in (5, 7)").await.map_err(|e| e.to_string())?;
    if blocked > 0 {
        failures.push(format!("{blocked} runs are blocked or failed; the load has no reason for either"));
    }
    failures.extend(observer.findings.iter().map(|f| format!("{}: {}", f.invariant, f.text)));
    println!(
        "chaos: seed {}, {faults} faults, {started} runs, {} samples, {} broken, {} other failures",
        settings.seed,
        observer.samples,
        report.findings.len() + observer.findings.len(),
        failures.len() - observer.findings.len()
    );
    if report.is_clean() && failures.is_empty() {
        return Ok(());
    }
    failures.truncate(30);
    Err(format!("{}\n{}", failures.join("\n"), stage.errors()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_a_schedule() {
        let of = |seed| schedule(&Settings { seconds: 60, seed, workers: 3, store: Store::Postgres });
        assert_eq!(of(1), of(1));
        assert_ne!(of(1), of(2));
        assert!(of(1).len() > 20);
        let sqlite = schedule(&Settings { seconds: 60, seed: 1, workers: 3, store: Store::Sqlite });
        assert!(sqlite.iter().all(|(_, f)| matches!(f, Fault::Kill(_) | Fault::Pause(..) | Fault::Drain(_))));
    }
}
