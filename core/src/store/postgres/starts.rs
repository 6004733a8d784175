//! Inserting runs.

use std::collections::{HashMap, HashSet};

use sqlx::Row;
use uuid::Uuid;

use super::connect::Session;
use super::rows::{column, data, due, read, small, state};
use crate::store::{NewRun, Result, RunKey, RunState, Verdict};

/// Run, info, ready row and timers of each new run, or nothing of it: `t` is what `f` really inserted. The lease is looked at, and locked,
/// only when a row is to be born claimed. `exists (.. f ..)` is quadratic, so the caller keeps the statement to `CHUNK` rows.
macro_rules! start {
    ($conflict:literal) => {
        concat!(
            "with t0 as materialized (
  select * from unnest($3::uuid[], $4::bool[], $5::bigint[], $6::bigint[], $7::int[], $8::bool[], $9::bool[], $10::bool[],
      $11::text[], $12::text[], $13::text[], $14::text[], $15::text[], $16::bigint[], $17::bigint[], $18::bigint[], $19::bigint[],
      $20::uuid[], $21::uuid[], $22::smallint[], $23::uuid[], $24::text[], $25::text[], $26::text[], $27::text[], $28::int[], $29::text[],
      $30::text[], $31::smallint[], $32::text[], $33::bytea[])
    with ordinality as t(id, claimed, route, token, priority, timed, keyed, checked,
      id_text, workflow, version, queue, label, start_after, start_us, expires_ms, deadline_ms,
      parent, root, close_policy, forked_from, trace_parent, trace_state, attributes, fairness_key, cost, created_by,
      options, codec, key_id, data, n)),
f as (
  insert into {s}.run (id, owner, claim_token, route, epoch, priority, state, timed, keyed)
  select t0.id, case when t0.claimed then $1::uuid end, case when t0.claimed then t0.token else 0 end, t0.route,
         case when t0.claimed then 1 else 0 end, t0.priority, case when t0.claimed then 2 else 1 end, t0.timed, t0.keyed
  from t0
  where (not t0.claimed or (select true from {s}.lease x where x.incarnation = $1 and x.lane = $2 for key share))
    and (not t0.checked
         or not exists (select 1 from {s}.tombstone y where y.run_id = t0.id and y.expires_at > statement_timestamp() offset 0))
",
            $conflict,
            " returning id),
t as materialized (
  select t0.*, statement_timestamp() + t0.n * interval '1 microsecond' as created,
         case when t0.start_after is not null then statement_timestamp() + t0.start_after * interval '1 millisecond'
              when t0.start_us is not null then timestamptz 'epoch' + t0.start_us * interval '1 microsecond' end as start_at,
         statement_timestamp() + t0.expires_ms * interval '1 millisecond' as expires_at,
         statement_timestamp() + t0.deadline_ms * interval '1 millisecond' as deadline_at
  from t0 where exists (select 1 from f where f.id = t0.id)),
i as (
  insert into {s}.run_info (run_id, namespace, id_text, workflow, version, queue, label, created_at, start_at, expires_at, deadline_at,
      parent, root, close_policy, forked_from, trace_parent, trace_state, attributes, fairness_key, cost, created_by, options,
      start_token, input_codec, input_key_id, input)
  select t.id, $34, t.id_text, t.workflow, t.version, t.queue, t.label, t.created, t.start_at, t.expires_at, t.deadline_at,
      t.parent, t.root, t.close_policy, t.forked_from, t.trace_parent, t.trace_state, t.attributes, t.fairness_key, t.cost, t.created_by,
      t.options, t.token, t.codec, t.key_id, t.data
  from t),
r as (
  insert into {s}.ready (route, priority, ord, run_id, fairness_key)
  select t.route, t.priority, (extract(epoch from t.created) * 1000000)::bigint, t.id, t.fairness_key
  from t where not t.claimed and t.start_at is null on conflict do nothing),
m as (
  insert into {s}.timer (run_id, kind, due_at)
  select t.id, x.kind, x.due
  from t cross join lateral (values (2, t.start_at), (3, t.deadline_at), (4, t.expires_at)) x(kind, due)
  where t.timed and x.due is not null on conflict do nothing)
select id from f"
        )
    };
}

