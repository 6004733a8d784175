//! Step and attempt rows.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use sqlx::Row;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::connect::{Session, Statement};
use super::errors::is_duplicate;
use super::rows::{column, data, payload, read, small, unless};
use super::sites::Sites;
use crate::failpoint::mutated;
use crate::store::{Position, Result, RunKey, Site, StepRecord, StepWrite};

/// A function with many arrays keeps each in a tuplestore of its own, which costs as much as the insert. So only what varies in length is
/// unnested; columns of fixed width are looked up by position, and a column that has its usual value in every row is sent as null.
macro_rules! insert_steps {
    ($fence:literal) => {
        insert_steps!($fence, " on conflict do nothing")
    };
    ($fence:literal, $conflict:literal) => {
        concat!(
            "insert into {s}.step (run_id, at, site, digest, token, took_us, written_by, segment, seq, done, seen, epoch, attempt, kind, codec, \
               failed, branch, key_id, output) \
             select u.run_id, statement_timestamp(), u.site, u.digest, u.token, u.took_us, $1, u.segment, u.seq, u.done, u.seen, u.epoch, \
               u.attempt, u.kind, u.codec, u.failed, u.branch, u.key_id, u.output \
             from (select ($2::uuid[])[v.n::int] as run_id, ($3::bigint[])[v.n::int] as site, ($4::bigint[])[v.n::int] as digest, \
               ($5::bigint[])[v.n::int] as token, ($6::bigint[])[v.n::int] as took_us, coalesce(($7::int[])[v.n::int], 0) as segment, \
               ($8::int[])[v.n::int] as seq, ($9::int[])[v.n::int] as done, ($10::int[])[v.n::int] as seen, \
               coalesce(($11::int[])[v.n::int], 1) as epoch, coalesce(($12::smallint[])[v.n::int], 1::smallint) as attempt, \
               coalesce(($13::smallint[])[v.n::int], 1::smallint) as kind, coalesce(($14::smallint[])[v.n::int], 1::smallint) as codec, \
               coalesce(($15::bool[])[v.n::int], false) as failed, coalesce(v.branch, '') as branch, v.key_id, v.output \
               from unnest($16::text[], $17::text[], $18::bytea[]) with ordinality as v(branch, key_id, output, n)) as u ",
            $fence,
            $conflict
        )
    };
}

pub(super) use insert_steps;

/// The whole fence in one autocommit statement: the lane's lease row, then each run row, both locked. Without `on conflict`, which costs
/// each row a second look into the index and a second WAL record: a row that stands is an error, and the careful form comes next.
const FENCED: &str = insert_steps!(
    "where (select true from {s}.lease x where x.incarnation = $1 and x.lane = $19 for key share) \
       and exists (select 1 from {s}.run r where r.id = u.run_id and r.owner = $1 and r.epoch = u.epoch and r.state in (2, 4) \
                   for no key update offset 0)",
    ""
);

/// For runs this transaction already holds.
const HELD: &str = insert_steps!("", "");
const HELD_CAREFUL: &str = insert_steps!("");

/// Each lock taken out, and the row that stands overwritten: for the suite, which must notice (`failpoint::MUTATIONS`).
const WITHOUT_LEASE: &str = insert_steps!(
    "where $19::smallint is not null and exists (select 1 from {s}.run r where r.id = u.run_id and r.owner = $1 and r.epoch = u.epoch \
       and r.state in (2, 4) for no key update offset 0)"
);
const WITHOUT_RUN: &str = insert_steps!("where (select true from {s}.lease x where x.incarnation = $1 and x.lane = $19 for key share)");
const OVERWRITING: &str = insert_steps!(
    "where $19::smallint is not null",
    " on conflict (run_id, segment, branch, seq) do update set token = excluded.token, output = excluded.output"
);

/// One step of one run.
pub(super) struct StepRow<'w> {
    pub(super) run: RunKey,
    pub(super) epoch: i32,
    pub(super) step: &'w StepWrite,
}

