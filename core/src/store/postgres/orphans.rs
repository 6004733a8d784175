//! Runs of dead workers go back to be claimed, in sorted pages. What counts as a crash is decided here and nowhere else.

use sqlx::Row;
use uuid::Uuid;

use super::changes::{self, AHEAD, TimerKind};
use super::connect::Session;
use super::rows::{read, small, state};
use crate::failpoint::mutated;
use crate::store::{Due, Result, RunKey, RunState};

/// Rows recorded are counted under the run's lock: what the dead process committed last is in.
const LOCK_PAGE: &str = "\
select r.id, r.epoch, r.state, r.route, r.priority, r.slotted, r.timed, r.crashes, r.crash_mark,
       (select count(*) from {s}.step s where s.run_id = r.id offset 0) + (select count(*) from {s}.attempt a where a.run_id = r.id offset 0)
from {s}.run r where r.owner = $1 order by r.owner, r.id limit $2 for no key update of r skip locked";

const HAND_OVER: &str = "\
update {s}.run x
set owner = null, epoch = x.epoch + 1, state = u.state, slotted = u.slotted, timed = u.timed, crashes = u.crashes, crash_mark = u.mark
from unnest($1::uuid[], $2::smallint[], $3::bool[], $4::bool[], $5::smallint[], $6::int[]) as u(id, state, slotted, timed, crashes, mark),
     lateral (select r.ctid as c from {s}.run r where r.id = u.id offset 0) l
where x.ctid = l.c";

struct Orphan {
    run: RunKey,
    state: RunState,
    route: i64,
    priority: i32,
    slotted: bool,
    timed: bool,
    crashes: i16,
    mark: i32,
}

/// One page of one dead worker's runs, in a transaction of its own; how many it moved.
pub(super) async fn of_one(session: &mut Session, dead: Uuid, graceful: bool, page: i64, max_crashes: i32) -> Result<i64> {
    session.begin().await?;
    match hand_over(session, dead, graceful, page, max_crashes).await {
        Ok(moved) => {
            session.commit().await?;
            failpoint!("store.orphans.after");
            Ok(moved)
        }
        Err(error) => {
            session.rollback().await;
            Err(error)
        }
    }
}