/// For keys that nobody else can have made.
const START_NEW: &str = start!("");
const START: &str = start!("  on conflict (id) do nothing");

const EXISTING: &str = "\
select u.id, r.state, r.owner, r.epoch, r.claim_token, i.workflow, i.id_text, i.start_token
from unnest($1::uuid[]) as u(id)
left join lateral (select * from {s}.run r where r.id = u.id offset 0) r on true
left join lateral (select * from {s}.run_info i where i.run_id = u.id offset 0) i on true";

const TOMBSTONES: &str = "\
select u.id from unnest($1::uuid[]) as u(id)
where exists (select 1 from {s}.tombstone y where y.run_id = u.id and y.expires_at > statement_timestamp() offset 0)";

const CHUNK: usize = 128;

fn texts<'r, T: ?Sized>(runs: &[&'r NewRun], of: impl Fn(&'r NewRun) -> Option<&'r T>) -> Vec<Option<&'r T>> {
    runs.iter().map(|run| of(run)).collect()
}

/// Insert these runs; verdicts in their order. Fit for autocommit as well as for a transaction. `new`: the engine made these keys and sends
/// them for the first time, so none can stand; if one does, that is an error.
pub(super) async fn insert(session: &mut Session, incarnation: Option<Uuid>, lane: i16, runs: &[&NewRun], new: bool) -> Result<Vec<Verdict>> {
    let mut inserted = HashSet::with_capacity(runs.len());
    for chunk in runs.chunks(CHUNK) {
        // In key order, like every statement that waits for rows of others: two processes may start the same ids.
        let mut sorted = chunk.to_vec();
        sorted.sort_by_key(|run| run.key);
        let namespace = session.shared.namespace.clone();
        inserted.extend(insert_chunk(session, &namespace, incarnation, lane, &sorted, new).await?);
    }
    let missing: Vec<&NewRun> = runs.iter().filter(|run| !inserted.contains(&run.key)).copied().collect();
    let known = if missing.is_empty() { HashMap::new() } else { existing(session, incarnation, &missing).await? };
    Ok(runs
        .iter()
        .map(|run| match known.get(&run.key) {
            _ if inserted.contains(&run.key) => Verdict::Started { claimed: run.claimed },
            Some(verdict) => verdict.clone(),
            // Neither there nor inserted: it was to be born claimed, and the lease is gone.
            None => Verdict::Fenced,
        })
        .collect())
}

/// Have the statement of a start planned.
pub(super) async fn warm(session: &mut Session) -> Result<()> {
    insert_chunk(session, "", None, 0, &[], true).await.map(|_| ())
}

/// One run, claimed by nobody, in a namespace that may be another's. One that stands stays.
pub(super) async fn insert_into(session: &mut Session, namespace: &str, run: &NewRun) -> Result<()> {
    insert_chunk(session, namespace, None, 0, &[run], false).await.map(|_| ())
}

