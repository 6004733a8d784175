//! Queues are rows.

use sqlx::Row;
use sqlx::postgres::PgRow;

use super::connect::Session;
use super::rows::read;
use crate::store::{Queue, Result, RunKey};

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

/// Runs of this queue that execute and have no slot, held in key order: they were claimed before it had a limit.
const UNCOUNTED: &str = "\
select l.id from (
  select r.id from {s}.worker w
  cross join lateral (select x.id, x.route from {s}.run x where x.owner = w.incarnation and not x.slotted offset 0) r
  where exists (select 1 from {s}.route t where t.id = r.route and t.namespace = $1 and t.queue = $2 offset 0)
  order by r.id) o
cross join lateral (select x.id from {s}.run x where x.id = o.id and x.owner is not null and not x.slotted for no key update offset 0) l";

/// A statement of its own: it sees the rows as they are held.
const COUNT: &str = "\
with slots as (
  insert into {s}.slot (run_id, namespace, queue, fairness_key, at)
  select u.id, $1, $2, i.fairness_key, statement_timestamp()
  from unnest($3::uuid[]) as u(id) cross join lateral (select * from {s}.run_info i where i.run_id = u.id offset 0) i
  on conflict (run_id) do nothing)
update {s}.run x set slotted = true
from unnest($3::uuid[]) as u(id), lateral (select r.ctid as c from {s}.run r where r.id = u.id offset 0) l
where x.ctid = l.c";

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
    session.begin().await?;
    match put_and_count(session, wanted, by_operator).await {
        Ok(put) => {
            session.commit().await?;
            Ok(put)
        }
        Err(error) => {
            session.rollback().await;
            Err(error)
        }
    }
}

async fn put_and_count(session: &mut Session, wanted: &Queue, by_operator: bool) -> Result<Queue> {
    let namespace = session.shared.namespace.clone();
    let statement = session
        .q(PUT)
        .bind(&namespace)
        .bind(&wanted.name)
        .bind(wanted.paused)
        .bind(wanted.limit)
        .bind(wanted.worker_limit)
        .bind(wanted.key_limit)
        .bind(wanted.hold)
        .bind(wanted.rate.map(|rate| rate.0))
        .bind(wanted.rate.map(|rate| rate.1))
        .bind(by_operator);
    let changed = session.rows(statement).await?;
    let Some(row) = changed.first() else {
        return Ok(one(session, &wanted.name).await?.unwrap_or_else(|| wanted.clone()));
    };
    let put = queue(row)?;
    if put.limit.is_some() || put.key_limit.is_some() {
        // Claims of a limited queue wait for its row, which this transaction holds, and count these too. What a process that has not heard of the limit yet
        // claims meanwhile is not counted.
        let rows = session.rows(session.q(UNCOUNTED).bind(&namespace).bind(&put.name)).await?;
        let runs: Vec<RunKey> = rows.iter().map(|row| read(row.try_get(0))).collect::<Result<_>>()?;
        if !runs.is_empty() {
            session.run(session.q(COUNT).bind(&namespace).bind(&put.name).bind(runs)).await?;
        }
    }
    Ok(put)
}

pub(super) async fn pause(session: &mut Session, name: &str, paused: bool) -> Result<Option<Queue>> {
    let statement = session.q(PAUSE).bind(session.shared.namespace.clone()).bind(name).bind(paused);
    session.rows(statement).await?.first().map(queue).transpose()
}
