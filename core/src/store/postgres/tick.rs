//! Housekeeping: one round trip when nothing is due, more only for what is.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use sqlx::Row;
use uuid::Uuid;

use super::changes::{self, AHEAD, Change, TimerKind};
use super::connect::{Session, Shared};
use super::lock::Locked;
use super::rows::{read, state};
use super::{PostgresStore, children, control, lease, orphans};
use crate::failpoint::mutated;
use crate::store::{Peer, Result, RunKey, RunState, StoreError, TickReport, TickRequest, WakeHint};

/// $5: routes to look at, $6: created before so many milliseconds ago. The head of a route is what is claimed next: while it is young, somebody
/// is at work there; 0 is any age, whatever the clock says. A sub-select a route, so that the length of a backlog is no matter.
macro_rules! somebody_waits {
    ($routes:literal, $older:literal) => {
        concat!(
            "exists (select 1 from unnest(",
            $routes,
            "::bigint[]) as u(route) cross join lateral (
          select y.ord from {s}.ready y where y.route = u.route order by y.route, y.priority, y.ord limit 1) h
        where ",
            $older,
            "::bigint = 0 or h.ord <= (extract(epoch from statement_timestamp()) * 1000000)::bigint - ",
            $older,
            "::bigint * 1000)"
        )
    };
}

macro_rules! beat {
    () => {
        "b as (
  update {s}.worker set lease_until = statement_timestamp() + $2 * interval '1 millisecond' where incarnation = $1 returning 1)"
    };
}

/// The lock a worker's tick session holds for as long as it lives. A hint, as the process's pid is on one host: where sessions do not hold, nobody
/// takes it, and the lease alone decides.
macro_rules! alive {
    ($incarnation:literal) => {
        concat!("hashtextextended('everstep ' || ", $incarnation, "::text, 0)")
    };
}

