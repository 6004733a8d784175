//! Bringing runs back: resume, retry from the failed step, rewind, and the offer of blocked runs to a new build.

use sqlx::Row;

use super::changes::{self, AHEAD, Change};
use super::connect::Session;
use super::lock::{self, LockSet, Locked};
use super::rows::{column, read};
use super::steps::position;
use super::{PostgresStore, control};
use crate::store::forget::{self, By, Recorded};
use crate::store::{ControlVerdict, LAUNCH, Position, Result, RunKey, RunState, StoreError, WakeHint};

const TRIES: u32 = 5;

#[derive(Clone, Copy)]
enum Verb<'a> {
    Resume,
    Retry,
    /// To before this; whether what it does from there on is to have new keys.
    Rewind(&'a Position, bool),
}

impl Verb<'_> {
    fn name(self) -> &'static str {
        match self {
            Verb::Resume => "resume",
            Verb::Retry => "retry",
            Verb::Rewind(..) => "rewind",
        }
    }
}

pub(super) async fn resume(store: &PostgresStore, run: RunKey, by: &str) -> Result<ControlVerdict> {
    act(store, run, by, Verb::Resume).await
}

pub(super) async fn retry(store: &PostgresStore, run: RunKey, by: &str) -> Result<ControlVerdict> {
    act(store, run, by, Verb::Retry).await
}

pub(super) async fn rewind(store: &PostgresStore, run: RunKey, to: &Position, new_effects: bool, by: &str) -> Result<ControlVerdict> {
    act(store, run, by, Verb::Rewind(to, new_effects)).await
}

async fn act(store: &PostgresStore, run: RunKey, by: &str, verb: Verb<'_>) -> Result<ControlVerdict> {
    let mut session = store.pool.session(&store.shared).await?;
    let mut tried = 0;
    loop {
        session.begin().await?;
        match once(&mut session, run, by, verb).await {
            Ok((verdict, hints)) => {
                session.commit().await?;
                drop(session);
                store.hints.tell(store, None, hints);
                return Ok(verdict);
            }
            Err(StoreError::Conflict(_)) if tried < TRIES => {
                session.rollback().await;
                tried += 1;
            }
            Err(error) => {
                session.rollback().await;
                return Err(error);
            }
        }
    }
}

/// Of outputs only the errors. The mark of an at-most-once step is the attempt that was written before it ran.
const RECORDED: &str = "\
select s.branch, s.seq, s.done, s.failed, s.kind, case when s.failed and s.codec = 1 then s.output end,
       exists (select 1 from {s}.attempt a where a.run_id = s.run_id and a.segment = s.segment and a.branch = s.branch and a.seq = s.seq and a.started offset 0)
from {s}.step s where s.run_id = $1 and s.segment = $2";
const NEW_EFFECTS: &str = "update {s}.run_info set new_effects = new_effects + 1 where run_id = $1";
const ERROR: &str = "select case when o.codec = 1 then o.value end from {s}.outcome o where o.run_id = $1";
const DONE_AT: &str = "select s.done from {s}.step s where s.run_id = $1 and s.segment = $2 and s.branch = $3 and s.seq = $4";

