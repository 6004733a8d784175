//! How a run leaves its owner: ended, retried, released, given back, blocked.

use std::collections::HashMap;

use super::commit::Batch;
use super::rows::{RunRow, later};
use super::start::{RETRY, WAKE, end_runs, start_runs};
use super::step::{INSERT_ATTEMPT, attempt_stands};
use super::value::{Val, payload_vals, vals};
use super::wake::{free_slots, insert_ready, leave_children, lend_slots, make_ready};
use crate::failpoint::mutated;
use crate::store::forget::By;
use crate::store::{CLOSE_AGAIN_MS, Due, NewRun, Position, Result, RunKey, RunState, Verdict, Write};

/// All writes of the stage are of one kind.
pub(super) async fn leave(batch: &mut Batch<'_>, stage: &[usize], writes: &[Write], verdicts: &mut [Option<Verdict>]) -> Result<()> {
    let runs = batch.runs_of(stage, writes).await?;
    let mut held: Vec<(usize, RunRow)> = Vec::with_capacity(stage.len());
    for index in stage {
        let (run, epoch) = match &writes[*index] {
            Write::Outcome { run, epoch, .. }
            | Write::RetryRun { run, epoch, .. }
            | Write::Release { run, epoch, .. }
            | Write::GiveBack { run, epoch }
            | Write::Block { run, epoch, .. } => (*run, *epoch),
            _ => continue,
        };
        let row = runs.get(&run);
        if batch.retry && settled(batch, row, epoch, &writes[*index]).await? {
            verdicts[*index] = Some(Verdict::Committed);
        } else if !batch.fence(row, epoch) {
            verdicts[*index] = Some(Verdict::Fenced);
        } else if let Some(row) = row {
            held.push((*index, row.clone()));
        }
    }
    if held.is_empty() {
        return Ok(());
    }
    match &writes[held[0].0] {
        Write::Outcome { .. } => outcomes(batch, &held, writes, verdicts).await,
        Write::RetryRun { .. } => retries(batch, &held, writes, verdicts).await,
        Write::Release { .. } => releases(batch, &held, writes, verdicts).await,
        Write::GiveBack { .. } => gives_back(batch, &held, verdicts).await,
        _ => blocks(batch, &held, writes, verdicts).await,
    }
}

/// Did an earlier try of this very write commit? Where there is a token it says so. A release, a give-back and a block leave the run
/// in a state nobody else gives it at this epoch; if it has gone on since, `Fenced` says the same to the engine: it is not yours.
async fn settled(batch: &mut Batch<'_>, row: Option<&RunRow>, epoch: i32, write: &Write) -> Result<bool> {
    let Some(row) = row else { return Ok(false) };
    let left = |state: RunState| row.state == state && row.owner.is_none() && row.epoch == epoch + 1;
    Ok(match write {
        Write::Outcome { run, token, .. } => {
            batch.conn.fetch_one("select 1 from outcome where run_id = ? and token = ? and epoch = ?", vals![*run, *token, epoch]).await?.is_some()
        }
        Write::RetryRun { run, attempt, token, .. } => attempt_stands(batch, *run, &whole_run(row), *attempt, false, *token).await?,
        Write::Release { .. } => left(RunState::Waiting) || (row.state == RunState::Ready && row.owner.is_none() && row.epoch == epoch + 2),
        Write::GiveBack { .. } => left(RunState::Ready) || left(RunState::Cancelling),
        Write::Block { .. } => left(RunState::Blocked),
        _ => false,
    })
}

/// Where the attempts of the workflow as a whole stand.
fn whole_run(row: &RunRow) -> Position {
    Position { segment: row.segment, branch: "".into(), seq: -1 }
}

async fn outcomes(batch: &mut Batch<'_>, held: &[(usize, RunRow)], writes: &[Write], verdicts: &mut [Option<Verdict>]) -> Result<()> {
    let mut rows: Vec<Val> = Vec::with_capacity(held.len() * 11);
    let mut by_state: HashMap<i16, Vec<RunKey>> = HashMap::new();
    let mut next: Vec<&NewRun> = Vec::new();
    let mut parents: Vec<RunKey> = Vec::new();
    for (index, row) in held {
        let Write::Outcome { run, epoch, state, token, value, error_type, error_message, then, children } = &writes[*index] else { continue };
        rows.extend(vals![*run, *state as i16, *epoch, *token, batch.incarnation, batch.now, error_type.as_ref(), error_message.as_ref()]);
        rows.extend(payload_vals(value));
        by_state.entry(*state as i16).or_default().push(row.id);
        next.extend(then.as_deref());
        parents.extend(children.then_some(*run));
        verdicts[*index] = Some(Verdict::Committed);
    }
    // An outcome can only stand here when a recorded retry or resume forgot to delete it; the newer end is the truth.
    let sql = "insert or replace into outcome(run_id, state, epoch, token, written_by, at, error_type, error_message, codec, key_id, value) values {rows}";
    batch.conn.write_rows(sql, 11, rows).await?;
    for (state, runs) in by_state {
        let sql = "update run set state = ?, owner = null, timed = 0, keyed = 0 where id in ({list})";
        batch.conn.exec_keys(sql, &[state.into()], runs).await?;
    }
    let ended: Vec<RunRow> = held.iter().map(|(_, row)| row.clone()).collect();
    end_runs(batch, &ended).await?;
    leave_children(batch.conn, later(batch.now, CLOSE_AGAIN_MS), &parents).await?;
    // Its own verdict is nobody's: the run that ended has no say in what stands under the key of the next.
    start_runs(batch, &next).await.map(drop)
}

