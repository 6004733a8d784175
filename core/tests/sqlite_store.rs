//! What only the SQLite store has to show, beside the conformance suite both stores pass.

use std::sync::Arc;

use everstep::store::*;
use uuid::Uuid;

fn open(url: &str) -> Arc<dyn Store> {
    let config = StoreConfig {
        url: url.into(),
        schema: "everstep".into(),
        namespace: "default".into(),
        lanes: 1,
        pool: 2,
        pooler: None,
        statement_timeout_ms: 30_000,
        allow_async_commit: false,
    };
    everstep::store::open(config).expect("the URL is good")
}

fn worker(incarnation: Uuid) -> WorkerInfo {
    WorkerInfo {
        incarnation,
        lanes: 1,
        lease_ms: 10_000,
        host: "host".into(),
        boot_id: "boot".into(),
        pid_namespace: "ns".into(),
        pid: 1,
        process_start: 1,
        build: "1".into(),
        language: "rust".into(),
        queues: Vec::new(),
        environment: "test".into(),
        protocol: 1,
        schema: 1,
    }
}

fn route() -> Route {
    Route { id: 7, queue: String::new(), workflow: "checkout".into(), label: String::new() }
}

fn new_run(claimed: bool) -> NewRun {
    NewRun {
        key: Uuid::now_v7(),
        id_text: None,
        route: route(),
        version: None,
        priority: 0,
        start: None,
        expires_ms: None,
        deadline_ms: None,
        input: Payload::json(b"1".to_vec()),
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
        claimed,
        claim_token: token(),
    }
}

fn token() -> i64 {
    (Uuid::new_v4().as_u64_pair().0 >> 1) as i64
}

fn step(seq: i32) -> StepWrite {
    StepWrite {
        at: Position { segment: 0, branch: "".into(), seq },
        kind: 1,
        site: Site { id: 11, name: "charge".into(), location: "app.py:3".into() },
        digest: Some(5),
        failed: false,
        done: seq,
        seen: seq,
        attempt: 1,
        took_us: 10,
        token: token(),
        output: Payload::json(b"{}".to_vec()),
        effects: Vec::new(),
    }
}

async fn ready_store(url: &str) -> (Arc<dyn Store>, Uuid) {
    let store = open(url);
    store.migrate().await.expect("migrate");
    let me = Uuid::new_v4();
    store.register(&worker(me)).await.expect("register");
    (store, me)
}

#[tokio::test]
async fn smoke() {
    let (store, me) = ready_store("sqlite::memory:").await;
    let run = new_run(true);
    let key = run.key;
    let verdicts = store.commit(0, Some(me), &[Write::Start(Box::new(run))], false).await.unwrap();
    assert!(matches!(verdicts[..], [Verdict::Started { claimed: true }]), "{verdicts:?}");
    let first = step(0);
    let write = [Write::Step { run: key, epoch: 1, step: Box::new(first.clone()) }];
    assert!(matches!(store.commit(0, Some(me), &write, false).await.unwrap()[..], [Verdict::Committed]));
    assert!(matches!(store.commit(0, Some(me), &write, true).await.unwrap()[..], [Verdict::Committed]));
    let other = [Write::Step { run: key, epoch: 1, step: Box::new(step(0)) }, Write::Step { run: key, epoch: 1, step: Box::new(step(1)) }];
    let verdicts = store.commit(0, Some(me), &other, false).await.unwrap();
    match &verdicts[..] {
        [Verdict::Adopt(record), Verdict::Committed] => assert_eq!((record.token, &*record.site.name), (first.token, "charge")),
        other => panic!("{other:?}"),
    }
    let queued = new_run(false);
    let queued_key = queued.key;
    store.commit(0, None, &[Write::Start(Box::new(queued))], false).await.unwrap();
    let request = ClaimRequest { incarnation: me, claim_token: 9, routes: vec![route()], max: 10, held_by_queue: Vec::new() };
    let claimed = store.claim(&request).await.unwrap();
    assert_eq!(claimed.len(), 1);
    assert_eq!((claimed[0].key, claimed[0].epoch), (queued_key, 1));
    let outcome = Write::Outcome {
        run: key,
        epoch: 1,
        state: RunState::Succeeded,
        token: token(),
        value: Payload::json(b"2".to_vec()),
        error_type: None,
        error_message: None,
        then: None,
    };
    assert!(matches!(store.commit(0, Some(me), &[outcome], false).await.unwrap()[..], [Verdict::Committed]));
    assert!(matches!(store.outcomes(&[key]).await.unwrap()[..], [(_, WaitAnswer::Result { state: RunState::Succeeded, .. })]));
    assert_eq!(store.list(&RunFilter { limit: 10, ..RunFilter::default() }).await.unwrap().len(), 2);
    assert_eq!(store.find(key).await.unwrap().unwrap().steps_recorded, 2);
    store.deregister(me).await.unwrap();
    let detail = store.find(queued_key).await.unwrap().unwrap();
    assert_eq!(detail.summary.state, RunState::Ready);
}
