//! Starting runs: from outside, as children, as what follows an outcome.

use std::collections::{HashMap, HashSet};

use super::commit::{Batch, NewNames};
use super::connection::Connection;
use super::rows::{later, state};
use super::value::{Columns as _, Val, payload_vals, vals};
use super::wake::{Wakes, load_by_key, release_all, waiters_of_ends};
use crate::store::{DedupPolicy, DedupScope, Due, NewRun, Result, RunKey, RunState, Verdict, cancelled_type};

pub(super) const WAKE: i16 = 1;
pub(super) const START: i16 = 2;
pub(super) const DEADLINE: i16 = 3;
pub(super) const EXPIRY: i16 = 4;
pub(super) const RETRY: i16 = 5;
pub(super) const GRACE: i16 = 6;
/// Children of an ended run are to be cancelled.
pub(super) const CLOSE: i16 = 7;

/// What stands under a key.
struct Standing {
    /// None: only a tombstone.
    run: Option<Existing>,
    tombstone: bool,
}

struct Existing {
    state: RunState,
    start_token: i64,
    /// Still the execution it was inserted with: this worker's, by the claim token of the start.
    first_claim: bool,
    workflow: String,
    id_text: Option<String>,
}

/// A verdict each, in order. A key that comes twice is started once and then found.
pub(super) async fn start_runs(batch: &mut Batch<'_>, runs: &[&NewRun]) -> Result<Vec<Verdict>> {
    let mut verdicts: Vec<Option<Verdict>> = vec![None; runs.len()];
    while verdicts.iter().any(Option::is_none) {
        let mut keys = HashSet::new();
        let mut dedups = HashSet::new();
        let now: Vec<usize> = (0..runs.len())
            .filter(|i| verdicts[*i].is_none())
            // Once one is left for the next pass, later ones of the same dedup key must not overtake it: both conditions are evaluated.
            .filter(|i| {
                let new_key = keys.insert(runs[*i].key);
                let new_dedup = runs[*i].dedup.as_ref().is_none_or(|d| dedups.insert((runs[*i].route.queue.as_str(), d.key.as_str())));
                new_key && new_dedup
            })
            .collect();
        start_distinct(batch, runs, &now, &mut verdicts).await?;
    }
    Ok(verdicts.into_iter().flatten().collect())
}

async fn start_distinct(batch: &mut Batch<'_>, runs: &[&NewRun], now: &[usize], verdicts: &mut [Option<Verdict>]) -> Result<()> {
    let standing = standing(batch, now.iter().map(|i| runs[*i].key)).await?;
    let mut insert = Vec::with_capacity(now.len());
    for index in now {
        let run = runs[*index];
        let verdict = match standing.get(&run.key) {
            Some(Standing { run: Some(existing), .. }) => Some(judge(run, existing)),
            Some(Standing { tombstone: true, .. }) if !run.reuse_purged => Some(Verdict::Purged),
            _ if run.claimed && !batch.leased => Some(Verdict::Fenced),
            _ => match &run.dedup {
                Some(_) => hold_dedup_key(batch, run).await?,
                None => None,
            },
        };
        match verdict {
            Some(verdict) => verdicts[*index] = Some(verdict),
            None => {
                verdicts[*index] = Some(Verdict::Started { claimed: run.claimed });
                insert.push(run);
            }
        }
    }
    insert_runs(batch, &insert).await
}

async fn standing(batch: &mut Batch<'_>, keys: impl Iterator<Item = RunKey>) -> Result<HashMap<RunKey, Standing>> {
    let sql = "with wanted(id) as (values {rows}) \
               select wanted.id, run.state, run.claim_token, run.epoch, run.owner, run_info.workflow, run_info.id_text, tombstone.expires_at, \
               run_info.start_token \
               from wanted left join run on run.id = wanted.id left join run_info on run_info.run_id = wanted.id \
               left join tombstone on tombstone.run_id = wanted.id where run.id is not null or tombstone.run_id is not null";
    let rows = batch.conn.fetch_rows(sql, 1, &[], keys.map(Val::from).collect()).await?;
    let mut found = HashMap::new();
    for row in rows {
        let run = match row.opt_int(1)? {
            Some(_) => Some(Existing {
                state: state(row.int16(1)?)?,
                start_token: row.opt_int(8)?.unwrap_or_default(),
                first_claim: row.opt_uuid(4)?.is_some_and(|owner| Some(owner) == batch.incarnation)
                    && row.int32(3)? == 1
                    && row.opt_int(8)? == row.opt_int(2)?,
                workflow: row.opt_text(5)?.unwrap_or_default(),
                id_text: row.opt_text(6)?,
            }),
            None => None,
        };
        let tombstone = row.opt_int(7)?.is_some_and(|until| until > batch.now);
        found.insert(row.uuid(0)?, Standing { run, tombstone });
    }
    Ok(found)
}

