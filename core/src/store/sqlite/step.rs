//! Recorded calls and what commits with them.

use std::collections::{HashMap, HashSet};

use uuid::Uuid;

use super::commit::Batch;
use super::connection::is_duplicate;
use super::rows::{STEP_COLUMNS, later, position_vals, step_columns, step_record};
use super::start::start_runs;
use super::value::{Columns as _, Val, payload_vals, vals};
use super::wake::waiters_of_events;
use crate::failpoint::mutated;
use crate::store::{Effect, NewMessage, NewRun, Position, Result, RunKey, StepRecord, StepWrite, Verdict, Write};

type At = (RunKey, Position);

const INSERT: &str = "insert into step(run_id, segment, branch, seq, at, site, digest, token, took_us, written_by, done, seen, epoch, attempt, kind, \
                      failed, codec, key_id, output) values {rows}";
const OVERWRITE: &str = "insert or replace into step(run_id, segment, branch, seq, at, site, digest, token, took_us, written_by, done, seen, epoch, \
                         attempt, kind, failed, codec, key_id, output) values {rows}";
const WIDTH: usize = 19;
/// By way of a named list: `in (values ..)` itself would be looked up row by row of the whole table.
const CLOSE: &str = "with closed(run_id, segment, branch, seq) as (values {rows}) \
                     delete from waiter where (run_id, segment, branch, seq) in (select * from closed)";
/// A run that was there before, and was only attached to by its id, is nobody's child: it does not end with who waits for it.
const ADOPT: &str = "with started(parent, child, segment, branch, seq, policy) as (values {rows}) \
                     insert or ignore into child(parent, child, segment, branch, seq, policy) \
                     select started.parent, started.child, started.segment, started.branch, started.seq, started.policy \
                     from started cross join run_info on run_info.run_id = started.child where run_info.parent = started.parent";
const CONSUME: &str = "with taken(done, run_id, id) as (values {rows}) update message set consumed = taken.done from taken \
                       where message.run_id = taken.run_id and message.id = taken.id and message.consumed is null";

struct Recorded<'a> {
    index: usize,
    run: RunKey,
    epoch: i32,
    step: &'a StepWrite,
}

pub(super) async fn record_steps(batch: &mut Batch<'_>, stage: &[usize], writes: &[Write], verdicts: &mut [Option<Verdict>]) -> Result<()> {
    let steps: Vec<Recorded<'_>> = stage
        .iter()
        .filter_map(|i| match &writes[*i] {
            Write::Step { run, epoch, step } => Some(Recorded { index: *i, run: *run, epoch: *epoch, step }),
            _ => None,
        })
        .collect();
    let runs = batch.runs_of(stage, writes).await?;
    // Whether a row is new must be known before its effects are looked at; for plain steps the insert itself tells, at no cost.
    let look = batch.retry || steps.iter().any(|s| s.step.effects.iter().any(|e| matches!(e, Effect::Send(_) | Effect::StartChild(_))));
    let mut standing = if look { standing(batch, &steps).await? } else { HashMap::new() };
    let mut fresh = sort_out(batch, &steps, &runs, &standing, verdicts);
    if !look && !fresh.is_empty() && !mutated("on_conflict") {
        match insert(batch, &fresh).await {
            Ok(()) => return effects(batch, fresh, verdicts).await,
            Err(e) if is_duplicate(&e) => {
                standing = self::standing(batch, &steps).await?;
                // The statements before the one that failed have inserted their rows: those carry our tokens, and are new.
                let ours: HashSet<i64> = fresh.iter().map(|s| s.step.token).collect();
                let inserted: Vec<_> = steps
                    .iter()
                    .filter(|s| ours.contains(&s.step.token) && standing.get(&(s.run, s.step.at.clone())).is_some_and(|r| r.token == s.step.token))
                    .collect();
                let rows: Vec<Val> = inserted
                    .iter()
                    .flat_map(|s| {
                        let mut key = vals![s.run];
                        key.extend(position_vals(&s.step.at));
                        key
                    })
                    .collect();
                batch.conn.write_rows("with gone(run_id, segment, branch, seq) as (values {rows}) delete from step where (run_id, segment, branch, seq) in (select * from gone)", 4, rows).await?;
                for step in inserted {
                    standing.remove(&(step.run, step.step.at.clone()));
                }
                fresh = sort_out(batch, &steps, &runs, &standing, verdicts);
            }
            Err(e) => return Err(e),
        }
    }
    let fresh = admit(batch, fresh, verdicts).await?;
    insert(batch, &fresh).await?;
    effects(batch, fresh, verdicts).await
}

