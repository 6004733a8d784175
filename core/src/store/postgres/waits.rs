//! Open waits: who waits, and for whom.

use std::collections::HashMap;

use sqlx::Row;

use super::connect::Session;
use super::rows::{due, read};
use super::steps::position;
use crate::store::{Due, Position, Result, RunKey, WaitKind};

pub(super) struct WaitRow<'w> {
    pub(super) run: RunKey,
    pub(super) at: &'w Position,
    pub(super) kind: WaitKind,
    pub(super) due: Option<Due>,
    pub(super) target: Option<RunKey>,
    pub(super) key: &'w str,
    pub(super) site: i64,
}

/// A wait opened before keeps its due time: the answer is that of the row that stands. Each run whose end or event is waited for, which this transaction
/// holds, gets a new version of its row: a batch that ends that run in one statement (`plain`) took its snapshot before it waited for the row, and cannot
/// see the wait.
const OPEN: &str = "\
with u as materialized (
  select * from unnest($1::uuid[], $2::int[], $3::text[], $4::int[], $5::smallint[], $6::bigint[], $7::bigint[], $8::uuid[], $9::text[],
                       $10::bigint[]) as u(run_id, segment, branch, seq, kind, after_ms, at_us, target, key, site)),
i as (
  insert into {s}.waiter (run_id, segment, branch, seq, kind, due_at, target, key, site)
  select u.run_id, u.segment, u.branch, u.seq, u.kind,
         case when u.after_ms is not null then statement_timestamp() + u.after_ms * interval '1 millisecond'
              when u.at_us is not null then timestamptz 'epoch' + u.at_us * interval '1 microsecond' end,
         u.target, u.key, u.site
  from u on conflict do nothing
  returning run_id, segment, branch, seq, due_at),
t as (
  update {s}.run x set inbox = x.inbox
  from (select distinct u.target from u where u.target is not null) v, lateral (select r.ctid as c from {s}.run r where r.id = v.target offset 0) l
  where x.ctid = l.c)
select run_id, segment, branch, seq, (extract(epoch from due_at - statement_timestamp()) * 1000)::bigint from i
union all
select w.run_id, w.segment, w.branch, w.seq, (extract(epoch from w.due_at - statement_timestamp()) * 1000)::bigint
from u cross join lateral (select * from {s}.waiter w where w.run_id = u.run_id and w.segment = u.segment and w.branch = u.branch
                           and w.seq = u.seq offset 0) w";

/// Milliseconds until due, by wait.
pub(super) async fn open(session: &mut Session, waits: &[&WaitRow<'_>]) -> Result<HashMap<(RunKey, Position), Option<i64>>> {
    let statement = session
        .q(OPEN)
        .bind(waits.iter().map(|w| w.run).collect::<Vec<_>>())
        .bind(waits.iter().map(|w| w.at.segment).collect::<Vec<_>>())
        .bind(waits.iter().map(|w| &*w.at.branch).collect::<Vec<_>>())
        .bind(waits.iter().map(|w| w.at.seq).collect::<Vec<_>>())
        .bind(waits.iter().map(|w| w.kind as i16).collect::<Vec<_>>())
        .bind(waits.iter().map(|w| due(w.due).0).collect::<Vec<_>>())
        .bind(waits.iter().map(|w| due(w.due).1).collect::<Vec<_>>())
        .bind(waits.iter().map(|w| w.target).collect::<Vec<_>>())
        .bind(waits.iter().map(|w| w.key).collect::<Vec<_>>())
        .bind(waits.iter().map(|w| w.site).collect::<Vec<_>>());
    let mut opened = HashMap::new();
    for row in session.rows(statement).await? {
        opened.insert((read(row.try_get(0))?, position(&row, 1)?), read(row.try_get(4))?);
    }
    Ok(opened)
}

/// Somebody who waits for a run's end or event.
pub(super) struct Waiter {
    pub(super) run: RunKey,
    pub(super) target: RunKey,
    pub(super) key: String,
}

const WAITING_FOR: &str = "\
select w.run_id, w.target, w.key from unnest($1::uuid[]) as t(id)
cross join lateral (select * from {s}.waiter w where w.target = t.id offset 0) w";

pub(super) async fn waiting_for(session: &mut Session, targets: &[RunKey]) -> Result<Vec<Waiter>> {
    let statement = session.q(WAITING_FOR).bind(targets);
    session.rows(statement).await?.iter().map(waiter).collect()
}

/// A row (run_id, target, key).
pub(super) fn waiter(row: &sqlx::postgres::PgRow) -> Result<Waiter> {
    Ok(Waiter { run: read(row.try_get(0))?, target: read(row.try_get(1))?, key: read(row.try_get(2))? })
}