async fn retries(batch: &mut Batch<'_>, held: &[(usize, RunRow)], writes: &[Write], verdicts: &mut [Option<Verdict>]) -> Result<()> {
    let Some(incarnation) = batch.incarnation else { return Ok(()) };
    let mut rows: Vec<Val> = Vec::new();
    let mut timers: Vec<Val> = Vec::new();
    let mut at_once: Vec<RunRow> = Vec::new();
    for (index, row) in held {
        let Write::RetryRun { run, epoch, after_ms, attempt, token, error } = &writes[*index] else { continue };
        // The next attempt goes on at the step that failed; its record would only fail the run again.
        super::control::forget_failed(batch.conn, row, error.as_json(), By::Policy).await?;
        let due = later(batch.now, *after_ms);
        let at = whole_run(row);
        rows.extend(vals![*run, at.segment, &at.branch, at.seq, *attempt, false, 0, batch.now, due, incarnation, *epoch, *token]);
        rows.extend(payload_vals(error));
        // A run that was asked to cancel has its clean-up to do, not to wait.
        let delayed = *after_ms > 0 && row.state != RunState::Cancelling;
        let state = if row.state == RunState::Cancelling { RunState::Cancelling } else { RunState::Ready };
        // The mark counts rows, and of those some have just been forgotten: it would take what is recorded next for none.
        let sql = "update run set state = ?, owner = null, epoch = epoch + 1, run_attempt = ?, timed = ?, crash_mark = -1 where id = ?";
        batch.conn.exec(sql, vals![state as i16, attempt + 1, row.timed || delayed, *run]).await?;
        if delayed {
            timers.extend(vals![*run, RETRY, due]);
        } else {
            at_once.push(row.clone());
        }
        verdicts[*index] = Some(Verdict::Committed);
    }
    batch.conn.write_rows(INSERT_ATTEMPT, 15, rows).await?;
    batch.conn.write_rows("insert or replace into timer(run_id, kind, due_at) values {rows}", 3, timers).await?;
    insert_ready(batch.conn, batch.now, &at_once, true).await?;
    let left: Vec<RunRow> = held.iter().map(|(_, row)| row.clone()).collect();
    lend_slots(batch.conn, &left).await
}

async fn releases(batch: &mut Batch<'_>, held: &[(usize, RunRow)], writes: &[Write], verdicts: &mut [Option<Verdict>]) -> Result<()> {
    let (mut timers, mut timed): (Vec<Val>, Vec<RunKey>) = (Vec::new(), Vec::new());
    let mut leaving: Vec<RunRow> = Vec::new();
    for (index, row) in held {
        let Write::Release { run, inbox, due, .. } = &writes[*index] else { continue };
        // A run that cleans up after a cancel has no business waiting: look again, the request is there.
        if (row.inbox != *inbox && !mutated("inbox")) || row.state == RunState::Cancelling {
            verdicts[*index] = Some(Verdict::Changed { inbox: row.inbox });
            continue;
        }
        let due_at = due.map(|due| match due {
            Due::After(ms) => later(batch.now, ms),
            Due::At(at) => at,
        });
        if let Some(at) = due_at {
            timers.extend(vals![*run, WAKE, at]);
            timed.push(*run);
        }
        leaving.push(row.clone());
        verdicts[*index] = Some(Verdict::Committed);
    }
    batch.conn.write_rows("insert or replace into timer(run_id, kind, due_at) values {rows}", 3, timers).await?;
    let sql = "update run set state = 3, owner = null, epoch = epoch + 1 where id in ({list})";
    batch.conn.exec_keys(sql, &[], leaving.iter().map(|row| row.id)).await?;
    batch.conn.exec_keys("update run set timed = 1 where id in ({list})", &[], timed).await?;
    lend_slots(batch.conn, &leaving).await
}

async fn gives_back(batch: &mut Batch<'_>, held: &[(usize, RunRow)], verdicts: &mut [Option<Verdict>]) -> Result<()> {
    let runs: Vec<RunRow> = held.iter().map(|(_, row)| row.clone()).collect();
    lend_slots(batch.conn, &runs).await?;
    make_ready(batch.conn, batch.now, &runs, true).await?;
    for (index, _) in held {
        verdicts[*index] = Some(Verdict::Committed);
    }
    Ok(())
}

async fn blocks(batch: &mut Batch<'_>, held: &[(usize, RunRow)], writes: &[Write], verdicts: &mut [Option<Verdict>]) -> Result<()> {
    for (index, row) in held {
        let Write::Block { run, why, .. } = &writes[*index] else { continue };
        batch.conn.exec("update run set state = 5, owner = null, epoch = epoch + 1 where id = ?", vals![*run]).await?;
        note_block(batch.conn, batch.now, *run, why).await?;
        free_slots(batch.conn, std::slice::from_ref(row)).await?;
        verdicts[*index] = Some(Verdict::Committed);
    }
    Ok(())
}

/// `why` beside the run, with the build that saw it, so that another build is offered the run.
pub(super) async fn note_block(conn: &mut super::connection::Connection, now: i64, run: RunKey, why: &str) -> Result<()> {
    let build = serde_json::from_str::<serde_json::Value>(why).ok().and_then(|doc| doc.get("build")?.as_str().map(String::from));
    let sql = "insert into run_note(run_id, blocked_why, blocked_build, blocked_at) values (?, ?, ?, ?) on conflict (run_id) do update set \
               blocked_why = excluded.blocked_why, blocked_build = excluded.blocked_build, blocked_at = excluded.blocked_at";
    conn.exec(sql, vals![run, why, build, now]).await.map(drop)
}
