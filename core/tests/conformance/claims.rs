//! Claiming: order, bounds, limits.

use std::sync::Arc;

use everstep::store::*;

use crate::bench::*;

fn queue(name: &str) -> Queue {
    Queue { name: name.into(), paused: false, limit: None, worker_limit: None, key_limit: None, hold: false, rate: None, operator: false }
}

async fn enqueue(worker: &Worker, route: &Route, of: impl Fn(&mut NewRun)) -> RunKey {
    let mut run = NewRun { route: route.clone(), ..new_run() };
    of(&mut run);
    let key = run.key;
    verdict!(worker.one(start(run)).await, Verdict::Started { claimed: false });
    key
}

pub async fn in_order_and_bounded(bench: Arc<Bench>) {
    let worker = bench.worker().await;
    let (one, two, foreign) = (route_of("q", "one"), route_of("q", "two"), route_of("q", "three"));
    let low = enqueue(&worker, &one, |run| run.priority = 5).await;
    let first = enqueue(&worker, &one, |_| ()).await;
    let second = enqueue(&worker, &two, |_| ()).await;
    let urgent = enqueue(&worker, &two, |run| run.priority = -1).await;
    enqueue(&worker, &foreign, |_| ()).await;
    let routes = [one, two];
    let mut order = Vec::new();
    for _ in 0..4 {
        let claimed = worker.claim(&routes, 1).await;
        assert_eq!(claimed.len(), 1);
        assert_eq!((claimed[0].epoch, claimed[0].state, claimed[0].steps.len()), (1, RunState::Running, 0));
        order.push(claimed[0].key);
    }
    assert_eq!(order, [urgent, first, second, low]);
    assert!(worker.claim(&routes, 10).await.is_empty(), "another's workflow is not ours");
    assert!(worker.claim(&routes, 0).await.is_empty());
    let owned = worker.store.owned(worker.id).await.expect("reads");
    assert!(owned.len() == 4 && owned.iter().all(|now| now.mine && now.claim_token != 0));
}

pub async fn every_queue_has_its_turn(bench: Arc<Bench>) {
    let worker = bench.worker().await;
    let (long, short) = (route_of("long", "job"), route_of("short", "job"));
    let backlog: Vec<Write> = (0..300).map(|_| start(NewRun { route: long.clone(), ..new_run() })).collect();
    worker.commit(&backlog).await;
    let lone = enqueue(&worker, &short, |_| ()).await;
    let claimed = worker.claim(&[long, short], 2).await;
    assert!(claimed.iter().any(|run| run.key == lone), "a backlog of one queue holds up no other");
}

/// A queue with a limit is claimed by itself, and has its turn all the same. SQLite asks all in one look, and goes by age where there is not room for
/// one of each.
pub async fn limited_queues_have_their_turn(bench: Arc<Bench>) {
    if !bench.is_postgres() {
        return;
    }
    let worker = bench.worker().await;
    let routes = ["a_long", "b_long", "short"].map(|name| route_of(name, "job"));
    for name in ["b_long", "short"] {
        bench.store.put_queue(&Queue { limit: Some(1000), ..queue(name) }, false).await.expect("puts");
    }
    let backlog = |route: &Route| (0..50).map(|_| start(NewRun { route: route.clone(), ..new_run() })).collect::<Vec<_>>();
    worker.commit(&[backlog(&routes[0]), backlog(&routes[1])].concat()).await;
    for max in [1, 2] {
        let lone = enqueue(&worker, &routes[2], |_| ()).await;
        let mut claimed = Vec::new();
        for _ in 0..6 {
            claimed.extend(worker.claim(&routes, max).await);
        }
        assert_eq!(claimed.len() as i64, 6 * max, "what one queue does not use another does");
        assert!(claimed.iter().any(|run| run.key == lone), "backlogs of others hold nobody up");
        let of = |name: &str| claimed.iter().filter(|run| run.route.queue == name).count();
        assert!(of("a_long") > 1 && of("b_long") > 1, "nor a backlog another");
    }
    let rest = worker.claim(&routes, 200).await.len() as i64;
    assert_eq!(rest, 100 + 2 - 6 - 12, "a claim takes all it has room for");
    let own = |held: i32| ClaimRequest {
        incarnation: worker.id,
        claim_token: token(),
        routes: vec![routes[1].clone(), routes[2].clone()],
        max: 10,
        held_by_queue: vec![("short".into(), held)],
    };
    bench.store.put_queue(&Queue { worker_limit: Some(6), ..queue("short") }, false).await.expect("puts");
    worker.commit(&backlog(&routes[2])).await;
    assert_eq!(bench.store.claim(&own(0)).await.expect("claims").len(), 6, "a second helping counts the first");
}

