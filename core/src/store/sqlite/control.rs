//! What somebody outside asks of a run: cancel, resume, retry, rewind. Each leaves a line in `control_log`.

use sqlx::sqlite::SqliteRow;
use uuid::Uuid;

use super::SqliteStore;
use super::connection::Connection;
use super::rows::{RunRow, later, now_us, position_vals};
use super::start::{self, CLOSE, DEADLINE, GRACE};
use super::value::{Columns as _, Val, vals};
use super::wake::{Wakes, leave_children, lend_slots, make_ready, release_all, waiters_of_ends, wake};
use crate::store::forget::{self, By, Recorded};
use crate::store::{BY_DEADLINE, CLOSE_AGAIN_MS, ControlVerdict, Ended, LAUNCH, Payload, Position, Result, RunKey, RunState, SlowStep, cancelled_type};

/// Runs offered to a build in one transaction.
const OFFERS: i64 = 500;

impl SqliteStore {
    pub(super) async fn cancel_run(&self, run: RunKey, by: &str, why: &str, grace_ms: i64) -> Result<ControlVerdict> {
        let mut tx = self.write().await?;
        let outcome = cancel(&mut tx, now_us(), run, by, why, grace_ms).await;
        let verdict = tx.finish(outcome).await;
        crate::failpoint!("store.cancel.after");
        verdict
    }

    pub(super) async fn no_children_left(&self, parent: RunKey) -> Result<()> {
        let mut tx = self.write().await?;
        let outcome = tx.exec("delete from timer where run_id = ? and kind = ?", vals![parent, CLOSE]).await.map(drop);
        tx.finish(outcome).await
    }

    pub(super) async fn resume_run(&self, run: RunKey, by: &str) -> Result<ControlVerdict> {
        let mut tx = self.write().await?;
        let outcome = resume(&mut tx, now_us(), run, by).await;
        tx.finish(outcome).await
    }

    pub(super) async fn retry_run(&self, run: RunKey, by: &str) -> Result<ControlVerdict> {
        let mut tx = self.write().await?;
        let outcome = retry(&mut tx, now_us(), run, by).await;
        tx.finish(outcome).await
    }

    pub(super) async fn rewind_run(&self, run: RunKey, to: &Position, new_effects: bool, by: &str) -> Result<ControlVerdict> {
        let mut tx = self.write().await?;
        let outcome = rewind(&mut tx, now_us(), run, to, new_effects, by).await;
        tx.finish(outcome).await
    }

    pub(super) async fn note_slow_steps(&self, run: RunKey, epoch: i32, steps: &[SlowStep]) -> Result<()> {
        let mut tx = self.write().await?;
        let outcome = match SlowStep::text(steps) {
            Some(text) => {
                let sql = "insert into run_note(run_id, slow_steps, slow_epoch, slow_at) select id, ?, epoch, ? from run where id = ? and epoch = ? \
                           on conflict (run_id) do update set slow_steps = excluded.slow_steps, slow_epoch = excluded.slow_epoch, slow_at = excluded.slow_at";
                tx.exec(sql, vals![text, now_us(), run, epoch]).await
            }
            None => {
                let sql = "update run_note set slow_steps = null, slow_epoch = null, slow_at = null where run_id = ? and slow_epoch = ?";
                tx.exec(sql, vals![run, epoch]).await
            }
        };
        tx.finish(outcome.map(drop)).await
    }

    pub(super) async fn offer_blocked_runs(&self, build: &str, workflows: &[String]) -> Result<i64> {
        let mut tx = self.write().await?;
        // Once a launch, and not by each end: most runs are never offered.
        let sql = "delete from offer where exists (select 1 from run where run.id = offer.run_id and run.state in (6, 7, 8))";
        let outcome = tx.exec(sql, vec![]).await.map(drop);
        tx.finish(outcome).await?;
        let mut offered = 0;
        loop {
            let mut tx = self.write().await?;
            let outcome = offer(&mut tx, now_us(), &self.namespace, build, workflows).await;
            let n = tx.finish(outcome).await?;
            offered += n;
            if n < OFFERS {
                return Ok(offered);
            }
        }
    }
}

pub(super) async fn log(conn: &mut Connection, now: i64, run: RunKey, action: &str, actor: &str, detail: Option<String>) -> Result<()> {
    let sql = "insert into control_log(run_id, at, action, actor, detail, id) values (?, ?, ?, ?, ?, ?)";
    conn.exec(sql, vals![run, now, action, actor, detail, Uuid::now_v7()]).await.map(drop)
}

