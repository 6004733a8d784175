//! Requests on a run from outside its owner: cancel, and what timers ask for (deadline, expiry, end of the grace).

use std::collections::BTreeSet;

use sqlx::Row;
use uuid::Uuid;

use super::apply::{self, Work};
use super::changes::{self, AHEAD, Change, OutcomeRow, TimerKind};
use super::connect::Session;
use super::lock::{self, LockSet, Locked, Locks};
use super::rows::read;
use super::{PostgresStore, sites, starts, waits};
use crate::store::{BY_DEADLINE, CLOSE_AGAIN_MS, ControlVerdict, Due, EXPIRED, Ended, Payload, Result, RunKey, RunState, StoreError, WakeHint, cancelled_type};

/// Tries when the database rolls back for the sake of another.
const TRIES: u32 = 5;

#[derive(Clone, Copy)]
pub(super) enum Request<'a> {
    Cancel {
        by: &'a str,
        why: &'a str,
        grace_ms: i64,
    },
    /// Milliseconds for the clean-up of a run whose deadline has passed.
    Timer(TimerKind, i64),
}

enum Asked {
    Done(ControlVerdict, Vec<WakeHint>),
    /// These wait for the run and must be locked with it, in order.
    Again(BTreeSet<RunKey>),
}

pub(super) async fn cancel(store: &PostgresStore, run: RunKey, by: &str, why: &str, grace_ms: i64) -> Result<ControlVerdict> {
    let mut session = store.pool.session(&store.shared).await?;
    let (verdict, hints) = ask(&mut session, run, Request::Cancel { by, why, grace_ms }).await?;
    failpoint!("store.cancel.after");
    drop(session);
    store.hints.tell(store, None, hints);
    Ok(verdict)
}

