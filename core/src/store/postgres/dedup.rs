//! Starts under a dedup key (Q6): at most one run per key in its scope. In a transaction, one key after another.

use std::collections::HashMap;

use sqlx::Row;
use uuid::Uuid;

use super::connect::Session;
use super::rows::{read, state};
use super::starts;
use crate::store::{DedupPolicy, DedupScope, NewRun, Result, RunKey, RunState, StoreError, Verdict};

/// A key whose time is over is taken in place; any other holder is answered by the second branch, which locks the key.
const TAKE: &str = "\
insert into {s}.dedup as d (namespace, queue, key, scope, run_id, expires_at)
values ($1, $2, $3, $4, $5, statement_timestamp() + $6::bigint * interval '1 millisecond')
on conflict (namespace, queue, key) do update
  set run_id = case when d.expires_at <= statement_timestamp() then excluded.run_id else d.run_id end,
      scope = case when d.expires_at <= statement_timestamp() then excluded.scope else d.scope end,
      expires_at = case when d.expires_at <= statement_timestamp() then excluded.expires_at else d.expires_at end
returning run_id";

/// Not locked: everybody else locks a run and then its key, and here the key is held.
const HOLDER: &str = "\
select r.state, r.epoch, i.workflow from {s}.run r
cross join lateral (select * from {s}.run_info i where i.run_id = r.id offset 0) i
where r.id = $1";

/// For who must change it, without a wait: whoever holds it may want the key next, and gets on when this transaction gives way.
const LOCK_HOLDER: &str = "select r.state, r.epoch from {s}.run r where r.id = $1 for no key update nowait";

const HAND_OVER: &str = "\
update {s}.dedup set run_id = $4, scope = $5, expires_at = statement_timestamp() + $6::bigint * interval '1 millisecond'
where namespace = $1 and queue = $2 and key = $3";

const GIVE_UP: &str = "delete from {s}.dedup where namespace = $1 and queue = $2 and key = $3 and run_id = $4";

/// As `starts::insert`, with dedup keys honoured. Must run in a transaction when any run has one.
pub(super) async fn insert(session: &mut Session, incarnation: Option<Uuid>, lane: i16, runs: &[&NewRun], new: bool) -> Result<Vec<Verdict>> {
    if runs.iter().all(|run| run.dedup.is_none()) {
        return starts::insert(session, incarnation, lane, runs, new).await;
    }
    let mut refused: HashMap<RunKey, Verdict> = HashMap::new();
    let mut keyed: Vec<&NewRun> = runs.iter().filter(|run| run.dedup.is_some()).copied().collect();
    // Keys in one order in every process.
    keyed.sort_by(|a, b| a.dedup.as_ref().map(|d| &d.key).cmp(&b.dedup.as_ref().map(|d| &d.key)));
    // A run that is there already attaches as always; its key is not touched.
    refused.extend(starts::existing(session, incarnation, &keyed).await?);
    keyed.retain(|run| !refused.contains_key(&run.key));
    for run in &keyed {
        if let Some(verdict) = take(session, run).await? {
            refused.insert(run.key, verdict);
        }
    }
    let admitted: Vec<&NewRun> = runs.iter().filter(|run| !refused.contains_key(&run.key)).copied().collect();
    let mut started: HashMap<RunKey, Verdict> = HashMap::new();
    if !admitted.is_empty() {
        let verdicts = starts::insert(session, incarnation, lane, &admitted, false).await?;
        for (run, verdict) in admitted.iter().zip(verdicts) {
            if let (Some(dedup), false) = (&run.dedup, matches!(verdict, Verdict::Started { .. })) {
                let namespace = session.shared.namespace.clone();
                let statement = session.q(GIVE_UP).bind(namespace).bind(run.route.queue.clone()).bind(dedup.key.clone()).bind(run.key);
                session.run(statement).await?;
            }
            started.insert(run.key, verdict);
        }
    }
    Ok(runs.iter().map(|run| refused.get(&run.key).or_else(|| started.get(&run.key)).cloned().unwrap_or(Verdict::Fenced)).collect())
}

fn scope(scope: DedupScope) -> (i16, Option<i64>) {
    match scope {
        DedupScope::Queued => (1, None),
        DedupScope::UntilDone => (2, None),
        DedupScope::Ttl(ms) => (3, Some(ms)),
    }
}

/// None: the key is this run's now.
async fn take(session: &mut Session, run: &NewRun) -> Result<Option<Verdict>> {
    let Some(dedup) = &run.dedup else { return Ok(None) };
    let namespace = session.shared.namespace.clone();
    let (code, ttl) = scope(dedup.scope);
    let statement = session.q(TAKE).bind(&namespace).bind(&run.route.queue).bind(&dedup.key).bind(code).bind(run.key).bind(ttl);
    let rows = session.rows(statement).await?;
    let holder: RunKey = match rows.first() {
        Some(row) => read(row.try_get(0))?,
        None => run.key,
    };
    if holder == run.key {
        return Ok(None);
    }
    let rows = session.rows(session.q(HOLDER).bind(holder)).await?;
    let Some(row) = rows.first() else {
        hand_over(session, run, &namespace).await?;
        return Ok(None);
    };
    let (held_by, epoch): (RunState, i32) = (state(read(row.try_get(0))?)?, read(row.try_get(1))?);
    Ok(match dedup.policy {
        DedupPolicy::Attach => Some(Verdict::Attached { run: holder, state: held_by, workflow: read(row.try_get(2))? }),
        DedupPolicy::Replace if held_by == RunState::Ready && epoch == 0 => {
            let rows = session.rows(session.q(LOCK_HOLDER).bind(holder)).await?;
            let Some(row) = rows.first() else { return Err(StoreError::Conflict("the run that holds the key has just gone".into())) };
            if (state(read(row.try_get(0))?)?, read::<i32>(row.try_get(1))?) != (RunState::Ready, 0) {
                return Ok(Some(Verdict::Deduplicated { run: holder }));
            }
            // First the key: the end of its holder would free it for anybody.
            hand_over(session, run, &namespace).await?;
            super::control::cancel_unstarted(session, holder, "dedup", "replaced by a later run of the same key").await?;
            None
        }
        DedupPolicy::Reject | DedupPolicy::Replace => Some(Verdict::Deduplicated { run: holder }),
    })
}

async fn hand_over(session: &mut Session, run: &NewRun, namespace: &str) -> Result<()> {
    let Some(dedup) = &run.dedup else { return Ok(()) };
    let (code, ttl) = scope(dedup.scope);
    let statement = session.q(HAND_OVER).bind(namespace).bind(&run.route.queue).bind(&dedup.key).bind(run.key).bind(code).bind(ttl);
    session.run(statement).await.map(|_| ())
}
