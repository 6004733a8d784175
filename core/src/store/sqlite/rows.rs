//! Rows as the engine's types, and the column lists that go with them.

use std::sync::Arc;

use sqlx::sqlite::SqliteRow;
use uuid::Uuid;

use super::connection::{Connection, rejected};
use super::value::{Columns as _, Val};
use crate::store::{AttemptRecord, CancelRequest, OpenWait, Position, Result, RunKey, RunState, Site, StepRecord, WaitKind};

/// The hot row of a run.
#[derive(Debug, Clone)]
pub(super) struct RunRow {
    pub(super) id: RunKey,
    pub(super) owner: Option<Uuid>,
    pub(super) epoch: i32,
    pub(super) state: RunState,
    pub(super) inbox: i32,
    pub(super) segment: i32,
    pub(super) priority: i32,
    pub(super) route: i64,
    pub(super) slotted: bool,
    pub(super) timed: bool,
    pub(super) keyed: bool,
    pub(super) claim_token: i64,
    pub(super) crashes: i32,
    pub(super) crash_mark: i32,
    pub(super) run_attempt: i32,
}

macro_rules! run_columns {
    () => {
        "run.id, run.owner, run.epoch, run.state, run.inbox, run.segment, run.priority, run.route, run.slotted, run.timed, run.keyed, \
         run.claim_token, run.crashes, run.crash_mark, run.run_attempt"
    };
}
pub(super) use run_columns;
/// Columns of `run_columns`: where those of a joined table begin.
pub(super) const RUN_COLUMNS: usize = 15;

pub(super) fn run_row(row: &SqliteRow) -> Result<RunRow> {
    Ok(RunRow {
        id: row.uuid(0)?,
        owner: row.opt_uuid(1)?,
        epoch: row.int32(2)?,
        state: state(row.int16(3)?)?,
        inbox: row.int32(4)?,
        segment: row.int32(5)?,
        priority: row.int32(6)?,
        route: row.int(7)?,
        slotted: row.flag(8)?,
        timed: row.flag(9)?,
        keyed: row.flag(10)?,
        claim_token: row.int(11)?,
        crashes: row.int32(12)?,
        crash_mark: row.int32(13)?,
        run_attempt: row.int32(14)?,
    })
}

pub(super) fn state(code: i16) -> Result<RunState> {
    RunState::from_code(code).ok_or_else(|| rejected(format!("run state {code} needs a newer library")))
}

impl RunRow {
    pub(super) async fn load(conn: &mut Connection, run: RunKey) -> Result<Option<RunRow>> {
        let sql = concat!("select ", run_columns!(), " from run where id = ?");
        conn.fetch_one(sql, vec![run.into()]).await?.map(|row| run_row(&row)).transpose()
    }
}

macro_rules! step_columns {
    () => {
        "step.segment, step.branch, step.seq, step.kind, step.site, site.name, site.location, step.digest, step.failed, step.done, step.seen, \
         step.attempt, step.took_us, step.token, step.written_by, step.epoch, step.at, step.codec, step.key_id, step.output"
    };
}
pub(super) use step_columns;
pub(super) const STEP_COLUMNS: usize = 20;

/// From `step_columns` beginning at `at`.
pub(super) fn step_record(row: &SqliteRow, at: usize) -> Result<StepRecord> {
    Ok(StepRecord {
        at: position(row, at)?,
        kind: row.int16(at + 3)?,
        site: site(row, at + 4)?,
        digest: row.opt_int(at + 7)?,
        failed: row.flag(at + 8)?,
        done: row.int32(at + 9)?,
        seen: row.int32(at + 10)?,
        attempt: row.int32(at + 11)?,
        took_us: row.int(at + 12)?,
        token: row.int(at + 13)?,
        written_by: row.uuid(at + 14)?,
        epoch: row.int32(at + 15)?,
        recorded_at: row.int(at + 16)?,
        output: row.payload(at + 17)?,
    })
}

