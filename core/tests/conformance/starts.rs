//! Starting runs.

use std::sync::Arc;

use everstep::store::*;

use crate::bench::*;

fn named(id: &str) -> NewRun {
    NewRun { key: uuid::Uuid::new_v8(*blake(id).as_bytes()), id_text: Some(id.into()), ..new_run() }
}

fn blake(id: &str) -> uuid::Uuid {
    let fold = |seed: u64| id.bytes().fold(seed, |hash, byte| hash.wrapping_mul(0x0100_0000_01b3) ^ u64::from(byte));
    uuid::Uuid::from_u64_pair(fold(0xcbf2_9ce4_8422_2325), fold(0x9ae1_6a3b_2f90_404f))
}

pub async fn existing_id_attaches(bench: Arc<Bench>) {
    let worker = bench.worker().await;
    let run = NewRun { claimed: true, ..named("order-1") };
    let key = run.key;
    verdict!(worker.one(start(run.clone())).await, Verdict::Started { claimed: true });
    let other = NewRun { claimed: false, claim_token: token(), ..run.clone() };
    match worker.one(start(other.clone())).await {
        Verdict::Attached { run, state: RunState::Running, workflow } => assert_eq!((run, workflow.as_str()), (key, "checkout")),
        verdict => panic!("expected Attached, got {verdict:?}"),
    }
    verdict!(worker.one(outcome(key, 1)).await, Verdict::Committed);
    verdict!(bench.store.commit(0, None, &[start(other)], false).await.expect("commits").remove(0), Verdict::Attached { state: RunState::Succeeded, .. });
    // Both in one batch: the second attaches to the first.
    let (one, two) = (named("order-2"), NewRun { claim_token: token(), ..named("order-2") });
    let verdicts = worker.commit(&[start(one), start(two)]).await;
    verdict!(&verdicts[0], Verdict::Started { claimed: false });
    verdict!(&verdicts[1], Verdict::Attached { state: RunState::Ready, .. });
}

pub async fn conflicts_are_told(bench: Arc<Bench>) {
    let worker = bench.worker().await;
    let run = named("order-1");
    verdict!(worker.one(start(run.clone())).await, Verdict::Started { claimed: false });
    let elsewhere = NewRun { route: route_of("", "refund"), claim_token: token(), ..run.clone() };
    verdict!(worker.one(start(elsewhere)).await, Verdict::IdConflict { workflow, .. } if workflow == "checkout");
    let text = NewRun { id_text: Some("order-one".into()), claim_token: token(), ..run };
    verdict!(worker.one(start(text)).await, Verdict::IdConflict { id_text: Some(text), .. } if text == "order-1");
}

pub async fn tombstones_answer_purged(bench: Arc<Bench>) {
    let worker = bench.worker().await;
    let run = named("old");
    // Retention, which writes these, is not part of the store's contract yet.
    let helper = worker.own().await;
    let sql = if bench.is_postgres() {
        format!("insert into {}.tombstone (run_id, expires_at) values ('{}', now() + interval '1 hour')", bench.config.schema, run.key)
    } else {
        format!("insert into tombstone (run_id, expires_at) values (x'{}', {})", run.key.simple(), i64::MAX / 4)
    };
    let mut transaction = bench.store.begin(&site("work")).await.expect("begins");
    transaction.execute(&sql, &[]).await.expect("inserts");
    verdict!(transaction.commit(worker.id, helper, 1, &step(0)).await.expect("commits"), Verdict::Committed);

    verdict!(worker.one(start(run.clone())).await, Verdict::Purged);
    assert!(bench.store.find(run.key).await.expect("reads").is_none());
    verdict!(worker.one(start(NewRun { reuse_purged: true, ..run })).await, Verdict::Started { .. });
}

pub async fn born_claimed_needs_the_lease(bench: Arc<Bench>) {
    let nobody = Worker { store: bench.store.clone(), id: uuid::Uuid::new_v4() };
    let run = NewRun { claimed: true, ..new_run() };
    let batch = [start(run.clone()), start(new_run())];
    let verdicts = nobody.commit(&batch).await;
    verdict!(&verdicts[0], Verdict::Fenced);
    verdict!(&verdicts[1], Verdict::Started { claimed: false });
    assert!(bench.store.find(run.key).await.expect("reads").is_none());
}

