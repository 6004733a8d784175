//! What the SQLite store commits in a second, without an engine: `cargo run --release -p everstep --example sqlite_rate [directory]`.
//! Three lines: lone steps (one a batch), batches of 200 steps of 1,000 runs, and whole runs (start claimed, ten steps, outcome).

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use everstep::store::*;
use uuid::Uuid;

const ROUND: Duration = Duration::from_secs(5);
const RUNS: usize = 1000;
const BATCH: usize = 200;

type Failure = Box<dyn std::error::Error>;
type Done<T> = std::result::Result<T, Failure>;

fn token() -> i64 {
    (Uuid::new_v4().as_u64_pair().0 >> 1) as i64
}

fn start() -> NewRun {
    NewRun {
        key: Uuid::now_v7(),
        id_text: None,
        route: Route { id: 1, queue: String::new(), workflow: "rate".into(), label: String::new() },
        version: None,
        priority: 0,
        start: None,
        expires_ms: None,
        deadline_ms: None,
        input: Payload::json(vec![b'7'; 50]),
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
        claimed: true,
        claim_token: token(),
    }
}

fn step(run: RunKey, seq: i32) -> Write {
    let step = StepWrite {
        at: Position { segment: 0, branch: "".into(), seq },
        kind: 1,
        site: Site { id: 1, name: "step".into(), location: "rate.py:1".into() },
        digest: Some(1),
        failed: false,
        done: seq,
        seen: seq,
        attempt: 1,
        took_us: 10,
        token: token(),
        output: Payload::json(vec![b'7'; 100]),
        effects: Vec::new(),
    };
    Write::Step { run, epoch: 1, step: Box::new(step) }
}

fn outcome(run: RunKey) -> Write {
    Write::Outcome {
        run,
        epoch: 1,
        state: RunState::Succeeded,
        token: token(),
        value: Payload::json(vec![b'7'; 50]),
        error_type: None,
        error_message: None,
        then: None,
        children: false,
    }
}

async fn commit(store: &Arc<dyn Store>, me: Uuid, writes: &[Write]) -> Done<()> {
    for verdict in store.commit(0, Some(me), writes, false).await? {
        if !matches!(verdict, Verdict::Committed | Verdict::Started { claimed: true }) {
            return Err(format!("{verdict:?}").into());
        }
    }
    Ok(())
}

async fn starts(store: &Arc<dyn Store>, me: Uuid, n: usize) -> Done<Vec<RunKey>> {
    let runs: Vec<NewRun> = (0..n).map(|_| start()).collect();
    let keys = runs.iter().map(|r| r.key).collect();
    for chunk in runs.chunks(BATCH) {
        let writes: Vec<Write> = chunk.iter().map(|run| Write::Start(Box::new(run.clone()))).collect();
        commit(store, me, &writes).await?;
    }
    Ok(keys)
}

fn quantile(sorted: &[Duration], q: f64) -> f64 {
    sorted[((sorted.len() - 1) as f64 * q) as usize].as_secs_f64() * 1000.0
}

#[tokio::main]
async fn main() -> Done<()> {
    let directory = std::env::args().nth(1).map_or_else(std::env::temp_dir, PathBuf::from).join(format!("everstep-rate-{}", Uuid::new_v4().simple()));
    std::fs::create_dir_all(&directory)?;
    let config = StoreConfig {
        url: format!("sqlite:{}", directory.join("rate.db").display()),
        schema: "everstep".into(),
        namespace: "default".into(),
        lanes: 1,
        pool: 2,
        pooler: None,
        statement_timeout_ms: 30_000,
        beat_timeout_ms: 30_000,
        allow_async_commit: false,
        follow_up: |_, _| None,
    };
    let store = everstep::store::open(config)?;
    store.migrate().await?;
    let me = Uuid::new_v4();
    let worker = WorkerInfo {
        incarnation: me,
        lanes: 1,
        lease_ms: 600_000,
        host: "rate".into(),
        boot_id: "rate".into(),
        pid_namespace: String::new(),
        pid: 1,
        process_start: 1,
        build: String::new(),
        language: "rust".into(),
        queues: Vec::new(),
        environment: "rate".into(),
        protocol: 1,
        schema: SCHEMA_VERSION,
    };
    store.register(&worker).await?;

    let lone = starts(&store, me, 1).await?[0];
    let (mut times, begun) = (Vec::new(), Instant::now());
    while begun.elapsed() < ROUND {
        let one = Instant::now();
        commit(&store, me, &[step(lone, times.len() as i32)]).await?;
        times.push(one.elapsed());
    }
    times.sort_unstable();
    println!("lone step: {} in {:.1} s, p50 {:.3} ms, p99 {:.3} ms", times.len(), begun.elapsed().as_secs_f64(), quantile(&times, 0.5), quantile(&times, 0.99));

    let keys = starts(&store, me, RUNS).await?;
    let (mut n, begun) = (0, Instant::now());
    while begun.elapsed() < ROUND {
        let writes: Vec<Write> = (n..n + BATCH).map(|i| step(keys[i % RUNS], (i / RUNS) as i32)).collect();
        commit(&store, me, &writes).await?;
        n += BATCH;
    }
    println!("batches of {BATCH}: {:.0} steps/s", n as f64 / begun.elapsed().as_secs_f64());

    let (mut steps, mut runs, begun) = (0, 0, Instant::now());
    while begun.elapsed() < ROUND {
        let keys = starts(&store, me, RUNS).await?;
        for seq in 0..10 {
            for chunk in keys.chunks(BATCH) {
                let writes: Vec<Write> = chunk.iter().map(|run| step(*run, seq)).collect();
                commit(&store, me, &writes).await?;
                steps += chunk.len();
            }
        }
        for chunk in keys.chunks(BATCH) {
            let writes: Vec<Write> = chunk.iter().map(|run| outcome(*run)).collect();
            commit(&store, me, &writes).await?;
        }
        runs += keys.len();
    }
    let took = begun.elapsed().as_secs_f64();
    println!("whole runs of ten steps: {:.0} runs/s, {:.0} steps/s", runs as f64 / took, steps as f64 / took);

    store.deregister(me).await?;
    store.close().await;
    std::fs::remove_dir_all(directory)?;
    Ok(())
}
