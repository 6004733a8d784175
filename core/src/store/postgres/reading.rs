//! Runs as a person or a client looks at them.

use sqlx::Row;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::connect::Session;
use super::rows::{payload, read, state};
use super::steps::{STEP_WIDTH, record, step_columns};
use super::{PostgresStore, history};
use crate::store::{Position, Result, RunDetail, RunFilter, RunKey, RunState, RunSummary, SlowStep, StepView, WaitAnswer};

macro_rules! summary_columns {
    () => {
        "i.run_id, i.id_text, i.workflow, i.version, i.queue, i.label, r.state, r.epoch, r.segment, r.priority, r.crashes, r.run_attempt, r.owner,
       i.parent, i.root, i.forked_from, i.attributes, i.fairness_key, i.cost, i.created_by, i.trace_parent, i.trace_state,
       (extract(epoch from i.created_at) * 1000000)::bigint, (extract(epoch from o.at) * 1000000)::bigint,
       (extract(epoch from i.start_at) * 1000000)::bigint, (extract(epoch from i.deadline_at) * 1000000)::bigint,
       (extract(epoch from i.expires_at) * 1000000)::bigint,
       o.error_type, o.error_message, n.cancel_by, n.cancel_why, case when r.state = 5 then n.blocked_why end"
    };
}

/// Columns of a summary.
const SUMMARY_WIDTH: usize = 32;

macro_rules! beside {
    () => {
        "left join lateral (select * from {s}.outcome o where o.run_id = i.run_id and r.state in (6, 7, 8) offset 0) o on true
left join lateral (select * from {s}.run_note n where n.run_id = i.run_id offset 0) n on true"
    };
}

fn summary(row: &PgRow) -> Result<RunSummary> {
    let (crashes, run_attempt): (i16, i16) = (read(row.try_get(10))?, read(row.try_get(11))?);
    Ok(RunSummary {
        key: read(row.try_get(0))?,
        id_text: read(row.try_get(1))?,
        workflow: read(row.try_get(2))?,
        version: read(row.try_get(3))?,
        queue: read(row.try_get(4))?,
        label: read(row.try_get(5))?,
        state: state(read(row.try_get(6))?)?,
        epoch: read(row.try_get(7))?,
        segment: read(row.try_get(8))?,
        priority: read(row.try_get(9))?,
        crashes: crashes.into(),
        run_attempt: run_attempt.into(),
        owner: read(row.try_get(12))?,
        parent: read(row.try_get(13))?,
        root: read(row.try_get(14))?,
        forked_from: read(row.try_get(15))?,
        attributes: read(row.try_get(16))?,
        fairness_key: read(row.try_get(17))?,
        cost: read(row.try_get(18))?,
        created_by: read(row.try_get(19))?,
        trace_parent: read(row.try_get(20))?,
        trace_state: read(row.try_get(21))?,
        created_at: read(row.try_get(22))?,
        finished_at: read(row.try_get(23))?,
        start_at: read(row.try_get(24))?,
        deadline_at: read(row.try_get(25))?,
        expires_at: read(row.try_get(26))?,
        error_type: read(row.try_get(27))?,
        error_message: read(row.try_get(28))?,
        cancel_by: read(row.try_get(29))?,
        cancel_why: read(row.try_get(30))?,
        blocked_why: read(row.try_get(31))?,
    })
}

const FIND: &str = concat!(
    "select ",
    summary_columns!(),
    ", i.input_codec, i.input_key_id, i.input, o.codec, o.key_id, o.value,
       (select count(*) from {s}.step s where s.run_id = i.run_id and s.segment = r.segment offset 0),
       (select count(*) from {s}.message m where m.run_id = i.run_id and m.consumed is null offset 0), w.host, w.pid,
       case when r.state in (2, 4) and n.slow_epoch = r.epoch then n.slow_steps end,
       (extract(epoch from statement_timestamp() - n.slow_at) * 1000)::bigint
from {s}.run_info i
cross join lateral (select * from {s}.run r where r.id = i.run_id offset 0) r
",
    beside!(),
    "
left join lateral (select w.host, w.pid from {s}.worker w where w.incarnation = r.owner offset 0) w on true
where i.run_id = $1"
);