/// The request, as a user, a deadline or an expiry makes it.
pub(super) async fn cancel(conn: &mut Connection, now: i64, run: RunKey, by: &str, why: &str, grace_ms: i64) -> Result<ControlVerdict> {
    let Some(row) = RunRow::load(conn, run).await? else { return Ok(ControlVerdict::NotFound) };
    match row.state {
        RunState::Cancelling => Ok(ControlVerdict::Requested),
        state if state.is_terminal() => Ok(ControlVerdict::NotPossible(state)),
        state if !state.cleans_up_at(row.epoch) => {
            let mut wakes = Wakes::new();
            cancel_now(conn, now, &row, by, why, cancelled_type(by), &mut wakes).await?;
            wake(conn, now, &wakes).await?;
            Ok(ControlVerdict::Done)
        }
        _ => {
            // A new epoch: what the owner has in flight is refused, and it asks for the truth before it goes on.
            conn.exec("update run set state = 4, inbox = inbox + 1, timed = 1 where id = ?", vals![run]).await?;
            if row.owner.is_some() {
                conn.exec("update run set epoch = epoch + 1 where id = ?", vals![run]).await?;
            } else {
                // Nobody has its code in memory: it is claimed ahead of new work and cleans up there.
                conn.exec("delete from ready where run_id = ?", vals![run]).await?;
                make_ready(conn, now, std::slice::from_ref(&row), true).await?;
            }
            let until = later(now, grace_ms);
            note_cancel(conn, now, run, by, why, Some(until)).await?;
            conn.exec("delete from timer where run_id = ? and kind = ?", vals![run, DEADLINE]).await?;
            conn.exec("insert or replace into timer(run_id, kind, due_at) values (?, ?, ?)", vals![run, GRACE, until]).await?;
            log(conn, now, run, "cancel", by, Some(why.into())).await?;
            Ok(ControlVerdict::Requested)
        }
    }
}

/// The first request stands: the end of its time is no request of its own.
async fn note_cancel(conn: &mut Connection, now: i64, run: RunKey, by: &str, why: &str, until: Option<i64>) -> Result<()> {
    let sql = "insert into run_note(run_id, cancel_by, cancel_why, cancel_at, cancel_until) values (?, ?, ?, ?, ?) on conflict (run_id) do update set \
               cancel_by = coalesce(cancel_by, excluded.cancel_by), cancel_why = coalesce(cancel_why, excluded.cancel_why), \
               cancel_at = coalesce(cancel_at, excluded.cancel_at), cancel_until = coalesce(cancel_until, excluded.cancel_until)";
    conn.exec(sql, vals![run, by, why, now, until]).await.map(drop)
}

/// Ended here and now, with epoch + 1: nobody cleans up.
pub(super) async fn cancel_now(conn: &mut Connection, now: i64, row: &RunRow, by: &str, why: &str, error_type: &str, wakes: &mut Wakes) -> Result<()> {
    let run = row.id;
    conn.exec("update run set state = 8, owner = null, epoch = epoch + 1, timed = 0, keyed = 0 where id = ?", vals![run]).await?;
    let value = crate::store::cancelled_value(by, why);
    let sql = "insert or replace into outcome(run_id, state, epoch, token, at, error_type, error_message, codec, value) values (?, 8, ?, 0, ?, ?, ?, ?, ?)";
    conn.exec(sql, vals![run, row.epoch + 1, now, error_type, why, value.codec, value.data.clone()]).await?;
    if row.state != RunState::Cancelling {
        note_cancel(conn, now, run, by, why, None).await?;
    }
    release_all(conn, std::slice::from_ref(row)).await?;
    // Whoever asks by hand closes them at once; what the engine itself ends is seen by the next tick.
    leave_children(conn, if by == "engine" || by == BY_DEADLINE { now } else { later(now, CLOSE_AGAIN_MS) }, &[run]).await?;
    waiters_of_ends(conn, &[run], wakes).await?;
    log(conn, now, run, "cancel", by, Some(why.into())).await?;
    follow(conn, now, run, row.epoch + 1, value).await
}

/// Start what is to follow this end, in its own commit.
async fn follow(conn: &mut Connection, now: i64, run: RunKey, epoch: i32, value: Payload) -> Result<()> {
    let sql = "select namespace, workflow, root, trace_parent, options from run_info where run_id = ? and options is not null";
    let Some(row) = conn.fetch_one(sql, vals![run]).await? else { return Ok(()) };
    let namespace = row.text(0)?;
    let ended = Ended {
        run,
        epoch,
        state: RunState::Cancelled,
        value,
        workflow: row.text(1)?,
        root: row.uuid(2)?,
        trace_parent: row.opt_text(3)?,
        options: row.text(4)?,
    };
    let Some(next) = (conn.follow_up)(&namespace, &ended) else { return Ok(()) };
    start::start_following(conn, &namespace, now, &next).await
}

