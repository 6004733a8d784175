//! Housekeeping: presence, takeover, timers. One look that reads, and a transaction only when something is due.

use std::collections::HashMap;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::SqliteStore;
use super::connection::Connection;
use super::control::{cancel, cancel_now};
use super::finish::note_block;
use super::presence::{beat, bury, undrained};
use super::rows::{RunRow, later, now_us, run_columns, run_row, until_ms};
use super::start::{CLOSE, DEADLINE, EXPIRY, GRACE, RETRY, START, WAKE};
use super::value::{Columns as _, Val, vals};
use super::wake::{Wakes, free_slots, insert_ready, leave_children, lend_slots, make_ready, wake};
use crate::failpoint::mutated;
use crate::store::{BY_DEADLINE, CLOSE_AGAIN_MS, EXPIRED, Peer, Result, RunKey, RunState, TickReport, TickRequest, cancelled_type};

/// The longest back-off of a run that keeps killing its process.
const LONGEST_BACKOFF_S: i64 = 300;

/// What the look found to do.
struct Due {
    /// With true: its process is known to have ended, so no beat can come any more.
    reap: Vec<(Uuid, bool)>,
    orphans: bool,
    timers: bool,
    /// So long nobody is taken for dead by the time.
    unfair_ms: i64,
}

impl SqliteStore {
    pub(super) async fn housekeeping(&self, request: &TickRequest) -> Result<TickReport> {
        // Where the file stood still, the first to get through finds the lease of everybody else out, while their beats are still on their way.
        let grace = if mutated("outage_grace") { i64::MAX / 2 } else { request.lease_ms / 2 };
        let patience = Instant::now() + Duration::from_millis(grace.clamp(0, 86_400_000) as u64);
        let mut report = TickReport { alive: true, ..TickReport::default() };
        if let Some(incarnation) = request.incarnation {
            let mut tx = self.write_next().await?;
            let outcome = beat(&mut tx, incarnation, request.lease_ms).await;
            report.alive = tx.finish(outcome).await?;
            if !report.alive {
                self.drop_lock(incarnation);
            }
        }
        let due = {
            let mut conn = self.read().await?;
            self.look(&mut conn, request).await?
        };
        if !due.reap.is_empty() || due.orphans || due.timers {
            crate::failpoint!("store.reap.before");
            let mut tx = self.write_next().await?;
            let outcome = work(&mut tx, request, &due, patience, &mut report).await;
            tx.finish(outcome).await?;
            crate::failpoint!("store.reap.after");
            for incarnation in &report.reaped {
                self.drop_lock(*incarnation);
            }
        }
        let mut conn = self.read().await?;
        self.outlook(&mut conn, request, due.unfair_ms, &mut report).await?;
        Ok(report)
    }

    async fn look(&self, conn: &mut Connection, request: &TickRequest) -> Result<Due> {
        let now = now_us();
        let lease = Duration::from_millis(request.lease_ms.max(0) as u64);
        let unfair = self.clock.lock().unwrap_or_else(PoisonError::into_inner).unfair_for(Instant::now(), now, lease);
        let patient = (request.may_reap && unfair.is_zero()) || mutated("outage_grace");
        let mut reap = Vec::new();
        for row in conn.fetch("select incarnation, lease_until, boot_id from worker", Vec::new()).await? {
            let incarnation = row.uuid(0)?;
            if Some(incarnation) == request.incarnation {
                continue;
            }
            let expired = row.int(1)? < now && patient;
            let ended = request.known_dead.contains(&incarnation) || (row.text(2)? == request.boot_id && self.is_gone(incarnation));
            if expired || ended {
                reap.push((incarnation, ended));
            }
        }
        let sql = "select exists(select 1 from dead_worker where drained = 0), exists(select 1 from timer where due_at <= ?)";
        let row = conn.fetch_one(sql, vals![now]).await?;
        let (orphans, timers) = row.map_or(Ok((false, false)), |row| Ok((row.flag(0)?, row.flag(1)?)))?;
        Ok(Due { reap, orphans, timers, unfair_ms: unfair.as_millis() as i64 })
    }

