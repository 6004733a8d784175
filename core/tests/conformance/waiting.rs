//! Waits, wakes and the release in between.

use std::sync::Arc;

use everstep::store::*;
use uuid::Uuid;

use crate::bench::*;

async fn inbox(worker: &Worker, run: RunKey) -> i32 {
    worker.store.recheck(worker.id, &[run]).await.expect("reads")[0].inbox
}

async fn waits_of(worker: &Worker, run: RunKey) -> Vec<OpenWait> {
    worker.store.load(worker.id, &[run]).await.expect("loads").remove(0).waits
}

pub async fn message_before_and_after(bench: Arc<Bench>) {
    let worker = bench.worker().await;
    let run = worker.own().await;
    let (first, second) = (message(run, "t", "1"), message(run, "t", "2"));
    let ids = (first.id, second.id);
    verdict!(worker.one(Write::Send(first.clone())).await, Verdict::Committed);
    for seq in 0..3 {
        verdict!(worker.one(wait(run, 1, seq, WaitKind::Receive, None, if seq < 2 { "t" } else { "u" }, None)).await, Verdict::Opened { .. });
    }
    verdict!(worker.one(Write::Send(second)).await, Verdict::Committed);
    let waits = waits_of(&worker, run).await;
    let answers = worker.store.answer_waits(run, &waits).await.expect("answers");
    match (&answers[0], &answers[1], &answers[2]) {
        (WaitAnswer::Message(a), WaitAnswer::Message(b), WaitAnswer::Nothing) => {
            assert_eq!((a.id, a.value.data.as_slice(), b.id), (ids.0, b"1".as_slice(), ids.1));
        }
        other => panic!("expected two messages in order, got {other:?}"),
    }
    // The same id is the same message, and wakes nobody.
    let before = inbox(&worker, run).await;
    assert_eq!(before, 2);
    verdict!(worker.one(Write::Send(NewMessage { token: token(), ..first })).await, Verdict::Committed);
    assert_eq!(inbox(&worker, run).await, before);
    let taken = with(vec![Effect::Consume { message: ids.0 }, Effect::CloseWait, Effect::CloseWaitOf(at(2))], step(0));
    verdict!(worker.one(record(run, 1, taken)).await, Verdict::Committed);
    let waits = waits_of(&worker, run).await;
    assert_eq!(waits.iter().map(|wait| wait.at.seq).collect::<Vec<_>>(), [1]);
    match &worker.store.answer_waits(run, &waits).await.expect("answers")[0] {
        WaitAnswer::Message(message) => assert_eq!(message.id, ids.1),
        other => panic!("expected the second message, got {other:?}"),
    }
    assert_eq!(bench.find(run).await.messages_pending, 1);
}