/// A timer of this kind is due; false when it is not any more, or its run is busy.
pub(super) async fn timer(session: &mut Session, run: RunKey, kind: i16, grace_ms: i64, hints: &mut Vec<WakeHint>) -> Result<bool> {
    let kind = match kind {
        3 => TimerKind::Deadline,
        4 => TimerKind::Expiry,
        6 => TimerKind::CancelEnd,
        // A newer library's: not ours to judge.
        _ => return Ok(false),
    };
    match ask(session, run, Request::Timer(kind, grace_ms)).await {
        Ok((verdict, more)) => {
            hints.extend(more);
            Ok(matches!(verdict, ControlVerdict::Done | ControlVerdict::Requested))
        }
        Err(StoreError::Conflict(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

async fn ask(session: &mut Session, run: RunKey, request: Request<'_>) -> Result<(ControlVerdict, Vec<WakeHint>)> {
    let mut extra = BTreeSet::new();
    let mut tried = 0;
    loop {
        session.begin().await?;
        match once(session, run, request, &extra).await {
            Ok(Asked::Done(verdict, hints)) => {
                session.commit().await?;
                return Ok((verdict, hints));
            }
            Ok(Asked::Again(more)) => {
                session.rollback().await;
                extra.extend(more);
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

const TAKE_TIMER: &str = "delete from {s}.timer where run_id = $1 and kind = $2 and due_at <= statement_timestamp()";

async fn once(session: &mut Session, run: RunKey, request: Request<'_>, extra: &BTreeSet<RunKey>) -> Result<Asked> {
    let mut set = extra.clone();
    set.insert(run);
    let locks = lock::take(session, None, 0, LockSet::whole(set.iter().copied())).await?;
    if let Request::Timer(kind, _) = request {
        let taken = session.run(session.q(TAKE_TIMER).bind(run).bind(kind as i16)).await?;
        if taken == 0 {
            return Ok(Asked::Done(ControlVerdict::NotFound, Vec::new()));
        }
    }
    let Some(was) = locks.runs.get(&run).cloned() else { return Ok(Asked::Done(ControlVerdict::NotFound, Vec::new())) };
    if was.state.is_terminal() {
        return Ok(Asked::Done(ControlVerdict::NotPossible(was.state), Vec::new()));
    }
    match request {
        Request::Cancel { by, why, grace_ms } => cancel_held(session, &locks, &set, run, &was, by, why, grace_ms, CLOSE_AGAIN_MS).await,
        Request::Timer(TimerKind::Deadline, grace_ms) => {
            cancel_held(session, &locks, &set, run, &was, BY_DEADLINE, "its deadline has passed", grace_ms, 0).await
        }
        Request::Timer(TimerKind::Expiry, _) if was.state == RunState::Ready && was.epoch == 0 => {
            let why = "It had not started in time.";
            log(session, run, "cancel", "engine", Some(why)).await?;
            end(session, &locks, &set, run, &was, "engine", EXPIRED, why, 0).await
        }
        // Blocked while it was to clean up: nobody's code gets further, and the request still stands.
        Request::Timer(TimerKind::CancelEnd, _) if matches!(was.state, RunState::Cancelling | RunState::Blocked) => {
            let rows = session.rows(session.q(ASKED_BY).bind(run)).await?;
            let by = rows.first().map(|row| read(row.try_get::<Option<String>, _>(0))).transpose()?.flatten();
            // The error says what the owner would have written, had it come to it.
            let error_type = cancelled_type(by.as_deref().unwrap_or_default());
            let why = "The time for clean-up was over.";
            log(session, run, "cancel", "engine", Some(why)).await?;
            end(session, &locks, &set, run, &was, "engine", error_type, why, 0).await
        }
        Request::Timer(..) => Ok(Asked::Done(ControlVerdict::NotPossible(was.state), Vec::new())),
    }
}

const ASKED_BY: &str = "select cancel_by from {s}.run_note where run_id = $1";

/// The first request stands.
const NOTE_CANCEL: &str = "\
insert into {s}.run_note as x (run_id, cancel_by, cancel_why, cancel_at, cancel_until)
values ($1, $2, $3, statement_timestamp(), statement_timestamp() + $4 * interval '1 millisecond')
on conflict (run_id) do update set cancel_by = coalesce(x.cancel_by, excluded.cancel_by), cancel_why = coalesce(x.cancel_why, excluded.cancel_why),
  cancel_at = coalesce(x.cancel_at, excluded.cancel_at), cancel_until = coalesce(x.cancel_until, excluded.cancel_until)";

#[allow(clippy::too_many_arguments)]
async fn cancel_held(
    session: &mut Session,
    locks: &Locks,
    set: &BTreeSet<RunKey>,
    run: RunKey,
    was: &Locked,
    by: &str,
    why: &str,
    grace_ms: i64,
    close_ms: i64,
) -> Result<Asked> {
    if was.state == RunState::Cancelling {
        return Ok(Asked::Done(ControlVerdict::Requested, Vec::new()));
    }
    session.run(session.q(NOTE_CANCEL).bind(run).bind(by).bind(why).bind(grace_ms)).await?;
    log(session, run, "cancel", by, Some(why)).await?;
    if !was.state.cleans_up_at(was.epoch) {
        return end(session, locks, set, run, was, by, cancelled_type(by), why, close_ms).await;
    }
    let now = Locked { state: RunState::Cancelling, epoch: was.epoch + 1, inbox: was.inbox.wrapping_add(1), timed: true, ..was.clone() };
    changes::change(session, &[Change { run, now }]).await?;
    let mut hints: Vec<WakeHint> = was.owner.map(WakeHint::Inbox).into_iter().collect();
    if was.owner.is_none() {
        // Nobody has its code in memory: it is claimed ahead of new work and cleans up there.
        changes::unready(session, run).await?;
        changes::drop_timers(session, &[(run, None)]).await?;
        changes::make_ready(session, &[(run, was.route, was.priority.saturating_sub(AHEAD))]).await?;
        hints.push(WakeHint::Ready);
    }
    changes::set_timers(session, &[(run, TimerKind::CancelEnd, Due::After(grace_ms))]).await?;
    Ok(Asked::Done(ControlVerdict::Requested, hints))
}

/// End a held run as cancelled, whoever owns it. `close_ms`: when somebody else may take its children on; whoever asks by hand does it at once.
#[allow(clippy::too_many_arguments)]
async fn end(
    session: &mut Session,
    locks: &Locks,
    set: &BTreeSet<RunKey>,
    run: RunKey,
    was: &Locked,
    by: &str,
    error_type: &str,
    message: &str,
    close_ms: i64,
) -> Result<Asked> {
    if was.owner.is_none() {
        changes::unready(session, run).await?;
    }
    let value = crate::store::cancelled_value(by, message);
    let outcome = OutcomeRow {
        run,
        epoch: was.epoch + 1,
        state: RunState::Cancelled,
        token: 0,
        value: &value,
        error_type: Some(error_type),
        error_message: Some(message),
    };
    let waiters = changes::finish(session, None, std::slice::from_ref(&outcome), &[run], true).await?;
    let mut wakes = std::collections::HashMap::new();
    let mut unlocked = BTreeSet::new();
    for waiter in waiters.iter().filter(|waiter| waiter.run != run) {
        if set.contains(&waiter.run) {
            *wakes.entry(waiter.run).or_insert(0) += 1;
        } else {
            unlocked.insert(waiter.run);
        }
    }
    if !unlocked.is_empty() {
        return Ok(Asked::Again(unlocked));
    }
    let follows = follow(session, run, was.epoch + 1, &value).await?;
    let work = Work { outcomes: vec![outcome], parents: vec![(run, close_ms)], ..Work::default() };
    let mut hints = apply::settle(session, locks, &work, &mut [], wakes).await?;
    hints.push(WakeHint::Finished);
    // No engine ended it, so none looks for what its slot was kept from.
    hints.extend(was.slotted.then_some(WakeHint::Ready));
    hints.extend(was.owner.map(WakeHint::Inbox));
    hints.extend(follows.then_some(WakeHint::Ready));
    Ok(Asked::Done(ControlVerdict::Done, hints))
}

const OPTIONS: &str = "select i.workflow, i.root, i.trace_parent, i.options, i.namespace from {s}.run_info i where i.run_id = $1 and i.options is not null";

/// Start what is to follow this end, in its own commit. False: nothing is.
async fn follow(session: &mut Session, run: RunKey, epoch: i32, value: &Payload) -> Result<bool> {
    let rows = session.rows(session.q(OPTIONS).bind(run)).await?;
    let Some(row) = rows.first() else { return Ok(false) };
    let ended = Ended {
        run,
        epoch,
        state: RunState::Cancelled,
        value: value.clone(),
        workflow: read(row.try_get(0))?,
        root: read(row.try_get(1))?,
        trace_parent: read(row.try_get(2))?,
        options: read(row.try_get(3))?,
    };
    // Timers are fired by whoever comes by: its namespace need not be the run's.
    let namespace: String = read(row.try_get(4))?;
    let Some(next) = (session.shared.follow_up)(&namespace, &ended) else { return Ok(false) };
    sites::insert_routes(session, &namespace, std::slice::from_ref(&next.route)).await?;
    starts::insert_into(session, &namespace, &next).await?;
    Ok(true)
}

/// For a start that takes another's dedup key, in its transaction: the holder is held and not started.
pub(super) async fn cancel_unstarted(session: &mut Session, run: RunKey, by: &str, why: &str) -> Result<()> {
    let mut extra: BTreeSet<RunKey> = waits::waiting_for(session, &[run]).await?.into_iter().map(|waiter| waiter.run).collect();
    extra.insert(run);
    let locks = lock::take(session, None, 0, LockSet::whole(extra.iter().copied())).await?;
    if let Some(was) = locks.runs.get(&run).cloned() {
        let asked = cancel_held(session, &locks, &extra, run, &was, by, why, 0, 0).await?;
        if let Asked::Again(_) = asked {
            return Err(StoreError::Conflict("somebody began to wait for the run that holds the key".into()));
        }
    }
    Ok(())
}

const LOG: &str = "\
insert into {s}.control_log (run_id, at, action, actor, detail, id) values ($1, statement_timestamp(), $2, $3, $4, $5)";

pub(super) async fn log(session: &mut Session, run: RunKey, action: &str, actor: &str, detail: Option<&str>) -> Result<()> {
    let statement = session.q(LOG).bind(run).bind(action).bind(actor).bind(detail).bind(Uuid::now_v7());
    session.run(statement).await.map(|_| ())
}