    /// When to come back, and who else is here.
    async fn outlook(&self, conn: &mut Connection, request: &TickRequest, unfair_ms: i64, report: &mut TickReport) -> Result<()> {
        let now = now_us();
        let sql = "select (select coalesce(sum(version), 0) from queue where namespace = ?), (select min(due_at) from timer)";
        if let Some(row) = conn.fetch_one(sql, vals![&self.namespace]).await? {
            report.queue_version = row.int(0)?;
            report.next_timer_ms = row.opt_int(1)?.map(|at| until_ms(at, now).max(0));
        }
        let rows = conn.fetch("select incarnation, lease_until, boot_id, pid_namespace, pid, process_start, namespace from worker", Vec::new()).await?;
        for row in rows {
            let incarnation = row.uuid(0)?;
            if Some(incarnation) == request.incarnation {
                continue;
            }
            let left = until_ms(row.int(1)?, now);
            if left > 0 && row.text(6)? == self.namespace {
                report.others_ms = report.others_ms.max(Some(left));
            }
            report.next_lease_ms = Some(report.next_lease_ms.map_or(left, |least| least.min(left)).max(unfair_ms));
            let boot_id = row.text(2)?;
            if boot_id == request.boot_id {
                report.peers.push(Peer { incarnation, boot_id, pid_namespace: row.text(3)?, pid: row.int32(4)?, process_start: row.int(5)? });
            }
        }
        Ok(())
    }
}

async fn work(conn: &mut Connection, request: &TickRequest, due: &Due, patience: Instant, report: &mut TickReport) -> Result<()> {
    let now = now_us();
    for (incarnation, ended) in &due.reap {
        // Asked again under the write lock: a beat may have come in between.
        let row = conn.fetch_one("select lease_until from worker where incarnation = ?", vals![*incarnation]).await?;
        let Some(row) = row else { continue };
        if (*ended || (row.int(0)? < now && Instant::now() <= patience)) && bury(conn, now, *incarnation, false).await? {
            report.reaped.push(*incarnation);
        }
    }
    orphans(conn, now, request, report).await?;
    crate::failpoint!("store.orphans.after");
    timers(conn, now, request, report).await?;
    crate::failpoint!("store.timers.after");
    Ok(())
}

/// Runs of the dead go back to `Ready`, each by its record of crashes.
async fn orphans(conn: &mut Connection, now: i64, request: &TickRequest, report: &mut TickReport) -> Result<()> {
    for (incarnation, graceful) in undrained(conn).await? {
        let left = request.page - report.orphans;
        if left <= 0 {
            report.more = true;
            return Ok(());
        }
        let sql = concat!("select ", run_columns!(), " from run where owner = ? order by id limit ?");
        let rows = conn.fetch(sql, vals![incarnation, left]).await?;
        let runs: Vec<RunRow> = rows.iter().map(run_row).collect::<Result<_>>()?;
        lend_slots(conn, &runs).await?;
        let at_once = if graceful { runs.clone() } else { count_crashes(conn, now, request, &runs).await? };
        report.ready |= !at_once.is_empty();
        make_ready(conn, now, &at_once, true).await?;
        let n = i64::try_from(runs.len()).unwrap_or(i64::MAX);
        report.orphans += n;
        if n < left {
            conn.exec("update dead_worker set drained = 1 where incarnation = ?", vals![incarnation]).await?;
        } else {
            report.more = true;
        }
    }
    Ok(())
}

/// Only a takeover with nothing recorded since the one before adds up. Answers those that are claimable at once; the others are blocked,
/// or held back for a while.
async fn count_crashes(conn: &mut Connection, now: i64, request: &TickRequest, runs: &[RunRow]) -> Result<Vec<RunRow>> {
    let mut recorded: HashMap<RunKey, i64> = HashMap::new();
    for sql in [
        "select run_id, count(*) from step where run_id in ({list}) group by run_id",
        "select run_id, count(*) from attempt where run_id in ({list}) group by run_id",
    ] {
        for row in conn.fetch_keys(sql, &[], runs.iter().map(|r| r.id)).await? {
            *recorded.entry(row.uuid(0)?).or_default() += row.int(1)?;
        }
    }
    let (mut marks, mut timers): (Vec<Val>, Vec<Val>) = (Vec::new(), Vec::new());
    let (mut at_once, mut blocked, mut held_back) = (Vec::new(), Vec::new(), Vec::new());
    for run in runs {
        let recorded = recorded.get(&run.id).copied().unwrap_or(0);
        let crashes = if recorded > i64::from(run.crash_mark) && !mutated("crash_mark") { 1 } else { run.crashes + 1 };
        marks.extend(vals![run.id, crashes, recorded]);
        if crashes >= request.max_crashes {
            blocked.push((run, crashes));
        } else if crashes < 2 || run.state == RunState::Cancelling {
            at_once.push(run.clone());
        } else {
            let wait_s = 2_i64.saturating_pow(u32::try_from(crashes).unwrap_or(0)).min(LONGEST_BACKOFF_S);
            timers.extend(vals![run.id, RETRY, later(now, wait_s * 1000)]);
            held_back.push(run.id);
        }
    }
    let sql = "with counted(id, crashes, mark) as (values {rows}) update run set crashes = counted.crashes, crash_mark = counted.mark from counted \
               where run.id = counted.id";
    conn.write_rows(sql, 3, marks).await?;
    let sql = "update run set state = 1, owner = null, epoch = epoch + 1, timed = 1 where id in ({list})";
    conn.exec_keys(sql, &[], held_back).await?;
    conn.write_rows("insert or replace into timer(run_id, kind, due_at) values {rows}", 3, timers).await?;
    for (run, crashes) in blocked {
        conn.exec("update run set state = 5, owner = null, epoch = epoch + 1 where id = ?", vals![run.id]).await?;
        free_slots(conn, std::slice::from_ref(run)).await?;
        let message = format!("The process that ran it died {crashes} times with nothing recorded in between.");
        let why = serde_json::json!({ "code": "poisoned", "message": message });
        note_block(conn, now, run.id, &why.to_string()).await?;
    }
    Ok(at_once)
}