macro_rules! look {
    ($swept:literal) => {
        concat!(
            "
select $1::uuid is null or exists (select 1 from b),
       (select count(*) from {s}.worker w where w.lease_until < statement_timestamp() and w.incarnation is distinct from $1),
       (select (extract(epoch from min(w.lease_until) - statement_timestamp()) * 1000)::bigint from {s}.worker w
        where w.incarnation is distinct from $1),
       exists (select 1 from {s}.dead_worker d where not d.drained)",
            $swept,
            ",
       (select (extract(epoch from t.due_at - statement_timestamp()) * 1000)::bigint from {s}.timer t order by t.due_at limit 1),
       (select coalesce(sum(q.version), 0)::bigint from {s}.queue q where q.namespace = $3),
       (select coalesce(json_agg(json_build_array(w.incarnation, w.boot_id, w.pid_namespace, w.pid, w.process_start))::text, '[]')
        from {s}.worker w where w.boot_id = $4 and w.incarnation is distinct from $1),
       (select (extract(epoch from max(w.lease_until) - statement_timestamp()) * 1000)::bigint from {s}.worker w
        where w.incarnation is distinct from $1 and w.namespace = $3 and w.lease_until > statement_timestamp()),
       ",
            somebody_waits!("$5", "$6"),
            ",
       case when $1::uuid is not null and exists (select 1 from {s}.lease l where l.incarnation = $1 and l.lane = -2) then pg_try_advisory_lock(",
            alive!("$1"),
            ") end,
       (select coalesce(json_agg(json_build_array(w.incarnation, (extract(epoch from w.lease_until - statement_timestamp()) * 1000)::bigint))::text, '[]')
        from {s}.worker w
        where case when w.incarnation is distinct from $1 and w.started_at < statement_timestamp() - interval '2 seconds'
                        and exists (select 1 from {s}.lease l where l.incarnation = w.incarnation and l.lane = -2 offset 0)
                   then pg_try_advisory_xact_lock_shared(",
            alive!("w.incarnation"),
            ") else false end)"
        )
    };
}

const LOOK: &str = concat!("with ", beat!(), look!(""));

/// The look and the sweep in one statement: an idle process says nothing twice.
const LOOK_AND_SWEEP: &str =
    concat!("with recursive ", orphans::owners!(), ",\nswept as (", orphans::sweep_owners!(), "),\n", beat!(), look!(" or exists (select 1 from swept)"));

const ANYTHING_READY: &str = concat!("select ", somebody_waits!("$1", "$2"));

pub(super) async fn anything_ready(store: &PostgresStore, routes: &[i64], older_than_ms: i64) -> Result<bool> {
    let mut session = store.claim.session(&store.shared).await?;
    let rows = session.rows(session.q(ANYTHING_READY).bind(routes).bind(older_than_ms)).await?;
    rows.first().map_or(Ok(false), |row| read(row.try_get(0)))
}

const LET_GO: &str = "select pg_advisory_unlock_all()";

const SWEEP_EVERY: Duration = Duration::from_secs(60);
/// Without a lease nothing was owned here that a lossy failover could have left behind; others may have.
const SWEEP_IDLE: Duration = Duration::from_secs(600);

/// Longer than a hint and a claim take: what waits so long was overlooked, or nobody has room for it.
const OVERLOOKED_MS: i64 = 1000;

/// A timer whose run is locked is tried again after this.
const LOCKED_TIMER_MS: i64 = 50;

pub(super) async fn tick(store: &PostgresStore, request: &TickRequest) -> Result<TickReport> {
    let report = look(store, request).await;
    if report.is_err() {
        // It may be another database that answers next.
        *store.swept.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = None;
    }
    report
}

/// A worker's look is a beat, too. What it finds to do, and a sweep, may take their time: the engine beats beside them.
fn deadline(shared: &Shared, leased: bool, sweeps: bool) -> Duration {
    if leased && !sweeps { shared.beat_timeout } else { shared.timeout }
}

async fn look(store: &PostgresStore, request: &TickRequest) -> Result<TickReport> {
    let grace = if mutated("outage_grace") { i64::MAX / 2 } else { request.lease_ms / 2 };
    let patience = Instant::now() + Duration::from_millis(grace.clamp(0, 86_400_000) as u64);
    let mut session = store.tick.session(&store.shared).await?;
    let sweeps = sweep_due(store, request.incarnation.is_some());
    session.within = deadline(&store.shared, request.incarnation.is_some(), sweeps);
    let before = std::mem::replace(&mut *store.lives.lock().unwrap_or_else(std::sync::PoisonError::into_inner), request.incarnation);
    if before.is_some() && before != request.incarnation && !store.shared.pooled() {
        // A lock an incarnation would fill the server's lock table in the course of days: a worker takes a lease whenever it has something to do.
        session.rows(session.q(LET_GO)).await?;
    }
    let statement = session
        .q(if sweeps { LOOK_AND_SWEEP } else { LOOK })
        .bind(request.incarnation)
        .bind(request.lease_ms)
        .bind(store.shared.namespace.as_str())
        .bind(request.boot_id.as_str())
        .bind(request.routes.as_slice())
        .bind(OVERLOOKED_MS);
    let rows = session.rows(statement).await?;
    session.within = store.shared.timeout;
    let Some(row) = rows.first() else { return Ok(TickReport::default()) };
    let (expired, left_behind): (i64, bool) = (read(row.try_get(1))?, read(row.try_get(3))?);
    let due: Option<i64> = read(row.try_get(4))?;
    let peers: String = read(row.try_get(6))?;
    let mut report = TickReport {
        alive: read(row.try_get(0))?,
        queue_version: read(row.try_get(5))?,
        next_lease_ms: read(row.try_get::<Option<i64>, _>(2))?.map(|ms| ms.max(0)),
        next_timer_ms: due,
        peers: parse_peers(&peers)?,
        others_ms: read(row.try_get(7))?,
        overlooked: read(row.try_get(8))?,
        ..TickReport::default()
    };

    let may_reap = request.may_reap || mutated("outage_grace");
    let mut gone = Vec::new();
    for (incarnation, left) in parse_gone(&read::<String>(row.try_get(10))?)? {
        // When it last beat, if its lease is as long as ours; if it is longer, its end decides.
        let wait = request.silent_ms - (request.lease_ms - left);
        match wait {
            ..=0 => gone.push(incarnation),
            _ => report.next_lease_ms = report.next_lease_ms.map(|ms| ms.min(wait)),
        }
    }
    if ((expired > 0 || !gone.is_empty()) && may_reap) || !request.known_dead.is_empty() {
        let dead = lease::Dead { may_reap, known: &request.known_dead, gone: &gone, gone_left_ms: request.lease_ms - request.silent_ms };
        report.reaped = lease::reap(&mut session, request.incarnation, &dead, patience).await?;
    }
    store.queues_are_at(report.queue_version).await;
    if left_behind || !report.reaped.is_empty() {
        report.orphans = orphans::of_all(&mut session, request.page, request.max_crashes).await?;
    }
    if report.orphans > 0 {
        // A suspect among them has got a timer instead.
        report.next_timer_ms = next_timer(&mut session).await?;
    }
    let mut hints = Vec::new();
    if due.is_some_and(|ms| ms <= 0) {
        let (fired, full) = fire(&mut session, request, &mut hints, &mut report.closing).await?;
        report.timers = fired;
        report.more = full;
        report.next_timer_ms = next_timer(&mut session).await?.map(|ms| ms.max(LOCKED_TIMER_MS));
    }
    report.more |= report.orphans >= request.page || report.timers >= request.page;
    report.ready = report.orphans > 0 || hints.iter().any(|hint| matches!(hint, WakeHint::Ready | WakeHint::ReadyOn(_)));
    if report.orphans > 0 {
        hints.push(WakeHint::Ready);
    }
    drop(session);
    store.hints.tell(store, request.incarnation, hints);
    Ok(report)
}

/// Once in a while, and at the first tick: a database may have been restored while nobody looked.
fn sweep_due(store: &PostgresStore, leased: bool) -> bool {
    let every = if leased { SWEEP_EVERY } else { SWEEP_IDLE };
    let mut last = store.swept.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let due = last.is_none_or(|at: Instant| at.elapsed() >= every);
    if due {
        *last = Some(Instant::now());
    }
    due
}

fn unreadable(what: String) -> StoreError {
    StoreError::Rejected { sqlstate: "XX000".into(), message: format!("cannot read the workers: {what}") }
}

/// Workers whose session has ended, with the milliseconds their lease has left.
fn parse_gone(text: &str) -> Result<Vec<(Uuid, i64)>> {
    let rows: Vec<(String, i64)> = serde_json::from_str(text).map_err(|error| unreadable(error.to_string()))?;
    rows.into_iter().map(|(incarnation, left)| Ok((Uuid::parse_str(&incarnation).map_err(|error| unreadable(error.to_string()))?, left))).collect()
}

fn parse_peers(text: &str) -> Result<Vec<Peer>> {
    let rows: Vec<(String, String, String, i32, i64)> = serde_json::from_str(text).map_err(|error| unreadable(error.to_string()))?;
    rows.into_iter()
        .map(|(incarnation, boot_id, pid_namespace, pid, process_start)| {
            let incarnation = Uuid::parse_str(&incarnation).map_err(|error| unreadable(error.to_string()))?;
            Ok(Peer { incarnation, boot_id, pid_namespace, pid, process_start })
        })
        .collect()
}

const NEXT: &str = "select (extract(epoch from t.due_at - statement_timestamp()) * 1000)::bigint from {s}.timer t order by t.due_at limit 1";

async fn next_timer(session: &mut Session) -> Result<Option<i64>> {
    let rows = session.rows(session.q(NEXT)).await?;
    rows.first().map(|row| read(row.try_get(0))).transpose()
}

const DUE: &str = "select t.run_id, t.kind from {s}.timer t where t.due_at <= statement_timestamp() order by t.due_at limit $1";

/// Runs first, then their timers, as everybody locks; a run that is busy is left for the next tick.
const LOCK_DUE: &str = "\
select r.id, r.owner, r.epoch, r.state, r.inbox, r.route, r.priority, r.slotted, r.timed, r.keyed, r.run_attempt, r.segment
from unnest($1::uuid[]) as u(id)
cross join lateral (select * from {s}.run r where r.id = u.id for no key update skip locked offset 0) r";

const TAKE_DUE: &str = "\
delete from {s}.timer x
using unnest($1::uuid[], $2::smallint[]) as u(id, kind),
      lateral (select t.ctid as c from {s}.timer t where t.run_id = u.id and t.kind = u.kind and t.due_at <= statement_timestamp() offset 0) l
where x.ctid = l.c returning x.run_id, x.kind";

/// Timers of runs that are gone.
const ORPHANED: &str = "\
delete from {s}.timer x
using unnest($1::uuid[], $2::smallint[]) as u(id, kind)
where x.run_id = u.id and x.kind = u.kind and not exists (select 1 from {s}.run r where r.id = u.id offset 0)";

async fn fire(session: &mut Session, request: &TickRequest, hints: &mut Vec<WakeHint>, closing: &mut Vec<RunKey>) -> Result<(i64, bool)> {
    let rows = session.rows(session.q(DUE).bind(request.page)).await?;
    let full = rows.len() as i64 >= request.page;
    let (mut simple, mut ends) = (BTreeSet::<(RunKey, i16)>::new(), Vec::<(RunKey, i16)>::new());
    for row in &rows {
        let due = (read(row.try_get(0))?, read(row.try_get(1))?);
        if [TimerKind::Wake as i16, TimerKind::Start as i16, TimerKind::Retry as i16].contains(&due.1) {
            simple.insert(due);
        } else {
            ends.push(due);
        }
    }
    let mut fired = 0;
    if !simple.is_empty() {
        session.begin().await?;
        match wake_due(session, &simple, hints).await {
            Ok(count) => {
                session.commit().await?;
                failpoint!("store.timers.after");
                fired += count;
            }
            Err(error) => {
                session.rollback().await;
                return Err(error);
            }
        }
    }
    for (run, kind) in ends {
        if kind == TimerKind::CloseChildren as i16 {
            if children::take(session, run).await? {
                closing.push(run);
            }
            continue;
        }
        if control::timer(session, run, kind, request.cancel_grace_ms, hints).await? {
            fired += 1;
        }
    }
    Ok((fired, full))
}

async fn wake_due(session: &mut Session, due: &BTreeSet<(RunKey, i16)>, hints: &mut Vec<WakeHint>) -> Result<i64> {
    let ids: Vec<RunKey> = due.iter().map(|(run, _)| *run).collect::<BTreeSet<_>>().into_iter().collect();
    let mut held = std::collections::HashMap::new();
    for row in session.rows(session.q(LOCK_DUE).bind(&ids)).await? {
        let key: RunKey = read(row.try_get(0))?;
        held.insert(key, locked(&row)?);
    }
    let (runs, kinds): (Vec<RunKey>, Vec<i16>) = due.iter().filter(|(run, _)| held.contains_key(run)).copied().unzip();
    let mut taken: Vec<(RunKey, i16)> = Vec::new();
    if !runs.is_empty() {
        for row in session.rows(session.q(TAKE_DUE).bind(&runs).bind(&kinds)).await? {
            taken.push((read(row.try_get(0))?, read(row.try_get(1))?));
        }
    }
    if held.len() < ids.len() {
        let (runs, kinds): (Vec<RunKey>, Vec<i16>) = due.iter().filter(|(run, _)| !held.contains_key(run)).copied().unzip();
        session.run(session.q(ORPHANED).bind(&runs).bind(&kinds)).await?;
    }
    let (mut ready, mut next): (Vec<(RunKey, i64, i32)>, Vec<Change>) = (Vec::new(), Vec::new());
    for (run, kind) in &taken {
        let Some(was) = held.get(run) else { continue };
        if *kind == TimerKind::Wake as i16 {
            if was.state == RunState::Waiting {
                let now = Locked { state: RunState::Ready, epoch: was.epoch + 1, inbox: was.inbox.wrapping_add(1), ..was.clone() };
                next.push(Change { run: *run, now });
                ready.push((*run, was.route, was.priority.saturating_sub(AHEAD)));
            }
        } else if was.owner.is_none() && was.state == RunState::Ready {
            let ahead = if *kind == TimerKind::Retry as i16 { AHEAD } else { 0 };
            ready.push((*run, was.route, was.priority.saturating_sub(ahead)));
        }
    }
    if !next.is_empty() {
        changes::change(session, &next).await?;
    }
    if !ready.is_empty() {
        changes::make_ready(session, &ready).await?;
        hints.extend(ready.iter().map(|(_, route, _)| *route).collect::<BTreeSet<i64>>().into_iter().map(WakeHint::ReadyOn));
    }
    Ok(taken.len() as i64)
}

fn locked(row: &sqlx::postgres::PgRow) -> Result<Locked> {
    Ok(Locked {
        owner: read(row.try_get(1))?,
        epoch: read(row.try_get(2))?,
        state: state(read(row.try_get(3))?)?,
        inbox: read(row.try_get(4))?,
        route: read(row.try_get(5))?,
        priority: read(row.try_get(6))?,
        slotted: read(row.try_get(7))?,
        timed: read(row.try_get(8))?,
        keyed: read(row.try_get(9))?,
        run_attempt: read(row.try_get(10))?,
        segment: read(row.try_get(11))?,
    })
}

#[cfg(test)]
mod tests {
    use super::super::by_hand::server;
    use super::*;

    #[tokio::test]
    async fn only_a_look_that_keeps_a_lease_has_the_deadline_of_a_beat() {
        let shared = Shared::new(&server(&[]).await).expect("the URL is good");
        let within = |leased, sweeps| deadline(&shared, leased, sweeps).as_millis();
        assert_eq!([within(true, false), within(true, true), within(false, false), within(false, true)], [150, 60_000, 60_000, 60_000]);
    }
}
