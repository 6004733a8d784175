//! Reading for people and programs outside the runs.

use super::SqliteStore;
use super::connection::Connection;
use super::rows::{STEP_COLUMNS, attempt_columns, attempt_record, now_us, open_wait, position_vals, state, step_columns, step_record, waiter_columns};
use super::value::{Columns as _, Val, vals};
use super::wait::outcome;
use crate::store::{Position, Result, RunDetail, RunFilter, RunKey, RunState, RunSummary, SlowStep, StepView, WaitAnswer};

macro_rules! summary {
    () => {
        "select run_info.run_id, run_info.id_text, run_info.workflow, run_info.version, run_info.queue, run_info.label, run.state, run.epoch, run.segment, \
         run.priority, run.crashes, run.run_attempt, run.owner, run_info.parent, run_info.root, run_info.forked_from, run_info.attributes, \
         run_info.fairness_key, run_info.cost, run_info.created_by, run_info.trace_parent, run_info.trace_state, run_info.created_at, outcome.at, \
         run_info.start_at, run_info.deadline_at, run_info.expires_at, outcome.error_type, outcome.error_message, run_note.cancel_by, \
         run_note.cancel_why, case when run.state = 5 then run_note.blocked_why end"
    };
}
const SUMMARY: usize = 32;
macro_rules! joins {
    () => {
        " join run on run.id = run_info.run_id left join outcome on outcome.run_id = run_info.run_id left join run_note on run_note.run_id = run_info.run_id "
    };
}

fn run_summary(row: &sqlx::sqlite::SqliteRow) -> Result<RunSummary> {
    Ok(RunSummary {
        key: row.uuid(0)?,
        id_text: row.opt_text(1)?,
        workflow: row.text(2)?,
        version: row.opt_text(3)?,
        queue: row.text(4)?,
        label: row.text(5)?,
        state: state(row.int16(6)?)?,
        epoch: row.int32(7)?,
        segment: row.int32(8)?,
        priority: row.int32(9)?,
        crashes: row.int32(10)?,
        run_attempt: row.int32(11)?,
        owner: row.opt_uuid(12)?,
        parent: row.opt_uuid(13)?,
        root: row.uuid(14)?,
        forked_from: row.opt_uuid(15)?,
        attributes: row.opt_text(16)?,
        fairness_key: row.opt_text(17)?,
        cost: row.int32(18)?,
        created_by: row.opt_text(19)?,
        trace_parent: row.opt_text(20)?,
        trace_state: row.opt_text(21)?,
        created_at: row.int(22)?,
        finished_at: row.opt_int(23)?,
        start_at: row.opt_int(24)?,
        deadline_at: row.opt_int(25)?,
        expires_at: row.opt_int(26)?,
        error_type: row.opt_text(27)?,
        error_message: row.opt_text(28)?,
        cancel_by: row.opt_text(29)?,
        cancel_why: row.opt_text(30)?,
        blocked_why: row.opt_text(31)?,
    })
}

impl SqliteStore {
    pub(super) async fn find_run(&self, run: RunKey) -> Result<Option<RunDetail>> {
        let mut tx = self.read().await?.begin_read().await?;
        let outcome = detail(&mut tx, run).await;
        tx.finish(outcome).await
    }