pub async fn events_wake_their_waiters(bench: Arc<Bench>) {
    let (here, there) = (bench.worker().await, bench.worker().await);
    let (publisher, waiter) = (here.own().await, there.own().await);
    verdict!(there.one(wait(waiter, 1, 0, WaitKind::Event, Some(publisher), "paid", None)).await, Verdict::Opened { .. });
    verdict!(there.one(wait(waiter, 1, 1, WaitKind::Event, Some(publisher), "shipped", None)).await, Verdict::Opened { .. });
    let before = inbox(&there, waiter).await;
    let set = |value: &str| Effect::SetEvent { key: "paid".into(), value: Payload::json(value.as_bytes().to_vec()) };
    verdict!(here.one(record(publisher, 1, with(vec![set("1")], step(0)))).await, Verdict::Committed);
    assert_eq!(inbox(&there, waiter).await, before + 1);
    verdict!(here.one(record(publisher, 1, with(vec![set("2")], step(1)))).await, Verdict::Committed);
    let waits = waits_of(&there, waiter).await;
    let answers = there.store.answer_waits(waiter, &waits).await.expect("answers");
    verdict!(&answers[0], WaitAnswer::Event(value) if value.data == b"2");
    verdict!(&answers[1], WaitAnswer::Nothing);
    let nobody = Uuid::now_v7();
    let wanted = [(publisher, "paid".to_string()), (publisher, "none".to_string()), (nobody, "none".to_string())];
    let mut found = bench.store.events(&wanted).await.expect("reads");
    found.sort_by(|a, b| a.1.cmp(&b.1));
    verdict!(&found[..], [(_, none, WaitAnswer::NotFound), (_, paid, WaitAnswer::Event(value))] if none == "none" && paid == "paid" && value.data == b"2");

    // Once the run has ended what it has not published never comes: who waits hears of it, here and released.
    let before = inbox(&there, waiter).await;
    let released = there.own().await;
    verdict!(there.one(wait(released, 1, 0, WaitKind::Event, Some(publisher), "never", None)).await, Verdict::Opened { .. });
    let seen = inbox(&there, released).await;
    verdict!(there.one(Write::Release { run: released, epoch: 1, inbox: seen, due: None }).await, Verdict::Committed);
    verdict!(here.one(outcome_of(publisher, 1, RunState::Succeeded)).await, Verdict::Committed);
    assert!(inbox(&there, waiter).await > before);
    assert_eq!(bench.state(released).await, RunState::Ready);
    let answers = there.store.answer_waits(waiter, &waits).await.expect("answers");
    verdict!(&answers[0], WaitAnswer::Event(_));
    verdict!(&answers[1], WaitAnswer::Ended);
    let found = bench.store.events(&wanted[..2]).await.expect("reads");
    assert_eq!(found.iter().filter(|(_, _, answer)| matches!(answer, WaitAnswer::Ended)).map(|(_, key, _)| key.as_str()).collect::<Vec<_>>(), ["none"]);
    // One that ends over its worker's head is an end, too.
    let unstarted = new_run();
    let key = unstarted.key;
    there.one(start(unstarted)).await;
    let parked = there.own().await;
    verdict!(there.one(wait(parked, 1, 0, WaitKind::Event, Some(key), "never", None)).await, Verdict::Opened { .. });
    let before = inbox(&there, parked).await;
    bench.store.cancel(key, "ops", "x", 1000).await.expect("cancels");
    assert_eq!(inbox(&there, parked).await, before + 1);
}

pub async fn results_wake_their_waiters(bench: Arc<Bench>) {
    let worker = bench.worker().await;
    let (child, parent) = (worker.own().await, worker.own().await);
    verdict!(worker.one(wait(parent, 1, 0, WaitKind::Result, Some(child), "", None)).await, Verdict::Opened { .. });
    let seen = inbox(&worker, parent).await;
    verdict!(worker.one(Write::Release { run: parent, epoch: 1, inbox: seen, due: None }).await, Verdict::Committed);
    assert_eq!(bench.state(parent).await, RunState::Waiting);
    verdict!(worker.one(outcome_of(child, 1, RunState::Failed)).await, Verdict::Committed);
    assert_eq!(bench.state(parent).await, RunState::Ready);
    let claimed = worker.claim(&[route()], 10).await.remove(0);
    // Released is one, woken another, claimed a third execution.
    assert_eq!((claimed.key, claimed.epoch, claimed.waits.len()), (parent, 4, 1));
    let answers = worker.store.answer_waits(parent, &claimed.waits).await.expect("answers");
    verdict!(&answers[0], WaitAnswer::Result { state: RunState::Failed, .. });
    let summary = bench.find(child).await.summary;
    assert_eq!((summary.error_type.as_deref(), summary.error_message.as_deref()), (Some("Boom"), Some("it went off")));
    // Asked for again, when it is long over.
    let late = worker.own().await;
    verdict!(worker.one(wait(late, 1, 0, WaitKind::Result, Some(child), "", None)).await, Verdict::Opened { .. });
    let waits = waits_of(&worker, late).await;
    verdict!(&worker.store.answer_waits(late, &waits).await.expect("answers")[0], WaitAnswer::Result { .. });
    verdict!(&bench.store.outcomes(&[child, parent, Uuid::now_v7()]).await.expect("reads")[..], [(first, WaitAnswer::Result { .. }), (_, WaitAnswer::NotFound)] if *first == child);
}