/// A queue that holds is a mutex: who has a slot keeps it until the end, and comes back to it whatever the counts say.
pub async fn a_held_slot_is_kept(bench: Arc<Bench>) {
    let (mut worker, judge) = (bench.worker().await, bench.worker().await);
    let routes = [route_of("one", "job"), route_of("keyed", "job")];
    bench.store.put_queue(&Queue { limit: Some(1), hold: true, ..queue("one") }, false).await.expect("puts");
    bench.store.put_queue(&Queue { key_limit: Some(1), hold: true, ..queue("keyed") }, false).await.expect("puts");
    for route in &routes {
        let keyed = |run: &mut NewRun| run.fairness_key = Some("a".into());
        let run = enqueue(&worker, route, keyed).await;
        let next = enqueue(&worker, route, keyed).await;
        let claim = || {
            let (worker, route) = (worker.clone(), route.clone());
            async move {
                let claimed = worker.claim(&[route], 10).await;
                assert!(claimed.iter().all(|claimed| claimed.key == run), "another got past it");
                claimed.into_iter().next()
            }
        };
        let first = claim().await.expect("the first");
        verdict!(worker.one(record(run, first.epoch, step(0))).await, Verdict::Committed);
        verdict!(worker.one(Write::GiveBack { run, epoch: first.epoch }).await, Verdict::Committed);
        let back = claim().await.expect("given back, and taken again");
        verdict!(worker.one(Write::Release { run, epoch: back.epoch, inbox: back.inbox, due: None }).await, Verdict::Committed);
        assert!(claim().await.is_none(), "it waits");
        verdict!(worker.one(Write::Send(message(run, "t", "1"))).await, Verdict::Committed);
        let woken = claim().await.expect("woken");
        let retry = |epoch, after_ms| Write::RetryRun { run, epoch, after_ms, attempt: 1, token: token(), error: Payload::json(b"{}".to_vec()) };
        verdict!(worker.one(retry(woken.epoch, 60_000)).await, Verdict::Committed);
        assert!(claim().await.is_none(), "it is to be tried again in a minute");
        assert_eq!(bench.store.rewind(run, &at(0), false, "ops").await.expect("answers"), ControlVerdict::Done);
        claim().await.expect("rewound");
        judge.tick(&[worker.id]).await;
        worker = bench.worker().await;
        let claimed = worker.claim(std::slice::from_ref(route), 10).await;
        assert_eq!(claimed.iter().map(|run| run.key).collect::<Vec<_>>(), [run], "taken over from the dead");
        bench.store.deregister(worker.id).await.expect("deregisters");
        worker = bench.worker().await;
        let claimed = worker.claim(std::slice::from_ref(route), 10).await;
        assert_eq!(claimed.iter().map(|run| run.key).collect::<Vec<_>>(), [run], "handed over");
        let block = Write::Block { run, epoch: claimed[0].epoch, why: "{\"code\":\"poisoned\"}".into() };
        verdict!(worker.one(block).await, Verdict::Committed);
        let claimed = worker.claim(std::slice::from_ref(route), 10).await;
        assert_eq!(claimed.iter().map(|run| run.key).collect::<Vec<_>>(), [next], "who is blocked lets go");
        verdict!(worker.one(outcome(next, claimed[0].epoch)).await, Verdict::Committed);
        assert_eq!(bench.store.resume(run, "ops").await.expect("answers"), ControlVerdict::Done);
        let last = worker.claim(std::slice::from_ref(route), 10).await.remove(0);
        verdict!(worker.one(outcome(run, last.epoch)).await, Verdict::Committed);
        enqueue(&worker, route, keyed).await;
        assert_eq!(worker.claim(std::slice::from_ref(route), 10).await.len(), 1, "an end frees it");
    }
}

