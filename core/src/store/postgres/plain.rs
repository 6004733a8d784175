//! The batch most batches are, in one autocommit statement: checkpoints without effects, runs born claimed, ends that concern nobody else.
//!
//! As a transaction such a batch takes six round trips, and each costs both sides about as much as fifty rows. It is all of it or nothing: the
//! statement writes only when it holds the lease row and every run row and finds each as its writer expects. What it does not write is left to the
//! transaction (`apply`), which tells the fenced from the repeated (`core/docs/decisions/0022-a-plain-batch-is-one-statement.md`).

use std::collections::BTreeMap;

use sqlx::Row;
use uuid::Uuid;

use super::changes::OutcomeRow;
use super::connect::{Session, Statement};
use super::errors::is_duplicate;
use super::rows::{column, data, read, small, unless};
use super::steps::{self, StepRow, insert_steps};
use crate::failpoint::mutated;
use crate::store::{NewRun, Result, RunKey, RunState, Write};

/// `k` locks in key order, like every statement that waits for rows of others. An end needs more than its fence: no slot, timer or dedup key beside
/// the row, and nobody who waits for it. Who opens a wait makes a new version of the row he waits for (`waits::open`): committed before this
/// statement's snapshot his wait is seen here, and after it the version that gets locked is not the one that was seen.
/// Names are the same in many new runs: each is sent once, and by number.
macro_rules! plain {
    ($lease:literal, $fence:literal, $lock:literal) => {
        concat!(
            "with l as materialized (",
            $lease,
            "),
k as materialized (
  select u.id, u.o, r.c
  from (select ($20::uuid[])[n] as id, coalesce(($21::int[])[n], 1) as epoch, coalesce(($22::int[])[n], 0) as o
        from generate_series(1, cardinality($20::uuid[])) as n) u
  cross join lateral (
    select r.ctid as c from {s}.run r
    where r.id = u.id and (select held from l) and (u.o = 0 or not (r.slotted or r.timed or r.keyed))",
            $fence,
            $lock,
            " offset 0) r
  where u.o = 0 or (r.c = (select y.ctid from {s}.run y where y.id = u.id)
                    and not exists (select 1 from {s}.waiter w where w.target = u.id offset 0))),
go as materialized (
  select coalesce((select held from l), false) and (select count(*) from k) = cardinality($20::uuid[]) as ok),
s as (",
            insert_steps!("where (select ok from go)", ""),
            "),
o as (
  insert into {s}.outcome (run_id, state, epoch, token, written_by, at, error_type, error_message, codec, key_id, value)
  select ($23::uuid[])[v.n::int], coalesce(($24::smallint[])[v.n::int], 6::smallint), coalesce(($25::int[])[v.n::int], 1), ($26::bigint[])[v.n::int],
    $1, statement_timestamp(), v.error_type, v.error_message, coalesce(($27::smallint[])[v.n::int], 1::smallint), v.key_id, v.value
  from unnest($28::text[], $29::text[], $30::text[], $31::bytea[]) with ordinality as v(error_type, error_message, key_id, value, n)
  where (select ok from go)),
c as (
  update {s}.run x set state = coalesce(($24::smallint[])[k.o], 6::smallint), owner = null
  from k where k.o > 0 and x.ctid = k.c and (select ok from go)),
d as (
  delete from {s}.waiter x using k, lateral (select w.ctid as c from {s}.waiter w where w.run_id = k.id offset 0) l
  where k.o > 0 and x.ctid = l.c and (select ok from go)),
f as (
  insert into {s}.run (id, owner, claim_token, route, epoch, priority, state)
  select ($32::uuid[])[n], $1, ($33::bigint[])[n], ($34::bigint[])[n], 1, coalesce(($35::int[])[n], 0), 2
  from generate_series(1, cardinality($32::uuid[])) as n where (select ok from go)),
i as (
  insert into {s}.run_info (run_id, namespace, workflow, version, queue, label, created_at, parent, root, close_policy, forked_from,
    trace_parent, trace_state, attributes, fairness_key, cost, created_by, options, start_token, input_codec, input_key_id, input)
  select u.id, $36, ($38::text[])[u.name], ($39::text[])[u.name], ($40::text[])[u.name], ($41::text[])[u.name],
    statement_timestamp() + u.n * interval '1 microsecond', ($42::uuid[])[u.n], coalesce(($43::uuid[])[u.n], u.id), ($44::smallint[])[u.n],
    ($45::uuid[])[u.n], u.trace_parent, u.trace_state, u.attributes, u.fairness_key, coalesce(($51::int[])[u.n], 1), u.created_by, u.options,
    ($33::bigint[])[u.n], coalesce(($53::smallint[])[u.n], 1::smallint), u.key_id, u.data
  from (select v.ord::int as n, ($32::uuid[])[v.ord::int] as id, ($37::int[])[v.ord::int] as name, v.*
        from unnest($46::text[], $47::text[], $48::text[], $49::text[], $50::text[], $52::text[], $54::text[], $55::bytea[])
             with ordinality as v(trace_parent, trace_state, attributes, fairness_key, created_by, options, key_id, data, ord)) as u
  where (select ok from go))
select ok from go"
        )
    };
}

const PLAIN: &str = plain!(
    "select true as held from {s}.lease x where x.incarnation = $1 and x.lane = $19 for key share",
    " and r.owner = $1 and r.epoch = u.epoch and r.state in (2, 4)",
    " for no key update"
);

/// With one of the two locks taken out: for the suite, which must notice (`failpoint::MUTATIONS`).
const WITHOUT_LEASE: &str =
    plain!("select $19::smallint is not null as held", " and r.owner = $1 and r.epoch = u.epoch and r.state in (2, 4)", " for no key update");
const WITHOUT_RUN: &str = plain!("select true as held from {s}.lease x where x.incarnation = $1 and x.lane = $19 for key share", "", "");

/// What a plain batch holds, by kind.
#[derive(Default)]
pub(super) struct Plain<'w> {
    pub(super) steps: Vec<StepRow<'w>>,
    outcomes: Vec<OutcomeRow<'w>>,
    births: Vec<&'w NewRun>,
}

impl<'w> Plain<'w> {
    /// None: something in it needs the transaction.
    pub(super) fn of(piece: &'w [Write]) -> Option<Self> {
        let mut plain = Plain::default();
        for write in piece {
            match write {
                Write::Step { run, epoch, step } if step.effects.is_empty() => plain.steps.push(StepRow { run: *run, epoch: *epoch, step }),
                Write::Outcome { run, epoch, state, token, value, error_type, error_message, children: false, then: None } => plain.outcomes.push(OutcomeRow {
                    run: *run,
                    epoch: *epoch,
                    state: *state,
                    token: *token,
                    value,
                    error_type: error_type.as_deref(),
                    error_message: error_message.as_deref(),
                }),
                Write::Start(run) if is_born_plain(run) => plain.births.push(run),
                _ => return None,
            }
        }
        Some(plain)
    }

    pub(super) fn has_ends(&self) -> bool {
        !self.outcomes.is_empty()
    }

    /// Checkpoints and nothing else: `steps::insert_fenced` is the shorter form.
    pub(super) fn only_steps(&self) -> bool {
        self.outcomes.is_empty() && self.births.is_empty()
    }
}

/// A run of this engine's own key, born claimed, with nothing beside it.
fn is_born_plain(run: &NewRun) -> bool {
    run.claimed && run.id_text.is_none() && run.dedup.is_none() && run.deadline_ms.is_none()
}

pub(super) enum Written {
    All,
    /// Something in it needs the transaction, or is fenced.
    Nothing,
    /// Nothing, because a row of it is there from before.
    Stands,
}

pub(super) async fn write(session: &mut Session, incarnation: Uuid, lane: i16, plain: &mut Plain<'_>) -> Result<Written> {
    // Neighbours in the index go in together, and rows are locked in key order.
    plain.steps.sort_by_key(|row| row.run);
    plain.births.sort_by_key(|run| run.key);
    let mut held: BTreeMap<RunKey, (i32, i32)> = BTreeMap::new();
    for row in &plain.steps {
        if held.insert(row.run, (row.epoch, 0)).is_some_and(|(epoch, _)| epoch != row.epoch) {
            // An execution that lost the run, and the next one, both of this process: the fence has one answer for each.
            return Ok(Written::Nothing);
        }
    }
    for (at, outcome) in plain.outcomes.iter().enumerate() {
        if held.insert(outcome.run, (outcome.epoch, at as i32 + 1)).is_some() {
            // A branch records beside its run's end. Rare, and the row would be both looked at and changed.
            return Ok(Written::Nothing);
        }
    }
    let text = match () {
        () if mutated("fence.lease") => WITHOUT_LEASE,
        () if mutated("fence.run") => WITHOUT_RUN,
        () => PLAIN,
    };
    let statement = steps::bind(session.q(text), incarnation, &plain.steps).bind(lane);
    let locks: Vec<(RunKey, (i32, i32))> = held.into_iter().collect();
    let statement = statement.bind(column(&locks, |l| l.0)).bind(unless(&locks, 1, |l| l.1.0)).bind(unless(&locks, 0, |l| l.1.1));
    let statement = bind_births(bind_outcomes(statement, &plain.outcomes), session.shared.namespace.clone(), &plain.births);
    match session.rows(statement).await {
        Err(error) if is_duplicate(&error) => Ok(Written::Stands),
        Err(error) => Err(error),
        Ok(rows) => {
            let all = rows.first().map_or(Ok(false), |row| read(row.try_get(0)))?;
            Ok(if all { Written::All } else { Written::Nothing })
        }
    }
}

fn bind_outcomes<'q>(statement: Statement<'q>, outcomes: &[OutcomeRow<'q>]) -> Statement<'q> {
    statement
        .bind(column(outcomes, |o| o.run))
        .bind(unless(outcomes, RunState::Succeeded as i16, |o| o.state as i16))
        .bind(unless(outcomes, 1, |o| o.epoch))
        .bind(column(outcomes, |o| o.token))
        .bind(unless(outcomes, 1, |o| o.value.codec))
        .bind(unless(outcomes, None, |o| o.error_type))
        .bind(unless(outcomes, None, |o| o.error_message))
        .bind(unless(outcomes, None, |o| o.value.key_id.as_deref()))
        .bind(column(outcomes, |o| data(o.value)))
}

fn bind_births<'q>(statement: Statement<'q>, namespace: String, runs: &[&'q NewRun]) -> Statement<'q> {
    type Names<'r> = (&'r str, Option<&'r str>, &'r str, &'r str);
    let (mut names, mut numbers): (Vec<Names<'_>>, Vec<i32>) = (Vec::new(), Vec::with_capacity(runs.len()));
    for run in runs {
        let name: Names<'_> = (&run.route.workflow, run.version.as_deref(), &run.route.queue, &run.route.label);
        let at = names.iter().position(|known| *known == name).unwrap_or_else(|| {
            names.push(name);
            names.len() - 1
        });
        numbers.push(at as i32 + 1);
    }
    statement
        .bind(column(runs, |r| r.key))
        .bind(column(runs, |r| r.claim_token))
        .bind(column(runs, |r| r.route.id))
        .bind(unless(runs, 0, |r| r.priority))
        .bind(namespace)
        .bind(numbers)
        .bind(column(&names, |n| n.0))
        .bind(column(&names, |n| n.1))
        .bind(column(&names, |n| n.2))
        .bind(column(&names, |n| n.3))
        .bind(unless(runs, None, |r| r.parent.as_ref().map(|p| p.run)))
        .bind(unless(runs, None, |r| r.parent.as_ref().map(|p| p.root)))
        .bind(unless(runs, None, |r| r.parent.as_ref().map(|p| p.policy as i16)))
        .bind(unless(runs, None, |r| r.forked_from))
        .bind(unless(runs, None, |r| r.trace_parent.as_deref()))
        .bind(unless(runs, None, |r| r.trace_state.as_deref()))
        .bind(unless(runs, None, |r| r.attributes.as_deref()))
        .bind(unless(runs, None, |r| r.fairness_key.as_deref()))
        .bind(unless(runs, None, |r| r.created_by.as_deref()))
        .bind(unless(runs, 1, |r| r.cost))
        .bind(unless(runs, None, |r| r.options.as_deref()))
        .bind(unless(runs, 1, |r| small(r.input.codec.into())))
        .bind(unless(runs, None, |r| r.input.key_id.as_deref()))
        .bind(column(runs, |r| data(&r.input)))
}

/// Have the statement planned.
pub(super) async fn warm(session: &mut Session) -> Result<()> {
    write(session, Uuid::nil(), 0, &mut Plain::default()).await.map(|_| ())
}
