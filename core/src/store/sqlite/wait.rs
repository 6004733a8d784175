//! Open waits, and what they would get.

use std::collections::{HashMap, HashSet};

use super::commit::Batch;
use super::connection::Connection;
use super::rows::{later, position, position_vals, state, until_ms};
use super::value::{Columns as _, Val, vals};
use crate::store::{Due, Message, OpenWait, Position, Result, RunKey, RunState, Verdict, WaitAnswer, WaitKind, Write};

/// A wait that is open already keeps its due time: a replay must not begin a sleep again.
pub(super) async fn open_waits(batch: &mut Batch<'_>, stage: &[usize], writes: &[Write], verdicts: &mut [Option<Verdict>]) -> Result<()> {
    let mut targets = HashSet::new();
    for index in stage {
        if let Write::Wait { target: Some(target), .. } = &writes[*index] {
            targets.insert(*target);
        }
    }
    let runs = batch.runs_of(stage, writes).await?;
    let found = batch.conn.fetch_keys("select id from run where id in ({list})", &[], targets).await?;
    let there: HashSet<RunKey> = found.iter().map(|row| row.uuid(0)).collect::<Result<_>>()?;
    let mut rows: Vec<Val> = Vec::new();
    for index in stage {
        let Write::Wait { run, epoch, at, kind, due, target, key, site } = &writes[*index] else { continue };
        if !batch.fence(runs.get(run), *epoch) {
            verdicts[*index] = Some(Verdict::Fenced);
        } else if target.is_some_and(|t| !there.contains(&t)) {
            verdicts[*index] = Some(Verdict::NotFound);
        } else {
            let due_at = due.map(|due| match due {
                Due::After(ms) => later(batch.now, ms),
                Due::At(at) => at,
            });
            rows.push((*run).into());
            rows.extend(position_vals(at));
            rows.extend(vals![*kind as i16, due_at, *target, key, site.id]);
            batch.names.site(site);
        }
    }
    let sql = "insert into waiter(run_id, segment, branch, seq, kind, due_at, target, key, site) values {rows} \
               on conflict (run_id, segment, branch, seq) do update set site = excluded.site returning run_id, segment, branch, seq, due_at";
    let mut due: HashMap<(RunKey, Position), Option<i64>> = HashMap::new();
    for row in batch.conn.fetch_rows(sql, 9, &[], rows).await? {
        due.insert((row.uuid(0)?, position(&row, 1)?), row.opt_int(4)?);
    }
    for index in stage {
        let Write::Wait { run, at, .. } = &writes[*index] else { continue };
        if let (None, Some(stored)) = (&verdicts[*index], due.get(&(*run, at.clone()))) {
            verdicts[*index] = Some(Verdict::Opened { due_in_ms: stored.map(|at| until_ms(at, batch.now)) });
        }
    }
    Ok(())
}

/// One read of one state: the caller holds a read transaction.
pub(super) async fn answer_waits(conn: &mut Connection, run: RunKey, waits: &[OpenWait]) -> Result<Vec<WaitAnswer>> {
    let mut answers = Vec::with_capacity(waits.len());
    let mut taken: HashSet<uuid::Uuid> = HashSet::new();
    for wait in waits {
        answers.push(match (wait.kind, wait.target) {
            (WaitKind::Sleep | WaitKind::Retry, _) => WaitAnswer::Nothing,
            (WaitKind::Receive, _) => oldest_message(conn, run, &wait.key, &mut taken).await?,
            (WaitKind::Event, Some(target)) => event(conn, target, &wait.key).await?,
            (WaitKind::Result, Some(target)) => outcome(conn, target).await?,
            (WaitKind::Event | WaitKind::Result, None) => WaitAnswer::NotFound,
        });
    }
    Ok(answers)
}

/// Each receive of one topic gets a message of its own.
async fn oldest_message(conn: &mut Connection, run: RunKey, topic: &str, taken: &mut HashSet<uuid::Uuid>) -> Result<WaitAnswer> {
    let sql = "select id, topic, codec, key_id, value from message where run_id = ? and topic = ? and consumed is null order by ord, id limit ?";
    let limit = i64::try_from(taken.len() + 1).unwrap_or(i64::MAX);
    for row in conn.fetch(sql, vals![run, topic, limit]).await? {
        let id = row.uuid(0)?;
        if taken.insert(id) {
            return Ok(WaitAnswer::Message(Message { id, topic: row.text(1)?, value: row.payload(2)? }));
        }
    }
    Ok(WaitAnswer::Nothing)
}

async fn event(conn: &mut Connection, target: RunKey, key: &str) -> Result<WaitAnswer> {
    if let Some(row) = conn.fetch_one("select codec, key_id, value from event where run_id = ? and key = ?", vals![target, key]).await? {
        return Ok(WaitAnswer::Event(row.payload(0)?));
    }
    let Some(row) = conn.fetch_one("select state from run where id = ?", vals![target]).await? else { return Ok(WaitAnswer::NotFound) };
    Ok(if state(row.int16(0)?)?.is_terminal() { WaitAnswer::Ended } else { WaitAnswer::Nothing })
}

/// The end of a run, if it has come to one.
pub(super) async fn outcome(conn: &mut Connection, run: RunKey) -> Result<WaitAnswer> {
    let sql = "select run.state, outcome.codec, outcome.key_id, outcome.value, run_note.blocked_why from run \
               left join outcome on outcome.run_id = run.id left join run_note on run_note.run_id = run.id where run.id = ?";
    let Some(row) = conn.fetch_one(sql, vec![Val::from(run)]).await? else { return Ok(WaitAnswer::NotFound) };
    let state = state(row.int16(0)?)?;
    Ok(match state {
        RunState::Blocked => WaitAnswer::Blocked { why: row.opt_text(4)?.unwrap_or_default() },
        state if state.is_terminal() => {
            let value = if row.opt_int(1)?.is_some() { row.payload(1)? } else { crate::store::Payload::default() };
            WaitAnswer::Result { state, value }
        }
        _ => WaitAnswer::Nothing,
    })
}