pub async fn dedup_keys(bench: Arc<Bench>) {
    let worker = bench.worker().await;
    let keyed = |scope, policy| NewRun { dedup: Some(Dedup { key: "k".into(), scope, policy }), route: route_of("q", "checkout"), ..new_run() };
    let first = keyed(DedupScope::UntilDone, DedupPolicy::Attach);
    let key = first.key;
    verdict!(worker.one(start(first.clone())).await, Verdict::Started { .. });
    verdict!(worker.again(&[start(first)]).await.remove(0), Verdict::Started { .. });
    verdict!(worker.one(start(keyed(DedupScope::UntilDone, DedupPolicy::Attach))).await, Verdict::Attached { run, .. } if run == key);
    let refused = keyed(DedupScope::UntilDone, DedupPolicy::Reject);
    verdict!(worker.one(start(refused.clone())).await, Verdict::Deduplicated { run } if run == key);
    assert!(bench.store.find(refused.key).await.expect("reads").is_none());

    let replacing = keyed(DedupScope::UntilDone, DedupPolicy::Replace);
    let second = replacing.key;
    verdict!(worker.one(start(replacing)).await, Verdict::Started { .. });
    assert_eq!(bench.state(key).await, RunState::Cancelled);
    let claimed = worker.claim(&[route_of("q", "checkout")], 10).await;
    assert_eq!(claimed.iter().map(|run| run.key).collect::<Vec<_>>(), [second]);
    verdict!(worker.one(start(keyed(DedupScope::UntilDone, DedupPolicy::Replace))).await, Verdict::Deduplicated { run } if run == second);
    verdict!(worker.one(outcome(second, 1)).await, Verdict::Committed);

    // Queued: free again once a worker has it.
    let queued = keyed(DedupScope::Queued, DedupPolicy::Reject);
    let third = queued.key;
    verdict!(worker.one(start(queued)).await, Verdict::Started { .. });
    verdict!(worker.one(start(keyed(DedupScope::Queued, DedupPolicy::Reject))).await, Verdict::Deduplicated { .. });
    assert_eq!(worker.claim(&[route_of("q", "checkout")], 10).await[0].key, third);
    let fourth = keyed(DedupScope::Ttl(1), DedupPolicy::Reject);
    verdict!(worker.one(start(fourth)).await, Verdict::Started { .. });
    until("the key's time is over", || async {
        matches!(worker.one(start(keyed(DedupScope::Ttl(60_000), DedupPolicy::Reject))).await, Verdict::Started { .. }).then_some(())
    })
    .await;
    verdict!(worker.one(start(keyed(DedupScope::Ttl(1), DedupPolicy::Reject))).await, Verdict::Deduplicated { .. });
}

pub async fn children_are_recorded(bench: Arc<Bench>) {
    let worker = bench.worker().await;
    let parent = worker.own().await;
    let child = |policy| NewRun { parent: Some(Parent { run: parent, root: parent, policy }), ..new_run() };
    let (kept, left) = (child(ClosePolicy::Cancel), child(ClosePolicy::Abandon));
    let keys = (kept.key, left.key);
    let effects = vec![Effect::StartChild(Box::new(kept)), Effect::StartChild(Box::new(left))];
    verdict!(worker.one(record(parent, 1, with(effects, step(0)))).await, Verdict::Committed);
    assert!(bench.store.open_children(parent, 10).await.expect("reads").is_empty(), "its parent goes on: it is wanted");
    let detail = bench.find(keys.0).await.summary;
    assert_eq!((detail.parent, detail.root, detail.state), (Some(parent), parent, RunState::Ready));
    let listed = bench.store.list(&RunFilter { parent: Some(parent), limit: 10, ..RunFilter::default() }).await.expect("lists");
    assert_eq!(listed.len(), 2);
    // The end leaves a timer for the child that is to end with it; nobody else takes it on for a while; gone when no child is left.
    verdict!(worker.one(outcome_of_parent(parent)).await, Verdict::Committed);
    assert!(worker.tick(&[]).await.closing.is_empty(), "whoever ended the parent has its time first");
    assert_eq!(bench.store.open_children(parent, 10).await.expect("reads"), [keys.0]);
    bench.store.cancel(keys.0, "test", "parent ended", 1000).await.expect("cancels");
    assert!(bench.store.open_children(parent, 10).await.expect("reads").is_empty());
    bench.store.children_closed(parent).await.expect("deletes");
}

/// No record tells of them any more, and they end with their parent all the same.
pub async fn children_that_a_rewind_has_forgotten(bench: Arc<Bench>) {
    let worker = bench.worker().await;
    let (parent, childless) = (worker.own().await, worker.own().await);
    let child = NewRun { parent: Some(Parent { run: parent, root: parent, policy: ClosePolicy::Cancel }), ..new_run() };
    let key = child.key;
    verdict!(worker.one(record(parent, 1, with(vec![Effect::StartChild(Box::new(child))], step(0)))).await, Verdict::Committed);
    verdict!(worker.one(record(childless, 1, step(0))).await, Verdict::Committed);
    for run in [parent, childless] {
        assert_eq!(bench.store.rewind(run, &at(0), false, "ops").await.expect("answers"), ControlVerdict::Done);
    }
    let claimed = worker.claim(&[route()], 10).await;
    let of = |key: RunKey| claimed.iter().find(|run| run.key == key).map(|run| (run.steps.len(), run.has_children));
    assert_eq!((of(parent), of(childless), of(key)), (Some((0, true)), Some((0, false)), Some((0, false))));
}

/// A parent that nobody's code ends (its time to start or its time for clean-up was over) leaves its children to the next tick.
pub async fn children_of_a_run_ended_by_time_are_seen(bench: Arc<Bench>) {
    let worker = bench.worker().await;
    let parent = worker.own().await;
    let child = NewRun { parent: Some(Parent { run: parent, root: parent, policy: ClosePolicy::Cancel }), ..new_run() };
    let key = child.key;
    verdict!(worker.one(record(parent, 1, with(vec![Effect::StartChild(Box::new(child))], step(0)))).await, Verdict::Committed);
    verdict!(worker.one(Write::Release { run: parent, epoch: 1, inbox: 0, due: None }).await, Verdict::Committed);
    assert_eq!(bench.store.cancel(parent, "ops", "now", 1).await.expect("answers"), ControlVerdict::Requested);
    until("its time for clean-up is over and its children are to be closed", || async { worker.tick(&[]).await.closing.contains(&parent).then_some(()) }).await;
    assert_eq!(bench.state(parent).await, RunState::Cancelled);
    assert_eq!(bench.store.open_children(parent, 10).await.expect("reads"), [key]);
    assert!(worker.tick(&[]).await.closing.is_empty(), "taken on: nobody else does for a while");
}
