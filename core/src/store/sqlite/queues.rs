//! Queues, created by code and changed by operators; names of workflows, announced by workers.

use sqlx::sqlite::SqliteRow;

use super::SqliteStore;
use super::connection::{Connection, rejected};
use super::rows::now_us;
use super::value::{Columns as _, vals};
use crate::store::{MOST_NAMES, Queue, Result, Route};

const COLUMNS: &str =
    "select name, paused, fleet_limit, worker_limit, key_limit, hold, rate_count, rate_period_ms, operator from queue where namespace = ? and name = ?";

fn queue(row: &SqliteRow) -> Result<Queue> {
    let limit = |column| -> Result<Option<i32>> { row.opt_int(column)?.map(i32::try_from).transpose().map_err(|e| rejected(e.to_string())) };
    Ok(Queue {
        name: row.text(0)?,
        paused: row.flag(1)?,
        limit: limit(2)?,
        worker_limit: limit(3)?,
        key_limit: limit(4)?,
        hold: row.flag(5)?,
        rate: limit(6)?.zip(row.opt_int(7)?),
        operator: row.flag(8)?,
    })
}

impl SqliteStore {
    pub(super) async fn put(&self, wanted: &Queue, by_operator: bool) -> Result<Queue> {
        let mut tx = self.write().await?;
        let outcome = put(&mut tx, &self.namespace, wanted, by_operator).await;
        tx.finish(outcome).await
    }

    pub(super) async fn pause(&self, name: &str, paused: bool) -> Result<Option<Queue>> {
        let mut tx = self.write().await?;
        let outcome = pause(&mut tx, &self.namespace, name, paused).await;
        tx.finish(outcome).await
    }

    pub(super) async fn all_queues(&self) -> Result<Vec<Queue>> {
        let mut conn = self.read().await?;
        let sql = "select name, paused, fleet_limit, worker_limit, key_limit, hold, rate_count, rate_period_ms, operator from queue where namespace = ? order by name";
        conn.fetch(sql, vals![&self.namespace]).await?.iter().map(queue).collect()
    }

    pub(super) async fn write_routes(&self, routes: &[Route]) -> Result<()> {
        let mut tx = self.write().await?;
        let rows = routes.iter().flat_map(|r| vals![r.id, &self.namespace, &r.queue, &r.workflow, &r.label]).collect();
        let outcome = tx.write_rows("insert or ignore into route(id, namespace, queue, workflow, label) values {rows}", 5, rows).await.map(drop);
        tx.finish(outcome).await
    }

    pub(super) async fn workflows(&self) -> Result<Vec<String>> {
        let mut conn = self.read().await?;
        let sql = "select distinct workflow from route where namespace = ? order by workflow limit ?";
        conn.fetch(sql, vals![&self.namespace, MOST_NAMES]).await?.iter().map(|row| row.text(0)).collect()
    }
}

async fn put(conn: &mut Connection, namespace: &str, wanted: &Queue, by_operator: bool) -> Result<Queue> {
    let there = conn.fetch_one(COLUMNS, vals![namespace, &wanted.name]).await?.map(|row| queue(&row)).transpose()?;
    let wanted = Queue { operator: by_operator, ..wanted.clone() };
    if let Some(there) = there
        && ((there.operator && !by_operator) || there == wanted)
    {
        return Ok(there);
    }
    let sql = "insert into queue(namespace, name, paused, fleet_limit, worker_limit, key_limit, hold, rate_count, rate_period_ms, operator) \
               values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) on conflict (namespace, name) do update set paused = excluded.paused, fleet_limit = excluded.fleet_limit, \
               worker_limit = excluded.worker_limit, key_limit = excluded.key_limit, hold = excluded.hold, rate_count = excluded.rate_count, \
               rate_period_ms = excluded.rate_period_ms, operator = excluded.operator, version = queue.version + 1";
    let (count, period) = wanted.rate.unzip();
    let row = vals![namespace, &wanted.name, wanted.paused, wanted.limit, wanted.worker_limit, wanted.key_limit, wanted.hold, count, period, wanted.operator,];
    conn.exec(sql, row).await?;
    if wanted.limit.is_some() || wanted.key_limit.is_some() {
        count_running(conn, namespace, &wanted.name).await?;
    }
    Ok(wanted)
}

/// Runs of this queue that execute were claimed before it had a limit, and count from now on.
async fn count_running(conn: &mut Connection, namespace: &str, queue: &str) -> Result<()> {
    let sql = "insert or ignore into slot(run_id, namespace, queue, fairness_key, at) \
               select run.id, route.namespace, route.queue, run_info.fairness_key, ? from run join route on route.id = run.route \
               join run_info on run_info.run_id = run.id where run.owner is not null and run.slotted = 0 and route.namespace = ? and route.queue = ?";
    conn.exec(sql, vals![now_us(), namespace, queue]).await?;
    let sql = "update run set slotted = 1 where owner is not null and slotted = 0 and id in (select run_id from slot where namespace = ? and queue = ?)";
    conn.exec(sql, vals![namespace, queue]).await.map(drop)
}

async fn pause(conn: &mut Connection, namespace: &str, name: &str, paused: bool) -> Result<Option<Queue>> {
    let sql = "update queue set paused = ?, operator = 1, version = version + 1 where namespace = ? and name = ?";
    conn.exec(sql, vals![paused, namespace, name]).await?;
    conn.fetch_one(COLUMNS, vals![namespace, name]).await?.map(|row| queue(&row)).transpose()
}