/// Fence and conflict: what is left is new.
fn sort_out<'a, 'b>(
    batch: &Batch<'_>,
    steps: &'b [Recorded<'a>],
    runs: &HashMap<RunKey, super::rows::RunRow>,
    standing: &HashMap<At, StepRecord>,
    verdicts: &mut [Option<Verdict>],
) -> Vec<&'b Recorded<'a>> {
    let mut fresh: Vec<&Recorded<'_>> = Vec::with_capacity(steps.len());
    let mut taken: HashMap<(RunKey, &Position), &Recorded<'_>> = HashMap::new();
    let several = steps.len() > runs.len();
    for step in steps {
        let there = if standing.is_empty() { None } else { standing.get(&(step.run, step.step.at.clone())) };
        verdicts[step.index] = match there {
            // The earlier try of this batch committed; the run may have ended or been taken since, and still this is the truth.
            Some(row) if row.token == step.step.token => Some(Verdict::Committed),
            _ if !batch.fence(runs.get(&step.run), step.epoch) => Some(Verdict::Fenced),
            Some(row) if !mutated("on_conflict") => Some(Verdict::Adopt(Box::new(row.clone()))),
            _ => match taken.get(&(step.run, &step.step.at)) {
                Some(first) if first.step.token == step.step.token => Some(Verdict::Committed),
                Some(first) => Some(Verdict::Adopt(Box::new(record_of(batch, first)))),
                None => {
                    if several {
                        taken.insert((step.run, &step.step.at), step);
                    }
                    fresh.push(step);
                    None
                }
            },
        };
    }
    fresh
}

fn record_of(batch: &Batch<'_>, written: &Recorded<'_>) -> StepRecord {
    let step = written.step;
    StepRecord {
        at: step.at.clone(),
        kind: step.kind,
        site: step.site.clone(),
        digest: step.digest,
        failed: step.failed,
        done: step.done,
        seen: step.seen,
        attempt: step.attempt,
        took_us: step.took_us,
        token: step.token,
        written_by: batch.incarnation.unwrap_or_default(),
        epoch: written.epoch,
        recorded_at: batch.now,
        output: step.output.clone(),
    }
}

async fn standing(batch: &mut Batch<'_>, steps: &[Recorded<'_>]) -> Result<HashMap<At, StepRecord>> {
    let keys = steps
        .iter()
        .flat_map(|s| {
            let mut key = vals![s.run];
            key.extend(position_vals(&s.step.at));
            key
        })
        .collect();
    let sql = concat!(
        "with wanted(run_id, segment, branch, seq) as (values {rows}) select ",
        step_columns!(),
        ", step.run_id from wanted cross join step on step.run_id = wanted.run_id and step.segment = wanted.segment \
         and step.branch = wanted.branch and step.seq = wanted.seq left join site on site.id = step.site"
    );
    let mut found = HashMap::new();
    for row in batch.conn.fetch_rows(sql, 4, &[], keys).await? {
        let record = step_record(&row, 0)?;
        found.insert((row.uuid(STEP_COLUMNS)?, record.at.clone()), record);
    }
    Ok(found)
}