/// The columns `$2` to `$18`, after the incarnation.
pub(super) fn bind<'q>(statement: Statement<'q>, incarnation: Uuid, rows: &[StepRow<'q>]) -> Statement<'q> {
    statement
        .bind(incarnation)
        .bind(column(rows, |r| r.run))
        .bind(column(rows, |r| r.step.site.id))
        .bind(unless(rows, None, |r| r.step.digest))
        .bind(column(rows, |r| r.step.token))
        .bind(column(rows, |r| r.step.took_us))
        .bind(unless(rows, 0, |r| r.step.at.segment))
        .bind(column(rows, |r| r.step.at.seq))
        .bind(column(rows, |r| r.step.done))
        .bind(column(rows, |r| r.step.seen))
        .bind(unless(rows, 1, |r| r.epoch))
        .bind(unless(rows, 1, |r| small(r.step.attempt)))
        .bind(unless(rows, 1, |r| r.step.kind))
        .bind(unless(rows, 1, |r| r.step.output.codec))
        .bind(unless(rows, false, |r| r.step.failed))
        .bind(unless(rows, "", |r| &*r.step.at.branch))
        .bind(unless(rows, None, |r| r.step.output.key_id.as_deref()))
        .bind(column(rows, |r| data(&r.step.output)))
}

/// Rows inserted, of those sent in key order; fewer means that a fence or an older row stood in the way.
pub(super) async fn insert_fenced(session: &mut Session, incarnation: Uuid, lane: i16, rows: &[StepRow<'_>]) -> Result<u64> {
    let text = match () {
        () if mutated("fence.lease") => WITHOUT_LEASE,
        () if mutated("fence.run") => WITHOUT_RUN,
        () if mutated("on_conflict") => OVERWRITING,
        () => FENCED,
    };
    let statement = bind(session.q(text), incarnation, rows).bind(lane);
    match session.run(statement).await {
        Err(error) if is_duplicate(&error) => Ok(0),
        inserted => inserted,
    }
}

/// `careful`: rows may stand, and those are passed over; else one that stands is an error.
pub(super) async fn insert_held(session: &mut Session, incarnation: Uuid, rows: &[StepRow<'_>], careful: bool) -> Result<u64> {
    let statement = bind(session.q(if careful { HELD_CAREFUL } else { HELD }), incarnation, rows);
    session.run(statement).await
}

macro_rules! step_columns {
    () => {
        "s.run_id, s.segment, s.branch, s.seq, s.kind, s.site, s.digest, s.failed, s.done, s.seen, s.attempt, s.took_us, s.token, s.written_by, \
         s.epoch, (extract(epoch from s.at) * 1000000)::bigint, s.codec, s.key_id, s.output"
    };
}
pub(super) use step_columns;

/// Columns a step row takes in an answer.
pub(super) const STEP_WIDTH: usize = 19;

/// A row of `step_columns!` from column `at` on.
pub(super) fn record(row: &PgRow, at: usize, sites: &HashMap<i64, Site>) -> Result<(RunKey, StepRecord)> {
    let attempt: i16 = read(row.try_get(at + 10))?;
    let site: i64 = read(row.try_get(at + 5))?;
    let record = StepRecord {
        at: position(row, at + 1)?,
        kind: read(row.try_get(at + 4))?,
        site: sites.get(&site).cloned().unwrap_or_else(|| Site { id: site, name: "".into(), location: "".into() }),
        digest: read(row.try_get(at + 6))?,
        failed: read(row.try_get(at + 7))?,
        done: read(row.try_get(at + 8))?,
        seen: read(row.try_get(at + 9))?,
        attempt: attempt.into(),
        took_us: read(row.try_get(at + 11))?,
        token: read(row.try_get(at + 12))?,
        written_by: read(row.try_get(at + 13))?,
        epoch: read(row.try_get(at + 14))?,
        recorded_at: read(row.try_get(at + 15))?,
        output: payload(row, at + 16)?,
    };
    Ok((read(row.try_get(at))?, record))
}

/// (segment, branch, seq) from column `at` on.
pub(super) fn position(row: &PgRow, at: usize) -> Result<Position> {
    let branch: String = read(row.try_get(at + 1))?;
    Ok(Position { segment: read(row.try_get(at))?, branch: Arc::from(branch), seq: read(row.try_get(at + 2))? })
}

const AT_POSITIONS: &str = concat!(
    "select ",
    step_columns!(),
    " from unnest($1::uuid[], $2::int[], $3::text[], $4::int[]) as u(run_id, segment, branch, seq) \
     cross join lateral (select * from {s}.step s where s.run_id = u.run_id and s.segment = u.segment and s.branch = u.branch and s.seq = u.seq offset 0) s"
);

/// What stands at these positions, committed or our own.
pub(super) async fn standing(session: &mut Session, sites: &Sites, wanted: &[(RunKey, &Position)]) -> Result<HashMap<(RunKey, Position), StepRecord>> {
    let statement = session
        .q(AT_POSITIONS)
        .bind(wanted.iter().map(|(run, _)| *run).collect::<Vec<_>>())
        .bind(wanted.iter().map(|(_, at)| at.segment).collect::<Vec<_>>())
        .bind(wanted.iter().map(|(_, at)| &*at.branch).collect::<Vec<_>>())
        .bind(wanted.iter().map(|(_, at)| at.seq).collect::<Vec<_>>());
    let rows = session.rows(statement).await?;
    let names = sites.of_rows(session, &rows, 5).await?;
    let mut found = HashMap::new();
    for row in &rows {
        let (run, record) = record(row, 0, &names)?;
        found.insert((run, record.at.clone()), record);
    }
    Ok(found)
}

/// A failed attempt, or the mark of one about to start.
pub(super) struct AttemptRow<'w> {
    pub(super) run: RunKey,
    pub(super) epoch: i32,
    pub(super) at: Position,
    pub(super) attempt: i32,
    pub(super) started: bool,
    pub(super) site: i64,
    pub(super) token: i64,
    pub(super) error: &'w crate::store::Payload,
    pub(super) retry_in_ms: Option<i64>,
}

const INSERT_ATTEMPTS: &str = "\
insert into {s}.attempt (run_id, segment, branch, seq, attempt, started, site, at, retry_at, written_by, epoch, token, codec, key_id, error)
select u.run_id, u.segment, u.branch, u.seq, u.attempt, u.started, u.site, statement_timestamp(),
       statement_timestamp() + u.retry_ms * interval '1 millisecond', $1, u.epoch, u.token, u.codec, u.key_id, u.error
from unnest($2::uuid[], $3::int[], $4::text[], $5::int[], $6::int[], $7::bool[], $8::bigint[], $9::bigint[], $10::int[], $11::bigint[],
            $12::smallint[], $13::text[], $14::bytea[])
  as u(run_id, segment, branch, seq, attempt, started, site, retry_ms, epoch, token, codec, key_id, error)
on conflict do nothing";

pub(super) async fn insert_attempts(session: &mut Session, incarnation: Uuid, rows: &[AttemptRow<'_>]) -> Result<u64> {
    fn column<'w, T>(rows: &'w [AttemptRow<'w>], of: impl Fn(&'w AttemptRow<'w>) -> T) -> Vec<T> {
        rows.iter().map(of).collect()
    }
    let statement = session
        .q(INSERT_ATTEMPTS)
        .bind(incarnation)
        .bind(column(rows, |r| r.run))
        .bind(column(rows, |r| r.at.segment))
        .bind(column(rows, |r| &*r.at.branch))
        .bind(column(rows, |r| r.at.seq))
        .bind(column(rows, |r| r.attempt))
        .bind(column(rows, |r| r.started))
        .bind(column(rows, |r| r.site))
        .bind(column(rows, |r| r.retry_in_ms))
        .bind(column(rows, |r| r.epoch))
        .bind(column(rows, |r| r.token))
        .bind(column(rows, |r| r.error.codec))
        .bind(column(rows, |r| r.error.key_id.as_deref()))
        .bind(column(rows, |r| data(r.error)));
    session.run(statement).await
}

const ATTEMPT_TOKENS: &str = "\
select a.run_id, a.token from unnest($1::uuid[], $2::bigint[]) as u(run_id, token)
cross join lateral (select * from {s}.attempt a where a.run_id = u.run_id and a.token = u.token offset 0) a";

/// Which of these attempts, by token, are recorded.
pub(super) async fn attempts_recorded(session: &mut Session, wanted: &[(RunKey, i64)]) -> Result<HashSet<(RunKey, i64)>> {
    let statement =
        session.q(ATTEMPT_TOKENS).bind(wanted.iter().map(|(run, _)| *run).collect::<Vec<_>>()).bind(wanted.iter().map(|(_, token)| *token).collect::<Vec<_>>());
    session.rows(statement).await?.iter().map(|row| Ok((read(row.try_get(0))?, read(row.try_get(1))?))).collect()
}