pub async fn history_comes_along(bench: Arc<Bench>) {
    let worker = bench.worker().await;
    let run = worker.own().await;
    let total = HISTORY_PAGE as i32 + 5;
    for chunk in (0..total).collect::<Vec<_>>().chunks(250) {
        let batch: Vec<Write> = chunk.iter().map(|seq| record(run, 1, step(*seq))).collect();
        assert!(worker.commit(&batch).await.iter().all(|verdict| matches!(verdict, Verdict::Committed)));
    }
    let branch = StepWrite { at: Position { segment: 0, branch: "/3/0".into(), seq: 0 }, ..step(total) };
    verdict!(worker.one(record(run, 1, branch)).await, Verdict::Committed);
    verdict!(worker.one(attempt(run, 1, total + 1, 1, false)).await, Verdict::Committed);
    verdict!(worker.one(Write::GiveBack { run, epoch: 1 }).await, Verdict::Committed);
    let claimed = worker.claim(&[route()], 1).await.remove(0);
    assert_eq!((claimed.epoch, claimed.crashes, claimed.steps.len() as i64, claimed.more_steps), (3, 0, HISTORY_PAGE, true));
    assert_eq!(claimed.attempts.len(), 1);
    let last = claimed.steps.last().expect("a full page").at.clone();
    let (rest, more) = worker.store.history(run, 0, &last).await.expect("reads");
    assert_eq!((rest.len(), more), (6, false));
    let mut all: Vec<Position> = claimed.steps.iter().chain(&rest).map(|record| record.at.clone()).collect();
    let sorted = {
        let mut copy = all.clone();
        copy.sort();
        copy
    };
    assert_eq!(all, sorted);
    all.dedup();
    assert_eq!(all.len(), total as usize + 1);
    let viewed = worker.store.steps(run, Some(&last), 3).await.expect("reads");
    assert_eq!(viewed.len(), 3);
    assert_eq!((viewed[0].host.as_deref(), viewed[0].pid), (Some("host"), Some(42)));
}

pub async fn queue_limits_hold(bench: Arc<Bench>) {
    let (one, two) = (bench.worker().await, Worker::register(bench.another(), 60_000).await);
    let route = route_of("q", "job");
    bench.store.put_queue(&Queue { limit: Some(3), worker_limit: Some(2), ..queue("q") }, false).await.expect("puts");
    for _ in 0..8 {
        enqueue(&one, &route, |_| ()).await;
    }
    let routes = [route.clone()];
    let held = |worker: &Worker, held: i32| ClaimRequest {
        incarnation: worker.id,
        claim_token: token(),
        routes: routes.to_vec(),
        max: 10,
        held_by_queue: vec![("q".into(), held)],
    };
    let first = one.store.claim(&held(&one, 0)).await.expect("claims");
    assert_eq!(first.len(), 2, "a worker's own limit");
    assert_eq!(one.store.claim(&held(&one, 2)).await.expect("claims").len(), 0);
    let second = two.store.claim(&held(&two, 0)).await.expect("claims");
    assert_eq!(second.len(), 1, "the fleet's limit");
    verdict!(one.one(outcome(first[0].key, first[0].epoch)).await, Verdict::Committed);
    verdict!(one.one(Write::Release { run: first[1].key, epoch: first[1].epoch, inbox: first[1].inbox, due: None }).await, Verdict::Committed);
    assert_eq!(two.store.claim(&held(&two, 0)).await.expect("claims").len(), 2, "an end and a release give their slots back");
    verdict!(one.one(Write::Send(message(first[1].key, "t", "1"))).await, Verdict::Committed);
    assert_eq!(one.store.claim(&held(&one, 0)).await.expect("claims").len(), 0);
    verdict!(two.one(outcome(second[0].key, second[0].epoch)).await, Verdict::Committed);
    let woken = one.store.claim(&held(&one, 0)).await.expect("claims");
    assert_eq!(woken.iter().map(|run| run.key).collect::<Vec<_>>(), [first[1].key], "a woken run takes a slot ahead of new work");
}