/// Segment, branch, seq in three columns.
pub(super) fn position(row: &SqliteRow, at: usize) -> Result<Position> {
    Ok(Position { segment: row.int32(at)?, branch: row.text(at + 1)?.into(), seq: row.int32(at + 2)? })
}

/// Id, name, location; the names of a site that is not stored are empty.
pub(super) fn site(row: &SqliteRow, at: usize) -> Result<Site> {
    let text = |column| -> Result<Arc<str>> { Ok(row.opt_text(column)?.unwrap_or_default().into()) };
    Ok(Site { id: row.int(at)?, name: text(at + 1)?, location: text(at + 2)? })
}

pub(super) fn position_vals(at: &Position) -> [Val; 3] {
    [at.segment.into(), (&at.branch).into(), at.seq.into()]
}

macro_rules! attempt_columns {
    () => {
        "attempt.segment, attempt.branch, attempt.seq, attempt.attempt, attempt.started, attempt.retry_at, attempt.written_by, attempt.at, \
         attempt.codec, attempt.key_id, attempt.error"
    };
}
pub(super) use attempt_columns;

pub(super) fn attempt_record(row: &SqliteRow, at: usize, now: i64) -> Result<AttemptRecord> {
    Ok(AttemptRecord {
        at: position(row, at)?,
        attempt: row.int32(at + 3)?,
        started: row.flag(at + 4)?,
        retry_in_ms: row.opt_int(at + 5)?.map(|due| until_ms(due, now)),
        written_by: row.uuid(at + 6)?,
        recorded_at: row.int(at + 7)?,
        error: row.payload(at + 8)?,
    })
}

macro_rules! waiter_columns {
    () => {
        "waiter.segment, waiter.branch, waiter.seq, waiter.kind, waiter.due_at, waiter.target, waiter.key, waiter.site, site.name, site.location"
    };
}
pub(super) use waiter_columns;

pub(super) fn open_wait(row: &SqliteRow, at: usize, now: i64) -> Result<OpenWait> {
    let due_at = row.opt_int(at + 4)?;
    Ok(OpenWait {
        at: position(row, at)?,
        kind: wait_kind(row.int16(at + 3)?)?,
        due_in_ms: due_at.map(|due| until_ms(due, now)),
        due_at,
        target: row.opt_uuid(at + 5)?,
        key: row.text(at + 6)?,
        site: site(row, at + 7)?,
    })
}

fn wait_kind(code: i16) -> Result<WaitKind> {
    Ok(match code {
        1 => WaitKind::Sleep,
        2 => WaitKind::Receive,
        3 => WaitKind::Event,
        4 => WaitKind::Result,
        5 => WaitKind::Retry,
        other => return Err(rejected(format!("wait kind {other} needs a newer library"))),
    })
}

/// Of `run_note`: cancel_by, cancel_why, cancel_at, cancel_until from column `at` on; nothing when no cancel is asked for.
pub(super) fn cancel_request(row: &SqliteRow, at: usize, now: i64) -> Result<Option<CancelRequest>> {
    if row.opt_int(at + 2)?.is_none() {
        return Ok(None);
    }
    Ok(Some(CancelRequest {
        by: row.opt_text(at)?.unwrap_or_default(),
        why: row.opt_text(at + 1)?.unwrap_or_default(),
        grace_left_ms: row.opt_int(at + 3)?.map_or(0, |until| until_ms(until, now)),
    }))
}

/// Milliseconds until `at`, rounded up: who waits that long finds it due.
pub(super) fn until_ms(at: i64, now: i64) -> i64 {
    (at - now + 999).div_euclid(1000)
}

pub(super) fn later(now: i64, ms: i64) -> i64 {
    now.saturating_add(ms.saturating_mul(1000))
}

/// Time of the database: SQLite runs in this process, so it is this host's clock, the same for every process that opens the file.
pub(super) fn now_us() -> i64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| i64::try_from(d.as_micros()).unwrap_or(i64::MAX))
}
