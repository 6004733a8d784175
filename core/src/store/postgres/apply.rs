//! A batch of several kinds as one transaction: lock, look (when something may have happened before), write, wake.

use std::collections::{BTreeSet, HashMap, HashSet};

use uuid::Uuid;

use super::changes::{AHEAD, Change, OutcomeRow, TimerKind};
use super::connect::Session;
use super::errors::is_duplicate;
use super::lock::{LockSet, Locked, Locks};
use super::sites::Sites;
use super::steps::{AttemptRow, StepRow};
use super::waits::WaitRow;
use super::{changes, children, dedup, effects, lock, steps, waits};
use crate::failpoint::mutated;
use crate::store::forget::By;
use crate::store::{
    CLOSE_AGAIN_MS, Due, Effect, NewMessage, NewRun, Parent, Payload, Position, Result, RunKey, RunState, StepRecord, Verdict, WaitKind, WakeHint, Write,
};

pub(super) struct Context<'a> {
    pub(super) sites: &'a Sites,
    pub(super) incarnation: Option<Uuid>,
    pub(super) lane: i16,
    pub(super) retry: bool,
}

pub(super) enum Applied {
    Done {
        verdicts: Vec<Verdict>,
        hints: Vec<WakeHint>,
        awaited: bool,
    },
    /// Nothing was kept. `careful`: look at what stands before writing; `extra`: lock these runs too.
    Again {
        careful: bool,
        extra: BTreeSet<RunKey>,
    },
}

/// Every run row the batch is known to touch.
fn lock_set(writes: &[Write]) -> LockSet {
    let mut set = LockSet::default();
    for write in writes {
        match write {
            Write::Start(_) => {}
            Write::Step { run, epoch, step } => {
                set.owned(*run, *epoch);
                set.extend(step.effects.iter().filter_map(|effect| match effect {
                    Effect::Send(message) => Some(message.to),
                    _ => None,
                }));
            }
            Write::Wait { run, epoch, target, kind, .. } => {
                set.owned(*run, *epoch);
                set.extend(target.filter(|_| matches!(kind, WaitKind::Event | WaitKind::Result)));
            }
            Write::Attempt { run, epoch, .. } | Write::Outcome { run, epoch, .. } => set.owned(*run, *epoch),
            Write::RetryRun { run, .. } | Write::Release { run, .. } | Write::GiveBack { run, .. } | Write::Block { run, .. } => set.extend([*run]),
            Write::Send(message) => set.extend([message.to]),
        }
    }
    set
}

/// Runs whose waiters a batch may wake.
pub(super) fn awaited(writes: &[Write]) -> Vec<RunKey> {
    let mut runs: Vec<RunKey> = writes
        .iter()
        .filter_map(|write| match write {
            Write::Outcome { run, .. } => Some(*run),
            Write::Step { run, step, .. } if step.effects.iter().any(|e| matches!(e, Effect::SetEvent { .. })) => Some(*run),
            _ => None,
        })
        .collect();
    runs.sort_unstable();
    runs.dedup();
    runs
}

/// What stood before this try, read after the locks: only a careful pass has it.
#[derive(Default)]
struct Before {
    steps: HashMap<(RunKey, Position), StepRecord>,
    attempts: HashSet<(RunKey, i64)>,
    outcomes: HashSet<(RunKey, i64)>,
}

impl Before {
    fn step(&self, run: RunKey, at: &Position) -> Option<&StepRecord> {
        // Nothing stands in the common case, and the key is not made for that.
        if self.steps.is_empty() { None } else { self.steps.get(&(run, at.clone())) }
    }
}