pub async fn key_limits_hold(bench: Arc<Bench>) {
    let worker = bench.worker().await;
    let route = route_of("q", "job");
    bench.store.put_queue(&Queue { key_limit: Some(1), ..queue("q") }, false).await.expect("puts");
    let batch: Vec<Write> = (0..5000).map(|_| start(NewRun { route: route.clone(), fairness_key: Some("big".into()), ..new_run() })).collect();
    for chunk in batch.chunks(500) {
        worker.commit(chunk).await;
    }
    let small = enqueue(&worker, &route, |run| run.fairness_key = Some("small".into())).await;
    let claimed = worker.claim(std::slice::from_ref(&route), 10).await;
    assert_eq!(claimed.len(), 2);
    assert!(claimed.iter().any(|run| run.key == small), "one key's backlog does not hide another's");
    let free = enqueue(&worker, &route, |_| ()).await;
    assert_eq!(worker.claim(std::slice::from_ref(&route), 10).await.iter().map(|run| run.key).collect::<Vec<_>>(), [free], "no key, no limit");
}

pub async fn paused_queues_wait(bench: Arc<Bench>) {
    let worker = bench.worker().await;
    let route = route_of("q", "job");
    let paused = bench.store.put_queue(&Queue { paused: true, ..queue("q") }, true).await.expect("puts");
    assert!(paused.paused && paused.operator);
    let run = enqueue(&worker, &route, |_| ()).await;
    assert!(worker.claim(std::slice::from_ref(&route), 10).await.is_empty());
    // Code does not undo what an operator did.
    assert!(bench.store.put_queue(&queue("q"), false).await.expect("puts").paused);
    bench.store.put_queue(&queue("q"), true).await.expect("puts");
    assert_eq!(worker.claim(&[route], 10).await[0].key, run);
}

pub async fn a_pause_changes_nothing_else_of_a_queue(bench: Arc<Bench>) {
    let limited = Queue { limit: Some(7), hold: true, ..queue("q") };
    bench.store.put_queue(&limited, false).await.expect("puts");
    for paused in [true, false] {
        let now = bench.store.pause_queue("q", paused).await.expect("pauses").expect("is there");
        assert_eq!(now, Queue { paused, operator: true, ..limited.clone() });
    }
    assert!(bench.store.pause_queue("p", true).await.expect("reads").is_none());
}

pub async fn delayed_and_expired(bench: Arc<Bench>) {
    let worker = bench.worker().await;
    let route = route_of("q", "job");
    let far = enqueue(&worker, &route, |run| run.start = Some(Due::After(3_600_000))).await;
    let soon = enqueue(&worker, &route, |run| run.start = Some(Due::After(1))).await;
    let stale = enqueue(&worker, &route, |run| run.expires_ms = Some(1)).await;
    let taken = NewRun { claimed: true, expires_ms: Some(1), ..new_run() };
    let taken_key = taken.key;
    verdict!(worker.one(start(taken)).await, Verdict::Started { claimed: true });
    until("both timers fire", || async {
        worker.tick(&[]).await;
        (bench.state(stale).await == RunState::Cancelled).then_some(())
    })
    .await;
    assert_eq!(bench.find(stale).await.summary.error_type.as_deref(), Some("Expired"));
    assert_eq!(bench.state(taken_key).await, RunState::Running);
    let claimed = until("the delay is over", || async {
        worker.tick(&[]).await;
        let claimed = worker.claim(std::slice::from_ref(&route), 10).await;
        (!claimed.is_empty()).then_some(claimed)
    })
    .await;
    assert_eq!(claimed.iter().map(|run| (run.key, run.epoch)).collect::<Vec<_>>(), [(soon, 1)]);
    assert_eq!(bench.state(far).await, RunState::Ready);
    assert!(bench.find(far).await.summary.start_at.is_some());
    bench.store.cancel(far, "test", "no more", 1000).await.expect("cancels");
    assert_eq!(worker.tick(&[]).await.next_timer_ms, None);
}

