//! Changes of run rows this transaction holds, and the rows that follow a run's state: outcome, ready, timer, slot, dedup, note.

use std::collections::HashSet;

use sqlx::Row;
use uuid::Uuid;

use super::connect::Session;
use super::lock::Locked;
use super::rows::{column, data, due, read, unless};
use super::waits::{Waiter, waiter};
use crate::store::{Due, Payload, Result, RunKey, RunState, SlowStep};

/// Woken, released and given-back runs go ahead of new work of their priority.
pub(super) const AHEAD: i32 = 1_000_000;

#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(i16)]
pub(super) enum TimerKind {
    Wake = 1,
    Start = 2,
    Deadline = 3,
    Expiry = 4,
    Retry = 5,
    CancelEnd = 6,
    CloseChildren = 7,
}

/// What a held row becomes.
pub(super) struct Change {
    pub(super) run: RunKey,
    pub(super) now: Locked,
}

const CHANGE: &str = "\
update {s}.run x
set state = u.state, owner = u.owner, epoch = u.epoch, inbox = u.inbox, slotted = u.slotted, timed = u.timed, keyed = u.keyed,
    run_attempt = u.attempt
from unnest($1::uuid[], $2::smallint[], $3::uuid[], $4::int[], $5::int[], $6::bool[], $7::bool[], $8::bool[], $9::smallint[])
       as u(id, state, owner, epoch, inbox, slotted, timed, keyed, attempt),
     lateral (select r.ctid as c from {s}.run r where r.id = u.id offset 0) l
where x.ctid = l.c";

pub(super) async fn change(session: &mut Session, changes: &[Change]) -> Result<()> {
    let statement = session
        .q(CHANGE)
        .bind(changes.iter().map(|c| c.run).collect::<Vec<_>>())
        .bind(changes.iter().map(|c| c.now.state as i16).collect::<Vec<_>>())
        .bind(changes.iter().map(|c| c.now.owner).collect::<Vec<_>>())
        .bind(changes.iter().map(|c| c.now.epoch).collect::<Vec<_>>())
        .bind(changes.iter().map(|c| c.now.inbox).collect::<Vec<_>>())
        .bind(changes.iter().map(|c| c.now.slotted).collect::<Vec<_>>())
        .bind(changes.iter().map(|c| c.now.timed).collect::<Vec<_>>())
        .bind(changes.iter().map(|c| c.now.keyed).collect::<Vec<_>>())
        .bind(changes.iter().map(|c| c.now.run_attempt).collect::<Vec<_>>());
    session.run(statement).await.map(|_| ())
}

pub(super) struct OutcomeRow<'w> {
    pub(super) run: RunKey,
    pub(super) epoch: i32,
    pub(super) state: RunState,
    pub(super) token: i64,
    pub(super) value: &'w Payload,
    pub(super) error_type: Option<&'w str>,
    pub(super) error_message: Option<&'w str>,
}

/// The end of each run, its own open waits, and who waits for it or for an event (`$11`): read in this statement, later than the locks,
/// so a waiter that was committed while this transaction waited for them is seen.
macro_rules! finish {
    ($conflict:literal) => {
        concat!(
            "with u as materialized (
  select ($2::uuid[])[v.n::int] as id, coalesce(($3::smallint[])[v.n::int], 6::smallint) as state, coalesce(($4::int[])[v.n::int], 1) as epoch,
         ($5::bigint[])[v.n::int] as token, coalesce(($8::smallint[])[v.n::int], 1::smallint) as codec, v.error_type, v.error_message, v.key_id, v.value
  from unnest($6::text[], $7::text[], $9::text[], $10::bytea[]) with ordinality as v(error_type, error_message, key_id, value, n)),
o as (
  insert into {s}.outcome (run_id, state, epoch, token, written_by, at, error_type, error_message, codec, key_id, value)
  select u.id, u.state, u.epoch, u.token, $1, statement_timestamp(), u.error_type, u.error_message, u.codec, u.key_id, u.value from u
",
            $conflict,
            "),
c as (
  update {s}.run x set state = u.state, epoch = u.epoch, owner = null, slotted = false, timed = false, keyed = false
  from u, lateral (select r.ctid as c from {s}.run r where r.id = u.id offset 0) l where x.ctid = l.c),
d as (
  delete from {s}.waiter x using u, lateral (select w.ctid as c from {s}.waiter w where w.run_id = u.id offset 0) l where x.ctid = l.c)
select w.run_id, w.target, w.key from unnest($11::uuid[]) as t(id)
cross join lateral (select * from {s}.waiter w where w.target = t.id offset 0) w"
        )
    };
}