    pub(super) async fn list_runs(&self, filter: &RunFilter) -> Result<Vec<RunSummary>> {
        // Children of one, or the few that need attention, are found by their index; all else by time, newest first.
        let attention = [RunState::Blocked, RunState::Failed, RunState::Cancelled];
        let few = !filter.states.is_empty() && filter.states.iter().all(|s| attention.contains(s));
        let mut sql = String::from(match (filter.parent, few) {
            (Some(_), _) => concat!(summary!(), " from run_info indexed by run_info_parent", joins!(), "where run_info.namespace = ?"),
            (None, true) => concat!(
                summary!(),
                " from run cross join run_info on run_info.run_id = run.id left join outcome on outcome.run_id = run.id \
                 left join run_note on run_note.run_id = run.id where run.state in (5, 7, 8) and run_info.namespace = ?"
            ),
            (None, false) => concat!(summary!(), " from run_info", joins!(), "where run_info.namespace = ?"),
        });
        let mut args = vals![&self.namespace];
        if !filter.states.is_empty() {
            sql.push_str(&format!(" and run.state in ({})", vec!["?"; filter.states.len()].join(",")));
            args.extend(filter.states.iter().map(|s| Val::from(*s as i16)));
        }
        if let Some(workflow) = &filter.workflow {
            sql.push_str(" and run_info.workflow = ?");
            args.push(workflow.into());
        }
        if let Some(queue) = &filter.queue {
            sql.push_str(" and run_info.queue = ?");
            args.push(queue.into());
        }
        if let Some(parent) = filter.parent {
            sql.push_str(" and run_info.parent = ?");
            args.push(parent.into());
        }
        if let Some((name, value)) = &filter.attribute {
            // By key, not by path: a name may hold dots and quotes. Numbers compare as numbers, so 1 and 1.0 are the same.
            sql.push_str(
                " and exists (select 1 from json_each(run_info.attributes) as a, json_each('[' || ? || ']') as b \
                 where a.key = ? and a.value is b.value and (a.type = b.type or (a.type in ('integer', 'real') and b.type in ('integer', 'real'))))",
            );
            args.extend(vals![value, name]);
        }
        if let Some(from) = filter.created_from {
            sql.push_str(" and run_info.created_at >= ?");
            args.push(from.into());
        }
        if let Some(before) = filter.created_before {
            sql.push_str(" and run_info.created_at < ?");
            args.push(before.into());
        }
        if let Some((at, run)) = filter.after {
            sql.push_str(" and (run_info.created_at, run_info.run_id) < (?, ?)");
            args.extend(vals![at, run]);
        }
        sql.push_str(" order by run_info.created_at desc, run_info.run_id desc limit ?");
        args.push(filter.limit.into());
        let mut conn = self.read().await?;
        let (_, rows) = conn.dynamic(sql, args).await?;
        rows.iter().map(run_summary).collect()
    }

    pub(super) async fn step_views(&self, run: RunKey, after: Option<&Position>, limit: i64) -> Result<Vec<StepView>> {
        let sql = concat!(
            "select ",
            step_columns!(),
            ", coalesce(worker.host, dead_worker.host), coalesce(worker.pid, dead_worker.pid) from step left join site on site.id = step.site \
             left join worker on worker.incarnation = step.written_by left join dead_worker on dead_worker.incarnation = step.written_by \
             where step.run_id = ? and (step.segment, step.branch, step.seq) > (?, ?, ?) order by step.segment, step.branch, step.seq limit ?"
        );
        let first = Position { segment: i32::MIN, branch: "".into(), seq: i32::MIN };
        let mut args = vals![run];
        args.extend(position_vals(after.unwrap_or(&first)));
        args.push(limit.into());
        let mut conn = self.read().await?;
        let rows = conn.fetch(sql, args).await?;
        rows.iter()
            .map(|row| {
                let pid = row.opt_int(STEP_COLUMNS + 1)?.and_then(|pid| i32::try_from(pid).ok());
                Ok(StepView { record: step_record(row, 0)?, host: row.opt_text(STEP_COLUMNS)?, pid })
            })
            .collect()
    }

    pub(super) async fn outcomes_of(&self, runs: &[RunKey]) -> Result<Vec<(RunKey, WaitAnswer)>> {
        let mut conn = self.read().await?;
        // Most of those somebody awaits go on: one look says which have ended, and only their values are read.
        let rows = conn.fetch_keys("select id from run where state not in (5, 6, 7, 8) and id in ({list})", &[], runs.iter().copied()).await?;
        let going: std::collections::HashSet<RunKey> = rows.iter().map(|row| row.uuid(0)).collect::<Result<_>>()?;
        let mut found = Vec::new();
        for run in runs.iter().filter(|run| !going.contains(run)) {
            match outcome(&mut conn, *run).await? {
                // Resumed in between.
                WaitAnswer::Nothing => {}
                answer => found.push((*run, answer)),
            }
        }
        Ok(found)
    }