/// The key exists: is it this very insert, the same run asked for again, or another's?
fn judge(run: &NewRun, existing: &Existing) -> Verdict {
    if existing.start_token == run.claim_token && existing.workflow == run.route.workflow && existing.id_text == run.id_text {
        // Said again after an unknown outcome. To be run here only while this worker still holds that first execution.
        let going = matches!(existing.state, RunState::Running | RunState::Cancelling);
        return Verdict::Started { claimed: run.claimed && existing.first_claim && going };
    }
    if existing.workflow == run.route.workflow && existing.id_text == run.id_text {
        Verdict::Attached { run: run.key, state: existing.state, workflow: existing.workflow.clone() }
    } else {
        Verdict::IdConflict { workflow: existing.workflow.clone(), id_text: existing.id_text.clone() }
    }
}

/// None: the key is this run's now (the row is written with the run).
async fn hold_dedup_key(batch: &mut Batch<'_>, run: &NewRun) -> Result<Option<Verdict>> {
    let Some(dedup) = &run.dedup else { return Ok(None) };
    let sql = "select dedup.run_id, dedup.expires_at, run.state, run.epoch, run_info.workflow from dedup left join run on run.id = dedup.run_id \
               left join run_info on run_info.run_id = dedup.run_id where dedup.namespace = ? and dedup.queue = ? and dedup.key = ?";
    let key = vals![batch.namespace, &run.route.queue, &dedup.key];
    let Some(row) = batch.conn.fetch_one(sql, key.clone()).await? else { return Ok(None) };
    let forget = "delete from dedup where namespace = ? and queue = ? and key = ?";
    let holder = row.uuid(0)?;
    let lapsed = row.opt_int(1)?.is_some_and(|until| until <= batch.now);
    let (false, Some(_)) = (lapsed, row.opt_int(2)?) else {
        batch.conn.exec(forget, key).await?;
        return Ok(None);
    };
    let holder_state = state(row.int16(2)?)?;
    let unstarted = holder_state == RunState::Ready && row.int32(3)? == 0;
    match dedup.policy {
        DedupPolicy::Attach => Ok(Some(Verdict::Attached { run: holder, state: holder_state, workflow: row.opt_text(4)?.unwrap_or_default() })),
        DedupPolicy::Replace if unstarted => {
            batch.conn.exec(forget, key).await?;
            cancel_at_once(batch, holder, "dedup", "replaced by a newer start of its dedup key").await?;
            Ok(None)
        }
        DedupPolicy::Replace | DedupPolicy::Reject => Ok(Some(Verdict::Deduplicated { run: holder })),
    }
}

async fn cancel_at_once(batch: &mut Batch<'_>, run: RunKey, by: &str, why: &str) -> Result<()> {
    let Some(row) = load_by_key(batch.conn, [run]).await?.remove(&run) else { return Ok(()) };
    super::control::cancel_now(batch.conn, batch.now, &row, by, why, cancelled_type(by), &mut batch.wakes).await
}

/// One run that nobody waits to hear of, in the transaction of what it follows from.
pub(super) async fn start_following(conn: &mut Connection, namespace: &str, now: i64, run: &NewRun) -> Result<()> {
    let known = super::Names::default();
    let names = NewNames { known: &known, sites: HashMap::new(), routes: HashMap::new() };
    let mut batch = Batch { conn, namespace, now, incarnation: None, leased: false, retry: false, names, wakes: Wakes::new() };
    if standing(&mut batch, [run.key].into_iter()).await?.is_empty() {
        insert_runs(&mut batch, &[run]).await?;
        batch.store_names().await?;
    }
    Ok(())
}