pub async fn release_looks_at_the_inbox(bench: Arc<Bench>) {
    let worker = bench.worker().await;
    let run = worker.own().await;
    verdict!(worker.one(wait(run, 1, 0, WaitKind::Receive, None, "t", None)).await, Verdict::Opened { .. });
    let seen = inbox(&worker, run).await;
    verdict!(worker.one(Write::Send(message(run, "t", "1"))).await, Verdict::Committed);
    verdict!(worker.one(Write::Release { run, epoch: 1, inbox: seen, due: None }).await, Verdict::Changed { inbox } if inbox == seen + 1);
    assert_eq!(bench.state(run).await, RunState::Running);
    verdict!(worker.one(Write::Release { run, epoch: 1, inbox: seen + 1, due: None }).await, Verdict::Committed);
    let released = bench.find(run).await.summary;
    assert_eq!((released.state, released.owner), (RunState::Waiting, None));
    verdict!(worker.one(Write::Send(message(run, "u", "2"))).await, Verdict::Committed);
    assert_eq!(bench.state(run).await, RunState::Ready);
    verdict!(worker.one(Write::Send(message(run, "u", "3"))).await, Verdict::Committed);
    assert_eq!(worker.claim(&[route()], 10).await.len(), 1, "woken twice, ready once");
    assert!(worker.claim(&[route()], 10).await.is_empty());
}

pub async fn timers_wake(bench: Arc<Bench>) {
    let worker = bench.worker().await;
    let (soon, later) = (worker.own().await, worker.own().await);
    let due = worker.store.now().await.expect("tells the time") + 3_600_000_000;
    verdict!(worker.one(wait(soon, 1, 0, WaitKind::Sleep, None, "", Some(Due::After(1)))).await, Verdict::Opened { due_in_ms: Some(..=1) });
    verdict!(worker.one(wait(later, 1, 0, WaitKind::Sleep, None, "", Some(Due::At(due)))).await, Verdict::Opened { due_in_ms: Some(3_500_000..=3_600_000) });
    let releases = [
        Write::Release { run: soon, epoch: 1, inbox: 0, due: Some(Due::After(1)) },
        Write::Release { run: later, epoch: 1, inbox: 0, due: Some(Due::At(due)) },
    ];
    assert!(worker.commit(&releases).await.iter().all(|verdict| matches!(verdict, Verdict::Committed)));
    let report = until("the timer fires", || async {
        let report = worker.tick(&[]).await;
        (report.timers > 0).then_some(report)
    })
    .await;
    assert!(report.ready);
    assert!(report.next_timer_ms.is_some_and(|ms| ms > 3_000_000), "{report:?}");
    let claimed = worker.claim(&[route()], 10).await;
    assert_eq!(claimed.iter().map(|run| run.key).collect::<Vec<_>>(), [soon]);
    assert_eq!(claimed[0].waits[0].kind, WaitKind::Sleep);
    assert!(claimed[0].waits[0].due_in_ms.is_some_and(|ms| ms <= 0));
    assert_eq!(bench.state(later).await, RunState::Waiting);
    // A message wakes it and takes the timer away.
    verdict!(worker.one(Write::Send(message(later, "t", "1"))).await, Verdict::Committed);
    assert_eq!(worker.tick(&[]).await.next_timer_ms, None);
}

pub async fn waits_on_nobody(bench: Arc<Bench>) {
    let worker = bench.worker().await;
    let run = worker.own().await;
    let nobody = Some(Uuid::now_v7());
    verdict!(worker.one(wait(run, 1, 0, WaitKind::Result, nobody, "", None)).await, Verdict::NotFound);
    verdict!(worker.one(wait(run, 1, 0, WaitKind::Event, nobody, "k", None)).await, Verdict::NotFound);
    verdict!(worker.one(Write::Send(message(Uuid::now_v7(), "t", "1"))).await, Verdict::NotFound);
    assert!(waits_of(&worker, run).await.is_empty());
}
