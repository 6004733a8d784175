//! Plain SQL over the documented views, as an operator or a dashboard asks.

use std::sync::Arc;

use everstep::store::*;

use crate::bench::*;

struct Views {
    transaction: Box<dyn StoreTransaction>,
    /// What stands before a view's name.
    schema: String,
}

impl Views {
    async fn of(bench: &Bench) -> Views {
        let schema = if bench.is_postgres() { format!("{}.", bench.config.schema) } else { String::new() };
        Views { transaction: bench.store.begin(&site("work")).await.expect("begins"), schema }
    }

    /// `{s}` before a view.
    async fn ask(&mut self, sql: &str) -> Vec<Vec<SqlValue>> {
        let sql = sql.replace("{s}", &self.schema);
        self.transaction.execute(&sql, &[]).await.unwrap_or_else(|error| panic!("{sql}: {error}")).rows
    }
}

pub async fn tell_what_the_tables_hold(bench: Arc<Bench>) {
    let worker = bench.worker().await;
    let (going, blocked) = (worker.own().await, worker.own().await);
    let queue = Queue { name: "mail".into(), paused: true, limit: Some(3), worker_limit: None, key_limit: None, hold: false, rate: None, operator: false };
    bench.store.put_queue(&queue, false).await.expect("puts");
    let why = "{\"code\":\"mismatch\"}".to_string();
    worker.commit(&[record(going, 1, step(0)), Write::Block { run: blocked, epoch: 1, why: why.clone() }]).await;
    worker.one(start(NewRun { route: route_of("mail", "job"), ..new_run() })).await;
    let mut views = Views::of(&bench).await;
    let (text, int) = (|t: &str| SqlValue::Text(t.into()), SqlValue::Int);
    assert_eq!(
        views.ask("select state, count(*) from {s}runs group by state order by state").await,
        [[text("blocked"), int(1)], [text("ready"), int(1)], [text("running"), int(1)]]
    );
    assert_eq!(views.ask("select kind, name, host from {s}steps").await, [[text("step"), text("charge"), text("host")]]);
    assert_eq!(
        views.ask("select name, case when paused then 1 else 0 end, fleet_limit, ready, slots_taken from {s}queues").await,
        [[text("mail"), int(1), int(3), int(1), int(0)]]
    );
    assert_eq!(views.ask("select case when alive then 1 else 0 end, runs from {s}workers").await, [[int(1), int(1)]]);
    assert_eq!(views.ask("select why, detail from {s}stuck").await, [[text("blocked"), text(&why)]]);
    views.transaction.rollback().await;
}

/// Of the table in `core/docs/schema.md`: what stands there is what people build on.
pub async fn have_the_documented_columns(bench: Arc<Bench>) {
    let names = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
    let page = include_str!("../../docs/schema.md");
    let section = page.split("\n## ").find(|section| section.starts_with("Views")).expect("the section");
    let mut views = Views::of(&bench).await;
    let mut seen = Vec::new();
    for line in section.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.split('|').collect();
        let view = names(cells[1]).remove(0);
        views.ask(&format!("select {} from {{s}}{view}", names(cells[3]).join(", "))).await;
        seen.push(view);
    }
    assert_eq!(seen, ["runs", "steps", "queues", "workers", "stuck"]);
    views.transaction.rollback().await;
}