/// Effects that may refuse a step: a message to nobody, a child whose id is another's. Nothing of such a step is stored.
async fn admit<'a, 'b>(batch: &mut Batch<'_>, fresh: Vec<&'b Recorded<'a>>, verdicts: &mut [Option<Verdict>]) -> Result<Vec<&'b Recorded<'a>>> {
    let mut children: Vec<(usize, &NewRun)> = Vec::new();
    let mut receivers: HashSet<RunKey> = HashSet::new();
    for step in &fresh {
        for effect in &step.step.effects {
            match effect {
                Effect::StartChild(run) => children.push((step.index, run)),
                Effect::Send(message) => _ = receivers.insert(message.to),
                _ => {}
            }
        }
    }
    if children.is_empty() && receivers.is_empty() {
        return Ok(fresh);
    }
    let there = existing(batch, &receivers).await?;
    for step in &fresh {
        if step.step.effects.iter().any(|e| matches!(e, Effect::Send(m) if !there.contains(&m.to))) {
            verdicts[step.index] = Some(Verdict::NotFound);
        }
    }
    children.retain(|(index, _)| verdicts[*index].is_none());
    let starts: Vec<&NewRun> = children.iter().map(|(_, run)| *run).collect();
    let answers = start_runs(batch, &starts).await?;
    for ((index, run), answer) in children.iter().zip(answers) {
        let accepted = match &answer {
            Verdict::Started { .. } => true,
            // A child under an id of the user's own may exist: it is awaited like one just started.
            Verdict::Attached { run: attached, .. } => *attached == run.key,
            _ => false,
        };
        if !accepted {
            verdicts[*index] = Some(answer);
        }
    }
    Ok(fresh.into_iter().filter(|s| verdicts[s.index].is_none()).collect())
}

async fn insert(batch: &mut Batch<'_>, fresh: &[&Recorded<'_>]) -> Result<()> {
    let Some(incarnation) = batch.incarnation else { return Ok(()) };
    let mut rows: Vec<Val> = Vec::with_capacity(fresh.len() * WIDTH);
    for written in fresh {
        let step = written.step;
        rows.push(written.run.into());
        rows.extend(position_vals(&step.at));
        rows.extend(vals![
            batch.now,
            step.site.id,
            step.digest,
            step.token,
            step.took_us,
            incarnation,
            step.done,
            step.seen,
            written.epoch,
            step.attempt,
            step.kind,
            step.failed,
        ]);
        rows.extend(payload_vals(&step.output));
        batch.names.site(&step.site);
    }
    let sql = if mutated("on_conflict") { OVERWRITE } else { INSERT };
    batch.conn.write_rows(sql, WIDTH, rows).await.map(drop)
}

/// What commits with rows that are new.
async fn effects(batch: &mut Batch<'_>, fresh: Vec<&Recorded<'_>>, verdicts: &mut [Option<Verdict>]) -> Result<()> {
    let (mut messages, mut events, mut children) = (Vec::new(), Vec::new(), Vec::new());
    let (mut consumed, mut closed) = (Vec::new(), Vec::new());
    let mut published: Vec<(RunKey, &str)> = Vec::new();
    for written in fresh {
        verdicts[written.index] = Some(Verdict::Committed);
        let at = &written.step.at;
        for effect in &written.step.effects {
            match effect {
                Effect::Send(message) => messages.push((Some(written.run), message)),
                Effect::SetEvent { key, value } => {
                    events.extend(vals![written.run, key, batch.now]);
                    events.extend(payload_vals(value));
                    published.push((written.run, key));
                }
                Effect::StartChild(run) => {
                    let policy = run.parent.as_ref().map_or(1, |p| p.policy as i16);
                    children.extend(vals![written.run, run.key]);
                    children.extend(position_vals(at));
                    children.push(policy.into());
                }
                Effect::Consume { message } => {
                    consumed.extend(vals![written.step.done, written.run, *message]);
                }
                Effect::CloseWait => {
                    closed.push(written.run.into());
                    closed.extend(position_vals(at));
                }
                Effect::CloseWaitOf(at) => {
                    closed.push(written.run.into());
                    closed.extend(position_vals(at));
                }
            }
        }
    }
    batch.conn.write_rows(ADOPT, 6, children).await?;
    let sql = "insert into event(run_id, key, at, codec, key_id, value) values {rows} on conflict (run_id, key) do update set at = excluded.at, \
               codec = excluded.codec, key_id = excluded.key_id, value = excluded.value";
    batch.conn.write_rows(sql, 6, events).await?;
    batch.conn.write_rows(CONSUME, 3, consumed).await?;
    batch.conn.write_rows(CLOSE, 4, closed).await?;
    if !published.is_empty() {
        waiters_of_events(batch.conn, &published, &mut batch.wakes).await?;
    }
    insert_messages(batch, &messages).await
}

