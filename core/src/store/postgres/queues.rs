//! Queues are rows.

use sqlx::Row;
use sqlx::postgres::PgRow;

use super::connect::Session;
use super::rows::read;
use crate::store::{Queue, Result};

macro_rules! columns {
    () => {
        "name, paused, fleet_limit, worker_limit, key_limit, hold, rate_count, rate_period_ms, operator"
    };
}

const ALL: &str = concat!("select ", columns!(), " from {s}.queue where namespace = $1 order by name");
const ONE: &str = concat!("select ", columns!(), " from {s}.queue where namespace = $1 and name = $2");

/// An unchanged row keeps its version, so that a fleet that starts does not make every worker read all queues again.
const PUT: &str = concat!(
    "insert into {s}.queue as q (namespace, name, paused, fleet_limit, worker_limit, key_limit, hold, rate_count, rate_period_ms, operator)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
on conflict (namespace, name) do update
  set paused = excluded.paused, fleet_limit = excluded.fleet_limit, worker_limit = excluded.worker_limit, key_limit = excluded.key_limit,
      hold = excluded.hold, rate_count = excluded.rate_count, rate_period_ms = excluded.rate_period_ms,
      operator = q.operator or excluded.operator, version = q.version + 1
  where (excluded.operator or not q.operator)
    and (q.paused, q.fleet_limit, q.worker_limit, q.key_limit, q.hold, q.rate_count, q.rate_period_ms, q.operator)
        is distinct from (excluded.paused, excluded.fleet_limit, excluded.worker_limit, excluded.key_limit, excluded.hold, excluded.rate_count,
                          excluded.rate_period_ms, q.operator or excluded.operator)
returning ",
    columns!()
);

const PAUSE: &str =
    concat!("update {s}.queue set paused = $3, operator = true, version = version + 1 where namespace = $1 and name = $2 returning ", columns!());

fn queue(row: &PgRow) -> Result<Queue> {
    let rate: (Option<i32>, Option<i64>) = (read(row.try_get(6))?, read(row.try_get(7))?);
    Ok(Queue {
        name: read(row.try_get(0))?,
        paused: read(row.try_get(1))?,
        limit: read(row.try_get(2))?,
        worker_limit: read(row.try_get(3))?,
        key_limit: read(row.try_get(4))?,
        hold: read(row.try_get(5))?,
        rate: rate.0.zip(rate.1),
        operator: read(row.try_get(8))?,
    })
}

/// Whether a claim must take the queue's lock.
pub(super) fn is_limited(queue: &Queue) -> bool {
    queue.paused || queue.limit.is_some() || queue.worker_limit.is_some() || queue.key_limit.is_some()
}

pub(super) async fn all(session: &mut Session) -> Result<Vec<Queue>> {
    let statement = session.q(ALL).bind(session.shared.namespace.clone());
    session.rows(statement).await?.iter().map(queue).collect()
}

pub(super) async fn one(session: &mut Session, name: &str) -> Result<Option<Queue>> {
    let statement = session.q(ONE).bind(session.shared.namespace.clone()).bind(name);
    session.rows(statement).await?.first().map(queue).transpose()
}

pub(super) async fn put(session: &mut Session, wanted: &Queue, by_operator: bool) -> Result<Queue> {
    let statement = session
        .q(PUT)
        .bind(session.shared.namespace.clone())
        .bind(&wanted.name)
        .bind(wanted.paused)
        .bind(wanted.limit)
        .bind(wanted.worker_limit)
        .bind(wanted.key_limit)
        .bind(wanted.hold)
        .bind(wanted.rate.map(|rate| rate.0))
        .bind(wanted.rate.map(|rate| rate.1))
        .bind(by_operator);
    if let Some(row) = session.rows(statement).await?.first() {
        return queue(row);
    }
    Ok(one(session, &wanted.name).await?.unwrap_or_else(|| wanted.clone()))
}

pub(super) async fn pause(session: &mut Session, name: &str, paused: bool) -> Result<Option<Queue>> {
    let statement = session.q(PAUSE).bind(session.shared.namespace.clone()).bind(name).bind(paused);
    session.rows(statement).await?.first().map(queue).transpose()
}