/// What runs when its queue gets a limit counts as what comes after.
pub async fn a_limit_counts_what_already_runs(bench: Arc<Bench>) {
    let worker = bench.worker().await;
    let route = route_of("q", "job");
    bench.store.put_queue(&queue("q"), false).await.expect("puts");
    for _ in 0..5 {
        enqueue(&worker, &route, |_| {}).await;
    }
    let running = worker.claim(std::slice::from_ref(&route), 3).await;
    assert_eq!(running.len(), 3);
    bench.store.put_queue(&Queue { limit: Some(2), ..queue("q") }, false).await.expect("puts");
    let another = Worker::register(bench.another(), 60_000).await;
    assert_eq!(another.claim(std::slice::from_ref(&route), 10).await.len(), 0, "three run where two may");
    verdict!(worker.one(outcome(running[0].key, 1)).await, Verdict::Committed);
    assert_eq!(another.claim(std::slice::from_ref(&route), 10).await.len(), 0, "two run");
    verdict!(worker.one(outcome(running[1].key, 1)).await, Verdict::Committed);
    assert_eq!(another.claim(std::slice::from_ref(&route), 10).await.len(), 1);
    // Said again, it counts nobody twice.
    bench.store.put_queue(&Queue { limit: Some(3), ..queue("q") }, false).await.expect("puts");
    let another = Worker::register(bench.another(), 60_000).await;
    assert_eq!(another.claim(std::slice::from_ref(&route), 10).await.len(), 1);
}

/// Timers are fired by whoever comes by; what follows a run belongs where the run does.
pub async fn what_follows_stays_in_its_namespace(bench: Arc<Bench>) {
    fn follow(namespace: &str, _: &Ended) -> Option<NewRun> {
        Some(NewRun { route: route_of("", &format!("after in {namespace}")), ..new_run() })
    }
    let config = StoreConfig { namespace: "another".into(), follow_up: follow, ..bench.config.clone() };
    let here = bench.worker().await;
    let there = Worker::register(open(config).expect("the URL is good"), 60_000).await;
    let run = enqueue(&here, &route_of("q", "job"), |run| {
        run.expires_ms = Some(1);
        run.options = Some("{}".into());
    })
    .await;
    until("the other one ends it", || async {
        there.tick(&[]).await;
        (bench.state(run).await == RunState::Cancelled).then_some(())
    })
    .await;
    let listed = |store: Arc<dyn Store>| async move {
        let page = store.list(&RunFilter { workflow: Some("after in default".into()), limit: 10, ..RunFilter::default() }).await.expect("lists");
        page.len()
    };
    assert_eq!((listed(here.store.clone()).await, listed(there.store.clone()).await), (1, 0));
    assert_eq!(here.claim(&[route_of("", "after in default")], 10).await.len(), 1);
}

pub async fn given_back_first(bench: Arc<Bench>) {
    let worker = bench.worker().await;
    let run = worker.own().await;
    let fresh = enqueue(&worker, &route(), |run| run.priority = -100).await;
    verdict!(worker.one(Write::GiveBack { run, epoch: 1 }).await, Verdict::Committed);
    assert_eq!(worker.claim(&[route()], 1).await[0].key, run);
    assert_eq!(worker.claim(&[route()], 1).await[0].key, fresh);
}

pub async fn queues_change(bench: Arc<Bench>) {
    let worker = bench.worker().await;
    let before = worker.tick(&[]).await.queue_version;
    bench.store.put_queue(&Queue { rate: Some((5, 1000)), hold: true, ..queue("a") }, false).await.expect("puts");
    bench.store.put_queue(&queue("b"), false).await.expect("puts");
    let after = worker.tick(&[]).await.queue_version;
    assert!(after > before);
    bench.store.put_queue(&queue("b"), false).await.expect("puts");
    assert_eq!(worker.tick(&[]).await.queue_version, after, "nothing changed");
    bench.store.put_queue(&Queue { limit: Some(1), ..queue("b") }, false).await.expect("puts");
    assert!(worker.tick(&[]).await.queue_version > after);
    let queues = bench.store.queues().await.expect("reads");
    assert_eq!(queues.iter().map(|queue| queue.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!((queues[0].rate, queues[0].hold, queues[1].limit), (Some((5, 1000)), true, Some(1)));
}