pub(super) async fn find(store: &PostgresStore, run: RunKey) -> Result<Option<RunDetail>> {
    let mut session = store.pool.session(&store.shared).await?;
    let rows = session.rows(session.q(FIND).bind(run)).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    let summary = summary(row)?;
    let outcome = match read(row.try_get::<Option<i16>, _>(SUMMARY_WIDTH + 3))? {
        Some(_) => Some(payload(row, SUMMARY_WIDTH + 3)?),
        None => None,
    };
    let (ids, segments) = ([run], [summary.segment]);
    let waits = history::open_waits(store, &mut session, &ids, &segments).await?;
    let attempts = history::attempts(&mut session, &ids, &segments).await?;
    Ok(Some(RunDetail {
        input: payload(row, SUMMARY_WIDTH)?,
        outcome,
        waits: waits.into_iter().map(|(_, wait)| wait).collect(),
        attempts: attempts.into_iter().map(|(_, attempt)| attempt).collect(),
        steps_recorded: read(row.try_get(SUMMARY_WIDTH + 6))?,
        messages_pending: read(row.try_get(SUMMARY_WIDTH + 7))?,
        owner_host: read(row.try_get(SUMMARY_WIDTH + 8))?,
        owner_pid: read(row.try_get(SUMMARY_WIDTH + 9))?,
        slow: SlowStep::read(read(row.try_get(SUMMARY_WIDTH + 10))?, read(row.try_get(SUMMARY_WIDTH + 11))?),
        summary,
    }))
}

macro_rules! list_where {
    () => {
        "
cross join lateral (select * from {s}.run r where r.id = i.run_id and (cardinality($2::smallint[]) = 0 or r.state = any($2)) offset 0) r
"
    };
}

macro_rules! list_filter {
    () => {
        " i.namespace = $1
  and ($3::text is null or i.workflow = $3) and ($4::text is null or i.queue = $4)
  and ($5::text is null or i.attributes::jsonb -> $5 = $6::jsonb)
  and ($7::bigint is null or i.created_at >= timestamptz 'epoch' + $7 * interval '1 microsecond')
  and ($8::bigint is null or i.created_at < timestamptz 'epoch' + $8 * interval '1 microsecond')
  and (i.created_at, i.run_id) < (coalesce(timestamptz 'epoch' + $9::bigint * interval '1 microsecond', 'infinity'::timestamptz), $10::uuid)
order by i.namespace desc, i.created_at desc, i.run_id desc limit $11"
    };
}

const LIST: &str = concat!("select ", summary_columns!(), " from {s}.run_info i", list_where!(), beside!(), "\nwhere $12::uuid is null and", list_filter!());

const CHILDREN: &str = concat!(
    "select ",
    summary_columns!(),
    " from (select * from {s}.run_info i where i.parent = $12 offset 0) i",
    list_where!(),
    beside!(),
    "\nwhere",
    list_filter!()
);

/// Blocked, failed or cancelled, by the index of those.
const ATTENTION: &str = concat!(
    "select ",
    summary_columns!(),
    " from (select i.* from {s}.run a cross join lateral (select * from {s}.run_info i where i.run_id = a.id offset 0) i
      where a.state in (5, 7, 8) and a.state = any($2::smallint[]) and $12::uuid is null offset 0) i",
    list_where!(),
    beside!(),
    "\nwhere",
    list_filter!()
);

const FEW: i64 = 2500;
const COUNT_FEW: &str = "\
select count(*) from (select 1 from {s}.run a where a.state in (5, 7, 8) and a.state = any($1::smallint[]) limit $2) a";