async fn once(session: &mut Session, run: RunKey, by: &str, verb: Verb<'_>) -> Result<(ControlVerdict, Vec<WakeHint>)> {
    let nothing = |verdict| Ok((verdict, Vec::new()));
    let locks = lock::take(session, None, 0, LockSet::whole([run])).await?;
    let Some(was) = locks.runs.get(&run).cloned() else { return nothing(ControlVerdict::NotFound) };
    let possible = match verb {
        Verb::Resume => matches!(was.state, RunState::Blocked | RunState::Cancelled),
        Verb::Retry => was.state == RunState::Failed,
        Verb::Rewind(..) => true,
    };
    if !possible {
        return nothing(ControlVerdict::NotPossible(was.state));
    }
    let mut detail = None;
    match verb {
        Verb::Resume => {
            let records = recorded(session, run, was.segment).await?;
            forget(session, run, was.segment, &forget::for_resume(&records), By::Person).await?;
        }
        Verb::Retry => {
            let rows = session.rows(session.q(ERROR).bind(run)).await?;
            let error: Option<Vec<u8>> = rows.first().map(|row| read(row.try_get::<Option<Vec<u8>>, _>(0))).transpose()?.flatten();
            forget_failed(session, run, was.segment, error.as_deref(), By::Person).await?;
        }
        Verb::Rewind(to, new_effects) => {
            let statement = session.q(DONE_AT).bind(run).bind(to.segment).bind(to.branch.to_string()).bind(to.seq);
            let rows = session.rows(statement).await?;
            let Some(row) = rows.first() else { return nothing(ControlVerdict::NotPossible(was.state)) };
            let done: i32 = read(row.try_get(0))?;
            let records = recorded(session, run, to.segment).await?;
            forget(session, run, to.segment, &records.iter().filter(|r| r.done >= done).collect::<Vec<_>>(), By::Person).await?;
            if new_effects {
                session.run(session.q(NEW_EFFECTS).bind(run)).await?;
            }
            detail = Some(format!("{}:{}:{}{}", to.segment, to.branch, to.seq, if new_effects { " with new effects" } else { "" }));
        }
    }
    make_ready(session, run, &was).await?;
    control::log(session, run, verb.name(), by, detail.as_deref()).await?;
    let mut hints = vec![WakeHint::Ready];
    hints.extend(was.owner.map(WakeHint::Inbox));
    Ok((ControlVerdict::Done, hints))
}

const FORGET_STEPS: &str = "\
delete from {s}.step x
using unnest($3::text[], $4::int[]) as u(branch, seq),
      lateral (select s.ctid as c from {s}.step s where s.run_id = $1 and s.segment = $2 and s.branch = u.branch and s.seq = u.seq offset 0) l
where x.ctid = l.c";
/// Attempts of calls that stand no more, or never did, would count against the next try. That an at-most-once step has begun only a person forgets.
const FORGET_ATTEMPTS: &str = "\
delete from {s}.attempt a where a.run_id = $1 and a.segment = $2 and a.seq >= 0 and ($3 or not a.started)
  and not exists (select 1 from {s}.step s where s.run_id = a.run_id and s.segment = a.segment and s.branch = a.branch and s.seq = a.seq offset 0)";
const WAITS: &str = "select w.segment, w.branch, w.seq from {s}.waiter w where w.run_id = $1 and w.segment = $2";
const FORGET_THESE_WAITS: &str = "\
delete from {s}.waiter x
using unnest($3::text[], $4::int[]) as u(branch, seq),
      lateral (select w.ctid as c from {s}.waiter w where w.run_id = $1 and w.segment = $2 and w.branch = u.branch and w.seq = u.seq offset 0) l
where x.ctid = l.c";
const FORGET_WAITS: &str = "delete from {s}.waiter w where w.run_id = $1";
/// What a forgotten receive took is there to be received again.
const GIVE_BACK: &str = "update {s}.message m set consumed = null where m.run_id = $1 and m.consumed = any($2::int[])";

async fn recorded(session: &mut Session, run: RunKey, segment: i32) -> Result<Vec<Recorded>> {
    let rows = session.rows(session.q(RECORDED).bind(run).bind(segment)).await?;
    rows.iter()
        .map(|row| {
            let branch: String = read(row.try_get(0))?;
            let kind: i16 = read(row.try_get(4))?;
            Ok(Recorded {
                at: Position { segment, branch: branch.into(), seq: read(row.try_get(1))? },
                done: read(row.try_get(2))?,
                failed: read(row.try_get(3))?,
                cancel_seen: kind == crate::protocol::ops::kind::CANCEL_SEEN,
                error: read(row.try_get(5))?,
                at_most_once: read(row.try_get(6))?,
            })
        })
        .collect()
}

/// A retry goes on at the step that failed: it and what was called after it are forgotten. With no failed step, nothing is. `error`: the run's.
pub(super) async fn forget_failed(session: &mut Session, run: RunKey, segment: i32, error: Option<&[u8]>, by: By) -> Result<()> {
    let records = recorded(session, run, segment).await?;
    forget(session, run, segment, &forget::for_retry(&records, error, by), by).await?;
    // The mark counts rows, and of those some have just been forgotten: it would take what is recorded next for none.
    session.run(session.q(FORGET_MARK).bind(run)).await.map(|_| ())
}

