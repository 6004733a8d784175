//! Transactional steps on the engine's own connection, and the probe.

use std::sync::Arc;

use everstep::store::*;

use crate::bench::*;

async fn table(bench: &Bench) -> String {
    let name = if bench.is_postgres() { format!("{}.account", bench.config.schema) } else { "account".to_string() };
    let worker = bench.worker().await;
    let run = worker.own().await;
    let mut transaction = bench.store.begin(&site("work")).await.expect("begins");
    transaction.execute(&format!("create table {name} (id int primary key, amount int)"), &[]).await.expect("creates");
    verdict!(transaction.commit(worker.id, run, 1, &step(0)).await.expect("commits"), Verdict::Committed);
    name
}

async fn rows(bench: &Bench, table: &str) -> i64 {
    let mut transaction = bench.store.begin(&site("work")).await.expect("begins");
    let rows = transaction.execute(&format!("select count(*) from {table}"), &[]).await.expect("reads").rows;
    transaction.rollback().await;
    match rows[0][0] {
        SqlValue::Int(count) => count,
        ref other => panic!("expected a number, got {other:?}"),
    }
}

pub async fn commit_together_or_not_at_all(bench: Arc<Bench>) {
    let table = table(&bench).await;
    let worker = bench.worker().await;
    let run = worker.own().await;
    let insert = |id: i64| {
        let (store, text) = (bench.store.clone(), format!("insert into {table} (id, amount) values ($1, $2)"));
        let text = if bench.is_postgres() { text } else { text.replace('$', "?") };
        async move {
            let mut transaction = store.begin(&site("work")).await.expect("begins");
            let done = transaction.execute(&text, &[SqlValue::Int(id), SqlValue::Null]).await.expect("inserts");
            assert_eq!(done.affected, 1);
            transaction
        }
    };
    let written = step(0);
    verdict!(insert(1).await.commit(worker.id, run, 1, &written).await.expect("commits"), Verdict::Committed);
    assert_eq!((rows(&bench, &table).await, bench.find(run).await.steps_recorded), (1, 1));
    // Another execution recorded it: what this one did is undone.
    verdict!(insert(2).await.commit(worker.id, run, 1, &step(0)).await.expect("commits"), Verdict::Adopt(record) if record.token == written.token);
    verdict!(insert(3).await.commit(worker.id, run, 9, &step(1)).await.expect("commits"), Verdict::Fenced);
    insert(4).await.rollback().await;
    drop(insert(5).await);
    assert_eq!((rows(&bench, &table).await, bench.find(run).await.steps_recorded), (1, 1));
    let mut transaction = bench.store.begin(&site("work")).await.expect("begins");
    match transaction.execute("select amount from nowhere", &[]).await {
        Err(StoreError::Rejected { message, .. }) => assert!(message.contains("nowhere"), "{message}"),
        other => panic!("expected Rejected, got {other:?}"),
    }
    transaction.rollback().await;
}

pub async fn probe_tells(bench: Arc<Bench>) {
    let worker = bench.worker().await;
    let run = worker.own().await;
    let lost = step(0);
    let probe = |epoch, step: StepWrite| {
        let worker = worker.clone();
        async move { worker.store.probe(worker.id, run, epoch, &step).await.expect("answers") }
    };
    verdict!(probe(1, lost.clone()).await, Verdict::NotFound);
    verdict!(probe(1, lost.clone()).await, Verdict::NotFound);
    verdict!(probe(4, lost.clone()).await, Verdict::Fenced);
    verdict!(worker.one(record(run, 1, lost.clone())).await, Verdict::Committed);
    verdict!(probe(1, lost.clone()).await, Verdict::Committed);
    verdict!(probe(1, StepWrite { token: token(), ..lost }).await, Verdict::Adopt(_));
}

pub async fn values_come_back(bench: Arc<Bench>) {
    let mut transaction = bench.store.begin(&site("work")).await.expect("begins");
    let values = [SqlValue::Int(1 << 40), SqlValue::Float(0.5), SqlValue::Text("häß'".into()), SqlValue::Bytes(vec![0, 255]), SqlValue::Null];
    let sql =
        if bench.is_postgres() { "select $1 as a, $2 as b, $3 as c, $4 as d, $5::text as e" } else { "select ?1 as a, ?2 as b, ?3 as c, ?4 as d, ?5 as e" };
    let answer = transaction.execute(sql, &values).await.expect("answers");
    assert_eq!(answer.columns, ["a", "b", "c", "d", "e"]);
    assert_eq!(answer.rows, [values.to_vec()]);
    if bench.is_postgres() {
        let sql = "select true, 12.50::numeric, '{\"a\": 1}'::jsonb, date '2024-02-29', timestamptz '2024-02-29 12:00:00.5+00', 'x'::name, 3::int2";
        let answer = transaction.execute(sql, &[]).await.expect("answers");
        let text = |text: &str| SqlValue::Text(text.into());
        let expected = vec![
            SqlValue::Bool(true),
            text("12.50"),
            text("{\"a\": 1}"),
            text("2024-02-29"),
            text("2024-02-29T12:00:00.500000+00:00"),
            text("x"),
            SqlValue::Int(3),
        ];
        assert_eq!(answer.rows, [expected]);
    }
    transaction.rollback().await;
}