/// Messages whose receivers exist; one that is there already wakes nobody again.
async fn insert_messages(batch: &mut Batch<'_>, messages: &[(Option<RunKey>, &NewMessage)]) -> Result<()> {
    if messages.is_empty() {
        return Ok(());
    }
    let mut rows: Vec<Val> = Vec::with_capacity(messages.len() * 10);
    for (sender, message) in messages {
        rows.extend(vals![message.to, &message.topic, message.ord, message.id, *sender, batch.now, message.token]);
        rows.extend(payload_vals(&message.value));
    }
    let sql = "insert or ignore into message(run_id, topic, ord, id, sender, at, token, codec, key_id, value) values {rows} returning run_id";
    for row in batch.conn.fetch_rows(sql, 10, &[], rows).await? {
        *batch.wakes.entry(row.uuid(0)?).or_default() += 1;
    }
    Ok(())
}

async fn existing(batch: &mut Batch<'_>, runs: &HashSet<RunKey>) -> Result<HashSet<RunKey>> {
    let rows = batch.conn.fetch_keys("select id from run where id in ({list})", &[], runs.iter().copied()).await?;
    rows.iter().map(|row| row.uuid(0)).collect()
}

pub(super) async fn send_messages(batch: &mut Batch<'_>, stage: &[usize], writes: &[Write], verdicts: &mut [Option<Verdict>]) -> Result<()> {
    let messages: Vec<(usize, &NewMessage)> =
        stage.iter().filter_map(|i| if let Write::Send(message) = &writes[*i] { Some((*i, message)) } else { None }).collect();
    let there = existing(batch, &messages.iter().map(|(_, m)| m.to).collect()).await?;
    let mut deliver: Vec<(Option<Uuid>, &NewMessage)> = Vec::new();
    for (index, message) in messages {
        let found = there.contains(&message.to);
        verdicts[index] = Some(if found { Verdict::Committed } else { Verdict::NotFound });
        if found {
            deliver.push((None, message));
        }
    }
    insert_messages(batch, &deliver).await
}

pub(super) async fn record_attempts(batch: &mut Batch<'_>, stage: &[usize], writes: &[Write], verdicts: &mut [Option<Verdict>]) -> Result<()> {
    let runs = batch.runs_of(stage, writes).await?;
    let mut rows: Vec<Val> = Vec::new();
    for index in stage {
        let Write::Attempt { run, epoch, at, attempt, started, site, token, error, retry_in_ms } = &writes[*index] else { continue };
        if batch.retry && attempt_stands(batch, *run, at, *attempt, *started, *token).await? {
            verdicts[*index] = Some(Verdict::Committed);
            continue;
        }
        let (true, Some(incarnation)) = (batch.fence(runs.get(run), *epoch), batch.incarnation) else {
            verdicts[*index] = Some(Verdict::Fenced);
            continue;
        };
        rows.push((*run).into());
        rows.extend(position_vals(at));
        rows.extend(vals![*attempt, *started, site.id, batch.now, retry_in_ms.map(|ms| later(batch.now, ms)), incarnation, *epoch, *token]);
        rows.extend(payload_vals(error));
        batch.names.site(site);
        verdicts[*index] = Some(Verdict::Committed);
    }
    let n = rows.len() / 15;
    if batch.conn.write_rows(INSERT_ATTEMPT, 15, rows).await? < n as u64 {
        for index in stage {
            let Write::Attempt { run, at, attempt, started, token, .. } = &writes[*index] else { continue };
            // Another's of the same number stands: this execution did not see it and must not go on.
            if matches!(verdicts[*index], Some(Verdict::Committed)) && !attempt_stands(batch, *run, at, *attempt, *started, *token).await? {
                verdicts[*index] = Some(Verdict::Fenced);
            }
        }
    }
    Ok(())
}

/// The first record of an attempt stands: a later one can only come from an execution that did not see it.
pub(super) const INSERT_ATTEMPT: &str = "insert or ignore into attempt(run_id, segment, branch, seq, attempt, started, site, at, retry_at, written_by, \
                                         epoch, token, codec, key_id, error) values {rows}";

pub(super) async fn attempt_stands(batch: &mut Batch<'_>, run: RunKey, at: &Position, attempt: i32, started: bool, token: i64) -> Result<bool> {
    let mut key = vals![run];
    key.extend(position_vals(at));
    key.extend(vals![attempt, started, token]);
    let sql = "select 1 from attempt where run_id = ? and segment = ? and branch = ? and seq = ? and attempt = ? and started = ? and token = ?";
    Ok(batch.conn.fetch_one(sql, key).await?.is_some())
}
