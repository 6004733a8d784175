//! Back to `Ready`, and the wakes that bring a run there.

use std::collections::HashMap;

use super::connection::Connection;
use super::rows::{RunRow, run_columns, run_row};
use super::start::CLOSE;
use super::value::{Columns as _, Val, vals};
use crate::store::{Result, RunKey, RunState};

/// Woken and released runs go ahead of new work by this much.
pub(super) const AHEAD: i32 = 1_000_000;

/// How many wakes each run gets; one update a run however many there are.
pub(super) type Wakes = HashMap<RunKey, i32>;

/// Add to inboxes with no predicate on state; runs that wait become `Ready`. Returns how many did.
pub(super) async fn wake(conn: &mut Connection, now: i64, wakes: &Wakes) -> Result<usize> {
    if wakes.is_empty() {
        return Ok(0);
    }
    let rows = wakes.iter().flat_map(|(run, n)| vals![*run, *n]).collect();
    let sql = concat!(
        "with woken(id, n) as (values {rows}) update run set inbox = run.inbox + (select n from woken where woken.id = run.id) \
         where run.id in (select id from woken) returning ",
        "id, owner, epoch, state, inbox, segment, priority, route, slotted, timed, keyed, claim_token, crashes, crash_mark, run_attempt"
    );
    let rows = conn.fetch_rows(sql, 2, &[], rows).await?;
    let mut waiting = Vec::new();
    for row in &rows {
        let run = run_row(row)?;
        if run.state == RunState::Waiting {
            waiting.push(run);
        }
    }
    make_ready(conn, now, &waiting, true).await?;
    Ok(waiting.len())
}

/// No owner, epoch + 1, a `ready` row, no wake timer; a run that cleans up after a cancel stays `Cancelling`, and whoever claims it goes on with that.
/// Slots are the caller's: a waiting run of a `hold` queue keeps its own.
pub(super) async fn make_ready(conn: &mut Connection, now: i64, runs: &[RunRow], ahead: bool) -> Result<()> {
    if runs.is_empty() {
        return Ok(());
    }
    conn.exec_keys(
        "update run set state = case when state = 4 then 4 else 1 end, owner = null, epoch = epoch + 1 where id in ({list})",
        &[],
        runs.iter().map(|r| r.id),
    )
    .await?;
    insert_ready(conn, now, runs, ahead).await?;
    let timed: Vec<RunKey> = runs.iter().filter(|r| r.timed).map(|r| r.id).collect();
    conn.exec_keys("delete from timer where kind in (1, 2, 5) and run_id in ({list})", &[], timed).await?;
    Ok(())
}

/// The `ready` row of runs that are `Ready` already (a start or a back-off that came due).
pub(super) async fn insert_ready(conn: &mut Connection, now: i64, runs: &[RunRow], ahead: bool) -> Result<()> {
    let mut rows: Vec<Val> = Vec::with_capacity(runs.len() * 5);
    for run in runs {
        let priority = if ahead { run.priority.saturating_sub(AHEAD) } else { run.priority };
        let ord = conn.next_ord(now);
        rows.extend(vals![run.route, priority, ord, run.id]);
    }
    let sql = "with woken(route, priority, ord, run_id) as (values {rows}) insert or ignore into ready(route, priority, ord, run_id, fairness_key) \
               select route, priority, ord, run_id, (select fairness_key from run_info where run_info.run_id = woken.run_id) from woken where true";
    conn.write_rows(sql, 4, rows).await?;
    Ok(())
}

/// Whatever is awaited of runs that have ended: their ends are there, and events they have not published never come.
pub(super) async fn waiters_of_ends(conn: &mut Connection, targets: &[RunKey], wakes: &mut Wakes) -> Result<()> {
    let rows = conn.fetch_keys("select run_id from waiter where target in ({list})", &[], targets.iter().copied()).await?;
    for row in rows {
        *wakes.entry(row.uuid(0)?).or_default() += 1;
    }
    Ok(())
}