/// Back to `Ready` from anywhere: epoch + 1, ahead of new work, nothing left of an end, a request or a block; the deadline stands
/// again unless it has passed.
async fn revive(conn: &mut Connection, now: i64, row: &RunRow) -> Result<()> {
    let run = row.id;
    conn.exec("delete from outcome where run_id = ?", vals![run]).await?;
    conn.exec("delete from run_note where run_id = ?", vals![run]).await?;
    // That a job which runs at most once has begun: whoever brings it back wants it to begin.
    conn.exec("delete from attempt where run_id = ? and segment = ? and branch = '' and seq = -1 and started", vals![run, row.segment]).await?;
    conn.exec("delete from ready where run_id = ?", vals![run]).await?;
    conn.exec("delete from timer where run_id = ? and kind <> ?", vals![run, DEADLINE]).await?;
    lend_slots(conn, std::slice::from_ref(row)).await?;
    let sql = "insert or ignore into timer(run_id, kind, due_at) select run_id, ?, deadline_at from run_info where run_id = ? and deadline_at > ?";
    conn.exec(sql, vals![DEADLINE, run, now]).await?;
    let sql = "update run set state = 1, crashes = 0, crash_mark = -1, inbox = inbox + 1, timed = exists (select 1 from timer where timer.run_id = run.id) where id = ?";
    conn.exec(sql, vals![run]).await?;
    make_ready(conn, now, std::slice::from_ref(row), true).await
}

async fn resume(conn: &mut Connection, now: i64, run: RunKey, by: &str) -> Result<ControlVerdict> {
    let Some(row) = RunRow::load(conn, run).await? else { return Ok(ControlVerdict::NotFound) };
    if !matches!(row.state, RunState::Blocked | RunState::Cancelled) {
        return Ok(ControlVerdict::NotPossible(row.state));
    }
    let records = recorded(conn, row.id, row.segment).await?;
    forget(conn, &row, &forget::for_resume(&records), By::Person).await?;
    revive(conn, now, &row).await?;
    log(conn, now, run, "resume", by, None).await?;
    Ok(ControlVerdict::Done)
}

async fn retry(conn: &mut Connection, now: i64, run: RunKey, by: &str) -> Result<ControlVerdict> {
    let Some(row) = RunRow::load(conn, run).await? else { return Ok(ControlVerdict::NotFound) };
    if row.state != RunState::Failed {
        return Ok(ControlVerdict::NotPossible(row.state));
    }
    let sql = "select case when codec = 1 then value end from outcome where run_id = ?";
    let error = conn.fetch_one(sql, vals![row.id]).await?.map_or(Ok(None), |row| row.opt_bytes(0))?;
    let failed = forget_failed(conn, &row, error.as_deref(), By::Person).await?;
    revive(conn, now, &row).await?;
    log(conn, now, run, "retry", by, failed.map(|done| format!("from completion {done}"))).await?;
    Ok(ControlVerdict::Done)
}

/// Of outputs only the errors. The mark of an at-most-once step is the attempt that was written before it ran.
async fn recorded(conn: &mut Connection, run: RunKey, segment: i32) -> Result<Vec<Recorded>> {
    let sql = "select branch, seq, done, failed, kind, case when failed and codec = 1 then output end, \
               exists (select 1 from attempt where attempt.run_id = step.run_id and attempt.segment = step.segment and attempt.branch = step.branch \
               and attempt.seq = step.seq and attempt.started) from step where run_id = ? and segment = ?";
    let rows = conn.fetch(sql, vals![run, segment]).await?;
    rows.iter()
        .map(|row| {
            Ok(Recorded {
                at: Position { segment, branch: row.text(0)?.into(), seq: row.int32(1)? },
                done: row.int32(2)?,
                failed: row.flag(3)?,
                cancel_seen: row.int16(4)? == crate::protocol::ops::kind::CANCEL_SEEN,
                error: row.opt_bytes(5)?,
                at_most_once: row.flag(6)?,
            })
        })
        .collect()
}

/// A retry goes on at the step that failed: it and what was called after it are forgotten. With no failed step, nothing is. `error`: the run's.
pub(super) async fn forget_failed(conn: &mut Connection, row: &RunRow, error: Option<&[u8]>, by: By) -> Result<Option<i32>> {
    let records = recorded(conn, row.id, row.segment).await?;
    let gone = forget::for_retry(&records, error, by);
    forget(conn, row, &gone, by).await?;
    Ok(gone.iter().map(|r| r.done).min())
}