async fn timers(conn: &mut Connection, now: i64, request: &TickRequest, report: &mut TickReport) -> Result<()> {
    let sql = concat!(
        "select ",
        run_columns!(),
        ", timer.kind, timer.run_id from timer left join run on run.id = timer.run_id where timer.due_at <= ? order by timer.due_at limit ?"
    );
    let rows = conn.fetch(sql, vals![now, request.page]).await?;
    let mut fired: Vec<Val> = Vec::new();
    let (mut waiting, mut starting, mut retrying, mut ending) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut closing = Vec::new();
    for row in &rows {
        let kind = row.int16(super::rows::RUN_COLUMNS)?;
        fired.extend(vals![row.uuid(super::rows::RUN_COLUMNS + 1)?, kind]);
        if row.opt_uuid(0)?.is_none() {
            continue;
        }
        let run = run_row(row)?;
        match (kind, run.state) {
            (WAKE, RunState::Waiting) => waiting.push(run),
            (START, RunState::Ready) => starting.push(run),
            (RETRY, RunState::Ready) => retrying.push(run),
            (DEADLINE | EXPIRY | GRACE, _) => ending.push((kind, run)),
            (CLOSE, state) if state.is_terminal() => closing.push(run.id),
            // It went on by other means since: the timer has nothing left to say.
            _ => {}
        }
    }
    conn.write_rows("with fired(run_id, kind) as (values {rows}) delete from timer where (run_id, kind) in (select * from fired)", 2, fired).await?;
    leave_children(conn, later(now, CLOSE_AGAIN_MS), &closing).await?;
    report.closing = closing;
    report.ready |= !(waiting.is_empty() && starting.is_empty() && retrying.is_empty());
    make_ready(conn, now, &waiting, true).await?;
    insert_ready(conn, now, &starting, false).await?;
    insert_ready(conn, now, &retrying, true).await?;
    let mut wakes = Wakes::new();
    for (kind, run) in ending {
        // An earlier one of this very page may have ended it.
        let Some(run) = RunRow::load(conn, run.id).await? else { continue };
        match (kind, run.state) {
            (EXPIRY, RunState::Ready) if run.epoch == 0 => {
                cancel_now(conn, now, &run, "engine", "It had not started in time.", EXPIRED, &mut wakes).await?;
            }
            // Over its owner's head, if it still has one. Blocked while it was to clean up: the request still stands.
            (GRACE, RunState::Cancelling | RunState::Blocked) => {
                let note = conn.fetch_one("select cancel_by from run_note where run_id = ?", vals![run.id]).await?;
                let by = note.map_or(Ok(None), |row| row.opt_text(0))?;
                let error_type = cancelled_type(by.as_deref().unwrap_or_default());
                cancel_now(conn, now, &run, "engine", "The time for clean-up was over.", error_type, &mut wakes).await?;
            }
            (DEADLINE, _) => _ = cancel(conn, now, run.id, BY_DEADLINE, "its deadline has passed", request.cancel_grace_ms).await?,
            _ => {}
        }
    }
    report.ready |= wake(conn, now, &wakes).await? > 0;
    report.timers = i64::try_from(rows.len()).unwrap_or(i64::MAX);
    report.more |= report.timers >= request.page;
    Ok(())
}