async fn look(session: &mut Session, sites: &Sites, writes: &[Write]) -> Result<Before> {
    let mut before = Before::default();
    let (mut positions, mut attempts, mut outcomes) = (Vec::new(), Vec::new(), Vec::new());
    for write in writes {
        match write {
            Write::Step { run, step, .. } => positions.push((*run, &step.at)),
            Write::Attempt { run, token, .. } | Write::RetryRun { run, token, .. } => attempts.push((*run, *token)),
            Write::Outcome { run, .. } => outcomes.push(*run),
            _ => {}
        }
    }
    if !positions.is_empty() {
        before.steps = steps::standing(session, sites, &positions).await?;
    }
    if !attempts.is_empty() {
        before.attempts = steps::attempts_recorded(session, &attempts).await?;
    }
    if !outcomes.is_empty() {
        before.outcomes = changes::outcomes_recorded(session, &outcomes).await?;
    }
    Ok(before)
}

/// Who leaves its owner in this batch, and how.
pub(super) enum Leave<'w> {
    Retry { after_ms: i64, error: &'w Payload },
    Release { inbox: i32, due: Option<Due> },
    GiveBack,
    Block { why: &'w str },
}

/// What passed the fence, by kind.
#[derive(Default)]
pub(super) struct Work<'w> {
    pub(super) steps: Vec<(usize, StepRow<'w>)>,
    pub(super) attempts: Vec<(usize, AttemptRow<'w>)>,
    pub(super) waits: Vec<(usize, WaitRow<'w>)>,
    pub(super) outcomes: Vec<OutcomeRow<'w>>,
    /// Of those, runs that may have children, and when somebody else may take these on.
    pub(super) parents: Vec<(RunKey, i64)>,
    pub(super) leaves: Vec<(usize, RunKey, Leave<'w>)>,
    pub(super) starts: Vec<&'w NewRun>,
    pub(super) children: Vec<(&'w Parent, RunKey, &'w Position)>,
    pub(super) messages: Vec<(Option<RunKey>, &'w NewMessage)>,
    pub(super) events: Vec<(RunKey, &'w str, &'w Payload)>,
    pub(super) consumed: Vec<(RunKey, Uuid, i32)>,
    pub(super) closed: Vec<(RunKey, &'w Position)>,
}

pub(super) async fn transaction(session: &mut Session, context: &Context<'_>, writes: &[Write], careful: bool, extra: &BTreeSet<RunKey>) -> Result<Applied> {
    session.begin().await?;
    let applied = within(session, context, writes, careful, extra).await;
    match &applied {
        Ok(Applied::Done { .. }) => {
            failpoint!("store.commit.written");
            session.commit().await?;
        }
        Ok(Applied::Again { .. }) | Err(_) => session.rollback().await,
    }
    match applied {
        // Something stands that a first try does not expect.
        Err(error) if !careful && is_duplicate(&error) => Ok(Applied::Again { careful: true, extra: extra.clone() }),
        applied => applied,
    }
}

async fn within(session: &mut Session, context: &Context<'_>, writes: &[Write], careful: bool, extra: &BTreeSet<RunKey>) -> Result<Applied> {
    let again = |careful| Ok(Applied::Again { careful, extra: extra.clone() });
    let mut set = lock_set(writes);
    set.extend(extra.iter().copied());
    let locks = lock::take(session, context.incarnation, context.lane, set).await?;
    failpoint!("store.commit.locked");
    let before = if careful { look(session, context.sites, writes).await? } else { Before::default() };

    let mut verdicts: Vec<Option<Verdict>> = vec![None; writes.len()];
    let mut work = Work::default();

    // Starts first: a step whose child cannot be started is not recorded.
    let mut planned: Vec<(usize, &NewRun)> = Vec::new();
    for (at, write) in writes.iter().enumerate() {
        match write {
            Write::Start(run) => planned.push((at, run)),
            Write::Step { run, epoch, step }
                if !step.effects.is_empty() && locks.owns(context.incarnation, run, *epoch) && before.step(*run, &step.at).is_none() =>
            {
                planned.extend(step.effects.iter().filter_map(|effect| match effect {
                    Effect::StartChild(child) => Some((at, &**child)),
                    _ => None,
                }));
            }
            Write::Outcome { run, epoch, then: Some(then), .. } if locks.owns(context.incarnation, run, *epoch) => planned.push((at, then)),
            _ => {}
        }
    }
    work.starts = planned.iter().map(|(_, run)| *run).collect();
    if !work.starts.is_empty() {
        let started = dedup::insert(session, context.incarnation, context.lane, &work.starts, !careful).await?;
        for ((at, planned), verdict) in planned.iter().zip(started) {
            // A child under an id of the user's own may exist. One whose dedup key another holds is not there: nobody may wait for it.
            let there = match &verdict {
                Verdict::Started { .. } => true,
                Verdict::Attached { run, .. } => *run == planned.key,
                _ => false,
            };
            match &writes[*at] {
                Write::Start(_) => verdicts[*at] = Some(verdict),
                Write::Step { .. } if !there => verdicts[*at] = Some(verdict),
                _ => {}
            }
        }
    }

    for (at, write) in writes.iter().enumerate() {
        if verdicts[at].is_some() {
            continue;
        }
        let verdict = admit(context, &locks, &before, &mut work, at, write);
        if matches!(verdict, Some(Verdict::Fenced)) && !careful {
            // It may be a repetition of what was done before; only a look can tell.
            return again(true);
        }
        verdicts[at] = verdict;
    }

    let incarnation = context.incarnation.unwrap_or_default();
    if !work.steps.is_empty() {
        let mut rows: Vec<StepRow> = work.steps.iter().map(|(_, row)| StepRow { ..*row }).collect();
        // Neighbours in the index go in together.
        rows.sort_by_key(|row| row.run);
        if steps::insert_held(session, incarnation, &rows, careful).await? < rows.len() as u64 {
            return again(true);
        }
    }
    for (_, run, leave) in &work.leaves {
        if let Leave::Retry { error, .. } = leave {
            // The next attempt goes on at the step that failed; its record would only fail the run again.
            let segment = locks.runs.get(run).map_or(0, |r| r.segment);
            super::resume::forget_failed(session, *run, segment, error.as_json(), By::Policy).await?;
        }
    }
    if !work.attempts.is_empty() {
        let rows: Vec<AttemptRow> = work.attempts.drain(..).map(|(_, row)| row).collect();
        if steps::insert_attempts(session, incarnation, &rows).await? < rows.len() as u64 {
            if !careful {
                return again(true);
            }
            // Another's attempt of the same number stands: this execution did not see it and must not go on.
            for (at, write) in writes.iter().enumerate() {
                if let Write::Attempt { run, token, .. } = write
                    && !before.attempts.contains(&(*run, *token))
                    && !steps::attempts_recorded(session, &[(*run, *token)]).await?.contains(&(*run, *token))
                {
                    verdicts[at] = Some(Verdict::Fenced);
                }
            }
        }
    }
    if !work.children.is_empty() {
        effects::adopt_children(session, &work.children).await?;
    }
    if !work.events.is_empty() {
        effects::publish(session, &work.events).await?;
    }
    if !work.consumed.is_empty() {
        effects::consume(session, &work.consumed).await?;
    }
    if !work.waits.is_empty() {
        let rows: Vec<&WaitRow> = work.waits.iter().map(|(_, row)| row).collect();
        let opened = waits::open(session, &rows).await?;
        for (at, row) in &work.waits {
            let due_in_ms = opened.get(&(row.run, row.at.clone())).copied().flatten();
            verdicts[*at] = Some(Verdict::Opened { due_in_ms });
        }
    }
    // Behind the opening: a race may be decided in the very batch that opens the wait that has lost it.
    if !work.closed.is_empty() {
        effects::close_waits(session, &work.closed).await?;
    }

    let mut wakes: HashMap<RunKey, i32> = HashMap::new();
    if !work.messages.is_empty() {
        for (run, _) in effects::send(session, &work.messages).await? {
            *wakes.entry(run).or_default() += 1;
        }
    }

    let published: HashSet<(RunKey, &str)> = work.events.iter().map(|(run, key, _)| (*run, *key)).collect();
    let finished: HashSet<RunKey> = work.outcomes.iter().map(|o| o.run).collect();
    let mut watched: Vec<RunKey> = finished.iter().copied().chain(published.iter().map(|(run, _)| *run)).collect();
    watched.sort_unstable();
    watched.dedup();
    let waiters = if !work.outcomes.is_empty() {
        changes::finish(session, context.incarnation, &work.outcomes, &watched, careful).await?
    } else if !watched.is_empty() {
        waits::waiting_for(session, &watched).await?
    } else {
        Vec::new()
    };
    let mut unlocked = BTreeSet::new();
    let mut was_awaited = false;
    for waiter in &waiters {
        // What a run that has ended did not publish never comes.
        let woken = finished.contains(&waiter.target) || published.contains(&(waiter.target, waiter.key.as_str()));
        if woken && !finished.contains(&waiter.run) {
            was_awaited = true;
            if locks.runs.contains_key(&waiter.run) || extra.contains(&waiter.run) {
                *wakes.entry(waiter.run).or_default() += 1;
            } else {
                unlocked.insert(waiter.run);
            }
        }
    }
    if !unlocked.is_empty() {
        // Never lock out of order: begin again with these in the set.
        unlocked.extend(extra);
        return Ok(Applied::Again { careful, extra: unlocked });
    }

    let hints = settle(session, &locks, &work, &mut verdicts, wakes).await?;
    let verdicts = verdicts.into_iter().map(|verdict| verdict.unwrap_or(Verdict::Committed)).collect();
    Ok(Applied::Done { verdicts, hints, awaited: was_awaited })
}

/// Decide one write by what is locked and what stood before. None: it goes into `work` and is committed.
fn admit<'w>(context: &Context<'_>, locks: &Locks, before: &Before, work: &mut Work<'w>, at: usize, write: &'w Write) -> Option<Verdict> {
    let owns = |run: &RunKey, epoch: i32| locks.owns(context.incarnation, run, epoch);
    match write {
        Write::Start(_) => None,
        Write::Step { run, epoch, step } => {
            match before.step(*run, &step.at) {
                Some(record) if record.token == step.token => return Some(Verdict::Committed),
                Some(record) if owns(run, *epoch) => return Some(Verdict::Adopt(Box::new(record.clone()))),
                _ if !owns(run, *epoch) => return Some(Verdict::Fenced),
                _ => {}
            }
            if step.effects.iter().any(|effect| matches!(effect, Effect::Send(message) if !locks.runs.contains_key(&message.to))) {
                return Some(Verdict::NotFound);
            }
            for effect in &step.effects {
                match effect {
                    Effect::Send(message) => work.messages.push((Some(*run), message)),
                    Effect::SetEvent { key, value } => work.events.push((*run, key, value)),
                    Effect::StartChild(child) => {
                        if let Some(parent) = &child.parent {
                            work.children.push((parent, child.key, &step.at));
                        }
                    }
                    Effect::Consume { message } => work.consumed.push((*run, *message, step.done)),
                    Effect::CloseWait => work.closed.push((*run, &step.at)),
                    Effect::CloseWaitOf(at) => work.closed.push((*run, at)),
                }
            }
            work.steps.push((at, StepRow { run: *run, epoch: *epoch, step }));
            None
        }
        Write::Attempt { run, epoch, at: position, attempt, started, site, token, error, retry_in_ms } => {
            if before.attempts.contains(&(*run, *token)) {
                return Some(Verdict::Committed);
            }
            if !owns(run, *epoch) {
                return Some(Verdict::Fenced);
            }
            work.attempts.push((
                at,
                AttemptRow {
                    run: *run,
                    epoch: *epoch,
                    at: position.clone(),
                    attempt: *attempt,
                    started: *started,
                    site: site.id,
                    token: *token,
                    error,
                    retry_in_ms: *retry_in_ms,
                },
            ));
            None
        }
        Write::Wait { run, epoch, at: position, kind, due, target, key, site } => {
            if !owns(run, *epoch) {
                return Some(Verdict::Fenced);
            }
            if matches!(kind, WaitKind::Event | WaitKind::Result) && target.is_none_or(|target| !locks.runs.contains_key(&target)) {
                return Some(Verdict::NotFound);
            }
            work.waits.push((at, WaitRow { run: *run, at: position, kind: *kind, due: *due, target: *target, key, site: site.id }));
            None
        }
        Write::Outcome { run, epoch, state, token, value, error_type, error_message, children, .. } => {
            if before.outcomes.contains(&(*run, *token)) {
                return Some(Verdict::Committed);
            }
            if !owns(run, *epoch) {
                return Some(Verdict::Fenced);
            }
            if *children {
                work.parents.push((*run, CLOSE_AGAIN_MS));
            }
            work.outcomes.push(OutcomeRow {
                run: *run,
                epoch: *epoch,
                state: *state,
                token: *token,
                value,
                error_type: error_type.as_deref(),
                error_message: error_message.as_deref(),
            });
            None
        }
        Write::RetryRun { run, epoch, after_ms, attempt, token, error } => {
            if before.attempts.contains(&(*run, *token)) {
                return Some(Verdict::Committed);
            }
            if !owns(run, *epoch) {
                return Some(Verdict::Fenced);
            }
            let segment = locks.runs.get(run).map_or(0, |r| r.segment);
            let position = Position { segment, branch: "".into(), seq: -1 };
            work.attempts.push((
                at,
                AttemptRow {
                    run: *run,
                    epoch: *epoch,
                    at: position,
                    attempt: *attempt,
                    started: false,
                    site: 0,
                    token: *token,
                    error,
                    retry_in_ms: Some(*after_ms),
                },
            ));
            work.leaves.push((at, *run, Leave::Retry { after_ms: *after_ms, error }));
            None
        }
        Write::Release { run, epoch, inbox, due } => leave(context, locks, work, at, *run, *epoch, Leave::Release { inbox: *inbox, due: *due }),
        Write::GiveBack { run, epoch } => leave(context, locks, work, at, *run, *epoch, Leave::GiveBack),
        Write::Block { run, epoch, why } => leave(context, locks, work, at, *run, *epoch, Leave::Block { why }),
        Write::Send(message) => {
            if !locks.runs.contains_key(&message.to) {
                return Some(Verdict::NotFound);
            }
            work.messages.push((None, message));
            None
        }
    }
}

fn leave<'w>(context: &Context<'_>, locks: &Locks, work: &mut Work<'w>, at: usize, run: RunKey, epoch: i32, leave: Leave<'w>) -> Option<Verdict> {
    if locks.owns(context.incarnation, &run, epoch) {
        work.leaves.push((at, run, leave));
        return None;
    }
    // These rows have no token: after an unknown outcome the row itself says whether an earlier try went through.
    let done = context.retry
        && locks.runs.get(&run).is_some_and(|now| {
            now.owner.is_none()
                && match leave {
                    Leave::Release { .. } => {
                        (now.state == RunState::Waiting && now.epoch == epoch + 1) || (now.state == RunState::Ready && now.epoch == epoch + 2)
                    }
                    Leave::GiveBack => matches!(now.state, RunState::Ready | RunState::Cancelling) && now.epoch == epoch + 1,
                    Leave::Block { .. } => now.state == RunState::Blocked && now.epoch == epoch + 1,
                    Leave::Retry { .. } => false,
                }
        });
    Some(if done { Verdict::Committed } else { Verdict::Fenced })
}

/// Change every run row once: those that leave their owner, those that are woken.
pub(super) async fn settle(
    session: &mut Session,
    locks: &Locks,
    work: &Work<'_>,
    verdicts: &mut [Option<Verdict>],
    mut wakes: HashMap<RunKey, i32>,
) -> Result<Vec<WakeHint>> {
    let mut next: Vec<Change> = Vec::new();
    let (mut ready, mut set_timers, mut drop_timers) = (Vec::new(), Vec::new(), Vec::new());
    let (mut slots, mut keys, mut blocks) = (Vec::new(), Vec::new(), Vec::new());
    let mut hints: Vec<WakeHint> = Vec::new();
    let held = |run: &RunKey| locks.runs.get(run).cloned();

    for outcome in &work.outcomes {
        wakes.remove(&outcome.run);
        let Some(was) = held(&outcome.run) else { continue };
        if was.slotted {
            slots.push((outcome.run, true));
        }
        if was.timed {
            drop_timers.push((outcome.run, None));
        }
        if was.keyed {
            keys.push(outcome.run);
        }
    }

    for (at, run, leave) in &work.leaves {
        let Some(was) = held(run) else { continue };
        let woken = wakes.remove(run).unwrap_or(0);
        let mut now = Locked { inbox: was.inbox + woken, ..was.clone() };
        let released = match leave {
            Leave::Release { inbox, .. } => (*inbox == now.inbox || mutated("inbox")) && was.state == RunState::Running,
            _ => true,
        };
        if !released {
            verdicts[*at] = Some(Verdict::Changed { inbox: now.inbox });
            if woken > 0 {
                next.push(Change { run: *run, now });
                hints.extend(was.owner.map(WakeHint::Inbox));
            }
            continue;
        }
        now.owner = None;
        now.epoch += 1;
        if was.slotted {
            slots.push((*run, matches!(leave, Leave::Block { .. })));
        }
        match leave {
            Leave::Release { due, .. } => {
                now.state = RunState::Waiting;
                if let Some(due) = due {
                    now.timed = true;
                    set_timers.push((*run, TimerKind::Wake, *due));
                }
            }
            Leave::Retry { after_ms, .. } => {
                now.run_attempt = now.run_attempt.saturating_add(1);
                if was.state == RunState::Cancelling || *after_ms <= 0 {
                    ready.push((*run, was.route, was.priority.saturating_sub(AHEAD)));
                } else {
                    now.timed = true;
                    set_timers.push((*run, TimerKind::Retry, Due::After(*after_ms)));
                }
                now.state = back(was.state);
            }
            Leave::GiveBack => {
                now.state = back(was.state);
                ready.push((*run, was.route, was.priority.saturating_sub(AHEAD)));
                hints.push(WakeHint::ReadyOn(was.route));
            }
            Leave::Block { why } => {
                now.state = RunState::Blocked;
                blocks.push((*run, *why));
            }
        }
        next.push(Change { run: *run, now });
    }

    for (run, count) in wakes {
        let Some(was) = held(&run) else { continue };
        let mut now = Locked { inbox: was.inbox.wrapping_add(count), ..was.clone() };
        if was.state == RunState::Waiting {
            now.state = RunState::Ready;
            now.epoch += 1;
            ready.push((run, was.route, was.priority.saturating_sub(AHEAD)));
            if was.timed {
                drop_timers.push((run, Some(TimerKind::Wake)));
            }
            hints.push(WakeHint::ReadyOn(was.route));
        } else {
            hints.extend(was.owner.map(WakeHint::Inbox));
        }
        next.push(Change { run, now });
    }

    if !slots.is_empty() {
        let freed = changes::free_slots(session, &slots).await?;
        // Of an end the engine tells; of what is only put back nobody else knows.
        if work.leaves.iter().any(|(_, run, _)| freed.contains(run)) {
            hints.push(WakeHint::Ready);
        }
        for change in &mut next {
            change.now.slotted &= !freed.contains(&change.run);
        }
    }
    if !keys.is_empty() {
        changes::free_keys(session, &keys).await?;
    }
    if !blocks.is_empty() {
        changes::note_blocks(session, &blocks).await?;
    }
    if !next.is_empty() {
        changes::change(session, &next).await?;
    }
    if !drop_timers.is_empty() {
        changes::drop_timers(session, &drop_timers).await?;
    }
    if !set_timers.is_empty() {
        changes::set_timers(session, &set_timers).await?;
    }
    if !work.parents.is_empty() {
        children::leave(session, &work.parents).await?;
    }
    if !ready.is_empty() {
        changes::make_ready(session, &ready).await?;
    }
    Ok(hints)
}

/// A run that goes back to be claimed keeps a cancel that was asked for.
fn back(state: RunState) -> RunState {
    if state == RunState::Cancelling { RunState::Cancelling } else { RunState::Ready }
}
