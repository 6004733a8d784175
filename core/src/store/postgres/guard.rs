//! Transactional steps: the statement that fences and records inside a user's own transaction, and the probe after a lost COMMIT.

use std::fmt::Write as _;

use uuid::Uuid;

use super::connect::{Session, Shared};
use super::lock::LockSet;
use super::sites::Sites;
use super::steps::StepRow;
use super::{lock, steps};
use crate::store::{GuardStatement, Placeholders, Result, RunKey, RunState, StepWrite, Verdict};

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// The columns of the one-row CTE `p`, in the order of the parameters: (name, cast). Each parameter occurs once, so that positional styles
/// work, and is cast from text, so that drivers that ask the server for types send text.
const PARAMETERS: &[(&str, &str)] = &[
    ("incarnation", "uuid"),
    ("run_id", "uuid"),
    ("epoch", "integer"),
    ("identity", "text"),
    ("site", "bigint"),
    ("site_name", "text"),
    ("site_location", "text"),
    ("digest", "bigint"),
    ("token", "bigint"),
    ("took_us", "bigint"),
    ("segment", "integer"),
    ("seq", "integer"),
    ("done", "integer"),
    ("seen", "integer"),
    ("attempt", "smallint"),
    ("kind", "smallint"),
    ("codec", "smallint"),
    ("failed", "boolean"),
    ("branch", "text"),
    ("key_id", "text"),
    ("output", "bytea"),
];

fn placeholder(style: Placeholders, at: usize) -> String {
    match style {
        Placeholders::Dollar => format!("${}", at + 1),
        Placeholders::Percent => "%s".into(),
        Placeholders::Named => format!(":p{}", at + 1),
        Placeholders::Question => "?".into(),
    }
}

/// Locks the run row and nothing else of ours: a claim of the run waits for it, and reads the checkpoint. `identity` holds what the engine
/// read of its own database: a connection to another one is found out before it records.
const BODY: &str = "\
here as materialized (
  select (p.identity is null or p.identity = (select d.oid::text || '/' || d.datname from pg_catalog.pg_database d where d.datname = current_database())) as same
  from p),
held as materialized (
  select r.id from p cross join lateral (
    select r.id from {s}.run r where r.id = p.run_id and r.owner = p.incarnation and r.epoch = p.epoch and r.state in (2, 4)
      and (select here.same from here) for no key update offset 0) r),
named as (
  insert into {s}.site (id, name, location) select p.site, p.site_name, p.site_location from p where exists (select 1 from held)
  on conflict do nothing),
recorded as (
  insert into {s}.step (run_id, at, site, digest, token, took_us, written_by, segment, seq, done, seen, epoch, attempt, kind, codec, failed, branch, key_id, output)
  select p.run_id, statement_timestamp(), p.site, p.digest, p.token, p.took_us, p.incarnation, p.segment, p.seq, p.done, p.seen, p.epoch,
         p.attempt, p.kind, p.codec, p.failed, p.branch, p.key_id, p.output
  from p where exists (select 1 from held) on conflict do nothing returning 1)
select case when not (select same from here) then 'other_database'
            when exists (select 1 from recorded) then 'ok'
            when exists (select 1 from held) then 'recorded'
            else 'fenced' end as verdict";

pub(super) fn statement(
    shared: &Shared,
    database: Option<String>,
    style: Placeholders,
    incarnation: Uuid,
    run: RunKey,
    epoch: i32,
    step: &StepWrite,
) -> GuardStatement {
    let columns: Vec<String> = PARAMETERS
        .iter()
        .enumerate()
        .map(|(at, (name, kind))| {
            let text = format!("cast({} as text)", placeholder(style, at));
            match *kind {
                "text" => format!("{text} as {name}"),
                "bytea" => format!("decode({text}, 'hex') as {name}"),
                kind => format!("cast({text} as {kind}) as {name}"),
            }
        })
        .collect();
    let body = BODY.replace("{s}", &shared.schema);
    // `::` and `%` mean something to some drivers.
    let body = body.replace("d.oid::text", "cast(d.oid as text)");
    let at = &step.at;
    let params = vec![
        Some(incarnation.to_string()),
        Some(run.to_string()),
        Some(epoch.to_string()),
        database,
        Some(step.site.id.to_string()),
        Some(step.site.name.to_string()),
        Some(step.site.location.to_string()),
        step.digest.map(|digest| digest.to_string()),
        Some(step.token.to_string()),
        Some(step.took_us.to_string()),
        Some(at.segment.to_string()),
        Some(at.seq.to_string()),
        Some(step.done.to_string()),
        Some(step.seen.to_string()),
        Some(super::rows::small(step.attempt).to_string()),
        Some(step.kind.to_string()),
        Some(step.output.codec.to_string()),
        Some(step.failed.to_string()),
        Some(at.branch.to_string()),
        step.output.key_id.clone(),
        (step.output.codec != 0).then(|| hex(&step.output.data)),
    ];
    GuardStatement { sql: format!("with p as materialized (select {}),\n{body}", columns.join(", ")), params }
}

/// Insert what the lost transaction would have inserted, look, and take it back. Waiting for its locks is what makes the answer final.
pub(super) async fn probe(session: &mut Session, sites: &Sites, incarnation: Uuid, run: RunKey, epoch: i32, step: &StepWrite) -> Result<Verdict> {
    session.begin().await?;
    let verdict = record(session, sites, incarnation, run, epoch, step).await;
    session.rollback().await;
    Ok(match verdict? {
        // It went in now: so it had not been there.
        Recorded::New => Verdict::NotFound,
        Recorded::Verdict(verdict) => verdict,
    })
}

pub(super) enum Recorded {
    New,
    Verdict(Verdict),
}

/// In a transaction: fence by the run row, then the step row.
pub(super) async fn record(session: &mut Session, sites: &Sites, incarnation: Uuid, run: RunKey, epoch: i32, step: &StepWrite) -> Result<Recorded> {
    session.pin().await?;
    let locks = lock::take(session, None, 0, LockSet::whole([run])).await?;
    let owned = locks
        .runs
        .get(&run)
        .is_some_and(|now| now.owner == Some(incarnation) && now.epoch == epoch && matches!(now.state, RunState::Running | RunState::Cancelling));
    if owned && steps::insert_held(session, incarnation, &[StepRow { run, epoch, step }], true).await? > 0 {
        return Ok(Recorded::New);
    }
    let standing = steps::standing(session, sites, &[(run, &step.at)]).await?.remove(&(run, step.at.clone()));
    Ok(Recorded::Verdict(match standing {
        Some(record) if record.token == step.token => Verdict::Committed,
        Some(record) if owned => Verdict::Adopt(Box::new(record)),
        _ => Verdict::Fenced,
    }))
}