const FINISH: &str = finish!("");
/// An outcome may stand where a run was brought back by a hand that left it.
const FINISH_CAREFUL: &str = finish!(
    "  on conflict (run_id) do update set state = excluded.state, epoch = excluded.epoch, token = excluded.token, written_by = excluded.written_by,
    at = excluded.at, error_type = excluded.error_type, error_message = excluded.error_message, codec = excluded.codec,
    key_id = excluded.key_id, value = excluded.value"
);

/// End runs; answers who waits for `awaited`.
pub(super) async fn finish(
    session: &mut Session,
    incarnation: Option<Uuid>,
    outcomes: &[OutcomeRow<'_>],
    awaited: &[RunKey],
    careful: bool,
) -> Result<Vec<Waiter>> {
    let statement = session
        .q(if careful { FINISH_CAREFUL } else { FINISH })
        .bind(incarnation)
        .bind(column(outcomes, |o| o.run))
        .bind(unless(outcomes, RunState::Succeeded as i16, |o| o.state as i16))
        .bind(unless(outcomes, 1, |o| o.epoch))
        .bind(column(outcomes, |o| o.token))
        .bind(unless(outcomes, None, |o| o.error_type))
        .bind(unless(outcomes, None, |o| o.error_message))
        .bind(unless(outcomes, 1, |o| o.value.codec))
        .bind(unless(outcomes, None, |o| o.value.key_id.as_deref()))
        .bind(column(outcomes, |o| data(o.value)))
        .bind(awaited);
    session.rows(statement).await?.iter().map(waiter).collect()
}

const OUTCOME_TOKENS: &str = "\
select o.run_id, o.token from unnest($1::uuid[]) as u(id) cross join lateral (select * from {s}.outcome o where o.run_id = u.id offset 0) o";

/// The outcomes that stand, by token.
pub(super) async fn outcomes_recorded(session: &mut Session, runs: &[RunKey]) -> Result<HashSet<(RunKey, i64)>> {
    let rows = session.rows(session.q(OUTCOME_TOKENS).bind(runs)).await?;
    rows.iter().map(|row| Ok((read(row.try_get(0))?, read(row.try_get(1))?))).collect()
}

/// `ord` is the run's creation, so a run has one key in `ready` at a priority, and whoever must take the row away can name it.
const MAKE_READY: &str = "\
insert into {s}.ready (route, priority, ord, run_id, fairness_key)
select u.route, u.priority, (extract(epoch from i.created_at) * 1000000)::bigint, u.id, i.fairness_key
from unnest($1::uuid[], $2::bigint[], $3::int[]) as u(id, route, priority)
cross join lateral (select * from {s}.run_info i where i.run_id = u.id offset 0) i
on conflict do nothing";

/// (run, route, priority).
pub(super) async fn make_ready(session: &mut Session, runs: &[(RunKey, i64, i32)]) -> Result<()> {
    let statement = session
        .q(MAKE_READY)
        .bind(runs.iter().map(|r| r.0).collect::<Vec<_>>())
        .bind(runs.iter().map(|r| r.1).collect::<Vec<_>>())
        .bind(runs.iter().map(|r| r.2).collect::<Vec<_>>());
    session.run(statement).await.map(|_| ())
}

/// Skips a row that a claim holds: the claim will find that the run is not ready, and a wait for it here would be a deadlock.
const UNREADY: &str = "\
delete from {s}.ready x
using {s}.run_info i, {s}.run r, unnest(array[0, 1000000]) as ahead(by),
      lateral (select y.ctid as c from {s}.ready y
               where y.route = r.route and y.priority = r.priority - ahead.by and y.ord = (extract(epoch from i.created_at) * 1000000)::bigint
                 and y.run_id = r.id for update skip locked offset 0) l
where i.run_id = $1 and r.id = $1 and x.ctid = l.c";

pub(super) async fn unready(session: &mut Session, run: RunKey) -> Result<()> {
    session.run(session.q(UNREADY).bind(run)).await.map(|_| ())
}

const SET_TIMERS: &str = "\
insert into {s}.timer (run_id, kind, due_at)
select u.id, u.kind, case when u.after_ms is not null then statement_timestamp() + u.after_ms * interval '1 millisecond'
                          else timestamptz 'epoch' + u.at_us * interval '1 microsecond' end
from unnest($1::uuid[], $2::smallint[], $3::bigint[], $4::bigint[]) as u(id, kind, after_ms, at_us)
on conflict (run_id, kind) do update set due_at = excluded.due_at";

pub(super) async fn set_timers(session: &mut Session, timers: &[(RunKey, TimerKind, Due)]) -> Result<()> {
    let statement = session
        .q(SET_TIMERS)
        .bind(timers.iter().map(|t| t.0).collect::<Vec<_>>())
        .bind(timers.iter().map(|t| t.1 as i16).collect::<Vec<_>>())
        .bind(timers.iter().map(|t| due(Some(t.2)).0).collect::<Vec<_>>())
        .bind(timers.iter().map(|t| due(Some(t.2)).1).collect::<Vec<_>>());
    session.run(statement).await.map(|_| ())
}

const DROP_TIMERS: &str = "\
delete from {s}.timer x
using unnest($1::uuid[], $2::smallint[]) as u(id, kind),
      lateral (select t.ctid as c from {s}.timer t where t.run_id = u.id and (u.kind = 0 or t.kind = u.kind) offset 0) l
where x.ctid = l.c";

/// None: all kinds.
pub(super) async fn drop_timers(session: &mut Session, timers: &[(RunKey, Option<TimerKind>)]) -> Result<()> {
    let statement = session
        .q(DROP_TIMERS)
        .bind(timers.iter().map(|t| t.0).collect::<Vec<_>>())
        .bind(timers.iter().map(|t| t.1.map_or(0, |kind| kind as i16)).collect::<Vec<_>>());
    session.run(statement).await.map(|_| ())
}

const FREE_SLOTS: &str = "\
delete from {s}.slot x
using unnest($1::uuid[], $2::bool[]) as u(id, ended),
      lateral (select s.ctid as c from {s}.slot s
               where s.run_id = u.id
                 and (u.ended or not exists (select 1 from {s}.queue q where q.namespace = s.namespace and q.name = s.queue and q.hold offset 0))
               offset 0) l
where x.ctid = l.c returning x.run_id";

/// (run, ended). A run that only pauses keeps its slot in a queue that holds; answers the runs that gave theirs up.
pub(super) async fn free_slots(session: &mut Session, runs: &[(RunKey, bool)]) -> Result<HashSet<RunKey>> {
    let statement = session.q(FREE_SLOTS).bind(runs.iter().map(|r| r.0).collect::<Vec<_>>()).bind(runs.iter().map(|r| r.1).collect::<Vec<_>>());
    session.rows(statement).await?.iter().map(|row| read(row.try_get(0))).collect()
}

/// A key with a time of its own outlives its run. Found by run, not by ctid: who asks for a key makes a new version of its row, and after the wait for him
/// the old one is not what is to go.
const FREE_KEYS: &str = "delete from {s}.dedup x where x.run_id = any($1::uuid[]) and x.scope <> 3";

pub(super) async fn free_keys(session: &mut Session, runs: &[RunKey]) -> Result<()> {
    session.run(session.q(FREE_KEYS).bind(runs)).await.map(|_| ())
}

const NOTE_BLOCKS: &str = "\
insert into {s}.run_note (run_id, blocked_why, blocked_build, blocked_at)
select u.id, u.why, u.build, statement_timestamp() from unnest($1::uuid[], $2::text[], $3::text[]) as u(id, why, build)
on conflict (run_id) do update set blocked_why = excluded.blocked_why, blocked_build = excluded.blocked_build, blocked_at = excluded.blocked_at";

/// (run, why).
pub(super) async fn note_blocks(session: &mut Session, blocks: &[(RunKey, &str)]) -> Result<()> {
    let build = |why: &str| -> Option<String> {
        let document: serde_json::Value = serde_json::from_str(why).ok()?;
        Some(document.get("build")?.as_str()?.to_string())
    };
    let statement = session
        .q(NOTE_BLOCKS)
        .bind(blocks.iter().map(|b| b.0).collect::<Vec<_>>())
        .bind(blocks.iter().map(|b| b.1).collect::<Vec<_>>())
        .bind(blocks.iter().map(|b| build(b.1)).collect::<Vec<_>>());
    session.run(statement).await.map(|_| ())
}

const NOTE_SLOW: &str = "\
insert into {s}.run_note as x (run_id, slow_steps, slow_epoch, slow_at)
select r.id, $3, r.epoch, statement_timestamp() from {s}.run r where r.id = $1 and r.epoch = $2
on conflict (run_id) do update set slow_steps = excluded.slow_steps, slow_epoch = excluded.slow_epoch, slow_at = excluded.slow_at";
const NOT_SLOW: &str = "update {s}.run_note set slow_steps = null, slow_epoch = null, slow_at = null where run_id = $1 and slow_epoch = $2";

pub(super) async fn note_slow(session: &mut Session, run: RunKey, epoch: i32, steps: &[SlowStep]) -> Result<()> {
    let statement = match SlowStep::text(steps) {
        Some(text) => session.q(NOTE_SLOW).bind(run).bind(epoch).bind(text),
        None => session.q(NOT_SLOW).bind(run).bind(epoch),
    };
    session.run(statement).await.map(|_| ())
}