async fn forget(session: &mut Session, run: RunKey, segment: i32, gone: &[&Recorded], by: By) -> Result<()> {
    if gone.is_empty() {
        return Ok(());
    }
    let (branches, seqs) = (column(gone, |r| r.at.branch.to_string()), column(gone, |r| r.at.seq));
    session.run(session.q(FORGET_STEPS).bind(run).bind(segment).bind(branches).bind(seqs)).await?;
    session.run(session.q(FORGET_ATTEMPTS).bind(run).bind(segment).bind(by == By::Person)).await?;
    match by {
        By::Person => session.run(session.q(FORGET_WAITS).bind(run)).await?,
        By::Policy => {
            let rows = session.rows(session.q(WAITS).bind(run).bind(segment)).await?;
            let waits: Vec<Position> = rows.iter().map(|row| position(row, 0)).collect::<Result<_>>()?;
            let behind = forget::waits_behind(gone, &waits);
            let (branches, seqs) = (column(&behind, |at| at.branch.to_string()), column(&behind, |at| at.seq));
            session.run(session.q(FORGET_THESE_WAITS).bind(run).bind(segment).bind(branches).bind(seqs)).await?
        }
    };
    session.run(session.q(GIVE_BACK).bind(run).bind(column(gone, |r| r.done))).await.map(|_| ())
}

const FORGET_OUTCOME: &str = "delete from {s}.outcome where run_id = $1";
/// That a job which runs at most once has begun: whoever brings it back wants it to begin.
const FORGET_BEGUN: &str = "delete from {s}.attempt a where a.run_id = $1 and a.segment = $2 and a.branch = '' and a.seq = -1 and a.started";
const FORGET_NOTE: &str = "delete from {s}.run_note where run_id = $1";
const FORGET_MARK: &str = "update {s}.run set crash_mark = -1 where id = $1 and crash_mark <> -1";
const FORGET_CRASHES: &str = "update {s}.run set crashes = 0, crash_mark = -1 where id = $1 and (crashes <> 0 or crash_mark <> -1)";

/// A deadline that lies ahead still stands.
const KEEP_DEADLINE: &str = "\
insert into {s}.timer (run_id, kind, due_at) select i.run_id, 3, i.deadline_at from {s}.run_info i
where i.run_id = $1 and i.deadline_at > statement_timestamp() on conflict do nothing";
const HAS_TIMER: &str = "select exists (select 1 from {s}.timer t where t.run_id = $1)";

async fn make_ready(session: &mut Session, run: RunKey, was: &Locked) -> Result<()> {
    session.run(session.q(FORGET_OUTCOME).bind(run)).await?;
    session.run(session.q(FORGET_BEGUN).bind(run).bind(was.segment)).await?;
    session.run(session.q(FORGET_NOTE).bind(run)).await?;
    session.run(session.q(FORGET_CRASHES).bind(run)).await?;
    if was.timed {
        let kinds = [changes::TimerKind::Wake, changes::TimerKind::Start, changes::TimerKind::Retry, changes::TimerKind::CancelEnd];
        changes::drop_timers(session, &kinds.map(|kind| (run, Some(kind)))).await?;
    }
    session.run(session.q(KEEP_DEADLINE).bind(run)).await?;
    let rows = session.rows(session.q(HAS_TIMER).bind(run)).await?;
    let timed = rows.first().map(|row| read(row.try_get(0))).transpose()?.unwrap_or(false);
    let mut now = Locked { state: RunState::Ready, owner: None, epoch: was.epoch + 1, timed, ..was.clone() };
    if was.slotted {
        now.slotted = !changes::free_slots(session, &[(run, false)]).await?.contains(&run);
    }
    changes::change(session, &[Change { run, now }]).await?;
    if was.owner.is_none() {
        changes::unready(session, run).await?;
    }
    changes::make_ready(session, &[(run, was.route, was.priority.saturating_sub(AHEAD))]).await
}