async fn insert_chunk(session: &mut Session, namespace: &str, incarnation: Option<Uuid>, lane: i16, runs: &[&NewRun], new: bool) -> Result<Vec<RunKey>> {
    let statement = session
        .q(if new && runs.iter().all(|run| run.id_text.is_none()) { START_NEW } else { START })
        .bind(incarnation)
        .bind(lane)
        .bind(column(runs, |r| r.key))
        .bind(column(runs, |r| r.claimed))
        .bind(column(runs, |r| r.route.id))
        .bind(column(runs, |r| r.claim_token))
        .bind(column(runs, |r| r.priority))
        .bind(column(runs, |r| r.deadline_ms.is_some() || (!r.claimed && (r.start.is_some() || r.expires_ms.is_some()))))
        .bind(column(runs, |r| r.dedup.is_some()))
        .bind(column(runs, |r| r.id_text.is_some() && !r.reuse_purged))
        .bind(texts(runs, |r| r.id_text.as_deref()))
        .bind(texts(runs, |r| Some(&r.route.workflow)))
        .bind(texts(runs, |r| r.version.as_deref()))
        .bind(texts(runs, |r| Some(&r.route.queue)))
        .bind(texts(runs, |r| Some(&r.route.label)))
        .bind(column(runs, |r| if r.claimed { None } else { due(r.start).0 }))
        .bind(column(runs, |r| if r.claimed { None } else { due(r.start).1 }))
        .bind(column(runs, |r| if r.claimed { None } else { r.expires_ms }))
        .bind(column(runs, |r| r.deadline_ms))
        .bind(column(runs, |r| r.parent.as_ref().map(|p| p.run)))
        .bind(column(runs, |r| r.parent.as_ref().map_or(r.key, |p| p.root)))
        .bind(column(runs, |r| r.parent.as_ref().map(|p| p.policy as i16)))
        .bind(column(runs, |r| r.forked_from))
        .bind(texts(runs, |r| r.trace_parent.as_deref()))
        .bind(texts(runs, |r| r.trace_state.as_deref()))
        .bind(texts(runs, |r| r.attributes.as_deref()))
        .bind(texts(runs, |r| r.fairness_key.as_deref()))
        .bind(column(runs, |r| r.cost))
        .bind(texts(runs, |r| r.created_by.as_deref()))
        .bind(texts(runs, |r| r.options.as_deref()))
        .bind(column(runs, |r| small(r.input.codec.into())))
        .bind(texts(runs, |r| r.input.key_id.as_deref()))
        .bind(texts(runs, |r| data(&r.input)))
        .bind(namespace);
    session.rows(statement).await?.iter().map(|row| read(row.try_get(0))).collect()
}

/// What stands under the keys of runs that were not inserted.
pub(super) async fn existing(session: &mut Session, incarnation: Option<Uuid>, runs: &[&NewRun]) -> Result<HashMap<RunKey, Verdict>> {
    let keys: Vec<RunKey> = runs.iter().map(|run| run.key).collect();
    let by_key: HashMap<RunKey, &NewRun> = runs.iter().map(|run| (run.key, *run)).collect();
    let mut found = HashMap::new();
    for row in session.rows(session.q(EXISTING).bind(&keys)).await? {
        let key: RunKey = read(row.try_get(0))?;
        let (Some(code), Some(run)) = (read(row.try_get::<Option<i16>, _>(1))?, by_key.get(&key)) else { continue };
        let state = state(code)?;
        let workflow: Option<String> = read(row.try_get(5))?;
        let workflow = workflow.unwrap_or_default();
        let id_text: Option<String> = read(row.try_get(6))?;
        let start_token: Option<i64> = read(row.try_get(7))?;
        let verdict = if start_token == Some(run.claim_token) && workflow == run.route.workflow {
            let owner: Option<Uuid> = read(row.try_get(2))?;
            let (epoch, token): (i32, i64) = (read(row.try_get(3))?, read(row.try_get(4))?);
            let claimed = run.claimed && incarnation.is_some() && owner == incarnation && epoch == 1 && token == run.claim_token;
            Verdict::Started { claimed: claimed && matches!(state, RunState::Running | RunState::Cancelling) }
        } else if workflow != run.route.workflow || id_text != run.id_text {
            Verdict::IdConflict { workflow, id_text }
        } else {
            Verdict::Attached { run: key, state, workflow }
        };
        found.insert(key, verdict);
    }
    let unknown: Vec<RunKey> = keys.iter().filter(|key| !found.contains_key(*key)).copied().collect();
    if !unknown.is_empty() {
        for row in session.rows(session.q(TOMBSTONES).bind(&unknown)).await? {
            let key: RunKey = read(row.try_get(0))?;
            if by_key.get(&key).is_some_and(|run| run.id_text.is_some() && !run.reuse_purged) {
                found.insert(key, Verdict::Purged);
            }
        }
    }
    Ok(found)
}