/// Whether it is better to sort all that are in one of these states than to walk back through all runs until enough of them are found: where they are
/// many, a few are found soon.
async fn are_few(session: &mut Session, filter: &RunFilter) -> Result<bool> {
    let attention = [RunState::Blocked, RunState::Failed, RunState::Cancelled];
    if filter.states.is_empty() || !filter.states.iter().all(|state| attention.contains(state)) {
        return Ok(false);
    }
    let states: Vec<i16> = filter.states.iter().map(|state| *state as i16).collect();
    let rows = session.rows(session.q(COUNT_FEW).bind(states).bind(FEW)).await?;
    Ok(rows.first().map(|row| read::<i64>(row.try_get(0))).transpose()?.is_some_and(|count| count < FEW))
}

pub(super) async fn list(store: &PostgresStore, filter: &RunFilter) -> Result<Vec<RunSummary>> {
    let mut session = store.pool.session(&store.shared).await?;
    let text = match filter.parent {
        Some(_) => CHILDREN,
        None if are_few(&mut session, filter).await? => ATTENTION,
        None => LIST,
    };
    let statement = session
        .q(text)
        .bind(store.shared.namespace.as_str())
        .bind(filter.states.iter().map(|state| *state as i16).collect::<Vec<_>>())
        .bind(filter.workflow.as_deref())
        .bind(filter.queue.as_deref())
        .bind(filter.attribute.as_ref().map(|(name, _)| name.as_str()))
        .bind(filter.attribute.as_ref().map(|(_, value)| value.as_str()))
        .bind(filter.created_from)
        .bind(filter.created_before)
        .bind(filter.after.map(|(at, _)| at))
        .bind(filter.after.map_or(Uuid::max(), |(_, key)| key))
        .bind(filter.limit)
        .bind(filter.parent);
    session.rows(statement).await?.iter().map(summary).collect()
}

const STEPS: &str = concat!(
    "select ",
    step_columns!(),
    ", coalesce(w.host, d.host), coalesce(w.pid, d.pid)
from {s}.run r
cross join lateral (select * from {s}.step s where s.run_id = r.id and (s.segment, s.branch, s.seq) > ($2, $3, $4)
                    order by s.run_id, s.segment, s.branch, s.seq limit $5) s
left join lateral (select w.host, w.pid from {s}.worker w where w.incarnation = s.written_by offset 0) w on true
left join lateral (select d.host, d.pid from {s}.dead_worker d where d.incarnation = s.written_by offset 0) d on true
where r.id = $1"
);

pub(super) async fn steps(store: &PostgresStore, run: RunKey, after: Option<&Position>, limit: i64) -> Result<Vec<StepView>> {
    let mut session = store.pool.session(&store.shared).await?;
    let (segment, branch, seq) = after.map_or((-1, String::new(), i32::MIN), |at| (at.segment, at.branch.to_string(), at.seq));
    let rows = session.rows(session.q(STEPS).bind(run).bind(segment).bind(branch).bind(seq).bind(limit)).await?;
    let sites = store.sites.of_rows(&mut session, &rows, 5).await?;
    rows.iter()
        .map(|row| Ok(StepView { record: record(row, 0, &sites)?.1, host: read(row.try_get(STEP_WIDTH))?, pid: read(row.try_get(STEP_WIDTH + 1))? }))
        .collect()
}

pub(super) async fn events(store: &PostgresStore, wanted: &[(RunKey, String)]) -> Result<Vec<(RunKey, String, WaitAnswer)>> {
    let mut session = store.pool.session(&store.shared).await?;
    let keys: Vec<(RunKey, &str)> = wanted.iter().map(|(run, key)| (*run, key.as_str())).collect();
    Ok(history::events(&mut session, &keys).await?.into_iter().map(|((run, key), answer)| (run, key, answer)).collect())
}

const NOW: &str = "select (extract(epoch from statement_timestamp()) * 1000000)::bigint";

pub(super) async fn now(session: &mut Session) -> Result<i64> {
    let rows = session.rows(session.q(NOW)).await?;
    rows.first().map(|row| read(row.try_get(0))).transpose().map(Option::unwrap_or_default)
}