async fn rewind(conn: &mut Connection, now: i64, run: RunKey, to: &Position, new_effects: bool, by: &str) -> Result<ControlVerdict> {
    let Some(row) = RunRow::load(conn, run).await? else { return Ok(ControlVerdict::NotFound) };
    let mut key: Vec<Val> = vals![run];
    key.extend(position_vals(to));
    let sql = "select done from step where run_id = ? and segment = ? and branch = ? and seq = ?";
    let Some(found) = conn.fetch_one(sql, key).await? else { return Ok(ControlVerdict::NotPossible(row.state)) };
    let done = found.int32(0)?;
    let records = recorded(conn, row.id, row.segment).await?;
    forget(conn, &row, &records.iter().filter(|r| r.done >= done).collect::<Vec<_>>(), By::Person).await?;
    revive(conn, now, &row).await?;
    if new_effects {
        conn.exec("update run_info set new_effects = new_effects + 1 where run_id = ?", vals![run]).await?;
    }
    let with = if new_effects { " with new effects" } else { "" };
    log(conn, now, run, "rewind", by, Some(format!("{}:{}:{}{with}", to.segment, to.branch, to.seq))).await?;
    Ok(ControlVerdict::Done)
}

/// Forget these, give back the messages they took, and every attempt of a call without a record. That an at-most-once step has begun only a person forgets.
async fn forget(conn: &mut Connection, row: &RunRow, gone: &[&Recorded], by: By) -> Result<()> {
    if gone.is_empty() {
        return Ok(());
    }
    let segment = row.segment;
    // A forgotten call begins anew; in a resumed run an open wait keeps its deadline.
    match by {
        By::Person => _ = conn.exec("delete from waiter where run_id = ?", vals![row.id]).await?,
        By::Policy => {
            let found = conn.fetch("select branch, seq from waiter where run_id = ? and segment = ?", vals![row.id, row.segment]).await?;
            let at = |row: &SqliteRow| -> Result<Position> { Ok(Position { segment, branch: row.text(0)?.into(), seq: row.int32(1)? }) };
            let waits: Vec<Position> = found.iter().map(at).collect::<Result<_>>()?;
            for at in forget::waits_behind(gone, &waits) {
                let mut key = vals![row.id];
                key.extend(position_vals(at));
                conn.exec("delete from waiter where run_id = ? and segment = ? and branch = ? and seq = ?", key).await?;
            }
        }
    }
    let places = gone
        .iter()
        .flat_map(|r| {
            let mut key = vals![row.id];
            key.extend(position_vals(&r.at));
            key
        })
        .collect();
    let sql = "with gone(run_id, segment, branch, seq) as (values {rows}) delete from step where (run_id, segment, branch, seq) in (select * from gone)";
    conn.write_rows(sql, 4, places).await?;
    let receives = serde_json::Value::from(gone.iter().map(|r| r.done).collect::<Vec<_>>()).to_string();
    let sql = "update message set consumed = null where run_id = ? and consumed in (select value from json_each(?))";
    conn.exec(sql, vals![row.id, receives]).await?;
    let sql = "delete from attempt where run_id = ? and segment = ? and seq >= 0 and (? or not started) and not exists (select 1 from step where step.run_id = attempt.run_id \
               and step.segment = attempt.segment and step.branch = attempt.branch and step.seq = attempt.seq)";
    conn.exec(sql, vals![row.id, row.segment, by == By::Person]).await.map(drop)
}

/// Runs another build could not replay, each offered once to this one. One that was asked to cancel is not: it would go on as if nobody had.
async fn offer(conn: &mut Connection, now: i64, namespace: &str, build: &str, workflows: &[String]) -> Result<i64> {
    let sql = "select run.id, run_info.workflow from run cross join run_info on run_info.run_id = run.id join run_note on run_note.run_id = run.id \
               where run.state in (5, 7, 8) and run.state = 5 and run_info.namespace = ? and run_note.blocked_build is not ? \
               and run_note.cancel_at is null \
               and json_extract(run_note.blocked_why, '$.code') in ('mismatch', 'reordered', 'newer_engine_needed', 'payload_codec') \
               and not exists (select 1 from offer where offer.run_id = run.id and offer.build = ?) order by run.id";
    let mut offered = 0;
    for found in conn.fetch(sql, vals![namespace, build, build]).await? {
        if offered == OFFERS {
            break;
        }
        let (run, workflow) = (found.uuid(0)?, found.text(1)?);
        let (true, Some(row)) = (workflows.contains(&workflow), RunRow::load(conn, run).await?) else { continue };
        if build.starts_with(LAUNCH) {
            conn.exec("delete from offer where run_id = ? and build like ?", vals![run, format!("{LAUNCH}%")]).await?;
        }
        conn.exec("insert or ignore into offer(run_id, build) values (?, ?)", vals![run, build]).await?;
        revive(conn, now, &row).await?;
        log(conn, now, run, "offer", build, None).await?;
        offered += 1;
    }
    Ok(offered)
}