pub(super) async fn waiters_of_events(conn: &mut Connection, events: &[(RunKey, &str)], wakes: &mut Wakes) -> Result<()> {
    let wanted = events.iter().flat_map(|(run, key)| vals![*run, *key]).collect();
    let sql = "with published(run, key) as (values {rows}) select waiter.run_id from published cross join waiter \
               on waiter.target = published.run and waiter.key = published.key where waiter.kind = 3";
    for row in conn.fetch_rows(sql, 2, &[], wanted).await? {
        *wakes.entry(row.uuid(0)?).or_default() += 1;
    }
    Ok(())
}

/// What runs give up that have ended or are blocked.
pub(super) async fn free_slots(conn: &mut Connection, runs: &[RunRow]) -> Result<()> {
    let slotted: Vec<RunKey> = runs.iter().filter(|r| r.slotted).map(|r| r.id).collect();
    free(conn, slotted).await
}

/// What runs give up that leave their owner for a while: a queue that holds is a mutex, and its run keeps its slot until it is over.
pub(super) async fn lend_slots(conn: &mut Connection, runs: &[RunRow]) -> Result<()> {
    let slotted = runs.iter().filter(|r| r.slotted).map(|r| r.id);
    let sql = "select run_id from slot where run_id in ({list}) \
               and not exists (select 1 from queue where queue.namespace = slot.namespace and queue.name = slot.queue and queue.hold)";
    let freed = conn.fetch_keys(sql, &[], slotted).await?.iter().map(|row| row.uuid(0)).collect::<Result<_>>()?;
    free(conn, freed).await
}

async fn free(conn: &mut Connection, slotted: Vec<RunKey>) -> Result<()> {
    conn.exec_keys("delete from slot where run_id in ({list})", &[], slotted.iter().copied()).await?;
    conn.exec_keys("update run set slotted = 0 where id in ({list})", &[], slotted).await?;
    Ok(())
}

/// Everything a run holds beside its history: slot, timers, dedup key, open waits, its place in `ready`.
pub(super) async fn release_all(conn: &mut Connection, runs: &[RunRow]) -> Result<()> {
    free_slots(conn, runs).await?;
    let timed: Vec<RunKey> = runs.iter().filter(|r| r.timed).map(|r| r.id).collect();
    conn.exec_keys("delete from timer where run_id in ({list})", &[], timed).await?;
    let keyed: Vec<RunKey> = runs.iter().filter(|r| r.keyed).map(|r| r.id).collect();
    // A key with a time to live outlasts its run: that is its purpose.
    conn.exec_keys("delete from dedup where scope in (1, 2) and run_id in ({list})", &[], keyed).await?;
    conn.exec_keys("delete from waiter where run_id in ({list})", &[], runs.iter().map(|r| r.id)).await?;
    let ready: Vec<RunKey> = runs.iter().filter(|r| r.owner.is_none()).map(|r| r.id).collect();
    conn.exec_keys("delete from ready where run_id in ({list})", &[], ready).await?;
    Ok(())
}

/// Ended runs whose children are to end with them leave a timer in the same commit: whoever cancels these may die over it, and another follows at `due`.
pub(super) async fn leave_children(conn: &mut Connection, due: i64, ended: &[RunKey]) -> Result<()> {
    let sql =
        "insert or replace into timer(run_id, kind, due_at) select distinct child.parent, ?, ? from child where child.policy = 1 and child.parent in ({list})";
    conn.exec_keys(sql, &[CLOSE.into(), due.into()], ended.iter().copied()).await.map(drop)
}

pub(super) async fn load_by_key(conn: &mut Connection, runs: impl IntoIterator<Item = RunKey>) -> Result<HashMap<RunKey, RunRow>> {
    let sql = concat!("select ", run_columns!(), " from run where id in ({list})");
    conn.fetch_keys(sql, &[], runs).await?.iter().map(|row| run_row(row).map(|run| (run.id, run))).collect()
}