async fn insert_runs(batch: &mut Batch<'_>, runs: &[&NewRun]) -> Result<()> {
    if runs.is_empty() {
        return Ok(());
    }
    let now = batch.now;
    let due = |due: Due| match due {
        Due::After(ms) => later(now, ms),
        Due::At(at) => at,
    };
    let (mut hot, mut cold, mut ready, mut timers, mut dedups) = (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for run in runs {
        let start_at = run.start.map(due);
        let delayed = !run.claimed && start_at.is_some_and(|at| at > now);
        let expires_at = run.expires_ms.map(|ms| later(now, ms));
        let deadline_at = run.deadline_ms.map(|ms| later(now, ms));
        // A claimed run has started: it cannot expire, and a key held while queued is free again.
        let kept = run.dedup.as_ref().filter(|d| !(run.claimed && d.scope == DedupScope::Queued));
        let mut timed = false;
        for (kind, at) in [(START, start_at.filter(|_| delayed)), (DEADLINE, deadline_at), (EXPIRY, expires_at.filter(|_| !run.claimed))] {
            if let Some(at) = at {
                timers.extend(vals![run.key, kind, at]);
                timed = true;
            }
        }
        if let Some(dedup) = kept {
            let (scope, until): (i16, Option<i64>) = match dedup.scope {
                DedupScope::Queued => (1, None),
                DedupScope::UntilDone => (2, None),
                DedupScope::Ttl(ms) => (3, Some(later(now, ms))),
            };
            dedups.extend(vals![batch.namespace, &run.route.queue, &dedup.key, scope, run.key, until]);
        }
        let (state, epoch, owner) = if run.claimed { (RunState::Running, 1, batch.incarnation) } else { (RunState::Ready, 0, None) };
        hot.extend(vals![run.key, owner, run.claim_token, run.route.id, epoch, run.priority, state as i16, timed, kept.is_some()]);
        if !run.claimed && !delayed {
            let ord = batch.conn.next_ord(now);
            ready.extend(vals![run.route.id, run.priority, ord, run.key, run.fairness_key.as_ref()]);
        }
        let parent = run.parent.as_ref();
        cold.extend(vals![
            run.key,
            batch.namespace,
            run.id_text.as_ref(),
            &run.route.workflow,
            run.version.as_ref(),
            &run.route.queue,
            &run.route.label,
            now,
            start_at,
            expires_at,
            deadline_at,
            parent.map(|p| p.run),
            parent.map_or(run.key, |p| p.root),
            parent.map(|p| p.policy as i16),
            run.forked_from,
            run.trace_parent.as_ref(),
            run.trace_state.as_ref(),
            run.attributes.as_ref(),
            run.fairness_key.as_ref(),
            run.cost,
            run.created_by.as_ref(),
            run.options.as_ref(),
            run.claim_token,
        ]);
        cold.extend(payload_vals(&run.input));
        batch.names.route(&run.route);
    }
    let conn = &mut *batch.conn;
    // Whatever stood under these keys was judged above; a tombstone that is left was overruled or has lapsed.
    conn.exec_keys("delete from tombstone where run_id in ({list})", &[], runs.iter().map(|r| r.key)).await?;
    conn.write_rows("insert into run(id, owner, claim_token, route, epoch, priority, state, timed, keyed) values {rows}", 9, hot).await?;
    conn.write_rows(
        "insert into run_info(run_id, namespace, id_text, workflow, version, queue, label, created_at, start_at, expires_at, deadline_at, parent, \
         root, close_policy, forked_from, trace_parent, trace_state, attributes, fairness_key, cost, created_by, options, start_token, input_codec, \
         input_key_id, input) values {rows}",
        26,
        cold,
    )
    .await?;
    conn.write_rows("insert into ready(route, priority, ord, run_id, fairness_key) values {rows}", 5, ready).await?;
    conn.write_rows("insert into timer(run_id, kind, due_at) values {rows}", 3, timers).await?;
    conn.write_rows("insert into dedup(namespace, queue, key, scope, run_id, expires_at) values {rows}", 6, dedups).await?;
    Ok(())
}

/// For callers that end a run here and now: what is woken, what is freed.
pub(super) async fn end_runs(batch: &mut Batch<'_>, runs: &[super::rows::RunRow]) -> Result<()> {
    release_all(batch.conn, runs).await?;
    let keys: Vec<RunKey> = runs.iter().map(|r| r.id).collect();
    waiters_of_ends(batch.conn, &keys, &mut batch.wakes).await
}