async fn hand_over(session: &mut Session, dead: Uuid, graceful: bool, page: i64, max_crashes: i32) -> Result<i64> {
    let mut orphans = Vec::new();
    for row in session.rows(session.q(LOCK_PAGE).bind(dead).bind(page)).await? {
        let (crashes, mark, recorded): (i16, i32, i64) = (read(row.try_get(7))?, read(row.try_get(8))?, read(row.try_get(9))?);
        let recorded = i32::try_from(recorded).unwrap_or(i32::MAX);
        // Only a takeover without a row recorded since the one before adds up: a long run that is hit now and then is no poison.
        let crashes = match graceful {
            true => crashes,
            false if recorded > mark && !mutated("crash_mark") => 1,
            false => crashes.saturating_add(1),
        };
        orphans.push(Orphan {
            run: read(row.try_get(0))?,
            state: state(read(row.try_get(2))?)?,
            route: read(row.try_get(3))?,
            priority: read(row.try_get(4))?,
            slotted: read(row.try_get(5))?,
            timed: read(row.try_get(6))?,
            crashes,
            mark: if graceful { mark } else { recorded },
        });
    }
    if orphans.is_empty() {
        return Ok(0);
    }
    let (mut ready, mut timers, mut blocks, mut slots) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for orphan in &mut orphans {
        let poisoned = !graceful && i32::from(orphan.crashes) >= max_crashes;
        if orphan.slotted {
            slots.push((orphan.run, poisoned));
        }
        if poisoned {
            orphan.state = RunState::Blocked;
            blocks.push((orphan.run, orphan.crashes));
            continue;
        }
        if orphan.state != RunState::Cancelling {
            orphan.state = RunState::Ready;
        }
        if !graceful && orphan.crashes >= 2 && orphan.state == RunState::Ready {
            // A suspect waits longer each time, so that it cannot take down one worker after another.
            let seconds = 1i64 << orphan.crashes.clamp(1, 10);
            timers.push((orphan.run, TimerKind::Retry, Due::After(seconds * 1000)));
            orphan.timed = true;
        } else {
            ready.push((orphan.run, orphan.route, orphan.priority.saturating_sub(AHEAD)));
        }
    }
    if !slots.is_empty() {
        let freed = changes::free_slots(session, &slots).await?;
        for orphan in &mut orphans {
            orphan.slotted &= !freed.contains(&orphan.run);
        }
    }
    let statement = session
        .q(HAND_OVER)
        .bind(orphans.iter().map(|o| o.run).collect::<Vec<_>>())
        .bind(orphans.iter().map(|o| o.state as i16).collect::<Vec<_>>())
        .bind(orphans.iter().map(|o| o.slotted).collect::<Vec<_>>())
        .bind(orphans.iter().map(|o| o.timed).collect::<Vec<_>>())
        .bind(orphans.iter().map(|o| small(o.crashes.into())).collect::<Vec<_>>())
        .bind(orphans.iter().map(|o| o.mark).collect::<Vec<_>>());
    session.run(statement).await?;
    if !timers.is_empty() {
        changes::set_timers(session, &timers).await?;
    }
    if !ready.is_empty() {
        changes::make_ready(session, &ready).await?;
    }
    if !blocks.is_empty() {
        let why: Vec<(RunKey, String)> = blocks
            .iter()
            .map(|(run, crashes)| {
                let message = format!("The process that ran it died {crashes} times with nothing recorded in between.");
                (*run, serde_json::json!({ "code": "poisoned", "message": message }).to_string())
            })
            .collect();
        let notes: Vec<(RunKey, &str)> = why.iter().map(|(run, why)| (*run, why.as_str())).collect();
        changes::note_blocks(session, &notes).await?;
    }
    Ok(orphans.len() as i64)
}

const OPEN: &str = "select d.incarnation, d.graceful from {s}.dead_worker d where not d.drained order by d.incarnation limit 32";

/// Drained only when no run at all is left in its name, locked or not.
const DRAINED: &str = "\
update {s}.dead_worker d set drained = true
where d.incarnation = $1 and not exists (select 1 from {s}.run r where r.owner = $1 offset 0)";

/// Up to a page of runs of any dead workers.
pub(super) async fn of_all(session: &mut Session, page: i64, max_crashes: i32) -> Result<i64> {
    let mut moved = 0;
    let rows = session.rows(session.q(OPEN)).await?;
    for row in &rows {
        if moved >= page {
            break;
        }
        let (dead, graceful): (Uuid, bool) = (read(row.try_get(0))?, read(row.try_get(1))?);
        let now = of_one(session, dead, graceful, page - moved, max_crashes).await?;
        moved += now;
        if moved < page {
            session.run(session.q(DRAINED).bind(dead)).await?;
        }
    }
    Ok(moved)
}

/// The owners of runs, each once, by skipping from one to the next; the caller opens with `with recursive`.
macro_rules! owners {
    () => {
        "owners as (
    (select r.owner from {s}.run r where r.owner is not null order by r.owner limit 1)
    union all
    select (select r.owner from {s}.run r where r.owner > o.owner and r.owner is not null order by r.owner limit 1) from owners o where o.owner is not null)"
    };
}
pub(super) use owners;

/// Owners that are neither alive nor known dead: what a lossy failover leaves behind.
macro_rules! sweep_owners {
    () => {
        "
insert into {s}.dead_worker (incarnation, at, txid, pid, host, build)
select o.owner, statement_timestamp(), pg_current_xact_id()::text::bigint, 0, '', '' from (select owner from owners where owner is not null) o
where not exists (select 1 from {s}.worker w where w.incarnation = o.owner offset 0)
on conflict (incarnation) do update set drained = false where dead_worker.drained returning 1"
    };
}
pub(super) use sweep_owners;