/// One that was asked to cancel is not: it would go on as if nobody had.
const BLOCKED: &str = "\
select r.id, n.blocked_why, n.blocked_build, i.workflow
from {s}.run r
cross join lateral (select * from {s}.run_info i where i.run_id = r.id and i.namespace = $3 offset 0) i
cross join lateral (select * from {s}.run_note n where n.run_id = r.id offset 0) n
where r.state = 5 and r.id > $1 and i.workflow = any($2::text[]) and n.cancel_at is null
  and not exists (select 1 from {s}.offer o where o.run_id = r.id and o.build = $4 offset 0)
order by r.state, r.id limit 500";

const OFFER: &str = "insert into {s}.offer (run_id, build) values ($1, $2) on conflict do nothing";
/// Of builds that are named after their launch each comes once.
const OFFERED_BEFORE: &str = "delete from {s}.offer where run_id = $1 and build like $2";
/// Once a launch, page by page, and not by each end: most runs are never offered.
const OFFERED_TO_ENDED: &str = "\
with page as materialized (
  select o.ctid as c, o.run_id, o.build from {s}.offer o where (o.run_id, o.build) > ($1, $2) order by o.run_id, o.build limit 500),
gone as (
  delete from {s}.offer x using page p, lateral (select r.id from {s}.run r where r.id = p.run_id and r.state in (6, 7, 8) offset 0) r where x.ctid = p.c)
select p.run_id, p.build from page p order by p.run_id desc, p.build desc limit 1";

/// Blocks that another build may get past.
fn is_about_the_build(why: &str) -> bool {
    let document: serde_json::Value = serde_json::from_str(why).unwrap_or_default();
    let code = document.get("code").and_then(serde_json::Value::as_str).unwrap_or_default();
    matches!(code, "mismatch" | "reordered" | "newer_engine_needed" | "payload_codec")
}

pub(super) async fn offer_blocked(store: &PostgresStore, build: &str, workflows: &[String]) -> Result<i64> {
    let mut session = store.pool.session(&store.shared).await?;
    let mut last = (RunKey::nil(), String::new());
    loop {
        let rows = session.rows(session.q(OFFERED_TO_ENDED).bind(last.0).bind(last.1.as_str())).await?;
        let Some(row) = rows.first() else { break };
        last = (read(row.try_get(0))?, read(row.try_get(1))?);
    }
    let (mut offered, mut after) = (0, RunKey::nil());
    loop {
        let statement = session.q(BLOCKED).bind(after).bind(workflows).bind(store.shared.namespace.as_str()).bind(build);
        let rows = session.rows(statement).await?;
        let full = rows.len() == 500;
        for row in &rows {
            let run: RunKey = read(row.try_get(0))?;
            after = run;
            let (why, blocked_by): (Option<String>, Option<String>) = (read(row.try_get(1))?, read(row.try_get(2))?);
            if blocked_by.as_deref() == Some(build) || !is_about_the_build(&why.unwrap_or_default()) {
                continue;
            }
            session.begin().await?;
            match offer(&mut session, run, build).await {
                Ok(done) => {
                    session.commit().await?;
                    offered += i64::from(done);
                }
                Err(StoreError::Conflict(_)) => session.rollback().await,
                Err(error) => {
                    session.rollback().await;
                    return Err(error);
                }
            }
        }
        if !full {
            break;
        }
    }
    drop(session);
    if offered > 0 {
        store.hints.tell(store, None, vec![WakeHint::Ready]);
    }
    Ok(offered)
}

async fn offer(session: &mut Session, run: RunKey, build: &str) -> Result<bool> {
    let locks = lock::take(session, None, 0, LockSet::whole([run])).await?;
    let Some(was) = locks.runs.get(&run).filter(|was| was.state == RunState::Blocked).cloned() else { return Ok(false) };
    if build.starts_with(LAUNCH) {
        session.run(session.q(OFFERED_BEFORE).bind(run).bind(format!("{LAUNCH}%"))).await?;
    }
    if session.run(session.q(OFFER).bind(run).bind(build)).await? == 0 {
        return Ok(false);
    }
    make_ready(session, run, &was).await?;
    control::log(session, run, "offer", "engine", Some(build)).await?;
    Ok(true)
}