    pub(super) async fn published(&self, wanted: &[(RunKey, String)]) -> Result<Vec<(RunKey, String, WaitAnswer)>> {
        let sql = "with wanted(run_id, key) as (values {rows}) select wanted.run_id, wanted.key, run.state, event.codec, event.key_id, event.value from wanted \
                   left join run on run.id = wanted.run_id left join event on event.run_id = wanted.run_id and event.key = wanted.key \
                   where event.codec is not null or run.state is null or run.state in (6, 7, 8)";
        let keys = wanted.iter().flat_map(|(run, key)| vals![*run, key]).collect();
        let mut conn = self.read().await?;
        let rows = conn.fetch_rows(sql, 2, &[], keys).await?;
        rows.iter()
            .map(|row| {
                let answer = match (row.opt_int(3)?, row.opt_int(2)?) {
                    (Some(_), _) => WaitAnswer::Event(row.payload(3)?),
                    (None, Some(_)) => WaitAnswer::Ended,
                    (None, None) => WaitAnswer::NotFound,
                };
                Ok((row.uuid(0)?, row.text(1)?, answer))
            })
            .collect()
    }

    pub(super) async fn children_to_cancel(&self, parent: RunKey, limit: i64) -> Result<Vec<RunKey>> {
        let sql = "select child.child from child join run on run.id = child.child where child.parent = ? and child.policy = 1 \
                   and exists (select 1 from run parent where parent.id = child.parent and parent.state in (6, 7, 8)) \
                   and run.state in (1, 2, 3, 5) order by child.child limit ?";
        let mut conn = self.read().await?;
        let rows = conn.fetch(sql, vals![parent, limit]).await?;
        rows.iter().map(|row| row.uuid(0)).collect()
    }
}

async fn detail(conn: &mut Connection, run: RunKey) -> Result<Option<RunDetail>> {
    let now = now_us();
    let sql = concat!(
        summary!(),
        ", run_info.input_codec, run_info.input_key_id, run_info.input, outcome.codec, outcome.key_id, outcome.value, worker.host, worker.pid, \
         (select count(*) from step where step.run_id = run_info.run_id), \
         (select count(*) from message where message.run_id = run_info.run_id and message.consumed is null), \
         case when run.state in (2, 4) and run_note.slow_epoch = run.epoch then run_note.slow_steps end, run_note.slow_at from run_info",
        joins!(),
        "left join worker on worker.incarnation = run.owner where run_info.run_id = ?"
    );
    let Some(row) = conn.fetch_one(sql, vals![run]).await? else { return Ok(None) };
    let outcome = if row.opt_int(SUMMARY + 3)?.is_some() { Some(row.payload(SUMMARY + 3)?) } else { None };
    let sql = concat!(
        "select ",
        waiter_columns!(),
        " from waiter left join site on site.id = waiter.site where waiter.run_id = ? order by waiter.segment, waiter.branch, waiter.seq"
    );
    let waits = conn.fetch(sql, vals![run]).await?.iter().map(|row| open_wait(row, 0, now)).collect::<Result<_>>()?;
    let sql = concat!("select ", attempt_columns!(), " from attempt where attempt.run_id = ? order by attempt.at");
    let attempts = conn.fetch(sql, vals![run]).await?.iter().map(|row| attempt_record(row, 0, now)).collect::<Result<_>>()?;
    Ok(Some(RunDetail {
        summary: run_summary(&row)?,
        input: row.payload(SUMMARY)?,
        outcome,
        waits,
        attempts,
        owner_host: row.opt_text(SUMMARY + 6)?,
        owner_pid: row.opt_int(SUMMARY + 7)?.and_then(|pid| i32::try_from(pid).ok()),
        steps_recorded: row.int(SUMMARY + 8)?,
        messages_pending: row.int(SUMMARY + 9)?,
        slow: SlowStep::read(row.opt_text(SUMMARY + 10)?.as_deref(), row.opt_int(SUMMARY + 11)?.map(|at| (now - at) / 1000)),
    }))
}
